//! Courier of a serving node: its start, its own work, and its shutdown.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use compute_host::key::NodeKey;
use rustix::process::Signal;

use super::proxy::{Fault, Forger, Proxy};
use super::wire::{Message, delivery, request};
use super::{PATIENCE, Serving, Side, wait_until};

#[test]
fn the_node_forwards_by_itself_what_is_due() {
    let (carrier, destination) = Side::pair("");
    let node = destination.serve();
    carrier.knows("bob", &destination.key(), &node.url());
    let before = carrier.send(b"before it started", "alice");
    let carrying = carrier.serve();
    wait_until("what was pending to be forwarded", || node.count("courier_received") == 1);
    let after = carrier.send(b"while it runs", "alice");
    wait_until("what is new to be forwarded", || node.count("courier_received") == 2);
    wait_until("both to be credited", || carrying.count("courier_credited_total") == 2);
    assert_eq!(carrier.ids("--acked"), [before, after]);
    assert_eq!(carrying.count("courier_attempt_duration_seconds_count"), 2);
}

#[test]
fn a_peer_that_is_added_or_moves_has_what_waits_for_it() {
    let (carrier, destination) = Side::pair("");
    let (node, carrying) = (destination.serve(), carrier.serve());
    carrier.send(b"bundle", "alice");
    let flushed = carrier.run("flush --retry-for 0s");
    assert!(flushed.code == 1 && flushed.stderr.contains("peer add bob"), "{flushed:?}");
    assert_eq!(carrying.count("courier_flush_attempt_total"), 0, "nothing can be tried");
    carrier.knows("bob", &destination.key(), &node.url());
    wait_until("it to be forwarded", || node.count("courier_received") == 1);
}

#[test]
fn what_fails_is_tried_again_by_the_node_and_credited_once() {
    let (carrier, destination) = Side::pair("");
    let node = destination.serve();
    let proxy = Proxy::before(node.address, Forger { destination: destination.node_key() });
    carrier.knows("bob", &destination.key(), &format!("http://{}", proxy.address));
    proxy.set(Fault::DropReply);
    let carrying = carrier.serve();
    carrier.send(b"bundle", "alice");
    wait_until("two tries", || carrying.count("courier_flush_failure_total") >= 2);
    proxy.set(Fault::None);
    wait_until("the credit", || carrying.count("courier_credited_total") == 1);
    let counters = carrying.counters();
    assert_eq!((counters.attempts, counters.invalid), (counters.failures + 1, 0));
    assert_eq!(carrying.stop(), 0);
    assert_eq!((carrier.counters(), carrier.credit()), (counters, (1, 1)));
    assert_eq!(destination.received().len(), 1);
}

#[test]
fn a_second_node_on_the_directory_waits_and_another_port_that_is_taken_is_an_error() {
    let side = Side::new();
    let first = side.serve();
    let taken = Side::new().here.run(&format!("serve --listen {}", first.address));
    assert_eq!((taken.code, &*taken.stdout), (2, ""));
    assert!(taken.stderr.contains(&format!("cannot listen on {}", first.address)), "{taken:?}");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| side.serve());
        assert_eq!(first.stop(), 0);
        assert_eq!(second.join().unwrap().stop(), 0);
    });
}

#[test]
fn a_socket_that_a_killed_node_left_behind_is_in_nobodys_way() {
    let side = Side::new();
    let mut node = side.serve();
    let id = side.send(b"bundle", "alice");
    node.child.kill().unwrap();
    node.child.wait().unwrap();
    assert!(side.state().join("node.sock").exists());
    assert_eq!(side.ids("--pending"), [&*id], "without the node it is looked up by the command itself");
    let node = side.serve();
    assert_eq!(side.ids("--pending"), [&*id]);
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_directory_with_a_very_long_path_has_a_socket_too() {
    let side = Side::new();
    let deep = format!("{}/{}/data", "d".repeat(200), "e".repeat(200));
    let data = side.here.path(deep);
    let data = data.to_str().unwrap();
    let node = Serving::start(side.here.command(["--data-dir", data, "serve", "--listen", "127.0.0.1:0"]));
    side.here.file("bundle.bin", "bundle");
    side.here.run(&format!("--data-dir {data} compute courier send bundle.bin alice")).output();
    assert_eq!(node.count("courier_pending"), 1, "it went through the node");
    assert_eq!(node.stop(), 0);
}

#[test]
fn what_is_being_received_when_the_node_is_to_end_is_received() {
    let (destination, key) = (Side::new(), NodeKey::from_secret([5; NodeKey::BYTES]));
    destination.knows("alice", &key.public().to_string(), "");
    let mut node = destination.serve();
    let bundle = crate::common::noise(2, 100_000);
    let bytes = request(&bundle, &delivery(&bundle, &key, destination.key().parse().unwrap()), &key);
    let mut stream = TcpStream::connect(node.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&bytes[..50_000]).unwrap();
    wait_until("it to begin", || !destination.staged().is_empty());
    node.signal(Signal::TERM);
    wait_until("the node to take no more", || TcpStream::connect(node.address).is_err());
    stream.write_all(&bytes[50_000..]).unwrap();
    assert_eq!(Message::read(&mut stream).unwrap().status(), 201);
    assert_eq!(node.ended(), 0);
    assert!(std::fs::read(&destination.received()[0]).unwrap() == bundle);
}

#[test]
fn a_second_signal_ends_the_node_at_once() {
    let (destination, key) = (Side::new(), NodeKey::from_secret([5; NodeKey::BYTES]));
    destination.knows("alice", &key.public().to_string(), "");
    let mut node = destination.serve();
    let bytes = request(b"bundle", &delivery(b"bundle", &key, destination.key().parse().unwrap()), &key);
    let mut stream = TcpStream::connect(node.address).unwrap();
    stream.write_all(&bytes[..bytes.len() - 1]).unwrap();
    wait_until("it to begin", || !destination.staged().is_empty());
    node.signal(Signal::INT);
    wait_until("the node to take no more", || TcpStream::connect(node.address).is_err());
    assert!(node.child.try_wait().unwrap().is_none(), "it waits for what is under way");
    node.signal(Signal::TERM);
    assert_eq!(node.ended(), 130);
    assert_eq!(destination.ids("--received"), Vec::<String>::new());
    assert!(destination.staged().is_empty());
}

#[test]
fn a_node_that_is_to_end_does_not_wait_for_one_that_never_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    for through_the_node in [false, true] {
        let (carrier, destination) = Side::pair("timeout_ms = 600000");
        carrier.knows("bob", &destination.key(), &address);
        let mut carrying = carrier.serve();
        let id = carrier.send(b"bundle", "alice");
        let (held, _) = silent.accept().unwrap();
        let began = Instant::now();
        if through_the_node {
            // A flush that starts after the node has ended would run in its own process, for up to
            // the whole hour.
            let mut flush = carrier.asked_of_the_node("flush --retry-for 1h");
            // Later bundles must not delay the shutdown either.
            carrier.send(b"another", "alice");
            carrying.signal(Signal::TERM);
            assert_eq!(carrying.ended(), 0);
            assert_ne!(flush.wait().unwrap().code(), Some(0));
        } else {
            carrying.signal(Signal::TERM);
            assert_eq!(carrying.ended(), 0);
        }
        assert!(began.elapsed() < PATIENCE);
        drop(held);
        assert!(carrier.ids("--pending").contains(&id));
        assert_eq!(carrier.credit(), (0, 0));
    }
}

#[test]
fn a_command_that_is_interrupted_has_the_node_give_up_its_flush() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (carrier, destination) = Side::pair("timeout_ms = 600000");
    carrier.knows("bob", &destination.key(), &format!("http://{}", silent.local_addr().unwrap()));
    let id = carrier.send(b"bundle", "alice");
    for with_node in [false, true] {
        let carrying = with_node.then(|| carrier.serve());
        let _held = with_node.then(|| silent.accept().unwrap());
        let mut flush = carrier.here.command(["compute", "courier", "flush"]).spawn().unwrap();
        if !with_node {
            drop(silent.accept().unwrap());
        }
        let _ = carrying.as_ref().map(|node| node.count("courier_pending"));
        rustix::process::kill_process(rustix::process::Pid::from_child(&flush), Signal::INT).unwrap();
        let code = flush.wait().unwrap().code();
        assert!(matches!(code, Some(130 | 1) | None), "{code:?}");
        assert_eq!(carrier.ids("--pending"), [&*id]);
    }
}
