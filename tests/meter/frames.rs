//! Stack charge of a frame, which is sufficient on every engine.

use crate::engines::{Form, Kind, Machine, Stop, Value, alike, on_a_deep_stack};

/// A recursion `run(n)` that counts its depth.
const RECURSION: &str = r#"
(module
  (global $count (export "count") (mut i32) (i32.const 0))
  (func $run (export "run") (param i32) (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (if (result i32) (local.get 0)
      (then (i32.add (call $run (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
      (else (i32.const 1)))))
"#;

#[test]
fn recursion_ends_at_the_same_depth_everywhere() {
    let wasm = wat::parse_str(RECURSION).unwrap();
    let endless = alike(&wasm, "run", &[Value::I32(u32::MAX)], 1 << 40);
    assert_eq!(endless.ran.ended, Err(Stop::OutOfStack));
    let Some(Value::I32(deepest)) = endless.count else { panic!("{:?}", endless.count) };

    let below = alike(&wasm, "run", &[Value::I32(deepest - 1)], 1 << 40);
    assert_eq!(below.ran.values(), [Value::I32(deepest)]);
    let above = alike(&wasm, "run", &[Value::I32(deepest)], 1 << 40);
    assert_eq!(above.ran.ended, Err(Stop::OutOfStack));
    assert_eq!(above.count, Some(Value::I32(deepest)), "the frame that has no room does nothing");
}

/// Each frame checks the stack, not only the request for gas.
#[test]
fn the_depth_does_not_depend_on_gas() {
    let depth = |work: usize| {
        let work = "(data.drop 0) ".repeat(work);
        let wasm = wat::parse_str(format!(
            r#"(module (memory 1) (data "x") (global $count (export "count") (mut i32) (i32.const 0))
              (func $run (export "run")
                (global.set $count (i32.add (global.get $count) (i32.const 1))) {work} (call $run)))"#
        ));
        let seen = alike(&wasm.unwrap(), "run", &[], 1 << 40);
        assert_eq!(seen.ran.ended, Err(Stop::OutOfStack));
        seen.count
    };
    assert_eq!(depth(0), depth(7));
}

#[test]
fn the_stack_can_be_used_again_and_again() {
    let wasm = wat::parse_str(
        r#"(module
          (func $deep (param i32) (result i32)
            (if (result i32) (local.get 0)
              (then (i32.add (call $deep (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
              (else (return (i32.const 0)))))
          (func $early (param i32) (result i32)
            (block (block (br_table 0 1 0 (call $early_out (local.get 0)))) (return (i32.const 2)))
            (i32.const 3))
          (func $early_out (param i32) (result i32) (if (local.get 0) (then (return (i32.const 0)))) (i32.const 2))
          (func (export "run") (result i32) (local $turns i32) (local $sum i32)
            (loop
              (local.set $sum (i32.add (local.get $sum) (call $deep (i32.const 5000))))
              (local.set $sum (i32.add (local.get $sum) (call $early (i32.and (local.get $turns) (i32.const 1)))))
              (br_if 0 (i32.lt_u (local.tee $turns (i32.add (local.get $turns) (i32.const 1))) (i32.const 40))))
            (local.get $sum)))"#,
    );
    let seen = alike(&wasm.unwrap(), "run", &[], 1 << 40);
    assert_eq!(seen.ran.values(), [Value::I32(40 * 5_000 + 40 * 2)]);
}

/// Returns a module whose function has four locals and a shallow operand stack, but a frame of 32
/// KiB in an optimising compiler. Each product is the same in every iteration of the loop, so the
/// compiler computes all products before the loop and keeps them.
fn large_frame() -> Vec<u8> {
    let products: String = (0..4_090)
        .map(|at| {
            format!("(local.set $sum (i64.xor (local.get $sum) (i64.mul (local.get $a) (i64.const {}))))\n", 3 + 2 * at)
        })
        .collect();
    let text = format!(
        r#"(module
          (global $count (export "count") (mut i32) (i32.const 0))
          (func $run (export "run") (param $a i64) (result i64) (local $sum i64) (local $turns i32)
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (loop
              {products}
              (local.set $sum (i64.add (local.get $sum) (call $run (local.get $sum))))
              (br_if 0 (local.tee $turns (i32.eqz (local.get $turns)))))
            (local.get $sum)))"#
    );
    wat::parse_str(text).unwrap()
}

#[test]
fn a_frame_that_a_compiler_makes_large_has_room_on_every_engine() {
    let wasm = large_frame();
    assert!(wasm.len() < 90 << 10, "{} bytes", wasm.len());

    // Without the meter, frames of 32 KiB exhaust 256 MiB after this many calls.
    let frames = on_a_deep_stack(|| {
        let mut machine = Machine::new(Kind::Cranelift, Form::Plain);
        let instance = machine.instantiate(&wasm).unwrap();
        let ran = machine.invoke(instance, "run", &[Value::I64(7)]);
        assert_eq!(ran.ended, Err(Stop::EngineStackOverflow));
        machine.global(instance, "count")
    });
    let Some(Value::I32(frames)) = frames else { panic!("{frames:?}") };
    let frame_bytes = (256 << 20) / frames;
    assert!(frame_bytes > 32_000, "the compiler does not make it large any more: {frame_bytes} bytes");

    let seen = alike(&wasm, "run", &[Value::I64(7)], 1 << 40);
    assert_eq!(seen.ran.ended, Err(Stop::OutOfStack));
    let Some(Value::I32(metered)) = seen.count else { panic!("{:?}", seen.count) };
    println!("a frame of {frame_bytes} bytes is charged {}", (64 << 20) / metered);
    assert!((64 << 20) / metered >= frame_bytes, "it is charged less than it takes");
}

/// Parameters, results and locals of each type that lie on the native stack.
#[test]
fn wide_calls_have_room_on_every_engine() {
    for ty in ["i64", "f32", "v128"] {
        let zero = if ty == "v128" { "(v128.const i64x2 1 2)".to_owned() } else { format!("({ty}.const 0)") };
        let types = |count: usize| vec![ty; count].join(" ");
        let (zeros, drops) = (vec![&*zero; 64].join(" "), vec!["drop"; 64].join(" "));
        let text = format!(
            r#"(module
              (global $count (export "count") (mut i32) (i32.const 0))
              (func $run (export "run") (local {locals})
                (global.set $count (i32.add (global.get $count) (i32.const 1)))
                (call $wide {zeros}) {drops})
              (func $wide (param {types}) (result {types}) (local {locals})
                (call $run) {zeros}))"#,
            locals = types(500),
            types = types(64),
        );
        let seen = alike(&wat::parse_str(text).unwrap(), "run", &[], 1 << 40);
        assert_eq!(seen.ran.ended, Err(Stop::OutOfStack), "{ty}");
    }
}

/// Many values on the operand stack that are live across a call.
#[test]
fn a_deep_operand_stack_has_room_on_every_engine() {
    let deep = "(i32.load (i32.shl (local.get 0) (i32.const 2)))\n".repeat(900);
    let text = format!(
        r#"(module (memory 1)
          (func $run (export "run") (param i32) (result i32)
            {deep} (call $run (i32.and (local.get 0) (i32.const 255))) {adds}))"#,
        adds = "i32.add ".repeat(900),
    );
    let wasm = wat::parse_str(text).unwrap();
    let seen = alike(&wasm, "run", &[Value::I32(3)], 1 << 40);
    assert_eq!(seen.ran.ended, Err(Stop::OutOfStack));
}

/// Leaf functions are charged nothing: at most one is active, on top of the frames that are
/// charged.
#[test]
fn the_last_frame_may_be_a_large_leaf() {
    let locals = vec!["v128"; 1_000].join(" ");
    let sets: String = (0..1_000).map(|at| format!("(local.set {at} (v128.load (i32.const {})))", at * 16)).collect();
    let sum: String = (0..1_000).map(|at| format!("(local.get {at}) i64x2.add ")).collect();
    let text = format!(
        r#"(module (memory 1)
          (func $leaf (result i32) (local {locals}) {sets} (v128.const i64x2 0 0) {sum} i32x4.extract_lane 0)
          (func $run (export "run") (param i32) (result i32)
            (if (result i32) (local.get 0)
              (then (i32.add (call $leaf) (call $run (i32.sub (local.get 0) (i32.const 1)))))
              (else (call $leaf)))))"#
    );
    let wasm = wat::parse_str(text).unwrap();
    let seen = alike(&wasm, "run", &[Value::I32(1_000)], 1 << 40);
    assert_eq!(seen.ran.values(), [Value::I32(0)]);
}
