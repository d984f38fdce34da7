//! Addresses that nobody can have, and packets that are not for gate64.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_dataplane::verdict::{DropReason, Side};

use super::support::packets::{error6, ping4, ping6, tcp4, tcp6, udp4, udp6};
use super::support::{HOST, POOL, SERVER, embedded};
use super::{Live, PORT, SYN};

/// Packets of each protocol that would open a session.
fn from_v6(src: Ipv6Addr, dst: Ipv6Addr) -> [Vec<u8>; 3] {
    [
        udp6((src, PORT), (dst, 80), b"x"),
        tcp6((src, PORT), (dst, 80), SYN, b""),
        ping6(src, dst, PORT, b"x"),
    ]
}

/// Packets of each protocol to the live mappings.
fn from_v4(live: &Live, src: Ipv4Addr) -> [Vec<u8>; 3] {
    let port = |which: usize, at: usize| {
        let packet: &[u8] = &live.v4[which];
        u16::from_be_bytes([packet[at], packet[at + 1]])
    };
    [
        udp4((src, 80), (POOL, port(0, 22)), b"x"),
        tcp4((src, 80), (POOL, port(1, 22)), SYN, b""),
        ping4(src, POOL, port(2, 24), b"x"),
    ]
}

/// No host, this host, many hosts.
const MARTIANS4: [Ipv4Addr; 12] = [
    Ipv4Addr::new(0, 0, 0, 0),
    Ipv4Addr::new(0, 0, 0, 1),
    Ipv4Addr::new(0, 255, 255, 255),
    Ipv4Addr::new(127, 0, 0, 1),
    Ipv4Addr::new(127, 255, 255, 254),
    Ipv4Addr::new(224, 0, 0, 1),
    Ipv4Addr::new(232, 1, 2, 3),
    Ipv4Addr::new(239, 255, 255, 250),
    Ipv4Addr::new(240, 0, 0, 1),
    Ipv4Addr::new(247, 1, 1, 1),
    Ipv4Addr::new(255, 255, 255, 254),
    Ipv4Addr::BROADCAST,
];

#[test]
fn ipv4_sources() {
    let mut live = Live::new();
    for src in MARTIANS4 {
        for packet in from_v4(&live, src) {
            live.gateway
                .refuses(Side::V4, &packet, DropReason::SourceMartian);
        }
    }
    live.is_undisturbed();
}

#[test]
fn ipv4_destinations_inside_ipv6_ones() {
    let mut live = Live::new();
    for dst in MARTIANS4 {
        for packet in from_v6(HOST, embedded(dst)) {
            live.gateway
                .refuses(Side::V6, &packet, DropReason::DestinationMartian);
        }
    }
    live.is_undisturbed();
}

#[test]
fn ipv6_sources() {
    let mut live = Live::new();
    for src in ["::", "::1", "ff02::1", "ff0e::1", "fe80::1", "febf::1"] {
        for packet in from_v6(src.parse().unwrap(), embedded(SERVER)) {
            live.gateway
                .refuses(Side::V6, &packet, DropReason::SourceMartian);
        }
    }
    live.is_undisturbed();
}

/// RFC 6146 section 3.5: a loop or a forgery; dropped silently.
#[test]
fn ipv6_sources_inside_pref64() {
    let mut live = Live::new();
    for src in [
        embedded(SERVER),
        embedded(POOL),
        embedded(Ipv4Addr::UNSPECIFIED),
    ] {
        for packet in from_v6(src, embedded(SERVER)) {
            live.gateway
                .refuses(Side::V6, &packet, DropReason::SourceInPref64);
        }
    }
    live.is_undisturbed();
}

/// Errors have no session of their own: their source is judged as well.
#[test]
fn ipv6_sources_of_errors() {
    let mut live = Live::new();
    let inner = live.gateway.v4(&live.v4[0].clone());
    for (src, reason) in [
        (Ipv6Addr::LOCALHOST, DropReason::SourceMartian),
        ("ff02::1".parse().unwrap(), DropReason::SourceMartian),
        (embedded(SERVER), DropReason::SourceInPref64),
    ] {
        let packet = error6((src, embedded(SERVER)), (1, 4), [0; 4], &inner);
        live.gateway.refuses(Side::V6, &packet, reason);
    }
    live.is_undisturbed();
}

#[test]
fn destinations_that_are_not_gate64s() {
    let mut live = Live::new();
    for dst in ["2001:db8:5::1", "64:ff9b:1::1", "::1", "ff02::1"] {
        for packet in from_v6(HOST, dst.parse().unwrap()) {
            live.gateway.refuses(Side::V6, &packet, DropReason::NotOurs);
        }
    }
    let near = Ipv4Addr::from(u32::from(POOL) + 1);
    for dst in [near, SERVER, Ipv4Addr::BROADCAST] {
        for packet in [
            udp4((SERVER, 80), (dst, 2000), b"x"),
            tcp4((SERVER, 80), (dst, 2000), SYN, b""),
            ping4(SERVER, dst, 2000, b"x"),
        ] {
            live.gateway.refuses(Side::V4, &packet, DropReason::NotOurs);
        }
    }
    live.is_undisturbed();
}
