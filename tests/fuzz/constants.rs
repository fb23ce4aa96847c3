//! Constants, written as sums of others (the proposal `extended-const`), also where segments begin.
//! They come to what was there before, so it is known what the meter is to make of them.

use wasm_encoder::{ConstExpr, Instruction};
use wasmparser::Operator;

/// An expression of at most so many operators that depend on each other.
const LEVELS_MAX: u64 = 4;

/// Chooses how constants are written.
pub struct Sums(u64);

impl Sums {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Below `end`, by a linear congruential generator (Knuth, MMIX).
    fn below(&mut self, end: u64) -> u64 {
        (self.any() >> 33) % end
    }

    fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0
    }

    /// What comes to the same as `expression`; `None` where that is no constant of integers.
    pub fn of(&mut self, expression: &wasmparser::ConstExpr<'_>) -> Option<ConstExpr> {
        let (value, is_long) = match expression.get_operators_reader().read().ok()? {
            Operator::I32Const { value } => (value as u64, false),
            Operator::I64Const { value } => (value as u64, true),
            _ => return None,
        };
        let (mut operators, levels) = (Vec::new(), self.below(LEVELS_MAX + 1));
        self.write(value, is_long, levels, &mut operators);
        Some(ConstExpr::extended(operators))
    }

    /// A sum, difference or product that comes to `value`, of others with one level less.
    fn write(&mut self, value: u64, is_long: bool, levels: u64, to: &mut Vec<Instruction<'static>>) {
        if levels == 0 {
            to.push(if is_long { Instruction::I64Const(value as i64) } else { Instruction::I32Const(value as i32) });
            return;
        }
        // Where the upper half does not matter, what is right modulo 2^64 is right.
        let other = self.any();
        let odd = other | 1;
        let (left, right, operator, short) = match self.below(3) {
            0 => (value.wrapping_sub(other), other, Instruction::I64Add, Instruction::I32Add),
            1 => (value.wrapping_add(other), other, Instruction::I64Sub, Instruction::I32Sub),
            _ => (value.wrapping_mul(inverse(odd)), odd, Instruction::I64Mul, Instruction::I32Mul),
        };
        for operand in [left, right] {
            let levels = self.below(levels);
            self.write(operand, is_long, levels, to);
        }
        to.push(if is_long { operator } else { short });
    }
}

/// What an odd number is to be multiplied by to give 1, modulo 2^64. Each step of Newton's doubles
/// the bits that are right.
fn inverse(odd: u64) -> u64 {
    (0..6).fold(odd, |found, _| found.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(found))))
}
