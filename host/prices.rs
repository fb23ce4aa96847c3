//! `PriceBoard`: what work is offered at lately, in exact quantiles, so that a price can be suggested.
//!
//! Pure: it reads no clock and no file. Each operation is told the time, and leaves out what is too old by then. `file`
//! has the board's bytes and `journal` what came since, `shared` has one board for many threads, `orders` all that can be asked of it.

mod offer;
mod sorted;
mod holders;
mod quantile;
mod window;
mod bands;
mod settings;
mod file;
mod journal;
pub mod orders;
mod shared;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::bands::{Band, Bands, Bound, PROVIDERS_MIN, SAMPLES_MIN, Suggestion};
pub use self::file::{Aside, BoardFile, BoardFileError, FILE_BYTES_MAX, KEPT_ASIDE_MAX, LoadResult, Loaded};
pub use self::offer::{Lane, NotALane, NotAPrice, NotAProviderName, Offer, Price, ProviderName};
pub use self::quantile::{NotAQuantile, NotARational, Quantile, Rational};
pub use self::settings::{Settings, WINDOW_MAX};
pub use self::shared::{PerformError, SharedBoard};
use self::window::{Share, Window};

/// An offer that is older than 60 hours does not count.
pub const AGE_MAX_MS: u64 = 60 * 60 * 60 * 1_000;

/// Lanes of modules that there are at once; fewer where windows are so large that more than [`OFFERS_MAX`] could be in
/// them.
pub const MODULE_LANES_MAX: usize = 256;

/// Offers in all lanes of modules together; one takes some 100 bytes of memory, and 400 if it is its provider's only
/// one.
pub const OFFERS_MAX: usize = 1_000_000;

/// Lanes that always have room: all, transcode, inference.
const OWN_LANES: usize = 3;

/// What is known of an offer's module. Of other lanes it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// The module is stored here.
    Stored,
    /// It is not, or nobody has looked.
    Unknown,
}

/// The windows of all lanes.
pub struct PriceBoard {
    window: usize,
    share: Share,
    /// Each has been offered in; some may have nothing left that counts.
    lanes: BTreeMap<Lane, LaneWindow>,
    revision: u64,
}

struct LaneWindow {
    window: Window,
    /// As it was at the newest offer.
    standing: Standing,
}

/// How much stands behind the lane of a module: the least give way to others first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// It holds offers by too few providers to say anything.
    Words,
    /// It holds offers by as many providers as bands need.
    Offered,
    /// Its module is stored here.
    Stored,
}

impl LaneWindow {
    fn weight(&self) -> Weight {
        match self.standing {
            Standing::Stored => Weight::Stored,
            Standing::Unknown if self.window.providers() >= PROVIDERS_MIN => Weight::Offered,
            Standing::Unknown => Weight::Words,
        }
    }
}

impl PriceBoard {
    /// A board without offers.
    pub fn new(settings: &Settings) -> Self {
        let share = Share::of_percent(usize::try_from(settings.provider_share_percent).unwrap_or(usize::MAX));
        Self { window: settings.window(), share, lanes: BTreeMap::new(), revision: 0 }
    }

    /// Takes in an offer that is made now, at its own `time_ms`, for a module that nobody has looked for.
    pub fn record(&mut self, offer: &Offer) {
        self.record_of(offer, Standing::Unknown);
    }

    /// Takes in an offer that is made now, at its own `time_ms`: in its lane, if that has one, and in the lane over all.
    pub fn record_of(&mut self, offer: &Offer, standing: Standing) {
        self.revision += 1;
        self.push(Lane::All, offer, standing);
        if offer.lane != Lane::All {
            self.push(offer.lane, offer, standing);
        }
    }

    fn push(&mut self, lane: Lane, offer: &Offer, standing: Standing) {
        let is_new_module = matches!(lane, Lane::Module(_)) && !self.lanes.contains_key(&lane);
        if is_new_module && !self.make_room(self.module_lanes_max() - 1, standing, offer.time_ms) {
            return;
        }
        let Self { window, share, .. } = *self;
        let new = || LaneWindow { window: Window::new(window, share), standing };
        let of_lane = self.lanes.entry(lane).or_insert_with(new);
        of_lane.standing = standing;
        of_lane.window.push(offer.price, &offer.provider, offer.time_ms);
    }

    /// Of how many modules there are lanes at once.
    pub fn module_lanes_max(&self) -> usize {
        MODULE_LANES_MAX.min(OFFERS_MAX / self.window)
    }

    /// Removes lanes of modules until there are at most `lanes_max`, for a lane of this standing, and returns whether there is
    /// room for that. Lanes that have nothing left go first, and then those with the least weight, the one whose newest offer
    /// is the oldest before others; words alone make no heavier lane give way.
    fn make_room(&mut self, lanes_max: usize, standing: Standing, now_ms: u64) -> bool {
        self.settle(now_ms);
        let is_module = |(lane, of_lane): (&Lane, &LaneWindow)| match lane {
            Lane::Module(_) => Some((of_lane.weight(), of_lane.window.times_ms()?.1, *lane)),
            _ => None,
        };
        let mut modules: Vec<(Weight, u64, Lane)> = self.lanes.iter().filter_map(is_module).collect();
        modules.sort_unstable();
        let excess = modules.len().saturating_sub(lanes_max);
        let gives_way = |(weight, ..): &&(Weight, u64, Lane)| standing == Standing::Stored || *weight == Weight::Words;
        let leaving: Vec<Lane> = modules.iter().take(excess).filter(gives_way).map(|(.., lane)| *lane).collect();
        leaving.iter().for_each(|lane| drop(self.lanes.remove(lane)));
        leaving.len() == excess
    }

    /// Has every lane be what it is at this time. The others do that to the lane that they are asked for.
    pub fn settle(&mut self, now_ms: u64) {
        self.lanes.values_mut().for_each(|of_lane| of_lane.window.settle(now_ms));
        self.lanes.retain(|_, of_lane| !of_lane.window.is_empty());
    }

    /// The quartiles of a lane, and these others.
    pub fn bands(&mut self, lane: Lane, others: &[Quantile], now_ms: u64) -> Bands {
        let capacity = self.window;
        Bands::of(lane, capacity, self.settled(lane, now_ms), others, now_ms)
    }

    /// What to ask for in a lane while `backlog` pieces of work wait in it.
    pub fn suggest(&mut self, lane: Lane, backlog: u32, now_ms: u64) -> Suggestion {
        Suggestion::of(self.bands(lane, &[], now_ms), backlog)
    }

    /// The last offers that count in a lane, up to this many, the oldest first.
    pub fn history(&mut self, lane: Lane, last: usize, now_ms: u64) -> Vec<Offer> {
        let Some(window) = self.settled(lane, now_ms) else { return Vec::new() };
        let skipped = window.len().saturating_sub(last);
        window.offers().skip(skipped).filter_map(|offer| offer_in(lane, offer)).collect()
    }

    /// The lanes in which offers count.
    pub fn lanes(&mut self, now_ms: u64) -> Vec<Lane> {
        self.settle(now_ms);
        self.lanes.keys().copied().collect()
    }

    /// Counts the offers that were recorded since the board was first made, also by other processes: a board that has the same
    /// revision as before has the same offers, but for those that have grown too old.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    fn settled(&mut self, lane: Lane, now_ms: u64) -> Option<&Window> {
        let LaneWindow { window, .. } = self.lanes.get_mut(&lane)?;
        window.settle(now_ms);
        Some(window)
    }
}

fn offer_in(lane: Lane, (price, provider, time_ms): (u64, &ProviderName, u64)) -> Option<Offer> {
    Some(Offer { price: Price::new(price).ok()?, lane, provider: provider.clone(), time_ms })
}

#[cfg(test)]
mod tests;
