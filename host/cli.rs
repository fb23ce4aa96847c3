//! Command line: one short function for each command, and the messages to the user.

mod files;
mod report;
mod spool;
mod case;
mod executor;
mod guest;
mod module;
mod proof;
mod key;
mod courier;
mod price;
mod serve;
mod token;
mod run;
mod matrix;
mod verify;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::case::{parse_asset, parse_bytes};
use self::courier::{COURIER_EXAMPLES, CourierCommand};
use self::key::{KEY_EXAMPLES, KeyCommand};
use self::module::{MODULE_EXAMPLES, ModuleCommand};
use self::price::{PRICE_EXAMPLES, PriceCommand};
use self::proof::{PROOF_EXAMPLES, ProofCommand};
use self::serve::{SERVE_EXAMPLES, ServeArgs};
use self::token::{TOKEN_EXAMPLES, TokenCommand};
use self::verify::{DIFF_EXAMPLES, DOCTOR_EXAMPLES, DiffArgs, DoctorArgs, VERIFY_EXAMPLES, VerifyArgs};
use crate::config::JOBS_MAX;
use crate::node::OpenNotice;
use crate::sandbox::{Bounds, COMPILE_COMMAND, serve_one_module};
use crate::slice::SliceId;
use crate::text::{printable, timestamp};
use crate::verify::{VERIFY_COMMAND, serve_one_order};
use crate::workload::REFERENCE_NAMES;

/// Runs untrusted WebAssembly on slices of data and returns proofs that anyone can check again.
#[derive(Parser)]
#[command(name = "node", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    /// Directory of the node's config, state and cache
    #[arg(long, global = true, value_name = "DIR", env = "NODE_DATA_DIR", default_value = "node-data")]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  node compute run transcode.slice              run one slice and print its proof hash
  node compute run --out proofs slices/         run all slices below a directory, keep their proofs
  node compute module check guest.wasm          say whether a module would be admitted, and what it is
  node compute module add guest.wasm --name g   store a module; then: node compute run --module g data.bin
  node compute proof show proofs/a.slice.proof  read a proof
  node compute proof validate proofs/*.proof    say whether proofs are well formed, and signed by whom
  node compute courier send bundle.bin alice    take a bundle in, to be carried to a peer
  node compute price offer 120 --lane transcode record what somebody would do a lane's work for
  node compute price bands --lane transcode     print what work is offered at lately
  node serve                                    do all of this for others, over HTTP
  node key show                                 print the key by which others know this node's proofs
  node completions bash                         print a completion script
  node man man1                                 write the man pages

Exit codes: 0 done, 1 a guest failed, a proof is not valid, bundles remain or offers are too few, 2 an error,
130 interrupted.";

#[derive(Subcommand)]
enum Command {
    /// Run slices and read their proofs
    #[command(
        subcommand,
        after_help = "Examples:\n  node compute run transcode.slice\n  node compute proof show proofs/transcode.slice.proof"
    )]
    Compute(ComputeCommand),
    /// Accept modules, slices and bundles over HTTP and forward pending bundles, until stopped by a
    /// signal
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// Show, rotate, back up and trust the keys that sign proofs
    #[command(subcommand, after_help = KEY_EXAMPLES)]
    Key(KeyCommand),
    /// Create tokens, which let others use this node
    #[command(subcommand, after_help = TOKEN_EXAMPLES)]
    Token(TokenCommand),
    /// Run one job on one engine; only for child processes of the node
    #[command(hide = true, name = VERIFY_COMMAND)]
    RunOnOneEngine,
    /// Compile one module; only for child processes of the node
    #[command(hide = true, name = COMPILE_COMMAND)]
    CompileOneModule { cpu_seconds: u64, memory_bytes: u64 },
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  node completions bash > ~/.local/share/bash-completion/completions/node")]
    Completions { shell: clap_complete::Shell },
    /// Write a man page for each command
    #[command(after_help = "Example:\n  node man ~/.local/share/man/man1")]
    Man {
        /// Directory for the pages; it is created if it does not exist
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Subcommand)]
enum ComputeCommand {
    /// Run slices and print a line for each: its proof hash and its file
    Run(RunArgs),
    /// Run a slice again on every engine, and compare the results
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Find the first difference between two runs
    #[command(after_help = DIFF_EXAMPLES)]
    Diff(DiffArgs),
    /// Run a fixed set of guests on every engine, and print a fingerprint to compare with other
    /// machines
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Check, store and remove modules
    #[command(subcommand, after_help = MODULE_EXAMPLES)]
    Module(ModuleCommand),
    /// Read and validate written proofs
    #[command(subcommand, after_help = PROOF_EXAMPLES)]
    Proof(ProofCommand),
    /// Carry bundles to peers, and earn credit for it
    #[command(subcommand, after_help = COURIER_EXAMPLES)]
    Courier(CourierCommand),
    /// Record price offers, and show their quantiles
    #[command(subcommand, after_help = PRICE_EXAMPLES)]
    Price(PriceCommand),
}

#[derive(clap::Args)]
#[command(after_help = RUN_EXAMPLES)]
struct RunArgs {
    /// Slices (`-` is standard input), or directories: all files below them whose names end in
    /// `.slice`
    #[arg(required_unless_present = "files0_from", value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Read the names of the slices from LIST (`-` is standard input), each followed by a zero
    /// byte, as `find -print0` writes them
    #[arg(long, value_name = "LIST", conflicts_with = "paths")]
    files0_from: Option<PathBuf>,
    /// The guest to run [default: the workload that the file's name begins with]
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(REFERENCE_NAMES))]
    workload: Option<String>,
    /// The module to run as the guest: the name or digest of a stored one, or a file (.wasm or
    /// .wat)
    #[arg(long, value_name = "NAME|DIGEST|FILE", conflicts_with = "workload")]
    module: Option<OsString>,
    /// A parameter for the guest; several are joined with a zero byte between them
    #[arg(long = "arg", value_name = "TEXT", allow_hyphen_values = true)]
    args: Vec<OsString>,
    /// A file that the guest may read beside its slice; the guest refers to it by its position,
    /// from 0 on
    #[arg(long = "asset", value_name = "NAME=FILE", value_parser = parse_asset)]
    assets: Vec<(String, PathBuf)>,
    /// Gas limit of a run [default: `limits.gas` in the config]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=i64::MAX as u64))]
    gas: Option<u64>,
    /// Memory limit of a run, such as 64MiB [default: `limits.memory_bytes` in the config]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Time limit of a guest, such as 30s or 5m; a run that exceeds it proves nothing [default:
    /// `compute.timeout_ms` in the config]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Number of slices that run at once [default: `compute.jobs` in the config, or else the number
    /// of cores]
    #[arg(long, value_name = "N", env = "NODE_JOBS", value_parser = clap::value_parser!(u64).range(1..=JOBS_MAX as u64))]
    jobs: Option<u64>,
    /// The id of the (single) slice [default: derived from its content]
    #[arg(long, value_name = "ID")]
    id: Option<SliceId>,
    /// Run each slice again, even if it has a proof
    #[arg(long)]
    no_cache: bool,
    /// Write each proof to DIR as the slice's name followed by `.proof`, and the guest's output
    /// with `.output`; a slice with an error leaves existing files unchanged
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
  camera | node compute run --workload transcode -
  find footage -name '*.raw' -print0 | node compute run --workload transcode --files0-from -
  node compute run --module word-count --arg --lines --out counted notes.txt
  node compute run --module ./guest.wasm --asset model=weights.bin --memory 1GiB picture.raw

The proof of the reference workloads is BLAKE3 of the slice. A line for a guest that failed begins with the
failure's code. A slice that has been run before is answered from its proof.

Exit codes: 0 all done, 1 a guest failed, 2 an error, 130 interrupted (finished proofs are kept).";

/// Exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ExitStatus {
    Done = 0,
    /// A guest failed, something is not valid, or something remains to be done.
    No = 1,
    Error = 2,
    /// 128 plus the number of the signal, as in shells.
    Interrupted = 130,
}

impl From<ExitStatus> for ExitCode {
    fn from(end: ExitStatus) -> Self {
        Self::from(end as u8)
    }
}

/// Parses the command line. An empty environment variable counts as unset.
fn parse() -> Cli {
    fn without_empty_settings(command: clap::Command) -> clap::Command {
        let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        let unset = |arg: clap::Arg| match arg.get_env() {
            Some(name) if is_empty(name) => arg.env(None),
            _ => arg,
        };
        command.mut_args(unset).mut_subcommands(without_empty_settings)
    }
    let matches = without_empty_settings(Cli::command()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Refuses a data directory that exists and is not a directory, before it is used.
fn check_data_dir(data_dir: &Path) -> anyhow::Result<()> {
    let is_there = data_dir.symlink_metadata().is_ok();
    let what = match data_dir.metadata() {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(metadata) if metadata.is_file() => "a file",
        Ok(_) => "no directory",
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_there => "a link to nothing",
        // If the path cannot be read, the code that needs it reports that.
        Err(_) => return Ok(()),
    };
    bail!("`{}` is {what}, and a data directory is expected; choose another with --data-dir", data_dir.display())
}

pub fn main() -> ExitCode {
    let Cli { data_dir, command } = parse();
    if matches!(command, Command::Serve(_) | Command::Compute(ComputeCommand::Courier(_))) {
        share_heaps();
    }
    if !matches!(command, Command::RunOnOneEngine | Command::CompileOneModule { .. } | Command::Completions { .. })
        && let Err(error) = check_data_dir(&data_dir)
    {
        print_error("error", &error);
        return ExitStatus::Error.into();
    }
    let end = match command {
        Command::Compute(ComputeCommand::Run(args)) => run::run(args, &data_dir),
        Command::Compute(ComputeCommand::Verify(args)) => verify::verify(&args, &data_dir),
        Command::Compute(ComputeCommand::Diff(args)) => verify::diff(&args, &data_dir),
        Command::Compute(ComputeCommand::Doctor(args)) => verify::doctor(&args),
        Command::RunOnOneEngine => run_on_one_engine(),
        Command::Compute(ComputeCommand::Module(command)) => module::main(command, &data_dir),
        Command::CompileOneModule { cpu_seconds, memory_bytes } => compile(Bounds { cpu_seconds, memory_bytes }),
        Command::Compute(ComputeCommand::Proof(command)) => proof::main(command, &data_dir),
        Command::Compute(ComputeCommand::Courier(command)) => courier::main(command, &data_dir),
        Command::Compute(ComputeCommand::Price(command)) => price::main(command, &data_dir),
        Command::Serve(args) => serve::serve(&args, &data_dir),
        Command::Token(command) => token::main(command),
        Command::Key(command) => key::main(command, &data_dir),
        Command::Completions { shell } => completions(shell),
        Command::Man { directory } => man_pages(&directory),
    };
    match end {
        Ok(end) => end.into(),
        Err(error) if is_broken_pipe(&error) => ExitStatus::Done.into(),
        Err(error) => {
            print_error("error", &format_args!("{error:#}"));
            ExitStatus::Error.into()
        }
    }
}

/// Limits the C library to two heaps. The courier's threads mostly wait for the disk, and glibc
/// gives each a heap of its own, up to eight for a core. With 16 heaps a flush holds 78 MiB; with
/// two it holds 33 MiB and takes a tenth longer (`benches/courier`).
fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call sets a number in the allocator, under the allocator's own lock, and takes no
    // pointer; no other thread has been started yet. If the call fails, there are more heaps.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

fn compile(bounds: Bounds) -> anyhow::Result<ExitStatus> {
    serve_one_module(bounds)?;
    Ok(ExitStatus::Done)
}

fn run_on_one_engine() -> anyhow::Result<ExitStatus> {
    serve_one_order()?;
    Ok(ExitStatus::Done)
}

fn tell(notice: OpenNotice) {
    match notice {
        OpenNotice::Waiting { directory } => {
            print_error("note", &format_args!("waiting for another node to be done with `{}`", directory.display()));
        }
        OpenNotice::StoreMovedAside { to } => {
            print_error(
                "warning",
                &format_args!("the proof store was damaged: moved to `{}`, and begun anew", to.display()),
            );
        }
        OpenNotice::ConfigWasEmpty { path } => {
            print_error("note", &format_args!("`{}` was empty, and shows the defaults now", path.display()));
        }
        OpenNotice::PricesLost { result } => print_error("warning", &result),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "node", &mut script);
    print(&script)?;
    Ok(ExitStatus::Done)
}

fn man_pages(directory: &Path) -> anyhow::Result<ExitStatus> {
    let write = || {
        std::fs::create_dir_all(directory)?;
        clap_mangen::generate_to(Cli::command(), directory)
    };
    write().with_context(|| format!("cannot write the man pages to `{}`", directory.display()))?;
    Ok(ExitStatus::Done)
}

/// Prints a line to standard error; a failure to write it is ignored. Control characters are
/// escaped, because a file's name could contain them.
fn print_error(kind: &str, message: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{kind}: {}", printable(&message.to_string()));
}

fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// Returns true if the reader of our output has closed the pipe.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn bytes_are_read_with_their_units() {
        assert_eq!(parse_bytes("65536"), Ok(65_536));
        assert_eq!(parse_bytes("64KiB"), Ok(65_536));
        assert_eq!(parse_bytes("4GiB"), Ok(Limits::MEMORY_BYTES_MAX));
        for wrong in ["", "0", "KiB", "1kb", "-1", "5GiB", "99999999999999999999", "17179869184GiB", "1 KiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
