//! Most expensive byte to compile, found by hill climbing. A function is a sequence of pieces of
//! code, repeated within a construct. The climb changes one part of it at a time, and goes on from
//! a module that the gate admits and that takes longer a byte.

use std::path::Path;

use compute_host::sandbox::{Admitted, CompileEngine};

use super::Random;

/// Largest ratio of the time of a byte to that of the median real module.
const RATIO_AIM: f64 = 4.0;
/// Smallest module in bytes: below, the fixed cost of a compilation is most of the time.
const BYTES_MIN: usize = 10_000;

const STEPS: usize = 80;
const STARTS: usize = 4;
/// Functions in a module.
const COPIES_MAX: usize = 4_096;

/// Code that leaves the stack unchanged. `I` is the number of the repetition. The locals are `$a`
/// to `$d` of type i32, `$f` of f64 and `$v` of v128. The compiler does not know the parameters
/// `$p` and `$q`.
const PIECES: [&str; 34] = [
    "local.get $p i32.load offset=I local.get $a i32.add local.set $a",
    "local.get $p i32.load offset=I local.set $b",
    "local.get $p local.get $a i32.store offset=I",
    "local.get $a i32.const 5 i32.rotl local.get $p i32.mul local.set $a",
    "local.get $a local.get $b i32.xor local.set $c",
    "local.get $b local.get $c i32.mul local.get $a i32.add local.set $b",
    "local.get $a i32.const I i32.add local.set $a",
    "local.get $a i32.const I i32.xor local.tee $b i32.const 77 i32.xor local.set $c",
    "local.get $p if local.get $q local.get $a i32.store end",
    "local.get $q if local.get $p local.get $b i32.store else local.get $p local.get $c i32.store end",
    "local.get $p if i32.const I local.set $a end",
    "local.get $p if local.get $a br_if $out end",
    "local.get $p br_if $out",
    "local.get $p if br $out end",
    "block local.get $p br_if 0 i32.const I local.set $b end",
    "block local.get $p if br 1 end local.get $q if br 1 end local.get $a if br 1 end i32.const I local.set $a end",
    "loop local.get $p br_if 0 end",
    "loop local.get $a i32.const 1 i32.sub local.tee $a br_if 0 end",
    "block block block local.get $p br_table 0 1 2 end local.get $a local.set $b end local.get $c local.set $a end",
    "local.get $a local.get $b local.get $p select local.set $c",
    "local.get $p call $same local.set $d",
    "local.get $p local.get $q call_indirect (type $unary) local.set $d",
    "local.get $p if unreachable end",
    "local.get $f f64.sqrt local.set $f",
    "local.get $f local.get $f f64.add local.tee $f i64.reinterpret_f64 i32.wrap_i64 local.set $c",
    "local.get $f f64.ceil local.set $f",
    "local.get $f i32.trunc_sat_f64_u local.set $d local.get $d f64.convert_i32_u local.set $f",
    "local.get $v local.get $p i8x16.shr_s local.set $v",
    "local.get $v local.get $v f32x4.max local.set $v",
    "local.get $v i32x4.trunc_sat_f32x4_u local.set $v",
    "local.get $v local.get $v f32x4.add local.tee $v i32x4.extract_lane 0 local.set $c",
    "local.get $p local.get $q local.get $a memory.copy",
    "local.get $a memory.grow drop",
    "local.get $c local.set $a local.get $b local.set $c local.get $a local.set $b",
];

/// Constructs around the code.
const AROUND: [(&str, &str); 4] = [
    ("", ""),
    ("loop", "local.get $p br_if 0 end"),
    ("local.get $p if", "end"),
    ("block", "local.get $p br_if 0 i32.const 1 local.set $a end"),
];

#[derive(Clone)]
struct Shape {
    pieces: Vec<usize>,
    times: usize,
    around: usize,
    /// How many of those are in each other.
    depth: usize,
}

impl Shape {
    fn function(&self) -> String {
        let (open, close) = AROUND[self.around];
        let line: String = self.pieces.iter().map(|piece| format!("{}\n", PIECES[*piece])).collect();
        let lines: String = (0..self.times).map(|at| line.replace('I', &at.to_string())).collect();
        format!(
            "(func (param $p i32) (param $q i32) (result i32)
               (local $a i32) (local $b i32) (local $c i32) (local $d i32) (local $f f64) (local $v v128)
               block $out {} {lines} {} end
               local.get $a local.get $b i32.add local.get $c i32.add local.get $d i32.add
               local.get $f i32.trunc_sat_f64_s i32.add local.get $v i32x4.extract_lane 0 i32.add)\n",
            format!("{open}\n").repeat(self.depth),
            format!("{close}\n").repeat(self.depth),
        )
    }

    /// So many functions that the module is no small one.
    fn module(&self) -> Vec<u8> {
        let module = |copies: usize| {
            let functions = self.function().repeat(copies);
            wat::parse_str(format!(
                r#"(module (type $unary (func (param i32) (result i32)))
                     (memory (export "memory") 1) (table 4 funcref) (elem (i32.const 0) func $same)
                     (func $same (type $unary) local.get 0)
                     (func (export "run") (result i32) i32.const 0) {functions})"#
            ))
            .unwrap_or_else(|error| panic!("{error}\n{functions}"))
        };
        let one = module(1).len();
        module((BYTES_MIN / one.min(BYTES_MIN) + 1).min(COPIES_MAX))
    }

    fn changed(&self, random: &mut Random) -> Self {
        let mut next = self.clone();
        let (any, at) = (random.below(PIECES.len()), random.below(next.pieces.len()));
        match random.below(8) {
            0 => next.pieces[at] = any,
            1 | 2 if next.pieces.len() < 5 => next.pieces.insert(at, any),
            3 if next.pieces.len() > 1 => drop(next.pieces.remove(at)),
            4 => next.times = (next.times * 2).min(4_096),
            5 => next.times = (next.times * 3 / 4).max(1),
            6 => (next.around, next.depth) = (random.below(AROUND.len()), 1 + random.below(4)),
            _ => next.depth = if next.depth < 32 { next.depth * 2 } else { 1 },
        }
        next
    }

    fn shown(&self) -> String {
        let pieces: Vec<&str> = self.pieces.iter().map(|piece| PIECES[*piece]).collect();
        format!("{} x [{}] in {} x `{}`", self.times, pieces.join("; "), self.depth, AROUND[self.around].0)
    }
}

/// Microseconds a byte that compiling `wasm` takes; `None` for what the gate refuses.
fn us_per_byte(engine: &CompileEngine, wasm: &[u8]) -> Option<f64> {
    let metered = Admitted::new(wasm).ok()?.metered().ok()?;
    let reading = || {
        let before = super::lab::cpu_ns();
        engine.compile(&metered).unwrap();
        super::lab::cpu_ns() - before
    };
    // Other programs on the machine make it longer, never shorter.
    let ns = (0..2).map(|_| reading()).min_by(f64::total_cmp)?;
    Some(ns / 1e3 / wasm.len() as f64)
}

/// The median of the modules that compilers made.
fn real(engine: &CompileEngine) -> f64 {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = match std::env::var_os("REAL_MODULES") {
        Some(folder) => vec![folder.into()],
        None => ["benches/kernels/dist", "guest-workloads/dist"].map(|folder| root.join(folder)).to_vec(),
    };
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let wasm = files.filter(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    let wasm = wasm.map(|file| std::fs::read(file).unwrap()).filter(|wasm| (BYTES_MIN..1 << 20).contains(&wasm.len()));
    let mut speeds: Vec<f64> = wasm.filter_map(|wasm| us_per_byte(engine, &wasm)).collect();
    speeds.sort_by(f64::total_cmp);
    speeds.get(speeds.len() / 2).copied().unwrap_or(f64::NAN)
}

pub fn climb(is_timed: bool) {
    let engine = CompileEngine::new().unwrap();
    let cost = |shape: &Shape| us_per_byte(&engine, &shape.module());
    let alone = (0..PIECES.len())
        .flat_map(|piece| [16, 128].map(|times| Shape { pieces: vec![piece], times, around: 0, depth: 1 }));
    let tried = alone.step_by(if is_timed { 1 } else { 23 });
    let mut found: Vec<(f64, Shape)> = tried.filter_map(|shape| Some((cost(&shape)?, shape))).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut random = Random(2);
    let steps = if is_timed { STEPS } else { 2 };
    let mut climbed: Vec<(f64, Shape)> = found.iter().take(if is_timed { STARTS } else { 1 }).cloned().collect();
    for best in &mut climbed {
        for _ in 0..steps {
            let next = best.1.changed(&mut random);
            if let Some(us) = cost(&next).filter(|us| *us > best.0) {
                *best = (us, next);
            }
        }
    }
    climbed.sort_by(|a, b| b.0.total_cmp(&a.0));
    if !is_timed {
        return;
    }
    let median = real(&engine);
    println!("\ncompiling a byte of a real module takes {median:.2} us at the median");
    for (what, shapes) in [("alone, the dearest", &found[..10]), ("climbed", &climbed)] {
        println!("{what:<110} {:>6} {:>6}", "us/B", "ratio");
        shapes.iter().for_each(|(us, shape)| println!("  {:<108} {us:>6.2} {:>6.1}", shape.shown(), us / median));
    }
    let dearest = climbed.first().map_or(0.0, |(us, _)| us / median);
    println!("\nat most {dearest:.1} times the median real module, a byte; aim {RATIO_AIM}");
}
