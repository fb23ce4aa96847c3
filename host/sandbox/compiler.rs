//! Compiler: reads, checks, meters and compiles modules. An untrusted module is compiled in a child
//! process that keeps only its pipes, with bounded time and memory.
//!
//! The result is native code that this process runs. The child process protects us from the cost of
//! a module, and from crashes of the code that reads it. A compiler that was tricked into writing
//! bad code remains a risk.

mod pipe;
mod make;
mod child;

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::Signal;

pub use self::child::serve_one_module;
use self::pipe::{Frame, Stage, Wanted};
use super::SandboxError;
use super::check::{Admitted, GateLimits, Refusal, Report};
use super::confine::{Bounds, Confinement};
use super::engine::{CompileEngine, IMAGE_BYTES_ALWAYS};
use super::process::{self, End, StartError};
use super::text::{Form, NotAModule, binary_form, form_of};
use crate::digest::Digest;

/// Bounds of CPU time. Ordinary code costs 0.8 to 1.4 s of CPU per MiB, and the gate admits at most
/// four times that. The bound is twice the most expensive code, plus a start.
const CPU_SECONDS: u64 = 5;
const CPU_SECONDS_A_MIB: u64 = 10;
/// Text is read at about 10 MiB per second. Some text costs the square of its length; such text is
/// not read to its end.
const CPU_SECONDS_A_MIB_OF_TEXT: u64 = 1;
/// Deadline in multiples of the CPU bound. On a busy machine, one second of CPU takes longer than a
/// second.
const DEADLINE_FACTOR: u32 = 4;
/// Metered modules of up to 4 MiB, from real programs, take at most 400 MiB. No admitted shape of 4
/// MiB takes more than this bound (docs/limits.md). A node that admits larger modules must give
/// their compiler more.
const MEMORY_BYTES_A_4_MIB: u64 = 768 << 20;
/// Memory for each byte of text: 1.5 times what ordinary text takes while it is read.
const MEMORY_A_BYTE_OF_TEXT: u64 = 32;

/// Native code is about three times the size of its module. Code larger than this multiple is an
/// attack.
const CODE_FACTOR: u64 = 16;
/// Code size that even an empty module may have, plus the image of a memory whose data segments lie
/// far apart.
const CODE_BYTES_BASE: u64 = (1 << 20) + IMAGE_BYTES_ALWAYS;
pub const CODE_BYTES_MAX: u64 = 64 << 20;

/// Message of the runtime when an allocation fails. The usual reason is the bound on address space.
const OUT_OF_MEMORY: &str = "memory allocation of";

/// Compiles modules to native code.
pub enum Compiler {
    /// Compiles in this process. Use it only for trusted modules.
    InProcess(CompileEngine),
    /// Compiles each module in its own child process.
    Child(Children),
}

/// Child processes that run `program`, which must be the same binary as this `node`.
pub struct Children {
    program: PathBuf,
    settings: Digest,
    /// Confinement that the first child reported.
    confinement: OnceLock<Confinement>,
}

/// A module that was received, admitted and compiled.
pub struct Prepared {
    pub admitted: Admitted,
    /// Native code for [`Sandbox::load`](super::Sandbox::load). Load it only if you trust this
    /// compiler.
    pub code: Vec<u8>,
}

/// The reason why a received module has no native code.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    NotAModule(#[from] NotAModule),
    /// The module is refused. The report holds at least one refusal; the first one is the reason.
    #[error("{}", first(.0))]
    Refused(Box<Report>),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

fn first(report: &Report) -> String {
    report.refusals.first().map(Refusal::to_string).unwrap_or_default()
}

/// The compiler failed. The failure says nothing about the module, and another attempt may succeed.
#[derive(Debug, thiserror::Error)]
pub enum CompilerError {
    #[error("cannot start the compiler, {0}")]
    Start(#[from] StartError),
    #[error("cannot watch the compiler: {0}")]
    Watch(io::Error),
    #[error("the compiler took more than {0} s of CPU before it was given a module")]
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

    /// Creates a compiler that starts a child for each module. The engine must have this
    /// [`Sandbox::settings_digest`](super::Sandbox::settings_digest).
    pub fn child(program: impl Into<PathBuf>, settings: Digest) -> Self {
        Self::Child(Children { program: program.into(), settings, confinement: OnceLock::new() })
    }

    /// Returns how the kernel confines children. `None` before the first child has run.
    pub fn confinement(&self) -> Option<Confinement> {
        match self {
            Self::InProcess(_) => None,
            Self::Child(children) => children.confinement.get().copied(),
        }
    }

    /// Starts a child without a module, so that [`Compiler::confinement`] is known.
    pub fn probe(&self) -> Result<(), SandboxError> {
        match self {
            Self::InProcess(_) => Ok(()),
            Self::Child(children) => children.probe(),
        }
    }

    /// Checks and compiles `bytes`, a module in text or binary form.
    pub fn prepare(&self, limits: &GateLimits, bytes: impl Into<Arc<[u8]>>) -> Result<Prepared, PrepareError> {
        let bytes = bytes.into();
        match self {
            Self::InProcess(engine) => {
                let admitted = Admitted::within(limits, &*binary_form(&bytes)?);
                let admitted =
                    admitted.map_err(|refusal| PrepareError::Refused(Box::new(Report::of_refusal(&bytes, refusal))))?;
                Ok(Prepared { code: make::native_code(engine, &admitted)?, admitted })
            }
            Self::Child(children) => match children.ask(Wanted::Code, limits, &bytes)? {
                (Reply::Code(code), binary) => {
                    let wasm = binary.map_or(bytes, Into::into);
                    Ok(Prepared { admitted: Admitted::passed(limits, wasm), code })
                }
                (Reply::Report(report), _) => Err(PrepareError::Refused(report)),
            },
        }
    }

    /// Returns the full report on `bytes`, a module in text or binary form.
    pub fn report(&self, limits: &GateLimits, bytes: &[u8]) -> Result<Report, PrepareError> {
        match self {
            Self::InProcess(_) => Ok(Report::of(&binary_form(bytes)?, limits)),
            Self::Child(children) => match children.ask(Wanted::Report, limits, bytes)? {
                (Reply::Report(report), _) => Ok(*report),
                (Reply::Code(_), _) => {
                    Err(SandboxError::Compile("the compiler answers another question".into()).into())
                }
            },
        }
    }

    /// Compiles `admitted` to native code for [`Sandbox::load`](super::Sandbox::load). Load it only
    /// if you trust this compiler.
    pub fn compile(&self, admitted: &Admitted) -> Result<Vec<u8>, SandboxError> {
        match self {
            Self::InProcess(engine) => make::native_code(engine, admitted),
            Self::Child(children) => match children.ask(Wanted::Code, admitted.limits(), admitted.wasm()) {
                Ok((Reply::Code(code), _)) => Ok(code),
                Ok((Reply::Report(report), _)) => Err(SandboxError::Compile(first(&report))),
                Err(PrepareError::Sandbox(error)) => Err(error),
                Err(error) => Err(SandboxError::Compile(error.to_string())),
            },
        }
    }
}

/// Hidden subcommand that runs the compiler. The arguments are the CPU seconds and the memory bytes
/// that it may use.
pub const COMMAND: &str = "compile-one-module";

/// Computes the bounds of a child for `bytes` of one form. The gate admits modules of at most
/// `module_bytes_max`.
fn bounds(form: Form, bytes: u64, module_bytes_max: u64) -> Bounds {
    let text_bytes = if form == Form::Text { bytes } else { 0 };
    let mib = bytes.min(module_bytes_max).div_ceil(1 << 20);
    Bounds {
        cpu_seconds: CPU_SECONDS + CPU_SECONDS_A_MIB * mib + CPU_SECONDS_A_MIB_OF_TEXT * text_bytes.div_ceil(1 << 20),
        memory_bytes: MEMORY_BYTES_A_4_MIB * mib.div_ceil(4) + MEMORY_A_BYTE_OF_TEXT * text_bytes,
    }
}

fn code_bytes_max(metered_bytes: usize) -> u64 {
    (metered_bytes as u64 * CODE_FACTOR + CODE_BYTES_BASE).min(CODE_BYTES_MAX)
}

/// The successful answer of a child.
enum Reply {
    Code(Vec<u8>),
    Report(Box<Report>),
}

/// The reason why a child gave no answer.
enum Broken {
    OtherBuild,
    Pipe(io::Error),
    NotText(String),
    NotCompilable(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Pipe(error)
    }
}

/// The messages that a child has sent so far.
#[derive(Default)]
struct Told {
    stage: Option<Stage>,
    binary: Option<Vec<u8>>,
    refused: Option<Box<Report>>,
}

impl Children {
    fn start(&self, bounds: Bounds) -> Result<Child, CompilerError> {
        let arguments = [COMMAND, &bounds.cpu_seconds.to_string(), &bounds.memory_bytes.to_string()];
        Ok(process::start(&self.program, &arguments)?)
    }

    fn probe(&self) -> Result<(), SandboxError> {
        let bounds = bounds(Form::Binary, 0, 0);
        let listen = |_: ChildStdin, mut output: ChildStdout| self.greet(&mut output);
        let (told, end) =
            process::watched(self.start(bounds)?, deadline(bounds), listen).map_err(CompilerError::Watch)?;
        told.map_err(|broken| failure(broken, &Told::default(), end, bounds))
    }

    /// Starts a child and requests `wanted` for `bytes`. For text, the result includes its binary
    /// form.
    fn ask(&self, wanted: Wanted, limits: &GateLimits, bytes: &[u8]) -> Result<(Reply, Option<Vec<u8>>), PrepareError> {
        let form = form_of(bytes)?;
        if form == Form::Binary && bytes.len() as u64 > limits.module_bytes {
            // The gate would refuse it for the same reason, without reading more of it.
            return Ok((Reply::Report(Box::new(Report::of(bytes, limits))), None));
        }
        let bounds = bounds(form, bytes.len() as u64, limits.module_bytes);
        let mut told = Told::default();
        let talk = |input, output| self.talk(input, output, (wanted, limits, bytes), &mut told);
        let child = self.start(bounds).map_err(SandboxError::from)?;
        let (reply, end) = process::watched(child, deadline(bounds), talk)
            .map_err(|error| SandboxError::from(CompilerError::Watch(error)))?;
        match (reply, told.refused.take()) {
            (Ok(reply), _) => Ok((reply, told.binary)),
            // The child died while it wrote the full report, but the module is refused in any case.
            (Err(Broken::Pipe(_)), Some(refused)) => Ok((Reply::Report(refused), told.binary)),
            (Err(Broken::NotText(message)), _) => Err(NotAModule::Text(message).into()),
            (Err(broken), _) => Err(of_stage(broken, &told, end, bounds)),
        }
    }

    fn greet(&self, output: &mut ChildStdout) -> Result<(), Broken> {
        let hello = pipe::read_hello(output)?;
        if hello.settings != self.settings {
            return Err(Broken::OtherBuild);
        }
        self.confinement.get_or_init(|| hello.confinement);
        Ok(())
    }

    /// Sends the child its module and reads the answer.
    fn talk(
        &self,
        mut input: ChildStdin,
        mut output: ChildStdout,
        (wanted, limits, bytes): (Wanted, &GateLimits, &[u8]),
        told: &mut Told,
    ) -> Result<Reply, Broken> {
        self.greet(&mut output)?;
        pipe::write_request(&mut input, wanted, limits, bytes)?;
        drop(input);
        for _ in 0..pipe::FRAMES_MAX {
            match pipe::read_frame(&mut output, CODE_BYTES_MAX)? {
                Frame::Stage(stage) => told.stage = Some(stage),
                Frame::Binary(binary) if is_binary(&binary) => told.binary = Some(binary),
                Frame::Refused(report) if !report.refusals.is_empty() => told.refused = Some(report),
                Frame::Report(report) if wanted == Wanted::Report || !report.refusals.is_empty() => {
                    return Ok(Reply::Report(report));
                }
                Frame::Code(code) if wanted == Wanted::Code => {
                    // Only text gets a binary form; a binary module already is its own.
                    let is_text = form_of(bytes).is_ok_and(|form| form == Form::Text);
                    let fits = told.binary.as_ref().map(|binary| binary.len() as u64 <= limits.module_bytes);
                    if fits != is_text.then_some(true) {
                        return Err(io::Error::from(io::ErrorKind::InvalidData).into());
                    }
                    return Ok(Reply::Code(code));
                }
                Frame::NotText(message) => return Err(Broken::NotText(message)),
                Frame::NotCompilable(message) => return Err(Broken::NotCompilable(message)),
                _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            }
        }
        Err(io::Error::from(io::ErrorKind::InvalidData).into())
    }
}

fn is_binary(bytes: &[u8]) -> bool {
    form_of(bytes).is_ok_and(|form| form == Form::Binary)
}

fn deadline(bounds: Bounds) -> Duration {
    Duration::from_secs(bounds.cpu_seconds) * DEADLINE_FACTOR
}

/// Maps the death of a child to an error by its last stage. Exceeding a bound while checking or
/// compiling is the module's fault.
fn of_stage(broken: Broken, told: &Told, end: End, bounds: Bounds) -> PrepareError {
    let took = match &broken {
        Broken::Pipe(_) if end.is_late => None,
        Broken::Pipe(_) if end.status.signal() == Some(Signal::XCPU.as_raw()) => {
            Some(format!("{} s of CPU", bounds.cpu_seconds))
        }
        Broken::Pipe(_) if end.words.contains(OUT_OF_MEMORY) => Some(format!("{} MiB", bounds.memory_bytes >> 20)),
        _ => None,
    };
    match (took, told.stage) {
        (Some(took), Some(Stage::Text)) => NotAModule::TextTooDear(took).into(),
        (Some(took), Some(Stage::Gate)) => SandboxError::TooDear { what: "checking", took }.into(),
        (Some(took), Some(Stage::Compile)) => SandboxError::TooDear { what: "compiling", took }.into(),
        (_, _) => failure(broken, told, end, bounds).into(),
    }
}

fn failure(broken: Broken, told: &Told, end: End, bounds: Bounds) -> SandboxError {
    let End { status, words, is_late } = end;
    SandboxError::Compiler(match broken {
        Broken::NotCompilable(message) | Broken::NotText(message) => return SandboxError::Compile(message),
        Broken::OtherBuild => CompilerError::OtherBuild,
        Broken::Pipe(_) if is_late => CompilerError::Deadline(deadline(bounds).as_secs()),
        Broken::Pipe(_) if status.signal() == Some(Signal::XCPU.as_raw()) && told.stage.is_none() => {
            CompilerError::CpuTime(bounds.cpu_seconds)
        }
        Broken::Pipe(cause) => CompilerError::Died { cause, status, words },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_modules_get_more_of_the_machine() {
        let of = |form, bytes| {
            let bounds = bounds(form, bytes, 16 << 20);
            (bounds.cpu_seconds, bounds.memory_bytes >> 20)
        };
        let binary = |bytes| of(Form::Binary, bytes);
        assert_eq!((binary(1), binary(1 << 20), binary(4 << 20)), ((15, 768), (15, 768), (45, 768)));
        assert_eq!((binary((4 << 20) + 1), binary(16 << 20)), ((55, 1536), (165, 3072)));
        assert_eq!(of(Form::Text, 4 << 20), (49, 768 + 128), "reading text comes on top");
        assert_eq!(
            bounds(Form::Text, 16 << 20, 4 << 20).cpu_seconds,
            5 + 40 + 16,
            "the module is no longer than admitted"
        );
    }
}
