//! Collectors of other origin, started on loopback, and a scene of things that happen.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use gate64_log::config::{SinkConfig, SinkKind, Target};
use gate64_log::sink::Sink;
use gate64_log::{
    Alarm, AlarmKind, Block, BlockAction, Bus, EventKind, Prefix6, Session, SessionAction, What,
};
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A loopback address that no other test of this or another run uses, with a port that the kernel
/// gives to nobody.
pub fn own_addr() -> SocketAddrV4 {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddrV4::new(Ipv4Addr::new(127, high | 128, low, next), 5140)
}

pub async fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_there() {
        assert!(began.elapsed() < PATIENCE, "no {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn wait_for_udp(addr: SocketAddrV4) {
    wait_for("listener", || unread("udp", addr).is_some()).await;
}

async fn wait_for_tcp(addr: SocketAddrV4) {
    wait_for("listener", || unread("tcp", addr).is_some()).await;
}

/// Whoever listens there has taken all datagrams that came.
pub async fn wait_until_read(addr: SocketAddrV4) {
    wait_for("reader", || unread("udp", addr) == Some(0)).await;
}

/// Octets that the listener has not read yet, if there is one: by /proc/net. Who binds the port to
/// see whether it is taken may take it from the one that is awaited.
fn unread(protocol: &str, addr: SocketAddrV4) -> Option<u64> {
    let table = std::fs::read_to_string(format!("/proc/net/{protocol}")).unwrap();
    let ip = u32::from_ne_bytes(addr.ip().octets());
    let (local, nobody) = (format!("{ip:08X}:{:04X}", addr.port()), "00000000:0000");
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let queues = words.get(4)?;
        let is_it = words[1] == local && words[2] == nobody;
        let (_, received) = queues.split_once(':').filter(|_| is_it)?;
        u64::from_str_radix(received, 16).ok()
    })
}

/// A program that runs until it is stopped.
pub struct Collector {
    child: Child,
}

impl Collector {
    pub async fn start(program: &str, arguments: &[&str], place: &Path) -> Collector {
        let messages = File::create(place.join("messages")).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(messages.try_clone().unwrap())
            .stderr(messages)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}: run `make deps`"));
        Collector { child }
    }

    /// Lets it write what it has, and waits for its end.
    pub async fn stop(self) {
        self.end(Signal::SIGTERM).await;
    }

    /// As [`Collector::stop`], for those that end in good order only on SIGINT.
    pub async fn interrupt(self) {
        self.end(Signal::SIGINT).await;
    }

    async fn end(mut self, signal: Signal) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        let process = nix::unistd::Pid::from_raw(id);
        nix::sys::signal::kill(process, signal).unwrap();
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("the collector ends").unwrap();
    }
}

pub async fn output(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().await;
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}: run `make deps`"));
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{program}: {errors}");
    String::from_utf8(done.stdout).unwrap()
}

/// What happens in a test.
pub struct Scene {
    happened: Vec<What>,
}

impl Scene {
    /// Of each kind `count` things, mixed.
    pub fn new(count: u16) -> Scene {
        let mut happened = vec![What::Started];
        for number in 0..count {
            happened.push(What::Block(BlockAction::Allocated, block(number)));
            happened.push(What::Session(SessionAction::Created, session(number)));
            if number.is_multiple_of(3) {
                happened.push(What::Block(BlockAction::Live, block(number)));
            }
            if number.is_multiple_of(5) {
                let alarm = Alarm {
                    kind: AlarmKind::PortBlocks,
                    subject: format!("192.0.2.0/24 {number}"),
                    raised: number.is_multiple_of(2),
                    used_percent: 80,
                    threshold_percent: 80,
                };
                happened.push(What::Alarm(Arc::new(alarm)));
            }
            happened.push(What::Session(SessionAction::Deleted, session(number)));
            happened.push(What::Block(BlockAction::Released, block(number)));
        }
        Scene { happened }
    }

    /// Lets it happen, for one sink.
    pub async fn send(&self, kind: SinkKind, target: Target, events: &[EventKind]) {
        let bus = Bus::new(0);
        let config = SinkConfig {
            kind,
            target,
            events: events.to_vec(),
        };
        let sink = Sink::start(config, &bus);
        // In three parts, so that no batch is all there is.
        for part in self.happened.chunks(self.happened.len().div_ceil(3)) {
            for what in part {
                bus.tell(what.clone());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        wait_for("delivery", || {
            let report = bus.report();
            report.iter().all(|one| one.waiting == 0)
        })
        .await;
        let report = bus.report();
        bus.close();
        sink.join().await;
        let problem = report.iter().find_map(|one| one.problem.clone());
        assert_eq!((problem, report[0].lost), (None, 0));
    }

    /// The lines that are expected, in order.
    pub fn lines(&self, line: impl Fn(&What) -> Option<String>) -> Vec<String> {
        self.happened.iter().filter_map(line).collect()
    }
}

fn block(number: u16) -> Block {
    Block {
        subscriber: Prefix6 {
            ip: Ipv6Addr::new(0x2001, 0xdb8, 0x42, number, 0, 0, 0, 0),
            length: 64,
        },
        v4: Ipv4Addr::new(203, 0, 113, number.to_le_bytes()[0] % 7),
        port_first: 1024 + number % 100 * 512,
        port_count: 512,
    }
}

fn session(number: u16) -> Session {
    let remote = Ipv4Addr::new(198, 51, 100, number.to_le_bytes()[0]);
    let [a, b, c, d] = remote.octets();
    let embedded = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    Session {
        protocol: if number.is_multiple_of(2) {
            Protocol::Tcp
        } else {
            Protocol::Udp
        },
        v6: TransportAddr6 {
            ip: Ipv6Addr::new(0x2001, 0xdb8, 0x42, number, 0, 0, 0, 0x10),
            port: 40_000 + number,
        },
        v6_remote: TransportAddr6 {
            ip: Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, embedded[0], embedded[1]),
            port: 443,
        },
        v4: TransportAddr4 {
            ip: Ipv4Addr::new(203, 0, 113, 5),
            port: 2000 + number,
        },
        v4_remote: TransportAddr4 {
            ip: remote,
            port: 443,
        },
    }
}

/// What a sink sends: datagrams, or the pieces of a connection.
pub async fn receive(
    scene: &Scene,
    kind: SinkKind,
    over_tcp: bool,
    events: &[EventKind],
) -> Vec<Vec<u8>> {
    if over_tcp {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Tcp(listener.local_addr().unwrap());
        let reading = tokio::spawn(connection(listener));
        scene.send(kind, target, events).await;
        return reading.await.unwrap();
    }
    // Its buffer has room for a scene.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = Target::Udp(socket.local_addr().unwrap());
    scene.send(kind, target, events).await;
    socket.set_nonblocking(true).unwrap();
    let mut datagram = [0; 65_536];
    let mut all = Vec::new();
    while let Ok(length) = socket.recv(&mut datagram) {
        all.push(datagram[..length].to_vec());
    }
    all
}

async fn connection(listener: tokio::net::TcpListener) -> Vec<Vec<u8>> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all.chunks(1000).map(<[u8]>::to_vec).collect()
}

/// A record's fields as tshark names them.
pub type Row = BTreeMap<String, String>;

/// The records of IPFIX messages, decoded by tshark; anything that it finds odd fails the test.
pub async fn tshark(octets: &[Vec<u8>], over_tcp: bool) -> Vec<Row> {
    let place = tempfile::tempdir().unwrap();
    let capture = place.path().join("capture.pcap");
    std::fs::write(&capture, pcap(octets, over_tcp)).unwrap();
    let port = if over_tcp { "tcp.port" } else { "udp.port" };
    let decode = format!("{port}==4739,cflow");
    let capture = capture.to_str().unwrap();
    let text = output("tshark", &["-r", capture, "-d", &decode, "-T", "pdml"]).await;
    assert!(!text.contains("_ws.malformed"), "{text}");
    assert!(!text.contains("_ws.expert"), "{text}");
    assert!(!text.contains("No template found"), "{text}");
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines() {
        let show = attribute(line, "show").unwrap_or_default();
        match attribute(line, "name") {
            Some("") if show.starts_with("Flow ") => rows.push(Row::new()),
            Some(name) if name.starts_with("cflow.") => {
                if let Some(row) = rows.last_mut() {
                    row.insert(name.to_owned(), show.to_owned());
                }
            }
            _ => {}
        }
    }
    rows
}

fn attribute<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let after = line.split_once(&format!(" {name}=\""))?.1;
    Some(after.split_once('"')?.0)
}

/// A capture of raw IPv4 packets (LINKTYPE_RAW) with these payloads.
fn pcap(payloads: &[Vec<u8>], over_tcp: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
        out.extend(word.to_le_bytes());
    }
    let mut sequence = 1u32;
    for payload in payloads {
        let packet = match over_tcp {
            true => ip(6, &tcp(sequence, payload)),
            false => ip(17, &udp(payload)),
        };
        sequence += u32::try_from(payload.len()).unwrap();
        let length = u32::try_from(packet.len()).unwrap();
        for word in [0, 0, length, length] {
            out.extend(word.to_le_bytes());
        }
        out.extend(packet);
    }
    out
}

fn ip(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![
        0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0,
    ];
    packet.extend([127, 0, 0, 1, 127, 0, 0, 2]);
    packet.extend(payload);
    packet
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let words = [40_000u16, 4739, length, 0];
    let mut datagram: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
    datagram.extend(payload);
    datagram
}

fn tcp(sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(40_000u16.to_be_bytes());
    segment.extend(4739u16.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    segment
}

/// rsyslogd that writes what the tests compare, and how a sink reaches it.
pub async fn rsyslogd(over: &str, addr: SocketAddrV4, place: &Path) -> (Collector, Target) {
    let (ip, port) = (addr.ip(), addr.port());
    let path = |name: &str| place.join(name).to_str().unwrap().to_owned();
    let input = match over {
        "udp" => format!(
            // A scene that it comes late to fits its buffer.
            "module(load=\"imudp\")\ninput(type=\"imudp\" address=\"{ip}\" port=\"{port}\" rcvbufSize=\"4m\" ruleset=\"all\")"
        ),
        "tcp" => format!(
            "module(load=\"imtcp\")\ninput(type=\"imtcp\" address=\"{ip}\" port=\"{port}\" ruleset=\"all\")"
        ),
        _ => {
            certificate(place).await;
            format!(
                "global(DefaultNetstreamDriver=\"gtls\" DefaultNetstreamDriverCAFile=\"{0}\" \
                 DefaultNetstreamDriverCertFile=\"{0}\" DefaultNetstreamDriverKeyFile=\"{1}\")\n\
                 module(load=\"imtcp\" StreamDriver.Name=\"gtls\" StreamDriver.Mode=\"1\" \
                 StreamDriver.AuthMode=\"anon\")\n\
                 input(type=\"imtcp\" address=\"{ip}\" port=\"{port}\" ruleset=\"all\")",
                path("certificate.pem"),
                path("key.pem"),
            )
        }
    };
    let configuration = format!(
        "{input}\ntemplate(name=\"line\" type=\"string\" string=\"%msgid% %app-name% \
         %syslogfacility-text% %structured-data%\\n\")\n\
         ruleset(name=\"all\") {{ action(type=\"omfile\" file=\"{}\" template=\"line\") }}\n",
        path("out")
    );
    std::fs::write(place.join("rsyslog.conf"), configuration).unwrap();
    let (configuration, id) = (path("rsyslog.conf"), path("pid"));
    let arguments = ["-n", "-f", &configuration, "-i", &id];
    let collector = Collector::start("rsyslogd", &arguments, place).await;
    let target = match over {
        "udp" => {
            wait_for_udp(addr).await;
            return (collector, Target::Udp(addr.into()));
        }
        "tcp" => Target::Tcp(addr.into()),
        _ => Target::Tls {
            addr: addr.into(),
            name: "collector.test".to_owned(),
            ca: place.join("certificate.pem"),
        },
    };
    wait_for_tcp(addr).await;
    (collector, target)
}

/// A certificate that trusts itself, for collector.test.
async fn certificate(place: &Path) {
    let path = |name: &str| place.join(name).to_str().unwrap().to_owned();
    let configuration = "[req]\ndistinguished_name=name\nx509_extensions=extensions\nprompt=no\n\
                         [name]\nCN=collector.test\n[extensions]\nbasicConstraints=critical,CA:FALSE\n\
                         subjectAltName=DNS:collector.test\n";
    std::fs::write(place.join("openssl.conf"), configuration).unwrap();
    let curve = "ec_paramgen_curve:prime256v1";
    let (configuration, key, out) = (
        path("openssl.conf"),
        path("key.pem"),
        path("certificate.pem"),
    );
    output(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            curve,
            "-nodes",
            "-days",
            "2",
            "-config",
            &configuration,
            "-keyout",
            &key,
            "-out",
            &out,
        ],
    )
    .await;
}
