//! The log of allocations, from configuration to running journal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gate64_dataplane::command::{Command, LogMode};
use gate64_log::config::{LogConfig, OnFailure, SinkConfig};
use gate64_log::journal::Journal;
use gate64_log::sink::Sink;
use gate64_log::{Bus, Condition, EventKind, Queue, What};

use crate::exit::Failure;
use crate::state::State;

/// Records that wait for the journal's thread; it takes them twice a second.
const JOURNAL_QUEUE_RECORDS: usize = 1 << 18;

/// Workers are told again what to log this often, in case one of them took no command.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What writes the log while gate64 runs.
pub(super) struct Log {
    bus: Arc<Bus>,
    journal: Option<Journal>,
    sinks: Vec<Sink>,
    told: Option<(LogMode, Instant)>,
}

impl Log {
    /// Starts what the configuration asks for.
    pub(super) fn start(config: &LogConfig, bus: &Arc<Bus>) -> Result<Log, Failure> {
        let journal = config.journal.as_ref().map(|journal| {
            let (queue, reader) = Queue::new(JOURNAL_QUEUE_RECORDS, &[EventKind::Block]);
            let condition = Arc::new(Condition::default());
            bus.attach("journal", queue, Arc::clone(&condition), true);
            Journal::start(
                journal.clone(),
                config.relog_interval,
                reader,
                condition,
                bus,
            )
            .map_err(|error| Failure::Failed(format!("cannot start the journal: {error}")))
        });
        let log = Log {
            bus: Arc::clone(bus),
            journal: journal.transpose()?,
            sinks: start_sinks(&config.sinks, bus),
            told: None,
        };
        bus.tell(What::Started);
        Ok(log)
    }

    /// Takes over what may change while it runs.
    pub(super) async fn reload(&mut self, config: &LogConfig) {
        if let (Some(journal), Some(new)) = (&self.journal, &config.journal) {
            journal.set(new.retention, config.relog_interval);
        }
        let known = std::mem::take(&mut self.sinks).into_iter();
        let (kept, gone): (Vec<Sink>, Vec<Sink>) =
            known.partition(|sink| config.sinks.contains(sink.config()));
        for sink in gone {
            self.bus.detach(&sink.config().name());
            sink.join().await;
        }
        let is_new = |one: &&SinkConfig| !kept.iter().any(|sink| sink.config() == *one);
        let new: Vec<SinkConfig> = config.sinks.iter().filter(is_new).cloned().collect();
        self.sinks = kept;
        self.sinks.extend(start_sinks(&new, &self.bus));
    }

    /// Tells the workers what to log, and whether to refuse what cannot be logged.
    pub(super) fn look_after(&mut self, state: &State) {
        let config = state.config.load();
        let refuses = config.log.on_failure == OnFailure::RefuseNew;
        let mode = LogMode {
            sessions: self.bus.wants_sessions(),
            relog_interval: config.log.relog_interval,
            refuse_new: refuses && self.bus.is_failing(),
        };
        let is_known = self
            .told
            .is_some_and(|(known, at)| known == mode && at.elapsed() < TELL_AGAIN);
        if is_known {
            return;
        }
        let refused_before = self.told.is_some_and(|(known, _)| known.refuse_new);
        match (refused_before, mode.refuse_new) {
            (false, true) => tracing::error!(
                "the log cannot be written: no new port block is handed out (log.on_failure = \"refuse-new\")"
            ),
            (true, false) => tracing::info!("the log is written again: port blocks are handed out"),
            _ => {}
        }
        let mut all_told = true;
        for worker in state.worker_ids() {
            all_told &= (state.ask)(worker, Command::Log(mode));
        }
        self.told = all_told.then(|| (mode, Instant::now()));
    }

    /// Writes what is left and ends. Nothing may come after it.
    pub(super) async fn stop(self) {
        self.bus.tell(What::Stopped);
        self.bus.close();
        if let Some(journal) = self.journal {
            tokio::task::block_in_place(|| journal.join());
        }
        for sink in self.sinks {
            sink.join().await;
        }
    }
}

fn start_sinks(configs: &[SinkConfig], bus: &Bus) -> Vec<Sink> {
    let start = |config: &SinkConfig| Sink::start(config.clone(), bus);
    configs.iter().map(start).collect()
}
