//! HTML frame of the page: the document, its navigation for keyboards and screen readers, and the
//! response headers.

use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::assets::{SCRIPT, STYLE};
use super::{PagePart, modules};
use crate::http::AppState;
use crate::http::auth::Caller;
use crate::slice::SliceId;

/// Content security policy: the page loads scripts, styles and data from this node only, submits no
/// forms, and cannot be shown in a frame of another page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// Icon: a slice with a piece cut out. The icon is inside the document, because a browser would
/// otherwise request one.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath \
                    fill='%232563eb' d='M1 1h14v6H9v8H1z'/%3E%3C/svg%3E";

/// Reload interval for a browser without scripts.
const RELOAD_SECONDS: u32 = 30;

/// Titles of the documents.
pub enum PageTitle<'a> {
    Front,
    Proof(&'a SliceId),
    NoProof,
}

/// Returns a document or a part of one, with the headers that all of them have.
pub fn respond(status: StatusCode, content: Markup) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // The content is valid for one caller at one time.
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, content.into_string()).into_response()
}

/// Returns the page at `/`, with the parts that the caller may see.
pub fn front(served: &AppState, caller: &Caller) -> Markup {
    let parts = || PagePart::ALL.into_iter().filter(|part| part.is_for(caller));
    page(
        &PageTitle::Front,
        &html! {
            header {
                h1 { "Node" }
                nav aria-label="Parts of this page" {
                    ul { @for part in parts() { li { a href={ "#" (part.name()) } { (part.title()) } } } }
                }
                p #freshness .note role="status" {}
            }
            main #main tabindex="-1" {
                @for part in parts() { (section(part, served, caller)) }
            }
        },
    )
}

fn section(part: PagePart, served: &AppState, caller: &Caller) -> Markup {
    let (name, seconds) = (part.name(), part.seconds());
    let content = part.render(served, caller);
    html! {
        section id=(name) aria-labelledby={ (name) "-title" } {
            h2 id={ (name) "-title" } tabindex="-1" { (part.title()) }
            @if part == PagePart::Modules { (modules::upload(caller)) }
            div .part data-part=(name) data-seconds=(seconds) {
                @match content {
                    Ok(content) => (content),
                    // The error is already in the log.
                    Err(_) => p .bad { "This cannot be shown now; the node's log says why." }
                }
            }
        }
    }
}

/// Returns a whole document.
pub fn page(title: &PageTitle<'_>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title {
                    @match title {
                        PageTitle::Front => "Node",
                        PageTitle::Proof(id) => { "Proof of " (id) " – Node" }
                        PageTitle::NoProof => "No such proof – Node",
                    }
                }
                link rel="icon" href=(ICON);
                link rel="stylesheet" href=(STYLE.address);
                script src=(SCRIPT.address) defer {}
                @if matches!(title, PageTitle::Front) {
                    noscript { meta http-equiv="refresh" content=(RELOAD_SECONDS); }
                }
            }
            body {
                a .skip href="#main" { "Skip to the content" }
                (body)
                footer {
                    p {
                        "compute-host " (env!("CARGO_PKG_VERSION"))
                        " · " a href="/metrics" { "metrics" } " · " a href="/readyz" { "readiness" }
                    }
                    noscript {
                        p {
                            "Without scripts, the front page is loaded anew every " (RELOAD_SECONDS) " seconds, or when "
                            "you reload it. Modules are added and removed by the command line: "
                            code { "node compute module --help" } "."
                        }
                    }
                }
            }
        }
    }
}
