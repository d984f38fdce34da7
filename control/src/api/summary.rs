//! Status, workers and drops: sums of published counters.

use std::sync::atomic::Ordering;

use gate64_dataplane::counters::{self, drop_id};
use gate64_dataplane::verdict::{DropReason, HandoffReason, Side};

use super::model;
use crate::state::{State, WorkerState};

/// The gateway at a glance.
pub fn status(state: &State) -> model::Status {
    let config = state.config.load();
    let dropped = |side| state.workers.iter().map(|w| w.dropped(side)).sum();
    let created = state.protocols(counters::sessions_created);
    model::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: state.started.elapsed().as_secs(),
        roles: config.roles().to_owned(),
        config: config.path.display().to_string(),
        not_ready: state.readiness().problems(),
        alarms: state.alarms.raised(),
        pref64: config.pref64.iter().map(ToString::to_string).collect(),
        workers: state.workers.len(),
        sessions: state.protocols(counters::sessions),
        session_capacity: state.session_capacity,
        sessions_created: created.udp + created.tcp + created.icmp,
        subscribers: state.total(counters::subscribers(0)),
        port_blocks_used: state.total(counters::port_blocks_used(0)),
        port_blocks_total: state.total(counters::port_blocks_total(0)),
        packets_forwarded: state.directions(counters::packets_forwarded),
        bytes_forwarded: state.directions(counters::bytes_forwarded),
        packets_dropped: model::Directions {
            v6_to_v4: dropped(Side::V6),
            v4_to_v6: dropped(Side::V4),
        },
        routes: state.surroundings.routes(),
        dns64: state.dns64.as_ref().map(|server| dns64(server)),
    }
}

pub fn dns64(server: &gate64_dns64::Server) -> model::Dns64 {
    let upstreams = server.upstreams().into_iter();
    let mut listen: Vec<String> = server
        .listen_addrs()
        .iter()
        .map(ToString::to_string)
        .collect();
    listen.sort();
    let metrics = server.metrics();
    let wire_cache = metrics.wire_cache();
    let counted = metrics.queries();
    let outcomes = counted.map(|(protocol, qtype, outcome, queries)| model::DnsOutcome {
        transport: protocol.name().to_owned(),
        qtype: qtype.name().to_owned(),
        outcome: outcome.name().to_owned(),
        queries,
    });
    let outcomes: Vec<model::DnsOutcome> = outcomes.collect();
    model::Dns64 {
        listen,
        upstreams: upstreams
            .map(|state| model::Upstream {
                target: state.upstream.to_string(),
                is_up: state.is_up,
            })
            .collect(),
        queries: outcomes.iter().map(|outcome| outcome.queries).sum(),
        synthesized: metrics.synthesized(),
        cache_entries: server.cache_state().entries,
        cache_hits: metrics.cache_hits.load(Ordering::Relaxed),
        cache_misses: metrics.cache_misses.load(Ordering::Relaxed),
        wire_cache_entries: wire_cache.entries,
        wire_cache_octets: wire_cache.octets,
        wire_cache_hits: wire_cache.hits,
        clients_waiting: metrics.client_in_flight.load(Ordering::Relaxed),
        upstream_in_flight: metrics.upstream_in_flight.load(Ordering::Relaxed),
        outcomes,
    }
}

fn handoff_reasons(worker: &WorkerState) -> model::HandoffReasons {
    let count = |reason: HandoffReason| worker.get(counters::handoffs(reason as usize));
    model::HandoffReasons {
        queue: count(HandoffReason::Queue),
        icmp_error: count(HandoffReason::IcmpError),
        fragment: count(HandoffReason::Fragment),
        hairpin: count(HandoffReason::Hairpin),
    }
}

/// Every worker.
pub fn workers(state: &State) -> Vec<model::Worker> {
    let numbered = state.worker_ids().zip(&state.workers);
    numbered
        .map(|(id, worker)| model::Worker {
            worker: id.0,
            cpu: worker.cpu,
            is_alive: worker.is_alive(),
            busy_ratio: worker.busy_ratio(),
            turns: worker.get(counters::turns(0)),
            packets_forwarded: worker.sum(counters::packets_forwarded, 2),
            packets_dropped: worker.dropped(Side::V6) + worker.dropped(Side::V4),
            sessions: worker.sum(counters::sessions, 3),
            handed_off: worker.sum(counters::packets_handed_off, 2),
            handed_off_reasons: handoff_reasons(worker),
            handed_over: worker.get(counters::handoff_received(0)),
            syscalls: worker.get(counters::syscalls(0)),
        })
        .collect()
}

/// Every reason, those that never happened included.
pub fn drops(state: &State) -> Vec<model::Drop> {
    let reasons = DropReason::ALL.iter();
    reasons
        .map(|reason| model::Drop {
            reason: reason.label().to_owned(),
            v6_to_v4: state.total(drop_id(Side::V6, *reason)),
            v4_to_v6: state.total(drop_id(Side::V4, *reason)),
            sentence: reason.sentence().to_owned(),
        })
        .collect()
}
