//! A small plot of prices over time, in Braille characters.

use textplots::{Chart, Plot as _, Shape};

use super::super::timestamp;
use crate::prices::Quantile;

/// Default width of a plot, in characters.
pub const COLUMNS: usize = 80;

/// Limits on the width of the curve: a narrower one shows nothing, and a wider one is hard to
/// follow.
const CURVE_COLUMNS_MIN: usize = 20;
const CURVE_COLUMNS_MAX: usize = 200;

const ROWS: usize = 12;

/// A Braille character is two dots wide and four high.
const DOTS_WIDE: usize = 2;
const DOTS_HIGH: usize = 4;

const LINE_DOTS_APART: usize = 6;

/// Plots offers, each a time in milliseconds and a price, the oldest first: one dot for each, and a
/// dotted line at their median. `None` if there are none. No line is wider than `columns`, unless
/// that is less than a minimum.
pub fn plot(offers: &[(u64, u64)], columns: usize) -> Option<String> {
    let ((oldest_ms, _), (newest_ms, _)) = (*offers.first()?, *offers.last()?);
    let prices = || offers.iter().map(|(_, price)| *price);
    let (lowest, highest) = (prices().min()?, prices().max()?);
    let median = Quantile::MEDIAN.of_prices(prices())?.rounded();

    // The library plots single-precision numbers, which are too coarse for times and prices;
    // fractions of their ranges are precise enough.
    let across = |time_ms: u64| part(time_ms, oldest_ms, newest_ms);
    let up = |price: u64| part(price, lowest, highest);
    let dots: Vec<(f32, f32)> = offers.iter().map(|(time_ms, price)| (across(*time_ms), up(*price))).collect();

    let label_columns = highest.to_string().len();
    // A space follows the label.
    let curve_columns = columns.saturating_sub(label_columns + 1).clamp(CURVE_COLUMNS_MIN, CURVE_COLUMNS_MAX);
    // Dots are counted from 0 to the given size inclusive.
    let (wide, high) = (curve_columns * DOTS_WIDE - 1, ROWS * DOTS_HIGH - 1);
    // A solid line would hide the offers on it.
    let line: Vec<(f32, f32)> =
        (0..wide).step_by(LINE_DOTS_APART).map(|x| (x as f32 / wide as f32, up(median))).collect();
    let (dots, line) = (Shape::Points(&dots), Shape::Points(&line));
    let mut chart = Chart::new_with_y_range(wide as u32, high as u32, 0.0, 1.0, 0.0, 1.0);
    let chart = chart.lineplot(&dots).lineplot(&line);
    chart.figures();
    let frame = chart.frame();

    let median_row = (high - (up(median) * high as f32).round() as usize) / DOTS_HIGH;
    let label = |row: usize| match row {
        0 => highest.to_string(),
        row if row == ROWS - 1 => lowest.to_string(),
        row if row == median_row => median.to_string(),
        _ => String::new(),
    };
    let rows = frame.lines().enumerate();
    let mut text: String =
        rows.map(|(row, dots)| format!("{:>label_columns$} {dots}", label(row)).trim_end().to_owned() + "\n").collect();
    let indent = " ".repeat(label_columns + 1);
    let (from, to) = (timestamp(oldest_ms), timestamp(newest_ms));
    let gap = curve_columns.saturating_sub(from.len() + to.len());
    match gap {
        // The two labels do not fit into one line.
        0 => text.push_str(&format!("{indent}{from}\n{indent}{to}\n")),
        gap => text.push_str(&format!("{indent}{from}{}{to}\n", " ".repeat(gap))),
    }
    Some(text)
}

/// Returns the position of `value` between `lowest` and `highest`, from 0 to 1; 0.5 if these are
/// equal.
fn part(value: u64, lowest: u64, highest: u64) -> f32 {
    match highest - lowest {
        0 => 0.5,
        span => (value.saturating_sub(lowest) as f64 / span as f64) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 60 * 60 * 1_000;

    #[test]
    fn a_plot_has_its_dots_where_they_belong() {
        // Prices that rise evenly with time lie on the diagonal, and their median is in the middle.
        let offers: Vec<(u64, u64)> = (0..=20).map(|n| (n * HOUR_MS, 100 + n * 50)).collect();
        let plot = plot(&offers, 60).unwrap();
        let lines: Vec<&str> = plot.lines().collect();
        assert_eq!(lines.len(), ROWS + 1, "{plot}");
        let width = |line: &&str| line.chars().count();
        assert!(lines.iter().all(|line| width(line) <= 60), "{plot}");
        assert!(lines[0].starts_with("1100 ") && width(&lines[0]) == 60, "the newest is the dearest: {plot}");
        assert!(lines[ROWS - 1].starts_with(" 100 ") && width(&lines[ROWS - 1]) < 15, "{plot}");
        let median = lines.iter().position(|line| line.starts_with(" 600 ")).unwrap();
        assert!((5..=6).contains(&median) && width(&lines[median]) > 55, "{plot}");
        assert_eq!(lines[ROWS], format!("     1970-01-01T00:00:00.000Z{}1970-01-01T20:00:00.000Z", " ".repeat(7)));
    }

    #[test]
    fn whatever_there_is_can_be_plotted() {
        assert_eq!(plot(&[], COLUMNS), None);
        let most = (1 << 53) - 1;
        for offers in [&[(5, 7)][..], &[(5, 7), (5, 7)], &[(0, 1), (u64::MAX, most)], &[(5, 1), (5, most)]] {
            for columns in [0, 1, 30, COLUMNS, 100_000] {
                let plot = plot(offers, columns).unwrap();
                let widest = plot.lines().map(|line| line.chars().count()).max().unwrap();
                assert!(
                    plot.lines().count() > ROWS && widest <= columns.clamp(62, 300),
                    "{offers:?} {columns}\n{plot}"
                );
                assert!(plot.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "{plot}");
            }
        }
    }
}
