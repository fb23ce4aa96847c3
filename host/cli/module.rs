//! `node compute module`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::case::{CaseArgs, PROGRAM};
use super::executor::{self, Executor, connect_or_open};
use super::spool::Spool;
use super::{ExitStatus, files, guest, print, print_error, report, tell};
use crate::batch::SliceFailure;
use crate::binary::Binary;
use crate::commands::{NodeCommand, NodeEvent};
use crate::config::Config;
use crate::courier::system_clock;
use crate::digest::Digest;
use crate::http::{ask_node, connect};
use crate::modules::commands::{self, ListedModule, ModuleAnswer, ModuleRequest};
use crate::modules::{ModuleKey, ModuleName, ModuleRecord};
use crate::node::{Node, ReadOnlyNode};
use crate::sandbox::{GateReport, MeterFor, form_of};
use crate::verify;

#[derive(Subcommand)]
pub enum ModuleCommand {
    /// Check, compile and store a module, and print its digest
    Add {
        /// .wasm or .wat; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Name for the module; a name of another module moves to this one
        #[arg(long)]
        name: Option<ModuleName>,
        #[arg(long)]
        json: bool,
    },
    /// Print a line for each stored module, by digest: digest, bytes, names
    List {
        #[arg(long)]
        json: bool,
    },
    /// Print the record of a stored module
    Show {
        #[arg(value_name = "NAME|DIGEST")]
        module: ModuleKey,
        #[arg(long)]
        json: bool,
    },
    /// Run a module on a slice, and print how much gas each of its functions used
    #[command(after_help = PROFILE_EXAMPLES)]
    Profile {
        /// A stored module by its name or digest, or else a file (.wasm or .wat)
        #[arg(value_name = "NAME|DIGEST|FILE")]
        module: OsString,
        /// A slice
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        case: CaseArgs,
        /// Number of functions to show
        #[arg(long, value_name = "N", default_value_t = 20)]
        top: usize,
        /// Print all functions, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print whether the gate admits a file, the reasons against it, and its measurements
    Check {
        /// .wasm or .wat; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Remove a name, and with its last name the module; or with a digest, the module and all its
    /// names
    Remove {
        #[arg(value_name = "NAME|DIGEST")]
        module: ModuleKey,
        #[arg(long)]
        json: bool,
    },
    /// Write a stored module to a file
    Export {
        #[arg(value_name = "NAME|DIGEST")]
        module: ModuleKey,
        /// Output file; - for standard output
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
}

const PROFILE_EXAMPLES: &str = "\
Examples:
  node compute module profile m.wasm data
  node compute module profile word-count data --top 5

A function's gas is its own, without that of those that it calls. What a run that ends badly was
granted and had not used is forfeited, and stands apart.";

pub const MODULE_EXAMPLES: &str = "\
Examples:
  node compute module check guest.wasm
  node compute module add guest.wasm --name word-count
  wat2wasm guest.wat --output=- | node compute module add -
  node compute module export word-count copy.wasm
  node compute module remove word-count

Exit codes: 0 done, 1 the module is refused, 2 an error.";

/// Delay before a command shows its progress.
const PROGRESS_AFTER: Duration = Duration::from_millis(500);
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

pub fn main(command: ModuleCommand, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    match command {
        ModuleCommand::Add { file, name, json } => add(&file, name.as_ref(), json, data_dir),
        ModuleCommand::Profile { module, file, case, top, json } => profile(&module, &file, &case, top, json, data_dir),
        ModuleCommand::Check { file, json } => check(&file, json, data_dir),
        ModuleCommand::List { json } => list(json, data_dir),
        ModuleCommand::Show { module, json } => show(&module, json, data_dir),
        ModuleCommand::Remove { module, json } => remove(&module, json, data_dir),
        ModuleCommand::Export { module, file, json } => export(&module, &file, json, data_dir),
    }
}

fn add(file: &Path, name: Option<&ModuleName>, json: bool, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let wasm = guest::read(file)?;
    form_of(&wasm).with_context(|| format!("cannot use `{}`", file.display()))?;
    let by = format!("user {}", rustix::process::getuid().as_raw());
    let order = ModuleRequest::Add { wasm: Binary(wasm), name: name.cloned(), by };
    let (digest, bytes, kind, is_new, renamed, lacks) = match execute(order, data_dir)? {
        Ok(ModuleAnswer::Added { digest, bytes, kind, is_new, renamed, lacks }) => {
            (digest, bytes, kind, is_new, renamed, lacks)
        }
        Ok(ModuleAnswer::Refused(report)) => return refused(file, &report, json),
        Ok(_) => bail!("the running node answers what was not asked"),
        Err(failure) if failure.code == "not_a_module" => bail!("cannot use `{}`: {}", file.display(), failure.message),
        Err(failure) if failure.code == "not_compilable" => {
            let SliceFailure { code, message } = failure;
            print_error("error", &format_args!("`{}` is refused [{code}]: {message}", file.display()));
            return Ok(ExitStatus::No);
        }
        Err(failure) => bail!("{}", failure.message),
    };
    warn_of_weak_confinement(&lacks);
    if let (Some(name), Some(before)) = (name, renamed) {
        print_error("note", &format_args!("`{name}` stood for {before} before"));
    }
    let shown = name.map_or_else(|| file.to_string_lossy().into_owned(), ToString::to_string);
    let object = json!({ "digest": digest, "name": name, "bytes": bytes, "kind": kind, "new": is_new });
    show_line(json, &object, &format!("{digest}  {shown}"))
}

/// Changes the store: through the running node, or else in this process.
fn execute(order: ModuleRequest, data_dir: &Path) -> anyhow::Result<Result<ModuleAnswer, SliceFailure>> {
    let runtime = executor::runtime()?;
    let by = runtime.block_on(connect_or_open(data_dir, || Node::try_open(data_dir, None, tell)))?;
    while_showing("compiling", || match by {
        Executor::InProcess(node) => {
            let done = commands::execute(node.runner.modules(), order, system_clock());
            Ok(done.map_err(|error| SliceFailure { code: error.code().to_owned(), message: error.to_string() }))
        }
        Executor::Daemon(stream) => {
            let mut told = None;
            runtime.block_on(ask_node(stream, &NodeCommand::Module(order), |answer| told = Some(answer)))?;
            match told {
                Some(NodeEvent::Module(answer)) => Ok(Ok(answer)),
                Some(NodeEvent::Error(failure)) => Ok(Err(failure)),
                _ => bail!("the running node did not answer"),
            }
        }
    })
}

fn profile(
    module: &OsStr,
    file: &Path,
    case: &CaseArgs,
    top: usize,
    json: bool,
    data_dir: &Path,
) -> anyhow::Result<ExitStatus> {
    let look = Node::look(data_dir)?;
    let guest = guest::named(module, MeterFor::Profiles, &look)?;
    let mut spool = Spool::default();
    let case = case.case(file, &look.config, look.config.limits, &mut spool)?;
    let profiled = while_showing("running", || verify::profile(Path::new(PROGRAM), &guest, &case));
    let profile = profiled.map_err(|why| anyhow::anyhow!("`{}`: {why}", file.display()))?;
    let shown =
        if json { format!("{}\n", report::profile_json(&profile)) } else { report::profile_text(&profile, top) };
    print(shown.as_bytes())?;
    Ok(if profile.outcome.is_done() { ExitStatus::Done } else { ExitStatus::No })
}

/// Warns that the compiler ran a stranger's module with less confinement than SECURITY.md promises.
pub fn warn_of_weak_confinement<T: AsRef<str>>(lacks: &[T]) {
    if !lacks.is_empty() {
        let lacks: Vec<&str> = lacks.iter().map(AsRef::as_ref).collect();
        print_error("warning", &format_args!("this kernel confined the compiler without {}", lacks.join(" and ")));
    }
}

/// Prints all reasons against the module, not only the first.
fn refused(file: &Path, report: &GateReport, json: bool) -> anyhow::Result<ExitStatus> {
    if json {
        print(format!("{}\n", report::json(file, report)).as_bytes())?;
    }
    report::complain_of(file, report);
    Ok(ExitStatus::No)
}

fn check(file: &Path, json: bool, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let config = Config::read(&data_dir.join("config.toml"))?;
    let (reader, bytes) = (guest::reader()?, guest::read(file)?);
    let report = while_showing("checking", || reader.report(&config.gate, &bytes));
    let report = report.map_err(|error| anyhow::anyhow!("cannot use `{}`: {error}", file.display()))?;
    let shown =
        if json { format!("{:#}\n", report::json(file, &report)) } else { report::text(file, &report, &config.gate) };
    print(shown.as_bytes())?;
    Ok(if report.refusals.is_empty() { ExitStatus::Done } else { ExitStatus::No })
}

/// Prints all pages, one after another, from the running node or else from the files.
fn list(json: bool, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let runtime = executor::runtime()?;
    let (mut end, mut after) = (ExitStatus::Done, None);
    loop {
        let running = runtime.block_on(connect(&Node::state(data_dir))).context("cannot ask the running node")?;
        let answer = match running {
            None => commands::list(&Node::look(data_dir)?.stored, after.as_ref())?,
            Some(stream) => {
                let order = NodeCommand::Module(ModuleRequest::List { after });
                match runtime.block_on(executor::ask_all(stream, &order))?.pop() {
                    Some(NodeEvent::Module(answer)) => answer,
                    _ => bail!("the running node did not answer"),
                }
            }
        };
        let ModuleAnswer::Listed { modules, next } = answer else {
            bail!("the running node answers what was not asked");
        };
        for ListedModule { digest, names, record } in modules {
            match record {
                Ok(record) => {
                    let line = format!("{digest}  {:>9}  {}", record.bytes, words(&names));
                    show_line(json, &object(&digest, &record, &names), line.trim_end())?;
                }
                Err(error) => {
                    print_error("error", &error);
                    end = ExitStatus::Error;
                }
            }
        }
        after = next;
        if after.is_none() {
            return Ok(end);
        }
    }
}

fn words(names: &[ModuleName]) -> String {
    names.iter().map(ModuleName::as_str).collect::<Vec<_>>().join(" ")
}

fn show(module: &ModuleKey, json: bool, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let ReadOnlyNode { config, stored } = Node::look(data_dir)?;
    let digest = stored.find(module)?;
    let (record, names) = (stored.record(&digest)?, stored.names_of(&digest)?);
    let wasm = stored.read(&digest)?;
    if json {
        return show_line(true, &object(&digest, &record, &names), "");
    }
    let added = super::timestamp(record.added_unix_ms);
    let report = guest::reader()?.report(&config.gate, &wasm);
    let report = report.map_err(|error| anyhow::anyhow!("cannot look at {digest}: {error}"))?;
    let adders = record.adders().map(String::as_str).collect::<Vec<_>>().join(", ");
    let known = format!("names      {}\nadded      {added}, by {adders}\n", words(&names));
    print((known + &report::text(Path::new(&digest.to_string()), &report, &config.gate)).as_bytes())?;
    Ok(ExitStatus::Done)
}

fn remove(module: &ModuleKey, json: bool, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let (digest, gone) = match execute(ModuleRequest::Remove { module: module.clone() }, data_dir)? {
        Ok(ModuleAnswer::Removed { digest, module_removed }) => (digest, module_removed),
        Ok(_) => bail!("the running node answers what was not asked"),
        Err(failure) => bail!("{}", failure.message),
    };
    let line = if gone { format!("removed {digest}") } else { format!("removed the name {module} of {digest}") };
    show_line(json, &json!({ "digest": digest, "module_removed": gone }), &line)
}

fn export(module: &ModuleKey, file: &Path, json: bool, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let stored = Node::look(data_dir)?.stored;
    let digest = stored.find(module)?;
    let wasm = stored.read(&digest)?;
    if file == Path::new("-") {
        print(&wasm)?;
        return Ok(ExitStatus::Done);
    }
    files::replace(file, Some(&wasm)).with_context(|| format!("cannot write `{}`", file.display()))?;
    let object = json!({ "digest": digest, "bytes": wasm.len(), "file": file.to_string_lossy() });
    show_line(json, &object, &format!("{digest}  {}", file.display()))
}

fn object(digest: &Digest, record: &ModuleRecord, names: &[ModuleName]) -> Value {
    let mut object = json!({ "digest": digest, "names": names });
    if let (Value::Object(object), Ok(Value::Object(record))) = (&mut object, serde_json::to_value(record)) {
        object.extend(record.into_iter().filter(|(key, _)| key != "version"));
    }
    object
}

fn show_line(json: bool, object: &Value, line: &str) -> anyhow::Result<ExitStatus> {
    let shown = if json { format!("{object}\n") } else { format!("{}\n", super::printable(line)) };
    print(shown.as_bytes())?;
    Ok(ExitStatus::Done)
}

/// Does `work`, and shows a spinner if the work takes long.
fn while_showing<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let (over, waited) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if waited.recv_timeout(PROGRESS_AFTER) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let spinner = ProgressBar::new_spinner().with_message(what);
            spinner.enable_steady_tick(PROGRESS_EVERY);
            let _ = waited.recv();
            spinner.finish_and_clear();
        });
        let done = work();
        drop(over);
        done
    })
}
