//! The embedded network, as tables: namespaces, links, addresses, routes and kernel settings.
//!
//! ```text
//!  g64-client ── lan[g64-gateway]wan ── g64-router1 ══ g64-router2 ── g64-internet
//!  IPv6 only        │ipv6               IPv4 only   wide: MTU 1500    IPv4 only
//!                g64-ipv6                           narrow: MTU 1280
//! ```
//!
//! All addresses are documentation addresses (RFC 5737, RFC 3849).

use std::net::{Ipv4Addr, Ipv6Addr};

/// A namespace of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Namespace {
    /// The IPv6-only host.
    Client,
    /// gate64.
    Gateway,
    /// The first IPv4 router after the gateway.
    Router1,
    /// The second, reached over a wide and a narrow link.
    Router2,
    /// The IPv4-only servers.
    Internet,
    /// A native IPv6 server, reached without translation.
    Ipv6,
}

impl Namespace {
    /// All of them, in the order in which they are made.
    pub(super) const ALL: [Namespace; 6] = [
        Namespace::Client,
        Namespace::Gateway,
        Namespace::Router1,
        Namespace::Router2,
        Namespace::Internet,
        Namespace::Ipv6,
    ];

    /// Its name for `ip netns`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Namespace::Client => "g64-client",
            Namespace::Gateway => "g64-gateway",
            Namespace::Router1 => "g64-router1",
            Namespace::Router2 => "g64-router2",
            Namespace::Internet => "g64-internet",
            Namespace::Ipv6 => "g64-ipv6",
        }
    }

    /// The name server that its programs ask.
    pub(super) fn resolver(self) -> &'static str {
        match self {
            Namespace::Client | Namespace::Ipv6 => "2001:db8:1::1",
            _ => "203.0.113.53",
        }
    }
}

/// The client's address.
pub(super) const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
/// The gateway's address towards the client; also its DNS64's.
pub(super) const GATEWAY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// The native IPv6 server.
pub(super) const NATIVE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 6, 0, 0, 0, 0, 0x80);
/// The first IPv4 router, as the gateway sees it.
pub(super) const ROUTER1: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The second IPv4 router, as the first sees it over the wide link.
pub(super) const ROUTER2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 6);
/// The IPv4-only server.
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Another address of it, which no client has ever sent to.
pub(super) const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
/// The authoritative name server.
pub(super) const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);
/// The server behind the path whose MTU is 1280.
pub(super) const NARROW: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 130);
/// The pool address of the static BIB entries.
pub(super) const STATIC_POOL4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
/// The client's port behind the static TCP entry; the same on the pool address.
pub(super) const STATIC_TCP_PORT: u16 = 8080;
/// The client's port behind the static UDP entry; the same on the pool address.
pub(super) const STATIC_UDP_PORT: u16 = 7000;
/// MTU of the narrow link.
pub(super) const NARROW_MTU: u16 = 1280;

/// How an IPv4 address looks to the client: 64:ff9b::/96 and the address.
pub(super) fn in_pref64(v4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = v4.octets();
    Ipv6Addr::new(
        0x64,
        0xff9b,
        0,
        0,
        0,
        0,
        u16::from_be_bytes([a, b]),
        u16::from_be_bytes([c, d]),
    )
}

/// One end of a veth pair.
pub(super) struct End {
    pub(super) namespace: Namespace,
    pub(super) interface: &'static str,
}

/// A veth pair.
pub(super) struct Link {
    pub(super) ends: [End; 2],
    pub(super) mtu: u16,
}

const fn link(a: (Namespace, &'static str), b: (Namespace, &'static str), mtu: u16) -> Link {
    Link {
        ends: [
            End {
                namespace: a.0,
                interface: a.1,
            },
            End {
                namespace: b.0,
                interface: b.1,
            },
        ],
        mtu,
    }
}

/// The gateway's interfaces that gate64 works on.
pub(super) const GATEWAY_INTERFACES: [&str; 2] = ["lan", "wan"];

pub(super) const LINKS: [Link; 6] = [
    link(
        (Namespace::Client, "eth0"),
        (Namespace::Gateway, "lan"),
        1500,
    ),
    link(
        (Namespace::Gateway, "wan"),
        (Namespace::Router1, "gateway"),
        1500,
    ),
    link(
        (Namespace::Router1, "wide"),
        (Namespace::Router2, "wide"),
        1500,
    ),
    link(
        (Namespace::Router1, "narrow"),
        (Namespace::Router2, "narrow"),
        NARROW_MTU,
    ),
    link(
        (Namespace::Router2, "servers"),
        (Namespace::Internet, "eth0"),
        1500,
    ),
    link(
        (Namespace::Gateway, "ipv6"),
        (Namespace::Ipv6, "eth0"),
        1500,
    ),
];

/// Interface addresses.
pub(super) const ADDRESSES: [(Namespace, &str, &str); 15] = [
    (Namespace::Client, "eth0", "2001:db8:1::10/64"),
    (Namespace::Gateway, "lan", "2001:db8:1::1/64"),
    (Namespace::Gateway, "wan", "198.51.100.1/30"),
    (Namespace::Gateway, "ipv6", "2001:db8:6::1/64"),
    (Namespace::Ipv6, "eth0", "2001:db8:6::80/64"),
    (Namespace::Router1, "gateway", "198.51.100.2/30"),
    (Namespace::Router1, "wide", "198.51.100.5/30"),
    (Namespace::Router1, "narrow", "198.51.100.9/30"),
    (Namespace::Router2, "wide", "198.51.100.6/30"),
    (Namespace::Router2, "narrow", "198.51.100.10/30"),
    (Namespace::Router2, "servers", "203.0.113.1/24"),
    (Namespace::Internet, "eth0", "203.0.113.10/24"),
    (Namespace::Internet, "eth0", "203.0.113.11/24"),
    (Namespace::Internet, "eth0", "203.0.113.53/24"),
    (Namespace::Internet, "eth0", "203.0.113.130/24"),
];

/// Routes and rules, as arguments of `ip`.
pub(super) const ROUTES: [(Namespace, &str); 10] = [
    (Namespace::Client, "-6 route add default via 2001:db8:1::1"),
    (Namespace::Ipv6, "-6 route add default via 2001:db8:6::1"),
    (Namespace::Gateway, "-4 route add default via 198.51.100.2"),
    // The pool is routed to the gateway: nobody answers ARP for it.
    (
        Namespace::Router1,
        "-4 route add 192.0.2.0/24 via 198.51.100.1",
    ),
    (
        Namespace::Router1,
        "-4 route add 203.0.113.0/24 via 198.51.100.6",
    ),
    (
        Namespace::Router1,
        "-4 route add 203.0.113.130/32 via 198.51.100.10",
    ),
    (Namespace::Router2, "-4 route add default via 198.51.100.5"),
    // What the server behind the narrow link sends goes back over it.
    (
        Namespace::Router2,
        "-4 route add default via 198.51.100.9 table 100",
    ),
    (
        Namespace::Router2,
        "-4 rule add from 203.0.113.130/32 lookup 100",
    ),
    (Namespace::Internet, "-4 route add default via 203.0.113.1"),
];

/// Kernel settings, set before any interface is there; without a namespace, in each.
pub(super) const SETTINGS: [(Option<Namespace>, &str, &str); 15] = [
    (None, "net/ipv6/conf/all/accept_dad", "0"),
    (None, "net/ipv6/conf/default/accept_dad", "0"),
    (None, "net/ipv6/conf/default/router_solicitations", "0"),
    (None, "net/ipv4/conf/all/rp_filter", "0"),
    (None, "net/ipv4/conf/default/rp_filter", "0"),
    // Every probe of a traceroute gets its answer.
    (None, "net/ipv4/icmp_ratelimit", "0"),
    (None, "net/ipv6/icmp/ratelimit", "0"),
    (
        Some(Namespace::Gateway),
        "net/ipv6/conf/all/forwarding",
        "1",
    ),
    (Some(Namespace::Gateway), "net/ipv4/ip_forward", "0"),
    (Some(Namespace::Router1), "net/ipv4/ip_forward", "1"),
    (Some(Namespace::Router2), "net/ipv4/ip_forward", "1"),
    (
        Some(Namespace::Router1),
        "net/ipv6/conf/default/disable_ipv6",
        "1",
    ),
    (
        Some(Namespace::Router2),
        "net/ipv6/conf/default/disable_ipv6",
        "1",
    ),
    (
        Some(Namespace::Internet),
        "net/ipv6/conf/default/disable_ipv6",
        "1",
    ),
    (
        Some(Namespace::Internet),
        "net/ipv6/conf/all/disable_ipv6",
        "1",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_on_a_link_of_its_namespace() {
        for (namespace, interface, address) in ADDRESSES {
            let known = interface == "lo"
                || LINKS
                    .iter()
                    .flat_map(|link| &link.ends)
                    .any(|end| end.namespace == namespace && end.interface == interface);
            assert!(known, "{address} is on no link");
        }
    }

    #[test]
    fn a_pref64_address_is_the_prefix_and_the_ipv4_address() {
        assert_eq!(in_pref64(SERVER).to_string(), "64:ff9b::cb00:710a");
    }
}
