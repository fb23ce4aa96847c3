//! Frames that a call comes back to go on with what they had left to do. A full stack of them does so one after another,
//! and what they spend is looked at: each way back is charged when it is gone, and ends where the gas does.

use compute_host::sandbox::meter::{RETURN_MAX, SMALL_MAX, UNCHECKED_MAX};

use crate::engines::{Stop, Value, alike_compiled};

/// How many frames wait.
const DEPTH: u32 = 4_000;

/// What a frame does when it is its turn, in each form in which it can be written, with `step` for its work: it counts
/// itself once, and spends at least some hundreds of units.
const WAYS: [(&str, &str); 8] = [
    ("in a row", "(call $deeper) WORK (call $count)"),
    ("in a block", "(block (call $deeper)) (block (br_if 0 (i32.const 0)) WORK) (call $count)"),
    ("behind a branch", "(block (br_if 0 (i32.const 0)) (call $deeper) (br_if 0 (i32.const 0)) WORK) (call $count)"),
    ("in both arms", "(if (global.get $one) (then (call $deeper)) (else (nop))) WORK (call $count)"),
    ("in a loop", "(local $turn i32) (call $deeper)
        (loop (br_if 0 (i32.lt_u (local.tee $turn (i32.add (local.get $turn) (i32.const 1))) (i32.const 200)))) (call $count)"),
    ("in small functions", "(call $deeper) SMALL (call $count)"),
    ("in functions that call", "(call $deeper) (call $calls) (call $calls) (call $calls) (call $calls) (call $count)"),
    ("before it returns early", "(call $deeper) (call $count) WORK (return)"),
];

/// How a frame comes to the next one.
const CALLS: [(&str, &str); 4] = [
    ("itself", "(call $frame)"),
    ("a function that calls it", "(call $other)"),
    ("through a table", "(call_indirect (i32.const 0))"),
    ("a function that calls through a table", "(call $through)"),
];

fn module(way: &str, call: &str) -> Vec<u8> {
    let body = way
        .replace("WORK", &"(elem.drop $e) ".repeat(70))
        .replace("SMALL", &"(call $small) ".repeat(9))
        .replace("(call $deeper)", &format!("(if (call $goes_on) (then {call}))"));
    let text = format!(
        r#"(module (table 2 funcref) (elem (i32.const 0) $frame) (elem $e func $small)
          (global $done (export "count") (mut i32) (i32.const 0)) (global $left (mut i32) (i32.const 0))
          (global $one (mut i32) (i32.const 1))
          (func $count (global.set $done (i32.add (global.get $done) (i32.const 1))))
          (func $goes_on (result i32)
            (global.set $left (i32.sub (global.get $left) (i32.const 1))) (i32.ge_s (global.get $left) (i32.const 0)))
          (func $small (elem.drop $e) (elem.drop $e) (elem.drop $e) (elem.drop $e) (elem.drop $e) (elem.drop $e))
          (func $calls (call $small) (call $small) (call $small))
          (func $other (call $frame))
          (func $through (call_indirect (i32.const 0)))
          (func $frame {body})
          (func (export "run") (param i32) (global.set $left (local.get 0)) (call $frame)))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Runs to `DEPTH` frames, and tells the gas and how many came back.
fn ran(wasm: &[u8], depth: u32, total: u64) -> (Result<(), Stop>, u64, u32) {
    let seen = alike_compiled(wasm, "run", &[Value::I32(depth)], total);
    let Some(Value::I32(count)) = seen.count else { panic!("{:?}", seen.count) };
    (seen.ran.ended.map(drop), seen.ran.gas, count)
}

#[test]
fn a_full_stack_is_looked_at_on_its_way_back() {
    for (way, body) in WAYS {
        for (how, call) in CALLS {
            let wasm = module(body, call);
            let (ended, all, count) = ran(&wasm, DEPTH, 1 << 40);
            assert_eq!((ended, count), (Ok(()), DEPTH + 1), "{way}, {how}");
            let a_frame = all / u64::from(DEPTH + 1);
            assert!(a_frame > 300, "{way}, {how}: a frame spends {a_frame}");
            // Most of what a frame spends, it spends when it is come back to.
            for missing in [all / 4, all / 2] {
                let (ended, gas, count) = ran(&wasm, DEPTH, all - missing);
                assert_eq!((ended, gas), (Err(Stop::OutOfGas), all - missing), "{way}, {how}");
                // Those whose work was not paid for and who did it all the same.
                let unpaid = RETURN_MAX * u64::from(DEPTH) + 20 * (2 * UNCHECKED_MAX + 2 * SMALL_MAX);
                let frames_missing = u64::from(DEPTH + 1 - count);
                let spent_after = missing.saturating_sub(frames_missing * a_frame);
                assert!(spent_after <= unpaid, "{way}, {how}: {spent_after} units behind the end, of {missing}");
                // It is not charged before the way back either: some have come back by now.
                assert!(count > DEPTH / 4, "{way}, {how}: only {count} came back for {} of {all}", all - missing);
            }
        }
    }
}

/// A chain of functions that call each other once is as deep as there are functions.
#[test]
fn a_chain_of_many_functions_is_looked_at_on_its_way_back() {
    const FUNCTIONS: usize = 300;
    let work = "(elem.drop $e) ".repeat(75);
    let functions: String = (0..FUNCTIONS)
        .map(|at| {
            format!("(func $f{at} (block (call $f{})) (block (br_if 0 (i32.const 0)) {work}) (call $count))", at + 1)
        })
        .collect();
    let wasm = wat::parse_str(format!(
        r#"(module (elem $e func $count) (global $done (export "count") (mut i32) (i32.const 0))
          (func $count (global.set $done (i32.add (global.get $done) (i32.const 1))))
          {functions} (func $f{FUNCTIONS}) (func (export "run") (param i32) (call $f0)))"#
    ))
    .unwrap();
    let (_, all, _) = ran(&wasm, 0, 1 << 40);
    let a_frame = all / FUNCTIONS as u64;
    let (ended, _, count) = ran(&wasm, 0, all / 2);
    assert_eq!(ended, Err(Stop::OutOfGas));
    let paid = u64::from(count) * a_frame;
    assert!(paid <= all / 2 + RETURN_MAX * FUNCTIONS as u64 + 20 * 2 * (UNCHECKED_MAX + SMALL_MAX), "{paid} of {all}");
}

/// What is little is not looked at: a frame that adds two numbers and returns pays for no look.
#[test]
fn a_frame_with_little_left_to_do_is_charged_once() {
    let wasm = wat::parse_str(
        r#"(module (func $fib (export "run") (param i32) (result i32)
             (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0))
               (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
                              (call $fib (i32.sub (local.get 0) (i32.const 2))))))))"#,
    )
    .unwrap();
    let text = wasmprinter::print_bytes(crate::engines::metered(&wasm)).unwrap();
    // The head of the function, and one for each arm.
    assert_eq!(text.matches("i64.sub").count(), 3, "{text}");
}
