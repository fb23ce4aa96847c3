//! Error responses in the format of RFC 9457.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// Retry delay after a host error: the owner may have freed disk space by then.
pub const HOST_RETRY: Duration = Duration::from_secs(30);

/// An error, for people (`detail`) and for programs (`code`).
#[derive(Debug)]
pub struct HttpProblem(Box<ProblemParts>);

#[derive(Debug)]
struct ProblemParts {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
    more: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl HttpProblem {
    /// Retry delay when the node is busy.
    pub const BUSY_RETRY: Duration = Duration::from_secs(1);

    pub fn new(status: u16, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = detail.into();
        Self(Box::new(ProblemParts { status, code, detail, retry_after: None, more: Map::new(), headers: Vec::new() }))
    }

    /// Returns an error for a request that could not be parsed.
    pub fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(422, "malformed", detail)
    }

    pub fn too_large(bytes_max: u64) -> Self {
        Self::new(413, "too_large", format!("the body has more than the {bytes_max} bytes that are taken"))
    }

    /// Returns an error that is this node's fault. The cause goes to the log only, for the owner.
    pub fn of_host(code: &'static str, error: &dyn std::fmt::Display) -> Self {
        tracing::error!(code, "{error}");
        Self::new(503, code, "this node cannot do that now; its log says why").after(Some(HOST_RETRY))
    }

    pub fn after(mut self, retry_after: Option<Duration>) -> Self {
        self.0.retry_after = retry_after;
        self
    }

    /// Adds a member to the JSON object, for programs.
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.0.more.insert(name.to_owned(), value);
        self
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    #[cfg(test)]
    pub const fn code(&self) -> &'static str {
        self.0.code
    }
}

impl IntoResponse for HttpProblem {
    fn into_response(self) -> Response {
        let ProblemParts { status, code, detail, retry_after, more, headers } = *self.0;
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": detail,
            "code": code,
        });
        if let Value::Object(body) = &mut body {
            body.extend(more);
        }
        let mut response = (status, body.to_string()).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response.headers_mut().extend(headers);
        if let Some(retry_after) = retry_after {
            let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}
