//! The gate: checks a module before any other code reads it. A module must be valid under the
//! allowed features and have the shape of the `compute` ABI. Limits keep its compile cost in
//! proportion to its size. One pass reads the bytes; each check comes before the work that it
//! saves. A second pass reads the metered module, because the compiler gets that one. [`Admitted`]
//! is the evidence that a module passed.

mod limits;
mod refusal;
mod names;
mod cost;
mod join;
mod liveness;
mod body;
mod price;
mod pass;
mod report;

use std::sync::Arc;

use wasmparser::WasmFeatures;

pub use self::limits::{GateLimits, LIMITS, Limit, LimitName};
use self::pass::{GatePass, PassMode};
pub use self::price::CompileEstimate;
pub use self::refusal::{Position, Refusal, Rule};
pub use self::report::{GateReport, ProgramKind};
use super::meter::{self, MeterError};
use crate::digest::Digest;

/// Returns the WebAssembly features that compilers emit today and that every engine runs alike. All
/// others are refused. Floats are allowed; threads, relaxed SIMD and other features with more than
/// one possible result are not.
pub fn features() -> WasmFeatures {
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::SIMD
        | WasmFeatures::FLOATS
        | WasmFeatures::EXTENDED_CONST
}

/// A module that passed the gate, whose bytes can no longer change.
#[derive(Clone)]
pub struct Admitted {
    wasm: Arc<[u8]>,
    digest: Digest,
    /// The limits under which the module passed.
    limits: Arc<GateLimits>,
    /// The metered module; `None` for a module that passed in another process.
    metered: Option<Arc<[u8]>>,
}

impl Admitted {
    /// Checks `wasm`, the binary form of a module, within the limits that a node has by default.
    pub fn new(wasm: impl Into<Arc<[u8]>>) -> Result<Self, Refusal> {
        Self::within(&GateLimits::DEFAULT, wasm)
    }

    /// Checks `wasm` until the first rule that it breaks.
    pub fn within(limits: &GateLimits, wasm: impl Into<Arc<[u8]>>) -> Result<Self, Refusal> {
        let wasm = wasm.into();
        let mut pass = GatePass::new(limits, PassMode::UpToFirst);
        pass.over(&wasm);
        match pass.refusals.pop() {
            None => {
                let metered = pass.metered.map(Into::into);
                Ok(Self { digest: Digest::of(&wasm), limits: Arc::new(*limits), metered, wasm })
            }
            Some(refusal) => Err(refusal),
        }
    }

    /// Wraps a module that passed within `limits` in the confined child process. The child returns
    /// native code only for such a module.
    pub fn passed(limits: &GateLimits, wasm: Arc<[u8]>) -> Self {
        Self { digest: Digest::of(&wasm), limits: Arc::new(*limits), metered: None, wasm }
    }

    pub fn limits(&self) -> &GateLimits {
        &self.limits
    }

    /// Returns the metered module, which is what the compiler gets.
    pub fn metered(&self) -> Result<Arc<[u8]>, MeterError> {
        self.metered.clone().map_or_else(|| Ok(meter::metered(&self.wasm)?.into()), Ok)
    }

    pub fn wasm(&self) -> &[u8] {
        &self.wasm
    }

    /// Returns the index and the name, if any, of each function that has a body, in order.
    pub fn functions(&self) -> Vec<(u32, Option<String>)> {
        names::functions(&self.wasm)
    }

    /// Returns the BLAKE3 digest of the module's bytes, which identifies the module.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}
