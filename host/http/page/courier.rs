//! Courier part: the bundles it carries, and the credit it has earned.

use std::time::Duration;

use maud::{Markup, html};

use super::figures::{bytes, count, span};
use crate::http::AppState;
use crate::http::problem::HttpProblem;

pub fn render(served: &AppState) -> Result<Markup, HttpProblem> {
    let courier = &served.courier;
    let tally = courier.tally();
    let oldest_ms = courier.store().oldest_pending_ms().map_err(|error| HttpProblem::of_host("store", &error))?;
    let age = oldest_ms.map(|oldest_ms| Duration::from_millis(courier.now_ms().saturating_sub(oldest_ms)));
    Ok(html! {
        dl .facts {
            div {
                dt { "Pending" }
                dd {
                    (of(tally.pending, tally.pending_bytes))
                    @if let Some(age) = age { ", the oldest for " (span(age)) }
                }
            }
            div { dt { "Dead" } dd .bad[tally.dead > 0] { (of(tally.dead, tally.dead_bytes)) } }
            div { dt { "Received, and here" } dd { (of(tally.received, tally.received_bytes)) } }
            div { dt { "Tries" } dd { (count(tally.attempts)) ", of which " (count(tally.failures)) " failed" } }
            div { dt { "Acknowledged" } dd { (of(tally.credited, tally.credited_bytes)) } }
            div { dt { "Credit" } dd { (count(tally.credit)) } }
        }
    })
}

fn of(number: u64, size: u64) -> String {
    match number {
        0 => "0".to_owned(),
        _ => format!("{} ({})", count(number), bytes(size)),
    }
}
