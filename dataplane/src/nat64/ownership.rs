//! Who owns what: every subscriber and every pool port belongs to one worker, by a function that
//! all workers compute alike.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::Protocol;
use hashbrown::HashMap;

use super::pool4::{BlockId, PoolMap};
use crate::config::Nat64Config;
use crate::memory::HashKey;
use crate::verdict::WorkerId;

/// The function. Cheap to copy by reference, immutable.
#[derive(Debug)]
pub struct Ownership {
    workers: u8,
    key: HashKey,
    prefix_mask: u128,
    /// Static BIB entries belong to their subscriber's worker wherever their port lies.
    static_owner: HashMap<(Ipv4Addr, u16, Protocol), WorkerId>,
}

impl Ownership {
    /// For `workers` workers (at least one).
    pub fn new(config: &Nat64Config, workers: u8, key: HashKey) -> Ownership {
        let workers = workers.max(1);
        let prefix_mask = mask(config.subscriber.prefix_length);
        let mut ownership = Ownership {
            workers,
            key,
            prefix_mask,
            static_owner: HashMap::new(),
        };
        for entry in &config.static_bib {
            let owner = ownership.of_v6(entry.v6.ip);
            ownership
                .static_owner
                .insert((entry.v4.ip, entry.v4.port, entry.protocol), owner);
        }
        ownership
    }

    /// Whether there is but one worker, who owns everything.
    #[inline]
    pub fn is_alone(&self) -> bool {
        self.workers == 1
    }

    /// The part of an IPv6 address that names the subscriber.
    #[inline]
    pub fn subscriber_prefix(&self, ip: Ipv6Addr) -> u128 {
        u128::from(ip) & self.prefix_mask
    }

    /// The owner of an IPv6 host's sessions.
    #[inline]
    pub fn of_v6(&self, ip: Ipv6Addr) -> WorkerId {
        if self.is_alone() {
            return WorkerId(0);
        }
        self.pick(self.key.prefix(self.subscriber_prefix(ip)))
    }

    /// The owner of a pool transport address.
    #[inline]
    pub fn of_v4(&self, pool: &PoolMap, ip: Ipv4Addr, port: u16, protocol: Protocol) -> WorkerId {
        if self.is_alone() {
            return WorkerId(0);
        }
        self.of_port(pool, ip, port, protocol)
    }

    /// Apart, so that the question costs nothing where there is but one worker.
    fn of_port(&self, pool: &PoolMap, ip: Ipv4Addr, port: u16, protocol: Protocol) -> WorkerId {
        if !self.static_owner.is_empty()
            && let Some(&owner) = self.static_owner.get(&(ip, port, protocol))
        {
            return owner;
        }
        if !pool.deterministic().is_empty()
            && let Some(block) = pool.block(ip, port)
        {
            return self.of_block(pool, block);
        }
        self.modulo(pool.owner_number(ip, port).unwrap_or(0))
    }

    /// Whether a pool transport address is gate64's: on an address shared with the host only the
    /// dynamic ports and the static entries are.
    pub fn is_ours(&self, pool: &PoolMap, ip: Ipv4Addr, port: u16, protocol: Protocol) -> bool {
        pool.is_whole(ip)
            || pool.block(ip, port).is_some()
            || self.static_owner.contains_key(&(ip, port, protocol))
    }

    /// Whether the address alone tells the owner of a pool transport address.
    pub fn is_by_address(&self, pool: &PoolMap) -> bool {
        self.workers == 1 || (pool.all_by_address() && self.static_owner.is_empty())
    }

    /// The owner of a port block for giving it out. A calculated block goes with its subscriber.
    pub fn of_block(&self, pool: &PoolMap, block: BlockId) -> WorkerId {
        if self.workers == 1 {
            return WorkerId(0);
        }
        let slot = pool.slot_of(block);
        if !pool.deterministic().is_empty() {
            let sets = pool.deterministic();
            let number = (block - 1) % pool.stride();
            match sets.subscriber_of(pool.pool_of(slot), slot, number) {
                Some(prefix) => return self.pick(self.key.prefix(prefix)),
                // Overflow blocks are shared by the workers of an address' subscribers.
                None if sets.has_pool(pool.pool_of(slot)) => return self.modulo(block),
                None => {}
            }
        }
        self.modulo(if pool.is_by_address(slot) {
            slot
        } else {
            block
        })
    }

    /// The worker that gathers the fragments of one packet, by a hash of its identity.
    #[inline]
    pub fn of_fragment(&self, identity: [u64; 3]) -> WorkerId {
        if self.is_alone() {
            return WorkerId(0);
        }
        self.pick(self.key.words(identity[0], identity[1], identity[2]))
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // below the number of workers, a u8
    fn pick(&self, hash: u64) -> WorkerId {
        WorkerId((((hash >> 32) * u64::from(self.workers)) >> 32) as u8)
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // below the number of workers, a u8
    fn modulo(&self, number: u32) -> WorkerId {
        WorkerId((number % u32::from(self.workers)) as u8)
    }
}

/// The leading `length` bits.
pub fn mask(length: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(length.min(128)))
        .unwrap_or(0)
}
