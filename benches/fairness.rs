//! Effect of one token's load on another: the latency of a well-behaved token's slices, alone and
//! beside an attacking token. The attacker misbehaves as badly as it can, in one of twelve ways.
//! Both send their requests from this process, over loopback.
//!
//! Aim: the 99th percentile is at most three times the latency alone, and no refusal occurs that
//! the well-behaved token did not cause.
//!
//! `cargo bench --bench fairness -- NAME` measures the attacks whose name contains NAME.
//! `FAIRNESS_SOAK_SECONDS=600` runs all attacks at once for that long instead, and prints the
//! node's resources during the attack and after a minute's rest.

#[path = "fairness/attacks.rs"]
mod attacks;
#[path = "fairness/soak.rs"]
mod soak;
#[allow(dead_code, reason = "another bench uses the rest")]
#[path = "service/client.rs"]
mod client;
#[allow(dead_code, reason = "another bench uses the rest")]
#[path = "service/node.rs"]
mod node;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::attacks::{ATTACKS, Attack, Attacker};
use self::client::Client;
use self::node::Node;

/// Size of the well-behaved token's slices.
const SLICE_BYTES: usize = 16 << 10;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(5);
/// Time for which the attack runs before the measurement.
const RAMP: Duration = Duration::from_secs(2);
/// Aim for the ratio.
const AIM: f64 = 3.0;

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Ok(seconds) = std::env::var("FAIRNESS_SOAK_SECONDS") {
        let seconds = seconds.parse().expect("FAIRNESS_SOAK_SECONDS is a number");
        return runtime.block_on(soak::soak(Duration::from_secs(seconds)));
    }
    println!("| beside | alone: median, 99 % | beside: median, 99 % | ratio at 99 % | refused | asked by the other |");
    println!("|---|---|---|---|---|---|");
    for (name, attack) in ATTACKS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| name.contains(only))) {
        runtime.block_on(beside(name, *attack, is_test));
    }
}

/// Returns a token's secret, and its lines for the config.
fn token(name: &str) -> (String, String) {
    let rights = ["run", "upload", "price"].map(|right| ["--right", right]).concat();
    let made = Command::new(env!("CARGO_BIN_EXE_node")).args(["token", "new", name]).args(rights).output().unwrap();
    let made = String::from_utf8(made.stdout).unwrap();
    let (secret, lines) = made.split_once("\n\n").unwrap();
    (secret.to_owned(), lines.to_owned())
}

/// Starts a node with two tokens, and returns it with their secrets.
fn node_for_two() -> (Node, String, String) {
    let [(good, good_lines), (bad, bad_lines)] = ["good", "bad"].map(token);
    let node = Node::start_with(&format!("{good_lines}\n{bad_lines}\n[compute]\ntimeout_ms = 5000\n"));
    (node, good, bad)
}

async fn beside(name: &str, attack: Attack, is_test: bool) {
    let (node, good, bad) = node_for_two();
    let count = if is_test { 20 } else { 1_000 };
    let mut client = client_of(&node, &good).await;
    ask(&mut client, count / 10).await;
    let alone = ask(&mut client, count).await;
    let asked = Arc::new(AtomicU64::new(0));
    let attacker = Attacker { address: node.address, secret: bad.into(), asked: asked.clone() };
    let attacking = tokio::spawn(attack(attacker, if is_test { 4 } else { 64 }));
    while asked.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(PAUSE).await;
    }
    tokio::time::sleep(if is_test { RAMP / 10 } else { RAMP }).await;
    let beside = ask(&mut client, count).await;
    attacking.abort();
    let ratio = beside.at(0.99) / alone.at(0.99);
    let mark = if ratio > AIM || beside.refused > 0 { "**" } else { "" };
    println!(
        "| {name} | {:.2} ms, {:.2} ms | {:.2} ms, {:.2} ms | {mark}{ratio:.1}{mark} | {} | {} |",
        alone.at(0.5),
        alone.at(0.99),
        beside.at(0.5),
        beside.at(0.99),
        beside.refused,
        asked.load(Ordering::Relaxed)
    );
}

async fn client_of(node: &Node, secret: &str) -> Client {
    Client::connect(node.address).await.with(&format!("authorization: Bearer {secret}"))
}

struct Latencies {
    sorted_ms: Vec<f64>,
    refused: u64,
}

impl Latencies {
    fn at(&self, part: f64) -> f64 {
        self.sorted_ms[((self.sorted_ms.len() - 1) as f64 * part) as usize]
    }
}

/// Runs `count` new slices, one after another.
async fn ask(client: &mut Client, count: u64) -> Latencies {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (mut sorted_ms, mut refused) = (Vec::new(), 0);
    for _ in 0..count {
        let mut slice = vec![0; SLICE_BYTES];
        slice[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let began = Instant::now();
        let status = client.ask("POST /v1/slices?workload=transcode", &slice).await;
        sorted_ms.push(began.elapsed().as_secs_f64() * 1000.0);
        refused += u64::from(status != 200);
        tokio::time::sleep(PAUSE).await;
    }
    sorted_ms.sort_by(f64::total_cmp);
    Latencies { sorted_ms, refused }
}
