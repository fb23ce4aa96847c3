//! Limits of a run, and its actual usage.

use serde::{Deserialize, Serialize};

/// The limits of one run. `gas`, `memory_bytes` and `output_bytes` can affect the result, so they
/// are part of the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Units of gas, by the schedule in `sandbox/meter`: about one for each WebAssembly instruction
    /// that does some work.
    pub gas: u64,
    /// Linear memory in bytes. Growth beyond it returns -1, as the WebAssembly standard says.
    pub memory_bytes: u64,
    /// Output in bytes. One byte more ends the run.
    pub output_bytes: u64,
    /// Log in bytes. Longer logs are cut, and the guest does not notice.
    pub log_bytes: u64,
}

impl Limits {
    /// 256 MiB of memory hold a decoded 4K frame (33 MB at 32 bits a pixel) several times; 64 MiB
    /// of output hold one. The gas pays for hashing 800 GB, or for 10^11 plain instructions: more
    /// than an honest slice needs, and still a bound.
    pub const DEFAULT: Self =
        Self { gas: 100_000_000_000, memory_bytes: 256 << 20, output_bytes: 64 << 20, log_bytes: 64 << 10 };

    /// 32-bit WebAssembly cannot address more.
    pub const MEMORY_BYTES_MAX: u64 = 1 << 32;
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The resources that a run used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Gas is the same on every engine.
    pub gas: u64,
    /// The largest size of linear memory, in bytes.
    pub memory_bytes: u64,
}
