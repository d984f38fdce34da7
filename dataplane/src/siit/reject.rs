//! The ICMP errors that gate64 itself sends: the refused packet, which is intact, becomes the
//! error that answers it (RFC 4443, RFC 792, RFC 1812 section 4.3.2).

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::checksum::{self, Sum};
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts, L4Kind};
use gate64_wire::{icmpv4, icmpv6, ipv4, ipv6};

use super::IPV6_MTU_MIN;
use crate::packet::Packet;
use crate::verdict::IcmpError;

/// RFC 1812 section 4.3.2.3: as much of the original as fits 576 octets.
const ICMPV4_LEN_MAX: u16 = 576;
/// RFC 1812 section 4.3.2.5: precedence "internetwork control".
const ICMPV4_TOS: u8 = 0xc0;

const V6_HEADERS_LEN: u16 = 48;
const V4_HEADERS_LEN: u16 = 28;

/// Turns a refused IPv6 packet into the ICMPv6 error sent back to its source. False, and nothing
/// done, if it must not be answered (RFC 4443 section 2.4 (e)), if the error has no ICMPv6 form
/// or if the frame has no 48 octets of headroom. The rate limit of section 2.4 (f) is the
/// caller's.
#[must_use]
pub fn make_error_v6(
    packet: &mut Packet<'_>,
    facts: &Ipv6Facts,
    error: IcmpError,
    source: Ipv6Addr,
) -> bool {
    let Some((icmp_type, code, word)) = error_v6(error) else {
        return false;
    };
    if !answerable_v6(facts, error) || packet.headroom() < usize::from(V6_HEADERS_LEN) {
        return false;
    }
    packet.truncate(facts.len.min(IPV6_MTU_MIN - V6_HEADERS_LEN));
    let len = packet.len();
    if !packet.grow_front(V6_HEADERS_LEN) {
        return false;
    }
    let Ok(payload_len) = u16::try_from(len + icmpv6::HEADER_LEN) else {
        return false;
    };
    let Some((header, message)) = packet.bytes_mut().split_first_chunk_mut() else {
        return false;
    };
    ipv6::Header {
        traffic_class: 0,
        payload_len,
        next_header: icmpv6::PROTOCOL,
        hop_limit: 64,
        src: source,
        dst: facts.src,
    }
    .write(header);
    if let Some(icmp) = message.first_chunk_mut() {
        icmpv6::Header {
            icmp_type,
            code,
            checksum: 0,
            rest: word.to_be_bytes(),
        }
        .write(icmp);
    }
    let pseudo = checksum::pseudo_header_v6(source, facts.src, icmpv6::PROTOCOL, payload_len);
    let sum = pseudo.bytes(message).checksum();
    super::delta::update(message, icmpv6::CHECKSUM_AT, |_| sum);
    true
}

/// Turns a refused IPv4 packet into the ICMPv4 error sent back to its source. False, and nothing
/// done, if it must not be answered (RFC 1122 section 3.2.2) or if the frame has no 28 octets of
/// headroom.
#[must_use]
pub fn make_error_v4(
    packet: &mut Packet<'_>,
    facts: &Ipv4Facts,
    error: IcmpError,
    source: Ipv4Addr,
) -> bool {
    if !answerable_v4(facts) || packet.headroom() < usize::from(V4_HEADERS_LEN) {
        return false;
    }
    let (icmp_type, code, rest) = error_v4(error);
    packet.truncate(facts.len.min(ICMPV4_LEN_MAX - V4_HEADERS_LEN));
    if !packet.grow_front(V4_HEADERS_LEN) {
        return false;
    }
    let Ok(len) = u16::try_from(packet.len()) else {
        return false;
    };
    let Some((header, message)) = packet.bytes_mut().split_first_chunk_mut() else {
        return false;
    };
    ipv4::Header {
        tos: ICMPV4_TOS,
        len,
        // With DF an identification of its own is not needed (RFC 6864 section 4.1).
        id: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 255,
        protocol: icmpv4::PROTOCOL,
        src: source,
        dst: facts.src,
    }
    .write(header);
    if let Some(icmp) = message.first_chunk_mut() {
        icmpv4::Header {
            icmp_type,
            code,
            checksum: 0,
            rest,
        }
        .write(icmp);
    }
    let sum = Sum::ZERO.bytes(message).checksum();
    super::delta::update(message, icmpv4::CHECKSUM_AT, |_| sum);
    true
}

/// Type, code and the word behind the checksum.
fn error_v6(error: IcmpError) -> Option<(u8, u8, u32)> {
    use icmpv6::parameter_problem::{ERRONEOUS_FIELD, NEXT_HEADER};
    use icmpv6::unreachable::{ADDRESS, ADMIN_PROHIBITED, NO_ROUTE, PORT};
    Some(match error {
        IcmpError::TimeExceeded => (icmpv6::TIME_EXCEEDED, 0, 0),
        IcmpError::TooBig { mtu } => (icmpv6::PACKET_TOO_BIG, 0, u32::from(mtu)),
        IcmpError::AdminProhibited => (icmpv6::UNREACHABLE, ADMIN_PROHIBITED, 0),
        IcmpError::AddressUnreachable => (icmpv6::UNREACHABLE, ADDRESS, 0),
        IcmpError::NoRoute => (icmpv6::UNREACHABLE, NO_ROUTE, 0),
        IcmpError::PortUnreachable => (icmpv6::UNREACHABLE, PORT, 0),
        IcmpError::ParameterProblem { pointer } => (
            icmpv6::PARAMETER_PROBLEM,
            ERRONEOUS_FIELD,
            u32::from(pointer),
        ),
        IcmpError::ProtocolUnreachable { pointer } => {
            (icmpv6::PARAMETER_PROBLEM, NEXT_HEADER, u32::from(pointer))
        }
        IcmpError::SourceRouteFailed => return None,
    })
}

fn error_v4(error: IcmpError) -> (u8, u8, [u8; 4]) {
    use icmpv4::unreachable::{
        ADMIN_PROHIBITED, FRAGMENTATION_NEEDED, HOST, NETWORK, PORT, PROTOCOL, SOURCE_ROUTE_FAILED,
    };
    let unreachable = |code| (icmpv4::UNREACHABLE, code, [0; 4]);
    match error {
        IcmpError::TimeExceeded => (icmpv4::TIME_EXCEEDED, 0, [0; 4]),
        IcmpError::TooBig { mtu } => {
            let [high, low] = mtu.to_be_bytes();
            (icmpv4::UNREACHABLE, FRAGMENTATION_NEEDED, [0, 0, high, low])
        }
        IcmpError::AdminProhibited => unreachable(ADMIN_PROHIBITED),
        IcmpError::AddressUnreachable => unreachable(HOST),
        IcmpError::NoRoute => unreachable(NETWORK),
        IcmpError::PortUnreachable => unreachable(PORT),
        IcmpError::ParameterProblem { pointer } => {
            let pointer = u8::try_from(pointer).unwrap_or(0);
            (icmpv4::PARAMETER_PROBLEM, 0, [pointer, 0, 0, 0])
        }
        IcmpError::ProtocolUnreachable { .. } => unreachable(PROTOCOL),
        IcmpError::SourceRouteFailed => unreachable(SOURCE_ROUTE_FAILED),
    }
}

/// RFC 4443 section 2.4 (e): no error about an error, a redirect, a multicast destination (but
/// for packet too big), or a source that is not one node.
fn answerable_v6(facts: &Ipv6Facts, error: IcmpError) -> bool {
    let about = match facts.l4.kind {
        L4Kind::IcmpError | L4Kind::LaterFragment => false,
        L4Kind::IcmpOther => facts.l4.icmp_type >= 128 && facts.l4.icmp_type != REDIRECT_V6,
        _ => true,
    };
    let to_one_node = !facts.dst.is_multicast() || matches!(error, IcmpError::TooBig { .. });
    let source = facts.src;
    let from_one_node = !(source.is_multicast() || source.is_unspecified() || source.is_loopback());
    about && to_one_node && from_one_node
}

/// ICMPv6 redirect (RFC 4861 section 4.5).
const REDIRECT_V6: u8 = 137;

/// RFC 1122 section 3.2.2: no error about an error, a broadcast or multicast, a later fragment,
/// or a source that is not one host.
fn answerable_v4(facts: &Ipv4Facts) -> bool {
    let about = match facts.l4.kind {
        L4Kind::IcmpError | L4Kind::LaterFragment => false,
        L4Kind::IcmpOther => {
            !matches!(facts.l4.icmp_type, icmpv4::SOURCE_QUENCH | icmpv4::REDIRECT)
        }
        _ => true,
    };
    let first = facts.src.octets()[0];
    let from_one_host = !matches!(first, 0 | 127 | 224..);
    let to_one_host = facts.dst.octets()[0] < 224;
    about && from_one_host && to_one_host
}
