//! Number formats for people.

use std::time::Duration;

use maud::{Markup, html};

use crate::text::{printable, timestamp};

/// Longest name in a table. A longer name is cut, and is complete in its `title` and on the linked
/// page.
const SHORT_CHARS: usize = 16;

/// `1,234,567`
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 slice`, `2 slices`
pub fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Formats bytes in the largest unit of which there is at least one, to a tenth.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(unit) = (bytes.max(1).ilog2() / 10).checked_sub(1) else { return format!("{bytes} B") };
    let (tenths, unit_name) = ((u128::from(bytes) * 10) >> (10 * (unit + 1)), UNITS[unit as usize]);
    match tenths % 10 {
        0 => format!("{} {unit_name}", tenths / 10),
        tenth => format!("{}.{tenth} {unit_name}", tenths / 10),
    }
}

/// Formats the duration of an operation in µs, ms or s, with one decimal for ms and s.
pub fn duration_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{} s", count(us / 1_000_000), us % 1_000_000 / 100_000),
    }
}

/// Formats a long duration in its two largest units.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{} d {} h", count(days), hours % 24),
        () if hours > 0 => format!("{hours} h {} min", minutes % 60),
        () if minutes > 0 => format!("{minutes} min {} s", seconds % 60),
        () => format!("{seconds} s"),
    }
}

/// Formats how long ago something was, in whole units, so that the text does not change all the
/// time. The exact time is in the `title`.
pub fn ago(then_ms: u64, now_ms: u64) -> Markup {
    let seconds = now_ms.saturating_sub(then_ms) / 1_000;
    let text = match seconds {
        0..10 => "just now".to_owned(),
        10..60 => format!("{} s ago", seconds / 10 * 10),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", count(seconds / 86_400)),
    };
    let exact = timestamp(then_ms);
    html! { time datetime=(exact) title=(exact) { (text) } }
}

/// Formats a digest or an id, cut if it is long.
pub fn short(text: &str) -> Markup {
    let text = printable(text);
    match text.char_indices().nth(SHORT_CHARS) {
        Some((end, _)) if text.chars().count() > SHORT_CHARS + 1 => {
            html! { code title=(text) { (text[..end]) "…" } }
        }
        _ => html! { code { (text) } },
    }
}

/// Formats a whole digest, id or key. A line may break anywhere in it.
pub fn long(text: &str) -> Markup {
    html! { code .long { (printable(text)) } }
}

/// Formats `value` out of `max` as a bar and in numbers. `what` is the label for screen readers.
pub fn bar(what: &str, value: u64, max: u64, show: fn(u64) -> String) -> Markup {
    html! {
        progress max=(max.max(1)) value=(value.min(max)) aria-label=(what) {}
        " " span .of { (show(value)) " of " (show(max)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_exact_and_short() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!([1_024, 1_536, 1 << 20, u64::MAX].map(bytes), ["1 KiB", "1.5 KiB", "1 MiB", "15.9 EiB"]);
        assert_eq!(
            [999, 1_000, 12_345, 999_999, 1_000_000].map(duration_us),
            ["999 µs", "1.0 ms", "12.3 ms", "999.9 ms", "1.0 s"]
        );
        let spans = [59, 61, 3_600, 90_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    }

    #[test]
    fn ages_are_told_in_whole_units_and_no_clock_makes_one_negative() {
        let text = |then_ms, now_ms| {
            let markup = ago(then_ms, now_ms).into_string();
            markup.split_once('>').unwrap().1.trim_end_matches("</time>").to_owned()
        };
        assert_eq!(text(5, 0), "just now");
        assert_eq!(text(0, 59_999), "50 s ago");
        assert_eq!(text(0, 60_000), "1 min ago");
        assert_eq!(text(0, 172_800_000), "2 days ago");
        assert!(ago(u64::MAX, 0).into_string().contains("ms after 1970"));
    }

    #[test]
    fn what_is_long_is_cut_and_what_steers_is_written_out() {
        assert_eq!(short("seventeen-letters").into_string(), "<code>seventeen-letters</code>");
        let cut = short("eighteen-letters-x").into_string();
        assert_eq!(cut, "<code title=\"eighteen-letters-x\">eighteen-letters…</code>");
        assert_eq!(short("<\u{202e}b>").into_string(), "<code>&lt;\\u{202e}b&gt;</code>");
    }
}
