//! Plain packets ([`gate64_wire::plain`]): the same translation where every field stands at a
//! fixed place and no rule but those for TCP and UDP applies.

use std::net::Ipv4Addr;

use gate64_wire::checksum::Delta;
use gate64_wire::plain::{Head, HeaderV4, HeaderV6, L4_AT, PlainV4, PlainV6};
use gate64_wire::rfc6052::EmbeddedWords;
use gate64_wire::{tcp, udp};

use super::Rules;
use super::v6_to_v4::UNFRAGMENTED_LEN_MAX;

/// Octets that an IPv6 header is longer than an IPv4 header.
pub const GROWTH: u16 = 20;

/// One hop less, where hop limit or TTL stand in the upper octet.
const HOP: u16 = 0x0100;

/// Translates in place the headers of a plain IPv6 packet with a hop limit of at least 2, as
/// [`super::v6_to_v4`] would: the IPv4 packet begins [`GROWTH`] octets behind it. `src_port` in
/// network order; the other one stays.
#[inline]
pub fn plain_v6_to_v4(
    head: &mut Head,
    (src, src_port): (Ipv4Addr, [u8; 2]),
    dst: Ipv4Addr,
    delta: Delta,
    rules: &Rules,
    id: [u8; 2],
) {
    let plain = PlainV6::known(head);
    let hops = plain.hop_limit_and_next_header();
    let len = plain.payload_len().wrapping_add(GROWTH); // shorter than it was
    HeaderV4 {
        tos: rules.traffic_class_word(plain.traffic_class()),
        len,
        id,
        dont_fragment: len > UNFRAGMENTED_LEN_MAX,
        ttl_and_protocol: hops.wrapping_sub(HOP),
        src,
        dst,
    }
    .write(head);
    head[L4_AT..L4_AT + 2].copy_from_slice(&src_port);
    update_checksum(head, hops, delta);
}

/// Translates in place the headers of a plain IPv4 packet with a TTL of at least 2, as
/// [`super::v4_to_v6`] would: the IPv6 packet begins [`GROWTH`] octets in front of it. `dst_port` in
/// network order; the other one stays.
#[inline]
pub fn plain_v4_to_v6(
    head: &mut Head,
    src: EmbeddedWords,
    (dst, dst_port): (&[u8; 16], [u8; 2]),
    delta: Delta,
    rules: &Rules,
) {
    let plain = PlainV4::known(head);
    let hops = plain.ttl_and_protocol();
    HeaderV6 {
        traffic_class: rules.traffic_class_word(plain.tos()),
        payload_len: plain.total_len().wrapping_sub(GROWTH), // a header and more
        hop_limit_and_next_header: hops.wrapping_sub(HOP),
        src,
        dst,
    }
    .write(head);
    head[L4_AT + 2..L4_AT + 4].copy_from_slice(&dst_port);
    update_checksum(head, hops, delta);
}

/// `hops_and_protocol`: the protocol's number in the lower octet.
#[inline]
fn update_checksum(head: &mut Head, hops_and_protocol: u16, delta: Delta) {
    let [_, number] = hops_and_protocol.to_be_bytes();
    if number == udp::PROTOCOL {
        let at = L4_AT + udp::CHECKSUM_AT;
        let checksum = delta.apply_udp(u16::from_be_bytes([head[at], head[at + 1]]));
        head[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let at = L4_AT + tcp::CHECKSUM_AT;
        let checksum = delta.apply(u16::from_be_bytes([head[at], head[at + 1]]));
        head[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}
