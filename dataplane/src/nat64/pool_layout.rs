//! How the configured pools are laid out: ranges of addresses, and the blocks that these have.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use super::pool4::{AddressState, Slot};
use crate::config::{Nat64Config, Pool4Prefix};

/// What addresses of a range have in common besides their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Ports of block number 0 begin here.
    pub(super) phase: u16,
    /// First block number and count: all that may be held.
    pub(super) blocks: (u32, u32),
    /// Of these, those that are given out.
    pub(super) open: (u32, u32),
    pub(super) state: AddressState,
    pub(super) shared_with_host: bool,
    pub(super) pool: u8,
    pub(super) exclude_ports: Vec<RangeInclusive<u16>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) slot: Slot,
    pub(super) layout: Layout,
}

/// The configured addresses, as ranges with one layout each.
pub(super) fn wanted(config: &Nat64Config) -> Vec<(u32, u32, Layout)> {
    let block_size = config.subscriber.port_block_size;
    let mut wanted = Vec::new();
    for prefix in &config.pool4 {
        let ports = u32::from(*prefix.ports.end()) - u32::from(*prefix.ports.start()) + 1;
        let blocks = (
            u32::from(prefix.ports.start() / block_size),
            ports / u32::from(block_size),
        );
        let layout = Layout {
            phase: prefix.ports.start() % block_size,
            blocks,
            open: blocks,
            state: AddressState::Open,
            shared_with_host: prefix.shared_with_host,
            pool: prefix.pool,
            exclude_ports: prefix.exclude_ports.clone(),
        };
        for (first, last, is_draining) in included(prefix) {
            let layout = match is_draining {
                false => layout.clone(),
                true => Layout {
                    open: (0, 0),
                    state: AddressState::Draining,
                    ..layout.clone()
                },
            };
            wanted.push((first, last, layout));
        }
    }
    wanted
}

/// The prefix's addresses without the excluded ones, as ranges; those being drained apart.
fn included(prefix: &Pool4Prefix) -> Vec<(u32, u32, bool)> {
    let first = u32::from(prefix.address);
    let size = 1u64 << (32 - u32::from(prefix.length.min(32)));
    let last = u32::try_from(u64::from(first) + size - 1).unwrap_or(u32::MAX);
    let within = |list: &[Ipv4Addr]| -> Vec<u32> {
        let all = list.iter().map(|&ip| u32::from(ip));
        all.filter(|ip| (first..=last).contains(ip)).collect()
    };
    let excluded = within(&prefix.exclude);
    let drained = within(&prefix.drain);
    let mut apart: Vec<(u32, bool)> = excluded.iter().map(|&ip| (ip, true)).collect();
    apart.extend(drained.iter().map(|&ip| (ip, false)));
    // One that is both is excluded.
    apart.sort_unstable_by_key(|&(ip, is_excluded)| (ip, !is_excluded));
    apart.dedup_by_key(|&mut (ip, _)| ip);
    let mut ranges = Vec::new();
    let mut from = u64::from(first);
    for (ip, is_excluded) in apart {
        if from < u64::from(ip) {
            ranges.push((from, u64::from(ip) - 1, false));
        }
        if !is_excluded {
            ranges.push((u64::from(ip), u64::from(ip), true));
        }
        from = u64::from(ip) + 1;
    }
    if from <= u64::from(last) {
        ranges.push((from, u64::from(last), false));
    }
    ranges
        .into_iter()
        .filter_map(|(a, b, drained)| {
            Some((u32::try_from(a).ok()?, u32::try_from(b).ok()?, drained))
        })
        .collect()
}
