//! The canonical bytes of a refusal, version 1: the destination's signed word that it will not store what was delivered.
//! Integers are little-endian:
//!
//! | field     | type     |                                                            |
//! |-----------|----------|------------------------------------------------------------|
//! | magic     | 8 bytes  | `COURIREF`                                                 |
//! | version   | u16      | 1                                                          |
//! | delivery  |          | as the carrier has signed it (`delivery.rs`)               |
//! | refused   | u64      | when, by the destination's clock, in milliseconds since 1970-01-01 UTC |
//! | code      | u8 length, bytes | the reason: 1 to 64 of `a`-`z`, `0`-`9` and `_`     |
//! | signature | 64 bytes | the destination's, of all before, for the purpose `compute-host courier refusal v1` |
//!
//! The delivery holds the time at which it expires. A receipt that its owner tries again has another, so an old refusal
//! does not fit it.

use super::{Delivery, Sender};
use crate::key::{NodeKey, PublicKey, Signature};

const MAGIC: &[u8; 8] = b"COURIREF";
const VERSION: u16 = 1;
const CONTEXT: &str = "compute-host courier refusal v1";

/// The longest reason.
pub const REFUSAL_CODE_CHARS_MAX: usize = 64;

/// The longest refusal.
pub const REFUSAL_BYTES_MAX: usize = 10 + Delivery::BYTES_MAX + 8 + 1 + REFUSAL_CODE_CHARS_MAX + Signature::BYTES;

const _: () = assert!(Sender::CHARS_MAX <= u8::MAX as usize);

/// The destination's word that it does not store a delivery, and why. There is none without the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRefusal {
    delivery: Delivery,
    refused_ms: u64,
    code: String,
    signature: Signature,
}

/// Why some bytes are not a signed refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARefusal {
    #[error("it does not begin with `COURIREF`")]
    Magic,
    #[error("it is of version {0}, and version {VERSION} is read")]
    Version(u16),
    #[error("it is damaged")]
    Damaged,
    #[error("its signature is not its destination's: it was changed after it was signed, or is forged")]
    Signature,
}

/// Whether `code` can stand for a reason.
pub fn is_refusal_code(code: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=REFUSAL_CODE_CHARS_MAX).contains(&code.len()) && code.bytes().all(is_allowed)
}

impl SignedRefusal {
    /// The code of a refusal because of the time, of which each side has its own.
    pub const EXPIRED: &str = "expired";

    /// `key` is the destination's of `delivery`.
    ///
    /// # Panics
    /// If `code` is not one that [`is_refusal_code`] allows: codes are compiled in.
    pub fn sign(delivery: Delivery, refused_ms: u64, code: &str, key: &NodeKey) -> Self {
        assert!(is_refusal_code(code), "`{code}` is no code");
        let signature = key.sign(CONTEXT, &signed_bytes(&delivery, refused_ms, code));
        Self { delivery, refused_ms, code: code.to_owned(), signature }
    }

    pub const fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// When the destination refused, by its clock.
    pub const fn refused_ms(&self) -> u64 {
        self.refused_ms
    }

    pub fn code(&self) -> &str {
        &self.code
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = signed_bytes(&self.delivery, self.refused_ms, &self.code);
        bytes.extend(self.signature.as_bytes());
        bytes
    }

    /// Reads canonical bytes and checks the signature. The caller knows whether the key is one to trust.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotARefusal> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(NotARefusal::Magic)?;
        let refusal = Self::read(rest).unwrap_or(Err(NotARefusal::Damaged))?;
        let destination = &refusal.delivery.destination;
        PublicKey::from_bytes(destination.as_bytes()).ok_or(NotARefusal::Damaged)?;
        let signed = &bytes[..bytes.len() - Signature::BYTES];
        let is_signed = destination.verifies(CONTEXT, signed, &refusal.signature);
        if is_signed { Ok(refusal) } else { Err(NotARefusal::Signature) }
    }

    fn read(rest: &[u8]) -> Option<Result<Self, NotARefusal>> {
        let (version, rest) = rest.split_first_chunk()?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Some(Err(NotARefusal::Version(version)));
        }
        let (delivery, rest) = Delivery::read(rest)?;
        let (refused_ms, rest) = rest.split_first_chunk()?;
        let (&[code_len], rest) = rest.split_first_chunk()?;
        let (code, rest) = rest.split_at_checked(usize::from(code_len))?;
        let code = std::str::from_utf8(code).ok().filter(|code| is_refusal_code(code))?.to_owned();
        let signature = <[u8; Signature::BYTES]>::try_from(rest).ok()?.into();
        Some(Ok(Self { delivery, refused_ms: u64::from_le_bytes(*refused_ms), code, signature }))
    }
}

fn signed_bytes(delivery: &Delivery, refused_ms: u64, code: &str) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(delivery.to_bytes());
    bytes.extend(refused_ms.to_le_bytes());
    bytes.push(u8::try_from(code.len()).expect("a code has at most 64 bytes"));
    bytes.extend(code.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::proof::Blob;
    use crate::receipt::Acknowledgement;

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

    #[test]
    fn what_is_written_is_read_and_no_changed_bit_is() {
        let key = NodeKey::from_secret([2; 32]);
        let longest = SignedRefusal::sign(delivery(&"x".repeat(128)), 1, &"x".repeat(64), &key).to_bytes();
        assert_eq!(longest.len(), REFUSAL_BYTES_MAX);
        let refusal = SignedRefusal::sign(delivery("alice"), 1_700_000_000_000, "too_large", &key);
        let bytes = refusal.to_bytes();
        assert_eq!(SignedRefusal::from_bytes(&bytes), Ok(refusal));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SignedRefusal::from_bytes(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(SignedRefusal::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(SignedRefusal::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn only_the_destination_can_refuse_and_an_acknowledgement_is_no_refusal() {
        let stranger = NodeKey::from_secret([1; 32]);
        let forged = SignedRefusal::sign(delivery("alice"), 1, "conflict", &stranger).to_bytes();
        assert_eq!(SignedRefusal::from_bytes(&forged), Err(NotARefusal::Signature));
        let acknowledgement = Acknowledgement::sign(delivery("alice"), 1, &NodeKey::from_secret([2; 32])).to_bytes();
        assert_eq!(SignedRefusal::from_bytes(&acknowledgement), Err(NotARefusal::Magic));
        let renamed = [&MAGIC[..], &acknowledgement[8..]].concat();
        assert!(SignedRefusal::from_bytes(&renamed).is_err());
    }
}
