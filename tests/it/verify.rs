//! Verification: runs are repeated on every engine, and the first difference between two runs is
//! located.

mod claims;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use compute_host::digest::Digest;
use compute_host::key::NodeKey;
use compute_host::limits::{Limits, Usage};
use compute_host::proof::{Claim, Job, Observed, SliceProof};
use compute_host::sandbox::{
    EngineKind, Execution, Input, InputError, Invocation, Outcome, Reference, RunControl, SandboxError, meter,
};
use compute_host::verify::{Case, DiffSide, Difference, Matrix, NamedGuest, RunCount, SliceSource, diff};
use serde_json::json;

use crate::common::{NODE, Workplace, root};

fn guest_workload(name: &str) -> PathBuf {
    root().join("guest-workloads").join(name)
}

#[test]
fn guests_of_one_workload_agree_on_every_engine_in_five_languages() {
    let here = Workplace::new();
    here.file("clip", vec![7; 100_000]);
    let mut arguments: Vec<PathBuf> = ["compute", "verify", "clip", "--json", "--runs", "2"].map(PathBuf::from).into();
    let guests = [
        "transcode.wat",
        "transcode-streaming.wat",
        "dist/transcode-rust.wasm",
        "dist/transcode-c.wasm",
        "dist/transcode-assemblyscript.wasm",
    ];
    for guest in guests {
        arguments.extend([PathBuf::from("--module"), guest_workload(guest)]);
    }
    let ran = here.node(arguments);
    assert_eq!((ran.code, &*ran.stderr), (0, ""), "{}", ran.stdout);
    let said: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&said["agree"], said["guests"].as_array().unwrap().len()), (&json!(true), guests.len()));
    for guest in said["guests"].as_array().unwrap() {
        let engines = guest["engines"].as_array().unwrap();
        assert_eq!(engines.len(), EngineKind::ALL.len());
        for run in engines.iter().flat_map(|engine| engine["runs"].as_array().unwrap()) {
            assert_eq!(run["proof"], json!(Digest::of(&vec![7; 100_000])), "{guest}");
            assert_eq!(run["gas"], engines[0]["runs"][0]["gas"], "{guest}");
            assert_eq!(run["checkpoints"], engines[0]["runs"][0]["checkpoints"], "{guest}");
        }
        // Two runs, and one at the same time as others.
        assert!(engines.iter().all(|engine| engine["runs"].as_array().unwrap().len() == 3));
    }
}

#[test]
fn guests_that_are_not_one_workload_do_not_agree() {
    let here = Workplace::new();
    here.file("data", "a slice");
    let (one, other) = (guest_workload("transcode.wat"), guest_workload("dist/word-count-rust.wasm"));
    let arguments = ["compute", "verify", "data", "--engines", "cranelift", "--runs", "1", "--jobs", "1"];
    let arguments = arguments.map(PathBuf::from).into_iter();
    let ran = here.node(arguments.chain(["--module".into(), one, "--module".into(), other]));
    assert_eq!(ran.code, 1);
    assert_eq!(ran.stderr, "differs: transcode.wat and word-count-rust.wasm differ in the proof\n");
    assert!(ran.stdout.ends_with("disagree: 1 runs and 1 at once on cranelift\n"), "{}", ran.stdout);
}

#[test]
fn what_cannot_be_verified_is_an_error_that_says_why() {
    let here = Workplace::new();
    here.file("data", "a slice");
    for (line, said) in [
        ("data", "cannot tell the workload of `data` from its name; give a --module"),
        ("transcode.slice", "cannot open slice"),
        ("data --module none", "there is neither a stored module nor a file `none`"),
        ("data --engines v8", "the engines are cranelift, winch, pulley, wasmi"),
    ] {
        let ran = here.run(&format!("compute verify {line}"));
        assert!(ran.code == 2 && ran.stderr.contains(said), "{line}: {ran:?}");
    }
}

/// Signs a proof of a run with false content.
fn lie(here: &Workplace, file: &str, change: impl FnOnce(&mut Job, &mut Execution)) {
    let proof = SliceProof::read(&std::fs::read(here.path(file)).unwrap()).unwrap();
    let claim = proof.claim();
    let mut execution = Execution {
        outcome: claim.outcome(),
        proof: claim.proof(),
        output: Vec::new(),
        log: Vec::new(),
        usage: Usage { gas: claim.gas(), memory_bytes: 0 },
        trace: None,
    };
    let mut job = claim.job().clone();
    change(&mut job, &mut execution);
    let observed = Observed::new(SystemTime::UNIX_EPOCH, Duration::ZERO, execution.usage, "");
    let claim = Claim::of(claim.slice_id().clone(), job, &execution);
    here.file("lie", SliceProof::sign(claim, observed, &NodeKey::from_secret([1; 32])).unwrap().to_bytes());
}

#[test]
fn a_proof_is_answered_by_one_of_four_words() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.file("other.slice", "another");
    assert_eq!(here.run("compute run --out . transcode.slice").code, 0);
    let proof = "transcode.slice.proof";
    let verify = |line: &str| here.run(&format!("compute verify {line}"));
    verify(&format!("{proof} transcode.slice")).is(0, "agree\n", "");
    let json = verify(&format!("{proof} transcode.slice --json --engines winch,wasmi")).json().remove(0);
    assert_eq!((&json["verdict"], &json["why"]), (&json!("agree"), &json!(null)));
    // A check costs about what the run did, unless more is asked for.
    for (given, engines) in [
        ("", json!(["cranelift"])),
        ("--engines all", json!(["cranelift", "winch", "pulley", "wasmi"])),
        ("--engines winch,wasmi", json!(["winch", "wasmi"])),
    ] {
        let json = verify(&format!("{proof} transcode.slice --json {given}")).json().remove(0);
        assert_eq!((&json["verdict"], &json["engines"]), (&json!("agree"), &engines), "{given}");
    }

    let not_comparable = |line: &str, why: &str| {
        let ran = verify(line);
        assert!(ran.code == 2 && ran.stdout.starts_with("not comparable: "), "{line}: {ran:?}");
        assert!(ran.stdout.contains(why), "{line}: {ran:?}");
    };
    not_comparable(&format!("{proof} other.slice"), "the proof is of the slice ");
    not_comparable(&format!("{proof} transcode.slice --arg x"), "the proof names the arguments ");
    not_comparable(&format!("{proof} transcode.slice --asset a=other.slice"), "names 0 assets, and these are 1");
    let streaming = guest_workload("transcode-streaming.wat");
    not_comparable(&format!("{proof} transcode.slice --module {}", streaming.display()), "the proof names the module ");
    lie(&here, proof, |job, _| job.profile = Digest::of(b"other rules"));
    not_comparable("lie transcode.slice", "the proof names the execution profile ");

    let disagree = |why: &str| {
        let ran = verify("lie transcode.slice --engines cranelift");
        assert!(ran.code == 1 && ran.stdout.starts_with("disagree: cranelift comes to "), "{ran:?}");
        assert!(ran.stdout.contains(why), "{ran:?}");
    };
    lie(&here, proof, |_, execution| execution.usage.gas += 1);
    disagree(" gas (claimed: ");
    lie(&here, proof, |_, execution| execution.proof = Some(Digest::of(b"another")));
    disagree("the proof ");
    lie(&here, proof, |_, execution| execution.outcome = Outcome::Failed(1));
    disagree("the outcome `done` (claimed: `failed`)");
    lie(&here, proof, |job, _| job.limits.gas = 1_000_000);
    verify("lie transcode.slice").is(0, "agree\n", "");
    lie(&here, proof, |_, execution| execution.output = b"more than there is".to_vec());
    disagree("the output ");

    lie(&here, proof, |job, _| {
        job.workload = "module".to_owned();
        job.module = Digest::of(b"nobody's");
    });
    let ran = verify("lie transcode.slice");
    assert!(ran.code == 2 && ran.stdout.starts_with("unverifiable: the proof's module is not stored here"), "{ran:?}");
}

fn case(slice: &[u8]) -> Case {
    Case {
        slice: SliceSource::Bytes(slice.into()),
        args: Arc::default(),
        assets: Vec::new(),
        limits: Limits { gas: 1_000_000_000, memory_bytes: 1 << 20, ..Limits::DEFAULT },
        timeout_ms: None,
    }
}

fn metered(wat: &str) -> Arc<[u8]> {
    meter::metered(&wat::parse_str(wat).unwrap()).unwrap().into()
}

/// Returns a guest that sums its reads over many turns, and hashes at intervals. In turn 250,500 it
/// reads at `offset`.
fn summing(offset: u32) -> Arc<[u8]> {
    metered(&format!(
        r#"(module
             (import "compute" "blake3" (func $blake3 (param i32 i32 i32)))
             (memory (export "memory") 1)
             (data (i32.const 1000) "abcdefgh")
             (func (export "run") (result i32) (local $i i32) (local $sum i32)
               (loop $turn
                 (if (i32.eq (local.get $i) (i32.const 250500))
                   (then (i32.store (i32.const 40) (i32.load8_u offset={offset} (i32.const 1000)))))
                 (local.set $sum (i32.add (local.get $sum) (i32.load (i32.const 40))))
                 (i32.store offset=2000 (i32.and (local.get $i) (i32.const 0xffc)) (local.get $sum))
                 (if (i32.eqz (i32.rem_u (local.get $i) (i32.const 1000)))
                   (then (call $blake3 (i32.const 0) (i32.const 64) (i32.const 9000))))
                 (br_if $turn
                   (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 400000))))
               (i32.const 0)))"#
    ))
}

/// One bit of one load is wrong, on one engine.
#[test]
fn two_runs_are_told_where_they_part_to_the_byte() {
    let (well, broken) = (summing(0), summing(1));
    let side = |engine, module: &Arc<[u8]>| DiffSide { engine, module: module.clone() };
    let compare = |left: &DiffSide, right: &DiffSide| diff(Path::new(NODE), &case(b""), [left, right]).unwrap();
    assert!(compare(&side(EngineKind::Cranelift, &well), &side(EngineKind::Winch, &well)).is_none());

    let found = compare(&side(EngineKind::Cranelift, &well), &side(EngineKind::Winch, &broken));
    let Difference { gas, what, call, memory } = found.expect("they part");
    assert!(what.contains(&"memory") && !what.contains(&"the way"), "{what:?}");
    assert!(gas.end - gas.start < 200, "to one turn of the loop, and the host call in it: {gas:?}");
    assert!(call.is_none(), "the hashes come later: {call:?}");
    // `a` instead of `b`, and the sum of both, which is at 2000 plus the low bits of the turn.
    let (range, count) = memory.expect("it is the memory");
    assert_eq!((range.start, count), (40, 2), "{range:?}");
    assert!((2000..2000 + 0x1000).contains(&(range.end - 1)), "{range:?}");
}

/// Host calls that differ are reported, too.
#[test]
fn a_host_call_that_differs_is_named_with_its_arguments() {
    let reading = |len: u32| {
        metered(&format!(
            r#"(module
                 (import "compute" "input_read" (func $read (param i32 i64 i32) (result i32)))
                 (memory (export "memory") 1)
                 (func (export "run") (result i32) (local $i i32)
                   (loop $turn
                     (drop (call $read (i32.const 0) (i64.const 0) (i32.const 4)))
                     (br_if $turn (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 9))))
                   (drop (call $read (i32.const 100) (i64.const 2) (i32.const {len})))
                   (loop $on (br_if $on (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 99))))
                   (i32.const 0)))"#
        ))
    };
    let sides = [4, 5].map(|len| DiffSide { engine: EngineKind::Wasmi, module: reading(len) });
    let found = diff(Path::new(NODE), &case(b"0123456789"), [&sides[0], &sides[1]]).unwrap().expect("they part");
    let [one, other] = found.call.expect("a call differs").map(|call| call.expect("both call"));
    assert_eq!((&*one.name, &*one.arguments, one.answer), ("input_read", &[100, 2, 4][..], Some(4)));
    assert_eq!((&*other.name, &*other.arguments, other.answer), ("input_read", &[100, 2, 5][..], Some(5)));
    assert_eq!(found.memory, Some((104..105, 1)));
}

#[test]
fn a_run_can_be_compared_with_one_whose_trace_was_kept() {
    let here = Workplace::new();
    here.file("data", "a slice");
    let turns = |count: u32| {
        format!(
            r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (local $i i32)
                 (loop $l (i32.store (i32.const 0) (local.get $i))
                   (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {count}))))
                 (i32.const 0)))"#
        )
    };
    here.file("m.wat", turns(1_000_000));
    here.file("n.wat", turns(2_000_000));
    let ran = here.run("compute diff data --module ./m.wat --engines pulley --keep trace.json");
    assert!(ran.code == 0 && ran.stdout.ends_with(" checkpoints in trace.json\n"), "{ran:?}");
    here.run("compute diff data --module ./m.wat --engines winch --with trace.json").is(0, "the same\n", "");
    let ran = here.run("compute diff data --module ./n.wat --engines winch --with trace.json");
    assert!(ran.code == 2 && ran.stderr.contains("it is of another module"), "{ran:?}");
    let trace = std::fs::read_to_string(here.path("trace.json")).unwrap();
    let mut changed: serde_json::Value = serde_json::from_str(&trace).unwrap();
    changed["checkpoints"][2]["memory"] = json!(Digest::of(b"other"));
    here.file("changed.json", changed.to_string());
    let ran = here.run("compute diff data --module ./m.wat --engines winch --with changed.json");
    assert!(
        ran.code == 1 && ran.stdout.starts_with("they part between ") && ran.stdout.ends_with("in memory\n"),
        "{ran:?}"
    );
    here.file("garbage.json", &trace[..100]);
    let ran = here.run("compute diff data --module ./m.wat --engines winch --with garbage.json");
    assert!(ran.code == 2 && ran.stderr.contains("cannot use trace `garbage.json`: it is no trace"), "{ran:?}");
}

/// The fingerprint is the same on every machine as long as the rules of execution are the same.
#[test]
fn the_doctors_fingerprint_is_the_golden_one() {
    let here = Workplace::new();
    let ran = here.run("compute doctor --json");
    assert_eq!((ran.code, &*ran.stderr), (0, ""), "{}", ran.stdout);
    let said: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let (file, now) = (root().join("tests/vectors/doctor.txt"), format!("{}\n", said["fingerprint"].as_str().unwrap()));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    assert_eq!(now, std::fs::read_to_string(file).unwrap(), "BLESS=1 writes it anew");
    let alone = here.run("compute doctor --json --engines wasmi");
    let alone: serde_json::Value = serde_json::from_str(&alone.stdout).unwrap();
    assert_eq!(alone["fingerprint"], said["fingerprint"], "engines that agree add nothing");
}

/// Only the child's own answer counts, and it is checked carefully.
#[test]
fn an_engine_that_answers_nonsense_has_failed() {
    let here = Workplace::new();
    let script = |name: &str, body: &str| {
        let text = here.file(format!("{name}.sh"), format!("#!/bin/sh\n{body}\n"));
        let path = here.path(name);
        // Another process writes the file: otherwise, a child that another test starts meanwhile
        // could hold it open, and it could not be executed.
        let installed = Command::new("install").args(["-m", "755"]).args([&text, &path]).status().unwrap();
        assert!(installed.success());
        path
    };
    let found = r#"{"Found":{"input":{"blake3":"00","bytes":0}}}"#;
    for (name, body) in [
        ("silent", "exit 0".to_owned()),
        ("babbling", "echo what".to_owned()),
        ("half", format!("echo '{found}'")),
        ("endless", "exec yes '' ".to_owned()),
        ("killed", "kill -9 $$".to_owned()),
    ] {
        // More than a pipe holds, so that a child that does not read blocks the writer.
        let guests = [NamedGuest { name: "m".to_owned(), module: vec![0; 1 << 20].into() }];
        let (engines, repeats) = ([EngineKind::Wasmi], RunCount { runs: 1, jobs: 1 });
        let matrix = Matrix::of(&script(name, &body), &guests, &engines, &case(b""), repeats, &|| ());
        assert!(matrix.disagreements.is_empty() && matrix.failures.len() == 1, "{name}: {:?}", matrix.failures);
        assert!(matrix.failures[0].starts_with("m on wasmi: wasmi broke off: "), "{name}: {:?}", matrix.failures);
    }
}

/// A long input that takes time to read.
struct Long;

impl Input for Long {
    fn len(&self) -> u64 {
        1 << 50
    }

    fn digest(&self) -> Digest {
        Digest::of(b"")
    }

    fn read(&mut self, _offset: u64, _buffer: &mut [u8]) -> Result<(), InputError> {
        Ok(())
    }
}

/// Without a deadline or cancellation, these runs would take days.
#[test]
fn a_deadline_or_nobody_waiting_ends_a_run_in_the_middle_of_a_long_host_call_on_every_engine() {
    let hashing = r#"(module (import "compute" "input_blake3" (func $hash (param i64 i64 i32)))
        (memory (export "memory") 1)
        (func (export "run") (result i32)
          (call $hash (i64.const 0) (i64.const 0x3ffffffffffff) (i32.const 0)) (i32.const 0)))"#;
    let endless =
        r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop (br 0)) unreachable))"#;
    let filling = r#"(module (memory (export "memory") 16) (func (export "run") (result i32)
        (loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x100000)) (br 0)) unreachable))"#;
    let limits = Limits { gas: u64::MAX, ..Limits::DEFAULT };
    for wat in [hashing, endless, filling] {
        let module = metered(wat);
        for engine in EngineKind::ALL {
            let reference = Reference::new(engine, &module).unwrap();
            let deadline = Some(Instant::now() + Duration::from_millis(20));
            let watch = RunControl { deadline, ..RunControl::default() };
            let ended = reference.run(Invocation { watch, ..Invocation::new(Box::new(Long), limits) });
            assert!(matches!(ended, Err(SandboxError::Deadline)), "{engine}: {ended:?}");

            let watch = RunControl::default();
            std::thread::scope(|scope| {
                let running = scope.spawn(|| {
                    reference.run(Invocation { watch: watch.clone(), ..Invocation::new(Box::new(Long), limits) })
                });
                while watch.gas_granted.load(Ordering::Relaxed) == 0 {
                    std::thread::yield_now();
                }
                watch.is_cancelled.store(true, Ordering::Relaxed);
                let ended = running.join().unwrap();
                assert!(matches!(ended, Err(SandboxError::Cancelled)), "{engine}: {ended:?}");
            });
        }
    }
}
