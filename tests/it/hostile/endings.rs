//! Guests that never end, exhaust the stack, or trap.

use compute_host::limits::Limits;
use compute_host::sandbox::{Input, Invocation, Outcome, Sandbox, Trap};

use super::{ARGS, admitted, ends, guest_file, open};

#[test]
fn endings_have_names() {
    for (attack, body, outcome) in [
        ("none", "(i32.const 0)", Outcome::Done),
        ("a failure of its own", "(i32.const 7)", Outcome::Failed(7)),
        ("a negative failure", "(i32.const -1)", Outcome::Failed(-1)),
        ("the least failure", "(i32.const 0x80000000)", Outcome::Failed(i32::MIN)),
    ] {
        ends(attack, body, outcome);
    }
}

#[test]
fn what_webassembly_forbids_is_a_trap_with_a_name() {
    for (attack, body, trap) in [
        ("unreachable", "unreachable", Trap::Unreachable),
        ("a load across the end", "(i32.load (i32.const 65533))", Trap::MemoryOutOfBounds),
        ("a load far beyond the end", "(i32.load (i32.const -4))", Trap::MemoryOutOfBounds),
        ("the farthest address there is", "(i32.load offset=4294967295 (i32.const -1))", Trap::MemoryOutOfBounds),
        ("a wide load across the end", "(i32x4.extract_lane 0 (v128.load (i32.const 65521)))", Trap::MemoryOutOfBounds),
        (
            "a store across the end",
            "(i64.store (i32.const 65529) (i64.const -1)) (i32.const 0)",
            Trap::MemoryOutOfBounds,
        ),
        (
            "a store whose offset wraps",
            "(i32.store8 offset=4294967295 (i32.const 1) (i32.const 1)) (i32.const 0)",
            Trap::MemoryOutOfBounds,
        ),
        ("division by zero", "(i32.div_s (i32.const 1) (i32.const 0))", Trap::IntegerDivideByZero),
        (
            "a long remainder by zero",
            "(i32.wrap_i64 (i64.rem_u (i64.const 1) (i64.const 0)))",
            Trap::IntegerDivideByZero,
        ),
        ("a quotient too large", "(i32.div_s (i32.const 0x80000000) (i32.const -1))", Trap::IntegerOverflow),
        ("a NaN as an integer", "(i32.trunc_f32_s (f32.const nan))", Trap::InvalidConversionToInteger),
        ("an infinity as an integer", "(i32.trunc_f64_u (f64.const inf))", Trap::IntegerOverflow),
        ("a call of null", "(call_indirect (result i32) (i32.const 0))) (table 1 funcref", Trap::IndirectCallToNull),
        (
            "a call beyond the table",
            "(call_indirect (result i32) (i32.const 9))) (table 1 funcref",
            Trap::TableOutOfBounds,
        ),
        (
            "a call far beyond the table",
            "(call_indirect (result i32) (i32.const -1))) (table 1 funcref",
            Trap::TableOutOfBounds,
        ),
        (
            "a call by another signature",
            "(call_indirect (result i32) (i32.const 0))) (func $f) (table funcref (elem $f)",
            Trap::IndirectCallSignature,
        ),
        (
            "a host function by another signature",
            "(call_indirect (result i32) (i32.const 0))) (table funcref (elem $proof_commit)",
            Trap::IndirectCallSignature,
        ),
    ] {
        ends(attack, body, Outcome::Trap(trap));
    }
}

#[test]
fn what_never_ends_is_ended() {
    let branches = "0 ".repeat(1000);
    for (attack, body) in [
        ("a loop", "(loop $again (br $again)) (i32.const 0)".to_owned()),
        ("a loop of what costs nothing", "(loop $again nop nop block end (br $again)) (i32.const 0)".to_owned()),
        ("a conditional loop", "(loop $again (br_if $again (i32.const 1))) (i32.const 0)".to_owned()),
        ("a table of branches back", format!("(loop (br_table {branches} (i32.const 77))) (i32.const 0)")),
        ("a loop in a loop", "(loop $a (loop $b (br_if $b (i32.const 0)) (br $a))) (i32.const 0)".to_owned()),
        ("a loop that calls", "(loop $again (call $f) (br $again)) (i32.const 0)) (func $f".to_owned()),
        (
            "a loop that calls by the table",
            "(loop $again (call_indirect (i32.const 0)) (br $again)) (i32.const 0))
             (func $f) (table funcref (elem $f)"
                .to_owned(),
        ),
        ("a loop that calls the host", "(loop $l (drop (call $input_len)) (br $l)) (i32.const 0)".to_owned()),
        (
            "a loop that grows by nothing",
            "(loop $l (drop (memory.grow (i32.const 0))) (br $l)) (i32.const 0)".to_owned(),
        ),
        (
            "a loop that is refused growth",
            "(loop $l (drop (memory.grow (i32.const -1))) (br $l)) (i32.const 0)".to_owned(),
        ),
        (
            "a table that is refused growth",
            "(loop $l (drop (table.grow $t (ref.null func) (i32.const -1))) (br $l)) (i32.const 0))
             (table $t 1 funcref"
                .to_owned(),
        ),
        (
            "a tree of calls",
            "(call $f (i32.const 64)) (i32.const 0)) (func $f (param i32)
               (if (local.get 0) (then
                 (call $f (i32.sub (local.get 0) (i32.const 1)))
                 (call $f (i32.sub (local.get 0) (i32.const 1)))))"
                .to_owned(),
        ),
    ] {
        ends(attack, &body, Outcome::OutOfGas);
    }
}

#[test]
fn calls_without_end_end() {
    let locals = "(local v128) ".repeat(500);
    let (sets, sum) = (
        (0..500).map(|i| format!("(local.set {i} (v128.load (i32.const {i})))")).collect::<String>(),
        (0..500).map(|i| format!("(v128.store (i32.const {i}) (local.get {i}))")).collect::<String>(),
    );
    for (attack, body) in [
        (
            "a function that calls itself",
            "(call $deeper)) (func $deeper (result i32) (i32.add (call $deeper) (i32.const 1))".to_owned(),
        ),
        (
            "two that call each other",
            "(call $a)) (func $a (result i32) (i32.add (call $b) (i32.const 1)))
             (func $b (result i32) (i32.add (call $a) (i32.const 1))"
                .to_owned(),
        ),
        (
            "one that calls itself by the table",
            "(call $f)) (table funcref (elem $f))
             (func $f (result i32) (i32.add (call_indirect (result i32) (i32.const 0)) (i32.const 1))"
                .to_owned(),
        ),
        ("`run` that calls itself", "(i32.add (call 13) (i32.const 1))".to_owned()),
        (
            "frames of 8 KB",
            format!("(call $f)) (func $f (result i32) {locals} {sets} (drop (call $f)) {sum} (i32.const 1)"),
        ),
        ("64 parameters and results", {
            let (values, zeros) = ("i64 ".repeat(64), "(i64.const 0)".repeat(64));
            format!(
                "{zeros} (call $f) {} (i32.const 0)) (func $f (param {values}) (result {values}) {} (call $f) {}
                     {zeros}",
                "drop ".repeat(64),
                (0..64).map(|i| format!("(local.get {i})")).collect::<String>(),
                "drop ".repeat(64),
            )
        }),
    ] {
        ends(attack, &body, Outcome::OutOfStack);
    }
}

/// A host call at the very end of the guest's stack runs on the host's own stack.
#[test]
fn a_host_call_from_the_deepest_frame_works() {
    ends(
        "hashing at every depth",
        "(call $f)) (func $f (result i32)
           (call $blake3 (i32.const 0) (i32.const 64) (i32.const 0)) (i32.add (call $f) (i32.const 1))",
        Outcome::OutOfStack,
    );
}

/// The memory, globals and tables of one run must not be visible to the next, even in the same slot
/// of the pool.
#[test]
fn no_run_sees_what_another_left() {
    let module = admitted(&guest_file("remembers.wat"));
    let sandbox = Sandbox::new(1).unwrap();
    let program = sandbox.compile(&module).unwrap();
    for _ in 0..3 {
        let input: Box<dyn Input> = Box::new(open());
        let work = Invocation { args: ARGS.into(), ..Invocation::new(input, Limits::DEFAULT) };
        assert_eq!(sandbox.run(&program, work).unwrap().outcome, Outcome::Done);
    }
}

/// The processor chooses the payload of a NaN, and no proof may depend on it.
#[test]
fn a_nan_has_one_form() {
    ends(
        "the payload of a NaN",
        "(i32.ne (i32.reinterpret_f32 (f32.div (f32.const 0) (f32.const 0))) (i32.const 0x7fc00000))",
        Outcome::Done,
    );
}
