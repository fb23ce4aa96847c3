//! Access control: tokens, their rights, and the conditions under which a node may listen on the
//! network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::prices::ProviderName;
use crate::slice::Tenant;

/// Limit on tokens. Every presented secret is compared with all tokens, so that the time of the
/// comparison says nothing about the secrets.
pub const TOKENS_MAX: usize = 1_000;

/// Longest secret that is hashed: several times the length of a real one.
const SECRET_BYTES_MAX: usize = 256;

/// Rights of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Add modules, and remove modules that this token added.
    Upload,
    /// Run slices, and read the proofs of this token's slices.
    Run,
    /// Offer prices.
    Price,
    /// Read the figures of the courier: its bundles and its credit.
    Courier,
    /// All rights, also on what belongs to other tokens.
    Admin,
}

impl Permission {
    pub const ALL: [Self; 5] = [Self::Upload, Self::Run, Self::Price, Self::Courier, Self::Admin];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Run => "run",
            Self::Price => "price",
            Self::Courier => "courier",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Permission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|right| right.name() == text).ok_or_else(|| format!("the rights are {}", names()))
    }
}

/// A token in the config. The config holds only a hash, so reading it does not reveal the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    /// Hash of the secret, by [`Secret::hash`].
    pub hash: Digest,
    pub rights: BTreeSet<Permission>,
    /// Rate limit. Requests above it wait for up to a second; beyond that they are answered with
    /// 429.
    #[serde(default = "requests_per_second")]
    pub requests_per_second: NonZeroU32,
}

const fn requests_per_second() -> NonZeroU32 {
    NonZeroU32::new(1_000).expect("it is not 0")
}

/// A token. Its name is the scope of the slices that are run with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub name: Tenant,
    hash: Digest,
    pub rights: BTreeSet<Permission>,
    pub requests_per_second: NonZeroU32,
}

/// The tokens of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Token>);

#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("`tokens.{name}`: {cause}")]
    Name { name: String, cause: crate::slice::NotATokenName },
    #[error("no token can be called `{0}`, which is the node's owner to the price board")]
    Reserved(String),
    #[error("`tokens.{0}.rights` is empty; the token would be good for nothing")]
    NoRights(String),
    #[error("`tokens.{one}` and `tokens.{other}` have one hash; each holder needs a secret of its own")]
    Twice { one: String, other: String },
    #[error("there are {0} tokens; at most {TOKENS_MAX} are taken")]
    TooMany(usize),
}

impl TokensError {
    /// Returns the name of the token at fault, if the error is of one token.
    pub fn token(&self) -> Option<&str> {
        match self {
            Self::Name { name, .. } | Self::Reserved(name) | Self::NoRights(name) | Self::Twice { other: name, .. } => {
                Some(name)
            }
            Self::TooMany(_) => None,
        }
    }
}

impl Tokens {
    pub fn of(entries: &BTreeMap<String, TokenEntry>) -> Result<Self, TokensError> {
        if entries.len() > TOKENS_MAX {
            return Err(TokensError::TooMany(entries.len()));
        }
        let mut names: BTreeMap<Digest, &str> = BTreeMap::new();
        let token = |(name, entry): (&'_ String, &TokenEntry)| {
            let TokenEntry { hash, rights, requests_per_second } = entry.clone();
            if name == ProviderName::LOCAL {
                return Err(TokensError::Reserved(name.clone()));
            }
            if rights.is_empty() {
                return Err(TokensError::NoRights(name.clone()));
            }
            let parsed = name.parse().map_err(|cause| TokensError::Name { name: name.clone(), cause })?;
            Ok(Token { name: parsed, hash, rights, requests_per_second })
        };
        let tokens = entries.iter().map(token).collect::<Result<Vec<_>, _>>()?;
        for (name, entry) in entries {
            if let Some(one) = names.insert(entry.hash, name) {
                return Err(TokensError::Twice { one: one.to_owned(), other: name.clone() });
            }
        }
        Ok(Self(tokens))
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the index in [`Tokens::list`] of the token with this secret. Takes the same time for
    /// every unknown secret.
    pub fn find(&self, secret: &str) -> Option<usize> {
        if secret.len() > SECRET_BYTES_MAX {
            return None;
        }
        let hash = Secret::hash(secret);
        let is_it = |found: Option<usize>, (at, token): (usize, &Token)| {
            if token.hash.is_in_constant_time(&hash) { Some(at) } else { found }
        };
        self.0.iter().enumerate().fold(None, is_it)
    }

    pub fn list(&self) -> &[Token] {
        &self.0
    }
}

impl Token {
    pub fn may(&self, right: Permission) -> bool {
        self.rights.contains(&right) || self.rights.contains(&Permission::Admin)
    }
}

/// Secret of a token: 256 random bits, so its hash needs neither salt nor a slow function.
pub struct Secret(String);

impl Secret {
    const PREFIX: &str = "node_";
    const DOMAIN: &str = "compute-host token v1";

    pub fn generate() -> io::Result<Self> {
        let mut random = [0; 32];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self(format!("{}{}", Self::PREFIX, BASE64_URL_SAFE_NO_PAD.encode(random))))
    }

    /// Returns the hash of a secret for the config.
    pub fn hash(text: &str) -> Digest {
        Digest::in_domain(Self::DOMAIN, text.as_bytes())
    }

    /// Returns the secret, to be shown only to its holder.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Exposure of the node to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Reachable by processes of this machine only.
    Loopback,
    /// Reachable from other machines, with TLS that ends in this process.
    Tls,
    /// Reachable from other machines, through a proxy that does TLS.
    BehindProxy,
}

#[derive(Debug, thiserror::Error)]
pub enum ExposureError {
    #[error(
        "{0} can be reached from other machines, and no token is configured; make one with `node token new`, or listen on 127.0.0.1"
    )]
    NoTokens(SocketAddr),
    #[error(
        "--behind-proxy lets strangers reach this node, and no token is configured; make one with `node token new`"
    )]
    NoTokensBehindProxy,
    #[error(
        "{0} can be reached from other machines, and tokens would go there in the clear; set `serve.tls_certificate` and `serve.tls_key`, say --behind-proxy if a proxy has TLS, or listen on 127.0.0.1"
    )]
    NoTls(SocketAddr),
}

impl Exposure {
    /// Decides the exposure, or refuses to listen at these addresses. One address that is not
    /// loopback is enough to need protection.
    pub fn of(
        addresses: &[SocketAddr],
        tokens: &Tokens,
        has_tls: bool,
        is_behind_proxy: bool,
    ) -> Result<Self, ExposureError> {
        let reachable = addresses.iter().copied().find(|address| !address.ip().is_loopback());
        match (reachable, is_behind_proxy) {
            (_, true) if tokens.is_empty() => Err(ExposureError::NoTokensBehindProxy),
            (_, true) => Ok(Self::BehindProxy),
            (None, false) => Ok(Self::Loopback),
            (Some(listen), false) if tokens.is_empty() => Err(ExposureError::NoTokens(listen)),
            (Some(listen), false) if !has_tls => Err(ExposureError::NoTls(listen)),
            (Some(_), false) => Ok(Self::Tls),
        }
    }

    /// Returns true if the address of a connection identifies its client. On loopback and behind a
    /// proxy, all clients have the same address.
    pub const fn tells_by_address(self) -> bool {
        matches!(self, Self::Tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(secret: &str, rights: &[Permission]) -> TokenEntry {
        let requests_per_second = requests_per_second();
        TokenEntry { hash: Secret::hash(secret), rights: rights.iter().copied().collect(), requests_per_second }
    }

    fn tokens(entries: &[(&str, TokenEntry)]) -> Result<Tokens, String> {
        let entries = entries.iter().map(|(name, entry)| ((*name).to_owned(), entry.clone())).collect();
        Tokens::of(&entries).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_finds_its_token_and_no_other_text_does() {
        let (one, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        assert_ne!(one.as_str(), other.as_str());
        let (first, second) = (entry(one.as_str(), &[Permission::Run]), entry(other.as_str(), &[Permission::Admin]));
        let tokens = tokens(&[("alice", first), ("bob", second)]).unwrap();
        assert_eq!((tokens.find(one.as_str()), tokens.find(other.as_str())), (Some(0), Some(1)));
        let shorter = &one.as_str()[..one.as_str().len() - 1];
        for wrong in ["", shorter, &format!("{} ", one.as_str()), &Secret::hash(one.as_str()).to_string()] {
            assert_eq!(tokens.find(wrong), None);
        }
        let [alice, bob] = tokens.list() else { panic!("there are two") };
        assert!(alice.may(Permission::Run) && !alice.may(Permission::Upload) && !alice.may(Permission::Admin));
        assert!(Permission::ALL.into_iter().all(|right| bob.may(right)));
    }

    #[test]
    fn what_cannot_be_a_token_is_named() {
        assert!(tokens(&[("Alice", entry("a", &[Permission::Run]))]).unwrap_err().starts_with("`tokens.Alice`: "));
        assert!(tokens(&[("alice", entry("a", &[]))]).unwrap_err().contains("`tokens.alice.rights` is empty"));
        assert!(tokens(&[("local", entry("a", &[Permission::Price]))]).unwrap_err().contains("`local`"));
        let twice = tokens(&[("alice", entry("a", &[Permission::Run])), ("bob", entry("a", &[Permission::Run]))]);
        assert!(twice.unwrap_err().contains("`tokens.alice` and `tokens.bob`"));
    }

    #[test]
    fn a_node_that_others_reach_has_tokens_and_tls() {
        let some = tokens(&[("alice", entry("a", &[Permission::Run]))]).unwrap();
        let none = Tokens::default();
        let (here, everywhere) = (&["127.0.0.1:1".parse().unwrap()], &["0.0.0.0:1".parse().unwrap()]);
        assert_eq!(Exposure::of(here, &none, false, false).unwrap(), Exposure::Loopback);
        assert_eq!(Exposure::of(&["[::1]:1".parse().unwrap()], &none, false, false).unwrap(), Exposure::Loopback);
        assert!(matches!(Exposure::of(everywhere, &none, true, false), Err(ExposureError::NoTokens(_))));
        assert!(matches!(Exposure::of(everywhere, &some, false, false), Err(ExposureError::NoTls(_))));
        assert_eq!(Exposure::of(everywhere, &some, true, false).unwrap(), Exposure::Tls);
        let both = [here[0], everywhere[0]];
        assert!(matches!(Exposure::of(&both, &none, true, false), Err(ExposureError::NoTokens(at)) if at == both[1]));
        assert_eq!(Exposure::of(everywhere, &some, false, true).unwrap(), Exposure::BehindProxy);
        assert!(matches!(Exposure::of(here, &none, false, true), Err(ExposureError::NoTokensBehindProxy)));
        assert!(Exposure::Tls.tells_by_address());
        assert!(!Exposure::Loopback.tells_by_address() && !Exposure::BehindProxy.tells_by_address());
    }
}
