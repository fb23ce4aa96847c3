//! Guests that output too much, or commit twice.

use compute_host::digest::Digest;
use compute_host::sandbox::{Outcome, Trap};

use super::{LIMITS, ends, run};

const COMMIT: &str = "(call $proof_commit (i32.const 0))";

fn write(count: u64) -> String {
    format!("(call $output_write (i32.const 0) (i32.const {count}))")
}

/// Repeats `call` as long as the gas lasts.
fn for_ever(call: &str) -> String {
    format!("(loop $l {call} (br $l)) (i32.const 0)")
}

#[test]
fn output_over_its_limit_ends_the_run() {
    for (attack, calls, outcome) in [
        ("what is allowed", write(1000), Outcome::Done),
        ("nothing more", write(1000) + &write(0), Outcome::Done),
        ("a byte more", write(1000) + &write(1), Outcome::OutputLimit),
        ("all of memory", write(65_536), Outcome::OutputLimit),
        ("a fault after it", format!("{} unreachable", write(1001)), Outcome::OutputLimit),
    ] {
        ends(attack, &format!("{calls} (i32.const 0)"), outcome);
    }
    ends("a byte at a time", &for_ever(&write(1)), Outcome::OutputLimit);
    ends("nothing, for ever", &for_ever(&write(0)), Outcome::OutOfGas);
    let execution = run(&format!("{} {} (i32.const 0)", write(999), write(2)));
    assert_eq!(execution.output.len(), 999, "what fitted is kept, and no part of what did not");
}

#[test]
fn a_log_over_its_limit_is_cut_off_without_a_word() {
    let line = "(call $log (i32.const 100) (i32.const 10))";
    for (attack, body, outcome, log) in [
        ("three lines", format!("{line} {line} {line} (i32.const 0)"), Outcome::Done, &b"0123456789\n012345678"[..]),
        (
            "all of memory",
            "(call $log (i32.const 100) (i32.const 65436)) (i32.const 0)".to_owned(),
            Outcome::Done,
            b"0123456789\0\0\0\0\0\0\0\0\0\0",
        ),
        ("a line, for ever", for_ever(line), Outcome::OutOfGas, b"0123456789\n012345678"),
        (
            "an empty line, for ever",
            for_ever("(call $log (i32.const 0) (i32.const 0))"),
            Outcome::OutOfGas,
            &[b'\n'; 20],
        ),
    ] {
        ends(attack, &body, outcome);
        assert_eq!(run(&body).log, log, "{attack}");
    }
}

#[test]
fn a_second_commit_ends_the_run() {
    for (attack, body, outcome) in [
        ("twice", format!("{COMMIT} {COMMIT} (i32.const 0)"), Outcome::SecondCommit),
        ("for ever", for_ever(COMMIT), Outcome::SecondCommit),
        (
            "the second out of range",
            format!("{COMMIT} {} (i32.const 0)", COMMIT.replace('0', "-1")),
            Outcome::PointerOutOfRange,
        ),
        (
            "the second of the same bytes",
            format!("{COMMIT} {} (i32.const 0)", COMMIT.replace('0', "32")),
            Outcome::SecondCommit,
        ),
    ] {
        ends(attack, &body, outcome);
    }
}

#[test]
fn what_is_committed_counts_only_if_the_run_is_done() {
    for (attack, body, outcome) in [
        ("and then a failure", format!("{COMMIT} (i32.const 1)"), Outcome::Failed(1)),
        ("and then a trap", format!("{COMMIT} unreachable"), Outcome::Trap(Trap::Unreachable)),
        ("and then too much output", format!("{COMMIT} {} (i32.const 0)", write(1001)), Outcome::OutputLimit),
        ("and then no end", format!("{COMMIT} (loop (br 0)) (i32.const 0)"), Outcome::OutOfGas),
    ] {
        // `ends` asserts that nothing is proved.
        ends(attack, &body, outcome);
    }
}

/// The proof is the memory at the time of the commit; output before or after does not change it.
#[test]
fn a_commit_counts_whenever_it_comes() {
    let commit = "(call $proof_commit (i32.const 100))";
    let committed = run(&format!("{commit} (i32.const 0)")).proof.unwrap();
    assert_eq!(committed.as_bytes()[..12], *b"0123456789\0\0");
    for body in [
        format!("{} {commit} (i32.const 0)", write(10)),
        format!("{commit} {} (i32.const 0)", write(10)),
        format!("{commit} (i64.store (i32.const 100) (i64.const -1)) (i32.const 0)"),
    ] {
        assert_eq!(run(&body).proof, Some(committed), "{body}");
    }
    assert_eq!(LIMITS.output_bytes, 1000, "the writes above are within it");
}

#[test]
fn without_a_commit_the_proof_is_the_digest_of_the_output() {
    let execution = run("(call $output_write (i32.const 100) (i32.const 10)) (i32.const 0)");
    assert_eq!(execution.proof, Some(Digest::of(b"0123456789")));
}
