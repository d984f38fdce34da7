//! What a configuration alone decides by calculation (RFC 7422): whose a port is, and which ports a
//! subscriber has.

use gate64_dataplane::config::{Nat64Config, Prefix6};
use gate64_dataplane::nat64::deterministic::Assignment;
use gate64_dataplane::nat64::pool4::PoolMap;

use super::answer::Holder;
use super::subject::What;
use crate::config::{Config, Pool4Source};

/// The calculated holder, and whether it may have had other ports besides, which are in the
/// journal; `None` where nothing is calculated.
pub fn holder(config: &Config, what: &What) -> Option<(Holder, bool)> {
    let pools = pools_of(config);
    let sets = pools.deterministic();
    let found = match what {
        What::Mapped(v4, port, _) => sets.reverse(&pools, *v4, *port)?,
        // A prefix with several subscribers has none by itself.
        What::Subscriber(prefix) if prefix.length < config.nat64.subscriber.prefix_length => {
            return None;
        }
        What::Subscriber(prefix) => sets.forward(&pools, prefix.ip)?,
    };
    Some((of(&found), found.overflow))
}

/// Whether a prefix has several subscribers, of which some have calculated ports.
pub fn is_of_several(config: &Config, what: &What) -> bool {
    let What::Subscriber(asked) = what else {
        return false;
    };
    let asked = Prefix6::new(asked.ip, asked.length);
    let sets = config.nat64.deterministic.iter();
    let mut ranges = sets.flat_map(|set| &set.subscribers);
    asked.length < config.nat64.subscriber.prefix_length
        && ranges.any(|range| asked.contains(range.address) || range.contains(asked.address))
}

fn of(found: &Assignment) -> Holder {
    Holder {
        subscriber: format!("{}/{}", found.prefix, found.prefix_length),
        v4: found.v4,
        port_first: found.port_first,
        port_last: found.port_last,
        from: None,
        until: None,
        source: "deterministic",
    }
}

/// The pools as numbered, of prefixes alone: an interface's address is this machine's.
fn pools_of(config: &Config) -> PoolMap {
    let prefixes = config.pools.iter().filter_map(|pool| match &pool.value {
        Pool4Source::Prefix(prefix) => Some(prefix.clone()),
        Pool4Source::Interface { .. } => None,
    });
    let nat64 = Nat64Config {
        pool4: prefixes.collect(),
        ..config.nat64.clone()
    };
    PoolMap::new(&nat64, 1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn calculated_ports_are_told_both_ways_from_the_configuration_alone() {
        let text = "[[interface]]\nname = \"eth0\"\n[nat64]\npref64 = [\"64:ff9b::/96\"]\n\
                    [[pool4]]\nprefix = \"192.0.2.0/24\"\n\
                    [[pool4]]\nprefix = \"203.0.113.0/26\"\npool = \"fixed\"\n\
                    [[subscriber.deterministic]]\nprefixes = [\"2001:db8:d000::/52\"]\n\
                    pool = \"fixed\"\n";
        let (config, _) = crate::config::parse(Path::new("x.toml"), text).unwrap();
        let ask = |what: &str| holder(&config, &what.parse().unwrap());
        let (share, overflow) = ask("2001:db8:d000:5::1").unwrap();
        assert_eq!(share.source, "deterministic");
        assert!(!overflow);
        assert_eq!(ask("2001:db8:d000:5::/64"), Some((share.clone(), false)));
        let port = format!("{}:{}/tcp", share.v4, share.port_first + 7);
        assert_eq!(ask(&port), Some((share, false)));
        for none in [
            "192.0.2.1:2000",
            "2001:db8:e000::1",
            "2001:db8:d000::/52",
            "2001:db8:d000::/0",
        ] {
            assert_eq!(ask(none), None, "{none}");
        }
    }
}
