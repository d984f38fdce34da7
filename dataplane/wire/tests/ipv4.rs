//! IPv4 packets to facts, octet by octet.

use std::net::Ipv4Addr;

use gate64_wire::checksum::Sum;
use gate64_wire::facts::{FragmentFacts, Ipv4Facts, L4Kind, ParseError};
use gate64_wire::ipv4;

const UDP: [u8; 10] = [0x12, 0x34, 0x00, 0x35, 0, 10, 0xab, 0xcd, 1, 2];

const HEADER: ipv4::Header = ipv4::Header {
    tos: 0xb8,
    len: 0,
    id: 0xbeef,
    dont_fragment: true,
    more_fragments: false,
    fragment_offset: 0,
    ttl: 64,
    protocol: 17,
    src: Ipv4Addr::new(192, 0, 2, 1),
    dst: Ipv4Addr::new(198, 51, 100, 7),
};

/// The packet with its length and, for options, its header length and checksum put right.
fn packet(header: ipv4::Header, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    let len = 20 + options.len() + payload.len();
    ipv4::Header {
        len: u16::try_from(len).unwrap(),
        ..header
    }
    .write((&mut bytes[..]).try_into().unwrap());
    bytes.extend_from_slice(options);
    bytes[0] = 0x45 + u8::try_from(options.len() / 4).unwrap();
    repair(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

fn repair(header: &mut [u8]) {
    header[10..12].copy_from_slice(&[0, 0]);
    let checksum = Sum::ZERO.bytes(header).checksum();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn parse(bytes: &[u8]) -> Result<Ipv4Facts, ParseError> {
    Ipv4Facts::parse(bytes)
}

#[test]
fn header_octets() {
    let bytes = packet(HEADER, &[], &UDP);
    assert_eq!(
        bytes[..20],
        [
            0x45, 0xb8, 0, 30, 0xbe, 0xef, 0x40, 0, 64, 17, 0x8e, 0xeb, 192, 0, 2, 1, 198, 51, 100,
            7
        ]
    );
}

#[test]
fn udp_with_link_padding() {
    let mut bytes = packet(HEADER, &[], &UDP);
    bytes.extend_from_slice(&[0; 16]);
    let facts = parse(&bytes).unwrap();
    assert_eq!((facts.src, facts.dst), (HEADER.src, HEADER.dst));
    assert_eq!((facts.tos, facts.ttl, facts.protocol), (0xb8, 64, 17));
    assert_eq!((facts.l4_offset, facts.len, facts.id), (20, 30, 0xbeef));
    assert!(facts.dont_fragment);
    assert_eq!((facts.fragment, facts.source_route_at), (None, None));
    assert_eq!(facts.l4.kind, L4Kind::Udp);
    assert_eq!((facts.l4.src_port, facts.l4.dst_port), (0x1234, 53));
}

#[test]
fn zero_udp_checksum_is_told() {
    let mut udp = UDP;
    udp[6..8].copy_from_slice(&[0, 0]);
    assert!(
        parse(&packet(HEADER, &[], &udp))
            .unwrap()
            .l4
            .udp_checksum_zero
    );
}

#[test]
fn icmpv4_kinds() {
    let header = ipv4::Header {
        protocol: 1,
        ..HEADER
    };
    for (icmp_type, kind, id) in [
        (8, L4Kind::EchoRequest, 0x0a0b),
        (0, L4Kind::EchoReply, 0x0a0b),
        (3, L4Kind::IcmpError, 0),
        (11, L4Kind::IcmpError, 0),
        (12, L4Kind::IcmpError, 0),
        (4, L4Kind::IcmpOther, 0),
        (5, L4Kind::IcmpOther, 0),
        (13, L4Kind::IcmpOther, 0),
    ] {
        let facts = parse(&packet(
            header,
            &[],
            &[icmp_type, 1, 0, 0, 0x0a, 0x0b, 0, 1],
        ))
        .unwrap();
        assert_eq!(facts.l4.kind, kind);
        assert_eq!((facts.l4.src_port, facts.l4.dst_port), (id, id));
    }
    let icmpv6 = ipv4::Header {
        protocol: 58,
        ..HEADER
    };
    assert_eq!(
        parse(&packet(icmpv6, &[], &[128; 8])).unwrap().l4.kind,
        L4Kind::Unknown
    );
}

#[test]
fn options() {
    let parse = |options: &[u8]| parse(&packet(HEADER, options, &UDP));
    let facts = parse(&[1, 7, 7, 4, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap(); // record route
    assert_eq!((facts.l4_offset, facts.source_route_at), (32, None));
    assert_eq!(facts.l4.dst_port, 53);
    // RFC 791 section 3.1: a source route is used up when its pointer exceeds its length.
    let route = |kind, pointer| [1, kind, 7, pointer, 10, 0, 0, 1];
    assert_eq!(parse(&route(131, 4)).unwrap().source_route_at, Some(21));
    assert_eq!(parse(&route(137, 4)).unwrap().source_route_at, Some(21));
    assert_eq!(parse(&route(131, 8)).unwrap().source_route_at, None);
    assert_eq!(parse(&[7, 0, 0, 0]), Err(ParseError::Options));
    assert_eq!(parse(&[7, 1, 0, 0]), Err(ParseError::Options));
    assert_eq!(parse(&[7, 5, 0, 0]), Err(ParseError::Options));
    assert_eq!(parse(&[1, 1, 1, 7]), Err(ParseError::Options));
    assert_eq!(parse(&[131, 2, 0, 0]), Err(ParseError::Options));
    assert!(
        parse(&[0, 5, 0, 0]).is_ok(),
        "nothing is read behind the end"
    );
}

#[test]
fn fragments() {
    let fragment = |fragment_offset, more_fragments, payload: &[u8]| {
        let header = ipv4::Header {
            dont_fragment: false,
            fragment_offset,
            more_fragments,
            ..HEADER
        };
        parse(&packet(header, &[], payload))
    };
    let mut udp = [0; 16];
    udp[..8].copy_from_slice(&UDP[..8]);
    udp[4] = 4; // the whole datagram's length
    let first = fragment(0, true, &udp).unwrap();
    assert_eq!(first.l4.kind, L4Kind::Udp);
    let facts = FragmentFacts {
        offset: 0,
        more: true,
        id: 0xbeef,
    };
    assert_eq!(first.fragment, Some(facts));
    let later = fragment(1480, false, &[1, 2, 3]).unwrap();
    assert_eq!(later.l4.kind, L4Kind::LaterFragment);
    assert_eq!(
        later.fragment,
        Some(FragmentFacts {
            offset: 1480,
            more: false,
            ..facts
        })
    );
    assert_eq!(
        fragment(1480, true, &[1, 2, 3]),
        Err(ParseError::FragmentLength)
    );
    assert_eq!(fragment(8, true, &[]), Err(ParseError::FragmentLength));
    assert_eq!(
        fragment(65528, false, &[0; 8]),
        Err(ParseError::FragmentLength)
    );
}

#[test]
fn malformed_packets_are_named() {
    let good = packet(HEADER, &[], &UDP);
    for len in 0..good.len() {
        assert_eq!(parse(&good[..len]), Err(ParseError::Truncated), "{len}");
    }
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        repair(&mut bytes[..20]);
        parse(&bytes)
    };
    assert_eq!(with(0, 0x65), Err(ParseError::Version));
    assert_eq!(with(0, 0x44), Err(ParseError::HeaderLength));
    assert_eq!(with(0, 0x4f), Err(ParseError::HeaderLength));
    assert_eq!(with(3, 19), Err(ParseError::HeaderLength));
    assert_eq!(with(3, 31), Err(ParseError::Truncated));
    assert_eq!(with(3, 27), Err(ParseError::L4Truncated));
    assert_eq!(with(3, 29), Err(ParseError::UdpLength));
    let mut bad = good.clone();
    bad[8] = 63;
    assert_eq!(parse(&bad), Err(ParseError::HeaderChecksum));
    let mut bad = packet(HEADER, &[1, 1, 1, 0], &UDP);
    bad[20] = 2;
    assert_eq!(
        parse(&bad),
        Err(ParseError::HeaderChecksum),
        "options are part of it"
    );
}
