//! The packet inside an ICMP error: read tolerantly, for routers quote as little as they like.

use crate::facts::{Ipv4Facts, Ipv6Facts, L4Kind, ParseError};
use crate::icmp::Header;
use crate::{icmpv4, icmpv6};

/// The IPv6 packet inside an ICMPv6 error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InnerIpv6 {
    /// Its facts; `facts.len` is what its header says and may exceed the octets quoted. Offsets
    /// count from the inner header.
    pub facts: Ipv6Facts,
    /// Offset of the inner header in the outer packet.
    pub at: u16,
    /// Octets of the original datagram field that are there, with RFC 4884 padding but without
    /// extensions.
    pub available: u16,
}

/// The IPv4 packet inside an ICMPv4 error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InnerIpv4 {
    /// Its facts; `facts.len` is what its header says and may exceed the octets quoted. Offsets
    /// count from the inner header.
    pub facts: Ipv4Facts,
    /// Offset of the inner header in the outer packet.
    pub at: u16,
    /// Octets of the original datagram field that are there, with RFC 4884 padding but without
    /// extensions.
    pub available: u16,
}

impl InnerIpv6 {
    /// Reads the packet inside an ICMPv6 error whose facts are `outer`. It needs the inner
    /// headers and 8 octets behind them, or a later fragment's headers.
    ///
    /// # Errors
    /// What is missing or wrong; [`ParseError::L4Truncated`] too if `outer` is no ICMP error.
    pub fn parse(packet: &[u8], outer: &Ipv6Facts) -> Result<InnerIpv6, ParseError> {
        let message = message(packet, outer.l4_offset, outer.len, outer.l4.kind)?;
        let header = Header::parse(message)?;
        let original = original(message, icmpv6::original_datagram_len(&header))?;
        Ok(InnerIpv6 {
            facts: Ipv6Facts::parse_quoted(original)?,
            at: outer.l4_offset + ICMP_HEADER_LEN,
            available: octets(original)?,
        })
    }
}

impl InnerIpv4 {
    /// Reads the packet inside an ICMPv4 error whose facts are `outer`, as
    /// [`InnerIpv6::parse`]. Inner options are stepped over and the inner header checksum is
    /// not verified (RFC 5508 section 4).
    ///
    /// # Errors
    /// What is missing or wrong; [`ParseError::L4Truncated`] too if `outer` is no ICMP error.
    pub fn parse(packet: &[u8], outer: &Ipv4Facts) -> Result<InnerIpv4, ParseError> {
        let message = message(packet, outer.l4_offset, outer.len, outer.l4.kind)?;
        let header = Header::parse(message)?;
        let original = original(message, icmpv4::original_datagram_len(&header))?;
        Ok(InnerIpv4 {
            facts: Ipv4Facts::parse_quoted(original)?,
            at: outer.l4_offset + ICMP_HEADER_LEN,
            available: octets(original)?,
        })
    }
}

const ICMP_HEADER_LEN: u16 = 8;

fn message(packet: &[u8], l4_offset: u16, len: u16, kind: L4Kind) -> Result<&[u8], ParseError> {
    if kind != L4Kind::IcmpError {
        return Err(ParseError::L4Truncated);
    }
    packet
        .get(usize::from(l4_offset)..usize::from(len))
        .ok_or(ParseError::Truncated)
}

/// The original datagram field. A length field that exceeds the message does not tell where
/// extensions begin, so all of it is the datagram.
fn original(message: &[u8], field: Option<u16>) -> Result<&[u8], ParseError> {
    let body = message
        .get(usize::from(ICMP_HEADER_LEN)..)
        .ok_or(ParseError::L4Truncated)?;
    Ok(field
        .and_then(|len| body.get(..usize::from(len)))
        .unwrap_or(body))
}

fn octets(slice: &[u8]) -> Result<u16, ParseError> {
    u16::try_from(slice.len()).map_err(|_| ParseError::Truncated)
}
