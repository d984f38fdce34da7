//! RFC 6052, IPv6 addressing of translators, through the whole engine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::rfc6052::Pref64;

use crate::support::packets::{judged, tcp4, udp4, udp6};
use crate::support::{Gateway, HOST, Outcome, POOL, SERVER, config};
use crate::{ACK, pool};

const LENGTHS: [&str; 6] = [
    "2001:db8::/32",
    "2001:db8:100::/40",
    "2001:db8:122::/48",
    "2001:db8:122:300::/56",
    "2001:db8:122:344::/64",
    "2001:db8:122:344::/96",
];

#[test]
fn section_2_2_all_six_lengths_there_and_back() {
    // Outside of all the prefixes.
    let host = Ipv6Addr::new(0x2001, 0xd00, 1, 0, 0, 0, 0, 0x10);
    for text in LENGTHS {
        let pref64: Pref64 = text.parse().unwrap();
        let mut config = config();
        config.pref64 = vec![pref64];
        let mut gateway = Gateway::new(config);
        let server = pref64.embed(SERVER);
        assert_eq!(server.octets()[8], 0, "bits 64 to 71 are zero");
        let out = gateway.v6(&udp6((host, 5000), (server, 53), b"there"));
        let (_, dst, port, _, _) = judged(&out);
        assert_eq!(dst, IpAddr::V4(SERVER), "{text}");
        let back = gateway.v4(&udp4((SERVER, 53), (POOL, port), b"back"));
        assert_eq!(judged(&back).0, IpAddr::V6(server), "{text}");
    }
}

#[test]
fn section_2_2_a_suffix_and_octet_8_are_ignored() {
    let pref64: Pref64 = "2001:db8:122::/48".parse().unwrap();
    let mut config = config();
    config.pref64 = vec![pref64];
    let mut gateway = Gateway::new(config);
    let mut octets = pref64.embed(SERVER).octets();
    octets[8] = 0xff;
    octets[15] = 0x55;
    let out = gateway.v6(&udp6((HOST_ELSEWHERE, 5000), (octets.into(), 53), b"x"));
    assert_eq!(judged(&out).1, IpAddr::V4(SERVER));
}

const HOST_ELSEWHERE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xd00, 1, 0, 0, 0, 0, 0x10);

#[test]
fn section_3_several_prefixes_and_each_session_keeps_its_own() {
    let own: Pref64 = "2001:db8:64::/96".parse().unwrap();
    let local: Pref64 = "64:ff9b:1::/48".parse().unwrap(); // RFC 8215
    let mut config = config();
    config.pref64 = vec![Pref64::WELL_KNOWN, own, local];
    let mut gateway = Gateway::new(config);
    for (n, pref64) in [Pref64::WELL_KNOWN, own, local].into_iter().enumerate() {
        let peer = Ipv4Addr::from(u32::from(SERVER) + u32::try_from(n).unwrap());
        let server = pref64.embed(peer);
        let out = gateway.v6(&udp6((HOST, 5000), (server, 53), b"there"));
        let port = judged(&out).2;
        let back = gateway.v4(&udp4((peer, 53), (POOL, port), b"back"));
        assert_eq!(judged(&back).0, IpAddr::V6(server));
    }
}

/// A gateway as shipped, with a pool that the well-known prefix may carry.
fn strict() -> (Gateway, Ipv4Addr, Ipv4Addr) {
    let (own, server) = (Ipv4Addr::new(9, 9, 9, 1), Ipv4Addr::new(8, 8, 8, 8));
    let mut config = config();
    config.wkp_strict = true;
    config.pool4 = vec![pool(own, 32, 1024..=65535)];
    (Gateway::new(config), own, server)
}

#[test]
fn section_3_1_the_well_known_prefix_carries_no_private_destination() {
    let (mut gateway, _, _) = strict();
    for private in [
        [10, 0, 0, 1],
        [172, 16, 0, 1],
        [192, 168, 0, 1],
        [100, 64, 0, 1],
    ] {
        let server = Pref64::WELL_KNOWN.embed(private.into());
        let refused = gateway.put(Side::V6, &udp6((HOST, 5000), (server, 53), b"x"));
        assert_eq!(refused, Outcome::Dropped(DropReason::WkpNonGlobal));
    }
}

#[test]
fn section_3_1_nor_a_private_source() {
    let (mut gateway, own, server) = strict();
    let open = udp6((HOST, 5000), (Pref64::WELL_KNOWN.embed(server), 53), b"x");
    let port = judged(&gateway.v6(&open)).2;
    let private = Ipv4Addr::new(10, 0, 0, 1);
    let refused = gateway.put(Side::V4, &udp4((private, 53), (own, port), b"x"));
    assert_eq!(refused, Outcome::Dropped(DropReason::WkpNonGlobal));
    // Endpoint-independent filtering lets others pass.
    gateway.v4(&udp4((Ipv4Addr::new(8, 8, 4, 4), 53), (own, port), b"x"));
    // Without state as well: a segment that is no SYN to a mapping.
    let open = crate::support::packets::tcp6(
        (HOST, 5000),
        (Pref64::WELL_KNOWN.embed(server), 80),
        crate::SYN,
        b"",
    );
    let port = judged(&gateway.v6(&open)).2;
    let refused = gateway.put(Side::V4, &tcp4((private, 80), (own, port), ACK, b""));
    assert_eq!(refused, Outcome::Dropped(DropReason::WkpNonGlobal));
}

#[test]
fn section_3_1_a_prefix_of_ones_own_carries_them_where_there_is_one() {
    let (_, own, server) = strict();
    let mut config = config();
    config.wkp_strict = true;
    config.pool4 = vec![pool(own, 32, 1024..=65535)];
    let second: Pref64 = "2001:db8:64::/96".parse().unwrap();
    config.pref64 = vec![Pref64::WELL_KNOWN, second];
    let mut gateway = Gateway::new(config);
    let open = udp6((HOST, 5000), (Pref64::WELL_KNOWN.embed(server), 53), b"x");
    let port = judged(&gateway.v6(&open)).2;
    let private = Ipv4Addr::new(10, 0, 0, 1);
    let passed = gateway.v4(&udp4((private, 53), (own, port), b"x"));
    assert_eq!(judged(&passed).0, IpAddr::V6(second.embed(private)));
}
