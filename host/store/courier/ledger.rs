//! Ledger of credit. The change that removes an acknowledged receipt from the queue also credits
//! it, so it is credited once. Later, batches move the acknowledgements to the archive, so that the
//! database stays as large as the pending work.

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::super::archive::{Archive, ArchiveOffset, ArchivedAck};
use super::super::database::lock;
use super::{CircuitBreaker, CourierChange, CourierStore, DestinationTag, StoreError, decode, keys};
use crate::digest::Digest;
use crate::key::PublicKey;
use crate::receipt::{Acknowledgement, IdPrefix, Receipt, ReceiptId};

/// Acknowledgements per archive batch. Each batch needs one write to disk.
pub const ARCHIVED_AT_ONCE: usize = 256;

/// Credit for one receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    pub credit: u64,
    pub credited_ms: u64,
    /// Position of the acknowledgement in the archive; `None` before it is archived.
    pub place: Option<ArchiveOffset>,
}

/// Credit earned with one destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditTotals {
    pub receipts: u64,
    pub bytes: u64,
    pub credit: u64,
}

impl CreditTotals {
    pub(super) fn add(&mut self, bytes: u64, credit: u64) {
        self.receipts += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.credit = self.credit.saturating_add(credit);
    }
}

/// An acknowledgement that is not archived yet.
#[derive(Serialize, Deserialize)]
struct UnarchivedAck {
    acknowledgement: Vec<u8>,
    credit: u64,
    credited_ms: u64,
}

impl CourierStore {
    /// Removes the acknowledged receipt from the queue, credits `credit` for it, and records the
    /// destination's delivery state. All of this is one change, on disk on return. If `lane` is
    /// given, the call also counts an attempt. Returns `false` if the receipt does not exist (any
    /// more); then nothing is credited.
    ///
    /// The caller must have checked that the acknowledgement matches what was sent, and that the
    /// destination signed it.
    pub fn acknowledge(
        &self,
        acknowledgement: &Acknowledgement,
        credit: u64,
        now_ms: u64,
        lane: Option<&CircuitBreaker>,
    ) -> Result<bool, StoreError> {
        self.change(|change| {
            if let Some(lane) = lane {
                change.tally.attempts += 1;
                let key = keys::lane(DestinationTag::of(lane.destination.as_ref()));
                if change.get::<CircuitBreaker>(&key)?.as_ref() != Some(lane) {
                    change.put(key, lane);
                }
            }
            let id = acknowledgement.delivery().receipt;
            let Some(receipt) = change.get::<Receipt>(&keys::receipt(&id))? else { return Ok(false) };
            change.remove_receipt(&receipt);
            change.credit(acknowledgement, credit, now_ms)?;
            Ok(true)
        })
    }

    /// Moves acknowledgements to the archive, and removes bundles that are no longer needed.
    /// Returns the number of moved acknowledgements: 0 if none are left.
    pub fn archive(&self) -> Result<usize, StoreError> {
        let _removing = self.placing.write().unwrap_or_else(PoisonError::into_inner);
        self.database.check()?;
        let mut archive = lock(&self.archive);
        let (mut ids, mut entries) = (Vec::new(), Vec::new());
        for pair in self.database.prefixed(&[keys::UNARCHIVED]).take(ARCHIVED_AT_ONCE) {
            let (key, value) = pair?;
            let unarchived: UnarchivedAck = decode(&self.database, &value)?;
            let UnarchivedAck { acknowledgement, credit, credited_ms } = unarchived;
            let kept = Acknowledgement::from_kept_bytes(&acknowledgement).map_err(|error| {
                StoreError::CourierDamaged { path: self.database.path().to_owned(), message: error.to_string() }
            })?;
            ids.extend(keys::id_in(&key));
            entries.push(ArchivedAck { acknowledgement: kept, credit, credited_ms });
        }
        if entries.is_empty() {
            return Ok(0);
        }
        // A credit that is not on disk may be lost in a crash, and its bundle is then needed again.
        self.flush()?;
        let needs = |entry: &ArchivedAck| {
            let delivery = entry.acknowledgement.delivery();
            keys::needs(&delivery.bundle.blake3, &delivery.receipt)
        };
        let needed: Vec<Vec<u8>> = entries.iter().map(needs).collect();
        let before = archive.end();
        let places = archive.append(&entries)?;
        let end = archive.end();
        let record = |change: &mut CourierChange<'_>| {
            for ((id, entry), place) in ids.iter().zip(&entries).zip(places) {
                let ArchivedAck { credit, credited_ms, .. } = *entry;
                change.remove(keys::unarchived(id));
                change.put(keys::ledger(id), &Credit { credit, credited_ms, place: Some(place) });
            }
            needed.iter().for_each(|key| change.remove(key.clone()));
            change.tally.unarchived = change.tally.unarchived.saturating_sub(entries.len() as u64);
            change.tally.archive_end = end;
            Ok(())
        };
        // Bundles are removed after the archive has the acknowledgements, and before the change.
        // After a crash in between, the change is made again, and finds the bundles gone. Removal
        // inside the change would make all other changes wait.
        let moved = self.remove_unneeded(&entries, &needed).and_then(|()| self.change(record));
        if let Err(error) = moved {
            // The acknowledgements are still in the database, and must not be archived twice. If
            // the database has failed, either state is possible, and opening it again decides.
            if !self.database.has_failed() {
                archive.take_back(before)?;
            }
            return Err(error);
        }
        if archive.is_full() {
            archive.seal()?;
            self.forget_sealed(&archive)?;
        }
        Ok(entries.len())
    }

    /// Removes the bundles of `entries` that only the keys in `needed` refer to. No record can
    /// start to need one meanwhile.
    fn remove_unneeded(&self, entries: &[ArchivedAck], needed: &[Vec<u8>]) -> Result<(), StoreError> {
        let mut digests: Vec<Digest> =
            entries.iter().map(|entry| entry.acknowledgement.delivery().bundle.blake3).collect();
        digests.sort_unstable();
        digests.dedup();
        for digest in digests {
            if !self.database.any_but(&keys::needed(&digest), needed)? {
                self.bundles.remove(&digest)?;
            }
        }
        Ok(())
    }

    /// Removes the ledger entries of sealed segments, whose indexes contain the same information.
    pub(super) fn forget_sealed(&self, archive: &Archive) -> Result<(), StoreError> {
        let current = archive.end().segment;
        loop {
            let is_sealed = |credit: &Credit| credit.place.is_some_and(|place| place.segment < current);
            let mut sealed = Vec::new();
            for pair in self.database.prefixed(&[keys::LEDGER]) {
                let (key, value) = pair?;
                if is_sealed(&decode(&self.database, &value)?) {
                    sealed.push(key.to_vec());
                }
                if sealed.len() >= ARCHIVED_AT_ONCE {
                    break;
                }
            }
            let end = archive.end();
            let done = sealed.is_empty();
            self.change(|change| {
                change.tally.archive_end = end;
                sealed.into_iter().for_each(|key| change.remove(key));
                Ok(())
            })?;
            if done {
                return Ok(());
            }
        }
    }

    /// Returns the credit for a receipt; `None` if it was not acknowledged.
    pub fn credit(&self, id: &ReceiptId) -> Result<Option<Credit>, StoreError> {
        if let Some(credit) = self.get(&keys::ledger(id))? {
            return Ok(Some(credit));
        }
        let found = lock(&self.archive).find(id)?;
        Ok(found.map(|(place, ArchivedAck { credit, credited_ms, .. })| Credit {
            credit,
            credited_ms,
            place: Some(place),
        }))
    }

    /// Returns acknowledged receipts with this id prefix, at most `max`.
    pub fn acknowledged_named(&self, prefix: &IdPrefix, max: usize) -> Result<Vec<ArchivedAck>, StoreError> {
        let (low, high) = prefix.bounds();
        let (low, high) = (keys::ledger(&low.into()), [&keys::ledger(&high.into())[..], &[0]].concat());
        let mut found = Vec::new();
        for pair in self.database.between(&low, &high).take(max) {
            let (key, value) = pair?;
            if let Some(id) = keys::id_in(&key) {
                found.extend(self.acknowledged(&id, &decode(&self.database, &value)?)?);
            }
        }
        let archive = lock(&self.archive);
        for (id, place) in archive.find_prefix(prefix, max)? {
            if !found.iter().any(|entry| entry.acknowledgement.delivery().receipt == id) {
                found.push(archive.at(place)?);
            }
        }
        found.truncate(max);
        Ok(found)
    }

    fn acknowledged(&self, id: &ReceiptId, credit: &Credit) -> Result<Option<ArchivedAck>, StoreError> {
        if let Some(place) = credit.place {
            return lock(&self.archive).at(place).map(Some);
        }
        let Some(unarchived) = self.get::<UnarchivedAck>(&keys::unarchived(id))? else { return Ok(None) };
        let Ok(acknowledgement) = Acknowledgement::from_kept_bytes(&unarchived.acknowledgement) else {
            return Ok(None);
        };
        Ok(Some(ArchivedAck { acknowledgement, credit: unarchived.credit, credited_ms: unarchived.credited_ms }))
    }

    /// Returns archived acknowledgements, oldest first, at most `max`, after the entry at `after`
    /// if one is given.
    pub fn acknowledged_after(
        &self,
        after: Option<ArchiveOffset>,
        max: usize,
    ) -> Result<Vec<(ArchiveOffset, ArchivedAck)>, StoreError> {
        lock(&self.archive).after(after, max)
    }

    /// Returns the credit earned with each destination.
    pub fn totals(&self) -> Result<Vec<(PublicKey, CreditTotals)>, StoreError> {
        let mut totals = Vec::new();
        for pair in self.database.prefixed(&[keys::TOTALS]) {
            let (key, value) = pair?;
            if let Some(key) = key.last_chunk::<{ PublicKey::BYTES }>() {
                totals.push((PublicKey::from_kept_bytes(*key), decode(&self.database, &value)?));
            }
        }
        Ok(totals)
    }
}

impl CourierChange<'_> {
    fn credit(&mut self, acknowledgement: &Acknowledgement, credit: u64, now_ms: u64) -> Result<(), StoreError> {
        let delivery = acknowledgement.delivery();
        let id = delivery.receipt;
        self.put(keys::ledger(&id), &Credit { credit, credited_ms: now_ms, place: None });
        let acknowledgement = acknowledgement.to_bytes();
        self.put(keys::unarchived(&id), &UnarchivedAck { acknowledgement, credit, credited_ms: now_ms });
        let key = keys::totals(&delivery.destination);
        let mut totals: CreditTotals = self.get(&key)?.unwrap_or_default();
        totals.add(delivery.bundle.bytes, credit);
        self.put(key, &totals);
        self.tally.add_credit(delivery.bundle.bytes, credit);
        self.tally.unarchived += 1;
        Ok(())
    }
}
