//! Stores and disk space: refuses new work while the disk has too little free space, and reports
//! which stores work.

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::AppState;
use super::body::content_length;
use super::problem::{HOST_RETRY, HttpProblem};
use crate::store::{Reserve, StoreError};

/// Paths whose requests bring data that is stored. Bundles are not among them: their handler checks
/// the carrier's signature first.
const BRING: [&str; 3] = ["/v1/modules", "/v1/slices", "/v1/prices"];

/// Refuses a request that would go below the reserve of free space, before its body is read. Passes
/// on a body of more than `bytes_max`; the handler refuses that for its length.
pub async fn keep_reserve(
    State((reserve, bytes_max)): State<(Reserve, u64)>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::POST && BRING.contains(&request.uri().path()) {
        let bytes = content_length(request.headers()).filter(|bytes| *bytes <= bytes_max).unwrap_or(0);
        if reserve.check(bytes).is_err() {
            return no_space().into_response();
        }
    }
    next.run(request).await
}

/// Returns the error for a full disk. The host's path and figures go to the log only, for the
/// owner.
pub fn no_space() -> HttpProblem {
    let detail = "this node's disk has too little space left for that; ask again when its owner has made room";
    HttpProblem::new(507, "no_space", detail).after(Some(HOST_RETRY))
}

impl AppState {
    /// Returns the names of the stores that cannot be written now, with the cause.
    pub fn unwell(&self) -> Vec<(&'static str, StoreError)> {
        let proofs = self.node.runner.store().map_or(Ok(()), |store| store.check());
        let all = [
            ("proofs", proofs),
            ("queue", self.queue.store().check()),
            ("courier", self.courier.store().check_open()),
            ("disk", self.node.reserve.check(0)),
        ];
        all.into_iter().filter_map(|(name, result)| Some((name, result.err()?))).collect()
    }

    /// Reopens stores that have failed, and returns the names of those that work again.
    pub fn mend(&self) -> Vec<&'static str> {
        let proofs = self.node.runner.store().map_or(Ok(false), |store| store.mend());
        let all = [("proofs", proofs), ("queue", self.queue.store().mend()), ("courier", self.courier.store().mend())];
        all.into_iter().filter_map(|(name, mended)| mended.unwrap_or(false).then_some(name)).collect()
    }
}

/// Returns the response of `/readyz` while some stores cannot be written.
pub fn not_ready(unwell: &[(&'static str, StoreError)]) -> HttpProblem {
    let names: Vec<&str> = unwell.iter().map(|(name, _)| *name).collect();
    let detail = format!("these take nothing now: {}; the log of this node says why", names.join(", "));
    HttpProblem::new(503, "not_ready", detail).with("stores", json!(names)).after(Some(HOST_RETRY))
}
