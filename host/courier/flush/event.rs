//! Modes, events and summary of a flush.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::key::KeyName;
use crate::receipt::ReceiptId;

/// Selection of the receipts to attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// All pending receipts at once. Failed ones are retried for this long.
    All { retry_for: Duration },
    /// Receipts that are due now.
    Due,
    /// All pending receipts, once.
    Once,
}

/// Progress event of a flush.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Pending receipts at the start.
    Begun {
        pending: u64,
        pending_bytes: u64,
    },
    Forwarded {
        id: ReceiptId,
        to: KeyName,
        bytes: u64,
        credit: u64,
        took_us: u64,
    },
    Carried {
        id: ReceiptId,
        to: KeyName,
        bytes: u64,
    },
    Failed {
        id: ReceiptId,
        to: KeyName,
        error: String,
        due_ms: u64,
        took_us: u64,
    },
    Died {
        id: ReceiptId,
        to: Option<KeyName>,
        error: String,
        took_us: Option<u64>,
    },
    /// The destination cannot be reached as configured.
    NoWay {
        destination: Option<KeyName>,
        why: String,
    },
}

/// Result of a flush.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub forwarded: u64,
    pub forwarded_bytes: u64,
    pub credit: u64,
    /// Exported receipts, whose acknowledgements come later by the same transport.
    pub carried: u64,
    pub attempts: u64,
    pub failures: u64,
    pub died: u64,
    /// Pending receipts after the flush, the time of the next possible attempt, and the number of
    /// dead receipts.
    pub pending: u64,
    pub next_due_ms: Option<u64>,
    pub dead: u64,
    pub interrupted: bool,
}
