//! `SliceProof`: the signed result of running a workload on a slice. The `Claim`, which any other
//! node must reproduce, is separate from what was merely observed. The node's key signs both.
//!
//! A claim states only what a guest did. If the host stopped a run (deadline, lack of memory,
//! error), there is no `Outcome`, so there is nothing to sign.

mod profile;
mod rules;
mod codec;
mod json;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::key::{NodeKey, PublicKey, Signature};
use crate::limits::{Limits, Usage};
use crate::sandbox::{Execution, Outcome};
use crate::slice::SliceId;

pub use self::codec::{DecodeError, PROOF_BYTES_MAX, PROOF_CONTEXT};
pub use self::json::JSON_BYTES_MAX;
pub use self::profile::{ExecutionProfile, FORMER_PROFILE, profile};
pub use self::rules::Contradiction;

/// Version of the format, in the canonical bytes and in the JSON form.
pub const VERSION: u16 = 1;

/// Maximum assets of a job. As many digests fit into a proof of [`PROOF_BYTES_MAX`].
pub const ASSETS_MAX: usize = 1_000;

/// Everything that decides the result of a run. Equal jobs have equal results on any node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    pub workload: String,
    /// The module's digest.
    pub module: Digest,
    pub input: Blob,
    /// The digest of the job's arguments.
    pub args: Digest,
    pub limits: JobLimits,
    /// The digests of the job's assets, in the order of their indices.
    pub assets: Vec<Digest>,
    /// The digest of the [`ExecutionProfile`].
    pub profile: Digest,
}

/// Digest and length of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    pub blake3: Digest,
    pub bytes: u64,
}

/// The subset of [`Limits`] that can affect the result. The limit on the log cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobLimits {
    pub gas: u64,
    pub memory_bytes: u64,
    pub output_bytes: u64,
}

impl From<Limits> for JobLimits {
    fn from(limits: Limits) -> Self {
        let Limits { gas, memory_bytes, output_bytes, log_bytes: _ } = limits;
        Self { gas, memory_bytes, output_bytes }
    }
}

/// The part of a proof that another run of the job reproduces, on any node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    slice_id: SliceId,
    job: Job,
    outcome: Outcome,
    /// `Some` if and only if the outcome is [`Outcome::Done`].
    proof: Option<Digest>,
    output: Blob,
    gas: u64,
}

impl Claim {
    /// Creates the claim for `execution` of `job`.
    pub fn of(slice_id: SliceId, job: Job, execution: &Execution) -> Self {
        let Execution { outcome, proof, output, usage, log: _, trace: _ } = execution;
        let output_digest = Digest::of(output);
        Self {
            slice_id,
            job,
            outcome: *outcome,
            proof: outcome.is_done().then(|| proof.unwrap_or(output_digest)),
            output: Blob { blake3: output_digest, bytes: output.len() as u64 },
            gas: usage.gas,
        }
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

    /// Returns the proof hash: the digest that the guest committed, or else the digest of its
    /// output. A guest that failed has none.
    pub const fn proof(&self) -> Option<Digest> {
        self.proof
    }

    pub const fn output(&self) -> Blob {
        self.output
    }

    /// Returns the gas that the run used.
    pub const fn gas(&self) -> u64 {
        self.gas
    }
}

/// Observations of one run. Another run will observe other values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// Milliseconds since 1970-01-01 UTC.
    pub started_unix_ms: u64,
    pub duration_us: u64,
    /// The largest size of the guest's memory, in bytes.
    pub memory_bytes: u64,
    pub engine: String,
}

impl Observed {
    pub fn new(started: SystemTime, duration: Duration, usage: Usage, engine: &str) -> Self {
        let since_1970 = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            started_unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            memory_bytes: usage.memory_bytes,
            engine: engine.to_owned(),
        }
    }
}

/// A signed claim that does not contradict itself. Sources are a run ([`SliceProof::sign`]) and
/// bytes whose signature was verified. Whether the claim is true, and whether to trust the signer,
/// is for others to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceProof {
    claim: Claim,
    observed: Observed,
    signer: PublicKey,
    signature: Signature,
}

impl SliceProof {
    /// Signs the result of a run. Returns an error if no run can have this result. Takes some 15
    /// us.
    pub fn sign(claim: Claim, observed: Observed, key: &NodeKey) -> Result<Self, Contradiction> {
        rules::check(&claim, &observed)?;
        Ok(Self::sign_unchecked(claim, observed, key))
    }

    fn sign_unchecked(claim: Claim, observed: Observed, key: &NodeKey) -> Self {
        let signer = key.public();
        let signature = key.sign(PROOF_CONTEXT, &codec::signed_bytes(&claim, &observed, &signer));
        Self { claim, observed, signer, signature }
    }

    pub const fn claim(&self) -> &Claim {
        &self.claim
    }

    pub const fn slice_id(&self) -> &SliceId {
        self.claim.slice_id()
    }

    pub const fn job(&self) -> &Job {
        self.claim.job()
    }

    pub const fn outcome(&self) -> Outcome {
        self.claim.outcome()
    }

    /// Returns the proof hash; see [`Claim::proof`].
    pub const fn proof(&self) -> Option<Digest> {
        self.claim.proof()
    }

    pub const fn output(&self) -> Blob {
        self.claim.output()
    }

    pub const fn observed(&self) -> &Observed {
        &self.observed
    }

    pub const fn signer(&self) -> PublicKey {
        self.signer
    }

    pub const fn signature(&self) -> Signature {
        self.signature
    }

    /// Returns the digest of the claim; see [`Claim::digest`].
    pub fn claim_digest(&self) -> Digest {
        self.claim.digest()
    }

    /// Reads a proof in either form, and checks its structure and its signature. Bytes that begin
    /// with `{` are JSON; others are the canonical bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.starts_with(b"{") { Self::from_json(bytes) } else { Self::from_bytes(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(outcome: Outcome, proof: Option<Digest>) -> Claim {
        let blob = Blob { blake3: Digest::of(b"x"), bytes: 1 };
        let job = Job {
            workload: "transcode".to_owned(),
            module: Digest::of(b"module"),
            input: blob,
            args: Digest::of(b""),
            limits: JobLimits { gas: 1, memory_bytes: 1 << 16, output_bytes: 3 },
            assets: vec![Digest::of(b"a"), Digest::of(b"b")],
            profile: profile().digest(),
        };
        Claim { slice_id: "frame-1".parse().unwrap(), job, outcome, proof, output: blob, gas: 1 }
    }

    fn signed(claim: Claim) -> SliceProof {
        let observed = Observed { started_unix_ms: 4, duration_us: 5, memory_bytes: 0, engine: "e".to_owned() };
        SliceProof::sign_unchecked(claim, observed, &NodeKey::from_secret([1; 32]))
    }

    #[test]
    fn as_many_assets_are_read_as_a_job_may_bring() {
        let with = |count: usize| {
            let mut claim = claim(Outcome::Failed(1), None);
            claim.job.assets = vec![Digest::of(b"a"); count];
            signed(claim)
        };
        let (most, more) = (with(ASSETS_MAX), with(ASSETS_MAX + 1));
        assert_eq!(SliceProof::from_bytes(&most.to_bytes()).as_ref(), Ok(&most));
        assert_eq!(SliceProof::from_json(format!("{:#}", most.to_json()).as_bytes()), Ok(most));
        assert!(matches!(SliceProof::from_bytes(&more.to_bytes()), Err(DecodeError::Damaged(_))));
    }

    #[test]
    fn all_that_is_claimed_is_in_its_digest() {
        let claim = claim(Outcome::Failed(1), None);
        type Change = fn(&mut Claim);
        let changes: [Change; 16] = [
            |claim| claim.slice_id = "frame-2".parse().unwrap(),
            |claim| claim.job.workload.push('x'),
            |claim| claim.job.module = Digest::of(b"y"),
            |claim| claim.job.input.blake3 = Digest::of(b"y"),
            |claim| claim.job.input.bytes += 1,
            |claim| claim.job.args = Digest::of(b"y"),
            |claim| claim.job.limits.gas += 1,
            |claim| claim.job.limits.memory_bytes += 1,
            |claim| claim.job.limits.output_bytes += 1,
            |claim| claim.job.assets.reverse(),
            |claim| claim.job.profile = Digest::of(b"y"),
            |claim| claim.outcome = Outcome::Failed(2),
            |claim| claim.proof = Some(Digest::of(b"y")),
            |claim| claim.output.blake3 = Digest::of(b"y"),
            |claim| claim.output.bytes += 1,
            |claim| claim.gas += 1,
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut other = claim.clone();
            change(&mut other);
            assert_ne!(other.digest(), claim.digest(), "change {i}");
            assert_eq!(other.job.digest() == claim.job.digest(), other.job == claim.job, "change {i}");
        }
    }

    /// A claim has a proof hash only if the run is done. The hash is the digest that the guest
    /// committed, or else the output's digest.
    #[test]
    fn a_claim_of_a_run_has_a_proof_hash_where_the_run_is_done() {
        let claim = claim(Outcome::Done, None);
        let of = |outcome, proof| {
            let usage = Usage { gas: 9, memory_bytes: 0 };
            let execution = Execution { outcome, proof, output: b"out".to_vec(), log: vec![], usage, trace: None };
            Claim::of(claim.slice_id.clone(), claim.job.clone(), &execution)
        };
        let committed = Digest::of(b"committed");
        assert_eq!(of(Outcome::Done, Some(committed)).proof(), Some(committed));
        assert_eq!(of(Outcome::Done, None).proof(), Some(Digest::of(b"out")));
        assert_eq!(of(Outcome::OutputLimit, Some(committed)).proof(), None);
        assert_eq!(of(Outcome::Done, None).gas(), 9);
    }
}
