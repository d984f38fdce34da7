//! Fragments (RFC 6146 section 3.4): translated one by one once the first has told the ports, in
//! whatever order they come; nothing is reassembled.
//!
//! A later fragment that comes before the first waits in a bounded store. Two kinds need all
//! fragments before the first can go: IPv4 UDP without a checksum, and ICMP, whose IPv6
//! checksum covers the length of the whole message. Overlaps condemn the packet (RFC 5722).

mod gather;
mod store;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::checksum::Delta;
use gate64_wire::facts::{FragmentFacts, Ipv4Facts, Ipv6Facts, L4Kind};

pub(super) use self::store::Fragments;
use self::store::{Key, Place};
use super::outbox::Stored;
use super::way::Way;
use super::{Context, Hop, IPV4_HEADER, Nat64, Scratch, way};
use crate::clock::Instant;
use crate::counters;
use crate::packet::Packet;
use crate::siit;
use crate::verdict::{DropReason, HandoffReason, Refusal, Side, Verdict, WorkerId};

/// What later fragments need, once the first is through. Each finds its own next hop: those of one
/// route snapshot mean nothing in the next.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// Sent on as IPv4 with these addresses; `hairpin`: then taken from IPv4 again.
    V4 {
        src: Ipv4Addr,
        dst: Ipv4Addr,
        hairpin: bool,
    },
    /// Sent on as IPv6 with these addresses.
    V6 { src: Ipv6Addr, dst: Ipv6Addr },
    /// Another worker owns the session.
    Elsewhere(WorkerId),
    /// The first was refused, or the fragments contradict each other.
    Refused(DropReason),
}

/// What a fragment says of itself.
struct Arrived {
    fragment: FragmentFacts,
    /// Octets behind its IP headers.
    payload: u16,
    /// It cannot be translated before all are here.
    needs_all: bool,
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
        let target = self.pref64_of(facts.dst)?;
        let key = Key {
            src: facts.src.into(),
            dst: facts.dst.into(),
            id: fragment.id,
            protocol: facts.protocol,
        };
        if self.classes.have_lists() && self.bypasses_fragment(facts, target, &key) {
            return Err(Refusal::Bypass);
        }
        if facts.l4.kind == L4Kind::IcmpError {
            return Err(DropReason::IcmpUntranslatable.into());
        }
        let arrived = Arrived {
            fragment,
            payload: facts.len - facts.l4_offset,
            needs_all: is_query(facts.l4.kind),
        };
        let (place, step) = self.follow(key, arrived, packet.bytes(), context)?;
        let done = match step {
            Step::Wait => return Ok((Verdict::Hold, Hop::None)),
            Step::Complete => self.release_all(place, context),
            Step::Later(known) => self.later_v6(packet, facts, known, context),
            Step::First => {
                let done = self.first_v6(packet, facts, target, context);
                self.settle_first(place, done, context)
            }
        };
        self.forget_complete(place);
        done
    }

    /// Whether the lists have a fragment routed on as it is. As with whole packets, one of a
    /// session is not judged again; its later fragments are known by the first. What is denied is
    /// refused as whole packets are, where the session is looked for.
    #[cold]
    fn bypasses_fragment(&self, facts: &Ipv6Facts, target: (u8, Ipv4Addr), key: &Key) -> bool {
        self.is_bypassed(facts.src, target.1)
            && !self.fragments.follows(key)
            && !self.is_of_session(facts, target)
    }

    fn is_of_session(&self, facts: &Ipv6Facts, (pref64, remote): (u8, Ipv4Addr)) -> bool {
        let mut one = super::PreparedV6 {
            facts: *facts,
            remote,
            pref64,
            ..super::Place::EMPTY.v6
        };
        self.look_up_v6(&mut one).is_ok() && self.find_v6(&one).session.is_some()
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
            return Ok(self.hand_off(worker, Side::V4, HandoffReason::Fragment));
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
        let arrived = Arrived {
            fragment,
            payload: facts.len - facts.l4_offset,
            needs_all: is_query(facts.l4.kind) || siit::checksum_needs_all_fragments(facts),
        };
        let (place, step) = self.follow(key, arrived, packet.bytes(), context)?;
        let done = match step {
            Step::Wait => return Ok((Verdict::Hold, Hop::None)),
            Step::Complete => self.release_all(place, context),
            Step::Later(known) => self.later_v4(packet, facts, known, context),
            Step::First => {
                let done = self.first_v4(packet, facts, context);
                self.settle_first(place, done, context)
            }
        };
        self.forget_complete(place);
        done
    }

    /// The worker that has the session of a first fragment from IPv4.
    fn owner_of(&self, facts: &Ipv4Facts, protocol: Protocol) -> WorkerId {
        self.ownership
            .of_v4(&self.pool, facts.dst, facts.l4.dst_port, protocol)
    }

    /// The worker that a fragment from IPv4 has to go to first, if it is not this one. Where
    /// workers own blocks of an address, only the first fragment tells the owner.
    fn gatherer(&self, facts: &Ipv4Facts, gathered: bool) -> Option<WorkerId> {
        let worker = if self.ownership.is_by_address(&self.pool) {
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
        arrived: Arrived,
        bytes: &[u8],
        context: &Context,
    ) -> Result<(Place, Step), Refusal> {
        let source = match key.src {
            // One customer is one source, however many addresses its prefix has.
            IpAddr::V6(src) => Ipv6Addr::from(self.ownership.subscriber_prefix(src)).into(),
            v4 @ IpAddr::V4(_) => v4,
        };
        let over = context.now + self.config.lifetimes.fragment;
        let store = &mut self.fragments;
        let place = store.follow(key, source, over)?;
        if let Some(Known::Refused(reason)) = store.get(place).known {
            return Err(reason.into());
        }
        let offset = arrived.fragment.offset;
        let (first, payload) = (u32::from(offset), u32::from(arrived.payload));
        if let Err(reason) = store.note(place, first, first + payload, arrived.fragment.more) {
            if reason != DropReason::FragmentDuplicate {
                self.condemn(place, reason);
            }
            return Err(reason.into());
        }
        let followed = store.get_mut(place);
        followed.needs_all |= arrived.needs_all;
        match followed.known {
            Some(known) => return Ok((place, Step::Later(known))),
            None if offset == 0 && !followed.needs_all => return Ok((place, Step::First)),
            None => {}
        }
        let completes = followed.needs_all && followed.is_complete();
        if let Err(reason) = store.hold(place, offset, bytes) {
            self.condemn(place, reason);
            return Err(reason.into());
        }
        self.counters.add(counters::fragments_held(0), 1);
        if completes {
            return Ok((place, Step::Complete));
        }
        self.counters
            .add(counters::packets_held(key.side().index()), 1);
        Ok((place, Step::Wait))
    }

    /// Drops what is held of a packet, and what may still come of it.
    fn condemn(&mut self, place: Place, reason: DropReason) {
        let side = self.fragments.get(place).key.side();
        while let Some(stored) = self.fragments.take_held(place) {
            self.fragments.buffers.give_back(stored);
            self.counters.sub(counters::fragments_held(0), 1);
            self.counters.add(counters::drop_id(side, reason), 1);
        }
        self.fragments.get_mut(place).known = Some(Known::Refused(reason));
    }

    /// Forgets a packet that is through; a refused one is remembered, for its fragments to come.
    fn forget_complete(&mut self, place: Place) {
        let followed = self.fragments.get(place);
        let is_refused = matches!(followed.known, Some(Known::Refused(_)) | None);
        if followed.is_complete() && !is_refused {
            self.fragments.forget(place);
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
        let known = Known::V4 { src, dst, hairpin };
        let (verdict, hop) = self.leave_v4(packet, facts.len, hairpin, way, context)?;
        Ok((verdict, hop, known))
    }

    fn first_v4(
        &mut self,
        packet: &mut Packet,
        facts: &Ipv4Facts,
        context: &Context,
    ) -> Result<(Verdict, Hop, Known), Refusal> {
        let protocol = super::protocol_of(facts.l4.kind)?;
        let owner = self.owner_of(facts, protocol);
        if owner != self.worker {
            let (verdict, hop) = self.hand_off(owner, Side::V4, HandoffReason::Fragment);
            return Ok((verdict, hop, Known::Elsewhere(owner)));
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
        };
        Ok((verdict, way.hop, known))
    }

    /// Keeps what the first fragment told, and sends those after it that had to wait.
    fn settle_first(
        &mut self,
        place: Place,
        done: Result<(Verdict, Hop, Known), Refusal>,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        let (verdict, hop, known) = match done {
            Ok(done) => done,
            Err(refusal) => {
                let reason = match refusal {
                    Refusal::Drop(reason) | Refusal::Reject(reason, _) => reason,
                    Refusal::Hold => DropReason::TcpIncomingSyn,
                    // Those without a session were not followed: this one's has ended meanwhile.
                    Refusal::Bypass => DropReason::FragmentUnmatched,
                };
                self.condemn(place, reason);
                return Err(refusal);
            }
        };
        self.fragments.get_mut(place).known = Some(known);
        self.release_held(place, known, context);
        Ok((verdict, hop))
    }

    /// Sends what had to wait, by offset.
    fn release_held(&mut self, place: Place, known: Known, context: &Context) {
        let side = self.fragments.get(place).key.side();
        while let Some(stored) = self.fragments.take_held(place) {
            self.release(
                stored,
                side,
                |nat64, packet| nat64.later(packet, side, known, context),
                context,
            );
        }
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
        let Known::V4 { src, dst, hairpin } = known else {
            return Err(DropReason::FragmentUnmatched.into());
        };
        let way = if hairpin {
            Way::HAIRPIN
        } else {
            self.way_v4(None, dst, context)?
        };
        if facts.len - facts.l4_offset + IPV4_HEADER > way.mtu {
            return Err(way::too_big_for_v4(way.mtu));
        }
        let at = |ip| TransportAddr4 { ip, port: 0 };
        let outgoing = Tuple4 {
            src: at(src),
            dst: at(dst),
            protocol: Protocol::Udp,
        };
        siit::v6_to_v4(packet, facts, &outgoing, Delta::ZERO, &self.rules, 0);
        self.leave_v4(packet, facts.len, hairpin, way, context)
    }

    fn leave_v4(
        &mut self,
        packet: &mut Packet,
        len: u16,
        hairpin: bool,
        way: Way,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        if !hairpin {
            self.count_forwarded(Side::V6, len);
            return Ok((Verdict::Forward(Side::V4), way.hop));
        }
        self.counters.add(counters::hairpinned(0), 1);
        let facts = Ipv4Facts::parse(packet.bytes())?;
        let fragment = facts.fragment.ok_or(DropReason::FragmentHeader)?;
        let done = self.fragment_v4(packet, &facts, fragment, false, context);
        // It is an IPv4 packet by now: what refuses it is answered as such.
        Ok(done.unwrap_or_else(|refusal| self.refuse(packet, Side::V4, refusal, context)))
    }

    fn later_v4(
        &mut self,
        packet: &mut Packet,
        facts: &Ipv4Facts,
        known: Known,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        let (src, dst) = match known {
            Known::V6 { src, dst } => (src, dst),
            Known::Elsewhere(worker) => {
                return Ok(self.hand_off(worker, Side::V4, HandoffReason::Fragment));
            }
            _ => return Err(DropReason::FragmentUnmatched.into()),
        };
        let way = self.way_v6(None, dst, context)?;
        let cut = self.fits_v6(packet, facts, way.mtu)?;
        let at = |ip| TransportAddr6 { ip, port: 0 };
        let outgoing = Tuple6 {
            src: at(src),
            dst: at(dst),
            protocol: Protocol::Udp,
        };
        siit::v4_to_v6(packet, facts, &outgoing, Delta::ZERO, &self.rules);
        self.count_forwarded(Side::V4, facts.len);
        let verdict = self.leave_v6(packet, facts, cut, way.hop);
        Ok((verdict, way.hop))
    }

    /// Forgets packets whose time is over; at most `budget` of them.
    pub(super) fn expire_fragments(&mut self, budget: usize, now: Instant) {
        for _ in 0..budget {
            let Some(place) = self.fragments.run_out(now) else {
                return;
            };
            self.condemn(place, DropReason::FragmentUnmatched);
            self.fragments.forget(place);
        }
    }
}

fn is_query(kind: L4Kind) -> bool {
    matches!(kind, L4Kind::EchoRequest | L4Kind::EchoReply)
}
