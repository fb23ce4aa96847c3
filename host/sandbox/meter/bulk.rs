//! Bulk operators: their work depends on an operand, so they are charged by that operand before
//! they act. `memory.fill` and `memory.copy` act in pieces, so that the deadline is checked between
//! pieces. `memory.grow` is charged after it succeeded, for what it added; a failed one costs only
//! its base.

use wasm_encoder::{BlockType, Function, InstructionSink, ValType};
use wasmparser::Operator;

use super::schedule::BYTES_SHIFT;
use super::state::GAS_OVERDRAWN;

/// Bytes of the largest piece, whose page faults take some milliseconds.
pub const PIECE_BYTES: i32 = 16 << 20;

/// Maximum bytes moved without a poll point. Moving them costs less than [`super::gas::SMALL_MAX`].
pub const SHORT_BYTES: u32 = 4_096;

/// Returns the cost of a fill or copy whose length is a short constant, which is the most common
/// case. Such an operator needs no poll point and no helper.
pub fn short(operators: &[Operator<'_>], at: usize) -> Option<u64> {
    let (Operator::MemoryFill { .. } | Operator::MemoryCopy { .. }) = operators[at] else { return None };
    match operators[at.checked_sub(1)?] {
        Operator::I32Const { value: 0 } => None,
        Operator::I32Const { value } if value as u32 <= SHORT_BYTES => Some(value as u64 >> BYTES_SHIFT),
        _ => None,
    }
}

/// The bulk operators that move bytes in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bulk {
    Fill,
    Copy,
}

/// The maximum charge by an operand. A length beyond all memory, or beyond any table, traps anyway.
pub const PRICE_MASK: i64 = (1 << 28) - 1;

/// Emits code that subtracts the price of `amount`, an `i32` local, from the state. The caller must
/// emit a poll point after it.
pub fn charge(sink: &mut InstructionSink<'_>, state: u32, amount: u32, shift: i64, counter: Option<u32>) {
    sink.local_get(state);
    price(sink, amount, shift);
    sink.i64_sub().local_set(state);
    count(sink, counter, |sink| price(sink, amount, shift));
}

fn price(sink: &mut InstructionSink<'_>, amount: u32, shift: i64) {
    sink.local_get(amount).i64_extend_i32_u().i64_const(shift).i64_shr_u().i64_const(PRICE_MASK).i64_and();
}

/// Emits code that adds a price to the profile counter, if there is one.
pub fn count(sink: &mut InstructionSink<'_>, counter: Option<u32>, price: impl FnOnce(&mut InstructionSink<'_>)) {
    if let Some(counter) = counter {
        sink.global_get(counter);
        price(sink);
        sink.i64_add().global_set(counter);
    }
}

/// Emits a poll point: a call of `refill` if the gas is overdrawn.
pub fn emit_poll(sink: &mut InstructionSink<'_>, state: u32, refill: u32) {
    sink.local_get(state).i64_const(GAS_OVERDRAWN).i64_and().i64_const(0).i64_ne();
    sink.if_(BlockType::Empty).local_get(state).call(refill).local_set(state).end();
}

fn act(sink: &mut InstructionSink<'_>, bulk: Bulk) {
    match bulk {
        Bulk::Fill => sink.memory_fill(0),
        Bulk::Copy => sink.memory_copy(0, 0),
    };
}

/// Emits a fill or copy whose length is short and may be 0. On an untouched page, a fill of length
/// 0 took up to 30 times as long as a copy of length 0. The cause is a masked store in the C
/// library's `memset`. So a copy replaces such a fill; both trap alike out of bounds.
pub fn act_short(sink: &mut InstructionSink<'_>, bulk: Bulk, [to, from, len]: [u32; 3]) {
    if bulk == Bulk::Fill {
        sink.local_get(len).i32_eqz().if_(BlockType::Empty);
        sink.local_get(to).local_get(to).i32_const(0).memory_copy(0, 0).else_();
    }
    sink.local_get(to).local_get(from).local_get(len);
    act(sink, bulk);
    if bulk == Bulk::Fill {
        sink.end();
    }
}

/// Builds a function that takes the destination, the value or source, the length and the state, and
/// returns the state.
pub fn mover(bulk: Bulk, refill: u32, counter: Option<u32>) -> Function {
    let (to, from, len, state, piece) = (0, 1, 2, 3, 4);
    let mut function = Function::new([(1, ValType::I32)]);
    let mut sink = function.instructions();
    let in_memory = |sink: &mut InstructionSink<'_>, at: u32| {
        sink.local_get(at).i64_extend_i32_u().local_get(len).i64_extend_i32_u().i64_add();
        sink.memory_size(0).i64_extend_i32_u().i64_const(16).i64_shl().i64_le_u();
    };
    // Out-of-bounds operators are not split, so that they trap before they write.
    sink.local_get(len).i32_const(PIECE_BYTES).i32_gt_u();
    in_memory(&mut sink, to);
    sink.i32_and();
    if bulk == Bulk::Copy {
        in_memory(&mut sink, from);
        sink.i32_and();
    }
    sink.if_(BlockType::Empty).loop_(BlockType::Empty);
    sink.i32_const(PIECE_BYTES).local_set(piece);
    charge(&mut sink, state, piece, BYTES_SHIFT, counter);
    emit_poll(&mut sink, state, refill);
    let advance = |sink: &mut InstructionSink<'_>, at: u32| {
        sink.local_get(at).i32_const(PIECE_BYTES).i32_add().local_set(at);
    };
    match bulk {
        Bulk::Fill => {
            sink.local_get(to).local_get(from).i32_const(PIECE_BYTES);
            act(&mut sink, bulk);
            advance(&mut sink, to);
        }
        // Copy order follows `memmove`: the end of the source that the destination may overlap is
        // copied first.
        Bulk::Copy => {
            sink.local_get(to).local_get(from).i32_le_u().if_(BlockType::Empty);
            sink.local_get(to).local_get(from).i32_const(PIECE_BYTES);
            act(&mut sink, bulk);
            advance(&mut sink, to);
            advance(&mut sink, from);
            sink.else_();
            for at in [to, from] {
                sink.local_get(at).local_get(len).i32_add().i32_const(PIECE_BYTES).i32_sub();
            }
            sink.i32_const(PIECE_BYTES);
            act(&mut sink, bulk);
            sink.end();
        }
    }
    sink.local_get(len).i32_const(PIECE_BYTES).i32_sub().local_tee(len);
    sink.i32_const(PIECE_BYTES).i32_gt_u().br_if(0).end().end();
    charge(&mut sink, state, len, BYTES_SHIFT, counter);
    emit_poll(&mut sink, state, refill);
    sink.local_get(to).local_get(from).local_get(len);
    act(&mut sink, bulk);
    sink.local_get(state).end();
    function
}
