//! Sections 3.4 to 3.6: ICMP errors find their session by the packet inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use gate64_dataplane::counters;
use gate64_dataplane::verdict::{DropReason, Side};

use crate::support::packets::{judged, udp4, udp6};
use crate::support::{Gateway, HOST, Outcome, POOL, SERVER, config, embedded, routes};

const ROUTER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

fn error4(kind: u8, code: u8, inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(ROUTER4.octets(), POOL.octets(), 64)
        .icmpv4_raw(kind, code, [0; 4])
        .write(&mut bytes, inner)
        .unwrap();
    bytes
}

fn error6(src: Ipv6Addr, kind: u8, code: u8, inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv6(src.octets(), embedded(SERVER).octets(), 64)
        .icmpv6_raw(kind, code, [0; 4])
        .write(&mut bytes, inner)
        .unwrap();
    bytes
}

#[test]
fn from_ipv4_the_packet_inside_is_the_clients_own() {
    let mut gateway = Gateway::new(config());
    let asked = udp6((HOST, 5000), (embedded(SERVER), 53), b"question");
    let sent = gateway.v6(&asked);
    let answer = gateway.v4(&error4(3, 3, &sent));
    let (src, dst, _, _, quoted) = judged(&answer);
    assert_eq!(
        (src, dst),
        (IpAddr::V6(embedded(ROUTER4)), IpAddr::V6(HOST))
    );
    assert_eq!((answer[40], answer[41]), (1, 4));
    let (src, dst, src_port, dst_port, payload) = judged(&quoted);
    assert_eq!((src, dst), (IpAddr::V6(HOST), IpAddr::V6(embedded(SERVER))));
    assert_eq!((src_port, dst_port), (5000, 53));
    assert_eq!(payload, b"question");
    assert_eq!(gateway.count(counters::icmp_errors_translated(1)), 1);
}

#[test]
fn from_ipv6_the_packet_inside_is_the_peers_own() {
    let mut gateway = Gateway::new(config());
    let asked = udp6((HOST, 5000), (embedded(SERVER), 53), b"question");
    let port = judged(&gateway.v6(&asked)).2;
    let sent = gateway.v4(&udp4((SERVER, 53), (POOL, port), b"answer"));
    let answer = gateway.v6(&error6(HOST, 1, 4, &sent));
    let (src, dst, _, _, quoted) = judged(&answer);
    assert_eq!((src, dst), (IpAddr::V4(POOL), IpAddr::V4(SERVER)));
    assert_eq!((answer[20], answer[21]), (3, 3));
    let (src, dst, src_port, dst_port, _) = judged(&quoted);
    assert_eq!((src, dst), (IpAddr::V4(SERVER), IpAddr::V4(POOL)));
    assert_eq!((src_port, dst_port), (53, port));
}

#[test]
fn without_a_mapping_or_session_they_are_dropped() {
    let mut gateway = Gateway::new(config());
    let stranger = udp4((POOL, 2000), (SERVER, 53), b"never sent");
    let refused = gateway.put(Side::V4, &error4(3, 3, &stranger));
    assert_eq!(refused, Outcome::Dropped(DropReason::NoBib));
    let sent = gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"x"));
    let port = judged(&sent).2;
    let other = udp4((POOL, port), (SERVER, 54), b"never sent");
    let refused = gateway.put(Side::V4, &error4(3, 3, &other));
    assert_eq!(refused, Outcome::Dropped(DropReason::NoSession));
}

#[test]
fn too_big_for_the_ipv4_link_is_answered_with_the_ipv6_size() {
    let mut gateway = Gateway::new(config());
    gateway.routes = routes(1500, 1400);
    let packet = udp6((HOST, 5000), (embedded(SERVER), 53), &[0; 1400]);
    let answer = gateway.put(Side::V6, &packet).sent(Side::V6);
    judged(&answer);
    assert_eq!((answer[40], answer[41]), (2, 0));
    assert_eq!(answer[44..48], 1420u32.to_be_bytes());
    assert_eq!(gateway.drops(Side::V6, DropReason::PacketTooBig), 1);
}
