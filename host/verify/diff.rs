//! Search for the point where two runs of one job diverge. The checkpoints of both are compared.
//! The interval between the last equal and the first unequal checkpoint is run again with finer
//! checkpoints, down to single poll points. There the host calls and the memory are compared.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::child;
use super::job::{EngineJob, EngineResult, EngineRun};
use super::matrix::Case;
use crate::digest::Digest;
use crate::proof::{Blob, JobLimits, profile};
use crate::sandbox::{Checkpoint, EngineKind, TraceWindow, TracedCall};
use crate::text::explained;

/// Parts of an interval in one round, if the memory is small.
const PARTS: u64 = 64;
/// Maximum bytes hashed in one round: with a large memory, an interval has fewer parts. And the
/// minimum of parts.
const HASHED_BYTES_MAX: u64 = 4 << 30;
const PARTS_MIN: u64 = 4;

/// One of two runs.
#[derive(Clone)]
pub struct DiffSide {
    pub engine: EngineKind,
    /// The metered module.
    pub module: Arc<[u8]>,
}

/// The first difference between two runs.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Interval in gas: the runs were equal at its start, and not equal at its end.
    pub gas: Range<u64>,
    /// The properties that differ: `memory`, `globals`, `host calls`, `the way` (the gas at the
    /// checkpoint, or the number of checkpoints), or the results of the runs.
    pub what: Vec<&'static str>,
    /// The first host call that differs between the runs, if the interval has one.
    pub call: Option<[Option<TracedCall>; 2]>,
    /// The range from the first to the last byte of memory that differs, and the number of bytes
    /// that differ.
    pub memory: Option<(Range<u64>, u64)>,
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("{0}")]
    Run(String),
    #[error("it is no trace: {}", explained(&.0.to_string()))]
    Damaged(#[from] serde_json::Error),
    #[error("it is of another {0}")]
    OtherJob(&'static str),
}

/// The checkpoints of a run, stored to be compared with another run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceFile {
    version: u16,
    pub engine: String,
    profile: Digest,
    module: Digest,
    input: Blob,
    args: Digest,
    assets: Vec<Digest>,
    limits: JobLimits,
    gas: u64,
    end: Option<Digest>,
    kept_every: u64,
    checkpoints: Vec<Checkpoint>,
}

const VERSION: u16 = 2;

/// Runs `case` on one side and returns its checkpoints. `module` is the digest of the guest before
/// metering.
pub fn trace(program: &Path, module: Digest, case: &Case, side: &DiffSide) -> Result<TraceFile, TraceError> {
    let (found, _) = run(program, case, side, TraceWindow::WHOLE)?;
    Ok(TraceFile {
        version: VERSION,
        engine: side.engine.full_name().to_owned(),
        profile: profile().digest(),
        module,
        input: found.input,
        args: Digest::of(&case.args),
        assets: case.assets.iter().map(|asset| Digest::of(asset)).collect(),
        limits: case.limits.into(),
        gas: found.gas,
        end: found.trace,
        kept_every: found.kept_every,
        checkpoints: found.checkpoints,
    })
}

impl TraceFile {
    pub fn from_json(json: &[u8]) -> Result<Self, TraceError> {
        Ok(serde_json::from_slice(json)?)
    }

    pub fn to_json(&self) -> String {
        serde_json::json!(self).to_string()
    }

    pub const fn checkpoints(&self) -> usize {
        self.checkpoints.len()
    }

    /// Finds where the run of this trace and another diverge. The result is an interval between two
    /// checkpoints, because nothing is run again.
    pub fn diff(&self, other: &Self) -> Result<Option<Difference>, TraceError> {
        for (what, same) in [
            ("version", self.version == other.version),
            ("execution profile", self.profile == other.profile),
            ("module", self.module == other.module),
            ("slice", self.input == other.input),
            ("arguments", self.args == other.args),
            ("assets", self.assets == other.assets),
            ("limits", self.limits == other.limits),
        ] {
            if !same {
                return Err(TraceError::OtherJob(what));
            }
        }
        let kept = |trace: &Self| (trace.kept_every, trace.checkpoints.clone());
        let [ours, others] = aligned([kept(self), kept(other)]);
        Ok(match parted([&ours, &others]) {
            None if (self.gas, self.end) == (other.gas, other.end) => None,
            None => {
                let last = self.checkpoints.last().map_or(0, |checkpoint| checkpoint.gas);
                Some(Difference::within(last..self.gas.max(other.gas), vec!["the end"]))
            }
            Some(Divergence { gas, what }) => Some(Difference::within(gas, what)),
        })
    }
}

impl Difference {
    const fn within(gas: Range<u64>, what: Vec<&'static str>) -> Self {
        Self { gas, what, call: None, memory: None }
    }
}

/// Finds where the runs of `case` on two sides diverge; `None` if they do not.
pub fn diff(program: &Path, case: &Case, sides: [&DiffSide; 2]) -> Result<Option<Difference>, TraceError> {
    let both = |window: TraceWindow| -> Result<[DiffRun; 2], TraceError> {
        Ok([run(program, case, sides[0], window)?, run(program, case, sides[1], window)?])
    };
    let [(left, _), (right, _)] = both(TraceWindow::WHOLE)?;
    let ends = super::matrix::differs(&left, &right);
    let memory_bytes = left.memory_bytes.max(right.memory_bytes);
    let parts = (HASHED_BYTES_MAX / memory_bytes.max(1)).clamp(PARTS_MIN, PARTS);
    let kept = |found: &EngineRun| (found.kept_every, found.checkpoints.clone());
    let checkpoints = aligned([kept(&left), kept(&right)]);
    let mut parted = match (parted([&checkpoints[0], &checkpoints[1]]), ends) {
        (Some(parted), _) => parted,
        (None, None) => return Ok(None),
        (None, Some(what)) => {
            let last = checkpoints[0].last().map_or(0, |checkpoint| checkpoint.gas);
            Divergence { gas: last..left.gas.max(right.gas).max(last + 1), what: vec![what] }
        }
    };
    loop {
        let length = parted.gas.end - parted.gas.start;
        let stride = (length / parts).max(1);
        let window = TraceWindow::part(parted.gas.start, parted.gas.end, stride, None);
        let [(left, _), (right, _)] = both(window)?;
        let finer = self::parted([&left.checkpoints, &right.checkpoints]);
        let before = parted.gas.clone();
        match finer {
            Some(finer) => {
                parted.gas = parted.gas.start.max(finer.gas.start)..parted.gas.end.min(finer.gas.end);
                parted.what = finer.what;
            }
            // The runs diverge after the last checkpoint of the window.
            None => {
                let last = left.checkpoints.last().map_or(parted.gas.start, |checkpoint| checkpoint.gas);
                parted.gas.start = last.clamp(parted.gas.start, parted.gas.end);
            }
        }
        if stride == 1 || parted.gas == before {
            break;
        }
    }
    let Range { start, end } = parted.gas;
    let window = TraceWindow::part(start, end.saturating_add(1), 1, Some(end));
    let [(left, left_memory), (right, right_memory)] = both(window)?;
    Ok(Some(Difference {
        call: first_call([&left.calls, &right.calls]),
        memory: left_memory.zip(right_memory).and_then(|(left, right)| differing(&left, &right)),
        ..Difference::within(parted.gas, parted.what)
    }))
}

/// The result of a run, and the memory if it was requested.
type DiffRun = (EngineRun, Option<Vec<u8>>);

fn run(program: &Path, case: &Case, side: &DiffSide, window: TraceWindow) -> Result<DiffRun, TraceError> {
    let order = EngineJob { window: Some(window), tells_trace: true, ..case.order(side.engine, &side.module, 1) };
    match child::run(program, &order).pop() {
        Some((EngineResult::Found(found), memory)) => Ok((*found, memory)),
        Some((EngineResult::Failed { message, .. }, _)) => Err(TraceError::Run(format!("{}: {message}", side.engine))),
        _ => Err(TraceError::Run(format!("{} did not answer", side.engine))),
    }
}

/// Returns the checkpoints that both whole runs have recorded, in order. The longer run may have
/// recorded fewer.
fn aligned(runs: [(u64, Vec<Checkpoint>); 2]) -> [Vec<Checkpoint>; 2] {
    let every = runs.iter().map(|(every, _)| *every).max().unwrap_or(1);
    runs.map(|(kept_every, checkpoints)| {
        let step = every / kept_every.max(1);
        checkpoints.into_iter().step_by(step.max(1) as usize).collect()
    })
}

/// The two checkpoints between which two runs diverge.
struct Divergence {
    gas: Range<u64>,
    what: Vec<&'static str>,
}

fn parted([left, right]: [&[Checkpoint]; 2]) -> Option<Divergence> {
    let unlike = left.iter().zip(right).position(|(left, right)| left != right);
    let at = unlike.or_else(|| (left.len() != right.len()).then(|| left.len().min(right.len())))?;
    let start = at.checked_sub(1).map_or(0, |before| left[before].gas);
    let (one, other) = (left.get(at), right.get(at));
    let end = one.iter().chain(&other).map(|checkpoint| checkpoint.gas).max().unwrap_or(start);
    let what = match (one, other) {
        (Some(one), Some(other)) => [
            ("memory", one.memory == other.memory),
            ("globals", one.globals == other.globals),
            ("host calls", (one.calls, one.calls_digest) == (other.calls, other.calls_digest)),
            ("the way", one.gas == other.gas),
        ]
        .into_iter()
        .filter_map(|(what, same)| (!same).then_some(what))
        .collect(),
        _ => vec!["the way"],
    };
    Some(Divergence { gas: start..end, what })
}

fn first_call([left, right]: [&[TracedCall]; 2]) -> Option<[Option<TracedCall>; 2]> {
    (0..left.len().max(right.len())).find_map(|at| {
        let calls = [left.get(at).cloned(), right.get(at).cloned()];
        (calls[0] != calls[1]).then_some(calls)
    })
}

fn differing(left: &[u8], right: &[u8]) -> Option<(Range<u64>, u64)> {
    let shorter = left.len().min(right.len());
    let unlike = || (0..shorter).filter(|at| left[*at] != right[*at]);
    let rest = (left.len().max(right.len()) - shorter) as u64;
    let first = unlike().next().or((rest > 0).then_some(shorter))?;
    let last = if rest > 0 { shorter + rest as usize - 1 } else { unlike().next_back().unwrap_or(first) };
    Some((first as u64..last as u64 + 1, unlike().count() as u64 + rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(gas: u64, memory: &[u8]) -> Checkpoint {
        let digest = Digest::of(b"");
        Checkpoint { gas, memory: Digest::of(memory), globals: digest, calls: 0, calls_digest: digest }
    }

    #[test]
    fn runs_part_at_the_first_checkpoint_that_is_not_equal() {
        let runs = [[at(5, b"a"), at(9, b"b"), at(12, b"c")], [at(5, b"a"), at(9, b"x"), at(12, b"c")]];
        let found = parted([&runs[0], &runs[1]]).unwrap();
        assert_eq!((found.gas, found.what), (5..9, vec!["memory"]));
        let found = parted([&runs[0], &runs[0][..2]]).unwrap();
        assert_eq!((found.gas, found.what), (9..12, vec!["the way"]));
        assert!(parted([&runs[0], &runs[0]]).is_none());
    }

    /// The trace may come from an untrusted file.
    #[test]
    fn a_run_that_kept_fewer_checkpoints_is_compared_at_those() {
        let run: Vec<Checkpoint> = (0..9).map(|gas| at(gas, b"a")).collect();
        let sparse: Vec<Checkpoint> = run.iter().step_by(4).cloned().collect();
        let [one, other] = aligned([(1, run.clone()), (4, sparse.clone())]);
        assert_eq!((&one, &other), (&sparse, &sparse));
        let [one, other] = aligned([(0, run.clone()), (u64::MAX, Vec::new())]);
        assert_eq!((&*one, &*other), (&run[..1], &[][..]));
    }

    #[test]
    fn the_range_of_memory_goes_from_the_first_to_the_last_byte_that_differs() {
        assert_eq!(differing(b"abcdef", b"aXcdeX"), Some((1..6, 2)));
        assert_eq!(differing(b"abc", b"abcdef"), Some((3..6, 3)));
        assert_eq!(differing(b"abc", b"abc"), None);
    }
}
