//! What the data plane is told: plain, validated values. Text, files and defaults are
//! `control`'s; nothing here can be wrong any more except by not fitting the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};
use gate64_wire::rfc6052::Pref64;

/// RFC 6146 section 3.5: who may answer through a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// Anyone.
    EndpointIndependent,
    /// Only addresses that the client has sent to through this mapping.
    AddressDependent,
}

/// MSS option of SYN segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MssClamp {
    /// Lowered to what the MTUs of both next hops carry.
    Auto,
    /// Left alone.
    Off,
    /// Lowered to this many octets, counted on the IPv6 side.
    Octets(u16),
}

/// Where the traffic class or type of service of a translated packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficClass {
    /// From the packet.
    Copy,
    /// Always this octet.
    Fixed(u8),
}

/// IPv4 UDP datagrams without a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpChecksumZero {
    /// Computed; fragments are gathered first.
    Compute,
    /// Dropped and counted.
    Drop,
}

/// Packets of protocols that a NAT64 does not translate (RFC 6146 section 3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownProtocol {
    /// Answered with an ICMP error, and dropped.
    Answer,
    /// Dropped.
    Drop,
}

/// How arriving layer 4 checksums are carried over, per interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4Checksum {
    /// Updated by the difference: a bad one stays bad.
    Incremental,
    /// Computed anew: for peers that leave checksums to an offload that never happens.
    Recompute,
}

/// Lifetimes of RFC 6146 section 4 (and RFC 7857).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// UDP_DEFAULT.
    pub udp: Duration,
    /// TCP_EST.
    pub tcp_established: Duration,
    /// TCP_TRANS: after an RST, or after TCP_EST without packets.
    pub tcp_transitory: Duration,
    /// TCP_TRANS of a connection that opens (RFC 7857 section 2.1).
    pub tcp_opening: Duration,
    /// TCP_TRANS of a connection that both sides have closed (RFC 7857 section 2.1).
    pub tcp_closing: Duration,
    /// TCP_INCOMING_SYN.
    pub tcp_incoming_syn: Duration,
    /// ICMP_DEFAULT.
    pub icmp: Duration,
    /// FRAGMENT_MIN.
    pub fragment: Duration,
}

impl Default for Lifetimes {
    fn default() -> Lifetimes {
        Lifetimes {
            udp: Duration::from_secs(300),
            tcp_established: Duration::from_secs(7440),
            tcp_transitory: Duration::from_secs(240),
            tcp_opening: Duration::from_secs(240),
            tcp_closing: Duration::from_secs(240),
            tcp_incoming_syn: Duration::from_secs(6),
            icmp: Duration::from_secs(60),
            fragment: Duration::from_secs(2),
        }
    }
}

/// A range of pool addresses, all with the same ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool4Prefix {
    /// First address.
    pub address: Ipv4Addr,
    /// Prefix length, 8 to 32.
    pub length: u8,
    /// Ports (and ICMP identifiers) that may be used, inclusive.
    pub ports: RangeInclusive<u16>,
    /// Addresses of the prefix that are left out.
    pub exclude: Vec<Ipv4Addr>,
    /// Ports of these that are never given out.
    pub exclude_ports: Vec<RangeInclusive<u16>>,
    /// Addresses that get no new blocks; those that are held are kept.
    pub drain: Vec<Ipv4Addr>,
    /// Which pool it is part of: a place in [`Nat64Config::pool_names`].
    pub pool: u8,
    /// Whether the host itself uses the address too: only `ports` belong to gate64.
    pub shared_with_host: bool,
}

impl Pool4Prefix {
    /// Whether an address is of the prefix and not left out.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        let differ = u32::from(ip) ^ u32::from(self.address);
        differ.leading_zeros() >= u32::from(self.length) && !self.exclude.contains(&ip)
    }
}

impl Default for Pool4Prefix {
    fn default() -> Pool4Prefix {
        Pool4Prefix {
            address: Ipv4Addr::UNSPECIFIED,
            length: 32,
            ports: 1024..=65535,
            exclude: Vec::new(),
            exclude_ports: Vec::new(),
            drain: Vec::new(),
            pool: 0,
            shared_with_host: false,
        }
    }
}

/// Pools at most: each has metrics of its own.
pub const POOLS_MAX: usize = 16;

/// An IPv4 prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix4 {
    /// First address.
    pub address: Ipv4Addr,
    /// Leading bits, 0 to 32.
    pub length: u8,
}

impl Prefix4 {
    /// Of an address and a length.
    pub const fn new(address: Ipv4Addr, length: u8) -> Prefix4 {
        Prefix4 { address, length }
    }

    /// Whether an address lies in it.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        let differ = u32::from(ip) ^ u32::from(self.address);
        differ.leading_zeros() >= u32::from(self.length)
    }
}

/// An IPv6 prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix6 {
    /// First address.
    pub address: Ipv6Addr,
    /// Leading bits, 0 to 128.
    pub length: u8,
}

impl Prefix6 {
    /// Of an address and a length.
    pub const fn new(address: Ipv6Addr, length: u8) -> Prefix6 {
        Prefix6 { address, length }
    }

    /// Whether an address lies in it.
    pub fn contains(&self, ip: Ipv6Addr) -> bool {
        let differ = u128::from(ip) ^ u128::from(self.address);
        differ.leading_zeros() >= u32::from(self.length)
    }
}

/// A static BIB entry (RFC 6146 section 3.1): a port forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticBib {
    /// Which BIB.
    pub protocol: Protocol,
    /// The host's transport address.
    pub v6: TransportAddr6,
    /// The pool's transport address.
    pub v4: TransportAddr4,
}

/// The ICMP error in answer to a packet that is refused for a limit (RFC 6888 REQ-11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalAnswer {
    /// ICMPv6 1/1, ICMPv4 3/13.
    AdminProhibited,
    /// ICMPv6 1/3, ICMPv4 3/1.
    AddressUnreachable,
    /// None.
    None,
}

/// Limits of a subscriber, an IPv6 prefix, and what all subscribers have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriberLimits {
    /// Leading bits of the IPv6 source that make one customer, 32 to 128.
    pub prefix_length: u8,
    /// Ports in one block, a power of two from 64 to 32768.
    pub port_block_size: u16,
    /// Blocks that a subscriber may hold at once.
    pub port_blocks_max: u16,
    /// Ports that a subscriber may have mapped at once, by protocol; unlimited if `u32::MAX`.
    pub ports_max: [u32; 3],
    /// Sessions that a subscriber may have at once.
    pub session_count_max: u32,
    /// New sessions per second, unlimited if `None`.
    pub session_rate_max: Option<u32>,
    /// Of ports and sessions, those kept for [`Nat64Config::essential_ports`].
    pub essential_reserve: u32,
    /// What a refused packet is answered with.
    pub refusal: RefusalAnswer,
    /// Time for which a freed port is not given out again (RFC 6888 REQ-8).
    pub port_reuse_delay: Duration,
    /// Time after which an empty block goes back.
    pub block_idle: Duration,
    /// Time after which a block gives no new ports while another can be had; `None`: always.
    pub block_active: Option<Duration>,
}

/// Those of the limits that a class may have of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassLimits {
    /// As in [`SubscriberLimits`].
    pub port_blocks_max: u16,
    /// As there.
    pub ports_max: [u32; 3],
    /// As there.
    pub session_count_max: u32,
    /// As there.
    pub session_rate_max: Option<u32>,
    /// As there.
    pub essential_reserve: u32,
    /// As there.
    pub refusal: RefusalAnswer,
}

impl SubscriberLimits {
    /// Those that hold where no class says otherwise.
    pub const fn limits(&self) -> ClassLimits {
        ClassLimits {
            port_blocks_max: self.port_blocks_max,
            ports_max: self.ports_max,
            session_count_max: self.session_count_max,
            session_rate_max: self.session_rate_max,
            essential_reserve: self.essential_reserve,
            refusal: self.refusal,
        }
    }
}

impl Default for SubscriberLimits {
    fn default() -> SubscriberLimits {
        SubscriberLimits {
            prefix_length: 64,
            port_block_size: 512,
            port_blocks_max: 4,
            ports_max: [u32::MAX; 3],
            session_count_max: 4096,
            session_rate_max: None,
            essential_reserve: 0,
            refusal: RefusalAnswer::AdminProhibited,
            port_reuse_delay: Duration::from_secs(120),
            block_idle: Duration::from_secs(120),
            block_active: None,
        }
    }
}

/// Subscribers that are treated otherwise than `[subscriber]` says, by the longest prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberClass {
    /// Its name.
    pub name: String,
    /// Its subscribers; no longer than a subscriber's prefix.
    pub prefixes: Vec<Prefix6>,
    /// Its limits.
    pub limits: ClassLimits,
    /// The pool that its blocks come from.
    pub pool: u8,
    /// The place in [`Nat64Config::pref64`] that its peers are embedded in where IPv4 begins.
    pub pref64: u8,
    /// Destinations that are routed as IPv6, untranslated (RFC 6888 REQ-6).
    pub bypass: Vec<Prefix4>,
    /// Destinations that are refused.
    pub deny: Vec<Prefix4>,
}

impl Default for SubscriberClass {
    fn default() -> SubscriberClass {
        SubscriberClass {
            name: String::new(),
            prefixes: Vec::new(),
            limits: SubscriberLimits::default().limits(),
            pool: 0,
            pref64: 0,
            bypass: Vec::new(),
            deny: Vec::new(),
        }
    }
}

/// Subscribers whose blocks are calculated (RFC 7422).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeterministicSet {
    /// Their ranges, in the order in which they are numbered.
    pub subscribers: Vec<Prefix6>,
    /// The pool whose addresses they are spread over; no other subscribers use it.
    pub pool: u8,
    /// Blocks of each.
    pub blocks_per_subscriber: u16,
    /// Whether the blocks that are left serve as dynamic ones.
    pub overflow: bool,
}

/// The translator's configuration. One immutable value for all workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat64Config {
    /// Translation prefixes; none contains another.
    pub pref64: Vec<Pref64>,
    /// The well-known prefix refuses non-global IPv4 (RFC 6052 section 3.1).
    pub wkp_strict: bool,
    /// Who may answer through a mapping.
    pub filtering: Filtering,
    /// Whether packets from IPv6 to a pool address turn around (RFC 6146 section 3.8).
    pub hairpin: bool,
    /// Size to which IPv4 packets without DF are fragmented, at least 1280.
    pub ipv6_mtu_lowest: u16,
    /// MTUs to try for a fragmentation needed that names none (RFC 1191), descending.
    pub mtu_plateaus: Vec<u16>,
    /// MSS option of SYN segments.
    pub mss_clamp: MssClamp,
    /// Traffic class and type of service.
    pub traffic_class: TrafficClass,
    /// IPv4 UDP datagrams without a checksum.
    pub udp_checksum_zero: UdpChecksumZero,
    /// Packets that are neither TCP, UDP nor ICMP.
    pub unknown_protocol: UnknownProtocol,
    /// ICMP errors that one worker makes in a second.
    pub icmp_error_rate_max: u32,
    /// Source of ICMPv6 errors; `None`: the address of the interface they leave by.
    pub source_v6: Option<Ipv6Addr>,
    /// Source of ICMPv4 errors and of errors from untranslatable hops (RFC 6791); `None`: as above.
    pub source_v4: Option<Ipv4Addr>,
    /// Lifetimes.
    pub lifetimes: Lifetimes,
    /// The pool.
    pub pool4: Vec<Pool4Prefix>,
    /// Static BIB entries.
    pub static_bib: Vec<StaticBib>,
    /// Names of the pools; the place in this list is a pool's number.
    pub pool_names: Vec<String>,
    /// Addresses that memory is reserved for, those that a reload adds included; `None`: some
    /// more than there are at start.
    pub pool4_address_count_max: Option<u32>,
    /// Subscribers.
    pub subscriber: SubscriberLimits,
    /// The pool of subscribers that are in no class.
    pub subscriber_pool: u8,
    /// Destination ports that [`SubscriberLimits::essential_reserve`] is kept for.
    pub essential_ports: Vec<u16>,
    /// Destinations that are routed as IPv6, for subscribers in no class (RFC 6888 REQ-6).
    pub bypass: Vec<Prefix4>,
    /// Destinations that are refused, for subscribers in no class.
    pub deny: Vec<Prefix4>,
    /// Subscribers that are treated otherwise.
    pub classes: Vec<SubscriberClass>,
    /// Subscribers whose blocks are calculated.
    pub deterministic: Vec<DeterministicSet>,
}

impl Default for Nat64Config {
    fn default() -> Nat64Config {
        Nat64Config {
            pref64: vec![Pref64::WELL_KNOWN],
            wkp_strict: true,
            filtering: Filtering::EndpointIndependent,
            hairpin: true,
            ipv6_mtu_lowest: 1280,
            mtu_plateaus: vec![
                65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68,
            ],
            mss_clamp: MssClamp::Auto,
            traffic_class: TrafficClass::Copy,
            udp_checksum_zero: UdpChecksumZero::Compute,
            unknown_protocol: UnknownProtocol::Answer,
            icmp_error_rate_max: 1000,
            source_v6: None,
            source_v4: None,
            lifetimes: Lifetimes::default(),
            pool4: Vec::new(),
            static_bib: Vec::new(),
            pool_names: vec!["default".to_owned()],
            pool4_address_count_max: None,
            subscriber: SubscriberLimits::default(),
            subscriber_pool: 0,
            essential_ports: Vec::new(),
            bypass: Vec::new(),
            deny: Vec::new(),
            classes: Vec::new(),
            deterministic: Vec::new(),
        }
    }
}

/// Native XDP, generic XDP, or native with generic as the fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpModeChoice {
    /// Native, and generic where the driver has none.
    Auto,
    /// In the driver.
    Native,
    /// Behind the driver.
    Generic,
}

/// A wish that may be left to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoOnOff {
    /// On where it works.
    Auto,
    /// On, or an error.
    On,
    /// Off.
    Off,
}

/// One interface that gate64 takes packets from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Its name in the kernel.
    pub name: String,
    /// Where the XDP program runs.
    pub xdp_mode: XdpModeChoice,
    /// Whether frames are shared with the driver.
    pub zero_copy: AutoOnOff,
    /// Whether workers drive the interface's queues themselves instead of waiting for interrupts.
    pub busy_poll: AutoOnOff,
    /// The 802.1Q id that gate64 reads and writes itself, if any.
    pub vlan: Option<u16>,
    /// What to do with layer 4 checksums of packets that arrive here.
    pub l4_checksum: L4Checksum,
}

/// An address of an interface that gate64 holds, used as the source of its ICMP errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub ip: IpAddr,
    /// Prefix length.
    pub length: u8,
}
