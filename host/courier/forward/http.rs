//! Transport over HTTP: `POST /v1/courier/bundles` at the peer's address. The body is the bundle,
//! and the headers contain the delivery's fields.
//!
//! One attempt is one request, without automatic retries. It follows no redirect and uses no proxy,
//! because either would give the bundle to a node that nobody named. The peer cannot extend an
//! attempt: its time limit is the forwarder's timeout plus the bundle's time at
//! `RATE_BYTES_PER_SECOND_MIN`. The attempt reads at most an acknowledgement or
//! [`PROBLEM_BYTES_MAX`] of a reply.

mod answer;
mod offline;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Body, Client, RequestBuilder, Response, StatusCode};
use rustls_platform_verifier::BuilderVerifierExt as _;

use self::answer::PROBLEM_BYTES_MAX;
use super::super::{Address, Peer};
use super::checked::{CheckedPieces, ReadFault};
use super::{ForwardError, ForwardOutcome, Forwarder, Message, OutboundBundle, plain};
use crate::key::Signature;
use crate::receipt::{ACKNOWLEDGEMENT_BYTES_MAX, Delivery};

/// Time limit to connect. A node that needs longer counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Minimum transfer rate. A slower attempt is given up, and its connection closed.
pub const RATE_BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// Idle connections that are kept for each peer: their number and their maximum age. More
/// connections than concurrent attempts are useless, and the peer has closed older ones.
const IDLE_PER_PEER_MAX: usize = 32;
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Maximum length of a peer's address in a message, so that the peer's reply fits, too.
const ADDRESS_SHOWN_BYTES_MAX: usize = 128;

/// Failure to set up HTTP.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up HTTP to other nodes: {cause}")]
pub struct HttpSetupError {
    cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Forwarder for peers that have an address. It reuses connections for a while, so share one
/// instance.
#[derive(Clone, Debug)]
pub struct HttpForwarder {
    client: Client,
    timeout: Duration,
}

impl HttpForwarder {
    /// Creates a forwarder. An attempt ends after `timeout` plus the bundle's time at
    /// `RATE_BYTES_PER_SECOND_MIN`. Reads the system's root certificates once; without any, `https`
    /// addresses cannot be reached.
    pub fn new(timeout: Duration) -> Result<Self, HttpSetupError> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls().map_err(|cause| HttpSetupError { cause: cause.into() })?)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_PEER_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(|cause| HttpSetupError { cause: cause.into() })?;
        Ok(Self { client, timeout })
    }

    /// Returns the time limit of an attempt.
    fn bound(&self, delivery: &Delivery) -> Duration {
        let sending = Duration::from_secs(delivery.bundle.bytes.div_ceil(RATE_BYTES_PER_SECOND_MIN));
        self.timeout.saturating_add(sending)
    }

    async fn attempt(
        &self,
        url: reqwest::Url,
        parcel: OutboundBundle,
        other: &PeerName<'_>,
    ) -> Result<ForwardOutcome, ForwardError> {
        let OutboundBundle { delivery, signature, content, .. } = parcel;
        let checked = CheckedPieces::new(content, delivery.bundle).map_err(|fault| other.faulty(&fault, &delivery))?;
        let watch = Arc::default();
        let request = with_headers(self.client.post(url), &delivery, &signature);
        let answer = match request.body(body(checked, Arc::clone(&watch))).send().await {
            Ok(response) => other.answer(response).await,
            Err(error) => Err(other.failed(error)),
        };
        // Local damage decides the result, whatever the peer has replied. An acknowledgement before
        // the end of the bundle is valid: a peer that has the bundle from an earlier attempt may
        // reply at once.
        match watch.get() {
            Some(fault) => Err(other.faulty(fault, &delivery)),
            None => answer,
        }
    }
}

impl Forwarder for HttpForwarder {
    async fn forward(&self, mut parcel: OutboundBundle) -> Result<ForwardOutcome, ForwardError> {
        let Some(address) = parcel.to.address.take() else { return Err(no_address(&parcel.to)) };
        let other = PeerName { called: parcel.to.name.to_string(), address: &address };
        let bound = self.bound(&parcel.delivery);
        match tokio::time::timeout(bound, self.attempt(address.bundles_url().clone(), parcel, &other)).await {
            Ok(ended) => ended,
            Err(_) => Err(ForwardError::Unreachable {
                message: other.says(&format!("has not answered to the end within {} s", bound.as_secs_f32())),
            }),
        }
    }
}

/// Returns the TLS configuration. The crypto provider is explicit: no process-wide default is read
/// or set.
fn tls() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        || rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    // A machine without root certificates can still reach its neighbours without TLS.
    let mut config = match builder()?.with_platform_verifier() {
        Ok(builder) => builder.with_no_client_auth(),
        Err(_) => builder()?.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn with_headers(request: RequestBuilder, delivery: &Delivery, signature: &Signature) -> RequestBuilder {
    request
        .header("idempotency-key", delivery.receipt.to_string())
        .header("content-digest", format!("blake3=:{}:", BASE64.encode(delivery.bundle.blake3.as_bytes())))
        .header("content-length", delivery.bundle.bytes)
        .header("courier-sender", delivery.sender.as_str())
        .header("courier-destination", delivery.destination.to_string())
        .header("courier-carrier", delivery.carrier.to_string())
        .header("courier-hops", u64::from(delivery.hops))
        .header("courier-expires", delivery.expires_ms)
        .header("courier-signature", signature.to_string())
}

/// Returns the request body. A file becomes a stream, which ends with an error if the file is
/// damaged or unreadable; `watch` then contains the fault.
fn body(checked: CheckedPieces, watch: Arc<OnceLock<ReadFault>>) -> Body {
    if let Some(bytes) = checked.whole() {
        return bytes.into();
    }
    let pieces = futures_util::stream::try_unfold(checked, move |mut checked| {
        let watch = Arc::clone(&watch);
        async move {
            let read = tokio::task::spawn_blocking(move || {
                let piece = checked.next();
                (piece, checked)
            });
            let (piece, checked) = read.await.map_err(std::io::Error::other)?;
            match piece {
                Ok(piece) => Ok(piece.map(|piece| (piece, checked))),
                Err(fault) => {
                    let _ = watch.set(fault);
                    Err(std::io::Error::other("the bundle cannot be read to its end"))
                }
            }
        }
    });
    Body::wrap_stream(pieces)
}

fn no_address(peer: &Peer) -> ForwardError {
    let name = &peer.name;
    let text = format!(
        "the peer `{name}` has no address: `node compute courier export` bundles for it to a directory, or \
         `node compute courier peer add {name} {} ADDRESS`",
        peer.public_key
    );
    ForwardError::NoWay { message: Message::new(&text) }
}

/// The peer, for messages.
struct PeerName<'a> {
    called: String,
    address: &'a Address,
}

impl PeerName<'_> {
    fn says(&self, what: &str) -> Message {
        let address = plain(&self.address.to_string(), ADDRESS_SHOWN_BYTES_MAX);
        Message::new(&format!("`{}` at {address} {what}", self.called))
    }

    fn faulty(&self, fault: &ReadFault, delivery: &Delivery) -> ForwardError {
        let receipt = delivery.receipt;
        match fault {
            ReadFault::Damaged => {
                let what = format!(
                    "was not given the bundle of receipt {receipt}: its bytes here are not what its digest says; \
                     `node compute courier fsck` looks through all"
                );
                ForwardError::Damaged { message: self.says(&what) }
            }
            ReadFault::Io(cause) => {
                let what = format!("was not given the bundle of receipt {receipt}, which cannot be read here: {cause}");
                ForwardError::Io { message: self.says(&what) }
            }
        }
    }

    fn failed(&self, error: reqwest::Error) -> ForwardError {
        let error = error.without_url();
        let why = innermost(&error);
        if offline::is(&error, error.is_dns(), self.address.is_named(), offline::has_route) {
            return ForwardError::Offline {
                message: self.says(&format!("cannot be reached without a network: {why}")),
            };
        }
        let what = if error.is_connect() { "cannot be reached" } else { "broke off" };
        ForwardError::Unreachable { message: self.says(&format!("{what}: {why}")) }
    }

    async fn answer(&self, mut response: Response) -> Result<ForwardOutcome, ForwardError> {
        let status = response.status();
        if !status.is_success() {
            return Err(self.refusal(response).await);
        }
        let useless = |what: &str| ForwardError::Answer { message: self.says(&format!("answers {status}, {what}")) };
        if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
            return Err(useless("which no node does"));
        }
        let bytes = answer::read(&mut response, ACKNOWLEDGEMENT_BYTES_MAX).await.map_err(|error| self.failed(error))?;
        match bytes.len() {
            0 => Err(useless("without an acknowledgement")),
            1..=ACKNOWLEDGEMENT_BYTES_MAX => Ok(ForwardOutcome::Acknowledged(bytes)),
            _ => Err(useless("and more than an acknowledgement has")),
        }
    }

    async fn refusal(&self, mut response: Response) -> ForwardError {
        let status = response.status();
        let retry_after = answer::retry_after(response.headers(), SystemTime::now());
        let elsewhere = response.headers().get("location").map(|to| {
            let to = String::from_utf8_lossy(to.as_bytes()).into_owned();
            format!(" and sends us to {to}, where nobody asked us to go")
        });
        // The status alone makes it a refusal, even if the reason cannot be read.
        let bytes = answer::read(&mut response, PROBLEM_BYTES_MAX).await.unwrap_or_default();
        let answer::RefusalContent { code, text, signed } = answer::problem(&bytes);
        let elsewhere = elsewhere.filter(|_| status.is_redirection()).unwrap_or_default();
        let in_short = code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default();
        let told = text.map(|text| format!(": {text}")).unwrap_or_default();
        ForwardError::Refused {
            message: self.says(&format!("answers {status}{in_short}{elsewhere}{told}")),
            status: status.as_u16(),
            code,
            signed,
            retry_after,
        }
    }
}

/// Returns the innermost cause. The outer errors only say that a request has failed.
fn innermost(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map(ToString::to_string).unwrap_or_default()
}
