//! Child process of the verifier, for one engine and one job. The child reads its order, opens its
//! slice and confines itself. Only then does it compile and run the untrusted module.

use std::io::{self, BufReader, BufWriter};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout};
use std::sync::atomic::AtomicU64;
use std::thread::Builder;
use std::time::{Duration, Instant};

use super::job::{EngineJob, EngineResult, EngineRun, SliceSource};
use crate::digest::HashThreads;
use crate::limits::Limits;
use crate::proof::Blob;
use crate::sandbox::{
    Bounds, Input as _, Invocation, ProcessEnd, ProcessPurpose, Reference, RunControl, SandboxError, deny_access,
    enter, start, watched, with_guest_stack,
};
use crate::slice::{OpenSlice, Slice};

/// Hidden subcommand that runs the child.
pub const COMMAND: &str = "run-on-one-engine";

/// Address space in addition to the guest's memory. An engine reserves about 8 GiB for that memory;
/// an interpreter moves the memory to grow it.
const MEMORY_BYTES: u64 = 12 << 30;

/// Minimum gas per second of the slowest engine. The base time covers compilation. One microsecond
/// per unit is far slower than anything measured, so that this bound cannot make a true proof
/// unverifiable.
const GAS_A_SECOND: u64 = 1_000_000;
const CPU_SECONDS: u64 = 300;

/// Deadline in multiples of the CPU bound. On a busy machine, one second of CPU takes longer than a
/// second.
const DEADLINE_FACTOR: u64 = 4;

/// Runs `order` in a child process of `program`, which must be the same binary as this `node`.
/// Returns the answer of each run, with the memory if it was requested.
pub fn run(program: &Path, order: &EngineJob) -> Vec<(EngineResult, Option<Vec<u8>>)> {
    let failed = |message: String| vec![(EngineResult::Failed { code: "engine_failed".to_owned(), message }, None)];
    let mut order = order.clone();
    if let SliceSource::File(path) = &mut order.slice
        && let Ok(absolute) = std::path::absolute(&*path)
    {
        // The child starts in the root directory.
        *path = absolute;
    }
    let child = match start(program, &[COMMAND]) {
        Ok(child) => child,
        Err(error) => return failed(format!("cannot start a process for {}, {error}", order.engine)),
    };
    let mut answers = Vec::new();
    let deadline = Duration::from_secs(bounds(&order).cpu_seconds.saturating_mul(DEADLINE_FACTOR));
    let talk = |input: ChildStdin, output| {
        std::thread::scope(|scope| {
            let asking = Builder::new().spawn_scoped(scope, || order.write(&mut BufWriter::new(input)))?;
            // The child's answer is more useful than the error of writing to it. If the answer is
            // invalid, its pipe is closed. So a child that keeps answering without reading its
            // order ends, and the writer thread ends too.
            let told = listen(output, order.runs, &mut answers);
            told.and(asking.join().unwrap_or(Ok(())))
        })
    };
    match watched(child, deadline, talk) {
        Ok((Ok(()), _)) => answers,
        Ok((Err(_), ProcessEnd { is_late: true, .. })) => {
            failed(format!("{} took more than {} s", order.engine, deadline.as_secs()))
        }
        Ok((Err(error), ProcessEnd { status, words, .. })) => {
            failed(format!("{} broke off: {error} ({status}){words}", order.engine))
        }
        Err(error) => failed(format!("cannot watch {}: {error}", order.engine)),
    }
}

fn listen(output: ChildStdout, runs: u32, answers: &mut Vec<(EngineResult, Option<Vec<u8>>)>) -> io::Result<()> {
    let mut output = BufReader::new(output);
    for _ in 0..runs {
        answers.push(EngineResult::read(&mut output)?);
    }
    Ok(())
}

/// Computes the resource bounds of a child for `order`.
fn bounds(order: &EngineJob) -> Bounds {
    let gas_seconds = u64::from(order.runs).saturating_mul(order.gas_max() / GAS_A_SECOND);
    Bounds {
        cpu_seconds: CPU_SECONDS.saturating_add(gas_seconds),
        memory_bytes: MEMORY_BYTES
            .saturating_add(2 * order.limits.memory_bytes.min(Limits::MEMORY_BYTES_MAX))
            .saturating_add(order.output_bytes_max().saturating_mul(2)),
    }
}

/// Executes the order from standard input. The process is unusable afterwards.
pub fn serve_one_order() -> io::Result<()> {
    enter()?;
    let order = EngineJob::read(&mut io::stdin().lock())?;
    let slice = match &order.slice {
        SliceSource::File(path) => Slice::from_file(path, u64::MAX),
        SliceSource::Bytes(bytes) => Ok(Slice::from_bytes(bytes.clone())),
    };
    let open = |slice: &Slice| slice.open(&HashThreads::new(1), &AtomicU64::new(0));
    // Open one handle for each run, because nothing can be opened after confinement.
    let slices = slice.and_then(|slice| (0..order.runs).map(|_| open(&slice)).collect::<Result<Vec<_>, _>>());
    let slices = slices.map_err(io::Error::other)?;
    // There is still only one thread. Threads that it starts for guests inherit the same denial.
    let denied = deny_access(bounds(&order))?;
    with_guest_stack(|| {
        denied.confine(ProcessPurpose::Run)?;
        run_all(&order, slices)
    })?
}

fn run_all(order: &EngineJob, slices: Vec<OpenSlice>) -> io::Result<()> {
    let mut to = BufWriter::new(io::stdout().lock());
    let reference = Reference::new(order.engine, &order.module);
    for slice in slices {
        let input = Blob { blake3: slice.digest(), bytes: slice.len() };
        if order.claimed.is_some_and(|(claimed, _)| claimed != input) {
            EngineResult::OtherSlice(input).write(None, &mut to)?;
            continue;
        }
        let ran = match &reference {
            Ok(reference) => run_once(order, reference, input, slice),
            Err(error) => Err(failed(error)),
        };
        match ran {
            Ok((found, memory)) => EngineResult::Found(Box::new(found)).write(memory.as_deref(), &mut to)?,
            Err(answer) => answer.write(None, &mut to)?,
        }
    }
    Ok(())
}

fn failed(error: &SandboxError) -> EngineResult {
    match error {
        SandboxError::BeyondClaim(beyond) => EngineResult::Beyond(*beyond),
        error => EngineResult::Failed { code: error.code().to_owned(), message: error.to_string() },
    }
}

fn run_once(
    order: &EngineJob,
    reference: &Reference,
    input: Blob,
    slice: OpenSlice,
) -> Result<(EngineRun, Option<Vec<u8>>), EngineResult> {
    let clock = Instant::now();
    let work = Invocation {
        args: order.args.clone(),
        assets: order.assets.iter().cloned().collect(),
        watch: RunControl {
            deadline: order.timeout_ms.map(|timeout| clock + Duration::from_millis(timeout)),
            claimed: order.claimed.map(|(_, claimed)| claimed),
            ..RunControl::default()
        },
        trace: order.window,
        ..Invocation::new(Box::new(slice), order.limits)
    };
    let execution = reference.run(work).map_err(|error| failed(&error))?;
    let duration_us = u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(EngineRun::new(input, execution, duration_us, order.tells_trace))
}
