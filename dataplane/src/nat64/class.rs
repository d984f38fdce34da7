//! Subscriber classes: which limits, pool and destinations a subscriber has, by the longest
//! configured prefix that it lies in.

use std::net::{Ipv4Addr, Ipv6Addr};

use gate64_wire::addr::Protocol;
use hashbrown::HashMap;

use super::ownership::mask;
use crate::config::{ClassLimits, Nat64Config, Prefix4, RefusalAnswer};
use crate::verdict::{DropReason, IcmpError, Refusal};

/// What subscribers of a class have in common.
#[derive(Debug, Clone)]
pub struct Class {
    /// Limits and the answer to a refusal.
    pub limits: ClassLimits,
    /// The pool that its blocks come from.
    pub pool: u8,
    /// The prefix that its peers are embedded in where IPv4 begins.
    pub pref64: u8,
    bypass: Vec<Prefix4>,
    deny: Vec<Prefix4>,
}

/// What the lists of a class say of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Translated.
    Translated,
    /// Not translated but routed as IPv6 (RFC 6888 REQ-6).
    Bypassed,
    /// Refused.
    Denied,
}

/// All classes; number 0 is that of `[subscriber]`.
#[derive(Debug)]
pub struct Classes {
    all: Vec<Class>,
    /// Longest first.
    by_length: Vec<(u8, HashMap<u128, u16>)>,
    essential_ports: Vec<u16>,
    has_lists: bool,
}

impl Classes {
    /// The configured ones.
    pub fn new(config: &Nat64Config) -> Classes {
        let mut classes = Classes {
            all: vec![Class {
                limits: config.subscriber.limits(),
                pool: config.subscriber_pool,
                pref64: 0,
                bypass: config.bypass.clone(),
                deny: config.deny.clone(),
            }],
            by_length: Vec::new(),
            essential_ports: config.essential_ports.clone(),
            has_lists: !config.bypass.is_empty() || !config.deny.is_empty(),
        };
        for (number, class) in (1u16..).zip(&config.classes) {
            classes.has_lists |= !class.bypass.is_empty() || !class.deny.is_empty();
            classes.all.push(Class {
                limits: class.limits,
                pool: class.pool,
                pref64: class.pref64,
                bypass: class.bypass.clone(),
                deny: class.deny.clone(),
            });
            for prefix in &class.prefixes {
                classes.add(prefix.length, u128::from(prefix.address), number);
            }
        }
        classes
            .by_length
            .sort_by_key(|(length, _)| u8::MAX - length);
        classes
    }

    fn add(&mut self, length: u8, prefix: u128, number: u16) {
        let at = self
            .by_length
            .iter()
            .position(|(known, _)| *known == length);
        let at = at.unwrap_or_else(|| {
            self.by_length.push((length, HashMap::new()));
            self.by_length.len() - 1
        });
        self.by_length[at].1.insert(prefix & mask(length), number);
    }

    /// The number of the class that a prefix or address is in.
    pub fn number_of(&self, prefix: u128) -> u16 {
        let found = self
            .by_length
            .iter()
            .find_map(|(length, known)| known.get(&(prefix & mask(*length))));
        found.copied().unwrap_or(0)
    }

    /// A class; one that a reload took away reads as that of `[subscriber]`.
    #[inline]
    pub fn get(&self, number: u16) -> &Class {
        self.all.get(usize::from(number)).unwrap_or(&self.all[0])
    }

    /// Whether any class has lists of destinations.
    #[inline]
    pub fn have_lists(&self) -> bool {
        self.has_lists
    }

    /// What becomes of a packet of a host to a destination.
    pub fn destination(&self, src: Ipv6Addr, dst: Ipv4Addr) -> Destination {
        let class = self.get(self.number_of(u128::from(src)));
        let longest = |list: &[Prefix4]| {
            let holding = list.iter().filter(|prefix| prefix.contains(dst));
            holding.map(|prefix| prefix.length).max()
        };
        let (bypass, deny) = (longest(&class.bypass), longest(&class.deny));
        // The longer prefix decides; of two alike, the stricter.
        match (bypass, deny) {
            (None, None) => Destination::Translated,
            (bypass, deny) if deny >= bypass => Destination::Denied,
            _ => Destination::Bypassed,
        }
    }

    /// Whether a destination port is one that the reserve is for.
    pub fn is_essential(&self, protocol: Protocol, port: u16) -> bool {
        protocol != Protocol::Icmp && self.essential_ports.contains(&port)
    }
}

impl Class {
    /// The refusal for a reason, answered as the class is configured (RFC 6888 REQ-11).
    pub fn refusal(&self, reason: DropReason) -> Refusal {
        match self.limits.refusal {
            RefusalAnswer::AdminProhibited => Refusal::Reject(reason, IcmpError::AdminProhibited),
            RefusalAnswer::AddressUnreachable => {
                Refusal::Reject(reason, IcmpError::AddressUnreachable)
            }
            RefusalAnswer::None => Refusal::Drop(reason),
        }
    }

    /// Of a limit, what a mapping or session may fill: all of it for essential destinations,
    /// otherwise what the reserve leaves.
    pub fn usable(&self, limit: u32, is_essential: bool) -> u32 {
        match is_essential {
            true => limit,
            false => limit.saturating_sub(self.limits.essential_reserve),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Prefix6, SubscriberClass, SubscriberLimits};

    fn class(name: &str, prefixes: &[(&str, u8)]) -> SubscriberClass {
        SubscriberClass {
            name: name.to_owned(),
            prefixes: prefixes
                .iter()
                .map(|(ip, length)| Prefix6::new(ip.parse().unwrap(), *length))
                .collect(),
            ..SubscriberClass::default()
        }
    }

    #[test]
    fn the_longest_prefix_decides() {
        let classes = Classes::new(&Nat64Config {
            classes: vec![
                class("wide", &[("2001:db8::", 32), ("2001:db9::", 32)]),
                class("narrow", &[("2001:db8:1::", 48)]),
            ],
            ..Nat64Config::default()
        });
        let of = |ip: &str| classes.number_of(u128::from(ip.parse::<Ipv6Addr>().unwrap()));
        assert_eq!(of("2001:db8:2::1"), 1);
        assert_eq!(of("2001:db8:1:5::1"), 2);
        assert_eq!(of("2001:db9::1"), 1);
        assert_eq!(of("2001:dba::1"), 0);
    }

    #[test]
    fn rfc_6888_req_6_destinations_are_bypassed_or_denied_by_class() {
        let list = |text: &str, length| vec![Prefix4::new(text.parse().unwrap(), length)];
        let classes = Classes::new(&Nat64Config {
            deny: list("198.51.100.0", 24),
            classes: vec![SubscriberClass {
                bypass: list("198.51.100.128", 25),
                deny: list("198.51.100.0", 24),
                ..class("one", &[("2001:db8::", 32)])
            }],
            ..Nat64Config::default()
        });
        let of = |src: &str, dst: [u8; 4]| classes.destination(src.parse().unwrap(), dst.into());
        assert_eq!(
            of("2001:db8::1", [198, 51, 100, 200]),
            Destination::Bypassed
        );
        assert_eq!(of("2001:db8::1", [198, 51, 100, 1]), Destination::Denied);
        assert_eq!(of("2001:db8::1", [203, 0, 113, 1]), Destination::Translated);
        assert_eq!(of("2001:db9::1", [198, 51, 100, 200]), Destination::Denied);
    }

    #[test]
    fn the_reserve_is_for_essential_ports_alone() {
        let mut config = Nat64Config {
            essential_ports: vec![53, 443],
            subscriber: SubscriberLimits {
                essential_reserve: 10,
                ..SubscriberLimits::default()
            },
            ..Nat64Config::default()
        };
        config.subscriber.refusal = RefusalAnswer::None;
        let classes = Classes::new(&config);
        assert!(classes.is_essential(Protocol::Udp, 53));
        assert!(!classes.is_essential(Protocol::Icmp, 53));
        assert!(!classes.is_essential(Protocol::Tcp, 80));
        let class = classes.get(0);
        assert_eq!(
            (class.usable(100, true), class.usable(100, false)),
            (100, 90)
        );
        let reason = DropReason::SubscriberPorts;
        assert_eq!(class.refusal(reason), Refusal::Drop(reason));
    }
}
