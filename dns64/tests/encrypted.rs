//! DNS over TLS and HTTPS with an operator's certificate, asked by kdig.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::programs::Scratch;
use common::*;
use gate64_dns64::{Config, Encrypted, check};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const NAMES: &str = "DNS:dns.test";

fn encrypted(certificate: &Path, key: &Path) -> Encrypted {
    Encrypted {
        tls_listen: vec![own_addr()],
        https_listen: vec![own_addr()],
        https_path: "/dns-query".into(),
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        name: "dns.test".into(),
    }
}

/// A server with an operator's certificate, over TLS and HTTPS too.
struct Site {
    directory: Scratch,
    certificate: PathBuf,
    tls: SocketAddr,
    https: SocketAddr,
    bench: Bench,
}

impl Site {
    async fn start(name: &str, change: impl FnOnce(&mut Config)) -> Site {
        let directory = Scratch::new(name);
        let (certificate, key) = directory.certificate("own", NAMES);
        let settings = encrypted(&certificate, &key);
        let (tls, https) = (settings.tls_listen[0], settings.https_listen[0]);
        let bench = Bench::with(|config| {
            config.encrypted = Some(settings);
            change(config);
        });
        Site {
            directory,
            certificate,
            tls,
            https,
            bench: bench.await,
        }
    }
}

/// kdig's answer section, or its complaint.
async fn kdig(args: Vec<String>) -> String {
    let run = move || Command::new("kdig").args(args).output().expect("kdig runs");
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kdig_is_answered_over_tls_and_https_by_a_certificate_that_it_checks() {
    let site = Site::start("kdig", |_| {}).await;
    let (bench, tls, https) = (&site.bench, site.tls, site.https);
    bench
        .upstream
        .lacks_aaaa("v4.test.", 60)
        .has_a("v4.test.", 300, "192.0.2.1");
    for (addr, how) in [(tls, "+tls"), (https, "+https"), (https, "+https-get")] {
        let protocol = how.replace("-get", "");
        let ca = format!("+tls-ca={}", site.certificate.display());
        let args = [
            &format!("@{}", addr.ip()),
            "-p",
            &addr.port().to_string(),
            how,
            &protocol,
            &ca,
            "+tls-host=dns.test",
            "+short",
            "AAAA",
            "v4.test",
        ];
        let answer = kdig(args.map(ToOwned::to_owned).to_vec()).await;
        assert_eq!(answer.trim(), "64:ff9b::c000:201", "{how}");
    }
    let protocols: Vec<&str> = bench
        .server
        .metrics()
        .queries()
        .map(|q| q.0.name())
        .collect();
    assert_eq!(protocols, ["tls", "https"]);
}

/// curl's output for a request to the path of this service.
async fn curl(certificate: &Path, addr: SocketAddr, path: &str, args: &[&str]) -> String {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--include", "--http2", "--max-time", "30"])
        .args(["--output", "-", "--cacert"])
        .arg(certificate)
        .arg("--connect-to")
        .arg(format!("dns.test:{0}:{addr}", addr.port()))
        .args(args)
        .arg(format!("https://dns.test:{}{path}", addr.port()));
    let run = move || command.output().expect("curl runs");
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A connection over TLS, with this protocol on top.
async fn connect(certificate: &Path, addr: SocketAddr, alpn: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let own = CertificateDer::from_pem_file(certificate).unwrap();
    roots.add(own).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("dns.test").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.unwrap()
}

/// What comes back for a message over a stream, as octets; nothing if the other end closes.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), octets: &[u8]) -> Vec<u8> {
    let len = u16::try_from(octets.len()).unwrap();
    stream.write_all(&len.to_be_bytes()).await.unwrap();
    stream.write_all(octets).await.unwrap();
    stream.flush().await.unwrap();
    let answer = async {
        let Ok(len) = stream.read_u16().await else {
            return Vec::new();
        };
        let mut octets = vec![0; usize::from(len)];
        stream.read_exact(&mut octets).await.unwrap();
        octets
    };
    tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("an answer, or an end")
}

/// RFC 8484 section 4.1.1's example: www.example.com, A.
const EXAMPLE: &str = "/dns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_speaks_http() {
    let site = Site::start("curl", |_| {}).await;
    let (bench, https) = (&site.bench, site.https);
    let records = vec![a("www.example.com.", 300, "192.0.2.1")];
    bench
        .upstream
        .on("www.example.com.", RecordType::A, answer(records));
    let said = curl(&site.certificate, https, EXAMPLE, &[]).await;
    let head = said.to_lowercase();
    assert!(head.starts_with("http/2 200"), "{said}");
    assert!(head.contains("content-type: application/dns-message"));
    // Section 5.1: no longer than the least TTL.
    assert!(head.contains("cache-control: max-age=300"), "{said}");
    let binary = ["--header", "content-type: application/dns-message"];
    let post = |body| [&binary[..], &["--data-binary", body]].concat();
    for (path, args, status) in [
        ("/other", vec![], 404),
        ("/dns-query", vec![], 400),
        ("/dns-query?dns=AAAB", vec![], 400),
        (EXAMPLE, vec!["--request", "PUT"], 405),
        ("/dns-query", vec!["--data", "text"], 415),
        ("/dns-query", post("short"), 400),
    ] {
        let said = curl(&site.certificate, https, path, &args).await;
        let wanted = format!("HTTP/2 {status}");
        assert!(said.starts_with(&wanted), "{path} {args:?}: {said}");
    }
    let large = site.directory.0.join("large");
    std::fs::write(&large, vec![0; 70_000]).unwrap();
    let body = format!("@{}", large.display());
    let said = curl(&site.certificate, https, "/dns-query", &post(&body)).await;
    // The answer may overtake the body, which curl then takes for none.
    assert!(said.is_empty() || said.contains("HTTP/2 413"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_takes_headers_and_bodies_of_a_bounded_size_and_no_responses() {
    let site = Site::start("bounds", |_| {}).await;
    let (bench, https) = (&site.bench, site.https);
    bench.upstream.has_a("www.example.com.", 300, "192.0.2.1");
    let long = |octets: usize| format!("x-padding: {}", "x".repeat(octets));
    // 16 KiB in all, and 32 octets on top of each field (RFC 9113 section 6.5.2).
    for (headers, status) in [(14_000, 200), (17_000, 431), (60_000, 431)] {
        let said = curl(
            &site.certificate,
            https,
            EXAMPLE,
            &["--header", &long(headers)],
        )
        .await;
        let wanted = format!("HTTP/2 {status}");
        assert!(said.starts_with(&wanted), "{headers}: {said}");
    }
    // QR is set: a response, which is never answered.
    let response = EXAMPLE.replace("dns=AAABAAAB", "dns=AACBAAAB");
    let said = curl(&site.certificate, https, &response, &[]).await;
    assert!(said.starts_with("HTTP/2 400"), "{said}");
    assert_eq!(bench.upstream.asked().len(), 1);
}

/// A question whose name is a pointer into the header, the flags of which are others in the answer.
const COMPRESSED: [u8; 18] = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 2, 0, 28, 0, 1];

#[tokio::test]
async fn rfc1035_section_4_1_4_a_compressed_question_is_not_repeated_over_any_transport() {
    let site = Site::start("compressed", |_| {}).await;
    let (bench, tls, https) = (&site.bench, site.tls, site.https);
    let mut over_tcp = TcpStream::connect(bench.addr).await.unwrap();
    let mut over_tls = connect(&site.certificate, tls, b"dot").await;
    for octets in [
        exchange_udp(bench.addr, &COMPRESSED).await,
        exchange(&mut over_tcp, &COMPRESSED).await,
        exchange(&mut over_tls, &COMPRESSED).await,
    ] {
        let response = Message::from_vec(&octets).unwrap();
        assert_eq!(rcode(&response), ResponseCode::FormErr, "{response}");
        assert!(response.queries.is_empty(), "{response}");
    }
    let text = data_encoding::BASE64URL_NOPAD.encode(&COMPRESSED);
    let path = format!("/dns-query?dns={text}");
    let said = curl(&site.certificate, https, &path, &[]).await;
    assert!(said.starts_with("HTTP/2 400"), "{said}");
    assert!(bench.upstream.asked().is_empty());
    let counted: Vec<_> = bench.server.metrics().queries().collect();
    let outcomes = counted
        .iter()
        .map(|(protocol, _, outcome, count)| (protocol.name(), outcome.name(), *count));
    let formerr = ["udp", "tcp", "tls", "https"].map(|protocol| (protocol, "formerr", 1));
    assert_eq!(outcomes.collect::<Vec<_>>(), formerr);
}

/// Waits until the other end closes it.
async fn ends(stream: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "it stays open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_under_way_keeps_its_connection_and_an_idle_one_ends() {
    let site = Site::start("idle", |config| {
        config.timeouts.tcp_idle = Duration::from_secs(5);
    })
    .await;
    let (bench, tls, https) = (&site.bench, site.tls, site.https);
    let held = Arc::new(Semaphore::new(0));
    let slow = Script {
        answers: vec![a("www.example.com.", 300, A1)],
        held: Some(held.clone()),
        ..Script::default()
    };
    bench
        .upstream
        .on("www.example.com.", RecordType::A, slow.reply());
    let asked = question("www.example.com.", RecordType::A, PLAIN);
    let octets = asked.to_vec().unwrap();
    let mut over_tcp = TcpStream::connect(bench.addr).await.unwrap();
    let mut over_tls = connect(&site.certificate, tls, b"dot").await;
    // What was opened behind the questions has ended before they are answered.
    let others_end = async {
        let waiting = &bench.server.metrics().client_in_flight;
        wait_for(|| waiting.load(Ordering::Relaxed) == 3).await;
        let mut idle_tcp = TcpStream::connect(bench.addr).await.unwrap();
        let mut idle_tls = connect(&site.certificate, tls, b"dot").await;
        let mut idle_https = connect(&site.certificate, https, b"h2").await;
        tokio::join!(
            ends(&mut idle_tcp),
            ends(&mut idle_tls),
            ends(&mut idle_https)
        );
        held.close();
    };
    let (tcp, tls, https_said, ()) = tokio::join!(
        exchange(&mut over_tcp, &octets),
        exchange(&mut over_tls, &octets),
        curl(&site.certificate, https, EXAMPLE, &[]),
        others_end
    );
    for octets in [tcp, tls] {
        let response = Message::from_vec(&octets).expect("an answer");
        assert_eq!(response.answers.len(), 1, "{response}");
    }
    assert!(https_said.starts_with("HTTP/2 200"), "{https_said}");
    // With nothing under way the server ends them.
    tokio::join!(ends(&mut over_tcp), ends(&mut over_tls));
}

#[tokio::test]
async fn certificates_that_do_not_fit_are_named_before_a_socket_is_made() {
    let directory = Scratch::new("misfit");
    let (certificate, key) = directory.certificate("own", NAMES);
    let (_, other_key) = directory.certificate("other", NAMES);
    let upstream = ScriptedUpstream::start().await;
    let complaint = |change: &dyn Fn(&mut Encrypted)| {
        let mut settings = encrypted(&certificate, &key);
        change(&mut settings);
        let config = Config {
            encrypted: Some(settings),
            ..config(&upstream)
        };
        check(&config).err().map(|error| error.to_string())
    };
    assert_eq!(complaint(&|_| {}), None);
    let text = complaint(&|e| e.key.clone_from(&other_key)).unwrap();
    assert!(
        text.contains("does not belong to the certificate"),
        "{text}"
    );
    let text = complaint(&|e| e.name = "dns.example.net".into()).unwrap();
    assert!(text.contains("is not for \"dns.example.net\""), "{text}");
    let text = complaint(&|e| e.certificate.clone_from(&key)).unwrap();
    assert!(text.contains("it holds no certificate"), "{text}");
    let text = complaint(&|e| e.key = "/nonexistent.key".into()).unwrap();
    assert!(text.contains("/nonexistent.key"), "{text}");
}
