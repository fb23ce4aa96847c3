//! Checkpoints: the state of a run at each refill. Every engine reaches a refill at the same
//! instruction. So the trace shows where two runs that end differently began to differ.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::meter::QUANTUM;
use crate::digest::{Digest, Hasher};

/// Maximum checkpoints recorded for one run. When a run has more, it drops every second one, and
/// takes only every second one from then on. So a trace is at most about 2 MiB of JSON, however
/// long the run was.
pub const CHECKPOINTS_MAX: usize = 1 << 12;

/// Host calls recorded one by one for one run. Later calls are only counted.
pub const CALLS_MAX: usize = 1 << 12;

/// Memory bytes that the checkpoints of a run may hash without paying gas.
const FREE_HASHED_BYTES: u64 = 64 << 20;

/// Gas that the run must have been granted for each further hashed byte. BLAKE3 hashes a byte in
/// less than the time of one unit of gas. So checkpoints take less than a quarter of the run's own
/// time.
const GAS_A_HASHED_BYTE: u64 = 4;

/// Name in the trace's table of host calls for the host's work before the guest's first function.
pub const START: &str = "(start)";

/// The window in which checkpoints are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceWindow {
    /// Bounds in granted gas: no checkpoint is taken before `from`, or from `to` on.
    pub from: u64,
    pub to: u64,
    /// Gas per grant within the window.
    pub stride: u64,
    /// Keeps a copy of the memory at the first checkpoint that has used at least this much gas.
    pub memory_at: Option<u64>,
    /// Whether a checkpoint waits until the run's gas pays for hashing its memory.
    pub is_sparing: bool,
}

impl TraceWindow {
    /// Checkpoints over the whole run, as far as its gas pays for them.
    pub const WHOLE: Self = Self { from: 0, to: u64::MAX, stride: QUANTUM, memory_at: None, is_sparing: true };
    /// No checkpoints; only counts and digests.
    pub const NONE: Self = Self { from: u64::MAX, to: u64::MAX, stride: QUANTUM, memory_at: None, is_sparing: false };

    /// Returns a window over a part of a run, with a checkpoint at each grant of `stride`.
    pub const fn part(from: u64, to: u64, stride: u64, memory_at: Option<u64>) -> Self {
        Self { from, to, stride, memory_at, is_sparing: false }
    }

    /// Returns the size of the next grant for a run that has been granted `granted`.
    pub fn quantum(&self, granted: u64) -> u64 {
        match granted {
            granted if granted < self.from => (self.from - granted).min(QUANTUM),
            granted if granted < self.to => self.stride.max(1),
            _ => QUANTUM,
        }
    }
}

/// The state of a run at one refill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Gas used so far.
    pub gas: u64,
    pub memory: Digest,
    /// Digest of the mutable numeric globals, in order.
    pub globals: Digest,
    /// Number of host calls so far. `calls_digest` covers their names, arguments and results.
    pub calls: u64,
    pub calls_digest: Digest,
}

/// One host call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracedCall {
    pub name: String,
    pub arguments: Vec<u64>,
    pub answer: Option<u64>,
}

/// The trace of a finished run.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub checkpoints: Vec<Checkpoint>,
    /// One checkpoint is recorded out of this many: a power of two.
    pub kept_every: u64,
    /// Digest of all checkpoints, including dropped ones, of all host calls, and of the final
    /// memory.
    pub digest: Option<Digest>,
    /// Host calls inside the window.
    pub calls: Vec<TracedCall>,
    pub memory: Option<Vec<u8>>,
    /// Digest of the final memory, if the whole run is traced and its gas pays for the hash.
    pub end: Option<Digest>,
    /// For each host call, how often it was called and its total gas.
    pub host: BTreeMap<String, (u64, u64)>,
    /// Counters of a module that was compiled for a profile.
    pub counters: Vec<u64>,
}

/// Records the trace of a run while it runs.
pub struct Tracer {
    window: TraceWindow,
    trace: Trace,
    /// Over all checkpoints.
    digest: Hasher,
    calls: u64,
    /// Over all host calls.
    calls_digest: Hasher,
    /// Refills at which a checkpoint could have been taken.
    refills: u64,
    hashed_bytes: u64,
}

impl Tracer {
    pub fn new(window: TraceWindow) -> Self {
        Self {
            window,
            trace: Trace { kept_every: 1, ..Trace::default() },
            digest: Hasher::default(),
            calls: 0,
            calls_digest: Hasher::default(),
            refills: 0,
            hashed_bytes: 0,
        }
    }

    /// Records that the start of the run took `gas`.
    pub fn start(&mut self, gas: u64) {
        self.trace.host.insert(START.to_owned(), (1, gas));
    }

    /// Records a host call that took `gas`, in a run that has been granted `granted`.
    pub fn call(&mut self, (granted, gas): (u64, u64), name: &str, arguments: &[u64], answer: Option<u64>) {
        match self.trace.host.get_mut(name) {
            Some((calls, sum)) => (*calls, *sum) = (*calls + 1, *sum + gas),
            None => drop(self.trace.host.insert(name.to_owned(), (1, gas))),
        }
        let counts = [name.len() as u8, arguments.len() as u8, u8::from(answer.is_some())];
        self.calls_digest.update(&counts);
        self.calls_digest.update(name.as_bytes());
        for number in arguments.iter().chain(&answer) {
            self.calls_digest.update(&number.to_le_bytes());
        }
        self.calls += 1;
        if (self.window.from..self.window.to).contains(&granted) && self.trace.calls.len() < CALLS_MAX {
            self.trace.calls.push(TracedCall { name: name.to_owned(), arguments: arguments.to_vec(), answer });
        }
    }

    /// Returns whether a checkpoint is due at this refill of a run that has been granted `granted`.
    pub fn is_due(&mut self, granted: u64, memory_bytes: usize) -> bool {
        let is_within = (self.window.from..self.window.to).contains(&granted);
        if !is_within || !self.is_paid_for(granted, memory_bytes) {
            return false;
        }
        let refill = self.refills;
        self.refills += 1;
        if self.trace.checkpoints.len() == CHECKPOINTS_MAX {
            if !self.window.is_sparing {
                return false;
            }
            let mut index = 0;
            self.trace.checkpoints.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.trace.kept_every *= 2;
        }
        refill.is_multiple_of(self.trace.kept_every)
    }

    /// Returns whether the run's gas so far pays for hashing the memory.
    fn is_paid_for(&self, granted: u64, memory_bytes: usize) -> bool {
        let hashed_bytes = self.hashed_bytes.saturating_add(memory_bytes as u64);
        !self.window.is_sparing || hashed_bytes <= FREE_HASHED_BYTES.saturating_add(granted / GAS_A_HASHED_BYTE)
    }

    pub fn checkpoint(&mut self, gas: u64, memory: &[u8], globals: &[u8]) {
        let checkpoint = Checkpoint {
            gas,
            memory: self.hash(memory),
            globals: Digest::of(globals),
            calls: self.calls,
            calls_digest: self.calls_digest.finish(),
        };
        if self.trace.memory.is_none() && self.window.memory_at.is_some_and(|at| gas >= at) {
            self.trace.memory = Some(memory.to_vec());
        }
        self.digest.update(&checkpoint.gas.to_le_bytes());
        for digest in [checkpoint.memory, checkpoint.globals, checkpoint.calls_digest] {
            self.digest.update(digest.as_bytes());
        }
        self.trace.checkpoints.push(checkpoint);
    }

    fn hash(&mut self, memory: &[u8]) -> Digest {
        self.hashed_bytes += memory.len() as u64;
        Digest::of(memory)
    }

    /// Records the final memory and counters of a run that has been granted `granted`.
    pub fn end(&mut self, granted: u64, memory: &[u8], counters: Vec<u64>) {
        if self.window.is_sparing && self.is_paid_for(granted, memory.len()) {
            self.trace.end = Some(self.hash(memory));
        }
        self.trace.counters = counters;
    }

    pub fn finish(mut self) -> Trace {
        self.digest.update(self.calls_digest.finish().as_bytes());
        self.digest.update(self.trace.end.as_ref().map_or(&[0; 32], |end| end.as_bytes()));
        self.trace.digest = Some(self.digest.finish());
        self.trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_lead_up_to_the_window_and_are_fine_within() {
        let window = TraceWindow::part(QUANTUM + 10, QUANTUM + 30, 7, None);
        let quanta = [0, QUANTUM, QUANTUM + 10, QUANTUM + 29, QUANTUM + 30].map(|granted| window.quantum(granted));
        assert_eq!(quanta, [QUANTUM, 10, 7, 7, QUANTUM]);
    }

    #[test]
    fn each_part_of_a_call_is_in_the_digest() {
        let digest = |name: &str, arguments: &[u64], answer| {
            let mut tracer = Tracer::new(TraceWindow::WHOLE);
            tracer.call((0, 0), name, arguments, answer);
            tracer.calls_digest.finish()
        };
        let it = digest("a", &[1, 2], Some(3));
        for other in [
            digest("b", &[1, 2], Some(3)),
            digest("a", &[1, 9], Some(3)),
            digest("a", &[1, 2], Some(4)),
            digest("a", &[1, 2, 3], None),
        ] {
            assert_ne!(it, other);
        }
    }

    /// Simulates `refills` of a whole run, with a checkpoint wherever one is due.
    fn traced(refills: u64, memory: &[u8]) -> Tracer {
        let mut tracer = Tracer::new(TraceWindow::WHOLE);
        for refill in 0..refills {
            let gas = refill * QUANTUM;
            if tracer.is_due(gas, memory.len()) {
                tracer.checkpoint(gas, memory, &[]);
            }
        }
        tracer.end(refills * QUANTUM, memory, Vec::new());
        tracer
    }

    /// Holds for any memory size: here one mebibyte for each of `units`.
    #[test]
    fn the_gas_of_a_run_pays_for_what_its_checkpoints_hash() {
        for (units, refills) in [(1, 300), (16, 300), (63, 500), (65, 1), (65, 600)] {
            let memory = vec![7; units << 20];
            let tracer = traced(refills, &memory);
            let most = FREE_HASHED_BYTES + refills * QUANTUM / GAS_A_HASHED_BYTE;
            assert!(tracer.hashed_bytes <= most, "{units} MiB, {refills} refills: {}", tracer.hashed_bytes);
            let is_spent = tracer.hashed_bytes + 2 * memory.len() as u64 > most.min(refills * memory.len() as u64);
            assert!(is_spent, "{units} MiB, {refills} refills: it hashes as much as it may");
        }
    }

    #[test]
    fn a_trace_is_short_however_long_its_run_was() {
        let refills = 9 * CHECKPOINTS_MAX as u64;
        let trace = traced(refills, &[]).finish();
        assert!(trace.checkpoints.len() <= CHECKPOINTS_MAX && trace.kept_every == 16, "{}", trace.kept_every);
        let expected = (0..refills).step_by(16).map(|refill| refill * QUANTUM);
        assert!(trace.checkpoints.iter().map(|checkpoint| checkpoint.gas).eq(expected), "each sixteenth is kept");
    }
}
