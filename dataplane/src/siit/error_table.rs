//! What an ICMP error of one family says in the other: types, codes, pointers and MTUs of
//! RFC 7915 sections 4.2 and 5.2. `None` stands for "silently drop".

use gate64_wire::facts::{Ipv4Facts, Ipv6Facts};
use gate64_wire::{icmpv4, icmpv6};

use super::{IPV6_MTU_MIN, Rules};

/// The MTUs of the links to the next hops on both sides, for packet too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHopMtu {
    /// Towards the IPv6 host.
    pub v6: u16,
    /// Towards the IPv4 host.
    pub v4: u16,
}

/// The smallest MTU an IPv4 link can have (RFC 791 section 3.2).
const IPV4_MTU_MIN: u32 = 68;

/// Octets by which an IPv6 header is longer.
const HEADER_DIFFERENCE: u32 = 20;
/// The same with a fragment header.
const FRAGMENTED_DIFFERENCE: u32 = 28;

/// The first eight octets of an error but for its checksum and RFC 4884 length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ErrorHeader {
    pub(super) icmp_type: u8,
    pub(super) code: u8,
    /// Pointer or MTU.
    pub(super) rest: [u8; 4],
}

fn error(icmp_type: u8, code: u8) -> Option<ErrorHeader> {
    Some(ErrorHeader {
        icmp_type,
        code,
        rest: [0; 4],
    })
}

/// Section 4.2.
pub(super) fn v4_to_v6(
    received: &icmpv4::Header,
    inner: &Ipv4Facts,
    mtu: NextHopMtu,
    rules: &Rules,
) -> Option<ErrorHeader> {
    match received.icmp_type {
        icmpv4::UNREACHABLE => unreachable_v6(received, inner, mtu, rules),
        icmpv4::TIME_EXCEEDED => error(icmpv6::TIME_EXCEEDED, received.code),
        icmpv4::PARAMETER_PROBLEM if matches!(received.code, 0 | 2) => {
            let pointer = pointer_v6(received.rest[0])?;
            Some(ErrorHeader {
                icmp_type: icmpv6::PARAMETER_PROBLEM,
                code: icmpv6::parameter_problem::ERRONEOUS_FIELD,
                rest: u32::from(pointer).to_be_bytes(),
            })
        }
        _ => None,
    }
}

fn unreachable_v6(
    received: &icmpv4::Header,
    inner: &Ipv4Facts,
    mtu: NextHopMtu,
    rules: &Rules,
) -> Option<ErrorHeader> {
    use icmpv6::unreachable::{ADMIN_PROHIBITED, NO_ROUTE, PORT};
    match received.code {
        0 | 1 | 5..=8 | 11 | 12 => error(icmpv6::UNREACHABLE, NO_ROUTE),
        icmpv4::unreachable::PROTOCOL => Some(ErrorHeader {
            icmp_type: icmpv6::PARAMETER_PROBLEM,
            code: icmpv6::parameter_problem::NEXT_HEADER,
            // The IPv6 header's next header field.
            rest: 6u32.to_be_bytes(),
        }),
        icmpv4::unreachable::PORT => error(icmpv6::UNREACHABLE, PORT),
        icmpv4::unreachable::FRAGMENTATION_NEEDED => Some(ErrorHeader {
            icmp_type: icmpv6::PACKET_TOO_BIG,
            code: 0,
            rest: mtu_v6(received.mtu(), inner, mtu, rules).to_be_bytes(),
        }),
        9 | 10 | 13 | 15 => error(icmpv6::UNREACHABLE, ADMIN_PROHIBITED),
        _ => None,
    }
}

/// `max(1280, min(MTU + 20, MTU of the IPv6 next hop, MTU of the IPv4 next hop + 20))`.
fn mtu_v6(announced: u16, inner: &Ipv4Facts, mtu: NextHopMtu, rules: &Rules) -> u32 {
    // A router that does not know RFC 1191 leaves zero: the next plateau below the length of
    // the packet that did not pass.
    let path = if announced == 0 {
        let plateau = rules.mtu_plateaus.iter().find(|p| **p < inner.len);
        plateau.copied().unwrap_or(0)
    } else {
        announced
    };
    (u32::from(path) + HEADER_DIFFERENCE)
        .min(u32::from(mtu.v6))
        .min(u32::from(mtu.v4) + HEADER_DIFFERENCE)
        .max(u32::from(IPV6_MTU_MIN))
}

/// Section 4.2, figure 3.
fn pointer_v6(pointer: u8) -> Option<u8> {
    match pointer {
        0 => Some(0),        // version, IHL: version, traffic class
        1 => Some(1),        // type of service: traffic class, flow label
        2 | 3 => Some(4),    // total length: payload length
        8 => Some(7),        // time to live: hop limit
        9 => Some(6),        // protocol: next header
        12..=15 => Some(8),  // source address
        16..=19 => Some(24), // destination address
        _ => None,
    }
}

/// Section 5.2.
pub(super) fn v6_to_v4(
    received: &icmpv6::Header,
    inner: &Ipv6Facts,
    mtu: NextHopMtu,
) -> Option<ErrorHeader> {
    use icmpv4::unreachable::{FRAGMENTATION_NEEDED, HOST, HOST_PROHIBITED, PORT, PROTOCOL};
    match (received.icmp_type, received.code) {
        (icmpv6::UNREACHABLE, 0 | 2 | 3) => error(icmpv4::UNREACHABLE, HOST),
        (icmpv6::UNREACHABLE, 1) => error(icmpv4::UNREACHABLE, HOST_PROHIBITED),
        (icmpv6::UNREACHABLE, 4) => error(icmpv4::UNREACHABLE, PORT),
        (icmpv6::PACKET_TOO_BIG, _) => {
            let [high, low] = mtu_v4(received.word(), inner, mtu).to_be_bytes();
            Some(ErrorHeader {
                icmp_type: icmpv4::UNREACHABLE,
                code: FRAGMENTATION_NEEDED,
                rest: [0, 0, high, low],
            })
        }
        (icmpv6::TIME_EXCEEDED, code) => error(icmpv4::TIME_EXCEEDED, code),
        (icmpv6::PARAMETER_PROBLEM, icmpv6::parameter_problem::ERRONEOUS_FIELD) => {
            Some(ErrorHeader {
                icmp_type: icmpv4::PARAMETER_PROBLEM,
                code: 0,
                rest: [pointer_v4(received.word())?, 0, 0, 0],
            })
        }
        (icmpv6::PARAMETER_PROBLEM, icmpv6::parameter_problem::NEXT_HEADER) => {
            error(icmpv4::UNREACHABLE, PROTOCOL)
        }
        _ => None,
    }
}

/// `min(MTU - 20, MTU of the IPv4 next hop, MTU of the IPv6 next hop - 20)`; 28 where the packet
/// in error has a fragment header. Never below what IPv4 guarantees.
fn mtu_v4(announced: u32, inner: &Ipv6Facts, mtu: NextHopMtu) -> u16 {
    let difference = match inner.fragment {
        None => HEADER_DIFFERENCE,
        Some(_) => FRAGMENTED_DIFFERENCE,
    };
    let mtu = announced
        .saturating_sub(difference)
        .min(u32::from(mtu.v4))
        .min(u32::from(mtu.v6).saturating_sub(difference))
        .max(IPV4_MTU_MIN);
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

/// Section 5.2, figure 6.
fn pointer_v4(pointer: u32) -> Option<u8> {
    match pointer {
        0 => Some(0),        // version, traffic class: version, IHL
        1 => Some(1),        // traffic class, flow label: type of service
        4 | 5 => Some(2),    // payload length: total length
        6 => Some(9),        // next header: protocol
        7 => Some(8),        // hop limit: time to live
        8..=23 => Some(12),  // source address
        24..=39 => Some(16), // destination address
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_4_2_figure_3_pointers() {
        let expected = [
            (0, 0),
            (1, 1),
            (2, 4),
            (3, 4),
            (8, 7),
            (9, 6),
            (12, 8),
            (15, 8),
            (16, 24),
            (19, 24),
        ];
        for (v4, v6) in expected {
            assert_eq!(pointer_v6(v4), Some(v6), "{v4}");
        }
        for v4 in [4, 5, 6, 7, 10, 11, 20, 255] {
            assert_eq!(pointer_v6(v4), None, "{v4}");
        }
    }

    #[test]
    fn section_5_2_figure_6_pointers() {
        let expected = [
            (0, 0),
            (1, 1),
            (4, 2),
            (5, 2),
            (6, 9),
            (7, 8),
            (8, 12),
            (23, 12),
            (24, 16),
            (39, 16),
        ];
        for (v6, v4) in expected {
            assert_eq!(pointer_v4(v6), Some(v4), "{v6}");
        }
        for v6 in [2, 3, 40, u32::MAX] {
            assert_eq!(pointer_v4(v6), None, "{v6}");
        }
    }
}
