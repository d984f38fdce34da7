//! Plain packets: what nearly all packets of a running connection are. No IPv4 options, no
//! extension headers, no fragment; UDP with a checksum, or TCP without SYN, FIN and RST.
//!
//! Every field stands at a fixed place, so that reading one costs a load. A packet that is
//! not plain is not wrong: [`crate::facts`] reads it, and says what is wrong with it if anything is.

use std::net::Ipv4Addr;

use crate::addr::Protocol;
use crate::checksum;
use crate::facts::tcp_flag;
use crate::rfc6052::EmbeddedWords;
use crate::{ipv4, ipv6, tcp, udp};

/// Octets of the longest headers of a plain packet: IPv6 and TCP.
pub const HEAD_LEN: usize = ipv6::HEADER_LEN + tcp::HEADER_LEN;

/// Where the upper-layer header stands in a [`Head`].
pub const L4_AT: usize = ipv6::HEADER_LEN;

/// Where an IPv4 packet begins in a [`Head`].
pub const V4_AT: usize = ipv6::HEADER_LEN - ipv4::HEADER_LEN;

/// The octets around a packet's headers, with the upper-layer header at [`L4_AT`] whichever way it
/// is translated: an IPv6 packet begins at 0, an IPv4 packet at [`V4_AT`]. What lies behind a short
/// packet is anything.
pub type Head = [u8; HEAD_LEN];

/// A plain IPv6 packet, read where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainV6<'a>(&'a Head);

/// A plain IPv4 packet, read where it lies; its header checksum was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainV4<'a>(&'a Head);

impl<'a> PlainV6<'a> {
    /// Of a packet with `len` octets that begins with its IPv6 header, with its protocol: UDP or
    /// TCP; `None` if it is not plain.
    #[inline]
    pub fn read(head: &'a Head, len: u16) -> Option<(PlainV6<'a>, Protocol)> {
        let payload_len = word(head, 4);
        if usize::from(payload_len) + L4_AT > usize::from(len) || head[0] & 0xf0 != 0x60 {
            return None;
        }
        let protocol = plain_l4(head, head[6], payload_len)?;
        let is_plain = protocol != Protocol::Udp || has_udp_checksum(head);
        is_plain.then_some((PlainV6(head), protocol))
    }

    /// Of a packet that is known to be plain.
    #[inline]
    pub fn known(head: &'a Head) -> PlainV6<'a> {
        PlainV6(head)
    }

    /// Octets behind the IPv6 header.
    #[inline]
    pub fn payload_len(self) -> u16 {
        word(self.0, 4)
    }

    /// Source address.
    #[inline]
    pub fn src(self) -> &'a [u8; 16] {
        part::<8, 16>(self.0)
    }

    /// Destination address.
    #[inline]
    pub fn dst(self) -> &'a [u8; 16] {
        part::<24, 16>(self.0)
    }

    /// Traffic class.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // without the version
    pub fn traffic_class(self) -> u8 {
        (word(self.0, 0) >> 4) as u8
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(self) -> u8 {
        self.0[7]
    }

    /// The hop limit in the upper octet, the number of UDP or TCP in the lower.
    #[inline]
    pub fn hop_limit_and_next_header(self) -> u16 {
        u16::from_be_bytes([self.0[7], self.0[6]])
    }

    /// Source port in network order.
    #[inline]
    pub fn src_port(self) -> &'a [u8; 2] {
        part::<L4_AT, 2>(self.0)
    }

    /// Destination port in network order.
    #[inline]
    pub fn dst_port(self) -> [u8; 2] {
        octets(self.0, L4_AT + 2)
    }
}

impl PlainV4<'_> {
    /// Of a packet with `len` octets that begins with its IPv4 header at [`V4_AT`], with its
    /// protocol: UDP or TCP; `None` if it is not plain.
    #[inline]
    pub fn read(head: &Head, len: u16) -> Option<(PlainV4<'_>, Protocol)> {
        const PART: u32 = (!ipv4::DONT_FRAGMENT as u32).to_be();
        let header: [u8; ipv4::HEADER_LEN] = octets(head, V4_AT);
        let all = word(head, V4_AT + 2);
        let payload_len = all.checked_sub(20)?;
        let id_and_fragment = u32::from_ne_bytes(octets(head, V4_AT + 4));
        let is_whole = all <= len && id_and_fragment & PART == 0;
        if !is_whole || header[0] != 0x45 || !checksum::is_valid(&header) {
            return None;
        }
        let protocol = plain_l4(head, header[9], payload_len)?;
        let is_plain = protocol != Protocol::Udp || has_udp_checksum(head);
        is_plain.then_some((PlainV4(head), protocol))
    }

    /// Of a packet that is known to be plain.
    #[inline]
    pub fn known(head: &Head) -> PlainV4<'_> {
        PlainV4(head)
    }

    /// Octets of the whole packet.
    #[inline]
    pub fn total_len(self) -> u16 {
        word(self.0, V4_AT + 2)
    }

    /// Source address.
    #[inline]
    pub fn src(self) -> Ipv4Addr {
        Ipv4Addr::from(octets(self.0, V4_AT + 12))
    }

    /// Destination address.
    #[inline]
    pub fn dst(self) -> Ipv4Addr {
        Ipv4Addr::from(octets(self.0, V4_AT + 16))
    }

    /// Type of service.
    #[inline]
    pub fn tos(self) -> u8 {
        self.0[V4_AT + 1]
    }

    /// Time to live.
    #[inline]
    pub fn ttl(self) -> u8 {
        self.0[V4_AT + 8]
    }

    /// DF.
    #[inline]
    pub fn dont_fragment(self) -> bool {
        self.0[V4_AT + 6] & ipv4::DONT_FRAGMENT.to_be_bytes()[0] != 0
    }

    /// TTL in the upper octet, the number of UDP or TCP in the lower.
    #[inline]
    pub fn ttl_and_protocol(self) -> u16 {
        word(self.0, V4_AT + 8)
    }

    /// Source port in network order.
    #[inline]
    pub fn src_port(self) -> [u8; 2] {
        octets(self.0, L4_AT)
    }

    /// Destination port in network order.
    #[inline]
    pub fn dst_port(self) -> [u8; 2] {
        octets(self.0, L4_AT + 2)
    }
}

/// The IPv4 header of a plain packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderV4 {
    /// Type of service, an octet.
    pub tos: u32,
    /// Octets of the whole packet.
    pub len: u16,
    /// Identification, in any order.
    pub id: [u8; 2],
    /// DF.
    pub dont_fragment: bool,
    /// Time to live in the upper octet, protocol number in the lower.
    pub ttl_and_protocol: u16,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
}

impl HeaderV4 {
    /// Writes the header with its checksum at [`V4_AT`]: as [`ipv4::Header::write`], by words.
    #[inline]
    pub fn write(&self, head: &mut Head) {
        const DONT_FRAGMENT: u32 = (ipv4::DONT_FRAGMENT as u32).to_be();
        let first = 0x4500_0000 | self.tos << 16 | u32::from(self.len);
        let first = first.to_be_bytes();
        let flags = if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        let [high, low] = self.id;
        let second = (u32::from_ne_bytes([high, low, 0, 0]) | flags).to_ne_bytes();
        put(head, V4_AT, first);
        put(head, V4_AT + 4, second);
        put(head, V4_AT + 8, self.ttl_and_protocol.to_be_bytes());
        put(head, V4_AT + 12, self.src.octets());
        put(head, V4_AT + 16, self.dst.octets());
        let checksum = checksum::Sum::ZERO
            .octets(first)
            .octets(second)
            .word(self.ttl_and_protocol)
            .ipv4(self.src)
            .ipv4(self.dst)
            .checksum();
        put(head, V4_AT + 10, checksum.to_be_bytes());
    }
}

/// The IPv6 header of a plain packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderV6<'a> {
    /// Traffic class, an octet.
    pub traffic_class: u32,
    /// Octets behind the header.
    pub payload_len: u16,
    /// Hop limit in the upper octet, number of the upper layer in the lower.
    pub hop_limit_and_next_header: u16,
    /// Source address.
    pub src: EmbeddedWords,
    /// Destination address.
    pub dst: &'a [u8; 16],
}

impl HeaderV6<'_> {
    /// Writes the header at 0: as [`ipv6::Header::write`], by words.
    #[inline]
    pub fn write(&self, head: &mut Head) {
        let first = 6 << 28 | self.traffic_class << 20;
        let second = u32::from(self.payload_len) << 16
            | u32::from(self.hop_limit_and_next_header.swap_bytes());
        put(head, 0, first.to_be_bytes());
        put(head, 4, second.to_be_bytes());
        put(head, 8, self.src.high.to_ne_bytes());
        put(head, 16, self.src.mid.to_ne_bytes());
        put(head, 20, self.src.low);
        put(head, 24, *self.dst);
    }
}

#[inline]
fn put<const N: usize>(head: &mut Head, at: usize, octets: [u8; N]) {
    head[at..at + N].copy_from_slice(&octets);
}

/// `N` octets from the `AT`th on.
#[inline]
fn part<const AT: usize, const N: usize>(head: &Head) -> &[u8; N] {
    const { assert!(AT + N <= HEAD_LEN) };
    head[AT..].first_chunk().unwrap_or(&[0; N]) // never: just asserted
}

#[inline]
fn octets<const N: usize>(head: &Head, at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&head[at..at + N]);
    out
}

#[inline]
fn word(head: &Head, at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

/// The protocol with that number, if the upper-layer header is plain UDP or TCP and lies in a
/// payload of that many octets.
#[inline]
fn plain_l4(head: &Head, number: u8, payload_len: u16) -> Option<Protocol> {
    const CONTROL: u8 = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST;
    match number {
        udp::PROTOCOL => {
            let len = word(head, L4_AT + udp::LEN_AT);
            let fits = usize::from(len) >= udp::HEADER_LEN && len <= payload_len;
            fits.then_some(Protocol::Udp)
        }
        tcp::PROTOCOL => {
            let len = u16::from(head[L4_AT + 12] >> 4) * 4;
            let fits = usize::from(len) >= tcp::HEADER_LEN && len <= payload_len;
            (fits && head[L4_AT + 13] & CONTROL == 0).then_some(Protocol::Tcp)
        }
        _ => None,
    }
}

#[inline]
fn has_udp_checksum(head: &Head) -> bool {
    word(head, L4_AT + udp::CHECKSUM_AT) != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Ipv4Facts, Ipv6Facts, L4Kind};
    use crate::rfc6052::Pref64;
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

    fn kind(protocol: Protocol) -> L4Kind {
        match protocol {
            Protocol::Udp => L4Kind::Udp,
            Protocol::Tcp => L4Kind::Tcp,
            Protocol::Icmp => L4Kind::EchoRequest,
        }
    }

    /// A packet of either version with mostly sensible fields, so that many are plain.
    fn packets(version: u8) -> impl Strategy<Value = Vec<u8>> {
        let l4 = prop_oneof![4 => Just(17u8), 4 => Just(6), 1 => any::<u8>()];
        let offset = prop_oneof![6 => Just(0x50u8), 1 => any::<u8>()];
        let flags = prop_oneof![6 => Just(0x10u8), 1 => any::<u8>()];
        let fragment = prop_oneof![3 => Just(0u16), 3 => Just(0x4000), 1 => any::<u16>()];
        let lengths = (0usize..40, prop_oneof![6 => Just(0i32), 1 => -30..30]);
        let noise = prop::collection::vec(any::<u8>(), 120);
        (l4, offset, flags, fragment, lengths, noise).prop_map(
            move |(l4, offset, flags, fragment, (payload, off), mut bytes)| {
                let header = if version == 6 { 40 } else { 20 };
                bytes.truncate(header + 20 + payload);
                let len = i32::try_from(20 + payload).unwrap() + off;
                let len = u16::try_from(len.max(0)).unwrap();
                if version == 6 {
                    bytes[0] = 0x60 | bytes[0] & 0x0f;
                    bytes[4..6].copy_from_slice(&len.to_be_bytes());
                    bytes[6] = l4;
                } else {
                    bytes[0] = 0x45;
                    bytes[2..4].copy_from_slice(&(len + 20).to_be_bytes());
                    bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
                    bytes[9] = l4;
                    bytes[10..12].fill(0);
                    let sum = checksum::Sum::ZERO.bytes(&bytes[..20]).checksum();
                    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                }
                if l4 == 17 {
                    bytes[header + 4..header + 6].copy_from_slice(&len.to_be_bytes());
                } else {
                    bytes[header + 12] = offset;
                    bytes[header + 13] = flags;
                }
                bytes
            },
        )
    }

    /// The octets around a packet's headers, with ones where the packet ends early.
    fn head(at: usize, bytes: &[u8]) -> Head {
        let mut head = [0xff; HEAD_LEN];
        let len = bytes.len().min(HEAD_LEN - at);
        head[at..at + len].copy_from_slice(&bytes[..len]);
        head
    }

    fn len(bytes: &[u8]) -> u16 {
        u16::try_from(bytes.len()).unwrap()
    }

    proptest! {
        #[test]
        fn a_plain_ipv6_packet_has_the_same_facts(bytes in packets(6)) {
            let head = head(0, &bytes);
            if let Some((plain, protocol)) = PlainV6::read(&head, len(&bytes)) {
                let facts = Ipv6Facts::parse(&bytes).expect("a plain packet is in order");
                prop_assert_eq!((*plain.src(), *plain.dst()), (facts.src.octets(), facts.dst.octets()));
                prop_assert_eq!(plain.traffic_class(), facts.traffic_class);
                prop_assert_eq!((plain.hop_limit(), plain.payload_len() + 40), (facts.hop_limit, facts.len));
                let number = u16::from(facts.hop_limit) << 8 | u16::from(facts.protocol);
                prop_assert_eq!(plain.hop_limit_and_next_header(), number);
                prop_assert_eq!((40, None), (facts.l4_offset, facts.fragment));
                prop_assert_eq!(kind(protocol), facts.l4.kind);
                prop_assert_eq!(u16::from_be_bytes(*plain.src_port()), facts.l4.src_port);
                prop_assert_eq!(u16::from_be_bytes(plain.dst_port()), facts.l4.dst_port);
                prop_assert!(!facts.l4.udp_checksum_zero);
                prop_assert_eq!(facts.l4.tcp_flags & 0x07, 0);
            }
        }

        #[test]
        fn a_plain_ipv4_packet_has_the_same_facts(bytes in packets(4)) {
            let head = head(V4_AT, &bytes);
            if let Some((plain, protocol)) = PlainV4::read(&head, len(&bytes)) {
                let facts = Ipv4Facts::parse(&bytes).expect("a plain packet is in order");
                prop_assert_eq!((plain.src(), plain.dst()), (facts.src, facts.dst));
                prop_assert_eq!((plain.tos(), plain.ttl(), plain.total_len()), (facts.tos, facts.ttl, facts.len));
                let number = u16::from(facts.ttl) << 8 | u16::from(facts.protocol);
                prop_assert_eq!(plain.ttl_and_protocol(), number);
                prop_assert_eq!((20, None), (facts.l4_offset, facts.fragment));
                prop_assert_eq!(plain.dont_fragment(), facts.dont_fragment);
                prop_assert_eq!(kind(protocol), facts.l4.kind);
                prop_assert_eq!(u16::from_be_bytes(plain.src_port()), facts.l4.src_port);
                prop_assert_eq!(u16::from_be_bytes(plain.dst_port()), facts.l4.dst_port);
                prop_assert!(!facts.l4.udp_checksum_zero);
                prop_assert_eq!(facts.l4.tcp_flags & 0x07, 0);
            }
        }

        #[test]
        fn an_ipv4_header_by_words_is_the_same(
            (tos, len, id, dont_fragment) in any::<(u8, u16, [u8; 2], bool)>(),
            (ttl, protocol, src, dst) in any::<(u8, u8, Ipv4Addr, Ipv4Addr)>(),
        ) {
            let by_fields = ipv4::Header {
                tos,
                len,
                id: u16::from_be_bytes(id),
                dont_fragment,
                more_fragments: false,
                fragment_offset: 0,
                ttl,
                protocol,
                src,
                dst,
            };
            let mut expected = [0; ipv4::HEADER_LEN];
            by_fields.write(&mut expected);
            let mut head = [0xff; HEAD_LEN];
            let ttl_and_protocol = u16::from_be_bytes([ttl, protocol]);
            HeaderV4 { tos: tos.into(), len, id, dont_fragment, ttl_and_protocol, src, dst }.write(&mut head);
            prop_assert_eq!(&head[V4_AT..L4_AT], &expected);
            prop_assert!(head[..V4_AT].iter().chain(&head[L4_AT..]).all(|&octet| octet == 0xff));
        }

        #[test]
        fn an_ipv6_header_by_words_is_the_same(
            (traffic_class, payload_len, next_header, hop_limit) in any::<(u8, u16, u8, u8)>(),
            (src, dst) in any::<([u8; 4], Ipv6Addr)>(),
            prefix in prop_oneof![Just("64:ff9b::/96"), Just("2001:db8:122::/48"), Just("2001:db8::/32")],
        ) {
            let prefix: Pref64 = prefix.parse().unwrap();
            let by_fields = ipv6::Header {
                traffic_class,
                payload_len,
                next_header,
                hop_limit,
                src: prefix.embed(src.into()),
                dst,
            };
            let mut expected = [0; ipv6::HEADER_LEN];
            by_fields.write(&mut expected);
            let mut head = [0xff; HEAD_LEN];
            HeaderV6 {
                traffic_class: traffic_class.into(),
                payload_len,
                hop_limit_and_next_header: u16::from_be_bytes([hop_limit, next_header]),
                src: prefix.embed_words(src),
                dst: &dst.octets(),
            }
            .write(&mut head);
            prop_assert_eq!(&head[..L4_AT], &expected);
            prop_assert!(head[L4_AT..].iter().all(|&octet| octet == 0xff));
        }
    }

    #[test]
    fn plain_and_not() {
        let mut udp = [0u8; 48];
        udp[0] = 0x60;
        udp[5] = 8;
        udp[6] = 17;
        udp[45] = 8;
        udp[47] = 1;
        assert!(PlainV6::read(&head(0, &udp), 48).is_some());
        for (at, octet) in [
            (0, 0x40),
            (5, 9),
            (6, 58),
            (6, 44),
            (45, 7),
            (45, 9),
            (47, 0),
        ] {
            let mut other = udp;
            other[at] = octet;
            assert_eq!(PlainV6::read(&head(0, &other), 48), None, "{octet} at {at}");
        }
        assert_eq!(PlainV6::read(&head(0, &udp), 47), None);
    }
}
