//! Modules that do one thing again and again, and how long they take.

use std::time::{Duration, Instant};

use wasmtime::{Config, Engine, Linker, Module, OptLevel, Store, TypedFunc};

use super::chains::types;

/// How often the code stands in a turn of the loop: the difference between the two is what counts.
const FEW: usize = 32;
const MANY: usize = 160;

/// How long one reading takes, and how many there are; the least counts.
const READING: Duration = Duration::from_micros(300);
const READINGS: usize = 9;

/// Where no cache holds it.
const COLD_BYTES: usize = 64 << 20;
const LINE_BYTES: usize = 64;
const PAGES: u32 = 1 << 10;

pub struct Lab {
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

impl Lab {
    /// With `is_timed` unset, everything runs for one turn.
    pub fn new(is_timed: bool) -> Self {
        let mut config = Config::new();
        config.memory_reservation(4 << 30).memory_guard_size(32 << 20).cranelift_opt_level(OptLevel::None);
        Self { engine: Engine::new(&config).unwrap(), is_timed }
    }

    /// What `code` takes once.
    pub fn ns(&self, code: &str) -> f64 {
        let mut few = self.of(&module(code, FEW));
        let mut many = self.of(&module(code, MANY));
        self.difference(&mut few, &mut many) / (MANY - FEW) as f64
    }

    /// What a turn of a loop takes in which nothing else is.
    pub fn turn_ns(&self) -> f64 {
        self.least(&mut self.of(&module("", 0)))
    }

    /// What is no operator's own: memory that is in no cache, pages that are not there yet, branches that nobody could
    /// foresee, and the way to the host and back.
    pub fn apart(&self) -> Vec<(&'static str, f64)> {
        let random = "local.get $y_i64 i64.const 6364136223846793005 i64.mul i64.const 1442695040888963407 i64.add
            local.tee $y_i64 i64.const 63 i64.shr_u i32.wrap_i64";
        let branch = |taken: &str| self.ns(&format!("{random} {taken} if nop global.get $g global.set $g end"));
        vec![
            ("a load from 64 MiB, in no order", self.cold()),
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
        if let Some(memory) = instance.get_memory(&mut store, "cold") {
            one_way_round(memory.data_mut(&mut store));
        }
        let run = instance.get_typed_func(&mut store, "run").unwrap();
        Loop { store, run }
    }

    fn readings(&self) -> usize {
        if self.is_timed { READINGS } else { 1 }
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
        let pages = COLD_BYTES >> 16;
        let mut guest = self.of(&format!(
            "(module (memory (export \"cold\") {pages}) (func (export \"run\") (param $n i32) (result i32) (local $x i32)
                loop local.get $x i32.load local.set $x
                    local.get $n i32.const 1 i32.sub local.tee $n br_if 0 end local.get $x))"
        ));
        let turns = if self.is_timed { (COLD_BYTES / LINE_BYTES) as i32 } else { 1 };
        guest.time(turns).as_secs_f64() * 1e9 / f64::from(turns)
    }

    fn new_page(&self) -> f64 {
        let pages = if self.is_timed { PAGES } else { 1 };
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

/// Each line of the memory leads to another, in no order, through all of them (Sattolo's algorithm).
fn one_way_round(memory: &mut [u8]) {
    let mut order: Vec<u32> = (0..(memory.len() / LINE_BYTES) as u32).collect();
    let mut random = 1_u64;
    for last in (1..order.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, (random >> 33) as usize % last);
    }
    for (line, next) in order.iter().enumerate() {
        let at = line * LINE_BYTES;
        memory[at..at + 4].copy_from_slice(&(next * LINE_BYTES as u32).to_le_bytes());
    }
}

/// A module whose loop has `code` so many times in each turn.
fn module(code: &str, times: usize) -> String {
    let locals: String = types().iter().map(|ty| format!("(local $x_{ty} {ty}) (local $y_{ty} {ty})")).collect();
    // The compiler is not to know the operands.
    let operands: String = types()
        .iter()
        .zip(0..)
        .map(|(ty, at)| format!("i32.const {} {ty}.load local.set $y_{ty} ", 1024 + 16 * at))
        .collect();
    let body = format!("{code}\n").repeat(times);
    format!(
        r#"(module
            (type $unary (func (param i32) (result i32)))
            (import "host" "same" (func $host (type $unary)))
            (memory 4)
            (table $t 4096 4096 funcref)
            (global $g (mut i32) (i32.const 0))
            (global $f (mut funcref) (ref.func $same))
            (elem (table $t) (i32.const 0) func $same)
            (elem $elements func {elements})
            (elem $gone func $same)
            (data $bytes "{bytes}")
            (data $gone "-")
            (data (i32.const 1024) "\03\00\00\00")
            (data (i32.const 1040) "\03\00\00\00")
            (data (i32.const 1056) "\00\00\c0\3f")
            (data (i32.const 1072) "\00\00\00\00\00\00\f8\3f")
            (data (i32.const 1088) "\00\00\c0\3f\00\00\c0\3f\00\00\c0\3f\00\00\c0\3f")
            (func $same (type $unary) local.get 0)
            (func (export "run") (param $n i32) (result i32) {locals} (local $zero i32)
                {operands}
                i32.const 2048 i32.load local.set $zero
                block $out
                    loop $again
                        {body}
                        local.get $n i32.const 1 i32.sub local.tee $n br_if $again
                    end
                end
                local.get $x_i32))"#,
        elements = "$same ".repeat(2048),
        bytes = "-".repeat(16 << 10),
    )
}
