//! The local journal: who had which port block, on this machine's disk.
//!
//! A thread of its own takes records from its queue twice a second, writes them as one
//! frame and makes them durable: a crash loses at most the last second. Segments follow each
//! other by size, by day and when the wall clock is set; each but a process's first holds a
//! snapshot of what was held, so that a look-up reads one segment, whatever the journal's length.

mod frame;
mod ledger;
mod lookup;
mod read;
mod scan;
mod segment;
mod store;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use self::ledger::Ledger;
pub use self::lookup::{Answer, Holding, Note, Question, lookup};
pub use self::read::read;
pub use self::scan::Subject;
use self::segment::End;
use self::store::{Recovery, Store};
use crate::bus::{Bus, Condition};
use crate::clock::{rfc3339, unix_ms};
use crate::config::JournalConfig;
use crate::queue::Reader;
use crate::record::What;

/// How often what waits is written.
pub const WRITE_EVERY: Duration = Duration::from_millis(500);

/// How long the journal waits after a failure before it tries again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// How often old segments and unconfirmed blocks are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Records taken from the queue at once.
const TAKE_MAX: usize = 65_536;

/// Rounds of repetition after which an unconfirmed block is thought of as released.
const ROUNDS_UNCONFIRMED: u32 = 3;

/// The journal's thread, and what may be changed while it runs.
#[derive(Debug)]
pub struct Journal {
    thread: JoinHandle<()>,
    settings: Arc<Settings>,
}

/// What may change while the thread runs, in seconds.
#[derive(Debug, Default)]
struct Settings {
    retention: AtomicU64,
    /// 0 for never.
    relog_interval: AtomicU64,
}

impl Settings {
    fn set(&self, retention: Duration, relog_interval: Option<Duration>) {
        let interval = relog_interval.unwrap_or_default();
        self.retention.store(retention.as_secs(), Ordering::Relaxed);
        self.relog_interval
            .store(interval.as_secs(), Ordering::Relaxed);
    }
}

impl Journal {
    /// Starts the thread; the numbers of `bus` go on behind those of the process before. What cannot be written is said once, in the program's messages and in
    /// `condition`, and tried again every second.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        config: JournalConfig,
        relog_interval: Option<Duration>,
        reader: Reader,
        condition: Arc<Condition>,
        bus: &Arc<Bus>,
    ) -> io::Result<Journal> {
        let settings = Arc::new(Settings::default());
        settings.set(config.retention, relog_interval);
        let writer = Writer {
            reader,
            condition,
            settings: Arc::clone(&settings),
            relog_interval: 0,
            ledger: Ledger::default(),
            store: None,
            bus: Arc::clone(bus),
            retry_at: Instant::now(),
            look_at: Instant::now() + LOOK_EVERY,
            config,
        };
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())?;
        Ok(Journal { thread, settings })
    }

    /// Changes the retention time, and how often workers tell held blocks again.
    pub fn set(&self, retention: Duration, relog_interval: Option<Duration>) {
        self.settings.set(retention, relog_interval);
    }

    /// Waits until everything is written; the queue has to be closed.
    pub fn join(self) {
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the journal's thread ended by a bug; the message above says where");
        }
    }
}

struct Writer {
    config: JournalConfig,
    reader: Reader,
    condition: Arc<Condition>,
    settings: Arc<Settings>,
    /// As last seen, in seconds.
    relog_interval: u64,
    ledger: Ledger,
    store: Option<Store>,
    bus: Arc<Bus>,
    retry_at: Instant,
    look_at: Instant,
}

impl Writer {
    fn run(mut self) {
        loop {
            let is_closed = self.reader.is_closed();
            let more = self.turn();
            if is_closed && !more {
                return self.end();
            }
            if !more {
                std::thread::park_timeout(WRITE_EVERY);
            }
        }
    }

    /// Takes what waits and writes it. Whether there is more at once.
    fn turn(&mut self) -> bool {
        let now = Instant::now();
        let records = self.reader.take(TAKE_MAX);
        for record in &records {
            self.ledger.take(record, now);
            if let What::ClockStep { from_ms, to_ms } = record.what {
                self.step(from_ms, to_ms);
            }
        }
        if now >= self.retry_at {
            let written = self.write(now);
            self.note(written);
        }
        records.len() == TAKE_MAX
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        let now_ms = unix_ms(SystemTime::now());
        let store = match &mut self.store {
            Some(store) => store,
            none => {
                let (store, recovery) = Store::open(&self.config)?;
                tell_recovery(&self.config.path, &recovery);
                self.bus.continue_from(recovery.next_sequence);
                none.insert(store)
            }
        };
        if now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            let interval = self.settings.relog_interval.load(Ordering::Relaxed);
            if interval != self.relog_interval {
                self.relog_interval = interval;
                self.ledger.confirm_all(now);
            }
            if interval > 0 {
                let after = Duration::from_secs(interval) * ROUNDS_UNCONFIRMED;
                self.ledger.release_unconfirmed(after, now, now_ms);
            }
            store.set_retention(Duration::from_secs(
                self.settings.retention.load(Ordering::Relaxed),
            ));
            let deleted = store.delete_old(now_ms, now)?;
            if deleted > 0 {
                tracing::info!(deleted, "journal segments were past their retention time");
            }
        }
        store.write(&mut self.ledger, now_ms)
    }

    fn step(&mut self, from_ms: i64, to_ms: i64) {
        tracing::warn!(
            seconds = (to_ms - from_ms) / 1000,
            "the wall clock was set; the journal begins a segment"
        );
        if let Some(store) = &mut self.store {
            let stepped = store.step(&mut self.ledger, from_ms, to_ms);
            self.note(stepped);
        }
    }

    fn note(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => {
                if self.condition.recover() {
                    tracing::info!(path = %self.config.path.display(), "the journal is written again");
                }
            }
            Err(error) => {
                self.retry_at = Instant::now() + RETRY_EVERY;
                let reason = describe(&self.config.path, &error);
                if self.condition.fail(&reason) {
                    tracing::error!("{reason}");
                }
            }
        }
    }

    /// Writes the end. What cannot be written now is lost, and said.
    fn end(mut self) {
        let now_ms = unix_ms(SystemTime::now());
        let Some(store) = &mut self.store else {
            return;
        };
        let ended = store
            .write(&mut self.ledger, now_ms)
            .and_then(|()| store.end(End::Stopped, now_ms));
        if let Err(error) = ended {
            tracing::error!("{}", describe(&self.config.path, &error));
        }
    }
}

fn tell_recovery(path: &Path, recovery: &Recovery) {
    if let Some((path, version)) = &recovery.other_version {
        tracing::warn!(
            path = %path.display(),
            "the last segment of the journal has format version {version}, which this gate64 cannot read: it is left as it is, and a segment of version {} begins",
            frame::VERSION,
        );
    }
    if let Some(path) = &recovery.unreadable {
        tracing::error!(
            path = %path.display(),
            "nothing in the last segment of the journal can be read: it is left as it is; restore it from a copy, or move it away",
        );
        return;
    }
    if !recovery.crashed {
        return;
    }
    tracing::warn!(
        path = %path.display(),
        octets_cut = recovery.octets_cut,
        "gate64 ended without closing its journal: what happened in the second after {} may be missing, everything before is there",
        rfc3339(recovery.last_ms.unwrap_or(0)),
    );
}

/// One sentence: what is wrong, where, and what to do.
fn describe(path: &Path, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free some space there, or lower log.journal.retention"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": mount it for writing",
        io::ErrorKind::PermissionDenied => ": give gate64's user the directory",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            ": move away the file that stands where the directory should be"
        }
        io::ErrorKind::ResourceBusy => ": stop that one, or give each its own log.journal.path",
        _ => "",
    };
    format!(
        "the journal in {} cannot be written: {error}{advice}",
        path.display()
    )
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod year;
