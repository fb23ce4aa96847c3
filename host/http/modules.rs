//! `/v1/modules`: upload, listing and removal of modules, and the gate's reports on them.

use axum::Json;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Served;
use super::accept::{self, Form};
use super::answer::{Content, Stored, in_room};
use super::body::{blocking, collect};
use super::caller::Caller;
use super::problem::Problem;
use super::stores::no_space;
use crate::access::Right;
use crate::digest::Digest;
use crate::modules::{
    Added, COMPILER_RETRY, CompilerTurn, ModuleKey, ModuleName, ModulesError, NameClaim, Page, Record, StoredError,
};
use crate::sandbox::{Kind, LimitName, NotAModule};
use crate::text::explained;

/// Media types that an upload may declare. Text is WebAssembly's text format.
const TAKEN: [&str; 3] = [accept::WASM, accept::BYTES, "text/plain"];

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
    State(served): State<Served>,
    caller: Caller,
    naming: Result<Query<Naming>, axum::extract::rejection::QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Right::Upload)?;
    let Query(Naming { name }) = naming.map_err(|error| Problem::malformed(explained(&error.body_text())))?;
    let name = name.map(|name| name.parse::<ModuleName>()).transpose();
    let name = name.map_err(|error| Problem::malformed(error.to_string()))?;
    accept::content_type(request.headers(), &TAKEN)?;
    let mut memory = served.rooms.memory_of(&caller.scope)?;
    let bytes = collect(request, READ_BYTES_MAX, &mut memory).await?;
    // The wait for a compiler's turn occupies no thread.
    let turn = served.node.runner.modules().turn(&caller.scope).await.map_err(|error| of_module(&error))?;
    blocking(move || store(&served, &caller, name.as_ref(), bytes, turn)).await?
}

fn store(
    served: &Served,
    caller: &Caller,
    name: Option<&ModuleName>,
    bytes: Vec<u8>,
    turn: CompilerTurn,
) -> Result<Response, Problem> {
    let modules = served.node.runner.modules();
    let claim = name.map(|name| NameClaim { name, takes_over: caller.may(Right::Admin) });
    if let Some(claim) = claim {
        // Checks the name first, so that no compilation is in vain. The store checks the name again
        // when it assigns the name.
        let stored = modules.stored().and_then(|stored| stored.check_name(claim, &caller.name()));
        stored.map_err(|error| of_stored(&error))?;
    }
    let admitted = modules.prepare_in(&turn, bytes).map_err(|error| of_module(&error))?;
    drop(turn);
    let record =
        Record::new(admitted.wasm().len() as u64, Kind::Compute.name().to_owned(), served.now_ms(), caller.name());
    let stored = modules.stored().map_err(|error| of_stored(&error))?;
    let addition = modules.add(&admitted, claim, &record).map_err(|error| of_module(&error))?;
    let digest = admitted.digest();
    let record = stored.record(&digest).map_err(|error| of_stored(&error))?;
    let is_new = addition.added == Added::New;
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
    State(served): State<Served>,
    caller: Caller,
    paging: Result<Query<Paging>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    caller.needs(Right::Run).or_else(|_| caller.needs(Right::Upload))?;
    let Query(Paging { after, limit }) = paging.map_err(|error| Problem::malformed(explained(&error.body_text())))?;
    let after = after.map(|after| after.parse::<Digest>()).transpose();
    let after = after.map_err(|_| Problem::malformed("`after` is a module's digest, 64 hexadecimal digits"))?;
    let limit = limit.unwrap_or(PAGE_MODULES);
    if !(1..=PAGE_MODULES_MAX).contains(&limit) {
        return Err(Problem::malformed(format!("`limit` is a number from 1 to {PAGE_MODULES_MAX}")));
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
        Ok(in_room(([(CONTENT_TYPE, accept::JSON)], text), room))
    });
    listed.await?
}

/// `GET /v1/modules/{digest}`
pub async fn show(
    State(served): State<Served>,
    caller: Caller,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.needs(Right::Run).or_else(|_| caller.needs(Right::Upload))?;
    let form = accept::negotiate(&headers, &[Form::Json, Form::Wasm])?;
    let key = parse_key(&key)?;
    let (rooms, scope) = (served.rooms.clone(), caller.scope.clone());
    let found = rooms.on_disk(&scope, move || {
        let stored = served.node.runner.modules().stored()?;
        let digest = stored.find(&key)?;
        let record = stored.record(&digest)?;
        if form == Form::Wasm {
            let room = served.rooms.answer(&caller.scope, record.bytes)?;
            let bytes = Stored::Memory(stored.read(&digest)?.into());
            return Ok(in_room(Content { media_type: accept::WASM, digest, bytes }.answer(&headers)?, room));
        }
        let names = stored.names_of(&digest)?;
        Ok(Json(shown(&digest, &record, names)).into_response())
    });
    found.await?
}

/// `DELETE /v1/modules/{digest}`
pub async fn remove(
    State(served): State<Served>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, Problem> {
    caller.needs(Right::Upload)?;
    let key = parse_key(&key)?;
    let (rooms, scope) = (served.rooms.clone(), caller.scope.clone());
    let removed = rooms.on_disk(&scope, move || {
        let stored = served.node.runner.modules().stored().map_err(|error| of_stored(&error))?;
        let digest = stored.find(&key).map_err(|error| of_stored(&error))?;
        let may_all = caller.may(Right::Admin);
        let gone = if may_all { stored.remove(&key) } else { stored.remove_for(&key, &caller.name()) };
        let gone = gone.map_err(|error| of_stored(&error))?;
        Ok(Json(json!({ "digest": digest, "module_removed": gone })))
    });
    removed.await?
}

pub fn parse_key(text: &str) -> Result<ModuleKey, Problem> {
    text.parse().map_err(|_| Problem::malformed("a module is named by its 64 hexadecimal digits or by its name"))
}

fn shown(digest: &Digest, record: &Record, names: Vec<ModuleName>) -> Value {
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

pub fn of_module(error: &ModulesError) -> Problem {
    let status = match error {
        ModulesError::Stored(error) => return of_stored(error),
        ModulesError::Refused(report) => {
            // The report has all reasons, not only the first.
            return Problem::new(422, error.code(), error.to_string()).with("report", report.to_json());
        }
        ModulesError::NotAModule(NotAModule::TextTooLarge(_)) => {
            return Problem::new(413, "too_large", error.to_string());
        }
        ModulesError::NotAModule(_) | ModulesError::NoLonger(_) => 422,
        ModulesError::Busy(_) => {
            return Problem::new(429, error.code(), error.to_string()).after(Some(COMPILER_RETRY));
        }
        ModulesError::Sandbox(_) if error.code() == "not_compilable" => 422,
        ModulesError::Sandbox(_) => return Problem::of_host(error.code(), error),
    };
    Problem::new(status, error.code(), error.to_string())
}

impl From<StoredError> for Problem {
    fn from(error: StoredError) -> Self {
        of_stored(&error)
    }
}

pub fn of_stored(error: &StoredError) -> Problem {
    let status = match error {
        StoredError::NotThere(_) => 404,
        StoredError::NoSpace(_) => return no_space(),
        StoredError::NameTaken { .. } | StoredError::NotYours(_) => 403,
        StoredError::TooMany { .. } | StoredError::TooLarge { .. } | StoredError::TooManyAdders { .. } => 507,
        StoredError::Io { .. } | StoredError::NoFiles | StoredError::Damaged { .. } => {
            return Problem::of_host(error.code(), error);
        }
    };
    Problem::new(status, error.code(), error.to_string())
}

fn unspeakable() -> Problem {
    Problem::new(500, "internal", "the answer cannot be written as a header")
}
