//! Guests that grow memory or tables beyond their limits, and bulk operations across the end.

use compute_host::limits::Limits;
use compute_host::sandbox::{Outcome, Trap};

use super::{LIMITS, ends, guest_file, proves_what_it_may, run_module};

#[test]
fn memory_grows_to_its_limit_and_no_further() {
    let execution = run_module(&guest_file("memory-bomb.wat"), LIMITS);
    // The guest grows by one page until it is refused, and fails with its number of pages.
    assert_eq!(execution.outcome, Outcome::Failed(4));
    assert_eq!(execution.usage.memory_bytes, LIMITS.memory_bytes);
}

#[test]
fn growth_beyond_what_can_be_is_refused_as_the_standard_says() {
    for by in ["-1", "65536", "65535", "4", "0x80000000"] {
        ends("a page too many, or more", &format!("(memory.grow (i32.const {by}))"), Outcome::Failed(-1));
    }
    ends("all that there is", "(memory.grow (i32.const 3))", Outcome::Failed(1));
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
    let execution = run_module(wat, LIMITS);
    assert_eq!(execution.outcome, Outcome::MemoryLimit);
    proves_what_it_may("a page more than the job allows", &execution);
    let roomier = Limits { memory_bytes: 5 << 16, ..LIMITS };
    assert_eq!(run_module(wat, roomier).outcome, Outcome::Done);
    assert_eq!(run_module(wat, Limits { memory_bytes: (5 << 16) - 1, ..LIMITS }).outcome, Outcome::MemoryLimit);
    assert_eq!(run_module(wat, Limits { memory_bytes: 0, ..LIMITS }).outcome, Outcome::MemoryLimit);
}

#[test]
fn tables_grow_to_their_limit_and_no_further() {
    let table = ") (table $t 1 funcref";
    for (attack, by, outcome) in [
        ("all that there is", "9999", Outcome::Failed(1)),
        ("one element too many", "10000", Outcome::Failed(-1)),
        ("many too many", "1000000", Outcome::Failed(-1)),
        ("more than can be counted", "-1", Outcome::Failed(-1)),
    ] {
        ends(attack, &format!("(table.grow $t (ref.null func) (i32.const {by})){table}"), outcome);
    }
    let until_refused = "(block $refused (loop $more
           (br_if $refused (i32.eq (table.grow $t (ref.null func) (i32.const 1)) (i32.const -1))) (br $more)))
         (table.size $t)";
    ends("an element at a time", &format!("{until_refused}{table}"), Outcome::Failed(10_000));
    ends(
        "beyond its own maximum",
        &format!("{until_refused}{table}").replace("1 funcref", "1 5 funcref"),
        Outcome::Failed(5),
    );
}

#[test]
fn bulk_operations_over_the_end_trap_and_do_nothing_before() {
    // Operands: destination, source or value, and length. The memory has 65,536 bytes, and the
    // segment 10.
    for (attack, operation) in [
        ("a fill across the end", "(memory.fill (i32.const 65530) (i32.const 7) (i32.const 7))"),
        ("a fill beyond the end", "(memory.fill (i32.const 65537) (i32.const 7) (i32.const 0))"),
        ("a fill that wraps", "(memory.fill (i32.const -1) (i32.const 7) (i32.const 2))"),
        ("a copy to across the end", "(memory.copy (i32.const 65530) (i32.const 0) (i32.const 7))"),
        ("a copy from across the end", "(memory.copy (i32.const 0) (i32.const 65530) (i32.const 7))"),
        ("a copy of nothing from beyond the end", "(memory.copy (i32.const 0) (i32.const 65537) (i32.const 0))"),
        ("a copy to where it wraps", "(memory.copy (i32.const -8) (i32.const 0) (i32.const 16))"),
        ("a copy from where it wraps", "(memory.copy (i32.const 0) (i32.const -8) (i32.const 16))"),
        ("an init across the end", "(memory.init $d (i32.const 65530) (i32.const 0) (i32.const 7))"),
        ("an init of more than there is", "(memory.init $d (i32.const 0) (i32.const 5) (i32.const 6))"),
        ("an init from beyond its end", "(memory.init $d (i32.const 0) (i32.const 11) (i32.const 0))"),
        ("an init that wraps", "(memory.init $d (i32.const 0) (i32.const -1) (i32.const 2))"),
        ("an init of what is dropped", "(data.drop $d) (memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))"),
        ("an init of what was put in place", "(memory.init 0 (i32.const 0) (i32.const 0) (i32.const 1))"),
    ] {
        let body = format!("{operation} (i32.const 0)) (data $d \"passive---\"");
        ends(attack, &body, Outcome::Trap(Trap::MemoryOutOfBounds));
    }
    ends(
        "nothing, at the very end",
        "(memory.fill (i32.const 65536) (i32.const 7) (i32.const 0))
         (memory.copy (i32.const 65536) (i32.const 65536) (i32.const 0)) (i32.const 0)",
        Outcome::Done,
    );
    ends(
        "more than the gas for it",
        "(memory.fill (i32.const 0) (i32.const 7) (i32.const -1)) (i32.const 0)",
        Outcome::OutOfGas,
    );
}

#[test]
fn what_is_out_of_a_tables_range_traps() {
    for (attack, operation) in [
        ("a get", "(drop (table.get $t (i32.const 4)))"),
        ("a get far beyond", "(drop (table.get $t (i32.const -1)))"),
        ("a set", "(table.set $t (i32.const 4) (ref.func $f))"),
        ("a fill across the end", "(table.fill $t (i32.const 3) (ref.null func) (i32.const 2))"),
        ("a fill that wraps", "(table.fill $t (i32.const -1) (ref.null func) (i32.const 2))"),
        ("a copy across the end", "(table.copy $t $t (i32.const 0) (i32.const 3) (i32.const 2))"),
        ("a copy of nothing from beyond", "(table.copy $t $t (i32.const 0) (i32.const 5) (i32.const 0))"),
        ("a copy that wraps", "(table.copy $t $t (i32.const -1) (i32.const 0) (i32.const 2))"),
        ("an init across the end", "(table.init $t $e (i32.const 3) (i32.const 0) (i32.const 2))"),
        ("an init of more than there is", "(table.init $t $e (i32.const 0) (i32.const 1) (i32.const 2))"),
        ("an init that wraps", "(table.init $t $e (i32.const 0) (i32.const -1) (i32.const 2))"),
        ("an init of what is dropped", "(elem.drop $e) (table.init $t $e (i32.const 0) (i32.const 0) (i32.const 1))"),
        ("an init of what is only declared", "(table.init $t $d (i32.const 0) (i32.const 0) (i32.const 1))"),
    ] {
        let body = format!(
            "{operation} (i32.const 0)) (func $f) (table $t 4 funcref) (elem $e func $f $f) (elem $d declare func $f"
        );
        ends(attack, &body, Outcome::Trap(Trap::TableOutOfBounds));
    }
}

/// Bulk operations cost by their length; otherwise a few instructions could keep a core busy for
/// ever.
#[test]
fn bulk_operations_are_charged_for_what_they_move() {
    for (attack, operation) in [
        ("fill", "(memory.fill (i32.const 0) (i32.const 7) (local.get $n))"),
        ("copy", "(memory.copy (i32.const 0) (i32.const 1) (local.get $n))"),
        ("init", "(memory.init $d (i32.const 0) (i32.const 0) (local.get $n))"),
        ("table fill", "(table.fill $t (i32.const 0) (ref.null func) (local.get $n))"),
        ("table copy", "(table.copy $t $t (i32.const 0) (i32.const 1) (local.get $n))"),
    ] {
        for n in ["9000", "(i32.const 9000)"] {
            // The length as a variable, and as a constant that the compiler knows.
            let (set, operation) = match n.starts_with('(') {
                true => (String::new(), operation.replace("(local.get $n)", n)),
                false => (format!("(local.set $n (i32.const {n}))"), operation.to_owned()),
            };
            let body = format!(
                "(local $n i32) (local $i i32) {set}
                 (loop $l {operation}
                   (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100))))
                 (i32.const 0)) (table $t 10000 funcref) (data $d \"{}\"",
                "-".repeat(9000)
            );
            let execution = super::run(&body);
            assert_eq!(execution.outcome, Outcome::Done, "{attack}");
            assert!(execution.usage.gas >= 100 * 9000 / 64, "{attack}: {}", execution.usage.gas);
        }
    }
}
