//! Runner, as a program uses it: one result for each slice, however many callers request it, and
//! how often.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use compute_host::digest::Digest;
use compute_host::key::{NodeKey, Signer};
use compute_host::limits::Limits;
use compute_host::modules::Modules;
use compute_host::runner::{
    CacheSource, Capacity, Reuse, RunAnswer, RunError, RunRequest, SourceCounts, WorkloadRunner,
};
use compute_host::sandbox::{Outcome, Sandbox};
use compute_host::slice::{Slice, SliceId, Tenant};
use compute_host::store::ProofStore;
use compute_host::workload::{Asset, Workload, transcode_streaming};
use proptest::prelude::*;
use tokio::task::JoinSet;

use crate::common::{Workplace, noise};

const CAPACITY: Capacity = Capacity { jobs: 2, spare_jobs: 0, results_max: 10_000, results_bytes_max: 64 << 20 };

fn runner() -> WorkloadRunner {
    WorkloadRunner::in_memory(CAPACITY).unwrap()
}

/// Returns a runner whose proofs are on disk.
fn durable(here: &Workplace) -> WorkloadRunner {
    let sandbox = Arc::new(Sandbox::new(2).unwrap());
    let store = ProofStore::open(&here.path("proofs"), 1000).unwrap().store;
    WorkloadRunner::new(
        sandbox.clone(),
        Modules::in_process(sandbox).unwrap(),
        Arc::new(Signer::new(NodeKey::from_secret([1; 32]))),
        Some(store),
        CAPACITY,
    )
}

fn id(text: &str) -> Option<SliceId> {
    Some(text.parse().unwrap())
}

fn transcode(bytes: &[u8]) -> RunRequest {
    RunRequest::new(Workload::Transcode, Slice::from_bytes(bytes))
}

fn proof_of(answer: &RunAnswer) -> Option<Digest> {
    answer.finished.proof.proof()
}

fn guest(body: &str) -> Workload {
    let text = format!(
        r#"(module (import "compute" "output_write" (func $output_write (param i32 i32)))
             (memory (export "memory") 1) (data (i32.const 0) "hello")
             (func (export "run") (result i32) {body}))"#
    );
    Workload::from_module(text.as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_ask_at_once_are_answered_by_one_run() {
    let here = Workplace::new();
    let file = here.file("slice", noise(1, 3 << 20));
    for slice in [Slice::from_bytes(noise(1, 100)), Slice::from_file(file, u64::MAX).unwrap()] {
        let runner = runner();
        let mut asked = JoinSet::new();
        for _ in 0..100 {
            let (runner, slice) = (runner.clone(), slice.clone());
            asked.spawn(async move { runner.run(RunRequest::new(Workload::Transcode, slice)).await });
        }
        let answers: Vec<RunAnswer> = asked.join_all().await.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers.iter().filter(|answer| answer.source == CacheSource::Run).count(), 1);
        assert_eq!(runner.counts(), SourceCounts { runs: 1, from_memory: 99, from_store: 0 });
    }
}

/// The sandbox has slots for two guests; a third at the same time would be an error.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_run_at_once_than_may() {
    let runner = runner();
    let mut asked = JoinSet::new();
    for i in 0..300_u32 {
        let runner = runner.clone();
        asked.spawn(async move { runner.run(transcode(&i.to_le_bytes())).await });
    }
    for answer in asked.join_all().await {
        answer.unwrap();
    }
    assert_eq!(runner.counts().runs, 300);
}

#[tokio::test]
async fn an_id_stands_for_all_that_decides_the_result() {
    let runner = runner();
    let first = RunRequest { id: id("x"), ..transcode(b"bytes") };
    runner.run(first.clone()).await.unwrap();
    let limits = Limits::DEFAULT;
    for other in [
        RunRequest { slice: Slice::from_bytes(*b"other"), ..first.clone() },
        RunRequest { args: Arc::from(*b"args"), ..first.clone() },
        RunRequest { workload: Workload::Inference, ..first.clone() },
        RunRequest { workload: transcode_streaming(), ..first.clone() },
        RunRequest { assets: vec![Asset::new(*b"asset")], ..first.clone() },
        RunRequest { limits: Limits { gas: limits.gas - 1, ..limits }, ..first.clone() },
        RunRequest { limits: Limits { memory_bytes: limits.memory_bytes - 1, ..limits }, ..first.clone() },
        RunRequest { limits: Limits { output_bytes: limits.output_bytes - 1, ..limits }, ..first.clone() },
    ] {
        for reuse in [Reuse::Allowed, Reuse::Never] {
            let answer = runner.run(RunRequest { reuse, ..other.clone() }).await;
            assert!(matches!(answer, Err(RunError::SliceIdConflict(_))), "{answer:?}");
        }
    }
    let longer_log = RunRequest { limits: Limits { log_bytes: 1, ..limits }, ..first };
    assert_eq!(runner.run(longer_log).await.unwrap().source, CacheSource::Memory, "the log decides nothing");
}

/// A token neither sees nor blocks another token's work under the same id, even while that runs.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_its_scopes_own() {
    let here = Workplace::new();
    let runner = durable(&here);
    let scopes: [Tenant; 3] = [Tenant::OWNER, "a".parse().unwrap(), "b".parse().unwrap()];
    let contents: [&[u8]; 3] = [b"the owner's", b"a's", b"b's"];
    let ask = |at: usize, id| {
        let request = RunRequest { scope: scopes[at].clone(), id, ..transcode(contents[at]) };
        let runner = runner.clone();
        tokio::spawn(async move { runner.run(request).await.unwrap() })
    };
    let proofs = contents.map(|content| Some(Digest::of(content)));
    for expected in [CacheSource::Run, CacheSource::Memory] {
        for (answer, proof) in [ask(0, id("x")), ask(1, id("x")), ask(2, id("x"))].into_iter().zip(proofs) {
            let answer = answer.await.unwrap();
            assert_eq!((answer.source, proof_of(&answer)), (expected, proof));
        }
    }
    // The same job in each scope, under the id derived from it. The response time must not reveal
    // another scope's result.
    for scope in &scopes {
        for source in [CacheSource::Run, CacheSource::Memory] {
            let answer = runner.run(RunRequest { scope: scope.clone(), ..transcode(b"one job") }).await.unwrap();
            assert_eq!(answer.source, source, "{scope:?}");
        }
    }
    drop(runner);
    let runner = durable(&here);
    for (scope, content) in scopes.iter().zip(contents) {
        let request = RunRequest { scope: scope.clone(), id: id("x"), ..transcode(content) };
        let answer = runner.run(request.clone()).await.unwrap();
        assert_eq!((answer.source, proof_of(&answer)), (CacheSource::Store, Some(Digest::of(content))));
        let other = runner.run(RunRequest { slice: Slice::from_bytes(*b"other"), ..request }).await;
        assert!(matches!(other, Err(RunError::SliceIdConflict(_))), "{other:?}");
    }
}

/// The claim, including its gas, must not depend on how a slice arrived.
#[tokio::test]
async fn a_long_slice_is_charged_alike_from_a_file_and_from_memory() {
    let (here, bytes) = (Workplace::new(), noise(1, (1 << 20) + 77));
    let file = Slice::from_file(here.file("long.slice", &bytes), u64::MAX).unwrap();
    let mut gas = Vec::new();
    for slice in [file, Slice::from_bytes(bytes)] {
        let answer = runner().run(RunRequest::new(transcode_streaming(), slice)).await.unwrap();
        gas.push(answer.finished.proof.claim().gas());
    }
    assert_eq!(gas[0], gas[1]);
}

/// Two callers with different content under one id at the same moment: one gets a result, the other
/// is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_seen_also_while_the_first_is_running() {
    let runner = runner();
    let ask = |bytes: &[u8]| {
        let (runner, request) = (runner.clone(), RunRequest { id: id("x"), ..transcode(bytes) });
        async move { runner.run(request).await }
    };
    let (a, b) = tokio::join!(tokio::spawn(ask(b"a")), tokio::spawn(ask(b"b")));
    let refused = [a.unwrap(), b.unwrap()].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(matches!(&refused[..], [RunError::SliceIdConflict(_)]), "{refused:?}");
}

#[tokio::test]
async fn a_failure_of_the_guest_is_a_result_like_any_other() {
    let here = Workplace::new();
    let request = || RunRequest::new(guest("(i32.const 7)"), Slice::from_bytes(*b"x"));
    let runner = durable(&here);
    let answer = runner.run(request()).await.unwrap();
    assert_eq!((answer.finished.outcome, answer.source), (Outcome::Failed(7), CacheSource::Run));
    assert_eq!(proof_of(&answer), None);
    assert_eq!(runner.run(request()).await.unwrap().source, CacheSource::Memory);
    drop((runner, answer));
    let stored = durable(&here).run(request()).await.unwrap();
    assert_eq!((stored.finished.outcome, stored.source), (Outcome::Failed(7), CacheSource::Store));
}

/// Out of gas is a result, because every engine counts gas alike.
#[tokio::test]
async fn a_guest_that_runs_out_of_gas_has_a_proof_of_that() {
    let here = Workplace::new();
    let runner = durable(&here);
    let mut request = RunRequest::new(guest("(loop $again (br $again)) (i32.const 0)"), Slice::from_bytes(*b"x"));
    request.limits.gas = 100_000;
    for source in [CacheSource::Run, CacheSource::Memory] {
        let answer = runner.run(request.clone()).await.unwrap();
        assert_eq!((answer.finished.outcome, answer.source), (Outcome::OutOfGas, source));
        let claim = answer.finished.proof.claim();
        assert_eq!((claim.outcome(), claim.proof(), claim.gas()), (Outcome::OutOfGas, None, 100_000));
    }
}

/// A timeout of the host is not a result.
#[tokio::test]
async fn a_guest_that_outlives_its_time_is_an_error_and_proves_nothing() {
    let here = Workplace::new();
    let runner = durable(&here);
    let endless = RunRequest::new(guest("(loop $again (br $again)) (i32.const 0)"), Slice::from_bytes(*b"x"));
    let limits = Limits { gas: u64::MAX, ..Limits::DEFAULT };
    let request = RunRequest { timeout: Some(Duration::from_millis(20)), limits, ..endless };
    for runs in 0..2 {
        let error = runner.run(request.clone()).await.unwrap_err();
        assert_eq!(error.code(), "deadline", "{error}, after {runs} more");
    }
    assert_eq!(runner.counts(), SourceCounts::default());
}

/// A run is cancelled when its caller leaves. Another caller waiting for the same result starts it
/// again.
#[tokio::test]
async fn a_guest_that_nobody_waits_for_ends() {
    let runner = WorkloadRunner::in_memory(Capacity { jobs: 1, ..Capacity::of_this_machine() }).unwrap();
    let limits = Limits { gas: u64::MAX, ..Limits::DEFAULT };
    let endless = RunRequest::new(guest("(loop $again (br $again)) (i32.const 0)"), Slice::from_bytes(*b"x"));
    let endless = RunRequest { limits, ..endless };
    let left = tokio::spawn({
        let runner = runner.clone();
        async move { runner.run(endless).await }
    });
    while runner.gas_granted() == 0 {
        tokio::task::yield_now().await;
    }
    left.abort();
    // The only thread for guests is free again.
    let answer = runner.run(RunRequest::new(Workload::Transcode, Slice::from_bytes(*b"y"))).await.unwrap();
    assert_eq!(answer.finished.outcome, Outcome::Done);
}

#[tokio::test]
async fn the_output_is_there_while_it_is_in_memory() {
    let here = Workplace::new();
    let writes = guest("(call $output_write (i32.const 0) (i32.const 5)) (i32.const 0)");
    let request = || RunRequest::new(writes.clone(), Slice::from_bytes(*b"x"));
    let runner = durable(&here);
    for source in [CacheSource::Run, CacheSource::Memory] {
        let answer = runner.run(request()).await.unwrap();
        assert_eq!((answer.source, answer.finished.output.as_deref()), (source, Some(&b"hello"[..])));
        assert_eq!(proof_of(&answer), Some(Digest::of(b"hello")));
    }
    drop(runner);
    let runner = durable(&here);
    let stored = runner.run(request()).await.unwrap();
    assert_eq!((stored.source, &stored.finished.output), (CacheSource::Store, &None));
    let anew = runner.run(RunRequest { reuse: Reuse::Never, ..request() }).await.unwrap();
    assert_eq!((anew.source, anew.finished.output.as_deref()), (CacheSource::Run, Some(&b"hello"[..])));
}

#[tokio::test]
async fn results_in_memory_are_bounded_in_number_and_in_bytes() {
    let pass = async |capacity: Capacity, workload: &Workload| {
        let runner = WorkloadRunner::in_memory(capacity).unwrap();
        for _ in 0..2 {
            for i in 0..2000_u32 {
                runner.run(RunRequest::new(workload.clone(), Slice::from_bytes(i.to_le_bytes()))).await.unwrap();
            }
        }
        runner.counts().from_memory
    };
    // A cache may hold fewer entries than it could, but never more.
    let few = pass(Capacity { results_max: 10, ..CAPACITY }, &Workload::Transcode).await;
    assert!(few < 1000, "{few}");
    let small = pass(Capacity { results_bytes_max: 100 << 10, ..CAPACITY }, &Workload::Transcode).await;
    assert!(small < 1000, "{small}");
    let large = guest("(call $output_write (i32.const 0) (i32.const 60000)) (i32.const 0)");
    let large = pass(Capacity { results_bytes_max: 600 << 10, ..CAPACITY }, &large).await;
    assert!(large < 1000, "{large}");
    assert_eq!(pass(CAPACITY, &Workload::Transcode).await, 2000, "with room for all, all are kept");
}

/// A run that was begun is completed when its caller leaves, and its result is there for the next
/// caller.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_takes_nothing_along() {
    let here = Workplace::new();
    let slice = here.file("slice", noise(3, 30 << 20));
    let request = RunRequest::new(Workload::Transcode, Slice::from_file(slice, u64::MAX).unwrap());
    let runner = runner();
    for _ in 0..20 {
        let asked = tokio::spawn({
            let (runner, request) = (runner.clone(), request.clone());
            async move { runner.run(request).await }
        });
        tokio::task::yield_now().await;
        asked.abort();
    }
    let answer = runner.run(request).await.unwrap();
    assert_eq!(proof_of(&answer), Some(Digest::of(&noise(3, 30 << 20))));
    assert!(runner.counts().runs <= 1);
}

#[tokio::test]
async fn too_many_assets_are_refused() {
    let request = RunRequest { assets: vec![Asset::new(*b"a"); 1001], ..transcode(b"x") };
    assert!(matches!(runner().run(request).await, Err(RunError::TooManyAssets(1001))));
}

/// Lengths around the thresholds of reading a slice: a chunk, a group, and the longest slice in
/// memory.
fn slices() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let edges = prop_oneof![Just(0), Just(1024), Just(131_072), Just(256 << 10), Just(1 << 20)];
    let len = prop_oneof![0..3000_usize, edges, (1 << 20) - 2..(1 << 20) + 3_usize, 1_usize << 20..2 << 20];
    proptest::collection::vec((any::<u64>(), len).prop_map(|(seed, len)| noise(seed, len)), 1..12)
}

/// At most three workloads for each slice, in any order.
fn order() -> impl Strategy<Value = Vec<usize>> {
    Just((0..36).collect::<Vec<usize>>()).prop_shuffle()
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Each result is computed: no two runs share a cache.
    #[test]
    fn the_proof_is_blake3_of_the_slice(
        slices in slices(),
        order in order(),
        jobs in 1..4_usize,
        at_once in 1..8_usize,
        held: bool,
    ) {
        let here = Workplace::new();
        let runner = WorkloadRunner::in_memory(Capacity { jobs, ..CAPACITY }).unwrap();
        let workloads = [Workload::Transcode, Workload::Inference, transcode_streaming()];
        let mut requests = Vec::new();
        for (i, bytes) in slices.iter().enumerate() {
            let slice = if held {
                Slice::from_bytes(&bytes[..])
            } else {
                Slice::from_file(here.file(i.to_string(), bytes), u64::MAX).unwrap()
            };
            for workload in &workloads {
                let request = RunRequest { reuse: Reuse::Never, ..RunRequest::new(workload.clone(), slice.clone()) };
                requests.push((request, Digest::from(blake3::hash(bytes))));
            }
        }
        let requests: Vec<_> = order.iter().filter_map(|i| requests.get(*i)).collect();
        prop_assert_eq!(requests.len(), slices.len() * workloads.len());
        RUNTIME.block_on(async {
            for some in requests.chunks(at_once) {
                let asked = some.iter().map(|(request, _)| runner.run(request.clone()));
                for (answer, (_, expected)) in futures_util::future::join_all(asked).await.iter().zip(some) {
                    assert_eq!(proof_of(answer.as_ref().unwrap()), Some(*expected));
                }
            }
        });
        // Equal slices that were requested at the same moment share one run.
        prop_assert_eq!(runner.counts().runs + runner.counts().from_memory, requests.len() as u64);
    }
}
