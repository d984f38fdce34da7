//! The way to a destination: next hop and MTU, kept in the session as long as the route snapshot
//! is the same.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::table::SessionRef;
use super::{Context, Hop, IPV4_HEADER, IPV6_HEADER, Nat64};
use crate::route::Lookup;
use crate::verdict::{DropReason, IcmpError, Refusal};

/// What every IPv6 link carries (RFC 8200 section 5).
const IPV6_MTU_MIN: u16 = 1280;

/// Where a packet goes next, and how long it may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub hop: Hop,
    /// Longest IP packet in octets.
    pub mtu: u16,
}

impl Way {
    /// A packet that turns around meets no link yet.
    pub const HAIRPIN: Way = Way {
        hop: Hop::None,
        mtu: u16::MAX,
    };

    fn of(lookup: Lookup, context: &Context) -> Result<Way, Refusal> {
        match lookup {
            Lookup::Hop(hop) => Ok(Way {
                hop: Hop::Resolved(hop),
                mtu: context.routes.hop(hop).mtu,
            }),
            Lookup::Unresolved { port, ip, mtu } => Ok(Way {
                hop: Hop::Unresolved { port, ip },
                mtu,
            }),
            Lookup::NoRoute => Err(Refusal::Reject(DropReason::NoRoute, IcmpError::NoRoute)),
            // The host's own addresses cannot be reached through gate64, nor other interfaces.
            Lookup::Elsewhere | Lookup::Local => Err(Refusal::Reject(
                DropReason::RouteElsewhere,
                IcmpError::AddressUnreachable,
            )),
            Lookup::Unreachable => Err(Refusal::Reject(
                DropReason::NoRoute,
                IcmpError::AddressUnreachable,
            )),
            Lookup::Prohibited => Err(Refusal::Reject(
                DropReason::NoRoute,
                IcmpError::AdminProhibited,
            )),
            Lookup::Blackhole => Err(Refusal::Drop(DropReason::NoRoute)),
        }
    }
}

/// A packet from IPv6 that the IPv4 link does not carry. The MTU is the one that the IPv6 host has
/// to keep to, never below what every IPv6 link carries (RFC 7915 section 5.2).
pub(super) fn too_big_for_v4(mtu: u16) -> Refusal {
    let mtu = mtu
        .saturating_add(IPV6_HEADER - IPV4_HEADER)
        .max(IPV6_MTU_MIN);
    Refusal::Reject(DropReason::PacketTooBig, IcmpError::TooBig { mtu })
}

/// A packet from IPv4 that the IPv6 link does not carry after growing by `growth` octets, the
/// fragment header of a fragment included (RFC 7915 section 4.1).
pub(super) fn too_big_for_v6(growth: u16, mtu: u16) -> Refusal {
    Refusal::Reject(
        DropReason::PacketTooBig,
        IcmpError::TooBig {
            mtu: mtu.saturating_sub(growth),
        },
    )
}

impl Nat64 {
    /// The way to an IPv4 peer.
    #[inline]
    pub(super) fn way_v4(
        &self,
        session: Option<SessionRef>,
        dst: Ipv4Addr,
        context: &Context,
    ) -> Result<Way, Refusal> {
        match self.kept_way(session, true, context) {
            Some(way) => Ok(way),
            None => Way::of(context.routes.route4(dst), context),
        }
    }

    /// The way to a client.
    #[inline]
    pub(super) fn way_v6(
        &self,
        session: Option<SessionRef>,
        dst: Ipv6Addr,
        context: &Context,
    ) -> Result<Way, Refusal> {
        match self.kept_way(session, false, context) {
            Some(way) => Ok(way),
            None => Way::of(context.routes.route6(dst), context),
        }
    }

    #[inline]
    fn kept_way(
        &self,
        session: Option<SessionRef>,
        towards_v4: bool,
        context: &Context,
    ) -> Option<Way> {
        let hop = self
            .table
            .session(session?)
            .hop(context.generation, towards_v4)?;
        // The generation is kept in 16 bits: after 65535 changes a number could be too high.
        let mtu = context.hops.get(usize::from(hop.0))?.mtu;
        Some(Way {
            hop: Hop::Resolved(hop),
            mtu,
        })
    }

    /// Longest IPv6 packet towards a client; without a route, what every link carries.
    pub(super) fn mtu_towards_v6(&self, dst: Ipv6Addr, context: &Context) -> u16 {
        Way::of(context.routes.route6(dst), context).map_or(IPV6_MTU_MIN, |way| way.mtu)
    }

    /// Longest IPv4 packet towards a peer; without a route, as long as Ethernet carries.
    pub(super) fn mtu_towards_v4(&self, dst: Ipv4Addr, context: &Context) -> u16 {
        Way::of(context.routes.route4(dst), context).map_or(1500, |way| way.mtu)
    }
}
