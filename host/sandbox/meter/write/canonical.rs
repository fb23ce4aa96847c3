//! Canonical NaNs: code that replaces a NaN on top of the operand stack by the canonical one.

use wasm_encoder::{BlockType, Ieee32, Ieee64, InstructionSink};

use super::{BodyWriter, Temporary};
use crate::sandbox::meter::role::{F32, F32X4, F64, Shapes};

const CANONICAL_F32: u32 = 0x7fc0_0000;
const CANONICAL_F64: u64 = 0x7ff8_0000_0000_0000;

/// Maximum places in a body that use a branch. A body with more places uses a `select` at each. A
/// branch that is never taken costs a run less time. But each branch is three basic blocks, and the
/// compiler's work grows faster than their number.
const BRANCHES_MAX: usize = 64;

impl BodyWriter<'_> {
    /// Makes the top value canonical, in a body with `places` such places.
    pub fn canonicalise(&mut self, shape: Shapes, places: usize) {
        let is_branch = places <= BRANCHES_MAX;
        let temporary = self.temporary(match shape {
            F32 => Temporary::F32,
            F64 => Temporary::F64,
            _ => Temporary::V128,
        });
        match (shape, is_branch) {
            (F32 | F64, false) => self.select(shape, temporary),
            (_, false) => {
                let mut sink = self.sink();
                sink.local_set(temporary);
                select_lanes(&mut sink, shape, temporary);
            }
            (_, true) => self.branch(shape, temporary),
        }
    }

    /// Writes a `select` between the value and the canonical NaN. The condition comes from a local,
    /// because wasmi 2.0.0 otherwise loses the condition of a `select`.
    fn select(&mut self, shape: Shapes, temporary: u32) {
        let is_number = self.temporary(Temporary::IsNumber);
        let mut sink = self.sink();
        sink.local_tee(temporary).local_get(temporary);
        compare(&mut sink, shape);
        sink.local_set(is_number).local_get(temporary);
        canonical(&mut sink, shape);
        sink.local_get(is_number).select();
    }

    fn branch(&mut self, shape: Shapes, temporary: u32) {
        let mut sink = self.sink();
        sink.local_tee(temporary).local_get(temporary);
        match shape {
            F32 | F64 => compare(&mut sink, shape),
            F32X4 => drop(sink.f32x4_eq().i32x4_all_true()),
            _ => drop(sink.f64x2_eq().i64x2_all_true()),
        }
        self.hints.push((self.bytes.len(), 1));
        let mut sink = self.sink();
        sink.if_(BlockType::Empty).else_();
        match shape {
            F32 | F64 => canonical(&mut sink, shape),
            _ => select_lanes(&mut sink, shape, temporary),
        }
        sink.local_set(temporary).end().local_get(temporary);
    }
}

/// Writes the comparison that is false only for a NaN and that needs just one processor flag.
fn compare(sink: &mut InstructionSink<'_>, shape: Shapes) {
    if shape == F32 {
        sink.f32_ge()
    } else {
        sink.f64_ge()
    };
}

fn canonical(sink: &mut InstructionSink<'_>, shape: Shapes) {
    match shape {
        F32 => sink.f32_const(Ieee32::new(CANONICAL_F32)),
        _ => sink.f64_const(Ieee64::new(CANONICAL_F64)),
    };
}

/// Replaces each NaN lane of the vector in `temporary` by the canonical NaN, and pushes the result.
fn select_lanes(sink: &mut InstructionSink<'_>, shape: Shapes, temporary: u32) {
    let of = |lane: &[u8]| i128::from_le_bytes(std::array::from_fn(|at| lane[at % lane.len()]));
    let canonical = if shape == F32X4 { of(&CANONICAL_F32.to_le_bytes()) } else { of(&CANONICAL_F64.to_le_bytes()) };
    sink.local_get(temporary).v128_const(canonical).local_get(temporary).local_get(temporary);
    if shape == F32X4 {
        sink.f32x4_eq()
    } else {
        sink.f64x2_eq()
    };
    sink.v128_bitselect();
}
