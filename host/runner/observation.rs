//! Observation of requests, for metrics and usage accounts.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::active_runs::RunProgress;
use super::answer::{CacheSource, RunAnswer, RunError};
use crate::slice::Tenant;

/// Number of answers since the start, by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounts {
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
    pub result: Result<&'a RunAnswer, &'a RunError>,
}

/// Resources of this node that one request used, when it ended or its caller left.
#[derive(Clone, Copy, Debug)]
pub struct RequestUsage<'a> {
    pub scope: &'a Tenant,
    /// Gas granted to a guest; 0 if no guest ran for this request.
    pub gas: u64,
    /// Bytes of the slice that were read and hashed.
    pub bytes: u64,
}

type RunObserver = Box<dyn Fn(&Observation<'_>) + Send + Sync>;
type UsageObserver = Box<dyn Fn(&RequestUsage<'_>) + Send + Sync>;

#[derive(Default)]
pub struct AnswerCounts {
    runs: AtomicU64,
    from_memory: AtomicU64,
    from_store: AtomicU64,
    observer: OnceLock<RunObserver>,
    usage_observer: OnceLock<UsageObserver>,
}

/// Guard that reports the usage of a request when it is dropped.
pub struct Metered<'a> {
    pub tally: &'a AnswerCounts,
    pub scope: Tenant,
    pub progress: &'a RunProgress,
}

impl Drop for Metered<'_> {
    fn drop(&mut self) {
        let (gas, bytes) = (self.progress.gas_granted(), self.progress.bytes_read());
        if let Some(observer) = self.tally.usage_observer.get() {
            observer(&RequestUsage { scope: &self.scope, gas, bytes });
        }
    }
}

impl AnswerCounts {
    pub fn count(&self, source: CacheSource) {
        let counter = match source {
            CacheSource::Run => &self.runs,
            CacheSource::Memory => &self.from_memory,
            CacheSource::Store => &self.from_store,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> SourceCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SourceCounts {
            runs: count(&self.runs),
            from_memory: count(&self.from_memory),
            from_store: count(&self.from_store),
        }
    }

    pub fn observe(&self, observer: impl Fn(&Observation<'_>) + Send + Sync + 'static) {
        // Ignored: the first observer stays.
        let _ = self.observer.set(Box::new(observer));
    }

    pub fn observe_usage(&self, observer: impl Fn(&RequestUsage<'_>) + Send + Sync + 'static) {
        let _ = self.usage_observer.set(Box::new(observer));
    }

    pub fn tell(&self, observation: &Observation<'_>) {
        if let Some(observer) = self.observer.get() {
            observer(observation);
        }
    }
}
