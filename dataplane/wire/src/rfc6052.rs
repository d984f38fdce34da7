//! IPv4-embedded IPv6 addresses (RFC 6052): the translation prefix, embedding and extraction.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A translation prefix, `Pref64::/n` with n of 32, 40, 48, 56, 64 or 96 (RFC 6052 section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pref64 {
    /// As a number whose octets in memory are the address's: compared without turning any round.
    prefix: u128,
    /// Likewise.
    mask: u128,
    length: u8,
}

/// Why a text or an address with a length is not a translation prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pref64Error {
    /// Not `address/length`.
    Syntax,
    /// The length is none of 32, 40, 48, 56, 64, 96.
    Length(u8),
    /// Bits are set behind the prefix length.
    HostBits,
    /// Bits 64 to 71 of a /96 have to be zero (RFC 6052 section 2.2).
    Octet8,
}

impl fmt::Display for Pref64Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pref64Error::Syntax => f.write_str("not an IPv6 prefix (address/length)"),
            Pref64Error::Length(n) => {
                write!(
                    f,
                    "prefix length /{n} is not one of /32 /40 /48 /56 /64 /96 (RFC 6052)"
                )
            }
            Pref64Error::HostBits => f.write_str("bits are set behind the prefix length"),
            Pref64Error::Octet8 => f.write_str("bits 64 to 71 of a /96 must be zero (RFC 6052)"),
        }
    }
}

impl std::error::Error for Pref64Error {}

impl Pref64 {
    /// The well-known prefix 64:ff9b::/96 (RFC 6052 section 2.1).
    pub const WELL_KNOWN: Pref64 = Pref64 {
        prefix: 0x0064_ff9b_0000_0000_0000_0000_0000_0000_u128.to_be(),
        mask: mask(96),
        length: 96,
    };

    /// Checks length, trailing bits and octet 8.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn new(address: Ipv6Addr, length: u8) -> Result<Pref64, Pref64Error> {
        if !matches!(length, 32 | 40 | 48 | 56 | 64 | 96) {
            return Err(Pref64Error::Length(length));
        }
        let prefix = u128::from(address);
        if prefix & !u128::from_be(mask(length)) != 0 {
            return Err(Pref64Error::HostBits);
        }
        // Bits 64 to 71 are the eighth octet counted from zero, bits 56..63 from the right.
        if prefix >> 56 & 0xff != 0 {
            return Err(Pref64Error::Octet8);
        }
        Ok(Pref64 {
            prefix: prefix.to_be(),
            mask: mask(length),
            length,
        })
    }

    /// The prefix with zeroes behind it.
    pub fn address(self) -> Ipv6Addr {
        Ipv6Addr::from(self.prefix.to_ne_bytes())
    }

    /// 32, 40, 48, 56, 64 or 96.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether this is 64:ff9b::/96, which must not carry non-global IPv4 (section 3.1).
    pub fn is_well_known(self) -> bool {
        self == Pref64::WELL_KNOWN
    }

    /// Whether the address begins with this prefix.
    #[inline]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        u128::from_ne_bytes(address.octets()) & self.mask == self.prefix
    }

    /// The IPv4-embedded IPv6 address: octet 8 and the suffix are zero (section 2.2).
    #[inline]
    pub fn embed(self, ip: Ipv4Addr) -> Ipv6Addr {
        if self.length != 96 {
            return self.embed_short(ip);
        }
        let mut octets = self.prefix.to_ne_bytes();
        octets[12..].copy_from_slice(&ip.octets());
        Ipv6Addr::from(octets)
    }

    /// Into prefixes with octet 8 behind them.
    #[cold]
    fn embed_short(self, ip: Ipv4Addr) -> Ipv6Addr {
        let v4 = u128::from(u32::from(ip));
        // As if no octet were skipped: the 32 bits begin right behind the prefix.
        let plain = v4 << (96 - u32::from(self.length));
        // What would lie in octets 8 and later moves one octet to the right.
        let before = plain & !u128::from(u64::MAX);
        let behind = (plain & u128::from(u64::MAX)) >> 8;
        Ipv6Addr::from(u128::from_be(self.prefix) | before | behind)
    }

    /// The IPv4 address inside, if the address begins with this prefix. Octet 8 and the suffix
    /// are ignored on the way in (section 2.2: "should be ignored on receipt").
    #[inline]
    pub fn extract(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        if !self.contains(address) {
            return None;
        }
        if self.length != 96 {
            return Some(self.extract_short(address));
        }
        #[allow(clippy::cast_possible_truncation)] // the last 32 bits are what is meant
        Some(Ipv4Addr::from_bits(u128::from(address) as u32))
    }

    /// As [`Pref64::extract`], of an address where it lies; `None` too if the prefix is no /96.
    #[inline]
    pub fn extract_96(&self, address: &[u8; 16]) -> Option<Ipv4Addr> {
        let address = EmbeddedWords::of(*address);
        let prefix = EmbeddedWords::of(self.prefix.to_ne_bytes());
        let is_inside =
            self.length == 96 && address.high == prefix.high && address.mid == prefix.mid;
        is_inside.then_some(Ipv4Addr::from(address.low))
    }

    /// As [`Pref64::embed`], by words.
    #[inline]
    pub fn embed_words(&self, ip: [u8; 4]) -> EmbeddedWords {
        if self.length != 96 {
            return EmbeddedWords::of(self.embed_short(Ipv4Addr::from(ip)).octets());
        }
        EmbeddedWords {
            low: ip,
            ..EmbeddedWords::of(self.prefix.to_ne_bytes())
        }
    }

    /// Of the prefixes with octet 8 behind them.
    #[cold]
    fn extract_short(self, address: Ipv6Addr) -> Ipv4Addr {
        let bits = u128::from(address);
        let before = bits & !u128::from(u64::MAX);
        let behind = (bits & (u128::from(u64::MAX) >> 8)) << 8;
        #[allow(clippy::cast_possible_truncation)] // the last 32 bits are what is meant
        Ipv4Addr::from_bits(((before | behind) >> (96 - u32::from(self.length))) as u32)
    }

    /// As [`Pref64::extract`], but only of an address whose octet 8 and suffix are zero: one that
    /// [`Pref64::embed`] makes.
    #[inline]
    pub fn extract_exact(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let ip = self.extract(address)?;
        (self.length == 96 || self.embed(ip) == address).then_some(ip)
    }
}

/// An IPv4-embedded IPv6 address as words whose octets in memory are the address's, cut where the
/// IPv4 address begins behind a /96.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedWords {
    /// The first 64 bits.
    pub high: u64,
    /// The next 32 bits.
    pub mid: u32,
    /// The last 32 bits.
    pub low: [u8; 4],
}

impl EmbeddedWords {
    #[inline]
    fn of(address: [u8; 16]) -> EmbeddedWords {
        let [a, b, c, d, e, f, g, h, i, j, k, l, low @ ..] = address;
        EmbeddedWords {
            high: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            mid: u32::from_ne_bytes([i, j, k, l]),
            low,
        }
    }
}

const fn mask(length: u8) -> u128 {
    (!(u128::MAX >> length)).to_be()
}

impl FromStr for Pref64 {
    type Err = Pref64Error;

    fn from_str(text: &str) -> Result<Pref64, Pref64Error> {
        let (address, length) = text.split_once('/').ok_or(Pref64Error::Syntax)?;
        let address = address.parse().map_err(|_| Pref64Error::Syntax)?;
        let length = length.parse().map_err(|_| Pref64Error::Syntax)?;
        Pref64::new(address, length)
    }
}

impl fmt::Display for Pref64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6052 section 2.4, table 2 and 3: the same IPv4 address in all six lengths.
    #[test]
    fn rfc6052_section_2_4_examples() {
        for (prefix, embedded) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            let pref64: Pref64 = prefix.parse().unwrap();
            let embedded: Ipv6Addr = embedded.parse().unwrap();
            let ip = Ipv4Addr::new(192, 0, 2, 33);
            assert_eq!(pref64.embed(ip), embedded, "{prefix}");
            assert_eq!(pref64.extract(embedded), Some(ip), "{prefix}");
            assert_eq!(pref64.to_string(), prefix);
        }
    }

    /// RFC 6052 section 2.2: octet 8 and the suffix are reserved and ignored on receipt.
    #[test]
    fn rfc6052_section_2_2_octet_8_and_suffix_are_ignored() {
        let pref64: Pref64 = "2001:db8:122::/48".parse().unwrap();
        let address: Ipv6Addr = "2001:db8:122:c000:ff02:21ff:ffff:ffff".parse().unwrap();
        assert_eq!(pref64.extract(address), Some(Ipv4Addr::new(192, 0, 2, 33)));
        assert_eq!(pref64.extract_exact(address), None);
        let exact = pref64.embed(Ipv4Addr::new(192, 0, 2, 33));
        assert_eq!(pref64.extract_exact(exact), pref64.extract(exact));
    }

    #[test]
    fn wrong_prefixes_are_refused() {
        for (text, error) in [
            ("64:ff9b::", Pref64Error::Syntax),
            ("64:ff9b::/95", Pref64Error::Length(95)),
            ("64:ff9b::1/96", Pref64Error::HostBits),
            ("2001:db8:0:0:100::/96", Pref64Error::Octet8),
        ] {
            assert_eq!(text.parse::<Pref64>(), Err(error), "{text}");
        }
    }
}
