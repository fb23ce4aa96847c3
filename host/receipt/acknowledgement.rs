//! The canonical bytes of an acknowledgement, version 1. Integers are little-endian:
//!
//! | field     | type     |                                                            |
//! |-----------|----------|------------------------------------------------------------|
//! | magic     | 8 bytes  | `COURIACK`                                                 |
//! | version   | u16      | 1                                                          |
//! | delivery  |          | as the carrier has signed it (`delivery.rs`)               |
//! | stored    | u64      | when it was on disk, milliseconds since 1970-01-01 UTC     |
//! | signature | 64 bytes | the destination's, of all before, for the purpose `compute-host courier acknowledgement v1` |
//!
//! It stands alone: whoever trusts the destination's key can check it, years later and without a network.

use super::{Delivery, Sender};
use crate::key::{NodeKey, PublicKey, Signature};

const MAGIC: &[u8; 8] = b"COURIACK";
const VERSION: u16 = 1;
const CONTEXT: &str = "compute-host courier acknowledgement v1";

/// What its longest fields take.
pub const ACKNOWLEDGEMENT_BYTES_MAX: usize = 10 + 130 + Sender::CHARS_MAX + 8 + Signature::BYTES;

/// The destination's word that it has stored what was delivered. There is none without the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    delivery: Delivery,
    stored_ms: u64,
    signature: Signature,
}

/// Why some bytes are not an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAcknowledgement {
    #[error("it does not begin with `COURIACK`")]
    Magic,
    #[error("it is of version {0}, and version {VERSION} is read")]
    Version(u16),
    #[error("it is damaged")]
    Damaged,
    #[error("its signature is not its destination's: it was changed after it was signed, or is forged")]
    Signature,
}

impl Acknowledgement {
    /// To be called when `delivery` is on disk; `key` is its destination's.
    pub fn sign(delivery: Delivery, stored_ms: u64, key: &NodeKey) -> Self {
        let signature = key.sign(CONTEXT, &signed_bytes(&delivery, stored_ms));
        Self { delivery, stored_ms, signature }
    }

    pub const fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    pub const fn stored_ms(&self) -> u64 {
        self.stored_ms
    }

    pub const fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Whether it is the answer to `asked`: of what was handed over, by this carrier, by that destination. When it
    /// expires may have been said otherwise before.
    pub fn answers(&self, asked: &Delivery) -> bool {
        let Delivery { expires_ms: _, ref receipt, bundle, ref sender, ref destination, ref carrier, hops } = *asked;
        let found = &self.delivery;
        (&found.receipt, found.bundle, &found.sender) == (receipt, bundle, sender)
            && (&found.destination, &found.carrier, found.hops) == (destination, carrier, hops)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = signed_bytes(&self.delivery, self.stored_ms);
        bytes.extend(self.signature.as_bytes());
        bytes
    }

    /// Reads canonical bytes and checks the signature. Whether the key that has signed is one to trust, the caller knows.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotAnAcknowledgement> {
        let acknowledgement = Self::from_kept_bytes(bytes)?;
        let destination = &acknowledgement.delivery.destination;
        PublicKey::from_bytes(destination.as_bytes()).ok_or(NotAnAcknowledgement::Damaged)?;
        let signed = &bytes[..bytes.len() - Signature::BYTES];
        let is_signed = destination.verifies(CONTEXT, signed, &acknowledgement.signature);
        if is_signed { Ok(acknowledgement) } else { Err(NotAnAcknowledgement::Signature) }
    }

    /// [`Acknowledgement::from_bytes`] without the checks of key and signature, which take 50 us: for what this very node
    /// has checked and kept.
    pub(crate) fn from_kept_bytes(bytes: &[u8]) -> Result<Self, NotAnAcknowledgement> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(NotAnAcknowledgement::Magic)?;
        let read = |rest| {
            let (version, rest) = <[u8]>::split_first_chunk(rest)?;
            let version = u16::from_le_bytes(*version);
            if version != VERSION {
                return Some(Err(NotAnAcknowledgement::Version(version)));
            }
            let (delivery, rest) = Delivery::read(rest)?;
            let (stored_ms, rest) = rest.split_first_chunk()?;
            let signature = <[u8; Signature::BYTES]>::try_from(rest).ok()?.into();
            Some(Ok(Self { delivery, stored_ms: u64::from_le_bytes(*stored_ms), signature }))
        };
        read(rest).unwrap_or(Err(NotAnAcknowledgement::Damaged))
    }
}

fn signed_bytes(delivery: &Delivery, stored_ms: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(delivery.to_bytes());
    bytes.extend(stored_ms.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::proof::Blob;

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
    fn what_is_written_is_read_and_nothing_else() {
        let key = NodeKey::from_secret([2; 32]);
        let longest = Acknowledgement::sign(delivery(&"x".repeat(128)), 1, &key).to_bytes();
        assert_eq!(longest.len(), ACKNOWLEDGEMENT_BYTES_MAX);
        let acknowledgement = Acknowledgement::sign(delivery("alice"), 1_700_000_000_000, &key);
        let bytes = acknowledgement.to_bytes();
        assert_eq!(Acknowledgement::from_bytes(&bytes), Ok(acknowledgement));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Acknowledgement::from_bytes(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Acknowledgement::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(Acknowledgement::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn only_the_destination_can_acknowledge() {
        let forged = Acknowledgement::sign(delivery("alice"), 1, &NodeKey::from_secret([1; 32])).to_bytes();
        assert_eq!(Acknowledgement::from_bytes(&forged), Err(NotAnAcknowledgement::Signature));
    }

    #[test]
    fn it_answers_what_was_asked_and_nothing_else() {
        let asked = delivery("alice");
        let answer = Acknowledgement::sign(asked.clone(), 1, &NodeKey::from_secret([2; 32]));
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
