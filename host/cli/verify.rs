//! `node compute verify`, `diff` and `doctor`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::case::{CaseArgs, PROGRAM};
use super::module::warn_of_weak_confinement;
use super::spool::Spool;
use super::{ExitStatus, files, guest, matrix, print, print_error, printable, proof};
use crate::digest::Digest;
use crate::limits::Limits;
use crate::node::{Node, ReadOnlyNode};
use crate::proof::{JobLimits, SliceProof};
use crate::sandbox::{Confinement, EngineKind, MeterFor, MeteredModule};
use crate::verify::{self, DiffSide, Matrix, NamedGuest, RunCount, TraceFile, Verdict};
use crate::workload::Workload;

/// Largest trace file.
const TRACE_BYTES_MAX: u64 = 1 << 30;

#[derive(Args)]
pub struct VerifyArgs {
    /// A slice (`-` is standard input); or a proof, followed by its slice
    #[arg(required = true, num_args = 1..=2, value_name = "[PROOF] FILE")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    job: JobArgs,
    /// The engines: all, or some of cranelift, winch, pulley and wasmi, separated by commas
    /// [default: all for a slice, cranelift for a proof]
    #[arg(long, value_name = "ENGINES", value_parser = parse_engines)]
    engines: Option<Engines>,
    /// Number of runs of each guest on each engine, one after another
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Number of further runs at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: u64,
    /// Print JSON instead
    #[arg(long)]
    json: bool,
}

/// The guest to run on a slice, and its arguments.
#[derive(Args)]
struct JobArgs {
    /// A guest: the name or digest of a stored module, or a file (.wasm or .wat); several must all
    /// be the same workload [default: the workload that the file's name begins with, or the guest
    /// of the proof]
    #[arg(long = "module", value_name = "NAME|DIGEST|FILE")]
    modules: Vec<OsString>,
    #[command(flatten)]
    case: CaseArgs,
}

#[derive(Args)]
pub struct DiffArgs {
    /// A slice
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    job: JobArgs,
    /// The two engines to compare; only one with --with or --keep
    #[arg(long, value_name = "ENGINES", default_value = "cranelift,wasmi", value_parser = parse_engines)]
    engines: Engines,
    /// Compare with the trace in this file instead of another engine
    #[arg(long, value_name = "TRACE", conflicts_with = "keep")]
    with: Option<PathBuf>,
    /// Write the trace of the run to this file, and compare nothing
    #[arg(long, value_name = "TRACE")]
    keep: Option<PathBuf>,
    /// Print JSON instead
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct DoctorArgs {
    /// The engines: all, or some of cranelift, winch, pulley and wasmi, separated by commas
    #[arg(long, value_name = "ENGINES", default_value = "all", value_parser = parse_engines)]
    engines: Engines,
    /// Print JSON instead
    #[arg(long)]
    json: bool,
}

pub const VERIFY_EXAMPLES: &str = "\
Examples:
  node compute verify transcode.slice
  node compute verify clip.raw --module transcode.wat --module transcode-streaming.wat --runs 5
  node compute verify proofs/transcode.slice.proof transcode.slice
  node compute verify PROOF.json data --module word-count --engines all

With a proof, the answer is one of four: agree, disagree, not comparable (the proof is of another
job than what is given here) or unverifiable (it could not be run).

Exit codes: 0 all agree, 1 something disagrees, 2 not comparable, unverifiable, or an error.";

pub const DIFF_EXAMPLES: &str = "\
Examples:
  node compute diff data --module m.wasm
  node compute diff data --module m.wasm --engines cranelift,winch
  node compute diff data --module m.wasm --engines cranelift --keep trace.json
  node compute diff data --module m.wasm --engines pulley --with trace.json

Exit codes: 0 the runs are the same, 1 they part, 2 an error.";

pub const DOCTOR_EXAMPLES: &str = "\
Examples:
  node compute doctor
  node compute doctor --json | jq -r .fingerprint

Two machines with the same fingerprint came to the same in all that is tried.
Exit codes: 0 all engines agree, 1 some do not.";

#[derive(Clone)]
struct Engines(Vec<EngineKind>);

fn parse_engines(text: &str) -> Result<Engines, String> {
    if text == "all" {
        return Ok(Engines(EngineKind::ALL.to_vec()));
    }
    let mut engines: Vec<EngineKind> = Vec::new();
    for name in text.split(',') {
        let engine = name.parse()?;
        if !engines.contains(&engine) {
            engines.push(engine);
        }
    }
    Ok(Engines(engines))
}

pub fn verify(args: &VerifyArgs, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let look = Node::look(data_dir)?;
    match args.paths.as_slice() {
        [proof, file] => recheck(args, proof, file, &look),
        [file, ..] => all_agree(args, file, &look),
        [] => bail!("a slice is expected"),
    }
}

fn all_agree(args: &VerifyArgs, file: &Path, look: &ReadOnlyNode) -> anyhow::Result<ExitStatus> {
    let guests: Vec<NamedGuest> = guests(&args.job, file, look)?.into_iter().map(|(_, guest)| guest).collect();
    let mut spool = Spool::default();
    let case = args.job.case.case(file, &look.config, look.config.limits, &mut spool)?;
    let (engines, jobs) =
        (args.engines.as_ref().map_or(EngineKind::ALL.as_slice(), |given| &given.0), args.jobs as usize);
    let waves = if jobs > 1 { 2 } else { 1 };
    let bar = bar((guests.len() * engines.len() * waves) as u64);
    let progress = || bar.inc(1);
    let found = Matrix::of(Path::new(PROGRAM), &guests, engines, &case, RunCount { runs: args.runs, jobs }, &progress);
    bar.finish_and_clear();
    if args.json {
        print(format!("{:#}\n", matrix::json(&found, engines)).as_bytes())?;
    } else {
        print(matrix::text(&found, engines).as_bytes())?;
        complain_of(&found);
        let engines = engines.iter().map(|engine| engine.name()).collect::<Vec<_>>().join(", ");
        let verdict = if found.agrees() { "agree" } else { "disagree" };
        print(format!("{verdict}: {} runs and {jobs} at once on {engines}\n", args.runs).as_bytes())?;
    }
    Ok(end_of(&found))
}

fn end_of(matrix: &Matrix) -> ExitStatus {
    match () {
        () if !matrix.disagreements.is_empty() => ExitStatus::No,
        () if !matrix.failures.is_empty() => ExitStatus::Error,
        () => ExitStatus::Done,
    }
}

fn complain_of(matrix: &Matrix) {
    matrix.failures.iter().for_each(|failure| print_error("error", failure));
    matrix.disagreements.iter().for_each(|disagreement| print_error("differs", disagreement));
}

fn recheck(args: &VerifyArgs, proof_file: &Path, file: &Path, look: &ReadOnlyNode) -> anyhow::Result<ExitStatus> {
    let proof = proof::read(proof_file).map_err(anyhow::Error::from).and_then(|proof| Ok(proof?));
    let proof = proof.with_context(|| format!("cannot read proof `{}`", proof_file.display()))?;
    let limits = limits_of(proof.job().limits, look.config.limits);
    // A check costs about as much as the run. The interpreters would take many times as long.
    let engines = args.engines.as_ref().map_or([EngineKind::Cranelift].as_slice(), |given| &given.0);
    let verdict = match claimed_guest(&args.job, &proof, look) {
        Err(error) => Verdict::Unverifiable(format!("{error:#}")),
        Ok((digest, guest)) => {
            let mut spool = Spool::default();
            let case = args.job.case.case(file, &look.config, limits, &mut spool)?;
            verify::recheck(Path::new(PROGRAM), &proof, (digest, &guest), &case, engines)
        }
    };
    let (word, why) = (verdict.word(), verdict.why());
    if args.json {
        let engines: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
        let (claim, signer) = (proof.claim().digest(), proof.signer());
        let object = json!({ "verdict": word, "why": why, "engines": engines, "claim": claim, "signer": signer });
        print(format!("{object}\n").as_bytes())?;
    } else {
        let why = why.map(|why| format!(": {}", printable(why))).unwrap_or_default();
        print(format!("{word}{why}\n").as_bytes())?;
    }
    Ok(match verdict {
        Verdict::Agree => ExitStatus::Done,
        Verdict::Disagree(_) => ExitStatus::No,
        Verdict::NotComparable(_) | Verdict::Unverifiable(_) => ExitStatus::Error,
    })
}

/// Returns the limits of the proof's job. The limit on the log is the node's own, because the log
/// is not part of the proof.
fn limits_of(claimed: JobLimits, own: Limits) -> Limits {
    Limits { gas: claimed.gas, memory_bytes: claimed.memory_bytes, output_bytes: claimed.output_bytes, ..own }
}

/// Returns the given guest, or else the guest that the proof names, if it is available.
fn claimed_guest(job: &JobArgs, proof: &SliceProof, look: &ReadOnlyNode) -> anyhow::Result<(Digest, NamedGuest)> {
    let claimed = proof.job();
    let workload = match job.modules.as_slice() {
        [] => Workload::named(&claimed.workload).unwrap_or(Workload::Stored(claimed.module)),
        [module] => return given(module, look),
        _ => bail!("a proof is of one guest; give one --module"),
    };
    let guest = guest::of(&workload, MeterFor::Runs, look);
    let guest = guest.context("the proof's module is not stored here; give it with --module")?;
    Ok(called(claimed.workload.clone(), guest))
}

fn guests(job: &JobArgs, file: &Path, look: &ReadOnlyNode) -> anyhow::Result<Vec<(Digest, NamedGuest)>> {
    if !job.modules.is_empty() {
        return job.modules.iter().map(|module| given(module, look)).collect();
    }
    let workload = Workload::of_file(file)
        .with_context(|| format!("cannot tell the workload of `{}` from its name; give a --module", file.display()))?;
    Ok(vec![called(workload.name().to_owned(), guest::of(&workload, MeterFor::Runs, look)?)])
}

fn given(module: &OsString, look: &ReadOnlyNode) -> anyhow::Result<(Digest, NamedGuest)> {
    let guest = guest::named(module, MeterFor::Runs, look)?;
    let name = Path::new(module).file_name().unwrap_or(module).to_string_lossy().into_owned();
    Ok(called(name, guest))
}

fn called(name: String, MeteredModule { admitted, metered }: MeteredModule) -> (Digest, NamedGuest) {
    (admitted.digest(), NamedGuest { name, module: metered })
}

fn bar(len: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed}");
    ProgressBar::new(len).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

pub fn diff(args: &DiffArgs, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let look = Node::look(data_dir)?;
    let mut guests = guests(&args.job, &args.file, &look)?;
    let (Some((digest, guest)), true) = (guests.pop(), guests.is_empty()) else { bail!("give one --module") };
    let mut spool = Spool::default();
    let case = args.job.case.case(&args.file, &look.config, look.config.limits, &mut spool)?;
    let program = Path::new(PROGRAM);
    let sides: Vec<DiffSide> =
        args.engines.0.iter().map(|engine| DiffSide { engine: *engine, module: guest.module.clone() }).collect();
    let kept = |file: &Path| -> anyhow::Result<TraceFile> {
        let json = files::read_up_to(file, TRACE_BYTES_MAX);
        json.map_err(anyhow::Error::from)
            .and_then(|json| Ok(TraceFile::from_json(&json)?))
            .with_context(|| format!("cannot use trace `{}`", file.display()))
    };
    let difference = match (sides.as_slice(), &args.keep, &args.with) {
        ([side], Some(file), _) => {
            let trace = verify::trace(program, digest, &case, side)?;
            files::replace(file, Some(trace.to_json().as_bytes()))
                .with_context(|| format!("cannot write `{}`", file.display()))?;
            print(format!("{} checkpoints in {}\n", trace.checkpoints(), file.display()).as_bytes())?;
            return Ok(ExitStatus::Done);
        }
        ([side], None, Some(file)) => {
            let kept = kept(file)?;
            let new = verify::trace(program, digest, &case, side)?;
            kept.diff(&new).with_context(|| format!("cannot compare with `{}`", file.display()))?
        }
        ([one, other], None, None) => verify::diff(program, &case, [one, other])?,
        _ => bail!("give two --engines to compare, or one with --keep or --with"),
    };
    let shown = if args.json { difference_json(difference.as_ref()) } else { difference_text(difference.as_ref()) };
    print(shown.as_bytes())?;
    Ok(if difference.is_some() { ExitStatus::No } else { ExitStatus::Done })
}

fn difference_text(difference: Option<&verify::Difference>) -> String {
    let Some(verify::Difference { gas, what, call, memory }) = difference else { return "the same\n".to_owned() };
    let mut text = format!("they part between {} and {} gas, in {}\n", gas.start, gas.end, what.join(", "));
    if let Some((range, count)) = memory {
        text += &format!("memory     {count} bytes from {:#x} to {:#x}\n", range.start, range.end - 1);
    }
    if let Some(calls) = call {
        let shown = calls.each_ref().map(|call| match call {
            Some(call) => format!("{}{:?} -> {:?}", call.name, call.arguments, call.answer),
            None => "none".to_owned(),
        });
        text += &format!("host call  {}\n       or  {}\n", shown[0], shown[1]);
    }
    text
}

fn difference_json(difference: Option<&verify::Difference>) -> String {
    let object = difference.map(|verify::Difference { gas, what, call, memory }| {
        json!({
            "gas": [gas.start, gas.end],
            "what": what,
            "calls": call,
            "memory": memory.as_ref().map(|(range, count)| json!({ "from": range.start, "to": range.end, "bytes": count })),
        })
    });
    format!("{:#}\n", json!({ "same": object.is_none(), "difference": object }))
}

pub fn doctor(args: &DoctorArgs) -> anyhow::Result<ExitStatus> {
    let engines = &args.engines.0;
    let bar = bar(14 * engines.len() as u64);
    let diagnosis = verify::doctor(Path::new(PROGRAM), engines, &|| bar.inc(1));
    bar.finish_and_clear();
    let compiler = guest::reader()?;
    compiler.probe()?;
    let missing = compiler.confinement().map(Confinement::missing).unwrap_or_default();
    if args.json {
        let matrices: Vec<Value> = diagnosis.matrices.iter().map(|found| matrix::json(found, engines)).collect();
        let object = json!({ "fingerprint": diagnosis.fingerprint, "agree": diagnosis.agrees(), "battery": matrices, "compiler_lacks": missing });
        print(format!("{object:#}\n").as_bytes())?;
    } else {
        for found in &diagnosis.matrices {
            let came_to = found.cells.first().map_or_else(String::new, matrix::cell);
            let verdict = if found.agrees() { "agree" } else { "disagree" };
            print(format!("{:24} {verdict:8} {came_to}\n", found.guests.concat()).as_bytes())?;
            complain_of(found);
        }
        let confined =
            if missing.is_empty() { "confined".to_owned() } else { format!("without {}", missing.join(" and ")) };
        print(format!("{:24} {confined}\n", "compiler").as_bytes())?;
        print(format!("fingerprint {}\n", diagnosis.fingerprint).as_bytes())?;
    }
    warn_of_weak_confinement(&missing);
    Ok(diagnosis.matrices.iter().map(end_of).max().unwrap_or(ExitStatus::Done))
}
