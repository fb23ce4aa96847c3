//! Estimate of a function's compile cost, from the content of its body: the weights of operators,
//! and the formula.
//!
//! One unit is about a microsecond of CPU on the machine of benches/README.md. Each weight was
//! measured with modules of one shape (benches/compile_cost.rs). A weight is the highest cost of
//! one more item of its kind, beyond what is already counted. The sum is meant as an upper bound.
//! All arithmetic saturates, so a sum beyond any number is beyond any limit.

/// The cost of one operator in addition to its bytes.
#[derive(Clone, Copy)]
pub struct OperatorCost {
    pub units: u32,
    /// Basic blocks that its translation adds.
    pub blocks: u32,
    pub flow: Flow,
}

/// The effect of an operator on the values of the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The compiler computes the result where it is used, so the operands stay alive until there.
    Pure,
    /// The compiler computes the result where the operator stands, or traps there.
    Fixed,
    Constant,
    /// Pure; and the compiler combines it with a preceding operator of the same class if both have
    /// a constant operand.
    Folding(u8),
}

macro_rules! operators {
    ($( @$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($ann:tt)*))*) => {
        /// The operators, without their immediates.
        #[allow(dead_code, reason = "some are of proposals that are not admitted")]
        #[derive(Clone, Copy)]
        pub enum Op { $($op),* }
    };
}
wasmparser::for_each_operator!(operators);

const fn units(units: u32) -> OperatorCost {
    OperatorCost { units, blocks: 0, flow: Flow::Pure }
}

const fn fixed(units: u32, blocks: u32) -> OperatorCost {
    OperatorCost { units, blocks, flow: Flow::Fixed }
}

const fn folding(class: u8) -> OperatorCost {
    OperatorCost { units: 0, blocks: 0, flow: Flow::Folding(class) }
}

/// Returns the weight of an operator. Operators of control, locals and calls are counted where they
/// are read.
#[rustfmt::skip]
pub const fn weight(op: Op) -> OperatorCost {
    use Op::*;
    match op {
        // The meter has already written out the code that makes a NaN result canonical.
        F32Add | F32Sub | F32Mul | F32Div | F32Sqrt | F32Ceil | F32Floor | F32Trunc | F32Nearest
        | F64Add | F64Sub | F64Mul | F64Div | F64Sqrt | F64Ceil | F64Floor | F64Trunc | F64Nearest
        | F32DemoteF64 | F64PromoteF32
        | F32x4Add | F32x4Sub | F32x4Mul | F32x4Div | F32x4Sqrt | F32x4PMin | F32x4PMax
        | F32x4Ceil | F32x4Floor | F32x4Trunc | F32x4Nearest
        | F64x2Add | F64x2Sub | F64x2Mul | F64x2Div | F64x2Sqrt | F64x2PMin | F64x2PMax
        | F64x2Ceil | F64x2Floor | F64x2Trunc | F64x2Nearest
        | F32x4DemoteF64x2Zero | F64x2PromoteLowF32x4 => units(4),
        // Several instructions each.
        F32Min | F32Max | F64Min | F64Max | F32ConvertI64U | F64ConvertI64U => units(12),
        F32x4Min | F32x4Max | F64x2Min | F64x2Max
        | F32x4ConvertI32x4S | F32x4ConvertI32x4U | F64x2ConvertLowI32x4S | F64x2ConvertLowI32x4U
        | I32x4TruncSatF32x4S | I32x4TruncSatF32x4U | I32x4TruncSatF64x2SZero | I32x4TruncSatF64x2UZero => units(20),
        // The time alone is 10. The code takes more memory than that of other operators with such a
        // time.
        I32TruncSatF32S | I32TruncSatF32U | I32TruncSatF64S | I32TruncSatF64U
        | I64TruncSatF32S | I64TruncSatF32U | I64TruncSatF64S | I64TruncSatF64U => units(14),
        I32TruncF32S | I32TruncF32U | I32TruncF64S | I32TruncF64U
        | I64TruncF32S | I64TruncF32U | I64TruncF64S | I64TruncF64U => fixed(10, 0),
        // Lanes of 8 bits have no shift instruction.
        I8x16Shl | I8x16ShrS | I8x16ShrU | I16x8Shl | I16x8ShrS | I16x8ShrU
        | I32x4Shl | I32x4ShrS | I32x4ShrU | I64x2Shl | I64x2ShrS | I64x2ShrU => units(12),

        I32Load | I64Load | F32Load | F64Load | I32Load8S | I32Load8U | I32Load16S | I32Load16U
        | I64Load8S | I64Load8U | I64Load16S | I64Load16U | I64Load32S | I64Load32U
        | I32Store | I64Store | F32Store | F64Store | I32Store8 | I32Store16 | I64Store8 | I64Store16 | I64Store32
        | V128Load | V128Load8x8S | V128Load8x8U | V128Load16x4S | V128Load16x4U | V128Load32x2S | V128Load32x2U
        | V128Load8Splat | V128Load16Splat | V128Load32Splat | V128Load64Splat | V128Load32Zero | V128Load64Zero
        | V128Store | V128Load8Lane | V128Load16Lane | V128Load32Lane | V128Load64Lane
        | V128Store8Lane | V128Store16Lane | V128Store32Lane | V128Store64Lane => fixed(3, 0),

        I32DivS | I32DivU | I32RemS | I32RemU | I64DivS | I64DivU | I64RemS | I64RemU
        | GlobalGet | GlobalSet | MemorySize | TableSize | TableSet | RefFunc | DataDrop | ElemDrop => fixed(0, 0),
        // These call the host.
        MemoryGrow | TableGrow => fixed(40, 2),
        MemoryCopy | MemoryFill | MemoryInit => fixed(30, 3),
        TableCopy | TableInit | TableFill => fixed(300, 10),
        // Includes the code that creates an element on its first use.
        TableGet => fixed(50, 3),

        I32Const | I64Const | F32Const | F64Const | V128Const | RefNull => {
            OperatorCost { units: 0, blocks: 0, flow: Flow::Constant }
        }
        I32Add | I64Add | I32Sub | I64Sub => folding(1),
        I32Xor | I64Xor => folding(1 << 1),
        I32And | I64And => folding(1 << 2),
        I32Or | I64Or => folding(1 << 3),
        I32Mul | I64Mul => folding(1 << 4),
        _ => units(0),
    }
}

/// A call through a table adds these basic blocks: the checks of the index, of the element, and of
/// its type.
pub const CALL_INDIRECT_BLOCKS: u64 = 3;
pub const CALL_INDIRECT: u64 = 50;
/// The time alone is 6 to 8. Each call also leaves a relocation, which takes memory until all
/// functions have their addresses.
pub const CALL: u64 = 9;
/// For each parameter and result of the callee.
pub const CALL_VALUE: u64 = 3;
/// A trap, which is a basic block of its own.
pub const UNREACHABLE: u64 = 14;
/// Weight of the last operator in a row of operators that fold. The compiler tries all ways to
/// combine them; a short row, such as a charge of the meter, has few.
pub const fn fold(row: u8) -> u64 {
    match row {
        0 | 1 => 6,
        2 => 12,
        3 => 24,
        _ => 72,
    }
}

/// A loop adds these basic blocks to its own.
pub const LOOP_BLOCKS: u64 = 2;

/// Each declared type, and each function that can be called from outside compiled code, is one
/// entry in the compiler's tables.
pub const TYPE: u64 = 80;
pub const ESCAPED: u64 = 25;
/// For each active data segment: the compiler emits a call for it, all in one function.
pub const SEGMENT: u64 = 100;

/// Thousandths of a unit, so that all weights are whole numbers.
pub const MILLI: u64 = 1_000;

/// The counts of one function that the estimate uses.
#[derive(Clone, Copy, Default)]
pub struct FunctionCounts {
    pub body_bytes: u64,
    /// Parameters and results.
    pub signature: u64,
    /// Parameters and locals.
    pub locals: u64,
    /// Whole units: of operators, calls and folds.
    pub units: u64,
    /// Basic blocks.
    pub blocks: u64,
    pub loops: u64,
    pub joins: u64,
    pub chains: u64,
    /// Number of values that may be alive, summed over all operators; then summed over control
    /// operators only.
    pub live: u64,
    pub live_control: u64,
    /// Values that blocks take and give and branches carry.
    pub block_values: u64,
    /// Units of values that are computed again where they are read or carried.
    pub again: u64,
}

impl FunctionCounts {
    /// Returns a lower bound of the counts with the meter, given the counts without it. The meter
    /// makes the locals anew at each poll of the gas, so values may live for less long, and be made
    /// of fewer operators.
    pub fn without_meter(self) -> Self {
        Self { live: 0, live_control: 0, again: 0, ..self }
    }

    /// Returns the cost of the function in thousandths of a unit.
    pub fn milli(&self) -> u64 {
        let (locals, blocks) = (self.locals + 1, self.blocks + 1);
        [
            (1, 35 * MILLI + 100 * locals),
            (self.signature, 2 * MILLI),
            (self.body_bytes, 800),
            (self.units, MILLI),
            // Later passes walk the lists of blocks in linear time. Dominance and live ranges are
            // not linear.
            (blocks, 12 * MILLI),
            (blocks.saturating_mul(blocks), 5),
            // One block parameter, for each edge into its block.
            (self.joins, 2 * MILLI),
            // A value that is a parameter of many nested blocks is one live range, which is split
            // many times.
            (self.chains, locals * 2 / 3 + 20),
            (self.live_control, 120),
            (self.loops.saturating_mul(locals), 100),
            (self.live, 8),
            (self.block_values, 3 * MILLI),
            (self.again, MILLI),
        ]
        .into_iter()
        .fold(0, |sum, (count, weight): (u64, u64)| sum.saturating_add(count.saturating_mul(weight)))
    }
}

/// Cost budget for each byte of a module, in units, including the meter. The output of real
/// compilers needs 2 to 8.
const BUDGET_A_BYTE: u64 = 9;
/// Fixed cost budget of any module. Some modules are too small to be judged by their size.
const BUDGET_BASE: u64 = 20_000;

/// Returns `percent` of the cost budget of a module of `module_bytes`, in thousandths of a unit.
pub const fn budget_milli(module_bytes: u64, percent: u64) -> u64 {
    (module_bytes * BUDGET_A_BYTE + BUDGET_BASE).saturating_mul(MILLI / 10).saturating_mul(percent) / 10
}

/// Returns how many percent of the budget of a module of `module_bytes` the cost `milli` is,
/// rounded up. `milli` is in thousandths of a unit.
pub fn percent(milli: u64, module_bytes: u64) -> u64 {
    milli.saturating_mul(100).div_ceil((module_bytes * BUDGET_A_BYTE + BUDGET_BASE) * MILLI)
}
