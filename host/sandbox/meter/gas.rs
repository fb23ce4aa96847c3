//! Where a body is charged: at the head of each run of operators that are executed together or not at all.
//!
//! The state is looked at where a function begins, at each turn of a loop, and wherever else more than
//! [`UNCHECKED_MAX`] would come together. A deep call ([`super::calls`]) ends a run: what comes behind it is charged, and
//! looked at, when the call has returned, unless it is no more than [`RETURN_MAX`].
//!
//! So what is overdrawn before anybody looks stays below 2^30: [`RETURN_MAX`] for each of the 2^18 frames that can be on
//! the stack; `UNCHECKED_MAX`, and that much in calls of functions that never look, for each frame below one that is not
//! deep; one run of operators; and one bulk operator's 2^28. What is left of a grant does so too. Then bit 30 is as good
//! as the sign bit 31, and tested by an instruction that has it as an operand.

use super::bulk::PRICE_MASK;
use super::calls::CALL_HEIGHT_MAX;
use super::schedule::{FREE_PER_UNIT, QUANTUM};
use super::stack::{FRAME_MIN_BYTES, STACK_BYTES};

/// The most gas that one frame spends without a look at what is left.
pub const UNCHECKED_MAX: u64 = 1_000;

/// The most that a function spends which never looks: one that has neither loop nor call. Whoever calls, looks for it.
pub const SMALL_MAX: u64 = 100;

/// The most that a frame spends without a look when a deep call has returned to it: an addition or two, and its own
/// return. All frames of a full stack together spend a tenth of a second so.
pub const RETURN_MAX: u64 = 16;

/// The most that a run spends between two looks.
pub const UNLOOKED_MAX: u64 = {
    let frames = STACK_BYTES / FRAME_MIN_BYTES;
    let below = CALL_HEIGHT_MAX as u64 + 2;
    frames * RETURN_MAX + below * (2 * UNCHECKED_MAX + 2 * SMALL_MAX)
};

/// Set where the gas has been overdrawn.
pub const GAS_OVERDRAWN: i64 = 1 << 30;

/// A longer run of operators is charged in parts.
pub const BLOCK_MAX: u64 = 1 << 16;

const _: () = {
    assert!(UNLOOKED_MAX + 2 * BLOCK_MAX + (PRICE_MASK as u64) < GAS_OVERDRAWN as u64);
    assert!(QUANTUM < GAS_OVERDRAWN as u64);
};

/// A charge, in front of the operator at this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    pub at: usize,
    pub cost: u64,
    /// Whether the state is looked at.
    pub look: bool,
}

/// Makes the list of charges while a body is walked through.
pub struct Charges {
    list: Vec<Charge>,
    open: Charge,
    /// The most that was spent on any way to the open charge since somebody looked.
    unchecked: u64,
    /// What functions may have spent without a look that were called since the open charge.
    called: u64,
    /// What is free but by the handful, since it last came to a unit.
    free: u64,
    /// The charge, by its place in the list, that the open one can be added to: nothing but a deep call is between them.
    earlier: Option<usize>,
}

impl Charges {
    /// Begins with the function's first run of operators.
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

    /// Adds to what the operator costs that was added last.
    pub fn add_more(&mut self, cost: u64) {
        self.open.cost += cost;
    }

    /// Adds to the open charge what is free but by the handful.
    pub fn add_free(&mut self, count: usize) {
        self.free += count as u64;
        self.open.cost += self.free / FREE_PER_UNIT;
        self.free %= FREE_PER_UNIT;
    }

    /// The operator before index `next` may spend up to [`SMALL_MAX`] without a look: a call, or one that moves bytes.
    pub fn call(&mut self, next: usize) {
        self.called += SMALL_MAX;
        if self.called > UNCHECKED_MAX {
            let unchecked = self.close();
            self.open(next, unchecked, true);
        }
    }

    /// The operator before index `next` is a call that can be deep.
    pub fn deep_call(&mut self, next: usize) {
        let earlier = self.closed().1;
        self.open(next, UNCHECKED_MAX - RETURN_MAX, false);
        self.earlier = earlier;
    }

    /// Ends the open charge; what was spent since somebody looked goes on to where the ways lead from here.
    pub fn close(&mut self) -> u64 {
        self.closed().0
    }

    /// Ends the open charge, and tells its place in the list, or of the one that it was added to.
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

    /// Begins a charge in front of the operator at index `at`.
    pub fn open(&mut self, at: usize, unchecked: u64, look: bool) {
        self.open = Charge { at, cost: 0, look };
        self.unchecked = unchecked;
    }

    /// The charges of a body, which is small if it can do without a look.
    pub fn into_list(mut self, has_loops_or_calls: bool) -> Vec<Charge> {
        let spent: u64 = self.list.iter().map(|charge| charge.cost).sum();
        if let (false, true, Some(first)) = (has_loops_or_calls, spent <= SMALL_MAX, self.list.first_mut()) {
            first.look = false;
        }
        self.list
    }
}
