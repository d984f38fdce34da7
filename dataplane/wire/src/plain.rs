//! Plain packets: what nearly all packets of a running connection are. No IPv4 options, no
//! extension headers, no fragment; UDP with a checksum, or TCP without SYN, FIN and RST.
//!
//! Every field stands at a fixed place, so that reading one costs a few loads. A packet that is
//! not plain is not wrong: [`crate::facts`] reads it, and says what is wrong with it if anything is.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::addr::Protocol;
use crate::checksum;
use crate::facts::tcp_flag;
use crate::{ipv4, ipv6, tcp, udp};

/// What the upper-layer header of a plain packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainL4 {
    /// UDP or TCP.
    pub protocol: Protocol,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// A plain IPv6 packet, read where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainV6<'a> {
    header: &'a [u8; ipv6::HEADER_LEN],
    /// Octets of the whole packet.
    pub len: u16,
    /// Its UDP or TCP header.
    pub l4: PlainL4,
}

/// A plain IPv4 packet, read where it lies; its header checksum was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainV4<'a> {
    header: &'a [u8; ipv4::HEADER_LEN],
    /// Octets of the whole packet.
    pub len: u16,
    /// Its UDP or TCP header.
    pub l4: PlainL4,
}

impl PlainV6<'_> {
    /// Reads a packet that begins with its IPv6 header; `None` if it is not plain.
    #[inline]
    pub fn read(bytes: &[u8]) -> Option<PlainV6<'_>> {
        let (header, rest) = bytes.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
        let payload_len = u16::from_be_bytes([header[4], header[5]]);
        let payload = rest.get(..usize::from(payload_len))?;
        if header[0] & 0xf0 != 0x60 {
            return None;
        }
        let l4 = PlainL4::read(header[6], payload)?;
        let len = payload_len.checked_add(40)?;
        Some(PlainV6 { header, len, l4 })
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        Ipv6Addr::from(octets(self.header, 8))
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        Ipv6Addr::from(octets(self.header, 24))
    }

    /// Traffic class.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        self.header[0] << 4 | self.header[1] >> 4
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }
}

impl PlainV4<'_> {
    /// Reads a packet that begins with its IPv4 header; `None` if it is not plain.
    #[inline]
    pub fn read(bytes: &[u8]) -> Option<PlainV4<'_>> {
        let header = bytes.first_chunk::<{ ipv4::HEADER_LEN }>()?;
        let len = u16::from_be_bytes([header[2], header[3]]);
        let payload = bytes.get(ipv4::HEADER_LEN..usize::from(len))?;
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        let is_part = fragment & !ipv4::DONT_FRAGMENT != 0;
        if header[0] != 0x45 || is_part || !checksum::is_valid(header) {
            return None;
        }
        let l4 = PlainL4::read(header[9], payload)?;
        if l4.protocol == Protocol::Udp && has_no_checksum(payload) {
            return None;
        }
        Some(PlainV4 { header, len, l4 })
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from(octets(self.header, 12))
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from(octets(self.header, 16))
    }

    /// Type of service.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.header[1]
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// DF.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.header[6] & ipv4::DONT_FRAGMENT.to_be_bytes()[0] != 0
    }
}

#[inline]
fn octets<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&header[at..at + N]);
    out
}

impl PlainL4 {
    #[inline]
    fn read(protocol: u8, payload: &[u8]) -> Option<PlainL4> {
        let [s0, s1, d0, d1, l0, l1, ..]: [u8; udp::HEADER_LEN] = *payload.first_chunk()?;
        let protocol = match protocol {
            udp::PROTOCOL => {
                let len = usize::from(u16::from_be_bytes([l0, l1]));
                if len < udp::HEADER_LEN || len > payload.len() {
                    return None;
                }
                Protocol::Udp
            }
            tcp::PROTOCOL => {
                const CONTROL: u8 = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST;
                let header: &[u8; tcp::HEADER_LEN] = payload.first_chunk()?;
                let len = usize::from(header[12] >> 4) * 4;
                if len < tcp::HEADER_LEN || len > payload.len() || header[13] & CONTROL != 0 {
                    return None;
                }
                Protocol::Tcp
            }
            _ => return None,
        };
        Some(PlainL4 {
            protocol,
            src_port: u16::from_be_bytes([s0, s1]),
            dst_port: u16::from_be_bytes([d0, d1]),
        })
    }
}

#[inline]
fn has_no_checksum(datagram: &[u8]) -> bool {
    matches!(datagram, [_, _, _, _, _, _, 0, 0, ..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Ipv4Facts, Ipv6Facts, L4Kind};
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn a_plain_ipv6_packet_has_the_same_facts(bytes in packets(6)) {
            if let Some(plain) = PlainV6::read(&bytes) {
                let facts = Ipv6Facts::parse(&bytes).expect("a plain packet is in order");
                prop_assert_eq!((plain.src(), plain.dst()), (facts.src, facts.dst));
                prop_assert_eq!(plain.traffic_class(), facts.traffic_class);
                prop_assert_eq!((plain.hop_limit(), plain.len), (facts.hop_limit, facts.len));
                prop_assert_eq!((40, None), (facts.l4_offset, facts.fragment));
                prop_assert_eq!(kind(plain.l4.protocol), facts.l4.kind);
                let ports = (facts.l4.src_port, facts.l4.dst_port);
                prop_assert_eq!((plain.l4.src_port, plain.l4.dst_port), ports);
                prop_assert_eq!(facts.l4.tcp_flags & 0x07, 0);
            }
        }

        #[test]
        fn a_plain_ipv4_packet_has_the_same_facts(bytes in packets(4)) {
            if let Some(plain) = PlainV4::read(&bytes) {
                let facts = Ipv4Facts::parse(&bytes).expect("a plain packet is in order");
                prop_assert_eq!((plain.src(), plain.dst()), (facts.src, facts.dst));
                prop_assert_eq!((plain.tos(), plain.ttl(), plain.len), (facts.tos, facts.ttl, facts.len));
                prop_assert_eq!((20, None), (facts.l4_offset, facts.fragment));
                prop_assert_eq!(plain.dont_fragment(), facts.dont_fragment);
                prop_assert_eq!(kind(plain.l4.protocol), facts.l4.kind);
                let ports = (facts.l4.src_port, facts.l4.dst_port);
                prop_assert_eq!((plain.l4.src_port, plain.l4.dst_port), ports);
                prop_assert!(!facts.l4.udp_checksum_zero);
                prop_assert_eq!(facts.l4.tcp_flags & 0x07, 0);
            }
        }
    }

    #[test]
    fn plain_and_not() {
        let mut udp = [0u8; 48];
        udp[0] = 0x60;
        udp[5] = 8;
        udp[6] = 17;
        udp[45] = 8;
        assert!(PlainV6::read(&udp).is_some());
        for (at, octet) in [(0, 0x40), (5, 9), (6, 58), (6, 44), (45, 7), (45, 9)] {
            let mut other = udp;
            other[at] = octet;
            assert_eq!(PlainV6::read(&other), None, "{octet} at {at}");
        }
        assert_eq!(PlainV6::read(&udp[..47]), None);
    }
}
