//! The JSON form of a proof: all that the canonical bytes say, for people and for programs that read JSON. Digests, keys
//! and signatures are lowercase hexadecimal digits, numbers are exact integers.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Blob, Claim, DecodeError, Job, Observed, SliceProof, VERSION};
use crate::digest::Digest;
use crate::sandbox::Outcome;
use crate::text::explained;

/// The largest JSON form that is read: text takes at most six times as much as in the canonical bytes, and space between
/// the words is no content.
pub const JSON_BYTES_MAX: usize = 512 << 10;

/// What a message shows of a proof that is not one.
const SHOWN_CHARS_MAX: usize = 200;

/// The version is read first: what another one holds is not known.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    #[serde(rename = "version")]
    _version: u16,
    slice_id: String,
    job: Job,
    outcome: OutcomeForm,
    proof: Option<Digest>,
    output: Blob,
    gas: u64,
    #[serde(rename = "claim")]
    _claim: Digest,
    observed: Observed,
    signer: String,
    signature: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutcomeForm {
    code: String,
    failure: Option<i32>,
}

impl SliceProof {
    /// The JSON form; [`SliceProof::from_json`] makes of it the proof that it was made of.
    pub fn to_json(&self) -> Value {
        let Claim { slice_id, job, outcome, proof, output, gas } = &self.claim;
        let (code, failure) = outcome.code();
        let mut outcome = json!({ "code": code });
        if let Some(failure) = failure {
            outcome["failure"] = failure.into();
        }
        json!({
            "version": VERSION,
            "slice_id": slice_id.as_str(),
            "job": job,
            "outcome": outcome,
            "proof": proof,
            "output": output,
            "gas": gas,
            "claim": self.claim.digest(),
            "observed": self.observed,
            "signer": self.signer,
            "signature": self.signature.to_string(),
        })
    }

    /// Reads the JSON form, and checks all that [`SliceProof::from_bytes`] checks. Order and spacing are free; beside that
    /// it must say what the proof's own JSON form says: each key once, no other, each value as it would be written.
    pub fn from_json(text: &[u8]) -> Result<Self, DecodeError> {
        if text.len() > JSON_BYTES_MAX {
            return Err(DecodeError::TooLarge { bytes: text.len(), max: JSON_BYTES_MAX });
        }
        let Versioned { version } = serde_json::from_slice(text).map_err(said)?;
        DecodeError::version(version)?;
        let form: Form = serde_json::from_slice(text).map_err(said)?;
        let proof = Self::from_bytes(&form.read()?.to_bytes())?;
        let found: Value = serde_json::from_slice(text).map_err(said)?;
        if found == proof.to_json() {
            Ok(proof)
        } else {
            Err(DecodeError::Json(
                "a value in it is not written as `node compute proof show --json` writes it".to_owned(),
            ))
        }
    }
}

impl Form {
    fn read(self) -> Result<SliceProof, DecodeError> {
        let OutcomeForm { code, failure } = self.outcome;
        let claim = Claim {
            slice_id: self.slice_id.parse().map_err(said)?,
            job: self.job,
            outcome: Outcome::from_code(&code, failure)
                .ok_or_else(|| DecodeError::Json("its outcome is unknown".to_owned()))?,
            proof: self.proof,
            output: self.output,
            gas: self.gas,
        };
        let (signer, signature) = (self.signer.parse().map_err(said)?, self.signature.parse().map_err(said)?);
        Ok(SliceProof { claim, observed: self.observed, signer, signature })
    }
}

/// What is wrong may be as long as whoever wrote it wanted.
fn said(error: impl std::fmt::Display) -> DecodeError {
    DecodeError::Json(explained(&error.to_string()).chars().take(SHOWN_CHARS_MAX).collect())
}
