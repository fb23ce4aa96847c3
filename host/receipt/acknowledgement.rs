//! Acknowledgement: the destination's signed statement that it has stored a delivered bundle. The
//! [`Statement`] begins with `COURIACK`, for the purpose `compute-host courier acknowledgement v1`.
//! It adds nothing to the delivery and the time at which the bundle was on disk.

use super::statement::{FRAME_BYTES, Statement, StatementFields};
use super::{Delivery, Sender};
use crate::key::NodeKey;

/// Longest acknowledgement.
pub const ACKNOWLEDGEMENT_BYTES_MAX: usize = FRAME_BYTES + 130 + Sender::CHARS_MAX;

pub type Acknowledgement = Statement<StoredStatement>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredStatement;

impl StatementFields for StoredStatement {
    const MAGIC: &'static str = "COURIACK";
    const CONTEXT: &'static str = "compute-host courier acknowledgement v1";

    fn write(&self, _: &mut Vec<u8>) {}

    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        Some((Self, bytes))
    }
}

impl Acknowledgement {
    /// Signs an acknowledgement. Call it when `delivery` is on disk. `key` is the key of its
    /// destination.
    pub fn sign(delivery: Delivery, stored_ms: u64, key: &NodeKey) -> Self {
        Self::of(delivery, stored_ms, StoredStatement, key)
    }

    /// Returns the time at which the bundle was on disk, by the destination's clock.
    pub const fn stored_ms(&self) -> u64 {
        self.at_ms()
    }

    /// Returns whether this acknowledgement answers `asked`: the same bundle, from the same
    /// carrier, to the same destination. The time of expiry may differ from one that was sent
    /// before.
    pub fn answers(&self, asked: &Delivery) -> bool {
        let Delivery { expires_ms: _, ref receipt, bundle, ref sender, ref destination, ref carrier, hops } = *asked;
        let found = self.delivery();
        (&found.receipt, found.bundle, &found.sender) == (receipt, bundle, sender)
            && (&found.destination, &found.carrier, found.hops) == (destination, carrier, hops)
    }
}
