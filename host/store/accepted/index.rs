//! In-memory index of the accepted tasks.

use std::collections::HashMap;
use std::path::Path;

use super::quota::TaskQuota;
use super::record::{TaskCounts, TaskRecord, TasksState};
use super::task::TaskId;
use super::{CHANGES, QueueLimits, RECORD, TALLY, WaitingTask};
use crate::shares::ShareRefused;
use crate::slice::Tenant;
use crate::store::StoreError;
use crate::store::database::Database;
use crate::store::record::{NotARecord, decode};
use crate::store::retention::{Amount, Retention};

pub struct TaskIndex {
    pub state: TasksState,
    pub room: TaskQuota,
    pub numbers: HashMap<TaskId, u64>,
    pub kept: Retention<TaskId>,
    /// The part of `room` that uploads in progress hold, without a record.
    pub incoming: HashMap<Tenant, Amount>,
    /// Records whose acceptance was not reported to the client. `incoming` includes their
    /// reservation.
    pub unsure: HashMap<TaskId, Unreported>,
}

/// Reason why a record's acceptance was not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreported {
    /// The record may not be on disk yet.
    Flushing,
    /// The record must be removed: its client was told of a failure.
    Withdrawn,
}

impl TaskIndex {
    /// Reads all records. Returns the tasks that have not ended.
    pub fn read(
        database: &Database,
        directory: &Path,
        quota: &QueueLimits,
    ) -> Result<(Self, Vec<WaitingTask>), StoreError> {
        let mut index = Self {
            state: read_state(database, directory)?.unwrap_or_default(),
            room: TaskQuota::new(quota),
            numbers: HashMap::new(),
            kept: Retention::default(),
            incoming: HashMap::new(),
            unsure: HashMap::new(),
        };
        let waiting = index.read_records(database, directory)?;
        Ok((index, waiting))
    }

    /// Reads all records again after the database was reopened. Uploads in progress keep their
    /// reservation.
    pub fn read_again(&mut self, database: &Database, directory: &Path, quota: &QueueLimits) -> Result<(), StoreError> {
        let state = read_state(database, directory)?.unwrap_or_default();
        if state.changes < database.flushed() {
            return Err(damaged(directory, "it has lost changes that were on disk"));
        }
        (self.state, self.room) = (state, TaskQuota::new(quota));
        (self.numbers, self.kept) = (HashMap::new(), Retention::default());
        self.read_records(database, directory)?;
        self.incoming.iter().for_each(|(scope, taken)| self.room.retake(scope, *taken));
        database.set_flushed(state.changes);
        Ok(())
    }

    fn read_records(&mut self, database: &Database, directory: &Path) -> Result<Vec<WaitingTask>, StoreError> {
        let mut waiting = Vec::new();
        for pair in database.prefixed(&[RECORD]) {
            let (key, bytes) = pair?;
            let record: TaskRecord = read(directory, &bytes)?;
            let number = key.get(1..).and_then(|number| Some(u64::from_be_bytes(number.try_into().ok()?)));
            let (number, task) = number.zip(record.task()).ok_or_else(|| damaged(directory, "a record is none"))?;
            self.numbers.insert(task.id, number);
            match &record.ended {
                Some(ended) => {
                    let output_bytes = record.output().map_or(0, |output| output.kept_bytes());
                    self.kept.add(&task.scope, ended.order, task.id, output_bytes);
                }
                None => {
                    if !self.unsure.contains_key(&task.id) {
                        self.room.retake(&task.scope, record.takes());
                    }
                    waiting.push(WaitingTask { number, scope: task.scope, id: task.id });
                }
            }
        }
        let TaskCounts { waiting: all_waiting, finished, .. } = self.state.tally;
        if (waiting.len() as u64, self.kept.all().entries) == (all_waiting, finished) {
            Ok(waiting)
        } else {
            Err(damaged(directory, "records are missing in it"))
        }
    }

    /// Reserves space for an upload.
    pub fn take(&mut self, scope: &Tenant, more: Amount) -> Result<(), ShareRefused> {
        self.room.take(scope, more)?;
        let incoming = self.incoming.entry(scope.clone()).or_default();
        *incoming = incoming.and(more);
        Ok(())
    }

    /// Removes `taken` from the reservations of uploads. The space then belongs to a record, or the
    /// caller releases it.
    pub fn hand_over(&mut self, scope: &Tenant, taken: Amount) {
        if let Some(incoming) = self.incoming.get_mut(scope) {
            *incoming = incoming.without(taken);
            if *incoming == Amount::default() {
                self.incoming.remove(scope);
            }
        }
    }
}

/// Reads the state. Returns `None` for an empty database. A database from before the journal
/// existed has no count of its changes.
pub fn read_state(database: &Database, directory: &Path) -> Result<Option<TasksState>, StoreError> {
    let Some(tally) = database.get(TALLY)? else { return Ok(None) };
    let changes = database.get(CHANGES)?.map_or(Ok(0), |bytes| read(directory, &bytes))?;
    Ok(Some(TasksState { changes, tally: read(directory, &tally)? }))
}

pub fn read<T: serde::de::DeserializeOwned>(directory: &Path, bytes: &[u8]) -> Result<T, StoreError> {
    decode(bytes).map_err(|error| match error {
        NotARecord::Damaged => damaged(directory, &error.to_string()),
        NotARecord::Newer(_) => StoreError::Version { path: directory.to_owned() },
    })
}

pub fn damaged(directory: &Path, message: &str) -> StoreError {
    StoreError::AcceptedDamaged { path: directory.to_owned(), message: message.to_owned() }
}
