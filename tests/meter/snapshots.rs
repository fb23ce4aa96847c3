//! Snapshots of the meter's output, for readers: each `snapshots/NAME.wat` beside its
//! `NAME.metered.wat`, one concern each. The output must match exactly. `BLESS=1 cargo test --test
//! meter snapshots` writes the snapshots again; the difference must then be reviewed as code is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::engines::metered;

const CONCERNS: [&str; 7] = ["blocks", "loops", "frames", "returns", "nans", "bulk", "links"];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/meter/snapshots")
}

fn printed(wasm: &[u8]) -> String {
    wasmprinter::print_bytes(wasm).expect("a valid module can be printed") + "\n"
}

#[test]
fn the_meter_writes_what_was_reviewed() {
    let mut differ = Vec::new();
    for concern in CONCERNS {
        let before = directory().join(format!("{concern}.wat"));
        let written = printed(&metered(&wat::parse_file(&before).unwrap_or_else(|error| panic!("{error}"))));
        let after = directory().join(format!("{concern}.metered.wat"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&after, &written).unwrap();
        } else if fs::read_to_string(&after).unwrap_or_default() != written {
            differ.push(format!("{}, which is now\n{written}", after.display()));
        }
    }
    assert!(differ.is_empty(), "if this is meant, write them anew (BLESS=1): {}", differ.join("\n"));
}

#[test]
fn each_snapshot_has_its_source() {
    let mut found: Vec<String> =
        fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let mut expected: Vec<String> =
        CONCERNS.iter().flat_map(|concern| [format!("{concern}.metered.wat"), format!("{concern}.wat")]).collect();
    expected.sort();
    assert_eq!(found, expected);
}

/// Every run writes the same module. Names of the guest and other custom sections are dropped.
#[test]
fn the_meter_writes_the_same_each_time() {
    for concern in CONCERNS {
        let wasm = wat::parse_file(directory().join(format!("{concern}.wat"))).unwrap();
        let first = metered(&wasm);
        assert_eq!(first, metered(&wasm), "{concern}");
        let mut sections = wasmparser::Parser::new(0).parse_all(&first).map(|payload| payload.unwrap());
        let is_alien = |payload: &wasmparser::Payload<'_>| match payload {
            wasmparser::Payload::CustomSection(section) => section.name() != "metadata.code.branch_hint",
            _ => false,
        };
        assert!(!sections.any(|payload| is_alien(&payload)), "{concern}");
    }
}
