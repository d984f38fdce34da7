//! The families of the DNS64 server.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use gate64_dns64::metrics::{Outcome, QueryType};
use gate64_dns64::{Protocol, Server};
use prometheus::proto::MetricFamily;

use super::family::Family;

/// All of them.
pub fn families(server: &Server) -> Vec<MetricFamily> {
    let metrics = server.metrics();
    let mut families = vec![queries(server), upstreams(server)];
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
            "gate64_dns_upstream_queries_total",
            "Questions sent to upstreams, tries included.",
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
    let mut latency = Family::histogram(
        "gate64_dns_query_duration_seconds",
        "Time from question to answer.",
    );
    latency.buckets(&[], metrics.latency(), metrics.latency_sum_seconds());
    families.push(latency.done());
    families
}

fn queries(server: &Server) -> MetricFamily {
    let mut counted = HashMap::new();
    for (protocol, qtype, outcome, count) in server.metrics().queries() {
        counted.insert((protocol.name(), qtype.name(), outcome.name()), count);
    }
    let mut family = Family::counter("gate64_dns_queries_total", "Queries of clients.");
    for protocol in [Protocol::Udp, Protocol::Tcp] {
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

fn upstreams(server: &Server) -> MetricFamily {
    let mut family = Family::gauge("gate64_dns_upstream_up", "1 while the upstream answers.");
    for (upstream, is_up) in server.upstreams() {
        let target = upstream.to_string();
        family.count(&[("upstream", &target)], u64::from(is_up));
    }
    family.done()
}
