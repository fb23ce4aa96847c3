//! `/v1/slices`: a slice comes in, and what a guest made of it goes out, with its proof.

mod ask;
mod intake;
pub mod tasks;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use self::ask::Ask;
use self::intake::{Brought, Destination, Placed};
use super::Served;
use super::accept::{self, Form};
use super::body::blocking;
use super::caller::Caller;
use super::modules;
use super::outgoing::holding;
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
    let _turn = served.runs.enter()?;
    let Brought { slice, args, assets, _kept: kept } = intake::take_in(&served, request, Destination::Run).await?;
    let Placed::Slice(slice) = slice else { return Err(Problem::new(500, "internal", "the slice went elsewhere")) };
    let job = ask.job(&served, &caller, args)?;
    let runner = &served.node.runner;
    let request = job.request(caller.scope, slice, assets);
    let ran = if form == Form::Output { runner.run_for_output(request).await } else { runner.run(request).await };
    // What comes out may need the room that what came in has had.
    drop(kept);
    let answer = ran.map_err(|error| of_run(&error))?;
    tracing::debug!(
        slice_id = %answer.finished.proof.slice_id(),
        outcome = answer.finished.outcome.code().0,
        claim = %answer.finished.proof.claim_digest(),
        "answered a slice"
    );
    respond(&served, answer, form)
}

/// `POST /v1/slices`, for whom it is enough to be told later: the slice is on disk when its task's id is told.
async fn accept(served: Served, caller: &Caller, ask: Ask, request: Request) -> Result<Response, Problem> {
    let (queue, scope) = (served.queue.clone(), caller.scope.clone());
    let incoming = blocking(move || queue.begin(&scope)).await??;
    let brought = intake::take_in(&served, request, Destination::Queue(Box::new(incoming))).await?;
    let Brought { slice, args, assets, _kept } = brought;
    let Placed::Queued(incoming) = slice else { return Err(Problem::new(500, "internal", "the slice went elsewhere")) };
    let request = ask.job(&served, caller, args)?.task_request(assets);
    let id = blocking(move || incoming.finish(request)).await??;
    tracing::debug!(task = %id, "accepted a slice");
    tasks::accepted(&served, caller.scope.clone(), id).await
}

fn respond(served: &Served, answer: Answer, form: Form) -> Result<Response, Problem> {
    let Answer { finished, source } = answer;
    Ok(match form {
        Form::Output => {
            let mut response = output_of(served, finished.clone())?;
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

/// What a guest has put out, as the runner has it: without a copy, which may long outlive the request.
fn output_of(served: &Served, finished: Arc<Finished>) -> Result<Response, Problem> {
    let output = Output(finished);
    let room = served.room.take_for_answer(output.as_ref().len() as u64)?;
    Ok(([(CONTENT_TYPE, accept::BYTES)], holding(output, room)).into_response())
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
    /// Another's, for those who administer the node.
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
    let found = blocking(move || served.node.runner.proof(&scope, &id)).await?;
    let proof = found.map_err(|error| Problem::of_host("store", &error))?;
    let proof = proof.ok_or_else(|| Problem::new(404, "no_such_proof", "this node has no proof under this id"))?;
    Ok(proof_in(&proof, form))
}

/// What there is in the place of an answer.
pub fn of_run(error: &RunError) -> Problem {
    let (status, code) = match error {
        RunError::SliceIdConflict(_) => (409, error.code()),
        RunError::Module(error) => return modules::of_module(error),
        RunError::Slice(SliceError::TooLarge { .. }) | RunError::TooLong { .. } => (413, error.code()),
        RunError::TooManyAssets(_) => (422, error.code()),
        RunError::Sandbox(_) if error.code() == "deadline" => (504, error.code()),
        RunError::Sandbox(_) if error.code() == "memory_limit_too_high" => (422, error.code()),
        _ => return Problem::of_host(error.code(), error),
    };
    Problem::new(status, code, error.to_string())
}
