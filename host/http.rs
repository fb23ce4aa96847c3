//! The door for HTTP: routes, limits, status codes. `courier` is where other nodes hand bundles over, `local` where the
//! command line of the same user asks, over a socket in the state directory; `problem` is what an error looks like.

mod problem;
mod courier;
mod serve;
mod local;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;

pub use self::local::{AskError, ask, bind_socket, connect};
use self::problem::Problem;
pub use self::serve::{CONNECTIONS_MAX, serve_local, serve_network};
use crate::courier::Courier;
use crate::metrics::{self, Metrics};

/// What the routes work on.
#[derive(Clone)]
pub struct Served {
    pub courier: Arc<Courier>,
    pub metrics: Arc<Metrics>,
    /// Whether the node is to stop.
    pub stopping: watch::Receiver<bool>,
}

/// What the network sees.
pub fn network_routes(served: Served) -> Router {
    Router::new()
        .route("/v1/courier/bundles", post(courier::receive))
        .route("/metrics", get(scrape))
        .fallback(async || Problem::new(404, "not_found", "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(405, "method_not_allowed", "this path does not take this method")
        })
        .with_state(served)
}

/// What the same user sees, on the socket.
pub fn local_routes(served: Served) -> Router {
    Router::new()
        .route(local::ORDER_PATH, post(local::perform_order))
        .with_state(served.clone())
        .merge(network_routes(served))
}

async fn scrape(State(served): State<Served>) -> Response {
    let text = tokio::task::spawn_blocking(move || served.metrics.text(&served.courier)).await;
    match text {
        Ok(Ok(text)) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Ok(Err(error)) => Problem::new(503, "storage_failed", error.to_string()).into_response(),
        Err(error) => Problem::new(500, "internal", error.to_string()).into_response(),
    }
}
