//! What a worker tells the log: each block and session once, held blocks again at intervals,
//! and nothing handed out while the log cannot be written.
#![allow(missing_docs)]

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use gate64_dataplane::command::{BlockEvent, Command, Event, LogMode};
use gate64_dataplane::counters;
use gate64_dataplane::verdict::{DropReason, Side};
use gate64_wire::addr::Protocol;
use support::packets::{judged, udp6};
use support::{Gateway, HOST, OTHER, POOL, SERVER, config, embedded};

fn events(gateway: &mut Gateway) -> Vec<Event> {
    std::iter::from_fn(|| gateway.nat64.take_event()).collect()
}

fn set_log(gateway: &mut Gateway, mode: LogMode) {
    let now = gateway.now;
    gateway.nat64.command(Command::Log(mode), now);
}

/// Lets time pass in steps of a quarter second, as a worker's turns do.
fn pass(gateway: &mut Gateway, seconds: u64) {
    for _ in 0..seconds * 4 {
        gateway.advance(Duration::from_millis(250));
    }
}

fn only_block(events: &[Event]) -> BlockEvent {
    match events {
        [Event::BlockAllocated(block)] => *block,
        other => panic!("not one block allocated: {other:?}"),
    }
}

#[test]
fn a_block_is_told_when_it_comes_and_when_it_goes() {
    let mut gateway = Gateway::new(config());
    let out = gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"x"));
    let port = judged(&out).2;
    let block = only_block(&events(&mut gateway));
    assert_eq!((block.v4, block.prefix_length), (POOL, 64));
    assert_eq!(
        block.subscriber,
        "2001:db8:1::".parse::<std::net::Ipv6Addr>().unwrap()
    );
    assert!((block.port_first..=block.port_first + (block.port_count - 1)).contains(&port));
    assert_eq!(block.at, gateway.now);
    // Five minutes of session, two of the empty block.
    pass(&mut gateway, 500);
    match events(&mut gateway)[..] {
        [Event::BlockReleased(gone)] => {
            assert_eq!(
                BlockEvent {
                    at: block.at,
                    ..gone
                },
                block
            );
        }
        ref other => panic!("not one block released: {other:?}"),
    }
}

#[test]
fn a_held_block_is_told_again_once_in_each_interval() {
    let mut gateway = Gateway::new(config());
    let interval = Duration::from_secs(40);
    set_log(
        &mut gateway,
        LogMode {
            relog_interval: Some(interval),
            ..LogMode::default()
        },
    );
    for host in [HOST, OTHER] {
        gateway.v6(&udp6((host, 5000), (embedded(SERVER), 53), b"x"));
    }
    assert_eq!(events(&mut gateway).len(), 2);
    for _ in 0..3 {
        pass(&mut gateway, 40);
        let told = events(&mut gateway);
        let mut holders: Vec<_> = told
            .iter()
            .map(|event| match event {
                Event::BlockLive(block) => block.subscriber,
                other => panic!("not a held block: {other:?}"),
            })
            .collect();
        holders.sort();
        holders.dedup();
        assert_eq!((told.len(), holders.len()), (2, 2), "{told:?}");
    }
    set_log(&mut gateway, LogMode::default());
    pass(&mut gateway, 80);
    assert_eq!(events(&mut gateway), []);
}

#[test]
fn sessions_are_told_only_where_that_is_wanted() {
    let mut gateway = Gateway::new(config());
    gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"x"));
    only_block(&events(&mut gateway));
    set_log(
        &mut gateway,
        LogMode {
            sessions: true,
            ..LogMode::default()
        },
    );
    gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 54), b"x"));
    match events(&mut gateway)[..] {
        [Event::SessionCreated(one)] => {
            assert_eq!((one.v6.ip, one.v6.port), (HOST, 5000));
            assert_eq!(
                (one.v6_remote.ip, one.v6_remote.port),
                (embedded(SERVER), 54)
            );
            assert_eq!((one.v4.ip, one.v4_remote.ip), (POOL, SERVER));
            assert_eq!((one.protocol, one.v4_remote.port), (Protocol::Udp, 54));
        }
        ref other => panic!("not one session: {other:?}"),
    }
    pass(&mut gateway, 310);
    let ended = events(&mut gateway);
    let is_end = |event: &&Event| matches!(event, Event::SessionDeleted(_));
    assert_eq!(ended.iter().filter(is_end).count(), 2, "{ended:?}");
}

/// The packet is answered by an ICMPv6 error, administratively prohibited, and counted.
fn refused(gateway: &mut Gateway, packet: &[u8], count: u64) {
    let answer = gateway.put(Side::V6, packet).sent(Side::V6);
    assert_eq!(answer[40..42], [1, 1]);
    let id = counters::drop_id(Side::V6, DropReason::LogFailing);
    assert_eq!(gateway.count(id), count);
}

#[test]
fn no_block_is_handed_out_while_the_log_fails() {
    let mut gateway = Gateway::new(config());
    gateway.v6(&udp6((HOST, 5000), (embedded(SERVER), 53), b"x"));
    let refuse = LogMode {
        refuse_new: true,
        ..LogMode::default()
    };
    set_log(&mut gateway, refuse);
    // Whoever has a block goes on with it.
    gateway.v6(&udp6((HOST, 5001), (embedded(SERVER), 53), b"x"));
    let other = udp6((OTHER, 5000), (embedded(SERVER), 53), b"x");
    refused(&mut gateway, &other, 1);
    // With the session log on, a session has to be logged too.
    set_log(
        &mut gateway,
        LogMode {
            sessions: true,
            ..refuse
        },
    );
    let more = udp6((HOST, 5000), (embedded(SERVER), 99), b"x");
    refused(&mut gateway, &more, 2);
    set_log(&mut gateway, LogMode::default());
    gateway.v6(&other);
    gateway.v6(&more);
}
