//! What is chosen for the network, and what the host is made to do for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use gate64_dataplane::config::{
    AutoOnOff, InterfaceConfig, L4Checksum, Nat64Config, Pool4Prefix, SubscriberLimits,
    XdpModeChoice,
};
use gate64_dns64::{Network as Dns64Network, Synthesize};
use gate64_wire::rfc6052::Pref64;

use super::host::{self, Change};
use super::journal::{Journal, JournalError};
use super::network::{AnnouncedPrefix, Kind, Network};
use super::random::Random;
use super::{resolvers, ula};
use crate::config::{Config, Located, Pool4Source, PrefixChoice, ShareKind, ShareSettings};
use crate::exit::Failure;
use crate::machine;
use crate::netlink::kernel::{Address, Link};

/// Room for a network of some hundred hosts.
const SESSION_COUNT_MAX: u32 = 65_536;
/// Each address of a client is a subscriber: a few thousand ports are shared in small blocks.
const SUBSCRIBER_BITS: u8 = 128;
const PORT_BLOCK_SIZE: u16 = 64;
const PORT_BLOCKS_MAX: u16 = 16;
/// Drivers whose peers leave checksums to an offload that never happens.
const VIRTUAL_DRIVERS: [&str; 6] = ["veth", "bridge", "virtio_net", "tun", "macvlan", "vxlan"];

/// Whether the two interfaces are there.
pub fn check(settings: &ShareSettings) -> Result<(), Failure> {
    let present = machine::interface_names();
    for name in [&settings.upstream.value, &settings.downstream.value] {
        if !present.contains(name) {
            let present = present.join(", ");
            return Err(Failure::Interface(format!(
                "there is no interface {name:?}; interfaces here: {present}"
            )));
        }
    }
    Ok(())
}

/// Whether DNS64 can have its port on the clients' interface.
///
/// # Errors
/// How to keep the program that has it from there.
pub fn check_dns_port(config: &Config, downstream: &str) -> Result<(), Failure> {
    let taken = config.dns64.iter().flat_map(gate64_dns64::Sockets::probe);
    match taken.map(|taken| taken.to_string()).next() {
        Some(taken) if taken.contains("in use") => Err(Failure::Failed(format!(
            "port 53 is another program's, also on {downstream} (`ss -lnp 'sport = :53'` shows whose): \
             stop it, or keep it from {downstream} (dnsmasq: `bind-dynamic` and \
             `except-interface={downstream}`; unbound: `interface:`; named: `listen-on-v6`)"
        ))),
        _ => Ok(()),
    }
}

/// Chooses kind and prefixes. Writes only the file that keeps the prefix.
pub fn choose(config: &Config, settings: &ShareSettings) -> Result<Network, Failure> {
    let upstream = &settings.upstream.value;
    let downstream = &settings.downstream.value;
    let is_delegated = settings.prefix == PrefixChoice::Delegated;
    let native = match settings.kind {
        ShareKind::Auto if !is_delegated => upstream_prefix(upstream, None),
        _ => None,
    };
    let is_routed = matches!(settings.prefix, PrefixChoice::Given(ip) if !ip.is_unique_local());
    let kind = match (settings.kind, native) {
        (ShareKind::Test, _) => Kind::Test,
        (ShareKind::Auto, _) if is_delegated => Kind::Delegated,
        (ShareKind::Auto, None) => Kind::Ipv4Only,
        (ShareKind::Auto, Some(_)) if is_routed => Kind::Routed,
        (ShareKind::Auto, Some(_)) => Kind::Proxied,
    };
    let own = match settings.prefix {
        PrefixChoice::Given(prefix) => prefix,
        PrefixChoice::Own | PrefixChoice::Delegated => {
            ula::prefix(&settings.state, downstream, &mut Random::seeded()).map_err(|error| {
                let state = settings.state.display();
                Failure::Failed(format!(
                    "cannot keep the network's prefix in {state}: {error}"
                ))
            })?
        }
    };
    let mut prefixes = vec![AnnouncedPrefix {
        address: own,
        on_link: true,
    }];
    if let (Kind::Proxied, Some(address)) = (kind, native) {
        // Half of that link is behind this host: only the router knows who is where.
        prefixes.push(AnnouncedPrefix {
            address,
            on_link: false,
        });
    }
    let pref64 = match config.pref64.as_slice() {
        [] => vec![Pref64::WELL_KNOWN],
        given => given.to_vec(),
    };
    Ok(Network {
        upstream: upstream.clone(),
        downstream: downstream.clone(),
        kind,
        native,
        prefixes,
        resolver: Ipv6Addr::from(u128::from(own) | 1),
        search: settings.search.clone(),
        pref64,
        routes: settings.routes.clone(),
        mtu: settings.mtu,
        ra_interval_max: settings.ra_interval_max,
        preference: settings.preference,
        managed: settings.managed,
        dhcpv6: settings.dhcpv6,
    })
}

/// The /64 of the upstream's global address, if a default route leads that way: the present one as
/// long as it has it.
pub fn upstream_prefix(upstream: &str, present: Option<Ipv6Addr>) -> Option<Ipv6Addr> {
    leads_out(upstream).then_some(())?;
    let prefixes = global_prefixes(upstream);
    present
        .filter(|present| prefixes.contains(present))
        .or_else(|| prefixes.first().copied())
}

/// Whether a default route leads that way.
pub fn leads_out(upstream: &str) -> bool {
    let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    routes.lines().any(|line| {
        // Destination, its length, …, and the device at the end; `lo` has the reject routes.
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&"00") && words.last() == Some(&upstream)
    })
}

/// The /64s of an interface's global addresses.
pub fn global_prefixes(interface: &str) -> Vec<Ipv6Addr> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let prefixes = addresses
        .filter(|found| found.interface_name == interface)
        .filter_map(|found| Some(found.address?.as_sockaddr_in6()?.ip()))
        .filter(|ip| ip.segments()[0] & 0xe000 == 0x2000)
        .map(|ip| Ipv6Addr::from(u128::from(ip) >> 64 << 64));
    prefixes.collect()
}

/// An interface's link-local address, once it may be used.
pub fn link_local(link: &Link, addresses: &[Address]) -> Option<Ipv6Addr> {
    let own = addresses.iter().filter(|one| one.index == link.index);
    own.filter_map(|one| match one.address.ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(ip),
        _ => None,
    })
    .next()
}

/// Makes the host a router of the network.
///
/// # Errors
/// What the host refused; all that was made before is in the journal.
pub fn make(journal: &Journal, network: &Network) -> Result<(), JournalError> {
    let downstream = &network.downstream;
    let own = |parameter: &str| format!("net/ipv6/conf/{downstream}/{parameter}");
    journal.set(&own("disable_ipv6"), "0")?;
    if !is_up(downstream) {
        journal.make(Change::LinkUp {
            interface: downstream.clone(),
        })?;
    }
    keep_accepting_advertisements(journal, downstream)?;
    journal.set(&own("accept_ra"), "0")?;
    if network.kind.has_native() || network.kind == Kind::Delegated {
        forward_everywhere(journal)?;
    }
    // The R flag of neighbour advertisements: without it hosts drop their default route as soon as
    // they solicit the router's address (RFC 4861 section 7.3.3).
    journal.set(&own("forwarding"), "1")?;
    if host::sysctl(&own("addr_gen_mode")).as_deref() == Some("1") {
        make_link_local(journal, downstream)?;
    }
    journal.make(Change::Address {
        interface: downstream.clone(),
        ip: network.resolver,
        length: 64,
    })?;
    if !network.kind.has_native() {
        journal.make(Change::NoRoute {
            interface: downstream.clone(),
        })?;
    }
    for interface in [downstream, &network.upstream] {
        journal.make(Change::Neighbors {
            interface: interface.clone(),
            before: journal.kept_neighbors(interface)?,
        })?;
    }
    if network.kind == Kind::Proxied {
        let upstream = &network.upstream;
        journal.set(&format!("net/ipv6/conf/{upstream}/proxy_ndp"), "1")?;
        // Otherwise the kernel waits up to 0.8 s before it answers for a client.
        journal.set(&format!("net/ipv6/neigh/{upstream}/proxy_delay"), "0")?;
    }
    Ok(())
}

fn is_up(interface: &str) -> bool {
    let addresses = nix::ifaddrs::getifaddrs();
    let mut found = addresses.into_iter().flatten();
    found.any(|one| {
        one.interface_name == interface && one.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP)
    })
}

/// A router ignores advertisements and loses the routes it had from them, unless told otherwise
/// (accept_ra 2): the host's own IPv6 stays as it is.
fn keep_accepting_advertisements(journal: &Journal, downstream: &str) -> Result<(), JournalError> {
    for interface in machine::interface_names() {
        let key = format!("net/ipv6/conf/{interface}/accept_ra");
        if ![downstream, "lo"].contains(&interface.as_str()) {
            journal.set_where(&key, |before| before == "1", "2")?;
        }
    }
    Ok(())
}

/// Setting conf/all sets each interface along: each is recorded, so that each is put back.
fn forward_everywhere(journal: &Journal) -> Result<(), JournalError> {
    let interfaces = machine::interface_names().into_iter();
    for one in interfaces.chain(["default".to_owned(), "all".to_owned()]) {
        journal.set(&format!("net/ipv6/conf/{one}/forwarding"), "1")?;
    }
    Ok(())
}

/// Where the kernel makes no link-local address, an administrator has said so; a router needs one.
fn make_link_local(journal: &Journal, interface: &str) -> Result<(), JournalError> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let mut mac = None;
    for one in addresses.filter(|one| one.interface_name == interface) {
        let Some(address) = one.address else { continue };
        if address
            .as_sockaddr_in6()
            .is_some_and(|at| at.ip().is_unicast_link_local())
        {
            return Ok(());
        }
        mac = mac.or(address.as_link_addr().and_then(|link| link.addr()));
    }
    let Some([a, b, c, d, e, f]) = mac else {
        return Ok(());
    };
    // Modified EUI-64 (RFC 4291 appendix A).
    let octets = [
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ];
    journal.make(Change::Address {
        interface: interface.to_owned(),
        ip: Ipv6Addr::from(octets),
        length: 64,
    })
}

/// The gateway's configuration for an address of the upstream: what the operator wrote, with what
/// `[share]` stands for.
///
/// # Errors
/// If no resolver is known.
pub fn gateway_config(
    written: &Config,
    network: &Network,
    address: Ipv4Addr,
    ports: RangeInclusive<u16>,
) -> Result<Config, Failure> {
    let mut config = written.clone();
    let interface = |name: &String| Located {
        value: InterfaceConfig {
            name: name.clone(),
            xdp_mode: XdpModeChoice::Auto,
            zero_copy: AutoOnOff::Auto,
            vlan: None,
            l4_checksum: checksum_of(name),
            busy_poll: AutoOnOff::Off,
        },
        key: "share".to_owned(),
        span: None,
    };
    config.interfaces = vec![interface(&network.downstream), interface(&network.upstream)];
    config.pools = vec![Located {
        value: Pool4Source::Prefix(Pool4Prefix {
            address,
            length: 32,
            ports,
            exclude: Vec::new(),
            shared_with_host: true,
            ..Pool4Prefix::default()
        }),
        key: "share".to_owned(),
        span: None,
    }];
    if !config.dataplane.session_count_is_explicit {
        config.dataplane.session_count_max = SESSION_COUNT_MAX;
    }
    config.pref64.clone_from(&network.pref64);
    config.nat64 = Nat64Config {
        pref64: network.pref64.clone(),
        // A test network reaches servers of the lab.
        wkp_strict: false,
        subscriber: SubscriberLimits {
            prefix_length: SUBSCRIBER_BITS,
            port_block_size: PORT_BLOCK_SIZE,
            port_blocks_max: PORT_BLOCKS_MAX,
            ..config.nat64.subscriber
        },
        ..config.nat64
    };
    config.dns64 = Some(dns64_config(config.dns64.take(), network)?);
    if !config.api_socket.is_explicit() {
        let name = format!("/run/gate64/share-{}.sock", network.downstream);
        config.api_socket.value = PathBuf::from(name);
    }
    Ok(config)
}

fn dns64_config(
    written: Option<gate64_dns64::Config>,
    network: &Network,
) -> Result<gate64_dns64::Config, Failure> {
    let mut dns64 = written.unwrap_or_default();
    if dns64.upstream.is_empty() {
        dns64.upstream = resolvers::of_host();
    }
    if dns64.upstream.is_empty() {
        return Err(Failure::Configuration(
            "no resolver is known: /etc/resolv.conf has no nameserver; give --dns udp://ADDRESS, or \
             upstream in [dns64]"
                .to_owned(),
        ));
    }
    dns64.listen = vec![SocketAddr::from((network.resolver, 53))];
    dns64.pref64.clone_from(&network.pref64);
    dns64.wkp_strict = false;
    if !network.kind.has_native() {
        // What has a real AAAA could not be reached by it.
        dns64.synthesize = Synthesize::Always;
    }
    let link_local = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
    let clients = network.prefixes.iter().map(|prefix| (prefix.address, 64));
    let clients = clients
        .chain([link_local])
        .map(|(ip, length)| Dns64Network {
            addr: IpAddr::V6(ip),
            length,
        })
        .collect();
    dns64.allow_from = clients;
    Ok(dns64)
}

fn checksum_of(interface: &str) -> L4Checksum {
    let driver = gate64_dataplane::io::driver_of(interface).unwrap_or_default();
    match VIRTUAL_DRIVERS.contains(&driver.as_str()) {
        true => L4Checksum::Recompute,
        false => L4Checksum::Incremental,
    }
}
