//! What each target does with an input. The crate's tests do the same with the inputs that are
//! kept, so a crash that was found once stays found.

#[path = "packets.rs"]
mod packets;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use etherparse::PacketBuilder;
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

/// Fragments of a few packets, from both sides and turning around: in any order, overlapping,
/// repeated, missing, late. Six octets each.
pub fn fragments(input: &[u8]) {
    packets::with_gateway(|gateway, _| {
        let ports = packets::open(gateway);
        for operation in input.chunks_exact(6) {
            fragment(gateway, operation, ports);
        }
        // Nothing is left of them for the next input.
        gateway.advance(Duration::from_millis(FRAGMENT_WAITS_MS[3]));
        gateway.outgoing();
        gateway.nat64.check_invariants();
    });
}

fn fragment(gateway: &mut Gateway, operation: &[u8], ports: [u16; 3]) {
    let [kind, who, id, offset, len, flags] = *operation else {
        return;
    };
    if kind % 16 == 15 {
        gateway.advance(Duration::from_millis(
            FRAGMENT_WAITS_MS[usize::from(len % 4)],
        ));
    } else {
        let part = Part {
            who,
            id: id % 4,
            offset: u16::from(offset) * 8,
            len: usize::from(len % 64) * 8 + usize::from(flags >> 5),
            more: flags & 1 == 0,
        };
        put_part(gateway, kind, flags, &part, ports);
    }
    if kind & 0x80 != 0 {
        gateway.outgoing();
    }
    gateway.nat64.check_invariants();
}

const FRAGMENT_WAITS_MS: [u64; 4] = [1, 1000, 1999, 2001];

struct Part {
    who: u8,
    id: u8,
    offset: u16,
    len: usize,
    more: bool,
}

fn put_part(gateway: &mut Gateway, kind: u8, flags: u8, part: &Part, ports: [u16; 3]) {
    let payload = vec![part.who; part.len];
    if kind & 1 == 0 {
        let source = if part.who & 1 == 0 { HOST } else { OTHER };
        let (to, port) = if part.who & 2 == 0 {
            (SERVER, 80)
        } else {
            (POOL, ports[0])
        };
        let (from, to) = ((source, packets::PORT), (embedded(to), port));
        let whole = match kind >> 1 & 3 {
            0 | 1 => udp6(from, to, &payload),
            2 => tcp6(from, to, 0x10, &payload),
            _ => ping6(source, to.0, packets::PORT, &payload),
        };
        let bytes = packets::fragment_v6(&whole, u32::from(part.id), part.offset, part.more);
        gateway.put(Side::V6, &bytes);
        return;
    }
    let mut whole = match kind >> 1 & 1 {
        0 => udp4((SERVER, 80), (POOL, ports[0]), &payload),
        _ => ping4(SERVER, POOL, ports[2], &payload),
    };
    if flags & 2 != 0 && whole[9] == 17 {
        whole[26..28].fill(0);
    }
    let bytes = packets::fragment_v4(&whole, u16::from(part.id), part.offset, part.more);
    gateway.put(Side::V4, &bytes);
}

/// ICMP errors from both sides about packets that gate64 did send, changed on the way: cut
/// short, with options, extension or fragment headers, RFC 4884 lengths and extensions, wrong
/// octets.
pub fn inner_packets(input: &[u8]) {
    let [choice, kind, code, r0, r1, r2, r3, cut, rest @ ..] = input else {
        return;
    };
    packets::with_gateway(|gateway, ports| {
        let (side, header) = if choice & 1 == 0 {
            (Side::V6, 40)
        } else {
            (Side::V4, 20)
        };
        let mut inner = quoted(side, *choice, ports);
        let (inserted, patches) = rest.split_at(rest.len().min(usize::from(choice >> 5) * 4));
        inner.splice(header..header, inserted.iter().copied());
        if side == Side::V4 {
            // Options lengthen the header.
            inner[0] = 0x45 + (choice >> 5);
        }
        for patch in patches.chunks_exact(2) {
            let at = usize::from(patch[0]) % inner.len();
            inner[at] = patch[1];
        }
        inner.truncate(usize::from(*cut).max(1) * 2);
        let mut bytes = Vec::new();
        let rest = [*r0, *r1, *r2, *r3];
        match side {
            Side::V6 => PacketBuilder::ipv6(HOST.octets(), embedded(SERVER).octets(), 64)
                .icmpv6_raw(kind % 5, *code, rest)
                .write(&mut bytes, &inner),
            Side::V4 => PacketBuilder::ipv4(SERVER.octets(), POOL.octets(), 64)
                .icmpv4_raw([3, 11, 12, 5, *kind][usize::from(kind % 5)], *code, rest)
                .write(&mut bytes, &inner),
        }
        .expect("a packet");
        pass(gateway, side, &bytes);
    });
}

/// A packet of a live session as it left gate64 towards that side.
fn quoted(side: Side, choice: u8, ports: [u16; 3]) -> Vec<u8> {
    let payload = [7; 200];
    let (server, host) = ((embedded(SERVER), 80), (HOST, packets::PORT));
    match (side, choice >> 1 & 3) {
        (Side::V6, 0 | 1) => udp6(server, host, &payload),
        (Side::V6, 2) => tcp6(server, host, 0x10, &payload),
        (Side::V6, _) => ping6(server.0, HOST, packets::PORT, &payload),
        (Side::V4, 0 | 1) => udp4((POOL, ports[0]), (SERVER, 80), &payload),
        (Side::V4, 2) => tcp4((POOL, ports[1]), (SERVER, 80), 0x10, &payload),
        (Side::V4, _) => ping4(POOL, SERVER, ports[2], &payload),
    }
}
