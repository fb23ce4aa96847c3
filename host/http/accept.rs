//! What a body says that it is, and what its sender wants to hear.

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};

use super::problem::Problem;

pub const BYTES: &str = "application/octet-stream";
pub const JSON: &str = "application/json";
pub const WASM: &str = "application/wasm";
pub const PROOF: &str = "application/vnd.compute-host.proof";

/// What an answer can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Proof,
    /// What a guest has put out.
    Output,
    Wasm,
}

impl Form {
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Proof => PROOF,
            Self::Output => BYTES,
            Self::Wasm => WASM,
        }
    }
}

/// The first of what is wanted that can be had; the first of `forms` where all is welcome. Weights (`q=`) are not looked at.
pub fn negotiate(headers: &HeaderMap, forms: &[Form]) -> Result<Form, Problem> {
    let wanted: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .collect();
    if wanted.is_empty() {
        return Ok(forms[0]);
    }
    let fits = |range: &str, form: Form| {
        let (kind, _) = form.media_type().split_once('/').unwrap_or_default();
        range == "*/*" || range.eq_ignore_ascii_case(form.media_type()) || range == format!("{kind}/*")
    };
    let found = wanted.iter().find_map(|range| forms.iter().copied().find(|form| fits(range, *form)));
    found.ok_or_else(|| {
        let can = forms.iter().map(|form| form.media_type()).collect::<Vec<_>>().join(", ");
        Problem::new(406, "not_acceptable", format!("this can be had as {can}"))
    })
}

/// Refuses a body that says that it is something else; one that says nothing is taken for what is expected.
pub fn content_type(headers: &HeaderMap, taken: &[&str]) -> Result<(), Problem> {
    let Some(found) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let found = found.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if taken.iter().any(|one| one.eq_ignore_ascii_case(found)) {
        return Ok(());
    }
    Err(Problem::new(415, "unsupported_media_type", format!("what is taken here is {}", taken.join(", "))))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn wanting(range: &'static str) -> Option<Form> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(range))]);
        negotiate(&headers, &[Form::Json, Form::Proof]).ok()
    }

    #[test]
    fn what_is_wanted_is_given_if_it_can_be_had() {
        assert_eq!(negotiate(&HeaderMap::new(), &[Form::Json, Form::Proof]).ok(), Some(Form::Json));
        for (range, form) in [
            ("*/*", Some(Form::Json)),
            ("application/*", Some(Form::Json)),
            (PROOF, Some(Form::Proof)),
            ("text/html, application/vnd.compute-host.proof;q=0.5, */*", Some(Form::Proof)),
            ("text/html", None),
            ("", None),
        ] {
            assert_eq!(wanting(range), form, "{range}");
        }
    }
}
