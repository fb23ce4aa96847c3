//! The child's side: one module from standard input, its native code to standard output.

use std::io;

use rustix::process::{Signal, set_parent_process_death_signal};

use super::native_code;
use super::pipe::{self, Hello, Reply};
use crate::sandbox::SandboxError;
use crate::sandbox::check::LimitName;
use crate::sandbox::confine::{self, Bounds, Purpose};
use crate::sandbox::engine::CompileEngine;

/// Confines this process, compiles the module that comes on standard input, and is of no use afterwards. Call it while
/// there is one thread.
pub fn serve_one_module(bounds: Bounds) -> io::Result<()> {
    confine::close_inherited_files();
    // A compiler that nobody waits for is in the way.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The engine looks at the processor and sets up signal handlers, which it may not later.
    let engine = CompileEngine::new().map_err(io::Error::other)?;
    let settings = engine.settings_digest();
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let confinement = confine::confine(bounds, Purpose::Compile)?;
    pipe::write_hello(&mut output, &Hello { settings, confinement })?;
    let wasm = pipe::read_request(&mut input, LimitName::ModuleBytes.limit().highest)?;
    let reply = match native_code(&engine, &wasm) {
        Ok(code) => Reply::Code(code),
        Err(SandboxError::Compile(message)) => Reply::Refused(message),
        Err(error) => return Err(io::Error::other(error)),
    };
    pipe::write_reply(&mut output, &reply)
}
