//! Prices part: the bands of each lane, and a plot of the offers behind the overall bands.

mod plot;

use maud::{Markup, html};

use super::figures::{ago, count, counted, short};
use crate::http::AppState;
use crate::http::problem::HttpProblem;
use crate::prices::commands::{PriceAnswer, PriceRequest};
use crate::prices::{Band, Bands, Lane};

/// Limit on shown lanes: the built-in ones, then the first modules.
const LANES_MAX: usize = 20;

/// Limit on plotted offers. More dots could not be distinguished, and quartiles are computed for
/// each offer.
const PLOTTED_MAX: usize = 300;

pub fn render(served: &AppState) -> Result<Markup, HttpProblem> {
    let (board, now_ms) = (&served.prices, served.now_ms());
    let lanes = board.lanes(now_ms);
    if lanes.is_empty() {
        return Ok(html! { p .none { "No offer has come in the last 60 hours." } });
    }
    let answers = board.execute(PriceRequest::History { lane: Lane::All, last: PLOTTED_MAX }, |_| false, now_ms);
    let answers = answers.map_err(|error| HttpProblem::of_host("prices", &error))?;
    let offers = answers.into_iter().filter_map(|answer| match answer {
        PriceAnswer::Offer(offer) => Some((offer.time_ms, offer.price.units())),
        _ => None,
    });
    let offers: Vec<(u64, u64)> = offers.collect();
    let plot = plot::figure(&offers, now_ms)?;
    let more = lanes.len().saturating_sub(LANES_MAX) as u64;
    Ok(html! {
        table .stacks {
            caption {
                "Quartiles of the last offers"
                @if more > 0 { "; of " (counted(more, "lane")) " more, none is shown" }
            }
            thead {
                tr {
                    th scope="col" { "Lane" }
                    th scope="col" .number { "Lower quartile" }
                    th scope="col" .number { "Median" }
                    th scope="col" .number { "Upper quartile" }
                    th scope="col" { "Stands on" }
                    th scope="col" { "Newest" }
                }
            }
            tbody {
                @for lane in lanes.into_iter().take(LANES_MAX) { (row(&board.bands(lane, now_ms), now_ms)) }
            }
        }
        (plot)
    })
}

fn row(bands: &Bands, now_ms: u64) -> Markup {
    let price = |band: Option<Band>| band.map_or_else(|| "–".to_owned(), |band| count(band.price));
    html! {
        tr data-key=(bands.lane) {
            th scope="row" {
                @match bands.lane {
                    Lane::Module(digest) => { "module " (short(&digest.to_string())) }
                    lane => (lane),
                }
            }
            td data-label="Lower quartile" .number { (price(bands.p25)) }
            td data-label="Median" .number { (price(bands.median)) }
            td data-label="Upper quartile" .number { (price(bands.p75)) }
            td data-label="Stands on" { (bands.basis()) }
            td data-label="Newest" {
                @if let Some(age_ms) = bands.newest_age_ms { (ago(now_ms.saturating_sub(age_ms), now_ms)) }
            }
        }
    }
}
