//! Delivery: the statement that a carrier signs when it delivers a bundle. Integers are
//! little-endian:
//!
//! | field       | type             |                                                 |
//! |-------------|------------------|-------------------------------------------------|
//! | receipt     | 16 bytes         | its id                                          |
//! | bundle      | 32 bytes, u64    | BLAKE3 and length in bytes                      |
//! | destination | 32 bytes         | public key of the destination node              |
//! | carrier     | 32 bytes         | public key of the node that delivers            |
//! | hops        | u8               | number of carriers, including this one; 1 to 32 |
//! | expires     | u64              | milliseconds since 1970-01-01 UTC               |
//! | sender      | u8 length, bytes | 1 to 128 printable ASCII characters             |
//!
//! The carrier signs these bytes for the purpose `compute-host courier delivery v1`.

use super::{Receipt, ReceiptId, Sender};
use crate::digest::Digest;
use crate::key::{NodeKey, PublicKey, Signature};
use crate::proof::Blob;

const CONTEXT: &str = "compute-host courier delivery v1";

/// A bundle's identity, its carrier, and its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub receipt: ReceiptId,
    pub bundle: Blob,
    pub sender: Sender,
    pub destination: PublicKey,
    pub carrier: PublicKey,
    /// From 1 to [`Receipt::HOPS_MAX`].
    pub hops: u8,
    pub expires_ms: u64,
}

/// Error of bytes that are not a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it ends early or too late, or a field has a value that it cannot have")]
pub struct NotADelivery;

impl Delivery {
    /// Maximum length of the encoding, in bytes.
    pub const BYTES_MAX: usize = 130 + Sender::CHARS_MAX;

    /// Returns the delivery by which `carrier` forwards `receipt` to `destination`.
    pub fn of(receipt: &Receipt, destination: PublicKey, carrier: PublicKey) -> Self {
        Self {
            receipt: receipt.id,
            bundle: receipt.bundle,
            sender: receipt.sender.clone(),
            destination,
            carrier,
            hops: receipt.hops.saturating_add(1),
            expires_ms: receipt.expires_ms,
        }
    }

    /// Signs the delivery. `key` must be the carrier's.
    pub fn sign(&self, key: &NodeKey) -> Signature {
        key.sign(CONTEXT, &self.to_bytes())
    }

    pub fn is_signed(&self, signature: &Signature) -> bool {
        self.carrier.verifies(CONTEXT, &self.to_bytes(), signature)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(132 + self.sender.as_str().len());
        bytes.extend(self.receipt.as_bytes());
        bytes.extend(self.bundle.blake3.as_bytes());
        bytes.extend(self.bundle.bytes.to_le_bytes());
        bytes.extend(self.destination.as_bytes());
        bytes.extend(self.carrier.as_bytes());
        bytes.push(self.hops);
        bytes.extend(self.expires_ms.to_le_bytes());
        let sender = self.sender.as_str().as_bytes();
        bytes.push(u8::try_from(sender.len()).expect("a sender's name has at most 128 bytes"));
        bytes.extend(sender);
        bytes
    }

    /// Decodes canonical bytes and checks that the keys are valid. [`Delivery::is_signed`] checks
    /// the signature.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotADelivery> {
        let (delivery, rest) = Self::read(bytes).ok_or(NotADelivery)?;
        let is_key = |key: &PublicKey| PublicKey::from_bytes(key.as_bytes()).is_some();
        let ok = rest.is_empty() && is_key(&delivery.destination) && is_key(&delivery.carrier);
        ok.then_some(delivery).ok_or(NotADelivery)
    }

    /// Decodes the fields at the start of `bytes`. Returns the delivery and the rest. The keys are
    /// not checked.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (receipt, rest) = bytes.split_first_chunk::<{ ReceiptId::BYTES }>()?;
        let (blake3, rest) = rest.split_first_chunk::<32>()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (destination, rest) = rest.split_first_chunk()?;
        let (carrier, rest) = rest.split_first_chunk()?;
        let (&[hops], rest) = rest.split_first_chunk()?;
        let (expires_ms, rest) = rest.split_first_chunk()?;
        let (&[sender_len], rest) = rest.split_first_chunk()?;
        let (sender, rest) = rest.split_at_checked(usize::from(sender_len))?;
        let delivery = Self {
            receipt: (*receipt).into(),
            bundle: Blob { blake3: Digest::from(*blake3), bytes: u64::from_le_bytes(*length) },
            sender: std::str::from_utf8(sender).ok()?.parse().ok()?,
            destination: PublicKey::from_kept_bytes(*destination),
            carrier: PublicKey::from_kept_bytes(*carrier),
            hops,
            expires_ms: u64::from_le_bytes(*expires_ms),
        };
        (1..=Receipt::HOPS_MAX).contains(&hops).then_some((delivery, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_only_if_its_keys_are_keys() {
        let delivery = Delivery {
            receipt: [7; 16].into(),
            bundle: Blob { blake3: Digest::of(b"bundle"), bytes: 6 },
            sender: "x".repeat(Sender::CHARS_MAX).parse().unwrap(),
            destination: NodeKey::from_secret([2; 32]).public(),
            carrier: NodeKey::from_secret([1; 32]).public(),
            hops: Receipt::HOPS_MAX,
            expires_ms: u64::MAX,
        };
        let bytes = delivery.to_bytes();
        assert_eq!(bytes.len(), Delivery::BYTES_MAX);
        assert_eq!(Delivery::from_bytes(&bytes), Ok(delivery));
        for len in 0..bytes.len() {
            assert_eq!(Delivery::from_bytes(&bytes[..len]), Err(NotADelivery), "{len} bytes");
        }
        assert_eq!(Delivery::from_bytes(&[&bytes[..], &[0]].concat()), Err(NotADelivery));
        for key_at in [56, 88] {
            let mut changed = bytes.clone();
            // The neutral element: anybody can sign for this key.
            changed[key_at..][..32].fill(0);
            changed[key_at] = 1;
            assert!(Delivery::read(&changed).is_some());
            assert_eq!(Delivery::from_bytes(&changed), Err(NotADelivery), "the key at {key_at}");
        }
        for (at, value) in [(120, 0), (120, Receipt::HOPS_MAX + 1), (129, 0), (129, 129), (130, b' '), (130, 0xff)] {
            let mut changed = bytes.clone();
            changed[at] = value;
            assert_eq!(Delivery::from_bytes(&changed), Err(NotADelivery), "{value} at {at}");
        }
    }
}
