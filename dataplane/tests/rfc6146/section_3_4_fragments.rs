//! Section 3.4: fragments are translated one by one, in whatever order they come.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use gate64_dataplane::counters;
use gate64_dataplane::route::RouteSnapshot;
use gate64_dataplane::verdict::{DropReason, Side};

use crate::support::fragments::{ORDERS, cut_v4, cut_v6, gather_v4, gather_v6};
use crate::support::packets::{judged, ping6, pong4, udp4, udp6};
use crate::support::{Gateway, HOST, OTHER, Outcome, POOL, SERVER, config, embedded, routes};

const PAYLOAD: [u8; 100] = [0x5a; 100];

/// Puts parts through in this order; what left on `to`, whenever it left.
fn through(gateway: &mut Gateway, from: Side, to: Side, parts: &[&Vec<u8>]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for part in parts {
        match gateway.put(from, part) {
            Outcome::Sent(side, bytes) => {
                assert_eq!(side, to);
                out.push(bytes);
            }
            Outcome::Held => {}
            other => panic!("{other:?}"),
        }
        out.extend(gateway.outgoing().into_iter().map(|one| one.sent(to)));
        gateway.nat64.check_invariants();
    }
    out
}

#[test]
fn udp_from_ipv6_in_every_order() {
    let mut gateway = Gateway::new(config());
    let whole = udp6((HOST, 5000), (embedded(SERVER), 53), &PAYLOAD);
    for (id, order) in (1..).zip(ORDERS) {
        let parts = cut_v6(&whole, id, &[40, 80]);
        let out = through(&mut gateway, Side::V6, Side::V4, &order.map(|n| &parts[n]));
        let (src, dst, _, _, payload) = judged(&gather_v4(&out));
        assert_eq!((src, dst), (IpAddr::V4(POOL), IpAddr::V4(SERVER)));
        assert_eq!(payload, PAYLOAD);
    }
    assert_eq!(gateway.count(counters::fragments_received(0)), 18);
    assert_eq!(gateway.count(counters::fragments_held(0)), 0);
}

/// The next hop that the first fragment went to may be another's number when the others come.
#[test]
fn fragments_go_by_the_routes_of_now() {
    let mut gateway = Gateway::new(config());
    let whole = udp6((HOST, 5000), (embedded(SERVER), 53), &PAYLOAD);
    let parts = cut_v6(&whole, 1, &[40, 80]);
    let sent = gateway.v6(&parts[0]);
    let port = u16::from_be_bytes([sent[20], sent[21]]);
    let answer = udp4((SERVER, 53), (POOL, port), &PAYLOAD);
    let back = cut_v4(&answer, 2, &[40, 80]);
    gateway.v4(&back[0]);
    gateway.routes = RouteSnapshot::builder().build(2);
    for (side, part) in [(Side::V6, &parts[1]), (Side::V4, &back[1])] {
        let outcome = gateway.put(side, part);
        assert!(
            !matches!(outcome, Outcome::Sent(to, _) if to != side),
            "{outcome:?}"
        );
        assert_eq!(gateway.drops(side, DropReason::NoRoute), 1);
    }
    gateway.routes = routes(1500, 1500);
    assert_eq!(gateway.v6(&parts[2])[9], 17);
    assert_eq!(gateway.v4(&back[2])[0] >> 4, 6);
}

#[test]
fn udp_from_ipv4_in_every_order_with_and_without_checksum() {
    let mut gateway = Gateway::new(config());
    let open = udp6((HOST, 5000), (embedded(SERVER), 53), b"open");
    let port = judged(&gateway.v6(&open)).2;
    for has_checksum in [true, false] {
        for (id, order) in (if has_checksum { 1 } else { 100 }..).zip(ORDERS) {
            let mut whole = udp4((SERVER, 53), (POOL, port), &PAYLOAD);
            if !has_checksum {
                whole[26..28].fill(0);
            }
            let parts = cut_v4(&whole, id, &[40, 80]);
            let out = through(&mut gateway, Side::V4, Side::V6, &order.map(|n| &parts[n]));
            let (src, dst, _, dst_port, payload) = judged(&gather_v6(&out));
            assert_eq!((src, dst), (IpAddr::V6(embedded(SERVER)), IpAddr::V6(HOST)));
            assert_eq!((dst_port, payload.as_slice()), (5000, &PAYLOAD[..]));
        }
    }
    assert_eq!(gateway.count(counters::fragments_received(1)), 36);
}

/// A stateful translator gathers an echo's fragments: the ICMPv6 checksum covers the length of all.
#[test]
fn icmp_echo_in_every_order_both_ways() {
    let mut gateway = Gateway::new(config());
    let request = ping6(HOST, embedded(SERVER), 77, &PAYLOAD);
    let mut mapped = 0;
    for (id, order) in (1..).zip(ORDERS) {
        let parts = cut_v6(&request, id, &[40, 80]);
        let out = through(&mut gateway, Side::V6, Side::V4, &order.map(|n| &parts[n]));
        let (src, dst, mapped_id, _, payload) = judged(&gather_v4(&out));
        assert_eq!((src, dst), (IpAddr::V4(POOL), IpAddr::V4(SERVER)));
        assert_eq!(payload, PAYLOAD);
        mapped = mapped_id;
    }
    let reply = pong4(SERVER, POOL, mapped, &PAYLOAD);
    for (id, order) in (1..).zip(ORDERS) {
        let parts = cut_v4(&reply, id, &[40, 80]);
        let out = through(&mut gateway, Side::V4, Side::V6, &order.map(|n| &parts[n]));
        let (src, dst, id, _, payload) = judged(&gather_v6(&out));
        assert_eq!((src, dst), (IpAddr::V6(embedded(SERVER)), IpAddr::V6(HOST)));
        assert_eq!((id, payload.as_slice()), (77, &PAYLOAD[..]));
    }
    assert_eq!(gateway.count(counters::fragments_held(0)), 0);
}

#[test]
fn two_packets_interleaved_do_not_mix() {
    let mut gateway = Gateway::new(config());
    let one = udp6((HOST, 5000), (embedded(SERVER), 53), &[1; 100]);
    let two = udp6((HOST, 5002), (embedded(SERVER), 53), &[2; 100]);
    let (one, two) = (cut_v6(&one, 1, &[40]), cut_v6(&two, 2, &[40]));
    let order = [&one[1], &two[0], &one[0], &two[1]];
    let out = through(&mut gateway, Side::V6, Side::V4, &order);
    let ids: std::collections::BTreeSet<_> = out.iter().map(|part| part[4..6].to_vec()).collect();
    assert_eq!(ids.len(), 2);
    for id in ids {
        let mine: Vec<_> = out
            .iter()
            .filter(|part| part[4..6] == id)
            .cloned()
            .collect();
        let payload = judged(&gather_v4(&mine)).4;
        assert!(payload == [1; 100] || payload == [2; 100]);
    }
}

#[test]
fn hairpinned_fragments_in_every_order() {
    let mut gateway = Gateway::new(config());
    let open = udp6((OTHER, 6000), (embedded(SERVER), 1), b"open");
    let target = judged(&gateway.v6(&open)).2;
    let whole = udp6((HOST, 5000), (embedded(POOL), target), &PAYLOAD);
    for (id, order) in (1..).zip(ORDERS) {
        let parts = cut_v6(&whole, id, &[40, 80]);
        let out = through(&mut gateway, Side::V6, Side::V6, &order.map(|n| &parts[n]));
        let (src, dst, _, dst_port, payload) = judged(&gather_v6(&out));
        assert_eq!((src, dst), (IpAddr::V6(embedded(POOL)), IpAddr::V6(OTHER)));
        assert_eq!((dst_port, payload.as_slice()), (6000, &PAYLOAD[..]));
    }
}

#[test]
fn duplicates_are_dropped_and_do_no_harm() {
    let mut gateway = Gateway::new(config());
    let whole = udp6((HOST, 5000), (embedded(SERVER), 53), &PAYLOAD);
    let parts = cut_v6(&whole, 1, &[40]);
    gateway.v6(&parts[0]);
    let again = gateway.put(Side::V6, &parts[0]);
    assert_eq!(again, Outcome::Dropped(DropReason::FragmentDuplicate));
    gateway.v6(&parts[1]);
    assert_eq!(gateway.drops(Side::V6, DropReason::FragmentDuplicate), 1);
}

#[test]
fn rfc5722_an_overlap_condemns_the_packet() {
    let mut gateway = Gateway::new(config());
    let whole = udp6((HOST, 5000), (embedded(SERVER), 53), &PAYLOAD);
    let wide = cut_v6(&whole, 1, &[48]);
    let narrow = cut_v6(&whole, 1, &[40]);
    gateway.v6(&wide[0]);
    for _ in 0..2 {
        let refused = gateway.put(Side::V6, &narrow[1]);
        assert_eq!(refused, Outcome::Dropped(DropReason::FragmentOverlap));
    }
    let refused = gateway.put(Side::V6, &wide[1]);
    assert_eq!(refused, Outcome::Dropped(DropReason::FragmentOverlap));
}

#[test]
fn a_later_fragment_waits_two_seconds_for_the_first() {
    let mut gateway = Gateway::new(config());
    let whole = udp6((HOST, 5000), (embedded(SERVER), 53), &PAYLOAD);
    let parts = cut_v6(&whole, 1, &[40]);
    assert_eq!(gateway.put(Side::V6, &parts[1]), Outcome::Held);
    gateway.advance(Duration::from_millis(1999));
    assert_eq!(gateway.count(counters::fragments_held(0)), 1);
    gateway.advance(Duration::from_millis(2));
    assert_eq!(gateway.count(counters::fragments_held(0)), 0);
    assert_eq!(gateway.drops(Side::V6, DropReason::FragmentUnmatched), 1);
    gateway.v6(&parts[0]);
    assert_eq!(gateway.outgoing(), []);
}

#[test]
fn one_source_cannot_fill_the_store() {
    let mut gateway = Gateway::new(config());
    let later = |host, id| {
        let whole = udp6((host, 5000), (embedded(SERVER), 53), &PAYLOAD);
        cut_v6(&whole, id, &[40]).remove(1)
    };
    for id in 0..192 {
        // A subscriber has many addresses.
        let host = Ipv6Addr::from(u128::from(HOST) + u128::from(id % 16));
        assert_eq!(gateway.put(Side::V6, &later(host, id)), Outcome::Held);
    }
    let refused = gateway.put(Side::V6, &later(HOST, 192));
    assert_eq!(refused, Outcome::Dropped(DropReason::FragmentsFull));
    assert_eq!(gateway.put(Side::V6, &later(OTHER, 1)), Outcome::Held);
    assert_eq!(gateway.drops(Side::V6, DropReason::FragmentsFull), 1);
    gateway.nat64.check_invariants();
}

#[test]
fn packets_that_are_through_make_room() {
    let mut gateway = Gateway::new(config());
    let whole = udp6((HOST, 5000), (embedded(SERVER), 53), &PAYLOAD);
    // More of one source than are followed at once, all within a moment.
    for id in 0..2000 {
        let parts = cut_v6(&whole, id, &[40, 80]);
        assert_eq!(gateway.put(Side::V6, &parts[2]), Outcome::Held);
        gateway.v6(&parts[0]);
        assert_eq!(gateway.outgoing().len(), 1);
        gateway.v6(&parts[1]);
    }
    assert_eq!(gateway.count(counters::fragments_held(0)), 0);
    gateway.nat64.check_invariants();
}

#[test]
fn packets_of_one_source_that_do_not_complete_leave_room_for_others() {
    let mut gateway = Gateway::new(config());
    let first = |host, id| {
        let whole = udp6((host, 5000), (embedded(SERVER), 53), &PAYLOAD);
        cut_v6(&whole, id, &[40]).remove(0)
    };
    for id in 0..1024 {
        gateway.v6(&first(HOST, id));
    }
    let refused = gateway.put(Side::V6, &first(HOST, 1024));
    assert_eq!(refused, Outcome::Dropped(DropReason::FragmentsFull));
    gateway.v6(&first(OTHER, 1));
    gateway.advance(Duration::from_millis(2001));
    gateway.v6(&first(HOST, 1024));
    gateway.nat64.check_invariants();
}
