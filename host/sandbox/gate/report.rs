//! Report on a module for its author: its properties, and all reasons against admitting it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wasmparser::{Validator, WasmFeatures};

use super::limits::GateLimits;
use super::pass::{GatePass, PassMode};
use super::refusal::{Refusal, Rule};
use crate::digest::Digest;

/// Properties of a module, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReport {
    pub digest: Digest,
    pub bytes: u64,
    pub kind: ProgramKind,
    /// Module and name of each import. Imports and exports are listed up to `NAMES_MAX`.
    pub imports: Vec<(String, String)>,
    pub exports: Vec<String>,
    pub code_bytes: u64,
    pub data_bytes: u64,
    /// Initial pages of the memory (64 KiB each), and the maximum that its declaration allows.
    pub memory_pages: Option<(u64, Option<u64>)>,
    /// Features beyond the first version of WebAssembly, by the names of their proposals; `None` if
    /// the module is invalid.
    pub features: Option<Vec<Cow<'static, str>>>,
    /// Whether the module uses no floating-point numbers; `None` if the module is invalid.
    pub float_free: Option<bool>,
    /// The module's use of each limit.
    pub used: GateLimits,
    /// Empty if the module is admitted.
    pub refusals: Vec<Refusal>,
}

/// The kind of program that the module appears to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProgramKind {
    /// A guest of the `compute` ABI.
    Compute,
    /// A WASI preview 1 command, which this host does not run.
    WasiCommand,
    Other,
}

impl ProgramKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::WasiCommand => "wasi_command",
            Self::Other => "other",
        }
    }
}

/// Maximum listed names of imports and of exports.
const NAMES_MAX: usize = 1_024;

const PROPOSALS: &[(&str, WasmFeatures)] = &[
    ("mutable-globals", WasmFeatures::MUTABLE_GLOBAL),
    ("nontrapping-float-to-int", WasmFeatures::SATURATING_FLOAT_TO_INT),
    ("sign-extension-ops", WasmFeatures::SIGN_EXTENSION),
    ("multi-value", WasmFeatures::MULTI_VALUE),
    ("bulk-memory", WasmFeatures::BULK_MEMORY),
    ("reference-types", WasmFeatures::REFERENCE_TYPES),
    ("simd128", WasmFeatures::SIMD),
];

impl GateReport {
    /// Returns the whole report as JSON, for programs.
    pub fn to_json(&self) -> Value {
        json!({
            "admitted": self.refusals.is_empty(),
            "refusals": self.refusals.iter().map(refusal).collect::<Vec<_>>(),
            "digest": self.digest,
            "kind": self.kind.name(),
            "bytes": self.bytes,
            "code_bytes": self.code_bytes,
            "data_bytes": self.data_bytes,
            "memory_pages": self.memory_pages.map(|(pages, _)| pages),
            "memory_pages_max": self.memory_pages.and_then(|(_, max)| max),
            "imports": self.imports.iter().map(|(module, name)| json!({ "module": module, "name": name })).collect::<Vec<_>>(),
            "exports": self.exports,
            "features": self.features,
            "float_free": self.float_free,
            "used": self.used,
        })
    }

    /// Creates a report with one refusal, without reading more of the module.
    pub fn of_refusal(wasm: &[u8], refusal: Refusal) -> Self {
        Self {
            digest: Digest::of(wasm),
            bytes: wasm.len() as u64,
            kind: ProgramKind::Other,
            imports: Vec::new(),
            exports: Vec::new(),
            code_bytes: 0,
            data_bytes: 0,
            memory_pages: None,
            features: None,
            float_free: None,
            used: GateLimits::NONE,
            refusals: vec![refusal],
        }
    }

    /// Reads as much of `wasm` as possible. A module with more bytes than `limits` admits is not
    /// read.
    pub fn of(wasm: &[u8], limits: &GateLimits) -> Self {
        let mut pass = GatePass::new(limits, PassMode::All);
        pass.over(wasm);
        let GatePass { used, refusals, shape, .. } = pass;
        let is_read = wasm.len() as u64 <= limits.module_bytes;
        let all = super::features();
        // A feature is in use if the module is invalid without it.
        let needs = |feature| Validator::new_with_features(all.difference(feature)).validate_all(wasm).is_err();
        let is_valid = is_read && !needs(WasmFeatures::empty());
        let exports = |name: &str| shape.exports.iter().any(|export| export == name);
        let kind = match () {
            () if exports("run") => ProgramKind::Compute,
            () if exports("_start") => ProgramKind::WasiCommand,
            () => ProgramKind::Other,
        };
        let used_of =
            || PROPOSALS.iter().filter(|(_, feature)| needs(*feature)).map(|(name, _)| Cow::Borrowed(*name)).collect();
        Self {
            digest: Digest::of(wasm),
            bytes: wasm.len() as u64,
            kind,
            features: is_valid.then(used_of),
            float_free: is_valid.then(|| !needs(WasmFeatures::FLOATS)),
            imports: listed(shape.imports),
            exports: listed(shape.exports),
            code_bytes: shape.code_bytes,
            data_bytes: shape.data_bytes,
            memory_pages: shape.memory_pages,
            used,
            refusals,
        }
    }
}

fn listed<T>(mut names: Vec<T>) -> Vec<T> {
    names.truncate(NAMES_MAX);
    names
}

fn refusal(refusal: &Refusal) -> Value {
    let mut object = json!({
        "code": refusal.code(),
        "message": refusal.to_string(),
        "hint": refusal.hint(),
        "offset": refusal.place.offset,
    });
    if let Some((index, name)) = &refusal.place.function {
        object["function"] = json!({ "index": index, "name": name });
    }
    if let Rule::Limit { max, found, .. } = refusal.rule {
        object["limit"] = json!(max);
        object["found"] = json!(found);
    }
    object
}
