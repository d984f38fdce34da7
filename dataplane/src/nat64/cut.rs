//! A change of the pools while traffic flows: what stays is not touched, what goes is cut, in
//! bounded steps.
//!
//! Cutting takes a block with all its mappings and sessions from its holder at once, so that the
//! holder can have ports of another address with its next packet. The wheel still refers to the
//! entries; their numbers are free again when it has let go of them.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crossbeam::channel::Sender;
use gate64_wire::addr::Protocol;

use super::Nat64;
use super::pool4::{BlockId, PoolMap};
use super::table::SessionRef;
use crate::clock::Instant;
use crate::counters;

/// Further sessions looked at in one step.
const LOOK_MAX: u32 = 2048;

/// Cuts that wait; more are refused with a count of zero.
const CUTS_MAX: usize = 16;

/// Cutting that is worked off in steps.
#[derive(Debug)]
pub(super) struct Cut {
    /// Sorted.
    addresses: Vec<Ipv4Addr>,
    /// Where the walk over further sessions goes on; `None` when it is done.
    extras: Option<u32>,
    block: BlockId,
    blocks: u64,
    reply: Sender<u64>,
}

pub(super) type Cuts = VecDeque<Cut>;

impl Nat64 {
    /// Goes on with another map of the pools.
    pub(super) fn adopt_pool(&mut self, pool: Arc<PoolMap>) {
        self.pool = Arc::clone(&pool);
        self.blocks.adopt(pool, &self.ownership);
        self.count_blocks();
    }

    /// How many blocks of each address are held that `pool` would not give out.
    pub(super) fn stranded(&self, pool: &PoolMap) -> Vec<(Ipv4Addr, u32)> {
        let mut all = Vec::new();
        for slot in 0..self.pool.slot_count() {
            let Some(ip) = self.pool.address(slot) else {
                continue;
            };
            let is_same = pool.address(slot) == Some(ip);
            let open = pool.open_blocks_of(slot);
            if is_same && open == self.pool.blocks_of(slot) {
                continue;
            }
            let outside = self.pool.blocks_of(slot).filter(|block| {
                self.blocks.get(*block).subscriber != 0 && !(is_same && open.contains(block))
            });
            let count = u32::try_from(outside.count()).unwrap_or(u32::MAX);
            if count > 0 {
                all.push((ip, count));
            }
        }
        all
    }

    /// Begins to cut the held blocks of these addresses that are not given out any more.
    pub(super) fn begin_cut(&mut self, mut addresses: Vec<Ipv4Addr>, reply: Sender<u64>) {
        if self.cuts.len() >= CUTS_MAX {
            // Who asked may be gone: a reply that nobody takes is dropped.
            let _ = reply.try_send(0);
            return;
        }
        addresses.sort_unstable();
        self.cuts.push_back(Cut {
            addresses,
            extras: Some(0),
            block: 1,
            blocks: 0,
            reply,
        });
    }

    /// Whether blocks are being cut.
    pub(super) fn is_cutting(&self) -> bool {
        !self.cuts.is_empty()
    }

    /// Whether a mapping, or where there is none the subscriber's address, will be cut: nothing
    /// new begins there meanwhile.
    pub(super) fn is_cut_off(&self, bib: Option<u32>, subscriber: u32) -> bool {
        match bib {
            Some(bib) => self.is_to_be_cut(bib),
            None => self.holds_closed(subscriber),
        }
    }

    fn holds_closed(&self, subscriber: u32) -> bool {
        let mut block = self.subscribers.get(subscriber).first_block;
        while block != 0 {
            if self.goes(block) {
                return true;
            }
            block = self.blocks.get(block).next;
        }
        false
    }

    /// Whether a block is of those being cut.
    fn goes(&self, block: BlockId) -> bool {
        !self.pool.is_open(block)
            && self
                .pool
                .address(self.pool.slot_of(block))
                .is_some_and(|ip| {
                    let mut cuts = self.cuts.iter();
                    cuts.any(|cut| cut.addresses.binary_search(&ip).is_ok())
                })
    }

    /// A step of the oldest cut; whether there was one.
    pub(super) fn work_off_cuts(&mut self, now: Instant) -> bool {
        let Some(cut) = self.cuts.front() else {
            return false;
        };
        match cut.extras {
            Some(cursor) => {
                let next = self.cut_extras(cursor, now);
                if let Some(cut) = self.cuts.front_mut() {
                    cut.extras = next;
                }
            }
            None => {
                if self.cut_blocks(cut.block, now)
                    && let Some(cut) = self.cuts.pop_front()
                {
                    let _ = cut.reply.try_send(cut.blocks);
                }
            }
        }
        true
    }

    /// Ends further sessions of mappings that will be cut; where to go on.
    fn cut_extras(&mut self, cursor: u32, now: Instant) -> Option<u32> {
        let (rows, next) = self.table.extras_from(cursor, LOOK_MAX);
        let doomed: Vec<_> = rows
            .filter(|(_, one)| self.is_to_be_cut(one.bib))
            .map(|(extra, one)| SessionRef::Extra {
                extra,
                bib: one.bib,
            })
            .collect();
        for at in doomed {
            self.cut_session(at, now);
        }
        next
    }

    fn is_to_be_cut(&self, bib: u32) -> bool {
        let entry = self.table.bib(bib);
        let block = self.pool.block(entry.v4().ip, entry.v4().port);
        !entry.is_static() && block.is_some_and(|block| self.goes(block))
    }

    /// Cuts the next block, from number `from` on, that has to go; whether there is none left.
    fn cut_blocks(&mut self, from: BlockId, now: Instant) -> bool {
        let last = self.pool.block_number_max();
        let end = from.saturating_add(LOOK_MAX).min(last + 1);
        let is_held = |block: &BlockId| self.blocks.get(*block).subscriber != 0;
        let found = (from..end).find(|block| is_held(block) && self.goes(*block));
        if let Some(block) = found {
            self.cut_block(block, now);
        }
        let next = found.map_or(end, |block| block + 1);
        if let Some(cut) = self.cuts.front_mut() {
            cut.block = next;
            cut.blocks += u64::from(found.is_some());
        }
        next > last
    }

    fn cut_block(&mut self, block: BlockId, now: Instant) {
        let Some((ip, slot, first)) = self.pool.block_start(block) else {
            return;
        };
        let tick = now.tick();
        for protocol in Protocol::ALL {
            for port in first..=first + (self.pool.block_size() - 1) {
                let bib = self.table.find_v4(slot, port, protocol);
                let bib = bib.filter(|&bib| !self.table.bib(bib).is_static());
                if let Some(bib) = bib {
                    self.cut_session(SessionRef::First(bib), now);
                    debug_assert!(self.table.bib(bib).v4().ip == ip, "found by its address");
                    self.unmap(bib, tick);
                }
            }
        }
        if self.blocks.get(block).subscriber != 0 {
            self.release_block(block, now, tick);
        }
    }

    /// Ends a session before its time.
    fn cut_session(&mut self, at: SessionRef, now: Instant) {
        if self.table.session(at).state == 0 {
            return;
        }
        self.log_end(at, now);
        let bib = at.bib();
        let remote = self.table.session(at).remote;
        self.table.cut_session(at);
        if matches!(at, SessionRef::Extra { .. }) {
            self.forget_permission(bib, remote);
        }
        let entry = self.table.bib(bib);
        let (protocol, subscriber) = (entry.protocol(), entry.subscriber);
        self.count_session(subscriber, false);
        self.counters.sub(counters::sessions(protocol.index()), 1);
        self.counters
            .add(counters::sessions_expired(protocol.index()), 1);
    }
}
