//! `[subscriber]`, `[[subscriber.class]]` and `[[subscriber.deterministic]]`.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use gate64_dataplane::config::{
    ClassLimits, DeterministicSet, Prefix4, Prefix6, RefusalAnswer, SubscriberClass,
    SubscriberLimits,
};
use gate64_dataplane::nat64::deterministic::Fit;
use gate64_wire::rfc6052::Pref64;

use super::nat64::read_duration;
use super::pool::{Pool4Source, Pools};
use super::problem::{Problem, Report, Severity};
use super::reader::{Located, Table, Wrong, bounds_text, integer, parsed};
use super::values::{self, Prefix};

const REFUSALS: [(&str, RefusalAnswer); 3] = [
    ("admin-prohibited", RefusalAnswer::AdminProhibited),
    ("address-unreachable", RefusalAnswer::AddressUnreachable),
    ("none", RefusalAnswer::None),
];
/// Keys of the port quotas, in the order of the protocols.
const PORT_QUOTAS: [&str; 3] = ["udp_ports_max", "tcp_ports_max", "icmp_ids_max"];
/// Classes at most: subscribers keep the number of theirs in 16 bits.
const CLASSES_MAX: usize = 1000;
/// Leading bits that a deterministic range may leave to number its subscribers.
const DETERMINISTIC_BITS_MAX: u8 = 32;

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

/// Holds subscribers against pools and prefixes, after blocks were fitted to the pools.
pub fn fit(
    report: &mut Report,
    settings: &SubscriberSettings,
    pools: &Pools,
    pref64: &[Pref64],
) -> Subscribers {
    let limits = settings.limits.limits();
    check_quotas(report, &settings.quotas, &limits, &settings.limits);
    let deterministic = fit_sets(report, settings, pools);
    let taken: Vec<u8> = deterministic.iter().map(|set| set.pool).collect();
    let pool = default_pool(report, &settings.pool, pools, &taken);
    if settings.classes.len() > CLASSES_MAX {
        let message = format!("{} classes", settings.classes.len());
        let help = format!("accepted: at most {CLASSES_MAX}");
        report.push(error(&settings.classes[CLASSES_MAX].at, message, help));
    }
    let mut classes = Vec::new();
    for (number, class) in settings.classes.iter().enumerate() {
        check_class(report, settings, class, &settings.classes[..number]);
        let blocks = blocks_of(pools, settings.limits.port_block_size);
        if class.port_blocks_max.is_explicit() && class.limits.port_blocks_max > blocks {
            let message = format!(
                "{} blocks are more than the {blocks} of an address",
                class.limits.port_blocks_max
            );
            let help = format!("accepted: at most {blocks}");
            report.push(error(&class.port_blocks_max, message, help));
        }
        classes.push(SubscriberClass {
            name: class
                .name
                .as_ref()
                .map_or(String::new(), |name| name.value.clone()),
            prefixes: class.prefixes.iter().map(|prefix| prefix.value).collect(),
            limits: ClassLimits {
                port_blocks_max: class.limits.port_blocks_max.min(blocks.max(1)),
                ..class.limits
            },
            pool: match &class.pool.value {
                None => pool,
                Some(_) => default_pool(report, &class.pool, pools, &taken),
            },
            pref64: class_pref64(report, class, pref64),
            bypass: class.bypass.clone(),
            deny: class.deny.clone(),
        });
    }
    Subscribers {
        pool,
        classes,
        deterministic,
    }
}

/// Blocks of the address that has the fewest.
fn blocks_of(pools: &Pools, block_size: u16) -> u16 {
    let ports = pools
        .all
        .iter()
        .map(|pool| pool.value.ports().clone().count());
    let blocks = ports.min().unwrap_or(usize::MAX) / usize::from(block_size);
    u16::try_from(blocks).unwrap_or(u16::MAX)
}

fn default_pool(
    report: &mut Report,
    wanted: &Located<Option<String>>,
    pools: &Pools,
    taken: &[u8],
) -> u8 {
    let Some(name) = &wanted.value else {
        // The one that is called so, or the first that is not taken.
        let free = (0u8..).zip(&pools.names);
        let mut free = free.filter(|(number, _)| !taken.contains(number));
        let first = free.clone().next().map_or(0, |(number, _)| number);
        let named = free.find(|(_, name)| *name == super::pool::POOL_DEFAULT);
        return named.map_or(first, |(number, _)| number);
    };
    let Some(number) = pools.number_of(name) else {
        report.push(unknown_pool(&wanted.with(name.clone()), pools));
        return 0;
    };
    if taken.contains(&number) {
        report.push(error(
            wanted,
            format!("pool {name:?} is that of a [[subscriber.deterministic]]"),
            "accepted: a pool that no deterministic set uses",
        ));
    }
    number
}

fn unknown_pool(at: &Located<String>, pools: &Pools) -> Problem {
    let names: Vec<String> = pools.names.iter().map(|name| format!("{name:?}")).collect();
    error(
        at,
        format!("no [[pool4]] has pool = {:?}", at.value),
        format!("accepted: {}", names.join(", ")),
    )
}

/// Quotas must not promise more than the blocks hold.
fn check_quotas(
    report: &mut Report,
    quotas: &Quotas,
    limits: &ClassLimits,
    general: &SubscriberLimits,
) {
    let (count, size) = (limits.port_blocks_max, general.port_block_size);
    let budget = u32::from(count) * u32::from(size);
    for quota in quotas.ports.iter().filter(|quota| quota.is_explicit()) {
        if quota.value > budget {
            let message = format!(
                "{} ports are more than the {budget} of {count} blocks of {size}",
                quota.value
            );
            let help = format!("accepted: at most {budget}, or a larger port_blocks_max");
            report.push(error(quota, message, help));
        }
    }
    let ports = limits.ports_max.iter().copied().min().unwrap_or(budget);
    let least = ports.min(budget).min(quotas.sessions.value);
    if limits.essential_reserve >= least && limits.essential_reserve > 0 {
        report.push(error(
            &quotas.reserve,
            format!(
                "{} leaves nothing of the {least} ports or sessions for other destinations",
                limits.essential_reserve
            ),
            format!("accepted: less than {least}"),
        ));
    }
}

fn check_class(
    report: &mut Report,
    settings: &SubscriberSettings,
    class: &ReadClass,
    earlier: &[ReadClass],
) {
    check_quotas(report, &class.quotas, &class.limits, &settings.limits);
    let length = settings.limits.prefix_length;
    for (number, prefix) in class.prefixes.iter().enumerate() {
        check_length(report, prefix, length);
        let mut before = earlier
            .iter()
            .flat_map(|class| &class.prefixes)
            .chain(&class.prefixes[..number]);
        if before.any(|other| other.value == prefix.value) {
            report.push(error(
                prefix,
                format!("{} is given twice", text(&prefix.value)),
                "accepted: each prefix once; of prefixes inside each other the longest counts",
            ));
        }
    }
    if let Some(name) = &class.name {
        let mut names = earlier.iter().filter_map(|class| class.name.as_ref());
        if names.any(|other| other.value == name.value) {
            let message = format!("two classes have the name {:?}", name.value);
            report.push(error(name, message, "accepted: a name for each class"));
        }
    }
}

fn check_length(report: &mut Report, prefix: &Located<Prefix6>, length: u8) {
    if prefix.value.length > length {
        report.push(error(
            prefix,
            format!(
                "{} is longer than a subscriber, which is a /{length}",
                text(&prefix.value)
            ),
            format!("accepted: at most /{length} (subscriber.prefix_length)"),
        ));
    }
}

fn text(prefix: &Prefix6) -> String {
    format!("{}/{}", prefix.address, prefix.length)
}

fn class_pref64(report: &mut Report, class: &ReadClass, pref64: &[Pref64]) -> u8 {
    let Some(wanted) = &class.pref64 else {
        return 0;
    };
    let found = (0u8..).zip(pref64).find(|(_, one)| **one == wanted.value);
    if found.is_none() {
        let known: Vec<String> = pref64.iter().map(ToString::to_string).collect();
        report.push(error(
            wanted,
            format!("{} is not in nat64.pref64", wanted.value),
            format!("accepted: {}", known.join(", ")),
        ));
    }
    found.map_or(0, |(number, _)| number)
}

fn fit_sets(
    report: &mut Report,
    settings: &SubscriberSettings,
    pools: &Pools,
) -> Vec<DeterministicSet> {
    let mut sets: Vec<DeterministicSet> = Vec::new();
    let mut ranges: Vec<Prefix6> = Vec::new();
    for set in &settings.deterministic {
        for prefix in &set.prefixes {
            check_length(report, prefix, settings.limits.prefix_length);
            check_overlap(report, prefix, &ranges);
            ranges.push(prefix.value);
        }
        let Some(pool) = &set.pool else {
            continue;
        };
        let Some(number) = pools.number_of(&pool.value) else {
            report.push(unknown_pool(pool, pools));
            continue;
        };
        if sets.iter().any(|other| other.pool == number) {
            let message = format!("two deterministic sets use pool {:?}", pool.value);
            report.push(error(pool, message, "accepted: a pool for each set"));
        }
        check_set_pool(report, pool, number, pools);
        check_fit(report, settings, set, number, pools);
        sets.push(DeterministicSet {
            subscribers: set.prefixes.iter().map(|prefix| prefix.value).collect(),
            pool: number,
            blocks_per_subscriber: set.blocks_per_subscriber.value,
            overflow: set.overflow,
        });
    }
    sets
}

fn check_overlap(report: &mut Report, prefix: &Located<Prefix6>, earlier: &[Prefix6]) {
    let holds = |a: &Prefix6, b: &Prefix6| a.length <= b.length && a.contains(b.address);
    let other = earlier
        .iter()
        .find(|other| holds(other, &prefix.value) || holds(&prefix.value, other));
    if let Some(other) = other {
        report.push(error(
            prefix,
            format!("{} overlaps {}", text(&prefix.value), text(other)),
            "accepted: ranges that share no subscriber",
        ));
    }
}

/// The calculation needs addresses that are all alike.
fn check_set_pool(report: &mut Report, at: &Located<String>, number: u8, pools: &Pools) {
    let of_pool: Vec<_> = pools.of(number).collect();
    let ports: Vec<&RangeInclusive<u16>> = of_pool.iter().map(|pool| pool.value.ports()).collect();
    if ports.windows(2).any(|pair| pair[0] != pair[1]) {
        report.push(error(
            at,
            format!("the [[pool4]] of pool {:?} have different ports", at.value),
            "accepted: the same ports for all addresses of a deterministic set",
        ));
    }
    for pool in of_pool {
        let is_fixed =
            matches!(&pool.value, Pool4Source::Prefix(prefix) if prefix.drain.is_empty());
        if !is_fixed {
            report.push(error(
                pool,
                "a deterministic set counts on all of its addresses".to_owned(),
                "accepted: prefix = \"…\" without drain",
            ));
        }
    }
}

fn check_fit(
    report: &mut Report,
    settings: &SubscriberSettings,
    set: &ReadSet,
    number: u8,
    pools: &Pools,
) {
    let length = settings.limits.prefix_length;
    let mut subscribers = 0_u64;
    for prefix in &set.prefixes {
        let bits = length.saturating_sub(prefix.value.length);
        if bits > DETERMINISTIC_BITS_MAX {
            let least = length - DETERMINISTIC_BITS_MAX;
            report.push(error(
                prefix,
                format!("{} holds more than 2^32 subscribers", text(&prefix.value)),
                format!("accepted: at least /{least}"),
            ));
            return;
        }
        subscribers += 1 << bits;
    }
    let size = settings.limits.port_block_size;
    let ports = pools
        .of(number)
        .map(|pool| pool.value.ports().clone().count());
    let blocks = ports.min().unwrap_or(0) / usize::from(size);
    let fit = Fit {
        subscribers,
        addresses: pools
            .of(number)
            .map(|pool| pool.value.address_count())
            .sum(),
        blocks_per_address: blocks as u64,
        blocks_per_subscriber: set.blocks_per_subscriber.value.into(),
    };
    if fit.fits() {
        return;
    }
    let addresses = fit.addresses_needed();
    let needed = addresses.map_or(String::new(), |count| format!("{count} addresses, or "));
    report.push(error(
        &set.at,
        format!(
            "{} subscribers with {} blocks of {size} ports each do not fit {} addresses with {} \
             blocks each: they have room for {}",
            fit.subscribers,
            fit.blocks_per_subscriber,
            fit.addresses,
            fit.blocks_per_address,
            fit.subscribers_max()
        ),
        format!(
            "would fit: {needed}{}at most {} subscribers",
            smaller_block(&fit, size),
            fit.subscribers_max()
        ),
    ));
}

/// The block size that would do, if there is one.
fn smaller_block(fit: &Fit, size: u16) -> String {
    let mut smaller = size / 2;
    while smaller >= 64 {
        let blocks_per_address = fit.blocks_per_address * u64::from(size / smaller);
        let with = Fit {
            blocks_per_address,
            ..*fit
        };
        if with.fits() {
            return format!("port_block_size = {smaller}, or ");
        }
        smaller /= 2;
    }
    String::new()
}
