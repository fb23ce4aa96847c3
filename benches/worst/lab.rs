//! Runs code as a guest, and tells what a unit of its gas took.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use compute_host::digest::HashThreads;
use compute_host::limits::Limits;
use compute_host::sandbox::{Admitted, Outcome, Sandbox, Work, with_guest_stack};
use compute_host::slice::Slice;

use super::Context;
use super::chains::types;

/// Enough to see, and soon over.
const GAS: u64 = 4_000_000;

/// How deep a recursion goes whose way back is looked at.
const FRAMES: u32 = 20_000;

const READINGS: usize = 3;

/// Memory in which loads go round in no order: more than caches hold.
const COLD_PAGES: u32 = 1_000;
const COLD_AT: u32 = 2 << 20;

pub struct Lab {
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

impl Lab {
    pub fn new() -> Self {
        Self { sandbox: Sandbox::new(1).unwrap(), threads: HashThreads::new(1) }
    }

    /// `None` for what the gate refuses, or does not end well.
    pub fn ns_per_gas(&self, code: &str, times: usize, context: Context) -> Option<f64> {
        self.measured(&module(code, times, context))
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
                let work = Work::new(Box::new(slice.open(&self.threads, &AtomicU64::new(0)).unwrap()), limits);
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

/// What this thread has had of a processor.
fn cpu_ns() -> f64 {
    // The kernel brings it up to date when the thread gives up the processor.
    std::thread::sleep(Duration::from_micros(50));
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    times.split(' ').next().unwrap().parse().unwrap()
}

/// A module that runs `code` so many times a turn, or a frame.
fn module(code: &str, times: usize, context: Context) -> String {
    let floats = ["f32", "f64", "f32x4", "f64x2"];
    let ty_of = |shape: &str| if shape.contains('x') { "v128".to_owned() } else { shape.to_owned() };
    let mut locals: String = types().iter().map(|ty| format!("(local $x_{ty} {ty}) (local $y_{ty} {ty})")).collect();
    let mut begin: String = types()
        .iter()
        .zip(0..)
        .map(|(ty, at)| format!("i32.const {} {ty}.load local.set $y_{ty} ", 1_024 + 16 * at))
        .collect();
    for (shape, at) in floats.iter().zip(0..) {
        for (which, offset) in [("d", 0), ("one", 16), ("n", 32), ("root", 0)] {
            locals += &format!("(local ${which}_{shape} {})", ty_of(shape));
            let load = 1_200 + 48 * at + offset;
            begin += &format!("i32.const {load} {}.load local.set ${which}_{shape} ", ty_of(shape));
        }
    }
    let body = format!("{code}\n").repeat(times);
    let fill = if code.contains("$cold") { "call $fill" } else { "" };
    // As much as is paid for by a few million units, whatever a turn costs: the limit of gas ends what is longer.
    let (run, frame) = match context {
        Context::Loop => (
            format!(
                "{locals} (local $n i32) (local $zero i32) (local $cold i32) {fill} {begin} i32.const {COLD_AT} local.set $cold
                 block $out loop $again {body}
                 local.get $n i32.const 1 i32.add local.tee $n i32.const {} i32.lt_u br_if $again end end i32.const 0",
                GAS / 8
            ),
            String::new(),
        ),
        Context::WayBack => (
            format!("{fill} i32.const {FRAMES} call $frame i32.const 0"),
            format!(
                "(func $frame (param $left i32) {locals} (local $zero i32) (local $cold i32)
                 local.get $left if local.get $left i32.const 1 i32.sub call $frame end
                 {begin} i32.const {COLD_AT} local.set $cold block $out {body} end)"
            ),
        ),
    };
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
            (import "compute" "blake3" (func $blake3 (param i32 i32 i32)))
            (import "compute" "blake3_update" (func $blake3_update (param i32 i32)))
            (import "compute" "blake3_finish" (func $blake3_finish (param i32)))
            (import "compute" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
            (import "compute" "input_blake3" (func $input_blake3 (param i64 i64 i32)))
            (import "compute" "output_write" (func $output_write (param i32 i32)))
            (import "compute" "args_len" (func $args_len (result i64)))
            (memory (export "memory") {COLD_PAGES})
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
            {frame}
            (func (export "run") (result i32) {run})
            (func $fill {round}))"#,
        elements = "$same ".repeat(2_048),
        filler = "-".repeat(16 << 10),
        round = round(),
    )
}

/// Makes each line of the memory lead to another, far from it: a step that has no factor in common with their number.
fn round() -> String {
    let lines = (COLD_PAGES << 10) - (COLD_AT >> 6);
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
