//! `/`: the dashboard, which shows people the state of the node. One function makes each part, both
//! for the whole page and for the script that refreshes that part alone, so the page is complete
//! without the script. The page leaves out all parts that the caller has no right to see. maud
//! escapes text from strangers, and [`printable`] keeps that text from changing the direction of
//! writing.
//!
//! [`printable`]: crate::text::printable

mod assets;
mod figures;
mod overview;
mod slices;
mod proofs;
mod modules;
mod prices;
mod courier;
mod frame;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::Markup;

pub use self::assets::{script, style};
use self::frame::PageTitle;
use super::AppState;
use super::auth::Caller;
use super::problem::HttpProblem;
use crate::access::Permission;
use crate::slice::SliceId;

/// A part of the page that the script refreshes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PagePart {
    Overview,
    Slices,
    Proofs,
    Modules,
    Prices,
    Courier,
}

impl PagePart {
    const ALL: [Self; 6] = [Self::Overview, Self::Slices, Self::Proofs, Self::Modules, Self::Prices, Self::Courier];

    const fn name(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Slices => "slices",
            Self::Proofs => "proofs",
            Self::Modules => "modules",
            Self::Prices => "prices",
            Self::Courier => "courier",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Overview => "This node",
            Self::Slices => "Slices",
            Self::Proofs => "Recent proofs",
            Self::Modules => "Modules",
            Self::Prices => "Prices",
            Self::Courier => "Courier",
        }
    }

    /// Returns the refresh interval of the script, chosen by how often the content changes and how
    /// much it costs to make.
    const fn seconds(self) -> u32 {
        match self {
            Self::Slices => 2,
            Self::Proofs => 5,
            Self::Overview | Self::Prices | Self::Courier => 10,
            // Reads a file for each module.
            Self::Modules => 15,
        }
    }

    fn is_for(self, caller: &Caller) -> bool {
        match self {
            Self::Overview => true,
            Self::Slices | Self::Proofs => caller.may(Permission::Run),
            Self::Modules => caller.may(Permission::Run) || caller.may(Permission::Upload),
            Self::Prices => caller.may(Permission::Price) || caller.may(Permission::Run),
            Self::Courier => caller.may(Permission::Courier),
        }
    }

    fn render(self, served: &AppState, caller: &Caller) -> Result<Markup, HttpProblem> {
        match self {
            Self::Overview => Ok(overview::render(served, caller)),
            Self::Slices => slices::render(served, caller),
            Self::Proofs => proofs::recent(served, caller),
            Self::Modules => modules::render(served, caller),
            Self::Prices => prices::render(served),
            Self::Courier => courier::render(served),
        }
    }
}

/// `GET /`
pub async fn whole(State(served): State<AppState>, caller: Caller) -> Result<Response, HttpProblem> {
    let (rooms, scope) = (served.rooms.clone(), caller.scope.clone());
    let page = rooms.on_disk(&scope, move || frame::front(&served, &caller)).await?;
    Ok(frame::respond(StatusCode::OK, page))
}

/// `GET /page/{part}`
pub async fn part(
    State(served): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, HttpProblem> {
    let part = PagePart::ALL.into_iter().find(|part| part.name() == name && part.is_for(&caller));
    let part = part.ok_or_else(|| HttpProblem::new(404, "not_found", "the page has no such part for this token"))?;
    let (rooms, scope) = (served.rooms.clone(), caller.scope.clone());
    let part = rooms.on_disk(&scope, move || part.render(&served, &caller)).await??;
    Ok(frame::respond(StatusCode::OK, part))
}

/// `GET /proofs/{slice_id}`
pub async fn proof(
    State(served): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, HttpProblem> {
    caller.require(Permission::Run)?;
    let id: Option<SliceId> = id.parse().ok();
    let (runner, scope) = (served.node.runner.clone(), caller.scope.clone());
    let found = served.rooms.on_disk(&caller.scope, move || match id {
        Some(id) => runner.proof(&scope, &id),
        None => Ok(None),
    });
    let found = found.await?.map_err(|error| HttpProblem::of_host("store", &error))?;
    Ok(match found {
        Some(proof) => {
            frame::respond(StatusCode::OK, frame::page(&PageTitle::Proof(proof.slice_id()), &proofs::whole(&proof)))
        }
        None => frame::respond(StatusCode::NOT_FOUND, frame::page(&PageTitle::NoProof, &proofs::none())),
    })
}
