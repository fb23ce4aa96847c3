//! Compile bombs: modules of shapes that once kept the compiler busy. The gate refuses each, or it
//! compiles within the limits; the gate decides which.

use compute_host::sandbox::{Admitted, Compiler, SandboxError};

use super::{MEMORY, RUN, sandbox};
use crate::common::NODE;

fn repeat(count: usize, text: &str) -> String {
    text.repeat(count)
}

/// Concatenates the output of `each` for the numbers below `count`.
fn numbered(count: usize, each: impl Fn(usize) -> String) -> String {
    (0..count).map(each).collect()
}

#[track_caller]
fn refused_or_compiles(attack: &str, functions: &str) {
    let text = format!("(module {MEMORY} {RUN} (table 100 funcref) {functions})");
    let wasm = wat::parse_str(text).unwrap_or_else(|error| panic!("{attack}: {error}"));
    let bytes = wasm.len();
    let admitted = match Admitted::new(wasm) {
        Ok(admitted) => admitted,
        Err(refusal) => return println!("{attack}: {bytes} bytes, refused [{}]", refusal.code()),
    };
    let compiler = Compiler::child(NODE, sandbox().settings_digest());
    match compiler.compile(&admitted) {
        Ok(code) => println!("{attack}: {bytes} bytes, compiles to {}", code.len()),
        // The compiler's own verdict is a refusal, too.
        Err(SandboxError::Compile(verdict)) => println!("{attack}: {bytes} bytes, {verdict}"),
        Err(error) => panic!("{attack}: it is admitted, and then {error}"),
    }
}

/// Returns a function with `locals` locals that are all live in each of `loops` nested loops.
fn locals_in_loops(locals: usize, loops: usize) -> String {
    let body =
        numbered(loops, |i| format!("loop local.get {} i32.const 1 i32.add local.set {} ", i % locals, i * 7 % locals));
    let (ends, declared) = (repeat(loops, "i32.const 0 i32.load br_if 0 end "), repeat(locals, "i32 "));
    let uses = numbered(locals, |i| format!("(i32.store (i32.const 0) (local.get {i}))"));
    format!("(func (param i32) (local {declared}) {body} {ends} {uses})")
}

#[test]
fn loops_in_loops_are_refused_or_compile() {
    for loops in [500, 1000, 10_000] {
        let (open, close) = (repeat(loops, "loop "), repeat(loops, "end "));
        refused_or_compiles("loops in each other", &format!("(func {open} {close})"));
        let close = repeat(loops, "local.get 0 br_if 0 end ");
        refused_or_compiles("loops in each other that loop", &format!("(func (param i32) {open} {close})"));
    }
}

#[test]
fn locals_in_loops_are_refused_or_compile() {
    for (locals, loops) in [(1000, 1000), (3000, 1000), (300, 400), (1000, 100), (50, 500)] {
        refused_or_compiles(&format!("{locals} locals in {loops} loops"), &locals_in_loops(locals, loops));
    }
}

/// The innermost loop changes all locals, so each loop around it has a value for each local.
#[test]
fn locals_changed_in_the_innermost_loop_are_refused_or_compile() {
    for (locals, loops) in
        [(1000, 500), (1000, 130), (500, 500), (300, 400), (100, 500), (1000, 60), (200, 60), (1000, 16)]
    {
        let (open, close) = (repeat(loops, "loop "), repeat(loops, "i32.const 0 i32.load br_if 0 end "));
        let change = numbered(locals, |i| format!("local.get {i} i32.const 3 i32.add local.set {} ", i * 7 % locals));
        let declared = repeat(locals, "i32 ");
        let uses = numbered(locals, |i| format!("(i32.store (i32.const 0) (local.get {i}))"));
        let function = format!("(func (local {declared}) {open} {change} {close} {uses})");
        refused_or_compiles(&format!("{locals} locals changed in {loops} loops"), &function);
    }
}

#[test]
fn long_straight_code_is_refused_or_compiles() {
    let loads = |count: usize| {
        numbered(count, |i| {
            format!("(local.set 1 (i32.add (local.get 1) (i32.load offset={} (local.get 0))))", i * 8 % 60_000)
        })
    };
    for count in [2700, 5000, 21_000, 116_000] {
        let function = format!("(func (param i32 i32) (result i32) {} (local.get 1))", loads(count));
        refused_or_compiles("loads in a row", &function);
    }
    let stores =
        numbered(5000, |i| format!("(i32.store offset={i} (local.get 0) (i32.load offset={i} (local.get 0)))"));
    refused_or_compiles("loads and stores in turn", &format!("(func (param i32) {stores})"));
    let adds = repeat(32_501, "i32.const 3 i32.add ");
    refused_or_compiles("65,002 operators in a row", &format!("(func (param i32) (result i32) local.get 0 {adds})"));
    let divisions = repeat(8000, "local.get 1 i32.div_s ");
    refused_or_compiles("divisions in a row", &format!("(func (param i32 i32) (result i32) local.get 0 {divisions})"));
}

#[test]
fn many_values_alive_at_once_are_refused_or_compile() {
    for count in [1000, 20_000] {
        let loads = numbered(count, |i| format!("(i32.load offset={i} (local.get 0))"));
        let adds = repeat(count - 1, "i32.add ");
        refused_or_compiles("live values", &format!("(func (param i32) (result i32) {loads} {adds})"));
        let loads = loads.replace("i32.load", "f64.load");
        let adds = adds.replace("i32", "f64");
        refused_or_compiles("live floats", &format!("(func (param i32) (result f64) {loads} {adds})"));
        let loads = loads.replace("f64.load", "v128.load");
        let adds = adds.replace("f64.add", "i8x16.swizzle");
        refused_or_compiles("live vectors", &format!("(func (param i32) (result v128) {loads} {adds})"));
    }
}

#[test]
fn many_small_functions_are_refused_or_compile() {
    for count in [9999, 100_000] {
        refused_or_compiles("functions of nothing", &repeat(count, "(func)"));
    }
    let calls = numbered(9998, |i| format!("(func (call {}))", 9998 - i));
    refused_or_compiles("functions that call each other", &calls);
    let wide = repeat(5, "i64 ");
    let (gets, types) = (numbered(5, |i| format!("(local.get {i})")), format!("(param {wide}) (result {wide})"));
    refused_or_compiles("functions of many results", &repeat(4900, &format!("(func {types} {gets})")));
    let names = numbered(1000, |i| format!("(func (export \"{i}\"))"));
    refused_or_compiles("functions with a second entry", &names);
}

#[test]
fn branches_everywhere_are_refused_or_compile() {
    for targets in [8000, 100_000] {
        let table = repeat(targets, "0 ");
        refused_or_compiles(
            "a table of branches to one place",
            &format!("(func (param i32) (br_table {table} (local.get 0)))"),
        );
    }
    let (open, close) = (repeat(500, "block "), repeat(500, "end "));
    let places = numbered(500, |i| format!("{i} "));
    let table = format!("local.get 0 br_table {} ", repeat(16, &places));
    refused_or_compiles("a table of branches to 500 places", &format!("(func (param i32) {open} {table} {close})"));
    let many = repeat(400, &format!("block local.get 0 br_table {} end ", repeat(20, "0 ")));
    refused_or_compiles("many tables of branches", &format!("(func (param i32) {many})"));
    let ifs = repeat(500, "local.get 0 if (result i32) i32.const 1 else ") + "i32.const 2 " + &repeat(500, "end ");
    refused_or_compiles("ifs in each other", &format!("(func (param i32) (result i32) {ifs})"));
    let row = repeat(4999, "local.get 0 if local.get 0 i32.const 1 i32.add local.set 0 end ");
    refused_or_compiles("ifs in a row", &format!("(func (param i32) {row})"));
    let results = repeat(60, "i64 ");
    let zeros = repeat(60, "i64.const 0 ");
    let blocks = format!(
        "{zeros} {} {}",
        repeat(400, &format!("block (param {results}) (result {results}) ")),
        repeat(400, "end ")
    );
    refused_or_compiles("blocks of 60 values in each other", &format!("(func (result {results}) {blocks})"));
}

#[test]
fn what_becomes_much_code_is_refused_or_compiles() {
    for (attack, one) in [
        ("calls by the table", "(call_indirect (local.get 0)) "),
        ("copies", "(memory.copy (local.get 0) (local.get 0) (local.get 0)) "),
        ("growth", "(drop (memory.grow (local.get 0))) "),
        ("conversions", "(f64.store (local.get 0) (f64.convert_i32_u (i32.trunc_f64_s (f64.load (local.get 0))))) "),
        ("remainders", "(i32.store (local.get 0) (i32.rem_s (local.get 0) (i32.load (local.get 0)))) "),
        ("references", "(table.set 0 (local.get 0) (table.get 0 (local.get 0))) "),
        ("floats", "(f64.store (local.get 0) (f64.nearest (f64.sqrt (f64.load (local.get 0))))) "),
        ("vectors", "(v128.store (local.get 0) (i8x16.shr_s (i8x16.popcnt (v128.load (local.get 0))) (local.get 0))) "),
        (
            "products of vectors",
            "(v128.store (local.get 0) (i64x2.mul (v128.load (local.get 0))
               (i32x4.trunc_sat_f64x2_u_zero (v128.load (local.get 0))))) ",
        ),
    ] {
        // A straight run of the longest allowed length, and then as many as a function may have.
        refused_or_compiles(attack, &format!("(func (param i32) {})", repeat(2000, one)));
        let parts = repeat(8, &format!("block {} end ", repeat(1000, one)));
        refused_or_compiles(attack, &format!("(func (param i32) {parts})"));
    }
}
