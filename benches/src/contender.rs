//! What is compared: anything that translates bursts.

use gate64_dataplane::config::Nat64Config;
use gate64_dataplane::io::FrameArea;
use gate64_dataplane::nat64::Batch;
use gate64_dataplane::packet::Packet;
use gate64_dataplane::siit::{self, Rules};
use gate64_dataplane::verdict::{Side, Verdict};
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6, Tuple4, Tuple6};
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts, L4Kind};
use gate64_wire::rfc6052::Pref64;

/// A translator, or what is measured in its place.
pub trait Contender {
    /// Works a burst; every item gets its verdict.
    fn burst(&mut self, area: &FrameArea, batch: &mut Batch);
}

/// Moves as many octets as a translation and decides nothing: what frames alone cost.
pub struct Null;

impl Contender for Null {
    fn burst(&mut self, area: &FrameArea, batch: &mut Batch) {
        for item in &mut batch.items {
            let mut packet = area.packet(&mut item.frame);
            match item.side {
                Side::V6 => {
                    packet.trim_front(20);
                    packet.bytes_mut()[..20].fill(0x45);
                }
                Side::V4 => {
                    let source: [u8; 20] = packet.bytes()[..20].try_into().unwrap_or([0; 20]);
                    if packet.grow_front(20) {
                        packet.bytes_mut()[..20].copy_from_slice(&source);
                    }
                }
            }
            item.verdict = Verdict::Forward(item.side.other());
        }
    }
}

/// A lookup structure for established UDP and TCP, one packet after the other: what the
/// comparison lines differ in. Translation is gate64's own for all.
pub trait Tables {
    /// Enters a session with its mapping.
    fn insert(&mut self, key: Key6, mapped: TransportAddr4);
    /// The mapped address of a packet from IPv6, its session refreshed.
    fn find_v6(&mut self, key: &Key6, now: u32) -> Option<TransportAddr4>;
    /// The client of a packet from IPv4, its session refreshed.
    fn find_v4(&mut self, key: &Key4, now: u32) -> Option<TransportAddr6>;
}

/// A session as a packet from IPv6 names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key6 {
    pub client: TransportAddr6,
    pub remote: TransportAddr4,
    pub protocol: Protocol,
}

/// A session as a packet from IPv4 names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key4 {
    pub mapped: TransportAddr4,
    pub remote: TransportAddr4,
    pub protocol: Protocol,
}

/// A translator over such tables.
pub struct Single<T> {
    pub tables: T,
    rules: Rules,
    now: u32,
}

impl<T: Tables> Single<T> {
    pub fn new(tables: T) -> Single<T> {
        Single {
            tables,
            rules: Rules::new(&Nat64Config::default()),
            now: 4,
        }
    }

    fn translate_v6(&mut self, packet: &mut Packet) -> Option<Verdict> {
        let facts = Ipv6Facts::parse(packet.bytes()).ok()?;
        siit::check_v6(&facts).ok()?;
        let remote = TransportAddr4 {
            ip: Pref64::WELL_KNOWN.extract(facts.dst)?,
            port: facts.l4.dst_port,
        };
        let client = TransportAddr6 {
            ip: facts.src,
            port: facts.l4.src_port,
        };
        let protocol = protocol_of(facts.l4.kind)?;
        let mapped = self.tables.find_v6(
            &Key6 {
                client,
                remote,
                protocol,
            },
            self.now,
        )?;
        let outgoing = Tuple4 {
            src: mapped,
            dst: remote,
            protocol,
        };
        let incoming = Tuple6 {
            src: client,
            dst: TransportAddr6 {
                ip: facts.dst,
                port: remote.port,
            },
            protocol,
        };
        let delta = siit::l4_delta(&incoming, &outgoing);
        siit::v6_to_v4(packet, &facts, &outgoing, delta, &self.rules, 1);
        Some(Verdict::Forward(Side::V4))
    }

    fn translate_v4(&mut self, packet: &mut Packet) -> Option<Verdict> {
        let facts = Ipv4Facts::parse(packet.bytes()).ok()?;
        siit::check_v4(&facts, &self.rules).ok()?;
        let remote = TransportAddr4 {
            ip: facts.src,
            port: facts.l4.src_port,
        };
        let mapped = TransportAddr4 {
            ip: facts.dst,
            port: facts.l4.dst_port,
        };
        let protocol = protocol_of(facts.l4.kind)?;
        let client = self.tables.find_v4(
            &Key4 {
                mapped,
                remote,
                protocol,
            },
            self.now,
        )?;
        let outgoing = Tuple6 {
            src: TransportAddr6 {
                ip: Pref64::WELL_KNOWN.embed(facts.src),
                port: remote.port,
            },
            dst: client,
            protocol,
        };
        let incoming = Tuple4 {
            src: remote,
            dst: mapped,
            protocol,
        };
        let reverse6 = Tuple6 {
            src: outgoing.dst,
            dst: outgoing.src,
            protocol,
        };
        let reverse4 = Tuple4 {
            src: incoming.dst,
            dst: incoming.src,
            protocol,
        };
        let delta = siit::l4_delta(&reverse6, &reverse4).reverse();
        siit::v4_to_v6(packet, &facts, &outgoing, delta, &self.rules);
        Some(Verdict::Forward(Side::V6))
    }
}

impl<T: Tables> Contender for Single<T> {
    fn burst(&mut self, area: &FrameArea, batch: &mut Batch) {
        for item in &mut batch.items {
            let mut packet = area.packet(&mut item.frame);
            let done = match item.side {
                Side::V6 => self.translate_v6(&mut packet),
                Side::V4 => self.translate_v4(&mut packet),
            };
            item.verdict = done.unwrap_or(Verdict::Hold);
        }
    }
}

fn protocol_of(kind: L4Kind) -> Option<Protocol> {
    match kind {
        L4Kind::Udp => Some(Protocol::Udp),
        L4Kind::Tcp => Some(Protocol::Tcp),
        _ => None,
    }
}
