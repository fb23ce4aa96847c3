//! Connections: how many there may be, how long one may take to say what it wants, and how they end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// How long a request's head may take, and before it, TLS.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Connections of the node's owner.
const LOCAL_CONNECTIONS_MAX: u64 = 1_024;

/// How long what is under way may go on once the node is to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Where there are no more files to be had, say.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Answers what comes in until `stop` resolves, and then what is under way, for a while. More than `connections_max` wait
/// until one of these ends.
pub async fn serve_network(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    connections_max: u64,
    routes: Router,
    stop: impl Future<Output = ()>,
) {
    let accept = async move || {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match tls {
        None => serve(accept, async |stream: TcpStream| Ok(stream), connections_max, routes, stop).await,
        Some(tls) => {
            let greet = move |stream| {
                let tls = tls.clone();
                async move { tls.accept(stream).await }
            };
            serve(accept, greet, connections_max, routes, stop).await;
        }
    }
}

/// [`serve_network`], for processes of the same user.
pub async fn serve_local(listener: UnixListener, routes: Router, stop: impl Future<Output = ()>) {
    let accept = async move || {
        let (stream, _) = listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        let is_user = uid == 0 || uid == rustix::process::geteuid().as_raw();
        if is_user { Ok(stream) } else { Err(std::io::ErrorKind::PermissionDenied.into()) }
    };
    serve(accept, async |stream: UnixStream| Ok(stream), LOCAL_CONNECTIONS_MAX, routes, stop).await;
}

async fn serve<S, T, G>(
    accept: impl AsyncFn() -> std::io::Result<S>,
    greet: impl Fn(S) -> G,
    connections_max: u64,
    routes: Router,
    stop: impl Future<Output = ()>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    G: Future<Output = std::io::Result<T>> + Send + 'static,
{
    let mut stop = std::pin::pin!(stop);
    let connections_max = usize::try_from(connections_max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    let (graceful, room) = (GracefulShutdown::new(), Arc::new(Semaphore::new(connections_max)));
    loop {
        let next = async {
            let room = room.clone().acquire_owned().await;
            (room, accept().await)
        };
        let (room, stream) = tokio::select! {
            () = &mut stop => break,
            (room, stream) = next => (room, stream),
        };
        let Ok(stream) = stream else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let (greeted, routes, watcher) = (greet(stream), routes.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _room = room;
            let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, greeted).await else { return };
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
            let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
            // How a connection ends is its other side's business.
            let _ = watcher.watch(connection).await;
        });
    }
    // Whoever comes now is told at once that nobody is here, and does not wait for an answer.
    drop(accept);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}
