//! Parsing of HTTP replies.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Response;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::courier::backoff;
use crate::receipt::{REFUSAL_BYTES_MAX, is_refusal_code};

/// Maximum size of a refusal's body. A longer one is not parsed.
pub const PROBLEM_BYTES_MAX: usize = 16 << 10;

/// Reads the body. Of a body longer than `bytes_max`, reads only the first `bytes_max + 1` bytes.
pub async fn read(response: &mut Response, bytes_max: usize) -> reqwest::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await? {
        let room = bytes_max + 1 - bytes.len();
        bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        if bytes.len() > bytes_max {
            break;
        }
    }
    Ok(bytes)
}

/// Returns the requested pause (RFC 9110, section 10.2.3), at most [`backoff::RETRY_AFTER_MAX`]. A
/// date counts from the `Date` header if there is one, so that different clocks do no harm.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let asked = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that does not fit is a long time.
        let seconds = asked.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(backoff::RETRY_AFTER_MAX));
    }
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let said = headers.get("date").and_then(|said| said.to_str().ok()).and_then(date).unwrap_or(now);
    let wait = date(asked)?.duration_since(said).unwrap_or_default();
    Some(wait.min(backoff::RETRY_AFTER_MAX))
}

/// The relevant fields of RFC 9457, and the extension member of a node.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct ProblemFields {
    title: Option<String>,
    detail: Option<String>,
    code: Option<String>,
    refusal: Option<String>,
}

/// Content of a refusal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RefusalContent {
    /// Reason code, if it has the format of one.
    pub code: Option<String>,
    /// Reason, for people.
    pub text: Option<String>,
    /// Bytes that are said to be signed, not verified yet.
    pub signed: Option<Vec<u8>>,
}

/// Parses a problem document. The result is empty if `bytes` are not a problem document.
pub fn problem(bytes: &[u8]) -> RefusalContent {
    let ProblemFields { title, detail, code, refusal } = serde_json::from_slice(bytes).unwrap_or_default();
    let signed = refusal.and_then(|refusal| BASE64.decode(refusal).ok());
    RefusalContent {
        code: code.filter(|code| is_refusal_code(code)),
        text: detail.or(title),
        signed: signed.filter(|signed| signed.len() <= REFUSAL_BYTES_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_with_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let day = Some(backoff::RETRY_AFTER_MAX);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (said, date, wait) in [
            ("0", None, seconds(0)),
            ("120", None, seconds(120)),
            (" 120 ", None, seconds(120)),
            ("86401", None, day),
            ("99999999999999999999999999", None, day),
            ("Sun, 06 Nov 1994 08:50:37 GMT", None, seconds(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", None, seconds(60)),
            ("Sun, 06 Nov 1994 08:40:00 GMT", None, seconds(0)),
            ("Sat, 06 Nov 2094 08:40:00 GMT", None, day),
            ("Sun, 06 Nov 1994 09:00:10 GMT", Some("Sun, 06 Nov 1994 09:00:00 GMT"), seconds(10)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some("yesterday"), seconds(60)),
            ("", None, None),
            ("-1", None, None),
            ("1.5", None, None),
            ("soon", None, None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, said.parse().unwrap());
            headers.extend(date.map(|date| (reqwest::header::DATE, date.parse().unwrap())));
            assert_eq!(retry_after(&headers, now), wait, "{said}, {date:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_problem_is_read_as_far_as_it_is_one() {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        for (body, code, told) in [
            (
                r#"{"type":"about:blank","title":"Gone","status":410,"detail":"too old","code":"expired"}"#,
                Some("expired"),
                Some("too old"),
            ),
            (r#"{"title":"Gone"}"#, None, Some("Gone")),
            (r#"{"code":"Expired"}"#, None, None),
            (r#"{"code":""}"#, None, None),
            (r#"{"code":"a\nb","detail":"d"}"#, None, Some("d")),
            (r#"{"code":7,"detail":"d"}"#, None, None),
            (r#"{"detail":"d""#, None, None),
            ("[]", None, None),
            ("<html>", None, None),
            ("", None, None),
        ] {
            let expected = RefusalContent { code: owned(code), text: owned(told), signed: None };
            assert_eq!(problem(body.as_bytes()), expected, "{body}");
        }
        let long = format!(r#"{{"code":"{}"}}"#, "x".repeat(65));
        assert_eq!(problem(long.as_bytes()), RefusalContent::default());
        assert_eq!(problem("[".repeat(PROBLEM_BYTES_MAX).as_bytes()), RefusalContent::default());
        let refused = |bytes: &[u8]| problem(format!(r#"{{"refusal":"{}"}}"#, BASE64.encode(bytes)).as_bytes()).signed;
        assert_eq!(refused(&[7; REFUSAL_BYTES_MAX]), Some(vec![7; REFUSAL_BYTES_MAX]));
        assert_eq!(refused(&[7; REFUSAL_BYTES_MAX + 1]), None);
        assert_eq!(problem(br#"{"refusal":"~"}"#), RefusalContent::default());
    }
}
