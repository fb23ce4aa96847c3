//! Bodies of requests: how fast they must come, where they go, and what they may take of memory meanwhile.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::extract::multipart::{Field, MultipartError};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::Span;

use super::problem::Problem;

/// What is written to disk at a time.
pub const CHUNK_BYTES: usize = 256 << 10;

/// How long one who is still sending may take to hear the answer.
const HEARD: Duration = Duration::from_secs(10);

/// How long who finds no room may wait.
const ROOM_RETRY: Duration = Duration::from_secs(1);

/// A permit stands for this many bytes.
const ROOM_UNIT_BYTES: u64 = 1 << 10;

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

/// `body`, so that it is read on for a while where nobody wants the rest of it. Where a connection is closed on what is still
/// being sent, the answer is lost with it, and a refusal would be asked for again and again: so whoever sends is listened to
/// until it has heard.
pub fn heard_out(body: Body) -> Body {
    if body.is_end_stream() { body } else { Body::from_stream(HeardOut(Some(body.into_data_stream()))) }
}

struct HeardOut(Option<BodyDataStream>);

impl Stream for HeardOut {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(pieces) = &mut self.0 else { return Poll::Ready(None) };
        let polled = pieces.poll_next_unpin(context);
        if !matches!(polled, Poll::Pending | Poll::Ready(Some(Ok(_)))) {
            self.0 = None;
        }
        polled
    }
}

impl Drop for HeardOut {
    fn drop(&mut self) {
        if let Some(mut pieces) = self.0.take() {
            tokio::spawn(tokio::time::timeout(HEARD, async move { while let Some(Ok(_)) = pieces.next().await {} }));
        }
    }
}

/// Where bytes come from: a body, or a part of the form that it is.
pub enum Source<'a> {
    Body(Pieces),
    Field(Box<Field<'a>>),
}

impl Source<'_> {
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match self {
            Self::Body(pieces) => pieces.next().await,
            Self::Field(field) => field.chunk().await.map_err(of_form),
        }
    }

    /// Has what is held, and all that comes after it, written, a chunk at a time, where that may block; and `finish` do what is
    /// to be done after the last.
    pub async fn write_to<S: Send + 'static, T: Send + 'static>(
        &mut self,
        mut held: Vec<u8>,
        mut sink: S,
        write: impl Fn(&mut S, &[u8]) -> Result<(), Problem> + Copy + Send + 'static,
        finish: impl FnOnce(S) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        loop {
            let piece = self.next().await?;
            let is_last = piece.is_none();
            held.extend_from_slice(&piece.unwrap_or_default());
            if is_last {
                return blocking(move || write(&mut sink, &held).and_then(|()| finish(sink))).await?;
            }
            if held.len() >= CHUNK_BYTES {
                let bytes = std::mem::take(&mut held);
                sink = blocking(move || write(&mut sink, &bytes).map(|()| sink)).await??;
            }
        }
    }
}

pub fn of_form(error: MultipartError) -> Problem {
    Problem::malformed(format!("the form cannot be read: {}", error.body_text()))
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
pub struct Room {
    free: Arc<Semaphore>,
    units: u32,
}

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
        let units = u32::try_from(count).unwrap_or(u32::MAX);
        let permits = usize::try_from(units).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(permits)), units }
    }

    /// Room for so many bytes, if there is some now.
    pub fn take(&self, bytes: u64) -> Result<Taken, Problem> {
        self.take_units(units_of(bytes))
    }

    /// The same for an answer. What it is an answer to has been taken in, so one that is longer than all the room must not be
    /// refused for ever: it takes all the room.
    pub fn take_for_answer(&self, bytes: u64) -> Result<Taken, Problem> {
        self.take_units(units_of(bytes).min(self.units))
    }

    /// Room for one request, if there is some now.
    pub fn enter(&self) -> Result<Taken, Problem> {
        self.take_units(1)
    }

    fn take_units(&self, units: u32) -> Result<Taken, Problem> {
        let full =
            |_| Problem::new(429, "busy", "this node is at work on as much as it has room for").after(Some(ROOM_RETRY));
        let permit = self.free.clone().try_acquire_many_owned(units).map_err(full)?;
        Ok(Taken { _permit: permit })
    }
}

fn units_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX)
}
