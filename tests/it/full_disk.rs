//! A small disk that fills while the node serves, and is emptied again: no acknowledged work is
//! lost, new work is refused with a reason, and the node recovers by itself.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use compute_host::key::{Keyring, NodeKey, PublicKey};
use serde_json::Value;

use crate::common::{NODE, Ran, Workplace, noise};
use crate::courier::wire;
use crate::serving::{Message, PATIENCE, Serving, wait_for, wait_until};

/// A guest that runs for a while, and outputs more bytes than may be free on the full disk.
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
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script]).current_dir(here.path(""));
        command.env("NODE", NODE).env_remove("RUST_BACKTRACE").env_remove("NODE_DATA_DIR");
        Self { node: Serving::start(command), here }
    }

    /// Returns a path on the disk, as seen from outside of the node's mount namespace.
    fn path(&self, name: &str) -> PathBuf {
        let inside = self.here.path("disk").join(name);
        PathBuf::from(format!("/proc/{}/root{}", self.node.child.id(), inside.display()))
    }

    /// Fills the disk to its last byte.
    fn fill(&self) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.path("filler")).unwrap();
    }

    /// Runs the command line of the node's owner, which sends the command to the node.
    fn run(&self, line: &str) -> Ran {
        let data = self.path("data");
        let words = line.split(' ').map(str::to_owned);
        self.here.node(words.chain(["--data-dir".to_owned(), data.to_str().unwrap().to_owned()]))
    }

    fn key(&self) -> PublicKey {
        Keyring::new(self.path("data/state")).node_key(SystemTime::now()).unwrap().0.public()
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

/// Answer to a client: a status, and a code if it is a refusal.
#[derive(Debug)]
struct Said {
    status: u16,
    code: String,
    /// Whether the answer says when to retry. A command's owner needs no such hint.
    says_when: bool,
}

impl From<Message> for Said {
    fn from(answer: Message) -> Self {
        let says_when = answer.headers.contains_key("retry-after");
        Self { status: answer.status(), code: answer.code(), says_when }
    }
}

/// Result of a command, as the status and code of the service.
impl From<Ran> for Said {
    fn from(ran: Ran) -> Self {
        let is_full = ran.stderr.contains("No space left on device");
        let code = if is_full { "no_space".to_owned() } else { ran.stderr };
        Self { status: if ran.code == 0 { 200 } else { 507 }, code, says_when: true }
    }
}

/// Kind of request that writes to disk, and its refusal on a full disk.
struct Way {
    what: &'static str,
    go: fn(&Small, u64) -> Said,
    refusal: (u16, &'static str),
}

const fn way(what: &'static str, go: fn(&Small, u64) -> Said) -> Way {
    Way { what, go, refusal: (507, "no_space") }
}

const WAYS: [Way; 8] = [
    way("a proof", |small, n| small.ask("POST /v1/slices?workload=transcode", "", &noise(n, 100)).into()),
    way("a slice in the spool", |small, n| {
        small.ask("POST /v1/slices?workload=transcode", "", &noise(n, 2_000_000)).into()
    }),
    way("an accepted slice", |small, n| small.accept("workload=transcode", &noise(n, 100)).into()),
    way("an accepted slice in a file", |small, n| small.accept("workload=transcode", &noise(n, 100_000)).into()),
    way("a module with a name", |small, n| {
        let text = format!(
            r#"(module (memory (export "memory") 1) (global i64 (i64.const {n})) (func (export "run") (result i32) (i32.const 0)))"#
        );
        small.ask(&format!("POST /v1/modules?name=module-{n}"), "", text.as_bytes()).into()
    }),
    way("an offer of a price", |small, n| {
        let offer = format!(r#"{{"price": {n}, "lane": "transcode"}}"#);
        small.ask("POST /v1/prices", "content-type: application/json\r\n", offer.as_bytes()).into()
    }),
    Way {
        what: "a bundle that is received",
        go: |small, n| {
            let (bundle, carrier) = (noise(n, 100_000), carrier());
            let delivery = wire::delivery(&bundle, &carrier, small.key());
            wire::exchange(small.node.address, &wire::request(&bundle, &delivery, &carrier)).unwrap().into()
        },
        // A carrier learns about the disk only that it should retry.
        refusal: (503, "storage_failed"),
    },
    way("a rotation of the key", |small, _| {
        let before = small.key();
        let said = Said::from(small.run("key rotate"));
        assert_eq!(small.key() == before, said.status != 200, "it is rotated if that is what is said: {said:?}");
        said
    }),
];

/// Returns the key of a node from which the small node accepts bundles.
fn carrier() -> NodeKey {
    NodeKey::from_secret([9; 32])
}

#[test]
fn a_disk_that_was_full_for_a_while_costs_nothing_that_was_told() {
    let small = Small::start();
    let added = small.ask("POST /v1/modules?name=slow", "", SLOW.as_bytes());
    assert_eq!(added.status(), 201, "{added:?}");
    small.run(&format!("compute courier peer add carrier {}", carrier().public())).output();
    for (at, Way { what, go, .. }) in (1..).zip(WAYS) {
        let said = go(&small, at);
        assert!(said.status < 300, "{what}: {said:?}");
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
    for (at, Way { what, go, refusal }) in (100..).zip(WAYS) {
        // An attempt that gave up may have freed some bytes.
        small.fill();
        let refused = go(&small, at);
        assert_eq!((refused.status, &*refused.code), refusal, "{what}: {refused:?}");
        assert!(refused.says_when, "{what}: {refused:?}");
    }
    assert_eq!(small.ask("GET /healthz", "", b"").status(), 200);
    assert_eq!(small.ask("GET /v1/proofs/known", "", b"").status(), 200, "what is known is told");
    let fails = |line: &String| line.contains("takes nothing now") && !line.contains("`disk`");
    wait_until("a store to fail", || small.node.logged().iter().any(fails));

    small.empty();
    wait_until("the node to be ready again", || small.readiness().0 == 200);
    for (at, Way { what, go, .. }) in (200..).zip(WAYS) {
        let said = wait_for(what, || Some(go(&small, at)).filter(|said| said.status < 500));
        assert!(said.status < 300, "{what}: {said:?}");
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

/// Native code can be compiled again. If the disk has no space for it, a run succeeds and leaves no
/// partial file. The next run stores the code.
#[test]
fn native_code_that_does_not_fit_costs_a_compilation_and_nothing_else() {
    let here = Workplace::new();
    fs::create_dir(here.path("small")).unwrap();
    here.file("data", "a slice");
    let work = "(local.set 0 (i32.mul (local.get 0) (i32.add (local.get 0) (i32.const 77))))".repeat(100);
    let functions = format!("(func (param i32) (result i32) {work} (local.get 0))").repeat(600);
    here.file(
        "large.wat",
        format!(
            r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (i32.const 0)) {functions})"#
        ),
    );
    // Half of the code's length is free: enough to open the stores.
    let script = "set -e
        mount -t tmpfs -o size=64m tmpfs small
        run() { $NODE compute run --no-cache --data-dir small/data --module large data; }
        $NODE compute module add --data-dir small/data large.wat --name large
        du -b small/data/cache/*.code | cut -f1 > bytes
        rm small/data/cache/*.code
        head -c 100m /dev/zero > small/filler 2> /dev/null || true
        truncate -s -$(( $(cat bytes) / 2 )) small/filler
        run > full.out
        find small/data/cache -type f > full.left
        rm small/filler
        run > after.out
        du -b small/data/cache/*.code | cut -f1 > again";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script]).current_dir(here.path(""));
    command.env("NODE", NODE).env_remove("RUST_BACKTRACE").env_remove("NODE_DATA_DIR");
    let ran = Ran::of(command);
    let read = |name: &str| fs::read_to_string(here.path(name)).unwrap();
    assert_eq!(ran.code, 0, "a mount namespace is needed: {ran:?}");
    assert!(read("bytes").trim().parse::<u64>().unwrap() > 400_000, "{}", read("bytes"));
    assert_eq!((read("full.out"), &*read("full.left")), (read("after.out"), ""));
    assert_eq!(read("again"), read("bytes"));
}
