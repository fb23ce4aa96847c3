//! Threads that can run guests: their stack is as large as the meter assumes. On any other thread,
//! a guest that calls deeply would overflow the stack before its own count of it is spent.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::Builder;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::engine::NATIVE_STACK_BYTES;

/// Stack for the guest's frames, and for the host's frames below and above them. It is address
/// space: a page uses memory only once it is touched.
const THREAD_STACK_BYTES: usize = NATIVE_STACK_BYTES + (4 << 20);

/// Added to the nice value of threads and processes that run a stranger's code or compile it
/// (`nice(2)`): at 5 the scheduler gives them a third of the weight of a thread at 0.
const NICE: i32 = 5;

/// Lowers the priority of the calling thread for as long as it lives, so that the threads that
/// answer requests need not wait for a core on which a guest runs. On Linux a nice value belongs to
/// a thread.
pub fn lower_priority() {
    // If this fails, the thread only competes more for the cores.
    let _ = rustix::process::nice(NICE);
}

thread_local! {
    static CAN_RUN_GUESTS: Cell<bool> = const { Cell::new(false) };
}

type Work = Box<dyn FnOnce() + Send>;

/// A pool with a fixed number of threads, each of which runs queued work.
///
/// Neither rayon's nor tokio's threads are suitable. While a rayon thread waits for another pool's
/// work (hashing), it begins another piece of its own work, on the same stack. The size of tokio's
/// stacks is chosen by the owner of the runtime. Waking a tokio thread for each piece of work takes
/// 28 us a slice under load; here it takes 11 (`benches/overhead.rs`).
pub struct GuestThreads {
    /// Queue of work. It is as long as there are callers, each of whom submits one piece.
    work: Sender<Work>,
}

impl GuestThreads {
    pub fn start(count: u32) -> io::Result<Self> {
        let (work, waiting) = unbounded::<Work>();
        for index in 0..count {
            let waiting: Receiver<Work> = waiting.clone();
            let thread = Builder::new().name(format!("guest-{index}")).stack_size(THREAD_STACK_BYTES);
            thread.spawn(move || {
                CAN_RUN_GUESTS.set(true);
                lower_priority();
                for work in waiting {
                    // The panic hook has reported the panic. The caller notices it because no
                    // result arrives.
                    let _ = catch_unwind(AssertUnwindSafe(work));
                }
            })?;
        }
        Ok(Self { work })
    }

    /// Queues `work`.
    pub fn submit(&self, work: impl FnOnce() + Send + 'static) {
        // Sending cannot fail while the threads live, and they live as long as `self`.
        let _ = self.work.send(Box::new(work));
    }
}

/// Runs `work` on a thread that can run guests: on this one if it can, else on a new one.
pub fn with_guest_stack<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if CAN_RUN_GUESTS.get() {
        return Ok(work());
    }
    std::thread::scope(|scope| {
        let thread = Builder::new().stack_size(THREAD_STACK_BYTES).spawn_scoped(scope, || {
            CAN_RUN_GUESTS.set(true);
            work()
        })?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn no_more_work_is_done_at_once_than_there_are_threads_and_a_panic_ends_none() {
        let threads = GuestThreads::start(2).unwrap();
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut done = Vec::new();
        for i in 0..200 {
            let (now, most) = (now.clone(), most.clone());
            let (sender, receiver) = channel();
            done.push(receiver);
            threads.submit(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
                assert!(i % 50 != 7, "as the test wants it");
                sender.send(()).unwrap();
            });
        }
        assert_eq!(done.into_iter().filter(|done| done.recv().is_err()).count(), 4);
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }

    #[test]
    fn guests_have_a_lower_priority_than_their_caller() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let (sender, receiver) = channel();
        GuestThreads::start(1).unwrap().submit(move || sender.send(nice()).unwrap());
        assert_eq!(receiver.recv().unwrap(), (nice() + NICE).min(19));
    }

    #[test]
    fn work_that_needs_the_stack_has_it_wherever_it_is_begun() {
        fn deep(levels: usize) -> usize {
            let frame = std::hint::black_box([levels as u8; 1 << 20]);
            if levels == 0 { 0 } else { deep(levels - 1) + usize::from(frame[0] == levels as u8) }
        }
        // Each frame of an unoptimised build holds the mebibyte more than once.
        assert_eq!(with_guest_stack(|| deep(50)).unwrap(), 50);
        let inside = with_guest_stack(|| with_guest_stack(|| deep(50)).unwrap()).unwrap();
        assert_eq!(inside, 50);
    }
}
