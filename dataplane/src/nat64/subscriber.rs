//! Subscribers: IPv6 prefixes of configured length, their pool address, blocks and quotas.

use std::net::Ipv6Addr;

use hashbrown::HashTable;

use super::class::Class;
use super::pool4::{BlockId, Slot};
use crate::memory::HashKey;
use crate::memory::arena::prefetch;
use crate::verdict::{DropReason, Refusal};

/// A subscriber as its owner keeps it. Number 0 is none.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// The prefix with zeroes behind it.
    pub prefix: u128,
    /// Its pool address, from its first block on: paired pooling (RFC 6888 REQ-2).
    pub slot: Option<Slot>,
    /// Its first block by calculation, else its newest, 0 for none; the others follow, those by
    /// calculation first.
    pub first_block: BlockId,
    /// Blocks it holds, those that it has by calculation not counted.
    pub block_count: u16,
    /// Blocks that it has by calculation.
    pub fixed_count: u16,
    /// Its class.
    pub class: u16,
    /// Number of the configuration that the class was found in.
    pub class_generation: u32,
    /// Ports mapped at present, by protocol, those of static entries not counted.
    pub ports: [u32; 3],
    /// Sessions at present.
    pub session_count: u32,
    /// BIB entries at present, static ones included.
    pub bib_count: u32,
    /// Mappings and sessions refused so far.
    pub refusals: u64,
    /// Why the last of them was.
    pub last_refusal: Option<DropReason>,
    /// New sessions it may still open, in thousandths.
    tokens_milli: u64,
    /// When `tokens_milli` was counted, in milliseconds.
    tokens_at: u64,
    in_use: bool,
}

/// All subscribers of a worker.
#[derive(Debug)]
pub struct Subscribers {
    by_prefix: HashTable<u32>,
    all: Vec<Subscriber>,
    free: Vec<u32>,
    capacity: usize,
    key: HashKey,
}

impl Subscribers {
    /// Room for `capacity` subscribers. `hashbrown` never grows while it is less than half full,
    /// so that no packet waits for a rehash; all is resident, so that none waits for a page.
    pub fn new(capacity: usize, key: HashKey) -> Subscribers {
        let mut all = vec![Subscriber::empty(0); capacity + 1];
        all.truncate(1);
        let mut free: Vec<u32> = (0..=u32::MAX).take(capacity).collect();
        let mut by_prefix = HashTable::with_capacity(capacity * 2);
        for &id in &free {
            by_prefix.insert_unique(key.prefix(id.into()), id, |&id| key.prefix(id.into()));
        }
        by_prefix.clear();
        free.clear();
        Subscribers {
            by_prefix,
            all,
            free,
            capacity,
            key,
        }
    }

    /// Octets that it takes, for the memory plan.
    pub fn bytes(capacity: usize) -> usize {
        (capacity + 1) * (size_of::<Subscriber>() + size_of::<u32>())
            + (capacity * 2 * 8 / 7).next_power_of_two() * (size_of::<u32>() + 1)
    }

    /// The subscriber with this prefix.
    pub fn find(&self, prefix: u128) -> Option<u32> {
        let hash = self.key.prefix(prefix);
        self.by_prefix
            .find(hash, |&id| self.all[id as usize].prefix == prefix)
            .copied()
    }

    /// Makes a subscriber; `None` if there is no room.
    pub fn add(&mut self, prefix: u128) -> Option<u32> {
        if self.by_prefix.len() >= self.capacity {
            return None;
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.all[id as usize] = Subscriber::empty(prefix);
                id
            }
            None => {
                self.all.push(Subscriber::empty(prefix));
                u32::try_from(self.all.len() - 1).ok()?
            }
        };
        self.all[id as usize].in_use = true;
        let (all, key) = (&self.all, &self.key);
        self.by_prefix.insert_unique(key.prefix(prefix), id, |&id| {
            key.prefix(all[id as usize].prefix)
        });
        Some(id)
    }

    /// Forgets a subscriber that has neither blocks nor entries left.
    pub fn remove_if_idle(&mut self, id: u32) -> bool {
        let subscriber = &self.all[id as usize];
        if subscriber.block_count > 0 || subscriber.bib_count > 0 || !subscriber.in_use {
            return false;
        }
        let prefix = subscriber.prefix;
        let all = &self.all;
        if let Ok(entry) = self.by_prefix.find_entry(self.key.prefix(prefix), |&id| {
            all[id as usize].prefix == prefix
        }) {
            entry.remove();
        }
        self.all[id as usize].in_use = false;
        self.free.push(id);
        true
    }

    /// Asks the memory for a subscriber.
    pub fn prefetch(&self, id: u32) {
        if let Some(one) = self.all.get(id as usize) {
            prefetch(one);
        }
    }

    /// A subscriber.
    #[inline]
    pub fn get(&self, id: u32) -> &Subscriber {
        &self.all[id as usize]
    }

    /// A subscriber, to write.
    #[inline]
    pub fn get_mut(&mut self, id: u32) -> &mut Subscriber {
        &mut self.all[id as usize]
    }

    /// Those in use from number `from` on, for listings.
    pub fn iter_from(&self, from: u32) -> impl Iterator<Item = (u32, &Subscriber)> {
        (from.max(1)..)
            .zip(self.all.iter().skip(from.max(1) as usize))
            .filter(|(_, one)| one.in_use)
    }
}

impl Subscriber {
    fn empty(prefix: u128) -> Subscriber {
        Subscriber {
            prefix,
            slot: None,
            first_block: 0,
            block_count: 0,
            fixed_count: 0,
            class: 0,
            class_generation: 0,
            ports: [0; 3],
            session_count: 0,
            bib_count: 0,
            refusals: 0,
            last_refusal: None,
            tokens_milli: 0,
            tokens_at: 0,
            in_use: false,
        }
    }

    /// Ports mapped at present, over all protocols.
    #[inline]
    pub fn ports_total(&self) -> u32 {
        self.ports.iter().sum()
    }

    /// Whether the number is somebody's at all.
    pub fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// Notes that it was refused a mapping or a session.
    pub fn note(&mut self, refusal: &Refusal) {
        self.refusals += 1;
        self.last_refusal = refusal.reason().or(self.last_refusal);
    }

    /// The prefix as an address.
    pub fn address(&self) -> Ipv6Addr {
        Ipv6Addr::from(self.prefix)
    }

    /// Whether it may open one more session now (RFC 6888 REQ-4 and REQ-5); counts it against
    /// the rate if so. `is_essential`: the destination port is one that the reserve is for.
    pub fn may_open_session(
        &mut self,
        class: &Class,
        is_essential: bool,
        now_ms: u64,
    ) -> Result<(), DropReason> {
        let limits = &class.limits;
        if self.session_count >= class.usable(limits.session_count_max, is_essential) {
            return Err(DropReason::SubscriberSessions);
        }
        let Some(rate) = limits.session_rate_max else {
            return Ok(());
        };
        let full = u64::from(rate) * 1000;
        let earned = now_ms
            .saturating_sub(self.tokens_at)
            .saturating_mul(u64::from(rate));
        // A subscriber never seen before starts with a second's worth.
        self.tokens_milli = if self.tokens_at == 0 {
            full
        } else {
            self.tokens_milli.saturating_add(earned).min(full)
        };
        self.tokens_at = now_ms.max(1);
        if self.tokens_milli < 1000 {
            return Err(DropReason::SubscriberRate);
        }
        self.tokens_milli -= 1000;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::class::Classes;
    use super::*;
    use crate::config::{Nat64Config, SubscriberLimits};

    #[test]
    fn added_found_and_forgotten() {
        let mut subscribers = Subscribers::new(2, HashKey::seeded(1));
        let first = subscribers.add(1 << 64).unwrap();
        let second = subscribers.add(2 << 64).unwrap();
        assert_eq!(subscribers.add(3 << 64), None);
        assert_eq!(subscribers.find(1 << 64), Some(first));
        subscribers.get_mut(second).bib_count = 1;
        assert!(!subscribers.remove_if_idle(second));
        assert!(subscribers.remove_if_idle(first));
        assert!(!subscribers.remove_if_idle(first));
        assert_eq!(subscribers.find(1 << 64), None);
        assert_eq!(subscribers.add(3 << 64), Some(first));
        assert_eq!(subscribers.iter_from(0).count(), 2);
    }

    #[test]
    fn rate_is_a_second_of_burst_and_then_the_rate() {
        let classes = Classes::new(&Nat64Config {
            subscriber: SubscriberLimits {
                session_rate_max: Some(10),
                ..SubscriberLimits::default()
            },
            ..Nat64Config::default()
        });
        let class = classes.get(0);
        let mut one = Subscriber::empty(0);
        let open = |one: &mut Subscriber, at| one.may_open_session(class, false, at).is_ok();
        assert_eq!((0..20).filter(|_| open(&mut one, 5000)).count(), 10);
        assert_eq!((0..20).filter(|_| open(&mut one, 5500)).count(), 5);
        assert_eq!((0..20).filter(|_| open(&mut one, 60_000)).count(), 10);
    }
}
