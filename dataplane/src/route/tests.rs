//! Where destinations lead, and what packets are sent from.

use super::*;

const A: PortId = PortId(0);
const B: PortId = PortId(1);

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, last]
}

fn port(name: &str, mtu: u16, addresses: &[(&str, u8)]) -> Port {
    Port {
        name: name.into(),
        index: 7,
        mac: mac(0xaa),
        mtu,
        is_up: true,
        vlan: None,
        addresses: addresses
            .iter()
            .map(|&(address, length)| InterfaceAddress {
                ip: ip(address),
                length,
            })
            .collect(),
    }
}

fn two_ports() -> RouteSnapshotBuilder {
    RouteSnapshot::builder()
        .port(port("a", 1500, &[("2001:db8::1", 64), ("fe80::1", 64)]))
        .port(port("b", 9000, &[("192.0.2.1", 24), ("198.51.100.1", 24)]))
}

fn hop_of(snapshot: &RouteSnapshot, lookup: Lookup) -> NextHop {
    match lookup {
        Lookup::Hop(id) => *snapshot.hop(id),
        other => panic!("not a hop: {other:?}"),
    }
}

#[test]
fn the_longest_prefix_decides() {
    let snapshot = two_ports()
        .route4(v4("0.0.0.0"), 0, Route::via(B, ip("192.0.2.254")))
        .route4(v4("203.0.113.0"), 24, Route::new(RouteKind::Blackhole))
        .route4(v4("203.0.113.7"), 32, Route::new(RouteKind::Local))
        .route4(v4("10.0.0.0"), 8, Route::new(RouteKind::Elsewhere))
        .route4(v4("10.1.0.0"), 16, Route::new(RouteKind::Unreachable))
        .route4(v4("10.1.1.0"), 24, Route::new(RouteKind::Prohibited))
        .neighbor(B, ip("192.0.2.254"), mac(1))
        .build(5);
    assert_eq!(snapshot.generation(), 5);
    let hop = hop_of(&snapshot, snapshot.route4(v4("8.8.8.8")));
    assert_eq!(
        (hop.port, hop.destination_mac, hop.source_mac, hop.mtu),
        (B, mac(1), mac(0xaa), 9000)
    );
    assert_eq!(snapshot.route4(v4("203.0.113.9")), Lookup::Blackhole);
    assert_eq!(snapshot.route4(v4("203.0.113.7")), Lookup::Local);
    assert_eq!(snapshot.route4(v4("10.9.9.9")), Lookup::Elsewhere);
    assert_eq!(snapshot.route4(v4("10.1.9.9")), Lookup::Unreachable);
    assert_eq!(snapshot.route4(v4("10.1.1.9")), Lookup::Prohibited);
    assert_eq!(snapshot.route6(v6("2001:db8::9")), Lookup::NoRoute);
}

#[test]
fn on_link_the_destination_is_the_neighbor() {
    let snapshot = two_ports()
        .route6(v6("2001:db8::"), 64, Route::on_link(A))
        .neighbor(A, ip("2001:db8::9"), mac(9))
        .build(1);
    let hop = hop_of(&snapshot, snapshot.route6(v6("2001:db8::9")));
    assert_eq!((hop.port, hop.destination_mac), (A, mac(9)));
    assert_eq!(
        snapshot.route6(v6("2001:db8::a")),
        Lookup::Unresolved {
            port: A,
            ip: ip("2001:db8::a"),
            mtu: 1500
        }
    );
}

#[test]
fn a_link_local_gateway_belongs_to_its_interface() {
    let snapshot = two_ports()
        .route6(v6("::"), 0, Route::via(A, ip("fe80::99")))
        .route6(v6("2001:db8:b::"), 48, Route::via(B, ip("fe80::99")))
        .neighbor(A, ip("fe80::99"), mac(1))
        .neighbor(B, ip("fe80::99"), mac(2))
        .build(1);
    assert_eq!(
        hop_of(&snapshot, snapshot.route6(v6("2001:db8:a::1"))).destination_mac,
        mac(1)
    );
    assert_eq!(
        hop_of(&snapshot, snapshot.route6(v6("2001:db8:b::1"))).destination_mac,
        mac(2)
    );
}

#[test]
fn an_ipv4_route_may_have_an_ipv6_gateway() {
    let snapshot = two_ports()
        .route4(v4("0.0.0.0"), 0, Route::via(B, ip("fe80::99")))
        .neighbor(B, ip("fe80::99"), mac(2))
        .build(1);
    assert_eq!(
        hop_of(&snapshot, snapshot.route4(v4("8.8.8.8"))).destination_mac,
        mac(2)
    );
}

#[test]
fn a_route_mtu_lowers_the_links_and_never_raises_it() {
    let gateway = ip("192.0.2.254");
    let snapshot = two_ports()
        .route4(v4("0.0.0.0"), 0, Route::via(B, gateway))
        .route4(v4("10.0.0.0"), 8, Route::via(B, gateway).with_mtu(1280))
        .route4(v4("11.0.0.0"), 8, Route::via(B, gateway).with_mtu(65000))
        .route4(v4("192.0.2.0"), 25, Route::on_link(B).with_mtu(1400))
        .neighbor(B, gateway, mac(1))
        .neighbor(B, ip("192.0.2.5"), mac(5))
        .build(1);
    let mtu = |dst| hop_of(&snapshot, snapshot.route4(v4(dst))).mtu;
    assert_eq!(
        (
            mtu("8.8.8.8"),
            mtu("10.0.0.1"),
            mtu("11.0.0.1"),
            mtu("192.0.2.5")
        ),
        (9000, 1280, 9000, 1400)
    );
    assert_eq!(
        snapshot.route4(v4("192.0.2.6")),
        Lookup::Unresolved {
            port: B,
            ip: ip("192.0.2.6"),
            mtu: 1400
        }
    );
}

#[test]
fn multipath_spreads_by_weight_and_avoids_unresolved_neighbors() {
    let leg = |last: u8, weight| Leg {
        port: B,
        gateway: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))),
        weight,
    };
    let route = Route::new(RouteKind::Via(vec![leg(1, 1), leg(2, 3)]));
    let all = two_ports()
        .route4(v4("0.0.0.0"), 0, route)
        .neighbor(B, ip("192.0.2.1"), mac(1))
        .neighbor(B, ip("192.0.2.2"), mac(2));
    let snapshot = all.build(1);
    let by_second = (0..10_000u32)
        .filter(|n| {
            let dst = Ipv4Addr::from_bits(0x0800_0000 + n);
            assert_eq!(
                snapshot.route4(dst),
                snapshot.route4(dst),
                "the same path each time"
            );
            hop_of(&snapshot, snapshot.route4(dst)).destination_mac == mac(2)
        })
        .count();
    assert!(
        (7200..7800).contains(&by_second),
        "{by_second} of 10000, not about 3 in 4"
    );

    let one_left = RouteSnapshot::builder()
        .port(snapshot.ports()[0].clone())
        .port(snapshot.ports()[1].clone())
        .table(Arc::clone(&snapshot.table))
        .neighbor(B, ip("192.0.2.1"), mac(1))
        .build(2);
    for n in 0..100u32 {
        let lookup = one_left.route4(Ipv4Addr::from_bits(0x0800_0000 + n));
        assert_eq!(hop_of(&one_left, lookup).destination_mac, mac(1));
    }
}

#[test]
fn an_interface_that_is_down_has_no_next_hops() {
    let mut down = port("b", 1500, &[]);
    down.is_up = false;
    let snapshot = RouteSnapshot::builder()
        .port(down)
        .route4(v4("0.0.0.0"), 0, Route::via(A, ip("192.0.2.254")))
        .neighbor(A, ip("192.0.2.254"), mac(1))
        .build(1);
    assert!(matches!(
        snapshot.route4(v4("8.8.8.8")),
        Lookup::Unresolved { .. }
    ));
}

#[test]
fn sources_come_from_the_route_then_the_interface_then_anywhere() {
    let snapshot = two_ports()
        .route4(v4("0.0.0.0"), 0, Route::via(B, ip("192.0.2.254")))
        .route4(v4("198.51.100.0"), 24, Route::on_link(B))
        .route4(
            v4("10.0.0.0"),
            8,
            Route::via(B, ip("192.0.2.254")).with_prefsrc(ip("203.0.113.1")),
        )
        .route6(v6("::"), 0, Route::via(A, ip("fe80::99")))
        .route6(v6("fe80::"), 10, Route::on_link(A))
        .route6(v6("2001:db8:b::"), 48, Route::on_link(B))
        .build(1);
    assert_eq!(snapshot.source_v4(v4("8.8.8.8")), Some(v4("192.0.2.1")));
    assert_eq!(
        snapshot.source_v4(v4("198.51.100.7")),
        Some(v4("198.51.100.1"))
    );
    assert_eq!(snapshot.source_v4(v4("10.0.0.1")), Some(v4("203.0.113.1")));
    assert_eq!(
        snapshot.source_v6(v6("2001:db8:a::1")),
        Some(v6("2001:db8::1"))
    );
    assert_eq!(snapshot.source_v6(v6("fe80::5")), Some(v6("fe80::1")));
    assert_eq!(
        snapshot.source_v6(v6("2001:db8:b::1")),
        Some(v6("2001:db8::1")),
        "B has no IPv6 address"
    );
    assert_eq!(snapshot.port_source_v6(B, v6("2001:db8::9")), None);
    assert_eq!(RouteSnapshot::default().source_v4(v4("8.8.8.8")), None);
}

#[test]
fn equal_routes_are_kept_once() {
    let mut table = RouteTable::default();
    for n in 0..10_000u32 {
        table.insert4(
            Ipv4Addr::from_bits(n << 8),
            24,
            Route::via(B, ip("192.0.2.254")),
        );
    }
    assert_eq!(table.len(), (10_000, 0));
    assert_eq!(table.routes.len(), 1);
    assert_eq!(table.gateways().len(), 1);
}

#[test]
fn neighbors_beyond_the_last_id_stay_unresolved_and_gateways_come_first() {
    let gateway = ip("2001:db8::ffff:ffff");
    let mut builder = two_ports()
        .route6(v6("::"), 0, Route::via(A, gateway))
        .route6(v6("2001:db8::"), 64, Route::on_link(A));
    for n in 0..HOP_COUNT_MAX + 10 {
        let neighbor = Ipv6Addr::from_bits(v6("2001:db8::").to_bits() + n as u128);
        builder = builder.neighbor(A, IpAddr::V6(neighbor), mac(1));
    }
    let snapshot = builder.neighbor(A, gateway, mac(2)).build(1);
    assert_eq!(snapshot.hops().len(), HOP_COUNT_MAX);
    assert_eq!(snapshot.hops_left_out(), 11);
    assert_eq!(
        hop_of(&snapshot, snapshot.route6(v6("2001:db9::1"))).destination_mac,
        mac(2)
    );
}

#[test]
fn a_snapshots_number_is_never_zero() {
    assert_eq!(RouteSnapshot::builder().build(0).generation(), 1);
    assert_eq!(RouteSnapshot::default().generation(), 1);
}
