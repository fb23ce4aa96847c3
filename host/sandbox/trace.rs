//! Checkpoints: what a run looked like each time that it was out of gas. Every engine comes to these at the same
//! instruction, so two runs that end differently can be told where they parted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::meter::QUANTUM;
use crate::digest::{Digest, Hasher};

/// Checkpoints that one run keeps; those after are not taken.
pub const CHECKPOINTS_MAX: usize = 1 << 20;

/// Host calls that one run keeps by name; those after only count.
pub const CALLS_MAX: usize = 1 << 12;

/// Where checkpoints are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// In gas that the run was granted: before `from` and from `to` on, no checkpoint is taken.
    pub from: u64,
    pub to: u64,
    /// How much gas is granted at once within.
    pub stride: u64,
    /// Keep the memory as it is at the first checkpoint that has used this much gas.
    pub memory_at: Option<u64>,
}

impl Window {
    /// The checkpoints that every run has.
    pub const WHOLE: Self = Self { from: 0, to: u64::MAX, stride: QUANTUM, memory_at: None };
    /// No checkpoint; only what is counted.
    pub const NONE: Self = Self { from: u64::MAX, to: u64::MAX, stride: QUANTUM, memory_at: None };

    /// How much is granted at once to a run that was granted this much.
    pub fn quantum(&self, granted: u64) -> u64 {
        match granted {
            granted if granted < self.from => (self.from - granted).min(QUANTUM),
            granted if granted < self.to => self.stride.max(1),
            _ => QUANTUM,
        }
    }
}

/// A run at one refill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Used so far.
    pub gas: u64,
    pub memory: Digest,
    /// The mutable globals that hold numbers, in their order.
    pub globals: Digest,
    /// Host calls so far, and the digest of their names, arguments and answers.
    pub calls: u64,
    pub calls_digest: Digest,
}

/// One host call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    pub name: String,
    pub arguments: Vec<u64>,
    pub answer: Option<u64>,
}

/// What a traced run leaves.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub checkpoints: Vec<Checkpoint>,
    /// Those between the window's ends.
    pub calls: Vec<Call>,
    pub memory: Option<Vec<u8>>,
    /// The memory as the run left it.
    pub end: Option<Digest>,
    /// How often each host call came, and how much gas they took together.
    pub host: BTreeMap<String, (u64, u64)>,
    /// What a module that counts for a profile has counted.
    pub counters: Vec<u64>,
}

impl Trace {
    /// Of all checkpoints, and of the memory that the run left.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::default();
        for checkpoint in &self.checkpoints {
            hasher.update(&checkpoint.gas.to_le_bytes());
            hasher.update(checkpoint.memory.as_bytes());
            hasher.update(checkpoint.globals.as_bytes());
            hasher.update(checkpoint.calls_digest.as_bytes());
        }
        hasher.update(self.end.map(|end| *end.as_bytes()).unwrap_or_default().as_slice());
        hasher.finish()
    }
}

/// Takes a run's trace while it runs.
pub struct Tracer {
    window: Window,
    trace: Trace,
    calls: u64,
    calls_digest: Digest,
}

impl Tracer {
    pub fn new(window: Window) -> Self {
        Self { window, trace: Trace::default(), calls: 0, calls_digest: Digest::of(b"") }
    }

    /// Notes a host call that took `gas`, of a run that was granted so much.
    pub fn call(&mut self, (granted, gas): (u64, u64), name: &str, arguments: &[u64], answer: Option<u64>) {
        match self.trace.host.get_mut(name) {
            Some((calls, sum)) => (*calls, *sum) = (*calls + 1, *sum + gas),
            None => drop(self.trace.host.insert(name.to_owned(), (1, gas))),
        }
        let mut hasher = Hasher::default();
        hasher.update(self.calls_digest.as_bytes());
        hasher.update(name.as_bytes());
        for number in arguments.iter().chain(&answer) {
            hasher.update(&number.to_le_bytes());
        }
        self.calls_digest = hasher.finish();
        self.calls += 1;
        if self.takes(granted) && self.trace.calls.len() < CALLS_MAX {
            self.trace.calls.push(Call { name: name.to_owned(), arguments: arguments.to_vec(), answer });
        }
    }

    /// Whether a run that was granted so much is at a checkpoint.
    pub fn takes(&self, granted: u64) -> bool {
        (self.window.from..self.window.to).contains(&granted) && self.trace.checkpoints.len() < CHECKPOINTS_MAX
    }

    pub fn checkpoint(&mut self, gas: u64, memory: &[u8], globals: &[u8]) {
        let checkpoint = Checkpoint {
            gas,
            memory: Digest::of(memory),
            globals: Digest::of(globals),
            calls: self.calls,
            calls_digest: self.calls_digest,
        };
        if self.trace.memory.is_none() && self.window.memory_at.is_some_and(|at| gas >= at) {
            self.trace.memory = Some(memory.to_vec());
        }
        self.trace.checkpoints.push(checkpoint);
    }

    /// The run has ended, and left this memory.
    pub fn end(&mut self, memory: &[u8], counters: Vec<u64>) {
        self.trace.end = Some(Digest::of(memory));
        self.trace.counters = counters;
    }

    pub fn finish(self) -> Trace {
        self.trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_lead_up_to_the_window_and_are_fine_within() {
        let window = Window { from: QUANTUM + 10, to: QUANTUM + 30, stride: 7, memory_at: None };
        let quanta = [0, QUANTUM, QUANTUM + 10, QUANTUM + 29, QUANTUM + 30].map(|granted| window.quantum(granted));
        assert_eq!(quanta, [QUANTUM, 10, 7, 7, QUANTUM]);
    }

    #[test]
    fn each_part_of_a_call_is_in_the_digest() {
        let digest = |name: &str, arguments: &[u64], answer| {
            let mut tracer = Tracer::new(Window::WHOLE);
            tracer.call((0, 0), name, arguments, answer);
            tracer.calls_digest
        };
        let it = digest("a", &[1, 2], Some(3));
        for other in [digest("b", &[1, 2], Some(3)), digest("a", &[1, 9], Some(3)), digest("a", &[1, 2], Some(4))] {
            assert_ne!(it, other);
        }
    }
}
