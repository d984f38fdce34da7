//! A gateway in memory: packets in, packets and counters out, time by hand.
#![allow(dead_code, missing_docs)] // each test file uses its part

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use gate64_dataplane::clock::Instant;
use gate64_dataplane::config::{Nat64Config, Pool4Prefix};
use gate64_dataplane::counters::{self, CounterId};
use gate64_dataplane::io::FrameArea;
use gate64_dataplane::memory::HashKey;
use gate64_dataplane::nat64::plan::{Settings, Shared};
use gate64_dataplane::nat64::{Batch, Hop, Item, Nat64};
use gate64_dataplane::packet::Frame;
use gate64_dataplane::route::{Port, PortId, Route, RouteSnapshot};
use gate64_dataplane::verdict::{DropReason, Side, Verdict, WorkerId};

pub mod fragments;

/// The client most tests use.
pub const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
/// Another host of another subscriber.
pub const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x20);
/// The IPv4 server most tests use.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The only pool address of the default configuration.
pub const POOL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Gateway's own addresses.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2);
const PEER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// What became of one packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Left on that side with these octets.
    Sent(Side, Vec<u8>),
    /// Dropped without an answer.
    Dropped(DropReason),
    /// Kept.
    Held,
    /// To another worker.
    HandedOff(WorkerId, Side, Vec<u8>),
}

impl Outcome {
    /// The octets of a packet that left on that side.
    #[track_caller]
    pub fn sent(self, side: Side) -> Vec<u8> {
        match self {
            Outcome::Sent(on, bytes) if on == side => bytes,
            other => panic!("not sent to {side:?}: {other:?}"),
        }
    }
}

/// The default of tests: one pool address, documentation addresses allowed.
pub fn config() -> Nat64Config {
    Nat64Config {
        wkp_strict: false,
        pool4: vec![Pool4Prefix {
            address: POOL,
            length: 32,
            ports: 1024..=65535,
            exclude: vec![],
            shared_with_host: false,
            ..Pool4Prefix::default()
        }],
        ..Nat64Config::default()
    }
}

/// An IPv4 address inside the well-known prefix.
pub fn embedded(ip: Ipv4Addr) -> Ipv6Addr {
    gate64_wire::rfc6052::Pref64::WELL_KNOWN.embed(ip)
}

/// One worker, or one of several.
pub struct Gateway {
    pub nat64: Nat64,
    pub area: Arc<FrameArea>,
    pub routes: RouteSnapshot,
    pub now: Instant,
    free: Vec<Frame>,
}

/// A route snapshot with a gateway on each side and the given MTUs.
pub fn routes(mtu_v6: u16, mtu_v4: u16) -> RouteSnapshot {
    let port = |name: &str, mtu: u16, ip: IpAddr, length: u8| Port {
        name: name.into(),
        index: 1,
        mac: [2, 0, 0, 0, 0, 1],
        mtu,
        vlan: None,
        is_up: true,
        addresses: vec![gate64_dataplane::config::InterfaceAddress { ip, length }],
    };
    RouteSnapshot::builder()
        .port(port("v6", mtu_v6, GATEWAY6.into(), 64))
        .port(port("v4", mtu_v4, GATEWAY4.into(), 24))
        .route6(
            Ipv6Addr::UNSPECIFIED,
            0,
            Route::via(PortId(0), PEER6.into()),
        )
        .route4(
            Ipv4Addr::UNSPECIFIED,
            0,
            Route::via(PortId(1), PEER4.into()),
        )
        .neighbor(PortId(0), PEER6.into(), [2, 0, 0, 0, 0, 6])
        .neighbor(PortId(1), PEER4.into(), [2, 0, 0, 0, 0, 4])
        .build(1)
}

impl Gateway {
    pub fn new(config: Nat64Config) -> Gateway {
        Gateway::with_sessions(config, 1000)
    }

    pub fn with_sessions(config: Nat64Config, session_count_max: u64) -> Gateway {
        let settings = Settings {
            key: HashKey::seeded(1),
            seed: 1,
            ..Settings::new(1, session_count_max)
        };
        Gateway::of_worker(&Shared::new(Arc::new(config), settings), WorkerId(0))
    }

    pub fn of_worker(shared: &Shared, worker: WorkerId) -> Gateway {
        let (area, free) = FrameArea::on_heap(256);
        Gateway {
            nat64: Nat64::new(shared, worker).expect("session memory"),
            area,
            routes: routes(1500, 1500),
            now: Instant::from_nanos(1_000_000_000),
            free,
        }
    }

    /// Puts one IP packet through.
    pub fn put(&mut self, side: Side, bytes: &[u8]) -> Outcome {
        self.burst(&[(side, bytes)]).pop().expect("one outcome")
    }

    /// A packet from IPv6 that has to be translated.
    #[track_caller]
    pub fn v6(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.put(Side::V6, bytes).sent(Side::V4)
    }

    /// A packet from IPv4 that has to be translated.
    #[track_caller]
    pub fn v4(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.put(Side::V4, bytes).sent(Side::V6)
    }

    /// Puts a burst through.
    pub fn burst(&mut self, packets: &[(Side, &[u8])]) -> Vec<Outcome> {
        self.burst_from(packets, false)
    }

    /// Puts one IP packet through that another worker has handed over.
    pub fn put_handed_off(&mut self, side: Side, bytes: &[u8]) -> Outcome {
        let mut done = self.burst_from(&[(side, bytes)], true);
        done.pop().expect("one outcome")
    }

    fn burst_from(&mut self, packets: &[(Side, &[u8])], handed_off: bool) -> Vec<Outcome> {
        let mut batch = Batch::default();
        for (side, bytes) in packets {
            let mut frame = self.free.pop().expect("a free frame");
            assert!(self.area.write(&mut frame, bytes), "fits a frame");
            let port = PortId(*side as u8);
            batch.items.push(Item {
                frame,
                side: *side,
                handed_off,
                port,
                verdict: Verdict::Hold,
                hop: Hop::None,
            });
        }
        self.nat64
            .process(&self.area, &self.routes, &mut batch, self.now);
        batch
            .items
            .into_iter()
            .map(|item| self.outcome(item))
            .collect()
    }

    fn outcome(&mut self, mut item: Item) -> Outcome {
        let bytes = self.area.packet(&mut item.frame).bytes().to_vec();
        self.free.push(item.frame);
        match item.verdict {
            Verdict::Forward(side) => {
                assert_ne!(item.hop, Hop::None, "a packet that leaves has a next hop");
                Outcome::Sent(side, bytes)
            }
            Verdict::Drop(reason) => Outcome::Dropped(reason),
            Verdict::Hold => Outcome::Held,
            Verdict::Handoff { worker, side } => Outcome::HandedOff(worker, side, bytes),
        }
    }

    /// The packet is dropped: that is counted, nothing else is, and nothing has changed.
    #[track_caller]
    pub fn refuses(&mut self, side: Side, bytes: &[u8], reason: DropReason) {
        let mut expected = self.nat64.counters().clone();
        expected.add(counters::drop_id(side, reason), 1);
        let outcome = self.put(side, bytes);
        assert_eq!(outcome, Outcome::Dropped(reason), "{bytes:02x?}");
        assert!(*self.nat64.counters() == expected, "more than {reason:?}");
        assert_eq!(self.outgoing(), []);
        self.nat64.check_invariants();
    }

    /// The packet is dropped and answered: both are counted, nothing else is, and nothing has
    /// changed. Gives type, code and the four octets behind the checksum of the ICMP error, which
    /// quotes the packet.
    #[track_caller]
    pub fn rejects(&mut self, side: Side, bytes: &[u8], reason: DropReason) -> (u8, u8, [u8; 4]) {
        let mut expected = self.nat64.counters().clone();
        expected.add(counters::drop_id(side, reason), 1);
        expected.add(counters::icmp_errors_generated(side.index()), 1);
        let answer = self.put(side, bytes).sent(side);
        assert!(*self.nat64.counters() == expected, "more than {reason:?}");
        assert_eq!(self.outgoing(), []);
        self.nat64.check_invariants();
        packets::judged(&answer);
        let at = if side == Side::V6 { 40 } else { 20 };
        assert_eq!(answer[at + 8..], bytes[..answer.len() - at - 8], "quoted");
        let rest = answer[at + 4..at + 8].try_into().expect("four octets");
        (answer[at], answer[at + 1], rest)
    }

    /// A frame for a burst made by hand.
    pub fn take_frame(&mut self) -> Frame {
        self.free.pop().expect("a free frame")
    }

    /// Takes it back.
    pub fn return_frame(&mut self, frame: Frame) {
        self.free.push(frame);
    }

    /// Lets time pass and expires what is due.
    pub fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
        while self.nat64.expire(&self.routes, self.now, 4096) > 0 {}
    }

    /// What the engine sends of its own accord.
    pub fn outgoing(&mut self) -> Vec<Outcome> {
        let mut all = Vec::new();
        while let Some(one) = self.nat64.next_outgoing() {
            let bytes = one.bytes.to_vec();
            all.push(match one.verdict {
                Verdict::Forward(side) => Outcome::Sent(side, bytes),
                Verdict::Handoff { worker, side } => Outcome::HandedOff(worker, side, bytes),
                other => panic!("not to be sent: {other:?}"),
            });
        }
        all
    }

    /// A counter.
    pub fn count(&mut self, id: CounterId) -> u64 {
        self.nat64.counters().get(id)
    }

    /// Drops of a reason from a side.
    pub fn drops(&mut self, side: Side, reason: DropReason) -> u64 {
        self.count(counters::drop_id(side, reason))
    }

    /// Sessions of a protocol at present.
    pub fn sessions(&mut self, protocol: gate64_wire::addr::Protocol) -> u64 {
        self.count(counters::sessions(protocol.index()))
    }
}

/// Packets made by a crate that shares no code with gate64.
pub mod packets {
    use super::*;
    use etherparse::PacketBuilder;

    pub fn udp6(src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ipv6(src.0.octets(), dst.0.octets(), 64).udp(src.1, dst.1);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).expect("a packet");
        bytes
    }

    pub fn udp4(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ipv4(src.0.octets(), dst.0.octets(), 64).udp(src.1, dst.1);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).expect("a packet");
        bytes
    }

    pub fn tcp6(src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), flags: u8, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ipv6(src.0.octets(), dst.0.octets(), 64);
        let mut header = etherparse::TcpHeader::new(src.1, dst.1, 1000, 65535);
        set_flags(&mut header, flags);
        let mut bytes = Vec::new();
        builder
            .tcp_header(header)
            .write(&mut bytes, payload)
            .expect("a packet");
        bytes
    }

    pub fn tcp4(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: u8, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ipv4(src.0.octets(), dst.0.octets(), 64);
        let mut header = etherparse::TcpHeader::new(src.1, dst.1, 1000, 65535);
        set_flags(&mut header, flags);
        let mut bytes = Vec::new();
        builder
            .tcp_header(header)
            .write(&mut bytes, payload)
            .expect("a packet");
        bytes
    }

    fn set_flags(header: &mut etherparse::TcpHeader, flags: u8) {
        header.fin = flags & 0x01 != 0;
        header.syn = flags & 0x02 != 0;
        header.rst = flags & 0x04 != 0;
        header.ack = flags & 0x10 != 0;
    }

    pub fn ping6(src: Ipv6Addr, dst: Ipv6Addr, id: u16, payload: &[u8]) -> Vec<u8> {
        let builder =
            PacketBuilder::ipv6(src.octets(), dst.octets(), 64).icmpv6_echo_request(id, 1);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).expect("a packet");
        bytes
    }

    pub fn ping4(src: Ipv4Addr, dst: Ipv4Addr, id: u16, payload: &[u8]) -> Vec<u8> {
        let builder =
            PacketBuilder::ipv4(src.octets(), dst.octets(), 64).icmpv4_echo_request(id, 1);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).expect("a packet");
        bytes
    }

    pub fn pong4(src: Ipv4Addr, dst: Ipv4Addr, id: u16, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ipv4(src.octets(), dst.octets(), 64).icmpv4_echo_reply(id, 1);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).expect("a packet");
        bytes
    }

    /// An ICMPv4 error with any type, code, second word and body.
    pub fn error4(
        (src, dst): (Ipv4Addr, Ipv4Addr),
        (kind, code): (u8, u8),
        rest: [u8; 4],
        body: &[u8],
    ) -> Vec<u8> {
        let builder = PacketBuilder::ipv4(src.octets(), dst.octets(), 64);
        let mut bytes = Vec::new();
        builder
            .icmpv4_raw(kind, code, rest)
            .write(&mut bytes, body)
            .expect("a packet");
        bytes
    }

    /// An ICMPv6 error with any type, code, second word and body.
    pub fn error6(
        (src, dst): (Ipv6Addr, Ipv6Addr),
        (kind, code): (u8, u8),
        rest: [u8; 4],
        body: &[u8],
    ) -> Vec<u8> {
        let builder = PacketBuilder::ipv6(src.octets(), dst.octets(), 64);
        let mut bytes = Vec::new();
        builder
            .icmpv6_raw(kind, code, rest)
            .write(&mut bytes, body)
            .expect("a packet");
        bytes
    }

    /// The textbook sum of 16-bit words, modulo 65535: an odd last octet stands for the upper half.
    pub fn sum(bytes: &[u8]) -> u64 {
        let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        bytes.chunks(2).map(word).sum::<u64>() % 0xffff
    }

    /// Makes the IPv4 header's checksum right, for as many octets as its IHL says or there are.
    pub fn repair4(bytes: &mut [u8]) {
        let header = (usize::from(bytes[0] & 0xf) * 4).min(bytes.len());
        bytes[10..12].fill(0);
        let checksum = u16::try_from(0xffff - sum(&bytes[..header])).expect("16 bits");
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Says another length in the IP header, whose checksum is made right.
    pub fn with_length(bytes: &[u8], len: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let len = u16::try_from(len).expect("16 bits").to_be_bytes();
        if bytes[0] >> 4 == 6 {
            bytes[4..6].copy_from_slice(&len);
        } else {
            bytes[2..4].copy_from_slice(&len);
            repair4(&mut bytes);
        }
        bytes
    }

    /// By how much the upper-layer checksum of a packet without extension headers or options is
    /// wrong, modulo 65535.
    pub fn checksum_error(bytes: &[u8]) -> u64 {
        let (at, protocol, addresses) = match bytes[0] >> 4 {
            6 => (40, bytes[6], 8..40),
            _ => (20, bytes[9], 12..20),
        };
        let pseudo = match protocol {
            1 => 0,
            _ => sum(&bytes[addresses]) + u64::from(protocol) + (bytes.len() - at) as u64,
        };
        (sum(&bytes[at..]) + pseudo) % 0xffff
    }

    /// Checks every length and checksum with the crate and gives source port, destination port
    /// (or identifier twice) and payload.
    #[track_caller]
    pub fn judged(bytes: &[u8]) -> (IpAddr, IpAddr, u16, u16, Vec<u8>) {
        use etherparse::{NetSlice, SlicedPacket, TransportSlice};
        let sliced = SlicedPacket::from_ip(bytes).expect("a well-formed packet");
        let (src, dst): (IpAddr, IpAddr) = match sliced.net.as_ref().expect("an IP header") {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                assert_eq!(
                    header.header_checksum(),
                    header.to_header().calc_header_checksum(),
                    "IPv4 header checksum"
                );
                assert_eq!(usize::from(header.total_len()), bytes.len());
                (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                )
            }
            NetSlice::Ipv6(ip) => {
                assert_eq!(usize::from(ip.header().payload_length()) + 40, bytes.len());
                (
                    ip.header().source_addr().into(),
                    ip.header().destination_addr().into(),
                )
            }
            other => panic!("not IP: {other:?}"),
        };
        let (a, b, payload) = match sliced.transport.expect("an upper-layer header") {
            TransportSlice::Udp(udp) => {
                let header = udp.to_header();
                let expected = match (src, dst) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => {
                        header.calc_checksum_ipv4_raw(s.octets(), d.octets(), udp.payload())
                    }
                    (IpAddr::V6(s), IpAddr::V6(d)) => {
                        header.calc_checksum_ipv6_raw(s.octets(), d.octets(), udp.payload())
                    }
                    _ => unreachable!(),
                };
                assert_eq!(
                    udp.checksum(),
                    expected.expect("a short payload"),
                    "UDP checksum"
                );
                (
                    udp.source_port(),
                    udp.destination_port(),
                    udp.payload().to_vec(),
                )
            }
            TransportSlice::Tcp(tcp) => {
                let header = tcp.to_header();
                let expected = match (src, dst) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => {
                        header.calc_checksum_ipv4_raw(s.octets(), d.octets(), tcp.payload())
                    }
                    (IpAddr::V6(s), IpAddr::V6(d)) => {
                        header.calc_checksum_ipv6_raw(s.octets(), d.octets(), tcp.payload())
                    }
                    _ => unreachable!(),
                };
                assert_eq!(
                    tcp.checksum(),
                    expected.expect("a short payload"),
                    "TCP checksum"
                );
                (
                    tcp.source_port(),
                    tcp.destination_port(),
                    tcp.payload().to_vec(),
                )
            }
            TransportSlice::Icmpv4(icmp) => {
                let kind = icmp.icmp_type();
                assert_eq!(
                    icmp.checksum(),
                    kind.calc_checksum(icmp.payload()),
                    "ICMPv4 checksum"
                );
                let id = u16::from_be_bytes([icmp.slice()[4], icmp.slice()[5]]);
                (id, id, icmp.payload().to_vec())
            }
            TransportSlice::Icmpv6(icmp) => {
                let (IpAddr::V6(s), IpAddr::V6(d)) = (src, dst) else {
                    panic!("ICMPv6 over IPv4")
                };
                let expected =
                    icmp.icmp_type()
                        .calc_checksum(s.octets(), d.octets(), icmp.payload());
                assert_eq!(
                    icmp.checksum(),
                    expected.expect("a short payload"),
                    "ICMPv6 checksum"
                );
                let id = u16::from_be_bytes([icmp.slice()[4], icmp.slice()[5]]);
                (id, id, icmp.payload().to_vec())
            }
            other => panic!("not translated: {other:?}"),
        };
        (src, dst, a, b, payload)
    }
}
