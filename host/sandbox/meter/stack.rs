//! What a frame is charged: at least what it takes on the stack of any engine.

/// Of what a frame is charged, below.
pub const STACK_RULE_VERSION: u16 = 1;

/// What the frames of a run may come to. Engines are given four times that of native stack.
pub const STACK_BYTES: u64 = 64 << 20;

/// A return address, a frame pointer, saved registers, what the meter itself keeps, and room; so that there are not too
/// many frames (`gas.rs`).
pub const FRAME_MIN_BYTES: u64 = 256;

/// Compilers keep a value in a register or in a slot of at most 16 bytes. What they hoist out of loops and spill is made
/// by the function's operators, so there are no more slots than values that these make.
pub const SLOT_BYTES: u64 = 16;

/// A frame that is larger overdraws any stack.
const FRAME_MAX_BYTES: u64 = 1 << 30;

/// The charge for a function with so many parameters and locals, operands at its deepest, and operators that make values.
pub fn frame_bytes(locals: u64, deepest: u64, values: u64) -> u64 {
    (FRAME_MIN_BYTES + SLOT_BYTES * (locals + deepest + values)).min(FRAME_MAX_BYTES)
}
