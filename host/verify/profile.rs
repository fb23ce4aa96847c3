//! Where a run's gas goes: by function, and by host call.

use std::path::Path;

use super::child;
use super::matrix::Case;
use super::order::{Answer, Order};
use crate::sandbox::{EngineKind, Outcome, Rewritten, TRACED_START, Window};

/// What a run spent.
pub struct Profile {
    pub outcome: Outcome,
    /// All of it, as a proof would say.
    pub gas: u64,
    pub parts: Vec<Part>,
}

/// One function's own, without that of those that it calls.
pub struct Part {
    pub what: What,
    pub gas: u64,
}

pub enum What {
    /// Of the module, by its index and its name.
    Function(u32, Option<String>),
    /// `memory.fill` or `memory.copy` of much at once.
    Bulk(&'static str),
    /// A function of the host's, and how often it was called.
    Host(String, u64),
    /// What the host set up before the guest ran.
    Start,
    /// Granted, and not accounted for: what a run that ends badly forfeits.
    Forfeited,
}

/// Runs `guest`, which counts each function's gas, on `case`, and tells the parts that spent any
/// gas, the dearest first; or why there is no result.
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
