//! RFC 5508, NAT behavioural requirements for ICMP.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use gate64_dataplane::counters;
use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::Protocol;

use crate::support::packets::{judged, ping6, udp4, udp6};
use crate::support::{GATEWAY4, Gateway, HOST, OTHER, Outcome, POOL, SERVER, config, embedded};
use crate::{error4, error6, mapped_udp, opened};

#[test]
fn req_1_a_the_identifiers_mapping_does_not_depend_on_the_peer() {
    let mut gateway = Gateway::new(config());
    let mut mapped = |peer| judged(&gateway.v6(&ping6(HOST, embedded(peer), 77, b"x"))).2;
    let first = mapped(SERVER);
    assert_eq!(mapped(Ipv4Addr::new(198, 51, 100, 99)), first);
}

#[test]
fn req_2_sixty_seconds() {
    let mut gateway = Gateway::new(config());
    gateway.v6(&ping6(HOST, embedded(SERVER), 77, b"x"));
    gateway.advance(Duration::from_secs(60));
    assert_eq!(gateway.sessions(Protocol::Icmp), 1);
    gateway.advance(Duration::from_secs(1));
    assert_eq!(gateway.sessions(Protocol::Icmp), 0);
}

#[test]
fn req_3_a_wrong_checksum_outside_is_dropped_one_inside_is_not_looked_at() {
    let (mut gateway, _) = opened();
    let mut sent = gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"question"));
    sent[27] ^= 1; // the UDP checksum
    gateway.v4(&error4(3, 3, [0; 4], &sent));
    let mut wrong = error4(3, 3, [0; 4], &sent);
    wrong[22] ^= 1;
    let refused = gateway.put(Side::V4, &wrong);
    assert_eq!(refused, Outcome::Dropped(DropReason::IcmpChecksum));
}

#[test]
fn req_3_b_options_inside_are_stepped_over() {
    let (mut gateway, _) = opened();
    let sent = gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"question"));
    let mut with_options = sent[..20].to_vec();
    with_options.extend_from_slice(&[7, 7, 4, 0, 0, 0, 0, 0]); // record route
    with_options.extend_from_slice(&sent[20..]);
    with_options[0] = 0x47;
    let len = u16::try_from(with_options.len()).unwrap();
    with_options[2..4].copy_from_slice(&len.to_be_bytes());
    let answer = gateway.v4(&error4(3, 3, [0; 4], &with_options));
    let (_, _, _, _, quoted) = judged(&answer);
    let (src, _, src_port, dst_port, payload) = judged(&quoted);
    assert_eq!((src, src_port, dst_port), (IpAddr::V6(HOST), 5000, 53));
    assert_eq!(payload, b"question");
}

#[test]
fn req_6_an_error_neither_refreshes_nor_ends_a_session() {
    let (mut gateway, port) = opened();
    let sent = gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"question"));
    let received = gateway.v4(&udp4((SERVER, 53), (POOL, port), b"answer"));
    gateway.advance(Duration::from_secs(290));
    gateway.v4(&error4(3, 3, [0; 4], &sent));
    gateway.v6(&error6(HOST, embedded(SERVER), (1, 4), &received));
    assert_eq!(gateway.sessions(Protocol::Udp), 1);
    gateway.advance(Duration::from_secs(11));
    assert_eq!(gateway.sessions(Protocol::Udp), 0);
}

#[test]
fn req_7_an_error_about_a_hairpinned_packet_comes_back_the_same_way() {
    let mut gateway = Gateway::new(config());
    let target = mapped_udp(&mut gateway, (OTHER, 6000), (SERVER, 1)).1;
    let asked = udp6((HOST, 5000), (embedded(POOL), target), b"hello");
    let received = gateway.put(Side::V6, &asked).sent(Side::V6);
    let error = error6(OTHER, embedded(POOL), (1, 4), &received);
    let answer = gateway.put(Side::V6, &error).sent(Side::V6);
    let (src, dst, _, _, quoted) = judged(&answer);
    assert_eq!((src, dst), (IpAddr::V6(embedded(POOL)), IpAddr::V6(HOST)));
    assert_eq!((answer[40], answer[41]), (1, 4));
    // The packet inside is the one that the host sent, but for the hops in between.
    let (src, dst, src_port, dst_port, payload) = judged(&quoted);
    assert_eq!((src, dst), (IpAddr::V6(HOST), IpAddr::V6(embedded(POOL))));
    assert_eq!((src_port, dst_port), (5000, target));
    assert_eq!(payload, b"hello");
    assert_eq!(gateway.count(counters::hairpinned(0)), 2);
}

#[test]
fn req_8_without_resources_the_sender_is_told() {
    let mut limited = config();
    limited.subscriber.session_count_max = 1;
    let mut gateway = Gateway::new(limited);
    let port = mapped_udp(&mut gateway, (HOST, 5000), (SERVER, 53)).1;
    let refused = ping6(HOST, embedded(SERVER), 2, b"x");
    let answer = gateway.put(Side::V6, &refused).sent(Side::V6);
    assert_eq!((answer[40], answer[41]), (1, 1));
    let stranger = udp4((SERVER, 99), (POOL, port), b"knock");
    let answer = gateway.put(Side::V4, &stranger).sent(Side::V4);
    let (src, dst, _, _, _) = judged(&answer);
    assert_eq!((src, dst), (IpAddr::V4(GATEWAY4), IpAddr::V4(SERVER)));
    assert_eq!((answer[20], answer[21]), (3, 13));
}

#[test]
fn req_9_errors_that_gate64_makes_are_limited() {
    let mut limited = config();
    limited.icmp_error_rate_max = 2;
    let mut gateway = Gateway::new(limited);
    let mut packet = udp6((HOST, 1), (embedded(SERVER), 2), b"traceroute");
    packet[7] = 1;
    let answered = |gateway: &mut Gateway| {
        let outcomes = (0..5).map(|_| gateway.put(Side::V6, &packet));
        outcomes
            .filter(|outcome| matches!(outcome, Outcome::Sent(..)))
            .count()
    };
    assert_eq!(answered(&mut gateway), 2);
    gateway.advance(Duration::from_millis(500));
    assert_eq!(answered(&mut gateway), 1);
    assert_eq!(gateway.count(counters::icmp_errors_suppressed(0)), 7);
    assert_eq!(gateway.count(counters::icmp_errors_generated(0)), 3);
}

#[test]
fn req_9_no_errors_are_made_where_the_operator_wants_none() {
    let mut silent = config();
    silent.icmp_error_rate_max = 0;
    let mut gateway = Gateway::new(silent);
    let mut packet = udp6((HOST, 1), (embedded(SERVER), 2), b"traceroute");
    packet[7] = 1;
    let refused = gateway.put(Side::V6, &packet);
    assert_eq!(refused, Outcome::Dropped(DropReason::HopLimit));
}
