//! Routes, neighbours and links as a worker sees them: one immutable snapshot with a number.
//!
//! `control` builds a snapshot from the kernel by netlink and publishes it; a worker looks a
//! destination up once per session and keeps the [`HopId`] as long as the number is the same.

mod builder;
mod table;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashMap;

pub use self::builder::RouteSnapshotBuilder;
pub use self::table::{Leg, Route, RouteKind, RouteTable};
use crate::config::InterfaceAddress;

/// Index of an interface that gate64 holds, in the order of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u8);

/// Index of a resolved next hop in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HopId(pub u16);

impl HopId {
    /// No next hop: never given by a lookup, free for a session that has none yet.
    pub const NONE: HopId = HopId(u16::MAX);
}

/// Next hops that one snapshot holds: every [`HopId`] but [`HopId::NONE`]. Neighbours beyond
/// (the kernel's default limit is 1024) stay unresolved, gateways last.
pub const HOP_COUNT_MAX: usize = u16::MAX as usize;

/// All that a link header to a neighbour needs, and what the way to it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The interface to send on.
    pub port: PortId,
    /// The neighbour's MAC address.
    pub destination_mac: [u8; 6],
    /// The interface's MAC address.
    pub source_mac: [u8; 6],
    /// The 802.1Q id to write, if any.
    pub vlan: Option<u16>,
    /// Longest IP packet, in octets: the link's MTU, or the route's where that is smaller.
    pub mtu: u16,
}

/// Where a destination leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// To this next hop; see [`RouteSnapshot::hop`].
    Hop(HopId),
    /// To a neighbour whose MAC address is not known (yet): ask for it.
    Unresolved {
        /// The interface it is on.
        port: PortId,
        /// The neighbour: a gateway, or the destination itself.
        ip: IpAddr,
        /// Longest IP packet on the way, in octets.
        mtu: u16,
    },
    /// No route.
    NoRoute,
    /// To an interface that gate64 does not hold.
    Elsewhere,
    /// The host's own address.
    Local,
    /// A route of type `unreachable`: answer address unreachable.
    Unreachable,
    /// A route of type `prohibit`: answer administratively prohibited.
    Prohibited,
    /// A route of type `blackhole`, or a broadcast address: drop silently.
    Blackhole,
}

/// An interface that gate64 holds, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its kernel index; 0 while it is missing.
    pub index: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU in octets; larger ones count as 65535.
    pub mtu: u16,
    /// Whether it is up and has a carrier. Otherwise it has no next hops.
    pub is_up: bool,
    /// The 802.1Q id that gate64 writes and reads, if any.
    pub vlan: Option<u16>,
    /// Its addresses that packets may be sent from, the preferred first.
    pub addresses: Vec<InterfaceAddress>,
}

/// Links, routes and neighbours at one moment.
pub struct RouteSnapshot {
    generation: u32,
    ports: Vec<Port>,
    table: Arc<RouteTable>,
    hops: Vec<NextHop>,
    /// By interface, neighbour and MTU: routes with an MTU of their own have hops of their own.
    hop_ids: HashMap<(PortId, IpAddr, u16), HopId>,
    hops_left_out: usize,
}

impl Default for RouteSnapshot {
    /// No interfaces, no routes; number 1.
    fn default() -> RouteSnapshot {
        RouteSnapshot::builder().build(1)
    }
}

impl RouteSnapshot {
    /// Starts an empty snapshot.
    pub fn builder() -> RouteSnapshotBuilder {
        RouteSnapshotBuilder::default()
    }

    /// The snapshot's number, never 0. A [`HopId`] belongs to the snapshot it was found in.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The interfaces, by [`PortId`].
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// One interface.
    #[inline]
    pub fn port(&self, port: PortId) -> Option<&Port> {
        self.ports.get(usize::from(port.0))
    }

    /// The routes.
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// All next hops, by [`HopId`].
    pub fn hops(&self) -> &[NextHop] {
        &self.hops
    }

    /// Next hops for which there was no room; see [`HOP_COUNT_MAX`].
    pub fn hops_left_out(&self) -> usize {
        self.hops_left_out
    }

    /// A next hop that a lookup in this very snapshot gave.
    ///
    /// # Panics
    /// If `hop` came from another snapshot or is [`HopId::NONE`].
    #[inline]
    pub fn hop(&self, hop: HopId) -> &NextHop {
        &self.hops[usize::from(hop.0)]
    }

    /// The next hop to a neighbour with its link's MTU, if its MAC address is known.
    pub fn hop_to(&self, port: PortId, ip: IpAddr) -> Option<HopId> {
        let mtu = self.port(port)?.mtu;
        self.hop_ids.get(&(port, ip, mtu)).copied()
    }

    /// Where an IPv4 destination leads.
    pub fn route4(&self, dst: Ipv4Addr) -> Lookup {
        self.resolve(self.table.find4(dst), IpAddr::V4(dst))
    }

    /// Where an IPv6 destination leads.
    pub fn route6(&self, dst: Ipv6Addr) -> Lookup {
        self.resolve(self.table.find6(dst), IpAddr::V6(dst))
    }

    /// The host's own address to send to `dst` from: the route's, else that of the interface the
    /// route leaves by, else any interface's.
    pub fn source_v4(&self, dst: Ipv4Addr) -> Option<Ipv4Addr> {
        let route = self.table.find4(dst);
        if let Some(IpAddr::V4(prefsrc)) = route.and_then(|route| route.prefsrc) {
            return Some(prefsrc);
        }
        self.leg(route, IpAddr::V4(dst))
            .and_then(|(leg, _)| self.port_source_v4(leg.port, dst))
            .or_else(|| {
                let all = self.ports.iter().flat_map(|port| &port.addresses);
                all.filter_map(v4_of).map(|(ip, _)| ip).next()
            })
    }

    /// As [`RouteSnapshot::source_v4`]; a global address before a link-local one, unless `dst`
    /// is link-local.
    pub fn source_v6(&self, dst: Ipv6Addr) -> Option<Ipv6Addr> {
        let route = self.table.find6(dst);
        if let Some(IpAddr::V6(prefsrc)) = route.and_then(|route| route.prefsrc) {
            return Some(prefsrc);
        }
        let left_by = self
            .leg(route, IpAddr::V6(dst))
            .and_then(|(leg, _)| self.port_source_v6(leg.port, dst));
        match left_by {
            Some(source) if is_link_local(source) == is_link_local(dst) => Some(source),
            // A link-local source does not reach beyond its link (RFC 4291 section 2.5.6).
            _ => self
                .addresses_v6()
                .find(|&source| !is_link_local(source))
                .or(left_by),
        }
    }

    /// The interface's own IPv4 address to send to `dst` from: one of the same subnet, else its
    /// first.
    pub fn port_source_v4(&self, port: PortId, dst: Ipv4Addr) -> Option<Ipv4Addr> {
        let addresses = &self.port(port)?.addresses;
        let mut own = addresses.iter().filter_map(v4_of);
        own.clone()
            .find(|&(ip, length)| common_bits4(ip, dst) >= u32::from(length))
            .or_else(|| own.next())
            .map(|(ip, _)| ip)
    }

    /// The interface's own IPv6 address to send to `dst` from: link-local for a link-local
    /// `dst`, else a global one with the longest common prefix, else whatever it has.
    pub fn port_source_v6(&self, port: PortId, dst: Ipv6Addr) -> Option<Ipv6Addr> {
        let addresses = &self.port(port)?.addresses;
        // RFC 6724 section 5, rules 2 and 8. max_by_key keeps the last of equals, hence reversed.
        addresses
            .iter()
            .rev()
            .filter_map(v6_of)
            .max_by_key(|&source| {
                let common = (source.to_bits() ^ dst.to_bits()).leading_zeros();
                (is_link_local(source) == is_link_local(dst), common)
            })
    }

    fn addresses_v6(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.ports
            .iter()
            .flat_map(|port| port.addresses.iter().filter_map(v6_of))
    }

    fn resolve(&self, route: Option<&Route>, dst: IpAddr) -> Lookup {
        let Some(found) = route else {
            return Lookup::NoRoute;
        };
        match &found.kind {
            RouteKind::Via(_) => match self.leg(route, dst) {
                Some((_, lookup)) => lookup,
                None => Lookup::NoRoute,
            },
            RouteKind::NoRoute => Lookup::NoRoute,
            RouteKind::Elsewhere => Lookup::Elsewhere,
            RouteKind::Local => Lookup::Local,
            RouteKind::Unreachable => Lookup::Unreachable,
            RouteKind::Prohibited => Lookup::Prohibited,
            RouteKind::Blackhole => Lookup::Blackhole,
        }
    }

    /// The leg for a destination: of several, the one its hash names; if that one's neighbour is
    /// not resolved, the next that is.
    fn leg<'a>(&self, route: Option<&'a Route>, dst: IpAddr) -> Option<(&'a Leg, Lookup)> {
        let route = route?;
        let RouteKind::Via(legs) = &route.kind else {
            return None;
        };
        let first = chosen_leg(legs, dst);
        let mut unresolved = None;
        for leg in legs[first..].iter().chain(&legs[..first]) {
            match self.neighbor(leg, route.mtu, dst) {
                Some(Lookup::Hop(hop)) => return Some((leg, Lookup::Hop(hop))),
                Some(lookup) if unresolved.is_none() => unresolved = Some((leg, lookup)),
                _ => {}
            }
        }
        unresolved
    }

    fn neighbor(&self, leg: &Leg, route_mtu: Option<u16>, dst: IpAddr) -> Option<Lookup> {
        let mtu = effective_mtu(self.port(leg.port)?, route_mtu);
        let ip = leg.gateway.unwrap_or(dst);
        Some(match self.hop_ids.get(&(leg.port, ip, mtu)) {
            Some(&hop) => Lookup::Hop(hop),
            None => Lookup::Unresolved {
                port: leg.port,
                ip,
                mtu,
            },
        })
    }
}

fn effective_mtu(port: &Port, route_mtu: Option<u16>) -> u16 {
    route_mtu.map_or(port.mtu, |mtu| mtu.min(port.mtu))
}

/// Index of the leg that a destination's hash names, by weight.
fn chosen_leg(legs: &[Leg], dst: IpAddr) -> usize {
    let total: u64 = legs.iter().map(|leg| u64::from(leg.weight)).sum();
    if legs.len() < 2 || total == 0 {
        return 0;
    }
    let mut left = hash(dst) % total;
    for (index, leg) in legs.iter().enumerate() {
        match left.checked_sub(u64::from(leg.weight)) {
            Some(rest) => left = rest,
            None => return index,
        }
    }
    0
}

/// Spreads addresses evenly. Not keyed: whoever chooses the destination may choose its path.
fn hash(dst: IpAddr) -> u64 {
    let (high, low) = match dst {
        IpAddr::V4(ip) => (0, u64::from(ip.to_bits())),
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let (high, low) = octets.split_at(8);
            let word = |half: &[u8]| half.iter().fold(0, |word, &o| (word << 8) | u64::from(o));
            (word(high), word(low))
        }
    };
    // The finalizer of MurmurHash3.
    let mut mixed = high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low;
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

fn v4_of(address: &InterfaceAddress) -> Option<(Ipv4Addr, u8)> {
    match address.ip {
        IpAddr::V4(ip) => Some((ip, address.length)),
        IpAddr::V6(_) => None,
    }
}

fn v6_of(address: &InterfaceAddress) -> Option<Ipv6Addr> {
    match address.ip {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    }
}

fn common_bits4(a: Ipv4Addr, b: Ipv4Addr) -> u32 {
    (a.to_bits() ^ b.to_bits()).leading_zeros()
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.is_unicast_link_local()
}
