//! Task queue, as the HTTP service uses it: each accepted slice ends, in its turn, also after
//! crashes and restarts.

mod outputs;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use compute_host::digest::Digest;
use compute_host::key::{NodeKey, Signer};
use compute_host::limits::Limits;
use compute_host::modules::{ModuleRecord, Modules, Quota, StoredModules};
use compute_host::queue::{Queue, QueueError, Settings, TaskPhase, TaskRequest};
use compute_host::runner::{Capacity, Reuse, WorkloadRunner};
use compute_host::sandbox::{Outcome, Sandbox};
use compute_host::slice::Tenant;
use compute_host::store::{AcceptError, ProofStore, QueueLimits, TaskId, TaskOutcome, TaskWorkload};
use compute_host::workload::{Asset, Workload};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, yield_now};

use crate::common::{Workplace, noise};

const SETTINGS: Settings = Settings {
    quota: QueueLimits { entries_max: 100, bytes_max: 64 << 20, finished_max: 1_000, outputs_bytes_max: 64 << 20 },
    slice_bytes_max: 8 << 20,
    jobs: 1,
    spare_jobs: 0,
    clock: || 1_234,
};

fn signer() -> Arc<Signer> {
    Arc::new(Signer::new(NodeKey::from_secret([1; 32])))
}

/// Returns a runner with one thread, whose proofs and modules are on disk.
fn runner(here: &Workplace) -> WorkloadRunner {
    let sandbox = Arc::new(Sandbox::new(1).unwrap());
    let store = ProofStore::open(&here.path("proofs"), 10_000).unwrap().store;
    let stored = StoredModules::new(here.path("modules"), Quota { modules_max: 10, bytes_max: 1 << 20 });
    let modules = Modules::in_process(sandbox.clone()).unwrap().with_store(stored);
    let capacity = Capacity { jobs: 1, ..Capacity::of_this_machine() };
    WorkloadRunner::new(sandbox, modules, signer(), Some(store), capacity)
}

fn open(here: &Workplace) -> Arc<Queue> {
    Queue::open(&here.path("accepted"), runner(here), SETTINGS).unwrap()
}

fn scope(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn hand_in(queue: &Arc<Queue>, scope: &Tenant, slice: &[u8], request: TaskRequest) -> Result<TaskId, QueueError> {
    let mut incoming = queue.begin(scope)?;
    slice.chunks(10_000).try_for_each(|piece| incoming.write(piece))?;
    incoming.finish(request)
}

fn transcode(queue: &Arc<Queue>, scope: &Tenant, slice: &[u8]) -> TaskId {
    hand_in(queue, scope, slice, TaskRequest::new(TaskWorkload::Transcode)).unwrap()
}

/// Runs tasks until it is stopped.
struct Worker {
    stop: oneshot::Sender<()>,
    works: JoinHandle<()>,
}

impl Worker {
    fn start(queue: &Arc<Queue>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let queue = queue.clone();
        let works = tokio::spawn(async move {
            queue.work(async { drop(stopped.await) }).await;
        });
        Self { stop, works }
    }

    async fn stop(self) {
        drop(self.stop);
        self.works.await.unwrap();
    }
}

/// Waits for the task to end, and returns its ending.
async fn end(queue: &Queue, scope: &Tenant, id: &TaskId) -> TaskOutcome {
    if let Some(mut changes) = queue.watch(scope, id) {
        while changes.changed().await.is_ok() {}
    }
    match queue.status(scope, id).unwrap().expect("it is known").phase {
        TaskPhase::Ended(ending) => ending,
        other => panic!("{other:?}"),
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        yield_now().await;
    }
}

fn done(ending: &TaskOutcome) -> &str {
    match ending {
        TaskOutcome::Done { slice_id, outcome: Outcome::Done, .. } => slice_id.as_str(),
        other => panic!("{other:?}"),
    }
}

fn failed(ending: &TaskOutcome) -> &str {
    match ending {
        TaskOutcome::Failed { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

/// Stores a guest that never ends by itself.
fn endless(runner: &WorkloadRunner) -> TaskRequest {
    let text = r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop $again (br $again)) (i32.const 0)))"#;
    let Workload::Module(module) = Workload::from_module(text.as_bytes()).unwrap() else { panic!() };
    let record = ModuleRecord::new(module.wasm().len() as u64, "compute".to_owned(), 0, "a test".to_owned());
    runner.modules().add(&module, None, &record).unwrap();
    let limits = Limits { gas: u64::MAX, ..Limits::DEFAULT };
    TaskRequest { limits, ..TaskRequest::new(TaskWorkload::Stored(module.digest())) }
}

#[tokio::test]
async fn what_is_accepted_is_run_as_it_was_asked_for() {
    let here = Workplace::new();
    let (queue, owner) = (open(&here), Tenant::OWNER);
    let request = TaskRequest {
        slice_id: "mine".parse().ok(),
        args: Arc::from(*b"args"),
        assets: vec![Asset::new(*b"asset")],
        ..TaskRequest::new(TaskWorkload::Transcode)
    };
    let id = hand_in(&queue, &owner, b"slice", request).unwrap();
    let status = queue.status(&owner, &id).unwrap().unwrap();
    assert!(matches!(status.phase, TaskPhase::Waiting { ahead: 0, attempts: 0 }), "{status:?}");
    assert_eq!((status.known.task.accepted_ms, status.known.slice_bytes), (1_234, 5));
    let long = transcode(&queue, &owner, &noise(1, 3 << 20));
    assert_eq!((queue.depth().waiting, queue.depth().running), (2, 0));
    let worker = Worker::start(&queue);
    assert_eq!(done(&end(&queue, &owner, &id).await), "mine");
    let long = end(&queue, &owner, &long).await;
    worker.stop().await;
    assert_eq!(queue.depth(), compute_host::queue::QueueStats::default());
    drop(queue);
    let proofs = ProofStore::open(&here.path("proofs"), 10_000).unwrap().store;
    let proof = proofs.proof(&owner, &"mine".parse().unwrap()).unwrap().unwrap();
    assert_eq!(proof.job().input.blake3, Digest::of(b"slice"));
    assert_eq!((proof.job().args, &proof.job().assets[..]), (Digest::of(b"args"), &[Digest::of(b"asset")][..]));
    let proof = proofs.proof(&owner, &done(&long).parse().unwrap()).unwrap().unwrap();
    assert_eq!(proof.job().input.blake3, Digest::of(&noise(1, 3 << 20)));
}

#[tokio::test]
async fn a_task_is_shown_to_the_token_that_made_it_and_to_no_other() {
    let here = Workplace::new();
    let queue = open(&here);
    let (a, b) = (scope("a"), scope("b"));
    let id = transcode(&queue, &a, b"slice");
    let is_hidden = |queue: &Queue| {
        [&b, &Tenant::OWNER]
            .iter()
            .all(|other| queue.status(other, &id).unwrap().is_none() && queue.watch(other, &id).is_none())
    };
    assert!(is_hidden(&queue) && queue.cancel(&b, &id).await.unwrap().is_none());
    let worker = Worker::start(&queue);
    done(&end(&queue, &a, &id).await);
    assert!(is_hidden(&queue) && queue.cancel(&b, &id).await.unwrap().is_none());
    worker.stop().await;
}

/// One token fills its quota, and another submits one slice.
#[tokio::test]
async fn a_token_that_floods_the_queue_keeps_no_other_waiting() {
    let here = Workplace::in_memory();
    let (queue, greedy, modest) = (open(&here), scope("greedy"), scope("modest"));
    let flood: Vec<TaskId> = (0..90_u8).map(|at| transcode(&queue, &greedy, &[at])).collect();
    let one_more = hand_in(&queue, &greedy, b"x", TaskRequest::new(TaskWorkload::Transcode));
    assert!(matches!(one_more, Err(QueueError::Accept(AcceptError::Full { entries: 90, .. }))), "{one_more:?}");
    let id = transcode(&queue, &modest, b"x");
    let TaskPhase::Waiting { ahead, .. } = queue.status(&modest, &id).unwrap().unwrap().phase else { panic!() };
    assert_eq!(ahead, 1);
    let worker = Worker::start(&queue);
    done(&end(&queue, &modest, &id).await);
    let ended = flood.iter().filter(|id| queue.watch(&greedy, id).is_none()).count();
    assert!(ended < 45, "{ended} of the flood were run first");
    for id in &flood {
        done(&end(&queue, &greedy, id).await);
    }
    worker.stop().await;
}

#[tokio::test]
async fn what_waits_is_listed_for_its_token_alone() {
    let here = Workplace::new();
    let queue = open(&here);
    let (a, b) = (scope("a"), scope("b"));
    let ids: Vec<TaskId> = (0..3_u8).map(|at| transcode(&queue, &a, &[at])).collect();
    let (count, first) = queue.waiting(&a, 2).unwrap();
    let listed: Vec<TaskId> = first.iter().map(|status| status.known.task.id).collect();
    assert_eq!((count, &listed[..]), (3, &ids[..2]));
    assert_eq!((queue.waiting(&b, 2).unwrap().0, queue.waiting(&Tenant::OWNER, 2).unwrap().0), (0, 0));
    let worker = Worker::start(&queue);
    for id in &ids {
        done(&end(&queue, &a, id).await);
    }
    assert_eq!(queue.waiting(&a, 2).unwrap().0, 0);
    worker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_run_ends_with_the_reason() {
    let here = Workplace::new();
    let (queue, owner) = (open(&here), Tenant::OWNER);
    let runner = runner_of(&here);
    let endless = endless(&runner);
    let named = |workload| TaskRequest { slice_id: "x".parse().ok(), ..TaskRequest::new(workload) };
    let first = hand_in(&queue, &owner, b"x", named(TaskWorkload::Transcode)).unwrap();
    let other = hand_in(&queue, &owner, b"y", named(TaskWorkload::Transcode)).unwrap();
    let unknown = TaskRequest::new(TaskWorkload::Stored(Digest::of(b"no module")));
    let unknown = hand_in(&queue, &owner, b"x", unknown).unwrap();
    let late = TaskRequest { timeout: Some(Duration::from_millis(1)), ..endless.clone() };
    let late = hand_in(&queue, &owner, b"x", late).unwrap();
    let limits = Limits { gas: 1_000, ..Limits::DEFAULT };
    let poor = hand_in(&queue, &owner, b"x", TaskRequest { limits, ..endless }).unwrap();
    let worker = Worker::start(&queue);
    let codes = [end(&queue, &owner, &first).await, end(&queue, &owner, &other).await];
    let conflicts =
        codes.iter().filter(|ending| matches!(ending, TaskOutcome::Failed { code, .. } if code == "slice_id_conflict"));
    assert_eq!(conflicts.count(), 1, "{codes:?}");
    assert_eq!(failed(&end(&queue, &owner, &unknown).await), "no_such_module");
    assert_eq!(failed(&end(&queue, &owner, &late).await), "deadline");
    let poor = end(&queue, &owner, &poor).await;
    assert!(
        matches!(poor, TaskOutcome::Done { outcome: Outcome::OutOfGas, .. }),
        "a guest's failure is a result: {poor:?}"
    );
    worker.stop().await;
}

/// Returns a runner with the modules of the queue's runner, which has the proof store open.
fn runner_of(here: &Workplace) -> WorkloadRunner {
    let sandbox = Arc::new(Sandbox::new(1).unwrap());
    let stored = StoredModules::new(here.path("modules"), Quota { modules_max: 10, bytes_max: 1 << 20 });
    let modules = Modules::in_process(sandbox.clone()).unwrap().with_store(stored);
    WorkloadRunner::new(sandbox, modules, signer(), None, Capacity::of_this_machine())
}

#[tokio::test]
async fn too_much_is_refused_before_it_is_kept() {
    let here = Workplace::new();
    let queue = open(&here);
    let request = || TaskRequest::new(TaskWorkload::Transcode);
    let too_long = hand_in(&queue, &Tenant::OWNER, &noise(1, (8 << 20) + 1), request()).unwrap_err();
    let args = TaskRequest { args: noise(1, (1 << 20) + 1).into(), ..request() };
    let args = hand_in(&queue, &Tenant::OWNER, b"x", args).unwrap_err();
    let assets = TaskRequest { assets: vec![Asset::new(*b"a"); 1_001], ..request() };
    let assets = hand_in(&queue, &Tenant::OWNER, b"x", assets).unwrap_err();
    let codes = [too_long, args, assets].map(|error| error.code());
    assert_eq!(codes, ["slice_too_large", "arguments_too_long", "too_many_assets"]);
    assert_eq!(queue.depth(), compute_host::queue::QueueStats::default());
    assert!(entries(&here.path("accepted/files/staged")).is_empty());
}

fn entries(directory: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(directory)
        .map_or_else(|_| Vec::new(), |entries| entries.map(|entry| entry.unwrap().path()).collect())
}

/// Accepted slices, and their endings, survive a restart.
#[tokio::test]
async fn what_did_not_end_goes_on_after_a_restart() {
    let here = Workplace::new();
    let owner = Tenant::OWNER;
    let (ended, waits, anew) = {
        let queue = open(&here);
        let ended = transcode(&queue, &owner, b"1");
        let worker = Worker::start(&queue);
        let first = end(&queue, &owner, &ended).await;
        worker.stop().await;
        // Both were run already: their proofs are there, but the endings were never reported.
        let anew = TaskRequest { reuse: Reuse::Never, ..TaskRequest::new(TaskWorkload::Transcode) };
        let anew = hand_in(&queue, &owner, b"1", anew).unwrap();
        ((ended, first), transcode(&queue, &owner, b"1"), anew)
    };
    let proof = |here: &Workplace| {
        let proofs = ProofStore::open(&here.path("proofs"), 10_000).unwrap().store;
        proofs.proof(&owner, &done(&ended.1).parse().unwrap()).unwrap().unwrap()
    };
    let before = proof(&here);
    {
        let queue = open(&here);
        assert_eq!(end(&queue, &owner, &ended.0).await, ended.1);
        assert_eq!(queue.depth().waiting, 2);
        let worker = Worker::start(&queue);
        assert_eq!(end(&queue, &owner, &waits).await, ended.1, "one job has one result");
        assert_eq!(end(&queue, &owner, &anew).await, ended.1);
        worker.stop().await;
    }
    assert_eq!(proof(&here), before, "and one proof, the first");
}

#[tokio::test]
async fn what_runs_when_the_worker_is_dropped_is_not_lost() {
    let here = Workplace::new();
    let owner = Tenant::OWNER;
    let id = {
        let runner = runner(&here);
        let endless = endless(&runner);
        let queue = Queue::open(&here.path("accepted"), runner.clone(), SETTINGS).unwrap();
        let id = hand_in(&queue, &owner, b"x", endless).unwrap();
        let worker = Worker::start(&queue);
        let mut changes = queue.watch(&owner, &id).unwrap();
        until(|| runner.gas_granted() > 0).await;
        changes.changed().await.unwrap();
        let TaskPhase::Running { progress } = queue.status(&owner, &id).unwrap().unwrap().phase else { panic!() };
        assert!(progress.gas_granted() > 0 && progress.bytes_read() == 1);
        // A shutdown aborts the worker when its grace period has passed.
        worker.works.abort();
        until(|| runner.running().is_empty() && queue.depth().running == 0).await;
        id
    };
    let queue = open(&here);
    let status = queue.status(&owner, &id).unwrap().unwrap();
    assert!(matches!(status.phase, TaskPhase::Waiting { ahead: 0, .. }), "{status:?}");
}

#[tokio::test]
async fn what_is_cancelled_ends_whether_it_runs_or_waits() {
    let here = Workplace::new();
    let (owner, runner) = (Tenant::OWNER, runner(&here));
    let endless = endless(&runner);
    let queue = Queue::open(&here.path("accepted"), runner.clone(), SETTINGS).unwrap();
    let runs = hand_in(&queue, &owner, b"x", endless.clone()).unwrap();
    let waits: Vec<TaskId> = (0..3_u8).map(|at| hand_in(&queue, &owner, &[at], endless.clone()).unwrap()).collect();
    let worker = Worker::start(&queue);
    until(|| runner.gas_granted() > 0).await;
    for id in waits.iter().rev().chain([&runs]) {
        let ending = queue.cancel(&owner, id).await.unwrap().unwrap();
        assert_eq!(failed(&ending), "cancelled");
        assert_eq!(queue.cancel(&owner, id).await.unwrap(), Some(ending));
    }
    let after = transcode(&queue, &owner, b"x");
    let ending = end(&queue, &owner, &after).await;
    assert_eq!(queue.cancel(&owner, &after).await.unwrap(), Some(ending), "too late");
    worker.stop().await;
    assert_eq!(queue.depth(), compute_host::queue::QueueStats::default());
}

/// A file that cannot be opened for a while represents every temporary failure: a full disk, a
/// compiler that died.
#[tokio::test]
async fn what_the_host_fails_at_is_tried_again() {
    let here = Workplace::new();
    let (queue, owner) = (open(&here), Tenant::OWNER);
    let (id, other) = (transcode(&queue, &owner, &noise(1, 100_000)), transcode(&queue, &owner, b"other"));
    let (file, aside) = (here.path(format!("accepted/files/{id}.slice")), here.path("aside"));
    std::fs::rename(&file, &aside).unwrap();
    let mut changes = queue.watch(&owner, &id).unwrap();
    let worker = Worker::start(&queue);
    done(&end(&queue, &owner, &other).await);
    loop {
        if let TaskPhase::Waiting { attempts: 1.., .. } = queue.status(&owner, &id).unwrap().unwrap().phase {
            break;
        }
        changes.changed().await.unwrap();
    }
    std::fs::rename(&aside, &file).unwrap();
    done(&end(&queue, &owner, &id).await);
    assert!(!file.exists(), "what has ended needs its slice no longer");
    worker.stop().await;
}

#[tokio::test]
async fn a_slice_that_is_not_what_was_accepted_has_no_proof() {
    let here = Workplace::new();
    let (queue, owner) = (open(&here), Tenant::OWNER);
    let id = transcode(&queue, &owner, &noise(1, 100_000));
    std::fs::write(here.path(format!("accepted/files/{id}.slice")), noise(2, 100_000)).unwrap();
    let worker = Worker::start(&queue);
    assert_eq!(failed(&end(&queue, &owner, &id).await), "task_damaged");
    worker.stop().await;
}
