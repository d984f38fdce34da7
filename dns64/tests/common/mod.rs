//! A client, a server with its clock, and what stands behind them.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unused_imports, reason = "each test file uses its part")]

pub mod programs;
mod records;
mod scripted;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use gate64_dns64::{Clock, Config, Protocol, Server, Timeouts};
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

pub use records::*;
pub use scripted::*;

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A loopback address that no other test of this or another run uses at this time.
pub fn own_addr() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from((
        Ipv4Addr::new(127, high | 64, low, u8::try_from(next % 250 + 1).unwrap()),
        5300 + next / 250,
    ))
}

async fn read_message(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Message> {
    let length = stream.read_u16().await.ok()?;
    let mut octets = vec![0; usize::from(length)];
    stream.read_exact(&mut octets).await.ok()?;
    Message::from_vec(&octets).ok()
}

async fn write_message(stream: &mut (impl AsyncWriteExt + Unpin), message: &Message) {
    let octets = message.to_vec().unwrap();
    let length = u16::try_from(octets.len()).unwrap();
    let _ = stream.write_all(&length.to_be_bytes()).await;
    let _ = stream.write_all(&octets).await;
}

/// What a client puts into its question.
#[derive(Clone, Copy)]
pub struct Flags {
    pub edns: Option<u16>,
    pub dnssec_ok: bool,
    pub checking_disabled: bool,
    pub authentic_data: bool,
    pub recursion_desired: bool,
}

pub const PLAIN: Flags = Flags {
    edns: Some(1232),
    dnssec_ok: false,
    checking_disabled: false,
    authentic_data: false,
    recursion_desired: true,
};

pub const DO: Flags = Flags {
    dnssec_ok: true,
    ..PLAIN
};

pub const DO_CD: Flags = Flags {
    checking_disabled: true,
    ..DO
};

pub const CD: Flags = Flags {
    checking_disabled: true,
    ..PLAIN
};

pub fn question(owner: &str, qtype: RecordType, flags: Flags) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = flags.recursion_desired;
    message.metadata.checking_disabled = flags.checking_disabled;
    message.metadata.authentic_data = flags.authentic_data;
    message.add_query(Query::query(name(owner), qtype));
    if let Some(size) = flags.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size).set_dnssec_ok(flags.dnssec_ok);
        message.edns = Some(edns);
    }
    message
}

/// A server in front of scripted upstreams, and a client of it.
pub struct Bench {
    pub upstream: ScriptedUpstream,
    pub server: Server,
    pub addr: SocketAddr,
    pub clock: Clock,
    pub ready: Arc<AtomicBool>,
}

/// For tests that wait until an upstream that says nothing is given up: after two tries. One that
/// answers has done so before, though everything stands still for two seconds.
pub fn impatient() -> Timeouts {
    Timeouts {
        attempt: Duration::from_millis(1500),
        query: Duration::from_secs(3),
        ..Timeouts::default()
    }
}

/// Nobody is asked twice because an upstream that answers at once takes its time, beside a busy
/// build or on a machine that stands still for a while: questions can be counted.
pub fn patient() -> Timeouts {
    let attempt = Duration::from_secs(10);
    Timeouts {
        attempt,
        query: 2 * attempt,
        patience_min: attempt,
        ..Timeouts::default()
    }
}

/// The well-known prefix in front of documentation addresses, one upstream.
pub fn config(upstream: &ScriptedUpstream) -> Config {
    Config {
        listen: vec![own_addr()],
        upstream: vec![upstream.upstream(Protocol::Udp)],
        pref64: vec!["64:ff9b::/96".parse().unwrap()],
        wkp_strict: false,
        timeouts: patient(),
        ..Config::default()
    }
}

impl Bench {
    pub async fn start() -> Bench {
        Bench::with(|_| {}).await
    }

    /// The well-known prefix and 2001:db8:122::/48.
    pub async fn with_two_prefixes() -> Bench {
        Bench::with(|config| config.pref64.push("2001:db8:122::/48".parse().unwrap())).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Bench {
        let upstream = ScriptedUpstream::start().await;
        let mut config = config(&upstream);
        change(&mut config);
        let addr = config.listen[0];
        let clock = Clock::manual();
        let ready = Arc::new(AtomicBool::new(true));
        let server = Server::start_with_clock(config, ready.clone(), clock.clone()).unwrap();
        Bench {
            upstream,
            server,
            addr,
            clock,
            ready,
        }
    }

    pub async fn ask(&self, owner: &str, qtype: RecordType) -> Message {
        self.ask_with(owner, qtype, PLAIN).await
    }

    pub async fn ask_with(&self, owner: &str, qtype: RecordType, flags: Flags) -> Message {
        let message = question(owner, qtype, flags);
        let octets = exchange_udp(self.addr, &message.to_vec().unwrap()).await;
        let response = Message::from_vec(&octets).unwrap();
        assert_eq!(response.metadata.id, message.metadata.id);
        assert_eq!(response.metadata.message_type, MessageType::Response);
        assert_eq!(response.queries, message.queries);
        response
    }

    pub async fn ask_tcp(&self, owner: &str, qtype: RecordType) -> Message {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        write_message(&mut stream, &question(owner, qtype, PLAIN)).await;
        let read = tokio::time::timeout(PATIENCE, read_message(&mut stream));
        read.await.expect("an answer over TCP in time").unwrap()
    }

    /// The AAAA addresses of an answer, as text with their TTL.
    pub async fn aaaa(&self, owner: &str) -> Vec<(String, u32)> {
        addresses(&self.ask(owner, RecordType::AAAA).await)
    }
}

/// UDP sockets of this machine that are connected to the address.
pub fn sockets_to(addr: SocketAddr) -> usize {
    let SocketAddr::V4(v4) = addr else {
        panic!("{addr}");
    };
    let ip = u32::from_ne_bytes(v4.ip().octets());
    let remote = format!("{ip:08X}:{:04X}", v4.port());
    let sockets = std::fs::read_to_string("/proc/net/udp").unwrap();
    sockets
        .lines()
        .filter(|line| line.split_whitespace().nth(2) == Some(&remote))
        .count()
}

pub fn rcode(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

pub async fn exchange_udp(server: SocketAddr, octets: &[u8]) -> Vec<u8> {
    let any = if server.is_ipv4() {
        "127.0.0.1:0"
    } else {
        "[::1]:0"
    };
    let socket = UdpSocket::bind(any).await.unwrap();
    socket.send_to(octets, server).await.unwrap();
    let mut buffer = vec![0; 65535];
    let received = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer));
    let (len, from) = received.await.expect("an answer over UDP in time").unwrap();
    assert_eq!(from, server);
    buffer.truncate(len);
    buffer
}

/// Waits, no longer than a test has patience, until it is so.
pub async fn wait_for(mut is_so: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 5 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(is_so(), "waited in vain");
}

pub fn addresses(message: &Message) -> Vec<(String, u32)> {
    let records = message.answers.iter();
    let found = records.filter_map(|r| match &r.data {
        RData::AAAA(ip) => Some((ip.0.to_string(), r.ttl)),
        _ => None,
    });
    found.collect()
}

/// The extended error codes of an answer.
pub fn extended_errors(message: &Message) -> Vec<u16> {
    let options = message
        .edns
        .iter()
        .flat_map(|e| e.options().as_ref().iter());
    let codes = options.filter_map(|(_, option)| match option {
        EdnsOption::Unknown(15, data) => Some(u16::from_be_bytes([data[0], data[1]])),
        _ => None,
    });
    codes.collect()
}

/// Addresses with their TTL, as [`addresses`] gives them.
pub fn owned(list: &[(&str, u32)]) -> Vec<(String, u32)> {
    list.iter()
        .map(|(ip, ttl)| ((*ip).to_string(), *ttl))
        .collect()
}

pub fn types(records: &[Record]) -> Vec<RecordType> {
    records.iter().map(Record::record_type).collect()
}
