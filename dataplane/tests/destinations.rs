//! Destinations that are bypassed or denied (RFC 6888 REQ-6): whatever the packet is, whole or in
//! fragments, and whatever was there before the lists.
#![allow(missing_docs)]

#[path = "support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use gate64_dataplane::command::Command;
use gate64_dataplane::config::{Nat64Config, Prefix4};
use gate64_dataplane::counters;
use gate64_dataplane::memory::HashKey;
use gate64_dataplane::nat64::plan::{Settings, Shared};
use gate64_dataplane::nat64::pool4::PoolMap;
use gate64_dataplane::verdict::{DropReason, Side, WorkerId};
use support::fragments::{cut_v6, gather_v4};
use support::packets::{error6, judged, ping6, tcp6, udp6};
use support::{Gateway, HOST, OTHER, Outcome, SERVER, config, embedded};

/// A server in both lists' reach.
const LISTED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 200);

#[derive(Clone, Copy)]
enum List {
    Bypass,
    Deny,
}

fn listed(list: List) -> Nat64Config {
    let prefixes = vec![Prefix4::new(LISTED, 32)];
    match list {
        List::Bypass => Nat64Config {
            bypass: prefixes,
            ..config()
        },
        List::Deny => Nat64Config {
            deny: prefixes,
            ..config()
        },
    }
}

/// A gateway without lists, and what a reload needs.
fn before_the_lists() -> (Gateway, Arc<PoolMap>) {
    let settings = Settings {
        key: HashKey::seeded(1),
        seed: 1,
        ..Settings::new(1, 100)
    };
    let shared = Shared::new(Arc::new(config()), settings);
    let pool = Arc::clone(&shared.pool);
    (Gateway::of_worker(&shared, WorkerId(0)), pool)
}

fn reload(gateway: &mut Gateway, pool: &Arc<PoolMap>, config: Nat64Config) {
    let command = Command::Reconfigure {
        config: Arc::new(config),
        pool: Arc::clone(pool),
    };
    gateway.nat64.command(command, gateway.now);
}

/// The packet leaves as it came, but for its hop limit.
#[track_caller]
fn passes_as_it_is(gateway: &mut Gateway, packet: &[u8]) {
    let before = gateway.count(counters::packets_bypassed(0));
    let passed = gateway.put(Side::V6, packet).sent(Side::V6);
    assert_eq!(passed[7], packet[7] - 1, "hop limit");
    assert_eq!(passed[..7], packet[..7]);
    assert_eq!(passed[8..], packet[8..]);
    assert_eq!(gateway.count(counters::packets_bypassed(0)), before + 1);
    assert_eq!(gateway.outgoing(), []);
}

/// An IPv6 packet of any protocol.
fn raw6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
    let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
    bytes[4..6].copy_from_slice(&len);
    bytes.extend_from_slice(&HOST.octets());
    bytes.extend_from_slice(&embedded(LISTED).octets());
    bytes.extend_from_slice(payload);
    bytes
}

fn answer_code(outcome: Outcome) -> [u8; 2] {
    let answer = outcome.sent(Side::V6);
    [answer[40], answer[41]]
}

#[test]
fn a_bypassed_packet_has_a_source_that_a_host_can_have() {
    let mut gateway = Gateway::new(listed(List::Bypass));
    let to = (embedded(LISTED), 9);
    let near: [Ipv6Addr; 4] = ["::", "::1", "fe80::1", "ff02::1"].map(|ip| ip.parse().unwrap());
    for src in near {
        let packet = udp6((src, 1000), to, b"x");
        gateway.refuses(Side::V6, &packet, DropReason::SourceMartian);
    }
    let loops = udp6((embedded(SERVER), 1000), to, b"x");
    gateway.refuses(Side::V6, &loops, DropReason::SourceInPref64);
    passes_as_it_is(&mut gateway, &udp6((HOST, 1000), to, b"x"));
}

#[test]
fn a_bypassed_packet_may_be_one_that_is_never_translated() {
    let mut gateway = Gateway::new(listed(List::Bypass));
    let (gre, esp, sctp) = (47, 50, 132);
    for protocol in [gre, esp, sctp] {
        passes_as_it_is(&mut gateway, &raw6(protocol, &[7; 40]));
    }
    let information_query = error6((HOST, embedded(LISTED)), (139, 0), [0; 4], &[0; 8]);
    passes_as_it_is(&mut gateway, &information_query);
    // A routing header with a segment left, and UDP behind it.
    let mut routed = vec![17, 2, 0, 1];
    routed.resize(24, 0);
    routed.extend_from_slice(&udp6((HOST, 1), (embedded(LISTED), 9), b"x")[40..]);
    passes_as_it_is(&mut gateway, &raw6(43, &routed));
    let error = error6((HOST, embedded(LISTED)), (1, 4), [0; 4], &[0x60; 80]);
    passes_as_it_is(&mut gateway, &error);
    // In fragments as well, the first and the others.
    for whole in [raw6(gre, &[7; 64]), error] {
        for part in cut_v6(&whole, 5, &[24]) {
            passes_as_it_is(&mut gateway, &part);
        }
    }
    // What cannot be forwarded is refused all the same.
    let mut late = raw6(gre, &[7; 40]);
    late[7] = 1;
    assert_eq!(answer_code(gateway.put(Side::V6, &late)), [3, 0]);
}

#[test]
fn what_is_never_translated_is_refused_to_other_destinations() {
    let mut gateway = Gateway::new(listed(List::Deny));
    let (code, ..) = gateway.rejects(Side::V6, &raw6(47, &[7; 40]), DropReason::UnknownProtocol);
    assert_eq!(code, 1);
}

#[test]
fn fragments_are_bypassed_one_by_one() {
    let mut gateway = Gateway::new(listed(List::Bypass));
    let to = (embedded(LISTED), 9);
    let echo = ping6(HOST, to.0, 7, &[7; 64]);
    for whole in [udp6((HOST, 1000), to, &[7; 64]), echo] {
        for order in [[0, 1], [1, 0]] {
            let parts = cut_v6(&whole, 5, &[24]);
            for part in order {
                passes_as_it_is(&mut gateway, &parts[part]);
            }
        }
    }
    gateway.nat64.check_invariants();
}

/// Fragments of a session that was there before the lists pass as its whole packets do.
#[test]
fn a_session_is_not_judged_again_whole_or_in_fragments() {
    for list in [List::Deny, List::Bypass] {
        let (mut gateway, pool) = before_the_lists();
        let to = (embedded(LISTED), 9);
        let whole = udp6((HOST, 1000), to, &[7; 64]);
        let port = judged(&gateway.v6(&whole)).2;
        let echo = ping6(HOST, to.0, 7, &[7; 64]);
        gateway.v6(&echo);
        reload(&mut gateway, &pool, listed(list));
        assert_eq!(judged(&gateway.v6(&whole)).2, port);
        let parts = cut_v6(&whole, 5, &[24]);
        let sent: Vec<_> = parts.iter().map(|part| gateway.v6(part)).collect();
        assert_eq!(judged(&gather_v4(&sent)).2, port);
        let parts = cut_v6(&echo, 6, &[24]);
        assert_eq!(gateway.put(Side::V6, &parts[0]), Outcome::Held);
        assert_eq!(gateway.put(Side::V6, &parts[1]), Outcome::Held);
        assert_eq!(gateway.outgoing().len(), 2, "both, translated");
        assert_eq!(gateway.count(counters::packets_bypassed(0)), 0);
    }
}

#[test]
fn a_denied_packet_in_fragments_is_answered_once() {
    let mut gateway = Gateway::new(listed(List::Deny));
    let to = (embedded(LISTED), 9);
    let whole = tcp6((HOST, 1000), to, 2, &[7; 64]);
    assert_eq!(answer_code(gateway.put(Side::V6, &whole)), [1, 1]);
    for (id, order) in [(5, [0, 1]), (6, [1, 0])] {
        let parts = cut_v6(&whole, id, &[32]);
        let mut answers = 0;
        for part in order {
            if let Outcome::Sent(side, answer) = gateway.put(Side::V6, &parts[part]) {
                assert_eq!((side, &answer[40..42]), (Side::V6, &[1, 1][..]));
                answers += 1;
            }
        }
        assert_eq!((answers, gateway.outgoing()), (1, vec![]));
    }
    assert_eq!(gateway.drops(Side::V6, DropReason::DestinationDenied), 5);
    gateway.v6(&tcp6((OTHER, 1000), (embedded(SERVER), 9), 2, b""));
    gateway.nat64.check_invariants();
}
