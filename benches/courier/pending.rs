//! Flush of very many receipts, which is stopped after some of them, in a process of its own that
//! does nothing else. The destination is a function that signs acknowledgements. So all the memory
//! and all the time belong to the carrier.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use compute_host::courier::{
    Courier, Event, FlushMode, ForwardError, ForwardOutcome, Forwarder, OutboundBundle, Peer, Settings, system_clock,
};
use compute_host::key::{KeyName, NodeKey, Signer};
use compute_host::receipt::{Acknowledgement, Receipt, ReceiptId, ReceiptState};
use compute_host::store::CourierStore;
use tokio::sync::Notify;

use super::{carrier_key, name, settings};

/// Environment variables with the state directory of the process that flushes, and the number of
/// receipts that it forwards.
pub const STORE: &str = "COURIER_PENDING_STORE";
const FORWARDS: &str = "COURIER_PENDING_FORWARDS";

/// Number of distinct bundles. Many senders send each of them.
const BUNDLES: u64 = 1_000;

const THREADS: u64 = 64;

/// Directory in memory. If it has enough space, the store is created there, without waiting for a
/// disk, and then copied.
const MEMORY: &str = "/dev/shm";

pub fn count() -> u64 {
    std::env::var("COURIER_PENDING").map_or(1_000_000, |count| count.parse().expect("COURIER_PENDING is a number"))
}

pub fn measure(receipts: u64, forwards: u64) {
    let memory = Path::new(MEMORY);
    let made_in = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let start = Instant::now();
    make(&made_in.path().join("state/courier"), receipts);
    let made = start.elapsed().as_secs_f64();
    let directory = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").args(["-r", "--"]).arg(made_in.path().join("state")).arg(directory.path()).status();
    assert!(copied.unwrap().success());
    drop(made_in);
    assert!(Command::new("sync").status().unwrap().success());
    println!(
        "\n{receipts} receipts of {BUNDLES} bundles from {} senders, made in {made:.0} s",
        receipts.div_ceil(BUNDLES)
    );
    let mut flush = Command::new(std::env::current_exe().unwrap());
    // `node` sets the same for itself.
    flush.env("MALLOC_ARENA_MAX", "2");
    flush.env(STORE, directory.path().join("state")).env(FORWARDS, forwards.to_string());
    assert!(flush.status().unwrap().success());
}

/// Creates the receipts as `send` does, many at a time.
fn make(store: &Path, receipts: u64) {
    let store = CourierStore::open(store).unwrap();
    let next = AtomicU64::new(0);
    let now_ms = system_clock();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= receipts {
                        return;
                    }
                    let mut staged = store.stage().unwrap();
                    staged.write(&(number % BUNDLES).to_le_bytes()).unwrap();
                    let bundle = staged.finish().unwrap();
                    let sender = format!("sender-{}", number / BUNDLES).parse().unwrap();
                    let receipt = Receipt {
                        id: ReceiptId::of(&bundle.blob(), &sender, None),
                        bundle: bundle.blob(),
                        sender,
                        destination: None,
                        hops: 0,
                        created_ms: now_ms,
                        expires_ms: u64::MAX,
                        state: ReceiptState::Pending,
                        attempts: 0,
                        attempted_ms: 0,
                        due_ms: now_ms + number % 1_000,
                        last_error: None,
                    };
                    store.submit(bundle, &receipt).unwrap();
                }
            });
        }
    });
    assert_eq!(store.tally().pending, receipts);
}

/// A destination that is a local function.
struct Near(NodeKey);

impl Forwarder for Near {
    async fn forward(&self, parcel: OutboundBundle) -> Result<ForwardOutcome, ForwardError> {
        Ok(ForwardOutcome::Acknowledged(Acknowledgement::sign(parcel.delivery, system_clock(), &self.0).to_bytes()))
    }
}

/// Runs the measured flush, in a process of its own.
pub fn flush_some(state: &Path) {
    let forwards: u64 = std::env::var(FORWARDS).unwrap().parse().unwrap();
    let before = memory_kib("VmRSS:");
    let start = Instant::now();
    let settings = Settings { pending_max: u64::MAX, ..settings() };
    let courier = Arc::new(Courier::open(state, Arc::new(Signer::new(carrier_key())), settings, system_clock).unwrap());
    let open = start.elapsed();
    let opened_kib = memory_kib("VmRSS:");
    // From here on, the high-water mark belongs to the flush.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let destination = NodeKey::from_secret([2; 32]);
    let peer = Peer { name: name(), public_key: destination.public(), address: None };
    let route = |_: Option<&KeyName>| Ok(Some(peer.clone()));
    let (stop, mut forwarded, mut first) = (Arc::new(Notify::new()), 0, None);
    let opened = Instant::now();
    let tell = |event| {
        if let Event::Forwarded { .. } = event {
            first.get_or_insert_with(|| opened.elapsed());
            forwarded += 1;
            if forwarded == forwards {
                stop.notify_one();
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mode = FlushMode::All { retry_for: Duration::ZERO };
    let flush = courier.flush(Arc::new(Near(destination)), mode, route, tell, stop.notified());
    let summary = runtime.block_on(flush).unwrap();
    let took = opened.elapsed();
    assert!(summary.interrupted && summary.forwarded >= forwards, "{summary:?}");
    let mib = |kib: u64| kib as f64 / 1024.0;
    let high_kib = memory_kib("VmHWM:");
    println!("| | |\n|---|---|");
    println!("| to open | {:.2} s |", open.as_secs_f64());
    println!("| resident before opening, and after | {:.1}, {:.1} MiB |", mib(before), mib(opened_kib));
    println!("| from open to the first forward | {:.1} ms |", first.unwrap().as_secs_f64() * 1000.0);
    println!("| to {forwards} forwards | {:.2} s |", took.as_secs_f64());
    println!("| added to what is resident, at most | {:.1} MiB |", mib(high_kib.saturating_sub(opened_kib)));
}

fn memory_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
