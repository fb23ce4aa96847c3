//! `WorkloadRunner`: the route of a slice from a request to its answer.
//!
//! Each result is made once (single flight). The first caller looks in memory, then in the store,
//! and otherwise runs the guest. Callers that arrive meanwhile wait for the first caller's result.
//! Runs use the sandbox's blocking threads, whose number is limited. Within its scope, a slice id
//! stands for everything that decides the result. If the same id returns with other content, the
//! only answer is `RunError::SliceIdConflict`.

mod capacity;
mod answer;
mod request;
mod single_flight;
mod active_runs;
mod observation;
mod proof_writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub use self::active_runs::{ActiveRun, RunProgress};
use self::active_runs::{ActiveRunGuard, ActiveRuns};
use self::answer::UnsignedResult;
pub use self::answer::{CacheSource, RunAnswer, RunError, RunResult};
pub use self::capacity::Capacity;
use self::capacity::cores;
use self::observation::AnswerCounts;
use self::observation::Metered;
pub use self::observation::{Observation, RequestUsage, SourceCounts};
use self::proof_writer::{PendingReply, ProofWriter};
pub use self::request::{ARGS_BYTES_MAX, ASSETS_BYTES_MAX, Reuse, RunRequest, check_brought};
use self::single_flight::{Follower, Seat, SingleFlight};
use crate::digest::{Digest, HashThreads};
use crate::key::{NodeKey, PublicKey, Signer};
use crate::modules::Modules;
use crate::proof::{Job, Observed, SliceProof};
use crate::sandbox::{self, ENGINE_NAME, RunControl, Sandbox, SandboxError};
use crate::slice::{OpenSlice, SliceError, SliceId, Tenant};
use crate::store::{ProofStore, StoreError};
use crate::turns::Turns;

/// Maximum requests that wait for a thread. In practice each entry point bounds them earlier and by
/// scope: HTTP by active runs, the queue by active tasks, a batch by slices ahead.
const WAITING_MAX: u64 = 1 << 32;

/// Cache key of a result: the scope and the slice id. The key separates scopes: no scope can see
/// another's results.
type Name = (Tenant, SliceId);

/// The runner. A clone is cheap and shares the same state.
#[derive(Clone)]
pub struct WorkloadRunner(Arc<RunnerCore>);

struct RunnerCore {
    sandbox: Arc<Sandbox>,
    modules: Modules,
    signer: Arc<Signer>,
    store: Option<ProofStore>,
    results: moka::sync::Cache<Name, Arc<RunResult>>,
    flights: SingleFlight<Name, RunAnswer>,
    keeping: Arc<ProofWriter>,
    hash_threads: HashThreads,
    under_way: ActiveRuns,
    /// Fair queue in front of the sandbox's threads.
    turns: Turns<Tenant>,
    tally: AnswerCounts,
}

impl WorkloadRunner {
    /// Creates a runner that signs its proofs with `signer` and stores them in `store`.
    pub fn new(
        sandbox: Arc<Sandbox>,
        modules: Modules,
        signer: Arc<Signer>,
        store: Option<ProofStore>,
        capacity: Capacity,
    ) -> Self {
        let jobs = capacity.jobs.max(1);
        // One weight bounds both numbers: each result counts at least its share of the entries.
        let share = (capacity.results_bytes_max / capacity.results_max.max(1)).max(1);
        let weight =
            move |_: &Name, finished: &Arc<RunResult>| u32::try_from(finished.bytes().max(share)).unwrap_or(u32::MAX);
        // No owner: an evicted result is computed again, or its proof is read from the store.
        let results = moka::sync::Cache::builder().max_capacity(capacity.results_bytes_max).weigher(weight).build();
        Self(Arc::new(RunnerCore {
            sandbox,
            modules,
            signer,
            store,
            results,
            flights: SingleFlight::default(),
            keeping: Arc::default(),
            hash_threads: HashThreads::new(jobs.min(cores())),
            under_way: ActiveRuns::default(),
            turns: Turns::new(jobs, capacity.spare_jobs, WAITING_MAX),
            tally: AnswerCounts::default(),
        }))
    }

    /// Creates a runner that keeps results only in memory. The signing key is random and is lost
    /// with the runner.
    pub fn in_memory(capacity: Capacity) -> Result<Self, RunError> {
        let sandbox = Arc::new(Sandbox::new(capacity.guests())?);
        let modules = Modules::in_process(sandbox.clone())?;
        let signer = Signer::new(NodeKey::generate().map_err(RunError::Random)?);
        Ok(Self::new(sandbox, modules, Arc::new(signer), None, capacity))
    }

    pub fn modules(&self) -> &Modules {
        &self.0.modules
    }

    pub fn store(&self) -> Option<&ProofStore> {
        self.0.store.as_ref()
    }

    pub fn counts(&self) -> SourceCounts {
        self.0.tally.counts()
    }

    /// Registers `observer`, which is called at the end of each request, in the caller's task. The
    /// caller waits for it. A caller that left earlier is not observed. Only the first registered
    /// observer counts.
    pub fn observe(&self, observer: impl Fn(&Observation<'_>) + Send + Sync + 'static) {
        self.0.tally.observe(observer);
    }

    /// Registers `observer` for the usage of each request, including requests whose caller has
    /// left. Only the first registered observer counts.
    pub fn observe_usage(&self, observer: impl Fn(&RequestUsage<'_>) + Send + Sync + 'static) {
        self.0.tally.observe_usage(observer);
    }

    /// Returns the bytes of slices hashed since the start, for progress bars.
    pub fn bytes_read(&self) -> u64 {
        self.0.under_way.bytes_read()
    }

    /// Returns the gas granted to guests since the start, for progress bars.
    pub fn gas_granted(&self) -> u64 {
        self.0.under_way.gas_granted()
    }

    /// Returns the active runs: at most as many as jobs and spare jobs.
    pub fn running(&self) -> Vec<ActiveRun> {
        self.0.under_way.running()
    }

    /// Returns the number of requests that wait for a thread.
    pub fn waiting(&self) -> u64 {
        self.0.turns.waiting()
    }

    /// Returns the public key that verifies the proofs made here.
    pub fn public_key(&self) -> PublicKey {
        self.0.signer.public()
    }

    /// Returns the proof under `id`, from memory or from the store. May wait for the disk.
    pub fn proof(&self, scope: &Tenant, id: &SliceId) -> Result<Option<SliceProof>, StoreError> {
        match self.finished(scope, id) {
            Some(finished) => Ok(Some(finished.proof.clone())),
            None => self.0.store.as_ref().map_or(Ok(None), |store| store.proof(scope, id)),
        }
    }

    /// Returns the newest stored proofs of a scope, like [`ProofStore::recent`]. Reads the disk.
    pub fn recent(&self, scope: &Tenant, max: usize) -> Result<Vec<SliceProof>, StoreError> {
        self.0.store.as_ref().map_or_else(|| Ok(Vec::new()), |store| store.recent(scope, max))
    }

    /// Returns the result under `id` if it is in memory.
    pub fn finished(&self, scope: &Tenant, id: &SliceId) -> Option<Arc<RunResult>> {
        self.0.results.get(&(scope.clone(), id.clone()))
    }

    /// Answers like [`WorkloadRunner::run`], and includes the guest's output. If only the proof is
    /// stored, the guest runs again.
    pub async fn run_for_output(&self, request: RunRequest) -> Result<RunAnswer, RunError> {
        let again = RunRequest { reuse: Reuse::Never, ..request.clone() };
        let answer = self.run(request).await?;
        if answer.finished.output.is_none() { self.run(again).await } else { Ok(answer) }
    }

    /// Answers `request`. A waiting slice is only a handle. If the future is dropped, the run is
    /// cancelled at its next poll point, or never starts. Another caller that waited for the same
    /// result then runs it again.
    pub async fn run(&self, request: RunRequest) -> Result<RunAnswer, RunError> {
        self.run_watched(request, &RunProgress::default()).await
    }

    /// Answers like [`WorkloadRunner::run`], and reports to `progress`. Use one `RunProgress` for
    /// one run at a time.
    pub async fn run_watched(&self, request: RunRequest, progress: &RunProgress) -> Result<RunAnswer, RunError> {
        let (workload, began) = (request.workload.name(), Instant::now());
        let _metered = Metered { tally: &self.0.tally, scope: request.scope.clone(), progress };
        let result = self.answer(request, progress).await;
        self.0.tally.tell(&Observation { workload, duration: began.elapsed(), result: result.as_ref() });
        result
    }

    async fn answer(&self, request: RunRequest, progress: &RunProgress) -> Result<RunAnswer, RunError> {
        let request = Arc::new(request);
        let waits = CancelOnDrop::default();
        let runtime = Handle::current();
        loop {
            let (reply, served) = oneshot::channel();
            let (core, asked, runtime) = (self.0.clone(), request.clone(), runtime.clone());
            let progress = progress.clone();
            let watch = RunControl {
                is_cancelled: waits.is_over.clone(),
                gas_granted: progress.gas_counter(),
                ..RunControl::default()
            };
            // A free thread starts at once. Otherwise the next thread that becomes free takes this
            // job itself.
            let place = self.0.turns.start(&request.scope, move |turn| {
                let sandbox = core.sandbox.clone();
                sandbox.submit(move || {
                    let _runtime = runtime.enter();
                    let shown = core.under_way.begin(&asked, &progress);
                    serve(core, &asked, watch, shown, reply);
                    drop(turn);
                });
            });
            let place = place.map_err(|_| RunError::Busy)?;
            let served = served.await.map_err(|_| RunError::Lost)?;
            drop(place);
            match served {
                RunStep::Done(result) => return result,
                RunStep::Wait { id, job, mut other } => {
                    let Some(landed) = other.wait().await else { continue };
                    let landed_from = landed.source;
                    let answer = RunAnswer { source: CacheSource::Memory, ..landed }.of_job(&id, job)?;
                    if request.reuse == Reuse::Allowed || landed_from == CacheSource::Run {
                        self.0.tally.count(answer.source);
                        return Ok(answer);
                    }
                }
            }
        }
    }
}

/// Guard of a waiting caller. Dropping the guard cancels the run.
#[derive(Default)]
struct CancelOnDrop {
    is_over: Arc<AtomicBool>,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// The result of one attempt on a sandbox thread.
enum RunStep {
    Done(Result<RunAnswer, RunError>),
    /// Another caller already makes this result. While the caller waits for it, the slice and the
    /// thread are released.
    Wait {
        id: SliceId,
        job: Digest,
        other: Follower<RunAnswer>,
    },
}

/// Executes one attempt on a blocking thread. The thread is free again when this returns.
fn serve(
    core: Arc<RunnerCore>,
    request: &RunRequest,
    watch: RunControl,
    shown: ActiveRunGuard,
    reply: oneshot::Sender<RunStep>,
) {
    if reply.is_closed() {
        return;
    }
    let bytes_read = shown.progress().bytes_counter();
    let opened = request.check().and_then(|()| Ok(request.slice.open(&core.hash_threads, bytes_read)?));
    let slice = match opened {
        Ok(slice) => slice,
        Err(error) => {
            drop((core, shown));
            return drop(reply.send(RunStep::Done(Err(error))));
        }
    };
    let job = request.job(&slice);
    let job_digest = job.digest();
    let id = request.id.clone().unwrap_or_else(|| SliceId::derived(job_digest));
    let name = (request.scope.clone(), id.clone());
    shown.identify(&id);
    let duty = match core.flights.join(&name) {
        Seat::Lead(lead) => PendingReply { core, lead, reply },
        Seat::Follow(other) => return drop(reply.send(RunStep::Wait { id, job: job_digest, other })),
    };
    // Before an answer is sent, the run is removed from the list of active runs.
    let known = match duty.core.known(&name, job_digest) {
        Ok(Some(answer)) if request.reuse == Reuse::Allowed => {
            drop(shown);
            return duty.fulfil(Ok(answer));
        }
        Ok(known) => known,
        Err(error) => {
            drop(shown);
            return duty.fulfil(Err(error));
        }
    };
    let ended = duty.core.execute(request, watch, id, slice, job);
    drop(shown);
    match ended {
        Ok(ended) => duty.keep(ended, known),
        Err(error) => duty.fulfil(Err(error)),
    }
}

impl RunnerCore {
    /// Looks up the result of `name`: in memory, then in the store. Returns an error if it belongs
    /// to another job.
    fn known(&self, name: &Name, job: Digest) -> Result<Option<RunAnswer>, RunError> {
        let (scope, id) = name;
        let in_memory = self.results.get(name).map(|finished| RunAnswer { finished, source: CacheSource::Memory });
        let known = match (in_memory, &self.store) {
            (None, Some(store)) => store.proof(scope, id)?.map(|proof| {
                let finished = Arc::new(RunResult::from_proof(proof));
                RunAnswer { finished, source: CacheSource::Store }
            }),
            (in_memory, _) => in_memory,
        };
        known.map(|answer| answer.of_job(id, job)).transpose()
    }

    fn execute(
        &self,
        request: &RunRequest,
        watch: RunControl,
        id: SliceId,
        slice: OpenSlice,
        job: Job,
    ) -> Result<UnsignedResult, RunError> {
        let program = self.modules.program_for(request.workload.module(), &request.scope)?;
        let (started, clock) = (SystemTime::now(), Instant::now());
        let work = sandbox::Invocation {
            input: Box::new(slice),
            args: request.args.clone(),
            assets: request.assets.iter().map(|asset| asset.bytes().clone()).collect(),
            limits: request.limits,
            watch: RunControl { deadline: request.timeout.map(|timeout| clock + timeout), ..watch },
            trace: None,
        };
        let execution = self.sandbox.run(&program, work).map_err(|error| match (error, request.slice.path()) {
            (SandboxError::Input(error), Some(path)) => SliceError::from_input(path, error).into(),
            (error, _) => RunError::from(error),
        })?;
        let observed = Observed::new(started, clock.elapsed(), execution.usage, ENGINE_NAME);
        Ok(UnsignedResult::of(id, job, execution, observed))
    }
}
