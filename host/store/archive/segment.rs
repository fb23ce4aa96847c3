//! Segment of the archive, `000001.acks`. The header is the magic `COURARCH` and a version (u16,
//! little-endian). Records follow, framed as `store/record_log.rs` defines, with this payload:
//!
//! | field           | type |                                                          |
//! |-----------------|------|----------------------------------------------------------|
//! | credit          | u64  | credit for the acknowledgement                           |
//! | credited        | u64  | time of the credit, in milliseconds since 1970-01-01 UTC |
//! | acknowledgement |      | canonical bytes (`receipt/acknowledgement.rs`)           |

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Damage;
use crate::private_file;
use crate::receipt::{ACKNOWLEDGEMENT_BYTES_MAX, Acknowledgement, NotAStatement, ReceiptId};
use crate::store::StoreError;
use crate::store::record_log::{LogRecord, RecordIter, RecordLog};

const MAGIC: &[u8; 8] = b"COURARCH";
const VERSION: u16 = 1;
const DOMAIN: &str = "compute-host courier archive v1";

/// Offset of a segment's first record.
pub(super) const HEAD_BYTES: u64 = 10;

const PAYLOAD_BYTES_MAX: usize = 16 + ACKNOWLEDGEMENT_BYTES_MAX;

/// Size of the longest record.
pub(super) const ENTRY_BYTES_MAX: u64 = RecordLog::bytes(PAYLOAD_BYTES_MAX) as u64;

/// An acknowledgement, and its credit for the carrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedAck {
    pub acknowledgement: Acknowledgement,
    pub credit: u64,
    pub credited_ms: u64,
}

/// Position of an existing or future entry. Segments count from 1. The default position is before
/// every entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ArchiveOffset {
    pub segment: u32,
    /// Offset in bytes from the start of the segment's file.
    pub offset: u64,
}

impl ArchivedAck {
    pub const fn id(&self) -> ReceiptId {
        self.acknowledgement.delivery().receipt
    }

    pub(super) fn write(&self, at: ArchiveOffset, bytes: &mut Vec<u8>) {
        let mut payload = self.credit.to_le_bytes().to_vec();
        payload.extend(self.credited_ms.to_le_bytes());
        payload.extend(self.acknowledgement.to_bytes());
        framing(at.segment).write(at.offset, &payload, bytes);
    }

    fn read(payload: &[u8]) -> Result<Self, NotAStatement> {
        let read = || {
            let (credit, rest) = payload.split_first_chunk()?;
            let (credited_ms, rest) = rest.split_first_chunk()?;
            Some((u64::from_le_bytes(*credit), u64::from_le_bytes(*credited_ms), rest))
        };
        let (credit, credited_ms, rest) = read().ok_or(NotAStatement::Damaged)?;
        Ok(Self { acknowledgement: Acknowledgement::from_kept_bytes(rest)?, credit, credited_ms })
    }
}

fn framing(segment: u32) -> RecordLog {
    RecordLog::new(DOMAIN, &segment.to_le_bytes(), PAYLOAD_BYTES_MAX)
}

/// The file of a segment.
pub(super) struct Segment {
    pub path: PathBuf,
    pub number: u32,
    pub file: File,
}

impl Segment {
    pub fn path(directory: &Path, number: u32) -> PathBuf {
        directory.join(format!("{number:06}.acks"))
    }

    /// Creates the segment without records, durably. Replaces an existing file.
    pub fn create(directory: &Path, number: u32) -> Result<Self, StoreError> {
        let path = Self::path(directory, number);
        let head = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        private_file::replace(&path, &head).map_err(StoreError::at(&path))?;
        Self::open(directory, number)
    }

    /// Opens the segment. [`Segment::head`] checks that the file is a segment.
    pub fn open(directory: &Path, number: u32) -> Result<Self, StoreError> {
        let path = Self::path(directory, number);
        let opened = private_file::open(&path, OpenOptions::new().read(true).write(true));
        Ok(Self { file: opened.map_err(StoreError::at(&path))?, path, number })
    }

    pub fn bytes(&self) -> Result<u64, StoreError> {
        Ok(self.file.metadata().map_err(StoreError::at(&self.path))?.len())
    }

    /// Checks the magic and the version.
    pub fn head(&self) -> Result<(), StoreError> {
        let mut head = [0; HEAD_BYTES as usize];
        match self.file.read_exact_at(&mut head, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            read => read.map_err(StoreError::at(&self.path))?,
        }
        match head.strip_prefix(MAGIC) {
            Some(&[low, high]) if u16::from_le_bytes([low, high]) == VERSION => Ok(()),
            Some(&[low, high]) => {
                let found = u16::from_le_bytes([low, high]);
                Err(StoreError::Format { path: self.path.clone(), found, known: VERSION })
            }
            _ => Err(self.damaged(0, "it does not begin with `COURARCH`")),
        }
    }

    /// Returns the entry at `offset`, in a segment that ends at `end`.
    pub fn entry(&self, offset: u64, end: u64) -> Result<ArchivedAck, StoreError> {
        let payload = framing(self.number).read_at(&self.file, offset, end).map_err(StoreError::at(&self.path))?;
        let payload = payload.ok_or_else(|| self.damaged(offset, "there is no whole record"))?;
        ArchivedAck::read(&payload).map_err(|cause| self.damaged(offset, cause))
    }

    /// Returns the entries from `offset` (inclusive) to `end` (exclusive).
    pub fn into_entries(self, offset: u64, end: u64) -> Result<Entries, StoreError> {
        let file = self.file.try_clone().map_err(StoreError::at(&self.path))?;
        let frames = RecordIter::new(framing(self.number), file, offset, end);
        Ok(Entries { segment: self, frames })
    }

    pub fn damaged(&self, offset: u64, reason: impl Display) -> StoreError {
        StoreError::Damaged(Damage { path: self.path.clone(), offset, reason: reason.to_string() })
    }
}

/// Iterator over a segment's entries, oldest first. Memory use is that of one read. A damaged part
/// yields an error, and the iteration continues.
pub(super) struct Entries {
    segment: Segment,
    frames: RecordIter,
}

impl Entries {
    /// Returns the offset of the next item.
    pub const fn offset(&self) -> u64 {
        self.frames.offset()
    }
}

impl Iterator for Entries {
    type Item = Result<(ArchiveOffset, ArchivedAck), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let segment = &self.segment;
        Some(match self.frames.next()? {
            Ok(LogRecord::Whole { offset, payload }) => {
                let place = ArchiveOffset { segment: segment.number, offset };
                let entry = ArchivedAck::read(&payload).map_err(|cause| segment.damaged(offset, cause));
                entry.map(|entry| (place, entry))
            }
            Ok(LogRecord::Damaged { offset, bytes }) => {
                Err(segment.damaged(offset, format!("{bytes} bytes are no record")))
            }
            Err(cause) => Err(StoreError::at(&segment.path)(cause)),
        })
    }
}
