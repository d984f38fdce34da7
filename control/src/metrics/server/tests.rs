//! The text of a scrape: names of the contract, well-formed lines, sums over workers.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::to_bytes;

use super::*;
use crate::state::fake;

/// The metrics that the contract names.
const CONTRACT: [&str; 22] = [
    "gate64_packets_total",
    "gate64_bytes_total",
    "gate64_drops_total",
    "gate64_sessions",
    "gate64_sessions_created_total",
    "gate64_sessions_expired_total",
    "gate64_session_capacity",
    "gate64_pool_ports",
    "gate64_port_blocks",
    "gate64_subscribers",
    "gate64_subscriber_refusals_total",
    "gate64_worker_busy_ratio",
    "gate64_worker_burst_frames",
    "gate64_handoff_frames_total",
    "gate64_icmp_errors_total",
    "gate64_fragments",
    "gate64_log_events_total",
    "gate64_log_events_lost_total",
    "gate64_dns_queries_total",
    "gate64_dns_synthesized_total",
    "gate64_dns_query_duration_seconds",
    "gate64_build_info",
];

async fn body(response: Response) -> (StatusCode, String) {
    let status = response.status();
    let octets = to_bytes(response.into_body(), 1 << 24).await.unwrap();
    (status, String::from_utf8(octets.to_vec()).unwrap())
}

fn app(state: Arc<State>) -> Shared<App> {
    let registry = Registry::new();
    registry
        .register(Box::new(StateCollector(state.clone())))
        .unwrap();
    Shared(App { state, registry })
}

fn dns64() -> Arc<gate64_dns64::Server> {
    let config = gate64_dns64::Config {
        listen: vec!["[::1]:0".parse().unwrap()],
        upstream: vec![gate64_dns64::Upstream::plain(
            gate64_dns64::Protocol::Udp,
            "[::1]:9".parse().unwrap(),
        )],
        pref64: vec![gate64_wire::rfc6052::Pref64::WELL_KNOWN],
        ..gate64_dns64::Config::default()
    };
    Arc::new(gate64_dns64::Server::start(config, Arc::default()).unwrap())
}

async fn scrape() -> String {
    let response = metrics(app(fake::state(Some(dns64())))).await;
    let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    body(response).await.1
}

/// Type of each family, and its lines as (name with labels, value).
fn parse(text: &str) -> (BTreeMap<String, String>, Vec<(String, f64)>) {
    let mut types = BTreeMap::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let twice = types.insert(name.to_owned(), kind.to_owned());
            assert_eq!(twice, None, "{name} stands there twice");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            lines.push((name.to_owned(), value.parse().unwrap()));
        }
    }
    (types, lines)
}

#[tokio::test]
async fn every_metric_of_the_contract_is_there() {
    let (types, _) = parse(&scrape().await);
    for name in CONTRACT {
        assert!(types.contains_key(name), "{name} is missing");
    }
    assert!(types.keys().any(|name| name.starts_with("gate64_xsk_")));
    for (name, kind) in &types {
        assert!(name.starts_with("gate64_"), "{name}");
        assert_eq!(
            name.ends_with("_total"),
            kind == "counter",
            "{name} is a {kind}"
        );
    }
}

#[tokio::test]
async fn lines_are_unique_and_sum_the_workers() {
    let (_, lines) = parse(&scrape().await);
    let names: BTreeSet<&str> = lines.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), lines.len(), "a line stands there twice");
    let of = |name: &str| {
        let found = lines.iter().find(|(line, _)| line == name);
        found.unwrap_or_else(|| panic!("{name} is missing")).1
    };
    for (line, value) in [
        ("gate64_sessions{protocol=\"tcp\"}", 14.0),
        ("gate64_sessions{protocol=\"icmp\"}", 0.0),
        (
            "gate64_packets_total{direction=\"v6_to_v4\",verdict=\"forwarded\"}",
            80.0,
        ),
        (
            "gate64_packets_total{direction=\"v6_to_v4\",verdict=\"dropped\"}",
            6.0,
        ),
        (
            "gate64_drops_total{direction=\"v4_to_v6\",reason=\"no_bib\"}",
            4.0,
        ),
        (
            "gate64_drops_total{direction=\"v6_to_v4\",reason=\"no_route\"}",
            0.0,
        ),
        (
            "gate64_subscriber_refusals_total{reason=\"subscriber_ports\"}",
            6.0,
        ),
        ("gate64_port_blocks{state=\"used\"}", 8.0),
        ("gate64_port_blocks{state=\"free\"}", 12.0),
        ("gate64_session_capacity", 1000.0),
        ("gate64_log_events_total", 9.0),
        ("gate64_ready{role=\"nat64\"}", 0.0),
        ("gate64_interface_up{interface=\"g64fake0\"}", 0.0),
        ("gate64_xsk_rx_dropped_total{interface=\"g64fake0\"}", 5.0),
    ] {
        assert!(
            (of(line) - value).abs() < f64::EPSILON,
            "{line}: {}",
            of(line)
        );
    }
}

/// Bucket bounds are inclusive in Prometheus: 1 is in `le="1"`, 64 first in `le="127"`.
#[tokio::test]
async fn histograms_are_cumulative_and_end_in_infinity() {
    let (_, lines) = parse(&scrape().await);
    let bucket = |bound: &str| {
        let in_worker_0 = |line: &str| line.contains("worker=\"0\"") && line.contains(bound);
        let found = lines.iter().find(|(line, _)| {
            line.starts_with("gate64_worker_burst_frames_bucket") && in_worker_0(line)
        });
        found.unwrap_or_else(|| panic!("{bound} is missing")).1
    };
    let counts = ["\"0\"", "\"1\"", "\"63\"", "\"127\"", "\"+Inf\""]
        .map(|bound| bucket(&format!("le={bound}")));
    assert_eq!(counts, [0.0, 1.0, 1.0, 2.0, 2.0]);
}

#[tokio::test]
async fn health_and_readiness_say_what_is_wrong() {
    let state = fake::state(None);
    let (status, text) = body(healthz(app(state.clone())).await).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "ok\n"));
    let (status, text) = body(readyz(app(state)).await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("interface g64fake0 is down"), "{text}");
    assert!(
        text.contains("no IPv4 route by gate64's interfaces"),
        "{text}"
    );
}

#[test]
fn an_address_in_use_is_named() {
    let taken = listen("[::1]:0".parse().unwrap(), false).unwrap();
    let addr = taken.local_addr().unwrap();
    let refused = listen(addr, false).unwrap_err().to_string();
    assert!(refused.contains(&addr.to_string()), "{refused}");
    assert!(refused.contains("in use"), "{refused}");
}

#[test]
fn another_port_is_taken_only_where_that_one_is_in_use() {
    let taken = listen("[::1]:0".parse().unwrap(), true).unwrap();
    let addr = taken.local_addr().unwrap();
    let other = listen(addr, true).unwrap().local_addr().unwrap();
    assert_eq!(other.ip(), addr.ip());
    assert_ne!(other.port(), addr.port());
    // An address of nobody here is a mistake, which another port would hide.
    let elsewhere = listen("[2001:db8::1]:9464".parse().unwrap(), true);
    assert!(elsewhere.is_err());
}
