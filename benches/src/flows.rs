//! Flows by number, and their packets.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_dataplane::memory::hash::Rng;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};
use gate64_wire::checksum::Sum;
use gate64_wire::facts::tcp_flag;
use gate64_wire::rfc6052::Pref64;

/// Octets behind the transport header: the smallest Ethernet frame with UDP over IPv4.
const PAYLOAD: usize = 18;
/// Octets of the longest packet written here.
pub const PACKET_MAX: usize = 40 + 20 + PAYLOAD;

/// An IPv6 host and its IPv4 peer.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// X',x.
    pub v6: TransportAddr6,
    /// Z,z.
    pub remote: TransportAddr4,
}

/// Flow `number` when there are `subscribers` prefixes: neighbours in number belong to different
/// subscribers, so that all fill evenly.
pub fn flow(number: u64, subscribers: u64) -> Flow {
    let (subscriber, of_subscriber) = (number % subscribers, number / subscribers);
    let prefix = 0x2001_0db8_0000_0000 | (subscriber + 1);
    let host = 0x0200_00ff_fe00_0000 | (of_subscriber / 50_000);
    let port = u16::try_from(of_subscriber % 50_000).unwrap_or(0) + 10_000;
    let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Peers in 32.0.0.0/4, all of it global.
    let remote = 0x2000_0000 | u32::try_from(mixed >> 36).unwrap_or(0);
    Flow {
        v6: TransportAddr6 {
            ip: Ipv6Addr::from(u128::from(prefix) << 64 | u128::from(host)),
            port,
        },
        remote: TransportAddr4 {
            ip: Ipv4Addr::from(remote),
            port: 443,
        },
    }
}

/// Writes a flow's packet from IPv6; returns its length.
pub fn write_v6(out: &mut [u8; PACKET_MAX], flow: &Flow, protocol: Protocol, flags: u8) -> usize {
    let (next_header, l4_len) = l4_of(protocol, true);
    out[..40].fill(0);
    out[0] = 0x60;
    out[4..6].copy_from_slice(&length(l4_len));
    out[6] = next_header;
    out[7] = 64;
    out[8..24].copy_from_slice(&flow.v6.ip.octets());
    out[24..40].copy_from_slice(&Pref64::WELL_KNOWN.embed(flow.remote.ip).octets());
    let ports = (flow.v6.port, flow.remote.port);
    write_l4(&mut out[40..40 + l4_len], protocol, ports, 128, flags);
    40 + l4_len
}

/// Writes the packet in answer, to the mapped address; returns its length.
pub fn write_v4(
    out: &mut [u8; PACKET_MAX],
    remote: TransportAddr4,
    mapped: TransportAddr4,
    protocol: Protocol,
    flags: u8,
) -> usize {
    let (number, l4_len) = l4_of(protocol, false);
    out[..20].fill(0);
    out[0] = 0x45;
    out[2..4].copy_from_slice(&length(20 + l4_len));
    out[6] = 0x40;
    out[8] = 64;
    out[9] = number;
    out[12..16].copy_from_slice(&remote.ip.octets());
    out[16..20].copy_from_slice(&mapped.ip.octets());
    let checksum = Sum::ZERO.bytes(&out[..20]).checksum();
    out[10..12].copy_from_slice(&checksum.to_be_bytes());
    let ports = match protocol {
        Protocol::Icmp => (mapped.port, 0),
        _ => (remote.port, mapped.port),
    };
    write_l4(&mut out[20..20 + l4_len], protocol, ports, 0, flags);
    20 + l4_len
}

fn l4_of(protocol: Protocol, v6: bool) -> (u8, usize) {
    match protocol {
        Protocol::Udp => (17, 8 + PAYLOAD),
        Protocol::Tcp => (6, 20 + PAYLOAD),
        Protocol::Icmp if v6 => (58, 8 + PAYLOAD),
        Protocol::Icmp => (1, 8 + PAYLOAD),
    }
}

fn length(octets: usize) -> [u8; 2] {
    u16::try_from(octets).unwrap_or(u16::MAX).to_be_bytes()
}

/// The checksum is any but zero: a translator updates it and never judges it.
fn write_l4(l4: &mut [u8], protocol: Protocol, ports: (u16, u16), icmp_type: u8, flags: u8) {
    l4.fill(0);
    if protocol == Protocol::Icmp {
        l4[0] = icmp_type;
        l4[2..4].copy_from_slice(&[0xbe, 0xef]);
        l4[4..6].copy_from_slice(&ports.0.to_be_bytes());
        return;
    }
    l4[..2].copy_from_slice(&ports.0.to_be_bytes());
    l4[2..4].copy_from_slice(&ports.1.to_be_bytes());
    if protocol == Protocol::Udp {
        let len = length(l4.len());
        l4[4..6].copy_from_slice(&len);
        l4[6..8].copy_from_slice(&[0xbe, 0xef]);
        return;
    }
    l4[12] = 0x50;
    l4[13] = flags;
    l4[16..18].copy_from_slice(&[0xbe, 0xef]);
}

/// Flags of a segment in the middle of a connection.
pub const ACK: u8 = tcp_flag::ACK;

/// Which flow comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Each as likely as any other.
    Uniform,
    /// Zipf with exponent 1: flow `n` in proportion to `1 / n`.
    Zipf,
}

impl Choice {
    /// One of `count` flows.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // below `count`
    pub fn pick(&self, rng: &mut Rng, count: u64) -> u64 {
        let random = rng.next_u64() >> 11;
        match self {
            Choice::Uniform => ((u128::from(random) * u128::from(count)) >> 53) as u64,
            Choice::Zipf => {
                // The inverse of the continuous distribution with density 1/x on [1, count + 1).
                let unit = random as f64 / (1u64 << 53) as f64;
                let rank = (unit * ((count + 1) as f64).ln()).exp() as u64 - 1;
                // Popular flows must not be neighbours in memory.
                rank.min(count - 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) % count
            }
        }
    }
}
