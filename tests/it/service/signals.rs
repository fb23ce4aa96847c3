//! Effects of signals on a node.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use rustix::process::Signal;

use super::Service;
use super::access::{bearer, token};
use crate::common::{Workplace, noise};
use crate::serving::{PATIENCE, Serving, wait_until};

/// Signals that start a graceful shutdown.
const ENDING: [u32; 5] = [2, 3, 15, 24, 30];

/// Signals that no process can catch, that report a fault in the process, that suspend it, or that
/// the C library reserves.
const OTHERS: [u32; 14] = [4, 5, 6, 7, 8, 9, 11, 19, 20, 21, 22, 31, 32, 33];

fn send(node: &Serving, signal: u32) {
    let sent = Command::new("kill").arg(format!("-{signal}")).arg(node.child.id().to_string()).status().unwrap();
    assert!(sent.success(), "{signal}");
}

#[test]
fn every_signal_that_a_service_meets_ends_it_in_order_or_not_at_all() {
    let service = Service::start();
    for signal in (1..=64).filter(|signal| !ENDING.contains(signal) && !OTHERS.contains(signal)) {
        send(&service.node, signal);
    }
    assert_eq!(service.get("/healthz").status(), 200);
    for signal in ENDING {
        let mut service = Service::start();
        send(&service.node, signal);
        assert_eq!(service.node.ended(), 0, "{signal}");
        assert!(service.node.logged().iter().any(|line| line.contains("\"stopped\"")), "{signal}");
    }
}

#[test]
fn a_service_manager_is_told_when_the_node_is_ready_and_when_it_ends() {
    let here = Workplace::new();
    let manager = UnixDatagram::bind(here.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut text = [0; 256];
        let bytes = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..bytes]).trim().to_owned()
    };
    let mut command = here.command(["serve", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", here.path("notify"));
    let mut service = Service { node: Serving::start(command), here };
    assert_eq!(told(), "READY=1");
    assert_eq!(service.get("/readyz").status(), 200);
    send(&service.node, 15);
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(service.node.ended(), 0);
}

#[test]
fn a_file_that_may_not_grow_costs_one_request_and_not_the_node() {
    let here = Workplace::new();
    let node = here.command(["serve", "--listen", "127.0.0.1:0"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 8192; exec \"$0\" \"$@\""]).arg(node.get_program()).args(node.get_args());
    limited.current_dir(node.get_current_dir().unwrap());
    let service = Service { node: Serving::start(limited), here };
    let slice = noise(1, 12 << 20);
    let answer = service.ask("POST /v1/slices?workload=transcode", &[("prefer", "respond-async")], &slice);
    assert!(answer.status() >= 500, "{answer:?}");
    assert_eq!(service.get("/healthz").status(), 200);
    assert_eq!(service.transcode(b"a small one")["outcome"]["code"], "done");
    assert_eq!(service.node.stop(), 0);
}

#[test]
fn tokens_are_read_anew_and_a_config_that_is_wrong_changes_nothing() {
    let ((alice, first), (bob, second)) = (token("alice", "run"), token("bob", "run"));
    let service = Service::with(&first);
    let status = |secret: &str| service.ask("GET /v1/modules", &[("authorization", &bearer(secret))], b"").status();
    let logged = |what: &str| service.node.logged().iter().filter(|line| line.contains(what)).count();
    assert_eq!((status(&alice), status(&bob)), (200, 401));
    service.here.file("node-data/config.toml", &second);
    service.node.signal(Signal::HUP);
    wait_until("the new tokens", || status(&bob) == 200);
    assert_eq!(status(&alice), 401);
    for wrong in
        ["[tokens", "[tokens.carol]\nhash = 1\n", "[serve]\ntls_certificate = \"none.pem\"\ntls_key = \"none.pem\"\n"]
    {
        let before = logged("keeps those before");
        service.here.file("node-data/config.toml", format!("{wrong}\n{first}"));
        service.node.signal(Signal::HUP);
        wait_until("the refusal", || logged("keeps those before") > before);
        assert_eq!((status(&alice), status(&bob)), (401, 200), "{wrong}");
    }
}
