//! Validation before synthesis (RFC 6147 section 5.5), over nsd's signed zones, with delv as judge.

#![allow(missing_docs, reason = "a test")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::programs::{Peer, Tree, ZONES, is_bogus};
use common::*;
use gate64_dns64::{Dnssec, Protocol, Upstream};
use hickory_proto::dnssec::rdata::{DNSSECRData, NSEC, RRSIG};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

/// A server that validates from the tree's root.
async fn validating(tree: &Tree, upstream: SocketAddr) -> Bench {
    let anchor = tree.anchor.parse().unwrap();
    Bench::with(|config| {
        config.upstream = vec![Upstream::plain(Protocol::Udp, upstream)];
        config.dnssec = Dnssec::Validate;
        config.trust_anchors = vec![anchor];
    })
    .await
}

/// A server that validates what a liar says, who asks the zones' own server of what it has no lie for.
struct Lied {
    at: SocketAddr,
    _tree: Tree,
    _nsd: Peer,
    liar: ScriptedUpstream,
    bench: Bench,
}

impl Lied {
    async fn start() -> Lied {
        let at = own_addr();
        let tree = Tree::sign(at.ip(), at.ip(), at.ip());
        let nsd = tree.serve(at, &ZONES).await;
        let liar = ScriptedUpstream::start().await;
        liar.on_all(Reply::Forward(at));
        Lied {
            at,
            bench: validating(&tree, liar.addr).await,
            _tree: tree,
            _nsd: nsd,
            liar,
        }
    }
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
        ("x.also.sec.test.", RecordType::A, VALIDATED),
        ("x.also.nsec3.test.", RecordType::A, VALIDATED),
        ("*.wild.sec.test.", RecordType::A, VALIDATED),
        ("closer.also.nsec3.test.", RecordType::A, VALIDATED),
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

    // Behind an alias from a wildcard, its proof is still there for a client that validates.
    for (owner, denial) in [
        ("x.also.sec.test.", RecordType::NSEC),
        ("x.also.nsec3.test.", RecordType::NSEC3),
    ] {
        let response = bench.ask_with(owner, RecordType::A, DO).await;
        let shown = types(&response.authorities);
        assert!(shown.contains(&denial), "{owner}: {response}");
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
    let lied = Lied::start().await;
    let (liar, bench) = (&lied.liar, &lied.bench);
    // It says of both.sec.test. that it has no AAAA record, and nothing more.
    liar.on("both.sec.test.", RecordType::AAAA, nodata("sec.test.", 60));
    liar.has_a("v4.sec.test.", 300, "192.0.2.66");
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

/// What a server says of a name itself, with signatures.
async fn said(at: SocketAddr, owner: &str, qtype: RecordType) -> Message {
    let octets = exchange_udp(at, &question(owner, qtype, DO).to_vec().unwrap()).await;
    Message::from_vec(&octets).unwrap()
}

/// The records of a wildcard as if it stood for this name.
fn expanded(message: &Message, owner: &str) -> Vec<Record> {
    let mut records = message.answers.clone();
    for record in &mut records {
        record.name = name(owner);
    }
    records
}

/// A record of a zone without signatures, of which hickory 0.26 says that it needs none.
fn foreign() -> Record {
    let nsec = NSEC::new(name("z.plain.test."), [RecordType::A]);
    let data = RData::DNSSEC(DNSSECRData::NSEC(nsec));
    Record::from_rdata(name("plain.test."), 300, data)
}

fn lie(answers: Vec<Record>, authorities: Vec<Record>) -> Reply {
    Script {
        answers,
        authorities,
        ..Script::default()
    }
    .reply()
}

/// Signed records of a wildcard, given for names that it does not stand for.
#[tokio::test]
async fn rfc4035_section_5_3_4_a_wildcard_without_its_proof_answers_nothing() {
    let lied = Lied::start().await;
    let (at, liar, bench) = (lied.at, &lied.liar, &lied.bench);
    for zone in ["sec.test.", "nsec3.test."] {
        let address = said(at, &format!("x.wild.{zone}"), RecordType::A).await;
        let mut alias = said(at, &format!("x.also.{zone}"), RecordType::A).await;
        alias.answers.truncate(2);
        let tree = said(at, &format!("*.tree.{zone}"), RecordType::DNAME).await;
        // The wildcard's own denial, which is about another name.
        let other = address.authorities.clone();
        for (n, authorities) in [vec![], vec![foreign()], other].into_iter().enumerate() {
            let owner = format!("n{n}.x.also.{zone}");
            let below = format!("n{n}.closer.also.{zone}");
            let host = format!("v4.n{n}.tree.{zone}");
            liar.on(
                &owner,
                RecordType::A,
                lie(expanded(&alias, &owner), vec![foreign()]),
            );
            liar.on(
                &below,
                RecordType::A,
                lie(expanded(&alias, &below), authorities.clone()),
            );
            let redirection = expanded(&tree, &format!("n{n}.tree.{zone}"));
            liar.on(&host, RecordType::A, lie(redirection, authorities.clone()));
            for owner in [&owner, &below, &host] {
                let response = bench.ask_with(owner, RecordType::A, DO).await;
                assert!(is_bogus(&response), "{owner} {n}: {response}");
            }
        }
        // A signature that nobody made says that the wildcard stands right above the name.
        let owner = format!("y.closer.also.{zone}");
        let mut records = expanded(&alias, &owner);
        let mut forged = records[1].clone();
        let RData::DNSSEC(DNSSECRData::RRSIG(signature)) = &records[1].data else {
            panic!("{}", records[1]);
        };
        let mut input = signature.input().clone();
        input.num_labels = name(&owner).num_labels() - 1;
        let signature = RRSIG::from_sig(input, signature.sig().to_vec());
        forged.data = RData::DNSSEC(DNSSECRData::RRSIG(signature));
        records.insert(1, forged);
        let denial = said(at, &owner, RecordType::A).await;
        liar.on(&owner, RecordType::A, lie(records, denial.authorities));
        let response = bench.ask_with(&owner, RecordType::A, DO).await;
        assert!(is_bogus(&response), "{owner}: {response}");
    }
}

/// An absence in a signed zone, with a record of another zone, which has no signatures, for proof.
#[tokio::test]
async fn rfc4035_section_5_4_another_zones_records_prove_no_absence() {
    let lied = Lied::start().await;
    let (at, liar, bench) = (lied.at, &lied.liar, &lied.bench);
    let other_type = said(at, "both.sec.test.", RecordType::A).await.answers;
    for (owner, rcode, answers) in [
        ("both.sec.test.", ResponseCode::NoError, vec![]),
        ("both.nsec3.test.", ResponseCode::NXDomain, vec![]),
        ("both.sec.test.", ResponseCode::NoError, other_type),
    ] {
        let lie = Script {
            rcode: Some(rcode),
            answers,
            authorities: vec![foreign()],
            ..Script::default()
        };
        liar.on(owner, RecordType::AAAA, lie.reply());
        bench.clock.advance(Duration::from_secs(600));
        let response = bench.ask_with(owner, RecordType::AAAA, DO).await;
        assert!(is_bogus(&response), "{owner}: {response}");
    }
    // Where nothing is signed, nothing is proven: the absence is believed.
    liar.on(
        "both.plain.test.",
        RecordType::AAAA,
        lie(vec![], vec![soa("plain.test.", 60, 60)]),
    );
    let response = bench.ask("both.plain.test.", RecordType::AAAA).await;
    assert_eq!(addresses(&response).len(), 1, "{response}");
}

/// RFC 6672 section 2.2: a name that a DNAME record would make too long.
#[tokio::test]
async fn rfc6672_section_2_2_too_long_an_alias_is_yxdomain() {
    let at = own_addr();
    let tree = Tree::sign(at.ip(), at.ip(), at.ip());
    let _nsd = tree.serve(at, &ZONES).await;
    let bench = validating(&tree, at).await;
    for zone in ["sec.test.", "nsec3.test.", "plain.test."] {
        let owner = format!("{}.longer.{zone}", "h".repeat(63));
        for qtype in [RecordType::A, RecordType::AAAA] {
            let response = bench.ask_with(&owner, qtype, DO).await;
            let rcode = response.metadata.response_code;
            assert_eq!(rcode, ResponseCode::YXDomain, "{owner}: {response}");
            let shown = types(&response.answers);
            assert!(shown.contains(&RecordType::DNAME), "{response}");
        }
    }
}

/// RFC 4592 section 2.1.1: an asterisk is a label as others are where no wildcard is looked for.
#[tokio::test]
async fn rfc6672_an_asterisk_below_a_dname_is_a_name_as_others_are() {
    let at = own_addr();
    let tree = Tree::sign(at.ip(), at.ip(), at.ip());
    let _nsd = tree.serve(at, &ZONES).await;
    let bench = validating(&tree, at).await;
    let response = bench
        .ask_with("*.moved.sec.test.", RecordType::CNAME, DO)
        .await;
    let alias = cname("*.moved.sec.test.", 300, "*.nsec3.test.");
    assert!(response.answers.contains(&alias), "{response}");
}
