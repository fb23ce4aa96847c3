//! `node compute run`.

use std::io::{self, IsTerminal as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{Stream, StreamExt as _, stream};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval_at};

use super::{End, RunArgs, complain, files, is_broken_pipe, module, print};
use crate::limits::Limits;
use crate::node::Node;
use crate::runner::{ASSETS_BYTES_MAX, Answer, Request, Reuse, RunError, WorkloadRunner};
use crate::slice::Slice;
use crate::workload::{Asset, REFERENCE_NAMES, Workload};

/// Slices that are under way or wait for the ones before them to be printed: enough for the proofs of many small ones
/// to share a write to disk, and a handle each.
const AHEAD: usize = 256;

/// Threads for finished proofs on their way to the disk.
const WRITERS: usize = 64;

/// What takes longer than this shows a progress bar.
const PROGRESS_AFTER: Duration = Duration::from_millis(500);
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// How long an interrupted run may take to say how far it came.
const LEAVE_AFTER: Duration = Duration::from_secs(1);

pub fn run(args: RunArgs, data_dir: &Path) -> anyhow::Result<End> {
    let files = files::expand(&args.paths)?;
    if args.id.is_some() && files.len() != 1 {
        anyhow::bail!("--id names one slice, but {} are given", files.len());
    }
    if let Some(out) = &args.out {
        files::check_distinct(&files)?;
        std::fs::create_dir_all(out).with_context(|| format!("cannot make the directory `{}`", out.display()))?;
    }
    let jobs = args.jobs.map(|jobs| jobs as usize);
    let node = super::open_node(data_dir, jobs)?;
    let job = Job::read(&args, &node)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(WRITERS)
        .enable_all()
        .build()
        .context("cannot start the threads that run slices")?;
    runtime.spawn(leave_if_nobody_reads());
    let end = runtime.block_on(run_all(&args, files, &node, &job));
    // A guest that still runs after an interruption ends by itself, and is not waited for; finished proofs are on disk.
    runtime.shutdown_background();
    end
}

/// Writing a line waits for whoever reads it, and then a signal is not heard there.
async fn leave_if_nobody_reads() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tokio::time::sleep(LEAVE_AFTER).await;
    std::process::exit(End::Interrupted as i32);
}

/// A slice that was asked for, and what became of it.
struct Done {
    file: PathBuf,
    result: Result<Answer, Failure>,
}

/// Why a slice has no answer: a stable code for programs, and a sentence.
struct Failure {
    code: &'static str,
    message: String,
}

impl Failure {
    fn of(file: &Path, error: &RunError) -> Self {
        let message = match error {
            RunError::Sandbox(_) => format!("`{}`: {error}", file.display()),
            _ => error.to_string(),
        };
        Self { code: error.code(), message }
    }
}

/// What is the same for all slices of a command.
struct Job {
    /// `None` where each file's name tells.
    workload: Option<Workload>,
    args: Arc<[u8]>,
    assets: Vec<Asset>,
    limits: Limits,
    timeout: Option<Duration>,
}

impl Job {
    fn read(args: &RunArgs, node: &Node) -> anyhow::Result<Self> {
        let workload = match (&args.module, &args.workload) {
            (Some(module), _) => Some(module::find(module, node)?),
            (None, Some(name)) => Workload::named(name),
            (None, None) => None,
        };
        let assets = args.assets.iter().map(|(name, file)| {
            let bytes = files::read_up_to(file, ASSETS_BYTES_MAX);
            bytes.map(Asset::new).with_context(|| format!("cannot read asset `{name}`, `{}`", file.display()))
        });
        let mut limits = node.config.limits;
        limits.gas = args.gas.unwrap_or(limits.gas);
        limits.memory_bytes = args.memory.unwrap_or(limits.memory_bytes);
        let words: Vec<&[u8]> = args.args.iter().map(|word| word.as_bytes()).collect();
        let assets = assets.collect::<Result<_, _>>()?;
        let timeout = args.timeout.or(node.config.compute.timeout_ms.map(Duration::from_millis));
        Ok(Self { workload, args: words.join(&0).into(), assets, limits, timeout })
    }
}

async fn run_all(args: &RunArgs, files: Vec<PathBuf>, node: &Node, job: &Job) -> anyhow::Result<End> {
    let total = files.len();
    let slices: Vec<(PathBuf, Result<Request, Failure>)> = files
        .into_iter()
        .map(|file| {
            let request = request(args, &file, node, job);
            (file, request)
        })
        .collect();
    let bytes = slices.iter().filter_map(|(_, request)| Some(request.as_ref().ok()?.slice.bytes())).sum();
    let results = stream::iter(slices)
        .map(|(file, request)| async {
            let ran = match request {
                Ok(request) if args.out.is_some() => Ok(node.runner.run_for_output(request).await),
                Ok(request) => Ok(node.runner.run(request).await),
                Err(failure) => Err(failure),
            };
            let result = ran.and_then(|ran| ran.map_err(|error| Failure::of(&file, &error)));
            Done { file, result }
        })
        .buffered(AHEAD);
    let report = Report { args, end: End::Done, finished: 0, total, bar: ProgressBar::hidden() };
    report.follow(results, &node.runner, bytes).await
}

fn request(args: &RunArgs, file: &Path, node: &Node, job: &Job) -> Result<Request, Failure> {
    let slice = Slice::from_file(file, node.config.compute.slice_bytes_max);
    let slice = slice.map_err(|error| Failure::of(file, &error.into()))?;
    let workload = job.workload.clone().or_else(|| Workload::of_file(file));
    let workload = workload.ok_or_else(|| Failure {
        code: "unknown_workload",
        message: format!(
            "cannot tell the workload of `{}` from its name; say --workload {}, or give a --module",
            file.display(),
            REFERENCE_NAMES.join(" or --workload ")
        ),
    })?;
    Ok(Request {
        id: args.id.clone(),
        args: job.args.clone(),
        assets: job.assets.clone(),
        limits: job.limits,
        reuse: if args.no_cache { Reuse::Never } else { Reuse::Allowed },
        timeout: job.timeout,
        ..Request::new(workload, slice)
    })
}

/// Tells the user of each slice, in the order in which they were named.
struct Report<'a> {
    args: &'a RunArgs,
    end: End,
    finished: usize,
    total: usize,
    bar: ProgressBar,
}

impl Report<'_> {
    async fn follow(
        mut self,
        results: impl Stream<Item = Done>,
        runner: &WorkloadRunner,
        bytes: u64,
    ) -> anyhow::Result<End> {
        let mut results = pin!(results);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut ticks = interval_at(tokio::time::Instant::now() + PROGRESS_AFTER, PROGRESS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = interrupt.recv() => return Ok(self.interrupted()),
                _ = terminate.recv() => return Ok(self.interrupted()),
                done = results.next() => match done {
                    Some(done) => match self.tell(done) {
                        Err(error) if is_broken_pipe(&error) => break,
                        told => told?,
                    },
                    None => break,
                },
                _ = ticks.tick() => self.progress(runner, bytes),
            }
        }
        self.bar.finish_and_clear();
        Ok(self.end)
    }

    fn interrupted(&self) -> End {
        self.bar.finish_and_clear();
        let Self { finished, total, .. } = self;
        complain("interrupted", &format_args!("{finished} of {total} slices are done, and their proofs are kept"));
        End::Interrupted
    }

    fn progress(&mut self, runner: &WorkloadRunner, bytes: u64) {
        if self.bar.is_hidden() && self.bar.length().is_none() && io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {msg} {elapsed}");
            self.bar = ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        }
        self.bar.set_position(runner.bytes_read());
        let gas = HumanCount(runner.gas_granted());
        self.bar.set_message(format!("{}/{} slices, {gas} gas", self.finished, self.total));
    }

    fn tell(&mut self, Done { file, result }: Done) -> anyhow::Result<()> {
        let result = result.and_then(|answer| {
            self.args.out.as_deref().map_or(Ok(()), |out| write_proof(out, &file, &answer)).map(|()| answer)
        });
        let (end, complaint) = match &result {
            Err(failure) => (End::Error, Some(("error", failure.message.clone()))),
            Ok(answer) if answer.finished.outcome.is_done() => (End::Done, None),
            Ok(answer) => {
                let why = format!("`{}`: {}", file.display(), answer.finished.outcome);
                (End::No, Some(("failed", why)))
            }
        };
        self.end = self.end.max(end);
        self.finished += usize::from(result.is_ok());
        let line = if self.args.json { json_line(&file, &result) } else { text_line(&file, &result) };
        self.bar.suspend(|| {
            if let (Ok(answer), false) = (&result, self.args.json) {
                for line in String::from_utf8_lossy(&answer.finished.log).lines() {
                    complain("log", &format_args!("`{}`: {line}", file.display()));
                }
            }
            if let Some((kind, message)) = complaint {
                complain(kind, &message);
            }
            print(&line)
        })
    }
}

/// `HASH  FILE`, as `b3sum` has it, or the outcome's code in the place of the hash. Nothing for an error.
fn text_line(file: &Path, result: &Result<Answer, Failure>) -> Vec<u8> {
    let Ok(answer) = result else { return Vec::new() };
    let first = match answer.finished.proof.proof() {
        Some(hash) => hash.to_string(),
        None => answer.finished.outcome.code().0.to_owned(),
    };
    let name = file.as_os_str().as_bytes();
    let escaped = name.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r'));
    let mut line = if escaped { b"\\".to_vec() } else { Vec::new() };
    line.extend(first.as_bytes());
    line.extend(b"  ");
    for byte in name {
        match byte {
            b'\\' => line.extend(b"\\\\"),
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            other => line.push(*other),
        }
    }
    line.push(b'\n');
    line
}

/// One object: the file, and either the proof in its JSON form and where it came from, or the error.
fn json_line(file: &Path, result: &Result<Answer, Failure>) -> Vec<u8> {
    let mut object = json!({ "file": file.to_string_lossy() });
    match result {
        Err(failure) => object["error"] = json!({ "code": failure.code, "message": failure.message }),
        Ok(answer) => {
            object["source"] = json!(answer.source);
            if let (Value::Object(object), Value::Object(proof)) = (&mut object, answer.finished.proof.to_json()) {
                object.extend(proof);
            }
            if !answer.finished.log.is_empty() {
                object["log"] = json!(String::from_utf8_lossy(&answer.finished.log));
            }
        }
    }
    format!("{object}\n").into_bytes()
}

/// Replaces what is there as a whole, so that nobody reads half a proof. The store has it durably already.
fn write_proof(out: &Path, file: &Path, answer: &Answer) -> Result<(), Failure> {
    let finished = &answer.finished;
    let proof = finished.proof.to_bytes();
    let output = finished.output.as_deref().filter(|output| !output.is_empty());
    for (ending, bytes) in [(".proof", Some(proof.as_slice())), (".output", output)] {
        let path = files::path_beside(out, file, ending);
        files::replace(&path, bytes).map_err(|error| Failure {
            code: "proof_not_written",
            message: format!("cannot write `{}`: {error}", path.display()),
        })?;
    }
    Ok(())
}
