//! Answers as octets, kept for a short time by one thread, without a lock.
//!
//! The answer cache behind it knows how long an answer lives; here it is kept for at most half of
//! its time, so that the general path sees popular names often enough to renew them.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::query::HEADER;
use crate::metrics::{Outcome, QueryType};

/// The longest time an answer is kept here.
const LIFE_SECONDS_MAX: u32 = 60;
/// What an entry costs beside its octets: itself, its place in the table, its allocation.
const ENTRY_OVERHEAD: usize = 96;

/// Bounded in octets; what was not used since the hand last passed gives way.
pub(super) struct WireCache {
    table: HashTable<u32>,
    entries: Vec<Entry>,
    hasher: RandomState,
    hand: usize,
    octets: usize,
    octets_max: usize,
}

struct Entry {
    hash: u64,
    /// The key, the message, and the offsets of its TTLs, two octets each.
    octets: Box<[u8]>,
    key_len: u16,
    message_len: u16,
    born: u32,
    life: u32,
    generation: u32,
    counted: Counted,
    was_used: bool,
}

/// What an answer is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) qtype: QueryType,
    pub(super) outcome: Outcome,
}

/// A message that may be kept, with what is needed to send it again later.
pub(super) struct Fill {
    pub(super) key: Box<[u8]>,
    pub(super) message: Vec<u8>,
    /// When its TTLs were right, in seconds of the clock.
    pub(super) born: u32,
    /// The configuration that it was made under.
    pub(super) generation: u32,
    pub(super) counted: Counted,
}

/// An answer found.
pub(super) struct Hit<'a> {
    message: &'a [u8],
    ttl_offsets: &'a [u8],
    age: u32,
    pub(super) counted: Counted,
}

impl WireCache {
    pub(super) fn new(octets_max: usize) -> WireCache {
        WireCache {
            table: HashTable::new(),
            entries: Vec::new(),
            hasher: RandomState::new(),
            hand: 0,
            octets: 0,
            octets_max,
        }
    }

    /// Answers kept.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Their memory.
    pub(super) fn octets(&self) -> usize {
        self.octets
    }

    /// A fresh answer made under this configuration.
    pub(super) fn get(&mut self, key: &[u8], now: u32, generation: u32) -> Option<Hit<'_>> {
        let hash = self.hasher.hash_one(key);
        let entries = &mut self.entries;
        let index = *self.table.find(hash, |index| {
            let entry = &entries[*index as usize];
            entry.hash == hash && entry.key() == key
        })?;
        let entry = &mut entries[index as usize];
        let age = now.saturating_sub(entry.born);
        if age >= entry.life || entry.generation != generation {
            return None;
        }
        entry.was_used = true;
        let message_end = usize::from(entry.key_len) + usize::from(entry.message_len);
        Some(Hit {
            message: &entry.octets[usize::from(entry.key_len)..message_end],
            ttl_offsets: &entry.octets[message_end..],
            age,
            counted: entry.counted,
        })
    }

    /// Keeps a message, if it may be kept.
    pub(super) fn insert(&mut self, fill: Fill) {
        let Some(times) = Times::of(&fill.message) else {
            return;
        };
        let (Ok(key_len), Ok(message_len)) = (
            u16::try_from(fill.key.len()),
            u16::try_from(fill.message.len()),
        ) else {
            return;
        };
        let hash = self.hasher.hash_one(&*fill.key);
        let octets = [&*fill.key, &fill.message, &times.offsets].concat();
        let cost = octets.len() + ENTRY_OVERHEAD;
        self.remove(hash, &fill.key);
        while self.octets + cost > self.octets_max && !self.entries.is_empty() {
            self.give_way();
        }
        let Ok(index) = u32::try_from(self.entries.len()) else {
            return;
        };
        if cost > self.octets_max {
            return;
        }
        self.octets += cost;
        self.entries.push(Entry {
            hash,
            octets: octets.into(),
            key_len,
            message_len,
            born: fill.born,
            life: times.life,
            generation: fill.generation,
            counted: fill.counted,
            was_used: false,
        });
        let entries = &self.entries;
        let hash_of = |index: &u32| entries[*index as usize].hash;
        self.table.insert_unique(hash, index, hash_of);
    }

    fn remove(&mut self, hash: u64, key: &[u8]) {
        let entries = &self.entries;
        let found = self.table.find(hash, |index| {
            let entry = &entries[*index as usize];
            entry.hash == hash && entry.key() == key
        });
        if let Some(index) = found {
            self.take_out(*index as usize);
        }
    }

    /// Takes out the first entry from the hand on that was not used meanwhile.
    fn give_way(&mut self) {
        loop {
            self.hand %= self.entries.len();
            let entry = &mut self.entries[self.hand];
            if !std::mem::take(&mut entry.was_used) {
                break self.take_out(self.hand);
            }
            self.hand += 1;
        }
    }

    /// Takes out an entry; the last one moves to its place.
    fn take_out(&mut self, index: usize) {
        let last = self.entries.len() - 1;
        self.unlink(index);
        if index != last {
            self.unlink(last);
        }
        let gone = self.entries.swap_remove(index);
        self.octets -= gone.octets.len() + ENTRY_OVERHEAD;
        if let (Some(moved), Ok(place)) = (self.entries.get(index), u32::try_from(index)) {
            let entries = &self.entries;
            let hash_of = |index: &u32| entries[*index as usize].hash;
            self.table.insert_unique(moved.hash, place, hash_of);
        }
    }

    fn unlink(&mut self, index: usize) {
        let hash = self.entries[index].hash;
        if let Ok(place) = self.table.find_entry(hash, |n| *n as usize == index) {
            place.remove();
        }
    }
}

impl Entry {
    fn key(&self) -> &[u8] {
        &self.octets[..usize::from(self.key_len)]
    }
}

impl Hit<'_> {
    /// Octets of the message.
    pub(super) fn len(&self) -> usize {
        self.message.len()
    }

    /// Writes the message as an answer to this query: its id, its name's case, the TTLs of now.
    /// The query has the key under which the message was kept, so its question is as long.
    pub(super) fn write(&self, query: &[u8], question_end: usize, out: &mut [u8]) -> Option<usize> {
        let out = out.get_mut(..self.message.len())?;
        out.copy_from_slice(self.message);
        out.get_mut(..2)?.copy_from_slice(query.get(..2)?);
        let question = query.get(HEADER..question_end)?;
        out.get_mut(HEADER..question_end)?.copy_from_slice(question);
        if self.age == 0 {
            return Some(out.len());
        }
        let (offsets, _) = self.ttl_offsets.as_chunks::<2>();
        for offset in offsets {
            let at = usize::from(u16::from_be_bytes(*offset));
            let ttl = out.get_mut(at..)?.first_chunk_mut::<4>()?;
            *ttl = u32::from_be_bytes(*ttl)
                .saturating_sub(self.age)
                .to_be_bytes();
        }
        Some(out.len())
    }
}

/// The TTLs of a message.
struct Times {
    /// Where they are, two octets each.
    offsets: Vec<u8>,
    /// How long the message may be kept here, in seconds.
    life: u32,
}

impl Times {
    /// Nothing for a message that must not be kept: a failure, a truncated one, one that says
    /// nothing about how long it holds, or one that this server could not have made.
    fn of(message: &[u8]) -> Option<Times> {
        let header = message.first_chunk::<HEADER>()?;
        let is_truncated = header[2] & 0x02 != 0;
        let is_kept = matches!(header[3] & 0x0f, 0 | 3);
        if is_truncated || !is_kept || header[4..6] != [0, 1] {
            return None;
        }
        let (counts, _) = header[6..].as_chunks::<2>();
        let records = counts.iter().map(|c| u32::from(u16::from_be_bytes(*c)));
        let mut at = skip_name(message, HEADER)? + 4;
        let mut offsets = Vec::new();
        let mut least = u32::MAX;
        for _ in 0..records.sum::<u32>() {
            at = skip_name(message, at)?;
            let [type_high, type_low, _, _, ttl @ .., len_high, len_low] =
                message.get(at..)?.first_chunk::<10>()?;
            if [*type_high, *type_low] != [0, 41] {
                offsets.extend_from_slice(&u16::try_from(at + 4).ok()?.to_be_bytes());
                least = least.min(u32::from_be_bytes(*ttl));
            }
            at += 10 + usize::from(u16::from_be_bytes([*len_high, *len_low]));
        }
        if offsets.is_empty() || least == 0 || at != message.len() {
            return None;
        }
        let life = (least / 2).clamp(1, LIFE_SECONDS_MAX);
        Some(Times { offsets, life })
    }
}

/// Behind the name at `at`, whole or compressed.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            len => at += 1 + usize::from(len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] = b"\x04test\x00\x00\x1c\x00\x01";

    /// NOERROR with one AAAA record of this TTL and an OPT record.
    fn message(ttl: u32) -> Vec<u8> {
        let mut octets = vec![0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 1];
        octets.extend_from_slice(QUESTION);
        octets.extend_from_slice(&[0xc0, 12, 0, 28, 0, 1]);
        octets.extend_from_slice(&ttl.to_be_bytes());
        octets.extend_from_slice(&[0, 16]);
        octets.extend_from_slice(&[0x20; 16]);
        octets.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        octets
    }

    const COUNTED: Counted = Counted {
        qtype: QueryType::Aaaa,
        outcome: Outcome::Synthesized,
    };

    fn fill(key: &[u8], message: Vec<u8>, born: u32) -> Fill {
        Fill {
            key: key.into(),
            message,
            born,
            generation: 7,
            counted: COUNTED,
        }
    }

    #[test]
    fn an_answer_comes_back_with_the_clients_id_and_case_and_an_aged_ttl() {
        let mut cache = WireCache::new(1 << 20);
        cache.insert(fill(b"key", message(100), 10));
        let mut out = [0; 1232];
        let query = [
            &[0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            &b"\x04TeSt\x00\x00\x1c\x00\x01"[..],
        ]
        .concat();
        let hit = cache.get(b"key", 40, 7).unwrap();
        assert_eq!(hit.counted, COUNTED);
        let len = hit.write(&query, query.len(), &mut out).unwrap();
        let mut expected = message(70);
        expected[..2].copy_from_slice(&[0xab, 0xcd]);
        expected[13..17].copy_from_slice(b"TeSt");
        assert_eq!(&out[..len], expected);
    }

    #[test]
    fn an_answer_is_kept_for_half_its_time_and_one_configuration() {
        let mut cache = WireCache::new(1 << 20);
        cache.insert(fill(b"key", message(100), 10));
        assert!(cache.get(b"key", 59, 7).is_some());
        assert!(cache.get(b"key", 60, 7).is_none());
        assert!(cache.get(b"key", 20, 8).is_none());
        assert!(cache.get(b"yek", 20, 7).is_none());
        cache.insert(fill(b"key", message(86_400), 100));
        assert!(cache.get(b"key", 159, 7).is_some());
        assert!(cache.get(b"key", 160, 7).is_none());
    }

    #[test]
    fn what_must_not_be_kept_is_not() {
        let failed = |at: usize, value: u8| {
            let mut octets = message(100);
            octets[at] = value;
            octets
        };
        let cut = &message(100)[..40];
        for octets in [
            message(0),
            failed(3, 0x82),
            failed(2, 0x83),
            failed(7, 9),
            cut.to_vec(),
        ] {
            let mut cache = WireCache::new(1 << 20);
            cache.insert(fill(b"key", octets, 0));
            assert_eq!((cache.len(), cache.octets()), (0, 0));
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut cache = WireCache::new(64 * 1024);
        for n in 0..10_000_u32 {
            cache.insert(fill(&n.to_be_bytes(), message(100), 0));
            assert!(cache.octets() <= 64 * 1024);
            assert!(cache.get(&0_u32.to_be_bytes(), 0, 7).is_some(), "after {n}");
        }
        assert!(cache.len() > 100);
        assert_eq!(cache.table.len(), cache.entries.len());
        // Every entry is still found under its key.
        let keys: Vec<Vec<u8>> = cache.entries.iter().map(|e| e.key().to_vec()).collect();
        for key in keys {
            assert!(cache.get(&key, 0, 7).is_some());
        }
        // The same key takes the place of its old answer.
        let before = cache.octets();
        cache.insert(fill(&0_u32.to_be_bytes(), message(50), 0));
        assert_eq!(cache.octets(), before);
    }
}
