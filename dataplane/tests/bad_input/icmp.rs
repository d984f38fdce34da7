//! ICMP messages that are not translated: other types, errors about errors, inner packets that
//! cannot be read or that nobody sent.

use gate64_dataplane::verdict::{DropReason, Side};

use super::support::packets::{checksum_error, error4, error6, repair4, udp4, udp6, with_length};
use super::support::{HOST, OTHER, POOL, SERVER, embedded};
use super::{Live, SIDES};

const ERRORS_V6: [(u8, u8); 4] = [(1, 4), (2, 0), (3, 0), (4, 0)];
const ERRORS_V4: [(u8, u8); 4] = [(3, 1), (3, 4), (11, 0), (12, 0)];
/// A small MTU, or a pointer to the hop limit.
const REST: [u8; 4] = [0, 0, 0, 7];

/// An error about a packet that gate64 sent, from the host that got it.
fn error(side: Side, kind: (u8, u8), body: &[u8]) -> Vec<u8> {
    match side {
        Side::V6 => error6((HOST, embedded(SERVER)), kind, REST, body),
        Side::V4 => error4((SERVER, POOL), kind, REST, body),
    }
}

fn errors(side: Side) -> [(u8, u8); 4] {
    match side {
        Side::V6 => ERRORS_V6,
        Side::V4 => ERRORS_V4,
    }
}

/// What gate64 sent to that side in the live sessions, as an error from there quotes it.
fn sent_to(live: &mut Live, side: Side) -> [Vec<u8>; 3] {
    match side {
        Side::V6 => live.v4.clone().map(|packet| live.gateway.v4(&packet)),
        Side::V4 => live.v6.clone().map(|packet| live.gateway.v6(&packet)),
    }
}

#[test]
fn types_without_a_counterpart_are_dropped_silently() {
    let mut live = Live::new();
    for kind in (0..=255u8).filter(|kind| !matches!(kind, 1..=4 | 128 | 129)) {
        let packet = error6((HOST, embedded(SERVER)), (kind, 0), [0; 4], &[0; 64]);
        live.gateway
            .refuses(Side::V6, &packet, DropReason::IcmpUntranslatable);
    }
    for kind in (0..=255u8).filter(|kind| !matches!(kind, 0 | 3 | 8 | 11 | 12)) {
        let packet = error4((SERVER, POOL), (kind, 0), [0; 4], &[0; 64]);
        live.gateway
            .refuses(Side::V4, &packet, DropReason::IcmpUntranslatable);
    }
    live.is_undisturbed();
}

/// RFC 6146 section 3.4.
#[test]
fn errors_about_errors() {
    let mut live = Live::new();
    for side in SIDES {
        let innermost = sent_to(&mut live, side)[0].clone();
        for outer in errors(side) {
            for inner in errors(side) {
                let inner = match side {
                    Side::V6 => error6((embedded(SERVER), HOST), inner, REST, &innermost),
                    Side::V4 => error4((POOL, SERVER), inner, REST, &innermost),
                };
                let packet = error(side, outer, &inner);
                live.gateway.refuses(side, &packet, DropReason::IcmpNested);
            }
        }
    }
    live.is_undisturbed();
}

/// Eight octets behind the inner header are enough (RFC 792), fewer are not.
#[test]
fn inner_packets_cut_at_every_octet() {
    let mut live = Live::new();
    for side in SIDES {
        let enough = super::header_len(side) + 8;
        for inner in sent_to(&mut live, side) {
            for kind in errors(side) {
                for len in 0..enough {
                    let packet = error(side, kind, &inner[..len]);
                    live.gateway
                        .refuses(side, &packet, DropReason::IcmpInnerMalformed);
                }
                let packet = error(side, kind, &inner[..enough]);
                let out = live.gateway.put(side, &packet).sent(side.other());
                assert_eq!(checksum_error(&out), 0);
            }
        }
    }
    live.is_undisturbed();
}

#[test]
fn inner_headers_that_cannot_be() {
    let mut live = Live::new();
    let malformed = DropReason::IcmpInnerMalformed;
    let [inner, ..] = sent_to(&mut live, Side::V4);
    for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x4f)] {
        let mut inner = inner.clone();
        inner[at] = value;
        let packet = error(Side::V4, (3, 3), &inner);
        live.gateway.refuses(Side::V4, &packet, malformed);
    }
    let short = with_length(&inner, 19);
    let packet = error(Side::V4, (3, 3), &short);
    live.gateway.refuses(Side::V4, &packet, malformed);
    let [inner, ..] = sent_to(&mut live, Side::V6);
    for (at, value) in [(0, 0x45), (6, 0), (6, 60)] {
        let mut inner = inner.clone();
        inner[at] = value;
        // As an extension header it says to be longer than all there is.
        inner[41] = 0xff;
        let packet = error(Side::V6, (1, 4), &inner);
        live.gateway.refuses(Side::V6, &packet, malformed);
    }
    let empty = with_length(&inner, 0);
    let packet = error(Side::V6, (1, 4), &empty);
    live.gateway.refuses(Side::V6, &packet, malformed);
    live.is_undisturbed();
}

/// RFC 5508 section 4: their checksum is made anew, which would hide that they were damaged.
#[test]
fn errors_with_a_bad_checksum() {
    let mut live = Live::new();
    for side in SIDES {
        let inner = sent_to(&mut live, side)[0].clone();
        for kind in errors(side) {
            let good = error(side, kind, &inner);
            for at in [super::header_len(side) + 2, good.len() - 1] {
                let mut bad = good.clone();
                bad[at] ^= 1;
                live.gateway.refuses(side, &bad, DropReason::IcmpChecksum);
            }
        }
    }
    live.is_undisturbed();
}

#[test]
fn codes_without_a_counterpart() {
    let mut live = Live::new();
    for (side, kinds) in [
        (Side::V6, &[(1, 5), (1, 6), (1, 255), (4, 2), (4, 3)][..]),
        (Side::V4, &[(3, 14), (3, 16), (3, 255), (12, 1), (12, 3)]),
    ] {
        let inner = sent_to(&mut live, side)[0].clone();
        for &kind in kinds {
            let packet = error(side, kind, &inner);
            live.gateway
                .refuses(side, &packet, DropReason::IcmpUntranslatable);
        }
    }
    live.is_undisturbed();
}

#[test]
fn errors_about_what_nobody_sent() {
    let mut live = Live::new();
    let port = u16::from_be_bytes([live.v4[0][22], live.v4[0][23]]);
    for (inner, reason) in [
        (udp4((SERVER, port), (POOL, 80), b""), DropReason::NoBib),
        (udp4((POOL, 1024), (SERVER, 80), b""), DropReason::NoBib),
        (udp4((POOL, port), (SERVER, 81), b""), DropReason::NoSession),
    ] {
        for kind in ERRORS_V4 {
            let packet = error(Side::V4, kind, &inner);
            live.gateway.refuses(Side::V4, &packet, reason);
        }
    }
    let server = embedded(SERVER);
    for (inner, reason) in [
        (udp6((OTHER, 80), (HOST, 5000), b""), DropReason::NoSession),
        (udp6((server, 80), (OTHER, 5000), b""), DropReason::NoBib),
        (udp6((server, 80), (HOST, 5001), b""), DropReason::NoBib),
        (udp6((server, 81), (HOST, 5000), b""), DropReason::NoSession),
    ] {
        for kind in ERRORS_V6 {
            let packet = error(Side::V6, kind, &inner);
            live.gateway.refuses(Side::V6, &packet, reason);
        }
    }
    live.is_undisturbed();
}

/// The inner packet has no session of ours to be of.
#[test]
fn errors_about_other_protocols_and_later_fragments() {
    let mut live = Live::new();
    for side in SIDES {
        let inner = sent_to(&mut live, side)[0].clone();
        let protocol_at = if side == Side::V6 { 6 } else { 9 };
        for unknown in [47, 50, 132] {
            let mut inner = inner.clone();
            inner[protocol_at] = unknown;
            let packet = error(side, errors(side)[0], &inner);
            live.gateway.refuses(side, &packet, DropReason::NoSession);
        }
        let later = match side {
            Side::V6 => super::support::fragments::cut_v6(&inner, 7, &[8]).remove(1),
            Side::V4 => super::support::fragments::cut_v4(&inner, 7, &[8]).remove(1),
        };
        let packet = error(side, errors(side)[0], &later);
        live.gateway.refuses(side, &packet, DropReason::NoSession);
    }
    live.is_undisturbed();
}

/// RFC 7915 section 1.2: fragmented errors are not translated.
#[test]
fn errors_in_fragments() {
    let mut live = Live::new();
    for side in SIDES {
        let inner = sent_to(&mut live, side)[0].clone();
        let packet = error(side, errors(side)[0], &inner);
        let first = match side {
            Side::V6 => super::support::fragments::cut_v6(&packet, 7, &[16]).remove(0),
            Side::V4 => super::support::fragments::cut_v4(&packet, 7, &[16]).remove(0),
        };
        live.gateway
            .refuses(side, &first, DropReason::IcmpUntranslatable);
    }
    live.is_undisturbed();
}

/// An error whose way is used up is dropped, and not answered with an error.
#[test]
fn errors_with_no_hop_left_are_not_answered() {
    let mut live = Live::new();
    for side in SIDES {
        let inner = sent_to(&mut live, side)[0].clone();
        let mut packet = error(side, errors(side)[0], &inner);
        match side {
            Side::V6 => packet[7] = 1,
            Side::V4 => {
                packet[8] = 1;
                repair4(&mut packet);
            }
        }
        live.gateway.refuses(side, &packet, DropReason::HopLimit);
    }
    live.is_undisturbed();
}
