//! What a flush is told, and what it tells.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::key::KeyName;
use crate::receipt::ReceiptId;

/// What is to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All that is pending, at once; and what fails again and again for this long.
    All { retry_for: Duration },
    /// What is due now.
    Due,
    /// All that is pending, once.
    Once,
}

/// What a flush tells while it is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// How much is pending when it begins.
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
    /// Nothing can be forwarded to this destination as things are.
    NoWay {
        destination: Option<KeyName>,
        why: String,
    },
}

/// What came of a flush.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub forwarded: u64,
    pub forwarded_bytes: u64,
    pub credit: u64,
    /// Handed over; their acknowledgements come another way.
    pub carried: u64,
    pub attempts: u64,
    pub failures: u64,
    pub died: u64,
    /// What is pending after it, when something of it can be tried next, and how much is dead.
    pub pending: u64,
    pub next_due_ms: Option<u64>,
    pub dead: u64,
    pub interrupted: bool,
}
