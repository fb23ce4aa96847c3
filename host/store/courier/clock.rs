//! Correction of receipts after the node's clock was set, back or for the first time. Their times
//! come from another clock than the current one. A check that finds nothing wrong reads one page of
//! an index.

use super::outbox::CircuitBreaker;
use super::{CourierStore, DestinationTag, StoreError, keys};
use crate::receipt::{Receipt, ReceiptId, ReceiptState};

/// Receipts per page.
const PAGE: usize = 256;

impl CourierStore {
    /// Corrects the receipts of a lane that are due after `now_ms` because another clock set their
    /// times. If there were any, the lane may be tried again at once. Returns the number of
    /// corrected receipts.
    ///
    /// Reads the next page while all receipts of a page needed correction. So the receipts that
    /// remain are due soon, or are found by the next check.
    pub fn put_on_this_clock(&self, tag: DestinationTag, now_ms: u64) -> Result<u64, StoreError> {
        let mut count = 0;
        loop {
            let after = Some((now_ms, ReceiptId::from([0xff; ReceiptId::BYTES])));
            let page = self.page(tag, after, u64::MAX, PAGE)?;
            let put_right: Vec<Receipt> = page.iter().filter_map(|receipt| receipt.on_this_clock(now_ms)).collect();
            for receipt in &put_right {
                self.put_times(receipt)?;
            }
            count += put_right.len() as u64;
            if put_right.len() < PAGE {
                break;
            }
        }
        if count > 0 {
            let lane: CircuitBreaker = self.get(&keys::lane(tag))?.unwrap_or_default();
            self.record_lane(&CircuitBreaker { not_before_ms: lane.not_before_ms.min(now_ms), ..lane })?;
        }
        Ok(count)
    }

    /// Replaces the times of a receipt by those of `times`.
    pub fn put_times(&self, times: &Receipt) -> Result<Option<Receipt>, StoreError> {
        self.alter(&times.id, |receipt| {
            (receipt.created_ms, receipt.expires_ms) = (times.created_ms, times.expires_ms);
            (receipt.attempted_ms, receipt.due_ms) = (times.attempted_ms, times.due_ms);
        })
    }

    /// Gives up a receipt that has expired by this node's clock. If the clock is later set back
    /// before that time, [`CourierStore::revive_unexpired`] finds the receipt again.
    pub fn give_up_expired(&self, id: &ReceiptId, why: &str) -> Result<(), StoreError> {
        self.change(|change| {
            let Some(former) = change.get::<Receipt>(&keys::receipt(id))? else { return Ok(()) };
            let receipt = Receipt { state: ReceiptState::Dead, last_error: Some(why.to_owned()), ..former.clone() };
            change.put_receipt(&receipt, Some(&former));
            change.mark(keys::expired(&receipt));
            Ok(())
        })
    }

    /// Revives the receipts that were given up as expired but have not expired at `now_ms`, because
    /// the clock was ahead. Returns their number.
    pub fn revive_unexpired(&self, now_ms: u64) -> Result<u64, StoreError> {
        let mut count = 0;
        loop {
            let (from, to) = (keys::expired_after(now_ms), keys::after(keys::EXPIRED));
            let pairs = self.database.between(&from, &to).take(PAGE);
            let ids: Vec<ReceiptId> = pairs
                .filter_map(|pair| pair.map(|(key, _)| keys::id_in(&key)).transpose())
                .collect::<Result<_, _>>()?;
            if ids.is_empty() {
                return Ok(count);
            }
            for id in ids {
                let revived = self.alter(&id, |receipt| {
                    (receipt.state, receipt.due_ms, receipt.last_error) = (ReceiptState::Pending, now_ms, None);
                })?;
                count += u64::from(revived.is_some());
            }
        }
    }
}
