//! Port blocks: which are free, who holds them, and which of their ports are in use.
//!
//! A block covers the same ports of all three protocols, each with bitmaps of its own: in use,
//! freed in this reuse period, freed in the one before. A freed port rests one to two periods of
//! `port_reuse_delay` (RFC 6888 REQ-8) without a timer. Choice of address, block and port is
//! random (RFC 6056) and costs a few words of bitmap at any occupancy.

use std::sync::Arc;

use gate64_wire::addr::Protocol;

use super::ownership::Ownership;
use super::pool4::{BlockId, PoolMap, Slot};
use crate::clock::Tick;
use crate::memory::arena::slab_bytes;
use crate::memory::hash::Rng;
use crate::memory::{Arena, ArenaError, Plain, Slab};
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
    reserved: u8,
    /// Reuse period the resting bitmaps are of.
    period: u32,
    /// When its last port was freed.
    pub empty_since: Tick,
}

// SAFETY: integers only.
#[allow(unsafe_code)]
unsafe impl Plain for Block {}

/// All blocks of the pool, of which this worker gives out its own.
#[derive(Debug)]
pub struct Blocks {
    pool: Arc<PoolMap>,
    blocks: Slab<Block>,
    bitmaps: Slab<u64>,
    /// Free blocks of this worker: a bit for each block, by address.
    free: Slab<u64>,
    /// Free blocks of this worker, by address.
    free_count: Slab<u32>,
    /// Addresses with a free block: a bit each.
    free_slots: Slab<u64>,
    words: usize,
    free_words: usize,
    period_ticks: u32,
    rng: Rng,
    /// Blocks that this worker may give out.
    pub owned: u32,
    /// Blocks held by subscribers.
    pub held: u32,
}

impl Blocks {
    /// Octets of the slabs.
    pub fn bytes(pool: &PoolMap) -> usize {
        let blocks = pool.block_count() as usize + 1;
        let slots = pool.slot_count() as usize;
        slab_bytes::<Block>(blocks)
            + slab_bytes::<u64>(blocks * 3 * KINDS * words_per_bitmap(pool))
            + slab_bytes::<u64>(slots * free_words(pool))
            + slab_bytes::<u32>(slots)
            + slab_bytes::<u64>(slots.div_ceil(64))
    }

    /// Takes its slabs from the arena and marks what belongs to `worker` as free.
    ///
    /// # Errors
    /// The arena is used up.
    pub fn new(
        arena: &mut Arena,
        pool: Arc<PoolMap>,
        ownership: &Ownership,
        worker: WorkerId,
        reuse_delay_ticks: u32,
        rng: Rng,
    ) -> Result<Blocks, ArenaError> {
        let count = pool.block_count() as usize + 1;
        let slots = pool.slot_count() as usize;
        let words = words_per_bitmap(&pool);
        let free_words = free_words(&pool);
        let mut blocks = Blocks {
            blocks: arena.resident_slab(count)?,
            bitmaps: arena.slab(count * 3 * KINDS * words)?,
            free: arena.slab(slots * free_words)?,
            free_count: arena.slab(slots)?,
            free_slots: arena.slab(slots.div_ceil(64))?,
            pool,
            words,
            free_words,
            period_ticks: reuse_delay_ticks.max(1),
            rng,
            owned: 0,
            held: 0,
        };
        for slot in 0..blocks.pool.slot_count() {
            let Some((first, count)) = blocks.pool.blocks_of(slot) else {
                continue;
            };
            for block in first..first + count {
                if ownership.of_block(slot, block) == worker {
                    blocks.set_free(slot, block - first);
                    blocks.owned += 1;
                }
            }
        }
        Ok(blocks)
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

    /// Free blocks of an address.
    pub fn free_of(&self, slot: Slot) -> u32 {
        self.free_count[slot as usize]
    }

    /// An address for a new subscriber: of two random ones with a free block, the emptier.
    pub fn choose_address(&mut self) -> Option<Slot> {
        let first = self.random_slot()?;
        let second = self.random_slot()?;
        Some(if self.free_of(first) >= self.free_of(second) {
            first
        } else {
            second
        })
    }

    fn random_slot(&mut self) -> Option<Slot> {
        let start = self.rng.below(self.pool.slot_count().max(1));
        first_set(&self.free_slots, start)
    }

    /// Gives a random free block of the address to a subscriber.
    pub fn take(&mut self, slot: Slot, subscriber: u32, now: Tick) -> Option<BlockId> {
        let (first, count) = self.pool.blocks_of(slot)?;
        let words = slot as usize * self.free_words..(slot as usize + 1) * self.free_words;
        let start = self.rng.below(count.max(1));
        let place = first_set(&self.free[words], start)?;
        self.clear_free(slot, place);
        self.held += 1;
        let block = first + place;
        let record = &mut self.blocks[block as usize];
        record.subscriber = subscriber;
        record.next = 0;
        record.empty_since = now;
        Some(block)
    }

    /// Takes an empty block back from its subscriber. What rests in it goes on resting.
    pub fn give_back(&mut self, block: BlockId) {
        let Some((_, slot, _)) = self.pool.block_start(block) else {
            return;
        };
        let Some((first, _)) = self.pool.blocks_of(slot) else {
            return;
        };
        self.blocks[block as usize].subscriber = 0;
        self.blocks[block as usize].next = 0;
        self.set_free(slot, block - first);
        self.held -= 1;
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
        let start = self.rng.below(u32::from(size));
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
        let start_word = start as usize / 64;
        let from_start = u64::MAX << (start % 64);
        // The start word counts twice: its upper part first, its lower part last.
        for step in 0..=self.words {
            let word = (start_word + step) % self.words;
            let mask = match step {
                0 => from_start,
                _ if step == self.words => !from_start,
                _ => u64::MAX,
            };
            let free = word_at(word) & mask;
            if free != 0 {
                return u16::try_from(word * 64 + free.trailing_zeros() as usize).ok();
            }
        }
        None
    }

    /// Takes a port out for good, for a static BIB entry inside the dynamic ports. It does not
    /// count as used: a block goes back although a static port lies in it.
    pub fn reserve(&mut self, block: BlockId, protocol: Protocol, port: u16) {
        if let Some((_, _, first)) = self.pool.block_start(block) {
            let place = port - first;
            let at = self.bitmap(block, protocol, IN_USE) + usize::from(place) / 64;
            self.bitmaps[at] |= 1 << (place % 64);
        }
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
        record.used == [0; 3]
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

    fn set_free(&mut self, slot: Slot, place: u32) {
        self.free[slot as usize * self.free_words + place as usize / 64] |= 1 << (place % 64);
        self.free_count[slot as usize] += 1;
        self.free_slots[slot as usize / 64] |= 1 << (slot % 64);
    }

    fn clear_free(&mut self, slot: Slot, place: u32) {
        self.free[slot as usize * self.free_words + place as usize / 64] &= !(1 << (place % 64));
        self.free_count[slot as usize] -= 1;
        if self.free_count[slot as usize] == 0 {
            self.free_slots[slot as usize / 64] &= !(1 << (slot % 64));
        }
    }
}

fn words_per_bitmap(pool: &PoolMap) -> usize {
    usize::from(pool.block_size()).div_ceil(64)
}

fn free_words(pool: &PoolMap) -> usize {
    (pool.blocks_per_address_max() as usize).div_ceil(64).max(1)
}

/// The first set bit at or after `start`, going round.
fn first_set(words: &[u64], start: u32) -> Option<u32> {
    let start_word = (start as usize / 64).min(words.len().checked_sub(1)?);
    let from_start = u64::MAX << (start % 64);
    for step in 0..=words.len() {
        let word = (start_word + step) % words.len();
        let mask = match step {
            0 => from_start,
            _ if step == words.len() => !from_start,
            _ => u64::MAX,
        };
        let found = words[word] & mask;
        if found != 0 {
            return u32::try_from(word * 64 + found.trailing_zeros() as usize).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Nat64Config, Pool4Prefix, SubscriberLimits};
    use crate::memory::HashKey;
    use crate::memory::arena::Pages;

    fn blocks(block_size: u16, ports: std::ops::RangeInclusive<u16>) -> Blocks {
        let config = Nat64Config {
            pool4: vec![Pool4Prefix {
                address: [192, 0, 2, 0].into(),
                length: 31,
                ports,
                exclude: vec![],
                shared_with_host: false,
            }],
            subscriber: SubscriberLimits {
                port_block_size: block_size,
                ..SubscriberLimits::default()
            },
            ..Nat64Config::default()
        };
        let pool = Arc::new(PoolMap::new(&config));
        let ownership = Ownership::new(&config, &pool, 1, HashKey::seeded(1));
        let mut arena = Arena::reserve(Blocks::bytes(&pool), Pages::Ordinary).unwrap();
        Blocks::new(&mut arena, pool, &ownership, WorkerId(0), 480, Rng::new(1)).unwrap()
    }

    #[test]
    fn every_port_once_then_none_and_freed_ports_rest() {
        let mut blocks = blocks(64, 1001..=1128);
        let slot = blocks.choose_address().unwrap();
        let block = blocks.take(slot, 1, Tick(0)).unwrap();
        let mut ports = std::collections::BTreeSet::new();
        for _ in 0..64 {
            assert!(ports.insert(blocks.allocate(block, Protocol::Udp, 0, Tick(0)).unwrap()));
        }
        assert_eq!(blocks.allocate(block, Protocol::Udp, 0, Tick(0)), None);
        assert!(blocks.allocate(block, Protocol::Tcp, 0, Tick(0)).is_some());
        let port = *ports.first().unwrap();
        assert!(!blocks.free(block, Protocol::Udp, port, Tick(1)));
        // RFC 6888 REQ-8: not within the reuse delay, surely after two of them.
        assert_eq!(blocks.allocate(block, Protocol::Udp, 0, Tick(480)), None);
        assert_eq!(
            blocks.allocate(block, Protocol::Udp, 0, Tick(960)),
            Some(port)
        );
    }

    #[test]
    fn rfc4787_req_4_parity_where_free_never_a_failure_for_it() {
        for range in [1024..=1151, 1025..=1152] {
            let mut blocks = blocks(64, range);
            let block = blocks.take(0, 1, Tick(0)).unwrap();
            for _ in 0..32 {
                assert_eq!(
                    blocks.allocate(block, Protocol::Udp, 1, Tick(0)).unwrap() % 2,
                    1
                );
            }
            assert_eq!(
                blocks.allocate(block, Protocol::Udp, 1, Tick(0)).unwrap() % 2,
                0
            );
        }
    }

    #[test]
    fn blocks_go_out_once_and_come_back() {
        let mut blocks = blocks(64, 1024..=65535);
        let mut taken = std::collections::BTreeSet::new();
        while let Some(slot) = blocks.choose_address() {
            assert!(taken.insert(blocks.take(slot, 1, Tick(0)).unwrap()));
        }
        assert_eq!(taken.len(), 2 * 1008);
        assert_eq!((blocks.held, blocks.owned), (2016, 2016));
        let one = *taken.first().unwrap();
        blocks.give_back(one);
        let slot = blocks.choose_address().unwrap();
        assert_eq!(blocks.take(slot, 2, Tick(0)), Some(one));
    }
}
