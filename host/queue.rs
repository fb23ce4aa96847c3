//! `Queue`: accepted slices, each run to an end. What is told to be accepted is on disk; what had not ended when the process died
//! begins anew at the next start, and is answered from the proof store where it had been run.

mod turns;
mod retry;
mod incoming;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

pub use self::incoming::{Incoming, QueueError, TaskRequest};
use self::turns::Turns;
use crate::runner::{Progress, WorkloadRunner};
use crate::slice::Scope;
use crate::store::{AcceptedQuota, AcceptedStore, Ending, Known, OpenedAccepted, Output, StoreError, TaskId, Waiting};

/// Tasks under way for each thread that runs guests: while one is run, the end of another is written to disk.
const UNDER_WAY_PER_JOB: usize = 2;

/// How the queue may use the machine.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub quota: AcceptedQuota,
    /// The longest slice.
    pub slice_bytes_max: u64,
    /// Guests that the runner runs at once.
    pub jobs: usize,
    /// Guests beyond these, of scopes that run nothing.
    pub spare_jobs: usize,
    /// The time in milliseconds since 1970-01-01 UTC.
    pub clock: fn() -> u64,
}

pub struct Queue {
    store: Arc<AcceptedStore>,
    runner: WorkloadRunner,
    settings: Settings,
    live: Mutex<Live>,
    /// For tasks under way.
    places: crate::turns::Turns<Scope>,
    /// There is something to run that was not there before.
    new_work: Notify,
}

/// What has not ended.
#[derive(Default)]
struct Live {
    turns: Turns,
    /// What failed and is tried again at some time.
    delayed: BTreeMap<(Instant, u64), Waiting>,
    tasks: HashMap<TaskId, LiveTask>,
    running: u64,
}

struct LiveTask {
    number: u64,
    scope: Scope,
    /// Begun since this process started.
    attempts: u32,
    running: Option<Running>,
    /// Made when somebody first asks for it, and closed when the task has ended.
    changes: Option<watch::Sender<Phase>>,
}

#[derive(Clone, Default)]
struct Running {
    progress: Progress,
    /// Has it end without a result.
    cancel: Arc<Notify>,
}

/// A task as it is when it is asked for.
#[derive(Clone, Debug)]
pub struct Status {
    pub known: Known,
    pub phase: Phase,
}

#[derive(Clone, Debug)]
pub enum Phase {
    /// So many have their turn before it. `attempts` have been made, and failed.
    Waiting {
        ahead: u64,
        attempts: u32,
    },
    Running {
        progress: Progress,
    },
    Ended(Ending),
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    pub waiting: u64,
    pub running: u64,
    /// Of slices, arguments and assets of both, and of what is being handed in.
    pub bytes: u64,
    /// Of what guests put out, of tasks that have ended.
    pub output_bytes: u64,
}

impl Queue {
    /// Opens or makes the queue in `directory`. No other process may have it open. A damaged one is refused:
    /// [`StoreError::AcceptedDamaged`].
    pub fn open(directory: &Path, runner: WorkloadRunner, settings: Settings) -> Result<Arc<Self>, StoreError> {
        let OpenedAccepted { store, waiting } = AcceptedStore::open(directory, settings.quota)?;
        let mut live = Live::default();
        waiting.into_iter().for_each(|waiting| live.add(waiting));
        let permits = settings.jobs.max(1).saturating_mul(UNDER_WAY_PER_JOB);
        // Nobody waits in line for these places: the tasks that wait have turns of their own.
        let places = crate::turns::Turns::new(permits, settings.spare_jobs, 0);
        Ok(Arc::new(Self { store, runner, settings, live: Mutex::new(live), places, new_work: Notify::new() }))
    }

    /// The task, if there is one in `scope`; those of others are not there. Reads the disk.
    pub fn status(&self, scope: &Scope, id: &TaskId) -> Result<Option<Status>, StoreError> {
        // What is live has not been told to have ended, whatever the store has of it by now.
        let phase = {
            let live = self.live();
            live.tasks.get(id).map(|task| live.phase(task))
        };
        let known = self.store.task(id)?.filter(|known| known.task.scope == *scope);
        Ok(known.and_then(|known| {
            let phase = phase.or_else(|| known.ending.clone().map(Phase::Ended))?;
            Some(Status { known, phase })
        }))
    }

    /// The task's phase, which changes when it begins to run, gets on, waits again and ends; its end is the last. `None` where
    /// it has ended, or is none of `scope`.
    pub fn watch(&self, scope: &Scope, id: &TaskId) -> Option<watch::Receiver<Phase>> {
        let mut live = self.live();
        live.changes(scope, id)
    }

    /// What of one scope waits, those first that have their turn next: how many there are, and `max` of them. Reads the
    /// disk.
    pub fn waiting(&self, scope: &Scope, max: usize) -> Result<(u64, Vec<Status>), StoreError> {
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
            // It may have begun since.
            waiting.extend(self.status(scope, &id)?.filter(|status| matches!(status.phase, Phase::Waiting { .. })));
        }
        Ok((count, waiting))
    }

    /// What the guest of a task put out, as it is kept; nothing but [`Output::Gone`] of one that is not done, or of another scope.
    /// Reads all of it, to check it; [`StoreError::OutputDamaged`] says that it is not what it was.
    pub fn output(&self, scope: &Scope, id: &TaskId) -> Result<Output, StoreError> {
        match self.store.task(id)?.filter(|known| known.task.scope == *scope) {
            Some(Known { ending: Some(Ending::Done { .. }), .. }) => self.store.output(id),
            _ => Ok(Output::Gone),
        }
    }

    pub fn store(&self) -> &AcceptedStore {
        &self.store
    }

    pub fn depth(&self) -> Depth {
        let (_, bytes) = self.store.taken();
        let live = self.live();
        let waiting = live.tasks.len() as u64 - live.running;
        Depth { waiting, running: live.running, bytes, output_bytes: self.store.output_bytes() }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum TakenOut {
    Waited(Waiting),
    Runs { cancel: Arc<Notify>, changes: watch::Receiver<Phase> },
}

impl Live {
    fn phase(&self, task: &LiveTask) -> Phase {
        match &task.running {
            Some(running) => Phase::Running { progress: running.progress.clone() },
            None => Phase::Waiting { ahead: self.turns.ahead(&task.scope, task.number), attempts: task.attempts },
        }
    }

    fn changes(&mut self, scope: &Scope, id: &TaskId) -> Option<watch::Receiver<Phase>> {
        let task = self.tasks.get(id).filter(|task| task.scope == *scope)?;
        let phase = self.phase(task);
        let task = self.tasks.get_mut(id)?;
        Some(task.changes.get_or_insert_with(|| watch::Sender::new(phase)).subscribe())
    }

    /// Wakes whoever watches the task.
    fn tell(&self, id: &TaskId) {
        if let Some((task, changes)) = self.tasks.get(id).and_then(|task| Some((task, task.changes.as_ref()?))) {
            changes.send_replace(self.phase(task));
        }
    }

    fn add(&mut self, waiting: Waiting) {
        let Waiting { number, scope, id } = waiting.clone();
        self.tasks.insert(id, LiveTask { number, scope, attempts: 0, running: None, changes: None });
        self.turns.push(waiting);
    }

    /// Begins the next whose turn it is.
    fn take<P>(&mut self, now: Instant, place: impl Fn(&Scope) -> Option<P>) -> Option<(Waiting, Running, P)> {
        while let Some(due) = self.delayed.first_entry().filter(|due| due.key().0 <= now) {
            let waiting = due.remove();
            self.turns.push(waiting);
        }
        let (waiting, place) = self.turns.next(place)?;
        let task = self.tasks.get_mut(&waiting.id)?;
        let running = task.running.insert(Running::default()).clone();
        task.attempts += 1;
        self.running += 1;
        self.tell(&waiting.id);
        Some((waiting, running, place))
    }

    /// Takes one that waits out of its turn.
    fn take_out(&mut self, scope: &Scope, id: &TaskId) -> Option<TakenOut> {
        let task = self.tasks.get_mut(id).filter(|task| task.scope == *scope)?;
        if let Some(running) = &task.running {
            let cancel = running.cancel.clone();
            return Some(TakenOut::Runs { cancel, changes: self.changes(scope, id)? });
        }
        let waiting = Waiting { number: task.number, scope: scope.clone(), id: *id };
        task.running = Some(Running::default());
        self.running += 1;
        self.turns.remove(&waiting);
        self.delayed.retain(|_, delayed| delayed.id != *id);
        Some(TakenOut::Waited(waiting))
    }

    /// Has what was taken wait again.
    fn put_back(&mut self, waiting: Waiting, now: Instant) {
        if let Some(task) = self.tasks.get_mut(&waiting.id) {
            self.running -= 1;
            task.running = None;
            let due = now + retry::delay(task.attempts);
            self.tell(&waiting.id);
            self.delayed.insert((due, waiting.number), waiting);
        }
    }

    /// Forgets what was taken and has ended.
    fn end(&mut self, id: &TaskId, ending: &Ending) {
        if let Some(task) = self.tasks.remove(id) {
            self.running -= 1;
            if let Some(changes) = task.changes {
                changes.send_replace(Phase::Ended(ending.clone()));
            }
        }
    }
}
