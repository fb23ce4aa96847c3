//! `/v1/modules`: upload, listing and removal of modules, and the gate's reports on them.

use axum::Json;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::AppState;
use super::answer::{ContentLocation, ImmutableContent, in_room};
use super::auth::Caller;
use super::body::{blocking, collect};
use super::negotiate::{self, MediaForm};
use super::problem::HttpProblem;
use super::stores::no_space;
use crate::access::Permission;
use crate::digest::Digest;
use crate::modules::{
    AddedModule, COMPILER_RETRY, CompilerTurn, ModuleKey, ModuleName, ModuleRecord, ModulesError, NameClaim, Page,
    StoredError,
};
use crate::sandbox::{LimitName, NotAModule, ProgramKind};
use crate::text::explained;

/// Media types that an upload may declare. Text is WebAssembly's text format.
const TAKEN: [&str; 3] = [negotiate::WASM, negotiate::BYTES, "text/plain"];

/// Longest upload: the longest module that a config can admit. The limit holds for text too.
const READ_BYTES_MAX: u64 = LimitName::ModuleBytes.limit().highest;

/// Default and maximum number of modules in one page of a list.
const PAGE_MODULES: usize = 100;
const PAGE_MODULES_MAX: usize = 1_000;

/// Approximate memory for one listed module, as text and while the text is made.
const LISTED_BYTES: u64 = 2 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Naming {
    name: Option<String>,
}

/// `POST /v1/modules`
pub async fn add(
    State(served): State<AppState>,
    caller: Caller,
    naming: Result<Query<Naming>, axum::extract::rejection::QueryRejection>,
    request: Request,
) -> Result<Response, HttpProblem> {
    caller.require(Permission::Upload)?;
    let Query(Naming { name }) = naming.map_err(|error| HttpProblem::malformed(explained(&error.body_text())))?;
    let name = name.map(|name| name.parse::<ModuleName>()).transpose();
    let name = name.map_err(|error| HttpProblem::malformed(error.to_string()))?;
    negotiate::content_type(request.headers(), &TAKEN)?;
    let mut memory = served.rooms.memory_of(&caller.scope)?;
    let bytes = collect(request, READ_BYTES_MAX, &mut memory).await?;
    // The wait for a compiler's turn occupies no thread.
    let turn = served.node.runner.modules().turn(&caller.scope).await.map_err(|error| of_module(&error))?;
    blocking(move || store(&served, &caller, name.as_ref(), bytes, turn)).await?
}

fn store(
    served: &AppState,
    caller: &Caller,
    name: Option<&ModuleName>,
    bytes: Vec<u8>,
    turn: CompilerTurn,
) -> Result<Response, HttpProblem> {
    let modules = served.node.runner.modules();
    let claim = name.map(|name| NameClaim { name, takes_over: caller.may(Permission::Admin) });
    if let Some(claim) = claim {
        // Checks the name first, so that no compilation is in vain. The store checks the name again
        // when it assigns the name.
        let stored = modules.stored().and_then(|stored| stored.check_name(claim, &caller.name()));
        stored.map_err(|error| of_stored(&error))?;
    }
    let admitted = modules.prepare_in(&turn, bytes).map_err(|error| of_module(&error))?;
    drop(turn);
    let record = ModuleRecord::new(
        admitted.wasm().len() as u64,
        ProgramKind::Compute.name().to_owned(),
        served.now_ms(),
        caller.name(),
    );
    let stored = modules.stored().map_err(|error| of_stored(&error))?;
    let addition = modules.add(&admitted, claim, &record).map_err(|error| of_module(&error))?;
    let digest = admitted.digest();
    let record = stored.record(&digest).map_err(|error| of_stored(&error))?;
    let is_new = addition.added == AddedModule::New;
    let mut object = shown(&digest, &record, name.into_iter().cloned().collect());
    object["new"] = is_new.into();
    object["renamed"] = json!(addition.renamed);
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let location = HeaderValue::try_from(format!("/v1/modules/{digest}")).map_err(|_| unspeakable())?;
    Ok((status, [(LOCATION, location)], Json(object)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paging {
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/modules`
pub async fn list(
    State(served): State<AppState>,
    caller: Caller,
    paging: Result<Query<Paging>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, HttpProblem> {
    caller.require(Permission::Run).or_else(|_| caller.require(Permission::Upload))?;
    let Query(Paging { after, limit }) =
        paging.map_err(|error| HttpProblem::malformed(explained(&error.body_text())))?;
    let after = after.map(|after| after.parse::<Digest>()).transpose();
    let after = after.map_err(|_| HttpProblem::malformed("`after` is a module's digest, 64 hexadecimal digits"))?;
    let limit = limit.unwrap_or(PAGE_MODULES);
    if !(1..=PAGE_MODULES_MAX).contains(&limit) {
        return Err(HttpProblem::malformed(format!("`limit` is a number from 1 to {PAGE_MODULES_MAX}")));
    }
    let (rooms, scope) = (served.rooms.clone(), caller.scope.clone());
    let listed = rooms.on_disk(&scope, move || {
        // Reserves memory first, so that all memory of the list is counted.
        let mut room = served.rooms.answer(&caller.scope, limit as u64 * LISTED_BYTES)?;
        let stored = served.node.runner.modules().stored()?;
        // Reads the files once, and not again for each list.
        stored.stored()?;
        let Page { modules, next } = stored.page(after.as_ref(), limit)?;
        let known = modules.into_iter().filter_map(|one| Some(shown(&one.digest, &one.record.ok()?, one.names)));
        let mut object = json!({ "modules": known.collect::<Vec<_>>() });
        if let Some(next) = next {
            object["next"] = json!(next);
        }
        let text = object.to_string();
        room.cover(text.len() as u64)?;
        room.shrink_to(text.len() as u64);
        Ok(in_room(([(CONTENT_TYPE, negotiate::JSON)], text), room))
    });
    listed.await?
}

/// `GET /v1/modules/{digest}`
pub async fn show(
    State(served): State<AppState>,
    caller: Caller,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<Response, HttpProblem> {
    caller.require(Permission::Run).or_else(|_| caller.require(Permission::Upload))?;
    let form = negotiate::negotiate(&headers, &[MediaForm::Json, MediaForm::Wasm])?;
    let key = parse_key(&key)?;
    let (rooms, scope) = (served.rooms.clone(), caller.scope.clone());
    let found = rooms.on_disk(&scope, move || {
        let stored = served.node.runner.modules().stored()?;
        let digest = stored.find(&key)?;
        let record = stored.record(&digest)?;
        if form == MediaForm::Wasm {
            let room = served.rooms.answer(&caller.scope, record.bytes)?;
            let bytes = ContentLocation::Memory(stored.read(&digest)?.into());
            return Ok(in_room(
                ImmutableContent { media_type: negotiate::WASM, digest, bytes }.answer(&headers)?,
                room,
            ));
        }
        let names = stored.names_of(&digest)?;
        Ok(Json(shown(&digest, &record, names)).into_response())
    });
    found.await?
}

/// `DELETE /v1/modules/{digest}`
pub async fn remove(
    State(served): State<AppState>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, HttpProblem> {
    caller.require(Permission::Upload)?;
    let key = parse_key(&key)?;
    let (rooms, scope) = (served.rooms.clone(), caller.scope.clone());
    let removed = rooms.on_disk(&scope, move || {
        let stored = served.node.runner.modules().stored().map_err(|error| of_stored(&error))?;
        let digest = stored.find(&key).map_err(|error| of_stored(&error))?;
        let may_all = caller.may(Permission::Admin);
        let gone = if may_all { stored.remove(&key) } else { stored.remove_for(&key, &caller.name()) };
        let gone = gone.map_err(|error| of_stored(&error))?;
        Ok(Json(json!({ "digest": digest, "module_removed": gone })))
    });
    removed.await?
}

pub fn parse_key(text: &str) -> Result<ModuleKey, HttpProblem> {
    text.parse().map_err(|_| HttpProblem::malformed("a module is named by its 64 hexadecimal digits or by its name"))
}

fn shown(digest: &Digest, record: &ModuleRecord, names: Vec<ModuleName>) -> Value {
    json!({
        "digest": digest,
        "names": names,
        "bytes": record.bytes,
        "kind": record.kind,
        "added_unix_ms": record.added_unix_ms,
        "added_by": record.added_by,
        "also_added_by": record.also_added_by,
    })
}

pub fn of_module(error: &ModulesError) -> HttpProblem {
    let status = match error {
        ModulesError::Stored(error) => return of_stored(error),
        ModulesError::Refused(report) => {
            // The report has all reasons, not only the first.
            return HttpProblem::new(422, error.code(), error.to_string()).with("report", report.to_json());
        }
        ModulesError::NotAModule(NotAModule::TextTooLarge(_)) => {
            return HttpProblem::new(413, "too_large", error.to_string());
        }
        ModulesError::NotAModule(_) | ModulesError::NoLonger(_) => 422,
        ModulesError::Busy(_) => {
            return HttpProblem::new(429, error.code(), error.to_string()).after(Some(COMPILER_RETRY));
        }
        ModulesError::Sandbox(_) if error.code() == "not_compilable" => 422,
        ModulesError::Sandbox(_) => return HttpProblem::of_host(error.code(), error),
    };
    HttpProblem::new(status, error.code(), error.to_string())
}

impl From<StoredError> for HttpProblem {
    fn from(error: StoredError) -> Self {
        of_stored(&error)
    }
}

pub fn of_stored(error: &StoredError) -> HttpProblem {
    let status = match error {
        StoredError::NotThere(_) => 404,
        StoredError::NoSpace(_) => return no_space(),
        StoredError::NameTaken { .. } | StoredError::NotYours(_) => 403,
        StoredError::TooMany { .. } | StoredError::TooLarge { .. } | StoredError::TooManyAdders { .. } => 507,
        StoredError::Io { .. } | StoredError::NoFiles | StoredError::Damaged { .. } => {
            return HttpProblem::of_host(error.code(), error);
        }
    };
    HttpProblem::new(status, error.code(), error.to_string())
}

fn unspeakable() -> HttpProblem {
    HttpProblem::new(500, "internal", "the answer cannot be written as a header")
}
