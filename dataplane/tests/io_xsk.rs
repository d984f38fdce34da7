//! AF_XDP sockets and steering over real veth interfaces.
#![allow(missing_docs)]

mod netns;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gate64_dataplane::config::{
    AutoOnOff, InterfaceConfig, L4Checksum, Nat64Config, Pool4Prefix, StaticBib, XdpModeChoice,
};
use gate64_dataplane::io::xsk::{self, Opened, XskIo};
use gate64_dataplane::io::{PacketIo, StartError, XdpMode};
use gate64_dataplane::packet::Frame;
use gate64_dataplane::route::PortId;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};
use netns::packets::{self, ethernet};
use netns::{A0_MAC, B0_MAC, F0_MAC, F1_MAC, Net, RawLink, SOON};

const POOL: [u8; 4] = [198, 51, 100, 1];
const SHARED: [u8; 4] = [192, 0, 2, 254];
const PEER: [u8; 4] = [192, 0, 2, 1];

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

fn interfaces() -> [InterfaceConfig; 2] {
    [interface("f0"), interface("f1")]
}

fn pool(address: [u8; 4], shared: bool) -> Pool4Prefix {
    Pool4Prefix {
        address: Ipv4Addr::from(address),
        length: 32,
        ports: 20000..=29999,
        exclude: Vec::new(),
        shared_with_host: shared,
        ..Pool4Prefix::default()
    }
}

fn nat64() -> Nat64Config {
    Nat64Config {
        pool4: vec![pool(POOL, false)],
        ..Nat64Config::default()
    }
}

fn open(net: &Net, configs: &[InterfaceConfig], nat64: &Nat64Config) -> Opened {
    let opened = Net::within(&net.f, || xsk::open(configs, 1, AutoOnOff::Auto, nat64));
    opened.unwrap_or_else(|error| panic!("{error}"))
}

fn ipv6_udp(payload: &[u8]) -> Vec<u8> {
    let (src, dst) = ("2001:db8:1::2", "64:ff9b::c000:201");
    let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
    packets::ipv6_udp(src, dst, (1000, 2000), payload)
}

fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    packets::udp(&[], src, dst, payload) // nobody checks the sum here
}

fn ipv4(dst: [u8; 4], protocol: u8, id: u16, fragment: u16, l4: &[u8]) -> Vec<u8> {
    packets::ipv4((PEER, dst), protocol, id, fragment, l4)
}

/// Receives on a port until a frame comes or the time is over.
fn next_frame(io: &mut XskIo, port: u8, within: Duration) -> Option<Vec<u8>> {
    let end = Instant::now() + within;
    let mut burst: Vec<Frame> = Vec::new();
    while Instant::now() < end {
        io.reclaim();
        if io.receive(PortId(port), 1, &mut burst) == 1 {
            let mut frame = burst.pop().unwrap();
            let octets = io.area().packet(&mut frame).bytes().to_vec();
            io.release(frame);
            return Some(octets);
        }
        io.wait(Duration::from_millis(5));
    }
    None
}

const NEVER: Duration = Duration::from_millis(100);

/// Moves everything between the ports until nothing has come for a while; the start of each
/// frame moves by `shift` octets, which the frame grows by.
fn forward(io: &mut XskIo, from: u8, to: u8, grow: i16, count: usize) {
    let end = Instant::now() + SOON;
    let mut burst = Vec::new();
    let mut done = 0;
    while done < count && Instant::now() < end {
        done += io.receive(PortId(from), 64, &mut burst);
        for mut frame in burst.drain(..) {
            let area = std::sync::Arc::clone(io.area());
            let mut packet = area.packet(&mut frame);
            match u16::try_from(grow) {
                Ok(grow) => assert!(packet.grow_front(grow)),
                Err(_) => packet.trim_front(grow.unsigned_abs()),
            }
            let (dst, src) = [(A0_MAC, F0_MAC), (B0_MAC, F1_MAC)][usize::from(to)];
            let head = ethernet(dst, src, 0x88b5, &[]); // a local experimental EtherType
            packet.bytes_mut()[..14].copy_from_slice(&head);
            io.stage(PortId(to), frame).expect("the ring has room");
        }
        io.flush();
        io.reclaim();
        io.wait(Duration::from_millis(1));
    }
    assert_eq!(done, count);
}

#[test]
fn frames_cross_with_their_start_moved_both_ways() {
    const COUNT: usize = 200;
    let net = Net::up(1);
    let mut opened = open(&net, &interfaces(), &nat64());
    for report in &opened.interfaces {
        assert_eq!(report.mode, XdpMode::Native, "{:?}", report.notes);
        assert_eq!((report.queues, report.mtu), (1, 1500));
        assert_eq!(report.driver, "veth");
    }
    let io = &mut opened.workers[0];
    let all = io.statistics();
    let all = all.frames_free + all.frames_receiving;
    let (a, b) = (RawLink::open(&net.a, "a0"), RawLink::open(&net.b, "b0"));
    let payloads: Vec<Vec<u8>> = (0..COUNT)
        .map(|i| vec![u8::try_from(i).unwrap(); 60 + i])
        .collect();
    for payload in &payloads {
        a.send(&ethernet(F0_MAC, A0_MAC, 0x86dd, &ipv6_udp(payload)));
    }
    forward(io, 0, 1, -20, COUNT);
    for payload in &payloads {
        let frame = b.receive_where(|frame| frame[12..14] == [0x88, 0xb5]);
        let frame = frame.expect("each frame arrives, in order");
        assert_eq!(frame[..12], [B0_MAC, F1_MAC].concat());
        assert_eq!(frame[14 + 20 + 8..], payload[..]);
    }
    for payload in &payloads {
        let packet = ipv4(POOL, 17, 1, 0, &udp(7, 20000, payload));
        b.send(&ethernet(F1_MAC, B0_MAC, 0x0800, &packet));
    }
    forward(io, 1, 0, 20, COUNT);
    for payload in &payloads {
        let frame = a.receive_where(|frame| frame[12..14] == [0x88, 0xb5]);
        assert_eq!(frame.expect("arrives")[14 + 40 + 8..], payload[..]);
    }
    io.reclaim();
    let statistics = io.statistics();
    assert_eq!(statistics.frames_sending, 0);
    assert_eq!(statistics.frames_free + statistics.frames_receiving, all);
    let probes = io.probes().unwrap();
    assert_eq!(probes[1].read().unwrap().tx_invalid, 0);
    let steered = opened.steering.statistics();
    assert_eq!(
        (steered[0].to_gate64_v6, steered[1].to_gate64_v4),
        (200, 200)
    );
}

#[test]
fn a_worker_can_drive_its_queues_itself() {
    const COUNT: usize = 100;
    let net = Net::up(1);
    let configs = interfaces().map(|config| InterfaceConfig {
        busy_poll: AutoOnOff::On,
        ..config
    });
    let mut opened = open(&net, &configs, &nat64());
    assert!(opened.interfaces.iter().all(|report| report.busy_poll));
    let (a, b) = (RawLink::open(&net.a, "a0"), RawLink::open(&net.b, "b0"));
    for _ in 0..COUNT {
        a.send(&ethernet(F0_MAC, A0_MAC, 0x86dd, &ipv6_udp(b"asked for")));
    }
    forward(&mut opened.workers[0], 0, 1, -20, COUNT);
    for _ in 0..COUNT {
        let frame = b.receive_where(|frame| frame[12..14] == [0x88, 0xb5]);
        assert_eq!(frame.expect("arrives")[14 + 20 + 8..], *b"asked for");
    }
}

#[test]
fn the_rest_goes_to_the_kernel() {
    let net = Net::up(1);
    let _opened = open(&net, &interfaces(), &nat64());
    for (ns, address) in [(&net.a, "2001:db8:1::1"), (&net.b, "192.0.2.254")] {
        netns::run("ip", &["netns", "exec", ns, "ping", "-c1", "-W5", address]);
    }
}

#[test]
fn only_the_configured_vlan_is_taken() {
    let net = Net::up(1);
    let mut configs = interfaces();
    configs[0].vlan = Some(7);
    let mut opened = open(&net, &configs, &nat64());
    let a = RawLink::open(&net.a, "a0");
    let packet = ipv6_udp(b"tagged");
    let tagged = |id: u16| {
        let mut rest = id.to_be_bytes().to_vec();
        rest.extend([0x86, 0xdd]);
        rest.extend(&packet);
        ethernet(F0_MAC, A0_MAC, 0x8100, &rest)
    };
    a.send(&ethernet(F0_MAC, A0_MAC, 0x86dd, &packet));
    a.send(&tagged(8));
    a.send(&tagged(0xe007)); // priority 7
    let io = &mut opened.workers[0];
    let frame = next_frame(io, 0, SOON).expect("the frame of VLAN 7");
    assert_eq!(frame, tagged(0xe007));
    assert_eq!(next_frame(io, 0, NEVER), None);
}

#[test]
fn of_a_shared_address_only_the_pools_ports_are_taken() {
    let net = Net::up(1);
    let config = Nat64Config {
        pool4: vec![pool(SHARED, true)],
        static_bib: vec![StaticBib {
            protocol: Protocol::Tcp,
            v6: TransportAddr6 {
                ip: "2001:db8:1::2".parse().unwrap(),
                port: 80,
            },
            v4: TransportAddr4 {
                ip: Ipv4Addr::from(SHARED),
                port: 80,
            },
        }],
        ..Nat64Config::default()
    };
    let mut opened = open(&net, &interfaces(), &config);
    let io = &mut opened.workers[0];
    let b = RawLink::open(&net.b, "b0");
    let behind = ipv4(SHARED, 17, 78, 0, &udp(9, 20000, b"behind"));
    let behind = ethernet(F1_MAC, B0_MAC, 0x0800, &behind);
    let mut ours = |what: &str, protocol: u8, fragment: u16, l4: &[u8]| {
        let packet = ipv4(SHARED, protocol, 77, fragment, l4);
        let frame = ethernet(F1_MAC, B0_MAC, 0x0800, &packet);
        b.send(&frame);
        // What comes behind it says that it does not come.
        b.send(&behind);
        let is_ours = match next_frame(io, 1, SOON).expect(what) {
            got if got == behind => return false,
            got => got == frame,
        };
        assert!(is_ours, "{what}: another frame comes");
        assert_eq!(next_frame(io, 1, SOON), Some(behind.clone()), "{what}");
        true
    };
    let tcp = |dst: u16| [udp(9, dst, &[]), vec![0; 12]].concat();
    let echo =
        |kind: u8, id: u16| [vec![kind, 0, 0, 0], id.to_be_bytes().to_vec(), vec![0, 1]].concat();
    let error_about = |inner: &[u8]| [vec![3, 1, 0, 0, 0, 0, 0, 0], inner.to_vec()].concat();
    let sent = |port: u16| {
        let mut packet = ipv4(PEER, 17, 1, 0, &udp(port, 53, b""));
        packet[12..16].copy_from_slice(&SHARED);
        packet
    };

    assert!(ours("UDP to the first port", 17, 0, &udp(9, 20000, b"x")));
    assert!(ours("UDP to the last port", 17, 0, &udp(9, 29999, b"x")));
    assert!(!ours("UDP below", 17, 0, &udp(9, 19999, b"x")));
    assert!(!ours("UDP above", 17, 0, &udp(9, 30000, b"x")));
    assert!(ours("TCP in the range", 6, 0, &tcp(20001)));
    assert!(!ours("SSH", 6, 0, &tcp(22)));
    assert!(ours("TCP to a static entry", 6, 0, &tcp(80)));
    assert!(!ours(
        "UDP to a port with a static TCP entry",
        17,
        0,
        &udp(9, 80, b"")
    ));
    assert!(ours("an answer to our echo", 1, 0, &echo(0, 20000)));
    assert!(!ours("an answer to the host's echo", 1, 0, &echo(0, 99)));
    assert!(!ours("a ping of the host", 1, 0, &echo(8, 20000)));
    assert!(ours(
        "an error about our packet",
        1,
        0,
        &error_about(&sent(20000))
    ));
    assert!(!ours(
        "an error about the host's packet",
        1,
        0,
        &error_about(&sent(40000))
    ));
    assert!(!ours("a later fragment of nothing seen", 17, 185, &[0; 16]));
    assert!(ours(
        "a first fragment of ours",
        17,
        0x2000,
        &udp(9, 20000, &[0; 8])
    ));
    assert!(ours("its later fragment", 17, 2, &[0; 16]));
    assert!(!ours("another protocol", 47, 0, &[0; 16]));

    Net::within(&net.f, || {
        let host = UdpSocket::bind("192.0.2.254:5000").unwrap();
        host.set_read_timeout(Some(SOON)).unwrap();
        let packet = packets::ipv4_udp(PEER, SHARED, (9, 5000), b"for the host");
        b.send(&ethernet(F1_MAC, B0_MAC, 0x0800, &packet));
        let mut buffer = [0; 64];
        let len = host.recv(&mut buffer).expect("the host's socket gets it");
        assert_eq!(&buffer[..len], b"for the host");
    });
}

#[test]
fn prefixes_change_live() {
    let net = Net::up(1);
    let mut opened = open(&net, &interfaces(), &nat64());
    let b = RawLink::open(&net.b, "b0");
    let frame = |dst: [u8; 4]| {
        ethernet(
            F1_MAC,
            B0_MAC,
            0x0800,
            &ipv4(dst, 17, 1, 0, &udp(9, 9, b"")),
        )
    };
    let other = [203, 0, 113, 9];
    let changed = Nat64Config {
        pool4: vec![pool(other, false)],
        ..Nat64Config::default()
    };
    opened.steering.update(&changed).unwrap();
    b.send(&frame(POOL));
    b.send(&frame(other));
    let io = &mut opened.workers[0];
    assert_eq!(next_frame(io, 1, SOON), Some(frame(other)));
    assert_eq!(next_frame(io, 1, NEVER), None);
}

#[test]
fn without_a_socket_nothing_leaks_to_the_kernel() {
    let net = Net::up(1);
    let mut opened = open(&net, &interfaces(), &nat64());
    opened.workers.clear();
    let a = RawLink::open(&net.a, "a0");
    // A program that another test starts has the sockets too, until it is that program: what comes
    // before goes there.
    let end = Instant::now() + SOON;
    while opened.steering.statistics()[0].no_socket == 0 && Instant::now() < end {
        a.send(&ethernet(F0_MAC, A0_MAC, 0x86dd, &ipv6_udp(b"dropped")));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_ne!(opened.steering.statistics()[0].no_socket, 0);
}

#[test]
fn each_queue_has_a_socket() {
    let net = Net::up(3);
    let configs = interfaces();
    let opened = Net::within(&net.f, || xsk::open(&configs, 2, AutoOnOff::Off, &nat64()));
    let opened = opened.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(opened.workers.len(), 2);
    // Worker 0 has queues 0 and 2, worker 1 has queue 1, of both interfaces.
    let receiving = |worker: usize| opened.workers[worker].statistics().frames_receiving;
    assert_eq!((receiving(0), receiving(1)), (4 * 2048, 2 * 2048));
    let four = Net::within(&net.f, || xsk::open(&configs, 4, AutoOnOff::Off, &nat64()));
    let error = four.expect_err("three queues are too few for four workers");
    assert!(
        matches!(error, StartError::TooFewQueues { queues: 3, .. }),
        "{error}"
    );
}

#[test]
fn a_second_program_is_refused() {
    let net = Net::up(1);
    let _opened = open(&net, &interfaces(), &nat64());
    let second = Net::within(&net.f, || {
        xsk::open(&interfaces(), 1, AutoOnOff::Auto, &nat64())
    });
    let error = second.expect_err("the interface is taken");
    assert!(
        matches!(error, StartError::ProgramAttached { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("f0"), "{error}");
}

#[test]
fn zero_copy_that_is_not_there_is_refused() {
    let net = Net::up(1);
    let mut configs = interfaces();
    configs[0].zero_copy = AutoOnOff::On;
    let result = Net::within(&net.f, || xsk::open(&configs, 1, AutoOnOff::Auto, &nat64()));
    let error = result.expect_err("veth has no zero-copy");
    assert!(matches!(error, StartError::NoZeroCopy { .. }), "{error}");
    assert!(net.loses_program(), "nothing is left behind");
}

#[test]
fn generic_mode_works_too() {
    let net = Net::up(1);
    let mut configs = interfaces();
    configs[0].xdp_mode = XdpModeChoice::Generic;
    let mut opened = open(&net, &configs, &nat64());
    assert_eq!(opened.interfaces[0].mode, XdpMode::Generic);
    let a = RawLink::open(&net.a, "a0");
    let frame = ethernet(F0_MAC, A0_MAC, 0x86dd, &ipv6_udp(b"generic"));
    a.send(&frame);
    assert_eq!(next_frame(&mut opened.workers[0], 0, SOON), Some(frame));
}

/// Not a test of its own: the process that `killed_it_leaves_nothing_attached` kills.
#[test]
fn child_holds_the_interfaces() {
    let Ok(ns) = std::env::var("G64_TEST_CHILD_NS") else {
        return;
    };
    netns::enter(&ns);
    let _opened = xsk::open(&interfaces(), 1, AutoOnOff::Auto, &nat64()).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn killed_it_leaves_nothing_attached() {
    let net = Net::up(1);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_holds_the_interfaces"])
        .env("G64_TEST_CHILD_NS", &net.f)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while !net.has_program() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(net.has_program(), "the child has attached");
    std::thread::sleep(Duration::from_millis(200));
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    let mut opened = open(&net, &interfaces(), &nat64());
    let a = RawLink::open(&net.a, "a0");
    let frame = ethernet(F0_MAC, A0_MAC, 0x86dd, &ipv6_udp(b"after"));
    a.send(&frame);
    assert_eq!(next_frame(&mut opened.workers[0], 0, SOON), Some(frame));
    drop(opened);
    assert!(net.loses_program());
}
