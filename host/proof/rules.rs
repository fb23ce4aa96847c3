//! Consistency rules that hold for the result of any run, and that a reader can check from the
//! proof alone. A proof that breaks one contradicts itself. The rules are checked when a proof is
//! read, and again when one is signed.

use std::sync::LazyLock;

use super::{Blob, Claim, Observed, profile};
use crate::digest::Digest;
use crate::limits::Limits;
use crate::sandbox::{Outcome, QUANTUM};
use crate::workload::NAMES;

/// The rule by which a proof contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Contradiction(pub &'static str);

type ProofRule = fn(&Claim, &Observed) -> bool;

/// Each rule, with the message for a proof that breaks it.
const RULES: [(&str, ProofRule); 15] = [
    ("its workload has no known name", |claim, _| NAMES.contains(&&*claim.job.workload)),
    ("its memory limit is more than WebAssembly can address", |claim, _| {
        claim.job.limits.memory_bytes <= Limits::MEMORY_BYTES_MAX
    }),
    ("the digest and the length of its input contradict each other", |claim, _| fits(claim.job.input)),
    ("the digest and the length of its output contradict each other", |claim, _| fits(claim.output)),
    ("its input and its output have one digest and two lengths", |claim, _| {
        let (input, output) = (claim.job.input, claim.output);
        input.blake3 != output.blake3 || input.bytes == output.bytes
    }),
    ("its outcome and its proof hash contradict each other", |claim, _| {
        claim.proof.is_some() == claim.outcome.is_done()
    }),
    ("it used more gas than its job allows", |claim, _| claim.gas <= claim.job.limits.gas),
    ("its output is longer than its job allows", |claim, _| claim.output.bytes <= claim.job.limits.output_bytes),
    ("it ran out of gas, and has gas left", |claim, _| {
        claim.outcome != Outcome::OutOfGas || claim.gas == claim.job.limits.gas
    }),
    ("it did not begin for want of memory, and did something", |claim, observed| {
        let did = [claim.gas, claim.output.bytes, observed.memory_bytes];
        claim.outcome != Outcome::MemoryLimit || did == [0; 3]
    }),
    ("it did not begin for want of memory, and was allowed all that there is", |claim, _| {
        claim.outcome != Outcome::MemoryLimit || claim.job.limits.memory_bytes < Limits::MEMORY_BYTES_MAX
    }),
    ("it was ended, and what it forfeits is no whole number of quanta", |claim, _| {
        let Claim { outcome, gas, job, .. } = claim;
        let forfeits = !matches!(outcome, Outcome::Done | Outcome::Failed(_));
        // The quantum of other profiles is unknown.
        !forfeits || job.profile != profile().digest() || *gas == job.limits.gas || gas.is_multiple_of(QUANTUM)
    }),
    ("its memory grew beyond what its job allows", |claim, observed| {
        observed.memory_bytes <= claim.job.limits.memory_bytes
    }),
    ("its memory is no whole number of pages", |_, observed| observed.memory_bytes.is_multiple_of(PAGE_BYTES)),
    ("the name of its engine is too long, or not plain text", |_, observed| {
        let is_plain = |byte: u8| (b' '..=b'~').contains(&byte);
        observed.engine.len() <= ENGINE_BYTES_MAX && observed.engine.bytes().all(is_plain)
    }),
];

/// Maximum bytes of an engine's name. Real names have about 20.
const ENGINE_BYTES_MAX: usize = 64;

/// Bytes of a page of WebAssembly memory.
const PAGE_BYTES: u64 = 1 << 16;

/// Checks that the empty blob, and only the empty blob, has the digest of no bytes.
fn fits(blob: Blob) -> bool {
    static NOTHING: LazyLock<Digest> = LazyLock::new(|| Digest::of(b""));
    (blob.blake3 == *NOTHING) == (blob.bytes == 0)
}

/// Checks whether a run can have this result and these observations.
pub fn check(claim: &Claim, observed: &Observed) -> Result<(), Contradiction> {
    match RULES.iter().find(|(_, holds)| !holds(claim, observed)) {
        Some((broken, _)) => Err(Contradiction(broken)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::NodeKey;
    use crate::proof::{DecodeError, Job, JobLimits, SliceProof};

    fn sound() -> (Claim, Observed) {
        let job = Job {
            workload: "module".to_owned(),
            module: Digest::of(b"module"),
            input: Blob { blake3: Digest::of(b"input"), bytes: 5 },
            args: Digest::of(b""),
            limits: JobLimits { gas: 9, memory_bytes: 2 * PAGE_BYTES, output_bytes: 7 },
            assets: Vec::new(),
            profile: profile().digest(),
        };
        let output = Blob { blake3: Digest::of(b"output"), bytes: 6 };
        let outcome = Outcome::Done;
        let claim = Claim { slice_id: "a".parse().unwrap(), job, outcome, proof: Some(output.blake3), output, gas: 8 };
        let engine = "e".to_owned();
        (claim, Observed { started_unix_ms: 4, duration_us: 5, memory_bytes: PAGE_BYTES, engine })
    }

    fn ended(claim: &mut Claim, outcome: Outcome) {
        (claim.outcome, claim.proof) = (outcome, None);
    }

    fn not_begun(claim: &mut Claim, observed: &mut Observed) {
        ended(claim, Outcome::MemoryLimit);
        (claim.gas, claim.output) = (0, Blob { blake3: Digest::of(b""), bytes: 0 });
        observed.memory_bytes = 0;
    }

    type Break = fn(&mut Claim, &mut Observed);

    /// Changes that break one rule and no rule before it, in the order of the rules.
    const BREAKS: [&[Break]; RULES.len()] = [
        &[
            |claim, _| claim.job.workload.clear(),
            |claim, _| claim.job.workload.push('s'),
            |claim, _| claim.job.workload = "\x1b[2J".to_owned(),
        ],
        &[|claim, _| claim.job.limits.memory_bytes = Limits::MEMORY_BYTES_MAX + 1],
        &[|claim, _| claim.job.input.bytes = 0, |claim, _| claim.job.input.blake3 = Digest::of(b"")],
        &[|claim, _| claim.output.bytes = 0, |claim, _| claim.output.blake3 = Digest::of(b"")],
        &[|claim, _| claim.output.blake3 = claim.job.input.blake3],
        &[|claim, _| claim.proof = None, |claim, _| claim.outcome = Outcome::OutputLimit],
        &[|claim, _| claim.gas = 10],
        &[|claim, _| claim.output.bytes = 8],
        &[|claim, _| ended(claim, Outcome::OutOfGas)],
        &[
            |claim, _| ended(claim, Outcome::MemoryLimit),
            |claim, observed| {
                not_begun(claim, observed);
                claim.gas = 1;
            },
            |claim, observed| {
                not_begun(claim, observed);
                claim.output = Blob { blake3: Digest::of(b"output"), bytes: 6 };
            },
            |claim, observed| {
                not_begun(claim, observed);
                observed.memory_bytes = PAGE_BYTES;
            },
        ],
        &[|claim, observed| {
            not_begun(claim, observed);
            claim.job.limits.memory_bytes = Limits::MEMORY_BYTES_MAX;
        }],
        &[|claim, _| ended(claim, Outcome::OutOfStack)],
        &[|_, observed| observed.memory_bytes = 3 * PAGE_BYTES],
        &[|_, observed| observed.memory_bytes -= 1],
        &[
            |_, observed| observed.engine.push('\x1b'),
            |_, observed| observed.engine.push('\u{202e}'),
            |_, observed| observed.engine = "e".repeat(ENGINE_BYTES_MAX + 1),
        ],
    ];

    #[test]
    fn each_rule_is_checked_where_a_proof_is_read_and_signed() {
        let (claim, observed) = sound();
        let key = NodeKey::from_secret([1; 32]);
        let proof = SliceProof::sign(claim, observed, &key).expect("it is sound");
        assert_eq!(SliceProof::from_bytes(&proof.to_bytes()), Ok(proof));
        for ((rule, _), breaks) in RULES.iter().zip(BREAKS) {
            for (index, break_it) in breaks.iter().enumerate() {
                let (mut claim, mut observed) = sound();
                break_it(&mut claim, &mut observed);
                let damaged = DecodeError::Damaged(rule);
                let forged = SliceProof::sign_unchecked(claim.clone(), observed.clone(), &key);
                assert_eq!(SliceProof::from_bytes(&forged.to_bytes()), Err(damaged.clone()), "{index}");
                assert_eq!(SliceProof::from_kept_bytes(&forged.to_bytes()), Err(damaged.clone()), "{index}");
                let json = forged.to_json().to_string();
                assert_eq!(SliceProof::from_json(json.as_bytes()), Err(damaged), "{index}");
                assert_eq!(SliceProof::sign(claim, observed, &key), Err(Contradiction(rule)), "{index}");
            }
        }
    }

    #[test]
    fn former_rules_may_have_had_another_quantum() {
        let (mut claim, observed) = sound();
        ended(&mut claim, Outcome::OutOfStack);
        claim.job.profile = Digest::of(b"former rules");
        assert_eq!(check(&claim, &observed), Ok(()));
    }
}
