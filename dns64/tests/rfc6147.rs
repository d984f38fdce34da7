//! RFC 6147 section 5.1, which question is asked and what an answer means, over real sockets, in
//! front of a scripted upstream; each test is named by the section whose rule it shows.

#![allow(missing_docs, reason = "a test")]

mod common;

use common::*;
use gate64_dns64::OnFailure;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, RecordType};

#[tokio::test]
async fn section_5_1_other_classes_are_not_synthesised() {
    let bench = Bench::start().await;
    let mut message = question("v4.test.", RecordType::AAAA, PLAIN);
    message.queries[0].set_query_class(DNSClass::CH);
    let octets = exchange_udp(bench.addr, &message.to_vec().unwrap()).await;
    let response = hickory_proto::op::Message::from_vec(&octets).unwrap();
    assert_eq!(response.metadata.response_code, ResponseCode::Refused);
    assert!(bench.upstream.asked().is_empty());
}

#[tokio::test]
async fn section_5_1_1_a_real_aaaa_is_kept_and_a_is_never_asked() {
    let bench = Bench::start().await;
    bench
        .upstream
        .has_aaaa("dual.test.", 300, "2001:db8::1")
        .has_a("dual.test.", 300, "192.0.2.1");
    assert_eq!(
        bench.aaaa("dual.test.").await,
        owned(&[("2001:db8::1", 300)])
    );
    assert_eq!(bench.upstream.asked_about("dual.test.", RecordType::A), 0);
}

#[tokio::test]
async fn section_5_1_no_aaaa_gives_a_synthetic_one() {
    let bench = Bench::start().await;
    bench
        .upstream
        .lacks_aaaa("v4.test.", 60)
        .has_a("v4.test.", 300, "192.0.2.33");
    let response = bench.ask("v4.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    assert!(response.metadata.recursion_available);
    assert!(!response.metadata.authoritative);
    assert_eq!(addresses(&response), owned(&[("64:ff9b::c000:221", 60)]));
    let counted = bench.server.metrics().queries().next().unwrap();
    assert_eq!((counted.2.name(), counted.3), ("synthesized", 1));
}

#[tokio::test]
async fn section_5_1_2_nxdomain_is_passed_and_a_is_never_asked() {
    let bench = Bench::start().await;
    let response = bench.ask("missing.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(types(&response.authorities), [RecordType::SOA]);
    assert_eq!(
        bench.upstream.asked_about("missing.test.", RecordType::A),
        0
    );
}

#[tokio::test]
async fn section_5_1_2_other_rcodes_count_as_empty() {
    for rcode in [
        ResponseCode::ServFail,
        ResponseCode::NotImp,
        ResponseCode::Refused,
    ] {
        let bench = Bench::start().await;
        bench
            .upstream
            .on("broken.test.", RecordType::AAAA, failure(rcode))
            .has_a("broken.test.", 300, "192.0.2.1");
        assert_eq!(
            bench.aaaa("broken.test.").await,
            owned(&[("64:ff9b::c000:201", 300)])
        );
    }
}

#[tokio::test]
async fn section_5_1_2_failures_are_passed_where_the_operator_says_so() {
    let bench = Bench::with(|config| config.on_failure = OnFailure::Pass).await;
    bench
        .upstream
        .fails("broken.test.", RecordType::AAAA)
        .has_a("broken.test.", 300, "192.0.2.1");
    let response = bench.ask("broken.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(bench.upstream.asked_about("broken.test.", RecordType::A), 0);
}

#[tokio::test]
async fn section_5_1_2_failure_of_both_questions_is_a_failure() {
    let bench = Bench::start().await;
    bench
        .upstream
        .fails("broken.test.", RecordType::AAAA)
        .fails("broken.test.", RecordType::A);
    let response = bench.ask("broken.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn section_5_1_3_no_answer_for_aaaa_counts_as_empty() {
    let bench = Bench::with(|config| config.timeouts = impatient()).await;
    bench
        .upstream
        .on("slow.test.", RecordType::AAAA, Reply::Silence)
        .has_a("slow.test.", 300, "192.0.2.1");
    assert_eq!(
        bench.aaaa("slow.test.").await,
        owned(&[("64:ff9b::c000:201", 300)])
    );
}

#[tokio::test]
async fn section_5_1_4_mapped_addresses_count_as_missing() {
    let bench = Bench::start().await;
    let mapped = vec![
        aaaa("mapped.test.", 300, "::ffff:192.0.2.9"),
        rrsig("mapped.test.", 300, RecordType::AAAA),
    ];
    bench
        .upstream
        .on("mapped.test.", RecordType::AAAA, answer(mapped))
        .has_a("mapped.test.", 300, "192.0.2.1");
    let response = bench.ask_with("mapped.test.", RecordType::AAAA, DO).await;
    assert_eq!(addresses(&response), owned(&[("64:ff9b::c000:201", 300)]));
    assert_eq!(types(&response.answers), [RecordType::AAAA]);
}

#[tokio::test]
async fn section_5_1_4_of_a_mixed_set_only_the_excluded_ones_go() {
    let bench = Bench::with(|config| {
        config
            .exclude_aaaa
            .push("2001:db8:bad::/48".parse().unwrap());
    })
    .await;
    let mixed = vec![
        aaaa("mixed.test.", 300, "2001:db8:bad::1"),
        aaaa("mixed.test.", 300, "2001:db8::1"),
    ];
    bench
        .upstream
        .on("mixed.test.", RecordType::AAAA, answer(mixed));
    assert_eq!(
        bench.aaaa("mixed.test.").await,
        owned(&[("2001:db8::1", 300)])
    );
    assert_eq!(bench.upstream.asked_about("mixed.test.", RecordType::A), 0);
}

#[tokio::test]
async fn section_5_1_4_names_whose_aaaa_are_ignored() {
    let bench = Bench::with(|config| config.ignore_aaaa_names = vec!["bad.test".into()]).await;
    for owner in ["bad.test.", "www.bad.test."] {
        bench
            .upstream
            .has_aaaa(owner, 300, "2001:db8::1")
            .has_a(owner, 300, "192.0.2.1");
        assert_eq!(
            bench.aaaa(owner).await,
            owned(&[("64:ff9b::c000:201", 300)])
        );
    }
    let kept = vec![aaaa("notbad.test.", 300, "2001:db8::1")];
    bench
        .upstream
        .on("notbad.test.", RecordType::AAAA, answer(kept));
    assert_eq!(
        bench.aaaa("notbad.test.").await,
        owned(&[("2001:db8::1", 300)])
    );
}

#[tokio::test]
async fn section_5_1_5_the_cname_chain_is_kept_and_its_end_is_synthesised() {
    let bench = Bench::start().await;
    let chain = || {
        vec![
            cname("www.test.", 100, "mid.test."),
            rrsig("www.test.", 100, RecordType::CNAME),
            cname("mid.test.", 200, "end.test."),
        ]
    };
    let mut with_a = chain();
    with_a.push(a("end.test.", 300, "192.0.2.1"));
    with_a.push(rrsig("end.test.", 300, RecordType::A));
    let empty = Script {
        answers: chain(),
        authorities: vec![soa("test.", 60, 60)],
        ..Script::default()
    };
    bench
        .upstream
        .on("www.test.", RecordType::AAAA, empty.reply())
        .on("www.test.", RecordType::A, answer(with_a));
    let response = bench.ask_with("www.test.", RecordType::AAAA, DO).await;
    assert_eq!(
        types(&response.answers),
        [
            RecordType::CNAME,
            RecordType::RRSIG,
            RecordType::CNAME,
            RecordType::AAAA
        ]
    );
    assert_eq!(response.answers[3].name, name("end.test."));
    assert_eq!(response.answers[3].ttl, 60);
}

#[tokio::test]
async fn section_5_1_5_a_dname_stays_in_the_chain() {
    let bench = Bench::start().await;
    let chain = || {
        vec![
            dname("old.test.", 100, "new.test."),
            cname("www.old.test.", 100, "www.new.test."),
        ]
    };
    let mut with_a = chain();
    with_a.push(a("www.new.test.", 300, "192.0.2.1"));
    let empty = Script {
        answers: chain(),
        authorities: vec![soa("test.", 60, 60)],
        ..Script::default()
    };
    bench
        .upstream
        .on("www.old.test.", RecordType::AAAA, empty.reply())
        .on("www.old.test.", RecordType::A, answer(with_a));
    let response = bench.ask("www.old.test.", RecordType::AAAA).await;
    assert_eq!(
        types(&response.answers),
        [RecordType::DNAME, RecordType::CNAME, RecordType::AAAA]
    );
    assert_eq!(response.answers[2].name, name("www.new.test."));
}

#[tokio::test]
async fn section_5_1_5_a_chain_that_the_upstream_leaves_open_is_followed() {
    let bench = Bench::start().await;
    let open = || answer(vec![cname("open.test.", 100, "end.test.")]);
    bench
        .upstream
        .on("open.test.", RecordType::AAAA, open())
        .on("open.test.", RecordType::A, open())
        .lacks_aaaa("end.test.", 60)
        .has_a("end.test.", 300, "192.0.2.1");
    let response = bench.ask("open.test.", RecordType::AAAA).await;
    assert_eq!(
        types(&response.answers),
        [RecordType::CNAME, RecordType::AAAA]
    );
    assert_eq!(addresses(&response), owned(&[("64:ff9b::c000:201", 60)]));
}

#[tokio::test]
async fn section_5_1_5_a_cname_loop_comes_to_an_end() {
    let bench = Bench::start().await;
    for qtype in [RecordType::AAAA, RecordType::A] {
        bench
            .upstream
            .on(
                "one.test.",
                qtype,
                answer(vec![cname("one.test.", 100, "two.test.")]),
            )
            .on(
                "two.test.",
                qtype,
                answer(vec![cname("two.test.", 100, "one.test.")]),
            );
    }
    let response = bench.ask("one.test.", RecordType::AAAA).await;
    assert!(addresses(&response).is_empty());
    assert!(bench.upstream.asked().len() < 10);
}

#[tokio::test]
async fn section_5_1_6_without_a_records_the_client_gets_its_own_answer() {
    let bench = Bench::start().await;
    bench
        .upstream
        .on("none.test.", RecordType::AAAA, nodata("none.test.", 60))
        .on("none.test.", RecordType::A, nodata("test.", 60));
    let response = bench.ask("none.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    assert!(response.answers.is_empty());
    assert_eq!(response.authorities[0].name, name("none.test."));
}

#[tokio::test]
async fn section_5_1_6_an_error_for_a_is_passed() {
    let bench = Bench::start().await;
    bench
        .upstream
        .lacks_aaaa("half.test.", 60)
        .fails("half.test.", RecordType::A);
    let response = bench.ask("half.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn section_5_1_7_the_ttl_is_the_least_of_a_and_soa() {
    for (a_ttl, negative, expected) in [(300, 60, 60), (30, 60, 30)] {
        let bench = Bench::start().await;
        let records = vec![a("ttl.test.", a_ttl, "192.0.2.1")];
        bench
            .upstream
            .on("ttl.test.", RecordType::AAAA, nodata("test.", negative))
            .on("ttl.test.", RecordType::A, answer(records));
        assert_eq!(bench.aaaa("ttl.test.").await[0].1, expected);
    }
}

#[tokio::test]
async fn section_5_1_7_the_soa_minimum_counts_too() {
    let bench = Bench::start().await;
    let empty = Script {
        authorities: vec![soa("test.", 3600, 45)],
        ..Script::default()
    };
    bench
        .upstream
        .on("ttl.test.", RecordType::AAAA, empty.reply())
        .has_a("ttl.test.", 300, "192.0.2.1");
    assert_eq!(bench.aaaa("ttl.test.").await[0].1, 45);
}

#[tokio::test]
async fn section_5_1_7_without_soa_the_ttl_is_at_most_600() {
    for (a_ttl, expected) in [(86_400, 600), (300, 300)] {
        let bench = Bench::start().await;
        let records = vec![a("ttl.test.", a_ttl, "192.0.2.1")];
        bench
            .upstream
            .on("ttl.test.", RecordType::AAAA, answer(vec![]))
            .on("ttl.test.", RecordType::A, answer(records));
        assert_eq!(bench.aaaa("ttl.test.").await[0].1, expected);
    }
}

#[tokio::test]
async fn section_5_1_7_every_a_gives_one_aaaa_per_prefix() {
    let bench = Bench::with_two_prefixes().await;
    bench.upstream.lacks_aaaa("two.test.", 60).has_all(
        "two.test.",
        50,
        &["192.0.2.33", "192.0.2.34"],
    );
    assert_eq!(
        bench.aaaa("two.test.").await,
        owned(&[
            ("64:ff9b::c000:221", 50),
            ("2001:db8:122:c000:2:2100::", 50),
            ("64:ff9b::c000:222", 50),
            ("2001:db8:122:c000:2:2200::", 50),
        ])
    );
}
