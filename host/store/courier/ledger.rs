//! What was earned: credited in the change that takes an acknowledged receipt from the queue, so once; then moved, in
//! batches, to the archive, so that the database stays as large as what is pending.

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::super::archive::{Archive, Entry, Place};
use super::super::database::lock;
use super::{Change, CourierStore, Lane, LaneTag, StoreError, decode, keys};
use crate::digest::Digest;
use crate::key::PublicKey;
use crate::receipt::{Acknowledgement, IdPrefix, Receipt, ReceiptId};

/// How many go to the archive at once: one write to disk for all of them.
pub const ARCHIVED_AT_ONCE: usize = 256;

/// What one receipt has earned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    pub credit: u64,
    pub credited_ms: u64,
    /// Where its acknowledgement is in the archive; `None` before it is there.
    pub place: Option<Place>,
}

/// What was earned with one destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub receipts: u64,
    pub bytes: u64,
    pub credit: u64,
}

impl Totals {
    pub(super) fn add(&mut self, bytes: u64, credit: u64) {
        self.receipts += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.credit = self.credit.saturating_add(credit);
    }
}

/// An acknowledgement on its way to the archive.
#[derive(Serialize, Deserialize)]
struct Unarchived {
    acknowledgement: Vec<u8>,
    credit: u64,
    credited_ms: u64,
}

impl CourierStore {
    /// Takes the receipt that `acknowledgement` is for from the queue, credits `credit` for it, and records how its
    /// destination has answered; all in one change, on disk on return. `was_tried` says whether that was a try, to be
    /// counted. `false` if there is no such receipt (any more): then nothing is credited.
    ///
    /// That the acknowledgement is of what was sent, and its signature the destination's, is the caller's to have checked.
    pub fn acknowledge(
        &self,
        acknowledgement: &Acknowledgement,
        credit: u64,
        now_ms: u64,
        lane: Option<&Lane>,
    ) -> Result<bool, StoreError> {
        self.change(|change| {
            if let Some(lane) = lane {
                change.tally.attempts += 1;
                let key = keys::lane(LaneTag::of(lane.destination.as_ref()));
                if change.get::<Lane>(&key)?.as_ref() != Some(lane) {
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

    /// Moves acknowledgements to the archive, and removes the bundles that nothing needs any more. Returns how many were
    /// moved; 0 when there are none left.
    pub fn archive(&self) -> Result<usize, StoreError> {
        let _removing = self.placing.write().unwrap_or_else(PoisonError::into_inner);
        self.database.check()?;
        let mut archive = lock(&self.archive);
        let (mut ids, mut entries) = (Vec::new(), Vec::new());
        for pair in self.database.prefixed(&[keys::UNARCHIVED]).take(ARCHIVED_AT_ONCE) {
            let (key, value) = pair?;
            let unarchived: Unarchived = decode(&self.database, &value)?;
            let Unarchived { acknowledgement, credit, credited_ms } = unarchived;
            let kept = Acknowledgement::from_kept_bytes(&acknowledgement).map_err(|error| {
                StoreError::CourierDamaged { path: self.database.path().to_owned(), message: error.to_string() }
            })?;
            ids.extend(keys::id_in(&key));
            entries.push(Entry { acknowledgement: kept, credit, credited_ms });
        }
        if entries.is_empty() {
            return Ok(0);
        }
        // A credit that is not on disk may be gone after a crash, and its bundle is then needed again.
        self.settle()?;
        let needs = |entry: &Entry| {
            let delivery = entry.acknowledgement.delivery();
            keys::needs(&delivery.bundle.blake3, &delivery.receipt)
        };
        let needed: Vec<Vec<u8>> = entries.iter().map(needs).collect();
        let before = archive.end();
        let places = archive.append(&entries)?;
        let end = archive.end();
        let record = |change: &mut Change<'_>| {
            for ((id, entry), place) in ids.iter().zip(&entries).zip(places) {
                let Entry { credit, credited_ms, .. } = *entry;
                change.remove(keys::unarchived(id));
                change.put(keys::ledger(id), &Credit { credit, credited_ms, place: Some(place) });
            }
            needed.iter().for_each(|key| change.remove(key.clone()));
            change.tally.unarchived = change.tally.unarchived.saturating_sub(entries.len() as u64);
            change.tally.archive_end = end;
            Ok(())
        };
        // Bundles go after the archive has what they were credited with, and before the change: after a crash in between it is
        // made again, and finds them gone. And not in it, for all other changes would wait.
        let moved = self.remove_unneeded(&entries, &needed).and_then(|()| self.change(record));
        if let Err(error) = moved {
            // They are in the database still, and must not stand in the archive twice. Where the database has failed, they may be
            // in either: it is seen when that is opened again.
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

    /// Removes the bundles of `entries` that are needed by no key but these. Nothing comes to need one meanwhile.
    fn remove_unneeded(&self, entries: &[Entry], needed: &[Vec<u8>]) -> Result<(), StoreError> {
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

    /// The index of a sealed segment has what the ledger had of it.
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

    /// What a receipt has earned; `None` if it was not acknowledged.
    pub fn credit(&self, id: &ReceiptId) -> Result<Option<Credit>, StoreError> {
        if let Some(credit) = self.get(&keys::ledger(id))? {
            return Ok(Some(credit));
        }
        let found = lock(&self.archive).find(id)?;
        Ok(found.map(|(place, Entry { credit, credited_ms, .. })| Credit { credit, credited_ms, place: Some(place) }))
    }

    /// Acknowledged receipts whose ids begin so, `max` at most.
    pub fn acknowledged_named(&self, prefix: &IdPrefix, max: usize) -> Result<Vec<Entry>, StoreError> {
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

    fn acknowledged(&self, id: &ReceiptId, credit: &Credit) -> Result<Option<Entry>, StoreError> {
        if let Some(place) = credit.place {
            return lock(&self.archive).at(place).map(Some);
        }
        let Some(unarchived) = self.get::<Unarchived>(&keys::unarchived(id))? else { return Ok(None) };
        let Ok(acknowledgement) = Acknowledgement::from_kept_bytes(&unarchived.acknowledgement) else {
            return Ok(None);
        };
        Ok(Some(Entry { acknowledgement, credit: unarchived.credit, credited_ms: unarchived.credited_ms }))
    }

    /// What is in the archive, the oldest first, `max` at most, after the entry at `after` if that is given.
    pub fn acknowledged_after(&self, after: Option<Place>, max: usize) -> Result<Vec<(Place, Entry)>, StoreError> {
        lock(&self.archive).after(after, max)
    }

    /// What was earned with each destination.
    pub fn totals(&self) -> Result<Vec<(PublicKey, Totals)>, StoreError> {
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

impl Change<'_> {
    fn credit(&mut self, acknowledgement: &Acknowledgement, credit: u64, now_ms: u64) -> Result<(), StoreError> {
        let delivery = acknowledgement.delivery();
        let id = delivery.receipt;
        self.put(keys::ledger(&id), &Credit { credit, credited_ms: now_ms, place: None });
        let acknowledgement = acknowledgement.to_bytes();
        self.put(keys::unarchived(&id), &Unarchived { acknowledgement, credit, credited_ms: now_ms });
        let key = keys::totals(&delivery.destination);
        let mut totals: Totals = self.get(&key)?.unwrap_or_default();
        totals.add(delivery.bundle.bytes, credit);
        self.put(key, &totals);
        self.tally.add_credit(delivery.bundle.bytes, credit);
        self.tally.unarchived += 1;
        Ok(())
    }
}
