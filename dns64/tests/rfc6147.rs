//! RFC 6147 section 5 over real sockets, in front of a scripted upstream; each test is named by
//! the section whose rule it shows.

#![allow(missing_docs, reason = "a test")]

mod common;

use common::*;
use gate64_dns64::{OnFailure, Synthesize};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, RData, RecordType};

fn owned(list: &[(&str, u32)]) -> Vec<(String, u32)> {
    list.iter()
        .map(|(ip, ttl)| ((*ip).to_string(), *ttl))
        .collect()
}

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
        .on(
            "dual.test.",
            RecordType::AAAA,
            answer(vec![aaaa("dual.test.", 300, "2001:db8::1")]),
        )
        .on(
            "dual.test.",
            RecordType::A,
            answer(vec![a("dual.test.", 300, "192.0.2.1")]),
        );
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
        .on("v4.test.", RecordType::AAAA, nodata("test.", 60))
        .on(
            "v4.test.",
            RecordType::A,
            answer(vec![a("v4.test.", 300, "192.0.2.33")]),
        );
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
            .on(
                "broken.test.",
                RecordType::A,
                answer(vec![a("broken.test.", 300, "192.0.2.1")]),
            );
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
        .on(
            "broken.test.",
            RecordType::AAAA,
            failure(ResponseCode::ServFail),
        )
        .on(
            "broken.test.",
            RecordType::A,
            answer(vec![a("broken.test.", 300, "192.0.2.1")]),
        );
    let response = bench.ask("broken.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(bench.upstream.asked_about("broken.test.", RecordType::A), 0);
}

#[tokio::test]
async fn section_5_1_2_failure_of_both_questions_is_a_failure() {
    let bench = Bench::start().await;
    bench
        .upstream
        .on(
            "broken.test.",
            RecordType::AAAA,
            failure(ResponseCode::ServFail),
        )
        .on(
            "broken.test.",
            RecordType::A,
            failure(ResponseCode::ServFail),
        );
    let response = bench.ask("broken.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn section_5_1_3_no_answer_for_aaaa_counts_as_empty() {
    let bench = Bench::start().await;
    bench
        .upstream
        .on("slow.test.", RecordType::AAAA, Reply::Silence)
        .on(
            "slow.test.",
            RecordType::A,
            answer(vec![a("slow.test.", 300, "192.0.2.1")]),
        );
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
        .on(
            "mapped.test.",
            RecordType::A,
            answer(vec![a("mapped.test.", 300, "192.0.2.1")]),
        );
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
            .on(
                owner,
                RecordType::AAAA,
                answer(vec![aaaa(owner, 300, "2001:db8::1")]),
            )
            .on(
                owner,
                RecordType::A,
                answer(vec![a(owner, 300, "192.0.2.1")]),
            );
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
        .on("end.test.", RecordType::AAAA, nodata("test.", 60))
        .on(
            "end.test.",
            RecordType::A,
            answer(vec![a("end.test.", 300, "192.0.2.1")]),
        );
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
        .on("half.test.", RecordType::AAAA, nodata("test.", 60))
        .on("half.test.", RecordType::A, failure(ResponseCode::ServFail));
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
        .on(
            "ttl.test.",
            RecordType::A,
            answer(vec![a("ttl.test.", 300, "192.0.2.1")]),
        );
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
    let bench = Bench::with(|config| {
        config.pref64.push("2001:db8:122::/48".parse().unwrap());
    })
    .await;
    let records = vec![
        a("two.test.", 50, "192.0.2.33"),
        a("two.test.", 50, "192.0.2.34"),
    ];
    bench
        .upstream
        .on("two.test.", RecordType::AAAA, nodata("test.", 60))
        .on("two.test.", RecordType::A, answer(records));
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

#[tokio::test]
async fn section_5_2_all_six_prefix_lengths() {
    for (prefix, expected) in [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:0"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221"),
    ] {
        let bench = Bench::with(|config| config.pref64 = vec![prefix.parse().unwrap()]).await;
        bench
            .upstream
            .on("v4.test.", RecordType::AAAA, nodata("test.", 60))
            .on(
                "v4.test.",
                RecordType::A,
                answer(vec![a("v4.test.", 60, "192.0.2.33")]),
            );
        let expected: std::net::Ipv6Addr = expected.parse().unwrap();
        let got = bench.aaaa("v4.test.").await;
        assert_eq!(got, [(expected.to_string(), 60)], "{prefix}");
    }
}

#[tokio::test]
async fn section_5_2_non_global_addresses_stay_out_of_the_well_known_prefix() {
    let bench = Bench::with(|config| config.wkp_strict = true).await;
    let records = vec![
        a("mix.test.", 60, "10.0.0.1"),
        a("mix.test.", 60, "192.168.1.1"),
        a("mix.test.", 60, "1.2.3.4"),
    ];
    bench
        .upstream
        .on("mix.test.", RecordType::AAAA, nodata("test.", 60))
        .on("mix.test.", RecordType::A, answer(records))
        .on("lan.test.", RecordType::AAAA, nodata("test.", 60))
        .on(
            "lan.test.",
            RecordType::A,
            answer(vec![a("lan.test.", 60, "10.0.0.1")]),
        );
    assert_eq!(
        bench.aaaa("mix.test.").await,
        owned(&[("64:ff9b::102:304", 60)])
    );
    assert!(bench.aaaa("lan.test.").await.is_empty());
}

#[tokio::test]
async fn section_5_2_the_operator_keeps_addresses_from_being_mapped() {
    let bench = Bench::with(|config| {
        config.exclude_a = vec!["192.0.2.0/28".parse().unwrap()];
    })
    .await;
    let records = vec![
        a("two.test.", 60, "192.0.2.1"),
        a("two.test.", 60, "192.0.2.33"),
    ];
    bench
        .upstream
        .on("two.test.", RecordType::AAAA, nodata("test.", 60))
        .on("two.test.", RecordType::A, answer(records));
    assert_eq!(
        bench.aaaa("two.test.").await,
        owned(&[("64:ff9b::c000:221", 60)])
    );
}

#[tokio::test]
async fn section_5_3_1_a_ptr_under_pref64_leads_to_in_addr_arpa() {
    let bench = Bench::with(|config| {
        config.pref64.push("2001:db8:122::/48".parse().unwrap());
    })
    .await;
    let reverse = "33.2.0.192.in-addr.arpa.";
    let records = vec![ptr(reverse, 300, "v4.test.")];
    bench.upstream.on(reverse, RecordType::PTR, answer(records));
    for owner in [
        "1.2.2.0.0.0.0.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa.",
        "0.0.0.0.0.0.0.0.0.0.1.2.2.0.0.0.0.0.0.c.2.2.1.0.8.b.d.0.1.0.0.2.ip6.arpa.",
    ] {
        let response = bench.ask(owner, RecordType::PTR).await;
        assert_eq!(
            types(&response.answers),
            [RecordType::CNAME, RecordType::PTR]
        );
        let RData::CNAME(target) = &response.answers[0].data else {
            panic!("a CNAME record")
        };
        assert_eq!(target.0, name(reverse));
    }
    assert_eq!(bench.upstream.asked_about(reverse, RecordType::PTR), 1);
}

#[tokio::test]
async fn section_5_3_1_other_reverse_names_are_passed() {
    let bench = Bench::start().await;
    let owner = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
    let records = vec![ptr(owner, 300, "v6.test.")];
    bench.upstream.on(owner, RecordType::PTR, answer(records));
    let response = bench.ask(owner, RecordType::PTR).await;
    assert_eq!(types(&response.answers), [RecordType::PTR]);
}

#[tokio::test]
async fn section_5_3_2_authority_and_additional_sections_are_unchanged() {
    let bench = Bench::start().await;
    let with_a = Script {
        answers: vec![a("v4.test.", 300, "192.0.2.1")],
        authorities: vec![txt("test.", 300, "authority")],
        additionals: vec![a("ns.test.", 300, "192.0.2.53")],
        ..Script::default()
    };
    bench
        .upstream
        .on("v4.test.", RecordType::AAAA, nodata("test.", 60))
        .on("v4.test.", RecordType::A, with_a.reply());
    let response = bench.ask("v4.test.", RecordType::AAAA).await;
    assert_eq!(response.authorities, [txt("test.", 300, "authority")]);
    assert_eq!(response.additionals, [a("ns.test.", 300, "192.0.2.53")]);
}

#[tokio::test]
async fn section_5_3_3_other_records_are_unchanged() {
    let bench = Bench::start().await;
    bench
        .upstream
        .on(
            "v4.test.",
            RecordType::A,
            answer(vec![a("v4.test.", 300, "192.0.2.1")]),
        )
        .on(
            "v4.test.",
            RecordType::TXT,
            answer(vec![txt("v4.test.", 300, "text")]),
        )
        .on(
            "v4.test.",
            RecordType::ANY,
            answer(vec![a("v4.test.", 300, "192.0.2.1")]),
        );
    for (qtype, got) in [
        (RecordType::A, RecordType::A),
        (RecordType::TXT, RecordType::TXT),
        (RecordType::ANY, RecordType::A),
    ] {
        let response = bench.ask("v4.test.", qtype).await;
        assert_eq!(types(&response.answers), [got]);
    }
}

#[tokio::test]
async fn section_5_5_do_and_cd_together_forbid_synthesis() {
    let bench = Bench::start().await;
    let empty = Script {
        authorities: vec![soa("test.", 60, 60), rrsig("test.", 60, RecordType::SOA)],
        authentic: true,
        ..Script::default()
    };
    bench
        .upstream
        .on("v4.test.", RecordType::AAAA, empty.reply())
        .on(
            "v4.test.",
            RecordType::A,
            answer(vec![a("v4.test.", 60, "192.0.2.1")]),
        );
    let response = bench.ask_with("v4.test.", RecordType::AAAA, DO_CD).await;
    assert!(response.answers.is_empty());
    assert_eq!(
        types(&response.authorities),
        [RecordType::SOA, RecordType::RRSIG]
    );
    assert!(response.metadata.checking_disabled);
    assert_eq!(bench.upstream.asked_about("v4.test.", RecordType::A), 0);
    let (sent, _) = &bench.upstream.messages()[0];
    assert!(sent.metadata.checking_disabled);
    assert!(sent.edns.as_ref().unwrap().flags().dnssec_ok);
}

#[tokio::test]
async fn section_5_5_synthetic_records_never_carry_ad() {
    let bench = Bench::start().await;
    let authentic = |answers, authorities| {
        Script {
            answers,
            authorities,
            authentic: true,
            ..Script::default()
        }
        .reply()
    };
    let signed = vec![
        a("v4.test.", 60, "192.0.2.1"),
        rrsig("v4.test.", 60, RecordType::A),
    ];
    bench
        .upstream
        .on(
            "v4.test.",
            RecordType::AAAA,
            authentic(vec![], vec![soa("test.", 60, 60)]),
        )
        .on("v4.test.", RecordType::A, authentic(signed, vec![]));
    let response = bench.ask_with("v4.test.", RecordType::AAAA, DO).await;
    assert_eq!(types(&response.answers), [RecordType::AAAA]);
    assert!(!response.metadata.authentic_data);
    // The same A records, asked for as they are, keep it.
    let response = bench.ask_with("v4.test.", RecordType::A, DO).await;
    assert_eq!(types(&response.answers), [RecordType::A, RecordType::RRSIG]);
    assert!(response.metadata.authentic_data);
}

#[tokio::test]
async fn section_5_5_bogus_answers_are_never_covered_by_synthesis() {
    let bench = Bench::start().await;
    let bogus = Script {
        rcode: Some(ResponseCode::ServFail),
        extended_error: Some(6),
        ..Script::default()
    };
    bench
        .upstream
        .on("bogus.test.", RecordType::AAAA, bogus.reply())
        .on(
            "bogus.test.",
            RecordType::A,
            answer(vec![a("bogus.test.", 60, "192.0.2.1")]),
        );
    let response = bench.ask("bogus.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(extended_errors(&response), [6]);
    assert_eq!(bench.upstream.asked_about("bogus.test.", RecordType::A), 0);
}

#[tokio::test]
async fn section_5_5_cd_without_do_is_checked_before_synthesis() {
    let bench = Bench::start().await;
    bench
        .upstream
        .on("v4.test.", RecordType::AAAA, nodata("test.", 60))
        .on(
            "v4.test.",
            RecordType::A,
            answer(vec![a("v4.test.", 60, "192.0.2.1")]),
        );
    let response = bench.ask_with("v4.test.", RecordType::AAAA, CD).await;
    assert_eq!(addresses(&response), owned(&[("64:ff9b::c000:201", 60)]));
    for (sent, _) in bench.upstream.messages() {
        assert!(!sent.metadata.checking_disabled);
    }
}

#[tokio::test]
async fn synthesize_always_hides_real_aaaa() {
    let bench = Bench::with(|config| config.synthesize = Synthesize::Always).await;
    bench
        .upstream
        .on(
            "dual.test.",
            RecordType::AAAA,
            answer(vec![aaaa("dual.test.", 300, "2001:db8::1")]),
        )
        .on(
            "dual.test.",
            RecordType::A,
            answer(vec![a("dual.test.", 300, "192.0.2.1")]),
        )
        .on(
            "v6.test.",
            RecordType::AAAA,
            answer(vec![aaaa("v6.test.", 300, "2001:db8::1")]),
        )
        .on("v6.test.", RecordType::A, nodata("test.", 60));
    assert_eq!(
        bench.aaaa("dual.test.").await,
        owned(&[("64:ff9b::c000:201", 300)])
    );
    let response = bench.ask("v6.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    assert!(response.answers.is_empty());
}

#[tokio::test]
async fn clients_outside_synthesize_for_get_what_the_upstream_says() {
    let bench = Bench::with(|config| {
        config.synthesize_for = vec!["10.0.0.0/8".parse().unwrap()];
    })
    .await;
    bench
        .upstream
        .on("v4.test.", RecordType::AAAA, nodata("test.", 60));
    assert!(bench.aaaa("v4.test.").await.is_empty());
    assert_eq!(bench.upstream.asked_about("v4.test.", RecordType::A), 0);
}

#[tokio::test]
async fn while_the_translator_is_not_ready_nothing_is_synthesised() {
    let bench = Bench::start().await;
    bench
        .upstream
        .on("v4.test.", RecordType::AAAA, nodata("test.", 60))
        .on(
            "v4.test.",
            RecordType::A,
            answer(vec![a("v4.test.", 60, "192.0.2.1")]),
        );
    bench
        .ready
        .store(false, std::sync::atomic::Ordering::Relaxed);
    let response = bench.ask("v4.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(extended_errors(&response), [14]);
    bench
        .ready
        .store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(
        bench.aaaa("v4.test.").await,
        owned(&[("64:ff9b::c000:201", 60)])
    );
}
