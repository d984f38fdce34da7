//! Choice that cannot be foreseen, and the search from there on.

use crate::memory::HashKey;

/// Numbers that cannot be foreseen by who has seen some of them (RFC 6056, RFC 6888 REQ-15): a
/// keyed hash of a counter.
#[derive(Debug)]
pub(super) struct Chooser {
    key: HashKey,
    counter: u64,
}

impl Chooser {
    /// Numbers that only `key` tells.
    pub(super) fn new(key: HashKey) -> Chooser {
        Chooser { key, counter: 0 }
    }

    /// A number below `bound`; 0 if that is 0.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the product of two 32-bit numbers, upper half
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        self.counter = self.counter.wrapping_add(1);
        let word = self.key.words(self.counter, 0, 0x6056);
        (((word >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// The first set bit at or after `start`, going round, of so many words.
#[inline]
pub(super) fn first_set(count: usize, start: u32, word_at: impl Fn(usize) -> u64) -> Option<u32> {
    let start_word = (start as usize / 64).min(count.checked_sub(1)?);
    let from_start = u64::MAX << (start % 64);
    // The start word counts twice: its upper part first, its lower part last.
    for step in 0..=count {
        let word = (start_word + step) % count;
        let mask = match step {
            0 => from_start,
            _ if step == count => !from_start,
            _ => u64::MAX,
        };
        let found = word_at(word) & mask;
        if found != 0 {
            return u32::try_from(word * 64 + found.trailing_zeros() as usize).ok();
        }
    }
    None
}
