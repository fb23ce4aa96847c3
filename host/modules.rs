//! The module store: admitted modules by their digest, and their compiled forms, each made once, in memory while it is in
//! use, and on disk for the next start.

mod names;
mod stored;
mod code;
pub mod orders;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub use self::code::CodeFiles;
pub use self::names::{ModuleKey, ModuleName, NotAName};
pub use self::stored::{Added, Listed, Quota, Record, StoredError, StoredModules, Totals};
use crate::digest::Digest;
use crate::sandbox::{
    Admitted, Compiler, Confinement, GateLimits, NativeCode, Program, Refusal, Sandbox, SandboxError,
};
use crate::workload::Guest;

/// Native code that stays in memory, in the modules' own bytes of it.
const PROGRAMS_BYTES_MAX: u64 = 512 << 20;
/// What a program weighs beside its code.
const PROGRAM_BYTES: u64 = 16 << 10;

/// Modules whose compilation failed, and that are not tried again: for ever where it was the compiler's verdict, and
/// where the host was at fault for as long as keeps whoever sent it from burning a core with it.
const FAILURES_MAX: u64 = 10_000;
const FAILURE_KEPT: Duration = Duration::from_secs(60);

/// What adding a module has changed.
#[derive(Clone, Copy, Debug)]
pub struct Addition {
    pub added: Added,
    /// The module that the name stood for before.
    pub renamed: Option<Digest>,
}

/// What befalls modules, for those who count.
#[derive(Clone, Copy, Debug)]
pub enum ModuleEvent<'a> {
    /// The gate has refused one: by this rule first, in the words of [`Refusal::code`].
    Refused { rule: &'static str },
    /// The compiler was asked.
    Compiled { duration: Duration, result: Result<(), &'a SandboxError> },
}

type Observer = Box<dyn Fn(&ModuleEvent<'_>) + Send + Sync>;

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// The module was admitted once; the limits are tighter now.
    #[error("the stored module is not admitted any more: {0}")]
    Refused(#[from] Refusal),
}

impl ModulesError {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Sandbox(error) => error.code(),
            Self::Stored(error) => error.code(),
            Self::Refused(refusal) => refusal.code(),
        }
    }
}

pub struct Modules {
    sandbox: Arc<Sandbox>,
    compiler: Compiler,
    gate: GateLimits,
    programs: moka::sync::Cache<Digest, Program>,
    verdicts: moka::sync::Cache<Digest, Arc<ModulesError>>,
    failures: moka::sync::Cache<Digest, Arc<ModulesError>>,
    code: Option<CodeFiles>,
    stored: Option<StoredModules>,
    observer: OnceLock<Observer>,
}

impl Modules {
    /// Modules that come with each request and stay in memory alone.
    pub fn new(sandbox: Arc<Sandbox>, compiler: Compiler, gate: GateLimits) -> Self {
        let weight = |_: &Digest, program: &Program| {
            u32::try_from((program.code_bytes() + PROGRAM_BYTES) >> 10).unwrap_or(u32::MAX)
        };
        Self {
            sandbox,
            compiler,
            gate,
            programs: moka::sync::Cache::builder().max_capacity(PROGRAMS_BYTES_MAX >> 10).weigher(weight).build(),
            verdicts: moka::sync::Cache::new(FAILURES_MAX),
            failures: moka::sync::Cache::builder().max_capacity(FAILURES_MAX).time_to_live(FAILURE_KEPT).build(),
            code: None,
            stored: None,
            observer: OnceLock::new(),
        }
    }

    /// Modules of one's own: compiled in this process, within the limits that a node has by default.
    pub fn in_process(sandbox: Arc<Sandbox>) -> Result<Self, SandboxError> {
        Ok(Self::new(sandbox, Compiler::in_process()?, GateLimits::DEFAULT))
    }

    /// Has modules stored.
    pub fn with_store(self, stored: StoredModules) -> Self {
        Self { stored: Some(stored), ..self }
    }

    /// Has native code kept for the next start.
    pub fn with_code(self, code: CodeFiles) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Has `observer` told of each module that is refused or compiled; whoever brings it waits for that. There is one observer,
    /// the first.
    pub fn observe(&self, observer: impl Fn(&ModuleEvent<'_>) + Send + Sync + 'static) {
        // Whoever came first is told already.
        let _ = self.observer.set(Box::new(observer));
    }

    fn tell(&self, event: &ModuleEvent<'_>) {
        if let Some(observer) = self.observer.get() {
            observer(event);
        }
    }

    /// Takes `wasm` through the gate, within the limits of these modules.
    pub fn admit(&self, wasm: impl Into<Arc<[u8]>>) -> Result<Admitted, Refusal> {
        Admitted::within(&self.gate, wasm)
            .inspect_err(|refusal| self.tell(&ModuleEvent::Refused { rule: refusal.code() }))
    }

    /// The program of `guest`. Callers that come at once wait for one compilation.
    pub fn program(&self, guest: Guest<'_>) -> Result<Program, Arc<ModulesError>> {
        let digest = match guest {
            Guest::Admitted(module) => module.digest(),
            // It may be in memory still after it was removed.
            Guest::Stored(digest) => self.find(&ModuleKey::Digest(digest)).map_err(|error| Arc::new(error.into()))?,
        };
        if let Some(failure) = self.verdicts.get(&digest).or_else(|| self.failures.get(&digest)) {
            return Err(failure);
        }
        self.programs.try_get_with(digest, || self.make(digest, guest)).inspect_err(|error| match **error {
            ModulesError::Sandbox(SandboxError::Compile(_)) => self.verdicts.insert(digest, error.clone()),
            ModulesError::Sandbox(SandboxError::Compiler(_)) => self.failures.insert(digest, error.clone()),
            _ => {}
        })
    }

    /// How the compiler is confined, once it was started.
    pub fn confinement(&self) -> Option<Confinement> {
        self.compiler.confinement()
    }

    pub fn stored(&self) -> Result<&StoredModules, StoredError> {
        self.stored.as_ref().ok_or(StoredError::NoFiles)
    }

    /// The digest of the stored module that is meant.
    pub fn find(&self, key: &ModuleKey) -> Result<Digest, StoredError> {
        self.stored()?.find(key)
    }

    /// Compiles `admitted`, and stores it if that went well. It is durable when this returns.
    pub fn add(
        &self,
        admitted: &Admitted,
        name: Option<&ModuleName>,
        record: &Record,
    ) -> Result<Addition, Arc<ModulesError>> {
        self.program(Guest::Admitted(admitted))?;
        let digest = admitted.digest();
        let store = || {
            let stored = self.stored()?;
            let added = stored.add(&digest, admitted.wasm(), record)?;
            let renamed = name.map(|name| stored.name(name, &digest)).transpose()?.flatten();
            Ok(Addition { added, renamed })
        };
        store().map_err(|error: StoredError| Arc::new(error.into()))
    }

    fn make(&self, digest: Digest, guest: Guest<'_>) -> Result<Program, ModulesError> {
        let (settings, gate) = (self.sandbox.settings_digest(), self.gate.digest());
        let name = Digest::of(&[*digest.as_bytes(), *settings.as_bytes(), *gate.as_bytes()].concat());
        if let Some(program) = self.code.as_ref().and_then(|code| code.load(&self.sandbox, &name)) {
            return Ok(program);
        }
        let read;
        let admitted = match guest {
            Guest::Admitted(admitted) => admitted,
            Guest::Stored(_) => {
                read = self.admit(self.stored()?.read(&digest)?)?;
                &read
            }
        };
        let began = Instant::now();
        let compiled = self.compiler.compile(admitted);
        let result = compiled.as_ref().map(|_| ());
        self.tell(&ModuleEvent::Compiled { duration: began.elapsed(), result });
        let code = compiled?;
        if let Some(files) = &self.code {
            files.keep(&name, &code);
        }
        let code = NativeCode::of(&code).map_err(SandboxError::from)?;
        // SAFETY: `code` is what the node's compiler gave for this sandbox.
        Ok(unsafe { self.sandbox.load(code) }?)
    }
}
