//! The log's needs: every held block is told again at intervals, and nothing that has to be in
//! the log is handed out while nobody can write it.

use super::pool4::BlockId;
use super::{EVENTS_MAX, Nat64};
use crate::clock::{Instant, Tick, ticks};
use crate::command::{Event, LogMode};
use crate::verdict::{DropReason, IcmpError, Refusal};

/// Blocks looked at in a turn.
const BLOCKS_PER_TURN: u32 = 64;

/// How far the round over all blocks is. A round is spread evenly over its interval, so that
/// neither the worker nor the log sees a burst.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Relog {
    /// Ticks of a round; 0 for none.
    interval: u32,
    began: Tick,
    /// The last block that was looked at.
    done: BlockId,
    /// The tick for which everything due was looked at.
    caught_up: Tick,
}

impl Relog {
    /// The last block that is due at `now`, of `count`.
    fn due(&self, now: Tick, count: u32) -> BlockId {
        let elapsed = u64::from(now.0.saturating_sub(self.began.0));
        let due = elapsed * u64::from(count) / u64::from(self.interval.max(1));
        u32::try_from(due).unwrap_or(u32::MAX).min(count)
    }
}

impl Nat64 {
    /// Begins to tell the log what `mode` says.
    pub(super) fn set_log(&mut self, mode: LogMode, now: Tick) {
        self.log_sessions = mode.sessions;
        self.refuse_new = mode.refuse_new;
        let interval = mode.relog_interval.map_or(0, ticks);
        if interval != self.relog.interval {
            self.relog = Relog {
                interval,
                began: now,
                done: 0,
                caught_up: now,
            };
        }
    }

    /// Refuses what would have to be logged while the log fails (`log.on_failure`).
    pub(super) fn may_log(&self) -> Result<(), Refusal> {
        match self.refuse_new {
            true => Err(Refusal::Reject(
                DropReason::LogFailing,
                IcmpError::AdminProhibited,
            )),
            false => Ok(()),
        }
    }

    /// Tells the blocks that are due again.
    pub(super) fn relog_blocks(&mut self, now: Instant) {
        let tick = now.tick();
        if self.relog.interval == 0 || self.relog.caught_up == tick {
            return;
        }
        let count = self.pool.block_number_max();
        let due = self.relog.due(tick, count);
        for _ in 0..BLOCKS_PER_TURN {
            if self.relog.done >= due {
                self.relog.caught_up = tick;
                break;
            }
            // What happens now goes before what is only repeated.
            if self.events.len() >= EVENTS_MAX / 2 {
                return;
            }
            self.relog.done += 1;
            self.tell_again(self.relog.done, now);
        }
        if self.relog.done >= count && due >= count {
            self.relog.began = tick;
            self.relog.done = 0;
        }
    }

    fn tell_again(&mut self, block: BlockId, now: Instant) {
        let record = self.blocks.get(block);
        let subscriber = record.subscriber;
        // Who has a block by calculation has it always.
        if subscriber != 0 && !record.is_fixed() {
            let prefix = self.subscribers.get(subscriber).address();
            let event = self.block_event(block, prefix, now);
            self.tell(Event::BlockLive(event));
        }
    }
}
