//! `PriceBoard`: exact quantiles of the recent offers, from which it suggests prices.
//!
//! The board is pure: it reads no clock and no file. Each operation gets the time, and ignores
//! offers that are too old by then. `file` stores the board and `journal` the offers since the last
//! save; `shared` shares one board between threads; `orders` lists all requests to it.

mod offer;
mod sorted;
mod holders;
mod quantile;
mod window;
mod bands;
mod settings;
mod file;
mod journal;
pub mod commands;
mod shared;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::bands::{Band, Bands, PROVIDERS_MIN, SAMPLES_MIN, Suggestion, SuggestionBound};
pub use self::file::{
    BoardFile, BoardFileError, FILE_BYTES_MAX, InvalidFilePolicy, KEPT_ASIDE_MAX, LoadResult, LoadedBoard,
};
pub use self::offer::{Lane, NotALane, NotAPrice, NotAProviderName, Offer, Price, ProviderName};
pub use self::quantile::{NotAQuantile, NotARational, Quantile, Rational};
pub use self::settings::{Settings, WINDOW_MAX};
pub use self::shared::{ExecuteError, SharedBoard};
use self::window::{OfferWindow, ProviderShare};

/// Maximum age of an offer: 60 hours. Older offers do not count.
pub const AGE_MAX_MS: u64 = 60 * 60 * 60 * 1_000;

/// Limit on lanes of modules. Fewer lanes fit if windows are so large that they could hold more
/// than [`OFFERS_MAX`] offers.
pub const MODULE_LANES_MAX: usize = 256;

/// Limit on offers in all lanes of modules together. One offer takes some 100 bytes of memory, and
/// 400 if it is the only one of its provider.
pub const OFFERS_MAX: usize = 1_000_000;

/// Number of built-in lanes, which never give way: all, transcode, inference.
const OWN_LANES: usize = 3;

/// Standing of a module whose lane gets an offer. In other lanes it has no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleStanding {
    /// The module is stored here.
    Stored,
    /// The module is not stored here, or was not looked up.
    Unknown,
}

/// The windows of all lanes.
pub struct PriceBoard {
    window: usize,
    share: ProviderShare,
    /// Lanes with at least one offer so far; in some, no offer may count any more.
    lanes: BTreeMap<Lane, LaneWindow>,
    revision: u64,
}

struct LaneWindow {
    window: OfferWindow,
    /// Standing at the time of the newest offer.
    standing: ModuleStanding,
}

/// Weight of a module's lane: the lightest lanes are evicted first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LaneWeight {
    /// Fewer providers than bands need have offers in it.
    Words,
    /// At least as many providers as bands need have offers in it.
    Offered,
    /// The module is stored here.
    Stored,
}

impl LaneWindow {
    fn weight(&self) -> LaneWeight {
        match self.standing {
            ModuleStanding::Stored => LaneWeight::Stored,
            ModuleStanding::Unknown if self.window.providers() >= PROVIDERS_MIN => LaneWeight::Offered,
            ModuleStanding::Unknown => LaneWeight::Words,
        }
    }
}

impl PriceBoard {
    /// Creates a board without offers.
    pub fn new(settings: &Settings) -> Self {
        let share = ProviderShare::of_percent(usize::try_from(settings.provider_share_percent).unwrap_or(usize::MAX));
        Self { window: settings.window(), share, lanes: BTreeMap::new(), revision: 0 }
    }

    /// Records an offer that is made at its own `time_ms`, for a module that was not looked up.
    pub fn record(&mut self, offer: &Offer) {
        self.record_of(offer, ModuleStanding::Unknown);
    }

    /// Records an offer that is made at its own `time_ms`: in its own lane, unless a full board has
    /// no slot for that lane, and in the overall lane.
    pub fn record_of(&mut self, offer: &Offer, standing: ModuleStanding) {
        self.revision += 1;
        self.push(Lane::All, offer, standing);
        if offer.lane != Lane::All {
            self.push(offer.lane, offer, standing);
        }
    }

    fn push(&mut self, lane: Lane, offer: &Offer, standing: ModuleStanding) {
        let is_new_module = matches!(lane, Lane::Module(_)) && !self.lanes.contains_key(&lane);
        if is_new_module && !self.make_room(self.module_lanes_max() - 1, standing, offer.time_ms) {
            return;
        }
        let Self { window, share, .. } = *self;
        let new = || LaneWindow { window: OfferWindow::new(window, share), standing };
        let of_lane = self.lanes.entry(lane).or_insert_with(new);
        of_lane.standing = standing;
        of_lane.window.push(offer.price, &offer.provider, offer.time_ms);
    }

    /// Returns how many modules can have a lane at once.
    pub fn module_lanes_max(&self) -> usize {
        MODULE_LANES_MAX.min(OFFERS_MAX / self.window)
    }

    /// Evicts lanes of modules until at most `lanes_max` remain, and returns whether a lane of this
    /// `standing` may be added. Empty lanes go first, then those with the least weight; among
    /// equals, the one whose newest offer is the oldest. An offer for an unknown module evicts only
    /// lanes of the lowest weight.
    fn make_room(&mut self, lanes_max: usize, standing: ModuleStanding, now_ms: u64) -> bool {
        self.expire(now_ms);
        let is_module = |(lane, of_lane): (&Lane, &LaneWindow)| match lane {
            Lane::Module(_) => Some((of_lane.weight(), of_lane.window.times_ms()?.1, *lane)),
            _ => None,
        };
        let mut modules: Vec<(LaneWeight, u64, Lane)> = self.lanes.iter().filter_map(is_module).collect();
        modules.sort_unstable();
        let excess = modules.len().saturating_sub(lanes_max);
        let gives_way = |(weight, ..): &&(LaneWeight, u64, Lane)| {
            standing == ModuleStanding::Stored || *weight == LaneWeight::Words
        };
        let leaving: Vec<Lane> = modules.iter().take(excess).filter(gives_way).map(|(.., lane)| *lane).collect();
        leaving.iter().for_each(|lane| drop(self.lanes.remove(lane)));
        leaving.len() == excess
    }

    /// Expires old offers in every lane. The other methods do that for the lane that they read.
    pub fn expire(&mut self, now_ms: u64) {
        self.lanes.values_mut().for_each(|of_lane| of_lane.window.expire(now_ms));
        self.lanes.retain(|_, of_lane| !of_lane.window.is_empty());
    }

    /// Returns the quartiles of a lane, and these other quantiles.
    pub fn bands(&mut self, lane: Lane, others: &[Quantile], now_ms: u64) -> Bands {
        let capacity = self.window;
        Bands::of(lane, capacity, self.current(lane, now_ms), others, now_ms)
    }

    /// Suggests a price for a lane in which `backlog` pieces of work wait.
    pub fn suggest(&mut self, lane: Lane, backlog: u32, now_ms: u64) -> Suggestion {
        Suggestion::of(self.bands(lane, &[], now_ms), backlog)
    }

    /// Returns the last offers that count in a lane, at most `last`, the oldest first.
    pub fn history(&mut self, lane: Lane, last: usize, now_ms: u64) -> Vec<Offer> {
        let Some(window) = self.current(lane, now_ms) else { return Vec::new() };
        let skipped = window.len().saturating_sub(last);
        window.offers().skip(skipped).filter_map(|offer| offer_in(lane, offer)).collect()
    }

    /// Returns the lanes in which offers count.
    pub fn lanes(&mut self, now_ms: u64) -> Vec<Lane> {
        self.expire(now_ms);
        self.lanes.keys().copied().collect()
    }

    /// Returns the number of offers recorded since the board was created, also by earlier
    /// processes. Two boards of the same revision hold the same offers, except for those that have
    /// expired since.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    fn current(&mut self, lane: Lane, now_ms: u64) -> Option<&OfferWindow> {
        let LaneWindow { window, .. } = self.lanes.get_mut(&lane)?;
        window.expire(now_ms);
        Some(window)
    }
}

fn offer_in(lane: Lane, (price, provider, time_ms): (u64, &ProviderName, u64)) -> Option<Offer> {
    Some(Offer { price: Price::new(price).ok()?, lane, provider: provider.clone(), time_ms })
}

#[cfg(test)]
mod tests;
