//! Connections: timeouts for request heads and for idle connections, and the owner of a connection.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use super::observed::{ObservedStream, StreamObserver, mapped};
use super::problem::HttpProblem;
use crate::shares::{Pool, Share, ShareRefused};
use crate::slice::Tenant;

/// Longest head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Timeouts of a connection.
#[derive(Clone, Copy)]
pub struct ConnectionTimes {
    /// For the head of a request, from its first byte on. While no owner is known, it counts from
    /// the start of the connection or from its last answer.
    pub head: Duration,
    /// Between an answer and the next request. Proxies keep connections open for 60 s. If the node
    /// closed one just when a proxy uses it, a client would get an error.
    pub idle: Duration,
}

impl ConnectionTimes {
    pub const NETWORK: Self = Self { head: Duration::from_secs(10), idle: Duration::from_secs(75) };
}

/// Serves the requests on `stream`, until it ends or is idle for too long.
pub async fn serve<T>(stream: T, times: ConnectionTimes, routes: Router, watcher: Watcher)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let phase = Arc::new(ConnectionPhase::default());
    let timed = ObservedStream { stream, watch: HeadDeadline { phase: phase.clone(), head: times.head, end: None } };
    let (routes, party) = (TowerToHyperService::new(routes), ConnectionParty::default());
    let answer = service_fn(move |mut request: Request<Incoming>| {
        phase.set(ConnectionPhase::BUSY);
        request.extensions_mut().insert(party.clone());
        let (answered, end) = (routes.call(request), IdleOnEnd { phase: phase.clone(), party: party.clone() });
        async move { answered.await.map(|response: Response| response.map(|body| ending(body, end))) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(times.idle).max_buf_size(HEAD_BYTES_MAX);
    // An error on a connection concerns only its client.
    let _ = watcher.watch(http.serve_connection(TokioIo::new(timed), answer)).await;
}

/// Returns `body`, with which `end` is dropped.
fn ending(body: Body, end: IdleOnEnd) -> Body {
    mapped(body, move |bytes| {
        let _ = &end;
        bytes
    })
}

/// Owner of a connection. A connection has no owner until a request on it has identified one.
#[derive(Clone, Default)]
pub struct ConnectionParty(Arc<Mutex<Option<ConnectionOwner>>>);

/// The scope of the last request, and the connection's share in that scope.
struct ConnectionOwner {
    scope: Tenant,
    _share: Share<Tenant>,
}

impl ConnectionParty {
    /// Counts the connection as one of `scope`. A proxy's connection belongs to the sender of the
    /// last request.
    pub fn join(&self, scope: &Tenant, connections: &Pool<Tenant>) -> Result<(), ShareRefused> {
        let mut party = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if party.as_ref().is_none_or(|known| known.scope != *scope) {
            // Releases the former share first, so that it is free for this one.
            *party = None;
            *party = Some(ConnectionOwner { scope: scope.clone(), _share: connections.take(scope, 1)? });
        }
        Ok(())
    }

    fn is_somebodys(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Returns the refusal for a token that has its maximum number of connections.
pub fn too_many() -> HttpProblem {
    let detail = "this token has its share of the connections of this node; close some of them";
    HttpProblem::new(429, "busy", detail).after(Some(HttpProblem::BUSY_RETRY))
}

/// Phase of a connection.
#[derive(Default)]
struct ConnectionPhase(AtomicU8);

impl ConnectionPhase {
    /// Waits for a head, or reads one.
    const HEAD: u8 = 0;
    /// Answers a request.
    const BUSY: u8 = 1;
    /// Idle: no byte has arrived since the last answer.
    const IDLE: u8 = 2;

    fn set(&self, phase: u8) {
        self.0.store(phase, Ordering::Relaxed);
    }

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }
}

/// Deadline for request heads.
struct HeadDeadline {
    phase: Arc<ConnectionPhase>,
    head: Duration,
    end: Option<Pin<Box<Sleep>>>,
}

impl<S> StreamObserver<S> for HeadDeadline {
    fn read(
        &mut self,
        _: &mut S,
        bytes: usize,
        read: Poll<io::Result<()>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if bytes > 0 && self.phase.is(ConnectionPhase::IDLE) {
            self.phase.set(ConnectionPhase::HEAD);
        }
        if self.phase.is(ConnectionPhase::HEAD) {
            self.end.get_or_insert_with(|| Box::pin(sleep(self.head)));
        } else {
            self.end = None;
        }
        let is_over = |end: &mut Pin<Box<Sleep>>| end.as_mut().poll(context).is_ready();
        if read.is_pending() && self.end.as_mut().is_some_and(is_over) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head of the request takes too long")));
        }
        read
    }
}

/// End of an answer. The connection is idle after it, if the connection has an owner.
struct IdleOnEnd {
    phase: Arc<ConnectionPhase>,
    party: ConnectionParty,
}

impl Drop for IdleOnEnd {
    fn drop(&mut self) {
        self.phase.set(if self.party.is_somebodys() { ConnectionPhase::IDLE } else { ConnectionPhase::HEAD });
    }
}

#[cfg(test)]
mod tests {
    use axum::Extension;
    use axum::routing::{get, post};
    use hyper_util::server::graceful::GracefulShutdown;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const NEVER: Duration = Duration::from_secs(3_600);
    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";

    const SHORT: Duration = Duration::from_millis(100);

    /// Longer than each short timeout in these tests.
    const LONG: Duration = Duration::from_millis(300);

    fn spoken<F: Future<Output = ()>>(times: ConnectionTimes, talk: impl FnOnce(DuplexStream) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = duplex(1 << 20);
            let slow = async || sleep(LONG).await;
            let pool = Pool::new(1);
            let joins = async move |party: Extension<ConnectionParty>| {
                party.join(&Tenant::OWNER, &pool).map(|()| "answer").unwrap()
            };
            let routes = Router::new().route("/", get(joins)).route("/open", get("open")).route("/slow", post(slow));
            let graceful = GracefulShutdown::new();
            let served = tokio::spawn(serve(theirs, times, routes, graceful.watcher()));
            talk(ours).await;
            served.await.unwrap();
        });
    }

    async fn answer(stream: &mut DuplexStream) -> String {
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8(answer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_head_that_does_not_end_is_given_up_whenever_it_began() {
        let times = ConnectionTimes { head: SHORT, idle: NEVER };
        spoken(times, async |mut stream| {
            stream.write_all(&ASK[..20]).await.unwrap();
            assert_eq!(answer(&mut stream).await, "", "it is closed");
        });
        spoken(times, async |mut stream| {
            for _ in 0..3 {
                stream.write_all(ASK).await.unwrap();
                assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
                sleep(LONG).await;
            }
            stream.write_all(&ASK[..20]).await.unwrap();
            assert_eq!(answer(&mut stream).await, "");
        });
    }

    #[test]
    fn an_idle_connection_is_closed_and_one_that_waits_for_an_answer_is_not() {
        let times = ConnectionTimes { head: NEVER, idle: SHORT };
        spoken(times, async |mut stream| {
            stream.write_all(ASK).await.unwrap();
            assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
            assert_eq!(answer(&mut stream).await, "");
        });
        let times = ConnectionTimes { head: SHORT, idle: SHORT };
        spoken(times, async |mut stream| {
            stream.write_all(b"POST /slow HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
        });
    }

    #[test]
    fn an_answer_ends_with_its_body() {
        let phase = Arc::new(ConnectionPhase::default());
        phase.set(ConnectionPhase::BUSY);
        let end = IdleOnEnd { phase: phase.clone(), party: ConnectionParty::default() };
        let body = ending(Body::from("answer"), end);
        assert!(phase.is(ConnectionPhase::BUSY));
        drop(body);
        assert!(phase.is(ConnectionPhase::HEAD));
    }

    #[test]
    fn a_connection_that_is_nobodys_is_not_kept() {
        let times = ConnectionTimes { head: SHORT, idle: NEVER };
        spoken(times, async |mut stream| {
            stream.write_all(b"GET /open HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
            assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
            assert_eq!(answer(&mut stream).await, "");
        });
    }

    #[test]
    fn a_connection_counts_for_whoever_asked_last() {
        let pool: Pool<Tenant> = Pool::new(10);
        let [alice, bob]: [Tenant; 2] = ["alice", "bob"].map(|name| name.parse().unwrap());
        let parties: Vec<ConnectionParty> = (0..9).map(|_| ConnectionParty::default()).collect();
        assert!(parties.iter().all(|party| party.join(&alice, &pool).is_ok() && party.join(&alice, &pool).is_ok()));
        assert_eq!(ConnectionParty::default().join(&alice, &pool), Err(ShareRefused));
        let proxy = ConnectionParty::default();
        proxy.join(&bob, &pool).unwrap();
        assert_eq!((pool.of(&alice), pool.of(&bob)), (9, 1));
        assert_eq!(proxy.join(&alice, &pool), Err(ShareRefused));
        assert_eq!(pool.of(&bob), 0);
        drop(parties);
        assert_eq!(pool.taken(), 0);
    }
}
