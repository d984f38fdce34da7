//! Filtering and updating of BIBs and sessions (RFC 6146 section 3.5): who may pass, what is
//! made for it, and whose quota it counts against.

use std::net::Ipv4Addr;

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};
use gate64_wire::checksum::Delta;
use gate64_wire::rfc6052::Pref64;

use super::class::Destination;
use super::lifetime::{STATE_ICMP, STATE_UDP};
use super::table::{Session, SessionRef};
use super::tcp_state::TcpState;
use super::tuples::shown_peer;
use super::{
    Context, Found, Hop, Nat64, PreparedV4, PreparedV6, is_global, mapped_of, opens_tcp, peer_of,
    peer_port,
};
use crate::command::{Event, SessionEvent};
use crate::config::Filtering;
use crate::counters;
use crate::packet::Packet;
use crate::verdict::{DropReason, IcmpError, Refusal, Side};

/// What the write needs to know of a BIB entry and session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mapping {
    /// T,t.
    pub v4: TransportAddr4,
    /// Which prefix the client uses for the peer.
    pub pref64: u8,
    /// Change of the layer 4 checksum from IPv6 to IPv4.
    pub delta: Delta,
}

impl Nat64 {
    /// A packet from IPv6: finds or makes the BIB entry and the session, and refreshes it.
    #[inline]
    pub(super) fn filter_and_update_v6(
        &mut self,
        one: &PreparedV6,
        found: Found,
        hop: Hop,
        context: &Context,
    ) -> Result<Mapping, Refusal> {
        let at = match found.session {
            Some(at) => at,
            None => match self.open_v6(one, found.bib, context)? {
                Opened::Session(at) => at,
                Opened::Stateless(mapping) => return Ok(mapping),
            },
        };
        let seen = found.session.is_some().then_some(one.facts.l4.tcp_flags);
        let mapping = self.refresh(at, Side::V6, one.protocol, seen, hop, context);
        if mapping.pref64 == one.pref64 {
            return Ok(mapping);
        }
        Ok(self.follow_pref64(at, one))
    }

    /// The client reaches its peer by another prefix than before: the session is the same in IPv4,
    /// and its answers come from the prefix used last.
    #[cold]
    fn follow_pref64(&mut self, at: SessionRef, one: &PreparedV6) -> Mapping {
        let port = one.facts.l4.dst_port;
        let mapping = self.stateless(at.bib(), one.remote, port, one.pref64, one.protocol);
        let (_, session) = self.table.touch(at);
        session.pref64 = mapping.pref64;
        session.delta = mapping.delta.bits();
        mapping
    }

    /// A packet from IPv4 to a BIB entry: finds or makes the session if filtering lets it pass.
    #[inline]
    pub(super) fn filter_and_update_v4(
        &mut self,
        packet: &Packet,
        one: &PreparedV4,
        bib: u32,
        session: Option<SessionRef>,
        hop: Hop,
        context: &Context,
    ) -> Result<Mapping, Refusal> {
        let at = match session {
            Some(at) => at,
            None => match self.open_v4(packet, one, bib, context)? {
                Opened::Session(at) => at,
                Opened::Stateless(mapping) => return Ok(mapping),
            },
        };
        let seen = session.is_some().then_some(one.facts.l4.tcp_flags);
        Ok(self.refresh(at, Side::V4, one.protocol, seen, hop, context))
    }

    /// Stores the time of the packet, and for TCP takes the step of its state machine; keeps the
    /// hop. `seen`: the packet's TCP flags, nothing for a session that it has just made.
    #[inline]
    fn refresh(
        &mut self,
        at: SessionRef,
        side: Side,
        protocol: Protocol,
        seen: Option<u8>,
        hop: Hop,
        context: &Context,
    ) -> Mapping {
        let towards_v4 = side == Side::V6;
        let (v4, session) = self.table.touch(at);
        match seen {
            None => {}
            Some(tcp_flags) if protocol == Protocol::Tcp => {
                let step = TcpState::from_octet(session.state).step(side, tcp_flags);
                session.state = step.state as u8;
                if step.refresh {
                    session.seen = context.tick.0;
                }
            }
            Some(_) => session.seen = context.tick.0,
        }
        if let Hop::Resolved(hop) = hop
            && session.hop(context.generation, towards_v4) != Some(hop)
        {
            session.keep_hop(context.generation, towards_v4, hop);
        }
        Mapping {
            v4,
            pref64: session.pref64,
            delta: Delta::from_bits(session.delta),
        }
    }

    /// A packet from IPv6 without a session.
    #[cold]
    fn open_v6(
        &mut self,
        one: &PreparedV6,
        bib: Option<u32>,
        context: &Context,
    ) -> Result<Opened, Refusal> {
        let facts = &one.facts;
        self.check_addresses(facts.src, one.pref64, one.remote)?;
        if one.protocol == Protocol::Tcp && !opens_tcp(facts.l4.tcp_flags) {
            // RFC 6146 section 3.5.2.2, CLOSED: translated without state, or dropped without BIB.
            let bib = bib.ok_or(DropReason::TcpNotSyn)?;
            return Ok(Opened::Stateless(self.stateless(
                bib,
                one.remote,
                facts.l4.dst_port,
                one.pref64,
                one.protocol,
            )));
        }
        let v6 = TransportAddr6 {
            ip: facts.src,
            port: facts.l4.src_port,
        };
        let (subscriber, is_new) = self.subscriber_of(v6, context)?;
        let opened = match self.is_cutting() && self.is_cut_off(bib, subscriber) {
            false => self.open_session_v6(one, bib, v6, subscriber, context),
            true => Err(self.class_of(subscriber).refusal(DropReason::PoolExhausted)),
        };
        if let Err(refusal) = &opened {
            self.subscribers.get_mut(subscriber).note(refusal);
            if is_new {
                self.forget_if_idle(subscriber, context.tick);
            }
        }
        opened.map(Opened::Session)
    }

    fn open_session_v6(
        &mut self,
        one: &PreparedV6,
        bib: Option<u32>,
        v6: TransportAddr6,
        subscriber: u32,
        context: &Context,
    ) -> Result<SessionRef, Refusal> {
        let to = one.facts.l4.dst_port;
        let is_essential = self.classes.is_essential(one.protocol, to);
        self.may_open(subscriber, is_essential, context)?;
        let is_new = bib.is_none();
        let bib = match bib {
            Some(bib) => bib,
            None => self.map(v6, one.protocol, subscriber, to, context)?,
        };
        let peer = TransportAddr4 {
            ip: one.remote,
            port: one.facts.l4.dst_port,
        };
        let state = match one.protocol {
            Protocol::Udp => STATE_UDP,
            Protocol::Icmp => STATE_ICMP,
            // The peer's SYN was here already: a simultaneous open.
            Protocol::Tcp if self.release_syn(self.table.bib(bib).v4(), peer) => {
                TcpState::Established as u8
            }
            Protocol::Tcp => TcpState::V6Init as u8,
        };
        let remote_port = peer_port(one.protocol, one.facts.l4.dst_port);
        let added = self.add_session(bib, one.remote, remote_port, one.pref64, state, context);
        if added.is_err() && is_new {
            self.unmap(bib, context.tick);
        }
        added
    }

    /// A packet from IPv4 to a BIB entry, without a session.
    #[cold]
    fn open_v4(
        &mut self,
        packet: &Packet,
        one: &PreparedV4,
        bib: u32,
        context: &Context,
    ) -> Result<Opened, Refusal> {
        let facts = &one.facts;
        if self.config.filtering == Filtering::AddressDependent && !self.talks_to(bib, facts.src) {
            return Err(self.filtered(packet, one, context));
        }
        let subscriber = self.table.bib(bib).subscriber;
        self.find_class(subscriber);
        let pref64 = self.pref64_for(subscriber, facts.src)?;
        let state = match one.protocol {
            Protocol::Udp => STATE_UDP,
            Protocol::Icmp => STATE_ICMP,
            Protocol::Tcp if opens_tcp(facts.l4.tcp_flags) => TcpState::V4Init as u8,
            Protocol::Tcp => {
                let mapping =
                    self.stateless(bib, facts.src, facts.l4.src_port, pref64, one.protocol);
                return Ok(Opened::Stateless(mapping));
            }
        };
        let remote_port = peer_port(one.protocol, facts.l4.src_port);
        if self.is_cutting() && self.is_cut_off(Some(bib), subscriber) {
            return Err(self.class_of(subscriber).refusal(DropReason::PoolExhausted));
        }
        let opened = self
            .may_open(subscriber, false, context)
            .and_then(|()| self.add_session(bib, facts.src, remote_port, pref64, state, context));
        if let Err(refusal) = &opened {
            self.subscribers.get_mut(subscriber).note(refusal);
        }
        Ok(Opened::Session(opened?))
    }

    /// The prefix in which the peer of a new session from IPv4 is embedded: the first that may
    /// carry it (RFC 6052 section 3.1).
    fn pref64_for(&self, subscriber: u32, remote: Ipv4Addr) -> Result<u8, Refusal> {
        let is_bound = self.config.wkp_strict && !is_global(remote);
        let may_carry = |pref64: &Pref64| !(is_bound && pref64.is_well_known());
        let of_class = self.class_of(subscriber).pref64;
        let listed = self.config.pref64.get(usize::from(of_class));
        if listed.is_some_and(may_carry) {
            return Ok(of_class);
        }
        let mut prefixes = (0u8..).zip(&self.config.pref64);
        let found = prefixes.find(|(_, pref64)| may_carry(pref64));
        match found {
            Some((number, _)) => Ok(number),
            None => Err(DropReason::WkpNonGlobal.into()),
        }
    }

    /// RFC 6146 section 3.5.2.2: a filtered SYN is held, for the client's may be on its way.
    fn filtered(&mut self, packet: &Packet, one: &PreparedV4, context: &Context) -> Refusal {
        let facts = &one.facts;
        if one.protocol == Protocol::Tcp && opens_tcp(facts.l4.tcp_flags) {
            return self.hold_syn(packet.bytes(), mapped_of(facts), peer_of(facts), context);
        }
        Refusal::Reject(DropReason::Filtered, IcmpError::AdminProhibited)
    }

    fn may_open(
        &mut self,
        subscriber: u32,
        is_essential: bool,
        context: &Context,
    ) -> Result<(), Refusal> {
        if self.log_sessions {
            self.may_log()?;
        }
        let now_ms = context.now.as_nanos() / 1_000_000;
        let one = self.subscribers.get_mut(subscriber);
        let class = self.classes.get(one.class);
        // RFC 5508 REQ-8 and RFC 6888 REQ-11: no resources, answered as the class says.
        one.may_open_session(class, is_essential, now_ms)
            .map_err(|reason| class.refusal(reason))?;
        if !self.table.has_room() {
            return Err(class.refusal(DropReason::SessionTableFull));
        }
        Ok(())
    }

    /// Refuses what the lists of the host's class keep from translation (RFC 6888 REQ-6). What
    /// has a session was judged when that was made.
    #[cold]
    pub(super) fn check_destination(
        &self,
        src: std::net::Ipv6Addr,
        remote: Ipv4Addr,
    ) -> Result<(), Refusal> {
        match self.classes.destination(src, remote) {
            Destination::Translated => Ok(()),
            Destination::Bypassed => Err(Refusal::Bypass),
            Destination::Denied => {
                let class = self.classes.get(self.classes.number_of(u128::from(src)));
                Err(class.refusal(DropReason::DestinationDenied))
            }
        }
    }

    /// RFC 6146 section 3.5: under address-dependent filtering a peer may answer if the client
    /// has a session with that address, whatever the port.
    fn talks_to(&self, bib: u32, remote: Ipv4Addr) -> bool {
        let entry = self.table.bib(bib);
        let first = &entry.session;
        (first.is_live() && first.remote().ip == remote)
            || self.permissions.contains_key(&(bib, u32::from(remote)))
    }

    fn stateless(
        &self,
        bib: u32,
        remote: Ipv4Addr,
        port: u16,
        pref64: u8,
        protocol: Protocol,
    ) -> Mapping {
        let entry = self.table.bib(bib);
        let (v6, v4) = (entry.v6(), entry.v4());
        let delta = self.delta(
            v6,
            v4,
            TransportAddr4 { ip: remote, port },
            pref64,
            protocol,
        );
        Mapping { v4, pref64, delta }
    }

    fn add_session(
        &mut self,
        bib: u32,
        remote: Ipv4Addr,
        remote_port: u16,
        pref64: u8,
        state: u8,
        context: &Context,
    ) -> Result<SessionRef, Refusal> {
        let entry = self.table.bib(bib);
        let (v6, v4, protocol, subscriber) =
            (entry.v6(), entry.v4(), entry.protocol(), entry.subscriber);
        let peer = TransportAddr4 {
            ip: remote,
            port: remote_port,
        };
        let delta = self.delta(v6, v4, peer, pref64, protocol);
        let session = Session::new(peer, pref64, state, context.tick, delta);
        let over = self.lifetimes.over_at(state, context.tick);
        let visit = self.lifetimes.visit_at(over, context.tick);
        let added = self.table.add_session(bib, session, visit);
        let at = added.map_err(|_| {
            self.class_of(subscriber)
                .refusal(DropReason::SessionTableFull)
        })?;
        if self.config.filtering == Filtering::AddressDependent
            && matches!(at, SessionRef::Extra { .. })
        {
            *self
                .permissions
                .entry((bib, u32::from(remote)))
                .or_insert(0) += 1;
        }
        self.count_session(subscriber, true);
        self.counters.add(counters::sessions(protocol.index()), 1);
        self.counters
            .add(counters::sessions_created(protocol.index()), 1);
        if self.log_sessions {
            let event = self.session_event(at, context.now);
            self.tell(Event::SessionCreated(event));
        }
        Ok(at)
    }

    /// The addresses of a session for the log.
    pub(super) fn session_event(&self, at: SessionRef, now: crate::clock::Instant) -> SessionEvent {
        let entry = self.table.bib(at.bib());
        let session = self.table.session(at);
        let remote = shown_peer(entry, session);
        SessionEvent {
            at: now,
            protocol: entry.protocol(),
            v6: entry.v6(),
            v6_remote: TransportAddr6 {
                ip: self.pref64(session.pref64).embed(remote.ip),
                port: remote.port,
            },
            v4: entry.v4(),
            v4_remote: remote,
        }
    }

    /// Makes a BIB entry: a port of the subscriber's blocks, or of a new block.
    fn map(
        &mut self,
        v6: TransportAddr6,
        protocol: Protocol,
        subscriber: u32,
        to: u16,
        context: &Context,
    ) -> Result<u32, Refusal> {
        let (v4, slot) = self.allocate(v6.port, protocol, subscriber, to, context)?;
        self.count_port(subscriber, v4, protocol, true);
        match self
            .table
            .add_bib(v6, v4, slot, protocol, subscriber, false)
        {
            Ok(bib) => {
                self.subscribers.get_mut(subscriber).bib_count += 1;
                self.counters
                    .add(counters::bib_entries(protocol.index()), 1);
                Ok(bib)
            }
            Err(_) => {
                self.count_port(subscriber, v4, protocol, false);
                self.free_port(v4, protocol, context.tick);
                let class = self.class_of(subscriber);
                Err(class.refusal(DropReason::SessionTableFull))
            }
        }
    }

    /// Removes a BIB entry without sessions, and frees its port.
    pub(super) fn unmap(&mut self, bib: u32, now: crate::clock::Tick) {
        let entry = self.table.bib(bib);
        let (v4, protocol, subscriber) = (entry.v4(), entry.protocol(), entry.subscriber);
        self.table.remove_bib(bib);
        self.subscribers.get_mut(subscriber).bib_count -= 1;
        self.counters
            .sub(counters::bib_entries(protocol.index()), 1);
        self.count_port(subscriber, v4, protocol, false);
        self.free_port(v4, protocol, now);
        // Who has its blocks by calculation holds nothing back.
        if self.subscribers.get(subscriber).fixed_count > 0 {
            self.forget_if_idle(subscriber, now);
        }
    }
}

/// What a packet without a session got.
enum Opened {
    /// A new session.
    Session(SessionRef),
    /// Translation by the BIB entry alone (RFC 6146 section 3.5.2.2, CLOSED).
    Stateless(Mapping),
}
