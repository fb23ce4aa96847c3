//! `WorkloadRunner`: the route of a slice from a request to its answer.
//!
//! Each result is made once: found in memory or in the store, waited for if another caller is at it, or else run, on a
//! thread that may block, while fewer than the allowed number do. In its scope the id of a slice stands for all that decides
//! its result; under an id that comes back with other content there is no answer but `RunError::SliceIdConflict`.

mod answer;
mod request;
mod flights;
mod under_way;
mod observation;
mod duty;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::answer::Ended;
pub use self::answer::{Answer, Finished, RunError, Source};
use self::duty::{Duty, Keeping};
use self::flights::{Claim, Flights, Follow};
use self::observation::Metered;
use self::observation::Tally;
pub use self::observation::{Counts, Observation, Usage};
pub use self::request::{ARGS_BYTES_MAX, ASSETS_BYTES_MAX, Request, Reuse, check_brought};
pub use self::under_way::{Progress, Running};
use self::under_way::{Shown, UnderWay};
use crate::digest::{Digest, HashThreads};
use crate::key::{NodeKey, PublicKey, Signer};
use crate::modules::Modules;
use crate::proof::{Job, Observed, SliceProof};
use crate::sandbox::{self, ENGINE_NAME, Sandbox, SandboxError, Watch};
use crate::slice::{OpenSlice, Scope, SliceError, SliceId};
use crate::store::{ProofStore, StoreError};
use crate::turns::Turns;

/// How the runner may use the machine.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Guests at once; and, up to the number of cores, threads that hash long slices.
    pub jobs: usize,
    /// Guests beyond these, of scopes that run nothing: so that one scope's long runs do not keep another from its first.
    pub spare_jobs: usize,
    /// Results that are kept in memory, in all and by their bytes.
    pub results_max: u64,
    pub results_bytes_max: u64,
}

impl Capacity {
    /// The fewest spare jobs where several scopes ask.
    const SPARE_JOBS_MIN: usize = 4;

    /// The same, for several scopes: as many jobs are spare as there are others.
    #[must_use]
    pub fn for_several(self) -> Self {
        Self { spare_jobs: self.jobs.max(Self::SPARE_JOBS_MIN), ..self }
    }

    /// A kibibyte each, where results have no output.
    pub const RESULTS_MAX: u64 = 100_000;
    pub const RESULTS_BYTES_MAX: u64 = 128 << 20;

    /// The threads and places for guests that the sandbox is to have.
    pub fn guests(&self) -> u32 {
        u32::try_from(self.jobs.max(1).saturating_add(self.spare_jobs)).unwrap_or(u32::MAX)
    }

    /// As many jobs as the system says there are cores for.
    pub fn of_this_machine() -> Self {
        Self {
            jobs: cores(),
            spare_jobs: 0,
            results_max: Self::RESULTS_MAX,
            results_bytes_max: Self::RESULTS_BYTES_MAX,
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Requests that wait for a thread. Where they come in, they are bounded sooner and by scope: over HTTP as runs under way, in
/// the queue as tasks under way, in a batch as slices ahead.
const WAITING_MAX: u64 = 1 << 32;

/// By what results are found: an id, and whose it is. All that a scope could learn of another goes by this.
type Name = (Scope, SliceId);

/// Cheap to clone; all clones are one runner.
#[derive(Clone)]
pub struct WorkloadRunner(Arc<Core>);

struct Core {
    sandbox: Arc<Sandbox>,
    modules: Modules,
    signer: Arc<Signer>,
    store: Option<ProofStore>,
    results: moka::sync::Cache<Name, Arc<Finished>>,
    flights: Flights<Name, Answer>,
    keeping: Arc<Keeping>,
    hash_threads: HashThreads,
    under_way: UnderWay,
    /// In front of the sandbox's threads.
    turns: Turns<Scope>,
    tally: Tally,
}

impl WorkloadRunner {
    /// A runner that has its proofs signed by `signer`, and keeps them in `store`.
    pub fn new(
        sandbox: Arc<Sandbox>,
        modules: Modules,
        signer: Arc<Signer>,
        store: Option<ProofStore>,
        capacity: Capacity,
    ) -> Self {
        let jobs = capacity.jobs.max(1);
        // One weight bounds both: no result counts for less than its share of the entries.
        let share = (capacity.results_bytes_max / capacity.results_max.max(1)).max(1);
        let weight =
            move |_: &Name, finished: &Arc<Finished>| u32::try_from(finished.bytes().max(share)).unwrap_or(u32::MAX);
        // No owner: a result that is not here any more is run again, or its proof read.
        let results = moka::sync::Cache::builder().max_capacity(capacity.results_bytes_max).weigher(weight).build();
        Self(Arc::new(Core {
            sandbox,
            modules,
            signer,
            store,
            results,
            flights: Flights::default(),
            keeping: Arc::default(),
            hash_threads: HashThreads::new(jobs.min(cores())),
            under_way: UnderWay::default(),
            turns: Turns::new(jobs, capacity.spare_jobs, WAITING_MAX),
            tally: Tally::default(),
        }))
    }

    /// A runner that keeps its results in memory alone, and signs them with a key that nobody knows and that ends with it.
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

    pub fn counts(&self) -> Counts {
        self.0.tally.counts()
    }

    /// Tells `observer` of each request when it ends, in the task that asked; of whoever leaves before that, it hears nothing.
    /// Whoever asks waits for it. There is one observer, the first.
    pub fn observe(&self, observer: impl Fn(&Observation<'_>) + Send + Sync + 'static) {
        self.0.tally.observe(observer);
    }

    /// Tells `observer` what each request has used, also where its caller has left. There is one observer, the first.
    pub fn observe_usage(&self, observer: impl Fn(&Usage<'_>) + Send + Sync + 'static) {
        self.0.tally.observe_usage(observer);
    }

    /// Bytes of slices hashed since the start, for progress bars.
    pub fn bytes_read(&self) -> u64 {
        self.0.under_way.bytes_read()
    }

    /// Gas that guests were granted since the start, likewise.
    pub fn gas_granted(&self) -> u64 {
        self.0.under_way.gas_granted()
    }

    /// What runs now: no more than there are jobs and spare ones.
    pub fn running(&self) -> Vec<Running> {
        self.0.under_way.running()
    }

    /// How many requests wait for a thread.
    pub fn waiting(&self) -> u64 {
        self.0.turns.waiting()
    }

    /// By which others know the proofs that are made here.
    pub fn public_key(&self) -> PublicKey {
        self.0.signer.public()
    }

    /// The proof under `id`, whether or not it is in memory still. May wait for the disk.
    pub fn proof(&self, scope: &Scope, id: &SliceId) -> Result<Option<SliceProof>, StoreError> {
        match self.finished(scope, id) {
            Some(finished) => Ok(Some(finished.proof.clone())),
            None => self.0.store.as_ref().map_or(Ok(None), |store| store.proof(scope, id)),
        }
    }

    /// The newest proofs of a scope that are kept, as [`ProofStore::recent`] finds them. Reads the disk.
    pub fn recent(&self, scope: &Scope, max: usize) -> Result<Vec<SliceProof>, StoreError> {
        self.0.store.as_ref().map_or_else(|| Ok(Vec::new()), |store| store.recent(scope, max))
    }

    /// The result under `id`, while it is in memory.
    pub fn finished(&self, scope: &Scope, id: &SliceId) -> Option<Arc<Finished>> {
        self.0.results.get(&(scope.clone(), id.clone()))
    }

    /// [`WorkloadRunner::run`], with what the guest puts out: runs once more what is known, where only the proof was kept.
    pub async fn run_for_output(&self, request: Request) -> Result<Answer, RunError> {
        let again = Request { reuse: Reuse::Never, ..request.clone() };
        let answer = self.run(request).await?;
        if answer.finished.output.is_none() { self.run(again).await } else { Ok(answer) }
    }

    /// Answers `request`. A slice that waits for its turn is only a handle. If the future is dropped, the run ends at its
    /// next look at who waits for it, if it has begun at all; another caller who waited for it too runs it anew.
    pub async fn run(&self, request: Request) -> Result<Answer, RunError> {
        self.run_watched(request, &Progress::default()).await
    }

    /// [`WorkloadRunner::run`], for a caller who watches `progress` meanwhile. It shows one run at a time.
    pub async fn run_watched(&self, request: Request, progress: &Progress) -> Result<Answer, RunError> {
        let (workload, began) = (request.workload.name(), Instant::now());
        let _metered = Metered { tally: &self.0.tally, scope: request.scope.clone(), progress };
        let result = self.answer(request, progress).await;
        self.0.tally.tell(&Observation { workload, duration: began.elapsed(), result: result.as_ref() });
        result
    }

    async fn answer(&self, request: Request, progress: &Progress) -> Result<Answer, RunError> {
        let request = Arc::new(request);
        let waits = Waits::default();
        let runtime = Handle::current();
        loop {
            let (reply, served) = oneshot::channel();
            let (core, asked, runtime) = (self.0.clone(), request.clone(), runtime.clone());
            let progress = progress.clone();
            let watch =
                Watch { is_cancelled: waits.is_over.clone(), gas_granted: progress.gas_counter(), ..Watch::default() };
            // A free thread begins at once; otherwise the one that becomes free takes this up itself.
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
                Served::Done(result) => return result,
                Served::Wait { id, job, mut other } => {
                    let Some(landed) = other.landed().await else { continue };
                    let landed_from = landed.source;
                    let answer = Answer { source: Source::Memory, ..landed }.of_job(&id, job)?;
                    if request.reuse == Reuse::Allowed || landed_from == Source::Run {
                        self.0.tally.count(answer.source);
                        return Ok(answer);
                    }
                }
            }
        }
    }
}

/// A caller who waits, until it is dropped.
#[derive(Default)]
struct Waits {
    is_over: Arc<AtomicBool>,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// What came of a turn.
enum Served {
    Done(Result<Answer, RunError>),
    /// Another is at it. Whoever waits for that has let go of the slice and of the thread.
    Wait {
        id: SliceId,
        job: Digest,
        other: Follow<Answer>,
    },
}

/// One turn, on a thread that may block. Another may have it when this returns.
fn serve(core: Arc<Core>, request: &Request, watch: Watch, shown: Shown, reply: oneshot::Sender<Served>) {
    if reply.is_closed() {
        return;
    }
    let bytes_read = shown.progress().bytes_counter();
    let opened = request.check().and_then(|()| Ok(request.slice.open(&core.hash_threads, bytes_read)?));
    let slice = match opened {
        Ok(slice) => slice,
        Err(error) => {
            drop((core, shown));
            return drop(reply.send(Served::Done(Err(error))));
        }
    };
    let job = request.job(&slice);
    let job_digest = job.digest();
    let id = request.id.clone().unwrap_or_else(|| SliceId::derived(job_digest));
    let name = (request.scope.clone(), id.clone());
    shown.identify(&id);
    let duty = match core.flights.claim(&name) {
        Claim::Lead(lead) => Duty { core, lead, reply },
        Claim::Follow(other) => return drop(reply.send(Served::Wait { id, job: job_digest, other })),
    };
    // Whoever is answered is no longer shown as running.
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

impl Core {
    /// What `name` stands for already: in memory, or else in the store.
    fn known(&self, name: &Name, job: Digest) -> Result<Option<Answer>, RunError> {
        let (scope, id) = name;
        let in_memory = self.results.get(name).map(|finished| Answer { finished, source: Source::Memory });
        let known = match (in_memory, &self.store) {
            (None, Some(store)) => store.proof(scope, id)?.map(|proof| {
                let finished = Arc::new(Finished::stored(proof));
                Answer { finished, source: Source::Store }
            }),
            (in_memory, _) => in_memory,
        };
        known.map(|answer| answer.of_job(id, job)).transpose()
    }

    fn execute(
        &self,
        request: &Request,
        watch: Watch,
        id: SliceId,
        slice: OpenSlice,
        job: Job,
    ) -> Result<Ended, RunError> {
        let program = self.modules.program_for(request.workload.module(), &request.scope)?;
        let (started, clock) = (SystemTime::now(), Instant::now());
        let work = sandbox::Work {
            input: Box::new(slice),
            args: request.args.clone(),
            assets: request.assets.iter().map(|asset| asset.bytes().clone()).collect(),
            limits: request.limits,
            watch: Watch { deadline: request.timeout.map(|timeout| clock + timeout), ..watch },
            trace: None,
        };
        let execution = self.sandbox.run(&program, work).map_err(|error| match (error, request.slice.path()) {
            (SandboxError::Input(error), Some(path)) => SliceError::from_input(path, error).into(),
            (error, _) => RunError::from(error),
        })?;
        let observed = Observed::new(started, clock.elapsed(), execution.usage, ENGINE_NAME);
        Ok(Ended::of(id, job, execution, observed))
    }
}
