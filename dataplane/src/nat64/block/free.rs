//! Which blocks are free, and which addresses have one.

use super::super::chooser::first_set;
use super::super::pool4::{BlockId, Slot};
use super::Blocks;

/// The addresses of a pool, and which of them have a free block.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    pub(super) slots: Vec<Slot>,
    /// A bit for each place in `slots`.
    pub(super) free: Vec<u64>,
}

impl Blocks {
    /// Free blocks of an address.
    pub fn free_of(&self, slot: Slot) -> u32 {
        self.free_count[slot as usize]
    }

    /// An address of a pool for a new subscriber: of two random ones with a free block, the one
    /// that has more of them.
    pub fn choose_address(&mut self, pool: u8) -> Option<Slot> {
        let first = self.random_slot(pool)?;
        let second = self.random_slot(pool)?;
        Some(if self.free_of(first) >= self.free_of(second) {
            first
        } else {
            second
        })
    }

    fn random_slot(&mut self, pool: u8) -> Option<Slot> {
        let addresses = self.pools.get(usize::from(pool))?;
        let count = u32::try_from(addresses.slots.len()).ok()?;
        let start = self.chooser.below(count);
        let free = &addresses.free;
        let place = first_set(free.len(), start, |word| free[word])?;
        addresses.slots.get(place as usize).copied()
    }

    pub(super) fn is_free(&self, block: BlockId) -> bool {
        let slot = self.pool.slot_of(block);
        let place = (block - 1) % self.pool.stride();
        self.free[slot as usize * self.free_words + place as usize / 64] >> (place % 64) & 1 == 1
    }

    pub(super) fn set_free(&mut self, block: BlockId) {
        let slot = self.pool.slot_of(block);
        let place = (block - 1) % self.pool.stride();
        self.free[slot as usize * self.free_words + place as usize / 64] |= 1 << (place % 64);
        self.free_count[slot as usize] += 1;
        if self.free_count[slot as usize] == 1 {
            self.note_free(slot, true);
        }
    }

    pub(super) fn clear_free(&mut self, block: BlockId) {
        let slot = self.pool.slot_of(block);
        let place = (block - 1) % self.pool.stride();
        self.free[slot as usize * self.free_words + place as usize / 64] &= !(1 << (place % 64));
        self.free_count[slot as usize] -= 1;
        if self.free_count[slot as usize] == 0 {
            self.note_free(slot, false);
        }
    }

    /// Notes whether an address has a free block.
    fn note_free(&mut self, slot: Slot, has_free: bool) {
        let addresses = &mut self.pools[usize::from(self.pool.pool_of(slot))];
        let place = self.places[slot as usize] as usize;
        debug_assert!(
            addresses.slots.get(place) == Some(&slot),
            "open addresses are listed"
        );
        let bit = 1 << (place % 64);
        if has_free {
            addresses.free[place / 64] |= bit;
        } else {
            addresses.free[place / 64] &= !bit;
        }
    }
}
