//! Packets that can only be translated when all of their fragments are here (RFC 6146 section
//! 3.4): the first one's checksum is mended for the whole, then all go one by one.

use gate64_wire::checksum::{Delta, Sum, pseudo_header_v4};
use gate64_wire::facts::{Ipv4Facts, Ipv6Facts, L4Kind};

use super::super::protocol_of;
use super::store::Place;
use super::{Context, Hop, Known, Nat64};
use crate::packet::Packet;
use crate::verdict::{DropReason, Refusal, Side, Verdict};

impl Nat64 {
    /// All fragments of a packet that needed all are here: its first is mended and goes, then the
    /// others. All leave by the outbox, the one that came last too.
    pub(super) fn release_all(
        &mut self,
        place: Place,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        let side = self.fragments.get(place).key.side();
        let whole = self.whole_sum(place, side);
        // The one with the least offset, which is zero: no octet is missing.
        let Some(first) = self.fragments.take_held(place) else {
            return Err(DropReason::FragmentUnmatched.into());
        };
        let mut known = Known::Refused(DropReason::FragmentUnmatched);
        self.release(
            first,
            side,
            |nat64, packet| {
                nat64.mend(packet, side, whole)?;
                let done = nat64.first(packet, side, context)?;
                known = done.2;
                Ok((done.0, done.1))
            },
            context,
        );
        self.fragments.get_mut(place).known = Some(known);
        self.release_held(place, known, context);
        Ok((Verdict::Hold, Hop::None))
    }

    fn first(
        &mut self,
        packet: &mut Packet,
        side: Side,
        context: &Context,
    ) -> Result<(Verdict, Hop, Known), Refusal> {
        match side {
            Side::V6 => {
                let facts = Ipv6Facts::parse(packet.bytes())?;
                let target = self.pref64_of(facts.dst)?;
                self.first_v6(packet, &facts, target, context)
            }
            Side::V4 => {
                let facts = Ipv4Facts::parse(packet.bytes())?;
                self.first_v4(packet, &facts, context)
            }
        }
    }

    /// Writes into the first fragment what needs all of them. Where another worker owns the
    /// session, it gathers them again and does that itself.
    fn mend(&self, packet: &mut Packet, side: Side, whole: (Sum, u16)) -> Result<(), Refusal> {
        if side == Side::V4 {
            let facts = Ipv4Facts::parse(packet.bytes())?;
            let protocol = protocol_of(facts.l4.kind)?;
            if self.owner_of(&facts, protocol) != self.worker {
                return Ok(());
            }
        }
        mend_first(packet, side, whole)
    }

    /// Sum over the payloads of all fragments, and its length.
    fn whole_sum(&self, place: Place, side: Side) -> (Sum, u16) {
        let mut sum = Sum::ZERO;
        let mut len = 0u16;
        for bytes in self.fragments.held_of(place) {
            let payload = payload_of(bytes, side);
            sum = sum.bytes(payload);
            len = len.saturating_add(u16::try_from(payload.len()).unwrap_or(u16::MAX));
        }
        (sum, len)
    }
}

fn payload_of(bytes: &[u8], side: Side) -> &[u8] {
    let range = match side {
        Side::V6 => Ipv6Facts::parse(bytes).map(|facts| (facts.l4_offset, facts.len)),
        Side::V4 => Ipv4Facts::parse(bytes).map(|facts| (facts.l4_offset, facts.len)),
    };
    let (from, to) = range.unwrap_or((0, 0));
    bytes
        .get(usize::from(from)..usize::from(to))
        .unwrap_or_default()
}

/// Writes into the first fragment the checksum that its translation, which sees only this
/// fragment, turns into the right one.
fn mend_first(packet: &mut Packet, side: Side, (sum, len): (Sum, u16)) -> Result<(), Refusal> {
    match side {
        Side::V6 => {
            let facts = Ipv6Facts::parse(packet.bytes())?;
            // The translator takes this fragment's length out of the pseudo-header.
            let delta = Delta::of_word(len, facts.len - facts.l4_offset);
            change_checksum(packet, facts.l4_offset + 2, |checksum| {
                delta.apply(checksum)
            })
        }
        Side::V4 => {
            let facts = Ipv4Facts::parse(packet.bytes())?;
            if facts.l4.kind == L4Kind::Udp {
                let pseudo = pseudo_header_v4(facts.src, facts.dst, facts.protocol, len);
                let checksum = Sum::ZERO
                    .word(sum.folded())
                    .word(pseudo.folded())
                    .udp_checksum();
                return change_checksum(packet, facts.l4_offset + 6, |_| checksum);
            }
            let delta = Delta::of_word(facts.len - facts.l4_offset, len);
            change_checksum(packet, facts.l4_offset + 2, |checksum| {
                delta.apply(checksum)
            })
        }
    }
}

fn change_checksum(
    packet: &mut Packet,
    at: u16,
    change: impl FnOnce(u16) -> u16,
) -> Result<(), Refusal> {
    let at = usize::from(at);
    let field = packet
        .bytes_mut()
        .get_mut(at..at + 2)
        .ok_or(DropReason::L4Truncated)?;
    let checksum = change(u16::from_be_bytes([field[0], field[1]]));
    field.copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}
