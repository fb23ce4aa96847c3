//! Work that waits for its turn, and the blocking threads that take it up: a bounded number, each for as long as there is
//! work.
//!
//! A permit and a `spawn_blocking` for each piece would do the same, but puts a thread to sleep and wakes another for each:
//! 28 us a slice under load where this takes 11 (`benches/overhead.rs`).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Work = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub struct Lanes(Arc<Inner>);

struct Inner {
    open_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// As long as there are callers, each of whom brings one piece; one that has left is passed over in its turn.
    waiting: VecDeque<Work>,
    /// Threads that are at work.
    open: usize,
}

impl Lanes {
    pub fn new(open_max: usize) -> Self {
        Self(Arc::new(Inner { open_max, state: Mutex::default() }))
    }

    /// Has `work` done in its turn, on a thread of the current tokio runtime that may block.
    pub fn submit(&self, work: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        state.waiting.push_back(Box::new(work));
        if state.open < self.0.open_max {
            state.open += 1;
            drop(state);
            let lane = Lane { lanes: self.0.clone(), closed: false };
            drop(tokio::task::spawn_blocking(move || lane.drain()));
        }
    }
}

/// A thread that is at work, or about to be.
struct Lane {
    lanes: Arc<Inner>,
    closed: bool,
}

impl Lane {
    fn drain(mut self) {
        while let Some(work) = self.next() {
            // A panic has been reported by its hook, and its caller hears of it by hearing nothing. The lane goes on.
            let _ = catch_unwind(AssertUnwindSafe(work));
        }
    }

    fn next(&mut self) -> Option<Work> {
        let mut state = self.lanes.lock();
        let work = state.waiting.pop_front();
        if work.is_none() {
            state.open -= 1;
            self.closed = true;
        }
        work
    }
}

impl Drop for Lane {
    /// A runtime that shuts down drops lanes that it has not started: then nobody is there for what waits.
    fn drop(&mut self) {
        if !self.closed {
            let mut state = self.lanes.lock();
            state.open -= 1;
            let lost = if state.open == 0 { std::mem::take(&mut state.waiting) } else { VecDeque::new() };
            drop(state);
            drop(lost);
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_lane_that_is_never_started_leaves_nobody_waiting() {
        let lanes = Lanes::new(1);
        let (sender, receiver) = oneshot::channel();
        *lanes.0.lock() =
            State { waiting: VecDeque::from([Box::new(move || sender.send(()).unwrap()) as Work]), open: 1 };
        drop(Lane { lanes: lanes.0.clone(), closed: false });
        assert!(receiver.blocking_recv().is_err());
        assert_eq!(lanes.0.lock().open, 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_more_lanes_are_open_than_may_be_and_a_panic_closes_none() {
        let lanes = Lanes::new(2);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut done = Vec::new();
        for i in 0..200 {
            let (now, most) = (now.clone(), most.clone());
            let (sender, receiver) = oneshot::channel();
            done.push(receiver);
            lanes.submit(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
                assert!(i % 50 != 7, "as the test wants it");
                sender.send(()).unwrap();
            });
        }
        let mut lost = 0;
        for receiver in done {
            lost += usize::from(receiver.await.is_err());
        }
        assert_eq!(lost, 4);
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }
}
