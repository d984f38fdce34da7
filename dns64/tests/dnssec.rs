//! Validation before synthesis (RFC 6147 section 5.5), over nsd's signed zones, with delv as judge.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::net::SocketAddr;

use common::programs::{Tree, ZONES, is_bogus, patient};
use common::*;
use gate64_dns64::{Dnssec, Protocol, Upstream};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

/// A server that validates from the tree's root.
async fn validating(tree: &Tree, upstream: SocketAddr) -> Bench {
    let anchor = tree.anchor.parse().unwrap();
    Bench::with(|config| {
        config.upstream = vec![Upstream {
            protocol: Protocol::Udp,
            addr: upstream,
            name: String::new(),
            path: String::new(),
        }];
        config.dnssec = Dnssec::Validate;
        config.trust_anchors = vec![anchor];
        config.timeouts = patient();
    })
    .await
}

/// delv blocks the thread that it is called on; the server runs on others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc6147_section_5_5_answers_are_validated_before_synthesis() {
    let at = own_addr();
    let tree = Tree::sign(at.ip(), at.ip(), at.ip());
    let _nsd = tree.serve(at, &ZONES).await;
    let bench = validating(&tree, at).await;

    // What delv finds secure has AD, what it finds insecure has none, what it refuses fails.
    const VALIDATED: &str = "; fully validated";
    // Of a signed alias of an unsigned name delv shows both, and says what it thinks of each.
    const PARTLY: &str = "; unsigned answer\nv4.plain.test.";
    const UNSIGNED: &str = "; unsigned answer";
    const FAILED: &str = "resolution failed";
    for (owner, qtype, verdict) in [
        ("v4.sec.test.", RecordType::A, VALIDATED),
        ("alias.sec.test.", RecordType::A, VALIDATED),
        ("twice.sec.test.", RecordType::A, VALIDATED),
        ("v4.moved.sec.test.", RecordType::A, VALIDATED),
        ("both.moved.nsec3.test.", RecordType::AAAA, VALIDATED),
        ("both.moved.sec.test.", RecordType::AAAA, VALIDATED),
        ("unsigned.sec.test.", RecordType::A, PARTLY),
        ("both.sec.test.", RecordType::AAAA, VALIDATED),
        ("x.wild.sec.test.", RecordType::A, VALIDATED),
        ("v4.nsec3.test.", RecordType::A, VALIDATED),
        ("x.wild.nsec3.test.", RecordType::A, VALIDATED),
        ("v4.plain.test.", RecordType::A, UNSIGNED),
        ("v4.bad.test.", RecordType::A, FAILED),
        ("v4.old.test.", RecordType::A, FAILED),
    ] {
        let judged = tree.delv(at, owner, &qtype.to_string());
        assert!(judged.contains(verdict), "{owner}: {judged}");
        let response = bench.ask_with(owner, qtype, DO).await;
        let is_authentic = response.metadata.authentic_data;
        assert_eq!(is_authentic, verdict == VALIDATED, "{owner}: {response}");
        assert_eq!(
            is_bogus(&response),
            verdict == FAILED,
            "{owner}: {response}"
        );
        assert_eq!(
            response.answers.is_empty(),
            verdict == FAILED,
            "{owner}: {response}"
        );
        let has_signatures = types(&response.answers).contains(&RecordType::RRSIG);
        let is_signed = [VALIDATED, PARTLY].contains(&verdict);
        assert_eq!(has_signatures, is_signed, "{owner}: {response}");
    }

    // Synthesis from what is secure or provably unsigned, never with AD; not from what is bogus.
    for owner in [
        "v4.sec.test.",
        "alias.sec.test.",
        "alias.nsec3.test.",
        "twice.sec.test.",
        "unsigned.sec.test.",
        "v4.moved.sec.test.",
        "v4.nsec3.test.",
        "v4.plain.test.",
        "x.wild.sec.test.",
    ] {
        for flags in [PLAIN, DO] {
            let response = bench.ask_with(owner, RecordType::AAAA, flags).await;
            assert_eq!(addresses(&response).len(), 1, "{owner}: {response}");
            assert!(!response.metadata.authentic_data, "{owner}");
            if !flags.dnssec_ok {
                let hidden = [RecordType::RRSIG, RecordType::NSEC, RecordType::NSEC3];
                let shown = types(&[&response.answers[..], &response.authorities].concat());
                assert!(
                    !shown.iter().any(|t| hidden.contains(t)),
                    "{owner}: {response}"
                );
            }
        }
    }
    for owner in ["v4.bad.test.", "v4.old.test."] {
        for flags in [PLAIN, DO, CD] {
            let response = bench.ask_with(owner, RecordType::AAAA, flags).await;
            assert!(is_bogus(&response), "{owner}: {response}");
        }
    }

    // DO and CD: the client judges, so it gets everything as it is, and delv is such a client.
    let response = bench.ask_with("v4.bad.test.", RecordType::A, DO_CD).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NoError);
    assert!(!response.metadata.authentic_data);
    let response = bench
        .ask_with("v4.sec.test.", RecordType::AAAA, DO_CD)
        .await;
    assert!(addresses(&response).is_empty());
    for (owner, verdict) in [
        ("v4.sec.test.", "; fully validated"),
        ("v4.plain.test.", "; unsigned answer"),
        ("v4.old.test.", "resolution failed"),
    ] {
        let judged = tree.delv(bench.addr, owner, "A");
        assert!(judged.contains(verdict), "{owner}: {judged}");
    }

    // Names and records that are proven not to be.
    for (owner, rcode) in [
        ("none.sec.test.", ResponseCode::NXDomain),
        ("none.nsec3.test.", ResponseCode::NXDomain),
    ] {
        let response = bench.ask_with(owner, RecordType::AAAA, DO).await;
        assert_eq!(
            response.metadata.response_code, rcode,
            "{owner}: {response}"
        );
        assert!(response.metadata.authentic_data, "{owner}: {response}");
    }
}

#[tokio::test]
async fn an_absence_that_is_not_proven_hides_nothing() {
    let at = own_addr();
    let tree = Tree::sign(at.ip(), at.ip(), at.ip());
    let _nsd = tree.serve(at, &ZONES).await;
    // A forwarder that says of both.sec.test. that it has no AAAA record, and nothing more.
    let liar = ScriptedUpstream::start().await;
    liar.on_all(Reply::Forward(at));
    liar.on("both.sec.test.", RecordType::AAAA, nodata("sec.test.", 60));
    liar.has_a("v4.sec.test.", 300, "192.0.2.66");
    let bench = validating(&tree, liar.addr).await;
    let response = bench.ask("both.sec.test.", RecordType::AAAA).await;
    assert!(is_bogus(&response), "{response}");
    let response = bench.ask("v4.sec.test.", RecordType::AAAA).await;
    assert!(is_bogus(&response), "{response}");
    // Kept as a failure, asked for again after that.
    let asked = liar.asked_about("v4.sec.test.", RecordType::A);
    bench.ask("v4.sec.test.", RecordType::AAAA).await;
    assert_eq!(liar.asked_about("v4.sec.test.", RecordType::A), asked);
}

#[tokio::test]
async fn a_trust_anchor_that_fits_no_key_validates_nothing() {
    let at = own_addr();
    let mut tree = Tree::sign(at.ip(), at.ip(), at.ip());
    let _nsd = tree.serve(at, &ZONES).await;
    tree.anchor = format!(". IN DS 1 13 2 {}", "00".repeat(32));
    let bench = validating(&tree, at).await;
    let response = bench.ask("v4.sec.test.", RecordType::AAAA).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(extended_errors(&response), [9]);
}
