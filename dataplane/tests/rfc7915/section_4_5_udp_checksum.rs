//! IPv4 UDP datagrams without a checksum.

use gate64_dataplane::config::UdpChecksumZero;
use gate64_dataplane::siit;
use gate64_dataplane::verdict::{DropReason, Refusal};
use gate64_wire::addr::Protocol;
use gate64_wire::facts::Ipv4Facts;

use crate::judge::*;

fn without_checksum(payload: &[u8]) -> Vec<u8> {
    let mut bytes = udp_v4(payload);
    bytes[26..28].copy_from_slice(&[0, 0]);
    bytes
}

#[test]
fn checksum_is_computed() {
    for len in [0, 1, 4, 1400] {
        let with = to_v6(&udp_v4(&vec![0x5a; len]), Protocol::Udp, &rules());
        let without = to_v6(&without_checksum(&vec![0x5a; len]), Protocol::Udp, &rules());
        assert_eq!(with, without);
        judge(&without);
    }
}

/// Octets behind the datagram's own length are no part of the sum.
#[test]
fn octets_behind_the_datagram_do_not_count() {
    let mut bytes = without_checksum(&[1, 2, 3, 4]);
    bytes.extend_from_slice(&[0xff; 3]);
    bytes[3] += 3;
    repair_v4(&mut bytes);
    let out = to_v6(&bytes, Protocol::Udp, &rules());
    let expected = to_v6(&udp_v4(&[1, 2, 3, 4]), Protocol::Udp, &rules());
    assert_eq!(out[40..52], expected[40..52]);
}

#[test]
fn or_the_packet_is_dropped() {
    let mut rules = rules();
    rules.udp_checksum_zero = UdpChecksumZero::Drop;
    let facts = Ipv4Facts::parse(&without_checksum(&[])).unwrap();
    let refusal = Refusal::Drop(DropReason::UdpChecksumZero);
    assert_eq!(siit::check_v4(&facts, &rules), Err(refusal));
}

#[test]
fn fragments_have_to_be_gathered() {
    let mut bytes = without_checksum(&[1; 8]);
    assert!(!siit::checksum_needs_all_fragments(
        &Ipv4Facts::parse(&bytes).unwrap()
    ));
    bytes[6] = 0x20;
    bytes[25] = 200;
    repair_v4(&mut bytes);
    assert!(siit::checksum_needs_all_fragments(
        &Ipv4Facts::parse(&bytes).unwrap()
    ));
}

/// A zero that belongs there would read as "none": it goes as 0xFFFF.
#[test]
fn a_computed_zero_is_sent_as_ffff() {
    let base = to_v6(&udp_v4(&[0, 0]), Protocol::Udp, &rules());
    let checksum = [base[46], base[47]];
    let out = to_v6(&udp_v4(&checksum), Protocol::Udp, &rules());
    assert_eq!(out[46..48], [0xff, 0xff]);
    let out = to_v6(&without_checksum(&checksum), Protocol::Udp, &rules());
    assert_eq!(out[46..48], [0xff, 0xff]);
}

#[test]
fn checksum_left_to_offload_is_recomputed() {
    let good = udp_v4(b"payload");
    let mut bytes = good.clone();
    bytes[26] ^= 0x55;
    let facts = Ipv4Facts::parse(&bytes).unwrap();
    let (_, out) = in_chunk(&bytes, |packet| siit::recompute_checksum_v4(packet, &facts));
    assert_eq!(out, good);
    let none = without_checksum(b"payload");
    let facts = Ipv4Facts::parse(&none).unwrap();
    let (_, out) = in_chunk(&none, |packet| siit::recompute_checksum_v4(packet, &facts));
    assert_eq!(out, none, "none is left none");
}
