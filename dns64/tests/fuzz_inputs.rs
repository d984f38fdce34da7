//! Every input that is kept for the fuzz targets, through the same code, and a bounded number of
//! new ones: changed queries, and answers of an upstream that says anything.
#![allow(missing_docs, reason = "a test")]

#[path = "../../dataplane/tests/support/inputs.rs"]
mod inputs;
#[path = "../fuzz/fuzz_targets/work.rs"]
mod work;

use inputs::every_input;

use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn dns_queries() {
    every_input("dns_queries", work::query_input);
}

#[test]
fn dns_upstream_answers() {
    every_input("dns_upstream_answers", work::upstream_answer);
}

/// One of the templates with up to eight changes.
fn changed_query() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((0_u8..=255, any::<u8>()), 0..8);
    (0_u8..9, changes).prop_map(|(template, changes)| {
        let octets = changes.into_iter().flat_map(|(at, value)| [at, value]);
        std::iter::once(template).chain(octets).collect()
    })
}

/// Flags, counts and a few records, each a name by compression, a type and data of any kind.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    let types = prop_oneof![
        Just(1_u8),
        Just(2),
        Just(5),
        Just(6),
        Just(28),
        Just(39),
        Just(41),
        Just(46)
    ];
    let record = (0_u8..32, types, vec(any::<u8>(), 0..24)).prop_map(|(at, rtype, data)| {
        let len = u8::try_from(data.len()).unwrap();
        let head = [0xc0, at, 0, rtype, 0, 1, 0, 0, 0, 60, 0, len];
        [&head, &data[..]].concat()
    });
    let head = (0_u8..8, 0_u8..8, [0_u8..4, 0..4, 0..4]);
    (head, vec(record, 0..6)).prop_map(|((flags, rcode, [an, ns, ar]), records)| {
        let head = [flags, 0x80 | rcode, 0, an, 0, ns, 0, ar];
        [&head, &records.concat()[..]].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_queries_get_one_answer_each(input in changed_query()) {
        work::query_input(&input);
    }

    #[test]
    fn anything_else_gets_one_answer_too(octets in vec(any::<u8>(), 0..300)) {
        work::query_octets(&octets);
    }

    #[test]
    fn whatever_an_upstream_says_of_one_name_is_kept_to_it(input in answer()) {
        work::upstream_answer(&input);
    }
}
