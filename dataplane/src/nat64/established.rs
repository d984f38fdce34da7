//! The lane of established sessions: what nearly every packet takes.
//!
//! A plain packet ([`gate64_wire::plain`]) of a session that it does not change needs little: its
//! session with a next hop of this route snapshot, and a new header. This lane does that
//! and nothing else. What it does not take goes the long way of [`super`], which decides everything
//! and would have done the same with the packets that the lane takes; the tests compare the two.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::checksum::Delta;
use gate64_wire::plain::{PlainL4, PlainV4, PlainV6};

use super::table::{PortPlace, Session};
use super::tcp_state::TcpState;
use super::{Context, Nat64};
use crate::counters;
use crate::memory::Probe;
use crate::packet::{LINK_HEADER_MAX, Packet};
use crate::route::{HopId, Lookup};
use crate::siit::{self, GROWTH, PlainHeader};
use crate::verdict::Side;

/// What the stages after the first need of a plain packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain {
    /// Whether the lane takes the packet; the rest means something only then.
    pub is_taken: bool,
    /// Where the session is found: from IPv6.
    probe: Probe,
    /// Where the session is found: from IPv4.
    place: PortPlace,
    /// The BIB entry that stage two found there, 0 for none.
    bib: u32,
    /// From IPv6: the host.
    src: Ipv6Addr,
    remote: Ipv4Addr,
    /// From IPv6: which prefix the peer was reached by.
    pref64: u8,
    l4: PlainL4,
    pub header: PlainHeader,
    dont_fragment: bool,
}

impl Plain {
    /// What stands in a place before its first packet.
    pub const NONE: Plain = Plain {
        is_taken: false,
        probe: Probe::NOWHERE,
        place: PortPlace::NOWHERE,
        bib: 0,
        src: Ipv6Addr::UNSPECIFIED,
        remote: Ipv4Addr::UNSPECIFIED,
        pref64: 0,
        l4: PlainL4 {
            protocol: Protocol::Udp,
            src_port: 0,
            dst_port: 0,
        },
        header: PlainHeader {
            len: 0,
            traffic_class: 0,
            hop_limit: 0,
        },
        dont_fragment: false,
    };

    /// Of a packet from IPv6: the host's transport address and the peer's.
    #[inline]
    fn ends_v6(&self) -> (TransportAddr6, TransportAddr4) {
        let host = TransportAddr6 {
            ip: self.src,
            port: self.l4.src_port,
        };
        let peer = TransportAddr4 {
            ip: self.remote,
            port: self.l4.dst_port,
        };
        (host, peer)
    }

    /// Of a packet from IPv4: the peer's transport address.
    #[inline]
    fn peer_v4(&self) -> TransportAddr4 {
        TransportAddr4 {
            ip: self.remote,
            port: self.l4.src_port,
        }
    }
}

/// What a run forwarded through the lane: counted once for all of its packets.
#[derive(Debug, Default)]
pub(super) struct Forwarded {
    packets: u64,
    octets: u64,
}

impl Forwarded {
    /// Counts a packet of that many octets, as it came.
    #[inline]
    pub fn count(&mut self, len: u16) {
        self.packets += 1;
        self.octets += u64::from(len);
    }
}

/// The lane's stages for packets from one side.
pub(super) trait Lane {
    /// That side.
    const SIDE: Side;

    /// Stage one: whether the lane may take the packet, by what it says alone. Asks the memory
    /// for the line that its session is found by.
    fn enter(nat64: &Nat64, bytes: &[u8], one: &mut Plain) -> Option<()>;

    /// Stage two: reads that line, and asks for the BIB entry's.
    fn prefetch(nat64: &Nat64, one: &mut Plain);

    /// Stage three: translates the packet; the next hop, or nothing if the packet has to go the
    /// long way. It is then as it came.
    fn pass(
        nat64: &mut Nat64,
        packet: &mut Packet,
        one: &Plain,
        context: &Context,
    ) -> Option<HopId>;

    /// Has the session keep a next hop: for the first packet in a direction, and after a change of
    /// routes. Whether that was what the packet lacked, so that it passes now.
    fn find_hop(nat64: &mut Nat64, one: &Plain, context: &Context) -> bool;
}

/// Packets from IPv6.
pub(super) struct FromV6;

/// Packets from IPv4.
pub(super) struct FromV4;

impl Lane for FromV6 {
    const SIDE: Side = Side::V6;

    #[inline]
    fn enter(nat64: &Nat64, bytes: &[u8], one: &mut Plain) -> Option<()> {
        let plain = PlainV6::read(bytes)?;
        let (pref64, remote) = nat64.pref64_of(plain.dst()).ok()?;
        if nat64.pool.contains(remote) || plain.hop_limit() <= 1 {
            return None;
        }
        let src = plain.src();
        if !nat64.ownership.is_alone() && nat64.ownership.of_v6(src) != nat64.worker {
            return None;
        }
        let l4 = plain.l4;
        one.probe = nat64.table.probe(src, l4.src_port, l4.protocol);
        nat64.table.prefetch_bucket(one.probe);
        one.src = src;
        one.remote = remote;
        one.pref64 = pref64;
        one.l4 = l4;
        one.header = PlainHeader {
            len: plain.len,
            traffic_class: plain.traffic_class(),
            hop_limit: plain.hop_limit(),
        };
        Some(())
    }

    #[inline]
    fn prefetch(nat64: &Nat64, one: &mut Plain) {
        one.bib = nat64.table.guess(one.probe);
        nat64.table.prefetch_bib(one.bib);
    }

    #[inline]
    fn pass(
        nat64: &mut Nat64,
        packet: &mut Packet,
        one: &Plain,
        context: &Context,
    ) -> Option<HopId> {
        let (host, dst) = one.ends_v6();
        let protocol = one.l4.protocol;
        let met = nat64
            .table
            .meet_v6(one.bib, one.probe, host, protocol, dst)?;
        let (hop, mtu) = kept_hop(met.session, protocol, true, context)?;
        // The session's difference of checksums holds for the prefix that it was made with.
        if one.header.len - GROWTH > mtu || met.session.pref64 != one.pref64 {
            return None;
        }
        met.session.seen = context.tick.0;
        let delta = Delta::from_bits(met.session.delta);
        let outgoing = Tuple4 {
            src: met.v4,
            dst,
            protocol,
        };
        nat64.identification = nat64.identification.wrapping_add(1);
        let id = nat64.identification;
        siit::plain_v6_to_v4(packet, &one.header, &outgoing, delta, &nat64.rules, id);
        Some(hop)
    }

    #[cold]
    fn find_hop(nat64: &mut Nat64, one: &Plain, context: &Context) -> bool {
        let (host, dst) = one.ends_v6();
        let protocol = one.l4.protocol;
        let met = nat64.table.meet_v6(one.bib, one.probe, host, protocol, dst);
        met.is_some_and(|met| {
            let found = context.routes.route4(one.remote);
            keep_hop(met.session, protocol, true, found, context)
        })
    }
}

impl Lane for FromV4 {
    const SIDE: Side = Side::V4;

    #[inline]
    fn enter(nat64: &Nat64, bytes: &[u8], one: &mut Plain) -> Option<()> {
        let plain = PlainV4::read(bytes)?;
        let (dst, l4) = (plain.dst(), plain.l4);
        let slot = nat64.pool.slot(dst)?;
        if plain.ttl() <= 1 {
            return None;
        }
        let ownership = &nat64.ownership;
        if !ownership.is_alone()
            && ownership.of_v4(&nat64.pool, dst, l4.dst_port, l4.protocol) != nat64.worker
        {
            return None;
        }
        one.place = PortPlace::of(slot, l4.dst_port, l4.protocol);
        nat64.table.prefetch_place(one.place);
        one.remote = plain.src();
        one.l4 = l4;
        one.header = PlainHeader {
            len: plain.len,
            traffic_class: plain.tos(),
            hop_limit: plain.ttl(),
        };
        one.dont_fragment = plain.dont_fragment();
        Some(())
    }

    #[inline]
    fn prefetch(nat64: &Nat64, one: &mut Plain) {
        one.bib = nat64.table.at_place(one.place);
        nat64.table.prefetch_bib(one.bib);
    }

    #[inline]
    fn pass(
        nat64: &mut Nat64,
        packet: &mut Packet,
        one: &Plain,
        context: &Context,
    ) -> Option<HopId> {
        if packet.headroom() < usize::from(GROWTH) + LINK_HEADER_MAX {
            return None;
        }
        let PlainL4 {
            protocol, src_port, ..
        } = one.l4;
        let peer = one.peer_v4();
        // Number 0 is no entry and has no session.
        let met = nat64.table.meet_v4(one.bib, peer)?;
        let (hop, mtu) = kept_hop(met.session, protocol, false, context)?;
        let limit = if one.dont_fragment {
            mtu
        } else {
            mtu.min(nat64.rules.ipv6_mtu_lowest)
        };
        if one.header.len.saturating_add(GROWTH) > limit {
            return None;
        }
        met.session.seen = context.tick.0;
        let delta = Delta::from_bits(met.session.delta).reverse();
        let (dst, pref64) = (met.v6, met.session.pref64);
        let src = TransportAddr6 {
            ip: nat64.pref64(pref64).embed(one.remote),
            port: src_port,
        };
        let outgoing = Tuple6 { src, dst, protocol };
        siit::plain_v4_to_v6(packet, &one.header, &outgoing, delta, &nat64.rules);
        Some(hop)
    }

    #[cold]
    fn find_hop(nat64: &mut Nat64, one: &Plain, context: &Context) -> bool {
        let met = nat64.table.meet_v4(one.bib, one.peer_v4());
        met.is_some_and(|met| {
            let found = context.routes.route6(met.v6.ip);
            keep_hop(met.session, one.l4.protocol, false, found, context)
        })
    }
}

impl Nat64 {
    /// Counts what a run forwarded through the lane.
    pub(super) fn count_lane(&mut self, side: Side, forwarded: &Forwarded) {
        self.counters
            .add(counters::packets_forwarded(side.index()), forwarded.packets);
        self.counters
            .add(counters::bytes_forwarded(side.index()), forwarded.octets);
    }
}

/// The next hop that the session keeps and its MTU, if they are of this snapshot and the session
/// is in a state that plain packets leave as it is.
#[inline]
fn kept_hop(
    session: &Session,
    protocol: Protocol,
    towards_v4: bool,
    context: &Context,
) -> Option<(HopId, u16)> {
    // A UDP session has but one state.
    if protocol == Protocol::Tcp && session.state != TcpState::Established as u8 {
        return None;
    }
    let hop = session.hop(context.generation, towards_v4)?;
    // The generation is kept in 16 bits: after 65536 changes a number could be too high.
    Some((hop, context.routes.hops().get(usize::from(hop.0))?.mtu))
}

/// Has the session keep what the routes say, unless it kept that already. Whether packets of it
/// pass now and did not before.
fn keep_hop(
    session: &mut Session,
    protocol: Protocol,
    towards_v4: bool,
    found: Lookup,
    context: &Context,
) -> bool {
    let Lookup::Hop(hop) = found else {
        return false;
    };
    if kept_hop(session, protocol, towards_v4, context).is_some() {
        return false;
    }
    session.keep_hop(context.generation, towards_v4, hop);
    kept_hop(session, protocol, towards_v4, context).is_some()
}
