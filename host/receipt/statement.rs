//! Canonical bytes of a destination's signed statement about a delivery, version 1. Integers are
//! little-endian:
//!
//! | field     | type     |                                                          |
//! |-----------|----------|----------------------------------------------------------|
//! | magic     | 8 bytes  | the kind's                                               |
//! | version   | u16      | 1                                                        |
//! | delivery  |          | as the carrier has signed it (`delivery.rs`)             |
//! | at        | u64      | time by the destination's clock, in milliseconds since 1970-01-01 UTC |
//! | said      |          | further fields of this kind                              |
//! | signature | 64 bytes | the destination's, of all before, for the kind's purpose |
//!
//! A statement stands alone: anyone who trusts the destination's key can check it, years later and
//! without a network.

use super::Delivery;
use crate::key::{NodeKey, PublicKey, Signature};

const VERSION: u16 = 1;

/// Length of the fields that every kind has, beside the delivery and its own fields.
pub const FRAME_BYTES: usize = 8 + 2 + 8 + Signature::BYTES;

/// Fields of one kind of statement, beside the delivery and the time.
pub trait StatementFields: Sized {
    const MAGIC: &'static str;
    /// Purpose of the signature.
    const CONTEXT: &'static str;

    fn write(&self, bytes: &mut Vec<u8>);

    /// Reads the fields that `write` has written. Returns the rest of the bytes too.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])>;
}

/// A destination's statement about a delivery. Every value of this type has a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement<T> {
    delivery: Delivery,
    at_ms: u64,
    said: T,
    signature: Signature,
}

/// Reason why bytes are not such a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAStatement {
    #[error("it does not begin with `{0}`")]
    Magic(&'static str),
    #[error("it is of version {0}, and version {VERSION} is read")]
    Version(u16),
    #[error("it is damaged")]
    Damaged,
    #[error("its signature is not its destination's: it was changed after it was signed, or is forged")]
    Signature,
}

impl<T: StatementFields> Statement<T> {
    /// Signs a statement. `key` is the key of `delivery`'s destination.
    pub(super) fn of(delivery: Delivery, at_ms: u64, said: T, key: &NodeKey) -> Self {
        let signature = key.sign(T::CONTEXT, &signed_bytes(&delivery, at_ms, &said));
        Self { delivery, at_ms, said, signature }
    }

    pub const fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    pub(super) const fn at_ms(&self) -> u64 {
        self.at_ms
    }

    pub(super) const fn said(&self) -> &T {
        &self.said
    }

    pub const fn signature(&self) -> &Signature {
        &self.signature
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = signed_bytes(&self.delivery, self.at_ms, &self.said);
        bytes.extend(self.signature.as_bytes());
        bytes
    }

    /// Reads canonical bytes and checks the signature. The caller must check that the key is
    /// trusted.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotAStatement> {
        let statement = Self::from_kept_bytes(bytes)?;
        let destination = &statement.delivery.destination;
        PublicKey::from_bytes(destination.as_bytes()).ok_or(NotAStatement::Damaged)?;
        let signed = &bytes[..bytes.len() - Signature::BYTES];
        let is_signed = destination.verifies(T::CONTEXT, signed, &statement.signature);
        if is_signed { Ok(statement) } else { Err(NotAStatement::Signature) }
    }

    /// Reads bytes that this node has already checked and stored: [`Statement::from_bytes`] without
    /// the checks of key and signature, which take 50 us.
    pub(crate) fn from_kept_bytes(bytes: &[u8]) -> Result<Self, NotAStatement> {
        let rest = bytes.strip_prefix(T::MAGIC.as_bytes()).ok_or(NotAStatement::Magic(T::MAGIC))?;
        let (version, rest) = rest.split_first_chunk().ok_or(NotAStatement::Damaged)?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(NotAStatement::Version(version));
        }
        Self::read(rest).ok_or(NotAStatement::Damaged)
    }

    fn read(rest: &[u8]) -> Option<Self> {
        let (delivery, rest) = Delivery::read(rest)?;
        let (at_ms, rest) = rest.split_first_chunk()?;
        let (said, rest) = T::read(rest)?;
        let signature = <[u8; Signature::BYTES]>::try_from(rest).ok()?.into();
        Some(Self { delivery, at_ms: u64::from_le_bytes(*at_ms), said, signature })
    }
}

fn signed_bytes<T: StatementFields>(delivery: &Delivery, at_ms: u64, said: &T) -> Vec<u8> {
    let mut bytes = T::MAGIC.as_bytes().to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(delivery.to_bytes());
    bytes.extend(at_ms.to_le_bytes());
    said.write(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::digest::Digest;
    use crate::proof::Blob;
    use crate::receipt::{ACKNOWLEDGEMENT_BYTES_MAX, Acknowledgement, REFUSAL_BYTES_MAX, SignedRefusal};

    fn delivery(sender: &str) -> Delivery {
        Delivery {
            receipt: [7; 16].into(),
            bundle: Blob { blake3: Digest::of(b"bundle"), bytes: 6 },
            sender: sender.parse().unwrap(),
            destination: NodeKey::from_secret([2; 32]).public(),
            carrier: NodeKey::from_secret([1; 32]).public(),
            hops: 1,
            expires_ms: 2_000_000_000_000,
        }
    }

    fn key() -> NodeKey {
        NodeKey::from_secret([2; 32])
    }

    fn is_read_as_written_and_not_with_a_changed_bit<T: StatementFields + Clone + Debug + PartialEq>(
        statement: &Statement<T>,
    ) {
        let bytes = statement.to_bytes();
        assert_eq!(Statement::from_bytes(&bytes).as_ref(), Ok(statement));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Statement::<T>::from_bytes(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Statement::<T>::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(Statement::<T>::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn what_is_written_is_read_and_no_changed_bit_is() {
        let at_ms = 1_700_000_000_000;
        is_read_as_written_and_not_with_a_changed_bit(&Acknowledgement::sign(delivery("alice"), at_ms, &key()));
        let refusal = SignedRefusal::sign(delivery("alice"), at_ms, "too_large", &key());
        is_read_as_written_and_not_with_a_changed_bit(&refusal);
        let longest = delivery(&"x".repeat(128));
        let acknowledgement = Acknowledgement::sign(longest.clone(), 1, &key()).to_bytes();
        let refusal = SignedRefusal::sign(longest, 1, &"x".repeat(64), &key()).to_bytes();
        assert_eq!([acknowledgement.len(), refusal.len()], [ACKNOWLEDGEMENT_BYTES_MAX, REFUSAL_BYTES_MAX]);
    }

    #[test]
    fn only_the_destination_signs_and_a_statement_of_one_kind_is_none_of_another() {
        let stranger = NodeKey::from_secret([1; 32]);
        let forged = Acknowledgement::sign(delivery("alice"), 1, &stranger).to_bytes();
        assert_eq!(Acknowledgement::from_bytes(&forged), Err(NotAStatement::Signature));
        let forged = SignedRefusal::sign(delivery("alice"), 1, "conflict", &stranger).to_bytes();
        assert_eq!(SignedRefusal::from_bytes(&forged), Err(NotAStatement::Signature));
        let acknowledgement = Acknowledgement::sign(delivery("alice"), 1, &key()).to_bytes();
        assert_eq!(SignedRefusal::from_bytes(&acknowledgement), Err(NotAStatement::Magic("COURIREF")));
        let renamed = [&b"COURIREF"[..], &acknowledgement[8..]].concat();
        assert!(SignedRefusal::from_bytes(&renamed).is_err());
    }

    #[test]
    fn it_answers_what_was_asked_and_nothing_else() {
        let asked = delivery("alice");
        let answer = Acknowledgement::sign(asked.clone(), 1, &key());
        assert!(answer.answers(&asked));
        assert!(answer.answers(&Delivery { expires_ms: 1, ..asked.clone() }));
        let carrier = NodeKey::from_secret([3; 32]).public();
        let bundle = Blob { blake3: Digest::of(b"bundlf"), bytes: 6 };
        for other in [
            Delivery { receipt: [8; 16].into(), ..asked.clone() },
            Delivery { bundle, ..asked.clone() },
            Delivery { bundle: Blob { bytes: 7, ..asked.bundle }, ..asked.clone() },
            Delivery { hops: 2, ..asked.clone() },
            Delivery { carrier, ..asked.clone() },
            Delivery { destination: carrier, ..asked.clone() },
            delivery("bob"),
        ] {
            assert!(!answer.answers(&other), "{other:?}");
        }
    }
}
