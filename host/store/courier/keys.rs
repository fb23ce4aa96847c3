//! What lies where in the courier's database. Numbers in keys are big-endian, so that their order is the keys' order.
//!
//! | key                                | value                                                               |
//! |------------------------------------|---------------------------------------------------------------------|
//! | `r` id                             | `Receipt`: pending or dead                                          |
//! | `q` lane, due, id                  | pending, for each destination in the order in which they are due    |
//! | `o` created, id                    | pending, the oldest first                                           |
//! | `x` created, id                    | dead, the oldest first                                              |
//! | `e` expires, id                    | dead because it had expired, by this node's clock                   |
//! | `b` digest, id                     | who needs a bundle                                                  |
//! | `n` lane                           | `Lane`: how a destination has answered of late                      |
//! | `l` id                             | `Credit`: the ledger, as far as the archive's index does not have it |
//! | `a` id                             | an acknowledgement that is not in the archive yet                   |
//! | `m` public key                     | `Totals`: what was earned with a destination                        |
//! | `i` carrier, id                    | `Received`: what was stored for somebody who carried it here        |
//! | `j` stored, carrier, id            | received, the oldest first                                          |
//! | `c` digest, carrier, id            | who has brought a bundle that is still here                         |
//! | `k` expires, carrier, id           | received and dropped: no longer needed after that                   |
//! | `t`                                | `Tally`                                                             |

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

/// The first key after those that begin with `prefix`.
pub fn after(prefix: u8) -> Vec<u8> {
    vec![prefix + 1]
}

const LANE_DOMAIN: &str = "compute-host courier lane v1";

/// Stands for a destination's name in keys, or for the default destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneTag([u8; 8]);

impl LaneTag {
    pub fn of(destination: Option<&KeyName>) -> Self {
        let name = destination.map(KeyName::as_str).unwrap_or_default();
        let digest = Digest::in_domain(LANE_DOMAIN, name.as_bytes());
        Self(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
    }

    /// The lane of a key that begins with a prefix and a lane.
    pub fn in_key(key: &[u8]) -> Option<Self> {
        key.get(1..)?.first_chunk().copied().map(Self)
    }

    /// The one after this, in the order of keys; `None` after the last.
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

pub fn queue(lane: LaneTag, due_ms: u64, id: &[u8; ReceiptId::BYTES]) -> Vec<u8> {
    key(QUEUE, &[&lane.0, &due_ms.to_be_bytes(), id])
}

/// Where a lane's keys begin.
pub fn lane_start(lane: LaneTag) -> Vec<u8> {
    key(QUEUE, &[&lane.0])
}

/// In the order of `created`, among those that are pending or among those that are dead.
pub fn created(prefix: u8, receipt: &Receipt) -> Vec<u8> {
    key(prefix, &[&receipt.created_ms.to_be_bytes(), receipt.id.as_bytes()])
}

pub fn expired(receipt: &Receipt) -> Vec<u8> {
    key(EXPIRED, &[&receipt.expires_ms.to_be_bytes(), receipt.id.as_bytes()])
}

/// Where the keys of those begin that expire after `now_ms`.
pub fn expired_after(now_ms: u64) -> Vec<u8> {
    key(EXPIRED, &[&now_ms.saturating_add(1).to_be_bytes()])
}

pub fn needs(digest: &Digest, id: &ReceiptId) -> Vec<u8> {
    key(NEEDS, &[digest.as_bytes(), id.as_bytes()])
}

pub fn needed(digest: &Digest) -> Vec<u8> {
    key(NEEDS, &[digest.as_bytes()])
}

pub fn lane(lane: LaneTag) -> Vec<u8> {
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

/// The id that a key ends with.
pub fn id_in(key: &[u8]) -> Option<ReceiptId> {
    key.last_chunk::<{ ReceiptId::BYTES }>().map(|id| ReceiptId::from(*id))
}

/// The carrier and the id that a key ends with.
pub fn carrier_and_id_in(key: &[u8]) -> Option<(PublicKey, ReceiptId)> {
    let (rest, id) = key.split_last_chunk::<{ ReceiptId::BYTES }>()?;
    let carrier = rest.last_chunk::<{ PublicKey::BYTES }>()?;
    Some((PublicKey::from_kept_bytes(*carrier), ReceiptId::from(*id)))
}
