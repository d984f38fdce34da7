//! Native IPv6 by a delegated prefix: what the host is made to do for it while it lasts.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use gate64_dns64::{Network as Dns64Network, Synthesize};
use tokio::time::sleep_until;

use super::delegation::client::Lease;
use super::delegation::{ClientLink, Delegation};
use super::host::Change;
use super::journal::{Journal, JournalError};
use super::retry::Retry;
use super::{Common, setup};
use crate::netlink::kernel::{Address, Link};

/// The delegated prefix and what is made of it.
pub struct Native {
    delegation: Delegation,
    /// What an operator wants of names with real AAAA records where those lead somewhere.
    synthesize: Synthesize,
    active: Option<Lease>,
    /// What the host may have been changed for: the prefix in use, or those that it refused.
    on_host: Vec<Lease>,
    /// Why a prefix is not used.
    hindrance: Option<String>,
    /// The host refused the last change.
    retry: Retry,
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
            on_host: Vec::new(),
            hindrance: None,
            retry: Retry::default(),
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
        let retry_at = self.retry.at();
        let at = retry_at.unwrap_or_else(Instant::now);
        tokio::select! {
            () = self.delegation.changed() => {}
            () = sleep_until(at.into()), if retry_at.is_some() => {}
        }
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
        let is_on_host = match (&wanted, &self.on_host[..]) {
            (None, []) => true,
            (Some(wanted), [there]) => is_same(wanted, there),
            _ => false,
        };
        let before = self.active;
        if is_on_host && self.retry.at().is_none() {
            self.active = wanted;
        } else if self.retry.is_due(Instant::now()) {
            self.active = self.switch(common, wanted, lease.as_ref()).await;
        }
        self.active != before
    }

    /// Changes the host. The prefix that clients have by it then: none if the host refuses, which is tried again.
    async fn switch(
        &mut self,
        common: &Arc<Common>,
        wanted: Option<Lease>,
        lease: Option<&Lease>,
    ) -> Option<Lease> {
        let before = self.on_host.clone();
        let for_task = (Arc::clone(common), before);
        // Netlink is waited for.
        let task = move || {
            let (common, before) = for_task;
            let downstream = &common.network.downstream;
            switch(&common.journal, downstream, &before, wanted.as_ref())
        };
        let reason = match tokio::task::spawn_blocking(task).await {
            Ok(Ok(())) => {
                self.on_host = wanted.into_iter().collect();
                self.retry.succeed();
                tell(common, wanted.as_ref(), lease);
                return wanted;
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        if let Some(wanted) = wanted
            && !self.on_host.iter().any(|there| is_same(there, &wanted))
        {
            self.on_host.push(wanted);
        }
        if self.retry.refuse(&reason, Instant::now()) {
            tracing::warn!("clients have no native IPv6, which is tried again: {reason}");
        }
        None
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

/// Whether two leases are of one prefix.
fn is_same(one: &Lease, other: &Lease) -> bool {
    (one.prefix, one.length) == (other.prefix, other.length)
}

/// Makes the host a router of one prefix in place of others; nothing stands for no native IPv6.
/// Each change is in the journal.
///
/// # Errors
/// What the host refused. Clients have no native IPv6 then, as far as the host lets it be put back.
fn switch(
    journal: &Journal,
    downstream: &str,
    before: &[Lease],
    after: Option<&Lease>,
) -> Result<(), JournalError> {
    let no_route = Change::NoRoute {
        interface: downstream.to_owned(),
    };
    let made = before
        .iter()
        .flat_map(|lease| changes(downstream, lease))
        .try_for_each(|change| journal.unmake(&change))
        .and_then(|()| match after {
            None => journal.make(no_route.clone()),
            Some(lease) => changes(downstream, lease)
                .into_iter()
                .try_for_each(|change| journal.make(change))
                .and_then(|()| journal.unmake(&no_route)),
        });
    if made.is_err() {
        let halves = after
            .into_iter()
            .flat_map(|lease| changes(downstream, lease));
        // What cannot be put back now is tried again with the change, and at the end.
        for change in halves {
            let _ = journal.unmake(&change);
        }
        let _ = journal.make(no_route);
    }
    made
}

fn changes(downstream: &str, lease: &Lease) -> Vec<Change> {
    let lan = lan(lease);
    let on_link = Change::Address {
        interface: downstream.to_owned(),
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

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn lease(prefix: &str, length: u8) -> Lease {
        Lease {
            prefix: prefix.parse().unwrap(),
            length,
            preferred_until: None,
            valid_until: None,
        }
    }

    /// What `ip` says.
    pub fn ip(words: &str) -> String {
        let output = Command::new("ip").args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What the host has: its address on the link, the rest of the prefix, and "no route".
    fn state() -> (bool, bool, bool) {
        (
            ip("-6 address show dev down0").contains("2001:db8:"),
            ip("-6 route show table all").contains("unreachable"),
            ip("-6 rule show").contains("down0"),
        )
    }

    /// In a network namespace of this thread's own, which goes with it.
    pub fn in_namespace(name: &str, test: impl FnOnce(&Journal, &Path) + Send + 'static) {
        let name = format!("gate64-{name}-{}", std::process::id());
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            ip("link add down0 type veth peer name peer0");
            ip("link set down0 up");
            let directory = std::env::temp_dir().join(name);
            let (journal, _) = Journal::begin(&directory, "up0", "down0").unwrap();
            test(&journal, &directory);
            journal.end().unwrap();
            std::fs::remove_dir_all(&directory).unwrap();
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_prefix_that_the_host_refuses_leaves_no_half_of_it_and_another_can_follow() {
        in_namespace("native", |journal, _| {
            let set = |before: &[Lease], after| switch(journal, "down0", before, after);
            set(&[], None).unwrap();
            assert_eq!(state(), (false, false, true));
            let first = lease("2001:db8:1::", 56);
            set(&[], Some(&first)).unwrap();
            assert_eq!(state(), (true, true, false));
            // The kernel takes no multicast address; the route for the rest of it would stay.
            let refused = lease("ff05::", 56);
            let error = set(&[first], Some(&refused)).unwrap_err().to_string();
            assert!(error.contains("refuses"), "{error}");
            assert_eq!(state(), (false, false, true));
            let next = lease("2001:db8:2::", 56);
            set(&[first, refused], Some(&next)).unwrap();
            assert_eq!(state(), (true, true, false));
            set(&[next], None).unwrap();
            assert_eq!(state(), (false, false, true));
        });
    }
}
