//! `[share]`: an IPv6-only network behind one IPv4 address.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::{Problem, Report, Severity};
use super::reader::{Located, Table, Wrong, bounds_text, integer, parsed};
use super::services::domain_name;
use super::values::{self, Prefix};
use super::{STATE_DIRECTORY, interface};
use crate::share::Preference;

/// MaxRtrAdvInterval of RFC 4861 section 6.2.1.
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(4)..=Duration::from_secs(1800);
/// MIN_V6ONLY_WAIT of RFC 8925 section 3.4.
const V6ONLY_WAIT_MIN: Duration = Duration::from_secs(300);

/// Which of the two kinds of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareKind {
    /// Native IPv6 where the upstream has it.
    Auto,
    /// Never native IPv6, to test applications.
    Test,
}

/// Where the clients' prefix comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefixChoice {
    /// A unique local one is made.
    Own,
    /// This /64.
    Given(Ipv6Addr),
    /// The upstream's network delegates one by DHCPv6; a unique local one is made besides.
    Delegated,
}

/// `[share]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSettings {
    /// The interface towards the Internet.
    pub upstream: Located<String>,
    /// The interface towards the clients.
    pub downstream: Located<String>,
    /// Which kind of network.
    pub kind: ShareKind,
    /// The clients' prefix.
    pub prefix: PrefixChoice,
    /// Ports of the upstream's address; `None`: what the host does not use.
    pub ports: Option<RangeInclusive<u16>>,
    /// DNS search list.
    pub search: Vec<String>,
    /// Routes that are advertised besides the default route.
    pub routes: Vec<(Ipv6Addr, u8)>,
    /// The MTU that is advertised; `None`: the interface's.
    pub mtu: Option<u32>,
    /// Longest time between advertisements.
    pub ra_interval_max: Duration,
    /// Against other routers.
    pub preference: Preference,
    /// The M flag.
    pub managed: bool,
    /// Whether information-requests are answered.
    pub dhcpv6: bool,
    /// V6ONLY_WAIT of DHCPv4 option 108; `None`: DHCPv4 is left alone.
    pub dhcpv4_option_108: Option<Duration>,
    /// Where the prefix and what has to be undone are kept.
    pub state: PathBuf,
}

/// Reads `[share]`; `None` if the table is not there or lacks an interface.
pub fn read(report: &mut Report, mut table: Table<'_, '_>) -> Option<ShareSettings> {
    if !table.is_present() {
        return None;
    }
    let upstream = read_interface(report, &mut table, "upstream", "eth0");
    let downstream = read_interface(report, &mut table, "downstream", "eth1");
    let kinds = [("auto", ShareKind::Auto), ("test", ShareKind::Test)];
    let preferences = [
        ("high", Preference::High),
        ("medium", Preference::Medium),
        ("low", Preference::Low),
    ];
    let kind = table.word(report, "kind", ShareKind::Auto, &kinds).value;
    let prefix = read_prefix(report, &mut table, kind);
    let accepted = "\"auto\", or at least 512 ports such as \"61000-65535\"";
    let ports = table.value(report, "ports", None, accepted, |v| {
        auto_or(v.as_str(), || parsed(v, many_ports))
    });
    let search = table.parsed_list(report, "search", "a domain name", domain_name);
    let accepted = "an IPv6 prefix, such as \"2001:db8::/32\"";
    let routes = table.parsed_list(report, "routes", accepted, prefix6);
    let bounds = 1280..=65_535;
    let accepted = format!("\"auto\", or {}", bounds_text(&bounds));
    let mtu = table.value(report, "mtu", None, &accepted, |v| {
        auto_or(v.as_str(), || integer(v, &bounds))
    });
    let accepted = "a duration from \"4s\" to \"30m\"";
    let default = Duration::from_secs(180);
    let ra_interval_max = table.parsed(report, "ra_interval_max", default, accepted, |text| {
        within(values::duration(text)?, &INTERVAL)
    });
    let preference = table.word(report, "preference", Preference::Medium, &preferences);
    let managed = table.flag(report, "managed", false).value;
    let dhcpv6 = table.flag(report, "dhcpv6", true).value;
    let accepted = "\"off\", or a duration of at least \"5m\" (RFC 8925)";
    let dhcpv4_option_108 = table.value(report, "dhcpv4_option_108", None, accepted, |v| {
        match v.as_str() {
            Some("off") => Ok(None),
            _ => parsed(v, v6only_wait).map(Some),
        }
    });
    let default = PathBuf::from(STATE_DIRECTORY);
    let state = table.parsed(
        report,
        "state",
        default,
        "an absolute path",
        values::absolute_path,
    );
    table.finish(report);
    let (upstream, downstream) = (upstream?, downstream?);
    if upstream.value == downstream.value {
        report.push(Problem {
            severity: Severity::Error,
            key: downstream.key.clone(),
            message: format!("{:?} is the upstream as well", downstream.value),
            span: downstream.span.clone(),
            help: Some("accepted: two interfaces; a VLAN on one of them is one too".to_owned()),
        });
    }
    let plain = |list: Vec<Located<_>>| list.into_iter().map(|item| item.value).collect();
    Some(ShareSettings {
        upstream,
        downstream,
        kind,
        prefix,
        ports: ports.value,
        search: search.map_or(Vec::new(), |list| {
            list.value.into_iter().map(|item| item.value).collect()
        }),
        routes: routes.map_or(Vec::new(), |list| plain(list.value)),
        mtu: mtu.value,
        ra_interval_max: ra_interval_max.value,
        preference: preference.value,
        managed,
        dhcpv6,
        dhcpv4_option_108: dhcpv4_option_108.value,
        state: state.value,
    })
}

fn read_prefix(report: &mut Report, table: &mut Table<'_, '_>, kind: ShareKind) -> PrefixChoice {
    let accepted = "\"auto\", \"delegated\", or an IPv6 prefix of /64 such as \"2001:db8:1::/64\"";
    let found = table.value(report, "prefix", PrefixChoice::Own, accepted, |v| {
        match v.as_str() {
            Some("auto") => Ok(PrefixChoice::Own),
            Some("delegated") => Ok(PrefixChoice::Delegated),
            _ => parsed(v, prefix64).map(PrefixChoice::Given),
        }
    });
    if found.value == PrefixChoice::Delegated && kind == ShareKind::Test {
        report.push(Problem {
            severity: Severity::Error,
            key: found.key,
            message: "a test network has no native IPv6 that a prefix could be delegated for"
                .to_owned(),
            span: found.span,
            help: Some("leave out kind = \"test\" (--test), or the prefix".to_owned()),
        });
    }
    found.value
}

fn read_interface(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    name: &'static str,
    example: &str,
) -> Option<Located<String>> {
    let accepted = "the name of a network interface, 1 to 15 characters";
    let found = table.optional(report, name, accepted, interface::read_name);
    if found.is_none() && !table.holds(name) {
        let help = format!("write {name} = \"{example}\", as `ip link` shows it");
        table.missing(report, name, &help);
    }
    found
}

fn auto_or<T>(
    text: Option<&str>,
    read: impl FnOnce() -> Result<T, Wrong>,
) -> Result<Option<T>, Wrong> {
    match text {
        Some("auto") => Ok(None),
        _ => read().map(Some),
    }
}

fn prefix6(text: &str) -> Result<(Ipv6Addr, u8), String> {
    let prefix: Prefix = text.parse()?;
    match prefix.ip {
        IpAddr::V6(ip) => Ok((ip, prefix.length)),
        IpAddr::V4(_) => Err("this is an IPv4 prefix".to_owned()),
    }
}

fn prefix64(text: &str) -> Result<Ipv6Addr, String> {
    match prefix6(text)? {
        (ip, 64) if ip.segments()[0] & 0xe000 == 0x2000 || ip.is_unique_local() => Ok(ip),
        (_, 64) => Err("no prefix that hosts can have".to_owned()),
        // RFC 4862 section 5.5.3: hosts make addresses from 64 bits.
        (_, length) => Err(format!(
            "hosts make addresses from a /64, not from a /{length}"
        )),
    }
}

fn many_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let ports = values::ports(text)?;
    match ports.clone().count() >= 512 {
        true => Ok(ports),
        false => Err("that are too few".to_owned()),
    }
}

fn within(found: Duration, bounds: &RangeInclusive<Duration>) -> Result<Duration, String> {
    match bounds.contains(&found) {
        true => Ok(found),
        false => Err("out of bounds".to_owned()),
    }
}

fn v6only_wait(text: &str) -> Result<Duration, String> {
    let wait = values::duration(text)?;
    within(
        wait,
        &(V6ONLY_WAIT_MIN..=Duration::from_secs(u64::from(u32::MAX))),
    )
}
