//! From the kernel's routes to a [`RouteTable`]: of each prefix the route that the kernel would
//! take. Tables `local` and `main` count; rules and other tables are not looked at.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gate64_dataplane::route::{Leg, PortId, Route, RouteKind, RouteTable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteType, RouteVia,
};

const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// The metric that an IPv6 route without one has.
const METRIC_V6_DEFAULT: u32 = 1024;

/// Which route of a prefix is taken: `local` before `main`, then the lowest metric.
type Rank = (bool, u32);

/// Collects routes.
pub struct Rib<'a> {
    /// The interfaces that gate64 holds, by kernel index.
    ports: &'a HashMap<u32, PortId>,
    best: HashMap<(IpAddr, u8), (Rank, Route)>,
    /// Whether routes by other interfaces are passed over.
    held_only: bool,
}

impl<'a> Rib<'a> {
    pub fn new(ports: &'a HashMap<u32, PortId>) -> Rib<'a> {
        Rib {
            ports,
            best: HashMap::new(),
            held_only: false,
        }
    }

    /// Passes over routes by interfaces that gate64 does not hold, as the kernel does for a socket
    /// that is bound to a device.
    pub fn held_only(self, held_only: bool) -> Rib<'a> {
        Rib { held_only, ..self }
    }

    /// Adds a route, if it is one that counts and none better is there.
    pub fn add(&mut self, message: &RouteMessage) {
        let Some((prefix, rank, route)) = self.read(message) else {
            return;
        };
        match self.best.get(&prefix) {
            // Of equals the kernel takes the first.
            Some((best, _)) if *best <= rank => {}
            _ => {
                self.best.insert(prefix, (rank, route));
            }
        }
    }

    /// The table of the best routes.
    pub fn into_table(self) -> RouteTable {
        let mut table = RouteTable::default();
        for ((ip, length), (_, route)) in self.best {
            match ip {
                IpAddr::V4(v4) => table.insert4(v4, length, route),
                IpAddr::V6(v6) => table.insert6(v6, length, route),
            }
        }
        table
    }

    fn read(&self, message: &RouteMessage) -> Option<((IpAddr, u8), Rank, Route)> {
        let header = &message.header;
        let parts = Parts::read(message);
        let table = parts.table.unwrap_or(u32::from(header.table));
        // A route for one type of service or one source prefix is not for all packets; a clone
        // is an entry of the IPv6 path MTU cache.
        let is_special = header.tos != 0
            || header.source_prefix_length != 0
            || header.flags.contains(RouteFlags::Cloned);
        if is_special || !matches!(table, TABLE_MAIN | TABLE_LOCAL) {
            return None;
        }
        let (any, metric_default) = match header.address_family {
            AddressFamily::Inet => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            AddressFamily::Inet6 => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), METRIC_V6_DEFAULT),
            _ => return None,
        };
        let prefix = (
            parts.destination.unwrap_or(any),
            header.destination_prefix_length,
        );
        let rank = (table != TABLE_LOCAL, parts.metric.unwrap_or(metric_default));
        let route = Route {
            kind: self.kind(header.kind, &parts)?,
            mtu: parts.mtu,
            prefsrc: parts.prefsrc,
        };
        Some((prefix, rank, route))
    }

    /// None if the route cannot be used at present: all its next hops are dead.
    fn kind(&self, kind: RouteType, parts: &Parts<'_>) -> Option<RouteKind> {
        match kind {
            RouteType::Unicast => self.via(parts),
            RouteType::Local | RouteType::Anycast => Some(RouteKind::Local),
            RouteType::Broadcast | RouteType::Multicast | RouteType::BlackHole => {
                Some(RouteKind::Blackhole)
            }
            RouteType::Unreachable => Some(RouteKind::Unreachable),
            RouteType::Prohibit => Some(RouteKind::Prohibited),
            // "Not in this table": the next one is `default`, which is not looked at.
            RouteType::Throw => Some(RouteKind::NoRoute),
            _ => Some(RouteKind::Elsewhere),
        }
    }

    fn via(&self, parts: &Parts<'_>) -> Option<RouteKind> {
        let single = NextHopParts {
            index: parts.oif,
            gateway: parts.gateway,
            weight: 1,
            is_encapsulated: parts.is_encapsulated,
            is_dead: parts.is_dead,
        };
        let several = parts.multipath.iter().map(NextHopParts::read);
        let alive: Vec<NextHopParts> = if parts.multipath.is_empty() {
            vec![single]
        } else {
            several.collect()
        }
        .into_iter()
        .filter(|hop| !hop.is_dead)
        .collect();
        if alive.is_empty() {
            return None;
        }
        let legs: Vec<Leg> = alive.iter().filter_map(|hop| self.leg(hop)).collect();
        if legs.is_empty() && self.held_only {
            return None;
        }
        Some(if legs.is_empty() {
            RouteKind::Elsewhere
        } else {
            RouteKind::Via(legs)
        })
    }

    fn leg(&self, hop: &NextHopParts) -> Option<Leg> {
        if hop.is_encapsulated {
            return None;
        }
        Some(Leg {
            port: *self.ports.get(&hop.index?)?,
            gateway: hop.gateway,
            weight: hop.weight,
        })
    }
}

/// The attributes of a route that count.
#[derive(Default)]
struct Parts<'a> {
    destination: Option<IpAddr>,
    table: Option<u32>,
    metric: Option<u32>,
    oif: Option<u32>,
    gateway: Option<IpAddr>,
    prefsrc: Option<IpAddr>,
    mtu: Option<u16>,
    multipath: &'a [RouteNextHop],
    is_encapsulated: bool,
    is_dead: bool,
}

impl<'a> Parts<'a> {
    fn read(message: &'a RouteMessage) -> Parts<'a> {
        let mut parts = Parts {
            is_dead: message.header.flags.contains(RouteFlags::Dead),
            ..Parts::default()
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(ip) => parts.destination = ip_of(ip),
                RouteAttribute::Table(table) => parts.table = Some(*table),
                RouteAttribute::Priority(metric) => parts.metric = Some(*metric),
                RouteAttribute::Oif(index) => parts.oif = Some(*index),
                RouteAttribute::PrefSource(ip) => parts.prefsrc = ip_of(ip),
                RouteAttribute::Metrics(metrics) => parts.mtu = metrics.iter().find_map(mtu),
                RouteAttribute::MultiPath(hops) => parts.multipath = hops,
                RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => {
                    parts.is_encapsulated = true;
                }
                other => parts.gateway = parts.gateway.or(gateway(other)),
            }
        }
        parts
    }
}

struct NextHopParts {
    index: Option<u32>,
    gateway: Option<IpAddr>,
    weight: u16,
    is_encapsulated: bool,
    is_dead: bool,
}

impl NextHopParts {
    fn read(hop: &RouteNextHop) -> NextHopParts {
        let is_encap = |attribute: &RouteAttribute| {
            matches!(
                attribute,
                RouteAttribute::EncapType(_) | RouteAttribute::Encap(_)
            )
        };
        NextHopParts {
            index: Some(hop.interface_index),
            gateway: hop.attributes.iter().find_map(gateway),
            weight: u16::from(hop.hops) + 1,
            is_encapsulated: hop.attributes.iter().any(is_encap),
            is_dead: hop.flags.contains(RouteNextHopFlags::Dead),
        }
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(ip) => ip_of(ip),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn mtu(metric: &RouteMetric) -> Option<u16> {
    match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(u16::try_from(*mtu).unwrap_or(u16::MAX)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: RouteType, prefix: [u8; 4], length: u8) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = length;
        message.header.table = 254;
        message.header.kind = kind;
        let destination = RouteAddress::Inet(prefix.into());
        message
            .attributes
            .push(RouteAttribute::Destination(destination));
        message
    }

    fn next_hop(index: u32, last: u8) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        hop.interface_index = index;
        let gateway = RouteAddress::Inet([192, 0, 2, last].into());
        hop.attributes.push(RouteAttribute::Gateway(gateway));
        hop
    }

    fn multipath(hops: Vec<RouteNextHop>) -> RouteMessage {
        let mut message = message(RouteType::Unicast, [10, 0, 0, 0], 8);
        message.attributes.push(RouteAttribute::MultiPath(hops));
        message
    }

    /// The route to 10.0.0.0/8, if interface 3 is PortId(0).
    fn kind_of(messages: &[RouteMessage]) -> Option<RouteKind> {
        let ports = HashMap::from([(3, PortId(0))]);
        let mut rib = Rib::new(&ports);
        for message in messages {
            rib.add(message);
        }
        let prefix = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8);
        rib.best.remove(&prefix).map(|(_, route)| route.kind)
    }

    #[test]
    fn a_multipath_route_keeps_the_legs_that_are_held_and_alive() {
        let mut dead = next_hop(3, 2);
        dead.flags = RouteNextHopFlags::Dead;
        let mut heavy = next_hop(3, 3);
        heavy.hops = 4;
        let kind = kind_of(&[multipath(vec![next_hop(3, 1), dead, heavy, next_hop(9, 4)])]);
        let Some(RouteKind::Via(legs)) = kind else {
            panic!("{kind:?}");
        };
        let told: Vec<_> = legs
            .iter()
            .map(|leg| (leg.gateway.unwrap().to_string(), leg.weight))
            .collect();
        assert_eq!(
            told,
            [("192.0.2.1".to_string(), 1), ("192.0.2.3".to_string(), 5)]
        );
    }

    #[test]
    fn a_route_whose_next_hops_are_all_dead_gives_way_to_the_next_metric() {
        let mut dead = next_hop(3, 2);
        dead.flags = RouteNextHopFlags::Dead;
        let mut backup = message(RouteType::BlackHole, [10, 0, 0, 0], 8);
        backup.attributes.push(RouteAttribute::Priority(500));
        assert_eq!(
            kind_of(&[multipath(vec![dead]), backup]),
            Some(RouteKind::Blackhole)
        );
    }

    #[test]
    fn routes_for_some_packets_only_and_of_other_tables_do_not_count() {
        let mut tos = message(RouteType::BlackHole, [10, 0, 0, 0], 8);
        tos.header.tos = 0x10;
        let mut other = message(RouteType::BlackHole, [10, 0, 0, 0], 8);
        other.attributes.push(RouteAttribute::Table(1000));
        assert_eq!(kind_of(&[tos, other]), None);
    }

    #[test]
    fn a_tunnel_route_leads_elsewhere() {
        use netlink_packet_route::route::RouteLwEnCapType;
        let mut tunnel = message(RouteType::Unicast, [10, 0, 0, 0], 8);
        tunnel.attributes.push(RouteAttribute::Oif(3));
        assert!(matches!(
            kind_of(&[tunnel.clone()]),
            Some(RouteKind::Via(_))
        ));
        tunnel
            .attributes
            .push(RouteAttribute::EncapType(RouteLwEnCapType::Mpls));
        assert_eq!(kind_of(&[tunnel]), Some(RouteKind::Elsewhere));
    }

    #[test]
    fn the_local_table_comes_first_and_then_the_first_of_equals() {
        let mut local = message(RouteType::Local, [10, 0, 0, 0], 8);
        local.header.table = 255;
        local.attributes.push(RouteAttribute::Priority(900));
        let main = message(RouteType::BlackHole, [10, 0, 0, 0], 8);
        let later = message(RouteType::Prohibit, [10, 0, 0, 0], 8);
        assert_eq!(
            kind_of(&[main.clone(), later.clone()]),
            Some(RouteKind::Blackhole)
        );
        assert_eq!(kind_of(&[main, local, later]), Some(RouteKind::Local));
    }
}
