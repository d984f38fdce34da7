//! Routes, neighbours and links as a worker sees them: one immutable snapshot with a number.
//!
//! `control` builds a snapshot from the kernel by netlink and publishes it; a worker looks a
//! destination up once per session and keeps the [`HopId`] as long as the number is the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use prefix_trie::PrefixMap;

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

/// What a route says of its destinations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Out of interfaces that gate64 holds, by one leg or several (multipath); never none.
    Via(Vec<Leg>),
    /// As if there were none, not even a shorter prefix (`throw`).
    NoRoute,
    /// As [`Lookup::Elsewhere`].
    Elsewhere,
    /// As [`Lookup::Local`].
    Local,
    /// As [`Lookup::Unreachable`].
    Unreachable,
    /// As [`Lookup::Prohibited`].
    Prohibited,
    /// As [`Lookup::Blackhole`].
    Blackhole,
}

/// One way of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leg {
    /// The interface.
    pub port: PortId,
    /// The gateway, of either family (RFC 8950); `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Share of the destinations, from 1.
    pub weight: u16,
}

/// A route without its prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// Where to.
    pub kind: RouteKind,
    /// The route's own MTU (`ip route … mtu`), if any.
    pub mtu: Option<u16>,
    /// Address to send from (`ip route … src`), if any.
    pub prefsrc: Option<IpAddr>,
}

impl Route {
    /// A route of that kind with nothing else said.
    pub fn new(kind: RouteKind) -> Route {
        Route {
            kind,
            mtu: None,
            prefsrc: None,
        }
    }

    /// By a gateway.
    pub fn via(port: PortId, gateway: IpAddr) -> Route {
        Route::new(RouteKind::Via(vec![Leg {
            port,
            gateway: Some(gateway),
            weight: 1,
        }]))
    }

    /// The destinations are on the link.
    pub fn on_link(port: PortId) -> Route {
        Route::new(RouteKind::Via(vec![Leg {
            port,
            gateway: None,
            weight: 1,
        }]))
    }

    /// The same with an MTU of its own.
    #[must_use]
    pub fn with_mtu(mut self, mtu: u16) -> Route {
        self.mtu = Some(mtu);
        self
    }

    /// The same with an address to send from.
    #[must_use]
    pub fn with_prefsrc(mut self, prefsrc: IpAddr) -> Route {
        self.prefsrc = Some(prefsrc);
        self
    }
}

/// Prefixes of both families. Equal routes are kept once, so that a table of a million prefixes
/// with a few gateways costs little more than its prefixes.
#[derive(Clone, Default)]
pub struct RouteTable {
    v4: PrefixMap<(u32, u8), u32>,
    v6: PrefixMap<(u128, u8), u32>,
    routes: Vec<Route>,
    ids: HashMap<Route, u32>,
    leads_out: (bool, bool),
}

impl RouteTable {
    /// Sets the route of an IPv4 prefix; `length` at most 32, host bits are ignored.
    pub fn insert4(&mut self, prefix: Ipv4Addr, length: u8, route: Route) {
        self.leads_out.0 |= matches!(route.kind, RouteKind::Via(_)) && !prefix.is_multicast();
        let id = self.intern(route);
        self.v4.insert((prefix.to_bits(), length.min(32)), id);
    }

    /// Sets the route of an IPv6 prefix; `length` at most 128, host bits are ignored.
    pub fn insert6(&mut self, prefix: Ipv6Addr, length: u8, route: Route) {
        let beyond_link = !prefix.is_unicast_link_local() && !prefix.is_multicast();
        self.leads_out.1 |= matches!(route.kind, RouteKind::Via(_)) && beyond_link;
        let id = self.intern(route);
        self.v6.insert((prefix.to_bits(), length.min(128)), id);
    }

    /// Number of prefixes, IPv4 and IPv6.
    pub fn len(&self) -> (usize, usize) {
        (self.v4.len(), self.v6.len())
    }

    /// Whether a prefix that hosts can have leads out of an interface that gate64 holds: IPv4,
    /// IPv6. A prefix set anew with another kind of route still counts; tables are built once.
    pub fn leads_out(&self) -> (bool, bool) {
        self.leads_out
    }

    /// Whether there are no prefixes.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// The distinct gateways of all routes.
    pub fn gateways(&self) -> HashSet<(PortId, IpAddr)> {
        self.legs()
            .filter_map(|(_, leg)| Some((leg.port, leg.gateway?)))
            .collect()
    }

    fn intern(&mut self, route: Route) -> u32 {
        if let Some(&id) = self.ids.get(&route) {
            return id;
        }
        let id = u32::try_from(self.routes.len()).expect("fewer than 2^32 distinct routes");
        self.routes.push(route.clone());
        self.ids.insert(route, id);
        id
    }

    fn find4(&self, dst: Ipv4Addr) -> Option<&Route> {
        let (_, &id) = self.v4.get_lpm(&(dst.to_bits(), 32))?;
        self.routes.get(id as usize)
    }

    fn find6(&self, dst: Ipv6Addr) -> Option<&Route> {
        let (_, &id) = self.v6.get_lpm(&(dst.to_bits(), 128))?;
        self.routes.get(id as usize)
    }

    /// Every leg of every distinct route, with the route.
    fn legs(&self) -> impl Iterator<Item = (&Route, &Leg)> {
        self.routes.iter().flat_map(|route| {
            let legs = match &route.kind {
                RouteKind::Via(legs) => legs.as_slice(),
                _ => &[],
            };
            legs.iter().map(move |leg| (route, leg))
        })
    }
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

/// Collects what a [`RouteSnapshot`] is made of.
#[derive(Default)]
pub struct RouteSnapshotBuilder {
    ports: Vec<Port>,
    table: Arc<RouteTable>,
    neighbors: Vec<(PortId, IpAddr, [u8; 6])>,
}

impl RouteSnapshotBuilder {
    /// Adds the next interface: the first is `PortId(0)`.
    #[must_use]
    pub fn port(mut self, port: Port) -> RouteSnapshotBuilder {
        self.ports.push(port);
        self
    }

    /// Takes all routes from a table, which is shared and not copied.
    #[must_use]
    pub fn table(mut self, table: Arc<RouteTable>) -> RouteSnapshotBuilder {
        self.table = table;
        self
    }

    /// Sets the route of an IPv4 prefix.
    #[must_use]
    pub fn route4(mut self, prefix: Ipv4Addr, length: u8, route: Route) -> RouteSnapshotBuilder {
        Arc::make_mut(&mut self.table).insert4(prefix, length, route);
        self
    }

    /// Sets the route of an IPv6 prefix.
    #[must_use]
    pub fn route6(mut self, prefix: Ipv6Addr, length: u8, route: Route) -> RouteSnapshotBuilder {
        Arc::make_mut(&mut self.table).insert6(prefix, length, route);
        self
    }

    /// Adds a neighbour with its MAC address.
    #[must_use]
    pub fn neighbor(mut self, port: PortId, ip: IpAddr, mac: [u8; 6]) -> RouteSnapshotBuilder {
        self.neighbors.push((port, ip, mac));
        self
    }

    /// The snapshot with that number; 0 becomes 1.
    pub fn build(self, generation: u32) -> RouteSnapshot {
        let mut snapshot = RouteSnapshot {
            generation: generation.max(1),
            ports: self.ports,
            table: self.table,
            hops: Vec::new(),
            hop_ids: HashMap::new(),
            hops_left_out: 0,
        };
        let gateways = snapshot.table.gateways();
        let mtus = route_mtus(&snapshot.table);
        let (first, rest): (Vec<_>, Vec<_>) = self
            .neighbors
            .into_iter()
            .partition(|&(port, ip, _)| gateways.contains(&(port, ip)));
        for (port, ip, mac) in first.into_iter().chain(rest) {
            snapshot.add_neighbor(port, ip, mac, &mtus);
        }
        snapshot
    }
}

impl RouteSnapshot {
    fn add_neighbor(
        &mut self,
        port: PortId,
        ip: IpAddr,
        mac: [u8; 6],
        mtus: &HashMap<(PortId, Option<IpAddr>), HashSet<u16>>,
    ) {
        let Some(link) = self.ports.get(usize::from(port.0)) else {
            return;
        };
        if !link.is_up {
            return;
        }
        let by_gateway = mtus.get(&(port, Some(ip)));
        let on_link = mtus.get(&(port, None));
        let route_mtus = by_gateway.into_iter().chain(on_link).flatten();
        let mut hop = NextHop {
            port,
            destination_mac: mac,
            source_mac: link.mac,
            vlan: link.vlan,
            mtu: link.mtu,
        };
        let wanted: Vec<u16> = std::iter::once(link.mtu)
            .chain(route_mtus.map(|&mtu| effective_mtu(link, Some(mtu))))
            .collect();
        for mtu in wanted {
            hop.mtu = mtu;
            self.add_hop(ip, hop);
        }
    }

    fn add_hop(&mut self, ip: IpAddr, hop: NextHop) {
        let key = (hop.port, ip, hop.mtu);
        if self.hop_ids.contains_key(&key) {
            return;
        }
        match u16::try_from(self.hops.len()) {
            Ok(id) if HopId(id) != HopId::NONE => {
                self.hop_ids.insert(key, HopId(id));
                self.hops.push(hop);
            }
            _ => self.hops_left_out += 1,
        }
    }
}

/// The MTUs that routes set, by interface and gateway; on-link routes have no gateway.
fn route_mtus(table: &RouteTable) -> HashMap<(PortId, Option<IpAddr>), HashSet<u16>> {
    let mut mtus: HashMap<_, HashSet<u16>> = HashMap::new();
    for (route, leg) in table.legs() {
        if let Some(mtu) = route.mtu {
            mtus.entry((leg.port, leg.gateway)).or_default().insert(mtu);
        }
    }
    mtus
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

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(0);
    const B: PortId = PortId(1);

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn mac(last: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, last]
    }

    fn port(name: &str, mtu: u16, addresses: &[(&str, u8)]) -> Port {
        Port {
            name: name.into(),
            index: 7,
            mac: mac(0xaa),
            mtu,
            is_up: true,
            vlan: None,
            addresses: addresses
                .iter()
                .map(|&(address, length)| InterfaceAddress {
                    ip: ip(address),
                    length,
                })
                .collect(),
        }
    }

    fn two_ports() -> RouteSnapshotBuilder {
        RouteSnapshot::builder()
            .port(port("a", 1500, &[("2001:db8::1", 64), ("fe80::1", 64)]))
            .port(port("b", 9000, &[("192.0.2.1", 24), ("198.51.100.1", 24)]))
    }

    fn hop_of(snapshot: &RouteSnapshot, lookup: Lookup) -> NextHop {
        match lookup {
            Lookup::Hop(id) => *snapshot.hop(id),
            other => panic!("not a hop: {other:?}"),
        }
    }

    #[test]
    fn the_longest_prefix_decides() {
        let snapshot = two_ports()
            .route4(v4("0.0.0.0"), 0, Route::via(B, ip("192.0.2.254")))
            .route4(v4("203.0.113.0"), 24, Route::new(RouteKind::Blackhole))
            .route4(v4("203.0.113.7"), 32, Route::new(RouteKind::Local))
            .route4(v4("10.0.0.0"), 8, Route::new(RouteKind::Elsewhere))
            .route4(v4("10.1.0.0"), 16, Route::new(RouteKind::Unreachable))
            .route4(v4("10.1.1.0"), 24, Route::new(RouteKind::Prohibited))
            .neighbor(B, ip("192.0.2.254"), mac(1))
            .build(5);
        assert_eq!(snapshot.generation(), 5);
        let hop = hop_of(&snapshot, snapshot.route4(v4("8.8.8.8")));
        assert_eq!(
            (hop.port, hop.destination_mac, hop.source_mac, hop.mtu),
            (B, mac(1), mac(0xaa), 9000)
        );
        assert_eq!(snapshot.route4(v4("203.0.113.9")), Lookup::Blackhole);
        assert_eq!(snapshot.route4(v4("203.0.113.7")), Lookup::Local);
        assert_eq!(snapshot.route4(v4("10.9.9.9")), Lookup::Elsewhere);
        assert_eq!(snapshot.route4(v4("10.1.9.9")), Lookup::Unreachable);
        assert_eq!(snapshot.route4(v4("10.1.1.9")), Lookup::Prohibited);
        assert_eq!(snapshot.route6(v6("2001:db8::9")), Lookup::NoRoute);
    }

    #[test]
    fn on_link_the_destination_is_the_neighbor() {
        let snapshot = two_ports()
            .route6(v6("2001:db8::"), 64, Route::on_link(A))
            .neighbor(A, ip("2001:db8::9"), mac(9))
            .build(1);
        let hop = hop_of(&snapshot, snapshot.route6(v6("2001:db8::9")));
        assert_eq!((hop.port, hop.destination_mac), (A, mac(9)));
        assert_eq!(
            snapshot.route6(v6("2001:db8::a")),
            Lookup::Unresolved {
                port: A,
                ip: ip("2001:db8::a"),
                mtu: 1500
            }
        );
    }

    #[test]
    fn a_link_local_gateway_belongs_to_its_interface() {
        let snapshot = two_ports()
            .route6(v6("::"), 0, Route::via(A, ip("fe80::99")))
            .route6(v6("2001:db8:b::"), 48, Route::via(B, ip("fe80::99")))
            .neighbor(A, ip("fe80::99"), mac(1))
            .neighbor(B, ip("fe80::99"), mac(2))
            .build(1);
        assert_eq!(
            hop_of(&snapshot, snapshot.route6(v6("2001:db8:a::1"))).destination_mac,
            mac(1)
        );
        assert_eq!(
            hop_of(&snapshot, snapshot.route6(v6("2001:db8:b::1"))).destination_mac,
            mac(2)
        );
    }

    #[test]
    fn an_ipv4_route_may_have_an_ipv6_gateway() {
        let snapshot = two_ports()
            .route4(v4("0.0.0.0"), 0, Route::via(B, ip("fe80::99")))
            .neighbor(B, ip("fe80::99"), mac(2))
            .build(1);
        assert_eq!(
            hop_of(&snapshot, snapshot.route4(v4("8.8.8.8"))).destination_mac,
            mac(2)
        );
    }

    #[test]
    fn a_route_mtu_lowers_the_links_and_never_raises_it() {
        let gateway = ip("192.0.2.254");
        let snapshot = two_ports()
            .route4(v4("0.0.0.0"), 0, Route::via(B, gateway))
            .route4(v4("10.0.0.0"), 8, Route::via(B, gateway).with_mtu(1280))
            .route4(v4("11.0.0.0"), 8, Route::via(B, gateway).with_mtu(65000))
            .route4(v4("192.0.2.0"), 25, Route::on_link(B).with_mtu(1400))
            .neighbor(B, gateway, mac(1))
            .neighbor(B, ip("192.0.2.5"), mac(5))
            .build(1);
        let mtu = |dst| hop_of(&snapshot, snapshot.route4(v4(dst))).mtu;
        assert_eq!(
            (
                mtu("8.8.8.8"),
                mtu("10.0.0.1"),
                mtu("11.0.0.1"),
                mtu("192.0.2.5")
            ),
            (9000, 1280, 9000, 1400)
        );
        assert_eq!(
            snapshot.route4(v4("192.0.2.6")),
            Lookup::Unresolved {
                port: B,
                ip: ip("192.0.2.6"),
                mtu: 1400
            }
        );
    }

    #[test]
    fn multipath_spreads_by_weight_and_avoids_unresolved_neighbors() {
        let leg = |last: u8, weight| Leg {
            port: B,
            gateway: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))),
            weight,
        };
        let route = Route::new(RouteKind::Via(vec![leg(1, 1), leg(2, 3)]));
        let all = two_ports()
            .route4(v4("0.0.0.0"), 0, route)
            .neighbor(B, ip("192.0.2.1"), mac(1))
            .neighbor(B, ip("192.0.2.2"), mac(2));
        let snapshot = all.build(1);
        let by_second = (0..10_000u32)
            .filter(|n| {
                let dst = Ipv4Addr::from_bits(0x0800_0000 + n);
                assert_eq!(
                    snapshot.route4(dst),
                    snapshot.route4(dst),
                    "the same path each time"
                );
                hop_of(&snapshot, snapshot.route4(dst)).destination_mac == mac(2)
            })
            .count();
        assert!(
            (7200..7800).contains(&by_second),
            "{by_second} of 10000, not about 3 in 4"
        );

        let one_left = RouteSnapshot::builder()
            .port(snapshot.ports()[0].clone())
            .port(snapshot.ports()[1].clone())
            .table(Arc::clone(&snapshot.table))
            .neighbor(B, ip("192.0.2.1"), mac(1))
            .build(2);
        for n in 0..100u32 {
            let lookup = one_left.route4(Ipv4Addr::from_bits(0x0800_0000 + n));
            assert_eq!(hop_of(&one_left, lookup).destination_mac, mac(1));
        }
    }

    #[test]
    fn an_interface_that_is_down_has_no_next_hops() {
        let mut down = port("b", 1500, &[]);
        down.is_up = false;
        let snapshot = RouteSnapshot::builder()
            .port(down)
            .route4(v4("0.0.0.0"), 0, Route::via(A, ip("192.0.2.254")))
            .neighbor(A, ip("192.0.2.254"), mac(1))
            .build(1);
        assert!(matches!(
            snapshot.route4(v4("8.8.8.8")),
            Lookup::Unresolved { .. }
        ));
    }

    #[test]
    fn sources_come_from_the_route_then_the_interface_then_anywhere() {
        let snapshot = two_ports()
            .route4(v4("0.0.0.0"), 0, Route::via(B, ip("192.0.2.254")))
            .route4(v4("198.51.100.0"), 24, Route::on_link(B))
            .route4(
                v4("10.0.0.0"),
                8,
                Route::via(B, ip("192.0.2.254")).with_prefsrc(ip("203.0.113.1")),
            )
            .route6(v6("::"), 0, Route::via(A, ip("fe80::99")))
            .route6(v6("fe80::"), 10, Route::on_link(A))
            .route6(v6("2001:db8:b::"), 48, Route::on_link(B))
            .build(1);
        assert_eq!(snapshot.source_v4(v4("8.8.8.8")), Some(v4("192.0.2.1")));
        assert_eq!(
            snapshot.source_v4(v4("198.51.100.7")),
            Some(v4("198.51.100.1"))
        );
        assert_eq!(snapshot.source_v4(v4("10.0.0.1")), Some(v4("203.0.113.1")));
        assert_eq!(
            snapshot.source_v6(v6("2001:db8:a::1")),
            Some(v6("2001:db8::1"))
        );
        assert_eq!(snapshot.source_v6(v6("fe80::5")), Some(v6("fe80::1")));
        assert_eq!(
            snapshot.source_v6(v6("2001:db8:b::1")),
            Some(v6("2001:db8::1")),
            "B has no IPv6 address"
        );
        assert_eq!(snapshot.port_source_v6(B, v6("2001:db8::9")), None);
        assert_eq!(RouteSnapshot::default().source_v4(v4("8.8.8.8")), None);
    }

    #[test]
    fn equal_routes_are_kept_once() {
        let mut table = RouteTable::default();
        for n in 0..10_000u32 {
            table.insert4(
                Ipv4Addr::from_bits(n << 8),
                24,
                Route::via(B, ip("192.0.2.254")),
            );
        }
        assert_eq!(table.len(), (10_000, 0));
        assert_eq!(table.routes.len(), 1);
        assert_eq!(table.gateways().len(), 1);
    }

    #[test]
    fn neighbors_beyond_the_last_id_stay_unresolved_and_gateways_come_first() {
        let gateway = ip("2001:db8::ffff:ffff");
        let mut builder = two_ports()
            .route6(v6("::"), 0, Route::via(A, gateway))
            .route6(v6("2001:db8::"), 64, Route::on_link(A));
        for n in 0..HOP_COUNT_MAX + 10 {
            let neighbor = Ipv6Addr::from_bits(v6("2001:db8::").to_bits() + n as u128);
            builder = builder.neighbor(A, IpAddr::V6(neighbor), mac(1));
        }
        let snapshot = builder.neighbor(A, gateway, mac(2)).build(1);
        assert_eq!(snapshot.hops().len(), HOP_COUNT_MAX);
        assert_eq!(snapshot.hops_left_out(), 11);
        assert_eq!(
            hop_of(&snapshot, snapshot.route6(v6("2001:db9::1"))).destination_mac,
            mac(2)
        );
    }

    #[test]
    fn a_snapshots_number_is_never_zero() {
        assert_eq!(RouteSnapshot::builder().build(0).generation(), 1);
        assert_eq!(RouteSnapshot::default().generation(), 1);
    }
}
