//! Guests that abuse the host's functions.

use std::sync::atomic::AtomicU64;

use compute_host::digest::{Digest, HashThreads};
use compute_host::sandbox::{Input, Invocation, Outcome};
use compute_host::slice::Slice;

use super::{ARGS, LIMITS, PRELUDE, admitted, ends, run, sandbox};

/// A host call that is cheap for the guest must not be expensive for the host.
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
        assert!(hundred.usage.gas > 100 * 65_536 / 16, "{call}: {}", hundred.usage.gas);
        assert_eq!(calls(1_000_000_000).outcome, Outcome::OutOfGas, "{call}");
    }
}

/// In a long file, reading one byte costs the host a group of 256 KiB. A guest that jumps from
/// group to group pays for each.
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
        let program = sandbox().compile(&admitted(&wat)).unwrap();
        let input: Box<dyn Input> = Box::new(slice.open(&HashThreads::new(1), &AtomicU64::new(0)).unwrap());
        let work = Invocation { args: ARGS.into(), ..Invocation::new(input, LIMITS) };
        let execution = sandbox().run(&program, work).unwrap();
        assert_eq!(execution.outcome, Outcome::Done);
        execution.usage.gas
    };
    let (near, far) = (run(1000), run(1 << 20));
    assert!(near < 50_000, "one group, read once: {near}");
    assert!(far > 100 * (256 << 10) / 16, "a hundred groups: {far}");
}

#[test]
fn a_length_that_nobody_could_pay_ends_the_run_before_it_is_tried() {
    for call in [
        "(call $input_blake3 (i64.const 0) (i64.const -1) (i32.const 0))",
        "(call $input_blake3 (i64.const -1) (i64.const -1) (i32.const -1))",
        "(call $blake3 (i32.const 0) (i32.const -1) (i32.const 0))",
        "(call $blake3_update (i32.const -1) (i32.const -1))",
        "(call $output_write (i32.const 0) (i32.const -1))",
        "(call $log (i32.const 0) (i32.const -1))",
        "(drop (call $args_read (i32.const 0) (i64.const 0) (i32.const -1)))",
        "(drop (call $asset_read (i32.const 0) (i32.const 0) (i64.const 0) (i32.const -1)))",
        "(drop (call $asset_read (i32.const -1) (i32.const -1) (i64.const -1) (i32.const -1)))",
    ] {
        ends("2^32-1 bytes and more", &format!("{call} (i32.const 0)"), Outcome::OutOfGas);
    }
}

/// Calls with a range of memory: the placeholder of the pointer, and the length if the guest does
/// not choose it.
const RANGES: &[(&str, Option<u32>)] = &[
    ("(call $blake3 (i32.const PTR) (i32.const LEN) (i32.const 0))", None),
    ("(call $blake3_update (i32.const PTR) (i32.const LEN))", None),
    ("(call $output_write (i32.const PTR) (i32.const LEN))", None),
    ("(call $log (i32.const PTR) (i32.const LEN))", None),
    ("(drop (call $input_read (i32.const PTR) (i64.const 0) (i32.const LEN)))", None),
    ("(drop (call $input_read (i32.const PTR) (i64.const -1) (i32.const LEN)))", None),
    ("(drop (call $args_read (i32.const PTR) (i64.const 0) (i32.const LEN)))", None),
    ("(drop (call $args_read (i32.const PTR) (i64.const -1) (i32.const LEN)))", None),
    ("(drop (call $asset_read (i32.const 0) (i32.const PTR) (i64.const 0) (i32.const LEN)))", None),
    ("(drop (call $asset_read (i32.const 0) (i32.const PTR) (i64.const -1) (i32.const LEN)))", None),
    ("(call $blake3 (i32.const 0) (i32.const 1) (i32.const PTR))", Some(32)),
    ("(call $blake3_finish (i32.const PTR))", Some(32)),
    ("(call $input_blake3 (i64.const 0) (i64.const 10) (i32.const PTR))", Some(32)),
    ("(call $input_blake3 (i64.const 2) (i64.const 5) (i32.const PTR))", Some(32)),
    ("(call $input_blake3 (i64.const 99) (i64.const 99) (i32.const PTR))", Some(32)),
    ("(call $proof_commit (i32.const PTR))", Some(32)),
];

/// Each host function gets each pointer with each length, around both ends of the memory and around
/// overflow.
#[test]
fn wild_pointers_end_the_run() {
    const END: u32 = 65_536;
    let pointers = [0, 1, END - 32, END - 31, END - 1, END, END + 1, 1 << 31, u32::MAX - 31, u32::MAX];
    let lengths = [0, 1, 31, 32, 33, 65_504, END - 1, END, END + 1];
    for (call, fixed) in RANGES {
        for pointer in pointers {
            for length in fixed.map_or(lengths.to_vec(), |length| vec![length]) {
                let body = call.replace("PTR", &pointer.to_string()).replace("LEN", &length.to_string());
                let is_in = u64::from(pointer) + u64::from(length) <= END.into();
                let outcome = match () {
                    () if !is_in => Outcome::PointerOutOfRange,
                    () if call.contains("output_write") && u64::from(length) > LIMITS.output_bytes => {
                        Outcome::OutputLimit
                    }
                    () if call.contains("99") => Outcome::InputRange,
                    () => Outcome::Done,
                };
                ends("a wild pointer", &format!("{body} (i32.const 0)"), outcome);
            }
        }
    }
}

/// A range that is outside the memory becomes valid only after the memory has grown.
#[test]
fn the_end_of_memory_is_where_it_is_now() {
    let write = "(call $output_write (i32.const 65536) (i32.const 1))";
    let grow = "(drop (memory.grow (i32.const 1)))";
    ends("before it has grown", &format!("{write} {grow} (i32.const 0)"), Outcome::PointerOutOfRange);
    ends("after it has grown", &format!("{grow} {write} (i32.const 0)"), Outcome::Done);
    let far = "(call $output_write (i32.const 131072) (i32.const 1))";
    ends("beyond what it has grown to", &format!("{grow} {far} (i32.const 0)"), Outcome::PointerOutOfRange);
}

#[test]
fn source_and_target_of_a_hash_may_overlap() {
    let execution = run("(call $blake3 (i32.const 100) (i32.const 10) (i32.const 95))
        (call $proof_commit (i32.const 95)) (i32.const 0)");
    assert_eq!(execution.proof, Some(Digest::of(b"0123456789")));
    let onto_itself = run("(call $blake3 (i32.const 100) (i32.const 10) (i32.const 100))
        (call $output_write (i32.const 100) (i32.const 32)) (i32.const 0)");
    assert_eq!(onto_itself.output, Digest::of(b"0123456789").as_bytes());
}

#[test]
fn a_range_outside_of_the_input_ends_the_run() {
    for (offset, len) in [
        ("0", "11"),
        ("10", "1"),
        ("11", "0"),
        ("1", "10"),
        ("-1", "1"),
        ("-1", "0"),
        ("-5", "10"),
        ("0x8000000000000000", "0"),
    ] {
        let hash = format!("(call $input_blake3 (i64.const {offset}) (i64.const {len}) (i32.const 0)) (i32.const 0)");
        ends("a range outside of the input", &hash, Outcome::InputRange);
    }
    ends(
        "nothing, at the end",
        "(call $input_blake3 (i64.const 10) (i64.const 0) (i32.const 0)) (i32.const 0)",
        Outcome::Done,
    );
}

#[test]
fn an_asset_that_is_not_there_ends_the_run() {
    ends(
        "an asset that is not there",
        "(drop (call $asset_read (i32.const 1) (i32.const 0) (i64.const 0) (i32.const 1))) (i32.const 0)",
        Outcome::NoSuchAsset,
    );
    ends(
        "an asset that is not there",
        "(drop (call $asset_read (i32.const -1) (i32.const 0) (i64.const 0) (i32.const 1))) (i32.const 0)",
        Outcome::NoSuchAsset,
    );
    ends("its length", "(i32.wrap_i64 (call $asset_len (i32.const 1)))", Outcome::Failed(-1));
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
    ends("a length", "(i32.wrap_i64 (call $input_len))", Outcome::Failed(10));
    ends("a length", "(i32.wrap_i64 (call $args_len))", Outcome::Failed(9));
    ends("a length", "(i32.wrap_i64 (call $asset_len (i32.const 0)))", Outcome::Failed(7));
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
