//! The destination's signed word that it has stored what was delivered: a [`Statement`] that begins
//! with `COURIACK`, for the purpose `compute-host courier acknowledgement v1`, and says nothing but
//! the time at which it was on disk.

use super::statement::{FRAME_BYTES, Said, Statement};
use super::{Delivery, Sender};
use crate::key::NodeKey;

/// What its longest fields take.
pub const ACKNOWLEDGEMENT_BYTES_MAX: usize = FRAME_BYTES + 130 + Sender::CHARS_MAX;

pub type Acknowledgement = Statement<Stored>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored;

impl Said for Stored {
    const MAGIC: &'static str = "COURIACK";
    const CONTEXT: &'static str = "compute-host courier acknowledgement v1";

    fn write(&self, _: &mut Vec<u8>) {}

    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        Some((Self, bytes))
    }
}

impl Acknowledgement {
    /// To be called when `delivery` is on disk; `key` is its destination's.
    pub fn sign(delivery: Delivery, stored_ms: u64, key: &NodeKey) -> Self {
        Self::of(delivery, stored_ms, Stored, key)
    }

    /// When it was on disk, by the destination's clock.
    pub const fn stored_ms(&self) -> u64 {
        self.at_ms()
    }

    /// Whether it is the answer to `asked`: of what was handed over, by this carrier, by that destination. When it
    /// expires may have been said otherwise before.
    pub fn answers(&self, asked: &Delivery) -> bool {
        let Delivery { expires_ms: _, ref receipt, bundle, ref sender, ref destination, ref carrier, hops } = *asked;
        let found = self.delivery();
        (&found.receipt, found.bundle, &found.sender) == (receipt, bundle, sender)
            && (&found.destination, &found.carrier, found.hops) == (destination, carrier, hops)
    }
}
