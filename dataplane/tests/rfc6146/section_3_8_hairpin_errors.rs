//! Section 3.8 with RFC 5508 REQ-7: ICMP errors about hairpinned packets turn around as well, and
//! quote the packet as its sender sent it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gate64_dataplane::counters;
use gate64_dataplane::verdict::{DropReason, Side};

use crate::support::packets::{error6, judged, tcp6, udp6};
use crate::support::{Gateway, HOST, OTHER, POOL, SERVER, config, embedded};

const SYN: u8 = 0x02;
/// A router between the gateway and the other host.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1);

/// What one host sent to another by the pool address, and what that host got.
struct Turned {
    gateway: Gateway,
    sent: Vec<u8>,
    got: Vec<u8>,
}

fn turned(config: gate64_dataplane::config::Nat64Config, is_tcp: bool) -> Turned {
    let mut gateway = Gateway::new(config);
    let packet = |from, to, payload: &[u8]| match is_tcp {
        true => tcp6(from, to, SYN, payload),
        false => udp6(from, to, payload),
    };
    let open = packet((OTHER, 6000), (embedded(SERVER), 1), b"");
    let target = judged(&gateway.v6(&open)).2;
    let sent = packet((HOST, 5000), (embedded(POOL), target), b"hello");
    let got = gateway.put(Side::V6, &sent).sent(Side::V6);
    assert_eq!(judged(&got).1, IpAddr::V6(OTHER));
    Turned { gateway, sent, got }
}

impl Turned {
    /// Lets an error about what the other host got go back. Gives its source, type, code and
    /// last four octets.
    #[track_caller]
    fn answer(&mut self, from: Ipv6Addr, kind: (u8, u8), rest: u32) -> (IpAddr, (u8, u8), u32) {
        let hairpinned = self.gateway.count(counters::hairpinned(0));
        let packet = error6((from, embedded(POOL)), kind, rest.to_be_bytes(), &self.got);
        let out = self.gateway.put(Side::V6, &packet).sent(Side::V6);
        let (src, dst, _, _, quoted) = judged(&out);
        assert_eq!(dst, IpAddr::V6(HOST));
        // As it was sent, but for the two hops on its way.
        let mut expected = self.sent.clone();
        expected[7] -= 2;
        assert_eq!(quoted, expected);
        let counted = self.gateway.count(counters::hairpinned(0));
        assert_eq!(counted, hairpinned + 1);
        self.gateway.nat64.check_invariants();
        let rest = u32::from_be_bytes(out[44..48].try_into().unwrap());
        (src, (out[40], out[41]), rest)
    }
}

#[test]
fn errors_of_the_other_host_reach_the_sender() {
    for is_tcp in [false, true] {
        let mut turned = turned(config(), is_tcp);
        let pool = IpAddr::V6(embedded(POOL));
        assert_eq!(turned.answer(OTHER, (1, 4), 0), (pool, (1, 4), 0));
        // Host unreachable is all that IPv4 has for these.
        assert_eq!(turned.answer(OTHER, (1, 3), 0), (pool, (1, 0), 0));
        assert_eq!(turned.answer(OTHER, (1, 1), 0), (pool, (1, 1), 0));
        let translated = |side| counters::icmp_errors_translated(side);
        assert_eq!(turned.gateway.count(translated(0)), 3);
        assert_eq!(turned.gateway.count(translated(1)), 3);
    }
}

/// A router's own address cannot go through IPv4: the hop is shown as the pool's address, or as
/// `source_v4` (RFC 6791).
#[test]
fn errors_of_a_router_on_the_way() {
    let mut by_pool = turned(config(), false);
    let (src, kind, _) = by_pool.answer(ROUTER, (3, 0), 0);
    assert_eq!((src, kind), (IpAddr::V6(embedded(POOL)), (3, 0)));
    let shown = Ipv4Addr::new(203, 0, 113, 200);
    let mut config = config();
    config.source_v4 = Some(shown);
    let mut by_source = turned(config, false);
    let (src, kind, _) = by_source.answer(ROUTER, (3, 0), 0);
    assert_eq!((src, kind), (IpAddr::V6(embedded(shown)), (3, 0)));
}

/// Path MTU discovery between two hosts behind one gateway: 20 octets go and come back.
#[test]
fn packet_too_big_keeps_its_mtu() {
    let mut turned = turned(config(), false);
    for mtu in [1280, 1300, 1499] {
        let (_, kind, announced) = turned.answer(ROUTER, (2, 0), mtu);
        assert_eq!((kind, announced), ((2, 0), mtu));
    }
    // Below what IPv6 links carry there is nothing to announce.
    assert_eq!(turned.answer(ROUTER, (2, 0), 600).2, 1280);
}

#[test]
fn an_error_that_nobody_caused_does_not_turn_around() {
    let mut turned = turned(config(), false);
    let mut inner = turned.got.clone();
    inner[41] ^= 1;
    let forged = error6((OTHER, embedded(POOL)), (1, 4), [0; 4], &inner);
    let gateway = &mut turned.gateway;
    gateway.refuses(Side::V6, &forged, DropReason::NoSession);
    let mut bad = error6((OTHER, embedded(POOL)), (1, 4), [0; 4], &turned.got);
    bad[42] ^= 1;
    gateway.refuses(Side::V6, &bad, DropReason::IcmpChecksum);
}

/// Packets that were refused on their second half are answered too: hop limit used up.
#[test]
fn a_hop_limit_of_two_ends_between_the_halves() {
    let mut turned = turned(config(), false);
    let mut packet = turned.sent.clone();
    packet[7] = 2;
    let out = turned.gateway.put(Side::V6, &packet).sent(Side::V6);
    let (_, dst, _, _, quoted) = judged(&out);
    assert_eq!((dst, out[40], out[41]), (IpAddr::V6(HOST), 3, 0));
    packet[7] = 1;
    assert_eq!(quoted, packet);
    assert_eq!(turned.gateway.drops(Side::V4, DropReason::HopLimit), 1);
}
