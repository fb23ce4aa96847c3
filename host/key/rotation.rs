//! Rotation: the statement that one key replaces another. The former key signs it, because only
//! that key can give up its place. The successor signs it, so that nobody can claim another node's
//! key.
//!
//! ```text
//! compute-host key rotation v1
//! former KEY
//! made MILLISECONDS            creation time of the former, since 1970-01-01 UTC
//! successor KEY
//! retired MILLISECONDS         time of the rotation
//! signed-by-former SIGNATURE
//! signed-by-successor SIGNATURE
//! ```
//!
//! Both keys sign all text before the first signature line, in the context that is the first line.

use super::text::{FieldReader, FieldWriter, NotItsText};
use super::{NodeKey, PublicKey, Signature};

const TITLE: &str = "compute-host key rotation v1";

/// Maximum size of a statement, which needs some 500 bytes.
pub const ROTATION_BYTES_MAX: u64 = 1024;

/// A verified statement: both keys have signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    former: PublicKey,
    /// Milliseconds since 1970-01-01 UTC.
    made_unix_ms: u64,
    successor: PublicKey,
    retired_unix_ms: u64,
    signed_by_former: Signature,
    signed_by_successor: Signature,
}

/// Reason why bytes are not the statement of a rotation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARotation {
    #[error(transparent)]
    Text(#[from] NotItsText),
    #[error("it names one key twice")]
    Same,
    #[error("its signature by the {0} key is not that key's")]
    Signature(&'static str),
}

impl Rotation {
    /// Signs the statement that `successor` replaces `former`.
    pub fn sign(former: &NodeKey, made_unix_ms: u64, successor: &NodeKey, retired_unix_ms: u64) -> Self {
        let stated = stated(former.public(), made_unix_ms, successor.public(), retired_unix_ms);
        Self {
            former: former.public(),
            made_unix_ms,
            successor: successor.public(),
            retired_unix_ms,
            signed_by_former: former.sign(TITLE, stated.text().as_bytes()),
            signed_by_successor: successor.sign(TITLE, stated.text().as_bytes()),
        }
    }

    pub fn read(bytes: &[u8]) -> Result<Self, NotARotation> {
        let mut from = FieldReader::new(bytes, TITLE)?;
        let (former, made_unix_ms) = (from.field("former")?, from.field("made")?);
        let (successor, retired_unix_ms) = (from.field("successor")?, from.field("retired")?);
        let stated = from.before();
        let (signed_by_former, signed_by_successor) =
            (from.field("signed-by-former")?, from.field("signed-by-successor")?);
        from.end()?;
        let rotation = Self { former, made_unix_ms, successor, retired_unix_ms, signed_by_former, signed_by_successor };
        if rotation.former == rotation.successor {
            return Err(NotARotation::Same);
        }
        for (name, key, signature) in
            [("former", &rotation.former, &signed_by_former), ("successor", &rotation.successor, &signed_by_successor)]
        {
            if !key.verifies(TITLE, stated.as_bytes(), signature) {
                return Err(NotARotation::Signature(name));
            }
        }
        Ok(rotation)
    }

    pub fn to_text(&self) -> String {
        stated(self.former, self.made_unix_ms, self.successor, self.retired_unix_ms)
            .field("signed-by-former", self.signed_by_former)
            .field("signed-by-successor", self.signed_by_successor)
            .finish()
    }

    pub const fn former(&self) -> PublicKey {
        self.former
    }

    pub const fn successor(&self) -> PublicKey {
        self.successor
    }

    /// Returns the times of the former key's creation and retirement, in milliseconds since
    /// 1970-01-01 UTC, as its node states them.
    pub const fn dates(&self) -> (u64, u64) {
        (self.made_unix_ms, self.retired_unix_ms)
    }
}

fn stated(former: PublicKey, made_unix_ms: u64, successor: PublicKey, retired_unix_ms: u64) -> FieldWriter {
    FieldWriter::new(TITLE)
        .field("former", former)
        .field("made", made_unix_ms)
        .field("successor", successor)
        .field("retired", retired_unix_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_is_believed_only_as_both_have_signed_it() {
        let [former, successor, thief] = [1, 2, 3].map(|secret| NodeKey::from_secret([secret; 32]));
        let rotation = Rotation::sign(&former, 5, &successor, 6);
        let text = rotation.to_text();
        assert_eq!(Rotation::read(text.as_bytes()), Ok(rotation));

        let stolen = Rotation::sign(&thief, 5, &thief, 6).to_text();
        assert_eq!(Rotation::read(stolen.as_bytes()), Err(NotARotation::Same));
        let (public, thiefs) = (former.public().to_string(), thief.public().to_string());
        let forged = Rotation::sign(&thief, 5, &successor, 6).to_text().replace(&thiefs, &public);
        assert_eq!(Rotation::read(forged.as_bytes()), Err(NotARotation::Signature("former")));
        let claimed = Rotation::sign(&former, 5, &thief, 6).to_text().replace(&thiefs, &successor.public().to_string());
        assert!(matches!(Rotation::read(claimed.as_bytes()), Err(NotARotation::Signature(_))));
    }

    #[test]
    fn no_changed_byte_is_read() {
        let [former, successor] = [1, 2].map(|secret| NodeKey::from_secret([secret; 32]));
        let text = Rotation::sign(&former, 5, &successor, 6).to_text().into_bytes();
        for at in 0..text.len() {
            for flip in [1, 2, 0x20] {
                let mut changed = text.clone();
                changed[at] ^= flip;
                assert!(Rotation::read(&changed).is_err(), "byte {at}");
            }
            assert!(Rotation::read(&text[..at]).is_err(), "{at} bytes");
        }
    }
}
