//! ipv4only.arpa and its reverse names (RFC 7050, RFC 8880), answered without the upstream.

#![allow(missing_docs, reason = "a test")]

mod common;

use common::*;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};

#[tokio::test]
async fn rfc8880_section_7_1_a_records_are_the_well_known_addresses() {
    let bench = Bench::start().await;
    let response = bench.ask("ipv4only.arpa.", RecordType::A).await;
    let expected = ["192.0.0.170", "192.0.0.171"].map(|ip| a("ipv4only.arpa.", 86_400, ip));
    assert_eq!(response.answers, expected);
    assert!(bench.upstream.asked().is_empty());
}

#[tokio::test]
async fn rfc7050_section_3_aaaa_records_reveal_every_prefix() {
    let bench = Bench::with(|config| {
        config.wkp_strict = true;
        config.pref64.push("2001:db8:122::/48".parse().unwrap());
    })
    .await;
    let found: Vec<String> = bench
        .aaaa("IPv4Only.ARPA.")
        .await
        .into_iter()
        .map(|f| f.0)
        .collect();
    assert_eq!(
        found,
        [
            "64:ff9b::c000:aa",
            "64:ff9b::c000:ab",
            "2001:db8:122:c000:0:aa00::",
            "2001:db8:122:c000:0:ab00::",
        ]
    );
    assert!(bench.upstream.asked().is_empty());
}

#[tokio::test]
async fn rfc7050_section_3_with_do_and_cd_there_is_no_synthesis() {
    let bench = Bench::start().await;
    let response = bench
        .ask_with("ipv4only.arpa.", RecordType::AAAA, DO_CD)
        .await;
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    assert!(response.answers.is_empty());
}

#[tokio::test]
async fn rfc8880_section_7_1_other_types_are_empty_and_names_below_do_not_exist() {
    let bench = Bench::start().await;
    let response = bench.ask("ipv4only.arpa.", RecordType::TXT).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    assert!(response.answers.is_empty());
    assert_eq!(types(&response.authorities), [RecordType::SOA]);
    let response = bench.ask("www.ipv4only.arpa.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
    assert!(bench.upstream.asked().is_empty());
}

#[tokio::test]
async fn rfc8482_section_4_1_any_gets_some_record() {
    let bench = Bench::start().await;
    let response = bench.ask("ipv4only.arpa.", RecordType::ANY).await;
    assert_eq!(types(&response.answers), [RecordType::A; 2]);
    let reverse = "170.0.0.192.in-addr.arpa.";
    let response = bench.ask(reverse, RecordType::ANY).await;
    assert_eq!(types(&response.answers), [RecordType::PTR]);
}

#[tokio::test]
async fn local_names_are_counted_by_what_they_came_to() {
    let bench = Bench::start().await;
    bench.ask("ipv4only.arpa.", RecordType::A).await;
    bench.ask("www.ipv4only.arpa.", RecordType::A).await;
    let reverse = "1.2.2.0.0.0.0.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa.";
    let response = bench.ask(reverse, RecordType::PTR).await;
    assert_eq!(rcode(&response), ResponseCode::NXDomain);
    let counted = bench.server.metrics().queries();
    let counted: Vec<_> = counted.map(|q| (q.1.name(), q.2.name(), q.3)).collect();
    let expected = [
        ("A", "local", 1),
        ("A", "nxdomain", 1),
        ("PTR", "nxdomain", 1),
    ];
    assert_eq!(counted.len(), 3, "{counted:?}");
    assert!(expected.iter().all(|e| counted.contains(e)), "{counted:?}");
}

#[tokio::test]
async fn rfc8880_section_7_2_reverse_names_of_the_well_known_addresses() {
    let bench = Bench::start().await;
    for owner in ["170.0.0.192.in-addr.arpa.", "171.0.0.192.in-addr.arpa."] {
        let response = bench.ask(owner, RecordType::PTR).await;
        let RData::PTR(target) = &response.answers[0].data else {
            panic!("a PTR record")
        };
        assert_eq!(target.0, name("ipv4only.arpa."));
    }
    assert!(bench.upstream.asked().is_empty());
}

#[tokio::test]
async fn rfc8880_reverse_names_under_pref64_lead_to_the_local_ones() {
    let bench = Bench::start().await;
    let owner = "a.a.0.0.0.0.0.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa.";
    let response = bench.ask(owner, RecordType::PTR).await;
    assert_eq!(
        types(&response.answers),
        [RecordType::CNAME, RecordType::PTR]
    );
    assert!(bench.upstream.asked().is_empty());
}

#[tokio::test]
async fn rfc8880_the_parents_ds_comes_from_the_upstream() {
    let bench = Bench::start().await;
    bench
        .upstream
        .on("ipv4only.arpa.", RecordType::DS, nodata("arpa.", 60));
    let response = bench.ask("ipv4only.arpa.", RecordType::DS).await;
    assert_eq!(response.authorities[0].name, name("arpa."));
}

#[tokio::test]
async fn clients_without_synthesis_see_no_aaaa_of_ipv4only_arpa() {
    let bench = Bench::with(|config| config.synthesize_for = vec![]).await;
    assert!(bench.aaaa("ipv4only.arpa.").await.is_empty());
}
