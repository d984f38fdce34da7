//! The IPv4 pool: which addresses and ports there are, cut into blocks. Immutable and shared.

use std::net::Ipv4Addr;

use crate::config::{Nat64Config, Pool4Prefix};

/// The place of a pool address, from 0.
pub type Slot = u32;

/// The number of a port block over the whole pool, from 1; 0 is none.
pub type BlockId = u32;

#[derive(Debug, Clone, Copy)]
struct Range {
    first: u32,
    last: u32,
    slot: Slot,
    port_first: u16,
    blocks: u32,
    block_first: BlockId,
    shared_with_host: bool,
}

/// Addresses to places, ports to blocks.
#[derive(Debug, Clone)]
pub struct PoolMap {
    ranges: Vec<Range>,
    /// The lowest and the highest address: nearly every peer is outside.
    hull: (u32, u32),
    block_size: u16,
    slot_count: u32,
    block_count: u32,
}

impl PoolMap {
    /// Numbers the addresses and blocks of the configured pool. Ports behind the last whole block
    /// are not used.
    pub fn new(config: &Nat64Config) -> PoolMap {
        let block_size = config.subscriber.port_block_size;
        let mut map = PoolMap {
            ranges: Vec::new(),
            hull: (u32::MAX, 0),
            block_size,
            slot_count: 0,
            block_count: 0,
        };
        for prefix in &config.pool4 {
            for (first, last) in included(prefix) {
                map.add(prefix, first, last);
            }
        }
        map.ranges.sort_unstable_by_key(|range| range.first);
        map
    }

    fn add(&mut self, prefix: &Pool4Prefix, first: u32, last: u32) {
        let ports = u32::from(*prefix.ports.end()) - u32::from(*prefix.ports.start()) + 1;
        let blocks = ports / u32::from(self.block_size);
        let range = Range {
            first,
            last,
            slot: self.slot_count,
            port_first: *prefix.ports.start(),
            blocks,
            block_first: self.block_count + 1,
            shared_with_host: prefix.shared_with_host,
        };
        self.hull = (self.hull.0.min(first), self.hull.1.max(last));
        self.slot_count += last - first + 1;
        self.block_count += (last - first + 1) * blocks;
        self.ranges.push(range);
    }

    /// Number of addresses.
    pub fn slot_count(&self) -> u32 {
        self.slot_count
    }

    /// Number of blocks over all addresses.
    pub fn block_count(&self) -> u32 {
        self.block_count
    }

    /// Ports in a block.
    pub fn block_size(&self) -> u16 {
        self.block_size
    }

    /// The most blocks that any address has.
    pub fn blocks_per_address_max(&self) -> u32 {
        self.ranges
            .iter()
            .map(|range| range.blocks)
            .max()
            .unwrap_or(0)
    }

    #[inline]
    fn range_of(&self, ip: u32) -> Option<&Range> {
        let after = self.ranges.partition_point(|range| range.first <= ip);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        (ip <= range.last).then_some(range)
    }

    fn range_of_slot(&self, slot: Slot) -> Option<&Range> {
        self.ranges.iter().find(|range| {
            slot.checked_sub(range.slot)
                .is_some_and(|at| at <= range.last - range.first)
        })
    }

    /// Whether an address is in the pool.
    #[inline]
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        let (first, last) = self.hull;
        (first..=last).contains(&u32::from(ip)) && self.slot(ip).is_some()
    }

    /// The place of an address, if it is in the pool.
    #[inline]
    pub fn slot(&self, ip: Ipv4Addr) -> Option<Slot> {
        let ip = u32::from(ip);
        // One contiguous pool is the rule: no search.
        let range = match self.ranges.as_slice() {
            [only] if only.first <= ip && ip <= only.last => only,
            [_] => return None,
            _ => self.range_of(ip)?,
        };
        Some(range.slot + (ip - range.first))
    }

    /// The address at a place.
    pub fn address(&self, slot: Slot) -> Option<Ipv4Addr> {
        let range = self.range_of_slot(slot)?;
        Some(Ipv4Addr::from(range.first + (slot - range.slot)))
    }

    /// The block that a port of an address lies in; `None` outside the dynamic ports.
    #[inline]
    pub fn block(&self, ip: Ipv4Addr, port: u16) -> Option<BlockId> {
        let ip = u32::from(ip);
        let range = self.range_of(ip)?;
        let block = u32::from(port.checked_sub(range.port_first)? / self.block_size);
        (block < range.blocks)
            .then(|| range.block_first + (ip - range.first) * range.blocks + block)
    }

    /// Whether all of the address is gate64's, or only the pool's ports.
    pub fn is_whole(&self, ip: Ipv4Addr) -> bool {
        self.range_of(u32::from(ip))
            .is_some_and(|range| !range.shared_with_host)
    }

    /// The blocks of an address: first number and how many.
    pub fn blocks_of(&self, slot: Slot) -> Option<(BlockId, u32)> {
        let range = self.range_of_slot(slot)?;
        Some((
            range.block_first + (slot - range.slot) * range.blocks,
            range.blocks,
        ))
    }

    /// Address, its place and first port of a block.
    pub fn block_start(&self, block: BlockId) -> Option<(Ipv4Addr, Slot, u16)> {
        let range = self.ranges.iter().find(|range| {
            let all = (range.last - range.first + 1) * range.blocks;
            block
                .checked_sub(range.block_first)
                .is_some_and(|at| at < all)
        })?;
        let at = block - range.block_first;
        let address = at / range.blocks;
        let port = u32::from(range.port_first) + at % range.blocks * u32::from(self.block_size);
        Some((
            Ipv4Addr::from(range.first + address),
            range.slot + address,
            u16::try_from(port).ok()?,
        ))
    }
}

/// The prefix's addresses without the excluded ones, as ranges.
fn included(prefix: &Pool4Prefix) -> Vec<(u32, u32)> {
    let first = u32::from(prefix.address);
    let size = 1u64 << (32 - u32::from(prefix.length.min(32)));
    let last = u32::try_from(u64::from(first) + size - 1).unwrap_or(u32::MAX);
    let mut excluded: Vec<u32> = prefix.exclude.iter().map(|&ip| u32::from(ip)).collect();
    excluded.retain(|ip| (first..=last).contains(ip));
    excluded.sort_unstable();
    excluded.dedup();
    let mut ranges = Vec::new();
    let mut from = u64::from(first);
    for ip in excluded {
        if from < u64::from(ip) {
            ranges.push((from, u64::from(ip) - 1));
        }
        from = u64::from(ip) + 1;
    }
    if from <= u64::from(last) {
        ranges.push((from, u64::from(last)));
    }
    ranges
        .into_iter()
        .filter_map(|(a, b)| Some((u32::try_from(a).ok()?, u32::try_from(b).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SubscriberLimits;

    fn map(prefixes: Vec<Pool4Prefix>) -> PoolMap {
        PoolMap::new(&Nat64Config {
            pool4: prefixes,
            subscriber: SubscriberLimits {
                port_block_size: 512,
                ..SubscriberLimits::default()
            },
            ..Nat64Config::default()
        })
    }

    fn prefix(address: [u8; 4], length: u8, exclude: &[[u8; 4]]) -> Pool4Prefix {
        Pool4Prefix {
            address: address.into(),
            length,
            ports: 1024..=65535,
            exclude: exclude.iter().map(|&ip| ip.into()).collect(),
            shared_with_host: false,
        }
    }

    #[test]
    fn numbers_go_there_and_back() {
        let map = map(vec![
            prefix([203, 0, 113, 0], 29, &[[203, 0, 113, 0], [203, 0, 113, 4]]),
            prefix([192, 0, 2, 9], 32, &[]),
        ]);
        assert_eq!(map.slot_count(), 7);
        assert_eq!(map.block_count(), 7 * 126);
        for slot in 0..7 {
            let ip = map.address(slot).unwrap();
            assert_eq!(map.slot(ip), Some(slot));
            let (first, count) = map.blocks_of(slot).unwrap();
            for block in first..first + count {
                let (address, at, port) = map.block_start(block).unwrap();
                assert_eq!((address, at), (ip, slot));
                assert_eq!(map.block(ip, port), Some(block));
                assert_eq!(map.block(ip, port + 511), Some(block));
            }
        }
        assert_eq!(map.slot([203, 0, 113, 4].into()), None);
        assert_eq!(map.slot([192, 0, 2, 8].into()), None);
        assert_eq!(map.block([192, 0, 2, 9].into(), 1023), None);
        assert_eq!(map.block_start(0), None);
        assert_eq!(map.block_start(7 * 126 + 1), None);
    }
}
