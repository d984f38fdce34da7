//! Wall clocks that are wrong, and put right.

use super::*;

const DAY: i64 = 24 * 3600 * 1000;

#[test]
fn a_machine_that_boots_in_1970() {
    let mut bench = Bench::new();
    bench.block(5000, BlockAction::Allocated, block(1, 1));
    // NTP sets the clock a minute later.
    bench.step(65_000, T0);
    bench.block(T0 + 1000, BlockAction::Allocated, block(2, 2));
    bench.block(T0 + 9000, BlockAction::Released, block(1, 1));
    assert_eq!(bench.held(1, T0 + 5000).unwrap().0, block(1, 1));
    assert_eq!(bench.held(2, T0 + 5000).unwrap().0, block(2, 2));
    assert_eq!(bench.held(1, T0 + 9000), None);
    assert_eq!(bench.held(1, 30_000).unwrap().0, block(1, 1));
    // Years that never happened: what was held then was held all along.
    let never = bench.ask(1, T0 / 2);
    assert!(
        never.notes.contains(&Note::ClockStep { at_ms: T0 }),
        "{never:?}"
    );
    assert_eq!(never.holdings, []);
    let had = bench.had(1, T0 - DAY, T0 + DAY / 2);
    assert_eq!(had.holdings.len(), 1);
    assert_eq!(had.holdings[0].until_ms, Some(T0 + 9000));
}

#[test]
fn a_day_that_is_leapt_over() {
    let mut bench = Bench::new();
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    bench.step(T0 + 1000, T0 + DAY);
    bench.block(T0 + DAY + 500, BlockAction::Released, block(1, 1));
    let held = bench.held(1, T0 + DAY + 200).unwrap();
    assert_eq!(held, (block(1, 1), Some(T0), Some(T0 + DAY + 500)));
    assert_eq!(bench.held(1, T0 + 500).unwrap().0, block(1, 1));
    let never = bench.ask(1, T0 + DAY / 2);
    assert_eq!(never.notes, [Note::ClockStep { at_ms: T0 + DAY }]);
}

#[test]
fn a_day_that_happens_twice() {
    let mut bench = Bench::new();
    bench.block(T0 + DAY, BlockAction::Allocated, block(1, 1));
    bench.step(T0 + DAY + 60_000, T0 + 60_000);
    // Held before the clock was set, and given back before, by the clock, it was handed out.
    bench.block(T0 + 90_000, BlockAction::Released, block(1, 1));
    bench.block(T0 + 95_000, BlockAction::Allocated, block(2, 1));
    bench.block(T0 + 2 * DAY, BlockAction::Released, block(2, 1));
    let who = |at_ms| -> Vec<Block> {
        let holdings = bench.ask(1, at_ms).holdings;
        holdings.iter().map(|one| one.block).collect()
    };
    assert_eq!(who(T0 + 70_000), [block(1, 1)]);
    assert_eq!(who(T0 + 92_000), []);
    assert_eq!(who(T0 + 95_000), [block(2, 1)]);
    // Both of them had it then.
    assert_eq!(who(T0 + DAY + 30_000), [block(1, 1), block(2, 1)]);
    let step = Note::ClockStep { at_ms: T0 + 60_000 };
    assert!(bench.ask(1, T0 + DAY + 30_000).notes.contains(&step));
    let had = bench.had(1, T0 + 65_000, T0 + 80_000);
    assert_eq!(had.holdings.len(), 1, "{had:?}");
}

#[test]
fn a_clock_that_is_set_while_nobody_runs() {
    let mut bench = Bench::new();
    bench.block(T0 + DAY, BlockAction::Allocated, block(1, 1));
    bench.end(End::Stopped, T0 + DAY + 60_000);
    bench.restart();
    // It starts again a minute later, and the clock shows the day before.
    bench.block(T0, BlockAction::Allocated, block(2, 1));
    for hour in 1..30 {
        bench.write(T0 + hour * 3_600_000);
    }
    let twice = bench.ask(1, T0 + DAY + 30_000);
    let who: Vec<Block> = twice.holdings.iter().map(|one| one.block).collect();
    assert_eq!(who, [block(1, 1), block(2, 1)]);
    assert_eq!(twice.notes, [Note::ClockStep { at_ms: T0 }]);
    assert_eq!(bench.held(1, T0 + 5000).unwrap().0, block(2, 1));
}

/// A day's segment that a step began is sure again as soon as its times are.
#[test]
fn a_step_is_told_of_the_times_around_it_only() {
    for set_ms in [-60_000, -700, 700, 60_000] {
        let mut bench = Bench::new();
        bench.block(T0, BlockAction::Allocated, block(1, 1));
        let (end, start) = (T0 + 600_000, T0 + 600_000 + set_ms);
        bench.step(end, start);
        bench.block(T0 + DAY / 2, BlockAction::Released, block(1, 1));
        let step = [Note::ClockStep { at_ms: start }];
        for at_ms in [start, end, start + 500, (start + end) / 2] {
            assert_eq!(bench.ask(2, at_ms).notes, step, "{set_ms} at {at_ms}");
        }
        for at_ms in [T0 + 500_000, T0 + 700_000, T0 + DAY / 2] {
            assert_eq!(bench.ask(2, at_ms).notes, [], "{set_ms} at {at_ms}");
        }
    }
}
