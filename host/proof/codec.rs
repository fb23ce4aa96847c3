//! The canonical bytes of a proof, version 0. Integers are little-endian; `text` is a u32 length and that many bytes of
//! UTF-8; `digest` is 32 bytes.
//!
//! | file     | type   |                                                                        |
//! |----------|--------|------------------------------------------------------------------------|
//! | magic    | 8 bytes| `SLCPROOF`                                                             |
//! | version  | u16    | 0                                                                      |
//! | claim    | u32 length, bytes | what another run finds again, below                         |
//! | observed | u32 length, bytes | what it need not, below                                     |
//! | checksum | digest | BLAKE3 of all before, in the domain `compute-host proof file v0`        |
//!
//! | claim        | type                      |                                                        |
//! |--------------|---------------------------|--------------------------------------------------------|
//! | slice id     | text                      |                                                        |
//! | job          | (the next nine)           | BLAKE3 of these, in the domain `compute-host job v0`, names the job |
//! | workload     | text                      | `transcode`, `inference` or `module`                   |
//! | module       | digest                    |                                                        |
//! | input        | digest, u64               | and its length in bytes                                |
//! | args         | digest                    |                                                        |
//! | fuel         | u64                       | limit                                                  |
//! | memory       | u64                       | limit in bytes                                         |
//! | output       | u64                       | limit in bytes                                         |
//! | assets       | u32 count, digests        | in the order of their indices                          |
//! | outcome      | text, u8, i32 if 1        | the code; whether a failure code follows; that         |
//! | proof        | u8, digest if 1           | whether one follows: only where the outcome is `done`  |
//! | output       | digest, u64               | and its length in bytes                                |
//!
//! BLAKE3 of the claim, in the domain `compute-host slice proof claim v0`, is the claim digest: equal for equal results.
//!
//! | observed | type |                                         |
//! |----------|------|-----------------------------------------|
//! | started  | u64  | milliseconds since 1970-01-01 UTC       |
//! | duration | u64  | microseconds                            |
//! | fuel     | u64  |                                         |
//! | memory   | u64  | largest size of the guest's, in bytes   |
//! | engine   | text |                                         |

use super::{Blob, Job, JobLimits, Observed, SliceProof, VERSION};
use crate::digest::Digest;
use crate::sandbox::Outcome;

const MAGIC: &[u8; 8] = b"SLCPROOF";
const FILE_DOMAIN: &str = "compute-host proof file v0";
const CLAIM_DOMAIN: &str = "compute-host slice proof claim v0";
const JOB_DOMAIN: &str = "compute-host job v0";

/// The largest proof: 64 KiB hold some two thousand assets.
pub const PROOF_BYTES_MAX: usize = 64 << 10;

/// Why some bytes are not a proof.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("not a slice proof: it does not begin with `SLCPROOF`")]
    Magic,
    #[error("a slice proof of version {0}; this node reads version {VERSION}")]
    Version(u16),
    #[error("a damaged slice proof: {0}")]
    Damaged(&'static str),
    #[error("a slice proof of {0} bytes; at most {PROOF_BYTES_MAX} are read")]
    TooLarge(usize),
}

impl Job {
    /// Names the job: equal for equal jobs, whatever their slices are called.
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
        for limit in [self.limits.fuel, self.limits.memory_bytes, self.limits.output_bytes] {
            to.extend(limit.to_le_bytes());
        }
        write_len(to, self.assets.len());
        self.assets.iter().for_each(|asset| to.extend(asset.as_bytes()));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            workload: from.text()?,
            module: from.digest()?,
            input: Blob::read(from)?,
            args: from.digest()?,
            limits: JobLimits { fuel: from.u64()?, memory_bytes: from.u64()?, output_bytes: from.u64()? },
            assets: (0..from.u32()?).map(|_| from.digest()).collect::<Result<_, _>>()?,
        })
    }
}

impl Blob {
    fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.blake3.as_bytes());
        to.extend(self.bytes.to_le_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { blake3: from.digest()?, bytes: from.u64()? })
    }
}

impl SliceProof {
    /// The canonical bytes: equal proofs have equal bytes, and no other bytes are read back as this proof.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        write_section(&mut bytes, &self.claim_bytes());
        write_section(&mut bytes, &self.observed_bytes());
        let checksum = Digest::in_domain(FILE_DOMAIN, &bytes);
        bytes.extend(checksum.as_bytes());
        bytes
    }

    /// Reads canonical bytes. That they are well formed does not make true what they claim: run it again to see.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > PROOF_BYTES_MAX {
            return Err(DecodeError::TooLarge(bytes.len()));
        }
        let after_magic = bytes.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?;
        let mut file = Reader(after_magic);
        match u16::from_le_bytes(file.array()?) {
            VERSION => {}
            other => return Err(DecodeError::Version(other)),
        }
        let (body, checksum) = bytes.split_last_chunk::<32>().ok_or(DecodeError::Damaged("it ends early"))?;
        if Digest::in_domain(FILE_DOMAIN, body) != Digest::from(*checksum) {
            return Err(DecodeError::Damaged("its checksum does not fit its content"));
        }
        let (mut claim, mut observed) = (file.section()?, file.section()?);
        file.array::<32>()?;
        let slice_id = claim.text()?.parse().map_err(|_| DecodeError::Damaged("its slice id is not one"))?;
        let proof = Self {
            slice_id,
            job: Job::read(&mut claim)?,
            outcome: claim.outcome()?,
            proof: claim.optional(Reader::digest)?,
            output: Blob::read(&mut claim)?,
            observed: Observed {
                started_unix_ms: observed.u64()?,
                duration_us: observed.u64()?,
                fuel: observed.u64()?,
                memory_bytes: observed.u64()?,
                engine: observed.text()?,
            },
        };
        if !(claim.0.is_empty() && observed.0.is_empty() && file.0.is_empty()) {
            return Err(DecodeError::Damaged("something follows its end"));
        }
        if proof.proof.is_some() != (proof.outcome == Outcome::Done) || !proof.outcome.is_reproducible() {
            return Err(DecodeError::Damaged("its outcome and its proof hash contradict each other"));
        }
        Ok(proof)
    }

    /// Names what is claimed, without what was merely observed: equal on every node that finds the same.
    pub fn claim_digest(&self) -> Digest {
        Digest::in_domain(CLAIM_DOMAIN, &self.claim_bytes())
    }

    fn claim_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        write_text(&mut bytes, self.slice_id.as_str());
        self.job.write(&mut bytes);
        let (code, failure) = self.outcome.code();
        write_text(&mut bytes, code);
        write_optional(&mut bytes, failure.map(i32::to_le_bytes));
        write_optional(&mut bytes, self.proof.map(|proof| *proof.as_bytes()));
        self.output.write(&mut bytes);
        bytes
    }

    fn observed_bytes(&self) -> Vec<u8> {
        let Observed { started_unix_ms, duration_us, fuel, memory_bytes, engine } = &self.observed;
        let mut bytes = Vec::with_capacity(64);
        for number in [started_unix_ms, duration_us, fuel, memory_bytes] {
            bytes.extend(number.to_le_bytes());
        }
        write_text(&mut bytes, engine);
        bytes
    }
}

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

/// What is left to read. A length is compared with it before anything is allocated.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
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

    fn section(&mut self) -> Result<Reader<'a>, DecodeError> {
        let len = self.u32()? as usize;
        let (section, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Damaged("it ends early"))?;
        self.0 = rest;
        Ok(Reader(section))
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

    fn outcome(&mut self) -> Result<Outcome, DecodeError> {
        let code = self.text()?;
        let failure = self.optional(|from| from.array().map(i32::from_le_bytes))?;
        Outcome::from_code(&code, failure).ok_or(DecodeError::Damaged("its outcome is unknown"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(outcome: Outcome) -> SliceProof {
        let blob = Blob { blake3: Digest::of(b"x"), bytes: 1 };
        SliceProof {
            slice_id: "frame-1".parse().unwrap(),
            job: Job {
                workload: "transcode".to_owned(),
                module: Digest::of(b"module"),
                input: blob,
                args: Digest::of(b""),
                limits: JobLimits { fuel: 1, memory_bytes: 2, output_bytes: 3 },
                assets: vec![Digest::of(b"a"), Digest::of(b"b")],
            },
            outcome,
            proof: (outcome == Outcome::Done).then(|| Digest::of(b"p")),
            output: blob,
            observed: Observed { started_unix_ms: 4, duration_us: 5, fuel: 6, memory_bytes: 7, engine: "e".to_owned() },
        }
    }

    #[test]
    fn bytes_read_back() {
        for outcome in [Outcome::Done, Outcome::Failed(-3), Outcome::OutputLimit] {
            let proof = proof(outcome);
            assert_eq!(SliceProof::from_bytes(&proof.to_bytes()), Ok(proof));
        }
    }

    #[test]
    fn no_flipped_bit_and_no_shortened_proof_is_read() {
        let bytes = proof(Outcome::Done).to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SliceProof::from_bytes(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(SliceProof::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(SliceProof::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    }

    /// A forger can make the checksum fit: then the content must still be one that a run can come to.
    #[test]
    fn a_proof_that_contradicts_itself_is_not_read() {
        for (outcome, hash) in
            [(Outcome::Done, None), (Outcome::Failed(1), Some(Digest::of(b"p"))), (Outcome::OutOfFuel, None)]
        {
            let forged = SliceProof { proof: hash, ..proof(outcome) };
            assert!(matches!(SliceProof::from_bytes(&forged.to_bytes()), Err(DecodeError::Damaged(_))), "{outcome}");
        }
    }

    #[test]
    fn what_was_observed_is_no_part_of_the_claim() {
        let mut other = proof(Outcome::Done);
        let claim = other.claim_digest();
        other.observed.duration_us += 1;
        assert_eq!(other.claim_digest(), claim);
        other.job.limits.output_bytes += 1;
        assert_ne!(other.claim_digest(), claim);
    }
}
