//! Stateful NAT64 (RFC 6146): the file to read first.
//!
//! A burst is worked in stages: parse all and ask the memory for their table lines, then for
//! their entries, then translate each. A burst of one takes the same way. The two directions,
//! `v6_to_v4` and `v4_to_v6`, read as the RFC does: refusals that content alone
//! decides come first, then the table (which may refuse: quota, pool, filter), then a write that
//! cannot fail. A refused packet is therefore intact for the ICMP error in answer, and has left
//! no session behind.

mod block;
pub mod class;
mod cut;
pub mod deterministic;
mod established;
mod expiry;
mod filtering;
mod fragment;
mod icmp;
mod invariants;
mod lifetime;
mod listing;
mod offload;
mod outbox;
pub mod ownership;
pub mod plan;
pub mod pool4;
mod ports;
mod probe;
mod relog;
mod scratch;
mod subscriber;
mod suffix;
mod syn_hold;
mod table;
pub mod tcp_state;
mod way;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::checksum::Delta;
use gate64_wire::facts::{FragmentFacts, Ipv4Facts, Ipv6Facts, L4Kind, tcp_flag};
use gate64_wire::rfc6052::Pref64;
use hashbrown::HashMap;

use self::block::Blocks;
use self::class::Classes;
use self::established::{Forwarded, FromV4, FromV6, Lane, Plain};
use self::fragment::Fragments;
use self::icmp::ErrorBudget;
use self::lifetime::LifetimeTable;
use self::outbox::Outbox;
pub use self::outbox::Outgoing;
use self::ownership::Ownership;
use self::plan::Shared;
use self::pool4::{PoolMap, Slot};
use self::relog::Relog;
use self::scratch::Scratch;
use self::subscriber::Subscribers;
use self::syn_hold::SynHold;
use self::table::{PortPlace, SessionRef, Table};
use self::way::Way;
use crate::clock::{Instant, Tick};
use crate::command::Event;
use crate::config::{MssClamp, Nat64Config};
use crate::counters::{self, Counters};
use crate::io::FrameArea;
use crate::memory::Probe;
use crate::packet::{Frame, LINK_HEADER_MAX, Packet};
use crate::route::{HopId, PortId, RouteSnapshot};
use crate::siit;
use crate::verdict::{DropReason, HandoffReason, IcmpError, Refusal, Side, Verdict, WorkerId};

/// Frames worked at once.
pub const BATCH_FRAMES_MAX: usize = 64;

/// Events that wait for the worker to take them; more are lost and counted.
const EVENTS_MAX: usize = 4096;

/// Octets of an IPv6 header.
const IPV6_HEADER: u16 = 40;
/// Place of the hop limit in it.
const HOP_LIMIT_AT: usize = 7;
/// Octets of an IPv4 header without options.
const IPV4_HEADER: u16 = 20;
/// Octets of a TCP header without options.
const TCP_HEADER: u16 = 20;

/// Where a packet leaves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// It does not leave.
    None,
    /// To a next hop of the snapshot in force.
    Resolved(HopId),
    /// To a neighbour that the kernel has to resolve first.
    Unresolved {
        /// Interface.
        port: PortId,
        /// The neighbour.
        ip: IpAddr,
    },
}

/// One packet of a burst: an IP packet in its frame, and what became of it.
#[derive(Debug)]
pub struct Item {
    /// The frame, its window on the IP header.
    pub frame: Frame,
    /// The side it came from.
    pub side: Side,
    /// The interface it came from.
    pub port: PortId,
    /// Whether another worker sent it here.
    pub handed_off: bool,
    /// Set by [`Nat64::process`].
    pub verdict: Verdict,
    /// Set by [`Nat64::process`] for packets that leave.
    pub hop: Hop,
}

/// A burst.
#[derive(Debug)]
pub struct Batch {
    /// At most [`BATCH_FRAMES_MAX`] packets.
    pub items: Vec<Item>,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            items: Vec::with_capacity(BATCH_FRAMES_MAX),
        }
    }
}

/// What holds for a whole burst.
#[derive(Clone, Copy)]
struct Context<'a> {
    routes: &'a RouteSnapshot,
    generation: u16,
    now: Instant,
    tick: Tick,
}

impl<'a> Context<'a> {
    fn new(routes: &'a RouteSnapshot, now: Instant) -> Context<'a> {
        // Sixteen bits of the number are kept in a session; 0 there means none.
        let [.., high, low] = routes.generation().to_be_bytes();
        let generation = u16::from_be_bytes([high, low]).max(1);
        Context {
            routes,
            generation,
            now,
            tick: now.tick(),
        }
    }
}

/// How a packet of a burst goes on after stage one.
#[derive(Debug, Clone, Copy)]
enum Kind {
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
struct Places {
    lane: Box<[Plain]>,
    long: Box<[Place]>,
}

impl Places {
    fn new() -> Places {
        Places {
            lane: Box::new([Plain::NONE; BATCH_FRAMES_MAX]),
            long: Box::new([Place::EMPTY; BATCH_FRAMES_MAX]),
        }
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (&mut Plain, &mut Place)> {
        self.lane.iter_mut().zip(&mut self.long)
    }
}

/// What stage one found out about a packet before any table line is needed. It is written in
/// place: facts are too large to be handed around for every packet.
#[derive(Debug, Clone, Copy)]
struct Place {
    kind: Kind,
    v6: PreparedV6,
    v4: PreparedV4,
}

impl Place {
    const EMPTY: Place = Place {
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
struct PreparedV6 {
    facts: Ipv6Facts,
    protocol: Protocol,
    /// Z: the IPv4 destination.
    remote: Ipv4Addr,
    /// Which prefix it was embedded in.
    pref64: u8,
    probe: Probe,
}

#[derive(Debug, Clone, Copy)]
struct PreparedV4 {
    facts: Ipv4Facts,
    protocol: Protocol,
    slot: Slot,
}

/// One worker's translator: its sessions, its share of the pool, its counters.
#[derive(Debug)]
pub struct Nat64 {
    config: Arc<Nat64Config>,
    /// The first of the configured prefixes, close at hand.
    pref64_first: Pref64,
    rules: siit::Rules,
    lifetimes: LifetimeTable,
    pool: Arc<PoolMap>,
    ownership: Arc<Ownership>,
    worker: WorkerId,
    table: Table,
    blocks: Blocks,
    subscribers: Subscribers,
    /// Under address-dependent filtering: BIB entry and peer of further sessions, with their number.
    permissions: HashMap<(u32, u32), u32>,
    counters: Counters,
    events: VecDeque<Event>,
    error_budget: ErrorBudget,
    clears: listing::Clears,
    cuts: cut::Cuts,
    tops: listing::Tops,
    outbox: Outbox,
    fragments: Fragments,
    syn_hold: SynHold,
    classes: Classes,
    /// Counts reconfigurations: subscribers find their class anew after each.
    class_generation: u32,
    block_idle_ticks: u32,
    block_active_ticks: Option<u32>,
    log_sessions: bool,
    relog: Relog,
    /// Nobody can write the log: what would have to be in it is refused.
    refuse_new: bool,
    recompute_checksums: Vec<bool>,
    identification: u16,
    places: Places,
}

impl Nat64 {
    /// A translator for one worker, with all of its memory reserved.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn new(shared: &Shared, worker: WorkerId) -> Result<Nat64, crate::memory::ArenaError> {
        plan::build(shared, worker)
    }

    /// Translates a burst. Every item gets its verdict and, where it leaves, its next hop.
    pub fn process(
        &mut self,
        area: &FrameArea,
        routes: &RouteSnapshot,
        batch: &mut Batch,
        now: Instant,
    ) {
        let context = Context::new(routes, now);
        // Taken out so that places and tables can be used side by side.
        let mut places = std::mem::take(&mut self.places);
        let items = &mut batch.items;
        // Nearly always all packets of a burst came from the same side.
        let has = [Side::V6, Side::V4].map(|side| items.iter().any(|item| item.side == side));
        if has[0] {
            self.prepare_all::<FromV6>(area, items, &mut places, &context);
        }
        if has[1] {
            self.prepare_all::<FromV4>(area, items, &mut places, &context);
        }
        if has[0] {
            self.prefetch_all::<FromV6>(items, &mut places);
        }
        if has[1] {
            self.prefetch_all::<FromV4>(items, &mut places);
        }
        if has[0] {
            self.translate_all::<FromV6>(area, items, &mut places, &context);
        }
        if has[1] {
            self.translate_all::<FromV4>(area, items, &mut places, &context);
        }
        self.places = places;
    }

    /// Stage one, for the packets of a burst that came from one side.
    #[inline(never)] // a function for each stage and side keeps what its loop needs in registers
    fn prepare_all<L: Lane>(
        &mut self,
        area: &FrameArea,
        items: &mut [Item],
        places: &mut Places,
        context: &Context,
    ) {
        let recompute = self.recompute_checksums.contains(&true);
        for (item, (lane, place)) in items.iter_mut().zip(places.iter_mut()) {
            if item.side != L::SIDE {
                continue;
            }
            if recompute && self.recompute_checksums.get(usize::from(item.port.0)) == Some(&true) {
                recompute_checksum(&mut area.packet(&mut item.frame), item.side);
            }
            lane.is_taken = L::enter(self, area.octets(&item.frame), lane).is_some();
            if !lane.is_taken {
                self.prepare(area, item, place, context);
            }
        }
    }

    /// Stage two, likewise.
    #[inline(never)]
    fn prefetch_all<L: Lane>(&mut self, items: &[Item], places: &mut Places) {
        for (item, (lane, place)) in items.iter().zip(places.iter_mut()) {
            if item.side != L::SIDE {
                continue;
            }
            if lane.is_taken {
                L::prefetch(self, lane);
            } else {
                self.prefetch(place);
            }
        }
    }

    /// Stage three, likewise.
    #[inline(never)]
    fn translate_all<L: Lane>(
        &mut self,
        area: &FrameArea,
        items: &mut [Item],
        places: &mut Places,
        context: &Context,
    ) {
        let mut forwarded = Forwarded::default();
        for (item, (lane, place)) in items.iter_mut().zip(places.iter_mut()) {
            if item.side != L::SIDE {
                continue;
            }
            if lane.is_taken {
                let mut packet = area.packet(&mut item.frame);
                if let Some(hop) = L::pass(self, &mut packet, lane, context) {
                    forwarded.count(lane.header.len);
                    item.verdict = Verdict::Forward(L::SIDE.other());
                    item.hop = Hop::Resolved(hop);
                    continue;
                }
                self.prepare(area, item, place, context);
            }
            self.finish(area, item, place, context);
        }
        self.count_lane(L::SIDE, &forwarded);
    }

    /// Stage one: parse, refuse what content alone decides, find the owner, ask for the first line.
    #[inline(never)]
    fn prepare(&mut self, area: &FrameArea, item: &mut Item, place: &mut Place, context: &Context) {
        let mut packet = area.packet(&mut item.frame);
        self.prepare_packet(&mut packet, item.side, item.handed_off, place, context);
    }

    fn prepare_packet(
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
            Ok(kind) => kind,
            Err(refusal) if side == Side::V6 && self.clear_suffix(packet, refusal) => {
                return self.prepare_packet(packet, side, handed_off, place, context);
            }
            Err(refusal) => {
                let (verdict, hop) = self.refuse(packet, side, refusal, context);
                Kind::Settled(verdict, hop)
            }
        };
    }

    #[inline]
    fn prepare_v6(&self, bytes: &[u8], one: &mut PreparedV6) -> Result<Kind, Refusal> {
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
    fn look_up_v6(&self, one: &mut PreparedV6) -> Result<(), Refusal> {
        let facts = &one.facts;
        one.protocol = protocol_of(facts.l4.kind)?;
        one.probe = self.table.probe(facts.src, facts.l4.src_port, one.protocol);
        self.table.prefetch_bucket(one.probe);
        Ok(())
    }

    #[inline]
    fn prepare_v4(
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
    fn pref64_of(&self, dst: Ipv6Addr) -> Result<(u8, Ipv4Addr), Refusal> {
        match self.pref64_first.extract_exact(dst) {
            Some(remote) => Ok((0, remote)),
            None => self.further_pref64_of(dst),
        }
    }

    #[cold]
    fn further_pref64_of(&self, dst: Ipv6Addr) -> Result<(u8, Ipv4Addr), Refusal> {
        let mut further = (0u8..).zip(&self.config.pref64).skip(1);
        further
            .find_map(|(number, pref64)| Some((number, pref64.extract_exact(dst)?)))
            .ok_or(DropReason::NotOurs.into())
    }

    /// Refuses addresses that no session may have. What has a session was judged when that was
    /// made.
    fn check_addresses(&self, src: Ipv6Addr, pref64: u8, remote: Ipv4Addr) -> Result<(), Refusal> {
        // RFC 6146 section 3.5: such a packet is dropped silently, or it might loop.
        if self.remote_of(src).is_some() {
            return Err(DropReason::SourceInPref64.into());
        }
        // RFC 4291 section 2.5.6: a router does not forward packets with link-local sources.
        let is_near = src.is_loopback() || src.is_unicast_link_local();
        if src.is_unspecified() || is_near || src.is_multicast() {
            return Err(DropReason::SourceMartian.into());
        }
        if !may_be_source(remote) {
            return Err(DropReason::DestinationMartian.into());
        }
        let strict = self.config.wkp_strict && self.pref64(pref64).is_well_known();
        if strict && !is_global(remote) {
            return Err(DropReason::WkpNonGlobal.into());
        }
        Ok(())
    }

    /// Stage two: the line that the first one named.
    #[inline(never)]
    fn prefetch(&self, place: &Place) {
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

    /// Stage three: look up, update, write.
    #[inline(never)]
    fn finish(&mut self, area: &FrameArea, item: &mut Item, place: &Place, context: &Context) {
        let mut packet = area.packet(&mut item.frame);
        (item.verdict, item.hop) = self.translate(&mut packet, item.side, place, context);
    }

    fn translate(
        &mut self,
        packet: &mut Packet,
        side: Side,
        place: &Place,
        context: &Context,
    ) -> (Verdict, Hop) {
        let done = match &place.kind {
            Kind::V6 => self.v6_to_v4(packet, &place.v6, context),
            Kind::V4 => self.v4_to_v6(packet, &place.v4, context),
            Kind::FragmentV6(fragment) => {
                self.fragment_v6(packet, &place.v6.facts, *fragment, context)
            }
            Kind::FragmentV4(fragment, gathered) => {
                self.fragment_v4(packet, &place.v4.facts, *fragment, *gathered, context)
            }
            Kind::ErrorV6 => self.error_v6_to_v4(packet, &place.v6.facts, context),
            Kind::ErrorV4 => self.error_v4_to_v6(packet, &place.v4.facts, context),
            Kind::Elsewhere(owner) => Ok(self.hand_off(*owner, side, HandoffReason::Queue)),
            Kind::Settled(verdict, hop) => return (*verdict, *hop),
        };
        match done {
            Ok(done) => done,
            Err(refusal) => self.refuse(packet, side, refusal, context),
        }
    }

    /// A packet from IPv6 (RFC 6146 sections 3.4 to 3.8).
    #[inline]
    fn v6_to_v4(
        &mut self,
        packet: &mut Packet,
        one: &PreparedV6,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        let hairpin = self.hairpins(one)?;
        let (outgoing, way) = self.write_v4(packet, one, hairpin, context)?;
        if hairpin {
            return self.hairpin(packet, &outgoing, context);
        }
        self.count_forwarded(Side::V6, one.facts.len);
        Ok((Verdict::Forward(Side::V4), way.hop))
    }

    /// Sections 3.5 to 3.7 for a packet from IPv6: session, outgoing tuple, translation.
    #[inline]
    fn write_v4(
        &mut self,
        packet: &mut Packet,
        one: &PreparedV6,
        hairpin: bool,
        context: &Context,
    ) -> Result<(Tuple4, Way), Refusal> {
        let facts = &one.facts;
        let found = self.find_v6(one);
        if found.session.is_none() && self.classes.have_lists() {
            self.check_destination(facts.src, one.remote)?;
        }
        let way = if hairpin {
            Way::HAIRPIN
        } else {
            self.way_v4(found.session, one.remote, context)?
        };
        if facts.len - facts.l4_offset + IPV4_HEADER > way.mtu {
            return Err(way::too_big_for_v4(way.mtu));
        }
        let mapping = self.filter_and_update_v6(one, found, way.hop, context)?;
        if found.session.is_none() {
            self.note_offload(packet.bytes(), Side::V6);
        }
        let outgoing = Tuple4 {
            src: mapping.v4,
            dst: TransportAddr4 {
                ip: one.remote,
                port: remote_port_v6(facts, &mapping),
            },
            protocol: one.protocol,
        };
        self.identification = self.identification.wrapping_add(1);
        siit::v6_to_v4(
            packet,
            facts,
            &outgoing,
            mapping.delta,
            &self.rules,
            self.identification,
        );
        if is_syn(one.protocol, facts.l4.tcp_flags) {
            let mtu_v6 = self.mtu_towards_v6(facts.src, context);
            self.clamp_mss(packet, IPV4_HEADER, way.mtu, mtu_v6);
        }
        Ok((outgoing, way))
    }

    /// A packet from IPv4 (RFC 6146 sections 3.4 to 3.7).
    #[inline]
    fn v4_to_v6(
        &mut self,
        packet: &mut Packet,
        one: &PreparedV4,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        let (_, way, verdict) = self.write_v6(packet, one, context)?;
        Ok((verdict, way.hop))
    }

    /// Sections 3.5 to 3.7 for a packet from IPv4: session, outgoing tuple, translation.
    #[inline]
    fn write_v6(
        &mut self,
        packet: &mut Packet,
        one: &PreparedV4,
        context: &Context,
    ) -> Result<(Tuple6, Way, Verdict), Refusal> {
        let facts = &one.facts;
        let port = facts.l4.dst_port;
        let Some(bib) = self.table.find_v4(one.slot, port, one.protocol) else {
            return Err(self.no_bib(packet, one, context));
        };
        let session = self.table.find_session(bib, facts.src, remote_port_v4(one));
        let client = self.table.bib(bib).v6();
        let way = self.way_v6(session, client.ip, context)?;
        let cut = self.fits_v6(packet, facts, way.mtu)?;
        let mapping = self.filter_and_update_v4(packet, one, bib, session, way.hop, context)?;
        if session.is_none() {
            self.note_offload(packet.bytes(), Side::V4);
        }
        let is_query = one.protocol == Protocol::Icmp;
        let outgoing = Tuple6 {
            src: TransportAddr6 {
                ip: self.pref64(mapping.pref64).embed(facts.src),
                port: if is_query {
                    client.port
                } else {
                    facts.l4.src_port
                },
            },
            dst: client,
            protocol: one.protocol,
        };
        let delta = mapping.delta.reverse();
        siit::v4_to_v6(packet, facts, &outgoing, delta, &self.rules);
        if is_syn(one.protocol, facts.l4.tcp_flags) {
            let mtu_v4 = self.mtu_towards_v4(facts.src, context);
            self.clamp_mss(packet, IPV6_HEADER, mtu_v4, way.mtu);
        }
        self.count_forwarded(Side::V4, facts.len);
        let verdict = self.leave_v6(packet, facts, cut, way.hop);
        Ok((outgoing, way, verdict))
    }

    /// Whether the header fits the frame and the packet the link towards the client. A packet
    /// without DF that does not is cut: the size to cut to (RFC 7915 section 4.1).
    #[inline]
    fn fits_v6(
        &self,
        packet: &Packet,
        facts: &Ipv4Facts,
        mtu: u16,
    ) -> Result<Option<u16>, Refusal> {
        let growth = siit::v4_to_v6_growth(facts);
        if packet.headroom() < usize::from(growth) + LINK_HEADER_MAX {
            return Err(DropReason::Headroom.into());
        }
        let len = facts.len.saturating_add(growth);
        if facts.dont_fragment {
            return if len > mtu {
                Err(way::too_big_for_v6(growth, mtu))
            } else {
                Ok(None)
            };
        }
        let lowest = self.config.ipv6_mtu_lowest.min(mtu);
        if len <= lowest {
            return Ok(None);
        }
        // Every fragment carries at least 1280 - 48 octets.
        if self.outbox.room() < usize::from(len) / 1232 + 1 {
            return Err(DropReason::FramesExhausted.into());
        }
        Ok(Some(lowest))
    }

    /// A translated packet leaves whole, or in fragments by the outbox.
    #[inline]
    fn leave_v6(
        &mut self,
        packet: &Packet,
        facts: &Ipv4Facts,
        cut: Option<u16>,
        hop: Hop,
    ) -> Verdict {
        match cut {
            None => Verdict::Forward(Side::V6),
            Some(lowest) => self.cut(packet, facts, lowest, hop),
        }
    }

    #[cold]
    fn cut(&mut self, packet: &Packet, facts: &Ipv4Facts, lowest: u16, hop: Hop) -> Verdict {
        for fragment in siit::fragments_v6(packet.bytes(), facts.id, lowest) {
            let verdict = Verdict::Forward(Side::V6);
            let posted = self
                .outbox
                .post(fragment.len(), verdict, hop, |to| fragment.write(to));
            let counted = if posted {
                counters::fragments_created(0)
            } else {
                counters::drop_id(Side::V4, DropReason::FramesExhausted)
            };
            self.counters.add(counted, 1);
        }
        Verdict::Hold
    }

    /// No mapping: a SYN is held (RFC 6146 section 3.5.2.2), anything else dropped.
    #[cold]
    fn no_bib(&mut self, packet: &Packet, one: &PreparedV4, context: &Context) -> Refusal {
        let facts = &one.facts;
        let opens = one.protocol == Protocol::Tcp && opens_tcp(facts.l4.tcp_flags);
        if !opens || self.pool.block(facts.dst, facts.l4.dst_port).is_none() {
            return DropReason::NoBib.into();
        }
        self.hold_syn(packet.bytes(), mapped_of(facts), peer_of(facts), context)
    }

    /// Whether the packet turns around (RFC 6146 section 3.8).
    #[inline]
    fn hairpins(&self, one: &PreparedV6) -> Result<bool, Refusal> {
        if self.pool.slot(one.remote).is_none() {
            return Ok(false);
        }
        let is_ours =
            self.ownership
                .is_ours(&self.pool, one.remote, one.facts.l4.dst_port, one.protocol);
        if is_ours && !self.config.hairpin {
            return Err(DropReason::HairpinOff.into());
        }
        Ok(is_ours)
    }

    /// The second half of a hairpin: the translated packet is taken from IPv4, by its owner. It
    /// leaves to a client, never to the pool again, so there is no loop.
    fn hairpin(
        &mut self,
        packet: &mut Packet,
        outgoing: &Tuple4,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        self.counters.add(counters::hairpinned(0), 1);
        let dst = outgoing.dst;
        let owner = self
            .ownership
            .of_v4(&self.pool, dst.ip, dst.port, outgoing.protocol);
        if owner != self.worker {
            return Ok(self.hand_off(owner, Side::V4, HandoffReason::Hairpin));
        }
        let mut place = Place::EMPTY;
        self.prepare_packet(packet, Side::V4, false, &mut place, context);
        Ok(self.translate(packet, Side::V4, &place, context))
    }

    /// Lowers the MSS option of a SYN to what both links carry.
    fn clamp_mss(&self, packet: &mut Packet, ip_header: u16, mtu_v4: u16, mtu_v6: u16) {
        let mss = match self.config.mss_clamp {
            MssClamp::Off => return,
            MssClamp::Octets(octets) => octets,
            MssClamp::Auto => {
                let v4 = mtu_v4.saturating_sub(IPV4_HEADER + TCP_HEADER);
                let v6 = mtu_v6.saturating_sub(IPV6_HEADER + TCP_HEADER);
                v4.min(v6)
            }
        };
        if let Some(l4) = packet.bytes_mut().get_mut(usize::from(ip_header)..) {
            siit::clamp_mss(l4, mss);
        }
    }

    /// Counts a refused packet and, where the refusal says so, turns it into the ICMP error in
    /// answer.
    #[cold]
    fn refuse(
        &mut self,
        packet: &mut Packet,
        side: Side,
        refusal: Refusal,
        context: &Context,
    ) -> (Verdict, Hop) {
        match refusal {
            Refusal::Hold => (Verdict::Hold, Hop::None),
            Refusal::Bypass => self.bypass(packet, context),
            Refusal::Drop(reason) => {
                self.counters.add(counters::drop_id(side, reason), 1);
                (Verdict::Drop(reason), Hop::None)
            }
            Refusal::Reject(reason, error) => {
                self.counters.add(counters::drop_id(side, reason), 1);
                self.reject(packet, side, reason, error, context)
            }
        }
    }

    /// Routes a packet from IPv6 on as it is (RFC 6888 REQ-6): the destination has a route of its
    /// own within the prefix.
    #[cold]
    fn bypass(&mut self, packet: &mut Packet, context: &Context) -> (Verdict, Hop) {
        match self.route_on(packet, context) {
            Ok(hop) => (Verdict::Forward(Side::V6), hop),
            Err(refusal) => self.refuse(packet, Side::V6, refusal, context),
        }
    }

    fn route_on(&mut self, packet: &mut Packet, context: &Context) -> Result<Hop, Refusal> {
        let facts = Ipv6Facts::parse(packet.bytes())?;
        let way = self.way_v6(None, facts.dst, context)?;
        if facts.len > way.mtu {
            let error = IcmpError::TooBig { mtu: way.mtu };
            return Err(Refusal::Reject(DropReason::PacketTooBig, error));
        }
        // It was above 1: that was judged first (RFC 8200 section 3).
        packet.bytes_mut()[HOP_LIMIT_AT] = facts.hop_limit.saturating_sub(1);
        self.counters.add(counters::packets_bypassed(0), 1);
        self.count_forwarded(Side::V6, facts.len);
        Ok(way.hop)
    }

    #[inline]
    fn count_forwarded(&mut self, side: Side, len: u16) {
        self.counters
            .add(counters::packets_forwarded(side.index()), 1);
        self.counters
            .add(counters::bytes_forwarded(side.index()), u64::from(len));
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        } else {
            self.counters.add(counters::events_lost(0), 1);
        }
    }

    /// The next event for the log, oldest first.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next packet that the engine itself sends; to be asked for until there is none.
    pub fn next_outgoing(&mut self) -> Option<Outgoing<'_>> {
        self.outbox.next()
    }

    /// This worker's counters.
    pub fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// The prefix that a session's client uses.
    fn pref64(&self, number: u8) -> Pref64 {
        self.config.pref64[usize::from(number)]
    }
}

/// What a lookup from IPv6 found: nothing, a BIB entry, or a session with it.
#[derive(Debug, Clone, Copy)]
struct Found {
    bib: Option<u32>,
    session: Option<SessionRef>,
}

impl Nat64 {
    #[inline]
    fn find_v6(&self, one: &PreparedV6) -> Found {
        let facts = &one.facts;
        let bib = self
            .table
            .find_v6(one.probe, facts.src, facts.l4.src_port, one.protocol);
        let remote_port = if one.protocol == Protocol::Icmp {
            0
        } else {
            facts.l4.dst_port
        };
        let session = bib.and_then(|bib| self.table.find_session(bib, one.remote, remote_port));
        Found { bib, session }
    }

    /// What translation changes in the layer 4 checksum of a session's packets from IPv6.
    fn delta(
        &self,
        v6: TransportAddr6,
        v4: TransportAddr4,
        remote: TransportAddr4,
        pref64: u8,
        protocol: Protocol,
    ) -> Delta {
        let tuple6 = Tuple6 {
            src: v6,
            dst: TransportAddr6 {
                ip: self.pref64(pref64).embed(remote.ip),
                port: remote.port,
            },
            protocol,
        };
        siit::l4_delta(
            &tuple6,
            &Tuple4 {
                src: v4,
                dst: remote,
                protocol,
            },
        )
    }
}

/// `l4_checksum = "recompute"`: the peer left the checksum to an offload that never happened.
#[cold]
fn recompute_checksum(packet: &mut Packet, side: Side) {
    match side {
        Side::V6 => {
            if let Ok(facts) = Ipv6Facts::parse(packet.bytes()) {
                siit::recompute_checksum_v6(packet, &facts);
            }
        }
        Side::V4 => {
            if let Ok(facts) = Ipv4Facts::parse(packet.bytes()) {
                siit::recompute_checksum_v4(packet, &facts);
            }
        }
    }
}

/// ICMP queries have one identifier, which is the mapping's on the IPv4 side.
#[inline]
fn remote_port_v6(facts: &Ipv6Facts, mapping: &filtering::Mapping) -> u16 {
    match facts.l4.kind {
        L4Kind::EchoRequest | L4Kind::EchoReply => mapping.v4.port,
        _ => facts.l4.dst_port,
    }
}

/// The peer's port as sessions keep it: none for ICMP queries.
#[inline]
fn remote_port_v4(one: &PreparedV4) -> u16 {
    if one.protocol == Protocol::Icmp {
        0
    } else {
        one.facts.l4.src_port
    }
}

/// T,t of a packet from IPv4.
fn mapped_of(facts: &Ipv4Facts) -> TransportAddr4 {
    TransportAddr4 {
        ip: facts.dst,
        port: facts.l4.dst_port,
    }
}

/// Z,z of a packet from IPv4.
fn peer_of(facts: &Ipv4Facts) -> TransportAddr4 {
    TransportAddr4 {
        ip: facts.src,
        port: facts.l4.src_port,
    }
}

/// Which BIB a packet belongs to; refuses what has none.
#[inline]
fn protocol_of(kind: L4Kind) -> Result<Protocol, Refusal> {
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
fn is_part(fragment: &FragmentFacts) -> bool {
    fragment.more || fragment.offset > 0
}

#[inline]
fn is_syn(protocol: Protocol, tcp_flags: u8) -> bool {
    protocol == Protocol::Tcp && tcp_flags & tcp_flag::SYN != 0
}

/// A SYN that neither resets nor ends.
#[inline]
fn opens_tcp(tcp_flags: u8) -> bool {
    tcp_flags & (tcp_flag::SYN | tcp_flag::RST | tcp_flag::FIN) == tcp_flag::SYN
}

/// Whether a host can have this address.
#[inline]
fn may_be_source(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    // 0/8, 127/8, 224/4 and 240/4 with the limited broadcast (RFC 1122 section 3.2.1.3).
    first != 0 && first != 127 && first < 224
}

/// Whether RFC 6052 section 3.1 lets the well-known prefix carry the address: not private,
/// shared, link-local, documentation, benchmarking or IETF-reserved (RFC 6890).
fn is_global(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    let benchmarking = a == 198 && b & 0xfe == 18;
    let protocol_assignments = a == 192 && b == 0 && c == 0;
    let relay_anycast = a == 192 && b == 88 && c == 99;
    !(ip.is_private() || ip.is_link_local() || ip.is_documentation() || shared || benchmarking)
        && !(protocol_assignments || relay_anycast)
}
