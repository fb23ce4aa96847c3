//! Plot of offers over time, with the quartiles at the time of each offer.

use std::error::Error;
use std::ops::Range;

use maud::{Markup, PreEscaped, html};
use plotters::prelude::{
    ChartBuilder, Circle, Color as _, IntoDrawingArea as _, IntoFont as _, LineSeries, Polygon, RGBColor, SVGBackend,
    TextStyle,
};

use super::super::figures::{count, counted};
use crate::http::problem::HttpProblem;
use crate::prices::{Quantile, SAMPLES_MIN};

const WIDTH: u32 = 720;
const HEIGHT: u32 = 240;

/// Width of one digit of a label, in pixels.
const DIGIT_WIDTH: u32 = 9;
const LABEL_PIXELS: u32 = 16;
/// Approximate number of labels on each axis, at round numbers.
const LABELS: usize = 5;
const DOT_RADIUS: u32 = 2;

/// Part of the price range that stays free above and below.
const MARGIN: f64 = 0.06;

/// Shortest time span of the plot, so that offers that arrived together do not collapse to nothing.
const SPAN_MS_MIN: u64 = 10_000;

/// Placeholder colours. Each is replaced by a CSS class, which has one colour in light mode and
/// another in dark mode.
const CLASSES: [(RGBColor, &str); 6] =
    [(BAND, "band"), (MEDIAN, "median"), (OFFER, "offer"), (AXIS, "axis"), (GRID, "grid"), (LABEL, "label")];
const BAND: RGBColor = RGBColor(1, 0, 0);
const MEDIAN: RGBColor = RGBColor(2, 0, 0);
const OFFER: RGBColor = RGBColor(3, 0, 0);
const AXIS: RGBColor = RGBColor(4, 0, 0);
const GRID: RGBColor = RGBColor(5, 0, 0);
const LABEL: RGBColor = RGBColor(6, 0, 0);

/// Quartiles at the time of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PastBands {
    time_ms: u64,
    lower: u64,
    median: u64,
    upper: u64,
}

/// Returns the figure. `offers` are pairs of time and price, the oldest first. The table next to
/// the plot has the same data for readers who do not see the plot.
pub fn figure(offers: &[(u64, u64)], now_ms: u64) -> Result<Markup, HttpProblem> {
    let drawn = draw(offers, now_ms).map_err(|error| HttpProblem::of_host("plot", &error))?;
    let prices = || offers.iter().map(|(_, price)| *price);
    let (lowest, highest) = (prices().min().unwrap_or_default(), prices().max().unwrap_or_default());
    let number = counted(offers.len() as u64, "offer");
    let label = format!("Prices of {number} over time, from {} to {}", count(lowest), count(highest));
    Ok(html! {
        figure {
            svg .plot viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(label) { (PreEscaped(drawn)) }
            figcaption .note {
                "The last " (counted(offers.len() as u64, "offer")) " of all lanes, a dot each; the median of those shown "
                "up to then, a line; and between the quartiles, the band."
            }
        }
    })
}

/// Draws the content of the plot.
fn draw(offers: &[(u64, u64)], now_ms: u64) -> Result<String, Box<dyn Error>> {
    let (ages, unit) = ages(offers, now_ms);
    let prices = prices(offers);
    // The past is left of now, so ages are negative.
    let at = |time_ms: u64, price: u64| (-unit.of_ms(now_ms.saturating_sub(time_ms)), price as f64);
    let mut drawn = String::new();
    {
        let area = SVGBackend::with_string(&mut drawn, (WIDTH, HEIGHT)).into_drawing_area();
        let digits = count(prices.end as u64).len() as u32;
        let mut chart = ChartBuilder::on(&area)
            .margin(2 * DIGIT_WIDTH)
            .x_label_area_size(2 * LABEL_PIXELS)
            .y_label_area_size((digits + 1) * DIGIT_WIDTH)
            .build_cartesian_2d(ages, prices)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(GRID.mix(0.0))
            .axis_style(AXIS)
            .label_style(TextStyle::from(("sans-serif", LABEL_PIXELS).into_font()).color(&LABEL))
            .x_labels(LABELS)
            .y_labels(LABELS)
            .x_label_formatter(&|age| unit.label(*age))
            .y_label_formatter(&|price| count(*price as u64))
            .draw()?;
        let steps = steps(&quartiles(offers), now_ms);
        let upper = steps.iter().map(|then| at(then.time_ms, then.upper));
        let lower = steps.iter().rev().map(|then| at(then.time_ms, then.lower));
        if !steps.is_empty() {
            chart.draw_series([Polygon::new(upper.chain(lower).collect::<Vec<_>>(), BAND)])?;
        }
        let median = steps.iter().map(|then| at(then.time_ms, then.median));
        chart.draw_series(LineSeries::new(median, MEDIAN.stroke_width(2)))?;
        let dot = |(time_ms, price): &(u64, u64)| Circle::new(at(*time_ms, *price), DOT_RADIUS, OFFER.filled());
        chart.draw_series(offers.iter().map(dot))?;
        area.present()?;
    }
    Ok(classed(inside(&drawn)))
}

/// Unit of ages.
#[derive(Clone, Copy)]
struct Unit {
    ms: u64,
    name: &'static str,
}

impl Unit {
    const ALL: [Self; 3] =
        [Self { ms: 3_600_000, name: "h" }, Self { ms: 60_000, name: "min" }, Self { ms: 1_000, name: "s" }];

    /// Returns the largest unit that fits at least twice into the span, or else the smallest unit.
    fn for_span_ms(span_ms: u64) -> Self {
        let [.., smallest] = Self::ALL;
        Self::ALL.into_iter().find(|unit| span_ms >= 2 * unit.ms).unwrap_or(smallest)
    }

    fn of_ms(self, ms: u64) -> f64 {
        ms as f64 / self.ms as f64
    }

    fn label(self, age: f64) -> String {
        let age = (age.abs() * 10.0).round() / 10.0;
        if age == 0.0 { "now".to_owned() } else { format!("{age} {} ago", self.name) }
    }
}

/// Returns the range from the oldest offer to now.
fn ages(offers: &[(u64, u64)], now_ms: u64) -> (Range<f64>, Unit) {
    let oldest = offers.first().map_or(0, |(time_ms, _)| now_ms.saturating_sub(*time_ms));
    let span_ms = oldest.max(SPAN_MS_MIN);
    let unit = Unit::for_span_ms(span_ms);
    (-unit.of_ms(span_ms)..0.0, unit)
}

/// Returns a range around the prices, which is never empty.
fn prices(offers: &[(u64, u64)]) -> Range<f64> {
    let prices = || offers.iter().map(|(_, price)| *price as f64);
    let (lowest, highest) = (prices().fold(f64::MAX, f64::min), prices().fold(0.0, f64::max));
    let free = ((highest - lowest) * MARGIN).max(1.0);
    (lowest - free).clamp(0.0, highest)..highest + free
}

/// Turns quartiles into steps: each lasts until the next offer, and the last one until now.
fn steps(quartiles: &[PastBands], now_ms: u64) -> Vec<PastBands> {
    let ends = quartiles.iter().skip(1).map(|then| then.time_ms).chain([now_ms]);
    quartiles
        .iter()
        .zip(ends)
        .flat_map(|(then, end)| [*then, PastBands { time_ms: end.max(then.time_ms), ..*then }])
        .collect()
}

/// Returns the quartiles after each offer, from the first at which there are enough offers.
fn quartiles(offers: &[(u64, u64)]) -> Vec<PastBands> {
    let then = |end: usize| {
        let at =
            |quantile: Quantile| Some(quantile.of_prices(offers[..end].iter().map(|(_, price)| *price))?.rounded());
        let [lower, median, upper] = [Quantile::P25, Quantile::MEDIAN, Quantile::P75].map(at);
        Some(PastBands { time_ms: offers[end - 1].0, lower: lower?, median: median?, upper: upper? })
    };
    (SAMPLES_MIN..=offers.len()).filter_map(then).collect()
}

/// Returns the elements of an SVG document without its root: the page has a root element of its
/// own, which fits the layout.
fn inside(document: &str) -> &str {
    let inside = document.split_once('>').map_or("", |(_, rest)| rest);
    inside.rsplit_once("</svg>").map_or(inside, |(inside, _)| inside)
}

/// Replaces placeholder colours in the elements by classes.
fn classed(elements: &str) -> String {
    CLASSES.iter().fold(elements.to_owned(), |elements, (colour, class)| {
        let RGBColor(red, green, blue) = colour;
        let colour = format!("#{red:02X}{green:02X}{blue:02X}");
        ["fill", "stroke"].iter().fold(elements, |elements, painted| {
            elements.replace(&format!("{painted}=\"{colour}\""), &format!("class=\"{class}\""))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prices::Price;

    #[test]
    fn quartiles_are_those_of_what_had_come_by_then() {
        let offers: Vec<(u64, u64)> =
            [10, 50, 20, 40, 30, 1_000].iter().zip(1..).map(|(price, at)| (at, *price)).collect();
        let fifth = PastBands { time_ms: 5, lower: 20, median: 30, upper: 40 };
        let sixth = PastBands { time_ms: 6, lower: 22, median: 35, upper: 48 };
        assert_eq!(quartiles(&offers), [fifth, sixth]);
        assert_eq!(quartiles(&offers[..4]), []);
    }

    #[test]
    fn quartiles_hold_until_the_next_offer_and_until_now() {
        let then = |time_ms: u64, median: u64| PastBands { time_ms, lower: 1, median, upper: 99 };
        assert_eq!(steps(&[then(5, 10), then(7, 20)], 9), [then(5, 10), then(7, 10), then(7, 20), then(9, 20)]);
        assert_eq!(steps(&[then(5, 10)], 0), [then(5, 10), then(5, 10)], "a clock may be set back");
        assert_eq!(steps(&[], 9), []);
    }

    #[test]
    fn ages_are_told_in_the_unit_that_fits() {
        let label = |span_ms: u64, age: f64| Unit::for_span_ms(span_ms).label(age);
        assert_eq!(label(10_000, -5.0), "5 s ago");
        assert_eq!(label(120_000, -0.5), "0.5 min ago");
        assert_eq!(label(7_200_000, -2.0), "2 h ago");
        assert_eq!(label(7_200_000, -0.0), "now");
    }

    #[test]
    fn whatever_there_is_can_be_drawn_and_no_colour_is_left() {
        let most = Price::MAX;
        let many: Vec<(u64, u64)> = (0..300).map(|at| (at * 1_000, 1 + at * at % 97)).collect();
        for offers in [&[][..], &[(5, 7)], &[(5, 7); 9], &[(0, 1), (u64::MAX, most)], &[(9, most); 6], &many] {
            for now_ms in [0, 10, 300_000, u64::MAX] {
                let drawn = draw(offers, now_ms).unwrap();
                assert_eq!(drawn.matches("<circle").count(), offers.len(), "{offers:?}");
                assert!(!drawn.contains("#0") && !drawn.contains("svg") && !drawn.contains("NaN"), "{drawn}");
            }
        }
        let drawn = draw(&many, 300_000).unwrap();
        for (_, class) in CLASSES {
            assert!(drawn.contains(&format!("class=\"{class}\"")), "{class}");
        }
    }
}
