//! Queue of accepted slices in a process that is killed at any moment: while slices are submitted,
//! while the queue opens, while slices run, and between a proof and the reported ending.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use compute_host::digest::Digest;
use compute_host::key::Signer;
use compute_host::modules::{ModuleRecord, Modules, Quota, StoredModules};
use compute_host::queue::{Queue, Settings, TaskPhase, TaskRequest};
use compute_host::runner::{Capacity, WorkloadRunner};
use compute_host::sandbox::{Outcome, Sandbox};
use compute_host::slice::{SliceId, Tenant};
use compute_host::store::{ProofStore, QueueLimits, TaskId, TaskOutcome, TaskOutput, TaskWorkload};
use compute_host::workload::Workload;
use serde::{Deserialize, Serialize};

use crate::nodes;
use crate::part::{self, Part, die_in, tell};
use crate::random::Random;

/// Number of slices, and of concurrent submissions.
const SLICES: u64 = 1_000;
const HANDING_IN: u64 = 8;

/// Number of kills while accepted slices run.
const ROUNDS: u64 = 150;

/// A guest that outputs its slice, of up to 64 KiB.
const COPY: &str = r#"(module
    (import "compute" "input_len" (func $input_len (result i64)))
    (import "compute" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (memory (export "memory") 1)
    (func (export "run") (result i32)
        (call $output_write (i32.const 0)
            (call $input_read (i32.const 0) (i64.const 0) (i32.wrap_i64 (call $input_len))))
        (i32.const 0)))"#;

/// Role of a process with a queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueuePart {
    pub directory: PathBuf,
    /// Slices to submit.
    pub hand_in: Vec<u64>,
    /// Tasks whose endings are reported.
    pub tasks: Vec<TaskId>,
    /// Kill time: this many microseconds (second) after this many reports (first), or after the
    /// start if the first is 0.
    pub kill: Option<(u64, u64)>,
}

/// Returns the slice with this number, which is also its output. Each is unique, and one in eight
/// is stored in a file of its own.
fn slice(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; if number % 8 == 5 { 20_000 } else { 100 }];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn scope(number: u64) -> Tenant {
    match number % 3 {
        0 => Tenant::OWNER,
        other => format!("token-{other}").parse().expect("it is a name"),
    }
}

/// Stores the guest that outputs its slice in the module store.
fn copy(modules: &Modules) -> TaskWorkload {
    let copy = Workload::from_module(COPY.as_bytes()).expect("it is a module");
    let Workload::Module(module) = copy else { panic!("it comes with its bytes") };
    let record = ModuleRecord::new(module.wasm().len() as u64, "compute".to_owned(), 0, "a test".to_owned());
    modules.add(&module, None, &record).expect("it can be stored");
    TaskWorkload::Stored(module.digest())
}

fn open(directory: &Path) -> (Arc<Queue>, TaskWorkload) {
    let sandbox = Arc::new(Sandbox::new(2).expect("there is room"));
    let stored = StoredModules::new(directory.join("modules"), Quota { modules_max: 10, bytes_max: 1 << 20 });
    let modules = Modules::in_process(sandbox.clone()).expect("there is a compiler").with_store(stored);
    let copy = copy(&modules);
    let proofs = ProofStore::open(&directory.join("proofs"), 10 * SLICES).expect("what a kill leaves can be opened");
    assert_eq!(proofs.moved_aside, None, "what a kill leaves is not damaged");
    let capacity = Capacity { jobs: 2, ..Capacity::of_this_machine() };
    let runner =
        WorkloadRunner::new(sandbox, modules, Arc::new(Signer::new(nodes::key(1))), Some(proofs.store), capacity);
    let quota = QueueLimits { entries_max: 10 * SLICES, ..QueueLimits::default() };
    let settings = Settings { quota, slice_bytes_max: 1 << 20, jobs: 2, spare_jobs: 0, clock: || 0 };
    (Queue::open(&directory.join("accepted"), runner, settings).expect("what a kill leaves can be opened"), copy)
}

/// Plays the role of the process that is killed.
pub fn play(part: &QueuePart) {
    if let Some((0, after_us)) = part.kill {
        die_in(after_us);
    }
    let (queue, copy) = open(&part.directory);
    std::thread::scope(|threads| {
        for lane in 0..HANDING_IN {
            let (queue, numbers) = (&queue, part.hand_in.iter().filter(move |number| *number % HANDING_IN == lane));
            threads.spawn(move || {
                for number in numbers {
                    let mut incoming = queue.begin(&scope(*number)).expect("there is room");
                    incoming.write(&slice(*number)).expect("there is room");
                    let request = TaskRequest::new(copy);
                    tell(&format!("task {} {number}", incoming.finish(request).expect("it can be stored")));
                }
            });
        }
    });
    if !part.tasks.is_empty() {
        nodes::runtime().block_on(carry_out(&queue, part));
    }
}

async fn carry_out(queue: &Arc<Queue>, part: &QueuePart) {
    let told = Arc::new(AtomicU64::new(0));
    let mut waiting = tokio::task::JoinSet::new();
    for id in part.tasks.clone() {
        let (queue, told, kill) = (queue.clone(), told.clone(), part.kill);
        waiting.spawn(async move {
            for scope in [0, 1, 2].map(scope) {
                if let Some(mut changes) = queue.watch(&scope, &id) {
                    while changes.changed().await.is_ok() {}
                }
                let Some(status) = queue.status(&scope, &id).expect("it can be read") else { continue };
                let TaskPhase::Ended(TaskOutcome::Done { slice_id, .. }) = status.phase else { panic!("{status:?}") };
                tell(&format!("ended {id} {slice_id}"));
                let told = told.fetch_add(1, Ordering::Relaxed) + 1;
                if let Some((after_told, after_us)) = kill.filter(|(after_told, _)| *after_told == told) {
                    assert!(after_told > 0);
                    die_in(after_us);
                }
            }
        });
    }
    let ended = async { while waiting.join_next().await.transpose().expect("each has an end").is_some() {} };
    queue.work(ended).await;
}

/// All reports, over all rounds.
#[derive(Default)]
struct Told {
    /// Task, and the number of its slice.
    accepted: BTreeMap<TaskId, u64>,
    ended: BTreeMap<TaskId, SliceId>,
}

impl Told {
    /// Runs the role and records its reports; returns true if the process was killed.
    fn hear(&mut self, part: QueuePart) -> bool {
        let output = part::start(&Part::Queue(part)).wait_with_output().unwrap();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["task", id, number] => drop(self.accepted.insert(id.parse().unwrap(), number.parse().unwrap())),
                ["ended", id, slice_id] => {
                    let slice_id: SliceId = slice_id.parse().unwrap();
                    let before = self.ended.insert(id.parse().unwrap(), slice_id.clone());
                    assert!(before.is_none_or(|before| before == slice_id), "{id} is told two endings");
                }
                _ => {}
            }
        }
        let is_killed = output.status.signal() == Some(9);
        assert!(is_killed || output.status.success(), "{:?}", output.status);
        is_killed
    }

    /// Checks the stored proofs against the reports, and returns their bytes.
    fn proofs(&self, directory: &Path) -> BTreeMap<TaskId, Vec<u8>> {
        let proofs = ProofStore::open(&directory.join("proofs"), 10 * SLICES).unwrap().store;
        let of = |(id, slice_id): (&TaskId, &SliceId)| {
            let number = self.accepted[id];
            let proof =
                proofs.proof(&scope(number), slice_id).unwrap().expect("what was told to be done has its proof");
            assert_eq!(proof.outcome(), Outcome::Done);
            assert_eq!(proof.job().input.blake3, Digest::of(&slice(number)));
            (*id, proof.to_bytes())
        };
        self.ended.iter().map(of).collect()
    }
}

fn output(queue: &Queue, scope: &Tenant, id: &TaskId) -> Vec<u8> {
    match queue.output(scope, id).expect("it is not damaged") {
        TaskOutput::Held(bytes) => bytes,
        TaskOutput::File { mut file, .. } => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).expect("it can be read");
            bytes
        }
        TaskOutput::Gone => panic!("the output of {id} is not kept"),
    }
}

#[test]
fn what_was_accepted_has_one_end_and_one_proof_and_its_output_however_often_the_process_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let (here, mut told, mut random) = (directory.path(), Told::default(), Random(7));
    let part = |hand_in, tasks, kill| QueuePart { directory: here.to_owned(), hand_in, tasks, kill };

    // Slices are submitted by processes that are killed meanwhile, until a thousand were reported
    // as accepted.
    let (mut next, mut killed_at_handing_in, mut span_us) = (0, 0, 200_000);
    while (told.accepted.len() as u64) < SLICES {
        let numbers = (next..next + 32).collect();
        next += 32;
        let is_killed = told.hear(part(numbers, Vec::new(), Some((0, random.below(span_us)))));
        killed_at_handing_in += u64::from(is_killed);
        // A kill after all work is done shows nothing, and an immediate one shows little.
        span_us = if is_killed { span_us * 5 / 4 } else { span_us * 3 / 4 };
        assert!(next < 1_000 * SLICES, "nothing is accepted");
    }

    let (mut killed, mut proofs, mut span_us) = (0, BTreeMap::new(), 1_000);
    let all: Vec<TaskId> = told.accepted.keys().copied().collect();
    for round in 0..ROUNDS {
        let open: Vec<TaskId> = all.iter().filter(|id| !told.ended.contains_key(id)).copied().collect();
        if open.is_empty() {
            break;
        }
        // One in four is killed before its first report, perhaps while it opens the queue.
        let kill =
            if round % 4 == 0 { (0, random.below(300_000)) } else { (1 + random.below(4), random.below(span_us)) };
        killed += u64::from(told.hear(part(Vec::new(), open, Some(kill))));
        let now = told.proofs(here);
        // If the machine finishes all work between two kills, the test shows little.
        span_us = if now.len() > proofs.len() + 20 { span_us * 3 / 4 } else { span_us * 9 / 8 + 1 };
        for (id, proof) in &proofs {
            assert_eq!(now.get(id), Some(proof), "the proof of {id} is another");
        }
        proofs = now;
    }
    let told_before = told.ended.len();
    assert!(!told.hear(part(Vec::new(), all.clone(), None)), "nobody kills it");
    assert_eq!(told.ended.len(), all.len(), "none is lost");
    let now = told.proofs(here);
    assert!(proofs.iter().all(|(id, proof)| now[id] == *proof));
    let distinct: BTreeSet<&str> = told.ended.values().map(SliceId::as_str).collect();
    assert_eq!(distinct.len(), all.len(), "each has its own");
    assert!(killed >= 5 && killed_at_handing_in >= 5, "only {killed} and {killed_at_handing_in} kills came in time");
    let (queue, _) = open(here);
    for (id, number) in &told.accepted {
        assert!(output(&queue, &scope(*number), id) == slice(*number), "the output of {id} is another");
    }
    // Slices that were accepted but not reported, because the process died in between, run too.
    assert!(queue.depth().waiting <= killed_at_handing_in * HANDING_IN, "{:?}", queue.depth());
    println!(
        "queue: {killed_at_handing_in} kills while slices were handed in, {killed} while they were run; {} accepted, \
         {told_before} ended before the last start, 0 lost",
        all.len()
    );
}
