//! List of active runs: at most one entry for each guest thread, so reading the list is always
//! cheap.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::request::RunRequest;
use crate::digest::Digest;
use crate::slice::{SliceId, Tenant};

/// Resources that one run has used so far. All clones share the same counters. The gas stays 0 if
/// another caller's run or an earlier run provides the answer.
#[derive(Clone, Debug, Default)]
pub struct RunProgress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    gas_granted: Arc<AtomicU64>,
    bytes_read: AtomicU64,
}

impl RunProgress {
    /// Returns the gas granted to the guest: whole quanta, except for the last.
    pub fn gas_granted(&self) -> u64 {
        self.0.gas_granted.load(Ordering::Relaxed)
    }

    /// Returns the bytes of the slice that were hashed before the guest began.
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

/// Snapshot of one active run.
#[derive(Clone, Debug)]
pub struct ActiveRun {
    pub scope: Tenant,
    /// If the caller gave no id, it is known only after the slice is hashed.
    pub id: Option<SliceId>,
    pub workload: &'static str,
    pub module: Digest,
    pub since: SystemTime,
    pub gas_max: u64,
    pub gas_granted: u64,
    pub input_bytes: u64,
    pub bytes_read: u64,
}

/// The active runs. The lock is held for a few loads and stores, three times per run.
#[derive(Default)]
pub struct ActiveRuns(Arc<Mutex<RunSlots>>);

#[derive(Default)]
struct RunSlots {
    runs: Vec<Option<RunEntry>>,
    free: Vec<usize>,
    /// Gas of runs that have ended. The gas of active runs is added when it is read, so no run
    /// counts twice.
    gas_granted: u64,
    bytes_read: u64,
}

struct RunEntry {
    shown: ActiveRun,
    progress: RunProgress,
}

impl ActiveRuns {
    /// Adds an entry for `request`. The drop of the returned guard removes it.
    pub fn begin(&self, request: &RunRequest, progress: &RunProgress) -> ActiveRunGuard {
        let shown = ActiveRun {
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
        let run = Some(RunEntry { shown, progress: progress.clone() });
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
        ActiveRunGuard { slots: self.0.clone(), slot, progress: progress.clone() }
    }

    pub fn running(&self) -> Vec<ActiveRun> {
        let slots = lock(&self.0);
        let runs = slots.runs.iter().flatten();
        runs.map(|run| {
            let (gas_granted, bytes_read) = (run.progress.gas_granted(), run.progress.bytes_read());
            ActiveRun { gas_granted, bytes_read, ..run.shown.clone() }
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

fn lock(slots: &Mutex<RunSlots>) -> MutexGuard<'_, RunSlots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Guard of an entry in the list of active runs.
pub struct ActiveRunGuard {
    slots: Arc<Mutex<RunSlots>>,
    slot: usize,
    progress: RunProgress,
}

impl ActiveRunGuard {
    pub const fn progress(&self) -> &RunProgress {
        &self.progress
    }

    /// Sets the id, which is known once the slice is hashed.
    pub fn identify(&self, id: &SliceId) {
        if let Some(run) = &mut lock(&self.slots).runs[self.slot] {
            run.shown.id = Some(id.clone());
        }
    }
}

impl Drop for ActiveRunGuard {
    fn drop(&mut self) {
        let mut slots = lock(&self.slots);
        if let Some(run) = slots.runs[self.slot].take() {
            slots.gas_granted += run.progress.gas_granted();
            slots.bytes_read += run.progress.bytes_read();
            slots.free.push(self.slot);
        }
    }
}
