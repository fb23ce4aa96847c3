//! Receiving side: a delivery is checked, stored, and acknowledged, in this order.

use std::sync::Arc;
use std::time::Duration;

use super::Courier;
use super::quotas::{DeliveryReservation, QuotaError};
use crate::key::Signature;
use crate::receipt::{Acknowledgement, CLOCK_SET_MS, Delivery, SignedRefusal};
use crate::store::{Received, StagedBundle, StoreError};
use crate::text::timestamp;

/// Delays after which a refused carrier should retry.
const BUSY_RETRY: Duration = Duration::from_secs(1);
const FULL_RETRY: Duration = Duration::from_secs(60);

/// Reason why a delivery is refused. The carrier's owner reads the message.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryRefusal {
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
    #[error(
        "the receipt has expired: its time ended at {}, and it is {} by this node's clock; if that is wrong, one of the \
         clocks is, and the bundle is taken once it is set",
        timestamp(*.expires_ms), timestamp(*.now_ms)
    )]
    Expired { expires_ms: u64, now_ms: u64 },
    #[error("the bundle has {bytes} bytes, and {max} are taken")]
    TooLarge { bytes: u64, max: u64 },
    #[error("the bundle ended after {found} of {expected} bytes, or went on")]
    WrongLength { expected: u64, found: u64 },
    #[error("the bundle's bytes are not those that the delivery names")]
    WrongDigest,
    #[error("as many bundles of this carrier are being received as there is room for beside others")]
    Busy,
    #[error(
        "there is no more room for bundles of this carrier beside those of others; this node's owner can drop what was taken"
    )]
    QuotaFull,
    #[error("the bundle cannot be stored")]
    Storage(#[source] StoreError),
}

/// Machine-readable part of a refusal, for programs and protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalKind {
    pub code: &'static str,
    /// HTTP status code.
    pub status: u16,
    pub retry_after: Option<Duration>,
}

impl DeliveryRefusal {
    pub const fn kind(&self) -> RefusalKind {
        let (code, status, retry_after) = match self {
            Self::UnknownCarrier => ("unknown_carrier", 403, None),
            Self::WrongSignature => ("wrong_signature", 403, None),
            Self::Conflict => ("conflict", 409, None),
            Self::Expired { .. } => (SignedRefusal::EXPIRED, 410, None),
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

    /// Returns whether the same delivery will always be refused. A refusal is not final if a node
    /// in between could have caused it. Nor is it final if this node's owner can change it with one
    /// command.
    const fn is_final(&self) -> bool {
        matches!(self, Self::Conflict | Self::TooLarge { .. } | Self::Expired { .. })
    }
}

impl From<QuotaError> for DeliveryRefusal {
    fn from(none: QuotaError) -> Self {
        match none {
            QuotaError::Busy => Self::Busy,
            QuotaError::Full => Self::QuotaFull,
            QuotaError::Storage(cause) => Self::Storage(cause),
        }
    }
}

impl From<StoreError> for DeliveryRefusal {
    fn from(cause: StoreError) -> Self {
        Self::Storage(cause)
    }
}

/// Result of admitting a delivery.
pub enum Admission {
    /// The bundle was received before: the bytes of its first acknowledgement.
    Already(Vec<u8>),
    /// The bundle's bytes may be sent.
    Open(Box<IncomingBundle>),
}

/// A bundle that is being received. Dropping it discards everything that was staged.
pub struct IncomingBundle {
    courier: Arc<Courier>,
    delivery: Delivery,
    staged: StagedBundle,
    held: DeliveryReservation,
}

impl Courier {
    /// Decides whether the bundle of `delivery` may be sent. Reads the disk, so call it where
    /// blocking is allowed.
    pub fn admit(self: &Arc<Self>, delivery: Delivery, signature: &Signature) -> Result<Admission, DeliveryRefusal> {
        self.count_faults(self.look_at(delivery, signature))
    }

    fn look_at(self: &Arc<Self>, delivery: Delivery, signature: &Signature) -> Result<Admission, DeliveryRefusal> {
        if self.peers().of_key(&delivery.carrier).is_none() {
            return Err(DeliveryRefusal::UnknownCarrier);
        }
        if !delivery.is_signed(signature) {
            return Err(DeliveryRefusal::WrongSignature);
        }
        if let Some(received) = self.store.received(&delivery.carrier, &delivery.receipt)? {
            let is_same = received.bundle == delivery.bundle && received.sender == delivery.sender;
            return if is_same { self.already(received, &delivery) } else { Err(DeliveryRefusal::Conflict) };
        }
        if delivery.destination != self.signer.public() {
            return Err(DeliveryRefusal::NotForThisNode);
        }
        let (expires_ms, now_ms) = (delivery.expires_ms, self.now_ms());
        // The expiry time of a carrier whose clock was never set means nothing.
        if expires_ms >= CLOCK_SET_MS && expires_ms <= now_ms {
            return Err(DeliveryRefusal::Expired { expires_ms, now_ms });
        }
        let (bytes, max) = (delivery.bundle.bytes, self.settings.bundle_bytes_max);
        if bytes > max {
            return Err(DeliveryRefusal::TooLarge { bytes, max });
        }
        let held = self.room.take(&self.store, delivery.carrier, bytes)?;
        let staged = self.store.stage_received()?;
        Ok(Admission::Open(Box::new(IncomingBundle { courier: self.clone(), delivery, staged, held })))
    }

    fn count_faults<T>(&self, result: Result<T, DeliveryRefusal>) -> Result<T, DeliveryRefusal> {
        if matches!(result, Err(DeliveryRefusal::Storage(_))) {
            self.note_storage_failure();
        }
        result
    }

    /// Signs an acknowledgement. The key may have been retired since the bundle was admitted.
    fn acknowledge(&self, delivery: Delivery) -> Result<Acknowledgement, DeliveryRefusal> {
        let key = self.signer.key();
        if delivery.destination != key.public() {
            return Err(DeliveryRefusal::NotForThisNode);
        }
        Ok(Acknowledgement::sign(delivery, self.now_ms(), &key))
    }

    /// Answers a delivery that was received before. Another request may have stored it just now,
    /// and it must be on disk before the answer. If this node's key was rotated since, the new key
    /// signs the same acknowledgement for a carrier that asks it.
    fn already(&self, received: Received, asked: &Delivery) -> Result<Admission, DeliveryRefusal> {
        self.store.flush()?;
        let former = Acknowledgement::from_kept_bytes(&received.acknowledgement);
        if former.is_ok_and(|former| former.delivery().destination == asked.destination) {
            return Ok(Admission::Already(received.acknowledgement));
        }
        let key = self.signer.key();
        if asked.destination != key.public() {
            return Err(DeliveryRefusal::NotForThisNode);
        }
        Ok(Admission::Already(Acknowledgement::sign(asked.clone(), received.stored_ms, &key).to_bytes()))
    }

    /// Returns the bytes of this node's signed refusal of `delivery`, if the refusal is final and
    /// the delivery is for this node.
    pub fn sign_refusal(&self, delivery: &Delivery, refusal: &DeliveryRefusal) -> Option<Vec<u8>> {
        let key = self.signer.key();
        let is_ours = refusal.is_final() && delivery.destination == key.public();
        let sign = || SignedRefusal::sign(delivery.clone(), self.now_ms(), refusal.kind().code, &key).to_bytes();
        is_ours.then(sign)
    }
}

impl IncomingBundle {
    /// Appends bytes to the bundle. Writes to disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DeliveryRefusal> {
        let (found, expected) = (self.staged.bytes() + bytes.len() as u64, self.delivery.bundle.bytes);
        if found > expected {
            return Err(DeliveryRefusal::WrongLength { expected, found });
        }
        let written = self.staged.write(bytes).map_err(DeliveryRefusal::Storage);
        self.courier.count_faults(written)
    }

    /// Stores the bundle and then acknowledges it. Returns the acknowledgement's bytes, and whether
    /// the bundle is new. Of several concurrent deliveries the first one counts, and all get the
    /// same answer.
    pub fn finish(self) -> Result<(Vec<u8>, bool), DeliveryRefusal> {
        let courier = self.courier.clone();
        courier.count_faults(self.store())
    }

    fn store(self) -> Result<(Vec<u8>, bool), DeliveryRefusal> {
        let Self { courier, delivery, staged, held } = self;
        let (found, expected) = (staged.bytes(), delivery.bundle.bytes);
        if found != expected {
            return Err(DeliveryRefusal::WrongLength { expected, found });
        }
        let finished = staged.finish()?;
        if finished.blob() != delivery.bundle {
            return Err(DeliveryRefusal::WrongDigest);
        }
        // The store has the acknowledgement on disk before anybody gets it.
        let acknowledgement = courier.acknowledge(delivery)?;
        let (received, is_new) = courier.store.receive(finished, &acknowledgement)?;
        if is_new {
            held.keep();
        }
        let asked = acknowledgement.delivery();
        if (received.bundle, &received.sender) != (asked.bundle, &asked.sender) {
            return Err(DeliveryRefusal::Conflict);
        }
        Ok((received.acknowledgement, is_new))
    }
}
