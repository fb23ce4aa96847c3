//! `Queue`: runs each accepted slice to an end. An accepted task is on disk before its id is
//! returned. A task that had not ended when the process died starts again at the next start. If the
//! task had already run, the proof store provides the answer.

mod fair_queue;
mod retry;
mod upload;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use self::fair_queue::FairQueue;
pub use self::upload::{QueueError, TaskRequest, TaskUpload};
use crate::runner::{RunProgress, WorkloadRunner};
use crate::slice::Tenant;
use crate::store::{
    OpenedTasks, QueueLimits, StoreError, TaskId, TaskInfo, TaskOutcome, TaskOutput, TaskStore, WaitingTask,
};

/// Active tasks for each guest thread. While one task runs, the outcome of another is written to
/// disk.
const UNDER_WAY_PER_JOB: usize = 2;

/// Settings of the queue, including its limits.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub quota: QueueLimits,
    /// Maximum bytes of a slice.
    pub slice_bytes_max: u64,
    /// Number of guests that the runner runs at once.
    pub jobs: usize,
    /// Additional guests for scopes that run nothing.
    pub spare_jobs: usize,
    /// Returns the time in milliseconds since 1970-01-01 UTC.
    pub clock: fn() -> u64,
}

pub struct Queue {
    store: Arc<TaskStore>,
    runner: WorkloadRunner,
    settings: Settings,
    live: Mutex<QueueState>,
    /// Permits for active tasks.
    places: crate::turns::Turns<Tenant>,
    /// Wakes the worker loop when a new task can run.
    new_work: Notify,
}

/// State of the tasks that have not ended.
#[derive(Default)]
struct QueueState {
    turns: FairQueue,
    /// Failed tasks, by the time of their next attempt.
    delayed: BTreeMap<(Instant, u64), WaitingTask>,
    tasks: HashMap<TaskId, LiveTask>,
    running: u64,
}

struct LiveTask {
    number: u64,
    scope: Tenant,
    /// Attempts since this process started.
    attempts: u32,
    running: Option<RunningTask>,
    /// Created on the first call of `watch`, and closed when the task has ended.
    changes: Option<watch::Sender<TaskPhase>>,
}

#[derive(Clone, Default)]
struct RunningTask {
    progress: RunProgress,
    /// Cancels the task, which then ends without a result.
    cancel: Arc<Notify>,
}

/// Snapshot of a task.
#[derive(Clone, Debug)]
pub struct Status {
    pub known: TaskInfo,
    pub phase: TaskPhase,
}

#[derive(Clone, Debug)]
pub enum TaskPhase {
    /// `ahead` tasks run before this one. `attempts` attempts have been made and have failed.
    Waiting {
        ahead: u64,
        attempts: u32,
    },
    Running {
        progress: RunProgress,
    },
    Ended(TaskOutcome),
}

/// Size of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    pub waiting: u64,
    pub running: u64,
    /// Bytes of slices, arguments and assets of these tasks, and of uploads in progress.
    pub bytes: u64,
    /// Bytes of the stored output of ended tasks.
    pub output_bytes: u64,
}

impl Queue {
    /// Opens or creates the queue in `directory`. No other process may have it open. Returns
    /// [`StoreError::AcceptedDamaged`] if it is damaged.
    pub fn open(directory: &Path, runner: WorkloadRunner, settings: Settings) -> Result<Arc<Self>, StoreError> {
        let OpenedTasks { store, waiting } = TaskStore::open(directory, settings.quota)?;
        let mut live = QueueState::default();
        waiting.into_iter().for_each(|waiting| live.add(waiting));
        let permits = settings.jobs.max(1).saturating_mul(UNDER_WAY_PER_JOB);
        // No wait list (0 places): waiting tasks have their own fair queue.
        let places = crate::turns::Turns::new(permits, settings.spare_jobs, 0);
        Ok(Arc::new(Self { store, runner, settings, live: Mutex::new(live), places, new_work: Notify::new() }))
    }

    /// Returns the task if it belongs to `scope`. Reads the disk.
    pub fn status(&self, scope: &Tenant, id: &TaskId) -> Result<Option<Status>, StoreError> {
        // A live task is reported as not ended, even if the store already has its outcome.
        let phase = {
            let live = self.live();
            live.tasks.get(id).map(|task| live.phase(task))
        };
        let known = self.store.task(id)?.filter(|known| known.task.scope == *scope);
        Ok(known.and_then(|known| {
            let phase = phase.or_else(|| known.ending.clone().map(TaskPhase::Ended))?;
            Some(Status { known, phase })
        }))
    }

    /// Watches the task's phase. The phase changes when the task starts, makes progress, waits
    /// again, and ends; the end is the last change. Returns `None` if the task has ended or belongs
    /// to another scope.
    pub fn watch(&self, scope: &Tenant, id: &TaskId) -> Option<watch::Receiver<TaskPhase>> {
        let mut live = self.live();
        live.changes(scope, id)
    }

    /// Returns how many tasks of one scope wait, and the first `max` of them in the order of their
    /// turns. Reads the disk.
    pub fn waiting(&self, scope: &Tenant, max: usize) -> Result<(u64, Vec<Status>), StoreError> {
        let (count, first) = {
            let live = self.live();
            let (in_turn, mut first) = live.turns.first_of(scope, max);
            let later: Vec<TaskId> =
                live.delayed.values().filter(|waiting| waiting.scope == *scope).map(|waiting| waiting.id).collect();
            first.extend(later.iter().take(max - first.len()));
            (in_turn + later.len() as u64, first)
        };
        let mut waiting = Vec::new();
        for id in first {
            // The task may have started in the meantime.
            waiting.extend(self.status(scope, &id)?.filter(|status| matches!(status.phase, TaskPhase::Waiting { .. })));
        }
        Ok((count, waiting))
    }

    /// Returns the stored output of a task's guest. Returns [`TaskOutput::Gone`] if the task is not
    /// done or belongs to another scope. Reads all of the output to check it;
    /// [`StoreError::OutputDamaged`] means that the check failed.
    pub fn output(&self, scope: &Tenant, id: &TaskId) -> Result<TaskOutput, StoreError> {
        match self.store.task(id)?.filter(|known| known.task.scope == *scope) {
            Some(TaskInfo { ending: Some(TaskOutcome::Done { .. }), .. }) => self.store.output(id),
            _ => Ok(TaskOutput::Gone),
        }
    }

    pub fn store(&self) -> &TaskStore {
        &self.store
    }

    pub fn depth(&self) -> QueueStats {
        let (_, bytes) = self.store.taken();
        let live = self.live();
        let waiting = live.tasks.len() as u64 - live.running;
        QueueStats { waiting, running: live.running, bytes, output_bytes: self.store.output_bytes() }
    }

    fn live(&self) -> MutexGuard<'_, QueueState> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Dequeued {
    Waited(WaitingTask),
    Runs { cancel: Arc<Notify>, changes: watch::Receiver<TaskPhase> },
}

impl QueueState {
    fn phase(&self, task: &LiveTask) -> TaskPhase {
        match &task.running {
            Some(running) => TaskPhase::Running { progress: running.progress.clone() },
            None => TaskPhase::Waiting { ahead: self.turns.ahead(&task.scope, task.number), attempts: task.attempts },
        }
    }

    fn changes(&mut self, scope: &Tenant, id: &TaskId) -> Option<watch::Receiver<TaskPhase>> {
        let task = self.tasks.get(id).filter(|task| task.scope == *scope)?;
        let phase = self.phase(task);
        let task = self.tasks.get_mut(id)?;
        Some(task.changes.get_or_insert_with(|| watch::Sender::new(phase)).subscribe())
    }

    /// Notifies the watchers of the task.
    fn tell(&self, id: &TaskId) {
        if let Some((task, changes)) = self.tasks.get(id).and_then(|task| Some((task, task.changes.as_ref()?))) {
            changes.send_replace(self.phase(task));
        }
    }

    fn add(&mut self, waiting: WaitingTask) {
        let WaitingTask { number, scope, id } = waiting.clone();
        self.tasks.insert(id, LiveTask { number, scope, attempts: 0, running: None, changes: None });
        self.turns.push(waiting);
    }

    /// Dequeues the next task and marks it as running.
    fn take<P>(&mut self, now: Instant, place: impl Fn(&Tenant) -> Option<P>) -> Option<(WaitingTask, RunningTask, P)> {
        while let Some(due) = self.delayed.first_entry().filter(|due| due.key().0 <= now) {
            let waiting = due.remove();
            self.turns.push(waiting);
        }
        let (waiting, place) = self.turns.next(place)?;
        let task = self.tasks.get_mut(&waiting.id)?;
        let running = task.running.insert(RunningTask::default()).clone();
        task.attempts += 1;
        self.running += 1;
        self.tell(&waiting.id);
        Some((waiting, running, place))
    }

    /// Takes a waiting task out of the queue, for its cancellation.
    fn dequeue(&mut self, scope: &Tenant, id: &TaskId) -> Option<Dequeued> {
        let task = self.tasks.get_mut(id).filter(|task| task.scope == *scope)?;
        if let Some(running) = &task.running {
            let cancel = running.cancel.clone();
            return Some(Dequeued::Runs { cancel, changes: self.changes(scope, id)? });
        }
        let waiting = WaitingTask { number: task.number, scope: scope.clone(), id: *id };
        task.running = Some(RunningTask::default());
        self.running += 1;
        self.turns.remove(&waiting);
        self.delayed.retain(|_, delayed| delayed.id != *id);
        Some(Dequeued::Waited(waiting))
    }

    /// Requeues a task after a failed attempt.
    fn requeue(&mut self, waiting: WaitingTask, now: Instant) {
        if let Some(task) = self.tasks.get_mut(&waiting.id) {
            self.running -= 1;
            task.running = None;
            let due = now + retry::delay(task.attempts);
            self.tell(&waiting.id);
            self.delayed.insert((due, waiting.number), waiting);
        }
    }

    /// Removes an ended task and notifies its watchers.
    fn end(&mut self, id: &TaskId, ending: &TaskOutcome) {
        if let Some(task) = self.tasks.remove(id) {
            self.running -= 1;
            if let Some(changes) = task.changes {
                changes.send_replace(TaskPhase::Ended(ending.clone()));
            }
        }
    }
}
