//! Which ports and blocks the naive NAT64 allows the engine to choose.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gate64_dataplane::clock::ticks;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};

use crate::naive::{
    ADDRESSES, BLOCK_SIZE, BLOCKS_MAX, BLOCKS_PER_ADDRESS, Block, BlockKey, Entry, Fault, Naive,
    POOL_FIRST, PORTS, REUSE_DELAY, block_of, is_pool, subscriber_of,
};

impl Naive {
    /// A new mapping: has to be free, rested, of the subscriber's address and in its blocks.
    pub(super) fn map(
        &mut self,
        protocol: Protocol,
        v6: TransportAddr6,
        v4: TransportAddr4,
        tick: u32,
    ) -> Result<(), Fault> {
        let subscriber = subscriber_of(v6);
        if !is_pool(v4.ip) || !PORTS.contains(&v4.port) {
            return Err(format!("{v4:?} is not in the pool"));
        }
        if self.owner(protocol, v4).is_some() {
            return Err(format!("{v4:?} is mapped already"));
        }
        let rested = self.freed.get(&(protocol, v4)).map(|&at| tick - at);
        if rested.is_some_and(|rested| rested < ticks(REUSE_DELAY)) {
            return Err(format!("{v4:?} was freed only {rested:?} ticks ago"));
        }
        let mine = self.blocks_of(subscriber);
        if mine.iter().any(|key| key.0 != v4.ip) {
            return Err(format!("{v4:?} is not the subscriber's one address"));
        }
        match self.blocks.get(&block_of(v4)) {
            Some(block) if block.subscriber == subscriber => {}
            Some(block) => return Err(format!("{v4:?} lies in a block of {}", block.subscriber)),
            None if mine.len() >= usize::from(BLOCKS_MAX) => {
                return Err(format!("{v4:?} lies in one block too many"));
            }
            None => {
                if let Some(key) = mine.iter().find(|&&key| self.has_port(protocol, key, tick)) {
                    return Err(format!("{v4:?}: a new block although {key:?} has ports"));
                }
                if !self.has_rested(block_of(v4), tick, ticks(REUSE_DELAY)) {
                    return Err(format!("{v4:?}: a block of which ports still rest"));
                }
                let block = Block {
                    subscriber,
                    empty_since: tick,
                };
                self.blocks.insert(block_of(v4), block);
            }
        }
        let sessions = BTreeMap::new();
        self.bib.insert((protocol, v6), Entry { v4, sessions });
        Ok(())
    }

    fn blocks_of(&self, subscriber: u16) -> Vec<BlockKey> {
        let mine = self.blocks.iter();
        mine.filter(|(_, block)| block.subscriber == subscriber)
            .map(|(&key, _)| key)
            .collect()
    }

    /// Whether a block surely has a port: two reuse delays after it was freed, none rests.
    fn has_port(&self, protocol: Protocol, (ip, number): BlockKey, tick: u32) -> bool {
        let first = PORTS.start() + number * BLOCK_SIZE;
        (first..first + BLOCK_SIZE).any(|port| {
            let v4 = TransportAddr4 { ip, port };
            let rested = self.freed.get(&(protocol, v4)).map(|&at| tick - at);
            self.owner(protocol, v4).is_none()
                && rested.is_none_or(|rested| rested >= 2 * ticks(REUSE_DELAY))
        })
    }

    /// Whether no port of a block was freed in the last so many ticks.
    fn has_rested(&self, (ip, number): BlockKey, tick: u32, least: u32) -> bool {
        let first = PORTS.start() + number * BLOCK_SIZE;
        let ports = (first..first + BLOCK_SIZE).flat_map(|port| {
            let v4 = TransportAddr4 { ip, port };
            Protocol::ALL.map(|protocol| self.freed.get(&(protocol, v4)))
        });
        ports.flatten().all(|&freed| tick - freed >= least)
    }

    /// Whether a block surely is to be had: two reuse delays after a port was freed, none rests.
    fn is_free(&self, key: BlockKey, tick: u32) -> bool {
        !self.blocks.contains_key(&key) && self.has_rested(key, tick, 2 * ticks(REUSE_DELAY))
    }

    /// A mapping was refused: it has to be impossible.
    pub(super) fn check_exhausted(
        &self,
        v6: TransportAddr6,
        protocol: Protocol,
        tick: u32,
    ) -> Result<(), Fault> {
        let mine = self.blocks_of(subscriber_of(v6));
        if let Some(key) = mine.iter().find(|&&key| self.has_port(protocol, key, tick)) {
            return Err(format!("refused although block {key:?} has ports"));
        }
        let all = (0..ADDRESSES).flat_map(|address| {
            let ip = Ipv4Addr::from(u32::from(POOL_FIRST) + address);
            (0..BLOCKS_PER_ADDRESS).map(move |number| (ip, number))
        });
        let may_have = |key: &BlockKey| mine.first().is_none_or(|one| one.0 == key.0);
        let free = match mine.len() >= usize::from(BLOCKS_MAX) {
            true => 0,
            false => all
                .filter(|key| may_have(key) && self.is_free(*key, tick))
                .count(),
        };
        if free > 0 {
            return Err(format!("refused although {free} blocks are free"));
        }
        Ok(())
    }
}
