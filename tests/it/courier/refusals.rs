//! Refused deliveries: what a node refuses, from whom, and its answers.

use std::io::Write as _;
use std::net::TcpStream;

use compute_host::key::NodeKey;
use compute_host::receipt::Delivery;

use super::proxy::{Fault, Forger, Proxy};
use super::wire::{Message, blob, delivery, exchange, request};
use super::{Serving, Side, wait_until};

/// Starts a node with these settings that knows one carrier, and returns the carrier's key.
fn node(settings: &str) -> (Side, Serving, NodeKey) {
    let (destination, key) = (Side::with(settings), NodeKey::from_secret([5; NodeKey::BYTES]));
    destination.knows("alice", &key.public().to_string(), "");
    let node = destination.serve();
    (destination, node, key)
}

#[track_caller]
fn refused(answer: &Message, status: u16, code: &str) {
    assert_eq!((answer.status(), &*answer.code()), (status, code), "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&problem["type"], &problem["status"]), (&"about:blank".into(), &status.into()));
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    assert_eq!(answer.headers.contains_key("retry-after"), matches!(status, 429 | 503), "{:?}", answer.headers);
}

/// Asserts that nothing was stored.
#[track_caller]
fn is_empty(destination: &Side, node: &Serving) {
    assert_eq!((node.count("courier_received"), node.count("courier_received_bytes")), (0, 0));
    assert_eq!((destination.files("received", ""), destination.staged()), (vec![], vec![]));
}

/// The bundle was admitted under a key that was retired before its last byte arrived.
#[test]
fn what_is_for_a_key_that_has_been_retired_is_not_acknowledged_by_another() {
    let (destination, node, key) = node("");
    let former = delivery(b"bundle", &key, destination.key().parse().unwrap());
    let request = request(b"bundle", &former, &key);
    let mut stream = TcpStream::connect(node.address).unwrap();
    stream.write_all(&request[..request.len() - 3]).unwrap();
    wait_until("the bundle is being received", || !destination.staged().is_empty());
    destination.here.run("key rotate").output();
    stream.write_all(&request[request.len() - 3..]).unwrap();
    refused(&Message::read(&mut stream).unwrap(), 422, "not_for_this_node");
    is_empty(&destination, &node);
    let current = Delivery { destination: destination.key().parse().unwrap(), ..former };
    let answer = exchange(node.address, &super::wire::request(b"bundle", &current, &key)).unwrap();
    assert_eq!(answer.status(), 201, "{answer:?}");
}

#[test]
fn a_delivery_is_taken_only_from_who_may_and_only_as_it_was_signed() {
    let (destination, node, key) = node("bundle_bytes_max = 1000");
    let stranger = NodeKey::from_secret([6; NodeKey::BYTES]);
    let this = destination.key().parse().unwrap();
    let good = delivery(b"bundle", &key, this);
    let send = |delivery: &Delivery, key: &NodeKey| exchange(node.address, &request(b"bundle", delivery, key)).unwrap();
    refused(&send(&delivery(b"bundle", &stranger, this), &stranger), 403, "unknown_carrier");
    refused(&send(&good, &stranger), 403, "wrong_signature");
    let other = delivery(b"bundle", &key, stranger.public());
    refused(&send(&other, &key), 422, "not_for_this_node");
    let expired = Delivery { expires_ms: good.expires_ms - 7_200_000, ..good.clone() };
    let answer = send(&expired, &key);
    refused(&answer, 410, "expired");
    assert!(String::from_utf8_lossy(&answer.body).contains("by this node's clock"), "{answer:?}");
    let large = Delivery { bundle: blob(&[7; 1001]), ..good.clone() };
    refused(&exchange(node.address, &request(&[7; 1001], &large, &key)).unwrap(), 413, "too_large");
    let wrong = Delivery { bundle: blob(b"bundlf"), ..good.clone() };
    refused(&send(&wrong, &key), 422, "wrong_digest");
    for hops in ["0", "33", "256", "-1"] {
        let mut headers = super::wire::headers(&good, &key);
        headers.iter_mut().for_each(|(name, value)| {
            if *name == "courier-hops" {
                *value = hops.to_owned()
            }
        });
        let bytes = [super::wire::head(&headers), b"bundle".to_vec()].concat();
        refused(&exchange(node.address, &bytes).unwrap(), 422, "malformed");
    }
    // Each field is signed.
    let changes: [fn(&mut Delivery); 5] = [
        |delivery| delivery.receipt = [1; 16].into(),
        |delivery| delivery.sender = "mallory".parse().unwrap(),
        |delivery| delivery.hops = 2,
        |delivery| delivery.expires_ms += 1,
        |delivery| delivery.bundle = blob(b"bundlf"),
    ];
    for change in changes {
        let mut changed = good.clone();
        change(&mut changed);
        let mut headers = super::wire::headers(&changed, &key);
        headers.pop();
        headers.push(("courier-signature", good.sign(&key).to_string()));
        let bytes = [super::wire::head(&headers), b"bundle".to_vec()].concat();
        refused(&exchange(node.address, &bytes).unwrap(), 403, "wrong_signature");
    }
    is_empty(&destination, &node);
    assert_eq!(send(&good, &key).status(), 201);
    let other = Delivery { bundle: blob(b"other"), ..good.clone() };
    refused(&exchange(node.address, &request(b"other", &other, &key)).unwrap(), 409, "conflict");
    assert_eq!(destination.received().len(), 1);
    assert_eq!(send(&good, &key).status(), 200);
}

#[test]
fn a_full_node_says_so_and_evicts_nothing() {
    // A tenth of a carrier's quota stays free for others.
    let settings = [("received_max = 3", 2), ("received_bytes_max = 25", 2), ("received_bytes_max = 23", 2)];
    for (setting, room) in settings {
        let (destination, node, key) = node(setting);
        let this = destination.key().parse().unwrap();
        let send = |number: u8| {
            let bundle = [number; 10];
            exchange(node.address, &request(&bundle, &delivery(&bundle, &key, this), &key)).unwrap()
        };
        for number in 0..room {
            assert_eq!(send(number).status(), 201, "{setting}");
        }
        for number in room..room + 3 {
            refused(&send(number), 503, "quota_full");
        }
        assert_eq!(send(0).status(), 200, "what is here is still acknowledged");
        let here = destination.ids("--received");
        assert_eq!(here.len(), usize::from(room), "{setting}");
        assert!(destination.staged().is_empty());
        destination.run(&format!("drop {}", here[0])).output();
        assert_eq!(send(room).status(), 201, "{setting}: where something was dropped there is room");
        assert_eq!(send(0).status(), 200, "and what was dropped is acknowledged still");
        assert_eq!(destination.files("received", "bundle").len(), usize::from(room));
    }
}

#[test]
fn a_carrier_whose_bundle_is_refused_knows_why() {
    let (carrier, destination) = Side::pair("");
    destination.set("bundle_bytes_max = 1000000\nreceived_max = 3");
    let node = destination.serve();
    carrier.knows("bob", &destination.key(), &node.url());
    // The carrier has sent much of the bundle when the answer arrives.
    let large = carrier.send(&crate::common::noise(3, 20 << 20), "alice");
    let ran = carrier.run("flush --retry-for 0s");
    assert_eq!((ran.code, carrier.ids("--dead")), (1, vec![large.clone()]), "{ran:?}");
    assert!(ran.stderr.contains("the bundle has 20971520 bytes, and 1000000 are taken"), "{ran:?}");
    assert!(carrier.run("list --dead").stdout.contains("(too_large)"));
    carrier.run(&format!("drop {large}")).output();

    let ids = [b"one", b"two", b"333"].map(|bundle| carrier.send(bundle, "alice"));
    let ran = carrier.run("flush --retry-for 0s");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("(quota_full)"), "{ran:?}");
    assert_eq!((carrier.ids("--pending").len(), carrier.ids("--acked").len(), carrier.ids("--dead").len()), (1, 2, 0));
    let due_ms = carrier.json("list")[0]["due_ms"].as_u64().unwrap();
    assert!(due_ms >= compute_host::courier::system_clock() + 50_000, "the node has asked for a minute");
    destination.run(&format!("drop {}", destination.ids("--received")[0])).output();
    carrier.run("flush --retry-for 0s").output();
    let mut acked = carrier.ids("--acked");
    acked.sort();
    let mut ids = ids.to_vec();
    ids.sort();
    assert_eq!(acked, ids);

    destination.run("peer remove alice").output();
    let unknown = carrier.send(b"unknown", "alice");
    let ran = carrier.run("flush --retry-for 0s");
    assert!(ran.code == 1 && ran.stderr.contains("(unknown_carrier)"), "{ran:?}");
    assert_eq!(carrier.ids("--pending"), [&*unknown], "its owner may add the carrier");
    destination.knows("alice", &carrier.key(), "");
    destination.run(&format!("drop {}", destination.ids("--received")[0])).output();
    carrier.run("flush --retry-for 0s").output();
}

#[test]
fn a_flush_exits_1_for_as_long_as_anything_is_dead() {
    let (carrier, destination) = Side::pair("");
    destination.set("bundle_bytes_max = 10");
    let node = destination.serve();
    carrier.knows("bob", &destination.key(), &node.url());
    let dead = carrier.send(b"more than ten bytes", "alice");
    assert_eq!(carrier.run("flush --retry-for 0s").code, 1);
    assert_eq!(carrier.ids("--dead"), [&*dead]);
    carrier.send(b"less", "alice");
    let ran = carrier.run("flush --retry-for 0s");
    assert!(ran.code == 1 && ran.stdout.contains("1 given up before"), "{ran:?}");
    assert_eq!((carrier.ids("--pending").len(), carrier.ids("--acked").len()), (0, 1));
    carrier.run(&format!("drop {dead}")).output();
    assert_eq!(carrier.run("flush --retry-for 0s").code, 0);
}

/// The acknowledgement of the first bundle is lost, then the destination's key is rotated.
#[test]
fn bundles_wait_until_a_rotation_is_followed_and_then_all_arrive_once() {
    let (carrier, destination) = Side::pair("");
    let node = destination.serve();
    let proxy = Proxy::before(node.address, Forger { destination: destination.node_key() });
    carrier.knows("bob", &destination.key(), &format!("http://{}", proxy.address));
    let first = carrier.send(b"first", "alice");
    proxy.set(Fault::DropReply);
    assert_eq!(carrier.run("flush --retry-for 0s").code, 1);
    proxy.set(Fault::None);
    let former = destination.key();
    destination.here.run("key rotate").output();
    let second = carrier.send(b"second", "alice");
    let ran = carrier.run("flush --retry-for 0s");
    assert!(ran.code == 1 && ran.stderr.contains("(not_for_this_node)"), "{ran:?}");
    assert_eq!((carrier.ids("--pending").len(), carrier.ids("--dead").len()), (2, 0));

    let statement = destination.state().join(format!("keys/retired/{former}.rotation"));
    let forged = std::fs::read_to_string(&statement).unwrap().replacen("retired 1", "retired 2", 1);
    carrier.here.file("forged", forged);
    assert_eq!(carrier.run("peer follow forged").code, 2);
    let followed = carrier.run(&format!("peer follow {}", statement.display())).output();
    assert!(followed.contains(&destination.key()) && followed.contains("bob"), "{followed}");
    carrier.run("flush --retry-for 0s").output();
    let (mut acked, mut expected) = (carrier.ids("--acked"), vec![first, second]);
    acked.sort();
    expected.sort();
    assert_eq!((acked, destination.received().len()), (expected, 2));
    assert_eq!(carrier.credit(), (2, 2));
}

/// A carrier that has used its whole quota leaves space for another carrier, also after a restart.
#[test]
fn one_carriers_bundles_leave_room_for_anothers() {
    for setting in ["received_max = 20", "received_bytes_max = 200"] {
        let (destination, mallory) = (Side::with(setting), NodeKey::from_secret([5; NodeKey::BYTES]));
        destination.knows("mallory", &mallory.public().to_string(), "");
        let carl = NodeKey::from_secret([6; NodeKey::BYTES]);
        destination.knows("carl", &carl.public().to_string(), "");
        let this = destination.key().parse().unwrap();
        let send = |node: &Serving, key: &NodeKey, number: u8| {
            let bundle = [number; 10];
            exchange(node.address, &request(&bundle, &delivery(&bundle, key, this), key)).unwrap()
        };
        let node = destination.serve();
        let taken = (0..20).take_while(|number| send(&node, &mallory, *number).status() == 201).count();
        assert_eq!(taken, 18, "{setting}");
        refused(&send(&node, &mallory, 30), 503, "quota_full");
        assert_eq!(send(&node, &carl, 31).status(), 201, "{setting}");
        assert_eq!(node.stop(), 0);
        let node = destination.serve();
        refused(&send(&node, &mallory, 30), 503, "quota_full");
        let line = destination.json("list --received").remove(0);
        destination.run(&format!("drop {}", line["id"].as_str().unwrap())).output();
        destination.run(&format!("drop {}", destination.ids("--received")[0])).output();
        assert_eq!(send(&node, &mallory, 30).status(), 201, "{setting}: what was dropped is free");
    }
}

/// A carrier whose clock was never set, as on machines that carry removable media.
#[test]
fn a_carrier_without_a_clock_is_heard_and_its_bundle_taken_once() {
    let (destination, node, key) = node("");
    let delivery = Delivery { expires_ms: 700_000, ..delivery(b"bundle", &key, destination.key().parse().unwrap()) };
    let send = || exchange(node.address, &request(b"bundle", &delivery, &key)).unwrap().status();
    assert_eq!((send(), send()), (201, 200));
    destination.run(&format!("drop {}", destination.ids("--received")[0])).output();
    let other = Delivery { receipt: [1; 16].into(), ..delivery.clone() };
    assert_eq!(exchange(node.address, &request(b"bundle", &other, &key)).unwrap().status(), 201);
    assert_eq!(send(), 200, "what was dropped is remembered");
}

#[test]
fn a_receipt_that_has_expired_is_given_up_and_can_be_given_more_time() {
    let (carrier, destination) = Side::pair("");
    let node = destination.serve();
    carrier.knows("bob", &destination.key(), &node.url());
    let id = carrier.send(b"bundle", "alice --expires 1ms");
    let ran = carrier.run("flush --retry-for 0s");
    assert!(ran.code == 1 && ran.stderr.contains("it has expired"), "{ran:?}");
    assert_eq!((carrier.ids("--dead"), node.count("courier_received")), (vec![id.clone()], 0));
    let receipt = carrier.json(&format!("show {id}")).remove(0);
    assert_eq!((&receipt["state"], &receipt["attempts"]), (&"dead".into(), &0.into()));
    assert_eq!(carrier.files("bundles", "bundle").len(), 1, "its bytes are kept");
    carrier.run(&format!("retry {id}")).output();
    carrier.run("flush --retry-for 0s").output();
    assert_eq!(carrier.ids("--acked"), [id]);
    let ran = carrier.run("send bundle.bin alice --expires 0s");
    assert_eq!(ran.code, 2, "{ran:?}");
}

#[test]
fn a_carrier_that_is_full_takes_nothing_more() {
    for setting in ["pending_max = 2", "pending_bytes_max = 25"] {
        let carrier = Side::with(setting);
        let ids = [[1; 10], [2; 10]].map(|bundle| carrier.send(&bundle, "alice"));
        carrier.here.file("more.bin", [3; 10]);
        let ran = carrier.run("send more.bin alice");
        assert!(ran.code == 2 && ran.stdout.is_empty() && ran.stderr.contains("pending"), "{ran:?}");
        assert_eq!((carrier.ids("--pending"), carrier.staged().len()), (ids.to_vec(), 0));
        assert_eq!(carrier.files("bundles", "bundle").len(), 2);
        carrier.run(&format!("drop {}", ids[0])).output();
        carrier.run("send more.bin alice").output();
        assert_eq!(carrier.ids("--pending").len(), 2);
    }
    let carrier = Side::with("bundle_bytes_max = 1000");
    carrier.here.file("large.bin", [7; 1001]);
    let ran = carrier.run("send large.bin alice");
    assert!(ran.code == 2 && ran.stderr.contains("1000"), "{ran:?}");
    assert_eq!((carrier.files("bundles", "bundle").len(), carrier.staged().len()), (0, 0));
}
