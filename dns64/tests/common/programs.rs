//! Other people's programs on loopback: how they are started and ended, and zones from the root
//! down for nsd, signed by BIND's tools.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};

use super::{PATIENCE, extended_errors, own_addr};

/// A directory that goes with its owner.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(what: &str) -> Scratch {
        let name = format!("gate64-{what}-{}-{}", std::process::id(), own_addr().ip());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Makes a certificate of its own for these names (`DNS:…,IP:…`), and its key.
    pub fn certificate(&self, file: &str, names: &str) -> (PathBuf, PathBuf) {
        let certificate = self.0.join(format!("{file}.pem"));
        let key = self.0.join(format!("{file}.key"));
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", "/CN=gate64 test"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-addext", &format!("subjectAltName={names}")])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate));
        (certificate, key)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; `make deps` installs what tests need")
    });
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// A server in the foreground, ended with its owner.
pub struct Peer(Child);

impl Peer {
    pub async fn start(command: &mut Command, at: SocketAddr) -> Peer {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let peer = Peer(child.unwrap_or_else(|error| {
            panic!("{command:?}: {error}; `make deps` installs what tests need")
        }));
        for _ in 0..PATIENCE.as_millis() / 25 {
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

/// Zones from the root down, each signed by its own key unless it says otherwise.
pub struct Tree {
    pub scratch: Scratch,
    /// The root's DS record.
    pub anchor: String,
}

pub const ZONES: [&str; 7] = [
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
    pub fn sign(root: IpAddr, test: IpAddr, leaf: IpAddr) -> Tree {
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

    pub async fn serve(&self, at: SocketAddr, zones: &[&str]) -> Peer {
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
    pub fn delv(&self, at: SocketAddr, owner: &str, qtype: &str) -> String {
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

pub fn file(zone: &str) -> String {
    match zone {
        "." => "root".into(),
        zone => zone.into(),
    }
}

pub fn zone_text(zone: &str, root: IpAddr, test: IpAddr, leaf: IpAddr) -> String {
    let head = "$TTL 300\n@ IN SOA ns.test. nobody.test. 1 7200 3600 604800 60\n";
    let delegation = |child: &str| format!("{child} IN NS ns.leaf.test.\n");
    // far: an alias in another zone; twice: one of another alias; moved: a tree of aliases; longer:
    // one whose names may become too long; closer: what a wildcard does not stand for.
    let long = ["l"; 3].map(|letter| letter.repeat(63)).join(".");
    let hosts = "v4 IN A 192.0.2.1\nboth IN A 192.0.2.2\nboth IN AAAA 2001:db8::2\n\
                 alias IN CNAME v4\nfar IN CNAME v4.nsec3.test.\ntwice IN CNAME far\n\
                 unsigned IN CNAME v4.plain.test.\nnowhere IN CNAME none\n\
                 moved IN DNAME Nsec3.test.\n*.wild IN A 192.0.2.9\n\
                 *.also IN CNAME v4\ncloser.also IN A 192.0.2.8\n*.tree IN DNAME nsec3.test.\n";
    let hosts = format!("{hosts}longer IN DNAME {long}.test.\n");
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

pub fn sign(scratch: &Scratch, zone: &str) {
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

/// SERVFAIL, and an extended error that says that validation failed.
pub fn is_bogus(message: &Message) -> bool {
    message.metadata.response_code == ResponseCode::ServFail
        && extended_errors(message)
            .iter()
            .any(|code| (5..=12).contains(code))
}
