//! Index of a sealed segment, `000001.index`. The header is the magic `COURINDX` and a version
//! (u16, little-endian). Records follow, framed as `store/record_log.rs` defines:
//!
//! | payload                   |                                                                 |
//! |---------------------------|-----------------------------------------------------------------|
//! | u32                       | number of entries in the segment                                |
//! | 128 times (16 bytes, u64) | a block of ids and offsets, by id; of equal ids, the last first |
//! | ...                       | more blocks; the last one may be shorter                        |
//!
//! Each block has its own checksum, and a search verifies each block that it reads. So a search can
//! prove that an id is absent from a few blocks, without a read of the whole index.

use std::cmp::Reverse;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::Damage;
use crate::private_file;
use crate::receipt::ReceiptId;
use crate::store::StoreError;
use crate::store::record_log::RecordLog;

const MAGIC: &[u8; 8] = b"COURINDX";
const VERSION: u16 = 1;
const DOMAIN: &str = "compute-host courier archive index v1";

/// A search of a full segment reads 12 blocks of 3 KiB.
const BLOCK_ENTRIES: usize = 128;
const ENTRY_BYTES: usize = ReceiptId::BYTES + 8;
const BLOCK_BYTES: usize = BLOCK_ENTRIES * ENTRY_BYTES;

const NOT_AN_INDEX: &str = "it is no index of its segment";

const COUNT_AT: u64 = 10;
const BLOCKS_AT: u64 = COUNT_AT + RecordLog::bytes(4) as u64;

fn framing(segment: u32) -> RecordLog {
    RecordLog::new(DOMAIN, &segment.to_le_bytes(), BLOCK_BYTES)
}

/// A receipt's id, and the offset of its entry in the segment.
pub(super) type IndexEntry = (ReceiptId, u64);

/// An open index. Each search opens it again: searches are rare, and the number of segments grows
/// without limit, but the number of open files is limited.
pub(super) struct ArchiveIndex {
    path: PathBuf,
    file: File,
    framing: RecordLog,
    count: u32,
}

impl ArchiveIndex {
    pub fn path(directory: &Path, segment: u32) -> PathBuf {
        directory.join(format!("{segment:06}.index"))
    }

    /// Writes the index of a segment, durably, and replaces an existing one. Equal entries give
    /// equal bytes.
    pub fn write(directory: &Path, segment: u32, entries: Vec<IndexEntry>) -> Result<(), StoreError> {
        let path = Self::path(directory, segment);
        private_file::replace(&path, &to_bytes(segment, entries)).map_err(StoreError::at(&path))
    }

    pub fn open(directory: &Path, segment: u32) -> Result<Self, StoreError> {
        let (path, framing) = (Self::path(directory, segment), framing(segment));
        let at = StoreError::at(&path);
        let file = match private_file::open(&path, OpenOptions::new().read(true)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged(&path, 0, "it is missing")),
            file => file.map_err(at)?,
        };
        let mut head = [0; BLOCKS_AT as usize];
        match file.read_exact_at(&mut head, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            read => read.map_err(at)?,
        }
        let (magic_and_version, count) = head.split_at(COUNT_AT as usize);
        let [low, high] = [magic_and_version[8], magic_and_version[9]];
        let found = u16::from_le_bytes([low, high]);
        let count = framing.read(COUNT_AT, count).and_then(|payload| payload.try_into().ok()).map(u32::from_le_bytes);
        let bytes = file.metadata().map_err(at)?.len();
        match count {
            _ if !magic_and_version.starts_with(MAGIC) => Err(damaged(&path, 0, NOT_AN_INDEX)),
            _ if found != VERSION => Err(StoreError::Format { path, found, known: VERSION }),
            Some(count) if bytes == block_at(blocks(count)) - missing_bytes(count) => {
                Ok(Self { path, file, framing, count })
            }
            _ => Err(damaged(&path, COUNT_AT, NOT_AN_INDEX)),
        }
    }

    /// Returns at most `max` indexed entries with ids from `low` to `high`, both inclusive.
    pub fn between(&self, low: ReceiptId, high: ReceiptId, max: usize) -> Result<Vec<IndexEntry>, StoreError> {
        // Binary search for the first block that begins at `low` or after it.
        let (mut from, mut to) = (0, blocks(self.count));
        while from < to {
            let middle = from.midpoint(to);
            let begins = self.block(middle)?[0].0;
            if begins < low { from = middle + 1 } else { to = middle }
        }
        // The first match may be in the block before that one.
        let mut found = Vec::new();
        for number in from.saturating_sub(1)..blocks(self.count) {
            for entry in self.block(number)? {
                if entry.0 > high || found.len() >= max {
                    return Ok(found);
                }
                if entry.0 >= low {
                    found.push(entry);
                }
            }
        }
        Ok(found)
    }

    /// Returns whether the index contains all of `entries`.
    pub fn holds(&self, entries: &[IndexEntry]) -> Result<bool, StoreError> {
        let mut all = self.between([0; ReceiptId::BYTES].into(), [u8::MAX; ReceiptId::BYTES].into(), usize::MAX)?;
        all.sort_unstable();
        Ok(entries.iter().all(|entry| all.binary_search(entry).is_ok()))
    }

    /// Returns the entries of a block: at least one, if `number` is that of an existing block.
    fn block(&self, number: u64) -> Result<Vec<IndexEntry>, StoreError> {
        let (offset, last) = (block_at(number), number + 1 == blocks(self.count));
        let end = block_at(number + 1) - if last { missing_bytes(self.count) } else { 0 };
        let read = self.framing.read_at(&self.file, offset, end).map_err(StoreError::at(&self.path))?;
        let payload = read.filter(|payload| offset + RecordLog::bytes(payload.len()) as u64 == end);
        let payload = payload.ok_or_else(|| damaged(&self.path, offset, NOT_AN_INDEX))?;
        let (entries, _) = payload.as_chunks::<ENTRY_BYTES>();
        let entry = |bytes: &[u8; ENTRY_BYTES]| {
            let (id, offset) = bytes.split_first_chunk::<{ ReceiptId::BYTES }>()?;
            Some(((*id).into(), u64::from_le_bytes(offset.try_into().ok()?)))
        };
        Ok(entries.iter().filter_map(entry).collect())
    }
}

fn to_bytes(segment: u32, mut entries: Vec<IndexEntry>) -> Vec<u8> {
    entries.sort_unstable_by_key(|&(id, offset)| (id, Reverse(offset)));
    let framing = framing(segment);
    let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
    framing.write(COUNT_AT, &(entries.len() as u32).to_le_bytes(), &mut bytes);
    for block in entries.chunks(BLOCK_ENTRIES) {
        let entry = |(id, offset): &IndexEntry| [&id.as_bytes()[..], &offset.to_le_bytes()].concat();
        let payload: Vec<u8> = block.iter().flat_map(entry).collect();
        framing.write(bytes.len() as u64, &payload, &mut bytes);
    }
    bytes
}

fn blocks(count: u32) -> u64 {
    u64::from(count).div_ceil(BLOCK_ENTRIES as u64)
}

const fn block_at(number: u64) -> u64 {
    BLOCKS_AT + number * RecordLog::bytes(BLOCK_BYTES) as u64
}

/// Returns by how many bytes the last block is shorter than the others.
fn missing_bytes(count: u32) -> u64 {
    (blocks(count) * BLOCK_ENTRIES as u64 - u64::from(count)) * ENTRY_BYTES as u64
}

fn damaged(path: &Path, offset: u64, reason: &str) -> StoreError {
    StoreError::Damaged(Damage { path: path.to_owned(), offset, reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns entries with unsorted ids, some of them equal.
    fn entries(count: u32) -> Vec<IndexEntry> {
        let id = |n: u32| {
            let n = if n.is_multiple_of(3) { n / 2 } else { n };
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
            id.into()
        };
        (0..count).map(|n| (id(n), 10 + 300 * u64::from(n))).collect()
    }

    fn written(count: u32) -> (tempfile::TempDir, ArchiveIndex) {
        let directory = tempfile::tempdir().unwrap();
        ArchiveIndex::write(directory.path(), 7, entries(count)).unwrap();
        let index = ArchiveIndex::open(directory.path(), 7).unwrap();
        (directory, index)
    }

    #[test]
    fn a_search_finds_what_reading_all_of_it_finds() {
        for count in [0, 1, 127, 128, 129, 256, 1_000] {
            let (_directory, index) = written(count);
            let mut sorted = entries(count);
            sorted.sort_by_key(|&(id, offset)| (id, Reverse(offset)));
            let (least, greatest) = ([0; 16].into(), [255; 16].into());
            assert_eq!(index.between(least, greatest, usize::MAX).unwrap(), sorted);
            assert!(index.holds(&entries(count)).unwrap());
            assert!(!index.holds(&entries(count + 1)).unwrap());
            for at in (0..sorted.len()).step_by(7) {
                let (low, high) = (sorted[at].0, sorted[(at + 150).min(sorted.len() - 1)].0);
                let is_sought = |entry: &&IndexEntry| (low..=high).contains(&entry.0);
                let all: Vec<IndexEntry> = sorted.iter().filter(is_sought).copied().collect();
                assert_eq!(index.between(low, high, usize::MAX).unwrap(), all);
                assert_eq!(index.between(low, high, 3).unwrap(), all[..all.len().min(3)]);
                assert_eq!(index.between(low, low, 1).unwrap(), all[..1], "of equal ids the last comes first");
                let mut absent = *low.as_bytes();
                absent[15] = 1;
                assert_eq!(index.between(absent.into(), absent.into(), 1).unwrap(), []);
            }
        }
    }

    #[test]
    fn damage_is_an_error_and_never_says_that_something_is_not_there() {
        let (directory, index) = written(300);
        let whole = std::fs::read(&index.path).unwrap();
        let sought: Vec<IndexEntry> =
            entries(300).into_iter().filter(|(_, offset)| *offset >= 10 + 300 * 200).collect();
        let search = || -> Result<Vec<Option<IndexEntry>>, StoreError> {
            let index = ArchiveIndex::open(directory.path(), 7)?;
            sought.iter().map(|(id, _)| Ok(index.between(*id, *id, 1)?.first().copied())).collect()
        };
        let found = search().unwrap();
        assert!(found.iter().all(Option::is_some));
        for bit in (0..whole.len() * 8).step_by(41) {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&index.path, &flipped).unwrap();
            assert!(search().is_err(), "bit {bit}");
        }
        for len in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
            std::fs::write(&index.path, &whole[..len]).unwrap();
            assert!(search().is_err(), "{len} bytes");
        }
        std::fs::write(ArchiveIndex::path(directory.path(), 8), &whole).unwrap();
        assert!(ArchiveIndex::open(directory.path(), 8).is_err(), "it is another segment's");
        std::fs::write(&index.path, &whole).unwrap();
        assert_eq!(search().unwrap(), found);
    }
}
