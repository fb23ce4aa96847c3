//! What is kept in numbers: how much there is, what came of it, and a checksum of all that is alive. The tally is in the
//! database, changed with what it counts; and a copy of it is in a file of its own, the journal, written after each flush.
//! A database that has silently lost its latest changes is behind the journal.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::archive::Place;
use super::super::record::{self, RECORD_BYTES_MAX};
use crate::digest::Digest;

const LIVE_DOMAIN: &str = "compute-host courier live record v1";

/// Of the courier's database. Numbers only grow where nothing else is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many changes have been made.
    pub changes: u64,
    /// Receipts, and what was received: how many there are now, and the exclusive or of a hash of each.
    pub live: u64,
    pub checksum: u128,
    /// Now.
    pub pending: u64,
    pub pending_bytes: u64,
    /// Now.
    pub dead: u64,
    pub dead_bytes: u64,
    /// Tries of one receipt.
    pub attempts: u64,
    /// Those that did not end in a verified acknowledgement.
    pub failures: u64,
    /// Those of them that were answered by what is no acknowledgement of what was sent.
    pub invalid_acknowledgements: u64,
    /// Receipts that were acknowledged, their bytes, and the credit for them.
    pub credited: u64,
    pub credited_bytes: u64,
    pub credit: u64,
    /// Bundles that are here now, and their bytes, each counted as often as it was brought.
    pub received: u64,
    pub received_bytes: u64,
    /// Acknowledgements that are not in the archive yet, now.
    pub unarchived: u64,
    /// Where the archive ends.
    pub archive_end: Place,
}

impl Tally {
    pub(super) fn add_live(&mut self, key: &[u8], value: &[u8]) {
        self.live += 1;
        self.checksum ^= live_hash(key, value);
    }

    pub(super) fn add_credit(&mut self, bytes: u64, credit: u64) {
        self.credited += 1;
        self.credited_bytes = self.credited_bytes.saturating_add(bytes);
        self.credit = self.credit.saturating_add(credit);
    }

    pub(super) fn remove_live(&mut self, key: &[u8], value: &[u8]) {
        self.live = self.live.saturating_sub(1);
        self.checksum ^= live_hash(key, value);
    }
}

/// The tally, and what must change with it.
#[derive(Default)]
pub struct Latest {
    pub tally: Tally,
    /// If one is under way.
    pub look: Option<Look>,
}

/// A look at all that is alive, while that changes.
#[derive(Clone, Default)]
pub struct Look {
    /// What has a key before that has been counted; changes to it are counted as they are made.
    pub before: Vec<u8>,
    /// How many there were, and their checksum.
    pub found: Tally,
}

impl Look {
    /// Counts the next record.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.found.add_live(key, value);
        self.before = [key, &[0]].concat();
    }
}

fn live_hash(key: &[u8], value: &[u8]) -> u128 {
    // A key's length follows from its first byte.
    let digest = Digest::in_domain(LIVE_DOMAIN, &[key, value].concat());
    u128::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

/// The file has two places, written by turns, so that a write that is torn leaves the other.
pub struct Journal {
    path: PathBuf,
    file: File,
    writes: AtomicU64,
}

const PLACE_BYTES: usize = RECORD_BYTES_MAX;

impl Journal {
    /// Opens or makes the file, and returns the latest tally in it.
    pub fn open(path: &Path) -> Result<(Self, Option<Tally>), StoreError> {
        let failed = |cause| StoreError::Io { path: path.to_owned(), cause };
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = open.map_err(failed)?;
        let mut bytes = vec![0; 2 * PLACE_BYTES];
        let mut read = 0;
        while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let tally_at = |place: usize| {
            let place = &bytes[place * PLACE_BYTES..][..PLACE_BYTES];
            let len = u16::from_le_bytes(*place.first_chunk()?);
            record::decode::<Tally>(place.get(2..2 + usize::from(len))?).ok()
        };
        let (first, second) = (tally_at(0), tally_at(1));
        // The next write must not overwrite the latest.
        let first_is_latest = first.map(|tally| tally.changes) >= second.map(|tally| tally.changes);
        let (latest, writes) = if first_is_latest { (first, 1) } else { (second, 0) };
        Ok((Self { path: path.to_owned(), file, writes: AtomicU64::new(writes) }, latest))
    }

    /// Returns when the tally is on disk.
    pub fn write(&self, tally: &Tally) -> Result<(), StoreError> {
        let record = record::encode(tally);
        let len = u16::try_from(record.len()).expect("a record is shorter than 4 KiB");
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend(record);
        let place = self.writes.fetch_add(1, Ordering::Relaxed) % 2;
        let written = self.file.write_all_at(&bytes, place * PLACE_BYTES as u64);
        let synced = written.and_then(|()| self.file.sync_data());
        synced.map_err(|cause| StoreError::Io { path: self.path.clone(), cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_tally_that_is_whole_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let tally = |changes| Tally { changes, ..Tally::default() };
        let (journal, latest) = Journal::open(&path).unwrap();
        assert_eq!(latest, None);
        journal.write(&tally(1)).unwrap();
        journal.write(&tally(2)).unwrap();
        journal.write(&tally(3)).unwrap();
        let (journal, latest) = Journal::open(&path).unwrap();
        assert_eq!(latest, Some(tally(3)));
        journal.write(&tally(4)).unwrap();
        journal.write(&tally(5)).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, Some(tally(5)));

        // A write that is torn leaves the one before.
        let mut bytes = std::fs::read(&path).unwrap();
        let (first, second) = bytes.split_at_mut(PLACE_BYTES);
        let torn =
            if record::decode::<Tally>(&first[2..][..usize::from(first[0])]) == Ok(tally(5)) { first } else { second };
        torn[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (journal, latest) = Journal::open(&path).unwrap();
        assert_eq!(latest, Some(tally(4)));
        journal.write(&tally(6)).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, Some(tally(6)));
    }

    #[test]
    fn what_is_alive_adds_up_in_any_order() {
        let (mut one, mut other) = (Tally::default(), Tally::default());
        for at in [1_u8, 2, 3] {
            one.add_live(&[at], b"value");
        }
        for at in [3_u8, 1] {
            other.add_live(&[at], b"value");
        }
        one.remove_live(&[2], b"value");
        assert_eq!(one, other);
        one.remove_live(&[1], b"another value");
        assert_ne!((one.live, one.checksum), (1, 0));
    }
}
