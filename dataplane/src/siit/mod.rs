//! The stateless half of translation, RFC 7915: pure functions over one packet.
//!
//! `check_*` says every refusal that content alone decides; the translators behind it write in
//! place and cannot fail. What the addresses and ports shall be is the caller's business.

mod check;
mod delta;
mod error_table;
mod fragment;
mod icmp_error;
mod mss;
mod plain;
mod reject;
mod v4_to_v6;
mod v6_to_v4;

pub use check::{check_v4, check_v6, checksum_needs_all_fragments};
pub use delta::{l4_delta, recompute_checksum_v4, recompute_checksum_v6};
pub use error_table::NextHopMtu;
pub use fragment::{FragmentV6, fragments_v6};
pub use icmp_error::{v4_to_v6_error, v6_to_v4_error};
pub use mss::clamp_mss;
pub use plain::{GROWTH, plain_v4_to_v6, plain_v6_to_v4};
pub use reject::{make_error_v4, make_error_v6};
pub use v4_to_v6::{v4_to_v6, v4_to_v6_growth};
pub use v6_to_v4::v6_to_v4;

use gate64_wire::{icmpv4, icmpv6};

use crate::config::{Nat64Config, TrafficClass, UdpChecksumZero};

/// What of the configuration the translation of a packet depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Traffic class and type of service of translated packets.
    traffic_class: TrafficClassRule,
    /// MTUs to try for a fragmentation needed that names none, descending (RFC 1191 section 7).
    pub mtu_plateaus: Box<[u16]>,
    /// Size to which IPv4 packets without DF are fragmented.
    pub ipv6_mtu_lowest: u16,
    /// IPv4 UDP datagrams without a checksum.
    pub udp_checksum_zero: UdpChecksumZero,
}

impl Rules {
    /// The rules of a configuration.
    pub fn new(config: &Nat64Config) -> Rules {
        Rules {
            traffic_class: TrafficClassRule::new(config.traffic_class),
            mtu_plateaus: config.mtu_plateaus.as_slice().into(),
            ipv6_mtu_lowest: config.ipv6_mtu_lowest,
            udp_checksum_zero: config.udp_checksum_zero,
        }
    }

    /// The translated packet's traffic class or type of service (RFC 7915 section 4.1, 5.1).
    #[inline]
    fn traffic_class(&self, received: u8) -> u8 {
        let [octet, ..] = self.traffic_class_word(received).to_le_bytes();
        octet
    }

    /// Likewise, as a word: nothing is widened.
    #[inline]
    fn traffic_class_word(&self, received: u8) -> u32 {
        u32::from(received) & self.traffic_class.kept | self.traffic_class.set
    }
}

/// The configured traffic class as two masks, so that no packet has to ask which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TrafficClassRule {
    kept: u32,
    set: u32,
}

impl TrafficClassRule {
    fn new(config: TrafficClass) -> TrafficClassRule {
        match config {
            TrafficClass::Copy => TrafficClassRule { kept: 0xff, set: 0 },
            TrafficClass::Fixed(set) => TrafficClassRule {
                kept: 0,
                set: u32::from(set),
            },
        }
    }
}

/// Minimum MTU of IPv6 links (RFC 8200 section 5).
const IPV6_MTU_MIN: u16 = 1280;

/// The protocol number as IPv4 writes it (RFC 7915 section 5.1).
#[inline]
fn protocol_v4(protocol: u8) -> u8 {
    if protocol == icmpv6::PROTOCOL {
        icmpv4::PROTOCOL
    } else {
        protocol
    }
}

/// The protocol number as IPv6 writes it (RFC 7915 section 4.1).
#[inline]
fn protocol_v6(protocol: u8) -> u8 {
    if protocol == icmpv4::PROTOCOL {
        icmpv6::PROTOCOL
    } else {
        protocol
    }
}
