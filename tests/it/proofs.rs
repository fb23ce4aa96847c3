//! Stored format of proofs, and their signatures.

mod forged;
mod json;
mod validated;

use std::time::{Duration, SystemTime};

use compute_host::digest::Digest;
use compute_host::key::NodeKey;
use compute_host::limits::Usage;
use compute_host::proof::{Blob, Claim, Job, JobLimits, Observed, SliceProof, profile};
use compute_host::sandbox::{Execution, Outcome};

use crate::common::{Workplace, root};

/// Returns the key that signs the golden proofs; it is public.
fn test_key() -> NodeKey {
    NodeKey::from_secret([7; 32])
}

fn claim(outcome: Outcome) -> Claim {
    let job = Job {
        workload: "transcode".to_owned(),
        module: Digest::of(b"module"),
        input: Blob { blake3: Digest::of(b"a slice"), bytes: 7 },
        args: Digest::of(b""),
        limits: JobLimits { gas: 100, memory_bytes: 65_536, output_bytes: 1000 },
        assets: if outcome.is_done() { vec![] } else { vec![Digest::of(b"one"), Digest::of(b"two")] },
        profile: Digest::of(b"profile"),
    };
    let usage = Usage { gas: 77, memory_bytes: 65_536 };
    let proof = outcome.is_done().then(|| Digest::of(b"a slice"));
    let execution = Execution { outcome, proof, output: b"output".to_vec(), log: b"log".to_vec(), usage, trace: None };
    Claim::of("frame-0001".parse().unwrap(), job, &execution)
}

fn proof(outcome: Outcome) -> SliceProof {
    let started = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_408_430_428);
    let usage = Usage { gas: 77, memory_bytes: 65_536 };
    let observed = Observed::new(started, Duration::from_micros(139), usage, "wasmtime 48 cranelift");
    SliceProof::sign(claim(outcome), observed, &test_key()).unwrap()
}

fn vector(name: &str) -> std::path::PathBuf {
    root().join("tests/vectors").join(name)
}

/// Both forms of two proofs. If one of these changes, the format has changed and needs a new
/// version.
#[test]
fn the_golden_proofs_are_read_and_written_to_the_byte() {
    for (name, outcome) in [("done", Outcome::Done), ("failed", Outcome::Failed(-3))] {
        let proof = proof(outcome);
        let bytes = std::fs::read(vector(&format!("proof-v1-{name}.proof"))).unwrap();
        assert_eq!(proof.to_bytes(), bytes, "{name}");
        assert_eq!(SliceProof::from_bytes(&bytes).as_ref(), Ok(&proof), "{name}");
        let json = std::fs::read_to_string(vector(&format!("proof-v1-{name}.json"))).unwrap();
        assert_eq!(format!("{:#}\n", proof.to_json()), json, "{name}");
        assert_eq!(SliceProof::from_json(json.as_bytes()).as_ref(), Ok(&proof), "{name}");
    }
}

#[test]
fn the_golden_proof_is_shown_as_it_always_was() {
    let here = Workplace::new();
    let shown = std::fs::read_to_string(vector("proof-v1-done.txt")).unwrap();
    for form in ["proof-v1-done.proof", "proof-v1-done.json"] {
        let proof = vector(form);
        here.node(["compute".as_ref(), "proof".as_ref(), "show".as_ref(), proof.as_os_str()]).is(0, &shown, "");
    }
}

/// All nodes of this version run by the same rules; other rules are another profile.
#[test]
fn the_rules_of_execution_are_the_golden_ones() {
    let (file, now) = (vector("execution-profile.json"), format!("{:#}\n", profile().to_json()));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    assert_eq!(now, std::fs::read_to_string(file).unwrap(), "other rules are another profile; BLESS=1 writes it anew");

    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    let line = here.run("compute run --json transcode.slice").json().remove(0);
    assert_eq!(line["job"]["profile"], serde_json::json!(profile().digest()), "and runs are claimed to be by them");
}

#[test]
fn what_was_observed_is_no_part_of_the_claim() {
    let (one, claim) = (proof(Outcome::Done), claim(Outcome::Done));
    let observed = Observed::new(SystemTime::UNIX_EPOCH, Duration::ZERO, Usage::default(), "another engine");
    let other = SliceProof::sign(claim, observed, &NodeKey::from_secret([8; 32])).unwrap();
    assert_eq!(one.claim_digest(), other.claim_digest());
    assert_ne!(one.to_bytes(), other.to_bytes());
}

#[test]
fn a_proof_that_was_kept_has_the_signature_that_it_was_given() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.run("compute run --out first transcode.slice").output();
    here.run("key rotate").output();
    here.run("compute run --out second transcode.slice").output();
    let read = |directory| std::fs::read(here.path(directory).join("transcode.slice.proof")).unwrap();
    assert_eq!(read("first"), read("second"));
    here.run("compute run --out third --no-cache transcode.slice").output();
    let [first, third] = ["first", "third"].map(|directory| SliceProof::from_bytes(&read(directory)).unwrap());
    assert_eq!(first.claim(), third.claim());
    assert_ne!(first.signer(), third.signer());
}

#[test]
fn what_is_no_proof_is_not_shown() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.run("compute run --out . transcode.slice").output();
    let proof = std::fs::read(here.path("transcode.slice.proof")).unwrap();
    let mut later = proof.clone();
    later[8] = 9;
    here.file("text", "no proof");
    here.file("unsigned", [&later[..8], &[0], &later[9..]].concat());
    here.file("later", later);
    here.file("short", &proof[..proof.len() - 1]);
    here.sparse("huge", 1 << 40);
    here.sparse("large", 65_537);
    let refused = |name: &str, why: &str| {
        let message = format!("error: cannot read proof `{name}`: {why}\n");
        here.run(&format!("compute proof show {name}")).is(2, "", &message);
    };
    refused("missing", "No such file or directory (os error 2)");
    refused("text", "not a slice proof: it does not begin with `SLCPROOF`, nor with `{` as its JSON form does");
    refused("later", "a slice proof of version 9; this node reads version 1");
    refused(
        "unsigned",
        "a slice proof of version 0, which is unsigned and no longer read; run its slice again to make it anew",
    );
    refused("short", "a damaged slice proof: its checksum does not fit its content");
    refused("huge", "it has more than 524288 bytes");
    refused("large", "a slice proof of 65537 bytes; at most 65536 are read");
}
