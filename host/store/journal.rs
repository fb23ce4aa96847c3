//! Journal of a database: a separate file with the latest state that was reported durable. It is
//! written after each flush. sled can open without its latest records and report no error. A
//! database that is behind its journal has lost changes.

use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use super::record::{self, RECORD_BYTES_MAX};
use crate::private_file;

/// State of a database.
pub trait JournalState: Copy + PartialEq + Serialize + DeserializeOwned {
    /// Returns the number of changes that led to this state. Each change increases the number.
    fn changes(&self) -> u64;
}

/// The file has two slots, which are written alternately. A torn write damages one slot and leaves
/// the other intact.
pub struct StoreJournal<T> {
    path: PathBuf,
    file: File,
    writes: AtomicU64,
    state: PhantomData<fn(T)>,
}

const PLACE_BYTES: usize = RECORD_BYTES_MAX;

impl<T: JournalState> StoreJournal<T> {
    /// Opens or creates the file. Returns the latest state in it.
    pub fn open(path: &Path) -> Result<(Self, Option<T>), StoreError> {
        let failed = |cause| StoreError::Io { path: path.to_owned(), cause };
        let options = &mut OpenOptions::new();
        let file = private_file::open(path, options.read(true).write(true).create(true).truncate(false));
        let file = file.map_err(failed)?;
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
        if read == 0 {
            // The file may be new. Its directory entry must survive a power failure, as its content
            // does.
            private_file::sync_directory_of(path).map_err(failed)?;
        }
        let state_at = |place: usize| {
            let place = &bytes[place * PLACE_BYTES..][..PLACE_BYTES];
            let len = u16::from_le_bytes(*place.first_chunk()?);
            record::decode::<T>(place.get(2..2 + usize::from(len))?).ok()
        };
        let (first, second) = (state_at(0), state_at(1));
        // The next write must go to the other slot, so that the latest state is not overwritten.
        let first_is_latest = first.map(|state| state.changes()) >= second.map(|state| state.changes());
        let (latest, writes) = if first_is_latest { (first, 1) } else { (second, 0) };
        Ok((Self { path: path.to_owned(), file, writes: AtomicU64::new(writes), state: PhantomData }, latest))
    }

    /// Writes the state and returns when it is on disk.
    pub fn write(&self, state: &T) -> Result<(), StoreError> {
        let record = record::encode(state);
        let len = u16::try_from(record.len()).expect("a record is shorter than 4 KiB");
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend(record);
        let place = self.writes.fetch_add(1, Ordering::Relaxed) % 2;
        let written = self.file.write_all_at(&bytes, place * PLACE_BYTES as u64);
        let synced = written.and_then(|()| self.file.sync_data());
        synced.map_err(|cause| StoreError::Io { path: self.path.clone(), cause })
    }
}

/// Returns whether a database in the state `found` has lost changes that its journal recorded.
pub fn is_behind<T: JournalState>(found: &T, journal: Option<&T>) -> bool {
    journal.is_some_and(|latest| {
        latest.changes() > found.changes() || (latest.changes() == found.changes() && latest != found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    impl JournalState for (u64, u64) {
        fn changes(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn the_latest_state_that_is_whole_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let open = || StoreJournal::<(u64, u64)>::open(&path).unwrap();
        let state = |changes| (changes, 7);
        let (journal, latest) = open();
        assert_eq!(latest, None);
        (1..=3).for_each(|changes| journal.write(&state(changes)).unwrap());
        let (journal, latest) = open();
        assert_eq!(latest, Some(state(3)));
        (4..=5).for_each(|changes| journal.write(&state(changes)).unwrap());
        assert_eq!(open().1, Some(state(5)));

        // A torn write leaves the previous state.
        let mut bytes = std::fs::read(&path).unwrap();
        let (first, second) = bytes.split_at_mut(PLACE_BYTES);
        let is_latest =
            |place: &[u8]| record::decode::<(u64, u64)>(&place[2..][..usize::from(place[0])]) == Ok(state(5));
        let torn = if is_latest(first) { first } else { second };
        torn[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (journal, latest) = open();
        assert_eq!(latest, Some(state(4)));
        journal.write(&state(6)).unwrap();
        assert_eq!(open().1, Some(state(6)));
    }

    #[test]
    fn a_database_is_behind_its_journal_or_not() {
        for (found, journal, expected) in [
            ((5, 7), None, false),
            ((5, 7), Some((4, 1)), false),
            ((5, 7), Some((5, 7)), false),
            ((5, 7), Some((5, 8)), true),
            ((5, 7), Some((6, 7)), true),
        ] {
            assert_eq!(is_behind(&found, journal.as_ref()), expected, "{found:?} {journal:?}");
        }
    }
}
