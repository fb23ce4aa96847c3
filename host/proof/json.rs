//! The JSON form of a proof: the same content as the canonical bytes, for people and for programs
//! that read JSON. Digests, keys and signatures are lowercase hexadecimal digits. Numbers are exact
//! integers.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Blob, Claim, DecodeError, Job, Observed, SliceProof, VERSION};
use crate::digest::Digest;
use crate::sandbox::Outcome;
use crate::text::explained;

/// Maximum bytes of a JSON form. JSON text is at most six times as long as its canonical bytes;
/// space between tokens is not content.
pub const JSON_BYTES_MAX: usize = 512 << 10;

/// Maximum characters of a parser's message about text that is not a proof.
const SHOWN_CHARS_MAX: usize = 200;

/// The version, which is read first, because the content of other versions is unknown.
#[derive(Deserialize)]
struct ProofVersion {
    version: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofJson {
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
    /// Returns the JSON form. [`SliceProof::from_json`] decodes it to the same proof.
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

    /// Decodes the JSON form, and makes all checks of [`SliceProof::from_bytes`]. Order and spacing
    /// are free. Otherwise the text must match the proof's own JSON form: each key once, no other
    /// key, and each value written the same way.
    pub fn from_json(text: &[u8]) -> Result<Self, DecodeError> {
        if text.len() > JSON_BYTES_MAX {
            return Err(DecodeError::TooLarge { bytes: text.len(), max: JSON_BYTES_MAX });
        }
        let ProofVersion { version } = serde_json::from_slice(text).map_err(said)?;
        DecodeError::version(version)?;
        let form: ProofJson = serde_json::from_slice(text).map_err(said)?;
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

impl ProofJson {
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

/// Cuts the error message, because it may contain a text of any length.
fn said(error: impl std::fmt::Display) -> DecodeError {
    DecodeError::Json(explained(&error.to_string()).chars().take(SHOWN_CHARS_MAX).collect())
}
