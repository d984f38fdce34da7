//! The program as a person runs it: exit codes of the contract, and the one line that says why.
#![allow(missing_docs)]

use std::fs;
use std::net::{Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use etherparse::PacketBuilder;

/// A folder of the test's own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("gate64-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn gate64(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gate64"))
        .args(args)
        .output()
        .unwrap()
}

#[track_caller]
fn fails(args: &[&str], code: i32, says: &[&str]) {
    let output = gate64(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    for part in says {
        assert!(
            text.contains(part),
            "{args:?} does not say {part:?}: {text}"
        );
    }
}

const NAT64: &str = "[[interface]]\nname = \"g64nowhere0\"\n[nat64]\npref64 = [\"64:ff9b::/96\"]\n[[pool4]]\nprefix = \"192.0.2.0/28\"\n";

#[test]
fn usage_is_2() {
    fails(&["frobnicate"], 2, &["unrecognized subcommand"]);
    fails(&["show"], 2, &["Usage"]);
    // What a listing cannot tell apart is no flag of it.
    for (what, flag, value) in [
        ("bib", "--remote", "192.0.2.1"),
        ("pool", "--v6", "2001:db8::/32"),
        ("pool", "--port", "1024"),
        ("subscribers", "--protocol", "tcp"),
        ("subscribers", "--remote", "192.0.2.1"),
    ] {
        fails(
            &["show", what, flag, value],
            2,
            &["unexpected argument", flag],
        );
    }
}

#[test]
fn a_wrong_configuration_is_3_with_file_line_key_found_and_accepted() {
    let folder = Folder::new("wrong");
    let config = folder.file(
        "wrong.toml",
        "[nat64]\npref64 = [\"64:ff9b::/95\"]\nfoo = 1\n",
    );
    fails(
        &["run", "--config", &config],
        3,
        &["wrong.toml", "2", "nat64.pref64", "/95", "/96", "foo"],
    );
    let missing = folder.path("missing.toml");
    fails(
        &["run", "--config", &missing],
        3,
        &["missing.toml", "cannot be read"],
    );
}

#[test]
fn check_is_1_for_what_cannot_be_used_and_touches_nothing() {
    let folder = Folder::new("check");
    let config = folder.file("check.toml", NAT64);
    fails(&["check", "--config", &config], 1, &["g64nowhere0"]);
}

#[test]
fn a_missing_interface_is_5() {
    let folder = Folder::new("interface");
    let config = folder.file("interface.toml", NAT64);
    fails(&["run", "--config", &config], 5, &["g64nowhere0"]);
}

#[test]
fn a_port_in_use_is_1_and_says_which() {
    let folder = Folder::new("port");
    let taken = TcpListener::bind("[::1]:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let socket = folder.path("gate64.sock");
    let config = folder.file(
        "port.toml",
        &format!(
            "[nat64]\npref64 = [\"64:ff9b::/96\"]\n[dns64]\nlisten = [\"[::1]:0\"]\nupstream = [\"udp://192.0.2.53:53\"]\n\
             [metrics]\nlisten = \"[::1]:{port}\"\n[api]\nsocket = \"{socket}\"\n"
        ),
    );
    fails(
        &["run", "--config", &config],
        1,
        &["metrics", &port.to_string(), "in use"],
    );
}

#[test]
fn no_gateway_is_1_and_says_where_it_looked() {
    let folder = Folder::new("nobody");
    let socket = folder.path("gate64.sock");
    fails(
        &["status", "--socket", &socket],
        1,
        &[&socket, "gate64 run"],
    );
}

#[test]
fn a_lookup_that_cannot_be_answered_says_why() {
    let folder = Folder::new("lookup");
    fails(&["lookup", "203.0.113.5"], 2, &["IPv6 address or prefix"]);
    fails(&["lookup", "203.0.113.5:1/sctp"], 2, &["none of udp"]);
    let mapped = "203.0.113.5:1";
    let at = "2026-11-02T10:00:00Z";
    let both = ["lookup", mapped, "--at", at, "--from", at];
    fails(&both, 2, &["cannot be used with"]);
    fails(&["lookup", mapped, "--at", "noon"], 2, &["noon", "2026-"]);
    let nowhere = folder.path("nowhere");
    fails(
        &["lookup", mapped, "--journal", &nowhere],
        1,
        &[&nowhere, "[log.journal]"],
    );
    fails(
        &[
            "lookup",
            mapped,
            "--journal",
            &nowhere,
            "--at",
            "2999-01-01T00:00:00Z",
        ],
        1,
        &["not yet"],
    );
    let file = folder.file("file", "");
    fails(
        &["lookup", mapped, "--journal", &file],
        1,
        &[&file, "give the directory"],
    );
    let config = folder.file("no_journal.toml", NAT64);
    fails(
        &["lookup", mapped, "--config", &config],
        3,
        &["no [log.journal]"],
    );
    fs::create_dir_all(folder.path("empty")).unwrap();
    let empty = folder.path("empty");
    let output = gate64(&["lookup", "2001:db8::/64", "--journal", &empty, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["covered"], false);
    assert!(
        json["notes"][0].as_str().unwrap().contains("is empty"),
        "{json}"
    );
}

fn capture(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = pcap_file::pcap::PcapWriter::new(fs::File::create(path).unwrap()).unwrap();
    for (second, frame) in (1000u64..).zip(frames) {
        let time = std::time::Duration::from_secs(second);
        let len = u32::try_from(frame.len()).unwrap();
        writer
            .write_packet(&pcap_file::pcap::PcapPacket::new(time, len, frame))
            .unwrap();
    }
}

#[test]
fn replay_translates_and_repeats() {
    let folder = Folder::new("replay");
    let config = folder.file(
        "replay.toml",
        &NAT64.replace("[[pool4]]", "wkp_strict = false\n[[pool4]]"),
    );
    let host = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
    let server: Ipv6Addr = "64:ff9b::198.51.100.7".parse().unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(host.octets(), server.octets(), 64)
        .udp(5000, 53)
        .write(&mut frame, b"question")
        .unwrap();
    capture(&folder.0.join("v6.pcap"), &[frame.clone(), frame]);
    capture(&folder.0.join("v4.pcap"), &[]);
    let (v6, v4) = (folder.path("v6.pcap"), folder.path("v4.pcap"));
    let mut outputs = Vec::new();
    for run in ["a", "b"] {
        let (out_v6, out_v4) = (
            folder.path(&format!("out6-{run}")),
            folder.path(&format!("out4-{run}")),
        );
        let output = gate64(&[
            "replay", "--config", &config, "--v6", &v6, "--v4", &v4, "--out-v6", &out_v6,
            "--out-v4", &out_v4,
        ]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("v6_to_v4: 2 translated"), "{text}");
        outputs.push(fs::read(&out_v4).unwrap());
    }
    assert_eq!(outputs[0], outputs[1], "a replay repeats");
    let mut reader = pcap_file::pcap::PcapReader::new(outputs[0].as_slice()).unwrap();
    let mut count = 0;
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        let sliced = etherparse::SlicedPacket::from_ethernet(&packet.data).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else {
            panic!("not IPv4")
        };
        let expected = std::net::Ipv4Addr::new(198, 51, 100, 7);
        assert_eq!(ip.header().destination_addr(), expected);
        count += 1;
    }
    assert_eq!(count, 2);
}

/// A DNS64 server alone, with these lines in place of or beside the usual ones.
fn dns64(folder: &Folder, name: &str, lines: &str) -> String {
    let upstream = match lines.contains("upstream =") {
        true => "",
        false => "upstream = [\"udp://192.0.2.53:53\"]\n",
    };
    let listen = match lines.contains("listen =") && !lines.starts_with("[dns64.tls]") {
        true => "",
        false => "listen = [\"127.0.0.1:0\"]\n",
    };
    let text = format!(
        "[nat64]\npref64 = [\"64:ff9b::/96\"]\n[dns64]\nallow_from = [\"127.0.0.0/8\"]\n{listen}{upstream}{lines}\n"
    );
    folder.file(name, &text)
}

#[test]
fn check_names_what_dns64_cannot_work_with() {
    let folder = Folder::new("dns64");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let cases: [(&str, &str, &[&str]); 6] = [
        (
            "no upstream",
            "upstream = []",
            &["dns64.upstream", "holds nothing", "udp://"],
        ),
        (
            "itself",
            "listen = [\"127.0.0.1:5391\"]\nupstream = [\"udp://127.0.0.1:5391\"]",
            &[
                "dns64.upstream: udp://127.0.0.1:5391 is this server itself",
                "circle",
            ],
        ),
        (
            "itself, by a wildcard",
            "listen = [\"[::]:5392\"]\nupstream = [\"tcp://127.0.0.1:5392\"]",
            &["tcp://127.0.0.1:5392 is this server itself", "[::]:5392"],
        ),
        (
            "a prefix that is not served",
            "[[dns64.client]]\nnetwork = [\"2001:db8::/32\"]\npref64 = [\"2001:db8:64::/96\"]",
            &["2001:db8:64::/96", "NAT64 does not serve", "64:ff9b::/96"],
        ),
        (
            "certificates that are not there",
            "[dns64.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificate = \"/nowhere/dns.pem\"\nkey = \"/nowhere/dns.key\"",
            &["/nowhere/dns.pem", "PEM"],
        ),
        (
            "recursion beside upstreams",
            "upstream = [\"recursive\", \"udp://192.0.2.53:53\"]",
            &["dns64.upstream", "recursive", "alone"],
        ),
    ];
    for (what, lines, says) in cases {
        let config = dns64(&folder, "case.toml", lines);
        println!("{what}");
        fails(&["check", "--config", &config], 1, says);
    }
    // Somebody may be there for now: `check` warns, `run` refuses.
    let config = dns64(
        &folder,
        "taken.toml",
        &format!("listen = [\"127.0.0.1:{port}\"]"),
    );
    let says = ["in use", "systemd-resolved", "DNSStubListener=no"];
    warns(&config, &says);
    fails(&["run", "--config", &config], 1, &says);
}

#[track_caller]
fn warns(config: &str, says: &[&str]) {
    let output = gate64(&["check", "--config", config]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in says {
        assert!(text.contains(part), "does not say {part:?}: {text}");
    }
}

/// Makes NAME.pem and NAME.key for dns.example, valid from and until then.
fn certificate(folder: &Folder, name: &str, from: &str, until: &str) {
    folder.file("ca.conf", &format!("[ca]\ndefault_ca=c\n[c]\ndatabase={0}/index\nserial={0}/serial\nnew_certs_dir={0}\ndefault_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n[x]\nsubjectAltName=DNS:dns.example\n", folder.path("")));
    folder.file("index", "");
    folder.file("serial", "01");
    let file = |suffix: &str| folder.path(&format!("{name}.{suffix}"));
    let run = |args: &str| {
        let made = Command::new("openssl")
            .args(args.split_whitespace())
            .output();
        let made = made.expect("openssl runs; `make deps` installs it");
        assert!(made.status.success(), "{made:?}");
    };
    run(&format!(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=dns.example -keyout {} -out {}",
        file("key"),
        file("csr")
    ));
    run(&format!(
        "ca -batch -notext -selfsign -config {} -extensions x -keyfile {} -in {} -out {} -startdate {from} -enddate {until}",
        folder.path("ca.conf"),
        file("key"),
        file("csr"),
        file("pem")
    ));
}

#[test]
fn check_looks_at_the_certificate_its_key_its_name_and_its_time() {
    let folder = Folder::new("certificate");
    let (past, present, future) = ("20200101000000Z", "20200201000000Z", "20980101000000Z");
    certificate(&folder, "good", past, future);
    certificate(&folder, "other", past, future);
    certificate(&folder, "old", past, present);
    certificate(&folder, "young", future, "20990101000000Z");
    let tls = |certificate: &str, key: &str, rest: &str| {
        let pem = folder.path(&format!("{certificate}.pem"));
        let key = folder.path(&format!("{key}.key"));
        let lines = format!(
            "[dns64.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificate = \"{pem}\"\nkey = \"{key}\"\n{rest}"
        );
        dns64(&folder, "tls.toml", &lines)
    };
    let check = |config: &str| gate64(&["check", "--config", config]);
    let good = check(&tls("good", "good", "name = \"dns.example\""));
    assert!(good.status.success() && good.stderr.is_empty(), "{good:?}");
    let mismatch = [
        "other.key",
        "does not belong to the certificate",
        "good.pem",
    ];
    fails(
        &["check", "--config", &tls("good", "other", "")],
        1,
        &mismatch,
    );
    let name = ["good.pem", "not for \"else.example\""];
    let config = tls("good", "good", "name = \"else.example\"");
    fails(&["check", "--config", &config], 1, &name);
    warns(
        &tls("old", "old", ""),
        &["old.pem", "expired at 2020-02-01T00:00:00Z", "reload"],
    );
    warns(
        &tls("young", "young", ""),
        &["young.pem", "not valid before 2098-01-01"],
    );
}
