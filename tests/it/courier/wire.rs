//! Courier protocol as bytes: requests as another program might write them, and parsed responses.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use compute_host::digest::Digest;
use compute_host::key::{NodeKey, PublicKey};
use compute_host::proof::Blob;
use compute_host::receipt::Delivery;

pub use crate::serving::Message;
use crate::serving::PATIENCE;

impl Message {
    /// Returns the delivery of a request.
    pub fn delivery(&self) -> Delivery {
        let header = |name: &str| self.headers[name].as_str();
        Delivery {
            receipt: header("idempotency-key").parse().unwrap(),
            bundle: blob(&self.body),
            sender: header("courier-sender").parse().unwrap(),
            destination: header("courier-destination").parse().unwrap(),
            carrier: header("courier-carrier").parse().unwrap(),
            hops: header("courier-hops").parse().unwrap(),
            expires_ms: header("courier-expires").parse().unwrap(),
        }
    }
}

pub fn blob(bytes: &[u8]) -> Blob {
    Blob { blake3: Digest::of(bytes), bytes: bytes.len() as u64 }
}

/// Returns a valid delivery of `bundle` from `carrier`.
pub fn delivery(bundle: &[u8], carrier: &NodeKey, destination: PublicKey) -> Delivery {
    Delivery {
        receipt: blake3::hash(bundle).as_bytes().first_chunk::<16>().copied().unwrap().into(),
        bundle: blob(bundle),
        sender: "alice".parse().unwrap(),
        destination,
        carrier: carrier.public(),
        hops: 1,
        expires_ms: compute_host::courier::system_clock() + 3_600_000,
    }
}

/// Returns the headers of the request that delivers `delivery`; the last is the signature.
pub fn headers(delivery: &Delivery, key: &NodeKey) -> Vec<(&'static str, String)> {
    vec![
        ("host", "localhost".to_owned()),
        ("idempotency-key", delivery.receipt.to_string()),
        ("content-digest", format!("blake3=:{}:", BASE64_STANDARD.encode(delivery.bundle.blake3.as_bytes()))),
        ("content-length", delivery.bundle.bytes.to_string()),
        ("courier-sender", delivery.sender.to_string()),
        ("courier-destination", delivery.destination.to_string()),
        ("courier-carrier", delivery.carrier.to_string()),
        ("courier-hops", delivery.hops.to_string()),
        ("courier-expires", delivery.expires_ms.to_string()),
        ("courier-signature", delivery.sign(key).to_string()),
    ]
}

/// Returns the bytes of a request's head.
pub fn head(headers: &[(&str, String)]) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("POST /v1/courier/bundles HTTP/1.1\r\n{lines}\r\n").into_bytes()
}

/// Returns the whole request that delivers `bundle`.
pub fn request(bundle: &[u8], delivery: &Delivery, key: &NodeKey) -> Vec<u8> {
    [head(&headers(delivery, key)), bundle.to_vec()].concat()
}

/// Sends bytes and returns the response, if there is one.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Option<Message> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The other side may close the connection before the end.
    let _ = stream.write_all(bytes);
    Message::read(&mut stream)
}
