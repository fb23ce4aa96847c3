//! Gas charges of a body. Each straight run of operators, which execute all or not at all, is
//! charged at its head.
//!
//! The state is checked at poll points: where a function begins, at each loop head, and wherever
//! more than [`UNCHECKED_MAX`] would accumulate. A deep call ([`super::calls`]) ends a straight
//! run. The operators after it are charged, with a poll point, when the call has returned. If they
//! cost at most [`RETURN_MAX`], there is no poll point.
//!
//! So the gas that is overdrawn between two poll points stays below 2^30. The sum consists of:
//! - [`RETURN_MAX`] for each of the 2^18 frames that fit the stack;
//! - `UNCHECKED_MAX`, and as much again in calls of small functions without poll points, for each
//!   frame below one that is not deep;
//! - one straight run of operators;
//! - 2^28 for one bulk operator.
//!
//! A grant also stays below 2^30. So bit 30 is set exactly where the sign bit 31 is, and one
//! instruction can test it as an immediate operand.

use super::bulk::PRICE_MASK;
use super::calls::CALL_HEIGHT_MAX;
use super::schedule::{FREE_PER_UNIT, QUANTUM};
use super::stack::{FRAME_MIN_BYTES, STACK_BYTES};
use super::state::GAS_OVERDRAWN;

/// Maximum gas that one frame spends between two poll points.
pub const UNCHECKED_MAX: u64 = 1_000;

/// Maximum gas of a function without a poll point. Such a function has neither loops nor calls. The
/// caller polls instead.
pub const SMALL_MAX: u64 = 100;

/// Maximum gas that a frame spends without a poll point after a deep call has returned to it. The
/// amount pays for one or two additions and the frame's own return. All frames of a full stack
/// together then take a tenth of a second.
pub const RETURN_MAX: u64 = 16;

/// Maximum gas that a run spends between two poll points, over all frames.
pub const UNLOOKED_MAX: u64 = {
    let frames = STACK_BYTES / FRAME_MIN_BYTES;
    let below = CALL_HEIGHT_MAX as u64 + 2;
    frames * RETURN_MAX + below * (2 * UNCHECKED_MAX + 2 * SMALL_MAX)
};

/// Maximum gas of one charge. A longer run of operators is charged in parts.
pub const BLOCK_MAX: u64 = 1 << 16;

const _: () = {
    assert!(UNLOOKED_MAX + 2 * BLOCK_MAX + (PRICE_MASK as u64) < GAS_OVERDRAWN as u64);
    assert!(QUANTUM < GAS_OVERDRAWN as u64);
};

/// A charge before the operator with index `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    pub at: usize,
    pub cost: u64,
    /// Whether the charge is a poll point, where the state is checked.
    pub look: bool,
}

/// Builds the list of charges during the walk over a body.
pub struct Charges {
    list: Vec<Charge>,
    open: Charge,
    /// Maximum gas that any path to the open charge has spent since the last poll point.
    unchecked: u64,
    /// Maximum gas that functions called since the open charge began may have spent without a poll
    /// point.
    called: u64,
    /// Count of nearly free operators since the last whole unit (see [`FREE_PER_UNIT`]).
    free: u64,
    /// Index in the list of an earlier charge to which the open one can be added. Only a deep call
    /// lies between them.
    earlier: Option<usize>,
}

impl Charges {
    /// Starts with the function's first straight run of operators.
    pub const fn new() -> Self {
        let open = Charge { at: 0, cost: 0, look: true };
        Self { list: Vec::new(), open, unchecked: 0, called: 0, free: 0, earlier: None }
    }

    /// Adds the operator before index `next` to the open charge.
    pub fn add(&mut self, cost: u64, next: usize) {
        self.open.cost += cost;
        if cost == 0 {
            self.add_free(1);
        }
        if self.open.cost > BLOCK_MAX {
            let unchecked = self.close();
            self.open(next, unchecked, false);
        }
    }

    /// Adds to the cost of the operator that was added last.
    pub fn add_more(&mut self, cost: u64) {
        self.open.cost += cost;
    }

    /// Adds `count` nearly free operators to the open charge (see [`FREE_PER_UNIT`]).
    pub fn add_free(&mut self, count: usize) {
        self.free += count as u64;
        self.open.cost += self.free / FREE_PER_UNIT;
        self.free %= FREE_PER_UNIT;
    }

    /// Records that the operator before index `next`, a call or a move of bytes, may spend up to
    /// [`SMALL_MAX`] without a poll point.
    pub fn call(&mut self, next: usize) {
        self.called += SMALL_MAX;
        if self.called > UNCHECKED_MAX {
            let unchecked = self.close();
            self.open(next, unchecked, true);
        }
    }

    /// Records that the operator before index `next` is a call that can be deep.
    pub fn deep_call(&mut self, next: usize) {
        let earlier = self.closed().1;
        self.open(next, UNCHECKED_MAX - RETURN_MAX, false);
        self.earlier = earlier;
    }

    /// Ends the open charge. Returns the gas spent since the last poll point, for the successors in
    /// the control flow.
    pub fn close(&mut self) -> u64 {
        self.closed().0
    }

    /// Ends the open charge. Also returns its index in the list, or the index of the charge to
    /// which it was added.
    fn closed(&mut self) -> (u64, Option<usize>) {
        let Charge { cost, .. } = self.open;
        let called = std::mem::take(&mut self.called);
        self.open.look |= self.unchecked + cost + called > UNCHECKED_MAX;
        self.unchecked = if self.open.look { 0 } else { self.unchecked + cost } + called;
        let earlier =
            self.earlier.take().filter(|earlier| !self.open.look && self.list[*earlier].cost + cost <= BLOCK_MAX);
        let place = match earlier {
            Some(earlier) => {
                self.list[earlier].cost += cost;
                Some(earlier)
            }
            None if cost > 0 || self.open.look => {
                self.list.push(self.open);
                Some(self.list.len() - 1)
            }
            None => None,
        };
        self.open.cost = 0;
        self.open.look = false;
        (self.unchecked, place)
    }

    /// Begins a charge before the operator with index `at`.
    pub fn open(&mut self, at: usize, unchecked: u64, look: bool) {
        self.open = Charge { at, cost: 0, look };
        self.unchecked = unchecked;
    }

    /// Returns the charges of a body. A small body without loops and calls loses its poll point.
    pub fn into_list(mut self, has_loops_or_calls: bool) -> Vec<Charge> {
        let spent: u64 = self.list.iter().map(|charge| charge.cost).sum();
        if let (false, true, Some(first)) = (has_loops_or_calls, spent <= SMALL_MAX, self.list.first_mut()) {
            first.look = false;
        }
        self.list
    }
}
