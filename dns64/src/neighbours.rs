//! The networks that this machine knows a way to, other than its way to everywhere: whom it
//! serves while the operator has not said whom. Strangers, behind the default route, are refused,
//! so that nobody runs an open resolver without having written it (RFC 5358).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arc_swap::ArcSwap;

use crate::config::Network;

/// As much of the kernel's table as is read: some 50,000 routes. A machine with more is a router
/// of the Internet's, where a route says nothing about who is a customer.
const TABLE_OCTETS_MAX: u64 = 8 << 20;
/// A shorter prefix is a default route under another name (0.0.0.0/1, 2000::/3).
const IPV4_LENGTH_MIN: u8 = 8;
const IPV6_LENGTH_MIN: u8 = 16;
/// RTF_REJECT (linux/route.h): packets there are refused.
const REJECTED: u32 = 0x0200;

/// Networks that are nobody's on the Internet: loopback, private, shared, link-local, ULA.
const PRIVATE: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

/// Ranges of addresses, IPv4 as IPv4-mapped, sorted and apart.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    ranges: ArcSwap<Vec<(u128, u128)>>,
}

impl Neighbours {
    /// The private networks, until `refresh` adds the routes.
    pub(crate) fn private() -> Neighbours {
        let neighbours = Neighbours::default();
        neighbours.set(private());
        neighbours
    }

    /// Whether the address is in one of the networks.
    pub(crate) fn contain(&self, addr: IpAddr) -> bool {
        let addr = bits(addr);
        let ranges = self.ranges.load();
        let behind = ranges.partition_point(|(first, _)| *first <= addr);
        let before = behind.checked_sub(1).map(|n| ranges[n]);
        before.is_some_and(|(_, last)| addr <= last)
    }

    /// Reads the kernel's routes again.
    ///
    /// # Errors
    /// The kernel's tables cannot be read; what was known stays.
    pub(crate) fn refresh(&self) -> io::Result<()> {
        let mut networks = private();
        read_table("/proc/thread-self/net/route", ipv4_route, &mut networks)?;
        // A kernel without IPv6 has no such table.
        match read_table(
            "/proc/thread-self/net/ipv6_route",
            ipv6_route,
            &mut networks,
        ) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.set(networks),
        }
        Ok(())
    }

    fn set(&self, networks: Vec<Network>) {
        let mut ranges: Vec<(u128, u128)> = networks.iter().map(range).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|later, earlier| {
            let overlaps = later.0 <= earlier.1;
            if overlaps {
                earlier.1 = earlier.1.max(later.1);
            }
            overlaps
        });
        self.ranges.store(ranges.into());
    }
}

fn private() -> Vec<Network> {
    PRIVATE
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(ip) => u128::from(ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn range(network: &Network) -> (u128, u128) {
    let free = match network.addr {
        IpAddr::V4(_) => 32 - u32::from(network.length.min(32)),
        IpAddr::V6(_) => 128 - u32::from(network.length.min(128)),
    };
    let host = u128::MAX.checked_shr(128 - free).unwrap_or(0);
    let addr = bits(network.addr);
    (addr & !host, addr | host)
}

fn read_table(
    path: &str,
    route: fn(&str) -> Option<Network>,
    networks: &mut Vec<Network>,
) -> io::Result<()> {
    let lines = BufReader::new(File::open(path)?.take(TABLE_OCTETS_MAX)).lines();
    for line in lines {
        networks.extend(route(&line?));
    }
    Ok(())
}

/// A line of /proc/net/route: interface, destination, gateway, flags, three counters, mask; the
/// addresses as numbers in the machine's byte order.
fn ipv4_route(line: &str) -> Option<Network> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let hex = |field: Option<&str>| u32::from_str_radix(field?, 16).ok();
    let destination = hex(fields.next())?;
    let flags = hex(fields.nth(1))?;
    let mask = hex(fields.nth(3))?;
    let length = u8::try_from(u32::from_be(mask).leading_ones()).ok()?;
    let addr = IpAddr::V4(Ipv4Addr::from(u32::from_be(destination)));
    (flags & REJECTED == 0 && length >= IPV4_LENGTH_MIN).then_some(Network { addr, length })
}

/// A line of /proc/net/ipv6_route: destination, its length, source, its length, next hop, metric,
/// two counters, flags, interface.
fn ipv6_route(line: &str) -> Option<Network> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [destination, length, _, _, _, _, _, _, flags, ..] = *fields else {
        return None;
    };
    let addr = Ipv6Addr::from(u128::from_str_radix(destination, 16).ok()?);
    let length = u8::from_str_radix(length, 16).ok()?;
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let is_way = flags & REJECTED == 0 && length >= IPV6_LENGTH_MIN && !addr.is_multicast();
    is_way.then_some(Network {
        addr: IpAddr::V6(addr),
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_other_than_the_default_make_neighbours() {
        let tables = [
            "eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0",
            "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
            "*\t007100CB\t00000000\t0200\t0\t0\t0\t00FFFFFF\t0\t0\t0",
        ];
        let mut networks: Vec<Network> = tables.iter().filter_map(|l| ipv4_route(l)).collect();
        let zero = "0".repeat(32);
        let line = |to: &str, length: &str, flags: &str| {
            format!("{to} {length} {zero} 00 {zero} 00000400 00000001 00000000 {flags} eth1")
        };
        let routed = format!("20010db8{}", "0".repeat(24));
        for (to, length, flags) in [(&zero, "00", "00000003"), (&routed, "20", "00000003")] {
            networks.extend(ipv6_route(&line(to, length, flags)));
        }
        let rejected = ipv6_route(&line(&routed, "20", "00200200"));
        assert_eq!(rejected, None);
        assert_eq!(networks.len(), 2);
        let neighbours = Neighbours::default();
        neighbours.set([private(), networks].concat());
        for (addr, is_neighbour) in [
            ("192.0.2.77", true),
            ("203.0.113.1", false),
            ("198.51.100.1", false),
            ("10.1.2.3", true),
            ("100.127.255.255", true),
            ("100.128.0.0", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
            ("fd00::1", true),
            ("::1", true),
            ("::2", false),
        ] {
            let addr: IpAddr = addr.parse().unwrap();
            assert_eq!(neighbours.contain(addr), is_neighbour, "{addr}");
        }
    }

    #[test]
    fn this_machines_tables_can_be_read() {
        let neighbours = Neighbours::private();
        neighbours.refresh().unwrap();
        assert!(neighbours.contain(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
