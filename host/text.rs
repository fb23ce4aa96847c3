//! Text for people, on a terminal and on a page: escapes strangers' text that could control either,
//! and formats times in one way.

mod explain;

use std::time::{Duration, SystemTime};

pub use self::explain::explained;

/// Escapes control characters in `text`, and characters that change the direction of writing. The
/// result cannot control a terminal, imitate another line, or be displayed backwards.
pub fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        let turns =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Formats milliseconds since 1970 as in RFC 3339. A year that RFC 3339 cannot write is given in
/// words.
pub fn timestamp(unix_ms: u64) -> String {
    const YEAR_10000_MS: u64 = 253_402_300_800_000;
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms));
    match time {
        Some(time) if unix_ms < YEAR_10000_MS => humantime::format_rfc3339_millis(time).to_string(),
        _ => format!("{unix_ms} ms after 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_steers_no_terminal() {
        assert_eq!(printable("a\x1b[2J\r\n"), "a\\u{1b}[2J\\r\\n");
        assert_eq!(printable("txt.\u{202e}elif ä \u{2066}"), "txt.\\u{202e}elif ä \\u{2066}");
    }

    #[test]
    fn every_time_can_be_written() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!(timestamp(253_402_300_800_000), "253402300800000 ms after 1970");
        assert_eq!(timestamp(u64::MAX), "18446744073709551615 ms after 1970");
    }
}
