//! Faulty answers of a destination: unless the answer is the destination's own acknowledgement of
//! this delivery, nothing is acknowledged or credited, and the attempt is counted under its cause.
//! When the fault is gone, the bundle arrives and is credited once.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use compute_host::key::NodeKey;
use compute_host::proof::Blob;
use compute_host::receipt::{Acknowledgement, Delivery, SignedRefusal};

use super::proxy::{Fault, Forger, Proxy, answer};
use super::wire::{Message, blob};
use super::{Counters, Serving, Side};

/// Expected result of one attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Becomes {
    Pending,
    /// Pending, and the answer counts as an invalid acknowledgement.
    PendingInvalid,
    Dead,
}

use Becomes::{Dead, Pending, PendingInvalid};

struct Place {
    carrier: Side,
    destination: Side,
    _node: Serving,
    proxy: Proxy,
}

fn place() -> Place {
    let (carrier, destination) = Side::pair("timeout_ms = 1500");
    let node = destination.serve();
    let proxy = Proxy::before(node.address, Forger { destination: destination.node_key() });
    carrier.knows("bob", &destination.key(), &format!("http://{}", proxy.address));
    Place { carrier, destination, _node: node, proxy }
}

/// Runs one attempt against each fault in turn, each with its own receipt, and then without the
/// fault.
#[track_caller]
fn meets(faults: Vec<(&'static str, Fault, Becomes)>) {
    let Place { carrier, destination, _node, proxy } = place();
    let (mut attempts, mut failures, mut invalid) = (0, 0, 0);
    for (number, (name, fault, becomes)) in (1..).zip(faults) {
        let before = carrier.credit();
        let bundle = format!("a bundle that meets {name}");
        let id = carrier.send(bundle.as_bytes(), "alice");
        let drops = matches!(fault, Fault::DropRequest);
        let requests = proxy.requests();
        proxy.set(fault);
        let ran = carrier.run("flush --retry-for 0s");
        assert_eq!(ran.code, 1, "{name}: {ran:?}");
        assert!(ran.stderr.contains(&id) && !ran.stdout.contains(&id), "{name}: {ran:?}");
        assert!(drops || proxy.requests() == requests + 1, "{name}: one try is one request");
        let kept = [carrier.ids("--pending"), carrier.ids("--dead")];
        let expected = if becomes == Dead { [vec![], vec![id.clone()]] } else { [vec![id.clone()], vec![]] };
        assert_eq!(kept, expected, "{name}: {ran:?}");
        assert_eq!(carrier.credit(), before, "{name}");
        assert_eq!(carrier.ids("--acked").len() as u64, before.1, "{name}");
        let receipt = carrier.json(&format!("show {id}")).remove(0);
        assert_eq!((&receipt["attempts"], receipt["last_error"].is_string()), (&1.into(), true), "{name}: {receipt}");
        (attempts, failures, invalid) = (attempts + 1, failures + 1, invalid + u64::from(becomes == PendingInvalid));
        assert_eq!(carrier.counters(), Counters { attempts, failures, invalid }, "{name}: {ran:?}");

        proxy.set(Fault::None);
        if becomes == Dead {
            assert_eq!(carrier.run("flush --retry-for 0s").code, 1, "{name}: what is dead is said, and not tried");
            assert_eq!(proxy.requests(), requests + 1, "{name}");
            carrier.run(&format!("retry {id}")).output();
        }
        let ran = carrier.run("flush --retry-for 0s");
        assert_eq!(ran.code, 0, "{name}: {ran:?}");
        attempts += 1;
        assert_eq!(carrier.counters(), Counters { attempts, failures, invalid }, "{name}");
        assert_eq!(carrier.credit(), (number, number), "{name}");
        let received = destination.received();
        assert_eq!(received.len() as u64, number, "{name}: one bundle");
        let arrived = received.iter().filter(|path| std::fs::read(path).unwrap() == bundle.as_bytes());
        assert_eq!(arrived.count(), 1, "{name}");
    }
}

#[test]
fn an_exchange_that_breaks_off_is_tried_again() {
    meets(vec![
        ("a request that is dropped", Fault::DropRequest, Pending),
        ("an answer that is dropped", Fault::DropReply, Pending),
        ("silence", Fault::Silence, Pending),
        ("an answer at one byte a second", Fault::Slowly(answer("200 OK", "", &[7; 300])), Pending),
        ("an answer that is no HTTP", Fault::Answer(b"220 mail.example.org ESMTP\r\n\r\n".to_vec()), Pending),
        ("an answer that ends in its middle", Fault::Change(|answer| cut(&answer, 0)), Pending),
    ]);
}

#[test]
fn a_refusal_that_no_key_has_signed_may_be_anybodys_and_is_tried_again() {
    let statuses = [
        "400 Bad Request",
        "403 Forbidden",
        "404 Not Found",
        "408 Request Timeout",
        "409 Conflict",
        "410 Gone",
        "413 Content Too Large",
        "418 I'm a teapot",
        "422 Unprocessable Content",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "503 Service Unavailable",
    ];
    let page =
        |status: &&'static str| (*status, Fault::Answer(answer(status, "", b"<html>please log in</html>")), Pending);
    meets(statuses.iter().map(page).collect());
    let reason = br#"{"code":"too_large","detail":"it is so","refusal":"Q09VUklSRUY="}"#;
    let node = |status: &&'static str| (*status, Fault::Answer(answer(status, "", reason)), Pending);
    meets(statuses.iter().map(node).collect());
}

#[test]
fn only_the_pinned_keys_refusal_of_this_very_delivery_is_final() {
    fn refused(request: &Message, key: &NodeKey, code: &str, change: fn(&mut Delivery)) -> Vec<u8> {
        let mut delivery = request.delivery();
        change(&mut delivery);
        let signed = SignedRefusal::sign(delivery, 1_700_000_000_000, code, key).to_bytes();
        let problem = serde_json::json!({ "code": code, "refusal": BASE64_STANDARD.encode(signed) });
        answer("410 Gone", "", problem.to_string().as_bytes())
    }
    fn stranger() -> NodeKey {
        NodeKey::from_secret([9; NodeKey::BYTES])
    }
    meets(vec![
        (
            "the pinned key",
            Fault::Forge(|request, forger| refused(request, &forger.destination, "conflict", |_| {})),
            Dead,
        ),
        (
            "the pinned key, whose clock is ahead",
            Fault::Forge(|request, forger| refused(request, &forger.destination, "expired", |_| {})),
            Pending,
        ),
        ("a stranger's key", Fault::Forge(|request, _| refused(request, &stranger(), "conflict", |_| {})), Pending),
        (
            "a stranger who names himself",
            Fault::Forge(|request, _| {
                refused(request, &stranger(), "conflict", |delivery| delivery.destination = stranger().public())
            }),
            Pending,
        ),
        (
            "the refusal of another bundle",
            Fault::Forge(|request, forger| {
                refused(request, &forger.destination, "conflict", |delivery| delivery.bundle = blob(b"another"))
            }),
            Pending,
        ),
        (
            "the refusal of an earlier delivery",
            Fault::Forge(|request, forger| {
                refused(request, &forger.destination, "too_large", |delivery| delivery.expires_ms -= 1)
            }),
            Pending,
        ),
        (
            "an acknowledgement in its place",
            Fault::Forge(|request, forger| {
                let signed = Acknowledgement::sign(request.delivery(), 1, &forger.destination).to_bytes();
                let problem = serde_json::json!({ "code": "conflict", "refusal": BASE64_STANDARD.encode(signed) });
                answer("409 Conflict", "", problem.to_string().as_bytes())
            }),
            Pending,
        ),
    ]);
}

#[test]
fn a_redirect_is_not_followed() {
    let lure = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    lure.set_nonblocking(true).unwrap();
    let to = format!("location: http://{}/v1/courier/bundles\r\n", lure.local_addr().unwrap());
    let statuses = ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"];
    meets(statuses.map(|status| (status, Fault::Answer(answer(status, &to, b"")), Pending)).into());
    assert!(lure.accept().is_err(), "nobody has come");
}

#[test]
fn what_is_no_acknowledgement_is_counted_as_that() {
    let said = |body: &[u8]| Fault::Answer(answer("200 OK", "", body));
    meets(vec![
        ("200 with nothing", said(b""), PendingInvalid),
        ("200 with garbage", said(b"<html>thank you</html>"), PendingInvalid),
        ("200 with much garbage", said(&[7; 100_000]), PendingInvalid),
        ("201 with nothing", Fault::Answer(answer("201 Created", "", b"")), PendingInvalid),
        ("202 with nothing", Fault::Answer(answer("202 Accepted", "", b"")), PendingInvalid),
        ("204", Fault::Answer(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()), PendingInvalid),
        (
            "an acknowledgement with 202",
            Fault::Change(|mut answer| {
                answer.start = "HTTP/1.1 202 Accepted".to_owned();
                answer.to_bytes()
            }),
            PendingInvalid,
        ),
        (
            "an acknowledgement that is cut short",
            Fault::Change(|mut answer| {
                answer.body.pop();
                whole(answer)
            }),
            PendingInvalid,
        ),
        (
            "an acknowledgement that goes on",
            Fault::Change(|mut answer| {
                answer.body.push(0);
                whole(answer)
            }),
            PendingInvalid,
        ),
        (
            "an acknowledgement with a bit flipped",
            Fault::Change(|mut answer| {
                answer.body[30] ^= 1;
                whole(answer)
            }),
            PendingInvalid,
        ),
    ]);
}

#[test]
fn an_acknowledgement_of_something_else_or_by_another_key_is_none() {
    fn forged(request: &Message, forger: &Forger, change: fn(&mut Delivery)) -> Vec<u8> {
        let mut delivery = request.delivery();
        change(&mut delivery);
        answer("201 Created", "", &Acknowledgement::sign(delivery, 1_700_000_000_000, &forger.destination).to_bytes())
    }
    fn by_a_stranger(request: &Message, names_itself: bool) -> Vec<u8> {
        let stranger = NodeKey::from_secret([9; NodeKey::BYTES]);
        let mut delivery = request.delivery();
        if names_itself {
            delivery.destination = stranger.public();
        }
        answer("201 Created", "", &Acknowledgement::sign(delivery, 1_700_000_000_000, &stranger).to_bytes())
    }
    meets(vec![
        ("a stranger's key", Fault::Forge(|request, _| by_a_stranger(request, false)), PendingInvalid),
        ("a stranger who names himself", Fault::Forge(|request, _| by_a_stranger(request, true)), PendingInvalid),
        (
            "another digest",
            Fault::Forge(|request, forger| {
                forged(request, forger, |delivery| delivery.bundle = blob(&vec![7; delivery.bundle.bytes as usize]))
            }),
            PendingInvalid,
        ),
        (
            "another length",
            Fault::Forge(|request, forger| {
                forged(request, forger, |delivery| {
                    delivery.bundle = Blob { bytes: delivery.bundle.bytes + 1, ..delivery.bundle };
                })
            }),
            PendingInvalid,
        ),
        (
            "another receipt",
            Fault::Forge(|request, forger| forged(request, forger, |delivery| delivery.receipt = [7; 16].into())),
            PendingInvalid,
        ),
        (
            "another sender",
            Fault::Forge(|request, forger| {
                forged(request, forger, |delivery| delivery.sender = "mallory".parse().unwrap())
            }),
            PendingInvalid,
        ),
        (
            "another carrier",
            Fault::Forge(|request, forger| {
                forged(request, forger, |delivery| {
                    delivery.carrier = NodeKey::from_secret([9; NodeKey::BYTES]).public()
                })
            }),
            PendingInvalid,
        ),
        (
            "more hops, which would be paid",
            Fault::Forge(|request, forger| forged(request, forger, |delivery| delivery.hops = 32)),
            PendingInvalid,
        ),
    ]);
}

#[test]
fn the_acknowledgement_of_another_receipt_is_no_good_when_it_is_replayed() {
    let Place { carrier, destination, _node, proxy } = place();
    let first = carrier.send(b"the first", "alice");
    carrier.run("flush --retry-for 0s").output();
    carrier.run(&format!("ack export {first} first.ack")).output();
    let replayed = std::fs::read(carrier.here.path("first.ack")).unwrap();
    let second = carrier.send(b"the second", "alice");
    proxy.set(Fault::Answer(answer("200 OK", "", &replayed)));
    assert_eq!(carrier.run("flush --retry-for 0s").code, 1);
    assert_eq!((carrier.ids("--pending"), carrier.credit()), (vec![second], (1, 1)));
    assert_eq!(carrier.counters(), Counters { attempts: 2, failures: 1, invalid: 1 });
    proxy.set(Fault::None);
    carrier.run("flush --retry-for 0s").output();
    assert_eq!((carrier.credit(), destination.received().len()), ((2, 2), 2));
    assert_eq!(carrier.counters(), Counters { attempts: 3, failures: 1, invalid: 1 });
}

#[test]
fn a_flush_tries_again_by_itself_until_all_is_well() {
    let Place { carrier, proxy, destination: _destination, _node } = place();
    let id = carrier.send(b"a bundle", "alice");
    proxy.set(Fault::Answer(answer("500 Internal Server Error", "", b"")));
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| carrier.run("flush --retry-for 60s"));
        super::wait_until("the second try", || proxy.requests() >= 2);
        proxy.set(Fault::None);
        let ran = flush.join().unwrap();
        assert_eq!(ran.code, 0, "{ran:?}");
    });
    assert_eq!((carrier.ids("--acked"), carrier.credit()), (vec![id], (1, 1)));
    let attempts = proxy.requests() as u64;
    assert_eq!(carrier.counters(), Counters { attempts, failures: attempts - 1, invalid: 0 });
}

#[test]
fn who_asks_for_a_pause_has_it() {
    let Place { carrier, proxy, destination: _destination, _node } = place();
    let id = carrier.send(b"a bundle", "alice");
    proxy.set(Fault::Answer(answer("503 Service Unavailable", "retry-after: 1000\r\n", b"")));
    let before_ms = compute_host::courier::system_clock();
    assert_eq!(carrier.run("flush --retry-for 30s").code, 1, "and that is not waited for");
    assert_eq!(proxy.requests(), 1);
    let due_ms = carrier.json(&format!("show {id}"))[0]["due_ms"].as_u64().unwrap();
    let wait = Duration::from_millis(due_ms - before_ms);
    assert!(wait >= Duration::from_secs(1000), "{wait:?}");
}

/// Returns the answer without its last bytes, with a `Content-Length` that includes them.
fn cut(answer: &Message, bytes: usize) -> Vec<u8> {
    let mut whole = answer.to_bytes();
    whole.truncate(whole.len() - answer.body.len() + bytes);
    whole
}

/// Returns the answer with the `Content-Length` of its current body.
fn whole(mut answer: Message) -> Vec<u8> {
    answer.headers.insert("content-length".to_owned(), answer.body.len().to_string());
    answer.to_bytes()
}
