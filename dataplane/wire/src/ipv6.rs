//! IPv6 headers with their extension headers (RFC 8200).

use std::net::Ipv6Addr;

use crate::facts::{FragmentFacts, Ipv6Facts, L4Kind, ParseError};
use crate::l4::{self, Extent, Family};
use crate::{icmpv6, tcp, udp};

/// Octets of the header without extension headers.
pub const HEADER_LEN: usize = 40;
/// Octets of a fragment header.
pub const FRAGMENT_HEADER_LEN: usize = 8;
/// Extension headers followed in one packet; one with more is refused.
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing header.
pub const ROUTING: u8 = 43;
/// Next header: fragment header.
pub const FRAGMENT: u8 = 44;
/// Next header: destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// Place of the Segments Left field in a routing header.
const SEGMENTS_LEFT_AT: usize = 3;

/// The fields of an IPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Traffic class.
    pub traffic_class: u8,
    /// Octets behind the header.
    pub payload_len: u16,
    /// What follows the header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
}

impl Header {
    /// Writes the header; the flow label is zero (RFC 7915 section 4.1).
    #[inline]
    pub fn write(&self, out: &mut [u8; HEADER_LEN]) {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20;
        let second = u32::from(self.payload_len) << 16
            | u32::from(self.next_header) << 8
            | u32::from(self.hop_limit);
        out[..4].copy_from_slice(&first.to_be_bytes());
        out[4..8].copy_from_slice(&second.to_be_bytes());
        out[8..24].copy_from_slice(&self.src.octets());
        out[24..40].copy_from_slice(&self.dst.octets());
    }
}

/// The fields of a fragment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentHeader {
    /// What the original packet's fragmentable part begins with.
    pub next_header: u8,
    /// Where the fragment lies in it.
    pub fragment: FragmentFacts,
}

impl FragmentHeader {
    /// Reads the header; `None` if there are too few octets.
    pub fn parse(bytes: &[u8]) -> Option<FragmentHeader> {
        let [next_header, _, o0, o1, i0, i1, i2, i3]: [u8; FRAGMENT_HEADER_LEN] =
            *bytes.first_chunk()?;
        let offset = u16::from_be_bytes([o0, o1]);
        Some(FragmentHeader {
            next_header,
            fragment: FragmentFacts {
                offset: offset & !7,
                more: offset & 1 != 0,
                id: u32::from_be_bytes([i0, i1, i2, i3]),
            },
        })
    }

    /// Writes the header.
    #[inline]
    pub fn write(&self, out: &mut [u8; FRAGMENT_HEADER_LEN]) {
        let offset = self.fragment.offset & !7 | u16::from(self.fragment.more);
        out[0] = self.next_header;
        out[1] = 0;
        out[2..4].copy_from_slice(&offset.to_be_bytes());
        out[4..].copy_from_slice(&self.fragment.id.to_be_bytes());
    }
}

impl Ipv6Facts {
    /// Reads a packet that begins with its IPv6 header; link padding may lie behind it. The
    /// upper-layer checksum is not verified.
    ///
    /// # Errors
    /// What is wrong with the packet.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Ipv6Facts, ParseError> {
        let mut facts = Ipv6Facts::NONE;
        facts.read(bytes)?;
        Ok(facts)
    }

    /// As [`Ipv6Facts::parse`], in place: a burst's facts are written once and not moved. After
    /// an error the facts mean nothing.
    ///
    /// # Errors
    /// What is wrong with the packet.
    #[inline]
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
        self.read_fixed(header)?;
        let packet = bytes
            .get(..usize::from(self.len))
            .ok_or(ParseError::Truncated)?;
        if !is_upper_layer(self.protocol) {
            self.walk(packet)?;
        }
        let payload = packet
            .get(usize::from(self.l4_offset)..)
            .ok_or(ParseError::ExtensionHeaders)?;
        self.l4 = match self.fragment {
            None => l4::parse(Family::V6, self.protocol, payload, Extent::Whole)?,
            Some(fragment) => l4::parse_fragment(Family::V6, self.protocol, payload, fragment)?,
        };
        Ok(())
    }

    /// The facts that stand in the fixed 40 octets, as if there were no extension headers.
    #[inline]
    fn read_fixed(&mut self, header: &[u8; HEADER_LEN]) -> Result<(), ParseError> {
        if header[0] >> 4 != 6 {
            return Err(ParseError::Version);
        }
        let payload_len = u16::from_be_bytes([header[4], header[5]]);
        if payload_len == 0 {
            return Err(ParseError::PayloadLength);
        }
        self.src = address(header, 8);
        self.dst = address(header, 24);
        self.traffic_class = header[0] << 4 | header[1] >> 4;
        self.hop_limit = header[7];
        self.protocol = header[6];
        self.l4_offset = 40;
        self.len = payload_len.checked_add(40).ok_or(ParseError::Truncated)?;
        self.fragment = None;
        self.segments_left_at = None;
        Ok(())
    }

    /// Reads as much as there is of a packet quoted in an ICMP error: its length may exceed the
    /// octets.
    pub(crate) fn parse_quoted(bytes: &[u8]) -> Result<Ipv6Facts, ParseError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
        let mut facts = Ipv6Facts::NONE;
        facts.read_fixed(header)?;
        let packet = &bytes[..bytes.len().min(usize::from(facts.len))];
        facts.walk(packet)?;
        let payload = packet
            .get(usize::from(facts.l4_offset)..)
            .ok_or(ParseError::ExtensionHeaders)?;
        if facts.fragment.is_some_and(|f| f.offset != 0) {
            facts.l4 = l4::bare(L4Kind::LaterFragment);
        } else {
            facts.l4 = l4::parse(Family::V6, facts.protocol, payload, Extent::Quoted)?;
        }
        Ok(facts)
    }

    /// Follows the extension headers up to the upper-layer header.
    #[cold]
    fn walk(&mut self, packet: &[u8]) -> Result<(), ParseError> {
        let mut at = HEADER_LEN;
        // Once more than there are headers: the last turn finds the upper layer.
        for _ in 0..=EXTENSION_HEADERS_MAX {
            let rest = packet.get(at..).ok_or(ParseError::ExtensionHeaders)?;
            let len = match self.protocol {
                // RFC 8200 section 4.1: hop-by-hop options stand right behind the IPv6 header.
                HOP_BY_HOP if at != HEADER_LEN => return Err(ParseError::ExtensionHeaders),
                FRAGMENT => self.fragment_header(rest)?,
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => self.options_header(rest, at)?,
                _ => return Ok(()),
            };
            at += len;
            self.l4_offset = u16::try_from(at).map_err(|_| ParseError::ExtensionHeaders)?;
            if self.fragment.is_some_and(|f| f.offset != 0) {
                return Ok(()); // what follows is not a header
            }
        }
        Err(ParseError::ExtensionHeaders)
    }

    fn fragment_header(&mut self, rest: &[u8]) -> Result<usize, ParseError> {
        if self.fragment.is_some() {
            return Err(ParseError::FragmentHeader);
        }
        let header = FragmentHeader::parse(rest).ok_or(ParseError::ExtensionHeaders)?;
        self.protocol = header.next_header;
        self.fragment = Some(header.fragment);
        Ok(FRAGMENT_HEADER_LEN)
    }

    /// A header of the common form: next header, length in units of 8 octets without the first.
    fn options_header(&mut self, rest: &[u8], at: usize) -> Result<usize, ParseError> {
        // Behind a fragment header such a header is part of what was fragmented: it could only
        // be removed from the whole.
        if self.fragment.is_some() {
            return Err(ParseError::FragmentHeader);
        }
        let head: &[u8; 8] = rest.first_chunk().ok_or(ParseError::ExtensionHeaders)?;
        let len = (usize::from(head[1]) + 1) * 8;
        if len > rest.len() {
            return Err(ParseError::ExtensionHeaders);
        }
        if self.protocol == ROUTING
            && head[SEGMENTS_LEFT_AT] != 0
            && self.segments_left_at.is_none()
        {
            self.segments_left_at = u16::try_from(at + SEGMENTS_LEFT_AT).ok();
        }
        self.protocol = head[0];
        Ok(len)
    }
}

#[inline]
fn address(header: &[u8; HEADER_LEN], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    Ipv6Addr::from(octets)
}

/// The common case: no extension header.
#[inline]
fn is_upper_layer(next_header: u8) -> bool {
    matches!(
        next_header,
        udp::PROTOCOL | tcp::PROTOCOL | icmpv6::PROTOCOL
    )
}
