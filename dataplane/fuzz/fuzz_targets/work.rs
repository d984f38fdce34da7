//! What each target does with an input. The crate's tests do the same with the inputs that are
//! kept, so a crash that was found once stays found.

#[path = "packets.rs"]
mod packets;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use gate64_dataplane::command::{Command, Filter};
use gate64_dataplane::verdict::Side;
use packets::support::packets::{ping4, ping6, tcp4, tcp6, udp4, udp6};
use packets::support::{Gateway, HOST, OTHER, Outcome, POOL, SERVER, embedded};

/// One packet from IPv6 through a gateway that has sessions for it.
pub fn v6_packets(input: &[u8]) {
    let Some((&flags, rest)) = input.split_first() else {
        return;
    };
    packets::with_gateway(|gateway, ports| {
        let mut packet = packets::packet(rest, &packets::templates_v6(ports));
        if flags & 1 == 0 {
            packets::repair_v6(&mut packet);
        }
        pass(gateway, Side::V6, &packet);
    });
}

/// One packet from IPv4 through a gateway that has sessions for it.
pub fn v4_packets(input: &[u8]) {
    let Some((&flags, rest)) = input.split_first() else {
        return;
    };
    packets::with_gateway(|gateway, ports| {
        let mut packet = packets::packet(rest, &packets::templates_v4(ports));
        if flags & 1 == 0 {
            packets::repair_v4(&mut packet);
        }
        pass(gateway, Side::V4, &packet);
    });
}

fn pass(gateway: &mut Gateway, side: Side, packet: &[u8]) {
    if let Outcome::HandedOff(..) = gateway.put(side, packet) {
        panic!("there is one worker");
    }
    gateway.outgoing();
    gateway.nat64.check_invariants();
}

const FLAGS: [u8; 8] = [2, 0x10, 0x12, 0x11, 4, 0x14, 0, 0x29];
const WAITS_MS: [u64; 8] = [1, 250, 2000, 6001, 61_000, 301_000, 241_000, 7_441_000];

/// A sequence of packets, fragments, errors, time and clearing, eight octets each.
pub fn operations(input: &[u8]) {
    let (mut gateway, ports) = packets::gateway();
    for operation in input.chunks_exact(8) {
        let [kind, who, port, peer, flags, id, offset, len] = *operation else {
            return;
        };
        let payload = vec![len; usize::from(len) * 6];
        let source = source(who);
        let port6 = 4992 + u16::from(port % 16);
        match kind % 12 {
            0 | 1 => whole_v6(&mut gateway, kind, source, port6, peer, flags, &payload),
            2 | 3 => whole_v4(&mut gateway, kind, ports, port, peer, flags, &payload),
            4 | 5 => {
                let whole = packet_v6(who, source, port6, remote(peer, ports), flags, &payload);
                let (offset, more) = (u16::from(offset) * 8, flags & 1 == 0);
                let part = packets::fragment_v6(&whole, u32::from(id % 4), offset, more);
                gateway.put(Side::V6, &part);
            }
            6 | 7 => {
                let mut whole = packet_v4(who, peer, mapped(port, ports), flags, &payload);
                if flags & 2 == 0 && who % 3 == 0 {
                    whole[26..28].fill(0);
                }
                let (offset, more) = (u16::from(offset) * 8, flags & 1 == 0);
                let part = packets::fragment_v4(&whole, u16::from(id % 4), offset, more);
                gateway.put(Side::V4, &part);
            }
            8 => {
                let templates = packets::templates_v6(ports);
                let template = &templates[usize::from(who) % templates.len()];
                gateway.put(Side::V6, template);
            }
            9 => {
                let templates = packets::templates_v4(ports);
                let template = &templates[usize::from(who) % templates.len()];
                gateway.put(Side::V4, template);
            }
            10 => gateway.advance(Duration::from_millis(WAITS_MS[usize::from(who % 8)])),
            _ => {
                let (reply, _count) = crossbeam::channel::bounded(1);
                let filter = Filter::default();
                let command = Command::ClearSessions { filter, reply };
                gateway.nat64.command(command, gateway.now);
            }
        }
        if kind & 0x80 != 0 {
            gateway.outgoing();
        }
        gateway.nat64.check_invariants();
    }
}

fn source(who: u8) -> Ipv6Addr {
    if who & 0x40 == 0 { HOST } else { OTHER }
}

/// A server, or the pool: that packet turns around.
fn remote(peer: u8, ports: [u16; 3]) -> (Ipv4Addr, u16) {
    if peer & 0x80 == 0 {
        (server(peer), 80 + u16::from(peer >> 4 & 1))
    } else {
        (POOL, mapped(peer, ports))
    }
}

fn server(peer: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(SERVER) + u32::from(peer % 4))
}

/// A live port, or any of the pool.
fn mapped(port: u8, ports: [u16; 3]) -> u16 {
    ports
        .get(usize::from(port & 0x7))
        .copied()
        .unwrap_or(1024 + u16::from(port & 0x7f))
}

fn packet_v6(
    protocol: u8,
    source: Ipv6Addr,
    port: u16,
    (remote, remote_port): (Ipv4Addr, u16),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let (from, to) = ((source, port), (embedded(remote), remote_port));
    match protocol % 3 {
        0 => udp6(from, to, payload),
        1 => tcp6(from, to, FLAGS[usize::from(flags >> 5)], payload),
        _ => ping6(source, to.0, port, payload),
    }
}

fn packet_v4(protocol: u8, peer: u8, mapped: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to) = ((server(peer), 80), (POOL, mapped));
    match protocol % 3 {
        0 => udp4(from, to, payload),
        1 => tcp4(from, to, FLAGS[usize::from(flags >> 5)], payload),
        _ => ping4(from.0, POOL, mapped, payload),
    }
}

fn whole_v6(
    gateway: &mut Gateway,
    kind: u8,
    source: Ipv6Addr,
    port: u16,
    peer: u8,
    flags: u8,
    payload: &[u8],
) {
    let ports = [1024, 1025, 1026];
    let packet = packet_v6(kind / 12, source, port, remote(peer, ports), flags, payload);
    gateway.put(Side::V6, &packet);
}

fn whole_v4(
    gateway: &mut Gateway,
    kind: u8,
    ports: [u16; 3],
    port: u8,
    peer: u8,
    flags: u8,
    payload: &[u8],
) {
    let packet = packet_v4(kind / 12, peer, mapped(port, ports), flags, payload);
    gateway.put(Side::V4, &packet);
}
