//! Store of accepted tasks. Each task is on disk before its client gets a reply. The task stays
//! there until it has ended, even if the process is killed. All files are in one directory:
//!
//! | name            |                                                                          |
//! |-----------------|--------------------------------------------------------------------------|
//! | `queue/`        | the database, below                                                      |
//! | `journal`       | its state, written after each flush; reveals lost changes                |
//! | `files/`        | `<task>.slice`, `.assets` and `.output`: parts too long for the database |
//! | `files/staged/` | files that are being written                                             |
//!
//! | key               | value                                   |
//! |-------------------|-----------------------------------------|
//! | `e` number        | `TaskRecord`: a task, and how it ended      |
//! | `a` number, piece | its arguments and assets, until it ends |
//! | `i` number, piece | its slice, until it ends                |
//! | `o` number, piece | its guest's output, after it ended      |
//! | `t`               | `TaskCounts`                                 |
//! | `n`               | total number of changes                 |
//!
//! Acceptance is a promise. So a damaged store is not replaced by an empty one: opening it fails
//! with an error that says so.

mod task;
mod quota;
mod content;
mod record;
mod index;
mod accepting;
mod outcome;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

pub use self::accepting::{AcceptError, StagedTask};
use self::content::{ASSETS, OUTPUT, SLICE, StoredBlob, TAKEN_IN};
use self::index::{TaskIndex, Unreported, damaged, read};
pub use self::quota::QueueLimits;
use self::record::{TaskCounts, TaskRecord, TasksState};
pub use self::task::{NotATaskId, Task, TaskId, TaskInfo, TaskInput, TaskOutcome, TaskOutput, TaskWorkload};
use super::StoreError;
use super::bundles::BundleFiles;
use super::database::{Batch, Database, Epoch, lock};
use super::journal::{self, StoreJournal};
use super::record::encode;
use super::reserve::Reserve;
use super::retention::Amount;
use crate::private_file;
use crate::slice::Tenant;

/// Version of the database. This is the first version. A later one would migrate an older database
/// when it opens it.
const VERSION: u8 = 1;

const TALLY: &[u8] = b"t";
const CHANGES: &[u8] = b"n";
const RECORD: u8 = b'e';

/// Returns the key of a record. The number grows with each accepted task.
fn record_key(number: u64) -> Vec<u8> {
    [&[RECORD][..], &number.to_be_bytes()].concat()
}

pub struct TaskStore {
    database: Database,
    journal: StoreJournal<TasksState>,
    files: BundleFiles,
    directory: PathBuf,
    quota: QueueLimits,
    /// Disk space that uploads must leave free for running work.
    reserve: OnceLock<Reserve>,
    /// Locked by each caller that makes a change.
    index: Mutex<TaskIndex>,
}

/// A change that is not on disk yet: its number, and the epoch of the database in which it was
/// made.
type UnflushedChange = (u64, Epoch);

/// An opened store, and the tasks that had not ended when it was last closed or its process died.
pub struct OpenedTasks {
    pub store: Arc<TaskStore>,
    /// In order of acceptance.
    pub waiting: Vec<WaitingTask>,
}

/// A task that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingTask {
    /// Grows with each accepted task.
    pub number: u64,
    pub scope: Tenant,
    pub id: TaskId,
}

impl TaskStore {
    /// Opens or creates the store in `directory`. No other process may have it open.
    pub fn open(directory: &Path, quota: QueueLimits) -> Result<OpenedTasks, StoreError> {
        let io = |cause| StoreError::Io { path: directory.to_owned(), cause };
        private_file::make_directory(directory).map_err(io)?;
        let damaged = |message: &str| damaged(directory, message);
        let database = Database::open(&directory.join("queue"), VERSION).map_err(|error| match error {
            StoreError::Failed { message, .. } => damaged(&message),
            other => other,
        })?;
        let files = directory.join("files");
        let is_new = index::read_state(&database, directory)?.is_none();
        let (journal, latest) = StoreJournal::open(&directory.join("journal"))?;
        if is_new
            && (latest.is_some_and(|state: TasksState| state.changes > 0)
                || content::files_in(&files)?.next().is_some())
        {
            return Err(damaged("its records are gone, and the files beside them are there"));
        }
        let (index, waiting) = TaskIndex::read(&database, directory, &quota)?;
        if journal::is_behind(&index.state, latest.as_ref()) {
            return Err(damaged("it has lost changes that were on disk"));
        }
        if latest.is_none() {
            // A store from before the journal existed gets one now.
            journal.write(&index.state)?;
        }
        database.set_flushed(index.state.changes);
        let store = Self {
            database,
            journal,
            files: BundleFiles::new(files),
            directory: directory.to_owned(),
            quota,
            reserve: OnceLock::new(),
            index: Mutex::new(index),
        };
        if is_new {
            store.change(|_, _| Ok(()), |_, ()| ())?;
        }
        // The process may have died before it finished its evictions, or the quota may be smaller
        // now.
        let mut last = (0, store.database.epoch());
        if !store.make_room(&mut last)?.is_empty() {
            store.flush(last)?;
        }
        store.files.remove_staged_leftovers()?;
        let waits: HashSet<TaskId> = waiting.iter().map(|waiting| waiting.id).collect();
        let has_output: HashSet<TaskId> = lock(&store.index).kept.with_bytes().copied().collect();
        let is_needed = |id: &TaskId, what| if what == OUTPUT { &has_output } else { &waits }.contains(id);
        content::remove_but(&store.files_directory(), is_needed)?;
        Ok(OpenedTasks { store: Arc::new(store), waiting })
    }

    /// Sets the disk reserve that later uploads must leave free. Only the first call has an effect.
    pub fn keep_reserve(&self, reserve: Reserve) {
        self.reserve.get_or_init(|| reserve);
    }

    /// Returns the error if the store has failed and accepts no writes.
    pub fn check(&self) -> Result<(), StoreError> {
        self.database.check()
    }

    /// Reopens a store that has failed. Returns whether the store had failed. Afterwards it
    /// reflects what is on disk: every acceptance that was reported, and no task whose client was
    /// told of a failure.
    pub fn mend(&self) -> Result<bool, StoreError> {
        let withdrawn: Vec<TaskId> = {
            let index = &mut *lock(&self.index);
            if !self.database.has_failed() {
                return Ok(false);
            }
            self.database.reopen()?;
            let read = index.read_again(&self.database, &self.directory, &self.quota);
            read.map_err(|error| self.database.fail(error))?;
            let is_withdrawn = |(_, doubt): &(&TaskId, &Unreported)| **doubt == Unreported::Withdrawn;
            index.unsure.iter().filter(is_withdrawn).map(|(id, _)| *id).collect()
        };
        withdrawn.iter().for_each(|id| self.withdraw(id));
        Ok(true)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the number of tasks that have not ended, and their bytes. Uploads in progress are
    /// included.
    pub fn taken(&self) -> (u64, u64) {
        let Amount { entries, bytes } = lock(&self.index).room.all();
        (entries, bytes)
    }

    /// Returns the task and, if it has ended, its ending.
    pub fn task(&self, id: &TaskId) -> Result<Option<TaskInfo>, StoreError> {
        let Some((_, record)) = self.record(id)? else { return Ok(None) };
        let task = record.task().ok_or(StoreError::TaskDamaged { id: *id })?;
        let ending = match &record.ended {
            Some(ended) => Some(ended.ending().ok_or(StoreError::TaskDamaged { id: *id })?),
            None => None,
        };
        Ok(Some(TaskInfo { task, slice_bytes: record.slice.bytes(), ending }))
    }

    /// Returns the guest's input of a task that has not ended. A slice in a file is verified when
    /// it is opened.
    pub fn content(&self, id: &TaskId) -> Result<TaskInput, StoreError> {
        let damaged = StoreError::TaskDamaged { id: *id };
        let Some((number, TaskRecord { brought, slice, ended: None, .. })) = self.record(id)? else {
            return Err(damaged);
        };
        let brought = brought.read(&self.database, ASSETS, number, &self.files_directory(), id)?;
        let (args, assets) = content::brought_of(&brought).ok_or(damaged)?;
        let slice = slice.slice(&self.database, number, &self.files_directory(), id)?;
        Ok(TaskInput { args, assets, slice })
    }

    fn accept(
        &self,
        task: &Task,
        (brought, brought_inline): (StoredBlob, Vec<u8>),
        (slice, slice_inline): (StoredBlob, Vec<u8>),
    ) -> Result<u64, StoreError> {
        let record = TaskRecord::new(task, brought, slice);
        let insert = |_: &TaskIndex, change: &mut TaskChange| {
            let number = change.tally.accepted;
            change.batch.insert(record_key(number), encode(&record));
            for (prefix, part, inline) in [(ASSETS, brought, brought_inline), (SLICE, slice, slice_inline)] {
                change.insert_pieces(prefix, number, part, &inline);
            }
            change.tally.accepted += 1;
            change.tally.waiting += 1;
            Ok(number)
        };
        self.change(insert, |index, number| {
            index.numbers.insert(task.id, *number);
            index.unsure.insert(task.id, Unreported::Flushing);
        })
    }

    /// Removes whatever was written of a task whose acceptance failed. Its client is told of the
    /// failure.
    fn withdraw(&self, id: &TaskId) {
        let _ = content::remove(&self.files_directory(), id, &TAKEN_IN);
        let removes = |index: &TaskIndex, change: &mut TaskChange| {
            let Some(number) = index.numbers.get(id).copied() else { return Ok(()) };
            if let Some(record) = self.record_at(number)? {
                change.remove_pieces(number, &record);
                change.batch.remove(record_key(number));
                change.tally.waiting = change.tally.waiting.saturating_sub(1);
            }
            Ok(())
        };
        let removed = self.change(removes, |index, ()| {
            index.numbers.remove(id);
        });
        let mut index = lock(&self.index);
        match removed {
            Ok(()) => index.unsure.remove(id),
            Err(_) => index.unsure.insert(*id, Unreported::Withdrawn),
        };
    }

    /// Makes one change, applies `note` to the index, and returns when the change is on disk.
    /// Concurrent changes share a flush. If the change cannot be made, nothing changes. If the disk
    /// fails, no later change can be written before [`TaskStore::mend`].
    fn change<T>(
        &self,
        make: impl FnOnce(&TaskIndex, &mut TaskChange) -> Result<T, StoreError>,
        note: impl FnOnce(&mut TaskIndex, &T),
    ) -> Result<T, StoreError> {
        let (made, unflushed) = self.apply(make, note)?;
        self.flush(unflushed)?;
        Ok(made)
    }

    /// Makes a change as [`TaskStore::change`] does, but returns before it is on disk. Also
    /// returns the change's number and epoch, for [`TaskStore::flush`].
    fn apply<T>(
        &self,
        make: impl FnOnce(&TaskIndex, &mut TaskChange) -> Result<T, StoreError>,
        note: impl FnOnce(&mut TaskIndex, &T),
    ) -> Result<(T, UnflushedChange), StoreError> {
        let mut index = lock(&self.index);
        let (number, epoch) = (index.state.changes, self.database.epoch());
        let mut change = TaskChange { batch: Batch::default(), tally: index.state.tally };
        let made = make(&index, &mut change)?;
        let state = TasksState { changes: number + 1, tally: change.tally };
        change.batch.insert(TALLY, encode(&state.tally));
        change.batch.insert(CHANGES, encode(&state.changes));
        self.database.apply(change.batch)?;
        index.state = state;
        note(&mut index, &made);
        Ok((made, (number, epoch)))
    }

    fn flush(&self, unflushed: UnflushedChange) -> Result<(), StoreError> {
        let applied = || {
            let state = lock(&self.index).state;
            (state.changes, state)
        };
        self.database.flush(unflushed, applied, |state| self.journal.write(&state))
    }

    fn record(&self, id: &TaskId) -> Result<Option<(u64, TaskRecord)>, StoreError> {
        let number = lock(&self.index).numbers.get(id).copied();
        let Some(number) = number else { return Ok(None) };
        Ok(self.record_at(number)?.map(|record| (number, record)))
    }

    fn record_at(&self, number: u64) -> Result<Option<TaskRecord>, StoreError> {
        let bytes = self.database.get(&record_key(number))?;
        bytes.map(|bytes| read(&self.directory, &bytes)).transpose()
    }

    fn files_directory(&self) -> PathBuf {
        self.directory.join("files")
    }
}

/// A change that is being made.
struct TaskChange {
    batch: Batch,
    tally: TaskCounts,
}

impl TaskChange {
    fn insert_pieces(&mut self, prefix: u8, number: u64, part: StoredBlob, held: &[u8]) {
        let pieces = part.pieces(prefix, number).zip(held.chunks(content::PIECE_BYTES));
        pieces.for_each(|(key, piece)| self.batch.insert(key, piece));
    }

    /// Removes the pieces of the task's input.
    fn remove_pieces(&mut self, number: u64, record: &TaskRecord) {
        for (prefix, part) in [(ASSETS, &record.brought), (SLICE, &record.slice)] {
            part.pieces(prefix, number).for_each(|key| self.batch.remove(key));
        }
    }
}

#[cfg(test)]
mod tests;
