//! `[serve]`: settings of the HTTP service.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serve {
    pub listen: ListenAddress,
    /// Host names that requests may name, in addition to the names of the loopback interface.
    pub hosts: Vec<String>,
    /// PEM files. A relative path starts at the data directory.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub connections_max: u64,
    pub slice_bytes_max: u64,
    pub body_memory_bytes_max: u64,
    pub spool_bytes_max: u64,
}

/// `ADDRESS:PORT` or `NAME:PORT`. A name is resolved when the node begins to listen, and the node
/// listens at each of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddress(String);

#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not where to listen: an address or a name, and a port, are expected, such as 127.0.0.1:7700, [::1]:7700 or localhost:7700"
)]
pub struct NotAListenAddress(String);

impl FromStr for ListenAddress {
    type Err = NotAListenAddress;

    fn from_str(text: &str) -> Result<Self, NotAListenAddress> {
        let is_name = |name: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            // A name needs a letter: digits alone, such as `1.2.3:80`, are a mistyped address.
            name.bytes().all(fits) && name.bytes().any(|byte| byte.is_ascii_alphabetic())
        };
        let is_name_and_port =
            || text.rsplit_once(':').is_some_and(|(name, port)| is_name(name) && port.parse::<u16>().is_ok());
        if text.parse::<SocketAddr>().is_ok() || is_name_and_port() {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAListenAddress(text.to_owned()))
        }
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = NotAListenAddress;

    fn try_from(text: String) -> Result<Self, NotAListenAddress> {
        text.parse()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ListenAddress {
    /// Limit on the addresses of a name.
    const ADDRESSES_MAX: usize = 16;

    /// Resolves all addresses, without duplicates. May block on the name service.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in self.0.to_socket_addrs()? {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        match addresses.len() {
            0 => Err(io::Error::other("the name has no address")),
            count if count > Self::ADDRESSES_MAX => Err(io::Error::other(format!("the name has {count} addresses"))),
            _ => Ok(addresses),
        }
    }
}

impl Serve {
    /// Limit on `connections_max`. A connection uses one file descriptor and some 10 KiB of memory.
    pub const CONNECTIONS_MAX: u64 = 1_000_000;
    /// Limit on `body_memory_bytes_max`: more than any machine has.
    pub const BODY_MEMORY_BYTES_MAX: u64 = 1 << 40;
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            listen: ListenAddress("127.0.0.1:7700".to_owned()),
            hosts: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            connections_max: 12_000,
            slice_bytes_max: 1 << 30,
            body_memory_bytes_max: 256 << 20,
            spool_bytes_max: 16 << 30,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_a_name_and_a_port_are_where_to_listen() {
        for (text, is_resolved) in
            [("127.0.0.1:0", true), ("[::1]:7700", true), ("localhost:0", true), ("my-host.example:80", false)]
        {
            let listen: ListenAddress = text.parse().unwrap();
            assert_eq!(listen.to_string(), text);
            if is_resolved {
                let addresses = listen.resolve().unwrap();
                assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{addresses:?}");
            }
        }
        for text in
            ["", ":7700", "7700", "localhost", "localhost:", "localhost:65536", "::1:7700x", "1.2.3:80", "a b:1"]
        {
            let error = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(error.contains("127.0.0.1:7700"), "{error}");
        }
    }
}
