//! ICMPv6 errors become ICMPv4 errors, with the packet inside (sections 5.2 and 5.3).

use gate64_dataplane::siit::{self, NextHopMtu};
use gate64_dataplane::verdict::{DropReason, Refusal};
use gate64_wire::addr::Protocol;
use gate64_wire::facts::Ipv6Facts;

use crate::judge::*;

fn translate(icmp_type: u8, code: u8, rest: u32) -> Option<Vec<u8>> {
    let bytes = icmp_v6(
        icmp_type,
        code,
        rest.to_be_bytes(),
        &sent_udp_v6(&[1, 2, 3, 4]),
    );
    let (result, out) = error_to_v4(&bytes, Protocol::Udp, ETHERNET);
    match result {
        Ok(()) => {
            judge(&out);
            Some(out)
        }
        Err(refusal) => {
            assert_eq!(refusal, Refusal::Drop(DropReason::IcmpUntranslatable));
            assert_eq!(out, bytes, "a refused packet is intact");
            None
        }
    }
}

#[test]
fn port_unreachable_octets() {
    let out = translate(1, 4, 0).unwrap();
    assert_eq!(out[..10], [0x45, 0, 0, 60, 0x12, 0x34, 0, 0, 63, 1]);
    assert_eq!(out[12..20], [192, 0, 2, 1, 198, 51, 100, 7]);
    assert_eq!(out[20..22], [3, 3]);
    assert_eq!(out[24..28], [0; 4]);
    // The inner packet is what the server sent, but for TTL, identification and DF.
    let mut sent = udp_v4(&[1, 2, 3, 4]);
    sent[8] = 1;
    sent[4..8].copy_from_slice(&[0; 4]);
    repair_v4(&mut sent);
    assert_eq!(out[28..], sent);
}

#[test]
fn types_and_codes() {
    let header = |icmp_type, code, rest| {
        translate(icmp_type, code, rest)
            .map(|out| [out[20], out[21], out[24], out[25], out[26], out[27]])
    };
    for (code, expected) in [
        (0, Some(1)),
        (1, Some(10)),
        (2, Some(1)),
        (3, Some(1)),
        (4, Some(3)),
        (5, None),
        (6, None),
    ] {
        assert_eq!(
            header(1, code, 0),
            expected.map(|code| [3, code, 0, 0, 0, 0])
        );
    }
    assert_eq!(header(2, 0, 1400), Some([3, 4, 0, 0, 0x05, 0x64]));
    assert_eq!(header(3, 0, 0), Some([11, 0, 0, 0, 0, 0]));
    assert_eq!(header(3, 1, 0), Some([11, 1, 0, 0, 0, 0]));
    assert_eq!(header(4, 0, 7), Some([12, 0, 8, 0, 0, 0]));
    assert_eq!(header(4, 0, 40), None, "no such field");
    assert_eq!(header(4, 1, 6), Some([3, 2, 0, 0, 0, 0]));
    assert_eq!(header(4, 2, 0), None, "unrecognized option");
}

#[test]
fn other_types_are_dropped() {
    // Multicast listener, neighbour discovery, node information, unknown.
    for icmp_type in [
        0, 5, 100, 127, 130, 131, 132, 133, 134, 135, 136, 137, 139, 140, 255,
    ] {
        let facts = Ipv6Facts::parse(&icmp_v6(icmp_type, 0, [0; 4], &[])).unwrap();
        let refusal = Refusal::Drop(DropReason::IcmpUntranslatable);
        assert_eq!(siit::check_v6(&facts), Err(refusal), "{icmp_type}");
    }
}

/// `min(MTU - 20, IPv4 next hop, IPv6 next hop - 20)`
#[test]
fn fragmentation_needed_mtu() {
    let mtu = |announced: u32, v6, v4, inner: &[u8]| {
        let bytes = icmp_v6(2, 0, announced.to_be_bytes(), inner);
        let (result, out) = error_to_v4(&bytes, Protocol::Udp, NextHopMtu { v6, v4 });
        result.unwrap();
        judge(&out);
        u16::from_be_bytes([out[26], out[27]])
    };
    let plain = sent_udp_v6(&[0; 8]);
    assert_eq!(mtu(1400, 1500, 1500, &plain), 1380);
    assert_eq!(mtu(1500, 1480, 1500, &plain), 1460);
    assert_eq!(mtu(1500, 1500, 1400, &plain), 1400);
    assert_eq!(mtu(0xffff_ffff, 65535, 65535, &plain), 65515);
    assert_eq!(mtu(0, 1500, 1500, &plain), 68);
    // "taking into account whether or not the packet in error includes a Fragment Header"
    let fragment = insert_v6(&plain, 44, &[0, 0, 0, 1, 0, 0, 0, 9]);
    assert_eq!(mtu(1400, 1500, 1500, &fragment), 1372);
}

#[test]
fn fragment_inside() {
    let inner = insert_v6(
        &sent_udp_v6(&[9; 16]),
        44,
        &[0, 0, 0x05, 0xc9, 0, 0, 0xbe, 0xef],
    );
    let bytes = icmp_v6(3, 1, [0; 4], &inner);
    let (result, out) = error_to_v4(&bytes, Protocol::Udp, ETHERNET);
    result.unwrap();
    judge(&out);
    assert_eq!(out[28..38], [0x45, 0, 0, 44, 0xbe, 0xef, 0x20, 185, 1, 17]);
    assert_eq!(out[48..], inner[48..]);
}

#[test]
fn extension_headers_outside_and_inside_are_removed() {
    let plain = translate(1, 4, 0).unwrap();
    let inner = insert_v6(&sent_udp_v6(&[1, 2, 3, 4]), 60, &[0, 0, 1, 4, 0, 0, 0, 0]);
    let bytes = icmp_v6(1, 4, [0; 4], &inner);
    let bytes = insert_v6(&bytes, 0, &[0, 0, 1, 4, 0, 0, 0, 0]);
    let (result, out) = error_to_v4(&bytes, Protocol::Udp, ETHERNET);
    result.unwrap();
    assert_eq!(out, plain);
}

#[test]
fn echo_inside() {
    let builder = etherparse::PacketBuilder::ipv6(SERVER6.octets(), HOST6.octets(), 5);
    let mut inner = Vec::new();
    builder
        .icmpv6_echo_request(PORT6, 3)
        .write(&mut inner, b"ping")
        .unwrap();
    let (result, out) = error_to_v4(&icmp_v6(3, 0, [0; 4], &inner), Protocol::Icmp, ETHERNET);
    result.unwrap();
    judge(&out);
    judge(&out[28..]);
    assert_eq!(out[48..50], [8, 0]);
    assert_eq!(out[52..54], [0x22, 0x3d]);
}

#[test]
fn bad_checksum_and_nested_errors_are_dropped() {
    let mut bytes = icmp_v6(3, 0, [0; 4], &sent_udp_v6(&[]));
    bytes[42] ^= 1;
    let (result, out) = error_to_v4(&bytes, Protocol::Udp, ETHERNET);
    assert_eq!(result, Err(Refusal::Drop(DropReason::IcmpChecksum)));
    assert_eq!(out, bytes);
    let bytes = icmp_v6(3, 0, [0; 4], &icmp_v6(1, 4, [0; 4], &sent_udp_v6(&[])));
    let (result, _) = error_to_v4(&bytes, Protocol::Icmp, ETHERNET);
    assert_eq!(result, Err(Refusal::Drop(DropReason::IcmpNested)));
}

/// RFC 4884: units of 4 octets, and still at least 128 octets of datagram.
#[test]
fn extensions_are_kept() {
    let extension = [0x20, 0, 0, 0, 0, 8, 1, 1, 0xaa, 0xbb, 0xcc, 0xdd];
    for (inner_payload, padded, expected_len) in [
        (32, 128, 128),     // 80 octets become 60, padded to 128
        (80, 128, 128),     // 128 octets become 108, padded to 128
        (88, 136, 128),     // 136 octets become 116, padded to 128
        (1000, 1048, 1020), // 1048 octets become 1028, more than the field can say
    ] {
        let mut body = sent_udp_v6(&vec![6; inner_payload]);
        body.resize(padded, 0);
        body.extend_from_slice(&extension);
        let words = u8::try_from(padded / 8).unwrap();
        let bytes = icmp_v6(3, 0, [words, 0, 0, 0], &body);
        let (result, out) = error_to_v4(&bytes, Protocol::Udp, ETHERNET);
        result.unwrap();
        judge(&out);
        assert_eq!(usize::from(out[25]) * 4, expected_len);
        assert_eq!(out[28 + expected_len..], extension);
    }
}

/// A broken router's datagram below 128 octets: padding makes the error grow.
#[test]
fn short_datagram_with_extensions_grows() {
    let mut body = sent_udp_v6(&[]);
    body.extend_from_slice(&[0x20, 0, 0, 0, 0, 4, 1, 1]);
    let bytes = icmp_v6(1, 0, [6, 0, 0, 0], &body);
    let (result, out) = error_to_v4(&bytes, Protocol::Udp, ETHERNET);
    result.unwrap();
    judge(&out);
    assert_eq!(out[25], 32);
    assert_eq!(out[156..], [0x20, 0, 0, 0, 0, 4, 1, 1]);
}
