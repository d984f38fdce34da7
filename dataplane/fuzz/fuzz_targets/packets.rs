//! What the targets have in common: a gateway with a live session of each protocol, and packets
//! that begin as good ones.
use etherparse::PacketBuilder;
use gate64_wire::checksum::Sum;

#[path = "../../tests/support/mod.rs"]
pub mod support;

use support::packets::{judged, ping4, ping6, tcp4, tcp6, udp4, udp6};
use support::{Gateway, HOST, POOL, SERVER, config, embedded};

/// The client's port and identifier.
pub const PORT: u16 = 5000;

/// A gateway, and the pool's ports of its UDP, TCP and ICMP sessions.
pub fn gateway() -> (Gateway, [u16; 3]) {
    let mut config = config();
    config.pool4[0].ports = 1024..=1151;
    config.subscriber.port_block_size = 64;
    let mut gateway = Gateway::with_sessions(config, 64);
    let ports = open(&mut gateway);
    (gateway, ports)
}

/// Makes or refreshes the live sessions; their ports in the pool.
pub fn open(gateway: &mut Gateway) -> [u16; 3] {
    let to = (embedded(SERVER), 80);
    [
        udp6((HOST, PORT), to, b"open"),
        tcp6((HOST, PORT), to, 2, b""),
        ping6(HOST, embedded(SERVER), PORT, b"open"),
    ]
    .map(|packet| judged(&gateway.v6(&packet)).2)
}

/// Inputs that one gateway sees: making one costs more than most inputs do. A crash that its
/// input alone does not bring back needs those before it.
const INPUTS_PER_GATEWAY: u32 = 256;

thread_local! {
    static KEPT: std::cell::RefCell<Option<(Gateway, [u16; 3], u32)>> =
        const { std::cell::RefCell::new(None) };
}

/// Lends the gateway that is kept.
pub fn with_gateway(work: impl FnOnce(&mut Gateway, [u16; 3])) {
    KEPT.with_borrow_mut(|kept| {
        kept.take_if(|one| one.2 >= INPUTS_PER_GATEWAY);
        let (gateway, ports, inputs) = kept.get_or_insert_with(|| {
            let (gateway, ports) = gateway();
            (gateway, ports, 0)
        });
        *inputs += 1;
        work(gateway, *ports);
    });
}

/// Packets from IPv6: one of each protocol, and errors about answers of each.
pub fn templates_v6(_ports: [u16; 3]) -> Vec<Vec<u8>> {
    let server = embedded(SERVER);
    let (from, to) = ((HOST, PORT), (server, 80));
    let mut all = vec![
        udp6(from, to, b"some payload"),
        tcp6(from, to, 0x10, b"some payload"),
        ping6(HOST, server, PORT, b"some payload"),
    ];
    for inner in [
        udp6(to, from, b"some payload"),
        tcp6(to, from, 0x10, b"some payload"),
        ping6(server, HOST, PORT, b"some payload"),
    ] {
        for (kind, code) in [(1, 4), (2, 0), (3, 0), (4, 1)] {
            let mut bytes = Vec::new();
            PacketBuilder::ipv6(HOST.octets(), server.octets(), 64)
                .icmpv6_raw(kind, code, [0, 0, 5, 0])
                .write(&mut bytes, &inner)
                .expect("a packet");
            all.push(bytes);
        }
    }
    let fragments: Vec<_> = all[..3]
        .iter()
        .map(|whole| fragment_v6(whole, 7, 0, true))
        .collect();
    all.extend(fragments);
    all
}

/// Packets from IPv4: one of each protocol, and errors about questions of each.
pub fn templates_v4(ports: [u16; 3]) -> Vec<Vec<u8>> {
    let from = (SERVER, 80);
    let mut all = vec![
        udp4(from, (POOL, ports[0]), b"some payload"),
        tcp4(from, (POOL, ports[1]), 0x12, b"some payload"),
        ping4(SERVER, POOL, ports[2], b"some payload"),
    ];
    for inner in [
        udp4((POOL, ports[0]), from, b"some payload"),
        tcp4((POOL, ports[1]), from, 0x10, b"some payload"),
        ping4(POOL, SERVER, ports[2], b"some payload"),
    ] {
        for (kind, code) in [(3, 1), (3, 4), (11, 0), (12, 0)] {
            let mut bytes = Vec::new();
            PacketBuilder::ipv4(SERVER.octets(), POOL.octets(), 64)
                .icmpv4_raw(kind, code, [0, 0, 5, 0])
                .write(&mut bytes, &inner)
                .expect("a packet");
            all.push(bytes);
        }
    }
    let fragments: Vec<_> = all[..3]
        .iter()
        .map(|whole| fragment_v4(whole, 7, 0, true))
        .collect();
    all.extend(fragments);
    all
}

/// The packet that an input means: its octets as they are, or a template with octets replaced
/// (two of place, one of value each) and cut or repeated at the end.
pub fn packet(input: &[u8], templates: &[Vec<u8>]) -> Vec<u8> {
    let Some((&choice, rest)) = input.split_first() else {
        return Vec::new();
    };
    let Some(template) = templates.get(usize::from(choice)) else {
        return rest[..rest.len().min(1500)].to_vec();
    };
    let mut bytes = template.clone();
    let mut patches = rest.chunks_exact(3);
    for patch in &mut patches {
        let at = usize::from(u16::from_be_bytes([patch[0], patch[1]]));
        let len = bytes.len();
        match patch[0] {
            0xff => bytes.truncate(usize::from(patch[1])),
            0xfe => bytes.resize(len.max(usize::from(patch[1]) * 6), patch[2]),
            _ if len > 0 => bytes[at % len] = patch[2],
            _ => {}
        }
    }
    bytes
}

/// Makes the IPv4 header's checksum right, and that of an ICMP message, so that both are passed.
pub fn repair_v4(bytes: &mut [u8]) {
    let header = usize::from(bytes.first().copied().unwrap_or(0) & 0xf) * 4;
    if header < 20 || bytes.len() < header {
        return;
    }
    bytes[10..12].fill(0);
    let checksum = Sum::ZERO.bytes(&bytes[..header]).checksum();
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    let end = usize::from(u16::from_be_bytes([bytes[2], bytes[3]])).min(bytes.len());
    if bytes[9] == 1 && end >= header + 4 {
        bytes[header + 2..header + 4].fill(0);
        let checksum = Sum::ZERO.bytes(&bytes[header..end]).checksum();
        bytes[header + 2..header + 4].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The same for an ICMPv6 message right behind the IPv6 header.
pub fn repair_v6(bytes: &mut [u8]) {
    if bytes.len() < 44 || bytes[6] != 58 {
        return;
    }
    let len = u16::from_be_bytes([bytes[4], bytes[5]]);
    let end = (40 + usize::from(len)).min(bytes.len());
    bytes[42..44].fill(0);
    let sum = Sum::ZERO.bytes(&bytes[8..40]).word(len).word(58);
    let checksum = sum.bytes(&bytes[40..end]).checksum();
    bytes[42..44].copy_from_slice(&checksum.to_be_bytes());
}

/// A fragment header put in, with everything behind it kept.
pub fn fragment_v6(whole: &[u8], id: u32, offset: u16, more: bool) -> Vec<u8> {
    let mut bytes = whole[..40].to_vec();
    bytes.extend_from_slice(&[whole[6], 0]);
    bytes.extend_from_slice(&((offset & !7) | u16::from(more)).to_be_bytes());
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes[6] = 44;
    let mut payload = &whole[40..];
    if more {
        payload = &payload[..payload.len() & !7];
    }
    bytes.extend_from_slice(payload);
    let len = u16::try_from(bytes.len() - 40).unwrap_or(0);
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Turned into a fragment.
pub fn fragment_v4(whole: &[u8], id: u16, offset: u16, more: bool) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    if more {
        bytes.truncate(20 + ((bytes.len() - 20) & !7));
    }
    let len = u16::try_from(bytes.len()).unwrap_or(0);
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    bytes[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
    bytes[10..12].fill(0);
    let checksum = Sum::ZERO.bytes(&bytes[..20]).checksum();
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes
}
