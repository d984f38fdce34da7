//! A worker's turn over ports in memory, with the clock in hand.
#![allow(missing_docs)]

#[path = "netns/packets.rs"]
#[allow(dead_code)]
mod packets;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam::channel;
use gate64_dataplane::clock::{Instant, ManualClock};
use gate64_dataplane::command::{Command, Event, LogMode};
use gate64_dataplane::config::{Nat64Config, Pool4Prefix};
use gate64_dataplane::counters::{self, PublishedCounters};
use gate64_dataplane::io::memory::MemoryIo;
use gate64_dataplane::io::pcap::PcapIo;
use gate64_dataplane::io::{PacketIo, Waker};
use gate64_dataplane::nat64::Nat64;
use gate64_dataplane::nat64::plan::{Settings, Shared};
use gate64_dataplane::route::{Port, PortId, Route, RouteSnapshot};
use gate64_dataplane::verdict::{DropReason, Side, WorkerId};
use gate64_dataplane::worker::{Handoff, Idle, Links, Worker};
use packets::{ethernet, ipv4_udp, ipv6_udp};

const V6: PortId = PortId(0);
const V4: PortId = PortId(1);
const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
const SERVER: [u8; 4] = [192, 0, 2, 1];
const GATE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];

struct Bench<I> {
    worker: Worker<I, ManualClock>,
    routes: Arc<ArcSwap<RouteSnapshot>>,
    events: rtrb::Consumer<Event>,
    commands: channel::Sender<Command>,
    published: Arc<PublishedCounters>,
}

fn port(name: &str) -> Port {
    Port {
        name: name.to_owned(),
        index: 1,
        mac: GATE,
        mtu: 1500,
        is_up: true,
        vlan: None,
        addresses: Vec::new(),
    }
}

fn routes(number: u32, server_is_known: bool) -> RouteSnapshot {
    let mut builder = RouteSnapshot::builder()
        .port(port("v6"))
        .port(port("v4"))
        .route6(CLIENT, 64, Route::on_link(V6))
        .route4(Ipv4Addr::new(192, 0, 2, 0), 24, Route::on_link(V4))
        .neighbor(V6, IpAddr::V6(CLIENT), HOST);
    if server_is_known {
        builder = builder.neighbor(V4, IpAddr::from(SERVER), HOST);
    }
    builder.build(number)
}

impl<I: PacketIo> Bench<I> {
    fn over(io: I, server_is_known: bool) -> Bench<I> {
        Bench::tagged(io, server_is_known, None)
    }

    /// With this 802.1Q id on the first port.
    fn tagged(io: I, server_is_known: bool, vlan: Option<u16>) -> Bench<I> {
        Bench::with(io, server_is_known, vlan, 1000)
    }

    /// With room for so many sessions.
    fn with(io: I, server_is_known: bool, vlan: Option<u16>, sessions: u64) -> Bench<I> {
        let config = Arc::new(Nat64Config {
            wkp_strict: false, // documentation addresses
            pool4: vec![Pool4Prefix {
                address: Ipv4Addr::new(198, 51, 100, 1),
                length: 32,
                ports: 1024..=65535,
                exclude: Vec::new(),
                shared_with_host: false,
                ..Pool4Prefix::default()
            }],
            ..Nat64Config::default()
        });
        let shared = Shared::new(config, Settings::new(1, sessions));
        let nat64 = Nat64::new(&shared, WorkerId(0)).unwrap();
        let routes = Arc::new(ArcSwap::from_pointee(routes(1, server_is_known)));
        let (events_in, events) = rtrb::RingBuffer::new(RING);
        let (commands, received) = channel::bounded(8);
        let published = Arc::new(PublishedCounters::default());
        let wakers = [Arc::new(Waker::new().unwrap())];
        let links = Links {
            handoff: Handoff::mesh(&wakers).pop().unwrap(),
            commands: received,
            events: events_in,
            published: Arc::clone(&published),
            routes: Arc::clone(&routes),
        };
        let clock = ManualClock::default();
        let vlans = vec![vlan, None];
        let worker = Worker::new(io, clock, nat64, vlans, links, Idle::default());
        Bench {
            worker,
            routes,
            events,
            commands,
            published,
        }
    }

    fn drops(&mut self, reason: DropReason) -> u64 {
        self.worker
            .counters()
            .get(counters::drop_id(Side::V6, reason))
    }
}

fn in_memory(server_is_known: bool) -> Bench<MemoryIo> {
    let io = MemoryIo::group(1, 2, 512, 16).unwrap().pop().unwrap();
    Bench::over(io, server_is_known)
}

/// Events that the ring of these benches holds.
const RING: usize = 64;

fn request(payload: &[u8]) -> Vec<u8> {
    let dst = "64:ff9b::c000:201".parse().unwrap();
    let packet = ipv6_udp(CLIENT, dst, (4000, 53), payload);
    ethernet(GATE, HOST, 0x86dd, &packet)
}

#[test]
fn a_burst_is_translated_in_one_turn() {
    let mut bench = in_memory(true);
    for number in 0..10u8 {
        assert!(bench.worker.io().inject(V6, &request(&[number])));
    }
    assert!(bench.worker.turn());
    for number in 0..10u8 {
        let frame = bench.worker.io().take_sent(V4).expect("in order");
        assert_eq!(frame[..14], [&HOST[..], &GATE, &[8, 0]].concat());
        assert_eq!(frame[42..], [number]);
    }
    assert!(!bench.worker.turn(), "nothing is left to do");
    assert_eq!(bench.worker.io().statistics().frames_free, 512);
    let counters = bench.worker.counters();
    assert_eq!(counters.get(counters::burst_frames(4)), 1); // 8 to 15 frames
    assert_eq!(counters.get(counters::turns_busy(0)), 1);
}

/// Turns a worker needs for new sessions of eight subscribers, a burst of 64 each time, while its log
/// is read or is not; and the events that were told.
fn turns_for_sessions(sessions: u16, is_read: bool) -> (u32, u64, u64) {
    let io = MemoryIo::group(1, 2, 512, 64).unwrap().pop().unwrap();
    let mut bench = Bench::with(io, true, None, 20_000);
    let mode = LogMode {
        sessions: true,
        ..LogMode::default()
    };
    bench.commands.send(Command::Log(mode)).unwrap();
    while bench.worker.turn() {}
    let server = "64:ff9b::c000:201".parse().unwrap();
    let (mut turns, mut told, mut next) = (0, 0, 0);
    while next < sessions {
        for _ in 0..64 {
            let client = Ipv6Addr::new(0x2001, 0xdb8, 1, next % 8, 0, 0, 0, 2);
            let packet = ipv6_udp(client, server, (4000 + next / 8, 53), b"x");
            assert!(
                bench
                    .worker
                    .io()
                    .inject(V6, &ethernet(GATE, HOST, 0x86dd, &packet))
            );
            next += 1;
        }
        bench.worker.turn();
        turns += 1;
        let sent = std::iter::from_fn(|| bench.worker.io().take_sent(V4)).count();
        assert_eq!(sent, 64, "a burst takes one turn, whoever reads the log");
        while is_read && bench.events.pop().is_ok() {
            told += 1;
        }
    }
    // What the worker keeps for the log comes when there is room.
    loop {
        let before = told;
        bench.worker.turn();
        while bench.events.pop().is_ok() {
            told += 1;
        }
        if told == before {
            break;
        }
    }
    let counters = bench.worker.counters();
    let protocol = gate64_wire::addr::Protocol::Udp.index();
    let created = counters.get(counters::sessions_created(protocol));
    assert_eq!(created, u64::from(sessions));
    (turns, told, counters.get(counters::events_lost(0)))
}

/// A ring that nobody empties costs no turn and no packet: what finds no room is lost, and counted to the
/// event.
#[test]
fn a_log_that_nobody_reads_holds_up_no_session() {
    let sessions = 8192;
    // Each subscriber has two blocks of 512 ports for its 1024 sessions.
    let events = u64::from(sessions) + 16;
    let (turns, told, lost) = turns_for_sessions(sessions, true);
    assert_eq!((told, lost), (events, 0));
    let (turns_unread, told, lost) = turns_for_sessions(sessions, false);
    assert_eq!(turns_unread, turns);
    assert!(lost > 0);
    assert_eq!(told + lost, events);
}

#[test]
fn a_frame_that_is_no_ip_is_malformed() {
    let mut bench = in_memory(true);
    bench.worker.io().inject(V6, &[0; 13]);
    bench
        .worker
        .io()
        .inject(V6, &ethernet(GATE, HOST, 0x0806, &[0; 28]));
    bench
        .worker
        .io()
        .inject(V6, &ethernet(GATE, HOST, 0x8100, &[0, 9, 0x86, 0xdd, 0x60]));
    bench.worker.turn();
    assert_eq!(bench.drops(DropReason::LinkMalformed), 3);
    assert_eq!(bench.worker.io().statistics().frames_free, 512);
}

/// Puts each beginning of a frame through; the link header is the first octets of it.
fn cut_at_every_octet(bench: &mut Bench<MemoryIo>, frame: &[u8], link_header: usize) {
    for len in 0..frame.len() {
        let malformed = bench.drops(DropReason::LinkMalformed);
        let truncated = bench.drops(DropReason::Truncated);
        assert!(bench.worker.io().inject(V6, &frame[..len]));
        bench.worker.turn();
        let is_link = u64::from(len < link_header);
        assert_eq!(bench.drops(DropReason::LinkMalformed), malformed + is_link);
        assert_eq!(bench.drops(DropReason::Truncated), truncated + 1 - is_link);
    }
    assert_eq!(bench.worker.io().take_sent(V4), None);
    assert_eq!(bench.worker.io().statistics().frames_free, 512);
    bench.worker.io().inject(V6, frame);
    bench.worker.turn();
    assert!(
        bench.worker.io().take_sent(V4).is_some(),
        "the whole crosses"
    );
}

#[test]
fn frames_cut_at_every_octet() {
    let mut bench = in_memory(true);
    cut_at_every_octet(&mut bench, &request(b"x"), 14);
    let io = MemoryIo::group(1, 2, 512, 16).unwrap().pop().unwrap();
    let mut bench = Bench::tagged(io, true, Some(7));
    let plain = request(b"x");
    let tagged = [&plain[..12], &[0x81, 0, 0, 7], &plain[12..]].concat();
    cut_at_every_octet(&mut bench, &tagged, 18);
}

/// What the kernel has not sorted out: other VLANs, no tag where one has to be, two tags, and
/// other protocols behind the tag.
#[test]
fn frames_of_other_networks_are_malformed() {
    let plain = request(b"x");
    let tagged =
        |tag: &[u8], ether_type: &[u8]| [&plain[..12], tag, ether_type, &plain[14..]].concat();
    let ipv6 = [0x86, 0xdd];
    let other = tagged(&[0x81, 0, 0, 8], &ipv6);
    let priority = tagged(&[0x81, 0, 0, 0], &ipv6);
    let provider = tagged(&[0x88, 0xa8, 0, 7], &ipv6);
    let double = tagged(&[0x81, 0, 0, 7, 0x81, 0, 0, 7], &ipv6);
    let arp = tagged(&[0x81, 0, 0, 7], &[8, 6]);
    let all = [other, priority, provider, double, arp];
    for vlan in [None, Some(7)] {
        let io = MemoryIo::group(1, 2, 512, 16).unwrap().pop().unwrap();
        let mut bench = Bench::tagged(io, true, vlan);
        for frame in &all {
            bench.worker.io().inject(V6, frame);
        }
        if vlan.is_some() {
            bench.worker.io().inject(V6, &plain);
        }
        bench.worker.turn();
        let expected = 5 + u64::from(vlan.is_some());
        assert_eq!(bench.drops(DropReason::LinkMalformed), expected);
        assert_eq!(bench.worker.io().take_sent(V4), None);
        assert_eq!(bench.worker.io().statistics().frames_free, 512);
    }
}

#[test]
fn a_full_port_drops_and_counts() {
    let mut bench = in_memory(true);
    for _ in 0..20 {
        bench.worker.io().inject(V6, &request(b"x"));
    }
    bench.worker.turn();
    assert_eq!(bench.drops(DropReason::TxRingFull), 4);
}

#[test]
fn the_wait_for_a_neighbour_is_bounded() {
    let mut bench = in_memory(false);
    for _ in 0..10 {
        bench.worker.io().inject(V6, &request(b"x"));
    }
    bench.worker.turn();
    assert_eq!(bench.drops(DropReason::NeighborQueueFull), 2);
    let neighbours = std::iter::from_fn(|| bench.events.pop().ok());
    let asked = neighbours.filter(|event| matches!(event, Event::NeighborWanted { .. }));
    assert_eq!(asked.count(), 1, "asked for once");
    bench.worker.clock().advance(Duration::from_millis(999));
    bench.worker.turn();
    assert_eq!(bench.drops(DropReason::NeighborUnresolved), 0);
    bench.worker.clock().advance(Duration::from_millis(1));
    bench.worker.turn();
    assert_eq!(bench.drops(DropReason::NeighborUnresolved), 8);
    assert_eq!(bench.worker.io().statistics().frames_free, 512);
}

#[test]
fn new_routes_send_what_waits() {
    let mut bench = in_memory(false);
    bench.worker.io().inject(V6, &request(b"patient"));
    bench.worker.turn();
    bench.routes.store(Arc::new(routes(2, true)));
    bench.worker.turn();
    let frame = bench.worker.io().take_sent(V4).expect("it leaves");
    assert!(frame.ends_with(b"patient"));
}

/// What the engine had ready before a change of the routes has next hops that mean nothing after it.
#[test]
fn what_waits_in_the_outbox_leaves_before_new_routes() {
    let io = MemoryIo::group(1, 2, 512, 512).unwrap().pop().unwrap();
    let mut bench = Bench::over(io, true);
    bench.worker.io().inject(V6, &request(b"open"));
    bench.worker.turn();
    let frame = bench.worker.io().take_sent(V4).expect("it leaves");
    let mapped = u16::from_be_bytes([frame[34], frame[35]]);
    // Without DF, and longer than every IPv6 link carries: two fragments each.
    for _ in 0..64 {
        let large = ipv4_udp(SERVER, [198, 51, 100, 1], (53, mapped), &[0x5a; 1400]);
        let large = ethernet(GATE, HOST, 0x0800, &large);
        assert!(bench.worker.io().inject(V4, &large));
    }
    bench.worker.turn();
    let mut sent = 0;
    while bench.worker.io().take_sent(V6).is_some() {
        sent += 1;
    }
    assert!((1..128).contains(&sent), "some wait in the outbox: {sent}");
    let nothing = RouteSnapshot::builder().port(port("v6")).port(port("v4"));
    bench.routes.store(Arc::new(nothing.build(2)));
    bench.worker.turn();
    while let Some(frame) = bench.worker.io().take_sent(V6) {
        assert_eq!(frame[..6], HOST);
        sent += 1;
    }
    assert_eq!(sent, 128);
}

#[test]
fn it_runs_until_nobody_has_commands_for_it() {
    let mut bench = in_memory(true);
    bench.worker.io().inject(V6, &request(b"x"));
    drop(bench.commands);
    bench.worker.run();
    assert_eq!(bench.published.get(counters::packets_forwarded(0)), 1);
}

#[test]
fn a_capture_is_replayed_in_its_own_time() {
    let dir = std::env::temp_dir().join(format!("g64-replay-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let [in6, in4, out6, out4] = ["in6", "in4", "out6", "out4"].map(|name| dir.join(name));
    let write = |path: &std::path::Path, packets: &[(u64, Vec<u8>)]| {
        let file = std::fs::File::create(path).unwrap();
        let mut writer = pcap_file::pcap::PcapWriter::new(file).unwrap();
        for (seconds, octets) in packets {
            let at = Duration::from_secs(*seconds);
            let len = u32::try_from(octets.len()).unwrap();
            let packet = pcap_file::pcap::PcapPacket::new(at, len, octets);
            writer.write_packet(&packet).unwrap();
        }
    };
    write(&in6, &[(1000, request(b"one")), (1003, request(b"two"))]);
    write(&in4, &[]);
    let io = PcapIo::open(&[(&in6, &out6), (&in4, &out4)]).unwrap();
    let mut bench = Bench::over(io, true);
    let mut times = Vec::new();
    while let Some(at) = bench.worker.io().advance().unwrap() {
        times.push(at);
        bench.worker.clock().set(at);
        while bench.worker.turn() {}
    }
    assert_eq!(times, [Instant::ZERO, Instant::from_nanos(3_000_000_000)]);
    bench.worker.into_io().finish().unwrap();
    let file = std::fs::File::open(&out4).unwrap();
    let mut reader = pcap_file::pcap::PcapReader::new(file).unwrap();
    for (seconds, payload) in [(1000, b"one"), (1003, b"two")] {
        let packet = reader.next_packet().unwrap().unwrap();
        assert_eq!(packet.timestamp, Duration::from_secs(seconds));
        assert!(packet.data.ends_with(payload));
    }
    assert!(reader.next_packet().is_none());
    std::fs::remove_dir_all(dir).unwrap();
}
