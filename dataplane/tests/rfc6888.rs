//! RFC 6888 (requirements for carrier-grade NATs) and RFC 7422, as far as subscribers, blocks
//! and quotas go.
#![allow(missing_docs)]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use gate64_dataplane::command::{Command, Event, Filter, PoolRow, SubscriberRow};
use gate64_dataplane::config::{
    ClassLimits, DeterministicSet, Nat64Config, Pool4Prefix, Prefix4, Prefix6, RefusalAnswer,
    SubscriberClass, SubscriberLimits,
};
use gate64_dataplane::counters;
use gate64_dataplane::memory::HashKey;
use gate64_dataplane::nat64::plan::{Settings, Shared};
use gate64_dataplane::nat64::pool4::AddressState;
use gate64_dataplane::verdict::{DropReason, Side, WorkerId};
use support::packets::{judged, ping6, tcp6, udp4, udp6};
use support::{Gateway, HOST, OTHER, Outcome, SERVER, embedded};

const SYN: u8 = 2;

/// A pool of `count` blocks of 64 ports on each address from 192.0.2.0 on.
fn config(length: u8, blocks: u16) -> Nat64Config {
    let mut config = support::config();
    config.pool4 = vec![Pool4Prefix {
        address: Ipv4Addr::new(192, 0, 2, 0),
        length,
        ports: 1024..=1023 + blocks * 64,
        ..Pool4Prefix::default()
    }];
    config.subscriber.port_block_size = 64;
    config.icmp_error_rate_max = 1_000_000;
    config
}

fn subscriber(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 7, number, 0, 0, 0, 1)
}

fn open_to(gateway: &mut Gateway, host: Ipv6Addr, port: u16, to: u16) -> Outcome {
    let packet = udp6((host, port), (embedded(SERVER), to), b"x");
    gateway.put(Side::V6, &packet)
}

/// Pool transport address of a new UDP mapping, or the reason of the refusal.
fn open(gateway: &mut Gateway, host: Ipv6Addr, port: u16) -> Option<(Ipv4Addr, u16)> {
    match open_to(gateway, host, port, 9) {
        Outcome::Sent(Side::V4, bytes) => {
            let (src, _, port, ..) = judged(&bytes);
            match src {
                IpAddr::V4(src) => Some((src, port)),
                IpAddr::V6(_) => panic!("not translated"),
            }
        }
        _ => None,
    }
}

fn subscribers(gateway: &mut Gateway) -> Vec<SubscriberRow> {
    let (reply, page) = crossbeam::channel::bounded(1);
    let command = Command::Subscribers {
        filter: Filter::default(),
        cursor: 0,
        limit: 1000,
        reply,
    };
    gateway.nat64.command(command, gateway.now);
    page.try_recv().unwrap().rows
}

fn pool(gateway: &mut Gateway) -> Vec<PoolRow> {
    let (mut rows, mut next) = (Vec::new(), Some(0));
    while let Some(cursor) = next {
        let (reply, page) = crossbeam::channel::bounded(1);
        let command = Command::Pool {
            filter: Filter::default(),
            cursor,
            limit: 1000,
            reply,
        };
        gateway.nat64.command(command, gateway.now);
        let page = page.try_recv().unwrap();
        rows.extend(page.rows);
        next = page.next;
    }
    rows
}

fn block_events(gateway: &mut Gateway) -> (usize, usize) {
    let (mut allocated, mut released) = (0, 0);
    while let Some(event) = gateway.nat64.take_event() {
        match event {
            Event::BlockAllocated(_) => allocated += 1,
            Event::BlockReleased(_) => released += 1,
            _ => {}
        }
    }
    (allocated, released)
}

#[test]
fn req_2_all_protocols_of_a_subscriber_share_one_address() {
    let mut gateway = Gateway::new(config(29, 8));
    let mut addresses = BTreeSet::new();
    for host in 0..4 {
        let host = Ipv6Addr::from(u128::from(HOST) + host);
        for port in 0..40 {
            addresses.extend(open(&mut gateway, host, 3000 + port).map(|mapped| mapped.0));
            let to = (embedded(SERVER), 80);
            let tcp = gateway.v6(&tcp6((host, 3000 + port), to, SYN, b""));
            let ping = gateway.v6(&ping6(host, to.0, 3000 + port, b""));
            for bytes in [tcp, ping] {
                addresses.insert(match judged(&bytes).0 {
                    IpAddr::V4(src) => src,
                    IpAddr::V6(_) => panic!("not translated"),
                });
            }
        }
    }
    assert_eq!(addresses.len(), 1, "{addresses:?}");
    gateway.nat64.check_invariants();
}

#[test]
fn addresses_are_chosen_by_free_blocks() {
    let mut config = config(28, 100);
    config.subscriber.port_blocks_max = 1;
    let mut gateway = Gateway::with_sessions(config, 3000);
    for number in 0..800 {
        open(&mut gateway, subscriber(number), 1).unwrap();
    }
    let used: Vec<u32> = pool(&mut gateway)
        .iter()
        .map(|row| row.blocks_used)
        .collect();
    assert_eq!(used.len(), 16);
    // Fifty each on the average; one random choice alone would spread them by some twenty.
    assert!(used.iter().all(|used| (42..=58).contains(used)), "{used:?}");
}

#[test]
fn req_8_whoever_gets_a_block_can_use_all_of_it() {
    // One block in all: it goes from hand to hand.
    let mut gateway = Gateway::new(config(32, 1));
    for port in 0..64 {
        assert!(open(&mut gateway, HOST, 1000 + port).is_some());
    }
    assert_eq!(open(&mut gateway, OTHER, 1000), None);
    // The sessions end after 300 s, the block goes back after 120 s more; its ports rest up to
    // 240 s.
    gateway.advance(Duration::from_secs(301));
    gateway.advance(Duration::from_secs(125));
    assert_eq!(gateway.count(counters::port_blocks_used(0)), 0);
    assert_eq!(gateway.count(counters::pool_blocks_resting(0)), 1);
    assert_eq!(open(&mut gateway, OTHER, 1000), None, "it rests");
    assert_eq!(gateway.count(counters::subscribers(0)), 0);
    gateway.nat64.check_invariants();
    gateway.advance(Duration::from_secs(120));
    assert_eq!(gateway.count(counters::pool_blocks_resting(0)), 0);
    for port in 0..64 {
        assert!(
            open(&mut gateway, OTHER, 1000 + port).is_some(),
            "port {port}"
        );
    }
    assert_eq!(block_events(&mut gateway), (2, 1));
    gateway.nat64.check_invariants();
}

#[test]
fn req_4_ports_are_limited_by_protocol_and_a_reserve_is_kept() {
    let mut config = config(32, 8);
    config.subscriber.ports_max = [20, u32::MAX, 5];
    config.subscriber.essential_reserve = 4;
    config.essential_ports = vec![53];
    let mut gateway = Gateway::new(config);
    let opened = (0..30).filter(|port| open(&mut gateway, HOST, 1000 + port).is_some());
    assert_eq!(opened.count(), 16);
    let names = (0..30).filter(|port| {
        matches!(
            open_to(&mut gateway, HOST, 2000 + port, 53),
            Outcome::Sent(Side::V4, _)
        )
    });
    assert_eq!(names.count(), 4, "the reserve");
    let refused = gateway.drops(Side::V6, DropReason::SubscriberPorts);
    assert_eq!(refused, 14 + 26);
    let to = (embedded(SERVER), 80);
    for port in 0..30 {
        gateway.v6(&tcp6((HOST, 1000 + port), to, SYN, b""));
    }
    let ping = |gateway: &mut Gateway, id| gateway.put(Side::V6, &ping6(HOST, to.0, id, b""));
    let pings = (0..10).filter(|id| matches!(ping(&mut gateway, *id), Outcome::Sent(Side::V4, _)));
    assert_eq!(pings.count(), 1, "a quota of 5 with 4 in reserve");
    gateway.nat64.check_invariants();
}

#[test]
fn req_11_a_refusal_is_answered_as_configured_and_takes_nothing_away() {
    for (refusal, code) in [
        (RefusalAnswer::AdminProhibited, Some(1)),
        (RefusalAnswer::AddressUnreachable, Some(3)),
        (RefusalAnswer::None, None),
    ] {
        let mut config = config(32, 8);
        config.subscriber.session_count_max = 1;
        config.subscriber.refusal = refusal;
        let mut gateway = Gateway::new(config);
        let (_, mapped) = open(&mut gateway, HOST, 1000).unwrap();
        match (open_to(&mut gateway, HOST, 1001, 9), code) {
            (Outcome::Sent(Side::V6, bytes), Some(code)) => {
                assert_eq!((bytes[40], bytes[41]), (1, code), "destination unreachable");
            }
            (Outcome::Dropped(DropReason::SubscriberSessions), None) => {}
            (other, _) => panic!("{other:?}"),
        }
        let back = (Ipv4Addr::new(192, 0, 2, 0), mapped);
        gateway.v4(&udp4((SERVER, 9), back, b"still here"));
    }
}

#[test]
fn req_6_destinations_go_untranslated_or_not_at_all_by_class() {
    let mut config = config(32, 8);
    let list = |a, length| vec![Prefix4::new(Ipv4Addr::new(198, 51, 100, a), length)];
    config.classes = vec![SubscriberClass {
        name: "near".to_owned(),
        prefixes: vec![Prefix6::new("2001:db8:1::".parse().unwrap(), 48)],
        bypass: list(0, 25),
        deny: list(128, 25),
        ..SubscriberClass::default()
    }];
    let mut gateway = Gateway::new(config);
    let near = embedded(Ipv4Addr::new(198, 51, 100, 7));
    let packet = udp6((HOST, 1000), (near, 9), b"native");
    let bypassed = gateway.put(Side::V6, &packet).sent(Side::V6);
    assert_eq!(bypassed[7], packet[7] - 1, "hop limit");
    assert_eq!(bypassed[8..], packet[8..], "as it was");
    assert_eq!(gateway.count(counters::packets_bypassed(0)), 1);
    let far = embedded(Ipv4Addr::new(198, 51, 100, 200));
    let answer = gateway.put(Side::V6, &udp6((HOST, 1000), (far, 9), b""));
    assert_eq!(
        answer.sent(Side::V6)[40..42],
        [1, 1],
        "administratively prohibited"
    );
    assert_eq!(gateway.drops(Side::V6, DropReason::DestinationDenied), 1);
    // Others are translated to either.
    gateway.v6(&udp6((OTHER, 1000), (near, 9), b""));
    gateway.v6(&udp6((OTHER, 1000), (far, 9), b""));
    assert_eq!(gateway.count(counters::subscribers(0)), 1);
}

#[test]
fn classes_have_limits_and_pools_of_their_own() {
    let mut config = config(32, 8);
    config.pool_names.push("business".to_owned());
    config.pool4.push(Pool4Prefix {
        address: Ipv4Addr::new(203, 0, 113, 0),
        length: 31,
        ports: 1024..=1535,
        pool: 1,
        ..Pool4Prefix::default()
    });
    config.classes = vec![SubscriberClass {
        name: "business".to_owned(),
        prefixes: vec![Prefix6::new("2001:db8:2::".parse().unwrap(), 48)],
        pool: 1,
        limits: ClassLimits {
            session_count_max: 3,
            ..SubscriberLimits::default().limits()
        },
        ..SubscriberClass::default()
    }];
    let mut gateway = Gateway::new(config);
    for port in 0..5 {
        let other = open(&mut gateway, OTHER, 1000 + port);
        assert_eq!(other.is_some(), port < 3);
        assert!(other.is_none_or(|(ip, _)| ip.octets()[0] == 203));
        let host = open(&mut gateway, HOST, 1000 + port).unwrap();
        assert_eq!(host.0, Ipv4Addr::new(192, 0, 2, 0));
    }
    assert_eq!(gateway.count(counters::pool_blocks_used(0)), 1);
    assert_eq!(gateway.count(counters::pool_blocks_used(1)), 1);
    assert_eq!(gateway.count(counters::pool_blocks_total(1)), 16);
    let rows = subscribers(&mut gateway);
    let class_of = |host: Ipv6Addr| {
        let of = |row: &&SubscriberRow| row.prefix.segments()[..4] == host.segments()[..4];
        rows.iter().find(of).unwrap().class
    };
    assert_eq!((class_of(HOST), class_of(OTHER)), (0, 1));
    gateway.nat64.check_invariants();
}

#[test]
fn a_listing_shows_the_class_that_a_reload_has_made() {
    let settings = Settings {
        key: HashKey::seeded(1),
        seed: 1,
        ..Settings::new(1, 100)
    };
    let shared = Shared::new(Arc::new(config(32, 8)), settings);
    let mut gateway = Gateway::of_worker(&shared, WorkerId(0));
    open(&mut gateway, HOST, 1000).unwrap();
    assert_eq!(subscribers(&mut gateway)[0].class, 0);
    let classes = vec![SubscriberClass {
        name: "new".to_owned(),
        prefixes: vec![Prefix6::new("2001:db8:1::".parse().unwrap(), 48)],
        ..SubscriberClass::default()
    }];
    let command = Command::Reconfigure {
        config: Arc::new(Nat64Config {
            classes,
            ..config(32, 8)
        }),
        pool: Arc::clone(&shared.pool),
    };
    gateway.nat64.command(command, gateway.now);
    assert_eq!(
        subscribers(&mut gateway)[0].class,
        1,
        "before its next packet"
    );
}

#[test]
fn blocks_rotate_after_their_active_time_and_serve_on_when_there_is_no_other() {
    let mut config = config(32, 3);
    config.subscriber.block_active = Some(Duration::from_secs(60));
    config.subscriber.port_blocks_max = 2;
    let mut gateway = Gateway::new(config);
    let block = |mapped: Option<(Ipv4Addr, u16)>| mapped.unwrap().1 / 64;
    let first = block(open(&mut gateway, HOST, 1000));
    assert_eq!(block(open(&mut gateway, HOST, 1001)), first);
    gateway.advance(Duration::from_secs(61));
    let second = block(open(&mut gateway, HOST, 1002));
    assert_ne!(second, first);
    gateway.advance(Duration::from_secs(61));
    // Both are old, and a third is not allowed.
    let third = block(open(&mut gateway, HOST, 1003));
    assert!(third == first || third == second);
    gateway.nat64.check_invariants();
}

fn deterministic(overflow: bool) -> Nat64Config {
    let mut config = config(30, 8);
    config.deterministic = vec![DeterministicSet {
        subscribers: vec![Prefix6::new("2001:db8:7::".parse().unwrap(), 60)],
        pool: 0,
        blocks_per_subscriber: 1,
        overflow,
    }];
    config
}

#[test]
fn rfc_7422_ports_are_those_that_the_configuration_says() {
    for workers in [1, 3] {
        let settings = Settings {
            key: HashKey::seeded(5),
            seed: 5,
            ..Settings::new(workers, 4000)
        };
        let shared = Shared::new(Arc::new(deterministic(true)), settings);
        let mut gateways: Vec<Gateway> = (0..workers)
            .map(|worker| Gateway::of_worker(&shared, WorkerId(worker)))
            .collect();
        let sets = shared.pool.deterministic();
        for number in 0..16 {
            let host = subscriber(number);
            let owner = shared.ownership.of_v6(host);
            let gateway = &mut gateways[usize::from(owner.0)];
            let said = sets.forward(&shared.pool, host).unwrap();
            for port in 0..64 {
                let (ip, mapped) = open(gateway, host, 1000 + port).unwrap();
                assert_eq!(ip, said.v4);
                assert!((said.port_first..=said.port_last).contains(&mapped));
                assert_eq!(sets.reverse(&shared.pool, ip, mapped), Some(said));
                let to = gate64_wire::addr::Protocol::Udp;
                let back = shared.ownership.of_v4(&shared.pool, ip, mapped, to);
                assert_eq!(back, owner, "both directions have one owner");
            }
            assert_eq!(block_events(gateway), (0, 0), "nothing to log");
            // One more lies in an overflow block of the same address, and is logged.
            if workers == 1 {
                let (ip, mapped) = open(gateway, host, 2000).unwrap();
                assert_eq!(ip, said.v4);
                assert_eq!(sets.reverse(&shared.pool, ip, mapped), None);
                assert_eq!(block_events(gateway), (1, 0));
            }
            gateway.nat64.check_invariants();
        }
        for gateway in &mut gateways {
            gateway.advance(Duration::from_secs(301));
            gateway.advance(Duration::from_secs(300));
            assert_eq!(gateway.count(counters::subscribers(0)), 0);
            assert_eq!(gateway.count(counters::port_blocks_used(0)), 0);
            gateway.nat64.check_invariants();
        }
    }
}

#[test]
fn rfc_7422_calculated_ports_come_before_those_of_overflow_blocks() {
    let mut config = deterministic(true);
    config.deterministic[0].blocks_per_subscriber = 2;
    config.pool4[0].ports = 1024..=2559;
    let shared = Shared::new(Arc::new(config.clone()), Settings::new(1, 1));
    let host = subscriber(3);
    let said = shared
        .pool
        .deterministic()
        .forward(&shared.pool, host)
        .unwrap();
    let is_calculated = |mapped: u16| (said.port_first..=said.port_last).contains(&mapped);
    let mut gateway = Gateway::new(config);
    for port in 0..128 {
        assert!(is_calculated(
            open(&mut gateway, host, 1000 + port).unwrap().1
        ));
    }
    assert!(!is_calculated(open(&mut gateway, host, 2000).unwrap().1));
    // The calculated ones are free again and have rested; the overflow block is held still.
    for _ in 0..4 {
        gateway.advance(Duration::from_secs(200));
        assert!(!is_calculated(open(&mut gateway, host, 2000).unwrap().1));
    }
    for port in 0..128 {
        assert!(is_calculated(
            open(&mut gateway, host, 3000 + port).unwrap().1
        ));
    }
    assert!(!is_calculated(open(&mut gateway, host, 4000).unwrap().1));
    assert_eq!(block_events(&mut gateway), (1, 0));
    gateway.nat64.check_invariants();
}

#[test]
fn rfc_7422_without_overflow_the_share_is_all_there_is() {
    let mut gateway = Gateway::new(deterministic(false));
    let opened = (0..70).filter(|port| open(&mut gateway, subscriber(3), 1000 + port).is_some());
    assert_eq!(opened.count(), 64);
    assert_eq!(gateway.drops(Side::V6, DropReason::SubscriberPorts), 6);
    assert_eq!(open(&mut gateway, subscriber(16), 1), None, "in no set");
}

#[test]
fn draining_addresses_give_no_new_blocks() {
    let mut config = config(31, 4);
    config.pool4[0].drain = vec![Ipv4Addr::new(192, 0, 2, 1)];
    let mut gateway = Gateway::new(config);
    for number in 0..4 {
        let (ip, _) = open(&mut gateway, subscriber(number), 1).unwrap();
        assert_eq!(ip, Ipv4Addr::new(192, 0, 2, 0));
    }
    assert_eq!(open(&mut gateway, subscriber(4), 1), None);
    assert_eq!(gateway.drops(Side::V6, DropReason::PoolExhausted), 1);
    let rows = pool(&mut gateway);
    assert_eq!(rows[0].state, AddressState::Open);
}
