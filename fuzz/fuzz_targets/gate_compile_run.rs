//! Fuzz target: a stranger's bytes pass through the gate, the compiler, and a run with small
//! limits. The first byte says whether the rest is a module, or the choices for a generator of
//! valid modules. A panic is a finding, and so is an input that exceeds libFuzzer's `-timeout`.
#![no_main]

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};

use arbitrary::Unstructured;
use compute_host::digest::HashThreads;
use compute_host::limits::Limits;
use compute_host::sandbox::{
    Admitted, Compiler, GateLimits, Input, NativeCode, Outcome, GateReport, Sandbox, SandboxError, Invocation,
};
use compute_host::slice::Slice;
use libfuzzer_sys::{Corpus, fuzz_target};
use wasm_smith::{Config, Module};

const LIMITS: Limits = Limits { gas: 200_000, memory_bytes: 4 << 16, output_bytes: 1000, log_bytes: 100 };

static COMPILER: LazyLock<Compiler> = LazyLock::new(|| Compiler::in_process().expect("an engine can be made"));
static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new(1).expect("there is address space for one guest"));
static SHAPE: LazyLock<Config> = LazyLock::new(shape);

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Some((kind, rest)) = bytes.split_first() else { return Corpus::Reject };
    let is_generated = kind % 2 == 1;
    let Some(wasm) = (if is_generated { generated(rest) } else { Some(rest.to_vec()) }) else { return Corpus::Reject };
    let admitted = match Admitted::new(wasm.as_slice()) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            assert!(refusal.to_string().len() < 2000, "a refusal is a sentence");
            let report = GateReport::of(&wasm, &GateLimits::DEFAULT);
            assert!(!report.refusals.is_empty(), "the report knows nothing of {refusal}");
            return Corpus::Keep;
        }
    };
    run(&admitted);
    Corpus::Keep
});

fn run(admitted: &Admitted) {
    let code = match COMPILER.compile(admitted) {
        Ok(code) => code,
        // Only the compiler can tell that the native code is too long.
        Err(SandboxError::Compile(verdict)) if verdict.contains("native code") => return,
        Err(SandboxError::Compile(verdict)) => panic!("the gate admits what does not compile: {verdict}"),
        Err(error) => panic!("the host failed: {error}"),
    };
    // SAFETY: the code is what our own compiler gave just now, for an engine of the same settings.
    let program = unsafe { SANDBOX.load(NativeCode::of(&code).expect("there is memory for it")) }
        .expect("what was compiled can be loaded");
    let input: Box<dyn Input> = {
        let slice = Slice::from_bytes(&b"abcdefghij"[..]);
        Box::new(slice.open(&HashThreads::new(1), &AtomicU64::new(0)).expect("it is in memory"))
    };
    let work = Invocation {
        args: (*b"arguments").into(),
        assets: Arc::new([(*b"weights").into()]),
        ..Invocation::new(input, LIMITS)
    };
    let execution = SANDBOX.run(&program, work).expect("a guest's fault is an outcome");
    assert_eq!(execution.proof.is_some(), execution.outcome == Outcome::Done);
    assert!(execution.output.len() as u64 <= LIMITS.output_bytes);
    assert!(execution.log.len() as u64 <= LIMITS.log_bytes);
    assert!(execution.usage.gas <= LIMITS.gas);
    assert!(execution.usage.memory_bytes <= LIMITS.memory_bytes);
}

/// Returns a valid module of the ABI's shape, made from `choices`.
fn generated(choices: &[u8]) -> Option<Vec<u8>> {
    Some(Module::new(SHAPE.clone(), &mut Unstructured::new(choices)).ok()?.to_bytes())
}

/// Returns the configuration with the WebAssembly features that the gate allows.
fn shape() -> Config {
    let wat = r#"(module
        (import "compute" "input_len" (func (result i64)))
        (import "compute" "input_read" (func (param i32 i64 i32) (result i32)))
        (import "compute" "input_blake3" (func (param i64 i64 i32)))
        (import "compute" "blake3" (func (param i32 i32 i32)))
        (import "compute" "blake3_update" (func (param i32 i32)))
        (import "compute" "blake3_finish" (func (param i32)))
        (import "compute" "args_len" (func (result i64)))
        (import "compute" "args_read" (func (param i32 i64 i32) (result i32)))
        (import "compute" "asset_len" (func (param i32) (result i64)))
        (import "compute" "asset_read" (func (param i32 i32 i64 i32) (result i32)))
        (import "compute" "output_write" (func (param i32 i32)))
        (import "compute" "proof_commit" (func (param i32)))
        (import "compute" "log" (func (param i32 i32)))
        (memory (export "memory") 1)
        (func (export "run") (result i32) unreachable))"#;
    Config {
        module_shape: Some(wat::parse_str(wat).expect("the shape is valid text")),
        allow_start_export: true,
        custom_page_sizes_enabled: false,
        exceptions_enabled: false,
        extended_const_enabled: true,
        gc_enabled: false,
        memory64_enabled: false,
        relaxed_simd_enabled: false,
        tail_call_enabled: false,
        threads_enabled: false,
        max_table_elements: 100,
        max_tables: 1,
        max_instructions: 1000,
        ..Config::default()
    }
}
