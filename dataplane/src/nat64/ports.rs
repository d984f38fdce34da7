//! Ports for subscribers: whose they are, of which block, and what quota says so.
//!
//! All ports of a subscriber lie on one pool address (paired pooling, RFC 6888 REQ-2) for as long
//! as it holds a block there. A refusal never takes a mapping from anybody.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};

use super::class::Class;
use super::pool4::{BlockId, Slot};
use super::subscriber::Subscriber;
use super::table::WheelRef;
use super::{Context, Nat64};
use crate::clock::{Instant, Tick};
use crate::command::{BlockEvent, Event};
use crate::config::POOLS_MAX;
use crate::counters::{self, subscriber_step};
use crate::verdict::{DropReason, Refusal};

/// Ports below are well-known ones (RFC 6335 section 6).
const WELL_KNOWN_PORTS: u16 = 1024;

/// Which of a subscriber's blocks are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocks {
    /// Those that give new ports.
    Active,
    /// Those that have been active for `subscriber.block_active`.
    Retired,
}

impl Nat64 {
    /// The subscriber of a host, made if it is new.
    pub(super) fn subscriber_of(
        &mut self,
        v6: TransportAddr6,
        context: &Context,
    ) -> Result<(u32, bool), Refusal> {
        let prefix = self.ownership.subscriber_prefix(v6.ip);
        if let Some(id) = self.subscribers.find(prefix) {
            self.find_class(id);
            return Ok((id, false));
        }
        match self.add_subscriber(prefix, context.tick) {
            Some(id) => Ok((id, true)),
            None => {
                let class = self.classes.get(self.classes.number_of(prefix));
                Err(class.refusal(DropReason::SubscribersFull))
            }
        }
    }

    /// Makes a subscriber, with the blocks that it has by calculation; `None` if there is no room.
    pub(super) fn add_subscriber(&mut self, prefix: u128, now: Tick) -> Option<u32> {
        let id = self.subscribers.add(prefix)?;
        self.counters.add(counters::subscribers(0), 1);
        self.counters.add(counters::subscribers_by_ports(0), 1);
        self.counters.add(counters::subscribers_by_sessions(0), 1);
        let one = self.subscribers.get_mut(id);
        one.class = self.classes.number_of(prefix);
        one.class_generation = self.class_generation;
        self.take_fixed(id, prefix, now);
        Some(id)
    }

    fn take_fixed(&mut self, id: u32, prefix: u128, now: Tick) {
        let sets = self.pool.deterministic();
        let Some(share) = sets.share(prefix, self.pool.stride()) else {
            return;
        };
        let mut next = 0;
        for block in (share.first..share.first + share.count).rev() {
            self.blocks.take_fixed(block, id, now);
            self.blocks.get_mut(block).next = next;
            self.count_block_held(block, true);
            next = block;
        }
        let one = self.subscribers.get_mut(id);
        one.slot = Some(share.slot);
        one.first_block = next;
        one.fixed_count = u16::try_from(share.count).unwrap_or(u16::MAX);
    }

    /// Finds the class anew where the configuration has changed since.
    pub(super) fn find_class(&mut self, id: u32) {
        let class = self.class_number(self.subscribers.get(id));
        let one = self.subscribers.get_mut(id);
        one.class = class;
        one.class_generation = self.class_generation;
    }

    /// The number of a subscriber's class in the configuration in use.
    pub(super) fn class_number(&self, one: &Subscriber) -> u16 {
        match one.class_generation == self.class_generation {
            true => one.class,
            false => self.classes.number_of(one.prefix),
        }
    }

    /// The class of a subscriber.
    pub(super) fn class_of(&self, subscriber: u32) -> &Class {
        self.classes.get(self.subscribers.get(subscriber).class)
    }

    /// Forgets a subscriber that has neither entries nor blocks but those by calculation; nothing
    /// if that was done already.
    pub(super) fn forget_if_idle(&mut self, subscriber: u32, now: Tick) {
        let one = self.subscribers.get(subscriber);
        if !one.is_in_use() || one.block_count > 0 || one.bib_count > 0 {
            return;
        }
        let mut block = one.first_block;
        let (ports, sessions) = (one.ports_total(), one.session_count);
        while block != 0 {
            let next = self.blocks.get(block).next;
            self.count_block_held(block, false);
            self.blocks.give_back(block, now);
            block = next;
        }
        if self.subscribers.remove_if_idle(subscriber) {
            self.counters.sub(counters::subscribers(0), 1);
            let (ports, sessions) = (subscriber_step(ports), subscriber_step(sessions));
            self.counters.sub(counters::subscribers_by_ports(ports), 1);
            self.counters
                .sub(counters::subscribers_by_sessions(sessions), 1);
        }
    }

    /// A port for a subscriber. `wanted` is the host's own port, for its parity; `to`, where the
    /// packet goes, tells whether the reserve is for it.
    pub(super) fn allocate(
        &mut self,
        wanted: u16,
        protocol: Protocol,
        subscriber: u32,
        to: u16,
        context: &Context,
    ) -> Result<(TransportAddr4, Slot), Refusal> {
        self.check_port_quota(protocol, subscriber, to)?;
        let now = context.tick;
        if let Some(found) = self.port_of(subscriber, Blocks::Active, wanted, protocol, now) {
            return Ok(found);
        }
        match self.new_block(subscriber, context) {
            Ok(block) => {
                let port = self.blocks.allocate(block, protocol, wanted, now);
                let found = port.and_then(|port| self.transport_of(block, port));
                // Only a block of nothing but excluded and static ports has none.
                found.ok_or_else(|| self.class_of(subscriber).refusal(DropReason::PoolExhausted))
            }
            Err(refusal) => self
                .port_of(subscriber, Blocks::Retired, wanted, protocol, now)
                .ok_or(refusal),
        }
    }

    /// RFC 6888 REQ-4: ports by protocol, and what is kept for essential destinations.
    fn check_port_quota(
        &self,
        protocol: Protocol,
        subscriber: u32,
        to: u16,
    ) -> Result<(), Refusal> {
        let one = self.subscribers.get(subscriber);
        let class = self.classes.get(one.class);
        let blocks = class.limits.port_blocks_max.max(one.fixed_count);
        let budget = u32::from(blocks) * u32::from(self.pool.block_size());
        let limit = class.limits.ports_max[protocol.index()].min(budget);
        let is_essential = self.classes.is_essential(protocol, to);
        if one.ports[protocol.index()] >= class.usable(limit, is_essential) {
            return Err(class.refusal(DropReason::SubscriberPorts));
        }
        Ok(())
    }

    fn port_of(
        &mut self,
        subscriber: u32,
        which: Blocks,
        wanted: u16,
        protocol: Protocol,
        now: Tick,
    ) -> Option<(TransportAddr4, Slot)> {
        if which == Blocks::Retired && self.block_active_ticks.is_none() {
            return None;
        }
        // RFC 4787 REQ-3 a: in the range of the host's port where one is free, else in the other.
        for of_same_range in [true, false] {
            let mut block = self.subscribers.get(subscriber).first_block;
            while block != 0 {
                let is_retired = self.is_retired(block, now);
                if is_retired == (which == Blocks::Retired)
                    && self.is_of_range(block, wanted) == of_same_range
                    && let Some(port) = self.blocks.allocate(block, protocol, wanted, now)
                {
                    return self.transport_of(block, port);
                }
                block = self.blocks.get(block).next;
            }
        }
        None
    }

    /// Whether a block begins in the same range of ports, well-known or not, as this one lies in.
    fn is_of_range(&self, block: BlockId, port: u16) -> bool {
        let first = self.pool.block_start(block).map_or(0, |(_, _, port)| port);
        (first < WELL_KNOWN_PORTS) == (port < WELL_KNOWN_PORTS)
    }

    /// Whether a block has been active for as long as blocks are; those by calculation always are.
    fn is_retired(&self, block: BlockId, now: Tick) -> bool {
        let record = self.blocks.get(block);
        self.block_active_ticks.is_some_and(|active| {
            !record.is_fixed() && now.0.saturating_sub(record.taken_at.0) >= active
        })
    }

    fn transport_of(&self, block: BlockId, port: u16) -> Option<(TransportAddr4, Slot)> {
        let (ip, slot, _) = self.pool.block_start(block)?;
        Some((TransportAddr4 { ip, port }, slot))
    }

    fn new_block(&mut self, subscriber: u32, context: &Context) -> Result<BlockId, Refusal> {
        self.may_log()?;
        let one = self.subscribers.get(subscriber);
        let class = self.classes.get(one.class);
        let exhausted = class.refusal(DropReason::PoolExhausted);
        let may_grow = one.fixed_count == 0
            || self
                .pool
                .deterministic()
                .share(one.prefix, self.pool.stride())
                .is_some_and(|share| share.overflow);
        if !may_grow || one.block_count + one.fixed_count >= class.limits.port_blocks_max {
            return Err(class.refusal(DropReason::SubscriberPorts));
        }
        let (prefix, pool) = (one.address(), class.pool);
        if one.fixed_count == 0 && self.pool.deterministic().has_pool(pool) {
            return Err(exhausted);
        }
        let slot = match one.slot {
            Some(slot) => slot,
            None => self.blocks.choose_address(pool).ok_or(exhausted)?,
        };
        let block = self.blocks.take(slot, subscriber, context.tick);
        let block = block.ok_or(exhausted)?;
        self.link(block, subscriber);
        // An empty block must be seen by the wheel even if no port of it is ever used.
        self.arm_block(block, Tick(context.tick.0 + self.block_idle_ticks));
        let one = self.subscribers.get_mut(subscriber);
        one.slot = Some(slot);
        one.block_count += 1;
        self.count_block_held(block, true);
        self.counters.add(counters::port_blocks_allocated(0), 1);
        let event = self.block_event(block, prefix, context.now);
        self.tell(Event::BlockAllocated(event));
        Ok(block)
    }

    /// Puts a new block in front of a subscriber's others, but behind those by calculation: ports
    /// of these come first, for they need no log.
    fn link(&mut self, block: BlockId, subscriber: u32) {
        let (mut before, mut next) = (0, self.subscribers.get(subscriber).first_block);
        while next != 0 && self.blocks.get(next).is_fixed() {
            (before, next) = (next, self.blocks.get(next).next);
        }
        self.blocks.get_mut(block).next = next;
        match before {
            0 => self.subscribers.get_mut(subscriber).first_block = block,
            before => self.blocks.get_mut(before).next = block,
        }
    }

    /// Has the wheel visit a block, unless it does already.
    fn arm_block(&mut self, block: BlockId, at: Tick) {
        let record = self.blocks.get_mut(block);
        if record.armed == 0 {
            record.armed = 1;
            self.table.wheel.arm(at, WheelRef::Block(block).pack());
        }
    }

    /// Counts a port that a mapping got or gave back.
    pub(super) fn count_port(
        &mut self,
        subscriber: u32,
        v4: TransportAddr4,
        protocol: Protocol,
        is_more: bool,
    ) {
        let index = protocol.index();
        let one = self.subscribers.get_mut(subscriber);
        let before = subscriber_step(one.ports_total());
        if is_more {
            one.ports[index] += 1;
            self.counters.add(counters::ports_used(index), 1);
        } else {
            one.ports[index] -= 1;
            self.counters.sub(counters::ports_used(index), 1);
        }
        let after = subscriber_step(one.ports_total());
        self.counters.shift(
            counters::subscribers_by_ports(before),
            counters::subscribers_by_ports(after),
        );
        // The block was counted before by what it had one port less of.
        if is_more && let Some(block) = self.pool.block(v4.ip, v4.port) {
            let step = self.blocks.use_step(block);
            let before = self.blocks.use_step_without_one(block, protocol);
            self.counters.shift(
                counters::port_blocks_by_use(before),
                counters::port_blocks_by_use(step),
            );
        }
    }

    /// Counts a session that a subscriber got or lost.
    pub(super) fn count_session(&mut self, subscriber: u32, is_more: bool) {
        let one = self.subscribers.get_mut(subscriber);
        let before = subscriber_step(one.session_count);
        if is_more {
            one.session_count += 1;
        } else {
            one.session_count -= 1;
        }
        let after = subscriber_step(one.session_count);
        self.counters.shift(
            counters::subscribers_by_sessions(before),
            counters::subscribers_by_sessions(after),
        );
    }

    /// Frees a port; it rests.
    pub(super) fn free_port(&mut self, v4: TransportAddr4, protocol: Protocol, now: Tick) {
        let Some(block) = self.pool.block(v4.ip, v4.port) else {
            return;
        };
        let before = self.blocks.use_step(block);
        let is_empty = self.blocks.free(block, protocol, v4.port, now);
        self.counters.shift(
            counters::port_blocks_by_use(before),
            counters::port_blocks_by_use(self.blocks.use_step(block)),
        );
        if is_empty && !self.blocks.get(block).is_fixed() {
            self.arm_block(block, Tick(now.0 + self.block_idle_ticks));
        }
    }

    /// An empty block goes back after `block_idle`, or at once when it has been active for as
    /// long as blocks are; one in use is visited again when it is empty; one that went back is
    /// free when its ports have rested.
    pub(super) fn visit_block(&mut self, block: BlockId, now: Instant, tick: Tick) {
        self.blocks.get_mut(block).armed = 0;
        let record = self.blocks.get(block);
        if record.subscriber == 0 {
            let again = self.blocks.rested(block, tick);
            if let Some(at) = again {
                self.arm_block(block, at);
            }
            self.count_pool(self.pool.pool_of(self.pool.slot_of(block)));
            return;
        }
        if record.used != [0; 3] || record.is_fixed() {
            return;
        }
        let over = Tick(record.empty_since.0.saturating_add(self.block_idle_ticks));
        if over > tick && !self.is_retired(block, tick) {
            self.arm_block(block, over);
            return;
        }
        self.release_block(block, now, tick);
    }

    /// Takes an empty block from its holder.
    pub(super) fn release_block(&mut self, block: BlockId, now: Instant, tick: Tick) {
        let subscriber = self.blocks.get(block).subscriber;
        let event = self.block_event(block, self.subscribers.get(subscriber).address(), now);
        self.unlink(block, subscriber);
        self.count_block_held(block, false);
        if let Some(at) = self.blocks.give_back(block, tick) {
            self.arm_block(block, at);
        }
        self.count_pool(self.pool.pool_of(self.pool.slot_of(block)));
        self.counters.add(counters::port_blocks_released(0), 1);
        self.tell(Event::BlockReleased(event));
        self.forget_if_idle(subscriber, tick);
    }

    fn unlink(&mut self, block: BlockId, subscriber: u32) {
        let next = self.blocks.get(block).next;
        let one = self.subscribers.get_mut(subscriber);
        one.block_count -= 1;
        if one.block_count == 0 && one.fixed_count == 0 {
            // Nothing is left on that address: the next block may come from another.
            one.slot = None;
        }
        if one.first_block == block {
            one.first_block = next;
            return;
        }
        let mut before = one.first_block;
        while before != 0 {
            let record = self.blocks.get_mut(before);
            if record.next == block {
                record.next = next;
                return;
            }
            before = record.next;
        }
    }

    /// Counts a block that got or lost its holder. It is empty.
    fn count_block_held(&mut self, block: BlockId, is_held: bool) {
        let pool = usize::from(self.pool.pool_of(self.pool.slot_of(block)));
        for id in [
            counters::port_blocks_used(0),
            counters::pool_blocks_used(pool),
            counters::port_blocks_by_use(0),
        ] {
            if is_held {
                self.counters.add(id, 1);
            } else {
                self.counters.sub(id, 1);
            }
        }
    }

    fn count_pool(&mut self, pool: u8) {
        let owned = self.blocks.owned();
        self.counters
            .set(counters::port_blocks_total(0), owned.into());
        let counts = self.blocks.counts(pool);
        let pool = usize::from(pool);
        self.counters
            .set(counters::pool_blocks_resting(pool), counts.resting.into());
        self.counters
            .set(counters::pool_blocks_total(pool), counts.owned.into());
        self.counters
            .set(counters::pool_blocks_used(pool), counts.held.into());
    }

    /// Counts all blocks anew, after the pool has changed.
    pub(super) fn count_blocks(&mut self) {
        for pool in (0u8..).take(POOLS_MAX) {
            self.count_pool(pool);
        }
        let held = self.blocks.held();
        self.counters
            .set(counters::port_blocks_used(0), held.into());
    }

    /// A block and its holder for the log.
    pub(super) fn block_event(
        &self,
        block: BlockId,
        subscriber: Ipv6Addr,
        at: Instant,
    ) -> BlockEvent {
        let start = self.pool.block_start(block);
        let (v4, _, port_first) = start.unwrap_or((Ipv4Addr::UNSPECIFIED, 0, 0));
        BlockEvent {
            at,
            subscriber,
            prefix_length: self.config.subscriber.prefix_length,
            v4,
            port_first,
            port_count: self.pool.block_size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::plan::{Settings, Shared};
    use super::*;
    use crate::config::{DeterministicSet, Nat64Config, Pool4Prefix, Prefix6};
    use crate::verdict::WorkerId;

    #[test]
    fn a_subscriber_is_forgotten_once() {
        let config = Nat64Config {
            pool4: vec![Pool4Prefix {
                address: [192, 0, 2, 1].into(),
                ..Pool4Prefix::default()
            }],
            deterministic: vec![DeterministicSet {
                subscribers: vec![Prefix6::new("2001:db8::".parse().unwrap(), 60)],
                pool: 0,
                blocks_per_subscriber: 2,
                overflow: false,
            }],
            ..Nat64Config::default()
        };
        let shared = Shared::new(Arc::new(config), Settings::new(1, 100));
        let mut nat64 = Nat64::new(&shared, WorkerId(0)).unwrap();
        let prefix = u128::from("2001:db8::".parse::<Ipv6Addr>().unwrap());
        let id = nat64.add_subscriber(prefix, Tick(0)).unwrap();
        assert_eq!(nat64.blocks.held(), 2);
        for _ in 0..2 {
            nat64.forget_if_idle(id, Tick(0));
            assert_eq!(nat64.blocks.held(), 0);
            nat64.check_invariants();
        }
    }
}
