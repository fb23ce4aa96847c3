//! Bands of a lane: its quantiles, the number of offers behind them, and a suggested price.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::offer::{Lane, Price};
use super::quantile::{Quantile, Rational};
use super::window::OfferWindow;

/// Minimum of offers, and of providers, for quantiles and suggestions. Fewer say nothing about the
/// market.
pub const SAMPLES_MIN: usize = 5;
pub const PROVIDERS_MIN: usize = 3;

/// Upper bound of a suggestion, as a multiple of the upper quartile.
const P75_TIMES_MAX: u64 = 4;

/// The quantiles of a lane at one time, and the offers behind them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bands {
    pub lane: Lane,
    /// Capacity of the window, in offers.
    pub window: usize,
    pub samples: usize,
    pub providers: usize,
    pub oldest_age_ms: Option<u64>,
    pub newest_age_ms: Option<u64>,
    /// True with fewer than [`SAMPLES_MIN`] offers or [`PROVIDERS_MIN`] providers; then there are
    /// no quantiles.
    pub insufficient: bool,
    pub p25: Option<Band>,
    pub median: Option<Band>,
    pub p75: Option<Band>,
    /// Requested other quantiles, in the order of the request.
    pub others: Vec<Band>,
}

/// One quantile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Band {
    pub quantile: Quantile,
    /// Price in units, [rounded](Rational::rounded).
    pub price: u64,
    pub exact: Rational,
}

impl Bands {
    pub(super) fn of(
        lane: Lane,
        capacity: usize,
        window: Option<&OfferWindow>,
        others: &[Quantile],
        now_ms: u64,
    ) -> Self {
        let (samples, providers) = window.map_or((0, 0), |window| (window.len(), window.providers()));
        let times_ms = window.and_then(OfferWindow::times_ms);
        let insufficient = samples < SAMPLES_MIN || providers < PROVIDERS_MIN;
        let band = |quantile: Quantile| {
            let exact = window.filter(|_| !insufficient)?.quantile(quantile)?;
            Some(Band { quantile, price: exact.rounded(), exact })
        };
        Self {
            lane,
            window: capacity,
            samples,
            providers,
            oldest_age_ms: times_ms.map(|(oldest_ms, _)| now_ms.saturating_sub(oldest_ms)),
            newest_age_ms: times_ms.map(|(_, newest_ms)| now_ms.saturating_sub(newest_ms)),
            insufficient,
            p25: band(Quantile::P25),
            median: band(Quantile::MEDIAN),
            p75: band(Quantile::P75),
            others: others.iter().copied().filter_map(band).collect(),
        }
    }

    /// Describes the offers behind the bands, for people, and how many are missing.
    pub fn basis(&self) -> String {
        let (offers, providers) = (counted(self.samples, "offer"), counted(self.providers, "provider"));
        if self.insufficient {
            format!("{offers} by {providers}; it takes {SAMPLES_MIN} offers by {PROVIDERS_MIN} providers to say more")
        } else {
            format!("{offers} by {providers}")
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// A suggested price: median * (1 + backlog / window), at most four times the upper quartile. The
/// backlog is never negative, so the price is at least the median. `Display` explains it in a
/// sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suggestion {
    /// Price in units, [rounded](Rational::rounded); `None` if the offers are insufficient.
    pub price: Option<u64>,
    pub exact: Option<Rational>,
    /// The bound that lowered the price, if one did.
    pub clamped_by: Option<SuggestionBound>,
    pub backlog: u32,
    pub bands: Bands,
}

/// Upper bounds of a suggestion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuggestionBound {
    /// Four times the upper quartile: a backlog may be wrong, or exaggerated by a seller.
    FourTimesP75,
    /// [`Price::MAX`]: no offer can be higher.
    PriceMax,
}

impl Suggestion {
    pub(super) fn of(bands: Bands, backlog: u32) -> Self {
        let (Some(median), Some(p75)) = (bands.median, bands.p75) else {
            return Self { price: None, exact: None, clamped_by: None, backlog, bands };
        };
        let window = bands.window as u64;
        let wanted = median.exact.times(window + u64::from(backlog), window);
        let bounds = [
            (SuggestionBound::FourTimesP75, p75.exact.times(P75_TIMES_MAX, 1)),
            (SuggestionBound::PriceMax, Rational::new(u128::from(Price::MAX), 1)),
        ];
        let lower = |(exact, by), (bound, highest)| {
            if highest < exact { (highest, Some(bound)) } else { (exact, by) }
        };
        let (exact, clamped_by) = bounds.into_iter().fold((wanted, None), lower);
        Self { price: Some(exact.rounded()), exact: Some(exact), clamped_by, backlog, bands }
    }
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { price, clamped_by, backlog, bands, .. } = self;
        let (Some(price), Some(median)) = (price, bands.median) else {
            return write!(f, "no price can be suggested for the lane `{}`: {}", bands.lane, bands.basis());
        };
        write!(
            f,
            "{price}: the median of {}, which is {}, times 1 + {backlog}/{} for a backlog of {backlog}",
            bands.basis(),
            median.exact,
            bands.window
        )?;
        match (clamped_by, bands.p75) {
            (Some(SuggestionBound::FourTimesP75), Some(p75)) => {
                write!(f, ", but no more than {P75_TIMES_MAX} times the upper quartile, {}", p75.exact)
            }
            (Some(SuggestionBound::PriceMax), _) => write!(f, ", but no more than a price can be"),
            _ => Ok(()),
        }
    }
}
