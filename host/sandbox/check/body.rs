//! One function's body: validated, and counted while it is.

use wasmparser::{FuncValidator, FunctionBody, Operator, ValidatorResources};

use super::limits::{GateLimits, LimitName};

/// What is counted of one body, and the run of operators that has not ended yet.
struct Tally {
    found: GateLimits,
    run: u64,
}

/// What a body alone decides.
pub const COUNTED: &[LimitName] = &[
    LimitName::Operators,
    LimitName::Blocks,
    LimitName::Nesting,
    LimitName::StraightLine,
    LimitName::StackValues,
    LimitName::BranchTargets,
];

/// Validates `body` and counts what it has of [`COUNTED`].
pub fn read(
    body: &FunctionBody<'_>,
    validator: &mut FuncValidator<ValidatorResources>,
) -> wasmparser::Result<GateLimits> {
    let mut tally = Tally { found: GateLimits::NONE, run: 0 };
    let mut locals = body.get_binary_reader();
    validator.read_locals(&mut locals)?;
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let (operator, offset) = operators.read_with_offset()?;
        validator.op(offset, &operator)?;
        tally.count(&operator, validator);
    }
    operators.finish()?;
    Ok(tally.found)
}

impl Tally {
    fn count(&mut self, operator: &Operator<'_>, validator: &FuncValidator<ValidatorResources>) {
        let found = &mut self.found;
        found.operators += 1;
        found.stack_values = found.stack_values.max(validator.operand_stack_height().into());
        self.run += 1;
        match operator {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                found.blocks += 1;
                // The function's own frame is no block.
                found.nesting = found.nesting.max((validator.control_stack_height() - 1).into());
            }
            Operator::BrTable { targets } => found.branch_targets += u64::from(targets.len()) + 1,
            Operator::Else
            | Operator::End
            | Operator::Br { .. }
            | Operator::BrIf { .. }
            | Operator::Return
            | Operator::Unreachable => {}
            _ => {
                found.straight_line = found.straight_line.max(self.run);
                return;
            }
        }
        self.run = 0;
    }
}
