//! Serving on a wildcard address: an answer leaves from the address that was asked.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::net::SocketAddr;

use common::*;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;

/// A port on which the wildcard address is free now.
fn free_port() -> u16 {
    let socket = std::net::UdpSocket::bind("[::]:0").unwrap();
    socket.local_addr().unwrap().port()
}

async fn serve_on(listen: &str) {
    let listen: SocketAddr = listen
        .replace("PORT", &free_port().to_string())
        .parse()
        .unwrap();
    let bench = Bench::with(|config| config.listen = vec![listen]).await;
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
    serve_on("0.0.0.0:PORT").await;
}

#[tokio::test]
async fn answers_leave_from_the_address_asked_on_an_ipv6_wildcard_that_serves_both() {
    serve_on("[::]:PORT").await;
}
