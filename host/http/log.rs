//! Log lines and counters of requests. Each request has an id, which is in all its log lines and in
//! its response, so that a client and the owner can refer to the same request.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, map_response};
use axum::response::Response;
use axum::routing::MethodRouter;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::metrics::{HttpExchange, Metrics};
use crate::slice::Tenant;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is accepted from a client.
const ID_BYTES_MAX: usize = 64;

/// Longest path in the log, in characters.
const PATH_CHARS_MAX: usize = 256;

/// Route label of requests that match no route, or were refused before routing.
const NO_ROUTE: &str = "none";

/// Pattern of the route that answered.
#[derive(Clone, Copy)]
struct Route(&'static str);

/// Token of the request, attached to its response.
#[derive(Clone)]
pub struct RequestToken(pub Tenant);

/// Routers that attach the route pattern to each response.
pub trait Routes<S> {
    /// [`Router::route`], counted under `pattern`. Counting by path would let a stranger create any
    /// number of counters.
    fn at(self, pattern: &'static str, methods: MethodRouter<S>) -> Self;
}

impl<S: Clone + Send + Sync + 'static> Routes<S> for Router<S> {
    fn at(self, pattern: &'static str, methods: MethodRouter<S>) -> Self {
        let sign = move |mut response: Response| {
            response.extensions_mut().insert(Route(pattern));
            std::future::ready(response)
        };
        self.route(pattern, methods.layer(map_response(sign)))
    }
}

/// Middleware around each request: assigns the id, and logs and counts the response when it begins.
/// A request whose client leaves before that is not logged.
pub async fn follow(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (id, method) = (id_of(request.headers()), method_of(request.method()));
    let path: String = request.uri().path().chars().take(PATH_CHARS_MAX).collect();
    // Error level, so that the span is there for log lines of every level.
    let span = tracing::error_span!("request", id = id.to_str().unwrap_or_default(), method, path, token = Empty);
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, duration) = (response.status(), began.elapsed());
    let route = response.extensions().get::<Route>().map_or(NO_ROUTE, |route| route.0);
    metrics.request(&HttpExchange { route, method, status: status.as_u16(), duration });
    if let Some(RequestToken(scope)) = response.extensions().get() {
        metrics.answer(scope, status.as_u16());
    }
    span.in_scope(|| tell(status, duration.as_secs_f64()));
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Adds the token's name to the log span of this request.
pub fn note_token(name: &str) {
    Span::current().record("token", name);
}

fn tell(status: StatusCode, duration_seconds: f64) {
    let code = status.as_u16();
    if status.is_server_error() {
        tracing::warn!(status = code, duration_seconds, "answered a request");
    } else {
        tracing::debug!(status = code, duration_seconds, "answered a request");
    }
}

/// Returns the request id that the client sent, or a new one of 16 hexadecimal digits.
fn id_of(headers: &HeaderMap) -> HeaderValue {
    let mut ids = headers.get_all(REQUEST_ID).iter();
    match (ids.next(), ids.next()) {
        (Some(id), None) if is_plain(id.as_bytes()) => id.clone(),
        // The id only distinguishes requests, so it need not be unpredictable.
        _ => HeaderValue::try_from(format!("{:016x}", RandomState::new().hash_one(())))
            .unwrap_or(HeaderValue::from_static("none")),
    }
}

fn is_plain(id: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.iter().all(is_allowed)
}

/// Returns the label of a method: its name if some route accepts it, else `other`.
fn method_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_over(ids: &[&[u8]]) -> bool {
        let values = ids.iter().map(|id| (REQUEST_ID, HeaderValue::from_bytes(id).unwrap()));
        let id = id_of(&values.collect());
        let is_made = id.len() == 16 && id.as_bytes().iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        assert!(is_made || ids == [id.as_bytes()], "{id:?}");
        !is_made
    }

    #[test]
    fn only_a_short_and_plain_id_is_taken_over() {
        for id in ["a", "A-b_c.9", "0b1c7e9a-52b6-4d33-9d0a-7b1c6f0e2a11", &"x".repeat(64)] {
            assert!(taken_over(&[id.as_bytes()]), "{id}");
        }
        let long = "x".repeat(65);
        for id in ["", "a b", "a\tb", "a\"b", "a=b", "a{b}", "ä", "\u{9b}31m", &long] {
            assert!(!taken_over(&[id.as_bytes()]), "{id:?}");
        }
        assert!(!taken_over(&[]) && !taken_over(&[b"a", b"a"]));
        assert_ne!(id_of(&HeaderMap::new()), id_of(&HeaderMap::new()));
    }
}
