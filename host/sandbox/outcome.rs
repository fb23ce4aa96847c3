//! Outcomes: the ways in which a run can end by the guest's own action. A failure of the host is
//! not an outcome: it is an `Err` and proves nothing.

use std::fmt;

/// The end of a run, which is the same on every engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// `run` returned 0.
    Done,
    /// `run` returned another value: the guest's own failure code.
    Failed(i32),
    /// The guest did what WebAssembly forbids.
    Trap(Trap),
    /// A host call named bytes outside of the guest's memory.
    PointerOutOfRange,
    /// `input_blake3` named bytes outside of the input.
    InputRange,
    /// `asset_read` named an asset that the job does not include.
    NoSuchAsset,
    /// `proof_commit` was called twice.
    SecondCommit,
    /// The output exceeded its limit.
    OutputLimit,
    /// The module declares more memory than the job may use.
    MemoryLimit,
    /// The work needed more gas than the job allows.
    OutOfGas,
    /// The calls went too deep: their frames, as the meter counts them, exceeded the stack.
    OutOfStack,
}

/// A trap, as the WebAssembly standard names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trap {
    Unreachable,
    MemoryOutOfBounds,
    TableOutOfBounds,
    IndirectCallToNull,
    IndirectCallSignature,
    IntegerOverflow,
    IntegerDivideByZero,
    InvalidConversionToInteger,
}

impl Outcome {
    pub const fn is_done(self) -> bool {
        matches!(self, Self::Done)
    }

    /// Returns the stable code that proofs, JSON and messages show, and the guest's failure code if
    /// there is one.
    pub const fn code(self) -> (&'static str, Option<i32>) {
        match self {
            Self::Failed(code) => ("failed", Some(code)),
            _ => (self.name(), None),
        }
    }

    /// Parses the result of [`Outcome::code`].
    pub fn from_code(name: &str, failure: Option<i32>) -> Option<Self> {
        match (name, failure) {
            ("failed", Some(code)) if code != 0 => Some(Self::Failed(code)),
            (_, None) => Self::WITHOUT_CODE.iter().copied().find(|outcome| outcome.name() == name),
            _ => None,
        }
    }

    const WITHOUT_CODE: [Self; 17] = [
        Self::Done,
        Self::Trap(Trap::Unreachable),
        Self::Trap(Trap::MemoryOutOfBounds),
        Self::Trap(Trap::TableOutOfBounds),
        Self::Trap(Trap::IndirectCallToNull),
        Self::Trap(Trap::IndirectCallSignature),
        Self::Trap(Trap::IntegerOverflow),
        Self::Trap(Trap::IntegerDivideByZero),
        Self::Trap(Trap::InvalidConversionToInteger),
        Self::PointerOutOfRange,
        Self::InputRange,
        Self::NoSuchAsset,
        Self::SecondCommit,
        Self::OutputLimit,
        Self::MemoryLimit,
        Self::OutOfGas,
        Self::OutOfStack,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::Trap(Trap::Unreachable) => "trap_unreachable",
            Self::Trap(Trap::MemoryOutOfBounds) => "trap_memory_out_of_bounds",
            Self::Trap(Trap::TableOutOfBounds) => "trap_table_out_of_bounds",
            Self::Trap(Trap::IndirectCallToNull) => "trap_indirect_call_to_null",
            Self::Trap(Trap::IndirectCallSignature) => "trap_indirect_call_signature",
            Self::Trap(Trap::IntegerOverflow) => "trap_integer_overflow",
            Self::Trap(Trap::IntegerDivideByZero) => "trap_integer_divide_by_zero",
            Self::Trap(Trap::InvalidConversionToInteger) => "trap_invalid_conversion_to_integer",
            Self::PointerOutOfRange => "pointer_out_of_range",
            Self::InputRange => "input_range",
            Self::NoSuchAsset => "no_such_asset",
            Self::SecondCommit => "second_commit",
            Self::OutputLimit => "output_limit",
            Self::MemoryLimit => "memory_limit",
            Self::OutOfGas => "out_of_gas",
            Self::OutOfStack => "out_of_stack",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Failed(code) => write!(f, "the guest failed with code {code}"),
            Self::Trap(trap) => write!(f, "the guest trapped: {trap}"),
            Self::PointerOutOfRange => f.write_str("the guest gave a host call a pointer outside of its memory"),
            Self::InputRange => f.write_str("the guest asked for the hash of bytes outside of its input"),
            Self::NoSuchAsset => f.write_str("the guest read an asset that the job does not bring"),
            Self::SecondCommit => f.write_str("the guest committed a second proof"),
            Self::OutputLimit => f.write_str("the guest's output outgrew its limit"),
            Self::MemoryLimit => f.write_str("the module declares more memory than the job may use"),
            Self::OutOfGas => f.write_str("the guest ran out of gas"),
            Self::OutOfStack => f.write_str("the guest's calls went too deep"),
        }
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "unreachable code was reached",
            Self::MemoryOutOfBounds => "memory access out of bounds",
            Self::TableOutOfBounds => "table access out of bounds",
            Self::IndirectCallToNull => "indirect call to a null reference",
            Self::IndirectCallSignature => "indirect call with another signature",
            Self::IntegerOverflow => "integer overflow",
            Self::IntegerDivideByZero => "integer divided by zero",
            Self::InvalidConversionToInteger => "conversion of a value that no integer can hold",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_names_one_outcome() {
        for outcome in Outcome::WITHOUT_CODE.into_iter().chain([Outcome::Failed(-1), Outcome::Failed(7)]) {
            let (name, failure) = outcome.code();
            assert_eq!(Outcome::from_code(name, failure), Some(outcome));
        }
        assert_eq!(Outcome::from_code("done", Some(1)), None);
        assert_eq!(Outcome::from_code("failed", None), None);
        assert_eq!(Outcome::from_code("failed", Some(0)), None);
    }
}
