//! `POST /v1/courier/bundles`: the body is the bundle, and the headers are signed by its carrier
//! (protocol: docs/courier.md). `GET /v1/courier`: figures of the courier, for callers with that
//! right.

use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::AppState;
use super::auth::Caller;
use super::body::{BodyPieces, UploadSource, blocking};
use super::pools::RequestMemory;
use super::problem::HttpProblem;
use crate::access::Permission;
use crate::courier::{Admission, Courier, DeliveryRefusal, IncomingBundle};
use crate::digest::Digest;
use crate::key::Signature;
use crate::proof::Blob;
use crate::receipt::{Delivery, Receipt};

const ACKNOWLEDGEMENT: &str = "application/vnd.compute-host.acknowledgement";

pub async fn receive(State(courier): State<Arc<Courier>>, request: Request<Body>) -> Response {
    let (Parts { headers, .. }, body) = request.into_parts();
    match take(courier, &headers, BodyPieces::new(body)).await {
        Ok((bytes, status)) => (status, [(CONTENT_TYPE, ACKNOWLEDGEMENT)], bytes).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn take(
    courier: Arc<Courier>,
    headers: &HeaderMap,
    pieces: BodyPieces,
) -> Result<(Vec<u8>, StatusCode), HttpProblem> {
    let (delivery, signature) = parse(headers)?;
    let (refusing, asked) = (courier.clone(), delivery.clone());
    let refused = move |refusal: DeliveryRefusal| {
        let signed = refusing.sign_refusal(&asked, &refusal);
        let problem = HttpProblem::from(refusal);
        // A refusal must be signed to end a receipt: anybody could answer in a node's place.
        match signed {
            Some(signed) => problem.with("refusal", BASE64_STANDARD.encode(signed).into()),
            None => problem,
        }
    };
    let admitted = blocking(move || courier.admit(delivery, &signature)).await?;
    let incoming = match admitted.map_err(&refused)? {
        Admission::Already(acknowledgement) => return Ok((acknowledgement, StatusCode::OK)),
        Admission::Open(incoming) => incoming,
    };
    // The courier limits the number of concurrent deliveries, and each holds at most one chunk in
    // memory.
    let mut memory = RequestMemory::default();
    let write = |incoming: &mut Box<IncomingBundle>, bytes: &[u8]| Ok(incoming.write(bytes)?);
    let finish = move |incoming: Box<IncomingBundle>| incoming.finish().map_err(refused);
    let (acknowledgement, is_new) =
        UploadSource::Body(pieces).write_to(Vec::new(), &mut memory, incoming, write, finish).await?;
    Ok((acknowledgement, if is_new { StatusCode::CREATED } else { StatusCode::OK }))
}

/// `GET /v1/courier`
pub async fn status(State(served): State<AppState>, caller: Caller) -> Result<Json<Value>, HttpProblem> {
    caller.require(Permission::Courier)?;
    let courier = served.courier.clone();
    let looked = served.rooms.on_disk(&caller.scope, move || (courier.tally(), courier.store().oldest_pending_ms()));
    let (tally, oldest_ms) = looked.await?;
    let oldest_ms = oldest_ms.map_err(|error| HttpProblem::of_host("storage_failed", &error))?;
    Ok(Json(json!({
        "pending": tally.pending,
        "pending_bytes": tally.pending_bytes,
        "oldest_pending_unix_ms": oldest_ms,
        "dead": tally.dead,
        "received": tally.received,
        "received_bytes": tally.received_bytes,
        "attempts": tally.attempts,
        "failures": tally.failures,
        "credited": tally.credited,
        "credited_bytes": tally.credited_bytes,
        "credit": tally.credit,
    })))
}

impl From<DeliveryRefusal> for HttpProblem {
    fn from(refusal: DeliveryRefusal) -> Self {
        let kind = refusal.kind();
        // Details of a disk error go to the log, not to the network.
        if let DeliveryRefusal::Storage(cause) = &refusal {
            tracing::error!(code = kind.code, "cannot receive a bundle: {cause}");
        }
        Self::new(kind.status, kind.code, refusal.to_string()).after(kind.retry_after)
    }
}

/// Parses the headers. Each must be there exactly once.
fn parse(headers: &HeaderMap) -> Result<(Delivery, Signature), HttpProblem> {
    if !headers.contains_key(CONTENT_LENGTH) {
        return Err(HttpProblem::new(411, "length_required", "the request has no Content-Length"));
    }
    let bundle = Blob { blake3: content_digest(headers)?, bytes: number(headers, "content-length")? };
    let hops = number(headers, "courier-hops")?;
    let delivery = Delivery {
        receipt: parsed(headers, "idempotency-key", "32 lowercase hexadecimal digits")?,
        bundle,
        sender: parsed(headers, "courier-sender", "1 to 128 printable ASCII characters")?,
        destination: parsed(headers, "courier-destination", "a public key")?,
        carrier: parsed(headers, "courier-carrier", "a public key")?,
        hops: u8::try_from(hops)
            .ok()
            .filter(|hops| (1..=Receipt::HOPS_MAX).contains(hops))
            .ok_or_else(|| malformed("courier-hops", "a number from 1 to 32"))?,
        expires_ms: number(headers, "courier-expires")?,
    };
    Ok((delivery, parsed(headers, "courier-signature", "a signature")?))
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str, what: &str) -> Result<&'a str, HttpProblem> {
    let mut values = headers.get_all(HeaderName::from_static(name)).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(malformed(name, what)),
    }
}

fn parsed<T: FromStr>(headers: &HeaderMap, name: &'static str, what: &str) -> Result<T, HttpProblem> {
    text(headers, name, what)?.parse().map_err(|_| malformed(name, what))
}

fn number(headers: &HeaderMap, name: &'static str) -> Result<u64, HttpProblem> {
    let text = text(headers, name, "a number")?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain).ok_or_else(|| malformed(name, "a number"))
}

/// Parses `blake3=:BASE64:`, the format of digests in RFC 9530.
fn content_digest(headers: &HeaderMap) -> Result<Digest, HttpProblem> {
    const WHAT: &str = "`blake3=:`, base64 of the 32 bytes, `:`";
    let text = text(headers, "content-digest", WHAT)?;
    let base64 = text.strip_prefix("blake3=:").and_then(|rest| rest.strip_suffix(':'));
    let bytes = base64.and_then(|base64| BASE64_STANDARD.decode(base64).ok());
    let digest = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    digest.map(Digest::from).ok_or_else(|| malformed("content-digest", WHAT))
}

fn malformed(name: &str, what: &str) -> HttpProblem {
    HttpProblem::new(422, "malformed", format!("the header `{name}` must be there once and hold {what}"))
}
