//! Verification engines. The serving process uses only Cranelift. Each other engine belongs in its
//! own confined process.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use wasmtime::Strategy;

use super::abi::Invocation;
use super::engine::Engine;
use super::wasmi::Interpreter;
use super::{Execution, Program, Sandbox, SandboxError, with_guest_stack};

/// An engine that a run can be verified on.
///
/// | engine    | description                                    |
/// |-----------|------------------------------------------------|
/// | cranelift | wasmtime's optimising compiler; serves runs    |
/// | winch     | wasmtime's baseline compiler                   |
/// | pulley    | wasmtime's interpreter of code from Cranelift  |
/// | wasmi     | an interpreter by other authors                |
///
/// Winch cannot run SIMD on processors without AVX, and runs only on x86-64 and arm64.
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

    /// Returns the name with the version, as proofs show it.
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

/// A verification engine for any number of modules. Creating one takes longer than compiling a
/// small module.
pub struct ReferenceEngine(BuiltEngine);

enum BuiltEngine {
    Compiler(Arc<Sandbox>),
    Interpreter,
}

impl ReferenceEngine {
    pub fn new(engine: EngineKind) -> Result<Self, SandboxError> {
        let compiler =
            |engine: Engine| Ok::<_, SandboxError>(BuiltEngine::Compiler(Arc::new(Sandbox::to_verify(engine)?)));
        Ok(Self(match engine {
            EngineKind::Cranelift => compiler(Engine::to_verify(Strategy::Cranelift, None)?)?,
            EngineKind::Winch => compiler(Engine::to_verify(Strategy::Winch, None)?)?,
            EngineKind::Pulley => compiler(Engine::to_verify(Strategy::Cranelift, Some(PULLEY))?)?,
            EngineKind::Wasmi => BuiltEngine::Interpreter,
        }))
    }

    /// Compiles `metered` in this process. `metered` is the output of [`super::meter::metered`].
    pub fn compile(&self, metered: &[u8]) -> Result<Reference, SandboxError> {
        Ok(Reference(match &self.0 {
            BuiltEngine::Compiler(sandbox) => {
                CompiledFor::Compiler(sandbox.clone(), Box::new(sandbox.compile_here(metered)?))
            }
            BuiltEngine::Interpreter => CompiledFor::Interpreter(Interpreter::new(metered)?),
        }))
    }
}

/// One module, compiled for one engine.
pub struct Reference(CompiledFor);

enum CompiledFor {
    Compiler(Arc<Sandbox>, Box<Program>),
    Interpreter(Interpreter),
}

impl Reference {
    /// Compiles `metered` on a new engine.
    pub fn new(engine: EngineKind, metered: &[u8]) -> Result<Self, SandboxError> {
        ReferenceEngine::new(engine)?.compile(metered)
    }

    /// Runs the module on `work`, like [`Sandbox::run`].
    pub fn run(&self, work: Invocation) -> Result<Execution, SandboxError> {
        match &self.0 {
            CompiledFor::Compiler(sandbox, program) => sandbox.run(program, work),
            CompiledFor::Interpreter(interpreter) => {
                with_guest_stack(|| interpreter.run(work)).map_err(SandboxError::Thread)?
            }
        }
    }
}

/// Pulley's target for the address width of this machine.
const PULLEY: &str = if cfg!(target_pointer_width = "64") { "pulley64" } else { "pulley32" };
