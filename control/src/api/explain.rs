//! What gate64 does with an address: which role it has here, and what becomes of its packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gate64_dataplane::command::{Command, Filter, Page};
use gate64_wire::rfc6052::Pref64;

use super::model::Explanation;
use super::subscriber;
use crate::config::{Config, Pool4Source};
use crate::state::State;

/// Explains an address. Asks workers, so it blocks.
pub fn explain(state: &State, ip: IpAddr) -> Explanation {
    let config = state.config.load();
    let mut lines = match ip {
        IpAddr::V6(ip) => explain_v6(state, &config, ip),
        IpAddr::V4(ip) => explain_v4(state, &config, ip),
    };
    if config.has_nat64() {
        lines.push(format!("route: {}", state.surroundings.route_text(ip)));
    }
    Explanation {
        address: ip.to_string(),
        lines,
    }
}

fn explain_v6(state: &State, config: &Config, ip: Ipv6Addr) -> Vec<String> {
    let found = config
        .pref64
        .iter()
        .find_map(|pref64| Some((*pref64, pref64.extract(ip)?)));
    if let Some((pref64, v4)) = found {
        let mut lines = vec![format!("in the translation prefix {pref64}: it means {v4}")];
        if let Some(refusal) = wkp_refusal(config, pref64, v4) {
            lines.push(refusal);
        }
        if is_pool_address(config, v4) {
            lines.push(match config.nat64.hairpin {
                true => format!("{v4} is a pool address: packets hairpin (RFC 6146 section 3.8)"),
                false => format!("{v4} is a pool address, and nat64.hairpin = false: dropped"),
            });
        }
        return lines;
    }
    let mut lines = vec!["an IPv6 host: not in any translation prefix".to_owned()];
    if config.has_nat64() {
        lines.extend(subscriber::explain(state, config, ip));
    }
    lines
}

fn wkp_refusal(config: &Config, pref64: Pref64, v4: Ipv4Addr) -> Option<String> {
    let is_refused = config.nat64.wkp_strict && pref64.is_well_known() && !is_global(v4);
    is_refused.then(|| {
        format!(
            "{v4} is not global: dropped, since the well-known prefix must not carry it \
             (RFC 6052 section 3.1; nat64.wkp_strict = true)"
        )
    })
}

/// The special-purpose registry of RFC 6890, as far as it is not globally reachable.
fn is_global(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_protocol = (a, b, c) == (192, 0, 0);
    let is_benchmark = a == 198 && (b == 18 || b == 19);
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || ip.is_multicast()
        || a == 0
        || a >= 240
        || is_shared
        || is_protocol
        || is_benchmark)
}

fn explain_v4(state: &State, config: &Config, ip: Ipv4Addr) -> Vec<String> {
    let mut lines = Vec::new();
    if is_pool_address(config, ip) {
        lines.push("a pool address".to_owned());
        let rows = ask_all(state, |reply| Command::Pool {
            filter: Filter {
                v4: Some(ip),
                ..Filter::default()
            },
            cursor: 0,
            limit: 1,
            reply,
        });
        for (worker, row) in rows.iter().filter(|(_, row)| row.v4 == ip) {
            let [udp, tcp, icmp] = row.ports_used;
            lines.push(format!(
                "worker {worker}: {} of {} port blocks in use by {} subscribers; ports in use: \
                 {udp} udp, {tcp} tcp, {icmp} icmp",
                row.blocks_used, row.blocks_total, row.subscribers
            ));
        }
        return lines;
    }
    lines.push("an IPv4 host: no pool address".to_owned());
    for pref64 in &config.pref64 {
        match wkp_refusal(config, *pref64, ip) {
            None => lines.push(format!("clients reach it as {}", pref64.embed(ip))),
            Some(refusal) => lines.push(refusal),
        }
    }
    lines
}

fn is_pool_address(config: &Config, ip: Ipv4Addr) -> bool {
    config.pools.iter().any(|pool| match &pool.value {
        Pool4Source::Prefix(prefix) => {
            let host_bits = u32::MAX.checked_shr(u32::from(prefix.length)).unwrap_or(0);
            u32::from(ip) & !host_bits == u32::from(prefix.address) && !prefix.exclude.contains(&ip)
        }
        Pool4Source::Interface { name, .. } => crate::machine::interface_ipv4(name) == Some(ip),
    })
}

pub(super) fn ask_all<T>(
    state: &State,
    command: impl Fn(crossbeam::channel::Sender<Page<T>>) -> Command,
) -> Vec<(u8, T)> {
    let answers = state
        .worker_ids()
        .filter_map(|worker| Some((worker.0, state.ask_worker(worker, &command)?)));
    answers
        .flat_map(|(worker, page)| page.rows.into_iter().map(move |row| (worker, row)))
        .collect()
}
