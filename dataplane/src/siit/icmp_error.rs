//! ICMP errors with the packet inside them, RFC 7915 sections 4.2 to 4.3 and 5.2 to 5.3.
//!
//! They are rare, and their outer and inner headers, padding and extensions all change size: the
//! translation is put together in a scratch buffer and copied over the packet when it is done,
//! so a refused packet is intact.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::{Tuple4, Tuple6};
use gate64_wire::checksum::{self, Sum};
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts, L4Kind};
use gate64_wire::inner::{InnerIpv4, InnerIpv6};
use gate64_wire::{icmpv4, icmpv6, ipv4, ipv6};

use super::delta::l4_delta;
use super::error_table::{self, NextHopMtu};
use super::{IPV6_MTU_MIN, Rules, v4_to_v6, v6_to_v4};
use crate::packet::Packet;
use crate::verdict::{DropReason, Refusal};

/// An error is at most as long as every IPv6 link carries (RFC 4443 section 2.4 (c)). ICMPv4
/// errors keep the size that they came with up to the same bound.
const ERROR_LEN_MAX: usize = IPV6_MTU_MIN as usize;

/// RFC 4884 section 5: in front of extensions, the original datagram field has at least so many
/// octets.
const ORIGINAL_DATAGRAM_LEN_MIN: usize = 128;

const ICMP_HEADER_LEN: usize = 8;

/// Translates an ICMPv6 error to ICMPv4. The packet begins with its IPv6 header, `facts` are its
/// facts and `inner` the packet in it; `src` and `dst` are the new outer addresses and
/// `inner_tuple` is how the inner packet has to read in IPv4 (`src` is the IPv4 host, whose
/// packet caused the error).
///
/// # Errors
/// Why the error is dropped; it is intact then.
#[allow(clippy::too_many_arguments)] // the facts of two packets, and what both shall become
pub fn v6_to_v4_error(
    packet: &mut Packet<'_>,
    facts: &Ipv6Facts,
    inner: &InnerIpv6,
    (src, dst): (Ipv4Addr, Ipv4Addr),
    inner_tuple: &Tuple4,
    mtu: NextHopMtu,
    rules: &Rules,
    identification: u16,
) -> Result<(), Refusal> {
    let message = message(packet.bytes(), facts.l4_offset, facts.len)?;
    let pseudo = pseudo_header_v6(facts.src, facts.dst, message.len())?;
    verify(pseudo, message)?;
    check_inner(inner.facts.l4.kind)?;
    let header = icmpv6::Header::parse(message)?;
    let error =
        error_table::v6_to_v4(&header, &inner.facts, mtu).ok_or(DropReason::IcmpUntranslatable)?;
    let parts = take_apart(
        message,
        inner.facts.l4_offset,
        inner.facts.len,
        inner.available,
    )?;

    let mut scratch = Scratch::new(ipv4::HEADER_LEN, ipv4::HEADER_LEN, parts.behind_header)?;
    let datagram = scratch.datagram();
    write_inner_v4(datagram, &inner.facts, inner_tuple, rules)?;
    let has_length = icmpv4::has_length_field(error.icmp_type);
    let length = scratch.append(parts.extensions, has_length, 4);
    let mut rest = error.rest;
    if length != 0 {
        rest[1] = length;
    }
    icmpv4::Header {
        icmp_type: error.icmp_type,
        code: error.code,
        checksum: 0,
        rest,
    }
    .write(scratch.icmp_header()?);
    scratch.checksum(Sum::ZERO);
    let len = scratch.len()?;
    let outer_header = ipv4::Header {
        ttl: facts.hop_limit.saturating_sub(1),
        src,
        dst,
        ..v6_to_v4::header_v4(facts, len, rules, identification)
    };
    outer_header.write(scratch.outer_header()?);
    scratch.replace(packet)
}

/// Translates an ICMPv4 error to ICMPv6, as [`v6_to_v4_error`].
///
/// # Errors
/// Why the error is dropped; it is intact then.
pub fn v4_to_v6_error(
    packet: &mut Packet<'_>,
    facts: &Ipv4Facts,
    inner: &InnerIpv4,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    inner_tuple: &Tuple6,
    mtu: NextHopMtu,
    rules: &Rules,
) -> Result<(), Refusal> {
    let message = message(packet.bytes(), facts.l4_offset, facts.len)?;
    verify(Sum::ZERO, message)?;
    check_inner(inner.facts.l4.kind)?;
    let header = icmpv4::Header::parse(message)?;
    let error = error_table::v4_to_v6(&header, &inner.facts, mtu, rules)
        .ok_or(DropReason::IcmpUntranslatable)?;
    let parts = take_apart(
        message,
        inner.facts.l4_offset,
        inner.facts.len,
        inner.available,
    )?;

    let inner_headers = usize::from(v4_to_v6::headers_len(&inner.facts));
    let mut scratch = Scratch::new(ipv6::HEADER_LEN, inner_headers, parts.behind_header)?;
    let datagram = scratch.datagram();
    write_inner_v6(datagram, &inner.facts, inner_tuple, rules)?;
    let has_length = icmpv6::has_length_field(error.icmp_type);
    let length = scratch.append(parts.extensions, has_length, 8);
    let mut rest = error.rest;
    if length != 0 {
        rest[0] = length;
    }
    icmpv6::Header {
        icmp_type: error.icmp_type,
        code: error.code,
        checksum: 0,
        rest,
    }
    .write(scratch.icmp_header()?);
    let message_len = usize::from(scratch.len()?) - ipv6::HEADER_LEN;
    scratch.checksum(pseudo_header_v6(src, dst, message_len)?);
    ipv6::Header {
        traffic_class: rules.traffic_class(facts.tos),
        payload_len: u16::try_from(message_len).map_err(|_| DropReason::IcmpInnerMalformed)?,
        next_header: icmpv6::PROTOCOL,
        hop_limit: facts.ttl.saturating_sub(1),
        src,
        dst,
    }
    .write(scratch.outer_header()?);
    scratch.replace(packet)
}

/// The ICMP message of a packet.
fn message(packet: &[u8], l4_offset: u16, len: u16) -> Result<&[u8], Refusal> {
    packet
        .get(usize::from(l4_offset)..usize::from(len))
        .ok_or(DropReason::Truncated.into())
}

fn pseudo_header_v6(src: Ipv6Addr, dst: Ipv6Addr, len: usize) -> Result<Sum, Refusal> {
    let len = u16::try_from(len).map_err(|_| DropReason::IcmpInnerMalformed)?;
    Ok(checksum::pseudo_header_v6(src, dst, icmpv6::PROTOCOL, len))
}

/// RFC 5508 section 4, REQ-3: an error with a bad checksum is dropped, because its checksum is
/// computed anew and would hide that.
fn verify(pseudo: Sum, message: &[u8]) -> Result<(), Refusal> {
    if pseudo.bytes(message).folded() != 0xffff {
        return Err(DropReason::IcmpChecksum.into());
    }
    Ok(())
}

/// RFC 7915 sections 4.3 and 5.3: one inner packet is translated; RFC 6146 section 3.4: an error
/// about an error is dropped.
fn check_inner(kind: L4Kind) -> Result<(), Refusal> {
    match kind {
        L4Kind::IcmpError => Err(DropReason::IcmpNested.into()),
        L4Kind::IcmpOther => Err(DropReason::IcmpUntranslatable.into()),
        L4Kind::Unknown => Err(DropReason::UnknownProtocol.into()),
        _ => Ok(()),
    }
}

/// What of a message is carried over as it is.
struct Parts<'a> {
    /// The inner packet behind its headers, without padding.
    behind_header: &'a [u8],
    /// RFC 4884 extensions, with their header.
    extensions: &'a [u8],
}

fn take_apart(message: &[u8], offset: u16, len: u16, available: u16) -> Result<Parts<'_>, Refusal> {
    let malformed = DropReason::IcmpInnerMalformed;
    let body = message.get(ICMP_HEADER_LEN..).ok_or(malformed)?;
    let datagram = body.get(..usize::from(available)).ok_or(malformed)?;
    let behind_header = datagram
        .get(usize::from(offset)..usize::from(available.min(len)))
        .ok_or(malformed)?;
    Ok(Parts {
        behind_header,
        extensions: &body[usize::from(available)..],
    })
}

/// Writes the inner packet's IPv4 header and ports in front of what was copied. Its TTL is not
/// decremented: it was not forwarded (RFC 7915 section 5.3).
fn write_inner_v4(
    datagram: &mut [u8],
    facts: &Ipv6Facts,
    tuple: &Tuple4,
    rules: &Rules,
) -> Result<(), Refusal> {
    let (header, l4) = datagram
        .split_first_chunk_mut()
        .ok_or(DropReason::IcmpInnerMalformed)?;
    ipv4::Header {
        src: tuple.src.ip,
        dst: tuple.dst.ip,
        ..v6_to_v4::header_v4(facts, v6_to_v4::translated_len(facts), rules, 0)
    }
    .write(header);
    let delta = l4_delta(&v6_to_v4::tuple(facts, tuple.protocol), tuple);
    v6_to_v4::write_l4(l4, facts, tuple, delta);
    Ok(())
}

fn write_inner_v6(
    datagram: &mut [u8],
    facts: &Ipv4Facts,
    tuple: &Tuple6,
    rules: &Rules,
) -> Result<(), Refusal> {
    if facts.len - facts.l4_offset > u16::MAX - 8 {
        return Err(DropReason::IcmpInnerMalformed.into()); // no room for a fragment header
    }
    let addresses = (tuple.src.ip, tuple.dst.ip);
    let written = v4_to_v6::write_headers(datagram, facts, addresses, facts.ttl, rules);
    let l4 = datagram
        .get_mut(written..)
        .ok_or(DropReason::IcmpInnerMalformed)?;
    let delta = l4_delta(tuple, &v4_to_v6::tuple(facts, tuple.protocol)).reverse();
    v4_to_v6::write_quoted_l4(l4, facts, tuple, delta);
    Ok(())
}

/// The new packet: outer header, ICMP header, original datagram, extensions.
struct Scratch {
    octets: [u8; ERROR_LEN_MAX],
    /// Octets of the outer IP header.
    outer_len: usize,
    /// Octets so far.
    len: usize,
}

impl Scratch {
    /// Leaves room for the headers and copies of the inner packet what fits.
    fn new(outer_len: usize, inner_headers: usize, behind: &[u8]) -> Result<Scratch, Refusal> {
        let mut scratch = Scratch {
            octets: [0; ERROR_LEN_MAX],
            outer_len,
            len: 0,
        };
        let at = outer_len + ICMP_HEADER_LEN + inner_headers;
        let room = scratch
            .octets
            .get_mut(at..)
            .ok_or(DropReason::IcmpInnerMalformed)?;
        let count = behind.len().min(room.len());
        room[..count].copy_from_slice(&behind[..count]);
        scratch.len = at + count;
        Ok(scratch)
    }

    fn datagram_at(&self) -> usize {
        self.outer_len + ICMP_HEADER_LEN
    }

    /// The original datagram field.
    fn datagram(&mut self) -> &mut [u8] {
        let at = self.datagram_at();
        &mut self.octets[at..self.len]
    }

    /// Appends extensions behind the datagram, which is cut or padded with zeroes to a multiple
    /// of `unit` octets and to at least 128 (RFC 4884 section 5). Returns the length field: zero
    /// if there are no extensions, if the type cannot have them, or if they leave no room.
    fn append(&mut self, extensions: &[u8], has_length_field: bool, unit: usize) -> u8 {
        let at = self.datagram_at();
        let room = (ERROR_LEN_MAX - at).saturating_sub(extensions.len());
        let longest = room.min(usize::from(u8::MAX) * unit) / unit * unit;
        if extensions.is_empty() || !has_length_field || longest < ORIGINAL_DATAGRAM_LEN_MIN {
            return 0;
        }
        let present = self.len - at;
        let padded = present.next_multiple_of(unit);
        let len = padded.clamp(ORIGINAL_DATAGRAM_LEN_MIN, longest);
        let end = at + len;
        if let Some(padding) = self.octets.get_mut(at + present..end) {
            padding.fill(0);
        }
        self.octets[end..end + extensions.len()].copy_from_slice(extensions);
        self.len = end + extensions.len();
        u8::try_from(len / unit).unwrap_or(0)
    }

    fn len(&self) -> Result<u16, Refusal> {
        u16::try_from(self.len).map_err(|_| DropReason::IcmpInnerMalformed.into())
    }

    fn outer_header<const N: usize>(&mut self) -> Result<&mut [u8; N], Refusal> {
        let header = self.octets[..self.outer_len].first_chunk_mut();
        header.ok_or(DropReason::IcmpInnerMalformed.into())
    }

    fn icmp_header(&mut self) -> Result<&mut [u8; ICMP_HEADER_LEN], Refusal> {
        let header = self.octets[self.outer_len..].first_chunk_mut();
        header.ok_or(DropReason::IcmpInnerMalformed.into())
    }

    /// Computes the ICMP checksum, which stands at the same place in both families.
    fn checksum(&mut self, pseudo: Sum) {
        let message = &mut self.octets[self.outer_len..self.len];
        let sum = pseudo.bytes(message).checksum();
        super::delta::update(message, icmpv4::CHECKSUM_AT, |_| sum);
    }

    /// Copies the result over the packet, which may grow at its front.
    fn replace(&self, packet: &mut Packet<'_>) -> Result<(), Refusal> {
        let len = self.len()?;
        let missing = self.len.saturating_sub(packet.len());
        let missing = u16::try_from(missing).map_err(|_| DropReason::Headroom)?;
        if !packet.grow_front(missing) {
            return Err(DropReason::Headroom.into());
        }
        packet.truncate(len);
        packet.bytes_mut().copy_from_slice(&self.octets[..self.len]);
        Ok(())
    }
}
