//! What a module is, and all that stands against it: for its author.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wasmparser::{Validator, WasmFeatures};

use super::limits::GateLimits;
use super::pass::{Mode, Pass};
use super::refusal::{Refusal, Rule};
use crate::digest::Digest;

/// What was read of a module, up to where it could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub digest: Digest,
    pub bytes: u64,
    pub kind: Kind,
    /// Module and name of each, up to `NAMES_MAX`, as are the exports.
    pub imports: Vec<(String, String)>,
    pub exports: Vec<String>,
    pub code_bytes: u64,
    pub data_bytes: u64,
    /// Pages of 64 KiB: what the memory starts with, and what it may grow to by its own declaration.
    pub memory_pages: Option<(u64, Option<u64>)>,
    /// Beyond WebAssembly's first version, by the names of their proposals; `None` for a module that is not valid.
    pub features: Option<Vec<Cow<'static, str>>>,
    /// Whether it holds no floating-point number; `None` for a module that is not valid.
    pub float_free: Option<bool>,
    /// How much of each limit it uses.
    pub used: GateLimits,
    /// Empty for a module that is admitted.
    pub refusals: Vec<Refusal>,
}

/// What kind of program a module seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Of the `compute` ABI.
    Compute,
    /// A WASI preview 1 command, which is not run here.
    WasiCommand,
    Other,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::WasiCommand => "wasi_command",
            Self::Other => "other",
        }
    }
}

/// More names are not listed.
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

impl Report {
    /// The whole report, for programs.
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

    /// A module that is refused, of which no more was read.
    pub fn of_refusal(wasm: &[u8], refusal: Refusal) -> Self {
        Self {
            digest: Digest::of(wasm),
            bytes: wasm.len() as u64,
            kind: Kind::Other,
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

    /// Reads all of `wasm` that can be read; nothing of a module with more bytes than `limits` admits.
    pub fn of(wasm: &[u8], limits: &GateLimits) -> Self {
        let mut pass = Pass::new(limits, Mode::All);
        pass.over(wasm);
        let Pass { used, refusals, shape, .. } = pass;
        let is_read = wasm.len() as u64 <= limits.module_bytes;
        let all = super::features();
        // A feature is used if the module is not valid without it.
        let needs = |feature| Validator::new_with_features(all.difference(feature)).validate_all(wasm).is_err();
        let is_valid = is_read && !needs(WasmFeatures::empty());
        let exports = |name: &str| shape.exports.iter().any(|export| export == name);
        let kind = match () {
            () if exports("run") => Kind::Compute,
            () if exports("_start") => Kind::WasiCommand,
            () => Kind::Other,
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
