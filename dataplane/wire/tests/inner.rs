//! Packets inside ICMP errors.

use gate64_wire::facts::{Ipv4Facts, Ipv6Facts, L4Kind, ParseError};
use gate64_wire::inner::{InnerIpv4, InnerIpv6};
use gate64_wire::{ipv4, ipv6};

fn error_v6(icmp: &[u8], quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    ipv6::Header {
        traffic_class: 0,
        payload_len: u16::try_from(icmp.len() + quoted.len()).unwrap(),
        next_header: 58,
        hop_limit: 64,
        src: "2001:db8::1".parse().unwrap(),
        dst: "2001:db8::2".parse().unwrap(),
    }
    .write((&mut bytes[..]).try_into().unwrap());
    bytes.extend_from_slice(icmp);
    bytes.extend_from_slice(quoted);
    bytes
}

fn error_v4(icmp: &[u8], quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    header_v4(1, 20 + icmp.len() + quoted.len(), 0).write((&mut bytes[..]).try_into().unwrap());
    bytes.extend_from_slice(icmp);
    bytes.extend_from_slice(quoted);
    bytes
}

fn header_v4(protocol: u8, len: usize, fragment_offset: u16) -> ipv4::Header {
    ipv4::Header {
        tos: 0,
        len: u16::try_from(len).unwrap(),
        id: 7,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset,
        ttl: 1,
        protocol,
        src: "192.0.2.1".parse().unwrap(),
        dst: "198.51.100.7".parse().unwrap(),
    }
}

fn quoted_v4(protocol: u8, fragment_offset: u16, l4: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    header_v4(protocol, 1500, fragment_offset).write((&mut bytes[..]).try_into().unwrap());
    bytes[10] ^= 0xff; // the TTL changed on the way and nobody updated the checksum
    bytes.extend_from_slice(l4);
    bytes
}

fn parse_v4(bytes: &[u8]) -> Result<InnerIpv4, ParseError> {
    InnerIpv4::parse(bytes, &Ipv4Facts::parse(bytes).unwrap())
}

fn parse_v6(bytes: &[u8]) -> Result<InnerIpv6, ParseError> {
    InnerIpv6::parse(bytes, &Ipv6Facts::parse(bytes).unwrap())
}

/// RFC 792: 8 octets are all a router has to quote.
#[test]
fn eight_octets_of_tcp_are_enough() {
    let quoted = quoted_v4(6, 0, &[0, 80, 0x12, 0x34, 0, 0, 0, 1]);
    let inner = parse_v4(&error_v4(&[3, 1, 0, 0, 0, 0, 0, 0], &quoted)).unwrap();
    assert_eq!((inner.at, inner.available), (28, 28));
    assert_eq!((inner.facts.len, inner.facts.l4_offset), (1500, 20));
    assert_eq!(inner.facts.l4.kind, L4Kind::Tcp);
    assert_eq!(
        (inner.facts.l4.src_port, inner.facts.l4.dst_port),
        (80, 0x1234)
    );
    let short = error_v4(&[3, 1, 0, 0, 0, 0, 0, 0], &quoted[..27]);
    assert_eq!(parse_v4(&short), Err(ParseError::L4Truncated));
    let short = error_v4(&[3, 1, 0, 0, 0, 0, 0, 0], &quoted[..19]);
    assert_eq!(parse_v4(&short), Err(ParseError::Truncated));
}

#[test]
fn udp_length_beyond_the_quotation() {
    let quoted = quoted_v4(17, 0, &[0, 80, 0x12, 0x34, 5, 0, 0, 0]);
    let inner = parse_v4(&error_v4(&[11, 0, 0, 0, 0, 0, 0, 0], &quoted)).unwrap();
    assert_eq!(inner.facts.l4.kind, L4Kind::Udp);
    assert!(inner.facts.l4.udp_checksum_zero);
}

#[test]
fn later_fragment_has_no_ports() {
    let quoted = quoted_v4(17, 1480, &[1; 8]);
    let inner = parse_v4(&error_v4(&[11, 0, 0, 0, 0, 0, 0, 0], &quoted)).unwrap();
    assert_eq!(inner.facts.l4.kind, L4Kind::LaterFragment);
}

/// RFC 4884 section 5: the length field says where extensions begin; one that lies is ignored.
#[test]
fn extensions_are_not_part_of_the_datagram() {
    let mut quoted = quoted_v4(17, 0, &[0; 8]);
    quoted[24] = 9;
    quoted.resize(128, 0);
    quoted.extend([0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0, 0, 0]);
    for (words, available) in [(32, 128), (0, 140), (36, 140)] {
        let inner = parse_v4(&error_v4(&[11, 0, 0, 0, 0, words, 0, 0], &quoted)).unwrap();
        assert_eq!(inner.available, available);
    }
}

#[test]
fn inner_ipv6() {
    let mut quoted = error_v6(&[], &[0x12, 0x34, 0, 53, 5, 0, 0xab, 0xcd]);
    quoted[4..7].copy_from_slice(&[5, 0, 17]);
    let bytes = error_v6(&[2, 0, 0, 0, 0, 0, 5, 0], &quoted);
    let inner = parse_v6(&bytes).unwrap();
    assert_eq!((inner.at, inner.available), (48, 48));
    assert_eq!(inner.facts.len, 40 + 1280);
    assert_eq!(
        (inner.facts.l4.kind, inner.facts.l4.dst_port),
        (L4Kind::Udp, 53)
    );
    // RFC 4884: 8-octet units, and packet too big has no length field.
    quoted.resize(136, 0);
    let bytes = error_v6(&[3, 0, 0, 0, 16, 0, 0, 0], &quoted);
    assert_eq!(parse_v6(&bytes).unwrap().available, 128);
    let bytes = error_v6(&[2, 0, 0, 0, 16, 0, 5, 0], &quoted);
    assert_eq!(parse_v6(&bytes).unwrap().available, 136);
}

#[test]
fn only_errors_have_an_inner_packet() {
    let bytes = error_v4(&[8, 0, 0, 0, 0, 0, 0, 0], &quoted_v4(17, 0, &[9; 8]));
    assert_eq!(parse_v4(&bytes), Err(ParseError::L4Truncated));
    let nested = quoted_v4(1, 0, &[3, 1, 0, 0, 0, 0, 0, 0]);
    let inner = parse_v4(&error_v4(&[11, 0, 0, 0, 0, 0, 0, 0], &nested)).unwrap();
    assert_eq!(inner.facts.l4.kind, L4Kind::IcmpError);
}
