//! Wrappers of streams and bodies, which change one aspect of the inner one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Observer of a stream. It receives the result of each read and write, and returns the result that
/// the caller gets.
pub trait StreamObserver<S> {
    /// Handles a read of `bytes` new bytes.
    fn read(
        &mut self,
        _stream: &mut S,
        _bytes: usize,
        read: Poll<io::Result<()>>,
        _context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        read
    }

    fn written(
        &mut self,
        _stream: &mut S,
        written: Poll<io::Result<usize>>,
        _context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        written
    }
}

/// A stream and its observer.
pub struct ObservedStream<S, W> {
    pub stream: S,
    pub watch: W,
}

impl<S: AsyncRead + Unpin, W: StreamObserver<S> + Unpin> AsyncRead for ObservedStream<S, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, watch } = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut *stream).poll_read(context, buffer);
        watch.read(stream, buffer.filled().len() - before, read, context)
    }
}

impl<S: AsyncWrite + Unpin, W: StreamObserver<S> + Unpin> AsyncWrite for ObservedStream<S, W> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, watch } = &mut *self;
        let written = Pin::new(&mut *stream).poll_write(context, bytes);
        watch.written(stream, written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, watch } = &mut *self;
        let written = Pin::new(&mut *stream).poll_write_vectored(context, slices);
        watch.written(stream, written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Returns `body` with the same length, and with `each` applied to its pieces. `each` is dropped
/// with the body.
pub fn mapped(body: Body, each: impl FnMut(Bytes) -> Bytes + Send + Unpin + 'static) -> Body {
    Body::new(MappedListener { body, each })
}

struct MappedListener<F> {
    body: Body,
    each: F,
}

impl<F: FnMut(Bytes) -> Bytes + Unpin> HttpBody for MappedListener<F> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, each } = &mut *self;
        let frame = ready!(Pin::new(body).poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(each))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
