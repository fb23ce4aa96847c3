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
use self::stored::scope_of;
pub use self::stored::{Added, Addition, Listed, NameClaim, Page, Quota, Record, StoredError, StoredModules, Totals};
use crate::digest::Digest;
use crate::process;
use crate::sandbox::{
    Admitted, Compiler, Confinement, Form, GateLimits, NativeCode, NotAModule, PrepareError, Prepared, Program, Report,
    Sandbox, SandboxError, form_of,
};
use crate::slice::Scope;
use crate::turns::{LineIsFull, Turn, Turns};
use crate::workload::Guest;

/// Native code that stays in memory, in the modules' own bytes of it.
const PROGRAMS_BYTES_MAX: u64 = 512 << 20;
/// Programs in memory, each of which may have a file for its memory's image.
const PROGRAMS_MAX: u64 = 4_096;
/// What a program weighs beside its code.
const PROGRAM_BYTES: u64 = 16 << 10;

/// Modules whose compilation failed, and that are not tried again: for ever where it was the compiler's verdict, and
/// where the host was at fault for as long as keeps whoever sent it from burning a core with it.
const FAILURES_MAX: u64 = 10_000;
const FAILURE_KEPT: Duration = Duration::from_secs(60);

/// Modules that wait for a compiler; more are told to come again.
const COMPILATIONS_WAITING_MAX: u64 = 256;
/// Compilers beyond the jobs, for a scope that has none while others have all.
const COMPILERS_SPARE: usize = 2;
/// When to come again: a compilation takes some seconds at most.
pub const COMPILER_RETRY: Duration = Duration::from_secs(5);

/// What befalls modules, for those who count.
#[derive(Clone, Copy, Debug)]
pub enum ModuleEvent<'a> {
    /// The gate has refused one: by this rule first, in the words of `sandbox::Refusal::code`.
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
    #[error(transparent)]
    NotAModule(#[from] NotAModule),
    /// By the gate; the first of the refusals is why.
    #[error("the module is refused: {}", first(.0))]
    Refused(Box<Report>),
    /// The module was admitted once; the limits are tighter now.
    #[error("the stored module is not admitted any more: {}", first(.0))]
    NoLonger(Box<Report>),
    /// As many wait for a compiler as may, all in all or of this token.
    #[error("too many modules wait to be compiled; try again later")]
    Busy(#[from] LineIsFull),
}

/// All that is said of a refused module on one line: the first rule that it breaks, how many more, and what to do.
fn first(report: &Report) -> String {
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
    /// A stable name for programs.
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
    scope: Scope,
    _turn: Turn<Scope>,
}

pub struct Modules {
    sandbox: Arc<Sandbox>,
    compiler: Compiler,
    /// In front of the compiler.
    turns: Turns<Scope>,
    gate: GateLimits,
    programs: moka::sync::Cache<Digest, Program>,
    verdicts: moka::sync::Cache<Digest, Arc<ModulesError>>,
    failures: moka::sync::Cache<Digest, Arc<ModulesError>>,
    code: Option<CodeFiles>,
    stored: Option<StoredModules>,
    observer: OnceLock<Observer>,
}

impl Modules {
    /// Modules that come with each request and stay in memory alone. As many are compiled at once as the system says that
    /// there are cores.
    pub fn new(sandbox: Arc<Sandbox>, compiler: Compiler, gate: GateLimits) -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        // One weight bounds both the bytes and the files: no program counts for less than its share of the files.
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

    /// Modules of one's own: compiled in this process, within the limits that a node has by default.
    pub fn in_process(sandbox: Arc<Sandbox>) -> Result<Self, SandboxError> {
        Ok(Self::new(sandbox, Compiler::in_process()?, GateLimits::DEFAULT))
    }

    /// Has `jobs` modules compiled at once.
    pub fn with_jobs(self, jobs: usize) -> Self {
        Self { turns: Turns::new(jobs.max(1), COMPILERS_SPARE, COMPILATIONS_WAITING_MAX), ..self }
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

    /// Waits for a turn of `scope` to have a module compiled.
    pub async fn turn(&self, scope: &Scope) -> Result<CompilerTurn, ModulesError> {
        Ok(CompilerTurn { _turn: self.turns.wait(scope).await?, scope: scope.clone() })
    }

    /// How many modules wait for a turn.
    pub fn waiting(&self) -> u64 {
        self.turns.waiting()
    }

    /// [`Modules::prepare_in`], of the node's owner.
    pub fn prepare(&self, bytes: impl Into<Arc<[u8]>>) -> Result<Admitted, Arc<ModulesError>> {
        let turn = self.turns.wait_blocking(&Scope::OWNER).map_err(|error| Arc::new(error.into()))?;
        self.prepare_in(&CompilerTurn { _turn: turn, scope: Scope::OWNER }, bytes)
    }

    /// Takes `bytes`, a module in its text or its binary form, through the gate and the compiler; its program is in memory
    /// then. Callers that bring the same binary at once wait for one compilation.
    pub fn prepare_in(&self, turn: &CompilerTurn, bytes: impl Into<Arc<[u8]>>) -> Result<Admitted, Arc<ModulesError>> {
        let (bytes, scope) = (bytes.into(), &turn.scope);
        let digest = Digest::of(&bytes);
        let form = form_of(&bytes).map_err(|error| Arc::new(error.into()))?;
        self.check_failures(&digest)?;
        match form {
            // Its digest as a module is known when it is compiled.
            Form::Text => {
                let prepared = self.compiled(|| self.compiler.prepare(&self.gate, bytes));
                let prepared = prepared.map_err(|error| self.note_failure(digest, Arc::new(error)))?;
                let program = self.load(&self.file_name(&prepared.admitted.digest()), &prepared.code, scope);
                self.programs.insert(prepared.admitted.digest(), program.map_err(Arc::new)?);
                Ok(prepared.admitted)
            }
            Form::Binary => {
                self.made(digest, scope, || {
                    let Prepared { code, .. } = self.compiled(|| self.compiler.prepare(&self.gate, bytes.clone()))?;
                    Ok(code)
                })?;
                // It has native code, so it has passed.
                Ok(Admitted::passed(&self.gate, bytes))
            }
        }
    }

    /// The program of `guest`, compiled in a turn of the node's owner.
    pub fn program(&self, guest: Guest<'_>) -> Result<Program, Arc<ModulesError>> {
        self.program_for(guest, &Scope::OWNER)
    }

    /// The program of `guest`; a turn of `scope` is waited for if it has to be compiled. Callers that come at once wait for
    /// one compilation.
    pub fn program_for(&self, guest: Guest<'_>, scope: &Scope) -> Result<Program, Arc<ModulesError>> {
        let digest = match guest {
            Guest::Admitted(module) => module.digest(),
            // It may be in memory still after it was removed.
            Guest::Stored(digest) => self.find(&ModuleKey::Digest(digest)).map_err(|error| Arc::new(error.into()))?,
        };
        self.check_failures(&digest)?;
        self.made(digest, scope, || {
            let _turn = self.turns.wait_blocking(scope)?;
            match guest {
                Guest::Admitted(admitted) => self.compiled(|| self.compiler.compile(admitted)),
                Guest::Stored(_) => {
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

    /// The program of the module with this digest: in memory, in a file, or else of the native code that `compile` gives.
    fn made(
        &self,
        digest: Digest,
        scope: &Scope,
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

    /// Has a module compiled, and tells the observer.
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

    /// What native code is kept under: it stands for the module, the gate that it passed, and the engine's settings.
    fn file_name(&self, digest: &Digest) -> Digest {
        let (settings, gate) = (self.sandbox.settings_digest(), self.gate.digest());
        Digest::of(&[*digest.as_bytes(), *settings.as_bytes(), *gate.as_bytes()].concat())
    }

    /// Keeps native code for the next start, and makes a program of it.
    fn load(&self, name: &Digest, code: &[u8], scope: &Scope) -> Result<Program, ModulesError> {
        if let Some(files) = &self.code {
            files.keep(name, code, scope);
        }
        let code = NativeCode::of(code).map_err(SandboxError::from)?;
        // SAFETY: `code` is what the node's compiler gave for this sandbox.
        Ok(unsafe { self.sandbox.load(code) }?)
    }

    /// All that can be said of `bytes`, a module in either form.
    pub fn report(&self, bytes: &[u8]) -> Result<Report, Arc<ModulesError>> {
        let _turn = self.turns.wait_blocking(&Scope::OWNER).map_err(|error| Arc::new(error.into()))?;
        self.compiler.report(&self.gate, bytes).map_err(|error| Arc::new(error.into()))
    }

    /// Starts a compiler that is given nothing, so that [`Modules::confinement`] is known.
    pub fn probe_compiler(&self) -> Result<(), SandboxError> {
        self.compiler.probe()
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

    /// Compiles `admitted`, and stores it if that went well. It is durable when this returns. Who owns the name is asked
    /// before the compilation, so that none is in vain, and again when the name is given.
    pub fn add(
        &self,
        admitted: &Admitted,
        claim: Option<NameClaim<'_>>,
        record: &Record,
    ) -> Result<Addition, Arc<ModulesError>> {
        let of_store = |error: StoredError| Arc::new(ModulesError::from(error));
        if let Some(claim) = claim {
            self.stored().and_then(|stored| stored.check_name(claim, &record.added_by)).map_err(of_store)?;
        }
        self.program_for(Guest::Admitted(admitted), &scope_of(&record.added_by))?;
        let stored = self.stored().map_err(of_store)?;
        stored.add_named(&admitted.digest(), admitted.wasm(), record, claim).map_err(of_store)
    }
}
