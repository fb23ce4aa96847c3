//! Observation of requests, for metrics and usage accounts.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::answer::{Answer, RunError, Source};
use super::under_way::Progress;
use crate::slice::Scope;

/// Number of answers since the start, by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub runs: u64,
    pub from_memory: u64,
    pub from_store: u64,
}

/// One finished request.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// `transcode`, `inference` or `module`.
    pub workload: &'static str,
    /// Time from the request to its answer, including all waiting.
    pub duration: Duration,
    pub result: Result<&'a Answer, &'a RunError>,
}

/// Resources of this node that one request used, when it ended or its caller left.
#[derive(Clone, Copy, Debug)]
pub struct Usage<'a> {
    pub scope: &'a Scope,
    /// Gas granted to a guest; 0 if no guest ran for this request.
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

/// Guard that reports the usage of a request when it is dropped.
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
        // Ignored: the first observer stays.
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
