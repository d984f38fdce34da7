//! The IPv4 pools: which addresses and ports there are, cut into blocks. Immutable and shared.
//!
//! Every address has a place (its slot) and every slot the same number of block numbers, so that
//! numbers stay what they are when addresses come and go: [`PoolMap::changed`] makes the map of a
//! new configuration, in which what was there before keeps its place.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use super::deterministic::Deterministic;
use super::pool_layout::{Layout, Range, wanted};
use crate::config::{Nat64Config, POOLS_MAX};

/// The place of a pool address, from 0.
pub type Slot = u32;

/// The number of a port block over the whole pool, from 1; 0 is none.
pub type BlockId = u32;

/// Addresses for each worker of a pool from which on whole addresses are owned rather than blocks
/// of them.
const ADDRESSES_PER_WORKER_MIN: u32 = 4;

/// Places kept for addresses that a reload adds, at least.
const SPARE_SLOTS_MIN: u32 = 8;

/// How far an address takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressState {
    /// Its blocks are given out.
    Open,
    /// Blocks that are held are kept; no others are given out.
    Draining,
    /// No longer configured: what is left of it is cut.
    Closed,
}

impl AddressState {
    /// The word on the command line and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            AddressState::Open => "open",
            AddressState::Draining => "draining",
            AddressState::Closed => "closed",
        }
    }
}

/// Why a new pool cannot take the place of the one in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolChangeError {
    /// More addresses than places were reserved for.
    #[error(
        "the pool would have {wanted} addresses, memory was reserved for {capacity} \
         (dataplane.pool4_address_count_max): restart"
    )]
    Capacity {
        /// Addresses of old and new together.
        wanted: u32,
        /// Places reserved at start.
        capacity: u32,
    },
    /// Blocks would begin elsewhere.
    #[error(
        "the first port of {address} moves from {from} to {to}, which is no whole number of \
         blocks of {block_size}: restart, or move it by a multiple"
    )]
    Phase {
        /// The address.
        address: Ipv4Addr,
        /// First port now.
        from: u16,
        /// First port wanted.
        to: u16,
        /// Ports in a block.
        block_size: u16,
    },
    /// Its blocks would be other workers' than those that have given them out.
    #[error(
        "{address} moves from pool {from:?} to {to:?}, which workers divide otherwise: name it in \
         `drain` and reload, remove it when `gate64 show pool` has none of it in use and reload, \
         then add it to {to:?}"
    )]
    Moved {
        /// The address.
        address: Ipv4Addr,
        /// The pool's name that it is in.
        from: String,
        /// The pool's name that it is wanted in.
        to: String,
    },
    /// Some worker would have nothing to give out.
    #[error(
        "pool {pool:?} would have too few addresses for {workers} workers, which divide them by \
         address since the start: restart"
    )]
    TooFew {
        /// The pool's name.
        pool: String,
        /// Number of workers.
        workers: u8,
    },
}

/// Addresses to places, ports to blocks.
#[derive(Debug, Clone)]
pub struct PoolMap {
    ranges: Vec<Range>,
    /// The first range close at hand: its lowest address, how many there are, and its first place.
    front: (u32, u32, Slot),
    /// The lowest address and how far the highest is from it: nearly every peer is outside.
    hull: (u32, u32),
    /// The address at each place, `None` where there is none.
    addresses: Vec<Option<Ipv4Addr>>,
    block_size: u16,
    /// Block numbers of an address.
    stride: u32,
    slot_capacity: u32,
    /// By pool: whether whole addresses are owned.
    by_address: [bool; POOLS_MAX],
    deterministic: Deterministic,
}

impl PoolMap {
    /// Numbers the addresses and blocks of the configured pools for `workers` workers. Ports
    /// behind the last whole block are not used.
    pub fn new(config: &Nat64Config, workers: u8) -> PoolMap {
        let block_size = config.subscriber.port_block_size;
        let wanted = wanted(config);
        let count: u32 = wanted.iter().map(|(first, last, _)| last - first + 1).sum();
        let spare = SPARE_SLOTS_MIN.max(count / 4);
        let capacity = config.pool4_address_count_max.unwrap_or(count + spare);
        let mut map = PoolMap {
            ranges: Vec::new(),
            front: (0, 0, 0),
            hull: (u32::MAX, 0),
            addresses: vec![None; count as usize],
            block_size,
            stride: (1 << 16) / u32::from(block_size),
            slot_capacity: capacity.max(count),
            by_address: [true; POOLS_MAX],
            deterministic: Deterministic::default(),
        };
        let mut slot = 0;
        for (first, last, layout) in wanted {
            map.add(first, last, slot, layout);
            slot += last - first + 1;
        }
        map.finish();
        let workers = workers.max(1);
        map.by_address = std::array::from_fn(|pool| {
            let addresses = count_of(&map.ranges, pool);
            addresses >= u32::from(workers) * ADDRESSES_PER_WORKER_MIN
                && map.workers_served(pool, workers) == usize::from(workers)
        });
        map.deterministic = Deterministic::new(config, &map);
        map
    }

    /// The map of a new configuration: what was there keeps its numbers, what is no longer
    /// configured is closed. `is_empty` tells closed addresses of which nothing is held any
    /// more: their places are free again.
    ///
    /// # Errors
    /// What would need a restart.
    pub fn changed(
        &self,
        config: &Nat64Config,
        workers: u8,
        is_empty: &dyn Fn(Ipv4Addr) -> bool,
    ) -> Result<PoolMap, PoolChangeError> {
        let mut wanted: BTreeMap<u32, Layout> = wanted(config)
            .into_iter()
            .flat_map(|(first, last, layout)| (first..=last).map(move |ip| (ip, layout.clone())))
            .collect();
        for range in &self.ranges {
            for ip in range.first..=range.last {
                let is_gone =
                    range.layout.state == AddressState::Closed && is_empty(Ipv4Addr::from(ip));
                match wanted.get_mut(&ip) {
                    Some(layout) => {
                        // Nothing is left of what was: its blocks may begin elsewhere.
                        if is_gone {
                            continue;
                        }
                        if workers > 1 {
                            self.check_owners(config, ip, &range.layout, layout)?;
                        }
                        self.join(ip, &range.layout, layout)?;
                    }
                    None if is_gone => {}
                    None => {
                        let closed = Layout {
                            state: AddressState::Closed,
                            open: (0, 0),
                            ..range.layout.clone()
                        };
                        wanted.insert(ip, closed);
                    }
                }
            }
        }
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        if count > self.slot_capacity {
            return Err(PoolChangeError::Capacity {
                wanted: count,
                capacity: self.slot_capacity,
            });
        }
        let mut map = PoolMap {
            ranges: Vec::new(),
            addresses: vec![None; self.slot_capacity as usize],
            ..self.clone()
        };
        let new = map.keep_places(self, wanted);
        map.add_new(new);
        map.finish();
        map.check_shares(config, workers)?;
        Ok(map)
    }

    /// Refuses a pool in which the blocks that are held, or rest, would be other workers'.
    fn check_owners(
        &self,
        config: &Nat64Config,
        ip: u32,
        before: &Layout,
        now: &Layout,
    ) -> Result<(), PoolChangeError> {
        let [from, to] = [before.pool, now.pool].map(usize::from);
        if self.by_address[from] == self.by_address[to] {
            return Ok(());
        }
        let name = |pool: usize| config.pool_names.get(pool).cloned().unwrap_or_default();
        Err(PoolChangeError::Moved {
            address: Ipv4Addr::from(ip),
            from: name(from),
            to: name(to),
        })
    }

    /// Lets a block range of before go on beside the one of now.
    fn join(&self, ip: u32, before: &Layout, now: &mut Layout) -> Result<(), PoolChangeError> {
        if before.phase != now.phase {
            let port = |layout: &Layout| {
                let at = layout.blocks.0 * u32::from(self.block_size) + u32::from(layout.phase);
                u16::try_from(at).unwrap_or(u16::MAX)
            };
            return Err(PoolChangeError::Phase {
                address: Ipv4Addr::from(ip),
                from: port(before),
                to: port(now),
                block_size: self.block_size,
            });
        }
        let first = before.blocks.0.min(now.blocks.0);
        let behind = (before.blocks.0 + before.blocks.1).max(now.blocks.0 + now.blocks.1);
        now.blocks = (first, behind - first);
        Ok(())
    }

    /// Puts what has a place there, and returns the rest.
    fn keep_places(
        &mut self,
        before: &PoolMap,
        wanted: BTreeMap<u32, Layout>,
    ) -> Vec<(u32, Layout)> {
        let mut new = Vec::new();
        for (ip, layout) in wanted {
            match before.slot(Ipv4Addr::from(ip)) {
                Some(slot) => self.add(ip, ip, slot, layout),
                None => new.push((ip, layout)),
            }
        }
        new
    }

    fn add_new(&mut self, new: Vec<(u32, Layout)>) {
        let is_free = |(slot, address): (u32, &Option<Ipv4Addr>)| address.is_none().then_some(slot);
        let free: Vec<Slot> = (0..).zip(&self.addresses).filter_map(is_free).collect();
        for ((ip, layout), slot) in new.into_iter().zip(free) {
            self.add(ip, ip, slot, layout);
        }
    }

    fn check_shares(&self, config: &Nat64Config, workers: u8) -> Result<(), PoolChangeError> {
        for (pool, name) in config.pool_names.iter().enumerate() {
            let by_address = self.by_address.get(pool) == Some(&true);
            let served = self.workers_served(pool, workers);
            if by_address && served > 0 && served < usize::from(workers) {
                let pool = name.clone();
                return Err(PoolChangeError::TooFew { pool, workers });
            }
        }
        Ok(())
    }

    /// Workers that own an address of a pool that gives out blocks, if it is divided by address.
    fn workers_served(&self, pool: usize, workers: u8) -> usize {
        let open = self.ranges.iter().filter(|range| {
            range.layout.state == AddressState::Open && usize::from(range.layout.pool) == pool
        });
        let mut served = vec![false; usize::from(workers)];
        for range in open {
            for slot in range.slot..=range.slot + (range.last - range.first) {
                served[slot as usize % usize::from(workers)] = true;
            }
        }
        served.into_iter().filter(|&is_served| is_served).count()
    }

    fn add(&mut self, first: u32, last: u32, slot: Slot, layout: Layout) {
        for ip in first..=last {
            self.addresses[(slot + (ip - first)) as usize] = Some(Ipv4Addr::from(ip));
        }
        self.ranges.push(Range {
            first,
            last,
            slot,
            layout,
        });
    }

    /// Sorts the ranges and joins those that go on where another ends: one range needs no search.
    fn finish(&mut self) {
        self.ranges.sort_unstable_by_key(|range| range.first);
        let mut joined: Vec<Range> = Vec::with_capacity(self.ranges.len());
        for range in self.ranges.drain(..) {
            if let Some(before) = joined.last_mut()
                && before.last.checked_add(1) == Some(range.first)
                && before.slot + (range.first - before.first) == range.slot
                && before.layout == range.layout
            {
                before.last = range.last;
            } else {
                joined.push(range);
            }
        }
        let ends = (joined.first(), joined.iter().map(|range| range.last).max());
        self.hull = match ends {
            (Some(first), Some(last)) => (first.first, last - first.first),
            _ => (u32::MAX, 0),
        };
        self.front = joined.first().map_or((0, 0, 0), |range| {
            (range.first, range.last - range.first + 1, range.slot)
        });
        self.ranges = joined;
    }

    /// Places to look at for all addresses.
    pub fn slot_count(&self) -> u32 {
        u32::try_from(self.addresses.len()).unwrap_or(u32::MAX)
    }

    /// Places that are reserved.
    pub fn slot_capacity(&self) -> u32 {
        self.slot_capacity
    }

    /// Block numbers are at most this.
    pub fn block_number_max(&self) -> u32 {
        self.slot_capacity * self.stride
    }

    /// Blocks that are given out, over all addresses.
    pub fn block_count(&self) -> u32 {
        let blocks = |range: &Range| (range.last - range.first + 1) * range.layout.open.1;
        self.ranges.iter().map(blocks).sum()
    }

    /// Ports in a block.
    pub fn block_size(&self) -> u16 {
        self.block_size
    }

    /// Block numbers of an address.
    pub fn stride(&self) -> u32 {
        self.stride
    }

    /// The deterministic sets of subscribers.
    pub fn deterministic(&self) -> &Deterministic {
        &self.deterministic
    }

    #[inline]
    fn range_of(&self, ip: u32) -> Option<&Range> {
        // One contiguous pool is the rule: no search.
        match self.ranges.as_slice() {
            [only] => (only.first <= ip && ip <= only.last).then_some(only),
            _ => self.search(ip),
        }
    }

    fn search(&self, ip: u32) -> Option<&Range> {
        let after = self.ranges.partition_point(|range| range.first <= ip);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        (ip <= range.last).then_some(range)
    }

    fn range_of_slot(&self, slot: Slot) -> Option<&Range> {
        self.range_of(u32::from(self.address(slot)?))
    }

    /// Whether an address is in the pool.
    #[inline]
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        let (first, span) = self.hull;
        u32::from(ip).wrapping_sub(first) <= span && self.slot(ip).is_some()
    }

    /// The place of an address, if it is in a pool.
    #[inline]
    pub fn slot(&self, ip: Ipv4Addr) -> Option<Slot> {
        let ip = u32::from(ip);
        let (first, count, slot) = self.front;
        let behind = ip.wrapping_sub(first);
        if behind < count {
            return Some(slot.wrapping_add(behind)); // below the number of places
        }
        self.search_slot(ip)
    }

    #[inline(never)]
    fn search_slot(&self, ip: u32) -> Option<Slot> {
        let range = self.search(ip)?;
        Some(range.slot + (ip - range.first))
    }

    /// The address at a place.
    pub fn address(&self, slot: Slot) -> Option<Ipv4Addr> {
        *self.addresses.get(slot as usize)?
    }

    /// How far the address at a place takes part.
    pub fn state(&self, slot: Slot) -> AddressState {
        self.range_of_slot(slot)
            .map_or(AddressState::Closed, |range| range.layout.state)
    }

    /// The pool that the address at a place is of.
    pub fn pool_of(&self, slot: Slot) -> u8 {
        self.range_of_slot(slot)
            .map_or(0, |range| range.layout.pool)
    }

    /// The block that a port of an address lies in; `None` outside the dynamic ports.
    #[inline]
    pub fn block(&self, ip: Ipv4Addr, port: u16) -> Option<BlockId> {
        let ip = u32::from(ip);
        self.block_in(self.range_of(ip)?, ip, port)
    }

    #[inline]
    fn block_in(&self, range: &Range, ip: u32, port: u16) -> Option<BlockId> {
        let number = u32::from(port.checked_sub(range.layout.phase)? / self.block_size);
        let (first, count) = range.layout.blocks;
        (number.checked_sub(first)? < count)
            .then(|| 1 + (range.slot + (ip - range.first)) * self.stride + number)
    }

    /// Whether all of the address is gate64's, or only the pool's ports.
    pub fn is_whole(&self, ip: Ipv4Addr) -> bool {
        self.range_of(u32::from(ip))
            .is_some_and(|range| !range.layout.shared_with_host)
    }

    /// Numbers of an address' blocks, those that are no longer given out included.
    pub fn blocks_of(&self, slot: Slot) -> std::ops::Range<BlockId> {
        self.span(slot, |layout| layout.blocks)
    }

    /// Numbers of an address' blocks that are given out.
    pub fn open_blocks_of(&self, slot: Slot) -> std::ops::Range<BlockId> {
        self.span(slot, |layout| layout.open)
    }

    /// Whether the blocks at a place are of the same address and ports as they were in a map of
    /// before.
    pub(super) fn has_same_blocks(&self, before: &PoolMap, slot: Slot) -> bool {
        let phase = |map: &PoolMap| map.range_of_slot(slot).map(|range| range.layout.phase);
        self.address(slot) == before.address(slot) && phase(self) == phase(before)
    }

    fn span(&self, slot: Slot, of: fn(&Layout) -> (u32, u32)) -> std::ops::Range<BlockId> {
        let (first, count) = self
            .range_of_slot(slot)
            .map_or((0, 0), |range| of(&range.layout));
        let start = 1 + slot * self.stride + first;
        start..start + count
    }

    /// Whether a block may be given out.
    pub fn is_open(&self, block: BlockId) -> bool {
        self.open_blocks_of(self.slot_of(block)).contains(&block)
    }

    /// The place of a block's address.
    #[inline]
    pub fn slot_of(&self, block: BlockId) -> Slot {
        block.saturating_sub(1) / self.stride
    }

    /// Address, its place and first port of a block.
    pub fn block_start(&self, block: BlockId) -> Option<(Ipv4Addr, Slot, u16)> {
        let number = block.checked_sub(1)?;
        let slot = number / self.stride;
        let address = self.address(slot)?;
        let range = self.range_of(u32::from(address))?;
        let (first, count) = range.layout.blocks;
        if (number % self.stride).checked_sub(first)? >= count {
            return None;
        }
        let port = number % self.stride * u32::from(self.block_size);
        let port = u16::try_from(port).ok()?.checked_add(range.layout.phase)?;
        Some((address, slot, port))
    }

    /// Ports of a block that are never given out, as offsets from its first.
    pub fn excluded_in(&self, block: BlockId) -> impl Iterator<Item = u16> {
        let start = self.block_start(block);
        let excluded = start.map_or(&[][..], |(_, slot, _)| self.excluded_of(slot));
        let first = start.map_or(0, |(_, _, port)| port);
        let last = first + (self.block_size - 1);
        excluded
            .iter()
            .flat_map(move |ports| *ports.start().max(&first)..=*ports.end().min(&last))
            .map(move |port| port - first)
    }

    /// Ports of the address at a place that are never given out.
    pub fn excluded_of(&self, slot: Slot) -> &[RangeInclusive<u16>] {
        self.range_of_slot(slot)
            .map_or(&[], |range| range.layout.exclude_ports.as_slice())
    }

    /// What the owner of a port goes by: the address where its pool is divided by address,
    /// otherwise the block.
    #[inline]
    pub(super) fn owner_number(&self, ip: Ipv4Addr, port: u16) -> Option<u32> {
        let ip = u32::from(ip);
        let range = self.range_of(ip)?;
        if self.by_address[usize::from(range.layout.pool)] {
            Some(range.slot + (ip - range.first))
        } else {
            self.block_in(range, ip, port)
        }
    }

    /// Whether the pool of the address at a place is divided by address.
    pub(super) fn is_by_address(&self, slot: Slot) -> bool {
        self.by_address[usize::from(self.pool_of(slot))]
    }

    /// Whether every pool is divided by address.
    pub(super) fn all_by_address(&self) -> bool {
        let is_by_address = |range: &Range| self.by_address[usize::from(range.layout.pool)];
        self.deterministic.is_empty() && self.ranges.iter().all(is_by_address)
    }

    /// The places of a pool's addresses that are not closed, in the order of the addresses.
    pub fn slots_of_pool(&self, pool: u8) -> impl Iterator<Item = Slot> {
        self.ranges
            .iter()
            .filter(move |range| {
                range.layout.pool == pool && range.layout.state != AddressState::Closed
            })
            .flat_map(|range| range.slot..=range.slot + (range.last - range.first))
    }

    /// Addresses that take part or did, with how far.
    pub fn addresses(&self) -> impl Iterator<Item = (Ipv4Addr, AddressState)> {
        self.ranges.iter().flat_map(|range| {
            (range.first..=range.last).map(|ip| (Ipv4Addr::from(ip), range.layout.state))
        })
    }
}

fn count_of(ranges: &[Range], pool: usize) -> u32 {
    ranges
        .iter()
        .filter(|range| usize::from(range.layout.pool) == pool)
        .map(|range| range.last - range.first + 1)
        .sum()
}
