//! Plain packets ([`gate64_wire::plain`]): the same translation where every field stands at a
//! fixed place and no rule but those for TCP and UDP applies.

use gate64_wire::addr::{Protocol, Tuple4, Tuple6};
use gate64_wire::checksum::Delta;
use gate64_wire::{ipv4, ipv6, tcp, udp};

use super::Rules;
use super::v6_to_v4::UNFRAGMENTED_LEN_MAX;
use crate::packet::Packet;

/// Octets that an IPv6 header is longer than an IPv4 header.
pub const GROWTH: u16 = 20;

/// What translation keeps of a plain packet's IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainHeader {
    /// Octets of the whole packet.
    pub len: u16,
    /// Traffic class or type of service.
    pub traffic_class: u8,
    /// Hop limit or TTL, at least 2.
    pub hop_limit: u8,
}

/// Translates in place a plain packet of that header, as [`super::v6_to_v4`] would.
#[inline]
pub fn plain_v6_to_v4(
    packet: &mut Packet<'_>,
    header: &PlainHeader,
    outgoing: &Tuple4,
    delta: Delta,
    rules: &Rules,
    identification: u16,
) {
    let len = header.len - GROWTH;
    let bytes = packet.bytes_mut();
    let Some((headers, l4)) = bytes.split_first_chunk_mut::<{ ipv6::HEADER_LEN }>() else {
        return; // not the packet of this header
    };
    if let Some(out) = headers.last_chunk_mut() {
        ipv4::Header {
            tos: rules.traffic_class(header.traffic_class),
            len,
            id: identification,
            dont_fragment: len > UNFRAGMENTED_LEN_MAX,
            more_fragments: false,
            fragment_offset: 0,
            ttl: header.hop_limit - 1,
            protocol: number(outgoing.protocol),
            src: outgoing.src.ip,
            dst: outgoing.dst.ip,
        }
        .write(out);
    }
    let ports = (outgoing.src.port, outgoing.dst.port);
    write_l4(l4, outgoing.protocol, ports, delta);
    packet.keep(header.len, GROWTH);
}

/// Translates in place a plain packet of that header that has [`GROWTH`] octets of headroom, as
/// [`super::v4_to_v6`] would.
#[inline]
pub fn plain_v4_to_v6(
    packet: &mut Packet<'_>,
    header: &PlainHeader,
    outgoing: &Tuple6,
    delta: Delta,
    rules: &Rules,
) {
    packet.truncate(header.len);
    if !packet.grow_front(GROWTH) {
        return; // the caller has not checked the headroom
    }
    let bytes = packet.bytes_mut();
    let Some((out, l4)) = bytes.split_first_chunk_mut() else {
        return; // not the packet of this header
    };
    ipv6::Header {
        traffic_class: rules.traffic_class(header.traffic_class),
        payload_len: header.len - GROWTH,
        next_header: number(outgoing.protocol),
        hop_limit: header.hop_limit - 1,
        src: outgoing.src.ip,
        dst: outgoing.dst.ip,
    }
    .write(out);
    let ports = (outgoing.src.port, outgoing.dst.port);
    write_l4(l4, outgoing.protocol, ports, delta);
}

/// The protocol's number; plain packets are UDP or TCP.
#[inline]
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Udp => udp::PROTOCOL,
        _ => tcp::PROTOCOL,
    }
}

#[inline]
fn write_l4(l4: &mut [u8], protocol: Protocol, (src, dst): (u16, u16), delta: Delta) {
    let ports = u32::from(src) << 16 | u32::from(dst);
    match protocol {
        Protocol::Udp => {
            if let Some(header) = l4.first_chunk_mut::<{ udp::HEADER_LEN }>() {
                header[..4].copy_from_slice(&ports.to_be_bytes());
                let at = udp::CHECKSUM_AT;
                let checksum = u16::from_be_bytes([header[at], header[at + 1]]);
                header[at..at + 2].copy_from_slice(&delta.apply_udp(checksum).to_be_bytes());
            }
        }
        _ => {
            if let Some(header) = l4.first_chunk_mut::<{ tcp::HEADER_LEN }>() {
                header[..4].copy_from_slice(&ports.to_be_bytes());
                let at = tcp::CHECKSUM_AT;
                let checksum = u16::from_be_bytes([header[at], header[at + 1]]);
                header[at..at + 2].copy_from_slice(&delta.apply(checksum).to_be_bytes());
            }
        }
    }
}
