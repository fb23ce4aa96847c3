//! Status of the runner: its current runs and its totals.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use compute_host::limits::Limits;
use compute_host::runner::{ActiveRun, Capacity, RunProgress, RunRequest, WorkloadRunner};
use compute_host::slice::{Slice, Tenant};
use compute_host::workload::Workload;
use tokio::task::{JoinHandle, JoinSet, yield_now};

use crate::common::{Workplace, noise};

fn runner(jobs: usize) -> WorkloadRunner {
    WorkloadRunner::in_memory(Capacity { jobs, ..Capacity::of_this_machine() }).unwrap()
}

/// Returns a run that ends only when its caller leaves.
fn endless(slice: &[u8]) -> RunRequest {
    let text = r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop $again (br $again)) (i32.const 0)))"#;
    let limits = Limits { gas: u64::MAX, ..Limits::DEFAULT };
    RunRequest { limits, ..RunRequest::new(Workload::from_module(text.as_bytes()).unwrap(), Slice::from_bytes(slice)) }
}

fn start(runner: &WorkloadRunner, request: RunRequest) -> (JoinHandle<()>, RunProgress) {
    let (runner, progress) = (runner.clone(), RunProgress::default());
    let watched = progress.clone();
    (tokio::spawn(async move { drop(runner.run_watched(request, &watched).await) }), progress)
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        yield_now().await;
    }
}

#[tokio::test]
async fn what_runs_is_shown_and_what_waits_is_counted() {
    let (runner, before) = (runner(1), SystemTime::now());
    assert!(runner.running().is_empty());
    let scope: Tenant = "a".parse().unwrap();
    let request = RunRequest { scope: scope.clone(), id: "x".parse().ok(), ..endless(b"first") };
    let module = request.workload.digest();
    let (first, progress) = start(&runner, request);
    until(|| progress.gas_granted() > 0).await;
    let (second, none_yet) = start(&runner, endless(b"second"));
    until(|| runner.waiting() == 1).await;

    let running = runner.running();
    let [ActiveRun { scope: shown, id, workload, module: of, since, gas_max, gas_granted, input_bytes, bytes_read }] =
        &running[..]
    else {
        panic!("there is one thread: {running:?}");
    };
    assert_eq!((shown, id, *workload, of), (&scope, &"x".parse().ok(), "module", &module));
    assert_eq!((*gas_max, *input_bytes, *bytes_read), (u64::MAX, 5, 5));
    assert!(*gas_granted > 0 && *gas_granted <= progress.gas_granted(), "{gas_granted}");
    assert!((before..=SystemTime::now()).contains(since));
    assert_eq!(none_yet.gas_granted(), 0, "each is told of its own");

    first.abort();
    until(|| none_yet.gas_granted() > 0).await;
    assert_eq!((runner.running().len(), runner.waiting()), (1, 0));
    assert!(runner.running()[0].id.is_some(), "the slice is hashed");
    second.abort();
    until(|| runner.running().is_empty()).await;
}

/// The totals count each run once, both while it runs and after it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn the_totals_grow_by_what_each_has_used() {
    let (here, runner) = (Workplace::new(), runner(2));
    let mut asked = JoinSet::new();
    for seed in 0..60 {
        // From a file that is read in groups, from a file that fits in memory, and from memory.
        let bytes = noise(seed, if seed % 3 == 0 { 1_500_000 } else { 1_000 });
        let slice = match seed % 3 {
            0 | 1 => Slice::from_file(here.file(format!("{seed}"), &bytes), u64::MAX).unwrap(),
            _ => Slice::from_bytes(bytes),
        };
        let (runner, progress) = (runner.clone(), RunProgress::default());
        asked.spawn(async move {
            let request = RunRequest::new(Workload::Transcode, slice);
            runner.run_watched(request, &progress).await.unwrap();
            (progress.gas_granted(), progress.bytes_read())
        });
    }
    let (mut gas, mut bytes) = (0, 0);
    while let Some(used) = asked.join_next().await {
        let (of_one, read_by_one) = used.unwrap();
        assert!(runner.gas_granted() >= gas + of_one && runner.bytes_read() >= bytes + read_by_one);
        assert!(runner.running().len() <= 2);
        (gas, bytes) = (gas + of_one, bytes + read_by_one);
    }
    assert!(gas > 0);
    assert_eq!(bytes, 20 * 1_500_000 + 40 * 1_000);
    assert_eq!((runner.gas_granted(), runner.bytes_read()), (gas, bytes));
    assert!(runner.running().is_empty(), "whoever has an answer is not shown as running");
}

#[tokio::test]
async fn an_observer_hears_how_each_request_has_ended() {
    let runner = runner(1);
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let notes = heard.clone();
    runner.observe(move |observation| {
        let ended = match observation.result {
            Ok(answer) => format!("{} {}", answer.source.name(), answer.finished.outcome.code().0),
            Err(error) => error.code().to_owned(),
        };
        assert!(observation.duration > std::time::Duration::ZERO);
        notes.lock().unwrap().push(format!("{} {ended}", observation.workload));
    });
    runner.observe(|_| panic!("there is one observer, the first"));
    let request = |bytes: &[u8]| RunRequest {
        id: "x".parse().ok(),
        ..RunRequest::new(Workload::Transcode, Slice::from_bytes(bytes))
    };
    runner.run(request(b"one")).await.unwrap();
    runner.clone().run_for_output(request(b"one")).await.unwrap();
    runner.run(request(b"other")).await.unwrap_err();
    let limits = Limits { gas: 100_000, ..Limits::DEFAULT };
    runner.run(RunRequest { limits, ..endless(b"") }).await.unwrap();
    let expected =
        ["transcode run done", "transcode memory done", "transcode slice_id_conflict", "module run out_of_gas"];
    assert_eq!(*heard.lock().unwrap(), expected);
    // Nothing is reported for a caller that has left.
    let (left, progress) = start(&runner, endless(b"left"));
    until(|| progress.gas_granted() > 0).await;
    left.abort();
    until(|| runner.running().is_empty()).await;
    assert_eq!(heard.lock().unwrap().len(), expected.len());
}
