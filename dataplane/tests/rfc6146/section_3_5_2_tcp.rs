//! Section 3.5.2: unsolicited SYNs are held, and simultaneous opens succeed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use gate64_dataplane::config::Filtering;
use gate64_dataplane::counters;
use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::Protocol;

use crate::support::packets::{judged, tcp4, tcp6};
use crate::support::{Gateway, HOST, Outcome, POOL, SERVER, config, embedded};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A gateway with address-dependent filtering, and the port that the client has a mapping for.
fn address_dependent() -> (Gateway, u16) {
    let mut config = config();
    config.filtering = Filtering::AddressDependent;
    let mut gateway = Gateway::new(config);
    let elsewhere = embedded(Ipv4Addr::new(198, 51, 100, 99));
    let open = tcp6((HOST, 4000), (elsewhere, 80), SYN, b"");
    let port = judged(&gateway.v6(&open)).2;
    (gateway, port)
}

#[test]
fn an_unsolicited_syn_is_answered_after_six_seconds_and_not_before() {
    let mut gateway = Gateway::new(config());
    let syn = tcp4((SERVER, 80), (POOL, 2000), SYN, b"");
    assert_eq!(gateway.put(Side::V4, &syn), Outcome::Held);
    let again = gateway.put(Side::V4, &syn);
    assert_eq!(again, Outcome::Dropped(DropReason::TcpIncomingSyn));
    gateway.advance(Duration::from_millis(5999));
    assert_eq!(gateway.outgoing(), []);
    gateway.advance(Duration::from_millis(2));
    let answer = gateway.outgoing().remove(0).sent(Side::V4);
    let (_, dst, _, _, quoted) = judged(&answer);
    assert_eq!((dst, answer[20], answer[21]), (IpAddr::V4(SERVER), 3, 3));
    assert_eq!(quoted, syn);
    assert_eq!(gateway.count(counters::syn_held(0)), 0);
    assert_eq!(gateway.drops(Side::V4, DropReason::TcpIncomingSyn), 2);
}

#[test]
fn anything_but_a_syn_to_no_mapping_is_dropped_at_once() {
    let mut gateway = Gateway::new(config());
    let ack = tcp4((SERVER, 80), (POOL, 2000), ACK, b"");
    let refused = gateway.put(Side::V4, &ack);
    assert_eq!(refused, Outcome::Dropped(DropReason::NoBib));
}

#[test]
fn a_simultaneous_open_succeeds() {
    let (mut gateway, port) = address_dependent();
    let theirs = tcp4((SERVER, 80), (POOL, port), SYN, b"");
    assert_eq!(gateway.put(Side::V4, &theirs), Outcome::Held);
    let ours = tcp6((HOST, 4000), (embedded(SERVER), 80), SYN, b"");
    assert_eq!(judged(&gateway.v6(&ours)).2, port);
    // Established: it outlives TCP_TRANS, and the SYN is not answered.
    gateway.advance(Duration::from_secs(300));
    assert_eq!(gateway.outgoing(), []);
    assert_eq!(gateway.sessions(Protocol::Tcp), 1);
    assert_eq!(gateway.count(counters::syn_held(0)), 0);
}

#[test]
fn held_syns_of_one_destination_are_bounded() {
    let mut gateway = Gateway::new(config());
    for from in 1..=8 {
        let syn = tcp4((SERVER, from), (POOL, 2000), SYN, b"");
        assert_eq!(gateway.put(Side::V4, &syn), Outcome::Held);
    }
    let syn = tcp4((SERVER, 9), (POOL, 2000), SYN, b"");
    let refused = gateway.put(Side::V4, &syn);
    assert_eq!(refused, Outcome::Dropped(DropReason::SynHoldFull));
    let other = tcp4((SERVER, 9), (POOL, 2001), SYN, b"");
    assert_eq!(gateway.put(Side::V4, &other), Outcome::Held);
    gateway.nat64.check_invariants();
}
