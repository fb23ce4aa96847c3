//! Constant expressions, evaluated. Sums, differences and products of constants (the
//! `extended-const` proposal) have one result on every engine. So engines receive only plain
//! constants.

use wasmparser::{ConstExpr, Operator};

/// The value of an integer constant expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    I32(i32),
    I64(i64),
}

/// Evaluates an expression. Returns `None` if it is not an integer or reads a global.
pub fn computed(expression: &ConstExpr<'_>) -> Option<Constant> {
    let mut operands = Vec::new();
    let mut reader = expression.get_operators_reader();
    loop {
        let operator = reader.read().ok()?;
        match operator {
            Operator::I32Const { value } => operands.push(Constant::I32(value)),
            Operator::I64Const { value } => operands.push(Constant::I64(value)),
            Operator::End => break,
            _ => {
                let (right, left) = (operands.pop()?, operands.pop()?);
                operands.push(arithmetic(&operator, left, right)?);
            }
        }
    }
    let result = operands.pop()?;
    operands.is_empty().then_some(result)
}

fn arithmetic(operator: &Operator<'_>, left: Constant, right: Constant) -> Option<Constant> {
    use Constant::{I32, I64};
    Some(match (operator, left, right) {
        (Operator::I32Add, I32(left), I32(right)) => I32(left.wrapping_add(right)),
        (Operator::I32Sub, I32(left), I32(right)) => I32(left.wrapping_sub(right)),
        (Operator::I32Mul, I32(left), I32(right)) => I32(left.wrapping_mul(right)),
        (Operator::I64Add, I64(left), I64(right)) => I64(left.wrapping_add(right)),
        (Operator::I64Sub, I64(left), I64(right)) => I64(left.wrapping_sub(right)),
        (Operator::I64Mul, I64(left), I64(right)) => I64(left.wrapping_mul(right)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use wasmparser::BinaryReader;

    use super::*;

    /// Evaluates the expression with these bytes.
    fn of(bytes: &[u8]) -> Option<Constant> {
        computed(&ConstExpr::new(BinaryReader::new(bytes, 0)))
    }

    #[test]
    fn integers_are_computed_as_the_standard_says() {
        let i32_of = |operator| of(&[0x41, 0x7f, 0x41, 3, operator, 0x0b]);
        assert_eq!(i32_of(0x6a), Some(Constant::I32(2)));
        assert_eq!(i32_of(0x6b), Some(Constant::I32(-4)));
        assert_eq!(i32_of(0x6c), Some(Constant::I32(-3)));
        let i64_of = |operator| of(&[0x42, 0x7f, 0x42, 3, operator, 0x0b]);
        assert_eq!(i64_of(0x7c), Some(Constant::I64(2)));
        assert_eq!(i64_of(0x7d), Some(Constant::I64(-4)));
        assert_eq!(i64_of(0x7e), Some(Constant::I64(-3)));
        // 2^31 - 1, plus one.
        assert_eq!(of(&[0x41, 0xff, 0xff, 0xff, 0xff, 7, 0x41, 1, 0x6a, 0x0b]), Some(Constant::I32(i32::MIN)));
    }

    #[test]
    fn whatever_else_an_expression_is_is_left_alone() {
        // In order: nothing, two values, a missing operand, mixed types, a global, a reference, a
        // float.
        let others: [&[u8]; 7] = [
            &[0x0b],
            &[0x41, 1, 0x41, 1, 0x0b],
            &[0x41, 1, 0x6a, 0x0b],
            &[0x41, 1, 0x42, 1, 0x6a, 0x0b],
            &[0x23, 0, 0x0b],
            &[0xd0, 0x70, 0x0b],
            &[0x43, 0, 0, 0, 0, 0x0b],
        ];
        for other in others {
            assert_eq!(of(other), None, "{other:x?}");
        }
    }
}
