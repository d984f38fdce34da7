//! IPv6 packets to facts, octet by octet.

use gate64_wire::facts::{FragmentFacts, Ipv6Facts, L4Kind, ParseError, tcp_flag};
use gate64_wire::ipv6;

/// 2001:db8::1 to 64:ff9b::c000:201, hop limit 64, with the given next header and payload.
fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    ipv6::Header {
        traffic_class: 0xb8,
        payload_len: u16::try_from(payload.len()).unwrap(),
        next_header,
        hop_limit: 64,
        src: "2001:db8::1".parse().unwrap(),
        dst: "64:ff9b::192.0.2.1".parse().unwrap(),
    }
    .write((&mut bytes[..]).try_into().unwrap());
    bytes.extend_from_slice(payload);
    bytes
}

const UDP: [u8; 10] = [0x12, 0x34, 0x00, 0x35, 0, 10, 0xab, 0xcd, 1, 2];
const TCP: [u8; 20] = [
    0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0,
];

fn parse(bytes: &[u8]) -> Result<Ipv6Facts, ParseError> {
    Ipv6Facts::parse(bytes)
}

#[test]
fn udp_with_link_padding() {
    let mut bytes = packet(17, &UDP);
    bytes.extend_from_slice(&[0; 6]);
    let facts = parse(&bytes).unwrap();
    assert_eq!(
        facts.src,
        "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap()
    );
    assert_eq!(
        facts.dst,
        "64:ff9b::c000:201".parse::<std::net::Ipv6Addr>().unwrap()
    );
    assert_eq!((facts.traffic_class, facts.hop_limit), (0xb8, 64));
    assert_eq!((facts.protocol, facts.l4_offset, facts.len), (17, 40, 50));
    assert_eq!((facts.fragment, facts.segments_left_at), (None, None));
    assert_eq!(facts.l4.kind, L4Kind::Udp);
    assert_eq!((facts.l4.src_port, facts.l4.dst_port), (0x1234, 53));
    assert!(!facts.l4.udp_checksum_zero);
}

#[test]
fn tcp_flags() {
    let facts = parse(&packet(6, &TCP)).unwrap();
    assert_eq!(facts.l4.kind, L4Kind::Tcp);
    assert_eq!(facts.l4.tcp_flags, tcp_flag::SYN);
}

#[test]
fn icmpv6_kinds() {
    for (icmp_type, kind, id) in [
        (128, L4Kind::EchoRequest, 0x0a0b),
        (129, L4Kind::EchoReply, 0x0a0b),
        (1, L4Kind::IcmpError, 0),
        (4, L4Kind::IcmpError, 0),
        (5, L4Kind::IcmpOther, 0),
        (135, L4Kind::IcmpOther, 0),
    ] {
        let facts = parse(&packet(58, &[icmp_type, 3, 0, 0, 0x0a, 0x0b, 0, 1])).unwrap();
        assert_eq!(facts.l4.kind, kind);
        assert_eq!((facts.l4.src_port, facts.l4.dst_port), (id, id));
        assert_eq!((facts.l4.icmp_type, facts.l4.icmp_code), (icmp_type, 3));
    }
    // ICMPv4 over IPv6 is no ICMP at all.
    assert_eq!(parse(&packet(1, &[8; 8])).unwrap().l4.kind, L4Kind::Unknown);
}

#[test]
fn extension_headers_are_walked() {
    let mut payload = vec![43, 0, 5, 2, 0, 0, 0, 0]; // hop-by-hop
    payload.extend([60, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // routing, 3 segments left
    payload.extend([17, 0, 1, 4, 0, 0, 0, 0]); // destination options
    payload.extend(UDP);
    let facts = parse(&packet(0, &payload)).unwrap();
    assert_eq!((facts.protocol, facts.l4_offset), (17, 72));
    assert_eq!(facts.segments_left_at, Some(51));
    assert_eq!(facts.l4.kind, L4Kind::Udp);
}

#[test]
fn other_headers_are_unknown_protocols() {
    for next_header in [50, 51, 59, 132, 135, 139, 253] {
        let facts = parse(&packet(next_header, &[0; 8])).unwrap();
        assert_eq!(
            (facts.l4.kind, facts.protocol),
            (L4Kind::Unknown, next_header)
        );
        assert_eq!(facts.l4_offset, 40);
    }
}

#[test]
fn fragments() {
    let fragment = |offset: u16, payload: &[u8]| {
        let mut bytes = vec![17, 0];
        bytes.extend(offset.to_be_bytes());
        bytes.extend([0xde, 0xad, 0xbe, 0xef]);
        bytes.extend(payload);
        parse(&packet(44, &bytes))
    };
    let first = fragment(1, &[&UDP[..4], &[1, 0], &UDP[6..8], &[0; 8]].concat()).unwrap();
    assert_eq!(first.l4.kind, L4Kind::Udp);
    assert_eq!((first.l4_offset, first.protocol), (48, 17));
    let facts = FragmentFacts {
        offset: 0,
        more: true,
        id: 0xdead_beef,
    };
    assert_eq!(first.fragment, Some(facts));

    let later = fragment(1480, &[9; 3]).unwrap();
    assert_eq!(later.l4.kind, L4Kind::LaterFragment);
    assert_eq!(
        later.fragment,
        Some(FragmentFacts {
            offset: 1480,
            more: false,
            ..facts
        })
    );
    assert_eq!((later.l4.src_port, later.protocol), (0, 17));

    // RFC 6946: an atomic fragment is a whole packet and is told apart.
    let atomic = fragment(0, &UDP).unwrap();
    assert_eq!(
        atomic.fragment,
        Some(FragmentFacts {
            more: false,
            ..facts
        })
    );
    assert_eq!(atomic.l4.kind, L4Kind::Udp);

    assert_eq!(
        fragment(1481, &[9; 3]),
        Err(ParseError::FragmentLength),
        "not a multiple of 8"
    );
    assert_eq!(
        fragment(1480, &[]),
        Err(ParseError::FragmentLength),
        "no payload"
    );
    assert_eq!(
        fragment(65528, &[9; 8]),
        Err(ParseError::FragmentLength),
        "beyond 65535"
    );
    assert_eq!(
        fragment(65528, &[9; 7]).unwrap().l4.kind,
        L4Kind::LaterFragment
    );
}

/// RFC 7112: the headers are all in the first fragment.
#[test]
fn first_fragment_holds_the_whole_header() {
    let mut bytes = vec![6, 0, 0, 1, 0, 0, 0, 1];
    bytes.extend(&TCP[..16]);
    assert_eq!(parse(&packet(44, &bytes)), Err(ParseError::L4Truncated));
}

#[test]
fn headers_out_of_order_are_refused() {
    let chain = |next_header, headers: &[[u8; 8]]| {
        let mut payload = headers.concat();
        payload.extend(UDP);
        parse(&packet(next_header, &payload))
    };
    let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    assert!(chain(60, &[options(17)]).is_ok());
    assert_eq!(
        chain(60, &[options(0), options(17)]),
        Err(ParseError::ExtensionHeaders)
    );
    assert_eq!(
        chain(44, &[[44, 0, 0, 0, 0, 0, 0, 1], [17, 0, 0, 0, 0, 0, 0, 1]]),
        Err(ParseError::FragmentHeader)
    );
    assert_eq!(
        chain(44, &[[60, 0, 0, 0, 0, 0, 0, 1], options(17)]),
        Err(ParseError::FragmentHeader)
    );
    assert!(chain(60, &[&[options(60); 6][..], &[options(17)]].concat()).is_ok());
    assert_eq!(
        chain(60, &[&[options(60); 8][..], &[options(17)]].concat()),
        Err(ParseError::ExtensionHeaders)
    );
    // A length beyond the packet, a header cut short.
    assert_eq!(
        parse(&packet(60, &[17, 9, 0, 0, 0, 0, 0, 0])),
        Err(ParseError::ExtensionHeaders)
    );
    assert_eq!(
        parse(&packet(43, &[17, 0, 0, 0])),
        Err(ParseError::ExtensionHeaders)
    );
    assert_eq!(
        parse(&packet(44, &[17, 0, 0, 0])),
        Err(ParseError::ExtensionHeaders)
    );
}

#[test]
fn malformed_packets_are_named() {
    let good = packet(17, &UDP);
    for len in 0..good.len() {
        assert_eq!(parse(&good[..len]), Err(ParseError::Truncated), "{len}");
    }
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        parse(&bytes)
    };
    assert_eq!(with(0, 0x45), Err(ParseError::Version));
    assert_eq!(with(5, 0), Err(ParseError::PayloadLength));
    assert_eq!(with(5, 7), Err(ParseError::L4Truncated));
    assert_eq!(with(4, 0xff), Err(ParseError::Truncated));
    assert_eq!(
        with(45, 11),
        Err(ParseError::UdpLength),
        "longer than the payload"
    );
    assert_eq!(
        with(45, 7),
        Err(ParseError::UdpLength),
        "shorter than its header"
    );
    assert!(with(45, 9).is_ok(), "octets behind the datagram");
    let mut tcp = packet(6, &TCP);
    tcp[52] = 0x60;
    assert_eq!(parse(&tcp), Err(ParseError::TcpOffset));
    assert_eq!(parse(&packet(6, &TCP[..19])), Err(ParseError::L4Truncated));
    assert_eq!(
        parse(&packet(58, &[128, 0, 0, 0, 0, 0, 0])),
        Err(ParseError::L4Truncated)
    );
}
