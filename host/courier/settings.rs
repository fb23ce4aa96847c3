//! Settings of the courier, from the node's owner.

use serde::Deserialize;

use crate::key::KeyName;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Default destination: the name of a peer.
    pub destination: Option<KeyName>,
    /// Largest bundle that is sent or received, in bytes.
    pub bundle_bytes_max: u64,
    /// Limits on pending and dead receipts, and on their bundles' bytes. A bundle counts once for
    /// each receipt.
    pub pending_max: u64,
    pub pending_bytes_max: u64,
    /// Limits on stored received bundles, and on their bytes.
    pub received_max: u64,
    pub received_bytes_max: u64,
    /// Time after which a receipt expires, unless its sender gives another.
    pub expires_ms: u64,
    /// Number of bundles that are forwarded at once.
    pub concurrency: u64,
    /// Time limit of one attempt. A large bundle gets more.
    pub timeout_ms: u64,
    /// Credit per mebibyte, and per node that has carried the bundle, including this one.
    pub credit_per_mib: u64,
    pub credit_per_hop: u64,
}

impl Settings {
    pub const CONCURRENCY_MAX: u64 = 1_024;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            destination: None,
            bundle_bytes_max: 1 << 30,
            pending_max: 10_000_000,
            pending_bytes_max: 64 << 30,
            received_max: 10_000_000,
            received_bytes_max: 64 << 30,
            expires_ms: 7 * 24 * 60 * 60 * 1_000,
            concurrency: 32,
            timeout_ms: 30_000,
            credit_per_mib: 1_000,
            credit_per_hop: 1,
        }
    }
}
