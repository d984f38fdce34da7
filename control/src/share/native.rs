//! Native IPv6 by a delegated prefix: what the host is made to do for it while it lasts.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use gate64_dns64::{Network as Dns64Network, Synthesize};

use super::delegation::client::Lease;
use super::delegation::{ClientLink, Delegation};
use super::host::Change;
use super::journal::JournalError;
use super::{Common, setup};
use crate::netlink::kernel::{Address, Link};

/// The delegated prefix and what is made of it.
pub struct Native {
    delegation: Delegation,
    /// What an operator wants of names with real AAAA records where those lead somewhere.
    synthesize: Synthesize,
    active: Option<Lease>,
    /// Why a prefix is not used.
    hindrance: Option<String>,
}

impl Native {
    /// Begins to ask for a prefix.
    pub fn start(common: &Common, synthesize: Synthesize) -> Native {
        let network = &common.network;
        // The subnet id of the unique local prefix: another one for each downstream interface.
        let own = u128::from(network.resolver) >> 64 & 0xffff;
        let iaid = u32::try_from(own).unwrap_or(0);
        Native {
            delegation: Delegation::start(network.upstream.clone(), iaid),
            synthesize,
            active: None,
            hindrance: None,
        }
    }

    /// The prefix that clients have native IPv6 by.
    pub fn active(&self) -> Option<&Lease> {
        self.active.as_ref()
    }

    /// The /64 that clients have native IPv6 by.
    pub fn prefix(&self) -> Option<Ipv6Addr> {
        self.active.as_ref().map(lan)
    }

    /// Completes when there is something to settle.
    pub async fn changed(&mut self) {
        self.delegation.changed().await;
    }

    /// Says what the upstream is.
    pub fn follow(&self, upstream: Option<&Link>, addresses: &[Address]) {
        let upstream = upstream.filter(|link| link.has_carrier && link.mac != [0; 6]);
        self.delegation.follow(upstream.map(|link| ClientLink {
            index: link.index,
            mac: link.mac,
            link_local: setup::link_local(link, addresses),
        }));
    }

    /// Takes a prefix that has come, gone or changed. Whether clients are to be told.
    pub async fn settle(&mut self, common: &Arc<Common>) -> bool {
        let lease = self.delegation.lease();
        let hindrance = lease.as_ref().and_then(|lease| hindrance(common, lease));
        let wanted = lease.filter(|_| hindrance.is_none());
        if hindrance != self.hindrance {
            if let Some(text) = &hindrance {
                tracing::warn!("{text}: clients have no native IPv6");
            }
            self.hindrance = hindrance;
        }
        if wanted == self.active {
            return false;
        }
        let prefix = |lease: Option<Lease>| lease.map(|lease| (lease.prefix, lease.length));
        let before = self.active;
        if prefix(before) != prefix(wanted) {
            let for_task = Arc::clone(common);
            // Netlink is waited for.
            let task = move || switch(&for_task, before, wanted);
            match tokio::task::spawn_blocking(task).await {
                Ok(Ok(())) => tell(common, wanted.as_ref(), lease.as_ref()),
                Ok(Err(error)) => tracing::warn!("no native IPv6 for clients: {error}"),
                Err(_) => return false,
            }
        }
        self.active = wanted;
        true
    }

    /// DNS64 as it is to be: with native IPv6, real AAAA records lead somewhere.
    pub fn adapt_dns64(&self, dns64: &mut gate64_dns64::Config) {
        let Some(lease) = &self.active else { return };
        dns64.synthesize = self.synthesize;
        dns64.allow_from.push(Dns64Network {
            addr: IpAddr::V6(lan(lease)),
            length: 64,
        });
    }

    /// Gives the prefix back.
    pub async fn end(self) {
        self.delegation.end().await;
    }
}

/// Why clients cannot have native IPv6 by a prefix.
fn hindrance(common: &Common, lease: &Lease) -> Option<String> {
    let upstream = &common.network.upstream;
    let lan = lan(lease);
    if !setup::leads_out(upstream) {
        return Some(format!("{upstream} has no default route for IPv6"));
    }
    let is_taken = setup::global_prefixes(upstream).contains(&lan);
    is_taken.then(|| format!("{lan}/64, which is delegated, is the prefix of {upstream} itself"))
}

fn tell(common: &Common, used: Option<&Lease>, lease: Option<&Lease>) {
    let upstream = &common.network.upstream;
    match (used, lease) {
        (Some(lease), _) => tracing::info!(
            "{upstream}'s network delegates {}/{}: clients have native IPv6 by {}/64",
            lease.prefix,
            lease.length,
            lan(lease)
        ),
        (None, None) => tracing::warn!(
            "the prefix that {upstream}'s network delegated is over: clients have no native IPv6"
        ),
        // What hinders has been told.
        (None, Some(_)) => {}
    }
}

/// The /64 of a delegated prefix that clients get: its first.
pub fn lan(lease: &Lease) -> Ipv6Addr {
    lease.prefix
}

/// This host's address there.
fn address(lan: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(lan) | 1)
}

/// Makes the host a router of one prefix in place of another; nothing stands for no native IPv6.
/// Each change is in the journal.
///
/// # Errors
/// What the host refused.
fn switch(
    common: &Common,
    before: Option<Lease>,
    after: Option<Lease>,
) -> Result<(), JournalError> {
    let journal = &common.journal;
    for change in before.iter().flat_map(|lease| changes(common, lease)) {
        journal.unmake(&change)?;
    }
    for change in after.iter().flat_map(|lease| changes(common, lease)) {
        journal.make(change)?;
    }
    let no_route = Change::NoRoute {
        interface: common.network.downstream.clone(),
    };
    match (before, after) {
        (None, Some(_)) => journal.unmake(&no_route),
        (Some(_), None) => journal.make(no_route),
        _ => Ok(()),
    }
}

fn changes(common: &Common, lease: &Lease) -> Vec<Change> {
    let lan = lan(lease);
    let on_link = Change::Address {
        interface: common.network.downstream.clone(),
        ip: address(lan),
        length: 64,
    };
    // RFC 7084 section 4.3 (WPD-5): what nobody has does not go back to the upstream.
    let rest = Change::Unreachable {
        prefix: lease.prefix,
        length: lease.length,
    };
    match lease.length {
        64 => vec![on_link],
        _ => vec![rest, on_link],
    }
}
