//! Whom `[dns64]` answers, how and over what, beside the addresses: `[[dns64.client]]`,
//! `[dns64.tls]`, rates and threads.

use std::net::SocketAddr;
use std::path::PathBuf;

use gate64_dns64::{
    ClientPolicy, Config as Dns64Config, Encrypted, OnFailure, ResponseRate, Strangers, Synthesize,
};

use super::problem::Report;
use super::reader::{Table, Wrong, bounds_text, integer};
use super::services::{plain, read_networks};
use super::values;

/// Threads that may be asked for on one address.
const UDP_THREADS_MAX: i64 = 256;

/// Reads the keys of this file into `config`.
pub fn read(report: &mut Report, table: &mut Table<'_, '_>, config: &mut Dns64Config) {
    let strangers = [("refuse", Strangers::Refuse), ("answer", Strangers::Answer)];
    config.strangers = table
        .word(report, "strangers", config.strangers, &strangers)
        .value;
    let on_failure = [
        ("synthesize", OnFailure::Synthesize),
        ("pass", OnFailure::Pass),
    ];
    config.on_failure = table
        .word(report, "on_failure", config.on_failure, &on_failure)
        .value;
    config.udp_threads = read_udp_threads(report, table);
    config.response_rate = read_response_rate(report, table);
    let clients = table.tables(report, "client").into_iter();
    config.client = clients.map(|client| read_client(report, client)).collect();
    let tls = table.table(report, "tls");
    config.encrypted = read_tls(report, tls);
}

fn read_udp_threads(report: &mut Report, table: &mut Table<'_, '_>) -> usize {
    let bounds = 1..=UDP_THREADS_MAX;
    let accepted = format!("\"auto\", or {}", bounds_text(&bounds));
    let read = table.value(report, "udp_threads", 0, &accepted, |value| {
        match value.as_str() {
            Some("auto") => Ok(0),
            Some(_) => Err(Wrong::Value),
            None => integer(value, &bounds),
        }
    });
    read.value
}

fn read_response_rate(report: &mut Report, table: &mut Table<'_, '_>) -> Option<ResponseRate> {
    let bounds = 1..=i64::from(u32::MAX);
    let accepted = format!("\"off\", or {}", bounds_text(&bounds));
    let per_second = table.value(
        report,
        "response_rate_max",
        None,
        &accepted,
        |value| match value.as_str() {
            Some("off") => Ok(None),
            Some(_) => Err(Wrong::Value),
            None => integer(value, &bounds).map(Some),
        },
    );
    let slip = table.integer(report, "response_slip", 2, 0..=1000);
    per_second.value.map(|per_second| ResponseRate {
        per_second,
        slip: slip.value,
    })
}

fn read_client(report: &mut Report, mut table: Table<'_, '_>) -> ClientPolicy {
    let networks = read_networks(report, &mut table, "network", None, Vec::new());
    if !table.holds("network") {
        let help = "write network = [\"2001:db8:1::/48\"] with the prefixes of these clients";
        table.missing(report, "network", help);
    }
    let modes = [
        ("missing", Some(Synthesize::Missing)),
        ("always", Some(Synthesize::Always)),
        ("never", None),
    ];
    let default = Some(Synthesize::Missing);
    let synthesize = table.word(report, "synthesize", default, &modes).value;
    let accepted = "a prefix of nat64.pref64, such as \"64:ff9b::/96\"";
    let pref64 = table.parsed_list(report, "pref64", accepted, |text| {
        text.parse()
            .map_err(|_| "not a prefix of RFC 6052".to_owned())
    });
    let client = ClientPolicy {
        networks,
        synthesize,
        pref64: plain(pref64),
    };
    table.finish(report);
    client
}

fn read_tls(report: &mut Report, mut table: Table<'_, '_>) -> Option<Encrypted> {
    if !table.is_present() {
        return None;
    }
    for (name, help) in [
        ("certificate", "write certificate = \"/etc/gate64/dns.pem\""),
        ("key", "write key = \"/etc/gate64/dns.key\""),
    ] {
        if !table.holds(name) {
            table.missing(report, name, help);
        }
    }
    let default = vec![SocketAddr::from(([0; 16], 853))];
    let encrypted = Encrypted {
        tls_listen: read_addrs(report, &mut table, "listen", default),
        https_listen: read_addrs(report, &mut table, "https_listen", Vec::new()),
        https_path: read_path(report, &mut table),
        certificate: read_file(report, &mut table, "certificate"),
        key: read_file(report, &mut table, "key"),
        name: table
            .parsed(report, "name", String::new(), "a host name", |text| {
                Ok(text.to_owned())
            })
            .value,
    };
    table.finish(report);
    Some(encrypted)
}

fn read_addrs(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    name: &'static str,
    default: Vec<SocketAddr>,
) -> Vec<SocketAddr> {
    let accepted = "an address and port, such as \"[::]:853\"";
    match table.parsed_list(report, name, accepted, values::socket_addr) {
        Some(list) => plain(Some(list)),
        None => default,
    }
}

fn read_path(report: &mut Report, table: &mut Table<'_, '_>) -> String {
    let accepted = "a path that begins with a slash, such as \"/dns-query\"";
    let default = "/dns-query".to_owned();
    table
        .parsed(report, "https_path", default, accepted, |text| {
            match text.starts_with('/') {
                true => Ok(text.to_owned()),
                false => Err("not a path".to_owned()),
            }
        })
        .value
}

fn read_file(report: &mut Report, table: &mut Table<'_, '_>, name: &'static str) -> PathBuf {
    let accepted = "an absolute path of a PEM file";
    table
        .parsed(
            report,
            name,
            PathBuf::new(),
            accepted,
            values::absolute_path,
        )
        .value
}
