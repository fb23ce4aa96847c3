//! One delivery attempt for one receipt: sends the bundle, verifies the reply, and records the
//! result.

use std::io::Read as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::forward::{BundleContent, ForwardError, ForwardOutcome, Forwarder, OutboundBundle};
use super::{Courier, CourierError, Peer, backoff, rewards};
use crate::key::Signature;
use crate::receipt::{Acknowledgement, Delivery, Receipt, SignedRefusal};
use crate::store::{CircuitBreaker, FailedAttempt};
use crate::text::timestamp;

/// Bundles up to this size are read into memory before the attempt. Larger ones are streamed.
const IN_MEMORY_BYTES_MAX: u64 = 64 << 10;

/// Result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Success: acknowledged and credited, on disk.
    Forwarded { credit: u64 },
    /// Exported by a transport that brings the acknowledgement later.
    Carried,
    /// Failure with another attempt to follow.
    Failed { error: String, due_ms: u64 },
    /// Final failure: a dead letter.
    Died { error: String },
    /// No result: the owner dropped the receipt meanwhile, or it was acknowledged by another
    /// transport.
    Gone,
}

/// State of a destination's circuit breaker, shared by all attempts that are in progress for it.
pub struct BreakerState {
    pub lane: CircuitBreaker,
    /// True if the destination has acknowledged a delivery since its last failure, so that several
    /// attempts may run at once. In terms of a circuit breaker, the circuit is then closed.
    pub is_open: bool,
}

/// Reason why an attempt failed, and its consequence for the destination.
struct AttemptFailure {
    error: String,
    is_permanent: bool,
    is_invalid_acknowledgement: bool,
    /// Pause that the destination requested.
    retry_after: Option<Duration>,
    blame: FailureScope,
}

/// Cause of a failure. Other receipts for the destination also wait, unless the cause is this
/// receipt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FailureScope {
    Destination,
    Receipt,
    /// No network.
    Nobody,
}

impl AttemptFailure {
    const fn of_receipt(error: String) -> Self {
        let (is_permanent, is_invalid_acknowledgement, retry_after) = (true, false, None);
        Self { error, is_permanent, is_invalid_acknowledgement, retry_after, blame: FailureScope::Receipt }
    }

    const fn of_destination(error: String) -> Self {
        let (is_permanent, is_invalid_acknowledgement, retry_after) = (false, false, None);
        Self { error, is_permanent, is_invalid_acknowledgement, retry_after, blame: FailureScope::Destination }
    }

    fn invalid(peer: &Peer, why: &str) -> Self {
        let error = format!("`{}` has not acknowledged it: {why}", peer.name);
        Self { is_invalid_acknowledgement: true, ..Self::of_destination(error) }
    }

    fn of(error: ForwardError, asked: &Delivery, now_ms: u64) -> Self {
        let message = error.to_string();
        match error {
            ForwardError::Offline { .. } => Self { blame: FailureScope::Nobody, ..Self::of_destination(message) },
            ForwardError::Damaged { .. } => Self::of_receipt(message),
            ForwardError::Refused { status, code, signed, retry_after, .. } => {
                let why = match (signed.map(|signed| finality(&signed, asked)), code) {
                    (Some(RefusalEffect::Final), _) => return Self::of_receipt(message),
                    (Some(RefusalEffect::OfItsClock), _) => {
                        format!("; it is {} by this node's clock", timestamp(now_ms))
                    }
                    (Some(RefusalEffect::Forged(why)), _) => format!("; its signed refusal is none: {why}"),
                    (None, Some(_)) if (400..500).contains(&status) => "; no key has signed that".to_owned(),
                    (None, _) => String::new(),
                };
                Self { retry_after, ..Self::of_destination(message + &why) }
            }
            ForwardError::Answer { .. } => Self { is_invalid_acknowledgement: true, ..Self::of_destination(message) },
            ForwardError::Unreachable { .. } => Self::of_destination(message),
            ForwardError::Io { .. } | ForwardError::NoWay { .. } => {
                Self { blame: FailureScope::Receipt, ..Self::of_destination(message) }
            }
        }
    }
}

impl Courier {
    /// Makes one attempt for `receipt`. Returns the result and the duration.
    pub(super) async fn try_one<F: Forwarder>(
        self: std::sync::Arc<Self>,
        forwarder: std::sync::Arc<F>,
        receipt: Receipt,
        to: Peer,
        lane: std::sync::Arc<Mutex<BreakerState>>,
    ) -> Result<(AttemptOutcome, Duration), CourierError> {
        let failures = lock(&lane).lane.failures;
        let began = Instant::now();
        let (delivery, signature) = {
            let key = self.signer.key();
            let delivery = Delivery::of(&receipt, to.public_key, key.public());
            let signature = delivery.sign(&key);
            (delivery, signature)
        };
        let handed = self.hand_over(&*forwarder, &receipt, &to, (&delivery, signature)).await?;
        let took = began.elapsed();
        let outcome = match handed {
            Ok(ForwardOutcome::Carried) => AttemptOutcome::Carried,
            Ok(ForwardOutcome::Acknowledged(bytes)) => match check(&bytes, &delivery, &to) {
                Ok(acknowledgement) => self.clone().forwarded(acknowledgement, lane).await?,
                Err(failure) => self.clone().failed(receipt, failure, lane, failures).await?,
            },
            Err(failure) => self.clone().failed(receipt, failure, lane, failures).await?,
        };
        Ok((outcome, took))
    }

    async fn hand_over(
        self: &std::sync::Arc<Self>,
        forwarder: &impl Forwarder,
        receipt: &Receipt,
        to: &Peer,
        (delivery, signature): (&Delivery, Signature),
    ) -> Result<Result<ForwardOutcome, AttemptFailure>, CourierError> {
        let (bundle, courier) = (receipt.bundle, self.clone());
        let content = self
            .blocking(move || {
                let Some(mut file) = courier.store.bundle(&bundle)? else { return Ok(None) };
                if bundle.bytes > IN_MEMORY_BYTES_MAX {
                    return Ok(Some(BundleContent::File(file)));
                }
                let mut bytes = Vec::with_capacity(bundle.bytes as usize);
                match file.by_ref().take(IN_MEMORY_BYTES_MAX + 1).read_to_end(&mut bytes) {
                    Ok(_) => Ok(Some(BundleContent::Bytes(bytes.into()))),
                    // If the bytes cannot be read, sending them reports the error.
                    Err(_) => Ok(Some(BundleContent::File(file))),
                }
            })
            .await?;
        let Some(content) = content else {
            return Ok(Err(AttemptFailure::of_receipt(
                "the bundle's bytes are gone from this node's store".to_owned(),
            )));
        };
        let parcel = OutboundBundle { to: to.clone(), delivery: delivery.clone(), signature, content };
        match forwarder.forward(parcel).await {
            Err(error @ ForwardError::Damaged { .. }) => {
                let courier = self.clone();
                let aside = self.blocking(move || Ok(courier.store.quarantine(&bundle)?)).await?;
                let error = format!("{error}; it was moved to `{}`", aside.display());
                Ok(Err(AttemptFailure::of_receipt(error)))
            }
            handed => Ok(handed.map_err(|error| AttemptFailure::of(error, delivery, self.now_ms()))),
        }
    }

    async fn forwarded(
        self: std::sync::Arc<Self>,
        acknowledgement: Acknowledgement,
        lane: std::sync::Arc<Mutex<BreakerState>>,
    ) -> Result<AttemptOutcome, CourierError> {
        let credit =
            rewards::credit(&acknowledgement.delivery().bundle, acknowledgement.delivery().hops, &self.settings);
        let now = {
            let mut state = lock(&lane);
            (state.lane.failures, state.lane.not_before_ms, state.is_open) = (0, 0, true);
            state.lane.clone()
        };
        let courier = self.clone();
        let acknowledge =
            move || Ok(courier.store.acknowledge(&acknowledgement, credit, courier.now_ms(), Some(&now))?);
        match self.blocking(acknowledge).await? {
            true => Ok(AttemptOutcome::Forwarded { credit }),
            false => Ok(AttemptOutcome::Gone),
        }
    }

    async fn failed(
        self: std::sync::Arc<Self>,
        receipt: Receipt,
        failure: AttemptFailure,
        lane: std::sync::Arc<Mutex<BreakerState>>,
        failures_before: u32,
    ) -> Result<AttemptOutcome, CourierError> {
        let now_ms = self.now_ms();
        let wait = match (failure.blame, failure.retry_after) {
            (FailureScope::Nobody, _) => backoff::offline(self.random()),
            (_, Some(asked)) => backoff::after_retry_after(asked, receipt.attempts.saturating_add(1), self.random()),
            _ => backoff::delay(receipt.attempts.saturating_add(1), self.random()),
        };
        let due_ms = now_ms.saturating_add(millis(wait));
        let now = {
            let mut state = lock(&lane);
            match failure.blame {
                FailureScope::Receipt => {}
                FailureScope::Nobody => (state.is_open, state.lane.not_before_ms) = (false, due_ms),
                // Several attempts were in progress when the destination failed. The first one has
                // counted the failure.
                FailureScope::Destination if state.lane.failures > failures_before => {}
                FailureScope::Destination => {
                    state.lane.failures = state.lane.failures.saturating_add(1);
                    let wait = match failure.retry_after {
                        Some(_) => wait,
                        None => backoff::delay(state.lane.failures, self.random()),
                    };
                    state.lane.not_before_ms = now_ms.saturating_add(millis(wait));
                    state.is_open = false;
                }
            }
            state.lane.clone()
        };
        let AttemptFailure { error, is_permanent, is_invalid_acknowledgement, .. } = failure;
        let due_ms = (!is_permanent).then_some(due_ms);
        let tried = FailedAttempt { at_ms: now_ms, error: error.clone(), is_invalid_acknowledgement, due_ms };
        let courier = self.clone();
        self.blocking(move || Ok(courier.store.record_failure(&receipt.id, &tried, &now)?)).await?;
        Ok(due_ms
            .map_or(AttemptOutcome::Died { error: error.clone() }, |due_ms| AttemptOutcome::Failed { error, due_ms }))
    }
}

/// Effect of a signed refusal on a receipt.
#[derive(Debug, PartialEq, Eq)]
enum RefusalEffect {
    /// The destination has signed the refusal.
    Final,
    /// The destination has signed that the receipt has expired by its clock.
    OfItsClock,
    /// The destination has not signed the refusal, or has signed it for another delivery.
    Forged(String),
}

/// Classifies a refusal that is said to be signed. `asked` names the pinned key.
fn finality(signed: &[u8], asked: &Delivery) -> RefusalEffect {
    let refusal = match SignedRefusal::from_bytes(signed) {
        Ok(refusal) => refusal,
        Err(error) => return RefusalEffect::Forged(error.to_string()),
    };
    if refusal.delivery() != asked {
        return RefusalEffect::Forged(
            "it is of another delivery, or by another key than the one that is pinned".to_owned(),
        );
    }
    // This node judges expiry by its own clock, before the next attempt.
    if refusal.code() == SignedRefusal::EXPIRED { RefusalEffect::OfItsClock } else { RefusalEffect::Final }
}

/// Returns the acknowledgement in a reply, if it is valid, matches the delivery, and is signed by
/// the pinned key.
fn check(bytes: &[u8], asked: &Delivery, to: &Peer) -> Result<Acknowledgement, AttemptFailure> {
    let acknowledgement = Acknowledgement::from_bytes(bytes)
        .map_err(|error| AttemptFailure::invalid(to, &format!("in its answer, {error}")))?;
    if acknowledgement.delivery().destination != to.public_key {
        return Err(AttemptFailure::invalid(to, "its answer is signed by another key than the one that is pinned"));
    }
    if !acknowledgement.answers(asked) {
        return Err(AttemptFailure::invalid(to, "its answer is an acknowledgement of something else"));
    }
    Ok(acknowledgement)
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub fn lock(lane: &Mutex<BreakerState>) -> std::sync::MutexGuard<'_, BreakerState> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}
