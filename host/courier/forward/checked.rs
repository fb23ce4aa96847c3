//! Verified reading of a bundle: the last piece is returned only if all bytes match the digest. So
//! a damaged bundle never reaches the peer completely.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;

use super::Content;
use crate::digest::{Digest, Hasher};
use crate::proof::Blob;

/// Bytes of a file in memory at a time.
const PIECE_BYTES: u64 = 256 << 10;

/// Reason why reading stops.
#[derive(Debug)]
pub enum Fault {
    /// The bytes do not match the digest.
    Damaged,
    Io(io::Error),
}

/// The pieces of a bundle.
pub struct Checked {
    rest: Rest,
    bundle: Blob,
}

enum Rest {
    /// The complete, verified bundle.
    Whole(Bytes),
    File {
        file: File,
        offset: u64,
        hasher: Box<Hasher>,
    },
    Nothing,
}

impl Checked {
    pub fn new(content: Content, bundle: Blob) -> Result<Self, Fault> {
        let (length, rest) = match content {
            Content::Bytes(bytes) => (bytes.len() as u64, Rest::Whole(bytes)),
            Content::File(file) => {
                let length = file.metadata().map_err(Fault::Io)?.len();
                (length, Rest::File { file, offset: 0, hasher: Box::default() })
            }
        };
        let is_bundle = |bytes: &[u8]| Digest::of(bytes) == bundle.blake3;
        match &rest {
            _ if length != bundle.bytes => Err(Fault::Damaged),
            _ if length == 0 && !is_bundle(b"") => Err(Fault::Damaged),
            Rest::Whole(bytes) if !is_bundle(bytes) => Err(Fault::Damaged),
            _ => Ok(Self { rest, bundle }),
        }
    }

    /// Returns the complete bundle if it is in memory and has not been read. It is verified.
    pub fn whole(&self) -> Option<Bytes> {
        match &self.rest {
            Rest::Whole(bytes) => Some(bytes.clone()),
            Rest::File { .. } | Rest::Nothing => None,
        }
    }

    /// Returns the next bytes, or `None` after the last. Blocks while it reads a file.
    pub fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        match std::mem::replace(&mut self.rest, Rest::Nothing) {
            Rest::Nothing => Ok(None),
            Rest::Whole(bytes) => Ok(Some(bytes)),
            Rest::File { offset, .. } if offset == self.bundle.bytes => Ok(None),
            Rest::File { file, offset, mut hasher } => {
                let length = PIECE_BYTES.min(self.bundle.bytes - offset);
                let mut piece = vec![0; usize::try_from(length).map_err(|_| Fault::Damaged)?];
                file.read_exact_at(&mut piece, offset).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => Fault::Damaged,
                    _ => Fault::Io(error),
                })?;
                hasher.update(&piece);
                let offset = offset + length;
                if offset == self.bundle.bytes && hasher.finish() != self.bundle.blake3 {
                    return Err(Fault::Damaged);
                }
                self.rest = Rest::File { file, offset, hasher };
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

    fn file(bytes: &[u8]) -> Content {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Content::File(file)
    }

    fn read(content: Content, bundle: Blob) -> (Vec<u8>, Option<Fault>) {
        let mut read = Vec::new();
        let mut checked = match Checked::new(content, bundle) {
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
            for content in [file(&bytes), Content::Bytes(bytes.clone().into())] {
                let (read, fault) = read(content, blob(&bytes));
                assert!(fault.is_none() && read == bytes, "{length} bytes: {fault:?}");
            }
        }
    }

    #[test]
    fn a_file_is_read_from_its_beginning_by_each_who_has_a_handle() {
        let Content::File(mut first) = file(b"bundle") else { unreachable!() };
        let second = first.try_clone().unwrap();
        first.seek(io::SeekFrom::Start(3)).unwrap();
        for handle in [first, second] {
            assert_eq!(read(Content::File(handle), blob(b"bundle")).0, b"bundle");
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
                for content in [file(wrong), Content::Bytes(wrong.to_vec().into())] {
                    let (read, fault) = read(content, blob(&bytes));
                    assert!(matches!(fault, Some(Fault::Damaged)), "{length} bytes: {fault:?}");
                    assert!(read.len() < length.max(1), "{length} bytes, of which {} came out", read.len());
                }
            }
        }
        let nothing = Blob { blake3: Digest::of(b"x"), bytes: 0 };
        for content in [file(b""), Content::Bytes(Bytes::new())] {
            assert!(matches!(read(content, nothing).1, Some(Fault::Damaged)));
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_noticed() {
        let bytes = vec![7; 2 * PIECE_BYTES as usize];
        let Content::File(file) = file(&bytes) else { unreachable!() };
        let mut checked = Checked::new(Content::File(file.try_clone().unwrap()), blob(&bytes)).unwrap();
        assert!(matches!(checked.next(), Ok(Some(_))));
        file.set_len(PIECE_BYTES + 1).unwrap();
        assert!(matches!(checked.next(), Err(Fault::Damaged)));
    }
}
