//! Section 3.7 leads to RFC 7915 sections 4.1 and 5.1: packets too long for the other side are
//! cut or answered, and SYN segments say what both sides carry.

use std::net::IpAddr;

use etherparse::{PacketBuilder, TcpOptionElement};
use gate64_dataplane::config::MssClamp;
use gate64_dataplane::counters;
use gate64_dataplane::verdict::{DropReason, Side};

use crate::support::fragments::{cut_v4, gather_v6};
use crate::support::packets::{judged, repair4, tcp6, udp4, udp6};
use crate::support::{Gateway, HOST, Outcome, POOL, SERVER, config, embedded, routes};

const SYN: u8 = 0x02;

/// A gateway with a UDP session, and the pool's port of it.
fn with_session(ipv6_mtu_lowest: u16) -> (Gateway, u16) {
    let mut config = config();
    config.ipv6_mtu_lowest = ipv6_mtu_lowest;
    let mut gateway = Gateway::new(config);
    let open = udp6((HOST, 5000), (embedded(SERVER), 53), b"open");
    let port = judged(&gateway.v6(&open)).2;
    (gateway, port)
}

/// An IPv4 packet of that length to the session.
fn from_v4(port: u16, len: usize, dont_fragment: bool) -> Vec<u8> {
    let payload: Vec<u8> = (0..len - 28)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    let mut bytes = udp4((SERVER, 53), (POOL, port), &payload);
    bytes[4..6].copy_from_slice(&[0xbe, 0xef]);
    bytes[6] = if dont_fragment { 0x40 } else { 0 };
    repair4(&mut bytes);
    assert_eq!(bytes.len(), len);
    bytes
}

/// The fragments that a packet leaves in.
#[track_caller]
fn fragments_of(gateway: &mut Gateway, packet: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(gateway.put(Side::V4, packet), Outcome::Held);
    let out = gateway.outgoing().into_iter();
    out.map(|one| one.sent(Side::V6)).collect()
}

/// RFC 7915 section 4.1: without DF, cut to the lowest IPv6 MTU: 1280 octets with all headers.
#[test]
fn without_df_packets_are_cut_to_the_lowest_mtu() {
    for (lowest, mtu) in [(1280, 1500), (1400, 1500), (1500, 1280), (1496, 1496)] {
        let (mut gateway, port) = with_session(lowest);
        gateway.routes = routes(mtu, 1500);
        let longest = usize::from(lowest.min(mtu));
        // An IPv4 packet grows by 20 octets: what then just fits leaves whole.
        let whole = gateway.v4(&from_v4(port, longest - 20, false));
        assert_eq!((whole.len(), whole[6]), (longest, 17), "no fragment header");
        judged(&whole);
        for len in [longest - 19, longest, 1500] {
            let packet = from_v4(port, len, false);
            let made = gateway.count(counters::fragments_created(0));
            let forwarded = gateway.count(counters::packets_forwarded(1));
            let parts = fragments_of(&mut gateway, &packet);
            assert!(parts.iter().all(|part| part.len() <= longest));
            assert!(
                parts[0].len() > longest - 8,
                "the first is as long as can be"
            );
            assert_eq!(parts.len(), 2);
            for part in &parts {
                assert_eq!(part[44..48], [0, 0, 0xbe, 0xef], "the low 16 bits");
            }
            let (src, dst, _, dst_port, payload) = judged(&gather_v6(&parts));
            assert_eq!((src, dst), (IpAddr::V6(embedded(SERVER)), IpAddr::V6(HOST)));
            assert_eq!((dst_port, payload.as_slice()), (5000, &packet[28..]));
            assert_eq!(gateway.count(counters::fragments_created(0)), made + 2);
            let after = gateway.count(counters::packets_forwarded(1));
            assert_eq!(after, forwarded + 1, "one packet");
        }
        gateway.nat64.check_invariants();
    }
}

/// A UDP datagram without a checksum gets one before it is cut.
#[test]
fn without_df_and_without_a_udp_checksum() {
    let (mut gateway, port) = with_session(1280);
    let mut packet = from_v4(port, 1500, false);
    packet[26..28].fill(0);
    let parts = fragments_of(&mut gateway, &packet);
    let (.., payload) = judged(&gather_v6(&parts));
    assert_eq!(payload, packet[28..]);
}

/// A fragment that is too long is cut further, and keeps its place.
#[test]
fn fragments_without_df_are_cut_further() {
    let (mut gateway, port) = with_session(1280);
    let payload: Vec<u8> = (0..3000).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let whole = udp4((SERVER, 53), (POOL, port), &payload);
    let parts = cut_v4(&whole, 0xbeef, &[1480, 2960]);
    let mut out = Vec::new();
    for part in &parts {
        match gateway.put(Side::V4, part) {
            Outcome::Held => {}
            sent => out.push(sent.sent(Side::V6)),
        }
        let cut = gateway.outgoing().into_iter();
        out.extend(cut.map(|one| one.sent(Side::V6)));
    }
    assert_eq!(out.len(), 5, "1480, 1480 and 48 octets of payload");
    assert!(out.iter().all(|part| part.len() <= 1280));
    let (_, dst, _, dst_port, got) = judged(&gather_v6(&out));
    assert_eq!((dst, dst_port, got), (IpAddr::V6(HOST), 5000, payload));
    assert_eq!(gateway.count(counters::fragments_created(0)), 4);
}

/// RFC 7915 section 4.1, RFC 1191: with DF, the answer says what would fit after growing.
#[test]
fn with_df_too_long_packets_are_answered() {
    for mtu in [1500u16, 1400, 1280] {
        let (mut gateway, port) = with_session(1280);
        gateway.routes = routes(mtu, 1500);
        let fits = usize::from(mtu) - 20;
        let whole = gateway.v4(&from_v4(port, fits, true));
        assert_eq!(whole.len(), usize::from(mtu));
        let [high, low] = u16::try_from(fits).unwrap().to_be_bytes();
        for len in [fits + 1, 1500] {
            let packet = from_v4(port, len, true);
            let answer = gateway.rejects(Side::V4, &packet, DropReason::PacketTooBig);
            assert_eq!(answer, (3, 4, [0, 0, high, low]));
        }
    }
}

/// A fragment takes a fragment header along: 28 octets.
#[test]
fn fragments_with_df_are_answered_with_room_for_their_header() {
    let (mut gateway, port) = with_session(1280);
    let mut first = from_v4(port, 1500, true);
    first[6] |= 0x20;
    repair4(&mut first);
    let answer = gateway.put(Side::V4, &first).sent(Side::V4);
    judged(&answer);
    assert_eq!((answer[20], answer[21]), (3, 4));
    assert_eq!(answer[26..28], 1472u16.to_be_bytes());
    assert_eq!(gateway.drops(Side::V4, DropReason::PacketTooBig), 1);
    gateway.nat64.check_invariants();
}

/// RFC 7915 section 5.1: what leaves as at most 1260 octets may be fragmented on its way, longer
/// packets may not.
#[test]
fn df_from_ipv6_is_set_for_long_packets() {
    let mut gateway = Gateway::new(config());
    for (len, flags) in [(1260, 0), (1261, 0x40), (1480, 0x40)] {
        let packet = udp6((HOST, 5000), (embedded(SERVER), 53), &vec![7; len - 28]);
        let out = gateway.v6(&packet);
        judged(&out);
        assert_eq!((out.len(), out[6]), (len, flags));
    }
}

fn syn6(mss: u16) -> Vec<u8> {
    let options = [
        TcpOptionElement::Noop,
        TcpOptionElement::MaximumSegmentSize(mss),
    ];
    let mut bytes = Vec::new();
    PacketBuilder::ipv6(HOST.octets(), embedded(SERVER).octets(), 64)
        .tcp(4000, 80, 1, 1000)
        .syn()
        .options(&options)
        .unwrap()
        .write(&mut bytes, &[])
        .unwrap();
    bytes
}

fn syn_ack4(port: u16, mss: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(SERVER.octets(), POOL.octets(), 64)
        .tcp(80, port, 1, 1000)
        .syn()
        .ack(2)
        .options(&[TcpOptionElement::MaximumSegmentSize(mss)])
        .unwrap()
        .write(&mut bytes, &[])
        .unwrap();
    bytes
}

/// The MSS that a SYN and its answer have behind a gateway with that setting and those MTUs.
fn clamped(clamp: MssClamp, (mtu_v6, mtu_v4): (u16, u16), mss: u16) -> (u16, u16) {
    let mut config = config();
    config.mss_clamp = clamp;
    let mut gateway = Gateway::new(config);
    gateway.routes = routes(mtu_v6, mtu_v4);
    let out = gateway.v6(&syn6(mss));
    let port = judged(&out).2;
    let back = gateway.v4(&syn_ack4(port, mss));
    assert_eq!(judged(&back).3, 4000);
    let at = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    // Behind one octet of padding in the SYN.
    (at(&out, 20 + 23), at(&back, 40 + 22))
}

#[test]
fn mss_is_lowered_to_what_both_links_carry() {
    let auto = |mtus, mss| clamped(MssClamp::Auto, mtus, mss);
    assert_eq!(auto((1500, 1500), 1460), (1440, 1440));
    assert_eq!(auto((1500, 1500), 9000), (1440, 1440));
    assert_eq!(auto((1500, 1500), 1440), (1440, 1440));
    assert_eq!(auto((1500, 1500), 536), (536, 536), "never raised");
    assert_eq!(auto((1280, 1500), 1460), (1220, 1220));
    assert_eq!(
        auto((1500, 1400), 1460),
        (1360, 1360),
        "IPv4's is the smaller"
    );
    assert_eq!(auto((1500, 1480), 1460), (1440, 1440), "both alike");
}

#[test]
fn mss_is_lowered_to_a_number() {
    let octets = |octets, mss| clamped(MssClamp::Octets(octets), (1500, 1500), mss);
    assert_eq!(octets(1220, 1460), (1220, 1220));
    assert_eq!(
        octets(1460, 1460),
        (1460, 1460),
        "the operator knows better"
    );
    assert_eq!(octets(1220, 1000), (1000, 1000));
}

#[test]
fn mss_is_left_alone() {
    assert_eq!(clamped(MssClamp::Off, (1280, 1280), 1460), (1460, 1460));
    // A SYN without the option stays without.
    let mut gateway = Gateway::new(config());
    let out = gateway.v6(&tcp6((HOST, 4000), (embedded(SERVER), 80), SYN, b""));
    judged(&out);
    assert_eq!(out.len(), 40);
}
