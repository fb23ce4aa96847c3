//! Canonical form of the gas schedule, from which its digest is made.

use std::fmt::Write as _;

use super::bulk::{PIECE_BYTES, SHORT_BYTES};
use super::calls::CALL_HEIGHT_MAX;
use super::gas::{BLOCK_MAX, RETURN_MAX, SMALL_MAX, UNCHECKED_MAX};
use super::schedule::{
    BYTES_PER_UNIT, ELEMENT, ELEMENTS_PER_UNIT, FREE_PER_UNIT, HASH_END_BYTES, HASH_SHORT_BYTES,
    HASH_SHORT_BYTES_PER_UNIT, HOST_BYTES_PER_UNIT, HOST_CALL, OUTPUT_BYTES_PER_UNIT, PAGE, QUANTUM, START_ELEMENT,
    START_GLOBAL, START_SEGMENT, TURN, costs,
};
use super::stack::{FRAME_MIN_BYTES, SLOT_BYTES, STACK_BYTES};

/// Returns the whole schedule in canonical form: one line for each of [`costs`], in order, then one
/// line for each other figure. A line is the name, a space, and the number in decimal. The digest
/// of this text identifies the schedule that a run was charged by.
pub fn table() -> String {
    let beside = [
        ("quantum", QUANTUM),
        ("turn-of-loop", TURN),
        ("free-operators-per-unit", FREE_PER_UNIT),
        ("bytes-per-unit", BYTES_PER_UNIT),
        ("elements-per-unit", ELEMENTS_PER_UNIT),
        ("page", PAGE as u64),
        ("element", ELEMENT as u64),
        ("host-call", HOST_CALL),
        ("host-bytes-per-unit", HOST_BYTES_PER_UNIT),
        ("hash-short-bytes", HASH_SHORT_BYTES),
        ("hash-short-bytes-per-unit", HASH_SHORT_BYTES_PER_UNIT),
        ("hash-end-bytes", HASH_END_BYTES),
        ("output-bytes-per-unit", OUTPUT_BYTES_PER_UNIT),
        ("start-segment", START_SEGMENT),
        ("start-segment-element", START_ELEMENT),
        ("start-global", START_GLOBAL),
        ("unchecked-max", UNCHECKED_MAX),
        ("small-max", SMALL_MAX),
        ("return-max", RETURN_MAX),
        ("call-height-max", CALL_HEIGHT_MAX as u64),
        ("run-of-operators-max", BLOCK_MAX),
        ("short-bytes-max", SHORT_BYTES as u64),
        ("piece-bytes", PIECE_BYTES as u64),
        ("stack-bytes", STACK_BYTES),
        ("frame-bytes-min", FRAME_MIN_BYTES),
        ("frame-bytes-per-slot", SLOT_BYTES),
    ];
    let mut table = String::new();
    for (name, figure) in costs().chain(beside.map(|(name, figure)| (name.to_owned(), figure))) {
        _ = writeln!(table, "{name} {figure}");
    }
    table
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schedule_is_the_one_that_is_pinned() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/gas-schedule-v2.txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, super::table()).unwrap();
        }
        let pinned = std::fs::read_to_string(path).unwrap();
        assert_eq!(super::table(), pinned, "another schedule is another version; BLESS=1 writes it anew");
    }
}
