//! Bodies of requests. Every body is read here and nowhere else: at a pace, and in memory that its owner has a share of.

mod form;
mod heard;

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use self::form::{Form, is_form};
pub use self::heard::heard_out;
pub use super::blocking::blocking;
use super::problem::Problem;
use super::room::Memory;
use crate::text::explained;

/// What is written to disk at a time.
pub const CHUNK_BYTES: usize = 256 << 10;

/// How fast bytes must come in or be taken, so that nobody holds what stands behind them for as long as they like.
#[derive(Clone, Copy)]
pub struct Pace {
    /// How long the next of them may be waited for.
    pub pause_max: Duration,
    /// How long they may take all in all, beside what they are worth at the lowest rate.
    pub begin: Duration,
    pub bytes_per_second_min: u32,
}

impl Pace {
    /// What is asked of whoever comes by the network: less than any line has, and more than thousands can keep up for little.
    pub const NETWORK: Self =
        Self { pause_max: Duration::from_secs(10), begin: Duration::from_secs(30), bytes_per_second_min: 16 << 10 };

    /// How long so many bytes take at the lowest rate.
    pub fn time_for(self, bytes: u64) -> Duration {
        let rate = u64::from(self.bytes_per_second_min);
        Duration::from_secs(bytes / rate) + Duration::from_secs(bytes % rate) / self.bytes_per_second_min
    }
}

/// A body, piece by piece. What the network may take its time for is limited here.
pub struct Pieces {
    pieces: BodyDataStream,
    began: Instant,
    bytes: u64,
}

impl Pieces {
    pub fn new(body: Body) -> Self {
        Self { pieces: body.into_data_stream(), began: Instant::now(), bytes: 0 }
    }

    /// The next piece, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let by_rate = self.began + Pace::NETWORK.begin + Pace::NETWORK.time_for(self.bytes);
        let until = by_rate.min(Instant::now() + Pace::NETWORK.pause_max);
        let slow = |_| Problem::new(408, "too_slow", "the body came too slowly");
        let piece = tokio::time::timeout_at(until, self.pieces.next()).await.map_err(slow)?;
        let cut_off = |_| Problem::new(400, "cut_off", "the body ended before its length");
        let piece = piece.transpose().map_err(cut_off)?;
        self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(piece)
    }
}

/// The whole body of a request, of at most `bytes_max`, held in `memory`.
pub async fn collect(request: Request, bytes_max: u64, memory: &mut Memory) -> Result<Vec<u8>, Problem> {
    check_length(request.headers(), bytes_max)?;
    Source::Body(Pieces::new(request.into_body())).collect(bytes_max, memory).await
}

/// The body of a request as JSON, of at most `bytes_max`.
pub async fn json<T: DeserializeOwned>(request: Request, bytes_max: u64, mut memory: Memory) -> Result<T, Problem> {
    let text = collect(request, bytes_max, &mut memory).await?;
    serde_json::from_slice(&text).map_err(|error| Problem::malformed(explained(&error.to_string())))
}

/// Where bytes come from: a body, or the part of a form that it has come to.
pub enum Source<'a> {
    Body(Pieces),
    Part(&'a mut Form),
}

impl Source<'_> {
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match self {
            Self::Body(pieces) => pieces.next().await,
            Self::Part(form) => form.next_piece().await,
        }
    }

    /// All of it, of at most `bytes_max`, held in `memory`.
    pub async fn collect(&mut self, bytes_max: u64, memory: &mut Memory) -> Result<Vec<u8>, Problem> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            if (all.len() + piece.len()) as u64 > bytes_max {
                return Err(Problem::too_large(bytes_max));
            }
            memory.hold(piece.len())?;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// Writes `held`, which `memory` counts already, and all that comes after it, a chunk at a time, on a thread that may
    /// block; then does `finish`.
    pub async fn write_to<S: Send + 'static, T: Send + 'static>(
        &mut self,
        mut held: Vec<u8>,
        memory: &mut Memory,
        mut sink: S,
        write: impl Fn(&mut S, &[u8]) -> Result<(), Problem> + Copy + Send + 'static,
        finish: impl FnOnce(S) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
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

/// The length that a request gives, if it gives one.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses a body that says that it is longer than `bytes_max`, before any of it is read.
pub fn check_length(headers: &HeaderMap, bytes_max: u64) -> Result<(), Problem> {
    match content_length(headers) {
        Some(length) if length > bytes_max => Err(Problem::too_large(bytes_max)),
        _ => Ok(()),
    }
}
