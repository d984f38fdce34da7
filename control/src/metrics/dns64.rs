//! The families of the DNS64 server.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use gate64_dns64::metrics::{Outcome, QueryType};
use gate64_dns64::{CacheState, Protocol, Server, TryResult, UpstreamState};
use prometheus::proto::MetricFamily;

use super::family::Family;

/// All of them.
pub fn families(server: &Server) -> Vec<MetricFamily> {
    let metrics = server.metrics();
    let mut families = vec![queries(server)];
    families.extend(upstreams(&server.upstreams()));
    families.extend(cache(server.cache_state()));
    let counters = [
        (
            "gate64_dns_synthesized_total",
            "Answers with synthetic AAAA records.",
            metrics.synthesized(),
        ),
        (
            "gate64_dns_cache_hits_total",
            "Questions answered from the cache.",
            metrics.cache_hits.load(Ordering::Relaxed),
        ),
        (
            "gate64_dns_cache_misses_total",
            "Questions that were not in the cache.",
            metrics.cache_misses.load(Ordering::Relaxed),
        ),
        (
            "gate64_dns_cache_stale_total",
            "Answers given past their TTL, since no fresh one could be had.",
            metrics.cache_stale.load(Ordering::Relaxed),
        ),
        (
            "gate64_dns_cache_prefetches_total",
            "Popular names asked for again before their answer ended.",
            metrics.prefetched.load(Ordering::Relaxed),
        ),
        (
            "gate64_dns_merged_total",
            "Questions that joined an equal one on its way to the upstreams.",
            metrics.merged.load(Ordering::Relaxed),
        ),
        (
            "gate64_dns_upstream_refused_total",
            "Questions not asked since too many were at the upstreams.",
            metrics.upstream_refused.load(Ordering::Relaxed),
        ),
        (
            "gate64_dns_upstream_misfits_total",
            "Datagrams from an upstream's address that did not fit the question.",
            metrics.upstream_misfits.load(Ordering::Relaxed),
        ),
        (
            "gate64_dns_upstream_queries_total",
            "Questions sent to upstreams: tries, and again over TCP.",
            metrics.upstream_queries.load(Ordering::Relaxed),
        ),
        (
            "gate64_dns_upstream_errors_total",
            "Tries that got no usable answer.",
            metrics.upstream_errors.load(Ordering::Relaxed),
        ),
    ];
    for (name, help, value) in counters {
        let mut family = Family::counter(name, help);
        family.count(&[], value);
        families.push(family.done());
    }
    let mut in_flight = Family::gauge(
        "gate64_dns_clients_waiting",
        "Clients that wait for an answer at present.",
    );
    in_flight.count(&[], metrics.client_in_flight.load(Ordering::Relaxed));
    families.push(in_flight.done());
    families.extend(wire_cache(server));
    families.push(extended_errors(server));
    let mut latency = Family::histogram(
        "gate64_dns_query_duration_seconds",
        "Time from question to answer.",
    );
    latency.buckets(&[], metrics.latency(), metrics.latency_sum_seconds());
    families.push(latency.done());
    families
}

fn extended_errors(server: &Server) -> MetricFamily {
    let mut family = Family::counter(
        "gate64_dns_extended_errors_total",
        "Extended errors (RFC 8914) told to clients.",
    );
    for (code, reason, count) in server.metrics().extended_errors() {
        let code = code.map_or_else(|| "other".to_owned(), |code| code.to_string());
        family.count(&[("code", code.as_str()), ("reason", reason)], count);
    }
    family.done()
}

fn wire_cache(server: &Server) -> Vec<MetricFamily> {
    let wire_cache = server.metrics().wire_cache();
    let mut hits = Family::counter(
        "gate64_dns_wire_cache_hits_total",
        "Queries over UDP answered with a ready-made message.",
    );
    hits.count(&[], wire_cache.hits);
    let gauges = [
        (
            "gate64_dns_wire_cache_entries",
            "Ready-made messages kept, over all threads.",
            wire_cache.entries,
        ),
        (
            "gate64_dns_wire_cache_bytes",
            "Memory of the ready-made messages.",
            wire_cache.octets,
        ),
    ];
    let gauges = gauges.map(|(name, help, value)| {
        let mut family = Family::gauge(name, help);
        family.count(&[], value);
        family.done()
    });
    std::iter::once(hits.done()).chain(gauges).collect()
}

fn queries(server: &Server) -> MetricFamily {
    let mut counted = HashMap::new();
    for (protocol, qtype, outcome, count) in server.metrics().queries() {
        counted.insert((protocol.name(), qtype.name(), outcome.name()), count);
    }
    let mut family = Family::counter("gate64_dns_queries_total", "Queries of clients.");
    for protocol in Protocol::ALL {
        for qtype in QueryType::ALL {
            for outcome in Outcome::ALL {
                let key = (protocol.name(), qtype.name(), outcome.name());
                let labels = [
                    ("transport", key.0),
                    ("type", key.1),
                    ("outcome", key.2),
                    ("rcode", rcode(outcome)),
                ];
                family.count(&labels, counted.get(&key).copied().unwrap_or(0));
            }
        }
    }
    family.done()
}

/// The response code that a client sees.
fn rcode(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered | Outcome::Synthesized | Outcome::Local | Outcome::NoData => "NOERROR",
        Outcome::NxDomain => "NXDOMAIN",
        Outcome::ServFail | Outcome::NotReady | Outcome::Overload => "SERVFAIL",
        // Truncated, or nothing at all.
        Outcome::RateLimited => "none",
        Outcome::Refused => "REFUSED",
        Outcome::FormErr => "FORMERR",
    }
}

fn upstreams(states: &[UpstreamState]) -> Vec<MetricFamily> {
    let mut up = Family::gauge("gate64_dns_upstream_up", "1 while the upstream answers.");
    let mut rtt = Family::gauge(
        "gate64_dns_upstream_rtt_seconds",
        "Moving mean of the time from question to answer.",
    );
    let mut score = Family::gauge(
        "gate64_dns_upstream_failure_score",
        "From 0, never fails, to 1, fails always.",
    );
    let mut in_flight = Family::gauge(
        "gate64_dns_upstream_in_flight",
        "Tries under way at present.",
    );
    let mut tries = Family::counter(
        "gate64_dns_upstream_tries_total",
        "Tries at the upstream, by how they ended.",
    );
    for state in states {
        let target = state.upstream.to_string();
        let labels = [("upstream", target.as_str())];
        up.count(&labels, u64::from(state.is_up));
        rtt.value(&labels, state.rtt.unwrap_or_default().as_secs_f64());
        score.value(&labels, f64::from(state.failure_score));
        in_flight.count(&labels, state.in_flight);
        for (result, count) in TryResult::ALL.iter().zip(state.tries) {
            let labels = [("upstream", target.as_str()), ("result", result.name())];
            tries.count(&labels, count);
        }
    }
    [up, rtt, score, in_flight, tries].map(Family::done).into()
}

fn cache(state: CacheState) -> Vec<MetricFamily> {
    let gauges = [
        (
            "gate64_dns_cache_entries",
            "Questions with an answer in the cache.",
            state.entries,
        ),
        (
            "gate64_dns_cache_bytes",
            "Memory that they take, about.",
            state.octets,
        ),
        (
            "gate64_dns_cache_capacity_bytes",
            "Memory that they may take.",
            state.octets_max,
        ),
    ];
    let mut families: Vec<MetricFamily> = gauges
        .into_iter()
        .map(|(name, help, value)| {
            let mut family = Family::gauge(name, help);
            family.count(&[], value);
            family.done()
        })
        .collect();
    let mut evictions = Family::counter(
        "gate64_dns_cache_evictions_total",
        "Answers displaced by others.",
    );
    evictions.count(&[], state.evictions);
    families.push(evictions.done());
    families
}
