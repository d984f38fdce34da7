//! Routes by prefix, as the kernel's table has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::{HashMap, HashSet};
use prefix_trie::PrefixMap;

use super::PortId;

/// What a route says of its destinations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Out of interfaces that gate64 holds, by one leg or several (multipath); never none.
    Via(Vec<Leg>),
    /// As if there were none, not even a shorter prefix (`throw`).
    NoRoute,
    /// As [`Lookup::Elsewhere`](super::Lookup::Elsewhere).
    Elsewhere,
    /// As [`Lookup::Local`](super::Lookup::Local).
    Local,
    /// As [`Lookup::Unreachable`](super::Lookup::Unreachable).
    Unreachable,
    /// As [`Lookup::Prohibited`](super::Lookup::Prohibited).
    Prohibited,
    /// As [`Lookup::Blackhole`](super::Lookup::Blackhole).
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
    pub(super) routes: Vec<Route>,
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

    pub(super) fn find4(&self, dst: Ipv4Addr) -> Option<&Route> {
        let (_, &id) = self.v4.get_lpm(&(dst.to_bits(), 32))?;
        self.routes.get(id as usize)
    }

    pub(super) fn find6(&self, dst: Ipv6Addr) -> Option<&Route> {
        let (_, &id) = self.v6.get_lpm(&(dst.to_bits(), 128))?;
        self.routes.get(id as usize)
    }

    /// Every leg of every distinct route, with the route.
    pub(super) fn legs(&self) -> impl Iterator<Item = (&Route, &Leg)> {
        self.routes.iter().flat_map(|route| {
            let legs = match &route.kind {
                RouteKind::Via(legs) => legs.as_slice(),
                _ => &[],
            };
            legs.iter().map(move |leg| (route, leg))
        })
    }
}
