//! Service benchmarks. This process sends requests to the node over loopback, and uses its own part
//! of the cores. Measured are slices a second, uploads, idle connections, and the time until the
//! node is ready. All times are by the client's clock.
//!
//! `SERVICE_HOLD_SECONDS` keeps up the load for that long, and prints the node's memory.

#[allow(dead_code, reason = "another bench uses the rest")]
#[path = "service/client.rs"]
mod client;
#[allow(dead_code, reason = "another bench uses the rest")]
#[path = "service/node.rs"]
mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::client::Client;
use self::node::Node;

const SMALL: usize = 64;
const LARGE: usize = 1 << 20;

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        slices(is_test).await;
        idle(if is_test { 100 } else { 10_000 }).await;
        uploads(if is_test { 20 } else { 10_000 }).await;
        start(if is_test { 10 } else { 1_000 }).await;
        if let Ok(seconds) = std::env::var("SERVICE_HOLD_SECONDS") {
            hold(seconds.parse().expect("SERVICE_HOLD_SECONDS is a number")).await;
        }
    });
}

/// Returns a slice without a pattern, a different one for each number.
fn slice(number: u64, bytes: usize) -> Vec<u8> {
    let mut slice = vec![0; bytes];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut slice);
    slice
}

/// Latencies of the answers.
struct Load {
    took: Vec<Duration>,
    seconds: f64,
}

/// Sends `count` requests in all over `connections`. `body` makes the body of the next request.
async fn load(
    node: &Node,
    connections: u64,
    count: u64,
    body: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static,
) -> Load {
    let (next, body, address) = (Arc::new(AtomicU64::new(0)), Arc::new(body), node.address);
    let start = Instant::now();
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let (next, body) = (next.clone(), body.clone());
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut took = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return took;
                    }
                    let bytes = body(number);
                    let asked = Instant::now();
                    assert_eq!(client.ask("POST /v1/slices?workload=transcode", &bytes).await, 200);
                    took.push(asked.elapsed());
                }
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    Load { took, seconds: start.elapsed().as_secs_f64() }
}

impl Load {
    fn print(mut self, name: &str, connections: u64) {
        self.took.sort();
        let at = |part: f64| self.took[((self.took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
        let rate = self.took.len() as f64 / self.seconds;
        println!("| {name} | {connections} | {rate:.0}/s | {:.2} ms | {:.2} ms |", at(0.5), at(0.99));
    }
}

async fn slices(is_test: bool) {
    println!("\n| slices | connections | | median | 99 % |\n|---|---|---|---|---|");
    for (name, bytes, count) in [("64 B", SMALL, 40_000), ("1 MiB", LARGE, 2_000)] {
        for connections in [1, 32, 256] {
            let node = Node::start();
            let count = if is_test {
                300
            } else if connections == 1 {
                count / 10
            } else {
                count
            };
            let first = load(&node, connections, count, move |number| slice(number, bytes)).await;
            first.print(&format!("{name}, each another"), connections);
            let again = load(&node, connections, count, move |_| slice(0, bytes)).await;
            again.print(&format!("{name}, one and the same"), connections);
        }
    }
}

/// Measures the memory of idle connections.
async fn idle(connections: usize) {
    let node = Node::start();
    let before = node.memory_kib();
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut client = Client::connect(node.address).await;
        assert_eq!(client.ask("GET /healthz", b"").await, 200);
        clients.push(client);
    }
    let each = (node.memory_kib() - before) as f64 / connections as f64;
    println!("\n{connections} idle connections: {} MiB, {each:.1} KiB each", node.memory_kib() >> 10);
}

async fn uploads(count: u64) {
    let node = Node::start();
    let (next, address) = (Arc::new(AtomicU64::new(0)), node.address);
    let start = Instant::now();
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let next = next.clone();
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    assert_eq!(client.ask("POST /v1/modules", &node::module(number)).await, 201);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("\n{count} uploads, 32 at a time: {:.0}/s", count as f64 / seconds);
}

/// Measures the time from the start of the process until it accepts work.
async fn start(modules: u64) {
    let mut node = Node::start();
    let mut client = Client::connect(node.address).await;
    for number in 0..modules {
        assert_eq!(client.ask("POST /v1/modules", &node::module(number)).await, 201);
    }
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..11 {
        let began = Instant::now();
        node = node.restart();
        assert_eq!(Client::connect(node.address).await.ask("GET /readyz", b"").await, 200);
        took.push(began.elapsed() - node.ended_in);
    }
    took.sort();
    println!("\nready with {modules} modules stored: {:.1} ms", took[5].as_secs_f64() * 1000.0);
}

async fn hold(seconds: u64) {
    let node = Node::start();
    let began = Instant::now();
    println!("\n| held for | slices | memory |\n|---|---|---|");
    let mut all = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        let from = all;
        let ran = load(&node, 32, 50_000, move |number| slice(from + number, SMALL)).await;
        all += ran.took.len() as u64;
        println!("| {} s | {all} | {} MiB |", began.elapsed().as_secs(), node.memory_kib() >> 10);
    }
}
