//! The warning about an interface that is a pool and has another address than its pool.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gate64_dataplane::nat64::pool4::{AddressState, PoolMap};

use super::{Translator, lock};
use crate::config::{Config, Pool4Source};
use crate::machine;

/// Warns once of each change of an interface's addresses that takes the pool's from it.
#[derive(Debug, Default)]
pub(super) struct PoolAddressWarning {
    /// By interface: the address that was told, `None` where there was none.
    told: BTreeMap<String, Option<Ipv4Addr>>,
}

impl PoolAddressWarning {
    /// Warns in the log where there is cause.
    pub(super) fn look_at(&mut self, config: &Config, translator: &Translator) {
        let names = config.pools.iter().filter_map(|pool| match &pool.value {
            Pool4Source::Interface { name, .. } => Some(name.as_str()),
            Pool4Source::Prefix(_) => None,
        });
        let names: Vec<&str> = names.collect();
        if names.is_empty() {
            return;
        }
        let pool = lock(&translator.gateway).pool().clone();
        for text in self.look(&names, machine::interface_ipv4s, |ip| is_open(&pool, ip)) {
            tracing::warn!("{text}");
        }
    }

    /// What to say now. `has`: the addresses of an interface, if they can be read; `is_open`:
    /// whether an address is one that the pools give out.
    fn look(
        &mut self,
        names: &[&str],
        has: impl Fn(&str) -> Option<Vec<Ipv4Addr>>,
        is_open: impl Fn(Ipv4Addr) -> bool,
    ) -> Vec<String> {
        let mut texts = Vec::new();
        for &name in names {
            let Some(addresses) = has(name) else {
                continue;
            };
            if addresses.iter().any(|&ip| is_open(ip)) {
                self.told.remove(name);
                continue;
            }
            let first = addresses.first().copied();
            if self.told.insert(name.to_owned(), first) != Some(first) {
                texts.push(text(name, first));
            }
        }
        texts
    }
}

fn text(name: &str, first: Option<Ipv4Addr>) -> String {
    match first {
        Some(ip) => format!(
            "interface {name}, which is a pool, has the address {ip} now, and gate64 still gives out ports of \
             the one before, to which no answers come: reload (SIGHUP) to go on with {ip}"
        ),
        None => format!(
            "interface {name}, which is a pool, has no IPv4 address any more, and gate64 still gives out ports \
             of the one before, to which no answers come: give it an address, then reload (SIGHUP) if that is \
             another one"
        ),
    }
}

fn is_open(pool: &PoolMap, ip: Ipv4Addr) -> bool {
    pool.slot(ip)
        .is_some_and(|slot| pool.state(slot) == AddressState::Open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once_with_what_to_do() {
        let [before, after, other] = [1, 2, 3].map(|last| Ipv4Addr::new(192, 0, 2, last));
        let mut warning = PoolAddressWarning::default();
        let mut look = |addresses: &[Ipv4Addr], pool: Ipv4Addr| {
            warning.look(&["eth0"], |_| Some(addresses.to_vec()), |ip| ip == pool)
        };
        assert!(look(&[before], before).is_empty());
        assert!(look(&[other, before], before).is_empty(), "it has it still");
        let told = look(&[after], before);
        assert!(
            told[0].contains("eth0") && told[0].contains("reload (SIGHUP) to go on with 192.0.2.2")
        );
        assert!(look(&[after], before).is_empty(), "once");
        assert!(look(&[], before)[0].contains("no IPv4 address any more"));
        assert_eq!(look(&[after], before).len(), 1, "another change");
        assert!(look(&[after], after).is_empty(), "reloaded");
        assert_eq!(look(&[before], after).len(), 1, "and changed again");
        assert!(warning.look(&["eth0"], |_| None, |_| false).is_empty());
    }
}
