//! Bytes in, bytes out: everything that touches a guest. Synchronous; a store and an instance a run, never shared.

mod outcome;
mod check;
mod abi;
mod native;
mod engine;
mod confine;
mod compiler;
mod link;

use std::io;
use std::sync::Arc;

use memmap2::Mmap;
use wasmtime::{InstancePre, Linker, ModuleExport, Store};

pub use self::abi::{Input, InputError};
use self::abi::{RunState, Stop};
pub use self::check::{Admitted, GateLimits, Kind, LIMITS, Limit, LimitName, Place, Refusal, Report, Rule};
pub use self::compiler::{CODE_BYTES_MAX, COMMAND as COMPILE_COMMAND, Compiler, CompilerError, serve_one_module};
pub use self::confine::{Bounds, Confinement, confine};
use self::engine::Engine;
pub use self::engine::{GUEST_STACK_BYTES, NAME as ENGINE_NAME};
use self::link::{Growth, Guest};
pub use self::native::NativeCode;
pub use self::outcome::{Outcome, Trap};
use crate::digest::Digest;
use crate::limits::{Limits, Usage};

/// The host cannot run the guest. It proves nothing about the guest, and another try may go well.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("the engine failed: {0}")]
    Engine(String),
    #[error("cannot reserve address space for {runs} guests at once: {cause}; lower --jobs, or raise `ulimit -v`")]
    AddressSpace { runs: u32, cause: String },
    /// The compiler's verdict on the module: the same whenever it is asked.
    #[error("the module cannot be compiled: {0}")]
    Compile(String),
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
}

impl SandboxError {
    /// A stable name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Compile(_) => "not_compilable",
            Self::Compiler(_) => "compiler_failed",
            Self::HostMemory | Self::CodeMemory(_) => "host_memory",
            Self::MemoryLimitTooHigh(_) => "memory_limit_too_high",
            Self::Engine(_) | Self::AddressSpace { .. } | Self::Input(_) => "sandbox",
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
}

/// A compiled module, ready to run any number of times, at once too.
#[derive(Clone)]
pub struct Program {
    instance: InstancePre<Guest>,
    run: ModuleExport,
    memory: ModuleExport,
    memory_bytes_min: u64,
    /// The last field, because fields are dropped in their order: the module that is in it goes first.
    code: Arc<Mmap>,
}

impl Program {
    /// What its native code takes in memory.
    pub fn code_bytes(&self) -> u64 {
        self.code.len() as u64
    }
}

/// What one run works on.
pub struct Work {
    pub input: Box<dyn Input>,
    pub args: Arc<[u8]>,
    pub assets: Arc<[Arc<[u8]>]>,
    pub limits: Limits,
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
}

impl Sandbox {
    /// Reserves address space for `concurrent_runs` guests at once; one more is an error, not a wait.
    pub fn new(concurrent_runs: u32) -> Result<Self, SandboxError> {
        let engine = Engine::new(concurrent_runs)?;
        let linker = link::linker(engine.inner()).map_err(SandboxError::engine)?;
        Ok(Self { engine, linker })
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
        let export = |name: &str| {
            let index = module.get_export_index(name).zip(module.get_export(name));
            index.ok_or_else(|| SandboxError::Engine(format!("an export that the gate saw is gone: {name}")))
        };
        let (run, _) = export("run")?;
        let (memory, memory_type) = export("memory")?;
        let memory_type = memory_type.memory().map(|memory| memory.minimum() * memory.page_size());
        Ok(Program {
            run,
            memory,
            memory_bytes_min: memory_type.unwrap_or(0),
            instance: self.linker.instantiate_pre(&module).map_err(SandboxError::engine)?,
            code,
        })
    }

    /// What native code depends on beside its module.
    pub fn settings_digest(&self) -> Digest {
        self.engine.settings_digest()
    }

    /// Runs `program` on `work` to its end, on this thread, which needs more than [`GUEST_STACK_BYTES`] of stack.
    pub fn run(&self, program: &Program, work: Work) -> Result<Execution, SandboxError> {
        let limits = work.limits;
        if limits.memory_bytes > Limits::MEMORY_BYTES_MAX {
            return Err(SandboxError::MemoryLimitTooHigh(limits.memory_bytes));
        }
        let run = RunState::new(work.input, work.args, work.assets, limits);
        if program.memory_bytes_min > limits.memory_bytes {
            return Ok(execution(Outcome::MemoryLimit, run, Usage::default()));
        }
        let guest = Guest { run, memory: None, stop: None, growth: Growth::new(&limits) };
        let mut store = Store::new(self.engine.inner(), guest);
        store.limiter(|guest| &mut guest.growth);
        engine::grant(&mut store, &limits)?;
        let returned = call(&mut store, program);
        let fuel = engine::spent(&store, &limits)?;
        let mut guest = store.into_data();
        let outcome = conclude(returned, &mut guest)?;
        Ok(execution(outcome, guest.run, Usage { fuel, memory_bytes: guest.growth.memory_bytes }))
    }
}

/// Instantiates the program in `store` and calls its `run`.
fn call(store: &mut Store<Guest>, program: &Program) -> wasmtime::Result<i32> {
    let instance = program.instance.instantiate(&mut *store)?;
    let no_such_export = || wasmtime::format_err!("an export that the gate saw is gone");
    let memory = instance.get_module_export(&mut *store, &program.memory).and_then(|found| found.into_memory());
    store.data_mut().memory = Some(memory.ok_or_else(no_such_export)?);
    let run = instance.get_module_export(&mut *store, &program.run).and_then(|found| found.into_func());
    run.ok_or_else(no_such_export)?.typed::<(), i32>(&*store)?.call(store, ())
}

/// Tells the guest's endings from the host's.
fn conclude(returned: wasmtime::Result<i32>, guest: &mut Guest) -> Result<Outcome, SandboxError> {
    if guest.growth.host_failed {
        return Err(SandboxError::HostMemory);
    }
    match (returned, guest.stop.take()) {
        (_, Some(Stop::Guest(outcome))) => Ok(outcome),
        (_, Some(Stop::Input(error))) => Err(error.into()),
        (_, Some(Stop::HostMemory)) => Err(SandboxError::HostMemory),
        (Ok(0), None) => Ok(Outcome::Done),
        (Ok(code), None) => Ok(Outcome::Failed(code)),
        (Err(error), None) => {
            let outcome = error.downcast_ref::<wasmtime::Trap>().and_then(|trap| engine::outcome_of(*trap));
            outcome.ok_or_else(|| SandboxError::engine(error))
        }
    }
}

fn execution(outcome: Outcome, run: RunState, usage: Usage) -> Execution {
    let proof = (outcome == Outcome::Done).then(|| run.committed.unwrap_or_else(|| Digest::of(&run.output)));
    Execution { outcome, proof, output: run.output, log: run.log, usage }
}
