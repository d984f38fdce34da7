//! Spans of time, subscribers, and what is not covered.

use super::*;

fn held(block: Block, from_ms: i64, until_ms: Option<i64>) -> Holding {
    Holding {
        block,
        from_ms: Some(from_ms),
        until_ms,
    }
}

const DAY: i64 = 24 * 3600 * 1000;

#[test]
fn what_a_subscriber_had_over_days() {
    let mut bench = Bench::new();
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    bench.block(T0 + 1000, BlockAction::Allocated, block(2, 2));
    bench.block(T0 + 2000, BlockAction::Allocated, block(1, 3));
    bench.block(T0 + 5000, BlockAction::Released, block(1, 3));
    // The block goes to somebody else; two days follow, each with a segment of its own.
    bench.block(T0 + 9000, BlockAction::Allocated, block(2, 3));
    bench.block(T0 + DAY, BlockAction::Allocated, block(3, 4));
    bench.block(T0 + 2 * DAY, BlockAction::Released, block(1, 1));
    bench.block(T0 + 2 * DAY + 5000, BlockAction::Allocated, block(1, 5));
    // A sign of life: it is written to the end of the span.
    bench.write(T0 + 3 * DAY - 1);
    assert_eq!(bench.segments().len(), 3);
    let all = bench.had(1, T0, T0 + 3 * DAY - 1);
    let expected = [
        held(block(1, 3), T0 + 2000, Some(T0 + 5000)),
        held(block(1, 1), T0, Some(T0 + 2 * DAY)),
        held(block(1, 5), T0 + 2 * DAY + 5000, None),
    ];
    assert_eq!(all.holdings, expected);
    assert_eq!(all.notes, []);
    // Only what overlaps the span.
    let some = bench.had(1, T0 + 5000, T0 + DAY);
    assert_eq!(some.holdings.len(), 1);
    assert_eq!(some.holdings[0].block, block(1, 1));
    assert_eq!(bench.had(7, T0, T0 + 2 * DAY).holdings, []);
    // All who had one port.
    let question = Question {
        subject: Subject::Mapped(block(1, 3).v4, block(1, 3).port_first),
        from_ms: i64::MIN,
        to_ms: T0 + DAY / 2,
    };
    let answer = lookup(bench.directory.path(), &question).unwrap();
    let who: Vec<Block> = answer.holdings.iter().map(|one| one.block).collect();
    assert_eq!(who, [block(1, 3), block(2, 3)]);
    assert_eq!(answer.notes, []);
}

#[test]
fn a_prefix_with_several_subscribers_names_each() {
    let mut bench = Bench::new();
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    bench.block(T0 + 1000, BlockAction::Allocated, block(2, 2));
    let ask = |ip: &str, length| {
        let question = Question {
            subject: Subject::Subscriber(Prefix6 {
                ip: ip.parse().unwrap(),
                length,
            }),
            from_ms: T0,
            to_ms: T0 + 1100,
        };
        lookup(bench.directory.path(), &question)
            .unwrap()
            .holdings
            .len()
    };
    assert_eq!(ask("2001:db8::", 32), 2);
    assert_eq!(ask("2001:db8:2::77", 128), 1);
    assert_eq!(ask("2001:db9::", 32), 0);
}

#[test]
fn what_is_not_covered_is_said() {
    let mut bench = Bench::new();
    let nothing = bench.ask(1, T0);
    let note = |before_ms, after_ms| Note::NotCovered {
        before_ms,
        after_ms,
    };
    assert_eq!(nothing.notes, [note(None, None)]);
    for day in 0..4 {
        let number = u16::try_from(day).unwrap();
        bench.block(T0 + day * DAY, BlockAction::Allocated, block(1, number));
    }
    bench.block(T0 + 4 * DAY, BlockAction::Released, block(1, 0));
    let names = bench.segments();
    // Somebody deletes the second day.
    std::fs::remove_file(names[1].path(bench.directory.path())).unwrap();
    let hole = note(names[0].end_ms, Some(names[2].start_ms));
    let in_hole = bench.ask(0, T0 + DAY + DAY / 2);
    assert_eq!(in_hole.notes, [hole]);
    // The same block was there before and after it.
    assert_eq!(in_hole.holdings[0].block, block(1, 0));
    // This one was first seen after the hole, and its snapshot says since when.
    assert_eq!(bench.ask(1, T0 + 2 * DAY + 300).notes, []);
    let held = bench.held(1, T0 + 2 * DAY + 300).unwrap();
    assert_eq!(held, (block(1, 1), Some(T0 + DAY), None));
    let all = bench.had(1, T0, T0 + 4 * DAY + 100);
    assert_eq!(all.notes, [hole]);
    let first = all.holdings.iter().find(|one| one.block == block(1, 0));
    assert_eq!(first.unwrap().until_ms, Some(T0 + 4 * DAY));
    assert_eq!(all.holdings.len(), 4);
    // Before the beginning, and after the end.
    let before = bench.had(1, T0 - DAY, T0 + 5);
    assert_eq!(before.notes, [note(None, Some(T0))]);
    assert_eq!(before.holdings.len(), 1);
    bench.end(End::Stopped, T0 + 5 * DAY);
    let stopped = Note::Stopped {
        at_ms: T0 + 5 * DAY,
        until_ms: None,
    };
    assert_eq!(bench.ask(1, T0 + 6 * DAY).notes, [stopped]);
    assert_eq!(bench.ask(1, T0 + 6 * DAY).holdings, []);
}

#[test]
fn a_killed_process_lies_in_the_span() {
    let mut bench = Bench::new();
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    bench.restart();
    // Not started again: it ends there.
    let end = bench.had(1, T0, T0 + 60_000);
    let crashed = Note::Crashed { at_ms: T0 };
    let note = |after_ms| Note::NotCovered {
        before_ms: Some(T0),
        after_ms,
    };
    assert_eq!(end.notes, [crashed, note(None)]);
    bench.block(T0 + 90_000, BlockAction::Allocated, block(1, 2));
    let both = bench.had(1, T0, T0 + 91_000);
    let expected = [
        held(block(1, 1), T0, None),
        held(block(1, 2), T0 + 90_000, None),
    ];
    assert_eq!(both.holdings, expected);
    assert_eq!(both.notes, [crashed, note(Some(T0 + 90_000))]);
}

/// The disk is full: the process holds the journal and writes nothing.
#[test]
fn what_a_held_journal_does_not_say_is_not_covered() {
    let mut bench = Bench::new();
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    // The next sign of life is due after a minute.
    assert_eq!(bench.ask(2, T0 + 61_000).notes, []);
    let gap = Note::NotCovered {
        before_ms: Some(T0),
        after_ms: None,
    };
    let later = bench.ask(2, T0 + 3_600_000);
    assert_eq!(later.notes, [gap]);
    // Who had it last, as far as is known.
    assert_eq!(bench.ask(1, T0 + 3_600_000).holdings[0].block, block(1, 1));
    assert_eq!(bench.had(1, T0, T0 + 3_600_000).notes, [gap]);
    bench.write(T0 + 3_600_000);
    assert_eq!(bench.ask(2, T0 + 3_600_000).notes, []);
}

/// Random allocations against a list of who had what when, asked for spans.
#[test]
fn every_span_is_that_of_a_list() {
    let mut bench = Bench::new();
    let mut state = 11u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u16::try_from((state >> 33) % below).unwrap()
    };
    let mut open: BTreeMap<u16, (u16, i64)> = BTreeMap::new();
    let mut truth: Vec<(u16, u16, i64, i64)> = Vec::new();
    let mut at = T0;
    for _ in 0..500 {
        at += 1 + i64::from(random(60_000)) * 30;
        let number = random(20);
        match open.remove(&number) {
            Some((subscriber, from)) => {
                bench.block(at, BlockAction::Released, block(subscriber, number));
                truth.push((subscriber, number, from, at));
            }
            None => {
                let subscriber = random(8);
                bench.block(at, BlockAction::Allocated, block(subscriber, number));
                open.insert(number, (subscriber, at));
            }
        }
    }
    let left = open.iter();
    truth.extend(left.map(|(number, (subscriber, from))| (*subscriber, *number, *from, i64::MAX)));
    assert!(bench.segments().len() > 3);
    let scale = (at - T0) / 30_000;
    for _ in 0..400 {
        let subscriber = random(8);
        let (a, b) = (random(30_000), random(30_000));
        let from = T0 + i64::from(a.min(b)) * scale;
        let to = T0 + i64::from(a.max(b)) * scale;
        let answer = bench.had(subscriber, from, to);
        let mut found: Vec<(u16, i64)> = answer
            .holdings
            .iter()
            .map(|one| (one.block.port_first, one.from_ms.unwrap()))
            .collect();
        found.sort_unstable();
        let mut expected: Vec<(u16, i64)> = truth
            .iter()
            .filter(|(who, _, begins, ends)| *who == subscriber && *begins <= to && *ends > from)
            .map(|(_, number, begins, _)| (block(0, *number).port_first, *begins))
            .collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "{subscriber} from {from} to {to}");
        assert_eq!(answer.notes, []);
    }
}
