//! What the running node says of itself: for people on a terminal, for programs anywhere else.

use std::io::{self, IsTerminal as _};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::node::Notice;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line that people read
    Human,
    /// A JSON object a line
    Json,
}

/// What is said unless `NODE_LOG` says otherwise, such as `debug` or `info,node=debug`.
const DEFAULT: Level = Level::INFO;

/// Begins to log to standard error. Control characters in what strangers bring are written out.
pub fn start(format: Option<LogFormat>) {
    let is_terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if is_terminal { LogFormat::Human } else { LogFormat::Json });
    let asked = std::env::var("NODE_LOG").ok();
    let parsed = asked.as_deref().map(str::parse::<Targets>);
    let targets = match &parsed {
        Some(Ok(targets)) => targets.clone(),
        _ => Targets::new().with_default(DEFAULT),
    };
    let registry = tracing_subscriber::registry().with(targets);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    // Only the first counts, which matters to nobody but a test that starts two.
    let _ = match format {
        LogFormat::Human => registry.with(layer.with_ansi(is_terminal)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    if let Some(Err(error)) = parsed {
        tracing::warn!("NODE_LOG is not understood, and left out: {error}");
    }
}

/// What the owner should hear of while the node opens.
pub fn notice(notice: Notice) {
    match notice {
        Notice::Waiting { directory } => {
            tracing::info!("waiting for another node to be done with `{}`", directory.display());
        }
        Notice::StoreMovedAside { to } => {
            tracing::warn!("the proof store was damaged: moved to `{}`, and begun anew", to.display());
        }
        Notice::PricesLost { result } => tracing::warn!("{result}"),
    }
}
