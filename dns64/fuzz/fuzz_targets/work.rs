//! What the targets have in common: a server on loopback with an upstream in this process, and
//! what holds of every answer, whatever was asked and whatever the upstream says.
//!
//! Real sockets, so that the front's own path is in it: a few thousand inputs a second.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use gate64_dns64::{Clock, Config, Limits, Protocol, Server, Timeouts, Upstream};
use hickory_proto::op::Message;
use hickory_proto::rr::RData;

/// Octets of the header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// The longest query that the front reads; a longer one is not answered.
const QUERY_OCTETS_MAX: usize = 2048;
/// The longest answer over UDP, to a client that takes it.
const ANSWER_OCTETS_MAX: usize = 1232;
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// TTL of the upstream's sane answers, and how far time moves between its mad ones.
const TTL_SECONDS: u8 = 60;
const STEP: Duration = Duration::from_secs(10);

/// Type codes.
const A: [u8; 2] = [0, 1];
const AAAA: [u8; 2] = [0, 28];

/// The server, its upstream and its client. One at a time uses it.
struct Bench {
    client: UdpSocket,
    upstream: Arc<Upstreams>,
    clock: Clock,
    asked: u32,
    _server: Server,
    _runtime: tokio::runtime::Runtime,
}

/// What the upstream says.
#[derive(Default)]
struct Upstreams {
    /// Of names below `mad.test.`: the header from its third octet on but for the number of
    /// questions, and all behind the question.
    mad: Mutex<Vec<u8>>,
    is_over: AtomicBool,
}

static BENCH: LazyLock<Mutex<Bench>> = LazyLock::new(|| Mutex::new(Bench::start()));

fn bench() -> MutexGuard<'static, Bench> {
    BENCH.lock().unwrap_or_else(|e| e.into_inner())
}

/// A loopback address of this process's own.
fn own_addr(host: u8) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, high | 64, low, host), 5399))
}

impl Bench {
    fn start() -> Bench {
        let (addr, upstream_addr) = (own_addr(1), own_addr(2));
        let upstream: Arc<Upstreams> = Arc::default();
        let socket = UdpSocket::bind(upstream_addr).expect("an address for the upstream");
        let state = upstream.clone();
        std::thread::spawn(move || serve(&socket, &state));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let clock = Clock::manual();
        let config = Config {
            listen: vec![addr],
            upstream: vec![Upstream::plain(Protocol::Udp, upstream_addr)],
            pref64: vec!["64:ff9b::/96".parse().expect("a prefix")],
            wkp_strict: false,
            udp_threads: 1,
            limits: Limits {
                cache_octets_max: 1 << 22,
                wire_cache_octets_max: 1 << 18,
                ..Limits::default()
            },
            // The upstream always says something: who gives it up on a busy machine hears no truth.
            timeouts: Timeouts {
                attempt: PATIENCE / 4,
                query: PATIENCE / 2,
                ..Timeouts::default()
            },
            ..Config::default()
        };
        let ready = Arc::new(AtomicBool::new(true));
        let guard = runtime.enter();
        let server = Server::start_with_clock(config, ready, clock.clone()).expect("a server");
        drop(guard);
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a client");
        client.connect(addr).expect("a connected client");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Bench {
            client,
            upstream,
            clock,
            asked: 0,
            _server: server,
            _runtime: runtime,
        }
    }

    /// Sends a datagram and takes what comes back next.
    fn exchange(&self, octets: &[u8]) -> Vec<u8> {
        self.client.send(octets).expect("a datagram sent");
        let mut answer = vec![0; 65_535];
        let len = loop {
            match self.client.recv(&mut answer) {
                Ok(len) => break len,
                // libFuzzer's alarm clock.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}: no answer to {octets:02x?}"),
            }
        };
        answer.truncate(len);
        answer
    }

    /// Asks for a name that the upstream speaks the truth about.
    fn check_truth(&mut self) {
        self.asked = self.asked.wrapping_add(1);
        let [.., high, low] = self.asked.to_be_bytes();
        let truth = query([high, low], &name(&["bank", "test"]), AAAA, true);
        let octets = self.exchange(&truth);
        assert_eq!(octets[..2], truth[..2], "an answer to something else");
        let message = Message::from_vec(&octets).expect("a message");
        let found: Vec<String> = message.answers.iter().map(|r| r.data.to_string()).collect();
        assert_eq!(found, ["64:ff9b::c000:201"], "{message}");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.upstream.is_over.store(true, Ordering::Relaxed);
    }
}

fn serve(socket: &UdpSocket, state: &Upstreams) {
    let mut octets = [0; 4096];
    while !state.is_over.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut octets) else {
            continue;
        };
        let Some(end) = question_end(&octets[..len]) else {
            continue;
        };
        let query = &octets[..end];
        let is_mad = query[HEADER..]
            .to_ascii_lowercase()
            .ends_with(&[&name(&["mad", "test"])[..], &query[end - 4..]].concat());
        let answer = match is_mad {
            true => mad_answer(query, &state.mad.lock().unwrap_or_else(|e| e.into_inner())),
            false => sane_answer(query),
        };
        // The server may be gone.
        let _ = socket.send_to(&answer, from);
    }
}

/// A records say 192.0.2.1, of all else there is nothing.
fn sane_answer(query: &[u8]) -> Vec<u8> {
    let has_data = query[query.len() - 4..query.len() - 2] == A;
    let (answers, authorities) = if has_data { (1, 0) } else { (0, 1) };
    let mut octets = query[..2].to_vec();
    octets.extend([0x81, 0x80, 0, 1, 0, answers, 0, authorities, 0, 0]);
    octets.extend(&query[HEADER..]);
    match has_data {
        true => octets.extend([
            0xc0,
            12,
            0,
            1,
            0,
            1,
            0,
            0,
            0,
            TTL_SECONDS,
            0,
            4,
            192,
            0,
            2,
            1,
        ]),
        false => {
            octets.extend([0, 0, 6, 0, 1, 0, 0, 0, TTL_SECONDS, 0, 22, 0, 0]);
            octets.extend([0, 0, 0, TTL_SECONDS].repeat(5));
        }
    }
    octets
}

/// With the question's id and the question, so that it is taken for an answer.
fn mad_answer(query: &[u8], mad: &[u8]) -> Vec<u8> {
    let mut head = [0; 8];
    let (given, rest) = mad.split_at(mad.len().min(head.len()));
    head[..given.len()].copy_from_slice(given);
    let [flags, more, counts @ ..] = head;
    let mut octets = query[..2].to_vec();
    octets.extend([flags | 0x80, more, 0, 1]);
    octets.extend(counts);
    octets.extend(&query[HEADER..]);
    octets.extend(rest);
    octets
}

/// Where the one question of a query ends that the server wrote.
fn question_end(octets: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let len = usize::from(*octets.get(at)?);
        at += 1 + len;
        if len == 0 {
            return (at + 4 <= octets.len()).then_some(at + 4);
        }
    }
}

fn name(labels: &[&str]) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in labels {
        octets.push(u8::try_from(label.len()).unwrap_or(0));
        octets.extend(label.as_bytes());
    }
    octets.push(0);
    octets
}

fn query(id: [u8; 2], name: &[u8], qtype: [u8; 2], has_edns: bool) -> Vec<u8> {
    let mut octets = id.to_vec();
    octets.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(has_edns)]);
    octets.extend(name);
    octets.extend(qtype);
    octets.extend([0, 1]);
    if has_edns {
        octets.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    }
    octets
}

/// Queries as clients send them.
fn templates() -> Vec<Vec<u8>> {
    let id = [0x12, 0x34];
    let www = name(&["www", "example"]);
    let mut with_options = query(id, &www, AAAA, false);
    with_options[11] = 1;
    // DO, and options: a cookie (RFC 7873), padding (RFC 7830).
    with_options.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 20]);
    with_options.extend([0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 12, 0, 4, 0, 0, 0, 0]);
    let mut compressed = query(id, &www, AAAA, true);
    compressed.splice(16..25, [0xc0, 12]);
    let reverse = "1.0.2.0.0.0.0.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa";
    let reverse: Vec<&str> = reverse.split('.').collect();
    vec![
        query(id, &www, AAAA, false),
        query(id, &www, A, true),
        with_options,
        compressed,
        query(id, &name(&["ipv4only", "arpa"]), AAAA, true),
        query(id, &name(&reverse), [0, 12], true),
        query(id, &name(&["example"]), [0, 255], true),
        query(id, &name(&["x".repeat(63).as_str(); 3]), AAAA, true),
        query(id, &name(&[]), [0, 6], true),
    ]
}

/// The datagram that an input means: its octets as they are, or a template with octets replaced
/// (one of place, one of value) or, from place 254 on, cut or made longer.
fn datagram(input: &[u8]) -> Vec<u8> {
    let Some((&choice, rest)) = input.split_first() else {
        return Vec::new();
    };
    let Some(mut octets) = templates().get(usize::from(choice)).cloned() else {
        return rest.to_vec();
    };
    let (patches, _) = rest.as_chunks::<2>();
    for &[at, value] in patches {
        let len = octets.len();
        match at {
            0xff => octets.truncate(usize::from(value)),
            0xfe => octets.resize(len + usize::from(value), value),
            _ if len > 0 => octets[usize::from(at) % len] = value,
            _ => {}
        }
    }
    octets
}

/// A datagram gets one answer, which is one to it, can be read, is not too long and says the truth;
/// a response, or what has no header, gets none.
pub fn query_octets(octets: &[u8]) {
    let mut bench = bench();
    let is_silent =
        octets.len() < HEADER || octets.len() > QUERY_OCTETS_MAX || octets[2] & 0x80 != 0;
    if is_silent {
        let _ = bench.client.send(octets);
        return bench.check_truth();
    }
    let answer = bench.exchange(octets);
    judge(octets, &answer);
    // Ready-made this time, if it may be kept.
    let again = bench.exchange(octets);
    judge(octets, &again);
    if octets.len().is_multiple_of(8) {
        bench.check_truth();
    }
}

/// As [`query_octets`], of the datagram that the input means.
pub fn query_input(input: &[u8]) {
    query_octets(&datagram(input));
}

fn judge(query: &[u8], answer: &[u8]) {
    let shown = format!("{answer:02x?} to {query:02x?}");
    assert!(answer.len() >= HEADER, "no header: {shown}");
    assert_eq!(answer[..2], query[..2], "another id: {shown}");
    assert_eq!(
        answer[2] & 0xf8,
        query[2] & 0x78 | 0x80,
        "no response: {shown}"
    );
    let has_additional = query[10..12] != [0, 0];
    let len_max = if has_additional {
        ANSWER_OCTETS_MAX
    } else {
        512
    };
    assert!(answer.len() <= len_max, "too long: {shown}");
    let message = Message::from_vec(answer).unwrap_or_else(|error| panic!("{error}: {shown}"));
    if answer[4..6] == [0, 1]
        && let Some(end) = question_end(query)
    {
        let asked = answer.get(HEADER..end);
        assert_eq!(asked, query.get(HEADER..end), "another question: {shown}");
    }
    for record in message.answers {
        let is_true = match record.data {
            RData::A(a) => a.octets() == [192, 0, 2, 1] || is_of_rfc7050(a.octets()),
            RData::AAAA(aaaa) => match aaaa.octets() {
                [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, ip @ ..] => {
                    ip == [192, 0, 2, 1] || is_of_rfc7050(ip)
                }
                _ => false,
            },
            _ => true,
        };
        assert!(is_true, "a lie: {shown}");
    }
}

/// 192.0.0.170 and 171, of ipv4only.arpa.
fn is_of_rfc7050(ip: [u8; 4]) -> bool {
    matches!(ip, [192, 0, 0, 170 | 171])
}

/// Whatever an upstream says of one name, its client gets one answer that can be read, and what
/// is known of another name stays as it is.
pub fn upstream_answer(mad: &[u8]) {
    let mut bench = bench();
    *bench.upstream.mad.lock().unwrap_or_else(|e| e.into_inner()) = mad.to_vec();
    // What an upstream did wrong before is forgiven, and its truth about the bank gets old.
    bench.clock.advance(STEP);
    bench.asked = bench.asked.wrapping_add(1);
    let label = format!("n{}", bench.asked);
    let id = [0x56, 0x78];
    let octets = query(id, &name(&[&label, "mad", "test"]), AAAA, true);
    let answer = bench.exchange(&octets);
    assert_eq!(answer[..2], id);
    assert!(answer.len() <= ANSWER_OCTETS_MAX);
    let read = Message::from_vec(&answer);
    assert!(read.is_ok(), "{read:?} {answer:02x?}");
    bench.check_truth();
}
