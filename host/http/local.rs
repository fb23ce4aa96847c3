//! Local socket in the state directory: the command line of the same user sends its orders to the
//! running node, which has the stores open. An order is a request whose body is a u32 length,
//! little-endian, that many bytes of JSON, and the bundle, if there is one. The answers are one
//! line of JSON each.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::io::{ReaderStream, StreamReader};
use tracing::Instrument as _;

use super::AppState;
use super::problem::HttpProblem;
use crate::courier::commands::{ORDER_BYTES_MAX, execute};
use crate::courier::events::CourierEvent;
use crate::node::SOCKET;
use crate::{commands, courier};

pub const COURIER_PATH: &str = "/v1/local/courier";
pub const NODE_PATH: &str = "/v1/local/node";

/// Largest order to the node: a module as text, or the names of very many files.
const NODE_ORDER_BYTES_MAX: usize = 256 << 20;

/// Capacity of the channel of courier answers to one client. Flush events are dropped when the
/// client does not keep up.
const ANSWERS_MAX: usize = 4_096;

/// Capacity of the channel of node answers. No answer is dropped.
const NODE_ANSWERS_MAX: usize = 16;

/// Longest line of an answer: the damage report of a store, with a thousand paths of up to 4 KiB
/// twice.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Opens the socket in the state directory, and replaces one that an earlier node left behind. The
/// caller must hold the lock of the directory.
pub fn bind_socket(state: &Path) -> io::Result<UnixListener> {
    let at = state.join(SOCKET);
    match std::fs::remove_file(&at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = open_directory(state)?;
    UnixListener::bind(through(&directory))
}

/// Connects to the node that runs on this state directory; `None` if no node runs.
pub async fn connect(state: &Path) -> io::Result<Option<UnixStream>> {
    let directory = match open_directory(state) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match UnixStream::connect(through(&directory)).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(std::fs::File::open(path)?.into())
}

/// Returns a short path of the socket: a socket path has at most 107 bytes, and the directory's own
/// path may be longer.
fn through(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())
}

pub async fn execute_courier_command(State(served): State<AppState>, request: Request<Body>) -> Response {
    let mut body = reader_of(request);
    let order = match read_order(&mut body, ORDER_BYTES_MAX).await {
        Ok(order) => order,
        Err(error) => return HttpProblem::new(422, "malformed", format!("no order: {error}")).into_response(),
    };
    // No owner: the channel belongs to one request.
    let (answers, told) = mpsc::channel::<CourierEvent>(ANSWERS_MAX);
    let work = async move {
        let AppState { courier, metrics, mut stopping, .. } = served;
        let tell = |answer: CourierEvent| match answer {
            CourierEvent::Flush(event) => {
                metrics.flush(&event);
                let _ = answers.try_send(CourierEvent::Flush(event));
            }
            answer => tokio::task::block_in_place(|| drop(answers.blocking_send(answer))),
        };
        let interrupted = async {
            tokio::select! {
                () = answers.closed() => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
        };
        if let Err(error) = execute(&courier, order, body, tell, interrupted).await {
            let _ = answers.send(CourierEvent::Error { message: error.to_string() }).await;
        }
    };
    tokio::spawn(work.in_current_span());
    lines_of(told)
}

pub async fn execute_node_command(State(served): State<AppState>, request: Request<Body>) -> Response {
    let order = match read_order(&mut reader_of(request), NODE_ORDER_BYTES_MAX).await {
        Ok(order) => order,
        Err(error) => return HttpProblem::new(422, "malformed", format!("no order: {error}")).into_response(),
    };
    // No owner: the channel belongs to one request.
    let (answers, told) = mpsc::channel(NODE_ANSWERS_MAX);
    let work = async move {
        let now_ms = served.now_ms();
        let mut stopping = served.stopping.clone();
        tokio::select! {
            () = commands::execute(&served.node, &served.prices, order, now_ms, &answers) => {}
            () = answers.closed() => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    };
    tokio::spawn(work.in_current_span());
    lines_of(told)
}

fn reader_of(request: Request<Body>) -> impl AsyncRead + Send + Unpin {
    StreamReader::new(request.into_body().into_data_stream().map(|piece| piece.map_err(io::Error::other)))
}

fn lines_of<A: Serialize + Send + 'static>(told: mpsc::Receiver<A>) -> Response {
    let lines = stream::unfold(told, |mut told| async {
        let answer = told.recv().await?;
        let line = serde_json::to_string(&answer).map(|line| line + "\n").map_err(io::Error::other);
        Some((line, told))
    });
    (StatusCode::OK, [(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

async fn read_order<O: DeserializeOwned>(body: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<O> {
    let len = body.read_u32_le().await? as usize;
    if len > bytes_max {
        return Err(io::Error::other("it is too long"));
    }
    let mut order = vec![0; len];
    body.read_exact(&mut order).await?;
    serde_json::from_slice(&order).map_err(io::Error::other)
}

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("the connection to the running node broke off: {0}")]
    Connection(io::Error),
    #[error("the running node does not understand this program; they are of different versions")]
    NotUnderstood,
}

/// Sends `order` and then `body` to the courier of the node at the other end of `stream`, and
/// passes each answer to `tell`.
pub async fn ask_courier(
    stream: UnixStream,
    order: &courier::commands::CourierRequest,
    body: impl AsyncRead + Send + 'static,
    tell: impl FnMut(courier::events::CourierEvent),
) -> Result<(), AskError> {
    ask(stream, COURIER_PATH, order, body, tell).await
}

/// Sends `order` to the node at the other end of `stream`, and passes each answer to `tell`.
pub async fn ask_node(
    stream: UnixStream,
    order: &commands::NodeCommand,
    tell: impl FnMut(commands::NodeEvent),
) -> Result<(), AskError> {
    ask(stream, NODE_PATH, order, tokio::io::empty(), tell).await
}

async fn ask<A: DeserializeOwned>(
    stream: UnixStream,
    path: &str,
    order: &impl Serialize,
    body: impl AsyncRead + Send + 'static,
    mut tell: impl FnMut(A),
) -> Result<(), AskError> {
    let order = serde_json::to_vec(order).map_err(|error| AskError::Connection(error.into()))?;
    let broken = |error: hyper::Error| AskError::Connection(io::Error::other(error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = tokio::spawn(connection);
    let body = StreamBody::new(Box::pin(order_and(order, body)).map(|piece| piece.map(Frame::data)));
    let request = Request::post(path).header(HOST, "localhost").body(body);
    let request = request.map_err(|error| AskError::Connection(io::Error::other(error)))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    if response.status() != StatusCode::OK {
        return Err(AskError::NotUnderstood);
    }
    let mut line = Vec::new();
    let mut frames = response.into_body();
    while let Some(frame) = frames.frame().await {
        let Ok(piece) = frame.map_err(broken)?.into_data() else { continue };
        for byte in piece {
            if byte != b'\n' {
                line.push(byte);
            } else {
                tell(serde_json::from_slice(&line).map_err(|_| AskError::NotUnderstood)?);
                line.clear();
            }
            if line.len() > LINE_BYTES_MAX {
                return Err(AskError::NotUnderstood);
            }
        }
    }
    connection.abort();
    Ok(())
}

fn order_and<B: AsyncRead + Send + 'static>(order: Vec<u8>, body: B) -> impl Stream<Item = io::Result<Bytes>> + use<B> {
    let len = u32::try_from(order.len()).unwrap_or(u32::MAX).to_le_bytes();
    let head = Bytes::from([&len[..], &order].concat());
    stream::once(async { Ok(head) }).chain(ReaderStream::new(body))
}
