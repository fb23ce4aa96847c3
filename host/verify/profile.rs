//! Gas profile of a run: by function, and by host call.

use std::path::Path;

use super::child;
use super::matrix::Case;
use super::order::{Answer, Order};
use crate::sandbox::{EngineKind, Outcome, Rewritten, TRACED_START, Window};

/// The gas of one run and its parts.
pub struct Profile {
    pub outcome: Outcome,
    /// The total, as a proof would state it.
    pub gas: u64,
    pub parts: Vec<Part>,
}

/// The gas of one function itself, without its callees.
pub struct Part {
    pub what: What,
    pub gas: u64,
}

pub enum What {
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
pub fn profile(program: &Path, guest: &Rewritten, case: &Case) -> Result<Profile, String> {
    let order =
        Order { window: Some(Window::NONE), tells_trace: true, ..case.order(EngineKind::Cranelift, &guest.metered, 1) };
    let found = match child::run(program, &order).pop() {
        Some((Answer::Found(found), _)) => found,
        Some((Answer::Failed { message, .. }, _)) => return Err(message),
        _ => return Err("it was not answered".to_owned()),
    };
    let outcome = found.outcome().ok_or("what came of it is no outcome")?;
    let functions = guest.admitted.functions().into_iter().map(|(index, name)| What::Function(index, name));
    let bulk = ["memory.fill", "memory.copy"].map(What::Bulk);
    let mut parts: Vec<Part> =
        functions.chain(bulk).zip(found.counters).map(|(what, gas)| Part { what, gas }).collect();
    parts.extend(found.host.into_iter().map(|(name, (calls, gas))| Part {
        what: if name == TRACED_START { What::Start } else { What::Host(name, calls) },
        gas,
    }));
    let counted: u64 = parts.iter().map(|part| part.gas).sum();
    parts.push(Part { what: What::Forfeited, gas: found.gas.saturating_sub(counted) });
    parts.retain(|part| part.gas > 0);
    parts.sort_by_key(|part| std::cmp::Reverse(part.gas));
    Ok(Profile { outcome, gas: found.gas, parts })
}
