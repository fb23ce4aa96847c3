//! Generator of programs: well-typed, with many floats, branches and calls. Most of them end.

use crate::engines::{Value, is_admissible};

const TYPES: [&str; 5] = ["i32", "i64", "f32", "f64", "v128"];
const FUNCTIONS: usize = 6;
const LOCALS: usize = 3;

pub struct Program {
    pub wasm: Vec<u8>,
    pub calls: Vec<(String, Vec<Value>)>,
    pub globals: Vec<String>,
}

struct Maker {
    noise: blake3::OutputReader,
    /// Index of the function under construction. It calls the functions below, and sometimes
    /// itself.
    function: usize,
    /// Result type of each function.
    results: Vec<&'static str>,
    /// Enclosing labels. Those of loops and those with a result are no branch targets.
    labels: Vec<bool>,
    loops: usize,
}

impl Program {
    pub fn new(seed: u64) -> Self {
        let noise = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut maker = Maker { noise, function: 0, results: Vec::new(), labels: Vec::new(), loops: 0 };
        let text = maker.module();
        let wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert!(is_admissible(&wasm), "{text}");
        let exports = (0..FUNCTIONS).map(|function| format!("f{function}"));
        let calls = exports.map(|export| (export, maker.arguments())).collect();
        Self { wasm, calls, globals: TYPES.iter().map(|ty| format!("g{ty}")).collect() }
    }
}

impl Maker {
    fn below(&mut self, end: usize) -> usize {
        let mut bytes = [0; 4];
        self.noise.fill(&mut bytes);
        u32::from_le_bytes(bytes) as usize % end
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn bits(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.noise.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn arguments(&mut self) -> Vec<Value> {
        let vector = u128::from(self.bits()) << 64 | u128::from(self.bits());
        let (single, double) = (self.float(32) as u32, self.float(64));
        let small = self.below(50) as u32;
        vec![Value::I32(small), Value::I64(self.bits()), Value::F32(single), Value::F64(double), Value::V128(vector)]
    }

    /// Returns the bits of a float, often one from which arithmetic makes NaNs.
    fn float(&mut self, width: u32) -> u64 {
        let (sign, exponents, mantissa) = match width {
            32 => (1 << 31, 0x7f80_0000, 0x007f_ffff),
            _ => (1 << 63, 0x7ff0_0000_0000_0000, 0x000f_ffff_ffff_ffff),
        };
        let bits = self.bits();
        match self.below(5) {
            0 => 0,
            1 => exponents | (bits & sign),
            2 => exponents | (bits & (sign | mantissa)),
            _ => {
                if width == 32 {
                    u64::from((bits as i8 as f32).to_bits())
                } else {
                    (bits as i8 as f64).to_bits()
                }
            }
        }
    }

    fn module(&mut self) -> String {
        let mut text = String::from("(module (memory (export \"memory\") 1 4) (table 8 funcref)\n");
        for ty in TYPES {
            text += &format!("(global $g{ty} (export \"g{ty}\") (mut {ty}) {})\n", self.constant(ty));
        }
        let params: String = TYPES.iter().map(|ty| format!(" (param $p{ty} {ty})")).collect();
        for function in 0..FUNCTIONS {
            let result = self.of(&TYPES);
            (self.function, self.loops) = (function, 0);
            self.results.push(result);
            self.labels = vec![];
            let body = self.statements(12, 4);
            let last = self.expression(result, 4);
            text += &format!("(func $f{function} (export \"f{function}\"){params} (result {result})\n");
            for (ty, local) in TYPES.iter().flat_map(|ty| (0..LOCALS).map(move |local| (ty, local))) {
                text += &format!(" (local $l{local}{ty} {ty})");
            }
            (0..self.loops).for_each(|at| text += &format!(" (local $turns{at} i32)"));
            text += &format!("\n{body}{last})\n");
        }
        text += "(elem (i32.const 0)";
        (0..FUNCTIONS).for_each(|function| text += &format!(" $f{function}"));
        text + "))"
    }

    fn constant(&mut self, ty: &str) -> String {
        match ty {
            "i32" => format!("(i32.const {})", self.bits() as i32 >> self.below(32)),
            "i64" => format!("(i64.const {})", self.bits() as i64 >> self.below(64)),
            "v128" if self.below(2) == 0 => "(v128.const i64x2 0 0)".to_owned(),
            "v128" => format!("(v128.const i64x2 {} {})", self.float(64) as i64, self.float(64) as i64),
            _ => {
                let (width, digits) = if ty == "f32" { (32, 23) } else { (64, 52) };
                let bits = self.float(width);
                let (sign, payload) = (bits >> (width - 1), bits & ((1 << digits) - 1));
                let sign = if sign == 1 { "-" } else { "" };
                match (bits >> digits) & ((1 << (width - 1 - digits)) - 1) {
                    255 if width == 32 && payload != 0 => format!("({ty}.const {sign}nan:{payload:#x})"),
                    2047 if payload != 0 => format!("({ty}.const {sign}nan:{payload:#x})"),
                    0 => format!("({ty}.const {sign}0)"),
                    _ if width == 32 => format!("({ty}.const {})", f32::from_bits(bits as u32)),
                    _ => format!("({ty}.const {})", f64::from_bits(bits)),
                }
            }
        }
    }

    fn statements(&mut self, most: usize, depth: usize) -> String {
        (0..=self.below(most)).map(|_| self.statement(depth) + "\n").collect()
    }

    fn statement(&mut self, depth: usize) -> String {
        let ty = self.of(&TYPES);
        let deeper = depth.saturating_sub(1);
        match self.below(if depth == 0 { 7 } else { 14 }) {
            0..=3 => format!("(local.set $l{}{ty} {})", self.below(LOCALS), self.expression(ty, depth)),
            4 => format!("(global.set $g{ty} {})", self.expression(ty, depth)),
            5 => format!("({ty}.store {} {})", self.address(), self.expression(ty, depth)),
            6 => format!("(drop {})", self.expression(ty, depth)),
            7 => {
                let condition = self.expression("i32", deeper);
                let (then, otherwise) = (self.block(deeper, true), self.block(deeper, true));
                format!("(if {condition} (then {then}) (else {otherwise}))")
            }
            8 => format!("(block {})", self.block(deeper, true)),
            9 | 10 => self.counted_loop(deeper),
            11 => self.branch(deeper),
            12 => {
                let (to, from, length) = (self.address(), self.address(), self.below(5_000));
                match self.below(40) {
                    0..20 => format!("(memory.fill {to} {from} (i32.const {length}))"),
                    20..30 => format!("(memory.copy {to} {from} (i32.const {length}))"),
                    30..39 => format!("(drop (memory.grow (i32.const {})))", self.below(3)),
                    _ => format!("(memory.copy {to} {from} {})", self.expression("i32", deeper)),
                }
            }
            _ => match self.below(12) {
                0 => format!("(return {})", self.expression(self.results[self.function], deeper)),
                1 if self.below(9) == 0 => "(unreachable)".to_owned(),
                _ => format!("(drop {})", self.call(self.results[0], 0, deeper)),
            },
        }
    }

    fn block(&mut self, depth: usize, is_target: bool) -> String {
        self.labels.push(is_target);
        let body = self.statements(5, depth);
        self.labels.pop();
        body
    }

    fn counted_loop(&mut self, depth: usize) -> String {
        let turns = self.loops;
        self.loops += 1;
        let body = self.block(depth, false);
        let last = 1 + self.below(4);
        format!(
            "(local.set $turns{turns} (i32.const 0)) (loop {body} (br_if 0 (i32.lt_u (local.tee $turns{turns}
              (i32.add (local.get $turns{turns}) (i32.const 1))) (i32.const {last}))))"
        )
    }

    fn branch(&mut self, depth: usize) -> String {
        let targets: Vec<usize> = (0..self.labels.len()).filter(|up| self.labels[self.labels.len() - 1 - up]).collect();
        if targets.is_empty() {
            return "(nop)".to_owned();
        }
        let mut target = || targets[self.below(targets.len())];
        let (one, two, three) = (target(), target(), target());
        match self.below(4) {
            0 => format!("(br {one})"),
            1 => format!("(br_table {one} {two} {three} {})", self.expression("i32", depth)),
            _ => format!("(br_if {one} {})", self.expression("i32", depth)),
        }
    }

    fn address(&mut self) -> String {
        let mask = if self.below(600) == 0 { -1 } else { 0xfff0 };
        format!("(i32.and {} (i32.const {mask}))", self.expression("i32", 1))
    }

    fn call(&mut self, ty: &str, callee: usize, depth: usize) -> String {
        let arguments: Vec<String> = TYPES.iter().map(|ty| self.expression(ty, depth.min(1))).collect();
        let arguments = arguments.join(" ");
        if self.below(3) > 0 {
            return format!("(call $f{callee} {arguments})");
        }
        let at = if self.below(40) == 0 { self.below(10) } else { callee };
        let params = TYPES.join(" ");
        format!("(call_indirect (param {params}) (result {ty}) {arguments} (i32.const {at}))")
    }

    fn expression(&mut self, ty: &'static str, depth: usize) -> String {
        if depth == 0 {
            return match self.below(6) {
                0 => self.constant(ty),
                1 => format!("(local.get $p{ty})"),
                2 => format!("(global.get $g{ty})"),
                _ => format!("(local.get $l{}{ty})", self.below(LOCALS)),
            };
        }
        let deeper = depth - 1;
        match self.below(20) {
            0 => format!("({ty}.load {})", self.address()),
            1 => format!("(local.tee $l{}{ty} {})", self.below(LOCALS), self.expression(ty, deeper)),
            2 => {
                let (one, two) = (self.expression(ty, deeper), self.expression(ty, deeper));
                format!("(select {one} {two} (local.get $l{}i32))", self.below(LOCALS))
            }
            3 => self.valued_block(ty, deeper),
            4 => {
                let callees: Vec<usize> = (0..self.function).filter(|callee| self.results[*callee] == ty).collect();
                match callees.len() {
                    0 => self.expression(ty, deeper),
                    count => {
                        let callee = callees[self.below(count)];
                        self.call(ty, callee, deeper)
                    }
                }
            }
            _ => self.operator(ty, deeper),
        }
    }

    fn valued_block(&mut self, ty: &'static str, depth: usize) -> String {
        self.labels.push(false);
        let (one, two) = (self.expression(ty, depth), self.expression(ty, depth));
        let statements = self.statements(2, depth);
        self.labels.pop();
        let condition = self.expression("i32", depth);
        match self.below(4) {
            0 => format!("(block (result {ty}) (drop (br_if 0 {one} {condition})) {statements} {two})"),
            1 => format!("(block (result {ty}) {statements} (br_table 0 0 {one} {condition}))"),
            2 => format!("{one} (block (param {ty}) (result {ty}) {statements})"),
            _ => format!("(if (result {ty}) {condition} (then {statements} {one}) (else {two}))"),
        }
    }

    fn operator(&mut self, ty: &'static str, depth: usize) -> String {
        let float = ["add", "sub", "mul", "div", "min", "max"];
        let unary = ["sqrt", "ceil", "floor", "trunc", "nearest", "neg", "abs"];
        let (names, operands): (&[&str], &[&'static str]) = match (ty, self.below(4)) {
            ("i32", 0) => (&["i32.eqz", "i32.clz", "i32.extend8_s"], &["i32"]),
            ("i32", 1) => (&["f32.lt", "f32.eq", "f32.ge"], &["f32", "f32"]),
            ("i32", 2) => (
                &["i32.trunc_sat_f64_s", "i64.eqz", "i32.reinterpret_f32", "i8x16.bitmask", "i32x4.extract_lane 2"],
                &[],
            ),
            ("i32", _) => {
                (&["i32.add", "i32.sub", "i32.mul", "i32.xor", "i32.shl", "i32.lt_s", "i32.eq"], &["i32", "i32"])
            }
            ("i64", 0) => {
                (&["i64.extend_i32_s", "i64.reinterpret_f64", "i64.trunc_sat_f32_u", "i64x2.extract_lane 1"], &[])
            }
            ("i64", _) => (&["i64.add", "i64.sub", "i64.mul", "i64.or", "i64.rotl", "i64.xor"], &["i64", "i64"]),
            ("f32", 0) => {
                (&["f32.demote_f64", "f32.convert_i32_s", "f32.reinterpret_i32", "f32x4.extract_lane 3"], &[])
            }
            ("f64", 0) => {
                (&["f64.promote_f32", "f64.convert_i64_u", "f64.reinterpret_i64", "f64x2.extract_lane 0"], &[])
            }
            ("v128", 0) => (&["f32x4.splat", "f64x2.splat", "i32x4.splat", "i64x2.splat"], &[]),
            ("v128", 1) => {
                (&["v128.xor", "i8x16.add", "f32x4.pmin", "f64x2.pmax", "f32x4.eq", "i64x2.mul"], &["v128", "v128"])
            }
            (_, 1) => return format!("({} {})", self.shaped(ty, &unary), self.expression(ty, depth)),
            (_, 2) if ty != "v128" => (&["copysign"], &[]),
            _ => (&[], &[]),
        };
        if names.is_empty() || names == ["copysign"] {
            let list = if names.is_empty() { &float[..] } else { names };
            let name = self.shaped(ty, list);
            return format!("({name} {} {})", self.expression(ty, depth), self.expression(ty, depth));
        }
        let name = self.of(names);
        let operands: Vec<&'static str> = if operands.is_empty() { vec![operand(name)] } else { operands.to_vec() };
        let operands: Vec<String> = operands.into_iter().map(|ty| self.expression(ty, depth)).collect();
        format!("({name} {})", operands.join(" "))
    }

    fn shaped(&mut self, ty: &'static str, names: &[&str]) -> String {
        let shape = if ty == "v128" { self.of(&["f32x4", "f64x2"]) } else { ty };
        format!("{shape}.{}", self.of(names))
    }
}

/// Returns the operand type of a conversion, which is part of its name.
fn operand(name: &str) -> &'static str {
    let (of, rest) = name.split_once('.').expect("an operator has a shape");
    match rest.split(['_', ' ']).next() {
        Some("extract" | "bitmask") => "v128",
        Some("splat") => match of {
            "f32x4" => "f32",
            "f64x2" => "f64",
            "i32x4" => "i32",
            _ => "i64",
        },
        Some("eqz") => "i64",
        _ => TYPES.iter().find(|ty| rest.contains(*ty)).expect("a conversion names what it reads"),
    }
}
