//! The Internet checksum: whole sums (RFC 1071) and incremental updates (RFC 1624).
//!
//! A [`Sum`] is the running ones'-complement sum of octets; a [`Delta`] is the difference that
//! a change of some octets makes, applied to a checksum without reading the rest of the packet.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A ones'-complement sum of 16-bit words, not yet folded.
///
/// The sum does not depend on byte order (RFC 1071 section 2 (B)): words are added as the machine
/// reads them from memory, and only a folded result is turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Sum = Sum(0);

    /// Adds octets, as if a zero followed an odd last one: only the last piece may be odd.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        // At most 2^32 words of 32 bits fit the accumulator: more than any packet has.
        let (words, rest) = bytes.as_chunks::<4>();
        let sum = words.iter().fold(self.0, |sum, word| {
            sum + u64::from(u32::from_ne_bytes(*word))
        });
        if rest.is_empty() {
            return Sum(sum);
        }
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Sum(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds a 16-bit word, a port for instance.
    #[inline]
    #[must_use]
    pub fn word(self, word: u16) -> Sum {
        Sum(self.0 + u64::from(word.to_be()))
    }

    /// Adds four octets.
    #[inline]
    #[must_use]
    pub fn octets(self, octets: [u8; 4]) -> Sum {
        Sum(self.0 + u64::from(u32::from_ne_bytes(octets)))
    }

    /// Adds an IPv4 address.
    #[inline]
    #[must_use]
    pub fn ipv4(self, ip: Ipv4Addr) -> Sum {
        self.octets(ip.octets())
    }

    /// Adds an IPv6 address.
    #[inline]
    #[must_use]
    pub fn ipv6(self, ip: Ipv6Addr) -> Sum {
        self.bytes(&ip.octets())
    }

    /// The sum folded to 16 bits.
    #[inline]
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.0))
    }

    /// The checksum: the complement of the folded sum.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The checksum as UDP sends it: zero would mean "none" (RFC 768), so it goes as 0xFFFF.
    #[inline]
    pub fn udp_checksum(self) -> u16 {
        nonzero(self.checksum())
    }
}

/// Ones'-complement addition of halves, twice: 64 to 32 bits, then to 16.
#[inline]
#[allow(clippy::cast_possible_truncation)] // each cast takes one half
fn fold(sum: u64) -> u16 {
    // Both halves hold the sum of both; the upper one has also got the carry of the lower.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

#[inline]
fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The pseudo-header of TCP and UDP over IPv4 (RFC 793, RFC 768). ICMPv4 has none.
#[inline]
pub fn pseudo_header_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, l4_len: u16) -> Sum {
    Sum::ZERO
        .ipv4(src)
        .ipv4(dst)
        .word(u16::from(protocol))
        .word(l4_len)
}

/// The pseudo-header of TCP, UDP and ICMPv6 over IPv6 (RFC 8200 section 8.1).
#[inline]
pub fn pseudo_header_v6(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, l4_len: u16) -> Sum {
    Sum::ZERO
        .ipv6(src)
        .ipv6(dst)
        .word(u16::from(next_header))
        .word(l4_len)
}

/// Whether octets that contain their own checksum sum up to "minus zero".
#[inline]
pub fn is_valid(bytes: &[u8]) -> bool {
    Sum::ZERO.bytes(bytes).folded() == 0xffff
}

/// The ones'-complement difference that a change makes to a sum (RFC 1624, equation 3). It does
/// not depend on the rest of the packet, so a session computes it once and keeps 16 bits: as the
/// machine would read them from a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const ZERO: Delta = Delta(0);

    /// The difference between what stood in the packet and what will.
    #[inline]
    pub fn of(old: Sum, new: Sum) -> Delta {
        Delta(fold(u64::from(!fold(old.0)) + u64::from(fold(new.0))))
    }

    /// The difference between a 16-bit word and its successor.
    #[inline]
    pub fn of_word(old: u16, new: u16) -> Delta {
        Delta::of(Sum::ZERO.word(old), Sum::ZERO.word(new))
    }

    /// The change taken back: the other direction of a session.
    #[inline]
    #[must_use]
    pub fn reverse(self) -> Delta {
        Delta(!self.0)
    }

    /// The checksum field after the change. A wrong one stays wrong by as much.
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        let (sum, carry) = (!checksum.to_be()).overflowing_add(self.0);
        u16::from_be(!sum.wrapping_add(u16::from(carry))) // after a carry there is room for it
    }

    /// As [`Delta::apply`] for a UDP checksum, which is not zero: a zero goes as 0xFFFF.
    #[inline]
    pub fn apply_udp(self, checksum: u16) -> u16 {
        // Asked in memory order, so that nothing is turned round.
        u16::from_be(nonzero(self.apply(checksum).to_be()))
    }

    /// As [`Delta::apply_udp`] where the checksum stands. Zero means "none" there (RFC 768; RFC 6935
    /// for tunnels over IPv6) and stays.
    #[inline]
    pub fn update_udp(self, field: &mut [u8; 2]) {
        let checksum = u16::from_be_bytes(*field);
        if checksum != 0 {
            *field = self.apply_udp(checksum).to_be_bytes();
        }
    }

    /// The 16 bits to keep in a session.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The difference kept in a session.
    #[inline]
    pub const fn from_bits(bits: u16) -> Delta {
        Delta(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 3: the worked example, 0001 f203 f4f5 f6f7 sums to ddf2.
    #[test]
    fn rfc1071_section_3_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::ZERO.bytes(&bytes).folded(), 0xddf2);
        assert_eq!(Sum::ZERO.bytes(&bytes).checksum(), !0xddf2);
    }

    /// RFC 1624 section 4: 0xDD2F with 0x5555 changed to 0x3285 becomes 0x0000, not 0xFFFF.
    #[test]
    fn rfc1624_section_4_example() {
        assert_eq!(Delta::of_word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
        assert_eq!(Delta::of_word(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
    }

    #[test]
    fn no_udp_checksum_stays_none() {
        let mut field = [0, 0];
        Delta::of_word(0x5555, 0x3285).update_udp(&mut field);
        assert_eq!(field, [0, 0]);
    }

    /// RFC 1071 section 4.1: an odd last octet counts as if a zero followed.
    #[test]
    fn odd_octets_are_padded() {
        for len in 0..9 {
            let mut padded = vec![0xabu8; len];
            let odd = Sum::ZERO.bytes(&padded).folded();
            padded.resize(len + (len & 1), 0);
            assert_eq!(odd, Sum::ZERO.bytes(&padded).folded(), "{len}");
        }
    }

    #[test]
    fn ipv4_header_checksum() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert!(is_valid(&header));
    }

    /// The textbook sum, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum >> 16 != 0 {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::try_from(sum).unwrap()
    }

    proptest! {
        #[test]
        fn sum_equals_the_naive_one(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(Sum::ZERO.bytes(&bytes).folded(), naive(&bytes));
        }

        /// The protocol number of a pseudo-header is never zero, so neither is the sum.
        #[test]
        fn incremental_equals_recomputed(
            bytes in prop::collection::vec(any::<u8>(), 40..200),
            new in prop::collection::vec(any::<u8>(), 20),
            at in 0usize..10,
        ) {
            let protocol = Sum::ZERO.word(17);
            let before = protocol.bytes(&bytes).checksum();
            let old = &bytes[at * 2..][..new.len()];
            let delta = Delta::of(Sum::ZERO.bytes(old), Sum::ZERO.bytes(&new));
            let mut after = bytes.clone();
            after[at * 2..][..new.len()].copy_from_slice(&new);
            prop_assert_eq!(delta.apply(before), protocol.bytes(&after).checksum());
            prop_assert_eq!(delta.reverse().apply(delta.apply(before)), before);
            prop_assert_eq!(Delta::from_bits(delta.bits()), delta);
        }
    }
}
