//! How a snapshot is made of links, routes and neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::{HopId, NextHop, Port, PortId, Route, RouteSnapshot, RouteTable, effective_mtu};

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
