//! Work that may wait for a disk, on a thread of its own.

use tracing::Span;

use super::problem::Problem;

/// Does what may wait for a disk. What is logged there is of the same request.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| Problem::new(500, "internal", error.to_string()))
}
