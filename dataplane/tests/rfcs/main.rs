//! The RFCs that say how a NAT behaves, a file for each, its tests named by the requirement.

#[path = "../support/mod.rs"]
mod support;

mod rfc4787;
mod rfc5382;
mod rfc5508;
mod rfc6052;
mod rfc6052_several;
mod rfc6791;
mod rfc6888;
mod rfc7857;
mod rfc7915_engine;
mod rfc8021;
mod tcp_probe;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use gate64_dataplane::config::{Nat64Config, Pool4Prefix};
use support::packets::{judged, udp6};
use support::{Gateway, HOST, POOL, SERVER, embedded};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A router on the IPv4 side, and one on the IPv6 side.
const ROUTER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xaaaa, 0, 0, 0, 0, 9);

/// A pool of one address for each length-32 prefix.
fn pool(address: Ipv4Addr, length: u8, ports: std::ops::RangeInclusive<u16>) -> Pool4Prefix {
    Pool4Prefix {
        address,
        length,
        ports,
        exclude: vec![],
        shared_with_host: false,
        ..Pool4Prefix::default()
    }
}

/// Few ports: one address, blocks of 64.
fn small(ports: std::ops::RangeInclusive<u16>) -> Nat64Config {
    let mut config = support::config();
    config.pool4 = vec![pool(POOL, 32, ports)];
    config.subscriber.port_block_size = 64;
    config
}

/// T,t that a UDP packet of this host got.
fn mapped_udp(
    gateway: &mut Gateway,
    host: (Ipv6Addr, u16),
    to: (Ipv4Addr, u16),
) -> (Ipv4Addr, u16) {
    let out = gateway.v6(&udp6(host, (embedded(to.0), to.1), b"question"));
    let (IpAddr::V4(src), _, port, _, _) = judged(&out) else {
        panic!("an IPv4 packet");
    };
    (src, port)
}

/// The host and the server with a UDP session, and its pool port.
fn opened() -> (Gateway, u16) {
    let mut gateway = Gateway::new(support::config());
    let port = mapped_udp(&mut gateway, (HOST, 5000), (SERVER, 53)).1;
    (gateway, port)
}

/// An ICMPv4 error about a packet from the pool.
fn error4(kind: u8, code: u8, rest: [u8; 4], inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(ROUTER4.octets(), POOL.octets(), 64)
        .icmpv4_raw(kind, code, rest)
        .write(&mut bytes, inner)
        .expect("a packet");
    bytes
}

/// An ICMPv6 error of `src` about a packet from `dst`.
fn error6(src: Ipv6Addr, dst: Ipv6Addr, (kind, code): (u8, u8), inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv6(src.octets(), dst.octets(), 64)
        .icmpv6_raw(kind, code, [0; 4])
        .write(&mut bytes, inner)
        .expect("a packet");
    bytes
}

/// Writes the IPv4 header's checksum anew.
fn repair_v4(bytes: &mut [u8]) {
    let checksum = etherparse::Ipv4Header::from_slice(bytes)
        .expect("a header")
        .0
        .calc_header_checksum();
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
}
