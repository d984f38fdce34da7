//! RFC 6052 with several prefixes of different lengths at once, and every block that the
//! well-known one must not carry.

use std::net::{IpAddr, Ipv4Addr};

use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::Protocol;
use gate64_wire::rfc6052::Pref64;

use crate::support::packets::{judged, ping6, pong4, tcp6, udp4, udp6};
use crate::support::{Gateway, HOST, POOL, SERVER, config, embedded};

/// One of each length, none inside another, the well-known one last.
fn prefixes() -> Vec<Pref64> {
    [
        "2001:db9::/32",
        "2001:db8:100::/40",
        "2001:db8:222::/48",
        "2001:db8:300:400::/56",
        "2001:db8:301:500::/64",
        "2001:db8:302:500::/96",
        "64:ff9b::/96",
    ]
    .map(|text| text.parse().unwrap())
    .to_vec()
}

fn several() -> Gateway {
    let mut config = config();
    config.pref64 = prefixes();
    Gateway::new(config)
}

/// Section 2.2: each client is answered from the prefix that it uses.
#[test]
fn each_length_there_and_back() {
    let mut gateway = several();
    for (number, pref64) in (0u16..).zip(prefixes()) {
        let (client, server) = ((HOST, 5000 + number), (pref64.embed(SERVER), 53));
        let out = gateway.v6(&udp6(client, server, b"question"));
        let (src, dst, port, _, payload) = judged(&out);
        assert_eq!((src, dst), (IpAddr::V4(POOL), IpAddr::V4(SERVER)));
        assert_eq!(payload, b"question");
        let back = gateway.v4(&udp4((SERVER, 53), (POOL, port), b"answer"));
        let (src, dst, _, dst_port, payload) = judged(&back);
        assert_eq!((src, dst), (IpAddr::V6(server.0), IpAddr::V6(HOST)));
        assert_eq!((dst_port, payload.as_slice()), (client.1, &b"answer"[..]));

        let id = judged(&gateway.v6(&ping6(HOST, server.0, client.1, b"ping"))).2;
        let back = gateway.v4(&pong4(SERVER, POOL, id, b"ping"));
        assert_eq!(judged(&back).0, IpAddr::V6(server.0));
    }
    assert_eq!(gateway.sessions(Protocol::Udp), 7);
    gateway.nat64.check_invariants();
}

/// Section 2.2: octet 8 and the suffix are ignored on receipt.
#[test]
fn octet_8_and_the_suffix_are_ignored() {
    let mut gateway = several();
    for pref64 in prefixes().into_iter().filter(|one| one.length() < 96) {
        let mut octets = pref64.embed(SERVER).octets();
        octets[15] = 0xff;
        octets[8] = 0x5a;
        let out = gateway.v6(&udp6((HOST, 5000), (octets.into(), 53), b"x"));
        assert_eq!(judged(&out).1, IpAddr::V4(SERVER));
    }
}

/// The same client, port and server by another prefix: one session on the IPv4 side, right
/// checksums, and the answers follow the client.
#[test]
fn a_client_that_changes_its_prefix() {
    let mut gateway = several();
    let mut ports = std::collections::BTreeSet::new();
    for pref64 in prefixes().into_iter().chain(prefixes()) {
        let server = (pref64.embed(SERVER), 53);
        let out = gateway.v6(&udp6((HOST, 5000), server, b"question"));
        let (_, _, port, _, payload) = judged(&out);
        assert_eq!(payload, b"question");
        ports.insert(port);
        for _ in 0..2 {
            let back = gateway.v4(&udp4((SERVER, 53), (POOL, port), b"answer"));
            assert_eq!(judged(&back).0, IpAddr::V6(server.0));
        }
        gateway.nat64.check_invariants();
    }
    assert_eq!(ports.len(), 1);
    assert_eq!(gateway.sessions(Protocol::Udp), 1);
}

/// RFC 6146 section 3.5, for every prefix.
#[test]
fn sources_inside_any_prefix_are_dropped() {
    let mut gateway = several();
    for from in prefixes() {
        for to in prefixes() {
            let packet = udp6((from.embed(SERVER), 1), (to.embed(SERVER), 53), b"loop");
            gateway.refuses(Side::V6, &packet, DropReason::SourceInPref64);
        }
    }
}

#[test]
fn neighbours_of_a_prefix_are_not_in_it() {
    let mut gateway = several();
    for pref64 in prefixes() {
        let first = u128::from(pref64.address());
        let size = 1u128 << (128 - u32::from(pref64.length()));
        for outside in [first - 1, first + size] {
            let packet = udp6((HOST, 5000), (outside.into(), 53), b"x");
            gateway.refuses(Side::V6, &packet, DropReason::NotOurs);
        }
    }
}

/// First and last of the blocks that are not global (RFC 6890).
const NOT_GLOBAL: [([u8; 4], [u8; 4]); 12] = [
    ([10, 0, 0, 0], [10, 255, 255, 255]),
    ([100, 64, 0, 0], [100, 127, 255, 255]),
    ([169, 254, 0, 0], [169, 254, 255, 255]),
    ([172, 16, 0, 0], [172, 31, 255, 255]),
    ([192, 0, 0, 0], [192, 0, 0, 255]),
    ([192, 0, 2, 0], [192, 0, 2, 255]),
    ([192, 88, 99, 0], [192, 88, 99, 255]),
    ([192, 168, 0, 0], [192, 168, 255, 255]),
    ([198, 18, 0, 0], [198, 19, 255, 255]),
    ([198, 51, 100, 0], [198, 51, 100, 255]),
    ([203, 0, 113, 0], [203, 0, 113, 255]),
    // The pool of these tests is a documentation address itself.
    ([192, 0, 2, 1], [192, 0, 2, 1]),
];

fn strict(pref64: &[&str]) -> Gateway {
    let mut config = config();
    config.wkp_strict = true;
    config.pref64 = pref64.iter().map(|text| text.parse().unwrap()).collect();
    Gateway::new(config)
}

/// Section 3.1: "Address translators MUST NOT translate packets in which an address is composed
/// of the Well-Known Prefix and a non-global IPv4 address; they MUST drop these packets."
#[test]
fn section_3_1_the_well_known_prefix_refuses_non_global_addresses() {
    let mut gateway = strict(&["64:ff9b::/96"]);
    for (first, last) in NOT_GLOBAL {
        for ip in [first, last].map(Ipv4Addr::from) {
            for packet in [
                udp6((HOST, 5000), (embedded(ip), 53), b"x"),
                tcp6((HOST, 5000), (embedded(ip), 80), 2, b""),
                ping6(HOST, embedded(ip), 5000, b"x"),
            ] {
                gateway.refuses(Side::V6, &packet, DropReason::WkpNonGlobal);
            }
        }
    }
}

#[test]
fn section_3_1_their_neighbours_are_global() {
    let mut gateway = strict(&["64:ff9b::/96"]);
    for (first, last) in &NOT_GLOBAL[..11] {
        let before = u32::from(Ipv4Addr::from(*first)) - 1;
        let behind = u32::from(Ipv4Addr::from(*last)) + 1;
        for ip in [before, behind].map(Ipv4Addr::from) {
            let out = gateway.v6(&udp6((HOST, 5000), (embedded(ip), 53), b"x"));
            assert_eq!(judged(&out).1, IpAddr::V4(ip));
        }
    }
}

#[test]
fn section_3_1_holds_for_the_well_known_prefix_alone() {
    let mut gateway = strict(&["64:ff9b::/96", "2001:db8:64::/96"]);
    let own: Pref64 = "2001:db8:64::/96".parse().unwrap();
    let ip = Ipv4Addr::new(10, 1, 2, 3);
    let refused = udp6((HOST, 5000), (embedded(ip), 53), b"x");
    gateway.refuses(Side::V6, &refused, DropReason::WkpNonGlobal);
    let out = gateway.v6(&udp6((HOST, 5000), (own.embed(ip), 53), b"x"));
    assert_eq!(judged(&out).1, IpAddr::V4(ip));
}

#[test]
fn without_strictness_the_well_known_prefix_carries_everything() {
    let mut gateway = Gateway::new(config());
    for (first, _) in &NOT_GLOBAL[..11] {
        let ip = Ipv4Addr::from(*first);
        let out = gateway.v6(&udp6((HOST, 5000), (embedded(ip), 53), b"x"));
        assert_eq!(judged(&out).1, IpAddr::V4(ip));
    }
}
