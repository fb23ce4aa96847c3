//! Proof store: durability and eviction.

use std::time::{Duration, SystemTime};

use compute_host::digest::Digest;
use compute_host::key::NodeKey;
use compute_host::limits::{Limits, Usage};
use compute_host::proof::{Blob, Claim, Job, Observed, SliceProof, profile};
use compute_host::sandbox::{Execution, Outcome};
use compute_host::slice::{SliceId, Tenant};
use compute_host::store::ProofStore;

use crate::common::Workplace;

fn slice_id(i: u64) -> SliceId {
    format!("slice-{i}").parse().unwrap()
}

fn proof(id: SliceId, input: &[u8]) -> SliceProof {
    let job = Job {
        workload: "transcode".to_owned(),
        module: Digest::of(b"module"),
        input: Blob { blake3: Digest::of(input), bytes: input.len() as u64 },
        args: Digest::of(b""),
        limits: Limits::DEFAULT.into(),
        assets: Vec::new(),
        profile: profile().digest(),
    };
    let execution = Execution {
        outcome: Outcome::Done,
        proof: Some(Digest::of(input)),
        output: Vec::new(),
        log: Vec::new(),
        usage: Usage::default(),
        trace: None,
    };
    let observed = Observed::new(SystemTime::UNIX_EPOCH, Duration::ZERO, execution.usage, "test");
    SliceProof::sign(Claim::of(id, job, &execution), observed, &NodeKey::from_secret([1; 32])).unwrap()
}

fn open(here: &Workplace, proofs_max: u64) -> ProofStore {
    let opened = ProofStore::open(&here.path("proofs"), proofs_max).unwrap();
    assert_eq!(opened.moved_aside, None);
    opened.store
}

/// Returns which of the first `count` slices have a proof.
fn kept(store: &ProofStore, count: u64) -> Vec<u64> {
    (0..count).filter(|i| store.proof(&Tenant::OWNER, &slice_id(*i)).unwrap().is_some()).collect()
}

#[test]
fn what_was_kept_is_there_after_a_restart() {
    let here = Workplace::new();
    let proof = proof(slice_id(1), b"one");
    open(&here, 10).keep(&[(&Tenant::OWNER, &proof)]).unwrap();
    assert_eq!(open(&here, 10).proof(&Tenant::OWNER, &slice_id(1)).unwrap(), Some(proof));
    assert_eq!(open(&here, 10).proof(&Tenant::OWNER, &slice_id(2)).unwrap(), None);
}

#[test]
fn a_store_that_is_open_elsewhere_is_left_where_it_is() {
    let here = Workplace::new();
    let store = open(&here, 10);
    store.keep(&[(&Tenant::OWNER, &proof(slice_id(1), b"one"))]).unwrap();
    let error = ProofStore::open(&here.path("proofs"), 10).err().expect("two cannot have it");
    assert!(error.to_string().contains("could not acquire lock"), "{error}");
    assert_eq!(kept(&store, 3), [1]);
}

#[test]
fn the_oldest_gives_way_to_the_newest() {
    let here = Workplace::new();
    let store = open(&here, 5);
    for i in 0..8 {
        store.keep(&[(&Tenant::OWNER, &proof(slice_id(i), b"x"))]).unwrap();
    }
    assert_eq!(kept(&store, 8), [3, 4, 5, 6, 7]);
    store.keep(&[(&Tenant::OWNER, &proof(slice_id(3), b"again"))]).unwrap();
    assert_eq!(kept(&store, 8), [3, 4, 5, 6, 7], "a proof in the place of another is no sixth");
    store.keep(&[(&Tenant::OWNER, &proof(slice_id(0), b"x"))]).unwrap();
    assert_eq!(kept(&store, 8), [0, 3, 5, 6, 7], "3 is newer than 4 by now");
    drop(store);
    let store = open(&here, 5);
    store.keep(&[(&Tenant::OWNER, &proof(slice_id(1), b"x"))]).unwrap();
    assert_eq!(kept(&store, 8), [0, 1, 3, 6, 7], "after a restart, too");
    drop(store);
    let store = open(&here, 2);
    store.keep(&[(&Tenant::OWNER, &proof(slice_id(2), b"x"))]).unwrap();
    assert_eq!(kept(&store, 8), [1, 2], "a lower limit holds from the next proof on");
}

#[test]
fn a_proof_is_found_in_the_scope_that_it_was_made_in_and_in_no_other() {
    let here = Workplace::new();
    let scopes = [Tenant::OWNER, "a".parse().unwrap(), "ab".parse().unwrap(), "slice-1".parse().unwrap()];
    let proofs = [b"0", b"1", b"2", b"3"].map(|input| proof(slice_id(1), input));
    for at in 0..scopes.len() {
        let store = open(&here, 4);
        store.keep(&[(&scopes[at], &proofs[at])]).unwrap();
        for (other, scope) in scopes.iter().enumerate() {
            let expected = (other <= at).then(|| proofs[other].clone());
            assert_eq!(store.proof(scope, &slice_id(1)).unwrap(), expected, "{scope:?}");
        }
    }
}

#[test]
fn many_at_once_are_all_kept() {
    let here = Workplace::new();
    let store = open(&here, 1000);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                (0..20).for_each(|i| store.keep(&[(&Tenant::OWNER, &proof(slice_id(thread * 20 + i), b"x"))]).unwrap())
            });
        }
    });
    drop(store);
    assert_eq!(kept(&open(&here, 1000), 160).len(), 160);
}

/// A printed proof survives a crash: the process is killed, without a final flush.
#[test]
fn a_kill_takes_back_nothing_that_was_told() {
    use std::io::{BufRead as _, BufReader};
    let here = Workplace::new();
    for i in 0..200 {
        here.file(format!("in/transcode-{i:03}.slice"), i.to_string());
    }
    for round in 0..5 {
        let mut node = here.command(["compute", "run", "--no-cache", "--data-dir", &format!("data-{round}"), "in"]);
        let mut node = node.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(node.stdout.take().unwrap());
        let mut told = Vec::new();
        for _ in 0..=round * 30 {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            told.push(line.split_once("  ").unwrap().1.trim_end().to_owned());
        }
        node.kill().unwrap();
        node.wait().unwrap();
        let again = here.run(&format!("compute run --json --data-dir data-{round} in"));
        assert_eq!((again.code, &*again.stderr), (0, ""));
        for object in again.json() {
            if told.iter().any(|file| object["file"] == **file) {
                assert_eq!(object["source"], "store", "{}", object["file"]);
            }
        }
    }
}
