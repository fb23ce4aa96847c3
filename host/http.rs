//! The door for HTTP: routes, limits, status codes. `caller` says who asks and what that one may; `modules` and `slices` are for
//! authors and buyers, `page` is for people, `courier` is where other nodes hand bundles over, `local` where the command line of
//! the same user asks, over a socket in the state directory; `problem` is what an error looks like.

mod problem;
mod accept;
mod body;
mod caller;
mod modules;
mod slices;
mod prices;
mod courier;
mod page;
mod tls;
mod serve;
mod local;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::watch;

use self::body::{Room, blocking};
pub use self::caller::Doorkeeper;
use self::caller::{let_in, let_owner_in};
pub use self::local::{AskError, ask_courier, ask_node, bind_socket, connect};
use self::problem::Problem;
pub use self::serve::{serve_local, serve_network};
use self::slices::tasks;
pub use self::tls::{TlsError, acceptor};
use crate::courier::Courier;
use crate::metrics::{self, Metrics};
use crate::node::{Node, Serving};
use crate::prices::SharedBoard;
use crate::queue::Queue;

/// Requests whose slices run or wait for a thread to run on.
const RUNS_MAX: u64 = 4_096;

/// What the routes work on.
#[derive(Clone)]
pub struct Served {
    pub node: Arc<Node>,
    pub courier: Arc<Courier>,
    pub queue: Arc<Queue>,
    pub prices: Arc<SharedBoard>,
    pub metrics: Arc<Metrics>,
    /// Whether the node is to stop.
    pub stopping: watch::Receiver<bool>,
    /// What bodies may take of memory.
    room: Room,
    runs: Room,
    started: Instant,
    /// Where long slices lie while they are in use.
    spool: PathBuf,
}

impl Served {
    pub fn new(serving: Serving, stopping: watch::Receiver<bool>) -> Self {
        let Serving { node, courier, queue, prices, loaded: _, spool } = serving;
        Self {
            room: Room::of_bytes(node.config.serve.body_memory_bytes_max),
            runs: Room::of_requests(RUNS_MAX),
            started: Instant::now(),
            node: Arc::new(node),
            courier: Arc::new(courier),
            queue,
            prices: Arc::new(prices),
            metrics: Arc::new(Metrics::new()),
            stopping,
            spool,
        }
    }

    fn now_ms(&self) -> u64 {
        self.courier.now_ms()
    }
}

/// What the network sees, as far as the doorkeeper lets in.
pub fn network_routes(served: Served, keeper: Doorkeeper) -> Router {
    routes(served).layer(from_fn_with_state(Arc::new(keeper), let_in))
}

/// What the same user sees, on the socket.
pub fn local_routes(served: Served) -> Router {
    let orders = Router::new()
        .route(local::COURIER_PATH, post(local::perform_courier_order))
        .route(local::NODE_PATH, post(local::perform_node_order))
        .with_state(served.clone());
    orders.merge(routes(served)).layer(from_fn(let_owner_in))
}

fn routes(served: Served) -> Router {
    Router::new()
        .merge(carrier_routes(served.courier.clone()))
        .route("/v1/modules", get(modules::list).post(modules::add))
        .route("/v1/modules/{module}", get(modules::show).delete(modules::remove))
        .route("/v1/slices", post(slices::run))
        .route("/v1/slices/{task}", get(tasks::status).delete(tasks::cancel))
        .route("/v1/slices/{task}/events", get(tasks::events))
        .route("/v1/slices/{task}/output", get(tasks::output))
        .route("/v1/proofs/{slice_id}", get(slices::proof))
        .route("/v1/prices", post(prices::offer))
        .route("/v1/prices/bands", get(prices::bands))
        .route("/", get(page::whole))
        .route("/page/{part}", get(page::part))
        .route("/page/style.css", get(page::style))
        .route("/page/script.js", get(page::script))
        .route("/proofs/{slice_id}", get(page::proof))
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || Json(json!({ "status": "alive" }))))
        .route("/readyz", get(ready))
        .fallback(async || Problem::new(404, "not_found", "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(405, "method_not_allowed", "this path does not take this method")
        })
        .with_state(served)
}

/// Where carriers hand bundles over.
pub fn carrier_routes<S: Clone + Send + Sync + 'static>(courier: Arc<Courier>) -> Router<S> {
    Router::new().route("/v1/courier/bundles", post(courier::receive)).with_state(courier)
}

/// Whether it is worth sending work here.
async fn ready(State(served): State<Served>) -> Response {
    if *served.stopping.borrow() {
        return Problem::new(503, "stopping", "this node is about to end").into_response();
    }
    Json(json!({ "status": "ready" })).into_response()
}

async fn scrape(State(served): State<Served>) -> Result<Response, Problem> {
    let text = blocking(move || served.metrics.text(&served.courier)).await?;
    let text = text.map_err(|error| Problem::of_host("storage_failed", &error))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
