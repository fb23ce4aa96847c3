//! Lower bound for two durable sides: the same requests over the same HTTP, signed and checked as
//! the courier's are, between stores that only append. Each side has one file. One write and one
//! `fdatasync` serve all requests that wait at once. The receiving side appends the delivery, the
//! bundle and the acknowledgement; the carrier appends the acknowledgement. There is no index, no
//! file for each bundle, no queue, no ledger.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use compute_host::courier::{
    BundleContent, ForwardOutcome, Forwarder as _, HttpForwarder, OutboundBundle, system_clock,
};
use compute_host::digest::Digest;
use compute_host::http::{ListenerConfig, serve_network};
use compute_host::key::NodeKey;
use compute_host::proof::Blob;
use compute_host::receipt::{Acknowledgement, Delivery, ReceiptId};
use futures_util::{StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::{CONCURRENCY, bundle, carrier_key, peer, print_rate, sender};

/// Environment variable with the file of the receiving side.
pub const LOG: &str = "COURIER_FLOOR_LOG";

fn destination_key() -> NodeKey {
    NodeKey::from_secret([2; 32])
}

/// A file to which a thread of its own appends.
#[derive(Clone)]
struct Log(mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>);

impl Log {
    fn open(path: &Path) -> Self {
        let mut file: File = OpenOptions::new().append(true).create(true).open(path).unwrap();
        let (sender, frames) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>();
        std::thread::spawn(move || {
            while let Ok((mut bytes, told)) = frames.recv() {
                let mut waiting = vec![told];
                for (more, told) in frames.try_iter() {
                    bytes.extend(more);
                    waiting.push(told);
                }
                file.write_all(&bytes).unwrap();
                file.sync_data().unwrap();
                for told in waiting {
                    // A caller that no longer waits has dropped its receiver.
                    let _ = told.send(());
                }
            }
        });
        Self(sender)
    }

    /// Appends the parts, and returns when they are on disk.
    async fn append(&self, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut frame = u32::try_from(len).unwrap().to_le_bytes().to_vec();
        parts.iter().for_each(|part| frame.extend_from_slice(part));
        let (told, is_on_disk) = oneshot::channel();
        self.0.send((frame, told)).unwrap();
        is_on_disk.await.unwrap();
    }
}

/// Runs the receiving side until it is killed.
pub fn receive() {
    let log = Log::open(std::env::var_os(LOG).unwrap().as_ref());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let routes = Router::new().route("/v1/courier/bundles", post(take)).with_state(log);
        let entrance = ListenerConfig { tls: None, connections_max: 1_000, addresses: None };
        serve_network(vec![listener], entrance, routes, std::future::pending()).await;
    });
}

async fn take(State(log): State<Log>, headers: HeaderMap, bytes: Bytes) -> (StatusCode, Vec<u8>) {
    let text = |name: &str| headers[name].to_str().unwrap();
    let delivery = Delivery {
        receipt: text("idempotency-key").parse().unwrap(),
        bundle: Blob { blake3: Digest::of(&bytes), bytes: bytes.len() as u64 },
        sender: text("courier-sender").parse().unwrap(),
        destination: text("courier-destination").parse().unwrap(),
        carrier: text("courier-carrier").parse().unwrap(),
        hops: text("courier-hops").parse().unwrap(),
        expires_ms: text("courier-expires").parse().unwrap(),
    };
    // The signature covers the bundle's digest.
    assert!(delivery.is_signed(&text("courier-signature").parse().unwrap()));
    let acknowledgement = Acknowledgement::sign(delivery, system_clock(), &destination_key()).to_bytes();
    log.append(&[&acknowledgement, &bytes]).await;
    (StatusCode::CREATED, acknowledgement)
}

pub fn measure(bundles: u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap());
    other.env(LOG, directory.path().join("destination")).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut other = other.spawn().unwrap();
    let mut address = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let peer = peer(&destination_key().public().to_string(), &format!("http://{}", address.trim_end()));
    let log = Log::open(&directory.path().join("carrier"));
    let http = HttpForwarder::new(Duration::from_secs(30)).unwrap();
    let (sender, key) = (sender(), carrier_key());
    let forward = async |number: u64| {
        let content = bundle(number);
        let blob = Blob { blake3: Digest::of(&content), bytes: content.len() as u64 };
        let delivery = Delivery {
            receipt: ReceiptId::of(&blob, &sender, None),
            bundle: blob,
            sender: sender.clone(),
            destination: peer.public_key,
            carrier: key.public(),
            hops: 1,
            expires_ms: u64::MAX,
        };
        let began = Instant::now();
        let signature = delivery.sign(&key);
        let content = BundleContent::Bytes(content.into());
        let parcel = OutboundBundle { to: peer.clone(), delivery: delivery.clone(), signature, content };
        let Ok(ForwardOutcome::Acknowledged(bytes)) = http.forward(parcel).await else { panic!("it is acknowledged") };
        assert!(Acknowledgement::from_bytes(&bytes).unwrap().answers(&delivery));
        log.append(&[&bytes]).await;
        began.elapsed().as_secs_f64() * 1000.0
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let start = Instant::now();
    let all = stream::iter(0..bundles).map(forward).buffer_unordered(CONCURRENCY).collect::<Vec<f64>>();
    let mut took_ms = runtime.block_on(all);
    let seconds = start.elapsed().as_secs_f64();
    other.kill().unwrap();
    other.wait().unwrap();
    print_rate("the same between stores that only append", &mut took_ms, seconds);
}
