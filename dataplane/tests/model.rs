//! The engine against a naive NAT64 of maps, on generated operations, time included.
//!
//! `GATE64_SEED` repeats a long run; its seed is printed.
#![allow(missing_docs)]

#[path = "model/blocks.rs"]
mod blocks;
#[path = "model/naive.rs"]
mod naive;
#[path = "model/state.rs"]
mod state;
#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use etherparse::PacketBuilder;
use gate64_dataplane::command::{Command, Filter};
use gate64_dataplane::config::{Filtering, Nat64Config, Pool4Prefix};
use gate64_dataplane::counters;
use gate64_dataplane::memory::hash::Rng;
use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};
use naive::{Answer, Naive, POOL_FIRST, PORTS};
use proptest::prelude::*;
use support::fragments::{cut_v4, cut_v6, gather_v4, gather_v6};
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
            ..Pool4Prefix::default()
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
            9..=12 => self.put_v4(draw),
            13 if draw[5].is_multiple_of(2) => self.put_error_v4(draw),
            13 => self.put_error_v6(draw),
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
        let v6 = some_client(draw[2]);
        let dst = (embedded(remote.ip), remote.port);
        let packet = packet6(protocol, (v6.ip, v6.port), dst, flags);
        let now = self.gateway.now;
        let got = self.send(Side::V6, &packet, draw);
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
        let packet = packet4(protocol, (src.ip, src.port), to, flags);
        let now = self.gateway.now;
        let got = self.send(Side::V4, &packet, draw);
        self.naive
            .check_v4(now, protocol, src, mapped, flags, got)
            .unwrap_or_else(|fault| {
                panic!(
                    "operation {}: {protocol} {flags:#x} {src:?} to {mapped:?}: {fault}",
                    self.count
                )
            });
    }

    /// Puts a packet through, one in four in two fragments.
    fn send(&mut self, side: Side, packet: &[u8], draw: Draw) -> Answer {
        if draw[5] >> 8 & 3 != 0 {
            return answer(self.gateway.put(side, packet));
        }
        let in_order = draw[5] >> 10 & 1 == 0;
        // Behind the longest header.
        let parts = match side {
            Side::V6 => cut_v6(packet, u32::try_from(self.count).unwrap(), &[24]),
            Side::V4 => cut_v4(packet, u16::try_from(self.count % 65536).unwrap(), &[24]),
        };
        let before = self.drops();
        let mut outcomes = [Outcome::Held, Outcome::Held];
        let mut left = Vec::new();
        for n in if in_order { [0, 1] } else { [1, 0] } {
            outcomes[n] = self.gateway.put(side, &parts[n]);
            left.extend(self.gateway.outgoing());
        }
        let [first, second] = outcomes;
        let is_held = first == Outcome::Held;
        let mut sent: Vec<_> = [first, second].into_iter().chain(left).collect();
        sent.retain(|one| matches!(one, Outcome::Sent(..)));
        match <[Outcome; 2]>::try_from(sent) {
            Ok([one, other]) => answer(gathered(one, other)),
            Err(mut sent) => match sent.pop() {
                Some(error) => answer(error),
                None => self.refused(&before, is_held),
            },
        }
    }

    fn drops(&mut self) -> Vec<(DropReason, u64)> {
        let reasons = DropReason::ALL.iter();
        reasons
            .map(|&reason| {
                let of = |gateway: &mut Gateway, side| gateway.drops(side, reason);
                let both = of(&mut self.gateway, Side::V6) + of(&mut self.gateway, Side::V4);
                (reason, both)
            })
            .collect()
    }

    /// Nothing left of two fragments: why, by the counters. A SYN that is held takes the rest
    /// of its packet with it.
    fn refused(&mut self, before: &[(DropReason, u64)], is_held: bool) -> Answer {
        let after = self.drops();
        let counted = before.iter().zip(&after).filter(|(was, is)| was != is);
        let mut reasons: Vec<_> = counted.map(|(_, is)| is.0).collect();
        reasons.retain(|&reason| reason != DropReason::FragmentUnmatched);
        match reasons[..] {
            [DropReason::TcpIncomingSyn] if is_held => Answer::Held,
            [reason] => Answer::Dropped(reason),
            _ => panic!("operation {}: dropped for {reasons:?}", self.count),
        }
    }

    /// An ICMPv4 error about a packet from the pool; nothing changes by it.
    fn put_error_v4(&mut self, draw: Draw) {
        let (protocol, mapped, peer) = match self.naive.some_session(draw[3]) {
            Some((protocol, _, mapped, peer)) if !draw[4].is_multiple_of(4) => {
                (protocol, mapped, peer)
            }
            _ => (protocol(draw[1]), self.some_mapped(draw), remote(draw[2])),
        };
        let from = (mapped.ip, mapped.port);
        let inner = packet4(protocol, from, (peer.ip, peer.port), 0x10);
        let mut error = Vec::new();
        PacketBuilder::ipv4(ROUTER4.octets(), mapped.ip.octets(), 64)
            .icmpv4_raw(3, 1, [0; 4])
            .write(&mut error, &inner)
            .expect("a packet");
        let expected = self.naive.error_v4(protocol, mapped, peer);
        let got = self.gateway.put(Side::V4, &error);
        self.judge_error(protocol, got, Side::V6, expected);
    }

    /// An ICMPv6 error of a client about a packet to it, which turns around if that did.
    fn put_error_v6(&mut self, draw: Draw) {
        let (protocol, client, peer) = match self.naive.some_session(draw[3]) {
            Some((protocol, client, _, peer)) if !draw[4].is_multiple_of(4) => {
                (protocol, client, peer)
            }
            _ => (protocol(draw[1]), some_client(draw[2]), remote(draw[3])),
        };
        let from = (embedded(peer.ip), peer.port);
        let inner = match protocol {
            Protocol::Icmp => ping6(from.0, client.ip, client.port, PAYLOAD),
            other => packet6(other, from, (client.ip, client.port), 0x10),
        };
        let mut error = Vec::new();
        PacketBuilder::ipv6(client.ip.octets(), from.0.octets(), 64)
            .icmpv6_raw(1, 3, [0; 4])
            .write(&mut error, &inner)
            .expect("a packet");
        let (side, expected) = self.naive.error_v6(protocol, client, peer);
        let got = self.gateway.put(Side::V6, &error);
        self.judge_error(protocol, got, side, expected);
    }

    /// The packet inside a translated error is as its sender sent it.
    fn judge_error(
        &self,
        protocol: Protocol,
        got: Outcome,
        to: Side,
        expected: Result<naive::Quoted, DropReason>,
    ) {
        let count = self.count;
        let (quoted, side) = match (got, expected) {
            (Outcome::Dropped(got), Err(expected)) if got == expected => return,
            (Outcome::Sent(side, bytes), Ok(expected)) => {
                let quoted = judged(&judged(&bytes).4);
                assert_eq!(
                    (quoted.0, quoted.1),
                    expected.addresses,
                    "operation {count}"
                );
                ((quoted.2, quoted.3, expected), side)
            }
            (got, expected) => panic!("operation {count}: {protocol} {expected:?}, got {got:?}"),
        };
        let (src_port, dst_port, expected) = quoted;
        assert_eq!((src_port, dst_port), expected.ports, "operation {count}");
        assert_eq!(side, to);
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

const PAYLOAD: &[u8] = &[0x5a; 40];
const ROUTER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

fn packet6(protocol: Protocol, src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), flags: u8) -> Vec<u8> {
    match protocol {
        Protocol::Udp => udp6(src, dst, PAYLOAD),
        Protocol::Tcp => tcp6(src, dst, flags, PAYLOAD),
        Protocol::Icmp => ping6(src.0, dst.0, src.1, PAYLOAD),
    }
}

/// An echo has the identifier of whichever end is the pool's.
fn packet4(protocol: Protocol, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: u8) -> Vec<u8> {
    let id = if naive::is_pool(src.0) { src.1 } else { dst.1 };
    match protocol {
        Protocol::Udp => udp4(src, dst, PAYLOAD),
        Protocol::Tcp => tcp4(src, dst, flags, PAYLOAD),
        Protocol::Icmp => ping4(src.0, dst.0, id, PAYLOAD),
    }
}

/// The packet that two fragments are of.
fn gathered(one: Outcome, other: Outcome) -> Outcome {
    let (Outcome::Sent(side, one), Outcome::Sent(to, other)) = (one, other) else {
        panic!("both were sent");
    };
    assert_eq!(side, to, "fragments of one packet leave on one side");
    let parts = [one, other];
    let whole = match side {
        Side::V6 => gather_v6(&parts),
        Side::V4 => gather_v4(&parts),
    };
    Outcome::Sent(side, whole)
}

fn protocol(draw: u16) -> Protocol {
    Protocol::ALL[usize::from(draw % 3)]
}

/// Four hosts of three subscribers, and two more subscribers.
fn host(draw: u16) -> Ipv6Addr {
    let n = draw % 6;
    Ipv6Addr::new(0x2001, 0xdb8, n.min(4), 0, 0, 0, 0, 0x10 + n)
}

fn some_client(draw: u16) -> TransportAddr6 {
    TransportAddr6 {
        ip: host(draw),
        port: 4000 + draw / 6 % 90,
    }
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
    for (id, least) in [
        (counters::fragments_received(0), 1000),
        (counters::fragments_received(1), 1000),
        (counters::icmp_errors_translated(0), 50),
        (counters::icmp_errors_translated(1), 50),
        (counters::hairpinned(0), 500),
    ] {
        let count = pair.gateway.count(id);
        assert!(count > least, "{id:?}: only {count}");
    }
}
