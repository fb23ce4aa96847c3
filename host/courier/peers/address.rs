//! Address of another node.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

/// Maximum length of an address, in bytes. No node needs a longer one.
pub const ADDRESS_BYTES_MAX: usize = 512;

/// Maximum length of the part of a wrong address that an error shows.
const SHOWN_CHARS_MAX: usize = 128;

/// A node's base URL: `http://` or `https://`, a host, and perhaps a port and a path prefix of all
/// the node's paths. Shown in a normal form: the host in lower case, no default port, no `/` at the
/// end.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    bundles: Url,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not the address of a node: {rule}. One is `http://HOST:PORT`, `https://HOST` or `https://HOST/PATH`"
)]
pub struct NotAnAddress {
    text: String,
    rule: &'static str,
}

impl Address {
    /// Returns the URL for deliveries: the address followed by `/v1/courier/bundles`.
    pub fn bundles_url(&self) -> &Url {
        &self.bundles
    }

    /// Returns whether the host is a name that must be resolved, and not an IP address.
    pub(in crate::courier) fn is_named(&self) -> bool {
        self.bundles.domain().is_some()
    }
}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        parsed(text).map_err(|rule| {
            let shown = text.chars().take(SHOWN_CHARS_MAX).collect::<String>().escape_debug().to_string();
            NotAnAddress { text: shown, rule }
        })
    }
}

/// Parses an address. `Err` is the rule that the text breaks.
fn parsed(text: &str) -> Result<Address, &'static str> {
    const TOO_LONG: &str = "it has more than 512 bytes";
    const NO_URL: &str = "it cannot be read as a URL";
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(TOO_LONG);
    }
    // A URL parser skips or replaces other characters, so the address would be shown in a different
    // form.
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return Err("it has a character that is not printable ASCII, or a space or a backslash");
    }
    let (scheme, rest) = text.split_once("://").ok_or("it does not begin with `http://` or `https://`")?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err("it does not begin with `http://` or `https://`");
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        return Err("it has no host");
    }
    if host.contains('@') {
        return Err("it has a user's name, which is sent to nobody");
    }
    if rest.contains(['?', '#']) {
        return Err("it has a query or a fragment");
    }
    let url = Url::parse(text).map_err(|_| "it cannot be read as a URL")?;
    if url.port() == Some(0) {
        return Err("nobody can be reached at port 0");
    }
    let text = url.as_str().trim_end_matches('/').to_owned();
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(TOO_LONG);
    }
    let bundles = Url::parse(&format!("{text}/v1/courier/bundles")).map_err(|_| NO_URL)?;
    Ok(Address { text, bundles })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_form() {
        for (written, shown) in [
            ("http://bob", "http://bob"),
            ("HTTP://Bob.Example.ORG:80/", "http://bob.example.org"),
            ("https://bob:443", "https://bob"),
            ("https://bob:80", "https://bob:80"),
            ("http://127.0.0.1:8080//", "http://127.0.0.1:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("https://bob/compute/a/", "https://bob/compute/a"),
            ("https://bob/a/../b", "https://bob/b"),
            ("https://bob/a%20b", "https://bob/a%20b"),
        ] {
            let address: Address = written.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{written}");
            assert_eq!(address.bundles_url().as_str(), format!("{shown}/v1/courier/bundles"), "{written}");
            assert_eq!(shown.parse::<Address>(), Ok(address), "{written}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_rule() {
        for (wrong, rule) in [
            ("", "begin with"),
            ("bob", "begin with"),
            ("bob:8080", "begin with"),
            ("http:bob", "begin with"),
            ("ftp://bob", "begin with"),
            ("file:///etc/passwd", "begin with"),
            ("http://", "no host"),
            ("http:///bob", "no host"),
            ("http://?a", "no host"),
            ("http://:80", "URL"),
            ("http://bob:99999", "URL"),
            ("http://bo^b", "URL"),
            ("http://bob:0", "port 0"),
            ("http://user@bob", "user"),
            ("http://user:secret@bob", "user"),
            ("http://@bob", "user"),
            ("http://bob?", "query"),
            ("http://bob/?a=b", "query"),
            ("http://bob#", "query"),
            ("http://bob/a#b", "query"),
            (" http://bob", "space"),
            ("http://bob\n", "space"),
            ("http://b\tob", "space"),
            ("http:\\\\bob", "backslash"),
            ("http://böb", "ASCII"),
            (&format!("http://bob/{}", "x".repeat(502)), "512"),
            (&format!("http://bob/{}", "\"".repeat(200)), "512"),
        ] {
            let error = wrong.parse::<Address>().expect_err(wrong);
            assert!(error.rule.contains(rule), "{wrong}: {error}");
            let shown = error.to_string();
            assert!(shown.len() < 512 && !shown.contains(char::is_control), "{shown}");
        }
        let longest = format!("http://bob/{}", "x".repeat(501));
        assert_eq!(longest.parse::<Address>().unwrap().to_string(), longest);
    }
}
