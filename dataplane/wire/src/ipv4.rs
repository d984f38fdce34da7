//! IPv4 headers with their options (RFC 791).

use std::net::Ipv4Addr;

use crate::checksum::{self, Sum};
use crate::facts::{FragmentFacts, Ipv4Facts, L4Kind, ParseError};
use crate::l4::{self, Extent, Family};

/// Octets of the header without options.
pub const HEADER_LEN: usize = 20;

/// DF in the field of flags and fragment offset.
pub const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// Option type: end of the list.
const OPTION_END: u8 = 0;
/// Option type: one octet of padding.
const OPTION_NOP: u8 = 1;
/// Option type: loose source and record route.
const OPTION_LOOSE_SOURCE_ROUTE: u8 = 131;
/// Option type: strict source and record route.
const OPTION_STRICT_SOURCE_ROUTE: u8 = 137;

/// The fields of an IPv4 header without options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Type of service.
    pub tos: u8,
    /// Octets of the whole packet.
    pub len: u16,
    /// Identification.
    pub id: u16,
    /// DF.
    pub dont_fragment: bool,
    /// MF.
    pub more_fragments: bool,
    /// Octets in front of this fragment, a multiple of 8.
    pub fragment_offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
}

impl Header {
    /// Writes the header with its checksum.
    #[inline]
    pub fn write(&self, out: &mut [u8; HEADER_LEN]) {
        let mut fragment = self.fragment_offset / 8;
        if self.dont_fragment {
            fragment |= DONT_FRAGMENT;
        }
        if self.more_fragments {
            fragment |= MORE_FRAGMENTS;
        }
        let [len, id, fragment] = [self.len, self.id, fragment].map(u16::to_be_bytes);
        let first = [0x45, self.tos, len[0], len[1]];
        let second = [id[0], id[1], fragment[0], fragment[1]];
        let third = [self.ttl, self.protocol, 0, 0];
        let checksum = Sum::ZERO
            .octets(first)
            .octets(second)
            .octets(third)
            .ipv4(self.src)
            .ipv4(self.dst)
            .checksum();
        out[..4].copy_from_slice(&first);
        out[4..8].copy_from_slice(&second);
        out[8..10].copy_from_slice(&third[..2]);
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
        out[12..16].copy_from_slice(&self.src.octets());
        out[16..20].copy_from_slice(&self.dst.octets());
    }
}

impl Ipv4Facts {
    /// Reads a packet that begins with its IPv4 header; link padding may lie behind it. The
    /// header checksum is verified, the upper-layer checksum is not.
    ///
    /// # Errors
    /// What is wrong with the packet.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Ipv4Facts, ParseError> {
        let mut facts = Ipv4Facts::NONE;
        facts.read(bytes)?;
        Ok(facts)
    }

    /// As [`Ipv4Facts::parse`], in place: a burst's facts are written once and not moved. After
    /// an error the facts mean nothing.
    ///
    /// # Errors
    /// What is wrong with the packet.
    #[inline]
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
        *self = fixed_facts(header);
        if header[0] == 0x45 {
            if !checksum::is_valid(header) {
                return Err(ParseError::HeaderChecksum);
            }
        } else {
            self.with_options(bytes)?;
        }
        if self.len < self.l4_offset {
            return Err(ParseError::HeaderLength);
        }
        let payload = bytes
            .get(usize::from(self.l4_offset)..usize::from(self.len))
            .ok_or(ParseError::Truncated)?;
        self.l4 = match self.fragment {
            None => l4::parse(Family::V4, self.protocol, payload, Extent::Whole)?,
            Some(fragment) => l4::parse_fragment(Family::V4, self.protocol, payload, fragment)?,
        };
        Ok(())
    }

    /// Reads as much as there is of a packet quoted in an ICMP error: its length may exceed the
    /// octets, and its checksum was computed for another hop.
    pub(crate) fn parse_quoted(bytes: &[u8]) -> Result<Ipv4Facts, ParseError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
        let mut facts = fixed_facts(header);
        let l4_offset = header_len(bytes)?;
        facts.set_options(l4_offset, &bytes[HEADER_LEN..usize::from(l4_offset)])?;
        if facts.len < facts.l4_offset {
            return Err(ParseError::HeaderLength);
        }
        let end = bytes.len().min(usize::from(facts.len));
        let payload = &bytes[usize::from(facts.l4_offset)..end];
        if facts.fragment.is_some_and(|f| f.offset != 0) {
            facts.l4 = l4::bare(L4Kind::LaterFragment);
        } else {
            facts.l4 = l4::parse(Family::V4, facts.protocol, payload, Extent::Quoted)?;
        }
        Ok(facts)
    }

    #[cold]
    fn with_options(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        let l4_offset = header_len(bytes)?;
        let header = &bytes[..usize::from(l4_offset)];
        if !checksum::is_valid(header) {
            return Err(ParseError::HeaderChecksum);
        }
        self.set_options(l4_offset, &header[HEADER_LEN..])
    }

    fn set_options(&mut self, l4_offset: u16, options: &[u8]) -> Result<(), ParseError> {
        self.l4_offset = l4_offset;
        self.source_route_at = source_route_at(options)?;
        Ok(())
    }
}

/// The facts that stand in the fixed 20 octets, as if there were no options.
#[inline]
fn fixed_facts(header: &[u8; HEADER_LEN]) -> Ipv4Facts {
    let id = u16::from_be_bytes([header[4], header[5]]);
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    Ipv4Facts {
        src: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
        dst: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
        tos: header[1],
        ttl: header[8],
        protocol: header[9],
        l4_offset: 20,
        len: u16::from_be_bytes([header[2], header[3]]),
        id,
        dont_fragment: fragment & DONT_FRAGMENT != 0,
        fragment: (fragment & (MORE_FRAGMENTS | OFFSET_MASK) != 0).then_some(FragmentFacts {
            offset: (fragment & OFFSET_MASK) * 8,
            more: fragment & MORE_FRAGMENTS != 0,
            id: u32::from(id),
        }),
        source_route_at: None,
        l4: l4::bare(L4Kind::Unknown),
    }
}

/// Octets of the header by its IHL field: at least 20, and that many are there.
fn header_len(bytes: &[u8]) -> Result<u16, ParseError> {
    let first = *bytes.first().ok_or(ParseError::Truncated)?;
    if first >> 4 != 4 {
        return Err(ParseError::Version);
    }
    let len = u16::from(first & 0x0f) * 4;
    if usize::from(len) < HEADER_LEN || usize::from(len) > bytes.len() {
        return Err(ParseError::HeaderLength);
    }
    Ok(len)
}

/// Offset from the IPv4 header of a source route option that still has hops to visit: its
/// pointer is not behind its end (RFC 791 section 3.1).
fn source_route_at(options: &[u8]) -> Result<Option<u16>, ParseError> {
    let mut at = 0;
    while let Some(&option) = options.get(at) {
        match option {
            OPTION_END => break,
            OPTION_NOP => at += 1,
            _ => {
                let len = usize::from(*options.get(at + 1).ok_or(ParseError::Options)?);
                let body = options.get(at..at + len).ok_or(ParseError::Options)?;
                if len < 2 {
                    return Err(ParseError::Options);
                }
                if matches!(
                    option,
                    OPTION_LOOSE_SOURCE_ROUTE | OPTION_STRICT_SOURCE_ROUTE
                ) {
                    let pointer = *body.get(2).ok_or(ParseError::Options)?;
                    if usize::from(pointer) <= len {
                        return Ok(u16::try_from(HEADER_LEN + at).ok());
                    }
                }
                at += len;
            }
        }
    }
    Ok(None)
}
