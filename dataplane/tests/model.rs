//! The engine against a naive NAT64 of maps, on generated operations, time included.
//!
//! `GATE64_SEED` repeats a long run; its seed is printed.
#![allow(missing_docs)]

#[path = "model/naive.rs"]
mod naive;
#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use gate64_dataplane::command::{Command, Filter};
use gate64_dataplane::config::{Filtering, Nat64Config, Pool4Prefix};
use gate64_dataplane::counters;
use gate64_dataplane::memory::hash::Rng;
use gate64_dataplane::verdict::Side;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};
use naive::{Answer, Naive, POOL_FIRST, PORTS};
use proptest::prelude::*;
use support::packets::{judged, ping4, ping6, tcp4, tcp6, udp4, udp6};
use support::{Gateway, Outcome, embedded};

/// Sessions that the engine takes in all.
const SESSIONS_MAX: u64 = 300;

/// Six random numbers that make one operation: they shrink towards its simplest form.
type Draw = [u16; 6];

const FLAGS: [u8; 6] = [0x02, 0x10, 0x12, 0x11, 0x04, 0x14];
const WAITS_MS: [u64; 10] = [
    10, 250, 1000, 5999, 7000, 61_000, 119_000, 241_000, 301_000, 7_441_000,
];

fn config(filtering: Filtering) -> Nat64Config {
    let mut config = Nat64Config {
        filtering,
        icmp_error_rate_max: 1_000_000,
        pool4: vec![Pool4Prefix {
            address: POOL_FIRST,
            length: 31,
            ports: PORTS,
            exclude: vec![],
            shared_with_host: false,
        }],
        ..support::config()
    };
    config.subscriber.port_block_size = naive::BLOCK_SIZE;
    config.subscriber.port_blocks_max = naive::BLOCKS_MAX;
    config.subscriber.session_count_max = naive::SUBSCRIBER_SESSIONS_MAX;
    config.subscriber.block_idle = naive::BLOCK_IDLE;
    config
}

struct Pair {
    gateway: Gateway,
    naive: Naive,
    /// Operations so far.
    count: u64,
}

impl Pair {
    fn new(filtering: Filtering) -> Pair {
        Pair {
            gateway: Gateway::with_sessions(config(filtering), SESSIONS_MAX),
            naive: Naive::new(filtering, SESSIONS_MAX),
            count: 0,
        }
    }

    fn apply(&mut self, draw: Draw) {
        match draw[0] % 16 {
            0..=6 => self.put_v6(draw, remote(draw[3])),
            7..=8 => {
                let target = self.some_mapped(draw);
                self.put_v6(draw, target);
            }
            9..=13 => self.put_v4(draw),
            _ => self.wait(Duration::from_millis(
                WAITS_MS[usize::from(draw[1]) % WAITS_MS.len()] + u64::from(draw[2] % 100),
            )),
        }
        self.compare();
    }

    /// A pool transport address: mapped to somebody if there is one and the draw says so.
    fn some_mapped(&self, draw: Draw) -> TransportAddr4 {
        let known: Vec<_> = self.naive.bib.values().map(|entry| entry.v4).collect();
        if known.is_empty() || draw[4] % 8 == 7 {
            return TransportAddr4 {
                ip: Ipv4Addr::from(u32::from(POOL_FIRST) + u32::from(draw[3] % 2)),
                port: 1020 + draw[3] % 150,
            };
        }
        known[usize::from(draw[3]) % known.len()]
    }

    fn put_v6(&mut self, draw: Draw, remote: TransportAddr4) {
        let protocol = protocol(draw[1]);
        let flags = FLAGS[usize::from(draw[5]) % FLAGS.len()];
        let v6 = TransportAddr6 {
            ip: host(draw[2]),
            port: 4000 + draw[2] / 6 % 90,
        };
        let dst = (embedded(remote.ip), remote.port);
        let packet = match protocol {
            Protocol::Udp => udp6((v6.ip, v6.port), dst, b"from v6"),
            Protocol::Tcp => tcp6((v6.ip, v6.port), dst, flags, b"from v6"),
            Protocol::Icmp => ping6(v6.ip, dst.0, v6.port, b"from v6"),
        };
        let now = self.gateway.now;
        let got = answer(self.gateway.put(Side::V6, &packet));
        let learnt = self.mapping_of(protocol, v6);
        self.naive
            .check_v6(now, protocol, v6, remote, flags, got, learnt)
            .unwrap_or_else(|fault| {
                panic!(
                    "operation {}: {protocol} {flags:#x} {v6:?} to {remote:?}: {fault}",
                    self.count
                )
            });
    }

    fn mapping_of(&mut self, protocol: Protocol, v6: TransportAddr6) -> Option<TransportAddr4> {
        let (reply, page) = crossbeam::channel::bounded(1);
        let filter = Filter {
            protocol: Some(protocol),
            v6: Some((v6.ip, 128)),
            ..Filter::default()
        };
        let command = Command::Bib {
            filter,
            cursor: 0,
            limit: 1000,
            reply,
        };
        self.gateway.nat64.command(command, self.gateway.now);
        let rows = page.try_recv().expect("a page").rows;
        rows.iter().find(|row| row.v6 == v6).map(|row| row.v4)
    }

    fn put_v4(&mut self, draw: Draw) {
        let protocol = protocol(draw[1]);
        let flags = FLAGS[usize::from(draw[5]) % FLAGS.len()];
        let mapped = self.some_mapped(draw);
        let src = remote(draw[2]);
        let to = (mapped.ip, mapped.port);
        let packet = match protocol {
            Protocol::Udp => udp4((src.ip, src.port), to, b"from v4"),
            Protocol::Tcp => tcp4((src.ip, src.port), to, flags, b"from v4"),
            Protocol::Icmp => ping4(src.ip, mapped.ip, mapped.port, b"from v4"),
        };
        let now = self.gateway.now;
        let got = answer(self.gateway.put(Side::V4, &packet));
        self.naive
            .check_v4(now, protocol, src, mapped, flags, got)
            .unwrap_or_else(|fault| {
                panic!(
                    "operation {}: {protocol} {flags:#x} {src:?} to {mapped:?}: {fault}",
                    self.count
                )
            });
    }

    fn wait(&mut self, by: Duration) {
        self.gateway.advance(by);
        let sent = self.naive.expire(self.gateway.now);
        assert_eq!(
            self.gateway.outgoing().len(),
            sent,
            "port unreachable for held SYNs, and probes"
        );
    }

    fn compare(&mut self) {
        self.count += 1;
        for protocol in Protocol::ALL {
            assert_eq!(
                self.gateway.sessions(protocol),
                self.naive.session_count(protocol),
                "{protocol} sessions after operation {}",
                self.count
            );
            assert_eq!(
                self.gateway.count(counters::bib_entries(protocol.index())),
                self.naive.bib_count(protocol),
                "{protocol} BIB entries after operation {}",
                self.count
            );
        }
        assert_eq!(
            self.gateway.count(counters::port_blocks_used(0)),
            self.naive.blocks.len() as u64,
            "blocks after operation {}",
            self.count
        );
        assert_eq!(
            self.gateway.count(counters::subscribers(0)),
            self.naive.subscriber_count()
        );
        assert_eq!(
            self.gateway.count(counters::syn_held(0)),
            self.naive.held.len() as u64
        );
        self.gateway.nat64.check_invariants();
        if self.count.is_multiple_of(64) {
            self.compare_listing();
        }
    }

    /// The listing of sessions shows what the model has, state by state.
    fn compare_listing(&mut self) {
        let (reply, page) = crossbeam::channel::bounded(8);
        let (mut rows, mut cursor) = (Vec::new(), Some(0));
        while let Some(from) = cursor {
            let command = Command::Sessions {
                filter: Filter::default(),
                cursor: from,
                limit: 50,
                reply: reply.clone(),
            };
            self.gateway.nat64.command(command, self.gateway.now);
            let page = page.try_recv().expect("a page");
            rows.extend(page.rows);
            cursor = page.next;
        }
        let mut shown: Vec<_> = rows
            .iter()
            .map(|row| (row.protocol, row.v6, row.v4, row.v4_remote, row.state))
            .collect();
        shown.sort_unstable();
        assert_eq!(shown, self.naive.listing());
    }
}

fn protocol(draw: u16) -> Protocol {
    Protocol::ALL[usize::from(draw % 3)]
}

/// Four hosts of three subscribers, and two more subscribers.
fn host(draw: u16) -> Ipv6Addr {
    let n = draw % 6;
    Ipv6Addr::new(0x2001, 0xdb8, n.min(4), 0, 0, 0, 0, 0x10 + n)
}

fn remote(draw: u16) -> TransportAddr4 {
    let [low, high] = draw.to_be_bytes();
    TransportAddr4 {
        ip: Ipv4Addr::new(198, 51, 100, 1 + low % 4),
        port: 50 + u16::from(high % 4),
    }
}

fn answer(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Dropped(reason) => Answer::Dropped(reason),
        Outcome::Held => Answer::Held,
        Outcome::HandedOff(..) => panic!("there is one worker"),
        Outcome::Sent(side, bytes) => {
            let is_error = match side {
                Side::V6 => bytes[6] == 58 && bytes[40] < 128,
                Side::V4 => bytes[9] == 1 && bytes[20] != 0 && bytes[20] != 8,
            };
            if is_error {
                return Answer::Error(side);
            }
            let (src, dst, src_port, dst_port, _) = judged(&bytes);
            match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => Answer::ToV4(
                    TransportAddr4 {
                        ip: src,
                        port: src_port,
                    },
                    TransportAddr4 {
                        ip: dst,
                        port: dst_port,
                    },
                ),
                (IpAddr::V6(src), IpAddr::V6(dst)) => Answer::ToV6(
                    TransportAddr6 {
                        ip: src,
                        port: src_port,
                    },
                    TransportAddr6 {
                        ip: dst,
                        port: dst_port,
                    },
                ),
                other => panic!("two families: {other:?}"),
            }
        }
    }
}

fn filterings() -> impl Strategy<Value = Filtering> {
    prop_oneof![
        Just(Filtering::EndpointIndependent),
        Just(Filtering::AddressDependent)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn engine_agrees_with_the_naive_one(
        filtering in filterings(),
        draws in prop::collection::vec(any::<Draw>(), 1..200),
    ) {
        let mut pair = Pair::new(filtering);
        for draw in draws {
            pair.apply(draw);
        }
    }
}

#[test]
fn long_run_of_endpoint_independent_filtering() {
    long_run(Filtering::EndpointIndependent, 20_000);
}

#[test]
fn long_run_of_address_dependent_filtering() {
    long_run(Filtering::AddressDependent, 20_000);
}

fn long_run(filtering: Filtering, operations: u32) {
    let seed = std::env::var("GATE64_SEED").map_or_else(
        |_| gate64_dataplane::memory::HashKey::random().words(1, 2, 3),
        |seed| seed.parse().expect("GATE64_SEED is a number"),
    );
    println!("GATE64_SEED={seed} {filtering:?}");
    let mut rng = Rng::new(seed);
    let mut pair = Pair::new(filtering);
    for n in 0..operations {
        let mut draw: Draw = std::array::from_fn(|_| u16::try_from(rng.below(1 << 16)).unwrap());
        // Phases of mostly traffic fill the table and the pool; others let it run out.
        if draw[0] % 16 > 13 && n / 1000 % 2 == 0 && rng.below(20) != 0 {
            draw[0] = 0;
        }
        // One protocol alone uses up ports before sessions.
        if n / 2000 % 2 == 1 {
            draw[1] = 0;
        }
        pair.apply(draw);
    }
    // In the end nothing is left.
    for _ in 0..4 {
        pair.wait(Duration::from_secs(7441));
        pair.compare();
    }
    assert_eq!(pair.naive.blocks.len(), 0);
    assert_eq!(pair.gateway.count(counters::subscribers(0)), 0);
    assert!(pair.naive.refused_for_ports > 0, "the pool was never full");
}
