//! UDP headers (RFC 768).

use crate::facts::ParseError;

/// Protocol number.
pub const PROTOCOL: u8 = 17;
/// Octets of the header.
pub const HEADER_LEN: usize = 8;
/// Place of the length in the header.
pub const LEN_AT: usize = 4;
/// Place of the checksum in the header.
pub const CHECKSUM_AT: usize = 6;

/// A UDP header's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Octets of header and payload.
    pub len: u16,
    /// Checksum as it stands there; zero for none.
    pub checksum: u16,
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// [`ParseError::L4Truncated`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Header, ParseError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(ParseError::L4Truncated)?;
        let [s0, s1, d0, d1, l0, l1, c0, c1] = *header;
        Ok(Header {
            src_port: u16::from_be_bytes([s0, s1]),
            dst_port: u16::from_be_bytes([d0, d1]),
            len: u16::from_be_bytes([l0, l1]),
            checksum: u16::from_be_bytes([c0, c1]),
        })
    }

    /// Writes the header.
    #[inline]
    pub fn write(&self, out: &mut [u8; HEADER_LEN]) {
        out[..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..6].copy_from_slice(&self.len.to_be_bytes());
        out[6..].copy_from_slice(&self.checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_read_and_written() {
        let bytes = [0x12, 0x34, 0x00, 0x35, 0x00, 0x08, 0xab, 0xcd];
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(
            header,
            Header {
                src_port: 0x1234,
                dst_port: 53,
                len: 8,
                checksum: 0xabcd
            }
        );
        let mut out = [0; 8];
        header.write(&mut out);
        assert_eq!(out, bytes);
        assert_eq!(Header::parse(&bytes[..7]), Err(ParseError::L4Truncated));
    }
}
