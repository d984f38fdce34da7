//! RFC 7915 where the answer needs the whole engine: routes, links, sources of errors.

use std::net::IpAddr;

use gate64_dataplane::route::{Port, PortId, Route, RouteSnapshot};
use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::Protocol;

use crate::support::packets::{judged, tcp6, udp4, udp6};
use crate::support::{
    GATEWAY4, GATEWAY6, Gateway, HOST, Outcome, POOL, SERVER, config, embedded, routes,
};
use crate::{SYN, error4, opened, repair_v4};

#[test]
fn section_4_1_a_source_route_is_answered() {
    let (mut gateway, port) = opened();
    let whole = udp4((SERVER, 53), (POOL, port), b"answer");
    let mut packet = whole[..20].to_vec();
    packet.extend_from_slice(&[131, 7, 4, 198, 51, 100, 9, 0]);
    packet.extend_from_slice(&whole[20..]);
    packet[0] = 0x47;
    let len = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    repair_v4(&mut packet);
    let answer = gateway.put(Side::V4, &packet).sent(Side::V4);
    let (src, dst, _, _, _) = judged(&answer);
    assert_eq!((src, dst), (IpAddr::V4(GATEWAY4), IpAddr::V4(SERVER)));
    assert_eq!((answer[20], answer[21]), (3, 5));
    assert_eq!(gateway.drops(Side::V4, DropReason::SourceRoute), 1);
}

#[test]
fn section_4_1_a_used_up_ttl_is_answered() {
    let (mut gateway, port) = opened();
    let mut packet = udp4((SERVER, 53), (POOL, port), b"answer");
    packet[8] = 1;
    repair_v4(&mut packet);
    let answer = gateway.put(Side::V4, &packet).sent(Side::V4);
    assert_eq!((answer[20], answer[21]), (11, 0));
}

#[test]
fn section_4_1_an_illegal_source_is_dropped_silently() {
    let (mut gateway, port) = opened();
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        let packet = udp4((source.into(), 53), (POOL, port), b"x");
        let refused = gateway.put(Side::V4, &packet);
        assert_eq!(refused, Outcome::Dropped(DropReason::SourceMartian));
    }
}

#[test]
fn section_5_1_an_illegal_source_is_dropped_silently() {
    let mut gateway = Gateway::new(config());
    for source in ["::", "::1", "ff02::1"] {
        let source = source.parse().unwrap();
        let packet = udp6((source, 53), (embedded(SERVER), 53), b"x");
        let refused = gateway.put(Side::V6, &packet);
        assert_eq!(refused, Outcome::Dropped(DropReason::SourceMartian));
    }
}

#[test]
fn section_5_1_a_routing_header_is_answered_with_its_place() {
    let mut gateway = Gateway::new(config());
    let whole = udp6((HOST, 5000), (embedded(SERVER), 53), b"x");
    let mut packet = whole[..40].to_vec();
    packet.extend_from_slice(&[17, 0, 0, 1, 0, 0, 0, 0]);
    packet.extend_from_slice(&whole[40..]);
    packet[6] = 43;
    let len = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    let answer = gateway.put(Side::V6, &packet).sent(Side::V6);
    let (src, dst, _, _, _) = judged(&answer);
    assert_eq!((src, dst), (IpAddr::V6(GATEWAY6), IpAddr::V6(HOST)));
    assert_eq!((answer[40], answer[41]), (4, 0));
    assert_eq!(
        answer[44..48],
        43u32.to_be_bytes(),
        "the segments left field"
    );
}

#[test]
fn section_4_2_a_link_below_1280_is_announced_as_1280_and_packets_then_go_without_df() {
    let (mut gateway, _) = opened();
    let large = udp6((HOST, 5000), (embedded(SERVER), 53), &[7; 1400]);
    let sent = gateway.v6(&large);
    assert_eq!(sent[6] & 0x40, 0x40);
    let error = gateway.v4(&error4(3, 4, [0, 0, 2, 64], &sent)); // 576
    assert_eq!((error[40], error[41]), (2, 0));
    assert_eq!(error[44..48], 1280u32.to_be_bytes());
    // What the host sends from now on may be fragmented on the way.
    let kept_to = udp6((HOST, 5000), (embedded(SERVER), 53), &[7; 1280 - 48]);
    let sent = gateway.v6(&kept_to);
    assert_eq!((sent.len(), sent[6] & 0x40), (1260, 0));
}

#[test]
fn section_4_2_zero_means_the_next_plateau() {
    let mut gateway = Gateway::new(config());
    gateway.routes = routes(9000, 9000);
    let large = udp6((HOST, 5000), (embedded(SERVER), 53), &[7; 1600]);
    let sent = gateway.v6(&large[..]);
    let quoted = &sent[..600];
    let error = gateway.v4(&error4(3, 4, [0; 4], quoted));
    assert_eq!(error[44..48], (1492u32 + 20).to_be_bytes());
}

#[test]
fn section_5_2_too_big_from_ipv6_announces_twenty_less() {
    let (mut gateway, port) = opened();
    let received = gateway.v4(&udp4((SERVER, 53), (POOL, port), &[7; 1400]));
    let mut error = crate::error6(crate::ROUTER6, embedded(SERVER), (2, 0), &received[..1000]);
    error[46..48].copy_from_slice(&1300u16.to_be_bytes());
    let checksum = etherparse::Icmpv6Slice::from_slice(&error[40..]).unwrap();
    let checksum = checksum
        .icmp_type()
        .calc_checksum(
            crate::ROUTER6.octets(),
            embedded(SERVER).octets(),
            checksum.payload(),
        )
        .unwrap();
    error[42..44].copy_from_slice(&checksum.to_be_bytes());
    let out = gateway.v6(&error);
    assert_eq!((out[20], out[21]), (3, 4));
    assert_eq!(out[26..28], 1280u16.to_be_bytes());
}

#[test]
fn section_4_4_and_5_4_without_a_route_the_sender_is_told() {
    let port = |name: &str, ip: IpAddr, length: u8| Port {
        name: name.into(),
        index: 1,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        vlan: None,
        is_up: true,
        addresses: vec![gate64_dataplane::config::InterfaceAddress { ip, length }],
    };
    let mut gateway = Gateway::new(config());
    gateway.routes = RouteSnapshot::builder()
        .port(port("v6", GATEWAY6.into(), 64))
        .port(port("v4", GATEWAY4.into(), 24))
        .route6(
            "2001:db8::".parse().unwrap(),
            32,
            Route::via(PortId(0), IpAddr::V6(HOST)),
        )
        .neighbor(PortId(0), IpAddr::V6(HOST), [2, 0, 0, 0, 0, 6])
        .build(2);
    let packet = udp6((HOST, 5000), (embedded(SERVER), 53), b"x");
    let answer = gateway.put(Side::V6, &packet).sent(Side::V6);
    let (src, _, _, _, quoted) = judged(&answer);
    assert_eq!(src, IpAddr::V6(GATEWAY6));
    assert_eq!((answer[40], answer[41]), (1, 0));
    assert_eq!(quoted, packet, "the packet is intact");
    assert_eq!(
        gateway.sessions(Protocol::Udp),
        0,
        "and has left no session"
    );
}

#[test]
fn rfc6146_section_3_4_other_protocols_are_answered() {
    let mut gateway = Gateway::new(config());
    let mut packet = udp6((HOST, 5000), (embedded(SERVER), 53), b"x");
    packet[6] = 132;
    let answer = gateway.put(Side::V6, &packet).sent(Side::V6);
    assert_eq!((answer[40], answer[41]), (1, 4));
    let mut packet = udp4((SERVER, 53), (POOL, 2000), b"x");
    packet[9] = 132;
    repair_v4(&mut packet);
    let answer = gateway.put(Side::V4, &packet).sent(Side::V4);
    assert_eq!((answer[20], answer[21]), (3, 2));
    assert_eq!(gateway.drops(Side::V6, DropReason::UnknownProtocol), 1);
    assert_eq!(gateway.drops(Side::V4, DropReason::UnknownProtocol), 1);
}

#[test]
fn the_mss_of_a_syn_is_lowered_to_what_both_links_carry() {
    let mut gateway = Gateway::new(config());
    gateway.routes = routes(1400, 1500);
    let mut header = etherparse::TcpHeader::new(4000, 80, 1, 65535);
    header.syn = true;
    header
        .set_options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1440)])
        .unwrap();
    let mut packet = Vec::new();
    etherparse::PacketBuilder::ipv6(HOST.octets(), embedded(SERVER).octets(), 64)
        .tcp_header(header)
        .write(&mut packet, b"")
        .unwrap();
    let out = gateway.v6(&packet);
    judged(&out);
    assert_eq!(out[40..44], [2, 4, 0x05, 0x3c], "1340 octets");
    let without = gateway.v6(&tcp6((HOST, 4001), (embedded(SERVER), 80), SYN, b""));
    judged(&without);
}
