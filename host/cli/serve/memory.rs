//! Memory that was freed is given back to the system. The C library keeps what lies below something that is in use, and
//! after a flood of requests that can be most of what the process has.

use std::time::Duration;

/// How often the process looks at what it has.
const EVERY: Duration = Duration::from_secs(15);

/// More than at the start, by this and a quarter, is worth the walk through the heaps, which takes milliseconds.
const MORE_BYTES: u64 = 16 << 20;

/// Gives memory back now and then, until `stopping` resolves.
pub async fn give_back(stopping: impl Future<Output = ()>) {
    let mut stopping = std::pin::pin!(stopping);
    let Some(at_first) = resident_bytes() else { return };
    let much = at_first + at_first / 4 + MORE_BYTES;
    loop {
        tokio::select! {
            () = &mut stopping => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if resident_bytes().is_some_and(|bytes| bytes > much) {
            // A runtime that ends has no thread for it, and no need of it.
            let _ = tokio::task::spawn_blocking(trim).await;
        }
    }
}

/// Memory of this process that is in RAM, as `proc(5)` has it: the second number of `statm`, in pages.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks and no pointer, and gives back only pages in which nothing is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_is_freed_below_something_in_use_is_given_back() {
        const BLOCK_BYTES: usize = 64 << 10;
        let flood: Vec<Vec<u8>> = (0..2_000).map(|_| vec![1; BLOCK_BYTES]).collect();
        let kept = vec![1_u8; BLOCK_BYTES];
        let in_flood = resident_bytes().unwrap();
        drop(flood);
        trim();
        let after = resident_bytes().unwrap();
        let most = (1_000 * BLOCK_BYTES) as u64;
        assert!(after + most < in_flood, "{after} of {in_flood} bytes, with {} in use", kept.len());
    }
}
