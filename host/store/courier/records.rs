//! Records of bundles that are stored both in the database and beside the bundle.

use serde::{Deserialize, Serialize};

use crate::proof::Blob;
use crate::receipt::{Receipt, ReceiptId, Sender};

/// A received bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    pub bundle: Blob,
    pub sender: Sender,
    pub hops: u8,
    pub expires_ms: u64,
    pub stored_ms: u64,
    /// The acknowledgement's bytes. A carrier that asks again gets exactly these.
    pub acknowledgement: Vec<u8>,
    /// True if the bundle is still stored.
    pub is_kept: bool,
}

/// Record of a bundle's sidecar. A later record of a receipt overrides an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SidecarRecord {
    /// A receipt that is to be forwarded.
    Submitted(Receipt),
    /// A receipt that its owner dropped while others needed the bundle.
    Forgotten(ReceiptId),
    Received(Received),
    /// A received bundle that was dropped, by the carrier's key and the receipt's id.
    ReceivedDropped([u8; 32], ReceiptId),
}
