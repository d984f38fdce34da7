//! Stateful NAT64 (RFC 6146): the file to read first.
//!
//! A burst is worked in stages: parse all and ask the memory for their table lines, then for
//! their entries, then translate each. A burst of one takes the same way. The two directions,
//! `v6_to_v4` and `v4_to_v6`, read as the RFC does: refusals that content alone
//! decides come first, then the table (which may refuse: quota, pool, filter), then a write that
//! cannot fail. A refused packet is therefore intact for the ICMP error in answer, and has left
//! no session behind.

mod block;
mod chooser;
pub mod class;
mod context;
mod cut;
pub mod deterministic;
mod entry;
mod established;
mod expiry;
mod filtering;
mod found;
mod fragment;
mod hairpin;
mod icmp;
mod invariants;
mod leave;
mod lifetime;
mod listing;
mod offload;
mod outbox;
pub mod ownership;
pub mod plan;
pub mod pool4;
mod pool_layout;
mod ports;
mod prepare;
mod probe;
mod relog;
mod scratch;
mod subscriber;
mod suffix;
mod syn_hold;
mod table;
pub mod tcp_state;
mod tuples;
mod way;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::rfc6052::Pref64;
use hashbrown::HashMap;

use self::block::Blocks;
use self::class::Classes;
use self::context::Context;
use self::established::{Course, Entry, Forwarded, FromV4, FromV6, Lane, Passed, Plain};
use self::found::Found;
use self::fragment::Fragments;
use self::icmp::ErrorBudget;
use self::lifetime::LifetimeTable;
use self::offload::recompute_checksum;
use self::outbox::Outbox;
pub use self::outbox::Outgoing;
use self::ownership::Ownership;
use self::plan::Shared;
use self::pool4::PoolMap;
use self::prepare::{Kind, Place, Places, PreparedV4, PreparedV6, is_global, protocol_of};
use self::relog::Relog;
use self::scratch::Scratch;
use self::subscriber::Subscribers;
use self::syn_hold::SynHold;
use self::table::Table;
use self::tuples::{is_syn, mapped_of, opens_tcp, peer_of, peer_port, remote_port_v6};
use self::way::Way;
use crate::clock::Instant;
use crate::command::Event;
use crate::config::Nat64Config;
use crate::counters::{self, Counters};
use crate::io::FrameArea;
use crate::packet::{Frame, Packet};
use crate::route::{HopId, PortId, RouteSnapshot};
use crate::siit;
use crate::verdict::{DropReason, HandoffReason, Refusal, Side, Verdict, WorkerId};

/// Frames worked at once.
pub const BATCH_FRAMES_MAX: usize = 64;

/// Events that wait for the worker to take them; more are lost and counted.
const EVENTS_MAX: usize = 4096;

/// Octets of an IPv6 header.
const IPV6_HEADER: u16 = 40;
/// Octets of an IPv4 header without options.
const IPV4_HEADER: u16 = 20;

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

impl Item {
    #[inline]
    fn leave(&mut self, side: Side, passed: &Passed, forwarded: &mut Forwarded) {
        forwarded.count(passed);
        self.verdict = Verdict::Forward(side.other());
        self.hop = Hop::Resolved(passed.hop);
    }
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

/// One worker's translator: its sessions, its share of the pool, its counters.
#[derive(Debug)]
pub struct Nat64 {
    config: Arc<Nat64Config>,
    /// The first of the configured prefixes, close at hand.
    pref64_first: Pref64,
    rules: siit::Rules,
    lifetimes: LifetimeTable,
    pool: Arc<PoolMap>,
    /// How often it has changed.
    pool_changes: u32,
    ownership: Arc<Ownership>,
    /// Whether there is but one worker, who owns everything.
    is_alone: bool,
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
        let context = Context::new(routes, self.pool_changes, now);
        // Taken out so that places and tables can be used side by side.
        let mut places = std::mem::take(&mut self.places);
        let items = &mut batch.items;
        // Nearly always all packets of a burst came from the same side.
        let Some(side) = items.first().map(|item| item.side) else {
            return self.places = places;
        };
        let both = match side {
            Side::V6 => self.prepare_all::<FromV6>(area, items, &mut places, &context),
            Side::V4 => self.prepare_all::<FromV4>(area, items, &mut places, &context),
        };
        if both && side == Side::V4 {
            self.prepare_all::<FromV6>(area, items, &mut places, &context);
        } else if both {
            self.prepare_all::<FromV4>(area, items, &mut places, &context);
        }
        if both || side == Side::V6 {
            self.prefetch_all::<FromV6>(items, &mut places);
        }
        if both || side == Side::V4 {
            self.prefetch_all::<FromV4>(items, &mut places);
        }
        if both || side == Side::V6 {
            self.translate_all::<FromV6>(area, items, &mut places, &context);
        }
        if both || side == Side::V4 {
            self.translate_all::<FromV4>(area, items, &mut places, &context);
        }
        self.places = places;
    }

    /// Stage one, for the packets of a burst that came from one side. Whether there are others.
    #[inline(never)] // a function for each stage and side keeps what its loop needs in registers
    fn prepare_all<L: Lane>(
        &mut self,
        area: &FrameArea,
        items: &mut [Item],
        places: &mut Places,
        context: &Context,
    ) -> bool {
        if self.recompute_checksums.contains(&true) {
            self.recompute_all(area, items, L::SIDE);
        }
        let Places { lane, long } = places;
        let mut others = false;
        let mut lane = lane.iter_mut();
        for item in items {
            let Some(one) = lane.next() else { break };
            if item.side != L::SIDE {
                others = true;
                continue;
            }
            let entry = area
                .around(&mut item.frame, L::BEFORE, L::ROOM)
                .map_or(Entry::Long, |(head, window)| {
                    L::enter(self, head, *window, one)
                });
            match entry {
                Entry::Taken => one.course = L::COURSE,
                Entry::Elsewhere(owner) if !item.handed_off => {
                    one.course = Course::Elsewhere;
                    (item.verdict, item.hop) = self.hand_off(owner, L::SIDE, HandoffReason::Queue);
                }
                Entry::Long | Entry::Elsewhere(_) => {
                    one.course = Course::Long;
                    self.prepare(area, item, &mut long[one.place()], context);
                }
            }
        }
        others
    }

    /// Computes the checksums of what came from peers that leave it to an offload.
    #[cold]
    fn recompute_all(&self, area: &FrameArea, items: &mut [Item], side: Side) {
        for item in items.iter_mut().filter(|item| item.side == side) {
            if self.recompute_checksums.get(usize::from(item.port.0)) == Some(&true) {
                recompute_checksum(&mut area.packet(&mut item.frame), item.side);
            }
        }
    }

    /// Stage two, likewise.
    #[inline(never)]
    fn prefetch_all<L: Lane>(&mut self, items: &[Item], places: &mut Places) {
        let Places { lane, long } = places;
        let count = items.len().min(lane.len());
        for one in &mut lane[..count] {
            if one.course == L::COURSE {
                L::prefetch(self, one);
            } else if one.course == Course::Long && items[one.place()].side == L::SIDE {
                self.prefetch(&long[one.place()]);
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
        let Places { lane, long } = places;
        let mut forwarded = Forwarded::default();
        let mut lane = lane.iter_mut();
        for item in items {
            let Some(one) = lane.next() else { break };
            if one.course == L::COURSE {
                if let Some(passed) = self.pass::<L>(area, item, one, context) {
                    item.leave(L::SIDE, &passed, &mut forwarded);
                    continue;
                }
                if self.pass_further::<L>(area, item, one, context) {
                    continue;
                }
                self.prepare(area, item, &mut long[one.place()], context);
            } else if item.side != L::SIDE || one.course == Course::Elsewhere {
                continue;
            }
            self.finish(area, item, &long[one.place()], context);
        }
        self.count_lane(L::SIDE, &forwarded);
    }

    /// Stage three of a packet that the lane took.
    #[inline]
    fn pass<L: Lane>(
        &mut self,
        area: &FrameArea,
        item: &mut Item,
        one: &Plain,
        context: &Context,
    ) -> Option<Passed> {
        let (head, window) = area.around(&mut item.frame, L::BEFORE, L::ROOM)?;
        L::pass::<false>(self, head, window, one, context)
    }

    /// Likewise, of one that is not of a first session that keeps a next hop.
    #[cold]
    #[inline(never)]
    fn pass_further<L: Lane>(
        &mut self,
        area: &FrameArea,
        item: &mut Item,
        one: &Plain,
        context: &Context,
    ) -> bool {
        let around = area.around(&mut item.frame, L::BEFORE, L::ROOM);
        let passed =
            around.and_then(|(head, window)| L::pass::<true>(self, head, window, one, context));
        if let Some(passed) = &passed {
            let mut forwarded = Forwarded::default();
            item.leave(L::SIDE, passed, &mut forwarded);
            self.count_lane(L::SIDE, &forwarded);
        }
        passed.is_some()
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
        let remote_port = peer_port(one.protocol, facts.l4.src_port);
        let session = self.table.find_session(bib, facts.src, remote_port);
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
