//! How a packet leaves: whole, in fragments, as the ICMP error in answer, or as it came.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::facts::{Ipv4Facts, Ipv6Facts};

use super::class::Destination;
use super::prepare::PreparedV6;
use super::{Context, Hop, IPV4_HEADER, IPV6_HEADER, Nat64, way};
use crate::config::MssClamp;
use crate::counters;
use crate::packet::{LINK_HEADER_MAX, Packet};
use crate::siit;
use crate::verdict::{DropReason, IcmpError, Refusal, Side, Verdict};

/// Place of the hop limit in an IPv6 header.
const HOP_LIMIT_AT: usize = 7;
/// Octets of a TCP header without options.
const TCP_HEADER: u16 = 20;

impl Nat64 {
    /// Whether the header fits the frame and the packet the link towards the client. A packet
    /// without DF that does not is cut: the size to cut to (RFC 7915 section 4.1).
    #[inline]
    pub(super) fn fits_v6(
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
    pub(super) fn leave_v6(
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
    pub(super) fn cut(
        &mut self,
        packet: &Packet,
        facts: &Ipv4Facts,
        lowest: u16,
        hop: Hop,
    ) -> Verdict {
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

    /// Lowers the MSS option of a SYN to what both links carry.
    pub(super) fn clamp_mss(&self, packet: &mut Packet, ip_header: u16, mtu_v4: u16, mtu_v6: u16) {
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
    pub(super) fn refuse(
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

    /// What cannot be translated need not be refused where it is not to be translated: `one` was
    /// read far enough to know its destination.
    #[cold]
    pub(super) fn unless_bypassed(
        &self,
        side: Side,
        one: &PreparedV6,
        refusal: Refusal,
    ) -> Refusal {
        let is_untranslatable = matches!(
            refusal.reason(),
            Some(
                DropReason::UnknownProtocol
                    | DropReason::IcmpUntranslatable
                    | DropReason::RoutingHeader
            )
        );
        let asks = side == Side::V6 && is_untranslatable && self.classes.have_lists();
        if asks && self.is_bypassed(one.facts.src, one.remote) {
            return Refusal::Bypass;
        }
        refusal
    }

    /// Whether the lists have packets of a host to a destination routed on as they are.
    pub(super) fn is_bypassed(&self, src: Ipv6Addr, remote: Ipv4Addr) -> bool {
        self.classes.destination(src, remote) == Destination::Bypassed
    }

    /// Routes a packet from IPv6 on as it is (RFC 6888 REQ-6): the destination has a route of its
    /// own within the prefix.
    #[cold]
    pub(super) fn bypass(&mut self, packet: &mut Packet, context: &Context) -> (Verdict, Hop) {
        match self.route_on(packet, context) {
            Ok(hop) => (Verdict::Forward(Side::V6), hop),
            Err(refusal) => self.refuse(packet, Side::V6, refusal, context),
        }
    }

    pub(super) fn route_on(
        &mut self,
        packet: &mut Packet,
        context: &Context,
    ) -> Result<Hop, Refusal> {
        let facts = Ipv6Facts::parse(packet.bytes())?;
        self.check_source(facts.src)?;
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
    pub(super) fn count_forwarded(&mut self, side: Side, len: u16) {
        self.counters
            .add(counters::packets_forwarded(side.index()), 1);
        self.counters
            .add(counters::bytes_forwarded(side.index()), u64::from(len));
    }
}
