//! Guests that do what they should not. Each ends its own run, with just the outcome that its fault has.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use compute_host::digest::{Digest, HashThreads};
use compute_host::limits::Limits;
use compute_host::sandbox::{Admitted, Execution, Input, Outcome, Sandbox, Trap, Work};
use compute_host::slice::{OpenSlice, Slice};

use crate::common::root;

/// Every function of the ABI, a memory of one page, and the slice `0123456789` in it from byte 100 on.
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

const SLICE: &[u8] = b"abcdefghij";
const ARGS: &[u8] = b"arguments";
const ASSET: &[u8] = b"weights";

fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| Sandbox::new(64).expect("address space for 64 guests"))
}

/// Small, so that attacks on them end soon.
const LIMITS: Limits = Limits { fuel: 10_000_000, memory_bytes: 4 << 16, output_bytes: 1000, log_bytes: 20 };

fn open() -> OpenSlice {
    Slice::from_bytes(SLICE).open(&HashThreads::new(1), &AtomicU64::new(0)).unwrap()
}

fn run_module(wat: &str, limits: Limits) -> Execution {
    let module = Admitted::new(wat::parse_str(wat).expect("the test is valid text")).expect("the gate admits it");
    let program = sandbox().compile(&module).unwrap();
    let input: Box<dyn Input> = Box::new(open());
    let work = Work { input, args: ARGS.into(), assets: Arc::new([ASSET.into()]), limits };
    sandbox().run(&program, work).unwrap()
}

/// Runs `body` as the guest's `run`; it may add functions after it by closing the parenthesis itself.
fn run(body: &str) -> Execution {
    run_module(&format!("(module {PRELUDE} (func (export \"run\") (result i32) {body}))"), LIMITS)
}

#[track_caller]
fn ends(body: &str, outcome: Outcome) {
    let execution = run(body);
    assert_eq!(execution.outcome, outcome, "{body}");
    assert_eq!(execution.proof.is_some(), outcome == Outcome::Done, "{body}");
}

fn guest_file(name: &str) -> String {
    std::fs::read_to_string(root().join("tests/guests").join(name)).unwrap()
}

#[test]
fn endings_have_names() {
    ends("(i32.const 0)", Outcome::Done);
    ends("(i32.const 7)", Outcome::Failed(7));
    ends("(i32.const -1)", Outcome::Failed(-1));
    for (body, trap) in [
        ("unreachable", Trap::Unreachable),
        ("(i32.load (i32.const 65533))", Trap::MemoryOutOfBounds),
        ("(i32.load offset=4294967295 (i32.const -1))", Trap::MemoryOutOfBounds),
        ("(i32.div_s (i32.const 1) (i32.const 0))", Trap::IntegerDivideByZero),
        ("(i32.div_s (i32.const 0x80000000) (i32.const -1))", Trap::IntegerOverflow),
        ("(i32.trunc_f32_s (f32.const nan))", Trap::InvalidConversionToInteger),
        ("(call_indirect (result i32) (i32.const 0))) (table 1 funcref", Trap::IndirectCallToNull),
        ("(call_indirect (result i32) (i32.const 9))) (table 1 funcref", Trap::TableOutOfBounds),
        ("(call_indirect (result i32) (i32.const 0))) (func $f) (table funcref (elem $f)", Trap::IndirectCallSignature),
    ] {
        ends(body, Outcome::Trap(trap));
    }
}

#[test]
fn an_endless_loop_ends() {
    ends("(loop $again (br $again)) (i32.const 0)", Outcome::OutOfFuel);
    assert!(!Outcome::OutOfFuel.is_reproducible());
}

#[test]
fn calls_without_end_end() {
    ends("(call $deeper)) (func $deeper (result i32) (i32.add (call $deeper) (i32.const 1))", Outcome::StackOverflow);
    assert!(!Outcome::StackOverflow.is_reproducible());
}

/// A host call that is cheap for the guest must not be dear for the host.
#[test]
fn host_calls_are_charged_for_what_they_move() {
    for call in [
        "(call $blake3 (i32.const 0) (i32.const 65536) (i32.const 0))",
        "(call $blake3_update (i32.const 0) (i32.const 65536))",
        "(call $log (i32.const 0) (i32.const 65536))",
        "(drop (call $input_read (i32.const 0) (i64.const 0) (i32.const 65536)))",
        "(drop (call $args_read (i32.const 0) (i64.const 0) (i32.const 65536)))",
        "(drop (call $asset_read (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 65536)))",
    ] {
        let calls = |count| {
            let body = format!(
                "(local $i i32) (loop $l {call}
                   (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {count}))))
                 (i32.const 0)"
            );
            run(&body)
        };
        let hundred = calls(100);
        assert_eq!(hundred.outcome, Outcome::Done, "{call}");
        assert!(hundred.usage.fuel > 100 * 65_536 / 16, "{call}: {}", hundred.usage.fuel);
        assert_eq!(calls(1_000_000_000).outcome, Outcome::OutOfFuel, "{call}");
    }
}

/// Of a long file, one byte costs the host a group of 256 KiB; a guest that hops from group to group pays for each.
#[test]
fn hopping_through_a_long_slice_is_charged_for_what_it_makes_the_host_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, vec![7; 2 << 20]).unwrap();
    let slice = Slice::from_file(file.path(), u64::MAX).unwrap();
    let run = |second: u64| {
        let wat = format!(
            "(module {PRELUDE} (func (export \"run\") (result i32) (local $i i32)
               (loop $l
                 (drop (call $input_read (i32.const 0) (i64.const 0) (i32.const 1)))
                 (drop (call $input_read (i32.const 0) (i64.const {second}) (i32.const 1)))
                 (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 50))))
               (i32.const 0)))"
        );
        let program = sandbox().compile(&Admitted::new(wat::parse_str(wat).unwrap()).unwrap()).unwrap();
        let input: Box<dyn Input> = Box::new(slice.open(&HashThreads::new(1), &AtomicU64::new(0)).unwrap());
        let work = Work { input, args: ARGS.into(), assets: Arc::new([]), limits: LIMITS };
        let execution = sandbox().run(&program, work).unwrap();
        assert_eq!(execution.outcome, Outcome::Done);
        execution.usage.fuel
    };
    let (near, far) = (run(1000), run(1 << 20));
    assert!(near < 50_000, "one group, read once: {near}");
    assert!(far > 100 * (256 << 10) / 16, "a hundred groups: {far}");
}

#[test]
fn a_length_that_nobody_could_pay_ends_the_run_before_it_is_tried() {
    ends("(call $input_blake3 (i64.const 0) (i64.const -1) (i32.const 0)) (i32.const 0)", Outcome::OutOfFuel);
}

#[test]
fn memory_grows_to_its_limit_and_no_further() {
    let execution = run_module(&guest_file("memory-bomb.wat"), LIMITS);
    // It grows by one page until it is refused, and fails with the number of pages that it had then.
    assert_eq!(execution.outcome, Outcome::Failed(4));
    assert_eq!(execution.usage.memory_bytes, LIMITS.memory_bytes);
}

#[test]
fn growth_beyond_what_can_be_is_refused_as_the_standard_says() {
    ends("(memory.grow (i32.const -1))", Outcome::Failed(-1));
    ends("(memory.grow (i32.const 65536))", Outcome::Failed(-1));
    let roomy = Limits { memory_bytes: Limits::MEMORY_BYTES_MAX, ..LIMITS };
    let grow = |by: &str| {
        format!(
            "(module (memory (export \"memory\") 1)
            (func (export \"run\") (result i32) (memory.grow (i32.const {by}))))"
        )
    };
    for by in ["65536", "-1"] {
        assert_eq!(run_module(&grow(by), roomy).outcome, Outcome::Failed(-1), "more than 32 bits address");
    }
    assert_eq!(run_module(&grow("65535"), roomy).usage.memory_bytes, Limits::MEMORY_BYTES_MAX);
    let own_maximum = "(module (memory (export \"memory\") 1 2)
        (func (export \"run\") (result i32) (memory.grow (i32.const 2))))";
    assert_eq!(run_module(own_maximum, LIMITS).outcome, Outcome::Failed(-1));
}

#[test]
fn a_module_that_begins_with_too_much_memory_is_not_started() {
    let wat = "(module (memory (export \"memory\") 5) (func (export \"run\") (result i32) (i32.const 0)))";
    assert_eq!(run_module(wat, LIMITS).outcome, Outcome::MemoryLimit);
    let roomier = Limits { memory_bytes: 5 << 16, ..LIMITS };
    assert_eq!(run_module(wat, roomier).outcome, Outcome::Done);
}

#[test]
fn tables_grow_to_their_limit_and_no_further() {
    let grow = |by| format!("(table.grow $t (ref.null func) (i32.const {by}))) (table $t 1 funcref");
    ends(&grow(9_999), Outcome::Failed(1));
    ends(&grow(10_000), Outcome::Failed(-1));
    ends(&grow(1_000_000), Outcome::Failed(-1));
}

#[test]
fn output_over_its_limit_ends_the_run() {
    let write = |count| format!("(call $output_write (i32.const 0) (i32.const {count}))");
    ends(&format!("{} (i32.const 0)", write(1000)), Outcome::Done);
    ends(&format!("{} {} (i32.const 0)", write(1000), write(0)), Outcome::Done);
    ends(&format!("{} {} (i32.const 0)", write(1000), write(1)), Outcome::OutputLimit);
    let execution = run(&format!("{} {} (i32.const 0)", write(999), write(2)));
    assert_eq!(execution.output.len(), 999, "what fitted is kept, and no part of what did not");
}

#[test]
fn a_log_over_its_limit_is_cut_off_without_a_word() {
    let execution = run("(call $log (i32.const 100) (i32.const 10)) (call $log (i32.const 100) (i32.const 10))
        (call $log (i32.const 100) (i32.const 10)) (i32.const 0)");
    assert_eq!(execution.outcome, Outcome::Done);
    assert_eq!(execution.log, b"0123456789\n012345678");
}

/// Each host function is given pointers around each end of the memory.
#[test]
fn wild_pointers_end_the_run() {
    let (wild, tame) = (["-1", "65536", "65505", "2147483648"], ["65504", "0"]);
    for call in [
        "(call $blake3 (i32.const 0) (i32.const 1) (i32.const PTR))",
        "(call $blake3 (i32.const PTR) (i32.const 32) (i32.const 0))",
        "(call $blake3_update (i32.const PTR) (i32.const 32))",
        "(call $blake3_finish (i32.const PTR))",
        "(call $input_blake3 (i64.const 0) (i64.const 10) (i32.const PTR))",
        "(drop (call $input_read (i32.const PTR) (i64.const 0) (i32.const 32)))",
        "(drop (call $input_read (i32.const PTR) (i64.const 99) (i32.const 32)))",
        "(drop (call $args_read (i32.const PTR) (i64.const 0) (i32.const 32)))",
        "(drop (call $asset_read (i32.const 0) (i32.const PTR) (i64.const 0) (i32.const 32)))",
        "(call $output_write (i32.const PTR) (i32.const 32))",
        "(call $proof_commit (i32.const PTR))",
        "(call $log (i32.const PTR) (i32.const 32))",
    ] {
        for pointer in wild {
            ends(&format!("{} (i32.const 0)", call.replace("PTR", pointer)), Outcome::PointerOutOfRange);
        }
        for pointer in tame {
            ends(&format!("{} (i32.const 0)", call.replace("PTR", pointer)), Outcome::Done);
        }
    }
    // No bytes at the very end are in the memory; beyond it they are not.
    ends("(call $log (i32.const 65536) (i32.const 0)) (i32.const 0)", Outcome::Done);
    ends("(call $log (i32.const 65537) (i32.const 0)) (i32.const 0)", Outcome::PointerOutOfRange);
    // Pointer and length that together wrap to something small.
    ends("(call $output_write (i32.const -16) (i32.const 32)) (i32.const 0)", Outcome::PointerOutOfRange);
}

#[test]
fn source_and_target_of_a_hash_may_overlap() {
    let execution = run("(call $blake3 (i32.const 100) (i32.const 10) (i32.const 95))
        (call $proof_commit (i32.const 95)) (i32.const 0)");
    assert_eq!(execution.proof, Some(Digest::of(b"0123456789")));
}

#[test]
fn a_range_outside_of_the_input_ends_the_run() {
    for (offset, len) in [("0", "11"), ("10", "1"), ("11", "0"), ("1", "10"), ("-1", "1"), ("-1", "0")] {
        let hash = format!("(call $input_blake3 (i64.const {offset}) (i64.const {len}) (i32.const 0)) (i32.const 0)");
        ends(&hash, Outcome::InputRange);
    }
    ends("(call $input_blake3 (i64.const 10) (i64.const 0) (i32.const 0)) (i32.const 0)", Outcome::Done);
}

#[test]
fn a_second_commit_ends_the_run() {
    ends("(call $proof_commit (i32.const 0)) (call $proof_commit (i32.const 0)) (i32.const 0)", Outcome::SecondCommit);
}

#[test]
fn an_asset_that_is_not_there_ends_the_run() {
    ends(
        "(drop (call $asset_read (i32.const 1) (i32.const 0) (i64.const 0) (i32.const 1))) (i32.const 0)",
        Outcome::NoSuchAsset,
    );
    ends(
        "(drop (call $asset_read (i32.const -1) (i32.const 0) (i64.const 0) (i32.const 1))) (i32.const 0)",
        Outcome::NoSuchAsset,
    );
    ends("(i32.wrap_i64 (call $asset_len (i32.const 1)))", Outcome::Failed(-1));
}

#[test]
fn what_a_guest_reads_is_what_it_was_given() {
    let read = |call: &str| {
        let body = format!("(call $output_write (i32.const 0) {call}) (i32.const 0)");
        String::from_utf8(run(&body).output).unwrap()
    };
    assert_eq!(read("(call $input_read (i32.const 0) (i64.const 0) (i32.const 99))"), "abcdefghij");
    assert_eq!(read("(call $input_read (i32.const 0) (i64.const 3) (i32.const 4))"), "defg");
    assert_eq!(read("(call $input_read (i32.const 0) (i64.const 8) (i32.const 4))"), "ij");
    assert_eq!(read("(call $input_read (i32.const 0) (i64.const 10) (i32.const 4))"), "");
    assert_eq!(read("(call $input_read (i32.const 0) (i64.const -1) (i32.const 4))"), "");
    assert_eq!(read("(call $args_read (i32.const 0) (i64.const 1) (i32.const 99))"), "rguments");
    assert_eq!(read("(call $args_read (i32.const 0) (i64.const -1) (i32.const 99))"), "");
    assert_eq!(read("(call $asset_read (i32.const 0) (i32.const 0) (i64.const 5) (i32.const 99))"), "ts");
    ends("(i32.wrap_i64 (call $input_len))", Outcome::Failed(10));
    ends("(i32.wrap_i64 (call $args_len))", Outcome::Failed(9));
    ends("(i32.wrap_i64 (call $asset_len (i32.const 0)))", Outcome::Failed(7));
}

#[test]
fn without_a_commit_the_proof_is_the_digest_of_the_output() {
    let execution = run("(call $output_write (i32.const 100) (i32.const 10)) (i32.const 0)");
    assert_eq!(execution.proof, Some(Digest::of(b"0123456789")));
}

#[test]
fn a_part_of_the_input_is_hashed_as_its_bytes_are() {
    let part = run("(call $input_blake3 (i64.const 2) (i64.const 5) (i32.const 0)) (call $proof_commit (i32.const 0))
        (i32.const 0)");
    assert_eq!(part.proof, Some(Digest::of(b"cdefg")));
    let streamed =
        run("(call $blake3_update (i32.const 100) (i32.const 4)) (call $blake3_update (i32.const 104) (i32.const 6))
        (call $blake3_finish (i32.const 0)) (call $proof_commit (i32.const 0)) (i32.const 0)");
    assert_eq!(streamed.proof, Some(Digest::of(b"0123456789")));
    let anew = run("(call $blake3_update (i32.const 100) (i32.const 4)) (call $blake3_finish (i32.const 0))
        (call $blake3_finish (i32.const 0)) (call $proof_commit (i32.const 0)) (i32.const 0)");
    assert_eq!(anew.proof, Some(Digest::of(b"")), "a finished hash begins anew");
}

/// What one run leaves in memory, globals and tables, the next must not see: in the same slot of the pool, too.
#[test]
fn no_run_sees_what_another_left() {
    let module = Admitted::new(wat::parse_str(guest_file("remembers.wat")).unwrap()).unwrap();
    let sandbox = Sandbox::new(1).unwrap();
    let program = sandbox.compile(&module).unwrap();
    for _ in 0..3 {
        let input: Box<dyn Input> = Box::new(open());
        let work = Work { input, args: ARGS.into(), assets: Arc::new([]), limits: Limits::DEFAULT };
        assert_eq!(sandbox.run(&program, work).unwrap().outcome, Outcome::Done);
    }
}

/// The payload of a NaN is the processor's choice, and nobody's proof may depend on it.
#[test]
fn a_nan_has_one_form() {
    ends("(i32.ne (i32.reinterpret_f32 (f32.div (f32.const 0) (f32.const 0))) (i32.const 0x7fc00000))", Outcome::Done);
}
