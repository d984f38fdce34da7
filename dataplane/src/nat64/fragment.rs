//! Fragments (RFC 6146 section 3.4): translated one by one once the first has told the ports, in
//! whatever order they come; nothing is reassembled.
//!
//! A later fragment that comes before the first waits in a bounded store. Two kinds need all
//! fragments before the first can go: IPv4 UDP without a checksum, and ICMP, whose IPv6
//! checksum covers the length of the whole message. Overlaps condemn the packet (RFC 5722).

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::checksum::{Delta, Sum, pseudo_header_v4};
use gate64_wire::facts::{FragmentFacts, Ipv4Facts, Ipv6Facts, L4Kind};
use hashbrown::HashMap;

use super::outbox::{BUFFER_LEN, Buffers, Stored};
use super::{Context, Hop, IPV4_HEADER, Nat64, Scratch, way};
use crate::clock::Instant;
use crate::counters;
use crate::packet::Packet;
use crate::siit;
use crate::verdict::{DropReason, Refusal, Side, Verdict, WorkerId};

/// Packets in fragments that are followed at once.
const PACKETS_MAX: usize = 4096;

/// Fragments that wait at once, and of these for one source.
const HELD_MAX: usize = 512;
const HELD_PER_SOURCE_MAX: u16 = 64;

/// Fragments of one packet: 65535 octets in the least that links carry, and some.
const RANGES_MAX: usize = 128;

/// What makes fragments belong together (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    protocol: u8,
}

/// What later fragments need, once the first is through.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// Sent on as IPv4 with these addresses; `hairpin`: then taken from IPv4 again.
    V4 {
        src: Ipv4Addr,
        dst: Ipv4Addr,
        hop: Hop,
        mtu: u16,
        hairpin: bool,
    },
    /// Sent on as IPv6 with these addresses.
    V6 {
        src: Ipv6Addr,
        dst: Ipv6Addr,
        hop: Hop,
        mtu: u16,
    },
    /// Another worker owns the session.
    Elsewhere(WorkerId),
    /// The first was refused, or the fragments contradict each other.
    Refused(DropReason),
}

#[derive(Debug)]
struct Followed {
    known: Option<Known>,
    /// The first cannot go before all are here.
    needs_all: bool,
    /// Octets of the whole payload, once the last fragment has told.
    end: Option<u32>,
    /// What has come: first octet and the one behind the last.
    ranges: Vec<(u32, u32)>,
    held: Vec<Stored>,
}

/// The bounded store.
#[derive(Debug)]
pub(super) struct Fragments {
    packets: HashMap<Key, Followed>,
    by_source: HashMap<IpAddr, u16>,
    order: VecDeque<(Instant, Key)>,
    buffers: Buffers,
}

impl Fragments {
    /// Octets of its buffers.
    pub fn bytes() -> usize {
        HELD_MAX * BUFFER_LEN
    }

    pub fn new() -> Fragments {
        Fragments {
            packets: HashMap::with_capacity(PACKETS_MAX * 2),
            by_source: HashMap::with_capacity(HELD_MAX * 2),
            order: VecDeque::with_capacity(PACKETS_MAX),
            buffers: Buffers::new(HELD_MAX),
        }
    }

    fn hold(&mut self, key: &Key, bytes: &[u8]) -> Result<(), DropReason> {
        let count = self.by_source.get(&key.src).copied().unwrap_or(0);
        if count >= HELD_PER_SOURCE_MAX {
            return Err(DropReason::FragmentsFull);
        }
        let stored = self.buffers.store(bytes.len(), |to| {
            to.copy_from_slice(bytes);
            true
        });
        let stored = stored.ok_or(DropReason::FragmentsFull)?;
        if let Some(followed) = self.packets.get_mut(key) {
            followed.held.push(stored);
            self.by_source.insert(key.src, count + 1);
        }
        Ok(())
    }

    /// Takes the held fragments of a packet out, for the caller to use and give back.
    fn take_held(&mut self, key: &Key) -> Vec<Stored> {
        let held = self
            .packets
            .get_mut(key)
            .map(|followed| std::mem::take(&mut followed.held))
            .unwrap_or_default();
        if let Some(count) = self.by_source.get_mut(&key.src) {
            *count = count.saturating_sub(u16::try_from(held.len()).unwrap_or(u16::MAX));
            if *count == 0 {
                self.by_source.remove(&key.src);
            }
        }
        held
    }
}

impl Fragments {
    /// Panics where the store contradicts itself; see [`Nat64::check_invariants`].
    pub fn check(&self, counters: &counters::Counters) {
        let held: usize = self.packets.values().map(|one| one.held.len()).sum();
        assert_eq!(held, HELD_MAX - self.buffers.free_count());
        assert_eq!(counters.get(counters::fragments_held(0)), held as u64);
        let by_source: usize = self.by_source.values().map(|&n| usize::from(n)).sum();
        assert_eq!(by_source, held);
        assert_eq!(self.order.len(), self.packets.len());
    }
}

impl Followed {
    /// Notes a fragment's place.
    fn note(&mut self, first: u32, behind: u32, more: bool) -> Result<(), DropReason> {
        if self.ranges.contains(&(first, behind)) {
            return Err(DropReason::FragmentDuplicate);
        }
        let overlaps = self.ranges.iter().any(|&(a, b)| first < b && a < behind);
        let beyond = self.end.is_some_and(|end| behind > end || !more);
        let short = !more && self.ranges.iter().any(|&(_, b)| b > behind);
        if overlaps || beyond || short {
            return Err(DropReason::FragmentOverlap);
        }
        if self.ranges.len() >= RANGES_MAX {
            return Err(DropReason::FragmentsFull);
        }
        self.ranges.push((first, behind));
        if !more {
            self.end = Some(behind);
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.end
            .is_some_and(|end| self.ranges.iter().map(|(a, b)| b - a).sum::<u32>() == end)
    }
}

/// What a fragment's arrival leads to.
enum Step {
    /// It is the first and may go.
    First,
    /// A later one, whose first is known.
    Later(Known),
    /// It waits.
    Wait,
    /// It completed a packet that needed all.
    Complete,
}

impl Nat64 {
    /// A fragment from IPv6.
    pub(super) fn fragment_v6(
        &mut self,
        packet: &mut Packet,
        facts: &Ipv6Facts,
        fragment: FragmentFacts,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        self.counters
            .add(counters::fragments_received(Side::V6.index()), 1);
        if facts.l4.kind == L4Kind::IcmpError {
            return Err(DropReason::IcmpUntranslatable.into());
        }
        let target = self.pref64_of(facts.dst)?;
        let key = Key {
            src: facts.src.into(),
            dst: facts.dst.into(),
            id: fragment.id,
            protocol: facts.protocol,
        };
        let payload = facts.len - facts.l4_offset;
        let needs_all = is_query(facts.l4.kind);
        match self.follow(key, fragment, payload, needs_all, packet.bytes(), context)? {
            Step::Wait => Ok((Verdict::Hold, Hop::None)),
            Step::Complete => self.release_all(&key, Side::V6, context),
            Step::Later(known) => self.later_v6(packet, facts, known, context),
            Step::First => {
                let done = self.first_v6(packet, facts, target, context);
                self.settle_first(&key, Side::V6, done, context)
            }
        }
    }

    /// A fragment from IPv4. `gathered`: the worker that gathers it has sent it here.
    pub(super) fn fragment_v4(
        &mut self,
        packet: &mut Packet,
        facts: &Ipv4Facts,
        fragment: FragmentFacts,
        gathered: bool,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        if let Some(worker) = self.gatherer(facts, gathered) {
            return Ok((
                Verdict::Handoff {
                    worker,
                    side: Side::V4,
                },
                Hop::None,
            ));
        }
        self.counters
            .add(counters::fragments_received(Side::V4.index()), 1);
        if facts.l4.kind == L4Kind::IcmpError {
            return Err(DropReason::IcmpUntranslatable.into());
        }
        let key = Key {
            src: facts.src.into(),
            dst: facts.dst.into(),
            id: fragment.id,
            protocol: facts.protocol,
        };
        let payload = facts.len - facts.l4_offset;
        let needs_all = is_query(facts.l4.kind) || siit::checksum_needs_all_fragments(facts);
        match self.follow(key, fragment, payload, needs_all, packet.bytes(), context)? {
            Step::Wait => Ok((Verdict::Hold, Hop::None)),
            Step::Complete => self.release_all(&key, Side::V4, context),
            Step::Later(known) => self.later_v4(packet, facts, known, context),
            Step::First => {
                let done = self.first_v4(packet, facts, context);
                self.settle_first(&key, Side::V4, done, context)
            }
        }
    }

    /// The worker that a fragment from IPv4 has to go to first, if it is not this one. Where
    /// workers own blocks of an address, only the first fragment tells the owner.
    fn gatherer(&self, facts: &Ipv4Facts, gathered: bool) -> Option<WorkerId> {
        let worker = if self.ownership.is_by_address() {
            self.ownership
                .of_v4(&self.pool, facts.dst, 0, Protocol::Udp)
        } else if gathered {
            return None;
        } else {
            let addresses = u64::from(u32::from(facts.src)) << 32 | u64::from(u32::from(facts.dst));
            self.ownership
                .of_fragment([addresses, u64::from(facts.id), u64::from(facts.protocol)])
        };
        (worker != self.worker).then_some(worker)
    }

    /// Notes the fragment and says what follows from it.
    fn follow(
        &mut self,
        key: Key,
        fragment: FragmentFacts,
        payload: u16,
        needs_all: bool,
        bytes: &[u8],
        context: &Context,
    ) -> Result<Step, Refusal> {
        let store = &mut self.fragments;
        if !store.packets.contains_key(&key) {
            if store.order.len() >= PACKETS_MAX {
                return Err(DropReason::FragmentsFull.into());
            }
            store
                .order
                .push_back((context.now + self.config.lifetimes.fragment, key));
            let new = Followed {
                known: None,
                needs_all: false,
                end: None,
                ranges: Vec::new(),
                held: Vec::new(),
            };
            store.packets.insert(key, new);
        }
        let Some(followed) = store.packets.get_mut(&key) else {
            return Err(DropReason::FragmentsFull.into());
        };
        if let Some(Known::Refused(reason)) = followed.known {
            return Err(reason.into());
        }
        let first = u32::from(fragment.offset);
        if let Err(reason) = followed.note(first, first + u32::from(payload), fragment.more) {
            if reason != DropReason::FragmentDuplicate {
                self.condemn(&key, reason);
            }
            return Err(reason.into());
        }
        followed.needs_all |= needs_all;
        match followed.known {
            Some(known) => return Ok(Step::Later(known)),
            None if first == 0 && !followed.needs_all => return Ok(Step::First),
            None => {}
        }
        let completes = followed.needs_all && followed.is_complete();
        if let Err(reason) = store.hold(&key, bytes) {
            self.condemn(&key, reason);
            return Err(reason.into());
        }
        self.counters.add(counters::fragments_held(0), 1);
        if completes {
            return Ok(Step::Complete);
        }
        self.counters
            .add(counters::packets_held(side_of(&key).index()), 1);
        Ok(Step::Wait)
    }

    /// Drops what is held of a packet, and what may still come of it.
    fn condemn(&mut self, key: &Key, reason: DropReason) {
        for stored in self.fragments.take_held(key) {
            self.fragments.buffers.give_back(stored);
            self.counters.sub(counters::fragments_held(0), 1);
            self.counters
                .add(counters::drop_id(side_of(key), reason), 1);
        }
        if let Some(followed) = self.fragments.packets.get_mut(key) {
            followed.known = Some(Known::Refused(reason));
        }
    }

    fn first_v6(
        &mut self,
        packet: &mut Packet,
        facts: &Ipv6Facts,
        (pref64, remote): (u8, Ipv4Addr),
        context: &Context,
    ) -> Result<(Verdict, Hop, Known), Refusal> {
        let mut one = super::PreparedV6 {
            facts: *facts,
            remote,
            pref64,
            ..super::Place::EMPTY.v6
        };
        self.look_up_v6(&mut one)?;
        let hairpin = self.hairpins(&one)?;
        let (outgoing, way) = self.write_v4(packet, &one, hairpin, context)?;
        let (src, dst) = (outgoing.src.ip, outgoing.dst.ip);
        let known = Known::V4 {
            src,
            dst,
            hop: way.hop,
            mtu: way.mtu,
            hairpin,
        };
        let (verdict, hop) = self.leave_v4(packet, facts.len, known, context)?;
        Ok((verdict, hop, known))
    }

    fn first_v4(
        &mut self,
        packet: &mut Packet,
        facts: &Ipv4Facts,
        context: &Context,
    ) -> Result<(Verdict, Hop, Known), Refusal> {
        let protocol = super::protocol_of(facts.l4.kind)?;
        let owner = self
            .ownership
            .of_v4(&self.pool, facts.dst, facts.l4.dst_port, protocol);
        if owner != self.worker {
            let verdict = Verdict::Handoff {
                worker: owner,
                side: Side::V4,
            };
            return Ok((verdict, Hop::None, Known::Elsewhere(owner)));
        }
        let slot = self.pool.slot(facts.dst).ok_or(DropReason::NotOurs)?;
        let one = super::PreparedV4 {
            facts: *facts,
            protocol,
            slot,
        };
        let (outgoing, way, verdict) = self.write_v6(packet, &one, context)?;
        let known = Known::V6 {
            src: outgoing.src.ip,
            dst: outgoing.dst.ip,
            hop: way.hop,
            mtu: way.mtu,
        };
        Ok((verdict, way.hop, known))
    }

    /// Keeps what the first fragment told, and sends those after it that had to wait.
    fn settle_first(
        &mut self,
        key: &Key,
        side: Side,
        done: Result<(Verdict, Hop, Known), Refusal>,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        let (verdict, hop, known) = match done {
            Ok(done) => done,
            Err(refusal) => {
                let reason = match refusal {
                    Refusal::Drop(reason) | Refusal::Reject(reason, _) => reason,
                    Refusal::Hold => DropReason::TcpIncomingSyn,
                };
                self.condemn(key, reason);
                return Err(refusal);
            }
        };
        if let Some(followed) = self.fragments.packets.get_mut(key) {
            followed.known = Some(known);
        }
        for stored in self.fragments.take_held(key) {
            self.release(
                stored,
                side,
                |nat64, packet| nat64.later(packet, side, known, context),
                context,
            );
        }
        Ok((verdict, hop))
    }

    /// Translates a held fragment in a copy and posts it.
    fn release(
        &mut self,
        stored: Stored,
        side: Side,
        translate: impl FnOnce(&mut Nat64, &mut Packet) -> Result<(Verdict, Hop), Refusal>,
        context: &Context,
    ) {
        let mut scratch = Scratch::of(self.fragments.buffers.bytes(&stored));
        self.fragments.buffers.give_back(stored);
        self.counters.sub(counters::fragments_held(0), 1);
        let (verdict, hop) = scratch.with(|packet| match translate(self, packet) {
            Ok(done) => done,
            Err(refusal) => self.refuse(packet, side, refusal, context),
        });
        self.post_scratch(&scratch, side, verdict, hop);
    }

    fn later(
        &mut self,
        packet: &mut Packet,
        side: Side,
        known: Known,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        match side {
            Side::V6 => {
                let facts = Ipv6Facts::parse(packet.bytes())?;
                self.later_v6(packet, &facts, known, context)
            }
            Side::V4 => {
                let facts = Ipv4Facts::parse(packet.bytes())?;
                self.later_v4(packet, &facts, known, context)
            }
        }
    }

    fn later_v6(
        &mut self,
        packet: &mut Packet,
        facts: &Ipv6Facts,
        known: Known,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        let Known::V4 { src, dst, mtu, .. } = known else {
            return Err(DropReason::FragmentUnmatched.into());
        };
        if facts.len - facts.l4_offset + IPV4_HEADER > mtu {
            return Err(way::too_big_for_v4(mtu));
        }
        let at = |ip| TransportAddr4 { ip, port: 0 };
        let outgoing = Tuple4 {
            src: at(src),
            dst: at(dst),
            protocol: Protocol::Udp,
        };
        siit::v6_to_v4(packet, facts, &outgoing, Delta::ZERO, &self.rules, 0);
        self.leave_v4(packet, facts.len, known, context)
    }

    fn leave_v4(
        &mut self,
        packet: &mut Packet,
        len: u16,
        known: Known,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        match known {
            Known::V4 { hairpin: true, .. } => {
                self.counters.add(counters::hairpinned(0), 1);
                let facts = Ipv4Facts::parse(packet.bytes())?;
                let fragment = facts.fragment.ok_or(DropReason::FragmentHeader)?;
                self.fragment_v4(packet, &facts, fragment, false, context)
            }
            Known::V4 { hop, .. } => {
                self.count_forwarded(Side::V6, len);
                Ok((Verdict::Forward(Side::V4), hop))
            }
            _ => Err(DropReason::FragmentUnmatched.into()),
        }
    }

    fn later_v4(
        &mut self,
        packet: &mut Packet,
        facts: &Ipv4Facts,
        known: Known,
        _context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        let (src, dst, hop, mtu) = match known {
            Known::V6 { src, dst, hop, mtu } => (src, dst, hop, mtu),
            Known::Elsewhere(worker) => {
                return Ok((
                    Verdict::Handoff {
                        worker,
                        side: Side::V4,
                    },
                    Hop::None,
                ));
            }
            _ => return Err(DropReason::FragmentUnmatched.into()),
        };
        let cut = self.fits_v6(packet, facts, mtu)?;
        let at = |ip| TransportAddr6 { ip, port: 0 };
        let outgoing = Tuple6 {
            src: at(src),
            dst: at(dst),
            protocol: Protocol::Udp,
        };
        siit::v4_to_v6(packet, facts, &outgoing, Delta::ZERO, &self.rules);
        self.count_forwarded(Side::V4, facts.len);
        let verdict = self.leave_v6(packet, facts, cut, hop);
        Ok((verdict, hop))
    }

    /// All fragments of a packet that needed all are here: its first is mended and goes, then the
    /// others. All leave by the outbox, the one that came last too.
    fn release_all(
        &mut self,
        key: &Key,
        side: Side,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        let mut held = self.fragments.take_held(key);
        held.sort_by_key(|stored| fragment_offset(self.fragments.buffers.bytes(stored), side));
        let whole = self.whole_sum(&held, side);
        let mut held = held.into_iter();
        let Some(first) = held.next() else {
            return Err(DropReason::FragmentUnmatched.into());
        };
        let mut known = None;
        self.release(
            first,
            side,
            |nat64, packet| {
                mend_first(packet, side, whole)?;
                let done = nat64.first(packet, side, context)?;
                known = Some(done.2);
                Ok((done.0, done.1))
            },
            context,
        );
        let known = known.unwrap_or(Known::Refused(DropReason::FragmentUnmatched));
        if let Some(followed) = self.fragments.packets.get_mut(key) {
            followed.known = Some(known);
        }
        for stored in held {
            self.release(
                stored,
                side,
                |nat64, packet| nat64.later(packet, side, known, context),
                context,
            );
        }
        Ok((Verdict::Hold, Hop::None))
    }

    fn first(
        &mut self,
        packet: &mut Packet,
        side: Side,
        context: &Context,
    ) -> Result<(Verdict, Hop, Known), Refusal> {
        match side {
            Side::V6 => {
                let facts = Ipv6Facts::parse(packet.bytes())?;
                let target = self.pref64_of(facts.dst)?;
                self.first_v6(packet, &facts, target, context)
            }
            Side::V4 => {
                let facts = Ipv4Facts::parse(packet.bytes())?;
                self.first_v4(packet, &facts, context)
            }
        }
    }

    /// Sum over the payloads of all fragments, and its length.
    fn whole_sum(&self, held: &[Stored], side: Side) -> (Sum, u16) {
        let mut sum = Sum::ZERO;
        let mut len = 0u16;
        for stored in held {
            let payload = payload_of(self.fragments.buffers.bytes(stored), side);
            sum = sum.bytes(payload);
            len = len.saturating_add(u16::try_from(payload.len()).unwrap_or(u16::MAX));
        }
        (sum, len)
    }

    /// Forgets packets whose time is over; at most `budget` of them.
    pub(super) fn expire_fragments(&mut self, budget: usize, now: Instant) {
        for _ in 0..budget {
            match self.fragments.order.front() {
                Some(&(over, key)) if over <= now => {
                    self.fragments.order.pop_front();
                    self.condemn(&key, DropReason::FragmentUnmatched);
                    self.fragments.packets.remove(&key);
                }
                _ => return,
            }
        }
    }
}

fn is_query(kind: L4Kind) -> bool {
    matches!(kind, L4Kind::EchoRequest | L4Kind::EchoReply)
}

fn side_of(key: &Key) -> Side {
    if key.src.is_ipv6() {
        Side::V6
    } else {
        Side::V4
    }
}

fn fragment_offset(bytes: &[u8], side: Side) -> u16 {
    let fragment = match side {
        Side::V6 => Ipv6Facts::parse(bytes)
            .ok()
            .and_then(|facts| facts.fragment),
        Side::V4 => Ipv4Facts::parse(bytes)
            .ok()
            .and_then(|facts| facts.fragment),
    };
    fragment.map_or(0, |fragment| fragment.offset)
}

fn payload_of(bytes: &[u8], side: Side) -> &[u8] {
    let range = match side {
        Side::V6 => Ipv6Facts::parse(bytes).map(|facts| (facts.l4_offset, facts.len)),
        Side::V4 => Ipv4Facts::parse(bytes).map(|facts| (facts.l4_offset, facts.len)),
    };
    let (from, to) = range.unwrap_or((0, 0));
    bytes
        .get(usize::from(from)..usize::from(to))
        .unwrap_or_default()
}

/// Writes into the first fragment the checksum that its translation, which sees only this
/// fragment, turns into the right one.
fn mend_first(packet: &mut Packet, side: Side, (sum, len): (Sum, u16)) -> Result<(), Refusal> {
    match side {
        Side::V6 => {
            let facts = Ipv6Facts::parse(packet.bytes())?;
            // The translator takes this fragment's length out of the pseudo-header.
            let delta = Delta::of_word(len, facts.len - facts.l4_offset);
            change_checksum(packet, facts.l4_offset + 2, |checksum| {
                delta.apply(checksum)
            })
        }
        Side::V4 => {
            let facts = Ipv4Facts::parse(packet.bytes())?;
            if facts.l4.kind == L4Kind::Udp {
                let pseudo = pseudo_header_v4(facts.src, facts.dst, facts.protocol, len);
                let checksum = Sum::ZERO
                    .word(sum.folded())
                    .word(pseudo.folded())
                    .udp_checksum();
                return change_checksum(packet, facts.l4_offset + 6, |_| checksum);
            }
            let delta = Delta::of_word(facts.len - facts.l4_offset, len);
            change_checksum(packet, facts.l4_offset + 2, |checksum| {
                delta.apply(checksum)
            })
        }
    }
}

fn change_checksum(
    packet: &mut Packet,
    at: u16,
    change: impl FnOnce(u16) -> u16,
) -> Result<(), Refusal> {
    let at = usize::from(at);
    let field = packet
        .bytes_mut()
        .get_mut(at..at + 2)
        .ok_or(DropReason::L4Truncated)?;
    let checksum = change(u16::from_be_bytes([field[0], field[1]]));
    field.copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}
