//! The hold for unsolicited IPv4 SYNs (RFC 6146 section 3.5.2.2, RFC 5382 REQ-4): nothing is
//! answered for TCP_INCOMING_SYN, so that a simultaneous open can succeed; then port unreachable.

use std::collections::VecDeque;

use gate64_wire::addr::TransportAddr4;
use hashbrown::HashMap;

use super::outbox::{BUFFER_LEN, Buffers, Stored};
use super::{Context, Nat64, Scratch};
use crate::clock::Instant;
use crate::counters;
use crate::verdict::{DropReason, IcmpError, Refusal, Side};

/// SYNs held at once.
const HELD_MAX: usize = 512;

/// SYNs held at once for one pool transport address.
const HELD_PER_DESTINATION_MAX: u16 = 8;

type Key = (TransportAddr4, TransportAddr4);

/// The held SYNs, by pool transport address and peer.
#[derive(Debug)]
pub(super) struct SynHold {
    by_pair: HashMap<Key, Stored>,
    by_destination: HashMap<TransportAddr4, u16>,
    /// In the order in which they run out. A pair that is no longer held is passed over.
    order: VecDeque<(Instant, Key)>,
    buffers: Buffers,
}

impl SynHold {
    /// Octets of its buffers.
    pub fn bytes() -> usize {
        HELD_MAX * BUFFER_LEN
    }

    pub fn new() -> SynHold {
        SynHold {
            by_pair: HashMap::with_capacity(HELD_MAX * 2),
            by_destination: HashMap::with_capacity(HELD_MAX * 2),
            order: VecDeque::with_capacity(HELD_MAX * 2),
            buffers: Buffers::new(HELD_MAX),
        }
    }

    fn take(&mut self, key: &Key) -> Option<Stored> {
        let stored = self.by_pair.remove(key)?;
        if let Some(count) = self.by_destination.get_mut(&key.0) {
            *count -= 1;
            if *count == 0 {
                self.by_destination.remove(&key.0);
            }
        }
        Some(stored)
    }
}

impl SynHold {
    /// Panics where the store contradicts itself; see [`Nat64::check_invariants`].
    pub fn check(&self, counters: &counters::Counters) {
        let held = self.by_pair.len();
        assert_eq!(held, HELD_MAX - self.buffers.free_count());
        assert_eq!(counters.get(counters::syn_held(0)), held as u64);
        let by_destination: usize = self.by_destination.values().map(|&n| usize::from(n)).sum();
        assert_eq!(by_destination, held);
        assert!(self.order.len() >= held);
    }
}

impl Nat64 {
    /// Holds a SYN from `peer` to the pool's `mapped`. A repetition of a held one is dropped: the
    /// first stays until its time is over.
    pub(super) fn hold_syn(
        &mut self,
        bytes: &[u8],
        mapped: TransportAddr4,
        peer: TransportAddr4,
        context: &Context,
    ) -> Refusal {
        let key = (mapped, peer);
        let hold = &mut self.syn_hold;
        if hold.by_pair.contains_key(&key) {
            return DropReason::TcpIncomingSyn.into();
        }
        let held = hold.by_destination.get(&mapped).copied().unwrap_or(0);
        if held >= HELD_PER_DESTINATION_MAX || hold.order.len() >= HELD_MAX * 2 {
            return DropReason::SynHoldFull.into();
        }
        let stored = hold.buffers.store(bytes.len(), |to| {
            to.copy_from_slice(bytes);
            true
        });
        let Some(stored) = stored else {
            return DropReason::SynHoldFull.into();
        };
        hold.by_pair.insert(key, stored);
        hold.by_destination.insert(mapped, held + 1);
        hold.order
            .push_back((context.now + self.config.lifetimes.tcp_incoming_syn, key));
        self.counters.add(counters::syn_held(0), 1);
        self.counters
            .add(counters::packets_held(Side::V4.index()), 1);
        Refusal::Hold
    }

    /// Whether a SYN of that peer is held; it is forgotten, for the client's SYN has come.
    pub(super) fn release_syn(&mut self, mapped: TransportAddr4, peer: TransportAddr4) -> bool {
        let Some(stored) = self.syn_hold.take(&(mapped, peer)) else {
            return false;
        };
        self.syn_hold.buffers.give_back(stored);
        self.counters.sub(counters::syn_held(0), 1);
        true
    }

    /// Answers the SYNs whose time is over with port unreachable; at most `budget` of them.
    pub(super) fn expire_syns(&mut self, budget: usize, context: &Context) {
        for _ in 0..budget {
            match self.syn_hold.order.front() {
                Some(&(over, key)) if over <= context.now => {
                    self.syn_hold.order.pop_front();
                    if let Some(stored) = self.syn_hold.take(&key) {
                        self.answer_syn(stored, context);
                    }
                }
                _ => return,
            }
        }
    }

    fn answer_syn(&mut self, stored: Stored, context: &Context) {
        self.counters.sub(counters::syn_held(0), 1);
        let mut scratch = Scratch::of(self.syn_hold.buffers.bytes(&stored));
        self.syn_hold.buffers.give_back(stored);
        let refusal = Refusal::Reject(DropReason::TcpIncomingSyn, IcmpError::PortUnreachable);
        let (verdict, hop) = scratch.with(|packet| self.refuse(packet, Side::V4, refusal, context));
        self.post_scratch(&scratch, Side::V4, verdict, hop);
    }
}
