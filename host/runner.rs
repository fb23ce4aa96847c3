//! `WorkloadRunner`: the route of a slice from a request to its answer.
//!
//! Each result is made once: found in memory or in the store, waited for if another caller is at it, or else run, on a
//! thread that may block, while fewer than the allowed number do. The id of a slice stands for all that decides its
//! result; under an id that comes back with other content there is no answer but [`RunError::SliceIdConflict`].

mod flights;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::flights::{Claim, Flights, Lead};
use crate::digest::{Digest, HashThreads};
use crate::limits::Limits;
use crate::modules::Modules;
use crate::proof::{Blob, Job, Observed, SliceProof};
use crate::sandbox::{self, ENGINE_NAME, Execution, Input as _, Outcome, Sandbox, SandboxError};
use crate::slice::{OpenSlice, Slice, SliceError, SliceId};
use crate::store::{ProofStore, StoreError};
use crate::workload::{Asset, Workload};

/// What to run on what, and under which name.
#[derive(Clone)]
pub struct Request {
    /// Without one, the digest of all that decides the result.
    pub id: Option<SliceId>,
    pub workload: Workload,
    pub slice: Slice,
    pub args: Arc<[u8]>,
    pub assets: Vec<Asset>,
    pub limits: Limits,
    pub reuse: Reuse,
}

impl Request {
    pub fn new(workload: Workload, slice: Slice) -> Self {
        Self {
            id: None,
            workload,
            slice,
            args: Arc::default(),
            assets: Vec::new(),
            limits: Limits::DEFAULT,
            reuse: Reuse::Allowed,
        }
    }
}

/// Whether an earlier result will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    Allowed,
    /// Runs anew. An id that stands for other content is refused all the same.
    Never,
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Run,
    Memory,
    Store,
}

/// A finished run.
#[derive(Debug)]
pub struct Finished {
    pub outcome: Outcome,
    /// `None` where another engine need not come to the same outcome.
    pub proof: Option<SliceProof>,
    /// `None` where only the proof was kept.
    pub output: Option<Vec<u8>>,
    pub log: Vec<u8>,
    job: Digest,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub finished: Arc<Finished>,
    pub source: Source,
}

/// Why there is no answer. The guest's own failures are answers.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("slice id `{0}` already stands for other content, workload, arguments, assets or limits; use another id")]
    SliceIdConflict(SliceId),
    #[error(transparent)]
    Slice(#[from] SliceError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Compile(#[from] Arc<SandboxError>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a job brings at most {ASSETS_MAX} assets; this one brings {0}")]
    TooManyAssets(usize),
    #[error("running `{0}` twice gave two results; the host or this program is at fault")]
    NotReproduced(SliceId),
    #[error("the node is shutting down")]
    Stopped,
}

impl RunError {
    /// A stable name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::SliceIdConflict(_) => "slice_id_conflict",
            Self::Slice(SliceError::Changed { .. }) => "slice_changed",
            Self::Slice(_) => "slice_unreadable",
            Self::Sandbox(_) | Self::Compile(_) => "sandbox",
            Self::Store(_) => "store",
            Self::TooManyAssets(_) => "too_many_assets",
            Self::NotReproduced(_) => "not_reproduced",
            Self::Stopped => "stopped",
        }
    }
}

/// What fits into a proof.
pub const ASSETS_MAX: usize = 1_000;

/// How the runner may use the machine.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Guests at once; and, up to the number of cores, threads that hash long slices.
    pub jobs: usize,
    /// Results that are kept in memory, in all and by their bytes.
    pub results_max: u64,
    pub results_bytes_max: u64,
}

impl Capacity {
    /// As many jobs as the system says there are cores for.
    pub fn of_this_machine() -> Self {
        Self { jobs: cores(), results_max: 100_000, results_bytes_max: 64 << 20 }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many answers came from where since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub runs: u64,
    pub from_memory: u64,
    pub from_store: u64,
}

/// Cheap to clone; all clones are one runner.
#[derive(Clone)]
pub struct WorkloadRunner(Arc<Core>);

struct Core {
    sandbox: Arc<Sandbox>,
    modules: Modules,
    store: Option<ProofStore>,
    results: moka::sync::Cache<SliceId, Arc<Finished>>,
    flights: Flights<SliceId, Arc<Finished>>,
    permits: Arc<Semaphore>,
    hash_threads: HashThreads,
    bytes_read: AtomicU64,
    runs: AtomicU64,
    from_memory: AtomicU64,
    from_store: AtomicU64,
}

impl WorkloadRunner {
    pub fn new(sandbox: Arc<Sandbox>, modules: Modules, store: Option<ProofStore>, capacity: Capacity) -> Self {
        let jobs = capacity.jobs.max(1);
        // One weight bounds both: no result counts for less than its share of the entries.
        let share = (capacity.results_bytes_max / capacity.results_max.max(1)).max(1);
        let weight =
            move |_: &SliceId, finished: &Arc<Finished>| u32::try_from(finished.bytes().max(share)).unwrap_or(u32::MAX);
        let results = moka::sync::Cache::builder().max_capacity(capacity.results_bytes_max).weigher(weight).build();
        Self(Arc::new(Core {
            sandbox,
            modules,
            store,
            results,
            flights: Flights::default(),
            permits: Arc::new(Semaphore::new(jobs.min(Semaphore::MAX_PERMITS))),
            hash_threads: HashThreads::new(jobs.min(cores())),
            bytes_read: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            from_memory: AtomicU64::new(0),
            from_store: AtomicU64::new(0),
        }))
    }

    /// A runner that keeps its results in memory alone.
    pub fn in_memory(capacity: Capacity) -> Result<Self, SandboxError> {
        let sandbox = Arc::new(Sandbox::new(u32::try_from(capacity.jobs.max(1)).unwrap_or(u32::MAX))?);
        let modules = Modules::new(sandbox.clone(), None);
        Ok(Self::new(sandbox, modules, None, capacity))
    }

    pub fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            runs: count(&self.0.runs),
            from_memory: count(&self.0.from_memory),
            from_store: count(&self.0.from_store),
        }
    }

    /// Bytes of slices hashed since the start, for progress bars.
    pub fn bytes_read(&self) -> u64 {
        self.0.bytes_read.load(Ordering::Relaxed)
    }

    /// Answers `request`. Dropping the future does not stop a guest that has begun; its result is kept.
    pub async fn run(&self, request: Request) -> Result<Answer, RunError> {
        if request.assets.len() > ASSETS_MAX {
            return Err(RunError::TooManyAssets(request.assets.len()));
        }
        loop {
            let (slice, permit) = self.open(&request.slice).await?;
            let job = job_of(&request, &slice);
            let digest = job.digest();
            let id = request.id.clone().unwrap_or_else(|| SliceId::derived(digest));
            match self.0.flights.claim(&id) {
                Claim::Lead(lead) => {
                    let turn = Turn { id, request, slice, job, digest };
                    return self.take(turn, permit, lead).await;
                }
                // Whoever waits for another's run holds neither bytes nor a place among those that run.
                Claim::Follow(mut other) => {
                    drop((slice, permit));
                    if let Some(finished) = other.landed().await {
                        return self.0.remembered(&id, digest, finished);
                    }
                }
            }
        }
    }

    /// A slice in memory is open as it is; a file waits for its turn to be read.
    async fn open(&self, slice: &Slice) -> Result<(OpenSlice, Option<OwnedSemaphorePermit>), RunError> {
        if let Some(open) = slice.held() {
            return Ok((open, None));
        }
        let permit = self.permit().await?;
        let (core, slice) = (self.0.clone(), slice.clone());
        let open = blocking(move || slice.open(&core.hash_threads, &core.bytes_read)).await??;
        Ok((open, Some(permit)))
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, RunError> {
        self.0.permits.clone().acquire_owned().await.map_err(|_| RunError::Stopped)
    }

    /// Finds or makes the result that others may wait for.
    async fn take(&self, turn: Turn, permit: Option<OwnedSemaphorePermit>, lead: Duty) -> Result<Answer, RunError> {
        if let Some(finished) = self.0.results.get(&turn.id).filter(|_| turn.request.reuse == Reuse::Allowed) {
            lead.land(finished.clone());
            return self.0.remembered(&turn.id, turn.digest, finished);
        }
        let permit = match permit {
            Some(permit) => permit,
            None => self.permit().await?,
        };
        let core = self.0.clone();
        blocking(move || core.answer(turn, permit, lead)).await?
    }
}

/// The duty to make a result that others may wait for.
type Duty = Lead<SliceId, Arc<Finished>>;

/// A request whose slice is open.
struct Turn {
    id: SliceId,
    request: Request,
    slice: OpenSlice,
    job: Job,
    digest: Digest,
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Result<R, RunError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(RunError::Stopped),
    }
}

/// All that decides the result of `request`.
fn job_of(request: &Request, slice: &OpenSlice) -> Job {
    Job {
        workload: request.workload.name().to_owned(),
        module: request.workload.module().digest(),
        input: Blob { blake3: slice.digest(), bytes: slice.len() },
        args: Digest::of(&request.args),
        limits: request.limits.into(),
        assets: request.assets.iter().map(Asset::digest).collect(),
    }
}

impl Core {
    fn remembered(&self, id: &SliceId, job: Digest, finished: Arc<Finished>) -> Result<Answer, RunError> {
        if finished.job != job {
            return Err(RunError::SliceIdConflict(id.clone()));
        }
        self.from_memory.fetch_add(1, Ordering::Relaxed);
        Ok(Answer { finished, source: Source::Memory })
    }

    /// On a thread that may block: the proof that is there already, or else a run, whose proof is durable before
    /// anybody hears of it.
    fn answer(&self, turn: Turn, permit: OwnedSemaphorePermit, lead: Duty) -> Result<Answer, RunError> {
        let (id, reuse) = (turn.id.clone(), turn.request.reuse);
        let earlier = self.earlier(&id)?;
        if earlier.as_ref().is_some_and(|earlier| earlier.job().digest() != turn.digest) {
            return Err(RunError::SliceIdConflict(id));
        }
        let (finished, source) = match earlier {
            Some(proof) if reuse == Reuse::Allowed => {
                self.from_store.fetch_add(1, Ordering::Relaxed);
                (Finished::stored(proof, turn.digest), Source::Store)
            }
            earlier => {
                let finished = self.execute(turn)?;
                drop(permit);
                self.keep(&finished, earlier)?;
                (finished, Source::Run)
            }
        };
        let finished = Arc::new(finished);
        if finished.proof.is_some() {
            self.results.insert(id, finished.clone());
        }
        lead.land(finished.clone());
        Ok(Answer { finished, source })
    }

    /// The proof that `id` stands for.
    fn earlier(&self, id: &SliceId) -> Result<Option<SliceProof>, RunError> {
        match (self.results.get(id), &self.store) {
            (Some(finished), _) => Ok(finished.proof.clone()),
            (None, Some(store)) => Ok(store.proof(id)?),
            (None, None) => Ok(None),
        }
    }

    fn execute(&self, turn: Turn) -> Result<Finished, RunError> {
        let Turn { id, request, slice, job, digest } = turn;
        let program = self.modules.program(request.workload.module())?;
        let work = sandbox::Job {
            input: Box::new(slice),
            args: request.args,
            assets: request.assets.iter().map(|asset| asset.bytes().clone()).collect(),
            limits: request.limits,
        };
        let (started, clock) = (SystemTime::now(), Instant::now());
        let execution = self.sandbox.run(&program, work).map_err(|error| match (error, request.slice.path()) {
            (SandboxError::Input(error), Some(path)) => SliceError::from_input(path, error).into(),
            (error, _) => RunError::from(error),
        })?;
        self.runs.fetch_add(1, Ordering::Relaxed);
        let observed = Observed::new(started, clock.elapsed(), execution.usage, ENGINE_NAME);
        let proof = SliceProof::of(id, job, &execution, observed);
        let Execution { outcome, output, log, .. } = execution;
        Ok(Finished { outcome, proof, output: Some(output), log, job: digest })
    }

    /// Makes a new proof durable. Where there is one already, the new one must claim the same.
    fn keep(&self, finished: &Finished, earlier: Option<SliceProof>) -> Result<(), RunError> {
        match (&finished.proof, earlier) {
            (Some(proof), None) => self.store.as_ref().map_or(Ok(()), |store| Ok(store.keep(proof)?)),
            (None, None) => Ok(()),
            (proof, Some(earlier)) => {
                let claimed = proof.as_ref().map(SliceProof::claim_digest);
                let same = claimed == Some(earlier.claim_digest());
                if same { Ok(()) } else { Err(RunError::NotReproduced(earlier.slice_id().clone())) }
            }
        }
    }
}

impl Finished {
    /// What is left of a run whose proof was kept.
    fn stored(proof: SliceProof, job: Digest) -> Self {
        let output = (proof.output().bytes == 0).then(Vec::new);
        Self { outcome: proof.outcome(), output, log: Vec::new(), job, proof: Some(proof) }
    }

    /// What it takes in memory, about.
    fn bytes(&self) -> u64 {
        const RECORD: usize = 1024;
        (RECORD + self.output.as_ref().map_or(0, Vec::len) + self.log.len()) as u64
    }
}
