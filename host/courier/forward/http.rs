//! Over HTTP: `POST /v1/courier/bundles` at the peer's address, with the bundle as the body and the delivery, field by
//! field, in the headers.
//!
//! One try is one request: no redirect is followed, for it would carry the bundle to somebody whom nobody named; no proxy
//! is used, for the same reason; and nothing is sent again by itself. Whatever the other side does, a try ends within the
//! forwarder's time and the time that the bundle takes at `RATE_BYTES_PER_SECOND_MIN`, and reads no more of an answer
//! than an acknowledgement or [`PROBLEM_BYTES_MAX`].

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
use super::checked::{Checked, Fault};
use super::{ForwardError, Forwarder, Handed, Message, Parcel, plain};
use crate::key::Signature;
use crate::receipt::{ACKNOWLEDGEMENT_BYTES_MAX, Delivery};

/// A node that takes longer to say that it is there is not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A bundle that goes slower than this is given up, and its connection with it.
pub const RATE_BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// Connections that wait for the next bundle to the same peer: how many, and for how long. More than are tried at a time
/// are of no use, and what waits longer has been closed by the other side.
const IDLE_PER_PEER_MAX: usize = 32;
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// What of a peer's address stands in a message, so that there is room for what it has answered.
const ADDRESS_SHOWN_BYTES_MAX: usize = 128;

/// HTTP cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up HTTP to other nodes: {cause}")]
pub struct NoHttp {
    cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Brings bundles to peers that have an address. Keeps connections to them open for a while, and is to be shared.
#[derive(Clone, Debug)]
pub struct HttpForwarder {
    client: Client,
    timeout: Duration,
}

impl HttpForwarder {
    /// A try ends after `timeout` and the time that the bundle takes at `RATE_BYTES_PER_SECOND_MIN`. The system's root
    /// certificates are read here, once; where there are none, addresses with `https` cannot be reached.
    pub fn new(timeout: Duration) -> Result<Self, NoHttp> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls().map_err(|cause| NoHttp { cause: cause.into() })?)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_PEER_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(|cause| NoHttp { cause: cause.into() })?;
        Ok(Self { client, timeout })
    }

    /// How long a try may take.
    fn bound(&self, delivery: &Delivery) -> Duration {
        let sending = Duration::from_secs(delivery.bundle.bytes.div_ceil(RATE_BYTES_PER_SECOND_MIN));
        self.timeout.saturating_add(sending)
    }

    async fn attempt(&self, url: reqwest::Url, parcel: Parcel, other: &Other<'_>) -> Result<Handed, ForwardError> {
        let Parcel { delivery, signature, content, .. } = parcel;
        let checked = Checked::new(content, delivery.bundle).map_err(|fault| other.faulty(&fault, &delivery))?;
        let watch = Arc::default();
        let request = with_headers(self.client.post(url), &delivery, &signature);
        let answer = match request.body(body(checked, Arc::clone(&watch))).send().await {
            Ok(response) => other.answer(response).await,
            Err(error) => Err(other.failed(error)),
        };
        // Damage here is what counts, whatever the peer may have answered meanwhile. An acknowledgement that comes before
        // the end of the bundle is none the worse: whoever has it from an earlier try may say so at once.
        match watch.get() {
            Some(fault) => Err(other.faulty(fault, &delivery)),
            None => answer,
        }
    }
}

impl Forwarder for HttpForwarder {
    async fn forward(&self, mut parcel: Parcel) -> Result<Handed, ForwardError> {
        let Some(address) = parcel.to.address.take() else { return Err(no_address(&parcel.to)) };
        let other = Other { called: parcel.to.name.to_string(), address: &address };
        let bound = self.bound(&parcel.delivery);
        match tokio::time::timeout(bound, self.attempt(address.bundles_url().clone(), parcel, &other)).await {
            Ok(ended) => ended,
            Err(_) => Err(ForwardError::Unreachable {
                message: other.says(&format!("has not answered to the end within {} s", bound.as_secs_f32())),
            }),
        }
    }
}

/// The provider is named here, and no process-wide one is asked for or set.
fn tls() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        || rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    // A machine without root certificates still reaches its neighbours without TLS.
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

/// The bundle; from a file as a stream that ends in an error where it is not the bundle, and which one stands in `watch`.
fn body(checked: Checked, watch: Arc<OnceLock<Fault>>) -> Body {
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

/// The other side, as messages speak of it.
struct Other<'a> {
    called: String,
    address: &'a Address,
}

impl Other<'_> {
    fn says(&self, what: &str) -> Message {
        let address = plain(&self.address.to_string(), ADDRESS_SHOWN_BYTES_MAX);
        Message::new(&format!("`{}` at {address} {what}", self.called))
    }

    fn faulty(&self, fault: &Fault, delivery: &Delivery) -> ForwardError {
        let receipt = delivery.receipt;
        match fault {
            Fault::Damaged => {
                let what = format!(
                    "was not given the bundle of receipt {receipt}: its bytes here are not what its digest says; \
                     `node compute courier fsck` looks through all"
                );
                ForwardError::Damaged { message: self.says(&what) }
            }
            Fault::Io(cause) => {
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

    async fn answer(&self, mut response: Response) -> Result<Handed, ForwardError> {
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
            1..=ACKNOWLEDGEMENT_BYTES_MAX => Ok(Handed::Acknowledged(bytes)),
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
        // A refusal is one, whatever becomes of its reason.
        let bytes = answer::read(&mut response, PROBLEM_BYTES_MAX).await.unwrap_or_default();
        let answer::Told { code, text, signed } = answer::problem(&bytes);
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

/// The cause of all the others: those around it say that a request has failed.
fn innermost(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map(ToString::to_string).unwrap_or_default()
}
