//! DNS over TLS and HTTPS with an operator's certificate, asked by kdig.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use common::programs::Scratch;
use common::*;
use gate64_dns64::{Config, Encrypted, check};
use hickory_proto::rr::RecordType;

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

/// kdig's answer section, or its complaint.
async fn kdig(args: Vec<String>) -> String {
    let run = move || Command::new("kdig").args(args).output().expect("kdig runs");
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kdig_is_answered_over_tls_and_https_by_a_certificate_that_it_checks() {
    let directory = Scratch::new("kdig");
    let (certificate, key) = directory.certificate("own", NAMES);
    let settings = encrypted(&certificate, &key);
    let (tls, https) = (settings.tls_listen[0], settings.https_listen[0]);
    let bench = Bench::with(|config| config.encrypted = Some(settings)).await;
    bench
        .upstream
        .lacks_aaaa("v4.test.", 60)
        .has_a("v4.test.", 300, "192.0.2.1");
    for (addr, how) in [(tls, "+tls"), (https, "+https"), (https, "+https-get")] {
        let protocol = how.replace("-get", "");
        let ca = format!("+tls-ca={}", certificate.display());
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
        .args(["--silent", "--include", "--http2", "--max-time", "10"])
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

/// RFC 8484 section 4.1.1's example: www.example.com, A.
const EXAMPLE: &str = "/dns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_speaks_http() {
    let directory = Scratch::new("curl");
    let (certificate, key) = directory.certificate("own", NAMES);
    let settings = encrypted(&certificate, &key);
    let https = settings.https_listen[0];
    let bench = Bench::with(|config| config.encrypted = Some(settings)).await;
    let records = vec![a("www.example.com.", 300, "192.0.2.1")];
    bench
        .upstream
        .on("www.example.com.", RecordType::A, answer(records));
    let said = curl(&certificate, https, EXAMPLE, &[]).await;
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
        let said = curl(&certificate, https, path, &args).await;
        let wanted = format!("HTTP/2 {status}");
        assert!(said.starts_with(&wanted), "{path} {args:?}: {said}");
    }
    let large = directory.0.join("large");
    std::fs::write(&large, vec![0; 70_000]).unwrap();
    let body = format!("@{}", large.display());
    let said = curl(&certificate, https, "/dns-query", &post(&body)).await;
    // The answer may overtake the body, which curl then takes for none.
    assert!(said.is_empty() || said.contains("HTTP/2 413"), "{said}");
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
