//! Serving on a wildcard address: an answer leaves from the address that was asked.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::net::SocketAddr;

use common::*;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;

/// A port for the wildcard address: below those that the kernel gives away, and of this process
/// and test alone.
fn own_port(test: u16) -> u16 {
    let process = u16::try_from(std::process::id() % 10_000).unwrap();
    10_000 + 2 * process + test
}

async fn serve_on(listen: &str, test: u16) {
    let listen: SocketAddr = listen
        .replace("PORT", &own_port(test).to_string())
        .parse()
        .unwrap();
    let bench = Bench::with(|config| {
        config.listen = vec![listen];
        // Each thread has a cache of its own.
        config.udp_threads = 1;
    })
    .await;
    let records = vec![a("v4.test.", 300, "192.0.2.1")];
    bench
        .upstream
        .on("v4.test.", RecordType::A, answer(records));
    let mut asked = vec!["127.0.0.1", "127.0.0.53", "127.9.9.9"];
    if listen.is_ipv6() {
        asked.push("::1");
    }
    for ip in asked {
        let server = SocketAddr::new(ip.parse().unwrap(), listen.port());
        let question = question("v4.test.", RecordType::A, PLAIN).to_vec().unwrap();
        // The second answer comes from the cache in front.
        for _ in 0..2 {
            // `exchange_udp` sees to it that the answer is from the address asked.
            let octets = exchange_udp(server, &question).await;
            let response = Message::from_vec(&octets).unwrap();
            assert_eq!(response.answers.len(), 1, "{ip}");
        }
    }
    assert!(bench.server.metrics().wire_cache().hits > 0);
}

#[tokio::test]
async fn answers_leave_from_the_address_asked_on_an_ipv4_wildcard() {
    serve_on("0.0.0.0:PORT", 0).await;
}

#[tokio::test]
async fn answers_leave_from_the_address_asked_on_an_ipv6_wildcard_that_serves_both() {
    serve_on("[::]:PORT", 1).await;
}
