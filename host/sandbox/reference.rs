//! The engines that a run can be verified on. The process that serves holds Cranelift alone; each of the others belongs
//! into a process of its own, which has given up what it does not need.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use wasmtime::Strategy;

use super::abi::Work;
use super::engine::Engine;
use super::interpreter::Interpreter;
use super::{Execution, Program, Sandbox, SandboxError, with_guest_stack};

/// | engine    | what it is                                  | what it cannot run              |
/// |-----------|---------------------------------------------|---------------------------------|
/// | cranelift | wasmtime's optimising compiler, which serves | |
/// | winch     | wasmtime's baseline compiler                | SIMD on processors without AVX; anything on others than x86-64 and arm64 |
/// | pulley    | wasmtime's interpreter, of code that Cranelift made for it | |
/// | wasmi     | an interpreter from other hands             | |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineKind {
    Cranelift,
    Winch,
    Pulley,
    Wasmi,
}

impl EngineKind {
    pub const ALL: [Self; 4] = [Self::Cranelift, Self::Winch, Self::Pulley, Self::Wasmi];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Cranelift => "cranelift",
            Self::Winch => "winch",
            Self::Pulley => "pulley",
            Self::Wasmi => "wasmi",
        }
    }

    /// With its version, as proofs show it.
    pub const fn full_name(self) -> &'static str {
        match self {
            Self::Cranelift => super::ENGINE_NAME,
            Self::Winch => "wasmtime 48 winch",
            Self::Pulley => "wasmtime 48 pulley",
            Self::Wasmi => "wasmi 2",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|engine| engine.name() == name);
        found.ok_or_else(|| format!("the engines are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// An engine to verify with, for any number of modules: to make one takes longer than to compile a small module.
pub struct ReferenceEngine(Made);

enum Made {
    Compiler(Arc<Sandbox>),
    Interpreter,
}

impl ReferenceEngine {
    pub fn new(engine: EngineKind) -> Result<Self, SandboxError> {
        let compiler = |engine: Engine| Ok::<_, SandboxError>(Made::Compiler(Arc::new(Sandbox::to_verify(engine)?)));
        Ok(Self(match engine {
            EngineKind::Cranelift => compiler(Engine::to_verify(Strategy::Cranelift, None)?)?,
            EngineKind::Winch => compiler(Engine::to_verify(Strategy::Winch, None)?)?,
            EngineKind::Pulley => compiler(Engine::to_verify(Strategy::Cranelift, Some(PULLEY))?)?,
            EngineKind::Wasmi => Made::Interpreter,
        }))
    }

    /// Compiles `metered`, the module as [`super::meter::metered`] gives it, in this process.
    pub fn compile(&self, metered: &[u8]) -> Result<Reference, SandboxError> {
        Ok(Reference(match &self.0 {
            Made::Compiler(sandbox) => On::Compiler(sandbox.clone(), Box::new(sandbox.compile_here(metered)?)),
            Made::Interpreter => On::Interpreter(Interpreter::new(metered)?),
        }))
    }
}

/// One module on one engine.
pub struct Reference(On);

enum On {
    Compiler(Arc<Sandbox>, Box<Program>),
    Interpreter(Interpreter),
}

impl Reference {
    /// Compiles `metered` on an engine that is made for it.
    pub fn new(engine: EngineKind, metered: &[u8]) -> Result<Self, SandboxError> {
        ReferenceEngine::new(engine)?.compile(metered)
    }

    /// Runs it on `work`, as [`Sandbox::run`] does.
    pub fn run(&self, work: Work) -> Result<Execution, SandboxError> {
        match &self.0 {
            On::Compiler(sandbox, program) => sandbox.run(program, work),
            On::Interpreter(interpreter) => with_guest_stack(|| interpreter.run(work)).map_err(SandboxError::Thread)?,
        }
    }
}

/// Its target for the width of this machine's addresses.
const PULLEY: &str = if cfg!(target_pointer_width = "64") { "pulley64" } else { "pulley32" };
