//! `[dns64]`, `[metrics]` and `[api]`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use gate64_dataplane::alarm::Thresholds;
use gate64_dns64::{Config as Dns64Config, Network, Strangers, Synthesize};

use super::nat64::refuse_empty;
use super::problem::{Problem, Report, Severity};
use super::reader::{Located, Table};
use super::serving;
use super::upstreams;
use super::values::{self, Prefix};

/// Reads `[dns64]`; `None` if the table is not there. The prefixes are `[nat64]`'s and set later.
pub fn read_dns64(report: &mut Report, mut table: Table<'_, '_>) -> Option<Dns64Config> {
    if !table.is_present() {
        return None;
    }
    let modes = [
        ("missing", Synthesize::Missing),
        ("always", Synthesize::Always),
    ];
    let d = Dns64Config::default();
    let listen = read_listen(report, &mut table, d.listen);
    let mut config = Dns64Config {
        synthesize: table.word(report, "synthesize", d.synthesize, &modes).value,
        synthesize_for: read_networks(report, &mut table, "synthesize_for", None, d.synthesize_for),
        allow_from: read_networks(report, &mut table, "allow_from", None, d.allow_from),
        exclude_aaaa: read_networks(
            report,
            &mut table,
            "exclude_aaaa",
            Some(true),
            d.exclude_aaaa,
        ),
        exclude_a: read_networks(report, &mut table, "exclude_a", Some(false), d.exclude_a),
        ignore_aaaa_names: plain(table.parsed_list(
            report,
            "ignore_aaaa_names",
            "a domain name",
            domain_name,
        )),
        listen,
        ..upstreams::read(report, &mut table)
    };
    serving::read(report, &mut table, &mut config);
    warn_of_everyone(report, &table, &config);
    table.finish(report);
    Some(config)
}

pub fn plain<T>(list: Option<Located<Vec<Located<T>>>>) -> Vec<T> {
    let items = list.map_or(Vec::new(), |list| list.value);
    items.into_iter().map(|item| item.value).collect()
}

fn read_listen(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    default: Vec<SocketAddr>,
) -> Vec<SocketAddr> {
    let accepted = "an address and port, such as \"[::]:53\" or \"192.0.2.1:53\"";
    let Some(list) = table.parsed_list(report, "listen", accepted, values::socket_addr) else {
        return default;
    };
    refuse_empty(report, table, &list, accepted);
    for (n, later) in list.value.iter().enumerate() {
        if list.value[..n].iter().any(|e| e.value == later.value) {
            report.push(Problem {
                severity: Severity::Error,
                key: later.key.clone(),
                message: format!("{} is given twice", later.value),
                span: later.span.clone(),
                help: Some("accepted: each address once".to_owned()),
            });
        }
    }
    plain(Some(list))
}

/// `is_v6`: whether only that family is accepted.
pub(super) fn read_networks(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    name: &'static str,
    is_v6: Option<bool>,
    default: Vec<Network>,
) -> Vec<Network> {
    let accepted = match is_v6 {
        Some(true) => "an IPv6 prefix, such as \"2001:db8::/32\"",
        Some(false) => "an IPv4 prefix, such as \"192.0.2.0/24\"",
        None => "an IPv6 or IPv4 prefix, such as \"2001:db8::/32\"",
    };
    let list = table.parsed_list(report, name, accepted, |text| {
        let prefix: Prefix = text.parse()?;
        match is_v6 {
            Some(is_v6) if is_v6 != prefix.ip.is_ipv6() => Err("of the other family".to_owned()),
            _ => Ok(Network {
                addr: prefix.ip,
                length: prefix.length,
            }),
        }
    });
    match list {
        Some(list) => plain(Some(list)),
        None => default,
    }
}

fn warn_of_everyone(report: &mut Report, table: &Table<'_, '_>, config: &Dns64Config) {
    let is_reachable = config.listen.iter().any(|at| is_public(at.ip()));
    let is_everyone = config.allow_from.iter().any(|network| network.length == 0);
    if !is_reachable || !is_everyone {
        return;
    }
    let message = match config.strangers {
        Strangers::Answer => "anyone may ask: this is an open resolver (RFC 5358)",
        Strangers::Refuse => {
            "is everyone: so that this is no open resolver (RFC 5358), who can be reached by the default route alone gets REFUSED (strangers = \"refuse\")"
        }
    };
    report.push(Problem {
        severity: Severity::Warning,
        key: table.key("allow_from"),
        message: message.to_owned(),
        span: table.span_of("allow_from").or(table.span()),
        help: Some(
            "write allow_from = [\"2001:db8::/32\"] with the prefixes of your clients".to_owned(),
        ),
    });
}

/// Whether others than this host and its own network may reach the address.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_private() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

/// A name of at most 253 octets with labels of at most 63 (RFC 1035 section 2.3.4).
pub fn domain_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    match name.len() <= 253 && name.split('.').all(label) {
        true => Ok(name.to_ascii_lowercase()),
        false => Err("not a domain name".to_owned()),
    }
}

/// Reads `[metrics]`.
pub fn read_metrics(report: &mut Report, mut table: Table<'_, '_>) -> Located<SocketAddr> {
    let default = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 9464);
    let accepted = "an address and port, such as \"[::1]:9464\"";
    let listen = table.parsed(report, "listen", default, accepted, values::socket_addr);
    table.finish(report);
    listen
}

/// Reads `[alarm]`.
pub fn read_alarm(report: &mut Report, mut table: Table<'_, '_>) -> Thresholds {
    let default = Thresholds::default();
    let raise = table.integer(report, "raise_percent", default.raise_percent, 1..=100);
    let clear = table.integer(report, "clear_percent", default.clear_percent, 0..=99);
    if clear.value >= raise.value {
        report.push(Problem {
            severity: Severity::Error,
            key: clear.key.clone(),
            message: format!(
                "{} is not below the {} that raise",
                clear.value, raise.value
            ),
            span: clear.span.clone().or_else(|| raise.span.clone()),
            help: Some(format!(
                "accepted: less than {} (alarm.raise_percent)",
                raise.value
            )),
        });
    }
    table.finish(report);
    Thresholds {
        raise_percent: raise.value,
        clear_percent: clear.value,
    }
}

/// Reads `[api]`.
pub fn read_api(report: &mut Report, mut table: Table<'_, '_>) -> Located<PathBuf> {
    let default = PathBuf::from(crate::cli::DEFAULT_SOCKET);
    let accepted = "an absolute path of at most 107 characters";
    let socket = table.parsed(report, "socket", default, accepted, |text| {
        // sun_path of the kernel's sockaddr_un holds 108 octets with the closing zero.
        match text.len() <= 107 {
            true => values::absolute_path(text),
            false => Err("the path is too long for a unix socket".to_owned()),
        }
    });
    table.finish(report);
    socket
}
