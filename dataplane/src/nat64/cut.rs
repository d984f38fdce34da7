//! A change of the pools while traffic flows: what stays is not touched, what goes is cut.
//!
//! Taking over other pools, and telling what that would strand, look at every block once, in one
//! go: some nanoseconds for each. Cutting goes in bounded steps. It does not wait for the wheel, so
//! that the holder of a block can have ports of another address soon; nothing new begins in what
//! will be cut. The wheel still refers to the entries; their numbers are free again when it has
//! let go of them.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crossbeam::channel::Sender;
use gate64_wire::addr::Protocol;

use super::pool4::{BlockId, PoolMap, Slot};
use super::table::{SessionRef, Table};
use super::{EVENTS_MAX, Nat64};
use crate::clock::Instant;
use crate::command::{JOBS_MAX, TooManyJobs};

/// Block numbers looked at in one step.
const LOOK_MAX: u32 = 2048;

/// Further sessions looked at in one step.
const EXTRAS_MAX: u32 = 1024;

/// Ports of a block that are cut in one step, each with a session of every protocol.
const PORTS_MAX: u16 = 256;

/// No step begins while as many events wait. With what a step tells at most, the end of each
/// session, a quarter is left for what else happens in a turn.
pub(super) const EVENTS_WAITING_MAX: usize = EVENTS_MAX / 2;

const _: () = assert!(EXTRAS_MAX as usize <= EVENTS_MAX / 4);
const _: () = assert!(PORTS_MAX as usize * Protocol::ALL.len() < EVENTS_MAX / 4);

/// Cutting that is worked off in steps.
#[derive(Debug)]
pub(super) struct Cut {
    /// Sorted.
    addresses: Vec<Ipv4Addr>,
    progress: Progress,
    blocks: u64,
    reply: Sender<u64>,
}

pub(super) type Cuts = VecDeque<Cut>;

/// How far a cut is.
#[derive(Debug, Clone, Copy)]
enum Progress {
    /// Further sessions from this number on are next.
    Extras(u32),
    /// Blocks from this number on are next, that one from this place among its ports on.
    Blocks(BlockId, u16),
}

impl Progress {
    const START: Progress = Progress::Extras(0);
}

impl Nat64 {
    /// Goes on with another map of the pools.
    pub(super) fn adopt_pool(&mut self, pool: Arc<PoolMap>) {
        let before = std::mem::replace(&mut self.pool, Arc::clone(&pool));
        self.pool_changes = self.pool_changes.wrapping_add(1);
        self.blocks.adopt(pool, &self.ownership);
        // Ports that come may be those of static entries, which lay outside of them.
        self.reserve_static_ports();
        for slot in 0..self.pool.slot_count() {
            self.exclude_ports(slot, &before);
        }
        // Other blocks have to go now, and places may be other addresses'.
        for cut in &mut self.cuts {
            cut.progress = Progress::START;
        }
        self.count_blocks();
    }

    /// Applies a change of the ports that an address never gives out to its held blocks; the
    /// others learn of it when they are given out.
    fn exclude_ports(&mut self, slot: Slot, before: &PoolMap) {
        let pool = Arc::clone(&self.pool);
        if pool.excluded_of(slot) == before.excluded_of(slot) {
            return;
        }
        for block in pool.blocks_of(slot) {
            let Some((ip, _, first)) = pool.block_start(block) else {
                continue;
            };
            if self.blocks.get(block).subscriber == 0 || before.address(slot) != Some(ip) {
                continue;
            }
            let was: BTreeSet<u16> = before.excluded_in(block).collect();
            let is: BTreeSet<u16> = pool.excluded_in(block).collect();
            for &place in was.symmetric_difference(&is) {
                for protocol in Protocol::ALL {
                    let is_mapped = self.table.find_v4(slot, first + place, protocol).is_some();
                    let exclude = is.contains(&place);
                    self.blocks
                        .exclude(block, protocol, place, exclude, is_mapped);
                }
            }
        }
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
    pub(super) fn begin_cut(
        &mut self,
        mut addresses: Vec<Ipv4Addr>,
        reply: Sender<u64>,
    ) -> Result<(), TooManyJobs> {
        if self.cuts.len() >= JOBS_MAX {
            return Err(TooManyJobs);
        }
        addresses.sort_unstable();
        self.cuts.push_back(Cut {
            addresses,
            progress: Progress::START,
            blocks: 0,
            reply,
        });
        Ok(())
    }

    /// Whether blocks are being cut.
    pub(super) fn is_cutting(&self) -> bool {
        !self.cuts.is_empty()
    }

    /// Whether a mapping, or where there is none the subscriber's address, will be cut: nothing
    /// new begins there meanwhile.
    pub(super) fn is_cut_off(&self, bib: Option<u32>, subscriber: u32) -> bool {
        match bib {
            Some(bib) => self.block_of(bib).is_some_and(|block| self.will_go(block)),
            None => self.holds_closed(subscriber),
        }
    }

    fn holds_closed(&self, subscriber: u32) -> bool {
        let mut block = self.subscribers.get(subscriber).first_block;
        while block != 0 {
            if self.will_go(block) {
                return true;
            }
            block = self.blocks.get(block).next;
        }
        false
    }

    /// Whether a block is of those that some cut takes.
    fn will_go(&self, block: BlockId) -> bool {
        self.cuts.iter().any(|cut| self.takes(cut, block))
    }

    /// Whether a block is of those that the oldest cut takes. Those of others have further
    /// sessions still, which come first.
    fn goes(&self, block: BlockId) -> bool {
        self.cuts.front().is_some_and(|cut| self.takes(cut, block))
    }

    fn takes(&self, cut: &Cut, block: BlockId) -> bool {
        let address = self.pool.address(self.pool.slot_of(block));
        !self.pool.is_open(block)
            && address.is_some_and(|ip| cut.addresses.binary_search(&ip).is_ok())
    }

    /// A step of the oldest cut; whether there was one. None is made while the log has to catch
    /// up: what happens now goes before.
    pub(super) fn work_off_cuts(&mut self, now: Instant) -> bool {
        let Some(cut) = self.cuts.front() else {
            return false;
        };
        if self.events.len() >= EVENTS_WAITING_MAX {
            return false;
        }
        let next = match cut.progress {
            Progress::Extras(from) => Some(self.cut_extras(from, now)),
            Progress::Blocks(from, place) => self.cut_blocks(from, place, now),
        };
        match next {
            Some(next) => {
                if let Some(cut) = self.cuts.front_mut() {
                    cut.progress = next;
                }
            }
            None => {
                if let Some(cut) = self.cuts.pop_front() {
                    // Who asked may be gone: a reply that nobody takes is dropped.
                    let _ = cut.reply.try_send(cut.blocks);
                }
            }
        }
        true
    }

    /// Ends further sessions of mappings that will be cut; how far the cut is then.
    fn cut_extras(&mut self, from: u32, now: Instant) -> Progress {
        let (rows, next) = self.table.extras_from(from, EXTRAS_MAX);
        let doomed: Vec<_> = rows
            .filter(|(_, one)| self.block_of(one.bib).is_some_and(|block| self.goes(block)))
            .map(|(extra, one)| SessionRef::Extra {
                extra,
                bib: one.bib,
            })
            .collect();
        for at in doomed {
            self.cut_session(at, now);
        }
        next.map_or(Progress::Blocks(1, 0), Progress::Extras)
    }

    /// The block that a mapping's port is of; none for a static one.
    fn block_of(&self, bib: u32) -> Option<BlockId> {
        let entry = self.table.bib(bib);
        let block = self.pool.block(entry.v4().ip, entry.v4().port);
        block.filter(|_| !entry.is_static())
    }

    /// Cuts from the next block that has to go, from number `from` on; how far the cut is then,
    /// `None` at the end.
    fn cut_blocks(&mut self, from: BlockId, place: u16, now: Instant) -> Option<Progress> {
        let last = self.pool.block_number_max();
        let end = from.saturating_add(LOOK_MAX).min(last + 1);
        let is_held = |block: &BlockId| self.blocks.get(*block).subscriber != 0;
        let found = (from..end).find(|block| is_held(block) && self.goes(*block));
        let Some(block) = found else {
            return (end <= last).then_some(Progress::Blocks(end, 0));
        };
        let place = if block == from { place } else { 0 };
        if let Some(next) = self.cut_ports(block, place, now) {
            return Some(Progress::Blocks(block, next));
        }
        if let Some(cut) = self.cuts.front_mut() {
            cut.blocks += 1;
        }
        Some(Progress::Blocks(block + 1, 0))
    }

    /// Cuts what lies on the next ports of a block, from the place `from` on, and takes the block
    /// from its holder with the last of them. Where to go on, `None` when that is done.
    fn cut_ports(&mut self, block: BlockId, from: u16, now: Instant) -> Option<u16> {
        let (ip, slot, first) = self.pool.block_start(block)?;
        let size = self.pool.block_size();
        let end = from.saturating_add(PORTS_MAX).min(size);
        for protocol in Protocol::ALL {
            for place in from..end {
                let bib = self.table.find_v4(slot, first + place, protocol);
                let bib = bib.filter(|&bib| !self.table.bib(bib).is_static());
                if let Some(bib) = bib {
                    debug_assert!(self.table.bib(bib).v4().ip == ip, "found by its address");
                    self.cut_session(SessionRef::First(bib), now);
                }
            }
        }
        // Who has its blocks by calculation loses all of them with its last mapping.
        if self.blocks.get(block).subscriber == 0 {
            return None;
        }
        if end < size {
            return Some(end);
        }
        self.release_block(block, now, now.tick());
        None
    }

    /// Ends a session before its time, and with the last one its mapping.
    pub(super) fn cut_session(&mut self, at: SessionRef, now: Instant) {
        if self.table.session(at).state != 0 && self.end_session(at, Table::cut_session, now) {
            self.unmap(at.bib(), now.tick());
        }
    }
}
