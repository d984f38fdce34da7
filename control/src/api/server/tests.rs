//! The API over a real unix socket, asked by the command line's own client.

use serde_json::Value;

use super::super::model::{Cleared, Explanation, Listing, Session, Status, Subscriber};
use super::*;
use crate::client::Connection;
use crate::state::fake;

/// A gate64 that answers on a socket of its own.
struct Running {
    path: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Running {
    fn start(name: &str) -> Running {
        let path = std::env::temp_dir().join(format!("gate64-{}-{name}.sock", std::process::id()));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let socket = ApiSocket::take(&path).unwrap();
        runtime.spawn(socket.serve(fake::state(None), std::future::pending()));
        Running { path, runtime }
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    /// Stops the server; true if its socket went with it.
    fn stop(self) -> bool {
        self.runtime
            .shutdown_timeout(std::time::Duration::from_secs(5));
        !self.path.exists()
    }
}

#[test]
fn sessions_are_paged_over_all_workers() {
    let running = Running::start("paged");
    let mut api = running.connect();
    let mut query = Query::default();
    let mut seen = std::collections::BTreeSet::new();
    let mut page_count = 0;
    loop {
        let page: Listing<Session> = api.get("/v1/sessions", &query).unwrap();
        assert!(page.rows.len() <= listing::PAGE_ROWS_MAX);
        page_count += 1;
        for row in page.rows {
            assert!(
                seen.insert((row.worker, row.v4.clone())),
                "{row:?} came twice"
            );
        }
        let Some(next) = page.next else { break };
        query.cursor = Some(next);
    }
    assert_eq!(seen.len(), 2 * fake::SESSIONS_PER_WORKER as usize);
    assert_eq!(page_count, 3);
    assert!(running.stop(), "the socket is left behind");
}

#[test]
fn filters_reach_the_workers() {
    let running = Running::start("filters");
    let mut api = running.connect();
    let query = Query {
        port: Some(2007),
        protocol: Some("tcp".to_owned()),
        v6: Some("2001:db8::/32".to_owned()),
        ..Query::default()
    };
    let page: Listing<Session> = api.get("/v1/sessions", &query).unwrap();
    let found: Vec<&str> = page.rows.iter().map(|row| row.v4.as_str()).collect();
    assert_eq!(found, ["192.0.2.0:2007", "192.0.2.1:2007"]);
    let cleared: Cleared = api.post("/v1/clear/sessions", &query).unwrap();
    assert_eq!(cleared.sessions, 2);
}

#[test]
fn a_worker_that_takes_no_more_clearings_is_named() {
    let running = Running::start("busy");
    let query = Query {
        v4: Some(fake::BUSY.to_string()),
        ..Query::default()
    };
    let failure = running
        .connect()
        .post::<Cleared>("/v1/clear/sessions", &query)
        .unwrap_err()
        .to_string();
    assert!(
        failure.contains("worker 1: 16 of these are under way"),
        "{failure}"
    );
    assert!(failure.contains("try again"), "{failure}");
}

#[test]
fn a_wrong_filter_says_what_is_accepted() {
    let running = Running::start("wrong");
    let mut api = running.connect();
    let refused = |api: &mut Connection, query: Query| {
        let answer: Result<Value, Failure> = api.get("/v1/bib", &query);
        answer.unwrap_err().to_string()
    };
    let query = Query {
        protocol: Some("sctp".to_owned()),
        ..Query::default()
    };
    assert_eq!(
        refused(&mut api, query),
        "\"sctp\" is no protocol: accepted are udp, tcp, icmp"
    );
    let query = Query {
        v6: Some("2001:db8::/129".to_owned()),
        ..Query::default()
    };
    assert!(refused(&mut api, query).contains("prefix length from 0 to 128"));
    let query = Query {
        cursor: Some("x".to_owned()),
        ..Query::default()
    };
    assert!(refused(&mut api, query).contains("is no cursor"));
    let unknown: Result<Value, Failure> = api.get("/v1/nothing", &Query::default());
    assert!(
        unknown
            .unwrap_err()
            .to_string()
            .contains("no such resource")
    );
}

#[test]
fn a_filter_that_a_listing_does_not_know_is_refused() {
    let running = Running::start("unknown-filter");
    let mut api = running.connect();
    let remote = || Query {
        remote: Some("192.0.2.1".to_owned()),
        ..Query::default()
    };
    let port = || Query {
        port: Some(1024),
        ..Query::default()
    };
    let top = || Query {
        top: Some("ports".to_owned()),
        v4: Some("192.0.2.1".to_owned()),
        ..Query::default()
    };
    for (path, query, says) in [
        ("/v1/bib", remote(), "remote is no filter"),
        ("/v1/pool", port(), "accepted are v4"),
        ("/v1/blocks", remote(), "accepted are v6, v4, port"),
        ("/v1/subscribers", port(), "port is no filter"),
        ("/v1/subscribers", top(), "accepted are top"),
    ] {
        let answer: Result<Value, Failure> = api.get(path, &query);
        let text = answer.unwrap_err().to_string();
        assert!(text.contains(says), "{path}: {text}");
    }
}

#[test]
fn status_sums_the_workers() {
    let running = Running::start("status");
    let status: Status = running
        .connect()
        .get("/v1/status", &Query::default())
        .unwrap();
    assert_eq!(status.workers, 2);
    assert_eq!(status.sessions.tcp, 14);
    assert_eq!(status.session_capacity, 1000);
    assert_eq!(status.packets_forwarded.v6_to_v4, 80);
    assert_eq!(status.packets_dropped.v4_to_v6, 4);
    assert_eq!((status.port_blocks_used, status.port_blocks_total), (8, 20));
    assert_eq!(
        status.not_ready,
        [
            "interface g64fake0 is down",
            "no IPv4 route by gate64's interfaces (see `ip -4 route`)"
        ]
    );
}

#[test]
fn every_resource_answers() {
    let running = Running::start("every");
    let mut api = running.connect();
    for (path, row_count) in [
        ("/v1/bib", 2),
        ("/v1/pool", 2),
        ("/v1/blocks", 2),
        ("/v1/subscribers", 2),
    ] {
        let page: Listing<Value> = api.get(path, &Query::default()).unwrap();
        assert_eq!(page.rows.len(), row_count, "{path}");
    }
    for path in [
        "/v1/workers",
        "/v1/drops",
        "/v1/interfaces",
        "/v1/neighbors",
    ] {
        let rows: Vec<Value> = api.get(path, &Query::default()).unwrap();
        assert_eq!(rows.is_empty(), path == "/v1/neighbors", "{path}");
    }
    let page: Listing<Subscriber> = api.get("/v1/subscribers", &Query::default()).unwrap();
    assert_eq!(
        (page.rows[0].blocks[1].first, page.rows[0].blocks[1].last),
        (2048, 2559)
    );
}

#[test]
fn an_address_is_explained_by_its_role() {
    let running = Running::start("explain");
    let mut api = running.connect();
    let mut lines = |address: &str| {
        let path = format!("/v1/explain/{address}");
        let explanation: Explanation = api.get(&path, &Query::default()).unwrap();
        explanation.lines.join("\n")
    };
    assert!(lines("64:ff9b::8.8.8.8").contains("64:ff9b::/96: it means 8.8.8.8"));
    // RFC 6052 section 3.1.
    assert!(lines("64:ff9b::10.0.0.1").contains("10.0.0.1 is not global: dropped"));
    assert!(!lines("2001:db8:64::10.0.0.1").contains("not global"));
    // RFC 6146 section 3.8.
    assert!(lines("2001:db8:64::192.0.2.7").contains("packets hairpin"));
    assert!(lines("192.0.2.1").contains("1 of 126 port blocks"));
    let subscriber = lines("2001:db8::1");
    for part in [
        "subscriber 2001:db8::/64, of no class",
        "may have 4 blocks of 512 ports, 4096 sessions",
        "has, on worker 0: pool address 192.0.2.0, 2 of 4 blocks, 6 of 4096 sessions",
        "port block 192.0.2.0:1024-1535",
        "refused 3 times, the last time for subscriber_ports: The subscriber has used up",
        "a further block would come from its address 192.0.2.0: 125 are free",
    ] {
        assert!(subscriber.contains(part), "{part}: {subscriber}");
    }
    assert!(lines("203.0.113.9").contains("clients reach it as 2001:db8:64::cb00:7109"));
}

#[test]
fn a_socket_that_is_left_is_taken_and_one_that_answers_is_not() {
    let running = Running::start("taken");
    let refused = ApiSocket::take(&running.path).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("another gate64 already answers")
    );
    assert!(running.path.exists());
    let path = running.path.clone();
    running.stop();
    // As a killed process leaves it: the file without anybody behind it.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    // A program that another test starts holds the listener until it executes.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while UnixStream::connect(&path).is_ok() {
        assert!(std::time::Instant::now() < end, "somebody still listens");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let socket = ApiSocket::take(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    drop(socket);
    std::fs::write(&path, "somebody's file").unwrap();
    let refused = ApiSocket::take(&path).unwrap_err();
    assert!(refused.to_string().contains("no socket is there"));
    assert!(path.exists(), "a file of somebody else was removed");
    std::fs::remove_file(&path).unwrap();
}
