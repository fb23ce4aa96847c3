//! Courier throughput: receipts a second from one process to another on loopback, durable on both
//! sides, and the same with stores that only append. A flush of many pending receipts shows the
//! memory that it adds, and its delay until the first delivery.
//!
//! `COURIER_PENDING` sets the number of pending receipts. The measured processes are this program,
//! started again.

#[path = "courier/floor.rs"]
mod floor;
#[path = "courier/forwarding.rs"]
mod forwarding;
#[path = "courier/pending.rs"]
mod pending;

use compute_host::courier::{Peer, Settings};
use compute_host::key::{KeyName, NodeKey};
use compute_host::receipt::Sender;

fn main() {
    match std::env::var(pending::STORE) {
        Ok(store) => return pending::flush_some(store.as_ref()),
        Err(_) if std::env::var_os(floor::LOG).is_some() => return floor::receive(),
        Err(_) => {}
    }
    let is_test = std::env::args().any(|argument| argument == "--test");
    let bundles = if is_test { 200 } else { 20_000 };
    forwarding::measure(bundles);
    floor::measure(bundles);
    pending::measure(if is_test { 20_000 } else { pending::count() }, if is_test { 500 } else { 5_000 });
}

fn settings() -> Settings {
    Settings { concurrency: CONCURRENCY as u64, ..Settings::default() }
}

/// Number of concurrent deliveries.
const CONCURRENCY: usize = 32;

const BUNDLE_BYTES: usize = 4 << 10;

fn carrier_key() -> NodeKey {
    NodeKey::from_secret([1; 32])
}

fn sender() -> Sender {
    "alice".parse().unwrap()
}

fn name() -> KeyName {
    "bob".parse().unwrap()
}

fn peer(key: &str, address: &str) -> Peer {
    Peer { name: name(), public_key: key.parse().unwrap(), address: Some(address.parse().unwrap()) }
}

/// Returns a bundle without a pattern, a different one for each number.
fn bundle(number: u64) -> Vec<u8> {
    let mut bundle = vec![0; BUNDLE_BYTES];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bundle);
    bundle
}

/// Prints a line of the table in README.
fn print_rate(what: &str, took_ms: &mut [f64], seconds: f64) {
    took_ms.sort_by(f64::total_cmp);
    let at = |share: f64| took_ms[((took_ms.len() - 1) as f64 * share) as usize];
    let rate = took_ms.len() as f64 / seconds;
    println!("| {what} | {rate:.0}/s | {:.1} ms | {:.1} ms | {:.1} ms |", at(0.5), at(0.99), at(1.0));
}
