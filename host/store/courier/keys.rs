//! Keys of the courier's database. Numbers in keys are big-endian, so that key order is numeric
//! order.
//!
//! | key                      | value                                                          |
//! |--------------------------|----------------------------------------------------------------|
//! | `r` id                   | `Receipt`: pending or dead                                     |
//! | `q` lane, due, id        | pending, for each destination in order of due time             |
//! | `o` created, id          | pending, oldest first                                          |
//! | `x` created, id          | dead, oldest first                                             |
//! | `e` expires, id          | dead because it expired, by this node's clock                  |
//! | `b` digest, id           | receipts that need a bundle                                    |
//! | `n` lane                 | `Lane`: recent delivery results of a destination               |
//! | `l` id                   | `Credit`: the ledger, except entries in an archive index       |
//! | `a` id                   | an acknowledgement that is not in the archive yet              |
//! | `m` public key           | `CreditTotals`: credit earned with a destination               |
//! | `i` carrier, id          | `Received`: a bundle that this carrier brought                 |
//! | `j` stored, carrier, id  | received, oldest first                                         |
//! | `c` digest, carrier, id  | carriers that brought a bundle which is still stored           |
//! | `k` expires, carrier, id | received and dropped: the record is not needed after that time |
//! | `t`                      | `Tally`                                                        |

use crate::digest::Digest;
use crate::key::{KeyName, PublicKey};
use crate::receipt::{Receipt, ReceiptId};

pub const RECEIPT: u8 = b'r';
pub const QUEUE: u8 = b'q';
pub const PENDING: u8 = b'o';
pub const DEAD: u8 = b'x';
pub const EXPIRED: u8 = b'e';
pub const NEEDS: u8 = b'b';
pub const LANE: u8 = b'n';
pub const LEDGER: u8 = b'l';
pub const UNARCHIVED: u8 = b'a';
pub const TOTALS: u8 = b'm';
pub const RECEIVED: u8 = b'i';
pub const STORED: u8 = b'j';
pub const BROUGHT: u8 = b'c';
pub const DROPPED: u8 = b'k';
pub const TALLY: &[u8] = b"t";

/// Returns the first key after those that begin with `prefix`.
pub fn after(prefix: u8) -> Vec<u8> {
    vec![prefix + 1]
}

const LANE_DOMAIN: &str = "compute-host courier lane v1";

/// Fixed-length tag for a destination's name in keys, or for the default destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationTag([u8; 8]);

impl DestinationTag {
    pub fn of(destination: Option<&KeyName>) -> Self {
        let name = destination.map(KeyName::as_str).unwrap_or_default();
        let digest = Digest::in_domain(LANE_DOMAIN, name.as_bytes());
        Self(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
    }

    /// Returns the lane in a key that consists of a prefix, a lane and more.
    pub fn in_key(key: &[u8]) -> Option<Self> {
        key.get(1..)?.first_chunk().copied().map(Self)
    }

    /// Returns the next lane in key order; `None` after the last.
    pub fn next(self) -> Option<Self> {
        u64::from_be_bytes(self.0).checked_add(1).map(|next| Self(next.to_be_bytes()))
    }
}

fn key(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![prefix];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

pub fn receipt(id: &ReceiptId) -> Vec<u8> {
    key(RECEIPT, &[id.as_bytes()])
}

pub fn queue(lane: DestinationTag, due_ms: u64, id: &[u8; ReceiptId::BYTES]) -> Vec<u8> {
    key(QUEUE, &[&lane.0, &due_ms.to_be_bytes(), id])
}

/// Returns the start of a lane's keys.
pub fn lane_start(lane: DestinationTag) -> Vec<u8> {
    key(QUEUE, &[&lane.0])
}

/// Returns a key in the order of `created`, among pending or dead receipts.
pub fn created(prefix: u8, receipt: &Receipt) -> Vec<u8> {
    key(prefix, &[&receipt.created_ms.to_be_bytes(), receipt.id.as_bytes()])
}

pub fn expired(receipt: &Receipt) -> Vec<u8> {
    key(EXPIRED, &[&receipt.expires_ms.to_be_bytes(), receipt.id.as_bytes()])
}

/// Returns the start of the keys of receipts that expire after `now_ms`.
pub fn expired_after(now_ms: u64) -> Vec<u8> {
    key(EXPIRED, &[&now_ms.saturating_add(1).to_be_bytes()])
}

pub fn needs(digest: &Digest, id: &ReceiptId) -> Vec<u8> {
    key(NEEDS, &[digest.as_bytes(), id.as_bytes()])
}

pub fn needed(digest: &Digest) -> Vec<u8> {
    key(NEEDS, &[digest.as_bytes()])
}

pub fn lane(lane: DestinationTag) -> Vec<u8> {
    key(LANE, &[&lane.0])
}

pub fn ledger(id: &ReceiptId) -> Vec<u8> {
    key(LEDGER, &[id.as_bytes()])
}

pub fn unarchived(id: &ReceiptId) -> Vec<u8> {
    key(UNARCHIVED, &[id.as_bytes()])
}

pub fn totals(destination: &PublicKey) -> Vec<u8> {
    key(TOTALS, &[destination.as_bytes()])
}

pub fn received(carrier: &PublicKey, id: &ReceiptId) -> Vec<u8> {
    key(RECEIVED, &[carrier.as_bytes(), id.as_bytes()])
}

pub fn stored(stored_ms: u64, carrier: &PublicKey, id: &ReceiptId) -> Vec<u8> {
    key(STORED, &[&stored_ms.to_be_bytes(), carrier.as_bytes(), id.as_bytes()])
}

pub fn brought(digest: &Digest, carrier: &PublicKey, id: &ReceiptId) -> Vec<u8> {
    key(BROUGHT, &[digest.as_bytes(), carrier.as_bytes(), id.as_bytes()])
}

pub fn brought_by_any(digest: &Digest) -> Vec<u8> {
    key(BROUGHT, &[digest.as_bytes()])
}

pub fn dropped(expires_ms: u64, carrier: &PublicKey, id: &ReceiptId) -> Vec<u8> {
    key(DROPPED, &[&expires_ms.to_be_bytes(), carrier.as_bytes(), id.as_bytes()])
}

/// Returns the id at the end of a key.
pub fn id_in(key: &[u8]) -> Option<ReceiptId> {
    key.last_chunk::<{ ReceiptId::BYTES }>().map(|id| ReceiptId::from(*id))
}

/// Returns the carrier and the id at the end of a key.
pub fn carrier_and_id_in(key: &[u8]) -> Option<(PublicKey, ReceiptId)> {
    let (rest, id) = key.split_last_chunk::<{ ReceiptId::BYTES }>()?;
    let carrier = rest.last_chunk::<{ PublicKey::BYTES }>()?;
    Some((PublicKey::from_kept_bytes(*carrier), ReceiptId::from(*id)))
}
