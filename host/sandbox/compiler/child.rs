//! The child's side: one module from standard input, what came of it to standard output.

use std::io;

use super::make::make;
use super::pipe::{self, Hello, Request};
use crate::sandbox::confine::{self, Bounds, Purpose};
use crate::sandbox::engine::CompileEngine;
use crate::sandbox::process;

/// Confines this process, makes what is wanted of the module that comes on standard input, and is of no use afterwards.
/// Call it while there is one thread.
pub fn serve_one_module(bounds: Bounds) -> io::Result<()> {
    process::enter()?;
    // The engine looks at the processor and sets up signal handlers, which it may not later.
    let engine = CompileEngine::new().map_err(io::Error::other)?;
    let settings = engine.settings_digest();
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let confinement = confine::confine(bounds, Purpose::Compile)?;
    pipe::write_hello(&mut output, &Hello { settings, confinement })?;
    let Request { wanted, limits, bytes } = pipe::read_request(&mut input)?;
    make(&engine, wanted, &limits, &bytes, |frame| pipe::write_frame(&mut output, &frame))
}
