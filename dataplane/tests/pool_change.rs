//! Pools that change while traffic flows: what stays is not touched, what goes is cut whole.
#![allow(missing_docs)]

#[path = "pool_change/apart.rs"]
mod apart;
#[path = "pool_change/random.rs"]
mod random;
#[path = "pool_change/rest.rs"]
mod rest;
#[path = "support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Receiver;
use gate64_dataplane::command::{Command, Event, Filter, TooManyJobs};
use gate64_dataplane::config::{Nat64Config, Pool4Prefix, StaticBib};
use gate64_dataplane::counters;
use gate64_dataplane::memory::HashKey;
use gate64_dataplane::memory::hash::Rng;
use gate64_dataplane::nat64::plan::{Settings, Shared};
use gate64_dataplane::nat64::pool4::PoolMap;
use gate64_dataplane::verdict::{DropReason, Side, WorkerId};
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};
use support::packets::{judged, udp4, udp6};
use support::{Gateway, Outcome, SERVER, embedded};

const STAYS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 0);
const GOES: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);

fn config(change: impl FnOnce(&mut Pool4Prefix)) -> Nat64Config {
    let mut config = support::config();
    let mut pool = Pool4Prefix {
        address: STAYS,
        length: 31,
        ports: 1024..=2047,
        ..Pool4Prefix::default()
    };
    change(&mut pool);
    config.pool4 = vec![pool];
    config.subscriber.port_block_size = 64;
    config
}

fn host(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 7, number, 0, 0, 0, 1)
}

struct Bench {
    gateway: Gateway,
    pool: Arc<PoolMap>,
    /// By host: where it is mapped.
    mapped: BTreeMap<u16, (Ipv4Addr, u16)>,
}

impl Bench {
    /// Without sessions, with room for so many.
    fn empty(config: Nat64Config, sessions: u64, log_sessions: bool) -> Bench {
        let settings = Settings {
            key: HashKey::seeded(3),
            seed: 3,
            log_sessions,
            ..Settings::new(1, sessions)
        };
        let shared = Shared::new(Arc::new(config), settings);
        Bench {
            gateway: Gateway::of_worker(&shared, WorkerId(0)),
            pool: Arc::clone(&shared.pool),
            mapped: BTreeMap::new(),
        }
    }

    /// Ten subscribers with a mapping that has two sessions each.
    fn new() -> Bench {
        let mut bench = Bench::empty(config(|_| {}), 100, false);
        for number in 0..10 {
            let mapped = bench.open(number, SERVER).unwrap();
            assert_eq!(bench.open(number, OTHER_SERVER), Some(mapped));
            bench.mapped.insert(number, mapped);
        }
        bench
    }

    fn open(&mut self, number: u16, server: Ipv4Addr) -> Option<(Ipv4Addr, u16)> {
        let packet = udp6((host(number), 4000), (embedded(server), 9), b"x");
        match self.gateway.put(Side::V6, &packet) {
            Outcome::Sent(Side::V4, bytes) => match judged(&bytes) {
                (IpAddr::V4(src), _, port, ..) => Some((src, port)),
                _ => panic!("not translated"),
            },
            _ => None,
        }
    }

    /// Maps so many ports of one host, with two sessions each; on which address.
    fn fill(&mut self, mappings: u16, mut after_each: impl FnMut(&mut Gateway)) -> Ipv4Addr {
        let mut address = None;
        for server in [SERVER, OTHER_SERVER] {
            for port in 0..mappings {
                let packet = udp6((host(0), 4000 + port), (embedded(server), 9), b"x");
                match judged(&self.gateway.v6(&packet)).0 {
                    IpAddr::V4(ip) => assert_eq!(*address.get_or_insert(ip), ip),
                    IpAddr::V6(_) => panic!("not translated"),
                }
                after_each(&mut self.gateway);
            }
        }
        address.expect("a mapping")
    }

    fn on(&self, address: Ipv4Addr) -> Vec<u16> {
        let on = self.mapped.iter().filter(|(_, mapped)| mapped.0 == address);
        on.map(|(number, _)| *number).collect()
    }

    fn change(&mut self, config: Nat64Config) -> Vec<(Ipv4Addr, u32)> {
        let pool = self.pool.changed(&config, 1, &|_| false).unwrap();
        let pool = Arc::new(pool);
        let (reply, answer) = crossbeam::channel::bounded(1);
        let command = Command::Stranded {
            pool: Arc::clone(&pool),
            reply,
        };
        self.gateway.nat64.command(command, self.gateway.now);
        let command = Command::Reconfigure {
            config: Arc::new(config),
            pool: Arc::clone(&pool),
        };
        self.gateway.nat64.command(command, self.gateway.now);
        self.pool = pool;
        self.gateway.nat64.check_invariants();
        answer.try_recv().unwrap()
    }

    /// As control does it: a closed address of which nothing is held gives its place up.
    fn change_as_control_does(&mut self, config: &Nat64Config) {
        let held = self.stranded();
        let is_empty = |ip| !held.iter().any(|(held, _)| *held == ip);
        self.pool = Arc::new(self.pool.changed(config, 1, &is_empty).unwrap());
        let command = Command::Reconfigure {
            config: Arc::new(config.clone()),
            pool: Arc::clone(&self.pool),
        };
        self.gateway.nat64.command(command, self.gateway.now);
    }

    fn begin_cut(&mut self, addresses: &[Ipv4Addr]) -> Receiver<u64> {
        self.try_cut(addresses).expect("few enough")
    }

    fn try_cut(&mut self, addresses: &[Ipv4Addr]) -> Result<Receiver<u64>, TooManyJobs> {
        let (begun, has_begun) = crossbeam::channel::bounded(1);
        let (reply, answer) = crossbeam::channel::bounded(1);
        let command = Command::CutBlocks {
            addresses: addresses.to_vec(),
            begun,
            reply,
        };
        self.gateway.nat64.command(command, self.gateway.now);
        has_begun.try_recv().expect("an answer at once")?;
        Ok(answer)
    }

    fn cut(&mut self, address: Ipv4Addr) -> u64 {
        let answer = self.begin_cut(&[address]);
        self.gateway.advance(Duration::from_millis(250));
        self.gateway.nat64.check_invariants();
        answer.try_recv().unwrap()
    }

    fn clear(&mut self, filter: Filter) -> Receiver<Result<u64, TooManyJobs>> {
        let (reply, answer) = crossbeam::channel::bounded(1);
        let command = Command::ClearSessions { filter, reply };
        self.gateway.nat64.command(command, self.gateway.now);
        answer
    }

    /// Held blocks that the pools in use would not give out.
    fn stranded(&mut self) -> Vec<(Ipv4Addr, u32)> {
        let (reply, answer) = crossbeam::channel::bounded(1);
        let pool = Arc::clone(&self.pool);
        let command = Command::Stranded { pool, reply };
        self.gateway.nat64.command(command, self.gateway.now);
        answer.try_recv().unwrap()
    }

    /// One step of what a worker does in a turn besides packets.
    fn step(&mut self) {
        let Gateway {
            nat64, routes, now, ..
        } = &mut self.gateway;
        nat64.expire(routes, *now, 1);
    }

    /// Blocks allocated less blocks released, by the events.
    fn held_by_events(&mut self) -> i64 {
        let mut held = 0;
        while let Some(event) = self.gateway.nat64.take_event() {
            match event {
                Event::BlockAllocated(_) => held += 1,
                Event::BlockReleased(_) => held -= 1,
                _ => {}
            }
        }
        held
    }

    fn check_unharmed(&mut self) {
        for number in self.on(STAYS) {
            let to = self.mapped[&number];
            self.gateway.v4(&udp4((SERVER, 9), to, b"still there"));
            self.gateway
                .v4(&udp4((OTHER_SERVER, 9), to, b"still there"));
        }
    }
}

#[test]
fn a_removed_address_is_cut_and_its_subscribers_go_on_elsewhere() {
    let mut bench = Bench::new();
    let (gone, stay) = (bench.on(GOES), bench.on(STAYS));
    assert!(gone.len() >= 3 && stay.len() >= 3, "spread over both");
    let stranded = bench.change(config(|pool| pool.exclude = vec![GOES]));
    assert_eq!(stranded, [(GOES, u32::try_from(gone.len()).unwrap())]);
    assert_eq!(bench.cut(GOES), gone.len() as u64);
    bench.check_unharmed();
    let udp = Protocol::Udp;
    assert_eq!(bench.gateway.sessions(udp), 2 * stay.len() as u64);
    assert_eq!(bench.held_by_events(), i64::try_from(stay.len()).unwrap());
    for number in gone {
        let old = bench.mapped[&number];
        let packet = udp4((SERVER, 9), old, b"late");
        let late = bench.gateway.put(Side::V4, &packet);
        assert_eq!(late, Outcome::Dropped(DropReason::NoBib));
        let (ip, _) = bench.open(number, SERVER).expect("room elsewhere");
        assert_eq!(ip, STAYS);
    }
    bench.gateway.nat64.check_invariants();
    // The wheel lets go of what was cut, and of everything in the end.
    bench.gateway.advance(Duration::from_secs(400));
    bench.gateway.advance(Duration::from_secs(400));
    assert_eq!(bench.gateway.count(counters::subscribers(0)), 0);
    assert_eq!(bench.gateway.count(counters::port_blocks_used(0)), 0);
    bench.gateway.nat64.check_invariants();
    // All hundred sessions fit again: no number was lost.
    bench.change(config(|_| {}));
    for number in 0..16 {
        for server in 0..6 {
            let server = Ipv4Addr::new(198, 51, 100, server);
            assert!(bench.open(number, server).is_some());
        }
    }
    bench.gateway.nat64.check_invariants();
}

/// A session keeps its next hop, but not when its peer becomes an address of the pool.
#[test]
fn packets_turn_around_when_their_peer_comes_into_the_pool() {
    let mut bench = Bench::new();
    for _ in 0..2 {
        assert_eq!(bench.open(3, SERVER), Some(bench.mapped[&3]));
    }
    let mut with_server = config(|_| {});
    with_server.pool4.push(Pool4Prefix {
        address: SERVER,
        length: 32,
        ports: 1024..=2047,
        ..Pool4Prefix::default()
    });
    bench.change(with_server);
    let packet = udp6((host(3), 4000), (embedded(SERVER), 9), b"x");
    let outcome = bench.gateway.put(Side::V6, &packet);
    assert_eq!(outcome, Outcome::Dropped(DropReason::NoBib));
    assert_eq!(bench.open(3, OTHER_SERVER), Some(bench.mapped[&3]));
    bench.change(config(|pool| pool.exclude = Vec::new()));
}

#[test]
fn a_drained_address_keeps_what_it_has_and_gives_no_more() {
    let mut bench = Bench::new();
    let stranded = bench.change(config(|pool| pool.drain = vec![GOES]));
    assert_eq!(stranded.len(), 1);
    for number in bench.on(GOES) {
        assert_eq!(bench.open(number, SERVER), Some(bench.mapped[&number]));
    }
    for number in 20..24 {
        let (ip, _) = bench.open(number, SERVER).unwrap();
        assert_eq!(ip, STAYS);
    }
    bench.check_unharmed();
    bench.gateway.nat64.check_invariants();
}

#[test]
fn ports_that_go_are_cut_and_ports_that_come_are_given_out() {
    let mut bench = Bench::new();
    let stranded = bench.change(config(|pool| pool.ports = 1024..=1151));
    let outside: u32 = stranded.iter().map(|(_, blocks)| blocks).sum();
    let beyond = bench.mapped.values().filter(|(_, port)| *port > 1151);
    assert_eq!(outside as usize, beyond.count());
    let cut = bench.cut(STAYS) + bench.cut(GOES);
    assert_eq!(cut, u64::from(outside));
    assert_eq!(
        bench.gateway.count(counters::port_blocks_total(0)),
        4,
        "two blocks of each"
    );
    bench.change(config(|pool| pool.ports = 1024..=3071));
    assert_eq!(bench.gateway.count(counters::port_blocks_total(0)), 64);
    for number in 30..50 {
        assert!(bench.open(number, SERVER).is_some());
    }
    bench.gateway.nat64.check_invariants();
}

/// Blocks of 16384 ports, of which one subscriber may have all.
fn large_blocks(change: impl FnOnce(&mut Pool4Prefix)) -> Nat64Config {
    let mut config = config(|pool| {
        pool.ports = 1024..=65535;
        change(pool);
    });
    config.subscriber.port_block_size = 16384;
    config.subscriber.session_count_max = u32::MAX;
    config
}

/// The wheel refers to what was cut until the time that it was armed for, and as many sessions
/// fit again at once.
#[test]
fn as_many_sessions_fit_after_a_cut_while_the_wheel_still_refers_to_the_old_ones() {
    const MAPPINGS: u16 = 20_000;
    let sessions = 2 * u64::from(MAPPINGS);
    let mut bench = Bench::empty(large_blocks(|_| {}), sessions, false);
    let gone = bench.fill(MAPPINGS, |_| {});
    bench.change(large_blocks(|pool| pool.exclude = vec![gone]));
    assert_eq!(bench.cut(gone), 2, "blocks");
    assert_ne!(bench.fill(MAPPINGS, |_| {}), gone);
    let udp = Protocol::Udp;
    assert_eq!(bench.gateway.sessions(udp), sessions);
    bench.gateway.nat64.check_invariants();
    for _ in 0..3 {
        bench.gateway.advance(Duration::from_secs(300));
        bench.gateway.nat64.check_invariants();
    }
    assert_eq!(bench.gateway.sessions(udp), 0);
    assert_eq!(bench.gateway.count(counters::port_blocks_used(0)), 0);
    bench.change(large_blocks(|_| {}));
    bench.fill(MAPPINGS, |_| {});
}

const LOGGED_MAPPINGS: u16 = 6000;
const LOGGED_SESSIONS: u64 = 2 * LOGGED_MAPPINGS as u64;

/// Sessions whose beginning the log has read, on that address.
fn logged() -> (Bench, Ipv4Addr) {
    let mut bench = Bench::empty(large_blocks(|_| {}), LOGGED_SESSIONS, true);
    let read_all = |gateway: &mut Gateway| while gateway.nat64.take_event().is_some() {};
    let address = bench.fill(LOGGED_MAPPINGS, read_all);
    (bench, address)
}

/// The end of each of them is told to a log that reads slowly: as many events in a turn as a worker
/// passes on.
fn assert_all_ends_are_told(bench: &mut Bench) {
    const EVENTS_PER_TURN: usize = 256;
    let mut ended = 0;
    for _ in 0..200 {
        bench.step();
        for _ in 0..EVENTS_PER_TURN {
            let event = bench.gateway.nat64.take_event();
            ended += u64::from(matches!(event, Some(Event::SessionDeleted(_))));
        }
    }
    assert_eq!(bench.gateway.count(counters::events_lost(0)), 0);
    assert_eq!(ended, LOGGED_SESSIONS);
    bench.gateway.nat64.check_invariants();
}

#[test]
fn a_cut_tells_the_end_of_every_session_and_does_not_overrun_the_log() {
    let (mut bench, gone) = logged();
    bench.change(large_blocks(|pool| pool.exclude = vec![gone]));
    let done = bench.begin_cut(&[gone]);
    assert_all_ends_are_told(&mut bench);
    assert_eq!(done.try_recv(), Ok(1), "block");
}

/// A customer at the limit whose sessions are cleared opens others at once.
#[test]
fn what_is_cleared_counts_nowhere_any_more() {
    let mut config = config(|_| {});
    config.subscriber.session_count_max = 4;
    let mut bench = Bench::empty(config, 100, true);
    bench.fill(2, |_| {});
    bench.open(1, SERVER).expect("another customer");
    let more = udp6((host(0), 7000), (embedded(SERVER), 9), b"x");
    bench
        .gateway
        .rejects(Side::V6, &more, DropReason::SubscriberSessions);
    let cleared = bench.clear(Filter {
        v6: Some((host(0), 64)),
        ..Filter::default()
    });
    bench.step();
    bench.step();
    assert_eq!(cleared.try_recv(), Ok(Ok(4)));
    assert_eq!(bench.gateway.sessions(Protocol::Udp), 1);
    bench.gateway.nat64.check_invariants();
    bench.gateway.v6(&more);
    bench.fill(1, |_| {});
    for _ in 0..4 {
        bench.gateway.advance(Duration::from_secs(301));
        bench.gateway.nat64.check_invariants();
    }
    assert_eq!(bench.gateway.sessions(Protocol::Udp), 0);
    assert_eq!(bench.held_by_events(), 0);
}

#[test]
fn a_clearing_tells_the_end_of_every_session_and_does_not_overrun_the_log() {
    let (mut bench, _) = logged();
    let done = bench.clear(Filter::default());
    assert_all_ends_are_told(&mut bench);
    assert_eq!(done.try_recv(), Ok(Ok(LOGGED_SESSIONS)));
}

#[test]
fn a_cut_goes_back_to_what_a_later_reload_closes() {
    let mut bench = Bench::new();
    let held = bench.gateway.count(counters::port_blocks_used(0));
    bench.change(config(|pool| pool.exclude = vec![GOES]));
    let done = bench.begin_cut(&[STAYS, GOES]);
    // Further sessions, and then a block of the second address.
    while bench.gateway.count(counters::port_blocks_used(0)) == held {
        bench.step();
    }
    assert!(done.try_recv().is_err(), "it goes on");
    bench.change(config(|pool| {
        pool.exclude = vec![GOES];
        pool.ports = 1024..=1087;
    }));
    bench.gateway.advance(Duration::from_millis(250));
    bench.gateway.nat64.check_invariants();
    assert_eq!(bench.stranded(), []);
    let left = bench.gateway.count(counters::port_blocks_used(0));
    assert!(left <= 1, "{left} of one block");
    assert_eq!(done.try_recv(), Ok(held - left));
}

/// What a cut that waits will take has further sessions still: it is not the first one's to take.
#[test]
fn a_cut_takes_nothing_that_another_one_waits_for() {
    let mut bench = Bench::new();
    let held = bench.gateway.count(counters::port_blocks_used(0));
    bench.change(config(|pool| pool.exclude = vec![STAYS, GOES]));
    let first = bench.begin_cut(&[STAYS]);
    while bench.gateway.count(counters::port_blocks_used(0)) == held {
        bench.step();
    }
    let second = bench.begin_cut(&[GOES]);
    bench.gateway.advance(Duration::from_millis(250));
    bench.gateway.nat64.check_invariants();
    let counts = [first, second].map(|count| count.try_recv().unwrap());
    let of = [STAYS, GOES].map(|address| bench.on(address).len() as u64);
    assert_eq!(counts, of);
}

/// The address is open again before the cut has come to its blocks.
#[test]
fn a_cut_that_ends_early_leaves_no_mapping_without_sessions() {
    let mut bench = Bench::new();
    // The second session alone goes on.
    for _ in 0..2 {
        bench.gateway.advance(Duration::from_secs(200));
        for number in 0..10 {
            bench.open(number, OTHER_SERVER);
        }
    }
    bench.change(config(|pool| pool.exclude = vec![GOES]));
    let done = bench.begin_cut(&[GOES]);
    bench.step();
    bench.gateway.nat64.check_invariants();
    bench.change(config(|_| {}));
    bench.gateway.advance(Duration::from_millis(250));
    assert_eq!(done.try_recv(), Ok(0));
    for _ in 0..2 {
        bench.gateway.advance(Duration::from_secs(500));
    }
    assert_eq!(bench.gateway.count(counters::bib_entries(0)), 0);
    assert_eq!(bench.gateway.count(counters::subscribers(0)), 0);
    bench.gateway.nat64.check_invariants();
}
