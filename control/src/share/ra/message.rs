//! Router advertisements as octets: RFC 4861 section 4.2 with the options of RFC 4191, 8106 and
//! 8781. Pure functions; the kernel computes the ICMPv6 checksum.

use std::fmt;
use std::net::Ipv6Addr;

use gate64_wire::rfc6052::Pref64;

/// ICMPv6 type of a router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// ICMPv6 type of a router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;

/// The scaled lifetime of RFC 8781 section 4 has 13 bits in units of 8 seconds.
const PREF64_UNITS_MAX: u32 = 0x1fff;
const PREF64_UNIT_SECONDS: u32 = 8;

/// How much this router is to be preferred over others (RFC 4191 section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preference {
    /// Only where there is no other.
    Low,
    /// As any other.
    Medium,
    /// Over all others.
    High,
}

impl fmt::Display for Preference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preference::Low => "low",
            Preference::Medium => "medium",
            Preference::High => "high",
        })
    }
}

impl Preference {
    /// The two bits, where they stand in the octet of flags.
    fn bits(self) -> u8 {
        match self {
            Preference::High => 0b01 << 3,
            Preference::Medium => 0b00,
            Preference::Low => 0b11 << 3,
        }
    }

    /// RFC 4191 section 2.2: the reserved value is treated as medium.
    fn from_bits(flags: u8) -> Preference {
        match (flags >> 3) & 0b11 {
            0b01 => Preference::High,
            0b11 => Preference::Low,
            _ => Preference::Medium,
        }
    }
}

/// A router advertisement. Lifetimes are in seconds, as everywhere here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterAdvertisement {
    /// Hop limit that hosts shall use.
    pub hop_limit: u8,
    /// M: addresses by DHCPv6.
    pub managed: bool,
    /// O: other things by DHCPv6.
    pub other: bool,
    /// Against other routers.
    pub preference: Preference,
    /// For how long hosts use this router as a default router; zero: they do not.
    pub router_lifetime: u16,
    /// What else is told.
    pub options: Vec<RaOption>,
}

/// An option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RaOption {
    /// The sender's Ethernet address (RFC 4861 section 4.6.1).
    SourceLinkLayer([u8; 6]),
    /// The link's MTU (section 4.6.4).
    Mtu(u32),
    /// A prefix for addresses (section 4.6.2).
    Prefix(PrefixInformation),
    /// A route through this router (RFC 4191 section 2.3).
    Route {
        /// Destinations.
        prefix: Ipv6Addr,
        /// Leading bits of `prefix`.
        length: u8,
        /// Against other routers.
        preference: Preference,
        /// For how long.
        lifetime: u32,
    },
    /// Recursive DNS servers (RFC 8106 section 5.1).
    Rdnss {
        /// For how long.
        lifetime: u32,
        /// At least one.
        servers: Vec<Ipv6Addr>,
    },
    /// DNS search list (RFC 8106 section 5.2).
    Dnssl {
        /// For how long.
        lifetime: u32,
        /// Domain names without a closing dot, at least one.
        names: Vec<String>,
    },
    /// The translation prefix (RFC 8781 section 4).
    Pref64 {
        /// The prefix.
        prefix: Pref64,
        /// For how long: rounded up to a multiple of 8, at most 65528.
        lifetime: u32,
    },
}

/// A prefix for addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixInformation {
    /// The prefix.
    pub prefix: Ipv6Addr,
    /// Its leading bits.
    pub length: u8,
    /// L: addresses in it are on this link.
    pub on_link: bool,
    /// A: hosts make addresses from it (RFC 4862).
    pub autonomous: bool,
    /// For how long addresses are valid.
    pub valid: u32,
    /// For how long they are preferred.
    pub preferred: u32,
}

/// Why octets are no router advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Fewer octets than the message says.
    #[error("it is cut off")]
    Short,
    /// Another ICMPv6 message.
    #[error("it is no router advertisement")]
    Type,
    /// RFC 4861 section 6.1.2: an option of length zero.
    #[error("an option has the length zero")]
    OptionLength,
    /// An option whose content breaks its RFC.
    #[error("option {0} is malformed")]
    Option(u8),
}

/// Writes a message; the checksum is left zero for the kernel.
pub fn encode(message: &RouterAdvertisement) -> Vec<u8> {
    let flags =
        u8::from(message.managed) << 7 | u8::from(message.other) << 6 | message.preference.bits();
    let mut out = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, message.hop_limit, flags];
    out.extend(message.router_lifetime.to_be_bytes());
    // Reachable time and retransmission timer: unspecified by this router.
    out.extend([0; 8]);
    for option in &message.options {
        encode_option(&mut out, option);
    }
    out
}

fn encode_option(out: &mut Vec<u8>, option: &RaOption) {
    match option {
        RaOption::SourceLinkLayer(mac) => {
            out.extend([1, 1]);
            out.extend(mac);
        }
        RaOption::Mtu(mtu) => {
            out.extend([5, 1, 0, 0]);
            out.extend(mtu.to_be_bytes());
        }
        RaOption::Prefix(prefix) => encode_prefix(out, prefix),
        RaOption::Route {
            prefix,
            length,
            preference,
            lifetime,
        } => {
            // RFC 4191 section 2.3: only as many octets of the prefix as it has bits.
            let units = length.div_ceil(64);
            out.extend([24, 1 + units, *length, preference.bits()]);
            out.extend(lifetime.to_be_bytes());
            out.extend(&prefix.octets()[..usize::from(units) * 8]);
        }
        RaOption::Rdnss { lifetime, servers } => {
            // A length is one octet in units of 8: 127 addresses fit.
            let servers = &servers[..servers.len().min(127)];
            out.extend([25, 1 + 2 * octet(servers.len()), 0, 0]);
            out.extend(lifetime.to_be_bytes());
            out.extend(servers.iter().flat_map(Ipv6Addr::octets));
        }
        RaOption::Dnssl { lifetime, names } => {
            let mut list: Vec<u8> = Vec::new();
            for name in names {
                let name = encode_name(name);
                // 255 units less the head.
                if list.len() + name.len() <= 254 * 8 {
                    list.extend(name);
                }
            }
            list.resize(list.len().next_multiple_of(8), 0);
            out.extend([31, 1 + octet(list.len() / 8), 0, 0]);
            out.extend(lifetime.to_be_bytes());
            out.extend(list);
        }
        RaOption::Pref64 { prefix, lifetime } => {
            out.extend([38, 2]);
            out.extend((scaled_lifetime(*lifetime) << 3 | length_code(*prefix)).to_be_bytes());
            out.extend(&prefix.address().octets()[..12]);
        }
    }
}

fn encode_prefix(out: &mut Vec<u8>, prefix: &PrefixInformation) {
    let flags = u8::from(prefix.on_link) << 7 | u8::from(prefix.autonomous) << 6;
    out.extend([3, 4, prefix.length, flags]);
    out.extend(prefix.valid.to_be_bytes());
    out.extend(prefix.preferred.to_be_bytes());
    out.extend([0; 4]);
    out.extend(prefix.prefix.octets());
}

fn octet(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

/// RFC 1035 section 3.1, without compression.
fn encode_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(octet(label.len()));
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}

/// Units of 8 seconds, rounded up, as many as 13 bits hold (RFC 8781 section 4.1).
fn scaled_lifetime(seconds: u32) -> u16 {
    let units = seconds.div_ceil(PREF64_UNIT_SECONDS).min(PREF64_UNITS_MAX);
    u16::try_from(units).unwrap_or(u16::MAX >> 3)
}

/// PLC, the prefix length code.
fn length_code(prefix: Pref64) -> u16 {
    match prefix.length() {
        96 => 0,
        64 => 1,
        56 => 2,
        48 => 3,
        40 => 4,
        _ => 5,
    }
}

/// Reads a message with valid options; options that are not known are passed over (RFC 4861
/// section 6.1.2).
///
/// # Errors
/// What breaks the RFCs.
pub fn decode(octets: &[u8]) -> Result<RouterAdvertisement, Malformed> {
    let (head, mut rest) = octets.split_first_chunk::<16>().ok_or(Malformed::Short)?;
    if head[..2] != [ROUTER_ADVERTISEMENT, 0] {
        return Err(Malformed::Type);
    }
    let mut message = RouterAdvertisement {
        hop_limit: head[4],
        managed: head[5] & 0x80 != 0,
        other: head[5] & 0x40 != 0,
        preference: Preference::from_bits(head[5]),
        router_lifetime: u16::from_be_bytes([head[6], head[7]]),
        options: Vec::new(),
    };
    while let [kind, units, ..] = *rest {
        let length = usize::from(units) * 8;
        if length == 0 {
            return Err(Malformed::OptionLength);
        }
        let (option, after) = rest.split_at_checked(length).ok_or(Malformed::Short)?;
        message.options.extend(decode_option(kind, option)?);
        rest = after;
    }
    match rest {
        [] => Ok(message),
        _ => Err(Malformed::Short),
    }
}

/// `option` has at least 8 octets, its kind and length among them.
fn decode_option(kind: u8, option: &[u8]) -> Result<Option<RaOption>, Malformed> {
    let wrong = Malformed::Option(kind);
    let lifetime = u32_at(option, 4).ok_or(wrong)?;
    Ok(Some(match kind {
        1 if option.len() == 8 => {
            let mac = option[2..].try_into().map_err(|_| wrong)?;
            RaOption::SourceLinkLayer(mac)
        }
        3 => RaOption::Prefix(decode_prefix(option).ok_or(wrong)?),
        5 => RaOption::Mtu(lifetime),
        24 => decode_route(option, lifetime).ok_or(wrong)?,
        25 => RaOption::Rdnss {
            lifetime,
            servers: decode_servers(&option[8..]).ok_or(wrong)?,
        },
        31 => RaOption::Dnssl {
            lifetime,
            names: decode_names(&option[8..]).ok_or(wrong)?,
        },
        38 => decode_pref64(option).ok_or(wrong)?,
        _ => return Ok(None),
    }))
}

fn u32_at(option: &[u8], at: usize) -> Option<u32> {
    let octets = option.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*octets))
}

fn address(octets: &[u8]) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = octets.try_into().ok()?;
    Some(Ipv6Addr::from(octets))
}

fn decode_prefix(option: &[u8]) -> Option<PrefixInformation> {
    let length = option[2];
    (option.len() == 32 && length <= 128).then_some(())?;
    Some(PrefixInformation {
        prefix: address(&option[16..])?,
        length,
        on_link: option[3] & 0x80 != 0,
        autonomous: option[3] & 0x40 != 0,
        valid: u32_at(option, 4)?,
        preferred: u32_at(option, 8)?,
    })
}

fn decode_route(option: &[u8], lifetime: u32) -> Option<RaOption> {
    let length = option[2];
    let given = &option[8..];
    let is_long_enough = given.len() >= usize::from(length.div_ceil(64)) * 8;
    (length <= 128 && given.len() <= 16 && is_long_enough).then_some(())?;
    let mut prefix = [0; 16];
    prefix[..given.len()].copy_from_slice(given);
    Some(RaOption::Route {
        prefix: Ipv6Addr::from(prefix),
        length,
        preference: Preference::from_bits(option[3]),
        lifetime,
    })
}

fn decode_servers(octets: &[u8]) -> Option<Vec<Ipv6Addr>> {
    let (servers, rest) = octets.as_chunks::<16>();
    let is_whole = !servers.is_empty() && rest.is_empty();
    is_whole.then(|| servers.iter().copied().map(Ipv6Addr::from).collect())
}

fn decode_names(mut octets: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut labels: Vec<String> = Vec::new();
    while let Some((&length, rest)) = octets.split_first() {
        if length == 0 {
            // Beyond the last name is padding.
            if !labels.is_empty() {
                names.push(std::mem::take(&mut labels).join("."));
            }
            octets = rest;
            continue;
        }
        let (label, rest) = rest.split_at_checked(usize::from(length))?;
        (length <= 63).then_some(())?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        octets = rest;
    }
    (labels.is_empty() && !names.is_empty()).then_some(names)
}

fn decode_pref64(option: &[u8]) -> Option<RaOption> {
    (option.len() == 16).then_some(())?;
    let scaled = u16::from_be_bytes([option[2], option[3]]);
    let length = match scaled & 0b111 {
        0 => 96,
        1 => 64,
        2 => 56,
        3 => 48,
        4 => 40,
        5 => 32,
        _ => return None,
    };
    let mut prefix = [0; 16];
    prefix[..12].copy_from_slice(&option[4..]);
    Some(RaOption::Pref64 {
        prefix: Pref64::new(Ipv6Addr::from(prefix), length).ok()?,
        lifetime: u32::from(scaled >> 3) * PREF64_UNIT_SECONDS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> RouterAdvertisement {
        let ula: Ipv6Addr = "fd00:1:2::".parse().unwrap();
        RouterAdvertisement {
            hop_limit: 64,
            managed: false,
            other: true,
            preference: Preference::High,
            router_lifetime: 540,
            options: vec![
                RaOption::SourceLinkLayer([2, 0, 0, 0, 0, 1]),
                RaOption::Mtu(1500),
                RaOption::Prefix(PrefixInformation {
                    prefix: ula,
                    length: 64,
                    on_link: true,
                    autonomous: true,
                    valid: 86_400,
                    preferred: 14_400,
                }),
                RaOption::Route {
                    prefix: "64:ff9b::".parse().unwrap(),
                    length: 96,
                    preference: Preference::Low,
                    lifetime: 540,
                },
                RaOption::Rdnss {
                    lifetime: 540,
                    servers: vec!["fd00:1:2::1".parse().unwrap()],
                },
                RaOption::Dnssl {
                    lifetime: 540,
                    names: vec!["lab.test".into(), "example".into()],
                },
                RaOption::Pref64 {
                    prefix: Pref64::WELL_KNOWN,
                    lifetime: 544,
                },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(decode(&encode(&full())), Ok(full()));
    }

    #[test]
    fn rfc8781_section_4_the_option_in_octets() {
        let mut octets = Vec::new();
        let prefix = "2001:db8:64::/48".parse().unwrap();
        let option = RaOption::Pref64 {
            prefix,
            lifetime: 65_528,
        };
        encode_option(&mut octets, &option);
        // Type 38, two units, 0x1fff << 3 | 3, the upper 96 bits.
        let expected = [38, 2, 0xff, 0xfb, 0x20, 0x01, 0x0d, 0xb8, 0, 0x64];
        assert_eq!(octets[..10], expected);
        assert_eq!(octets.len(), 16);
    }

    #[test]
    fn rfc8781_section_4_1_lifetimes_are_rounded_up_and_bounded() {
        assert_eq!(scaled_lifetime(0), 0);
        assert_eq!(scaled_lifetime(1), 1);
        assert_eq!(scaled_lifetime(600), 75);
        assert_eq!(scaled_lifetime(601), 76);
        assert_eq!(scaled_lifetime(65_528), 0x1fff);
        assert_eq!(scaled_lifetime(u32::MAX), 0x1fff);
    }

    #[test]
    fn rfc8781_every_prefix_length_has_its_code() {
        for (text, code) in [
            ("64:ff9b::/96", 0),
            ("2001:db8::/64", 1),
            ("2001:db8::/56", 2),
            ("2001:db8::/48", 3),
            ("2001:db8::/40", 4),
            ("2001:db8::/32", 5),
        ] {
            let prefix: Pref64 = text.parse().unwrap();
            assert_eq!(length_code(prefix), code, "{text}");
            let mut octets = Vec::new();
            let option = RaOption::Pref64 {
                prefix,
                lifetime: 8,
            };
            encode_option(&mut octets, &option);
            assert_eq!(decode_option(38, &octets), Ok(Some(option)), "{text}");
        }
        let mut octets = [0; 16];
        (octets[0], octets[1], octets[3]) = (38, 2, 6);
        assert_eq!(decode_option(38, &octets), Err(Malformed::Option(38)));
    }

    #[test]
    fn rfc4191_section_2_3_a_route_has_no_more_octets_than_its_length_needs() {
        for (length, units) in [(0, 1), (64, 2), (96, 3)] {
            let mut octets = Vec::new();
            let prefix = Ipv6Addr::UNSPECIFIED;
            let (preference, lifetime) = (Preference::Medium, 1);
            let option = RaOption::Route {
                prefix,
                length,
                preference,
                lifetime,
            };
            encode_option(&mut octets, &option);
            assert_eq!(octets[1], units);
            assert_eq!(octets.len(), usize::from(units) * 8);
        }
    }

    #[test]
    fn reading_is_total() {
        let octets = encode(&full());
        for length in 0..octets.len() {
            // Whether or not the cut falls between options, nothing panics.
            let _ = decode(&octets[..length]);
        }
        for at in 0..octets.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = octets.clone();
                changed[at] = value;
                let _ = decode(&changed);
            }
        }
        let mut zero = octets.clone();
        zero[17] = 0;
        assert_eq!(decode(&zero), Err(Malformed::OptionLength));
        assert_eq!(decode(&octets[..15]), Err(Malformed::Short));
        assert_eq!(decode(&octets[..17]), Err(Malformed::Short));
    }
}
