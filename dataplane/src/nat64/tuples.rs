//! Parts of tuples as sessions keep them, and what TCP's flags say of a session.

use gate64_wire::addr::{Protocol, TransportAddr4};
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts, L4Kind, tcp_flag};

use super::filtering;
use super::table::{BibEntry, Session};

/// ICMP queries have one identifier, which is the mapping's on the IPv4 side.
#[inline]
pub(super) fn remote_port_v6(facts: &Ipv6Facts, mapping: &filtering::Mapping) -> u16 {
    match facts.l4.kind {
        L4Kind::EchoRequest | L4Kind::EchoReply => mapping.v4.port,
        _ => facts.l4.dst_port,
    }
}

/// The peer's port as sessions keep it: none for ICMP queries.
#[inline]
pub(super) fn peer_port(protocol: Protocol, port: u16) -> u16 {
    match protocol {
        Protocol::Icmp => 0,
        Protocol::Tcp | Protocol::Udp => port,
    }
}

/// Z,z of a session as it is shown: ICMP queries have the mapping's identifier.
pub(super) fn shown_peer(entry: &BibEntry, session: &Session) -> TransportAddr4 {
    let TransportAddr4 { ip, port } = session.remote();
    let port = match entry.protocol() {
        Protocol::Icmp => entry.v4().port,
        Protocol::Tcp | Protocol::Udp => port,
    };
    TransportAddr4 { ip, port }
}

/// T,t of a packet from IPv4.
pub(super) fn mapped_of(facts: &Ipv4Facts) -> TransportAddr4 {
    TransportAddr4 {
        ip: facts.dst,
        port: facts.l4.dst_port,
    }
}

/// Z,z of a packet from IPv4.
pub(super) fn peer_of(facts: &Ipv4Facts) -> TransportAddr4 {
    TransportAddr4 {
        ip: facts.src,
        port: facts.l4.src_port,
    }
}

#[inline]
pub(super) fn is_syn(protocol: Protocol, tcp_flags: u8) -> bool {
    protocol == Protocol::Tcp && tcp_flags & tcp_flag::SYN != 0
}

/// A SYN that neither resets nor ends.
#[inline]
pub(super) fn opens_tcp(tcp_flags: u8) -> bool {
    tcp_flags & (tcp_flag::SYN | tcp_flag::RST | tcp_flag::FIN) == tcp_flag::SYN
}
