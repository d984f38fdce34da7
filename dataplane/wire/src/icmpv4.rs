//! ICMPv4 messages (RFC 792, RFC 1191, RFC 4884).

use crate::facts::L4Kind;
pub use crate::icmp::{CHECKSUM_AT, HEADER_LEN, Header, IDENTIFIER_AT};

/// Protocol number.
pub const PROTOCOL: u8 = 1;
/// Place of the RFC 4884 length field, in units of 4 octets.
pub const LENGTH_AT: usize = 5;

/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Source quench, deprecated.
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Codes of [`UNREACHABLE`].
pub mod unreachable {
    /// Network unreachable.
    pub const NETWORK: u8 = 0;
    /// Host unreachable.
    pub const HOST: u8 = 1;
    /// Protocol unreachable.
    pub const PROTOCOL: u8 = 2;
    /// Port unreachable.
    pub const PORT: u8 = 3;
    /// Fragmentation needed and DF set.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Source route failed.
    pub const SOURCE_ROUTE_FAILED: u8 = 5;
    /// Communication with destination host administratively prohibited (RFC 1122).
    pub const HOST_PROHIBITED: u8 = 10;
    /// Communication administratively prohibited (RFC 1812).
    pub const ADMIN_PROHIBITED: u8 = 13;
}

/// What kind of message a type is. Source quench and redirect are errors by RFC 1122, but none
/// that RFC 7915 section 4.2 translates.
#[inline]
pub fn kind(icmp_type: u8) -> L4Kind {
    match icmp_type {
        ECHO_REQUEST => L4Kind::EchoRequest,
        ECHO_REPLY => L4Kind::EchoReply,
        UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM => L4Kind::IcmpError,
        _ => L4Kind::IcmpOther,
    }
}

/// Whether the type has the RFC 4884 length field: all three translated errors do (section 4.2,
/// 4.3 and 4.4 there).
#[inline]
pub fn has_length_field(icmp_type: u8) -> bool {
    kind(icmp_type) == L4Kind::IcmpError
}

/// Octets of the original datagram by the RFC 4884 length field; `None` if the field is absent or
/// zero, so that there are no extensions.
#[inline]
pub fn original_datagram_len(header: &Header) -> Option<u16> {
    let words = header.rest[LENGTH_AT - 4];
    (has_length_field(header.icmp_type) && words != 0).then_some(u16::from(words) * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_field() {
        let len = |icmp_type, rest| {
            let header = Header {
                icmp_type,
                code: 0,
                checksum: 0,
                rest,
            };
            original_datagram_len(&header)
        };
        assert_eq!(len(UNREACHABLE, [0, 32, 0x05, 0xdc]), Some(128));
        assert_eq!(len(PARAMETER_PROBLEM, [9, 33, 0, 0]), Some(132));
        assert_eq!(len(TIME_EXCEEDED, [0; 4]), None);
        assert_eq!(len(REDIRECT, [0, 32, 0, 0]), None);
    }

    #[test]
    fn kinds() {
        for icmp_type in 0..=255 {
            let expected = match icmp_type {
                0 => L4Kind::EchoReply,
                8 => L4Kind::EchoRequest,
                3 | 11 | 12 => L4Kind::IcmpError,
                _ => L4Kind::IcmpOther,
            };
            assert_eq!(kind(icmp_type), expected);
        }
    }
}
