//! Upstreams that fail, lie, loop, cut, come late or are flooded: what is asked, kept and answered.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use futures_util::future::join_all;
use gate64_dns64::{AskBoth, Protocol, TryResult, Upstream, UpstreamOrder};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::net::UdpSocket;

const A1: &str = "192.0.2.1";

fn one_a(owner: &str) -> Reply {
    answer(vec![a(owner, 300, A1)])
}

fn late_a(owner: &str, delay: u64) -> Reply {
    Script {
        answers: vec![a(owner, 300, A1)],
        delay: Duration::from_millis(delay),
        ..Script::default()
    }
    .reply()
}

/// An address where nothing listens.
fn nowhere(protocol: Protocol) -> Upstream {
    Upstream {
        protocol,
        addr: own_addr(),
        name: String::new(),
        path: String::new(),
    }
}

fn rcode(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

fn tries(bench: &Bench, upstream: usize, result: TryResult) -> u64 {
    bench.server.upstreams()[upstream].tries[result as usize]
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_known_by_its_icmp_error() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let bench = Bench::with(|config| config.upstream.insert(0, nowhere(protocol))).await;
        bench
            .upstream
            .on("v4.test.", RecordType::A, one_a("v4.test."));
        assert_eq!(bench.ask("v4.test.", RecordType::A).await.answers.len(), 1);
        assert_eq!(tries(&bench, 0, TryResult::Broken), 1, "{protocol:?}");
        assert_eq!(tries(&bench, 0, TryResult::TimedOut), 0, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_slow_upstream_is_not_given_up_but_the_next_is_asked_as_well() {
    let slow = ScriptedUpstream::start().await;
    let entry = slow.upstream(Protocol::Udp);
    let bench = Bench::with(|config| {
        config.upstream.insert(0, entry);
        config.timeouts.attempt = Duration::from_secs(3);
        config.timeouts.query = Duration::from_secs(4);
    })
    .await;
    slow.on("first.test.", RecordType::A, one_a("first.test."));
    bench.ask("first.test.", RecordType::A).await;
    // Its round-trip time is known now to be far below that.
    slow.on("slow.test.", RecordType::A, Reply::Silence);
    bench
        .upstream
        .on("slow.test.", RecordType::A, one_a("slow.test."));
    assert_eq!(
        bench.ask("slow.test.", RecordType::A).await.answers.len(),
        1
    );
    assert_eq!(slow.asked_about("slow.test.", RecordType::A), 1);
    assert_eq!(tries(&bench, 0, TryResult::TimedOut), 0, "not given up");
}

#[tokio::test]
async fn the_fastest_upstream_is_asked_if_so_configured() {
    let fast = ScriptedUpstream::start().await;
    let entry = fast.upstream(Protocol::Udp);
    let bench = Bench::with(|config| {
        config.upstream.push(entry);
        config.upstream_order = UpstreamOrder::Fastest;
    })
    .await;
    for n in 0..6 {
        let owner = format!("n{n}.test.");
        fast.on(&owner, RecordType::A, one_a(&owner));
        bench
            .upstream
            .on(&owner, RecordType::A, late_a(&owner, 100));
        bench.ask(&owner, RecordType::A).await;
    }
    // Each was asked once to be known.
    assert_eq!(bench.upstream.asked().len(), 1);
    assert_eq!(fast.asked().len(), 5);
}

#[tokio::test]
async fn rfc7766_connections_are_kept_shared_and_made_again() {
    let bench = Bench::with(|config| config.upstream[0].protocol = Protocol::Tcp).await;
    let ask = async |from: usize, count: usize| {
        let owners: Vec<String> = (from..from + count)
            .map(|n| format!("n{n}.test."))
            .collect();
        for owner in &owners {
            bench.upstream.on(owner, RecordType::A, late_a(owner, 30));
        }
        let asked = owners.iter().map(|owner| bench.ask(owner, RecordType::A));
        for response in join_all(asked).await {
            assert_eq!(response.answers.len(), 1);
        }
    };
    ask(0, 50).await;
    assert_eq!(bench.upstream.connections(), 1);
    bench.upstream.close_connections();
    ask(50, 5).await;
    assert_eq!(bench.upstream.connections(), 2);
    assert_eq!(tries(&bench, 0, TryResult::Broken), 0, "no failure of it");
}

#[tokio::test]
async fn truncated_answers_without_tcp_behind_them_fail_within_the_time() {
    let bench = Bench::start().await;
    let script = Script {
        answers: vec![a("cut.test.", 300, A1)],
        truncated_over_udp: true,
        ..Script::default()
    };
    bench
        .upstream
        .on("cut.test.", RecordType::A, script.reply());
    bench.upstream.stop_tcp();
    let response = bench.ask("cut.test.", RecordType::A).await;
    assert_eq!(rcode(&response), ResponseCode::ServFail);
    assert!(response.answers.is_empty());
}

#[tokio::test]
async fn late_answers_are_neither_given_nor_kept() {
    let bench = Bench::start().await;
    let mut late = Script {
        answers: vec![a("late.test.", 300, "192.0.2.66")],
        delay: Duration::from_millis(400),
        ..Script::default()
    };
    bench
        .upstream
        .on("late.test.", RecordType::A, late.clone().reply());
    let response = bench.ask("late.test.", RecordType::A).await;
    assert_eq!(rcode(&response), ResponseCode::ServFail);
    // All of them have come by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    late.answers = vec![a("late.test.", 300, A1)];
    late.delay = Duration::ZERO;
    bench.upstream.on("late.test.", RecordType::A, late.reply());
    bench.clock.advance(Duration::from_secs(5));
    let response = bench.ask("late.test.", RecordType::A).await;
    assert_eq!(response.answers, [a("late.test.", 300, A1)]);
}

#[tokio::test]
async fn rfc5452_answers_from_elsewhere_or_with_another_case_are_not_believed() {
    let bench = Bench::start().await;
    let forged = Script {
        answers: vec![a("forged.test.", 300, A1)],
        forged_from_elsewhere: true,
        delay: Duration::from_millis(50),
        ..Script::default()
    };
    bench
        .upstream
        .on("forged.test.", RecordType::A, forged.reply());
    let response = bench.ask("forged.test.", RecordType::A).await;
    assert_eq!(response.answers, [a("forged.test.", 300, A1)]);

    // An answer over UDP in lower case; the truth comes over TCP.
    let guessed = Script {
        answers: vec![a("a-name-with-many-letters.test.", 300, A1)],
        lower_case_lie_over_udp: true,
        ..Script::default()
    };
    let owner = "a-name-with-many-letters.test.";
    bench.upstream.on(owner, RecordType::A, guessed.reply());
    let response = bench.ask(owner, RecordType::A).await;
    assert_eq!(response.answers, [a(owner, 300, A1)]);
    let metrics = bench.server.metrics();
    assert_eq!(metrics.upstream_misfits.load(Ordering::Relaxed), 1);
    assert_eq!(bench.upstream.messages().last().unwrap().1, Protocol::Tcp);
}

#[tokio::test]
async fn circles_of_aliases_fail_and_the_failure_is_kept() {
    let bench = Bench::start().await;
    let circle = vec![
        cname("one.test.", 100, "two.test."),
        cname("two.test.", 100, "one.test."),
    ];
    bench
        .upstream
        .on("one.test.", RecordType::A, answer(circle));
    // A chain that never ends, one alias an answer.
    for n in 0..40 {
        let owner = format!("n{n}.test.");
        let next = format!("n{}.test.", n + 1);
        let alias = answer(vec![cname(&owner, 100, &next)]);
        bench.upstream.on(&owner, RecordType::A, alias);
    }
    for owner in ["one.test.", "n0.test."] {
        for _ in 0..3 {
            let response = bench.ask(owner, RecordType::A).await;
            assert_eq!(rcode(&response), ResponseCode::ServFail, "{owner}");
        }
    }
    let asked = bench.upstream.asked().len();
    assert!(asked < 12, "{asked} questions");
}

#[tokio::test]
async fn what_an_upstream_slips_in_reaches_nobody() {
    let bench = Bench::start().await;
    let lies = Script {
        answers: vec![
            a("bank.test.", 300, "192.0.2.66"),
            a("www.evil.test.", 300, A1),
        ],
        authorities: vec![soa("bank.test.", 300, 300)],
        additionals: vec![a("ns.bank.test.", 300, "192.0.2.66")],
        ..Script::default()
    };
    bench
        .upstream
        .on("www.evil.test.", RecordType::A, lies.reply())
        .on(
            "bank.test.",
            RecordType::A,
            answer(vec![a("bank.test.", 300, "192.0.2.7")]),
        );
    let response = bench.ask("www.evil.test.", RecordType::A).await;
    assert_eq!(response.answers, [a("www.evil.test.", 300, A1)]);
    assert!(response.authorities.is_empty() && response.additionals.is_empty());
    let response = bench.ask("bank.test.", RecordType::A).await;
    assert_eq!(response.answers, [a("bank.test.", 300, "192.0.2.7")]);
}

#[tokio::test]
async fn rfc8767_an_old_answer_is_given_when_no_new_one_can_be_had() {
    let bench = Bench::with(|config| {
        config.caching.serve_stale = Some(Duration::from_secs(3600));
    })
    .await;
    bench
        .upstream
        .on("old.test.", RecordType::A, one_a("old.test."));
    bench.ask("old.test.", RecordType::A).await;
    bench
        .upstream
        .on("old.test.", RecordType::A, Reply::Silence);
    bench.clock.advance(Duration::from_secs(301));
    for _ in 0..2 {
        // Over TCP: what stands in front of UDP answers an equal question by itself.
        let response = bench.ask_tcp("old.test.", RecordType::A).await;
        assert_eq!(response.answers, [a("old.test.", 30, A1)]);
        assert_eq!(response.answers[0].ttl, 30);
        assert_eq!(extended_errors(&response), [3]);
    }
    let metrics = bench.server.metrics();
    assert_eq!(metrics.cache_stale.load(Ordering::Relaxed), 2);
    // A validation failure is not covered.
    let bogus = Script {
        rcode: Some(ResponseCode::ServFail),
        extended_error: Some(6),
        ..Script::default()
    };
    bench.upstream.on("old.test.", RecordType::A, bogus.reply());
    bench.clock.advance(Duration::from_secs(10));
    let response = bench.ask_tcp("old.test.", RecordType::A).await;
    assert_eq!(rcode(&response), ResponseCode::ServFail);
    bench.clock.advance(Duration::from_secs(4000));
    bench
        .upstream
        .on("old.test.", RecordType::A, Reply::Silence);
    let response = bench.ask_tcp("old.test.", RecordType::A).await;
    assert_eq!(rcode(&response), ResponseCode::ServFail, "too old");
}

#[tokio::test]
async fn popular_names_are_asked_for_before_their_answer_ends() {
    let bench = Bench::start().await;
    for owner in ["popular.test.", "rare.test."] {
        bench
            .upstream
            .on(owner, RecordType::TXT, answer(vec![txt(owner, 100, "t")]));
        bench.ask(owner, RecordType::TXT).await;
    }
    // Over TCP: what stands in front of UDP answers the same question by itself.
    for _ in 0..4 {
        bench.ask_tcp("popular.test.", RecordType::TXT).await;
    }
    bench.clock.advance(Duration::from_secs(95));
    for owner in ["popular.test.", "rare.test."] {
        let response = bench.ask_tcp(owner, RecordType::TXT).await;
        assert_eq!(response.answers[0].ttl, 5);
    }
    wait_for(|| bench.upstream.asked_about("popular.test.", RecordType::TXT) == 2).await;
    assert_eq!(bench.upstream.asked_about("rare.test.", RecordType::TXT), 1);
    wait_for(|| {
        bench
            .server
            .metrics()
            .upstream_in_flight
            .load(Ordering::Relaxed)
            == 0
    })
    .await;
    bench.clock.advance(Duration::from_secs(50));
    let response = bench.ask_tcp("popular.test.", RecordType::TXT).await;
    assert_eq!(response.answers[0].ttl, 50, "the new answer");
}

/// Whether both questions were at the upstream before it answered the first.
async fn asks_at_once(bench: &Bench, owner: &str) -> bool {
    let slow = |reply: Reply| match reply {
        Reply::Answer(script) => Script {
            delay: Duration::from_millis(100),
            ..*script
        }
        .reply(),
        reply => reply,
    };
    bench
        .upstream
        .on(owner, RecordType::AAAA, slow(nodata("test.", 60)))
        .on(owner, RecordType::A, slow(one_a(owner)));
    let before = bench.upstream.asked().len();
    let (response, at_once) = tokio::join!(bench.ask(owner, RecordType::AAAA), async {
        wait_for(|| bench.upstream.asked().len() > before).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.upstream.asked().len() == before + 2
    });
    assert_eq!(addresses(&response).len(), 1);
    assert_eq!(
        bench.upstream.asked().len(),
        before + 2,
        "no more questions"
    );
    at_once
}

#[tokio::test]
async fn both_records_are_asked_for_at_once_when_that_saves_time() {
    let bench = Bench::start().await;
    assert!(
        !asks_at_once(&bench, "v4.test.").await,
        "nothing is known yet"
    );
    bench.clock.advance(Duration::from_secs(1000));
    assert!(asks_at_once(&bench, "v4.test.").await, "it had no AAAA");

    let bench = Bench::with(|config| config.ask_both = AskBoth::Always).await;
    assert!(asks_at_once(&bench, "v4.test.").await);
    let bench = Bench::with(|config| config.ask_both = AskBoth::Never).await;
    assert!(!asks_at_once(&bench, "v4.test.").await);
    bench.clock.advance(Duration::from_secs(1000));
    assert!(!asks_at_once(&bench, "v4.test.").await);
}

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

    async fn send(&self, owners: impl Iterator<Item = String>) {
        for (n, owner) in owners.enumerate() {
            let octets = question(&owner, RecordType::A, PLAIN).to_vec().unwrap();
            let socket = &self.sockets[n % self.sockets.len()];
            let _ = socket.send(&octets).await;
            if n % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Waits until the server has worked off what was sent to it.
async fn come_to_rest(bench: &Bench) {
    let metrics = bench.server.metrics();
    let done = || {
        let asked = &metrics.cache_misses;
        (asked.load(Ordering::Relaxed), bench.upstream.asked().len())
    };
    for _ in 0..200 {
        let before = done();
        tokio::time::sleep(Duration::from_millis(400)).await;
        if done() == before && metrics.upstream_in_flight.load(Ordering::Relaxed) == 0 {
            return;
        }
    }
    panic!("the server is still busy");
}

/// The "dead upstream under 20,000 queries a second". As many questions as fast as they
/// go; what is bounded is counted, since time means nothing on a shared machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_upstream_under_20_000_queries_takes_bounded_sockets_and_questions() {
    const IN_FLIGHT: usize = 128;
    let bench = Bench::with(|config| {
        config.limits.upstream_in_flight_max = IN_FLIGHT;
        config.limits.cache_octets_max = 1 << 20;
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
            files = files.max(open_files());
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
    let (_, (in_flight, files, good)) = tokio::join!(flood.send(names), watch);

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
    come_to_rest(&bench).await;
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
    let bench = Bench::with(|config| {
        config.limits.upstream_in_flight_max = IN_FLIGHT;
        config.limits.cache_octets_max = 1 << 20;
        config.timeouts.attempt = Duration::from_secs(2);
        config.timeouts.query = Duration::from_secs(2);
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
    let (_, answered) = tokio::join!(flood.send(names), others);
    assert_eq!(answered, owners.len());
    assert!(
        bench.server.upstreams()[0].is_up,
        "silent names are not its fault"
    );
    let cache = bench.server.cache_state();
    assert!(cache.octets <= cache.octets_max, "{cache:?}");
}
