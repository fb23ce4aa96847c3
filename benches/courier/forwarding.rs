//! A courier in this process and `node serve` in another, each with its own store on disk.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use compute_host::courier::{
    Courier, Event, FlushMode, ForwardError, ForwardOutcome, Forwarder, HttpForwarder, OutboundBundle, system_clock,
};
use compute_host::key::{KeyName, Signer};
use compute_host::receipt::ReceiptId;

use super::{CONCURRENCY, bundle, carrier_key, peer, print_rate, sender, settings};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Forwarder that records when each attempt began.
struct Timed {
    http: HttpForwarder,
    began: Arc<Mutex<HashMap<ReceiptId, Instant>>>,
}

impl Forwarder for Timed {
    async fn forward(&self, parcel: OutboundBundle) -> Result<ForwardOutcome, ForwardError> {
        self.began.lock().unwrap().insert(parcel.delivery.receipt, Instant::now());
        self.http.forward(parcel).await
    }
}

pub fn measure(bundles: u64) {
    println!("\n| {CONCURRENCY} at once, 4 KiB | receipts | median | 99 % | worst |\n|---|---|---|---|---|");
    let directory = tempfile::tempdir().unwrap();
    let (here, there) = (directory.path().join("carrier"), directory.path().join("destination"));
    let courier = Courier::open(&here, Arc::new(Signer::new(carrier_key())), settings(), system_clock).unwrap();
    let courier = Arc::new(courier);
    send(&courier, bundles);
    let key = node(&there, "key show").split_whitespace().nth(1).unwrap().to_owned();
    node(&there, &format!("compute courier peer add carol {}", carrier_key().public()));
    let mut serve = Command::new(NODE);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&there);
    let mut serve = serve.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(serve.stderr.take().unwrap()).lines();
    let address = lines.find_map(|line| listening(&line.unwrap())).unwrap();
    let peer = peer(&key, &address);

    let began = Arc::<Mutex<HashMap<ReceiptId, Instant>>>::default();
    let forwarder = Timed { http: HttpForwarder::new(Duration::from_secs(30)).unwrap(), began: began.clone() };
    let mut took_ms = Vec::new();
    let tell = |event| {
        if let Event::Forwarded { id, .. } = event {
            took_ms.push(began.lock().unwrap()[&id].elapsed().as_secs_f64() * 1000.0);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let route = |_: Option<&KeyName>| Ok(Some(peer.clone()));
    let mode = FlushMode::All { retry_for: Duration::ZERO };
    let start = Instant::now();
    let flush = courier.flush(Arc::new(forwarder), mode, route, tell, std::future::pending());
    let summary = runtime.block_on(flush).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    serve.kill().unwrap();
    serve.wait().unwrap();
    assert_eq!((summary.forwarded, summary.failures), (bundles, 0), "{summary:?}");
    print_rate("from the request to the credit, on disk on both sides", &mut took_ms, seconds);
}

/// Submits all bundles to the courier.
fn send(courier: &Arc<Courier>, bundles: u64) {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..CONCURRENCY as u64 {
            scope.spawn(move || {
                for number in (thread..bundles).step_by(CONCURRENCY) {
                    let mut sending = courier.begin_send(sender(), None, None).unwrap();
                    sending.write(&bundle(number)).unwrap();
                    sending.finish().unwrap();
                }
            });
        }
    });
    let rate = bundles as f64 / start.elapsed().as_secs_f64();
    println!("| taken in by `send`, in this process | {rate:.0}/s | | | |");
}

fn node(data: &Path, line: &str) -> String {
    let ran = Command::new(NODE).args(line.split(' ')).arg("--data-dir").arg(data).output().unwrap();
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// Returns the address on which a node listens, from a line of its log.
fn listening(line: &str) -> Option<String> {
    Some(line.split_once("listening on ")?.1.split('"').next()?.to_owned())
}
