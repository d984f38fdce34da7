//! RFC 8021: atomic fragments are not made, and those that come are whole packets.

use gate64_dataplane::counters;

use crate::support::packets::{judged, udp4, udp6};
use crate::support::{Gateway, HOST, POOL, SERVER, config, embedded};
use crate::{opened, repair_v4};

#[test]
fn none_is_made_of_a_small_packet_without_df() {
    let (mut gateway, port) = opened();
    let mut packet = udp4((SERVER, 53), (POOL, port), b"answer");
    packet[6..8].fill(0);
    repair_v4(&mut packet);
    let out = gateway.v4(&packet);
    judged(&out);
    assert_eq!(out[6], 17, "no fragment header");
}

#[test]
fn those_that_come_are_translated_whole() {
    let mut gateway = Gateway::new(config());
    let whole = udp6((HOST, 5000), (embedded(SERVER), 53), b"question");
    let mut packet = whole[..40].to_vec();
    packet.extend_from_slice(&[17, 0, 0, 0, 0, 0, 0x12, 0x34]);
    packet.extend_from_slice(&whole[40..]);
    packet[6] = 44;
    let len = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    let out = gateway.v6(&packet);
    let (_, _, _, _, payload) = judged(&out);
    assert_eq!(payload, b"question");
    assert_eq!(out[6..8], [0, 0], "neither DF, MF nor an offset");
    assert_eq!(
        out[4..6],
        [0x12, 0x34],
        "RFC 7915 section 5.1.1: its identification"
    );
    assert_eq!(gateway.count(counters::fragments_received(0)), 0);
}
