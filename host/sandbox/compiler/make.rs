//! Work of the compiler: turns a module in text or binary form into native code, or into the
//! reasons why it cannot.

use std::borrow::Cow;
use std::io;

use super::code_bytes_max;
use super::pipe::{Frame, Stage, Wanted};
use crate::sandbox::SandboxError;
use crate::sandbox::check::{Admitted, GateLimits, Report};
use crate::sandbox::engine::CompileEngine;
use crate::sandbox::meter;
use crate::sandbox::text::{NotAModule, binary_form};

/// Produces what is `wanted` from `bytes`, and passes each frame of the answer to `tell`.
pub fn make(
    engine: &CompileEngine,
    wanted: Wanted,
    limits: &GateLimits,
    bytes: &[u8],
    mut tell: impl FnMut(Frame) -> io::Result<()>,
) -> io::Result<()> {
    tell(Frame::Stage(Stage::Text))?;
    let binary = match binary_form(bytes) {
        Ok(binary) => binary,
        Err(NotAModule::Text(message)) => return tell(Frame::NotText(message)),
        Err(error) => return tell(Frame::NotText(error.to_string())),
    };
    if let Cow::Owned(binary) = &binary {
        tell(Frame::Binary(binary.clone()))?;
    }
    tell(Frame::Stage(Stage::Gate))?;
    if wanted == Wanted::Report {
        return tell(Frame::Report(Box::new(Report::of(&binary, limits))));
    }
    let admitted = match Admitted::within(limits, &*binary) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            tell(Frame::Refused(Box::new(Report::of_refusal(&binary, refusal))))?;
            return tell(Frame::Report(Box::new(Report::of(&binary, limits))));
        }
    };
    let metered = match wanted {
        Wanted::Metered => Some(admitted.metered().map(|metered| metered.to_vec())),
        Wanted::Counting => Some(meter::counting(admitted.wasm())),
        Wanted::Code | Wanted::Report => None,
    };
    if let Some(metered) = metered {
        return tell(metered.map_or_else(|error| Frame::NotCompilable(error.to_string()), Frame::Metered));
    }
    tell(Frame::Stage(Stage::Compile))?;
    match native_code(engine, &admitted) {
        Ok(code) => tell(Frame::Code(code)),
        Err(SandboxError::Compile(message)) => tell(Frame::NotCompilable(message)),
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
