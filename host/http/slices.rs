//! `/v1/slices`: runs a guest on a slice, and returns the output and its proof.

mod query;
mod upload;
pub mod tasks;

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use self::query::{SliceJob, SliceQuery};
use self::upload::{PlacedSlice, Upload, UploadTarget};
use super::AppState;
use super::answer::{ContentLocation, ImmutableContent};
use super::auth::Caller;
use super::body::{content_length, is_form};
use super::modules;
use super::negotiate::{self, MediaForm};
use super::problem::HttpProblem;
use crate::access::Permission;
use crate::proof::SliceProof;
use crate::runner::{RunAnswer, RunError, RunResult};
use crate::slice::{SliceError, SliceId, Tenant};
use crate::text::explained;

const SLICE_ID: HeaderName = HeaderName::from_static("slice-id");
const SLICE_OUTCOME: HeaderName = HeaderName::from_static("slice-outcome");
const SLICE_PROOF: HeaderName = HeaderName::from_static("slice-proof");

/// `POST /v1/slices`
pub async fn run(State(served): State<AppState>, caller: Caller, request: Request) -> Result<Response, HttpProblem> {
    caller.require(Permission::Run)?;
    let ask = SliceQuery::parse(request.uri().query().unwrap_or_default())?;
    if tasks::is_preferred(request.headers()) {
        return accept(served, &caller, ask, request).await;
    }
    let form = negotiate::negotiate(request.headers(), &[MediaForm::Json, MediaForm::Output, MediaForm::Proof])?;
    let _run = served.rooms.runs.take(&caller.scope, 1)?;
    let memory = served.rooms.memory_of(&caller.scope)?;
    let job = ask.job(&served, &caller)?;
    check_id(&served, &caller.scope, &job, request.headers()).await?;
    let destination = UploadTarget::Run(caller.scope.clone());
    let brought = upload::receive(&served, memory, request, destination).await?;
    let Upload { slice, args, assets, _kept: kept } = brought;
    let PlacedSlice::Slice(slice) = slice else {
        return Err(HttpProblem::new(500, "internal", "the slice went elsewhere"));
    };
    let runner = &served.node.runner;
    let request = job.request(caller.scope, slice, args, assets);
    let ran = if form == MediaForm::Output { runner.run_for_output(request).await } else { runner.run(request).await };
    // Frees the memory of the request before the response reserves its own.
    drop(kept);
    let answer = ran.map_err(|error| of_run(&error))?;
    tracing::debug!(
        slice_id = %answer.finished.proof.slice_id(),
        outcome = answer.finished.outcome.code().0,
        claim = %answer.finished.proof.claim_digest(),
        "answered a slice"
    );
    respond(answer, form)
}

/// Length from which a lookup on disk before the upload is worth its cost.
const LONG_BYTES: u64 = 256 << 10;

/// Refuses a job whose id already belongs to another job, as far as the request's head shows.
async fn check_id(served: &AppState, scope: &Tenant, job: &SliceJob, headers: &HeaderMap) -> Result<(), HttpProblem> {
    let length = content_length(headers);
    let Some(id) = job.id().filter(|_| length.is_none_or(|length| length > LONG_BYTES)).cloned() else { return Ok(()) };
    let (runner, scope, asked) = (served.node.runner.clone(), scope.clone(), id.clone());
    let owner = scope.clone();
    let known = served.rooms.on_disk(&owner, move || runner.proof(&scope, &asked)).await?;
    let known = known.map_err(|error| HttpProblem::of_host("store", &error))?;
    let input_bytes = length.filter(|_| !is_form(headers));
    match known {
        Some(known) if !job.may_be(known.job(), input_bytes) => Err(of_run(&RunError::SliceIdConflict(id))),
        _ => Ok(()),
    }
}

/// Answers `POST /v1/slices` with a task's id, for clients that fetch the result later. The slice
/// is on disk before the answer names the id.
async fn accept(served: AppState, caller: &Caller, ask: SliceQuery, request: Request) -> Result<Response, HttpProblem> {
    let job = ask.job(&served, caller)?;
    let scope = caller.scope.clone();
    let incoming = served.queue.begin(&scope)?;
    if let Some(bytes) = content_length(request.headers()).filter(|_| !is_form(request.headers())) {
        incoming.check_room(bytes)?;
    }
    let memory = served.rooms.memory_of(&scope)?;
    let brought = upload::receive(&served, memory, request, UploadTarget::Queue(Box::new(incoming))).await?;
    let Upload { slice, args, assets, _kept } = brought;
    let PlacedSlice::Queued(incoming) = slice else {
        return Err(HttpProblem::new(500, "internal", "the slice went elsewhere"));
    };
    let request = job.task_request(args, assets);
    let id = served.rooms.on_disk(&scope, move || incoming.finish(request)).await??;
    tracing::debug!(task = %id, "accepted a slice");
    tasks::accepted(&served, caller.scope.clone(), id).await
}

fn respond(answer: RunAnswer, form: MediaForm) -> Result<Response, HttpProblem> {
    let RunAnswer { finished, source } = answer;
    Ok(match form {
        MediaForm::Output => {
            let mut response = content_of(finished.clone()).answer(&HeaderMap::new())?;
            let proof = BASE64_STANDARD.encode(finished.proof.to_bytes());
            let headers = [
                (SLICE_ID, finished.proof.slice_id().as_str()),
                (SLICE_OUTCOME, finished.outcome.code().0),
                (SLICE_PROOF, &proof),
            ];
            let value = |(name, text): (HeaderName, &str)| Some((name, HeaderValue::from_str(text).ok()?));
            response.headers_mut().extend(headers.into_iter().filter_map(value));
            response
        }
        MediaForm::Proof => proof_in(&finished.proof, form),
        MediaForm::Json | MediaForm::Wasm => {
            let mut object = json!({ "source": source });
            if let (Value::Object(object), Value::Object(proof)) = (&mut object, finished.proof.to_json()) {
                object.extend(proof);
            }
            if !finished.log.is_empty() {
                object["log"] = json!(String::from_utf8_lossy(&finished.log));
            }
            Json(object).into_response()
        }
    })
}

/// Returns the guest's output without a copy. A copy may long outlive the request.
fn content_of(finished: Arc<RunResult>) -> ImmutableContent {
    let digest = finished.proof.output().blake3;
    let bytes = ContentLocation::Memory(Bytes::from_owner(OutputBytes(finished)));
    ImmutableContent { media_type: negotiate::BYTES, digest, bytes }
}

struct OutputBytes(Arc<RunResult>);

impl AsRef<[u8]> for OutputBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.output.as_deref().unwrap_or_default()
    }
}

fn proof_in(proof: &SliceProof, form: MediaForm) -> Response {
    match form {
        MediaForm::Proof => ([(CONTENT_TYPE, negotiate::PROOF)], proof.to_bytes()).into_response(),
        _ => Json(proof.to_json()).into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantQuery {
    /// Another token's proofs, for administrators of the node.
    token: Option<String>,
}

/// `GET /v1/proofs/{slice_id}`
pub async fn proof(
    State(served): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    whose: Result<Query<TenantQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, HttpProblem> {
    caller.require(Permission::Run)?;
    let Query(TenantQuery { token }) = whose.map_err(|error| HttpProblem::malformed(explained(&error.body_text())))?;
    let scope = match token {
        None => caller.scope.clone(),
        Some(name) => {
            caller.require(Permission::Admin)?;
            name.parse::<Tenant>().map_err(|error| HttpProblem::malformed(error.to_string()))?
        }
    };
    let form = negotiate::negotiate(&headers, &[MediaForm::Json, MediaForm::Proof])?;
    let id: SliceId =
        id.parse().map_err(|error: crate::slice::NotASliceId| HttpProblem::malformed(error.to_string()))?;
    let runner = served.node.runner.clone();
    let found = served.rooms.on_disk(&caller.scope, move || runner.proof(&scope, &id)).await?;
    let proof = found.map_err(|error| HttpProblem::of_host("store", &error))?;
    let proof = proof.ok_or_else(|| HttpProblem::new(404, "no_such_proof", "this node has no proof under this id"))?;
    Ok(proof_in(&proof, form))
}

/// Returns the answer to a request whose run failed.
pub fn of_run(error: &RunError) -> HttpProblem {
    let (status, code) = match error {
        RunError::SliceIdConflict(_) => (409, error.code()),
        RunError::Module(error) => return modules::of_module(error),
        RunError::Slice(SliceError::TooLarge { .. }) | RunError::TooLong { .. } => (413, error.code()),
        RunError::TooManyAssets(_) => (422, error.code()),
        RunError::Busy => return HttpProblem::new(429, "busy", error.to_string()).after(Some(HttpProblem::BUSY_RETRY)),
        RunError::Sandbox(_) if error.code() == "deadline" => (504, error.code()),
        RunError::Sandbox(_) if error.code() == "memory_limit_too_high" => (422, error.code()),
        _ => return HttpProblem::of_host(error.code(), error),
    };
    HttpProblem::new(status, code, error.to_string())
}
