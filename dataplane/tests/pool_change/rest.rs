//! Blocks that were cut rest (RFC 6888 REQ-8).

use super::*;

/// One block of 64 ports, all of which one subscriber may have.
fn one_block(address: Ipv4Addr, exclude: &[Ipv4Addr]) -> Nat64Config {
    let mut config = config(|pool| {
        pool.address = address;
        pool.length = 32;
        pool.ports = 1024..=1087;
        pool.exclude = exclude.to_vec();
    });
    config.subscriber.session_count_max = u32::MAX;
    config
}

/// A gateway whose only block was full, and was cut with its address.
fn with_cut_block() -> Bench {
    let mut bench = Bench::empty(one_block(GOES, &[]), 200, false);
    bench.fill(64, |_| {});
    bench.change(one_block(GOES, &[GOES]));
    assert_eq!(bench.cut(GOES), 1);
    bench
}

/// RFC 6888 REQ-8: a block that was cut rests, also where its address is opened again meanwhile.
#[test]
fn a_block_that_was_cut_rests_before_others_get_it() {
    let mut bench = with_cut_block();
    bench.change(one_block(GOES, &[]));
    bench.gateway.nat64.check_invariants();
    assert_eq!(bench.open(1, SERVER), None, "all of its ports rest");
    bench.gateway.nat64.check_invariants();
    bench.gateway.advance(Duration::from_secs(301));
    bench.gateway.nat64.check_invariants();
    assert_eq!(bench.open(1, SERVER).map(|mapped| mapped.0), Some(GOES));
}

/// What rests of an address does not rest of another one that got its place.
#[test]
fn a_place_of_another_address_starts_afresh() {
    let mut bench = with_cut_block();
    bench.change_as_control_does(&one_block(STAYS, &[]));
    assert!(!bench.pool.contains(GOES), "its place is free");
    assert_eq!(bench.pool.slot(STAYS), Some(0), "and has another address");
    bench.gateway.nat64.check_invariants();
    assert_eq!(bench.open(1, SERVER).map(|mapped| mapped.0), Some(STAYS));
    bench.gateway.advance(Duration::from_secs(301));
    bench.gateway.nat64.check_invariants();
}
