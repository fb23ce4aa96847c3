//! What a run may use, and what it did use.

use serde::{Deserialize, Serialize};

/// The bounds of one run. `memory_bytes` and `output_bytes` can decide what comes out, so they are part of the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Units of gas, by the schedule in `sandbox/meter`: about one a WebAssembly instruction that does something.
    pub gas: u64,
    /// Linear memory in bytes; growth beyond it answers -1, as the WebAssembly standard says.
    pub memory_bytes: u64,
    /// Output in bytes; one more ends the run.
    pub output_bytes: u64,
    /// Log in bytes; what is beyond is cut off, and the guest does not hear of it.
    pub log_bytes: u64,
}

impl Limits {
    /// 256 MiB of memory holds a decoded 4K frame (33 MB at 32 bits a pixel) several times over, 64 MiB of output one.
    /// The gas pays for hashing 800 GB, or for 10^11 plain instructions: more than an honest slice needs, and an end.
    pub const DEFAULT: Self =
        Self { gas: 100_000_000_000, memory_bytes: 256 << 20, output_bytes: 64 << 20, log_bytes: 64 << 10 };

    /// 32-bit WebAssembly addresses no more.
    pub const MEMORY_BYTES_MAX: u64 = 1 << 32;
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a run did use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The same on every engine.
    pub gas: u64,
    /// The largest size of linear memory, in bytes.
    pub memory_bytes: u64,
}
