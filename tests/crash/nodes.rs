//! A carrier and a destination, their keys, and their bundles.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use compute_host::courier::{Courier, FlushMode, Forwarder, HttpForwarder, Peer, Settings, Summary, system_clock};
use compute_host::digest::Digest;
use compute_host::http::{ListenerConfig, carrier_routes, serve_network};
use compute_host::key::{KeyName, NodeKey, PublicKey, Signer};
use compute_host::proof::Blob;
use compute_host::receipt::{ReceiptId, Sender};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Returns the key of one node, by its number.
pub fn key(number: u8) -> NodeKey {
    NodeKey::from_secret([number; 32])
}

pub const CARRIER: u8 = 1;
pub const DESTINATION: u8 = 2;

/// Number of concurrent deliveries: several, so that a kill finds some in each state.
const CONCURRENCY: u64 = 4;

pub fn settings() -> Settings {
    Settings { concurrency: CONCURRENCY, ..Settings::default() }
}

pub fn open(state: &Path, number: u8) -> Arc<Courier> {
    let courier = Courier::open(state, Arc::new(Signer::new(key(number))), settings(), system_clock);
    Arc::new(courier.expect("what a kill leaves can be opened"))
}

pub fn sender() -> Sender {
    "alice".parse().expect("it is one word")
}

pub fn name() -> KeyName {
    "bob".parse().expect("it is a name")
}

/// Returns the bundle with this number, which is unique and short.
pub fn bundle(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; 40 + (number % 200) as usize];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn blob(bytes: &[u8]) -> Blob {
    Blob { blake3: Digest::of(bytes), bytes: bytes.len() as u64 }
}

/// Returns the id of the bundle's receipt.
pub fn id(number: u64) -> ReceiptId {
    ReceiptId::of(&blob(&bundle(number)), &sender(), None)
}

/// Returns the destination at this address as a peer.
pub fn destination(address: SocketAddr) -> Peer {
    let address = format!("http://{address}").parse().expect("it is an address");
    Peer { name: name(), public_key: key(DESTINATION).public(), address: Some(address) }
}

/// Adds the carrier to the destination's peers, as its owner would.
pub fn add_carrier(courier: &Courier) {
    let name = "carol".parse().expect("it is a name");
    let peer = Peer { name, public_key: key(CARRIER).public(), address: None };
    courier.change_peers(|peers| peers.add(peer)).expect("the carrier can be added");
}

pub fn http() -> HttpForwarder {
    HttpForwarder::new(Duration::from_secs(10)).expect("HTTP can be set up")
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads can be started")
}

/// Attempts each pending delivery once.
pub fn flush<F: Forwarder>(
    runtime: &Runtime,
    courier: &Arc<Courier>,
    forwarder: F,
    to: &Peer,
    tell: impl FnMut(compute_host::courier::Event),
) -> Summary {
    let route = |_: Option<&KeyName>| Ok(Some(to.clone()));
    let mode = FlushMode::All { retry_for: Duration::ZERO };
    let flush = courier.flush(Arc::new(forwarder), mode, route, tell, std::future::pending());
    runtime.block_on(flush).expect("a flush ends")
}

/// A process to kill when the receiving side has stored `after` more bundles, before the carrier
/// gets the response to the last of them.
#[derive(Clone, Copy)]
pub struct Victim {
    pub process: Pid,
    pub after: u64,
}

/// More than any test opens.
const CONNECTIONS_MAX: u64 = 100;

/// The receiving side, in this process, until the process ends.
pub struct Destination {
    pub courier: Arc<Courier>,
    pub peer: Peer,
    pub victim: Arc<Mutex<Option<Victim>>>,
}

impl Destination {
    pub fn start(state: &Path) -> Self {
        let courier = open(state, DESTINATION);
        add_carrier(&courier);
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("there is a port");
        let peer = destination(listener.local_addr().expect("it has an address"));
        let victim = Arc::<Mutex<Option<Victim>>>::default();
        let routes = killing(carrier_routes(courier.clone()), victim.clone());
        std::thread::spawn(move || runtime.block_on(serve(listener, routes)));
        Self { courier, peer, victim }
    }
}

pub async fn serve(listener: TcpListener, routes: Router) {
    let entrance = ListenerConfig { tls: None, connections_max: CONNECTIONS_MAX, addresses: None };
    serve_network(vec![listener], entrance, routes, std::future::pending()).await;
}

fn killing(routes: Router, victim: Arc<Mutex<Option<Victim>>>) -> Router {
    routes.layer(from_fn(move |request: Request, next: Next| {
        let victim = victim.clone();
        async move {
            let response = next.run(request).await;
            let mut victim = victim.lock().expect("nobody panics who holds it");
            match &mut *victim {
                Some(Victim { process, after: 0 }) => {
                    kill_process(*process, Signal::KILL).expect("it is there until it is waited for");
                    *victim = None;
                }
                Some(Victim { after, .. }) => *after -= 1,
                None => {}
            }
            response
        }
    }))
}

/// Returns the key whose signature counts.
pub fn destination_key() -> PublicKey {
    key(DESTINATION).public()
}
