//! IPv4 to IPv6, RFC 7915 section 4.

use std::net::Ipv6Addr;

use gate64_wire::addr::{Protocol, TransportAddr4, Tuple4, Tuple6};
use gate64_wire::checksum::{self, Delta};
use gate64_wire::facts::{Ipv4Facts, L4Kind};
use gate64_wire::{ipv6, udp};

use super::delta::{datagram, echo_delta, echo_types, rewrite, write_echo, write_ports};
use super::{Rules, protocol_v6};
use crate::packet::Packet;

const IPV6_HEADER_LEN: u16 = 40;
const FRAGMENT_HEADER_LEN: u16 = 8;

/// Octets that a packet grows by, which its headroom has to offer: 20, and 8 more for a
/// fragment; less where IPv4 options go.
#[inline]
pub fn v4_to_v6_growth(facts: &Ipv4Facts) -> u16 {
    headers_len(facts).saturating_sub(facts.l4_offset)
}

/// Octets of the IPv6 header with a fragment header, if it gets one. A packet without DF that is
/// no fragment gets none: atomic fragments are deprecated (section 4.1, RFC 8021).
#[inline]
pub(super) fn headers_len(facts: &Ipv4Facts) -> u16 {
    match facts.fragment {
        None => IPV6_HEADER_LEN,
        Some(_) => IPV6_HEADER_LEN + FRAGMENT_HEADER_LEN,
    }
}

/// Translates in place a packet that [`super::check_v4`] let pass, that is no ICMP error and
/// that has [`v4_to_v6_growth`] octets of headroom. It begins with its IPv4 header and its facts
/// are `facts`; afterwards it begins with its IPv6 header and ends without link padding.
///
/// `delta` is [`super::l4_delta`] of the session, reversed; ICMP does not need it. A UDP checksum
/// of zero is computed, unless the packet is a fragment
/// ([`super::checksum_needs_all_fragments`]).
#[inline]
pub fn v4_to_v6(
    packet: &mut Packet<'_>,
    facts: &Ipv4Facts,
    outgoing: &Tuple6,
    delta: Delta,
    rules: &Rules,
) {
    packet.truncate(facts.len);
    packet.trim_front(facts.l4_offset);
    if !packet.grow_front(headers_len(facts)) {
        return; // the caller has not checked the headroom
    }
    let hop_limit = facts.ttl.saturating_sub(1);
    let bytes = packet.bytes_mut();
    let written = write_headers(
        bytes,
        facts,
        (outgoing.src.ip, outgoing.dst.ip),
        hop_limit,
        rules,
    );
    write_l4(&mut bytes[written..], facts, outgoing, delta);
}

/// Writes the IPv6 header that an IPv4 header becomes, and the fragment header of a fragment;
/// returns their length (section 4.1).
#[inline]
pub(super) fn write_headers(
    out: &mut [u8],
    facts: &Ipv4Facts,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    hop_limit: u8,
    rules: &Rules,
) -> usize {
    let protocol = protocol_v6(facts.protocol);
    let headers_len = headers_len(facts);
    let header = ipv6::Header {
        traffic_class: rules.traffic_class(facts.tos),
        payload_len: facts.len - facts.l4_offset + (headers_len - IPV6_HEADER_LEN),
        next_header: protocol,
        hop_limit,
        src,
        dst,
    };
    let Some((first, rest)) = out.split_first_chunk_mut() else {
        return out.len();
    };
    match facts.fragment {
        None => header.write(first),
        Some(fragment) => {
            ipv6::Header {
                next_header: ipv6::FRAGMENT,
                ..header
            }
            .write(first);
            if let Some(second) = rest.first_chunk_mut() {
                ipv6::FragmentHeader {
                    next_header: protocol,
                    fragment,
                }
                .write(second);
            }
        }
    }
    usize::from(headers_len)
}

#[inline]
fn write_l4(l4: &mut [u8], facts: &Ipv4Facts, outgoing: &Tuple6, delta: Delta) {
    write_quoted_l4(l4, facts, outgoing, delta);
    if facts.l4.udp_checksum_zero {
        compute_udp_checksum(l4, facts, outgoing);
    }
}

/// Writes the upper-layer header, or what is there of it.
#[inline]
pub(super) fn write_quoted_l4(l4: &mut [u8], facts: &Ipv4Facts, outgoing: &Tuple6, delta: Delta) {
    let (src, dst) = (outgoing.src.port, outgoing.dst.port);
    match facts.l4.kind {
        L4Kind::Udp | L4Kind::Tcp => write_ports(l4, facts.l4.kind, src, dst, delta),
        L4Kind::EchoRequest | L4Kind::EchoReply => write_echo_v6(l4, facts, outgoing),
        _ => {}
    }
}

/// Section 4.5: IPv6 has no UDP without a checksum.
#[cold]
fn compute_udp_checksum(l4: &mut [u8], facts: &Ipv4Facts, outgoing: &Tuple6) {
    if facts.fragment.is_some() {
        return;
    }
    let (src, dst) = (outgoing.src.ip, outgoing.dst.ip);
    rewrite(datagram(l4, true), udp::CHECKSUM_AT, true, |len| {
        checksum::pseudo_header_v6(src, dst, udp::PROTOCOL, len)
    });
}

#[cold]
fn write_echo_v6(l4: &mut [u8], facts: &Ipv4Facts, outgoing: &Tuple6) {
    let incoming = tuple(facts, Protocol::Icmp);
    let l4_len = facts.len - facts.l4_offset;
    let delta = echo_delta(outgoing, &incoming, facts.l4.kind, l4_len).reverse();
    let (_, icmp_type) = echo_types(facts.l4.kind);
    write_echo(l4, icmp_type, outgoing.src.port, delta);
}

/// The packet's tuple.
pub(super) fn tuple(facts: &Ipv4Facts, protocol: Protocol) -> Tuple4 {
    let addr = |ip, port| TransportAddr4 { ip, port };
    Tuple4 {
        src: addr(facts.src, facts.l4.src_port),
        dst: addr(facts.dst, facts.l4.dst_port),
        protocol,
    }
}
