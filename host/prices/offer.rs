//! An offer, and the parsed types of its fields.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// An offer: a provider would do a lane's work at this price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub price: Price,
    pub lane: Lane,
    pub provider: ProviderName,
    /// Time of arrival by this node's clock, in milliseconds since 1970. The provider cannot set
    /// it.
    pub time_ms: u64,
}

/// A price: from 1 to [`Price::MAX`] whole units. Zero is not allowed, because a flood of free
/// offers would cost its author nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct Price(u64);

impl Price {
    /// Largest integer that every JSON reader (RFC 7493, section 2.2) and a gauge (a binary64)
    /// represent exactly.
    pub const MAX: u64 = (1 << 53) - 1;

    pub const fn new(units: u64) -> Result<Self, NotAPrice> {
        if 1 <= units && units <= Self::MAX { Ok(Self(units)) } else { Err(NotAPrice) }
    }

    pub const fn units(self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a price is a whole number of units from 1 to {max}", max = Price::MAX)]
pub struct NotAPrice;

impl TryFrom<u64> for Price {
    type Error = NotAPrice;

    fn try_from(units: u64) -> Result<Self, NotAPrice> {
        Self::new(units)
    }
}

impl FromStr for Price {
    type Err = NotAPrice;

    fn from_str(text: &str) -> Result<Self, NotAPrice> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_plain).ok_or(NotAPrice).and_then(Self::new)
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The lane of an offer. Each lane has a window of its own. Every offer also counts in
/// [`Lane::All`]; an offer made in that lane counts only there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    #[default]
    All,
    Transcode,
    Inference,
    /// Lane of the module with this digest.
    Module(Digest),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no such lane: it is `all`, `transcode`, `inference`, or a module's digest of 64 lowercase hexadecimal \
     digits, as `node compute module list` prints it"
)]
pub struct NotALane;

impl FromStr for Lane {
    type Err = NotALane;

    fn from_str(text: &str) -> Result<Self, NotALane> {
        match text {
            "all" => Ok(Self::All),
            "transcode" => Ok(Self::Transcode),
            "inference" => Ok(Self::Inference),
            other => {
                let digest: Digest = other.parse().map_err(|_| NotALane)?;
                // A lane has exactly one name.
                if digest.to_string() == other { Ok(Self::Module(digest)) } else { Err(NotALane) }
            }
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Transcode => f.write_str("transcode"),
            Self::Inference => f.write_str("inference"),
            Self::Module(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

impl Serialize for Lane {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lane {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Name of a provider. The share of one provider in a window is counted by this name, so its bearer
/// must not be able to change it at will: it is the name of a token, or of a peer's key. If a
/// caller could choose names freely, it could act as any number of providers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProviderName(Arc<str>);

impl ProviderName {
    /// Length of a public key in text form.
    pub const BYTES_MAX: usize = 64;

    /// Name of the node's owner. No token may have it, because its offers would count as the
    /// owner's.
    pub const LOCAL: &str = "local";

    /// Returns the name of the node's owner when no other name is given.
    pub fn local() -> Self {
        Self(Self::LOCAL.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a provider's name has up to {max} of `a`-`z`, `0`-`9`, `.`, `_` and `-`, and begins with a letter or a digit",
    max = ProviderName::BYTES_MAX
)]
pub struct NotAProviderName;

impl FromStr for ProviderName {
    type Err = NotAProviderName;

    fn from_str(text: &str) -> Result<Self, NotAProviderName> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let is_name = begins && text.len() <= Self::BYTES_MAX && text.bytes().all(allowed);
        if is_name { Ok(Self(text.into())) } else { Err(NotAProviderName) }
    }
}

impl TryFrom<String> for ProviderName {
    type Error = NotAProviderName;

    fn try_from(text: String) -> Result<Self, NotAProviderName> {
        text.parse()
    }
}

impl From<ProviderName> for String {
    fn from(name: ProviderName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_a_whole_number_that_all_can_hold() {
        assert_eq!("1".parse(), Ok(Price(1)));
        assert_eq!("9007199254740991".parse(), Ok(Price(Price::MAX)));
        for wrong in ["0", "9007199254740992", "18446744073709551616", "-1", "+1", "1.5", "", "1e3", " 1"] {
            assert_eq!(wrong.parse::<Price>(), Err(NotAPrice), "{wrong}");
        }
    }

    #[test]
    fn a_lane_has_one_name() {
        let digest = Digest::of(b"module");
        for lane in [Lane::All, Lane::Transcode, Lane::Inference, Lane::Module(digest)] {
            assert_eq!(lane.to_string().parse(), Ok(lane));
        }
        for wrong in ["", "All", "transcode ", &digest.to_string()[1..], &digest.to_string().to_uppercase()] {
            assert_eq!(wrong.parse::<Lane>(), Err(NotALane), "{wrong}");
        }
    }

    #[test]
    fn what_names_a_provider_can_be_shown_anywhere() {
        let longest = "a".repeat(ProviderName::BYTES_MAX);
        for name in ["local", "0", "a.b_c-d", &longest] {
            assert_eq!(name.parse::<ProviderName>().unwrap().as_str(), name);
        }
        for wrong in ["", "-a", ".a", "A", "a b", "a\n", "ä", "a\u{202e}b", &format!("{longest}a")] {
            assert_eq!(wrong.parse::<ProviderName>(), Err(NotAProviderName), "{wrong}");
        }
    }
}
