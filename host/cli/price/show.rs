//! Formats the price board's answers for people.

use std::time::Duration;

use super::super::timestamp;
use crate::prices::commands::{PriceAnswer, RecordedOffer};
use crate::prices::{Band, Bands, Quantile};

pub fn text(answer: &PriceAnswer) -> String {
    match answer {
        PriceAnswer::Recorded(RecordedOffer { offer, samples, providers }) => {
            let by = if *providers == 1 { "1 provider".to_owned() } else { format!("{providers} providers") };
            format!("{} by {} in `{}`; offers there: {samples}, by {by}", offer.price, offer.provider, offer.lane)
        }
        PriceAnswer::Bands(bands) => table(bands),
        PriceAnswer::Suggestion(suggestion) => suggestion.to_string(),
        PriceAnswer::Offer(offer) => format!("{}  {:>16}  {}", timestamp(offer.time_ms), offer.price, offer.provider),
    }
}

fn table(bands: &Bands) -> String {
    let mut text = format!("{}: {}", bands.lane, bands.basis());
    if let (Some(oldest_ms), Some(newest_ms)) = (bands.oldest_age_ms, bands.newest_age_ms) {
        text.push_str(&format!("\nmade {} to {} ago, the last {} count", age(oldest_ms), age(newest_ms), bands.window));
    }
    for Band { quantile, price, exact } in
        [&bands.p25, &bands.median, &bands.p75].into_iter().flatten().chain(&bands.others)
    {
        let name = if *quantile == Quantile::MEDIAN { "median".to_owned() } else { quantile.to_string() };
        let exact = if exact.denominator() == 1 { String::new() } else { format!("  ({exact})") };
        text.push_str(&format!("\n  {name:<12}{price:>16}{exact}"));
    }
    text
}

/// Formats an age to the minute; below one minute, to the second.
fn age(ms: u64) -> String {
    let seconds = ms / 1_000;
    let shown = if seconds < 60 { seconds } else { seconds - seconds % 60 };
    humantime::format_duration(Duration::from_secs(shown)).to_string()
}
