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
