//! Whether a peer was not reached because there is no network here at all.

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use rustix::io::Errno;

/// Addresses that are kept for documents (RFC 5737, RFC 3849): whoever has a way to them has one to the world.
const FAR: [SocketAddr; 2] = [
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// What `error` says of the network. Where a number has no way there, there is none. But a name may not be known, one of
/// its addresses be of a kind that this machine has no way to, and an address of its own be wanting for other reasons:
/// then there is no network only if there is no way to anywhere.
pub fn is(error: &(dyn Error + 'static), is_dns: bool, is_named: bool, has_route: impl Fn() -> bool) -> bool {
    let is_one_of = |of: &[Errno]| {
        let mut causes = std::iter::successors(Some(error), |&error| error.source());
        causes.any(|error| {
            let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            of.iter().any(|errno| Some(errno.raw_os_error()) == code)
        })
    };
    let no_way = is_one_of(&[Errno::NETUNREACH, Errno::NETDOWN]);
    (no_way && !is_named) || ((no_way || is_dns || is_one_of(&[Errno::ADDRNOTAVAIL])) && !has_route())
}

/// Whether this machine has a way to the world, by either version of IP. Nothing is sent: for UDP, connecting only looks
/// up the way.
pub fn has_route() -> bool {
    let connects = |to: &SocketAddr| {
        let any: SocketAddr =
            if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        UdpSocket::bind(any).and_then(|socket| socket.connect(to)).is_ok()
    };
    FAR.iter().any(connects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("around it")]
    struct Around {
        #[source]
        cause: io::Error,
    }

    #[test]
    fn no_network_is_told_from_a_peer_that_is_not_there() {
        let wrapped = |errno: Errno| Around { cause: errno.into() };
        for errno in [Errno::NETUNREACH, Errno::NETDOWN] {
            assert!(is(&wrapped(errno), false, false, || unreachable!()), "{errno}, a number");
            assert!(is(&wrapped(errno), false, true, || false), "{errno}, a name");
            assert!(!is(&wrapped(errno), false, true, || true), "{errno}: one of its addresses has no way");
        }
        for is_named in [true, false] {
            assert!(is(&wrapped(Errno::ADDRNOTAVAIL), false, is_named, || false), "nor an address of its own");
            assert!(!is(&wrapped(Errno::ADDRNOTAVAIL), false, is_named, || true), "all its ports are taken");
        }
        for errno in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::TIMEDOUT, Errno::CONNRESET] {
            for is_named in [true, false] {
                assert!(!is(&wrapped(errno), false, is_named, || false), "{errno}");
            }
        }
        let lookup = io::Error::other("failed to lookup address information");
        assert!(is(&lookup, true, true, || false), "nobody can be asked for a name");
        assert!(!is(&lookup, true, true, || true), "the name is wrong, or the resolver");
    }
}
