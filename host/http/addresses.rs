//! Connection limit per client address, for listeners where the address identifies the client.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::Metrics;

/// One address may hold at most one in `SHARE` of all connections. Many users can share an address,
/// but one address must not be able to use all connections.
const SHARE: u64 = 4;

/// Bits of an IPv6 address that identify a network. One client usually receives all addresses with
/// the same prefix.
const NETWORK_BITS: u32 = 64;

/// Interval between log lines about refused connections, so that a flood of connections does not
/// flood the log.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Counter of the open connections of each address.
#[derive(Clone)]
pub struct Addresses {
    each_max: u64,
    counts: Arc<Mutex<AddressCounts>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct AddressCounts {
    /// Addresses with at least one connection, so there are never more entries than connections.
    open: HashMap<IpAddr, u64>,
    told: Option<Instant>,
}

/// A counted connection. Dropping it frees its slot.
pub struct AddressPermit {
    counts: Arc<Mutex<AddressCounts>>,
    network: IpAddr,
}

impl Addresses {
    /// Creates the counters of a node that accepts at most `connections_max` connections in total.
    pub fn new(connections_max: u64, metrics: Arc<Metrics>) -> Self {
        Self { each_max: (connections_max / SHARE).max(1), counts: Arc::default(), metrics }
    }

    /// Counts one more connection from `address`. Returns `None` if the address already has its
    /// maximum.
    pub fn enter(&self, address: IpAddr) -> Option<AddressPermit> {
        let network = network_of(address);
        let mut counts = lock(&self.counts);
        let open = counts.open.get(&network).copied().unwrap_or(0);
        if open < self.each_max {
            counts.open.insert(network, open + 1);
            return Some(AddressPermit { counts: self.counts.clone(), network });
        }
        self.metrics.connection_refused();
        if counts.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            counts.told = Some(Instant::now());
            tracing::warn!(
                %network,
                "closed a connection at once, as others for a while now: an address may have {} of them", self.each_max
            );
        }
        None
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        match counts.open.get_mut(&self.network) {
            Some(open) if *open > 1 => *open -= 1,
            _ => drop(counts.open.remove(&self.network)),
        }
    }
}

fn lock(counts: &Mutex<AddressCounts>) -> MutexGuard<'_, AddressCounts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the network that counts as one client. A dual-stack socket reports an IPv4 address as an
/// IPv6 address; both forms give the same network.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - NETWORK_BITS))).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn of_connections(connections_max: u64) -> Addresses {
        Addresses::new(connections_max, Arc::new(Metrics::new(0)))
    }

    #[test]
    fn one_address_has_a_quarter_and_the_others_theirs() {
        let addresses = of_connections(12);
        let mut first: Vec<AddressPermit> = (0..3).map(|_| addresses.enter(address("192.0.2.1")).unwrap()).collect();
        assert!(addresses.enter(address("192.0.2.1")).is_none());
        assert!(addresses.enter(address("::ffff:192.0.2.1")).is_none(), "the same in another form");
        let other = addresses.enter(address("::ffff:192.0.2.2")).unwrap();
        drop(first.pop());
        first.push(addresses.enter(address("192.0.2.1")).unwrap());
        assert!(addresses.enter(address("192.0.2.1")).is_none());
        drop((first, other));
        assert!(lock(&addresses.counts).open.is_empty(), "who is gone is forgotten");
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one() {
        let addresses = of_connections(8);
        let entered = ["2001:db8::1", "2001:db8::ffff:0:0:2"].map(|text| addresses.enter(address(text)).unwrap());
        assert!(addresses.enter(address("2001:db8::3")).is_none());
        assert!(addresses.enter(address("2001:db8:0:1::3")).is_some());
        assert_eq!(lock(&addresses.counts).open.len(), 1);
        drop(entered);
        assert!(addresses.enter(address("2001:db8::3")).is_some());
    }

    #[test]
    fn one_may_always_enter() {
        let addresses = of_connections(1);
        let entered = addresses.enter(address("192.0.2.1"));
        assert!(entered.is_some() && addresses.enter(address("192.0.2.1")).is_none());
    }
}
