//! The door for HTTP: routes, limits, status codes. `caller` says who asks and what that one may; `modules`, `slices` and `prices`
//! are for authors and buyers, `page` is for people, `courier` is where other nodes hand bundles over, `local` where the command
//! line of the same user asks, over a socket in the state directory; `log` is what is said of a request, `problem` what an error
//! looks like.

mod problem;
mod wrapped;
mod accept;
mod blocking;
mod room;
mod body;
mod stores;
mod outgoing;
mod log;
mod connection;
mod caller;
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

use self::accept::check_codings;
pub use self::addresses::Addresses;
use self::answer::{fixed, hold_room};
pub use self::caller::Doorkeeper;
use self::caller::{Caller, let_in, let_owner_in};
pub use self::local::{AskError, ask_courier, ask_node, bind_socket, connect};
use self::log::{Routes as _, follow};
use self::problem::Problem;
use self::room::Rooms;
pub use self::serve::{DRAIN, Entrance, listen, serve_local, serve_network};
use self::slices::tasks;
use self::stores::{keep_reserve, not_ready};
pub use self::tls::{Certificate, Tls, TlsError, certificate};
use crate::courier::Courier;
use crate::metrics::{self, Metrics, Scraped};
use crate::node::{Node, Serving};
use crate::prices::SharedBoard;
use crate::queue::Queue;

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
    rooms: Rooms,
    started: Instant,
    /// Where long slices lie while they are in use.
    spool: PathBuf,
}

impl Served {
    pub fn new(serving: Serving, stopping: watch::Receiver<bool>) -> Self {
        let Serving { node, courier, queue, prices, loaded, spool } = serving;
        let metrics = Arc::new(Metrics::new(courier.now_ms()));
        metrics.board_loaded(&loaded);
        let counts = metrics.clone();
        node.runner.observe(move |observation| counts.slice(observation));
        let counts = metrics.clone();
        node.runner.observe_usage(move |usage| counts.usage(usage));
        let counts = metrics.clone();
        node.runner.modules().observe(move |event| counts.module(event));
        Self {
            rooms: Rooms::new(&node.config.serve),
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

/// What the network sees, as far as the doorkeeper lets in.
pub fn network_routes(served: Served, keeper: Arc<Doorkeeper>) -> Router {
    let connections = served.rooms.connections.clone();
    let metrics = served.metrics.clone();
    routes(served).layer(from_fn_with_state((keeper, connections), let_in)).layer(from_fn_with_state(metrics, follow))
}

/// What the same user sees, on the socket.
pub fn local_routes(served: Served) -> Router {
    let orders = Router::new()
        .at(local::COURIER_PATH, post(local::perform_courier_order))
        .at(local::NODE_PATH, post(local::perform_node_order))
        .with_state(served.clone());
    let metrics = served.metrics.clone();
    orders.merge(routes(served)).layer(from_fn(let_owner_in)).layer(from_fn_with_state(metrics, follow))
}

fn routes(served: Served) -> Router {
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
        .fallback(async || Problem::new(404, "not_found", "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(405, "method_not_allowed", "this path does not take this method")
        })
        .layer(from_fn_with_state((reserve, bytes_max), keep_reserve))
        .layer(from_fn_with_state(served.rooms.clone(), hold_room))
        .layer(from_fn(check_codings))
        .layer(map_response(take_at_its_word))
        .with_state(served)
}

/// No browser is to guess what an answer might be instead of what it says.
async fn take_at_its_word(mut response: Response) -> Response {
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Where carriers hand bundles over.
pub fn carrier_routes<S: Clone + Send + Sync + 'static>(courier: Arc<Courier>) -> Router<S> {
    Router::new().at("/v1/courier/bundles", post(courier::receive)).with_state(courier)
}

/// The description of all this for programs.
const DESCRIPTION: &str = include_str!("http/openapi.json");

async fn describe() -> Response {
    fixed(([(CONTENT_TYPE, accept::JSON)], DESCRIPTION))
}

/// Whether it is worth sending work here.
async fn ready(State(served): State<Served>) -> Response {
    if *served.stopping.borrow() {
        return Problem::new(503, "stopping", "this node is about to end").into_response();
    }
    match blocking::blocking(move || served.unwell()).await {
        Ok(unwell) if unwell.is_empty() => Json(json!({ "status": "ready" })).into_response(),
        Ok(unwell) => not_ready(&unwell).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn scrape(State(served): State<Served>, caller: Caller) -> Result<Response, Problem> {
    let rooms = served.rooms.clone();
    let text = rooms.look(&caller.scope, move || {
        let Served { node, courier, queue, prices, metrics, .. } = &served;
        metrics.text(&Scraped { runner: &node.runner, queue, prices, courier })
    });
    let text = text.await?.map_err(|error| Problem::of_host(error.code(), &error))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
