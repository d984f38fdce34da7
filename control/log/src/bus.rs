//! Gives every record its time and number, and hands it to all readers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::clock::{WallClock, unix_ms};
use crate::queue::Queue;
use crate::record::{Alarm, EventKind, Record, What};

/// Numbers that are left out behind those that an earlier process is known to have used: records that no journal
/// keeps have some too, and those of its last second may not have reached it.
const SEQUENCE_GAP: u64 = 1 << 32;

/// Beyond it is no number of a journal's, but octets made up by somebody.
const SEQUENCE_MAX: u64 = 1 << 62;

/// Something a worker told: when in its monotonic time, and what.
#[derive(Debug, Clone)]
pub struct Event {
    /// Nanoseconds of the monotonic clock that the bus was made with.
    pub at_nanos: u64,
    /// What happened.
    pub what: What,
}

/// How a reader of the bus does: the journal or a sink.
#[derive(Debug, Default)]
pub struct Condition {
    is_down: AtomicBool,
    detail: Mutex<String>,
}

impl Condition {
    /// Notes that it cannot be written, and why. True if that is news.
    pub fn fail(&self, reason: &str) -> bool {
        *lock(&self.detail) = reason.to_owned();
        !self.is_down.swap(true, Ordering::Relaxed)
    }

    /// Notes that it can be written. True if that is news.
    pub fn recover(&self) -> bool {
        self.is_down.swap(false, Ordering::Relaxed)
    }

    /// Why it cannot be written, if it cannot.
    pub fn problem(&self) -> Option<String> {
        let is_down = self.is_down.load(Ordering::Relaxed);
        is_down.then(|| lock(&self.detail).clone())
    }
}

/// A reader, for metrics and health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderReport {
    /// Its name: "journal", or a sink's type and target.
    pub name: String,
    /// Why it cannot be written, if it cannot.
    pub problem: Option<String>,
    /// Records that it took.
    pub taken: u64,
    /// Records lost for it.
    pub lost: u64,
    /// Records that wait for it.
    pub waiting: usize,
}

#[derive(Debug)]
struct Attached {
    name: String,
    queue: Queue,
    condition: Arc<Condition>,
    /// Whether it fails as soon as it is down, rather than when its queue is full too.
    is_vital: bool,
}

impl Attached {
    fn is_failing(&self) -> bool {
        self.condition.problem().is_some() && (self.is_vital || self.queue.is_full())
    }
}

#[derive(Debug)]
struct Inner {
    clock: WallClock,
    next_sequence: u64,
    readers: Vec<Attached>,
}

/// The way into the log, shared by everyone who has something to tell.
#[derive(Debug)]
pub struct Bus {
    inner: Mutex<Inner>,
    published: AtomicU64,
}

impl Bus {
    /// A bus without readers, whose monotonic clock shows `monotonic_nanos` now. Sequence numbers
    /// begin above those of an earlier process, unless that wrote a million records a second.
    pub fn new(monotonic_nanos: u64) -> Bus {
        let wall = SystemTime::now();
        let unix_seconds = u64::try_from(unix_ms(wall) / 1000).unwrap_or(0);
        Bus {
            inner: Mutex::new(Inner {
                clock: WallClock::new(monotonic_nanos, wall),
                next_sequence: unix_seconds << 20,
                readers: Vec::new(),
            }),
            published: AtomicU64::new(0),
        }
    }

    /// Goes on behind the numbers of an earlier process, of which `sequence` is the first that it is not known to
    /// have used. Nothing changes where the clock has led far beyond it, as it does unless it was set back.
    pub fn continue_from(&self, sequence: u64) {
        let mut inner = lock(&self.inner);
        if inner.next_sequence < sequence {
            inner.next_sequence = sequence.min(SEQUENCE_MAX) + SEQUENCE_GAP;
        }
    }

    /// Adds a reader. One that is vital fails as soon as it cannot be written; any other while
    /// its queue takes what comes does not.
    pub fn attach(&self, name: &str, queue: Queue, condition: Arc<Condition>, is_vital: bool) {
        lock(&self.inner).readers.push(Attached {
            name: name.to_owned(),
            queue,
            condition,
            is_vital,
        });
    }

    /// Takes a reader out and closes its queue.
    pub fn detach(&self, name: &str) {
        let mut inner = lock(&self.inner);
        inner.readers.retain(|reader| {
            if reader.name == name {
                reader.queue.close();
            }
            reader.name != name
        });
    }

    /// Looks at the wall clock; a step becomes a record.
    pub fn observe_clock(&self, monotonic_nanos: u64, wall: SystemTime) {
        let mut inner = lock(&self.inner);
        if let Some(step) = inner.clock.observe(monotonic_nanos, wall) {
            let what = What::ClockStep {
                from_ms: step.from_ms,
                to_ms: step.to_ms,
            };
            self.put(&mut inner, [(step.to_ms, what)]);
        }
    }

    /// Publishes what workers told, in order.
    pub fn publish(&self, events: impl IntoIterator<Item = Event>) {
        let mut inner = lock(&self.inner);
        let clock = inner.clock;
        let stamped = events
            .into_iter()
            .map(|event| (clock.at_ms(event.at_nanos), event.what));
        self.put(&mut inner, stamped);
    }

    /// Publishes something that happens now.
    pub fn tell(&self, what: What) {
        let mut inner = lock(&self.inner);
        self.put(&mut inner, [(unix_ms(SystemTime::now()), what)]);
    }

    /// Publishes an alarm, raised or cleared now.
    pub fn alarm(&self, alarm: Alarm) {
        self.tell(What::Alarm(Arc::new(alarm)));
    }

    /// Tells that nothing more comes: readers write what they have and end.
    pub fn close(&self) {
        for reader in &lock(&self.inner).readers {
            reader.queue.close();
        }
    }

    /// Records published.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Whether any reader wants sessions.
    pub fn wants_sessions(&self) -> bool {
        let inner = lock(&self.inner);
        let mut readers = inner.readers.iter();
        readers.any(|reader| reader.queue.wants(Some(EventKind::Session)))
    }

    /// Whether records are being lost, or will be as soon as there are any.
    pub fn is_failing(&self) -> bool {
        lock(&self.inner).readers.iter().any(Attached::is_failing)
    }

    /// How every reader does.
    pub fn report(&self) -> Vec<ReaderReport> {
        let inner = lock(&self.inner);
        let report = |reader: &Attached| ReaderReport {
            name: reader.name.clone(),
            problem: reader.condition.problem(),
            taken: reader.queue.taken(),
            lost: reader.queue.lost(),
            waiting: reader.queue.waiting(),
        };
        inner.readers.iter().map(report).collect()
    }

    fn put(&self, inner: &mut Inner, stamped: impl IntoIterator<Item = (i64, What)>) {
        let first = inner.next_sequence;
        let numbered = (first..).zip(stamped);
        let records: Vec<Record> = numbered
            .map(|(sequence, (at_ms, what))| Record {
                sequence,
                at_ms,
                what,
            })
            .collect();
        inner.next_sequence += records.len() as u64;
        self.published
            .fetch_add(records.len() as u64, Ordering::Relaxed);
        for reader in &inner.readers {
            reader.queue.push(&records);
        }
    }
}

/// The value, whether or not a thread panicked while it held it: every use is whole.
pub(crate) fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Queue;

    #[test]
    fn numbers_go_on_behind_those_of_an_earlier_process() {
        let bus = Bus::new(0);
        let (queue, reader) = Queue::new(10, &[]);
        bus.attach("reader", queue, Arc::default(), false);
        let number = || {
            bus.tell(What::Started);
            reader.take(1)[0].sequence
        };
        let of_clock = number();
        bus.continue_from(of_clock - 5);
        assert_eq!(number(), of_clock + 1, "the clock has led beyond it");
        // The clock was set back; what the journal shows is not all that was numbered.
        bus.continue_from(of_clock + 1_000_000);
        assert!(number() > of_clock + 2_000_000_000);
        bus.continue_from(u64::MAX);
        assert!(number() > SEQUENCE_MAX);
    }
}
