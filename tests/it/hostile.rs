//! Hostile modules: each is refused for its own reason, or its run ends with exactly the outcome of
//! its fault.

mod compile_bombs;
mod encoding;
mod endings;
mod host_calls;
mod interface;
mod memory;
mod names;
mod output;
mod sizes;
mod start;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use compute_host::digest::{Digest, HashThreads};
use compute_host::key::NodeKey;
use compute_host::limits::Limits;
use compute_host::proof::{Blob, Claim, Job, Observed, SliceProof, profile};
use compute_host::sandbox::{
    Admitted, EngineKind, Execution, Input, Invocation, Outcome, Reference, Refusal, Sandbox, meter,
};
use compute_host::slice::{OpenSlice, Slice, SliceId};

use crate::common::root;

/// Every function of the ABI, a memory of one page, and `0123456789` in it from byte 100 on.
const PRELUDE: &str = r#"
    (import "compute" "input_len" (func $input_len (result i64)))
    (import "compute" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
    (import "compute" "input_blake3" (func $input_blake3 (param i64 i64 i32)))
    (import "compute" "blake3" (func $blake3 (param i32 i32 i32)))
    (import "compute" "blake3_update" (func $blake3_update (param i32 i32)))
    (import "compute" "blake3_finish" (func $blake3_finish (param i32)))
    (import "compute" "args_len" (func $args_len (result i64)))
    (import "compute" "args_read" (func $args_read (param i32 i64 i32) (result i32)))
    (import "compute" "asset_len" (func $asset_len (param i32) (result i64)))
    (import "compute" "asset_read" (func $asset_read (param i32 i32 i64 i32) (result i32)))
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (import "compute" "proof_commit" (func $proof_commit (param i32)))
    (import "compute" "log" (func $log (param i32 i32)))
    (memory (export "memory") 1)
    (data (i32.const 100) "0123456789")"#;

/// Required parts of every module, for modules that are refused for another reason.
const MEMORY: &str = "(memory (export \"memory\") 1)";
const RUN: &str = "(func (export \"run\") (result i32) (i32.const 0))";

const SLICE: &[u8] = b"abcdefghij";
const ARGS: &[u8] = b"arguments";
const ASSET: &[u8] = b"weights";

/// Small limits, so that attacks on them end soon.
const LIMITS: Limits = Limits { gas: 50_000_000, memory_bytes: 4 << 16, output_bytes: 1000, log_bytes: 20 };

fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| Sandbox::new(64).expect("address space for 64 guests"))
}

fn open() -> OpenSlice {
    Slice::from_bytes(SLICE).open(&HashThreads::new(1), &AtomicU64::new(0)).unwrap()
}

#[track_caller]
fn admitted(wat: &str) -> Admitted {
    Admitted::new(wat::parse_str(wat).expect("the test is valid text")).unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// Runs a module on the serving engine, and asserts the same result on every other engine.
#[track_caller]
fn run_module(wat: &str, limits: Limits) -> Execution {
    let module = admitted(wat);
    let work = || {
        let input: Box<dyn Input> = Box::new(open());
        Invocation { args: ARGS.into(), assets: Arc::new([ASSET.into()]), ..Invocation::new(input, limits) }
    };
    let execution = sandbox().run(&sandbox().compile(&module).unwrap(), work()).unwrap();
    let metered = meter::metered(module.wasm()).unwrap();
    for engine in EngineKind::ALL {
        let other = Reference::new(engine, &metered).unwrap().run(work()).unwrap();
        let facts = |it: &Execution| (it.outcome, it.proof, it.usage, it.output.clone(), it.log.clone());
        assert_eq!(facts(&other), facts(&execution), "{engine}: {wat}");
    }
    execution
}

/// Runs `body` as the guest's `run`. The body may close the parenthesis itself and add fields after
/// it.
#[track_caller]
fn run(body: &str) -> Execution {
    run_module(&format!("(module {PRELUDE} (func (export \"run\") (result i32) {body}))"), LIMITS)
}

/// Asserts how the run of `body` ends, and that it proves something only if its outcome allows it.
/// Both hold on every engine.
#[track_caller]
fn ends(attack: &str, body: &str, outcome: Outcome) {
    let execution = run(body);
    assert_eq!(execution.outcome, outcome, "{attack}: {body}");
    proves_what_it_may(attack, &execution);
}

#[track_caller]
fn proves_what_it_may(attack: &str, execution: &Execution) {
    assert_eq!(execution.proof.is_some(), execution.outcome == Outcome::Done, "{attack}");
    let digest = Digest::of(b"");
    let input = Blob { blake3: digest, bytes: 0 };
    let job = Job {
        workload: "module".into(),
        module: digest,
        input,
        args: digest,
        limits: LIMITS.into(),
        assets: vec![],
        profile: profile().digest(),
    };
    let observed = Observed::new(SystemTime::UNIX_EPOCH, Duration::ZERO, execution.usage, "");
    let claim = Claim::of(SliceId::derived(digest), job, execution);
    let proof =
        SliceProof::sign(claim, observed, &NodeKey::from_secret([1; 32])).expect("what a run comes to is sound");
    assert_eq!(SliceProof::from_bytes(&proof.to_bytes()), Ok(proof), "{attack}");
}

fn guest_file(name: &str) -> String {
    std::fs::read_to_string(root().join("tests/guests").join(name)).unwrap()
}

/// Returns the gate's refusal of `wasm`, and asserts that its message can be shown safely.
#[track_caller]
fn refusal(attack: &str, wasm: &[u8]) -> Refusal {
    let refusal = Admitted::new(wasm).err().unwrap_or_else(|| panic!("{attack}: it is admitted"));
    let said = refusal.to_string();
    assert!(said.len() < 1000 && !said.contains(char::is_control), "{attack}: {said}");
    refusal
}

/// Asserts the code of the refusal of a module of these fields.
#[track_caller]
fn refused(attack: &str, fields: &str, code: &str) {
    let wasm = wat::parse_str(format!("(module {fields})")).unwrap_or_else(|error| panic!("{attack}: {error}"));
    let refusal = refusal(attack, &wasm);
    assert_eq!(refusal.code(), code, "{attack}: {refusal}");
}
