//! Returns freed memory to the system. The C library keeps freed memory below a block that is in
//! use; after a flood of requests that can be most of the process's memory.

use std::time::Duration;

/// Interval between checks of the memory.
const EVERY: Duration = Duration::from_secs(15);

/// Growth that triggers a trim: this and a quarter above the size at the start. A trim walks
/// through the heaps, which takes milliseconds.
const MORE_BYTES: u64 = 16 << 20;

/// Trims the heaps at intervals when the process has grown, until `stopping` resolves.
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
            // A runtime that shuts down starts no thread for this, and does not need it.
            let _ = tokio::task::spawn_blocking(trim).await;
        }
    }
}

/// Returns the memory of this process that is in RAM, from `proc(5)`: the second number of `statm`,
/// in pages.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes the allocator's own locks and no pointer, and returns only pages in
    // which nothing is in use.
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
