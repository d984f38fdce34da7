//! RFC 6147 sections 5.2 to 5.5, the records that are made or passed, and the operator's policies,
//! over real sockets, in front of a scripted upstream; each test is named by the section whose rule
//! it shows.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::net::Ipv6Addr;

use common::*;
use gate64_dns64::Synthesize;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};

/// 192.0.2.33 behind a prefix of each length (RFC 6052 section 2.4).
const SIX_LENGTHS: [(&str, &str); 6] = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:0"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221"),
];

#[tokio::test]
async fn section_5_2_all_six_prefix_lengths() {
    for (prefix, expected) in SIX_LENGTHS {
        let bench = Bench::with(|config| config.pref64 = vec![prefix.parse().unwrap()]).await;
        bench
            .upstream
            .lacks_aaaa("v4.test.", 60)
            .has_a("v4.test.", 60, "192.0.2.33");
        let expected: Ipv6Addr = expected.parse().unwrap();
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
        .lacks_aaaa("mix.test.", 60)
        .on("mix.test.", RecordType::A, answer(records))
        .lacks_aaaa("lan.test.", 60)
        .has_a("lan.test.", 60, "10.0.0.1");
    assert_eq!(
        bench.aaaa("mix.test.").await,
        owned(&[("64:ff9b::102:304", 60)])
    );
    let response = bench.ask_with("lan.test.", RecordType::AAAA, DO).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    assert!(response.answers.is_empty());
    // RFC 8914: the client's user may see why.
    assert_eq!(extended_errors(&response), [0]);
}

#[tokio::test]
async fn section_5_2_the_operator_keeps_addresses_from_being_mapped() {
    let bench = Bench::with(|config| {
        config.exclude_a = vec!["192.0.2.0/28".parse().unwrap()];
    })
    .await;
    bench.upstream.lacks_aaaa("two.test.", 60).has_all(
        "two.test.",
        60,
        &["192.0.2.1", "192.0.2.33"],
    );
    assert_eq!(
        bench.aaaa("two.test.").await,
        owned(&[("64:ff9b::c000:221", 60)])
    );
}

#[tokio::test]
async fn section_5_3_1_a_ptr_under_pref64_leads_to_in_addr_arpa() {
    let bench = Bench::with_two_prefixes().await;
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
async fn section_5_3_1_ptr_for_all_six_prefix_lengths() {
    let reverse = "33.2.0.192.in-addr.arpa.";
    for (prefix, synthetic) in SIX_LENGTHS {
        let bench = Bench::with(|config| config.pref64 = vec![prefix.parse().unwrap()]).await;
        let records = vec![ptr(reverse, 300, "v4.test.")];
        bench.upstream.on(reverse, RecordType::PTR, answer(records));
        let synthetic: Ipv6Addr = synthetic.parse().unwrap();
        let response = bench.ask(&ip6_arpa(synthetic), RecordType::PTR).await;
        assert_eq!(
            response.answers,
            [
                cname(&ip6_arpa(synthetic), response.answers[0].ttl, reverse),
                ptr(reverse, 300, "v4.test.")
            ],
            "{prefix}"
        );
    }
}

/// The address's name in ip6.arpa (RFC 3596 section 2.5).
fn ip6_arpa(addr: Ipv6Addr) -> String {
    let octets = addr.octets();
    let nibbles = octets.iter().rev().flat_map(|o| [o & 0xf, o >> 4]);
    let labels: String = nibbles.map(|nibble| format!("{nibble:x}.")).collect();
    format!("{labels}ip6.arpa.")
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
        .lacks_aaaa("v4.test.", 60)
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
        .has_a("v4.test.", 300, "192.0.2.1")
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
        .has_a("v4.test.", 60, "192.0.2.1");
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
        .has_a("bogus.test.", 60, "192.0.2.1");
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
        .lacks_aaaa("v4.test.", 60)
        .has_a("v4.test.", 60, "192.0.2.1");
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
        .has_aaaa("dual.test.", 300, "2001:db8::1")
        .has_a("dual.test.", 300, "192.0.2.1")
        .has_aaaa("v6.test.", 300, "2001:db8::1")
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
    bench.upstream.lacks_aaaa("v4.test.", 60);
    assert!(bench.aaaa("v4.test.").await.is_empty());
    assert_eq!(bench.upstream.asked_about("v4.test.", RecordType::A), 0);
}

#[tokio::test]
async fn while_the_translator_is_not_ready_nothing_is_synthesised() {
    let bench = Bench::start().await;
    bench
        .upstream
        .lacks_aaaa("v4.test.", 60)
        .has_a("v4.test.", 60, "192.0.2.1");
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
