//! Guests that exercise the limits of the meter itself.

use compute_host::sandbox::meter::{QUANTUM, UNCHECKED_MAX};
use compute_host::sandbox::{Admitted, Rule};

use crate::engines::{ALL, Form, Kind, Machine, Stop, Value, alike, alike_compiled, on_a_deep_stack};

const MUCH: u64 = 1 << 40;

fn wat(text: impl AsRef<str>) -> Vec<u8> {
    wat::parse_str(text.as_ref()).unwrap_or_else(|error| panic!("{error}\n{}", text.as_ref()))
}

/// Returns the result of `export` without the meter.
fn plain(wasm: &[u8], export: &str, arguments: &[Value]) -> Vec<Value> {
    on_a_deep_stack(|| {
        let mut machine = Machine::new(Kind::Cranelift, Form::Plain);
        let instance = machine.instantiate(wasm).unwrap();
        machine.invoke(instance, export, arguments).values().to_vec()
    })
}

/// Asserts that metering does not change the result, and returns the gas.
#[track_caller]
fn gas(wasm: &[u8], export: &str, arguments: &[Value]) -> u64 {
    let seen = alike(wasm, export, arguments, MUCH);
    assert_eq!(seen.ran.values(), plain(wasm, export, arguments), "{export} {arguments:x?}");
    seen.ran.gas
}

#[test]
fn a_thousand_locals_outlast_calls_and_refills() {
    let types = ["i32", "i64", "f32", "f64", "v128"];
    let one = |ty: &str, at: usize| match ty {
        "v128" => format!("(i64x2.splat (i64.const {at}))"),
        _ => format!("({ty}.const {at})"),
    };
    let add = |ty: &str| if ty == "v128" { "i64x2.add".to_owned() } else { format!("{ty}.add") };
    let (mut locals, mut sets, mut turns, mut sum) = (String::new(), String::new(), String::new(), String::new());
    for at in 0..1_000 {
        let ty = types[at % 5];
        locals += &format!("(local $x{at} {ty})");
        sets += &format!("(local.set $x{at} {})\n", one(ty, at));
        turns += &format!("(local.set $x{at} ({} (local.get $x{at}) {}))\n", add(ty), one(ty, 1));
        sum += &match ty {
            "i32" => format!("(i64.extend_i32_u (local.get $x{at})) i64.add\n"),
            "i64" => format!("(local.get $x{at}) i64.add\n"),
            "v128" => format!("(i64x2.extract_lane 1 (local.get $x{at})) i64.add\n"),
            _ => format!("(i64.trunc_sat_{ty}_s (local.get $x{at})) i64.add\n"),
        };
    }
    let wasm = wat(format!(
        r#"(module
          (func $run (export "run") (param $n i32) (result i64) {locals} (local $turn i32)
            {sets}
            (if (local.get $n) (then (local.set $x1 (call $run (i32.sub (local.get $n) (i32.const 1))))))
            (loop {turns}
              (br_if 0 (i32.lt_u (local.tee $turn (i32.add (local.get $turn) (i32.const 1))) (i32.const 400))))
            (i64.const 0) {sum}))"#
    ));
    assert!(gas(&wasm, "run", &[Value::I32(2)]) > QUANTUM, "it is granted gas more than once");
}

/// Refills happen within this loop, some of them while locals hold NaNs that nothing has observed
/// yet.
#[test]
fn what_is_alive_outlasts_a_refill() {
    let wasm = wat(r#"(module
      (func (export "run") (param $turns i32) (param $a i64) (result i64)
        (local $b i64) (local $c f32) (local $d f64) (local $e v128) (local $f i32) (local $nan f64)
        (local.set $d (f64.const 1.5))
        (local.set $nan (f64.div (local.get $d) (f64.const 0)))
        (local.set $nan (f64.sub (local.get $nan) (local.get $nan)))
        (loop
          (local.set $b (i64.add (i64.rotl (local.get $b) (i64.const 7)) (local.get $a)))
          (local.set $c (f32.add (local.get $c) (f32.const 0.5)))
          (local.set $d (f64.add (f64.sqrt (local.get $d)) (f64.convert_i32_u (local.get $f))))
          (local.set $e (i64x2.add (local.get $e) (i64x2.splat (local.get $b))))
          (local.set $f (i32.add (i32.xor (local.get $f) (local.get $turns)) (i32.const 3)))
          (local.set $nan (f64.add (local.get $nan) (local.get $d)))
          (br_if 0 (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
        (i64.add (i64.reinterpret_f64 (local.get $nan))
          (i64.add (i64.add (local.get $b) (i64.reinterpret_f64 (local.get $d)))
            (i64.add (i64x2.extract_lane 1 (local.get $e))
              (i64.add (i64.extend_i32_u (local.get $f)) (i64.extend_i32_u (i32.reinterpret_f32 (local.get $c)))))))))"#);
    assert!(gas(&wasm, "run", &[Value::I32(70_000), Value::I64(0x1234_5678_9abc)]) > QUANTUM);
}

#[test]
fn a_branch_goes_eight_thousand_ways() {
    let targets: String = (0..8_000).map(|at| format!("{} ", at * 7 % 50)).collect();
    let blocks = |at: usize| format!("(return (i32.add (local.get 1) (i32.const {at}))))\n");
    let (open, close): (String, String) = ("(block ".repeat(50), (0..50).map(blocks).collect());
    let wasm = wat(format!(
        r#"(module (func $way (export "way") (param i32) (result i32) (local i32)
            {open} (br_table {targets} 49 (local.get 0)) {close} (i32.const -1))
          (func (export "run") (result i32) (local $at i32) (local $sum i32)
            (loop
              (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31)) (call $way (local.get $at))))
              (br_if 0 (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const 8001))))
            (local.get $sum)))"#
    ));
    gas(&wasm, "run", &[]);
    for way in [0, 1, 7_999, 8_000, u32::MAX] {
        gas(&wasm, "way", &[Value::I32(way)]);
    }
}

#[test]
fn blocks_five_hundred_deep() {
    for (open, close) in [("(block", ")"), ("(loop", ")"), ("(if (i32.const 1) (then", "))")] {
        let count = "(local.set 1 (i32.add (local.get 1) (i32.const 1)))";
        let (opened, closed) = (format!("{open} {count} ").repeat(511), format!("{count} {close}").repeat(511));
        let wasm = wat(format!(
            r#"(module (func (export "run") (param i32) (result i32) (local i32)
                (block {opened} (br_if 511 (i32.eqz (local.get 0))) {closed}) (local.get 1)))"#
        ));
        let (out, through) = (gas(&wasm, "run", &[Value::I32(0)]), gas(&wasm, "run", &[Value::I32(1)]));
        assert!(through > out, "the way through {open} is longer than the way out");
    }
}

#[test]
fn memory_grows_to_its_last_page_and_pays_for_each() {
    let wasm = |most: u32| {
        wat(format!(
            r#"(module (memory 0 {most}) (func (export "run") (param i32) (result i32) (memory.grow (local.get 0))))"#
        ))
    };
    // wasmi touches each page that it adds, so a test of all engines requests fewer pages.
    let few = wasm(1_000);
    let failing = gas(&few, "run", &[Value::I32(1_001)]);
    assert_eq!(gas(&few, "run", &[Value::I32(0)]), failing, "what fails costs its base");
    assert_eq!(gas(&few, "run", &[Value::I32(u32::MAX)]), failing, "what fails costs its base");
    let page = gas(&few, "run", &[Value::I32(1)]) - failing;
    assert!(page > 0, "pages cost something");
    assert_eq!(gas(&few, "run", &[Value::I32(1_000)]), failing + 1_000 * page);

    for kind in ALL.into_iter().filter(|kind| *kind != Kind::Wasmi) {
        on_a_deep_stack(|| {
            let mut machine = Machine::new(kind, Form::Metered);
            let instance = machine.instantiate(&wasm(65_536)).unwrap();
            let ran = machine.invoke(instance, "run", &[Value::I32(65_536)]);
            assert_eq!(ran.values(), [Value::I32(0)], "{kind:?}");
            assert_eq!(ran.gas, failing + 65_536 * page, "{kind:?}");
            let ran = machine.invoke(instance, "run", &[Value::I32(1)]);
            assert_eq!((ran.values(), ran.gas), (&[Value::I32(u32::MAX)][..], failing), "{kind:?}");
        });
    }
}

#[test]
fn a_table_that_grows_pays_for_each_element() {
    let wasm = wat(r#"(module (table 0 5000 funcref)
          (func (export "run") (param i32) (result i32) (table.grow (ref.null func) (local.get 0))))"#);
    let failing = gas(&wasm, "run", &[Value::I32(5_001)]);
    assert_eq!(gas(&wasm, "run", &[Value::I32(0)]), failing, "what fails costs its base");
    let (some, all) = (gas(&wasm, "run", &[Value::I32(2_500)]), gas(&wasm, "run", &[Value::I32(5_000)]));
    assert!(some > failing, "elements cost something");
    assert_eq!(all - some, some - failing);
}

const BULK: &str = r#"(module (memory (export "memory") 1500) (data $data "some bytes") (table $table 10000 funcref) (elem $elem func $f)
  (func $f)
  (func (export "memory.fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))
  (func (export "memory.copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (export "memory.init") (param i32 i32 i32) (memory.init $data (local.get 0) (local.get 1) (local.get 2)))
  (func (export "table.fill") (param i32 i32 i32) (table.fill (local.get 0) (ref.null func) (local.get 2)))
  (func (export "table.copy") (param i32 i32 i32) (table.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (export "table.init") (param i32 i32 i32) (table.init $elem (local.get 0) (local.get 1) (local.get 2))))"#;

fn operands(to: u32, from: u32, length: u32) -> [Value; 3] {
    [Value::I32(to), Value::I32(from), Value::I32(length)]
}

#[test]
fn bulk_operators_of_four_gibibytes_trap_or_are_paid_for() {
    let wasm = wat(BULK.replace("1500", "2"));
    for name in ["memory.fill", "memory.copy", "memory.init", "table.fill", "table.copy", "table.init"] {
        let stop = if name.starts_with('m') { Stop::MemoryOutOfBounds } else { Stop::TableOutOfBounds };
        for (to, from) in [(0, 0), (1, 0), (0, 1), (u32::MAX, u32::MAX)] {
            let seen = alike(&wasm, name, &operands(to, from, u32::MAX), MUCH);
            assert_eq!(seen.ran.ended, Err(stop.clone()), "{name}");
            let seen = alike(&wasm, name, &operands(to, from, u32::MAX), QUANTUM);
            assert_eq!(seen.ran.ended, Err(Stop::OutOfGas), "{name}: it is charged before it acts");
        }
    }
}

/// All relative positions of two ranges, at the sizes at which `memory.copy` works in pieces, and
/// at the ends of memory.
#[test]
fn bulk_operators_in_pieces_do_what_they_did() {
    const PIECE: u32 = 16 << 20;
    const END: u32 = 1_500 << 16;
    let wasm = wat(BULK.replace(
        "(func $f)",
        r#"(func $f)
        (func (export "filled and copied") (param i32 i32 i32) (local i32)
          (loop
            (i32.store (i32.shl (local.get 3) (i32.const 2)) (i32.mul (local.get 3) (i32.const 0x9e3779b1)))
            (br_if 0 (i32.lt_u (local.tee 3 (i32.add (local.get 3) (i32.const 997))) (i32.const 24576000))))
          (memory.fill (i32.add (local.get 0) (i32.const 5)) (i32.const 0xab) (i32.shr_u (local.get 2) (i32.const 1)))
          (memory.copy (local.get 0) (local.get 1) (local.get 2)))"#,
    ));
    let memory = |kind, form, operands: &[Value]| {
        on_a_deep_stack(|| {
            let mut machine = Machine::new(kind, form);
            let instance = machine.instantiate(&wasm).unwrap();
            let ran = machine.invoke(instance, "filled and copied", operands);
            (ran.ended, machine.memory(instance, "memory").map(|memory| blake3::hash(&memory)))
        })
    };
    for (to, from, length) in [
        (0, 3, 2 * PIECE + 1),
        (3, 0, 2 * PIECE + 1),
        (PIECE + 7, 0, 2 * PIECE),
        (0, PIECE - 7, 3 * PIECE),
        (END - PIECE - 1, 1, PIECE + 1),
        (1, END - PIECE, PIECE + 1),
    ] {
        let operands = operands(to, from, length);
        let expected = memory(Kind::Cranelift, Form::Plain, &operands);
        for kind in [Kind::Cranelift, Kind::Wasmi] {
            assert_eq!(memory(kind, Form::Metered, &operands), expected, "{to} {from} {length} on {kind:?}");
        }
    }
}

#[test]
fn bulk_operators_cost_as_much_in_pieces() {
    let wasm = wat(BULK);
    for name in ["memory.fill", "memory.copy"] {
        let gas = |length: u32| alike(&wasm, name, &operands(0, 1, length), MUCH).ran.gas;
        let nothing = gas(0);
        let (whole, in_pieces) = (gas(8 << 20) - nothing, gas(80 << 20) - nothing);
        assert!(whole > 0);
        assert_eq!(in_pieces, 10 * whole, "{name}");
    }
}

/// The same part of the memory is filled on every engine when the gas is spent.
#[test]
fn a_bulk_operator_is_stopped_between_the_same_pieces() {
    let wasm = wat(BULK);
    let length = 90 << 20;
    let all = alike(&wasm, "memory.fill", &operands(0, 1, length), MUCH);
    for part in [1, 3, 5] {
        let seen = alike(&wasm, "memory.fill", &operands(0, 1, length), all.ran.gas * part / 6);
        assert_eq!(seen.ran.ended, Err(Stop::OutOfGas));
        assert_ne!(seen.memory, all.memory);
    }
}

/// Most gas that can be spent before the next check: every frame spends on the way back from the
/// deepest recursion, and then one bulk operator does. If it exceeded half of the state's range,
/// the used gas would be wrong by 2 to the 32.
#[test]
fn what_is_overdrawn_before_anybody_looks_stays_in_its_half() {
    let drops = "(elem.drop $e) ".repeat(78);
    let calls = "(call $small) ".repeat(9);
    let wasm = wat(format!(
        r#"(module (memory 1) (table 10 funcref) (elem $e func $deep)
          (global $left (export "count") (mut i32) (i32.const 0))
          (func $small (elem.drop $e) (elem.drop $e) (elem.drop $e) (elem.drop $e) (elem.drop $e) (elem.drop $e))
          (func $step (result i32)
            (global.set $left (i32.sub (global.get $left) (i32.const 1))) (i32.ge_s (global.get $left) (i32.const 0)))
          (func $deep
            (block (br_if 0 (i32.eqz (call $step))) (call $deep))
            (block (br 0)) {drops} {calls})
          (func (export "run") (param i32) (global.set $left (local.get 0)) (call $deep))
          (func (export "and bulk") (param i32) (global.set $left (local.get 0)) (call $deep)
            (table.fill (i32.const 0) (ref.null func) (i32.const -1))))"#
    ));
    let endless = alike_compiled(&wasm, "run", &[Value::I32(i32::MAX as u32)], MUCH);
    assert_eq!(endless.ran.ended, Err(Stop::OutOfStack));
    let Some(Value::I32(left)) = endless.count else { panic!("{:?}", endless.count) };
    // Some frames fewer: the frame below them is a little larger if it has a bulk operator.
    let deepest = i32::MAX as u32 - left - 10;
    assert!(deepest > 200_000, "{deepest} frames");

    let of = |depth: u32| alike_compiled(&wasm, "run", &[Value::I32(depth)], MUCH).ran.gas;
    let one = of(2) - of(1);
    assert!(one > UNCHECKED_MAX, "a frame costs {one}");
    for depth in [10_000, deepest] {
        assert_eq!(of(depth), of(1) + u64::from(depth - 1) * one, "{depth} frames");
    }
    alike(&wasm, "and bulk", &[Value::I32(10_000)], MUCH);
    let seen = alike_compiled(&wasm, "and bulk", &[Value::I32(deepest)], MUCH);
    assert_eq!(seen.ran.ended, Err(Stop::TableOutOfBounds));
    assert!(seen.ran.gas >= of(deepest) + (1 << 28) - 1, "the bulk operator is paid for");
}

/// A sufficiently small function never checks the rest of the gas. A function that calls many of
/// them checks in between.
#[test]
fn a_long_row_of_calls_stops_soon_after_its_gas_is_spent() {
    const CALLS: u32 = 5_000;
    let row = |calls: u32| {
        wat(format!(
            r#"(module (global $count (export "count") (mut i32) (i32.const 0))
              (func $small (global.set $count (i32.add (global.get $count) (i32.const 1))))
              (func (export "run") {}))"#,
            "(call $small)".repeat(calls as usize)
        ))
    };
    let (wasm, empty) = (row(CALLS), row(1));
    let all = gas(&wasm, "run", &[]);
    let one = (all - gas(&empty, "run", &[])) / u64::from(CALLS - 1);
    assert!(one > 0);
    // The calls themselves are charged at the head of the row. The work of the functions is not.
    for missing in [2_000, 8_000] {
        let seen = alike(&wasm, "run", &[], all - missing);
        assert_eq!(seen.ran.ended, Err(Stop::OutOfGas), "{missing} of {all} missing");
        let Some(Value::I32(count)) = seen.count else { panic!("{:?}", seen.count) };
        let too_many = u64::from(CALLS - count) * one;
        assert!(
            count < CALLS && too_many + 2 * UNCHECKED_MAX > missing,
            "{count} calls with {missing} of {all} missing"
        );
    }
}

/// One run of operators that costs more than the maximum of one charge.
#[test]
fn a_long_run_of_operators_is_charged_in_parts() {
    let wasm = |count: usize| {
        let grows = "(drop (memory.grow (i32.const 0)))".repeat(count);
        wat(format!(r#"(module (memory 1) (func (export "run") {grows}))"#))
    };
    // Enough operators that the fractions of a unit sum to whole units.
    let (few, more) = (gas(&wasm(8), "run", &[]), gas(&wasm(16), "run", &[]));
    let many = wasm(20_000);
    let all = gas(&many, "run", &[]);
    assert_eq!(all, few + 2_499 * (more - few));
    assert!(all > QUANTUM);
    assert_eq!(alike(&many, "run", &[], all).ran.gas, all);
    assert_eq!(alike(&many, "run", &[], all - 1).ran.ended, Err(Stop::OutOfGas));
}

#[test]
fn a_guest_may_use_our_names_for_its_own() {
    let wasm = wat(r#"(module
          (func $refill (export "refill") (param i64) (result i64) (i64.const 4096))
          (func (export "compute_refill") (param i64) (result i64) (i64.const -1))
          (global (export "compute") i64 (i64.const 7))
          (func (export "run") (result i64) (local i64)
            (loop (br_if 0 (i64.lt_u (local.tee 0 (i64.add (local.get 0) (i64.const 1))) (i64.const 400000))))
            (i64.add (local.get 0) (call $refill (i64.const 5)))))"#);
    assert!(gas(&wasm, "run", &[]) > QUANTUM);
    assert_eq!(alike(&wasm, "refill", &[Value::I64(9)], MUCH).ran.values(), [Value::I64(4_096)]);
}

/// The import would receive the state from the meter, and the guest could call it for a refill. The
/// gate knows no such function.
#[test]
fn a_guest_cannot_import_what_the_meter_does() {
    for ty in ["(func)", "(func (param i64) (result i64))"] {
        let text = format!(
            r#"(module (import "compute" "refill" {ty}) (memory (export "memory") 1)
              (func (export "run") (result i32) (i32.const 0)))"#
        );
        let refusal = Admitted::new(wat(text)).map(drop).expect_err("the gate refuses it");
        assert!(matches!(refusal.rule, Rule::UnknownImport { .. }), "{refusal:?}");
    }
}
