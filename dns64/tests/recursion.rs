//! Names found from the root down, without an upstream: a server for the root, one for a top-level
//! domain, one for all below.

#![allow(missing_docs, reason = "a test")]

mod common;

use common::programs::{Tree, ZONES, is_bogus};
use common::*;
use gate64_dns64::{Dnssec, Recursive};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

#[tokio::test]
async fn names_are_found_from_the_root_down() {
    let [root, test, leaf] = [own_addr().ip(), own_addr().ip(), own_addr().ip()];
    let tree = Tree::sign(root, test, leaf);
    let servers = [
        tree.serve((root, 53).into(), &["."]).await,
        tree.serve((test, 53).into(), &["test"]).await,
        tree.serve((leaf, 53).into(), &ZONES[..5]).await,
    ];
    for dnssec in [Dnssec::Off, Dnssec::Validate] {
        let anchor = tree.anchor.parse().unwrap();
        let bench = Bench::with(|config| {
            config.upstream.clear();
            config.recursive = Some(Recursive {
                root_hints: vec![root],
                servers_allowed: vec!["127.0.0.0/8".parse().unwrap()],
            });
            config.dnssec = dnssec;
            config.trust_anchors = vec![anchor];
        })
        .await;
        let validates = dnssec == Dnssec::Validate;
        for owner in [
            "v4.sec.test.",
            "alias.sec.test.",
            "alias.nsec3.test.",
            "far.sec.test.",
            "twice.sec.test.",
            "twice.plain.test.",
            "unsigned.sec.test.",
            "v4.moved.sec.test.",
            "v4.moved.plain.test.",
            "x.wild.sec.test.",
            "x.also.sec.test.",
            "v4.nsec3.test.",
            "v4.plain.test.",
        ] {
            let response = bench.ask(owner, RecordType::AAAA).await;
            let found = addresses(&response);
            assert_eq!(found.len(), 1, "{dnssec:?} {owner}: {response}");
            let expected = match owner {
                "x.wild.sec.test." => "64:ff9b::c000:209",
                _ => "64:ff9b::c000:201",
            };
            assert_eq!(found[0].0, expected, "{owner}");
        }
        let response = bench.ask_with("both.sec.test.", RecordType::AAAA, DO).await;
        assert_eq!(addresses(&response)[0].0, "2001:db8::2", "{response}");
        assert_eq!(response.metadata.authentic_data, validates, "{response}");
        for owner in ["none.sec.test.", "nowhere.sec.test.", "nowhere.plain.test."] {
            let response = bench.ask(owner, RecordType::AAAA).await;
            let rcode = response.metadata.response_code;
            assert_eq!(rcode, ResponseCode::NXDomain, "{dnssec:?}: {response}");
        }
        let response = bench.ask("v4.old.test.", RecordType::AAAA).await;
        assert_eq!(is_bogus(&response), validates, "{response}");
    }
    // Servers in networks that are not the Internet are not asked unless allowed.
    let bench = Bench::with(|config| {
        config.upstream.clear();
        config.recursive = Some(Recursive {
            root_hints: vec![root],
            servers_allowed: Vec::new(),
        });
    })
    .await;
    let response = bench.ask("v4.sec.test.", RecordType::A).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    drop(servers);
}
