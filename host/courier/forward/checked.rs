//! Verified reading of a bundle: the last piece is returned only if all bytes match the digest. So
//! a damaged bundle never reaches the peer completely.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;

use super::BundleContent;
use crate::digest::{Digest, Hasher};
use crate::proof::Blob;

/// Bytes of a file in memory at a time.
const PIECE_BYTES: u64 = 256 << 10;

/// Reason why reading stops.
#[derive(Debug)]
pub enum ReadFault {
    /// The bytes do not match the digest.
    Damaged,
    Io(io::Error),
}

/// The pieces of a bundle.
pub struct CheckedPieces {
    rest: RestOfBundle,
    bundle: Blob,
}

enum RestOfBundle {
    /// The complete, verified bundle.
    Whole(Bytes),
    File {
        file: File,
        offset: u64,
        hasher: Box<Hasher>,
    },
    Nothing,
}

impl CheckedPieces {
    pub fn new(content: BundleContent, bundle: Blob) -> Result<Self, ReadFault> {
        let (length, rest) = match content {
            BundleContent::Bytes(bytes) => (bytes.len() as u64, RestOfBundle::Whole(bytes)),
            BundleContent::File(file) => {
                let length = file.metadata().map_err(ReadFault::Io)?.len();
                (length, RestOfBundle::File { file, offset: 0, hasher: Box::default() })
            }
        };
        let is_bundle = |bytes: &[u8]| Digest::of(bytes) == bundle.blake3;
        match &rest {
            _ if length != bundle.bytes => Err(ReadFault::Damaged),
            _ if length == 0 && !is_bundle(b"") => Err(ReadFault::Damaged),
            RestOfBundle::Whole(bytes) if !is_bundle(bytes) => Err(ReadFault::Damaged),
            _ => Ok(Self { rest, bundle }),
        }
    }

    /// Returns the complete bundle if it is in memory and has not been read. It is verified.
    pub fn whole(&self) -> Option<Bytes> {
        match &self.rest {
            RestOfBundle::Whole(bytes) => Some(bytes.clone()),
            RestOfBundle::File { .. } | RestOfBundle::Nothing => None,
        }
    }

    /// Returns the next bytes, or `None` after the last. Blocks while it reads a file.
    pub fn next(&mut self) -> Result<Option<Bytes>, ReadFault> {
        match std::mem::replace(&mut self.rest, RestOfBundle::Nothing) {
            RestOfBundle::Nothing => Ok(None),
            RestOfBundle::Whole(bytes) => Ok(Some(bytes)),
            RestOfBundle::File { offset, .. } if offset == self.bundle.bytes => Ok(None),
            RestOfBundle::File { file, offset, mut hasher } => {
                let length = PIECE_BYTES.min(self.bundle.bytes - offset);
                let mut piece = vec![0; usize::try_from(length).map_err(|_| ReadFault::Damaged)?];
                file.read_exact_at(&mut piece, offset).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => ReadFault::Damaged,
                    _ => ReadFault::Io(error),
                })?;
                hasher.update(&piece);
                let offset = offset + length;
                if offset == self.bundle.bytes && hasher.finish() != self.bundle.blake3 {
                    return Err(ReadFault::Damaged);
                }
                self.rest = RestOfBundle::File { file, offset, hasher };
                Ok(Some(piece.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn blob(bytes: &[u8]) -> Blob {
        Blob { blake3: Digest::of(bytes), bytes: bytes.len() as u64 }
    }

    fn file(bytes: &[u8]) -> BundleContent {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        BundleContent::File(file)
    }

    fn read(content: BundleContent, bundle: Blob) -> (Vec<u8>, Option<ReadFault>) {
        let mut read = Vec::new();
        let mut checked = match CheckedPieces::new(content, bundle) {
            Ok(checked) => checked,
            Err(fault) => return (read, Some(fault)),
        };
        loop {
            match checked.next() {
                Ok(Some(piece)) => read.extend(piece),
                Ok(None) => return (read, None),
                Err(fault) => return (read, Some(fault)),
            }
        }
    }

    const LENGTHS: [usize; 6] = [0, 1, 1000, PIECE_BYTES as usize, PIECE_BYTES as usize + 1, 3 * PIECE_BYTES as usize];

    #[test]
    fn what_is_read_is_the_bundle() {
        for length in LENGTHS {
            let bytes = vec![7; length];
            for content in [file(&bytes), BundleContent::Bytes(bytes.clone().into())] {
                let (read, fault) = read(content, blob(&bytes));
                assert!(fault.is_none() && read == bytes, "{length} bytes: {fault:?}");
            }
        }
    }

    #[test]
    fn a_file_is_read_from_its_beginning_by_each_who_has_a_handle() {
        let BundleContent::File(mut first) = file(b"bundle") else { unreachable!() };
        let second = first.try_clone().unwrap();
        first.seek(io::SeekFrom::Start(3)).unwrap();
        for handle in [first, second] {
            assert_eq!(read(BundleContent::File(handle), blob(b"bundle")).0, b"bundle");
        }
    }

    #[test]
    fn what_is_not_the_bundle_is_never_read_whole() {
        for length in LENGTHS {
            let bytes = vec![7; length];
            let mut longer = bytes.clone();
            longer.push(7);
            let mut wrong = vec![&longer[..]];
            let mut changed = bytes.clone();
            if let Some(last) = changed.last_mut() {
                *last ^= 1;
                wrong.extend([&changed[..], &bytes[1..]]);
            }
            for wrong in wrong {
                for content in [file(wrong), BundleContent::Bytes(wrong.to_vec().into())] {
                    let (read, fault) = read(content, blob(&bytes));
                    assert!(matches!(fault, Some(ReadFault::Damaged)), "{length} bytes: {fault:?}");
                    assert!(read.len() < length.max(1), "{length} bytes, of which {} came out", read.len());
                }
            }
        }
        let nothing = Blob { blake3: Digest::of(b"x"), bytes: 0 };
        for content in [file(b""), BundleContent::Bytes(Bytes::new())] {
            assert!(matches!(read(content, nothing).1, Some(ReadFault::Damaged)));
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_noticed() {
        let bytes = vec![7; 2 * PIECE_BYTES as usize];
        let BundleContent::File(file) = file(&bytes) else { unreachable!() };
        let mut checked = CheckedPieces::new(BundleContent::File(file.try_clone().unwrap()), blob(&bytes)).unwrap();
        assert!(matches!(checked.next(), Ok(Some(_))));
        file.set_len(PIECE_BYTES + 1).unwrap();
        assert!(matches!(checked.next(), Err(ReadFault::Damaged)));
    }
}
