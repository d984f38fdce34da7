//! Whole gateways over veth interfaces: workers, hand-off, neighbours, start and stop.
#![allow(missing_docs)]

mod netns;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam::channel;
use gate64_dataplane::clock::MonotonicClock;
use gate64_dataplane::command::{Command, Event, Filter};
use gate64_dataplane::config::{
    AutoOnOff, InterfaceConfig, L4Checksum, Nat64Config, Pool4Prefix, XdpModeChoice,
};
use gate64_dataplane::counters::{self, CounterId};
use gate64_dataplane::gateway::{DataplaneSettings, Gateway, StartError, Workers};
use gate64_dataplane::route::{Port, PortId, Route, RouteSnapshot};
use gate64_dataplane::verdict::{DropReason, Side, WorkerId};
use gate64_dataplane::worker::Idle;
use netns::packets::{ethernet, ipv4_udp, ipv6_udp};
use netns::{A0_MAC, B0_MAC, F0_MAC, F1_MAC, Net, RawLink, SOON};

const SERVER: [u8; 4] = [192, 0, 2, 1];
const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
const VIA: Ipv6Addr = CLIENT;

fn interface(name: &str) -> InterfaceConfig {
    InterfaceConfig {
        name: name.to_owned(),
        xdp_mode: XdpModeChoice::Auto,
        zero_copy: AutoOnOff::Auto,
        busy_poll: AutoOnOff::Auto,
        vlan: None,
        l4_checksum: L4Checksum::Incremental,
    }
}

fn settings() -> DataplaneSettings {
    DataplaneSettings {
        workers: Workers::Auto,
        session_count_max: 10_000,
        hugepages: AutoOnOff::Auto,
        log_sessions: false,
        idle: Idle::default(),
    }
}

fn nat64() -> Arc<Nat64Config> {
    Arc::new(Nat64Config {
        wkp_strict: false, // documentation addresses
        pool4: vec![Pool4Prefix {
            address: Ipv4Addr::new(198, 51, 100, 0),
            length: 28,
            ports: 1024..=65535,
            exclude: Vec::new(),
            shared_with_host: false,
            ..Pool4Prefix::default()
        }],
        ..Nat64Config::default()
    })
}

fn port(name: &str, mac: [u8; 6], vlan: Option<u16>) -> Port {
    Port {
        name: name.to_owned(),
        index: 1,
        mac,
        mtu: 1500,
        is_up: true,
        vlan,
        addresses: Vec::new(),
    }
}

fn routes(number: u32, vlan: Option<u16>, server_is_known: bool) -> RouteSnapshot {
    let clients = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0);
    let mut builder = RouteSnapshot::builder()
        .port(port("f0", F0_MAC, vlan))
        .port(port("f1", F1_MAC, None))
        .route6(clients, 32, Route::via(PortId(0), IpAddr::V6(VIA)))
        .route4(Ipv4Addr::new(192, 0, 2, 0), 24, Route::on_link(PortId(1)))
        .neighbor(PortId(0), IpAddr::V6(VIA), A0_MAC);
    if server_is_known {
        builder = builder.neighbor(PortId(1), IpAddr::from(SERVER), B0_MAC);
    }
    builder.build(number)
}

/// A gateway in a network of its own.
struct Bench {
    // Stopped before the network goes.
    gateway: Gateway,
    routes: Arc<ArcSwap<RouteSnapshot>>,
    a: RawLink,
    b: RawLink,
    net: Net,
}

impl Bench {
    fn start(queues: u32, vlan: Option<u16>, server_is_known: bool) -> Bench {
        let net = Net::up(queues);
        let routes = Arc::new(ArcSwap::from_pointee(routes(1, vlan, server_is_known)));
        let mut interfaces = [interface("f0"), interface("f1")];
        interfaces[0].vlan = vlan;
        let gateway = Net::within(&net.f, || {
            let clock = MonotonicClock::start();
            Gateway::start(&settings(), &interfaces, &nat64(), &routes, clock)
        });
        Bench {
            gateway: gateway.unwrap_or_else(|error| panic!("{error}")),
            routes,
            a: RawLink::open(&net.a, "a0"),
            b: RawLink::open(&net.b, "b0"),
            net,
        }
    }

    /// A counter over all workers.
    fn count(&self, id: CounterId) -> u64 {
        let all = self.gateway.counters();
        all.iter().map(|published| published.get(id)).sum()
    }

    /// Waits until a counter has a value.
    fn await_count(&self, id: CounterId, value: u64) {
        let end = Instant::now() + SOON;
        while self.count(id) != value && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.count(id), value);
    }
}

fn request(src: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let dst = "64:ff9b::c000:201".parse().unwrap();
    ipv6_udp(src, dst, (4000, 53), payload)
}

/// The UDP packet inside an untagged IPv4 frame from gate64, if it is one.
fn from_pool(frame: &[u8]) -> bool {
    frame.len() > 42 && frame[12..14] == [8, 0] && frame[26..29] == [198, 51, 100]
}

fn answer_to(frame: &[u8], payload: &[u8]) -> Vec<u8> {
    let pool: [u8; 4] = frame[26..30].try_into().unwrap();
    let port = u16::from_be_bytes([frame[34], frame[35]]);
    let packet = ipv4_udp(SERVER, pool, (53, port), payload);
    ethernet(F1_MAC, B0_MAC, 0x0800, &packet)
}

#[test]
fn a_request_crosses_and_its_answer_returns() {
    let bench = Bench::start(1, None, true);
    let frame = ethernet(F0_MAC, A0_MAC, 0x86dd, &request(CLIENT, b"request"));
    bench.a.send(&frame);
    let frame = bench.b.receive_where(from_pool).expect("it crosses");
    assert_eq!(frame[..12], [B0_MAC, F1_MAC].concat());
    assert_eq!(frame[30..34], SERVER);
    assert_eq!(&frame[42..], b"request");
    bench.b.send(&answer_to(&frame, b"answer"));
    let frame = bench.a.receive_where(|frame| frame.ends_with(b"answer"));
    let frame = frame.expect("it returns");
    assert_eq!(frame[..14], [&A0_MAC[..], &F0_MAC, &[0x86, 0xdd]].concat());
    assert_eq!(frame[38..54], CLIENT.octets());
    bench.await_count(counters::packets_forwarded(Side::V6.index()), 1);
    bench.await_count(counters::packets_forwarded(Side::V4.index()), 1);
    assert_eq!(bench.gateway.xsk_statistics().len(), 2);
    let steering = bench.gateway.steering_statistics();
    assert_eq!((steering[0].to_gate64_v6, steering[1].to_gate64_v4), (1, 1));
}

/// One-armed: clients and the Internet behind the same interface.
#[test]
fn both_sides_may_be_on_one_interface() {
    let net = Net::up(1);
    let server = IpAddr::from(SERVER);
    let snapshot = RouteSnapshot::builder()
        .port(port("f0", F0_MAC, None))
        .route6(CLIENT, 32, Route::via(PortId(0), IpAddr::V6(VIA)))
        .route4(Ipv4Addr::new(192, 0, 2, 0), 24, Route::on_link(PortId(0)))
        .neighbor(PortId(0), IpAddr::V6(VIA), A0_MAC)
        .neighbor(PortId(0), server, B0_MAC)
        .build(1);
    let routes = Arc::new(ArcSwap::from_pointee(snapshot));
    let gateway = Net::within(&net.f, || {
        let clock = MonotonicClock::start();
        Gateway::start(&settings(), &[interface("f0")], &nat64(), &routes, clock)
    });
    let gateway = gateway.unwrap_or_else(|error| panic!("{error}"));
    let a = RawLink::open(&net.a, "a0");
    a.send(&ethernet(F0_MAC, A0_MAC, 0x86dd, &request(CLIENT, b"out")));
    let frame = a.receive_where(from_pool).expect("it leaves where it came");
    assert_eq!(frame[..12], [B0_MAC, F0_MAC].concat());
    assert_eq!(&frame[42..], b"out");
    let mut answer = answer_to(&frame, b"back");
    answer[..6].copy_from_slice(&F0_MAC);
    a.send(&answer);
    let frame = a.receive_where(|frame| frame[..6] == A0_MAC && frame.ends_with(b"back"));
    assert_eq!(frame.expect("it returns")[38..54], CLIENT.octets());
    assert!(gateway.stop());
}

#[test]
fn tags_are_read_and_written() {
    let bench = Bench::start(1, Some(7), true);
    let tagged = [&[0, 7, 0x86, 0xdd][..], &request(CLIENT, b"tagged")].concat();
    bench.a.send(&ethernet(F0_MAC, A0_MAC, 0x8100, &tagged));
    let frame = bench.b.receive_where(from_pool).expect("it crosses");
    bench.b.send(&answer_to(&frame, b"untagged"));
    let frame = bench.a.receive_where(|frame| frame.ends_with(b"untagged"));
    // The kernel takes the tag off for a packet socket; what stays is a frame without it.
    let frame = frame.expect("it returns");
    assert!(frame[12..18] == [0x81, 0, 0, 7, 0x86, 0xdd] || frame[12..14] == [0x86, 0xdd]);
}

#[test]
fn packets_reach_the_worker_that_owns_them() {
    const CLIENTS: u16 = 64;
    let bench = Bench::start(2, None, true);
    if bench.gateway.worker_count() < 2 {
        assert_eq!(bench.gateway.cpus().len(), 1, "a machine with one CPU");
        return;
    }
    for client in 0..CLIENTS {
        let src = Ipv6Addr::new(0x2001, 0xdb8, 1, client, 0, 0, 0, 2 + client);
        let packet = request(src, &client.to_be_bytes());
        bench.a.send(&ethernet(F0_MAC, A0_MAC, 0x86dd, &packet));
    }
    for _ in 0..CLIENTS {
        let frame = bench.b.receive_where(from_pool).expect("each crosses");
        let answer = [&b"re: "[..], &frame[42..44]].concat();
        bench.b.send(&answer_to(&frame, &answer));
    }
    for _ in 0..CLIENTS {
        let is_answer = |frame: &[u8]| frame.get(62..66) == Some(&b"re: "[..]);
        bench.a.receive_where(is_answer).expect("each returns");
    }
    let all = u64::from(CLIENTS);
    bench.await_count(counters::packets_forwarded(Side::V6.index()), all);
    bench.await_count(counters::packets_forwarded(Side::V4.index()), all);
    let sent = || [0, 1].map(|side| bench.count(counters::packets_handed_off(side)));
    let sent = || sent().iter().sum::<u64>();
    let received = || bench.count(counters::handoff_received(0));
    // Who received may say so before who sent.
    let end = Instant::now() + SOON;
    while received() != sent() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(sent() > 0, "some arrived where they are not owned");
    assert_eq!(received(), sent());
}

/// What leaves of a packet whose neighbour becomes known while it waits; nothing if the second that it
/// waits was over before.
fn one_that_waited() -> Option<Vec<u8>> {
    let mut bench = Bench::start(1, None, false);
    let frame = ethernet(F0_MAC, A0_MAC, 0x86dd, &request(CLIENT, b"patient"));
    bench.a.send(&frame);
    let mut events = bench.gateway.take_events();
    let end = Instant::now() + SOON;
    let wanted = loop {
        match events[0].pop() {
            Ok(wanted @ Event::NeighborWanted { .. }) => break wanted,
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
        assert!(Instant::now() < end, "the neighbour is asked for");
    };
    let ip = IpAddr::from(SERVER);
    assert_eq!(
        wanted,
        Event::NeighborWanted {
            port: PortId(1),
            ip
        }
    );
    bench.routes.store(Arc::new(routes(2, None, true)));
    bench.gateway.wake();
    let late = counters::drop_id(Side::V6, DropReason::NeighborUnresolved);
    loop {
        let frame = bench.b.receive(Duration::from_millis(50));
        if let Some(frame) = frame.filter(|frame| from_pool(frame)) {
            return Some(frame);
        }
        if bench.count(late) > 0 {
            return None;
        }
        assert!(Instant::now() < end, "it leaves now");
    }
}

#[test]
fn packets_wait_for_their_neighbour() {
    // Again, on a machine that stands still for that second.
    let frame = (0..5).find_map(|_| one_that_waited());
    assert_eq!(&frame.expect("it leaves in time")[42..], b"patient");
}

#[test]
fn a_neighbour_that_never_answers_costs_a_packet() {
    let bench = Bench::start(1, None, false);
    let frame = ethernet(F0_MAC, A0_MAC, 0x86dd, &request(CLIENT, b"lost"));
    bench.a.send(&frame);
    let id = counters::drop_id(Side::V6, DropReason::NeighborUnresolved);
    bench.await_count(id, 1);
}

#[test]
fn commands_are_answered_while_it_sleeps() {
    let bench = Bench::start(1, None, true);
    std::thread::sleep(Duration::from_millis(100));
    let (reply, answer) = channel::bounded(1);
    let filter = Filter::default();
    let command = Command::ClearSessions { filter, reply };
    bench.gateway.command(WorkerId(0), command).unwrap();
    assert_eq!(answer.recv_timeout(SOON), Ok(Ok(0)));
    let (reply, _answer) = channel::bounded(1);
    let command = Command::ClearSessions { filter, reply };
    assert!(bench.gateway.command(WorkerId(9), command).is_err());
}

#[test]
fn it_stops_behind_all_commands_that_wait() {
    let bench = Bench::start(1, None, true);
    for _ in 0..1000 {
        let (reply, _answer) = channel::bounded(1);
        let filter = Filter::default();
        let command = Command::ClearSessions { filter, reply };
        // Most find no room.
        let _ = bench.gateway.command(WorkerId(0), command);
    }
    assert!(bench.gateway.stop());
}

#[test]
fn it_stops_and_starts_again() {
    let Bench {
        gateway,
        routes,
        net,
        ..
    } = Bench::start(1, None, true);
    assert!(net.has_program());
    assert_eq!(gateway.failed_worker(), None);
    assert!(gateway.stop(), "all workers end in good order");
    assert!(net.loses_program());
    let again = Net::within(&net.f, || {
        let clock = MonotonicClock::start();
        let interfaces = [interface("f0"), interface("f1")];
        Gateway::start(&settings(), &interfaces, &nat64(), &routes, clock)
    });
    assert!(again.unwrap_or_else(|error| panic!("{error}")).stop());
}

#[test]
fn what_cannot_start_leaves_nothing_behind() {
    let net = Net::up(1);
    let routes = Arc::new(ArcSwap::from_pointee(routes(1, None, true)));
    let start = |settings: &DataplaneSettings, names: [&str; 2]| {
        Net::within(&net.f, || {
            let clock = MonotonicClock::start();
            Gateway::start(settings, &names.map(interface), &nat64(), &routes, clock)
        })
        .expect_err("it cannot start")
    };
    let error = start(&settings(), ["f0", "f9"]);
    assert!(
        matches!(error, StartError::NoSuchInterface { .. }),
        "{error}"
    );
    let two = DataplaneSettings {
        workers: Workers::Cpus(vec![0, 0]),
        ..settings()
    };
    let error = start(&two, ["f0", "f1"]);
    assert!(matches!(error, StartError::TooFewQueues { .. }), "{error}");
    netns::ip(&["-n", &net.f, "link", "set", "f1", "down"]);
    let error = start(&settings(), ["f0", "f1"]);
    assert!(matches!(error, StartError::InterfaceDown { .. }), "{error}");
    assert!(net.loses_program());
}
