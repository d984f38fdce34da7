//! The upper-layer header's facts, for both families.

use crate::facts::{FragmentFacts, L4Facts, L4Kind, ParseError};
use crate::{icmpv4, icmpv6, tcp, udp};

/// How much of the upper-layer packet the octets hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Whole,
    /// The beginning: a first fragment. Its headers have to be whole (RFC 7112).
    FirstFragment,
    /// At least 8 octets: a packet quoted in an ICMP error (RFC 792).
    Quoted,
}

/// Which ICMP belongs to the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The facts of a packet that has no upper-layer header to read.
pub(crate) const fn bare(kind: L4Kind) -> L4Facts {
    L4Facts {
        kind,
        src_port: 0,
        dst_port: 0,
        tcp_flags: 0,
        icmp_type: 0,
        icmp_code: 0,
        udp_checksum_zero: false,
    }
}

/// Reads the upper-layer header at the front of `payload`.
#[inline]
pub(crate) fn parse(
    family: Family,
    protocol: u8,
    payload: &[u8],
    extent: Extent,
) -> Result<L4Facts, ParseError> {
    match protocol {
        udp::PROTOCOL => parse_udp(payload, extent),
        tcp::PROTOCOL => parse_tcp(payload, extent),
        icmpv4::PROTOCOL if family == Family::V4 => parse_icmp(payload, icmpv4::kind),
        icmpv6::PROTOCOL if family == Family::V6 => parse_icmp(payload, icmpv6::kind),
        _ => Ok(bare(L4Kind::Unknown)),
    }
}

/// Reads the payload of a packet with a fragment header, or with MF or an offset.
#[cold]
pub(crate) fn parse_fragment(
    family: Family,
    protocol: u8,
    payload: &[u8],
    fragment: FragmentFacts,
) -> Result<L4Facts, ParseError> {
    // An atomic fragment (RFC 6946) is a whole packet.
    if fragment.offset == 0 && !fragment.more {
        return parse(family, protocol, payload, Extent::Whole);
    }
    // RFC 791 section 3.2, RFC 8200 section 4.5: a multiple of 8 octets if more follow, and all
    // within the largest packet.
    let end = usize::from(fragment.offset) + payload.len();
    let uneven = fragment.more && !payload.len().is_multiple_of(8);
    if payload.is_empty() || uneven || end > usize::from(u16::MAX) {
        return Err(ParseError::FragmentLength);
    }
    if fragment.offset != 0 {
        return Ok(bare(L4Kind::LaterFragment));
    }
    parse(family, protocol, payload, Extent::FirstFragment)
}

#[inline]
fn parse_udp(payload: &[u8], extent: Extent) -> Result<L4Facts, ParseError> {
    let header = udp::Header::parse(payload)?;
    let len = usize::from(header.len);
    if len < udp::HEADER_LEN || (extent == Extent::Whole && len > payload.len()) {
        return Err(ParseError::UdpLength);
    }
    Ok(L4Facts {
        src_port: header.src_port,
        dst_port: header.dst_port,
        udp_checksum_zero: header.checksum == 0,
        ..bare(L4Kind::Udp)
    })
}

#[inline]
fn parse_tcp(payload: &[u8], extent: Extent) -> Result<L4Facts, ParseError> {
    if extent == Extent::Quoted {
        return quoted_tcp(payload);
    }
    let header = tcp::Header::parse(payload)?;
    Ok(L4Facts {
        src_port: header.src_port,
        dst_port: header.dst_port,
        tcp_flags: header.flags,
        ..bare(L4Kind::Tcp)
    })
}

/// Ports and sequence number are all that an ICMP error has to quote (RFC 792).
#[cold]
fn quoted_tcp(payload: &[u8]) -> Result<L4Facts, ParseError> {
    let [s0, s1, d0, d1, ..]: [u8; 8] = *payload.first_chunk().ok_or(ParseError::L4Truncated)?;
    Ok(L4Facts {
        src_port: u16::from_be_bytes([s0, s1]),
        dst_port: u16::from_be_bytes([d0, d1]),
        tcp_flags: payload.get(13).copied().unwrap_or(0),
        ..bare(L4Kind::Tcp)
    })
}

#[inline]
fn parse_icmp(payload: &[u8], kind: fn(u8) -> L4Kind) -> Result<L4Facts, ParseError> {
    let [icmp_type, icmp_code, _, _, i0, i1, ..]: [u8; 8] =
        *payload.first_chunk().ok_or(ParseError::L4Truncated)?;
    let kind = kind(icmp_type);
    let id = match kind {
        L4Kind::EchoRequest | L4Kind::EchoReply => u16::from_be_bytes([i0, i1]),
        _ => 0,
    };
    Ok(L4Facts {
        src_port: id,
        dst_port: id,
        icmp_type,
        icmp_code,
        ..bare(kind)
    })
}
