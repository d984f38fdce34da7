//! Router advertisements: what they say ([`announcement`]), as octets ([`message`]), when
//! ([`schedule`]) and by which socket ([`socket`]).

pub mod message;
pub mod schedule;
pub mod socket;

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use message::{Preference, PrefixInformation, RaOption, RouterAdvertisement};

use super::delegation::client::Lease;
use super::native;
use super::network::Network;

/// How long addresses are valid: the kernel of a host that was away for a night still has its own.
const PREFIX_VALID_SECONDS: u32 = 86_400;
/// How long addresses are preferred.
pub const PREFIX_PREFERRED_SECONDS: u32 = 14_400;
/// The largest router lifetime (RFC 4861 section 6.2.1).
const ROUTER_LIFETIME_MAX: u32 = 9000;

/// What is known of the translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It takes packets.
    Serving,
    /// It does not.
    Broken,
    /// It is about to end.
    Leaving,
}

/// The link that is advertised on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// This host's Ethernet address.
    pub mac: [u8; 6],
    /// Its MTU.
    pub mtu: u32,
}

/// Prefixes that come and go.
#[derive(Debug, Clone, Copy)]
pub struct Passing<'a> {
    /// The delegated one, while there is native IPv6 by it.
    pub lease: Option<&'a Lease>,
    /// Those that clients may have from before.
    pub ended: &'a [Ipv6Addr],
    /// The time now.
    pub now: Instant,
}

/// What is advertised, from what is known of the translator. Only one that serves is announced:
/// otherwise its lifetimes are zero, so that hosts turn to another router at once.
pub fn announcement(
    network: &Network,
    link: Link,
    health: Health,
    passing: Passing<'_>,
) -> RouterAdvertisement {
    let has_native = network.kind.has_native() || passing.lease.is_some();
    let lifetime = lifetime_seconds(network.ra_interval_max);
    let while_serving = |seconds| match health {
        Health::Serving => seconds,
        Health::Broken | Health::Leaving => 0,
    };
    // Native IPv6 and the resolver work without the translator.
    let while_routing = |seconds| match health {
        Health::Broken if has_native => seconds,
        _ => while_serving(seconds),
    };
    let routing = while_routing(lifetime);
    let mut options = vec![
        RaOption::SourceLinkLayer(link.mac),
        RaOption::Mtu(network.mtu.unwrap_or(link.mtu)),
    ];
    let own = network.prefixes.iter();
    let mut prefixes: Vec<PrefixInformation> = own
        .map(|own| {
            prefix(
                own.address,
                own.on_link,
                PREFIX_VALID_SECONDS,
                PREFIX_PREFERRED_SECONDS,
            )
        })
        .collect();
    prefixes.extend(passing.lease.map(|lease| delegated(lease, passing.now)));
    if health == Health::Leaving {
        for prefix in &mut prefixes {
            (prefix.valid, prefix.preferred) = (0, 0);
        }
    }
    // RFC 9096 section 3.5. Hosts shorten no lifetime to less than two hours (RFC 4862 section
    // 5.5.3), but none is preferred any more.
    let ended = passing.ended.iter();
    prefixes.extend(ended.map(|ended| prefix(*ended, true, 0, 0)));
    options.extend(prefixes.into_iter().map(RaOption::Prefix));
    options.extend(network.routes.iter().map(|route| RaOption::Route {
        prefix: route.0,
        length: route.1,
        preference: network.preference,
        lifetime: routing,
    }));
    // Of two routers only this one leads to IPv4, also where hosts prefer the other's default
    // route: RFC 4191 section 3 lets the longer prefix win.
    options.extend(network.pref64.iter().map(|prefix| RaOption::Route {
        prefix: prefix.address(),
        length: prefix.length(),
        preference: Preference::Medium,
        lifetime: while_serving(lifetime),
    }));
    options.push(RaOption::Rdnss {
        lifetime: routing,
        servers: vec![network.resolver],
    });
    if !network.search.is_empty() {
        options.push(RaOption::Dnssl {
            lifetime: routing,
            names: network.search.clone(),
        });
    }
    options.extend(network.pref64.iter().map(|prefix| RaOption::Pref64 {
        prefix: *prefix,
        lifetime: while_serving(lifetime),
    }));
    RouterAdvertisement {
        hop_limit: 64,
        managed: network.managed,
        other: network.dhcpv6,
        preference: network.preference,
        router_lifetime: u16::try_from(routing.min(ROUTER_LIFETIME_MAX)).unwrap_or(0),
        options,
    }
}

fn prefix(prefix: Ipv6Addr, on_link: bool, valid: u32, preferred: u32) -> PrefixInformation {
    PrefixInformation {
        prefix,
        length: 64,
        on_link,
        autonomous: true,
        valid,
        preferred,
    }
}

/// No lifetime is longer than the delegated prefix has left (RFC 7084 section 4.3, L-13).
fn delegated(lease: &Lease, now: Instant) -> PrefixInformation {
    let left = |until: Option<Instant>, most: u32| {
        let seconds = until.map(|until| until.saturating_duration_since(now).as_secs());
        let seconds = seconds.map_or(most, |left| u32::try_from(left).unwrap_or(most));
        seconds.min(most)
    };
    prefix(
        native::lan(lease),
        true,
        left(lease.valid_until, PREFIX_VALID_SECONDS),
        left(lease.preferred_until, PREFIX_PREFERRED_SECONDS),
    )
}

/// Three times the longest interval (RFC 4861 section 6.2.1, RFC 8106 section 5.1, RFC 8781
/// section 4.1): two lost advertisements do no harm.
fn lifetime_seconds(interval_max: Duration) -> u32 {
    u32::try_from(interval_max.as_secs().saturating_mul(3)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::network::{AnnouncedPrefix, Kind};
    use super::super::random::Random;
    use super::schedule::{Due, Schedule};
    use super::*;

    fn network(kind: Kind) -> Network {
        Network {
            upstream: "up".into(),
            downstream: "down".into(),
            kind,
            native: None,
            prefixes: vec![AnnouncedPrefix {
                address: "fd00::".parse().unwrap(),
                on_link: true,
            }],
            resolver: "fd00::1".parse().unwrap(),
            search: vec!["lab.test".into()],
            pref64: vec!["64:ff9b::/96".parse().unwrap()],
            routes: vec![("64:ff9b::".parse().unwrap(), 96)],
            mtu: None,
            ra_interval_max: Duration::from_secs(180),
            preference: Preference::Medium,
            managed: false,
            dhcpv6: true,
        }
    }

    const LINK: Link = Link {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
    };

    fn nothing_passing() -> Passing<'static> {
        Passing {
            lease: None,
            ended: &[],
            now: Instant::now(),
        }
    }

    /// Prefix, valid and preferred lifetime.
    fn prefixes(message: &RouterAdvertisement) -> Vec<(String, u32, u32)> {
        let all = message.options.iter().filter_map(|option| match option {
            RaOption::Prefix(one) => Some((one.prefix.to_string(), one.valid, one.preferred)),
            _ => None,
        });
        all.collect()
    }

    #[test]
    fn rfc7084_section_4_3_a_delegated_prefix_lasts_no_longer_than_its_lease() {
        let now = Instant::now();
        let lease = Lease {
            prefix: "2001:db8:42::".parse().unwrap(),
            length: 56,
            preferred_until: Some(now + Duration::from_secs(100)),
            valid_until: Some(now + Duration::from_secs(200_000)),
        };
        let ended = ["2001:db8:41::".parse().unwrap()];
        let passing = Passing {
            lease: Some(&lease),
            ended: &ended,
            now,
        };
        let network = network(Kind::Delegated);
        let serving = announcement(&network, LINK, Health::Serving, passing);
        let own = ("fd00::".to_owned(), 86_400, 14_400);
        let delegated = ("2001:db8:42::".to_owned(), 86_400, 100);
        let old = ("2001:db8:41::".to_owned(), 0, 0);
        assert_eq!(prefixes(&serving), [own, delegated, old]);
        let later = Passing {
            now: now + Duration::from_secs(101),
            ..passing
        };
        let later = announcement(&network, LINK, Health::Serving, later);
        assert_eq!(prefixes(&later)[1].2, 0);
        let leaving = announcement(&network, LINK, Health::Leaving, passing);
        assert!(
            prefixes(&leaving)
                .iter()
                .all(|one| (one.1, one.2) == (0, 0))
        );
        let broken = announcement(&network, LINK, Health::Broken, passing);
        assert_eq!(broken.router_lifetime, 540, "native IPv6 goes on");
        let without = announcement(&network, LINK, Health::Broken, nothing_passing());
        assert_eq!(without.router_lifetime, 0);
    }

    /// Router lifetime; valid, and those of routes (given, and to PREF64), RDNSS, DNSSL, PREF64.
    fn lifetimes(kind: Kind, health: Health) -> (u32, Vec<u32>) {
        let message = announcement(&network(kind), LINK, health, nothing_passing());
        let each = message.options.iter().filter_map(|option| match option {
            RaOption::Prefix(prefix) => Some(prefix.valid),
            RaOption::Route { lifetime, .. }
            | RaOption::Rdnss { lifetime, .. }
            | RaOption::Dnssl { lifetime, .. }
            | RaOption::Pref64 { lifetime, .. } => Some(*lifetime),
            _ => None,
        });
        (u32::from(message.router_lifetime), each.collect())
    }

    #[test]
    fn only_a_translator_that_serves_is_announced() {
        let serving = (540, vec![86_400, 540, 540, 540, 540, 540]);
        assert_eq!(lifetimes(Kind::Test, Health::Serving), serving);
        let broken = (0, vec![86_400, 0, 0, 0, 0, 0]);
        assert_eq!(lifetimes(Kind::Test, Health::Broken), broken);
        assert_eq!(lifetimes(Kind::Ipv4Only, Health::Broken), broken);
    }

    #[test]
    fn native_ipv6_goes_on_without_the_translator() {
        let broken = (540, vec![86_400, 540, 0, 540, 540, 0]);
        assert_eq!(lifetimes(Kind::Routed, Health::Broken), broken);
    }

    #[test]
    fn who_leaves_says_so_with_every_lifetime() {
        for kind in [Kind::Test, Kind::Ipv4Only, Kind::Routed, Kind::Proxied] {
            assert_eq!(lifetimes(kind, Health::Leaving), (0, vec![0; 6]));
        }
    }

    /// What a host knows by advertisements, each until its lifetime is over.
    fn learn(octets: &[u8], now: Instant) -> Vec<Instant> {
        let message = message::decode(octets).unwrap();
        let mut lifetimes = vec![u32::from(message.router_lifetime)];
        lifetimes.extend(message.options.iter().filter_map(|option| match option {
            RaOption::Prefix(prefix) => Some(prefix.preferred),
            RaOption::Route { lifetime, .. }
            | RaOption::Rdnss { lifetime, .. }
            | RaOption::Dnssl { lifetime, .. }
            | RaOption::Pref64 { lifetime, .. } => Some(*lifetime),
            _ => None,
        }));
        let until = |seconds: u32| now + Duration::from_secs(u64::from(seconds));
        lifetimes.into_iter().map(until).collect()
    }

    #[test]
    fn rfc4861_section_6_2_1_a_host_loses_nothing_in_a_day_though_two_of_three_are_lost() {
        for seconds in [4, 180, 1800] {
            let mut network = network(Kind::Test);
            network.ra_interval_max = Duration::from_secs(seconds);
            let mut random = Random::new(seconds);
            let start = Instant::now();
            let mut schedule = Schedule::new(network.ra_interval_max, Random::new(1), start);
            let (mut known, mut lost, mut heard) = (Vec::new(), 0, 0);
            while heard < 500 {
                let now = schedule.next();
                // Somebody else solicits now and then, from an address and from none.
                if random.bits().is_multiple_of(5) {
                    let from = match random.bits().is_multiple_of(2) {
                        true => Ipv6Addr::UNSPECIFIED,
                        false => "fe80::7".parse().unwrap(),
                    };
                    schedule.solicited(from, now);
                }
                let Some(due) = schedule.due(now) else {
                    continue;
                };
                let is_over = |until: &Instant| *until <= now;
                assert!(!known.iter().any(is_over), "after {:?}", now - start);
                if due != Due::AllNodes
                    || (lost < 2 && !known.is_empty() && !random.bits().is_multiple_of(3))
                {
                    lost += u32::from(due == Due::AllNodes);
                    continue;
                }
                lost = 0;
                heard += 1;
                let message = announcement(&network, LINK, Health::Serving, nothing_passing());
                known = learn(&message::encode(&message), now);
            }
        }
    }

    #[test]
    fn rfc8781_section_4_1_the_prefix_outlives_three_intervals() {
        let message = announcement(
            &network(Kind::Test),
            LINK,
            Health::Serving,
            nothing_passing(),
        );
        let read = message::decode(&message::encode(&message)).unwrap();
        let pref64 = read.options.iter().find_map(|option| match option {
            RaOption::Pref64 { lifetime, .. } => Some(*lifetime),
            _ => None,
        });
        assert_eq!(pref64, Some(544), "540 rounded up to a multiple of 8");
    }
}
