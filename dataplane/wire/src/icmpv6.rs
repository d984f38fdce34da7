//! ICMPv6 messages (RFC 4443, RFC 4884).

use crate::facts::L4Kind;
pub use crate::icmp::{CHECKSUM_AT, HEADER_LEN, Header, IDENTIFIER_AT};

/// Next header number.
pub const PROTOCOL: u8 = 58;
/// Place of the RFC 4884 length field, in units of 8 octets.
pub const LENGTH_AT: usize = 4;

/// Destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;

/// Codes of [`UNREACHABLE`].
pub mod unreachable {
    /// No route to destination.
    pub const NO_ROUTE: u8 = 0;
    /// Communication with destination administratively prohibited.
    pub const ADMIN_PROHIBITED: u8 = 1;
    /// Beyond scope of source address.
    pub const BEYOND_SCOPE: u8 = 2;
    /// Address unreachable.
    pub const ADDRESS: u8 = 3;
    /// Port unreachable.
    pub const PORT: u8 = 4;
}

/// Codes of [`PARAMETER_PROBLEM`].
pub mod parameter_problem {
    /// Erroneous header field encountered.
    pub const ERRONEOUS_FIELD: u8 = 0;
    /// Unrecognized next header type encountered.
    pub const NEXT_HEADER: u8 = 1;
}

/// What kind of message a type is. Of the error types (below 128) RFC 7915 section 5.2
/// translates the first four.
#[inline]
pub fn kind(icmp_type: u8) -> L4Kind {
    match icmp_type {
        ECHO_REQUEST => L4Kind::EchoRequest,
        ECHO_REPLY => L4Kind::EchoReply,
        UNREACHABLE..=PARAMETER_PROBLEM => L4Kind::IcmpError,
        _ => L4Kind::IcmpOther,
    }
}

/// Whether the type has the RFC 4884 length field: only these two (section 4.4 and 4.5 there);
/// packet too big and parameter problem use all four octets.
#[inline]
pub fn has_length_field(icmp_type: u8) -> bool {
    matches!(icmp_type, UNREACHABLE | TIME_EXCEEDED)
}

/// Octets of the original datagram by the RFC 4884 length field; `None` if the field is absent or
/// zero, so that there are no extensions.
#[inline]
pub fn original_datagram_len(header: &Header) -> Option<u16> {
    let words = header.rest[LENGTH_AT - 4];
    (has_length_field(header.icmp_type) && words != 0).then_some(u16::from(words) * 8)
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
        assert_eq!(len(UNREACHABLE, [16, 0, 0, 0]), Some(128));
        assert_eq!(len(TIME_EXCEEDED, [17, 0, 0, 0]), Some(136));
        assert_eq!(len(TIME_EXCEEDED, [0; 4]), None);
        assert_eq!(len(PACKET_TOO_BIG, [16, 0, 5, 0]), None);
    }

    #[test]
    fn kinds() {
        for icmp_type in 0..=255 {
            let expected = match icmp_type {
                128 => L4Kind::EchoRequest,
                129 => L4Kind::EchoReply,
                1..=4 => L4Kind::IcmpError,
                _ => L4Kind::IcmpOther,
            };
            assert_eq!(kind(icmp_type), expected);
        }
    }
}
