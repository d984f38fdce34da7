//! The part of `[dns64]` about the resolvers that are asked, and `[dns64.cache]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use gate64_dns64::{
    AskBoth, Caching, Config as Dns64Config, Dnssec, Limits, Protocol, Recursive, Timeouts,
    TrustAnchor, Upstream, UpstreamOrder,
};

use super::nat64::refuse_empty;
use super::problem::{Problem, Report, Severity};
use super::reader::{self, Located, Table, Wrong};
use super::services::{plain, read_networks};
use super::values;

const DOCUMENTATION_UPSTREAM: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 53)), 53);

/// A cache of less holds nothing that helps; one of more does not fit the machines of today.
const CACHE_OCTETS: std::ops::RangeInclusive<i64> = (1 << 20)..=(1 << 40);
const IN_FLIGHT: std::ops::RangeInclusive<i64> = 1..=65_535;

/// A configuration with these keys read, and the rest as by default.
pub fn read(report: &mut Report, table: &mut Table<'_, '_>) -> Dns64Config {
    let d = Dns64Config::default();
    let (upstream, is_recursive) = read_upstream(report, table);
    let recursive = read_recursive(report, table, is_recursive);
    let orders = [
        ("given", UpstreamOrder::Given),
        ("fastest", UpstreamOrder::Fastest),
    ];
    let ask_both = [
        ("never", AskBoth::Never),
        ("learned", AskBoth::Learned),
        ("always", AskBoth::Always),
    ];
    let accepted = "an absolute path of a file in PEM form";
    let upstream_ca = table.optional(report, "upstream_ca", accepted, |v| {
        reader::parsed(v, values::absolute_path)
    });
    let config = Dns64Config {
        upstream,
        recursive,
        upstream_order: table
            .word(report, "upstream_order", d.upstream_order, &orders)
            .value,
        upstream_ca: upstream_ca.map(|path| path.value),
        ask_both: table.word(report, "ask_both", d.ask_both, &ask_both).value,
        timeouts: read_timeouts(report, table, d.timeouts),
        limits: Limits {
            upstream_in_flight_max: table
                .value(
                    report,
                    "upstream_in_flight_max",
                    d.limits.upstream_in_flight_max,
                    &reader::bounds_text(&IN_FLIGHT),
                    |v| reader::integer(v, &IN_FLIGHT),
                )
                .value,
            ..d.limits
        },
        ..d
    };
    let (dnssec, trust_anchors) = read_dnssec(report, table);
    let config = Dns64Config {
        dnssec,
        trust_anchors,
        ..config
    };
    let cache = table.table(report, "cache");
    read_cache(report, cache, config)
}

/// The upstreams, and whether it is the root servers instead.
fn read_upstream(report: &mut Report, table: &mut Table<'_, '_>) -> (Vec<Upstream>, bool) {
    let accepted = "udp://, tcp://, tls:// or https:// with an address, such as \"udp://198.51.100.53:53\", or \"recursive\" alone";
    // `None` is the word `recursive`.
    let list = table.parsed_list(report, "upstream", accepted, |text| match text {
        "recursive" => Ok(None),
        text => values::upstream(text).map(Some),
    });
    let Some(list) = list else {
        report.push(Problem {
            severity: Severity::Warning,
            key: table.key("upstream"),
            message: format!(
                "is not given: the default {DOCUMENTATION_UPSTREAM} is an address of documentation (RFC 5737)"
            ),
            span: table.span(),
            help: Some("write upstream = [\"udp://ADDRESS:53\"] with a resolver of yours".to_owned()),
        });
        let documentation = Upstream::plain(Protocol::Udp, DOCUMENTATION_UPSTREAM);
        return (vec![documentation], false);
    };
    refuse_empty(report, table, &list, accepted);
    let is_recursive = list.value.iter().any(|item| item.value.is_none());
    if is_recursive && list.value.len() > 1 {
        report.push(Problem {
            severity: Severity::Error,
            key: list.key.clone(),
            message: "\"recursive\" stands beside other upstreams".to_owned(),
            span: list.span.clone(),
            help: Some("accepted: resolvers to ask, or \"recursive\" alone".to_owned()),
        });
    }
    let located = list.value.into_iter().filter_map(|item| {
        let Located { value, key, span } = item;
        value.map(|value| Located { value, key, span })
    });
    let upstreams: Vec<Located<Upstream>> = located.collect();
    for upstream in &upstreams {
        check_name(report, upstream);
    }
    let upstreams = upstreams.into_iter().map(|item| item.value).collect();
    (upstreams, is_recursive)
}

/// `[dns64.recursive]`, which counts only where names are found from the root down.
fn read_recursive(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    is_recursive: bool,
) -> Option<Recursive> {
    let mut recursive = table.table(report, "recursive");
    if recursive.is_present() && !is_recursive {
        report.push(Problem {
            severity: Severity::Warning,
            key: table.key("recursive"),
            message: "is given, but dns64.upstream is not [\"recursive\"]".to_owned(),
            span: recursive.span(),
            help: Some("the root servers are not asked".to_owned()),
        });
    }
    let accepted = "an IP address of a root server";
    let root_hints = recursive.parsed_list(report, "root_hints", accepted, |text| {
        text.parse().map_err(|_| "not an IP address".to_owned())
    });
    let servers_allowed =
        read_networks(report, &mut recursive, "servers_allowed", None, Vec::new());
    recursive.finish(report);
    is_recursive.then(|| Recursive {
        root_hints: plain(root_hints),
        servers_allowed,
    })
}

/// Whether the name after `#` can stand in a certificate.
fn check_name(report: &mut Report, upstream: &Located<Upstream>) {
    if !upstream.value.protocol.is_encrypted() {
        return;
    }
    if let Err(error) = gate64_dns64::server_name(&upstream.value) {
        report.push(Problem {
            severity: Severity::Error,
            key: upstream.key.clone(),
            message: error.to_string(),
            span: upstream.span.clone(),
            help: Some(
                "accepted: the host name in the resolver's certificate, such as \"tls://192.0.2.53#dns.example\"; without #, the address itself"
                    .to_owned(),
            ),
        });
    }
}

fn read_timeouts(report: &mut Report, table: &mut Table<'_, '_>, default: Timeouts) -> Timeouts {
    let attempt = read_duration(report, table, "upstream_timeout", default.attempt, "1500ms");
    let query = read_duration(report, table, "query_timeout", default.query, "4s");
    if query.value < attempt.value {
        report.push(Problem {
            severity: Severity::Error,
            key: query.key,
            message: format!(
                "{} is less than upstream_timeout, {}",
                values::duration_text(query.value),
                values::duration_text(attempt.value)
            ),
            span: query.span.or(attempt.span),
            help: Some("the time for all tries holds at least one".to_owned()),
        });
    }
    Timeouts {
        attempt: attempt.value,
        query: query.value,
        ..default
    }
}

/// A duration from 50 ms to a minute.
fn read_duration(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    name: &'static str,
    default: Duration,
    example: &str,
) -> Located<Duration> {
    let accepted = format!("a duration from \"50ms\" to \"1m\", such as {example:?}");
    let bounds = Duration::from_millis(50)..=Duration::from_secs(60);
    table.parsed(report, name, default, &accepted, |text| {
        let duration = values::duration(text)?;
        match bounds.contains(&duration) {
            true => Ok(duration),
            false => Err("too short or too long".to_owned()),
        }
    })
}

/// `[dns64.cache]`.
fn read_cache(report: &mut Report, mut table: Table<'_, '_>, config: Dns64Config) -> Dns64Config {
    let limits = config.limits;
    let octets = i64::try_from(limits.cache_octets_max).unwrap_or(i64::MAX);
    let cache_octets_max = table.integer(report, "size", octets, CACHE_OCTETS).value;
    let limits = Limits {
        cache_octets_max: u64::try_from(cache_octets_max).unwrap_or(limits.cache_octets_max),
        cache_seconds_max: read_seconds(
            report,
            &mut table,
            "ttl_max",
            limits.cache_seconds_max,
            604_800,
        ),
        negative_seconds_max: read_seconds(
            report,
            &mut table,
            "negative_ttl_max",
            limits.negative_seconds_max,
            86_400,
        ),
        // RFC 9520 section 3.2.
        failure_seconds_max: read_seconds(
            report,
            &mut table,
            "failure_ttl_max",
            limits.failure_seconds_max,
            300,
        ),
        ..limits
    };
    let d = config.caching;
    let caching = Caching {
        prefetch: table.flag(report, "prefetch", d.prefetch).value,
        serve_stale: read_stale(report, &mut table, d.serve_stale),
    };
    table.finish(report);
    Dns64Config {
        limits,
        caching,
        ..config
    }
}

/// A duration in whole seconds, from one second.
fn read_seconds(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    name: &'static str,
    default: u32,
    most: u32,
) -> u32 {
    let longest = Duration::from_secs(u64::from(most));
    let accepted = format!(
        "a duration of whole seconds from \"1s\" to {:?}",
        values::duration_text(longest)
    );
    let read = table.parsed(report, name, default, &accepted, |text| {
        let duration = values::duration(text)?;
        let seconds = u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        match duration.subsec_nanos() == 0 && (1..=most).contains(&seconds) {
            true => Ok(seconds),
            false => Err("too short or too long".to_owned()),
        }
    });
    read.value
}

fn read_stale(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    default: Option<Duration>,
) -> Option<Duration> {
    let accepted = "\"off\", or a duration of at most a week, such as \"1d\"";
    let read = table.value(report, "serve_stale", default, accepted, |v| {
        let text = v.as_str().ok_or(Wrong::Type)?;
        if text == "off" {
            return Ok(None);
        }
        let duration = values::duration(text).map_err(|_| Wrong::Value)?;
        match duration <= Duration::from_secs(604_800) {
            true => Ok(Some(duration)),
            false => Err(Wrong::Value),
        }
    });
    read.value
}

/// Whether answers are validated, and from which keys.
fn read_dnssec(report: &mut Report, table: &mut Table<'_, '_>) -> (Dnssec, Vec<TrustAnchor>) {
    let modes = [("off", Dnssec::Off), ("validate", Dnssec::Validate)];
    let dnssec = table.word(report, "dnssec", Dnssec::Off, &modes).value;
    let accepted = "a DS record as text, such as \". IN DS 20326 8 2 E06D…\"";
    let anchors = table.parsed_list(report, "trust_anchors", accepted, str::parse);
    let is_unused = |anchors: &Located<Vec<_>>| !anchors.value.is_empty() && dnssec == Dnssec::Off;
    if let Some(anchors) = anchors.as_ref().filter(|anchors| is_unused(anchors)) {
        report.push(Problem {
            severity: Severity::Warning,
            key: anchors.key.clone(),
            message: "is given, but dnssec is \"off\"".to_owned(),
            span: anchors.span.clone(),
            help: Some("nothing is validated".to_owned()),
        });
    }
    (dnssec, plain(anchors))
}
