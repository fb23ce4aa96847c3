//! `/v1/prices`: offers and price bands.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;

use super::AppState;
use super::auth::Caller;
use super::body::json;
use super::negotiate;
use super::problem::HttpProblem;
use crate::access::Permission;
use crate::digest::Digest;
use crate::prices::commands::{PriceAnswer, PriceRequest};
use crate::prices::{ExecuteError, Lane, Price, ProviderName};
use crate::slice::Tenant;

/// Limit on the body of an offer. An offer has at most some 200 bytes.
const OFFER_BYTES_MAX: u64 = 4 << 10;

/// Body of an offer. The provider is the name of the token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Offered {
    price: Price,
    #[serde(default)]
    lane: Lane,
    /// Only for the node's owner, who has no token.
    provider: Option<ProviderName>,
}

/// `POST /v1/prices`
pub async fn offer(State(served): State<AppState>, caller: Caller, request: Request) -> Result<Response, HttpProblem> {
    caller.require(Permission::Price)?;
    negotiate::content_type(request.headers(), &[negotiate::JSON])?;
    let memory = served.rooms.memory_of(&caller.scope)?;
    let Offered { price, lane, provider } = json(request, OFFER_BYTES_MAX, memory).await?;
    let provider = match (caller.scope.token(), provider) {
        (None, None) => ProviderName::local(),
        (None, Some(provider)) => provider,
        (Some(_), Some(_)) => {
            return Err(HttpProblem::malformed("whose offer this is, the token says, not `provider`"));
        }
        (Some(token), None) => {
            token.parse().map_err(|_| HttpProblem::malformed("this token's name is no provider's"))?
        }
    };
    let told = execute(served, &caller.scope, PriceRequest::Offer { price, lane, provider }).await?;
    Ok((StatusCode::CREATED, told).into_response())
}

/// `GET /v1/prices/bands`
pub async fn bands(State(served): State<AppState>, caller: Caller, request: Request) -> Result<Response, HttpProblem> {
    caller.require(Permission::Price).or_else(|_| caller.require(Permission::Run))?;
    let (mut lane, mut quantiles) = (None, Vec::new());
    for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        match &*name {
            "lane" if lane.is_none() => lane = Some(value.parse().map_err(of("lane"))?),
            "quantile" => quantiles.push(value.parse().map_err(of("quantile"))?),
            _ => return Err(HttpProblem::malformed("the parameters are `lane`, once, and `quantile`")),
        }
    }
    let order = PriceRequest::Bands { lane: lane.unwrap_or_default(), quantiles };
    Ok(execute(served, &caller.scope, order).await?.into_response())
}

async fn execute(served: AppState, scope: &Tenant, order: PriceRequest) -> Result<Json<Value>, HttpProblem> {
    let now_ms = served.now_ms();
    // `look` waits for its turn, because other callers may hold the board.
    let rooms = served.rooms.clone();
    let told = rooms.on_disk(scope, move || {
        let stored = served.node.runner.modules().stored().ok();
        let is_stored = |digest: &Digest| stored.is_some_and(|stored| stored.contains(digest));
        served.prices.execute(order, is_stored, now_ms)
    });
    let told = told.await?.map_err(|error| match error {
        ExecuteError::Order(error) => HttpProblem::malformed(error.to_string()),
        ExecuteError::File(error) => HttpProblem::of_host("storage_failed", &error),
    })?;
    let value = match told.first() {
        Some(PriceAnswer::Recorded(recorded)) => serde_json::to_value(recorded),
        Some(PriceAnswer::Bands(bands)) => serde_json::to_value(bands),
        _ => return Err(HttpProblem::new(500, "internal", "the price board answers what was not asked")),
    };
    value.map(Json).map_err(|error| HttpProblem::new(500, "internal", error.to_string()))
}

fn of<E: std::fmt::Display>(name: &'static str) -> impl Fn(E) -> HttpProblem {
    move |error| HttpProblem::malformed(format!("`{name}`: {error}"))
}
