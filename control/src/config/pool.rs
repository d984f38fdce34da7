//! `[[pool4]]` and `[[static]]`, and what has to fit between them and `[subscriber]`.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use gate64_dataplane::config::{POOLS_MAX, Pool4Prefix, StaticBib};
use gate64_wire::addr::Protocol;

use super::nat64::read_ipv4;
use super::problem::{Problem, Report, Severity};
use super::reader::{Located, Table};
use super::subscriber::SubscriberSettings;
use super::{interface, values};

const PORTS_DEFAULT: RangeInclusive<u16> = 1024..=65535;
/// The smallest block that `subscriber.port_block_size` accepts.
const PORT_BLOCK_SIZE_MIN: u16 = 64;

/// Where a pool's addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pool4Source {
    /// The configuration.
    Prefix(Pool4Prefix),
    /// The kernel: the IPv4 address of this interface, which the host goes on using itself.
    Interface {
        /// Its name.
        name: String,
        /// Ports that belong to gate64.
        ports: RangeInclusive<u16>,
        /// Ports of these that are never given out.
        exclude_ports: Vec<RangeInclusive<u16>>,
        /// The pool that it is part of.
        pool: u8,
    },
}

/// The pool that a `[[pool4]]` is part of if it does not say.
pub const POOL_DEFAULT: &str = "default";

/// Every `[[pool4]]`, and the names of the pools that they make up.
#[derive(Debug, Default)]
pub struct Pools {
    /// In the order of the file.
    pub all: Vec<Located<Pool4Source>>,
    /// A pool's number is its place here.
    pub names: Vec<String>,
}

impl Pools {
    /// The number of the pool with this name.
    pub fn number_of(&self, name: &str) -> Option<u8> {
        let at = self.names.iter().position(|known| known == name)?;
        u8::try_from(at).ok()
    }

    /// What a pool is made up of.
    pub fn of(&self, number: u8) -> impl Iterator<Item = &Located<Pool4Source>> {
        self.all
            .iter()
            .filter(move |pool| pool.value.pool() == number)
    }

    /// The number of a name, new if it was not seen before.
    fn enter(&mut self, report: &mut Report, name: &Located<String>) -> u8 {
        if let Some(number) = self.number_of(&name.value) {
            return number;
        }
        if self.names.len() >= POOLS_MAX {
            report.push(error(
                name,
                format!("{:?} is one pool too many", name.value),
                "accepted: at most 16 pools; a pool may have many [[pool4]]",
            ));
            return 0;
        }
        self.names.push(name.value.clone());
        u8::try_from(self.names.len() - 1).unwrap_or(0)
    }
}

impl Pool4Source {
    /// Ports that may be used.
    pub fn ports(&self) -> &RangeInclusive<u16> {
        match self {
            Pool4Source::Prefix(prefix) => &prefix.ports,
            Pool4Source::Interface { ports, .. } => ports,
        }
    }

    /// The pool that it is part of.
    pub fn pool(&self) -> u8 {
        match self {
            Pool4Source::Prefix(prefix) => prefix.pool,
            Pool4Source::Interface { pool, .. } => *pool,
        }
    }

    /// Addresses of it.
    pub fn address_count(&self) -> u64 {
        match self {
            Pool4Source::Prefix(prefix) => {
                (1_u64 << (32 - prefix.length)) - prefix.exclude.len() as u64
            }
            Pool4Source::Interface { .. } => 1,
        }
    }
}

fn error(at: &Located<impl Sized>, message: String, help: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        key: at.key.clone(),
        message,
        span: at.span.clone(),
        help: Some(help.to_owned()),
    }
}

/// Reads every `[[pool4]]`.
pub fn read_pools(report: &mut Report, tables: Vec<Table<'_, '_>>) -> Pools {
    let mut pools = Pools::default();
    for table in tables {
        let Some(pool) = read_pool(report, table, &mut pools) else {
            continue;
        };
        if let Some(other) = pools
            .all
            .iter()
            .find(|other| overlap(&other.value, &pool.value))
        {
            report.push(error(
                &pool,
                format!("{} overlaps {}", name(&pool.value), name(&other.value)),
                "accepted: pools that share no address",
            ));
        }
        pools.all.push(pool);
    }
    if pools.names.is_empty() {
        pools.names.push(POOL_DEFAULT.to_owned());
    }
    pools
}

fn name(pool: &Pool4Source) -> String {
    match pool {
        Pool4Source::Prefix(p) => format!("{}/{}", p.address, p.length),
        Pool4Source::Interface { name, .. } => name.clone(),
    }
}

fn overlap(a: &Pool4Source, b: &Pool4Source) -> bool {
    match (a, b) {
        (Pool4Source::Prefix(a), Pool4Source::Prefix(b)) => {
            let bits = a.length.min(b.length);
            network(a.address, bits) == network(b.address, bits)
        }
        (Pool4Source::Interface { name: a, .. }, Pool4Source::Interface { name: b, .. }) => a == b,
        _ => false,
    }
}

fn network(ip: Ipv4Addr, length: u8) -> u32 {
    u32::from(ip) & !u32::MAX.checked_shr(u32::from(length)).unwrap_or(0)
}

fn contains(pool: &Pool4Prefix, ip: Ipv4Addr) -> bool {
    network(ip, pool.length) == u32::from(pool.address) && !pool.exclude.contains(&ip)
}

fn read_pool(
    report: &mut Report,
    mut table: Table<'_, '_>,
    pools: &mut Pools,
) -> Option<Located<Pool4Source>> {
    let accepted = "an IPv4 prefix of /8 to /32, such as \"192.0.2.0/24\"";
    let prefix = table.optional(report, "prefix", accepted, |v| {
        super::reader::parsed(v, values::prefix4)
    });
    let accepted = "the name of an interface with an IPv4 address";
    let interface = table.optional(report, "interface", accepted, interface::read_name);
    let accepted = "ports from 1 to 65535 such as \"1024-65535\"";
    let ports = table.parsed(report, "ports", PORTS_DEFAULT, accepted, values::ports);
    let exclude = table.list(report, "exclude", "an IPv4 address", read_ipv4);
    let drain = table.list(report, "drain", "an IPv4 address", read_ipv4);
    let accepted = "ports such as \"5060\" or \"8080-8089\"";
    let exclude_ports = table.parsed_list(report, "exclude_ports", accepted, values::ports);
    let exclude_ports = exclude_ports.map_or(Vec::new(), |list| list.value);
    let default = POOL_DEFAULT.to_owned();
    let pool = table.value(report, "pool", default, "a name", |value| {
        let name = value.as_str().ok_or(super::reader::Wrong::Type)?;
        match name.is_empty() {
            true => Err(super::reader::Wrong::Value),
            false => Ok(name.to_owned()),
        }
    });
    let pool = pools.enter(report, &pool);
    let names = (table.holds("prefix"), table.holds("interface"));
    if names == (false, false) {
        let help = "write prefix = \"192.0.2.0/24\", or interface = \"ens1f1\"";
        table.missing(report, "prefix", help);
    }
    table.finish(report);
    if ports.value.clone().count() < usize::from(PORT_BLOCK_SIZE_MIN) {
        let message = format!(
            "{} ports are less than one block",
            ports.value.clone().count()
        );
        report.push(error(&ports, message, "accepted: at least 64 ports"));
        return None;
    }
    check_excluded_ports(report, &ports, &exclude_ports);
    let excluded = exclude.map_or(Vec::new(), |list| list.value);
    let drained = drain.map_or(Vec::new(), |list| list.value);
    let exclude_ports: Vec<_> = exclude_ports.into_iter().map(|range| range.value).collect();
    match (prefix, interface) {
        (Some(prefix), None) => {
            let pool = Pool4Prefix {
                address: prefix.value.0,
                length: prefix.value.1,
                ports: ports.value,
                exclude_ports,
                pool,
                ..Pool4Prefix::default()
            };
            read_prefix_pool(report, &prefix, pool, &excluded, &drained)
        }
        (None, Some(interface)) => {
            if let Some(first) = excluded.first().or(drained.first()) {
                report.push(error(
                    first,
                    "an interface's pool is one address".to_owned(),
                    "leave `exclude` and `drain` out",
                ));
            }
            Some(interface.with(Pool4Source::Interface {
                name: interface.value.clone(),
                ports: ports.value,
                exclude_ports,
                pool,
            }))
        }
        (Some(_), Some(interface)) => {
            report.push(error(
                &interface,
                "both prefix and interface are given".to_owned(),
                "accepted: one of the two in each [[pool4]]",
            ));
            None
        }
        (None, None) => None,
    }
}

/// A block that is left with nothing to give would only be in the way.
fn check_excluded_ports(
    report: &mut Report,
    ports: &Located<RangeInclusive<u16>>,
    excluded: &[Located<RangeInclusive<u16>>],
) {
    let mut count = 0;
    for range in excluded {
        let (first, last) = (range.value.start(), range.value.end());
        if !ports.value.contains(first) || !ports.value.contains(last) {
            report.push(error(
                range,
                format!(
                    "{} is not in {}",
                    values::ports_text(&range.value),
                    values::ports_text(&ports.value)
                ),
                "accepted: ports of the pool's range",
            ));
        }
        count += range.value.clone().count();
    }
    if let Some(first) = excluded.first()
        && count >= usize::from(PORT_BLOCK_SIZE_MIN)
    {
        report.push(error(
            first,
            format!("{count} ports are excluded"),
            "accepted: less than 64 in all; for more, write `ports` of two [[pool4]]",
        ));
    }
}

fn read_prefix_pool(
    report: &mut Report,
    prefix: &Located<(Ipv4Addr, u8)>,
    mut pool: Pool4Prefix,
    excluded: &[Located<Ipv4Addr>],
    drained: &[Located<Ipv4Addr>],
) -> Option<Located<Pool4Source>> {
    let (address, length) = prefix.value;
    let unusable = address.is_multicast()
        || address.is_loopback()
        || address.is_unspecified()
        || address.octets()[0] >= 240;
    if unusable {
        report.push(error(
            prefix,
            format!("found \"{address}/{length}\": no host can send from it"),
            "accepted: unicast addresses that the IPv4 side routes to this gateway",
        ));
        return None;
    }
    for (list, found) in [(&mut pool.exclude, excluded), (&mut pool.drain, drained)] {
        for ip in found {
            if network(ip.value, length) != u32::from(address) {
                report.push(error(
                    ip,
                    format!("{} is not in {address}/{length}", ip.value),
                    "accepted: addresses of the pool's prefix",
                ));
            } else if !list.contains(&ip.value) {
                list.push(ip.value);
            }
        }
    }
    let address_count = 1_u64 << (32 - length);
    if u64::try_from(pool.exclude.len()).is_ok_and(|n| n == address_count) {
        report.push(error(
            prefix,
            "every address is excluded".to_owned(),
            "leave at least one address to the pool",
        ));
        return None;
    }
    Some(prefix.with(Pool4Source::Prefix(pool)))
}

/// Reads every `[[static]]` and holds it against the pool.
pub fn read_statics(
    report: &mut Report,
    tables: Vec<Table<'_, '_>>,
    pools: &[Located<Pool4Source>],
) -> Vec<Located<StaticBib>> {
    let mut entries: Vec<Located<StaticBib>> = Vec::new();
    for table in tables {
        let Some(entry) = read_static(report, table) else {
            continue;
        };
        check_static_pool(report, &entry, pools);
        check_static_twice(report, &entry, &entries);
        entries.push(entry);
    }
    entries
}

fn read_static(report: &mut Report, mut table: Table<'_, '_>) -> Option<Located<StaticBib>> {
    let protocols = Protocol::ALL.map(|protocol| (protocol.name(), protocol));
    let protocol = table.optional(report, "protocol", "\"udp\", \"tcp\", \"icmp\"", |v| {
        super::reader::word(v, &protocols)
    });
    let accepted = "an IPv6 address and port, such as \"[2001:db8::1]:80\"";
    let v6 = table.optional(report, "v6", accepted, |v| {
        super::reader::parsed(v, values::transport6)
    });
    let accepted = "an IPv4 address and port, such as \"192.0.2.1:80\"";
    let v4 = table.optional(report, "v4", accepted, |v| {
        super::reader::parsed(v, values::transport4)
    });
    for (name, help) in [
        ("protocol", "write protocol = \"tcp\", \"udp\" or \"icmp\""),
        ("v6", "write v6 = \"[2001:db8::1]:80\""),
        ("v4", "write v4 = \"192.0.2.1:80\""),
    ] {
        if !table.holds(name) {
            table.missing(report, name, help);
        }
    }
    table.finish(report);
    let (protocol, v6, v4) = (protocol?, v6?, v4?);
    Some(v4.with(StaticBib {
        protocol: protocol.value,
        v6: v6.value,
        v4: v4.value,
    }))
}

fn check_static_pool(
    report: &mut Report,
    entry: &Located<StaticBib>,
    pools: &[Located<Pool4Source>],
) {
    let v4 = entry.value.v4;
    // Addresses of interfaces are known only at the start, and checked then.
    let is_covered = pools.iter().any(|pool| match &pool.value {
        Pool4Source::Prefix(prefix) => contains(prefix, v4.ip),
        Pool4Source::Interface { ports, .. } => ports.contains(&v4.port),
    });
    if !is_covered {
        report.push(error(
            entry,
            format!("{} is in no [[pool4]]", v4.ip),
            "accepted: an address of a pool that is not excluded; on an interface's pool also one of its ports",
        ));
    }
}

fn check_static_twice(
    report: &mut Report,
    entry: &Located<StaticBib>,
    earlier: &[Located<StaticBib>],
) {
    let new = entry.value;
    let same_protocol = earlier.iter().filter(|e| e.value.protocol == new.protocol);
    for old in same_protocol {
        let taken = if old.value.v4 == new.v4 {
            new.v4.to_string()
        } else if old.value.v6 == new.v6 {
            new.v6.to_string()
        } else {
            continue;
        };
        report.push(error(
            entry,
            format!("{} {taken} already has a static entry", new.protocol),
            "accepted: each transport address once in each protocol (RFC 6146 section 3.1)",
        ));
    }
}

/// Fits blocks to the pools' port ranges: defaults shrink with a note, what the operator wrote
/// has to fit.
pub fn fit_blocks(
    report: &mut Report,
    settings: &mut SubscriberSettings,
    pools: &[Located<Pool4Source>],
) {
    if report.has_error_about("subscriber.port_block") {
        return;
    }
    let Some(smallest) = pools.iter().min_by_key(|p| p.value.ports().clone().count()) else {
        return;
    };
    let ports = smallest.value.ports();
    let count = u16::try_from(ports.clone().count()).unwrap_or(u16::MAX);
    let range = format!("{} of {}", values::ports_text(ports), name(&smallest.value));
    let block = &settings.port_block_size;
    if block.value > count {
        // The largest power of two that fits; a pool has at least 64 ports.
        let largest = 1_u16 << count.ilog2();
        let message = format!("{} is more than the {count} ports {range}", block.value);
        fit(report, block, message, largest, |size| {
            settings.limits.port_block_size = size
        });
    }
    let blocks = count / settings.limits.port_block_size;
    if blocks == 0 {
        return;
    }
    let wanted = &settings.port_blocks_max;
    if wanted.value > blocks {
        let size = settings.limits.port_block_size;
        let message = format!(
            "{} blocks of {size} are more than the {blocks} that fit the ports {range}",
            wanted.value
        );
        fit(report, wanted, message, blocks, |max| {
            settings.limits.port_blocks_max = max
        });
    }
}

fn fit(
    report: &mut Report,
    wanted: &Located<u16>,
    message: String,
    fitting: u16,
    shrink: impl FnOnce(u16),
) {
    let (severity, help) = if wanted.is_explicit() {
        (Severity::Error, format!("accepted: at most {fitting}"))
    } else {
        shrink(fitting);
        (Severity::Note, format!("the default shrinks to {fitting}"))
    };
    report.push(Problem {
        severity,
        key: wanted.key.clone(),
        message,
        span: wanted.span.clone(),
        help: Some(help),
    });
}
