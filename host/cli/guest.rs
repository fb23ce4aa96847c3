//! Guests for engines that verify. Their authors are strangers: the confined child parses and
//! meters the modules, and this process handles only the result.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context as _, bail};

use super::case::PROGRAM;
use super::files;
use crate::digest::Digest;
use crate::modules::{ModuleKey, StoredError};
use crate::node::ReadOnlyNode;
use crate::sandbox::{CompileEngine, Compiler, GateReport, LimitName, MeterFor, MeteredModule, PrepareError};
use crate::workload::{Workload, WorkloadGuest};

/// Bytes that are read of a file: more than any limit admits, so that the report names the other
/// broken rules too.
const READ_BYTES_MAX: u64 = 4 * LimitName::ModuleBytes.limit().highest;

/// Module that `--module` names.
pub enum NamedModule {
    Stored(Digest),
    /// A module in binary or text form, as it was read.
    File(Vec<u8>),
}

/// Finds `module`. A stored module takes precedence over a file of that name.
pub fn find(module: &OsStr, look: &ReadOnlyNode) -> anyhow::Result<NamedModule> {
    let (key, file) = (module.to_str().and_then(|text| text.parse::<ModuleKey>().ok()), Path::new(module));
    match key.map(|key| look.stored.find(&key)) {
        Some(Ok(digest)) => Ok(NamedModule::Stored(digest)),
        Some(Err(StoredError::NotThere(key))) if !file.exists() => {
            bail!(
                "there is neither a stored module nor a file `{key}`; `node compute module list` shows what is stored"
            )
        }
        Some(Err(StoredError::NotThere(_))) | None => Ok(NamedModule::File(read(file)?)),
        Some(Err(error)) => Err(error.into()),
    }
}

/// Returns the confined child that parses modules for this process.
pub fn reader() -> anyhow::Result<Compiler> {
    Ok(Compiler::child(PROGRAM, CompileEngine::new()?.settings_digest()))
}

/// Returns the metered guest that `--module` names.
pub fn named(module: &OsStr, purpose: MeterFor, look: &ReadOnlyNode) -> anyhow::Result<MeteredModule> {
    let bytes = match find(module, look)? {
        NamedModule::Stored(digest) => return of(&Workload::Stored(digest), purpose, look),
        NamedModule::File(bytes) => bytes,
    };
    let file = Path::new(module).display();
    reader()?.meter(purpose, &look.config.gate, bytes).map_err(|error| match error {
        PrepareError::Refused(report) => anyhow::anyhow!("`{file}` is refused {}", first(&report)),
        error => anyhow::Error::from(error).context(format!("cannot use `{file}`")),
    })
}

/// Returns the metered guest of a workload.
pub fn of(workload: &Workload, purpose: MeterFor, look: &ReadOnlyNode) -> anyhow::Result<MeteredModule> {
    let (limits, wasm) = match workload.module() {
        WorkloadGuest::Admitted(module) => (*module.limits(), module.wasm().to_vec()),
        WorkloadGuest::Stored(digest) => (look.config.gate, look.stored.read(&digest)?),
    };
    reader()?.meter(purpose, &limits, wasm).context("the module cannot be used")
}

/// Returns the first rule that a module breaks, and a remedy.
fn first(report: &GateReport) -> String {
    let first = report.refusals.first();
    first.map_or_else(String::new, |refusal| format!("[{}]: {refusal}; {}", refusal.code(), refusal.hint()))
}

/// Reads a module, in binary or text form.
pub fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    files::read_up_to(file, READ_BYTES_MAX).with_context(|| format!("cannot read `{}`", file.display()))
}
