//! Stack charge of a frame: at least the bytes that the frame takes on the stack of any engine.

/// Version of the rule for the stack charge.
pub const STACK_RULE_VERSION: u16 = 1;

/// Maximum sum of the frames of a run, in bytes. Engines get four times as much native stack.
pub const STACK_BYTES: u64 = 64 << 20;

/// Base charge of a frame: return address, frame pointer, saved registers, the meter's own values,
/// and a reserve. The base also bounds the number of frames (`gas.rs`).
pub const FRAME_MIN_BYTES: u64 = 256;

/// Bytes of a stack slot. Compilers keep a value in a register or in a slot of at most 16 bytes.
/// Values that they hoist out of loops and spill are made by the function's operators. So there are
/// no more slots than values that these operators make.
pub const SLOT_BYTES: u64 = 16;

/// Maximum charge of a frame. A larger frame overdraws any stack.
const FRAME_MAX_BYTES: u64 = 1 << 30;

/// Returns the stack charge of a function. `locals` includes parameters, `deepest` is the maximum
/// operand stack height, and `values` counts operators that make values.
pub fn frame_bytes(locals: u64, deepest: u64, values: u64) -> u64 {
    (FRAME_MIN_BYTES + SLOT_BYTES * (locals + deepest + values)).min(FRAME_MAX_BYTES)
}
