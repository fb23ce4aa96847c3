//! Bodies of requests: how fast they must come, where they go, and what they may take of memory meanwhile.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{BodyDataStream, Bytes};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::Span;

use super::problem::Problem;

/// What is written to disk at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// How long the next piece of a body may be waited for.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);

/// A body comes at this rate, in bytes a second, or faster, after a while to begin with.
const RATE_MIN: u64 = 16 << 10;
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one who is still sending may take to hear the answer.
const HEARD: Duration = Duration::from_secs(10);

/// How long who finds no room may wait.
const ROOM_RETRY: Duration = Duration::from_secs(1);

/// A permit stands for this many bytes.
const ROOM_UNIT_BYTES: u64 = 1 << 10;

/// A body, piece by piece. What the network may take its time for is limited here.
pub struct Pieces {
    /// `None` once it has ended.
    pieces: Option<BodyDataStream>,
    began: Instant,
    bytes: u64,
}

impl Pieces {
    pub fn new(body: axum::body::Body) -> Self {
        Self { pieces: Some(body.into_data_stream()), began: Instant::now(), bytes: 0 }
    }

    /// The next piece, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let by_rate = self.began + BEGIN_TIMEOUT + Duration::from_secs(self.bytes / RATE_MIN);
        let until = by_rate.min(Instant::now() + PIECE_TIMEOUT);
        let slow = |_| Problem::new(408, "too_slow", "the body came too slowly");
        let Some(pieces) = &mut self.pieces else { return Ok(None) };
        let piece = match tokio::time::timeout_at(until, pieces.next()).await.map_err(slow)? {
            Some(Ok(piece)) => piece,
            ended => {
                self.pieces = None;
                let cut_off = |_| Problem::new(400, "cut_off", "the body ended before its length");
                return ended.transpose().map_err(cut_off);
            }
        };
        self.bytes += piece.len() as u64;
        Ok(Some(piece))
    }

    /// Has all of it written, a chunk at a time, where that may block.
    pub async fn write_to<S: Send + 'static>(
        &mut self,
        mut sink: S,
        write: impl Fn(S, &[u8]) -> Result<S, Problem> + Copy + Send + 'static,
    ) -> Result<S, Problem> {
        let mut chunk = Vec::new();
        loop {
            let piece = self.next().await?;
            let is_last = piece.is_none();
            chunk.extend_from_slice(&piece.unwrap_or_default());
            if is_last || chunk.len() >= CHUNK_BYTES {
                let bytes = std::mem::take(&mut chunk);
                sink = blocking(move || write(sink, &bytes)).await??;
            }
            if is_last {
                return Ok(sink);
            }
        }
    }

    /// All of it, of at most `bytes_max`.
    pub async fn collect(&mut self, bytes_max: u64) -> Result<Vec<u8>, Problem> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            if (all.len() + piece.len()) as u64 > bytes_max {
                return Err(Problem::too_large(bytes_max));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

impl Drop for Pieces {
    /// Where a connection is closed on what is still being sent, the answer is lost with it, and a refusal would be asked for
    /// again and again: so whoever sends is listened to until it has heard.
    fn drop(&mut self) {
        if let Some(mut pieces) = self.pieces.take() {
            tokio::spawn(tokio::time::timeout(HEARD, async move { while let Some(Ok(_)) = pieces.next().await {} }));
        }
    }
}

/// The length that a request gives, if it gives one.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Does what may wait for a disk. What is logged there is of the same request.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| Problem::new(500, "internal", error.to_string()))
}

/// What requests may take of this node, all in all: memory, or turns.
#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

/// Some of the room.
pub struct Taken {
    _permit: OwnedSemaphorePermit,
}

impl Room {
    /// Room in memory.
    pub fn of_bytes(bytes: u64) -> Self {
        Self::of_requests(bytes.div_ceil(ROOM_UNIT_BYTES))
    }

    /// Room for so many requests.
    pub fn of_requests(count: u64) -> Self {
        let permits = usize::try_from(count).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))))
    }

    /// Room for so many bytes, if there is some now.
    pub fn take(&self, bytes: u64) -> Result<Taken, Problem> {
        self.take_units(u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX))
    }

    /// Room for one request, if there is some now.
    pub fn enter(&self) -> Result<Taken, Problem> {
        self.take_units(1)
    }

    fn take_units(&self, units: u32) -> Result<Taken, Problem> {
        let full =
            |_| Problem::new(429, "busy", "this node is at work on as much as it has room for").after(Some(ROOM_RETRY));
        let permit = self.0.clone().try_acquire_many_owned(units).map_err(full)?;
        Ok(Taken { _permit: permit })
    }
}
