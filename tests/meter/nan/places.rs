//! Places where the bits of a NaN are observable. Each place has a function for each operator whose
//! result is observed there.

use crate::engines::Value;

pub struct Shape {
    /// Shape in the names of the operators, such as `f64x2`.
    name: &'static str,
    /// Type of the operands, such as `v128`.
    ty: &'static str,
    /// Type with the operands' bits: `i64`, or `v128` itself.
    bits: &'static str,
    /// Operators that convert another shape into this one, after those that convert this one into
    /// the other.
    converted: &'static str,
    /// Names and function bodies. A body uses `X`, which has the shape `S`, the type `T`, and bits
    /// of the type `B`.
    pub places: &'static [(&'static str, &'static str)],
}

pub const F32: Shape =
    Shape { name: "f32", ty: "f32", bits: "i32", converted: "(f32.demote_f64 (f64.promote_f32 A))", places: SCALAR };

pub const F64: Shape =
    Shape { name: "f64", ty: "f64", bits: "i64", converted: "(f64.promote_f32 (f32.demote_f64 A))", places: SCALAR };

pub const F32X4: Shape =
    Shape { name: "f32x4", ty: "v128", bits: "v128", converted: "(f32x4.demote_f64x2_zero A)", places: VECTOR };

pub const F64X2: Shape =
    Shape { name: "f64x2", ty: "v128", bits: "v128", converted: "(f64x2.promote_low_f32x4 A)", places: VECTOR };

const BINARY: [&str; 6] = ["add", "sub", "mul", "div", "min", "max"];
const UNARY: [&str; 5] = ["sqrt", "ceil", "floor", "trunc", "nearest"];

const SCALAR: &[(&str, &str)] = &[
    ("reinterpret", "(R X)"),
    ("neg", "(R (S.neg X))"),
    ("abs", "(R (S.abs X))"),
    ("copysign of it", "(R (S.copysign X (S.const -1)))"),
    ("copysign by it", "(R (S.copysign (S.const 1) X))"),
    ("store", "(S.store (i32.const 8) X) (B.load (i32.const 8))"),
    ("global", "(global.set $global X) (R (global.get $global))"),
    ("argument", "(call $bits X)"),
    ("argument through a table", "(call_indirect (type $bits) X (i32.const 0))"),
    ("result", "(R (call $made (local.get $a) (local.get $b)))"),
    ("return", "(drop (R (local.get $a))) (return (R (block (result T) (return (R X)))))"),
    ("select, first", "(R (select X (S.const 1) (i32.const 1)))"),
    ("select, second", "(R (select (S.const 1) X (i32.const 0)))"),
    ("typed select", "(R (select (result T) X (S.const 1) (i32.const 1)))"),
    ("block", "(R (block (result T) X))"),
    ("parameter of a block", "X (block (param T) (result B) R)"),
    ("br", "(R (block (result T) (br 0 X)))"),
    ("br out of two", "(R (block (result T) (block (result T) (br 1 X))))"),
    ("br_if, taken", "(R (block (result T) (br_if 0 X (i32.const 1)) drop (S.const 1)))"),
    ("br_if, not taken", "(R (block (result T) (br_if 0 X (i32.const 0))))"),
    ("br_table", "(R (block (result T) (block (result T) (br_table 0 1 0 X (i32.const 1)))))"),
    ("br_table by default", "(R (block (result T) (block (result T) (br_table 0 0 1 X (i32.const 9)))))"),
    ("if", "(R (if (result T) (local.get $one) (then X) (else (S.const 1))))"),
    ("else", "(R (if (result T) (local.get $zero) (then (S.const 1)) (else X)))"),
    ("parameter of an if", "X (if (param T) (result B) (local.get $one) (then R) (else drop (B.const 1)))"),
    ("parameter of an else", "X (if (param T) (result B) (local.get $zero) (then drop (B.const 1)) (else R))"),
    ("loop", "(R (loop (result T) X))"),
    ("parameter of a loop", "X (loop (param T) (result B) R)"),
    ("parameter of a loop's second turn", SECOND_TURN),
    ("local", "(local.set $l X) (R (local.get $l))"),
    ("two locals", "(local.set $l X) (local.set $k (local.get $l)) (R (local.get $k))"),
    ("local that is a parameter", "(local.set $a X) (R (local.get $a))"),
    ("local with exact bits", "(local.set $l (S.load (i32.const 0))) (local.set $l X) (R (local.get $l))"),
    ("local from one with exact bits", EXACT_LOCAL),
    ("tee", "(R (local.tee $l X))"),
    ("local of a tee", "(drop (local.tee $l X)) (R (local.get $l))"),
    ("tee of a tee", "(R (local.tee $k (local.tee $l X)))"),
    ("tee into exact bits", "(local.set $k (S.load (i32.const 0))) (R (local.tee $k (local.tee $l X)))"),
    ("local of a loop", LOOP),
    ("local of a loop, stored at each turn", STORED),
    ("arithmetic on it", "(R (S.add X (S.const 1)))"),
    ("arithmetic on a local", "(local.set $l X) (R (S.mul (local.get $l) (local.get $l)))"),
    ("under a call", "X (call $work) R"),
    ("under a branch", "X (if (local.get $one) (then (call $work))) R"),
    ("splat", "(v128.store (i32.const 16) (V.splat X)) (B.load (i32.const 16))"),
    ("replace_lane", "(V.extract_lane 0 (V.replace_lane 0 (v128.const i64x2 0 0) X)) R"),
    ("splat and pmin", "(R (V.extract_lane 0 (V.pmin (V.splat X) (V.splat (S.const 1)))))"),
    ("both a number and seen", "(local.set $l X) (drop (S.lt (local.get $l) (S.const 1))) (R (local.get $l))"),
];

const SECOND_TURN: &str = "(S.const 1) (loop (param T) (result B) (if (param T) (result B) (i32.eqz (local.get $zero))
      (then drop (local.set $zero (i32.const 1)) X (br 1)) (else R)))";

const EXACT_LOCAL: &str = "(local.set $k (S.load (i32.const 0)))
    (if (local.get $one) (then (local.set $k X)))
    (local.set $l (local.get $k)) (local.set $l X) (R (local.get $l))";

const LOOP: &str = "(local.set $l X)
    (loop
      (local.set $l (S.add (local.get $l) (local.get $b)))
      (local.set $l (S.max (local.get $l) X))
      (br_if 0 (i32.lt_u (local.tee $zero (i32.add (local.get $zero) (i32.const 1))) (i32.const 5))))
    (R (local.get $l))";

const STORED: &str = "(local.set $l X)
    (loop
      (local.set $l (S.add (local.get $l) X))
      (S.store (i32.shl (local.get $zero) (i32.const 3)) (local.get $l))
      (br_if 0 (i32.lt_u (local.tee $zero (i32.add (local.get $zero) (i32.const 1))) (i32.const 5))))
    (B.load (i32.const 24))";

const VECTOR: &[(&str, &str)] = &[
    ("result", "X"),
    ("result of another", "(call $made (local.get $a) (local.get $b))"),
    ("argument", "(call $bits X)"),
    ("argument through a table", "(call_indirect (type $bits) X (i32.const 0))"),
    ("return", "(return X)"),
    ("store", "(v128.store (i32.const 0) X) (v128.load (i32.const 0))"),
    (
        "store_lane",
        "(v128.store8_lane 3 (i32.const 3) X) (v128.store16_lane 3 (i32.const 6) X) (v128.load (i32.const 0))",
    ),
    (
        "store_lane, long",
        "(v128.store32_lane 1 (i32.const 0) X) (v128.store64_lane 1 (i32.const 8) X) (v128.load (i32.const 0))",
    ),
    ("load_lane", "(v128.load32_lane 0 (i32.const 0) X)"),
    ("global", "(global.set $global X) (global.get $global)"),
    ("select", "(select X (v128.const i64x2 0 0) (local.get $one))"),
    ("block", "(block (result v128) X)"),
    ("br_if, taken", "(block (result v128) (br_if 0 X (i32.const 1)) drop (v128.const i64x2 0 0))"),
    ("br_table", "(block (result v128) (block (result v128) (br_table 0 1 0 X (i32.const 1))))"),
    ("parameter of a loop", "X (loop (param v128) (result v128))"),
    ("local", "(local.set $l X) (local.get $l)"),
    ("two locals", "(local.set $l X) (local.set $k (local.get $l)) (local.get $k)"),
    ("tee", "(local.tee $l X)"),
    ("local of a loop", VECTOR_LOOP),
    ("local that began as a number", "(local.set $l (v128.const i64x2 0 0)) (local.set $l X) (local.get $l)"),
    ("local that began as a mask", "(local.set $l (v128.const i64x2 -1 -1)) (local.set $l X) (local.get $l)"),
    ("local of two shapes", "(local.set $l (O.add (local.get $a) (local.get $b))) (local.set $l X) (local.get $l)"),
    ("arithmetic of this shape", "(S.add X X)"),
    ("arithmetic of the other shape", "(O.add X (v128.const i64x2 0 0))"),
    ("comparison of the other shape", "(O.eq X X)"),
    ("neg", "(S.neg X)"),
    ("abs", "(S.abs X)"),
    ("pmin, first", "(S.pmin X (v128.const i64x2 0 0))"),
    ("pmin, second", "(S.pmin (v128.const i64x2 0 0) (S.neg X)) (v128.or X)"),
    ("pmax, first", "(S.pmax X (v128.const i64x2 0 0))"),
    ("and", "(v128.and X (v128.const i64x2 -1 -1))"),
    ("or", "(v128.or X (v128.const i64x2 0 0))"),
    ("xor", "(v128.xor X (v128.const i64x2 0 0))"),
    ("not", "(v128.not X)"),
    ("andnot", "(v128.andnot X (v128.const i64x2 0 0))"),
    ("bitselect, first", "(v128.bitselect X (v128.const i64x2 0 0) (v128.const i64x2 -1 -1))"),
    ("bitselect, second", "(v128.bitselect (v128.const i64x2 0 0) X (v128.const i64x2 0 0))"),
    ("bitselect by it", "(v128.bitselect (v128.const i64x2 0 0) (v128.const i64x2 -1 -1) X)"),
    ("shuffle", "(i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7 X (v128.const i64x2 0 0))"),
    ("swizzle", "(i8x16.swizzle X (v128.const i8x16 3 2 1 0 7 6 5 4 11 10 9 8 15 14 13 12))"),
    (
        "swizzle by it",
        "(i8x16.swizzle (v128.const i8x16 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16) (i8x16.shr_u X (i32.const 4)))",
    ),
    ("extract_lane", "(E.splat (E.extract_lane 1 X))"),
    ("replace_lane", "(i8x16.replace_lane 0 X (i32.const 7))"),
    ("float lane", "(S.splat (S.extract_lane 1 X))"),
    ("replace another float lane", "(S.replace_lane 0 X (F.const 1))"),
    ("bitmask", "(i32x4.splat (i8x16.bitmask X))"),
    ("popcnt", "(i8x16.popcnt X)"),
    ("add of integers", "(i64x2.add X (v128.const i64x2 1 1))"),
    ("comparison of integers", "(i8x16.eq X (i8x16.splat (i32.const 0)))"),
    ("shift", "(i64x2.shl X (i32.const 1))"),
    ("extend", "(i32x4.extend_low_i16x8_s X)"),
    ("narrow", "(i8x16.narrow_i16x8_s X X)"),
    ("conversion of integers", "(f32x4.convert_i32x4_s X)"),
    ("under a call", "X (call $work)"),
];

const VECTOR_LOOP: &str = "(local.set $l X)
    (loop
      (local.set $l (S.add (local.get $l) (local.get $b)))
      (local.set $l (S.max (local.get $l) X))
      (br_if 0 (i32.lt_u (local.tee $zero (i32.add (local.get $zero) (i32.const 1))) (i32.const 5))))
    (local.get $l)";

/// Returns each operator, applied to the parameters.
fn makers(shape: &Shape) -> Vec<(&'static str, String)> {
    let binary = BINARY.iter().map(|name| (*name, format!("({}.{name} A B)", shape.name)));
    let unary = UNARY.iter().map(|name| (*name, format!("({}.{name} A)", shape.name)));
    let all = binary.chain(unary).chain([("conversion", shape.converted.to_owned())]);
    all.map(|(name, text)| (name, text.replace('A', "(local.get $a)").replace('B', "(local.get $b)"))).collect()
}

/// Returns the module's text, and the names of its functions.
pub fn module(shape: &Shape) -> (String, Vec<String>) {
    let Shape { name, ty, bits, .. } = shape;
    let (zero, identity) = if *ty == "v128" {
        ("(v128.const i64x2 0 0)".to_owned(), String::new())
    } else {
        (format!("({ty}.const 0)"), format!("{bits}.reinterpret_{ty}"))
    };
    let mut text = format!(
        "(module (memory 1) (global $global (mut {ty}) {zero}) (global $worked (mut i32) (i32.const 0))
           (type $bits (func (param {ty}) (result {bits}))) (table funcref (elem $bits))
           (func $bits (type $bits) (local.get 0) {identity})
           (func $work (global.set $worked (i32.add (global.get $worked) (i32.const 1))))\n"
    );
    let mut names = Vec::new();
    for (maker, made) in makers(shape) {
        text += &format!("(func $made_{maker} (param $a {ty}) (param $b {ty}) (result {ty}) {made})\n");
        for (place, body) in shape.places {
            let body = words(shape, body).replace("$made", &format!("$made_{maker}")).replace('X', &made);
            text += &format!(
                "(func (export \"{name}.{maker}: {place}\") (param $a {ty}) (param $b {ty}) (result {bits})
                   (local $l {ty}) (local $k {ty}) (local $zero i32) (local $one i32)
                   (local.set $one (i32.const 1)) {body})\n"
            );
            names.push(format!("{name}.{maker}: {place}"));
        }
    }
    (text + ")", names)
}

/// Replaces the capital letters by the names for the shape.
fn words(shape: &Shape, body: &str) -> String {
    let (other, lane, ints, vector) = match shape.name {
        "f32" | "f32x4" => ("f64x2", "f32", "i32x4", "f32x4"),
        _ => ("f32x4", "f64", "i64x2", "f64x2"),
    };
    let identity = format!("{}.reinterpret_{}", shape.bits, shape.ty);
    let pairs = [("S.", shape.name), ("O.", other), ("F.", lane), ("E.", ints), ("V.", vector), ("B.", shape.bits)];
    let mut body = body.to_owned();
    for (letter, word) in pairs {
        body = body.replace(letter, &format!("{word}."));
    }
    body = body.replace("(result B)", &format!("(result {})", shape.bits));
    body = body
        .replace("(param T)", &format!("(param {})", shape.ty))
        .replace("(result T)", &format!("(result {})", shape.ty));
    body.replace('R', &identity)
}

/// Returns numbers of which arithmetic makes NaNs, and NaNs with unusual bits.
pub fn arguments(shape: &Shape) -> Vec<Vec<Value>> {
    let (odd, quiet, infinite) = (0xfff4_0000_0000_0123_u64, 0xfffc_0000_0000_0456_u64, f64::INFINITY.to_bits());
    let (one, minus_one) = (1f64.to_bits(), (-1f64).to_bits());
    let doubles = [(0, 0), (infinite, infinite), (minus_one, 0), (odd, one), (one, quiet), (quiet, odd), (infinite, 0)];
    let single = |bits: u64| match bits {
        0xfff4_0000_0000_0123 => 0xffa0_0123,
        0xfffc_0000_0000_0456 => 0xffe0_0456,
        _ => (f64::from_bits(bits) as f32).to_bits(),
    };
    let value = |at: usize, pick: fn(&(u64, u64)) -> u64| {
        let lane = |lane: usize| pick(&doubles[(at + lane) % doubles.len()]);
        match shape.name {
            "f32" => Value::F32(single(lane(0))),
            "f64" => Value::F64(lane(0)),
            "f32x4" => Value::V128((0..4).fold(0, |bits, at| bits << 32 | u128::from(single(lane(at))))),
            _ => Value::V128((0..2).fold(0, |bits, at| bits << 64 | u128::from(lane(at)))),
        }
    };
    (0..doubles.len()).map(|at| vec![value(at, |pair| pair.0), value(at, |pair| pair.1)]).collect()
}
