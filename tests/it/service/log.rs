//! Log of requests, and how to find a request in it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::access::token;
use super::{ECHO, Service};
use crate::common::Workplace;
use crate::serving::{Message, PATIENCE, Serving, wait_for};

impl Service {
    /// Starts a node with log level `debug` in this format.
    fn talkative(config: &str, format: &str) -> Self {
        let here = Workplace::new();
        here.file("node-data/config.toml", config);
        let mut command = here.command(["serve", "--listen", "127.0.0.1:0", "--log-format", format]);
        command.env("NODE_LOG", "debug");
        Self { node: Serving::start(command), here }
    }

    /// Waits for an event with this message for which `is_meant` returns true.
    #[track_caller]
    fn event(&self, message: &str, is_meant: impl Fn(&Value) -> bool) -> Value {
        wait_for(message, || {
            let events = self.node.logged().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
            events.into_iter().find(|event| event["message"] == message && is_meant(event))
        })
    }
}

#[test]
fn a_request_is_followed_from_the_door_to_the_proof() {
    let (secret, config) = token("alice", "run");
    let service = Service::talkative(&config, "json");
    let bearer = format!("Bearer {secret}");
    let headers = [("authorization", &*bearer), ("x-request-id", "from-the_door.1")];
    let answer = service.ask("POST /v1/slices?workload=transcode&id=one", &headers, b"a slice");
    assert_eq!(answer.headers["x-request-id"], "from-the_door.1");
    let is_its = |event: &Value| event["span"]["id"] == "from-the_door.1";
    let event = service.event("answered a slice", is_its);
    assert_eq!((&event["slice_id"], &event["outcome"]), (&"one".into(), &"done".into()));
    assert_eq!(event["claim"], answer.json()["claim"]);
    let event = service.event("answered a request", is_its);
    assert_eq!((&event["level"], &event["status"]), (&"DEBUG".into(), &200.into()));
    let span = serde_json::json!({
        "name": "request", "id": "from-the_door.1", "method": "POST", "path": "/v1/slices", "token": "alice",
    });
    assert_eq!(event["span"], span, "and nothing of the query, nor of the secret");

    assert_eq!(service.ask("GET /metrics", &headers, b"").status(), 200, "any token may scrape");

    let later = [("authorization", &*bearer), ("x-request-id", "later"), ("prefer", "respond-async")];
    let task = service.ask("POST /v1/slices?workload=transcode&id=two", &later, b"a slice").json()["task"].clone();
    service.event("accepted a slice", |event| event["span"]["id"] == "later" && event["task"] == task);
    let ended = service.event("an accepted slice has ended", |event| event["task"] == task);
    let proof = service.ask("GET /v1/proofs/two", &headers, b"").json();
    assert_eq!((&ended["slice_id"], &ended["claim"]), (&"two".into(), &proof["claim"]));
}

#[test]
fn a_request_without_an_id_is_given_one() {
    let service = Service::start();
    let id = |headers: &[(&str, &str)]| service.ask("GET /healthz", headers, b"").headers["x-request-id"].clone();
    let (one, other) = (id(&[]), id(&[]));
    assert_ne!(one, other);
    let long = "x".repeat(65);
    for wrong in ["", "a b", "a\tb", "\u{9b}31m", "a\"b", &long] {
        let made = id(&[("x-request-id", wrong)]);
        assert!(made.len() == 16 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{wrong:?}: {made}");
    }
    let two = id(&[("x-request-id", "a"), ("x-request-id", "b")]);
    assert_eq!(two.len(), 16);
    // The id is there also in responses without a route.
    assert_eq!(service.ask("GET /nothing", &[("x-request-id", "a")], b"").headers["x-request-id"], "a");
    let (_, config) = token("alice", "run");
    let refused = Service::with(&config).ask("GET /v1/modules", &[("x-request-id", "a")], b"");
    assert_eq!((refused.status(), &*refused.headers["x-request-id"]), (401, "a"));
}

/// Details of a host failure are in the log, under the id in the response.
#[test]
fn a_failure_of_the_hosts_is_found_by_its_id() {
    let service = Service::start();
    service.post("/v1/modules", ECHO.as_bytes());
    let modules = service.here.path("node-data/state/modules");
    std::fs::remove_dir_all(&modules).unwrap();
    std::fs::write(&modules, b"").unwrap();
    // The first fails in the async task, the second on a blocking thread.
    for line in ["GET /v1/modules", "DELETE /v1/modules/echo"] {
        let answer = service.ask(line, &[], b"");
        assert_eq!(answer.said(), (503, "module_store".to_owned()), "{line}");
        let id = &answer.headers["x-request-id"];
        let event = service.event("answered a request", |event| event["span"]["id"] == **id);
        assert_eq!((&event["level"], &event["status"]), (&"WARN".into(), &503.into()));
        let lines = service.node.logged();
        let why = lines.iter().find(|line| line.contains("\"ERROR\"") && line.contains(id)).expect(line);
        assert!(why.contains("state/modules"), "{why}");
    }
}

/// A request can contain text that would begin a new line or control a terminal.
#[test]
fn no_request_writes_a_line_of_its_own() {
    let long = format!("GET /{}", "x".repeat(5_000));
    let lines = [
        "GET /\u{9b}31m\u{85}\u{2028}{\"level\":\"ERROR\"}",
        "GET /%0a%0d%1b[31m{\"level\":\"ERROR\"}",
        "GET /v1/proofs/%0a%0d%1b",
        "GET /v1/modules/%0a{\"message\":\"forged\"}",
        "POST /v1/slices?workload=transcode&id=%0aforged",
        "POST /v1/slices?workload=%0aforged",
        "POST /v1/modules?name=%0aforged",
        &long,
    ];
    for format in ["json", "human"] {
        let service = Service::talkative("", format);
        for line in lines {
            let answer = service.ask(line, &[("x-request-id", "a\u{9b}b\tc"), ("user-agent", "\u{9b}2J")], b"");
            assert!((400..500).contains(&answer.status()), "{line:?}: {answer:?}");
        }
        service.ask("GET /last", &[], b"");
        let logged = wait_for("the last", || {
            let logged = service.node.logged();
            logged.iter().any(|line| line.contains("/last")).then_some(logged)
        });
        assert!(logged.len() > 4, "{logged:?}");
        for line in logged {
            assert!(!line.chars().any(|c| c.is_control() || c == '\u{2028}'), "{format}: {line:?}");
            assert!(line.len() < 2_000, "{format}: {} bytes", line.len());
            if format == "json" {
                let event: Value = serde_json::from_str(&line).unwrap();
                assert!(event["level"] != "ERROR" && event["message"] != "forged", "{line}");
            } else {
                let time = line.split_whitespace().next().unwrap();
                assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
            }
        }
    }
}

/// The reader of the log's pipe stands still, like a paused terminal.
#[test]
fn a_log_that_nobody_reads_holds_up_neither_answers_nor_the_end() {
    for format in ["json", "human"] {
        let here = Workplace::new();
        let mut command = here.command(["serve", "--listen", "127.0.0.1:0", "--log-format", format]);
        let mut child = command.env("NODE_LOG", "debug").stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            log.read_line(&mut line).unwrap();
            let Some((_, address)) = line.split_once("listening on http://") else { continue };
            break address.split('"').next().unwrap().trim().to_owned();
        };
        // More than a pipe holds.
        for _ in 0..1_000 {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            assert_eq!(Message::read(&mut stream).expect("an answer").status(), 200);
        }
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let status = wait_for("the node to end", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{format}");
        drop(log);
    }
}
