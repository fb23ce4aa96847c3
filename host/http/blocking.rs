//! Blocking work on a thread of its own.

use tracing::Span;

use super::problem::HttpProblem;

/// Runs blocking `work`, such as disk access, on a blocking thread. The log lines of the work carry
/// the span of the request.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, HttpProblem> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| HttpProblem::new(500, "internal", error.to_string()))
}
