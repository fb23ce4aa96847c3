//! Flush: attempts all pending receipts, or all that are due. Each destination has a lane with a
//! circuit breaker. A single probe tests it at first and after each failure. So a failed node is
//! not flooded, and delays no other destination.
//!
//! Pending receipts are read page by page, so memory use does not grow with the queue.

mod event;
mod archiving;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

use self::archiving::PendingArchive;
pub use self::event::{Event, FlushMode, Summary};
use super::attempt::{AttemptOutcome, BreakerState, lock, millis};
use super::forward::Forwarder;
use super::{Courier, CourierError, Peer};
use crate::key::KeyName;
use crate::receipt::{Receipt, ReceiptId};
use crate::store::DestinationTag;
use crate::text::timestamp;

/// A destination with pending receipts, during a flush.
struct DestinationQueue {
    tag: DestinationTag,
    to: Peer,
    state: Arc<Mutex<BreakerState>>,
    /// Position of the first pass, in [`FlushMode::All`] and [`FlushMode::Once`]; `None` after that
    /// pass.
    cursor: Option<Option<(u64, ReceiptId)>>,
    page: VecDeque<Receipt>,
    in_flight: HashMap<ReceiptId, AttemptKind>,
    /// Time of the next check for receipts; 0 means at once.
    look_at_ms: u64,
}

/// Kind of an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AttemptKind {
    /// The only attempt for its destination: a probe (half-open circuit).
    Probe,
    /// One of several concurrent attempts.
    Regular,
}

impl DestinationQueue {
    /// Returns the kind of the next attempt, and the time before which none may start.
    fn now(&self) -> (AttemptKind, u64) {
        let state = lock(&self.state);
        (if state.is_open { AttemptKind::Regular } else { AttemptKind::Probe }, state.lane.not_before_ms)
    }
}

type RunningAttempts = JoinSet<(usize, Receipt, Result<(AttemptOutcome, Duration), CourierError>)>;

impl Courier {
    /// Attempts the receipts that `mode` selects, through `forwarder`. `route` returns the peer for
    /// a destination, or the reason why there is none. It returns `None` for a destination that
    /// must not be tried. Ends early when `interrupted` completes; nothing is lost by that.
    pub async fn flush<F: Forwarder>(
        self: &Arc<Self>,
        forwarder: Arc<F>,
        mode: FlushMode,
        route: impl Fn(Option<&KeyName>) -> Result<Option<Peer>, String>,
        mut tell: impl FnMut(Event),
        interrupted: impl Future<Output = ()>,
    ) -> Result<Summary, CourierError> {
        let mut interrupted = pin!(interrupted);
        let (mut new_work, mut waiting) = (self.new_work.subscribe(), self.waiting.subscribe());
        let _flushing = tokio::select! {
            biased;
            () = &mut interrupted => return Ok(self.nothing_flushed()),
            flushing = self.turn_to_flush(mode) => flushing,
        };
        let began_ms = self.now_ms();
        let courier = self.clone();
        self.blocking(move || Ok(courier.store.revive_unexpired(began_ms)?)).await?;
        let tally = self.store.tally();
        tell(Event::Begun { pending: tally.pending, pending_bytes: tally.pending_bytes });
        let mut run = FlushRun::new(self.clone(), forwarder, mode, began_ms);
        run.open_lanes(&route, &mut tell).await?;
        let is_done = loop {
            run.start_tries(&mut tell).await?;
            let wake = run.wake_ms();
            if run.tries.is_empty() && wake.is_none_or(|wake| run.is_too_late(wake)) {
                break true;
            }
            let sleep_ms = wake.unwrap_or(u64::MAX).saturating_sub(self.now_ms()).clamp(1, SLEEP_MS_MAX);
            tokio::select! {
                biased;
                () = &mut interrupted => { run.summary.interrupted = true; break false; }
                Some(done) = run.tries.join_next(), if !run.tries.is_empty() => {
                    let (lane, receipt, result) = done.map_err(CourierError::task)?;
                    let before = run.summary.forwarded_bytes;
                    run.ended(lane, &receipt, result?, &mut tell);
                    run.archiving.go_on(&run.courier, run.summary.forwarded_bytes - before).await?;
                }
                _ = new_work.changed(), if mode != FlushMode::Once => run.open_lanes(&route, &mut tell).await?,
                () = async { drop(waiting.wait_for(|waiting| *waiting > 0).await) }, if mode == FlushMode::Due => break false,
                () = tokio::time::sleep(Duration::from_millis(sleep_ms)) => {}
            }
        };
        run.tries.shutdown().await;
        run.finish(is_done).await
    }

    /// Waits until no other flush runs. A flush of due receipts gives way to a flush of all
    /// receipts. So a node that does not reply cannot delay the latter.
    async fn turn_to_flush(&self, mode: FlushMode) -> tokio::sync::MutexGuard<'_, ()> {
        struct Waiting<'a>(&'a tokio::sync::watch::Sender<usize>);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.send_modify(|waiting| *waiting -= 1);
            }
        }
        let _waiting = (mode != FlushMode::Due).then(|| {
            self.waiting.send_modify(|waiting| *waiting += 1);
            Waiting(&self.waiting)
        });
        self.flushing.lock().await
    }

    fn nothing_flushed(&self) -> Summary {
        let tally = self.store.tally();
        Summary { pending: tally.pending, dead: tally.dead, interrupted: true, ..Summary::default() }
    }
}

/// Receipts of a lane per read.
const LANE_PAGE: usize = 64;

/// Maximum sleep, in milliseconds. It bounds the delay if the clock is set back during the sleep.
const SLEEP_MS_MAX: u64 = 1_000;

struct FlushRun<F> {
    courier: Arc<Courier>,
    forwarder: Arc<F>,
    mode: FlushMode,
    began_ms: u64,
    /// Lanes of this flush. Attempts in progress refer to their lane by its index.
    lanes: Vec<DestinationQueue>,
    /// Destinations without a lane, because they cannot be reached as configured.
    without_way: HashSet<DestinationTag>,
    /// Index of the lane whose turn it is (round robin).
    next: usize,
    tries: RunningAttempts,
    /// Number of attempts that are probes.
    probes: usize,
    summary: Summary,
    archiving: PendingArchive,
}

impl<F: Forwarder> FlushRun<F> {
    fn new(courier: Arc<Courier>, forwarder: Arc<F>, mode: FlushMode, began_ms: u64) -> Self {
        let (tries, summary) = (RunningAttempts::new(), Summary::default());
        let (lanes, without_way, archiving) = (Vec::new(), HashSet::new(), PendingArchive::default());
        Self { courier, forwarder, mode, began_ms, lanes, without_way, next: 0, tries, probes: 0, summary, archiving }
    }

    /// Creates the missing lanes, and schedules an immediate check of the others.
    async fn open_lanes(
        &mut self,
        route: impl Fn(Option<&KeyName>) -> Result<Option<Peer>, String>,
        tell: &mut impl FnMut(Event),
    ) -> Result<(), CourierError> {
        let (courier, began_ms, now_ms) = (self.courier.clone(), self.began_ms, self.courier.now_ms());
        let known: HashSet<DestinationTag> = self.lanes.iter().map(|lane| lane.tag).collect();
        let lanes = move || {
            // Times are corrected to the current clock before any attempt of a lane starts.
            for (tag, _) in courier.store.lanes()?.iter().filter(|(tag, _)| !known.contains(tag)) {
                courier.store.put_on_this_clock(*tag, began_ms)?;
            }
            Ok(courier.store.lanes()?)
        };
        let mut lanes = self.courier.blocking(lanes).await?;
        // Destinations with the fewest failures are probed first.
        lanes.sort_by_key(|(_, lane)| lane.failures);
        for (tag, mut lane) in lanes {
            let destination = lane.destination.clone();
            let known = self.lanes.iter_mut().find(|known| known.tag == tag);
            let to = match route(destination.as_ref()) {
                Ok(Some(to)) => to,
                Ok(None) => continue,
                Err(why) => {
                    if known.is_none() && self.without_way.insert(tag) {
                        tell(Event::NoWay { destination, why });
                    }
                    continue;
                }
            };
            if let Some(known) = known {
                (known.to, known.look_at_ms) = (to, 0);
                continue;
            }
            let cursor = match self.mode {
                FlushMode::All { .. } | FlushMode::Once => {
                    lane.not_before_ms = 0;
                    Some(None)
                }
                FlushMode::Due => None,
            };
            // No lane waits longer than this. A later time comes from another clock.
            if lane.not_before_ms > now_ms.saturating_add(Receipt::WAIT_MS_MAX) {
                lane.not_before_ms = 0;
            }
            let state = Arc::new(Mutex::new(BreakerState { lane, is_open: false }));
            let (page, in_flight) = (VecDeque::new(), HashMap::new());
            self.lanes.push(DestinationQueue { tag, to, state, cursor, page, in_flight, look_at_ms: 0 });
        }
        Ok(())
    }

    /// Starts as many attempts as are allowed, from the lanes in turn.
    async fn start_tries(&mut self, tell: &mut impl FnMut(Event)) -> Result<(), CourierError> {
        let mut idle = 0;
        while idle < self.lanes.len() {
            let at = self.next % self.lanes.len();
            self.next = at + 1;
            idle = if self.start_one(at, tell).await? { 0 } else { idle + 1 };
        }
        Ok(())
    }

    /// Returns whether one more attempt may start. Probes have their own slots, so that failed
    /// destinations cannot block working ones. If there are several destinations, one of them gets
    /// at most three quarters of the regular slots: it may stop replying.
    fn has_room(&self, kind: AttemptKind, at: usize) -> bool {
        let max = usize::try_from(self.courier.settings.concurrency).unwrap_or(usize::MAX);
        let lane_max = if self.lanes.len() > 1 { max - max / 4 } else { max };
        match kind {
            AttemptKind::Probe => self.probes < max,
            AttemptKind::Regular => self.tries.len() - self.probes < max && self.lanes[at].in_flight.len() < lane_max,
        }
    }

    async fn start_one(&mut self, at: usize, tell: &mut impl FnMut(Event)) -> Result<bool, CourierError> {
        let lane = &self.lanes[at];
        let (kind, not_before_ms) = lane.now();
        let waits = not_before_ms.max(lane.look_at_ms) > self.courier.now_ms();
        if waits || (kind == AttemptKind::Probe && !lane.in_flight.is_empty()) || !self.has_room(kind, at) {
            return Ok(false);
        }
        let Some(receipt) = self.next_of(at, tell).await? else { return Ok(false) };
        self.probes += usize::from(kind == AttemptKind::Probe);
        let lane = &mut self.lanes[at];
        lane.in_flight.insert(receipt.id, kind);
        let (courier, forwarder) = (self.courier.clone(), self.forwarder.clone());
        let (to, state) = (lane.to.clone(), lane.state.clone());
        self.tries.spawn(async move {
            let tried = courier.try_one(forwarder, receipt.clone(), to, state).await;
            (at, receipt, tried)
        });
        Ok(true)
    }

    /// Returns the next receipt of a lane. `None` sets the time of the next check. Expired receipts
    /// are given up on the way.
    async fn next_of(&mut self, at: usize, tell: &mut impl FnMut(Event)) -> Result<Option<Receipt>, CourierError> {
        loop {
            let Some(receipt) = self.lanes[at].page.pop_front() else {
                if self.fill_page(at).await? { continue } else { return Ok(None) }
            };
            let (courier, now_ms) = (self.courier.clone(), self.courier.now_ms());
            if let Some(times) = receipt.on_this_clock(now_ms) {
                let put_right = self.courier.blocking(move || Ok(courier.store.put_times(&times)?)).await?;
                self.lanes[at].page.extend(put_right);
                continue;
            }
            if receipt.expires_ms > now_ms {
                return Ok(Some(receipt));
            }
            let error = format!(
                "it has expired: sent {}, to be delivered until {}, and it is {} by this node's clock; \
                 `node compute courier retry` gives it more time",
                timestamp(receipt.created_ms),
                timestamp(receipt.expires_ms),
                timestamp(now_ms)
            );
            let why = error.clone();
            self.courier.blocking(move || Ok(courier.store.give_up_expired(&receipt.id, &why)?)).await?;
            self.summary.died += 1;
            tell(Event::Died { id: receipt.id, to: Some(self.lanes[at].to.name.clone()), error, took_us: None });
        }
    }

    /// Reads the next page. Returns whether there may be more to read.
    async fn fill_page(&mut self, at: usize) -> Result<bool, CourierError> {
        let (tag, cursor, now_ms) = (self.lanes[at].tag, self.lanes[at].cursor, self.courier.now_ms());
        let courier = self.courier.clone();
        if let Some(after) = cursor {
            let page = self.courier.blocking(move || Ok(courier.store.page(tag, after, u64::MAX, LANE_PAGE)?)).await?;
            let lane = &mut self.lanes[at];
            lane.cursor = page.last().map(|last| Some((last.due_ms, last.id)));
            // A receipt that failed in this flush appears again, further behind in the queue.
            let (began_ms, in_flight) = (self.began_ms, &lane.in_flight);
            let is_fresh = |receipt: &Receipt| {
                // An attempt in the future was made by another clock.
                let is_tried = (began_ms..=now_ms).contains(&receipt.attempted_ms);
                !is_tried && !in_flight.contains_key(&receipt.id)
            };
            lane.page.extend(page.into_iter().filter(is_fresh));
            return Ok(true);
        }
        if self.mode == FlushMode::Once {
            self.lanes[at].look_at_ms = u64::MAX;
            return Ok(false);
        }
        let max = self.lanes[at].in_flight.len() + LANE_PAGE;
        let page = self.courier.blocking(move || Ok(courier.store.page(tag, None, u64::MAX, max)?)).await?;
        let lane = &mut self.lanes[at];
        let waiting: Vec<Receipt> =
            page.into_iter().filter(|receipt| !lane.in_flight.contains_key(&receipt.id)).collect();
        lane.look_at_ms = waiting.first().map_or(u64::MAX, |first| first.due_ms);
        lane.page.extend(waiting.into_iter().filter(|receipt| receipt.due_ms <= now_ms));
        Ok(!lane.page.is_empty())
    }

    /// Returns the next start time; `None` if attempts in progress decide it, or there is none.
    fn wake_ms(&self) -> Option<u64> {
        let now_ms = self.courier.now_ms();
        let of_lane = |lane: &DestinationQueue| {
            let look_at_ms = if lane.page.is_empty() { lane.look_at_ms } else { 0 };
            let wake_ms = lane.now().1.max(look_at_ms);
            (look_at_ms < u64::MAX && wake_ms > now_ms).then_some(wake_ms)
        };
        self.lanes.iter().filter_map(of_lane).min()
    }

    fn is_too_late(&self, wake_ms: u64) -> bool {
        match self.mode {
            FlushMode::All { retry_for } => wake_ms > self.began_ms.saturating_add(millis(retry_for)),
            FlushMode::Due | FlushMode::Once => true,
        }
    }

    fn ended(
        &mut self,
        at: usize,
        receipt: &Receipt,
        (outcome, took): (AttemptOutcome, Duration),
        tell: &mut impl FnMut(Event),
    ) {
        let lane = &mut self.lanes[at];
        if lane.in_flight.remove(&receipt.id) == Some(AttemptKind::Probe) {
            self.probes -= 1;
        }
        // Check again for receipts that were postponed.
        lane.look_at_ms = 0;
        let (id, to, bytes) = (receipt.id, lane.to.name.clone(), receipt.bundle.bytes);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let summary = &mut self.summary;
        match outcome {
            AttemptOutcome::Forwarded { credit } => {
                summary.attempts += 1;
                summary.forwarded += 1;
                summary.forwarded_bytes += bytes;
                summary.credit = summary.credit.saturating_add(credit);
                tell(Event::Forwarded { id, to, bytes, credit, took_us });
            }
            AttemptOutcome::Carried => {
                summary.carried += 1;
                tell(Event::Carried { id, to, bytes });
            }
            AttemptOutcome::Failed { error, due_ms } => {
                summary.attempts += 1;
                summary.failures += 1;
                tell(Event::Failed { id, to, error, due_ms, took_us });
            }
            AttemptOutcome::Died { error } => {
                summary.attempts += 1;
                summary.failures += 1;
                summary.died += 1;
                tell(Event::Died { id, to: Some(to), error, took_us: Some(took_us) });
            }
            AttemptOutcome::Gone => summary.attempts += 1,
        }
    }

    /// Returns the summary. If the flush ends early, the next one completes the archiving.
    async fn finish(self, is_done: bool) -> Result<Summary, CourierError> {
        let courier = self.courier.clone();
        let tags: Vec<DestinationTag> = self.lanes.iter().map(|lane| lane.tag).collect();
        let (tally, next_due_ms) = self
            .courier
            .blocking(move || {
                while is_done && courier.store.archive()? > 0 {}
                Ok((courier.store.tally(), courier.store.next_due_ms(&tags)?))
            })
            .await?;
        Ok(Summary { pending: tally.pending, dead: tally.dead, next_due_ms, ..self.summary })
    }
}
