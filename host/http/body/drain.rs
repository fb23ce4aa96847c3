//! Bodies of refused requests: reads them to the end, so that the sender receives the response.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::extract::Request;
use axum::http::header::EXPECT;
use futures_util::{Stream, StreamExt as _};

/// Longest time to go on reading the body of a refused request.
const HEARD: Duration = Duration::from_secs(10);

/// Wraps the body of `request`, so that the unread rest is drained for a while when the body is
/// dropped. Closing a connection while the client is still sending would lose the response, and the
/// client would send the refused request again and again.
///
/// A sender that waits for `100 Continue` has sent nothing. Its body is not requested unless the
/// handler begins to read it.
pub fn drain_on_drop(request: Request) -> Request {
    let waits = request.headers().contains_key(EXPECT);
    request.map(|body| {
        if body.is_end_stream() {
            return body;
        }
        Body::from_stream(DrainOnDrop { pieces: Some(body.into_data_stream()), is_coming: !waits })
    })
}

struct DrainOnDrop {
    /// `None` at the end.
    pieces: Option<BodyDataStream>,
    /// True if the sender is already sending, as far as is known.
    is_coming: bool,
}

impl Stream for DrainOnDrop {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.is_coming = true;
        let Some(pieces) = &mut self.pieces else { return Poll::Ready(None) };
        let polled = pieces.poll_next_unpin(context);
        if !matches!(polled, Poll::Pending | Poll::Ready(Some(Ok(_)))) {
            self.pieces = None;
        }
        polled
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        if let Some(mut pieces) = self.pieces.take().filter(|_| self.is_coming) {
            tokio::spawn(tokio::time::timeout(HEARD, async move { while let Some(Ok(_)) = pieces.next().await {} }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Returns how many pieces are read from a body that no handler reads.
    fn read_of_a_refused(expects: bool) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            let counted = asked.clone();
            let pieces = futures_util::stream::unfold(0, move |number| {
                counted.fetch_add(1, Ordering::SeqCst);
                std::future::ready((number < 3).then_some((Ok::<_, std::io::Error>("piece"), number + 1)))
            });
            let mut request = Request::builder();
            if expects {
                request = request.header(EXPECT, "100-continue");
            }
            drop(drain_on_drop(request.body(Body::from_stream(pieces)).unwrap()));
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        });
        asked.load(Ordering::SeqCst)
    }

    #[test]
    fn a_refused_body_is_read_to_its_end_unless_its_sender_waits_to_be_asked() {
        assert_eq!((read_of_a_refused(false), read_of_a_refused(true)), (4, 0));
    }
}
