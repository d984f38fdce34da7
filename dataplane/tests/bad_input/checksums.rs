//! Checksums that arrive bad leave bad, by as much: gate64 updates them and never repairs them.

use gate64_dataplane::counters;
use gate64_dataplane::verdict::{DropReason, Side};

use super::support::fragments::{cut_v4, cut_v6, gather_v4, gather_v6};
use super::support::packets::{checksum_error, judged, udp6};
use super::support::{Gateway, HOST, OTHER, Outcome, POOL, SERVER, config, embedded};
use super::{Live, SIDES, header_len};

/// Place of the checksum behind the IP header: UDP, TCP, ICMP.
const CHECKSUM_AT: [usize; 3] = [6, 16, 2];

const ERRORS: [u16; 5] = [1, 0x0100, 0x1234, 0x8000, 0xfffe];

/// The packet with its checksum too large by `error`, in ones' complement.
fn spoiled(side: Side, which: usize, packet: &[u8], error: u16) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let at = header_len(side) + CHECKSUM_AT[which];
    let right = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (sum, carry) = right.overflowing_add(error);
    let wrong = sum + u16::from(carry);
    assert_ne!(wrong, 0, "another fixture: this would be UDP without one");
    bytes[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
    assert_eq!(checksum_error(&bytes), u64::from(error));
    bytes
}

#[test]
fn of_udp_tcp_and_echoes_both_ways() {
    let mut live = Live::new();
    for side in SIDES {
        for (which, packet) in live.of(side).clone().iter().enumerate() {
            for error in ERRORS {
                let before = live
                    .gateway
                    .count(counters::packets_forwarded(side.index()));
                let bad = spoiled(side, which, packet, error);
                let out = live.gateway.put(side, &bad).sent(side.other());
                assert_eq!(checksum_error(&out), u64::from(error));
                let after = live
                    .gateway
                    .count(counters::packets_forwarded(side.index()));
                assert_eq!(after, before + 1);
            }
        }
    }
    live.is_undisturbed();
}

/// A payload that was damaged on its way is as bad behind the translator.
#[test]
fn of_damaged_payloads() {
    let mut live = Live::new();
    for side in SIDES {
        for packet in live.of(side).clone() {
            let mut bad = packet.clone();
            *bad.last_mut().unwrap() ^= 0x5a;
            let out = live.gateway.put(side, &bad).sent(side.other());
            assert_ne!(checksum_error(&bad), 0);
            assert_eq!(checksum_error(&out), checksum_error(&bad));
            assert_eq!(out.last(), bad.last());
        }
    }
    live.is_undisturbed();
}

#[test]
fn of_hairpinned_packets() {
    let mut gateway = Gateway::new(config());
    let open = udp6((OTHER, 6000), (embedded(SERVER), 1), b"open");
    let target = judged(&gateway.v6(&open)).2;
    let packet = udp6((HOST, 5000), (embedded(POOL), target), b"hello");
    for error in ERRORS {
        let bad = spoiled(Side::V6, 0, &packet, error);
        let out = gateway.put(Side::V6, &bad).sent(Side::V6);
        assert_eq!(checksum_error(&out), u64::from(error));
    }
}

/// Also where all fragments are gathered because the checksum covers the length of the whole.
#[test]
fn of_packets_in_fragments() {
    let mut live = Live::new();
    let mut id = 0;
    for side in SIDES {
        for which in [0, 2] {
            let packet = live.of(side)[which].clone();
            for error in ERRORS {
                id += 1;
                let bad = spoiled(side, which, &packet, error);
                let parts = match side {
                    Side::V6 => cut_v6(&bad, u32::from(id), &[8, 16]),
                    Side::V4 => cut_v4(&bad, id, &[8, 16]),
                };
                let mut out = Vec::new();
                for part in &parts {
                    match live.gateway.put(side, part) {
                        Outcome::Held => {}
                        sent => out.push(sent.sent(side.other())),
                    }
                    let later = live.gateway.outgoing().into_iter();
                    out.extend(later.map(|one| one.sent(side.other())));
                }
                let whole = match side {
                    Side::V6 => gather_v4(&out),
                    Side::V4 => gather_v6(&out),
                };
                assert_eq!(checksum_error(&whole), u64::from(error), "{side:?} {which}");
            }
        }
    }
    live.is_undisturbed();
}

/// The IPv4 header's own checksum is made anew, so a bad one is not carried over but refused.
#[test]
fn of_ipv4_headers_are_refused() {
    let mut live = Live::new();
    for packet in live.v4.clone() {
        for bit in 0..16 {
            let mut bad = packet.clone();
            bad[10 + bit / 8] ^= 1 << (bit % 8);
            live.gateway
                .refuses(Side::V4, &bad, DropReason::HeaderChecksum);
        }
        // Octets that the checksum covers and that mean nothing to a translator.
        for at in [1, 4, 5] {
            let mut bad = packet.clone();
            bad[at] ^= 0x10;
            live.gateway
                .refuses(Side::V4, &bad, DropReason::HeaderChecksum);
        }
    }
    live.is_undisturbed();
}
