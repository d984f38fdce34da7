//! What a translator has to know of a packet: small `Copy` structs, so that the borrow of the
//! bytes ends before anything is written.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Where a fragment lies in its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentFacts {
    /// Octets in front of this fragment's payload, a multiple of 8.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// Identification; the upper 16 bits are zero for IPv4.
    pub id: u32,
}

/// What stands behind the IP header (and, for IPv6, behind its extension headers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum L4Kind {
    /// UDP, header complete.
    Udp,
    /// TCP, header complete including its options.
    Tcp,
    /// Echo request; both ports hold the identifier.
    EchoRequest,
    /// Echo reply; both ports hold the identifier.
    EchoReply,
    /// An ICMP error message; its tuple is in the inner packet.
    IcmpError,
    /// An ICMP message that is neither an echo nor an error that RFC 7915 translates.
    IcmpOther,
    /// A protocol that a stateful NAT64 does not translate.
    Unknown,
    /// Not the first fragment: there is no header to read.
    LaterFragment,
}

/// The upper-layer header's facts. Fields that a kind does not have are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L4Facts {
    /// Which of the others are meaningful.
    pub kind: L4Kind,
    /// Source port, or ICMP identifier; host order.
    pub src_port: u16,
    /// Destination port, or ICMP identifier; host order.
    pub dst_port: u16,
    /// TCP flags octet (FIN 0x01, SYN 0x02, RST 0x04, ACK 0x10).
    pub tcp_flags: u8,
    /// ICMP type, for the four ICMP kinds.
    pub icmp_type: u8,
    /// ICMP code, for the four ICMP kinds.
    pub icmp_code: u8,
    /// A UDP checksum field of zero.
    pub udp_checksum_zero: bool,
}

/// TCP flag bits as they stand in [`L4Facts::tcp_flags`].
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Acknowledgment field is significant.
    pub const ACK: u8 = 0x10;
}

/// What the translator has to know of an IPv6 packet. Offsets count from the IPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Facts {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Traffic class octet.
    pub traffic_class: u8,
    /// Hop limit as received.
    pub hop_limit: u8,
    /// Upper-layer protocol behind all extension headers.
    pub protocol: u8,
    /// Octets up to the upper-layer header (40 when there is no extension header).
    pub l4_offset: u16,
    /// Octets of the whole IPv6 packet by its own length field; link padding lies behind.
    pub len: u16,
    /// Present when there is a fragment header, atomic ones (offset 0, no more) included.
    pub fragment: Option<FragmentFacts>,
    /// Offset of the Segments Left field of a routing header where it is not zero.
    pub segments_left_at: Option<u16>,
    /// The upper-layer header.
    pub l4: L4Facts,
}

/// What the translator has to know of an IPv4 packet. Offsets count from the IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Facts {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Type of service octet.
    pub tos: u8,
    /// Time to live as received.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Octets of the IPv4 header with its options.
    pub l4_offset: u16,
    /// Octets of the whole IPv4 packet by its own length field; link padding lies behind.
    pub len: u16,
    /// Identification field.
    pub id: u16,
    /// The DF flag.
    pub dont_fragment: bool,
    /// Present when the offset is not zero or MF is set.
    pub fragment: Option<FragmentFacts>,
    /// Offset of an unexpired source route option, if there is one.
    pub source_route_at: Option<u16>,
    /// The upper-layer header.
    pub l4: L4Facts,
}

impl L4Facts {
    /// Nothing known.
    pub const NONE: L4Facts = L4Facts {
        kind: L4Kind::Unknown,
        src_port: 0,
        dst_port: 0,
        tcp_flags: 0,
        icmp_type: 0,
        icmp_code: 0,
        udp_checksum_zero: false,
    };
}

impl Ipv6Facts {
    /// No packet's facts: a place to read some into.
    pub const NONE: Ipv6Facts = Ipv6Facts {
        src: Ipv6Addr::UNSPECIFIED,
        dst: Ipv6Addr::UNSPECIFIED,
        traffic_class: 0,
        hop_limit: 0,
        protocol: 0,
        l4_offset: 0,
        len: 0,
        fragment: None,
        segments_left_at: None,
        l4: L4Facts::NONE,
    };
}

impl Ipv4Facts {
    /// No packet's facts: a place to read some into.
    pub const NONE: Ipv4Facts = Ipv4Facts {
        src: Ipv4Addr::UNSPECIFIED,
        dst: Ipv4Addr::UNSPECIFIED,
        tos: 0,
        ttl: 0,
        protocol: 0,
        l4_offset: 0,
        len: 0,
        id: 0,
        dont_fragment: false,
        fragment: None,
        source_route_at: None,
        l4: L4Facts::NONE,
    };
}

/// Why octets are not a packet. Parsing is total: every input is facts or one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Fewer octets than the IP header, or than its length field says.
    Truncated,
    /// The version nibble is not that of the EtherType.
    Version,
    /// IPv4 header length below 20 octets or beyond the packet.
    HeaderLength,
    /// The IPv4 header checksum is wrong.
    HeaderChecksum,
    /// An IPv4 option whose length does not fit.
    Options,
    /// IPv6 extension headers that run beyond the packet, or more of them than are followed.
    ExtensionHeaders,
    /// A second fragment header, or other headers behind the first one.
    FragmentHeader,
    /// A fragment whose length is not a multiple of 8 although more follow, or that ends beyond 65535.
    FragmentLength,
    /// The upper-layer header is incomplete.
    L4Truncated,
    /// The UDP length field does not fit the packet.
    UdpLength,
    /// TCP data offset below 5 or beyond the packet.
    TcpOffset,
    /// IPv6 jumbogram or a payload length of zero.
    PayloadLength,
}
