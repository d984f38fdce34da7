//! TCP headers (RFC 9293).

use crate::facts::ParseError;

/// Protocol number.
pub const PROTOCOL: u8 = 6;
/// Octets of the header without options.
pub const HEADER_LEN: usize = 20;
/// Place of the checksum in the header.
pub const CHECKSUM_AT: usize = 16;

/// Option kind: end of the list.
const OPTION_END: u8 = 0;
/// Option kind: one octet of padding.
const OPTION_NOP: u8 = 1;
/// Option kind: maximum segment size.
const OPTION_MSS: u8 = 2;

/// A TCP header's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Octets of the header with its options, 20 to 60.
    pub len: u8,
    /// Flags octet, as [`crate::facts::tcp_flag`].
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Checksum as it stands there.
    pub checksum: u16,
}

impl Header {
    /// Reads the header, whose options have to be there too.
    ///
    /// # Errors
    /// [`ParseError::L4Truncated`], [`ParseError::TcpOffset`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Header, ParseError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(ParseError::L4Truncated)?;
        let len = (header[12] >> 4) * 4;
        if usize::from(len) < HEADER_LEN || usize::from(len) > bytes.len() {
            return Err(ParseError::TcpOffset);
        }
        Ok(Header {
            src_port: u16::from_be_bytes([header[0], header[1]]),
            dst_port: u16::from_be_bytes([header[2], header[3]]),
            sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            acknowledgment: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            len,
            flags: header[13],
            window: u16::from_be_bytes([header[14], header[15]]),
            checksum: u16::from_be_bytes([header[16], header[17]]),
        })
    }

    /// Writes the fixed 20 octets; the urgent pointer is zero.
    #[inline]
    pub fn write(&self, out: &mut [u8; HEADER_LEN]) {
        out[..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        out[8..12].copy_from_slice(&self.acknowledgment.to_be_bytes());
        out[12] = (self.len / 4) << 4;
        out[13] = self.flags;
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..18].copy_from_slice(&self.checksum.to_be_bytes());
        out[18..].copy_from_slice(&[0, 0]);
    }
}

/// Where the value of the MSS option stands in a TCP header. `None` if there is no such option,
/// or if the options are malformed before it.
pub fn mss_at(header: &[u8]) -> Option<usize> {
    let mut at = HEADER_LEN;
    loop {
        match *header.get(at)? {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            kind => {
                let len = usize::from(*header.get(at + 1)?);
                if len < 2 || at + len > header.len() {
                    return None;
                }
                if kind == OPTION_MSS {
                    return (len == 4).then_some(at + 2);
                }
                at += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tcp_flag;

    const SYN: [u8; 24] = [
        0x13, 0x88, 0x00, 0x50, 1, 2, 3, 4, 0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0xab, 0xcd, 0, 0,
        2, 4, 0x05, 0xb4,
    ];

    #[test]
    fn header_is_read_and_written() {
        let header = Header::parse(&SYN).unwrap();
        assert_eq!((header.src_port, header.dst_port), (5000, 80));
        assert_eq!(header.flags, tcp_flag::SYN);
        assert_eq!(header.len, 24);
        assert_eq!(header.sequence, 0x0102_0304);
        let mut out = [0xff; 20];
        header.write(&mut out);
        assert_eq!(out, SYN[..20]);
    }

    #[test]
    fn wrong_data_offsets_are_refused() {
        let mut bytes = SYN;
        bytes[12] = 0x40;
        assert_eq!(Header::parse(&bytes), Err(ParseError::TcpOffset));
        bytes[12] = 0x70;
        assert_eq!(Header::parse(&bytes), Err(ParseError::TcpOffset));
        assert_eq!(Header::parse(&SYN[..19]), Err(ParseError::L4Truncated));
    }

    #[test]
    fn mss_option_is_found_behind_others() {
        assert_eq!(mss_at(&SYN), Some(22));
        let with = |options: &[u8]| {
            let mut header = SYN[..20].to_vec();
            header.extend_from_slice(options);
            mss_at(&header)
        };
        assert_eq!(with(&[1, 1, 4, 2, 2, 4, 5, 180]), Some(26));
        assert_eq!(with(&[0, 0, 0, 0, 2, 4, 5, 180]), None);
        assert_eq!(with(&[3, 0, 2, 4, 5, 180]), None, "an option of no length");
        assert_eq!(with(&[3, 9, 2, 4]), None, "an option beyond the header");
        assert_eq!(with(&[2, 3, 5, 0]), None, "MSS of a wrong length");
        assert_eq!(with(&[1, 1, 1, 2]), None, "cut behind the kind");
    }
}
