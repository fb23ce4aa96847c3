//! sled, opened so that its faults stay in here, and flushed for all who wait at once.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::StoreError;
use super::group_commit::GroupCommit;
use crate::private_file;

/// sled's own cache; its default of 1 GiB is meant for servers that do nothing else.
const CACHE_BYTES: u64 = 8 << 20;

/// sled writes out a segment whenever it opens; its default is 512 KiB.
const SEGMENT_BYTES: usize = 64 << 10;

/// How long sled's lock is waited for.
const LOCK_TRIES: u32 = 100;
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// The version of what else is written, itself under this key.
const VERSION_KEY: &[u8] = b"v";

pub struct Database {
    path: PathBuf,
    db: sled::Db,
    /// sled's log. Its `flush` has the system write it out (`sync_file_range`), which says nothing of how long the file is nor
    /// of what the disk still has in a cache of its own; so it is synced here.
    log: File,
    /// All changes before this sequence number are known to be on disk.
    flushed: AtomicU64,
    flushes: GroupCommit<Result<(), Arc<StoreError>>>,
    /// What could not be written. The system takes it for written from then on, so that no later write says anything.
    failed: OnceLock<Arc<StoreError>>,
}

impl Database {
    /// Opens or makes the database in the directory `path`; its records are of this `version`. No other process may have it
    /// open. [`StoreError::Failed`] says that it is damaged.
    pub fn open(path: &Path, version: u8) -> Result<Self, StoreError> {
        if !path.exists() {
            Self::make(path, version)?;
            let database = Self::open(path, version)?;
            // What sled makes where it opens has a name that is to last, too.
            sync_all_in(path).map_err(|cause| StoreError::Io { path: path.to_owned(), cause })?;
            return Ok(database);
        }
        // A process that has just ended can hold sled's lock for a moment longer than all others.
        for _ in 0..LOCK_TRIES {
            match Self::try_open(path, version) {
                Err(StoreError::Io { cause, .. }) if is_locked(&cause) => std::thread::sleep(LOCK_RETRY),
                opened => return opened,
            }
        }
        Self::try_open(path, version)
    }

    /// Makes an empty database beside `path` and gives it the name when it is whole: sled cannot read what it leaves if it is
    /// killed while it makes one.
    fn make(path: &Path, version: u8) -> Result<(), StoreError> {
        let making = path.with_extension("making");
        let io = |cause| StoreError::Io { path: path.to_owned(), cause };
        match std::fs::remove_dir_all(&making) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        drop(Self::try_open(&making, version)?);
        sync_all_in(&making).map_err(io)?;
        std::fs::rename(&making, path).map_err(io)?;
        private_file::sync_directory_of(path).map_err(io)
    }

    fn try_open(path: &Path, version: u8) -> Result<Self, StoreError> {
        let failed = |message: &str| StoreError::Failed { path: path.to_owned(), message: message.to_owned() };
        let sled_failed = |error| on_open(path, error);
        let existed = path.join("db").exists();
        remove_half_written_snapshots(path).map_err(|cause| StoreError::Io { path: path.to_owned(), cause })?;
        let open = || {
            let config = sled::Config::new()
                .path(path)
                .cache_capacity(CACHE_BYTES)
                .segment_size(SEGMENT_BYTES)
                .flush_every_ms(None);
            let db = config.open()?;
            let version = db.get(VERSION_KEY)?;
            Ok((db, version))
        };
        let opened = catch_unwind(AssertUnwindSafe(open)).map_err(|_| failed("its files are damaged"))?;
        let (db, found) = opened.map_err(sled_failed)?;
        match found.as_deref() {
            Some([found]) if *found == version => {}
            Some([found]) if *found > version => return Err(StoreError::Version { path: path.to_owned() }),
            Some(_) => return Err(failed("its version is none")),
            // What sled cannot read, it may take for nothing.
            None if existed => return Err(failed("its records are gone")),
            None => {
                db.insert(VERSION_KEY, &[version]).map_err(sled_failed)?;
                db.flush().map_err(sled_failed)?;
            }
        }
        let io = |cause| StoreError::Io { path: path.to_owned(), cause };
        if !existed {
            sync_all_in(path).map_err(io)?;
        }
        let log = File::open(path.join("db")).map_err(io)?;
        // What is read from it counts as being on disk, and a process that died may have written it a moment ago.
        log.sync_data().map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            db,
            log,
            flushed: AtomicU64::new(0),
            flushes: GroupCommit::default(),
            failed: OnceLock::new(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.db.get(key).map_err(|error| self.failed(error))
    }

    /// The records whose keys begin with `prefix`, in the order of their keys.
    pub fn prefixed(&self, prefix: &[u8]) -> impl DoubleEndedIterator<Item = Result<Pair, StoreError>> {
        self.db.scan_prefix(prefix).map(|pair| pair.map_err(|error| self.failed(error)))
    }

    /// The records with keys from `from` on and before `to`.
    pub fn between(&self, from: &[u8], to: &[u8]) -> impl DoubleEndedIterator<Item = Result<Pair, StoreError>> {
        self.db.range(from..to).map(|pair| pair.map_err(|error| self.failed(error)))
    }

    /// Whether any key begins with `prefix`, other than those in `but`.
    pub fn any_but(&self, prefix: &[u8], but: &[Vec<u8>]) -> Result<bool, StoreError> {
        for pair in self.prefixed(prefix) {
            let (key, _) = pair?;
            if !but.iter().any(|other| **other == *key) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes all changes of the batch or none, also where the process is killed. Not yet on disk.
    pub fn apply(&self, batch: sled::Batch) -> Result<(), StoreError> {
        self.db.apply_batch(batch).map_err(|error| self.failed(error))
    }

    /// Whether the change with this number, counted from 0 since the database was opened, is on disk.
    pub fn is_flushed(&self, sequence: u64) -> bool {
        sequence < self.flushed.load(Ordering::Acquire)
    }

    /// Takes all changes before this number for being on disk.
    pub fn set_flushed(&self, before: u64) {
        self.flushed.store(before, Ordering::Release);
    }

    /// Returns when the change with this number is on disk. Callers that come at once share one write. `applied` is asked
    /// for how many have been made before that write; `then` is called after it, before anybody is told. Where the disk fails,
    /// all later calls fail as well.
    pub fn flush<T>(
        &self,
        sequence: u64,
        applied: impl FnOnce() -> (u64, T),
        then: impl FnOnce(T) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if self.is_flushed(sequence) {
            return Ok(());
        }
        let flush = || {
            let (before, what) = applied();
            if before > self.flushed.load(Ordering::Acquire) {
                self.write_out()?;
                then(what)?;
                self.set_flushed(before);
            }
            Ok(())
        };
        self.flushes.join(flush).map_err(StoreError::Shared)
    }

    fn write_out(&self) -> Result<(), Arc<StoreError>> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        let flushed = self.db.flush().map_err(|error| self.failed(error));
        let synced = flushed
            .and_then(|_| self.log.sync_data().map_err(|cause| StoreError::Io { path: self.path.clone(), cause }));
        synced.map_err(|error| self.failed.get_or_init(|| error.into()).clone())
    }

    fn failed(&self, error: sled::Error) -> StoreError {
        match error {
            sled::Error::Io(cause) => StoreError::Io { path: self.path.clone(), cause },
            other => StoreError::Failed { path: self.path.clone(), message: other.to_string() },
        }
    }
}

pub type Pair = (sled::IVec, sled::IVec);
pub use sled::Batch;

/// A new database's files and their names; sled leaves its settings' to luck, too.
fn sync_all_in(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(path)?.sync_all()?;
    private_file::sync_directory_of(path)
}

/// Where sled is killed while it opens, it leaves a part of a snapshot, and takes that for the latest one when it opens again (it looks
/// for another ending than the one that it writes). The one before is there until the new one has its name.
fn remove_half_written_snapshots(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let file = entry?;
        let name = file.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            std::fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

/// Damage shows as anything but an error of the system's; that another has the store open is of that kind, too.
fn on_open(path: &Path, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(cause) if cause.kind() != io::ErrorKind::Other || is_locked(&cause) => {
            StoreError::Io { path: path.to_owned(), cause }
        }
        other => StoreError::Failed { path: path.to_owned(), message: other.to_string() },
    }
}

/// sled has no kind of its own for this error.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// A name beside `path` for what was found damaged there.
pub fn free_name(path: &Path) -> PathBuf {
    let named = |n: u32| path.with_extension(format!("damaged-{n}"));
    (1..).map(named).find(|name| !name.exists()).expect("there are fewer than 2^32 of them")
}

/// A panic while a lock was held leaves numbers that are whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_has_refused_once_is_never_taken_for_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut database = Database::open(&directory.path().join("database"), 1).unwrap();
        let flush = |database: &Database, sequence| database.flush(sequence, || (sequence + 1, ()), |()| Ok(()));
        flush(&database, 0).unwrap();
        // Nothing can be synced there.
        let log = std::mem::replace(&mut database.log, File::open("/dev/null").unwrap());
        flush(&database, 1).unwrap_err();
        // Linux tells of a failed write once, and of the next one that all is well.
        database.log = log;
        let error = flush(&database, 1).unwrap_err();
        assert!(error.to_string().contains("cannot use the store"), "{error}");
        assert!(database.is_flushed(0) && !database.is_flushed(1));
        flush(&database, 0).unwrap();
    }

    #[test]
    fn what_cannot_be_noted_after_a_write_is_not_told_and_can_be_noted_later() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&directory.path().join("database"), 1).unwrap();
        let full = |()| Err(StoreError::Failed { path: PathBuf::new(), message: "full".to_owned() });
        database.flush(0, || (1, ()), full).unwrap_err();
        assert!(!database.is_flushed(0));
        database.flush(0, || (1, ()), |()| Ok(())).unwrap();
        assert!(database.is_flushed(0));
    }
}
