//! A coarse timer wheel that is never touched by a packet.
//!
//! A packet only stores its time in the line it already holds. The wheel visits an entry when it
//! could have expired; who visits puts it back if it has not. A slot is a chain of one-line
//! chunks of fifteen references, so that a visit prefetches several entries at once instead of
//! following a list through memory.

use super::arena::{Arena, ArenaError, Plain, Slab, slab_bytes};
use crate::clock::Tick;

/// References in a chunk.
pub const CHUNK_REFERENCES: usize = 15;

/// Slots, a power of two; one tick each.
const SLOTS: u32 = 1024;

/// Ticks that a visit can lie ahead; a later one is visited early and put back.
pub const HORIZON_TICKS: u32 = SLOTS - 2;

/// Empty slots passed over in one call, so that a long sleep does not become a long call.
const SKIP_MAX: u32 = SLOTS;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Chunk {
    references: [u32; CHUNK_REFERENCES],
    next: u32,
}

const _: () = assert!(size_of::<Chunk>() == 64);

// SAFETY: integers only.
#[allow(unsafe_code)]
unsafe impl Plain for Chunk {}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Slot {
    /// First chunk, 0 for none. All chunks behind it are full.
    head: u32,
    /// References in the first chunk.
    count: u32,
}

// SAFETY: integers only.
#[allow(unsafe_code)]
unsafe impl Plain for Slot {}

/// References that are due, of one chunk.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    references: [u32; CHUNK_REFERENCES],
    count: usize,
}

impl Due {
    /// The references.
    pub fn references(&self) -> &[u32] {
        &self.references[..self.count]
    }
}

/// The wheel.
#[derive(Debug)]
pub struct Wheel {
    slots: Slab<Slot>,
    chunks: Slab<Chunk>,
    /// Chunks given back, linked by `next`.
    free: u32,
    /// Chunks never used begin here.
    fresh: u32,
    /// The tick whose slot is visited next.
    current: Tick,
}

impl Wheel {
    /// Octets of its slabs for `capacity` references.
    pub fn bytes(capacity: usize) -> usize {
        slab_bytes::<Slot>(SLOTS as usize) + slab_bytes::<Chunk>(chunk_count(capacity))
    }

    /// Takes its slabs from the arena.
    ///
    /// # Errors
    /// The arena is used up.
    pub fn new(arena: &mut Arena, capacity: usize) -> Result<Wheel, ArenaError> {
        Ok(Wheel {
            slots: arena.resident_slab(SLOTS as usize)?,
            chunks: arena.resident_slab(chunk_count(capacity))?,
            free: 0,
            fresh: 1,
            current: Tick(0),
        })
    }

    /// Has the reference visited at `at` or, if that is beyond the horizon, earlier. Each
    /// reference is armed once at a time, so that the planned chunks always suffice.
    pub fn arm(&mut self, at: Tick, reference: u32) {
        let earliest = self.current.0 + 1;
        let at = at.0.clamp(earliest, self.current.0 + HORIZON_TICKS);
        let slot = self.slots[(at % SLOTS) as usize];
        let slot = if slot.head == 0 || slot.count as usize == CHUNK_REFERENCES {
            let chunk = self.take_chunk();
            self.chunks[chunk as usize].next = slot.head;
            Slot {
                head: chunk,
                count: 0,
            }
        } else {
            slot
        };
        self.chunks[slot.head as usize].references[slot.count as usize] = reference;
        self.slots[(at % SLOTS) as usize] = Slot {
            head: slot.head,
            count: slot.count + 1,
        };
    }

    /// Whether [`Wheel::take_due`] has something to do: without it nothing is due.
    #[inline]
    pub fn is_behind(&self, now: Tick) -> bool {
        let slot = self.slots[(self.current.0 % SLOTS) as usize];
        self.current < now || (self.current == now && slot.head != 0)
    }

    /// The next references due at or before `now`: a chunk's, but no more than `most` of them,
    /// which is at least one. `None` when all are done.
    pub fn take_due(&mut self, now: Tick, most: usize) -> Option<Due> {
        for _ in 0..SKIP_MAX {
            let place = (self.current.0 % SLOTS) as usize;
            let slot = self.slots[place];
            if slot.head != 0 {
                if self.current > now {
                    return None;
                }
                return Some(self.take_from(place, slot, most));
            }
            if self.current >= now {
                return None;
            }
            self.current.0 += 1;
        }
        None
    }

    fn take_from(&mut self, place: usize, slot: Slot, most: usize) -> Due {
        let chunk = self.chunks[slot.head as usize];
        let held = slot.count as usize;
        if held > most {
            // The last ones go: what stays begins the chunk, as ever.
            let mut references = [0; CHUNK_REFERENCES];
            references[..most].copy_from_slice(&chunk.references[held - most..held]);
            #[allow(clippy::cast_possible_truncation)] // at most 15
            let count = (held - most) as u32;
            self.slots[place].count = count;
            return Due {
                references,
                count: most,
            };
        }
        self.give_back(slot.head);
        // What stands behind the first chunk is full.
        #[allow(clippy::cast_possible_truncation)] // 15
        let count = CHUNK_REFERENCES as u32;
        self.slots[place] = Slot {
            head: chunk.next,
            count,
        };
        Due {
            references: chunk.references,
            count: held,
        }
    }

    fn take_chunk(&mut self) -> u32 {
        if self.free != 0 {
            let chunk = self.free;
            self.free = self.chunks[chunk as usize].next;
            return chunk;
        }
        let chunk = self.fresh;
        assert!(
            (chunk as usize) < self.chunks.len(),
            "a reference was armed twice"
        );
        self.fresh += 1;
        chunk
    }

    fn give_back(&mut self, chunk: u32) {
        self.chunks[chunk as usize].next = self.free;
        self.free = chunk;
    }
}

/// Full chunks for all references, a partly filled one for every slot, and number 0.
fn chunk_count(capacity: usize) -> usize {
    capacity.div_ceil(CHUNK_REFERENCES) + SLOTS as usize + 2
}

#[cfg(test)]
mod tests {
    use super::super::arena::Pages;
    use super::*;

    fn wheel(capacity: usize) -> Wheel {
        let mut arena = Arena::reserve(Wheel::bytes(capacity), Pages::Ordinary).unwrap();
        Wheel::new(&mut arena, capacity).unwrap()
    }

    fn due(wheel: &mut Wheel, now: u32) -> Vec<u32> {
        let mut all = Vec::new();
        while let Some(due) = wheel.take_due(Tick(now), 4) {
            all.extend_from_slice(due.references());
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn visits_neither_early_nor_twice() {
        let mut wheel = wheel(100);
        for reference in 1..=100 {
            wheel.arm(Tick(10 + reference % 3), reference);
        }
        assert_eq!(due(&mut wheel, 9), []);
        assert_eq!(due(&mut wheel, 10).len(), 33);
        assert_eq!(due(&mut wheel, 10), []);
        assert_eq!(due(&mut wheel, 500).len(), 67);
        assert_eq!(due(&mut wheel, 5000), []);
    }

    #[test]
    fn no_more_are_taken_than_asked_for() {
        let mut wheel = wheel(40);
        for reference in 1..=40 {
            wheel.arm(Tick(3), reference);
        }
        let mut seen = Vec::new();
        for most in [1, 4, 5, 2, 16, 15] {
            let due = wheel.take_due(Tick(3), most).unwrap();
            assert!((1..=most).contains(&due.references().len()));
            seen.extend_from_slice(due.references());
        }
        assert!(wheel.take_due(Tick(3), 15).is_none());
        seen.sort_unstable();
        assert_eq!(seen, (1..=40).collect::<Vec<u32>>());
    }

    #[test]
    fn beyond_the_horizon_is_visited_early_for_re_arming() {
        let mut wheel = wheel(1);
        wheel.arm(Tick(1_000_000), 1);
        assert_eq!(due(&mut wheel, HORIZON_TICKS - 1), []);
        assert_eq!(due(&mut wheel, HORIZON_TICKS), [1]);
    }

    #[test]
    fn past_and_present_come_with_the_next_tick() {
        let mut wheel = wheel(2);
        assert_eq!(due(&mut wheel, 100), []);
        wheel.arm(Tick(50), 1);
        assert_eq!(due(&mut wheel, 100), []);
        assert_eq!(due(&mut wheel, 101), [1]);
    }

    #[test]
    fn chunks_suffice_for_the_capacity_wherever_they_are_armed() {
        let mut wheel = wheel(2000);
        for round in 0..5u32 {
            for reference in 1..=2000 {
                wheel.arm(Tick(wheel.current.0 + 1 + reference % 900), reference);
            }
            assert_eq!(due(&mut wheel, (round + 1) * 1000).len(), 2000);
        }
    }
}
