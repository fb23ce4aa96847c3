//! `Tenant`: the namespace of slice ids, one for each token and one for the owner.

use std::str::FromStr;
use std::sync::Arc;

use crate::shares::Owner;

/// The namespace of a slice id. The same id in two scopes names two different slices, and neither
/// scope can see the other's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tenant(Option<Arc<str>>);

impl Tenant {
    /// The scope of the node's owner: the command line and the local socket.
    pub const OWNER: Self = Self(None);

    pub const BYTES_MAX: usize = 64;

    /// Returns the name of the scope's token; `None` for the owner.
    pub fn token(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl Owner for Tenant {
    fn is_bounded(&self) -> bool {
        self.0.is_some()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the name of a token: 1 to {max} of a-z, 0-9, `.`, `_` and `-` are expected, a letter or a digit first", max = Tenant::BYTES_MAX)]
pub struct NotATokenName(String);

/// Parses the name of a token into its scope.
impl FromStr for Tenant {
    type Err = NotATokenName;

    fn from_str(name: &str) -> Result<Self, NotATokenName> {
        let is_allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric());
        let fits = begins && name.len() <= Self::BYTES_MAX && name.bytes().all(is_allowed);
        if fits {
            Ok(Self(Some(name.into())))
        } else {
            Err(NotATokenName(name.chars().take(Self::BYTES_MAX).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_name_is_short_and_plain() {
        for name in ["a", "ci.worker_7-eu", "owner", &"x".repeat(64)] {
            assert_eq!(name.parse::<Tenant>().unwrap().token(), Some(name));
        }
        for name in ["", "A", "a b", "ä", "a\0", "a/b", "-a", ".a", &"x".repeat(65)] {
            assert!(name.parse::<Tenant>().is_err(), "{name:?}");
        }
        assert_ne!("owner".parse::<Tenant>().unwrap(), Tenant::OWNER, "no token has the owner's scope");
    }
}
