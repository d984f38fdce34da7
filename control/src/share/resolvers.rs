//! The resolvers that DNS64 asks: those of the host, unless others are given.

use std::net::{IpAddr, SocketAddr};

use gate64_dns64::{Protocol, Upstream};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// As many as the C library uses.
const COUNT_MAX: usize = 3;

/// The host's resolvers, as its own programs have them.
pub fn of_host() -> Vec<Upstream> {
    parse(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default())
}

/// resolv.conf(5). Addresses with a zone are left out: DNS64 asks from any interface.
fn parse(text: &str) -> Vec<Upstream> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        words.next()?.parse::<IpAddr>().ok()
    });
    servers
        .take(COUNT_MAX)
        .map(|ip| Upstream::plain(Protocol::Udp, SocketAddr::new(ip, 53)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_the_c_library_does() {
        let text = "# made by\nsearch example\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\n\
                    nameserver 2001:db8::53 # second\noptions edns0\nnameserver\n";
        let found: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["udp://127.0.0.53:53", "udp://[2001:db8::53]:53"]);
        assert!(parse("").is_empty());
    }
}
