//! Outputs of accepted slices: each is there when the task ends, and stays.

use std::io::Read as _;

use compute_host::modules::ModuleKey;
use compute_host::store::TaskOutput;

use super::*;
use crate::common::COPY;

fn copy(runner: &WorkloadRunner) -> TaskRequest {
    let Workload::Module(module) = Workload::from_module(COPY.as_bytes()).unwrap() else { panic!() };
    let record = ModuleRecord::new(module.wasm().len() as u64, "compute".to_owned(), 0, "a test".to_owned());
    runner.modules().add(&module, None, &record).unwrap();
    TaskRequest::new(TaskWorkload::Stored(module.digest()))
}

fn open_with(here: &Workplace, runner: &WorkloadRunner) -> Arc<Queue> {
    Queue::open(&here.path("accepted"), runner.clone(), SETTINGS).unwrap()
}

fn output(queue: &Queue, scope: &Tenant, id: &TaskId) -> Option<Vec<u8>> {
    match queue.output(scope, id).unwrap() {
        TaskOutput::Held(bytes) => Some(bytes),
        TaskOutput::File { mut file, .. } => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            Some(bytes)
        }
        TaskOutput::Gone => None,
    }
}

#[tokio::test]
async fn what_a_guest_put_out_is_there_when_the_end_is_told_and_after_a_restart() {
    let here = Workplace::new();
    let (a, b) = (scope("a"), scope("b"));
    let slices: Vec<Vec<u8>> = [0, 100, 16 << 10, 20_000, 1 << 20].into_iter().map(|bytes| noise(1, bytes)).collect();
    let ids: Vec<TaskId> = {
        let runner = runner(&here);
        let (queue, copy) = (open_with(&here, &runner), copy(&runner));
        let ids: Vec<TaskId> = slices.iter().map(|slice| hand_in(&queue, &a, slice, copy.clone()).unwrap()).collect();
        assert_eq!(output(&queue, &a, &ids[0]), None, "it has not run");
        let worker = Worker::start(&queue);
        for (id, slice) in ids.iter().zip(&slices) {
            done(&end(&queue, &a, id).await);
            assert!(output(&queue, &a, id).as_ref() == Some(slice), "{} bytes", slice.len());
        }
        worker.stop().await;
        ids
    };
    let queue = open(&here);
    for (id, slice) in ids.iter().zip(&slices) {
        assert!(output(&queue, &a, id).as_ref() == Some(slice), "{} bytes", slice.len());
        assert!(output(&queue, &b, id).is_none() && output(&queue, &Tenant::OWNER, id).is_none());
        let TaskPhase::Ended(TaskOutcome::Done { output, .. }) = queue.status(&a, id).unwrap().unwrap().phase else {
            panic!()
        };
        assert_eq!((output.blake3, output.bytes), (Digest::of(slice), slice.len() as u64));
    }
    assert_eq!(queue.depth().output_bytes, slices.iter().map(|slice| slice.len() as u64).sum::<u64>());
}

/// State after a kill between the proof and the ending: the proof is there, and the output is not.
#[tokio::test]
async fn what_was_run_and_has_no_output_here_is_run_once_more_for_it() {
    let here = Workplace::new();
    let owner = Tenant::OWNER;
    let (ended, waits, silent) = {
        let runner = runner(&here);
        let (queue, copy) = (open_with(&here, &runner), copy(&runner));
        let ended = hand_in(&queue, &owner, &noise(1, 20_000), copy.clone()).unwrap();
        let transcoded = transcode(&queue, &owner, b"puts out nothing");
        let worker = Worker::start(&queue);
        let ended = end(&queue, &owner, &ended).await;
        done(&end(&queue, &owner, &transcoded).await);
        worker.stop().await;
        let waits = hand_in(&queue, &owner, &noise(1, 20_000), copy).unwrap();
        (ended, waits, transcode(&queue, &owner, b"puts out nothing"))
    };
    let runner = runner(&here);
    let queue = open_with(&here, &runner);
    let worker = Worker::start(&queue);
    done(&end(&queue, &owner, &silent).await);
    assert_eq!(end(&queue, &owner, &waits).await, ended);
    assert!(output(&queue, &owner, &waits) == Some(noise(1, 20_000)));
    assert_eq!(output(&queue, &owner, &silent), Some(Vec::new()));
    assert_eq!(runner.counts().runs, 1, "what puts out nothing is not run for it");
    worker.stop().await;
}

/// The same, but the slice cannot be run again, or its output could not be stored.
#[tokio::test]
async fn where_only_the_proof_can_be_had_it_is_the_result() {
    let here = Workplace::new();
    let owner = Tenant::OWNER;
    let request = {
        let runner = runner(&here);
        let (queue, copy) = (open_with(&here, &runner), copy(&runner));
        let worker = Worker::start(&queue);
        for slice in [noise(1, 100), noise(2, 300)] {
            let id = hand_in(&queue, &owner, &slice, copy.clone()).unwrap();
            done(&end(&queue, &owner, &id).await);
        }
        worker.stop().await;
        copy
    };
    let runner = runner(&here);
    let settings = Settings { quota: QueueLimits { outputs_bytes_max: 200, ..SETTINGS.quota }, ..SETTINGS };
    let queue = Queue::open(&here.path("accepted"), runner.clone(), settings).unwrap();
    let long = hand_in(&queue, &owner, &noise(2, 300), request.clone()).unwrap();
    let worker = Worker::start(&queue);
    done(&end(&queue, &owner, &long).await);
    assert_eq!((runner.counts().runs, output(&queue, &owner, &long)), (0, None));
    let TaskWorkload::Stored(module) = request.workload else { panic!() };
    runner.modules().stored().unwrap().remove(&ModuleKey::Digest(module)).unwrap();
    let no_module = hand_in(&queue, &owner, &noise(1, 100), request).unwrap();
    done(&end(&queue, &owner, &no_module).await);
    assert_eq!((runner.counts().runs, output(&queue, &owner, &no_module)), (0, None));
    worker.stop().await;
}
