//! Answers of the runner, and its errors.

use std::io;
use std::sync::Arc;

use crate::digest::Digest;
use crate::key::NodeKey;
use crate::modules::ModulesError;
use crate::proof::{ASSETS_MAX, Claim, Contradiction, DecodeError, Job, Observed, SliceProof};
use crate::sandbox::{Execution, Outcome, SandboxError};
use crate::slice::{SliceError, SliceId};
use crate::store::StoreError;

/// The source of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheSource {
    Run,
    Memory,
    Store,
}

impl CacheSource {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Memory => "memory",
            Self::Store => "store",
        }
    }
}

/// The result of a finished run.
#[derive(Debug)]
pub struct RunResult {
    pub outcome: Outcome,
    pub proof: SliceProof,
    /// `None` if only the proof is stored.
    pub output: Option<Vec<u8>>,
    pub log: Vec<u8>,
    /// Digest of the job: of everything that decides the result.
    pub(super) job: Digest,
}

#[derive(Clone, Debug)]
pub struct RunAnswer {
    pub finished: Arc<RunResult>,
    pub source: CacheSource,
}

/// The reason why there is no answer. A guest's own failure is an answer, not an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(
        "slice id `{0}` already stands for other content, workload, arguments, assets, limits or rules of execution; use another id"
    )]
    SliceIdConflict(SliceId),
    #[error(transparent)]
    Slice(#[from] SliceError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Module(#[from] Arc<ModulesError>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the system gives no random bytes for a key: {0}")]
    Random(io::Error),
    #[error("a job brings at most {ASSETS_MAX} assets; this one brings {0}")]
    TooManyAssets(usize),
    #[error("the {what} have {bytes} bytes; a job brings at most {max}")]
    TooLong { what: &'static str, bytes: u64, max: u64 },
    #[error("running `{0}` twice gave two results; the host or this program is at fault")]
    NotReproduced(SliceId),
    #[error("the run came to what no run can come to ({0}); the host or this program is at fault")]
    Contradiction(#[from] Contradiction),
    #[error("more requests wait for a thread than this program keeps; ask again later")]
    Busy,
    #[error("the host failed while it ran the slice, or is shutting down")]
    Lost,
}

impl RunError {
    /// Returns a stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::SliceIdConflict(_) => "slice_id_conflict",
            Self::Slice(SliceError::Changed { .. }) => "slice_changed",
            Self::Slice(_) => "slice_unreadable",
            Self::Sandbox(error) => error.code(),
            Self::Module(error) => error.code(),
            Self::Store(_) => "store",
            Self::Random(_) => "no_randomness",
            Self::TooManyAssets(_) => "too_many_assets",
            Self::TooLong { .. } => "arguments_too_long",
            Self::NotReproduced(_) => "not_reproduced",
            Self::Contradiction(_) => "contradiction",
            Self::Busy => "busy",
            Self::Lost => "lost",
        }
    }
}

impl RunAnswer {
    /// Returns an error if the answer belongs to another job.
    pub(super) fn of_job(self, id: &SliceId, job: Digest) -> Result<Self, RunError> {
        if self.finished.job == job { Ok(self) } else { Err(RunError::SliceIdConflict(id.clone())) }
    }
}

impl RunResult {
    /// Decodes a result that another process of this node's owner sent: the proof in its stored
    /// form, the output and the log.
    pub fn from_wire(proof: &[u8], output: Option<Vec<u8>>, log: Vec<u8>) -> Result<Self, DecodeError> {
        let stored = Self::from_proof(SliceProof::from_kept_bytes(proof)?);
        Ok(Self { output, log, ..stored })
    }

    /// Creates the result of a run of which only the proof is stored.
    pub(super) fn from_proof(proof: SliceProof) -> Self {
        let output = (proof.output().bytes == 0).then(Vec::new);
        Self { outcome: proof.outcome(), output, log: Vec::new(), job: proof.job().digest(), proof }
    }

    pub(super) fn claim(&self) -> &Claim {
        self.proof.claim()
    }

    /// Returns its approximate size in memory, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        const RECORD: usize = 1024;
        (RECORD + self.output.as_ref().map_or(0, Vec::len) + self.log.len()) as u64
    }
}

/// A finished run whose claim is not signed yet.
pub(super) struct UnsignedResult {
    pub(super) claim: Claim,
    observed: Observed,
    output: Vec<u8>,
    log: Vec<u8>,
    job: Digest,
}

impl UnsignedResult {
    pub(super) fn of(id: SliceId, job: Job, execution: Execution, observed: Observed) -> Self {
        let job_digest = job.digest();
        let claim = Claim::of(id, job, &execution);
        let Execution { output, log, .. } = execution;
        Self { claim, observed, output, log, job: job_digest }
    }

    pub(super) fn sign(self, key: &NodeKey) -> Result<RunResult, Contradiction> {
        let Self { claim, observed, output, log, job } = self;
        let outcome = claim.outcome();
        Ok(RunResult { outcome, proof: SliceProof::sign(claim, observed, key)?, output: Some(output), log, job })
    }
}
