//! Other routers on the clients' link: what they announce, and the way back to clients that have
//! taken an address of theirs.
//!
//! Hosts choose the source of a packet by its destination alone (RFC 6724; few follow its rule
//! 5.5), so with another router's global prefix they reach the translator from there.

use std::collections::BTreeMap;
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
/// One that is over makes room for another when it has been silent for so long: each new one is told of, and must
/// not be told of at every advertisement.
const SILENT: Duration = Duration::from_secs(600);
const FOREVER: u32 = u32::MAX;

/// Another router.
struct Other {
    /// What was told of it.
    text: String,
    /// How it is preferred as a default router, and until when.
    preference: Preference,
    until: Instant,
    heard: Instant,
    /// It leads to IPv4 itself.
    has_pref64: bool,
}

/// What is known of the other routers.
#[derive(Default)]
pub struct Beside {
    routers: BTreeMap<Ipv6Addr, Other>,
    /// Those that are routed to the link, and until when hosts may have addresses of them; `None`: forever.
    prefixes: BTreeMap<Ipv6Addr, Option<Instant>>,
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
        let now = Instant::now();
        if !self.has_room(from, now) {
            return;
        }
        for (prefix, valid) in prefixes(&message) {
            self.lead(prefix, valid, now, common, tasks);
        }
        let other = Other::of(&message, now);
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
    }

    /// Whether there is room for that router; one that is over and silent is forgotten for it.
    fn has_room(&mut self, from: Ipv6Addr, now: Instant) -> bool {
        if self.routers.len() < ROUTERS_MAX || self.has(from) {
            return true;
        }
        let is_over = |one: &Other| one.until <= now && one.heard + SILENT <= now;
        let over = self.routers.iter().filter(|(_, one)| is_over(one));
        let oldest = over.min_by_key(|(_, one)| one.heard).map(|(ip, _)| *ip);
        oldest.is_some_and(|ip| self.routers.remove(&ip).is_some())
    }

    /// Routes a prefix to the link, if it is not yet, by a task among `tasks`.
    fn lead(
        &mut self,
        prefix: Ipv6Addr,
        valid: u32,
        now: Instant,
        common: &Arc<Common>,
        tasks: &mut JoinSet<()>,
    ) {
        let mut own = common.network.prefixes.iter();
        if own.any(|own| own.address == prefix) {
            return;
        }
        let (is_new, over) = self.note_prefix(prefix, valid, now);
        if !is_new {
            return;
        }
        let common = Arc::clone(common);
        // Netlink is waited for.
        tasks.spawn_blocking(move || {
            if let Some(over) = over {
                leave(&common, over);
            }
            lead_back(&common, prefix);
        });
    }

    /// Notes how long a prefix lasts. Whether it is new and has room, and the one that is over and made room for it.
    fn note_prefix(
        &mut self,
        prefix: Ipv6Addr,
        valid: u32,
        now: Instant,
    ) -> (bool, Option<Ipv6Addr>) {
        let until = (valid != FOREVER).then(|| now + Duration::from_secs(u64::from(valid)));
        if let Some(known) = self.prefixes.get_mut(&prefix) {
            *known = until;
            return (false, None);
        }
        let mut over = None;
        if self.prefixes.len() >= PREFIXES_MAX {
            let is_over = |until: &Option<Instant>| until.is_some_and(|until| until <= now);
            let mut all = self.prefixes.iter();
            over = all.find(|(_, until)| is_over(until)).map(|(ip, _)| *ip);
            let Some(over) = over else {
                return (false, None);
            };
            self.prefixes.remove(&over);
        }
        self.prefixes.insert(prefix, until);
        (true, over)
    }
}

impl Other {
    fn of(message: &RouterAdvertisement, now: Instant) -> Other {
        let is_pref64 = |option: &RaOption| matches!(option, RaOption::Pref64 { lifetime, .. } if *lifetime > 0);
        Other {
            text: text(message),
            preference: message.preference,
            until: now + Duration::from_secs(u64::from(message.router_lifetime)),
            heard: now,
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

/// The /64s that hosts make addresses from and that are on the link, and for how many seconds.
fn prefixes(message: &RouterAdvertisement) -> impl Iterator<Item = (Ipv6Addr, u32)> {
    message.options.iter().filter_map(|option| match option {
        RaOption::Prefix(found) if found.on_link && found.autonomous && found.length == 64 => {
            let is_usable = found.valid > 0
                && !found.prefix.is_multicast()
                && !found.prefix.is_unicast_link_local();
            let prefix = Ipv6Addr::from(u128::from(found.prefix) >> 64 << 64);
            is_usable.then_some((prefix, found.valid))
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

/// Takes a route to the link away, if this host made it.
fn leave(common: &Common, prefix: Ipv6Addr) {
    let interface = common.network.downstream.clone();
    if let Err(error) = common.journal.unmake(&Change::OnLink { interface, prefix }) {
        tracing::warn!("the route to {prefix}/64, which is over, stays: {error}");
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

    fn ip(number: u128) -> Ipv6Addr {
        Ipv6Addr::from(0x2001_0db8 << 96 | number << 64)
    }

    #[test]
    fn routers_that_are_gone_make_room_for_others() {
        let now = Instant::now();
        let mut beside = Beside::default();
        for number in 0..16 {
            let heard = now + Duration::from_secs(u64::try_from(number).unwrap());
            assert!(beside.has_room(ip(number), heard));
            let other = Other::of(&advertisement(Preference::Low, Vec::new()), heard);
            beside.routers.insert(ip(number), other);
        }
        let later = |seconds| now + Duration::from_secs(seconds);
        assert!(beside.has_room(ip(3), later(20)), "it is known");
        assert!(!beside.has_room(ip(99), later(1799)), "all of them last");
        assert!(beside.has_room(ip(99), later(1810)));
        assert!(!beside.has(ip(0)) && beside.has(ip(1)), "the oldest goes");
        // One that leaves is known for a while, so that it is told of once.
        let mut leaves = advertisement(Preference::Low, Vec::new());
        leaves.router_lifetime = 0;
        beside.routers.clear();
        for number in 0..16 {
            beside.routers.insert(ip(number), Other::of(&leaves, now));
        }
        assert!(!beside.has_room(ip(99), later(599)));
        assert!(beside.has_room(ip(99), later(600)));
    }

    #[test]
    fn prefixes_that_are_over_make_room_for_others() {
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        let mut beside = Beside::default();
        for number in 0..16 {
            let valid = if number == 5 { 100 } else { FOREVER };
            assert_eq!(beside.note_prefix(ip(number), valid, now), (true, None));
        }
        assert_eq!(beside.note_prefix(ip(99), 100, later(99)), (false, None));
        // Advertised again, it lasts on.
        assert_eq!(beside.note_prefix(ip(5), 100, later(50)), (false, None));
        assert_eq!(beside.note_prefix(ip(99), 100, later(100)), (false, None));
        assert_eq!(
            beside.note_prefix(ip(99), 100, later(150)),
            (true, Some(ip(5)))
        );
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
