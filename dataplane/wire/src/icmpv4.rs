//! ICMPv4 messages (RFC 792, RFC 1191, RFC 4884).

use crate::facts::{L4Kind, ParseError};

/// Protocol number.
pub const PROTOCOL: u8 = 1;
/// Octets in front of the body: type, code, checksum and four octets that depend on the type.
pub const HEADER_LEN: usize = 8;
/// Place of the checksum in the header.
pub const CHECKSUM_AT: usize = 2;
/// Place of an echo's identifier.
pub const IDENTIFIER_AT: usize = 4;
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

/// An ICMPv4 header's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Type.
    pub icmp_type: u8,
    /// Code.
    pub code: u8,
    /// Checksum as it stands there.
    pub checksum: u16,
    /// The four octets whose meaning depends on the type: identifier and sequence number of an
    /// echo; pointer, length and MTU of an error.
    pub rest: [u8; 4],
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// [`ParseError::L4Truncated`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Header, ParseError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(ParseError::L4Truncated)?;
        let [icmp_type, code, c0, c1, rest @ ..] = *header;
        Ok(Header {
            icmp_type,
            code,
            checksum: u16::from_be_bytes([c0, c1]),
            rest,
        })
    }

    /// Writes the header.
    #[inline]
    pub fn write(&self, out: &mut [u8; HEADER_LEN]) {
        out[0] = self.icmp_type;
        out[1] = self.code;
        out[2..4].copy_from_slice(&self.checksum.to_be_bytes());
        out[4..].copy_from_slice(&self.rest);
    }

    /// Octets of the original datagram by the RFC 4884 length field; `None` if the field is
    /// absent or zero, so that there are no extensions.
    #[inline]
    pub fn original_datagram_len(&self) -> Option<u16> {
        let words = self.rest[1];
        (has_length_field(self.icmp_type) && words != 0).then_some(u16::from(words) * 4)
    }

    /// The next-hop MTU of a fragmentation needed (RFC 1191); zero from routers before it.
    #[inline]
    pub fn mtu(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_read_and_written() {
        let bytes = [3, 4, 0xab, 0xcd, 0, 32, 0x05, 0xdc];
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.icmp_type, header.code), (3, 4));
        assert_eq!(header.mtu(), 1500);
        assert_eq!(header.original_datagram_len(), Some(128));
        let mut out = [0; 8];
        header.write(&mut out);
        assert_eq!(out, bytes);
        assert_eq!(Header::parse(&bytes[..7]), Err(ParseError::L4Truncated));
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
