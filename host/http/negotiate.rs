//! Request headers about bodies: content codings, content types, and the media type of the response
//! (`Accept`).

use std::cmp::Reverse;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::problem::HttpProblem;

pub const BYTES: &str = "application/octet-stream";
pub const JSON: &str = "application/json";
pub const WASM: &str = "application/wasm";
pub const PROOF: &str = "application/vnd.compute-host.proof";

/// Media types of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaForm {
    Json,
    Proof,
    /// Output of a guest.
    Output,
    Wasm,
}

impl MediaForm {
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Proof => PROOF,
            Self::Output => BYTES,
            Self::Wasm => WASM,
        }
    }
}

/// A range of media types, with its weight in thousandths (RFC 9110, section 12.5.1).
struct Range<'a> {
    kind: &'a str,
    subkind: &'a str,
    weight: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subkind) = parts.next()?.split_once('/')?;
        let is_weight = |part: &&str| part.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("q="));
        let weight = parts.find(is_weight).map_or(Some(1.0), |part| part[2..].trim().parse::<f32>().ok())?;
        Some(Self { kind, subkind, weight: (weight.clamp(0.0, 1.0) * 1000.0) as u16 })
    }

    /// Returns how specifically the range matches `form` (higher is closer); `None` if the range
    /// does not match.
    fn fits(&self, form: MediaForm) -> Option<u8> {
        let (kind, subkind) = form.media_type().split_once('/')?;
        let is = |own: &str, other: &str| own.eq_ignore_ascii_case(other);
        match (self.kind, self.subkind) {
            ("*", "*") => Some(0),
            (own, "*") if is(own, kind) => Some(1),
            (own, sub) if is(own, kind) && is(sub, subkind) => Some(2),
            _ => None,
        }
    }
}

/// Returns the form that the client prefers: by weight, then by how specific and how early its
/// range is, then by the order of `forms`. Without an `Accept` header, returns the first of
/// `forms`.
pub fn negotiate(headers: &HeaderMap, forms: &[MediaForm]) -> Result<MediaForm, HttpProblem> {
    let accept = headers.get_all(ACCEPT);
    if accept.iter().next().is_none() {
        return Ok(forms[0]);
    }
    let texts = accept.iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<Range<'_>> = texts.flat_map(|value| value.split(',')).filter_map(Range::parse).collect();
    let wish = |form: MediaForm| {
        let fits =
            ranges.iter().enumerate().filter_map(|(at, range)| Some((range.fits(form)?, Reverse(at), range.weight)));
        let (closeness, at, weight) = fits.max()?;
        (weight > 0).then_some((weight, closeness, at))
    };
    let wishes = forms.iter().enumerate().filter_map(|(at, form)| Some((wish(*form)?, Reverse(at), *form)));
    wishes.max_by_key(|(wish, at, _)| (*wish, *at)).map(|(.., form)| form).ok_or_else(|| {
        let can = forms.iter().map(|form| form.media_type()).collect::<Vec<_>>().join(", ");
        HttpProblem::new(406, "not_acceptable", format!("this can be had as {can}"))
    })
}

/// Refuses content codings, transfer codings and expectations that this node does not support,
/// before the body is read.
pub async fn check_codings(request: Request, next: Next) -> Response {
    match codings(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn codings(headers: &HeaderMap) -> Result<(), HttpProblem> {
    let others = |name: HeaderName, known: &'static str| {
        let values = headers.get_all(name).into_iter().map(|value| value.to_str().unwrap_or("?"));
        values.flat_map(|value| value.split(',')).any(|one| !one.trim().eq_ignore_ascii_case(known))
    };
    if others(CONTENT_ENCODING, "identity") {
        let detail = "a body is taken as it is; send it without `Content-Encoding`";
        let can = HeaderValue::from_static("identity");
        return Err(HttpProblem::new(415, "unsupported_media_type", detail).header(ACCEPT_ENCODING, can));
    }
    if others(TRANSFER_ENCODING, "chunked") {
        return Err(HttpProblem::new(501, "not_implemented", "of transfer codings, `chunked` alone is understood"));
    }
    if others(EXPECT, "100-continue") {
        return Err(HttpProblem::new(417, "expectation_failed", "of expectations, `100-continue` alone is understood"));
    }
    Ok(())
}

/// Refuses a body whose `Content-Type` is none of `taken`. A body without `Content-Type` is
/// accepted.
pub fn content_type(headers: &HeaderMap, taken: &[&str]) -> Result<(), HttpProblem> {
    let Some(found) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let found = found.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if taken.iter().any(|one| one.eq_ignore_ascii_case(found)) {
        return Ok(());
    }
    Err(HttpProblem::new(415, "unsupported_media_type", format!("what is taken here is {}", taken.join(", "))))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn wanting(range: &'static str) -> Option<MediaForm> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(range))]);
        negotiate(&headers, &[MediaForm::Json, MediaForm::Proof]).ok()
    }

    #[test]
    fn what_is_wanted_is_given_if_it_can_be_had() {
        assert_eq!(negotiate(&HeaderMap::new(), &[MediaForm::Json, MediaForm::Proof]).ok(), Some(MediaForm::Json));
        for (range, form) in [
            ("*/*", Some(MediaForm::Json)),
            ("application/*", Some(MediaForm::Json)),
            (PROOF, Some(MediaForm::Proof)),
            ("text/html, application/vnd.compute-host.proof;q=0.5, */*", Some(MediaForm::Json)),
            ("application/json;q=0.1, application/vnd.compute-host.proof; Q=0.2", Some(MediaForm::Proof)),
            ("application/vnd.compute-host.proof, application/json", Some(MediaForm::Proof)),
            ("*/*, application/json;q=0", Some(MediaForm::Proof)),
            ("application/json;q=0, application/*;q=0.001", Some(MediaForm::Proof)),
            ("application/json;q=0", None),
            ("*/*;q=0", None),
            ("application/json;q=x", None),
            ("text/html", None),
            ("", None),
        ] {
            assert_eq!(wanting(range), form, "{range}");
        }
    }

    #[test]
    fn codings_and_expectations_that_are_not_understood_are_refused() {
        let said = |name: HeaderName, value: &'static str| {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
            codings(&headers).map_err(|problem| problem.into_response().status().as_u16())
        };
        for (name, value, answer) in [
            (CONTENT_ENCODING, "identity", Ok(())),
            (CONTENT_ENCODING, "gzip", Err(415)),
            (CONTENT_ENCODING, "identity, br", Err(415)),
            (TRANSFER_ENCODING, "Chunked", Ok(())),
            (TRANSFER_ENCODING, "gzip, chunked", Err(501)),
            (EXPECT, "100-Continue", Ok(())),
            (EXPECT, "more", Err(417)),
        ] {
            assert_eq!(said(name.clone(), value), answer, "{name}: {value}");
        }
        assert!(codings(&HeaderMap::new()).is_ok());
    }
}
