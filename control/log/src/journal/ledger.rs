//! Who has which block now, and what is not written down yet.
//!
//! The ledger goes on while the disk is full: when the journal can be written again, a snapshot
//! of it makes the journal right from then on.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::frame::Entry;
use crate::record::{Block, BlockAction, Record, What};

/// Entries that wait for the disk; more are lost, and counted.
const PENDING_MAX: usize = 1 << 18;

/// A held block.
#[derive(Debug, Clone, Copy)]
struct Held {
    block: Block,
    since_ms: i64,
    confirmed: Instant,
}

/// What is held, and what waits.
#[derive(Debug, Default)]
pub struct Ledger {
    held: HashMap<(Ipv4Addr, u16), Held>,
    pending: Vec<Entry>,
    /// Of the first that waits.
    sequence: u64,
    /// Behind the last record that was taken.
    next_sequence: u64,
    lost: u64,
}

impl Ledger {
    /// Takes a record over.
    pub fn take(&mut self, record: &Record, now: Instant) {
        if self.pending.is_empty() {
            self.sequence = record.sequence;
        }
        self.next_sequence = record.sequence.saturating_add(1);
        match record.what {
            What::Block(action, block) => self.take_block(action, record.at_ms, block, now),
            What::Lost(count) => self.add(Entry::Lost(record.at_ms, count)),
            What::Started | What::Stopped => self.held.clear(),
            What::Session(..) | What::Alarm(_) | What::ClockStep { .. } => {}
        }
    }

    fn take_block(&mut self, action: BlockAction, at_ms: i64, block: Block, now: Instant) {
        let key = (block.v4, block.port_first);
        let known = self.held.get_mut(&key);
        match (action, known) {
            // Nothing new: it only need not be thought of as gone.
            (BlockAction::Live, Some(known)) if known.block == block => {
                known.confirmed = now;
                return;
            }
            (BlockAction::Released, _) => {
                self.held.remove(&key);
            }
            (BlockAction::Allocated | BlockAction::Live, _) => {
                let held = Held {
                    block,
                    since_ms: at_ms,
                    confirmed: now,
                };
                self.held.insert(key, held);
            }
        }
        self.add(Entry::Block(action, at_ms, block));
    }

    fn add(&mut self, entry: Entry) {
        if self.pending.len() < PENDING_MAX {
            self.pending.push(entry);
        } else {
            self.lost += 1;
        }
    }

    /// Counts the time of [`Ledger::release_unconfirmed`] from now on for every block.
    pub fn confirm_all(&mut self, now: Instant) {
        for held in self.held.values_mut() {
            held.confirmed = now;
        }
    }

    /// Blocks that were not told again for so long are thought of as released: their release was
    /// lost on the way.
    pub fn release_unconfirmed(&mut self, after: Duration, now: Instant, now_ms: i64) {
        let is_gone = |held: &Held| now.saturating_duration_since(held.confirmed) > after;
        let gone: Vec<Held> = self.held.values().copied().filter(is_gone).collect();
        for held in gone {
            self.take_block(BlockAction::Released, now_ms, held.block, now);
        }
    }

    /// What waits, oldest first, and the sequence number of the first: of the next, if none waits.
    pub fn pending(&self) -> (u64, &[Entry]) {
        match self.pending.is_empty() {
            true => (self.next_sequence, &[]),
            false => (self.sequence, &self.pending),
        }
    }

    /// What waited is written, or in a snapshot.
    pub fn written(&mut self) {
        self.pending.clear();
    }

    /// Counts what waits as lost.
    pub fn give_up(&mut self) {
        self.lost += self.pending.len() as u64;
        self.pending.clear();
    }

    /// Entries that found no room and that no segment tells of yet.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// A segment tells of so many.
    pub fn forget_lost(&mut self, count: u64) {
        self.lost -= count;
    }

    /// Whether entries were lost that nobody asked for yet.
    pub fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// The held blocks, each as it is put into a snapshot.
    pub fn snapshot(&self) -> impl Iterator<Item = Entry> {
        self.held
            .values()
            .map(|held| Entry::Block(BlockAction::Live, held.since_ms, held.block))
    }
}
