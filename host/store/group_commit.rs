//! Group commit: concurrent callers share one flush. A caller that arrives during a flush waits for
//! the next one.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub struct GroupCommit<T> {
    /// The group that callers join now. Its first caller computes the value for the whole group.
    next: Mutex<Arc<OnceLock<T>>>,
    /// Locked during a commit.
    turn: Mutex<()>,
}

impl<T> Default for GroupCommit<T> {
    fn default() -> Self {
        Self { next: Mutex::default(), turn: Mutex::default() }
    }
}

impl<T: Clone> GroupCommit<T> {
    /// Returns the result of a `commit` that began after this call: the caller's own commit, or
    /// that of an earlier caller of the same group.
    pub fn join(&self, commit: impl FnOnce() -> T) -> T {
        let group = lock(&self.next).clone();
        // All callers of a group wait for its one value. With a plain mutex, callers whose commit
        // is done would queue behind callers of the next group.
        let done = group.get_or_init(|| {
            let _turn = lock(&self.turn);
            // Later callers join a new group, because this commit may not include their changes.
            *lock(&self.next) = Arc::default();
            commit()
        });
        done.clone()
    }
}

/// Locks a mutex despite poisoning: its value stays valid after a panic of the lock holder.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// Each caller increments the counter before it joins, so the value it gets includes its own
    /// increment.
    #[test]
    fn what_is_told_has_begun_after_it_was_asked_for() {
        let (group, written) = (GroupCommit::<u64>::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let mine = 1 + written.fetch_add(1, Ordering::SeqCst);
                        let told = group.join(|| written.load(Ordering::SeqCst));
                        assert!(told >= mine, "{told} for {mine}");
                    }
                });
            }
        });
    }

    #[test]
    fn those_who_ask_while_it_is_done_share_the_next() {
        let (group, commits) = (GroupCommit::<u64>::default(), AtomicU64::new(0));
        let (began, has_begun) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                group.join(move || {
                    began.send(()).unwrap();
                    goes_on.recv().unwrap();
                    0
                })
            });
            has_begun.recv().unwrap();
            let ask = || group.join(|| 1 + commits.fetch_add(1, Ordering::SeqCst));
            let others: Vec<_> = (0..10).map(|_| scope.spawn(ask)).collect();
            // Ten threads and the lock hold a reference to the next group.
            while Arc::strong_count(&lock(&group.next)) < 11 {
                std::thread::yield_now();
            }
            go_on.send(()).unwrap();
            assert_eq!(first.join().unwrap(), 0);
            assert!(others.into_iter().all(|other| other.join().unwrap() == 1));
        });
        assert_eq!(commits.into_inner(), 1, "ten asked, and it was done once");
    }
}
