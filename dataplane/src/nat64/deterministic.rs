//! Deterministic mapping (RFC 7422, for NAT64): subscribers of configured ranges have their port
//! blocks by calculation, so that no log is needed to tell who had which port.
//!
//! Subscribers are numbered along their ranges, and spread over the set's addresses in order: the
//! first address has the first subscribers, from its lowest block on. What is left above serves
//! as dynamic overflow blocks, if the configuration allows it; only those are logged.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ownership::mask;
use super::pool4::{BlockId, PoolMap, Slot};
use crate::config::Nat64Config;

/// A configured set as laid out on its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    /// First subscriber's prefix, number of subscribers.
    ranges: Vec<(u128, u64)>,
    pool: u8,
    /// Places of its addresses, in the order of the addresses.
    slots: Vec<Slot>,
    /// Which address is at a place, by place.
    by_slot: Vec<(Slot, u64)>,
    /// First block number within an address.
    block_first: u32,
    blocks_per_subscriber: u32,
    subscribers_per_address: u64,
    overflow: bool,
}

/// All sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deterministic {
    sets: Vec<Set>,
    prefix_length: u8,
}

/// How large a set is, and how large it could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Subscribers that are configured.
    pub subscribers: u64,
    /// Pool addresses.
    pub addresses: u64,
    /// Whole blocks of an address.
    pub blocks_per_address: u64,
    /// Blocks of a subscriber.
    pub blocks_per_subscriber: u64,
}

impl Fit {
    /// Subscribers that one address takes.
    pub fn per_address(&self) -> u64 {
        self.blocks_per_address / self.blocks_per_subscriber.max(1)
    }

    /// Subscribers that all addresses take.
    pub fn subscribers_max(&self) -> u64 {
        self.per_address() * self.addresses
    }

    /// Addresses that all subscribers need; `None` if none are enough.
    pub fn addresses_needed(&self) -> Option<u64> {
        let per_address = self.per_address();
        (per_address > 0).then(|| self.subscribers.div_ceil(per_address))
    }

    /// Whether every subscriber gets its blocks.
    pub fn fits(&self) -> bool {
        self.subscribers <= self.subscribers_max()
    }
}

/// The blocks of one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The place of its address.
    pub slot: Slot,
    /// Its first block; the others follow.
    pub first: BlockId,
    /// Blocks.
    pub count: u32,
    /// Whether it may have dynamic blocks besides.
    pub overflow: bool,
}

/// What the configuration alone says of a subscriber, in addresses and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// The subscriber's prefix.
    pub prefix: Ipv6Addr,
    /// Its length.
    pub prefix_length: u8,
    /// Its pool address.
    pub v4: Ipv4Addr,
    /// First port.
    pub port_first: u16,
    /// Last port.
    pub port_last: u16,
    /// Whether it may have dynamic blocks besides.
    pub overflow: bool,
}

impl Deterministic {
    /// Lays out the configured sets on the addresses of `pool`.
    pub(super) fn new(config: &Nat64Config, pool: &PoolMap) -> Deterministic {
        let prefix_length = config.subscriber.prefix_length;
        let set = |configured: &crate::config::DeterministicSet| {
            let ranges: Vec<(u128, u64)> = configured
                .subscribers
                .iter()
                .map(|range| {
                    let bits = prefix_length.saturating_sub(range.length).min(63);
                    (u128::from(range.address) & mask(range.length), 1 << bits)
                })
                .collect();
            let slots: Vec<Slot> = pool.slots_of_pool(configured.pool).collect();
            let count: u64 = ranges.iter().map(|(_, count)| count).sum();
            let open = slots
                .first()
                .map_or(0..0, |&slot| pool.open_blocks_of(slot));
            let base = slots.first().map_or(0, |&slot| 1 + slot * pool.stride());
            let mut by_slot: Vec<(Slot, u64)> = slots.iter().copied().zip(0..).collect();
            by_slot.sort_unstable();
            Set {
                ranges,
                by_slot,
                pool: configured.pool,
                block_first: open.start.saturating_sub(base),
                blocks_per_subscriber: configured.blocks_per_subscriber.into(),
                subscribers_per_address: count.div_ceil((slots.len() as u64).max(1)),
                slots,
                overflow: configured.overflow,
            }
        };
        Deterministic {
            sets: config.deterministic.iter().map(set).collect(),
            prefix_length,
        }
    }

    /// Whether there is no set.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Whether a pool is that of a set.
    pub fn has_pool(&self, pool: u8) -> bool {
        self.sets.iter().any(|set| set.pool == pool)
    }

    /// The blocks of a subscriber, by its prefix; `None` if it is in no set.
    pub fn share(&self, prefix: u128, stride: u32) -> Option<Share> {
        let step = 128 - u32::from(self.prefix_length);
        for set in &self.sets {
            let mut before = 0;
            for &(first, count) in &set.ranges {
                let number = prefix.checked_sub(first).map(|at| at >> step);
                let number = number.and_then(|at| u64::try_from(at).ok());
                if let Some(number) = number.filter(|&number| number < count) {
                    return set.share(before + number, stride);
                }
                before += count;
            }
        }
        None
    }

    /// Whose block it is, by calculation: the subscriber's prefix. `None` for blocks of other
    /// pools, for overflow blocks, and where nobody is configured.
    pub fn subscriber_of(&self, pool: u8, slot: Slot, number: u32) -> Option<u128> {
        let set = self.sets.iter().find(|set| set.pool == pool)?;
        let at = set.by_slot.binary_search_by_key(&slot, |&(slot, _)| slot);
        let address = set.by_slot.get(at.ok()?)?.1;
        let at = number.checked_sub(set.block_first)? / set.blocks_per_subscriber.max(1);
        if u64::from(at) >= set.subscribers_per_address {
            return None;
        }
        let mut left = address * set.subscribers_per_address + u64::from(at);
        let step = 128 - u32::from(self.prefix_length);
        for &(first, count) in &set.ranges {
            if left < count {
                return Some(first + (u128::from(left) << step));
            }
            left -= count;
        }
        None
    }

    /// The assignment of a subscriber that has this address.
    pub fn forward(&self, pool: &PoolMap, ip: Ipv6Addr) -> Option<Assignment> {
        let prefix = u128::from(ip) & mask(self.prefix_length);
        let share = self.share(prefix, pool.stride())?;
        let (v4, _, port_first) = pool.block_start(share.first)?;
        let ports = share.count * u32::from(pool.block_size());
        let last = u32::from(port_first) + ports - 1;
        Some(Assignment {
            prefix: Ipv6Addr::from(prefix),
            prefix_length: self.prefix_length,
            v4,
            port_first,
            port_last: u16::try_from(last).ok()?,
            overflow: share.overflow,
        })
    }

    /// The assignment that a pool transport address lies in.
    pub fn reverse(&self, pool: &PoolMap, ip: Ipv4Addr, port: u16) -> Option<Assignment> {
        let slot = pool.slot(ip)?;
        let block = pool.block(ip, port)?;
        let number = (block - 1) % pool.stride();
        let prefix = self.subscriber_of(pool.pool_of(slot), slot, number)?;
        self.forward(pool, Ipv6Addr::from(prefix))
    }
}

impl Set {
    fn share(&self, number: u64, stride: u32) -> Option<Share> {
        let address = usize::try_from(number / self.subscribers_per_address).ok()?;
        let at = u32::try_from(number % self.subscribers_per_address).ok()?;
        let slot = *self.slots.get(address)?;
        Some(Share {
            slot,
            first: 1 + slot * stride + self.block_first + at * self.blocks_per_subscriber,
            count: self.blocks_per_subscriber,
            overflow: self.overflow,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeterministicSet, Pool4Prefix, Prefix6};

    fn pool(overflow: bool) -> PoolMap {
        let config = Nat64Config {
            pool4: vec![Pool4Prefix {
                address: [192, 0, 2, 0].into(),
                length: 30,
                exclude: vec![[192, 0, 2, 1].into()],
                ..Pool4Prefix::default()
            }],
            deterministic: vec![DeterministicSet {
                subscribers: vec![
                    Prefix6::new("2001:db8:1::".parse().unwrap(), 57),
                    Prefix6::new("2001:db8:f::".parse().unwrap(), 63),
                ],
                pool: 0,
                blocks_per_subscriber: 2,
                overflow,
            }],
            ..Nat64Config::default()
        };
        PoolMap::new(&config, 1)
    }

    #[test]
    fn rfc_7422_forward_and_reverse_agree_for_every_subscriber() {
        let pool = pool(true);
        let sets = pool.deterministic();
        let mut seen = std::collections::BTreeSet::new();
        let prefixes = (0..128u128)
            .map(|n| u128::from("2001:db8:1::".parse::<Ipv6Addr>().unwrap()) + (n << 64))
            .chain(
                (0..2).map(|n| u128::from("2001:db8:f::".parse::<Ipv6Addr>().unwrap()) + (n << 64)),
            );
        for prefix in prefixes {
            let host = Ipv6Addr::from(prefix | 0xabcd);
            let there = sets.forward(&pool, host).unwrap();
            assert_eq!(there.prefix, Ipv6Addr::from(prefix));
            assert_eq!(there.port_last - there.port_first, 1023);
            assert_ne!(there.v4, Ipv4Addr::new(192, 0, 2, 1));
            assert!(seen.insert((there.v4, there.port_first)), "given twice");
            for port in [there.port_first, there.port_last] {
                assert_eq!(sets.reverse(&pool, there.v4, port), Some(there));
            }
        }
        assert_eq!(seen.len(), 130);
        assert_eq!(sets.forward(&pool, "2001:db8:2::1".parse().unwrap()), None);
        // Behind 44 subscribers with 88 blocks lie 38 overflow blocks.
        let dynamic = 1024 + 88 * 512;
        assert_eq!(sets.reverse(&pool, [192, 0, 2, 0].into(), dynamic), None);
        assert!(
            sets.reverse(&pool, [192, 0, 2, 0].into(), dynamic - 1)
                .is_some()
        );
    }

    #[test]
    fn a_set_that_does_not_fit_says_what_would() {
        let fit = Fit {
            subscribers: 65_536,
            addresses: 64,
            blocks_per_address: 126,
            blocks_per_subscriber: 1,
        };
        assert!(!fit.fits());
        assert_eq!(fit.subscribers_max(), 8064);
        assert_eq!(fit.addresses_needed(), Some(521));
        assert!(
            Fit {
                addresses: 521,
                ..fit
            }
            .fits()
        );
    }
}
