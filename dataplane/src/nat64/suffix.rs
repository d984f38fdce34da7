//! Destinations with something in octet 8 or the suffix (RFC 6052 section 2.2): it is to be
//! ignored. Hosts do not send such packets; but a session's checksum difference holds for
//! addresses without a suffix only, so that it is cleared before anything else looks at the packet.

use std::net::Ipv6Addr;

use gate64_wire::checksum::{Delta, Sum};
use gate64_wire::facts::{Ipv6Facts, L4Kind};
use gate64_wire::{icmpv6, tcp, udp};

use super::Nat64;
use crate::packet::Packet;
use crate::verdict::{DropReason, Refusal};

/// Place of the destination in an IPv6 header.
const DESTINATION_AT: usize = 24;

impl Nat64 {
    /// Whether a packet from IPv6 was refused for its suffix alone; it has none then.
    #[cold]
    pub(super) fn clear_suffix(&self, packet: &mut Packet, refusal: Refusal) -> bool {
        if refusal != Refusal::Drop(DropReason::NotOurs) {
            return false;
        }
        let Ok(facts) = Ipv6Facts::parse(packet.bytes()) else {
            return false;
        };
        let mut with_suffix = self.config.pref64.iter().filter_map(|pref64| {
            let exact = pref64.embed(pref64.extract(facts.dst)?);
            (exact != facts.dst).then_some(exact)
        });
        let Some(exact) = with_suffix.next() else {
            return false;
        };
        write_destination(packet, &facts, exact);
        true
    }
}

/// Changes the destination, and the checksum that covers it.
fn write_destination(packet: &mut Packet, facts: &Ipv6Facts, exact: Ipv6Addr) {
    let delta = Delta::of(Sum::ZERO.ipv6(facts.dst), Sum::ZERO.ipv6(exact));
    let bytes = packet.bytes_mut();
    if let Some(destination) = bytes.get_mut(DESTINATION_AT..DESTINATION_AT + 16) {
        destination.copy_from_slice(&exact.octets());
    }
    let (at, is_udp) = match facts.l4.kind {
        L4Kind::Udp => (udp::CHECKSUM_AT, true),
        L4Kind::Tcp => (tcp::CHECKSUM_AT, false),
        L4Kind::EchoRequest | L4Kind::EchoReply | L4Kind::IcmpError | L4Kind::IcmpOther => {
            (icmpv6::CHECKSUM_AT, false)
        }
        L4Kind::Unknown | L4Kind::LaterFragment => return,
    };
    let at = usize::from(facts.l4_offset) + at;
    let Some(field) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else {
        return;
    };
    if is_udp {
        delta.update_udp(field);
    } else {
        *field = delta.apply(u16::from_be_bytes(*field)).to_be_bytes();
    }
}
