//! Other routers on the clients' link: what they announce, and the way back to clients that have
//! taken an address of theirs.
//!
//! Hosts choose the source of a packet by its destination alone (RFC 6724; few follow its rule
//! 5.5), so with another router's global prefix they reach the translator from there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Common;
use super::host::Change;
use super::ra::message::{Preference, RaOption, RouterAdvertisement};

/// Other routers that are remembered.
const ROUTERS_MAX: usize = 16;
/// Prefixes of theirs that are routed to the link.
const PREFIXES_MAX: usize = 16;

/// Another router.
struct Other {
    /// What was told of it.
    text: String,
    /// How it is preferred as a default router, and until when.
    preference: Preference,
    until: Instant,
    /// It leads to IPv4 itself.
    has_pref64: bool,
}

/// What is known of the other routers.
#[derive(Default)]
pub struct Beside {
    routers: BTreeMap<Ipv6Addr, Other>,
    prefixes: BTreeSet<Ipv6Addr>,
}

impl Beside {
    /// Whether an address is another router's.
    pub fn has(&self, ip: Ipv6Addr) -> bool {
        self.routers.contains_key(&ip)
    }

    /// A router that hosts prefer to one of that preference, and that leads to no IPv4.
    pub fn preferred_to(&self, own: Preference, now: Instant) -> Option<Ipv6Addr> {
        let in_the_way =
            |other: &Other| other.until > now && other.preference > own && !other.has_pref64;
        let found = self.routers.iter().find(|(_, other)| in_the_way(other));
        found.map(|(ip, _)| *ip)
    }

    /// Tells the operator what another router says, once (RFC 4861 section 6.2.7), and routes its
    /// prefixes to the link by a task among `tasks`.
    pub fn hear(
        &mut self,
        from: Ipv6Addr,
        message: RouterAdvertisement,
        common: &Arc<Common>,
        tasks: &mut JoinSet<()>,
    ) {
        let is_room = self.routers.len() < ROUTERS_MAX || self.has(from);
        if !is_room {
            return;
        }
        let other = Other::of(&message, Instant::now());
        let before = self.routers.insert(from, other);
        let other = &self.routers[&from];
        if before.is_some_and(|before| before.text == other.text) {
            return;
        }
        let network = &common.network;
        tracing::info!(
            "another router advertises on {}: {from}, {}",
            network.downstream,
            other.text
        );
        if let Some(text) = warning(network.preference, other, message.router_lifetime) {
            tracing::warn!("{text}");
        }
        for prefix in prefixes(&message) {
            let is_own = common
                .network
                .prefixes
                .iter()
                .any(|own| own.address == prefix);
            if !is_own && self.prefixes.len() < PREFIXES_MAX && self.prefixes.insert(prefix) {
                let common = Arc::clone(common);
                // Netlink is waited for.
                tasks.spawn_blocking(move || lead_back(&common, prefix));
            }
        }
    }
}

impl Other {
    fn of(message: &RouterAdvertisement, now: Instant) -> Other {
        let is_pref64 = |option: &RaOption| matches!(option, RaOption::Pref64 { lifetime, .. } if *lifetime > 0);
        Other {
            text: text(message),
            preference: message.preference,
            until: now + Duration::from_secs(u64::from(message.router_lifetime)),
            has_pref64: message.options.iter().any(is_pref64),
        }
    }
}

/// What an operator can do about a router that some hosts take for their way to IPv4.
fn warning(own: Preference, other: &Other, router_lifetime: u16) -> Option<String> {
    if router_lifetime == 0 || other.has_pref64 || other.preference < own {
        return None;
    }
    let hosts = "hosts that take no routes from advertisements (RFC 4191)";
    Some(match (other.preference, own) {
        (theirs, own) if theirs > own => format!(
            "{hosts} use that router, whose preference is {theirs}, in place of this one ({own}), and have \
             no IPv4: start with --preference high, or lower its preference"
        ),
        (Preference::High, _) => {
            format!(
                "{hosts} may use either router, and with that one have no IPv4: lower its preference"
            )
        }
        _ => format!(
            "{hosts} may use either router, and with that one have no IPv4: start with --preference high"
        ),
    })
}

/// The /64s that hosts make addresses from and that are on the link.
fn prefixes(message: &RouterAdvertisement) -> impl Iterator<Item = Ipv6Addr> {
    message.options.iter().filter_map(|option| match option {
        RaOption::Prefix(found) if found.on_link && found.autonomous && found.length == 64 => {
            let is_usable = found.valid > 0
                && !found.prefix.is_multicast()
                && !found.prefix.is_unicast_link_local();
            is_usable.then(|| Ipv6Addr::from(u128::from(found.prefix) >> 64 << 64))
        }
        _ => None,
    })
}

/// Adds a route to the link, unless this host has one already: nobody on the link may draw to it
/// what this host sends elsewhere.
fn lead_back(common: &Common, prefix: Ipv6Addr) {
    let interface = common.network.downstream.clone();
    let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    if is_covered(&routes, prefix) {
        tracing::info!(
            "hosts on {interface} that send from {prefix}/64 get no answers: a route of this host \
             leads elsewhere (where that router is trusted: `ip route add {prefix}/64 dev {interface}`)"
        );
        return;
    }
    let change = Change::OnLink { interface, prefix };
    match common.journal.make(change) {
        Ok(()) => tracing::debug!("answers to {prefix}/64 go to the link"),
        Err(error) => tracing::warn!("no answers to hosts that send from {prefix}/64: {error}"),
    }
}

/// Whether a route, the default route too, leads to the prefix; what is rejected is said of `lo`.
fn is_covered(routes: &str, prefix: Ipv6Addr) -> bool {
    routes.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(to), Some(length), Some(device)) = (words.first(), words.get(1), words.last())
        else {
            return false;
        };
        let parsed = (
            u128::from_str_radix(to, 16),
            u32::from_str_radix(length, 16),
        );
        let (Ok(to), Ok(length)) = parsed else {
            return false;
        };
        let differing = (to ^ u128::from(prefix)).leading_zeros();
        *device != "lo" && length <= 64 && differing >= length
    })
}

fn text(message: &RouterAdvertisement) -> String {
    let prefixes = message.options.iter().filter_map(|option| match option {
        RaOption::Prefix(prefix) => Some(format!("{}/{}", prefix.prefix, prefix.length)),
        RaOption::Pref64 { prefix, .. } => Some(format!("PREF64 {prefix}")),
        _ => None,
    });
    let lifetime = message.router_lifetime;
    let mut text = format!("router lifetime {lifetime} s");
    if lifetime > 0 {
        text.push_str(&format!(", preference {}", message.preference));
    }
    for prefix in prefixes {
        text.push_str(", ");
        text.push_str(&prefix);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 00000001";

    fn advertisement(preference: Preference, options: Vec<RaOption>) -> RouterAdvertisement {
        RouterAdvertisement {
            hop_limit: 64,
            managed: false,
            other: false,
            preference,
            router_lifetime: 1800,
            options,
        }
    }

    #[test]
    fn a_router_that_hosts_prefer_is_told_of_while_it_lasts() {
        let now = Instant::now();
        let other = Other::of(&advertisement(Preference::High, Vec::new()), now);
        let text = warning(Preference::Medium, &other, 1800).unwrap();
        assert!(
            text.contains("preference is high, in place of this one (medium)"),
            "{text}"
        );
        assert_eq!(warning(Preference::Medium, &other, 0), None, "it has left");
        let text = warning(Preference::High, &other, 1800).unwrap();
        assert!(
            text.contains("either router") && text.contains("lower its"),
            "{text}"
        );
        let ip: Ipv6Addr = "fe80::9".parse().unwrap();
        let mut beside = Beside::default();
        beside.routers.insert(ip, other);
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(
            beside.preferred_to(Preference::Medium, later(1799)),
            Some(ip)
        );
        assert_eq!(beside.preferred_to(Preference::High, later(1799)), None);
        assert_eq!(beside.preferred_to(Preference::Medium, later(1800)), None);
    }

    #[test]
    fn a_router_that_is_no_harm_is_not_warned_of() {
        let now = Instant::now();
        let low = Other::of(&advertisement(Preference::Low, Vec::new()), now);
        assert_eq!(warning(Preference::Medium, &low, 1800), None);
        let pref64 = RaOption::Pref64 {
            prefix: gate64_wire::rfc6052::Pref64::WELL_KNOWN,
            lifetime: 600,
        };
        let translates = Other::of(&advertisement(Preference::High, vec![pref64]), now);
        assert_eq!(warning(Preference::Medium, &translates, 1800), None);
    }

    #[test]
    fn a_route_that_leads_elsewhere_is_not_overruled() {
        let prefix = "2001:db8:bad::".parse().unwrap();
        let to = |hex: &str, device: &str| format!("{hex} {REST} {device}\n");
        let default = to("00000000000000000000000000000000 00", "wan");
        let site = to("20010db8000000000000000000000000 20", "wan");
        let rejected = to("00000000000000000000000000000000 00", "lo");
        let other = to("20010db80bac00000000000000000000 30", "wan");
        let host = to("20010db80bad00000000000000000007 80", "wan");
        assert!(is_covered(&default, prefix));
        assert!(is_covered(&site, prefix));
        assert!(!is_covered(&format!("{rejected}{other}{host}"), prefix));
        assert!(!is_covered("nonsense", prefix));
    }
}
