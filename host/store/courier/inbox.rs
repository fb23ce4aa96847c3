//! Inbox: bundles received for this node, stored until its owner drops them. Each bundle's
//! acknowledgement is stored for as long as its carrier may ask again.

use std::fs::File;
use std::path::PathBuf;
use std::sync::PoisonError;

use super::super::bundles::{StagedBundle, WrittenBundle};
use super::super::record;
use super::records::{Received, SidecarRecord};
use super::{CourierChange, CourierStore, StoreError, decode, keys};
use crate::key::PublicKey;
use crate::proof::Blob;
use crate::receipt::{Acknowledgement, CLOCK_SET_MS, IdPrefix, ReceiptId};

/// Number of expired records that one new bundle removes.
const FORGOTTEN_AT_ONCE: usize = 4;

/// Time for which a dropped bundle is remembered if its carrier's clock was never set: a year.
const WITHOUT_CLOCK_MS: u64 = 365 * 24 * 60 * 60 * 1_000;

impl Received {
    /// Returns the time until which the carrier may ask again, by the clock that gave `stored_ms`.
    /// The expiry time of a carrier whose clock was never set means nothing, so it is not used.
    pub const fn wanted_until_ms(&self) -> u64 {
        if self.expires_ms < CLOCK_SET_MS { self.stored_ms.saturating_add(WITHOUT_CLOCK_MS) } else { self.expires_ms }
    }
}

impl CourierStore {
    /// Creates a file for the bytes of a bundle that is being received.
    pub fn stage_received(&self) -> Result<StagedBundle, StoreError> {
        self.received.stage()
    }

    pub fn received(&self, carrier: &PublicKey, id: &ReceiptId) -> Result<Option<Received>, StoreError> {
        self.get(&keys::received(carrier, id))
    }

    /// Stores a received bundle and returns when it is on disk. Returns the stored record, and
    /// whether it is this one: of several concurrent deliveries, the first one wins.
    pub fn receive(
        &self,
        bundle: WrittenBundle,
        acknowledgement: &Acknowledgement,
    ) -> Result<(Received, bool), StoreError> {
        let delivery = acknowledgement.delivery();
        let received = Received {
            bundle: delivery.bundle,
            sender: delivery.sender.clone(),
            hops: delivery.hops,
            expires_ms: delivery.expires_ms,
            stored_ms: acknowledgement.stored_ms(),
            acknowledgement: acknowledgement.to_bytes(),
            is_kept: true,
        };
        let (carrier, id) = (&delivery.carrier, &delivery.receipt);
        let key = keys::received(carrier, id);
        let _placing = self.placing.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = self.get(&key)? {
            // The first record may not be on disk yet.
            self.flush()?;
            return Ok((first, false));
        }
        self.received.keep(bundle, &record::encode(&SidecarRecord::Received(received.clone())))?;
        self.change(|change| {
            if let Some(first) = change.get(&key)? {
                return Ok((first, false));
            }
            change.forget_expired(received.stored_ms)?;
            change.put_received(carrier, id, &received);
            Ok((received, true))
        })
    }

    /// Returns the received bundles that are still stored, oldest first, at most `max`, after
    /// `after` if it is given.
    pub fn received_list(
        &self,
        after: Option<(u64, PublicKey, ReceiptId)>,
        max: usize,
    ) -> Result<Vec<(PublicKey, ReceiptId, Received)>, StoreError> {
        let from = match &after {
            Some((stored_ms, carrier, id)) => [keys::stored(*stored_ms, carrier, id), vec![0]].concat(),
            None => vec![keys::STORED],
        };
        let mut found = Vec::new();
        for pair in self.database.between(&from, &[keys::STORED + 1]).take(max) {
            let Some((carrier, id)) = keys::carrier_and_id_in(&pair?.0) else { continue };
            found.extend(self.received(&carrier, &id)?.map(|received| (carrier, id, received)));
        }
        Ok(found)
    }

    /// Returns the received bundles with this id prefix, from all carriers, at most `max`. Scans
    /// all received bundles.
    pub fn received_named(
        &self,
        prefix: &IdPrefix,
        max: usize,
    ) -> Result<Vec<(PublicKey, ReceiptId, Received)>, StoreError> {
        let (low, high) = prefix.bounds();
        let mut found = Vec::new();
        for pair in self.database.prefixed(&[keys::RECEIVED]) {
            let (key, value) = pair?;
            let Some((carrier, id)) = keys::carrier_and_id_in(&key) else { continue };
            if (low..=high).contains(id.as_bytes()) && found.len() < max {
                found.push((carrier, id, decode(&self.database, &value)?));
            }
        }
        Ok(found)
    }

    /// Returns the path of a received bundle's file.
    pub fn received_path(&self, bundle: &Blob) -> PathBuf {
        self.received.path(&bundle.blake3)
    }

    /// Opens a received bundle; `None` if its bytes are missing.
    pub fn received_bundle(&self, bundle: &Blob) -> Result<Option<File>, StoreError> {
        self.received.open(&bundle.blake3)
    }

    /// Drops a received bundle. Its acknowledgement is stored until its carrier can no longer ask.
    /// Returns `None` if there is no such bundle.
    pub fn drop_received(&self, carrier: &PublicKey, id: &ReceiptId) -> Result<Option<Received>, StoreError> {
        let key = keys::received(carrier, id);
        let _removing = self.placing.write().unwrap_or_else(PoisonError::into_inner);
        let dropped = self.change(|change| {
            let Some(former) = change.get::<Received>(&key)?.filter(|received| received.is_kept) else {
                return Ok(None);
            };
            let brought = keys::brought(&former.bundle.blake3, carrier, id);
            let others = change
                .database
                .any_but(&keys::brought_by_any(&former.bundle.blake3), std::slice::from_ref(&brought))?;
            Ok(Some((change.let_go(carrier, id, &former), others)))
        })?;
        let Some((dropped, others)) = dropped else { return Ok(None) };
        let digest = &dropped.bundle.blake3;
        if others {
            self.received.note(digest, &record::encode(&SidecarRecord::ReceivedDropped(*carrier.as_bytes(), *id)))?;
        } else {
            self.received.remove(digest)?;
        }
        Ok(Some(dropped))
    }
}

impl CourierChange<'_> {
    /// Writes the record of a stored bundle and its index entries.
    pub(super) fn put_received(&mut self, carrier: &PublicKey, id: &ReceiptId, received: &Received) {
        self.put_live(keys::received(carrier, id), received, None);
        self.mark(keys::stored(received.stored_ms, carrier, id));
        self.mark(keys::brought(&received.bundle.blake3, carrier, id));
        self.tally.received += 1;
        self.tally.received_bytes = self.tally.received_bytes.saturating_add(received.bundle.bytes);
    }

    /// Reduces the record to what its carrier may ask for.
    pub(super) fn let_go(&mut self, carrier: &PublicKey, id: &ReceiptId, former: &Received) -> Received {
        let dropped = Received { is_kept: false, ..former.clone() };
        self.put_live(keys::received(carrier, id), &dropped, Some(former));
        self.remove(keys::brought(&former.bundle.blake3, carrier, id));
        self.remove(keys::stored(former.stored_ms, carrier, id));
        self.mark(keys::dropped(former.wanted_until_ms(), carrier, id));
        self.tally.received = self.tally.received.saturating_sub(1);
        self.tally.received_bytes = self.tally.received_bytes.saturating_sub(former.bundle.bytes);
        dropped
    }

    /// Removes some expired records. A carrier that asks for one of them again is told that it has
    /// expired.
    fn forget_expired(&mut self, now_ms: u64) -> Result<(), StoreError> {
        let to = [&[keys::DROPPED][..], &now_ms.to_be_bytes()].concat();
        let expired = self.database.between(&[keys::DROPPED], &to).take(FORGOTTEN_AT_ONCE);
        for pair in expired.collect::<Result<Vec<_>, _>>()? {
            let Some((carrier, id)) = keys::carrier_and_id_in(&pair.0) else { continue };
            let key = keys::received(&carrier, &id);
            if let Some(received) = self.get::<Received>(&key)? {
                self.remove_live(key, &received);
            }
            self.remove(pair.0.to_vec());
        }
        Ok(())
    }
}
