//! unbound as an upstream, over TLS and HTTPS.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::net::IpAddr;
use std::process::Command;

use common::programs::{Peer, Scratch};
use common::*;
use gate64_dns64::{Protocol, Upstream};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

/// unbound with a zone of its own, over TLS (port 853) and HTTPS (port 443).
async fn start_unbound(scratch: &Scratch, ip: IpAddr) -> Peer {
    scratch.write(
        "unbound.conf",
        &format!(
            r#"server:
  interface: {ip}@853
  interface: {ip}@443
  tls-port: 853
  https-port: 443
  tls-service-key: "{key}"
  tls-service-pem: "{pem}"
  access-control: 127.0.0.0/8 allow
  do-daemonize: no
  use-syslog: no
  username: ""
  chroot: ""
  directory: "{directory}"
  pidfile: "{directory}/unbound.pid"
  module-config: "iterator"
  num-threads: 1
  local-zone: "test." static
  local-data: "test. 60 IN SOA ns.test. nobody.test. 1 7200 3600 604800 60"
  local-data: "v4.test. 300 IN A 192.0.2.1"
  local-data: "both.test. 300 IN A 192.0.2.2"
  local-data: "both.test. 300 IN AAAA 2001:db8::2"
remote-control:
  control-enable: no
"#,
            key = scratch.path("server.key"),
            pem = scratch.path("server.pem"),
            directory = scratch.0.display(),
        ),
    );
    let config = scratch.path("unbound.conf");
    let mut command = Command::new("/usr/sbin/unbound");
    Peer::start(command.args(["-d", "-c", &config]), (ip, 853).into()).await
}

fn encrypted(protocol: Protocol, ip: IpAddr, name: &str) -> Upstream {
    let (port, path) = match protocol {
        Protocol::Https => (443, "/dns-query"),
        _ => (853, ""),
    };
    Upstream {
        protocol,
        addr: (ip, port).into(),
        name: name.into(),
        path: path.into(),
    }
}

#[tokio::test]
async fn unbound_is_asked_over_tls_and_https_and_has_to_be_who_it_says() {
    let scratch = Scratch::new("tls");
    let ip = own_addr().ip();
    let names = format!("DNS:dns.example,IP:{ip}");
    scratch.certificate("server", &names);
    scratch.certificate("other", &names);
    let _unbound = start_unbound(&scratch, ip).await;
    let ask = async |protocol, name: &str, ca: &str| {
        let upstream = encrypted(protocol, ip, name);
        let bench = Bench::with(|config| {
            config.upstream = vec![upstream];
            config.upstream_ca = Some(scratch.0.join(ca));
        })
        .await;
        let questions = ["v4.test.", "both.test.", "none.test."];
        let asked = questions.map(|owner| bench.ask_tcp(owner, RecordType::AAAA));
        futures_util::future::join_all(asked).await
    };
    for protocol in [Protocol::Tls, Protocol::Https] {
        for name in ["dns.example", ""] {
            let answers = ask(protocol, name, "server.pem").await;
            assert_eq!(
                addresses(&answers[0])[0].0,
                "64:ff9b::c000:201",
                "{protocol:?} {name}"
            );
            assert_eq!(addresses(&answers[1])[0].0, "2001:db8::2");
            assert_eq!(answers[2].metadata.response_code, ResponseCode::NXDomain);
        }
        for (name, ca) in [("else.example", "server.pem"), ("dns.example", "other.pem")] {
            for answer in ask(protocol, name, ca).await {
                let rcode = answer.metadata.response_code;
                assert_eq!(rcode, ResponseCode::ServFail, "{protocol:?} {name} {ca}");
            }
        }
    }
}
