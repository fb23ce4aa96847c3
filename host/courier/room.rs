//! Quotas of the receiving side: concurrent deliveries, stored bundles, and their bytes. Each
//! carrier has its own shares, so that one carrier cannot block the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Settings;
use crate::key::PublicKey;
use crate::shares::{NoShare, Owner, Pool, Share, Shares};
use crate::store::{CourierStore, StoreError};

/// Number of bundles that are received at once.
pub const RECEIVING_MAX: u64 = 256;

/// Received bundles per read from the store.
const PAGE: usize = 1_000;

/// A carrier, that is, the peer from which a bundle is stored.
impl Owner for PublicKey {}

/// Quotas of one node.
pub struct Room {
    places: Pool<PublicKey>,
    capacity: (u64, u64),
    /// `None` until the first delivery: a command that receives nothing need not count the stored
    /// bundles.
    stored: Arc<Mutex<Option<Stored>>>,
}

/// Stored bundles and deliveries in progress, by carrier.
struct Stored {
    bundles: Shares<PublicKey>,
    bytes: Shares<PublicKey>,
}

/// Reason why a reservation fails.
#[derive(Debug)]
pub enum NoRoom {
    /// All delivery slots of this carrier are in use. One is free when one of its deliveries ends.
    Busy,
    /// The carrier's storage share is used up.
    Full,
    Storage(StoreError),
}

/// Reservation for one delivery. Dropping it releases the reservation, except for a bundle that
/// [`Held::keep`] marked as stored.
pub struct Held {
    carrier: PublicKey,
    bytes: u64,
    stored: Arc<Mutex<Option<Stored>>>,
    is_stored: bool,
    _place: Share<PublicKey>,
}

impl Room {
    pub fn new(settings: &Settings) -> Self {
        let capacity = (settings.received_max, settings.received_bytes_max);
        Self { places: Pool::new(RECEIVING_MAX), capacity, stored: Arc::default() }
    }

    /// Reserves space for a bundle of `bytes` from `carrier`.
    pub fn take(&self, store: &CourierStore, carrier: PublicKey, bytes: u64) -> Result<Held, NoRoom> {
        let place = self.places.take(&carrier, 1).map_err(|NoShare| NoRoom::Busy)?;
        let mut stored = lock(&self.stored);
        let counted = match &mut *stored {
            Some(counted) => counted,
            none => none.insert(Stored::count(self.capacity, store).map_err(NoRoom::Storage)?),
        };
        counted.bundles.take(&carrier, 1).map_err(|NoShare| NoRoom::Full)?;
        if let Err(NoShare) = counted.bytes.take(&carrier, bytes) {
            counted.bundles.release(&carrier, 1);
            return Err(NoRoom::Full);
        }
        drop(stored);
        Ok(Held { carrier, bytes, stored: self.stored.clone(), is_stored: false, _place: place })
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

impl Held {
    /// Keeps the reservation after the drop, because the bundle is stored.
    pub fn keep(mut self) {
        self.is_stored = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_stored {
            free(&self.stored, &self.carrier, self.bytes);
        }
    }
}

impl Stored {
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

fn free(stored: &Mutex<Option<Stored>>, carrier: &PublicKey, bytes: u64) {
    if let Some(stored) = &mut *lock(stored) {
        stored.bundles.release(carrier, 1);
        stored.bytes.release(carrier, bytes);
    }
}

fn lock(stored: &Mutex<Option<Stored>>) -> MutexGuard<'_, Option<Stored>> {
    stored.lock().unwrap_or_else(PoisonError::into_inner)
}
