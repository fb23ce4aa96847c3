//! HTTP service: routes, limits and status codes.
//!
//! * `caller` authenticates requests and checks their rights.
//! * `modules`, `slices` and `prices` are the API for module authors and buyers.
//! * `page` is the dashboard for people.
//! * `courier` receives bundles from other nodes.
//! * `local` serves the command line of the same user, over a socket in the state directory.
//! * `log` logs and counts requests, and `problem` formats errors.

mod problem;
mod rate;
mod observed;
mod negotiate;
mod blocking;
mod pools;
mod body;
mod stores;
mod pace;
mod log;
mod connection;
mod auth;
mod answer;
mod modules;
mod slices;
mod prices;
mod courier;
mod page;
mod tls;
mod addresses;
mod serve;
mod local;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::watch;

pub use self::addresses::Addresses;
use self::answer::{fixed, reserve_answer};
pub use self::auth::Authenticator;
use self::auth::{Caller, auth_layer, owner_layer};
pub use self::local::{AskError, ask_courier, ask_node, bind_socket, connect};
use self::log::{Routes as _, follow};
use self::negotiate::check_codings;
use self::pools::ServicePools;
use self::problem::HttpProblem;
pub use self::serve::{DRAIN, ListenerConfig, listen, serve_local, serve_network};
use self::slices::tasks;
use self::stores::{keep_reserve, not_ready};
pub use self::tls::{Certificate, Tls, TlsError, certificate};
use crate::courier::Courier;
use crate::metrics::{self, Metrics, ScrapeSources};
use crate::node::{Node, Services};
use crate::prices::SharedBoard;
use crate::queue::Queue;

/// Application state of the routes.
#[derive(Clone)]
pub struct AppState {
    pub node: Arc<Node>,
    pub courier: Arc<Courier>,
    pub queue: Arc<Queue>,
    pub prices: Arc<SharedBoard>,
    pub metrics: Arc<Metrics>,
    /// True when the node is to shut down.
    pub stopping: watch::Receiver<bool>,
    rooms: ServicePools,
    started: Instant,
    /// Directory for long slices while they are in use.
    spool: PathBuf,
}

impl AppState {
    pub fn new(serving: Services, stopping: watch::Receiver<bool>) -> Self {
        let Services { node, courier, queue, prices, loaded, spool } = serving;
        let metrics = Arc::new(Metrics::new(courier.now_ms()));
        metrics.board_loaded(&loaded);
        let counts = metrics.clone();
        node.runner.observe(move |observation| counts.slice(observation));
        let counts = metrics.clone();
        node.runner.observe_usage(move |usage| counts.usage(usage));
        let counts = metrics.clone();
        node.runner.modules().observe(move |event| counts.module(event));
        Self {
            rooms: ServicePools::new(&node.config.serve),
            started: Instant::now(),
            node: Arc::new(node),
            courier: Arc::new(courier),
            queue,
            prices: Arc::new(prices),
            metrics,
            stopping,
            spool,
        }
    }

    fn now_ms(&self) -> u64 {
        self.courier.now_ms()
    }
}

/// Returns the routes for the network, behind the authentication layer.
pub fn network_routes(served: AppState, keeper: Arc<Authenticator>) -> Router {
    let connections = served.rooms.connections.clone();
    let metrics = served.metrics.clone();
    routes(served)
        .layer(from_fn_with_state((keeper, connections), auth_layer))
        .layer(from_fn_with_state(metrics, follow))
}

/// Returns the routes for the local socket, where every request is the owner's.
pub fn local_routes(served: AppState) -> Router {
    let orders = Router::new()
        .at(local::COURIER_PATH, post(local::execute_courier_command))
        .at(local::NODE_PATH, post(local::execute_node_command))
        .with_state(served.clone());
    let metrics = served.metrics.clone();
    orders.merge(routes(served)).layer(from_fn(owner_layer)).layer(from_fn_with_state(metrics, follow))
}

fn routes(served: AppState) -> Router {
    let reserve = served.node.reserve.clone();
    let bytes_max = served.node.config.serve.slice_bytes_max;
    Router::new()
        .merge(carrier_routes(served.courier.clone()))
        .at("/v1/modules", get(modules::list).post(modules::add))
        .at("/v1/modules/{module}", get(modules::show).delete(modules::remove))
        .at("/v1/slices", post(slices::run))
        .at("/v1/slices/{task}", get(tasks::status))
        .at("/v1/slices/{task}/cancel", post(tasks::cancel))
        .at("/v1/slices/{task}/events", get(tasks::events))
        .at("/v1/slices/{task}/output", get(tasks::output))
        .at("/v1/proofs/{slice_id}", get(slices::proof))
        .at("/v1/prices", post(prices::offer))
        .at("/v1/prices/bands", get(prices::bands))
        .at("/v1/courier", get(courier::status))
        .at("/v1/openapi.json", get(describe))
        .at("/", get(page::whole))
        .at("/page/{part}", get(page::part))
        .at("/page/style.css", get(page::style))
        .at("/page/script.js", get(page::script))
        .at("/proofs/{slice_id}", get(page::proof))
        .at("/metrics", get(scrape))
        .at("/healthz", get(async || Json(json!({ "status": "alive" }))))
        .at("/readyz", get(ready))
        .fallback(async || HttpProblem::new(404, "not_found", "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            HttpProblem::new(405, "method_not_allowed", "this path does not take this method")
        })
        .layer(from_fn_with_state((reserve, bytes_max), keep_reserve))
        .layer(from_fn_with_state(served.rooms.clone(), reserve_answer))
        .layer(from_fn(check_codings))
        .layer(map_response(nosniff))
        .with_state(served)
}

/// Sets `X-Content-Type-Options: nosniff`, so that browsers do not guess another content type.
async fn nosniff(mut response: Response) -> Response {
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns the route on which carriers deliver bundles.
pub fn carrier_routes<S: Clone + Send + Sync + 'static>(courier: Arc<Courier>) -> Router<S> {
    Router::new().at("/v1/courier/bundles", post(courier::receive)).with_state(courier)
}

/// OpenAPI description of the API.
const DESCRIPTION: &str = include_str!("http/openapi.json");

async fn describe() -> Response {
    fixed(([(CONTENT_TYPE, negotiate::JSON)], DESCRIPTION))
}

/// Answers the readiness probe: 200 if the node can accept work, else 503.
async fn ready(State(served): State<AppState>) -> Response {
    if *served.stopping.borrow() {
        return HttpProblem::new(503, "stopping", "this node is about to end").into_response();
    }
    match blocking::blocking(move || served.unwell()).await {
        Ok(unwell) if unwell.is_empty() => Json(json!({ "status": "ready" })).into_response(),
        Ok(unwell) => not_ready(&unwell).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn scrape(State(served): State<AppState>, caller: Caller) -> Result<Response, HttpProblem> {
    let rooms = served.rooms.clone();
    let text = rooms.on_disk(&caller.scope, move || {
        let AppState { node, courier, queue, prices, metrics, .. } = &served;
        metrics.text(&ScrapeSources { runner: &node.runner, queue, prices, courier })
    });
    let text = text.await?.map_err(|error| HttpProblem::of_host(error.code(), &error))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
