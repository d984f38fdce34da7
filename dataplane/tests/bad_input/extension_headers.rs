//! IPv6 extension headers: cut, repeated, in odd orders, unknown (RFC 8200 section 4).

use gate64_dataplane::verdict::{DropReason, Side};

use super::Live;
use super::support::packets::{repair4, with_length};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Eight octets of a kind: its own header with padding, an exhausted route, an atomic fragment.
fn octets(kind: u8) -> [u8; 8] {
    match kind {
        ROUTING => [0, 0, 4, 0, 0, 0, 0, 0],
        FRAGMENT => [0, 0, 0, 0, 0, 0, 0, 9],
        _ => [0, 0, 1, 4, 0, 0, 0, 0],
    }
}

/// These headers, in this order, put in front of the upper layer.
fn with_headers(packet: &[u8], kinds: &[u8]) -> Vec<u8> {
    let mut bytes = packet[..40].to_vec();
    let mut next_at = 6;
    for &kind in kinds {
        bytes[next_at] = kind;
        next_at = bytes.len();
        bytes.extend_from_slice(&octets(kind));
    }
    bytes[next_at] = packet[6];
    bytes.extend_from_slice(&packet[40..]);
    let len = bytes.len() - 40;
    with_length(&bytes, len)
}

#[test]
fn in_orders_that_are_allowed_they_are_left_behind() {
    let mut live = Live::new();
    for packet in live.v6.clone() {
        let mut plain = live.gateway.v6(&packet);
        plain[4..6].fill(0);
        repair4(&mut plain);
        for kinds in [
            &[HOP_BY_HOP][..],
            &[DESTINATION],
            &[ROUTING],
            &[FRAGMENT],
            &[HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT],
            // Odd, but nothing forbids to receive it (section 4.1).
            &[DESTINATION, ROUTING, DESTINATION],
            &[DESTINATION, DESTINATION],
            &[ROUTING, DESTINATION, ROUTING, FRAGMENT],
            &[DESTINATION; 8],
        ] {
            let mut out = live.gateway.v6(&with_headers(&packet, kinds));
            // An identification of its own; that of an atomic fragment is kept and DF cleared
            // (RFC 7915 section 5.1.1).
            out[4..8].fill(0);
            repair4(&mut out);
            assert_eq!(out, plain, "{kinds:?}");
        }
    }
    live.is_undisturbed();
}

#[test]
fn in_orders_that_are_forbidden_they_are_named() {
    let mut live = Live::new();
    for packet in live.v6.clone() {
        for (kinds, reason) in [
            // Hop-by-hop options stand right behind the IPv6 header.
            (&[DESTINATION, HOP_BY_HOP][..], DropReason::ExtensionHeaders),
            (&[HOP_BY_HOP, HOP_BY_HOP], DropReason::ExtensionHeaders),
            (&[ROUTING, HOP_BY_HOP], DropReason::ExtensionHeaders),
            (&[FRAGMENT, HOP_BY_HOP], DropReason::ExtensionHeaders),
            // What was fragmented can only be removed from the whole.
            (&[FRAGMENT, DESTINATION], DropReason::FragmentHeader),
            (&[FRAGMENT, ROUTING], DropReason::FragmentHeader),
            (&[FRAGMENT, FRAGMENT], DropReason::FragmentHeader),
            (
                &[HOP_BY_HOP, FRAGMENT, DESTINATION],
                DropReason::FragmentHeader,
            ),
            (&[DESTINATION; 9], DropReason::ExtensionHeaders),
            (&[ROUTING; 40], DropReason::ExtensionHeaders),
        ] {
            let packet = with_headers(&packet, kinds);
            live.gateway.refuses(Side::V6, &packet, reason);
        }
    }
    live.is_undisturbed();
}

#[test]
fn cut_at_every_octet() {
    let mut live = Live::new();
    let kinds = [HOP_BY_HOP, ROUTING, DESTINATION, FRAGMENT];
    let packet = with_headers(&live.v6[0].clone(), &kinds);
    for len in 0..packet.len() - 40 {
        let reason = match len {
            0 => DropReason::PayloadLength,
            1..32 => DropReason::ExtensionHeaders,
            32..40 => DropReason::L4Truncated,
            _ => DropReason::UdpLength,
        };
        let cut = with_length(&packet[..40 + len], len);
        live.gateway.refuses(Side::V6, &cut, reason);
    }
    live.is_undisturbed();
}

#[test]
fn longer_than_the_packet() {
    let mut live = Live::new();
    for packet in live.v6.clone() {
        for kind in [HOP_BY_HOP, ROUTING, DESTINATION] {
            let mut packet = with_headers(&packet, &[kind]);
            let octets = packet.len() - 40;
            for units in [octets / 8, octets / 8 + 1, 255] {
                packet[41] = u8::try_from(units).unwrap();
                live.gateway
                    .refuses(Side::V6, &packet, DropReason::ExtensionHeaders);
            }
        }
    }
    live.is_undisturbed();
}

/// RFC 7915 section 5.1: the answer points at the Segments Left field.
#[test]
fn a_route_with_segments_left_is_answered() {
    let mut live = Live::new();
    for packet in live.v6.clone() {
        for (kinds, at) in [
            (&[ROUTING][..], 40),
            (&[HOP_BY_HOP, ROUTING], 48),
            (&[DESTINATION, ROUTING, DESTINATION], 48),
        ] {
            let mut packet = with_headers(&packet, kinds);
            packet[at + 3] = 1;
            let pointer = u32::try_from(at + 3).unwrap().to_be_bytes();
            let answer = live
                .gateway
                .rejects(Side::V6, &packet, DropReason::RoutingHeader);
            assert_eq!(answer, (4, 0, pointer));
        }
    }
    live.is_undisturbed();
}

/// ESP, AH, no next header, mobility, HIP, shim6, experiments, and protocols of the other family
/// or of none: RFC 6146 section 3.4.
#[test]
fn unknown_upper_layers_are_answered_with_port_unreachable() {
    let mut live = Live::new();
    for unknown in [1, 2, 4, 41, 47, 50, 51, 59, 132, 135, 139, 140, 253, 255] {
        let mut packet = live.v6[0].clone();
        packet[6] = unknown;
        let answer = live
            .gateway
            .rejects(Side::V6, &packet, DropReason::UnknownProtocol);
        assert_eq!(answer, (1, 4, [0; 4]), "{unknown}");
    }
    live.is_undisturbed();
}

#[test]
fn unknown_protocols_in_ipv4_are_answered_with_protocol_unreachable() {
    let mut live = Live::new();
    for unknown in [0, 2, 4, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132, 253, 255] {
        let mut packet = live.v4[0].clone();
        packet[9] = unknown;
        repair4(&mut packet);
        let answer = live
            .gateway
            .rejects(Side::V4, &packet, DropReason::UnknownProtocol);
        assert_eq!(answer, (3, 2, [0; 4]), "{unknown}");
    }
    live.is_undisturbed();
}
