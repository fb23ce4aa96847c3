//! Twelve attacks with a token. Each runs until it is aborted, and counts its requests.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::client::Client;
use super::node::module;

/// The token that attacks.
#[derive(Clone)]
pub struct Attacker {
    pub address: SocketAddr,
    pub secret: Arc<str>,
    pub asked: Arc<AtomicU64>,
}

/// An attack over a number of connections.
pub type Attack = fn(Attacker, usize) -> Pin<Box<dyn Future<Output = ()> + Send>>;

pub const ATTACKS: [(&str, Attack); 12] = [
    ("slow bodies", |by, width| Box::pin(slow_bodies(by, width * 4))),
    ("slow readers", |by, width| Box::pin(slow_readers(by, width * 4))),
    ("modules", |by, width| Box::pin(by.flood(width, |at| ask("POST /v1/modules", large_module(at))))),
    ("runs", |by, width| Box::pin(runs(by, width))),
    ("accepted slices", |by, width| Box::pin(accepted(by, width, false))),
    ("events", |by, width| Box::pin(events(by, width * 32))),
    ("forms", |by, width| Box::pin(by.flood(width, form))),
    ("lists", |by, width| Box::pin(lists(by, width))),
    ("cancels", |by, width| Box::pin(accepted(by, width, true))),
    ("proofs", |by, width| {
        Box::pin(by.flood(width, |at| ask(&format!("POST /v1/slices?workload=transcode&id={at}"), bytes(at))))
    }),
    ("names", |by, width| Box::pin(by.flood(width, |at| ask(&format!("POST /v1/modules?name=n{at}"), module(0))))),
    ("price offers", |by, width| Box::pin(by.flood(width, offer))),
];

/// A request: its line, more lines of the head, and a body.
struct Ask {
    line: String,
    headers: String,
    body: Vec<u8>,
}

fn ask(line: &str, body: Vec<u8>) -> Ask {
    Ask { line: line.to_owned(), headers: String::new(), body }
}

fn bytes(at: u64) -> Vec<u8> {
    at.to_le_bytes().to_vec()
}

/// Returns a module with an endless loop, a different one for each number.
fn endless(number: u64) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module (memory (export "memory") 1)
            (func (export "run") (result i32) (loop (br 0)) (i32.const {number})))"#
    ))
    .unwrap()
}

/// Returns a module that takes long to compile, a different one for each number. The text is parsed
/// once, so that the attacker's own work takes no core from the node.
fn large_module(number: u64) -> Vec<u8> {
    /// Takes five bytes in LEB128, as does each sum of it and a small number.
    const FIRST: u64 = 1 << 28;
    static TEMPLATE: LazyLock<(Vec<u8>, usize)> = LazyLock::new(|| {
        let function = "(func (param i64) (result i64) (i64.mul (local.get 0) (i64.add (local.get 0) (i64.const 7))))";
        let functions = function.repeat(1_000);
        let run = format!("(func (export \"run\") (result i32) (i32.const {FIRST}))");
        let wasm = wat::parse_str(format!("(module (memory (export \"memory\") 1) {functions} {run})")).unwrap();
        let at = wasm.windows(5).rposition(|bytes| bytes == leb128(FIRST)).unwrap();
        (wasm, at)
    });
    let (mut wasm, at) = TEMPLATE.clone();
    wasm[at..at + 5].copy_from_slice(&leb128(FIRST + number));
    wasm
}

/// Encodes a number from 2^28 to 2^34 - 1.
fn leb128(number: u64) -> [u8; 5] {
    std::array::from_fn(|at| (number >> (7 * at)) as u8 & 0x7f | if at < 4 { 0x80 } else { 0 })
}

fn form(at: u64) -> Ask {
    let mut body = String::new();
    for part in 0..16 {
        body += &format!("--x\r\ncontent-disposition: form-data; name=\"arg\"\r\n\r\n{at}-{part}\r\n");
    }
    body += &format!("--x\r\ncontent-disposition: form-data; name=\"slice\"\r\n\r\n{at}\r\n--x--\r\n");
    let headers = "content-type: multipart/form-data; boundary=x".to_owned();
    Ask { line: "POST /v1/slices?workload=transcode".to_owned(), headers, body: body.into_bytes() }
}

fn offer(at: u64) -> Ask {
    let body = format!(r#"{{"price": {}, "lane": "transcode"}}"#, at % 1_000 + 1);
    let headers = "content-type: application/json".to_owned();
    Ask { line: "POST /v1/prices".to_owned(), headers, body: body.into_bytes() }
}

impl Attacker {
    fn authorization(&self) -> String {
        format!("authorization: Bearer {}", self.secret)
    }

    async fn client(&self) -> Client {
        Client::connect(self.address).await.with(&self.authorization())
    }

    fn count(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends requests without a pause over `width` connections.
    async fn flood(self, width: usize, next: impl Fn(u64) -> Ask + Clone + Send + Sync + 'static) {
        let numbers = Arc::new(AtomicU64::new(0));
        let mut all = JoinSet::new();
        for _ in 0..width {
            let (by, next, numbers) = (self.clone(), next.clone(), numbers.clone());
            all.spawn(async move {
                let mut client = by.client().await;
                loop {
                    let Ask { line, headers, body } = next(numbers.fetch_add(1, Ordering::Relaxed));
                    let line = if headers.is_empty() { line } else { format!("{line} HTTP/1.1\r\n{headers}") };
                    by.count();
                    if client.try_ask(&line, &body).await.is_none() {
                        client = by.client().await;
                    }
                }
            });
        }
        while all.join_next().await.is_some() {}
    }

    /// Adds a module under a name.
    async fn add(&self, name: &str, wasm: &[u8]) {
        let status = self.client().await.ask(&format!("POST /v1/modules?name={name}"), wasm).await;
        assert!(matches!(status, 200 | 201), "{status}");
    }
}

/// Sends bodies of 64 MiB at the lowest allowed rate.
async fn slow_bodies(by: Attacker, width: usize) {
    each(width, move |_| {
        let by = by.clone();
        async move {
            loop {
                let Ok(mut stream) = TcpStream::connect(by.address).await else { continue };
                let head = format!(
                    "POST /v1/slices?workload=transcode HTTP/1.1\r\nhost: localhost\r\n{}\r\ncontent-length: {}\r\n\r\n",
                    by.authorization(),
                    64 << 20
                );
                by.count();
                let _ = stream.write_all(head.as_bytes()).await;
                while stream.write_all(&[0; 8 << 10]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                }
            }
        }
    })
    .await;
}

/// Requests outputs of 32 MiB and does not read them.
async fn slow_readers(by: Attacker, width: usize) {
    let wat = r#"(module (import "compute" "output_write" (func $write (param i32 i32)))
        (memory (export "memory") 512) (func (export "run") (result i32)
        (call $write (i32.const 0) (i32.const 33554432)) (i32.const 0)))"#;
    by.add("long", &wat::parse_str(wat).unwrap()).await;
    each(width, move |_| {
        let by = by.clone();
        async move {
            loop {
                let Ok(mut stream) = TcpStream::connect(by.address).await else { continue };
                let head = format!(
                    "POST /v1/slices?module=long HTTP/1.1\r\nhost: localhost\r\n{}\r\n\
                     accept: application/octet-stream\r\ncontent-length: 0\r\n\r\n",
                    by.authorization()
                );
                by.count();
                let _ = stream.write_all(head.as_bytes()).await;
                while matches!(stream.read(&mut [0; 4 << 10]).await, Ok(1..)) {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    })
    .await;
}

/// Runs endless loops and waits for each.
async fn runs(by: Attacker, width: usize) {
    by.add("endless", &endless(0)).await;
    by.flood(width, |at| ask(&format!("POST /v1/slices?module=endless&id={at}"), bytes(at))).await;
}

/// Submits endless loops as tasks, and cancels them at once if `is_cancelled`.
async fn accepted(by: Attacker, width: usize, is_cancelled: bool) {
    by.add("endless", &endless(0)).await;
    each(width, move |own| {
        let by = by.clone();
        async move {
            let mut client = by.client().await.with("prefer: respond-async");
            for number in 0u64.. {
                let line = format!("POST /v1/slices?module=endless&id={own}-{number}");
                by.count();
                if client.try_ask(&line, &bytes(number)).await.is_none() {
                    client = by.client().await.with("prefer: respond-async");
                }
                if let (true, Some(task)) = (is_cancelled, client.header("location")) {
                    by.count();
                    client.try_ask(&format!("POST {task}/cancel"), b"").await;
                }
            }
        }
    })
    .await;
}

/// Opens streams of events for one task that does not end.
async fn events(by: Attacker, width: usize) {
    by.add("endless", &endless(0)).await;
    let mut client = by.client().await.with("prefer: respond-async");
    client.ask("POST /v1/slices?module=endless&id=watched", b"").await;
    let task: Arc<str> = client.header("location").unwrap_or_default().into();
    each(width, move |_| {
        let (by, task) = (by.clone(), task.clone());
        async move {
            loop {
                let Ok(mut stream) = TcpStream::connect(by.address).await else { continue };
                let head = format!("GET {task}/events HTTP/1.1\r\nhost: localhost\r\n{}\r\n\r\n", by.authorization());
                by.count();
                let _ = stream.write_all(head.as_bytes()).await;
                while matches!(stream.read(&mut [0; 4 << 10]).await, Ok(1..)) {}
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    })
    .await;
}

/// Requests lists of a thousand modules.
async fn lists(by: Attacker, width: usize) {
    for number in 0..if width < 16 { 20 } else { 1_000 } {
        by.add(&format!("n{number}"), &module(number)).await;
    }
    by.flood(width, |_| ask("GET /v1/modules", Vec::new())).await;
}

/// Runs `width` instances of `one` at once.
async fn each<F: Future<Output = ()> + Send + 'static>(width: usize, one: impl Fn(usize) -> F) {
    let mut all = JoinSet::new();
    (0..width).for_each(|at| drop(all.spawn(one(at))));
    while all.join_next().await.is_some() {}
}
