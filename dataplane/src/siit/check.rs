//! Every refusal that a packet's content alone decides, before any table is asked.

use gate64_wire::facts::{FragmentFacts, Ipv4Facts, Ipv6Facts, L4Kind};

use super::Rules;
use crate::config::UdpChecksumZero;
use crate::verdict::{DropReason, IcmpError, Refusal};

/// Place of the protocol field in an IPv4 header.
const IPV4_PROTOCOL_AT: u16 = 9;

/// Refuses IPv6 packets that cannot be translated whatever the tables say.
///
/// # Errors
/// The reason, with the ICMPv6 error it deserves.
#[inline]
pub fn check_v6(facts: &Ipv6Facts) -> Result<(), Refusal> {
    // RFC 7915 section 5.1: the translator is a router and decrements; what would become zero
    // is not forwarded.
    if facts.hop_limit <= 1 {
        return Err(Refusal::Reject(
            DropReason::HopLimit,
            IcmpError::TimeExceeded,
        ));
    }
    if let Some(pointer) = facts.segments_left_at {
        return Err(routing_header(pointer));
    }
    match facts.l4.kind {
        L4Kind::Udp | L4Kind::Tcp => Ok(()),
        kind => check_other_v6(facts, kind),
    }
}

/// Refuses IPv4 packets that cannot be translated whatever the tables say.
///
/// # Errors
/// The reason, with the ICMPv4 error it deserves.
#[inline]
pub fn check_v4(facts: &Ipv4Facts, rules: &Rules) -> Result<(), Refusal> {
    if facts.ttl <= 1 {
        return Err(Refusal::Reject(
            DropReason::HopLimit,
            IcmpError::TimeExceeded,
        ));
    }
    // RFC 7915 section 4.1: other options are ignored.
    if facts.source_route_at.is_some() {
        return Err(Refusal::Reject(
            DropReason::SourceRoute,
            IcmpError::SourceRouteFailed,
        ));
    }
    match facts.l4.kind {
        L4Kind::Udp if facts.l4.udp_checksum_zero => check_checksum_zero(rules),
        L4Kind::Udp | L4Kind::Tcp => Ok(()),
        kind => check_other_v4(facts, kind),
    }
}

/// Whether this first fragment belongs to a UDP datagram without a checksum: IPv6 needs one, and
/// it can be computed only over all fragments together (RFC 6146 section 3.4).
#[inline]
pub fn checksum_needs_all_fragments(facts: &Ipv4Facts) -> bool {
    facts.fragment.is_some() && facts.l4.kind == L4Kind::Udp && facts.l4.udp_checksum_zero
}

/// RFC 7915 section 5.1: drop, and say where the Segments Left field is.
#[cold]
fn routing_header(pointer: u16) -> Refusal {
    Refusal::Reject(
        DropReason::RoutingHeader,
        IcmpError::ParameterProblem { pointer },
    )
}

#[cold]
fn check_checksum_zero(rules: &Rules) -> Result<(), Refusal> {
    match rules.udp_checksum_zero {
        UdpChecksumZero::Compute => Ok(()),
        UdpChecksumZero::Drop => Err(DropReason::UdpChecksumZero.into()),
    }
}

#[cold]
fn check_other_v6(facts: &Ipv6Facts, kind: L4Kind) -> Result<(), Refusal> {
    match kind {
        L4Kind::Udp | L4Kind::Tcp => Ok(()),
        // Fragmented echoes are gathered by the caller (RFC 6146 section 3.4).
        L4Kind::EchoRequest | L4Kind::EchoReply | L4Kind::LaterFragment => Ok(()),
        L4Kind::IcmpError => whole(facts.fragment),
        // RFC 7915 section 5.2: single-hop and unknown messages are silently dropped.
        L4Kind::IcmpOther => Err(DropReason::IcmpUntranslatable.into()),
        // RFC 6146 section 3.4.
        L4Kind::Unknown => Err(Refusal::Reject(
            DropReason::UnknownProtocol,
            IcmpError::PortUnreachable,
        )),
    }
}

#[cold]
fn check_other_v4(facts: &Ipv4Facts, kind: L4Kind) -> Result<(), Refusal> {
    match kind {
        L4Kind::Udp | L4Kind::Tcp => Ok(()),
        L4Kind::EchoRequest | L4Kind::EchoReply | L4Kind::LaterFragment => Ok(()),
        L4Kind::IcmpError => whole(facts.fragment),
        // RFC 7915 section 4.2: single-hop, obsolete and unknown messages are silently dropped.
        L4Kind::IcmpOther => Err(DropReason::IcmpUntranslatable.into()),
        // RFC 6146 section 3.4.
        L4Kind::Unknown => Err(Refusal::Reject(
            DropReason::UnknownProtocol,
            IcmpError::ProtocolUnreachable {
                pointer: IPV4_PROTOCOL_AT,
            },
        )),
    }
}

/// Fragmented ICMP errors are not translated (RFC 7915 section 1.2).
fn whole(fragment: Option<FragmentFacts>) -> Result<(), Refusal> {
    match fragment {
        Some(fragment) if fragment.more || fragment.offset != 0 => {
            Err(DropReason::IcmpUntranslatable.into())
        }
        _ => Ok(()),
    }
}
