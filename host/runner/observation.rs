//! What became of requests, for those who count.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::answer::{Answer, RunError, Source};
use super::under_way::Progress;
use crate::slice::Scope;

/// How many answers came from where since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub runs: u64,
    pub from_memory: u64,
    pub from_store: u64,
}

/// One request, at its end.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// `transcode`, `inference` or `module`.
    pub workload: &'static str,
    /// From when it was asked until there is an answer, all waiting included.
    pub duration: Duration,
    pub result: Result<&'a Answer, &'a RunError>,
}

/// What one request has used of this node, at its end or when its caller left.
#[derive(Clone, Copy, Debug)]
pub struct Usage<'a> {
    pub scope: &'a Scope,
    /// Gas that a guest was granted; 0 where none was run for this request.
    pub gas: u64,
    /// Bytes of the slice that were read and hashed.
    pub bytes: u64,
}

type Observer = Box<dyn Fn(&Observation<'_>) + Send + Sync>;
type UsageObserver = Box<dyn Fn(&Usage<'_>) + Send + Sync>;

#[derive(Default)]
pub struct Tally {
    runs: AtomicU64,
    from_memory: AtomicU64,
    from_store: AtomicU64,
    observer: OnceLock<Observer>,
    usage_observer: OnceLock<UsageObserver>,
}

/// Tells of the usage of a request when it is dropped.
pub struct Metered<'a> {
    pub tally: &'a Tally,
    pub scope: Scope,
    pub progress: &'a Progress,
}

impl Drop for Metered<'_> {
    fn drop(&mut self) {
        let (gas, bytes) = (self.progress.gas_granted(), self.progress.bytes_read());
        if let Some(observer) = self.tally.usage_observer.get() {
            observer(&Usage { scope: &self.scope, gas, bytes });
        }
    }
}

impl Tally {
    pub fn count(&self, source: Source) {
        let counter = match source {
            Source::Run => &self.runs,
            Source::Memory => &self.from_memory,
            Source::Store => &self.from_store,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { runs: count(&self.runs), from_memory: count(&self.from_memory), from_store: count(&self.from_store) }
    }

    pub fn observe(&self, observer: impl Fn(&Observation<'_>) + Send + Sync + 'static) {
        // Whoever came first is told already.
        let _ = self.observer.set(Box::new(observer));
    }

    pub fn observe_usage(&self, observer: impl Fn(&Usage<'_>) + Send + Sync + 'static) {
        let _ = self.usage_observer.set(Box::new(observer));
    }

    pub fn tell(&self, observation: &Observation<'_>) {
        if let Some(observer) = self.observer.get() {
            observer(observation);
        }
    }
}
