//! Soak test: all attacks at once beside a well-behaved token, for a given time, and a minute's
//! rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::attacks::{ATTACKS, Attacker};
use super::node::Node;
use super::{Latencies, ask, client_of, node_for_two};

/// Time for the node to release its resources.
const REST: Duration = Duration::from_secs(60);
/// Slices between two lines.
const BATCH: u64 = 1_000;
/// Connections of each attack.
const WIDTH: usize = 4;

pub async fn soak(time: Duration) {
    let (node, good, bad) = node_for_two();
    let mut client = client_of(&node, &good).await;
    ask(&mut client, BATCH / 10).await;
    println!("| after | asked by the other | refused | median, 99 % | resident | threads | files | children |");
    println!("|---|---|---|---|---|---|---|---|");
    let began = Instant::now();
    let asked = Arc::new(AtomicU64::new(0));
    let row = |latencies: Option<Latencies>| {
        let (asked, seconds) = (asked.load(Ordering::Relaxed), began.elapsed().as_secs());
        let latencies = latencies.map_or_else(
            || "| |".to_owned(),
            |found| format!("{} | {:.2} ms, {:.2} ms |", found.refused, found.at(0.5), found.at(0.99)),
        );
        println!("| {seconds} s | {asked} | {latencies} {}", holds(&node));
    };
    row(None);
    let mut attacks = tokio::task::JoinSet::new();
    for (_, attack) in ATTACKS {
        let attacker = Attacker { address: node.address, secret: bad.as_str().into(), asked: asked.clone() };
        attacks.spawn(attack(attacker, WIDTH));
    }
    while began.elapsed() < time {
        row(Some(ask(&mut client, BATCH).await));
    }
    attacks.shutdown().await;
    row(None);
    tokio::time::sleep(REST).await;
    row(None);
}

/// Returns memory, threads, open files and children of the node.
fn holds(node: &Node) -> String {
    let count = |folder: &str| std::fs::read_dir(format!("/proc/{}/{folder}", node.id())).map_or(0, Iterator::count);
    let tasks = format!("/proc/{}/task", node.id());
    let children: usize = std::fs::read_dir(tasks)
        .map(|tasks| {
            let of = |task: std::io::Result<std::fs::DirEntry>| {
                std::fs::read_to_string(task.ok()?.path().join("children")).ok()
            };
            tasks.filter_map(of).map(|children| children.split_whitespace().count()).sum()
        })
        .unwrap_or(0);
    format!("{} MiB | {} | {} | {children} |", node.memory_kib() >> 10, count("task"), count("fd"))
}
