//! Generated packets: nothing panics, and etherparse reads the same.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use gate64_wire::checksum::{self, Sum};
use gate64_wire::ethernet;
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts, L4Kind};
use gate64_wire::inner::{InnerIpv4, InnerIpv6};
use proptest::prelude::*;

/// Parses everything that can be parsed out of the octets.
fn parse_all(bytes: &[u8]) {
    let _ = ethernet::Header::parse(bytes);
    if let Ok(facts) = Ipv4Facts::parse(bytes) {
        assert!(usize::from(facts.len) <= bytes.len() && facts.l4_offset <= facts.len);
        let _ = InnerIpv4::parse(bytes, &facts);
    }
    if let Ok(facts) = Ipv6Facts::parse(bytes) {
        assert!(usize::from(facts.len) <= bytes.len() && facts.l4_offset <= facts.len);
        let _ = InnerIpv6::parse(bytes, &facts);
    }
}

/// Makes octets look like IP, so that parsing goes deep.
fn disguise(bytes: &mut [u8], v6: bool, protocol: u8) {
    let Ok(len) = u16::try_from(bytes.len()) else {
        return;
    };
    if v6 && bytes.len() > 40 {
        bytes[0] = 0x60;
        bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
        bytes[6] = protocol;
    } else if bytes.len() > 20 {
        bytes[0] = 0x40 | (5 + bytes[0] % 3);
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[9] = protocol;
        let end = bytes.len().min(usize::from(bytes[0] & 0xf) * 4);
        bytes[10..12].copy_from_slice(&[0, 0]);
        let checksum = Sum::ZERO.bytes(&bytes[..end]).checksum();
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn protocols() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![0u8, 1, 6, 17, 43, 44, 58, 60, 51, 59, 132])
}

proptest! {
    #[test]
    fn nothing_panics(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        v6 in any::<bool>(),
        protocol in protocols(),
    ) {
        parse_all(&bytes);
        disguise(&mut bytes, v6, protocol);
        parse_all(&bytes);
    }

    /// ICMP errors around octets that look like packets.
    #[test]
    fn nothing_inside_an_icmp_error_panics(
        mut inner in prop::collection::vec(any::<u8>(), 0..200),
        mut outer in prop::collection::vec(any::<u8>(), 48),
        v6 in any::<bool>(),
        protocol in protocols(),
        icmp_type in prop::sample::select(vec![1u8, 2, 3, 4, 11, 12]),
    ) {
        disguise(&mut inner, v6, protocol);
        if !v6 { outer.truncate(28); }
        let at = outer.len() - 8;
        outer[at] = icmp_type;
        outer.extend(&inner);
        if !v6 { outer[6..8].copy_from_slice(&[0, 0]); outer[0] = 0; }
        disguise(&mut outer, v6, if v6 { 58 } else { 1 });
        parse_all(&outer);
    }

    #[test]
    fn etherparse_agrees_on_ipv4(
        src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(), ttl in any::<u8>(),
        ports in any::<(u16, u16)>(), tcp in any::<bool>(),
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let builder = PacketBuilder::ipv4(src, dst, ttl);
        let mut bytes = Vec::new();
        if tcp {
            builder.tcp(ports.0, ports.1, 1, 1000).syn().write(&mut bytes, &payload).unwrap();
        } else {
            builder.udp(ports.0, ports.1).write(&mut bytes, &payload).unwrap();
        }
        let facts = Ipv4Facts::parse(&bytes).unwrap();
        prop_assert_eq!(facts.src.octets(), src);
        prop_assert_eq!(facts.dst.octets(), dst);
        prop_assert_eq!(facts.ttl, ttl);
        prop_assert_eq!((facts.l4.src_port, facts.l4.dst_port), ports);
        prop_assert_eq!(facts.l4.kind, if tcp { L4Kind::Tcp } else { L4Kind::Udp });
        prop_assert_eq!(usize::from(facts.len), bytes.len());
        // etherparse computed the checksum: with it, pseudo-header and segment sum to minus zero.
        let l4 = &bytes[usize::from(facts.l4_offset)..];
        let len = facts.len - facts.l4_offset;
        let sum = checksum::pseudo_header_v4(facts.src, facts.dst, facts.protocol, len);
        prop_assert_eq!(sum.bytes(l4).folded(), 0xffff);
    }

    #[test]
    fn etherparse_agrees_on_ipv6(
        src in any::<[u8; 16]>(), dst in any::<[u8; 16]>(), hop_limit in any::<u8>(),
        ports in any::<(u16, u16)>(), which in 0..3,
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let builder = PacketBuilder::ipv6(src, dst, hop_limit);
        let mut bytes = Vec::new();
        match which {
            0 => builder.tcp(ports.0, ports.1, 1, 1000).syn().write(&mut bytes, &payload),
            1 => builder.udp(ports.0, ports.1).write(&mut bytes, &payload),
            _ => builder.icmpv6_echo_request(ports.0, 1).write(&mut bytes, &payload),
        }.unwrap();
        let facts = Ipv6Facts::parse(&bytes).unwrap();
        prop_assert_eq!(facts.src.octets(), src);
        prop_assert_eq!(facts.dst.octets(), dst);
        prop_assert_eq!(facts.hop_limit, hop_limit);
        prop_assert_eq!(facts.l4.src_port, ports.0);
        let kind = [L4Kind::Tcp, L4Kind::Udp, L4Kind::EchoRequest][usize::try_from(which).unwrap()];
        prop_assert_eq!(facts.l4.kind, kind);
        let l4 = &bytes[usize::from(facts.l4_offset)..];
        let len = facts.len - facts.l4_offset;
        let sum = checksum::pseudo_header_v6(facts.src, facts.dst, facts.protocol, len);
        prop_assert_eq!(sum.bytes(l4).folded(), 0xffff);
        let sliced = SlicedPacket::from_ip(&bytes).unwrap();
        prop_assert!(matches!(sliced.net, Some(NetSlice::Ipv6(_))));
        prop_assert_eq!(matches!(sliced.transport, Some(TransportSlice::Tcp(_))), which == 0);
    }
}
