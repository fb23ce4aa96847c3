//! Commands of a node's owner that change its module store. A command is one value and its reply is
//! one value. So the command line gets the same reply, whether it executes the command itself or
//! sends it to the running node.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::names::{ModuleKey, ModuleName};
use super::{AddedModule, Listed, ModuleRecord, Modules, ModulesError, NameClaim, Page, StoredError, StoredModules};
use crate::binary::Binary;
use crate::digest::Digest;
use crate::sandbox::{Confinement, GateReport, ProgramKind};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleRequest {
    /// Check, compile and store a module, in its text or binary form. `by` is the adder.
    Add { wasm: Binary, name: Option<ModuleName>, by: String },
    /// Remove a name, and the module with its last name. With a digest, remove the module and all
    /// its names.
    Remove { module: ModuleKey },
    /// List the first [`LISTED_MAX`] stored modules behind this one, in the order of their digests.
    List { after: Option<Digest> },
}

/// Modules in one answer: each may have a thousand adders, and an answer is a line of bounded
/// length.
pub const LISTED_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleAnswer {
    Added {
        digest: Digest,
        bytes: u64,
        kind: String,
        is_new: bool,
        /// The module to which the name referred before.
        renamed: Option<Digest>,
        /// Confinement of the compiler that the kernel does not support.
        lacks: Vec<String>,
    },
    /// The gate refuses the module. The report has all reasons.
    Refused(Box<GateReport>),
    Removed {
        digest: Digest,
        module_removed: bool,
    },
    Listed {
        modules: Vec<ListedModule>,
        /// Start of the next page.
        next: Option<Digest>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedModule {
    pub digest: Digest,
    pub names: Vec<ModuleName>,
    /// The record, or the reason why it cannot be read.
    pub record: Result<ModuleRecord, String>,
}

/// Returns the answer to [`ModuleRequest::List`].
pub fn list(stored: &StoredModules, after: Option<&Digest>) -> Result<ModuleAnswer, StoredError> {
    let Page { modules, next } = stored.page(after, LISTED_MAX)?;
    let modules = modules.into_iter().map(|Listed { digest, names, record }| ListedModule {
        digest,
        names,
        record: record.map_err(|error| error.to_string()),
    });
    Ok(ModuleAnswer::Listed { modules: modules.collect(), next })
}

/// Executes `order`. `now_ms` is the current time. Blocks on the disk and on the compiler.
pub fn execute(modules: &Modules, order: ModuleRequest, now_ms: u64) -> Result<ModuleAnswer, Arc<ModulesError>> {
    match order {
        ModuleRequest::Add { wasm: Binary(wasm), name, by } => {
            let admitted = match modules.prepare(wasm) {
                Ok(admitted) => admitted,
                Err(error) => match &*error {
                    ModulesError::Refused(report) => return Ok(ModuleAnswer::Refused(report.clone())),
                    _ => return Err(error),
                },
            };
            let bytes = admitted.wasm().len() as u64;
            let kind = ProgramKind::Compute.name().to_owned();
            let record = ModuleRecord::new(bytes, kind.clone(), now_ms, by);
            let claim = name.as_ref().map(|name| NameClaim { name, takes_over: true });
            let addition = modules.add(&admitted, claim, &record)?;
            let missing = modules.confinement().map(Confinement::missing).unwrap_or_default();
            Ok(ModuleAnswer::Added {
                digest: admitted.digest(),
                bytes,
                kind,
                is_new: addition.added == AddedModule::New,
                renamed: addition.renamed,
                lacks: missing.into_iter().map(str::to_owned).collect(),
            })
        }
        ModuleRequest::Remove { module } => {
            let remove = || {
                let stored = modules.stored()?;
                let digest = stored.find(&module)?;
                Ok(ModuleAnswer::Removed { digest, module_removed: stored.remove(&module)? })
            };
            remove().map_err(|error: StoredError| Arc::new(error.into()))
        }
        ModuleRequest::List { after } => {
            let listed = modules.stored().and_then(|stored| list(stored, after.as_ref()));
            listed.map_err(|error| Arc::new(error.into()))
        }
    }
}
