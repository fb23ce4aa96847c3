//! Request bodies. Every body is read in this module only, at a minimum rate and within the memory
//! share of its owner.

mod form;
mod drain;

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use self::drain::drain_on_drop;
pub use self::form::{FormReader, is_form};
pub use super::blocking::blocking;
use super::pools::RequestMemory;
use super::problem::HttpProblem;
use crate::text::explained;

/// Size of one write to disk.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Minimum rate for reading a body or sending a response, so that a slow client cannot hold
/// resources as long as it likes.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Longest wait for the next bytes.
    pub pause_max: Duration,
    /// Allowance for the whole transfer, in addition to the time that its bytes take at the lowest
    /// rate.
    pub begin: Duration,
    pub bytes_per_second_min: u32,
}

impl Pace {
    /// Limits for network clients: lower than the rate of any usable line, and too high for one
    /// attacker to sustain cheaply on thousands of connections.
    pub const NETWORK: Self =
        Self { pause_max: Duration::from_secs(10), begin: Duration::from_secs(30), bytes_per_second_min: 16 << 10 };

    /// Returns how long `bytes` bytes take at the lowest rate.
    pub fn time_for(self, bytes: u64) -> Duration {
        let rate = u64::from(self.bytes_per_second_min);
        Duration::from_secs(bytes / rate) + Duration::from_secs(bytes % rate) / self.bytes_per_second_min
    }
}

/// A body, piece by piece. This type limits how slowly the network may deliver it.
pub struct BodyPieces {
    pieces: BodyDataStream,
    began: Instant,
    bytes: u64,
}

impl BodyPieces {
    pub fn new(body: Body) -> Self {
        Self { pieces: body.into_data_stream(), began: Instant::now(), bytes: 0 }
    }

    /// Returns the next piece, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpProblem> {
        let by_rate = self.began + Pace::NETWORK.begin + Pace::NETWORK.time_for(self.bytes);
        let until = by_rate.min(Instant::now() + Pace::NETWORK.pause_max);
        let slow = |_| HttpProblem::new(408, "too_slow", "the body came too slowly");
        let piece = tokio::time::timeout_at(until, self.pieces.next()).await.map_err(slow)?;
        let cut_off = |_| HttpProblem::new(400, "cut_off", "the body ended before its length");
        let piece = piece.transpose().map_err(cut_off)?;
        self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(piece)
    }
}

/// Reads the whole body of a request into memory: at most `bytes_max` bytes, counted in `memory`.
pub async fn collect(request: Request, bytes_max: u64, memory: &mut RequestMemory) -> Result<Vec<u8>, HttpProblem> {
    check_length(request.headers(), bytes_max)?;
    UploadSource::Body(BodyPieces::new(request.into_body())).collect(bytes_max, memory).await
}

/// Reads the body of a request, of at most `bytes_max` bytes, as JSON.
pub async fn json<T: DeserializeOwned>(
    request: Request,
    bytes_max: u64,
    mut memory: RequestMemory,
) -> Result<T, HttpProblem> {
    let text = collect(request, bytes_max, &mut memory).await?;
    serde_json::from_slice(&text).map_err(|error| HttpProblem::malformed(explained(&error.to_string())))
}

/// A source of bytes: a body, or the current part of a form.
pub enum UploadSource<'a> {
    Body(BodyPieces),
    Part(&'a mut FormReader),
}

impl UploadSource<'_> {
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpProblem> {
        match self {
            Self::Body(pieces) => pieces.next().await,
            Self::Part(form) => form.next_piece().await,
        }
    }

    /// Reads all bytes into memory: at most `bytes_max`, counted in `memory`.
    pub async fn collect(&mut self, bytes_max: u64, memory: &mut RequestMemory) -> Result<Vec<u8>, HttpProblem> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            if (all.len() + piece.len()) as u64 > bytes_max {
                return Err(HttpProblem::too_large(bytes_max));
            }
            memory.hold(piece.len())?;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// Writes `held`, which `memory` counts already, and all bytes that follow, one chunk at a time
    /// on a blocking thread. Then calls `finish`.
    pub async fn write_to<S: Send + 'static, T: Send + 'static>(
        &mut self,
        mut held: Vec<u8>,
        memory: &mut RequestMemory,
        mut sink: S,
        write: impl Fn(&mut S, &[u8]) -> Result<(), HttpProblem> + Copy + Send + 'static,
        finish: impl FnOnce(S) -> Result<T, HttpProblem> + Send + 'static,
    ) -> Result<T, HttpProblem> {
        loop {
            let Some(piece) = self.next().await? else {
                let len = held.len();
                let done = blocking(move || write(&mut sink, &held).and_then(|()| finish(sink))).await?;
                memory.let_go(len);
                return done;
            };
            memory.hold(piece.len())?;
            held.extend_from_slice(&piece);
            if held.len() >= CHUNK_BYTES {
                let bytes = std::mem::take(&mut held);
                let len = bytes.len();
                sink = blocking(move || write(&mut sink, &bytes).map(|()| sink)).await??;
                memory.let_go(len);
            }
        }
    }
}

/// Returns the `Content-Length` of a request, if there is one.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses a body whose `Content-Length` is above `bytes_max`, before any of the body is read.
pub fn check_length(headers: &HeaderMap, bytes_max: u64) -> Result<(), HttpProblem> {
    match content_length(headers) {
        Some(length) if length > bytes_max => Err(HttpProblem::too_large(bytes_max)),
        _ => Ok(()),
    }
}
