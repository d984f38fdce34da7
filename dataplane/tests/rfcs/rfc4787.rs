//! RFC 4787, NAT behavioural requirements for UDP.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use gate64_dataplane::counters;
use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::Protocol;

use crate::support::packets::{judged, ping6, tcp6, udp4, udp6};
use crate::support::{Gateway, HOST, OTHER, POOL, SERVER, config, embedded, routes};
use crate::{SYN, error4, mapped_udp, opened, pool, small};

#[test]
fn req_1_one_mapping_for_every_destination() {
    let mut gateway = Gateway::new(config());
    let mapped: BTreeSet<_> = (1..=50u8)
        .map(|n| {
            let to = (Ipv4Addr::new(198, 51, 100, n), 1000 + u16::from(n));
            mapped_udp(&mut gateway, (HOST, 5000), to)
        })
        .collect();
    assert_eq!(mapped.len(), 1);
    assert_eq!(gateway.count(counters::bib_entries(0)), 1);
}

#[test]
fn req_2_all_mappings_of_a_subscriber_have_one_address() {
    let mut many = small(1024..=1279);
    many.pool4[0] = pool(Ipv4Addr::new(192, 0, 2, 16), 28, 1024..=1279);
    let mut gateway = Gateway::new(many);
    let mut addresses = BTreeSet::new();
    for n in 0..200u16 {
        // Hosts of one /64, in three protocols, over several blocks.
        let host = Ipv6Addr::from(u128::from(HOST) + u128::from(n % 4));
        let to = (embedded(SERVER), 80);
        for packet in [
            udp6((host, 2000 + n), to, b"x"),
            tcp6((host, 2000 + n), to, SYN, b""),
            ping6(host, to.0, 2000 + n, b"x"),
        ] {
            addresses.insert(judged(&gateway.v6(&packet)).0);
        }
    }
    assert_eq!(addresses.len(), 1);
    assert!(gateway.count(counters::port_blocks_used(0)) > 3);
}

#[test]
fn req_3_no_port_is_given_to_two_hosts() {
    let mut gateway = Gateway::new(small(1024..=1151));
    let mut seen = BTreeSet::new();
    for n in 0..64u16 {
        for host in [HOST, OTHER] {
            assert!(seen.insert(mapped_udp(&mut gateway, (host, 2000 + n), (SERVER, 53))));
        }
    }
    // The pool is used up: the next is refused, and nobody's port is taken.
    let refused = udp6((HOST, 3000), (embedded(SERVER), 53), b"x");
    let answer = gateway.put(Side::V6, &refused).sent(Side::V6);
    assert_eq!((answer[40], answer[41]), (1, 1));
    assert_eq!(gateway.drops(Side::V6, DropReason::PoolExhausted), 1);
    gateway.nat64.check_invariants();
}

#[test]
fn req_3_a_the_port_range_is_kept_where_free_never_a_failure_for_it() {
    // A block below 1024 and one above.
    let mut config = small(960..=1087);
    config.subscriber.port_blocks_max = 2;
    let mut gateway = Gateway::new(config);
    // The first ports use both blocks, so that there is a choice from then on.
    let held: Vec<_> = (0..70)
        .map(|n| mapped_udp(&mut gateway, (HOST, 2000 + n), (SERVER, 53)).1)
        .collect();
    let low = held.iter().filter(|&&port| port < 1024).count();
    let mut mapped = |port| mapped_udp(&mut gateway, (HOST, port), (SERVER, 53)).1;
    if low == 64 {
        assert!(mapped(4000) >= 1024);
    } else {
        assert!(mapped(500) < 1024);
        assert!(
            mapped(4000) < 1024,
            "the other range is full: no failure for it"
        );
    }
}

#[test]
fn req_4_parity_is_kept() {
    let mut gateway = Gateway::new(config());
    for port in [5000, 5001, 5002, 5003] {
        let mapped = mapped_udp(&mut gateway, (HOST, port), (SERVER, 53)).1;
        assert_eq!(mapped % 2, port % 2);
    }
}

#[test]
fn req_5_five_minutes_by_default() {
    let (mut gateway, _) = opened();
    gateway.advance(Duration::from_secs(300));
    assert_eq!(gateway.sessions(Protocol::Udp), 1);
    gateway.advance(Duration::from_secs(1));
    assert_eq!(gateway.sessions(Protocol::Udp), 0);
}

#[test]
fn req_6_packets_from_inside_refresh_and_from_outside_too() {
    let (mut gateway, port) = opened();
    for n in 0..4 {
        gateway.advance(Duration::from_secs(290));
        if n % 2 == 0 {
            mapped_udp(&mut gateway, (HOST, 5000), (SERVER, 53));
        } else {
            gateway.v4(&udp4((SERVER, 53), (POOL, port), b"answer"));
        }
        assert_eq!(gateway.sessions(Protocol::Udp), 1);
    }
}

#[test]
fn req_9_hairpinned_packets_have_the_external_source() {
    let mut gateway = Gateway::new(config());
    let target = mapped_udp(&mut gateway, (OTHER, 6000), (SERVER, 1)).1;
    let own = mapped_udp(&mut gateway, (HOST, 5000), (SERVER, 1)).1;
    let packet = udp6((HOST, 5000), (embedded(POOL), target), b"hello");
    let there = gateway.put(Side::V6, &packet).sent(Side::V6);
    let (src, dst, src_port, _, _) = judged(&there);
    assert_eq!((src, src_port), (IpAddr::V6(embedded(POOL)), own));
    assert_eq!(dst, IpAddr::V6(OTHER));
}

#[test]
fn req_12_no_icmp_error_ends_a_mapping() {
    let (mut gateway, port) = opened();
    let sent = gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"question"));
    for (kind, code) in [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0), (12, 0)] {
        // From any router: errors are not filtered by their source (REQ-12 a).
        gateway.v4(&error4(kind, code, [0; 4], &sent));
    }
    assert_eq!(gateway.sessions(Protocol::Udp), 1);
    gateway.v4(&udp4((SERVER, 53), (POOL, port), b"answer"));
    gateway.nat64.check_invariants();
}

#[test]
fn req_13_too_big_with_df_is_answered_without_df_is_cut_in_order() {
    let (mut gateway, port) = opened();
    gateway.routes = routes(1400, 1500);
    // etherparse sets DF.
    let packet = udp4((SERVER, 53), (POOL, port), &[7; 1400]);
    let answer = gateway.put(Side::V4, &packet).sent(Side::V4);
    judged(&answer);
    assert_eq!((answer[20], answer[21]), (3, 4));
    assert_eq!(answer[26..28], 1380u16.to_be_bytes());
    assert_eq!(gateway.drops(Side::V4, DropReason::PacketTooBig), 1);

    let mut packet = packet;
    packet[6..8].fill(0);
    crate::repair_v4(&mut packet);
    assert_eq!(
        gateway.put(Side::V4, &packet),
        crate::support::Outcome::Held
    );
    let parts: Vec<_> = gateway
        .outgoing()
        .into_iter()
        .map(|part| part.sent(Side::V6))
        .collect();
    let offsets: Vec<_> = parts
        .iter()
        .map(|part| u16::from_be_bytes([part[42], part[43]]) & !7)
        .collect();
    assert_eq!(offsets, [0, 1232]);
    assert!(parts.iter().all(|part| part.len() <= 1280));
    assert_eq!(gateway.count(counters::fragments_created(0)), 2);
}
