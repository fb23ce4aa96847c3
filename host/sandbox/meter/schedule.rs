//! `gas schedule v2`: the gas cost of each operator. One unit is the time of one to five dependent
//! integer additions, the shortest operators. The code comes from Cranelift, and all data is in the
//! first-level cache. So a unit is 0.25 ns to 1 ns on a processor of 3.9 GHz. No unit takes longer
//! than 8 ns on the processors of either maker, except for memory that is in no cache
//! (docs/gas.md). `benches/calibration.rs` measures the schedule;
//! `tests/vectors/gas-schedule-v2.txt` pins it.

use wasmparser::Operator;

/// Version of the schedule, which covers everything that decides how much gas a run uses.
pub const SCHEDULE_VERSION: u16 = 2;

/// Gas of one grant. A run that ends badly forfeits the rest of its grant. The most expensive
/// operators, loads from memory in random order, take 70 to 270 ns for 2 units. So a quantum takes
/// up to 36 ms.
pub const QUANTUM: u64 = 1 << 18;

/// Cost of a back edge of a loop, in addition to the operators in the loop.
pub const TURN: u64 = 1;

/// Nearly free operators per unit of gas. Operators without a machine instruction are counted
/// through a body, and each group of this many costs 1. The reason is that some engines do a little
/// work for each. The same rule applies to locals that are cleared at function entry. So it does to
/// values that a branch carries, and to values that enter or leave a block or a call.
pub const FREE_PER_UNIT: u64 = 8;

/// Bytes that `memory.fill`, `memory.copy` and `memory.init` move per unit: 64, as a shift of the
/// byte count.
pub const BYTES_SHIFT: i64 = 6;
pub const BYTES_PER_UNIT: u64 = 1 << BYTES_SHIFT;

/// Elements that table operators move per unit: 1, as a shift of the element count.
pub const ELEMENTS_SHIFT: i64 = 0;
pub const ELEMENTS_PER_UNIT: u64 = 1 << ELEMENTS_SHIFT;

/// Cost of each 64 KiB page that `memory.grow` added. The system allocates and clears the page when
/// it is first touched.
pub const PAGE: i64 = 4_096;

/// Returns the price of a host call that moves `bytes`: a base for the crossing, and one unit for
/// each 8 bytes. So a guest cannot make the host work longer than the guest itself could.
pub const fn host_call_gas(bytes: u64) -> u64 {
    HOST_CALL + bytes / HOST_BYTES_PER_UNIT
}

/// Returns the price of a host call that hashes `bytes`. BLAKE3 hashes 16 bytes in about 2 ns if it
/// has many chunks of 1 KiB at once. A single chunk takes about ten times as long per byte, so the
/// first bytes of a call cost more.
pub const fn hash_gas(bytes: u64) -> u64 {
    let short = if bytes < HASH_SHORT_BYTES { bytes } else { HASH_SHORT_BYTES };
    host_call_gas(bytes) + short / HASH_SHORT_BYTES_PER_UNIT
}

/// Returns the price of a host call that writes `bytes` of output, which the host copies, hashes
/// and passes on.
pub const fn output_gas(bytes: u64) -> u64 {
    HOST_CALL + bytes / OUTPUT_BYTES_PER_UNIT
}

pub const HOST_CALL: u64 = 64;
pub const HOST_BYTES_PER_UNIT: u64 = 8;
pub const HASH_SHORT_BYTES: u64 = 8 << 10;
pub const HASH_SHORT_BYTES_PER_UNIT: u64 = 4;
pub const OUTPUT_BYTES_PER_UNIT: u64 = 2;

/// Bytes that are charged for finishing a hash: up to one block for each level of its tree.
pub const HASH_END_BYTES: u64 = 256;

/// Cost of each element that `table.grow` added.
pub const ELEMENT: i64 = 1;

/// Cost of each active segment at a guest's start, in addition to its bytes or elements: the call
/// that copies it.
pub const START_SEGMENT: u64 = 128;

/// Cost of each element of such a segment. The reference is created on first use.
pub const START_ELEMENT: u64 = 16;

/// Cost of initialising a global.
pub const START_GLOBAL: u64 = 1;

macro_rules! operators {
    ($( @$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($ann:tt)*))*) => {
        /// The operators, without their immediates.
        #[allow(dead_code, reason = "some are of proposals that are not admitted")]
        #[derive(Clone, Copy)]
        pub enum Op { $($op),* }

        pub const fn op(operator: &Operator<'_>) -> Op {
            #[allow(unreachable_patterns, reason = "wasmparser may add operators")]
            match operator {
                $(Operator::$op { .. } => Op::$op,)*
                _ => Op::Unreachable,
            }
        }

        /// Each operator, with its proposal and the name of its visitor function.
        const ALL: &[(Op, &str, &str)] = &[$((Op::$op, stringify!($proposal), stringify!($visit))),*];
    };
}
wasmparser::for_each_operator!(operators);

/// Returns the cost of an operator, without the part that depends on an operand.
pub fn cost(operator: &Operator<'_>) -> u64 {
    cost_of(op(operator))
}

const fn cost_of(op: Op) -> u64 {
    use Op::*;
    match op {
        // These have no machine instruction.
        Nop | Block | Loop | Else | End | Br | Return | Unreachable | Drop | LocalGet | LocalSet | LocalTee
        | I32Const | I64Const | F32Const | F64Const | V128Const | RefNull | I32WrapI64 | I64ExtendI32U => 0,

        Call => 3,
        CallIndirect => 4,
        RefFunc => 60,
        ElemDrop => 12,

        // In addition to the cost of what they move or add.
        MemoryGrow => 60,
        TableGrow => 30,
        MemoryCopy | MemoryInit => 4,
        MemoryFill => 6,
        TableFill => 3,
        TableCopy => 8,
        TableInit => 16,

        I32Load | I32Load8S | I32Load8U | I32Load16S | I32Load16U | I64Load | I64Load8S | I64Load8U | I64Load16S
        | I64Load16U | I64Load32S | I64Load32U | F32Load | F64Load | V128Load | V128Load8Splat | V128Load16Splat
        | V128Load32Splat | V128Load64Splat | V128Load32Zero | V128Load64Zero => 2,
        V128Load8x8S | V128Load8x8U | V128Load16x4S | V128Load16x4U | V128Load32x2S | V128Load32x2U | V128Load8Lane
        | V128Load16Lane | V128Load32Lane | V128Load64Lane => 3,
        I32Store | I32Store8 | I32Store16 | I64Store | I64Store8 | I64Store16 | I64Store32 | F32Store | F64Store
        | V128Store | V128Store8Lane | V128Store16Lane | V128Store32Lane | V128Store64Lane => 2,

        I32DivS | I32DivU | I32RemS | I32RemU => 5,
        I64DivS | I64DivU | I64RemS | I64RemU => 6,

        F32Eq | F32Ne | F32Lt | F32Gt | F32Le | F32Ge | F64Eq | F64Ne | F64Lt | F64Gt | F64Le | F64Ge | F32Copysign
        | F64Copysign => 2,
        F32x4Min | F32x4Max | F64x2Min | F64x2Max | I64x2Mul => 4,
        // Intel's processors take 36 to 60 ns if an operand or the result of these is denormal.
        F32Add | F32Sub | F32Mul | F32Div | F32Sqrt | F64Add | F64Sub | F64Mul | F64Div | F64Sqrt | F32x4Add
        | F32x4Sub | F32x4Mul | F32x4Div | F32x4Sqrt | F64x2Add | F64x2Sub | F64x2Mul | F64x2Div | F64x2Sqrt
        | F32DemoteF64 | F64PromoteF32 | F32x4DemoteF64x2Zero | F64x2PromoteLowF32x4 => 8,
        I32TruncF32S
        | I32TruncF32U
        | I32TruncF64S
        | I32TruncF64U
        | I64TruncF32S
        | I64TruncF32U
        | I64TruncF64S
        | I64TruncF64U
        | I32TruncSatF32S
        | I32TruncSatF32U
        | I32TruncSatF64S
        | I32TruncSatF64U
        | I64TruncSatF32S
        | I64TruncSatF32U
        | I64TruncSatF64S
        | I64TruncSatF64U
        | F32ConvertI32S
        | F32ConvertI32U
        | F32ConvertI64S
        | F32ConvertI64U
        | F64ConvertI32S
        | F64ConvertI32U
        | F64ConvertI64S
        | F64ConvertI64U
        | F64x2ConvertLowI32x4U => 2,
        I32x4TruncSatF32x4S | I32x4TruncSatF32x4U | I32x4TruncSatF64x2SZero | I32x4TruncSatF64x2UZero => 4,

        I8x16Splat | I16x8Splat | I32x4Splat | I64x2Splat | I8x16ExtractLaneS | I8x16ExtractLaneU
        | I16x8ExtractLaneS | I16x8ExtractLaneU | I32x4ExtractLane | I64x2ExtractLane | I8x16Bitmask | I16x8Bitmask
        | I32x4Bitmask | I64x2Bitmask => 2,
        V128AnyTrue | I8x16AllTrue | I16x8AllTrue | I32x4AllTrue | I64x2AllTrue => 3,
        I8x16Ne
        | I8x16LeS
        | I8x16LeU
        | I8x16GeS
        | I8x16GeU
        | I16x8Ne
        | I16x8LeS
        | I16x8LeU
        | I16x8GeS
        | I16x8GeU
        | I32x4Ne
        | I32x4LeS
        | I32x4LeU
        | I32x4GeS
        | I32x4GeU
        | I64x2Ne
        | I64x2LeS
        | I64x2GeS
        | V128Bitselect
        | I16x8ExtendHighI8x16S
        | I32x4ExtendHighI16x8S
        | I64x2ExtendHighI32x4S
        | I8x16Shl
        | I8x16ShrS
        | I8x16ShrU
        | I8x16LtU
        | I8x16GtU
        | I16x8LtU
        | I16x8GtU
        | I32x4LtU
        | I32x4GtU
        | I16x8Q15MulrSatS
        | I16x8ExtMulLowI8x16S
        | I16x8ExtMulHighI8x16S
        | I16x8ExtMulLowI8x16U
        | I16x8ExtMulHighI8x16U
        | I32x4ExtMulLowI16x8S
        | I32x4ExtMulHighI16x8S
        | I32x4ExtMulLowI16x8U
        | I32x4ExtMulHighI16x8U
        | I64x2ExtMulLowI32x4S
        | I64x2ExtMulHighI32x4S
        | I64x2ExtMulLowI32x4U
        | I64x2ExtMulHighI32x4U
        | I32x4ExtAddPairwiseI16x8U => 2,

        _ => 1,
    }
}

/// The proposals that the gate admits.
const ADMITTED: [&str; 6] =
    ["mvp", "sign_extension", "saturating_float_to_int", "bulk_memory", "reference_types", "simd"];

/// Returns each operator that the gate admits, by its name in the text format, with its cost.
pub fn costs() -> impl Iterator<Item = (String, u64)> {
    let admitted = ALL.iter().filter(|(_, proposal, _)| ADMITTED.contains(proposal));
    admitted.map(|(op, _, visit)| (text_name(visit), cost_of(*op)))
}

/// Converts a visitor's name to the name in the text format: `visit_i32_trunc_sat_f32_s` to
/// `i32.trunc_sat_f32_s`. Names of control operators contain no dot.
fn text_name(visit: &str) -> String {
    let name = visit.strip_prefix("visit_").unwrap_or(visit);
    match name {
        "typed_select" | "typed_select_multi" => return name.replace("typed_select", "select_typed"),
        _ => {}
    }
    match name.split_once('_') {
        Some((first @ ("br" | "call" | "return"), rest)) => format!("{first}_{rest}"),
        Some((first, rest)) => format!("{first}.{rest}"),
        None => name.to_owned(),
    }
}
