//! Module names: aliases for the digests of modules.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// Name of a module: up to 64 of `a`-`z`, `0`-`9`, `.`, `_` and `-`, starting with a letter or a
/// digit. A digest is not a valid name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct ModuleName(String);

const CHARS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a module's name has up to {CHARS_MAX} of `a`-`z`, `0`-`9`, `.`, `_` and `-`, begins with a letter or a digit, and is no digest"
)]
pub struct NotAName;

impl ModuleName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ModuleName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let ok = begins && text.len() <= CHARS_MAX && text.chars().all(allowed) && text.parse::<Digest>().is_err();
        if ok { Ok(Self(text.to_owned())) } else { Err(NotAName) }
    }
}

impl TryFrom<String> for ModuleName {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        text.parse()
    }
}

/// Reference to a module, by its name or its digest.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ModuleKey {
    Name(ModuleName),
    Digest(Digest),
}

impl FromStr for ModuleKey {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        text.parse().map(Self::Digest).or_else(|_| text.parse().map(Self::Name))
    }
}

impl TryFrom<String> for ModuleKey {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        text.parse()
    }
}

impl From<ModuleKey> for String {
    fn from(key: ModuleKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for ModuleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_plain_word() {
        for name in ["a", "word-count", "v1.2_x", "0", &"x".repeat(64)] {
            assert!(name.parse::<ModuleName>().is_ok(), "{name}");
        }
        let digest = Digest::of(b"").to_string();
        for name in ["", ".", "..", "-a", ".a", "a/b", "../a", "A", "ä", "a b", "a\n", "\0", &"x".repeat(65), &digest]
        {
            assert_eq!(name.parse::<ModuleName>(), Err(NotAName), "{name}");
        }
        assert_eq!(digest.parse(), Ok(ModuleKey::Digest(Digest::of(b""))));
    }
}
