//! What translation does to the upper-layer checksum, without reading the payload.

use gate64_wire::addr::{Tuple4, Tuple6};
use gate64_wire::checksum::{self, Delta, Sum};
use gate64_wire::facts::{FragmentFacts, Ipv4Facts, Ipv6Facts, L4Kind};
use gate64_wire::{icmpv4, icmpv6, tcp, udp};

use crate::packet::Packet;

/// The difference that translating a session's packets from IPv6 to IPv4 makes to the TCP or UDP
/// checksum: addresses and ports. Length and protocol stand in both pseudo-headers and cancel
/// out. The other direction is its `reverse()`.
#[inline]
pub fn l4_delta(v6: &Tuple6, v4: &Tuple4) -> Delta {
    let old = Sum::ZERO
        .ipv6(v6.src.ip)
        .ipv6(v6.dst.ip)
        .word(v6.src.port)
        .word(v6.dst.port);
    let new = Sum::ZERO
        .ipv4(v4.src.ip)
        .ipv4(v4.dst.ip)
        .word(v4.src.port)
        .word(v4.dst.port);
    Delta::of(old, new)
}

/// An echo message's type as IPv4 and as IPv6 writes it.
#[inline]
pub(super) fn echo_types(kind: L4Kind) -> (u8, u8) {
    match kind {
        L4Kind::EchoReply => (icmpv4::ECHO_REPLY, icmpv6::ECHO_REPLY),
        _ => (icmpv4::ECHO_REQUEST, icmpv6::ECHO_REQUEST),
    }
}

/// The difference for an echo message from IPv6 to IPv4: type and identifier change, and
/// ICMPv4 has no pseudo-header (RFC 7915 section 5.2).
pub(super) fn echo_delta(v6: &Tuple6, v4: &Tuple4, kind: L4Kind, l4_len: u16) -> Delta {
    let (type_v4, type_v6) = echo_types(kind);
    let old = checksum::pseudo_header_v6(v6.src.ip, v6.dst.ip, icmpv6::PROTOCOL, l4_len)
        .word(u16::from_be_bytes([type_v6, 0]))
        .word(v6.src.port);
    let new = Sum::ZERO
        .word(u16::from_be_bytes([type_v4, 0]))
        .word(v4.src.port);
    Delta::of(old, new)
}

/// Writes ports and checksum of TCP and UDP; a UDP checksum of zero is none and stays. Octets that
/// are not there (inside an ICMP error) are not written.
#[inline]
pub(super) fn write_ports(l4: &mut [u8], kind: L4Kind, src: u16, dst: u16, delta: Delta) {
    let Some(ports) = l4.first_chunk_mut::<4>() else {
        return;
    };
    ports[..2].copy_from_slice(&src.to_be_bytes());
    ports[2..].copy_from_slice(&dst.to_be_bytes());
    match kind {
        L4Kind::Udp => {
            let field = l4.get_mut(udp::CHECKSUM_AT..);
            if let Some(field) = field.and_then(<[u8]>::first_chunk_mut) {
                delta.update_udp(field);
            }
        }
        _ => update(l4, tcp::CHECKSUM_AT, |checksum| delta.apply(checksum)),
    }
}

/// Writes type, identifier and checksum of an echo message.
pub(super) fn write_echo(l4: &mut [u8], icmp_type: u8, id: u16, delta: Delta) {
    let Some(header) = l4.first_chunk_mut::<{ icmpv4::HEADER_LEN }>() else {
        return;
    };
    header[0] = icmp_type;
    header[icmpv4::IDENTIFIER_AT..][..2].copy_from_slice(&id.to_be_bytes());
    update(header, icmpv4::CHECKSUM_AT, |checksum| {
        delta.apply(checksum)
    });
}

#[inline]
pub(super) fn update(l4: &mut [u8], at: usize, change: impl FnOnce(u16) -> u16) {
    if let Some([high, low]) = l4.get_mut(at..at + 2) {
        [*high, *low] = change(u16::from_be_bytes([*high, *low])).to_be_bytes();
    }
}

/// Computes the checksum of a received packet anew, before translation: for peers on the same
/// machine that leave it to an offload which never happens. Fragments are left alone, and so is
/// a UDP checksum of zero: it is none.
pub fn recompute_checksum_v6(packet: &mut Packet<'_>, facts: &Ipv6Facts) {
    let (at, udp) = match facts.l4.kind {
        L4Kind::Udp if facts.l4.udp_checksum_zero => return,
        L4Kind::Udp => (udp::CHECKSUM_AT, true),
        L4Kind::Tcp => (tcp::CHECKSUM_AT, false),
        L4Kind::EchoRequest | L4Kind::EchoReply | L4Kind::IcmpError => (icmpv6::CHECKSUM_AT, false),
        _ => return,
    };
    let bytes = packet.bytes_mut();
    let range = usize::from(facts.l4_offset)..usize::from(facts.len);
    if let (true, Some(l4)) = (is_whole(facts.fragment), bytes.get_mut(range)) {
        let l4 = datagram(l4, udp);
        let pseudo = |len| checksum::pseudo_header_v6(facts.src, facts.dst, facts.protocol, len);
        rewrite(l4, at, udp, pseudo);
    }
}

/// As [`recompute_checksum_v6`].
pub fn recompute_checksum_v4(packet: &mut Packet<'_>, facts: &Ipv4Facts) {
    let (at, udp) = match facts.l4.kind {
        L4Kind::Udp if facts.l4.udp_checksum_zero => return,
        L4Kind::Udp => (udp::CHECKSUM_AT, true),
        L4Kind::Tcp => (tcp::CHECKSUM_AT, false),
        L4Kind::EchoRequest | L4Kind::EchoReply | L4Kind::IcmpError => (icmpv4::CHECKSUM_AT, false),
        _ => return,
    };
    let bytes = packet.bytes_mut();
    let range = usize::from(facts.l4_offset)..usize::from(facts.len);
    if let (true, Some(l4)) = (is_whole(facts.fragment), bytes.get_mut(range)) {
        let l4 = datagram(l4, udp);
        let pseudo = |len| match facts.protocol {
            icmpv4::PROTOCOL => Sum::ZERO,
            protocol => checksum::pseudo_header_v4(facts.src, facts.dst, protocol, len),
        };
        rewrite(l4, at, udp, pseudo);
    }
}

fn is_whole(fragment: Option<FragmentFacts>) -> bool {
    fragment.is_none_or(|fragment| fragment.offset == 0 && !fragment.more)
}

/// The octets that the checksum covers: of UDP as many as its own length field says.
pub(super) fn datagram(l4: &mut [u8], udp: bool) -> &mut [u8] {
    let len = match udp::Header::parse(l4) {
        Ok(header) if udp => usize::from(header.len).min(l4.len()),
        _ => l4.len(),
    };
    &mut l4[..len]
}

/// Computes the checksum at `at` over pseudo-header and octets.
pub(super) fn rewrite(l4: &mut [u8], at: usize, udp: bool, pseudo: impl FnOnce(u16) -> Sum) {
    let Ok(len) = u16::try_from(l4.len()) else {
        return;
    };
    update(l4, at, |_| 0);
    let sum = pseudo(len).bytes(l4);
    update(l4, at, |_| {
        if udp {
            sum.udp_checksum()
        } else {
            sum.checksum()
        }
    });
}
