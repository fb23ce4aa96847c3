//! Role of the process that is killed.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use compute_host::courier::{Courier, Event, ForwardError, ForwardOutcome, Forwarder, HttpForwarder, OutboundBundle};
use compute_host::http::carrier_routes;
use compute_host::receipt::ReceiptId;
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::nodes;
use crate::queue_killed::{self, QueuePart};

const VARIABLE: &str = "COMPUTE_HOST_CRASH_PART";

#[derive(Serialize, Deserialize)]
pub enum Part {
    /// Stores these bundles, and forwards all pending ones.
    Carrier { state: PathBuf, bundles: Vec<u64>, destination: SocketAddr, kill: Kill },
    /// Receives bundles until it is killed.
    Destination { state: PathBuf },
    /// Submits slices, and runs the accepted ones.
    Queue(QueuePart),
}

/// Moment at which the process kills itself.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Kill {
    /// This many microseconds after it began to store the last of its bundles.
    Inserting { after_us: u64 },
    /// Before request number `after` + 1.
    BeforeRequest { after: u64 },
    /// On receiving reply number `after` + 1, before reading it.
    AtReply { after: u64 },
    /// This many microseconds after the first reply.
    AfterReply { after_us: u64 },
    /// When credit number `after` + 1 is reported.
    AfterCommit { after: u64 },
    /// Never: another process kills it.
    Never,
}

/// Starts this program again.
pub fn start(part: &Part) -> Child {
    let mut command = Command::new(program());
    given(&mut command, part).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().expect("this program can be started")
}

pub fn program() -> PathBuf {
    std::env::current_exe().expect("this program has a name")
}

/// Sets the arguments and the environment that give this program its role.
pub fn given<'a>(command: &'a mut Command, part: &Part) -> &'a mut Command {
    let part = serde_json::to_string(part).expect("a part can be written");
    command.args(["--exact", "part::plays_its_part", "--nocapture", "--test-threads=1"]).env(VARIABLE, part)
}

/// Returns the ids in a carrier's output; each was printed after `finish` had returned.
pub fn told(stdout: &str) -> impl Iterator<Item = ReceiptId> {
    stdout.lines().filter_map(|line| line.strip_prefix("told ")?.parse().ok())
}

/// One write, so that a line is complete or missing.
pub fn tell(line: &str) {
    std::io::stdout().write_all(format!("\n{line}\n").as_bytes()).expect("somebody listens");
}

/// In a process without a role, this tests nothing.
#[test]
fn plays_its_part() {
    let Ok(part) = std::env::var(VARIABLE) else { return };
    match serde_json::from_str(&part).expect("the part is one") {
        Part::Carrier { state, bundles, destination, kill } => {
            let courier = nodes::open(&state, nodes::CARRIER);
            take_in(&courier, &bundles, kill);
            forward(&courier, destination, kill);
        }
        Part::Queue(part) => queue_killed::play(&part),
        Part::Destination { state } => receive(&nodes::open(&state, nodes::DESTINATION)),
    }
}

fn take_in(courier: &Arc<Courier>, bundles: &[u64], kill: Kill) {
    for (at, number) in bundles.iter().enumerate() {
        let mut sending = courier.begin_send(nodes::sender(), None, None).expect("there is room");
        sending.write(&nodes::bundle(*number)).expect("there is room");
        if let (Kill::Inserting { after_us }, true) = (kill, at + 1 == bundles.len()) {
            die_in(after_us);
        }
        let sent = sending.finish().expect("it can be stored");
        tell(&format!("told {}", sent.id));
    }
}

fn forward(courier: &Arc<Courier>, destination: SocketAddr, kill: Kill) {
    let runtime = nodes::runtime();
    let seen = AtomicU64::new(0);
    let forwarder = Deadly { http: nodes::http(), kill, seen: AtomicU64::new(0) };
    let tell = |event| {
        if let (Event::Forwarded { .. }, Kill::AfterCommit { after }) = (event, kill) {
            die_at(&seen, after);
        }
    };
    nodes::flush(&runtime, courier, forwarder, &nodes::destination(destination), tell);
}

/// An HTTP forwarder that may kill its own process.
struct Deadly {
    http: HttpForwarder,
    kill: Kill,
    /// Number of requests or replies.
    seen: AtomicU64,
}

impl Forwarder for Deadly {
    async fn forward(&self, parcel: OutboundBundle) -> Result<ForwardOutcome, ForwardError> {
        if let Kill::BeforeRequest { after } = self.kill {
            die_at(&self.seen, after);
        }
        let handed = self.http.forward(parcel).await;
        match self.kill {
            Kill::AtReply { after } => die_at(&self.seen, after),
            Kill::AfterReply { after_us } if self.seen.fetch_add(1, Ordering::Relaxed) == 0 => die_in(after_us),
            _ => {}
        }
        handed
    }
}

fn receive(courier: &Arc<Courier>) {
    nodes::runtime().block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a port");
        tell(&format!("listens at {}", listener.local_addr().expect("it has an address")));
        nodes::serve(listener, carrier_routes(courier.clone())).await;
    });
}

fn die_at(seen: &AtomicU64, after: u64) {
    if seen.fetch_add(1, Ordering::Relaxed) == after {
        die();
    }
}

/// Kills the process after a delay, at whatever point its other threads are then.
pub fn die_in(after_us: u64) {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_micros(after_us));
        die();
    });
}

fn die() {
    kill_process(getpid(), Signal::KILL).expect("a process can kill itself");
}
