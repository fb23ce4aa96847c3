//! Connections: limits, and graceful shutdown.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::addresses::Addresses;
use super::body::Pace;
use super::connection::{self, ConnectionTimes};
use super::pace::Paced;

/// Limit on connections of the node's owner.
const LOCAL_CONNECTIONS_MAX: u64 = 1_024;

/// Time for open connections and running slices to finish during a graceful shutdown. Together with
/// the steps after it, the node ends within ten seconds.
pub const DRAIN: Duration = Duration::from_secs(8);

/// Pause after `accept` fails, for example because no more files can be opened.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Send buffer of a socket. Linux reports a socket as writable when a third of its buffer (twice
/// this size) is free. At the lowest rate of [`Pace::NETWORK`], that must be sooner than its
/// longest pause. With the system's default of megabytes, a client that reads steadily would seem
/// to read nothing.
const SEND_BUFFER_BYTES: u32 = 128 << 10;

/// Connections that the system queues until they are accepted.
const BACKLOG: u32 = 1_024;

/// Settings of the network listeners.
pub struct ListenerConfig {
    /// `None` without encryption.
    pub tls: Option<TlsAcceptor>,
    /// Limit on open connections. Further connections wait until one ends.
    pub connections_max: u64,
    /// `None` if one address may hold all connections.
    pub addresses: Option<Addresses>,
}

/// Opens a listener for [`serve_network`].
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit the buffer size.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves connections until `stop` resolves, then drains the open ones for at most [`DRAIN`].
pub async fn serve_network(
    listeners: Vec<TcpListener>,
    entrance: ListenerConfig,
    routes: Router,
    stop: impl Future<Output = ()>,
) {
    serve_at_pace(listeners, entrance, Pace::NETWORK, routes, stop).await;
}

async fn serve_at_pace(
    listeners: Vec<TcpListener>,
    entrance: ListenerConfig,
    pace: Pace,
    routes: Router,
    stop: impl Future<Output = ()>,
) {
    let ListenerConfig { tls, connections_max, addresses } = entrance;
    let accept = async move || {
        let (stream, from) = accept_any(&listeners).await?;
        let entered = addresses.as_ref().map(|addresses| addresses.enter(from.ip()));
        if matches!(entered, Some(None)) {
            return Ok(None);
        }
        stream.set_nodelay(true)?;
        Ok(Some((Paced::new(stream, pace), entered)))
    };
    match tls {
        None => serve(accept, async |stream: Paced| Ok(stream), connections_max, routes, stop).await,
        Some(tls) => {
            let greet = move |stream| {
                let tls = tls.clone();
                async move { tls.accept(stream).await }
            };
            serve(accept, greet, connections_max, routes, stop).await;
        }
    }
}

/// Accepts the next connection of any listener.
async fn accept_any(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    let accept = |context: &mut Context<'_>| {
        let ready = listeners.iter().map(|listener| listener.poll_accept(context)).find(Poll::is_ready);
        ready.unwrap_or(Poll::Pending)
    };
    std::future::poll_fn(accept).await
}

/// [`serve_network`] for processes of the same user. They may read a response as slowly as they
/// like: a command can be suspended and continued, and the data that waits for it is bounded.
pub async fn serve_local(listener: UnixListener, routes: Router, stop: impl Future<Output = ()>) {
    let accept = async move || {
        let (stream, _) = listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        let is_user = uid == 0 || uid == rustix::process::geteuid().as_raw();
        Ok(is_user.then_some((stream, ())))
    };
    serve(accept, async |stream: UnixStream| Ok(stream), LOCAL_CONNECTIONS_MAX, routes, stop).await;
}

/// Accepts and serves connections. `accept` returns a stream and a value that lives as long as the
/// connection, or `None` if it refused the connection.
async fn serve<S, K, T, G>(
    accept: impl AsyncFn() -> io::Result<Option<(S, K)>>,
    greet: impl Fn(S) -> G,
    connections_max: u64,
    routes: Router,
    stop: impl Future<Output = ()>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    G: Future<Output = io::Result<T>> + Send + 'static,
    K: Send + 'static,
{
    let mut stop = std::pin::pin!(stop);
    let connections_max = usize::try_from(connections_max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    // No owner: the owner of a connection is unknown before its first request; then it counts in
    // its token's share.
    let (graceful, room) = (GracefulShutdown::new(), Arc::new(Semaphore::new(connections_max)));
    loop {
        let next = async {
            let room = room.clone().acquire_owned().await;
            (room, accept().await)
        };
        let (room, accepted) = tokio::select! {
            () = &mut stop => break,
            (room, accepted) = next => (room, accepted),
        };
        let (stream, kept) = match accepted {
            Ok(Some(accepted)) => accepted,
            Ok(None) => continue,
            Err(_) => {
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (greeted, routes, watcher) = (greet(stream), routes.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _kept = (room, kept);
            let times = ConnectionTimes::NETWORK;
            let Ok(Ok(stream)) = tokio::time::timeout(times.head, greeted).await else { return };
            connection::serve(stream, times, routes, watcher).await;
        });
    }
    // Closes the listeners: a new client is refused at once instead of waiting for a response.
    drop(accept);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use axum::routing::get;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpStream;
    use tokio::time::{sleep, timeout};
    use tokio_rustls::TlsConnector;

    use super::super::answer::in_room;
    use super::super::tls::{Tls, certificate};
    use super::*;
    use crate::shares::Pool;
    use crate::slice::Tenant;

    /// More than the socket buffers of both sides hold.
    const LONG: u64 = 64 << 20;

    /// Test timeout: after this, the event will never come.
    const PATIENCE: Duration = Duration::from_secs(60);

    const LOOK_AGAIN: Duration = Duration::from_millis(1);

    /// Requests a long response and reads none of it. Returns when the memory of the response is
    /// free again.
    fn an_answer_is_given_up<T: AsyncWrite + Unpin>(
        tls: Option<TlsAcceptor>,
        greet: impl AsyncFn(TcpStream) -> io::Result<T>,
    ) {
        let room = Pool::new(LONG);
        let free = room.clone();
        let answer = async move || in_room(vec![0; LONG as usize], room.take(&Tenant::OWNER, LONG).unwrap());
        let routes = Router::new().route("/", get(answer));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let entrance = ListenerConfig { tls, connections_max: 1, addresses: None };
            let pace = Pace { pause_max: Duration::from_millis(100), ..Pace::NETWORK };
            let asked = async {
                let mut stream = greet(TcpStream::connect(address).await.unwrap()).await.unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
                stream.flush().await.unwrap();
                while free.take(&Tenant::OWNER, 1).is_ok() {
                    sleep(LOOK_AGAIN).await;
                }
                while free.take(&Tenant::OWNER, LONG).is_err() {
                    sleep(LOOK_AGAIN).await;
                }
            };
            tokio::select! {
                () = serve_at_pace(vec![listener], entrance, pace, routes, std::future::pending()) => {}
                given_up = timeout(PATIENCE, asked) => given_up.expect("the answer is not kept"),
            }
        });
    }

    #[test]
    fn an_answer_that_nobody_reads_is_given_up() {
        an_answer_is_given_up(None, async |stream| Ok(stream));
    }

    #[test]
    fn an_answer_that_nobody_reads_is_given_up_over_tls_too() {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tls");
        let chain = vectors.join("certificate.pem");
        // A key that others may read is refused, and a git checkout does not preserve file modes.
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), std::fs::read(vectors.join("key.pem")).unwrap()).unwrap();
        let tls = Tls::new(certificate(&chain, key.path()).unwrap()).unwrap().acceptor;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&chain).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(client));
        an_answer_is_given_up(Some(tls), async |stream| {
            connector.connect("localhost".try_into().unwrap(), stream).await
        });
    }
}
