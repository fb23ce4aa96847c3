//! Authentication and authorisation of a request: its host name, its origin, its token and the rate
//! of that token.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::body::drain_on_drop;
use super::connection::{ConnectionParty, too_many};
use super::log::{RequestToken, note_token};
use super::problem::HttpProblem;
use super::rate::Rate;
use crate::access::{Exposure, Permission, Token, Tokens};
use crate::shares::Pool;
use crate::slice::Tenant;

/// Delay of the refusal to a token that exceeds its rate. A client that retries at once would
/// otherwise keep the cores busy with refusals alone.
const TOO_OFTEN_PAUSE: Duration = Duration::from_millis(100);

/// Routes without a token: the answer says nothing about any owner, or the sender signs the
/// request.
const OPEN: [(&str, Method); 4] = [
    (PROBES[0], Method::GET),
    (PROBES[1], Method::GET),
    ("/v1/openapi.json", Method::GET),
    ("/v1/courier/bundles", Method::POST),
];

/// Health checks of load balancers. Some balancers send them in HTTP/1.0.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Sender of a request, as its token identifies it.
#[derive(Clone, Debug)]
pub struct Caller {
    pub scope: Tenant,
    /// `None` has every right: the owner.
    token: Option<Arc<Token>>,
}

impl Caller {
    /// The node's owner.
    pub const OWNER: Self = Self { scope: Tenant::OWNER, token: None };

    pub fn may(&self, right: Permission) -> bool {
        self.token.as_ref().is_none_or(|token| token.may(right))
    }

    /// Returns whether a token of this caller has the right. Without configured tokens no caller
    /// holds one.
    pub fn holds(&self, right: Permission) -> bool {
        self.token.as_ref().is_some_and(|token| token.may(right))
    }

    pub fn require(&self, right: Permission) -> Result<(), HttpProblem> {
        if self.may(right) {
            return Ok(());
        }
        Err(HttpProblem::new(403, "forbidden", format!("this token has no right to `{right}`")))
    }

    /// Returns the name for records.
    pub fn name(&self) -> String {
        self.scope.token().map_or_else(|| "owner".to_owned(), |token| format!("token {token}"))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = HttpProblem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, HttpProblem> {
        let unknown = || HttpProblem::new(500, "internal", "the request was not authenticated");
        parts.extensions.get().cloned().ok_or_else(unknown)
    }
}

/// Authenticator of requests.
pub struct Authenticator {
    known: RwLock<Arc<KnownTokens>>,
    /// Host names that requests may name. `None` where the name is no evidence of the sender.
    hosts: Option<Vec<String>>,
}

/// The accepted tokens.
struct KnownTokens {
    tokens: Tokens,
    /// Each token with its rate, in the order of `tokens`.
    each: Vec<(Arc<Token>, Rate)>,
}

impl KnownTokens {
    fn of(tokens: Tokens) -> RwLock<Arc<Self>> {
        let rate = |token: &Token| Rate::new(token.requests_per_second);
        let each = tokens.list().iter().map(|token| (Arc::new(token.clone()), rate(token))).collect();
        RwLock::new(Arc::new(Self { tokens, each }))
    }
}

impl Authenticator {
    pub fn new(tokens: Tokens, exposure: Exposure, hosts: &[String]) -> Self {
        let hosts = (exposure == Exposure::Loopback).then(|| hosts.to_vec());
        Self { known: KnownTokens::of(tokens), hosts }
    }

    /// Replaces the accepted tokens. Requests under way continue.
    pub fn replace(&self, tokens: Tokens) {
        let new = KnownTokens::of(tokens).into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    fn known(&self) -> Arc<KnownTokens> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether `caller` holds a token, or is the owner because there are no tokens.
    fn knows(&self, caller: &Caller) -> bool {
        caller.token.is_some() || self.known().tokens.is_empty()
    }

    /// Returns the caller, and how long the request has to wait. Sets `known_as` to the token's
    /// scope as soon as the token is identified.
    fn authenticate(
        &self,
        request: &Request,
        known_as: &mut Option<Tenant>,
    ) -> Result<(Caller, Duration), HttpProblem> {
        if is_bare_probe(request) {
            return Ok((Caller::OWNER, Duration::ZERO));
        }
        let authority = authority(request)?;
        self.check_host(&authority)?;
        check_origin(request.headers(), &authority)?;
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let is_open = OPEN.iter().any(|(path, open)| request.uri().path() == *path && method == open);
        let secret = secret(request.headers())?;
        let known = self.known();
        if is_open || known.tokens.is_empty() {
            return Ok((Caller::OWNER, Duration::ZERO));
        }
        let secret = secret.ok_or_else(|| unauthorized("this node asks for a token"))?;
        let at = known.tokens.find(&secret).ok_or_else(|| unauthorized("this node knows no such token"))?;
        let (token, rate) = &known.each[at];
        *known_as = Some(token.name.clone());
        let wait = rate.take().map_err(|early| {
            let detail = format!(
                "this token may send {} requests a second, and those of a whole second already wait; send fewer at once",
                token.requests_per_second
            );
            HttpProblem::new(429, "too_many_requests", detail).after(Some(early))
        })?;
        Ok((Caller { scope: token.name.clone(), token: Some(token.clone()) }, wait))
    }

    /// Refuses a host name that is not one of this node's. A foreign page can point its own name at
    /// this machine and send requests as if this node served the page (DNS rebinding). The page
    /// cannot change the name that the browser sends.
    fn check_host(&self, authority: &Authority) -> Result<(), HttpProblem> {
        let Some(hosts) = &self.hosts else { return Ok(()) };
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        let is_here = name.parse::<IpAddr>().map_or(name.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback());
        if is_here || hosts.iter().any(|host| host.eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        let detail = "this node is not asked by that name; its owner can add it to `serve.hosts`";
        Err(HttpProblem::new(421, "misdirected", detail))
    }
}

/// Passes an authorised request on with its [`Caller`], or answers with the refusal.
pub async fn auth_layer(
    State((keeper, connections)): State<(Arc<Authenticator>, Pool<Tenant>)>,
    request: Request,
    next: Next,
) -> Response {
    let mut request = drain_on_drop(request);
    let mut known_as = None;
    let mut response = match keeper.authenticate(&request, &mut known_as) {
        Ok((caller, wait)) => {
            if let Some(name) = caller.scope.token() {
                note_token(name);
            }
            // A request to an open route does not identify the owner of its connection.
            let party = request.extensions().get::<ConnectionParty>().filter(|_| keeper.knows(&caller));
            if party.is_some_and(|party| party.join(&caller.scope, &connections).is_err()) {
                close(too_many().into_response())
            } else {
                request.extensions_mut().insert(caller);
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                next.run(request).await
            }
        }
        Err(problem) => {
            if known_as.is_some() {
                tokio::time::sleep(TOO_OFTEN_PAUSE).await;
            }
            problem.into_response()
        }
    };
    if let Some(scope) = known_as {
        response.extensions_mut().insert(RequestToken(scope));
    }
    response
}

/// Returns `response`, marked to close the connection.
fn close(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Passes each request from the socket of the node's owner on as a request of the owner.
pub async fn owner_layer(request: Request, next: Next) -> Response {
    let mut request = drain_on_drop(request);
    request.extensions_mut().insert(Caller::OWNER);
    next.run(request).await
}

fn authority(request: &Request) -> Result<Authority, HttpProblem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let one = match (hosts.next(), hosts.next()) {
        (Some(one), None) => one.to_str().ok().and_then(|text| text.parse().ok()),
        _ => None,
    };
    one.ok_or_else(|| HttpProblem::new(400, "malformed", "the request does not say in one `Host` whom it is for"))
}

/// Refuses cross-origin requests: a foreign page may not use the browser's credentials for this
/// node.
fn check_origin(headers: &HeaderMap, authority: &Authority) -> Result<(), HttpProblem> {
    let is_own = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        rest.is_some_and(|rest| rest.eq_ignore_ascii_case(authority.as_str()))
    };
    if headers.get_all(ORIGIN).iter().all(is_own) {
        return Ok(());
    }
    Err(HttpProblem::new(403, "cross_origin", "a page of another origin asks; this node answers its own page alone"))
}

/// Returns whether the request is a health check in HTTP/1.0 without a host name. No browser sends
/// such a request.
fn is_bare_probe(request: &Request) -> bool {
    request.version() == Version::HTTP_10
        && [Method::GET, Method::HEAD].contains(request.method())
        && PROBES.contains(&request.uri().path())
        && [HOST, ORIGIN].iter().all(|name| !request.headers().contains_key(name))
}

/// Returns the secret of `Bearer SECRET`, or, for browsers, the password of `Basic`. Refuses a
/// second `Authorization` header: a proxy may have evaluated the other one.
fn secret(headers: &HeaderMap) -> Result<Option<String>, HttpProblem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(HttpProblem::new(400, "malformed", "the request has more than one `Authorization`")),
        (value, None) => Ok(value.and_then(secret_of)),
    }
}

fn secret_of(value: &HeaderValue) -> Option<String> {
    let (scheme, value) = value.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(BASE64_STANDARD.decode(value.trim()).ok()?).ok()?;
    Some(pair.split_once(':')?.1.to_owned())
}

fn unauthorized(detail: &'static str) -> HttpProblem {
    // One header for each challenge. Chromium reads one challenge per header, and shows no login
    // prompt if it does not understand that one.
    let challenges = ["Bearer", "Basic realm=\"node\", charset=\"UTF-8\""].map(HeaderValue::from_static);
    let refused = HttpProblem::new(401, "unauthorized", detail);
    challenges.into_iter().fold(refused, |refused, challenge| refused.header(WWW_AUTHENTICATE, challenge))
}
