//! The lane of established sessions: what nearly every packet takes.
//!
//! A plain packet ([`gate64_wire::plain`]) of a session that it does not change needs little: its
//! session with a next hop of this route snapshot, and a new header. This lane does that
//! and nothing else. What it does not take goes the long way of [`super`], which decides everything
//! and would have done the same with the packets that the lane takes; the tests compare the two.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::Protocol;
use gate64_wire::checksum::Delta;
use gate64_wire::plain::{Head, PlainV4, PlainV6};

use super::lifetime::STATE_UDP;
use super::table::{Fit, PortPlace, Session};
use super::tcp_state::TcpState;
use super::{BATCH_FRAMES_MAX, Context, Nat64};
use crate::counters;
use crate::memory::Probe;
use crate::packet::{LINK_HEADER_MAX, Window};
use crate::route::{HopId, Lookup};
use crate::siit::{self, GROWTH};
use crate::verdict::{Side, WorkerId};

/// What stage one has decided of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Course {
    /// The long way.
    Long,
    /// The lane from IPv6.
    FromV6,
    /// The lane from IPv4.
    FromV4,
    /// Plain, but another worker's: it has its verdict.
    Elsewhere,
}

/// Whether a lane takes a packet.
pub(super) enum Entry {
    /// Yes.
    Taken,
    /// No, and it goes the long way.
    Long,
    /// It is plain, and that worker owns it.
    Elsewhere(WorkerId),
}

/// What the stages after the first need of a plain packet. What they can read in the packet they
/// read there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain {
    /// Its place in the burst.
    place_in_burst: u8,
    /// Which way the packet goes; the rest means something only in a lane.
    pub course: Course,
    /// Where the session is found: from IPv6.
    probe: Probe,
    /// Where the session is found: from IPv4.
    place: PortPlace,
    /// The BIB entry that stage two found there, 0 for none.
    bib: u32,
    /// Which session it is: of the one state in which plain packets leave it as it is.
    fit: Fit,
}

const _: () = assert!(size_of::<Plain>() <= 32);

impl Plain {
    /// What stands in a place of a burst before its first packet.
    pub fn at(place: usize) -> Plain {
        Plain {
            place_in_burst: u8::try_from(place).unwrap_or(u8::MAX),
            course: Course::Long,
            probe: Probe::NOWHERE,
            place: PortPlace::NOWHERE,
            bib: 0,
            fit: Fit::NONE,
        }
    }

    /// Its place in the burst.
    pub fn place(&self) -> usize {
        usize::from(self.place_in_burst)
    }
}

/// A packet that a lane has translated.
pub(super) struct Passed {
    pub hop: HopId,
    /// Octets of the translated packet.
    len: u16,
}

/// What a run forwarded through the lane: counted once for all of its packets. One sum: packets
/// stand above the octets of the translated packets.
#[derive(Debug, Default)]
pub(super) struct Forwarded(u32);

const OCTET_BITS: u32 = 22;
const _: () = assert!(BATCH_FRAMES_MAX * (u16::MAX as usize) < 1 << OCTET_BITS);
const _: () = assert!(BATCH_FRAMES_MAX < 1 << (u32::BITS - OCTET_BITS));

impl Forwarded {
    /// Counts a packet of a burst.
    #[inline]
    pub fn count(&mut self, passed: &Passed) {
        self.0 = self.0.wrapping_add(1 << OCTET_BITS | u32::from(passed.len));
    }

    /// Packets, and octets of the translated packets.
    fn parts(&self) -> (u64, u64) {
        let octets = self.0 & ((1 << OCTET_BITS) - 1);
        (u64::from(self.0 >> OCTET_BITS), u64::from(octets))
    }
}

/// The lane's stages for packets from one side. A packet is told by the octets around its headers
/// and by its window.
pub(super) trait Lane {
    /// That side.
    const SIDE: Side;

    /// The lane.
    const COURSE: Course;

    /// Octets of the head in front of the packet.
    const BEFORE: u16;

    /// Octets that have to be free in front of the head.
    const ROOM: u16;

    /// Stage one: whether the lane may take the packet, by what it says alone. Asks the memory
    /// for the line that its session is found by. A packet of another worker's is not looked at
    /// further: its owner does that.
    fn enter(nat64: &Nat64, head: &Head, window: Window, one: &mut Plain) -> Entry;

    /// Stage two: reads that line, and asks for the BIB entry's.
    fn prefetch(nat64: &Nat64, one: &mut Plain);

    /// Stage three: translates the packet if it is of a first session that keeps a next hop. With
    /// `FURTHER`, if it is of any session, and has that keep a next hop: for the first packet in a
    /// direction, and after a change of routes. A packet that is not translated stays as it came.
    fn pass<const FURTHER: bool>(
        nat64: &mut Nat64,
        head: &mut Head,
        window: &mut Window,
        one: &Plain,
        context: &Context,
    ) -> Option<Passed>;
}

/// Packets from IPv6.
pub(super) struct FromV6;

/// Packets from IPv4.
pub(super) struct FromV4;

impl Lane for FromV6 {
    const SIDE: Side = Side::V6;
    const COURSE: Course = Course::FromV6;
    const BEFORE: u16 = 0;
    const ROOM: u16 = 0;

    #[inline]
    fn enter(nat64: &Nat64, head: &Head, window: Window, one: &mut Plain) -> Entry {
        let Some((plain, protocol)) = PlainV6::read(head, window.len) else {
            return Entry::Long;
        };
        let Some((pref64, remote)) = nat64.plain_pref64_of(plain.dst()) else {
            return Entry::Long;
        };
        if plain.hop_limit() <= 1 {
            return Entry::Long;
        }
        let src = Ipv6Addr::from(*plain.src());
        if !nat64.is_alone {
            let owner = nat64.ownership.of_v6(src);
            if owner != nat64.worker {
                return Entry::Elsewhere(owner);
            }
        }
        let port = u16::from_be_bytes(*plain.src_port());
        one.probe = nat64.table.probe(src, port, protocol);
        nat64.table.prefetch_bucket(one.probe);
        one.fit = Fit::of(
            remote.octets(),
            plain.dst_port(),
            pref64,
            steady_state(protocol),
        );
        Entry::Taken
    }

    #[inline]
    fn prefetch(nat64: &Nat64, one: &mut Plain) {
        one.bib = nat64.table.guess(one.probe);
        nat64.table.prefetch_bib(one.bib);
    }

    #[inline]
    fn pass<const FURTHER: bool>(
        nat64: &mut Nat64,
        head: &mut Head,
        window: &mut Window,
        one: &Plain,
        context: &Context,
    ) -> Option<Passed> {
        let plain = PlainV6::known(head);
        let host = (plain.src(), plain.src_port());
        let remote = one.fit.remote_ip().into();
        // What turns around has no next hop, and so comes here only as a further packet. A change
        // of the pool has all sessions forget theirs.
        if FURTHER && nat64.pool.contains(remote) {
            return None;
        }
        let met = if FURTHER {
            nat64.table.meet_v6(one.bib, one.probe, host, one.fit)?
        } else {
            nat64.table.first_v6(one.bib, host, one.fit)?
        };
        let kept = kept_hop(met.session, true, context);
        let (hop, mtu) = match kept {
            None if FURTHER => keep_hop(met.session, true, context.routes.route4(remote), context)?,
            kept => kept?,
        };
        let len = plain.payload_len().wrapping_add(GROWTH); // as an IPv4 packet
        if len > mtu {
            return None;
        }
        nat64.identification = nat64.identification.wrapping_add(1);
        let id = nat64.identification.to_ne_bytes();
        met.session.seen = context.tick.0;
        let delta = Delta::from_bits(met.session.delta);
        let src = (met.ends.v4_ip.into(), met.ends.v4_port);
        window.start = window.start.wrapping_add(GROWTH); // the head lies in the chunk
        window.len = len;
        siit::plain_v6_to_v4(head, src, remote, delta, &nat64.rules, id);
        Some(Passed { hop, len })
    }
}

impl Lane for FromV4 {
    const SIDE: Side = Side::V4;
    const COURSE: Course = Course::FromV4;
    const BEFORE: u16 = GROWTH;
    #[allow(clippy::cast_possible_truncation)] // 18
    const ROOM: u16 = LINK_HEADER_MAX as u16;

    #[inline]
    fn enter(nat64: &Nat64, head: &Head, window: Window, one: &mut Plain) -> Entry {
        let Some((plain, protocol)) = PlainV4::read(head, window.len) else {
            return Entry::Long;
        };
        let dst = plain.dst();
        let Some(slot) = nat64.pool.slot(dst) else {
            return Entry::Long;
        };
        if plain.ttl() <= 1 {
            return Entry::Long;
        }
        let port = u16::from_be_bytes(plain.dst_port());
        if !nat64.is_alone {
            let owner = nat64.ownership.of_v4(&nat64.pool, dst, port, protocol);
            if owner != nat64.worker {
                return Entry::Elsewhere(owner);
            }
        }
        one.place = PortPlace::of(slot, port, protocol);
        nat64.table.prefetch_place(one.place);
        one.fit = Fit::of(
            plain.src().octets(),
            plain.src_port(),
            0, // whichever prefix it is
            steady_state(protocol),
        );
        Entry::Taken
    }

    #[inline]
    fn prefetch(nat64: &Nat64, one: &mut Plain) {
        one.bib = nat64.table.at_place(one.place);
        nat64.table.prefetch_bib(one.bib);
    }

    #[inline]
    fn pass<const FURTHER: bool>(
        nat64: &mut Nat64,
        head: &mut Head,
        window: &mut Window,
        one: &Plain,
        context: &Context,
    ) -> Option<Passed> {
        // Number 0 is no entry and has no session.
        let met = if FURTHER {
            nat64.table.meet_v4(one.bib, one.fit)?
        } else {
            nat64.table.first_v4(one.bib, one.fit)?
        };
        let kept = kept_hop(met.session, false, context);
        let (hop, mtu) = match kept {
            None if FURTHER => {
                let found = context.routes.route6(met.ends.v6_ip.into());
                keep_hop(met.session, false, found, context)?
            }
            kept => kept?,
        };
        let plain = PlainV4::known(head);
        let limit = if plain.dont_fragment() {
            mtu
        } else {
            mtu.min(nat64.rules.ipv6_mtu_lowest)
        };
        let len = plain.total_len().checked_add(GROWTH)?; // as an IPv6 packet
        if len > limit {
            return None;
        }
        let pref64 = match met.session.pref64 {
            0 => &nat64.pref64_first,
            further => nat64.config.pref64.get(usize::from(further))?,
        };
        met.session.seen = context.tick.0;
        let delta = Delta::from_bits(met.session.delta).reverse();
        let dst = (&met.ends.v6_ip, met.ends.v6_port);
        let src = pref64.embed_words(one.fit.remote_ip());
        window.start = window.start.wrapping_sub(GROWTH); // the head lies in the chunk
        window.len = len;
        siit::plain_v4_to_v6(head, src, dst, delta, &nat64.rules);
        Some(Passed { hop, len })
    }
}

/// The state that plain packets leave as it is. A UDP session has but one.
#[inline]
fn steady_state(protocol: Protocol) -> u8 {
    if protocol == Protocol::Udp {
        STATE_UDP
    } else {
        TcpState::Established as u8
    }
}

impl Nat64 {
    /// As [`Nat64::pref64_of`], of an address where it lies.
    #[inline]
    fn plain_pref64_of(&self, dst: &[u8; 16]) -> Option<(u8, Ipv4Addr)> {
        match self.pref64_first.extract_96(dst) {
            Some(remote) => Some((0, remote)),
            None => self.other_pref64_of(dst),
        }
    }

    #[cold]
    #[inline(never)]
    fn other_pref64_of(&self, dst: &[u8; 16]) -> Option<(u8, Ipv4Addr)> {
        self.pref64_of(Ipv6Addr::from(*dst)).ok()
    }

    /// Counts what a run forwarded through the lane.
    pub(super) fn count_lane(&mut self, side: Side, forwarded: &Forwarded) {
        let (packets, octets) = forwarded.parts();
        self.counters
            .add(counters::packets_forwarded(side.index()), packets);
        // Octets are counted as they came.
        let growth = packets * u64::from(GROWTH);
        let octets = match side {
            Side::V6 => octets + growth,
            Side::V4 => octets - growth,
        };
        self.counters
            .add(counters::bytes_forwarded(side.index()), octets);
    }
}

/// The next hop that the session keeps and its MTU, if they are of this snapshot.
#[inline]
fn kept_hop(session: &Session, towards_v4: bool, context: &Context) -> Option<(HopId, u16)> {
    let hop = session.hop_or_none(context.generation, towards_v4)?;
    // The generation is kept in 16 bits: after 65535 changes a session that said nothing meanwhile
    // has another's number, which could be too high.
    Some((HopId(hop), context.hops.get(usize::from(hop))?.mtu))
}

/// Has the session keep what the routes say: the hop and its MTU, if there is one.
fn keep_hop(
    session: &mut Session,
    towards_v4: bool,
    found: Lookup,
    context: &Context,
) -> Option<(HopId, u16)> {
    let Lookup::Hop(hop) = found else {
        return None;
    };
    session.keep_hop(context.generation, towards_v4, hop);
    kept_hop(session, towards_v4, context)
}
