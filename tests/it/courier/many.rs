//! Ten thousand receipts for a node that is gone, and a hundred for a node that answers.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compute_host::courier::{
    Courier, Event, FlushMode, ForwardError, ForwardOutcome, Forwarder, OutboundBundle, Peer, Settings, system_clock,
};
use compute_host::key::{NodeKey, Signer};
use compute_host::receipt::Acknowledgement;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Notify;

use super::{Side, wait_until};
use crate::common::Workplace;

const DEAD: usize = 10_000;
const LIVE: usize = 100;

/// Promised upper bound.
const WITHIN: Duration = Duration::from_secs(5);

/// Stores the receipts, many at once.
fn fill(carrier: &Side) {
    let courier =
        Courier::open(&carrier.state(), Arc::new(Signer::new(carrier.node_key())), Settings::default(), system_clock)
            .unwrap();
    let courier = Arc::new(courier);
    let send = |to: &str, number: usize| {
        let to = Some(to.parse().unwrap());
        let mut sending = courier.begin_send("alice".parse().unwrap(), to, None).unwrap();
        sending.write(&number.to_le_bytes()).unwrap();
        sending.finish().unwrap();
    };
    std::thread::scope(|scope| {
        for thread in 0..32 {
            let send = &send;
            scope.spawn(move || {
                (thread..DEAD).step_by(32).for_each(|number| send("dead", number));
                (thread..LIVE).step_by(32).for_each(|number| send("live", number));
            });
        }
    });
    assert_eq!(courier.tally().pending, (DEAD + LIVE) as u64);
}

fn sides() -> (Side, Side) {
    let (carrier, live) = (Side { here: Workplace::in_memory() }, Side { here: Workplace::in_memory() });
    live.knows("alice", &carrier.key(), "");
    (carrier, live)
}

/// Flushes, and returns the time until the last receipt of the live node was forwarded.
#[track_caller]
fn flushed(carrier: &Side, code: i32) -> Duration {
    let mut command = carrier.here.command(["compute", "courier", "flush", "--retry-for", "5s", "--json"]);
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (mut forwarded, mut took) = (0, None);
    for line in lines {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        if line["event"] == "forwarded" {
            assert_eq!(line["to"], "live");
            forwarded += 1;
            if forwarded == LIVE {
                took = Some(began.elapsed());
                if code == 130 {
                    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
                }
            }
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(code));
    took.unwrap_or_else(|| panic!("{forwarded} of {LIVE} were forwarded"))
}

#[test]
fn a_node_that_refuses_connections_does_not_hold_up_one_that_is_there() {
    let (carrier, live) = sides();
    let node = live.serve();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    carrier.knows("live", &live.key(), &node.url());
    carrier.knows("dead", &Side::new().key(), &format!("http://{gone}"));
    fill(&carrier);
    let took = flushed(&carrier, 1);
    assert!(took < WITHIN, "{took:?}");
    assert_eq!((node.count("courier_received"), carrier.credit()), (LIVE as u64, (LIVE as u64, LIVE as u64)));
    let tried = carrier.json("list").iter().filter(|receipt| receipt["attempts"] != 0).count();
    assert_eq!(carrier.ids("--pending").len(), DEAD);
    assert!((1..100).contains(&tried), "the dead one was probed, not flooded: {tried}");
}

/// Accepts connections and never answers.
fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let _held: Vec<TcpStream> = listener.incoming().map_while(Result::ok).collect();
    });
    address
}

#[test]
fn a_node_that_never_answers_does_not_hold_up_one_that_is_there() {
    let (carrier, live) = sides();
    let node = live.serve();
    carrier.knows("live", &live.key(), &node.url());
    carrier.knows("dead", &Side::new().key(), &silent());
    fill(&carrier);
    let took = flushed(&carrier, 130);
    assert!(took < WITHIN, "{took:?}");
    assert_eq!((node.count("courier_received"), carrier.ids("--pending").len()), (LIVE as u64, DEAD));
}

#[test]
fn nor_where_the_running_node_forwards() {
    let (carrier, live) = (Side::new(), Side::new());
    live.knows("alice", &carrier.key(), "");
    let node = live.serve();
    carrier.knows("live", &live.key(), &node.url());
    carrier.knows("dead", &Side::new().key(), &silent());
    let carrying = carrier.serve();
    carrier.send(b"for the dead", "alice --to dead");
    // An attempt to the silent node is under way, and will be for half a minute.
    wait_until("the try to begin", || carrier.json("list").len() == 1);
    let began = Instant::now();
    carrier.send(b"for the living", "alice --to live");
    wait_until("the live one to have it", || node.count("courier_received") == 1);
    assert!(began.elapsed() < WITHIN, "{:?}", began.elapsed());
    carrier.send(b"and another", "alice --to live");
    wait_until("the live one to have it", || node.count("courier_received") == 2);
    assert!(began.elapsed() < 2 * WITHIN, "{:?}", began.elapsed());
    assert_eq!(carrying.stop(), 0);
}

/// A destination in the same process.
struct Near(NodeKey);

impl Forwarder for Near {
    async fn forward(&self, parcel: OutboundBundle) -> Result<ForwardOutcome, ForwardError> {
        Ok(ForwardOutcome::Acknowledged(Acknowledgement::sign(parcel.delivery, 1, &self.0).to_bytes()))
    }
}

/// Delivered bundles are archived when nothing is left to forward; an interrupted flush does not
/// wait for that.
#[test]
fn what_was_forwarded_is_put_away_when_a_flush_is_done_and_not_where_it_is_interrupted() {
    let carrier = Side::new();
    let signer = Arc::new(Signer::new(carrier.node_key()));
    let courier = Arc::new(Courier::open(&carrier.state(), signer, Settings::default(), system_clock).unwrap());
    for number in 0..100_u8 {
        let mut sending = courier.begin_send("alice".parse().unwrap(), None, None).unwrap();
        sending.write(&[number]).unwrap();
        sending.finish().unwrap();
    }
    let near = || NodeKey::from_secret([2; 32]);
    let peer = Peer { name: "bob".parse().unwrap(), public_key: near().public(), address: None };
    let flush = |stop_after: u64| {
        let (stop, forwarded) = (Notify::new(), Cell::new(0));
        let tell = |event| {
            forwarded.set(forwarded.get() + u64::from(matches!(event, Event::Forwarded { .. })));
            if forwarded.get() >= stop_after {
                stop.notify_one();
            }
        };
        let mode = FlushMode::All { retry_for: Duration::ZERO };
        let flush = courier.flush(Arc::new(Near(near())), mode, |_| Ok(Some(peer.clone())), tell, stop.notified());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        (runtime.block_on(flush).unwrap(), courier.tally())
    };
    let (summary, tally) = flush(10);
    assert!(summary.interrupted && summary.forwarded >= 10 && summary.pending > 0, "{summary:?}");
    assert_eq!(tally.unarchived, tally.credited, "they wait, and so do their bundles");
    assert_eq!(carrier.files("bundles", "bundle").len(), 100);
    let (summary, tally) = flush(u64::MAX);
    assert!(!summary.interrupted && summary.pending == 0, "{summary:?}");
    assert_eq!((tally.credited, tally.unarchived), (100, 0));
    assert_eq!(carrier.files("bundles", ""), Vec::<PathBuf>::new());
    drop(courier);
    assert_eq!(carrier.ids("--acked").len(), 100);
}
