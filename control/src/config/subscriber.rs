//! `[subscriber]`, `[[subscriber.class]]` and `[[subscriber.deterministic]]`.

mod fit;

use std::net::IpAddr;
use std::time::Duration;

use gate64_dataplane::config::{
    ClassLimits, DeterministicSet, Prefix4, Prefix6, RefusalAnswer, SubscriberClass,
    SubscriberLimits,
};
use gate64_wire::rfc6052::Pref64;

use super::nat64::read_duration;
use super::problem::{Problem, Report, Severity};
use super::reader::{Located, Table, Wrong, bounds_text, integer, parsed};
use super::values::{self, Prefix};
pub use fit::fit;

const REFUSALS: [(&str, RefusalAnswer); 3] = [
    ("admin-prohibited", RefusalAnswer::AdminProhibited),
    ("address-unreachable", RefusalAnswer::AddressUnreachable),
    ("none", RefusalAnswer::None),
];
/// Keys of the port quotas, in the order of the protocols.
const PORT_QUOTAS: [&str; 3] = ["udp_ports_max", "tcp_ports_max", "icmp_ids_max"];

/// `[subscriber]` with the places of what must fit other tables.
pub struct SubscriberSettings {
    /// The values.
    pub limits: SubscriberLimits,
    /// Ports in one block, before it is fitted to the pool.
    pub port_block_size: Located<u16>,
    /// Blocks at once, before it is fitted to the pool.
    pub port_blocks_max: Located<u16>,
    /// The pool of subscribers in no class.
    pub pool: Located<Option<String>>,
    /// Destination ports that the reserve is for.
    pub essential_ports: Vec<u16>,
    /// Destinations that are routed on as IPv6.
    pub bypass: Vec<Prefix4>,
    /// Destinations that are refused.
    pub deny: Vec<Prefix4>,
    quotas: Quotas,
    classes: Vec<ReadClass>,
    deterministic: Vec<ReadSet>,
}

/// What has to fit the block budget of a subscriber.
struct Quotas {
    ports: Vec<Located<u32>>,
    sessions: Located<u32>,
    reserve: Located<u32>,
    blocks: Located<()>,
}

struct ReadClass {
    at: Located<()>,
    name: Option<Located<String>>,
    prefixes: Vec<Located<Prefix6>>,
    port_blocks_max: Located<u16>,
    pool: Located<Option<String>>,
    pref64: Option<Located<Pref64>>,
    limits: ClassLimits,
    quotas: Quotas,
    bypass: Vec<Prefix4>,
    deny: Vec<Prefix4>,
}

struct ReadSet {
    at: Located<()>,
    prefixes: Vec<Located<Prefix6>>,
    pool: Option<Located<String>>,
    blocks_per_subscriber: Located<u16>,
    overflow: bool,
}

/// What the data plane is told of subscribers.
#[derive(Debug, Clone, Default)]
pub struct Subscribers {
    /// The pool of subscribers in no class.
    pub pool: u8,
    /// The classes.
    pub classes: Vec<SubscriberClass>,
    /// The deterministic sets.
    pub deterministic: Vec<DeterministicSet>,
}

fn error(at: &Located<impl Sized>, message: String, help: impl Into<String>) -> Problem {
    Problem {
        severity: Severity::Error,
        key: at.key.clone(),
        message,
        span: at.span.clone(),
        help: Some(help.into()),
    }
}

/// Reads `[subscriber]` and what lies in it.
pub fn read_subscriber(report: &mut Report, mut table: Table<'_, '_>) -> SubscriberSettings {
    let d = SubscriberLimits::default();
    let prefix_length = table.integer(report, "prefix_length", d.prefix_length, 32..=128);
    let accepted = "a power of two from 64 to 32768";
    let port_block_size = table.value(
        report,
        "port_block_size",
        d.port_block_size,
        accepted,
        |v| {
            let size: u16 = integer(v, &(64..=32768))?;
            if size.is_power_of_two() {
                Ok(size)
            } else {
                Err(Wrong::Because("not a power of two".to_owned()))
            }
        },
    );
    let (limits, port_blocks_max, quotas) = read_limits(report, &mut table, d.limits());
    let day = Duration::from_secs(86_400);
    let none = Duration::ZERO;
    let reuse = read_duration(
        report,
        &mut table,
        "port_reuse_delay",
        d.port_reuse_delay,
        none,
        day,
    );
    warn_of_short_reuse(report, &reuse, d.port_reuse_delay);
    let idle = read_duration(report, &mut table, "block_idle", d.block_idle, none, day);
    let block_active = read_block_active(report, &mut table);
    let bounds = 1..=65535;
    let accepted = bounds_text(&bounds);
    let essential = table.list(report, "essential_ports", &accepted, |v| {
        integer::<u16>(v, &bounds)
    });
    let pool = read_pool_name(report, &mut table);
    let bypass = read_destinations(report, &mut table, "bypass", &[]);
    let deny = read_destinations(report, &mut table, "deny", &[]);
    let classes = table.tables(report, "class");
    let classes = classes
        .into_iter()
        .map(|class| read_class(report, class, &limits, (&bypass, &deny)))
        .collect();
    let sets = table.tables(report, "deterministic");
    let deterministic = sets.into_iter().map(|set| read_set(report, set)).collect();
    table.finish(report);
    SubscriberSettings {
        limits: SubscriberLimits {
            prefix_length: prefix_length.value,
            port_block_size: port_block_size.value,
            port_blocks_max: limits.port_blocks_max,
            ports_max: limits.ports_max,
            session_count_max: limits.session_count_max,
            session_rate_max: limits.session_rate_max,
            essential_reserve: limits.essential_reserve,
            refusal: limits.refusal,
            port_reuse_delay: reuse.value,
            block_idle: idle.value,
            block_active,
        },
        port_block_size,
        port_blocks_max,
        pool,
        essential_ports: essential.map_or(Vec::new(), |list| values_of(list.value)),
        bypass,
        deny,
        quotas,
        classes,
        deterministic,
    }
}

fn values_of<T>(list: Vec<Located<T>>) -> Vec<T> {
    list.into_iter().map(|item| item.value).collect()
}

/// The limits that `[subscriber]` and its classes have alike; `d` stands in for what is not there.
fn read_limits(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    d: ClassLimits,
) -> (ClassLimits, Located<u16>, Quotas) {
    let port_blocks_max = table.integer(report, "port_blocks_max", d.port_blocks_max, 1..=1024);
    let mut ports_max = d.ports_max;
    let mut ports = Vec::new();
    for (name, max) in PORT_QUOTAS.into_iter().zip(&mut ports_max) {
        let quota = read_or_off(
            report,
            table,
            name,
            Some(*max).filter(|max| *max < u32::MAX),
        );
        *max = quota.value.unwrap_or(u32::MAX);
        if let Some(value) = quota.value {
            ports.push(quota.with(value));
        }
    }
    let sessions = table.integer(
        report,
        "session_count_max",
        d.session_count_max,
        1..=i64::from(u32::MAX),
    );
    let rate = read_or_off(report, table, "session_rate_max", d.session_rate_max);
    let reserve = table.integer(
        report,
        "essential_reserve",
        d.essential_reserve,
        0..=i64::from(u16::MAX),
    );
    let refusal = table.word(report, "refusal", d.refusal, &REFUSALS);
    let limits = ClassLimits {
        port_blocks_max: port_blocks_max.value,
        ports_max,
        session_count_max: sessions.value,
        session_rate_max: rate.value,
        essential_reserve: reserve.value,
        refusal: refusal.value,
    };
    let quotas = Quotas {
        ports,
        sessions,
        reserve,
        blocks: port_blocks_max.with(()),
    };
    (limits, port_blocks_max, quotas)
}

fn read_or_off(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    name: &'static str,
    default: Option<u32>,
) -> Located<Option<u32>> {
    let bounds = 1..=i64::from(u32::MAX);
    let accepted = format!("\"off\", or {}", bounds_text(&bounds));
    table.value(report, name, default, &accepted, |value| {
        match value.as_str() {
            Some("off") => Ok(None),
            Some(_) => Err(Wrong::Value),
            None => integer(value, &bounds).map(Some),
        }
    })
}

fn read_block_active(report: &mut Report, table: &mut Table<'_, '_>) -> Option<Duration> {
    let (least, most) = (Duration::from_secs(60), Duration::from_secs(30 * 86_400));
    let accepted = "\"off\", or a duration in quotes such as \"4h\", from 1m to 30d";
    let active = table.parsed(report, "block_active", None, accepted, |text| {
        if text == "off" {
            return Ok(None);
        }
        match values::duration(text)? {
            active if active < least => Err("too short".to_owned()),
            active if active > most => Err("too long".to_owned()),
            active => Ok(Some(active)),
        }
    });
    active.value
}

fn read_pool_name(report: &mut Report, table: &mut Table<'_, '_>) -> Located<Option<String>> {
    let accepted = "the pool of a [[pool4]]";
    table.value(report, "pool", None, accepted, |value| {
        value
            .as_str()
            .map(|name| Some(name.to_owned()))
            .ok_or(Wrong::Type)
    })
}

fn read_destinations(
    report: &mut Report,
    table: &mut Table<'_, '_>,
    name: &'static str,
    default: &[Prefix4],
) -> Vec<Prefix4> {
    let accepted = "an IPv4 prefix, such as \"198.51.100.0/24\"";
    let list = table.parsed_list(report, name, accepted, |text| {
        let prefix: Prefix = text.parse()?;
        match prefix.ip {
            IpAddr::V4(ip) => Ok(Prefix4::new(ip, prefix.length)),
            IpAddr::V6(_) => Err("this is an IPv6 prefix".to_owned()),
        }
    });
    list.map_or(default.to_vec(), |list| values_of(list.value))
}

fn read_prefixes(report: &mut Report, table: &mut Table<'_, '_>) -> Vec<Located<Prefix6>> {
    let accepted = "an IPv6 prefix, such as \"2001:db8:1000::/36\"";
    let list = table.parsed_list(report, "prefixes", accepted, |text| {
        let prefix: Prefix = text.parse()?;
        match prefix.ip {
            IpAddr::V6(ip) => Ok(Prefix6::new(ip, prefix.length)),
            IpAddr::V4(_) => Err("this is an IPv4 prefix".to_owned()),
        }
    });
    let Some(list) = list else {
        table.missing(
            report,
            "prefixes",
            "write prefixes = [\"2001:db8:1000::/36\"]",
        );
        return Vec::new();
    };
    super::nat64::refuse_empty(report, table, &list, accepted);
    list.value
}

fn here(table: &Table<'_, '_>) -> Located<()> {
    Located {
        value: (),
        key: table.path().to_owned(),
        span: table.span(),
    }
}

fn read_class(
    report: &mut Report,
    mut table: Table<'_, '_>,
    general: &ClassLimits,
    (bypass, deny): (&[Prefix4], &[Prefix4]),
) -> ReadClass {
    let at = here(&table);
    let name = table.optional(report, "name", "a name for the class", |value| {
        let name = value.as_str().ok_or(Wrong::Type)?;
        match name.is_empty() {
            true => Err(Wrong::Value),
            false => Ok(name.to_owned()),
        }
    });
    if !table.holds("name") {
        table.missing(report, "name", "write name = \"business\"");
    }
    let prefixes = read_prefixes(report, &mut table);
    let pool = read_pool_name(report, &mut table);
    let accepted = "a prefix of nat64.pref64";
    let pref64 = table.optional(report, "pref64", accepted, |value| {
        parsed(value, |text| {
            text.parse::<Pref64>().map_err(|error| error.to_string())
        })
    });
    let (limits, port_blocks_max, quotas) = read_limits(report, &mut table, *general);
    let class = ReadClass {
        at,
        name,
        prefixes,
        port_blocks_max,
        pool,
        pref64,
        limits,
        quotas,
        bypass: read_destinations(report, &mut table, "bypass", bypass),
        deny: read_destinations(report, &mut table, "deny", deny),
    };
    table.finish(report);
    class
}

fn read_set(report: &mut Report, mut table: Table<'_, '_>) -> ReadSet {
    let at = here(&table);
    let prefixes = read_prefixes(report, &mut table);
    let pool = read_pool_name(report, &mut table);
    if !table.holds("pool") {
        table.missing(
            report,
            "pool",
            "write pool = \"…\", a pool that nobody else uses",
        );
    }
    let blocks_per_subscriber = table.integer(report, "blocks_per_subscriber", 1, 1..=64);
    let overflow = table.flag(report, "overflow", false);
    table.finish(report);
    ReadSet {
        at,
        prefixes,
        pool: pool.value.clone().map(|name| pool.with(name)),
        blocks_per_subscriber,
        overflow: overflow.value,
    }
}

fn warn_of_short_reuse(report: &mut Report, reuse: &Located<Duration>, least: Duration) {
    if reuse.value >= least {
        return;
    }
    report.push(Problem {
        severity: Severity::Warning,
        key: reuse.key.clone(),
        message: format!(
            "{} is less than {}",
            values::duration_text(reuse.value),
            values::duration_text(least)
        ),
        span: reuse.span.clone(),
        help: Some("the least that RFC 6888 REQ-8 allows".to_owned()),
    });
}
