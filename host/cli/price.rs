//! `node compute price`: each command is an order to the price board.

mod plot;
mod show;

use std::io::{self, IsTerminal as _};
use std::path::Path;

use clap::Subcommand;

use super::executor::{self, Executor, connect_or_open};
use super::{ExitStatus, print, print_error};
use crate::commands::{NodeCommand, NodeEvent};
use crate::courier::system_clock;
use crate::node::Node;
use crate::prices::commands::{PriceAnswer, PriceRequest};
use crate::prices::{Lane, Price, ProviderName, Quantile, WINDOW_MAX};

#[derive(Subcommand)]
pub enum PriceCommand {
    /// Record an offer that is made now
    Offer {
        /// In whole units, from 1 on
        price: Price,
        /// The lane of the offer: transcode, inference, or a module's digest; `all` means none of
        /// these
        #[arg(long, default_value = "all")]
        lane: Lane,
        /// The provider who makes the offer
        #[arg(long, value_name = "NAME", default_value = "local")]
        provider: ProviderName,
        #[arg(long)]
        json: bool,
    },
    /// Print the quartiles of the last offers
    Bands {
        /// The lane: transcode, inference, a module's digest, or `all` for all offers together
        #[arg(long, default_value = "all")]
        lane: Lane,
        /// Another quantile, such as 0.9 or p99.9; may be repeated
        #[arg(long = "quantile", value_name = "Q")]
        quantiles: Vec<Quantile>,
        #[arg(long)]
        json: bool,
    },
    /// Suggest a price: the median, increased with the amount of waiting work
    Suggest {
        #[arg(long, default_value = "all")]
        lane: Lane,
        /// Number of pieces of work that wait
        #[arg(long, value_name = "N")]
        backlog: u32,
        #[arg(long)]
        json: bool,
    },
    /// Print one line for each of the last offers, the oldest first
    History {
        #[arg(long, default_value = "all")]
        lane: Lane,
        /// Only the last N [default: all that count]
        #[arg(long, value_name = "N")]
        last: Option<usize>,
        /// Plot the offers over time instead
        #[arg(long)]
        plot: bool,
        #[arg(long, conflicts_with = "plot")]
        json: bool,
    },
}

pub const PRICE_EXAMPLES: &str = "\
Examples:
  node compute price offer 120 --lane transcode --provider anna
  node compute price bands --lane transcode --quantile p99.9
  node compute price suggest --lane transcode --backlog 40
  node compute price history --plot

Every offer counts in its own lane and in `all`, for up to 60 hours, while it is among the last `prices.window` there.
Exit codes: 0 done, 1 fewer than 5 offers or 3 providers to judge by, 2 an error.";

pub fn main(command: PriceCommand, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    match command {
        PriceCommand::Offer { price, lane, provider, json } => {
            answer(PriceRequest::Offer { price, lane, provider }, json, data_dir)
        }
        PriceCommand::Bands { lane, quantiles, json } => {
            answer(PriceRequest::Bands { lane, quantiles }, json, data_dir)
        }
        PriceCommand::Suggest { lane, backlog, json } => {
            answer(PriceRequest::Suggest { lane, backlog }, json, data_dir)
        }
        PriceCommand::History { lane, last, plot, json } => {
            let order = PriceRequest::History { lane, last: last.unwrap_or(WINDOW_MAX) };
            if plot { draw(order, lane, data_dir) } else { answer(order, json, data_dir) }
        }
    }
}

fn answer(order: PriceRequest, json: bool, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let answers = execute(order, data_dir)?;
    let shown: Result<Vec<String>, serde_json::Error> = if json {
        answers.iter().map(serde_json::to_string).collect()
    } else {
        Ok(answers.iter().map(show::text).collect())
    };
    print(shown?.into_iter().map(|text| text + "\n").collect::<String>().as_bytes())?;
    let is_insufficient = |answer: &PriceAnswer| match answer {
        PriceAnswer::Bands(bands) => bands.insufficient,
        PriceAnswer::Suggestion(suggestion) => suggestion.bands.insufficient,
        PriceAnswer::Recorded(_) | PriceAnswer::Offer(_) => false,
    };
    Ok(if answers.iter().any(is_insufficient) { ExitStatus::No } else { ExitStatus::Done })
}

fn draw(order: PriceRequest, lane: Lane, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let offers: Vec<_> = execute(order, data_dir)?
        .into_iter()
        .filter_map(|answer| match answer {
            PriceAnswer::Offer(offer) => Some((offer.time_ms, offer.price.units())),
            _ => None,
        })
        .collect();
    match plot::plot(&offers, columns()) {
        Some(plot) => print(plot.as_bytes())?,
        None => print_error("note", &format_args!("no offers count in the lane `{lane}`; there is nothing to plot")),
    }
    Ok(ExitStatus::Done)
}

/// Returns the width of the terminal; for other outputs, a width that most displays can show.
fn columns() -> usize {
    let stdout = io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten();
    size.map_or(plot::COLUMNS, |size| usize::from(size.ws_col))
}

/// Executes the order. A recorded offer is on disk when this returns.
fn execute(order: PriceRequest, data_dir: &Path) -> anyhow::Result<Vec<PriceAnswer>> {
    let runtime = executor::runtime()?;
    match runtime.block_on(connect_or_open(data_dir, || Node::try_prices(data_dir)))? {
        Executor::Daemon(stream) => {
            let answers = runtime.block_on(executor::ask_all(stream, &NodeCommand::Price(order)))?;
            let price = |answer| if let NodeEvent::Price(answer) = answer { Some(*answer) } else { None };
            Ok(answers.into_iter().filter_map(price).collect())
        }
        Executor::InProcess((board, result, _lock)) => {
            if result.is_loss() {
                print_error("warning", &result);
            }
            let stored = Node::look(data_dir)?.stored;
            let answers = board.execute(order, |digest| stored.contains(digest), system_clock())?;
            board.save_if_changed()?;
            Ok(answers)
        }
    }
}
