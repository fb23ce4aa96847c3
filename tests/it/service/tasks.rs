//! Accepted slices that run later.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use super::access::{bearer, token};
use super::{Service, head};
use crate::common::{COPY, blake3, noise};
use crate::serving::{Message, PATIENCE, wait_for};

/// A guest that ends only when its gas is used up.
const ENDLESS: &str =
    r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop (br 0)) (i32.const 0)))"#;

impl Service {
    fn accept(&self, query: &str, body: &[u8]) -> Message {
        self.ask(&format!("POST /v1/slices?{query}"), &[("prefer", "respond-async")], body)
    }

    /// Submits a slice, and returns the path of its status.
    #[track_caller]
    fn accepted(&self, query: &str, body: &[u8]) -> String {
        let answer = self.accept(query, body);
        assert_eq!(answer.status(), 202, "{answer:?}");
        let path = answer.headers["location"].clone();
        assert_eq!(answer.json()["status"], path);
        path
    }

    /// Waits for a slice to end, and returns its status.
    #[track_caller]
    fn ended(&self, path: &str) -> Value {
        wait_for("the slice to end", || {
            let status = self.get(path).json();
            ["done", "failed"].contains(&status["state"].as_str().unwrap()).then_some(status)
        })
    }
}

#[test]
fn an_accepted_slice_is_run_and_its_proof_and_output_are_there() {
    let service = Service::start();
    let bytes = noise(1, 2_000_000);
    let path = service.accepted("workload=transcode&id=a/b", &bytes);
    let status = service.ended(&path);
    assert_eq!((&status["state"], &status["outcome"]), (&"done".into(), &"done".into()));
    let proof = service.get(status["proof"].as_str().unwrap()).json();
    assert_eq!((&proof["slice_id"], &proof["proof"]), (&"a/b".into(), &blake3(&bytes).into()));
    assert_eq!(service.get(status["output"].as_str().unwrap()).body, b"");
    // Errors are reported before anything is stored, or when the task's turn comes.
    assert_eq!(service.accept("module=none", b"").said(), (404, "no_such_module".to_owned()));
    let conflict = service.ended(&service.accepted("workload=transcode&id=a/b", b"other"));
    assert_eq!(conflict["error"]["code"], "slice_id_conflict");
    let none = service.get(&format!("/v1/slices/{}", "0".repeat(32)));
    assert_eq!(none.said(), (404, "no_such_task".to_owned()));
}

#[test]
fn what_was_accepted_is_run_after_a_kill() {
    const COUNT: usize = 50;
    let service = Service::start();
    let paths: Vec<String> =
        (0..COUNT).map(|i| service.accepted(&format!("workload=transcode&id={i}"), &i.to_le_bytes())).collect();
    let Service { mut node, here } = service;
    node.child.kill().unwrap();
    node.child.wait().unwrap();
    let service = Service::again(here);
    for (i, path) in paths.iter().enumerate() {
        let status = service.ended(path);
        assert_eq!((&status["state"], &status["slice_id"]), (&"done".into(), &i.to_string().into()));
        let proof = service.get(status["proof"].as_str().unwrap()).json();
        assert_eq!(proof["proof"], blake3(i.to_le_bytes()));
    }
}

#[test]
fn what_a_guest_put_out_is_there_after_a_restart_for_whom_it_is() {
    let [alice, bob] = ["alice", "bob"].map(|name| token(name, "run upload"));
    let service = Service::with(&format!("{}\n{}", alice.1, bob.1));
    let [alice, bob] = [alice, bob].map(|(secret, _)| bearer(&secret));
    let ask = |service: &Service, who: &str, line: &str, body: &[u8]| {
        service.ask(line, &[("authorization", who), ("prefer", "respond-async")], body)
    };
    assert_eq!(ask(&service, &alice, "POST /v1/modules?name=copy", COPY.as_bytes()).status(), 201);
    let slices = [0, 1_000, 16 << 10, 500_000].map(|bytes| noise(1, bytes));
    let accepted = slices.each_ref().map(|slice| {
        let path = ask(&service, &alice, "POST /v1/slices?module=copy", slice).headers["location"].clone();
        wait_for("it to end", || {
            let status = ask(&service, &alice, &format!("GET {path}"), b"").json();
            (status["state"] == "done").then_some((path.clone(), status))
        })
    });
    let Service { node, here } = service;
    assert_eq!(node.stop(), 0);
    let service = Service::again(here);
    for ((path, status), slice) in accepted.iter().zip(&slices) {
        let line = format!("GET {}", status["output"].as_str().unwrap());
        let answer = ask(&service, &alice, &line, b"");
        assert!(answer.status() == 200 && answer.body == *slice, "{} bytes", slice.len());
        assert_eq!(answer.headers["content-type"], "application/octet-stream");
        assert_eq!((status["output_bytes"].as_u64(), slice.len()), (Some(slice.len() as u64), answer.body.len()));
        assert_eq!(ask(&service, &bob, &line, b"").said(), (404, "no_such_task".to_owned()));
        let known = ask(&service, &alice, &format!("GET {path}"), b"").json();
        assert_eq!(known, *status, "what is told of it is the same");
    }
}

#[test]
fn an_output_that_is_damaged_on_the_disk_is_gone_and_the_log_says_where() {
    let service = Service::start();
    assert_eq!(service.post("/v1/modules?name=copy", COPY.as_bytes()).status(), 201);
    let path = service.accepted("module=copy", &noise(1, 500_000));
    let line = service.ended(&path)["output"].as_str().unwrap().to_owned();
    assert_eq!(service.node.count("node_queue_output_bytes"), 500_000);
    let Service { node, here } = service;
    assert_eq!(node.stop(), 0);
    let name = format!("{}.output", path.rsplit_once('/').unwrap().1);
    let file = here.path(format!("node-data/state/accepted/files/{name}"));
    let kept = std::fs::read(&file).unwrap();
    assert!(kept == noise(1, 500_000));
    std::fs::write(&file, noise(2, 500_000)).unwrap();
    let service = Service::again(here);
    let gone = service.get(&line);
    assert_eq!(gone.said(), (410, "output_gone".to_owned()));
    assert!(gone.json()["detail"].as_str().unwrap().contains("damaged"), "{gone:?}");
    wait_for("the log to say so", || service.node.logged().iter().any(|line| line.contains(&name)).then_some(()));
    std::fs::write(&file, kept).unwrap();
    assert!(service.get(&line).body == noise(1, 500_000));
}

/// When a proof has been evicted, another slice may have its id.
#[test]
fn an_output_is_that_of_its_task_whatever_its_id_stands_for_by_now() {
    let service = Service::with("[store]\nproofs_max = 1\n");
    assert_eq!(service.post("/v1/modules?name=copy", COPY.as_bytes()).status(), 201);
    let path = service.accepted("module=copy&id=x", b"first");
    service.ended(&path);
    service.transcode(b"its proof has the room");
    let Service { node, here } = service;
    assert_eq!(node.stop(), 0);
    let service = Service::again(here);
    let second = service.ask("POST /v1/slices?module=copy&id=x", &[("accept", "application/octet-stream")], b"second");
    assert_eq!((second.status(), &*second.body), (200, &b"second"[..]));
    assert_eq!(service.get(&format!("{path}/output")).body, b"first");
}

#[test]
fn what_becomes_of_a_slice_is_told_as_it_happens() {
    let service = Service::with("[limits]\ngas = 1000000000000000\n");
    service.post("/v1/modules?name=endless", ENDLESS.as_bytes());
    let path = service.accepted("module=endless", b"");
    let mut stream = TcpStream::connect(service.node.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&head(&format!("GET {path}/events"), &[("connection", "close")], 0)).unwrap();
    let mut states = BufReader::new(stream).lines().map_while(Result::ok).filter_map(|line| {
        let data: Value = serde_json::from_str(line.strip_prefix("data: ")?).unwrap();
        Some(data)
    });
    let running = states.find(|data| data["state"] == "running" && data["gas"].as_u64() > Some(0)).unwrap();
    assert_eq!(running["gas_max"], 1_000_000_000_000_000_u64);
    let cancelled = service.ask(&format!("POST {path}/cancel"), &[], b"").json();
    assert_eq!((&cancelled["state"], &cancelled["error"]["code"]), (&"failed".into(), &"cancelled".into()));
    assert_eq!(states.last().unwrap(), cancelled, "the last that is told is how it ended");
}

#[test]
fn a_full_queue_says_so() {
    let service = Service::with("[queue]\nentries_max = 3\n[limits]\ngas = 1000000000000000\n");
    service.post("/v1/modules?name=endless", ENDLESS.as_bytes());
    let paths: Vec<String> = (0..3).map(|i| service.accepted(&format!("module=endless&id={i}"), b"")).collect();
    let full = service.accept("module=endless&id=more", b"");
    assert_eq!(full.said(), (429, "queue_full".to_owned()));
    assert!(full.headers.contains_key("retry-after"));
    service.ask(&format!("POST {}/cancel", paths[0]), &[], b"");
    service.accepted("module=endless&id=more", b"");
}

#[test]
fn a_node_that_is_to_end_does_not_wait_for_a_slice_that_does_not() {
    let service = Service::with("[limits]\ngas = 1000000000000000\n");
    service.post("/v1/modules?name=endless", ENDLESS.as_bytes());
    let path = service.accepted("module=endless", b"");
    wait_for("it to run", || (service.get(&path).json()["state"] == "running").then_some(()));
    let Service { node, here } = service;
    assert_eq!(node.stop(), 0);
    let service = Service::again(here);
    assert!(["waiting", "running"].contains(&service.get(&path).json()["state"].as_str().unwrap()), "it begins anew");
}
