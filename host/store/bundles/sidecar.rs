//! Sidecar of a bundle, `DIR/ab/<64 hex>.receipts`: records in the order in which they were
//! appended. The database's records of the bundle can be rebuilt from them. `store/record_log.rs`
//! defines their framing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::private_file;
use crate::store::StoreError;
use crate::store::record_log::{LogRecord, RecordIter, RecordLog};

const DOMAIN: &str = "compute-host courier side file v1";

/// Several times the size of a receipt.
pub const RECORD_BYTES_MAX: usize = 4 << 10;

fn framing(digest: &Digest) -> RecordLog {
    RecordLog::new(DOMAIN, digest.as_bytes(), RECORD_BYTES_MAX)
}

/// Iterator over the records of one bundle, oldest first. Memory use is that of one read, for any
/// number of records.
pub struct SidecarRecords {
    path: PathBuf,
    /// `None` if there is no sidecar.
    frames: Option<RecordIter>,
    damaged_bytes: u64,
}

impl SidecarRecords {
    /// Returns the number of bytes so far that are not part of a valid record.
    pub const fn damaged_bytes(&self) -> u64 {
        self.damaged_bytes
    }

    pub(super) fn open(path: PathBuf, digest: &Digest) -> Result<Self, StoreError> {
        let at = StoreError::at(&path);
        let frames = match private_file::open(&path, OpenOptions::new().read(true)) {
            Ok(file) => {
                let end = file.metadata().map_err(at)?.len();
                Some(RecordIter::new(framing(digest), file, 0, end))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(cause) => return Err(at(cause)),
        };
        Ok(Self { path, frames, damaged_bytes: 0 })
    }
}

impl Iterator for SidecarRecords {
    type Item = Result<Vec<u8>, StoreError>;

    fn next(&mut self) -> Option<Result<Vec<u8>, StoreError>> {
        loop {
            match self.frames.as_mut()?.next()? {
                Ok(LogRecord::Whole { payload, .. }) => return Some(Ok(payload)),
                Ok(LogRecord::Damaged { bytes, .. }) => self.damaged_bytes += bytes,
                Err(cause) => return Some(Err(StoreError::at(&self.path)(cause))),
            }
        }
    }
}

/// Directory entries that must be durable together with a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// The sidecar's entry.
    Own,
    /// All entries of its directory: the bundle has just got its name.
    All,
}

/// Appends `record` to the sidecar at `path`, durably. Callers must not append to one file
/// concurrently.
pub(super) fn note(path: &Path, digest: &Digest, record: &[u8]) -> Result<(), StoreError> {
    note_with(Names::Own, path, digest, record)
}

/// Appends as [`note`] does, and syncs all names in the sidecar's directory.
pub(super) fn note_and_names(path: &Path, digest: &Digest, record: &[u8]) -> Result<(), StoreError> {
    note_with(Names::All, path, digest, record)
}

fn note_with(names: Names, path: &Path, digest: &Digest, record: &[u8]) -> Result<(), StoreError> {
    if !(1..=RECORD_BYTES_MAX).contains(&record.len()) {
        return Err(StoreError::RecordLength { path: path.to_owned(), bytes: record.len(), max: RECORD_BYTES_MAX });
    }
    let at = StoreError::at(path);
    let options = &mut OpenOptions::new();
    let file = private_file::open(path, options.read(true).write(true).create(true)).map_err(at)?;
    let framing = framing(digest);
    let end = append_at(&framing, &file).map_err(at)?;
    let appended = append(&file, end, &framing, record).and_then(|()| match names {
        Names::Own if end > 0 => Ok(()),
        // Synced last: a file system that commits its journal for the record writes the names with
        // it, and then this sync costs nothing.
        Names::Own | Names::All => private_file::sync_directory_of(path),
    });
    if appended.is_err() {
        // After an error, the record must not be in the file. If this cleanup fails too, the next
        // append truncates the file.
        let _ = if end == 0 { std::fs::remove_file(path) } else { file.set_len(end) };
    }
    appended.map_err(at)
}

fn append(file: &File, end: u64, framing: &RecordLog, record: &[u8]) -> io::Result<()> {
    if file.metadata()?.len() > end {
        file.set_len(end)?;
    }
    let mut bytes = Vec::with_capacity(RecordLog::bytes(record.len()));
    framing.write(end, record, &mut bytes);
    file.write_all_at(&bytes, end)?;
    file.sync_data()
}

/// Returns the offset of the next record: the end of the last valid one. A process that died during
/// an append leaves less than one record after that. More bytes than that are another kind of
/// damage, and stay in the file for inspection.
fn append_at(framing: &RecordLog, file: &File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    let torn_max = framing.bytes_max() as u64;
    let from = len.saturating_sub(2 * torn_max);
    let mut tail = vec![0; (len - from) as usize];
    file.read_exact_at(&mut tail, from)?;
    let last = (0..tail.len()).rev().find_map(|start| {
        let offset = from + start as u64;
        let payload = framing.read(offset, &tail[start..])?;
        Some(offset + RecordLog::bytes(payload.len()) as u64)
    });
    let end = last.unwrap_or(from);
    Ok(if len - end < torn_max { end } else { len })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct SideFile {
        directory: tempfile::TempDir,
        digest: Digest,
    }

    impl SideFile {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap(), digest: Digest::of(b"bundle") }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("side")
        }

        fn note(&self, record: &[u8]) {
            note(&self.path(), &self.digest, record).unwrap();
        }

        /// Returns all records, and the number of invalid bytes.
        fn notes(&self) -> (Vec<Vec<u8>>, u64) {
            let mut notes = SidecarRecords::open(self.path(), &self.digest).unwrap();
            let records = notes.by_ref().map(Result::unwrap).collect();
            (records, notes.damaged_bytes())
        }
    }

    #[test]
    fn a_torn_tail_is_cut_off_before_the_next_record() {
        let side = SideFile::new();
        side.note(b"first");
        side.note(&[7; RECORD_BYTES_MAX]);
        let whole = std::fs::read(side.path()).unwrap();
        for len in [26, 27, 29, 30, 1_000, whole.len() - 1] {
            std::fs::write(side.path(), &whole[..len]).unwrap();
            assert_eq!(side.notes(), (vec![b"first".to_vec()], len as u64 - 25));
            side.note(b"third");
            assert_eq!(side.notes(), (vec![b"first".to_vec(), b"third".to_vec()], 0), "{len} bytes");
        }
        std::fs::write(side.path(), &whole[..24]).unwrap();
        side.note(b"third");
        assert_eq!(side.notes(), (vec![b"third".to_vec()], 0), "and also where it is all that there is");
    }

    #[test]
    fn the_longest_record_stands_before_the_longest_torn_one() {
        let side = SideFile::new();
        side.note(b"first");
        for _ in 0..3 {
            side.note(&[7; RECORD_BYTES_MAX]);
        }
        let whole = std::fs::read(side.path()).unwrap();
        std::fs::write(side.path(), &whole[..whole.len() - 1]).unwrap();
        side.note(b"last");
        let (records, damaged) = side.notes();
        assert_eq!((records.len(), damaged), (4, 0));
        assert_eq!(records[3], b"last");
    }

    #[test]
    fn damage_that_no_crash_leaves_is_kept_and_what_is_noted_behind_it_is_read() {
        let side = SideFile::new();
        side.note(b"first");
        side.note(b"second");
        let mut bytes = std::fs::read(side.path()).unwrap();
        bytes[0] ^= 1;
        bytes.extend([7; 3 * RECORD_BYTES_MAX]);
        std::fs::write(side.path(), &bytes).unwrap();
        side.note(b"third");
        let records = vec![b"second".to_vec(), b"third".to_vec()];
        assert_eq!(side.notes(), (records, 25 + 3 * RECORD_BYTES_MAX as u64));
        assert_eq!(std::fs::read(side.path()).unwrap()[..bytes.len()], bytes);
    }

    #[test]
    fn a_record_has_a_byte_at_least_and_4096_at_most() {
        let side = SideFile::new();
        for wrong in [0, RECORD_BYTES_MAX + 1] {
            let error = note(&side.path(), &side.digest, &vec![7; wrong]).unwrap_err();
            assert!(matches!(error, StoreError::RecordLength { bytes, .. } if bytes == wrong), "{error}");
        }
        assert!(!side.path().exists());
        assert_eq!(side.notes(), (vec![], 0));
        side.note(&[7; RECORD_BYTES_MAX]);
        assert_eq!(side.notes().0[0].len(), RECORD_BYTES_MAX);
    }

    #[test]
    fn another_bundles_side_file_is_not_read_as_this_ones() {
        let side = SideFile::new();
        side.note(b"first");
        let mut notes = SidecarRecords::open(side.path(), &Digest::of(b"another")).unwrap();
        assert!(notes.next().is_none());
        assert_eq!(notes.damaged_bytes(), 25);
    }
}
