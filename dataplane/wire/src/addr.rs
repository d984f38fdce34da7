//! Transport addresses and protocols, in the words of RFC 6146 section 2.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// One of the three protocols that RFC 6146 section 3.1 keeps a BIB and a session table for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// UDP (17).
    Udp = 0,
    /// TCP (6).
    Tcp = 1,
    /// ICMP queries: ICMPv4 (1) on one side, ICMPv6 (58) on the other.
    Icmp = 2,
}

impl Protocol {
    /// All three, in the order of their index.
    pub const ALL: [Protocol; 3] = [Protocol::Udp, Protocol::Tcp, Protocol::Icmp];

    /// 0, 1 or 2: the place in tables that are kept per protocol.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The lower-case name used on the command line, in metrics and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
            Protocol::Icmp => "icmp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An IPv4 address with a port: a TCP or UDP port, or the identifier of an ICMP query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransportAddr4 {
    /// The address.
    pub ip: Ipv4Addr,
    /// Port or ICMP identifier, host order.
    pub port: u16,
}

/// An IPv6 address with a port: a TCP or UDP port, or the identifier of an ICMP query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransportAddr6 {
    /// The address.
    pub ip: Ipv6Addr,
    /// Port or ICMP identifier, host order.
    pub port: u16,
}

/// An IPv4 packet's tuple: 5-tuple for TCP and UDP, 3-tuple for ICMP queries, where both ports
/// hold the identifier (RFC 6146 section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple4 {
    /// Source transport address.
    pub src: TransportAddr4,
    /// Destination transport address.
    pub dst: TransportAddr4,
    /// Which BIB and session table it belongs to.
    pub protocol: Protocol,
}

/// An IPv6 packet's tuple, as [`Tuple4`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple6 {
    /// Source transport address.
    pub src: TransportAddr6,
    /// Destination transport address.
    pub dst: TransportAddr6,
    /// Which BIB and session table it belongs to.
    pub protocol: Protocol,
}

impl fmt::Display for TransportAddr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ip, self.port)
    }
}

impl fmt::Display for TransportAddr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]:{}", self.ip, self.port)
    }
}
