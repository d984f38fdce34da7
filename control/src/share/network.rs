//! The network that is shared: what was chosen once, at the start, and does not change.

use std::net::Ipv6Addr;
use std::time::Duration;

use gate64_wire::rfc6052::Pref64;

use super::ra::message::Preference;

/// What clients have besides the translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, to see whether an application can do without IPv4: every name leads through NAT64.
    Test,
    /// Nothing, because the upstream has no IPv6.
    Ipv4Only,
    /// Native IPv6 from a prefix that is routed to this host.
    Routed,
    /// Native IPv6 from the upstream's own /64, with this host answering for the clients.
    Proxied,
    /// Native IPv6 while the upstream's network delegates a prefix.
    Delegated,
}

impl Kind {
    /// Whether the kernel forwards native IPv6 all the time.
    pub fn has_native(self) -> bool {
        matches!(self, Kind::Routed | Kind::Proxied)
    }

    /// For the status line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Test => "test: every name by NAT64, no native IPv6",
            Kind::Ipv4Only => "the upstream has no IPv6: every name by NAT64",
            Kind::Routed => "native IPv6 from a routed prefix",
            Kind::Proxied => "native IPv6 from the upstream's /64",
            Kind::Delegated => "native IPv6 while a prefix is delegated (asked for by DHCPv6)",
        }
    }
}

/// A /64 that clients make addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnouncedPrefix {
    /// The prefix.
    pub address: Ipv6Addr,
    /// Whether clients reach each other without the router.
    pub on_link: bool,
}

/// The network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The interface towards the Internet.
    pub upstream: String,
    /// The interface towards the clients.
    pub downstream: String,
    /// What clients have besides the translator.
    pub kind: Kind,
    /// The /64 of the upstream's own IPv6, if it has any and clients are to have native IPv6.
    pub native: Option<Ipv6Addr>,
    /// Their prefixes.
    pub prefixes: Vec<AnnouncedPrefix>,
    /// This host's address on the downstream interface, where DNS64 answers.
    pub resolver: Ipv6Addr,
    /// DNS search list.
    pub search: Vec<String>,
    /// Translation prefixes.
    pub pref64: Vec<Pref64>,
    /// Routes that are advertised besides the default route: prefix and length.
    pub routes: Vec<(Ipv6Addr, u8)>,
    /// The MTU that is advertised, where it is not the interface's.
    pub mtu: Option<u32>,
    /// MaxRtrAdvInterval.
    pub ra_interval_max: Duration,
    /// Against other routers.
    pub preference: Preference,
    /// The M flag: another host on the link gives addresses by DHCPv6.
    pub managed: bool,
    /// The O flag: DHCPv6 answers here.
    pub dhcpv6: bool,
}
