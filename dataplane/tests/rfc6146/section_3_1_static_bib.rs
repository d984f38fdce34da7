//! Section 3.1: BIB entries that the operator configured. They are there before any packet, take
//! new sessions from both sides, and never expire.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use gate64_dataplane::config::StaticBib;
use gate64_dataplane::counters;
use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};

use crate::support::packets::{judged, ping4, ping6, pong4, tcp4, tcp6, udp4, udp6};
use crate::support::{Gateway, HOST, Outcome, POOL, SERVER, config, embedded};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Ports of the host's services, and what the pool shows of them: below the dynamic ports.
const INSIDE: u16 = 8080;
const OUTSIDE: u16 = 80;

fn entry(protocol: Protocol, inside: u16, outside: u16) -> StaticBib {
    StaticBib {
        protocol,
        v6: TransportAddr6 {
            ip: HOST,
            port: inside,
        },
        v4: TransportAddr4 {
            ip: POOL,
            port: outside,
        },
    }
}

/// An entry of each protocol on the same ports.
fn gateway() -> Gateway {
    let mut config = config();
    config.static_bib = Protocol::ALL
        .map(|protocol| entry(protocol, INSIDE, OUTSIDE))
        .to_vec();
    Gateway::new(config)
}

/// All entries are there, with no session and no port block.
#[track_caller]
fn are_all_there(gateway: &mut Gateway) {
    for protocol in Protocol::ALL {
        let id = counters::bib_entries(protocol.index());
        assert_eq!(gateway.count(id), 1, "{protocol}");
        assert_eq!(gateway.sessions(protocol), 0, "{protocol}");
    }
    assert_eq!(gateway.count(counters::subscribers(0)), 1);
    gateway.nat64.check_invariants();
}

#[test]
fn udp_from_ipv4_first() {
    let mut gateway = gateway();
    let out = gateway.v4(&udp4((SERVER, 999), (POOL, OUTSIDE), b"hello"));
    let (src, dst, src_port, dst_port, payload) = judged(&out);
    assert_eq!((src, dst), (IpAddr::V6(embedded(SERVER)), IpAddr::V6(HOST)));
    assert_eq!((src_port, dst_port), (999, INSIDE));
    assert_eq!(payload, b"hello");
    let back = gateway.v6(&udp6((HOST, INSIDE), (embedded(SERVER), 999), b"hi"));
    let (src, dst, src_port, dst_port, payload) = judged(&back);
    assert_eq!((src, dst), (IpAddr::V4(POOL), IpAddr::V4(SERVER)));
    assert_eq!((src_port, dst_port), (OUTSIDE, 999));
    assert_eq!(payload, b"hi");
    assert_eq!(gateway.sessions(Protocol::Udp), 1);
    assert_eq!(gateway.count(counters::port_blocks_used(0)), 0);
    gateway.advance(Duration::from_secs(301));
    are_all_there(&mut gateway);
}

#[test]
fn udp_from_ipv6_first() {
    let mut gateway = gateway();
    let out = gateway.v6(&udp6((HOST, INSIDE), (embedded(SERVER), 53), b"x"));
    assert_eq!(judged(&out).2, OUTSIDE);
    let back = gateway.v4(&udp4((SERVER, 53), (POOL, OUTSIDE), b"y"));
    assert_eq!(judged(&back).3, INSIDE);
    assert_eq!(gateway.sessions(Protocol::Udp), 1);
    assert_eq!(gateway.count(counters::port_blocks_used(0)), 0);
    gateway.advance(Duration::from_secs(301));
    are_all_there(&mut gateway);
}

/// The SYN is not held: there is a mapping for it.
#[test]
fn tcp_from_ipv4_first() {
    let mut gateway = gateway();
    let (client, service) = ((SERVER, 40000), (POOL, OUTSIDE));
    let syn = gateway.v4(&tcp4(client, service, SYN, b""));
    let (src, dst, _, port, _) = judged(&syn);
    assert_eq!((src, dst), (IpAddr::V6(embedded(SERVER)), IpAddr::V6(HOST)));
    assert_eq!(port, INSIDE);
    let (host, peer) = ((HOST, INSIDE), (embedded(SERVER), 40000));
    let answer = gateway.v6(&tcp6(host, peer, SYN | ACK, b""));
    assert_eq!(judged(&answer).2, OUTSIDE);
    gateway.v4(&tcp4(client, service, ACK, b"GET /"));
    gateway.advance(Duration::from_secs(7440));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1, "established");
    // Silence for TCP_EST leads to TRANS (section 3.5.2.2), and that ends.
    gateway.advance(Duration::from_secs(1));
    gateway.advance(Duration::from_secs(241));
    are_all_there(&mut gateway);
}

#[test]
fn tcp_from_ipv6_first() {
    let mut gateway = gateway();
    let out = gateway.v6(&tcp6((HOST, INSIDE), (embedded(SERVER), 80), SYN, b""));
    assert_eq!(judged(&out).2, OUTSIDE);
    let back = tcp4((SERVER, 80), (POOL, OUTSIDE), SYN | ACK, b"");
    assert_eq!(judged(&gateway.v4(&back)).3, INSIDE);
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    gateway.advance(Duration::from_secs(7441));
    gateway.advance(Duration::from_secs(241));
    are_all_there(&mut gateway);
}

#[test]
fn icmp_from_ipv4_first() {
    let mut gateway = gateway();
    let out = gateway.v4(&ping4(SERVER, POOL, OUTSIDE, b"ping"));
    let (src, dst, id, _, payload) = judged(&out);
    assert_eq!((src, dst), (IpAddr::V6(embedded(SERVER)), IpAddr::V6(HOST)));
    assert_eq!(
        (out[40], id, payload.as_slice()),
        (128, INSIDE, &b"ping"[..])
    );
    gateway.advance(Duration::from_secs(61));
    are_all_there(&mut gateway);
}

#[test]
fn icmp_from_ipv6_first() {
    let mut gateway = gateway();
    let out = gateway.v6(&ping6(HOST, embedded(SERVER), INSIDE, b"ping"));
    assert_eq!((out[20], judged(&out).2), (8, OUTSIDE));
    let back = gateway.v4(&pong4(SERVER, POOL, OUTSIDE, b"ping"));
    assert_eq!((back[40], judged(&back).2), (129, INSIDE));
    gateway.advance(Duration::from_secs(61));
    are_all_there(&mut gateway);
}

#[test]
fn they_outlive_days_without_a_packet() {
    let mut gateway = gateway();
    for _ in 0..10 {
        gateway.advance(Duration::from_secs(86_400));
    }
    are_all_there(&mut gateway);
    gateway.v4(&udp4((SERVER, 999), (POOL, OUTSIDE), b"still"));
}

/// Each protocol has a BIB of its own, and a port that is not configured has no entry.
#[test]
fn what_is_not_configured_is_not_there() {
    let mut config = config();
    config.static_bib = vec![entry(Protocol::Tcp, INSIDE, OUTSIDE)];
    let mut gateway = Gateway::new(config);
    let udp = udp4((SERVER, 999), (POOL, OUTSIDE), b"x");
    gateway.refuses(Side::V4, &udp, DropReason::NoBib);
    let icmp = ping4(SERVER, POOL, OUTSIDE, b"x");
    gateway.refuses(Side::V4, &icmp, DropReason::NoBib);
    // Outside the dynamic ports nothing is held for a mapping that could not come.
    let other = tcp4((SERVER, 999), (POOL, OUTSIDE + 1), SYN, b"");
    gateway.refuses(Side::V4, &other, DropReason::NoBib);
    let dynamic = tcp4((SERVER, 999), (POOL, 2000), SYN, b"");
    assert_eq!(gateway.put(Side::V4, &dynamic), Outcome::Held);
}

/// A configured port among the dynamic ones is given to nobody else, and only its own protocol's.
#[test]
fn a_configured_port_is_not_given_out() {
    let mut config = config();
    config.pool4[0].ports = 1024..=1087;
    config.subscriber.port_block_size = 64;
    config.static_bib = vec![entry(Protocol::Udp, INSIDE, 1030)];
    let mut gateway = Gateway::new(config);
    for protocol in [Protocol::Udp, Protocol::Icmp] {
        let mut ports = std::collections::BTreeSet::new();
        for n in 0..63 {
            let packet = match protocol {
                Protocol::Udp => udp6((HOST, 2000 + n), (embedded(SERVER), 53), b"x"),
                _ => ping6(HOST, embedded(SERVER), 2000 + n, b"x"),
            };
            ports.insert(judged(&gateway.v6(&packet)).2);
        }
        assert_eq!(ports.len(), 63);
        if protocol == Protocol::Udp {
            assert!(!ports.contains(&1030));
            let one_more = udp6((HOST, 2063), (embedded(SERVER), 53), b"x");
            let (kind, code, _) = gateway.rejects(Side::V6, &one_more, DropReason::PoolExhausted);
            assert_eq!((kind, code), (1, 1));
        } else {
            let one_more = ping6(HOST, embedded(SERVER), 2063, b"x");
            ports.insert(judged(&gateway.v6(&one_more)).2);
            assert!(ports.contains(&1030), "its identifiers are free");
        }
    }
    gateway.nat64.check_invariants();
}

/// A subscriber reaches its neighbour's service by the pool address (section 3.8).
#[test]
fn a_configured_service_is_reached_by_hairpin() {
    let mut gateway = gateway();
    let client = (crate::support::OTHER, 6000);
    let packet = tcp6(client, (embedded(POOL), OUTSIDE), SYN, b"");
    let out = gateway.put(Side::V6, &packet).sent(Side::V6);
    let (src, dst, _, port, _) = judged(&out);
    assert_eq!((src, dst), (IpAddr::V6(embedded(POOL)), IpAddr::V6(HOST)));
    assert_eq!(port, INSIDE);
    assert_eq!(gateway.count(counters::hairpinned(0)), 1);
}

/// Address-dependent filtering is for what clients open: whoever comes to a configured service
/// is as much a stranger as before.
#[test]
fn filtering_holds_for_them_too() {
    let mut config = config();
    config.filtering = gate64_dataplane::config::Filtering::AddressDependent;
    config.static_bib = vec![entry(Protocol::Udp, INSIDE, OUTSIDE)];
    let mut gateway = Gateway::new(config);
    let stranger = udp4((SERVER, 999), (POOL, OUTSIDE), b"unasked");
    let (kind, code, _) = gateway.rejects(Side::V4, &stranger, DropReason::Filtered);
    assert_eq!((kind, code), (3, 13));
    gateway.v6(&udp6((HOST, INSIDE), (embedded(SERVER), 1), b"known now"));
    assert_eq!(judged(&gateway.v4(&stranger)).3, INSIDE);
    let other = udp4((Ipv4Addr::new(198, 51, 100, 8), 999), (POOL, OUTSIDE), b"x");
    gateway.rejects(Side::V4, &other, DropReason::Filtered);
}
