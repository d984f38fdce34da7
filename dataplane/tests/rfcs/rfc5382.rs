//! RFC 5382, NAT behavioural requirements for TCP.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use gate64_dataplane::config::StaticBib;
use gate64_dataplane::counters;
use gate64_dataplane::verdict::Side;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};

use crate::support::packets::{judged, tcp4, tcp6};
use crate::support::{Gateway, HOST, OTHER, POOL, SERVER, config, embedded};
use crate::{ACK, SYN, error4};

/// A connection that the host opened; its pool port.
fn established() -> (Gateway, u16) {
    let mut gateway = Gateway::new(config());
    let open = tcp6((HOST, 4000), (embedded(SERVER), 80), SYN, b"");
    let port = judged(&gateway.v6(&open)).2;
    gateway.v4(&tcp4((SERVER, 80), (POOL, port), SYN | ACK, b""));
    gateway.v6(&tcp6((HOST, 4000), (embedded(SERVER), 80), ACK, b""));
    (gateway, port)
}

#[test]
fn req_1_one_mapping_for_every_destination() {
    let mut gateway = Gateway::new(config());
    let ports: BTreeSet<_> = (1..=50u8)
        .map(|n| {
            let to = embedded(Ipv4Addr::new(198, 51, 100, n));
            judged(&gateway.v6(&tcp6((HOST, 4000), (to, 80), SYN, b""))).2
        })
        .collect();
    assert_eq!(ports.len(), 1);
    assert_eq!(
        gateway.count(counters::bib_entries(Protocol::Tcp.index())),
        1
    );
}

#[test]
fn req_2_a_handshake_from_outside_reaches_a_static_entry() {
    let mut config = config();
    config.static_bib.push(StaticBib {
        protocol: Protocol::Tcp,
        v6: TransportAddr6 { ip: HOST, port: 80 },
        v4: TransportAddr4 { ip: POOL, port: 80 },
    });
    let mut gateway = Gateway::new(config);
    let (peer, server) = ((SERVER, 40000), (POOL, 80));
    judged(&gateway.v4(&tcp4(peer, server, SYN, b"")));
    let answer = tcp6((HOST, 80), (embedded(SERVER), 40000), SYN | ACK, b"");
    let out = judged(&gateway.v6(&answer));
    assert_eq!((out.2, out.3), (80, 40000));
    judged(&gateway.v4(&tcp4(peer, server, ACK, b"GET /")));
    // Established: it lives for two hours and four minutes.
    gateway.advance(Duration::from_secs(7440));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
}

#[test]
fn req_5_a_connection_that_does_not_open_has_four_minutes() {
    let mut gateway = Gateway::new(config());
    gateway.v6(&tcp6((HOST, 4000), (embedded(SERVER), 80), SYN, b""));
    gateway.advance(Duration::from_secs(240));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    gateway.advance(Duration::from_secs(1));
    assert_eq!(gateway.sessions(Protocol::Tcp), 0);
}

#[test]
fn req_8_a_connection_between_two_clients_through_the_pool() {
    let mut gateway = Gateway::new(config());
    let open = tcp6((OTHER, 8080), (embedded(SERVER), 1), SYN, b"");
    let target = judged(&gateway.v6(&open)).2;
    let across = |gateway: &mut Gateway, packet: &[u8]| {
        judged(&gateway.put(Side::V6, packet).sent(Side::V6))
    };
    let syn = tcp6((HOST, 4000), (embedded(POOL), target), SYN, b"");
    let (_, _, own, dst_port, _) = across(&mut gateway, &syn);
    assert_eq!(dst_port, 8080);
    let answer = tcp6((OTHER, 8080), (embedded(POOL), own), SYN | ACK, b"");
    let (_, _, src_port, dst_port, _) = across(&mut gateway, &answer);
    assert_eq!((src_port, dst_port), (target, 4000));
    let ack = tcp6((HOST, 4000), (embedded(POOL), target), ACK, b"data");
    assert_eq!(across(&mut gateway, &ack).4, b"data");
    // Both halves of it are established.
    gateway.advance(Duration::from_secs(7440));
    assert_eq!(gateway.sessions(Protocol::Tcp), 2);
}

#[test]
fn req_9_and_10_unreachable_is_translated_and_ends_nothing() {
    let (mut gateway, port) = established();
    let sent = gateway.v6(&tcp6((HOST, 4000), (embedded(SERVER), 80), ACK, b"data"));
    for code in [0, 1, 2, 3, 4, 13] {
        let error = gateway.v4(&error4(3, code, [0, 0, 5, 0], &sent));
        let (_, _, _, _, quoted) = judged(&error);
        let (_, _, src_port, dst_port, _) = judged(&quoted);
        assert_eq!((src_port, dst_port), (4000, 80));
    }
    gateway.v4(&tcp4((SERVER, 80), (POOL, port), ACK, b"still there"));
    gateway.advance(Duration::from_secs(7440));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
}
