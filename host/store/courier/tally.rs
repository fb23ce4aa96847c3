//! What is kept in numbers: how much there is, what came of it, and a checksum of all that is alive. The tally is in the
//! database, changed with what it counts; and a copy of it is in a file of its own, the journal, written after each flush.
//! A database that has silently lost its latest changes is behind the journal.

use serde::{Deserialize, Serialize};

use super::super::archive::Place;
use super::super::journal;
use crate::digest::Digest;

const LIVE_DOMAIN: &str = "compute-host courier live record v1";

/// Of the courier's database. Numbers only grow where nothing else is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many changes have been made.
    pub changes: u64,
    /// Receipts, and what was received: how many there are now, and the exclusive or of a hash of each.
    pub live: u64,
    pub checksum: u128,
    /// Now.
    pub pending: u64,
    pub pending_bytes: u64,
    /// Now.
    pub dead: u64,
    pub dead_bytes: u64,
    /// Tries of one receipt.
    pub attempts: u64,
    /// Those that did not end in a verified acknowledgement.
    pub failures: u64,
    /// Those of them that were answered by what is no acknowledgement of what was sent.
    pub invalid_acknowledgements: u64,
    /// Receipts that were acknowledged, their bytes, and the credit for them.
    pub credited: u64,
    pub credited_bytes: u64,
    pub credit: u64,
    /// Bundles that are here now, and their bytes, each counted as often as it was brought.
    pub received: u64,
    pub received_bytes: u64,
    /// Acknowledgements that are not in the archive yet, now.
    pub unarchived: u64,
    /// Where the archive ends.
    pub archive_end: Place,
}

impl journal::State for Tally {
    fn changes(&self) -> u64 {
        self.changes
    }
}

impl Tally {
    pub(super) fn add_live(&mut self, key: &[u8], value: &[u8]) {
        self.live += 1;
        self.checksum ^= live_hash(key, value);
    }

    pub(super) fn add_credit(&mut self, bytes: u64, credit: u64) {
        self.credited += 1;
        self.credited_bytes = self.credited_bytes.saturating_add(bytes);
        self.credit = self.credit.saturating_add(credit);
    }

    pub(super) fn remove_live(&mut self, key: &[u8], value: &[u8]) {
        self.live = self.live.saturating_sub(1);
        self.checksum ^= live_hash(key, value);
    }
}

/// The tally, and what must change with it.
#[derive(Default)]
pub struct Latest {
    pub tally: Tally,
    /// If one is under way.
    pub look: Option<Look>,
}

/// A look at all that is alive, while that changes.
#[derive(Clone, Default)]
pub struct Look {
    /// What has a key before that has been counted; changes to it are counted as they are made.
    pub before: Vec<u8>,
    /// How many there were, and their checksum.
    pub found: Tally,
}

impl Look {
    /// Counts the next record.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.found.add_live(key, value);
        self.before = [key, &[0]].concat();
    }
}

fn live_hash(key: &[u8], value: &[u8]) -> u128 {
    // A key's length follows from its first byte.
    let digest = Digest::in_domain(LIVE_DOMAIN, &[key, value].concat());
    u128::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alive_adds_up_in_any_order() {
        let (mut one, mut other) = (Tally::default(), Tally::default());
        for at in [1_u8, 2, 3] {
            one.add_live(&[at], b"value");
        }
        for at in [3_u8, 1] {
            other.add_live(&[at], b"value");
        }
        one.remove_live(&[2], b"value");
        assert_eq!(one, other);
        one.remove_live(&[1], b"another value");
        assert_ne!((one.live, one.checksum), (1, 0));
    }
}
