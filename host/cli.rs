//! The command line: one short function a command, and the messages that people read.

mod files;
mod proof;
mod run;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::JOBS_MAX;
use crate::slice::SliceId;
use crate::workload::REFERENCE_NAMES;

/// Runs untrusted WebAssembly on slices of data and returns proofs that anyone can check again.
#[derive(Parser)]
#[command(name = "node", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    /// Where the node keeps its config, state and cache
    #[arg(long, global = true, value_name = "DIR", env = "NODE_DATA_DIR", default_value = "node-data")]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  node compute run transcode.slice              run one slice and print its proof hash
  node compute run --out proofs slices/         run all slices below a directory, keep their proofs
  node compute proof show proofs/a.slice.proof  read a proof
  node completions bash                         print a completion script

Exit codes: 0 done, 1 a guest failed, 2 an error, 130 interrupted.";

#[derive(Subcommand)]
enum Command {
    /// Run slices and read their proofs
    #[command(
        subcommand,
        after_help = "Examples:\n  node compute run transcode.slice\n  node compute proof show proofs/transcode.slice.proof"
    )]
    Compute(Compute),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  node completions bash > ~/.local/share/bash-completion/completions/node")]
    Completions { shell: clap_complete::Shell },
}

#[derive(Subcommand)]
enum Compute {
    /// Run slices and print a line for each: its proof hash and its file
    Run(RunArgs),
    /// Read written proofs
    #[command(subcommand, after_help = "Example:\n  node compute proof show proofs/transcode.slice.proof")]
    Proof(Proof),
}

#[derive(clap::Args)]
#[command(after_help = RUN_EXAMPLES)]
struct RunArgs {
    /// Slices, or directories: all files below them whose names end in `.slice`
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// The guest to run [default: what the file's name begins with]
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(REFERENCE_NAMES))]
    workload: Option<String>,
    /// How many slices run at once [default: `compute.jobs` in the config, or else the number of cores]
    #[arg(long, value_name = "N", env = "NODE_JOBS", value_parser = clap::value_parser!(u64).range(1..=JOBS_MAX as u64))]
    jobs: Option<u64>,
    /// The id of the (single) slice [default: derived from its content]
    #[arg(long, value_name = "ID")]
    id: Option<SliceId>,
    /// Run anew, also what has a proof already
    #[arg(long)]
    no_cache: bool,
    /// Write each proof to DIR, as the slice's name with `.proof` after it; an error leaves what is there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object a line instead
    #[arg(long)]
    json: bool,
}

const RUN_EXAMPLES: &str = "\
Examples:
  node compute run transcode.slice inference-7.slice
  node compute run --workload transcode --jobs 4 camera.raw
  node compute run --json slices/ | jq -r .proof
  node compute run transcode.slice | b3sum --check

The proof of the reference workloads is BLAKE3 of the slice. A line for a guest that failed begins with the
failure's code. A slice that has been run before is answered from its proof.

Exit codes: 0 all done, 1 a guest failed, 2 an error, 130 interrupted (finished proofs are kept).";

#[derive(Subcommand)]
enum Proof {
    /// Print what a written proof says
    #[command(after_help = "Example:\n  node compute proof show proofs/transcode.slice.proof")]
    Show {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Done = 0,
    GuestFailed = 1,
    Error = 2,
    /// 128 and the number of the signal, as shells have it.
    Interrupted = 130,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(end as u8)
    }
}

pub fn main() -> ExitCode {
    let Cli { data_dir, command } = Cli::parse();
    let end = match command {
        Command::Compute(Compute::Run(args)) => run::run(args, &data_dir),
        Command::Compute(Compute::Proof(Proof::Show { file, json })) => proof::show(&file, json),
        Command::Completions { shell } => completions(shell),
    };
    match end {
        Ok(end) => end.into(),
        Err(error) if is_broken_pipe(&error) => End::Done.into(),
        Err(error) => {
            complain("error", &format_args!("{error:#}"));
            End::Error.into()
        }
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<End> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "node", &mut script);
    print(&script)?;
    Ok(End::Done)
}

/// A line for the person at the terminal; that it cannot be written is no reason to stop. A file's name in it must not
/// steer the terminal.
fn complain(kind: &str, message: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{kind}: {}", printable(&message.to_string()));
}

/// `text` with its control characters written out, so that it cannot steer a terminal or pretend to be another line.
fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// Whoever read our output has read enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
