//! Section 3.1: the three BIBs, static entries, and what the log is told of them.

use std::collections::BTreeSet;
use std::time::Duration;

use gate64_dataplane::command::Event;
use gate64_dataplane::config::StaticBib;
use gate64_dataplane::counters;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};

use crate::support::packets::{judged, ping6, tcp6, udp4, udp6};
use crate::support::{Gateway, HOST, POOL, SERVER, config, embedded};

const SYN: u8 = 0x02;

#[test]
fn each_protocol_has_a_bib_of_its_own() {
    let mut small = config();
    small.pool4[0].ports = 1024..=1087;
    small.subscriber.port_block_size = 64;
    let mut gateway = Gateway::new(small);
    let to = (embedded(SERVER), 80);
    // Each protocol uses all 64 ports of the only block.
    for n in 0..64 {
        gateway.v6(&udp6((HOST, 2000 + n), to, b"x"));
        gateway.v6(&tcp6((HOST, 2000 + n), to, SYN, b""));
        gateway.v6(&ping6(HOST, to.0, 2000 + n, b"x"));
    }
    for protocol in Protocol::ALL {
        assert_eq!(gateway.count(counters::bib_entries(protocol.index())), 64);
    }
    assert_eq!(gateway.count(counters::port_blocks_used(0)), 1);
    gateway.nat64.check_invariants();
}

#[test]
fn a_static_entry_is_reached_from_ipv4_and_stays() {
    let mut config = config();
    // One outside of the dynamic ports and one inside.
    for port in [53, 2000] {
        config.static_bib.push(StaticBib {
            protocol: Protocol::Udp,
            v6: TransportAddr6 { ip: HOST, port },
            v4: TransportAddr4 { ip: POOL, port },
        });
    }
    let mut gateway = Gateway::new(config);
    for round in 0..2 {
        for port in [53, 2000] {
            let there = gateway.v4(&udp4((SERVER, 999), (POOL, port), b"question"));
            assert_eq!(judged(&there).3, port, "round {round}");
            let back = gateway.v6(&udp6((HOST, port), (embedded(SERVER), 999), b"answer"));
            assert_eq!(judged(&back).2, port);
        }
        gateway.advance(Duration::from_secs(301));
        assert_eq!(gateway.sessions(Protocol::Udp), 0);
        assert_eq!(gateway.count(counters::bib_entries(0)), 2);
    }
    gateway.nat64.check_invariants();
}

#[test]
fn blocks_are_logged_and_destinations_are_not() {
    let mut gateway = Gateway::new(config());
    let mut ports = BTreeSet::new();
    for n in 0..100 {
        let out = gateway.v6(&udp6((HOST, 2000 + n), (embedded(SERVER), 53), b"x"));
        ports.insert(judged(&out).2);
    }
    let Some(Event::BlockAllocated(block)) = gateway.nat64.take_event() else {
        panic!("the block is logged");
    };
    assert_eq!((block.v4, block.prefix_length), (POOL, 64));
    let in_block = block.port_first..block.port_first + block.port_count;
    assert!(ports.iter().all(|port| in_block.contains(port)));
    assert_eq!(gateway.nat64.take_event(), None, "and nothing else");
}
