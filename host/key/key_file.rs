//! Key file: the text format of a node's key, in `state/node.key` and in a backup.
//!
//! ```text
//! compute-host node key v1
//! made MILLISECONDS            since 1970-01-01 UTC
//! public KEY
//! secret SECRET                64 hexadecimal digits: RFC 8032's private key
//! checksum DIGEST              BLAKE3 of all before, in the domain that is the first line
//! ```

use super::text::{FieldReader, FieldWriter, NotItsText};
use super::{NodeKey, PublicKey};
use crate::digest::Digest;

const TITLE: &str = "compute-host node key v1";

/// Maximum size of the file. A key needs some 300 bytes.
pub const KEPT_BYTES_MAX: u64 = 1024;

/// A key, and the time of its creation.
#[derive(Debug)]
pub struct KeyFile {
    pub key: NodeKey,
    /// Milliseconds since 1970-01-01 UTC.
    pub made_unix_ms: u64,
}

impl KeyFile {
    pub fn read(bytes: &[u8]) -> Result<Self, NotItsText> {
        let mut from = FieldReader::new(bytes, TITLE)?;
        let (made_unix_ms, public): (u64, PublicKey) = (from.field("made")?, from.field("public")?);
        // A secret has the same text format as a digest.
        let secret: Digest = from.field("secret")?;
        let before = from.before();
        let checksum: Digest = from.field("checksum")?;
        from.end()?;
        if Digest::in_domain(TITLE, before.as_bytes()) != checksum {
            return Err(NotItsText::Checksum);
        }
        let key = NodeKey::from_secret(*secret.as_bytes());
        if key.public() == public { Ok(Self { key, made_unix_ms }) } else { Err(NotItsText::Pair) }
    }

    pub fn to_text(&self) -> String {
        let text = FieldWriter::new(TITLE)
            .field("made", self.made_unix_ms)
            .field("public", self.key.public())
            .field("secret", Digest::from(*self.key.secret()));
        let checksum = Digest::in_domain(TITLE, text.text().as_bytes());
        text.field("checksum", checksum).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_no_changed_byte_is_read() {
        let kept = KeyFile { key: NodeKey::from_secret([1; 32]), made_unix_ms: 5 };
        let text = kept.to_text().into_bytes();
        let read = KeyFile::read(&text).unwrap();
        assert_eq!((read.key.secret(), read.made_unix_ms), (&[1; 32], 5));
        for at in 0..text.len() {
            for flip in [1, 2, 0x20] {
                let mut changed = text.clone();
                changed[at] ^= flip;
                assert!(KeyFile::read(&changed).is_err(), "byte {at}");
            }
            assert!(KeyFile::read(&text[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_public_key_that_is_not_the_secrets_is_noticed_also_with_a_checksum_that_fits() {
        let text = FieldWriter::new(TITLE)
            .field("made", 5)
            .field("public", NodeKey::from_secret([2; 32]).public())
            .field("secret", Digest::from([1; 32]));
        let checksum = Digest::in_domain(TITLE, text.text().as_bytes());
        let text = text.field("checksum", checksum).finish();
        assert_eq!(KeyFile::read(text.as_bytes()).unwrap_err(), NotItsText::Pair);
    }
}
