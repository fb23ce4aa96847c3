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
use super::reach::{self, By, reach};
use super::spool::Spool;
use super::{End, complain, files, guest, print, report, tell};
use crate::batch::Failure;
use crate::binary::Binary;
use crate::config::Config;
use crate::courier::system_clock;
use crate::digest::Digest;
use crate::http::{ask_node, connect};
use crate::modules::orders::{self, ListedModule, ModuleAnswer, ModuleOrder};
use crate::modules::{ModuleKey, ModuleName, Record};
use crate::node::{Look, Node};
use crate::orders::{Answer, Order};
use crate::sandbox::{MeterFor, Report, form_of};
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

pub fn main(command: ModuleCommand, data_dir: &Path) -> anyhow::Result<End> {
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

fn add(file: &Path, name: Option<&ModuleName>, json: bool, data_dir: &Path) -> anyhow::Result<End> {
    let wasm = guest::read(file)?;
    form_of(&wasm).with_context(|| format!("cannot use `{}`", file.display()))?;
    let by = format!("user {}", rustix::process::getuid().as_raw());
    let order = ModuleOrder::Add { wasm: Binary(wasm), name: name.cloned(), by };
    let (digest, bytes, kind, is_new, renamed, lacks) = match carry_out(order, data_dir)? {
        Ok(ModuleAnswer::Added { digest, bytes, kind, is_new, renamed, lacks }) => {
            (digest, bytes, kind, is_new, renamed, lacks)
        }
        Ok(ModuleAnswer::Refused(report)) => return refused(file, &report, json),
        Ok(_) => bail!("the running node answers what was not asked"),
        Err(failure) if failure.code == "not_a_module" => bail!("cannot use `{}`: {}", file.display(), failure.message),
        Err(failure) if failure.code == "not_compilable" => {
            let Failure { code, message } = failure;
            complain("error", &format_args!("`{}` is refused [{code}]: {message}", file.display()));
            return Ok(End::No);
        }
        Err(failure) => bail!("{}", failure.message),
    };
    warn_of_weak_confinement(&lacks);
    if let (Some(name), Some(before)) = (name, renamed) {
        complain("note", &format_args!("`{name}` stood for {before} before"));
    }
    let shown = name.map_or_else(|| file.to_string_lossy().into_owned(), ToString::to_string);
    let object = json!({ "digest": digest, "name": name, "bytes": bytes, "kind": kind, "new": is_new });
    show_line(json, &object, &format!("{digest}  {shown}"))
}

/// Changes the store: through the running node, or else in this process.
fn carry_out(order: ModuleOrder, data_dir: &Path) -> anyhow::Result<Result<ModuleAnswer, Failure>> {
    let runtime = reach::runtime()?;
    let by = runtime.block_on(reach(data_dir, || Node::try_open(data_dir, None, tell)))?;
    while_showing("compiling", || match by {
        By::Us(node) => {
            let done = orders::perform(node.runner.modules(), order, system_clock());
            Ok(done.map_err(|error| Failure { code: error.code().to_owned(), message: error.to_string() }))
        }
        By::Node(stream) => {
            let mut told = None;
            runtime.block_on(ask_node(stream, &Order::Module(order), |answer| told = Some(answer)))?;
            match told {
                Some(Answer::Module(answer)) => Ok(Ok(answer)),
                Some(Answer::Error(failure)) => Ok(Err(failure)),
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
) -> anyhow::Result<End> {
    let look = Node::look(data_dir)?;
    let guest = guest::named(module, MeterFor::Profiles, &look)?;
    let mut spool = Spool::default();
    let case = case.case(file, &look.config, look.config.limits, &mut spool)?;
    let profiled = while_showing("running", || verify::profile(Path::new(PROGRAM), &guest, &case));
    let profile = profiled.map_err(|why| anyhow::anyhow!("`{}`: {why}", file.display()))?;
    let shown =
        if json { format!("{}\n", report::profile_json(&profile)) } else { report::profile_text(&profile, top) };
    print(shown.as_bytes())?;
    Ok(if profile.outcome.is_done() { End::Done } else { End::No })
}

/// Warns that the compiler ran a stranger's module with less confinement than SECURITY.md promises.
pub fn warn_of_weak_confinement<T: AsRef<str>>(lacks: &[T]) {
    if !lacks.is_empty() {
        let lacks: Vec<&str> = lacks.iter().map(AsRef::as_ref).collect();
        complain("warning", &format_args!("this kernel confined the compiler without {}", lacks.join(" and ")));
    }
}

/// Prints all reasons against the module, not only the first.
fn refused(file: &Path, report: &Report, json: bool) -> anyhow::Result<End> {
    if json {
        print(format!("{}\n", report::json(file, report)).as_bytes())?;
    }
    report::complain_of(file, report);
    Ok(End::No)
}

fn check(file: &Path, json: bool, data_dir: &Path) -> anyhow::Result<End> {
    let config = Config::read(&data_dir.join("config.toml"))?;
    let (reader, bytes) = (guest::reader()?, guest::read(file)?);
    let report = while_showing("checking", || reader.report(&config.gate, &bytes));
    let report = report.map_err(|error| anyhow::anyhow!("cannot use `{}`: {error}", file.display()))?;
    let shown =
        if json { format!("{:#}\n", report::json(file, &report)) } else { report::text(file, &report, &config.gate) };
    print(shown.as_bytes())?;
    Ok(if report.refusals.is_empty() { End::Done } else { End::No })
}

/// Prints all pages, one after another, from the running node or else from the files.
fn list(json: bool, data_dir: &Path) -> anyhow::Result<End> {
    let runtime = reach::runtime()?;
    let (mut end, mut after) = (End::Done, None);
    loop {
        let running = runtime.block_on(connect(&Node::state(data_dir))).context("cannot ask the running node")?;
        let answer = match running {
            None => orders::list(&Node::look(data_dir)?.stored, after.as_ref())?,
            Some(stream) => {
                let order = Order::Module(ModuleOrder::List { after });
                match runtime.block_on(reach::ask_all(stream, &order))?.pop() {
                    Some(Answer::Module(answer)) => answer,
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
                    complain("error", &error);
                    end = End::Error;
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

fn show(module: &ModuleKey, json: bool, data_dir: &Path) -> anyhow::Result<End> {
    let Look { config, stored } = Node::look(data_dir)?;
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
    Ok(End::Done)
}

fn remove(module: &ModuleKey, json: bool, data_dir: &Path) -> anyhow::Result<End> {
    let (digest, gone) = match carry_out(ModuleOrder::Remove { module: module.clone() }, data_dir)? {
        Ok(ModuleAnswer::Removed { digest, module_removed }) => (digest, module_removed),
        Ok(_) => bail!("the running node answers what was not asked"),
        Err(failure) => bail!("{}", failure.message),
    };
    let line = if gone { format!("removed {digest}") } else { format!("removed the name {module} of {digest}") };
    show_line(json, &json!({ "digest": digest, "module_removed": gone }), &line)
}

fn export(module: &ModuleKey, file: &Path, json: bool, data_dir: &Path) -> anyhow::Result<End> {
    let stored = Node::look(data_dir)?.stored;
    let digest = stored.find(module)?;
    let wasm = stored.read(&digest)?;
    if file == Path::new("-") {
        print(&wasm)?;
        return Ok(End::Done);
    }
    files::replace(file, Some(&wasm)).with_context(|| format!("cannot write `{}`", file.display()))?;
    let object = json!({ "digest": digest, "bytes": wasm.len(), "file": file.to_string_lossy() });
    show_line(json, &object, &format!("{digest}  {}", file.display()))
}

fn object(digest: &Digest, record: &Record, names: &[ModuleName]) -> Value {
    let mut object = json!({ "digest": digest, "names": names });
    if let (Value::Object(object), Ok(Value::Object(record))) = (&mut object, serde_json::to_value(record)) {
        object.extend(record.into_iter().filter(|(key, _)| key != "version"));
    }
    object
}

fn show_line(json: bool, object: &Value, line: &str) -> anyhow::Result<End> {
    let shown = if json { format!("{object}\n") } else { format!("{}\n", super::printable(line)) };
    print(shown.as_bytes())?;
    Ok(End::Done)
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
