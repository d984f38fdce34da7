//! Stateful NAT64 (RFC 6146): the file to read first.
//!
//! A burst is worked in stages: parse all and ask the memory for their table lines, then for
//! their entries, then translate each. A burst of one takes the same way. The two directions,
//! [`Nat64::v6_to_v4`] and [`Nat64::v4_to_v6`], read as the RFC does: refusals that content alone
//! decides come first, then the table (which may refuse: quota, pool, filter), then a write that
//! cannot fail. A refused packet is therefore intact for the ICMP error in answer, and has left
//! no session behind.

mod block;
mod expiry;
mod filtering;
mod icmp;
mod lifetime;
mod listing;
mod outbox;
pub mod ownership;
pub mod plan;
pub mod pool4;
mod subscriber;
mod table;
pub mod tcp_state;
mod way;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::checksum::Delta;
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts, L4Kind, tcp_flag};
use gate64_wire::rfc6052::Pref64;
use hashbrown::HashMap;

use self::block::Blocks;
use self::icmp::ErrorBudget;
use self::lifetime::LifetimeTable;
use self::outbox::Outbox;
pub use self::outbox::Outgoing;
use self::ownership::Ownership;
use self::plan::Shared;
use self::pool4::{PoolMap, Slot};
use self::subscriber::Subscribers;
use self::table::{SessionRef, Table};
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
use crate::verdict::{DropReason, Refusal, Side, Verdict, WorkerId};

/// Frames worked at once.
pub const BATCH_FRAMES_MAX: usize = 64;

/// Events that wait for the worker to take them; more are lost and counted.
const EVENTS_MAX: usize = 4096;

/// Octets of an IPv6 header.
const IPV6_HEADER: u16 = 40;
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

/// What parsing found out about a packet before any table line is needed.
#[derive(Debug, Clone, Copy)]
enum Prepared {
    /// TCP, UDP or echo from IPv6.
    V6(PreparedV6),
    /// TCP, UDP or echo from IPv4.
    V4(PreparedV4),
    /// An ICMPv6 error.
    ErrorV6(Ipv6Facts),
    /// An ICMPv4 error.
    ErrorV4(Ipv4Facts),
    /// Decided.
    Settled(Verdict, Hop),
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
    outbox: Outbox,
    block_idle_ticks: u32,
    log_sessions: bool,
    recompute_checksums: Vec<bool>,
    identification: u16,
    prepared: Vec<Prepared>,
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
        let mut prepared = std::mem::take(&mut self.prepared);
        prepared.clear();
        for item in &mut batch.items {
            let mut packet = area.packet(&mut item.frame);
            if self.recompute_checksums.get(usize::from(item.port.0)) == Some(&true) {
                recompute_checksum(&mut packet, item.side);
            }
            prepared.push(self.prepare(&mut packet, item.side, &context));
        }
        for one in &prepared {
            self.prefetch(one);
        }
        for (item, one) in batch.items.iter_mut().zip(&prepared) {
            let mut packet = area.packet(&mut item.frame);
            (item.verdict, item.hop) = self.translate(&mut packet, item.side, one, &context);
        }
        self.prepared = prepared;
    }

    /// Stage one: parse, refuse what content alone decides, find the owner, ask for the first line.
    fn prepare(&mut self, packet: &mut Packet, side: Side, context: &Context) -> Prepared {
        let prepared = match side {
            Side::V6 => self.prepare_v6(packet.bytes()),
            Side::V4 => self.prepare_v4(packet.bytes()),
        };
        prepared.unwrap_or_else(|refusal| {
            let (verdict, hop) = self.refuse(packet, side, refusal, context);
            Prepared::Settled(verdict, hop)
        })
    }

    #[inline]
    fn prepare_v6(&self, bytes: &[u8]) -> Result<Prepared, Refusal> {
        let facts = Ipv6Facts::parse(bytes)?;
        let (pref64, remote) = self.pref64_of(&facts)?;
        siit::check_v6(&facts)?;
        let protocol = match facts.l4.kind {
            L4Kind::Udp => Protocol::Udp,
            L4Kind::Tcp => Protocol::Tcp,
            L4Kind::EchoRequest | L4Kind::EchoReply => Protocol::Icmp,
            L4Kind::IcmpError => return Ok(Prepared::ErrorV6(facts)),
            L4Kind::LaterFragment => return Err(DropReason::FragmentUnmatched.into()),
            L4Kind::IcmpOther | L4Kind::Unknown => return Err(DropReason::UnknownProtocol.into()),
        };
        let owner = self.ownership.of_v6(facts.src);
        if owner != self.worker {
            return Ok(Prepared::Settled(
                Verdict::Handoff {
                    worker: owner,
                    side: Side::V6,
                },
                Hop::None,
            ));
        }
        let probe = self.table.probe(facts.src, facts.l4.src_port, protocol);
        self.table.prefetch_bucket(probe);
        Ok(Prepared::V6(PreparedV6 {
            facts,
            protocol,
            remote,
            pref64,
            probe,
        }))
    }

    #[inline]
    fn prepare_v4(&self, bytes: &[u8]) -> Result<Prepared, Refusal> {
        let facts = Ipv4Facts::parse(bytes)?;
        let slot = self.pool.slot(facts.dst).ok_or(DropReason::NotOurs)?;
        if !may_be_source(facts.src) {
            return Err(DropReason::SourceMartian.into());
        }
        siit::check_v4(&facts, &self.rules)?;
        let protocol = match facts.l4.kind {
            L4Kind::Udp => Protocol::Udp,
            L4Kind::Tcp => Protocol::Tcp,
            L4Kind::EchoRequest | L4Kind::EchoReply => Protocol::Icmp,
            L4Kind::IcmpError => return Ok(Prepared::ErrorV4(facts)),
            L4Kind::LaterFragment => return Err(DropReason::FragmentUnmatched.into()),
            L4Kind::IcmpOther | L4Kind::Unknown => return Err(DropReason::UnknownProtocol.into()),
        };
        let owner = self
            .ownership
            .of_v4(&self.pool, facts.dst, facts.l4.dst_port, protocol);
        if owner != self.worker {
            return Ok(Prepared::Settled(
                Verdict::Handoff {
                    worker: owner,
                    side: Side::V4,
                },
                Hop::None,
            ));
        }
        self.table.prefetch_port(slot, facts.l4.dst_port, protocol);
        Ok(Prepared::V4(PreparedV4 {
            facts,
            protocol,
            slot,
        }))
    }

    /// Which prefix the destination is in, and the IPv4 address inside it.
    #[inline]
    fn pref64_of(&self, facts: &Ipv6Facts) -> Result<(u8, Ipv4Addr), Refusal> {
        let mut found = None;
        for (number, pref64) in (0u8..).zip(&self.config.pref64) {
            // RFC 6146 section 3.5: such a packet is dropped silently, or it might loop.
            if pref64.contains(facts.src) {
                return Err(DropReason::SourceInPref64.into());
            }
            if found.is_none() {
                found = pref64.extract(facts.dst).map(|remote| (number, remote));
            }
        }
        let (number, remote) = found.ok_or(DropReason::NotOurs)?;
        if facts.src.is_unspecified() || facts.src.is_loopback() || facts.src.is_multicast() {
            return Err(DropReason::SourceMartian.into());
        }
        if !may_be_source(remote) {
            return Err(DropReason::DestinationMartian.into());
        }
        let well_known = self.config.pref64[usize::from(number)].is_well_known();
        if well_known && self.config.wkp_strict && !is_global(remote) {
            return Err(DropReason::WkpNonGlobal.into());
        }
        Ok((number, remote))
    }

    /// Stage two: the line that the first one named.
    #[inline]
    fn prefetch(&self, prepared: &Prepared) {
        match prepared {
            Prepared::V6(one) => self.table.prefetch_guess(one.probe),
            Prepared::V4(one) => {
                self.table
                    .prefetch_entry(one.slot, one.facts.l4.dst_port, one.protocol)
            }
            _ => {}
        }
    }

    /// Stage three: look up, update, write.
    #[inline]
    fn translate(
        &mut self,
        packet: &mut Packet,
        side: Side,
        prepared: &Prepared,
        context: &Context,
    ) -> (Verdict, Hop) {
        let done = match prepared {
            Prepared::V6(one) => self.v6_to_v4(packet, one, context),
            Prepared::V4(one) => self.v4_to_v6(packet, one, context),
            Prepared::ErrorV6(facts) => self.error_v6_to_v4(packet, facts, context),
            Prepared::ErrorV4(facts) => self.error_v4_to_v6(packet, facts, context),
            Prepared::Settled(verdict, hop) => return (self.count_handoff(side, *verdict), *hop),
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
        let facts = &one.facts;
        let hairpin = self.hairpins(one)?;
        let found = self.find_v6(one);
        let way = if hairpin {
            Way::HAIRPIN
        } else {
            self.way_v4(found.session(), one.remote, context)?
        };
        let len = facts.len - facts.l4_offset + IPV4_HEADER;
        if len > way.mtu {
            return Err(way::too_big_for_v4(way.mtu));
        }
        let mapping = self.filter_and_update_v6(one, found, way.hop, context)?;
        let outgoing = Tuple4 {
            src: mapping.v4,
            dst: TransportAddr4 {
                ip: one.remote,
                port: self.remote_port_v6(facts, &mapping),
            },
            protocol: one.protocol,
        };
        let is_syn = one.protocol == Protocol::Tcp && facts.l4.tcp_flags & tcp_flag::SYN != 0;
        self.identification = self.identification.wrapping_add(1);
        siit::v6_to_v4(
            packet,
            facts,
            &outgoing,
            mapping.delta,
            &self.rules,
            self.identification,
        );
        if is_syn {
            self.clamp_mss(
                packet,
                IPV4_HEADER,
                way.mtu,
                self.mtu_towards_v6(facts.src, context),
            );
        }
        if hairpin {
            return self.hairpin(packet, &outgoing, context);
        }
        self.count_forwarded(Side::V6, facts.len);
        Ok((Verdict::Forward(Side::V4), way.hop))
    }

    /// A packet from IPv4 (RFC 6146 sections 3.4 to 3.7).
    #[inline]
    fn v4_to_v6(
        &mut self,
        packet: &mut Packet,
        one: &PreparedV4,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        let facts = &one.facts;
        let Some(bib) = self
            .table
            .find_v4(one.slot, facts.l4.dst_port, one.protocol)
        else {
            return Err(DropReason::NoBib.into());
        };
        let remote_port = if one.protocol == Protocol::Icmp {
            0
        } else {
            facts.l4.src_port
        };
        let session = self.table.find_session(bib, facts.src, remote_port);
        let client = self.table.bib(bib).v6();
        let way = self.way_v6(session, client.ip, context)?;
        self.fits_v6(packet, facts, way.mtu)?;
        let mapping = self.filter_and_update_v4(one, bib, session, way.hop, context)?;
        let outgoing = Tuple6 {
            src: TransportAddr6 {
                ip: self.config.pref64[usize::from(mapping.pref64)].embed(facts.src),
                port: if one.protocol == Protocol::Icmp {
                    client.port
                } else {
                    facts.l4.src_port
                },
            },
            dst: client,
            protocol: one.protocol,
        };
        let is_syn = one.protocol == Protocol::Tcp && facts.l4.tcp_flags & tcp_flag::SYN != 0;
        siit::v4_to_v6(
            packet,
            facts,
            &outgoing,
            mapping.delta.reverse(),
            &self.rules,
        );
        if is_syn {
            self.clamp_mss(
                packet,
                IPV6_HEADER,
                self.mtu_towards_v4(facts.src, context),
                way.mtu,
            );
        }
        self.count_forwarded(Side::V4, facts.len);
        Ok((Verdict::Forward(Side::V6), way.hop))
    }

    /// Whether the translated packet fits the link towards the client, and its header the frame.
    #[inline]
    fn fits_v6(&self, packet: &Packet, facts: &Ipv4Facts, mtu: u16) -> Result<(), Refusal> {
        let growth = siit::v4_to_v6_growth(facts);
        if packet.headroom() < usize::from(growth) + LINK_HEADER_MAX {
            return Err(DropReason::Headroom.into());
        }
        if facts.len.saturating_add(growth) > mtu {
            return Err(way::too_big_for_v6(growth, mtu));
        }
        Ok(())
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
            self.counters
                .add(counters::packets_handed_off(Side::V4.index()), 1);
            return Ok((
                Verdict::Handoff {
                    worker: owner,
                    side: Side::V4,
                },
                Hop::None,
            ));
        }
        let prepared = self.prepare(packet, Side::V4, context);
        Ok(self.translate(packet, Side::V4, &prepared, context))
    }

    /// ICMP queries have one identifier, which is the mapping's on the IPv4 side.
    #[inline]
    fn remote_port_v6(&self, facts: &Ipv6Facts, mapping: &filtering::Mapping) -> u16 {
        match facts.l4.kind {
            L4Kind::EchoRequest | L4Kind::EchoReply => mapping.v4.port,
            _ => facts.l4.dst_port,
        }
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
        let reason = refusal.reason();
        self.counters.add(counters::drop_id(side, reason), 1);
        match refusal {
            Refusal::Drop(reason) => (Verdict::Drop(reason), Hop::None),
            Refusal::Reject(reason, error) => self.reject(packet, side, reason, error, context),
        }
    }

    fn count_handoff(&mut self, side: Side, verdict: Verdict) -> Verdict {
        if matches!(verdict, Verdict::Handoff { .. }) {
            self.counters
                .add(counters::packets_handed_off(side.index()), 1);
        }
        verdict
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

impl Found {
    fn session(self) -> Option<SessionRef> {
        self.session
    }
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
