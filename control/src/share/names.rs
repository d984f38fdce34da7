//! What clients' names are resolved by: DNS64 follows the host's resolvers and native IPv6 while it
//! runs, and an operator is told when nobody asks it.

use std::net::Ipv6Addr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::native::Native;
use super::{Common, resolvers};
use crate::state::State;

/// Clients that have asked DNS64 nothing for so long are worth a hint.
const UNASKED_MAX: Duration = Duration::from_secs(30);

/// The state of it.
pub struct Names {
    /// What DNS64 was told last.
    told: Option<Told>,
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
        if told.resolvers != now.resolvers || told.native != now.native {
            dns64.upstream.clone_from(&now.resolvers);
            if let Some(native) = native {
                native.adapt_dns64(&mut dns64);
            }
            match server.reload(dns64) {
                Ok(()) if told.resolvers != now.resolvers => {
                    tracing::info!("asks the host's new resolvers");
                }
                Ok(()) => {}
                Err(error) => tracing::warn!("DNS64 stays as it was: {error}"),
            }
        }
        self.told = Some(now);
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
