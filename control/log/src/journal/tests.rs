use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::frame::Entry;
use super::*;
use crate::record::{Block, BlockAction, Prefix6, Record};

mod clocks;
mod damage;
mod spans;

const T0: i64 = 1_793_577_600_000;

fn config(directory: &Path) -> JournalConfig {
    JournalConfig {
        path: directory.to_owned(),
        retention: Duration::from_secs(400 * 86_400),
    }
}

fn block(subscriber: u16, number: u16) -> Block {
    Block {
        subscriber: Prefix6 {
            ip: Ipv6Addr::new(0x2001, 0xdb8, subscriber, 0, 0, 0, 0, 0),
            length: 64,
        },
        v4: Ipv4Addr::new(203, 0, 113, 5),
        port_first: 1024 + number * 512,
        port_count: 512,
    }
}

fn record(sequence: u64, at_ms: i64, what: What) -> Record {
    Record {
        sequence,
        at_ms,
        what,
    }
}

/// A store with its ledger, written by hand at chosen times.
struct Bench {
    directory: tempfile::TempDir,
    store: Option<Store>,
    ledger: Ledger,
    sequence: u64,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let (store, recovery) = Store::open(&config(directory.path())).unwrap();
        assert!(!recovery.crashed);
        Bench {
            directory,
            store: Some(store),
            ledger: Ledger::default(),
            sequence: 0,
        }
    }

    fn take(&mut self, at_ms: i64, what: What) {
        let record = record(self.sequence, at_ms, what);
        self.ledger.take(&record, Instant::now());
        self.sequence += 1;
    }

    fn block(&mut self, at_ms: i64, action: BlockAction, block: Block) {
        self.take(at_ms, What::Block(action, block));
        self.write(at_ms + 200);
    }

    fn write(&mut self, now_ms: i64) {
        let store = self.store.as_mut().unwrap();
        store.write(&mut self.ledger, now_ms).unwrap();
    }

    fn step(&mut self, from_ms: i64, to_ms: i64) {
        let store = self.store.as_mut().unwrap();
        store.step(&mut self.ledger, from_ms, to_ms).unwrap();
    }

    fn end(&mut self, end: End, at_ms: i64) {
        self.store.as_mut().unwrap().end(end, at_ms).unwrap();
    }

    /// The process is killed and starts again.
    fn restart(&mut self) -> Recovery {
        self.store = None;
        self.ledger = Ledger::default();
        let (store, recovery) = Store::open(&config(self.directory.path())).unwrap();
        self.store = Some(store);
        recovery
    }

    fn ask(&self, number: u16, at_ms: i64) -> Answer {
        let port = 1024 + number * 512 + 77;
        let question = Question {
            subject: Subject::Mapped(Ipv4Addr::new(203, 0, 113, 5), port),
            from_ms: at_ms,
            to_ms: at_ms,
        };
        lookup(self.directory.path(), &question).unwrap()
    }

    /// Everything that a subscriber had in a span of time.
    fn had(&self, subscriber: u16, from_ms: i64, to_ms: i64) -> Answer {
        let question = Question {
            subject: Subject::Subscriber(block(subscriber, 0).subscriber),
            from_ms,
            to_ms,
        };
        lookup(self.directory.path(), &question).unwrap()
    }

    /// Who held it, from when, until when.
    #[track_caller]
    fn held(&self, number: u16, at_ms: i64) -> Option<(Block, Option<i64>, Option<i64>)> {
        let answer = self.ask(number, at_ms);
        assert!(answer.holdings.len() <= 1, "{answer:?}");
        let one = answer.holdings.first()?;
        Some((one.block, one.from_ms, one.until_ms))
    }

    fn segments(&self) -> Vec<segment::SegmentName> {
        segment::list(self.directory.path()).unwrap()
    }
}

#[test]
fn who_had_it_and_when() {
    let mut bench = Bench::new();
    let (first, second) = (block(1, 3), block(2, 3));
    bench.block(T0, BlockAction::Allocated, first);
    bench.block(T0 + 60_000, BlockAction::Released, first);
    bench.block(T0 + 90_000, BlockAction::Allocated, second);
    let held = Some((first, Some(T0), Some(T0 + 60_000)));
    assert_eq!(bench.held(3, T0), held);
    assert_eq!(bench.held(3, T0 + 59_999), held);
    assert_eq!(bench.held(3, T0 + 60_000), None);
    let held = Some((second, Some(T0 + 90_000), None));
    assert_eq!(bench.held(3, T0 + 90_000), held);
    assert_eq!(bench.held(4, T0 + 90_000), None);
    assert_eq!(bench.ask(3, T0 + 90_000).notes, []);
    let before = bench.ask(3, T0 - 1);
    assert_eq!(before.holdings, []);
    let nothing = Note::NotCovered {
        before_ms: None,
        after_ms: Some(T0),
    };
    assert_eq!(before.notes, [nothing]);
}

#[test]
fn a_new_segment_knows_what_is_held() {
    let mut bench = Bench::new();
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    bench.block(T0 + 1000, BlockAction::Allocated, block(2, 2));
    bench.block(T0 + 2000, BlockAction::Released, block(2, 2));
    // A day later the next one begins.
    let day = T0 + 24 * 3600 * 1000;
    bench.block(day, BlockAction::Allocated, block(3, 3));
    bench.block(day + 5000, BlockAction::Released, block(1, 1));
    assert_eq!(bench.segments().len(), 2);
    let held = bench.held(1, day + 4000);
    assert_eq!(held, Some((block(1, 1), Some(T0), Some(day + 5000))));
    assert_eq!(bench.held(2, day + 4000), None);
    let held = bench.held(3, day + 4000);
    assert_eq!(held, Some((block(3, 3), Some(day), None)));
    assert_eq!(bench.held(1, day + 5000), None);
    // In the first, the end of a block is in the segment after it.
    let held = bench.held(1, T0 + 3000);
    assert_eq!(held, Some((block(1, 1), Some(T0), None)));
}

#[test]
fn an_hour_that_happens_twice_has_two_answers() {
    let mut bench = Bench::new();
    let hour = T0 + 3_600_000;
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    bench.block(hour, BlockAction::Released, block(1, 1));
    let second = What::Block(BlockAction::Allocated, block(2, 1));
    bench.take(hour + 1, second);
    bench.step(hour + 300, T0 + 300);
    bench.block(T0 + 1000, BlockAction::Released, block(2, 1));
    let answer = bench.ask(1, T0 + 500);
    let who: Vec<Block> = answer.holdings.iter().map(|one| one.block).collect();
    assert_eq!(who, [block(1, 1), block(2, 1)]);
    assert!(answer.notes.contains(&Note::ClockStep { at_ms: T0 + 300 }));
    // What waited at the step is written with the clock of before it.
    assert_eq!(bench.ask(1, hour + 50).holdings[0].block, block(2, 1));
    let first = bench.ask(1, T0 + 100);
    assert_eq!(first.holdings.len(), 1);
    assert_eq!(first.holdings[0].block, block(1, 1));
}

#[test]
fn a_killed_process_is_told_and_costs_no_segment() {
    let mut bench = Bench::new();
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    bench.block(T0 + 5000, BlockAction::Allocated, block(2, 2));
    let path = bench.segments()[0].path(bench.directory.path());
    // Half a frame, as a power cut leaves it.
    let mut bytes = std::fs::read(&path).unwrap();
    let whole = bytes.len();
    bytes.extend_from_within(whole - 40..whole - 10);
    std::fs::write(&path, &bytes).unwrap();
    let held = Some((block(1, 1), Some(T0), None));
    assert_eq!(bench.held(1, T0 + 5000), held);

    let recovery = bench.restart();
    assert!(recovery.crashed);
    assert_eq!(recovery.octets_cut, 30);
    assert_eq!(recovery.last_ms, Some(T0 + 5000));
    assert_eq!(recovery.next_sequence, 2);
    bench.block(T0 + 60_000, BlockAction::Allocated, block(3, 3));
    let held = Some((block(2, 2), Some(T0 + 5000), None));
    assert_eq!(bench.held(2, T0 + 5000), held);
    // Between crash and restart: what was last known, and that it may be no more.
    let between = bench.ask(2, T0 + 30_000);
    assert_eq!(between.holdings[0].block, block(2, 2));
    assert!(
        between.notes.contains(&Note::Crashed { at_ms: T0 + 5000 }),
        "{between:?}"
    );
    // After it nobody has what the killed process had handed out.
    assert_eq!(bench.held(2, T0 + 60_000), None);
    let held = Some((block(3, 3), Some(T0 + 60_000), None));
    assert_eq!(bench.held(3, T0 + 60_000), held);
    // Sealed once; a second start has nothing to mend.
    bench.end(End::Stopped, T0 + 70_000);
    assert!(!bench.restart().crashed);
    let stopped = bench.ask(3, T0 + 80_000);
    assert_eq!(stopped.holdings, []);
    let note = |until_ms| Note::Stopped {
        at_ms: T0 + 70_000,
        until_ms,
    };
    assert_eq!(stopped.notes, [note(None)]);
    // Since it has started again, it is known until when that was so.
    bench.block(T0 + 90_000, BlockAction::Allocated, block(3, 4));
    let between = bench.ask(3, T0 + 80_000);
    assert_eq!(between.holdings, []);
    assert_eq!(between.notes, [note(Some(T0 + 90_000))]);
}

#[test]
fn a_segment_that_is_missing_after_a_stop_may_hide_a_start() {
    let mut bench = Bench::new();
    for hour in 0..3 {
        let at_ms = T0 + hour * 3_600_000;
        bench.block(at_ms, BlockAction::Allocated, block(1, 1));
        bench.end(End::Stopped, at_ms + 60_000);
        bench.restart();
    }
    let names = bench.segments();
    std::fs::remove_file(names[1].path(bench.directory.path())).unwrap();
    let stopped = Note::Stopped {
        at_ms: T0 + 60_000,
        until_ms: None,
    };
    let hole = Note::NotCovered {
        before_ms: Some(T0 + 60_000),
        after_ms: Some(T0 + 2 * 3_600_000),
    };
    assert_eq!(bench.ask(1, T0 + 3_600_000).notes, [stopped, hole]);
}

#[test]
fn a_damaged_frame_costs_its_own_records_only() {
    let mut bench = Bench::new();
    for number in 0..50 {
        let at = T0 + i64::from(number) * 1000;
        bench.block(at, BlockAction::Allocated, block(number, number));
    }
    let path = bench.segments()[0].path(bench.directory.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&path, &bytes).unwrap();
    bench.restart();
    let at = T0 + 49_000;
    let known = (0..50).filter(|number| bench.held(*number, at).is_some());
    assert_eq!(known.count(), 49);
    let notes = bench.ask(0, at).notes;
    assert!(
        matches!(notes[..], [Note::Damaged { octets: 1.., .. }]),
        "{notes:?}"
    );
}

#[test]
fn a_lost_release_and_a_lost_allocation_heal() {
    let mut bench = Bench::new();
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    // The allocation of block 2 never came; its repetition does.
    bench.block(T0 + 10_000, BlockAction::Live, block(2, 2));
    bench.block(T0 + 20_000, BlockAction::Live, block(2, 2));
    let later = Instant::now() + Duration::from_secs(7200);
    let again = record(9, T0 + 30_000, What::Block(BlockAction::Live, block(2, 2)));
    bench.ledger.take(&again, later);
    bench
        .ledger
        .release_unconfirmed(Duration::from_secs(3600), later, T0 + 40_000);
    bench.write(T0 + 40_000);
    assert_eq!(bench.held(1, T0 + 39_999).unwrap().0, block(1, 1));
    assert_eq!(bench.held(1, T0 + 40_000), None);
    assert_eq!(bench.held(2, T0 + 15_000), Some((block(2, 2), None, None)));
    assert_eq!(bench.held(2, T0 + 40_000).unwrap().0, block(2, 2));
    // Repetitions of what is known are not written again.
    let path = bench.segments()[0].path(bench.directory.path());
    let contents = segment::Contents::read(&path).unwrap();
    let live = contents.frames().flat_map(|found| found.entries());
    let live = live.filter(|entry| matches!(entry, Entry::Block(BlockAction::Live, ..)));
    assert_eq!(live.count(), 1);
}

#[test]
fn after_a_full_disk_a_snapshot_makes_up_for_what_was_lost() {
    let mut bench = Bench::new();
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    bench.take(T0 + 1000, What::Block(BlockAction::Released, block(1, 1)));
    bench.take(T0 + 2000, What::Block(BlockAction::Allocated, block(2, 2)));
    bench.ledger.give_up();
    bench.write(T0 + 9000);
    bench.block(T0 + 10_000, BlockAction::Released, block(2, 2));
    assert_eq!(bench.held(1, T0 + 9500), None);
    let held = bench.held(2, T0 + 9500);
    assert_eq!(
        held,
        Some((block(2, 2), Some(T0 + 2000), Some(T0 + 10_000)))
    );
    let lost = Note::Lost {
        at_ms: T0 + 9000,
        count: 2,
    };
    assert_eq!(bench.ask(2, T0 + 9500).notes, [lost]);
    // In the time of the gap: the snapshot says since when.
    assert_eq!(bench.ask(2, T0 + 3000).holdings[0].block, block(2, 2));
}

#[test]
fn retention_deletes_whole_segments_when_the_clock_can_be_trusted() {
    let mut bench = Bench::new();
    let day = 24 * 3600 * 1000;
    for number in 0..5 {
        let at = T0 + i64::from(number) * day;
        bench.block(at, BlockAction::Allocated, block(1, number));
    }
    assert_eq!(bench.segments().len(), 5);
    let store = bench.store.as_mut().unwrap();
    store.set_retention(Duration::from_secs(2 * 86_400));
    let (now_ms, now) = (T0 + 4 * day, Instant::now());
    assert_eq!(store.delete_old(now_ms, now).unwrap(), 0);
    let later = now + Duration::from_secs(3700);
    assert_eq!(store.delete_old(now_ms, later).unwrap(), 1);
    assert_eq!(bench.segments().len(), 4);
    // What is held since before is still known.
    assert_eq!(bench.held(0, T0 + 3 * day + 1).unwrap().0, block(1, 0));
}

#[test]
fn one_process_writes_a_journal() {
    let bench = Bench::new();
    let error = Store::open(&config(bench.directory.path())).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
}

#[test]
fn a_deleted_segment_is_followed_by_one_with_everything_held() {
    let mut bench = Bench::new();
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    std::fs::remove_file(bench.segments()[0].path(bench.directory.path())).unwrap();
    bench.block(T0 + 1000, BlockAction::Allocated, block(2, 2));
    assert_eq!(bench.held(1, T0 + 1500).unwrap().0, block(1, 1));
    assert_eq!(bench.held(2, T0 + 1500).unwrap().0, block(2, 2));
}

/// Random allocations against a list of who had what when.
#[test]
fn every_answer_is_that_of_a_list() {
    let mut bench = Bench::new();
    let mut held: BTreeMap<u16, u16> = BTreeMap::new();
    let mut truth: Vec<(i64, u16, Option<u16>)> = Vec::new();
    let mut state = 7u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u16::try_from((state >> 33) % below).unwrap()
    };
    let mut at = T0;
    for round in 0..600 {
        at += 300 + i64::from(random(60_000)) * 14;
        let number = random(20);
        match held.remove(&number) {
            Some(subscriber) => {
                bench.block(at, BlockAction::Released, block(subscriber, number));
                truth.push((at, number, None));
            }
            None => {
                let subscriber = random(1000);
                held.insert(number, subscriber);
                bench.block(at, BlockAction::Allocated, block(subscriber, number));
                truth.push((at, number, Some(subscriber)));
            }
        }
        if round == 300 {
            bench.end(End::Stopped, at + 250);
            bench.restart();
            at += 250;
            truth.extend(
                std::mem::take(&mut held)
                    .into_keys()
                    .map(|number| (at + 1, number, None)),
            );
        }
    }
    assert!(bench.segments().len() > 2);
    for _ in 0..300 {
        let number = random(20);
        let asked = T0 + i64::from(random(30_000)) * ((at - T0) / 30_000);
        let mut before = truth.iter().rev();
        let expected = before.find(|(when, which, _)| *when <= asked && *which == number);
        let expected = expected.and_then(|(_, _, who)| *who);
        let found = bench.held(number, asked).map(|(block, ..)| block);
        assert_eq!(
            found,
            expected.map(|who| block(who, number)),
            "{number} at {asked}"
        );
    }
}
