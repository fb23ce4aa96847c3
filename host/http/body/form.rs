//! Forms (`multipart/form-data`, RFC 7578), read part by part as their bytes arrive. At most one
//! piece of a part is in memory.

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;

use super::super::problem::HttpProblem;
use super::BodyPieces;

const FORM: &str = "multipart/form-data";

/// Longest boundary (RFC 2046).
const BOUNDARY_BYTES_MAX: usize = 70;

/// Limit on the headers of one part, and on the bytes before the first part.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// A form and how far it was read.
pub struct FormReader {
    pieces: BodyPieces,
    /// CRLF, two dashes and the boundary.
    delimiter: Vec<u8>,
    /// Bytes that were read but not returned yet.
    held: Vec<u8>,
    place: FormPosition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FormPosition {
    /// Before the first delimiter.
    Preamble,
    Part,
    /// After a delimiter.
    Delimiter,
    End,
}

/// Returns true if `Content-Type` says that the body is a form.
pub fn is_form(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    media_type.get(..FORM.len()).is_some_and(|start| start.eq_ignore_ascii_case(FORM.as_bytes()))
}

impl FormReader {
    pub fn new(headers: &HeaderMap, body: Body) -> Result<Self, HttpProblem> {
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let boundary = parameter(media_type, "boundary").filter(|boundary| {
            let is_visible = boundary.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            is_visible && (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len()) && !boundary.ends_with(' ')
        });
        let boundary = boundary.ok_or_else(|| {
            HttpProblem::malformed(format!(
                "`Content-Type: {FORM}` names no `boundary` of 1 to {BOUNDARY_BYTES_MAX} bytes"
            ))
        })?;
        Ok(Self {
            pieces: BodyPieces::new(body),
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // The first delimiter may be at the start of the body, without the CRLF before it.
            held: b"\r\n".to_vec(),
            place: FormPosition::Preamble,
        })
    }

    /// Skips the rest of the current part and returns the name of the next one; `None` at the end
    /// of the form.
    pub async fn next_part(&mut self) -> Result<Option<String>, HttpProblem> {
        let mut skipped = 0;
        loop {
            let is_preamble = self.place == FormPosition::Preamble;
            let Some(piece) = self.next_piece().await? else { break };
            skipped += piece.len();
            if is_preamble && skipped > HEAD_BYTES_MAX {
                return Err(HttpProblem::malformed("the form does not begin with its boundary"));
            }
        }
        if self.place == FormPosition::End || self.is_last().await? {
            self.place = FormPosition::End;
            return Ok(None);
        }
        let head = self.head().await?;
        self.place = FormPosition::Part;
        let name = name_of(&head);
        name.map(Some)
            .ok_or_else(|| HttpProblem::malformed("a part of the form has no `Content-Disposition` with a `name`"))
    }

    /// Returns the next bytes of the part; `None` at its end.
    pub async fn next_piece(&mut self) -> Result<Option<Bytes>, HttpProblem> {
        loop {
            if !matches!(self.place, FormPosition::Preamble | FormPosition::Part) {
                return Ok(None);
            }
            let found = find(&self.held, &self.delimiter);
            // Bytes that may be the start of a delimiter stay in the buffer.
            let len = found.unwrap_or_else(|| self.held.len().saturating_sub(self.delimiter.len() - 1));
            let piece: Vec<u8> = self.held.drain(..len).collect();
            if found.is_some() {
                self.held.drain(..self.delimiter.len());
                self.place = FormPosition::Delimiter;
            }
            if !piece.is_empty() {
                return Ok(Some(piece.into()));
            }
            if found.is_none() {
                self.read().await?;
            }
        }
    }

    /// Returns true if the delimiter was the last one of the form; otherwise moves to the next
    /// line.
    async fn is_last(&mut self) -> Result<bool, HttpProblem> {
        let line = loop {
            if self.held.starts_with(b"--") {
                return Ok(true);
            }
            if let Some(end) = find(&self.held, b"\r\n") {
                break self.held.drain(..end + 2).collect::<Vec<u8>>();
            }
            if self.held.len() > HEAD_BYTES_MAX {
                return Err(HttpProblem::malformed("a line of the form with its boundary does not end"));
            }
            self.read().await?;
        };
        if line.trim_ascii().is_empty() {
            Ok(false)
        } else {
            Err(HttpProblem::malformed("a line of the form begins with its boundary and goes on"))
        }
    }

    /// Returns the lines before the empty line.
    async fn head(&mut self) -> Result<Vec<u8>, HttpProblem> {
        loop {
            if self.held.starts_with(b"\r\n") {
                self.held.drain(..2);
                return Ok(Vec::new());
            }
            if let Some(end) = find(&self.held, b"\r\n\r\n") {
                let mut head: Vec<u8> = self.held.drain(..end + 4).collect();
                head.truncate(end);
                return Ok(head);
            }
            if self.held.len() > HEAD_BYTES_MAX {
                let detail = format!("a part of the form has more than {HEAD_BYTES_MAX} bytes of headers");
                return Err(HttpProblem::malformed(detail));
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), HttpProblem> {
        let piece = self.pieces.next().await?;
        let piece = piece.ok_or_else(|| HttpProblem::malformed("the form ends before its last boundary"))?;
        self.held.extend_from_slice(&piece);
        Ok(())
    }
}

/// Returns the position of `what` in `bytes`. Fast when the first byte of `what` is rare.
fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let (first, mut from) = (*what.first()?, 0);
    while let Some(at) = bytes.get(from..)?.iter().position(|byte| *byte == first) {
        if bytes[from + at..].starts_with(what) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn name_of(head: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(head);
    head.split("\r\n").find_map(|line| {
        let (header, value) = line.split_once(':')?;
        header.trim().eq_ignore_ascii_case("content-disposition").then(|| parameter(value, "name")).flatten()
    })
}

/// Returns the parameter `name` of a header's value (`kind; name=value; name="value"`).
fn parameter(value: &str, name: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        let (key, after) = rest.split_once('=')?;
        let (text, after) = unquoted(after.trim_start())?;
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(text);
        }
        rest = after.trim_start().strip_prefix(';')?;
    }
}

/// Returns the token or quoted string at the start of `text`, unquoted, and the rest of `text`.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return Some((text[..end].trim_end().to_owned(), &text[end..]));
    };
    let (mut value, mut is_escaped) = (String::new(), false);
    for (at, character) in quoted.char_indices() {
        match character {
            '"' if !is_escaped => return Some((value, &quoted[at + 1..])),
            '\\' if !is_escaped => is_escaped = true,
            _ => {
                is_escaped = false;
                value.push(character);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;

    /// Returns the parts of `body`, delivered in pieces of `piece_bytes`, or the code of the
    /// refusal.
    fn parts(boundary: &str, body: &[u8], piece_bytes: usize) -> Result<Vec<(String, Vec<u8>)>, String> {
        let media_type =
            HeaderValue::try_from(format!("multipart/form-data; charset=utf-8; boundary={boundary}")).unwrap();
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, media_type)]);
        assert!(is_form(&headers));
        let pieces: Vec<_> = body.chunks(piece_bytes).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        let read = async {
            let mut form = FormReader::new(&headers, Body::from_stream(stream::iter(pieces)))?;
            let mut parts = Vec::new();
            while let Some(name) = form.next_part().await? {
                let mut bytes = Vec::new();
                while let Some(piece) = form.next_piece().await? {
                    assert!(form.held.len() <= piece_bytes + form.delimiter.len() && !piece.is_empty());
                    bytes.extend_from_slice(&piece);
                }
                parts.push((name, bytes));
            }
            Ok(parts)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(read).map_err(|problem: HttpProblem| problem.code().to_owned())
    }

    fn of(names: &[(&str, &str)]) -> Result<Vec<(String, Vec<u8>)>, String> {
        Ok(names.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect())
    }

    #[test]
    fn parts_are_read_as_clients_write_them() {
        for (body, said) in [
            ("--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n", of(&[("a", "1")])),
            // A preamble, padding, an epilogue, a file's name and type, and an empty part.
            (
                "hello\r\n--x \t\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; filename=\"q\\\"; name=z\"; \
                 name=slice\r\n\r\n\r\n--x\r\ncontent-disposition: form-data; name=\"b\\\"c\"\r\n\r\n\r\n--y\r\n-\r\n--x--bye",
                of(&[("slice", ""), ("b\"c", "\r\n--y\r\n-")]),
            ),
            ("--x--", of(&[])),
            ("--x--\r\n", of(&[])),
            ("", Err("malformed".to_owned())),
            ("--x\r\n", Err("malformed".to_owned())),
            ("--x\r\n\r\nno name\r\n--x--", Err("malformed".to_owned())),
            ("--x\r\ncontent-disposition: form-data; name=\"a\r\n\r\n1\r\n--x--", Err("malformed".to_owned())),
            ("--xy\r\ncontent-disposition: form-data; name=a\r\n\r\n1\r\n--x--", Err("malformed".to_owned())),
            ("--x\r\ncontent-disposition: form-data; name=a\r\n\r\ncut off", Err("malformed".to_owned())),
        ] {
            for piece_bytes in [1, 2, 7, 1_000] {
                assert_eq!(parts("x", body.as_bytes(), piece_bytes), said, "{body:?} in pieces of {piece_bytes}");
            }
        }
    }

    #[test]
    fn a_form_that_goes_on_for_ever_in_one_place_is_refused() {
        let long = "a".repeat(2 * HEAD_BYTES_MAX);
        for body in [long.clone(), format!("--x{}", " ".repeat(2 * HEAD_BYTES_MAX)), format!("--x\r\n{long}")] {
            assert_eq!(parts("x", body.as_bytes(), 100), Err("malformed".to_owned()));
        }
    }

    #[test]
    fn a_boundary_is_there_and_short() {
        let long = "a".repeat(BOUNDARY_BYTES_MAX);
        assert_eq!(parts(&long, format!("--{long}--").as_bytes(), 10), of(&[]));
        for wrong in ["", "\"\"", "\"a", &(long + "a")] {
            assert_eq!(parts(wrong, b"--a--", 10), Err("malformed".to_owned()), "{wrong}");
        }
    }

    proptest! {
        /// Parts are read back unchanged, for any content and any piece size.
        #[test]
        fn any_parts_are_read_back(
            values in prop::collection::vec("[\r\n\\-x]{0,40}", 0..5), piece_bytes in 1..50usize
        ) {
            let boundary = "--x-x";
            prop_assume!(values.iter().all(|value| !value.contains("----x-x")));
            let mut body = String::new();
            for (number, value) in values.iter().enumerate() {
                body += &format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{number}\"\r\n\r\n{value}\r\n");
            }
            body += &format!("--{boundary}--\r\n");
            let names: Vec<String> = (0..values.len()).map(|number| number.to_string()).collect();
            let told: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(values.iter().map(String::as_str)).collect();
            prop_assert_eq!(parts(boundary, body.as_bytes(), piece_bytes), of(&told));
        }
    }
}
