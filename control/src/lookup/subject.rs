//! What a look-up is about, and when, as it is written on the command line.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gate64_log::journal::Subject;
use gate64_log::{LAST_SECOND, Prefix6};
use gate64_wire::addr::Protocol;

/// What is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A pool address and port, or the identifier of an ICMP query, and a protocol if it matters: a
    /// static entry has one, a block holds all.
    Mapped(Ipv4Addr, u16, Option<Protocol>),
    /// A subscriber: its prefix, an address in it, or a prefix with several.
    Subscriber(Prefix6),
}

impl What {
    /// As the journal is asked.
    pub fn subject(&self) -> Subject {
        match self {
            What::Mapped(v4, port, _) => Subject::Mapped(*v4, *port),
            What::Subscriber(prefix) => Subject::Subscriber(*prefix),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Mapped(v4, port, None) => write!(f, "{v4}:{port}"),
            What::Mapped(v4, port, Some(protocol)) => write!(f, "{v4}:{port}/{}", protocol.name()),
            What::Subscriber(Prefix6 { ip, length: 128 }) => ip.fmt(f),
            What::Subscriber(prefix) => prefix.fmt(f),
        }
    }
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<What, String> {
        let (at, rest) = match text.split_once('/') {
            Some((at, rest)) => (at, Some(rest)),
            None => (text, None),
        };
        if let Ok(ip) = at.parse::<Ipv6Addr>() {
            return subscriber(ip, rest);
        }
        let protocol = rest.map(|name| {
            let known = Protocol::ALL.into_iter().find(|one| one.name() == name);
            known.ok_or_else(|| format!("{name:?} is none of udp, tcp, icmp"))
        });
        let at: std::net::SocketAddrV4 = at.parse().map_err(|_| {
            format!("{at:?} is neither an IPv4 address with a port nor an IPv6 address or prefix")
        })?;
        Ok(What::Mapped(*at.ip(), at.port(), protocol.transpose()?))
    }
}

fn subscriber(ip: Ipv6Addr, length: Option<&str>) -> Result<What, String> {
    let length = match length {
        None => 128,
        Some(text) => match text.parse() {
            Ok(length @ 0..=128) => length,
            _ => return Err(format!("{text:?} is no prefix length: 0 to 128")),
        },
    };
    Ok(What::Subscriber(Prefix6 { ip, length }))
}

/// A time of RFC 3339 between 1970 and 9999: in UTC with a Z or without anything, or with the offset of a time
/// zone.
pub fn time(text: &str) -> Result<SystemTime, String> {
    let accepted = "such as 2026-11-02T10:00:00Z or 2026-11-02T11:00:00+01:00";
    let (local, offset) = match text.rfind(['+', '-']) {
        // The hyphens of the date come earlier.
        Some(at) if at > 10 => text.split_at(at),
        _ => (text, ""),
    };
    let at = humantime::parse_rfc3339_weak(local)
        .map_err(|error| format!("{text:?} is no time: {error}; write one {accepted}"))?;
    let wrong = || format!("{offset:?} is no offset of a time zone; write a time {accepted}");
    let at = match offset.split_at_checked(1) {
        None => Some(at),
        Some((sign, offset)) if !local.ends_with(['Z', 'z']) => {
            let by = hours_and_minutes(offset).ok_or_else(wrong)?;
            match sign {
                "+" => at.checked_sub(by),
                _ => at.checked_add(by),
            }
        }
        Some(_) => return Err(wrong()),
    };
    at.filter(can_be_shown).ok_or_else(|| {
        format!("{text:?} is before 1970 or after 9999 in UTC; write a time {accepted}")
    })
}

fn can_be_shown(at: &SystemTime) -> bool {
    let since = at.duration_since(UNIX_EPOCH);
    since.is_ok_and(|since| since.as_secs() <= LAST_SECOND)
}

fn hours_and_minutes(text: &str) -> Option<Duration> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, most: u64| match text.len() {
        2 => text.parse::<u64>().ok().filter(|number| *number <= most),
        _ => None,
    };
    let seconds = number(hours, 23)? * 3600 + number(minutes, 59)? * 60;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_up() {
        let mapped = "203.0.113.5:31007/udp".parse::<What>().unwrap();
        let v4 = Ipv4Addr::new(203, 0, 113, 5);
        assert_eq!(mapped, What::Mapped(v4, 31007, Some(Protocol::Udp)));
        let any = "203.0.113.5:1".parse::<What>().unwrap();
        assert_eq!(any, What::Mapped(v4, 1, None));
        for right in [
            "203.0.113.5:31007/udp",
            "203.0.113.5:1",
            "2001:db8:42::/64",
            "2001:db8::1",
        ] {
            assert_eq!(right.parse::<What>().unwrap().to_string(), right);
        }
        for wrong in [
            "203.0.113.5",
            "[2001:db8::1]:5",
            "203.0.113.5:1/sctp",
            "203.0.113.5:70000",
            "2001:db8::/129",
            "2001:db8::/udp",
            "2001:db8::/",
            "",
        ] {
            assert!(wrong.parse::<What>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_may_have_the_offset_of_its_zone() {
        let utc = time("2026-11-02T10:00:00Z").unwrap();
        for same in [
            "2026-11-02 10:00:00",
            "2026-11-02T11:00:00+01:00",
            "2026-11-02T04:30:00-05:30",
            "2026-11-02T10:00:00.000+00:00",
        ] {
            assert_eq!(time(same), Ok(utc), "{same}");
        }
        for wrong in [
            "yesterday",
            "2026-11-02",
            "2026-11-02T10:00:00+1",
            "2026-11-02T10:00:00+01:60",
            "2026-11-02T10:00:00Z+01:00",
            "1970-01-01T00:00:00+99:00",
        ] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_that_cannot_be_shown_is_refused() {
        for wrong in ["1970-01-01T00:00:00+01:00", "9999-12-31T23:59:59-00:01"] {
            let error = time(wrong).unwrap_err();
            assert!(error.contains("before 1970 or after 9999"), "{error}");
        }
        assert_eq!(time("1970-01-01T01:00:00+01:00"), Ok(UNIX_EPOCH));
        assert!(time("9999-12-31T23:59:59.999Z").is_ok());
        assert!(time("1969-12-31T23:59:59Z").is_err());
    }
}
