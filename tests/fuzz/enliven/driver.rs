//! New `run`, and the functions that are called before it.

use wasm_encoder::{BlockType, Function, HeapType, Ieee32, Ieee64, InstructionSink, MemArg, ValType};
use wasmparser::ValType as Parsed;

use super::numbers::{DOUBLES, INTEGERS, SINGLES, doubles, singles};
use super::{ADDRESS_MASK, Enliven, SLOTS};

/// Number of loops and calls that one call of a function may begin.
const PATIENCE: i32 = 60;

/// Locals: the number of rounds, a random number, and one for a value of each type.
const ROUND: u32 = 0;
const RANDOM: u32 = 1;
const HELD: [(Parsed, ValType, u32); 5] = [
    (Parsed::I32, ValType::I32, 2),
    (Parsed::I64, ValType::I64, 3),
    (Parsed::F32, ValType::F32, 4),
    (Parsed::F64, ValType::F64, 5),
    (Parsed::V128, ValType::V128, 6),
];

const FACTOR: i64 = 6_364_136_223_846_793_005;
const SUMMAND: i64 = 1_442_695_040_888_963_407;

/// Maximum number of the module's functions that are called before `run`.
const STARTED_MAX: u32 = 3;

pub fn driver(pass: &mut Enliven) -> Function {
    let mut function = begun(pass);
    let mut sink = function.instructions();
    sink.loop_(BlockType::Empty);
    for own in pass.own() {
        call(pass, own, &mut sink);
    }
    sink.local_get(ROUND).i32_const(1).i32_add().local_tee(ROUND);
    sink.i32_const(pass.manner.rounds as i32).i32_lt_u().br_if(0).end();
    output(pass, 100, &mut sink);
    if pass.below(2) == 0 {
        sink.i32_const(pass.below(1 << 15) as i32).call(import(pass, "proof_commit"));
    }
    sink.i32_const(i32::from(pass.manner.fails)).end();
    function
}

/// Returns a function that is called before the new `run`, and does a smaller part of the same.
pub fn starter(pass: &mut Enliven) -> Function {
    let mut function = begun(pass);
    let mut sink = function.instructions();
    for _ in 0..pass.below(STARTED_MAX + 1) {
        let own = pass.own();
        let one = own.start + pass.below(own.end - own.start);
        call(pass, one, &mut sink);
    }
    if pass.below(2) == 0 {
        output(pass, 10, &mut sink);
    }
    sink.end();
    function
}

/// Begins a function with the locals, and initialises the table and the random number.
fn begun(pass: &Enliven) -> Function {
    let locals = [ValType::I32, ValType::I64].into_iter().chain(HELD.map(|(_, ty, _)| ty));
    let mut function = Function::new(locals.map(|ty| (1, ty)).collect::<Vec<_>>());
    let mut sink = function.instructions();
    for (slot, own) in (0..SLOTS as i32).zip(pass.own()) {
        sink.i32_const(slot).ref_func(own).table_set(0);
    }
    sink.i64_const(pass.manner.seed as i64).local_set(RANDOM);
    function
}

/// Calls one of the module's functions with arguments of all kinds, and stores the results.
fn call(pass: &mut Enliven, own: u32, sink: &mut InstructionSink<'_>) {
    sink.i32_const(PATIENCE).global_set(pass.patience());
    sink.local_get(RANDOM).i64_const(FACTOR).i64_mul().i64_const(SUMMAND).i64_add().local_set(RANDOM);
    let signature = pass.signature(own).clone();
    for param in signature.params() {
        argument(pass, *param, sink);
    }
    sink.call(own);
    for (at, result) in signature.results().iter().enumerate().rev() {
        keep(*result, at as u64, sink);
    }
}

/// Outputs `length` bytes of memory.
fn output(pass: &mut Enliven, length: i32, sink: &mut InstructionSink<'_>) {
    sink.i32_const(pass.below(1 << 15) as i32).i32_const(length).call(import(pass, "output_write"));
}

fn import(pass: &Enliven, name: &str) -> u32 {
    pass.imports.iter().position(|import| import == name).expect("all are imported") as u32
}

/// Pushes an argument of this type on the operand stack.
fn argument(pass: &mut Enliven, ty: Parsed, sink: &mut InstructionSink<'_>) {
    let (way, which) = (pass.below(4), pass.below(1 << 20) as usize);
    let turned = i64::from(pass.below(64));
    let random = |sink: &mut InstructionSink<'_>| {
        sink.local_get(RANDOM).i64_const(turned).i64_rotl();
    };
    match (ty, way) {
        (Parsed::I32, 0) => {
            sink.i32_const(INTEGERS[which % INTEGERS.len()] as i32);
        }
        (Parsed::I32, 1) => {
            sink.local_get(ROUND);
        }
        (Parsed::I32, _) => {
            random(sink);
            sink.i32_wrap_i64();
            if way == 2 {
                sink.i32_const(0xff).i32_and();
            }
        }
        (Parsed::I64, 0) => {
            sink.i64_const(INTEGERS[which % INTEGERS.len()]);
        }
        (Parsed::I64, _) => random(sink),
        (Parsed::F32, 0 | 1) => {
            sink.f32_const(Ieee32::new(SINGLES[which % SINGLES.len()]));
        }
        (Parsed::F32, 2) => {
            sink.local_get(ROUND).f32_convert_i32_s();
        }
        (Parsed::F32, _) => {
            random(sink);
            sink.i32_wrap_i64().f32_reinterpret_i32();
        }
        (Parsed::F64, 0 | 1) => {
            sink.f64_const(Ieee64::new(DOUBLES[which % DOUBLES.len()]));
        }
        (Parsed::F64, 2) => {
            sink.local_get(ROUND).f64_convert_i32_s();
        }
        (Parsed::F64, _) => {
            random(sink);
            sink.f64_reinterpret_i64();
        }
        (Parsed::V128, 0) => {
            sink.v128_const(singles(which as u32));
        }
        (Parsed::V128, 1) => {
            sink.v128_const(doubles(which as u32));
        }
        (Parsed::V128, _) => {
            random(sink);
            sink.i64x2_splat().v128_const(i128::from(INTEGERS[which % INTEGERS.len()])).v128_xor();
        }
        (Parsed::Ref(_), 0) => {
            sink.ref_null(HeapType::FUNC);
        }
        (Parsed::Ref(_), _) => {
            let own = pass.own();
            sink.ref_func(own.start + which as u32 % (own.end - own.start));
        }
    }
}

/// Stores the top of the operand stack in memory. For a reference, it stores whether the reference
/// is null.
fn keep(ty: Parsed, at: u64, sink: &mut InstructionSink<'_>) {
    if ty.is_reference_type() {
        sink.ref_is_null();
    }
    let ty = if ty.is_reference_type() { Parsed::I32 } else { ty };
    let (_, _, held) = HELD.into_iter().find(|(held, ..)| *held == ty).expect("there is one for each type");
    sink.local_set(held);
    sink.local_get(RANDOM).i64_const(20).i64_shr_u().i32_wrap_i64().i32_const(ADDRESS_MASK).i32_and().local_get(held);
    let to = MemArg { offset: 8 * at, align: 0, memory_index: 0 };
    match ty {
        Parsed::I32 => sink.i32_store(to),
        Parsed::I64 => sink.i64_store(to),
        Parsed::F32 => sink.f32_store(to),
        Parsed::F64 => sink.f64_store(to),
        _ => sink.v128_store(to),
    };
}
