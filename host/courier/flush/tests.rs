//! Tests of a flush after clock changes: clocks that were set back, and clocks that were never set.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::forward::{ForwardError, ForwardOutcome, Message, OutboundBundle};
use super::super::{Peer, Settings};
use super::*;
use crate::key::{NodeKey, Signer};
use crate::receipt::{Acknowledgement, CLOCK_SET_MS, ReceiptState};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The correct time.
const TIME_MS: u64 = CLOCK_SET_MS + 500 * DAY_MS;

/// A destination that can be unreachable.
#[derive(Default)]
struct FakeDestination {
    is_reached: AtomicBool,
}

impl FakeDestination {
    fn key() -> NodeKey {
        NodeKey::from_secret([2; 32])
    }
}

impl Forwarder for FakeDestination {
    async fn forward(&self, parcel: OutboundBundle) -> Result<ForwardOutcome, ForwardError> {
        if self.is_reached.load(Ordering::SeqCst) {
            return Ok(ForwardOutcome::Acknowledged(
                Acknowledgement::sign(parcel.delivery, 1, &Self::key()).to_bytes(),
            ));
        }
        Err(ForwardError::Unreachable { message: Message::new("cannot be reached") })
    }
}

struct TestCourier {
    _directory: tempfile::TempDir,
    courier: Arc<Courier>,
    destination: Arc<FakeDestination>,
}

impl TestCourier {
    fn new(clock: fn() -> u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signer = Arc::new(Signer::new(NodeKey::from_secret([1; 32])));
        let settings = Settings { expires_ms: 7 * DAY_MS, ..Settings::default() };
        let courier = Arc::new(Courier::open(directory.path(), signer, settings, clock).unwrap());
        Self { _directory: directory, courier, destination: Arc::default() }
    }

    fn send(&self, bundle: &[u8]) {
        let mut sending = self.courier.begin_send("alice".parse().unwrap(), None, None).unwrap();
        sending.write(bundle).unwrap();
        sending.finish().unwrap();
    }

    async fn flush(&self, mode: FlushMode, is_reached: bool) -> Summary {
        self.destination.is_reached.store(is_reached, Ordering::SeqCst);
        let to = Peer { name: "bob".parse().unwrap(), address: None, public_key: FakeDestination::key().public() };
        let route = |_: Option<&KeyName>| Ok(Some(to.clone()));
        let ended = self.courier.flush(self.destination.clone(), mode, route, |_| {}, std::future::pending());
        ended.await.unwrap()
    }
}

const ALL: FlushMode = FlushMode::All { retry_for: Duration::ZERO };

/// Bundles were sent and attempted by a wrong clock. Once the clock is right, one flush forwards
/// them all, and also the bundles that are sent then. This holds for scheduled flushes and for
/// commanded ones.
#[tokio::test]
async fn no_other_clock_keeps_a_bundle_from_being_forwarded() {
    static NOW_MS: AtomicU64 = AtomicU64::new(0);
    let set = |now_ms: u64| NOW_MS.store(now_ms, Ordering::SeqCst);
    let histories = [
        ("ten minutes ahead", TIME_MS + HOUR_MS / 6),
        ("five hours ahead", TIME_MS + 5 * HOUR_MS),
        ("two days ahead", TIME_MS + 2 * DAY_MS),
        ("a year ahead", TIME_MS + 365 * DAY_MS),
        ("never set", 600_000),
        ("a day behind", TIME_MS - DAY_MS),
    ];
    for (name, other_ms) in histories {
        for is_tried in [false, true] {
            for mode in [ALL, FlushMode::Due, FlushMode::Once] {
                let place = TestCourier::new(|| NOW_MS.load(Ordering::SeqCst));
                set(other_ms);
                (0..3).for_each(|number| place.send(&[number]));
                if is_tried {
                    assert_eq!(place.flush(ALL, false).await.pending, 3, "{name}");
                }
                set(TIME_MS);
                place.send(b"sent when the clock is right");
                let summary = place.flush(mode, true).await;
                assert_eq!((summary.forwarded, summary.pending, summary.dead), (4, 0, 0), "{name}, {mode:?}");
            }
        }
    }
}

/// A clock that jumps ahead for one flush gives up nothing for good, and extends no receipt's life.
#[tokio::test]
async fn what_expired_by_a_clock_that_was_ahead_is_tried_again() {
    static NOW_MS: AtomicU64 = AtomicU64::new(TIME_MS);
    let set = |now_ms: u64| NOW_MS.store(now_ms, Ordering::SeqCst);
    let place = TestCourier::new(|| NOW_MS.load(Ordering::SeqCst));
    (0..300_u16).for_each(|number| place.send(&number.to_le_bytes()));
    set(TIME_MS + 8 * DAY_MS);
    let summary = place.flush(ALL, true).await;
    assert_eq!((summary.died, summary.dead, summary.pending), (300, 300, 0));
    let dead = place.courier.store.receipts_in(ReceiptState::Dead, None, 1).unwrap().remove(0);
    assert!(dead.last_error.unwrap().contains("by this node's clock"));
    assert_eq!(place.flush(ALL, true).await.dead, 300, "and stays given up while the clock says so");
    set(TIME_MS + HOUR_MS);
    let summary = place.flush(FlushMode::Due, true).await;
    assert_eq!((summary.forwarded, summary.dead), (300, 0));

    // A receipt from a clock that was ahead lives for the requested time, counted from the
    // correction of the clock.
    set(TIME_MS + 365 * DAY_MS);
    place.send(b"from the future");
    set(TIME_MS + DAY_MS);
    assert_eq!(place.flush(ALL, false).await.pending, 1);
    let pending = place.courier.store.receipts_in(ReceiptState::Pending, None, 1).unwrap().remove(0);
    assert_eq!(pending.expires_ms, TIME_MS + 8 * DAY_MS);
    set(TIME_MS + 8 * DAY_MS);
    assert_eq!(place.flush(ALL, true).await.dead, 1);
    assert!(place.courier.store.check(|| false).unwrap().is_sound());
}
