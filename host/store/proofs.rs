//! Finished proofs, by scope and slice id, the oldest giving way to the newest. A damaged store is moved aside and begun anew: what
//! is lost will be computed again.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::StoreError;
use super::database::{Batch, Database, free_name, lock};
use crate::proof::SliceProof;
use crate::slice::{Scope, SliceId};

/// The version of what is written below.
const VERSION: u8 = 0;
/// `p` + name -> u64 sequence number, canonical bytes of the proof.
const PROOF_PREFIX: u8 = b'p';
/// `s` + u64 sequence number, big-endian -> name. Proofs in the order in which they came.
const SEQUENCE_PREFIX: u8 = b's';
/// How many proofs there are, u64: sled would have to read them all to say.
const COUNT_KEY: &[u8] = b"c";
/// Stands in a name between a token's scope and the slice id; neither has it. In the owner's scope the name is the id alone.
const SCOPE_END: u8 = 0;
/// How many of the newest proofs are looked at for one scope's: who asks for what is hardly there may not have all of
/// them read.
const RECENT_LOOKED_AT_MAX: usize = 1_000;
/// How many are written as one step.
const AT_ONCE: usize = 256;

pub struct ProofStore {
    database: Database,
    proofs_max: u64,
    /// What the next write needs to know.
    next: Mutex<Next>,
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

    /// Holds `lock` for as long as the store is open.
    pub fn guarded_by(mut self, lock: File) -> Self {
        self._lock = Some(lock);
        self
    }

    fn try_open(path: &Path, proofs_max: u64) -> Result<Self, StoreError> {
        let database = Database::open(path, VERSION)?;
        let count = database.get(COUNT_KEY)?.map_or(0, |bytes| number(&bytes));
        let last = database.prefixed(&[SEQUENCE_PREFIX]).next_back().transpose()?;
        let sequence = last.map_or(0, |(key, _)| number(&key[1..]) + 1);
        database.set_flushed(sequence);
        let next = Mutex::new(Next { sequence, count });
        Ok(Self { database, proofs_max: proofs_max.max(1), next, _lock: None })
    }

    /// The proof under `id` in `scope`. One that is damaged, or that could not be written to disk, is not there: it will be
    /// computed again.
    pub fn proof(&self, scope: &Scope, id: &SliceId) -> Result<Option<SliceProof>, StoreError> {
        let value = self.database.get(&proof_key(&name(scope, id)))?;
        let durable = |value: &&[u8]| value.get(..8).is_some_and(|sequence| self.database.is_flushed(number(sequence)));
        let value = value.as_deref().filter(durable);
        let proof = value.and_then(|value| SliceProof::from_kept_bytes(value.get(8..)?).ok());
        Ok(proof.filter(|proof| proof.slice_id() == id))
    }

    /// The newest proofs in `scope`, `max` at most, the newest first. Those that have 1,000 newer ones of any scope are not
    /// found.
    pub fn recent(&self, scope: &Scope, max: usize) -> Result<Vec<SliceProof>, StoreError> {
        let mut found = Vec::new();
        for pair in self.database.prefixed(&[SEQUENCE_PREFIX]).rev().take(RECENT_LOOKED_AT_MAX) {
            if found.len() >= max {
                break;
            }
            let (_, name) = pair?;
            if let Some(id) = id_in(scope, &name) {
                found.extend(self.proof(scope, &id)?);
            }
        }
        Ok(found)
    }

    /// Keeps proofs, each in its scope, and returns when a crash cannot take them back; after an error, each is kept or not. Of
    /// several under one name the last counts.
    pub fn keep(&self, proofs: &[(&Scope, &SliceProof)]) -> Result<(), StoreError> {
        let at_once = usize::try_from(self.proofs_max).unwrap_or(usize::MAX).min(AT_ONCE);
        let mut last = None;
        for some in proofs.chunks(at_once) {
            last = Some(self.insert(some)?);
        }
        let applied = || (lock(&self.next).sequence, ());
        last.map_or(Ok(()), |last| self.database.flush(last, applied, |()| Ok(())))
    }

    /// Writes the proofs, and forgets the oldest if there are too many, as one step. The last one's sequence number.
    fn insert(&self, proofs: &[(&Scope, &SliceProof)]) -> Result<u64, StoreError> {
        let mut next = lock(&self.next);
        let Next { mut sequence, mut count } = *next;
        let mut batch = Batch::default();
        // What the batch has by now, and the database does not show yet.
        let mut written = HashMap::new();
        for (scope, proof) in proofs {
            let name = name(scope, proof.slice_id());
            let key = proof_key(&name);
            let mut value = sequence.to_be_bytes().to_vec();
            value.extend(proof.to_bytes());
            let older = match written.insert(name.clone(), sequence) {
                Some(older) => Some(older),
                None => self.database.get(&key)?.map(|older| number(older.get(..8).unwrap_or_default())),
            };
            match older {
                Some(older) => batch.remove(&sequence_key(older)),
                None => count += 1,
            }
            batch.insert(key, value);
            batch.insert(&sequence_key(sequence), name);
            sequence += 1;
        }
        for oldest in self.database.prefixed(&[SEQUENCE_PREFIX]) {
            if count <= self.proofs_max {
                break;
            }
            let (sequence, oldest) = oldest?;
            if !written.contains_key(&*oldest) {
                batch.remove(sequence);
                batch.remove(proof_key(&oldest));
                count -= 1;
            }
        }
        batch.insert(COUNT_KEY, &count.to_be_bytes());
        self.database.apply(batch)?;
        *next = Next { sequence, count };
        Ok(sequence.saturating_sub(1))
    }
}

fn name(scope: &Scope, id: &SliceId) -> Vec<u8> {
    let id = id.as_str().as_bytes();
    scope.token().map_or_else(|| id.to_vec(), |token| [token.as_bytes(), &[SCOPE_END], id].concat())
}

/// The id that a name has if it is one of `scope`. No id has what stands behind a token's scope.
fn id_in(scope: &Scope, name: &[u8]) -> Option<SliceId> {
    let name = std::str::from_utf8(name).ok()?;
    let id = match scope.token() {
        Some(token) => name.strip_prefix(token)?.strip_prefix(char::from(SCOPE_END))?,
        None => name,
    };
    id.parse().ok()
}

fn proof_key(name: &[u8]) -> Vec<u8> {
    [&[PROOF_PREFIX], name].concat()
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
        store.insert(&[(&Scope::OWNER, &proof)]).unwrap();
        assert_eq!(store.proof(&Scope::OWNER, &id).unwrap(), None);
        store.keep(&[(&Scope::OWNER, &proof)]).unwrap();
        assert_eq!(store.proof(&Scope::OWNER, &id).unwrap(), Some(proof));
    }

    /// A store that was written before there were scopes goes on as the owner's.
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
        database.flush(0, || (1, ()), |()| Ok(())).unwrap();
        drop(database);

        let (store, token) = (ProofStore::open(&path, 2).unwrap().store, "a".parse::<Scope>().unwrap());
        assert_eq!(store.proof(&Scope::OWNER, &id).unwrap().as_ref(), Some(&former));
        assert_eq!(store.proof(&token, &id).unwrap(), None);
        store.keep(&[(&token, &proof(&id, b"a token's"))]).unwrap();
        assert_eq!(store.proof(&Scope::OWNER, &id).unwrap(), Some(former), "each has its own");
        store.keep(&[(&token, &proof(&"other".parse().unwrap(), b""))]).unwrap();
        assert_eq!(store.proof(&Scope::OWNER, &id).unwrap(), None, "it was the oldest");
        assert_eq!(store.proof(&token, &id).unwrap(), Some(proof(&id, b"a token's")));
    }

    #[test]
    fn many_at_once_are_kept_as_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let id = |number: usize| (number % 200).to_string().parse::<SliceId>().unwrap();
        let proofs: Vec<SliceProof> = (0..300).map(|number| proof(&id(number), &number.to_le_bytes())).collect();
        let pairs: Vec<(&Scope, &SliceProof)> = proofs.iter().map(|proof| (&Scope::OWNER, proof)).collect();
        for max in [1, 3, 100, 199, 200, 5_000] {
            let kept = |name: &str, at_once: usize| {
                let path = directory.path().join(format!("{name}-{max}"));
                let store = ProofStore::open(&path, max).unwrap().store;
                pairs.chunks(at_once).for_each(|some| store.keep(some).unwrap());
                let recent = store.recent(&Scope::OWNER, usize::MAX).unwrap();
                let count = number(&store.database.get(COUNT_KEY).unwrap().unwrap());
                (recent, count)
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
        let (a, ab) = ("a".parse::<Scope>().unwrap(), "ab".parse::<Scope>().unwrap());
        let recent = |scope: &Scope, max: usize| -> Vec<String> {
            store.recent(scope, max).unwrap().iter().map(|proof| proof.slice_id().to_string()).collect()
        };
        for (scope, id) in [(&a, "1"), (&Scope::OWNER, "2"), (&ab, "3"), (&a, "4"), (&Scope::OWNER, "a"), (&a, "1")] {
            store.keep(&[(scope, &proof(&id.parse().unwrap(), b""))]).unwrap();
        }
        assert_eq!(recent(&a, 10), ["1", "4"], "what is kept again is the newest");
        assert_eq!(recent(&ab, 10), ["3"]);
        assert_eq!(recent(&Scope::OWNER, 10), ["a", "2"]);
        assert_eq!((recent(&a, 1), recent(&a, 0)), (vec!["1".to_owned()], vec![]));
        store.insert(&[(&a, &proof(&"not-on-disk".parse().unwrap(), b""))]).unwrap();
        assert_eq!(recent(&a, 10), ["1", "4"]);
    }

    #[test]
    fn what_lies_far_back_is_not_looked_for() {
        let directory = tempfile::tempdir().unwrap();
        let store = ProofStore::open(&directory.path().join("proofs"), 10_000).unwrap().store;
        let id = |number: usize| number.to_string().parse::<SliceId>().unwrap();
        let token = "a".parse::<Scope>().unwrap();
        store.insert(&[(&token, &proof(&id(0), b""))]).unwrap();
        for number in 1..RECENT_LOOKED_AT_MAX {
            store.insert(&[(&Scope::OWNER, &proof(&id(number), b""))]).unwrap();
        }
        store.keep(&[(&Scope::OWNER, &proof(&id(1), b""))]).unwrap();
        assert_eq!(store.recent(&token, 10).unwrap().len(), 1, "the last that is looked at");
        store.keep(&[(&Scope::OWNER, &proof(&id(RECENT_LOOKED_AT_MAX), b""))]).unwrap();
        assert_eq!(store.recent(&token, 10).unwrap().len(), 0);
    }
}
