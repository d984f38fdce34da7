//! What is known of packets that come in fragments, and the fragments that wait: all of it in
//! memory reserved at start, with bounds for one source and in all.
//!
//! Packets stand in a slab and in a list in which the oldest is first; the places of a packet's
//! fragments are a list in a second slab; what waits of it is a list of buffers, ordered by offset.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::super::outbox::{BUFFER_LEN, Buffers, Stored};
use super::Known;
use crate::clock::Instant;
use crate::counters::{self, Counters};
use crate::verdict::{DropReason, Side};

/// Packets in fragments that are followed at once, and of these of one source.
const PACKETS_MAX: usize = 4096;
const PACKETS_PER_SOURCE_MAX: u16 = 1024;

/// Fragments that wait at once, and of these of one source: four of the largest packets.
const HELD_MAX: usize = 1024;
const HELD_PER_SOURCE_MAX: u16 = 192;

/// Places of fragments that are known at once, and of these of one packet: 65535 octets in the
/// least that links carry, and some.
const RANGES_MAX: usize = 16384;
const RANGES_PER_PACKET_MAX: u16 = 128;

/// Ends a list.
const NONE: u32 = u32::MAX;

/// What makes fragments belong together (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub id: u32,
    pub protocol: u8,
}

impl Key {
    /// The side that the fragments come from.
    pub fn side(&self) -> Side {
        if self.src.is_ipv6() {
            Side::V6
        } else {
            Side::V4
        }
    }
}

/// The place of a followed packet in the slab; good until it is forgotten.
pub(super) type Place = u32;

/// A packet whose fragments are followed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Followed {
    pub key: Key,
    /// Who counts for it: a subscriber's prefix, or an IPv4 address.
    source: IpAddr,
    /// What the first fragment told.
    pub known: Option<Known>,
    /// The first cannot go before all are here.
    pub needs_all: bool,
    over: Instant,
    /// Octets of the whole payload, once the last fragment has told.
    end: Option<u32>,
    /// Octets that have come.
    seen: u32,
    first_range: u32,
    range_count: u16,
    first_held: u32,
    /// In the list by age; a free place has the next free one in `newer`.
    older: Place,
    newer: Place,
}

/// A fragment's place in its packet: first octet and the one behind the last.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u32,
    behind: u32,
    next: u32,
}

/// A buffer of a list of waiting fragments.
#[derive(Debug)]
struct Held {
    stored: Option<Stored>,
    offset: u16,
    next: u32,
}

/// What one source has.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    packets: u16,
    held: u16,
}

/// The bounded store.
#[derive(Debug)]
pub(in super::super) struct Fragments {
    by_key: HashMap<Key, Place>,
    by_source: HashMap<IpAddr, Share>,
    packets: Vec<Followed>,
    free_packet: Place,
    oldest: Place,
    newest: Place,
    ranges: Vec<Range>,
    free_range: u32,
    free_range_count: usize,
    held: Vec<Held>,
    pub(super) buffers: Buffers,
}

impl Fragments {
    /// Octets it takes.
    pub fn bytes() -> usize {
        let map = |entry: usize| (PACKETS_MAX * 2 * 8 / 7).next_power_of_two() * (entry + 1);
        HELD_MAX * (BUFFER_LEN + size_of::<Held>())
            + PACKETS_MAX * size_of::<Followed>()
            + RANGES_MAX * size_of::<Range>()
            + map(size_of::<(Key, Place)>())
            + map(size_of::<(IpAddr, Share)>())
    }

    pub fn new() -> Fragments {
        let free = Followed::free();
        let packets = (1..).take(PACKETS_MAX).map(|next| Followed {
            newer: next,
            ..free
        });
        let ranges = (1..).take(RANGES_MAX).map(|next| Range {
            first: 0,
            behind: 0,
            next,
        });
        let held = || Held {
            stored: None,
            offset: 0,
            next: NONE,
        };
        let mut all = Fragments {
            // Twice the room: a map that is half empty is tidied up in place.
            by_key: HashMap::with_capacity(PACKETS_MAX * 2),
            by_source: HashMap::with_capacity(PACKETS_MAX * 2),
            packets: packets.collect(),
            free_packet: 0,
            oldest: NONE,
            newest: NONE,
            ranges: ranges.collect(),
            free_range: 0,
            free_range_count: RANGES_MAX,
            held: std::iter::repeat_with(held).take(HELD_MAX).collect(),
            buffers: Buffers::new(HELD_MAX),
        };
        all.packets[PACKETS_MAX - 1].newer = NONE;
        all.ranges[RANGES_MAX - 1].next = NONE;
        all
    }

    /// A followed packet.
    pub(super) fn get(&self, place: Place) -> &Followed {
        &self.packets[place as usize]
    }

    /// A followed packet, to write.
    pub(super) fn get_mut(&mut self, place: Place) -> &mut Followed {
        &mut self.packets[place as usize]
    }

    /// Whether a packet is followed already.
    pub(super) fn follows(&self, key: &Key) -> bool {
        self.by_key.contains_key(key)
    }

    /// The packet of that key, followed from now on if it was not.
    pub(super) fn follow(
        &mut self,
        key: Key,
        source: IpAddr,
        over: Instant,
    ) -> Result<Place, DropReason> {
        if let Some(&place) = self.by_key.get(&key) {
            return Ok(place);
        }
        let place = self.free_packet;
        let share = self.by_source.get(&source).copied().unwrap_or_default();
        if place == NONE || share.packets >= PACKETS_PER_SOURCE_MAX {
            return Err(DropReason::FragmentsFull);
        }
        let packets = share.packets + 1;
        self.by_source.insert(source, Share { packets, ..share });
        self.free_packet = self.packets[place as usize].newer;
        self.packets[place as usize] = Followed {
            key,
            source,
            over,
            older: self.newest,
            ..Followed::free()
        };
        match self.newest {
            NONE => self.oldest = place,
            newest => self.packets[newest as usize].newer = place,
        }
        self.newest = place;
        self.by_key.insert(key, place);
        Ok(place)
    }

    /// Forgets a packet of which nothing waits any more.
    pub(super) fn forget(&mut self, place: Place) {
        debug_assert!(self.get(place).first_held == NONE, "nothing waits of it");
        let Followed {
            key,
            source,
            older,
            newer,
            mut first_range,
            ..
        } = *self.get(place);
        while first_range != NONE {
            let range = &mut self.ranges[first_range as usize];
            let next = std::mem::replace(&mut range.next, self.free_range);
            self.free_range = std::mem::replace(&mut first_range, next);
            self.free_range_count += 1;
        }
        match older {
            NONE => self.oldest = newer,
            older => self.packets[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.packets[newer as usize].older = older,
        }
        self.by_key.remove(&key);
        self.change_share(source, |share| share.packets -= 1);
        self.packets[place as usize] = Followed {
            newer: self.free_packet,
            ..Followed::free()
        };
        self.free_packet = place;
    }

    fn change_share(&mut self, source: IpAddr, change: impl FnOnce(&mut Share)) {
        let Some(share) = self.by_source.get_mut(&source) else {
            return;
        };
        change(share);
        if share.packets == 0 && share.held == 0 {
            self.by_source.remove(&source);
        }
    }

    /// The oldest packet, if its time is over.
    pub(super) fn run_out(&self, now: Instant) -> Option<Place> {
        let place = self.oldest;
        (place != NONE && self.get(place).over <= now).then_some(place)
    }

    /// Notes where a fragment lies. Fragments that overlap contradict each other (RFC 5722);
    /// the same one again is but a duplicate.
    pub(super) fn note(
        &mut self,
        place: Place,
        first: u32,
        behind: u32,
        more: bool,
    ) -> Result<(), DropReason> {
        let packet = self.packets[place as usize];
        let mut furthest = 0;
        let mut at = packet.first_range;
        while at != NONE {
            let range = self.ranges[at as usize];
            if (range.first, range.behind) == (first, behind) {
                return Err(DropReason::FragmentDuplicate);
            }
            if first < range.behind && range.first < behind {
                return Err(DropReason::FragmentOverlap);
            }
            furthest = furthest.max(range.behind);
            at = range.next;
        }
        let beyond = packet.end.is_some_and(|end| behind > end || !more);
        if beyond || (!more && furthest > behind) {
            return Err(DropReason::FragmentOverlap);
        }
        let free = self.free_range;
        if free == NONE || packet.range_count >= RANGES_PER_PACKET_MAX {
            return Err(DropReason::FragmentsFull);
        }
        let range = &mut self.ranges[free as usize];
        self.free_range = range.next;
        self.free_range_count -= 1;
        *range = Range {
            first,
            behind,
            next: packet.first_range,
        };
        let packet = &mut self.packets[place as usize];
        packet.first_range = free;
        packet.range_count += 1;
        packet.seen += behind - first;
        if !more {
            packet.end = Some(behind);
        }
        Ok(())
    }

    /// Keeps a fragment until it can go.
    pub(super) fn hold(
        &mut self,
        place: Place,
        offset: u16,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let source = self.get(place).source;
        let share = self.by_source.get(&source).copied().unwrap_or_default();
        if share.held >= HELD_PER_SOURCE_MAX {
            return Err(DropReason::FragmentsFull);
        }
        let stored = self.buffers.store(bytes.len(), |to| {
            to.copy_from_slice(bytes);
            true
        });
        let stored = stored.ok_or(DropReason::FragmentsFull)?;
        let number = stored.number();
        let before = self.held_before(place, offset);
        let next = match before {
            None => std::mem::replace(&mut self.get_mut(place).first_held, number),
            Some(before) => std::mem::replace(&mut self.held[before as usize].next, number),
        };
        self.held[number as usize] = Held {
            stored: Some(stored),
            offset,
            next,
        };
        self.change_share(source, |share| share.held += 1);
        Ok(())
    }

    /// The last waiting fragment in front of an offset.
    fn held_before(&self, place: Place, offset: u16) -> Option<u32> {
        let mut before = None;
        let mut at = self.get(place).first_held;
        while at != NONE && self.held[at as usize].offset < offset {
            before = Some(at);
            at = self.held[at as usize].next;
        }
        before
    }

    /// Takes out the waiting fragment with the least offset, for the caller to use and give back.
    pub(super) fn take_held(&mut self, place: Place) -> Option<Stored> {
        let number = self.get(place).first_held;
        let held = self.held.get_mut(number as usize)?;
        let (stored, next) = (held.stored.take()?, held.next);
        let packet = self.get_mut(place);
        packet.first_held = next;
        let source = packet.source;
        self.change_share(source, |share| share.held -= 1);
        Some(stored)
    }

    /// The octets of the waiting fragments, by offset.
    pub(super) fn held_of(&self, place: Place) -> impl Iterator<Item = &[u8]> {
        let held = |number: u32| self.held.get(number as usize);
        let first = held(self.get(place).first_held);
        std::iter::successors(first, move |one| held(one.next))
            .filter_map(|one| one.stored.as_ref())
            .map(|stored| self.buffers.bytes(stored))
    }

    /// Panics where the store contradicts itself; see [`super::super::Nat64::check_invariants`].
    pub fn check(&self, counters: &Counters) {
        let (mut packets, mut held, mut ranges) = (0, 0, 0);
        let (mut at, mut older) = (self.oldest, NONE);
        while at != NONE {
            let one = self.get(at);
            assert_eq!(one.older, older, "the list by age, backwards");
            assert_eq!(self.by_key.get(&one.key), Some(&at));
            packets += 1;
            held += self.held_of(at).count();
            ranges += self.check_ranges(one);
            (older, at) = (at, one.newer);
        }
        assert_eq!(self.newest, older);
        assert_eq!(packets, self.by_key.len());
        assert_eq!(held, HELD_MAX - self.buffers.free_count());
        assert_eq!(counters.get(counters::fragments_held(0)), held as u64);
        let shares = self.by_source.values();
        let sum = |of: fn(&Share) -> u16| shares.clone().map(|one| usize::from(of(one))).sum();
        let (by_packets, by_held): (usize, usize) = (sum(|one| one.packets), sum(|one| one.held));
        assert_eq!((by_packets, by_held), (packets, held));
        assert_eq!(self.free_range_count + ranges, RANGES_MAX);
    }

    fn check_ranges(&self, packet: &Followed) -> usize {
        let (mut count, mut octets) = (0, 0);
        let mut at = packet.first_range;
        while at != NONE {
            let range = self.ranges[at as usize];
            octets += range.behind - range.first;
            count += 1;
            at = range.next;
        }
        assert_eq!(packet.seen, octets);
        assert_eq!(usize::from(packet.range_count), count);
        count
    }
}

impl Followed {
    /// What stands in a place that is free.
    fn free() -> Followed {
        let nowhere = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        Followed {
            key: Key {
                src: nowhere,
                dst: nowhere,
                id: 0,
                protocol: 0,
            },
            source: nowhere,
            known: None,
            needs_all: false,
            over: Instant::from_nanos(0),
            end: None,
            seen: 0,
            first_range: NONE,
            range_count: 0,
            first_held: NONE,
            older: NONE,
            newer: NONE,
        }
    }

    /// Whether all fragments have come: none overlap, so their octets add up.
    pub fn is_complete(&self) -> bool {
        self.end == Some(self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn key(source: u32, id: u32) -> Key {
        Key {
            src: Ipv4Addr::from(source).into(),
            dst: Ipv4Addr::LOCALHOST.into(),
            id,
            protocol: 17,
        }
    }

    fn follow(store: &mut Fragments, source: u32, id: u32) -> Result<Place, DropReason> {
        let key = key(source, id);
        store.follow(key, key.src, Instant::from_nanos(u64::from(id)))
    }

    #[test]
    fn packets_are_bounded_per_source_and_in_all_and_places_come_back() {
        let mut store = Fragments::new();
        let mut first = Vec::new();
        for source in 0..4 {
            for id in 0..u32::from(PACKETS_PER_SOURCE_MAX) {
                let place = follow(&mut store, source, id).unwrap();
                first.push(place);
            }
            let refused = follow(&mut store, source, 9999);
            assert_eq!(refused, Err(DropReason::FragmentsFull));
        }
        assert_eq!(follow(&mut store, 5, 1), Err(DropReason::FragmentsFull));
        store.check(&Counters::default());
        for place in first.into_iter().step_by(2) {
            store.forget(place);
        }
        store.check(&Counters::default());
        assert!(follow(&mut store, 5, 1).is_ok());
    }

    #[test]
    fn a_packet_has_so_many_places_and_all_packets_so_many() {
        let mut store = Fragments::new();
        let mut id = 0;
        'full: loop {
            let place = follow(&mut store, id, id).unwrap();
            for n in 0..u32::from(RANGES_PER_PACKET_MAX) {
                if store.note(place, n * 16, n * 16 + 8, true).is_err() {
                    break 'full;
                }
            }
            let refused = store.note(place, 60_000, 60_008, true);
            assert_eq!(refused, Err(DropReason::FragmentsFull));
            id += 1;
        }
        assert_eq!(id as usize, RANGES_MAX / usize::from(RANGES_PER_PACKET_MAX));
        store.check(&Counters::default());
        while let Some(oldest) = store.run_out(Instant::from_nanos(u64::MAX)) {
            store.forget(oldest);
        }
        store.check(&Counters::default());
    }

    #[test]
    fn waiting_fragments_come_out_by_offset() {
        let mut store = Fragments::new();
        let place = follow(&mut store, 1, 1).unwrap();
        for offset in [16, 0, 40, 8] {
            let octet = u8::try_from(offset).unwrap();
            store.hold(place, offset, &[octet]).unwrap();
        }
        assert_eq!(
            store.held_of(place).collect::<Vec<_>>(),
            [[0], [8], [16], [40]]
        );
        for expected in [0, 8, 16, 40] {
            let stored = store.take_held(place).unwrap();
            assert_eq!(store.buffers.bytes(&stored), [expected]);
            store.buffers.give_back(stored);
        }
        assert!(store.take_held(place).is_none());
        store.check(&Counters::default());
    }

    #[test]
    fn overlaps_duplicates_and_ends() {
        let mut store = Fragments::new();
        let place = follow(&mut store, 1, 1).unwrap();
        assert_eq!(store.note(place, 8, 16, true), Ok(()));
        assert_eq!(
            store.note(place, 8, 16, true),
            Err(DropReason::FragmentDuplicate)
        );
        assert_eq!(
            store.note(place, 0, 9, true),
            Err(DropReason::FragmentOverlap)
        );
        assert_eq!(
            store.note(place, 0, 8, false),
            Err(DropReason::FragmentOverlap)
        );
        assert_eq!(store.note(place, 16, 20, false), Ok(()));
        assert_eq!(
            store.note(place, 24, 32, true),
            Err(DropReason::FragmentOverlap)
        );
        assert!(!store.get(place).is_complete());
        assert_eq!(store.note(place, 0, 8, true), Ok(()));
        assert!(store.get(place).is_complete());
    }
}
