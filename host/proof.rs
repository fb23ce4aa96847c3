//! `SliceProof`: what came of running a workload on a slice. What any other node must find again stands apart from what
//! was merely observed. Version 0 carries no signature: it says what to compare with, not who says so.

mod codec;

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::digest::Digest;
use crate::limits::{Limits, Usage};
use crate::sandbox::{Execution, Outcome};
use crate::slice::SliceId;

pub use self::codec::{DecodeError, PROOF_BYTES_MAX};

/// The version of the format, in the canonical bytes and in the JSON form.
pub const VERSION: u16 = 0;

/// What a job may bring: as many digests fit into a proof of [`PROOF_BYTES_MAX`].
pub const ASSETS_MAX: usize = 1_000;

/// All that decides what comes of a run: equal jobs have equal results on any node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Job {
    pub workload: String,
    /// The module's digest.
    pub module: Digest,
    pub input: Blob,
    /// The digest of the job's parameters.
    pub args: Digest,
    pub limits: JobLimits,
    /// The digests of what the job brings, in the order of their indices.
    pub assets: Vec<Digest>,
}

/// Some bytes, by name and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Blob {
    pub blake3: Digest,
    pub bytes: u64,
}

/// Those of the [`Limits`] that can decide what comes out. What a log may hold cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct JobLimits {
    pub fuel: u64,
    pub memory_bytes: u64,
    pub output_bytes: u64,
}

impl From<Limits> for JobLimits {
    fn from(limits: Limits) -> Self {
        let Limits { fuel, memory_bytes, output_bytes, log_bytes: _ } = limits;
        Self { fuel, memory_bytes, output_bytes }
    }
}

/// What was observed of one run; another will observe something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// Milliseconds since 1970-01-01 UTC.
    pub started_unix_ms: u64,
    pub duration_us: u64,
    pub fuel: u64,
    /// The largest size of the guest's memory.
    pub memory_bytes: u64,
    pub engine: String,
}

/// A proof of a finished run. It is made of a run ([`SliceProof::of`]) or read from bytes that claim there was one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceProof {
    slice_id: SliceId,
    job: Job,
    outcome: Outcome,
    proof: Option<Digest>,
    output: Blob,
    observed: Observed,
}

impl SliceProof {
    /// `None` for an ending that another engine need not come to.
    pub fn of(slice_id: SliceId, job: Job, execution: &Execution, observed: Observed) -> Option<Self> {
        execution.outcome.is_reproducible().then(|| Self {
            slice_id,
            job,
            outcome: execution.outcome,
            proof: execution.proof,
            output: Blob { blake3: Digest::of(&execution.output), bytes: execution.output.len() as u64 },
            observed,
        })
    }

    pub const fn slice_id(&self) -> &SliceId {
        &self.slice_id
    }

    pub const fn job(&self) -> &Job {
        &self.job
    }

    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The proof hash: what the guest committed, or else the digest of its output. A guest that failed has none.
    pub const fn proof(&self) -> Option<Digest> {
        self.proof
    }

    pub const fn output(&self) -> Blob {
        self.output
    }

    pub const fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The form for people; [`SliceProof::to_bytes`] is the one for machines.
    pub fn to_json(&self) -> serde_json::Value {
        let (code, failure) = self.outcome.code();
        let mut outcome = serde_json::json!({ "code": code });
        if let Some(failure) = failure {
            outcome["failure"] = failure.into();
        }
        serde_json::json!({
            "version": VERSION,
            "slice_id": self.slice_id.as_str(),
            "job": self.job,
            "outcome": outcome,
            "proof": self.proof,
            "output": self.output,
            "claim": self.claim_digest(),
            "observed": self.observed,
        })
    }
}

impl Observed {
    pub fn new(started: SystemTime, duration: Duration, usage: Usage, engine: &str) -> Self {
        let since_1970 = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            started_unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            fuel: usage.fuel,
            memory_bytes: usage.memory_bytes,
            engine: engine.to_owned(),
        }
    }
}
