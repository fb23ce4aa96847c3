//! `[serve]`: how the node meets those who ask it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serve {
    pub listen: SocketAddr,
    /// Names that requests may be for, beside those of this machine for itself.
    pub hosts: Vec<String>,
    /// PEM files; a path that is not absolute begins at the data directory.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub connections_max: u64,
    pub slice_bytes_max: u64,
    pub body_memory_bytes_max: u64,
}

impl Serve {
    /// A connection is a file to the system, and takes some 10 KiB.
    pub const CONNECTIONS_MAX: u64 = 1_000_000;
    /// The permits that a semaphore can have are fewer than what some machines have of memory.
    pub const BODY_MEMORY_BYTES_MAX: u64 = 1 << 40;
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 7700).into(),
            hosts: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            connections_max: 12_000,
            slice_bytes_max: 1 << 30,
            body_memory_bytes_max: 256 << 20,
        }
    }
}
