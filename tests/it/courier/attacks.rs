//! Attacks on the courier's HTTP endpoint: the node stores nothing that is invalid, and still
//! serves the next request.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use compute_host::key::NodeKey;
use compute_host::receipt::Delivery;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::wire::{Message, delivery, exchange, head, headers, request};
use super::{PATIENCE, Serving, Side, wait_until};

struct Door {
    destination: Side,
    node: Serving,
    key: NodeKey,
    good: Delivery,
}

const BUNDLE: &[u8] = b"a bundle";

fn door() -> Door {
    let (destination, key) = (Side::new(), NodeKey::from_secret([5; NodeKey::BYTES]));
    destination.knows("alice", &key.public().to_string(), "");
    let good = delivery(BUNDLE, &key, destination.key().parse().unwrap());
    let node = destination.serve();
    Door { destination, node, key, good }
}

impl Door {
    /// Asserts that nothing was stored, and that a valid delivery is accepted.
    #[track_caller]
    fn stands(self) {
        let Self { destination, node, key, good } = self;
        wait_until("what was being written to go", || destination.staged().is_empty());
        assert_eq!((node.count("courier_received"), destination.files("received", "bundle").len()), (0, 0));
        assert_eq!(exchange(node.address, &request(BUNDLE, &good, &key)).unwrap().status(), 201);
        assert_eq!(node.stop(), 0);
    }

    /// Sends the valid request with changed headers.
    fn with(&self, change: impl FnOnce(&mut Vec<(&'static str, String)>)) -> Option<Message> {
        let mut headers = headers(&self.good, &self.key);
        change(&mut headers);
        exchange(self.node.address, &[&head(&headers), BUNDLE].concat())
    }
}

const HEADERS: [&str; 8] = [
    "idempotency-key",
    "content-digest",
    "courier-sender",
    "courier-destination",
    "courier-carrier",
    "courier-hops",
    "courier-expires",
    "courier-signature",
];

#[test]
fn a_header_that_is_missing_twice_there_or_wrong_is_named() {
    let door = door();
    for name in HEADERS {
        let named = |answer: Option<Message>, how: &str| {
            let answer = answer.unwrap();
            assert_eq!((answer.status(), &*answer.code()), (422, "malformed"), "{name} {how}");
            assert!(String::from_utf8_lossy(&answer.body).contains(name), "{name} {how}");
        };
        named(door.with(|headers| headers.retain(|(found, _)| *found != name)), "missing");
        named(
            door.with(|headers| {
                let twice = headers.iter().find(|(found, _)| *found == name).unwrap().clone();
                headers.push(twice);
            }),
            "twice",
        );
        for wrong in [
            "",
            " ",
            "é",
            "\u{1f4e6}",
            "00",
            "-1",
            "+1",
            "0x1",
            "*",
            "a,b",
            "99999999999999999999999",
            &"f".repeat(5000),
        ] {
            // Any sender name and any time are well formed, so for these the signature is what is
            // wrong.
            let answer = door.with(|headers| {
                headers.iter_mut().for_each(|(found, value)| {
                    if *found == name {
                        *value = wrong.to_owned()
                    }
                });
            });
            let answer = answer.unwrap();
            let refused = match &*answer.code() {
                "malformed" => answer.status() == 422,
                "wrong_signature" => matches!(name, "courier-sender" | "courier-expires"),
                _ => false,
            };
            assert!(refused, "{name}: {wrong}: {answer:?}");
        }
    }
    door.stands();
}

#[test]
fn a_body_without_a_length_or_of_another_one_is_not_taken() {
    let door = door();
    let length = |value: &str| {
        door.with(|headers| {
            headers.iter_mut().for_each(|(name, found)| {
                if *name == "content-length" {
                    *found = value.to_owned()
                }
            });
        })
    };
    let without = door.with(|headers| headers.retain(|(name, _)| *name != "content-length")).unwrap();
    assert_eq!((without.status(), &*without.code()), (411, "length_required"));
    for wrong in ["-8", "8 8", "eight", "0x8", "99999999999999999999999"] {
        assert_eq!(length(wrong).unwrap().status(), 400, "{wrong}");
    }
    for other in ["7", "0", "9", "1000000", "9223372036854775808"] {
        let answer = length(other).unwrap();
        assert_eq!((answer.status(), &*answer.code()), (403, "wrong_signature"), "{other}: the length is signed");
    }
    for beyond in ["18446744073709551614", "18446744073709551615"] {
        assert!((400..500).contains(&length(beyond).unwrap().status()), "{beyond}");
    }
    let chunked = door.with(|headers| {
        headers.retain(|(name, _)| *name != "content-length");
        headers.push(("transfer-encoding", "chunked".to_owned()));
    });
    assert_eq!(chunked.unwrap().status(), 411);
    let both = door.with(|headers| headers.push(("transfer-encoding", "chunked".to_owned())));
    assert!(both.is_none_or(|answer| (400..500).contains(&answer.status())));
    let twice = door.with(|headers| headers.push(("content-length", "9".to_owned()))).unwrap();
    assert_eq!(twice.status(), 400, "two lengths are none");
    // A carrier that signed another bundle than it sends.
    let short = Delivery { bundle: super::wire::blob(b"a bundle and more"), ..door.good.clone() };
    let mut stream = TcpStream::connect(door.node.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[&head(&headers(&short, &door.key)), BUNDLE].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(Message::read(&mut stream).is_none_or(|answer| answer.status() >= 400));
    door.stands();
}

#[test]
fn a_body_that_breaks_off_is_not_kept() {
    let door = door();
    let bundle = crate::common::noise(1, 1_000_000);
    let cut = delivery(&bundle, &door.key, door.good.destination);
    let bytes = request(&bundle, &cut, &door.key);
    for part in [bytes.len() - 1, bytes.len() - 500_000, bytes.len() - 1_000_000, 300, 20] {
        let mut stream = TcpStream::connect(door.node.address).unwrap();
        stream.write_all(&bytes[..part]).unwrap();
        if part > 500_000 {
            wait_until("a part to be written", || !door.destination.staged().is_empty());
        }
        drop(stream);
        wait_until("it to go again", || door.destination.staged().is_empty());
    }
    door.stands();
}

#[test]
fn a_body_that_comes_too_slowly_is_given_up() {
    let door = door();
    let bytes = request(BUNDLE, &door.good, &door.key);
    let mut stream = TcpStream::connect(door.node.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&bytes[..bytes.len() - 1]).unwrap();
    wait_until("it to begin", || !door.destination.staged().is_empty());
    let answer = Message::read(&mut stream).unwrap();
    assert_eq!((answer.status(), &*answer.code()), (408, "too_slow"));
    door.stands();
}

/// Returns how many connections a test can open beside those of other tests, and a node beside its
/// other files.
fn connections_to_be_had(wanted: usize) -> usize {
    const OTHER_FILES: u64 = 2_000;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let most = limit.maximum.map_or(wanted, |files| usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap());
    wanted.min(most)
}

impl Serving {
    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        resident.unwrap().trim().parse::<u64>().unwrap() << 10
    }

    /// Asserts that a slice still runs.
    #[track_caller]
    fn answers(&self) {
        let request =
            b"POST /v1/slices?workload=transcode HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nslice";
        assert_eq!(exchange(self.address, request).unwrap().status(), 200);
    }
}

/// Returns true if the node has closed this silent connection.
fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn ten_thousand_connections_that_say_nothing_keep_nobody_out() {
    const BATCH: usize = 500;
    const BYTES_MAX: u64 = 64 << 10;
    let door = door();
    let count = connections_to_be_had(10_000);
    door.node.answers();
    let (files, bytes) = (door.node.open_files(), door.node.resident_bytes());
    let mut idle: Vec<TcpStream> = Vec::with_capacity(count);
    while idle.len() < count {
        let mut stream = TcpStream::connect(door.node.address).unwrap();
        if idle.len().is_multiple_of(4) {
            stream.write_all(b"POST /v1/courier/bundles HTTP/1.1\r\nhost: ").unwrap();
        }
        idle.push(stream);
        // Connections beyond the accept queue are dropped and retried seconds later. Each has ten
        // seconds, which a busy machine may exceed.
        if idle.len().is_multiple_of(BATCH) || idle.len() == count {
            let has_them = || door.node.open_files() >= files + idle.len() || is_closed(&idle[0]);
            wait_until("the node to have them", has_them);
        }
    }
    let held = door.node.open_files().saturating_sub(files);
    println!("of 10000 connections, {count} can be had, and the node has {held} at once");
    assert!(count >= 2_000 && held >= count / 2);
    door.node.answers();
    let each = door.node.resident_bytes().saturating_sub(bytes) / held as u64;
    println!("each takes {each} bytes of memory");
    assert!(each < BYTES_MAX);
    let scraped = door.node.scrape();
    for broken in ["status=\"5xx\"", "route=\"/v1/slices\",status=\"4xx\"", "too_many_requests_total{"] {
        assert!(!scraped.contains(broken), "{broken} in\n{scraped}");
    }
    drop(idle);
    wait_until("them to be gone", || door.node.open_files() <= files);
    door.stands();
}

#[test]
fn other_paths_and_methods_are_refused() {
    let door = door();
    let say = |start: &str| {
        exchange(
            door.node.address,
            format!("{start} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes(),
        )
    };
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"] {
        let answer = say(&format!("{method} /v1/courier/bundles")).unwrap();
        assert_eq!((answer.status(), &*answer.code()), (405, "method_not_allowed"), "{method}");
    }
    assert_eq!(say("POST /metrics").unwrap().status(), 405);
    let paths = [
        "//",
        "/v1/courier/bundles/",
        "/v1/courier/bundles/x",
        "/v1//courier/bundles",
        "/V1/courier/bundles",
        "/v1/courier/../courier/bundles",
        "/v1/courier/%2e%2e/bundles",
        "/v1/courier/bundles%00",
        "/v1/courier/bundle%73",
        "/../../etc/passwd",
        "/v1/local/courier",
        "/v1/local/node",
        "*",
    ];
    for path in paths {
        for method in ["GET", "POST"] {
            let answer = say(&format!("{method} {path}")).unwrap();
            assert!(matches!(answer.status(), 404 | 400), "{method} {path}: {answer:?}");
        }
    }
    let long = say(&format!("GET /{}", "a".repeat(100_000))).unwrap();
    assert!(matches!(long.status(), 400 | 414 | 431), "{long:?}");
    let many: String = (0..5_000).map(|number| format!("x-{number}: 1\r\n")).collect();
    let many = format!("GET /metrics HTTP/1.1\r\n{many}\r\n");
    assert!(exchange(door.node.address, many.as_bytes()).is_none_or(|answer| answer.status() == 431));
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\0\0\0\0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(door.node.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(garbage).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
    }
    door.stands();
}

#[test]
fn more_than_are_taken_at_once_are_told_to_come_back() {
    let door = door();
    let open = |number: u32| {
        let bundle = number.to_le_bytes();
        let delivery = delivery(&bundle, &door.key, door.good.destination);
        let mut stream = TcpStream::connect(door.node.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&head(&headers(&delivery, &door.key))).unwrap();
        stream
    };
    // A carrier can hold nine tenths of 256: a share is at most nine times what stays free.
    let held: Vec<TcpStream> = (0..230).map(open).collect();
    wait_until("all to have begun", || door.destination.staged().len() == 230);
    let answer = Message::read(&mut open(230)).unwrap();
    assert_eq!((answer.status(), &*answer.code()), (429, "busy"));
    assert!(answer.headers["retry-after"].parse::<u64>().is_ok_and(|seconds| Duration::from_secs(seconds) < PATIENCE));
    drop(held);
    door.stands();
}
