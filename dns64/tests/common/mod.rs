//! A scripted upstream on loopback, a client, and a server between them.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod programs;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gate64_dns64::{Clock, Config, Protocol, Server, Timeouts, Upstream};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NULL, PTR, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(5);

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

pub fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

pub fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

pub fn a(owner: &str, ttl: u32, ip: &str) -> Record {
    record(owner, ttl, RData::A(A(ip.parse().unwrap())))
}

pub fn aaaa(owner: &str, ttl: u32, ip: &str) -> Record {
    record(owner, ttl, RData::AAAA(AAAA(ip.parse().unwrap())))
}

pub fn cname(owner: &str, ttl: u32, target: &str) -> Record {
    record(owner, ttl, RData::CNAME(CNAME(name(target))))
}

pub fn ptr(owner: &str, ttl: u32, target: &str) -> Record {
    record(owner, ttl, RData::PTR(PTR(name(target))))
}

pub fn txt(owner: &str, ttl: u32, text: &str) -> Record {
    record(owner, ttl, RData::TXT(TXT::new(vec![text.into()])))
}

pub fn soa(zone: &str, ttl: u32, minimum: u32) -> Record {
    let soa = SOA::new(
        name(zone),
        name("nobody.invalid."),
        1,
        7200,
        3600,
        604_800,
        minimum,
    );
    record(zone, ttl, RData::SOA(soa))
}

/// A DNAME record, which hickory knows only as unknown data.
pub fn dname(owner: &str, ttl: u32, target: &str) -> Record {
    let mut octets = Vec::new();
    for label in name(target).iter() {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend_from_slice(label);
    }
    octets.push(0);
    unknown(owner, ttl, RecordType::DNAME, octets)
}

/// A signature that covers a type; nobody here checks it.
pub fn rrsig(owner: &str, ttl: u32, covered: RecordType) -> Record {
    let mut octets = u16::from(covered).to_be_bytes().to_vec();
    octets.extend_from_slice(&[13, 2, 0, 0, 1, 44, 0, 0, 0, 9, 0, 0, 0, 1, 0, 7]);
    octets.extend_from_slice(b"\x04test\x00signature-octets");
    unknown(owner, ttl, RecordType::RRSIG, octets)
}

fn unknown(owner: &str, ttl: u32, code: RecordType, octets: Vec<u8>) -> Record {
    record(
        owner,
        ttl,
        RData::Unknown {
            code,
            rdata: NULL::with(octets),
        },
    )
}

/// What the upstream does with a question.
#[derive(Clone)]
pub enum Reply {
    /// Sections and header bits.
    Answer(Box<Script>),
    /// Nothing comes back.
    Silence,
    /// Octets as they are, the question's id put in front.
    Octets(Vec<u8>),
    /// What the server there says, over UDP.
    Forward(SocketAddr),
}

#[derive(Clone, Default)]
pub struct Script {
    pub rcode: Option<ResponseCode>,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
    pub authentic: bool,
    pub extended_error: Option<u16>,
    /// Over UDP only: an empty answer with TC.
    pub truncated_over_udp: bool,
    pub delay: Duration,
    /// First a response with another id, over UDP.
    pub wrong_id_first: bool,
    /// Answers another question.
    pub other_question: bool,
    /// First a lie from another socket, with the right id and question.
    pub forged_from_elsewhere: bool,
    /// Over UDP, a lie with the right id and the question in lower case.
    pub lower_case_lie_over_udp: bool,
}

impl Script {
    pub fn reply(self) -> Reply {
        Reply::Answer(Box::new(self))
    }
}

pub fn answer(answers: Vec<Record>) -> Reply {
    Script {
        answers,
        ..Script::default()
    }
    .reply()
}

/// NOERROR without records, with a SOA record of this negative TTL.
pub fn nodata(zone: &str, ttl: u32) -> Reply {
    Script {
        authorities: vec![soa(zone, ttl, ttl)],
        ..Script::default()
    }
    .reply()
}

pub fn failure(rcode: ResponseCode) -> Reply {
    Script {
        rcode: Some(rcode),
        ..Script::default()
    }
    .reply()
}

#[derive(Default)]
struct Scripts {
    of: HashMap<(Name, RecordType), Reply>,
    /// For all names that have none of their own.
    otherwise: Option<Reply>,
}

/// A resolver that says what it is told to say. Names it was not told about do not exist.
pub struct ScriptedUpstream {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    scripts: Mutex<Scripts>,
    log: Mutex<Vec<(Message, Protocol)>>,
    connections: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl Drop for ScriptedUpstream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|task| task.abort());
        self.close_connections();
    }
}

impl ScriptedUpstream {
    pub async fn start() -> ScriptedUpstream {
        let addr = own_addr();
        let udp = Arc::new(UdpSocket::bind(addr).await.unwrap());
        let tcp = TcpListener::bind(addr).await.unwrap();
        let shared: Arc<Shared> = Arc::default();
        let tasks = vec![
            tokio::spawn(serve_udp(udp, shared.clone())),
            tokio::spawn(serve_tcp(tcp, shared.clone())),
        ];
        ScriptedUpstream {
            addr,
            shared,
            tasks,
        }
    }

    pub fn on(&self, owner: &str, qtype: RecordType, reply: Reply) -> &Self {
        let key = (name(owner), qtype);
        self.shared.scripts.lock().unwrap().of.insert(key, reply);
        self
    }

    /// What names without a script of their own get.
    pub fn on_all(&self, reply: Reply) {
        self.shared.scripts.lock().unwrap().otherwise = Some(reply);
    }

    /// TCP connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.lock().unwrap().len()
    }

    pub fn close_connections(&self) {
        let connections = self.shared.connections.lock().unwrap();
        connections.iter().for_each(|task| task.abort());
    }

    /// Takes no further connections; those that come are refused.
    pub fn stop_tcp(&self) {
        self.tasks[1].abort();
        self.close_connections();
    }

    /// Name and type of every question so far.
    pub fn asked(&self) -> Vec<(String, RecordType)> {
        let log = self.shared.log.lock().unwrap();
        let queries = log.iter().map(|(message, _)| &message.queries[0]);
        queries
            // Upstreams see letters in random case.
            .map(|q| (q.name().to_lowercase().to_string(), q.query_type()))
            .collect()
    }

    pub fn asked_about(&self, owner: &str, qtype: RecordType) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|q| q.0 == owner && q.1 == qtype)
            .count()
    }

    pub fn messages(&self) -> Vec<(Message, Protocol)> {
        self.shared.log.lock().unwrap().clone()
    }

    pub fn upstream(&self, protocol: Protocol) -> Upstream {
        Upstream {
            protocol,
            addr: self.addr,
            name: String::new(),
            path: String::new(),
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = [0; 4096];
    while let Ok((len, client)) = socket.recv_from(&mut buffer).await {
        let Ok(query) = Message::from_vec(&buffer[..len]) else {
            continue;
        };
        let reply = note(&shared, &query, Protocol::Udp);
        let socket = socket.clone();
        tokio::spawn(async move { reply_udp(&socket, client, &query, reply).await });
    }
}

async fn reply_udp(socket: &UdpSocket, client: SocketAddr, query: &Message, reply: Reply) {
    let script = match reply {
        Reply::Silence => return,
        Reply::Octets(octets) => {
            let octets = [query.metadata.id.to_be_bytes().as_slice(), &octets].concat();
            socket.send_to(&octets, client).await.unwrap();
            return;
        }
        Reply::Forward(server) => {
            let octets = query.to_vec().unwrap();
            let answer = exchange_udp(server, &octets).await;
            socket.send_to(&answer, client).await.unwrap();
            return;
        }
        Reply::Answer(script) => script,
    };
    let response = respond(query, &script, Protocol::Udp);
    let mut lie = response.clone();
    let owner = query.queries[0].name().to_string();
    lie.answers = vec![
        a(&owner, 300, "192.0.2.66"),
        aaaa(&owner, 300, "2001:db8::bad"),
    ];
    if script.forged_from_elsewhere {
        let elsewhere = UdpSocket::bind((socket.local_addr().unwrap().ip(), 0))
            .await
            .unwrap();
        let octets = lie.to_vec().unwrap();
        elsewhere.send_to(&octets, client).await.unwrap();
    }
    if script.lower_case_lie_over_udp {
        let question = Query::query(name(&owner).to_lowercase(), query.queries[0].query_type());
        lie.queries = vec![question];
        socket
            .send_to(&lie.to_vec().unwrap(), client)
            .await
            .unwrap();
        return;
    }
    tokio::time::sleep(script.delay).await;
    if script.wrong_id_first {
        lie.metadata.id ^= 1;
        socket
            .send_to(&lie.to_vec().unwrap(), client)
            .await
            .unwrap();
    }
    // A client that waits no longer may be gone.
    let _ = socket.send_to(&response.to_vec().unwrap(), client).await;
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let serving = tokio::spawn(serve_connection(stream, shared.clone()));
        shared.connections.lock().unwrap().push(serving);
    }
}

/// Answers the questions of a connection as they are ready, not in turn. Its end ends all.
async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let mut replies = tokio::task::JoinSet::new();
    while let Some(query) = read_message(&mut reader).await {
        let reply = note(&shared, &query, Protocol::Tcp);
        let writer = writer.clone();
        replies.spawn(async move {
            if let Reply::Answer(script) = reply {
                tokio::time::sleep(script.delay).await;
                let response = respond(&query, &script, Protocol::Tcp);
                write_message(&mut *writer.lock().await, &response).await;
            }
        });
    }
}

/// Writes the question down and says what is replied.
fn note(shared: &Shared, query: &Message, protocol: Protocol) -> Reply {
    shared.log.lock().unwrap().push((query.clone(), protocol));
    let question = &query.queries[0];
    let scripts = shared.scripts.lock().unwrap();
    let key = (question.name().to_lowercase(), question.query_type());
    let reply = scripts.of.get(&key).or(scripts.otherwise.as_ref());
    reply.cloned().unwrap_or_else(|| {
        Script {
            rcode: Some(ResponseCode::NXDomain),
            authorities: vec![soa("test.", 30, 30)],
            ..Script::default()
        }
        .reply()
    })
}

fn respond(query: &Message, script: &Script, protocol: Protocol) -> Message {
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = query.metadata.checking_disabled;
    message.metadata.authentic_data = script.authentic;
    message.metadata.response_code = script.rcode.unwrap_or(ResponseCode::NoError);
    message.queries = query.queries.clone();
    if script.other_question {
        message.queries = vec![Query::query(name("other.test."), RecordType::AAAA)];
    }
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(1232)
            .set_dnssec_ok(asked.flags().dnssec_ok);
        if let Some(code) = script.extended_error {
            let octets = code.to_be_bytes().to_vec();
            edns.options_mut().insert(EdnsOption::Unknown(15, octets));
        }
        message.edns = Some(edns);
    }
    if script.truncated_over_udp && protocol == Protocol::Udp {
        message.metadata.truncation = true;
        return message;
    }
    message.answers = script.answers.clone();
    message.authorities = script.authorities.clone();
    message.additionals = script.additionals.clone();
    message
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

/// The well-known prefix in front of documentation addresses, short timeouts, one upstream.
pub fn config(upstream: &ScriptedUpstream) -> Config {
    Config {
        listen: vec![own_addr()],
        upstream: vec![upstream.upstream(Protocol::Udp)],
        pref64: vec!["64:ff9b::/96".parse().unwrap()],
        wkp_strict: false,
        timeouts: Timeouts {
            attempt: Duration::from_millis(300),
            query: Duration::from_millis(900),
            ..Timeouts::default()
        },
        ..Config::default()
    }
}

impl Bench {
    pub async fn start() -> Bench {
        Bench::with(|_| {}).await
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
