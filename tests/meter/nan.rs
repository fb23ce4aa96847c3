//! NaNs. Results of arithmetic look canonical wherever they are observed, all other values keep
//! their bits, and the NaNs that the processor makes cannot be observed. The reference is the
//! module without the meter, on Cranelift with `cranelift_nan_canonicalization`.

mod places;

use crate::engines::{ALL, Form, Kind, Machine, Value, on_a_deep_stack};
use crate::{crowd, scramble};

const FIXTURES: &str = r#"
(module
  (memory (export "memory") 1)
  (global $f64 (mut f64) (f64.const -nan:0x4000000000123))
  (global $v128 (mut v128) (v128.const i64x2 -1 -1))
  (type $id (func (param f64) (result f64)))
  (table funcref (elem $id))
  (func $id (type $id) (local.get 0))

  (func (export "the sign of its negation is the other one") (result i64) (local $x f64)
    (local.set $x (f64.div (f64.const 0) (f64.const 0)))
    (i64.xor (i64.reinterpret_f64 (local.get $x)) (i64.reinterpret_f64 (f64.neg (local.get $x)))))
  (func (export "a canonical one is positive") (result i64)
    (i64.reinterpret_f64 (f64.div (f64.const 0) (f64.const 0))))
  (func (export "copysign sets the sign") (result i64)
    (i64.reinterpret_f64 (f64.copysign (f64.div (f64.const 0) (f64.const 0)) (f64.const -1))))
  (func (export "copysign reads the sign") (result i64)
    (i64.reinterpret_f64 (f64.copysign (f64.const -1) (f64.div (f64.const 0) (f64.const 0)))))
  (func (export "a constant in a local") (result i64) (local $x f64)
    (local.set $x (f64.const -nan:0x4000000000123))
    (i64.reinterpret_f64 (local.get $x)))
  (func (export "a constant in a local to which arithmetic writes too") (param i32) (result i64) (local $x f64)
    (local.set $x (f64.const -nan:0x4000000000123))
    (if (local.get 0) (then (local.set $x (f64.div (f64.const 0) (f64.const 0)))))
    (i64.reinterpret_f64 (local.get $x)))
  (func (export "a mask") (result i64) (local $x v128)
    (local.set $x (v128.const i64x2 -1 -1))
    (i64x2.extract_lane 1 (local.get $x)))
  (func (export "a mask in a local to which arithmetic writes too") (param i32) (result i64) (local $x v128)
    (local.set $x (v128.const i64x2 -1 -1))
    (if (local.get 0) (then (local.set $x (f32x4.div (local.get $x) (v128.const i64x2 0 0)))))
    (i64x2.extract_lane 1 (local.get $x)))
  (func (export "a mask for doubles in a local of singles") (result i64) (local $x v128)
    (local.set $x (f32x4.add (v128.const f32x4 1 1 1 1) (v128.const f32x4 1 1 1 1)))
    (local.set $x (v128.const f64x2 nan:0x123 1))
    (i64x2.extract_lane 0 (local.get $x)))
  (func (export "a payload in a local to which arithmetic of its shape writes too") (result i64) (local $x v128)
    (local.set $x (f32x4.add (v128.const f32x4 1 1 1 1) (v128.const f32x4 1 1 1 1)))
    (local.set $x (v128.const i32x4 0x7fc00123 0 0 0))
    (i64x2.extract_lane 0 (local.get $x)))
  (func (export "a parameter to which arithmetic writes too") (param f64 i32) (result i64)
    (if (local.get 1) (then (local.set 0 (f64.div (f64.const 0) (f64.const 0)))))
    (i64.reinterpret_f64 (local.get 0)))
  (func (export "memory copied through doubles") (result i64)
    (i64.store (i32.const 0) (i64.const 0xfff4000000000123))
    (f64.store (i32.const 8) (f64.load (i32.const 0)))
    (i64.load (i32.const 8)))
  (func (export "memory copied through singles in locals") (result i64) (local $x f32)
    (i64.store (i32.const 0) (i64.const 0xffa00123))
    (local.set $x (f32.load (i32.const 0)))
    (f32.store (i32.const 24) (local.get $x))
    (i64.load (i32.const 24)))
  (func (export "memory copied through vectors") (result i64)
    (i64.store (i32.const 0) (i64.const 0xfff4000000000123))
    (v128.store (i32.const 16) (v128.load (i32.const 0)))
    (i64.load (i32.const 16)))
  (func (export "a parameter") (param f64) (result i64) (i64.reinterpret_f64 (local.get 0)))
  (func (export "a parameter that went through a call") (param f64) (result i64)
    (i64.reinterpret_f64 (call $id (local.get 0))))
  (func (export "a parameter that went through a table") (param f64) (result i64)
    (i64.reinterpret_f64 (call_indirect (type $id) (local.get 0) (i32.const 0))))
  (func (export "a global") (result i64) (i64.reinterpret_f64 (global.get $f64)))
  (func (export "a vector in a global") (result i64) (i64x2.extract_lane 0 (global.get $v128)))
  (func (export "what select chooses") (param f64) (result i64)
    (i64.reinterpret_f64 (select (local.get 0) (f64.const 1) (i32.const 1))))
  (func (export "what a block leaves") (param f64) (result i64)
    (i64.reinterpret_f64 (block (result f64) (br 0 (local.get 0)))))
  (func (export "a smaller one of two") (param f64) (result i64)
    (i64x2.extract_lane 0 (f64x2.pmin (f64x2.splat (local.get 0)) (f64x2.splat (f64.const 1)))))
  (func (export "lanes shuffled") (param f64) (result i64)
    (i64x2.extract_lane 1
      (i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7 (f64x2.splat (local.get 0)) (v128.const i64x2 0 0)))))
"#;

const CANONICAL: u64 = 0x7ff8_0000_0000_0000;
const SIGN: u64 = 1 << 63;
/// A NaN that programs may keep in a float, and that no arithmetic makes.
const ODD: u64 = 0xfff4_0000_0000_0123;

fn expected() -> Vec<(&'static str, Vec<Value>, u64)> {
    let odd = || vec![Value::F64(ODD)];
    vec![
        ("the sign of its negation is the other one", vec![], SIGN),
        ("a canonical one is positive", vec![], CANONICAL),
        ("copysign sets the sign", vec![], CANONICAL | SIGN),
        ("copysign reads the sign", vec![], 1f64.to_bits()),
        ("a constant in a local", vec![], ODD),
        ("a constant in a local to which arithmetic writes too", vec![Value::I32(0)], ODD),
        ("a constant in a local to which arithmetic writes too", vec![Value::I32(1)], CANONICAL),
        ("a mask", vec![], u64::MAX),
        ("a mask in a local to which arithmetic writes too", vec![Value::I32(0)], u64::MAX),
        ("a mask in a local to which arithmetic writes too", vec![Value::I32(1)], 0x7fc0_0000_7fc0_0000),
        ("a mask for doubles in a local of singles", vec![], 0x7ff0_0000_0000_0123),
        ("a payload in a local to which arithmetic of its shape writes too", vec![], 0x7fc0_0123),
        ("a parameter to which arithmetic writes too", vec![Value::F64(ODD), Value::I32(0)], ODD),
        ("a parameter to which arithmetic writes too", vec![Value::F64(ODD), Value::I32(1)], CANONICAL),
        ("memory copied through doubles", vec![], ODD),
        ("memory copied through singles in locals", vec![], 0xffa0_0123),
        ("memory copied through vectors", vec![], ODD),
        ("a parameter", odd(), ODD),
        ("a parameter that went through a call", odd(), ODD),
        ("a parameter that went through a table", odd(), ODD),
        ("a global", vec![], ODD),
        ("a vector in a global", vec![], u64::MAX),
        ("what select chooses", odd(), ODD),
        ("what a block leaves", odd(), ODD),
        ("a smaller one of two", odd(), ODD),
        ("lanes shuffled", odd(), ODD),
    ]
}

#[test]
fn arithmetic_makes_canonical_nans_and_all_others_keep_their_bits() {
    let wasm = wat::parse_str(FIXTURES).unwrap();
    let forms = [wasm.clone(), crowd::crowded(&wasm)];
    for ((kind, form), wasm) in everywhere().flat_map(|on| forms.iter().map(move |wasm| (on, wasm))) {
        let mut machine = Machine::new(kind, form);
        let instance = machine.instantiate(wasm).unwrap();
        for (export, arguments, expected) in expected() {
            let ran = machine.invoke(instance, export, &arguments);
            assert_eq!(ran.ended, Ok(vec![Value::I64(expected)]), "{export} {arguments:x?} on {kind:?}, {form:?}");
        }
    }
}

fn everywhere() -> impl Iterator<Item = (Kind, Form)> {
    let metered = ALL.into_iter().flat_map(|kind| [(kind, Form::Metered), (kind, Form::Scrambled)]);
    std::iter::once((Kind::Cranelift, Form::Plain)).chain(metered)
}

/// Returns the results of each function of `wasm` for each set of arguments.
fn seen(kind: Kind, form: Form, wasm: &[u8], exports: &[String], arguments: &[Vec<Value>]) -> Vec<Vec<Value>> {
    on_a_deep_stack(|| {
        let mut machine = Machine::new(kind, form);
        let instance = machine.instantiate(wasm).unwrap();
        let calls = exports.iter().flat_map(|export| arguments.iter().map(move |arguments| (export, arguments)));
        calls.map(|(export, arguments)| machine.invoke(instance, export, arguments).values().to_vec()).collect()
    })
}

/// Asserts that each operator that makes NaNs gives the same bits in each place where its result is
/// observable.
fn are_seen_alike(shape: &places::Shape) {
    let (text, exports) = places::module(shape);
    let wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let arguments = places::arguments(shape);
    let plain = seen(Kind::Cranelift, Form::Plain, &wasm, &exports, &arguments);
    let call = |at: usize| (&exports[at / arguments.len()], &arguments[at % arguments.len()]);

    // A different NaN would be observable in these places.
    let unmetered = seen(Kind::Cranelift, Form::Plain, &scramble::scrambled(&wasm), &exports, &arguments);
    for place in shape.places {
        let differs = |at: &usize| call(*at).0.ends_with(place.0) && plain[*at] != unmetered[*at];
        assert!((0..plain.len()).any(|at| differs(&at)), "{} sees nothing", place.0);
    }

    let forms = [wasm.clone(), crowd::crowded(&wasm)];
    for ((kind, form), wasm) in everywhere().skip(1).flat_map(|on| forms.iter().map(move |wasm| (on, wasm))) {
        let metered = seen(kind, form, wasm, &exports, &arguments);
        for at in 0..plain.len() {
            assert_eq!(metered[at], plain[at], "{:x?} on {kind:?}, {form:?}", call(at));
        }
    }
}

#[test]
fn singles_are_canonical_wherever_they_are_seen() {
    are_seen_alike(&places::F32);
}

#[test]
fn doubles_are_canonical_wherever_they_are_seen() {
    are_seen_alike(&places::F64);
}

#[test]
fn vectors_of_singles_are_canonical_wherever_they_are_seen() {
    are_seen_alike(&places::F32X4);
}

#[test]
fn vectors_of_doubles_are_canonical_wherever_they_are_seen() {
    are_seen_alike(&places::F64X2);
}
