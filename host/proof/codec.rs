//! The canonical bytes of a proof, version 1. Integers are little-endian. `text` is a u32 length
//! and that many bytes of UTF-8. `digest` is 32 bytes.
//!
//! | file      | type     |                                                                      |
//! |-----------|----------|----------------------------------------------------------------------|
//! | magic     | 8 bytes  | `SLCPROOF`                                                           |
//! | version   | u16      | 1                                                                    |
//! | claim     | u32 length, bytes | what another run reproduces, below                          |
//! | observed  | u32 length, bytes | what it need not reproduce, below                           |
//! | signer    | 32 bytes | its public key: ed25519, compressed as in RFC 8032                   |
//! | signature | 64 bytes | over all bytes before it, as below                                   |
//! | checksum  | digest   | BLAKE3 of all bytes before it, in the domain below                   |
//!
//! The signature is ed25519 (RFC 8032, verified strictly). The signed message is the 27 bytes
//! `compute-host slice proof v1` without a length, followed by a BLAKE3 digest. The digest covers
//! all bytes before the signature, in the domain of that same text. The checksum's domain is
//! `compute-host proof file v1`. The checksum distinguishes damage from forgery, and proves
//! nothing.
//!
//! | claim        | type                      |                                                 |
//! |--------------|---------------------------|-------------------------------------------------|
//! | slice id     | text                      | 1 to 128 printable ASCII characters             |
//! | job          | (the next nine)           | identified by the job digest, below             |
//! | workload     | text                      | `transcode`, `inference` or `module`            |
//! | module       | digest                    |                                                 |
//! | input        | digest, u64               | and its length in bytes                         |
//! | args         | digest                    |                                                 |
//! | gas          | u64                       | limit                                           |
//! | memory       | u64                       | limit in bytes                                  |
//! | output       | u64                       | limit in bytes                                  |
//! | assets       | u32 count, digests        | in the order of their indices                   |
//! | profile      | digest                    | of the execution profile (`profile.rs`)         |
//! | outcome      | text, u8, i32 if 1        | code; whether a failure code follows; the code  |
//! | proof        | u8, digest if 1           | 1 if and only if the outcome is `done`          |
//! | output       | digest, u64               | and its length in bytes                         |
//! | gas          | u64                       | used                                            |
//!
//! The job digest is BLAKE3 of the job's nine fields, in the domain `compute-host job v1`. The
//! claim digest is BLAKE3 of the claim, in the domain `compute-host slice proof claim v1`. Equal
//! results have equal claim digests.
//!
//! | observed | type |                                               |
//! |----------|------|-----------------------------------------------|
//! | started  | u64  | milliseconds since 1970-01-01 UTC             |
//! | duration | u64  | microseconds                                  |
//! | memory   | u64  | largest size of the guest's memory, in bytes  |
//! | engine   | text |                                               |

use super::rules::{self, Contradiction};
use super::{ASSETS_MAX, Blob, Claim, Job, JobLimits, Observed, SliceProof, VERSION};
use crate::digest::Digest;
use crate::key::{PublicKey, Signature};
use crate::sandbox::Outcome;

const MAGIC: &[u8; 8] = b"SLCPROOF";
const FILE_DOMAIN: &str = "compute-host proof file v1";
const CLAIM_DOMAIN: &str = "compute-host slice proof claim v1";
const JOB_DOMAIN: &str = "compute-host job v1";

/// Signing context of a proof.
pub const PROOF_CONTEXT: &str = "compute-host slice proof v1";

/// Maximum bytes of a proof: 64 KiB hold about two thousand digests.
pub const PROOF_BYTES_MAX: usize = 64 << 10;

/// The reason why some bytes are not a proof.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("not a slice proof: it does not begin with `SLCPROOF`, nor with `{{` as its JSON form does")]
    Magic,
    #[error("a slice proof of version 0, which is unsigned and no longer read; run its slice again to make it anew")]
    VersionZero,
    #[error("a slice proof of version {0}; this node reads version {VERSION}")]
    Version(u64),
    #[error("a damaged slice proof: {0}")]
    Damaged(&'static str),
    #[error("a slice proof of {bytes} bytes; at most {max} are read")]
    TooLarge { bytes: usize, max: usize },
    #[error("not the JSON form of a slice proof: {0}")]
    Json(String),
    #[error("its signature is not its signer's: it was changed after it was signed, or is forged")]
    Signature,
}

impl DecodeError {
    pub(super) fn version(found: u64) -> Result<(), Self> {
        match found {
            found if found == u64::from(VERSION) => Ok(()),
            0 => Err(Self::VersionZero),
            other => Err(Self::Version(other)),
        }
    }

    /// Returns a stable name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Magic => "no_proof",
            Self::VersionZero | Self::Version(_) => "other_version",
            Self::Damaged(_) => "damaged",
            Self::TooLarge { .. } => "too_large",
            Self::Json(_) => "no_json_form",
            Self::Signature => "not_signed",
        }
    }
}

impl From<Contradiction> for DecodeError {
    fn from(Contradiction(broken): Contradiction) -> Self {
        Self::Damaged(broken)
    }
}

impl Job {
    /// Returns the digest of the job. Equal jobs have equal digests, whatever the ids of their
    /// slices.
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::with_capacity(256);
        self.write(&mut bytes);
        Digest::in_domain(JOB_DOMAIN, &bytes)
    }

    fn write(&self, to: &mut Vec<u8>) {
        write_text(to, &self.workload);
        to.extend(self.module.as_bytes());
        self.input.write(to);
        to.extend(self.args.as_bytes());
        for limit in [self.limits.gas, self.limits.memory_bytes, self.limits.output_bytes] {
            to.extend(limit.to_le_bytes());
        }
        write_len(to, self.assets.len());
        self.assets.iter().for_each(|asset| to.extend(asset.as_bytes()));
        to.extend(self.profile.as_bytes());
    }

    fn read(from: &mut ProofReader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            workload: from.text()?,
            module: from.digest()?,
            input: Blob::read(from)?,
            args: from.digest()?,
            limits: JobLimits { gas: from.u64()?, memory_bytes: from.u64()?, output_bytes: from.u64()? },
            assets: from.assets()?,
            profile: from.digest()?,
        })
    }
}

impl Blob {
    fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.blake3.as_bytes());
        to.extend(self.bytes.to_le_bytes());
    }

    fn read(from: &mut ProofReader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { blake3: from.digest()?, bytes: from.u64()? })
    }
}

impl Claim {
    /// Returns the digest of the claim, without the observations. Every node with the same result
    /// gets the same digest.
    pub fn digest(&self) -> Digest {
        Digest::in_domain(CLAIM_DOMAIN, &self.to_bytes())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        write_text(&mut bytes, self.slice_id.as_str());
        self.job.write(&mut bytes);
        let (code, failure) = self.outcome.code();
        write_text(&mut bytes, code);
        write_optional(&mut bytes, failure.map(i32::to_le_bytes));
        write_optional(&mut bytes, self.proof.map(|proof| *proof.as_bytes()));
        self.output.write(&mut bytes);
        bytes.extend(self.gas.to_le_bytes());
        bytes
    }

    fn read(from: &mut ProofReader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            slice_id: from.text()?.parse().map_err(|_| DecodeError::Damaged("its slice id is not one"))?,
            job: Job::read(from)?,
            outcome: from.outcome()?,
            proof: from.optional(ProofReader::digest)?,
            output: Blob::read(from)?,
            gas: from.u64()?,
        })
    }
}

impl Observed {
    fn to_bytes(&self) -> Vec<u8> {
        let Self { started_unix_ms, duration_us, memory_bytes, engine } = self;
        let mut bytes = Vec::with_capacity(64);
        for number in [started_unix_ms, duration_us, memory_bytes] {
            bytes.extend(number.to_le_bytes());
        }
        write_text(&mut bytes, engine);
        bytes
    }

    fn read(from: &mut ProofReader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            started_unix_ms: from.u64()?,
            duration_us: from.u64()?,
            memory_bytes: from.u64()?,
            engine: from.text()?,
        })
    }
}

/// Encodes the part of a proof before its signature.
pub fn signed_bytes(claim: &Claim, observed: &Observed, signer: &PublicKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    write_section(&mut bytes, &claim.to_bytes());
    write_section(&mut bytes, &observed.to_bytes());
    bytes.extend(signer.as_bytes());
    bytes
}

impl SliceProof {
    /// Encodes the proof as canonical bytes. Equal proofs have equal bytes, and no other bytes
    /// decode to this proof.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = signed_bytes(&self.claim, &self.observed, &self.signer);
        bytes.extend(self.signature.as_bytes());
        let checksum = Digest::in_domain(FILE_DOMAIN, &bytes);
        bytes.extend(checksum.as_bytes());
        bytes
    }

    /// Decodes canonical bytes, and checks their structure and the signature. A well-formed, signed
    /// claim need not be true: run it again to check. Takes about 50 us.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let proof = Self::from_kept_bytes(bytes)?;
        PublicKey::from_bytes(proof.signer.as_bytes()).ok_or(DecodeError::Damaged("its signer is no key"))?;
        let signed = bytes.len() - SIGNATURE_AND_CHECKSUM_BYTES;
        let is_signed = proof.signer.verifies(PROOF_CONTEXT, &bytes[..signed], &proof.signature);
        if is_signed { Ok(proof) } else { Err(DecodeError::Signature) }
    }

    /// Decodes like [`SliceProof::from_bytes`], without checking the signer's key and the
    /// signature. Use it for proofs that this node stored where nobody else can write. Their
    /// checksum shows damage.
    pub(crate) fn from_kept_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > PROOF_BYTES_MAX {
            return Err(DecodeError::TooLarge { bytes: bytes.len(), max: PROOF_BYTES_MAX });
        }
        let mut file = ProofReader(bytes.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?);
        DecodeError::version(u16::from_le_bytes(file.array()?).into())?;
        let (body, checksum) = bytes.split_last_chunk::<32>().ok_or(DecodeError::Damaged("it ends early"))?;
        if Digest::in_domain(FILE_DOMAIN, body) != Digest::from(*checksum) {
            return Err(DecodeError::Damaged("its checksum does not fit its content"));
        }
        let (mut claim, mut observed) = (file.section()?, file.section()?);
        let proof = Self {
            claim: Claim::read(&mut claim)?,
            observed: Observed::read(&mut observed)?,
            signer: PublicKey::from_kept_bytes(file.array()?),
            signature: file.array::<{ Signature::BYTES }>()?.into(),
        };
        file.array::<32>()?;
        if !(claim.0.is_empty() && observed.0.is_empty() && file.0.is_empty()) {
            return Err(DecodeError::Damaged("something follows its end"));
        }
        rules::check(&proof.claim, &proof.observed)?;
        Ok(proof)
    }
}

const SIGNATURE_AND_CHECKSUM_BYTES: usize = Signature::BYTES + 32;

fn write_len(to: &mut Vec<u8>, len: usize) {
    to.extend(u32::try_from(len).expect("nothing in a proof is 4 GiB long").to_le_bytes());
}

fn write_section(to: &mut Vec<u8>, bytes: &[u8]) {
    write_len(to, bytes.len());
    to.extend(bytes);
}

fn write_text(to: &mut Vec<u8>, text: &str) {
    write_section(to, text.as_bytes());
}

fn write_optional<const N: usize>(to: &mut Vec<u8>, bytes: Option<[u8; N]>) {
    to.push(bytes.is_some().into());
    to.extend(bytes.into_iter().flatten());
}

/// Unread rest of the bytes. A length is compared with the rest before anything is allocated.
struct ProofReader<'a>(&'a [u8]);

impl<'a> ProofReader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(DecodeError::Damaged("it ends early"))?;
        self.0 = rest;
        Ok(*array)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    fn digest(&mut self) -> Result<Digest, DecodeError> {
        self.array::<32>().map(Digest::from)
    }

    fn section(&mut self) -> Result<ProofReader<'a>, DecodeError> {
        let len = self.u32()? as usize;
        let (section, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Damaged("it ends early"))?;
        self.0 = rest;
        Ok(ProofReader(section))
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let bytes = self.section()?.0.to_vec();
        String::from_utf8(bytes).map_err(|_| DecodeError::Damaged("a text in it is not UTF-8"))
    }

    fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        match self.array()? {
            [0] => Ok(None),
            [1] => read(self).map(Some),
            _ => Err(DecodeError::Damaged("a flag in it is neither 0 nor 1")),
        }
    }

    fn assets(&mut self) -> Result<Vec<Digest>, DecodeError> {
        match self.u32()? as usize {
            count if count <= ASSETS_MAX => (0..count).map(|_| self.digest()).collect(),
            _ => Err(DecodeError::Damaged("it has more assets than a job may bring")),
        }
    }

    fn outcome(&mut self) -> Result<Outcome, DecodeError> {
        let code = self.text()?;
        let failure = self.optional(|from| from.array().map(i32::from_le_bytes))?;
        Outcome::from_code(&code, failure).ok_or(DecodeError::Damaged("its outcome is unknown"))
    }
}
