//! Compiles modules: a stranger's in a process of its own, which has given up all but its pipes and is bounded in time
//! and memory. What comes back is native code that we run: that process protects us from what compiling costs and from
//! the compiler's crashes, not from a compiler that is made to write bad code.

mod pipe;
mod child;

use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

pub use self::child::serve_one_module;
use self::pipe::Reply;
use super::SandboxError;
use super::check::Admitted;
use super::confine::{Bounds, Confinement};
use super::engine::CompileEngine;
use super::meter;
use crate::digest::Digest;

/// Ordinary code costs 0.8 to 1.4 s of CPU a MiB, and the gate admits nothing that costs more than four times that: this
/// is twice the dearest, and a start.
const CPU_SECONDS: u64 = 5;
const CPU_SECONDS_A_MIB: u64 = 10;
/// On a machine that is busy, a second of CPU takes longer.
const DEADLINE_FACTOR: u32 = 4;
/// Real modules of up to 4 MiB take at most 270 MiB, and of all shapes that the gate admits, none takes more than 300 when it
/// fills 4 MiB (docs/limits.md). A node that takes larger ones has to give their compiler more: one of 16 MB takes 614.
const MEMORY_BYTES_A_4_MIB: u64 = 512 << 20;

/// Native code is some three times the size of its module; a module of which it is more than this many times is an attack.
const CODE_FACTOR: u64 = 16;
/// What even an empty module has.
const CODE_BYTES_BASE: u64 = 1 << 20;
pub const CODE_BYTES_MAX: u64 = 64 << 20;

/// What is shown of a dying compiler's last words.
const LAST_WORDS_BYTES: u64 = 2048;

/// Makes native code of modules.
pub enum Compiler {
    /// In this process: for modules of one's own.
    InProcess(CompileEngine),
    /// In a child for each.
    Child(Children),
}

/// Children that are `program`, which must be this `node`, started anew.
pub struct Children {
    program: PathBuf,
    settings: Digest,
    /// What the first child said.
    confinement: OnceLock<Confinement>,
}

/// The compiler failed. It says nothing about the module: another try may go well.
#[derive(Debug, thiserror::Error)]
pub enum CompilerError {
    #[error("cannot start the compiler: {0}")]
    Start(String),
    #[error("the compiler took more than {0} s of CPU")]
    CpuTime(u64),
    #[error("the compiler took more than {0} s")]
    Deadline(u64),
    #[error("the compiler broke off: {cause} ({status}){words}")]
    Died { cause: io::Error, status: ExitStatus, words: String },
    #[error("the compiler is of another build; was the program replaced while it runs?")]
    OtherBuild,
}

impl Compiler {
    pub fn in_process() -> Result<Self, SandboxError> {
        CompileEngine::new().map(Self::InProcess)
    }

    /// For an engine of these [`Sandbox::settings_digest`](super::Sandbox::settings_digest).
    pub fn child(program: impl Into<PathBuf>, settings: Digest) -> Self {
        Self::Child(Children { program: program.into(), settings, confinement: OnceLock::new() })
    }

    /// How the kernel confines children, once there was one.
    pub fn confinement(&self) -> Option<Confinement> {
        match self {
            Self::InProcess(_) => None,
            Self::Child(children) => children.confinement.get().copied(),
        }
    }

    /// The native code of `admitted`, for [`Sandbox::load`](super::Sandbox::load), and for nobody who does not trust
    /// this compiler.
    pub fn compile(&self, admitted: &Admitted) -> Result<Vec<u8>, SandboxError> {
        let wasm = meter::metered(admitted.wasm()).map_err(SandboxError::Meter)?;
        match self {
            Self::InProcess(engine) => native_code(engine, &wasm),
            Self::Child(children) => Session::start(children, bounds(wasm.len()))?.compile(&wasm),
        }
    }
}

fn native_code(engine: &CompileEngine, wasm: &[u8]) -> Result<Vec<u8>, SandboxError> {
    let (code, max) = (engine.compile(wasm)?, code_bytes_max(wasm.len()));
    if code.len() as u64 <= max {
        return Ok(code);
    }
    Err(SandboxError::Compile(format!("its native code has {} bytes; at most {max} are admitted", code.len())))
}

/// The hidden subcommand that is a compiler: its arguments are the seconds and the bytes that it may use.
pub const COMMAND: &str = "compile-one-module";

const fn bounds(wasm_bytes: usize) -> Bounds {
    let mib = (wasm_bytes as u64).div_ceil(1 << 20);
    Bounds { cpu_seconds: CPU_SECONDS + CPU_SECONDS_A_MIB * mib, memory_bytes: MEMORY_BYTES_A_4_MIB * mib.div_ceil(4) }
}

fn code_bytes_max(wasm_bytes: usize) -> u64 {
    (wasm_bytes as u64 * CODE_FACTOR + CODE_BYTES_BASE).min(CODE_BYTES_MAX)
}

/// One child, from its start to its end.
struct Session<'a> {
    of: &'a Children,
    child: Child,
    bounds: Bounds,
}

impl<'a> Session<'a> {
    fn start(of: &'a Children, bounds: Bounds) -> Result<Self, CompilerError> {
        let child = Command::new(&of.program)
            .args([COMMAND, &bounds.cpu_seconds.to_string(), &bounds.memory_bytes.to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| CompilerError::Start(error.to_string()))?;
        Ok(Self { of, child, bounds })
    }

    fn compile(mut self, wasm: &[u8]) -> Result<Vec<u8>, SandboxError> {
        let pid = Pid::from_child(&self.child);
        let deadline = Duration::from_secs(self.bounds.cpu_seconds) * DEADLINE_FACTOR;
        let (over, watched) = mpsc::channel::<()>();
        let (answer, words, is_late) = std::thread::scope(|scope| {
            let watchdog = scope.spawn(move || {
                let is_late = watched.recv_timeout(deadline) == Err(RecvTimeoutError::Timeout);
                // The child is waited for only after this thread has ended, so the number is still its own.
                is_late && kill_process(pid, Signal::KILL).is_ok()
            });
            let answer = self.talk(wasm);
            if answer.is_err() {
                // Whatever it still does is of no use, and it might wait for us.
                let _ = kill_process(pid, Signal::KILL).is_ok();
            }
            let words = self.last_words();
            drop(over);
            (answer, words, watchdog.join().unwrap_or(true))
        });
        let status = self.child.wait().map_err(|error| CompilerError::Start(error.to_string()))?;
        let error = match answer {
            Ok(Reply::Code(code)) => return Ok(code),
            Ok(Reply::Refused(message)) => return Err(SandboxError::Compile(message)),
            Err(error) => error,
        };
        Err(SandboxError::Compiler(match error {
            _ if is_late => CompilerError::Deadline(deadline.as_secs()),
            _ if status.signal() == Some(Signal::XCPU.as_raw()) => CompilerError::CpuTime(self.bounds.cpu_seconds),
            Broken::OtherBuild => CompilerError::OtherBuild,
            Broken::Pipe(cause) => CompilerError::Died { cause, status, words },
        }))
    }

    /// Gives the child its module and takes what it made of it.
    fn talk(&mut self, wasm: &[u8]) -> Result<Reply, Broken> {
        let (Some(mut input), Some(mut output)) = (self.child.stdin.take(), self.child.stdout.take()) else {
            return Err(Broken::Pipe(io::ErrorKind::NotConnected.into()));
        };
        let hello = pipe::read_hello(&mut output)?;
        if hello.settings != self.of.settings {
            return Err(Broken::OtherBuild);
        }
        self.of.confinement.get_or_init(|| hello.confinement);
        pipe::write_request(&mut input, wasm)?;
        drop(input);
        Ok(pipe::read_reply(&mut output, code_bytes_max(wasm.len()))?)
    }

    /// What it wrote to standard error before it ended, on one line.
    fn last_words(&mut self) -> String {
        let mut words = Vec::new();
        let Some(stderr) = self.child.stderr.take() else { return String::new() };
        let _ = stderr.take(LAST_WORDS_BYTES).read_to_end(&mut words);
        let words = String::from_utf8_lossy(&words);
        let words: Vec<&str> = words.split_whitespace().collect();
        if words.is_empty() { String::new() } else { format!(": {}", words.join(" ")) }
    }
}

/// Why there is no answer.
enum Broken {
    OtherBuild,
    Pipe(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Pipe(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_modules_get_more_of_the_machine() {
        let of = |wasm_bytes| (bounds(wasm_bytes).cpu_seconds, bounds(wasm_bytes).memory_bytes >> 20);
        assert_eq!((of(1), of(1 << 20), of(4 << 20)), ((15, 512), (15, 512), (45, 512)));
        assert_eq!((of((4 << 20) + 1), of(16 << 20)), ((55, 1024), (165, 2048)));
    }

    #[test]
    fn a_compiler_that_does_nothing_is_killed_at_its_deadline() {
        let child = Command::new("sleep").arg("1000000").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let bounds = Bounds { cpu_seconds: 0, memory_bytes: 0 };
        let children = Children { program: PathBuf::new(), settings: Digest::of(b""), confinement: OnceLock::new() };
        let session = Session { of: &children, child, bounds };
        let error = session.compile(b"").unwrap_err();
        assert!(matches!(error, SandboxError::Compiler(CompilerError::Deadline(0))), "{error}");
    }
}
