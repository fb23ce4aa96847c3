//! Detection of a missing network, as the reason why a peer was not reached.

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use rustix::io::Errno;

/// Addresses that are reserved for documentation (RFC 5737, RFC 3849). A machine with a route to
/// them has a route to the Internet.
const FAR: [SocketAddr; 2] = [
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// Returns whether `error` means that there is no network. If there is no route to an IP address,
/// there is no network. With a host name there are other causes: the name may be unknown, or this
/// machine may lack a route for the IP version of one of its addresses. A missing local address can
/// have other causes, too. In these cases, there is no network only if [`has_route`] is false.
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

/// Returns whether this machine has a route to the Internet, by either version of IP. Sends
/// nothing: connecting a UDP socket only looks up the route.
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
