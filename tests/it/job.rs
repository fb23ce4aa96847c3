//! Job inputs and outputs of a command line: arguments and assets in, output and log out.

use std::fs;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use compute_host::digest::{Digest, MacKey};
use compute_host::limits::Limits;
use compute_host::modules::{CompiledCode, ModuleKey, ModuleRecord, Modules, Quota, StoredModules};
use compute_host::sandbox::{Admitted, Input, InputError, Invocation, Outcome, Sandbox};
use compute_host::workload::WorkloadGuest;

use crate::common::{Workplace, blake3};

/// A guest that outputs its arguments, then its first and second asset, and logs the slice.
const ECHO: &str = r#"(module
    (import "compute" "args_len" (func $args_len (result i64)))
    (import "compute" "args_read" (func $args_read (param i32 i64 i32) (result i32)))
    (import "compute" "asset_len" (func $asset_len (param i32) (result i64)))
    (import "compute" "asset_read" (func $asset_read (param i32 i32 i64 i32) (result i32)))
    (import "compute" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (import "compute" "log" (func $log (param i32 i32)))
    (memory (export "memory") 1)
    (func $put_asset (param $index i32)
        (if (i64.ge_s (call $asset_len (local.get $index)) (i64.const 0)) (then
            (call $output_write (i32.const 0)
                (call $asset_read (local.get $index) (i32.const 0) (i64.const 0) (i32.const 1000))))))
    (func (export "run") (result i32) (local $len i32)
        (call $output_write (i32.const 0) (call $args_read (i32.const 0) (i64.const 0) (i32.wrap_i64 (call $args_len))))
        (call $put_asset (i32.const 0))
        (call $put_asset (i32.const 1))
        (local.set $len (call $input_read (i32.const 0) (i64.const 0) (i32.const 1000)))
        (if (local.get $len) (then (call $log (i32.const 0) (local.get $len))))
        (i32.const 0)))"#;

fn echo() -> Workplace {
    let here = Workplace::new();
    here.file("echo.wat", ECHO);
    here.file("data", "");
    here
}

#[test]
fn arguments_and_assets_reach_the_guest_in_their_order() {
    let here = echo();
    here.file("model.bin", "weights;");
    here.file("words.txt", "words;");
    let run = |line: &str| here.run(&format!("compute run --module ./echo.wat --out out {line} data")).output();
    let output = || fs::read(here.path("out/data.output")).unwrap_or_default();

    run("");
    assert!(!here.path("out/data.output").exists(), "nothing was put out");
    run("--arg one");
    assert_eq!(output(), b"one");
    run("--arg one --arg --two --arg 3");
    assert_eq!(output(), b"one\0--two\x003");
    let told = run("--arg a --asset model=model.bin --asset words=words.txt");
    assert_eq!(output(), b"aweights;words;");
    assert_eq!(told, format!("{}  data\n", blake3("aweights;words;")));
    run("--asset words=words.txt --asset model=model.bin");
    assert_eq!(output(), b"words;weights;", "their order is what the guest knows them by");
    run("");
    assert!(!here.path("out/data.output").exists(), "an older output must not look like this run's");
}

#[test]
fn the_output_is_there_also_when_only_its_proof_was_kept() {
    let here = echo();
    here.run("compute run --module ./echo.wat --arg one data").output();
    here.run("compute run --module ./echo.wat --arg one --out out data").output();
    assert_eq!(fs::read(here.path("out/data.output")).unwrap(), b"one");
}

#[test]
fn arguments_and_assets_that_cannot_be_had_are_named() {
    let here = echo();
    here.run("compute run --module ./echo.wat --asset model=missing.bin data").is(
        2,
        "",
        "error: cannot read asset `model`, `missing.bin`: No such file or directory (os error 2)\n",
    );
    let ran = here.run("compute run --module ./echo.wat --asset model data");
    assert!(ran.code == 2 && ran.stderr.contains("NAME=FILE is expected"), "{}", ran.stderr);
    here.sparse("large.bin", (1 << 30) + 1);
    here.run("compute run --module ./echo.wat --asset model=large.bin data").is(
        2,
        "",
        "error: cannot read asset `model`, `large.bin`: it has more than 1073741824 bytes\n",
    );
    let ran = here.run("compute run --module ./echo.wat --workload transcode data");
    assert!(ran.code == 2 && ran.stderr.contains("cannot be used with"), "{}", ran.stderr);
}

#[test]
fn gas_and_memory_bound_the_run() {
    let here = Workplace::new();
    here.file("data", "");
    here.file(
        "loop.wat",
        r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop (br 0)) unreachable))"#,
    );
    here.file("two.wat", r#"(module (memory (export "memory") 2) (func (export "run") (result i32) (i32.const 0)))"#);
    let failed = "failed: `data`: the guest ran out of gas\n";
    here.run("compute run --module ./loop.wat --gas 1000 data").is(1, "out_of_gas  data\n", failed);
    let failed = "failed: `data`: the module declares more memory than the job may use\n";
    here.run("compute run --module ./two.wat --memory 64KiB data").is(1, "memory_limit  data\n", failed);
    here.run("compute run --module ./two.wat --memory 128KiB data").is(0, &format!("{}  data\n", blake3("")), "");
    here.run("compute run --module ./two.wat --memory 131071 data").is(1, "memory_limit  data\n", failed);
    for (flag, said) in
        [("--gas 0", "0 is not in 1.."), ("--memory 5GiB", "a number from 1 to 4294967296"), ("--memory 1TB", "units")]
    {
        let ran = here.run(&format!("compute run --module ./two.wat {flag} data"));
        assert!(ran.code == 2 && ran.stderr.contains(said), "{flag}: {}", ran.stderr);
    }
}

#[test]
fn the_log_is_shown_line_by_line_and_steers_no_terminal() {
    let here = echo();
    here.file("data", "one\ntwo\x1b[2J");
    let log = "log: `data`: one\nlog: `data`: two\\u{1b}[2J\n";
    let line = format!("{}  data\n", blake3(""));
    here.run("compute run --module ./echo.wat data").is(0, &line, log);
    let json = here.run("compute run --no-cache --json --module ./echo.wat data").json();
    assert_eq!(json[0]["log"], "one\ntwo\x1b[2J\n");
}

/// Input that becomes available only when the test allows it.
struct Held(Mutex<mpsc::Receiver<()>>);

impl Input for Held {
    fn len(&self) -> u64 {
        1
    }

    fn digest(&self) -> Digest {
        Digest::of(b"x")
    }

    fn read(&mut self, _: u64, buffer: &mut [u8]) -> Result<(), InputError> {
        self.0.lock().unwrap().recv().unwrap();
        buffer.fill(b'x');
        Ok(())
    }
}

#[test]
fn a_deadline_ends_the_run_as_an_error_of_the_hosts() {
    let here = Workplace::new();
    here.file("data", "");
    here.file(
        "loop.wat",
        r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop (br 0)) unreachable))"#,
    );
    let late = "error: `data`: the run was not done by its deadline; allow it more time with --timeout\n";
    let line = format!("compute run --module ./loop.wat --out . --gas {} data", i64::MAX);
    here.run(&format!("{line} --timeout 20ms")).is(2, "", late);
    assert!(!here.path("data.proof").exists());
    here.file("node-data/config.toml", "[compute]\ntimeout_ms = 20\n");
    let said = here.run(&format!("{line} --json")).json().remove(0);
    assert_eq!(said["error"]["code"], "deadline", "{said}");
    let ran = here.run(&format!("{line} --timeout soon"));
    assert!(ran.code == 2 && ran.stderr.contains("invalid value 'soon' for '--timeout <TIME>'"), "{ran:?}");
}

#[test]
fn a_module_can_be_removed_while_it_runs() {
    let here = Workplace::new();
    let wasm = wat::parse_str(ECHO).unwrap();
    let admitted = Admitted::new(wasm.as_slice()).unwrap();
    let sandbox = Arc::new(Sandbox::new(1).unwrap());
    let code = here.path("code");
    fs::create_dir(&code).unwrap();
    let quota = Quota { modules_max: 10, bytes_max: 1 << 20 };
    let modules = Modules::in_process(sandbox.clone())
        .unwrap()
        .with_store(StoredModules::new(here.path("modules"), quota))
        .with_code(CompiledCode::new(code.clone(), MacKey::new([1; 32]), 1 << 20));
    modules
        .add(&admitted, None, &ModuleRecord::new(wasm.len() as u64, "compute".to_owned(), 0, String::new()))
        .unwrap();
    let digest = admitted.digest();
    let program = modules.program(WorkloadGuest::Stored(digest)).unwrap();

    let (go_on, held) = mpsc::channel();
    let input = Box::new(Held(Mutex::new(held)));
    let work = Invocation::new(input, Limits::DEFAULT);
    let running = std::thread::spawn(move || sandbox.run(&program, work).unwrap());
    assert!(modules.stored().unwrap().remove(&ModuleKey::Digest(digest)).unwrap());
    assert!(
        modules.program(WorkloadGuest::Stored(digest)).is_err(),
        "it is gone for all others, though its code is in memory"
    );
    fs::remove_dir_all(code).unwrap();
    drop(modules);
    go_on.send(()).unwrap();
    let execution = running.join().unwrap();
    assert_eq!((execution.outcome, execution.log.as_slice()), (Outcome::Done, &b"x\n"[..]));
}
