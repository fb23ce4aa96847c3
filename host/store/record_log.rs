//! Record framing in an append-only file. A torn or damaged record is detected, and no other record
//! is lost. Integers are little-endian:
//!
//! | field    | type     |                                                                   |
//! |----------|----------|-------------------------------------------------------------------|
//! | length   | u32      | of the payload, from 1 to the maximum of the file                 |
//! | payload  |          |                                                                   |
//! | checksum | 16 bytes | BLAKE3 in the file's domain: owner, offset (u64), length, payload |
//!
//! The checksum covers the owner and the offset. So a record that was moved, or copied from another
//! file, is invalid.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::digest::Digest;

const LENGTH_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 16;

/// Bytes per read.
const READ_BYTES: usize = 64 << 10;

/// Framing rules of one file.
#[derive(Clone, Debug)]
pub(super) struct RecordLog {
    domain: &'static str,
    /// Owner of the file. All owners in one domain have the same length.
    owner: Vec<u8>,
    payload_bytes_max: usize,
}

impl RecordLog {
    pub fn new(domain: &'static str, owner: &[u8], payload_bytes_max: usize) -> Self {
        Self { domain, owner: owner.to_vec(), payload_bytes_max }
    }

    /// Returns the size of a record with a payload of `payload_bytes`.
    pub const fn bytes(payload_bytes: usize) -> usize {
        LENGTH_BYTES + payload_bytes + CHECKSUM_BYTES
    }

    /// Returns the size of the longest record.
    pub const fn bytes_max(&self) -> usize {
        Self::bytes(self.payload_bytes_max)
    }

    /// Appends to `bytes` the record that will be at `offset` in its file. Readers reject an empty
    /// payload, and one above the maximum.
    pub fn write(&self, offset: u64, payload: &[u8], bytes: &mut Vec<u8>) {
        let length = (payload.len() as u32).to_le_bytes();
        bytes.extend(length);
        bytes.extend(payload);
        bytes.extend(self.checksum(offset, length, payload));
    }

    /// Returns the payload of the record at the start of `bytes`, if it is valid. `offset` is the
    /// position of `bytes` in the file.
    pub fn read<'a>(&self, offset: u64, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
        let payload_bytes = u32::from_le_bytes(*length) as usize;
        if !(1..=self.payload_bytes_max).contains(&payload_bytes) {
            return None;
        }
        let (payload, rest) = rest.split_at_checked(payload_bytes)?;
        let checksum = rest.first_chunk::<CHECKSUM_BYTES>()?;
        (*checksum == self.checksum(offset, *length, payload)).then_some(payload)
    }

    /// Reads one record, as [`RecordLog::read`] does, from a file with records up to `end`.
    pub fn read_at(&self, file: &File, offset: u64, end: u64) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; self.bytes_max().min(end.saturating_sub(offset) as usize)];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(self.read(offset, &bytes).map(<[u8]>::to_vec))
    }

    fn checksum(&self, offset: u64, length: [u8; LENGTH_BYTES], payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let mut bytes = self.owner.clone();
        bytes.extend(offset.to_le_bytes());
        bytes.extend(length);
        bytes.extend(payload);
        *Digest::in_domain(self.domain, &bytes).as_bytes().first_chunk().expect("a digest has 32 bytes")
    }
}

/// Item that [`RecordIter`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogRecord {
    Whole {
        offset: u64,
        payload: Vec<u8>,
    },
    /// Number of bytes up to the next valid record.
    Damaged {
        offset: u64,
        bytes: u64,
    },
}

/// Iterator over the records of a file, in file order. Memory use is that of one read, for a file
/// of any length. After an invalid record, the iterator searches byte by byte for the next valid
/// one. A damaged length does not tell where the next record begins.
pub(super) struct RecordIter {
    framing: RecordLog,
    file: File,
    /// File offset of `buffer[start..]`.
    offset: u64,
    end: u64,
    buffer: Vec<u8>,
    start: usize,
}

impl RecordIter {
    /// Creates an iterator over the records from `offset` to `end`.
    pub const fn new(framing: RecordLog, file: File, offset: u64, end: u64) -> Self {
        Self { framing, file, offset, end, buffer: Vec::new(), start: 0 }
    }

    /// Returns the offset of the next item.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills the buffer until it contains the longest possible record, or the rest of the file.
    fn fill(&mut self) -> io::Result<()> {
        let held = self.buffer.len() - self.start;
        let left = self.end.saturating_sub(self.offset + held as u64);
        if held >= self.framing.bytes_max() || left == 0 {
            return Ok(());
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.resize(held + left.min(READ_BYTES as u64) as usize, 0);
        self.file.read_exact_at(&mut self.buffer[held..], self.offset + held as u64)
    }

    fn skip(&mut self, bytes: usize) {
        self.start += bytes;
        self.offset += bytes as u64;
    }
}

impl Iterator for RecordIter {
    type Item = io::Result<LogRecord>;

    fn next(&mut self) -> Option<io::Result<LogRecord>> {
        let from = self.offset;
        loop {
            if let Err(error) = self.fill() {
                // A read error ends the iteration, so that the iterator does not retry for ever.
                (self.offset, self.start) = (self.end, 0);
                self.buffer.clear();
                return Some(Err(error));
            }
            let rest = &self.buffer[self.start..];
            match self.framing.read(self.offset, rest) {
                Some(payload) if self.offset == from => {
                    let payload = payload.to_vec();
                    self.skip(RecordLog::bytes(payload.len()));
                    return Some(Ok(LogRecord::Whole { offset: from, payload }));
                }
                None if !rest.is_empty() => self.skip(1),
                _ if self.offset > from => {
                    return Some(Ok(LogRecord::Damaged { offset: from, bytes: self.offset - from }));
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const MAX: usize = 300;

    fn framing() -> RecordLog {
        RecordLog::new("compute-host test of frames", b"file", MAX)
    }

    fn found(bytes: &[u8]) -> Vec<LogRecord> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        RecordIter::new(framing(), file, 0, bytes.len() as u64).map(Result::unwrap).collect()
    }

    fn written(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for payload in payloads {
            framing().write(bytes.len() as u64, payload, &mut bytes);
        }
        bytes
    }

    #[test]
    fn a_flipped_bit_loses_the_record_that_it_is_in_and_no_other() {
        let payloads: [&[u8]; 3] = [b"first", b"second", b"third"];
        let (bytes, starts) = (written(&payloads), [0, 25, 51, 76]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let lost = starts.iter().rposition(|start| *start <= bit / 8).unwrap();
            let expected: Vec<LogRecord> = (0..3)
                .map(|record| match record == lost {
                    true => LogRecord::Damaged {
                        offset: starts[record] as u64,
                        bytes: (starts[record + 1] - starts[record]) as u64,
                    },
                    false => LogRecord::Whole { offset: starts[record] as u64, payload: payloads[record].to_vec() },
                })
                .collect();
            assert_eq!(found(&flipped), expected, "bit {bit}");
        }
    }

    #[test]
    fn what_was_torn_moved_or_is_another_files_is_no_record() {
        let bytes = written(&[b"first", b"second"]);
        for len in 26..bytes.len() {
            let torn = LogRecord::Damaged { offset: 25, bytes: len as u64 - 25 };
            assert_eq!(found(&bytes[..len])[1..], [torn], "{len} bytes");
        }
        assert_eq!(found(&bytes[25..]), [LogRecord::Damaged { offset: 0, bytes: 26 }]);
        let other = RecordLog::new("compute-host test of frames", b"fill", MAX);
        assert_eq!(other.read(0, &bytes), None);
        assert_eq!(framing().read(0, &bytes), Some(&b"first"[..]));
        for wrong in [&b""[..], &[7; MAX + 1]] {
            assert_eq!(framing().read(0, &written(&[wrong])), None, "{} bytes", wrong.len());
        }
    }

    #[test]
    fn records_that_lie_across_two_reads_are_read() {
        let payloads: Vec<Vec<u8>> = (0..2_000_u32).map(|i| i.to_le_bytes().repeat(1 + i as usize % 75)).collect();
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let mut bytes = written(&payloads);
        assert!(bytes.len() > 4 * READ_BYTES);
        let whole =
            |found: &Vec<LogRecord>| found.iter().filter(|found| matches!(found, LogRecord::Whole { .. })).count();
        assert_eq!(whole(&found(&bytes)), 2_000);
        // The search also crosses damage that is longer than one read.
        bytes[1_000..2 * READ_BYTES].fill(0);
        let found = found(&bytes);
        assert_eq!(found.len(), whole(&found) + 1);
        let Some(LogRecord::Whole { payload, .. }) = found.last() else { panic!("the last record is whole") };
        assert_eq!(payload, payloads[1_999]);
    }

    #[test]
    fn a_file_that_is_shorter_than_it_is_said_to_be_is_an_error_once() {
        let mut frames = RecordIter::new(framing(), tempfile::tempfile().unwrap(), 0, 10);
        assert!(frames.next().unwrap().is_err());
        assert!(frames.next().is_none());
    }
}
