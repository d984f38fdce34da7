//! Checksums that a peer left to an offload which never happens: behind veth and virtio a packet
//! may carry the sum over its pseudo-header and nothing else. Translation carries the fault on,
//! and the far end drops the packet without a word; so it is looked for where a session is
//! made, which is seldom enough, and counted.

use gate64_wire::checksum::{Sum, pseudo_header_v4, pseudo_header_v6};
use gate64_wire::facts::{FragmentFacts, Ipv4Facts, Ipv6Facts, L4Kind};
use gate64_wire::{tcp, udp};

use super::Nat64;
use crate::counters;
use crate::packet::Packet;
use crate::siit;
use crate::verdict::Side;

impl Nat64 {
    /// Counts a packet that made a session, if its checksum is the bare sum and is wrong.
    #[cold]
    pub(super) fn note_offload(&mut self, packet: &[u8], side: Side) {
        let left = match side {
            Side::V6 => is_left_v6(packet),
            Side::V4 => is_left_v4(packet),
        };
        if left == Some(true) {
            self.counters
                .add(counters::checksums_left_to_offload(side.index()), 1);
        }
    }
}

/// `l4_checksum = "recompute"`: the peer left the checksum to an offload that never happened.
#[cold]
pub(super) fn recompute_checksum(packet: &mut Packet, side: Side) {
    match side {
        Side::V6 => {
            if let Ok(facts) = Ipv6Facts::parse(packet.bytes()) {
                siit::recompute_checksum_v6(packet, &facts);
            }
        }
        Side::V4 => {
            if let Ok(facts) = Ipv4Facts::parse(packet.bytes()) {
                siit::recompute_checksum_v4(packet, &facts);
            }
        }
    }
}

fn is_left_v6(packet: &[u8]) -> Option<bool> {
    let facts = Ipv6Facts::parse(packet).ok()?;
    let l4 = packet.get(usize::from(facts.l4_offset)..usize::from(facts.len))?;
    let len = facts.len - facts.l4_offset;
    let pseudo = pseudo_header_v6(facts.src, facts.dst, facts.protocol, len);
    is_left(l4, facts.l4.kind, facts.fragment, pseudo)
}

fn is_left_v4(packet: &[u8]) -> Option<bool> {
    let facts = Ipv4Facts::parse(packet).ok()?;
    let l4 = packet.get(usize::from(facts.l4_offset)..usize::from(facts.len))?;
    let len = facts.len - facts.l4_offset;
    let pseudo = pseudo_header_v4(facts.src, facts.dst, facts.protocol, len);
    is_left(l4, facts.l4.kind, facts.fragment, pseudo)
}

fn is_left(l4: &[u8], kind: L4Kind, fragment: Option<FragmentFacts>, pseudo: Sum) -> Option<bool> {
    let at = match kind {
        L4Kind::Udp => udp::CHECKSUM_AT,
        L4Kind::Tcp => tcp::CHECKSUM_AT,
        _ => return None,
    };
    let field = l4.get(at..)?.first_chunk()?;
    let is_bare = u16::from_be_bytes(*field) == pseudo.folded();
    // One right checksum in 65536 is the same as the bare sum.
    Some(fragment.is_none() && is_bare && pseudo.bytes(l4).folded() != 0xffff)
}
