//! Journal of the offers since the board was saved, in a file next to the board's. An offer is
//! acknowledged when it is in the journal. Writing the whole board for each offer would cost the
//! provider nothing and this node megabytes.
//!
//! The file is a sequence of records: length (u16), the payload's checksum (8 bytes of its BLAKE3
//! digest in a domain of its own), payload. Numbers are little-endian. The payload is bincode 1.3
//! with integers of fixed size: the board's revision after the offer, then the offer. Records are
//! in the order of revisions. A write that a crash has torn ends the sequence.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bincode::Options as _;
use serde::{Deserialize, Serialize};

use super::ModuleStanding;
use super::file::BoardFileError;
use super::offer::{Lane, Offer, Price, ProviderName};
use crate::digest::Digest;
use crate::private_file;

const DOMAIN: &str = "compute-host price journal v1";

const CHECKSUM_BYTES: usize = 8;
const HEAD_BYTES: usize = size_of::<u16>() + CHECKSUM_BYTES;

/// Longest payload: an offer in the lane of a module, by the provider with the longest name.
const PAYLOAD_BYTES_MAX: usize = 256;

/// Length at which the board is saved and the journal emptied: some ten thousand offers, which take
/// some milliseconds to read.
pub const JOURNAL_BYTES_MAX: u64 = 1 << 20;

/// Limit on reading a journal: the last group of offers may have made it longer than
/// [`JOURNAL_BYTES_MAX`].
const READ_BYTES_MAX: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct BoardRecord {
    revision: u64,
    price: Price,
    lane: Lane,
    provider: ProviderName,
    time_ms: u64,
    standing: ModuleStanding,
}

/// An offer, with the revision of the board after it and the standing of its module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    pub revision: u64,
    pub offer: Offer,
    pub standing: ModuleStanding,
}

/// The journal of one board.
pub struct OfferJournal {
    path: PathBuf,
    /// Offers that were recorded but not written yet.
    pending: Mutex<Pending>,
    /// Locked while writing the file.
    written: Mutex<JournalPosition>,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    revision: u64,
}

#[derive(Default)]
struct JournalPosition {
    file: Option<File>,
    /// Offset of the next record.
    len: u64,
    /// All offers up to this revision are on disk, here or in the board's file, except for `lost`.
    revision: u64,
    /// First and last revision of the offers that could not be written.
    lost: Option<(u64, u64)>,
}

impl OfferJournal {
    /// Opens the journal of the board at `board`, and returns its entries; none if it cannot be
    /// read.
    pub fn open(board: &Path) -> (Self, Vec<JournalEntry>) {
        let path = board.with_extension("journal");
        let (entries, len) =
            private_file::read_shared(&path, READ_BYTES_MAX).map(|bytes| entries(&bytes)).unwrap_or_default();
        let revision = entries.last().map_or(0, |last| last.revision);
        let written = JournalPosition { file: None, len: len as u64, revision, lost: None };
        (Self { path, pending: Mutex::default(), written: Mutex::new(written) }, entries)
    }

    /// Adds an offer to the pending ones, to be written together. Calls must be in the order of
    /// revisions.
    pub fn note(&self, entry: &JournalEntry) {
        let JournalEntry { revision, offer, standing } = entry;
        let Offer { price, lane, provider, time_ms } = offer.clone();
        let record = BoardRecord { revision: *revision, price, lane, provider, time_ms, standing: *standing };
        let mut pending = lock(&self.pending);
        append(&mut pending.bytes, &record);
        pending.revision = *revision;
    }

    /// Returns the length of the file in bytes.
    pub fn bytes(&self) -> u64 {
        lock(&self.written).len
    }

    /// Flushes all offers up to `revision` to disk. Concurrent callers share one write.
    pub fn flush(&self, revision: u64) -> Result<(), BoardFileError> {
        let mut written = lock(&self.written);
        let failed = |cause| BoardFileError::new(&self.path, cause);
        if written.lost.is_some_and(|(first, last)| (first..=last).contains(&revision)) {
            return Err(failed(io::Error::other("the write that had it failed")));
        }
        if written.revision >= revision {
            return Ok(());
        }
        let pending = std::mem::take(&mut *lock(&self.pending));
        if let Err(cause) = written.append(&self.path, &pending.bytes) {
            // The board in memory has these offers and saves them later. Until then they are not
            // acknowledged.
            let first = written.lost.map_or(written.revision + 1, |(first, _)| first);
            written.lost = Some((first, pending.revision));
            return Err(failed(cause));
        }
        written.revision = written.revision.max(pending.revision);
        Ok(())
    }

    /// Removes the entries that a saved board of this revision holds. Later entries stay.
    pub fn drop_up_to(&self, revision: u64) -> Result<(), BoardFileError> {
        let mut written = lock(&self.written);
        if written.len > 0 {
            written.shorten(&self.path, revision).map_err(|cause| BoardFileError::new(&self.path, cause))?;
        }
        (written.revision, written.lost) = (written.revision.max(revision), None);
        Ok(())
    }
}

impl JournalPosition {
    fn append(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
                    private_file::make_directory(directory)?;
                }
                let mut options = OpenOptions::new();
                let file = private_file::open(path, options.write(true).create(true).truncate(false))?;
                // Removes bytes of a torn write, or of a file that is not a journal.
                file.set_len(self.len)?;
                private_file::sync_directory_of(path)?;
                self.file.insert(file)
            }
        };
        // Overwrites what an earlier failed write may have left.
        file.write_all_at(bytes, self.len)?;
        file.sync_data()?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn shorten(&mut self, path: &Path, revision: u64) -> io::Result<()> {
        let kept = if self.revision > revision {
            entries(&private_file::read_shared(path, READ_BYTES_MAX)?).0
        } else {
            Vec::new()
        };
        let mut bytes = Vec::new();
        for JournalEntry { revision, offer, standing } in kept.into_iter().filter(|entry| entry.revision > revision) {
            let Offer { price, lane, provider, time_ms } = offer;
            append(&mut bytes, &BoardRecord { revision, price, lane, provider, time_ms, standing });
        }
        private_file::replace(path, &bytes)?;
        (self.file, self.len) = (None, bytes.len() as u64);
        Ok(())
    }
}

fn options() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(PAYLOAD_BYTES_MAX as u64).reject_trailing_bytes()
}

fn append(bytes: &mut Vec<u8>, record: &BoardRecord) {
    let payload = options().serialize(record).expect("an offer is shorter than the limit");
    bytes.extend((payload.len() as u16).to_le_bytes());
    bytes.extend(checksum(&payload));
    bytes.extend(payload);
}

/// Returns the records before the first incomplete one, and their length in bytes.
fn entries(bytes: &[u8]) -> (Vec<JournalEntry>, usize) {
    let (mut entries, mut rest, mut last) = (Vec::new(), bytes, 0);
    while let Some((entry, after)) = entry(rest).filter(|(entry, _)| entry.revision > last) {
        (last, rest) = (entry.revision, after);
        entries.push(entry);
    }
    (entries, bytes.len() - rest.len())
}

fn entry(bytes: &[u8]) -> Option<(JournalEntry, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (found, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
    let (payload, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    if *found != checksum(payload) {
        return None;
    }
    let BoardRecord { revision, price, lane, provider, time_ms, standing } = options().deserialize(payload).ok()?;
    Some((JournalEntry { revision, offer: Offer { price, lane, provider, time_ms }, standing }, rest))
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    *Digest::in_domain(DOMAIN, payload).as_bytes().first_chunk().expect("a digest has 32 bytes")
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

const _: () = assert!(HEAD_BYTES + PAYLOAD_BYTES_MAX <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn entry_of(revision: u64) -> JournalEntry {
        let provider: ProviderName = "p".repeat(ProviderName::BYTES_MAX).parse().unwrap();
        let lane = Lane::Module(Digest::of(&revision.to_le_bytes()));
        let offer = Offer { price: Price::new(revision).unwrap(), lane, provider, time_ms: u64::MAX };
        JournalEntry {
            revision,
            offer,
            standing: [ModuleStanding::Unknown, ModuleStanding::Stored][revision as usize % 2],
        }
    }

    fn held(board: &Path) -> Vec<u64> {
        OfferJournal::open(board).1.iter().map(|entry| entry.revision).collect()
    }

    #[test]
    fn a_flushed_offer_is_read_again_and_a_torn_one_ends_the_journal() {
        let directory = tempfile::tempdir().unwrap();
        let board = directory.path().join("board.bin");
        let (journal, found) = OfferJournal::open(&board);
        assert_eq!(found, []);
        for revision in 1..=3 {
            journal.note(&entry_of(revision));
            journal.flush(revision).unwrap();
        }
        journal.note(&entry_of(4));
        let path = directory.path().join("board.journal");
        assert_eq!(OfferJournal::open(&board).1, [1, 2, 3].map(entry_of), "what is not flushed is not there");
        let bytes = std::fs::read(&path).unwrap();
        let of_one = bytes.len() / 3;
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert_eq!(held(&board).len(), len / of_one, "{len} bytes");
        }
        for byte in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[byte] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert_eq!(held(&board).len(), byte / of_one, "byte {byte}");
        }
        // The next entry replaces the torn record.
        std::fs::write(&path, &bytes[..2 * of_one + 5]).unwrap();
        let (journal, _) = OfferJournal::open(&board);
        journal.note(&entry_of(9));
        journal.flush(9).unwrap();
        assert_eq!(held(&board), [1, 2, 9]);
    }

    #[test]
    fn a_saved_board_takes_what_it_holds_out_of_the_journal_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let board = directory.path().join("board.bin");
        let (journal, _) = OfferJournal::open(&board);
        (1..=5).for_each(|revision| journal.note(&entry_of(revision)));
        journal.flush(5).unwrap();
        journal.drop_up_to(3).unwrap();
        assert_eq!(held(&board), [4, 5]);
        journal.note(&entry_of(6));
        journal.flush(6).unwrap();
        assert_eq!(held(&board), [4, 5, 6]);
        journal.drop_up_to(6).unwrap();
        journal.flush(6).unwrap();
        assert_eq!((held(&board), journal.bytes()), (vec![], 0));
    }

    #[test]
    fn a_journal_that_cannot_be_written_tells_nobody() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), b"").unwrap();
        let (journal, _) = OfferJournal::open(&directory.path().join("file/board.bin"));
        journal.note(&entry_of(1));
        assert!(journal.flush(1).is_err());
        assert!(journal.flush(1).is_err(), "nor the second time");
        // When a shared write fails, neither caller is acknowledged.
        std::fs::write(directory.path().join("later"), b"").unwrap();
        let (journal, _) = OfferJournal::open(&directory.path().join("later/board.bin"));
        (1..=2).for_each(|revision| journal.note(&entry_of(revision)));
        assert!(journal.flush(1).is_err());
        std::fs::remove_file(directory.path().join("later")).unwrap();
        assert!(journal.flush(2).is_err());
        journal.note(&entry_of(3));
        journal.flush(3).unwrap();
        assert!(journal.flush(2).is_err(), "also when another has been written since");
        journal.drop_up_to(3).unwrap();
        journal.flush(2).unwrap();
    }
}
