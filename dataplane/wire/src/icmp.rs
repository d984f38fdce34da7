//! What ICMPv4 and ICMPv6 messages have in common: the eight octets in front of the body.

use crate::facts::ParseError;

/// Octets in front of the body: type, code, checksum and four octets that depend on the type.
pub const HEADER_LEN: usize = 8;
/// Place of the checksum in the header.
pub const CHECKSUM_AT: usize = 2;
/// Place of an echo's identifier.
pub const IDENTIFIER_AT: usize = 4;

/// An ICMP header's fields.
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

    /// The next-hop MTU of an ICMPv4 fragmentation needed (RFC 1191); zero from routers before it.
    #[inline]
    pub fn mtu(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// The MTU of an ICMPv6 packet too big, or the pointer of a parameter problem.
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
        let bytes = [3, 4, 0xab, 0xcd, 0, 32, 0x05, 0xdc];
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.icmp_type, header.code), (3, 4));
        assert_eq!((header.mtu(), header.word()), (1500, 0x0020_05dc));
        let mut out = [0; 8];
        header.write(&mut out);
        assert_eq!(out, bytes);
        assert_eq!(Header::parse(&bytes[..7]), Err(ParseError::L4Truncated));
    }
}
