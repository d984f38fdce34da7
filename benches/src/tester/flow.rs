//! Flows by number, and an order that has each of them once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gate64_wire::rfc6052::Pref64;

use super::frame::Message;
use super::ports::Role;

/// What stands between the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A NAT64 with this prefix.
    Nat64(Pref64),
    /// A NAT44.
    Nat44,
    /// A router of IPv6, or a cable.
    Ipv6,
}

impl Kind {
    /// The word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Nat64(_) => "nat64",
            Kind::Nat44 => "nat44",
            Kind::Ipv6 => "ipv6",
        }
    }
}

/// A transport address of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", std::net::SocketAddr::new(self.ip, self.port))
    }
}

/// A client and a server, as each side names the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The client, behind the initiator.
    pub client: Endpoint,
    /// The server, as the client names it.
    pub server_as_seen: Endpoint,
    /// The server, behind the responder.
    pub server: Endpoint,
}

/// Clients are in the prefixes 1 to 0xfffe of 2001:2::/48, or in 198.18.0.0/16 beyond the first 256.
const CLIENTS_MAX_V6: u64 = 0xfffe;
const CLIENTS_MAX_V4: u64 = 0xff00 - 1;
const SERVERS: u64 = 1000;
const SERVER_PORT: u16 = 4000;
const CLIENT_PORT_FIRST: u16 = 1024;
/// Ports from `CLIENT_PORT_FIRST` on.
pub const SESSIONS_PER_CLIENT_MAX: u16 = 60_000;

/// What flows are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// UDP datagrams both ways, as the RFCs say.
    Udp,
    /// ICMP echo requests from clients, and replies from servers.
    Echo,
}

impl Carries {
    /// What a port's frames are.
    pub const fn message(self, from: Role) -> Message {
        match (self, from) {
            (Carries::Udp, _) => Message::Udp,
            (Carries::Echo, Role::Initiator) => Message::EchoRequest,
            (Carries::Echo, Role::Responder) => Message::EchoReply,
        }
    }

    /// The words in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Carries::Udp => "UDP",
            Carries::Echo => "ICMP echo",
        }
    }
}

/// All flows of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Flows {
    /// What is between.
    pub kind: Kind,
    /// What they are made of.
    pub carries: Carries,
    /// How many.
    pub count: u32,
    /// How many of one client.
    pub per_client: u16,
}

impl Flows {
    /// `None` if there are not so many clients.
    pub fn new(kind: Kind, carries: Carries, count: u32, per_client: u16) -> Option<Flows> {
        let per_client = per_client.clamp(1, SESSIONS_PER_CLIENT_MAX);
        let clients = u64::from(count).div_ceil(u64::from(per_client));
        let clients_max = match kind {
            Kind::Nat44 => CLIENTS_MAX_V4,
            Kind::Nat64(_) | Kind::Ipv6 => CLIENTS_MAX_V6,
        };
        (count > 0 && clients <= clients_max).then_some(Flows {
            kind,
            carries,
            count,
            per_client,
        })
    }

    /// Flow `number`.
    #[allow(clippy::cast_possible_truncation)] // remainders of small divisors
    pub fn flow(&self, number: u32) -> Flow {
        // Neighbours in number belong to different clients, so that all fill evenly.
        let clients = self.count.div_ceil(u32::from(self.per_client));
        let client = number % clients;
        let port = CLIENT_PORT_FIRST + (number / clients) as u16;
        let server = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let server = ((server * SERVERS) >> 32) as u16;
        let server4 = Ipv4Addr::from(0xc613_0100 + u32::from(server));
        let server6 = Ipv6Addr::new(0x2001, 2, 0, 0xffff, 0, 0, 0, server + 1);
        let client6 = Ipv6Addr::new(0x2001, 2, 0, client as u16 + 1, 0, 0, 0, 1);
        let (client, seen, server) = match self.kind {
            Kind::Nat64(prefix) => (client6.into(), prefix.embed(server4).into(), server4.into()),
            Kind::Nat44 => (
                Ipv4Addr::from(0xc612_0100 + client).into(),
                server4.into(),
                server4.into(),
            ),
            Kind::Ipv6 => (client6.into(), server6.into(), server6.into()),
        };
        let at = |ip: IpAddr, port: u16| Endpoint { ip, port };
        // An echo has one identifier, the client's.
        let server_port = match self.carries {
            Carries::Udp => SERVER_PORT,
            Carries::Echo => 0,
        };
        Flow {
            client: at(client, port),
            server_as_seen: at(seen, server_port),
            server: at(server, server_port),
        }
    }
}

/// A pseudorandom permutation of the numbers below `count`, without memory: a Feistel network
/// over the next even number of bits, walked until it leads back below.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    count: u64,
    half_bits: u32,
    keys: [u64; 4],
}

impl Permutation {
    /// Another seed gives another order.
    pub fn new(count: u32, seed: u64) -> Permutation {
        let count = u64::from(count);
        let bits = 64 - count.saturating_sub(1).leading_zeros();
        let mut rng = gate64_dataplane::memory::hash::Rng::new(seed);
        Permutation {
            count,
            half_bits: bits.div_ceil(2).max(1),
            keys: std::array::from_fn(|_| rng.next_u64()),
        }
    }

    /// The number at a place; the place has to be below `count`.
    pub fn at(&self, place: u32) -> u32 {
        let mut value = u64::from(place);
        loop {
            value = self.round_trip(value);
            if value < self.count {
                return u32::try_from(value).unwrap_or(0);
            }
        }
    }

    fn round_trip(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            let mixed = (right ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (left, right) = (right, left ^ (mixed >> 32 & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_each_number_once() {
        for count in [1u32, 2, 3, 1000, 4096, 70_000] {
            let order = Permutation::new(count, 7);
            let mut seen = vec![false; count as usize];
            for place in 0..count {
                let number = order.at(place) as usize;
                assert!(!std::mem::replace(&mut seen[number], true));
            }
        }
        let natural = (0..1000).filter(|&place| Permutation::new(1000, 7).at(place) == place);
        assert!(natural.count() < 20, "the order is not the natural one");
    }

    #[test]
    fn flows_differ_and_lie_in_the_benchmarking_prefixes() {
        let flows = Flows::new(Kind::Nat64(Pref64::WELL_KNOWN), Carries::Udp, 20_000, 400).unwrap();
        let mut clients = std::collections::HashSet::new();
        for number in 0..flows.count {
            let flow = flows.flow(number);
            assert!(clients.insert((flow.client.ip, flow.client.port)));
            let IpAddr::V4(server) = flow.server.ip else {
                panic!("a server of a NAT64 is IPv4");
            };
            assert_eq!(server.octets()[..2], [198, 19]);
            assert_eq!(flow.server_as_seen.ip, Pref64::WELL_KNOWN.embed(server));
        }
        assert!(Flows::new(Kind::Nat44, Carries::Udp, u32::MAX, 10).is_none());
    }
}
