//! Every key's default against the contract, and the exact text of each problem.
//!
//! `tests/config/NAME.toml` has its expected text in `NAME.txt`; `GATE64_BLESS=1 cargo test`
//! writes the texts anew, for a person to read before they are committed.

use std::time::Duration;

use gate64_dataplane::config::{AutoOnOff, L4Checksum, Pool4Prefix, RefusalAnswer, XdpModeChoice};

use super::*;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config");

fn shown(name: &str, text: &str) -> String {
    match parse(Path::new(name), text) {
        Ok((_, report)) => format!("{report}accepted\n"),
        Err(report) => format!("{report}refused\n"),
    }
}

#[test]
fn problems_read_as_written_down() {
    let bless = std::env::var_os("GATE64_BLESS").is_some();
    let mut case_count = 0;
    let mut different = Vec::new();
    for entry in std::fs::read_dir(CASES).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        case_count += 1;
        let name = path.file_name().unwrap().to_string_lossy();
        let found = shown(&name, &std::fs::read_to_string(&path).unwrap());
        let expected_path = path.with_extension("txt");
        if bless {
            std::fs::write(&expected_path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if found != expected {
            different.push(format!("{name} gives\n{found}instead of\n{expected}"));
        }
    }
    assert!(case_count >= 15, "cases are missing from {CASES}");
    assert!(different.is_empty(), "{}", different.join("\n"));
}

const MINIMAL: &str = r#"
[[interface]]
name = "ens1f0"
[nat64]
pref64 = ["64:ff9b::/96"]
[[pool4]]
prefix = "192.0.2.0/24"
"#;

/// The listing of the contract, all keys written out but for what this version refuses.
const FULL: &str = r#"
[dataplane]
workers = "auto"
session_count_max = 1_000_000
hugepages = "auto"
idle_after = "1ms"
pool4_address_count_max = "auto"
[[interface]]
name = "ens1f0"
xdp_mode = "auto"
zero_copy = "auto"
busy_poll = "auto"
vlan = "none"
l4_checksum = "incremental"
[nat64]
pref64 = ["64:ff9b::/96"]
wkp_strict = true
filtering = "endpoint-independent"
hairpin = true
ipv6_mtu_lowest = 1280
mtu_plateaus = [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68]
mss_clamp = "auto"
traffic_class = "copy"
udp_checksum_zero = "compute"
unknown_protocol = "answer"
icmp_error_rate_max = 1000
source_v6 = "auto"
source_v4 = "auto"
pool4_removal = "refuse"
pool4_drain_deadline = "24h"
[nat64.lifetimes]
udp = "5m"
tcp_established = "2h4m"
tcp_transitory = "4m"
tcp_opening = "4m"
tcp_closing = "4m"
tcp_incoming_syn = "6s"
icmp = "1m"
fragment = "2s"
[[pool4]]
prefix = "192.0.2.0/24"
ports = "1024-65535"
exclude = []
exclude_ports = []
drain = []
pool = "default"
[subscriber]
prefix_length = 64
port_block_size = 512
port_blocks_max = 4
session_count_max = 4096
session_rate_max = "off"
port_reuse_delay = "2m"
block_idle = "2m"
block_active = "off"
udp_ports_max = "off"
tcp_ports_max = "off"
icmp_ids_max = "off"
essential_ports = []
essential_reserve = 0
refusal = "admin-prohibited"
pool = "default"
bypass = []
deny = []
[alarm]
raise_percent = 80
clear_percent = 70
[dns64]
listen = ["[::]:53"]
upstream = ["udp://198.51.100.53:53"]
synthesize = "missing"
synthesize_for = ["::/0", "0.0.0.0/0"]
allow_from = ["::/0", "0.0.0.0/0"]
exclude_aaaa = ["::ffff:0:0/96"]
exclude_a = []
ignore_aaaa_names = []
dnssec = "off"
trust_anchors = []
[metrics]
listen = "[::1]:9464"
[api]
socket = "/run/gate64/gate64.sock"
[log]
level = "info"
"#;

fn accepted(text: &str) -> Config {
    match parse(Path::new("gate64.toml"), text) {
        Ok((config, _)) => config,
        Err(report) => panic!("{report}"),
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let full = accepted(FULL);
    let minimal = accepted(&format!("{MINIMAL}[dns64]\n"));
    assert_eq!(full.nat64, minimal.nat64);
    assert_eq!(full.nat64, Nat64Config::default());
    assert_eq!(full.interfaces[0].value, minimal.interfaces[0].value);
    assert_eq!(full.pools[0].value, minimal.pools[0].value);
    assert_eq!(full.metrics.value, minimal.metrics.value);
    assert_eq!(full.api_socket.value, minimal.api_socket.value);
    assert_eq!(full.log_level, minimal.log_level);
    assert_eq!(full.alarm, minimal.alarm);
    assert_eq!(full.alarm, Thresholds::default());
    assert_eq!(full.pool4_removal, minimal.pool4_removal);
    assert_eq!(full.pool4_drain_deadline, minimal.pool4_drain_deadline);
    assert_eq!(
        full.dataplane.workers.value,
        minimal.dataplane.workers.value
    );
    assert_eq!(full.dataplane.hugepages, minimal.dataplane.hugepages);
    assert_eq!(full.dataplane.idle_after, minimal.dataplane.idle_after);
    assert_eq!(minimal.dataplane.session_count_max, 1_000_000);
    assert!(!minimal.dataplane.session_count_is_explicit);
    assert!(full.dataplane.session_count_is_explicit);
    // The server's configuration has no equality; its debug text shows every field.
    assert_eq!(format!("{:?}", full.dns64), format!("{:?}", minimal.dns64));
    assert_eq!(full.dns64.unwrap().pref64, full.pref64);
}

#[test]
fn values_reach_the_data_plane() {
    let config = accepted(
        r#"
        [dataplane]
        workers = [2, 3]
        [[interface]]
        name = "eth0"
        xdp_mode = "generic"
        zero_copy = "off"
        vlan = 42
        l4_checksum = "recompute"
        [nat64]
        pref64 = ["2001:db8:64::/96"]
        lifetimes = { udp = "2m30s" }
        [[pool4]]
        prefix = "192.0.2.0/30"
        ports = "2048-4095"
        exclude = ["192.0.2.3"]
        [[static]]
        protocol = "icmp"
        v6 = "[2001:db8::1]:7"
        v4 = "192.0.2.1:9"
        [subscriber]
        session_rate_max = 100
        "#,
    );
    assert_eq!(config.dataplane.workers.value, Workers::Cpus(vec![2, 3]));
    let interface = &config.interfaces[0].value;
    assert_eq!(interface.xdp_mode, XdpModeChoice::Generic);
    assert_eq!(interface.zero_copy, AutoOnOff::Off);
    assert_eq!(interface.vlan, Some(42));
    assert_eq!(interface.l4_checksum, L4Checksum::Recompute);
    assert_eq!(config.nat64.lifetimes.udp, Duration::from_secs(150));
    assert_eq!(config.nat64.subscriber.session_rate_max, Some(100));
    assert_eq!(config.nat64.static_bib[0].v4.to_string(), "192.0.2.1:9");
    let pool = Pool4Source::Prefix(Pool4Prefix {
        address: "192.0.2.0".parse().unwrap(),
        length: 30,
        ports: 2048..=4095,
        exclude: vec!["192.0.2.3".parse().unwrap()],
        shared_with_host: false,
        ..Pool4Prefix::default()
    });
    assert_eq!(config.pools[0].value, pool);
}

#[test]
fn subscribers_reach_the_data_plane() {
    let config = accepted(&format!(
        "{MINIMAL}{}",
        r#"
        exclude_ports = ["5060", "8080-8089"]
        [[pool4]]
        prefix = "203.0.113.0/26"
        pool = "fixed"
        drain = []
        [subscriber]
        tcp_ports_max = 1500
        essential_ports = [53]
        essential_reserve = 8
        deny = ["192.0.2.0/24"]
        [[subscriber.class]]
        name = "business"
        prefixes = ["2001:db8:b000::/36"]
        tcp_ports_max = "off"
        refusal = "none"
        deny = []
        bypass = ["10.0.0.0/8"]
        [[subscriber.deterministic]]
        prefixes = ["2001:db8::/52"]
        pool = "fixed"
        overflow = true
        "#
    ));
    let nat64 = &config.nat64;
    assert_eq!(nat64.pool_names, ["default", "fixed"]);
    assert_eq!(nat64.subscriber_pool, 0);
    assert_eq!(nat64.subscriber.ports_max, [u32::MAX, 1500, u32::MAX]);
    assert_eq!(nat64.essential_ports, [53]);
    assert_eq!(nat64.deny.len(), 1);
    let class = &nat64.classes[0];
    assert_eq!(class.limits.ports_max, [u32::MAX; 3]);
    assert_eq!(class.limits.essential_reserve, 8, "as [subscriber] has it");
    assert_eq!(class.limits.refusal, RefusalAnswer::None);
    assert_eq!((class.bypass.len(), class.deny.len()), (1, 0));
    assert_eq!(nat64.deterministic[0].pool, 1);
    assert!(nat64.deterministic[0].overflow);
    let Pool4Source::Prefix(pool) = &config.pools[0].value else {
        panic!("a prefix");
    };
    assert_eq!(pool.exclude_ports, [5060..=5060, 8080..=8089]);
}

#[test]
fn roles_follow_the_tables() {
    assert_eq!(accepted(MINIMAL).roles(), "NAT64 alone");
    let dns64_alone = "[nat64]\npref64 = [\"64:ff9b::/96\"]\n[dns64]\n";
    assert_eq!(accepted(dns64_alone).roles(), "DNS64 server alone");
    assert_eq!(accepted(FULL).roles(), "NAT64 and DNS64");
}

/// RFC 6888 REQ-12: no destination is logged unless the operator asks for it.
#[test]
fn a_sink_carries_blocks_and_no_sessions_by_default() {
    let sink = "[[log.sink]]\ntype = \"ipfix\"\ntarget = \"udp://192.0.2.9:4739\"\n";
    let (config, _) = parse(Path::new("sink.toml"), &format!("{MINIMAL}{sink}")).unwrap();
    assert_eq!(config.log.sinks[0].events, [gate64_log::EventKind::Block]);
    let (config, _) = parse(Path::new("none.toml"), MINIMAL).unwrap();
    assert!(config.log.sinks.is_empty() && config.log.journal.is_none());
}
