//! The simulation of subscribers with small numbers, over random plans.
#![allow(missing_docs)]

use std::time::Duration;

use gate64_benches::simulation::{Outcome, Plan, run};
use proptest::prelude::*;

fn plans() -> impl Strategy<Value = Plan> {
    (
        1_u64..200,
        0_u32..3,
        1_u16..20,
        (8_u64..64, 0_u64..32),
        prop::sample::select(vec![0_u64, 1, 16]),
        prop::sample::select(vec![1_u64, 60, 120, 300]),
        any::<u64>(),
    )
        .prop_map(
            |(subscribers, bits, blocks, (much, little), class, idle, seed)| Plan {
                subscribers,
                addresses: 1 << bits,
                blocks_per_address: blocks,
                packets: [much, little],
                minutes: 24,
                class_subscribers: class,
                block_idle: Duration::from_secs(idle),
                check_tables: true,
                seed,
            },
        )
}

fn simulate(plan: Plan) -> Outcome {
    let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let journal = directory.path().join("journal");
    run(plan, &journal, &mut |_| {}).unwrap_or_else(|fault| panic!("{fault}: {plan:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 8,
        max_shrink_iters: 20,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn no_port_twice_pairing_quotas_and_events_hold(plan in plans()) {
        let outcome = simulate(plan);
        prop_assert!(outcome.blocks_held_max <= outcome.blocks_total);
        prop_assert_eq!(outcome.journal_entries, 2 * outcome.blocks_allocated);
    }
}

/// Traffic that fills the pool, empties it and fills it again.
#[test]
fn a_busy_hour_in_small_raises_the_alarm_twice_and_refuses_when_full() {
    let plan = Plan {
        subscribers: 100,
        addresses: 4,
        blocks_per_address: 20,
        packets: [64, 0],
        minutes: 36,
        class_subscribers: 0,
        block_idle: Duration::from_secs(120),
        check_tables: true,
        seed: 1,
    };
    let outcome = simulate(plan);
    assert_eq!(outcome.alarm_edges, [2, 2], "{outcome:?}");
    assert!(outcome.refused_by_pool > 0, "{outcome:?}");
    assert!(outcome.refused_by_quota > 0, "{outcome:?}");
    assert_eq!(outcome.blocks_allocated, outcome.blocks_released);
    assert_eq!(outcome.journal_entries, 2 * outcome.blocks_allocated);
}
