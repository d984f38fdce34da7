//! Pools that change while traffic flows.

use super::*;
use crate::state::fake;

const IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const DEADLINE: Duration = Duration::from_secs(60);

fn pool(ports: std::ops::RangeInclusive<u16>) -> Nat64Config {
    Nat64Config {
        pool4: vec![Pool4Prefix {
            address: Ipv4Addr::new(192, 0, 2, 0),
            length: 31,
            ports,
            ..Pool4Prefix::default()
        }],
        ..Nat64Config::default()
    }
}

#[test]
fn a_cut_that_a_worker_does_not_take_is_told_with_its_reason() {
    let state = fake::state(None);
    assert_eq!(cut(&state, &[Ipv4Addr::new(192, 0, 2, 9)]), Ok(()));
    let error = cut(&state, &[fake::BUSY]).unwrap_err();
    assert!(error.contains("192.0.2.250 not cut everywhere"), "{error}");
    assert!(error.contains("worker 1: 16 of these"), "{error}");
}

#[test]
fn what_an_address_shared_with_the_host_loses_does_not_go_on() {
    let own = [IpAddr::V4(IP)];
    let gone = Ipv4Addr::new(192, 0, 2, 0);
    for shared_with_host in [false, true] {
        let mut nat64 = pool(1024..=65535);
        nat64.pool4[0].shared_with_host = shared_with_host;
        let map = PoolMap::new(&nat64, 1);
        let is_lost = |ip, removal| is_lost(ip, &map, removal, &own);
        assert_eq!(is_lost(IP, PoolRemoval::Drain), shared_with_host);
        assert!(!is_lost(IP, PoolRemoval::Refuse), "that can be refused");
        // The interface has another address now: nobody can help that.
        for removal in [PoolRemoval::Drain, PoolRemoval::Refuse, PoolRemoval::Cut] {
            assert_eq!(is_lost(gone, removal), shared_with_host);
        }
    }
}

#[test]
fn what_is_shared_with_the_host_from_now_on_decides_what_goes_on() {
    let shared = |ports, shared_with_host| {
        let mut nat64 = pool(ports);
        nat64.pool4[0].shared_with_host = shared_with_host;
        nat64
    };
    for before in [false, true] {
        let current = PoolMap::new(&shared(1024..=60_415, before), 1);
        let change = |nat64: &Nat64Config| current.changed(nat64, 1, &|_| false).unwrap();
        let is_lost = |map: &PoolMap| is_lost(IP, map, PoolRemoval::Drain, &[IpAddr::V4(IP)]);
        for after in [false, true] {
            let smaller = change(&shared(1024..=30_719, after));
            assert_eq!(is_lost(&smaller), after, "shared before: {before}");
        }
        let removed = change(&Nat64Config::default());
        assert_eq!(is_lost(&removed), before, "what was there closes as it was");
    }
}

#[test]
fn what_was_not_cut_at_its_deadline_is_tried_again() {
    let drains = Drains::default();
    let ip = Ipv4Addr::new(192, 0, 2, 9);
    let (start, deadline) = (Instant::now(), Duration::from_secs(60));
    let config = Nat64Config {
        pool4: vec![Pool4Prefix {
            address: ip,
            drain: vec![ip],
            ..Pool4Prefix::default()
        }],
        ..Nat64Config::default()
    };
    drains.note(&config, &config, &PortsGone::default(), start);
    let later = start + deadline;
    assert!(drains.take_overdue(deadline, start).is_empty());
    assert_eq!(drains.take_overdue(deadline, later), [ip]);
    assert!(drains.take_overdue(deadline, later).is_empty(), "once");
    drains.still_to_cut(&[ip]);
    assert_eq!(drains.take_overdue(deadline, later), [ip]);
}

#[test]
fn ports_that_a_pool_no_longer_has_are_cut_at_the_deadline_too() {
    let (nat64, now) = (pool(1024..=30_000), Instant::now());
    let map = PoolMap::new(&nat64, 1);
    let gone = Ipv4Addr::new(203, 0, 113, 1);
    let held = [(IP, 5), (gone, 2)];
    let ports = ports_gone(&map, &held, &held, PoolRemoval::Drain);
    assert_eq!(ports.new, [IP], "the other goes whole");
    let drains = Drains::default();
    drains.note(&nat64, &nat64, &ports, now);
    // A reload in between changes nothing.
    let again = ports_gone(&map, &held, &[], PoolRemoval::Refuse);
    drains.note(&nat64, &nat64, &again, now + DEADLINE / 2);
    let just_before = now + DEADLINE - Duration::from_millis(1);
    assert!(drains.take_overdue(DEADLINE, just_before).is_empty());
    assert_eq!(drains.take_overdue(DEADLINE, now + DEADLINE), [IP]);
    let once_more = drains.take_overdue(DEADLINE, now + DEADLINE);
    assert!(once_more.is_empty(), "each once");
    drains.still_to_cut(&[IP]);
    assert_eq!(drains.take_overdue(DEADLINE, now + DEADLINE), [IP]);
}

#[test]
fn ports_that_come_back_or_are_cut_at_once_have_no_deadline() {
    let (nat64, now) = (pool(1024..=30_000), Instant::now());
    let map = PoolMap::new(&nat64, 1);
    let held = [(IP, 5)];
    for (after, stranded, removal) in [
        (&held[..0], &held[..0], PoolRemoval::Refuse),
        (&held[..], &held[..], PoolRemoval::Cut),
    ] {
        let drains = Drains::default();
        let ports = ports_gone(&map, &held, &held, PoolRemoval::Drain);
        drains.note(&nat64, &nat64, &ports, now);
        let ports = ports_gone(&map, after, stranded, removal);
        drains.note(&nat64, &nat64, &ports, now);
        assert!(drains.take_overdue(DEADLINE, now + DEADLINE).is_empty());
    }
}

fn map(ports: std::ops::RangeInclusive<u16>) -> PoolMap {
    PoolMap::new(&pool(1024..=60_415), 1)
        .changed(&pool(ports), 1, &|_| false)
        .unwrap()
}

#[test]
fn what_goes_on_already_is_no_reason_to_refuse_the_next_change() {
    let other = Ipv4Addr::new(192, 0, 2, 0);
    let same = map(1024..=30_719);
    let added = |now: &[_], before: &[_]| added(now, before, &same, &same);
    assert_eq!(added(&[(IP, 5), (other, 2)], &[(IP, 5)]), [(other, 2)]);
    assert_eq!(added(&[(IP, 7)], &[(IP, 5)]), [(IP, 2)]);
    assert_eq!(added(&[(IP, 4)], &[(IP, 5)]), []);
}

#[test]
fn an_address_that_goes_takes_what_was_going_on_in_its_ports() {
    let current = map(1024..=30_719);
    let without = Nat64Config {
        pool4: vec![Pool4Prefix {
            address: Ipv4Addr::new(192, 0, 2, 0),
            length: 32,
            ports: 1024..=30_719,
            ..Pool4Prefix::default()
        }],
        ..Nat64Config::default()
    };
    let held = [(IP, 5)];
    let closed = current.changed(&without, 1, &|_| false).unwrap();
    assert_eq!(added(&held, &held, &current, &closed), held);
    // It is being cut then, which is no reason to refuse what comes after.
    assert_eq!(added(&held, &held, &closed, &closed), []);
}

#[test]
fn ports_that_come_back_do_not_hide_as_many_that_go() {
    let (low, high, less) = (map(1024..=30_719), map(30_720..=60_415), map(1024..=20_479));
    let held = [(IP, 5)];
    assert_eq!(added(&held, &held, &low, &high), held);
    assert_eq!(added(&[(IP, 7)], &held, &low, &less), [(IP, 2)]);
}

/// The worker takes it later: a cut of an address is done when that is.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_is_not_begun_everywhere_is_owed_until_it_is() {
    let (state, drains) = (fake::state(None), Drains::default());
    cut_or_owe(&state, &drains, &[IP]);
    assert!(drains.lock().owed.is_empty());
    cut_or_owe(&state, &drains, &[IP, fake::BUSY]);
    cut_owed(&state, &drains);
    assert_eq!(drains.lock().owed, BTreeSet::from([IP, fake::BUSY]));
    assert_eq!(drains.take_owed(), [IP, fake::BUSY]);
    drains.owe(&[IP]);
    cut_owed(&state, &drains);
    assert!(drains.lock().owed.is_empty(), "it was taken");
}

#[test]
fn what_is_drained_after_all_is_not_cut_at_once() {
    let (drains, nat64) = (Drains::default(), pool(1024..=30_719));
    let other = Ipv4Addr::new(192, 0, 2, 0);
    drains.owe(&[IP, other]);
    drains.note(&nat64, &nat64, &PortsGone::default(), Instant::now());
    assert_eq!(
        drains.lock().owed,
        BTreeSet::from([IP, other]),
        "still owed"
    );
    let mut drained = nat64.clone();
    drained.pool4[0].drain = vec![IP];
    let ports = PortsGone {
        new: vec![other],
        all: vec![other],
    };
    drains.note(&drained, &drained, &ports, Instant::now());
    assert!(drains.lock().owed.is_empty());
}
