//! Which clients are answered, and under which policy.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Config, Network, Strangers};
use crate::neighbours::Neighbours;

/// A number that stands for all that a client's network changes in its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientClass(pub(crate) u8);

impl ClientClass {
    /// Gets what the upstream says.
    pub(crate) const UNCHANGED: ClientClass = ClientClass(0);
    /// Gets synthesis as configured for everyone.
    pub(crate) const DEFAULT: ClientClass = ClientClass(1);
    /// The class of the first `[[dns64.client]]` table.
    pub(crate) const FIRST_OWN: u8 = 2;
}

/// Sorts clients by their address.
pub(crate) struct Clients {
    allow_from: Vec<Network>,
    strangers: Strangers,
    neighbours: Arc<Neighbours>,
    synthesize_for: Vec<Network>,
    own: Vec<(Vec<Network>, ClientClass)>,
}

impl Clients {
    pub(crate) fn new(config: &Config, neighbours: Arc<Neighbours>) -> Clients {
        let own = config.client.iter().zip(ClientClass::FIRST_OWN..);
        Clients {
            allow_from: config.allow_from.clone(),
            strangers: config.strangers,
            neighbours,
            synthesize_for: config.synthesize_for.clone(),
            own: own
                .map(|(client, class)| match client.synthesize {
                    None => (client.networks.clone(), ClientClass::UNCHANGED),
                    Some(_) => (client.networks.clone(), ClientClass(class)),
                })
                .collect(),
        }
    }

    /// The class of a client; nothing if it is not answered.
    pub(crate) fn class(&self, client: IpAddr) -> Option<ClientClass> {
        let client = client.to_canonical();
        if !self.allow(client) {
            return None;
        }
        let own = self.own.iter();
        let mut own = own.filter(|(networks, _)| Network::any_contains(networks, client));
        if let Some((_, class)) = own.next() {
            return Some(*class);
        }
        match Network::any_contains(&self.synthesize_for, client) {
            true => Some(ClientClass::DEFAULT),
            false => Some(ClientClass::UNCHANGED),
        }
    }
    /// A network of everyone's stands for those that this machine knows a way to.
    fn allow(&self, client: IpAddr) -> bool {
        let holding = self.allow_from.iter().filter(|n| n.contains(client));
        let lengths = holding.map(|network| network.length);
        lengths.max().is_some_and(|length| {
            length > 0 || self.strangers == Strangers::Answer || self.neighbours.contain(client)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(config: &Config, client: &str) -> Option<u8> {
        let neighbours = Arc::new(Neighbours::private());
        let class = Clients::new(config, neighbours).class(client.parse().unwrap());
        class.map(|class| class.0)
    }

    fn networks(list: &[&str]) -> Vec<Network> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn strangers_are_refused_until_the_operator_names_or_wants_them() {
        let mut config = Config::default();
        assert_eq!(class(&config, "fd00::1"), Some(1));
        assert_eq!(class(&config, "::ffff:10.0.0.1"), Some(1));
        assert_eq!(class(&config, "2001:db8::1"), None);
        assert_eq!(class(&config, "203.0.113.1"), None);
        config.allow_from.extend(networks(&["2001:db8::/32"]));
        assert_eq!(class(&config, "2001:db8::1"), Some(1));
        assert_eq!(class(&config, "203.0.113.1"), None);
        config.strangers = Strangers::Answer;
        assert_eq!(class(&config, "203.0.113.1"), Some(1));
        config.allow_from = networks(&["2001:db8::/32"]);
        assert_eq!(class(&config, "203.0.113.1"), None);
        assert_eq!(class(&config, "fd00::1"), None);
    }

    #[test]
    fn the_first_table_that_holds_a_client_counts() {
        use crate::config::{ClientPolicy, Synthesize};
        let table = |network: &str, synthesize| ClientPolicy {
            networks: networks(&[network]),
            synthesize,
            pref64: Vec::new(),
        };
        let config = Config {
            client: vec![
                table("fd00:1::/32", Some(Synthesize::Always)),
                table("fd00:2::/32", None),
                table("fd00::/16", Some(Synthesize::Missing)),
            ],
            synthesize_for: networks(&["fd01::/16"]),
            ..Config::default()
        };
        let classes = ["fd00:1::1", "fd00:2::1", "fd00:3::1", "fd01::1", "fd02::1"];
        let classes = classes.map(|client| class(&config, client));
        assert_eq!(classes, [Some(2), Some(0), Some(4), Some(1), Some(0)]);
    }
}
