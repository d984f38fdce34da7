//! Ethernet II headers, plain or with one 802.1Q tag.

use crate::facts::ParseError;

/// Octets of an untagged header.
pub const HEADER_LEN: usize = 14;
/// Octets of a header with an 802.1Q tag.
pub const TAGGED_HEADER_LEN: usize = 18;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Tag protocol identifier of 802.1Q.
pub const VLAN: u16 = 0x8100;

/// An Ethernet header's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Destination MAC address.
    pub dst: [u8; 6],
    /// Source MAC address.
    pub src: [u8; 6],
    /// 802.1Q VLAN id (12 bits); priority bits are not kept.
    pub vlan: Option<u16>,
    /// EtherType of what follows the header and its tag.
    pub ether_type: u16,
}

impl Header {
    /// Reads the header; its length is [`Header::len`].
    ///
    /// # Errors
    /// [`ParseError::Truncated`].
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Header, ParseError> {
        let header: &[u8; HEADER_LEN] = frame.first_chunk().ok_or(ParseError::Truncated)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let mut parsed = Header {
            dst: [d0, d1, d2, d3, d4, d5],
            src: [s0, s1, s2, s3, s4, s5],
            vlan: None,
            ether_type: u16::from_be_bytes([t0, t1]),
        };
        if parsed.ether_type == VLAN {
            let tagged: &[u8; TAGGED_HEADER_LEN] =
                frame.first_chunk().ok_or(ParseError::Truncated)?;
            parsed.vlan = Some(u16::from_be_bytes([tagged[14], tagged[15]]) & 0x0fff);
            parsed.ether_type = u16::from_be_bytes([tagged[16], tagged[17]]);
        }
        Ok(parsed)
    }

    /// 14 or 18 octets.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // a header is never empty
    pub const fn len(&self) -> usize {
        match self.vlan {
            None => HEADER_LEN,
            Some(_) => TAGGED_HEADER_LEN,
        }
    }

    /// Writes the header to the front of `frame`.
    ///
    /// # Panics
    /// If `frame` is shorter than [`Header::len`]: the caller has just made that room.
    #[inline]
    pub fn write(&self, frame: &mut [u8]) {
        let out = &mut frame[..self.len()];
        out[..6].copy_from_slice(&self.dst);
        out[6..12].copy_from_slice(&self.src);
        if let Some(vlan) = self.vlan {
            out[12..14].copy_from_slice(&VLAN.to_be_bytes());
            out[14..16].copy_from_slice(&(vlan & 0x0fff).to_be_bytes());
            out[16..18].copy_from_slice(&self.ether_type.to_be_bytes());
        } else {
            out[12..14].copy_from_slice(&self.ether_type.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [u8; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x86, 0xdd];
    const TAGGED: [u8; 18] = [
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x81, 0x00, 0x00, 0x64, 0x08, 0x00,
    ];

    #[test]
    fn plain_and_tagged_headers_are_read_and_written() {
        for (bytes, vlan, ether_type) in [(&PLAIN[..], None, IPV6), (&TAGGED[..], Some(100), IPV4)]
        {
            let header = Header::parse(bytes).unwrap();
            assert_eq!(header.vlan, vlan);
            assert_eq!(header.ether_type, ether_type);
            assert_eq!(header.dst, [1, 2, 3, 4, 5, 6]);
            assert_eq!(header.src, [7, 8, 9, 10, 11, 12]);
            assert_eq!(header.len(), bytes.len());
            let mut out = [0xff; 18];
            header.write(&mut out);
            assert_eq!(&out[..bytes.len()], bytes);
        }
    }

    #[test]
    fn priority_bits_are_no_part_of_the_id() {
        let mut bytes = TAGGED;
        bytes[14] = 0xe0;
        assert_eq!(Header::parse(&bytes).unwrap().vlan, Some(100));
    }

    #[test]
    fn short_headers_are_refused() {
        for len in 0..14 {
            assert_eq!(Header::parse(&PLAIN[..len]), Err(ParseError::Truncated));
        }
        for len in 14..18 {
            assert_eq!(Header::parse(&TAGGED[..len]), Err(ParseError::Truncated));
        }
    }
}
