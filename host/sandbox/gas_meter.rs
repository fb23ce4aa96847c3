//! The host's side of the meter. The guest's remaining gas and stack pass in and out of it as one
//! number. When one of them is overdrawn, this module grants more gas, or ends the run: no gas
//! left, stack overflow, deadline, or cancellation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::interrupt::{ClaimedAmount, HostInterrupt};
use super::meter::{MeterState, QUANTUM};
use super::outcome::Outcome;
use super::priority::run_is_long;
use super::trace::TraceWindow;

/// Gas from which a run is long: some milliseconds.
const LONG_GAS: u64 = 16 * QUANTUM;

/// Controls of a run: its deadline, its cancellation flag, and its progress.
#[derive(Clone, Debug, Default)]
pub struct RunControl {
    pub deadline: Option<Instant>,
    pub is_cancelled: Arc<AtomicBool>,
    /// Counts the gas granted to the run.
    pub gas_granted: Arc<AtomicU64>,
    /// The claim that the run is checked against, if any.
    pub claimed: Option<Claimed>,
}

/// The amounts that a claim states. A run that uses more of one amount refutes the claim, and ends
/// there. So a false claim costs its verifier at most one [`QUANTUM`] more than the claim states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    pub gas: u64,
    pub output_bytes: u64,
}

/// Gas meter of one run.
#[derive(Debug)]
pub struct GasMeter {
    gas_max: u64,
    granted: u64,
    watch: RunControl,
    /// The trace window, for a run with finer checkpoints.
    window: Option<TraceWindow>,
}

impl GasMeter {
    pub const fn new(gas_max: u64, watch: RunControl, window: Option<TraceWindow>) -> Self {
        Self { gas_max, granted: 0, watch, window }
    }

    pub const fn granted(&self) -> u64 {
        self.granted
    }

    /// Returns the gas that a run has been charged when its state is `state`.
    pub fn charged(&self, state: MeterState) -> u64 {
        self.granted.saturating_sub_signed(state.gas())
    }

    /// Grants gas to an overdrawn state, in whole quanta while they last, or ends the run.
    pub fn refill(&mut self, state: MeterState) -> Result<MeterState, HostInterrupt> {
        if state.stack_bytes() < 0 {
            return Err(Outcome::OutOfStack.into());
        }
        self.check_interrupt()?;
        Ok(state.with_gas(self.grant(state.gas())?))
    }

    /// Charges the price of a host call.
    pub fn charge(&mut self, state: MeterState, gas: u64) -> Result<MeterState, HostInterrupt> {
        let left = state.gas().saturating_sub(i64::try_from(gas).unwrap_or(i64::MAX));
        if left >= 0 {
            return Ok(state.with_gas(left));
        }
        self.check_interrupt()?;
        Ok(state.with_gas(self.grant(left)?))
    }

    /// Checks for an interrupt: returns an error if the run was cancelled or reached its deadline.
    /// Long operations call this between their parts.
    pub fn check_interrupt(&self) -> Result<(), HostInterrupt> {
        if self.watch.is_cancelled.load(Ordering::Relaxed) {
            return Err(HostInterrupt::Cancelled);
        }
        match self.watch.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(HostInterrupt::Deadline),
            _ => Ok(()),
        }
    }

    /// Returns the gas of a run that returned with `state`. Gas that was overdrawn since the last
    /// refill is paid for here.
    pub fn finish(&mut self, state: MeterState) -> Result<u64, HostInterrupt> {
        let left = match state.gas() {
            left if left < 0 => self.grant(left)?,
            left => left,
        };
        Ok(self.granted - left as u64)
    }

    /// Returns the gas of a run that ended in any other way: all that it was granted. Only the
    /// guest knew where in its last grant it ended.
    pub const fn forfeit(&self) -> u64 {
        self.granted
    }

    /// Returns the output bytes that the claim states, for a run that is checked against a claim.
    pub fn output_bytes_claimed(&self) -> Option<u64> {
        self.watch.claimed.map(|claimed| claimed.output_bytes)
    }

    /// Turns a balance that may be negative into one that is not, by a grant.
    fn grant(&mut self, left: i64) -> Result<i64, HostInterrupt> {
        let need = left.min(0).unsigned_abs();
        let rest = self.gas_max - self.granted;
        let quantum = self.window.map_or(QUANTUM, |window| window.quantum(self.granted));
        let grant = need.max(1).div_ceil(quantum).saturating_mul(quantum).min(rest);
        self.granted += grant;
        if self.granted >= LONG_GAS {
            run_is_long();
        }
        // A run that uses exactly the claimed gas is granted less than one quantum more.
        let is_beyond = |claimed: Claimed| self.granted.checked_sub(claimed.gas).is_some_and(|more| more >= QUANTUM);
        if self.watch.claimed.is_some_and(is_beyond) {
            return Err(HostInterrupt::BeyondClaim(ClaimedAmount::Gas));
        }
        self.watch.gas_granted.fetch_add(grant, Ordering::Relaxed);
        if grant < need { Err(Outcome::OutOfGas.into()) } else { Ok(left.saturating_add_unsigned(grant)) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn owing(gas: i64) -> MeterState {
        MeterState::BEGIN.with_gas(-gas)
    }

    #[test]
    fn gas_is_granted_in_quanta_and_then_what_is_left_of_them() {
        let mut gas_meter = GasMeter::new(2 * QUANTUM + 10, RunControl::default(), None);
        let quantum = QUANTUM as i64;
        assert_eq!(gas_meter.refill(owing(5)).unwrap().gas(), quantum - 5);
        assert_eq!(gas_meter.refill(owing(quantum)).unwrap().gas(), 0);
        assert!(matches!(gas_meter.finish(MeterState::BEGIN.with_gas(7)), Ok(gas) if gas == 2 * QUANTUM - 7));
        assert_eq!(gas_meter.refill(owing(10)).unwrap().gas(), 0);
        assert!(matches!(gas_meter.refill(owing(1)), Err(HostInterrupt::Guest(Outcome::OutOfGas))));
        assert_eq!(gas_meter.forfeit(), 2 * QUANTUM + 10);
    }

    #[test]
    fn what_is_spent_unseen_is_paid_for_at_the_end() {
        let mut gas_meter = GasMeter::new(QUANTUM + 3, RunControl::default(), None);
        assert!(matches!(gas_meter.finish(owing(900)), Ok(900)));
        let mut gas_meter = GasMeter::new(899, RunControl::default(), None);
        assert!(matches!(gas_meter.finish(owing(900)), Err(HostInterrupt::Guest(Outcome::OutOfGas))));
        assert_eq!(gas_meter.forfeit(), 899);
    }

    fn checked_against(gas: u64) -> GasMeter {
        let claimed = Some(Claimed { gas, output_bytes: 0 });
        GasMeter::new(u64::MAX, RunControl { claimed, ..RunControl::default() }, None)
    }

    #[test]
    fn a_run_ends_a_quantum_beyond_its_claim_and_not_before() {
        for claimed in [0, 7, QUANTUM - 1, QUANTUM, QUANTUM + 1, 5 * QUANTUM + 3] {
            let mut gas_meter = checked_against(claimed);
            let spent = gas_meter.charge(MeterState::BEGIN, claimed).expect("the claim is true so far");
            assert!(matches!(gas_meter.finish(spent), Ok(gas) if gas == claimed), "{claimed}");
            let mut gas_meter = checked_against(claimed);
            let beyond = gas_meter.charge(MeterState::BEGIN, claimed + QUANTUM + 1);
            assert!(matches!(beyond, Err(HostInterrupt::BeyondClaim(ClaimedAmount::Gas))), "{claimed}: {beyond:?}");
        }
        let mut gas_meter = checked_against(u64::MAX);
        assert!(gas_meter.charge(MeterState::BEGIN, 3 * QUANTUM).is_ok(), "the largest claim has no end");
    }

    #[test]
    fn a_price_beyond_all_numbers_is_more_than_anybody_has() {
        for gas in [u64::MAX, i64::MAX as u64 + 1, i64::MAX as u64] {
            let mut gas_meter = GasMeter::new(u64::MAX, RunControl::default(), None);
            let charged = gas_meter.charge(MeterState::BEGIN, gas);
            assert!(matches!(charged, Ok(_) | Err(HostInterrupt::Guest(Outcome::OutOfGas))), "{gas}");
            let mut gas_meter = GasMeter::new(i64::MAX as u64 - 1, RunControl::default(), None);
            assert!(
                matches!(gas_meter.charge(MeterState::BEGIN, gas), Err(HostInterrupt::Guest(Outcome::OutOfGas))),
                "{gas}"
            );
        }
    }

    #[test]
    fn the_stack_is_asked_for_first_and_then_who_waits() {
        let late = RunControl { deadline: Some(Instant::now() - Duration::from_secs(1)), ..RunControl::default() };
        let mut gas_meter = GasMeter::new(0, late, None);
        let deep = MeterState::from_i64(-1 << 32);
        assert!(deep.stack_bytes() < 0);
        assert!(matches!(gas_meter.refill(deep), Err(HostInterrupt::Guest(Outcome::OutOfStack))));
        assert!(matches!(gas_meter.refill(owing(1)), Err(HostInterrupt::Deadline)));
        let watch = RunControl::default();
        watch.is_cancelled.store(true, Ordering::Relaxed);
        assert!(matches!(GasMeter::new(9, watch, None).charge(MeterState::BEGIN, 1), Err(HostInterrupt::Cancelled)));
    }
}
