//! Alarms on what runs out: port blocks of a pool, ports, the session table. Looked at twice a
//! second, told when they change, shown while they are on.

use std::sync::{Mutex, PoisonError};

use gate64_dataplane::alarm::{Alarm, Edge};
use gate64_dataplane::counters;
use gate64_log::AlarmKind;
use gate64_wire::addr::Protocol;

use crate::state::State;

/// What runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Port blocks of a pool.
    Blocks,
    /// Ports of a protocol.
    Ports,
    /// The session table.
    Sessions,
}

impl Kind {
    /// Its label in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Blocks => "blocks",
            Kind::Ports => "ports",
            Kind::Sessions => "sessions",
        }
    }

    /// Its name in the log of allocations.
    const fn logged(self) -> AlarmKind {
        match self {
            Kind::Blocks => AlarmKind::PortBlocks,
            Kind::Ports => AlarmKind::Pool,
            Kind::Sessions => AlarmKind::SessionTable,
        }
    }
}

/// What an alarm is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What runs out.
    pub kind: Kind,
    /// The pool, the protocol, or nothing: a label in metrics.
    pub of: String,
}

/// An alarm as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What it is about.
    pub subject: Subject,
    /// Used, and how much there is.
    pub used: u64,
    /// How much there is.
    pub total: u64,
    /// Whether it is on.
    pub is_raised: bool,
}

impl Reading {
    /// One sentence for people.
    pub fn text(&self) -> String {
        let Reading { used, total, .. } = self;
        let of = &self.subject.of;
        let percent = used * 100 / total.max(&1);
        match self.subject.kind {
            Kind::Blocks => {
                format!("{percent} % of pool {of:?} is given out: {used} of {total} port blocks")
            }
            Kind::Ports => format!("{percent} % of the {of} ports are in use: {used} of {total}"),
            Kind::Sessions => {
                format!("{percent} % of the session table is used: {used} of {total}")
            }
        }
    }
}

/// A change of an alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The alarm after it.
    pub reading: Reading,
    /// Which way.
    pub edge: Edge,
}

/// All alarms.
#[derive(Debug, Default)]
pub struct Alarms {
    all: Mutex<Vec<Reading>>,
}

impl Alarms {
    /// Every alarm as it was at the last look.
    pub fn readings(&self) -> Vec<Reading> {
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sentences of those that are on.
    pub fn raised(&self) -> Vec<String> {
        let readings = self.readings();
        let raised = readings.iter().filter(|reading| reading.is_raised);
        raised.map(Reading::text).collect()
    }

    /// Looks at everything; what changed.
    pub fn look(&self, state: &State) -> Vec<Change> {
        let thresholds = state.config.load().alarm;
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *all);
        let mut changes = Vec::new();
        for (subject, used, total) in values(state) {
            let known = before.iter().find(|one| one.subject == subject);
            let mut alarm = Alarm {
                is_raised: known.is_some_and(|one| one.is_raised),
            };
            let edge = alarm.observe(used, total, thresholds);
            let reading = Reading {
                subject,
                used,
                total,
                is_raised: alarm.is_raised,
            };
            if let Some(edge) = edge {
                let reading = reading.clone();
                changes.push(Change { reading, edge });
            }
            all.push(reading);
        }
        changes
    }
}

/// What is used of how much. A worker's own share counts where shares are fixed: one that is
/// full refuses, whatever the others have left.
fn values(state: &State) -> Vec<(Subject, u64, u64)> {
    let config = state.config.load();
    let mut values = Vec::new();
    if state.workers.is_empty() {
        return values;
    }
    for (pool, name) in config.nat64.pool_names.iter().enumerate() {
        let shares = state.workers.iter().map(|worker| {
            let used = worker.get(counters::pool_blocks_used(pool))
                + worker.get(counters::pool_blocks_resting(pool));
            (used, worker.get(counters::pool_blocks_total(pool)))
        });
        let (used, total) = fullest(shares);
        values.push((subject(Kind::Blocks, name), used, total));
    }
    let block_size = u64::from(config.nat64.subscriber.port_block_size);
    let ports = state.total(counters::port_blocks_total(0)) * block_size;
    for protocol in Protocol::ALL {
        let used = state.total(counters::ports_used(protocol.index()));
        values.push((subject(Kind::Ports, protocol.name()), used, ports));
    }
    let share = state.session_capacity / state.workers.len() as u64;
    let sessions = state.workers.iter();
    let sessions = sessions.map(|worker| (worker.sum(counters::sessions, 3), share));
    let (used, total) = fullest(sessions);
    values.push((subject(Kind::Sessions, ""), used, total));
    values
}

fn subject(kind: Kind, of: &str) -> Subject {
    Subject {
        kind,
        of: of.to_owned(),
    }
}

/// The share of which the largest part is used.
fn fullest(shares: impl Iterator<Item = (u64, u64)>) -> (u64, u64) {
    let part = |&(used, total): &(u64, u64)| used * 1_000_000 / total.max(1);
    shares
        .filter(|(_, total)| *total > 0)
        .max_by_key(part)
        .unwrap_or((0, 0))
}

/// Looks, and tells changes to the log of allocations and to that of the process.
pub fn look(state: &State) {
    let thresholds = state.config.load().alarm;
    for Change { reading, edge } in state.alarms.look(state) {
        let (kind, of) = (reading.subject.kind, reading.subject.of.as_str());
        let threshold_percent = match edge {
            Edge::Raised => {
                tracing::warn!(kind = kind.name(), of, "alarm: {}", reading.text());
                thresholds.raise_percent
            }
            Edge::Cleared => {
                tracing::info!(kind = kind.name(), of, "alarm over: {}", reading.text());
                thresholds.clear_percent
            }
        };
        let used_percent = reading.used * 100 / reading.total.max(1);
        state.log.alarm(gate64_log::Alarm {
            kind: kind.logged(),
            subject: of.to_owned(),
            raised: edge == Edge::Raised,
            used_percent: u8::try_from(used_percent).unwrap_or(100),
            threshold_percent,
        });
    }
}

#[cfg(test)]
mod tests {
    use gate64_dataplane::counters::Counters;

    use super::*;
    use crate::state::fake;

    #[test]
    fn alarms_are_raised_once_and_cleared_once_and_name_what_is_full() {
        let state = fake::state(None);
        let mut counted = Counters::default();
        counted.set(counters::pool_blocks_total(0), 100);
        let mut seen = Vec::new();
        for used in [0, 79, 80, 85, 75, 70, 10] {
            counted.set(counters::pool_blocks_used(0), used);
            counted.publish(&state.workers[1].counters);
            for change in state.alarms.look(&state) {
                seen.push((used, change.reading.subject.kind, change.edge));
            }
        }
        let expected = [
            (80, Kind::Blocks, Edge::Raised),
            (70, Kind::Blocks, Edge::Cleared),
        ];
        assert_eq!(seen, expected);
        counted.set(counters::pool_blocks_used(0), 80);
        counted.publish(&state.workers[1].counters);
        state.alarms.look(&state);
        let raised = state.alarms.raised();
        assert_eq!(
            raised,
            ["80 % of pool \"default\" is given out: 80 of 100 port blocks"],
            "the fullest worker counts"
        );
    }
}
