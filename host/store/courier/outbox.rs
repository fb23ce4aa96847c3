//! Outbox: receipts to be forwarded, and the results of their delivery attempts.

use std::fs::File;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::super::bundles::WrittenBundle;
use super::super::record;
use super::records::SidecarRecord;
use super::{CourierChange, CourierStore, Credit, DestinationTag, StoreError, decode, keys};
use crate::key::KeyName;
use crate::proof::Blob;
use crate::receipt::{IdPrefix, Receipt, ReceiptId, ReceiptState};

/// Delivery state of a destination: its circuit breaker. Persisted, so that a destination that
/// failed does not count as healthy after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitBreaker {
    /// `None` for the default destination.
    pub destination: Option<KeyName>,
    /// Consecutive failed attempts. While it is not 0, only one receipt at a time is tried.
    pub failures: u32,
    /// Time before which no attempt is made.
    pub not_before_ms: u64,
}

/// Result of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitResult {
    New,
    /// The receipt existed already. It is unchanged.
    Known(Box<Receipt>),
    /// The receipt was delivered and credited earlier.
    Credited(Credit),
}

/// Result of an attempt that did not end in a verified acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    pub at_ms: u64,
    pub error: String,
    /// True if the reply was not a valid acknowledgement of the delivery.
    pub is_invalid_acknowledgement: bool,
    /// Time of the next attempt; `None` if there is none.
    pub due_ms: Option<u64>,
}

impl CourierStore {
    /// Adds a receipt and its bundle's bytes. Returns when both are on disk.
    pub fn submit(&self, bundle: WrittenBundle, receipt: &Receipt) -> Result<SubmitResult, StoreError> {
        let _placing = self.placing.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.known(&receipt.id)? {
            // The known receipt may not be on disk yet.
            self.flush()?;
            return Ok(known);
        }
        self.bundles.keep(bundle, &record::encode(&SidecarRecord::Submitted(receipt.clone())))?;
        self.change(|change| {
            // No segment of the archive is sealed meanwhile, because the lock is held. So a receipt
            // that was credited since is in the ledger.
            if let Some(known) = change.get::<Receipt>(&keys::receipt(&receipt.id))? {
                return Ok(SubmitResult::Known(Box::new(known)));
            }
            if let Some(credit) = change.get::<Credit>(&keys::ledger(&receipt.id))? {
                return Ok(SubmitResult::Credited(credit));
            }
            change.put_receipt(receipt, None);
            change.mark(keys::needs(&receipt.bundle.blake3, &receipt.id));
            change.put_lane_of(receipt)?;
            Ok(SubmitResult::New)
        })
    }

    fn known(&self, id: &ReceiptId) -> Result<Option<SubmitResult>, StoreError> {
        if let Some(receipt) = self.receipt(id)? {
            return Ok(Some(SubmitResult::Known(Box::new(receipt))));
        }
        Ok(self.credit(id)?.map(SubmitResult::Credited))
    }

    pub fn receipt(&self, id: &ReceiptId) -> Result<Option<Receipt>, StoreError> {
        self.get(&keys::receipt(id))
    }

    /// Returns receipts with this id prefix, at most `max`.
    pub fn receipts_named(&self, prefix: &IdPrefix, max: usize) -> Result<Vec<Receipt>, StoreError> {
        let (low, high) = prefix.bounds();
        let (low, high) = (keys::receipt(&low.into()), keys::receipt(&high.into()));
        let mut found = Vec::new();
        // The range includes the greatest id.
        for pair in self.database.between(&low, &[&high[..], &[0]].concat()).take(max) {
            found.push(decode(&self.database, &pair?.1)?);
        }
        Ok(found)
    }

    /// Returns receipts in this state, oldest first, at most `max`, after `after` if it is given.
    pub fn receipts_in(
        &self,
        state: ReceiptState,
        after: Option<&Receipt>,
        max: usize,
    ) -> Result<Vec<Receipt>, StoreError> {
        let prefix = in_state(state);
        let from = after.map_or_else(|| vec![prefix], |after| [keys::created(prefix, after), vec![0]].concat());
        let to = [prefix + 1];
        self.indexed(self.database.between(&from, &to).take(max))
    }

    /// Returns the creation time of the oldest pending receipt.
    pub fn oldest_pending_ms(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.receipts_in(ReceiptState::Pending, None, 1)?.first().map(|receipt| receipt.created_ms))
    }

    /// Returns the receipts whose ids are at the end of the index keys.
    fn indexed(
        &self,
        index: impl Iterator<Item = Result<super::super::database::KeyValue, StoreError>>,
    ) -> Result<Vec<Receipt>, StoreError> {
        let mut found = Vec::new();
        for pair in index {
            let Some(id) = keys::id_in(&pair?.0) else { continue };
            // The receipt may have been removed since the index was read.
            found.extend(self.receipt(&id)?);
        }
        Ok(found)
    }

    /// Returns the destinations with pending receipts. Reads one key for each.
    pub fn lanes(&self) -> Result<Vec<(DestinationTag, CircuitBreaker)>, StoreError> {
        let mut lanes = Vec::new();
        let mut from = vec![keys::QUEUE];
        loop {
            let first = self.database.between(&from, &[keys::QUEUE + 1]).next().transpose()?;
            let Some(tag) = first.and_then(|(key, _)| DestinationTag::in_key(&key)) else { break };
            lanes.push((tag, self.get(&keys::lane(tag))?.unwrap_or_default()));
            match tag.next() {
                Some(next) => from = keys::lane_start(next),
                None => break,
            }
        }
        Ok(lanes)
    }

    /// Returns the pending receipts of a destination in order of due time, at most `max`. Starts
    /// after the position `after` if it is given, and ends with receipts due at `due_ms`.
    pub fn page(
        &self,
        lane: DestinationTag,
        after: Option<(u64, ReceiptId)>,
        due_ms: u64,
        max: usize,
    ) -> Result<Vec<Receipt>, StoreError> {
        let from = match after {
            Some((due_ms, id)) => [keys::queue(lane, due_ms, id.as_bytes()), vec![0]].concat(),
            None => keys::lane_start(lane),
        };
        let to = [keys::queue(lane, due_ms, &[0xff; ReceiptId::BYTES]), vec![0]].concat();
        if from >= to {
            return Ok(Vec::new());
        }
        self.indexed(self.database.between(&from, &to).take(max))
    }

    /// Returns the earliest time at which a receipt in one of these lanes is due.
    pub fn next_due_ms(&self, tags: &[DestinationTag]) -> Result<Option<u64>, StoreError> {
        let mut next: Option<u64> = None;
        for tag in tags {
            if let Some(receipt) = self.page(*tag, None, u64::MAX, 1)?.first() {
                let lane: CircuitBreaker = self.get(&keys::lane(*tag))?.unwrap_or_default();
                let due_ms = receipt.due_ms.max(lane.not_before_ms);
                next = Some(next.map_or(due_ms, |other| other.min(due_ms)));
            }
        }
        Ok(next)
    }

    /// Opens a bundle that is to be forwarded; `None` if its bytes are missing.
    pub fn bundle(&self, bundle: &Blob) -> Result<Option<File>, StoreError> {
        self.bundles.open(&bundle.blake3)
    }

    /// Moves a damaged bundle aside, so that it is no longer used.
    pub fn quarantine(&self, bundle: &Blob) -> Result<std::path::PathBuf, StoreError> {
        self.bundles.quarantine(&bundle.blake3)
    }

    /// Records a failed attempt and the destination's delivery state.
    pub fn record_failure(
        &self,
        id: &ReceiptId,
        tried: &FailedAttempt,
        lane: &CircuitBreaker,
    ) -> Result<(), StoreError> {
        self.change(|change| {
            change.tally.attempts += 1;
            change.tally.failures += 1;
            change.tally.invalid_acknowledgements += u64::from(tried.is_invalid_acknowledgement);
            change.put(keys::lane(DestinationTag::of(lane.destination.as_ref())), lane);
            let Some(former) = change.get::<Receipt>(&keys::receipt(id))? else { return Ok(()) };
            let mut receipt = former.clone();
            receipt.attempts = receipt.attempts.saturating_add(1);
            receipt.attempted_ms = tried.at_ms;
            receipt.last_error = Some(bounded(&tried.error));
            match tried.due_ms {
                Some(due_ms) => receipt.due_ms = due_ms,
                None => receipt.state = ReceiptState::Dead,
            }
            change.put_receipt(&receipt, Some(&former));
            Ok(())
        })
    }

    /// Gives up a receipt without an attempt, for example because its bundle is damaged.
    pub fn give_up(&self, id: &ReceiptId, why: &str) -> Result<(), StoreError> {
        self.alter(id, |receipt| {
            receipt.state = ReceiptState::Dead;
            receipt.last_error = Some(bounded(why));
        })
        .map(drop)
    }

    /// Sets a receipt to pending, due at `due_ms`, even if it was dead. Extends its expiry to
    /// `expires_ms` if it would expire earlier. Returns `None` if there is no such receipt.
    pub fn revive(&self, id: &ReceiptId, due_ms: u64, expires_ms: u64) -> Result<Option<Receipt>, StoreError> {
        self.alter(id, |receipt| {
            receipt.state = ReceiptState::Pending;
            receipt.due_ms = due_ms;
            receipt.expires_ms = receipt.expires_ms.max(expires_ms);
        })
    }

    pub(super) fn alter(
        &self,
        id: &ReceiptId,
        alter: impl FnOnce(&mut Receipt),
    ) -> Result<Option<Receipt>, StoreError> {
        self.change(|change| {
            let Some(former) = change.get::<Receipt>(&keys::receipt(id))? else { return Ok(None) };
            let mut receipt = former.clone();
            alter(&mut receipt);
            change.put_receipt(&receipt, Some(&former));
            Ok(Some(receipt))
        })
    }

    /// Records a destination's delivery state without an attempt for a receipt.
    pub fn record_lane(&self, lane: &CircuitBreaker) -> Result<(), StoreError> {
        self.change(|change| {
            change.put(keys::lane(DestinationTag::of(lane.destination.as_ref())), lane);
            Ok(())
        })
    }

    /// Removes a receipt, and its bundle if no other receipt needs it. Returns `None` if there is
    /// no such receipt.
    pub fn forget(&self, id: &ReceiptId) -> Result<Option<Receipt>, StoreError> {
        let _removing = self.placing.write().unwrap_or_else(PoisonError::into_inner);
        let forgotten = self.change(|change| {
            let Some(receipt) = change.get::<Receipt>(&keys::receipt(id))? else { return Ok(None) };
            let needs = keys::needs(&receipt.bundle.blake3, id);
            let others =
                change.database.any_but(&keys::needed(&receipt.bundle.blake3), std::slice::from_ref(&needs))?;
            change.remove_receipt(&receipt);
            change.remove(needs);
            Ok(Some((receipt, others)))
        })?;
        let Some((receipt, others)) = forgotten else { return Ok(None) };
        let digest = &receipt.bundle.blake3;
        if others {
            self.bundles.note(digest, &record::encode(&SidecarRecord::Forgotten(*id)))?;
        } else {
            self.bundles.remove(digest)?;
        }
        Ok(Some(receipt))
    }
}

const fn in_state(state: ReceiptState) -> u8 {
    match state {
        ReceiptState::Pending => keys::PENDING,
        ReceiptState::Dead => keys::DEAD,
    }
}

fn bounded(error: &str) -> String {
    error[..error.floor_char_boundary(Receipt::ERROR_BYTES_MAX)].to_owned()
}

impl CourierChange<'_> {
    /// Writes a receipt and its index entries. `former` is the receipt that it replaces, if any.
    pub(super) fn put_receipt(&mut self, receipt: &Receipt, former: Option<&Receipt>) {
        if let Some(former) = former {
            self.remove_indices(former);
        }
        self.put_live(keys::receipt(&receipt.id), receipt, former);
        self.mark(keys::created(in_state(receipt.state), receipt));
        let bytes = receipt.bundle.bytes;
        match receipt.state {
            ReceiptState::Pending => {
                let lane = DestinationTag::of(receipt.destination.as_ref());
                self.mark(keys::queue(lane, receipt.due_ms, receipt.id.as_bytes()));
                self.tally.pending += 1;
                self.tally.pending_bytes += bytes;
            }
            ReceiptState::Dead => {
                self.tally.dead += 1;
                self.tally.dead_bytes += bytes;
            }
        }
    }

    /// Stores the destination's name in its lane record.
    pub(super) fn put_lane_of(&mut self, receipt: &Receipt) -> Result<(), StoreError> {
        let key = keys::lane(DestinationTag::of(receipt.destination.as_ref()));
        if self.get::<CircuitBreaker>(&key)?.is_none() {
            self.put(key, &CircuitBreaker { destination: receipt.destination.clone(), ..CircuitBreaker::default() });
        }
        Ok(())
    }

    /// Removes the receipt and its index entries, but not the entry that its bundle is needed.
    pub(super) fn remove_receipt(&mut self, receipt: &Receipt) {
        self.remove_indices(receipt);
        self.remove_live(keys::receipt(&receipt.id), receipt);
    }

    fn remove_indices(&mut self, receipt: &Receipt) {
        self.remove(keys::created(in_state(receipt.state), receipt));
        let bytes = receipt.bundle.bytes;
        match receipt.state {
            ReceiptState::Pending => {
                let lane = DestinationTag::of(receipt.destination.as_ref());
                self.remove(keys::queue(lane, receipt.due_ms, receipt.id.as_bytes()));
                self.tally.pending = self.tally.pending.saturating_sub(1);
                self.tally.pending_bytes = self.tally.pending_bytes.saturating_sub(bytes);
            }
            ReceiptState::Dead => {
                // The receipt may have no such entry.
                self.remove(keys::expired(receipt));
                self.tally.dead = self.tally.dead.saturating_sub(1);
                self.tally.dead_bytes = self.tally.dead_bytes.saturating_sub(bytes);
            }
        }
    }
}
