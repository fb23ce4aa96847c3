//! Measurement of code: bare, for the time of one run; as a guest, for the time of a unit of gas.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use compute_host::digest::HashThreads;
use compute_host::limits::Limits;
use compute_host::sandbox::{Admitted, Invocation, Outcome, Sandbox, with_guest_stack};
use compute_host::slice::Slice;
use wasmtime::{Config, Engine, Linker, Module, OptLevel, Store, TypedFunc};

use super::chains::types;

/// Enough to see, and soon over.
const GAS: u64 = 4_000_000;
/// Iterations of a loop. The gas limit of a few million units ends the loop, whatever one iteration
/// costs.
const ITERATIONS: u32 = GAS as u32 / 8;

/// How deep a recursion goes whose way back is looked at.
const FRAMES: u32 = 20_000;

const READINGS: usize = 3;

/// How often the code stands in a turn of the loop: the difference between the two is what counts.
const FEW: usize = 32;
const MANY: usize = 160;

/// How long one reading takes, and how many there are; the least counts.
const READING: Duration = Duration::from_micros(300);
const BARE_READINGS: usize = 9;

/// Pages that are added.
const NEW_PAGES: u32 = 1 << 10;

/// Memory in which loads go round in no order: more than caches hold.
const COLD_PAGES: u32 = 1_000;
const COLD_AT: u32 = 2 << 20;
const COLD_LINES: u32 = (COLD_PAGES << 10) - (COLD_AT >> 6);

/// How a guest runs code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    Loop,
    /// Behind a call, in each of many frames.
    WayBack,
}

/// Runs guests.
pub struct Guests {
    sandbox: Sandbox,
    threads: HashThreads,
}

/// A module that has much to be set up.
pub struct Start {
    pub name: &'static str,
    fields: fn() -> String,
}

impl Start {
    pub const ALL: [Self; 5] = [
        Self { name: "1,000 pages", fields: || "(memory (export \"memory\") 1000)".to_owned() },
        Self { name: "a byte of data in each of 2,000 pages of the system", fields: || data(2_000, 4_096, 1) },
        Self { name: "20,000 bytes of data, each by itself", fields: || data(20_000, 4, 1) },
        Self { name: "a mebibyte of data", fields: || data(1, 1, 1 << 20) },
        Self {
            name: "a table of 10,000 functions",
            fields: || {
                let functions = "0 ".repeat(10_000);
                format!("(memory (export \"memory\") 1) (table 10000 funcref) (elem (i32.const 0) func {functions})")
            },
        },
    ];
}

fn data(count: usize, apart: usize, bytes: usize) -> String {
    let segment = |at: usize| format!("(data (i32.const {}) \"{}\")\n", at * apart, "x".repeat(bytes));
    format!("(memory (export \"memory\") 200) {}", (0..count).map(segment).collect::<String>())
}

impl Guests {
    pub fn new() -> Self {
        Self { sandbox: Sandbox::new(1).unwrap(), threads: HashThreads::new(1) }
    }

    /// `None` for what the gate refuses, or does not end well.
    pub fn ns_per_gas(&self, code: &str, times: usize, context: Context) -> Option<f64> {
        self.measured(&guest(code, times, context, ITERATIONS))
    }

    pub fn start_ns_per_gas(&self, start: &Start) -> f64 {
        let run = "(func (export \"run\") (result i32) i32.const 0)";
        self.measured(&format!("(module {} {run})", (start.fields)())).unwrap_or(0.0)
    }

    fn measured(&self, text: &str) -> Option<f64> {
        let wasm = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let program = self.sandbox.compile(&Admitted::new(wasm).ok()?).ok()?;
        let slice = Slice::from_bytes(vec![7; 1 << 16]);
        let limits = Limits { gas: 60 * GAS, memory_bytes: 1 << 30, ..Limits::DEFAULT };
        with_guest_stack(|| {
            let reading = || {
                let work = Invocation::new(Box::new(slice.open(&self.threads, &AtomicU64::new(0)).unwrap()), limits);
                let before = cpu_ns();
                let execution = self.sandbox.run(&program, work).unwrap();
                let ns = cpu_ns() - before;
                let ended = matches!(execution.outcome, Outcome::Done | Outcome::OutOfGas | Outcome::OutputLimit);
                ended.then(|| ns / execution.usage.gas as f64)
            };
            (0..READINGS).filter_map(|_| reading()).min_by(f64::total_cmp)
        })
        .unwrap()
    }
}

/// Returns the CPU time of this thread in ns.
pub fn cpu_ns() -> f64 {
    // The kernel brings it up to date when the thread gives up the processor.
    std::thread::sleep(Duration::from_micros(50));
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    times.split(' ').next().unwrap().parse().unwrap()
}

/// Runs code without a meter, compiled without optimisation.
pub struct Bare {
    engine: Engine,
    is_timed: bool,
}

/// An instance with a function of a number of turns.
struct Loop {
    store: Store<()>,
    run: TypedFunc<i32, i32>,
}

impl Loop {
    fn time(&mut self, turns: i32) -> Duration {
        let start = Instant::now();
        self.run.call(&mut self.store, turns).unwrap();
        start.elapsed()
    }

    /// How many turns a reading has.
    fn turns(&mut self) -> i32 {
        let mut turns = 16;
        while self.time(turns) < READING && turns < 1 << 26 {
            turns *= 2;
        }
        turns
    }
}

impl Bare {
    /// With `is_timed` unset, everything runs for one turn.
    pub fn new(is_timed: bool) -> Self {
        let mut config = Config::new();
        config.memory_reservation(4 << 30).memory_guard_size(32 << 20).cranelift_opt_level(OptLevel::None);
        Self { engine: Engine::new(&config).unwrap(), is_timed }
    }

    /// Returns the time of one run of `code`.
    pub fn ns(&self, code: &str) -> f64 {
        let mut few = self.of(&bare(code, FEW));
        let mut many = self.of(&bare(code, MANY));
        self.difference(&mut few, &mut many) / (MANY - FEW) as f64
    }

    /// Returns the time of one iteration of an empty loop.
    pub fn turn_ns(&self) -> f64 {
        self.least(&mut self.of(&bare("", 0)))
    }

    /// Measures costs that belong to no operator: cache misses, page faults, mispredicted branches,
    /// and host calls.
    pub fn apart(&self) -> Vec<(&'static str, f64)> {
        let random = "local.get $y_i64 i64.const 6364136223846793005 i64.mul i64.const 1442695040888963407 i64.add
            local.tee $y_i64 i64.const 63 i64.shr_u i32.wrap_i64";
        let branch = |taken: &str| self.ns(&format!("{random} {taken} if nop global.get $g global.set $g end"));
        vec![
            ("a load from 62 MiB, in no order", self.cold()),
            ("a new page of 64 KiB, of which all is touched", self.new_page()),
            ("a branch that cannot be foreseen", branch("") - branch("i32.const 0 i32.and")),
            ("a call of the host", self.ns("local.get $x_i32 call $host local.set $x_i32")),
        ]
    }

    fn of(&self, text: &str) -> Loop {
        let module = Module::from_binary(&self.engine, &wat::parse_str(text).unwrap()).unwrap();
        let mut linker = Linker::new(&self.engine);
        linker.func_wrap("host", "same", |x: i32| x).unwrap();
        let mut store = Store::new(&self.engine, ());
        let instance = linker.instantiate(&mut store, &module).unwrap();
        let run = instance.get_typed_func(&mut store, "run").unwrap();
        Loop { store, run }
    }

    fn readings(&self) -> usize {
        if self.is_timed { BARE_READINGS } else { 1 }
    }

    /// By how much a turn of one loop takes longer than one of the other.
    fn difference(&self, less: &mut Loop, more: &mut Loop) -> f64 {
        let turns = if self.is_timed { more.turns() } else { 1 };
        let mut best = [Duration::MAX; 2];
        for _ in 0..self.readings() {
            best = [best[0].min(less.time(turns)), best[1].min(more.time(turns))];
        }
        (best[1].as_secs_f64() - best[0].as_secs_f64()) * 1e9 / f64::from(turns)
    }

    fn least(&self, guest: &mut Loop) -> f64 {
        let turns = if self.is_timed { guest.turns() } else { 1 };
        let best = (0..self.readings()).map(|_| guest.time(turns)).min().unwrap_or_default();
        best.as_secs_f64() * 1e9 / f64::from(turns)
    }

    fn cold(&self) -> f64 {
        let functions = format!(
            "(func (export \"run\") (param $n i32) (result i32) (local $x i32) i32.const {COLD_AT} local.set $x
                loop local.get $x i32.load local.set $x
                    local.get $n i32.const 1 i32.sub local.tee $n br_if 0 end local.get $x)
             (func $fill {}) (start $fill)",
            round()
        );
        let mut guest = self.of(&setting("", COLD_PAGES, &functions));
        let turns = if self.is_timed { COLD_LINES as i32 } else { 1 };
        guest.time(turns).as_secs_f64() * 1e9 / f64::from(turns)
    }

    fn new_page(&self) -> f64 {
        let pages = if self.is_timed { NEW_PAGES } else { 1 };
        let reading = || {
            let mut guest =
                self.of("(module (memory 0) (func (export \"run\") (param $n i32) (result i32) (local $at i32)
                    loop i32.const 1 memory.grow i32.const 16 i32.shl local.set $at
                        loop local.get $at i32.const 1 i32.store
                            local.get $at i32.const 4096 i32.add local.tee $at i32.const 0xffff i32.and br_if 0 end
                        local.get $n i32.const 1 i32.sub local.tee $n br_if 0 end local.get $at))");
            guest.time(pages as i32)
        };
        let best = (0..self.readings()).map(|_| reading()).min().unwrap_or_default();
        best.as_secs_f64() * 1e9 / f64::from(pages)
    }
}

/// Returns a guest that runs `code` `times` times in each iteration or frame.
pub fn guest(code: &str, times: usize, context: Context, iterations: u32) -> String {
    let floats = ["f32", "f64", "f32x4", "f64x2"];
    let ty_of = |shape: &str| if shape.contains('x') { "v128".to_owned() } else { shape.to_owned() };
    let (mut locals, mut begin) = operands();
    for (shape, at) in floats.iter().zip(0..) {
        for (which, offset) in [("d", 0), ("one", 16), ("n", 32), ("root", 0)] {
            locals += &format!("(local ${which}_{shape} {})", ty_of(shape));
            let load = 1_200 + 48 * at + offset;
            begin += &format!("i32.const {load} {}.load local.set ${which}_{shape} ", ty_of(shape));
        }
    }
    let body = format!("{code}\n").repeat(times);
    let fill = if code.contains("$cold") { "call $fill" } else { "" };
    let (run, frame) = match context {
        Context::Loop => (
            format!(
                "{locals} (local $n i32) (local $cold i32) {fill} {begin} i32.const {COLD_AT} local.set $cold
                 block $out loop $again {body}
                 local.get $n i32.const 1 i32.add local.tee $n i32.const {iterations} i32.lt_u br_if $again end end i32.const 0"
            ),
            String::new(),
        ),
        Context::WayBack => (
            format!("{fill} i32.const {FRAMES} call $frame i32.const 0"),
            format!(
                "(func $frame (param $left i32) {locals} (local $cold i32)
                 local.get $left if local.get $left i32.const 1 i32.sub call $frame end
                 {begin} i32.const {COLD_AT} local.set $cold block $out {body} end)"
            ),
        ),
    };
    let imports = r#"
        (import "compute" "blake3" (func $blake3 (param i32 i32 i32)))
        (import "compute" "blake3_update" (func $blake3_update (param i32 i32)))
        (import "compute" "blake3_finish" (func $blake3_finish (param i32)))
        (import "compute" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
        (import "compute" "input_blake3" (func $input_blake3 (param i64 i64 i32)))
        (import "compute" "output_write" (func $output_write (param i32 i32)))
        (import "compute" "args_len" (func $args_len (result i64)))"#;
    let functions = format!("{frame} (func (export \"run\") (result i32) {run}) (func $fill {})", round());
    setting(imports, COLD_PAGES, &functions)
}

/// Returns locals `$x_TYPE`, `$y_TYPE` and `$zero`, and code that loads their values, which the
/// compiler cannot know.
fn operands() -> (String, String) {
    let locals: String = types().iter().map(|ty| format!("(local $x_{ty} {ty}) (local $y_{ty} {ty})")).collect();
    let load = |(ty, at): (&&str, i32)| format!("i32.const {} {ty}.load local.set $y_{ty} ", 1_024 + 16 * at);
    let begin: String = types().iter().zip(0..).map(load).collect();
    (locals + "(local $zero i32)", begin + "i32.const 2048 i32.load local.set $zero ")
}

/// Builds a module with everything that code refers to: a memory, a table, globals, segments, and
/// two functions of one type.
fn setting(imports: &str, pages: u32, functions: &str) -> String {
    let bytes = |numbers: &[&[u8]]| numbers.concat().iter().map(|byte| format!("\\{byte:02x}")).collect::<String>();
    let single = |number: f32| number.to_le_bytes().repeat(4);
    let double = |number: f64| number.to_le_bytes().repeat(2);
    let of = |wide: bool| {
        if wide {
            [double(1e-310), double(0.999_999_9), double(f64::MIN_POSITIVE)].concat()
        } else {
            [single(1e-40), single(0.999_99), single(f32::MIN_POSITIVE)].concat()
        }
    };
    let numbers = bytes(&[&of(false), &of(true), &of(false), &of(true)]);
    format!(
        r#"(module
            (type $unary (func (param i32) (result i32)))
            {imports}
            (memory (export "memory") {pages})
            (table $t 4096 4096 funcref)
            (global $g (mut i32) (i32.const 0))
            (global $f (mut funcref) (ref.func $same))
            (elem (table $t) (i32.const 0) func $same $other $same $other)
            (elem $elements func {elements})
            (elem $gone func $same)
            (data $bytes "{filler}")
            (data $gone "-")
            (data (i32.const 1024) "\03\00\00\00")
            (data (i32.const 1040) "\03\00\00\00")
            (data (i32.const 1056) "\00\00\c0\3f")
            (data (i32.const 1072) "\00\00\00\00\00\00\f8\3f")
            (data (i32.const 1088) "\00\00\c0\3f\00\00\c0\3f\00\00\c0\3f\00\00\c0\3f")
            (data (i32.const 1200) "{numbers}")
            (func $same (type $unary) local.get 0)
            (func $other (type $unary) local.get 0 i32.const 1 i32.xor)
            {functions})"#,
        elements = "$same ".repeat(2_048),
        filler = "-".repeat(16 << 10),
    )
}

/// A module whose loop has `code` so many times in each turn.
fn bare(code: &str, times: usize) -> String {
    let (locals, begin) = operands();
    let body = format!("{code}\n").repeat(times);
    let run = format!(
        "(func (export \"run\") (param $n i32) (result i32) {locals} {begin}
            block $out
                loop $again
                    {body}
                    local.get $n i32.const 1 i32.sub local.tee $n br_if $again
                end
            end
            local.get $x_i32)"
    );
    setting(r#"(import "host" "same" (func $host (type $unary)))"#, 4, &run)
}

/// Links each cache line of the memory to another, far from it. The step has no common factor with
/// the number of lines.
fn round() -> String {
    let lines = COLD_LINES;
    let step = 386_141;
    format!(
        "(local $at i32)
         loop (i32.store
                (i32.add (i32.const {COLD_AT}) (i32.shl (local.get $at) (i32.const 6)))
                (i32.add (i32.const {COLD_AT}) (i32.shl (i32.rem_u (i32.add (local.get $at) (i32.const {step})) (i32.const {lines}))
                    (i32.const 6))))
           (br_if 0 (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const {lines})))
         end"
    )
}
