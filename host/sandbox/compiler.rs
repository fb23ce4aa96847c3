//! Compiler: reads, checks, meters and compiles modules; a stranger's in a process of its own, which has given up all but
//! its pipes and is bounded in time and memory.
//!
//! What comes back is native code that we run: that process protects us from what a module costs and from the crashes of
//! all that reads it, not from a compiler that is made to write bad code.

mod bounds;
mod pipe;
mod make;
mod child;

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus};
use std::sync::{Arc, OnceLock};

use rustix::process::Signal;

use self::bounds::{bounds, deadline};
pub use self::child::serve_one_module;
use self::pipe::{Frame, Stage, Wanted};
use super::SandboxError;
use super::check::{Admitted, GateLimits, Refusal, Report};
use super::confine::{Bounds, Confinement};
use super::engine::{CompileEngine, IMAGE_BYTES_ALWAYS};
use super::meter;
use super::process::{self, End, StartError};
use super::text::{Form, NotAModule, binary_form, form_of};
use crate::digest::Digest;

/// Native code is some three times the size of its module; a module of which it is more than this many times is an attack.
const CODE_FACTOR: u64 = 16;
/// What even an empty module has, and the image of a memory whose data lies far apart.
const CODE_BYTES_BASE: u64 = (1 << 20) + IMAGE_BYTES_ALWAYS;
pub const CODE_BYTES_MAX: u64 = 64 << 20;

/// What the program said when an allocation failed: the bounds of its address space are the usual reason.
const OUT_OF_MEMORY: &str = "memory allocation of";

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

/// A module that was brought, admitted and compiled.
pub struct Prepared {
    pub admitted: Admitted,
    /// For [`Sandbox::load`](super::Sandbox::load), and for nobody who does not trust this compiler.
    pub code: Vec<u8>,
}

/// A module that was brought and admitted, with the meter in it.
pub struct Rewritten {
    pub admitted: Admitted,
    pub metered: Arc<[u8]>,
}

/// What the meter is put into a module for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeterFor {
    Runs,
    /// Runs that also count each function's gas.
    Profiles,
}

/// Why there is no native code of what was brought.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    NotAModule(#[from] NotAModule),
    /// The first of the refusals is why; there is at least one.
    #[error("{}", first(.0))]
    Refused(Box<Report>),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

fn first(report: &Report) -> String {
    report.refusals.first().map(Refusal::to_string).unwrap_or_default()
}

/// The compiler failed. It says nothing about the module: another try may go well.
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

    /// Starts a child that is given nothing to do, so that [`Compiler::confinement`] is known.
    pub fn probe(&self) -> Result<(), SandboxError> {
        match self {
            Self::InProcess(_) => Ok(()),
            Self::Child(children) => children.probe(),
        }
    }

    /// Takes `bytes`, a module in either form, through the gate and the compiler.
    pub fn prepare(&self, limits: &GateLimits, bytes: impl Into<Arc<[u8]>>) -> Result<Prepared, PrepareError> {
        let bytes = bytes.into();
        match self {
            Self::InProcess(engine) => {
                let admitted = admitted_here(limits, &bytes)?;
                Ok(Prepared { code: make::native_code(engine, &admitted)?, admitted })
            }
            Self::Child(children) => match children.ask(Wanted::Code, limits, &bytes)? {
                (Reply::Code(code), binary) => {
                    let wasm = binary.map_or(bytes, Into::into);
                    Ok(Prepared { admitted: Admitted::passed(limits, wasm), code })
                }
                (Reply::Report(report), _) => Err(PrepareError::Refused(report)),
                (Reply::Metered(_), _) => Err(another_question().into()),
            },
        }
    }

    /// Takes `bytes`, a module in either form, through the gate and the meter, for engines to
    /// verify with.
    pub fn meter(
        &self,
        purpose: MeterFor,
        limits: &GateLimits,
        bytes: impl Into<Arc<[u8]>>,
    ) -> Result<Rewritten, PrepareError> {
        let bytes = bytes.into();
        match self {
            Self::InProcess(_) => {
                let admitted = admitted_here(limits, &bytes)?;
                let metered = match purpose {
                    MeterFor::Runs => admitted.metered(),
                    MeterFor::Profiles => meter::counting(admitted.wasm()).map(Into::into),
                };
                Ok(Rewritten { metered: metered.map_err(SandboxError::Meter)?, admitted })
            }
            Self::Child(children) => {
                let wanted = match purpose {
                    MeterFor::Runs => Wanted::Metered,
                    MeterFor::Profiles => Wanted::Counting,
                };
                match children.ask(wanted, limits, &bytes)? {
                    (Reply::Metered(metered), binary) => {
                        let wasm = binary.map_or(bytes, Into::into);
                        Ok(Rewritten { admitted: Admitted::passed(limits, wasm), metered: metered.into() })
                    }
                    (Reply::Report(report), _) => Err(PrepareError::Refused(report)),
                    (Reply::Code(_), _) => Err(another_question().into()),
                }
            }
        }
    }

    /// All that can be said of `bytes`, a module in either form; and its binary form, if it was text.
    pub fn report(&self, limits: &GateLimits, bytes: &[u8]) -> Result<Report, PrepareError> {
        match self {
            Self::InProcess(_) => Ok(Report::of(&binary_form(bytes)?, limits)),
            Self::Child(children) => match children.ask(Wanted::Report, limits, bytes)? {
                (Reply::Report(report), _) => Ok(*report),
                (Reply::Code(_) | Reply::Metered(_), _) => Err(another_question().into()),
            },
        }
    }

    /// The native code of `admitted`, for [`Sandbox::load`](super::Sandbox::load), and for nobody who does not trust
    /// this compiler.
    pub fn compile(&self, admitted: &Admitted) -> Result<Vec<u8>, SandboxError> {
        match self {
            Self::InProcess(engine) => make::native_code(engine, admitted),
            Self::Child(children) => match children.ask(Wanted::Code, admitted.limits(), admitted.wasm()) {
                Ok((Reply::Code(code), _)) => Ok(code),
                Ok((Reply::Report(report), _)) => Err(SandboxError::Compile(first(&report))),
                Ok((Reply::Metered(_), _)) => Err(another_question()),
                Err(PrepareError::Sandbox(error)) => Err(error),
                Err(error) => Err(SandboxError::Compile(error.to_string())),
            },
        }
    }
}

/// What is done in this process with a module of one's own.
fn admitted_here(limits: &GateLimits, bytes: &[u8]) -> Result<Admitted, PrepareError> {
    let admitted = Admitted::within(limits, &*binary_form(bytes)?);
    admitted.map_err(|refusal| PrepareError::Refused(Box::new(Report::of_refusal(bytes, refusal))))
}

fn another_question() -> SandboxError {
    SandboxError::Compile("the compiler answers another question".into())
}

/// The hidden subcommand that is a compiler: its arguments are the seconds and the bytes that it may use.
pub const COMMAND: &str = "compile-one-module";

fn code_bytes_max(metered_bytes: usize) -> u64 {
    (metered_bytes as u64 * CODE_FACTOR + CODE_BYTES_BASE).min(CODE_BYTES_MAX)
}

/// What a child came to.
enum Reply {
    Code(Vec<u8>),
    Metered(Vec<u8>),
    Report(Box<Report>),
}

/// Why a child came to nothing.
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

/// What a child has told so far.
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

    /// Has a child make what is `wanted` of `bytes`. Its binary form comes with that, if it is text.
    fn ask(&self, wanted: Wanted, limits: &GateLimits, bytes: &[u8]) -> Result<(Reply, Option<Vec<u8>>), PrepareError> {
        let form = form_of(bytes)?;
        if form == Form::Binary && bytes.len() as u64 > limits.module_bytes {
            // The gate would say the same, and read no more of it.
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
            // It died over the report of a module that is refused in any case.
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

    /// Gives the child its module and takes what it made of it.
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
                Frame::Code(code) if wanted == Wanted::Code && brings(bytes, limits, told) => {
                    return Ok(Reply::Code(code));
                }
                Frame::Metered(metered)
                    if matches!(wanted, Wanted::Metered | Wanted::Counting) && brings(bytes, limits, told) =>
                {
                    return Ok(Reply::Metered(metered));
                }
                Frame::NotText(message) => return Err(Broken::NotText(message)),
                Frame::NotCompilable(message) => return Err(Broken::NotCompilable(message)),
                _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            }
        }
        Err(io::Error::from(io::ErrorKind::InvalidData).into())
    }
}

/// Whether the binary form was told, if `bytes` are text: nothing else has another than it came
/// with.
fn brings(bytes: &[u8], limits: &GateLimits, told: &Told) -> bool {
    let is_text = form_of(bytes).is_ok_and(|form| form == Form::Text);
    let fits = told.binary.as_ref().map(|binary| binary.len() as u64 <= limits.module_bytes);
    fits == is_text.then_some(true)
}

fn is_binary(bytes: &[u8]) -> bool {
    form_of(bytes).is_ok_and(|form| form == Form::Binary)
}

/// What a child died of, by what it was at: what a module costs is the module's fault.
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
