//! What the server is told to do. `control` reads the TOML file and fills these plain types.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use gate64_wire::rfc6052::Pref64;

pub use crate::client_limits::ResponseRate;
use crate::dnssec::TrustAnchor;

/// Everything the DNS64 server is told. [`Config::default`] holds the documented defaults; only
/// `upstream` and `pref64` have to be given.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses served over UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Resolvers asked, in order of preference.
    pub upstream: Vec<Upstream>,
    /// In place of upstreams: the authoritative servers are asked, from the root down.
    pub recursive: Option<Recursive>,
    /// Whether that order counts.
    pub upstream_order: UpstreamOrder,
    /// Certificate authorities for encrypted upstreams, in PEM form; `None`: the machine's.
    pub upstream_ca: Option<PathBuf>,
    /// Whether real AAAA records are kept.
    pub synthesize: Synthesize,
    /// Clients that get synthesis; the others get what the upstream says.
    pub synthesize_for: Vec<Network>,
    /// Clients that are answered at all; the others get REFUSED.
    pub allow_from: Vec<Network>,
    /// What `allow_from` means by everyone (`::/0`, `0.0.0.0/0`).
    pub strangers: Strangers,
    /// Clients with a policy of their own; the first that holds a client counts.
    pub client: Vec<ClientPolicy>,
    /// The translator's prefixes; each A record gives one AAAA record per prefix.
    pub pref64: Vec<Pref64>,
    /// Keeps non-global IPv4 out of the well-known prefix (RFC 6052 section 3.1).
    pub wkp_strict: bool,
    /// Real AAAA records in these count as missing (RFC 6147 section 5.1.4).
    pub exclude_aaaa: Vec<Network>,
    /// IPv4 addresses in these are never mapped.
    pub exclude_a: Vec<Network>,
    /// Names (with all below them) whose real AAAA records count as missing.
    pub ignore_aaaa_names: Vec<String>,
    /// What an AAAA question does when the upstream fails it (RFC 6147 sections 5.1.2 and 5.1.3).
    pub on_failure: OnFailure,
    /// Whether answers are validated here.
    pub dnssec: Dnssec,
    /// DS records that replace the root's trust anchors; empty means the root's.
    pub trust_anchors: Vec<TrustAnchor>,
    /// Threads that serve UDP, each with a socket of its own; 0: one for each CPU that the
    /// process may use, and at most eight.
    pub udp_threads: usize,
    /// DNS over TLS and HTTPS.
    pub encrypted: Option<Encrypted>,
    /// Bounds the answers over UDP to each client network.
    pub response_rate: Option<ResponseRate>,
    /// How long upstreams and clients are waited for.
    pub timeouts: Timeouts,
    /// When A records are asked for along with AAAA records.
    pub ask_both: AskBoth,
    /// What the cache does beyond keeping answers for their TTL.
    pub caching: Caching,
    /// Bounds on memory and work.
    pub limits: Limits,
}

impl Config {
    /// Where questions over this transport are answered.
    pub fn listeners(&self, protocol: Protocol) -> &[SocketAddr] {
        let encrypted = self.encrypted.as_ref();
        match protocol {
            Protocol::Udp | Protocol::Tcp => &self.listen,
            Protocol::Tls => encrypted.map_or(&[], |e| &e.tls_listen),
            Protocol::Https => encrypted.map_or(&[], |e| &e.https_listen),
        }
    }

    /// The first key that differs and that a reload leaves as it was at start.
    pub fn needs_restart(&self, new: &Config) -> Option<&'static str> {
        let addrs = |config: &Config| {
            config
                .encrypted
                .as_ref()
                .map(|e| (e.tls_listen.clone(), e.https_listen.clone()))
        };
        let path = |config: &Config| config.encrypted.as_ref().map(|e| e.https_path.clone());
        let keys = [
            (addrs(self) == addrs(new), "dns64.tls.listen"),
            (path(self) == path(new), "dns64.tls.https_path"),
            (self.udp_threads == new.udp_threads, "dns64.udp_threads"),
            (
                self.limits.upstream_in_flight_max == new.limits.upstream_in_flight_max,
                "dns64.upstream_in_flight_max",
            ),
            (
                self.limits.cache_octets_max == new.limits.cache_octets_max,
                "dns64.cache.size",
            ),
        ];
        keys.into_iter().find(|(same, _)| !same).map(|(_, key)| key)
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 53))],
            upstream: Vec::new(),
            recursive: None,
            upstream_order: UpstreamOrder::Given,
            upstream_ca: None,
            synthesize: Synthesize::Missing,
            synthesize_for: Network::everywhere(),
            allow_from: Network::everywhere(),
            strangers: Strangers::Refuse,
            client: Vec::new(),
            pref64: Vec::new(),
            wkp_strict: true,
            exclude_aaaa: vec![Network {
                addr: IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()),
                length: 96,
            }],
            exclude_a: Vec::new(),
            ignore_aaaa_names: Vec::new(),
            on_failure: OnFailure::Synthesize,
            dnssec: Dnssec::Off,
            trust_anchors: Vec::new(),
            udp_threads: 0,
            encrypted: None,
            response_rate: None,
            timeouts: Timeouts::default(),
            ask_both: AskBoth::Learned,
            caching: Caching::default(),
            limits: Limits::default(),
        }
    }
}

/// What becomes of clients that `allow_from` holds only because it holds everyone, and to whom
/// this machine has no way but its default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strangers {
    /// They are refused, so that nobody runs an open resolver by accident.
    Refuse,
    /// They are answered.
    Answer,
}

/// DNS over TLS (RFC 7858) and over HTTPS (RFC 8484).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted {
    /// Addresses served over TLS.
    pub tls_listen: Vec<SocketAddr>,
    /// Addresses served over HTTPS.
    pub https_listen: Vec<SocketAddr>,
    /// The path under which HTTPS answers.
    pub https_path: String,
    /// PEM: the certificate, then those that lead to its root.
    pub certificate: PathBuf,
    /// PEM: the certificate's private key.
    pub key: PathBuf,
    /// The name that clients expect in the certificate; empty: not checked.
    pub name: String,
}

/// What clients of some networks get, in place of what everyone gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientPolicy {
    /// Where the clients are.
    pub networks: Vec<Network>,
    /// Whether real AAAA records are kept; nothing: no synthesis.
    pub synthesize: Option<Synthesize>,
    /// The prefixes for these clients; empty: as for everyone.
    pub pref64: Vec<Pref64>,
}

/// One upstream resolver.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// How it is asked.
    pub protocol: Protocol,
    /// Where it is asked.
    pub addr: SocketAddr,
    /// The name in its certificate, for TLS and HTTPS; the address if empty.
    pub name: String,
    /// The path of its HTTP service, such as `/dns-query`; empty for the others.
    pub path: String,
}

impl Upstream {
    /// One without a name or a path of its own.
    pub const fn plain(protocol: Protocol, addr: SocketAddr) -> Upstream {
        Upstream {
            protocol,
            addr,
            name: String::new(),
            path: String::new(),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.protocol.name(), self.addr, self.path)?;
        match self.name.as_str() {
            "" => Ok(()),
            name => write!(f, "#{name}"),
        }
    }
}

/// How names are found without upstreams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recursive {
    /// Addresses of root servers; empty: the root's thirteen.
    pub root_hints: Vec<IpAddr>,
    /// Networks whose servers are asked although they are not of the public Internet.
    pub servers_allowed: Vec<Network>,
}

/// Which of several upstreams that answer is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamOrder {
    /// The first one in the configuration.
    Given,
    /// The one with the shortest round-trip time.
    Fastest,
}

/// When an AAAA question asks for A records at once, not only when there is no AAAA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskBoth {
    /// Never: the second question waits for the first one's answer.
    Never,
    /// When the name had no AAAA record the last time: the A records will be needed.
    Learned,
    /// Always: the fastest, with twice the load on the upstreams.
    Always,
}

/// What the cache does beyond keeping answers for their TTL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caching {
    /// Popular names are asked for again before their answer ends.
    pub prefetch: bool,
    /// How long after its end an answer may be given when no fresh one can be had (RFC 8767).
    pub serve_stale: Option<Duration>,
}

impl Default for Caching {
    fn default() -> Caching {
        Caching {
            prefetch: true,
            serve_stale: None,
        }
    }
}

/// A transport between DNS peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Datagrams, with TCP when an answer is truncated.
    Udp,
    /// RFC 7766.
    Tcp,
    /// RFC 7858.
    Tls,
    /// RFC 8484.
    Https,
}

impl Protocol {
    /// All four, in the order of their index.
    pub const ALL: [Protocol; 4] = [Protocol::Udp, Protocol::Tcp, Protocol::Tls, Protocol::Https];

    /// The name in configuration and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
            Protocol::Tls => "tls",
            Protocol::Https => "https",
        }
    }

    /// Whether certificates say who the other side is.
    pub const fn is_encrypted(self) -> bool {
        matches!(self, Protocol::Tls | Protocol::Https)
    }
}

/// Whether real AAAA records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synthesize {
    /// Only names without a real AAAA record get synthetic ones.
    Missing,
    /// Real AAAA records are hidden, for IPv6-only test networks.
    Always,
}

/// What an AAAA question does when the upstream answers it with an error or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// As RFC 6147 sections 5.1.2 and 5.1.3: treat it as no AAAA, ask for A.
    Synthesize,
    /// Give the failure to the client, so that a real AAAA is never covered by a synthetic one.
    Pass,
}

/// Whether answers are validated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dnssec {
    /// The upstream's AD bit and failures are trusted.
    Off,
    /// Signatures are checked before anything is synthesised or answered.
    Validate,
}

/// How long upstreams and clients are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// One try at one upstream.
    pub attempt: Duration,
    /// All tries for one question.
    pub query: Duration,
    /// At least so long one upstream is waited for before the next one is asked as well, however
    /// fast it was until now.
    pub patience_min: Duration,
    /// A client's TCP connection without a question.
    pub tcp_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            attempt: Duration::from_millis(1500),
            query: Duration::from_secs(4),
            patience_min: Duration::from_millis(400),
            tcp_idle: Duration::from_secs(10),
        }
    }
}

/// Bounds on memory and work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Questions at the upstreams at one time; a further one is answered SERVFAIL.
    pub upstream_in_flight_max: usize,
    /// Clients waiting for an answer at one time; a further one is answered SERVFAIL.
    pub client_in_flight_max: u64,
    /// Of these, so many of one client network (IPv6 /56, IPv4 /24).
    pub network_in_flight_max: u32,
    /// Memory of the answers kept.
    pub cache_octets_max: u64,
    /// Octets of answers kept as they are sent, over all threads that serve UDP on one address.
    pub wire_cache_octets_max: usize,
    /// Longest time an answer is kept.
    pub cache_seconds_max: u32,
    /// Longest time the absence of a name or record is kept (RFC 2308 section 5).
    pub negative_seconds_max: u32,
    /// Longest time a failure is kept; the first time it is a second (RFC 9520 section 3.2).
    pub failure_seconds_max: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            upstream_in_flight_max: 1024,
            client_in_flight_max: 8192,
            network_in_flight_max: 512,
            cache_octets_max: 64 << 20,
            wire_cache_octets_max: 64 << 20,
            cache_seconds_max: 86_400,
            negative_seconds_max: 3 * 3600,
            failure_seconds_max: 300,
        }
    }
}

/// An IPv4 or IPv6 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The address; bits behind the length are ignored.
    pub addr: IpAddr,
    /// The prefix length: at most 32 or 128.
    pub length: u8,
}

impl Network {
    /// `::/0` and `0.0.0.0/0`.
    pub fn everywhere() -> Vec<Network> {
        vec![
            Network {
                addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                length: 0,
            },
            Network {
                addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                length: 0,
            },
        ]
    }

    /// Whether the address lies in the network; never across the two families.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(network), IpAddr::V4(addr)) => {
                let shift = 32u32.saturating_sub(u32::from(self.length));
                let differ = u32::from(network) ^ u32::from(addr);
                differ.checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(addr)) => {
                let shift = 128u32.saturating_sub(u32::from(self.length));
                let differ = u128::from(network) ^ u128::from(addr);
                differ.checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// Whether any of the networks holds the address. A client that reached an IPv6 socket over
    /// IPv4 (`::ffff:a.b.c.d`) is judged as IPv4.
    pub fn any_contains(networks: &[Network], addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        networks.iter().any(|network| network.contains(addr))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.length)
    }
}

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Network, &'static str> {
        let (addr, length) = text.split_once('/').ok_or("not address/length")?;
        let addr: IpAddr = addr.parse().map_err(|_| "not an IP address")?;
        let length = length.parse().map_err(|_| "not a prefix length")?;
        if length > if addr.is_ipv4() { 32 } else { 128 } {
            return Err("prefix length too long for the address");
        }
        Ok(Network { addr, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        for (network, addr, held) in [
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.0", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("::ffff:0:0/96", "::ffff:192.0.2.1", true),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(
                network.contains(addr.parse().unwrap()),
                held,
                "{network} {addr}"
            );
        }
        let ipv4: Vec<Network> = vec!["10.0.0.0/8".parse().unwrap()];
        assert!(Network::any_contains(
            &ipv4,
            "::ffff:10.1.2.3".parse().unwrap()
        ));
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!("10.0.0.0".parse::<Network>().is_err());
    }
}
