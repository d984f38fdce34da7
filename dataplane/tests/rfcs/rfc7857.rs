//! RFC 7857, updates to the NAT behavioural requirements.

use std::net::Ipv4Addr;
use std::time::Duration;

use gate64_dataplane::verdict::Side;
use gate64_wire::addr::Protocol;

use crate::support::packets::{judged, ping6, tcp4, tcp6, udp4, udp6};
use crate::support::{Gateway, HOST, POOL, SERVER, config, embedded};
use crate::{ACK, RST, SYN, mapped_udp, small};

/// A connection that the host opened; its pool port.
fn established(gateway: &mut Gateway) -> u16 {
    let open = tcp6((HOST, 4000), (embedded(SERVER), 80), SYN, b"");
    let port = judged(&gateway.v6(&open)).2;
    gateway.v4(&tcp4((SERVER, 80), (POOL, port), SYN | ACK, b""));
    gateway.v6(&tcp6((HOST, 4000), (embedded(SERVER), 80), ACK, b""));
    port
}

#[test]
fn section_2_2_a_reset_is_translated_and_leaves_four_minutes() {
    for from in [Side::V6, Side::V4] {
        let mut gateway = Gateway::new(config());
        let port = established(&mut gateway);
        let out = match from {
            Side::V6 => gateway.v6(&tcp6((HOST, 4000), (embedded(SERVER), 80), RST, b"")),
            Side::V4 => gateway.v4(&tcp4((SERVER, 80), (POOL, port), RST, b"")),
        };
        judged(&out);
        gateway.advance(Duration::from_secs(240));
        assert_eq!(gateway.sessions(Protocol::Tcp), 1);
        gateway.advance(Duration::from_secs(1));
        assert_eq!(gateway.sessions(Protocol::Tcp), 0);
    }
}

#[test]
fn section_5_and_6_mapping_and_filtering_are_the_same_in_each_protocol() {
    let mut gateway = Gateway::new(config());
    let stranger = Ipv4Addr::new(198, 51, 100, 200);
    let udp = mapped_udp(&mut gateway, (HOST, 5000), (SERVER, 53)).1;
    gateway.v4(&udp4((stranger, 9), (POOL, udp), b"x"));
    let tcp = established(&mut gateway);
    gateway.v4(&tcp4((stranger, 9), (POOL, tcp), SYN, b""));
    let ping = ping6(HOST, embedded(SERVER), 77, b"x");
    let id = judged(&gateway.v6(&ping)).2;
    gateway.v4(&crate::support::packets::ping4(stranger, POOL, id, b"x"));
}

#[test]
fn section_7_packets_from_outside_refresh_their_session_only() {
    let mut gateway = Gateway::new(config());
    let port = mapped_udp(&mut gateway, (HOST, 5000), (SERVER, 53)).1;
    let stranger = Ipv4Addr::new(198, 51, 100, 200);
    gateway.advance(Duration::from_secs(200));
    gateway.v4(&udp4((stranger, 9), (POOL, port), b"x"));
    gateway.advance(Duration::from_secs(150));
    assert_eq!(gateway.sessions(Protocol::Udp), 1, "the stranger's");
}

#[test]
fn section_7_1_a_reset_from_inside_does_not_refresh() {
    let mut gateway = Gateway::new(config());
    gateway.v6(&tcp6((HOST, 4000), (embedded(SERVER), 80), SYN, b""));
    gateway.advance(Duration::from_secs(200));
    gateway.v6(&tcp6((HOST, 4000), (embedded(SERVER), 80), RST, b""));
    gateway.advance(Duration::from_secs(41));
    assert_eq!(gateway.sessions(Protocol::Tcp), 0);
}

#[test]
fn section_9_ports_are_not_given_in_a_row() {
    let mut gateway = Gateway::new(small(1024..=1151));
    let ports: Vec<_> = (0..30)
        .map(|n| mapped_udp(&mut gateway, (HOST, 2000 + 2 * n), (SERVER, 53)).1)
        .collect();
    let in_a_row = ports.windows(2).filter(|pair| pair[1] == pair[0] + 2);
    assert!(in_a_row.count() < 10, "{ports:?}");
    let mut sorted = ports.clone();
    sorted.sort_unstable();
    assert_ne!(ports, sorted);
}

#[test]
fn section_10_packets_that_may_be_fragmented_have_their_own_identification() {
    let mut gateway = Gateway::new(config());
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        let out = gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"x"));
        assert_eq!(out[6] & 0x40, 0, "small packets go without DF");
        ids.insert([out[4], out[5]]);
    }
    assert_eq!(ids.len(), 1000);
}

#[test]
fn section_11_icmp_queries_have_sixty_seconds_of_their_own() {
    let mut gateway = Gateway::new(config());
    mapped_udp(&mut gateway, (HOST, 77), (SERVER, 53));
    gateway.v6(&ping6(HOST, embedded(SERVER), 77, b"x"));
    gateway.advance(Duration::from_secs(61));
    assert_eq!(gateway.sessions(Protocol::Icmp), 0);
    assert_eq!(gateway.sessions(Protocol::Udp), 1);
}
