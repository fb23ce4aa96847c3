//! Role of each operator in the rule for NaNs: how it reads floats, and which floats it makes.

use wasmparser::Operator;

use super::schedule::{Op, op};

/// A set of shapes in which arithmetic reads values.
pub type Shapes = u8;

pub const F32: Shapes = 1;
pub const F64: Shapes = 2;
pub const F32X4: Shapes = 4;
pub const F64X2: Shapes = 8;

/// The role of an operator in [`super::nan`]: how it reads floats, and which floats it makes.
pub struct Role {
    /// The shape in which the operator reads floats without observing their bits. `None` if it
    /// observes the bits, as every unlisted operator does.
    pub reads: Option<Shapes>,
    pub makes: Option<Shapes>,
    /// Whether its result is never a NaN.
    pub is_number: bool,
}

pub fn role(operator: &Operator<'_>) -> Role {
    use Op::*;
    let (reads, makes, is_number) = match op(operator) {
        F32Add | F32Sub | F32Mul | F32Div | F32Sqrt | F32Min | F32Max | F32Ceil | F32Floor | F32Trunc | F32Nearest => {
            (Some(F32), Some(F32), false)
        }
        F64Add | F64Sub | F64Mul | F64Div | F64Sqrt | F64Min | F64Max | F64Ceil | F64Floor | F64Trunc | F64Nearest => {
            (Some(F64), Some(F64), false)
        }
        F32x4Add | F32x4Sub | F32x4Mul | F32x4Div | F32x4Sqrt | F32x4Min | F32x4Max | F32x4Ceil | F32x4Floor
        | F32x4Trunc | F32x4Nearest => (Some(F32X4), Some(F32X4), false),
        F64x2Add | F64x2Sub | F64x2Mul | F64x2Div | F64x2Sqrt | F64x2Min | F64x2Max | F64x2Ceil | F64x2Floor
        | F64x2Trunc | F64x2Nearest => (Some(F64X2), Some(F64X2), false),
        F32DemoteF64 => (Some(F64), Some(F32), false),
        F64PromoteF32 => (Some(F32), Some(F64), false),
        F32x4DemoteF64x2Zero => (Some(F64X2), Some(F32X4), false),
        F64x2PromoteLowF32x4 => (Some(F32X4), Some(F64X2), false),
        F32Eq | F32Ne | F32Lt | F32Gt | F32Le | F32Ge | I32TruncF32S | I32TruncF32U | I64TruncF32S | I64TruncF32U
        | I32TruncSatF32S | I32TruncSatF32U | I64TruncSatF32S | I64TruncSatF32U => (Some(F32), None, false),
        F64Eq | F64Ne | F64Lt | F64Gt | F64Le | F64Ge | I32TruncF64S | I32TruncF64U | I64TruncF64S | I64TruncF64U
        | I32TruncSatF64S | I32TruncSatF64U | I64TruncSatF64S | I64TruncSatF64U => (Some(F64), None, false),
        F32x4Eq | F32x4Ne | F32x4Lt | F32x4Gt | F32x4Le | F32x4Ge | I32x4TruncSatF32x4S | I32x4TruncSatF32x4U => {
            (Some(F32X4), None, false)
        }
        F64x2Eq
        | F64x2Ne
        | F64x2Lt
        | F64x2Gt
        | F64x2Le
        | F64x2Ge
        | I32x4TruncSatF64x2SZero
        | I32x4TruncSatF64x2UZero => (Some(F64X2), None, false),
        F32ConvertI32S | F32ConvertI32U | F32ConvertI64S | F32ConvertI64U => (None, Some(F32), true),
        F64ConvertI32S | F64ConvertI32U | F64ConvertI64S | F64ConvertI64U => (None, Some(F64), true),
        F32x4ConvertI32x4S | F32x4ConvertI32x4U => (None, Some(F32X4), true),
        F64x2ConvertLowI32x4S | F64x2ConvertLowI32x4U => (None, Some(F64X2), true),
        _ => (None, None, false),
    };
    Role { reads, makes, is_number }
}
