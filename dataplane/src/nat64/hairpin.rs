//! Packets between two clients of the pool: they turn around (RFC 6146 section 3.8).

use gate64_wire::addr::Tuple4;

use super::prepare::{Place, PreparedV6};
use super::{Context, Hop, Nat64};
use crate::counters;
use crate::packet::Packet;
use crate::verdict::{DropReason, HandoffReason, Refusal, Side, Verdict};

impl Nat64 {
    /// Whether the packet turns around (RFC 6146 section 3.8).
    #[inline]
    pub(super) fn hairpins(&self, one: &PreparedV6) -> Result<bool, Refusal> {
        if self.pool.slot(one.remote).is_none() {
            return Ok(false);
        }
        let is_ours =
            self.ownership
                .is_ours(&self.pool, one.remote, one.facts.l4.dst_port, one.protocol);
        if is_ours && !self.config.hairpin {
            return Err(DropReason::HairpinOff.into());
        }
        Ok(is_ours)
    }

    /// The second half of a hairpin: the translated packet is taken from IPv4, by its owner. It
    /// leaves to a client, never to the pool again, so there is no loop.
    pub(super) fn hairpin(
        &mut self,
        packet: &mut Packet,
        outgoing: &Tuple4,
        context: &Context,
    ) -> Result<(Verdict, Hop), Refusal> {
        self.counters.add(counters::hairpinned(0), 1);
        let dst = outgoing.dst;
        let owner = self
            .ownership
            .of_v4(&self.pool, dst.ip, dst.port, outgoing.protocol);
        if owner != self.worker {
            return Ok(self.hand_off(owner, Side::V4, HandoffReason::Hairpin));
        }
        let mut place = Place::EMPTY;
        self.prepare_packet(packet, Side::V4, false, &mut place, context);
        Ok(self.translate(packet, Side::V4, &place, context))
    }
}
