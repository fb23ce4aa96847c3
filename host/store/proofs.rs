//! Store of finished proofs, by scope and slice id. Above the limit, the scope with the most proofs
//! loses its oldest one. So a flood from one token evicts only proofs of that token. A damaged
//! store is moved aside and replaced by an empty one. Lost proofs are computed again.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::StoreError;
use super::database::{Batch, Database, lock, unused_path};
use super::retention::{Evicted, Retention};
use crate::proof::SliceProof;
use crate::slice::{SliceId, Tenant};

/// Version of the record formats below.
const VERSION: u8 = 0;
/// `p` + name -> u64 sequence number, canonical bytes of the proof.
const PROOF_PREFIX: u8 = b'p';
/// `s` + u64 sequence number, big-endian -> name. Proofs in order of arrival.
const SEQUENCE_PREFIX: u8 = b's';
/// Separator in a name between the token's scope and the slice id. Neither contains this byte. In
/// the owner's scope, the name is the id alone.
const SCOPE_END: u8 = 0;
/// Proofs per batch.
const AT_ONCE: usize = 256;

pub struct ProofStore {
    database: Database,
    proofs_max: u64,
    /// State for the next write.
    next: Mutex<NextProof>,
    /// Lock file of the directory. Dropped after the database, so another process gets the
    /// directory only after sled has released it.
    _lock: Option<File>,
}

struct NextProof {
    sequence: u64,
    /// The proofs of each scope, by sequence number. `None` after a failed write: the next write
    /// reads them again.
    kept: Option<Retention<()>>,
}

impl NextProof {
    fn read(database: &Database) -> Result<Self, StoreError> {
        let last = database.prefixed(&[SEQUENCE_PREFIX]).next_back().transpose()?;
        let sequence = last.map_or(0, |(key, _)| number(&key[1..]) + 1);
        database.set_flushed(sequence);
        Ok(Self { sequence, kept: Some(read_kept(database)?) })
    }
}

/// An opened store, and the path to which a damaged predecessor was moved.
pub struct OpenedProofs {
    pub store: ProofStore,
    pub moved_aside: Option<PathBuf>,
}

impl ProofStore {
    /// Opens or creates the store in the directory `path`, for `proofs_max` proofs. No other
    /// process may have it open.
    pub fn open(path: &Path, proofs_max: u64) -> Result<OpenedProofs, StoreError> {
        match Self::try_open(path, proofs_max) {
            Err(StoreError::Failed { .. }) if path.exists() => {
                let aside = unused_path(path);
                std::fs::rename(path, &aside).map_err(|cause| StoreError::Io { path: path.to_owned(), cause })?;
                let store = Self::try_open(path, proofs_max)?;
                Ok(OpenedProofs { store, moved_aside: Some(aside) })
            }
            opened => Ok(OpenedProofs { store: opened?, moved_aside: None }),
        }
    }

    /// Holds `lock` while the store is open.
    pub fn guarded_by(mut self, lock: File) -> Self {
        self._lock = Some(lock);
        self
    }

    fn try_open(path: &Path, proofs_max: u64) -> Result<Self, StoreError> {
        let database = Database::open(path, VERSION)?;
        let next = Mutex::new(NextProof::read(&database)?);
        Ok(Self { database, proofs_max: proofs_max.max(1), next, _lock: None })
    }

    /// Returns the error if the store has failed and accepts no writes.
    pub fn check(&self) -> Result<(), StoreError> {
        self.database.check()
    }

    /// Reopens a store that has failed. Returns whether the store had failed. Afterwards it
    /// reflects what is on disk.
    pub fn mend(&self) -> Result<bool, StoreError> {
        let mut next = lock(&self.next);
        if !self.database.has_failed() {
            return Ok(false);
        }
        self.database.reopen()?;
        *next = NextProof::read(&self.database).map_err(|error| self.database.fail(error))?;
        Ok(true)
    }

    /// Returns the proof under `id` in `scope`. A proof that is damaged, or not on disk, counts as
    /// missing and is computed again.
    pub fn proof(&self, scope: &Tenant, id: &SliceId) -> Result<Option<SliceProof>, StoreError> {
        let value = self.database.get(&proof_key(&name(scope, id)))?;
        let durable = |value: &&[u8]| value.get(..8).is_some_and(|sequence| self.database.is_flushed(number(sequence)));
        let value = value.as_deref().filter(durable);
        let proof = value.and_then(|value| SliceProof::from_kept_bytes(value.get(8..)?).ok());
        Ok(proof.filter(|proof| proof.slice_id() == id))
    }

    /// Returns the newest proofs in `scope`, newest first, at most `max`.
    pub fn recent(&self, scope: &Tenant, max: usize) -> Result<Vec<SliceProof>, StoreError> {
        let (mut found, mut before) = (Vec::new(), u64::MAX);
        while found.len() < max {
            let numbers: Vec<u64> = {
                let next = lock(&self.next);
                let kept = next.kept.iter();
                kept.flat_map(|kept| kept.newest_first(scope, before)).take(max - found.len()).collect()
            };
            let Some(last) = numbers.last() else { break };
            before = *last;
            for number in numbers {
                // The entry may have been evicted meanwhile.
                let name = self.database.get(&sequence_key(number))?;
                if let Some(id) = name.and_then(|name| id_in(scope, &name)) {
                    found.extend(self.proof(scope, &id)?);
                }
            }
        }
        Ok(found)
    }

    /// Stores proofs, each in its scope, and returns when they are durable. After an error, each
    /// proof may or may not be stored. Among several proofs with one name, the last one wins.
    pub fn keep(&self, proofs: &[(&Tenant, &SliceProof)]) -> Result<(), StoreError> {
        let at_once = usize::try_from(self.proofs_max).unwrap_or(usize::MAX).min(AT_ONCE);
        // Epoch of the first batch. Later batches belong to the same or a later epoch.
        let epoch = self.database.epoch();
        let mut last = None;
        for some in proofs.chunks(at_once) {
            last = Some(self.insert(some)?);
        }
        let applied = || (lock(&self.next).sequence, ());
        last.map_or(Ok(()), |last| self.database.flush((last, epoch), applied, |()| Ok(())))
    }

    /// Writes the proofs and evicts what exceeds the limit, in one batch. Returns the last proof's
    /// sequence number.
    fn insert(&self, proofs: &[(&Tenant, &SliceProof)]) -> Result<u64, StoreError> {
        let mut next = lock(&self.next);
        let mut kept = match next.kept.take() {
            Some(kept) => kept,
            None => read_kept(&self.database)?,
        };
        let mut sequence = next.sequence;
        let mut batch = Batch::default();
        // Changes in the batch that the database does not show yet.
        let (mut written, mut names) = (HashMap::new(), HashMap::new());
        for (scope, proof) in proofs {
            let name = name(scope, proof.slice_id());
            let key = proof_key(&name);
            let mut value = sequence.to_be_bytes().to_vec();
            value.extend(proof.to_bytes());
            let older = match written.insert(name.clone(), sequence) {
                Some(older) => Some(older),
                None => self.database.get(&key)?.map(|older| number(older.get(..8).unwrap_or_default())),
            };
            if let Some(older) = older {
                batch.remove(&sequence_key(older));
                kept.remove(scope, older, Evicted::Entry);
            }
            batch.insert(key, value);
            batch.insert(&sequence_key(sequence), &*name);
            names.insert(sequence, name);
            kept.add(scope, sequence, (), 0);
            sequence += 1;
        }
        while let Some(goes) = kept.next_victim(self.proofs_max, u64::MAX) {
            let name = match names.get(&goes.number) {
                Some(name) => Some(name.clone()),
                None => self.database.get(&sequence_key(goes.number))?.map(|name| name.to_vec()),
            };
            name.into_iter().for_each(|name| batch.remove(proof_key(&name)));
            batch.remove(&sequence_key(goes.number));
            kept.evict(&goes);
        }
        self.database.apply(batch)?;
        *next = NextProof { sequence, kept: Some(kept) };
        Ok(sequence.saturating_sub(1))
    }
}

/// Reads the stored proofs of each scope.
fn read_kept(database: &Database) -> Result<Retention<()>, StoreError> {
    let mut kept = Retention::default();
    for pair in database.prefixed(&[SEQUENCE_PREFIX]) {
        let (key, name) = pair?;
        kept.add(&scope_in(&name), number(&key[1..]), (), 0);
    }
    Ok(kept)
}

fn name(scope: &Tenant, id: &SliceId) -> Vec<u8> {
    let id = id.as_str().as_bytes();
    scope.token().map_or_else(|| id.to_vec(), |token| [token.as_bytes(), &[SCOPE_END], id].concat())
}

/// Returns the slice id in `name` if the name belongs to `scope`. No valid id contains the
/// separator, so a name of another scope does not parse.
fn id_in(scope: &Tenant, name: &[u8]) -> Option<SliceId> {
    let name = std::str::from_utf8(name).ok()?;
    let id = match scope.token() {
        Some(token) => name.strip_prefix(token)?.strip_prefix(char::from(SCOPE_END))?,
        None => name,
    };
    id.parse().ok()
}

/// Returns the scope in a name, or the owner's scope if the name has no valid one.
fn scope_in(name: &[u8]) -> Tenant {
    let token = name.split(|byte| *byte == SCOPE_END).next().filter(|token| token.len() < name.len());
    let token = token.and_then(|token| std::str::from_utf8(token).ok()?.parse().ok());
    token.unwrap_or(Tenant::OWNER)
}

fn proof_key(name: &[u8]) -> Vec<u8> {
    [&[PROOF_PREFIX], name].concat()
}

fn sequence_key(sequence: u64) -> [u8; 9] {
    let mut key = [SEQUENCE_PREFIX; 9];
    key[1..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// Returns 0 if `bytes` are not a number. Such a record is damaged, and counts as the oldest.
fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::digest::Digest;
    use crate::key::NodeKey;
    use crate::limits::{Limits, Usage};
    use crate::proof::{Blob, Claim, Job, Observed};
    use crate::sandbox::{Execution, Outcome};

    fn proof(id: &SliceId, input: &[u8]) -> SliceProof {
        let digest = Digest::of(b"");
        let job = Job {
            workload: "transcode".to_owned(),
            module: digest,
            input: Blob { blake3: Digest::of(input), bytes: input.len() as u64 },
            args: digest,
            limits: Limits::DEFAULT.into(),
            assets: vec![],
            profile: digest,
        };
        let usage = Usage::default();
        let execution =
            Execution { outcome: Outcome::Failed(1), proof: None, output: vec![], log: vec![], usage, trace: None };
        let observed = Observed::new(SystemTime::UNIX_EPOCH, Duration::ZERO, usage, "test");
        SliceProof::sign(Claim::of(id.clone(), job, &execution), observed, &NodeKey::from_secret([1; 32])).unwrap()
    }

    #[test]
    fn what_is_not_on_disk_yet_is_not_told() {
        let id: SliceId = "slice".parse().unwrap();
        let proof = proof(&id, b"");
        let directory = tempfile::tempdir().unwrap();
        let store = ProofStore::open(&directory.path().join("proofs"), 10).unwrap().store;
        store.insert(&[(&Tenant::OWNER, &proof)]).unwrap();
        assert_eq!(store.proof(&Tenant::OWNER, &id).unwrap(), None);
        store.keep(&[(&Tenant::OWNER, &proof)]).unwrap();
        assert_eq!(store.proof(&Tenant::OWNER, &id).unwrap(), Some(proof));
    }

    /// A store that was written before scopes existed belongs to the owner.
    #[test]
    fn the_owners_names_are_ids_alone() {
        let (directory, id) = (tempfile::tempdir().unwrap(), "slice".parse::<SliceId>().unwrap());
        let (path, former) = (directory.path().join("proofs"), proof(&id, b"former"));
        let mut batch = Batch::default();
        batch.insert(b"pslice", [&0_u64.to_be_bytes()[..], &former.to_bytes()].concat());
        batch.insert(b"s\0\0\0\0\0\0\0\0", b"slice");
        batch.insert(b"c", &1_u64.to_be_bytes());
        let database = Database::open(&path, VERSION).unwrap();
        database.apply(batch).unwrap();
        database.flush((0, database.epoch()), || (1, ()), |()| Ok(())).unwrap();
        drop(database);

        let (store, token) = (ProofStore::open(&path, 2).unwrap().store, "a".parse::<Tenant>().unwrap());
        assert_eq!(lock(&store.next).kept.as_ref().unwrap().all().entries, 1);
        assert_eq!(store.proof(&Tenant::OWNER, &id).unwrap().as_ref(), Some(&former));
        assert_eq!(store.proof(&token, &id).unwrap(), None);
        store.keep(&[(&token, &proof(&id, b"a token's"))]).unwrap();
        assert_eq!(store.proof(&Tenant::OWNER, &id).unwrap(), Some(former), "each has its own");
        store.keep(&[(&token, &proof(&"other".parse().unwrap(), b""))]).unwrap();
        assert_eq!(store.proof(&Tenant::OWNER, &id).unwrap(), Some(proof(&id, b"former")), "the token has most");
        assert_eq!(store.proof(&token, &id).unwrap(), None);
    }

    #[test]
    fn a_store_whose_disk_failed_keeps_proofs_again_once_it_is_mended() {
        let directory = tempfile::tempdir().unwrap();
        let store = ProofStore::open(&directory.path().join("proofs"), 10).unwrap().store;
        let proofs = ["before", "refused", "after"].map(|id| proof(&id.parse().unwrap(), b""));
        let keep = |at: usize| store.keep(&[(&Tenant::OWNER, &proofs[at])]);
        let kept = |at: usize| store.proof(&Tenant::OWNER, proofs[at].slice_id()).unwrap().is_some();
        keep(0).unwrap();
        drop(store.database.break_sync());
        keep(1).unwrap_err();
        keep(2).unwrap_err();
        assert!(kept(0) && !kept(1) && store.check().is_err());
        assert!(store.mend().unwrap() && !store.mend().unwrap() && store.check().is_ok());
        keep(2).unwrap();
        assert!(kept(0) && kept(2));
        keep(1).unwrap();
        assert_eq!(store.recent(&Tenant::OWNER, 10).unwrap().len(), 3);
    }

    #[test]
    fn many_at_once_are_kept_as_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let id = |number: usize| (number % 200).to_string().parse::<SliceId>().unwrap();
        let proofs: Vec<SliceProof> = (0..300).map(|number| proof(&id(number), &number.to_le_bytes())).collect();
        let pairs: Vec<(&Tenant, &SliceProof)> = proofs.iter().map(|proof| (&Tenant::OWNER, proof)).collect();
        for max in [1, 3, 100, 199, 200, 5_000] {
            let kept = |name: &str, at_once: usize| {
                let path = directory.path().join(format!("{name}-{max}"));
                let store = ProofStore::open(&path, max).unwrap().store;
                pairs.chunks(at_once).for_each(|some| store.keep(some).unwrap());
                let recent = store.recent(&Tenant::OWNER, usize::MAX).unwrap();
                (recent, lock(&store.next).kept.as_ref().unwrap().all().entries)
            };
            let (all, one_by_one) = (kept("all", proofs.len()), kept("one", 1));
            assert_eq!(all.1, max.min(200));
            assert!(all == one_by_one && all.0[0] == proofs[299], "of {max}");
        }
        let store = ProofStore::open(&directory.path().join("none"), 1).unwrap().store;
        store.keep(&[]).unwrap();
    }

    #[test]
    fn the_newest_of_a_scope_are_found_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let store = ProofStore::open(&directory.path().join("proofs"), 10).unwrap().store;
        let (a, ab) = ("a".parse::<Tenant>().unwrap(), "ab".parse::<Tenant>().unwrap());
        let recent = |scope: &Tenant, max: usize| -> Vec<String> {
            store.recent(scope, max).unwrap().iter().map(|proof| proof.slice_id().to_string()).collect()
        };
        for (scope, id) in [(&a, "1"), (&Tenant::OWNER, "2"), (&ab, "3"), (&a, "4"), (&Tenant::OWNER, "a"), (&a, "1")] {
            store.keep(&[(scope, &proof(&id.parse().unwrap(), b""))]).unwrap();
        }
        assert_eq!(recent(&a, 10), ["1", "4"], "what is kept again is the newest");
        assert_eq!(recent(&ab, 10), ["3"]);
        assert_eq!(recent(&Tenant::OWNER, 10), ["a", "2"]);
        assert_eq!((recent(&a, 1), recent(&a, 0)), (vec!["1".to_owned()], vec![]));
        store.insert(&[(&a, &proof(&"not-on-disk".parse().unwrap(), b""))]).unwrap();
        assert_eq!(recent(&a, 10), ["1", "4"]);
    }

    /// Store in the format from before eviction by scope: one sequence of numbers for all scopes,
    /// and a count that is no longer used.
    #[test]
    fn a_flood_of_one_scope_evicts_its_own_also_in_a_store_of_before() {
        let directory = tempfile::tempdir().unwrap();
        let (path, flood) = (directory.path().join("proofs"), "flood".parse::<Tenant>().unwrap());
        let id = |number: usize| number.to_string().parse::<SliceId>().unwrap();
        let scopes = [Tenant::OWNER, "a".parse().unwrap(), "b".parse().unwrap()];
        {
            let store = ProofStore::open(&path, 40).unwrap().store;
            let modest: Vec<_> =
                scopes.iter().flat_map(|scope| (0..10).map(move |number| (scope, proof(&id(number), b"")))).collect();
            store.keep(&modest.iter().map(|(scope, proof)| (*scope, proof)).collect::<Vec<_>>()).unwrap();
        }
        for at_once in [1, 7, 300] {
            let store = ProofStore::open(&path, 40).unwrap().store;
            let proofs: Vec<_> = (0..300).map(|number| proof(&id(number), b"")).collect();
            let pairs: Vec<_> = proofs.iter().map(|proof| (&flood, proof)).collect();
            pairs.chunks(at_once).for_each(|some| store.keep(some).unwrap());
            for scope in &scopes {
                assert_eq!(store.recent(scope, 100).unwrap().len(), 10, "{scope:?}, {at_once} at once");
            }
            let newest: Vec<_> = store.recent(&flood, 100).unwrap();
            assert_eq!((newest.len(), newest[0] == proofs[299], newest[9] == proofs[290]), (10, true, true));
        }
    }
}
