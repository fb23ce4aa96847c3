//! Runs that are checked against a claim: a false claim costs its verifier at most the claimed
//! amount and a quantum, and a true claim is confirmed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use compute_host::digest::Digest;
use compute_host::limits::Limits;
use compute_host::sandbox::{
    Claimed, ClaimedAmount, EngineKind, Invocation, Outcome, QUANTUM, Reference, RunControl, SandboxError,
};

use super::{Long, lie, metered};
use crate::common::Workplace;

/// Guests that never end, one for each way to keep a host busy: name and body.
const ENDLESS: [(&str, &str); 6] = [
    ("loop", "(loop $on (br $on))"),
    ("fill", "(loop $on (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x10000)) (br $on))"),
    ("recursion", "(drop (call $deep)) (loop $on (drop (call $deep)) (br $on))"),
    ("hash", "(loop $on (call $hash (i64.const 0) (i64.const 0xffffffffffff) (i32.const 0)) (br $on))"),
    ("read", "(loop $on (drop (call $read (i32.const 0) (i64.const 0) (i32.const 0x10000))) (br $on))"),
    ("output", "(loop $on (call $write (i32.const 0) (i32.const 0x100)) (br $on))"),
];

fn endless(body: &str) -> Arc<[u8]> {
    metered(&format!(
        r#"(module
             (import "compute" "input_blake3" (func $hash (param i64 i64 i32)))
             (import "compute" "input_read" (func $read (param i32 i64 i32) (result i32)))
             (import "compute" "output_write" (func $write (param i32 i32)))
             (memory (export "memory") 1)
             (func $deep (result i32) (local $i i32)
               (loop $on (br_if $on (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 900))))
               (i32.const 0))
             (func (export "run") (result i32) {body} (i32.const 0)))"#
    ))
}

/// For any forged claim, the verifier spends at most the claimed amount and a quantum.
#[test]
fn a_run_ends_where_it_refutes_its_claim_on_every_engine() {
    for (name, body) in ENDLESS {
        let module = endless(body);
        for engine in EngineKind::ALL {
            let reference = Reference::new(engine, &module).unwrap();
            for (gas, limit) in [(0, u64::MAX), (7, 1_000_000_000), (7, 1 << 63), (QUANTUM + 5, u64::MAX)] {
                let limits = Limits { gas: limit, output_bytes: u64::MAX, ..Limits::DEFAULT };
                let claimed = Some(Claimed { gas, output_bytes: 1 << 40 });
                let watch = RunControl { claimed, ..RunControl::default() };
                let ended =
                    reference.run(Invocation { watch: watch.clone(), ..Invocation::new(Box::new(Long), limits) });
                let is_beyond = matches!(ended, Err(SandboxError::BeyondClaim(ClaimedAmount::Gas)));
                assert!(is_beyond, "{name}, {gas} of {limit} gas on {engine}: {ended:?}");
                let granted = watch.gas_granted.load(Ordering::Relaxed);
                assert!(granted < gas + QUANTUM, "{name}, {gas} of {limit} gas on {engine}: {granted}");
            }
        }
    }
    let module = endless(ENDLESS[5].1);
    for engine in EngineKind::ALL {
        let watch = RunControl { claimed: Some(Claimed { gas: 1 << 40, output_bytes: 1000 }), ..RunControl::default() };
        let work = Invocation { watch, ..Invocation::new(Box::new(Long), Limits { gas: u64::MAX, ..Limits::DEFAULT }) };
        let ended = Reference::new(engine, &module).unwrap().run(work);
        assert!(matches!(ended, Err(SandboxError::BeyondClaim(ClaimedAmount::Output))), "{engine}: {ended:?}");
        // The job's limits apply before the claim's.
        let watch = RunControl { claimed: Some(Claimed { gas: 1 << 40, output_bytes: 1000 }), ..RunControl::default() };
        let limits = Limits { gas: u64::MAX, output_bytes: 1000, ..Limits::DEFAULT };
        let ended = Reference::new(engine, &module)
            .unwrap()
            .run(Invocation { watch, ..Invocation::new(Box::new(Long), limits) });
        assert!(ended.is_ok_and(|ended| ended.outcome == Outcome::OutputLimit), "{engine}");
    }
}

/// A true claim is confirmed, however much gas was left and however the run ended.
#[test]
fn each_true_claim_is_found_within_its_own_bounds_on_every_engine() {
    for (name, body) in ENDLESS.into_iter().chain([("done", ""), ("failed", "(return (i32.const 3))")]) {
        let module = endless(body);
        for gas in [0, 1, QUANTUM - 1, QUANTUM, 2 * QUANTUM + 7] {
            let limits = Limits { gas, output_bytes: 1000, ..Limits::DEFAULT };
            let first = Reference::new(EngineKind::Cranelift, &module).unwrap();
            let first = first.run(Invocation::new(Box::new(Long), limits)).unwrap();
            let claimed = Claimed { gas: first.usage.gas, output_bytes: first.output.len() as u64 };
            for engine in EngineKind::ALL {
                let watch = RunControl { claimed: Some(claimed), ..RunControl::default() };
                let work = Invocation { watch, ..Invocation::new(Box::new(Long), limits) };
                let again = Reference::new(engine, &module).unwrap().run(work);
                let again = again.unwrap_or_else(|error| panic!("{name}, {gas} gas on {engine}: {error}"));
                assert_eq!((again.outcome, again.usage), (first.outcome, first.usage), "{name}, {gas} gas on {engine}");
            }
        }
    }
}

#[test]
fn a_forged_claim_of_an_endless_guest_is_refuted() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    assert_eq!(here.run("compute run --out . transcode.slice").code, 0);
    here.file(
        "loop.wat",
        r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop (br 0)) unreachable))"#,
    );
    let module = Digest::of(&wat::parse_file(here.path("loop.wat")).unwrap());
    for limit in [1_000_000_000, 1 << 63, u64::MAX] {
        lie(&here, "transcode.slice.proof", |job, execution| {
            (job.workload, job.module, job.limits.gas) = ("module".to_owned(), module, limit);
            execution.usage.gas = 7;
        });
        let ran = here.run("compute verify lie transcode.slice --module ./loop.wat");
        let said = format!("disagree: cranelift comes to more than {} gas (claimed: 7)\n", 7 + QUANTUM - 1);
        ran.is(1, &said, "");
    }
}

/// No proof is checked by former rules, and no rules let a guest without an end come to one.
#[test]
fn a_proof_by_former_rules_is_refused_by_name_or_refuted() {
    const FORMER: &str = "a53ac167f76ed5a044a0abf5b47ae24394f8485490c4778d8c339aca8f9d30ce";
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    assert_eq!(here.run("compute run --out . transcode.slice").code, 0);
    lie(&here, "transcode.slice.proof", |job, _| job.profile = FORMER.parse().unwrap());
    let ran = here.run("compute verify lie transcode.slice");
    ran.is(
        2,
        "not comparable: the proof is by gas schedule 1, which this node runs nothing by; run its slice again\n",
        "",
    );
    let endless =
        r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop (br 0)) unreachable))"#;
    here.file("loop.wat", endless);
    let module = Digest::of(&wat::parse_str(endless).unwrap());
    for (outcome, code) in [(Outcome::Done, 1), (Outcome::Failed(3), 1), (Outcome::OutOfGas, 2)] {
        lie(&here, "transcode.slice.proof", |job, execution| {
            (job.workload, job.module) = ("module".to_owned(), module);
            (job.profile, execution.outcome) = (FORMER.parse().unwrap(), outcome);
            (job.limits.gas, execution.usage.gas) = (if code == 1 { 1 << 63 } else { 7 }, 7);
        });
        let ran = here.run("compute verify lie transcode.slice --module ./loop.wat");
        assert_eq!(ran.code, code, "{outcome:?}: {ran:?}");
        assert!(ran.stdout.contains("by gas schedule 1"), "{ran:?}");
    }
    let ran = here.run("compute verify transcode.slice.proof transcode.slice --gas 5");
    assert!(ran.code == 2 && ran.stdout.contains("leave --gas and --memory out"), "{ran:?}");
}
