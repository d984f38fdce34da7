//! Stage one of a burst: what a packet is, whose it is, and which table line it will need.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::Protocol;
use gate64_wire::facts::{FragmentFacts, Ipv4Facts, Ipv6Facts, L4Kind};

use super::established::Plain;
use super::pool4::Slot;
use super::table::PortPlace;
use super::{BATCH_FRAMES_MAX, Context, Hop, Item, Nat64};
use crate::io::FrameArea;
use crate::memory::Probe;
use crate::packet::Packet;
use crate::siit;
use crate::verdict::{DropReason, Refusal, Side, Verdict, WorkerId};

/// How a packet of a burst goes on after stage one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// TCP, UDP or echo from IPv6.
    V6,
    /// TCP, UDP or echo from IPv4.
    V4,
    /// A fragment from IPv6, not an atomic one.
    FragmentV6(FragmentFacts),
    /// A fragment from IPv4, and whether another worker sent it here.
    FragmentV4(FragmentFacts, bool),
    /// An ICMPv6 error.
    ErrorV6,
    /// An ICMPv4 error.
    ErrorV4,
    /// Another worker owns it.
    Elsewhere(WorkerId),
    /// Decided.
    Settled(Verdict, Hop),
}

/// Where the stages keep what they know of a burst, one of each for every packet. What the lane
/// of established sessions needs stands close together.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) lane: Box<[Plain]>,
    pub(super) long: Box<[Place]>,
}

impl Places {
    pub(super) fn new() -> Places {
        Places {
            lane: (0..BATCH_FRAMES_MAX).map(Plain::at).collect(),
            long: Box::new([Place::EMPTY; BATCH_FRAMES_MAX]),
        }
    }
}

/// What stage one found out about a packet before any table line is needed. It is written in
/// place: facts are too large to be handed around for every packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) v6: PreparedV6,
    pub(super) v4: PreparedV4,
}

impl Place {
    pub(super) const EMPTY: Place = Place {
        kind: Kind::Settled(Verdict::Hold, Hop::None),
        v6: PreparedV6 {
            facts: Ipv6Facts::NONE,
            protocol: Protocol::Udp,
            remote: Ipv4Addr::UNSPECIFIED,
            pref64: 0,
            probe: Probe::NOWHERE,
        },
        v4: PreparedV4 {
            facts: Ipv4Facts::NONE,
            protocol: Protocol::Udp,
            slot: 0,
        },
    };
}

#[derive(Debug, Clone, Copy)]
pub(super) struct PreparedV6 {
    pub(super) facts: Ipv6Facts,
    pub(super) protocol: Protocol,
    /// Z: the IPv4 destination.
    pub(super) remote: Ipv4Addr,
    /// Which prefix it was embedded in.
    pub(super) pref64: u8,
    pub(super) probe: Probe,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct PreparedV4 {
    pub(super) facts: Ipv4Facts,
    pub(super) protocol: Protocol,
    pub(super) slot: Slot,
}

impl Nat64 {
    /// Stage one: parse, refuse what content alone decides, find the owner, ask for the first line.
    #[inline(never)]
    pub(super) fn prepare(
        &mut self,
        area: &FrameArea,
        item: &mut Item,
        place: &mut Place,
        context: &Context,
    ) {
        let mut packet = area.packet(&mut item.frame);
        self.prepare_packet(&mut packet, item.side, item.handed_off, place, context);
    }

    pub(super) fn prepare_packet(
        &mut self,
        packet: &mut Packet,
        side: Side,
        handed_off: bool,
        place: &mut Place,
        context: &Context,
    ) {
        let kind = match side {
            Side::V6 => self.prepare_v6(packet.bytes(), &mut place.v6),
            Side::V4 => self.prepare_v4(packet.bytes(), handed_off, &mut place.v4),
        };
        place.kind = match kind {
            // Workers take over a changed pool one after the other: until the last has, two may
            // each take the other for the owner, and the packet would go to and fro.
            Ok(Kind::Elsewhere(_)) if handed_off => {
                let (verdict, hop) =
                    self.refuse(packet, side, DropReason::HandoffLoop.into(), context);
                Kind::Settled(verdict, hop)
            }
            Ok(kind) => kind,
            Err(refusal) if side == Side::V6 && self.clear_suffix(packet, refusal) => {
                return self.prepare_packet(packet, side, handed_off, place, context);
            }
            Err(refusal) => {
                let refusal = self.unless_bypassed(side, &place.v6, refusal);
                let (verdict, hop) = self.refuse(packet, side, refusal, context);
                Kind::Settled(verdict, hop)
            }
        };
    }

    #[inline]
    pub(super) fn prepare_v6(&self, bytes: &[u8], one: &mut PreparedV6) -> Result<Kind, Refusal> {
        one.facts.read(bytes)?;
        let facts = &one.facts;
        (one.pref64, one.remote) = self.pref64_of(facts.dst)?;
        siit::check_v6(facts)?;
        if facts.l4.kind == L4Kind::IcmpError && facts.fragment.is_none() {
            return Ok(Kind::ErrorV6);
        }
        let owner = self.ownership.of_v6(facts.src);
        if owner != self.worker {
            return Ok(Kind::Elsewhere(owner));
        }
        if let Some(fragment) = facts.fragment.filter(is_part) {
            return Ok(Kind::FragmentV6(fragment));
        }
        self.look_up_v6(one)?;
        Ok(Kind::V6)
    }

    /// Asks the memory for the line that the packet's session is found by.
    #[inline]
    pub(super) fn look_up_v6(&self, one: &mut PreparedV6) -> Result<(), Refusal> {
        let facts = &one.facts;
        one.protocol = protocol_of(facts.l4.kind)?;
        one.probe = self.table.probe(facts.src, facts.l4.src_port, one.protocol);
        self.table.prefetch_bucket(one.probe);
        Ok(())
    }

    #[inline]
    pub(super) fn prepare_v4(
        &self,
        bytes: &[u8],
        handed_off: bool,
        one: &mut PreparedV4,
    ) -> Result<Kind, Refusal> {
        one.facts.read(bytes)?;
        let facts = &one.facts;
        one.slot = self.pool.slot(facts.dst).ok_or(DropReason::NotOurs)?;
        if !may_be_source(facts.src) {
            return Err(DropReason::SourceMartian.into());
        }
        siit::check_v4(facts, &self.rules)?;
        if let Some(fragment) = facts.fragment {
            return Ok(Kind::FragmentV4(fragment, handed_off));
        }
        if facts.l4.kind == L4Kind::IcmpError {
            return Ok(Kind::ErrorV4);
        }
        one.protocol = protocol_of(facts.l4.kind)?;
        let port = facts.l4.dst_port;
        let owner = self
            .ownership
            .of_v4(&self.pool, facts.dst, port, one.protocol);
        if owner != self.worker {
            return Ok(Kind::Elsewhere(owner));
        }
        self.table
            .prefetch_place(PortPlace::of(one.slot, port, one.protocol));
        Ok(Kind::V4)
    }

    /// Which prefix the destination is in, and the IPv4 address inside it. Destinations with a
    /// suffix are none of ours until [`Nat64::clear_suffix`] has cleared it.
    #[inline]
    pub(super) fn pref64_of(&self, dst: Ipv6Addr) -> Result<(u8, Ipv4Addr), Refusal> {
        match self.pref64_first.extract_exact(dst) {
            Some(remote) => Ok((0, remote)),
            None => self.further_pref64_of(dst),
        }
    }

    #[cold]
    pub(super) fn further_pref64_of(&self, dst: Ipv6Addr) -> Result<(u8, Ipv4Addr), Refusal> {
        let mut further = (0u8..).zip(&self.config.pref64).skip(1);
        further
            .find_map(|(number, pref64)| Some((number, pref64.extract_exact(dst)?)))
            .ok_or(DropReason::NotOurs.into())
    }

    /// Refuses addresses that no session may have. What has a session was judged when that was
    /// made.
    pub(super) fn check_addresses(
        &self,
        src: Ipv6Addr,
        pref64: u8,
        remote: Ipv4Addr,
    ) -> Result<(), Refusal> {
        self.check_source(src)?;
        if !may_be_source(remote) {
            return Err(DropReason::DestinationMartian.into());
        }
        let strict = self.config.wkp_strict && self.pref64(pref64).is_well_known();
        if strict && !is_global(remote) {
            return Err(DropReason::WkpNonGlobal.into());
        }
        Ok(())
    }

    /// Refuses sources of which nothing is forwarded, translated or not.
    pub(super) fn check_source(&self, src: Ipv6Addr) -> Result<(), Refusal> {
        // RFC 6146 section 3.5: such a packet is dropped silently, or it might loop.
        if self.remote_of(src).is_some() {
            return Err(DropReason::SourceInPref64.into());
        }
        // RFC 4291 section 2.5.6: a router does not forward packets with link-local sources.
        let is_near = src.is_loopback() || src.is_unicast_link_local();
        if src.is_unspecified() || is_near || src.is_multicast() {
            return Err(DropReason::SourceMartian.into());
        }
        Ok(())
    }

    /// Stage two: the line that the first one named.
    #[inline(never)]
    pub(super) fn prefetch(&self, place: &Place) {
        let bib = match place.kind {
            Kind::V6 => self.table.guess(place.v6.probe),
            Kind::V4 => {
                let PreparedV4 {
                    facts,
                    protocol,
                    slot,
                } = &place.v4;
                let port = facts.l4.dst_port;
                self.table.at_place(PortPlace::of(*slot, port, *protocol))
            }
            _ => return,
        };
        self.table.prefetch_bib(bib);
    }
}

/// Which BIB a packet belongs to; refuses what has none.
#[inline]
pub(super) fn protocol_of(kind: L4Kind) -> Result<Protocol, Refusal> {
    match kind {
        L4Kind::Udp => Ok(Protocol::Udp),
        L4Kind::Tcp => Ok(Protocol::Tcp),
        L4Kind::EchoRequest | L4Kind::EchoReply => Ok(Protocol::Icmp),
        L4Kind::LaterFragment => Err(DropReason::FragmentUnmatched.into()),
        L4Kind::IcmpError | L4Kind::IcmpOther => Err(DropReason::IcmpUntranslatable.into()),
        L4Kind::Unknown => Err(DropReason::UnknownProtocol.into()),
    }
}

/// Whether it is one fragment of several: atomic ones are whole packets (RFC 8021).
#[inline]
pub(super) fn is_part(fragment: &FragmentFacts) -> bool {
    fragment.more || fragment.offset > 0
}

/// Whether a host can have this address.
#[inline]
pub(super) fn may_be_source(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    // 0/8, 127/8, 224/4 and 240/4 with the limited broadcast (RFC 1122 section 3.2.1.3).
    first != 0 && first != 127 && first < 224
}

/// Whether RFC 6052 section 3.1 lets the well-known prefix carry the address: not private,
/// shared, link-local, documentation, benchmarking or IETF-reserved (RFC 6890).
pub(super) fn is_global(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    let benchmarking = a == 198 && b & 0xfe == 18;
    let protocol_assignments = a == 192 && b == 0 && c == 0;
    let relay_anycast = a == 192 && b == 88 && c == 99;
    !(ip.is_private() || ip.is_link_local() || ip.is_documentation() || shared || benchmarking)
        && !(protocol_assignments || relay_anycast)
}
