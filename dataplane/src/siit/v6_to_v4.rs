//! IPv6 to IPv4, RFC 7915 section 5.

use gate64_wire::addr::{Protocol, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::checksum::Delta;
use gate64_wire::facts::{Ipv6Facts, L4Kind};
use gate64_wire::ipv4;

use super::delta::{echo_delta, echo_types, write_echo, write_ports};
use super::{IPV6_MTU_MIN, Rules, protocol_v4};
use crate::packet::Packet;

/// The largest IPv4 packet that left as an IPv6 packet of the minimum MTU (section 5.1).
pub(super) const UNFRAGMENTED_LEN_MAX: u16 = IPV6_MTU_MIN - 20;

const IPV4_HEADER_LEN: u16 = 20;

/// Translates in place a packet that [`super::check_v6`] let pass and that is no ICMP error. The
/// packet begins with its IPv6 header and its facts are `facts`; afterwards it begins with its
/// IPv4 header and ends without link padding.
///
/// `delta` is [`super::l4_delta`] of the session; ICMP does not need it. `identification` is
/// used where RFC 7915 wants one from a generator.
#[inline]
pub fn v6_to_v4(
    packet: &mut Packet<'_>,
    facts: &Ipv6Facts,
    outgoing: &Tuple4,
    delta: Delta,
    rules: &Rules,
    identification: u16,
) {
    packet.truncate(facts.len);
    packet.trim_front(facts.l4_offset - IPV4_HEADER_LEN);
    let bytes = packet.bytes_mut();
    let Some((header, l4)) = bytes.split_first_chunk_mut() else {
        return; // not the packet of these facts
    };
    let len = translated_len(facts);
    ipv4::Header {
        ttl: facts.hop_limit.saturating_sub(1),
        src: outgoing.src.ip,
        dst: outgoing.dst.ip,
        ..header_v4(facts, len, rules, identification)
    }
    .write(header);
    write_l4(l4, facts, outgoing, delta);
}

/// Octets of the IPv4 packet: extension headers go.
#[inline]
pub(super) fn translated_len(facts: &Ipv6Facts) -> u16 {
    facts.len - facts.l4_offset + IPV4_HEADER_LEN
}

/// The IPv4 header of a packet of `len` octets that an IPv6 header becomes, but for addresses and
/// with the hop limit as it was (sections 5.1 and 5.1.1).
#[inline]
pub(super) fn header_v4(
    facts: &Ipv6Facts,
    len: u16,
    rules: &Rules,
    identification: u16,
) -> ipv4::Header {
    let header = ipv4::Header {
        tos: rules.traffic_class(facts.traffic_class),
        len,
        id: identification,
        dont_fragment: len > UNFRAGMENTED_LEN_MAX,
        more_fragments: false,
        fragment_offset: 0,
        ttl: facts.hop_limit,
        protocol: protocol_v4(facts.protocol),
        src: std::net::Ipv4Addr::UNSPECIFIED,
        dst: std::net::Ipv4Addr::UNSPECIFIED,
    };
    match facts.fragment {
        None => header,
        Some(fragment) => ipv4::Header {
            #[allow(clippy::cast_possible_truncation)] // section 5.1.1: the low-order 16 bits
            id: fragment.id as u16,
            dont_fragment: false,
            more_fragments: fragment.more,
            fragment_offset: fragment.offset,
            ..header
        },
    }
}

/// Writes the upper-layer header, or what is there of it.
#[inline]
pub(super) fn write_l4(l4: &mut [u8], facts: &Ipv6Facts, outgoing: &Tuple4, delta: Delta) {
    let (src, dst) = (outgoing.src.port, outgoing.dst.port);
    match facts.l4.kind {
        L4Kind::Udp | L4Kind::Tcp => write_ports(l4, facts.l4.kind, src, dst, delta),
        L4Kind::EchoRequest | L4Kind::EchoReply => write_echo_v4(l4, facts, outgoing),
        _ => {}
    }
}

#[cold]
fn write_echo_v4(l4: &mut [u8], facts: &Ipv6Facts, outgoing: &Tuple4) {
    let incoming = tuple(facts, Protocol::Icmp);
    let l4_len = facts.len - facts.l4_offset;
    let delta = echo_delta(&incoming, outgoing, facts.l4.kind, l4_len);
    let (icmp_type, _) = echo_types(facts.l4.kind);
    write_echo(l4, icmp_type, outgoing.src.port, delta);
}

/// The packet's tuple.
pub(super) fn tuple(facts: &Ipv6Facts, protocol: Protocol) -> Tuple6 {
    let addr = |ip, port| TransportAddr6 { ip, port };
    Tuple6 {
        src: addr(facts.src, facts.l4.src_port),
        dst: addr(facts.dst, facts.l4.dst_port),
        protocol,
    }
}
