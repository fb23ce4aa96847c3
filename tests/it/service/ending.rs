//! Shutdown of a node while clients send and receive slowly.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Signal;

use super::{Service, head};
use crate::serving::{Message, PATIENCE, wait_until};

/// A guest that outputs 16 MiB: more than the sockets of both sides buffer.
const LONG: &str = r#"(module
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (memory (export "memory") 256)
    (func (export "run") (result i32) (call $output_write (i32.const 0) (i32.const 16777216)) (i32.const 0)))"#;
const LONG_BYTES: usize = 16 << 20;

const ENDLESS: &str =
    r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop (br 0)) (i32.const 0)))"#;

/// Bytes that are sent or received at a time, and the pause after each: some 200 KB a second. The
/// rate is high enough that the node does not give up the connection. No body here ends within
/// minutes.
const PIECE_BYTES: usize = 4 << 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Thread that sends or receives piece by piece. It returns the number of bytes.
type Slow = JoinHandle<usize>;

fn connect(service: &Service, line: &str, headers: &[(&str, &str)], body_bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(service.node.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&head(line, headers, body_bytes)).unwrap();
    stream
}

/// Starts a slow upload after the node has asked for the body.
fn slow_upload(service: &Service, line: &str, headers: &[(&str, &str)], body_bytes: usize) -> Slow {
    let headers = [headers, &[("expect", "100-continue")]].concat();
    let mut stream = connect(service, line, &headers, body_bytes);
    let asked_for = Message::read_head(&mut stream).unwrap();
    assert_eq!(asked_for.status(), 100, "{line}: {asked_for:?}");
    thread::spawn(move || {
        let mut sent = 0;
        while sent < body_bytes && stream.write_all(&[0; PIECE_BYTES]).is_ok() {
            sent += PIECE_BYTES;
            thread::sleep(PAUSE);
        }
        sent
    })
}

/// Starts to read an answer slowly, after its head.
fn slow_reader(service: &Service, line: &str) -> Slow {
    let mut stream = connect(service, line, &[("accept", "application/octet-stream")], 0);
    let head = Message::read_head(&mut stream).unwrap();
    assert_eq!((head.status(), &*head.headers["content-length"]), (200, &*LONG_BYTES.to_string()));
    thread::spawn(move || {
        let (mut taken, mut piece) = (0, [0; PIECE_BYTES]);
        while let Ok(bytes @ 1..) = stream.read(&mut piece) {
            taken += bytes;
            thread::sleep(PAUSE);
        }
        taken
    })
}

#[test]
fn a_node_that_is_to_end_waits_for_no_body_that_is_slow_and_no_run_that_is_long() {
    let mut service = Service::with("[compute]\njobs = 2\n[limits]\ngas = 1000000000000000\n");
    assert_eq!(service.post("/v1/modules?name=long", LONG.as_bytes()).status(), 201);
    assert_eq!(service.post("/v1/modules?name=endless", ENDLESS.as_bytes()).status(), 201);
    const GIB: usize = 1 << 30;
    let later = [("prefer", "respond-async")];
    let uploads = [
        (slow_upload(&service, "POST /v1/slices?workload=transcode", &[], GIB), GIB),
        (slow_upload(&service, "POST /v1/slices?workload=transcode", &later, GIB), GIB),
        (slow_upload(&service, "POST /v1/modules", &[], 16 << 20), 16 << 20),
    ];
    let readers: Vec<Slow> = (0..2).map(|_| slow_reader(&service, "POST /v1/slices?module=long")).collect();
    let accepted = service.ask("POST /v1/slices?module=endless", &later, b"x");
    let path = accepted.headers["location"].clone();
    wait_until("an accepted slice to run", || service.get(&path).json()["state"] == "running");
    let mut follower = connect(&service, &format!("GET {path}/events"), &[], 0);
    assert_eq!(Message::read_head(&mut follower).unwrap().status(), 200);
    let mut waited_for = connect(&service, "POST /v1/slices?module=endless", &[], 1);
    waited_for.write_all(b"y").unwrap();

    service.node.signal(Signal::TERM);
    assert_eq!(service.node.ended(), 0);
    assert!(service.node.logged().iter().any(|line| line.contains("\"stopped\"")));
    // Each of them would have continued.
    for (upload, bytes) in uploads {
        let sent = upload.join().unwrap();
        assert!(sent < bytes, "{sent} of {bytes} were sent");
    }
    for reader in readers {
        let taken = reader.join().unwrap();
        assert!(taken < LONG_BYTES, "{taken} of {LONG_BYTES} were taken");
    }
    drop(waited_for);
}
