//! Threads that can run guests: their stack is as large as the meter assumes. On any other thread,
//! a guest that calls deeply would overflow the stack before its own count of it is spent.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::Builder;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::engine::NATIVE_STACK_BYTES;
use super::priority;

/// Stack for the guest's frames, and for the host's frames below and above them. It is address
/// space: a page uses memory only once it is touched.
const THREAD_STACK_BYTES: usize = NATIVE_STACK_BYTES + (4 << 20);

thread_local! {
    static CAN_RUN_GUESTS: Cell<bool> = const { Cell::new(false) };
}

type GuestWork = Box<dyn FnOnce() + Send>;

/// A pool with a fixed number of threads, each of which runs queued work.
///
/// Neither rayon's nor tokio's threads are suitable. While a rayon thread waits for another pool's
/// work (hashing), it begins another piece of its own work, on the same stack. The size of tokio's
/// stacks is chosen by the owner of the runtime. Waking a tokio thread for each piece of work takes
/// 28 us a slice under load; here it takes 11 (`benches/overhead.rs`).
pub struct GuestThreads {
    /// Queue of work. It is as long as there are callers, each of whom submits one piece.
    work: Sender<GuestWork>,
}

/// A request of a guest thread for a thread in its place.
struct Replace {
    index: u32,
    starter: Sender<Replace>,
    is_replaced: Sender<bool>,
}

impl GuestThreads {
    pub fn start(count: u32) -> io::Result<Self> {
        let (work, waiting) = unbounded::<GuestWork>();
        let (starter, requests) = unbounded::<Replace>();
        for index in 0..count {
            start_thread(index, waiting.clone(), starter.clone())?;
        }
        if count == 0 {
            return Ok(Self { work });
        }
        // A thread inherits the nice value of the thread that starts it. So a thread that runs no
        // guest starts the replacements. It ends after the last guest thread.
        Builder::new().name("guest-starter".to_owned()).spawn(move || {
            for Replace { index, starter, is_replaced } in requests {
                let _ = is_replaced.send(start_thread(index, waiting.clone(), starter).is_ok());
            }
        })?;
        Ok(Self { work })
    }

    /// Queues `work`.
    pub fn submit(&self, work: impl FnOnce() + Send + 'static) {
        // Sending cannot fail while the threads live, and they live as long as `self`.
        let _ = self.work.send(Box::new(work));
    }
}

fn start_thread(index: u32, waiting: Receiver<GuestWork>, starter: Sender<Replace>) -> io::Result<()> {
    let thread = Builder::new().name(format!("guest-{index}")).stack_size(THREAD_STACK_BYTES);
    thread.spawn(move || {
        CAN_RUN_GUESTS.set(true);
        priority::lower_pool_thread();
        for work in waiting {
            // The panic hook has reported the panic. The caller notices it because no result
            // arrives.
            let _ = catch_unwind(AssertUnwindSafe(work));
            // A thread cannot raise its priority again, so another thread takes its place.
            if priority::had_long_run() && is_replaced(index, &starter) {
                break;
            }
        }
    })?;
    Ok(())
}

/// Starts another thread in the place of the calling thread. Returns whether it runs.
fn is_replaced(index: u32, starter: &Sender<Replace>) -> bool {
    let (is_replaced, answer) = bounded(1);
    starter.send(Replace { index, starter: starter.clone(), is_replaced }).is_ok() && answer.recv() == Ok(true)
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
    use crate::sandbox::gas_meter::{GasMeter, RunControl};
    use crate::sandbox::meter::{MeterState, QUANTUM};

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
    fn a_long_run_lowers_its_own_priority_and_not_the_next_runs() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let charge = |quanta: u64| {
            let mut gas_meter = GasMeter::new(u64::MAX, RunControl::default(), None);
            for _ in 0..quanta {
                gas_meter.charge(MeterState::BEGIN, QUANTUM).unwrap();
            }
        };
        let threads = GuestThreads::start(1).unwrap();
        let of_a_run = |is_long: bool| {
            let (sender, receiver) = channel();
            threads.submit(move || {
                charge(if is_long { 100 } else { 1 });
                sender.send(nice()).unwrap();
            });
            receiver.recv().unwrap()
        };
        let own = nice();
        let [short, long, other_long, next] = [false, true, true, false].map(of_a_run);
        assert!(own < short && short < long, "{own} {short} {long}");
        assert_eq!((other_long, next), (long, short));
        charge(100);
        assert_eq!(nice(), own, "only threads of a pool lower their priority");
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
