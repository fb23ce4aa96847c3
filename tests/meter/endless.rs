//! Guests without an end. Their gas or their stack ends them, at the same instruction on every
//! engine.

use compute_host::sandbox::meter::{QUANTUM, SMALL_MAX, UNCHECKED_MAX};

use crate::engines::{Stop, Value, alike, alike_compiled};

/// Less than a grant, exactly one, and more than one.
const TOTALS: [u64; 4] = [0, 1_000, QUANTUM, 2 * QUANTUM + 12_345];

/// Asserts that `body` of a function `run` ends by its gas. `beside` has functions that it may
/// call.
fn ends_by_gas(body: &str, beside: &str) {
    let wasm = wat::parse_str(format!(
        "(module (memory (export \"memory\") 1 2) (global $count (export \"count\") (mut i64) (i64.const 0))
           (table 4 funcref)
           (func $one (global.set $count (i64.add (global.get $count) (i64.const 1))))
           (func $run (export \"run\") (local i32 i64 f64) {body}) {beside})"
    ))
    .unwrap();
    let mut counts = TOTALS.map(|total| {
        let seen = alike(&wasm, "run", &[], total);
        assert_eq!(seen.ran.ended, Err(Stop::OutOfGas), "{body} with {total}");
        assert_eq!(seen.ran.gas, total, "{body}: all of it was granted");
        match seen.count {
            Some(Value::I64(count)) => count,
            count => panic!("{count:?}"),
        }
    });
    assert!(counts.is_sorted(), "{body}: {counts:?}");
    counts.reverse();
    // The cost of an iteration bounds their number.
    assert!(counts[0] <= TOTALS[3], "{body}: {counts:?} turns are not paid for");
}

#[test]
fn a_loop_with_nothing_in_it() {
    ends_by_gas("(loop (br 0))", "");
}

#[test]
fn a_loop_that_counts() {
    ends_by_gas("(loop (global.set $count (i64.add (global.get $count) (i64.const 1))) (br 0))", "");
}

#[test]
fn a_loop_that_is_left_and_entered_again() {
    ends_by_gas("(loop (block (loop (call $one) (br 1))) (br 0))", "");
}

#[test]
fn a_loop_with_a_condition_that_always_holds() {
    ends_by_gas("(loop (call $one) (br_if 0 (i32.const 1)))", "");
}

#[test]
fn a_loop_by_a_table_of_branches() {
    ends_by_gas(
        "(loop (call $one) (block (br_table 1 0 1 (local.tee 0 (i32.xor (local.get 0) (i32.const 1))))) (br 0))",
        "",
    );
}

#[test]
fn a_loop_of_a_table_of_branches_by_its_default() {
    ends_by_gas("(loop (call $one) (br_table 0 (i32.const 7)))", "");
}

#[test]
fn a_loop_through_both_arms_of_an_if() {
    ends_by_gas("(loop (if (local.tee 0 (i32.eqz (local.get 0))) (then (call $one) (br 1)) (else (br 1))))", "");
}

#[test]
fn a_loop_with_operands_that_go_round() {
    ends_by_gas(
        "(i64.const 0) (loop (param i64) (i64.const 1) i64.add global.set $count global.get $count (br 0)) unreachable",
        "",
    );
}

#[test]
fn loops_in_loops() {
    ends_by_gas("(loop (loop (loop (call $one) (br_if 0 (i32.const 0)) (br_if 1 (i32.const 0)) (br 2))))", "");
}

#[test]
fn a_loop_of_memory_grow_that_fails() {
    ends_by_gas("(loop (call $one) (drop (memory.grow (i32.const 65536))) (br 0))", "");
}

#[test]
fn a_loop_of_bulk_operators_that_move_nothing() {
    ends_by_gas(
        "(loop (call $one) (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))
           (memory.copy (i32.const 0) (i32.const 0) (i32.const 0))
           (table.copy (i32.const 0) (i32.const 0) (i32.const 0)) (br 0))",
        "",
    );
}

#[test]
fn a_loop_of_bulk_operators() {
    ends_by_gas(
        "(loop (call $one)
           (memory.fill (i32.const 0) (i32.wrap_i64 (global.get $count)) (i32.const 65536))
           (memory.copy (i32.const 1) (i32.const 0) (i32.const 65535)) (br 0))",
        "",
    );
}

#[test]
fn a_loop_of_calls_through_a_table() {
    ends_by_gas(
        "(loop (call_indirect (i32.const 2)) (call_indirect (i32.const 3)) (br 0))",
        "(elem (i32.const 2) $one $one)",
    );
}

#[test]
fn a_tree_of_calls_that_is_wide_and_not_deep() {
    let level = |at: usize| format!("(func $f{at} (call $f{0}) (call $f{0}) (call $f{0}) (call $f{0}))", at + 1);
    let levels: String = (0..30).map(level).collect();
    ends_by_gas("(call $f0)", &format!("{levels} (func $f30 (call $one))"));
}

/// A loop with an end shows how soon it is stopped. If it is not stopped, the test still ends.
#[test]
fn a_loop_that_would_end_is_stopped_where_its_gas_is_spent() {
    const TURNS: u32 = 200_000;
    const NEXT: &str = "(local.tee 0 (i32.sub (local.get 0) (i32.const 1)))";
    for body in [
        "(loop (br_if 0 NEXT))",
        "(loop (call $one) (br_if 0 NEXT))",
        "(block (loop (br_if 1 (i32.eqz NEXT)) (br 0)))",
        "(loop (if NEXT (then (br 1))))",
        "(loop (if (i32.eqz NEXT) (then) (else (br 1))))",
        "(block (loop (br_table 1 0 NEXT)))",
        "(loop (loop (br_if 1 NEXT)))",
        "(loop (block (loop (br_if 1 (i32.const 1)))) (br_if 0 NEXT))",
    ] {
        let wasm = wat::parse_str(format!(
            "(module (global $count (mut i32) (i32.const 0))
              (func $one (global.set $count (i32.add (global.get $count) (i32.const 1))))
              (func (export \"run\") (param i32) {}))",
            body.replace("NEXT", NEXT)
        ))
        .unwrap();
        for total in [0, 1_000, QUANTUM] {
            let seen = alike_compiled(&wasm, "run", &[Value::I32(TURNS)], total);
            assert_eq!(seen.ran.ended, Err(Stop::OutOfGas), "{body} with {total}");
            let bound = 2 * UNCHECKED_MAX + 2 * SMALL_MAX;
            assert!(seen.overdrawn <= bound, "{body} with {total}: {} units behind the end", seen.overdrawn);
        }
    }
}

/// Asserts that `body` ends by its stack. `body` belongs to a function `run` with a number as
/// parameter, which counts its calls.
fn ends_by_stack(body: &str, beside: &str) {
    let wasm = wat::parse_str(format!(
        "(module (global $count (export \"count\") (mut i32) (i32.const 0)) (table 4 funcref) (type $t (func (param i32) (result i32)))
           (func $run (export \"run\") (type $t) (local i64 f64 v128)
             (global.set $count (i32.add (global.get $count) (i32.const 1))) {body})
           {beside} (elem (i32.const 1) $run))"
    ))
    .unwrap();
    let seen = alike(&wasm, "run", &[Value::I32(5)], 1 << 40);
    assert_eq!(seen.ran.ended, Err(Stop::OutOfStack), "{body}");
    let Some(Value::I32(count)) = seen.count else { panic!("{:?}", seen.count) };
    assert!(count > 50_000, "{body}: a stack of {count} frames is shallow");
}

#[test]
fn recursion_without_end() {
    ends_by_stack("(call $run (local.get 0))", "");
}

#[test]
fn recursion_that_has_work_left_to_do() {
    ends_by_stack("(i32.add (local.get 0) (call $run (i32.sub (local.get 0) (i32.const 1))))", "");
}

#[test]
fn recursion_through_a_table() {
    ends_by_stack("(call_indirect (type $t) (local.get 0) (i32.const 1))", "");
}

#[test]
fn mutual_recursion_through_a_table() {
    ends_by_stack(
        "(call $other (i32.const 1))",
        "(func $other (param i32) (result i32) (call_indirect (type $t) (local.get 0) (local.get 0)))",
    );
}

#[test]
fn recursion_out_of_a_loop() {
    ends_by_stack("(loop (result i32) (call $run (local.get 0)) (br_if 0 (i32.const 1)))", "");
}
