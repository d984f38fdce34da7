//! Serving: transports, sizes, cache, failover, limits, access, reload.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::programs::Scratch;
use common::*;
use gate64_dns64::{Protocol, Server, StartError, TryResult};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::sync::Semaphore;

/// Enough records to overflow a datagram of 1232 octets.
fn many(owner: &str) -> Reply {
    let records = (0..100).map(|n| a(owner, 300, &format!("192.0.2.{n}")));
    Script {
        answers: records.collect(),
        truncated_over_udp: true,
        ..Script::default()
    }
    .reply()
}

#[tokio::test]
async fn udp_answers_are_cut_to_the_clients_size_and_whole_over_tcp() {
    let bench = Bench::start().await;
    bench
        .upstream
        .on("big.test.", RecordType::A, many("big.test."));
    for (edns, limit) in [
        (None, 512),
        (Some(100), 512),
        (Some(900), 900),
        (Some(65535), 1232),
    ] {
        let flags = Flags { edns, ..PLAIN };
        let asked = question("big.test.", RecordType::A, flags)
            .to_vec()
            .unwrap();
        let octets = exchange_udp(bench.addr, &asked).await;
        assert!(octets.len() <= limit, "{edns:?}: {}", octets.len());
        let response = Message::from_vec(&octets).unwrap();
        assert!(response.metadata.truncation);
        // RFC 6891 section 7: also a truncated answer has its OPT record, if the query had one.
        assert_eq!(response.edns.is_some(), edns.is_some());
    }
    let response = bench.ask_tcp("big.test.", RecordType::A).await;
    assert!(!response.metadata.truncation);
    assert_eq!(response.answers.len(), 100);
}

#[tokio::test]
async fn a_truncated_upstream_answer_is_asked_again_over_tcp() {
    let bench = Bench::start().await;
    let script = Script {
        answers: vec![a("cut.test.", 300, "192.0.2.1")],
        truncated_over_udp: true,
        ..Script::default()
    };
    bench
        .upstream
        .on("cut.test.", RecordType::A, script.reply());
    let response = bench.ask("cut.test.", RecordType::A).await;
    assert_eq!(response.answers.len(), 1);
    let protocols: Vec<Protocol> = bench.upstream.messages().iter().map(|m| m.1).collect();
    assert_eq!(protocols, [Protocol::Udp, Protocol::Tcp]);
    assert_eq!(
        bench
            .server
            .metrics()
            .upstream_truncated
            .load(Ordering::Relaxed),
        1
    );
}

#[tokio::test]
async fn an_upstream_over_tcp_keeps_its_connection() {
    let bench = Bench::with(|config| config.upstream[0].protocol = Protocol::Tcp).await;
    for owner in ["one.test.", "two.test."] {
        bench.upstream.has_a(owner, 300, "192.0.2.1");
        assert_eq!(bench.ask(owner, RecordType::A).await.answers.len(), 1);
    }
}

#[tokio::test]
async fn rfc2308_answers_and_absences_are_kept_for_their_ttl() {
    let bench = Bench::start().await;
    bench
        .upstream
        .lacks_aaaa("v4.test.", 60)
        .has_a("v4.test.", 100, "192.0.2.1");
    assert_eq!(bench.aaaa("v4.test.").await[0].1, 60);
    bench.clock.advance(Duration::from_secs(50));
    assert_eq!(bench.aaaa("v4.test.").await[0].1, 10);
    assert_eq!(bench.upstream.asked().len(), 2);
    // The absence has expired, the A record has not.
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!(bench.aaaa("v4.test.").await[0].1, 40);
    assert_eq!(bench.upstream.asked_about("v4.test.", RecordType::AAAA), 2);
    assert_eq!(bench.upstream.asked_about("v4.test.", RecordType::A), 1);
    // The first question missed both halves, the third one.
    assert_eq!(
        bench.server.metrics().cache_misses.load(Ordering::Relaxed),
        3
    );
}

#[tokio::test]
async fn rfc2308_section_5_an_absence_without_soa_is_not_kept() {
    let bench = Bench::start().await;
    bench
        .upstream
        .on("v4.test.", RecordType::TXT, answer(vec![]));
    for asked in 1..=2 {
        bench.ask("v4.test.", RecordType::TXT).await;
        assert_eq!(bench.upstream.asked().len(), asked);
    }
}

#[tokio::test]
async fn rfc9520_failures_are_kept_for_a_short_time() {
    let bench = Bench::start().await;
    bench.upstream.fails("bad.test.", RecordType::A);
    for _ in 0..3 {
        let response = bench.ask("bad.test.", RecordType::A).await;
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(bench.upstream.asked().len(), 1);
    bench.clock.advance(Duration::from_secs(5));
    bench.ask("bad.test.", RecordType::A).await;
    assert_eq!(bench.upstream.asked().len(), 2);
}

fn merged(bench: &Bench) -> u64 {
    bench.server.metrics().merged.load(Ordering::Relaxed)
}

#[tokio::test]
async fn equal_questions_are_asked_once() {
    let bench = Bench::start().await;
    let held = Arc::new(Semaphore::new(0));
    let slow = Script {
        answers: vec![a("slow.test.", 300, "192.0.2.1")],
        held: Some(held.clone()),
        ..Script::default()
    };
    bench.upstream.on("slow.test.", RecordType::A, slow.reply());
    let asked = (0..20).map(|_| bench.ask("slow.test.", RecordType::A));
    let all_wait = async {
        wait_for(|| merged(&bench) == 19).await;
        held.close();
    };
    let (responses, ()) = tokio::join!(futures_util::future::join_all(asked), all_wait);
    for response in responses {
        assert_eq!(response.answers.len(), 1);
    }
    assert_eq!(bench.upstream.asked().len(), 1);
}

#[tokio::test]
async fn a_panic_costs_its_question_an_answer_and_others_nothing() {
    let bench = Bench::with(|config| {
        config.limits.upstream_in_flight_max = 4;
        // No point in time is that late.
        config.timeouts.query = Duration::MAX;
    })
    .await;
    for n in 0..10 {
        let owner = format!("n{}.test.", n % 5);
        let response = bench.ask(&owner, RecordType::A).await;
        assert_eq!(rcode(&response), ResponseCode::ServFail, "question {n}");
    }
    let metrics = bench.server.metrics();
    assert_eq!(metrics.upstream_refused.load(Ordering::Relaxed), 0);
    assert_eq!(metrics.upstream_in_flight.load(Ordering::Relaxed), 0);
    let mut changed = config(&bench.upstream);
    changed.listen = vec![bench.addr];
    bench.server.reload(changed).unwrap();
    bench.upstream.has_a("n1.test.", 300, A1);
    let response = bench.ask("n1.test.", RecordType::A).await;
    assert_eq!(response.answers, [a("n1.test.", 300, A1)]);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_nobodys_answer_with_it() {
    let bench = Bench::start().await;
    let metrics = bench.server.metrics();
    for owner in ["joined.test.", "alone.test."] {
        let held = Arc::new(Semaphore::new(0));
        let slow = Script {
            answers: vec![aaaa(owner, 300, "2001:db8::1")],
            held: Some(held.clone()),
            ..Script::default()
        };
        bench.upstream.on(owner, RecordType::AAAA, slow.reply());
        tokio::select! {
            _ = bench.server.explain(owner, None) => panic!("an answer, though none was given"),
            () = wait_for(|| bench.upstream.asked_about(owner, RecordType::AAAA) == 1) => {}
        }
        let is_waited_for = owner == "joined.test.";
        if !is_waited_for {
            // Nobody waits when the answer comes.
            held.close();
            wait_for(|| metrics.upstream_in_flight.load(Ordering::Relaxed) == 0).await;
        }
        let released = async {
            if is_waited_for {
                wait_for(|| merged(&bench) == 1).await;
                held.close();
            }
        };
        let (found, ()) = tokio::join!(bench.aaaa(owner), released);
        assert_eq!(found.len(), 1);
        assert_eq!(bench.upstream.asked_about(owner, RecordType::AAAA), 1);
    }
    assert_eq!(merged(&bench), 1);
    assert_eq!(metrics.cache_hits.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_popular_name_is_asked_for_again_before_its_answer_ends() {
    let bench = Bench::start().await;
    for ttl in [12, 20, 60, 100] {
        let owner = format!("ttl{ttl}.test.");
        let records = vec![a(&owner, ttl, "192.0.2.1")];
        bench.upstream.on(&owner, RecordType::A, answer(records));
        // Ready-made answers hide most of these questions from the cache that renews its own.
        for _ in 0..ttl {
            assert_eq!(bench.ask(&owner, RecordType::A).await.answers.len(), 1);
            bench.clock.advance(Duration::from_secs(1));
        }
        wait_for(|| bench.upstream.asked_about(&owner, RecordType::A) == 2).await;
        let renewed = bench.ask(&owner, RecordType::A).await;
        assert!(renewed.answers[0].ttl > ttl / 2, "{ttl}");
        assert_eq!(bench.upstream.asked_about(&owner, RecordType::A), 2);
    }
    let prefetched = &bench.server.metrics().prefetched;
    assert!(prefetched.load(Ordering::Relaxed) >= 4);
}

#[tokio::test]
async fn a_dead_upstream_is_passed_over_and_comes_back() {
    let dead = ScriptedUpstream::start().await;
    let entry = dead.upstream(Protocol::Udp);
    let bench = Bench::with(|config| {
        config.upstream.insert(0, entry);
        // So that the other one, on a slow machine, is not passed over as well.
        config.timeouts.attempt = Duration::from_secs(3);
        config.timeouts.query = Duration::from_secs(9);
    })
    .await;
    for n in 0..5 {
        let owner = format!("n{n}.test.");
        dead.on(&owner, RecordType::A, Reply::Silence);
        bench.upstream.has_a(&owner, 300, "192.0.2.1");
        assert_eq!(bench.ask(&owner, RecordType::A).await.answers.len(), 1);
    }
    // Three failures in a row, then it is left alone.
    assert_eq!(dead.asked().len(), 3);
    let healthy: Vec<bool> = bench.server.upstreams().iter().map(|u| u.is_up).collect();
    assert_eq!(healthy, [false, true]);
    bench.clock.advance(Duration::from_secs(2));
    // A probe is soon helped by the next one, whose answer may be the first.
    for upstream in [&dead, &bench.upstream] {
        upstream.has_a("back.test.", 300, "192.0.2.2");
    }
    assert_eq!(
        bench.ask("back.test.", RecordType::A).await.answers.len(),
        1
    );
    wait_for(|| bench.server.upstreams()[0].tries[TryResult::Answered as usize] == 1).await;
    assert!(bench.server.upstreams()[0].is_up);
}

#[tokio::test]
async fn questions_at_a_dead_upstream_are_bounded_and_the_rest_is_answered() {
    let bench = Bench::with(|config| {
        config.limits.upstream_in_flight_max = 8;
        // All questions are there before any of them is given up.
        config.timeouts.attempt = Duration::from_secs(5);
        config.timeouts.query = Duration::from_secs(5);
    })
    .await;
    for n in 0..30 {
        bench
            .upstream
            .on(&format!("n{n}.test."), RecordType::A, Reply::Silence);
    }
    bench.upstream.has_a("good.test.", 300, "192.0.2.1");
    bench.ask("good.test.", RecordType::A).await;
    let names: Vec<String> = (0..30).map(|n| format!("n{n}.test.")).collect();
    let flood = names.iter().map(|owner| bench.ask(owner, RecordType::A));
    let (responses, good) = tokio::join!(
        futures_util::future::join_all(flood),
        bench.ask("good.test.", RecordType::A)
    );
    assert_eq!(good.answers.len(), 1);
    for response in responses {
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    }
    let asked = bench.upstream.asked();
    let names: std::collections::HashSet<_> = asked.iter().map(|q| &q.0).collect();
    assert_eq!(names.len(), 9);
}

#[tokio::test]
async fn an_upstream_that_lies_is_not_believed() {
    let bench = Bench::with(|config| config.timeouts = impatient()).await;
    let wrong_id = Script {
        answers: vec![aaaa("id.test.", 300, "2001:db8::1")],
        wrong_id_first: true,
        ..Script::default()
    };
    let other_question = Script {
        answers: vec![aaaa("question.test.", 300, "2001:db8::bad")],
        other_question: true,
        ..Script::default()
    };
    let other_names = vec![
        a("victim.test.", 300, "192.0.2.66"),
        a("names.test.", 300, "192.0.2.1"),
    ];
    bench
        .upstream
        .on("id.test.", RecordType::AAAA, wrong_id.reply())
        .on("question.test.", RecordType::AAAA, other_question.reply())
        .on("question.test.", RecordType::A, Reply::Silence)
        .on(
            "octets.test.",
            RecordType::A,
            Reply::Octets(vec![0x81, 0x80, 0, 1, 0, 9]),
        )
        .on("names.test.", RecordType::A, answer(other_names));
    assert_eq!(bench.aaaa("id.test.").await[0].0, "2001:db8::1");
    let response = bench.ask("question.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    let response = bench.ask("octets.test.", RecordType::A).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    let response = bench.ask("names.test.", RecordType::A).await;
    assert_eq!(response.answers, [a("names.test.", 300, "192.0.2.1")]);
}

#[tokio::test]
async fn clients_outside_allow_from_are_refused() {
    let bench = Bench::with(|config| {
        config.allow_from = vec!["10.0.0.0/8".parse().unwrap()];
    })
    .await;
    let response = bench.ask("v4.test.", RecordType::A).await;
    assert_eq!(response.metadata.response_code, ResponseCode::Refused);
    assert_eq!(extended_errors(&response), [18]);
    assert!(bench.upstream.asked().is_empty());
}

#[tokio::test]
async fn odd_questions_are_answered_and_never_forwarded() {
    let bench = Bench::start().await;
    let ask = async |message: &Message| {
        let octets = exchange_udp(bench.addr, &message.to_vec().unwrap()).await;
        Message::from_vec(&octets).unwrap().metadata.response_code
    };
    let mut message = question("v4.test.", RecordType::A, PLAIN);
    message.metadata.op_code = OpCode::Notify;
    assert_eq!(ask(&message).await, ResponseCode::NotImp);

    let mut message = question("v4.test.", RecordType::A, PLAIN);
    message.edns.as_mut().unwrap().set_version(1);
    // 16 is both BADVERS and BADSIG; hickory reads it as the latter.
    assert_eq!(u16::from(ask(&message).await), 16);

    let message = question("v4.test.", RecordType::AXFR, PLAIN);
    assert_eq!(ask(&message).await, ResponseCode::Refused);

    let flags = Flags {
        recursion_desired: false,
        ..PLAIN
    };
    let message = question("v4.test.", RecordType::A, flags);
    assert_eq!(ask(&message).await, ResponseCode::Refused);

    let mut message = question("v4.test.", RecordType::A, PLAIN);
    message.queries.clear();
    assert_eq!(ask(&message).await, ResponseCode::FormErr);
    assert!(bench.upstream.asked().is_empty());
}

#[tokio::test]
async fn the_case_of_the_question_comes_back() {
    let bench = Bench::start().await;
    bench.upstream.has_a("v4.test.", 60, "192.0.2.1");
    for owner in ["v4.TEST.", "V4.test."] {
        let response = bench.ask(owner, RecordType::A).await;
        assert!(response.queries[0].name().eq_case(&name(owner)));
    }
    assert_eq!(bench.upstream.asked().len(), 1);
}

#[tokio::test]
async fn a_reload_changes_the_prefix_and_keeps_the_socket() {
    let bench = Bench::start().await;
    bench
        .upstream
        .lacks_aaaa("v4.test.", 60)
        .has_a("v4.test.", 60, "192.0.2.1");
    assert_eq!(bench.aaaa("v4.test.").await[0].0, "64:ff9b::c000:201");
    let mut changed = config(&bench.upstream);
    changed.listen = vec![bench.addr];
    changed.pref64 = vec!["2001:db8:1::/96".parse().unwrap()];
    bench.server.reload(changed).unwrap();
    assert_eq!(bench.aaaa("v4.test.").await[0].0, "2001:db8:1::c000:201");
    assert_eq!(bench.upstream.asked().len(), 2);
}

#[tokio::test]
async fn a_reload_that_asks_others_gives_and_keeps_nothing_of_before() {
    let bench = Bench::start().await;
    let other = ScriptedUpstream::start().await;
    other.has_a("slow.test.", 300, "192.0.2.2");
    let held = Arc::new(Semaphore::new(0));
    let slow = Script {
        answers: vec![a("slow.test.", 300, A1)],
        held: Some(held.clone()),
        ..Script::default()
    };
    bench.upstream.on("slow.test.", RecordType::A, slow.reply());
    let before = async { bench.ask_tcp("slow.test.", RecordType::A).await.answers };
    let behind = async {
        wait_for(|| bench.upstream.asked().len() == 1).await;
        let mut changed = config(&other);
        changed.listen = vec![bench.addr];
        bench.server.reload(changed).unwrap();
        let answers = bench.ask_tcp("slow.test.", RecordType::A).await.answers;
        held.close();
        answers
    };
    let (before, behind) = tokio::join!(before, behind);
    assert_eq!(before, [a("slow.test.", 300, A1)]);
    let expected = [a("slow.test.", 300, "192.0.2.2")];
    assert_eq!(behind, expected, "of the new upstream");
    // The old answer came last.
    let kept = bench.ask_tcp("slow.test.", RecordType::A).await.answers;
    assert_eq!(kept, expected);
}

#[tokio::test]
async fn a_reload_with_another_authority_in_the_same_file_keeps_nothing_of_before() {
    let scratch = Scratch::new("authorities");
    let (file, _) = scratch.certificate("old", "DNS:dns.test");
    let (new, _) = scratch.certificate("new", "DNS:dns.test");
    let upstream = ScriptedUpstream::start().await;
    let mut encrypted = upstream.upstream(Protocol::Tls);
    encrypted.name = "dns.test".into();
    let mut configured = config(&upstream);
    configured.upstream.push(encrypted);
    configured.upstream_ca = Some(file.clone());
    let bench = Bench::with(|config| *config = configured.clone()).await;
    upstream.has_a("v4.test.", 300, A1);
    let asked = async |times| {
        bench.ask_tcp("v4.test.", RecordType::A).await;
        assert_eq!(upstream.asked_about("v4.test.", RecordType::A), times);
    };
    asked(1).await;
    bench.server.reload(configured.clone()).unwrap();
    asked(1).await;
    std::fs::copy(new, file).unwrap();
    bench.server.reload(configured.clone()).unwrap();
    asked(2).await;
}

#[tokio::test]
async fn a_stopped_server_frees_its_address() {
    let bench = Bench::start().await;
    let Bench {
        server,
        upstream,
        addr,
        ..
    } = bench;
    tokio::time::timeout(PATIENCE, server.stop()).await.unwrap();
    let mut again = config(&upstream);
    again.listen = vec![addr];
    Server::start(again, Arc::new(AtomicBool::new(true))).unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let bench = Bench::start().await;
    let mut second = config(&bench.upstream);
    second.listen = vec![bench.addr];
    let error = Server::start(second, Arc::default()).err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, StartError::InUse { .. }));
    assert!(text.contains(&bench.addr.to_string()), "{text}");
    assert!(text.contains("DNSStubListener=no"), "{text}");
}

#[tokio::test]
async fn wrong_configurations_are_refused_before_a_socket_is_made() {
    let upstream = ScriptedUpstream::start().await;
    let start = |change: fn(&mut gate64_dns64::Config)| {
        let mut config = config(&upstream);
        change(&mut config);
        let error = Server::start(config, Arc::default()).err().unwrap();
        let (key, text) = (error.key(), error.to_string());
        assert!(!text.contains(key), "{key}: {text}");
        format!("{key}: {text}")
    };
    assert!(start(|c| c.upstream.clear()).contains("dns64.upstream: no resolver to ask"));
    assert!(start(|c| c.pref64.clear()).contains("nat64.pref64: no prefix"));
    assert!(start(|c| c.listen.clear()).contains("dns64.listen: no address to serve"));
    assert!(start(|c| c.upstream[0].addr = c.listen[0]).contains("is this server itself"));
    let wildcard = start(|c| {
        c.listen = vec!["[::]:5399".parse().unwrap()];
        c.upstream[0].addr = "127.0.0.1:5399".parse().unwrap();
    });
    assert!(wildcard.contains("is this server itself"), "{wildcard}");
    let label = start(|c| c.ignore_aaaa_names = vec!["x".repeat(64)]);
    assert!(label.contains("not a domain name"), "{label}");
}

#[tokio::test]
async fn explain_says_what_happens_and_why() {
    let bench = Bench::start().await;
    bench
        .upstream
        .lacks_aaaa("v4.test.", 60)
        .has_a("v4.test.", 300, "192.0.2.1");
    let steps = bench.server.explain("v4.test", None).await.join("\n");
    assert!(
        steps.contains("asked v4.test. AAAA: no such record"),
        "{steps}"
    );
    assert!(
        steps.contains("asked v4.test. A: v4.test. 300 A 192.0.2.1"),
        "{steps}"
    );
    assert!(
        steps.contains("synthesised: 64:ff9b::c000:201 (TTL 60)"),
        "{steps}"
    );
}
