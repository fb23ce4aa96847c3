//! Records in the database.

use serde::{Deserialize, Serialize};

use super::content::StoredBlob;
use super::task::{Task, TaskId, TaskOutcome, TaskWorkload};
use crate::limits::Limits;
use crate::sandbox::Outcome;
use crate::slice::Tenant;
use crate::store::journal;
use crate::store::retention::Amount;

/// Counts of records, to detect missing ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounts {
    /// Total number of accepted tasks; the next task's number.
    pub accepted: u64,
    /// Total number of ended tasks; the order of the next one that ends.
    pub ended: u64,
    /// Current number of tasks that have not ended, and of ended tasks that are still stored.
    pub waiting: u64,
    pub finished: u64,
}

/// State of the database. The journal contains it, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TasksState {
    /// Total number of changes.
    pub changes: u64,
    pub tally: TaskCounts,
}

impl journal::JournalState for TasksState {
    fn changes(&self) -> u64 {
        self.changes
    }
}

/// A task. Names are stored as text.
#[derive(Serialize, Deserialize)]
pub struct TaskRecord {
    id: TaskId,
    token: Option<String>,
    slice_id: Option<String>,
    workload: TaskWorkload,
    limits: Limits,
    timeout_ms: Option<u64>,
    runs_anew: bool,
    accepted_ms: u64,
    /// Arguments and assets.
    pub brought: StoredBlob,
    pub slice: StoredBlob,
    pub ended: Option<EndRecord>,
}

#[derive(Serialize, Deserialize)]
pub struct EndRecord {
    pub order: u64,
    how: EndKind,
}

#[derive(Serialize, Deserialize)]
enum EndKind {
    Done { slice_id: String, outcome: String, failure: Option<i32>, output: StoredBlob },
    Failed { code: String, message: String },
}

impl TaskRecord {
    pub fn new(task: &Task, brought: StoredBlob, slice: StoredBlob) -> Self {
        Self {
            id: task.id,
            token: task.scope.token().map(str::to_owned),
            slice_id: task.slice_id.as_ref().map(ToString::to_string),
            workload: task.workload,
            limits: task.limits,
            timeout_ms: task.timeout_ms,
            runs_anew: task.runs_anew,
            accepted_ms: task.accepted_ms,
            brought,
            slice,
            ended: None,
        }
    }

    /// Returns `None` if a stored name is invalid.
    pub fn task(&self) -> Option<Task> {
        Some(Task {
            id: self.id,
            scope: self.token.as_ref().map_or(Some(Tenant::OWNER), |token| token.parse().ok())?,
            slice_id: self.slice_id.as_ref().map(|id| id.parse()).transpose().ok()?,
            workload: self.workload,
            limits: self.limits,
            timeout_ms: self.timeout_ms,
            runs_anew: self.runs_anew,
            accepted_ms: self.accepted_ms,
        })
    }

    /// Returns the task's share of the quota until it ends.
    pub const fn takes(&self) -> Amount {
        Amount { entries: 1, bytes: self.brought.bytes().saturating_add(self.slice.bytes()) }
    }

    /// Returns the guest's output, if the task is done.
    pub const fn output(&self) -> Option<StoredBlob> {
        match &self.ended {
            Some(EndRecord { how: EndKind::Done { output, .. }, .. }) => Some(*output),
            _ => None,
        }
    }

    /// Records the location of the output.
    pub const fn set_output(&mut self, part: StoredBlob) {
        if let Some(EndRecord { how: EndKind::Done { output, .. }, .. }) = &mut self.ended {
            *output = part;
        }
    }
}

impl EndRecord {
    /// Creates the record of an ending. Its output starts as not stored.
    pub fn new(order: u64, ending: &TaskOutcome) -> Self {
        let how = match ending {
            TaskOutcome::Done { slice_id, outcome, output } => {
                let (name, failure) = outcome.code();
                let (slice_id, outcome, output) = (slice_id.to_string(), name.to_owned(), StoredBlob::gone(*output));
                EndKind::Done { slice_id, outcome, failure, output }
            }
            TaskOutcome::Failed { code, message } => EndKind::Failed { code: code.clone(), message: message.clone() },
        };
        Self { order, how }
    }

    /// Returns `None` if a stored name is invalid.
    pub fn ending(&self) -> Option<TaskOutcome> {
        Some(match &self.how {
            EndKind::Done { slice_id, outcome, failure, output } => TaskOutcome::Done {
                slice_id: slice_id.parse().ok()?,
                outcome: Outcome::from_code(outcome, *failure)?,
                output: output.blob(),
            },
            EndKind::Failed { code, message } => TaskOutcome::Failed { code: code.clone(), message: message.clone() },
        })
    }
}
