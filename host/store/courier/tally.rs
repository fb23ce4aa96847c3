//! Tally of the courier's store: counts, results, and a checksum of all live records. The database
//! contains the tally and changes it together with what it counts. The journal, a separate file,
//! contains a copy that is written after each flush. A database that silently lost its latest
//! changes is behind the journal.

use serde::{Deserialize, Serialize};

use super::super::archive::ArchiveOffset;
use super::super::journal;
use crate::digest::Digest;

const LIVE_DOMAIN: &str = "compute-host courier live record v1";

/// Counts of the courier's database. A count never decreases unless its comment says "current".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CourierTally {
    /// Number of changes.
    pub changes: u64,
    /// Current number of live records (receipts and received bundles), and the exclusive or of
    /// their hashes.
    pub live: u64,
    pub checksum: u128,
    /// Current number of pending receipts, and their bytes.
    pub pending: u64,
    pub pending_bytes: u64,
    /// Current number of dead receipts, and their bytes.
    pub dead: u64,
    pub dead_bytes: u64,
    /// Delivery attempts.
    pub attempts: u64,
    /// Attempts that did not end in a verified acknowledgement.
    pub failures: u64,
    /// Failed attempts whose reply was not a valid acknowledgement of the delivery.
    pub invalid_acknowledgements: u64,
    /// Acknowledged receipts, their bytes, and the credit for them.
    pub credited: u64,
    pub credited_bytes: u64,
    pub credit: u64,
    /// Current number of received bundles, and their bytes. A bundle counts once for each delivery.
    pub received: u64,
    pub received_bytes: u64,
    /// Current number of acknowledgements that are not in the archive yet.
    pub unarchived: u64,
    /// End of the archive.
    pub archive_end: ArchiveOffset,
}

impl journal::JournalState for CourierTally {
    fn changes(&self) -> u64 {
        self.changes
    }
}

impl CourierTally {
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

/// The tally, and the state that must change with it.
#[derive(Default)]
pub struct LatestTally {
    pub tally: CourierTally,
    /// The scan in progress, if any.
    pub look: Option<ScrubCursor>,
}

/// Position and result of a scan of all live records, while the store is in use.
#[derive(Clone, Default)]
pub struct ScrubCursor {
    /// End of the scanned key range. Changes to records with a key below it are counted as they are
    /// made.
    pub before: Vec<u8>,
    /// Number of records, and their checksum.
    pub found: CourierTally,
}

impl ScrubCursor {
    /// Counts the next record.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.found.add_live(key, value);
        self.before = [key, &[0]].concat();
    }
}

fn live_hash(key: &[u8], value: &[u8]) -> u128 {
    // A key's first byte determines its length, so the concatenation is unambiguous.
    let digest = Digest::in_domain(LIVE_DOMAIN, &[key, value].concat());
    u128::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alive_adds_up_in_any_order() {
        let (mut one, mut other) = (CourierTally::default(), CourierTally::default());
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
