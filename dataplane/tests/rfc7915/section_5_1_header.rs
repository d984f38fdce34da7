//! IPv6 headers become IPv4 headers.

use etherparse::PacketBuilder;
use gate64_dataplane::config::{Nat64Config, TrafficClass};
use gate64_dataplane::siit::{self, Rules};
use gate64_dataplane::verdict::{DropReason, IcmpError, Refusal};
use gate64_wire::addr::Protocol;
use gate64_wire::facts::Ipv6Facts;

use crate::judge::*;

#[test]
fn udp_octets() {
    let mut bytes = udp_v6(&[1, 2, 3, 4]);
    bytes[0] = 0x6b; // traffic class 0xb8, and a flow label, which goes
    bytes[1] = 0x8a;
    bytes.extend_from_slice(&[0xaa; 8]); // link padding goes too
    let out = to_v4(&bytes, Protocol::Udp, &rules());
    assert_eq!(
        out,
        [
            0x45, 0xb8, 0, 32, 0x12, 0x34, 0, 0, 63, 17, 0x7c, 0xa5, 192, 0, 2, 1, 198, 51, 100,
            7, // header: DF 0 and an identification because it is short, hop limit less one
            0x22, 0x3d, 0, 80, 0, 12, 0xed, 0x06, 1, 2, 3, 4,
        ]
    );
    judge(&out);
}

#[test]
fn tcp_with_options_and_payload() {
    let builder = PacketBuilder::ipv6(HOST6.octets(), SERVER6.octets(), 64);
    let mut bytes = Vec::new();
    builder
        .tcp(PORT6, SERVER_PORT, 1, 1000)
        .syn()
        .options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1440)])
        .unwrap()
        .write(&mut bytes, b"odd")
        .unwrap();
    let out = to_v4(&bytes, Protocol::Tcp, &rules());
    assert_eq!(out.len(), 20 + 24 + 3);
    assert_eq!(out[9], 6);
    assert_eq!(out[20..24], [0x22, 0x3d, 0, 80]);
    judge(&out);
}

/// "If the size of the translated IPv4 packet is less than or equal to 1260 bytes, [DF] is set
/// to zero; otherwise, it is set to one."
#[test]
fn dont_fragment_above_1260_octets() {
    for (payload, flags) in [(1232, 0x00), (1233, 0x40)] {
        let out = to_v4(&udp_v6(&vec![7; payload]), Protocol::Udp, &rules());
        assert_eq!(out.len(), payload + 28);
        assert_eq!(out[6..8], [flags, 0], "{payload}");
        judge(&out);
    }
}

#[test]
fn traffic_class_may_be_fixed() {
    let rules = Rules::new(&Nat64Config {
        traffic_class: TrafficClass::Fixed(0x20),
        ..Nat64Config::default()
    });
    let out = to_v4(&udp_v6(&[]), Protocol::Udp, &rules);
    assert_eq!(out[1], 0x20);
    judge(&out);
}

/// Hop-by-hop, destination options and used-up routing headers are skipped.
#[test]
fn extension_headers_are_removed() {
    let plain = to_v4(&udp_v6(&[5; 9]), Protocol::Udp, &rules());
    let bytes = insert_v6(&udp_v6(&[5; 9]), 60, &[0, 0, 1, 4, 0, 0, 0, 0]);
    let bytes = insert_v6(&bytes, 43, &[0, 0, 4, 0, 0, 0, 0, 0]);
    let bytes = insert_v6(
        &bytes,
        0,
        &[0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    assert_eq!(to_v4(&bytes, Protocol::Udp, &rules()), plain);
}

#[test]
fn echo_messages_octets() {
    let builder = PacketBuilder::ipv6(HOST6.octets(), SERVER6.octets(), 64);
    let mut bytes = Vec::new();
    builder
        .icmpv6_echo_request(PORT6, 3)
        .write(&mut bytes, b"abc")
        .unwrap();
    let out = to_v4(&bytes, Protocol::Icmp, &rules());
    assert_eq!(out[9], 1);
    assert_eq!(
        out[20..],
        [8, 0, 0x11, 0x5d, 0x22, 0x3d, 0, 3, b'a', b'b', b'c']
    );
    judge(&out);

    let builder = PacketBuilder::ipv6(HOST6.octets(), SERVER6.octets(), 64);
    let mut bytes = Vec::new();
    builder
        .icmpv6_echo_reply(PORT6, 3)
        .write(&mut bytes, &[9; 1000])
        .unwrap();
    let out = to_v4(&bytes, Protocol::Icmp, &rules());
    assert_eq!(out[20], 0);
    judge(&out);
}

/// A bad checksum is passed on as bad, never repaired.
#[test]
fn bad_checksums_stay_bad() {
    let mut bytes = udp_v6(&[1, 2, 3, 4]);
    let good = to_v4(&bytes, Protocol::Udp, &rules());
    bytes[47] ^= 1;
    let bad = to_v4(&bytes, Protocol::Udp, &rules());
    assert_ne!(good[26..28], bad[26..28]);
    assert_eq!(good[28..], bad[28..]);
}

/// RFC 6935: tunnels may do without, and their end over IPv4 may as well (RFC 768).
#[test]
fn no_udp_checksum_stays_none() {
    let mut bytes = udp_v6(&[1, 2, 3, 4]);
    let with = to_v4(&bytes, Protocol::Udp, &rules());
    bytes[46..48].fill(0);
    let without = to_v4(&bytes, Protocol::Udp, &rules());
    assert_eq!(without[..26], with[..26]);
    assert_eq!(without[26..], [0, 0, 1, 2, 3, 4]);
}

#[test]
fn hop_limit_is_used_up() {
    let exceeded = Refusal::Reject(DropReason::HopLimit, IcmpError::TimeExceeded);
    for (hop_limit, expected) in [(0, Err(exceeded)), (1, Err(exceeded)), (2, Ok(()))] {
        let mut bytes = udp_v6(&[]);
        bytes[7] = hop_limit;
        assert_eq!(siit::check_v6(&Ipv6Facts::parse(&bytes).unwrap()), expected);
    }
}

/// Segments Left that is not zero: parameter problem that points at the field.
#[test]
fn routing_header_with_segments_left() {
    let bytes = insert_v6(&udp_v6(&[]), 43, &[0, 0, 4, 2, 0, 0, 0, 0]);
    assert_eq!(
        siit::check_v6(&Ipv6Facts::parse(&bytes).unwrap()),
        Err(Refusal::Reject(
            DropReason::RoutingHeader,
            IcmpError::ParameterProblem { pointer: 43 }
        ))
    );
}

/// RFC 6146 section 3.4.
#[test]
fn other_protocols_are_refused() {
    let mut bytes = udp_v6(&[]);
    bytes[6] = 132;
    assert_eq!(
        siit::check_v6(&Ipv6Facts::parse(&bytes).unwrap()),
        Err(Refusal::Reject(
            DropReason::UnknownProtocol,
            IcmpError::PortUnreachable
        ))
    );
}

#[test]
fn checksum_left_to_offload_is_recomputed() {
    let good = udp_v6(b"payload");
    let mut bytes = good.clone();
    bytes[46] = 0x12;
    let facts = Ipv6Facts::parse(&bytes).unwrap();
    let (_, out) = in_chunk(&bytes, |packet| siit::recompute_checksum_v6(packet, &facts));
    assert_eq!(out, good);
    bytes[46..48].fill(0);
    let facts = Ipv6Facts::parse(&bytes).unwrap();
    let (_, out) = in_chunk(&bytes, |packet| siit::recompute_checksum_v6(packet, &facts));
    assert_eq!(out, bytes, "none is left none");
}
