//! Answers: the memory that one holds until it is sent, and range requests (RFC 9110, section 14).

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::auth::Caller;
use super::observed::mapped;
use super::pools::ServicePools;
use super::problem::HttpProblem;
use crate::digest::Digest;
use crate::shares::{STEP_BYTES, Share};
use crate::slice::Tenant;

/// Longest answer that reserves no memory. The limit on connections bounds the number of such
/// answers.
const SMALL_BYTES: u64 = 8 << 10;

/// Size of one read from a file. A slow client holds some of these pieces in memory.
const PIECE_BYTES: usize = 16 << 10;

/// Reserves memory for each answer that is in memory, until the last byte was passed to the system
/// or the connection has ended. Answers 429 where no memory is free.
pub async fn reserve_answer(
    State(rooms): State<ServicePools>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    // A stream has no length, and holds only its current pieces.
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    if bytes <= SMALL_BYTES || response.extensions().get::<MemoryCounted>().is_some() {
        return response;
    }
    match rooms.answer(&caller.scope, bytes) {
        Ok(room) => response.map(|body| holding(body, room)),
        Err(problem) => problem.into_response(),
    }
}

/// Mark of an answer whose memory is already counted.
#[derive(Clone, Copy)]
struct MemoryCounted;

/// Returns an answer that is part of this program, and needs no memory.
pub fn fixed(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    response.extensions_mut().insert(MemoryCounted);
    response
}

/// Returns an answer for which `room` was reserved before it was made.
pub fn in_room(response: impl IntoResponse, room: Share<Tenant>) -> Response {
    let mut response = response.into_response().map(|body| holding(body, room));
    response.extensions_mut().insert(MemoryCounted);
    response
}

/// Returns `body`, whose bytes all hold `room`, also those still on their way out after the whole
/// body was read.
fn holding(body: Body, room: Share<Tenant>) -> Body {
    let room = Arc::new(room);
    mapped(body, move |bytes| Bytes::from_owner(ReservedBody { bytes, _room: room.clone() }))
}

struct ReservedBody {
    bytes: Bytes,
    _room: Arc<Share<Tenant>>,
}

impl AsRef<[u8]> for ReservedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Immutable bytes, of which a client can request a range.
pub struct ImmutableContent {
    pub media_type: &'static str,
    pub digest: Digest,
    pub bytes: ContentLocation,
}

/// Location of the bytes.
pub enum ContentLocation {
    Memory(Bytes),
    File { file: File, bytes: u64 },
}

impl ImmutableContent {
    /// Returns the answer to a request with these headers: all bytes, a range, or "not modified".
    pub fn answer(self, headers: &HeaderMap) -> Result<Response, HttpProblem> {
        let tag = HeaderValue::try_from(format!("\"{}\"", self.digest));
        let tag = tag.map_err(|error| HttpProblem::new(500, "internal", error.to_string()))?;
        if headers.get_all(IF_NONE_MATCH).iter().any(|known| names(known, &tag)) {
            return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
        }
        let bytes = self.bytes.len();
        let part = match wanted(headers, &tag).map_or(RequestedRange::All, |range| parse(range, bytes)) {
            RequestedRange::All => None,
            RequestedRange::Part(part) => Some(part),
            RequestedRange::Nothing => {
                let all = HeaderValue::try_from(format!("bytes */{bytes}"));
                let all = all.map_err(|error| HttpProblem::new(500, "internal", error.to_string()))?;
                let detail = format!("the range lies behind the {bytes} bytes that there are");
                return Err(HttpProblem::new(416, "range_not_satisfiable", detail).header(CONTENT_RANGE, all));
            }
        };
        let range = part.clone().unwrap_or(0..bytes);
        let length = HeaderValue::from(range.end - range.start);
        let mut response =
            self.bytes.body(&range).map_err(|error| HttpProblem::of_host("store", &error))?.into_response();
        let fixed: [(HeaderName, HeaderValue); 4] = [
            (CONTENT_TYPE, HeaderValue::from_static(self.media_type)),
            (CONTENT_LENGTH, length),
            (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
            (ETAG, tag),
        ];
        response.headers_mut().extend(fixed);
        if let Some(part) = part {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let place = HeaderValue::try_from(format!("bytes {}-{}/{bytes}", part.start, part.end - 1));
            let place = place.map_err(|error| HttpProblem::new(500, "internal", error.to_string()))?;
            response.headers_mut().insert(CONTENT_RANGE, place);
        }
        Ok(response)
    }
}

impl ContentLocation {
    const fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }

    fn body(self, range: &Range<u64>) -> io::Result<Body> {
        let bytes = range.end - range.start;
        match self {
            Self::Memory(all) => {
                let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
                let part = all.slice(start..end);
                // Copies a short part, so that it does not keep all the bytes in memory.
                Ok(Body::from(if bytes <= STEP_BYTES { Bytes::copy_from_slice(&part) } else { part }))
            }
            Self::File { mut file, .. } => {
                file.seek(SeekFrom::Start(range.start))?;
                let file = tokio::fs::File::from_std(file).take(bytes);
                Ok(Body::from_stream(ReaderStream::with_capacity(file, PIECE_BYTES)))
            }
        }
    }
}

/// Returns the requested range, unless `If-Range` names other bytes.
fn wanted<'a>(headers: &'a HeaderMap, tag: &HeaderValue) -> Option<&'a str> {
    // A digest identifies the content, so dates are not supported.
    let is_meant = headers.get(IF_RANGE).is_none_or(|known| known == tag);
    headers.get(RANGE).filter(|_| is_meant)?.to_str().ok()
}

/// Returns whether a list of entity tags contains this one, by the weak comparison.
fn names(list: &HeaderValue, tag: &HeaderValue) -> bool {
    let (list, tag) = (list.to_str().unwrap_or_default(), tag.to_str().unwrap_or_default());
    list.split(',').map(|known| known.trim().trim_start_matches("W/")).any(|known| known == "*" || known == tag)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum RequestedRange {
    All,
    Part(Range<u64>),
    /// The range is not satisfiable.
    Nothing,
}

/// Parses `range` as one range of bytes. Another unit, several ranges and invalid syntax select all
/// bytes.
fn parse(range: &str, bytes: u64) -> RequestedRange {
    let parsed = || {
        let (first, last) = range.trim().strip_prefix("bytes=")?.trim().split_once('-')?;
        let number = |text: &str| {
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            // A number that does not fit stands for a position beyond all bytes.
            is_plain.then(|| text.parse().unwrap_or(u64::MAX))
        };
        Some(match (first, last) {
            ("", suffix) => (bytes.saturating_sub(number(suffix)?), bytes),
            (first, "") => (number(first)?, bytes),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return None;
                }
                (first, last.saturating_add(1).min(bytes))
            }
        })
    };
    match parsed() {
        None => RequestedRange::All,
        Some((start, end)) if start < end => RequestedRange::Part(start..end),
        Some(_) => RequestedRange::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        for (range, wanted) in [
            ("bytes=0-", RequestedRange::Part(0..100)),
            ("bytes=40-", RequestedRange::Part(40..100)),
            ("bytes=0-0", RequestedRange::Part(0..1)),
            ("bytes=98-1000", RequestedRange::Part(98..100)),
            ("bytes=0-99999999999999999999999", RequestedRange::Part(0..100)),
            ("bytes=-1", RequestedRange::Part(99..100)),
            ("bytes=-1000", RequestedRange::Part(0..100)),
            ("bytes=-0", RequestedRange::Nothing),
            ("bytes=100-", RequestedRange::Nothing),
            ("bytes=100-200", RequestedRange::Nothing),
            ("bytes=99999999999999999999999-", RequestedRange::Nothing),
            ("bytes=2-1", RequestedRange::All),
            ("bytes=0-1,5-6", RequestedRange::All),
            ("bytes=-", RequestedRange::All),
            ("bytes=+1-2", RequestedRange::All),
            ("lines=1-2", RequestedRange::All),
            ("", RequestedRange::All),
        ] {
            assert_eq!(parse(range, 100), wanted, "{range}");
        }
        assert_eq!(parse("bytes=0-", 0), RequestedRange::Nothing);
    }

    #[test]
    fn an_answer_that_holds_room_is_as_long_as_before_and_frees_it_with_its_last_byte() {
        let pool = crate::shares::Pool::new(100);
        let body = holding(Body::from("0123456789"), pool.take(&Tenant::OWNER, 10).unwrap());
        assert_eq!(body.size_hint().exact(), Some(10));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let frame = runtime.block_on(async { { body }.frame().await });
        let bytes = frame.unwrap().unwrap().into_data().unwrap();
        assert_eq!((&*bytes, pool.taken()), (&b"0123456789"[..], 10));
        drop(bytes);
        assert_eq!(pool.taken(), 0);
    }

    /// Returns the status and the bytes. Asserts that both storages answer alike.
    fn answers(headers: &[(HeaderName, &'static str)]) -> (u16, Vec<u8>) {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let places =
            [ContentLocation::Memory(Bytes::from_static(b"0123456789")), ContentLocation::File { file, bytes: 10 }];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let [memory, file] = places.map(|bytes| {
            let content = ImmutableContent { media_type: "text/plain", digest: Digest::from([7; 32]), bytes };
            let response = content.answer(&headers).into_response();
            let status = response.status().as_u16();
            let has_place = response.headers().contains_key(CONTENT_RANGE);
            assert_eq!(has_place, [206, 416].contains(&status));
            let body = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
            (status, if status == 416 { Vec::new() } else { body.to_vec() })
        });
        assert_eq!(memory, file);
        memory
    }

    #[test]
    fn a_part_is_answered_from_memory_as_from_a_file() {
        const TAG: &str = "\"0707070707070707070707070707070707070707070707070707070707070707\"";
        assert_eq!(answers(&[]), (200, b"0123456789".to_vec()));
        assert_eq!(answers(&[(RANGE, "bytes=4-")]), (206, b"456789".to_vec()));
        assert_eq!(answers(&[(RANGE, "bytes=4-"), (IF_RANGE, TAG)]), (206, b"456789".to_vec()));
        assert_eq!(answers(&[(RANGE, "bytes=4-"), (IF_RANGE, "\"other\"")]), (200, b"0123456789".to_vec()));
        assert_eq!(answers(&[(RANGE, "bytes=10-")]), (416, Vec::new()));
        assert_eq!(answers(&[(IF_NONE_MATCH, TAG)]), (304, Vec::new()));
        assert_eq!(answers(&[(IF_NONE_MATCH, "\"other\", W/\"more\"")]), (200, b"0123456789".to_vec()));
    }
}
