//! Other people's programs as upstreams and judges: unbound over TLS and HTTPS, nsd with zones
//! signed by BIND's tools, delv.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::*;
use gate64_dns64::{Dnssec, Protocol, Recursive, Timeouts, Upstream};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

/// A directory that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(what: &str) -> Scratch {
        let name = format!("gate64-{what}-{}-{}", std::process::id(), own_addr().ip());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; `make deps` installs what tests need")
    });
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// A server in the foreground, ended with its owner.
struct Peer(Child);

impl Peer {
    async fn start(command: &mut Command, at: SocketAddr) -> Peer {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let peer = Peer(child.unwrap_or_else(|error| {
            panic!("{command:?}: {error}; `make deps` installs what tests need")
        }));
        for _ in 0..400 {
            if tokio::net::TcpStream::connect(at).await.is_ok() {
                return peer;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{command:?} does not listen on {at}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Programs beside a busy build take their time.
fn patient() -> Timeouts {
    Timeouts {
        attempt: Duration::from_secs(4),
        query: Duration::from_secs(8),
        ..Timeouts::default()
    }
}

/// A certificate for `dns.example` and the address, and its key.
fn make_certificate(scratch: &Scratch, name: &str, ip: IpAddr) {
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-subj", "/CN=dns.example"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args([
            "-addext",
            &format!("subjectAltName=DNS:dns.example,IP:{ip}"),
        ])
        .args(["-keyout", &scratch.path(&format!("{name}.key"))])
        .args(["-out", &scratch.path(&format!("{name}.pem"))]));
}

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
    make_certificate(&scratch, "server", ip);
    make_certificate(&scratch, "other", ip);
    let _unbound = start_unbound(&scratch, ip).await;
    let ask = async |protocol, name: &str, ca: &str| {
        let upstream = encrypted(protocol, ip, name);
        let bench = Bench::with(|config| {
            config.upstream = vec![upstream];
            config.upstream_ca = Some(scratch.0.join(ca));
            config.timeouts = patient();
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

/// Zones from the root down, each signed by its own key unless it says otherwise.
struct Tree {
    scratch: Scratch,
    /// The root's DS record.
    anchor: String,
}

const ZONES: [&str; 7] = [
    "sec.test",
    "nsec3.test",
    "plain.test",
    "bad.test",
    "old.test",
    "test",
    ".",
];

impl Tree {
    /// `root`, `test` and `leaf` are where the servers of the root, of `test.` and of all below
    /// it are.
    fn sign(root: IpAddr, test: IpAddr, leaf: IpAddr) -> Tree {
        let scratch = Scratch::new("zones");
        for zone in ZONES {
            let text = zone_text(zone, root, test, leaf);
            scratch.write(&file(zone), &text);
            if zone == "plain.test" {
                std::fs::copy(
                    scratch.path(&file(zone)),
                    scratch.path(&format!("{}.signed", file(zone))),
                )
                .unwrap();
                continue;
            }
            sign(&scratch, zone);
        }
        let ds = std::fs::read_to_string(scratch.path("dsset-.")).unwrap();
        let anchor = ds.lines().next().unwrap().to_owned();
        Tree { scratch, anchor }
    }

    async fn serve(&self, at: SocketAddr, zones: &[&str]) -> Peer {
        let name = format!("nsd-{}", at.ip());
        let directory = self.scratch.0.display();
        let mut text = format!(
            r#"server:
  ip-address: {ip}@{port}
  username: ""
  chroot: ""
  zonesdir: "{directory}"
  database: ""
  pidfile: "{directory}/{name}.pid"
  xfrdfile: "{directory}/{name}.xfrd"
  zonelistfile: "{directory}/{name}.list"
  xfrdir: "{directory}"
  server-count: 1
  hide-version: yes
remote-control:
  control-enable: no
"#,
            ip = at.ip(),
            port = at.port()
        );
        for zone in zones {
            text += &format!(
                "zone:\n  name: \"{zone}\"\n  zonefile: \"{}.signed\"\n",
                file(zone)
            );
        }
        self.scratch.write(&format!("{name}.conf"), &text);
        let config = self.scratch.path(&format!("{name}.conf"));
        let mut command = Command::new("/usr/sbin/nsd");
        Peer::start(command.args(["-d", "-c", &config]), at).await
    }

    /// What delv says of a name: validated, unsigned, or failed.
    fn delv(&self, at: SocketAddr, owner: &str, qtype: &str) -> String {
        let words: Vec<&str> = self.anchor.split_whitespace().collect();
        let [_, _, _, tag, algorithm, digest_type, digest @ ..] = words.as_slice() else {
            panic!("{}", self.anchor);
        };
        self.scratch.write(
            "anchors",
            &format!(
                "trust-anchors {{ . static-ds {tag} {algorithm} {digest_type} \"{}\"; }};\n",
                digest.concat()
            ),
        );
        let output = Command::new("delv")
            .arg(format!("@{}", at.ip()))
            .args([
                "-p",
                &at.port().to_string(),
                "-a",
                &self.scratch.path("anchors"),
            ])
            .args(["+root=.", owner, qtype])
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

fn file(zone: &str) -> String {
    match zone {
        "." => "root".into(),
        zone => zone.into(),
    }
}

fn zone_text(zone: &str, root: IpAddr, test: IpAddr, leaf: IpAddr) -> String {
    let head = "$TTL 300\n@ IN SOA ns.test. nobody.test. 1 7200 3600 604800 60\n";
    let delegation = |child: &str| format!("{child} IN NS ns.leaf.test.\n");
    let hosts = "v4 IN A 192.0.2.1\nboth IN A 192.0.2.2\nboth IN AAAA 2001:db8::2\n\
                 alias IN CNAME v4\n*.wild IN A 192.0.2.9\n";
    head.to_owned()
        + &match zone {
            "." => format!(
                "@ IN NS ns.root.\nns.root. IN A {root}\ntest. IN NS ns.test.\nns.test. IN A {test}\n"
            ),
            "test" => {
                let children = ["sec", "nsec3", "plain", "bad", "old"]
                    .map(delegation)
                    .concat();
                format!("@ IN NS ns.test.\nns IN A {test}\nns.leaf IN A {leaf}\n{children}")
            }
            _ => format!("@ IN NS ns.leaf.test.\n{hosts}"),
        }
}

fn sign(scratch: &Scratch, zone: &str) {
    let directory = scratch.path("");
    run(Command::new("dnssec-keygen")
        .args(["-q", "-a", "ECDSAP256SHA256", "-f", "KSK"])
        .args(["-K", &directory, zone]));
    let mut command = Command::new("dnssec-signzone");
    // -P: signatures of the past are wanted; -z: one key signs all; -g: DS records of signed children, from their dsset files.
    command.args([
        "-S", "-z", "-g", "-K", &directory, "-d", &directory, "-o", zone,
    ]);
    command.args(["-f", &scratch.path(&format!("{}.signed", file(zone)))]);
    match zone {
        "nsec3.test" => command.args(["-3", "-", "-H", "0"]),
        "old.test" => command.args(["-P", "-s", "20200101000000", "-e", "20200201000000"]),
        _ => &mut command,
    };
    command.arg(scratch.path(&file(zone)));
    run(&mut command);
    if zone == "bad.test" {
        // Of another key than the zone's: what it signs is forged.
        let wrong = format!("bad.test. IN DS 1 13 2 {}\n", "00".repeat(32));
        scratch.write("dsset-bad.test.", &wrong);
    }
}

/// A server that validates from the tree's root.
async fn validating(tree: &Tree, upstream: SocketAddr) -> Bench {
    let anchor = tree.anchor.parse().unwrap();
    Bench::with(|config| {
        config.upstream = vec![Upstream {
            protocol: Protocol::Udp,
            addr: upstream,
            name: String::new(),
            path: String::new(),
        }];
        config.dnssec = Dnssec::Validate;
        config.trust_anchors = vec![anchor];
        config.timeouts = patient();
    })
    .await
}

fn is_bogus(message: &Message) -> bool {
    message.metadata.response_code == ResponseCode::ServFail
        && extended_errors(message)
            .iter()
            .any(|code| (5..=12).contains(code))
}

/// delv blocks the thread that it is called on; the server runs on others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc6147_section_5_5_answers_are_validated_before_synthesis() {
    let at = own_addr();
    let tree = Tree::sign(at.ip(), at.ip(), at.ip());
    let _nsd = tree.serve(at, &ZONES).await;
    let bench = validating(&tree, at).await;

    // What delv finds secure has AD, what it finds insecure has none, what it refuses fails.
    const VALIDATED: &str = "; fully validated";
    const UNSIGNED: &str = "; unsigned answer";
    const FAILED: &str = "resolution failed";
    for (owner, qtype, verdict) in [
        ("v4.sec.test.", RecordType::A, VALIDATED),
        ("alias.sec.test.", RecordType::A, VALIDATED),
        ("both.sec.test.", RecordType::AAAA, VALIDATED),
        ("x.wild.sec.test.", RecordType::A, VALIDATED),
        ("v4.nsec3.test.", RecordType::A, VALIDATED),
        ("x.wild.nsec3.test.", RecordType::A, VALIDATED),
        ("v4.plain.test.", RecordType::A, UNSIGNED),
        ("v4.bad.test.", RecordType::A, FAILED),
        ("v4.old.test.", RecordType::A, FAILED),
    ] {
        let judged = tree.delv(at, owner, &qtype.to_string());
        assert!(judged.contains(verdict), "{owner}: {judged}");
        let response = bench.ask_with(owner, qtype, DO).await;
        let is_authentic = response.metadata.authentic_data;
        assert_eq!(is_authentic, verdict == VALIDATED, "{owner}: {response}");
        assert_eq!(
            is_bogus(&response),
            verdict == FAILED,
            "{owner}: {response}"
        );
        assert_eq!(
            response.answers.is_empty(),
            verdict == FAILED,
            "{owner}: {response}"
        );
        let has_signatures = types(&response.answers).contains(&RecordType::RRSIG);
        assert_eq!(has_signatures, verdict == VALIDATED, "{owner}: {response}");
    }

    // Synthesis from what is secure or provably unsigned, never with AD; not from what is bogus.
    for owner in [
        "v4.sec.test.",
        "alias.sec.test.",
        "alias.nsec3.test.",
        "v4.nsec3.test.",
        "v4.plain.test.",
        "x.wild.sec.test.",
    ] {
        for flags in [PLAIN, DO] {
            let response = bench.ask_with(owner, RecordType::AAAA, flags).await;
            assert_eq!(addresses(&response).len(), 1, "{owner}: {response}");
            assert!(!response.metadata.authentic_data, "{owner}");
            if !flags.dnssec_ok {
                let hidden = [RecordType::RRSIG, RecordType::NSEC, RecordType::NSEC3];
                let shown = types(&[&response.answers[..], &response.authorities].concat());
                assert!(
                    !shown.iter().any(|t| hidden.contains(t)),
                    "{owner}: {response}"
                );
            }
        }
    }
    for owner in ["v4.bad.test.", "v4.old.test."] {
        for flags in [PLAIN, DO, CD] {
            let response = bench.ask_with(owner, RecordType::AAAA, flags).await;
            assert!(is_bogus(&response), "{owner}: {response}");
        }
    }

    // DO and CD: the client judges, so it gets everything as it is, and delv is such a client.
    let response = bench.ask_with("v4.bad.test.", RecordType::A, DO_CD).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    assert!(!response.metadata.authentic_data);
    let response = bench
        .ask_with("v4.sec.test.", RecordType::AAAA, DO_CD)
        .await;
    assert!(addresses(&response).is_empty());
    for (owner, verdict) in [
        ("v4.sec.test.", "; fully validated"),
        ("v4.plain.test.", "; unsigned answer"),
        ("v4.old.test.", "resolution failed"),
    ] {
        let judged = tree.delv(bench.addr, owner, "A");
        assert!(judged.contains(verdict), "{owner}: {judged}");
    }

    // Names and records that are proven not to be.
    for (owner, rcode) in [
        ("none.sec.test.", ResponseCode::NXDomain),
        ("none.nsec3.test.", ResponseCode::NXDomain),
    ] {
        let response = bench.ask_with(owner, RecordType::AAAA, DO).await;
        assert_eq!(
            response.metadata.response_code, rcode,
            "{owner}: {response}"
        );
        assert!(response.metadata.authentic_data, "{owner}: {response}");
    }
}

#[tokio::test]
async fn an_absence_that_is_not_proven_hides_nothing() {
    let at = own_addr();
    let tree = Tree::sign(at.ip(), at.ip(), at.ip());
    let _nsd = tree.serve(at, &ZONES).await;
    // A forwarder that says of both.sec.test. that it has no AAAA record, and nothing more.
    let liar = ScriptedUpstream::start().await;
    liar.on_all(Reply::Forward(at));
    liar.on("both.sec.test.", RecordType::AAAA, nodata("sec.test.", 60));
    liar.on(
        "v4.sec.test.",
        RecordType::A,
        answer(vec![a("v4.sec.test.", 300, "192.0.2.66")]),
    );
    let bench = validating(&tree, liar.addr).await;
    let response = bench.ask("both.sec.test.", RecordType::AAAA).await;
    assert!(is_bogus(&response), "{response}");
    let response = bench.ask("v4.sec.test.", RecordType::AAAA).await;
    assert!(is_bogus(&response), "{response}");
    // Kept as a failure, asked for again after that.
    let asked = liar.asked_about("v4.sec.test.", RecordType::A);
    bench.ask("v4.sec.test.", RecordType::AAAA).await;
    assert_eq!(liar.asked_about("v4.sec.test.", RecordType::A), asked);
}

#[tokio::test]
async fn a_trust_anchor_that_fits_no_key_validates_nothing() {
    let at = own_addr();
    let mut tree = Tree::sign(at.ip(), at.ip(), at.ip());
    let _nsd = tree.serve(at, &ZONES).await;
    tree.anchor = format!(". IN DS 1 13 2 {}", "00".repeat(32));
    let bench = validating(&tree, at).await;
    let response = bench.ask("v4.sec.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(extended_errors(&response), [9]);
}

#[tokio::test]
async fn names_are_found_from_the_root_down() {
    let [root, test, leaf] = [own_addr().ip(), own_addr().ip(), own_addr().ip()];
    let tree = Tree::sign(root, test, leaf);
    let servers = [
        tree.serve((root, 53).into(), &["."]).await,
        tree.serve((test, 53).into(), &["test"]).await,
        tree.serve((leaf, 53).into(), &ZONES[..5]).await,
    ];
    for dnssec in [Dnssec::Off, Dnssec::Validate] {
        let anchor = tree.anchor.parse().unwrap();
        let bench = Bench::with(|config| {
            config.upstream.clear();
            config.recursive = Some(Recursive {
                root_hints: vec![root],
                servers_allowed: vec!["127.0.0.0/8".parse().unwrap()],
            });
            config.dnssec = dnssec;
            config.trust_anchors = vec![anchor];
            config.timeouts = patient();
        })
        .await;
        let validates = dnssec == Dnssec::Validate;
        for owner in [
            "v4.sec.test.",
            "alias.sec.test.",
            "v4.nsec3.test.",
            "v4.plain.test.",
        ] {
            let response = bench.ask(owner, RecordType::AAAA).await;
            let found = addresses(&response);
            assert_eq!(found.len(), 1, "{dnssec:?} {owner}: {response}");
            assert_eq!(found[0].0, "64:ff9b::c000:201", "{owner}");
        }
        let response = bench.ask_with("both.sec.test.", RecordType::AAAA, DO).await;
        assert_eq!(addresses(&response)[0].0, "2001:db8::2", "{response}");
        assert_eq!(response.metadata.authentic_data, validates, "{response}");
        let response = bench.ask("none.sec.test.", RecordType::AAAA).await;
        let rcode = response.metadata.response_code;
        assert_eq!(rcode, ResponseCode::NXDomain, "{dnssec:?}: {response}");
        let response = bench.ask("v4.old.test.", RecordType::AAAA).await;
        assert_eq!(is_bogus(&response), validates, "{response}");
    }
    // Servers in networks that are not the Internet are not asked unless allowed.
    let bench = Bench::with(|config| {
        config.upstream.clear();
        config.recursive = Some(Recursive {
            root_hints: vec![root],
            servers_allowed: Vec::new(),
        });
        config.timeouts = patient();
    })
    .await;
    let response = bench.ask("v4.sec.test.", RecordType::A).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    drop(servers);
}
