//! A process for one engine and one job: it reads its order, opens its slice, gives up everything else, and only then
//! compiles and runs what a stranger wrote.

use std::io::{self, BufReader, BufWriter, Read as _};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::order::{Answer, Found, Order, Source};
use crate::digest::HashThreads;
use crate::limits::Limits;
use crate::proof::Blob;
use crate::sandbox::{Bounds, Input as _, Purpose, Reference, SandboxError, Watch, Work, confine, with_guest_stack};
use crate::slice::{OpenSlice, Slice};

/// The hidden subcommand that is such a process.
pub const COMMAND: &str = "run-on-one-engine";

/// Address space beside the guest's memory: an engine reserves some 8 GiB for it, an interpreter moves it to grow it.
const MEMORY_BYTES: u64 = 12 << 30;

/// The slowest engine spends this much gas in a second, at least; and compiling takes its time. A unit that takes a whole
/// microsecond is far beyond what was measured, for a true proof must not be unverifiable by this.
const GAS_A_SECOND: u64 = 1_000_000;
const CPU_SECONDS: u64 = 300;

/// What is shown of a dying child's last words.
const LAST_WORDS_BYTES: u64 = 2048;

/// Has `order` run in a child, which is `program` (this very `node`) started anew; what came of each run, and the memory
/// that was asked for.
pub fn run(program: &Path, order: &Order) -> Vec<(Answer, Option<Vec<u8>>)> {
    let failed = |message: String| vec![(Answer::Failed { code: "engine_failed".to_owned(), message }, None)];
    let spawned = Command::new(program)
        .arg(COMMAND)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return failed(format!("cannot start a process for {}: {error}", order.engine)),
    };
    let (input, output, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut answers = Vec::new();
    let told = std::thread::scope(|scope| {
        let asking = scope.spawn(|| input.map_or(Ok(()), |input| order.write(&mut BufWriter::new(input))));
        let told = listen(output, order.runs, &mut answers);
        if told.is_err() {
            // It may wait for us, as we for it to take its order.
            let _ = child.kill();
        }
        told.and(asking.join().unwrap_or(Ok(())))
    });
    let mut words = String::new();
    if told.is_err() {
        let _ = stderr.map(|stderr| stderr.take(LAST_WORDS_BYTES).read_to_string(&mut words));
    }
    let status = child.wait();
    match (told, status) {
        (Ok(()), _) => answers,
        (Err(error), Ok(status)) => failed(format!("{} broke off: {error} ({status}) {}", order.engine, words.trim())),
        (Err(error), Err(_)) => failed(format!("{} broke off: {error}", order.engine)),
    }
}

fn listen(output: Option<ChildStdout>, runs: u32, answers: &mut Vec<(Answer, Option<Vec<u8>>)>) -> io::Result<()> {
    let mut output = BufReader::new(output.ok_or(io::ErrorKind::NotConnected)?);
    for _ in 0..runs {
        answers.push(Answer::read(&mut output)?);
    }
    Ok(())
}

/// Does what the order on standard input says, and is of no use afterwards.
pub fn serve_one_order() -> io::Result<()> {
    let order = Order::read(&mut io::stdin().lock())?;
    let slice = match &order.slice {
        Source::File(path) => Slice::from_file(path, u64::MAX),
        Source::Bytes(bytes) => Ok(Slice::from_bytes(bytes.clone())),
    };
    let open = |slice: &Slice| slice.open(&HashThreads::new(1), &AtomicU64::new(0));
    // One handle a run, because nothing can be opened later.
    let slices = slice.and_then(|slice| (0..order.runs).map(|_| open(&slice)).collect::<Result<Vec<_>, _>>());
    let slices = slices.map_err(io::Error::other)?;
    let gas_seconds = u64::from(order.runs).saturating_mul(order.gas_max() / GAS_A_SECOND);
    let bounds = Bounds {
        cpu_seconds: CPU_SECONDS.saturating_add(gas_seconds),
        memory_bytes: MEMORY_BYTES
            .saturating_add(2 * order.limits.memory_bytes.min(Limits::MEMORY_BYTES_MAX))
            .saturating_add(order.output_bytes_max().saturating_mul(2)),
    };
    with_guest_stack(|| {
        confine(bounds, Purpose::Run)?;
        run_all(&order, slices)
    })?
}

fn run_all(order: &Order, slices: Vec<OpenSlice>) -> io::Result<()> {
    let mut to = BufWriter::new(io::stdout().lock());
    let reference = Reference::new(order.engine, &order.module);
    for slice in slices {
        let input = Blob { blake3: slice.digest(), bytes: slice.len() };
        if order.claimed.is_some_and(|(claimed, _)| claimed != input) {
            Answer::OtherSlice(input).write(None, &mut to)?;
            continue;
        }
        let ran = match &reference {
            Ok(reference) => run_once(order, reference, input, slice),
            Err(error) => Err(failed(error)),
        };
        match ran {
            Ok((found, memory)) => Answer::Found(Box::new(found)).write(memory.as_deref(), &mut to)?,
            Err(answer) => answer.write(None, &mut to)?,
        }
    }
    Ok(())
}

fn failed(error: &SandboxError) -> Answer {
    match error {
        SandboxError::BeyondClaim(beyond) => Answer::Beyond(*beyond),
        error => Answer::Failed { code: error.code().to_owned(), message: error.to_string() },
    }
}

fn run_once(
    order: &Order,
    reference: &Reference,
    input: Blob,
    slice: OpenSlice,
) -> Result<(Found, Option<Vec<u8>>), Answer> {
    let clock = Instant::now();
    let work = Work {
        args: order.args.clone(),
        assets: order.assets.iter().cloned().collect(),
        watch: Watch {
            deadline: order.timeout_ms.map(|timeout| clock + Duration::from_millis(timeout)),
            claimed: order.claimed.map(|(_, claimed)| claimed),
            ..Watch::default()
        },
        trace: order.window,
        ..Work::new(Box::new(slice), order.limits)
    };
    let execution = reference.run(work).map_err(|error| failed(&error))?;
    let duration_us = u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Found::new(input, execution, duration_us, order.tells_trace))
}
