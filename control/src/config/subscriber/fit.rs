//! What subscribers have to fit: the pools, the translation prefixes, and each other.

use std::ops::RangeInclusive;

use gate64_dataplane::config::{
    ClassLimits, DeterministicSet, Prefix6, SubscriberClass, SubscriberLimits,
};
use gate64_dataplane::nat64::deterministic::Fit;
use gate64_wire::rfc6052::Pref64;

use super::{Quotas, ReadClass, ReadSet, SubscriberSettings, Subscribers, error};
use crate::config::pool::{POOL_DEFAULT, Pool4Source, Pools};
use crate::config::problem::{Problem, Report};
use crate::config::reader::Located;

/// Classes at most: subscribers keep the number of theirs in 16 bits.
const CLASSES_MAX: usize = 1000;
/// Leading bits that a deterministic range may leave to number its subscribers.
const DETERMINISTIC_BITS_MAX: u8 = 32;

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
        let named = free.find(|(_, name)| *name == POOL_DEFAULT);
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

impl Quotas {
    /// Where what the reserve depends on is written; the reserve itself first.
    fn written(&self) -> Option<Located<()>> {
        let quotas = [&self.reserve, &self.sessions].into_iter();
        let quotas = quotas.chain(&self.ports).map(|quota| quota.with(()));
        let mut all = quotas.chain([self.blocks.clone()]);
        all.find(Located::is_explicit)
    }
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
    let least = ports.min(budget).min(limits.session_count_max);
    let reserve = limits.essential_reserve;
    // Where nothing of it is written here, it is `[subscriber]` that is told.
    if reserve > 0
        && reserve >= least
        && let Some(at) = quotas.written()
    {
        report.push(error(
            &at,
            format!(
                "the essential_reserve of {reserve} leaves nothing of the {least} ports or \
                 sessions for other destinations"
            ),
            format!("accepted: an essential_reserve of less than {least}"),
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
