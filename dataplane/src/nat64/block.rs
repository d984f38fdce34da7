//! Port blocks: which are free, who holds them, and which of their ports are in use.
//!
//! A block covers the same ports of all three protocols, each with bitmaps of its own: in use or
//! set apart, freed in this reuse period, freed in the one before. A freed port rests one to two
//! periods of `port_reuse_delay` (RFC 6888 REQ-8), and no timer ends that: who looks sees how old
//! the bitmaps are. A block that went back rests with its ports, until the wheel's visit finds none
//! at rest: who gets a block can use every port that is not set apart. Choice of address, block
//! and port is unpredictable (RFC 6056) and costs a few words of bitmap at any occupancy.

mod free;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use gate64_wire::addr::Protocol;

use self::free::Addresses;
use super::chooser::{Chooser, first_set};
use super::ownership::Ownership;
use super::pool4::{BlockId, PoolMap, Slot};
use crate::clock::Tick;
use crate::config::POOLS_MAX;
use crate::counters::USE_STEPS;
use crate::memory::arena::slab_bytes;
use crate::memory::{Arena, ArenaError, HashKey, Plain, Slab};
use crate::verdict::WorkerId;

/// Bitmaps of a block and protocol.
const KINDS: usize = 3;
const IN_USE: usize = 0;
const RESTING_NEW: usize = 1;
const RESTING_OLD: usize = 2;

/// A port block as its owner keeps it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Block {
    /// Subscriber that holds it, 0 for none.
    pub subscriber: u32,
    /// The subscriber's next block, 0 at the end.
    pub next: BlockId,
    /// Ports in use, by protocol.
    pub used: [u16; 3],
    /// Whether the wheel will visit it.
    pub armed: u8,
    flags: u8,
    /// Reuse period the resting bitmaps are of.
    period: u32,
    /// When its last port was freed.
    pub empty_since: Tick,
    /// When its holder got it.
    pub taken_at: Tick,
}

/// Given back, and waiting until its ports have rested.
const FLAG_RESTING: u8 = 1;
/// Its holder has it by calculation.
const FLAG_FIXED: u8 = 2;
/// A port that was in use then has been excluded since: it is set apart when it is freed.
const FLAG_EXCLUDED: u8 = 4;

// SAFETY: integers only.
#[allow(unsafe_code)]
unsafe impl Plain for Block {}

impl Block {
    /// Whether its holder has it by calculation rather than from the free ones.
    pub fn is_fixed(&self) -> bool {
        self.flags & FLAG_FIXED != 0
    }
}

/// Blocks of a pool at present, of one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// That the worker gives out, and those that are held still of addresses that give out no more.
    pub owned: u32,
    /// Held by subscribers, also of addresses that give out no more.
    pub held: u32,
    /// Given back, with ports that still rest.
    pub resting: u32,
}

/// All blocks of the pools, of which this worker gives out its own.
#[derive(Debug)]
pub struct Blocks {
    pool: Arc<PoolMap>,
    worker: WorkerId,
    blocks: Slab<Block>,
    bitmaps: Slab<u64>,
    /// Free blocks of this worker: a bit for each block, by address.
    free: Slab<u64>,
    /// Free blocks of this worker, by address.
    free_count: Slab<u32>,
    pools: Vec<Addresses>,
    /// By address: where it stands among those of its pool.
    places: Vec<u32>,
    counts: [PoolCounts; POOLS_MAX],
    words: usize,
    free_words: usize,
    period_ticks: u32,
    /// Ports of static BIB entries inside the dynamic ones.
    reserved: Vec<(BlockId, Protocol, u16)>,
    chooser: Chooser,
}

impl Blocks {
    /// Octets of the slabs.
    pub fn bytes(pool: &PoolMap) -> usize {
        let blocks = pool.block_number_max() as usize + 1;
        let slots = pool.slot_capacity() as usize;
        slab_bytes::<Block>(blocks)
            + slab_bytes::<u64>(blocks * 3 * KINDS * words_per_bitmap(pool))
            + slab_bytes::<u64>(slots * free_words(pool))
            + slab_bytes::<u32>(slots)
    }

    /// Asks the memory for a block.
    pub fn prefetch(&self, block: BlockId) {
        self.blocks.prefetch(block as usize);
    }

    /// Asks the memory for what taking a block back reads, or the first lines of it, unless ports
    /// of it are in use: then nothing is taken back.
    pub fn prefetch_return(&self, block: BlockId) {
        const LINE: usize = 64 / size_of::<u64>();
        const LINES_MAX: usize = 8;
        if self.blocks[block as usize].used != [0; 3] {
            return;
        }
        let resting = |protocol| {
            let first = self.bitmap(block, protocol, RESTING_NEW);
            (first..first + 2 * self.words).step_by(LINE)
        };
        for at in Protocol::ALL.into_iter().flat_map(resting).take(LINES_MAX) {
            self.bitmaps.prefetch(at);
        }
    }

    /// Takes its slabs from the arena and marks what belongs to `worker` as free. `secret` is
    /// what makes the choice of ports unpredictable.
    ///
    /// # Errors
    /// The arena is used up.
    pub fn new(
        arena: &mut Arena,
        pool: Arc<PoolMap>,
        ownership: &Ownership,
        worker: WorkerId,
        reuse_delay_ticks: u32,
        secret: HashKey,
    ) -> Result<Blocks, ArenaError> {
        let count = pool.block_number_max() as usize + 1;
        let slots = pool.slot_capacity() as usize;
        let words = words_per_bitmap(&pool);
        let free_words = free_words(&pool);
        let mut blocks = Blocks {
            blocks: arena.resident_slab(count)?,
            bitmaps: arena.slab(count * 3 * KINDS * words)?,
            free: arena.resident_slab(slots * free_words)?,
            free_count: arena.resident_slab(slots)?,
            pools: Vec::new(),
            places: vec![0; slots],
            counts: Default::default(),
            pool: Arc::clone(&pool),
            worker,
            words,
            free_words,
            period_ticks: reuse_delay_ticks.max(1),
            reserved: Vec::new(),
            chooser: Chooser::new(secret),
        };
        blocks.adopt(pool, ownership);
        Ok(blocks)
    }

    /// Goes on with another map, in which what was there before has the same numbers. Blocks that
    /// are held stay held.
    pub fn adopt(&mut self, pool: Arc<PoolMap>, ownership: &Ownership) {
        let before = std::mem::replace(&mut self.pool, pool);
        for slot in 0..before.slot_count() {
            if !self.pool.has_same_blocks(&before, slot) {
                self.forget_rest(&before, slot);
            }
        }
        self.free.fill(0);
        self.free_count.fill(0);
        self.counts = Default::default();
        self.pools = (0..POOLS_MAX).map(|_| Addresses::default()).collect();
        for number in 0..POOLS_MAX {
            let slots = u8::try_from(number).map(|number| self.pool.slots_of_pool(number));
            let slots: Vec<Slot> = slots.into_iter().flatten().collect();
            for (place, &slot) in (0..).zip(&slots) {
                self.places[slot as usize] = place;
            }
            self.pools[number].free = vec![0; slots.len().div_ceil(64)];
            self.pools[number].slots = slots;
        }
        for slot in 0..self.pool.slot_count() {
            self.adopt_slot(slot, ownership);
        }
    }

    /// Forgets what rests of an address that gives its place up: others' ports begin there.
    fn forget_rest(&mut self, before: &PoolMap, slot: Slot) {
        for block in before.blocks_of(slot) {
            let record = &mut self.blocks[block as usize];
            // Memory that nobody ever used stays untouched.
            let is_unused = (record.taken_at, record.empty_since) == (Tick(0), Tick(0));
            if record.subscriber != 0 || is_unused {
                continue;
            }
            record.flags = 0;
            for protocol in Protocol::ALL {
                let at = self.bitmap(block, protocol, RESTING_NEW);
                self.bitmaps[at..at + 2 * self.words].fill(0);
            }
        }
    }

    fn adopt_slot(&mut self, slot: Slot, ownership: &Ownership) {
        let pool = usize::from(self.pool.pool_of(slot));
        let open = self.pool.open_blocks_of(slot);
        let calculated = self.pool.deterministic().has_pool(self.pool.pool_of(slot));
        for block in self.pool.blocks_of(slot) {
            if ownership.of_block(&self.pool, block) != self.worker {
                // One that came back otherwise divided: its owner gives it out, not who saw it rest.
                self.blocks[block as usize].flags &= !FLAG_RESTING;
                continue;
            }
            let is_open = open.contains(&block);
            let record = &self.blocks[block as usize];
            let (is_held, is_resting) = (record.subscriber != 0, record.flags & FLAG_RESTING != 0);
            let counts = &mut self.counts[pool];
            counts.owned += u32::from(is_open || is_held);
            counts.held += u32::from(is_held);
            counts.resting += u32::from(is_resting && is_open);
            let is_fixed = calculated && self.fixed_holder(block).is_some();
            if is_open && !is_held && !is_resting && !is_fixed {
                self.set_free(block);
            }
        }
    }

    fn fixed_holder(&self, block: BlockId) -> Option<u128> {
        let slot = self.pool.slot_of(block);
        let number = (block - 1) % self.pool.stride();
        let sets = self.pool.deterministic();
        sets.subscriber_of(self.pool.pool_of(slot), slot, number)
    }

    /// A block's record.
    #[inline]
    pub fn get(&self, block: BlockId) -> &Block {
        &self.blocks[block as usize]
    }

    /// A block's record, to write.
    #[inline]
    pub fn get_mut(&mut self, block: BlockId) -> &mut Block {
        &mut self.blocks[block as usize]
    }

    /// Blocks of a pool at present.
    pub fn counts(&self, pool: u8) -> PoolCounts {
        self.counts[usize::from(pool)]
    }

    /// Blocks held over all pools.
    pub fn held(&self) -> u32 {
        self.counts.iter().map(|counts| counts.held).sum()
    }

    /// Blocks given out over all pools, those held included.
    pub fn owned(&self) -> u32 {
        self.counts.iter().map(|counts| counts.owned).sum()
    }

    /// Whether a block was given back and its ports rest.
    pub fn is_resting(&self, block: BlockId) -> bool {
        self.blocks[block as usize].flags & FLAG_RESTING != 0
    }

    /// Gives a random free block of the address to a subscriber. None of its ports rests.
    pub fn take(&mut self, slot: Slot, subscriber: u32, now: Tick) -> Option<BlockId> {
        let words = slot as usize * self.free_words..(slot as usize + 1) * self.free_words;
        // Among the blocks that there are: from anywhere else the search would end at the lowest.
        let (base, open) = (
            1 + slot * self.pool.stride(),
            self.pool.open_blocks_of(slot),
        );
        let count = open.end.saturating_sub(open.start);
        let start = open.start.checked_sub(base)? + self.chooser.below(count);
        let free = self.free.get(words)?;
        let block = base + first_set(free.len(), start, |word| free[word])?;
        self.clear_free(block);
        self.hold(block, subscriber, 0, now);
        Some(block)
    }

    /// Gives a block to the subscriber that has it by calculation.
    pub fn take_fixed(&mut self, block: BlockId, subscriber: u32, now: Tick) {
        self.hold(block, subscriber, FLAG_FIXED, now);
    }

    fn hold(&mut self, block: BlockId, subscriber: u32, flags: u8, now: Tick) {
        self.counts_of(block).held += 1;
        let record = &mut self.blocks[block as usize];
        record.subscriber = subscriber;
        record.flags = flags;
        record.next = 0;
        record.empty_since = now;
        record.taken_at = now;
        self.set_apart(block);
    }

    /// Takes excluded and static ports out of a block in which nothing else is in use.
    fn set_apart(&mut self, block: BlockId) {
        let (words, index) = (self.words, block as usize * 3);
        let at = |protocol: Protocol| (index + protocol.index()) * KINDS * words;
        for protocol in Protocol::ALL {
            self.bitmaps[at(protocol)..at(protocol) + words].fill(0);
            for port in self.pool.excluded_in(block) {
                self.bitmaps[at(protocol) + usize::from(port) / 64] |= 1 << (port % 64);
            }
        }
        for &(_, protocol, place) in self.reserved.iter().filter(|one| one.0 == block) {
            self.bitmaps[at(protocol) + usize::from(place) / 64] |= 1 << (place % 64);
        }
    }

    /// Sets a port of a held block apart, or gives it back to those that are given out. One that
    /// is mapped stays in use until it is freed.
    pub fn exclude(
        &mut self,
        block: BlockId,
        protocol: Protocol,
        place: u16,
        is_excluded: bool,
        is_mapped: bool,
    ) {
        let at = self.bitmap(block, protocol, IN_USE) + usize::from(place) / 64;
        let bit = 1 << (place % 64);
        match (is_mapped, is_excluded) {
            (true, true) => self.blocks[block as usize].flags |= FLAG_EXCLUDED,
            (true, false) => {}
            (false, true) => self.bitmaps[at] |= bit,
            (false, false) if self.reserved.contains(&(block, protocol, place)) => {}
            (false, false) => self.bitmaps[at] &= !bit,
        }
    }

    /// Takes an empty block back from its subscriber. If some of its ports still rest, it is not
    /// given out before the tick that is returned, at which [`Blocks::rested`] is to be asked.
    pub fn give_back(&mut self, block: BlockId, now: Tick) -> Option<Tick> {
        self.counts_of(block).held -= 1;
        let record = &mut self.blocks[block as usize];
        let is_fixed = record.is_fixed();
        record.subscriber = 0;
        record.next = 0;
        record.flags = 0;
        // Of a closed address it rests too: that may be opened again.
        let is_open = self.pool.is_open(block);
        if !is_open {
            self.counts_of(block).owned -= 1;
        }
        if is_fixed {
            return None;
        }
        let rested = self.rests_until(block, now);
        if rested.is_some() {
            self.blocks[block as usize].flags = FLAG_RESTING;
        }
        match (is_open, rested) {
            (true, None) => self.set_free(block),
            (true, Some(_)) => self.counts_of(block).resting += 1,
            (false, _) => {}
        }
        rested
    }

    /// Sees whether a block that was given back has rested, and makes it free if so; otherwise
    /// when to ask again.
    pub fn rested(&mut self, block: BlockId, now: Tick) -> Option<Tick> {
        if !self.is_resting(block) {
            return None;
        }
        let until = self.rests_until(block, now);
        if until.is_none() {
            self.blocks[block as usize].flags = 0;
            if self.pool.is_open(block) {
                self.counts_of(block).resting -= 1;
                self.set_free(block);
            }
        }
        until
    }

    /// When the last of a block's resting ports will have rested.
    fn rests_until(&mut self, block: BlockId, now: Tick) -> Option<Tick> {
        self.age(block, now);
        let periods = match [RESTING_NEW, RESTING_OLD].map(|kind| self.has_resting(block, kind)) {
            [true, _] => 2,
            [false, true] => 1,
            [false, false] => return None,
        };
        let period = self.blocks[block as usize].period;
        Some(Tick((period + periods).saturating_mul(self.period_ticks)))
    }

    fn has_resting(&self, block: BlockId, kind: usize) -> bool {
        Protocol::ALL.into_iter().any(|protocol| {
            let at = self.bitmap(block, protocol, kind);
            let words = &self.bitmaps[at..at + self.words];
            words.iter().any(|&word| word != 0)
        })
    }

    /// Whether a block is free although its bitmaps have ports at rest, which must not be.
    pub fn is_free_too_early(&self, block: BlockId) -> bool {
        let rests = [RESTING_NEW, RESTING_OLD];
        self.is_free(block) && rests.iter().any(|&kind| self.has_resting(block, kind))
    }

    /// A port of the block that is neither in use nor resting: of the wanted parity if there is
    /// one (RFC 4787 REQ-4), else any.
    pub fn allocate(
        &mut self,
        block: BlockId,
        protocol: Protocol,
        parity: u16,
        now: Tick,
    ) -> Option<u16> {
        let size = self.pool.block_size();
        if self.blocks[block as usize].used[protocol.index()] >= size {
            return None;
        }
        self.age(block, now);
        let (_, _, port_first) = self.pool.block_start(block)?;
        // Blocks may begin at an odd port.
        let even = (port_first ^ parity) & 1 == 0;
        let wanted = if even {
            0x5555_5555_5555_5555
        } else {
            0xaaaa_aaaa_aaaa_aaaa
        };
        let start = self.chooser.below(u32::from(size));
        let place = self
            .free_port(block, protocol, start, wanted)
            .or_else(|| self.free_port(block, protocol, start, u64::MAX))?;
        self.mark(block, protocol, place);
        Some(port_first + place)
    }

    fn free_port(
        &self,
        block: BlockId,
        protocol: Protocol,
        start: u32,
        wanted: u64,
    ) -> Option<u16> {
        let base = self.bitmap(block, protocol, IN_USE);
        let word_at = |word: usize| {
            let at = base + word;
            let taken = self.bitmaps[at]
                | self.bitmaps[at + RESTING_NEW * self.words]
                | self.bitmaps[at + RESTING_OLD * self.words];
            !taken & wanted
        };
        let place = first_set(self.words, start, word_at)?;
        u16::try_from(place).ok()
    }

    /// Takes a port out for good, for a static BIB entry inside the dynamic ports. It does not
    /// count as used: a block goes back although a static port lies in it.
    pub fn reserve(&mut self, block: BlockId, protocol: Protocol, port: u16) {
        if let Some((_, _, first)) = self.pool.block_start(block) {
            self.reserved.push((block, protocol, port - first));
        }
    }

    /// Forgets which ports were taken out for good; held blocks keep theirs.
    pub fn unreserve(&mut self) {
        self.reserved.clear();
    }

    /// Frees a port; it rests. True if the block is empty now.
    pub fn free(&mut self, block: BlockId, protocol: Protocol, port: u16, now: Tick) -> bool {
        let Some((_, _, first)) = self.pool.block_start(block) else {
            return false;
        };
        self.age(block, now);
        let place = usize::from(port - first);
        let bit = 1u64 << (place % 64);
        let at = self.bitmap(block, protocol, IN_USE) + place / 64;
        self.bitmaps[at] &= !bit;
        self.bitmaps[at + RESTING_NEW * self.words] |= bit;
        let record = &mut self.blocks[block as usize];
        record.used[protocol.index()] -= 1;
        record.empty_since = now;
        let (is_empty, flags) = (record.used == [0; 3], record.flags);
        if flags & FLAG_EXCLUDED != 0 && self.is_excluded(block, place) {
            self.bitmaps[at] |= bit;
        }
        is_empty
    }

    #[cold]
    fn is_excluded(&self, block: BlockId, place: usize) -> bool {
        let mut excluded = self.pool.excluded_in(block);
        excluded.any(|one| usize::from(one) == place)
    }

    /// Whether a port of the block is in use or configured.
    pub fn is_in_use(&self, block: BlockId, protocol: Protocol, port: u16) -> bool {
        let Some((_, _, first)) = self.pool.block_start(block) else {
            return false;
        };
        let place = usize::from(port - first);
        let word = self.bitmaps[self.bitmap(block, protocol, IN_USE) + place / 64];
        word >> (place % 64) & 1 == 1
    }

    /// Ports of the block that are in use or configured.
    pub fn in_use_count(&self, block: BlockId, protocol: Protocol) -> u32 {
        let at = self.bitmap(block, protocol, IN_USE);
        let words = &self.bitmaps[at..at + self.words];
        words.iter().map(|word| word.count_ones()).sum()
    }

    fn mark(&mut self, block: BlockId, protocol: Protocol, place: u16) {
        let at = self.bitmap(block, protocol, IN_USE) + usize::from(place) / 64;
        self.bitmaps[at] |= 1 << (place % 64);
        self.blocks[block as usize].used[protocol.index()] += 1;
    }

    /// Moves the resting ports on if a reuse period or more has passed since they were looked at.
    fn age(&mut self, block: BlockId, now: Tick) {
        let period = now.0 / self.period_ticks;
        let passed = period.saturating_sub(self.blocks[block as usize].period);
        if passed == 0 {
            return;
        }
        self.blocks[block as usize].period = period;
        for protocol in Protocol::ALL {
            let new = self.bitmap(block, protocol, RESTING_NEW);
            let old = self.bitmap(block, protocol, RESTING_OLD);
            for word in 0..self.words {
                self.bitmaps[old + word] = if passed == 1 {
                    self.bitmaps[new + word]
                } else {
                    0
                };
                self.bitmaps[new + word] = 0;
            }
        }
    }

    #[inline]
    fn bitmap(&self, block: BlockId, protocol: Protocol, kind: usize) -> usize {
        ((block as usize * 3 + protocol.index()) * KINDS + kind) * self.words
    }

    /// How much of a block is in use, by its busiest protocol, in steps: nothing, up to a
    /// quarter, a half, three quarters, less than all, all.
    pub fn use_step(&self, block: BlockId) -> usize {
        self.step_of(self.blocks[block as usize].used)
    }

    /// As [`Blocks::use_step`], before the last port of that protocol came into use.
    pub fn use_step_without_one(&self, block: BlockId, protocol: Protocol) -> usize {
        let mut used = self.blocks[block as usize].used;
        used[protocol.index()] = used[protocol.index()].saturating_sub(1);
        self.step_of(used)
    }

    fn step_of(&self, used: [u16; 3]) -> usize {
        let used = used.iter().copied().max().unwrap_or(0);
        let size = self.pool.block_size();
        match used {
            0 => 0,
            used if used >= size => USE_STEPS - 1,
            used => 1 + usize::from((used - 1) / (size / 4)),
        }
    }

    fn counts_of(&mut self, block: BlockId) -> &mut PoolCounts {
        let pool = self.pool.pool_of(self.pool.slot_of(block));
        &mut self.counts[usize::from(pool)]
    }
}

fn words_per_bitmap(pool: &PoolMap) -> usize {
    usize::from(pool.block_size()).div_ceil(64)
}

fn free_words(pool: &PoolMap) -> usize {
    (pool.stride() as usize).div_ceil(64)
}
