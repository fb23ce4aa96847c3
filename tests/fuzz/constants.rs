//! Constants written as sums of others (the proposal `extended-const`), also at the offsets of
//! segments. They evaluate to the former values, so the expected result of the meter is known.

use wasm_encoder::{ConstExpr, Instruction};
use wasmparser::Operator;

/// Maximum number of operators that depend on each other in an expression.
const LEVELS_MAX: u64 = 4;

/// Random choice of how constants are written.
pub struct Sums(u64);

impl Sums {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `end`, by a linear congruential generator (Knuth, MMIX).
    fn below(&mut self, end: u64) -> u64 {
        (self.any() >> 33) % end
    }

    fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0
    }

    /// Returns an expression equal to `expression`; `None` if that is no integer constant.
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

    /// Writes a sum, difference or product with the value `value`. Its operands have one level
    /// less.
    fn write(&mut self, value: u64, is_long: bool, levels: u64, to: &mut Vec<Instruction<'static>>) {
        if levels == 0 {
            to.push(if is_long { Instruction::I64Const(value as i64) } else { Instruction::I32Const(value as i32) });
            return;
        }
        // A result that is right modulo 2^64 is right also where the upper half is dropped.
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

/// Returns the multiplicative inverse of an odd number, modulo 2^64. Each step of Newton's method
/// doubles the number of correct bits.
fn inverse(odd: u64) -> u64 {
    (0..6).fold(odd, |found, _| found.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(found))))
}
