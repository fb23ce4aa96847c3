//! Comparison of engines: the results of one module must be the same on every engine.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Once};

use compute_host::digest::{Digest, HashThreads};
use compute_host::limits::{Limits, Usage};
use compute_host::sandbox::{
    Admitted, Checkpoint, EngineKind, Execution, Input, Invocation, Outcome, ReferenceEngine, Refusal, SandboxError,
    TraceWindow, TracedCall, meter,
};
use compute_host::slice::Slice;

use super::scramble::scrambled;
use super::wasmi_faults::avoided;

/// Gas of a run. It is enough for most modules, and is soon spent.
pub const GAS: u64 = 400_000;

/// Most gas for the start of any of these modules.
const START_GAS_MAX: u64 = 24_000;

const LIMITS: Limits = Limits { gas: GAS, memory_bytes: 20 << 16, output_bytes: 8 << 10, log_bytes: 200 };

/// Threshold of the gas that a run uses beside its start. A run that does not end well forfeits a
/// whole grant. The first grants are as small as this, so usage above it is still recognisable.
pub const LITTLE_GAS: u64 = 1_000;

const WINDOW: TraceWindow =
    TraceWindow { from: 0, to: START_GAS_MAX + 6 * LITTLE_GAS, stride: LITTLE_GAS, memory_at: None, is_sparing: true };

/// Length of the input: more than the offsets and lengths in generated modules add up to.
const INPUT_BYTES: usize = 4_096;

/// The engines, and one more on which each NaN that arithmetic makes is replaced by another one
/// before the meter's code sees it.
pub struct Engines(Vec<(&'static str, bool, ReferenceEngine)>);

/// Facts that must be the same on every engine.
#[derive(Debug, PartialEq)]
pub struct Facts {
    pub outcome: Outcome,
    proof: Option<Digest>,
    pub usage: Usage,
    /// Gas that the host charged before the guest ran, as part of the usage.
    pub start_gas: u64,
    output: Vec<u8>,
    log: Vec<u8>,
    checkpoints: Vec<Checkpoint>,
    calls: Vec<TracedCall>,
    memory: Option<Digest>,
}

/// Verdict on a module.
pub enum Verdict {
    Refused(Refusal),
    Agree(Facts),
    /// Only wasmi differs, and it agrees when the code avoids wasmi's known faults.
    WasmiFails(Facts),
    /// Only wasmi differs, and no known fault explains it.
    WasmiDiffers(String),
    Differ(String),
}

impl Engines {
    pub fn new() -> Self {
        let engine = |kind| ReferenceEngine::new(kind).expect("an engine can be made");
        let mut engines: Vec<_> = EngineKind::ALL.into_iter().map(|kind| (kind.name(), false, engine(kind))).collect();
        engines.push(("winch, of bad will", true, engine(EngineKind::Winch)));
        Self(engines)
    }

    /// Runs `wasm` with `gas` on every engine, and compares the results.
    pub fn judge(&self, wasm: &[u8], gas: u64) -> Verdict {
        let admitted = match Admitted::new(wasm) {
            Ok(admitted) => admitted,
            Err(refusal) => return Verdict::Refused(refusal),
        };
        let mut ran = self.run(admitted.wasm(), gas);
        let alike = |ran: &[(&str, Result<Facts, String>)], but: &str| {
            let mut others = ran.iter().filter(|(engine, _)| *engine != but).map(|(_, facts)| facts);
            let first = others.next();
            first.is_some_and(|first| first.is_ok() && others.all(|other| other == first))
        };
        if alike(&ran, "") {
            return ran.swap_remove(0).1.map_or_else(Verdict::Differ, Verdict::Agree);
        }
        let wasmi = EngineKind::Wasmi.name();
        if alike(&ran, wasmi)
            && let Ok(changed) = Admitted::new(avoided(wasm))
        {
            let mut again = self.run(changed.wasm(), gas);
            if alike(&again, "") {
                return again.swap_remove(0).1.map_or_else(Verdict::Differ, Verdict::WasmiFails);
            }
        }
        if alike(&ran, wasmi) { Verdict::WasmiDiffers(difference(&ran)) } else { Verdict::Differ(difference(&ran)) }
    }

    fn run(&self, wasm: &[u8], gas: u64) -> Vec<(&'static str, Result<Facts, String>)> {
        let metered = meter::metered(wasm).unwrap_or_else(|error| panic!("what is admitted can be metered: {error}"));
        let other = scrambled(&metered);
        let run = |(name, is_scrambled, engine): &(&'static str, bool, ReferenceEngine)| {
            let wasm = if *is_scrambled { &other } else { &metered };
            let ran = tried(|| engine.compile(wasm)?.run(work(gas)).map(Facts::of));
            (*name, ran.and_then(|ran: Result<_, SandboxError>| ran.map_err(|error| error.to_string())))
        };
        self.0.iter().map(run).collect()
    }
}

thread_local! {
    static IS_TRYING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which may panic. Returns the panic message as the error, and does not print it.
fn tried<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_TRYING.get() {
                usual(info);
            }
        }));
    });
    IS_TRYING.set(true);
    let tried = panic::catch_unwind(AssertUnwindSafe(work));
    IS_TRYING.set(false);
    let message =
        |panic: Box<dyn Any + Send>| panic.downcast::<&str>().map_or_else(|_| String::new(), |it| it.to_string());
    tried.map_err(|panic| format!("a panic: {}", message(panic)))
}

impl Facts {
    fn of(execution: Execution) -> Self {
        let trace = execution.trace.expect("a trace was asked for");
        Self {
            outcome: execution.outcome,
            proof: execution.proof,
            usage: execution.usage,
            start_gas: trace.host.get("(start)").map_or(0, |(_, gas)| *gas),
            output: execution.output,
            log: execution.log,
            checkpoints: trace.checkpoints,
            calls: trace.calls,
            memory: trace.end,
        }
    }
}

fn work(gas: u64) -> Invocation {
    let bytes: Vec<u8> = (0..INPUT_BYTES).map(|at| (at * at / 7) as u8).collect();
    let input = Slice::from_bytes(bytes.clone()).open(&HashThreads::new(1), &AtomicU64::new(0));
    let input: Box<dyn Input> = Box::new(input.expect("it is in memory"));
    Invocation {
        args: (*b"arguments").into(),
        assets: Arc::new([bytes.into()]),
        trace: Some(WINDOW),
        ..Invocation::new(input, Limits { gas, ..LIMITS })
    }
}

/// Returns, for each engine, those facts in which any engine differs.
fn difference(ran: &[(&str, Result<Facts, String>)]) -> String {
    let shown = |facts: &Result<Facts, String>| match facts {
        Ok(facts) => {
            let Facts { outcome, proof, usage, output, log, checkpoints, calls, memory, start_gas: _ } = facts;
            let output = (output.len(), Digest::of(output), String::from_utf8_lossy(log));
            let calls = (calls.len(), Digest::of(format!("{calls:?}").as_bytes()));
            format!(
                "{outcome:?} {usage:?}\n  proof {proof:?}, memory {memory:?}\n  output {output:?}\n  calls {calls:?}\n  {checkpoints:?}"
            )
        }
        Err(error) => error.clone(),
    };
    ran.iter().map(|(engine, facts)| format!("{engine}: {}\n", shown(facts))).collect()
}
