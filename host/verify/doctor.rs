//! Self-test of the machine and its engines: a fixed battery of modules. Two machines with the same
//! fingerprint agree on everything that the battery tests.

use std::path::Path;
use std::sync::Arc;

use super::job::SliceSource;
use super::matrix::{Case, Matrix, NamedGuest, RunCount};
use crate::digest::{Digest, Hasher};
use crate::limits::Limits;
use crate::proof::profile;
use crate::sandbox::{EngineKind, binary_form, meter};

/// Modules whose results must be equal on every engine.
const BATTERY: [(&str, &str); 6] = [
    ("floats", include_str!("battery/floats.wat")),
    ("nan", include_str!("battery/nan.wat")),
    ("simd", include_str!("battery/simd.wat")),
    ("deep stack", include_str!("battery/deep.wat")),
    ("grow", include_str!("battery/grow.wat")),
    ("host calls", include_str!("battery/calls.wat")),
];

/// Bodies of `run` that must trap.
const TRAPS: [(&str, &str); 8] = [
    ("unreachable", "unreachable"),
    ("load out of bounds", "(i32.load (i32.const -4))"),
    ("table out of bounds", "(drop (table.get $t (i32.const 9))) (i32.const 0)"),
    ("call of null", "(call_indirect (type $f) (i32.const 0))"),
    ("call of another type", "(call_indirect (type $f) (i32.const 1))"),
    ("division by zero", "(i32.div_s (i32.const 1) (i32.const 0))"),
    ("integer overflow", "(i32.div_s (i32.const 0x80000000) (i32.const -1))"),
    ("conversion of NaN", "(i32.trunc_f32_s (f32.const nan))"),
];

pub struct Diagnosis {
    pub matrices: Vec<Matrix>,
    /// Digest of all results, on the engines that could run.
    pub fingerprint: Digest,
}

impl Diagnosis {
    pub fn agrees(&self) -> bool {
        self.matrices.iter().all(Matrix::agrees)
    }
}

/// Runs the battery on `engines`.
pub fn doctor(program: &Path, engines: &[EngineKind], progress: &(dyn Fn() + Sync)) -> Diagnosis {
    let traps = TRAPS.map(|(name, body)| {
        let wat = format!(
            "(module (type $f (func (result i32))) (table $t 2 funcref) (elem (i32.const 1) func $g) (func $g)
               (memory (export \"memory\") 1) (func (export \"run\") (result i32) {body}))"
        );
        (name, wat)
    });
    let battery = BATTERY.map(|(name, wat)| (name, wat.to_owned()));
    let matrices: Vec<Matrix> = battery
        .into_iter()
        .chain(traps)
        .map(|(name, wat)| {
            let guest = NamedGuest { name: name.to_owned(), module: metered(&wat) };
            Matrix::of(program, &[guest], engines, &case(), RunCount { runs: 1, jobs: 1 }, progress)
        })
        .collect();
    let mut hasher = Hasher::default();
    hasher.update(profile().digest().as_bytes());
    for matrix in &matrices {
        hasher.update(matrix.guests.concat().as_bytes());
        // Distinct results only: a disagreement must show, and the number of engines must not
        // matter.
        let mut found: Vec<Digest> = matrix.cells.iter().filter_map(|cell| cell.first()).map(facts).collect();
        found.sort();
        found.dedup();
        found.iter().for_each(|found| hasher.update(found.as_bytes()));
    }
    Diagnosis { matrices, fingerprint: hasher.finish() }
}

fn facts(found: &super::job::EngineRun) -> Digest {
    let outcome = found.outcome().map(|outcome| outcome.code());
    let text = format!("{outcome:?} {:?} {} {} {:?}", found.proof, found.output.blake3, found.gas, found.trace);
    Digest::of(text.as_bytes())
}

fn case() -> Case {
    Case {
        slice: SliceSource::Bytes((*b"the quick brown fox jumps over the lazy dog").into()),
        args: Arc::default(),
        assets: Vec::new(),
        limits: Limits { gas: 200_000_000, memory_bytes: 1 << 20, ..Limits::DEFAULT },
        timeout_ms: None,
    }
}

fn metered(wat: &str) -> Arc<[u8]> {
    let wasm = binary_form(wat.as_bytes()).expect("the battery is valid text");
    meter::metered(&wasm).expect("the battery can be metered").into()
}
