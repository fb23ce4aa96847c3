//! Quotas of the receiving side: concurrent deliveries, stored bundles, and their bytes. Each
//! carrier has its own shares, so that one carrier cannot block the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Settings;
use crate::key::PublicKey;
use crate::shares::{Owner, Pool, Share, ShareRefused, Shares};
use crate::store::{CourierStore, StoreError};

/// Number of bundles that are received at once.
pub const RECEIVING_MAX: u64 = 256;

/// Received bundles per read from the store.
const PAGE: usize = 1_000;

/// A carrier, that is, the peer from which a bundle is stored.
impl Owner for PublicKey {}

/// Quotas of one node.
pub struct CarrierQuotas {
    places: Pool<PublicKey>,
    capacity: (u64, u64),
    /// `None` until the first delivery: a command that receives nothing need not count the stored
    /// bundles.
    stored: Arc<Mutex<Option<CarrierUse>>>,
}

/// Stored bundles and deliveries in progress, by carrier.
struct CarrierUse {
    bundles: Shares<PublicKey>,
    bytes: Shares<PublicKey>,
}

/// Reason why a reservation fails.
#[derive(Debug)]
pub enum QuotaError {
    /// All delivery slots of this carrier are in use. One is free when one of its deliveries ends.
    Busy,
    /// The carrier's storage share is used up.
    Full,
    Storage(StoreError),
}

/// Reservation for one delivery. Dropping it releases the reservation, except for a bundle that
/// [`DeliveryReservation::keep`] marked as stored.
pub struct DeliveryReservation {
    carrier: PublicKey,
    bytes: u64,
    stored: Arc<Mutex<Option<CarrierUse>>>,
    is_stored: bool,
    _place: Share<PublicKey>,
}

impl CarrierQuotas {
    pub fn new(settings: &Settings) -> Self {
        let capacity = (settings.received_max, settings.received_bytes_max);
        Self { places: Pool::new(RECEIVING_MAX), capacity, stored: Arc::default() }
    }

    /// Reserves space for a bundle of `bytes` from `carrier`.
    pub fn take(
        &self,
        store: &CourierStore,
        carrier: PublicKey,
        bytes: u64,
    ) -> Result<DeliveryReservation, QuotaError> {
        let place = self.places.take(&carrier, 1).map_err(|ShareRefused| QuotaError::Busy)?;
        let mut stored = lock(&self.stored);
        let counted = match &mut *stored {
            Some(counted) => counted,
            none => none.insert(CarrierUse::count(self.capacity, store).map_err(QuotaError::Storage)?),
        };
        counted.bundles.take(&carrier, 1).map_err(|ShareRefused| QuotaError::Full)?;
        if let Err(ShareRefused) = counted.bytes.take(&carrier, bytes) {
            counted.bundles.release(&carrier, 1);
            return Err(QuotaError::Full);
        }
        drop(stored);
        Ok(DeliveryReservation { carrier, bytes, stored: self.stored.clone(), is_stored: false, _place: place })
    }

    /// Calls `remove` and releases the space of the removed bundle. `remove` returns the bundle's
    /// size in bytes if it removed one.
    pub fn release(
        &self,
        carrier: &PublicKey,
        remove: impl FnOnce() -> Result<Option<u64>, StoreError>,
    ) -> Result<(), StoreError> {
        // A bundle must not be removed during the first count, or it would be counted and never
        // released.
        let counting = lock(&self.stored);
        let is_counted = counting.is_some();
        let removed = if is_counted {
            drop(counting);
            remove()?
        } else {
            let removed = remove()?;
            drop(counting);
            removed
        };
        if let (true, Some(bytes)) = (is_counted, removed) {
            free(&self.stored, carrier, bytes);
        }
        Ok(())
    }
}

impl DeliveryReservation {
    /// Keeps the reservation after the drop, because the bundle is stored.
    pub fn keep(mut self) {
        self.is_stored = true;
    }
}

impl Drop for DeliveryReservation {
    fn drop(&mut self) {
        if !self.is_stored {
            free(&self.stored, &self.carrier, self.bytes);
        }
    }
}

impl CarrierUse {
    fn count((bundles, bytes): (u64, u64), store: &CourierStore) -> Result<Self, StoreError> {
        let mut stored = Self { bundles: Shares::new(bundles), bytes: Shares::new(bytes) };
        let mut after = None;
        loop {
            let page = store.received_list(after, PAGE)?;
            let Some((carrier, id, last)) = page.last() else { return Ok(stored) };
            after = Some((last.stored_ms, *carrier, *id));
            for (carrier, _, received) in &page {
                stored.bundles.retake(carrier, 1);
                stored.bytes.retake(carrier, received.bundle.bytes);
            }
        }
    }
}

fn free(stored: &Mutex<Option<CarrierUse>>, carrier: &PublicKey, bytes: u64) {
    if let Some(stored) = &mut *lock(stored) {
        stored.bundles.release(carrier, 1);
        stored.bytes.release(carrier, bytes);
    }
}

fn lock(stored: &Mutex<Option<CarrierUse>>) -> MutexGuard<'_, Option<CarrierUse>> {
    stored.lock().unwrap_or_else(PoisonError::into_inner)
}
