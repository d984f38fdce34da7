//! Floods: of questions to a dead upstream, of names that nobody has, of datagrams that are no
//! queries. What is bounded is counted; time means nothing on a shared machine.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use futures_util::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::net::UdpSocket;
use tokio::sync::Mutex;

/// What this process has is counted: one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Sockets and other files of this process.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Sends questions without waiting for answers, and counts those that come.
struct Flood {
    sockets: Vec<UdpSocket>,
}

impl Flood {
    async fn new(bench: &Bench, sockets: usize) -> Flood {
        let made = (0..sockets).map(|_| async {
            // Of another network than the test's other questions: each has its bound on clients.
            let socket = UdpSocket::bind("127.0.99.1:0").await.unwrap();
            socket.connect(bench.addr).await.unwrap();
            socket
        });
        Flood {
            sockets: join_all(made).await,
        }
    }

    async fn ask(&self, owners: impl Iterator<Item = String>) {
        let queries = owners.map(|owner| question(&owner, RecordType::A, PLAIN).to_vec());
        self.send(queries.map(Result::unwrap)).await;
    }

    async fn send(&self, datagrams: impl Iterator<Item = Vec<u8>>) {
        for (n, octets) in datagrams.enumerate() {
            let socket = &self.sockets[n % self.sockets.len()];
            let _ = socket.send(&octets).await;
            if n % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits until the server has worked off what was sent to it: what comes behind it on each
    /// socket, once more if it was lost, is answered, and nobody waits.
    async fn is_worked_off(&self, bench: &Bench) {
        let last = question("ipv4only.arpa.", RecordType::A, PLAIN);
        let octets = last.to_vec().unwrap();
        for socket in &self.sockets {
            let answered = async {
                loop {
                    socket.send(&octets).await.unwrap();
                    if answer_comes(socket, &octets[..2]).await {
                        return;
                    }
                }
            };
            let answered = tokio::time::timeout(PATIENCE, answered).await;
            answered.expect("the server is still busy");
        }
        nobody_waits(bench).await;
        let in_flight = &bench.server.metrics().upstream_in_flight;
        wait_for(|| in_flight.load(Ordering::Relaxed) == 0).await;
    }
}

/// Whether an answer with this id comes within a second, behind whichever others.
async fn answer_comes(socket: &UdpSocket, id: &[u8]) -> bool {
    let mut answer = [0; 2];
    let wanted = async {
        while answer != *id {
            socket.recv(&mut answer).await.unwrap();
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(1), wanted).await;
    in_time.is_ok()
}

/// The "dead upstream under 20,000 queries a second": as many questions as fast as they go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_upstream_under_20_000_queries_takes_bounded_sockets_and_questions() {
    const IN_FLIGHT: usize = 128;
    let _alone = ALONE.lock().await;
    let bench = Bench::with(|config| {
        config.limits.upstream_in_flight_max = IN_FLIGHT;
        config.limits.cache_octets_max = 1 << 20;
        // All questions are there before the first of them is given up.
        config.timeouts.attempt = Duration::from_secs(5);
        config.timeouts.query = Duration::from_secs(5);
    })
    .await;
    bench
        .upstream
        .on("good.test.", RecordType::A, one_a("good.test."));
    bench.ask("good.test.", RecordType::A).await;
    bench.upstream.on_all(Reply::Silence);
    let before = open_files();
    let flood = Flood::new(&bench, 8).await;

    let watch = async {
        let (mut in_flight, mut files, mut good) = (0, 0, 0);
        for _ in 0..20 {
            let metrics = bench.server.metrics();
            in_flight = in_flight.max(metrics.upstream_in_flight.load(Ordering::Relaxed));
            // A list of what comes and goes may name a socket and its successor: not each time.
            files = files.max((0..3).map(|_| open_files()).min().unwrap_or(0));
            // Names in the cache and names answered here do not need the upstream.
            let response = bench.ask_tcp("good.test.", RecordType::A).await;
            good += usize::from(response.answers.len() == 1);
            let local = bench.ask_tcp("ipv4only.arpa.", RecordType::A).await;
            good += usize::from(local.answers.len() == 2);
        }
        (in_flight, files, good)
    };
    // Every tenth question is for the same name.
    let names = (0..20_000).map(|n| match n % 10 {
        0 => "same.test.".to_owned(),
        _ => format!("n{n}.random{}.test.", n % 7),
    });
    let (_, (in_flight, files, good)) = tokio::join!(flood.ask(names), watch);

    assert_eq!(good, 40, "other names are answered");
    assert!(in_flight <= IN_FLIGHT as u64, "{in_flight} questions");
    // A socket for each try; the rest is the clients', both ends of them in this process.
    let bound = before + 8 + IN_FLIGHT + 32;
    assert!(files <= bound, "{files} open files, {before} before");
    let same = bench.upstream.asked_about("same.test.", RecordType::A);
    assert!(same <= 4, "equal questions are merged: {same} of 2000");
    let metrics = bench.server.metrics();
    assert!(metrics.upstream_refused.load(Ordering::Relaxed) > 0);
    let sent = metrics.upstream_queries.load(Ordering::Relaxed);
    assert!(sent < 10_000, "{sent} tries");
    flood.is_worked_off(&bench).await;
    assert!(!bench.server.upstreams()[0].is_up);
    let cache = bench.server.cache_state();
    assert!(cache.octets <= cache.octets_max, "{cache:?}");

    // Failures are kept: the same question again goes nowhere.
    let sent = metrics.upstream_queries.load(Ordering::Relaxed);
    bench.upstream.on_all(failure(ResponseCode::ServFail));
    bench.clock.advance(Duration::from_secs(10));
    let response = bench.ask_tcp("once.test.", RecordType::A).await;
    assert_eq!(rcode(&response), ResponseCode::ServFail);
    let once = metrics.upstream_queries.load(Ordering::Relaxed);
    assert!(once > sent, "one question finds out that it is back");
    assert!(bench.server.upstreams()[0].is_up);
    bench.ask_tcp("once.test.", RecordType::A).await;
    assert_eq!(metrics.upstream_queries.load(Ordering::Relaxed), once);
}

/// A flood of names that nobody has, under one domain whose servers are silent: others' names
/// still find room at the upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_random_names_leaves_room_for_others() {
    const IN_FLIGHT: usize = 64;
    let _alone = ALONE.lock().await;
    let bench = Bench::with(|config| {
        config.limits.upstream_in_flight_max = IN_FLIGHT;
        config.limits.cache_octets_max = 1 << 20;
        // None of them is given up before the others were answered.
        config.timeouts.query = config.timeouts.attempt;
    })
    .await;
    bench.upstream.on_all(Reply::Silence);
    let owners: Vec<String> = (0..50).map(|n| format!("www.n{n}.test.")).collect();
    for owner in &owners {
        bench.upstream.on(owner, RecordType::A, one_a(owner));
    }
    let flood = Flood::new(&bench, 4).await;
    let names = (0..5_000).map(|n| format!("random{n}.victim.test."));
    let others = async {
        wait_for(|| {
            bench
                .server
                .metrics()
                .upstream_refused
                .load(Ordering::Relaxed)
                > 0
        })
        .await;
        let mut answered = 0;
        for owner in &owners {
            let response = bench.ask_tcp(owner, RecordType::A).await;
            answered += usize::from(response.answers.len() == 1);
        }
        answered
    };
    let (_, answered) = tokio::join!(flood.ask(names), others);
    assert_eq!(answered, owners.len());
    assert!(
        bench.server.upstreams()[0].is_up,
        "silent names are not its fault"
    );
    let cache = bench.server.cache_state();
    assert!(cache.octets <= cache.octets_max, "{cache:?}");
}

/// Resident memory of this process, in octets.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// What a client does while others flood the server: it asks again and again until it is answered,
/// as resolvers of hosts do. `None` after ten times.
async fn asks_patiently(server: SocketAddr, owner: &str) -> Option<(Message, usize)> {
    let socket = UdpSocket::bind("127.0.98.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    let query = question(owner, RecordType::AAAA, PLAIN).to_vec().unwrap();
    let mut octets = vec![0; 2048];
    for sent in 1..=10 {
        socket.send(&query).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut octets));
        if let Ok(len) = answer.await {
            return Some((Message::from_vec(&octets[..len.unwrap()]).unwrap(), sent));
        }
    }
    None
}

/// Names of another client network, one in the caches and ever new ones, while `flood` lasts.
async fn others_are_answered(bench: &Bench, flood: impl Future<Output = ()>) {
    for n in 0..200 {
        let owner = format!("www.n{n}.test.");
        bench.upstream.on(&owner, RecordType::A, one_a(&owner));
        bench.upstream.lacks_aaaa(&owner, 60);
    }
    let others = async {
        let mut sent = 0;
        for n in 0..200 {
            for owner in [format!("www.n{n}.test."), "www.n0.test.".to_owned()] {
                let answer = asks_patiently(bench.addr, &owner).await;
                let (message, tries) = answer.unwrap_or_else(|| panic!("no answer for {owner}"));
                assert_eq!(
                    addresses(&message),
                    owned(&[("64:ff9b::c000:201", 60)]),
                    "{message}"
                );
                sent += tries;
            }
        }
        sent
    };
    let (sent, ()) = tokio::join!(others, flood);
    assert!(sent <= 440, "{sent} datagrams for 400 answers");
}

async fn nobody_waits(bench: &Bench) {
    let waiting = &bench.server.metrics().client_in_flight;
    wait_for(|| waiting.load(Ordering::Relaxed) == 0).await;
}

fn small_caches(config: &mut gate64_dns64::Config) {
    config.limits.cache_octets_max = 1 << 20;
    config.limits.wire_cache_octets_max = 1 << 20;
    config.limits.client_in_flight_max = 512;
    config.limits.network_in_flight_max = 128;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_names_that_nobody_has_takes_bounded_memory_and_nobodys_answers() {
    let _alone = ALONE.lock().await;
    let bench = Bench::with(small_caches).await;
    let flood = Flood::new(&bench, 8).await;
    let before = resident();
    let names = (0..30_000).map(|n| format!("x{n}.random{}.test.", n % 1000));
    others_are_answered(&bench, flood.ask(names)).await;
    let grown = resident().saturating_sub(before);
    // The scripted upstream notes each question, and the sockets' buffers are the kernel's.
    assert!(grown < 96 << 20, "{grown} octets more");
    let cache = bench.server.cache_state();
    assert!(cache.octets <= cache.octets_max, "{cache:?}");
    assert!(cache.evictions > 0, "not a flood: {cache:?}");
    let ready_made = bench.server.metrics().wire_cache();
    assert!(ready_made.octets <= 1 << 20, "{ready_made:?}");
    nobody_waits(&bench).await;
}

/// Datagrams that are no queries, of every kind that the front tells apart.
fn malformed(n: u32) -> Vec<u8> {
    let owner = format!("m{n}.test.");
    let mut octets = question(&owner, RecordType::AAAA, PLAIN).to_vec().unwrap();
    match n % 8 {
        0 => octets.truncate(octets.len() / 2),
        1 => octets.truncate(7),
        2 => octets[2] |= 0x80,
        3 => octets[5] = 2,
        4 => octets[12] = 0xc0,
        5 => octets[12] = 0x40,
        6 => octets[2] = 0x28,
        // An OPT record longer than the message.
        _ => *octets.last_mut().unwrap() = 0xff,
    }
    octets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_malformed_datagrams_is_kept_nowhere_and_asked_nobody() {
    let _alone = ALONE.lock().await;
    let bench = Bench::with(small_caches).await;
    let flood = Flood::new(&bench, 8).await;
    let before = resident();
    others_are_answered(&bench, flood.send((0..30_000).map(malformed))).await;
    nobody_waits(&bench).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} octets more");
    let asked = bench.upstream.asked();
    let strange = asked.iter().find(|(name, _)| !name.starts_with("www."));
    assert_eq!(strange, None);
    // Both types of the 200 names.
    assert_eq!(bench.server.cache_state().entries, 400);
}
