//! A reader's queue: bounded in records, filled without waiting, its losses counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::record::{EventKind, Record};

#[derive(Debug)]
struct Shared {
    records: Mutex<Held>,
    capacity: usize,
    filled: Notify,
    taken: AtomicU64,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    waiting: VecDeque<Record>,
    is_closed: bool,
}

impl Shared {
    /// Every use under the lock is whole, whether or not a thread panicked while it held it.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The filling end.
#[derive(Debug, Clone)]
pub struct Queue {
    shared: Arc<Shared>,
    wants: Vec<EventKind>,
}

/// The reading end.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

impl Queue {
    /// A queue of `capacity` records of the given kinds; what belongs to no kind goes to everyone.
    pub fn new(capacity: usize, wants: &[EventKind]) -> (Queue, Reader) {
        let shared = Arc::new(Shared {
            records: Mutex::default(),
            capacity,
            filled: Notify::new(),
            taken: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let queue = Queue {
            shared: Arc::clone(&shared),
            wants: wants.to_vec(),
        };
        (queue, Reader { shared })
    }

    /// Whether the reader is to get such records.
    pub fn wants(&self, kind: Option<EventKind>) -> bool {
        kind.is_none_or(|kind| self.wants.contains(&kind))
    }

    /// Adds the records that the reader wants; those that find no room are lost and counted.
    pub fn push(&self, records: &[Record]) {
        let mut held = self.shared.held();
        let mut lost = 0;
        for record in records.iter().filter(|one| self.wants(one.what.kind())) {
            if held.waiting.len() < self.shared.capacity {
                held.waiting.push_back(record.clone());
            } else {
                lost += 1;
            }
        }
        drop(held);
        self.shared.lost.fetch_add(lost, Ordering::Relaxed);
        self.shared.filled.notify_one();
    }

    /// Tells the reader that nothing more comes.
    pub fn close(&self) {
        self.shared.held().is_closed = true;
        self.shared.filled.notify_one();
    }

    /// Whether records are being lost: there is no room.
    pub fn is_full(&self) -> bool {
        self.shared.held().waiting.len() >= self.shared.capacity
    }

    /// Records that wait.
    pub fn waiting(&self) -> usize {
        self.shared.held().waiting.len()
    }

    /// Records that the reader took.
    pub fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::Relaxed)
    }

    /// Records that found no room, or that the reader gave up.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Reader {
    /// What waits, at most `max` records, oldest first.
    pub fn take(&self, max: usize) -> Vec<Record> {
        let mut held = self.shared.held();
        let count = held.waiting.len().min(max);
        let taken: Vec<Record> = held.waiting.drain(..count).collect();
        drop(held);
        self.shared.taken.fetch_add(count as u64, Ordering::Relaxed);
        taken
    }

    /// Waits until something is there or nothing more comes.
    pub async fn filled(&self) {
        loop {
            let filled = self.shared.filled.notified();
            {
                let held = self.shared.held();
                if !held.waiting.is_empty() || held.is_closed {
                    return;
                }
            }
            filled.await;
        }
    }

    /// Whether nothing is left and nothing more comes.
    pub fn is_over(&self) -> bool {
        let held = self.shared.held();
        held.is_closed && held.waiting.is_empty()
    }

    /// Whether nothing more comes than what waits.
    pub fn is_closed(&self) -> bool {
        self.shared.held().is_closed
    }

    /// Records that found no room so far, or were given up.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Counts records that were taken and could not be delivered.
    pub fn give_up(&self, count: u64) {
        self.shared.lost.fetch_add(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::What;

    fn record(sequence: u64) -> Record {
        Record {
            sequence,
            at_ms: 0,
            what: What::Lost(1),
        }
    }

    #[tokio::test]
    async fn what_finds_no_room_is_counted() {
        let (queue, reader) = Queue::new(2, &[]);
        queue.push(&[record(0), record(1), record(2)]);
        assert_eq!((queue.waiting(), queue.lost()), (2, 1));
        assert!(queue.is_full());
        reader.filled().await;
        let sequences: Vec<u64> = reader.take(10).iter().map(|one| one.sequence).collect();
        assert_eq!(sequences, [0, 1]);
        assert_eq!(queue.taken(), 2);
        queue.close();
        reader.filled().await;
        assert!(reader.is_over());
    }
}
