//! Work of the compiler: turns a module in text or binary form into native code, or into the
//! reasons why it cannot.

use std::borrow::Cow;
use std::io;

use super::code_bytes_max;
use super::pipe::{ChildFrame, CompileStage, PrepareGoal};
use crate::sandbox::SandboxError;
use crate::sandbox::engine::CompileEngine;
use crate::sandbox::gate::{Admitted, GateLimits, GateReport};
use crate::sandbox::meter;
use crate::sandbox::text::{NotAModule, binary_form};

/// Produces what is `wanted` from `bytes`, and passes each frame of the answer to `tell`.
pub fn make(
    engine: &CompileEngine,
    wanted: PrepareGoal,
    limits: &GateLimits,
    bytes: &[u8],
    mut tell: impl FnMut(ChildFrame) -> io::Result<()>,
) -> io::Result<()> {
    tell(ChildFrame::Stage(CompileStage::Text))?;
    let binary = match binary_form(bytes) {
        Ok(binary) => binary,
        Err(NotAModule::Text(message)) => return tell(ChildFrame::NotText(message)),
        Err(error) => return tell(ChildFrame::NotText(error.to_string())),
    };
    if let Cow::Owned(binary) = &binary {
        tell(ChildFrame::Binary(binary.clone()))?;
    }
    tell(ChildFrame::Stage(CompileStage::Gate))?;
    if wanted == PrepareGoal::Report {
        return tell(ChildFrame::Report(Box::new(GateReport::of(&binary, limits))));
    }
    let admitted = match Admitted::within(limits, &*binary) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            tell(ChildFrame::Refused(Box::new(GateReport::of_refusal(&binary, refusal))))?;
            return tell(ChildFrame::Report(Box::new(GateReport::of(&binary, limits))));
        }
    };
    let metered = match wanted {
        PrepareGoal::Metered => Some(admitted.metered().map(|metered| metered.to_vec())),
        PrepareGoal::Counting => Some(meter::counting(admitted.wasm())),
        PrepareGoal::Code | PrepareGoal::Report => None,
    };
    if let Some(metered) = metered {
        return tell(metered.map_or_else(|error| ChildFrame::NotCompilable(error.to_string()), ChildFrame::Metered));
    }
    tell(ChildFrame::Stage(CompileStage::Compile))?;
    match native_code(engine, &admitted) {
        Ok(code) => tell(ChildFrame::Code(code)),
        Err(SandboxError::Compile(message)) => tell(ChildFrame::NotCompilable(message)),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Compiles `admitted` to native code in this process.
pub fn native_code(engine: &CompileEngine, admitted: &Admitted) -> Result<Vec<u8>, SandboxError> {
    let metered = admitted.metered().map_err(SandboxError::Meter)?;
    let (code, max) = (engine.compile(&metered)?, code_bytes_max(metered.len()));
    if code.len() as u64 <= max {
        return Ok(code);
    }
    Err(SandboxError::Compile(format!("its native code has {} bytes; at most {max} are admitted", code.len())))
}
