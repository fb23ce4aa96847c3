//! Bytes in, bytes out: everything that touches a guest. Synchronous; a store and an instance a run, never shared.

mod outcome;
mod stop;
mod interface;
mod constant;
pub mod meter;
mod check;
mod text;
mod trace;
mod refill;
mod abi;
mod functions;
mod native;
mod engine;
mod threads;
mod confine;
mod process;
mod compiler;
mod link;
mod interpreter;
mod reference;

use std::io;
use std::sync::Arc;

use memmap2::Mmap;
use wasmtime::{InstancePre, Linker, ModuleExport, Store};

use self::abi::RunState;
pub use self::abi::{Input, Work};
pub use self::check::{Admitted, GateLimits, Kind, LIMITS, Limit, LimitName, Place, Price, Refusal, Report, Rule};
pub use self::compiler::{
    CODE_BYTES_MAX, COMMAND as COMPILE_COMMAND, Compiler, CompilerError, MeterFor, PrepareError, Prepared, Rewritten,
    serve_one_module,
};
pub use self::confine::{Bounds, Confinement, Purpose, confine, deny_access};
use self::engine::Engine;
pub use self::engine::{CompileEngine, NAME as ENGINE_NAME};
use self::link::{Growth, Guest};
pub use self::meter::QUANTUM;
use self::meter::{MeterError, State};
pub use self::native::NativeCode;
pub use self::outcome::{Outcome, Trap};
pub use self::process::{End as ProcessEnd, StartError, enter, start, watched};
pub use self::reference::{EngineKind, Reference, ReferenceEngine};
pub use self::refill::{Claimed, Watch};
use self::stop::Stop;
pub use self::stop::{Beyond, InputError};
pub use self::text::{Form, NotAModule, TEXT_BYTES_MAX, binary_form, form_of};
use self::threads::GuestThreads;
pub use self::threads::with_guest_stack;
use self::trace::Tracer;
pub use self::trace::{Call, Checkpoint, START as TRACED_START, Trace, Window};
use crate::digest::Digest;
use crate::limits::{Limits, Usage};

/// The host cannot run the guest. It proves nothing about the guest, and another try may go well.
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
    /// The compiler's verdict on the module: the same whenever it is asked.
    #[error("the module cannot be compiled: {0}")]
    Compile(String),
    /// What the module costs, of whatever the child could use for one of its size.
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
    /// Only of a run that is checked against a claim.
    #[error("the run used more than is claimed of it")]
    BeyondClaim(Beyond),
}

impl SandboxError {
    /// A stable name for programs.
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
    linker: Linker<Guest>,
    threads: GuestThreads,
}

/// A compiled module, ready to run any number of times, at once too.
#[derive(Clone)]
pub struct Program {
    instance: InstancePre<Guest>,
    run: ModuleExport,
    /// What is called before `run`: the guest's start function, and what a reactor has for one.
    starts: Vec<ModuleExport>,
    /// What the host does before any of these, in gas.
    start_gas: u64,
    memory: ModuleExport,
    memory_bytes_min: u64,
    /// The last field, because fields are dropped in their order: the module that is in it goes first.
    code: Option<Arc<Mmap>>,
}

impl Program {
    /// What its native code takes in memory.
    pub fn code_bytes(&self) -> u64 {
        self.code.as_ref().map_or(0, |code| code.len() as u64)
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Execution {
    pub outcome: Outcome,
    /// What the guest committed, or else the digest of its output; only where it is done.
    pub proof: Option<Digest>,
    /// What the guest wrote, up to where it ended.
    pub output: Vec<u8>,
    pub log: Vec<u8>,
    pub usage: Usage,
    /// Where one was asked for.
    pub trace: Option<Trace>,
}

impl Sandbox {
    /// Reserves address space for `concurrent_runs` guests at once, and starts as many threads. One guest more is an
    /// error, not a wait.
    pub fn new(concurrent_runs: u32) -> Result<Self, SandboxError> {
        let engine = Engine::new(concurrent_runs)?;
        let linker = link::linker(engine.inner()).map_err(SandboxError::engine)?;
        let threads = GuestThreads::start(concurrent_runs).map_err(SandboxError::Thread)?;
        Ok(Self { engine, linker, threads })
    }

    /// For one run at a time, on an engine to verify with.
    fn to_verify(engine: Engine) -> Result<Self, SandboxError> {
        let linker = link::linker(engine.inner()).map_err(SandboxError::engine)?;
        let threads = GuestThreads::start(0).map_err(SandboxError::Thread)?;
        Ok(Self { engine, linker, threads })
    }

    /// Has `work` done in its turn on a thread that can run guests.
    pub fn submit(&self, work: impl FnOnce() + Send + 'static) {
        self.threads.submit(work);
    }

    /// Compiles in this process: for modules of one's own.
    pub fn compile(&self, admitted: &Admitted) -> Result<Program, SandboxError> {
        let code = NativeCode::of(&Compiler::in_process()?.compile(admitted)?)?;
        // SAFETY: the code is what our own compiler gave just now.
        unsafe { self.load(code) }
    }

    /// Makes a program of native code.
    ///
    /// # Safety
    ///
    /// `code` must be what [`Compiler::compile`] gave for an engine of the same [`Sandbox::settings_digest`]: it becomes
    /// native code in this process.
    pub unsafe fn load(&self, code: NativeCode) -> Result<Program, SandboxError> {
        // SAFETY: the caller's promise is `NativeCode::load`'s condition.
        let (module, code) = unsafe { code.load(self.engine.inner()) }.map_err(SandboxError::engine)?;
        self.program(&module, Some(code))
    }

    /// Compiles a metered module for this process, and for an engine that need not be the one that serves.
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

    /// What native code depends on beside its module.
    pub fn settings_digest(&self) -> Digest {
        self.engine.settings_digest()
    }

    /// Runs `program` on `work` to its end: on this thread if [`Sandbox::submit`] led here, else on one that is started
    /// for it.
    pub fn run(&self, program: &Program, work: Work) -> Result<Execution, SandboxError> {
        with_guest_stack(|| self.run_here(program, work)).map_err(SandboxError::Thread)?
    }

    fn run_here(&self, program: &Program, work: Work) -> Result<Execution, SandboxError> {
        let limits = work.limits;
        if limits.memory_bytes > Limits::MEMORY_BYTES_MAX {
            return Err(SandboxError::MemoryLimitTooHigh(limits.memory_bytes));
        }
        let run = RunState::new(work);
        if program.memory_bytes_min > limits.memory_bytes {
            return Ok(memory_limit(run));
        }
        let mut guest = Guest { run, instance: None, memory: None, stop: None, growth: Growth::new(&limits) };
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
        let Guest { run, stop, growth, .. } = store.into_data();
        conclude(returned.map_err(Broken::from), stop, growth, run)
    }
}

/// Instantiates the program in `store`, and calls what it starts with and then its `run`, with `state` left.
fn call(store: &mut Store<Guest>, program: &Program, mut state: i64) -> wasmtime::Result<(i32, i64)> {
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

/// What came of a call of `run`: what it returned, or how the engine broke it off.
type Returned = Result<(i32, i64), Broken>;

enum Broken {
    /// By the guest's fault.
    Trap(Outcome),
    /// By a host call, or by the engine's own.
    Engine(String),
}

impl From<wasmtime::Error> for Broken {
    fn from(error: wasmtime::Error) -> Self {
        let outcome = error.downcast_ref::<wasmtime::Trap>().and_then(|trap| engine::outcome_of(*trap));
        outcome.map_or_else(|| Self::Engine(format!("{error:#}")), Self::Trap)
    }
}

/// Tells the guest's endings from the host's, and how much gas each has used.
fn conclude(
    returned: Returned,
    stop: Option<Stop>,
    growth: Growth,
    mut run: RunState,
) -> Result<Execution, SandboxError> {
    if growth.host_failed {
        return Err(SandboxError::HostMemory);
    }
    let settled = match (returned, stop) {
        (_, Some(stop)) => Err(stop),
        (Ok((code, state)), None) => run.purse.settle(State::from_i64(state)).map(|gas| (code, gas)),
        (Err(Broken::Trap(outcome)), None) => Err(outcome.into()),
        (Err(Broken::Engine(message)), None) => return Err(SandboxError::Engine(message)),
    };
    let (outcome, gas) = match settled {
        Ok((0, gas)) => (Outcome::Done, gas),
        Ok((code, gas)) => (Outcome::Failed(code), gas),
        Err(Stop::Guest(outcome)) => (outcome, run.purse.forfeit()),
        Err(Stop::Input(error)) => return Err(error.into()),
        Err(Stop::HostMemory) => return Err(SandboxError::HostMemory),
        Err(Stop::Deadline) => return Err(SandboxError::Deadline),
        Err(Stop::Cancelled) => return Err(SandboxError::Cancelled),
        Err(Stop::BeyondClaim(beyond)) => return Err(SandboxError::BeyondClaim(beyond)),
    };
    Ok(execution(outcome, run, Usage { gas, memory_bytes: growth.memory_bytes }))
}

/// The end of a run whose gas does not pay for its start, or for which nobody waits any more.
fn stopped_at_start(stop: Stop, growth: Growth, run: RunState) -> Result<Execution, SandboxError> {
    conclude(Err(Broken::Engine(String::new())), Some(stop), growth, run)
}

/// The end of a run that cannot even begin, because its module declares more memory than the job allows.
fn memory_limit(run: RunState) -> Execution {
    execution(Outcome::MemoryLimit, run, Usage::default())
}

fn execution(outcome: Outcome, run: RunState, usage: Usage) -> Execution {
    let proof = (outcome == Outcome::Done).then(|| run.committed.unwrap_or_else(|| Digest::of(&run.output)));
    let trace = run.tracer.map(Tracer::finish);
    Execution { outcome, proof, output: run.output, log: run.log, usage, trace }
}
