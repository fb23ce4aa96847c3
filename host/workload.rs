//! `Workload`: which guest runs. The reference guests are part of this binary, as the bytes that are checked in beside
//! their text, so that no version of a tool changes their digests. They go through the same gate as anybody's.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use crate::digest::Digest;
use crate::sandbox::{Admitted, GateLimits, NotAModule, Refusal, binary_form};

/// The guest that runs on a slice.
#[derive(Clone)]
pub enum Workload {
    /// The reference transcode job; its proof is BLAKE3 of the slice.
    Transcode,
    /// The reference inference job; its proof is BLAKE3 of the slice.
    Inference,
    /// Anybody's module.
    Module(Admitted),
    /// Anybody's module, that the node has stored under this digest.
    Stored(Digest),
}

/// What a workload can be called on a command line.
pub const REFERENCE_NAMES: [&str; 2] = ["transcode", "inference"];

/// All that [`Workload::name`] says.
pub const NAMES: [&str; 3] = ["transcode", "inference", "module"];

impl Workload {
    /// Reads a module in its text or its binary form, within the limits that a node has by default.
    pub fn from_module(bytes: &[u8]) -> Result<Self, ModuleError> {
        Ok(Self::Module(Admitted::within(&GateLimits::DEFAULT, &*binary_form(bytes)?)?))
    }

    /// The workload that `file` names by how it begins: `transcode.slice`, `inference-7.slice`.
    pub fn of_file(file: &Path) -> Option<Self> {
        let name = file.file_name()?.as_encoded_bytes();
        let begins = |kind: &&str| {
            let rest = name.strip_prefix(kind.as_bytes());
            rest.is_some_and(|rest| matches!(rest.first(), Some(b'.' | b'-' | b'_')))
        };
        REFERENCE_NAMES.into_iter().find(begins).and_then(Self::named)
    }

    /// The reference workload of that name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "transcode" => Some(Self::Transcode),
            "inference" => Some(Self::Inference),
            _ => None,
        }
    }

    /// `transcode`, `inference` or `module`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Transcode => "transcode",
            Self::Inference => "inference",
            Self::Module(_) | Self::Stored(_) => "module",
        }
    }

    /// BLAKE3 of the module.
    pub fn digest(&self) -> Digest {
        match self.module() {
            Guest::Admitted(module) => module.digest(),
            Guest::Stored(digest) => digest,
        }
    }

    /// The module, or where to look it up.
    pub fn module(&self) -> Guest<'_> {
        static TRANSCODE: LazyLock<Admitted> =
            LazyLock::new(|| reference(include_bytes!("../guest-workloads/transcode.wasm")));
        static INFERENCE: LazyLock<Admitted> =
            LazyLock::new(|| reference(include_bytes!("../guest-workloads/inference.wasm")));
        match self {
            Self::Transcode => Guest::Admitted(&TRANSCODE),
            Self::Inference => Guest::Admitted(&INFERENCE),
            Self::Module(module) => Guest::Admitted(module),
            Self::Stored(digest) => Guest::Stored(*digest),
        }
    }
}

/// The module of a workload.
#[derive(Clone, Copy)]
pub enum Guest<'a> {
    Admitted(&'a Admitted),
    Stored(Digest),
}

/// The streaming sister of [`Workload::Transcode`]: the same proof, by way of the guest's memory.
pub fn transcode_streaming() -> Workload {
    Workload::Module(reference(include_bytes!("../guest-workloads/transcode-streaming.wasm")))
}

fn reference(wasm: &[u8]) -> Admitted {
    Admitted::new(wasm.to_vec()).expect("a reference guest passes the gate")
}

/// Why a module is not one that runs here.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    #[error(transparent)]
    NotAModule(#[from] NotAModule),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A blob that a job brings beside its slice, such as a model's weights; the guest reads it by its index.
#[derive(Clone)]
pub struct Asset {
    bytes: Arc<[u8]>,
    digest: Digest,
}

impl Asset {
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self { digest: Digest::of(&bytes), bytes }
    }

    pub const fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_tells_the_workload() {
        let told = |name: &str| Workload::of_file(Path::new(name)).map(|workload| workload.name());
        assert_eq!(told("in/transcode.slice"), Some("transcode"));
        assert_eq!(told("inference-7.slice"), Some("inference"));
        assert_eq!(told("inference_x"), Some("inference"));
        for name in ["transcoded.slice", "my-transcode.slice", "x.slice", "Transcode.slice", "transcode", ".."] {
            assert_eq!(told(name), None, "{name}");
        }
    }

    #[test]
    fn the_reference_guests_are_three_modules() {
        let digests = [Workload::Transcode, Workload::Inference, transcode_streaming()].map(|w| w.digest());
        assert!(digests[0] != digests[1] && digests[1] != digests[2] && digests[0] != digests[2]);
    }
}
