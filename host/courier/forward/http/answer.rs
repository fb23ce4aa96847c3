//! What is taken from an answer.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};

use crate::courier::backoff;

/// What is read of the reason for a refusal; a longer one is not understood.
pub const PROBLEM_BYTES_MAX: usize = 16 << 10;

/// The longest of the words that say why.
const CODE_CHARS_MAX: usize = 64;

/// The body; of one that is longer than `bytes_max` its first `bytes_max + 1` bytes, and the rest is not waited for.
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

/// Whether asking again has the same answer. Of what blames the request 408 Request Timeout, 425 Too Early and 429 Too Many
/// Requests have not; and what comes without a node's reason may be another server's in its place, such as the page before a
/// hotel's network, unless it is the bundle's size that is blamed.
pub fn is_permanent(status: StatusCode, has_reason: bool) -> bool {
    let is_final = status.is_client_error() && !matches!(status.as_u16(), 408 | 425 | 429);
    is_final && (has_reason || status == StatusCode::PAYLOAD_TOO_LARGE)
}

/// How long the other side asks to be left alone (RFC 9110, section 10.2.3), at most [`backoff::RETRY_AFTER_MAX`]. A date
/// counts from the one in the answer, if it has one, so that two clocks that differ do no harm.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let asked = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_digit()) {
        // What is too long for a number is a long time.
        let seconds = asked.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(backoff::RETRY_AFTER_MAX));
    }
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let said = headers.get("date").and_then(|said| said.to_str().ok()).and_then(date).unwrap_or(now);
    let wait = date(asked)?.duration_since(said).unwrap_or_default();
    Some(wait.min(backoff::RETRY_AFTER_MAX))
}

/// The fields of RFC 9457 that are of use here.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    code: Option<String>,
}

/// The code, if it has the form of one, and what else is said of the reason. Anything but a problem says nothing.
pub fn problem(bytes: &[u8]) -> (Option<String>, Option<String>) {
    let Problem { title, detail, code } = serde_json::from_slice(bytes).unwrap_or_default();
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_code = |code: &String| (1..=CODE_CHARS_MAX).contains(&code.len()) && code.bytes().all(allowed);
    (code.filter(is_code), detail.or(title))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_hundreds_are_permanent_but_for_three_if_a_node_says_so() {
        let permanent = |code: &u16, has_reason| is_permanent(StatusCode::from_u16(*code).unwrap(), has_reason);
        let temporary: Vec<u16> = (400..500).filter(|code| !permanent(code, true)).collect();
        assert_eq!(temporary, [408, 425, 429]);
        assert!(!(100..400).chain(500..=999).any(|code| permanent(&code, true)));
        let without_reason: Vec<u16> = (100..=999).filter(|code| permanent(code, false)).collect();
        assert_eq!(without_reason, [413]);
    }

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
            assert_eq!(problem(body.as_bytes()), (owned(code), owned(told)), "{body}");
        }
        let long = format!(r#"{{"code":"{}"}}"#, "x".repeat(65));
        assert_eq!(problem(long.as_bytes()), (None, None));
        assert_eq!(problem("[".repeat(PROBLEM_BYTES_MAX).as_bytes()), (None, None));
    }
}
