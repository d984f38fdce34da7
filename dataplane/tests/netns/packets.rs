//! Packets and frames for tests, octet by octet.

use std::net::Ipv6Addr;

pub fn ethernet(dst: [u8; 6], src: [u8; 6], ether_type: u16, rest: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(dst);
    frame.extend(src);
    frame.extend(ether_type.to_be_bytes());
    frame.extend_from_slice(rest);
    frame
}

/// The ones' complement sum over octets.
fn sum(octets: &[u8]) -> u32 {
    octets
        .chunks(2)
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum()
}

fn checksum(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// A UDP datagram whose checksum covers a pseudo-header with these addresses.
pub fn udp(addresses: &[u8], src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = Vec::new();
    datagram.extend(src.to_be_bytes());
    datagram.extend(dst.to_be_bytes());
    datagram.extend(len.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend_from_slice(payload);
    let sum = sum(addresses) + 17 + u32::from(len) + sum(&datagram);
    datagram[6..8].copy_from_slice(&checksum(sum));
    datagram
}

pub fn ipv6_udp(src: Ipv6Addr, dst: Ipv6Addr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    packet.extend([17, 64]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    let addresses = packet[8..].to_vec();
    packet.extend(udp(&addresses, ports.0, ports.1, payload));
    packet
}

/// An IPv4 packet with a right header checksum; `fragment` is the field with its flags.
pub fn ipv4(
    (src, dst): ([u8; 4], [u8; 4]),
    protocol: u8,
    id: u16,
    fragment: u16,
    l4: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(20 + l4.len()).unwrap().to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(src);
    packet.extend(dst);
    let sum = sum(&packet);
    packet[10..12].copy_from_slice(&checksum(sum));
    packet.extend_from_slice(l4);
    packet
}

pub fn ipv4_udp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let datagram = udp(&[src, dst].concat(), ports.0, ports.1, payload);
    ipv4((src, dst), 17, 1, 0, &datagram)
}
