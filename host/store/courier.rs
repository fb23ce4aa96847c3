//! Store of the courier: receipts to be forwarded, received bundles, and the ledger of credit. All
//! files are in one directory:
//!
//! | name        |                                                                      |
//! |-------------|----------------------------------------------------------------------|
//! | `queue/`    | the database; `keys` lists its contents                              |
//! | `journal`   | the tally, written after each flush, to detect silently lost changes |
//! | `bundles/`  | the bundles to be forwarded, with a sidecar each                     |
//! | `received/` | the received bundles, with a sidecar each                            |
//! | `archive/`  | acknowledgements                                                     |
//!
//! A change is one batch: all of it is applied or none, together with the tally. A change is on
//! disk before it is reported.

mod keys;
mod records;
mod tally;
mod outbox;
mod clock;
mod ledger;
mod inbox;
mod check;
mod fsck;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::check::FsckReport;
pub use self::keys::DestinationTag;
pub use self::ledger::{ARCHIVED_AT_ONCE, Credit, CreditTotals};
pub use self::outbox::{CircuitBreaker, FailedAttempt, SubmitResult};
pub use self::records::Received;
pub use self::tally::CourierTally;
use self::tally::{LatestTally, ScrubCursor};
use super::StoreError;
use super::archive::Archive;
use super::bundles::{BundleFiles, StagedBundle};
use super::database::{Batch, Database, lock};
use super::journal::{self, StoreJournal};
use super::record::{self, NotARecord};
use super::reserve::Reserve;
use crate::private_file;

/// Version of the database. This is the first version. A later one would migrate an older database
/// when it opens it.
const VERSION: u8 = 1;

pub struct CourierStore {
    directory: PathBuf,
    database: Database,
    journal: StoreJournal<CourierTally>,
    /// Locked by each caller that makes a change.
    latest: Mutex<LatestTally>,
    /// Locked by a caller that scans all records.
    checking: Mutex<()>,
    bundles: BundleFiles,
    received: BundleFiles,
    archive: Mutex<Archive>,
    /// Lock against removal of a bundle that a record is about to need. Read-locked from the time a
    /// bundle gets its name until a record needs it. Write-locked while bundles that no record
    /// needs are removed. Lock order: this lock, then the archive's, then the tally's.
    placing: RwLock<()>,
}

impl CourierStore {
    /// Opens or creates the store in `directory`. No other process may have it open. A store that
    /// is damaged, or has lost data, is not opened: the error tells how to rebuild it.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let io = |cause| StoreError::Io { path: directory.to_owned(), cause };
        private_file::make_directory(directory).map_err(io)?;
        let damaged = |error| match error {
            StoreError::Failed { path, message } => StoreError::CourierDamaged { path, message },
            other => other,
        };
        let database = Database::open(&directory.join("queue"), VERSION).map_err(damaged)?;
        let (journal, latest) = StoreJournal::open(&directory.join("journal"))?;
        let tally: CourierTally = read(&database, keys::TALLY).map_err(damaged)?.unwrap_or_default();
        if journal::is_behind(&tally, latest.as_ref()) {
            return Err(lost(directory));
        }
        if latest.is_none() {
            // A store writes its tally to the journal before anything else.
            if tally.changes == 0 && has_content(directory).map_err(io)? {
                let message = "it is gone, and what lies beside it is there".to_owned();
                return Err(StoreError::CourierDamaged { path: directory.join("queue"), message });
            }
            journal.write(&tally)?;
        }
        let archive = Archive::open(directory.join("archive"), tally.archive_end)?;
        database.set_flushed(tally.changes);
        let store = Self {
            directory: directory.to_owned(),
            database,
            journal,
            latest: Mutex::new(LatestTally { tally, look: None }),
            checking: Mutex::default(),
            bundles: BundleFiles::new(directory.join("bundles")),
            received: BundleFiles::new(directory.join("received")),
            archive: Mutex::new(archive),
            placing: RwLock::new(()),
        };
        store.bundles.remove_staged_leftovers()?;
        store.received.remove_staged_leftovers()?;
        Ok(store)
    }

    /// Sets the disk reserve that later bundles must leave free. Only the first call has an effect.
    pub fn keep_reserve(&self, reserve: &Reserve) {
        [&self.bundles, &self.received].into_iter().for_each(|bundles| bundles.keep_reserve(reserve.clone()));
    }

    /// Returns the error if the store has failed and accepts no writes.
    pub fn check_open(&self) -> Result<(), StoreError> {
        self.database.check()
    }

    /// Reopens a store that has failed. Returns whether the store had failed. Afterwards it
    /// reflects what is on disk.
    pub fn mend(&self) -> Result<bool, StoreError> {
        if !self.database.has_failed() {
            return Ok(false);
        }
        let _placing = self.placing.write().unwrap_or_else(PoisonError::into_inner);
        let (mut archive, mut latest) = (lock(&self.archive), lock(&self.latest));
        self.database.reopen()?;
        let read = || {
            let tally: CourierTally = read(&self.database, keys::TALLY)?.unwrap_or_default();
            // The database must have at least the changes that this process knows to be on disk.
            if tally.changes < self.database.flushed() {
                return Err(lost(&self.directory));
            }
            Ok((tally, Archive::open(self.directory.join("archive"), tally.archive_end)?))
        };
        let (tally, opened) = read().map_err(|error| self.database.fail(error))?;
        *archive = opened;
        // A scan in progress starts again from the first record.
        let look = latest.look.take().map(|_| ScrubCursor::default());
        *latest = LatestTally { tally, look };
        self.database.set_flushed(tally.changes);
        Ok(true)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn tally(&self) -> CourierTally {
        lock(&self.latest).tally
    }

    /// Creates a file for the bytes of a bundle that is to be forwarded.
    pub fn stage(&self) -> Result<StagedBundle, StoreError> {
        self.bundles.stage()
    }

    /// Returns when all changes so far are on disk.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.change(|_| Ok(()))
    }

    /// Makes one change. Returns the result of `make` when the change is on disk. If `make` fails,
    /// nothing changes.
    fn change<T>(&self, make: impl FnOnce(&mut CourierChange<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let (result, sequence, epoch) = {
            let mut latest = lock(&self.latest);
            let epoch = self.database.epoch();
            let (tally, look) = (latest.tally, latest.look.clone());
            let mut change =
                CourierChange { database: &self.database, batch: Batch::default(), tally, look, is_empty: true };
            let result = make(&mut change)?;
            let CourierChange { mut batch, tally: mut changed, look, is_empty, .. } = change;
            if is_empty && changed == tally {
                (result, tally.changes.saturating_sub(1), epoch)
            } else {
                let sequence = changed.changes;
                changed.changes += 1;
                batch.insert(keys::TALLY, record::encode(&changed));
                self.database.apply(batch)?;
                *latest = LatestTally { tally: changed, look };
                (result, sequence, epoch)
            }
        };
        let applied = || {
            let tally = self.tally();
            (tally.changes, tally)
        };
        self.database.flush((sequence, epoch), applied, |tally| self.journal.write(&tally))?;
        Ok(result)
    }

    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        read(&self.database, key)
    }
}

fn lost(directory: &Path) -> StoreError {
    let message = "it has lost changes that were on disk".to_owned();
    StoreError::CourierDamaged { path: directory.join("queue"), message }
}

/// Returns whether the store's directory contains bundles or acknowledgements.
fn has_content(directory: &Path) -> io::Result<bool> {
    for name in ["bundles", "received", "archive"] {
        let entries = match std::fs::read_dir(directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            if entry?.file_name() != "staged" {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn read<T: DeserializeOwned>(database: &Database, key: &[u8]) -> Result<Option<T>, StoreError> {
    database.get(key)?.map(|value| decode(database, &value)).transpose()
}

fn decode<T: DeserializeOwned>(database: &Database, value: &[u8]) -> Result<T, StoreError> {
    record::decode(value).map_err(|error| match error {
        NotARecord::Damaged => {
            StoreError::CourierDamaged { path: database.path().to_owned(), message: error.to_string() }
        }
        NotARecord::Newer(_) => StoreError::Version { path: database.path().to_owned() },
    })
}

/// A change that is being made. Its reads do not see its own writes.
struct CourierChange<'a> {
    database: &'a Database,
    batch: Batch,
    tally: CourierTally,
    look: Option<ScrubCursor>,
    is_empty: bool,
}

impl CourierChange<'_> {
    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        read(self.database, key)
    }

    fn put(&mut self, key: Vec<u8>, value: &impl Serialize) {
        self.put_bytes(key, record::encode(value));
    }

    fn put_bytes(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.is_empty = false;
        self.batch.insert(key, value);
    }

    /// Adds an index entry. The key contains all its information.
    fn mark(&mut self, key: Vec<u8>) {
        self.put_bytes(key, Vec::new());
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.is_empty = false;
        self.batch.remove(key);
    }

    /// Writes a live record, which the tally counts. `former` is the record that it replaces, if
    /// any.
    fn put_live<T: Serialize>(&mut self, key: Vec<u8>, value: &T, former: Option<&T>) {
        if let Some(former) = former {
            self.count(&key, |tally| tally.remove_live(&key, &record::encode(former)));
        }
        let value = record::encode(value);
        self.count(&key, |tally| tally.add_live(&key, &value));
        self.put_bytes(key, value);
    }

    fn remove_live<T: Serialize>(&mut self, key: Vec<u8>, former: &T) {
        self.count(&key, |tally| tally.remove_live(&key, &record::encode(former)));
        self.remove(key);
    }

    /// Counts a record in the tally, and in a scan that has already passed its key.
    fn count(&mut self, key: &[u8], count: impl Fn(&mut CourierTally)) {
        count(&mut self.tally);
        if let Some(look) = self.look.as_mut().filter(|look| *key < *look.before) {
            count(&mut look.found);
        }
    }
}

#[cfg(test)]
mod formats;
#[cfg(test)]
mod tests;
