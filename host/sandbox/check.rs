//! What a module must look like before anything else reads it: valid under the features that we allow, of the `compute`
//! ABI's shape, and within limits that keep what it costs to compile in proportion to its size. One pass over the bytes,
//! each check before the work that it saves. [`Admitted`] is the evidence that a module passed.

mod limits;
mod interface;
mod constant;
mod refusal;
mod names;
mod cost;
mod join;
mod live;
mod body;
mod pass;
mod report;

use std::sync::Arc;

use wasmparser::WasmFeatures;

pub use self::constant::{Constant, computed};
pub use self::interface::ABI_MODULE;
pub use self::limits::{GateLimits, LIMITS, Limit, LimitName};
use self::pass::{Mode, Pass};
pub use self::refusal::{Place, Refusal, Rule};
pub use self::report::{Kind, Report};
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
    memory_bytes_min: u64,
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
            None => Ok(Self { digest: Digest::of(&wasm), memory_bytes_min: pass.memory_bytes_min(), wasm }),
            Some(refusal) => Err(refusal),
        }
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

    /// The memory that a run starts with.
    pub fn memory_bytes_min(&self) -> u64 {
        self.memory_bytes_min
    }
}
