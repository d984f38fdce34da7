//! The lane of established sessions does what the long way does.
//!
//! A packet with an empty destination options header (IPv6) or with options that do nothing (IPv4)
//! is translated into the very same packet as without, but is not plain and so never takes the
//! lane. Two gateways with the same history get the same packets, one plain, one so disguised.

mod support;

use std::net::Ipv4Addr;
use std::time::Duration;

use gate64_dataplane::config::Nat64Config;
use gate64_dataplane::counters;
use gate64_dataplane::verdict::Side;
use gate64_wire::addr::Protocol;
use gate64_wire::checksum::Sum;
use gate64_wire::rfc6052::Pref64;
use proptest::prelude::*;

use support::packets::{judged, tcp4, tcp6, udp4, udp6};
use support::*;

const PEERS: [Ipv4Addr; 2] = [SERVER, Ipv4Addr::new(198, 51, 100, 8)];
const PREFIXES: [&str; 3] = ["64:ff9b::/96", "2001:db8:122::/48", "2001:db8:64::/96"];

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// One packet of the connection.
#[derive(Debug, Clone)]
struct Step {
    side: Side,
    payload: usize,
    traffic_class: u8,
    hops: u8,
    dont_fragment: bool,
    tcp_flags: u8,
    /// Added to the layer 4 checksum: a bad one has to stay as bad. `None`: the field is zero.
    damage: Option<u16>,
    /// Which peer: the mapping's first session is with the first one.
    peer: usize,
    /// By which prefix the host reaches its peer; answers come from the one used last.
    prefix: usize,
    /// Octets behind the packet.
    padding: usize,
    pause: Duration,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let payload = prop_oneof![4 => 0usize..1200, 1 => 1200usize..1500];
    let hops = prop_oneof![6 => 2u8..=255, 1 => 0u8..=2];
    let flags = prop_oneof![6 => Just(ACK), 1 => Just(FIN | ACK), 1 => Just(RST), 1 => Just(SYN)];
    let damage = prop_oneof![6 => Just(Some(0)), 1 => any::<u16>().prop_map(Some), 1 => Just(None)];
    let pause = prop_oneof![8 => 0u64..20, 1 => 200u64..400].prop_map(Duration::from_secs);
    let side = prop_oneof![Just(Side::V6), Just(Side::V4)];
    let peer = prop_oneof![3 => Just(0usize), 1 => Just(1)];
    let prefix = prop_oneof![6 => Just(0usize), 1 => Just(1), 1 => Just(2)];
    let padding = prop_oneof![3 => Just(0usize), 1 => 1usize..30];
    let ip = (payload, any::<u8>(), hops, any::<bool>());
    let step = (side, ip, flags, damage, pause, (peer, prefix, padding)).prop_map(
        |(side, ip, tcp_flags, damage, pause, (peer, prefix, padding))| {
            let (payload, traffic_class, hops, dont_fragment) = ip;
            Step {
                side,
                payload,
                traffic_class,
                hops,
                dont_fragment,
                tcp_flags,
                damage,
                peer,
                prefix,
                padding,
                pause,
            }
        },
    );
    prop::collection::vec(step, 1..12)
}

impl Step {
    fn packet(&self, protocol: Protocol, mapped: u16) -> Vec<u8> {
        let payload = vec![0x5a; self.payload];
        let (host, peer) = ((HOST, 5000), (PEERS[self.peer], 53));
        let embedded = (prefixes()[self.prefix].embed(peer.0), 53);
        let mut bytes = match (self.side, protocol) {
            (Side::V6, Protocol::Tcp) => tcp6(host, embedded, self.tcp_flags, &payload),
            (Side::V6, _) => udp6(host, embedded, &payload),
            (Side::V4, Protocol::Tcp) => tcp4(peer, (POOL, mapped), self.tcp_flags, &payload),
            (Side::V4, _) => udp4(peer, (POOL, mapped), &payload),
        };
        let header = match self.side {
            Side::V6 => {
                bytes[0] = 0x60 | self.traffic_class >> 4;
                bytes[1] = self.traffic_class << 4;
                bytes[7] = self.hops;
                40
            }
            Side::V4 => {
                bytes[1] = self.traffic_class;
                bytes[6] = u8::from(self.dont_fragment) << 6;
                bytes[8] = self.hops;
                fill_checksum(&mut bytes, 20);
                20
            }
        };
        let at = header + if protocol == Protocol::Tcp { 16 } else { 6 };
        let good = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let checksum = self.damage.map_or(0, |damage| good.wrapping_add(damage));
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

fn fill_checksum(bytes: &mut [u8], header: usize) {
    bytes[10..12].fill(0);
    let checksum = Sum::ZERO.bytes(&bytes[..header]).checksum();
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// The same packet, not plain.
fn disguised(side: Side, plain: &[u8]) -> Vec<u8> {
    let mut bytes = plain.to_vec();
    match side {
        Side::V6 => {
            let options = [bytes[6], 0, 1, 4, 0, 0, 0, 0];
            bytes.splice(40..40, options);
            bytes[6] = 60;
            let len = u16::try_from(bytes.len() - 40).unwrap();
            bytes[4..6].copy_from_slice(&len.to_be_bytes());
        }
        Side::V4 => {
            bytes.splice(20..20, [1, 1, 1, 0]);
            bytes[0] = 0x46;
            let len = u16::try_from(bytes.len()).unwrap();
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            fill_checksum(&mut bytes, 24);
        }
    }
    bytes
}

/// What left, without what may differ: the identification and the header checksum over it, and
/// what an ICMP error quotes.
fn comparable(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Sent(side, mut bytes) => {
            let (is_v4, protocol, header) = match bytes[0] >> 4 {
                4 => (true, bytes[9], 20),
                _ => (false, bytes[6], 40),
            };
            if is_v4 {
                bytes[4..6].fill(0);
                bytes[10..12].fill(0);
            }
            if matches!(protocol, 1 | 58) {
                bytes.truncate(header + 2);
                bytes[if is_v4 { 2..4 } else { 4..6 }].fill(0);
            }
            Outcome::Sent(side, bytes)
        }
        other => other,
    }
}

/// A gateway with a connection to each peer, and the port that both are mapped to.
fn connected(protocol: Protocol) -> (Gateway, u16) {
    let mut gateway = Gateway::new(Nat64Config {
        pref64: prefixes(),
        ..config()
    });
    let mut mapped = 0;
    for peer in PEERS {
        match protocol {
            Protocol::Tcp => {
                let syn = tcp6((HOST, 5000), (embedded(peer), 53), SYN, &[]);
                mapped = judged(&gateway.v6(&syn)).2;
                gateway.v4(&tcp4((peer, 53), (POOL, mapped), SYN | ACK, &[]));
            }
            _ => {
                let first = udp6((HOST, 5000), (embedded(peer), 53), b"first");
                mapped = judged(&gateway.v6(&first)).2;
            }
        }
    }
    (gateway, mapped)
}

fn prefixes() -> Vec<Pref64> {
    let parsed = PREFIXES.iter().map(|prefix| prefix.parse());
    parsed.collect::<Result<_, _>>().unwrap()
}

proptest! {
    #[test]
    fn the_lane_and_the_long_way_agree(tcp in any::<bool>(), steps in steps()) {
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let (mut plain, mapped) = connected(protocol);
        let (mut long, same) = connected(protocol);
        prop_assert_eq!(mapped, same);
        for step in steps {
            plain.advance(step.pause);
            long.advance(step.pause);
            let mut bytes = step.packet(protocol, mapped);
            let mut other = disguised(step.side, &bytes);
            bytes.resize(bytes.len() + step.padding, 0xee);
            other.resize(other.len() + step.padding, 0xee);
            let by_lane = comparable(plain.put(step.side, &bytes));
            let by_long_way = comparable(long.put(step.side, &other));
            prop_assert_eq!(by_lane, by_long_way);
            prop_assert_eq!(plain.sessions(protocol), long.sessions(protocol));
            let forwarded = counters::packets_forwarded(step.side.index());
            prop_assert_eq!(plain.count(forwarded), long.count(forwarded));
        }
    }
}

#[test]
fn a_plain_packet_is_counted_once() {
    let (mut gateway, mapped) = connected(Protocol::Udp);
    let packet = udp4((SERVER, 53), (POOL, mapped), b"answer");
    gateway.v4(&packet);
    gateway.v4(&packet);
    assert_eq!(gateway.count(counters::packets_forwarded(1)), 2);
    let octets = u64::try_from(packet.len()).unwrap() * 2;
    assert_eq!(gateway.count(counters::bytes_forwarded(1)), octets);
}
