//! What runs now: as many entries as there are threads for guests, so that anybody may look at them at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::request::Request;
use crate::digest::Digest;
use crate::slice::{Scope, SliceId};

/// What one run has used so far, for whoever watches it. All clones are one. The gas stays at 0 where another caller's run or
/// an earlier one gives the answer.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    gas_granted: Arc<AtomicU64>,
    bytes_read: AtomicU64,
}

impl Progress {
    /// Gas that the guest was granted, in whole quanta but for the last.
    pub fn gas_granted(&self) -> u64 {
        self.0.gas_granted.load(Ordering::Relaxed)
    }

    /// Bytes of the slice that were hashed before the guest began.
    pub fn bytes_read(&self) -> u64 {
        self.0.bytes_read.load(Ordering::Relaxed)
    }

    pub(super) fn gas_counter(&self) -> Arc<AtomicU64> {
        self.0.gas_granted.clone()
    }

    pub(super) fn bytes_counter(&self) -> &AtomicU64 {
        &self.0.bytes_read
    }

    fn begin(&self) {
        self.0.gas_granted.store(0, Ordering::Relaxed);
        self.0.bytes_read.store(0, Ordering::Relaxed);
    }
}

/// One that runs, as it was when it was looked at.
#[derive(Clone, Debug)]
pub struct Running {
    pub scope: Scope,
    /// Of a slice that was given none it is known once the slice is hashed.
    pub id: Option<SliceId>,
    pub workload: &'static str,
    pub module: Digest,
    pub since: SystemTime,
    pub gas_max: u64,
    pub gas_granted: u64,
    pub input_bytes: u64,
    pub bytes_read: u64,
}

/// Its lock is held for some loads and stores, three times a run.
#[derive(Default)]
pub struct UnderWay(Arc<Mutex<Slots>>);

#[derive(Default)]
struct Slots {
    runs: Vec<Option<Run>>,
    free: Vec<usize>,
    /// By runs that have ended. What still runs is added to it when it is asked for, so no run counts for two.
    gas_granted: u64,
    bytes_read: u64,
}

struct Run {
    shown: Running,
    progress: Progress,
}

impl UnderWay {
    /// Shows what `request` asks for as running, until what is returned is dropped.
    pub fn begin(&self, request: &Request, progress: &Progress) -> Shown {
        let shown = Running {
            scope: request.scope.clone(),
            id: request.id.clone(),
            workload: request.workload.name(),
            module: request.workload.digest(),
            since: SystemTime::now(),
            gas_max: request.limits.gas,
            gas_granted: 0,
            input_bytes: request.slice.bytes(),
            bytes_read: 0,
        };
        let run = Some(Run { shown, progress: progress.clone() });
        let mut slots = lock(&self.0);
        progress.begin();
        let slot = match slots.free.pop() {
            Some(slot) => {
                slots.runs[slot] = run;
                slot
            }
            None => {
                slots.runs.push(run);
                slots.runs.len() - 1
            }
        };
        drop(slots);
        Shown { slots: self.0.clone(), slot, progress: progress.clone() }
    }

    pub fn running(&self) -> Vec<Running> {
        let slots = lock(&self.0);
        let runs = slots.runs.iter().flatten();
        runs.map(|run| {
            let (gas_granted, bytes_read) = (run.progress.gas_granted(), run.progress.bytes_read());
            Running { gas_granted, bytes_read, ..run.shown.clone() }
        })
        .collect()
    }

    pub fn gas_granted(&self) -> u64 {
        let slots = lock(&self.0);
        slots.gas_granted + slots.runs.iter().flatten().map(|run| run.progress.gas_granted()).sum::<u64>()
    }

    pub fn bytes_read(&self) -> u64 {
        let slots = lock(&self.0);
        slots.bytes_read + slots.runs.iter().flatten().map(|run| run.progress.bytes_read()).sum::<u64>()
    }
}

fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run that is shown, until it is dropped.
pub struct Shown {
    slots: Arc<Mutex<Slots>>,
    slot: usize,
    progress: Progress,
}

impl Shown {
    pub const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The slice is hashed, so its id is known.
    pub fn identify(&self, id: &SliceId) {
        if let Some(run) = &mut lock(&self.slots).runs[self.slot] {
            run.shown.id = Some(id.clone());
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut slots = lock(&self.slots);
        if let Some(run) = slots.runs[self.slot].take() {
            slots.gas_granted += run.progress.gas_granted();
            slots.bytes_read += run.progress.bytes_read();
            slots.free.push(self.slot);
        }
    }
}
