//! The receiving side: what a carrier hands over is checked, stored, and acknowledged, in this order.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Courier;
use crate::key::Signature;
use crate::receipt::{Acknowledgement, Delivery};
use crate::store::{Received, Staged, StoreError};

/// More than this at once and the rest is told to come back.
pub const RECEIVING_MAX: usize = 256;

/// When who was told to come back should.
const BUSY_RETRY: Duration = Duration::from_secs(1);
const FULL_RETRY: Duration = Duration::from_secs(60);

/// Why a delivery is not taken. What is shown is read by the carrier's owner.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(
        "the carrier is not known here; this node's owner can add its key: `node compute courier peer add NAME KEY`"
    )]
    UnknownCarrier,
    #[error("the delivery is not signed by its carrier")]
    WrongSignature,
    #[error("another bundle was delivered under this id")]
    Conflict,
    #[error("the bundle is for another node; this node's key is not its destination")]
    NotForThisNode,
    #[error("the receipt has expired")]
    Expired,
    #[error("the bundle has {bytes} bytes, and {max} are taken")]
    TooLarge { bytes: u64, max: u64 },
    #[error("the bundle ended after {found} of {expected} bytes, or went on")]
    WrongLength { expected: u64, found: u64 },
    #[error("the bundle's bytes are not those that the delivery names")]
    WrongDigest,
    #[error("{RECEIVING_MAX} bundles are being received")]
    Busy,
    #[error("what this node has room for is full; its owner can drop what was taken")]
    QuotaFull,
    #[error("the bundle cannot be stored")]
    Storage(#[source] StoreError),
}

/// What stands behind a refusal, for programs and for protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalKind {
    pub code: &'static str,
    /// As HTTP has it.
    pub status: u16,
    pub retry_after: Option<Duration>,
}

impl Refusal {
    pub const fn kind(&self) -> RefusalKind {
        let (code, status, retry_after) = match self {
            Self::UnknownCarrier => ("unknown_carrier", 403, None),
            Self::WrongSignature => ("wrong_signature", 403, None),
            Self::Conflict => ("conflict", 409, None),
            Self::Expired => ("expired", 410, None),
            Self::TooLarge { .. } => ("too_large", 413, None),
            Self::NotForThisNode => ("not_for_this_node", 422, None),
            Self::WrongLength { .. } => ("wrong_length", 422, None),
            Self::WrongDigest => ("wrong_digest", 422, None),
            Self::Busy => ("busy", 429, Some(BUSY_RETRY)),
            Self::QuotaFull => ("quota_full", 503, Some(FULL_RETRY)),
            Self::Storage(_) => ("storage_failed", 503, Some(FULL_RETRY)),
        };
        RefusalKind { code, status, retry_after }
    }
}

impl From<StoreError> for Refusal {
    fn from(cause: StoreError) -> Self {
        Self::Storage(cause)
    }
}

/// What a delivery is met with.
pub enum Admitted {
    /// It was received before: the acknowledgement's bytes, as they were then.
    Already(Vec<u8>),
    /// Its bytes may come.
    Open(Box<Incoming>),
}

/// A bundle that is being received. If it is dropped, nothing of it is kept.
pub struct Incoming {
    courier: Arc<Courier>,
    delivery: Delivery,
    staged: Staged,
    _room: Room,
}

/// How much is being received, for which there must be room.
#[derive(Clone, Copy, Default)]
pub struct Receiving {
    bundles: usize,
    bytes: u64,
}

/// Some room that is spoken for.
struct Room {
    receiving: Arc<Mutex<Receiving>>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        receiving.bundles -= 1;
        receiving.bytes -= self.bytes;
    }
}

impl Courier {
    /// Whether the bundle of `delivery` may be handed over. Reads the disk; to be called where that may be waited for.
    pub fn admit(self: &Arc<Self>, delivery: Delivery, signature: &Signature) -> Result<Admitted, Refusal> {
        if self.peers().of_key(&delivery.carrier).is_none() {
            return Err(Refusal::UnknownCarrier);
        }
        if !delivery.is_signed(signature) {
            return Err(Refusal::WrongSignature);
        }
        if let Some(received) = self.store.received(&delivery.carrier, &delivery.receipt)? {
            let is_same = received.bundle == delivery.bundle && received.sender == delivery.sender;
            return if is_same { self.already(received) } else { Err(Refusal::Conflict) };
        }
        if delivery.destination != self.signer.public() {
            return Err(Refusal::NotForThisNode);
        }
        if delivery.expires_ms <= self.now_ms() {
            return Err(Refusal::Expired);
        }
        let (bytes, max) = (delivery.bundle.bytes, self.settings.bundle_bytes_max);
        if bytes > max {
            return Err(Refusal::TooLarge { bytes, max });
        }
        let room = self.room_for(bytes)?;
        let staged = self.store.stage_received()?;
        Ok(Admitted::Open(Box::new(Incoming { courier: self.clone(), delivery, staged, _room: room })))
    }

    /// The key may have been retired since the bundle was admitted.
    fn acknowledge(&self, delivery: Delivery) -> Result<Acknowledgement, Refusal> {
        let key = self.signer.key();
        if delivery.destination != key.public() {
            return Err(Refusal::NotForThisNode);
        }
        Ok(Acknowledgement::sign(delivery, self.now_ms(), &key))
    }

    /// Another request may have stored it a moment ago, and what is told must be on disk.
    fn already(&self, received: Received) -> Result<Admitted, Refusal> {
        self.store.settle()?;
        Ok(Admitted::Already(received.acknowledgement))
    }

    fn room_for(&self, bytes: u64) -> Result<Room, Refusal> {
        let tally = self.store.tally();
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        if receiving.bundles >= RECEIVING_MAX {
            return Err(Refusal::Busy);
        }
        let bundles = tally.received + receiving.bundles as u64;
        let all_bytes = tally.received_bytes.saturating_add(receiving.bytes).saturating_add(bytes);
        if bundles >= self.settings.received_max || all_bytes > self.settings.received_bytes_max {
            return Err(Refusal::QuotaFull);
        }
        receiving.bundles += 1;
        receiving.bytes += bytes;
        Ok(Room { receiving: self.receiving.clone(), bytes })
    }
}

impl Incoming {
    /// Takes more of the bundle's bytes. Writes to disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let (found, expected) = (self.staged.bytes() + bytes.len() as u64, self.delivery.bundle.bytes);
        if found > expected {
            return Err(Refusal::WrongLength { expected, found });
        }
        Ok(self.staged.write(bytes)?)
    }

    /// Stores the bundle, and then acknowledges it. The acknowledgement's bytes, and whether the bundle is new: of several
    /// that come at once the first counts, and all are answered alike.
    pub fn finish(self) -> Result<(Vec<u8>, bool), Refusal> {
        let Self { courier, delivery, staged, _room } = self;
        let (found, expected) = (staged.bytes(), delivery.bundle.bytes);
        if found != expected {
            return Err(Refusal::WrongLength { expected, found });
        }
        let finished = staged.finish()?;
        if finished.blob() != delivery.bundle {
            return Err(Refusal::WrongDigest);
        }
        // What is signed here is told to nobody before the store has it on disk.
        let acknowledgement = courier.acknowledge(delivery)?;
        let (received, is_new) = courier.store.receive(finished, &acknowledgement)?;
        let asked = acknowledgement.delivery();
        if (received.bundle, &received.sender) != (asked.bundle, &asked.sender) {
            return Err(Refusal::Conflict);
        }
        Ok((received.acknowledgement, is_new))
    }
}
