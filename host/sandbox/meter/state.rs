//! State of the meter: the remaining gas and stack, in one number that all functions of the guest
//! pass on.

use super::STACK_BYTES;

/// Bit of the state that is set if the gas is overdrawn.
pub const GAS_OVERDRAWN: i64 = 1 << 30;

/// Gas in the low half, stack bytes in the high half, both signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeterState(i64);

impl MeterState {
    /// The state at the beginning of a run: the whole stack and no gas, so that the first grant is
    /// drawn at once.
    pub const BEGIN: Self = Self((STACK_BYTES as i64) << 32);

    /// Decodes the guest's form of the state.
    pub const fn from_i64(state: i64) -> Self {
        Self(state)
    }

    pub const fn to_i64(self) -> i64 {
        self.0
    }

    /// Returns the remaining gas of the grant; negative if it is overdrawn.
    pub const fn gas(self) -> i64 {
        self.0 as i32 as i64
    }

    /// Returns the remaining stack in bytes; negative if it is overdrawn.
    pub const fn stack_bytes(self) -> i64 {
        // Negative gas has borrowed from this half.
        self.0.wrapping_sub(self.gas()) >> 32
    }

    /// Returns the same stack with another balance of gas, of at most `i32::MAX`.
    pub const fn with_gas(self, gas: i64) -> Self {
        Self((self.stack_bytes() << 32).wrapping_add(gas))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_do_not_disturb_each_other() {
        for stack in [0, 1, -1, STACK_BYTES as i64, -(1 << 30)] {
            for gas in [0, 1, -1, i64::from(i32::MAX), i64::from(i32::MIN)] {
                let state = MeterState(stack << 32).with_gas(gas);
                assert_eq!((state.gas(), state.stack_bytes()), (gas, stack));
            }
        }
    }
}
