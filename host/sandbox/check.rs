//! What a module must look like before anything else reads it: valid under the features that we allow, of the `compute`
//! ABI's shape, and within limits that keep what it costs to compile in proportion to its size. One pass over the bytes, each
//! check before the work that it saves, and one over what the meter makes of them, which is what the compiler gets.
//! [`Admitted`] is the evidence that a module passed.

mod limits;
mod refusal;
mod names;
mod cost;
mod join;
mod live;
mod body;
mod price;
mod pass;
mod report;

use std::sync::Arc;

use wasmparser::WasmFeatures;

pub use self::limits::{GateLimits, LIMITS, Limit, LimitName};
use self::pass::{Mode, Pass};
pub use self::price::Price;
pub use self::refusal::{Place, Refusal, Rule};
pub use self::report::{Kind, Report};
use super::meter::{self, MeterError};
use crate::digest::Digest;

/// What compilers emit today and every engine runs alike. Everything else is refused: floats stay, threads, relaxed
/// SIMD and the rest of what could give two answers do not.
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

/// A module that passed; its bytes cannot change any more.
#[derive(Clone)]
pub struct Admitted {
    wasm: Arc<[u8]>,
    digest: Digest,
    /// The limits that it passed.
    limits: Arc<GateLimits>,
    /// With the meter in it; none of a module that passed in another process.
    metered: Option<Arc<[u8]>>,
}

impl Admitted {
    /// Checks `wasm`, the binary form of a module, within the limits that a node has by default.
    pub fn new(wasm: impl Into<Arc<[u8]>>) -> Result<Self, Refusal> {
        Self::within(&GateLimits::DEFAULT, wasm)
    }

    /// Checks `wasm` up to the first rule that it breaks.
    pub fn within(limits: &GateLimits, wasm: impl Into<Arc<[u8]>>) -> Result<Self, Refusal> {
        let wasm = wasm.into();
        let mut pass = Pass::new(limits, Mode::UpToFirst);
        pass.over(&wasm);
        match pass.refusals.pop() {
            None => {
                let metered = pass.metered.map(Into::into);
                Ok(Self { digest: Digest::of(&wasm), limits: Arc::new(*limits), metered, wasm })
            }
            Some(refusal) => Err(refusal),
        }
    }

    /// A module that has passed elsewhere, within `limits`: in the confined child, or else there would be no native code
    /// of it.
    pub fn passed(limits: &GateLimits, wasm: Arc<[u8]>) -> Self {
        Self { digest: Digest::of(&wasm), limits: Arc::new(*limits), metered: None, wasm }
    }

    pub fn limits(&self) -> &GateLimits {
        &self.limits
    }

    /// The module with the meter in it, as the compiler gets it.
    pub fn metered(&self) -> Result<Arc<[u8]>, MeterError> {
        self.metered.clone().map_or_else(|| Ok(meter::metered(&self.wasm)?.into()), Ok)
    }

    pub fn wasm(&self) -> &[u8] {
        &self.wasm
    }

    /// Its functions that have bodies, in their order: the index of each, and the name that the module gives it.
    pub fn functions(&self) -> Vec<(u32, Option<String>)> {
        names::functions(&self.wasm)
    }

    /// BLAKE3 of the module's bytes: its name.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}
