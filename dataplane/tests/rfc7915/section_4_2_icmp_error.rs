//! ICMPv4 errors become ICMPv6 errors, with the packet inside (sections 4.2 and 4.3).

use gate64_dataplane::siit::{self, NextHopMtu};
use gate64_dataplane::verdict::{DropReason, Refusal};
use gate64_wire::addr::Protocol;
use gate64_wire::facts::Ipv4Facts;

use crate::judge::*;

fn translate(icmp_type: u8, code: u8, rest: [u8; 4]) -> Option<Vec<u8>> {
    let bytes = icmp_v4(icmp_type, code, rest, &sent_udp_v4(&[1, 2, 3, 4]));
    let (result, out) = error_to_v6(&bytes, Protocol::Udp, ETHERNET);
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
fn time_exceeded_octets() {
    let out = translate(11, 0, [0; 4]).unwrap();
    assert_eq!(
        out[..40],
        [
            0x60, 0, 0, 0, 0, 60, 58, 63, // hop limit less one
            0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 203, 0, 113, 1, //
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        ]
    );
    assert_eq!(out[40..42], [3, 0]);
    assert_eq!(out[44..48], [0; 4]);
    // The inner packet is what the host sent, but for the hop limit it had arrived with.
    let mut sent = udp_v6(&[1, 2, 3, 4]);
    sent[7] = 1;
    assert_eq!(out[48..], sent);
}

#[test]
fn types_and_codes() {
    let unreachable = |code| Some([1, code, 0, 0, 0, 0]);
    for code in 0..=16 {
        let expected = match code {
            2 => Some([4, 1, 0, 0, 0, 6]),
            3 => unreachable(4),
            4 => Some([2, 0, 0, 0, 0x05, 0x14]),
            9 | 10 | 13 | 15 => unreachable(1),
            14 | 16 => None,
            _ => unreachable(0),
        };
        let out = translate(3, code, [0, 0, 0x05, 0x00]);
        let header = out.map(|out| [out[40], out[41], out[44], out[45], out[46], out[47]]);
        assert_eq!(header, expected, "code {code}");
    }
    assert_eq!(translate(11, 1, [0; 4]).unwrap()[40..42], [3, 1]);
    assert_eq!(
        translate(12, 0, [8, 0, 0, 0]).unwrap()[40..48][4..],
        [0, 0, 0, 7]
    );
    assert_eq!(
        translate(12, 2, [16, 0, 0, 0]).unwrap()[44..48],
        [0, 0, 0, 24]
    );
    assert_eq!(translate(12, 0, [4, 0, 0, 0]), None, "no such field");
    assert_eq!(translate(12, 1, [0; 4]), None, "missing option");
}

/// Redirect, source quench, timestamps and all else are refused before any table is asked.
#[test]
fn other_types_are_dropped() {
    for icmp_type in [4, 5, 6, 9, 10, 13, 14, 15, 16, 17, 18, 40, 255] {
        let bytes = icmp_v4(icmp_type, 0, [0; 4], &[]);
        let facts = Ipv4Facts::parse(&bytes).unwrap();
        let refusal = Refusal::Drop(DropReason::IcmpUntranslatable);
        assert_eq!(
            siit::check_v4(&facts, &rules()),
            Err(refusal),
            "{icmp_type}"
        );
    }
}

/// `max(1280, min(MTU + 20, IPv6 next hop, IPv4 next hop + 20))`
#[test]
fn packet_too_big_mtu() {
    let mtu = |announced: u16, v6, v4, inner_len: u16| {
        let mut inner = sent_udp_v4(&[0; 4]);
        inner[2..4].copy_from_slice(&inner_len.to_be_bytes());
        let [high, low] = announced.to_be_bytes();
        let bytes = icmp_v4(3, 4, [0, 0, high, low], &inner);
        let (result, out) = error_to_v6(&bytes, Protocol::Udp, NextHopMtu { v6, v4 });
        result.unwrap();
        u32::from_be_bytes([out[44], out[45], out[46], out[47]])
    };
    assert_eq!(mtu(1400, 1500, 1500, 1500), 1420);
    assert_eq!(mtu(1400, 1410, 1500, 1500), 1410);
    assert_eq!(mtu(1490, 9000, 1380, 1500), 1400);
    assert_eq!(mtu(1000, 1500, 1500, 1500), 1280);
    assert_eq!(mtu(65535, 65535, 65535, 1500), 65535);
    // RFC 1191 section 7: a router that leaves zero means the next plateau.
    assert_eq!(mtu(0, 9000, 9000, 1500), 1492 + 20);
    assert_eq!(mtu(0, 9000, 9000, 1492), 1280);
    assert_eq!(mtu(0, 9000, 9000, 2003), 2002 + 20);
    assert_eq!(mtu(0, 9000, 9000, 68), 1280);
}

#[test]
fn as_little_as_eight_octets_inside() {
    let whole = sent_udp_v4(&[0x77; 100]);
    let (result, out) = error_to_v6(
        &icmp_v4(11, 0, [0; 4], &whole[..28]),
        Protocol::Udp,
        ETHERNET,
    );
    result.unwrap();
    judge(&out);
    assert_eq!(out.len(), 48 + 48);
    assert_eq!(
        out[52..54],
        [0, 108],
        "the inner length is the whole packet's"
    );
    // Its checksum is the one that the host sent.
    assert_eq!(out[88..], udp_v6(&[0x77; 100])[40..48]);
}

#[test]
fn tcp_inside_is_written_as_far_as_it_goes() {
    let builder = etherparse::PacketBuilder::ipv4(HOST4.octets(), SERVER4.octets(), 5);
    let mut whole = Vec::new();
    builder
        .tcp(PORT4, SERVER_PORT, 7, 9)
        .write(&mut whole, &[])
        .unwrap();
    let builder = etherparse::PacketBuilder::ipv6(HOST6.octets(), SERVER6.octets(), 5);
    let mut sent = Vec::new();
    builder
        .tcp(PORT6, SERVER_PORT, 7, 9)
        .write(&mut sent, &[])
        .unwrap();
    for quoted in [8, 12, 16, 17, 18, 20] {
        let bytes = icmp_v4(3, 1, [0; 4], &whole[..20 + quoted]);
        let (result, out) = error_to_v6(&bytes, Protocol::Tcp, ETHERNET);
        result.unwrap();
        judge(&out);
        let known = if quoted == 17 { 16 } else { quoted };
        assert_eq!(out[48..88 + known], sent[..40 + known], "{quoted}");
    }
}

#[test]
fn echo_inside() {
    let builder = etherparse::PacketBuilder::ipv4(HOST4.octets(), SERVER4.octets(), 5);
    let mut inner = Vec::new();
    builder
        .icmpv4_echo_request(PORT4, 3)
        .write(&mut inner, b"ping")
        .unwrap();
    let (result, out) = error_to_v6(&icmp_v4(11, 0, [0; 4], &inner), Protocol::Icmp, ETHERNET);
    result.unwrap();
    judge(&out);
    judge(&out[48..]);
    assert_eq!(out[88..90], [128, 0]);
    assert_eq!(out[92..94], [0x12, 0x34]);
}

#[test]
fn later_fragment_inside() {
    let mut inner = sent_udp_v4(&[9; 16]);
    inner[4..8].copy_from_slice(&[0xbe, 0xef, 0x20, 185]);
    let (result, out) = error_to_v6(&icmp_v4(11, 1, [0; 4], &inner), Protocol::Udp, ETHERNET);
    result.unwrap();
    judge(&out);
    assert_eq!(out[48 + 6], 44);
    assert_eq!(out[88..96], [17, 0, 0x05, 0xc9, 0, 0, 0xbe, 0xef]);
    assert_eq!(out[96..], inner[20..], "no ports to write");
}

#[test]
fn bad_checksum_and_nested_errors_are_dropped() {
    let mut bytes = icmp_v4(11, 0, [0; 4], &sent_udp_v4(&[]));
    bytes[22] ^= 1;
    let (result, out) = error_to_v6(&bytes, Protocol::Udp, ETHERNET);
    assert_eq!(result, Err(Refusal::Drop(DropReason::IcmpChecksum)));
    assert_eq!(out, bytes);
    let nested = icmp_v4(3, 1, [0; 4], &sent_udp_v4(&[]));
    let bytes = icmp_v4(11, 0, [0; 4], &nested);
    let (result, out) = error_to_v6(&bytes, Protocol::Icmp, ETHERNET);
    assert_eq!(result, Err(Refusal::Drop(DropReason::IcmpNested)));
    assert_eq!(out, bytes);
}

/// Section 4.2: at most the minimum MTU of IPv6.
#[test]
fn size_is_limited() {
    let bytes = icmp_v4(11, 0, [0; 4], &sent_udp_v4(&[6; 1400]));
    let (result, out) = error_to_v6(&bytes, Protocol::Udp, ETHERNET);
    result.unwrap();
    assert_eq!(out.len(), 1280);
    judge(&out);
}

/// RFC 4884: the datagram is padded to a multiple of 8 octets, at least 128, and the length is in
/// units of 8; extensions follow unchanged.
#[test]
fn extensions_are_kept() {
    let extension = [0x20, 0, 0, 0, 0, 8, 1, 1, 0xaa, 0xbb, 0xcc, 0xdd];
    for (inner_payload, padded, words, expected_len) in [
        (10, 128, 32, 128),  // 38 octets become 58, padded to 128
        (100, 128, 32, 152), // 128 octets become 148, padded to 152
        (108, 136, 34, 160), // 136 octets become 156, padded to 160
    ] {
        let mut body = sent_udp_v4(&vec![6; inner_payload]);
        let inner_len = body.len();
        body.resize(padded, 0);
        body.extend_from_slice(&extension);
        let bytes = icmp_v4(11, 0, [0, words, 0, 0], &body);
        let (result, out) = error_to_v6(&bytes, Protocol::Udp, ETHERNET);
        result.unwrap();
        judge(&out);
        assert_eq!(usize::from(out[44]) * 8, expected_len);
        assert_eq!(out.len(), 48 + expected_len + extension.len());
        assert_eq!(out[48 + expected_len..], extension);
        assert!(
            out[48 + inner_len + 20..48 + expected_len]
                .iter()
                .all(|octet| *octet == 0)
        );
        let mut sent = udp_v6(&vec![6; inner_payload]);
        sent[7] = 1;
        assert_eq!(out[48..48 + sent.len()], sent);
    }
}

/// Extensions stay whole where the datagram has to be cut; a type without a length field has none.
#[test]
fn extensions_of_large_errors_and_other_types() {
    let extension = [0x20, 0, 0, 0, 0, 8, 1, 1, 0xaa, 0xbb, 0xcc, 0xdd];
    let mut body = sent_udp_v4(&[6; 992]);
    assert_eq!(body.len(), 1020);
    body.resize(1020, 0);
    body.extend_from_slice(&[extension; 20].concat());
    let bytes = icmp_v4(11, 0, [0, 255, 0, 0], &body);
    let (result, out) = error_to_v6(&bytes, Protocol::Udp, ETHERNET);
    result.unwrap();
    judge(&out);
    assert_eq!(out.len(), 48 + 992 + 240);
    assert_eq!(out[44], 124);
    assert_eq!(out[48 + 992..], [extension; 20].concat());

    let bytes = icmp_v4(3, 4, [0, 255, 0x05, 0x00], &body);
    let (result, out) = error_to_v6(&bytes, Protocol::Udp, ETHERNET);
    result.unwrap();
    judge(&out);
    assert_eq!(
        out[44..48],
        [0, 0, 0x05, 0x14],
        "packet too big has no length field"
    );
    assert_eq!(out.len(), 48 + 1040);
}

/// Without room for the larger headers the packet is refused, intact.
#[test]
fn missing_headroom() {
    let bytes = icmp_v4(11, 0, [0; 4], &sent_udp_v4(&[]));
    let facts = Ipv4Facts::parse(&bytes).unwrap();
    let inner = gate64_wire::inner::InnerIpv4::parse(&bytes, &facts).unwrap();
    for (headroom, expected) in [(39, Err(Refusal::Drop(DropReason::Headroom))), (40, Ok(()))] {
        let (result, out) = in_chunk_with(headroom, &bytes, |packet| {
            let tuple = tuples(Protocol::Udp).0;
            let addresses = (SERVER6, HOST6);
            siit::v4_to_v6_error(
                packet,
                &facts,
                &inner,
                addresses,
                &tuple,
                ETHERNET,
                &rules(),
            )
        });
        assert_eq!(result, expected);
        assert_eq!(out == bytes, expected.is_err());
    }
}
