//! Search for receipts, acknowledgements and received bundles by a prefix of their id.

use super::Courier;
use crate::key::PublicKey;
use crate::receipt::{IdPrefix, Receipt, ReceiptId};
use crate::store::{ArchivedAck, Received, StoreError};

#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no receipt has an id that begins with `{0}`; `node compute courier list` shows those that there are")]
    NoSuchReceipt(IdPrefix),
    #[error("several ids begin with `{prefix}`, {one} and {other} among them; give more of its digits")]
    Ambiguous { prefix: IdPrefix, one: ReceiptId, other: ReceiptId },
}

/// An item that has an id.
pub enum MatchedItem {
    Receipt(Receipt),
    Acknowledged(ArchivedAck),
    Received(PublicKey, ReceiptId, Received),
}

impl MatchedItem {
    pub const fn is_received(&self) -> bool {
        matches!(self, Self::Received(..))
    }

    pub fn id(&self) -> ReceiptId {
        match self {
            Self::Receipt(receipt) => receipt.id,
            Self::Acknowledged(entry) => entry.acknowledgement.delivery().receipt,
            Self::Received(_, id, _) => *id,
        }
    }
}

/// Returns the item with this id prefix, of any kind.
pub fn find(courier: &Courier, prefix: &IdPrefix) -> Result<MatchedItem, FindError> {
    find_if(courier, prefix, |_| true)?.ok_or_else(|| FindError::NoSuchReceipt(prefix.clone()))
}

/// Returns the item with this id prefix for which `is_wanted` is true. If this node's receipt and a
/// received bundle have the same id, the receipt comes first.
pub fn find_if(
    courier: &Courier,
    prefix: &IdPrefix,
    is_wanted: impl Fn(&MatchedItem) -> bool,
) -> Result<Option<MatchedItem>, FindError> {
    let mut found: Vec<MatchedItem> = Vec::new();
    found.extend(courier.store.receipts_named(prefix, 2)?.into_iter().map(MatchedItem::Receipt));
    found.extend(courier.store.acknowledged_named(prefix, 2)?.into_iter().map(MatchedItem::Acknowledged));
    let received = courier.store.received_named(prefix, 2)?.into_iter();
    found.extend(received.map(|(carrier, id, received)| MatchedItem::Received(carrier, id, received)));
    let mut wanted = found.into_iter().filter(|found| is_wanted(found));
    let Some(first) = wanted.next() else { return Ok(None) };
    let one = first.id();
    match wanted.map(|found| found.id()).find(|other| *other != one) {
        Some(other) => Err(FindError::Ambiguous { prefix: prefix.clone(), one, other }),
        None => Ok(Some(first)),
    }
}
