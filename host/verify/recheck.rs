//! Comparison of a proof's claim with a new run. First, the digests of all inputs are compared with
//! those in the proof.

use std::path::Path;

use super::child;
use super::job::{EngineJob, EngineResult, EngineRun};
use super::matrix::{Case, NamedGuest};
use crate::digest::Digest;
use crate::limits::Limits;
use crate::proof::{Blob, FORMER_PROFILE, JobLimits, SliceProof, profile};
use crate::sandbox::{Claimed, ClaimedAmount, EngineKind, Outcome, QUANTUM};
use crate::workload::Workload;

/// Result of a re-run, compared with a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Agree,
    /// The difference, and the engine on which it occurred.
    Disagree(String),
    /// The reason why the proof belongs to another job.
    NotComparable(String),
    /// The reason why the job could not be run.
    Unverifiable(String),
}

impl Verdict {
    /// Returns the verdict in the form for programs.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Agree => "agree",
            Self::Disagree(_) => "disagree",
            Self::NotComparable(_) => "not comparable",
            Self::Unverifiable(_) => "unverifiable",
        }
    }

    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Agree => None,
            Self::Disagree(why) | Self::NotComparable(why) | Self::Unverifiable(why) => Some(why),
        }
    }
}

/// Runs the job of `proof` again on each of `engines`, until one has a different result. `module`
/// is the digest of the guest before it was metered. The digest of the slice is computed where the
/// slice is run.
pub fn recheck(
    program: &Path,
    proof: &SliceProof,
    (module, guest): (Digest, &NamedGuest),
    case: &Case,
    engines: &[EngineKind],
) -> Verdict {
    if let Some(why) = other_job(proof, module, case) {
        return Verdict::NotComparable(why);
    }
    if proof.job().profile != profile().digest() {
        return by_other_rules(program, proof, guest, case, engines);
    }
    let (named, output) = (proof.job().input, proof.output());
    let claimed = Claimed { gas: proof.claim().gas(), output_bytes: output.bytes };
    for engine in engines {
        let order = checked((named, claimed), case.order(*engine, &guest.module, 1));
        let what = match child::run(program, &order).pop() {
            Some((EngineResult::Found(found), _)) => differs(proof, &found),
            Some((EngineResult::Beyond(ClaimedAmount::Gas), _)) => {
                Some(format!("more than {} gas (claimed: {})", claimed.gas.saturating_add(QUANTUM - 1), claimed.gas))
            }
            Some((EngineResult::Beyond(ClaimedAmount::Output), _)) => {
                Some(format!("an output of more than {} bytes (claimed: {})", output.bytes, output.bytes))
            }
            Some((EngineResult::OtherSlice(has), _)) => {
                return Verdict::NotComparable(format!(
                    "the proof is of the slice {} ({} bytes), and this is {} ({} bytes)",
                    named.blake3, named.bytes, has.blake3, has.bytes
                ));
            }
            Some((EngineResult::Failed { message, .. }, _)) => {
                return Verdict::Unverifiable(format!("{engine}: {message}"));
            }
            None => return Verdict::Unverifiable(format!("{engine} did not answer")),
        };
        if let Some(what) = what {
            return Verdict::Disagree(format!("{engine} comes to {what}"));
        }
    }
    Verdict::Agree
}

/// Most gas by this node's rules for a unit of gas by former ones. The largest ratio of two prices
/// is 8.
const FORMER_UNIT_GAS_MAX: u64 = 64;
/// Most gas of a guest's start, which former rules did not charge.
const START_GAS_MAX: u64 = 1 << 27;

/// Returns the verdict on a claim by rules that are not this node's. It is "not comparable", with
/// one exception: a claim that a guest without an end came to an end is false by any rules.
fn by_other_rules(
    program: &Path,
    proof: &SliceProof,
    guest: &NamedGuest,
    case: &Case,
    engines: &[EngineKind],
) -> Verdict {
    let (job, claim) = (proof.job(), proof.claim());
    if job.profile.to_string() != FORMER_PROFILE {
        let (named, own) = (job.profile, profile().digest());
        return Verdict::NotComparable(format!("the proof names the execution profile {named}, and this is {own}"));
    }
    let has_returned = matches!(claim.outcome(), Outcome::Done | Outcome::Failed(_));
    if let (Some(engine), true) = (engines.first(), has_returned) {
        let gas = claim.gas().saturating_mul(FORMER_UNIT_GAS_MAX).saturating_add(START_GAS_MAX);
        let order = case.order(*engine, &guest.module, 1);
        let order = EngineJob { limits: Limits { gas: u64::MAX, ..order.limits }, ..order };
        let order = checked((job.input, Claimed { gas, output_bytes: u64::MAX }), order);
        if let Some((EngineResult::Beyond(ClaimedAmount::Gas), _)) = child::run(program, &order).pop() {
            let claimed = claim.gas();
            return Verdict::Disagree(format!(
                "{engine} comes to no end within {gas} gas (claimed: {claimed}, by gas schedule 1)"
            ));
        }
    }
    let why = "the proof is by gas schedule 1, which this node runs nothing by; run its slice again";
    Verdict::NotComparable(why.to_owned())
}

/// Returns the order for a run that is compared with a claim. It takes no checkpoints, because a
/// claim has none to compare.
fn checked(claimed: (Blob, Claimed), order: EngineJob) -> EngineJob {
    EngineJob { window: None, claimed: Some(claimed), ..order }
}

/// Returns the reason why these inputs are not the ones that the proof names.
fn other_job(proof: &SliceProof, module: Digest, case: &Case) -> Option<String> {
    let job = proof.job();
    let other = |what: &str, named: Digest, has: Digest| format!("the proof names {what} {named}, and this is {has}");
    if job.module != module {
        return Some(other("the module", job.module, module));
    }
    if job.args != Digest::of(&case.args) {
        return Some(other("the arguments", job.args, Digest::of(&case.args)));
    }
    let assets: Vec<Digest> = case.assets.iter().map(|asset| Digest::of(asset)).collect();
    if job.assets.len() != assets.len() {
        return Some(format!("the proof names {} assets, and these are {}", job.assets.len(), assets.len()));
    }
    let unlike = job.assets.iter().zip(&assets).position(|(named, has)| named != has);
    if let Some(index) = unlike {
        return Some(other(&format!("as asset {index}"), job.assets[index], assets[index]));
    }
    if job.limits != JobLimits::from(case.limits) {
        return Some("the proof names the limits of its job; leave --gas and --memory out".to_owned());
    }
    let named = Workload::named(&job.workload);
    match named {
        Some(workload) if workload.digest() != module => {
            Some(format!("the proof calls its module `{}`, which is another", job.workload))
        }
        _ => None,
    }
}

/// Returns the difference between a run and the claim.
fn differs(proof: &SliceProof, found: &EngineRun) -> Option<String> {
    let claim = proof.claim();
    let said = |proof: Option<Digest>| proof.map_or_else(|| "none".to_owned(), |proof| proof.to_string());
    let Some(outcome) = found.outcome() else { return Some("what is no outcome".to_owned()) };
    match () {
        () if outcome != claim.outcome() => {
            Some(format!("the outcome `{}` (claimed: `{}`)", outcome.code().0, claim.outcome().code().0))
        }
        () if found.proof != claim.proof() => {
            Some(format!("the proof {} (claimed: {})", said(found.proof), said(claim.proof())))
        }
        () if found.output != claim.output() => {
            Some(format!("the output {} (claimed: {})", found.output.blake3, claim.output().blake3))
        }
        () if found.gas != claim.gas() => Some(format!("{} gas (claimed: {})", found.gas, claim.gas())),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::verify::SliceSource;

    #[test]
    fn a_lie_costs_what_it_says_and_a_quantum_whatever_its_limits() {
        let blob = Blob { blake3: Digest::of(b""), bytes: 0 };
        for gas_max in [0, 7, 1_000_000_000, 1 << 63, u64::MAX] {
            let case = Case {
                slice: SliceSource::Bytes(Arc::default()),
                args: Arc::default(),
                assets: Vec::new(),
                limits: Limits { gas: gas_max, ..Limits::DEFAULT },
                timeout_ms: None,
            };
            for gas in [0, 7, QUANTUM, u64::MAX] {
                let claimed = Claimed { gas, output_bytes: 0 };
                let order = checked((blob, claimed), case.order(EngineKind::Wasmi, &Arc::default(), 1));
                assert_eq!(order.gas_max(), gas.saturating_add(QUANTUM).min(gas_max));
                assert!(order.window.is_none(), "nothing is hashed that nothing compares");
            }
        }
    }
}
