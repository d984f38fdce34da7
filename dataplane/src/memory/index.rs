//! Hash to index: buckets of one cache line with ten 16-bit tags and ten `u32` references.
//!
//! An entry lives in its primary bucket or in the partner that its tag names (partial-key cuckoo
//! hashing: from either bucket and the tag the other can be computed, without the key). A lookup
//! touches the partner only if the primary bucket says that entries of it live elsewhere, so at
//! usual load it costs one line. No growth, no rehash: a table is as large as it was planned.

use super::arena::{Plain, Slab, equal_of_sixteen, first_words, slab_bytes};

const SLOTS: usize = 10;

/// How far an insertion into two full buckets may push others around before it gives up.
const DISPLACEMENTS_MAX: usize = 64;

/// Fill grade a table is planned for: entries to slots. Three entries of a hundred then live away
/// from their primary bucket.
const LOAD_NUMERATOR: usize = 7;
const LOAD_DENOMINATOR: usize = 10;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    /// Zero where a slot is empty.
    tags: [u16; SLOTS],
    /// Entries whose primary bucket this is but that live in their partner bucket.
    away: u16,
    /// Bit n: slot n holds an entry whose primary bucket is another.
    guests: u16,
    references: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

// SAFETY: integers only.
#[allow(unsafe_code)]
unsafe impl Plain for Bucket {}

/// Where a hash leads: its primary bucket and its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Probe {
    bucket: u32,
    tag: u16,
}

impl Probe {
    /// Leads to no bucket in particular: what stands where none was computed yet.
    pub const NOWHERE: Probe = Probe { bucket: 0, tag: 1 };
}

/// The table is too full for this hash: both buckets are, and no displacement helped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The table.
#[derive(Debug)]
pub struct Index {
    buckets: Slab<Bucket>,
    count: u64,
}

impl Index {
    /// Octets of the slab for `capacity` entries.
    pub fn bytes(capacity: usize) -> usize {
        slab_bytes::<Bucket>(bucket_count(capacity))
    }

    /// Takes its slab from the arena.
    ///
    /// # Errors
    /// The arena is used up.
    pub fn new(arena: &mut super::Arena, capacity: usize) -> Result<Index, super::ArenaError> {
        let count = bucket_count(capacity);
        let buckets = arena.resident_slab(count)?;
        Ok(Index {
            buckets,
            count: u64::from(u32::try_from(count).unwrap_or(u32::MAX)),
        })
    }

    /// Where the hash leads.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // halves of a 64-bit hash
    pub fn probe(&self, hash: u64) -> Probe {
        let bucket = scale(hash as u32, self.count);
        // Zero marks an empty slot; an odd number is none, at less cost than a comparison.
        let tag = (hash >> 48) as u16 | 1;
        Probe { bucket, tag }
    }

    /// Asks the memory for the bucket's line.
    #[inline]
    pub fn prefetch(&self, probe: Probe) {
        self.buckets.prefetch(probe.bucket as usize);
    }

    /// The first reference in the primary bucket whose tag fits, or 0: what to prefetch next. Asks
    /// the memory for the partner bucket where the entry can only be there.
    #[inline]
    pub fn guess(&self, probe: Probe) -> u32 {
        let bucket = &self.buckets[probe.bucket as usize];
        let found = matches(bucket, probe.tag);
        if found == 0 {
            if bucket.away != 0 {
                self.prefetch_partner(probe);
            }
            0
        } else {
            bucket.references[found.trailing_zeros() as usize]
        }
    }

    #[cold]
    fn prefetch_partner(&self, probe: Probe) {
        let partner = self.partner(probe.bucket, probe.tag);
        self.buckets.prefetch(partner as usize);
    }

    /// The reference with this tag for which `is_it` holds.
    #[inline]
    pub fn find(&self, probe: Probe, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let bucket = &self.buckets[probe.bucket as usize];
        if let Some((_, reference)) = find_in(bucket, probe.tag, &mut is_it) {
            return Some(reference);
        }
        if bucket.away == 0 {
            return None;
        }
        self.find_away(probe, &mut is_it)
    }

    #[cold]
    fn find_away(&self, probe: Probe, is_it: &mut dyn FnMut(u32) -> bool) -> Option<u32> {
        let partner = self.partner(probe.bucket, probe.tag);
        find_in(&self.buckets[partner as usize], probe.tag, is_it).map(|(_, reference)| reference)
    }

    /// Adds a reference. The caller has made sure that it is not there yet.
    ///
    /// # Errors
    /// [`Full`]; nothing is changed.
    pub fn insert(&mut self, probe: Probe, reference: u32) -> Result<(), Full> {
        if self.place(probe.bucket, probe.tag, reference, false) {
            return Ok(());
        }
        let partner = self.partner(probe.bucket, probe.tag);
        if self.place(partner, probe.tag, reference, true) {
            self.left_home(probe.bucket);
            return Ok(());
        }
        self.displace(probe, reference)
    }

    /// Takes a reference out; false if it was not there.
    pub fn remove(&mut self, probe: Probe, reference: u32) -> bool {
        if self.vacate(probe.bucket, probe.tag, reference) {
            return true;
        }
        let partner = self.partner(probe.bucket, probe.tag);
        let found = self.vacate(partner, probe.tag, reference);
        if found {
            self.came_home(probe.bucket);
        }
        found
    }

    /// Makes room by moving one entry of either bucket to its partner bucket, or one entry of
    /// that partner further on: breadth first, at most [`DISPLACEMENTS_MAX`] buckets looked at.
    #[cold]
    fn displace(&mut self, probe: Probe, reference: u32) -> Result<(), Full> {
        let home = probe.bucket;
        let away = self.partner(home, probe.tag);
        // Each step: a full bucket, and the (step, slot) whose entry would move into it.
        let mut steps: [(u32, u8, u8); DISPLACEMENTS_MAX] = [(0, 0, 0); DISPLACEMENTS_MAX];
        steps[0] = (home, u8::MAX, 0);
        steps[1] = (away, u8::MAX, 0);
        let mut known = 2;
        let mut next = 0;
        while next < known {
            let bucket = steps[next].0;
            for slot in 0..SLOTS {
                let target = self.partner(bucket, self.buckets[bucket as usize].tags[slot]);
                if self.buckets[target as usize].tags.contains(&0) {
                    self.shift(&steps, next, slot, target);
                    let placed = self.insert_once(probe, reference);
                    return if placed { Ok(()) } else { Err(Full) };
                }
                if known < DISPLACEMENTS_MAX && steps[..known].iter().all(|step| step.0 != target) {
                    #[allow(clippy::cast_possible_truncation)] // both below 64
                    {
                        steps[known] = (target, next as u8, slot as u8);
                    }
                    known += 1;
                }
            }
            next += 1;
        }
        Err(Full)
    }

    /// Carries out the moves that `displace` found: from the free slot back to the first bucket.
    fn shift(
        &mut self,
        steps: &[(u32, u8, u8)],
        mut step: usize,
        mut slot: usize,
        mut target: u32,
    ) {
        loop {
            let (bucket, from_step, from_slot) = steps[step];
            self.relocate(bucket, slot, target);
            if from_step == u8::MAX {
                return;
            }
            target = bucket;
            slot = usize::from(from_slot);
            step = usize::from(from_step);
        }
    }

    /// Moves one entry to its other bucket and keeps both counts right.
    fn relocate(&mut self, from: u32, slot: usize, to: u32) {
        let bucket = &mut self.buckets[from as usize];
        let tag = bucket.tags[slot];
        let reference = bucket.references[slot];
        let was_guest = bucket.guests >> slot & 1 == 1;
        bucket.tags[slot] = 0;
        bucket.guests &= !(1 << slot);
        let placed = self.place(to, tag, reference, !was_guest);
        debug_assert!(placed, "displace found a free slot in the target");
        if was_guest {
            self.came_home(to);
        } else {
            self.left_home(from);
        }
    }

    fn insert_once(&mut self, probe: Probe, reference: u32) -> bool {
        if self.place(probe.bucket, probe.tag, reference, false) {
            return true;
        }
        let partner = self.partner(probe.bucket, probe.tag);
        let placed = self.place(partner, probe.tag, reference, true);
        if placed {
            self.left_home(probe.bucket);
        }
        placed
    }

    fn place(&mut self, bucket: u32, tag: u16, reference: u32, guest: bool) -> bool {
        let bucket = &mut self.buckets[bucket as usize];
        let Some(slot) = bucket.tags.iter().position(|&tag| tag == 0) else {
            return false;
        };
        bucket.tags[slot] = tag;
        bucket.references[slot] = reference;
        bucket.guests = bucket.guests & !(1 << slot) | u16::from(guest) << slot;
        true
    }

    fn vacate(&mut self, bucket: u32, tag: u16, reference: u32) -> bool {
        let bucket = &mut self.buckets[bucket as usize];
        let Some((slot, _)) = find_in(bucket, tag, &mut |found| found == reference) else {
            return false;
        };
        bucket.tags[slot] = 0;
        bucket.guests &= !(1 << slot);
        true
    }

    fn left_home(&mut self, bucket: u32) {
        let away = &mut self.buckets[bucket as usize].away;
        *away = away.saturating_add(1);
    }

    fn came_home(&mut self, bucket: u32) {
        let away = &mut self.buckets[bucket as usize].away;
        // A count that ever saturated stays: it only costs a second look.
        if *away != u16::MAX {
            *away = away.saturating_sub(1);
        }
    }

    #[allow(clippy::cast_possible_truncation)] // made from 32 bits
    fn bucket_count(&self) -> u32 {
        self.count as u32
    }

    /// The other bucket of an entry: its own inverse, for any number of buckets.
    #[inline]
    fn partner(&self, bucket: u32, tag: u16) -> u32 {
        let mixed = u32::from(tag)
            .wrapping_mul(0x9e37_79b1)
            .rotate_left(15)
            .wrapping_mul(0x85eb_ca77);
        let anchor = scale(mixed, self.count);
        if anchor >= bucket {
            anchor - bucket
        } else {
            self.bucket_count() - (bucket - anchor)
        }
    }
}

fn bucket_count(capacity: usize) -> usize {
    (capacity.max(1) * LOAD_DENOMINATOR)
        .div_ceil(LOAD_NUMERATOR * SLOTS)
        .max(2)
}

/// Maps 32 random bits to 0..count without a division.
#[inline]
#[allow(clippy::cast_possible_truncation)] // the upper half of a 32 by 32 bit product
fn scale(random: u32, count: u64) -> u32 {
    ((u64::from(random) * count) >> 32) as u32
}

/// Bit n set: slot n has this tag.
#[inline]
fn matches(bucket: &Bucket, tag: u16) -> u32 {
    // What stands behind the tags is compared with them and left out.
    equal_of_sixteen(first_words(bucket), tag) & ((1 << SLOTS) - 1)
}

#[inline]
fn find_in(
    bucket: &Bucket,
    tag: u16,
    is_it: &mut (impl FnMut(u32) -> bool + ?Sized),
) -> Option<(usize, u32)> {
    let mut found = matches(bucket, tag);
    while found != 0 {
        let slot = found.trailing_zeros() as usize;
        let reference = bucket.references[slot];
        if is_it(reference) {
            return Some((slot, reference));
        }
        found &= found - 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::arena::{Arena, Pages};
    use super::*;
    use crate::memory::hash::{HashKey, Rng};

    fn index(capacity: usize) -> Index {
        let mut arena = Arena::reserve(Index::bytes(capacity), Pages::Ordinary).unwrap();
        Index::new(&mut arena, capacity).unwrap()
    }

    #[test]
    fn takes_its_stated_capacity_and_more_and_finds_everything() {
        const CAPACITY: u32 = 100_000;
        let key = HashKey::seeded(1);
        let mut index = index(CAPACITY as usize);
        let hash = |reference: u32| key.words(u64::from(reference), 7, 9);
        for reference in 1..=CAPACITY {
            let probe = index.probe(hash(reference));
            assert_eq!(index.insert(probe, reference), Ok(()), "{reference}");
        }
        for reference in 1..=CAPACITY {
            assert_eq!(
                index.find(index.probe(hash(reference)), |found| found == reference),
                Some(reference)
            );
        }
        for reference in 1..=CAPACITY {
            assert!(index.remove(index.probe(hash(reference)), reference));
        }
        assert!(
            index
                .buckets
                .iter()
                .all(|bucket| bucket.tags == [0; SLOTS] && bucket.away == 0 && bucket.guests == 0)
        );
    }

    #[test]
    fn full_is_an_error_and_changes_nothing() {
        let key = HashKey::seeded(1);
        let mut index = index(16);
        let slots = index.bucket_count() * 10;
        let mut inserted = Vec::new();
        for reference in 1..=slots * 2 {
            let probe = index.probe(key.words(u64::from(reference), 0, 0));
            if index.insert(probe, reference).is_ok() {
                inserted.push(reference);
            }
        }
        assert!(
            inserted.len() >= (slots as usize) * 9 / 10,
            "{} of {slots}",
            inserted.len()
        );
        for &reference in &inserted {
            let probe = index.probe(key.words(u64::from(reference), 0, 0));
            assert_eq!(
                index.find(probe, |found| found == reference),
                Some(reference)
            );
        }
    }

    #[test]
    fn churn_agrees_with_a_map() {
        let key = HashKey::seeded(2);
        let mut rng = Rng::new(1);
        let mut index = index(1000);
        let mut model = std::collections::BTreeSet::new();
        for _ in 0..200_000 {
            let reference = rng.below(1250) + 1;
            let probe = index.probe(key.words(u64::from(reference), 0, 0));
            if model.contains(&reference) {
                assert!(index.remove(probe, reference));
                model.remove(&reference);
            } else if model.len() < 1000 {
                assert_eq!(index.insert(probe, reference), Ok(()));
                model.insert(reference);
            }
        }
        for reference in 1..=1250 {
            let probe = index.probe(key.words(u64::from(reference), 0, 0));
            assert_eq!(
                index.find(probe, |found| found == reference).is_some(),
                model.contains(&reference)
            );
        }
    }
}
