//! `node compute run`.

use std::io::{self, IsTerminal as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{Stream, StreamExt as _, stream};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at};

use super::executor::{Executor, connect_or_open};
use super::guest::{self, NamedModule};
use super::module::warn_of_weak_confinement;
use super::spool::Spool;
use super::{ExitStatus, RunArgs, files, is_broken_pipe, print, print_error, tell};
use crate::batch::{AssetSource, Batch, BatchFile, BatchRequest, GuestSource, SliceFailure};
use crate::binary::Binary;
use crate::commands::{NodeCommand, ReplyAssembler};
use crate::http::ask_node;
use crate::node::Node;
use crate::process;
use crate::runner::{ASSETS_BYTES_MAX, RunAnswer};
use crate::sandbox::Confinement;

/// Threads that write finished proofs to disk.
const WRITERS: usize = 64;

/// Delay before a progress bar is shown.
const PROGRESS_AFTER: Duration = Duration::from_millis(500);
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Time for an interrupted run to print how far it came.
const LEAVE_AFTER: Duration = Duration::from_secs(1);

pub fn run(args: RunArgs, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let files = files::expand(&files::named(&args.paths, args.files0_from.as_deref())?)?;
    if args.id.is_some() && files.len() != 1 {
        anyhow::bail!("--id names one slice, but {} are given", files.len());
    }
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).with_context(|| format!("cannot make the directory `{}`", out.display()))?;
        files::check_distinct(&files, files::tells_case(out)?)?;
    }
    let mut spool = Spool::default();
    let bytes_max = Node::config(data_dir)?.compute.slice_bytes_max;
    let copies = files.iter().map(|file| spool.copy_of(file, bytes_max)).collect::<anyhow::Result<Vec<_>>>()?;
    let jobs = args.jobs.map(|jobs| jobs as usize);
    process::check_threads(1 + process::THREADS_RESERVED)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(WRITERS)
        .enable_all()
        .build()
        .context("cannot start the threads that run slices")?;
    let guest = guest(&args, data_dir)?;
    let by = runtime.block_on(connect_or_open(data_dir, || Node::try_open(data_dir, jobs, tell)))?;
    runtime.spawn(leave_if_nobody_reads());
    let end = match by {
        Executor::InProcess(node) => {
            let batch = Batch::open(order(&args, (&files, &copies), guest, &|path| Ok(path.to_owned()))?, &node)?;
            if args.module.is_some() {
                warn_of_weak_confinement(
                    &node.runner.modules().confinement().map(Confinement::missing).unwrap_or_default(),
                );
            }
            let (bytes, runner) = (batch.bytes(), node.runner.clone());
            let report = RunReporter::new(&args, files);
            let progress = || Some((runner.bytes_read(), bytes, runner.gas_granted()));
            runtime.block_on(report.follow(batch.run().map(Ok), &progress))
        }
        Executor::Daemon(stream) => {
            let absolute = |path: &Path| {
                path.canonicalize().or_else(|_| std::path::absolute(path)).context("cannot tell where a file is")
            };
            let order = NodeCommand::Run(order(&args, (&files, &copies), guest, &absolute)?);
            let report = RunReporter::new(&args, files);
            runtime.block_on(async { report.follow(told(stream, order), &|| None).await })
        }
    };
    // After an interruption, a guest that still runs stops by itself and is not waited for.
    // Finished proofs are on disk.
    runtime.shutdown_background();
    end
}

/// Returns the guest to run on the slices.
fn guest(args: &RunArgs, data_dir: &Path) -> anyhow::Result<GuestSource> {
    let Some(module) = &args.module else {
        return Ok(args.workload.clone().map_or(GuestSource::OfFile, GuestSource::Named));
    };
    Ok(match guest::find(module, &Node::look(data_dir)?)? {
        NamedModule::Stored(digest) => GuestSource::Stored(digest),
        NamedModule::File(bytes) => GuestSource::Module(Binary(bytes)),
    })
}

/// Builds the order. `place` converts paths for the process that executes the order.
fn order(
    args: &RunArgs,
    (files, copies): (&[PathBuf], &[Option<PathBuf>]),
    guest: GuestSource,
    place: &impl Fn(&Path) -> anyhow::Result<PathBuf>,
) -> anyhow::Result<BatchRequest> {
    let asset = |(name, path): &(String, PathBuf)| {
        let from = if path.is_file() {
            AssetSource::File(Binary::of_path(place(path)?))
        } else {
            let bytes = files::read_up_to(path, ASSETS_BYTES_MAX);
            AssetSource::Here(Binary(
                bytes.with_context(|| format!("cannot read asset `{name}`, `{}`", path.display()))?,
            ))
        };
        Ok((name.clone(), from))
    };
    let slice = |(file, copy): (&PathBuf, &Option<PathBuf>)| {
        let path = if copy.is_some() { file.clone() } else { place(file)? };
        Ok(BatchFile { path: Binary::of_path(path), copy: copy.clone().map(Binary::of_path) })
    };
    let words: Vec<&[u8]> = args.args.iter().map(|word| word.as_bytes()).collect();
    Ok(BatchRequest {
        files: files.iter().zip(copies).map(slice).collect::<anyhow::Result<_>>()?,
        guest,
        guest_name: match (&args.module, &args.workload) {
            (Some(module), _) => module.to_string_lossy().into_owned(),
            (None, workload) => workload.clone().unwrap_or_default(),
        },
        args: Binary(words.join(&0)),
        assets: args.assets.iter().map(asset).collect::<anyhow::Result<_>>()?,
        gas: args.gas,
        memory_bytes: args.memory,
        timeout_ms: args.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        id: args.id.as_ref().map(ToString::to_string),
        no_cache: args.no_cache,
        with_output: args.out.is_some(),
    })
}

/// Exits after a signal even if a write is blocked: writing a line waits for its reader, and that
/// code then sees no signal.
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
    std::process::exit(ExitStatus::Interrupted as i32);
}

/// Returns the running node's results, slice by slice.
fn told(stream: UnixStream, order: NodeCommand) -> impl Stream<Item = anyhow::Result<Result<RunAnswer, SliceFailure>>> {
    let (tell, heard) = mpsc::unbounded_channel();
    let tell_last = tell.clone();
    tokio::spawn(async move {
        let mut told = ReplyAssembler::default();
        let asked = ask_node(stream, &order, |answer| match told.take(answer) {
            Ok(None) => {}
            Ok(Some(result)) => drop(tell.send(Ok(result))),
            Err(message) => drop(tell.send(Err(anyhow::anyhow!(message)))),
        });
        if let Err(error) = asked.await {
            let _ = tell_last.send(Err(error.into()));
        }
    });
    stream::unfold(heard, |mut heard| async { Some((heard.recv().await?, heard)) })
}

/// Reports each slice to the user, in the order of the command line.
struct RunReporter<'a> {
    args: &'a RunArgs,
    end: ExitStatus,
    finished: usize,
    total: usize,
    /// Files that were not reported yet.
    files: std::vec::IntoIter<PathBuf>,
    bar: ProgressBar,
}

/// Bytes hashed so far, bytes in total, and gas.
type ProgressReading<'a> = &'a dyn Fn() -> Option<(u64, u64, u64)>;

impl<'a> RunReporter<'a> {
    fn new(args: &'a RunArgs, files: Vec<PathBuf>) -> Self {
        let total = files.len();
        Self { args, end: ExitStatus::Done, finished: 0, total, files: files.into_iter(), bar: ProgressBar::hidden() }
    }

    async fn follow(
        mut self,
        results: impl Stream<Item = anyhow::Result<Result<RunAnswer, SliceFailure>>>,
        progress: ProgressReading<'_>,
    ) -> anyhow::Result<ExitStatus> {
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
                result = results.next() => match (result, self.files.next()) {
                    (Some(result), Some(file)) => match self.tell(&file, result?) {
                        Err(error) if is_broken_pipe(&error) => break,
                        told => told?,
                    },
                    (None, Some(_)) => anyhow::bail!("the running node has ended before all slices were done"),
                    _ => break,
                },
                _ = ticks.tick() => self.progress(progress),
            }
        }
        self.bar.finish_and_clear();
        Ok(self.end)
    }

    fn interrupted(&self) -> ExitStatus {
        self.bar.finish_and_clear();
        let Self { finished, total, .. } = self;
        print_error("interrupted", &format_args!("{finished} of {total} slices are done, and their proofs are kept"));
        ExitStatus::Interrupted
    }

    fn progress(&mut self, progress: ProgressReading<'_>) {
        let Some((bytes, bytes_all, gas)) = progress() else { return };
        if self.bar.is_hidden() && self.bar.length().is_none() && io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {msg} {elapsed}");
            self.bar = ProgressBar::new(bytes_all).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        }
        self.bar.set_position(bytes);
        let gas = HumanCount(gas);
        self.bar.set_message(format!("{}/{} slices, {gas} gas", self.finished, self.total));
    }

    fn tell(&mut self, file: &Path, result: Result<RunAnswer, SliceFailure>) -> anyhow::Result<()> {
        let result = result.and_then(|answer| {
            self.args.out.as_deref().map_or(Ok(()), |out| write_proof(out, file, &answer)).map(|()| answer)
        });
        let (end, complaint) = match &result {
            Err(failure) => (ExitStatus::Error, Some(("error", failure.message.clone()))),
            Ok(answer) if answer.finished.outcome.is_done() => (ExitStatus::Done, None),
            Ok(answer) => {
                let why = format!("`{}`: {}", file.display(), answer.finished.outcome);
                (ExitStatus::No, Some(("failed", why)))
            }
        };
        self.end = self.end.max(end);
        self.finished += usize::from(result.is_ok());
        let line = if self.args.json { json_line(file, &result) } else { text_line(file, &result) };
        self.bar.suspend(|| {
            if let (Ok(answer), false) = (&result, self.args.json) {
                for line in String::from_utf8_lossy(&answer.finished.log).lines() {
                    print_error("log", &format_args!("`{}`: {line}", file.display()));
                }
            }
            if let Some((kind, message)) = complaint {
                print_error(kind, &message);
            }
            print(&line)
        })
    }
}

/// Formats `HASH  FILE` as `b3sum` does, with the outcome's code instead of the hash if there is
/// none. Returns nothing for an error.
fn text_line(file: &Path, result: &Result<RunAnswer, SliceFailure>) -> Vec<u8> {
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

/// Formats one object: the file, and either the proof in JSON form with its source, or the error.
fn json_line(file: &Path, result: &Result<RunAnswer, SliceFailure>) -> Vec<u8> {
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

/// Writes the proof and the output, each atomically, so that no reader sees half a file. The store
/// already has the proof durably.
fn write_proof(out: &Path, file: &Path, answer: &RunAnswer) -> Result<(), SliceFailure> {
    let finished = &answer.finished;
    let proof = finished.proof.to_bytes();
    let output = finished.output.as_deref().filter(|output| !output.is_empty());
    for (ending, bytes) in [(".proof", Some(proof.as_slice())), (".output", output)] {
        let path = files::path_beside(out, file, ending);
        files::replace(&path, bytes).map_err(|error| SliceFailure {
            code: "proof_not_written".to_owned(),
            message: format!("cannot write `{}`: {error}", path.display()),
        })?;
    }
    Ok(())
}
