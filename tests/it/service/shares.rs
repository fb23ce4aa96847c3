//! Fair shares: one token uses as much as it can, and another token is still served.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::access::{bearer, token};
use super::{Service, head};
use crate::serving::{Message, PATIENCE, wait_for, wait_until};

/// Outputs 4 MiB: more than the socket buffers of both sides hold.
const LONG: &str = r#"(module
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (memory (export "memory") 64)
    (func (export "run") (result i32) (call $output_write (i32.const 0) (i32.const 4194304)) (i32.const 0)))"#;

const ENDLESS: &str =
    r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop (br 0)) (i32.const 0)))"#;

/// A node with a greedy token and a modest one.
struct Two {
    service: Service,
    greedy: String,
    modest: String,
}

impl Two {
    fn start(config: &str) -> Self {
        let [greedy, modest] = ["greedy", "modest"].map(|name| token(name, "run upload price"));
        let service = Service::with(&format!("{config}\n{}\n{}", greedy.1, modest.1));
        Self { service, greedy: bearer(&greedy.0), modest: bearer(&modest.0) }
    }

    fn ask(&self, who: &str, line: &str, body: &[u8]) -> Message {
        self.service.ask(line, &[("authorization", who)], body)
    }

    /// Asserts that the modest token is served. `slice` must be new each time.
    #[track_caller]
    fn modest_is_answered(&self, slice: &str) {
        let answer = self.ask(&self.modest, "POST /v1/slices?workload=transcode", slice.as_bytes());
        assert_eq!(answer.status(), 200, "{answer:?}");
        let later = [("authorization", &*self.modest), ("prefer", "respond-async")];
        let answer = self.service.ask("POST /v1/slices?workload=transcode", &later, slice.as_bytes());
        assert_eq!(answer.status(), 202, "{answer:?}");
        let path = answer.headers["location"].clone();
        wait_for("the slice to end", || {
            (self.ask(&self.modest, &format!("GET {path}"), b"").json()["state"] == "done").then_some(())
        });
    }

    /// Sends a request of the greedy token with no more than `part` of a long body.
    fn unsent(&self, line: &str, headers: &[(&str, &str)], part: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.service.node.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&head(line, &[&[("authorization", &*self.greedy)], headers].concat(), 60_000)).unwrap();
        stream.write_all(part).unwrap();
        stream
    }
}

/// Request line, headers, and the part of the body that is sent.
type Kind = (&'static str, &'static [(&'static str, &'static str)], &'static [u8]);

/// Every kind of body reserves memory as it arrives, and leaves some free.
#[test]
fn bodies_that_stand_still_leave_memory_for_another_token() {
    let two = Two::start("[serve]\nbody_memory_bytes_max = 1048576\n");
    const FORM: &[(&str, &str)] = &[("content-type", "multipart/form-data; boundary=x")];
    let part = b"--x\r\ncontent-disposition: form-data; name=\"asset\"\r\n\r\nlong enough to be held in memory";
    let kinds: [Kind; 4] = [
        ("POST /v1/slices?workload=transcode", &[], b"part"),
        ("POST /v1/slices?workload=transcode", &[("prefer", "respond-async")], b"part"),
        ("POST /v1/slices?workload=transcode", FORM, part),
        ("POST /v1/modules", &[], b"(module"),
    ];
    for (number, (line, headers, part)) in kinds.into_iter().enumerate() {
        let mut held = Vec::new();
        wait_until("the greedy token to hold its share", || {
            held.push(two.unsent(line, headers, part));
            two.ask(&two.greedy, "POST /v1/slices?workload=transcode", b"x").said() == (429, "busy".to_owned())
        });
        two.modest_is_answered(&format!("{number}"));
        drop(held);
        wait_until("what was held to be free", || {
            two.ask(&two.greedy, "POST /v1/slices?workload=transcode", b"x").status() == 200
        });
    }
}

#[test]
fn answers_that_nobody_reads_leave_memory_for_another_token() {
    let two = Two::start("[serve]\nbody_memory_bytes_max = 10485760\n");
    assert_eq!(two.ask(&two.greedy, "POST /v1/modules?name=long", LONG.as_bytes()).status(), 201);
    let unread = || {
        let mut stream = TcpStream::connect(two.service.node.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let headers = [("authorization", &*two.greedy), ("accept", "application/octet-stream")];
        stream.write_all(&head("POST /v1/slices?module=long", &headers, 0)).unwrap();
        let mut start = [0; 13];
        stream.read_exact(&mut start).unwrap();
        (stream, start)
    };
    let held = [unread(), unread()];
    assert!(held.iter().all(|(_, start)| start == b"HTTP/1.1 200 "));
    assert_eq!(&unread().1, b"HTTP/1.1 429 ");
    two.modest_is_answered("x");
    drop(held);
}

#[test]
fn runs_that_do_not_end_keep_no_other_token_from_its_own() {
    let two = Two::start("[compute]\njobs = 1\n[limits]\ngas = 1000000000000000\n");
    assert_eq!(two.ask(&two.greedy, "POST /v1/modules?name=endless", ENDLESS.as_bytes()).status(), 201);
    let later = [("authorization", &*two.greedy), ("prefer", "respond-async")];
    for id in 0..10 {
        let line = format!("POST /v1/slices?module=endless&id={id}");
        assert_eq!(two.service.ask(&line, &later, b"").status(), 202);
    }
    let waited_for: Vec<TcpStream> = (10..20)
        .map(|id| {
            let mut stream = TcpStream::connect(two.service.node.address).unwrap();
            let line = format!("POST /v1/slices?module=endless&id={id}");
            stream.write_all(&head(&line, &[("authorization", &*two.greedy)], 0)).unwrap();
            stream
        })
        .collect();
    let waiting = || {
        let text = two.ask(&two.modest, "GET /metrics", b"").body;
        String::from_utf8(text)
            .unwrap()
            .lines()
            .find_map(|line| line.strip_prefix("node_guests_waiting ")?.parse().ok())
    };
    wait_for("the greedy token to stand in line", || waiting().filter(|waiting: &u64| *waiting >= 11));
    two.modest_is_answered("x");
    drop(waited_for);
    wait_for("those that left to be out of the line", || waiting().filter(|waiting| *waiting <= 1));
}

#[test]
fn those_who_follow_a_task_cost_no_thread_and_are_bounded() {
    const FOLLOWERS: usize = 300;
    let two = Two::start("[compute]\njobs = 1\n[serve]\nconnections_max = 400\n[limits]\ngas = 1000000000000000\n");
    assert_eq!(two.ask(&two.greedy, "POST /v1/modules?name=endless", ENDLESS.as_bytes()).status(), 201);
    let later = [("authorization", &*two.greedy), ("prefer", "respond-async")];
    let path = two.service.ask("POST /v1/slices?module=endless", &later, b"").headers["location"].clone();
    let threads = || {
        let tasks = format!("/proc/{}/task", two.service.node.child.id());
        std::fs::read_dir(tasks).unwrap().count()
    };
    let follow = || {
        let mut stream = TcpStream::connect(two.service.node.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&head(&format!("GET {path}/events"), &[("authorization", &*two.greedy)], 0)).unwrap();
        let mut start = [0; 13];
        stream.read_exact(&mut start).unwrap();
        (stream, start)
    };
    let before = threads();
    let followers: Vec<TcpStream> = (0..FOLLOWERS).map(|_| follow().0).collect();
    assert!(threads() < before + FOLLOWERS / 10, "{before} threads became {}", threads());
    // Nine times what stays free is 360 of 400.
    let more: Vec<_> = (FOLLOWERS..400).map(|_| follow()).collect();
    let refused = more.iter().filter(|(_, start)| start == b"HTTP/1.1 429 ").count();
    assert!((1..=60).contains(&refused), "{refused} of the greedy token's connections are refused");
    drop(more);
    two.modest_is_answered("x");
    // All followers receive the ending.
    two.ask(&two.greedy, &format!("POST {path}/cancel"), b"");
    for mut stream in followers {
        let mut told = String::new();
        while !told.contains("\"cancelled\"") {
            let mut piece = [0; 4096];
            let bytes = stream.read(&mut piece).unwrap();
            assert_ne!(bytes, 0, "{told}");
            told += &String::from_utf8_lossy(&piece[..bytes]);
        }
    }
}
