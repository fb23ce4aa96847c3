//! Overview part: the identity of this node, and its work since it was started.

use maud::{Markup, html};

use super::figures::{count, counted, long, span};
use crate::access::Permission;
use crate::http::AppState;
use crate::http::auth::Caller;

pub fn render(served: &AppState, caller: &Caller) -> Markup {
    let runner = &served.node.runner;
    let rights: Vec<&str> =
        Permission::ALL.into_iter().filter(|right| caller.may(*right)).map(Permission::name).collect();
    html! {
        dl .facts {
            div { dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) } }
            div { dt { "Up for" } dd { (span(served.started.elapsed())) } }
            div { dt { "State" } dd { (if *served.stopping.borrow() { "about to end" } else { "ready" }) } }
            @if caller.may(Permission::Admin) {
                @let counts = runner.counts();
                div {
                    dt { "Since its start" }
                    dd { (counted(counts.runs, "run")) ", " (count(counts.from_memory + counts.from_store)) " cached" }
                }
            }
            div {
                dt { "You" }
                dd { (caller.name()) @if !caller.may(Permission::Admin) { ", with the right to " (rights.join(", ")) } }
            }
            div .wide { dt { "Public key" } dd { (long(&runner.public_key().to_string())) } }
        }
    }
}
