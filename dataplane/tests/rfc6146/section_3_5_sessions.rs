//! Section 3.5: sessions of the three protocols, there and back.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use gate64_dataplane::counters;
use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::Protocol;

use crate::support::packets::{judged, ping6, pong4, tcp4, tcp6, udp4, udp6};
use crate::support::{Gateway, HOST, OTHER, Outcome, POOL, SERVER, config, embedded};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;

#[test]
fn udp_there_and_back_through_one_mapping() {
    let mut gateway = Gateway::new(config());
    let out = gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"question"));
    let (src, dst, port, dst_port, payload) = judged(&out);
    assert_eq!(
        (src, dst, dst_port),
        (IpAddr::V4(POOL), IpAddr::V4(SERVER), 53)
    );
    assert!(
        port >= 1024 && port % 2 == 0,
        "RFC 4787 REQ-4: even stays even"
    );
    assert_eq!(payload, b"question");

    let back = gateway.v4(&udp4((SERVER, 53), (POOL, port), b"answer"));
    let (src, dst, src_port, dst_port, payload) = judged(&back);
    assert_eq!((src, dst), (IpAddr::V6(embedded(SERVER)), IpAddr::V6(HOST)));
    assert_eq!((src_port, dst_port), (53, 5000));
    assert_eq!(payload, b"answer");
    assert_eq!(gateway.sessions(Protocol::Udp), 1);
    assert_eq!(gateway.count(counters::packets_forwarded(0)), 1);
    assert_eq!(gateway.count(counters::packets_forwarded(1)), 1);
}

#[test]
fn mapping_is_endpoint_independent_and_further_sessions_are_found() {
    let mut gateway = Gateway::new(config());
    let mut ports = std::collections::BTreeSet::new();
    for n in 0..200u16 {
        let out = gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 1000 + n), b"x"));
        ports.insert(judged(&out).2);
    }
    assert_eq!(ports.len(), 1);
    assert_eq!(gateway.sessions(Protocol::Udp), 200);
    assert_eq!(gateway.count(counters::bib_entries(0)), 1);
    let port = *ports.first().unwrap();
    for n in 0..200u16 {
        gateway.v4(&udp4((SERVER, 1000 + n), (POOL, port), b"y"));
    }
    assert_eq!(gateway.sessions(Protocol::Udp), 200);
    // A new peer through the same mapping: endpoint-independent filtering lets it pass.
    gateway.v4(&udp4((SERVER, 7), (POOL, port), b"z"));
    assert_eq!(gateway.sessions(Protocol::Udp), 201);
}

#[test]
fn lifetimes_run_out_in_time_and_not_before() {
    let mut gateway = Gateway::new(config());
    let out = gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"x"));
    let port = judged(&out).2;
    gateway.advance(Duration::from_secs(299));
    gateway.v4(&udp4((SERVER, 53), (POOL, port), b"refresh"));
    gateway.advance(Duration::from_secs(300));
    assert_eq!(gateway.sessions(Protocol::Udp), 1);
    gateway.advance(Duration::from_millis(600));
    assert_eq!(gateway.sessions(Protocol::Udp), 0);
    assert_eq!(gateway.count(counters::bib_entries(0)), 0);
    let refused = gateway.put(Side::V4, &udp4((SERVER, 53), (POOL, port), b"late"));
    assert_eq!(refused, Outcome::Dropped(DropReason::NoBib));
    // The block goes back, and the subscriber with it.
    gateway.advance(Duration::from_secs(300));
    assert_eq!(gateway.count(counters::port_blocks_used(0)), 0);
    assert_eq!(gateway.count(counters::subscribers(0)), 0);
}

#[test]
fn icmp_query_keeps_its_identifier_apart() {
    let mut gateway = Gateway::new(config());
    let out = gateway.v6(&ping6(HOST, embedded(SERVER), 77, b"data"));
    let (src, dst, id, _, payload) = judged(&out);
    assert_eq!((src, dst), (IpAddr::V4(POOL), IpAddr::V4(SERVER)));
    assert_eq!((out[20], payload.as_slice()), (8, &b"data"[..]));
    let back = gateway.v4(&pong4(SERVER, POOL, id, b"data"));
    let (src, dst, back_id, _, _) = judged(&back);
    assert_eq!(
        (src, dst, back_id, back[40]),
        (IpAddr::V6(embedded(SERVER)), IpAddr::V6(HOST), 77, 129)
    );
    gateway.advance(Duration::from_secs(61));
    assert_eq!(gateway.sessions(Protocol::Icmp), 0);
}

#[test]
fn tcp_from_syn_to_fin_and_the_lifetimes_between() {
    let mut gateway = Gateway::new(config());
    let client = (HOST, 40000);
    let server = (embedded(SERVER), 80);
    let out = gateway.v6(&tcp6(client, server, SYN, b""));
    let mapped = (POOL, judged(&out).2);
    let peer = (SERVER, 80);
    judged(&gateway.v4(&tcp4(peer, mapped, SYN | ACK, b"")));
    judged(&gateway.v6(&tcp6(client, server, ACK, b"GET /")));
    gateway.advance(Duration::from_secs(7440));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    judged(&gateway.v4(&tcp4(peer, mapped, ACK, b"200")));
    gateway.v6(&tcp6(client, server, FIN | ACK, b""));
    // Half-closed stays on TCP_EST.
    gateway.advance(Duration::from_secs(3600));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    gateway.v4(&tcp4(peer, mapped, FIN | ACK, b""));
    gateway.advance(Duration::from_secs(239));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    gateway.advance(Duration::from_secs(2));
    assert_eq!(gateway.sessions(Protocol::Tcp), 0);
}

#[test]
fn tcp_without_syn_makes_no_state() {
    let mut gateway = Gateway::new(config());
    let refused = gateway.put(Side::V6, &tcp6((HOST, 1), (embedded(SERVER), 80), ACK, b""));
    assert_eq!(refused, Outcome::Dropped(DropReason::TcpNotSyn));
    assert_eq!(gateway.count(counters::subscribers(0)), 0);
}

#[test]
fn rst_leaves_four_minutes_and_silence_on_tcp_est_gets_them_too() {
    let mut gateway = Gateway::new(config());
    let (client, server) = ((HOST, 40000), (embedded(SERVER), 80));
    let mapped = (POOL, judged(&gateway.v6(&tcp6(client, server, SYN, b""))).2);
    gateway.v4(&tcp4((SERVER, 80), mapped, SYN | ACK, b""));
    gateway.v4(&tcp4((SERVER, 80), mapped, RST, b""));
    gateway.advance(Duration::from_secs(239));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    // Anything but an RST revives it.
    gateway.v6(&tcp6(client, server, ACK, b""));
    gateway.advance(Duration::from_secs(7441));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    gateway.advance(Duration::from_secs(242));
    assert_eq!(gateway.sessions(Protocol::Tcp), 0);
}

#[test]
fn hairpin_both_ways() {
    let mut gateway = Gateway::new(config());
    let out = gateway.v6(&udp6((OTHER, 6000), (embedded(SERVER), 1), b"open"));
    let other = judged(&out).2;
    let there = gateway
        .put(
            Side::V6,
            &udp6((HOST, 5000), (embedded(POOL), other), b"hello"),
        )
        .sent(Side::V6);
    let (src, dst, src_port, dst_port, payload) = judged(&there);
    assert_eq!(
        (src, dst, dst_port),
        (IpAddr::V6(embedded(POOL)), IpAddr::V6(OTHER), 6000)
    );
    assert_eq!(payload, b"hello");
    let back = gateway
        .put(
            Side::V6,
            &udp6((OTHER, 6000), (embedded(POOL), src_port), b"hi"),
        )
        .sent(Side::V6);
    let (src, dst, src_port, dst_port, _) = judged(&back);
    assert_eq!((src, dst), (IpAddr::V6(embedded(POOL)), IpAddr::V6(HOST)));
    assert_eq!((src_port, dst_port), (other, 5000));
    assert_eq!(gateway.count(counters::hairpinned(0)), 2);
}

#[test]
fn a_source_inside_pref64_is_dropped_silently() {
    let mut gateway = Gateway::new(config());
    let packet = udp6((embedded(SERVER), 1), (embedded(SERVER), 2), b"loop");
    assert_eq!(
        gateway.put(Side::V6, &packet),
        Outcome::Dropped(DropReason::SourceInPref64)
    );
    assert_eq!(gateway.drops(Side::V6, DropReason::SourceInPref64), 1);
}

#[test]
fn hop_limit_used_up_is_answered_with_time_exceeded() {
    let mut gateway = Gateway::new(config());
    let mut packet = udp6((HOST, 1), (embedded(SERVER), 2), b"traceroute");
    packet[7] = 1;
    let answer = gateway.put(Side::V6, &packet).sent(Side::V6);
    let (_, dst, _, _, quoted) = judged(&answer);
    assert_eq!((dst, answer[40], answer[41]), (IpAddr::V6(HOST), 3, 0));
    assert_eq!(quoted, packet);
    assert_eq!(gateway.drops(Side::V6, DropReason::HopLimit), 1);
    assert_eq!(gateway.count(counters::icmp_errors_generated(0)), 1);
    assert_eq!(gateway.sessions(Protocol::Udp), 0);
}

#[test]
fn a_quota_refuses_and_leaves_nothing_behind() {
    let mut limits = config();
    limits.subscriber.session_count_max = 2;
    limits.subscriber.prefix_length = 128;
    let mut gateway = Gateway::new(limits);
    for port in [10, 12] {
        gateway.v6(&udp6((HOST, port), (embedded(SERVER), 53), b"x"));
    }
    let answer = gateway
        .put(Side::V6, &udp6((HOST, 14), (embedded(SERVER), 53), b"x"))
        .sent(Side::V6);
    assert_eq!(
        (answer[40], answer[41]),
        (1, 1),
        "administratively prohibited"
    );
    assert_eq!(gateway.drops(Side::V6, DropReason::SubscriberSessions), 1);
    assert_eq!(gateway.count(counters::bib_entries(0)), 2);
    // Another subscriber is not concerned.
    let neighbor = Ipv6Addr::from(u128::from(HOST) + 1);
    gateway.v6(&udp6((neighbor, 10), (embedded(SERVER), 53), b"x"));
}
