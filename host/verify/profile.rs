//! Gas profile of a run: by function, and by host call.

use std::path::Path;

use super::child;
use super::job::{EngineJob, EngineResult};
use super::matrix::Case;
use crate::sandbox::{EngineKind, MeteredModule, Outcome, TRACED_START, TraceWindow};

/// The gas of one run and its parts.
pub struct Profile {
    pub outcome: Outcome,
    /// The total, as a proof would state it.
    pub gas: u64,
    pub parts: Vec<FunctionGas>,
}

/// The gas of one function itself, without its callees.
pub struct FunctionGas {
    pub what: ProfileEntry,
    pub gas: u64,
}

pub enum ProfileEntry {
    /// A function of the module, by index and name.
    Function(u32, Option<String>),
    /// The helper for long `memory.fill` or `memory.copy` operators.
    Bulk(&'static str),
    /// A host function, and how often it was called.
    Host(String, u64),
    /// The host's work before the guest ran.
    Start,
    /// Granted but not counted: the gas that a run forfeits when it ends badly.
    Forfeited,
}

/// Runs `guest`, which counts the gas of each function, on `case`, and returns the parts that used
/// gas, the largest first. Returns a message if there is no result.
pub fn profile(program: &Path, guest: &MeteredModule, case: &Case) -> Result<Profile, String> {
    let order = EngineJob {
        window: Some(TraceWindow::NONE),
        tells_trace: true,
        ..case.order(EngineKind::Cranelift, &guest.metered, 1)
    };
    let found = match child::run(program, &order).pop() {
        Some((EngineResult::Found(found), _)) => found,
        Some((EngineResult::Failed { message, .. }, _)) => return Err(message),
        _ => return Err("it was not answered".to_owned()),
    };
    let outcome = found.outcome().ok_or("what came of it is no outcome")?;
    let functions = guest.admitted.functions().into_iter().map(|(index, name)| ProfileEntry::Function(index, name));
    let bulk = ["memory.fill", "memory.copy"].map(ProfileEntry::Bulk);
    let mut parts: Vec<FunctionGas> =
        functions.chain(bulk).zip(found.counters).map(|(what, gas)| FunctionGas { what, gas }).collect();
    parts.extend(found.host.into_iter().map(|(name, (calls, gas))| FunctionGas {
        what: if name == TRACED_START { ProfileEntry::Start } else { ProfileEntry::Host(name, calls) },
        gas,
    }));
    let counted: u64 = parts.iter().map(|part| part.gas).sum();
    parts.push(FunctionGas { what: ProfileEntry::Forfeited, gas: found.gas.saturating_sub(counted) });
    parts.retain(|part| part.gas > 0);
    parts.sort_by_key(|part| std::cmp::Reverse(part.gas));
    Ok(Profile { outcome, gas: found.gas, parts })
}
