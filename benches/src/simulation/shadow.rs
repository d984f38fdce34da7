//! The tables that the engine is held against: who holds which block by the events, and whose
//! each translated packet was.

use std::time::Duration;

use gate64_dataplane::clock::ticks;
use gate64_dataplane::command::BlockEvent;
use gate64_wire::addr::{Protocol, TransportAddr4};
use hashbrown::HashMap;

use super::{Fault, Outcome, Plan, subscriber_of};

/// The least time without packets after which a mapping may be gone, by protocol.
const LIFETIMES: [Duration; 3] = [
    Duration::from_secs(300),
    Duration::from_secs(240),
    Duration::from_secs(60),
];

/// Who was seen behind a pool transport address, and when last.
#[derive(Debug, Clone, Copy)]
struct Owner {
    subscriber: u32,
    host_port: u16,
    seen: u32,
}

/// What a subscriber holds, by the events.
#[derive(Debug, Clone, Copy, Default)]
struct Holding {
    address: u32,
    blocks: u16,
}

/// The tables that the engine is held against.
pub struct Shadow {
    plan: Plan,
    owners: HashMap<u64, Owner>,
    /// Pool address and block, with its holder.
    pub blocks: HashMap<(u32, u16), u64>,
    holdings: Vec<Holding>,
    holders: u64,
    /// What was seen so far.
    pub outcome: Outcome,
}

impl Shadow {
    /// Nothing is held.
    pub fn new(plan: Plan) -> Shadow {
        let count = usize::try_from(plan.subscribers).unwrap_or(0);
        Shadow {
            plan,
            owners: HashMap::new(),
            blocks: HashMap::new(),
            holdings: vec![Holding::default(); count],
            holders: 0,
            outcome: Outcome::default(),
        }
    }

    fn holding(&mut self, subscriber: u64) -> Result<&mut Holding, Fault> {
        let place = usize::try_from(subscriber).unwrap_or(usize::MAX);
        let found = self.holdings.get_mut(place);
        found.ok_or_else(|| format!("an event of subscriber {subscriber}, which there is none"))
    }

    /// A block was given out.
    pub fn allocated(&mut self, event: &BlockEvent) -> Result<(), Fault> {
        let subscriber = subscriber_of(event.subscriber);
        let key = (u32::from(event.v4), event.port_first);
        if let Some(holder) = self.blocks.insert(key, subscriber) {
            return Err(format!("{event:?}: allocated while {holder} holds it"));
        }
        let blocks_max = self.plan.limits_of(subscriber).port_blocks_max;
        let holding = self.holding(subscriber)?;
        if holding.blocks > 0 && holding.address != key.0 {
            return Err(format!("{event:?}: a second address (RFC 6888 REQ-2)"));
        }
        holding.address = key.0;
        holding.blocks += 1;
        if holding.blocks > blocks_max {
            return Err(format!("{event:?}: more than {blocks_max} blocks"));
        }
        self.holders += u64::from(holding.blocks == 1);
        self.outcome.blocks_allocated += 1;
        let held = self.blocks.len() as u64;
        self.outcome.blocks_held_max = self.outcome.blocks_held_max.max(held);
        self.outcome.subscribers_max = self.outcome.subscribers_max.max(self.holders);
        Ok(())
    }

    /// A block was taken back.
    pub fn released(&mut self, event: &BlockEvent) -> Result<(), Fault> {
        let subscriber = subscriber_of(event.subscriber);
        let key = (u32::from(event.v4), event.port_first);
        if self.blocks.remove(&key) != Some(subscriber) {
            return Err(format!("{event:?}: released by who does not hold it"));
        }
        let holding = self.holding(subscriber)?;
        holding.blocks -= 1;
        self.holders -= u64::from(holding.blocks == 0);
        self.outcome.blocks_released += 1;
        Ok(())
    }

    /// A translated packet: its mapping must be the subscriber's and nobody else's.
    pub fn translated(
        &mut self,
        subscriber: u64,
        host_port: u16,
        protocol: Protocol,
        mapped: TransportAddr4,
        now: u32,
    ) -> Result<(), Fault> {
        let ip = u32::from(mapped.ip);
        let first = mapped.port - (mapped.port - 1024) % 64;
        if self.blocks.get(&(ip, first)) != Some(&subscriber) {
            return Err(format!("{mapped:?} lies in no block of {subscriber}"));
        }
        let owner = Owner {
            subscriber: u32::try_from(subscriber).unwrap_or(u32::MAX),
            host_port,
            seen: now,
        };
        let key = u64::from(protocol as u8) << 48 | u64::from(ip) << 16 | u64::from(mapped.port);
        if let Some(before) = self.owners.insert(key, owner)
            && (before.subscriber, before.host_port) != (owner.subscriber, host_port)
        {
            // RFC 6888 REQ-8. A tick for the grain of the clock at either end.
            let rest = ticks(LIFETIMES[protocol.index()]) + ticks(Duration::from_secs(120)) - 2;
            if now - before.seen < rest {
                return Err(format!(
                    "{protocol} {mapped:?} goes from {before:?} to {owner:?} after {} ticks",
                    now - before.seen
                ));
            }
        }
        self.outcome.translated += 1;
        Ok(())
    }
}
