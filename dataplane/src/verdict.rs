//! What is to happen to a packet, and every reason for which one is refused.

use gate64_wire::facts::ParseError;

/// The two sides of a NAT64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// The IPv6 side.
    V6 = 0,
    /// The IPv4 side.
    V4 = 1,
}

impl Side {
    /// The name of the direction of packets that came from this side, for metrics.
    pub const fn direction(self) -> &'static str {
        match self {
            Side::V6 => "v6_to_v4",
            Side::V4 => "v4_to_v6",
        }
    }

    /// 0 or 1.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The other side.
    #[inline]
    pub const fn other(self) -> Side {
        match self {
            Side::V6 => Side::V4,
            Side::V4 => Side::V6,
        }
    }
}

/// Number of a worker, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u8);

/// One list gives each reason its variant, its metric label and its sentence for the docs.
macro_rules! drop_reasons {
    ($($variant:ident $label:literal $sentence:literal,)*) => {
        /// Why a packet was refused. One counter each, per direction; no catch-all.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $sentence] $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their index.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// How many there are.
            pub const COUNT: usize = DropReason::ALL.len();

            /// The value of the `reason` label in metrics and on the command line.
            pub const fn label(self) -> &'static str {
                match self { $(DropReason::$variant => $label,)* }
            }

            /// One sentence that says what happened and what to look at.
            pub const fn sentence(self) -> &'static str {
                match self { $(DropReason::$variant => $sentence,)* }
            }
        }
    };
}

drop_reasons! {
    Truncated "truncated" "Shorter than its IP header or than its length field says.",
    Version "version" "The IP version is not the one its EtherType promises.",
    HeaderLength "header_length" "The IPv4 header length is below 20 octets or beyond the packet.",
    HeaderChecksum "header_checksum" "The IPv4 header checksum is wrong.",
    OptionsMalformed "options_malformed" "An IPv4 option has a length that does not fit.",
    ExtensionHeaders "extension_headers" "IPv6 extension headers run beyond the packet or are too many.",
    FragmentHeader "fragment_header" "A fragment header is repeated or out of place.",
    FragmentLength "fragment_length" "A fragment has a length or an offset that cannot be.",
    L4Truncated "l4_truncated" "The TCP, UDP or ICMP header is incomplete.",
    UdpLength "udp_length" "The UDP length field does not fit the packet.",
    TcpOffset "tcp_offset" "The TCP data offset does not fit the packet.",
    PayloadLength "payload_length" "An IPv6 jumbogram or an empty IPv6 packet.",
    LinkMalformed "link_malformed" "An Ethernet or 802.1Q header that is cut short or of another VLAN.",
    NotOurs "not_ours" "Neither to a translation prefix nor to a pool address.",
    SourceInPref64 "source_in_pref64" "The IPv6 source lies inside a translation prefix (RFC 6146 section 3.5): a loop or a forgery.",
    SourceMartian "source_martian" "The source is no address that a host can send from.",
    DestinationMartian "destination_martian" "The IPv4 destination inside the IPv6 address is none that can be routed to.",
    WkpNonGlobal "wkp_non_global" "A non-global IPv4 address in the well-known prefix (RFC 6052 section 3.1; nat64.wkp_strict).",
    HopLimit "hop_limit" "Hop limit or TTL used up; answered with time exceeded.",
    RoutingHeader "routing_header" "A routing header with segments left (RFC 7915 section 5.1); answered with parameter problem.",
    SourceRoute "source_route" "An unexpired IPv4 source route (RFC 7915 section 4.1); answered with source route failed.",
    UnknownProtocol "unknown_protocol" "Neither TCP, UDP nor ICMP; answered with unreachable unless nat64.unknown_protocol = drop.",
    IcmpUntranslatable "icmp_untranslatable" "An ICMP message for which RFC 7915 has no counterpart.",
    IcmpInnerMalformed "icmp_inner_malformed" "The packet inside an ICMP error cannot be read.",
    IcmpNested "icmp_nested" "An ICMP error about an ICMP error (RFC 6146 section 3.4).",
    IcmpChecksum "icmp_checksum" "An ICMP error whose own checksum is wrong (RFC 5508 section 4).",
    UdpChecksumZero "udp_checksum_zero" "An IPv4 UDP datagram without checksum (nat64.udp_checksum_zero = drop), or a later fragment of one.",
    NoBib "no_bib" "From IPv4: no BIB entry for that pool address and port.",
    NoSession "no_session" "No session for that packet.",
    TcpNotSyn "tcp_not_syn" "TCP from IPv6 without a BIB entry that does not begin with SYN.",
    TcpIncomingSyn "tcp_incoming_syn" "An unsolicited IPv4 SYN was held and no matching SYN came (RFC 6146 section 3.5.2.2).",
    SynHoldFull "syn_hold_full" "An unsolicited IPv4 SYN found the hold for such packets full.",
    Filtered "filtered" "From an IPv4 address that the client did not talk to (nat64.filtering = address-dependent).",
    PoolExhausted "pool_exhausted" "No free port block or port in the pool.",
    SubscriberPorts "subscriber_ports" "The subscriber has used up its ports (subscriber.port_blocks_max, udp_ports_max …).",
    SubscriberSessions "subscriber_sessions" "The subscriber has used up its sessions (subscriber.session_count_max).",
    SubscriberRate "subscriber_rate" "The subscriber opens sessions faster than subscriber.session_rate_max.",
    DestinationDenied "destination_denied" "To an IPv4 destination that is denied to the subscriber (subscriber.deny).",
    SubscribersFull "subscribers_full" "No room for another subscriber.",
    LogFailing "log_failing" "The log cannot be written, and log.on_failure = refuse-new.",
    SessionTableFull "session_table_full" "The session table is full (dataplane.session_count_max).",
    PacketTooBig "packet_too_big" "Longer than the MTU of the next link; answered with packet too big or fragmentation needed.",
    FragmentUnmatched "fragment_unmatched" "A later fragment whose first did not come in time.",
    FragmentDuplicate "fragment_duplicate" "The same fragment once more.",
    FragmentOverlap "fragment_overlap" "Fragments of one packet overlap (RFC 5722).",
    FragmentsFull "fragments_full" "The bounded store of fragments is full, in all or for that source.",
    HairpinOff "hairpin_off" "To a pool address from IPv6 while nat64.hairpin = false.",
    HairpinLoop "hairpin_loop" "A hairpinned packet would have to hairpin again.",
    Headroom "headroom" "No room in the frame for the larger header.",
    NoRoute "no_route" "The kernel's routing table has no route to the destination; answered with unreachable.",
    RouteElsewhere "route_elsewhere" "The route leads to an interface that gate64 does not hold.",
    NeighborUnresolved "neighbor_unresolved" "The next hop did not answer ARP or neighbour discovery in time.",
    NeighborQueueFull "neighbor_queue_full" "Too many packets already wait for that next hop.",
    TxRingFull "tx_ring_full" "The interface takes no more frames.",
    HandoffLoop "handoff_loop" "Handed over by a worker that takes this one for the owner, while this one takes another for it.",
    HandoffFull "handoff_full" "The ring to the owning worker is full.",
    FramesExhausted "frames_exhausted" "No free frame for a packet that gate64 makes.",
}

/// Why a packet went to another worker than the one at whose queue it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HandoffReason {
    /// The interface's hash chose a queue of another worker than the session's owner.
    Queue,
    /// An ICMP error: its owner is that of the packet inside, which no hash knows.
    IcmpError,
    /// A fragment: it goes to the worker that gathers its packet, and from there to the owner.
    Fragment,
    /// A hairpin between clients of two workers.
    Hairpin,
}

impl HandoffReason {
    /// All reasons, in the order of their index.
    pub const ALL: [HandoffReason; 4] = [
        HandoffReason::Queue,
        HandoffReason::IcmpError,
        HandoffReason::Fragment,
        HandoffReason::Hairpin,
    ];

    /// The value of the `reason` label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            HandoffReason::Queue => "queue",
            HandoffReason::IcmpError => "icmp_error",
            HandoffReason::Fragment => "fragment",
            HandoffReason::Hairpin => "hairpin",
        }
    }
}

impl From<ParseError> for DropReason {
    fn from(error: ParseError) -> DropReason {
        match error {
            ParseError::Truncated => DropReason::Truncated,
            ParseError::Version => DropReason::Version,
            ParseError::HeaderLength => DropReason::HeaderLength,
            ParseError::HeaderChecksum => DropReason::HeaderChecksum,
            ParseError::Options => DropReason::OptionsMalformed,
            ParseError::ExtensionHeaders => DropReason::ExtensionHeaders,
            ParseError::FragmentHeader => DropReason::FragmentHeader,
            ParseError::FragmentLength => DropReason::FragmentLength,
            ParseError::L4Truncated => DropReason::L4Truncated,
            ParseError::UdpLength => DropReason::UdpLength,
            ParseError::TcpOffset => DropReason::TcpOffset,
            ParseError::PayloadLength => DropReason::PayloadLength,
        }
    }
}

/// An ICMP error that gate64 itself makes, in the family the refused packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// ICMPv6 3/0, ICMPv4 11/0.
    TimeExceeded,
    /// ICMPv6 2/0, ICMPv4 3/4, with the MTU to announce in that family.
    TooBig {
        /// Largest packet of the refused packet's own family that would pass.
        mtu: u16,
    },
    /// ICMPv6 1/1, ICMPv4 3/13.
    AdminProhibited,
    /// ICMPv6 1/3, ICMPv4 3/1.
    AddressUnreachable,
    /// ICMPv6 1/0, ICMPv4 3/0.
    NoRoute,
    /// ICMPv6 1/4, ICMPv4 3/3.
    PortUnreachable,
    /// ICMPv6 4/0 with a pointer, ICMPv4 12/0.
    ParameterProblem {
        /// Offset of the offending octet in the refused packet.
        pointer: u16,
    },
    /// ICMPv6 4/1 with a pointer to the next header field, ICMPv4 3/2.
    ProtocolUnreachable {
        /// Offset of the offending octet in the refused packet.
        pointer: u16,
    },
    /// ICMPv4 3/5 only.
    SourceRouteFailed,
}

/// Why a step refuses a packet: the `?` type of the packet path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Counted, silent.
    Drop(DropReason),
    /// Counted as a drop and answered.
    Reject(DropReason, IcmpError),
    /// Not now: the engine has a copy and answers later.
    Hold,
    /// Not to be translated but routed on as IPv6 (RFC 6888 REQ-6).
    Bypass,
}

impl Refusal {
    /// The reason, if the packet is dropped.
    pub fn reason(&self) -> Option<DropReason> {
        match self {
            Refusal::Drop(reason) | Refusal::Reject(reason, _) => Some(*reason),
            Refusal::Hold | Refusal::Bypass => None,
        }
    }
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Refusal {
        Refusal::Drop(reason)
    }
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Refusal {
        Refusal::Drop(error.into())
    }
}

/// What the worker is to do with a packet; it obeys and never decides again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The frame holds the packet for that side (translated, or an ICMP error in answer): send.
    Forward(Side),
    /// Counted: release the frame.
    Drop(DropReason),
    /// Another worker owns it. The packet is as `side` delivered it (or hairpinned to that side).
    Handoff {
        /// The owner.
        worker: WorkerId,
        /// The side the owner shall take it from.
        side: Side,
    },
    /// The engine has copied what it needs (fragments, held SYN): release the frame.
    Hold,
}
