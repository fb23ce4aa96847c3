//! A node that is to end while others take their time.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Signal;

use super::{Service, head};
use crate::serving::{Message, PATIENCE, wait_until};

/// Puts out 16 MiB: more than the systems of both sides take in.
const LONG: &str = r#"(module
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (memory (export "memory") 256)
    (func (export "run") (result i32) (call $output_write (i32.const 0) (i32.const 16777216)) (i32.const 0)))"#;
const LONG_BYTES: usize = 16 << 20;

const ENDLESS: &str =
    r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop (br 0)) (i32.const 0)))"#;

/// What is sent or taken at a time, and how long a pause comes after it: some 200 KB a second. That
/// is steady enough never to be given up for it, and no body here is at its end within minutes.
const PIECE_BYTES: usize = 4 << 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Whoever does something piece by piece, and at the end tells how many bytes it came to.
type Slow = JoinHandle<usize>;

fn connect(service: &Service, line: &str, headers: &[(&str, &str)], body_bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(service.node.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&head(line, headers, body_bytes)).unwrap();
    stream
}

/// A body that is asked for, and then sent slowly.
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

/// An answer that has begun, and is taken slowly.
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
    // All of them would have gone on.
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
