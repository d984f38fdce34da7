//! The data plane's families. Every label value exists from the start, so that a rate sees the
//! first occurrence.

use std::sync::Arc;

use gate64_dataplane::counters::{self, CounterId, HISTOGRAM_BUCKETS, drop_id};
use gate64_dataplane::verdict::{DropReason, HandoffReason, Side};
use gate64_wire::addr::Protocol;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::dns64;
use super::family::Family;
use crate::state::{State, WorkerState};

const SIDES: [Side; 2] = [Side::V6, Side::V4];
/// Drops that are refusals of a subscriber's wish for more.
const REFUSALS: [DropReason; 5] = [
    DropReason::SubscriberPorts,
    DropReason::SubscriberSessions,
    DropReason::SubscriberRate,
    DropReason::SubscribersFull,
    DropReason::DestinationDenied,
];

/// Reads everything anew at each scrape.
pub struct StateCollector(pub Arc<State>);

impl Collector for StateCollector {
    fn desc(&self) -> Vec<&Desc> {
        // Families are made at each scrape; nothing can collide with them in this registry.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let state = &*self.0;
        let mut families = vec![build_info(), ready(state)];
        if state.config.load().has_nat64() {
            families.extend(packets(state));
            families.extend(sessions(state));
            families.extend(pool(state));
            families.extend(workers(state));
            families.extend(errors_and_fragments(state));
            families.extend(interfaces(state));
            families.push(alarms(state));
            families.extend(log(state));
        }
        if let Some(server) = &state.dns64 {
            families.extend(dns64::families(server));
        }
        families
    }
}

fn build_info() -> MetricFamily {
    let mut family = Family::gauge("gate64_build_info", "Which gate64 runs; always 1.");
    family.count(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    family.done()
}

fn ready(state: &State) -> MetricFamily {
    let mut family = Family::gauge(
        "gate64_ready",
        "1 while that role forwards packets or answers names.",
    );
    let readiness = state.readiness();
    for (role, problems) in [("nat64", &readiness.nat64), ("dns64", &readiness.dns64)] {
        if let Some(problems) = problems {
            family.count(&[("role", role)], u64::from(problems.is_empty()));
        }
    }
    family.done()
}

fn alarms(state: &State) -> MetricFamily {
    let mut family = Family::gauge(
        "gate64_alarm",
        "1 while the alarm on what runs out is on: port blocks of a pool, ports, sessions.",
    );
    for reading in state.alarms.readings() {
        let labels = [
            ("kind", reading.subject.kind.name()),
            ("of", reading.subject.of.as_str()),
        ];
        family.count(&labels, u64::from(reading.is_raised));
    }
    family.done()
}

fn by_direction(family: &mut Family, state: &State, of: fn(usize) -> CounterId) {
    for side in SIDES {
        let count = state.total(of(side.index()));
        family.count(&[("direction", side.direction())], count);
    }
}

fn by_protocol(family: &mut Family, state: &State, of: fn(usize) -> CounterId) {
    for protocol in Protocol::ALL {
        let count = state.total(of(protocol.index()));
        family.count(&[("protocol", protocol.name())], count);
    }
}

fn packets(state: &State) -> Vec<MetricFamily> {
    let mut packets = Family::counter(
        "gate64_packets_total",
        "Packets that gate64 took, by what became of them.",
    );
    let mut drops = Family::counter("gate64_drops_total", "Packets refused, by reason.");
    for side in SIDES {
        let place = side.index();
        let direction = ("direction", side.direction());
        let dropped = state.workers.iter().map(|w| w.dropped(side)).sum();
        for (verdict, count) in [
            ("forwarded", state.total(counters::packets_forwarded(place))),
            ("dropped", dropped),
            ("held", state.total(counters::packets_held(place))),
            (
                "handed_off",
                state.total(counters::packets_handed_off(place)),
            ),
        ] {
            packets.count(&[direction, ("verdict", verdict)], count);
        }
        for reason in DropReason::ALL {
            let count = state.total(drop_id(side, *reason));
            drops.count(&[direction, ("reason", reason.label())], count);
        }
    }
    let mut bytes = Family::counter(
        "gate64_bytes_total",
        "Octets of IP packets forwarded, as received.",
    );
    by_direction(&mut bytes, state, counters::bytes_forwarded);
    let mut hairpinned = Family::counter(
        "gate64_hairpinned_total",
        "Packets that turned around between two IPv6 clients.",
    );
    hairpinned.count(&[], state.total(counters::hairpinned(0)));
    vec![
        packets.done(),
        bytes.done(),
        drops.done(),
        hairpinned.done(),
    ]
}

fn sessions(state: &State) -> Vec<MetricFamily> {
    let mut sessions = Family::gauge("gate64_sessions", "Sessions at present.");
    by_protocol(&mut sessions, state, counters::sessions);
    let mut bib = Family::gauge("gate64_bib_entries", "BIB entries at present.");
    by_protocol(&mut bib, state, counters::bib_entries);
    let mut created = Family::counter("gate64_sessions_created_total", "Sessions made.");
    by_protocol(&mut created, state, counters::sessions_created);
    let mut expired = Family::counter("gate64_sessions_expired_total", "Sessions ended.");
    by_protocol(&mut expired, state, counters::sessions_expired);
    let mut capacity = Family::gauge("gate64_session_capacity", "Sessions that fit.");
    capacity.count(&[], state.session_capacity);
    vec![
        sessions.done(),
        bib.done(),
        created.done(),
        expired.done(),
        capacity.done(),
    ]
}

fn pool(state: &State) -> Vec<MetricFamily> {
    let blocks_used = state.total(counters::port_blocks_used(0));
    let blocks_total = state.total(counters::port_blocks_total(0));
    let mut blocks = Family::gauge("gate64_port_blocks", "Port blocks of the pool.");
    blocks.count(&[("state", "used")], blocks_used);
    blocks.count(
        &[("state", "free")],
        blocks_total.saturating_sub(blocks_used),
    );
    let config = state.config.load();
    let block_size = config.nat64.subscriber.port_block_size;
    let ports_total = blocks_total * u64::from(block_size);
    let mut ports = Family::gauge(
        "gate64_pool_ports",
        "Ports of the pool; each protocol has all of them.",
    );
    for protocol in Protocol::ALL {
        let used = state.total(counters::ports_used(protocol.index()));
        let label = ("protocol", protocol.name());
        ports.count(&[label, ("state", "used")], used);
        ports.count(
            &[label, ("state", "free")],
            ports_total.saturating_sub(used),
        );
    }
    let mut subscribers = Family::gauge("gate64_subscribers", "Subscribers at present.");
    subscribers.count(&[], state.total(counters::subscribers(0)));
    let mut refusals = Family::counter(
        "gate64_subscriber_refusals_total",
        "Mappings and sessions refused for a limit of the subscriber.",
    );
    for reason in REFUSALS {
        let count = SIDES
            .map(|side| state.total(drop_id(side, reason)))
            .iter()
            .sum();
        refusals.count(&[("reason", reason.label())], count);
    }
    let mut families = vec![
        blocks.done(),
        ports.done(),
        subscribers.done(),
        refusals.done(),
    ];
    families.extend(pools(state, &config.nat64.pool_names));
    families.extend(distributions(state));
    families
}

/// Blocks by pool, and what happened to blocks.
fn pools(state: &State, names: &[String]) -> Vec<MetricFamily> {
    let mut blocks = Family::gauge(
        "gate64_pool_port_blocks",
        "Port blocks of each pool; those at rest were given back and wait for their ports.",
    );
    for (pool, name) in names.iter().enumerate() {
        let used = state.total(counters::pool_blocks_used(pool));
        let resting = state.total(counters::pool_blocks_resting(pool));
        let total = state.total(counters::pool_blocks_total(pool));
        let label = ("pool", name.as_str());
        blocks.count(&[label, ("state", "used")], used);
        blocks.count(&[label, ("state", "resting")], resting);
        let free = total.saturating_sub(used + resting);
        blocks.count(&[label, ("state", "free")], free);
    }
    let mut allocated = Family::counter(
        "gate64_port_blocks_allocated_total",
        "Port blocks given out, calculated ones not counted.",
    );
    allocated.count(&[], state.total(counters::port_blocks_allocated(0)));
    let mut released = Family::counter(
        "gate64_port_blocks_released_total",
        "Port blocks taken back, calculated ones not counted.",
    );
    released.count(&[], state.total(counters::port_blocks_released(0)));
    let mut bypassed = Family::counter(
        "gate64_bypassed_total",
        "Packets routed on as IPv6, untranslated (RFC 6888 REQ-6).",
    );
    bypassed.count(&[], state.total(counters::packets_bypassed(0)));
    vec![
        blocks.done(),
        allocated.done(),
        released.done(),
        bypassed.done(),
    ]
}

/// Steps of block use, by the busiest protocol of a block.
const USE_LABELS: [&str; counters::USE_STEPS] = ["none", "25%", "50%", "75%", "99%", "all"];

/// How blocks and subscribers spread at present, in a bounded number of steps.
fn distributions(state: &State) -> Vec<MetricFamily> {
    let mut by_use = Family::gauge(
        "gate64_port_blocks_by_use",
        "Held port blocks, by how much of the block is in use at most.",
    );
    for (step, label) in USE_LABELS.iter().enumerate() {
        let count = state.total(counters::port_blocks_by_use(step));
        by_use.count(&[("up_to", label)], count);
    }
    let mut by_ports = Family::gauge(
        "gate64_subscribers_by_ports",
        "Subscribers, by how many ports they have mapped at most.",
    );
    let mut by_sessions = Family::gauge(
        "gate64_subscribers_by_sessions",
        "Subscribers, by how many sessions they have at most.",
    );
    for step in 0..counters::SUBSCRIBER_STEPS {
        let label = match step + 1 < counters::SUBSCRIBER_STEPS {
            true => ((1_u32 << step) - 1).to_string(),
            false => "more".to_owned(),
        };
        let label = [("up_to", label.as_str())];
        by_ports.count(&label, state.total(counters::subscribers_by_ports(step)));
        let sessions = state.total(counters::subscribers_by_sessions(step));
        by_sessions.count(&label, sessions);
    }
    vec![by_use.done(), by_ports.done(), by_sessions.done()]
}

fn workers(state: &State) -> Vec<MetricFamily> {
    let mut busy = Family::gauge(
        "gate64_worker_busy_ratio",
        "Part of the last second that a worker spent in turns that did something.",
    );
    let mut turns = Family::counter("gate64_worker_turns_total", "Turns of a worker's loop.");
    let mut syscalls = Family::counter(
        "gate64_worker_syscalls_total",
        "System calls of a worker to send and to wake the driver.",
    );
    let mut burst = Family::histogram("gate64_worker_burst_frames", "Frames in a burst.");
    let mut turn = Family::histogram(
        "gate64_worker_turn_seconds",
        "Time of a turn that did something.",
    );
    let mut handoff = Family::counter(
        "gate64_handoff_frames_total",
        "Frames handed to another worker, by reason.",
    );
    for (number, worker) in state.workers.iter().enumerate() {
        let number = number.to_string();
        let label = &[("worker", number.as_str())];
        busy.value(label, worker.busy_ratio());
        turns.count(label, worker.get(counters::turns(0)));
        syscalls.count(label, worker.get(counters::syscalls(0)));
        let frames = log2_buckets(worker, counters::burst_frames, 1.0);
        burst.buckets(label, frames, float(frames_received(worker)));
        let nanoseconds = log2_buckets(worker, counters::turn_nanoseconds, 1e-9);
        let spent = float(worker.get(counters::busy_nanoseconds(0))) * 1e-9;
        turn.buckets(label, nanoseconds, spent);
        for reason in HandoffReason::ALL {
            let labels = &[("worker", number.as_str()), ("reason", reason.label())];
            handoff.count(labels, worker.get(counters::handoffs(reason as usize)));
        }
    }
    vec![
        busy.done(),
        turns.done(),
        syscalls.done(),
        burst.done(),
        turn.done(),
        handoff.done(),
    ]
}

/// Bucket n of the workers' log2 histograms counts whole numbers below 2^n that are not below
/// 2^(n-1): its upper bound, inclusive in Prometheus, is 2^n - 1. The last has no bound.
fn log2_buckets(
    worker: &WorkerState,
    family: fn(usize) -> CounterId,
    unit: f64,
) -> Vec<(f64, u64)> {
    let bucket = |n: usize| {
        let bound = match n + 1 < HISTOGRAM_BUCKETS {
            true => float((1_u64 << n) - 1) * unit,
            false => f64::INFINITY,
        };
        (bound, worker.get(family(n)))
    };
    (0..HISTOGRAM_BUCKETS).map(bucket).collect()
}

/// Frames that came from sockets: what became of all packets, less what other workers handed over.
fn frames_received(worker: &WorkerState) -> u64 {
    let taken = worker.sum(counters::packets_forwarded, 2)
        + worker.sum(counters::packets_held, 2)
        + worker.sum(counters::packets_handed_off, 2)
        + worker.dropped(Side::V6)
        + worker.dropped(Side::V4);
    taken.saturating_sub(worker.get(counters::handoff_received(0)))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus' numbers are f64; beyond 2^53 a rate does not notice"
)]
fn float(value: u64) -> f64 {
    value as f64
}

fn errors_and_fragments(state: &State) -> Vec<MetricFamily> {
    let mut errors = Family::counter(
        "gate64_icmp_errors_total",
        "ICMP errors made, suppressed by the rate limit, and translated.",
    );
    type Kind = (&'static str, fn(usize) -> CounterId);
    let kinds: [Kind; 3] = [
        ("generated", counters::icmp_errors_generated),
        ("suppressed", counters::icmp_errors_suppressed),
        ("translated", counters::icmp_errors_translated),
    ];
    for (kind, family) in kinds {
        for side in SIDES {
            // Errors that gate64 makes go back to the side that the refused packet came from.
            let count = state.total(family(side.index()));
            errors.count(&[("direction", side.direction()), ("kind", kind)], count);
        }
    }
    let mut waiting = Family::gauge("gate64_fragments", "Fragments waiting for others.");
    waiting.count(
        &[("state", "waiting")],
        state.total(counters::fragments_held(0)),
    );
    let mut received = Family::counter("gate64_fragments_received_total", "Fragments received.");
    by_direction(&mut received, state, counters::fragments_received);
    let mut created = Family::counter(
        "gate64_fragments_created_total",
        "Fragments made out of IPv4 packets without DF.",
    );
    created.count(&[], state.total(counters::fragments_created(0)));
    let mut syn = Family::gauge(
        "gate64_syn_held",
        "SYN segments from the IPv4 side that wait for the other side (RFC 6146 section 3.5.2.2).",
    );
    syn.count(&[], state.total(counters::syn_held(0)));
    let mut probes = Family::counter(
        "gate64_tcp_probes_total",
        "Probes sent to the hosts of silent TCP connections (RFC 6146 section 3.5.2.2).",
    );
    probes.count(&[], state.total(counters::tcp_probes(0)));
    let mut offload = Family::counter(
        "gate64_checksums_left_to_offload_total",
        "Packets that made a session and whose checksum was a bare pseudo-header sum: a peer leaves it to an offload that never happens.",
    );
    by_direction(&mut offload, state, counters::checksums_left_to_offload);
    vec![
        errors.done(),
        waiting.done(),
        received.done(),
        created.done(),
        syn.done(),
        probes.done(),
        offload.done(),
    ]
}

fn interfaces(state: &State) -> Vec<MetricFamily> {
    let mut up = Family::gauge(
        "gate64_interface_up",
        "1 while the interface has its link and its sockets.",
    );
    for interface in state.surroundings.interfaces() {
        up.count(
            &[("interface", &interface.name)],
            u64::from(interface.is_up),
        );
    }
    let mut lost = Family::counter(
        "gate64_netlink_notifications_lost_total",
        "Times the kernel had more route changes to tell than were read in time; all was read again.",
    );
    lost.count(&[], state.surroundings.notifications_lost());
    let mut families = vec![up.done(), lost.done()];
    let mut sockets: Vec<(&'static str, &'static str, Family)> = Vec::new();
    for row in state.surroundings.sockets() {
        let labels: Vec<(&str, &str)> = row
            .labels
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        for (name, help, value) in &row.values {
            let at = sockets.iter().position(|(known, ..)| known == name);
            let at = at.unwrap_or_else(|| {
                sockets.push((name, help, Family::counter(name, help)));
                sockets.len() - 1
            });
            sockets[at].2.count(&labels, *value);
        }
    }
    families.extend(sockets.into_iter().map(|(_, _, family)| family.done()));
    families
}

fn log(state: &State) -> Vec<MetricFamily> {
    let mut events = Family::counter(
        "gate64_log_events_total",
        "Records of the log: blocks, sessions, alarms.",
    );
    events.count(&[], state.log.published());
    let mut lost = Family::counter(
        "gate64_log_events_lost_total",
        "Events that found their ring full.",
    );
    lost.count(&[], state.total(counters::events_lost(0)));
    let mut families = vec![events.done(), lost.done()];
    families.extend(log_sinks(state));
    families
}

fn log_sinks(state: &State) -> [MetricFamily; 4] {
    let mut up = Family::gauge(
        "gate64_log_sink_up",
        "1 while the journal or that sink can be written.",
    );
    let mut taken = Family::counter(
        "gate64_log_sink_records_total",
        "Records that the journal or that sink took.",
    );
    let mut lost = Family::counter(
        "gate64_log_sink_records_lost_total",
        "Records lost for the journal or that sink.",
    );
    let mut waiting = Family::gauge(
        "gate64_log_sink_records_waiting",
        "Records that wait for the journal or that sink.",
    );
    for one in state.log.report() {
        let label = &[("sink", one.name.as_str())];
        up.count(label, u64::from(one.problem.is_none()));
        taken.count(label, one.taken);
        lost.count(label, one.lost);
        waiting.count(label, one.waiting as u64);
    }
    [up.done(), taken.done(), lost.done(), waiting.done()]
}
