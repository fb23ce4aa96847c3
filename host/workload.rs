//! `Workload`: selects the guest that runs. The reference guests are part of this binary, as the
//! checked-in bytes beside their text. So no version of a tool can change their digests. Reference
//! guests pass the same gate as any other module.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use crate::digest::Digest;
use crate::sandbox::{Admitted, GateLimits, NotAModule, Refusal, binary_form};

/// The guest that runs on a slice.
#[derive(Clone)]
pub enum Workload {
    /// The reference transcode job, whose proof is BLAKE3 of the slice.
    Transcode,
    /// The reference inference job, whose proof is BLAKE3 of the slice.
    Inference,
    /// A module that a caller provides.
    Module(Admitted),
    /// A module that the node has stored under this digest.
    Stored(Digest),
}

/// Names of the reference workloads on the command line.
pub const REFERENCE_NAMES: [&str; 2] = ["transcode", "inference"];

/// All possible values of [`Workload::name`].
pub const NAMES: [&str; 3] = ["transcode", "inference", "module"];

impl Workload {
    /// Reads a module in text or binary form, within the node's default limits.
    pub fn from_module(bytes: &[u8]) -> Result<Self, ModuleError> {
        Ok(Self::Module(Admitted::within(&GateLimits::DEFAULT, &*binary_form(bytes)?)?))
    }

    /// Returns the workload named at the beginning of a file name: `transcode.slice`,
    /// `inference-7.slice`.
    pub fn of_file(file: &Path) -> Option<Self> {
        let name = file.file_name()?.as_encoded_bytes();
        let begins = |kind: &&str| {
            let rest = name.strip_prefix(kind.as_bytes());
            rest.is_some_and(|rest| matches!(rest.first(), Some(b'.' | b'-' | b'_')))
        };
        REFERENCE_NAMES.into_iter().find(begins).and_then(Self::named)
    }

    /// Returns the reference workload with this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "transcode" => Some(Self::Transcode),
            "inference" => Some(Self::Inference),
            _ => None,
        }
    }

    /// Returns `transcode`, `inference` or `module`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Transcode => "transcode",
            Self::Inference => "inference",
            Self::Module(_) | Self::Stored(_) => "module",
        }
    }

    /// Returns the BLAKE3 digest of the module.
    pub fn digest(&self) -> Digest {
        match self.module() {
            WorkloadGuest::Admitted(module) => module.digest(),
            WorkloadGuest::Stored(digest) => digest,
        }
    }

    /// Returns the module, or the digest under which it is stored.
    pub fn module(&self) -> WorkloadGuest<'_> {
        static TRANSCODE: LazyLock<Admitted> =
            LazyLock::new(|| reference(include_bytes!("../guest-workloads/transcode.wasm")));
        static INFERENCE: LazyLock<Admitted> =
            LazyLock::new(|| reference(include_bytes!("../guest-workloads/inference.wasm")));
        match self {
            Self::Transcode => WorkloadGuest::Admitted(&TRANSCODE),
            Self::Inference => WorkloadGuest::Admitted(&INFERENCE),
            Self::Module(module) => WorkloadGuest::Admitted(module),
            Self::Stored(digest) => WorkloadGuest::Stored(*digest),
        }
    }
}

/// The module of a workload.
#[derive(Clone, Copy)]
pub enum WorkloadGuest<'a> {
    Admitted(&'a Admitted),
    Stored(Digest),
}

/// Returns the streaming variant of [`Workload::Transcode`]: the same proof, but the guest reads
/// the slice through its memory.
pub fn transcode_streaming() -> Workload {
    Workload::Module(reference(include_bytes!("../guest-workloads/transcode-streaming.wasm")))
}

fn reference(wasm: &[u8]) -> Admitted {
    Admitted::new(wasm.to_vec()).expect("a reference guest passes the gate")
}

/// The reason why a module cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    #[error(transparent)]
    NotAModule(#[from] NotAModule),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A blob that a job provides in addition to its slice, such as a model's weights. The guest reads
/// it by its index.
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
