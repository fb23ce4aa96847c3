//! `/v1/slices`: runs a guest on a slice, and returns the output and its proof.

mod ask;
mod intake;
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

use self::ask::{Ask, Job};
use self::intake::{Brought, Destination, Placed};
use super::Served;
use super::accept::{self, Form};
use super::answer::{Content, Stored};
use super::body::{content_length, is_form};
use super::caller::Caller;
use super::modules;
use super::problem::Problem;
use crate::access::Right;
use crate::proof::SliceProof;
use crate::runner::{Answer, Finished, RunError};
use crate::slice::{Scope, SliceError, SliceId};
use crate::text::explained;

const SLICE_ID: HeaderName = HeaderName::from_static("slice-id");
const SLICE_OUTCOME: HeaderName = HeaderName::from_static("slice-outcome");
const SLICE_PROOF: HeaderName = HeaderName::from_static("slice-proof");

/// `POST /v1/slices`
pub async fn run(State(served): State<Served>, caller: Caller, request: Request) -> Result<Response, Problem> {
    caller.needs(Right::Run)?;
    let ask = Ask::parse(request.uri().query().unwrap_or_default())?;
    if tasks::is_preferred(request.headers()) {
        return accept(served, &caller, ask, request).await;
    }
    let form = accept::negotiate(request.headers(), &[Form::Json, Form::Output, Form::Proof])?;
    let _run = served.rooms.runs.take(&caller.scope, 1)?;
    let memory = served.rooms.memory_of(&caller.scope)?;
    let job = ask.job(&served, &caller)?;
    check_id(&served, &caller.scope, &job, request.headers()).await?;
    let destination = Destination::Run(caller.scope.clone());
    let brought = intake::take_in(&served, memory, request, destination).await?;
    let Brought { slice, args, assets, _kept: kept } = brought;
    let Placed::Slice(slice) = slice else { return Err(Problem::new(500, "internal", "the slice went elsewhere")) };
    let runner = &served.node.runner;
    let request = job.request(caller.scope, slice, args, assets);
    let ran = if form == Form::Output { runner.run_for_output(request).await } else { runner.run(request).await };
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
async fn check_id(served: &Served, scope: &Scope, job: &Job, headers: &HeaderMap) -> Result<(), Problem> {
    let length = content_length(headers);
    let Some(id) = job.id().filter(|_| length.is_none_or(|length| length > LONG_BYTES)).cloned() else { return Ok(()) };
    let (runner, scope, asked) = (served.node.runner.clone(), scope.clone(), id.clone());
    let owner = scope.clone();
    let known = served.rooms.on_disk(&owner, move || runner.proof(&scope, &asked)).await?;
    let known = known.map_err(|error| Problem::of_host("store", &error))?;
    let input_bytes = length.filter(|_| !is_form(headers));
    match known {
        Some(known) if !job.may_be(known.job(), input_bytes) => Err(of_run(&RunError::SliceIdConflict(id))),
        _ => Ok(()),
    }
}

/// Answers `POST /v1/slices` with a task's id, for clients that fetch the result later. The slice
/// is on disk before the answer names the id.
async fn accept(served: Served, caller: &Caller, ask: Ask, request: Request) -> Result<Response, Problem> {
    let job = ask.job(&served, caller)?;
    let scope = caller.scope.clone();
    let incoming = served.queue.begin(&scope)?;
    if let Some(bytes) = content_length(request.headers()).filter(|_| !is_form(request.headers())) {
        incoming.check_room(bytes)?;
    }
    let memory = served.rooms.memory_of(&scope)?;
    let brought = intake::take_in(&served, memory, request, Destination::Queue(Box::new(incoming))).await?;
    let Brought { slice, args, assets, _kept } = brought;
    let Placed::Queued(incoming) = slice else { return Err(Problem::new(500, "internal", "the slice went elsewhere")) };
    let request = job.task_request(args, assets);
    let id = served.rooms.on_disk(&scope, move || incoming.finish(request)).await??;
    tracing::debug!(task = %id, "accepted a slice");
    tasks::accepted(&served, caller.scope.clone(), id).await
}

fn respond(answer: Answer, form: Form) -> Result<Response, Problem> {
    let Answer { finished, source } = answer;
    Ok(match form {
        Form::Output => {
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
        Form::Proof => proof_in(&finished.proof, form),
        Form::Json | Form::Wasm => {
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
fn content_of(finished: Arc<Finished>) -> Content {
    let digest = finished.proof.output().blake3;
    let bytes = Stored::Memory(Bytes::from_owner(Output(finished)));
    Content { media_type: accept::BYTES, digest, bytes }
}

struct Output(Arc<Finished>);

impl AsRef<[u8]> for Output {
    fn as_ref(&self) -> &[u8] {
        self.0.output.as_deref().unwrap_or_default()
    }
}

fn proof_in(proof: &SliceProof, form: Form) -> Response {
    match form {
        Form::Proof => ([(CONTENT_TYPE, accept::PROOF)], proof.to_bytes()).into_response(),
        _ => Json(proof.to_json()).into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whose {
    /// Another token's proofs, for administrators of the node.
    token: Option<String>,
}

/// `GET /v1/proofs/{slice_id}`
pub async fn proof(
    State(served): State<Served>,
    caller: Caller,
    Path(id): Path<String>,
    whose: Result<Query<Whose>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.needs(Right::Run)?;
    let Query(Whose { token }) = whose.map_err(|error| Problem::malformed(explained(&error.body_text())))?;
    let scope = match token {
        None => caller.scope.clone(),
        Some(name) => {
            caller.needs(Right::Admin)?;
            name.parse::<Scope>().map_err(|error| Problem::malformed(error.to_string()))?
        }
    };
    let form = accept::negotiate(&headers, &[Form::Json, Form::Proof])?;
    let id: SliceId = id.parse().map_err(|error: crate::slice::NotASliceId| Problem::malformed(error.to_string()))?;
    let runner = served.node.runner.clone();
    let found = served.rooms.on_disk(&caller.scope, move || runner.proof(&scope, &id)).await?;
    let proof = found.map_err(|error| Problem::of_host("store", &error))?;
    let proof = proof.ok_or_else(|| Problem::new(404, "no_such_proof", "this node has no proof under this id"))?;
    Ok(proof_in(&proof, form))
}

/// Returns the answer to a request whose run failed.
pub fn of_run(error: &RunError) -> Problem {
    let (status, code) = match error {
        RunError::SliceIdConflict(_) => (409, error.code()),
        RunError::Module(error) => return modules::of_module(error),
        RunError::Slice(SliceError::TooLarge { .. }) | RunError::TooLong { .. } => (413, error.code()),
        RunError::TooManyAssets(_) => (422, error.code()),
        RunError::Busy => return Problem::new(429, "busy", error.to_string()).after(Some(Problem::BUSY_RETRY)),
        RunError::Sandbox(_) if error.code() == "deadline" => (504, error.code()),
        RunError::Sandbox(_) if error.code() == "memory_limit_too_high" => (422, error.code()),
        _ => return Problem::of_host(error.code(), error),
    };
    Problem::new(status, code, error.to_string())
}
