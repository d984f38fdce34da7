//! ICMPv6 messages (RFC 4443, RFC 4884).

use crate::facts::{L4Kind, ParseError};

/// Next header number.
pub const PROTOCOL: u8 = 58;
/// Octets in front of the body: type, code, checksum and four octets that depend on the type.
pub const HEADER_LEN: usize = 8;
/// Place of the checksum in the header.
pub const CHECKSUM_AT: usize = 2;
/// Place of an echo's identifier.
pub const IDENTIFIER_AT: usize = 4;
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

/// An ICMPv6 header's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Type.
    pub icmp_type: u8,
    /// Code.
    pub code: u8,
    /// Checksum as it stands there.
    pub checksum: u16,
    /// The four octets whose meaning depends on the type: identifier and sequence number of an
    /// echo; length, MTU or pointer of an error.
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
        let words = self.rest[0];
        (has_length_field(self.icmp_type) && words != 0).then_some(u16::from(words) * 8)
    }

    /// The MTU of a packet too big, or the pointer of a parameter problem.
    #[inline]
    pub fn word(&self) -> u32 {
        u32::from_be_bytes(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_read_and_written() {
        let bytes = [2, 0, 0xab, 0xcd, 0, 0, 0x05, 0x00];
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.icmp_type, header.code), (2, 0));
        assert_eq!(header.word(), 1280);
        assert_eq!(header.original_datagram_len(), None);
        let mut out = [0; 8];
        header.write(&mut out);
        assert_eq!(out, bytes);
        let unreachable = Header::parse(&[1, 4, 0, 0, 16, 0, 0, 0]).unwrap();
        assert_eq!(unreachable.original_datagram_len(), Some(128));
        assert_eq!(Header::parse(&bytes[..7]), Err(ParseError::L4Truncated));
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
