//! Which clients are answered, and under which policy.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{AllowFrom, Config, Network};
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
    allow_from: AllowFrom,
    neighbours: Arc<Neighbours>,
    synthesize_for: Vec<Network>,
    own: Vec<(Vec<Network>, ClientClass)>,
}

impl Clients {
    pub(crate) fn new(config: &Config, neighbours: Arc<Neighbours>) -> Clients {
        let own = config.client.iter().zip(ClientClass::FIRST_OWN..);
        Clients {
            allow_from: config.allow_from.clone(),
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
        let is_answered = match &self.allow_from {
            AllowFrom::Networks(networks) => Network::any_contains(networks, client),
            AllowFrom::Neighbours => self.neighbours.contain(client),
        };
        if !is_answered {
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
}
