//! RFC 6888, requirements of carrier-grade NATs.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::Protocol;

use crate::support::packets::{udp4, udp6};
use crate::support::{Gateway, HOST, OTHER, Outcome, POOL, SERVER, embedded};
use crate::{mapped_udp, pool, small};

fn refused(gateway: &mut Gateway, host: Ipv6Addr, port: u16) -> (u8, u8) {
    let packet = udp6((host, port), (embedded(SERVER), 53), b"x");
    let answer = gateway.put(Side::V6, &packet).sent(Side::V6);
    (answer[40], answer[41])
}

#[test]
fn req_3_a_pool_need_not_be_contiguous() {
    let mut config = small(1024..=1087);
    config.pool4 = vec![
        pool(Ipv4Addr::new(192, 0, 2, 8), 30, 1024..=1087),
        pool(Ipv4Addr::new(203, 0, 113, 200), 32, 5000..=5063),
    ];
    config.pool4[0].exclude = vec![Ipv4Addr::new(192, 0, 2, 9)];
    let mut gateway = Gateway::new(config);
    let used: BTreeSet<_> = (0..4u16)
        .map(|n| {
            let host = Ipv6Addr::new(0x2001, 0xdb8, 100 + n, 0, 0, 0, 0, 1);
            mapped_udp(&mut gateway, (host, 5000), (SERVER, 53)).0
        })
        .collect();
    let expected = [
        [192, 0, 2, 8],
        [192, 0, 2, 10],
        [192, 0, 2, 11],
        [203, 0, 113, 200],
    ];
    assert_eq!(used, expected.map(Ipv4Addr::from).into());
}

#[test]
fn req_4_ports_of_a_subscriber_are_limited() {
    let mut config = small(1024..=1279);
    config.subscriber.port_blocks_max = 2;
    let mut gateway = Gateway::new(config);
    for n in 0..128 {
        mapped_udp(&mut gateway, (HOST, 2000 + n), (SERVER, 53));
    }
    assert_eq!(refused(&mut gateway, HOST, 3000), (1, 1));
    assert_eq!(gateway.drops(Side::V6, DropReason::SubscriberPorts), 1);
    mapped_udp(&mut gateway, (OTHER, 3000), (SERVER, 53));
}

#[test]
fn req_5_sessions_of_a_subscriber_and_their_rate_are_limited() {
    let mut config = small(1024..=65535);
    config.subscriber.session_rate_max = Some(10);
    config.subscriber.session_count_max = 15;
    let mut gateway = Gateway::new(config);
    let open = |gateway: &mut Gateway, first: u16| {
        (first..first + 20)
            .filter(|&port| {
                let packet = udp6((HOST, port), (embedded(SERVER), 53), b"x");
                matches!(gateway.put(Side::V6, &packet), Outcome::Sent(Side::V4, _))
            })
            .count()
    };
    assert_eq!(open(&mut gateway, 2000), 10);
    gateway.advance(Duration::from_secs(1));
    assert_eq!(open(&mut gateway, 3000), 5);
    assert!(gateway.drops(Side::V6, DropReason::SubscriberRate) > 0);
    assert!(gateway.drops(Side::V6, DropReason::SubscriberSessions) > 0);
}

#[test]
fn req_8_a_freed_port_rests() {
    let mut config = small(1024..=1087);
    config.subscriber.port_reuse_delay = Duration::from_secs(600);
    let mut gateway = Gateway::new(config);
    for n in 0..64 {
        mapped_udp(&mut gateway, (HOST, 2000 + n), (SERVER, 53));
    }
    gateway.advance(Duration::from_secs(301));
    assert_eq!(gateway.sessions(Protocol::Udp), 0);
    gateway.advance(Duration::from_secs(200));
    assert_eq!(refused(&mut gateway, HOST, 4000), (1, 1));
    gateway.advance(Duration::from_secs(1200));
    mapped_udp(&mut gateway, (HOST, 4000), (SERVER, 53));
}

#[test]
fn req_11_when_ports_run_out_what_there_is_stays() {
    let mut gateway = Gateway::new(small(1024..=1087));
    let first = mapped_udp(&mut gateway, (HOST, 2000), (SERVER, 53)).1;
    for n in 1..64 {
        mapped_udp(&mut gateway, (HOST, 2000 + n), (SERVER, 53));
    }
    for host in [HOST, OTHER] {
        assert_eq!(refused(&mut gateway, host, 9000), (1, 1));
    }
    assert_eq!(gateway.sessions(Protocol::Udp), 64);
    gateway.v4(&udp4((SERVER, 53), (POOL, first), b"answer"));
    gateway.nat64.check_invariants();
}
