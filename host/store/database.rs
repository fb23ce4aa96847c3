//! sled wrapper: contains sled's faults, groups flushes, and reopens after a disk failure.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::StoreError;
use super::group_commit::GroupCommit;
pub use super::group_commit::lock;
use super::reserve;
use crate::private_file;

/// Cache size of sled. Its default of 1 GiB is meant for servers that do nothing else.
const CACHE_BYTES: u64 = 8 << 20;

/// Segment size of sled, which writes a segment at every open. Its default is 512 KiB.
const SEGMENT_BYTES: usize = 64 << 10;

/// Number of attempts to get sled's file lock.
const LOCK_TRIES: u32 = 100;
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Minimum interval between attempts to reopen a failed database.
const REOPEN_RETRY: Duration = Duration::from_millis(500);

/// Key of the version of all other records.
const VERSION_KEY: &[u8] = b"v";

pub struct Database {
    path: PathBuf,
    version: u8,
    /// `None` if the last attempt to reopen the database failed.
    open: RwLock<Option<OpenDatabase>>,
    /// All changes with a sequence number below this one are known to be on disk.
    flushed: AtomicU64,
    flushes: GroupCommit<Result<(), Arc<StoreError>>>,
    /// The first write failure. After one, the system treats the data as written and reports no
    /// more errors. So all later calls fail until the database is reopened.
    failed: Mutex<Option<DatabaseFailure>>,
    has_failed: AtomicBool,
    epoch: AtomicU64,
}

struct OpenDatabase {
    db: sled::Db,
    /// sled's log file. sled's `flush` only calls `sync_file_range`. That call persists neither the
    /// file's length nor the disk's write cache. So this module syncs the file itself.
    log: File,
}

struct DatabaseFailure {
    error: Arc<StoreError>,
    /// Time of the last attempt to reopen the database.
    tried: Option<Instant>,
}

/// Opening of the database in which a change was made. Changes of an earlier epoch may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u64);

impl Database {
    /// Opens or creates the database in the directory `path`, with records of this `version`. No
    /// other process may have it open. [`StoreError::Failed`] means that the database is damaged.
    pub fn open(path: &Path, version: u8) -> Result<Self, StoreError> {
        if !path.exists() {
            Self::make(path, version)?;
            let database = Self::open(path, version)?;
            // Files that sled creates when it opens need durable directory entries, too.
            sync_all_in(path).map_err(|cause| StoreError::Io { path: path.to_owned(), cause })?;
            return Ok(database);
        }
        // A process that has just ended can hold sled's lock slightly longer than its other locks.
        let open = Self::open_when_unlocked(path, version)?;
        Ok(Self {
            path: path.to_owned(),
            version,
            open: RwLock::new(Some(open)),
            flushed: AtomicU64::new(0),
            flushes: GroupCommit::default(),
            failed: Mutex::default(),
            has_failed: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
        })
    }

    fn open_when_unlocked(path: &Path, version: u8) -> Result<OpenDatabase, StoreError> {
        for _ in 0..LOCK_TRIES {
            match Self::try_open(path, version) {
                Err(StoreError::Io { cause, .. }) if is_locked(&cause) => std::thread::sleep(LOCK_RETRY),
                opened => return opened,
            }
        }
        Self::try_open(path, version)
    }

    /// Creates a database beside `path`, then renames it: sled cannot open a partly created one.
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

    fn try_open(path: &Path, version: u8) -> Result<OpenDatabase, StoreError> {
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
        // On a full disk, sled may panic as it does on damage, although nothing is damaged.
        let panicked = || match reserve::is_full(path) {
            true => StoreError::Io { path: path.to_owned(), cause: io::ErrorKind::StorageFull.into() },
            false => failed("its files are damaged"),
        };
        let opened = catch_unwind(AssertUnwindSafe(open)).map_err(|_| panicked())?;
        let (db, found) = opened.map_err(sled_failed)?;
        match found.as_deref() {
            Some([found]) if *found == version => {}
            Some([found]) if *found > version => return Err(StoreError::Version { path: path.to_owned() }),
            Some(_) => return Err(failed("its version is none")),
            // sled may treat a damaged file as an empty one.
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
        // Records that are read count as durable, and a dead process may have just written them.
        log.sync_data().map_err(io)?;
        Ok(OpenDatabase { db, log })
    }

    /// Reopens the database after a failure, so that it reflects what is on disk. Returns an error
    /// while that is impossible. The caller makes no change meanwhile, and afterwards reads all
    /// derived state again. Attempts are at least `REOPEN_RETRY` apart.
    pub fn reopen(&self) -> Result<(), StoreError> {
        let mut failed = lock(&self.failed);
        let Some(failure) = &mut *failed else { return Ok(()) };
        let is_early = failure.tried.is_some_and(|tried| tried.elapsed() < REOPEN_RETRY);
        if is_early || reserve::is_full(&self.path) {
            return Err(StoreError::Shared(failure.error.clone()));
        }
        failure.tried = Some(Instant::now());
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        if let Some(OpenDatabase { db, log }) = open.take() {
            drop(db);
            // Drop the page cache of the log: it may hold data that could not be written.
            let _ = rustix::fs::fadvise(&log, 0, None, rustix::fs::Advice::DontNeed);
        }
        match Self::open_when_unlocked(&self.path, self.version) {
            Ok(opened) => *open = Some(opened),
            Err(error) => {
                failure.error = Arc::new(error);
                return Err(StoreError::Shared(failure.error.clone()));
            }
        }
        *failed = None;
        self.has_failed.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Marks the database as failed: all later calls fail until it is reopened.
    pub fn fail(&self, error: StoreError) -> StoreError {
        StoreError::Shared(self.fail_shared(error))
    }

    fn fail_shared(&self, error: StoreError) -> Arc<StoreError> {
        let mut failed = lock(&self.failed);
        let failure = failed.get_or_insert_with(|| DatabaseFailure { error: Arc::new(error), tried: None });
        self.has_failed.store(true, Ordering::SeqCst);
        failure.error.clone()
    }

    /// Returns whether the database must be reopened.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::SeqCst)
    }

    /// Returns the error if the database has failed.
    pub fn check(&self) -> Result<(), StoreError> {
        if !self.has_failed() {
            return Ok(());
        }
        lock(&self.failed).as_ref().map_or(Ok(()), |failure| Err(StoreError::Shared(failure.error.clone())))
    }

    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    fn db(&self) -> Result<sled::Db, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        match &*open {
            Some(open) => Ok(open.db.clone()),
            None => {
                drop(open);
                self.check()?;
                Err(self.failed(sled::Error::Io(io::ErrorKind::NotConnected.into())))
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.db()?.get(key).map_err(|error| self.failed(error))
    }

    /// Returns the records whose keys begin with `prefix`, in key order.
    pub fn prefixed(&self, prefix: &[u8]) -> impl DoubleEndedIterator<Item = Result<KeyValue, StoreError>> {
        self.pairs(self.db().map(|db| db.scan_prefix(prefix)))
    }

    /// Returns the records with keys from `from` (inclusive) to `to` (exclusive).
    pub fn between(&self, from: &[u8], to: &[u8]) -> impl DoubleEndedIterator<Item = Result<KeyValue, StoreError>> {
        self.pairs(self.db().map(|db| db.range(from..to)))
    }

    fn pairs(
        &self,
        pairs: Result<sled::Iter, StoreError>,
    ) -> impl DoubleEndedIterator<Item = Result<KeyValue, StoreError>> {
        let (pairs, error) = match pairs {
            Ok(pairs) => (Some(pairs), None),
            Err(error) => (None, Some(Err(error))),
        };
        let pairs = pairs.into_iter().flatten().map(|pair| pair.map_err(|error| self.failed(error)));
        error.into_iter().chain(pairs)
    }

    /// Returns whether any key begins with `prefix` and is not in `but`.
    pub fn any_but(&self, prefix: &[u8], but: &[Vec<u8>]) -> Result<bool, StoreError> {
        for pair in self.prefixed(prefix) {
            let (key, _) = pair?;
            if !but.iter().any(|other| **other == *key) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Applies the whole batch or nothing, even if the process is killed. Not durable yet.
    pub fn apply(&self, batch: sled::Batch) -> Result<(), StoreError> {
        self.check()?;
        self.db()?.apply_batch(batch).map_err(|error| self.fail(self.failed(error)))
    }

    /// Returns whether a change is on disk. Numbers count from 0 since the database was opened.
    pub fn is_flushed(&self, sequence: u64) -> bool {
        sequence < self.flushed.load(Ordering::Acquire)
    }

    /// Returns the number of changes that are on disk.
    pub fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    /// Marks all changes before this number as durable.
    pub fn set_flushed(&self, before: u64) {
        self.flushed.store(before, Ordering::Release);
    }

    /// Returns when the change with this number and epoch is on disk. Concurrent callers share a
    /// flush. `applied` returns the number of changes before the flush. `then` runs after it,
    /// before any caller returns. A disk failure fails all later calls until the database is
    /// reopened.
    pub fn flush<T>(
        &self,
        (sequence, epoch): (u64, Epoch),
        applied: impl FnOnce() -> (u64, T),
        then: impl FnOnce(T) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let is_lost = || self.epoch() != epoch;
        if is_lost() || !self.is_flushed(sequence) {
            let flush = || {
                let (before, what) = applied();
                if before > self.flushed.load(Ordering::Acquire) {
                    self.write_out().and_then(|()| then(what)).map_err(|error| self.fail_shared(error))?;
                    self.set_flushed(before);
                }
                Ok(())
            };
            self.flushes.join(flush).map_err(StoreError::Shared)?;
        }
        if is_lost() {
            let message = "what was changed while the disk failed may be lost".to_owned();
            return Err(StoreError::Failed { path: self.path.clone(), message });
        }
        Ok(())
    }

    fn write_out(&self) -> Result<(), StoreError> {
        self.check()?;
        self.db()?.flush().map_err(|error| self.failed(error))?;
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let synced = open.as_ref().map_or(Ok(()), |open| open.log.sync_data());
        synced.map_err(|cause| StoreError::Io { path: self.path.clone(), cause })
    }

    /// Breaks the next sync, like a faulty disk. Returns the log file that the sync would use.
    #[cfg(test)]
    pub fn break_sync(&self) -> File {
        let mut open = self.open.write().unwrap();
        std::mem::replace(&mut open.as_mut().unwrap().log, File::open("/dev/null").unwrap())
    }

    fn failed(&self, error: sled::Error) -> StoreError {
        match error {
            sled::Error::Io(cause) => StoreError::Io { path: self.path.clone(), cause },
            other => StoreError::Failed { path: self.path.clone(), message: other.to_string() },
        }
    }
}

pub type KeyValue = (sled::IVec, sled::IVec);
pub use sled::Batch;

/// Syncs a new database's files and their directory entries. sled does not sync its settings file.
fn sync_all_in(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(path)?.sync_all()?;
    private_file::sync_directory_of(path)
}

/// Removes unfinished snapshots. If sled is killed while it opens, it leaves a partial snapshot. At
/// the next open, it uses that snapshot as the latest one: the file name ending that it skips is
/// not the one that it writes. The previous snapshot exists until the new one has its final name.
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

/// Classifies an error of opening. System I/O errors and a held lock do not mean damage.
fn on_open(path: &Path, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(cause) if cause.kind() != io::ErrorKind::Other || is_locked(&cause) => {
            StoreError::Io { path: path.to_owned(), cause }
        }
        other => StoreError::Failed { path: path.to_owned(), message: other.to_string() },
    }
}

/// sled has no error kind of its own for a held lock.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// Returns an unused path beside `path`, for a damaged store that is moved aside.
pub fn unused_path(path: &Path) -> PathBuf {
    let named = |n: u32| path.with_extension(format!("damaged-{n}"));
    (1..).map(named).find(|name| !name.exists()).expect("there are fewer than 2^32 of them")
}

#[cfg(test)]
mod tests;
