//! Child side of the compiler: reads one module from standard input and writes the result to
//! standard output.

use std::io;

use super::answer::make;
use super::pipe::{self, ChildHello, CompileRequest};
use crate::sandbox::confine::{self, Bounds, ProcessPurpose};
use crate::sandbox::engine::CompileEngine;
use crate::sandbox::process;

/// Confines this process, then compiles or reports on the module from standard input. The process
/// is unusable afterwards. Call it while the process has one thread.
pub fn serve_one_module(bounds: Bounds) -> io::Result<()> {
    process::enter()?;
    // Creating the engine queries the processor and installs signal handlers. Neither is possible
    // after confinement.
    let engine = CompileEngine::new().map_err(io::Error::other)?;
    let settings = engine.settings_digest();
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let confinement = confine::confine(bounds, ProcessPurpose::Compile)?;
    pipe::write_hello(&mut output, &ChildHello { settings, confinement })?;
    let CompileRequest { wanted, limits, bytes } = pipe::read_request(&mut input)?;
    make(&engine, wanted, &limits, &bytes, |frame| pipe::write_frame(&mut output, &frame))
}
