//! Accepted slices: each is on disk before whoever hands it in hears so, and stays until it has ended, whatever happens to the
//! process. All of it lies in one directory:
//!
//! | name     |                                                                                        |
//! |----------|----------------------------------------------------------------------------------------|
//! | `queue/` | the database, below                                                                    |
//! | `files/` | `<task>.slice`, `<task>.assets` and `<task>.output`, of what is too long for a record; `staged/`: what is being written |
//!
//! | key                  | value                                                                      |
//! |----------------------|----------------------------------------------------------------------------|
//! | `e` number           | `Record`: a task, and how it has ended                                     |
//! | `a` number, piece    | its arguments and assets, until it has ended                               |
//! | `i` number, piece    | its slice, likewise                                                        |
//! | `o` number, piece    | what its guest put out, from when it has ended on                          |
//! | `t`                  | `Tally`                                                                    |
//!
//! What was accepted was promised. So a store that is damaged is not begun anew: it is not opened, and the error says so.

mod task;
mod room;
mod kept;
mod content;
mod record;
mod accepting;
mod ending;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use self::accepting::{AcceptError, Accepting};
use self::content::{ASSETS, OUTPUT, Part, SLICE, TAKEN_IN};
use self::kept::Kept;
use self::record::{Record, Tally};
pub use self::room::AcceptedQuota;
use self::room::{Room, Taken};
pub use self::task::{Content, Ending, Known, NotATaskId, Output, Task, TaskId, TaskWorkload};
use super::StoreError;
use super::bundles::BundleFiles;
use super::database::{Batch, Database, lock};
use super::record::{NotARecord, decode, encode};
use crate::private_file;
use crate::slice::Scope;

/// The version of the database. An older one would be migrated where it is opened; this is the first.
const VERSION: u8 = 1;

const TALLY: &[u8] = b"t";
const RECORD: u8 = b'e';

/// A record's key, of its number, which grows with each task that is accepted.
fn record_key(number: u64) -> Vec<u8> {
    [&[RECORD][..], &number.to_be_bytes()].concat()
}

pub struct AcceptedStore {
    database: Database,
    files: BundleFiles,
    directory: PathBuf,
    quota: AcceptedQuota,
    /// Its lock is held by whoever makes a change.
    index: Mutex<Index>,
}

/// What is known without a look at the disk.
struct Index {
    /// Made since the store was opened.
    changes: u64,
    tally: Tally,
    room: Room,
    numbers: HashMap<TaskId, u64>,
    kept: Kept,
}

/// A store, and what had not ended when it was closed or its process died.
pub struct OpenedAccepted {
    pub store: Arc<AcceptedStore>,
    /// In the order in which they were accepted.
    pub waiting: Vec<Waiting>,
}

/// A task that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Grows with each task that is accepted.
    pub number: u64,
    pub scope: Scope,
    pub id: TaskId,
}

impl AcceptedStore {
    /// Opens or makes the store in `directory`. No other process may have it open.
    pub fn open(directory: &Path, quota: AcceptedQuota) -> Result<OpenedAccepted, StoreError> {
        let io = |cause| StoreError::Io { path: directory.to_owned(), cause };
        private_file::make_directory(directory).map_err(io)?;
        let damaged =
            |message: &str| StoreError::AcceptedDamaged { path: directory.to_owned(), message: message.to_owned() };
        let database = Database::open(&directory.join("queue"), VERSION).map_err(|error| match error {
            StoreError::Failed { message, .. } => damaged(&message),
            other => other,
        })?;
        let files = directory.join("files");
        let told = database.get(TALLY)?.map(|bytes| read(directory, &bytes)).transpose()?;
        let is_new = told.is_none();
        if is_new && content::files_in(&files)?.next().is_some() {
            return Err(damaged("its records are gone, and the files beside them are there"));
        }
        let tally: Tally = told.unwrap_or_default();
        let mut index =
            Index { changes: 0, tally, room: Room::new(&quota), numbers: HashMap::new(), kept: Kept::default() };
        let mut waiting = Vec::new();
        for pair in database.prefixed(&[RECORD]) {
            let (key, bytes) = pair?;
            let record: Record = read(directory, &bytes)?;
            let number = key.get(1..).and_then(|number| Some(u64::from_be_bytes(number.try_into().ok()?)));
            let (number, task) = number.zip(record.task()).ok_or_else(|| damaged("a record is none"))?;
            index.numbers.insert(task.id, number);
            match &record.ended {
                Some(ended) => {
                    let output_bytes = record.output().map_or(0, |output| output.kept_bytes());
                    index.kept.add(&task.scope, ended.order, task.id, output_bytes);
                }
                None => {
                    index.room.retake(&task.scope, record.takes());
                    waiting.push(Waiting { number, scope: task.scope, id: task.id });
                }
            }
        }
        if (waiting.len() as u64, index.kept.all().entries) != (tally.waiting, tally.finished) {
            return Err(damaged("records are missing in it"));
        }
        let store = Self {
            database,
            files: BundleFiles::new(files),
            directory: directory.to_owned(),
            quota,
            index: Mutex::new(index),
        };
        if is_new {
            store.change(|_, _| Ok(()), |_, ()| ())?;
        }
        // The process may have died before all had gone that was to, or less may be kept now.
        let mut last = 0;
        if !store.make_room(&mut last)?.is_empty() {
            store.flush(last)?;
        }
        store.files.remove_staged_leftovers()?;
        let waits: HashSet<TaskId> = waiting.iter().map(|waiting| waiting.id).collect();
        let has_output: HashSet<TaskId> = lock(&store.index).kept.with_output().collect();
        let is_needed = |id: &TaskId, what| if what == OUTPUT { &has_output } else { &waits }.contains(id);
        content::remove_but(&store.files_directory(), is_needed)?;
        Ok(OpenedAccepted { store: Arc::new(store), waiting })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How many tasks have not ended, those that are being handed in among them, and their bytes.
    pub fn taken(&self) -> (u64, u64) {
        let Taken { entries, bytes } = lock(&self.index).room.all();
        (entries, bytes)
    }

    /// What is known of a task.
    pub fn task(&self, id: &TaskId) -> Result<Option<Known>, StoreError> {
        let Some((_, record)) = self.record(id)? else { return Ok(None) };
        let task = record.task().ok_or(StoreError::TaskDamaged { id: *id })?;
        let ending = match &record.ended {
            Some(ended) => Some(ended.ending().ok_or(StoreError::TaskDamaged { id: *id })?),
            None => None,
        };
        Ok(Some(Known { task, slice_bytes: record.slice.bytes(), ending }))
    }

    /// What a task that has not ended brings to its guest. A slice in a file is checked when it is opened.
    pub fn content(&self, id: &TaskId) -> Result<Content, StoreError> {
        let damaged = StoreError::TaskDamaged { id: *id };
        let Some((number, Record { brought, slice, ended: None, .. })) = self.record(id)? else { return Err(damaged) };
        let brought = brought.read(&self.database, ASSETS, number, &self.files_directory(), id)?;
        let (args, assets) = content::brought_of(&brought).ok_or(damaged)?;
        let slice = slice.slice(&self.database, number, &self.files_directory(), id)?;
        Ok(Content { args, assets, slice })
    }

    fn accept(
        &self,
        task: &Task,
        (brought, brought_inline): (Part, Vec<u8>),
        (slice, slice_inline): (Part, Vec<u8>),
    ) -> Result<u64, StoreError> {
        let record = Record::new(task, brought, slice);
        let insert = |_: &Index, change: &mut Change| {
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
        })
    }

    /// Takes back what could not be written whole, as far as it was; its caller hears that it failed.
    fn withdraw(&self, id: &TaskId) {
        let _ = content::remove(&self.files_directory(), id, &TAKEN_IN);
        let removes = |index: &Index, change: &mut Change| {
            let Some(number) = index.numbers.get(id).copied() else { return Ok(()) };
            if let Some(record) = self.record_at(number)? {
                change.remove_pieces(number, &record);
                change.batch.remove(record_key(number));
                change.tally.waiting = change.tally.waiting.saturating_sub(1);
            }
            Ok(())
        };
        let _ = self.change(removes, |index, ()| {
            index.numbers.remove(id);
        });
    }

    /// Makes one change, notes it in the index, and returns when it is on disk, with those of others who wait for that. If it
    /// cannot be made, nothing is changed; if the disk fails, no later change can be written either.
    fn change<T>(
        &self,
        make: impl FnOnce(&Index, &mut Change) -> Result<T, StoreError>,
        note: impl FnOnce(&mut Index, &T),
    ) -> Result<T, StoreError> {
        let (made, sequence) = self.apply(make, note)?;
        self.flush(sequence)?;
        Ok(made)
    }

    /// [`AcceptedStore::change`], which is not on disk as yet; returns its number too, by which that can be waited for.
    fn apply<T>(
        &self,
        make: impl FnOnce(&Index, &mut Change) -> Result<T, StoreError>,
        note: impl FnOnce(&mut Index, &T),
    ) -> Result<(T, u64), StoreError> {
        let mut index = lock(&self.index);
        let mut change = Change { batch: Batch::default(), tally: index.tally };
        let made = make(&index, &mut change)?;
        change.batch.insert(TALLY, encode(&change.tally));
        self.database.apply(change.batch)?;
        index.tally = change.tally;
        index.changes += 1;
        note(&mut index, &made);
        Ok((made, index.changes - 1))
    }

    fn flush(&self, sequence: u64) -> Result<(), StoreError> {
        self.database.flush(sequence, || (lock(&self.index).changes, ()), |()| Ok(()))
    }

    fn record(&self, id: &TaskId) -> Result<Option<(u64, Record)>, StoreError> {
        let number = lock(&self.index).numbers.get(id).copied();
        let Some(number) = number else { return Ok(None) };
        Ok(self.record_at(number)?.map(|record| (number, record)))
    }

    fn record_at(&self, number: u64) -> Result<Option<Record>, StoreError> {
        let bytes = self.database.get(&record_key(number))?;
        bytes.map(|bytes| read(&self.directory, &bytes)).transpose()
    }

    fn files_directory(&self) -> PathBuf {
        self.directory.join("files")
    }
}

fn read<T: serde::de::DeserializeOwned>(directory: &Path, bytes: &[u8]) -> Result<T, StoreError> {
    decode(bytes).map_err(|error| match error {
        NotARecord::Damaged => StoreError::AcceptedDamaged { path: directory.to_owned(), message: error.to_string() },
        NotARecord::Newer(_) => StoreError::Version { path: directory.to_owned() },
    })
}

/// A change that is being made.
struct Change {
    batch: Batch,
    tally: Tally,
}

impl Change {
    fn insert_pieces(&mut self, prefix: u8, number: u64, part: Part, held: &[u8]) {
        let pieces = part.pieces(prefix, number).zip(held.chunks(content::PIECE_BYTES));
        pieces.for_each(|(key, piece)| self.batch.insert(key, piece));
    }

    /// Of what was taken in.
    fn remove_pieces(&mut self, number: u64, record: &Record) {
        for (prefix, part) in [(ASSETS, &record.brought), (SLICE, &record.slice)] {
            part.pieces(prefix, number).for_each(|key| self.batch.remove(key));
        }
    }
}

#[cfg(test)]
mod tests;
