//! Delay between a run's deadline and its end, in the code with the longest time between two checks
//! of the clock. The time of a quantum of gas on each engine bounds that delay for all code.

use std::path::Path;
use std::time::{Duration, Instant};

use compute_host::digest::Digest;
use compute_host::limits::Limits;
use compute_host::sandbox::{
    EngineKind, Input, InputError, Invocation, Reference, RunControl, SandboxError, meter, with_guest_stack,
};

const DEADLINE: Duration = Duration::from_millis(50);

/// Endless guests, each with a different operator.
const GUESTS: [(&str, &str); 6] = [
    ("a loop", "(loop $l (br $l)) unreachable"),
    (
        "memory.fill of 1 GiB that was never touched",
        "(drop (memory.grow (i32.const 16000)))
         (loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x3e000000)) (br $l)) unreachable",
    ),
    (
        "memory.copy of 500 MiB",
        "(drop (memory.grow (i32.const 16000)))
         (loop $l (memory.copy (i32.const 0) (i32.const 0x1f000000) (i32.const 0x1f000000)) (br $l)) unreachable",
    ),
    ("input_blake3 of 1 PiB", "(call $hash (i64.const 0) (i64.const 0x3ffffffffffff) (i32.const 0)) unreachable"),
    (
        "blake3 of 1 GiB",
        "(drop (memory.grow (i32.const 16000)))
         (loop $l (call $blake3 (i32.const 0) (i32.const 0x3e000000) (i32.const 0)) (br $l)) unreachable",
    ),
    (
        "input_read of 1 GiB",
        "(drop (memory.grow (i32.const 16000)))
         (loop $l (drop (call $read (i32.const 0) (i64.const 0) (i32.const 0x3e000000))) (br $l)) unreachable",
    ),
];

struct Long;

impl Input for Long {
    fn len(&self) -> u64 {
        1 << 50
    }

    fn digest(&self) -> Digest {
        Digest::of(b"")
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), InputError> {
        buffer.fill(offset as u8);
        Ok(())
    }
}

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    with_guest_stack(|| {
        lateness(if is_test { 1 } else { 20 });
        quanta(if is_test { 5 << 20 } else { 300 << 20 });
    })
    .unwrap();
}

fn lateness(rounds: usize) {
    println!(
        "\n| milliseconds after its deadline of {} ms, median (worst of {rounds}) | {} |",
        DEADLINE.as_millis(),
        names()
    );
    println!("|---|{}", "---|".repeat(EngineKind::ALL.len()));
    let limits = Limits { gas: u64::MAX, memory_bytes: 2 << 30, ..Limits::DEFAULT };
    for (name, body) in GUESTS {
        let wat = format!(
            r#"(module (import "compute" "input_blake3" (func $hash (param i64 i64 i32)))
                 (import "compute" "blake3" (func $blake3 (param i32 i32 i32)))
                 (import "compute" "input_read" (func $read (param i32 i64 i32) (result i32)))
                 (memory (export "memory") 1) (func (export "run") (result i32) {body}))"#
        );
        let module = meter::metered(&wat::parse_str(wat).unwrap()).unwrap();
        let cells = EngineKind::ALL.map(|engine| {
            let reference = Reference::new(engine, &module).unwrap();
            let mut late: Vec<f64> = (0..rounds)
                .map(|_| {
                    let deadline = Instant::now() + DEADLINE;
                    let watch = RunControl { deadline: Some(deadline), ..RunControl::default() };
                    let ended = reference.run(Invocation { watch, ..Invocation::new(Box::new(Long), limits) });
                    let late = deadline.elapsed().as_secs_f64() * 1000.0;
                    assert!(matches!(ended, Err(SandboxError::Deadline)), "{ended:?}");
                    late
                })
                .collect();
            late.sort_by(f64::total_cmp);
            format!("{:.1} ({:.1})", late[rounds / 2], late[rounds - 1])
        });
        println!("| {name} | {} |", cells.join(" | "));
    }
}

/// Measures each kernel, up to `gas` or its end.
fn quanta(gas: u64) {
    println!("\n| milliseconds a quantum of {} gas | {} |", meter::QUANTUM, names());
    println!("|---|{}", "---|".repeat(EngineKind::ALL.len()));
    let mut kernels: Vec<_> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/kernels/dist"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    kernels.sort();
    for kernel in kernels {
        let module = meter::metered(&std::fs::read(&kernel).unwrap()).unwrap();
        let cells = EngineKind::ALL.map(|engine| {
            let reference = Reference::new(engine, &module).unwrap();
            let gas = if engine == EngineKind::Cranelift || engine == EngineKind::Winch { gas } else { gas / 10 };
            let start = Instant::now();
            let limits = Limits { gas, ..Limits::DEFAULT };
            let execution = reference.run(Invocation::new(Box::new(Long), limits)).unwrap();
            let quanta = execution.usage.gas as f64 / meter::QUANTUM as f64;
            format!("{:.2}", start.elapsed().as_secs_f64() * 1000.0 / quanta)
        });
        println!("| {} | {} |", kernel.file_stem().unwrap().display(), cells.join(" | "));
    }
}

fn names() -> String {
    EngineKind::ALL.map(|engine| engine.name()).join(" | ")
}
