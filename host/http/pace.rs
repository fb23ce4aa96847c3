//! Minimum rate at which clients must receive answers. Without it, a client that does not read
//! could hold an answer in memory as long as it likes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::body::Pace;
use super::observed::{ObservedStream, StreamObserver};

/// A connection whose peer must receive what is written; else the next write fails. Time counts
/// only while bytes wait to be received. So a connection may stay open while there is nothing to
/// send.
///
/// Place this wrapper between TLS and the socket. Outside TLS it would count the bytes that TLS has
/// buffered, not those that were sent.
pub type Paced = ObservedStream<TcpStream, OutgoingPace>;

/// Enforces the minimum rate.
pub struct OutgoingPace {
    patience: WritePatience,
    waiting: Option<PendingWrite>,
}

/// A write that is pending.
struct PendingWrite {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl Paced {
    pub const fn new(stream: TcpStream, pace: Pace) -> Self {
        Self { stream, watch: OutgoingPace { patience: WritePatience::new(pace), waiting: None } }
    }
}

impl StreamObserver<TcpStream> for OutgoingPace {
    fn written(
        &mut self,
        stream: &mut TcpStream,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            let waited = self.waiting.take().map_or(Duration::ZERO, |waiting| waiting.since.elapsed());
            self.patience.spend(waited, *result.as_ref().unwrap_or(&0) as u64);
            return Poll::Ready(result);
        }
        let next = self.patience.next();
        let begin = || PendingWrite { since: Instant::now(), end: Box::pin(sleep(next)) };
        ready!(self.waiting.get_or_insert_with(begin).end.as_mut().poll(context));
        // Resets the connection. Otherwise the system would keep its buffered bytes for as long as
        // the peer acknowledges that it is alive.
        let _ = stream.set_zero_linger();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other side takes nothing, or too little")))
    }
}

/// Time for which the peer of one connection may still delay writes.
struct WritePatience {
    pace: Pace,
    /// Total budget. Received bytes add the time that they take at the lowest rate, up to the
    /// initial budget: a connection that has carried much does not earn hours.
    left: Duration,
}

impl WritePatience {
    const fn new(pace: Pace) -> Self {
        Self { pace, left: pace.begin }
    }

    /// Returns the longest wait for the next bytes.
    fn next(&self) -> Duration {
        self.left.min(self.pace.pause_max)
    }

    fn spend(&mut self, waited: Duration, bytes: u64) {
        self.left = (self.left.saturating_sub(waited) + self.pace.time_for(bytes)).min(self.pace.begin);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const LONG: usize = 64 << 20;

    /// Timeout of a test.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(PATIENCE, test).await }).expect("it is torn down");
    }

    async fn pair(pace: Pace) -> (Paced, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Paced::new(listener.accept().await.unwrap().0, pace), other)
    }

    #[test]
    fn what_is_taken_buys_time_and_never_more_than_there_was() {
        let (seconds, pace) = (Duration::from_secs, Pace::NETWORK);
        let mut patience = WritePatience::new(pace);
        assert_eq!(patience.next(), seconds(10), "no pause is longer");
        patience.spend(seconds(0), 1 << 40);
        // An eighth of the lowest rate.
        for left in [30.0 - 7.0, 30.0 - 14.0, 30.0 - 21.0, 30.0 - 28.0] {
            patience.spend(seconds(8), 16 << 10);
            assert_eq!(patience.left, Duration::from_secs_f64(left));
        }
        assert_eq!(patience.next(), seconds(2));
        // A transfer at exactly the lowest rate may continue.
        (0..100).for_each(|_| patience.spend(seconds(1), 16 << 10));
        assert_eq!(patience.next(), seconds(2));
        patience.spend(seconds(9), 1);
        assert_eq!(patience.next(), Duration::from_secs(1) / (16 << 10));
        assert_eq!(pace.time_for(u64::MAX).as_secs(), u64::MAX >> 14, "any length is worth something");
    }

    #[test]
    fn a_connection_on_which_nothing_is_taken_is_torn_down() {
        run(async {
            let pace = Pace { pause_max: Duration::from_millis(100), ..Pace::NETWORK };
            let (mut paced, mut other) = pair(pace).await;
            let error = paced.write_all(&vec![0; LONG]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            drop(paced);
            let read = other.read_to_end(&mut Vec::new()).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "the system keeps nothing either");
        });
    }

    #[test]
    fn a_connection_on_which_too_little_is_taken_is_torn_down() {
        run(async {
            let pace =
                Pace { pause_max: Duration::MAX, begin: Duration::from_millis(100), bytes_per_second_min: u32::MAX };
            let (mut paced, mut other) = pair(pace).await;
            let nibble = async {
                let mut piece = [0; 4096];
                while other.read(&mut piece).await.is_ok_and(|bytes| bytes > 0) {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            let bytes = vec![0; LONG];
            tokio::select! {
                written = paced.write_all(&bytes) => assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut),
                () = nibble => panic!("it goes on until it is torn down"),
            }
        });
    }

    #[test]
    fn where_nothing_waits_no_time_counts() {
        run(async {
            let second = Duration::from_secs(1);
            let pace = Pace { pause_max: second, begin: second, bytes_per_second_min: u32::MAX };
            let (mut paced, mut other) = pair(pace).await;
            paced.write_all(b"event").await.unwrap();
            sleep(second).await;
            // This write waits until the peer reads.
            let (bytes, mut all) = (vec![0; LONG / 8], vec![0; LONG / 8 + 5]);
            let read = async {
                sleep(second / 10).await;
                other.read_exact(&mut all).await
            };
            let (written, read) = tokio::join!(paced.write_all(&bytes), read);
            assert_eq!((written.unwrap(), read.unwrap()), ((), LONG / 8 + 5));
        });
    }
}
