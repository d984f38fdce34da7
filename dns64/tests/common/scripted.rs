//! An upstream that says what a test tells it to say, over UDP and TCP.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gate64_dns64::{Protocol, Upstream};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::records::{a, aaaa, name, soa};
use super::{exchange_udp, own_addr, read_message, write_message};

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
    /// Nothing is answered before this is closed.
    pub held: Option<Arc<Semaphore>>,
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

    async fn wait(&self) {
        if let Some(held) = &self.held {
            let _ = held.acquire().await;
        }
        tokio::time::sleep(self.delay).await;
    }
}

pub fn answer(answers: Vec<Record>) -> Reply {
    Script {
        answers,
        ..Script::default()
    }
    .reply()
}

/// The address of names that have one and for which any will do.
pub const A1: &str = "192.0.2.1";

/// One A record, [`A1`].
pub fn one_a(owner: &str) -> Reply {
    answer(vec![a(owner, 300, A1)])
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

    /// The name has this one A record.
    pub fn has_a(&self, owner: &str, ttl: u32, ip: &str) -> &Self {
        self.on(owner, RecordType::A, answer(vec![a(owner, ttl, ip)]))
    }

    /// The name has these A records.
    pub fn has_all(&self, owner: &str, ttl: u32, ips: &[&str]) -> &Self {
        let records = ips.iter().map(|ip| a(owner, ttl, ip)).collect();
        self.on(owner, RecordType::A, answer(records))
    }

    /// The question gets SERVFAIL.
    pub fn fails(&self, owner: &str, qtype: RecordType) -> &Self {
        self.on(owner, qtype, failure(ResponseCode::ServFail))
    }

    /// The name has this one AAAA record.
    pub fn has_aaaa(&self, owner: &str, ttl: u32, ip: &str) -> &Self {
        let records = vec![aaaa(owner, ttl, ip)];
        self.on(owner, RecordType::AAAA, answer(records))
    }

    /// The name has no AAAA record, for so long.
    pub fn lacks_aaaa(&self, owner: &str, ttl: u32) -> &Self {
        self.on(owner, RecordType::AAAA, nodata("test.", ttl))
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
        Upstream::plain(protocol, self.addr)
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
    script.wait().await;
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
                script.wait().await;
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
