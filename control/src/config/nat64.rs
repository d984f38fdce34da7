//! `[nat64]` and `[nat64.lifetimes]`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use gate64_dataplane::config::{
    Filtering, Lifetimes, MssClamp, Nat64Config, TrafficClass, UdpChecksumZero, UnknownProtocol,
};
use gate64_wire::rfc6052::{Pref64, Pref64Error};
use toml::de::DeValue;

use super::problem::{Problem, Report, Severity};
use super::reader::{Located, Table, Wrong, bounds_text, integer, parsed};
use super::values;

const ACCEPTED_PREF64: &str =
    "an IPv6 prefix of length /32, /40, /48, /56, /64 or /96, such as \"64:ff9b::/96\"";
const ACCEPTED_DURATION: &str = "a duration in quotes, such as \"5m\" or \"2h4m\"";
/// Nothing lives longer than a year: beyond lies a slip of the pen.
const LIFETIME_MAX: Duration = Duration::from_secs(365 * 86_400);
/// A day: by then idle sessions are over, and active ones had their time.
const DRAIN_DEADLINE_DEFAULT: Duration = Duration::from_secs(86_400);
/// RFC 8200 section 4.5: reassembly is given up after 60 seconds.
const FRAGMENT_LIFETIME_MAX: Duration = Duration::from_secs(60);

/// Reads `[nat64]`, without pool, static entries and subscribers, which have their own tables.
/// `is_needed` says whether a role asks for a translation prefix.
pub fn read(
    report: &mut Report,
    mut table: Table<'_, '_>,
    is_needed: bool,
) -> (Nat64Config, Removal) {
    let defaults = Nat64Config::default();
    let filterings = [
        ("endpoint-independent", Filtering::EndpointIndependent),
        ("address-dependent", Filtering::AddressDependent),
    ];
    let zeros = [
        ("compute", UdpChecksumZero::Compute),
        ("drop", UdpChecksumZero::Drop),
    ];
    let unknown_protocols = [
        ("answer", UnknownProtocol::Answer),
        ("drop", UnknownProtocol::Drop),
    ];
    let config = Nat64Config {
        pref64: read_pref64(report, &mut table, is_needed),
        wkp_strict: table.flag(report, "wkp_strict", defaults.wkp_strict).value,
        filtering: table
            .word(report, "filtering", defaults.filtering, &filterings)
            .value,
        hairpin: table.flag(report, "hairpin", defaults.hairpin).value,
        // RFC 8200 section 5: every link carries 1280.
        ipv6_mtu_lowest: table
            .integer(
                report,
                "ipv6_mtu_lowest",
                defaults.ipv6_mtu_lowest,
                1280..=65535,
            )
            .value,
        mtu_plateaus: read_plateaus(report, &mut table, defaults.mtu_plateaus.clone()),
        mss_clamp: read_mss_clamp(report, &mut table),
        traffic_class: read_traffic_class(report, &mut table),
        udp_checksum_zero: table
            .word(
                report,
                "udp_checksum_zero",
                defaults.udp_checksum_zero,
                &zeros,
            )
            .value,
        unknown_protocol: table
            .word(
                report,
                "unknown_protocol",
                defaults.unknown_protocol,
                &unknown_protocols,
            )
            .value,
        icmp_error_rate_max: table
            .integer(
                report,
                "icmp_error_rate_max",
                defaults.icmp_error_rate_max,
                0..=1_000_000,
            )
            .value,
        source_v6: read_source(report, &mut table, "source_v6", is_host_address6).value,
        source_v4: {
            let source = read_source(report, &mut table, "source_v4", is_host_address4);
            warn_of_private_source(report, &source);
            source.value
        },
        lifetimes: {
            let lifetimes = table.table(report, "lifetimes");
            read_lifetimes(report, lifetimes)
        },
        ..defaults
    };
    let removal = read_removal(report, &mut table);
    table.finish(report);
    (config, removal)
}

/// What a reload does with blocks in use that it has no place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolRemoval {
    /// It is refused.
    Refuse,
    /// They go on until the deadline; their addresses get no new ones.
    Drain,
    /// They are cut, with their sessions.
    Cut,
}

/// How addresses leave the pools.
#[derive(Debug, Clone, Copy)]
pub struct Removal {
    /// With blocks in use.
    pub policy: PoolRemoval,
    /// How long a drained address is waited for; `None`: until it is empty.
    pub drain_deadline: Option<Duration>,
}

fn read_removal(report: &mut Report, table: &mut Table<'_, '_>) -> Removal {
    let policies = [
        ("refuse", PoolRemoval::Refuse),
        ("drain", PoolRemoval::Drain),
        ("cut", PoolRemoval::Cut),
    ];
    let policy = table.word(report, "pool4_removal", PoolRemoval::Refuse, &policies);
    let accepted = format!("\"off\", or {ACCEPTED_DURATION}, up to 365d");
    let default = Some(DRAIN_DEADLINE_DEFAULT);
    let deadline =
        table.parsed(
            report,
            "pool4_drain_deadline",
            default,
            &accepted,
            |text| match text {
                "off" => Ok(None),
                text => match values::duration(text)? {
                    deadline if deadline > LIFETIME_MAX => Err("too long".to_owned()),
                    deadline => Ok(Some(deadline)),
                },
            },
        );
    Removal {
        policy: policy.value,
        drain_deadline: deadline.value,
    }
}

fn read_pref64(report: &mut Report, table: &mut Table<'_, '_>, is_needed: bool) -> Vec<Pref64> {
    let list = table.parsed_list(report, "pref64", ACCEPTED_PREF64, |text| {
        let pref64: Pref64 = text
            .parse()
            .map_err(|error: Pref64Error| error.to_string())?;
        match is_usable_prefix(pref64.address()) {
            true => Ok(pref64),
            false => Err("no prefix that IPv6 routes as unicast".to_owned()),
        }
    });
    let Some(list) = list else {
        if is_needed {
            let help = "write pref64 = [\"64:ff9b::/96\"], or a prefix of your own";
            table.missing(report, "pref64", help);
        }
        return Vec::new();
    };
    refuse_empty(report, table, &list, ACCEPTED_PREF64);
    let prefixes = list.value;
    for (n, later) in prefixes.iter().enumerate() {
        let overlap = prefixes[..n].iter().find(|earlier| {
            earlier.value.contains(later.value.address())
                || later.value.contains(earlier.value.address())
        });
        if let Some(earlier) = overlap {
            report.push(Problem {
                severity: Severity::Error,
                key: later.key.clone(),
                message: format!("{} overlaps {}", later.value, earlier.value),
                span: later.span.clone(),
                help: Some("accepted: prefixes of which none contains another".to_owned()),
            });
        }
    }
    prefixes.iter().map(|prefix| prefix.value).collect()
}

/// Not in ::/16, which holds ::1, ::ffff:0:0/96 and the deprecated ::/96, nor link-local or multicast.
fn is_usable_prefix(address: Ipv6Addr) -> bool {
    address.segments()[0] != 0 && !address.is_unicast_link_local() && !address.is_multicast()
}

/// A list that stands there but holds nothing.
pub fn refuse_empty(
    report: &mut Report,
    table: &Table<'_, '_>,
    list: &Located<impl Sized>,
    accepted: &str,
) {
    if table.is_empty_list(&list.key) {
        report.push(Problem {
            severity: Severity::Error,
            key: list.key.clone(),
            message: "the list holds nothing".to_owned(),
            span: list.span.clone(),
            help: Some(format!("accepted: at least one item, {accepted}")),
        });
    }
}

fn read_plateaus(report: &mut Report, table: &mut Table<'_, '_>, default: Vec<u16>) -> Vec<u16> {
    let bounds = 68..=65535;
    let accepted = bounds_text(&bounds);
    let list = table.list(report, "mtu_plateaus", &accepted, |v| {
        integer::<u16>(v, &bounds)
    });
    let Some(list) = list else {
        return default;
    };
    refuse_empty(report, table, &list, &accepted);
    if let Some(wrong) = list.value.windows(2).find(|w| w[0].value <= w[1].value) {
        report.push(Problem {
            severity: Severity::Error,
            key: list.key.clone(),
            message: format!("{} stands behind {}", wrong[1].value, wrong[0].value),
            span: wrong[1].span.clone(),
            help: Some("accepted: MTUs in descending order (RFC 1191 section 7.1)".to_owned()),
        });
    }
    list.value.iter().map(|plateau| plateau.value).collect()
}

fn read_mss_clamp(report: &mut Report, table: &mut Table<'_, '_>) -> MssClamp {
    // From RFC 879's 536 to what fits the largest packet behind IPv6 and TCP headers.
    let bounds = 536..=65475;
    let accepted = format!("\"auto\", \"off\", or {}", bounds_text(&bounds));
    let clamp = table.value(
        report,
        "mss_clamp",
        MssClamp::Auto,
        &accepted,
        |value| match value.as_str() {
            Some("auto") => Ok(MssClamp::Auto),
            Some("off") => Ok(MssClamp::Off),
            Some(_) => Err(Wrong::Value),
            None => integer(value, &bounds).map(MssClamp::Octets),
        },
    );
    clamp.value
}

fn read_traffic_class(report: &mut Report, table: &mut Table<'_, '_>) -> TrafficClass {
    let bounds = 0..=255;
    let accepted = format!("\"copy\", or {}", bounds_text(&bounds));
    let class = table.value(
        report,
        "traffic_class",
        TrafficClass::Copy,
        &accepted,
        |value| match value.as_str() {
            Some("copy") => Ok(TrafficClass::Copy),
            Some(_) => Err(Wrong::Value),
            None => integer(value, &bounds).map(TrafficClass::Fixed),
        },
    );
    class.value
}

fn read_source<T: std::str::FromStr + Copy>(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    name: &'static str,
    is_usable: impl Fn(T) -> bool,
) -> Located<Option<T>> {
    let accepted = "\"auto\", or an address of this gateway";
    table.parsed(report, name, None, accepted, |text| {
        if text == "auto" {
            return Ok(None);
        }
        let ip: T = text
            .parse()
            .map_err(|_| "no address of that family".to_owned())?;
        match is_usable(ip) {
            true => Ok(Some(ip)),
            false => Err("no host can send from it".to_owned()),
        }
    })
}

/// RFC 6791 section 3.2: errors from such a source do not reach the IPv4 host.
fn warn_of_private_source(report: &mut Report, source: &Located<Option<Ipv4Addr>>) {
    let is_shared = |ip: Ipv4Addr| ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    let Some(ip) = source.value.filter(|&ip| ip.is_private() || is_shared(ip)) else {
        return;
    };
    report.push(Problem {
        severity: Severity::Warning,
        key: source.key.clone(),
        message: format!("{ip} is not reached from the Internet, which drops errors from it"),
        span: source.span.clone(),
        help: Some(
            "a public address (RFC 6791 section 3.2); fine where the IPv4 side is private"
                .to_owned(),
        ),
    });
}

fn is_host_address4(ip: Ipv4Addr) -> bool {
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback())
}

fn is_host_address6(ip: Ipv6Addr) -> bool {
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback())
}

/// A lifetime with the least that an RFC asks for, and where it asks.
struct LifetimeRule {
    name: &'static str,
    default: Duration,
    max: Duration,
    least: Duration,
    source: &'static str,
}

fn read_lifetimes(report: &mut Report, mut table: Table<'_, '_>) -> Lifetimes {
    let d = Lifetimes::default();
    let seconds = Duration::from_secs;
    let mut read = |name, default, least, max, source| {
        let rule = LifetimeRule {
            name,
            default,
            max,
            least,
            source,
        };
        read_lifetime(report, &mut table, &rule)
    };
    let tcp_transitory = read(
        "tcp_transitory",
        d.tcp_transitory,
        d.tcp_transitory,
        LIFETIME_MAX,
        "RFC 5382 REQ-5 and RFC 6146 section 4 (TCP_TRANS)",
    );
    let lifetimes = Lifetimes {
        udp: read(
            "udp",
            d.udp,
            seconds(120),
            LIFETIME_MAX,
            "RFC 4787 REQ-5 and RFC 6146 section 4 (UDP_MIN)",
        ),
        tcp_established: read(
            "tcp_established",
            d.tcp_established,
            d.tcp_established,
            LIFETIME_MAX,
            "RFC 5382 REQ-5 and RFC 6146 section 4 (TCP_EST)",
        ),
        tcp_transitory,
        // RFC 7857 section 2.1: opening may be shorter than four minutes.
        tcp_opening: read(
            "tcp_opening",
            tcp_transitory,
            d.tcp_incoming_syn,
            LIFETIME_MAX,
            "RFC 6146 section 4 (TCP_INCOMING_SYN)",
        ),
        tcp_closing: read(
            "tcp_closing",
            tcp_transitory,
            d.tcp_closing,
            LIFETIME_MAX,
            "RFC 5382 REQ-5 (transitory connections)",
        ),
        tcp_incoming_syn: read(
            "tcp_incoming_syn",
            d.tcp_incoming_syn,
            d.tcp_incoming_syn,
            seconds(60),
            "RFC 5382 REQ-4 and RFC 6146 section 4 (TCP_INCOMING_SYN)",
        ),
        icmp: read(
            "icmp",
            d.icmp,
            d.icmp,
            LIFETIME_MAX,
            "RFC 5508 REQ-1 and RFC 6146 section 4 (ICMP_DEFAULT)",
        ),
        fragment: read(
            "fragment",
            d.fragment,
            d.fragment,
            FRAGMENT_LIFETIME_MAX,
            "RFC 6146 section 4 (FRAGMENT_MIN)",
        ),
    };
    table.finish(report);
    lifetimes
}

fn read_lifetime(report: &mut Report, table: &mut Table<'_, '_>, rule: &LifetimeRule) -> Duration {
    let least_accepted = Duration::from_secs(1);
    let lifetime = read_duration(
        report,
        table,
        rule.name,
        rule.default,
        least_accepted,
        rule.max,
    );
    if lifetime.value < rule.least {
        report.push(Problem {
            severity: Severity::Warning,
            key: lifetime.key.clone(),
            message: format!(
                "{} is less than {}",
                values::duration_text(lifetime.value),
                values::duration_text(rule.least)
            ),
            span: lifetime.span.clone(),
            help: Some(format!("the least that {} allows", rule.source)),
        });
    }
    lifetime.value
}

/// A duration within bounds.
pub fn read_duration(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    name: &'static str,
    default: Duration,
    least: Duration,
    most: Duration,
) -> Located<Duration> {
    let accepted = format!(
        "{ACCEPTED_DURATION}, from {} to {}",
        values::duration_text(least),
        values::duration_text(most)
    );
    table.parsed(report, name, default, &accepted, |text| {
        let duration = values::duration(text)?;
        if duration < least {
            return Err("too short".to_owned());
        }
        if duration > most {
            return Err("too long".to_owned());
        }
        Ok(duration)
    })
}

/// An address that `parse` reads, for lists of IPv4 addresses.
pub fn read_ipv4(value: &DeValue<'_>) -> Result<Ipv4Addr, Wrong> {
    parsed(value, |text| {
        text.parse().map_err(|_| "not an IPv4 address".to_owned())
    })
}
