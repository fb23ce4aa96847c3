//! Prebuilt guests: they match the manifest, pass the gate, and prove the same as other guests of
//! the same workload.

use std::collections::BTreeSet;
use std::path::PathBuf;

use compute_host::digest::Digest;
use compute_host::runner::{Capacity, RunAnswer, RunRequest, WorkloadRunner};
use compute_host::sandbox::{Outcome, Trap};
use compute_host::slice::Slice;
use compute_host::workload::{Asset, Workload, transcode_streaming};

use crate::common::{blake3, noise, root};

const CAPACITY: Capacity = Capacity { jobs: 2, spare_jobs: 0, results_max: 1000, results_bytes_max: 64 << 20 };

/// Folders of prebuilt guests.
const FOLDERS: [&str; 2] = ["guest-workloads", "benches/kernels"];

fn workloads(path: &str) -> PathBuf {
    root().join("guest-workloads").join(path)
}

fn guest(file: &str) -> Workload {
    Workload::from_module(&std::fs::read(workloads("dist").join(file)).unwrap()).unwrap()
}

/// Entry of a guest in `dist/manifest.toml`.
#[derive(serde::Deserialize)]
struct Entry {
    file: String,
    language: String,
    sources: Vec<String>,
    bytes: usize,
    blake3: String,
}

#[derive(serde::Deserialize)]
struct Manifest {
    toolchain: toml::Table,
    guest: Vec<Entry>,
}

fn manifest(folder: &str) -> Manifest {
    toml::from_str(&std::fs::read_to_string(root().join(folder).join("dist/manifest.toml")).unwrap()).unwrap()
}

async fn answer(workload: &Workload, slice: &[u8]) -> RunAnswer {
    let runner = WorkloadRunner::in_memory(CAPACITY).unwrap();
    runner.run(RunRequest::new(workload.clone(), Slice::from_bytes(slice))).await.unwrap()
}

fn proof_of(answer: &RunAnswer) -> Option<Digest> {
    answer.finished.proof.proof()
}

#[test]
fn what_is_built_is_what_the_manifest_says() {
    for folder in FOLDERS {
        let (manifest, folder) = (manifest(folder), root().join(folder));
        let mut named = BTreeSet::from(["manifest.toml".to_owned()]);
        for entry in manifest.guest {
            let module = std::fs::read(folder.join("dist").join(&entry.file)).unwrap();
            assert_eq!((module.len(), blake3(&module)), (entry.bytes, entry.blake3), "{}", entry.file);
            let language = entry.language;
            assert!(manifest.toolchain.contains_key(&language), "{}: no toolchain for {language}", entry.file);
            for source in &entry.sources {
                assert!(folder.join(source).is_file(), "{}: there is no {source}", entry.file);
            }
            assert!(named.insert(entry.file), "a guest is named twice");
        }
        let files = std::fs::read_dir(folder.join("dist")).unwrap();
        let files: BTreeSet<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(files, named);
    }
}

/// The stored bytes are what runs. If a new version of `wat` makes other bytes from the text, this
/// test fails and the difference must be checked.
#[test]
fn the_text_of_a_reference_guest_makes_the_bytes_that_run() {
    for (name, workload) in [
        ("transcode", Workload::Transcode),
        ("inference", Workload::Inference),
        ("transcode-streaming", transcode_streaming()),
    ] {
        let made = wat::parse_file(workloads(&format!("{name}.wat"))).unwrap();
        let bytes = std::fs::read(workloads(&format!("{name}.wasm"))).unwrap();
        assert!(made == bytes, "{name}.wasm was made of its text by version 1.254.2 of the crate `wat`");
        assert_eq!(workload.digest(), Digest::of(&bytes), "{name}");
    }
}

#[tokio::test]
async fn each_sister_of_a_reference_workload_proves_blake3_of_the_slice() {
    let sisters: Vec<String> = manifest("guest-workloads")
        .guest
        .into_iter()
        .map(|entry| entry.file)
        .filter(|file| ["transcode-", "inference-"].iter().any(|reference| file.starts_with(reference)))
        .collect();
    assert_eq!(sisters.len(), 6, "{sisters:?}");
    for len in [0, 1, 64, 1000, 65_537, (1 << 20) + 3] {
        let slice = noise(len, len as usize);
        let expected = Digest::from(::blake3::hash(&slice));
        for file in &sisters {
            let answer = answer(&guest(file), &slice).await;
            assert_eq!(answer.finished.outcome, Outcome::Done, "{file} on {len} bytes");
            assert_eq!(proof_of(&answer), Some(expected), "{file} on {len} bytes");
        }
    }
}

#[tokio::test]
async fn the_word_count_proves_its_output() {
    let workload = guest("word-count-rust.wasm");
    // A word across the edge of a window counts once.
    let across = [b"x".repeat(65_530), b" and abcdefghij\n".to_vec()].concat();
    for (slice, lines, words) in [
        (&b""[..], 0, 0),
        (b"one", 0, 1),
        (b"  one\ttwo\r\n\nthree \xff\xfe four\n", 3, 5),
        (&across, 1, 3),
        (&b"a\n".repeat(100_000), 100_000, 100_000),
    ] {
        let expected = format!("{{\"lines\":{lines},\"words\":{words}}}\n");
        let answer = answer(&workload, slice).await;
        assert_eq!(answer.finished.outcome, Outcome::Done);
        assert_eq!(answer.finished.output.as_deref(), Some(expected.as_bytes()));
        assert_eq!(proof_of(&answer), Some(Digest::of(expected.as_bytes())));
    }
}

/// Returns the answer of the SDK tour to one of its commands, on a slice of some kilobytes and with
/// two assets.
async fn tour(command: &str) -> RunAnswer {
    let runner = WorkloadRunner::in_memory(CAPACITY).unwrap();
    let request = RunRequest::new(guest("sdk-tour-rust.wasm"), Slice::from_bytes(noise(1, 5000)));
    let assets = vec![Asset::new(*b"weights"), Asset::new(*b"")];
    runner.run(RunRequest { args: command.as_bytes().into(), assets, ..request }).await.unwrap()
}

#[tokio::test]
async fn all_that_the_sdk_offers_reaches_the_host() {
    let slice = noise(1, 5000);
    let read = [&slice[..4], b"|", &slice[4998..], b"||7 false weights|0 true |"].concat();
    assert_eq!(tour("read").await.finished.output, Some(read));

    let digest = |bytes: &[u8]| *::blake3::hash(bytes).as_bytes();
    let whole = digest(&slice);
    let hashes = [whole, whole, whole, digest(&slice[..1024]), digest(b"")].concat();
    assert_eq!(tour("hash").await.finished.output, Some(hashes));

    assert_eq!(proof_of(&tour("commit").await), Some(Digest::of(b"committed")));
    assert_eq!(tour("log").await.finished.log, b"a line\n");
}

#[tokio::test]
async fn how_a_guest_with_the_sdk_fails_is_its_outcome_and_a_line_in_its_log() {
    for (command, outcome, log) in [
        ("12", Outcome::Done, ""),
        ("code", Outcome::Failed(-7), ""),
        ("twelve", Outcome::Failed(1), "invalid digit found in string\n"),
        ("panic", Outcome::Trap(Trap::Unreachable), "a panic of 5 words\n"),
        ("two hashers", Outcome::Trap(Trap::Unreachable), "finish one hasher before you begin another\n"),
    ] {
        let answer = tour(command).await;
        assert_eq!(answer.finished.outcome, outcome, "{command}");
        let said = str::from_utf8(&answer.finished.log).unwrap();
        assert!(said.ends_with(log) && said.is_empty() == log.is_empty(), "{command}: {said}");
    }
}

#[test]
fn the_tutorial_shows_the_guest_that_is_built() {
    let tutorial = std::fs::read_to_string(root().join("docs/tutorial.md")).unwrap();
    let code: Vec<&str> = tutorial.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let source = std::fs::read_to_string(workloads("rust/word-count/src/lib.rs")).unwrap();
    assert_eq!(code, [source]);
}
