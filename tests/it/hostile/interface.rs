//! Modules with a shape other than the ABI's, or with features that are not on the list. `gate.rs`
//! has the plain cases.

use compute_host::sandbox::Outcome;

use super::{LIMITS, MEMORY, RUN, ends, refused, run_module};

#[test]
fn what_is_imported_is_a_function_of_the_abi() {
    for (attack, import) in [
        ("another module", r#""env" "input_len" (func (result i64))"#),
        ("another case", r#""Compute" "input_len" (func (result i64))"#),
        ("a space after it", r#""compute " "input_len" (func (result i64))"#),
        ("a NUL after it", r#""compute\00" "input_len" (func (result i64))"#),
        ("a letter that looks like it", r#""c\d0\bempute" "input_len" (func (result i64))"#),
        ("no module", r#""" "input_len" (func (result i64))"#),
        ("no name", r#""compute" "" (func)"#),
        ("a name that begins like one", r#""compute" "input_le" (func (result i64))"#),
        ("a name that goes on", r#""compute" "input_len\00" (func (result i64))"#),
        ("WASI", r#""wasi_snapshot_preview1" "path_open" (func)"#),
        ("a later version", r#""compute_2" "input_len" (func (result i64))"#),
        ("a memory of ours", r#""compute" "log" (memory 1)"#),
        ("a table of ours", r#""compute" "log" (table 1 funcref)"#),
        ("a global of ours", r#""compute" "log" (global (mut i32))"#),
    ] {
        refused(attack, &format!("(import {import}) {MEMORY} {RUN}"), "unknown_import");
    }
}

/// Each function of the ABI with one more parameter, one more result, and wider values.
#[test]
fn what_is_imported_has_the_abis_signature() {
    for (name, signature) in [
        ("input_len", "(result i64)"),
        ("input_read", "(param i32 i64 i32) (result i32)"),
        ("input_blake3", "(param i64 i64 i32)"),
        ("blake3", "(param i32 i32 i32)"),
        ("blake3_update", "(param i32 i32)"),
        ("blake3_finish", "(param i32)"),
        ("args_len", "(result i64)"),
        ("args_read", "(param i32 i64 i32) (result i32)"),
        ("asset_len", "(param i32) (result i64)"),
        ("asset_read", "(param i32 i32 i64 i32) (result i32)"),
        ("output_write", "(param i32 i32)"),
        ("proof_commit", "(param i32)"),
        ("log", "(param i32 i32)"),
    ] {
        let import = |signature: &str| format!("(import \"compute\" \"{name}\" (func {signature})) {MEMORY} {RUN}");
        super::admitted(&format!("(module {})", import(signature)));
        let swapped = signature.replace("i32", "f32").replace("i64", "i32");
        for other in [format!("(param f64) {signature}"), format!("{signature} (result i32)"), swapped] {
            refused(name, &import(&other), "import_signature");
        }
    }
}

#[test]
fn what_must_be_exported_is() {
    for (attack, fields, code) in [
        ("`run` is a table", format!("{MEMORY} (table (export \"run\") 1 funcref)"), "no_run_export"),
        ("`run` is the memory", "(memory (export \"memory\") (export \"run\") 1)".to_owned(), "no_run_export"),
        ("`memory` is a function", format!("(memory 1) (func (export \"memory\")) {RUN}"), "no_memory_export"),
        ("`Memory`", format!("(memory (export \"Memory\") 1) {RUN}"), "no_memory_export"),
        ("`run ` with a space", format!("{MEMORY} {}", RUN.replace("run", "run ")), "no_run_export"),
        (
            "`run` is a function of the host",
            format!(r#"(import "compute" "input_len" (func (result i64))) {MEMORY} (export "run" (func 0))"#),
            "run_signature",
        ),
        ("two results", format!("{MEMORY} (func (export \"run\") (result i32 i32) unreachable)"), "run_signature"),
        ("a wider result", format!("{MEMORY} (func (export \"run\") (result i64) unreachable)"), "run_signature"),
        (
            "a reference as result",
            format!("{MEMORY} (func (export \"run\") (result funcref) unreachable)"),
            "run_signature",
        ),
        (
            "a name of a later version",
            format!("{MEMORY} {RUN} (global (export \"compute_\") i32 (i32.const 0))"),
            "reserved_export",
        ),
    ] {
        refused(attack, &fields, code);
    }
}

#[test]
fn segments_lie_within_what_starts() {
    for (attack, fields, code) in [
        ("data a byte over the end", "(data (i32.const 65527) \"0123456789\")", "segment_range"),
        ("data that wraps", "(data (i32.const -5) \"0123456789\")", "segment_range"),
        ("no data, beyond the end", "(data (i32.const 65537) \"\")", "segment_range"),
        ("data where a global says", "(global $g i32 (i32.const 0)) (data (global.get $g) \"a\")", "invalid"),
        ("data in another memory", "(data (memory 1) (i32.const 0) \"a\")", "invalid"),
        ("data at a wide offset", "(data (i64.const 0) \"a\")", "invalid"),
        ("functions over the end", "(table 2 funcref) (elem (i32.const 1) func 0 0)", "segment_range"),
        ("functions that wrap", "(table 2 funcref) (elem (i32.const -1) func 0 0)", "segment_range"),
        ("no functions, beyond the end", "(table 2 funcref) (elem (i32.const 3) func)", "segment_range"),
        ("functions without a table", "(elem (i32.const 0) func 0)", "invalid"),
        ("functions that are not there", "(table 2 funcref) (elem (i32.const 0) func 99)", "invalid"),
        ("passive functions that are not there", "(elem func 99)", "invalid"),
        ("declared functions that are not there", "(elem declare func 99)", "invalid"),
        ("a reference that is not declared", "(func $f) (func (drop (ref.func $f)))", "invalid"),
    ] {
        refused(attack, &format!("{MEMORY} {RUN} {fields}"), code);
    }
    for fields in [
        "(data (i32.const 65526) \"0123456789\") (data (i32.const 65536) \"\") (data \"passive\")",
        "(table 2 funcref) (elem (i32.const 1) func 0) (elem (i32.const 2) func) (elem declare func 0) (elem func 0)",
    ] {
        let execution = run_module(&format!("(module {MEMORY} {RUN} {fields})"), LIMITS);
        assert_eq!(execution.outcome, Outcome::Done, "up to the end, and passive: {fields}");
    }
    // Of two overlapping segments the last wins, as the standard says.
    ends(
        "segments that overlap",
        "(i32.load8_u (i32.const 100))) (data (i32.const 100) \"\\ff\") (data (i32.const 100) \"\\07\"",
        Outcome::Failed(7),
    );
}

/// Every proposal that is not on the gate's list, each through something that only this proposal
/// has.
#[test]
fn features_that_are_not_listed_are_not_valid() {
    for (proposal, fields) in [
        ("threads: atomic access", "(func (drop (i32.atomic.load (i32.const 0))))"),
        ("threads: wait", "(func (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))))"),
        ("threads: fence", "(func (atomic.fence))"),
        ("shared everything", "(type (shared (func)))"),
        (
            "relaxed SIMD",
            "(func (param v128 v128 v128) (drop (f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2))))",
        ),
        ("tail calls", "(func (return_call 0))"),
        (
            "tail calls by the table",
            "(table 1 funcref) (func (result i32) (return_call_indirect (result i32) (i32.const 0)))",
        ),
        ("exceptions: throw", "(tag $t) (func (throw $t))"),
        ("exceptions: try", "(func (try_table (catch_all 0)))"),
        ("exceptions: references", "(func (param exnref))"),
        ("legacy exceptions", "(func try catch_all end)"),
        ("several memories", "(memory $second 1)"),
        ("64-bit tables", "(table i64 1 funcref)"),
        ("extended constants: other operators", "(global i64 (i64.div_u (i64.const 2) (i64.const 3)))"),
        ("constants from other globals", "(global $a i32 (i32.const 0)) (global i32 (global.get $a))"),
        ("typed function references", "(type $f (func)) (func (param (ref $f)) (call_ref $f (local.get 0)))"),
        ("references that are not null", "(func (param (ref func)))"),
        ("tables with an initial value", "(table 1 funcref (ref.func 0))"),
        ("external references", "(func (param externref))"),
        ("garbage collection: arrays", "(type (array i8))"),
        ("garbage collection: i31", "(func (drop (ref.i31 (i32.const 0))))"),
        ("garbage collection: subtypes", "(type (sub (func)))"),
        ("garbage collection: recursive types", "(rec (type (func)) (type (func)))"),
        ("garbage collection: any reference", "(func (param anyref))"),
        ("wide arithmetic", "(func (result i64 i64) (i64.mul_wide_s (i64.const 1) (i64.const 1)))"),
        ("stack switching", "(type $f (func)) (type (cont $f))"),
        ("memory control", "(func (memory.discard (i32.const 0) (i32.const 65536)))"),
        ("custom descriptors", "(rec (type $a (descriptor $b) (struct)) (type $b (describes $a) (struct)))"),
    ] {
        refused(proposal, &format!("{MEMORY} {RUN} {fields}"), "invalid");
    }
    for (proposal, memory) in [
        ("64-bit memory", "i64 1"),
        ("shared memory", "1 2 shared"),
        ("pages of a byte", "1 (pagesize 1)"),
        ("more than 32 bits address", "65536 65537"),
    ] {
        let fields = format!("(memory (export \"memory\") {memory}) {RUN}");
        match wat::parse_str(format!("(module {fields})")) {
            Ok(_) => refused(proposal, &fields, "invalid"),
            Err(error) => panic!("{proposal}: {error}"),
        }
    }
}
