//! The texts that stand in configuration values: durations, prefixes, ports, addresses, targets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use gate64_dns64::{Protocol, Upstream};
use gate64_wire::addr::{TransportAddr4, TransportAddr6};

/// An address with a prefix length and no bits behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// First address.
    pub ip: IpAddr,
    /// Leading bits.
    pub length: u8,
}

impl Prefix {
    fn bits(ip: IpAddr) -> (u128, u8) {
        match ip {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
            IpAddr::V6(ip) => (u128::from(ip), 128),
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix, String> {
        let (ip, length) = match text.split_once('/') {
            Some((ip, length)) => (ip, Some(length)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| format!("{ip:?} is no IP address"))?;
        let (bits, width) = Prefix::bits(ip);
        let length = match length {
            Some(length) => length
                .parse()
                .ok()
                .filter(|length| *length <= width)
                .ok_or_else(|| format!("the length is not between 0 and {width}"))?,
            None => width,
        };
        let host_bits = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        if bits & host_bits != 0 {
            return Err("bits are set behind the prefix length".to_owned());
        }
        Ok(Prefix { ip, length })
    }
}

/// "2h4m", "5m", "500ms".
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "not a duration".to_owned())
}

/// A duration as it stands in the file: "2h4m", "365d", "500ms".
pub fn duration_text(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, length) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        let count = seconds / length;
        seconds %= length;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    match duration.subsec_millis() {
        0 if text.is_empty() => "0s".to_owned(),
        0 => text,
        millis => format!("{text}{millis}ms"),
    }
}

/// An IPv4 prefix of 8 to 32 bits.
pub fn prefix4(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let prefix: Prefix = text.parse()?;
    match prefix.ip {
        IpAddr::V4(ip) if prefix.length >= 8 => Ok((ip, prefix.length)),
        IpAddr::V4(_) => Err("a pool is at most a /8".to_owned()),
        IpAddr::V6(_) => Err("this is an IPv6 prefix".to_owned()),
    }
}

/// "1024-65535" or one port.
pub fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| {
        text.trim()
            .parse::<u16>()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{text:?} is no port"))
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err("the first port is above the last".to_owned());
    }
    Ok(first..=last)
}

/// Ports as they stand in the file: "1024-65535", or one port.
pub fn ports_text(ports: &RangeInclusive<u16>) -> String {
    let (first, last) = (ports.start(), ports.end());
    match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    }
}

/// `[2001:db8::1]:80`.
pub fn transport6(text: &str) -> Result<TransportAddr6, String> {
    let at: std::net::SocketAddrV6 = text
        .parse()
        .map_err(|_| "not an IPv6 address in brackets with a port".to_owned())?;
    Ok(TransportAddr6 {
        ip: *at.ip(),
        port: at.port(),
    })
}

/// "192.0.2.1:80".
pub fn transport4(text: &str) -> Result<TransportAddr4, String> {
    let at: std::net::SocketAddrV4 = text
        .parse()
        .map_err(|_| "not an IPv4 address with a port".to_owned())?;
    Ok(TransportAddr4 {
        ip: *at.ip(),
        port: at.port(),
    })
}

/// An address to listen on.
pub fn socket_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "not an address with a port".to_owned())
}

/// An absolute path.
pub fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.is_absolute() {
        true => Ok(path),
        false => Err("the path does not begin with /".to_owned()),
    }
}

/// An upstream resolver: `udp://198.51.100.53:53`, `tls://2001:db8::1#dns.example`,
/// `https://192.0.2.53/dns-query#dns.example`.
pub fn upstream(text: &str) -> Result<Upstream, String> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| "the transport is missing".to_owned())?;
    let (protocol, port) = match scheme {
        "udp" => (Protocol::Udp, 53),
        "tcp" => (Protocol::Tcp, 53),
        "tls" => (Protocol::Tls, 853),
        "https" => (Protocol::Https, 443),
        other => return Err(format!("{other:?} is no transport")),
    };
    let (rest, name) = rest.split_once('#').unwrap_or((rest, ""));
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let addr = host
        .parse()
        .or_else(|_| with_port(host, port))
        .map_err(|()| format!("{host:?} is no address with a port"))?;
    if !name.is_empty() && !protocol.is_encrypted() {
        return Err(format!(
            "{scheme}:// has no certificate that could hold {name:?}"
        ));
    }
    let path = match protocol {
        // RFC 8484 section 4.1 gives this one as its example, and nearly all use it.
        Protocol::Https if path.is_empty() => "/dns-query",
        Protocol::Https => path,
        _ if path.is_empty() => "",
        _ => return Err(format!("{scheme}:// has no path")),
    };
    Ok(Upstream {
        protocol,
        addr,
        name: name.to_owned(),
        path: path.to_owned(),
    })
}

fn with_port(host: &str, port: u16) -> Result<SocketAddr, ()> {
    let bare = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    let ip = bare.parse().map_err(|_| ())?;
    Ok(SocketAddr::new(ip, port))
}

/// Where a log sink writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkTarget {
    /// `udp://192.0.2.9:4739`
    Udp(SocketAddr),
    /// `tcp://192.0.2.9:4739`
    Tcp(SocketAddr),
    /// `tls://192.0.2.9:6514#collector.example`: the name is the certificate's.
    Tls {
        /// Where to.
        addr: SocketAddr,
        /// The name; empty if the certificate has the address.
        name: String,
    },
    /// An absolute path.
    File(PathBuf),
}

/// `udp://`, `tcp://`, `tls://` with an address and port, or a path.
pub fn sink_target(text: &str) -> Result<SinkTarget, String> {
    if text.starts_with('/') {
        return Ok(SinkTarget::File(PathBuf::from(text)));
    }
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| "neither a path nor an address".to_owned())?;
    let (addr, name) = match rest.split_once('#') {
        Some((addr, name)) if scheme == "tls" => (addr, name),
        _ => (rest, ""),
    };
    let addr = socket_addr(addr);
    match scheme {
        "udp" => addr.map(SinkTarget::Udp),
        "tcp" => addr.map(SinkTarget::Tcp),
        "tls" => addr.map(|addr| SinkTarget::Tls {
            addr,
            name: name.to_owned(),
        }),
        other => Err(format!("{other:?} is no transport")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_have_no_bits_behind_them() {
        assert_eq!("0.0.0.0/0".parse::<Prefix>().unwrap().length, 0);
        assert_eq!("192.0.2.1".parse::<Prefix>().unwrap().length, 32);
        assert!("192.0.2.1/24".parse::<Prefix>().is_err());
        assert!("::/129".parse::<Prefix>().is_err());
        assert!("2001:db8::/32".parse::<Prefix>().is_ok());
    }

    #[test]
    fn ports_are_a_range_or_one() {
        assert_eq!(ports("1024-65535"), Ok(1024..=65535));
        assert_eq!(ports("80"), Ok(80..=80));
        assert!(ports("0-10").is_err());
        assert!(ports("20-10").is_err());
        assert!(ports("1-65536").is_err());
    }

    #[test]
    fn upstreams_may_leave_out_the_port() {
        let at = |text: &str| upstream(text).map(|u| u.addr.to_string());
        assert_eq!(at("udp://198.51.100.53:53"), Ok("198.51.100.53:53".into()));
        assert_eq!(at("tls://2001:db8::1"), Ok("[2001:db8::1]:853".into()));
        assert_eq!(
            at("https://[2001:db8::1]/dns-query"),
            Ok("[2001:db8::1]:443".into())
        );
        assert!(at("198.51.100.53").is_err());
        assert!(at("quic://198.51.100.53").is_err());
        assert!(at("udp://198.51.100.53/dns-query").is_err());
        assert!(at("udp://198.51.100.53#dns.example").is_err());
        let text = |text: &str| upstream(text).map(|u| u.to_string());
        let whole = "https://198.51.100.53:443/dns-query#dns.example";
        assert_eq!(text("https://198.51.100.53#dns.example"), Ok(whole.into()));
    }
}
