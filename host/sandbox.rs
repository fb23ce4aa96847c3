//! The sandbox: runs one guest on one input, and returns its output. All code that touches a guest
//! is here. The sandbox is synchronous. Each run gets its own store and instance; runs never share
//! them.

mod outcome;
mod interrupt;
mod interface;
mod constant;
pub mod meter;
mod gate;
mod text;
mod trace;
mod priority;
mod gas_meter;
mod abi;
mod functions;
mod native;
mod engine;
mod threads;
mod confine;
mod process;
mod compiler;
mod link;
mod wasmi;
mod reference;

use std::io;
use std::sync::Arc;

use memmap2::Mmap;
use wasmtime::{InstancePre, Linker, ModuleExport, Store};

use self::abi::HostState;
pub use self::abi::{Input, Invocation};
pub use self::compiler::{
    CODE_BYTES_MAX, COMMAND as COMPILE_COMMAND, Compiler, CompilerError, MeterFor, MeteredModule, PrepareError,
    PreparedModule, serve_one_module,
};
pub use self::confine::{Bounds, Confinement, ProcessPurpose, confine, deny_access};
use self::engine::Engine;
pub use self::engine::{CompileEngine, NAME as ENGINE_NAME};
pub use self::gas_meter::{Claimed, RunControl};
pub use self::gate::{
    Admitted, CompileEstimate, GateLimits, GateReport, LIMITS, Limit, LimitName, Position, ProgramKind, Refusal, Rule,
};
use self::interrupt::HostInterrupt;
pub use self::interrupt::{ClaimedAmount, InputError};
use self::link::{MemoryLimiter, StoreData};
pub use self::meter::QUANTUM;
use self::meter::{MeterError, MeterState};
pub use self::native::NativeCode;
pub use self::outcome::{Outcome, Trap};
pub use self::priority::prioritise_server;
pub use self::process::{ProcessExit as ProcessEnd, StartError, enter, start, watched};
pub use self::reference::{EngineKind, Reference, ReferenceEngine};
pub use self::text::{NotAModule, TEXT_BYTES_MAX, TextOrBinary, binary_form, form_of};
use self::threads::GuestThreads;
pub use self::threads::with_guest_stack;
use self::trace::Tracer;
pub use self::trace::{Checkpoint, START as TRACED_START, Trace, TraceWindow, TracedCall};
use crate::digest::Digest;
use crate::limits::{Limits, Usage};

/// The host cannot run the guest. The error proves nothing about the guest, and another attempt may
/// succeed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("the engine failed: {0}")]
    Engine(String),
    #[error("cannot reserve address space for {runs} guests at once: {cause}; lower --jobs, or raise `ulimit -v`")]
    AddressSpace { runs: u32, cause: String },
    #[error("cannot start a thread to run guests: {0}; lower --jobs, or raise `ulimit -v` or `ulimit -u`")]
    Thread(io::Error),
    #[error("the module passed the gate, but {0}")]
    Meter(MeterError),
    /// The compiler rejects the module. The result is the same on each attempt.
    #[error("the module cannot be compiled: {0}")]
    Compile(String),
    /// Checking or compiling the module exceeded `took`, the limit of the child process for a
    /// module of this size.
    #[error(
        "the module cannot be compiled: {what} it took more than {took}, the most for a module of its size; split its functions, and lower the limit for inlining"
    )]
    TooDear { what: &'static str, took: String },
    #[error("{0}; the module may be compiled at another try")]
    Compiler(#[from] CompilerError),
    #[error("the host has no memory for what the job's limits allow; lower them, or run fewer at once")]
    HostMemory,
    #[error("a memory limit of {0} bytes is more than the {max} that 32-bit WebAssembly can address", max = Limits::MEMORY_BYTES_MAX)]
    MemoryLimitTooHigh(u64),
    #[error("the host has no memory for native code: {0}")]
    CodeMemory(#[from] io::Error),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("the run was not done by its deadline; allow it more time with --timeout")]
    Deadline,
    #[error("the run was cancelled")]
    Cancelled,
    /// Only for a run that is checked against a claim.
    #[error("the run used more than is claimed of it")]
    BeyondClaim(ClaimedAmount),
}

impl SandboxError {
    /// Returns the stable name of the error, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Compile(_) | Self::TooDear { .. } => "not_compilable",
            Self::Compiler(_) => "compiler_failed",
            Self::HostMemory | Self::CodeMemory(_) => "host_memory",
            Self::MemoryLimitTooHigh(_) => "memory_limit_too_high",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::BeyondClaim(_) => "beyond_claim",
            Self::Engine(_) | Self::AddressSpace { .. } | Self::Thread(_) | Self::Meter(_) | Self::Input(_) => {
                "sandbox"
            }
        }
    }

    fn engine(error: wasmtime::Error) -> Self {
        Self::Engine(format!("{error:#}"))
    }

    fn compile(error: wasmtime::Error) -> Self {
        Self::Compile(format!("{error:#}"))
    }
}

pub struct Sandbox {
    engine: Engine,
    linker: Linker<StoreData>,
    threads: GuestThreads,
}

/// A compiled module. One program can run any number of times, also concurrently.
#[derive(Clone)]
pub struct Program {
    instance: InstancePre<StoreData>,
    run: ModuleExport,
    /// Exports that the host calls before `run`: the guest's start function, and `_initialize` of a
    /// reactor.
    starts: Vec<ModuleExport>,
    /// Gas for the host's own work before any of these functions, such as instantiation.
    start_gas: u64,
    memory: ModuleExport,
    memory_bytes_min: u64,
    /// Must be the last field. Fields are dropped in order, and the module inside `instance` must
    /// be dropped before its code.
    code: Option<Arc<Mmap>>,
}

impl Program {
    /// Returns the memory that the native code takes, in bytes.
    pub fn code_bytes(&self) -> u64 {
        self.code.as_ref().map_or(0, |code| code.len() as u64)
    }
}

/// The result of a run.
#[derive(Debug)]
pub struct Execution {
    pub outcome: Outcome,
    /// The digest that the guest committed, or else the digest of its output. `None` unless the
    /// outcome is [`Outcome::Done`].
    pub proof: Option<Digest>,
    /// The output that the guest wrote, up to the point where the run ended.
    pub output: Vec<u8>,
    pub log: Vec<u8>,
    pub usage: Usage,
    /// Present if the work asked for a trace.
    pub trace: Option<Trace>,
}

impl Sandbox {
    /// Reserves address space for `concurrent_runs` guests at once, and starts as many threads.
    /// Starting one more guest than that is an error; it does not wait.
    pub fn new(concurrent_runs: u32) -> Result<Self, SandboxError> {
        let engine = Engine::new(concurrent_runs)?;
        let linker = link::linker(engine.inner()).map_err(SandboxError::engine)?;
        let threads = GuestThreads::start(concurrent_runs).map_err(SandboxError::Thread)?;
        Ok(Self { engine, linker, threads })
    }

    /// Creates a sandbox on a verification engine, for one run at a time.
    fn to_verify(engine: Engine) -> Result<Self, SandboxError> {
        let linker = link::linker(engine.inner()).map_err(SandboxError::engine)?;
        let threads = GuestThreads::start(0).map_err(SandboxError::Thread)?;
        Ok(Self { engine, linker, threads })
    }

    /// Queues `work` for a thread that can run guests.
    pub fn submit(&self, work: impl FnOnce() + Send + 'static) {
        self.threads.submit(work);
    }

    /// Compiles in this process. Use it only for modules that the node's owner trusts.
    pub fn compile(&self, admitted: &Admitted) -> Result<Program, SandboxError> {
        let code = NativeCode::of(&Compiler::in_process()?.compile(admitted)?)?;
        // SAFETY: our own compiler has just produced the code.
        unsafe { self.load(code) }
    }

    /// Makes a program from native code.
    ///
    /// # Safety
    ///
    /// `code` must be the result of [`Compiler::compile`] for an engine with the same
    /// [`Sandbox::settings_digest`]. The code becomes executable in this process.
    pub unsafe fn load(&self, code: NativeCode) -> Result<Program, SandboxError> {
        // SAFETY: the caller's promise is the condition of `NativeCode::load`.
        let (module, code) = unsafe { code.load(self.engine.inner()) }.map_err(SandboxError::engine)?;
        self.program(&module, Some(code))
    }

    /// Compiles a metered module in this process. The engine may be another one than the serving
    /// engine.
    fn compile_here(&self, metered: &[u8]) -> Result<Program, SandboxError> {
        let module = wasmtime::Module::from_binary(self.engine.inner(), metered).map_err(SandboxError::compile)?;
        self.program(&module, None)
    }

    fn program(&self, module: &wasmtime::Module, code: Option<Arc<Mmap>>) -> Result<Program, SandboxError> {
        let export = |name: &str| {
            let index = module.get_export_index(name).zip(module.get_export(name));
            index.ok_or_else(|| SandboxError::Engine(format!("an export that the gate saw is gone: {name}")))
        };
        let (run, _) = export("run")?;
        let (memory, memory_type) = export("memory")?;
        let memory_type = memory_type.memory().map(|memory| memory.minimum() * memory.page_size());
        Ok(Program {
            run,
            starts: meter::STARTS.iter().filter_map(|name| module.get_export_index(name)).collect(),
            start_gas: meter::start_gas(module.exports().map(|export| export.name())),
            memory,
            memory_bytes_min: memory_type.unwrap_or(0),
            instance: self.linker.instantiate_pre(module).map_err(SandboxError::engine)?,
            code,
        })
    }

    /// Returns a digest of everything except the module that native code depends on.
    pub fn settings_digest(&self) -> Digest {
        self.engine.settings_digest()
    }

    /// Runs `program` on `work` to its end. The run uses this thread if [`Sandbox::submit`] started
    /// it, and a new thread otherwise.
    pub fn run(&self, program: &Program, work: Invocation) -> Result<Execution, SandboxError> {
        with_guest_stack(|| self.run_here(program, work)).map_err(SandboxError::Thread)?
    }

    fn run_here(&self, program: &Program, work: Invocation) -> Result<Execution, SandboxError> {
        let limits = work.limits;
        if limits.memory_bytes > Limits::MEMORY_BYTES_MAX {
            return Err(SandboxError::MemoryLimitTooHigh(limits.memory_bytes));
        }
        let run = HostState::new(work);
        if program.memory_bytes_min > limits.memory_bytes {
            return Ok(memory_limit(run));
        }
        let mut guest =
            StoreData { run, instance: None, memory: None, stop: None, growth: MemoryLimiter::new(&limits) };
        let state = match guest.run.start(program.start_gas) {
            Ok(state) => state,
            Err(stop) => return stopped_at_start(stop, guest.growth, guest.run),
        };
        let mut store = Store::new(self.engine.inner(), guest);
        store.limiter(|guest| &mut guest.growth);
        let returned = call(&mut store, program, state);
        if let (true, Some(memory)) = (store.data().run.tracer.is_some(), store.data().memory) {
            let counters = link::counters(&mut store);
            let (memory, guest) = memory.data_and_store_mut(&mut store);
            guest.run.end(memory, counters);
        }
        let StoreData { run, stop, growth, .. } = store.into_data();
        conclude(returned.map_err(RunFailure::from), stop, growth, run)
    }
}

/// Instantiates the program in `store`, then calls its start functions and `run`. `state` is the
/// meter's state at the start.
fn call(store: &mut Store<StoreData>, program: &Program, mut state: i64) -> wasmtime::Result<(i32, i64)> {
    let instance = program.instance.instantiate(&mut *store)?;
    let no_such_export = || wasmtime::format_err!("an export that the gate saw is gone");
    let memory = instance.get_module_export(&mut *store, &program.memory).and_then(|found| found.into_memory());
    store.data_mut().memory = Some(memory.ok_or_else(no_such_export)?);
    store.data_mut().instance = Some(instance);
    for start in &program.starts {
        let start = instance.get_module_export(&mut *store, start).and_then(|found| found.into_func());
        state = start.ok_or_else(no_such_export)?.typed::<i64, i64>(&*store)?.call(&mut *store, state)?;
    }
    let run = instance.get_module_export(&mut *store, &program.run).and_then(|found| found.into_func());
    run.ok_or_else(no_such_export)?.typed::<i64, (i32, i64)>(&*store)?.call(store, state)
}

/// The result of calling `run`: its return value and the final state, or the reason why the engine
/// stopped.
type RunReturn = Result<(i32, i64), RunFailure>;

enum RunFailure {
    /// The guest caused it.
    Trap(Outcome),
    /// A host call caused it, or the engine itself failed.
    Engine(String),
}

impl From<wasmtime::Error> for RunFailure {
    fn from(error: wasmtime::Error) -> Self {
        let outcome = error.downcast_ref::<wasmtime::Trap>().and_then(|trap| engine::outcome_of(*trap));
        outcome.map_or_else(|| Self::Engine(format!("{error:#}")), Self::Trap)
    }
}

/// Separates endings that the guest caused from failures of the host, and computes the gas used.
fn conclude(
    returned: RunReturn,
    stop: Option<HostInterrupt>,
    growth: MemoryLimiter,
    mut run: HostState,
) -> Result<Execution, SandboxError> {
    if growth.host_failed {
        return Err(SandboxError::HostMemory);
    }
    let ending = match (returned, stop) {
        (_, Some(stop)) => Err(stop),
        (Ok((code, state)), None) => run.gas_meter.finish(MeterState::from_i64(state)).map(|gas| (code, gas)),
        (Err(RunFailure::Trap(outcome)), None) => Err(outcome.into()),
        (Err(RunFailure::Engine(message)), None) => return Err(SandboxError::Engine(message)),
    };
    let (outcome, gas) = match ending {
        Ok((0, gas)) => (Outcome::Done, gas),
        Ok((code, gas)) => (Outcome::Failed(code), gas),
        Err(HostInterrupt::Guest(outcome)) => (outcome, run.gas_meter.forfeit()),
        Err(HostInterrupt::Input(error)) => return Err(error.into()),
        Err(HostInterrupt::HostMemory) => return Err(SandboxError::HostMemory),
        Err(HostInterrupt::Deadline) => return Err(SandboxError::Deadline),
        Err(HostInterrupt::Cancelled) => return Err(SandboxError::Cancelled),
        Err(HostInterrupt::BeyondClaim(beyond)) => return Err(SandboxError::BeyondClaim(beyond)),
    };
    Ok(execution(outcome, run, Usage { gas, memory_bytes: growth.memory_bytes }))
}

/// Ends a run that was stopped at its start: too little gas, cancelled, or past its deadline.
fn stopped_at_start(stop: HostInterrupt, growth: MemoryLimiter, run: HostState) -> Result<Execution, SandboxError> {
    conclude(Err(RunFailure::Engine(String::new())), Some(stop), growth, run)
}

/// Ends a run before it begins, because its module declares more memory than the job allows.
fn memory_limit(run: HostState) -> Execution {
    execution(Outcome::MemoryLimit, run, Usage::default())
}

fn execution(outcome: Outcome, run: HostState, usage: Usage) -> Execution {
    let proof = (outcome == Outcome::Done).then(|| run.committed.unwrap_or_else(|| Digest::of(&run.output)));
    let trace = run.tracer.map(Tracer::finish);
    Execution { outcome, proof, output: run.output, log: run.log, usage, trace }
}
