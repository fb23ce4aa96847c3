//! Room for what carriers hand over: deliveries under way, and bundles and bytes that are stored. Each carrier has shares of
//! its own, so that one carrier does not keep the others out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Settings;
use crate::key::PublicKey;
use crate::shares::{NoShare, Owner, Pool, Share, Shares};
use crate::store::{CourierStore, StoreError};

/// How many bundles are received at a time.
pub const RECEIVING_MAX: u64 = 256;

/// What is stored is read from the store so many bundles at a time.
const PAGE: usize = 1_000;

/// A carrier, or the peer that a bundle is stored for.
impl Owner for PublicKey {}

/// The room of one node.
pub struct Room {
    places: Pool<PublicKey>,
    capacity: (u64, u64),
    /// `None` until the first delivery: a command that receives nothing need not count what is stored.
    stored: Arc<Mutex<Option<Stored>>>,
}

/// What is stored or being received, by carrier.
struct Stored {
    bundles: Shares<PublicKey>,
    bytes: Shares<PublicKey>,
}

/// Why there is no room.
#[derive(Debug)]
pub enum NoRoom {
    /// No delivery of this carrier is taken until another of its own has ended.
    Busy,
    /// The carrier has its share of what may be stored.
    Full,
    Storage(StoreError),
}

/// Room for one delivery. It is free again when this is dropped, but for what [`Held::keep`] says is stored.
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

    /// Takes room for a bundle of so many bytes from `carrier`.
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

    /// Frees the room of what `remove` says it has removed from the store: the bytes of one bundle.
    pub fn release(
        &self,
        carrier: &PublicKey,
        remove: impl FnOnce() -> Result<Option<u64>, StoreError>,
    ) -> Result<(), StoreError> {
        // What is being counted must not be removed meanwhile, or it would be counted and never freed.
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
    /// Keeps the room taken: the bundle is stored.
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
