//! What clients' names are resolved by: DNS64 follows the host's resolvers and native IPv6 while it
//! runs, and an operator is told when nobody asks it.

use std::net::Ipv6Addr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::native::Native;
use super::retry::Retry;
use super::{Common, resolvers};
use crate::state::State;

/// Clients that have asked DNS64 nothing for so long are worth a hint.
const UNASKED_MAX: Duration = Duration::from_secs(30);

/// The state of it.
pub struct Names {
    /// What DNS64 was told last.
    told: Option<Told>,
    /// It refused what it was told.
    retry: Retry,
    /// Since when there are clients that have asked nothing; `None` once that is settled.
    unasked_since: Option<Instant>,
}

/// What the DNS64 of a gateway was told: the host's resolvers, and the /64 of native IPv6.
struct Told {
    gateway: Weak<State>,
    resolvers: Vec<gate64_dns64::Upstream>,
    native: Option<Ipv6Addr>,
}

impl Names {
    /// At the start of a share.
    pub fn new() -> Names {
        Names {
            told: None,
            retry: Retry::default(),
            unasked_since: Some(Instant::now()),
        }
    }

    /// Where DNS64 asks the host's resolvers, it asks those that the host has now; and native IPv6
    /// may have come or gone since the gateway started.
    pub fn follow(&mut self, common: &Common, native: Option<&Native>) {
        let Some(state) = common.gateway.load_full() else {
            return;
        };
        let (Some(server), Some(mut dns64)) = (&state.dns64, state.config.load().dns64.clone())
        else {
            return;
        };
        let gateway = Arc::downgrade(&state);
        let told = self.told.take();
        let told = told.filter(|told| Weak::ptr_eq(&told.gateway, &gateway));
        let told = told.unwrap_or_else(|| Told {
            gateway: Weak::clone(&gateway),
            resolvers: dns64.upstream.clone(),
            native: None,
        });
        let mut now = Told {
            gateway,
            resolvers: told.resolvers.clone(),
            native: native.and_then(Native::prefix),
        };
        if common.follows_resolvers {
            let of_host = resolvers::of_host();
            if !of_host.is_empty() {
                now.resolvers = of_host;
            }
        }
        let is_told = told.resolvers == now.resolvers && told.native == now.native;
        if is_told || !self.retry.is_due(Instant::now()) {
            self.told = Some(told);
            return;
        }
        dns64.upstream.clone_from(&now.resolvers);
        if let Some(native) = native {
            native.adapt_dns64(&mut dns64);
        }
        let reloaded = server.reload(dns64).map_err(|error| error.to_string());
        self.told = Some(self.note(reloaded, told, now));
    }

    /// What DNS64 goes by, after it was told of something else.
    fn note(&mut self, reloaded: Result<(), String>, before: Told, now: Told) -> Told {
        if let Err(reason) = reloaded {
            if self.retry.refuse(&reason, Instant::now()) {
                tracing::warn!("DNS64 stays as it was, and is told again: {reason}");
            }
            return before;
        }
        self.retry.succeed();
        if before.resolvers != now.resolvers {
            tracing::info!("asks the host's new resolvers");
        }
        now
    }

    /// A firewall of this host is the usual reason why clients' questions do not arrive.
    pub fn hint(&mut self, common: &Common, has_clients: bool) {
        let Some(since) = self.unasked_since else {
            return;
        };
        if !has_clients {
            self.unasked_since = Some(Instant::now());
            return;
        }
        let gateway = common.gateway.load_full();
        let server = gateway.as_ref().and_then(|state| state.dns64.as_ref());
        let Some(server) = server else { return };
        let asked: u64 = server.metrics().queries().map(|(.., count)| count).sum();
        if asked == 0 && since.elapsed() >= UNASKED_MAX {
            let name = &common.network.downstream;
            tracing::warn!(
                "no client has asked DNS64 anything yet: if names do not resolve, a firewall of this \
                 host has to let UDP and TCP to port 53 in by {name} (`nft list ruleset`)"
            );
        }
        if asked > 0 || since.elapsed() >= UNASKED_MAX {
            self.unasked_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dns64_refuses_is_not_thought_of_as_told() {
        let told = |native: Option<&str>| Told {
            gateway: Weak::new(),
            resolvers: Vec::new(),
            native: native.map(|ip| ip.parse().unwrap()),
        };
        let mut names = Names::new();
        let (before, now) = (told(None), told(Some("2001:db8::")));
        let after = names.note(Err("no room".to_owned()), before, now);
        assert_eq!(after.native, None);
        assert!(names.retry.at().is_some(), "it is told again");
        let after = names.note(Ok(()), after, told(Some("2001:db8::")));
        assert!(after.native.is_some());
        assert_eq!(names.retry.at(), None);
    }
}
