//! Module store: admitted modules by their digest, and their compiled forms. Each module is
//! compiled once. The result stays in memory while it is in use, and on disk for the next start.

mod names;
mod stored;
mod code;
pub mod commands;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub use self::code::CompiledCode;
pub use self::names::{ModuleKey, ModuleName, NotAName};
use self::stored::scope_of;
pub use self::stored::{
    AddedModule, AddedParts, Listed, ModuleRecord, NameClaim, Page, Quota, StoredError, StoredModules, StoredTotals,
};
use crate::digest::Digest;
use crate::process;
use crate::sandbox::{
    Admitted, Compiler, Confinement, GateLimits, GateReport, NativeCode, NotAModule, PrepareError, PreparedModule,
    Program, Sandbox, SandboxError, TextOrBinary, form_of,
};
use crate::slice::Tenant;
use crate::turns::{LineIsFull, Turn, Turns};
use crate::workload::WorkloadGuest;

/// Maximum size of the native code in memory, in bytes.
const PROGRAMS_BYTES_MAX: u64 = 512 << 20;
/// Maximum number of programs in memory. Each may hold a file with its memory image.
const PROGRAMS_MAX: u64 = 4_096;
/// Memory that a program uses besides its code, in bytes.
const PROGRAM_BYTES: u64 = 16 << 10;

/// Number of modules with a failed compilation that are remembered and not retried. A compiler's
/// verdict does not expire. A failure of the host expires after `FAILURE_KEPT`. Until then, the
/// client cannot use up a core with the module.
const FAILURES_MAX: u64 = 10_000;
const FAILURE_KEPT: Duration = Duration::from_secs(60);

/// Maximum number of modules that wait for a compiler. Further callers are told to retry.
const COMPILATIONS_WAITING_MAX: u64 = 256;
/// Extra compilers for a scope that has none while others use all regular ones.
const COMPILERS_SPARE: usize = 2;
/// Suggested retry delay: a compilation takes some seconds at most.
pub const COMPILER_RETRY: Duration = Duration::from_secs(5);

/// Event of a module, for an observer.
#[derive(Clone, Copy, Debug)]
pub enum ModuleEvent<'a> {
    /// The gate has refused a module. `rule` is the first broken rule, as `sandbox::Refusal::code`
    /// names it.
    Refused { rule: &'static str },
    /// The compiler has run.
    Compiled { duration: Duration, result: Result<(), &'a SandboxError> },
}

type ModuleObserver = Box<dyn Fn(&ModuleEvent<'_>) + Send + Sync>;

/// Reason why a program is not available.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Stored(#[from] StoredError),
    #[error(transparent)]
    NotAModule(#[from] NotAModule),
    /// Refused by the gate. The first refusal is the reason.
    #[error("the module is refused: {}", first(.0))]
    Refused(Box<GateReport>),
    /// The module was admitted earlier, and the limits are tighter now.
    #[error("the stored module is not admitted any more: {}", first(.0))]
    NoLonger(Box<GateReport>),
    /// The queue for the compiler is full, in total or for this token.
    #[error("too many modules wait to be compiled; try again later")]
    Busy(#[from] LineIsFull),
}

/// Describes a refused module in one line: the first broken rule, the remedy, and the number of
/// further broken rules.
fn first(report: &GateReport) -> String {
    let Some(first) = report.refusals.first() else { return String::new() };
    let more = match report.refusals.len() - 1 {
        0 => String::new(),
        more => format!("; {more} more rules are broken"),
    };
    format!("{first}; {}{more}", first.hint())
}

impl From<PrepareError> for ModulesError {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::NotAModule(error) => Self::NotAModule(error),
            PrepareError::Refused(report) => Self::Refused(report),
            PrepareError::Sandbox(error) => Self::Sandbox(error),
        }
    }
}

impl ModulesError {
    /// Returns a stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Sandbox(error) => error.code(),
            Self::Stored(error) => error.code(),
            Self::NotAModule(_) => "not_a_module",
            Self::Refused(report) | Self::NoLonger(report) => {
                report.refusals.first().map_or("refused", |refusal| refusal.code())
            }
            Self::Busy(_) => "busy",
        }
    }
}

/// A turn to have a module compiled, and whose it is.
pub struct CompilerTurn {
    scope: Tenant,
    _turn: Turn<Tenant>,
}

pub struct Modules {
    sandbox: Arc<Sandbox>,
    compiler: Compiler,
    /// Queue for the compiler.
    turns: Turns<Tenant>,
    gate: GateLimits,
    programs: moka::sync::Cache<Digest, Program>,
    verdicts: moka::sync::Cache<Digest, Arc<ModulesError>>,
    failures: moka::sync::Cache<Digest, Arc<ModulesError>>,
    code: Option<CompiledCode>,
    stored: Option<StoredModules>,
    observer: OnceLock<ModuleObserver>,
}

impl Modules {
    /// Creates a store without files: modules come with each request and stay only in memory. The
    /// number of concurrent compilations is the number of cores that the system reports.
    pub fn new(sandbox: Arc<Sandbox>, compiler: Compiler, gate: GateLimits) -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        // One weight bounds both the bytes and the files: each program weighs at least its share of
        // the files.
        let share = PROGRAMS_BYTES_MAX / process::programs_max(process::files_max()).clamp(1, PROGRAMS_MAX);
        let weight = move |_: &Digest, program: &Program| {
            u32::try_from((program.code_bytes() + PROGRAM_BYTES).max(share) >> 10).unwrap_or(u32::MAX)
        };
        Self {
            sandbox,
            compiler,
            turns: Turns::new(jobs, COMPILERS_SPARE, COMPILATIONS_WAITING_MAX),
            gate,
            programs: moka::sync::Cache::builder().max_capacity(PROGRAMS_BYTES_MAX >> 10).weigher(weight).build(),
            verdicts: moka::sync::Cache::new(FAILURES_MAX),
            failures: moka::sync::Cache::builder().max_capacity(FAILURES_MAX).time_to_live(FAILURE_KEPT).build(),
            code: None,
            stored: None,
            observer: OnceLock::new(),
        }
    }

    /// Creates a store for trusted modules: they are compiled in this process, within a node's
    /// default limits.
    pub fn in_process(sandbox: Arc<Sandbox>) -> Result<Self, SandboxError> {
        Ok(Self::new(sandbox, Compiler::in_process()?, GateLimits::DEFAULT))
    }

    /// Sets the number of concurrent compilations.
    pub fn with_jobs(self, jobs: usize) -> Self {
        Self { turns: Turns::new(jobs.max(1), COMPILERS_SPARE, COMPILATIONS_WAITING_MAX), ..self }
    }

    /// Sets the store for modules.
    pub fn with_store(self, stored: StoredModules) -> Self {
        Self { stored: Some(stored), ..self }
    }

    /// Sets the store for native code, which is then available at the next start.
    pub fn with_code(self, code: CompiledCode) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Sets the observer, which is called for each module that is refused or compiled. The caller
    /// with the module waits for it. Only the first observer counts.
    pub fn observe(&self, observer: impl Fn(&ModuleEvent<'_>) + Send + Sync + 'static) {
        // An earlier observer stays.
        let _ = self.observer.set(Box::new(observer));
    }

    fn tell(&self, event: &ModuleEvent<'_>) {
        if let Some(observer) = self.observer.get() {
            observer(event);
        }
    }

    /// Waits until `scope` may compile a module.
    pub async fn turn(&self, scope: &Tenant) -> Result<CompilerTurn, ModulesError> {
        Ok(CompilerTurn { _turn: self.turns.wait(scope).await?, scope: scope.clone() })
    }

    /// Returns the number of modules that wait for a turn.
    pub fn waiting(&self) -> u64 {
        self.turns.waiting()
    }

    /// Prepares a module as [`Modules::prepare_in`] does, in the owner's scope.
    pub fn prepare(&self, bytes: impl Into<Arc<[u8]>>) -> Result<Admitted, Arc<ModulesError>> {
        let turn = self.turns.wait_blocking(&Tenant::OWNER).map_err(|error| Arc::new(error.into()))?;
        self.prepare_in(&CompilerTurn { _turn: turn, scope: Tenant::OWNER }, bytes)
    }

    /// Checks and compiles `bytes`, a module in its text or binary form. Its program is then in
    /// memory. Concurrent callers with the same binary share one compilation.
    pub fn prepare_in(&self, turn: &CompilerTurn, bytes: impl Into<Arc<[u8]>>) -> Result<Admitted, Arc<ModulesError>> {
        let (bytes, scope) = (bytes.into(), &turn.scope);
        let digest = Digest::of(&bytes);
        let form = form_of(&bytes).map_err(|error| Arc::new(error.into()))?;
        self.check_failures(&digest)?;
        match form {
            // The digest of a module in text form is known only after compilation.
            TextOrBinary::Text => {
                let prepared = self.compiled(|| self.compiler.prepare(&self.gate, bytes));
                let prepared = prepared.map_err(|error| self.note_failure(digest, Arc::new(error)))?;
                let program = self.load(&self.file_name(&prepared.admitted.digest()), &prepared.code, scope);
                self.programs.insert(prepared.admitted.digest(), program.map_err(Arc::new)?);
                Ok(prepared.admitted)
            }
            TextOrBinary::Binary => {
                self.made(digest, scope, || {
                    let PreparedModule { code, .. } =
                        self.compiled(|| self.compiler.prepare(&self.gate, bytes.clone()))?;
                    Ok(code)
                })?;
                // The module has native code, so it has passed the gate.
                Ok(Admitted::passed(&self.gate, bytes))
            }
        }
    }

    /// Returns the program of `guest`. A compilation runs in the owner's scope.
    pub fn program(&self, guest: WorkloadGuest<'_>) -> Result<Program, Arc<ModulesError>> {
        self.program_for(guest, &Tenant::OWNER)
    }

    /// Returns the program of `guest`. If it must be compiled, waits for a turn of `scope`.
    /// Concurrent callers share one compilation.
    pub fn program_for(&self, guest: WorkloadGuest<'_>, scope: &Tenant) -> Result<Program, Arc<ModulesError>> {
        let digest = match guest {
            WorkloadGuest::Admitted(module) => module.digest(),
            // A removed module may still be in memory.
            WorkloadGuest::Stored(digest) => {
                self.find(&ModuleKey::Digest(digest)).map_err(|error| Arc::new(error.into()))?
            }
        };
        self.check_failures(&digest)?;
        self.made(digest, scope, || {
            let _turn = self.turns.wait_blocking(scope)?;
            match guest {
                WorkloadGuest::Admitted(admitted) => self.compiled(|| self.compiler.compile(admitted)),
                WorkloadGuest::Stored(_) => {
                    let wasm = self.stored()?.read(&digest)?;
                    match self.compiled(|| self.compiler.prepare(&self.gate, wasm)) {
                        Err(ModulesError::Refused(report)) => Err(ModulesError::NoLonger(report)),
                        prepared => Ok(prepared?.code),
                    }
                }
            }
        })
    }

    fn check_failures(&self, digest: &Digest) -> Result<(), Arc<ModulesError>> {
        self.verdicts.get(digest).or_else(|| self.failures.get(digest)).map_or(Ok(()), Err)
    }

    fn note_failure(&self, digest: Digest, error: Arc<ModulesError>) -> Arc<ModulesError> {
        match *error {
            ModulesError::Sandbox(SandboxError::Compile(_)) => self.verdicts.insert(digest, error.clone()),
            ModulesError::Sandbox(SandboxError::Compiler(_) | SandboxError::TooDear { .. })
            | ModulesError::NotAModule(NotAModule::TextTooDear(_)) => self.failures.insert(digest, error.clone()),
            _ => {}
        }
        error
    }

    /// Returns the program of the module with this digest: from memory, from a file, or from the
    /// native code that `compile` returns.
    fn made(
        &self,
        digest: Digest,
        scope: &Tenant,
        compile: impl FnOnce() -> Result<Vec<u8>, ModulesError>,
    ) -> Result<Program, Arc<ModulesError>> {
        let make = || {
            let name = self.file_name(&digest);
            match self.code.as_ref().and_then(|code| code.load(&self.sandbox, &name, scope)) {
                Some(program) => Ok(program),
                None => self.load(&name, &compile()?, scope),
            }
        };
        self.programs.try_get_with(digest, make).map_err(|error| self.note_failure(digest, error))
    }

    /// Runs a compilation, and notifies the observer.
    fn compiled<T, E: Into<ModulesError>>(&self, compile: impl FnOnce() -> Result<T, E>) -> Result<T, ModulesError> {
        let began = Instant::now();
        let result = compile().map_err(Into::into);
        match &result {
            Ok(_) => self.tell(&ModuleEvent::Compiled { duration: began.elapsed(), result: Ok(()) }),
            Err(ModulesError::Sandbox(error)) => {
                self.tell(&ModuleEvent::Compiled { duration: began.elapsed(), result: Err(error) });
            }
            Err(ModulesError::Refused(report)) => {
                if let Some(refusal) = report.refusals.first() {
                    self.tell(&ModuleEvent::Refused { rule: refusal.code() });
                }
            }
            Err(_) => {}
        }
        result
    }

    /// Returns the file name of native code. It identifies the module, the gate that the module
    /// passed, and the engine's settings.
    fn file_name(&self, digest: &Digest) -> Digest {
        let (settings, gate) = (self.sandbox.settings_digest(), self.gate.digest());
        Digest::of(&[*digest.as_bytes(), *settings.as_bytes(), *gate.as_bytes()].concat())
    }

    /// Stores native code for the next start, and loads a program from it.
    fn load(&self, name: &Digest, code: &[u8], scope: &Tenant) -> Result<Program, ModulesError> {
        if let Some(files) = &self.code {
            files.keep(name, code, scope);
        }
        let code = NativeCode::of(code).map_err(SandboxError::from)?;
        // SAFETY: `code` is what the node's compiler gave for this sandbox.
        Ok(unsafe { self.sandbox.load(code) }?)
    }

    /// Returns a full report on `bytes`, a module in either form.
    pub fn report(&self, bytes: &[u8]) -> Result<GateReport, Arc<ModulesError>> {
        let _turn = self.turns.wait_blocking(&Tenant::OWNER).map_err(|error| Arc::new(error.into()))?;
        self.compiler.report(&self.gate, bytes).map_err(|error| Arc::new(error.into()))
    }

    /// Starts a compiler without input, so that [`Modules::confinement`] is known.
    pub fn probe_compiler(&self) -> Result<(), SandboxError> {
        self.compiler.probe()
    }

    /// Returns the confinement of the compiler, once one was started.
    pub fn confinement(&self) -> Option<Confinement> {
        self.compiler.confinement()
    }

    pub fn stored(&self) -> Result<&StoredModules, StoredError> {
        self.stored.as_ref().ok_or(StoredError::NoFiles)
    }

    /// Returns the digest of a stored module.
    pub fn find(&self, key: &ModuleKey) -> Result<Digest, StoredError> {
        self.stored()?.find(key)
    }

    /// Compiles `admitted`, and stores it if that succeeds. Durable on return. The name's owner is
    /// checked twice: before the compilation, so that none is in vain, and when the name is
    /// assigned.
    pub fn add(
        &self,
        admitted: &Admitted,
        claim: Option<NameClaim<'_>>,
        record: &ModuleRecord,
    ) -> Result<AddedParts, Arc<ModulesError>> {
        let of_store = |error: StoredError| Arc::new(ModulesError::from(error));
        if let Some(claim) = claim {
            self.stored().and_then(|stored| stored.check_name(claim, &record.added_by)).map_err(of_store)?;
        }
        self.program_for(WorkloadGuest::Admitted(admitted), &scope_of(&record.added_by))?;
        let stored = self.stored().map_err(of_store)?;
        stored.add_named(&admitted.digest(), admitted.wasm(), record, claim).map_err(of_store)
    }
}
