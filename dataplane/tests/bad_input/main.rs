//! Packets that no honest host sends: each has a named reason, which is the only thing counted, and
//! leaves sessions, counters and stores as they were.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod checksums;
mod extension_headers;
mod icmp;
mod lengths;
mod truncated;

use gate64_dataplane::counters;
use gate64_dataplane::verdict::Side;
use gate64_wire::addr::Protocol;

use support::packets::{judged, ping6, pong4, tcp4, tcp6, udp4, udp6};
use support::{Gateway, HOST, POOL, SERVER, config, embedded};

/// The client's port and identifier.
const PORT: u16 = 5000;
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// A gateway with a session of each protocol.
struct Live {
    gateway: Gateway,
    /// UDP, TCP and echo from the client, of these sessions.
    v6: [Vec<u8>; 3],
    /// The answers.
    v4: [Vec<u8>; 3],
}

impl Live {
    fn new() -> Live {
        let mut gateway = Gateway::new(config());
        let server = (embedded(SERVER), 80);
        let opening = [
            udp6((HOST, PORT), server, b"open"),
            tcp6((HOST, PORT), server, SYN, b""),
            ping6(HOST, server.0, PORT, b"open"),
        ];
        let [udp, tcp, icmp] = opening.map(|packet| judged(&gateway.v6(&packet)).2);
        Live {
            gateway,
            v6: [
                udp6((HOST, PORT), server, b"some payload"),
                tcp6((HOST, PORT), server, ACK, b"some payload"),
                ping6(HOST, server.0, PORT, b"some payload"),
            ],
            v4: [
                udp4((SERVER, 80), (POOL, udp), b"some payload"),
                tcp4((SERVER, 80), (POOL, tcp), ACK, b"some payload"),
                pong4(SERVER, POOL, icmp, b"some payload"),
            ],
        }
    }

    fn of(&self, side: Side) -> &[Vec<u8>; 3] {
        match side {
            Side::V6 => &self.v6,
            Side::V4 => &self.v4,
        }
    }

    /// There are the sessions that there were, and they carry packets both ways.
    #[track_caller]
    fn is_undisturbed(&mut self) {
        for protocol in Protocol::ALL {
            assert_eq!(self.gateway.sessions(protocol), 1);
            let id = counters::bib_entries(protocol.index());
            assert_eq!(self.gateway.count(id), 1);
        }
        assert_eq!(self.gateway.count(counters::fragments_held(0)), 0);
        for packet in &self.v6 {
            assert_eq!(judged(&self.gateway.v6(packet)).4, b"some payload");
        }
        for packet in &self.v4 {
            assert_eq!(judged(&self.gateway.v4(packet)).4, b"some payload");
        }
        self.gateway.nat64.check_invariants();
    }
}

const SIDES: [Side; 2] = [Side::V6, Side::V4];

/// Octets of the IP header without options or extension headers.
fn header_len(side: Side) -> usize {
    match side {
        Side::V6 => 40,
        Side::V4 => 20,
    }
}

/// Says how long the packet is behind `len` octets of its upper layer, which are all that is there.
fn cut_to(side: Side, packet: &[u8], len: usize) -> Vec<u8> {
    let whole = header_len(side) + len;
    let field = if side == Side::V6 { len } else { whole };
    support::packets::with_length(&packet[..whole], field)
}
