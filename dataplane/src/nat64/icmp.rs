//! ICMP errors: those that cross (RFC 6146 sections 3.4 to 3.7, by their inner packet) and those
//! that gate64 makes. Neither touches a session's lifetime (RFC 5508 REQ-6).

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts, L4Kind};
use gate64_wire::inner::{InnerIpv4, InnerIpv6};

use super::table::SessionRef;
use super::way::Way;
use super::{Context, Hop, Nat64, is_global, peer_port};
use crate::clock::Instant;
use crate::config::UnknownProtocol;
use crate::counters;
use crate::packet::{LINK_HEADER_MAX, Packet};
use crate::siit::{self, NextHopMtu};
use crate::verdict::{DropReason, HandoffReason, IcmpError, Refusal, Side, Verdict, WorkerId};

/// A second's worth of ICMP errors, refilled continuously (RFC 4443 section 2.4 f).
#[derive(Debug)]
pub(super) struct ErrorBudget {
    rate: u64,
    tokens_milli: u64,
    counted_at_ms: u64,
}

impl ErrorBudget {
    pub(super) fn new(rate: u32) -> ErrorBudget {
        let rate = u64::from(rate);
        ErrorBudget {
            rate,
            tokens_milli: rate * 1000,
            counted_at_ms: 0,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let now_ms = now.as_nanos() / 1_000_000;
        let earned = now_ms
            .saturating_sub(self.counted_at_ms)
            .saturating_mul(self.rate);
        self.counted_at_ms = now_ms;
        self.tokens_milli = self
            .tokens_milli
            .saturating_add(earned)
            .min(self.rate * 1000);
        let allowed = self.tokens_milli >= 1000;
        if allowed {
            self.tokens_milli -= 1000;
        }
        allowed
    }
}

/// The protocol of a packet inside an error, with the refusals of those that have no session.
fn inner_protocol(kind: L4Kind) -> Result<Protocol, Refusal> {
    match kind {
        L4Kind::Udp => Ok(Protocol::Udp),
        L4Kind::Tcp => Ok(Protocol::Tcp),
        L4Kind::EchoRequest | L4Kind::EchoReply => Ok(Protocol::Icmp),
        // RFC 6146 section 3.4: an error about an error is dropped.
        L4Kind::IcmpError => Err(DropReason::IcmpNested.into()),
        L4Kind::IcmpOther | L4Kind::Unknown | L4Kind::LaterFragment => {
            Err(DropReason::NoSession.into())
        }
    }
}

impl Nat64 {
    /// An ICMPv6 error: its inner packet is one that gate64 sent to a client.
    pub(super) fn error_v6_to_v4(
        &mut self,
        packet: &mut Packet,
        facts: &Ipv6Facts,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        if self.classes.have_lists() {
            let (_, remote) = self.pref64_of(facts.dst)?;
            if self.is_bypassed(facts.src, remote) {
                return Err(Refusal::Bypass);
            }
        }
        let inner =
            InnerIpv6::parse(packet.bytes(), facts).map_err(|_| DropReason::IcmpInnerMalformed)?;
        let protocol = inner_protocol(inner.facts.l4.kind)?;
        let client = TransportAddr6 {
            ip: inner.facts.dst,
            port: inner.facts.l4.dst_port,
        };
        let owner = self.ownership.of_v6(client.ip);
        if owner != self.worker {
            return Ok(self.hand_off(owner, Side::V6, HandoffReason::IcmpError));
        }
        let remote = self
            .remote_of(inner.facts.src)
            .ok_or(DropReason::NoSession)?;
        let remote_port = peer_port(protocol, inner.facts.l4.src_port);
        let at = self.session_of_client(client, protocol, remote, remote_port)?;
        let (number, dst) = self.pref64_of(facts.dst)?;
        self.check_addresses(facts.src, number, dst)?;
        let mapped = self.table.bib(at.bib()).v4();
        let is_query = protocol == Protocol::Icmp;
        let inner_tuple = Tuple4 {
            src: TransportAddr4 {
                ip: remote,
                port: if is_query { mapped.port } else { remote_port },
            },
            dst: mapped,
            protocol,
        };
        // RFC 6791: a hop without an IPv4 address gets the configured one, or the mapping's.
        let src = self.config.source_v4.unwrap_or(mapped.ip);
        let hairpin = self.pool.slot(dst).is_some();
        let way = if hairpin {
            Way::HAIRPIN
        } else {
            self.way_v4(None, dst, context)?
        };
        let mtu = NextHopMtu {
            v6: self.mtu_towards_v6(client.ip, context),
            v4: way.mtu,
        };
        self.identification = self.identification.wrapping_add(1);
        let identification = self.identification;
        siit::v6_to_v4_error(
            packet,
            facts,
            &inner,
            (src, dst),
            &inner_tuple,
            mtu,
            &self.rules,
            identification,
        )?;
        self.counters
            .add(counters::icmp_errors_translated(Side::V6.index()), 1);
        if hairpin {
            return self.hairpin_error(packet, context);
        }
        self.count_forwarded(Side::V6, facts.len);
        Ok((Verdict::Forward(Side::V4), way.hop))
    }

    /// An ICMPv4 error: its inner packet is one that gate64 sent from the pool.
    pub(super) fn error_v4_to_v6(
        &mut self,
        packet: &mut Packet,
        facts: &Ipv4Facts,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        let inner =
            InnerIpv4::parse(packet.bytes(), facts).map_err(|_| DropReason::IcmpInnerMalformed)?;
        let protocol = inner_protocol(inner.facts.l4.kind)?;
        let mapped = TransportAddr4 {
            ip: inner.facts.src,
            port: inner.facts.l4.src_port,
        };
        let slot = self.pool.slot(mapped.ip).ok_or(DropReason::NoBib)?;
        let owner = self
            .ownership
            .of_v4(&self.pool, mapped.ip, mapped.port, protocol);
        if owner != self.worker {
            return Ok(self.hand_off(owner, Side::V4, HandoffReason::IcmpError));
        }
        let bib = self
            .table
            .find_v4(slot, mapped.port, protocol)
            .ok_or(DropReason::NoBib)?;
        let remote_port = peer_port(protocol, inner.facts.l4.dst_port);
        let at = self
            .table
            .find_session(bib, inner.facts.dst, remote_port)
            .ok_or(DropReason::NoSession)?;
        let pref64 = self.pref64(self.table.session(at).pref64);
        let client = self.table.bib(bib).v6();
        let is_query = protocol == Protocol::Icmp;
        let inner_tuple = Tuple6 {
            src: client,
            dst: TransportAddr6 {
                ip: pref64.embed(inner.facts.dst),
                port: if is_query { client.port } else { remote_port },
            },
            protocol,
        };
        let src = if pref64.is_well_known() && self.config.wkp_strict && !is_global(facts.src) {
            // RFC 6052 section 3.1 forbids embedding that router: the hop is shown as gate64.
            self.source_v6(client.ip, context)
                .ok_or(DropReason::WkpNonGlobal)?
        } else {
            pref64.embed(facts.src)
        };
        let way = self.way_v6(None, client.ip, context)?;
        if packet.headroom() < usize::from(siit::v4_to_v6_growth(facts)) + 2 * LINK_HEADER_MAX {
            return Err(DropReason::Headroom.into());
        }
        let mtu = NextHopMtu {
            v6: way.mtu,
            v4: self.mtu_towards_v4(inner.facts.dst, context),
        };
        siit::v4_to_v6_error(
            packet,
            facts,
            &inner,
            (src, client.ip),
            &inner_tuple,
            mtu,
            &self.rules,
        )?;
        self.counters
            .add(counters::icmp_errors_translated(Side::V4.index()), 1);
        self.count_forwarded(Side::V4, facts.len);
        Ok((Verdict::Forward(Side::V6), way.hop))
    }

    fn session_of_client(
        &self,
        client: TransportAddr6,
        protocol: Protocol,
        remote: Ipv4Addr,
        remote_port: u16,
    ) -> Result<SessionRef, Refusal> {
        let probe = self.table.probe(client.ip, client.port, protocol);
        let bib = self
            .table
            .find_v6(probe, client.ip, client.port, protocol)
            .ok_or(DropReason::NoBib)?;
        Ok(self
            .table
            .find_session(bib, remote, remote_port)
            .ok_or(DropReason::NoSession)?)
    }

    pub(super) fn remote_of(&self, ip: Ipv6Addr) -> Option<Ipv4Addr> {
        self.config
            .pref64
            .iter()
            .find_map(|pref64| pref64.extract(ip))
    }

    pub(super) fn hand_off(
        &mut self,
        worker: WorkerId,
        side: Side,
        reason: HandoffReason,
    ) -> (Verdict, Hop) {
        self.counters.add(counters::handoffs(reason as usize), 1);
        self.counters
            .add(counters::packets_handed_off(side.index()), 1);
        (Verdict::Handoff { worker, side }, Hop::None)
    }

    /// A translated error whose packet had been hairpinned goes back the same way (RFC 5508 REQ-7).
    fn hairpin_error(
        &mut self,
        packet: &mut Packet,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        self.counters.add(counters::hairpinned(0), 1);
        let facts = Ipv4Facts::parse(packet.bytes())?;
        self.error_v4_to_v6(packet, &facts, context)
    }

    fn source_v6(&self, towards: Ipv6Addr, context: &Context) -> Option<Ipv6Addr> {
        self.config
            .source_v6
            .or_else(|| context.routes.source_v6(towards))
    }

    fn source_v4(&self, towards: Ipv4Addr, context: &Context) -> Option<Ipv4Addr> {
        self.config
            .source_v4
            .or_else(|| context.routes.source_v4(towards))
    }

    /// Turns a refused packet into the ICMP error in answer, if the budget, RFC 4443 section 2.4
    /// and the routes allow one. The packet itself is counted as dropped by the caller.
    pub(super) fn reject(
        &mut self,
        packet: &mut Packet,
        side: Side,
        reason: DropReason,
        error: IcmpError,
        context: &Context,
    ) -> (Verdict, Hop) {
        let dropped = (Verdict::Drop(reason), Hop::None);
        let is_unknown = reason == DropReason::UnknownProtocol;
        if is_unknown && self.config.unknown_protocol == UnknownProtocol::Drop {
            return dropped;
        }
        if !self.error_budget.take(context.now) {
            self.counters
                .add(counters::icmp_errors_suppressed(side.index()), 1);
            return dropped;
        }
        let answered = match side {
            Side::V6 => self.reject_v6(packet, error, context),
            Side::V4 => self.reject_v4(packet, error, context),
        };
        match answered {
            Some(answer) => {
                self.counters
                    .add(counters::icmp_errors_generated(side.index()), 1);
                answer
            }
            None => dropped,
        }
    }

    fn reject_v6(
        &self,
        packet: &mut Packet,
        error: IcmpError,
        context: &Context,
    ) -> Option<(Verdict, Hop)> {
        let facts = Ipv6Facts::parse(packet.bytes()).ok()?;
        let way = self.way_v6(None, facts.src, context).ok()?;
        let source = self.source_v6(facts.src, context)?;
        siit::make_error_v6(packet, &facts, error, source)
            .then_some((Verdict::Forward(Side::V6), way.hop))
    }

    fn reject_v4(
        &mut self,
        packet: &mut Packet,
        error: IcmpError,
        context: &Context,
    ) -> Option<(Verdict, Hop)> {
        let facts = Ipv4Facts::parse(packet.bytes()).ok()?;
        let source = self.source_v4(facts.src, context)?;
        if self.pool.slot(facts.src).is_some() {
            // Refused on its way back from a hairpin: the answer turns around as well.
            return siit::make_error_v4(packet, &facts, error, source)
                .then(|| self.hairpin_error(packet, context).ok())?;
        }
        let way = self.way_v4(None, facts.src, context).ok()?;
        siit::make_error_v4(packet, &facts, error, source)
            .then_some((Verdict::Forward(Side::V4), way.hop))
    }
}
