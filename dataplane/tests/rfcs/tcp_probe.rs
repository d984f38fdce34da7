//! RFC 6146 section 3.5.2.2: the probe when TCP_EST has run out.

use std::net::IpAddr;
use std::time::Duration;

use gate64_dataplane::config::{Lifetimes, UnknownProtocol};
use gate64_dataplane::counters;
use gate64_dataplane::route::RouteSnapshot;
use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::Protocol;

use crate::support::packets::{judged, tcp4, tcp6, udp6};
use crate::support::{Gateway, HOST, Outcome, POOL, SERVER, config, embedded};
use crate::{ACK, RST, SYN};

/// A gateway with an established connection, whose TCP_EST has just run out; the pool's port.
fn run_out(config: gate64_dataplane::config::Nat64Config) -> (Gateway, u16) {
    let mut gateway = Gateway::new(config);
    let open = tcp6((HOST, 4000), (embedded(SERVER), 80), SYN, b"");
    let port = judged(&gateway.v6(&open)).2;
    gateway.v4(&tcp4((SERVER, 80), (POOL, port), SYN | ACK, b""));
    gateway.advance(Duration::from_secs(7440));
    assert_eq!(gateway.outgoing(), [], "not before");
    gateway.advance(Duration::from_millis(500));
    (gateway, port)
}

#[test]
fn rfc6146_section_3_5_2_2_the_host_is_asked() {
    let (mut gateway, _) = run_out(config());
    let mut sent = gateway.outgoing();
    assert_eq!(sent.len(), 1);
    let probe = sent.remove(0).sent(Side::V6);
    let (src, dst, src_port, dst_port, payload) = judged(&probe);
    assert_eq!((src, dst), (IpAddr::V6(embedded(SERVER)), IpAddr::V6(HOST)));
    assert_eq!((src_port, dst_port), (80, 4000));
    assert_eq!(payload, b"");
    let header = &probe[40..];
    assert_eq!(header[4..12], [0; 8], "sequence and acknowledgment number");
    assert_eq!((header[12], header[13]), (0x50, ACK));
    assert_eq!(gateway.count(counters::tcp_probes(0)), 1);
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    // Nobody answers: the session goes after TCP_TRANS, without another probe.
    gateway.advance(Duration::from_secs(241));
    assert_eq!(gateway.sessions(Protocol::Tcp), 0);
    assert_eq!(gateway.outgoing(), []);
}

#[test]
fn rfc6146_section_3_5_2_2_its_answer_keeps_the_session_and_a_reset_does_not() {
    for (answer, sessions) in [(ACK, 1), (RST, 0)] {
        let (mut gateway, _) = run_out(config());
        gateway.v6(&tcp6((HOST, 4000), (embedded(SERVER), 80), answer, b""));
        gateway.advance(Duration::from_secs(300));
        assert_eq!(gateway.sessions(Protocol::Tcp), sessions);
    }
}

#[test]
fn without_a_route_none_is_sent() {
    let mut gateway = Gateway::new(config());
    let open = tcp6((HOST, 4000), (embedded(SERVER), 80), SYN, b"");
    let port = judged(&gateway.v6(&open)).2;
    gateway.v4(&tcp4((SERVER, 80), (POOL, port), SYN | ACK, b""));
    gateway.routes = RouteSnapshot::builder().build(9);
    gateway.advance(Duration::from_secs(7441));
    assert_eq!(gateway.outgoing(), []);
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    gateway.advance(Duration::from_secs(241));
    assert_eq!(gateway.sessions(Protocol::Tcp), 0);
}

fn lifetimes() -> Lifetimes {
    Lifetimes {
        tcp_opening: Duration::from_secs(30),
        tcp_closing: Duration::from_secs(60),
        ..Lifetimes::default()
    }
}

#[test]
fn rfc7857_section_2_1_opening_and_closing_have_lifetimes_of_their_own() {
    let mut config = config();
    config.lifetimes = lifetimes();
    let mut gateway = Gateway::new(config);
    let (host, server) = ((HOST, 4000), (embedded(SERVER), 80));
    let port = judged(&gateway.v6(&tcp6(host, server, SYN, b""))).2;
    gateway.advance(Duration::from_secs(30));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    // Established: opening no longer counts.
    gateway.v4(&tcp4((SERVER, 80), (POOL, port), SYN | ACK, b""));
    gateway.advance(Duration::from_secs(3000));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    gateway.v6(&tcp6(host, server, ACK | 1, b""));
    gateway.v4(&tcp4((SERVER, 80), (POOL, port), ACK | 1, b""));
    gateway.advance(Duration::from_secs(60));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    gateway.advance(Duration::from_secs(1));
    assert_eq!(gateway.sessions(Protocol::Tcp), 0);
    // One that never opens, and one that is reset.
    let port = judged(&gateway.v6(&tcp6(host, server, SYN, b""))).2;
    gateway.advance(Duration::from_secs(31));
    assert_eq!(gateway.sessions(Protocol::Tcp), 0);
    let again = judged(&gateway.v6(&tcp6(host, server, SYN, b""))).2;
    assert_ne!(port, again, "RFC 6888 REQ-8");
    gateway.v4(&tcp4((SERVER, 80), (POOL, again), SYN | ACK, b""));
    gateway.v4(&tcp4((SERVER, 80), (POOL, again), RST, b""));
    gateway.advance(Duration::from_secs(240));
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
}

#[test]
fn rfc6146_section_3_4_other_protocols_are_dropped_where_policy_says_so() {
    let mut config = config();
    config.unknown_protocol = UnknownProtocol::Drop;
    let mut gateway = Gateway::new(config);
    let mut packet = udp6((HOST, 5000), (embedded(SERVER), 53), b"x");
    packet[6] = 132;
    let refused = gateway.put(Side::V6, &packet);
    assert_eq!(refused, Outcome::Dropped(DropReason::UnknownProtocol));
    assert_eq!(gateway.count(counters::icmp_errors_generated(0)), 0);
}

#[test]
fn checksums_left_to_offload_are_counted() {
    let mut gateway = Gateway::new(config());
    let whole = udp6((HOST, 5000), (embedded(SERVER), 53), b"payload");
    gateway.v6(&whole);
    assert_eq!(gateway.count(counters::checksums_left_to_offload(0)), 0);
    // What the kernel leaves there: the pseudo-header's sum, not complemented.
    let mut left = udp6((HOST, 5002), (embedded(SERVER), 53), b"payload");
    let len = u16::try_from(left.len() - 40).unwrap();
    let words = left[8..40]
        .chunks_exact(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum::<u32>() + u32::from(len) + 17;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    left[46..48].copy_from_slice(&u16::try_from(sum).unwrap().to_be_bytes());
    gateway.v6(&left);
    gateway.v6(&left);
    assert_eq!(
        gateway.count(counters::checksums_left_to_offload(0)),
        1,
        "where the session was made"
    );
    let mut wrong = udp6((HOST, 5004), (embedded(SERVER), 53), b"payload");
    wrong[46] ^= 1;
    gateway.v6(&wrong);
    assert_eq!(gateway.count(counters::checksums_left_to_offload(0)), 1);
}
