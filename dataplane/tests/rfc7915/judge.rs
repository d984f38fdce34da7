//! Packets made and judged by etherparse, and the session that the tests translate by:
//! `[2001:db8::1]:4660` is `192.0.2.1:8765`, and it talks to `198.51.100.7:80`.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::checksum::Sum16BitWords;
use etherparse::{LaxNetSlice, LaxSlicedPacket, PacketBuilder, TransportSlice};
use gate64_dataplane::config::Nat64Config;
use gate64_dataplane::packet::{Packet, Window};
use gate64_dataplane::siit::{self, NextHopMtu, Rules};
use gate64_dataplane::verdict::Refusal;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts};
use gate64_wire::inner::{InnerIpv4, InnerIpv6};

pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xc633, 0x6407);
pub const HOST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const SERVER4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const PORT6: u16 = 4660;
pub const PORT4: u16 = 8765;
pub const SERVER_PORT: u16 = 80;

/// Room in front of every test packet.
const HEADROOM: usize = 128;

/// Both next hops have Ethernet's MTU.
pub const ETHERNET: NextHopMtu = NextHopMtu { v6: 1500, v4: 1500 };

pub fn rules() -> Rules {
    Rules::new(&Nat64Config::default())
}

/// The tuples of packets from host to server.
pub fn tuples(protocol: Protocol) -> (Tuple6, Tuple4) {
    let (dst6, dst4) = match protocol {
        Protocol::Icmp => (PORT6, PORT4),
        _ => (SERVER_PORT, SERVER_PORT),
    };
    let v6 = Tuple6 {
        src: TransportAddr6 {
            ip: HOST6,
            port: PORT6,
        },
        dst: TransportAddr6 {
            ip: SERVER6,
            port: dst6,
        },
        protocol,
    };
    let v4 = Tuple4 {
        src: TransportAddr4 {
            ip: HOST4,
            port: PORT4,
        },
        dst: TransportAddr4 {
            ip: SERVER4,
            port: dst4,
        },
        protocol,
    };
    (v6, v4)
}

/// The tuples of packets from server to host.
pub fn reverse_tuples(protocol: Protocol) -> (Tuple6, Tuple4) {
    let (v6, v4) = tuples(protocol);
    (
        Tuple6 {
            src: v6.dst,
            dst: v6.src,
            protocol,
        },
        Tuple4 {
            src: v4.dst,
            dst: v4.src,
            protocol,
        },
    )
}

/// Runs `change` on a packet in a chunk with headroom; returns what the window holds then.
pub fn in_chunk<R>(bytes: &[u8], change: impl FnOnce(&mut Packet<'_>) -> R) -> (R, Vec<u8>) {
    in_chunk_with(HEADROOM, bytes, change)
}

pub fn in_chunk_with<R>(
    headroom: usize,
    bytes: &[u8],
    change: impl FnOnce(&mut Packet<'_>) -> R,
) -> (R, Vec<u8>) {
    let mut chunk = vec![0xee; headroom];
    chunk.extend_from_slice(bytes);
    let mut window = Window {
        start: u16::try_from(headroom).unwrap(),
        len: u16::try_from(bytes.len()).unwrap(),
    };
    let mut packet = Packet::new(&mut chunk, &mut window).unwrap();
    let result = change(&mut packet);
    let out = packet.bytes().to_vec();
    (result, out)
}

/// Translates from host to server, identification 0x1234.
pub fn to_v4(bytes: &[u8], protocol: Protocol, rules: &Rules) -> Vec<u8> {
    let facts = Ipv6Facts::parse(bytes).unwrap();
    siit::check_v6(&facts).unwrap();
    let (v6, v4) = tuples(protocol);
    let delta = siit::l4_delta(&v6, &v4);
    in_chunk(bytes, |packet| {
        siit::v6_to_v4(packet, &facts, &v4, delta, rules, 0x1234)
    })
    .1
}

/// Translates from server to host, with just the headroom asked for.
pub fn to_v6(bytes: &[u8], protocol: Protocol, rules: &Rules) -> Vec<u8> {
    let facts = Ipv4Facts::parse(bytes).unwrap();
    siit::check_v4(&facts, rules).unwrap();
    let (v6, v4) = reverse_tuples(protocol);
    let delta = siit::l4_delta(&tuples(protocol).0, &tuples(protocol).1);
    // The difference is the same for both directions, one taken back.
    assert_eq!(
        delta.reverse().apply(0x1111),
        siit::l4_delta(&v6, &v4).reverse().apply(0x1111)
    );
    let headroom = usize::from(siit::v4_to_v6_growth(&facts));
    let translate = |packet: &mut Packet<'_>| {
        siit::v4_to_v6(packet, &facts, &v6, delta.reverse(), rules);
    };
    in_chunk_with(headroom, bytes, translate).1
}

/// Translates an ICMPv6 error from a router at [`HOST6`]'s side, about a packet from server to
/// host.
pub fn error_to_v4(
    bytes: &[u8],
    protocol: Protocol,
    mtu: NextHopMtu,
) -> (Result<(), Refusal>, Vec<u8>) {
    let facts = Ipv6Facts::parse(bytes).unwrap();
    siit::check_v6(&facts).unwrap();
    let inner = InnerIpv6::parse(bytes, &facts).unwrap();
    let (_, inner_tuple) = reverse_tuples(protocol);
    in_chunk(bytes, |packet| {
        let addresses = (HOST4, SERVER4);
        siit::v6_to_v4_error(
            packet,
            &facts,
            &inner,
            addresses,
            &inner_tuple,
            mtu,
            &rules(),
            0x1234,
        )
    })
}

/// Translates an ICMPv4 error from the router 203.0.113.1, about a packet from host to server.
pub fn error_to_v6(
    bytes: &[u8],
    protocol: Protocol,
    mtu: NextHopMtu,
) -> (Result<(), Refusal>, Vec<u8>) {
    let facts = Ipv4Facts::parse(bytes).unwrap();
    siit::check_v4(&facts, &rules()).unwrap();
    let inner = InnerIpv4::parse(bytes, &facts).unwrap();
    let (inner_tuple, _) = tuples(protocol);
    in_chunk(bytes, |packet| {
        let addresses = ("64:ff9b::203.0.113.1".parse().unwrap(), HOST6);
        siit::v4_to_v6_error(
            packet,
            &facts,
            &inner,
            addresses,
            &inner_tuple,
            mtu,
            &rules(),
        )
    })
}

/// From host to server over IPv6.
pub fn udp_v6(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv6(HOST6.octets(), SERVER6.octets(), 64);
    let mut bytes = Vec::new();
    builder
        .udp(PORT6, SERVER_PORT)
        .write(&mut bytes, payload)
        .unwrap();
    bytes
}

/// From server to host over IPv4.
pub fn udp_v4(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(SERVER4.octets(), HOST4.octets(), 64);
    let mut bytes = Vec::new();
    builder
        .udp(SERVER_PORT, PORT4)
        .write(&mut bytes, payload)
        .unwrap();
    bytes
}

/// From host to server over IPv4: what the translator sent, as an error quotes it.
pub fn sent_udp_v4(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(HOST4.octets(), SERVER4.octets(), 1);
    let mut bytes = Vec::new();
    builder
        .udp(PORT4, SERVER_PORT)
        .write(&mut bytes, payload)
        .unwrap();
    bytes
}

/// From server to host over IPv6: what the translator sent, as an error quotes it.
pub fn sent_udp_v6(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv6(SERVER6.octets(), HOST6.octets(), 1);
    let mut bytes = Vec::new();
    builder
        .udp(SERVER_PORT, PORT6)
        .write(&mut bytes, payload)
        .unwrap();
    bytes
}

/// An ICMPv4 error from 203.0.113.1 with any type, code, second word and body.
pub fn icmp_v4(icmp_type: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv4([203, 0, 113, 1], HOST4.octets(), 64);
    let mut bytes = Vec::new();
    builder
        .icmpv4_raw(icmp_type, code, rest)
        .write(&mut bytes, body)
        .unwrap();
    bytes
}

/// An ICMPv6 error from the host with any type, code, second word and body.
pub fn icmp_v6(icmp_type: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv6(HOST6.octets(), SERVER6.octets(), 64);
    let mut bytes = Vec::new();
    builder
        .icmpv6_raw(icmp_type, code, rest)
        .write(&mut bytes, body)
        .unwrap();
    bytes
}

/// The octets of a packet from the end of a header at `at`: an extension header put in.
pub fn insert_v6(packet: &[u8], next_header: u8, extension: &[u8]) -> Vec<u8> {
    let mut bytes = packet[..40].to_vec();
    bytes.extend_from_slice(extension);
    bytes[40] = packet[6];
    bytes[6] = next_header;
    bytes.extend_from_slice(&packet[40..]);
    let len = u16::try_from(bytes.len() - 40).unwrap();
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Puts an IPv4 header checksum right.
pub fn repair_v4(bytes: &mut [u8]) {
    let end = usize::from(bytes[0] & 0xf) * 4;
    bytes[10..12].copy_from_slice(&[0, 0]);
    let sum = gate64_wire::checksum::Sum::ZERO
        .bytes(&bytes[..end])
        .checksum();
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// etherparse reads the packet whole, its length is the packet's, and all its checksums are
/// right.
pub fn judge(bytes: &[u8]) {
    let sliced = LaxSlicedPacket::from_ip(bytes).unwrap();
    assert!(sliced.stop_err.is_none(), "{:?}", sliced.stop_err);
    match sliced.net.as_ref().unwrap() {
        LaxNetSlice::Ipv4(net) => {
            let header = net.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), bytes.len());
            judge_v4(&sliced, header.source, header.destination);
        }
        LaxNetSlice::Ipv6(net) => {
            let header = net.header().to_header();
            assert_eq!(usize::from(header.payload_length) + 40, bytes.len());
            judge_v6(&sliced, &header);
        }
        other => panic!("{other:?}"),
    }
}

fn judge_v4(sliced: &LaxSlicedPacket<'_>, src: [u8; 4], dst: [u8; 4]) {
    match sliced.transport.as_ref() {
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            let computed = header
                .calc_checksum_ipv4_raw(src, dst, udp.payload())
                .unwrap();
            assert_eq!(header.checksum, computed);
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let computed = tcp.calc_checksum_ipv4(src, dst).unwrap();
            assert_eq!(tcp.checksum(), computed);
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            // Over the octets: etherparse's typed sum leaves out the RFC 4884 length.
            let sum = Sum16BitWords::new().add_slice(icmp.slice());
            assert_eq!(sum.ones_complement(), 0);
        }
        other => panic!("{other:?}"),
    }
}

fn judge_v6(sliced: &LaxSlicedPacket<'_>, header: &etherparse::Ipv6Header) {
    match sliced.transport.as_ref() {
        Some(TransportSlice::Udp(udp)) => {
            let computed = udp
                .to_header()
                .calc_checksum_ipv6(header, udp.payload())
                .unwrap();
            assert_eq!(udp.checksum(), computed);
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let computed = tcp
                .calc_checksum_ipv6(header.source, header.destination)
                .unwrap();
            assert_eq!(tcp.checksum(), computed);
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert!(icmp.is_checksum_valid(header.source, header.destination));
        }
        other => panic!("{other:?}"),
    }
}
