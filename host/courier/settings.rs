//! What the node's owner has set for the courier.

use serde::Deserialize;

use crate::key::KeyName;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where a bundle goes whose sender says nothing else: a peer's name.
    pub destination: Option<KeyName>,
    /// The largest bundle that is sent or received.
    pub bundle_bytes_max: u64,
    /// What may be pending or dead: receipts, and bytes of bundles, each counted as often as it is to be sent.
    pub pending_max: u64,
    pub pending_bytes_max: u64,
    /// What may be here of what was received: bundles, and their bytes.
    pub received_max: u64,
    pub received_bytes_max: u64,
    /// How long a receipt is tried for where its sender says nothing else.
    pub expires_ms: u64,
    /// How many bundles are forwarded at once.
    pub concurrency: u64,
    /// How long one try may take; a large bundle's may take longer.
    pub timeout_ms: u64,
    /// What is credited for a mebibyte, and for each node that has carried it, this one among them.
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
