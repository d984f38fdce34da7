//! Upstreams that fail, lie, loop, cut, come late or are flooded: what is asked, kept and answered.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::*;
use futures_util::future::join_all;
use gate64_dns64::{AskBoth, Protocol, Timeouts, TryResult, Upstream, UpstreamOrder};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::sync::Semaphore;

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
    Upstream::plain(protocol, own_addr())
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
async fn no_socket_to_an_upstream_stays_when_nobody_asks_any_more() {
    let bench = Bench::start().await;
    let held = Arc::new(Semaphore::new(0));
    let slow = Script {
        held: Some(held.clone()),
        ..Script::default()
    };
    bench.upstream.on("slow.test.", RecordType::A, slow.reply());
    // Nobody answers: there is one while it is waited for.
    let asked = bench.ask("slow.test.", RecordType::A);
    tokio::join!(asked, async {
        wait_for(|| sockets_to(bench.upstream.addr) > 0).await;
        held.close();
    });
    bench
        .upstream
        .on("v4.test.", RecordType::A, one_a("v4.test."));
    assert_eq!(bench.ask("v4.test.", RecordType::A).await.answers.len(), 1);
    wait_for(|| sockets_to(bench.upstream.addr) == 0).await;
}

#[tokio::test]
async fn a_slow_upstream_is_not_given_up_but_the_next_is_asked_as_well() {
    let slow = ScriptedUpstream::start().await;
    let entry = slow.upstream(Protocol::Udp);
    let bench = Bench::with(|config| {
        config.upstream.insert(0, entry);
        config.timeouts.patience_min = Timeouts::default().patience_min;
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
    let asked = || [&bench.upstream, &fast].map(|upstream| upstream.asked().len());
    for n in 0..6 {
        let owner = format!("n{n}.test.");
        fast.on(&owner, RecordType::A, one_a(&owner));
        bench
            .upstream
            .on(&owner, RecordType::A, late_a(&owner, 1000));
        // Each is asked once to be known. Which is the fastest then is what was measured: on a
        // machine that stands still for a while it may be the other one.
        let rtts = bench.server.upstreams().into_iter().map(|state| state.rtt);
        let (fastest, _) = rtts.enumerate().min_by_key(|(_, rtt)| *rtt).unwrap();
        let mut expected = asked();
        expected[fastest] += 1;
        bench.ask(&owner, RecordType::A).await;
        assert_eq!(asked(), expected, "question {n}");
    }
    assert!(asked().iter().all(|count| *count > 0), "{:?}", asked());
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
    let bench = Bench::with(|config| config.timeouts = impatient()).await;
    let held = Arc::new(Semaphore::new(0));
    let late = Script {
        answers: vec![a("late.test.", 300, "192.0.2.66")],
        held: Some(held.clone()),
        ..Script::default()
    };
    bench.upstream.on("late.test.", RecordType::A, late.reply());
    let response = bench.ask("late.test.", RecordType::A).await;
    assert_eq!(rcode(&response), ResponseCode::ServFail);
    bench
        .upstream
        .on("late.test.", RecordType::A, one_a("late.test."));
    // Nobody else has it when all of them were sent.
    held.close();
    wait_for(|| Arc::strong_count(&held) == 1).await;
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
        .has_a("bank.test.", 300, "192.0.2.7");
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
        config.timeouts = impatient();
    })
    .await;
    bench
        .upstream
        .on("old.test.", RecordType::A, one_a("old.test."));
    bench.ask("old.test.", RecordType::A).await;
    bench
        .upstream
        .on("old.test.", RecordType::A, Reply::Silence);
    let metrics = bench.server.metrics();
    let is_at_rest = || metrics.upstream_in_flight.load(Ordering::Relaxed) == 0;
    bench.clock.advance(Duration::from_secs(301));
    for _ in 0..2 {
        // Over TCP: what stands in front of UDP answers an equal question by itself.
        let response = bench.ask_tcp("old.test.", RecordType::A).await;
        assert_eq!(response.answers, [a("old.test.", 30, A1)]);
        assert_eq!(response.answers[0].ttl, 30);
        assert_eq!(extended_errors(&response), [3]);
    }
    assert_eq!(metrics.cache_stale.load(Ordering::Relaxed), 2);
    wait_for(is_at_rest).await;
    // A validation failure is not covered.
    let bogus = Script {
        rcode: Some(ResponseCode::ServFail),
        extended_error: Some(6),
        ..Script::default()
    };
    bench.upstream.on("old.test.", RecordType::A, bogus.reply());
    bench.clock.advance(Duration::from_secs(10));
    let begun = Instant::now();
    let response = bench.ask_tcp("old.test.", RecordType::A).await;
    // RFC 8767 section 5: the old answer, if the machine stood still for so long that nothing came.
    let is_late = begun.elapsed() >= Duration::from_millis(1800);
    assert!(rcode(&response) == ResponseCode::ServFail || is_late);
    wait_for(is_at_rest).await;
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

/// Both questions are at the upstream before it answers the first, or they are not.
async fn asks_at_once(bench: &Bench, owner: &str, at_once: bool) {
    let held = Arc::new(Semaphore::new(0));
    let slow = |reply: Reply| match reply {
        Reply::Answer(script) => Script {
            held: Some(held.clone()),
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
    let (response, ()) = tokio::join!(bench.ask(owner, RecordType::AAAA), async {
        let first = 1 + usize::from(at_once);
        wait_for(|| bench.upstream.asked().len() >= before + first).await;
        // Time for one too many.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(bench.upstream.asked().len(), before + first);
        held.close();
    });
    assert_eq!(addresses(&response).len(), 1);
    assert_eq!(
        bench.upstream.asked().len(),
        before + 2,
        "no more questions"
    );
}

#[tokio::test]
async fn both_records_are_asked_for_at_once_when_that_saves_time() {
    let bench = Bench::start().await;
    // Nothing is known yet.
    asks_at_once(&bench, "v4.test.", false).await;
    // It had no AAAA.
    bench.clock.advance(Duration::from_secs(1000));
    asks_at_once(&bench, "v4.test.", true).await;

    let bench = Bench::with(|config| config.ask_both = AskBoth::Always).await;
    asks_at_once(&bench, "v4.test.", true).await;
    let bench = Bench::with(|config| config.ask_both = AskBoth::Never).await;
    asks_at_once(&bench, "v4.test.", false).await;
    bench.clock.advance(Duration::from_secs(1000));
    asks_at_once(&bench, "v4.test.", false).await;
}

#[tokio::test]
async fn an_answer_of_no_use_takes_the_upstream_away_from_nobody() {
    let bench = Bench::start().await;
    // An answer with a record that is not there, and answers whose rest is not to be had.
    let unreadable = vec![0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0];
    let truncated = Script {
        truncated_over_udp: true,
        ..Script::default()
    };
    bench.upstream.stop_tcp();
    for n in 0..6 {
        let (mad, long) = (format!("mad{n}.test."), format!("long{n}.test."));
        for qtype in [RecordType::AAAA, RecordType::A] {
            let reply = Reply::Octets(unreadable.clone());
            bench.upstream.on(&mad, qtype, reply);
            let reply = truncated.clone().reply();
            bench.upstream.on(&long, qtype, reply);
        }
        for owner in [&mad, &long] {
            let response = bench.ask(owner, RecordType::AAAA).await;
            let rcode = response.metadata.response_code;
            assert_eq!(rcode, ResponseCode::ServFail, "{response}");
            assert_eq!(bench.upstream.asked_about(owner, RecordType::AAAA), 1);
        }
        assert!(bench.server.upstreams()[0].is_up, "after {n}");
    }
    let owner = "v4.test.";
    let reply = answer(vec![a(owner, 300, "192.0.2.1")]);
    bench.upstream.on(owner, RecordType::A, reply);
    bench.upstream.lacks_aaaa(owner, 60);
    assert_eq!(bench.aaaa(owner).await.len(), 1);
}
