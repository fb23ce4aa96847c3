//! A small disk that fills while the node serves, and is emptied again: no acknowledged work is
//! lost, new work is refused with a reason, and the node recovers by itself.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;

use serde_json::Value;

use crate::common::{NODE, Workplace, noise};
use crate::serving::{Message, PATIENCE, Serving, wait_for, wait_until};

/// A guest that runs for a while, and outputs more than may be left on the full disk.
const SLOW: &str = r#"(module (import "compute" "output_write" (func $write (param i32 i32))) (memory (export "memory") 1)
    (func (export "run") (result i32) (local i32)
    (loop (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 400000000))))
    (call $write (i32.const 0) (i32.const 9000)) (i32.const 0)))"#;

/// A node whose data is on a disk of 24 MiB.
struct Small {
    node: Serving,
    here: Workplace,
}

impl Small {
    fn start() -> Self {
        let here = Workplace::new();
        std::fs::create_dir(here.path("disk")).unwrap();
        let script = "mount -t tmpfs -o size=24m tmpfs disk && mkdir disk/data \
            && printf '[compute]\\njobs = 1\\n' > disk/data/config.toml \
            && exec $NODE serve --listen 127.0.0.1:0 --data-dir disk/data";
        let mut command = std::process::Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script]).current_dir(here.path(""));
        command.env("NODE", NODE).env_remove("RUST_BACKTRACE").env_remove("NODE_DATA_DIR");
        Self { node: Serving::start(command), here }
    }

    /// Returns the path of a file on the disk, as seen from outside the node's mount namespace.
    fn filler(&self) -> PathBuf {
        let inside = self.here.path("disk/filler");
        let root = format!("/proc/{}/root", self.node.child.id());
        PathBuf::from(format!("{root}{}", inside.display()))
    }

    /// Fills the disk to its last byte.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn ask(&self, line: &str, headers: &str, body: &[u8]) -> Message {
        let mut stream = TcpStream::connect(self.node.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(stream, "{line} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n").unwrap();
        // A node that refuses early need not read the whole body.
        let _ = stream.write_all(body);
        Message::read(&mut stream).expect("there is an answer")
    }

    fn accept(&self, query: &str, body: &[u8]) -> Message {
        self.ask(&format!("POST /v1/slices?{query}"), "prefer: respond-async\r\n", body)
    }

    fn readiness(&self) -> (u16, String) {
        let answer = self.ask("GET /readyz", "", b"");
        (answer.status(), answer.code())
    }
}

type Way = (&'static str, fn(&Small, u64) -> Message);

/// Every kind of request that writes to disk.
const WAYS: [Way; 6] = [
    ("a proof", |small, n| small.ask("POST /v1/slices?workload=transcode", "", &noise(n, 100))),
    ("a slice in the spool", |small, n| small.ask("POST /v1/slices?workload=transcode", "", &noise(n, 2_000_000))),
    ("an accepted slice", |small, n| small.accept("workload=transcode", &noise(n, 100))),
    ("an accepted slice in a file", |small, n| small.accept("workload=transcode", &noise(n, 100_000))),
    ("a module with a name", |small, n| {
        let text = format!(
            r#"(module (memory (export "memory") 1) (global i64 (i64.const {n})) (func (export "run") (result i32) (i32.const 0)))"#
        );
        small.ask(&format!("POST /v1/modules?name=module-{n}"), "", text.as_bytes())
    }),
    ("an offer of a price", |small, n| {
        let offer = format!(r#"{{"price": {n}, "lane": "transcode"}}"#);
        small.ask("POST /v1/prices", "content-type: application/json\r\n", offer.as_bytes())
    }),
];

#[test]
fn a_disk_that_was_full_for_a_while_costs_nothing_that_was_told() {
    let small = Small::start();
    let added = small.ask("POST /v1/modules?name=slow", "", SLOW.as_bytes());
    assert_eq!(added.status(), 201, "{added:?}");
    for (at, (what, way)) in (1..).zip(WAYS) {
        assert!(way(&small, at).status() < 300, "{what}");
    }
    let before = small.ask("GET /v1/proofs/known", "", b"").status();
    assert_eq!(before, 404);
    let known = small.ask("POST /v1/slices?workload=transcode&id=known", "", b"known");
    assert_eq!(known.status(), 200);

    // These slices end while nothing can be written.
    let accepted: Vec<String> = (0..8)
        .map(|n| {
            let answer = small.accept(&format!("module=slow&id=slow-{n}"), &noise(n, 50));
            assert_eq!(answer.status(), 202, "{answer:?}");
            answer.headers["location"].clone()
        })
        .collect();
    small.fill();
    assert_eq!(small.readiness(), (503, "not_ready".to_owned()));
    for (at, (what, way)) in (100..).zip(WAYS) {
        let refused = way(&small, at);
        assert_eq!((refused.status(), refused.code()), (507, "no_space".to_owned()), "{what}: {refused:?}");
        assert!(refused.headers.contains_key("retry-after"), "{what}");
    }
    assert_eq!(small.ask("GET /healthz", "", b"").status(), 200);
    assert_eq!(small.ask("GET /v1/proofs/known", "", b"").status(), 200, "what is known is told");
    let fails = |line: &String| line.contains("takes nothing now") && !line.contains("`disk`");
    wait_until("a store to fail", || small.node.logged().iter().any(fails));

    small.empty();
    wait_until("the node to be ready again", || small.readiness().0 == 200);
    for (at, (what, way)) in (200..).zip(WAYS) {
        let answer = wait_for(what, || Some(way(&small, at)).filter(|answer| answer.status() < 500));
        assert!(answer.status() < 300, "{what}: {answer:?}");
    }
    for path in &accepted {
        let ended: Value = wait_for("an accepted slice to end", || {
            let answer = small.ask(&format!("GET {path}"), "", b"");
            let status: Value = serde_json::from_slice(&answer.body).ok()?;
            matches!(status["state"].as_str(), Some("done" | "failed")).then_some(status)
        });
        assert_eq!(ended["state"], "done", "{ended}");
    }
    assert!(small.node.logged().iter().any(|line| line.contains("has been opened again")));
    assert_eq!(small.ask("GET /v1/proofs/known", "", b"").status(), 200);
    assert_eq!(small.node.stop(), 0);
}
