//! Compiler: reads, checks, meters and compiles modules. An untrusted module is compiled in a child
//! process that keeps only its pipes, with bounded time and memory.
//!
//! The result is native code that this process runs. The child process protects us from the cost of
//! a module, and from crashes of the code that reads it. A compiler that was tricked into writing
//! bad code remains a risk.

mod bounds;
mod pipe;
mod answer;
mod child;

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus};
use std::sync::{Arc, OnceLock};

use rustix::process::Signal;

use self::bounds::{bounds, deadline};
pub use self::child::serve_one_module;
use self::pipe::{ChildFrame, CompileStage, PrepareGoal};
use super::SandboxError;
use super::confine::{Bounds, Confinement};
use super::engine::{CompileEngine, IMAGE_BYTES_ALWAYS};
use super::gate::{Admitted, GateLimits, GateReport, Refusal};
use super::meter;
use super::process::{self, ProcessExit, StartError};
use super::text::{NotAModule, TextOrBinary, binary_form, form_of};
use crate::digest::Digest;

/// Native code is about three times the size of its module. Code larger than this multiple is an
/// attack.
const CODE_FACTOR: u64 = 16;
/// Code that even an empty module may have, and the image of a memory with distant segments.
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
pub struct PreparedModule {
    pub admitted: Admitted,
    /// Native code for [`Sandbox::load`](super::Sandbox::load). Load it only if you trust this
    /// compiler.
    pub code: Vec<u8>,
}

/// Admitted module with the meter in it.
pub struct MeteredModule {
    pub admitted: Admitted,
    pub metered: Arc<[u8]>,
}

/// Purpose of the meter in a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeterFor {
    Runs,
    /// Runs that also count each function's gas.
    Profiles,
}

/// The reason why a received module has no native code.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    NotAModule(#[from] NotAModule),
    /// The module is refused. The report holds at least one refusal; the first one is the reason.
    #[error("{}", first(.0))]
    Refused(Box<GateReport>),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

fn first(report: &GateReport) -> String {
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
    pub fn prepare(&self, limits: &GateLimits, bytes: impl Into<Arc<[u8]>>) -> Result<PreparedModule, PrepareError> {
        let bytes = bytes.into();
        match self {
            Self::InProcess(engine) => {
                let admitted = admitted_here(limits, &bytes)?;
                Ok(PreparedModule { code: answer::native_code(engine, &admitted)?, admitted })
            }
            Self::Child(children) => match children.ask(PrepareGoal::Code, limits, &bytes)? {
                (Reply::Code(code), binary) => {
                    let wasm = binary.map_or(bytes, Into::into);
                    Ok(PreparedModule { admitted: Admitted::passed(limits, wasm), code })
                }
                (Reply::Report(report), _) => Err(PrepareError::Refused(report)),
                (Reply::Metered(_), _) => Err(another_question().into()),
            },
        }
    }

    /// Checks and meters `bytes`, a module in text or binary form, for the engines that verify.
    pub fn meter(
        &self,
        purpose: MeterFor,
        limits: &GateLimits,
        bytes: impl Into<Arc<[u8]>>,
    ) -> Result<MeteredModule, PrepareError> {
        let bytes = bytes.into();
        match self {
            Self::InProcess(_) => {
                let admitted = admitted_here(limits, &bytes)?;
                let metered = match purpose {
                    MeterFor::Runs => admitted.metered(),
                    MeterFor::Profiles => meter::counting(admitted.wasm()).map(Into::into),
                };
                Ok(MeteredModule { metered: metered.map_err(SandboxError::Meter)?, admitted })
            }
            Self::Child(children) => {
                let wanted = match purpose {
                    MeterFor::Runs => PrepareGoal::Metered,
                    MeterFor::Profiles => PrepareGoal::Counting,
                };
                match children.ask(wanted, limits, &bytes)? {
                    (Reply::Metered(metered), binary) => {
                        let wasm = binary.map_or(bytes, Into::into);
                        Ok(MeteredModule { admitted: Admitted::passed(limits, wasm), metered: metered.into() })
                    }
                    (Reply::Report(report), _) => Err(PrepareError::Refused(report)),
                    (Reply::Code(_), _) => Err(another_question().into()),
                }
            }
        }
    }

    /// Returns the full report on `bytes`, a module in text or binary form.
    pub fn report(&self, limits: &GateLimits, bytes: &[u8]) -> Result<GateReport, PrepareError> {
        match self {
            Self::InProcess(_) => Ok(GateReport::of(&binary_form(bytes)?, limits)),
            Self::Child(children) => match children.ask(PrepareGoal::Report, limits, bytes)? {
                (Reply::Report(report), _) => Ok(*report),
                (Reply::Code(_) | Reply::Metered(_), _) => Err(another_question().into()),
            },
        }
    }

    /// Compiles `admitted` to native code for [`Sandbox::load`](super::Sandbox::load). Load it only
    /// if you trust this compiler.
    pub fn compile(&self, admitted: &Admitted) -> Result<Vec<u8>, SandboxError> {
        match self {
            Self::InProcess(engine) => answer::native_code(engine, admitted),
            Self::Child(children) => match children.ask(PrepareGoal::Code, admitted.limits(), admitted.wasm()) {
                Ok((Reply::Code(code), _)) => Ok(code),
                Ok((Reply::Report(report), _)) => Err(SandboxError::Compile(first(&report))),
                Ok((Reply::Metered(_), _)) => Err(another_question()),
                Err(PrepareError::Sandbox(error)) => Err(error),
                Err(error) => Err(SandboxError::Compile(error.to_string())),
            },
        }
    }
}

/// Checks a module in this process. Only for modules that the caller trusts.
fn admitted_here(limits: &GateLimits, bytes: &[u8]) -> Result<Admitted, PrepareError> {
    let admitted = Admitted::within(limits, &*binary_form(bytes)?);
    admitted.map_err(|refusal| PrepareError::Refused(Box::new(GateReport::of_refusal(bytes, refusal))))
}

fn another_question() -> SandboxError {
    SandboxError::Compile("the compiler answers another question".into())
}

/// Hidden subcommand that runs the compiler. The arguments are the CPU seconds and the memory bytes
/// that it may use.
pub const COMMAND: &str = "compile-one-module";

fn code_bytes_max(metered_bytes: usize) -> u64 {
    (metered_bytes as u64 * CODE_FACTOR + CODE_BYTES_BASE).min(CODE_BYTES_MAX)
}

/// The successful answer of a child.
enum Reply {
    Code(Vec<u8>),
    Metered(Vec<u8>),
    Report(Box<GateReport>),
}

/// The reason why a child gave no answer.
enum ChildFailure {
    OtherBuild,
    Pipe(io::Error),
    NotText(String),
    NotCompilable(String),
}

impl From<io::Error> for ChildFailure {
    fn from(error: io::Error) -> Self {
        Self::Pipe(error)
    }
}

/// The messages that a child has sent so far.
#[derive(Default)]
struct ChildMessages {
    stage: Option<CompileStage>,
    binary: Option<Vec<u8>>,
    refused: Option<Box<GateReport>>,
}

impl Children {
    fn start(&self, bounds: Bounds) -> Result<Child, CompilerError> {
        let arguments = [COMMAND, &bounds.cpu_seconds.to_string(), &bounds.memory_bytes.to_string()];
        Ok(process::start(&self.program, &arguments)?)
    }

    fn probe(&self) -> Result<(), SandboxError> {
        let bounds = bounds(TextOrBinary::Binary, 0, 0);
        let listen = |_: ChildStdin, mut output: ChildStdout| self.greet(&mut output);
        let (told, end) =
            process::watched(self.start(bounds)?, deadline(bounds), listen).map_err(CompilerError::Watch)?;
        told.map_err(|broken| failure(broken, &ChildMessages::default(), end, bounds))
    }

    /// Starts a child and requests `wanted` for `bytes`. For text, the result includes its binary
    /// form.
    fn ask(
        &self,
        wanted: PrepareGoal,
        limits: &GateLimits,
        bytes: &[u8],
    ) -> Result<(Reply, Option<Vec<u8>>), PrepareError> {
        let form = form_of(bytes)?;
        if form == TextOrBinary::Binary && bytes.len() as u64 > limits.module_bytes {
            // The gate would refuse it for the same reason, without reading more of it.
            return Ok((Reply::Report(Box::new(GateReport::of(bytes, limits))), None));
        }
        let bounds = bounds(form, bytes.len() as u64, limits.module_bytes);
        let mut told = ChildMessages::default();
        let talk = |input, output| self.talk(input, output, (wanted, limits, bytes), &mut told);
        let child = self.start(bounds).map_err(SandboxError::from)?;
        let (reply, end) = process::watched(child, deadline(bounds), talk)
            .map_err(|error| SandboxError::from(CompilerError::Watch(error)))?;
        match (reply, told.refused.take()) {
            (Ok(reply), _) => Ok((reply, told.binary)),
            // The child died while it wrote the full report, but the module is refused in any case.
            (Err(ChildFailure::Pipe(_)), Some(refused)) => Ok((Reply::Report(refused), told.binary)),
            (Err(ChildFailure::NotText(message)), _) => Err(NotAModule::Text(message).into()),
            (Err(broken), _) => Err(of_stage(broken, &told, end, bounds)),
        }
    }

    fn greet(&self, output: &mut ChildStdout) -> Result<(), ChildFailure> {
        let hello = pipe::read_hello(output)?;
        if hello.settings != self.settings {
            return Err(ChildFailure::OtherBuild);
        }
        self.confinement.get_or_init(|| hello.confinement);
        Ok(())
    }

    /// Sends the child its module and reads the answer.
    fn talk(
        &self,
        mut input: ChildStdin,
        mut output: ChildStdout,
        (wanted, limits, bytes): (PrepareGoal, &GateLimits, &[u8]),
        told: &mut ChildMessages,
    ) -> Result<Reply, ChildFailure> {
        self.greet(&mut output)?;
        pipe::write_request(&mut input, wanted, limits, bytes)?;
        drop(input);
        for _ in 0..pipe::FRAMES_MAX {
            match pipe::read_frame(&mut output, CODE_BYTES_MAX)? {
                ChildFrame::Stage(stage) => told.stage = Some(stage),
                ChildFrame::Binary(binary) if is_binary(&binary) => told.binary = Some(binary),
                ChildFrame::Refused(report) if !report.refusals.is_empty() => told.refused = Some(report),
                ChildFrame::Report(report) if wanted == PrepareGoal::Report || !report.refusals.is_empty() => {
                    return Ok(Reply::Report(report));
                }
                ChildFrame::Code(code) if wanted == PrepareGoal::Code && brings(bytes, limits, told) => {
                    return Ok(Reply::Code(code));
                }
                ChildFrame::Metered(metered)
                    if matches!(wanted, PrepareGoal::Metered | PrepareGoal::Counting)
                        && brings(bytes, limits, told) =>
                {
                    return Ok(Reply::Metered(metered));
                }
                ChildFrame::NotText(message) => return Err(ChildFailure::NotText(message)),
                ChildFrame::NotCompilable(message) => return Err(ChildFailure::NotCompilable(message)),
                _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            }
        }
        Err(io::Error::from(io::ErrorKind::InvalidData).into())
    }
}

/// Whether the binary form was told, if `bytes` are text: nothing else has another than it came
/// with.
fn brings(bytes: &[u8], limits: &GateLimits, told: &ChildMessages) -> bool {
    let is_text = form_of(bytes).is_ok_and(|form| form == TextOrBinary::Text);
    let fits = told.binary.as_ref().map(|binary| binary.len() as u64 <= limits.module_bytes);
    fits == is_text.then_some(true)
}

fn is_binary(bytes: &[u8]) -> bool {
    form_of(bytes).is_ok_and(|form| form == TextOrBinary::Binary)
}

/// Maps the death of a child to an error by its last stage. Exceeding a bound while checking or
/// compiling is the module's fault.
fn of_stage(broken: ChildFailure, told: &ChildMessages, end: ProcessExit, bounds: Bounds) -> PrepareError {
    let took = match &broken {
        ChildFailure::Pipe(_) if end.is_late => None,
        ChildFailure::Pipe(_) if end.status.signal() == Some(Signal::XCPU.as_raw()) => {
            Some(format!("{} s of CPU", bounds.cpu_seconds))
        }
        ChildFailure::Pipe(_) if end.words.contains(OUT_OF_MEMORY) => {
            Some(format!("{} MiB", bounds.memory_bytes >> 20))
        }
        _ => None,
    };
    match (took, told.stage) {
        (Some(took), Some(CompileStage::Text)) => NotAModule::TextTooDear(took).into(),
        (Some(took), Some(CompileStage::Gate)) => SandboxError::TooDear { what: "checking", took }.into(),
        (Some(took), Some(CompileStage::Compile)) => SandboxError::TooDear { what: "compiling", took }.into(),
        (_, _) => failure(broken, told, end, bounds).into(),
    }
}

fn failure(broken: ChildFailure, told: &ChildMessages, end: ProcessExit, bounds: Bounds) -> SandboxError {
    let ProcessExit { status, words, is_late } = end;
    SandboxError::Compiler(match broken {
        ChildFailure::NotCompilable(message) | ChildFailure::NotText(message) => return SandboxError::Compile(message),
        ChildFailure::OtherBuild => CompilerError::OtherBuild,
        ChildFailure::Pipe(_) if is_late => CompilerError::Deadline(deadline(bounds).as_secs()),
        ChildFailure::Pipe(_) if status.signal() == Some(Signal::XCPU.as_raw()) && told.stage.is_none() => {
            CompilerError::CpuTime(bounds.cpu_seconds)
        }
        ChildFailure::Pipe(cause) => CompilerError::Died { cause, status, words },
    })
}
