//! The journal of a simulation: what the engine told goes the way it goes in `gate64 run`, over
//! the bus to the journal's thread, and is read back from the disk in the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gate64_dataplane::clock::Instant;
use gate64_dataplane::command::BlockEvent;
use gate64_log::config::JournalConfig;
use gate64_log::journal::{self, Journal};
use gate64_log::{Block, BlockAction, Bus, Condition, Event, EventKind, Prefix6, Queue, What};

use super::Fault;
use crate::BenchError;

/// Records that wait for the journal's thread at most.
const QUEUE_RECORDS: usize = 1 << 21;
/// The thread is waited for above this.
const WAITING_MAX: usize = 1 << 16;
/// How often it is looked whether the thread has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the engine told, in order, and the journal that it went to.
pub struct Told {
    bus: Arc<Bus>,
    queue: Queue,
    condition: Arc<Condition>,
    journal: Journal,
    directory: PathBuf,
    blocks: Vec<(BlockAction, Block)>,
}

impl Told {
    /// Begins a journal; the simulation's clock shows `now`.
    pub fn new(directory: &Path, now: Instant) -> Result<Told, BenchError> {
        let (queue, reader) = Queue::new(QUEUE_RECORDS, &[EventKind::Block]);
        let condition = Arc::new(Condition::default());
        let bus = Arc::new(Bus::new(now.as_nanos()));
        bus.attach("journal", queue.clone(), Arc::clone(&condition), true);
        let config = JournalConfig {
            path: directory.to_owned(),
            retention: Duration::from_hours(24),
        };
        let journal = Journal::start(config, None, reader, Arc::clone(&condition), &bus);
        Ok(Told {
            bus,
            queue,
            condition,
            journal: journal.map_err(|source| BenchError::Io {
                what: directory.display().to_string(),
                source,
            })?,
            directory: directory.to_owned(),
            blocks: Vec::new(),
        })
    }

    /// Passes an event of the engine on.
    pub fn tell(&mut self, action: BlockAction, event: &BlockEvent) {
        let block = Block {
            subscriber: Prefix6 {
                ip: event.subscriber,
                length: event.prefix_length,
            },
            v4: event.v4,
            port_first: event.port_first,
            port_count: event.port_count,
        };
        self.blocks.push((action, block));
        self.bus.publish([Event {
            at_nanos: event.at.as_nanos(),
            what: What::Block(action, block),
        }]);
    }

    /// Waits until the journal's thread has nearly caught up: time is simulated, the disk is not.
    pub fn wait(&self) -> Result<(), Fault> {
        loop {
            if let Some(problem) = self.condition.problem() {
                return Err(problem);
            }
            if self.queue.waiting() <= WAITING_MAX {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends the journal and holds it against what the engine told: the same, in the same order,
    /// each once. How many entries there are.
    pub fn check(self) -> Result<u64, Fault> {
        self.bus.close();
        self.journal.join();
        if let Some(problem) = self.condition.problem() {
            return Err(problem);
        }
        let mut expected = self.blocks.iter();
        let mut entries = 0u64;
        let mut fault = None;
        let read = journal::read(&self.directory, &mut |action, _, block| {
            entries += 1;
            let told = expected.next();
            if told != Some(&(action, block)) && fault.is_none() {
                fault = Some(format!(
                    "entry {entries} of the journal is {action:?} {block:?}, told was {told:?}"
                ));
            }
        });
        let missing = read.map_err(|error| format!("{}: {error}", self.directory.display()))?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if missing > 0 || expected.len() > 0 {
            return Err(format!(
                "the journal lacks {} events at its end and says that it lost {missing}",
                expected.len()
            ));
        }
        Ok(entries)
    }
}
