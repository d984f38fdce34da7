//! Blocks by themselves: what they give out, and when.

use super::*;
use crate::config::{Nat64Config, Pool4Prefix, SubscriberLimits};
use crate::memory::arena::Pages;

fn blocks(block_size: u16, ports: std::ops::RangeInclusive<u16>) -> Blocks {
    let config = Nat64Config {
        pool4: vec![Pool4Prefix {
            address: [192, 0, 2, 0].into(),
            length: 31,
            ports,
            ..Pool4Prefix::default()
        }],
        subscriber: SubscriberLimits {
            port_block_size: block_size,
            ..SubscriberLimits::default()
        },
        ..Nat64Config::default()
    };
    let pool = Arc::new(PoolMap::new(&config, 1));
    let ownership = Ownership::new(&config, 1, HashKey::seeded(1));
    let mut arena = Arena::reserve(Blocks::bytes(&pool), Pages::Ordinary).unwrap();
    let secret = HashKey::seeded(1);
    Blocks::new(&mut arena, pool, &ownership, WorkerId(0), 480, secret).unwrap()
}

#[test]
fn every_port_once_then_none_and_freed_ports_rest() {
    let mut blocks = blocks(64, 1001..=1128);
    let slot = blocks.choose_address(0).unwrap();
    let block = blocks.take(slot, 1, Tick(0)).unwrap();
    let mut ports = std::collections::BTreeSet::new();
    for _ in 0..64 {
        assert!(ports.insert(blocks.allocate(block, Protocol::Udp, 0, Tick(0)).unwrap()));
    }
    assert_eq!(blocks.allocate(block, Protocol::Udp, 0, Tick(0)), None);
    assert!(blocks.allocate(block, Protocol::Tcp, 0, Tick(0)).is_some());
    let port = *ports.first().unwrap();
    assert!(!blocks.free(block, Protocol::Udp, port, Tick(1)));
    // RFC 6888 REQ-8: not within the reuse delay, surely after two of them.
    assert_eq!(blocks.allocate(block, Protocol::Udp, 0, Tick(480)), None);
    assert_eq!(
        blocks.allocate(block, Protocol::Udp, 0, Tick(960)),
        Some(port)
    );
}

/// RFC 6888 REQ-15, also where the ports are few: 16 blocks, each the first one now and then.
#[test]
fn the_first_block_of_a_short_range_is_not_always_the_lowest() {
    let mut blocks = blocks(64, 1024..=2047);
    let mut first = std::collections::BTreeSet::new();
    for round in 0..400 {
        let block = blocks.take(0, 1, Tick(round)).unwrap();
        first.insert(block);
        assert_eq!(blocks.give_back(block, Tick(round)), None);
    }
    assert_eq!(first.len(), 16);
}

#[test]
fn rfc4787_req_4_parity_where_free_never_a_failure_for_it() {
    for range in [1024..=1151, 1025..=1152] {
        let mut blocks = blocks(64, range);
        let block = blocks.take(0, 1, Tick(0)).unwrap();
        for _ in 0..32 {
            assert_eq!(
                blocks.allocate(block, Protocol::Udp, 1, Tick(0)).unwrap() % 2,
                1
            );
        }
        assert_eq!(
            blocks.allocate(block, Protocol::Udp, 1, Tick(0)).unwrap() % 2,
            0
        );
    }
}

#[test]
fn blocks_go_out_once_and_come_back() {
    let mut blocks = blocks(64, 1024..=65535);
    let mut taken = std::collections::BTreeSet::new();
    while let Some(slot) = blocks.choose_address(0) {
        assert!(taken.insert(blocks.take(slot, 1, Tick(0)).unwrap()));
    }
    assert_eq!(taken.len(), 2 * 1008);
    assert_eq!((blocks.held(), blocks.owned()), (2016, 2016));
    let one = *taken.first().unwrap();
    assert_eq!(blocks.give_back(one, Tick(0)), None);
    let slot = blocks.choose_address(0).unwrap();
    assert_eq!(blocks.take(slot, 2, Tick(0)), Some(one));
}
#[test]
fn rfc_6888_req_8_a_block_is_given_out_only_when_all_its_ports_have_rested() {
    let mut blocks = blocks(64, 1024..=1087);
    let block = blocks.take(0, 1, Tick(0)).unwrap();
    for at in 0..64 {
        let port = blocks.allocate(block, Protocol::Tcp, 0, Tick(470)).unwrap();
        blocks.free(block, Protocol::Tcp, port, Tick(470 + at % 2));
    }
    let until = blocks.give_back(block, Tick(475)).unwrap();
    assert_eq!(
        until,
        Tick(960),
        "freed in the first period, at rest through the second"
    );
    assert_eq!(blocks.take(0, 2, Tick(480)), None);
    assert_eq!((blocks.held(), blocks.counts(0).resting), (0, 1));
    assert_eq!(blocks.rested(block, Tick(959)), Some(Tick(960)));
    assert_eq!(blocks.rested(block, Tick(960)), None);
    assert_eq!(blocks.counts(0).resting, 0);
    let block = blocks.take(0, 2, Tick(960)).unwrap();
    let ports = (0..64).map_while(|_| blocks.allocate(block, Protocol::Tcp, 0, Tick(960)));
    assert_eq!(ports.count(), 64);
}

#[test]
fn excluded_and_reserved_ports_are_never_given_out() {
    let mut blocks = blocks(64, 1024..=1151);
    let config = Nat64Config {
        pool4: vec![Pool4Prefix {
            address: [192, 0, 2, 0].into(),
            length: 31,
            ports: 1024..=1151,
            exclude_ports: vec![1030..=1033],
            ..Pool4Prefix::default()
        }],
        subscriber: SubscriberLimits {
            port_block_size: 64,
            ..SubscriberLimits::default()
        },
        ..Nat64Config::default()
    };
    let ownership = Ownership::new(&config, 1, HashKey::seeded(1));
    let pool = blocks.pool.changed(&config, 1, &|_| false).unwrap();
    blocks.adopt(Arc::new(pool), &ownership);
    let block = blocks.pool.block([192, 0, 2, 0].into(), 1024).unwrap();
    blocks.reserve(block, Protocol::Udp, 1040);
    while blocks.take(0, 1, Tick(0)).is_some() {}
    let mut udp = std::collections::BTreeSet::new();
    while let Some(port) = blocks.allocate(block, Protocol::Udp, 0, Tick(0)) {
        udp.insert(port);
    }
    assert_eq!(udp.len(), 64 - 4 - 1);
    assert!(
        ![1030, 1031, 1032, 1033, 1040]
            .iter()
            .any(|port| udp.contains(port))
    );
}

/// It was removed, and comes back as another worker's before its ports have rested.
#[test]
fn a_resting_block_that_is_another_workers_now_is_forgotten() {
    let prefix = |last, pool| Pool4Prefix {
        address: [192, 0, 2, last].into(),
        length: 32,
        ports: 1024..=2047,
        pool,
        ..Pool4Prefix::default()
    };
    let config = |prefixes: &[(u8, u8)]| {
        let mut config = Nat64Config {
            pool4: prefixes
                .iter()
                .map(|&(last, pool)| prefix(last, pool))
                .collect(),
            pool_names: vec!["narrow".to_owned(), "wide".to_owned()],
            ..Nat64Config::default()
        };
        config.subscriber.port_block_size = 64;
        config
    };
    let wide = [2, 3, 4, 5, 6, 7, 8, 9].map(|last| (last, 1));
    let before = config(&[&wide[..], &[(1, 0)]].concat());
    let pool = Arc::new(PoolMap::new(&before, 2));
    let ownership = Ownership::new(&before, 2, HashKey::seeded(1));
    let mut arena = Arena::reserve(Blocks::bytes(&pool), Pages::Ordinary).unwrap();
    let (worker, secret) = (WorkerId(1), HashKey::seeded(1));
    let mut blocks = Blocks::new(
        &mut arena,
        Arc::clone(&pool),
        &ownership,
        worker,
        480,
        secret,
    )
    .unwrap();
    let slot = pool.slot([192, 0, 2, 1].into()).unwrap();
    let block = blocks.take(slot, 1, Tick(0)).unwrap();
    let port = blocks.allocate(block, Protocol::Udp, 0, Tick(0)).unwrap();
    blocks.free(block, Protocol::Udp, port, Tick(0));
    let until = blocks.give_back(block, Tick(0)).expect("it rests");
    let closed = pool.changed(&config(&wide), 2, &|_| false).unwrap();
    blocks.adopt(Arc::new(closed.clone()), &ownership);
    let moved = config(&[&wide[..], &[(1, 1)]].concat());
    let moved = closed.changed(&moved, 2, &|_| true).unwrap();
    assert_eq!(ownership.of_block(&moved, block), WorkerId(0));
    blocks.adopt(Arc::new(moved), &ownership);
    assert!(!blocks.is_resting(block));
    assert_eq!(blocks.rested(block, until), None);
    assert_eq!((blocks.free_of(slot), blocks.counts(1).resting), (0, 0));
}
