//! Pool maps: numbers that stay, and changes that are refused.

use super::*;
use crate::config::{Pool4Prefix, SubscriberLimits};

fn config(prefixes: Vec<Pool4Prefix>) -> Nat64Config {
    Nat64Config {
        pool4: prefixes,
        subscriber: SubscriberLimits {
            port_block_size: 512,
            ..SubscriberLimits::default()
        },
        ..Nat64Config::default()
    }
}

fn prefix(address: [u8; 4], length: u8, exclude: &[[u8; 4]]) -> Pool4Prefix {
    Pool4Prefix {
        address: address.into(),
        length,
        exclude: exclude.iter().map(|&ip| ip.into()).collect(),
        ..Pool4Prefix::default()
    }
}

fn check_numbers(map: &PoolMap) {
    for slot in 0..map.slot_count() {
        let Some(ip) = map.address(slot) else {
            continue;
        };
        assert_eq!(map.slot(ip), Some(slot));
        for block in map.blocks_of(slot) {
            let (address, at, port) = map.block_start(block).unwrap();
            assert_eq!((address, at), (ip, slot));
            assert_eq!(map.block(ip, port), Some(block));
            assert_eq!(map.block(ip, port + 511), Some(block));
        }
    }
}

#[test]
fn numbers_go_there_and_back() {
    let map = PoolMap::new(
        &config(vec![
            prefix([203, 0, 113, 0], 29, &[[203, 0, 113, 0], [203, 0, 113, 4]]),
            prefix([192, 0, 2, 9], 32, &[]),
        ]),
        1,
    );
    assert_eq!(map.slot_count(), 7);
    assert_eq!(map.block_count(), 7 * 126);
    check_numbers(&map);
    assert_eq!(map.slot([203, 0, 113, 4].into()), None);
    assert_eq!(map.slot([192, 0, 2, 8].into()), None);
    assert_eq!(map.block([192, 0, 2, 9].into(), 1023), None);
    assert_eq!(map.block_start(0), None);
    assert_eq!(map.block_start(map.block_number_max() + 1), None);
}

#[test]
fn what_stays_keeps_its_numbers_when_addresses_come_and_go() {
    let before = PoolMap::new(&config(vec![prefix([203, 0, 113, 0], 30, &[])]), 1);
    let stays: Ipv4Addr = [203, 0, 113, 2].into();
    let goes: Ipv4Addr = [203, 0, 113, 1].into();
    let new = config(vec![
        prefix([203, 0, 113, 0], 30, &[[203, 0, 113, 1]]),
        prefix([192, 0, 2, 0], 31, &[]),
    ]);
    let after = before.changed(&new, 1, &|_| false).unwrap();
    assert_eq!(after.slot(stays), before.slot(stays));
    assert_eq!(after.block(stays, 5000), before.block(stays, 5000));
    assert_eq!(after.state(after.slot(goes).unwrap()), AddressState::Closed);
    assert!(after.open_blocks_of(after.slot(goes).unwrap()).is_empty());
    assert_eq!(after.block(goes, 5000), before.block(goes, 5000));
    assert_eq!(after.block_count(), 5 * 126);
    check_numbers(&after);
    // Nothing is left on it: its place goes to another address.
    let more = config(vec![
        prefix([203, 0, 113, 0], 30, &[[203, 0, 113, 1]]),
        prefix([192, 0, 2, 0], 29, &[]),
    ]);
    let last = after.changed(&more, 1, &|ip| ip == goes).unwrap();
    assert_eq!(last.slot(goes), None);
    assert_eq!(last.block_count(), 11 * 126);
    check_numbers(&last);
    let too_many = config(vec![prefix([192, 0, 2, 0], 28, &[])]);
    let error = last.changed(&too_many, 1, &|_| false).unwrap_err();
    assert!(matches!(
        error,
        PoolChangeError::Capacity { capacity: 12, .. }
    ));
}

#[test]
fn ports_grow_and_shrink_by_whole_blocks() {
    let with = |ports| {
        config(vec![Pool4Prefix {
            ports,
            ..prefix([192, 0, 2, 1], 32, &[])
        }])
    };
    let before = PoolMap::new(&with(2048..=4095), 1);
    let ip: Ipv4Addr = [192, 0, 2, 1].into();
    let grown = before.changed(&with(1024..=5119), 1, &|_| false).unwrap();
    assert_eq!(grown.block(ip, 2048), before.block(ip, 2048));
    assert_eq!(grown.block_count(), 8);
    let shrunk = before.changed(&with(3072..=4095), 1, &|_| false).unwrap();
    assert_eq!(shrunk.block_count(), 2);
    let gone = shrunk.block(ip, 2048).unwrap();
    assert!(!shrunk.is_open(gone) && shrunk.is_open(gone + 2));
    let error = before
        .changed(&with(2049..=4095), 1, &|_| false)
        .unwrap_err();
    assert!(matches!(
        error,
        PoolChangeError::Phase {
            from: 2048,
            to: 2049,
            ..
        }
    ));
}

/// Of an address that is closed and empty nothing is left that blocks of another phase would meet.
#[test]
fn blocks_of_an_address_that_was_gone_may_begin_elsewhere() {
    let with = |ports, exclude: &[[u8; 4]]| {
        config(vec![Pool4Prefix {
            ports,
            ..prefix([192, 0, 2, 0], 31, exclude)
        }])
    };
    let before = PoolMap::new(&with(2048..=4095, &[]), 1);
    let gone = [[192, 0, 2, 0], [192, 0, 2, 1]];
    let closed = before
        .changed(&with(2048..=4095, &gone), 1, &|_| false)
        .unwrap();
    let moved = with(2049..=4096, &[]);
    let error = closed.changed(&moved, 1, &|_| false).unwrap_err();
    assert!(matches!(error, PoolChangeError::Phase { .. }));
    let map = closed.changed(&moved, 1, &|_| true).unwrap();
    assert_eq!((map.block_count(), map.slot_count()), (8, 10));
    for ip in gone.map(Ipv4Addr::from) {
        let slot = map.slot(ip).unwrap();
        assert!(!map.has_same_blocks(&closed, slot));
        let first = map.block(ip, 2049).unwrap();
        assert_eq!(map.block_start(first), Some((ip, slot, 2049)));
    }
}

#[test]
fn drained_addresses_and_excluded_ports_are_not_given_out() {
    let map = PoolMap::new(
        &config(vec![Pool4Prefix {
            drain: vec![[192, 0, 2, 1].into()],
            exclude_ports: vec![5060..=5061, 5119..=5130],
            ..prefix([192, 0, 2, 0], 30, &[])
        }]),
        1,
    );
    let slot = map.slot([192, 0, 2, 1].into()).unwrap();
    assert_eq!(map.state(slot), AddressState::Draining);
    assert_eq!(map.block_count(), 3 * 126);
    let block = map.block([192, 0, 2, 0].into(), 5060).unwrap();
    let excluded: Vec<u16> = map.excluded_in(block).collect();
    assert_eq!(excluded, [5060 - 4608, 5061 - 4608, 5119 - 4608]);
    assert_eq!(map.excluded_in(block + 1).count(), 11);
    assert_eq!(map.excluded_in(block + 2).count(), 0);
}

fn named(names: &[&str], prefixes: Vec<(Pool4Prefix, u8)>) -> Nat64Config {
    let of_pool = |(prefix, pool)| Pool4Prefix { pool, ..prefix };
    Nat64Config {
        pool_names: names.iter().map(|&name| name.to_owned()).collect(),
        ..config(prefixes.into_iter().map(of_pool).collect())
    }
}

/// Whose a block is depends on how its pool is divided.
#[test]
fn an_address_does_not_move_to_a_pool_that_is_divided_otherwise_unless_it_is_empty() {
    let names = ["wide", "narrow"];
    let moved: Ipv4Addr = [192, 0, 2, 1].into();
    let wide = |exclude: &[[u8; 4]]| (prefix([203, 0, 113, 0], 29, exclude), 0);
    let narrow = (prefix([192, 0, 2, 0], 32, &[]), 1);
    let one = || prefix([192, 0, 2, 1], 32, &[]);
    let before = named(&names, vec![wide(&[]), narrow.clone(), (one(), 1)]);
    let after = named(&names, vec![wide(&[]), narrow.clone(), (one(), 0)]);
    let without = named(&names, vec![wide(&[]), narrow]);
    let map = PoolMap::new(&before, 2);
    assert!(map.is_by_address(0) && !map.is_by_address(8));
    let error = map.changed(&after, 2, &|_| true).unwrap_err();
    assert_eq!(
        error,
        PoolChangeError::Moved {
            address: moved,
            from: "narrow".to_owned(),
            to: "wide".to_owned(),
        }
    );
    let text = error.to_string();
    assert!(text.contains("drain"), "says what to do: {text}");
    // One worker owns everything, however it is divided.
    let alone = PoolMap::new(&before, 1);
    assert!(alone.changed(&after, 1, &|_| false).is_ok());
    // Removed and empty, it may come back elsewhere.
    let closed = map.changed(&without, 2, &|_| false).unwrap();
    assert!(closed.changed(&after, 2, &|_| false).is_err());
    let slot = map.slot(moved).unwrap();
    let back = closed.changed(&after, 2, &|ip| ip == moved).unwrap();
    assert!(back.is_by_address(back.slot(moved).unwrap()));
    assert_eq!(back.state(slot), AddressState::Open);
}

/// Places alternate between two pools: each would serve but one of two workers.
#[test]
fn a_pool_is_divided_by_address_only_if_every_worker_gets_one() {
    let alternating = (0..16).map(|n| (prefix([192, 0, 2, n], 32, &[]), n % 2));
    let config = named(&["even", "odd"], alternating.collect());
    let map = PoolMap::new(&config, 2);
    assert!(!map.is_by_address(0) && !map.is_by_address(1));
    assert!(
        map.changed(&config, 2, &|_| false).is_ok(),
        "nothing changed"
    );
    assert!(PoolMap::new(&config, 1).is_by_address(0));
}
