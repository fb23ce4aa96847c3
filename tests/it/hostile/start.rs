//! Everything before `run`: the start function, `_initialize` of a reactor, and the host's setup.
//! The guest pays for all of it, and the result is the same on every engine.

use std::time::{Duration, Instant};

use compute_host::limits::Limits;
use compute_host::sandbox::{
    EngineKind, Execution, Input, Invocation, Outcome, Reference, RunControl, SandboxError, Trap, meter,
};

use super::{LIMITS, MEMORY, PRELUDE, RUN, admitted, open, proves_what_it_may, refused, run_module, sandbox};

/// Runs a module of the prelude and `fields` on every engine.
#[track_caller]
fn run(fields: &str) -> Execution {
    run_module(&format!("(module {PRELUDE} {fields})"), LIMITS)
}

#[test]
fn what_starts_a_guest_runs_before_run_and_in_order() {
    let add =
        |digit: u32| format!("(global.set $g (i32.add (i32.mul (global.get $g) (i32.const 10)) (i32.const {digit})))");
    let [one, two, three] = [1, 2, 3].map(add);
    let global = "(global $g (mut i32) (i32.const 0))";
    let run_of = |body: &str| format!("(func (export \"run\") (result i32) {body} (global.get $g))");
    let start = format!("(func $s {one}) (start $s)");
    let reactor = format!("(func (export \"_initialize\") {two})");
    for (fields, code) in [
        (format!("{global} {} {start} {reactor}", run_of(&three)), 123),
        (format!("{global} {} {start}", run_of(&three)), 13),
        (format!("{global} {} {reactor}", run_of(&three)), 23),
        (format!("{global} {}", run_of(&three)), 3),
    ] {
        assert_eq!(run(&fields).outcome, Outcome::Failed(code), "{fields}");
    }
    // One function may have all of these roles.
    let both = format!("{global} (func $s (export \"_initialize\") {one}) (start $s) {}", run_of(""));
    assert_eq!(run(&both).outcome, Outcome::Failed(11));
}

#[test]
fn a_start_ends_as_a_run_does() {
    for (attack, body, outcome) in [
        ("one that never ends", "(loop (br 0))", Outcome::OutOfGas),
        ("one that calls itself", "(call $s)", Outcome::OutOfStack),
        ("one that traps", "unreachable", Outcome::Trap(Trap::Unreachable)),
        ("a pointer out of range", "(call $log (i32.const -1) (i32.const 1))", Outcome::PointerOutOfRange),
        ("two proofs", "(call $proof_commit (i32.const 0)) (call $proof_commit (i32.const 0))", Outcome::SecondCommit),
        ("much output", "(loop (call $output_write (i32.const 0) (i32.const 500)) (br 0))", Outcome::OutputLimit),
    ] {
        for start in [format!("(func $s {body}) (start $s)"), format!("(func $s (export \"_initialize\") {body})")] {
            let execution = run(&format!("{RUN} {start}"));
            assert_eq!(execution.outcome, outcome, "{attack}");
            proves_what_it_may(attack, &execution);
        }
    }
    let of_run = "(func (export \"run\") (result i32) (call $proof_commit (i32.const 100)) (i32.const 0))";
    let once = run(&format!("{of_run} (func $s (call $output_write (i32.const 100) (i32.const 10))) (start $s)"));
    assert_eq!((once.outcome, &*once.output), (Outcome::Done, &b"0123456789"[..]));
    let twice = run(&format!("{of_run} (func $s (call $proof_commit (i32.const 100))) (start $s)"));
    assert_eq!(twice.outcome, Outcome::SecondCommit, "a start is part of the run");
}

#[test]
fn a_start_of_another_signature_is_refused() {
    refused(
        "a start with a result",
        &format!("{MEMORY} {RUN} (func $s (result i32) (i32.const 0)) (start $s)"),
        "invalid",
    );
    let import = r#"(import "compute" "proof_commit" (func $c (param i32)))"#;
    refused("a start with a parameter", &format!("{import} {MEMORY} {RUN} (start $c)"), "invalid");
    for signature in ["(param i32)", "(result i32) (i32.const 0)"] {
        let fields = format!("{MEMORY} {RUN} (func (export \"_initialize\") {signature})");
        refused("a reactor of another signature", &fields, "initialize_signature");
    }
    let fields = format!("{MEMORY} {RUN} (global (export \"_initialize\") i32 (i32.const 0))");
    refused("a reactor that is no function", &fields, "reserved_export");
}

/// Returns the total gas of a guest with these fields and a memory.
#[track_caller]
fn gas(memory: u32, fields: &str) -> u64 {
    let limits = Limits { memory_bytes: 64 << 20, ..LIMITS };
    let execution = run_module(&format!("(module (memory (export \"memory\") {memory}) {RUN} {fields})"), limits);
    assert_eq!(execution.outcome, Outcome::Done);
    execution.usage.gas
}

/// Each kind of setup, and twice as much of it.
#[test]
fn all_that_is_set_up_is_charged() {
    let base = gas(1, "");
    let page = gas(2, "") - base;
    assert!(page >= 4_096, "a page costs {page}");
    assert_eq!(gas(101, "") - base, 100 * page);

    let data = |count: usize, bytes: usize| {
        let data = format!("(data (i32.const 8) \"{}\")", "x".repeat(bytes));
        gas(1, &data.repeat(count)) - base
    };
    let functions =
        |count: usize| gas(1, &format!("(table 1000 funcref) (elem (i32.const 0) func {})", "0 ".repeat(count))) - base;
    let table = |elements: u32| gas(1, &format!("(table {elements} funcref)")) - base;
    let globals = |count: usize| gas(1, &"(global (mut i64) (i64.const 1))".repeat(count)) - base;
    let segment = data(1, 0);
    assert!(segment >= 64);
    assert_eq!(data(100, 0), 100 * segment);
    assert_eq!(data(1, 6_400) - segment, 100);
    assert_eq!(table(2_000), 2 * table(1_000));
    let function = functions(2) - functions(1);
    assert!(function >= 8, "a function in the table costs {function}");
    assert_eq!(functions(900) - functions(1), 899 * function);
    assert_eq!(globals(900), 900 * globals(1));
    assert!(table(1_000) > 0 && globals(1) > 0);
    assert_eq!(gas(1, "(data \"passive\") (elem func 0)"), base, "what is not put in place costs nothing");
}

/// If the gas does not pay for the setup, nothing is set up and no guest code runs.
#[test]
fn a_start_that_is_not_paid_for_does_not_begin() {
    let wat = format!("(module (memory (export \"memory\") 100) {RUN})");
    let limits = |gas: u64| Limits { gas, memory_bytes: 64 << 20, ..LIMITS };
    let all = run_module(&wat, limits(1 << 40)).usage;
    assert_eq!(all.memory_bytes, 100 << 16);
    for gas in [1, all.gas / 2, all.gas - 2] {
        let execution = run_module(&wat, limits(gas));
        assert_eq!(execution.outcome, Outcome::OutOfGas);
        assert_eq!((execution.usage.gas, execution.usage.memory_bytes), (gas, 0), "nothing began");
    }
    assert_eq!(run_module(&wat, limits(all.gas)).outcome, Outcome::Done);
    let large = run_module(&wat, Limits { memory_bytes: 99 << 16, ..limits(1) });
    assert_eq!((large.outcome, large.usage.gas), (Outcome::MemoryLimit, 0), "memory comes first");
}

#[test]
fn a_deadline_that_is_over_is_seen_before_the_start() {
    let module = admitted(&format!("(module {MEMORY} {RUN})"));
    let over = || {
        let input: Box<dyn Input> = Box::new(open());
        let deadline = Some(Instant::now() - Duration::from_secs(1));
        Invocation { watch: RunControl { deadline, ..RunControl::default() }, ..Invocation::new(input, LIMITS) }
    };
    let served = sandbox().run(&sandbox().compile(&module).unwrap(), over());
    assert!(matches!(served, Err(SandboxError::Deadline)));
    let metered = meter::metered(module.wasm()).unwrap();
    for engine in EngineKind::ALL {
        let ended = Reference::new(engine, &metered).unwrap().run(over());
        assert!(matches!(ended, Err(SandboxError::Deadline)), "{engine}");
    }
}

#[test]
fn constants_are_computed_alike() {
    let fields = r#"
        (global $a i32 (i32.sub (i32.const 2) (i32.mul (i32.const 3) (i32.const 5))))
        (global $b i64 (i64.add (i64.mul (i64.const 0x100000000) (i64.const 0x100000000)) (i64.const -7)))
        (data (i32.add (i32.const 100) (i32.mul (i32.const 4) (i32.const 25))) "\07\00\00\00")
        (table 4 funcref) (elem (i32.sub (i32.const 7) (i32.const 5)) $two)
        (func $two (result i32) (i32.const 20))
        (func (export "run") (result i32)
            (i32.add (i32.add (global.get $a) (i32.wrap_i64 (global.get $b)))
                (i32.add (i32.load (i32.const 200)) (call_indirect (result i32) (i32.const 2)))))"#;
    assert_eq!(run(fields).outcome, Outcome::Failed(-13 - 7 + 7 + 20));
    for (attack, fields) in [
        ("data that is put behind the end", "(data (i32.add (i32.const 65535) (i32.const 1)) \"x\")"),
        ("data that wraps", "(data (i32.sub (i32.const 0) (i32.const 1)) \"x\")"),
    ] {
        refused(attack, &format!("{MEMORY} {RUN} {fields}"), "segment_range");
    }
    // An initializer expression works at any length.
    let long = format!("(i32.const 0) {}", "(i32.const 1) i32.add ".repeat(20_000));
    let fields = format!("{MEMORY} (global $g i32 {long}) (func (export \"run\") (result i32) (global.get $g))");
    assert_eq!(run_module(&format!("(module {fields})"), LIMITS).outcome, Outcome::Failed(20_000));
}
