//! What a subscriber has and may have, what its next packet would get, and why it was refused.

use std::net::Ipv6Addr;

use gate64_dataplane::command::{Command, Filter, SubscriberRow};
use gate64_dataplane::config::{ClassLimits, Prefix4, RefusalAnswer};
use gate64_dataplane::counters;
use gate64_dataplane::nat64::class::{Class, Classes};
use gate64_dataplane::nat64::ownership::mask;
use gate64_dataplane::nat64::pool4::AddressState;
use gate64_log::Prefix6;

use super::explain::ask_all;
use crate::config::Config;
use crate::lookup::{self, What};
use crate::state::State;

/// Explains the subscriber of a host, line by line. Asks workers, so it blocks.
pub fn explain(state: &State, config: &Config, ip: Ipv6Addr) -> Vec<String> {
    let classes = Classes::new(&config.nat64);
    let number = classes.number_of(u128::from(ip));
    let class = classes.get(number);
    let length = config.nat64.subscriber.prefix_length;
    let prefix = Prefix6 {
        ip: Ipv6Addr::from(u128::from(ip) & mask(length)),
        length,
    };
    let named = usize::from(number).checked_sub(1);
    let named = named.and_then(|place| config.nat64.classes.get(place));
    let mut lines = vec![match named {
        Some(class) => format!("subscriber {prefix}, of class {:?}", class.name),
        None => format!("subscriber {prefix}, of no class"),
    }];
    let (bypass, deny) = match named {
        Some(class) => (&class.bypass, &class.deny),
        None => (&config.nat64.bypass, &config.nat64.deny),
    };
    lines.extend(list("routed on as IPv6, not translated", bypass));
    lines.extend(list("refused", deny));
    let calculated = lookup::calculated_holder(config, &What::Subscriber(prefix));
    if let Some((holder, overflow)) = &calculated {
        lines.push(format!(
            "has {} ports {}-{} by calculation (deterministic){}",
            holder.v4,
            holder.port_first,
            holder.port_last,
            if *overflow {
                ", and dynamic blocks besides"
            } else {
                ""
            }
        ));
    }
    lines.push(limits_text(config, &class.limits));
    let rows = ask_all(state, |reply| Command::Subscribers {
        filter: Filter {
            v6: Some((ip, length)),
            ..Filter::default()
        },
        cursor: 0,
        limit: 1,
        reply,
    });
    match rows.first() {
        None => lines.push("holds no ports at present".to_owned()),
        Some((worker, row)) => lines.extend(held(*worker, row, &class.limits)),
    }
    if calculated.is_none_or(|(_, overflow)| overflow) {
        lines.push(
            match rows.first().filter(|(_, row)| !row.blocks.is_empty()) {
                Some((worker, row)) => further_block(state, class, *worker, row),
                None => first_block(state, config, class),
            },
        );
    }
    lines
}

fn list(what: &str, prefixes: &[Prefix4]) -> Option<String> {
    let texts: Vec<String> = prefixes
        .iter()
        .map(|prefix| format!("{}/{}", prefix.address, prefix.length))
        .collect();
    (!texts.is_empty()).then(|| format!("{what}: {}", texts.join(", ")))
}

fn limits_text(config: &Config, limits: &ClassLimits) -> String {
    let size = config.nat64.subscriber.port_block_size;
    let (blocks, plural) = match limits.port_blocks_max {
        1 => (1, ""),
        blocks => (blocks, "s"),
    };
    let mut parts = vec![format!("{blocks} block{plural} of {size} ports")];
    for (max, what) in limits
        .ports_max
        .iter()
        .zip(["UDP ports", "TCP ports", "ICMP ids"])
    {
        if *max < u32::MAX {
            parts.push(format!("{max} {what}"));
        }
    }
    parts.push(format!("{} sessions", limits.session_count_max));
    if let Some(rate) = limits.session_rate_max {
        parts.push(format!("{rate} new sessions a second"));
    }
    let mut text = format!("may have {}", parts.join(", "));
    if limits.essential_reserve > 0 {
        let ports: Vec<String> = config
            .nat64
            .essential_ports
            .iter()
            .map(u16::to_string)
            .collect();
        text.push_str(&format!(
            "; {} of its ports and sessions only for port {}",
            limits.essential_reserve,
            ports.join(", ")
        ));
    }
    text
}

fn held(worker: u8, row: &SubscriberRow, limits: &ClassLimits) -> Vec<String> {
    let [udp, tcp, icmp] = row.ports_used;
    let mut lines = vec![format!(
        "has, on worker {worker}: pool address {}, {} of {} blocks, {} of {} sessions; ports in \
         use: {udp} udp, {tcp} tcp, {icmp} icmp",
        row.v4,
        row.blocks.len(),
        limits.port_blocks_max,
        row.session_count,
        limits.session_count_max
    )];
    for first in &row.blocks {
        let last = first.saturating_add(row.block_size.saturating_sub(1));
        lines.push(format!("port block {}:{first}-{last}", row.v4));
    }
    if let Some(reason) = row.last_refusal {
        lines.push(format!(
            "refused {} times, the last time for {}: {}",
            row.refusals,
            reason.label(),
            reason.sentence()
        ));
    }
    lines
}

/// What a packet would get that needs one more block: of the address that the others are of.
fn further_block(state: &State, class: &Class, worker: u8, row: &SubscriberRow) -> String {
    let answer = answer_text(class);
    if row.blocks.len() >= usize::from(class.limits.port_blocks_max) {
        return format!(
            "gets no further block: packets that need one are dropped as subscriber_ports, {answer}"
        );
    }
    let of_address = ask_all(state, |reply| Command::Pool {
        filter: Filter {
            v4: Some(row.v4),
            ..Filter::default()
        },
        cursor: 0,
        limit: 1,
        reply,
    });
    let address = of_address.iter().find(|(of, _)| *of == worker);
    let free = address.map_or(0, |(_, pool)| {
        let taken = pool.blocks_used + pool.blocks_resting;
        pool.blocks_total.saturating_sub(taken)
    });
    let is_open = address.is_some_and(|(_, pool)| pool.state == AddressState::Open);
    let why = match (is_open, free) {
        (false, _) => "its address is being drained",
        (true, 0) => "no block is free of its address, on which all its ports lie",
        (true, free) => {
            return format!(
                "a further block would come from its address {}: {free} are free",
                row.v4
            );
        }
    };
    format!(
        "gets no further block now: {why}; packets that need one are dropped as pool_exhausted, \
         {answer}"
    )
}

fn answer_text(class: &Class) -> &'static str {
    match class.limits.refusal {
        RefusalAnswer::AdminProhibited => "answered with administratively prohibited",
        RefusalAnswer::AddressUnreachable => "answered with address unreachable",
        RefusalAnswer::None => "not answered",
    }
}

/// What the first packet would get.
fn first_block(state: &State, config: &Config, class: &Class) -> String {
    let pool = usize::from(class.pool);
    let name = config.nat64.pool_names.get(pool);
    let name = name.map_or("default", String::as_str);
    let free: Vec<u64> = state
        .workers
        .iter()
        .map(|worker| {
            let taken = worker.get(counters::pool_blocks_used(pool))
                + worker.get(counters::pool_blocks_resting(pool));
            worker
                .get(counters::pool_blocks_total(pool))
                .saturating_sub(taken)
        })
        .collect();
    let total: u64 = free.iter().sum();
    if total == 0 {
        return format!(
            "no block is free in pool {name:?}: packets that need one are dropped as \
             pool_exhausted, {}",
            answer_text(class)
        );
    }
    let without: Vec<String> = (0..)
        .zip(&free)
        .filter(|(_, free)| **free == 0)
        .map(|(worker, _): (usize, _)| worker.to_string())
        .collect();
    let without = match without.is_empty() {
        true => String::new(),
        false => format!(" (none on worker {})", without.join(", ")),
    };
    format!("a block would come from pool {name:?}: {total} are free{without}")
}
