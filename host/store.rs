//! What must last: finished proofs, by slice id, the oldest giving way to the newest.
//!
//! sled is not maintained and can lose or garble what a damaged disk gives it, so nothing of it shows outside of this
//! file: its panics are caught where it opens, what it returns is checked, and a damaged directory is moved aside.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::proof::SliceProof;
use crate::slice::SliceId;

/// sled's own cache; its default of 1 GiB is meant for servers that do nothing else.
const CACHE_BYTES: u64 = 8 << 20;

/// sled writes out a segment whenever it opens; its default is 512 KiB.
const SEGMENT_BYTES: usize = 64 << 10;

/// How long sled's lock is waited for.
const LOCK_TRIES: u32 = 100;
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// The version of what is written below, itself under this key.
const VERSION_KEY: &[u8] = b"v";
const VERSION: &[u8] = &[0];
/// `p` + slice id -> u64 sequence number, canonical bytes of the proof.
const PROOF_PREFIX: u8 = b'p';
/// `s` + u64 sequence number, big-endian -> slice id. Proofs in the order in which they came.
const SEQUENCE_PREFIX: u8 = b's';
/// How many proofs there are, u64: sled would have to read them all to say.
const COUNT_KEY: &[u8] = b"c";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use the proof store `{}`: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("the proof store `{}` was written by another version of this program", path.display())]
    Version { path: PathBuf },
    #[error("the proof store `{}` failed: {message}", path.display())]
    Failed { path: PathBuf, message: String },
}

pub struct ProofStore {
    path: PathBuf,
    db: sled::Db,
    proofs_max: u64,
    /// What the next write needs to know.
    next: Mutex<Next>,
    /// All proofs before this sequence number are known to be on disk.
    flushed: AtomicU64,
    /// Held while others are written there.
    flushing: Mutex<()>,
    /// Whoever else waits for the directory gets it when sled has let go of it.
    _lock: Option<File>,
}

struct Next {
    sequence: u64,
    count: u64,
}

/// An opened store, and where a damaged predecessor was moved to.
pub struct Opened {
    pub store: ProofStore,
    pub moved_aside: Option<PathBuf>,
}

impl ProofStore {
    /// Opens or makes the store in the directory `path`, for `proofs_max` proofs. No other process may have it open.
    pub fn open(path: &Path, proofs_max: u64) -> Result<Opened, StoreError> {
        // A process that has just ended can hold sled's lock for a moment longer than all others.
        for _ in 0..LOCK_TRIES {
            match Self::open_or_move_aside(path, proofs_max) {
                Err(StoreError::Io { cause, .. }) if is_locked(&cause) => std::thread::sleep(LOCK_RETRY),
                opened => return opened,
            }
        }
        Self::open_or_move_aside(path, proofs_max)
    }

    /// Holds `lock` for as long as the store is open.
    pub fn guarded_by(mut self, lock: File) -> Self {
        self._lock = Some(lock);
        self
    }

    fn open_or_move_aside(path: &Path, proofs_max: u64) -> Result<Opened, StoreError> {
        match Self::try_open(path, proofs_max) {
            Err(StoreError::Failed { .. }) if path.exists() => {
                let aside = free_name(path);
                std::fs::rename(path, &aside).map_err(|cause| StoreError::Io { path: path.to_owned(), cause })?;
                let store = Self::try_open(path, proofs_max)?;
                Ok(Opened { store, moved_aside: Some(aside) })
            }
            opened => Ok(Opened { store: opened?, moved_aside: None }),
        }
    }

    fn try_open(path: &Path, proofs_max: u64) -> Result<Self, StoreError> {
        let failed = |message: String| StoreError::Failed { path: path.to_owned(), message };
        // Damage shows as anything but an error of the system's; that another has the store open is of that kind, too.
        let sled_failed = |error: sled::Error| match error {
            sled::Error::Io(cause) if cause.kind() != io::ErrorKind::Other || is_locked(&cause) => {
                StoreError::Io { path: path.to_owned(), cause }
            }
            other => StoreError::Failed { path: path.to_owned(), message: other.to_string() },
        };
        let existed = path.join("db").exists();
        let open = || {
            let config = sled::Config::new()
                .path(path)
                .cache_capacity(CACHE_BYTES)
                .segment_size(SEGMENT_BYTES)
                .flush_every_ms(None);
            let db = config.open()?;
            let version = db.get(VERSION_KEY)?;
            let count = db.get(COUNT_KEY)?.map_or(0, |bytes| number(&bytes));
            let last = db.scan_prefix([SEQUENCE_PREFIX]).next_back().transpose()?;
            let sequence = last.map_or(0, |(key, _)| number(&key[1..]) + 1);
            Ok((db, version, Next { sequence, count }))
        };
        let opened = catch_unwind(AssertUnwindSafe(open)).map_err(|_| failed("its files are damaged".to_owned()))?;
        let (db, version, next) = opened.map_err(sled_failed)?;
        match version {
            Some(version) if version != VERSION => return Err(StoreError::Version { path: path.to_owned() }),
            Some(_) => {}
            // What sled cannot read, it may take for nothing.
            None if existed => return Err(failed("its records are gone".to_owned())),
            None => {
                db.insert(VERSION_KEY, VERSION).map_err(sled_failed)?;
                db.flush().map_err(sled_failed)?;
            }
        }
        let flushed = AtomicU64::new(next.sequence);
        Ok(Self {
            path: path.to_owned(),
            db,
            proofs_max: proofs_max.max(1),
            next: Mutex::new(next),
            flushed,
            flushing: Mutex::new(()),
            _lock: None,
        })
    }

    /// The proof under `id`. One that is damaged, or that could not be written to disk, is not there: it will be
    /// computed again.
    pub fn proof(&self, id: &SliceId) -> Result<Option<SliceProof>, StoreError> {
        let value = self.db.get(proof_key(id)).map_err(|error| self.failed(error))?;
        let durable = |value: &&[u8]| value.get(..8).map(number) < Some(self.flushed.load(Ordering::Acquire));
        let value = value.as_deref().filter(durable);
        let proof = value.and_then(|value| SliceProof::from_kept_bytes(value.get(8..)?).ok());
        Ok(proof.filter(|proof| proof.slice_id() == id))
    }

    /// Keeps `proof`, and returns when a crash cannot take it back. Callers that come at once share one write to disk.
    pub fn keep(&self, proof: &SliceProof) -> Result<(), StoreError> {
        let sequence = self.insert(proof)?;
        let _flushing = lock(&self.flushing);
        if self.flushed.load(Ordering::Acquire) <= sequence {
            let inserted = lock(&self.next).sequence;
            self.db.flush().map_err(|error| self.failed(error))?;
            self.flushed.store(inserted, Ordering::Release);
        }
        Ok(())
    }

    /// Writes the proof, and forgets the oldest if there are too many, as one step.
    fn insert(&self, proof: &SliceProof) -> Result<u64, StoreError> {
        let mut next = lock(&self.next);
        let sequence = next.sequence;
        let key = proof_key(proof.slice_id());
        let mut value = sequence.to_be_bytes().to_vec();
        value.extend(proof.to_bytes());

        let mut batch = sled::Batch::default();
        let mut count = next.count;
        match self.db.get(&key).map_err(|error| self.failed(error))? {
            Some(older) => batch.remove(&sequence_key(number(older.get(..8).unwrap_or_default()))),
            None => count += 1,
        }
        for oldest in self.db.scan_prefix([SEQUENCE_PREFIX]) {
            if count <= self.proofs_max {
                break;
            }
            let (sequence, id) = oldest.map_err(|error| self.failed(error))?;
            if id != proof.slice_id().as_str().as_bytes() {
                batch.remove(sequence);
                batch.remove([&[PROOF_PREFIX], &id[..]].concat());
                count -= 1;
            }
        }
        batch.insert(key, value);
        batch.insert(&sequence_key(sequence), proof.slice_id().as_str());
        batch.insert(COUNT_KEY, &count.to_be_bytes());
        self.db.apply_batch(batch).map_err(|error| self.failed(error))?;
        *next = Next { sequence: sequence + 1, count };
        Ok(sequence)
    }

    fn failed(&self, error: sled::Error) -> StoreError {
        match error {
            sled::Error::Io(cause) => StoreError::Io { path: self.path.clone(), cause },
            other => StoreError::Failed { path: self.path.clone(), message: other.to_string() },
        }
    }
}

/// sled has no kind of its own for this error.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

fn proof_key(id: &SliceId) -> Vec<u8> {
    [&[PROOF_PREFIX], id.as_str().as_bytes()].concat()
}

fn sequence_key(sequence: u64) -> [u8; 9] {
    let mut key = [SEQUENCE_PREFIX; 9];
    key[1..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// 0 for what is not a number: such a record is damaged, and as good as the oldest.
fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

fn free_name(path: &Path) -> PathBuf {
    let named = |n: u32| path.with_extension(format!("damaged-{n}"));
    (1..).map(named).find(|name| !name.exists()).expect("there are fewer than 2^32 of them")
}

/// A panic while a lock was held leaves numbers that are whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::digest::Digest;
    use crate::key::NodeKey;
    use crate::limits::{Limits, Usage};
    use crate::proof::{Blob, Claim, Job, Observed};
    use crate::sandbox::{Execution, Outcome};

    #[test]
    fn what_is_not_on_disk_yet_is_not_told() {
        let digest = Digest::of(b"");
        let blob = Blob { blake3: digest, bytes: 0 };
        let limits = Limits::DEFAULT.into();
        let job = Job {
            workload: "transcode".to_owned(),
            module: digest,
            input: blob,
            args: digest,
            limits,
            assets: vec![],
            profile: digest,
        };
        let usage = Usage::default();
        let execution =
            Execution { outcome: Outcome::Failed(1), proof: None, output: vec![], log: vec![], usage, trace: None };
        let observed = Observed::new(SystemTime::UNIX_EPOCH, Duration::ZERO, usage, "test");
        let id: SliceId = "slice".parse().unwrap();
        let claim = Claim::of(id.clone(), job, &execution);
        let proof = SliceProof::sign(claim, observed, &NodeKey::from_secret([1; 32]));

        let directory = tempfile::tempdir().unwrap();
        let store = ProofStore::open(&directory.path().join("proofs"), 10).unwrap().store;
        store.insert(&proof).unwrap();
        assert_eq!(store.proof(&id).unwrap(), None);
        store.keep(&proof).unwrap();
        assert_eq!(store.proof(&id).unwrap(), Some(proof));
    }
}
