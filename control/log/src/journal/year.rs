//! A year's blocks of a hundred thousand subscribers, and look-ups in them: `make bench-journal`.
//!
//! The journal's own writer makes the segments, at the times at which a running gate64 would write;
//! only the wait for the disk is left out. What is asked later is noted in a file beside them, so that
//! the year is made once and measured as often as wanted.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::*;
use crate::record::{Block, BlockAction, Prefix6, Record};

/// 2026-11-02.
const T0: i64 = 1_793_577_600_000;
const DAY_MS: u64 = 86_400_000;
/// Every so many subscribers one whose every block is noted.
const WATCHED: u64 = 5000;
/// One allocation of so many is noted.
const SAMPLED: u64 = 100_000;

/// Where the year is made and kept; without it, it is removed in the end.
const DIRECTORY: &str = "GATE64_YEAR_DIRECTORY";

/// What is made.
struct Year {
    directory: PathBuf,
    subscribers: u64,
    days: u64,
    per_day: u64,
    write_ms: u64,
}

impl Year {
    fn from_environment() -> Year {
        let number = |name: &str, default: u64| {
            let text = std::env::var(name);
            text.map_or(default, |text| text.parse().unwrap())
        };
        let directory = std::env::var_os(DIRECTORY).map(PathBuf::from);
        Year {
            directory: directory.unwrap_or_else(|| std::env::temp_dir().join("gate64-year")),
            subscribers: number("GATE64_YEAR_SUBSCRIBERS", 100_000),
            days: number("GATE64_YEAR_DAYS", 365),
            per_day: number("GATE64_YEAR_BLOCKS_PER_DAY", 4),
            // As often as a running journal.
            write_ms: number("GATE64_YEAR_WRITE_MS", 500),
        }
    }

    /// Says what is in the directory; another is made anew.
    fn label(&self) -> String {
        format!(
            "{} subscribers, {} days, {} blocks a day each, written every {} ms",
            self.subscribers, self.days, self.per_day, self.write_ms
        )
    }

    fn journal(&self) -> PathBuf {
        self.directory.join("journal")
    }

    fn truth(&self) -> PathBuf {
        self.directory.join("truth")
    }
}

struct Lcg(u64);

impl Lcg {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % below
    }
}

/// 126 blocks an address, and a subscriber's /64 out of 2001:db8::/32.
fn block(place: u64, subscriber: u64) -> Block {
    Block {
        subscriber: Prefix6 {
            ip: Ipv6Addr::from((0x2001_0db8 << 96) | (u128::from(subscriber) << 64)),
            length: 64,
        },
        v4: Ipv4Addr::from(0xcb00_0000 + u32::try_from(place / 126).unwrap()),
        port_first: 1024 + u16::try_from(place % 126).unwrap() * 512,
        port_count: 512,
    }
}

/// Makes the year: two blocks for each subscriber; which of them a subscriber gets is random.
fn make(year: &Year) {
    let _ = std::fs::remove_dir_all(&year.directory);
    let config = JournalConfig {
        path: year.journal(),
        retention: Duration::from_secs(400 * 86_400),
    };
    let (mut store, _) = Store::open(&config).unwrap();
    store.set_durable(false);
    let mut truth = BufWriter::new(File::create(year.truth()).unwrap());
    let mut ledger = Ledger::default();
    let mut random = Lcg(1);
    let mut held: Vec<Option<u64>> = vec![None; usize::try_from(year.subscribers * 2).unwrap()];
    let (mut sequence, mut due) = (0, 0);
    let began = Instant::now();
    let writes = year.days * DAY_MS / year.write_ms;
    for write in 0..writes {
        let now_ms = T0 + i64::try_from(write * year.write_ms).unwrap();
        due += 2 * year.subscribers * year.per_day * year.write_ms;
        let events = due / DAY_MS;
        due %= DAY_MS;
        for event in 0..events {
            let place = random.below(held.len() as u64);
            let slot = &mut held[usize::try_from(place).unwrap()];
            let (action, subscriber) = match slot.take() {
                Some(subscriber) => (BlockAction::Released, subscriber),
                None => (
                    BlockAction::Allocated,
                    *slot.insert(random.below(year.subscribers)),
                ),
            };
            let at_ms = now_ms + i64::try_from(event * year.write_ms / events).unwrap();
            let what = What::Block(action, block(place, subscriber));
            note(&mut truth, &mut random, action, at_ms, place, subscriber);
            let record = Record {
                sequence,
                at_ms,
                what,
            };
            ledger.take(&record, began);
            sequence += 1;
        }
        let written_ms = now_ms + i64::try_from(year.write_ms).unwrap() - 1;
        store.write(&mut ledger, written_ms).unwrap();
    }
    let end_ms = T0 + i64::try_from(year.days * DAY_MS).unwrap();
    store.end(End::Stopped, end_ms).unwrap();
    truth.flush().unwrap();
    std::fs::write(year.directory.join("label"), year.label()).unwrap();
    println!("made in {:.0?}: {sequence} events", began.elapsed());
}

fn note(
    truth: &mut impl Write,
    random: &mut Lcg,
    action: BlockAction,
    at_ms: i64,
    place: u64,
    subscriber: u64,
) {
    if action == BlockAction::Allocated && random.below(SAMPLED) == 0 {
        writeln!(truth, "sample {at_ms} {place} {subscriber}").unwrap();
    }
    if subscriber % WATCHED == 17 {
        let what = match action {
            BlockAction::Released => "released",
            _ => "allocated",
        };
        writeln!(truth, "{what} {at_ms} {place} {subscriber}").unwrap();
    }
}

/// A line of the truth: what, when, which block, who.
fn lines(path: &Path) -> Vec<(String, i64, u64, u64)> {
    let lines = BufReader::new(File::open(path).unwrap()).lines();
    let parse = |line: io::Result<String>| {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let [what, at_ms, place, subscriber] = words[..] else {
            panic!("{line}");
        };
        let number = |text: &str| text.parse::<u64>().unwrap();
        let at_ms = i64::try_from(number(at_ms)).unwrap();
        (what.to_owned(), at_ms, number(place), number(subscriber))
    };
    lines.map(parse).collect()
}

fn size(year: &Year) {
    let segments = segment::list(&year.journal()).unwrap();
    let octets =
        |one: &segment::SegmentName| std::fs::metadata(one.path(&year.journal())).unwrap().len();
    let total: u64 = segments.iter().map(octets).sum();
    println!(
        "{}: {} segments, {:.2} GB, the longest {} MiB, {} octets for each subscriber and day",
        year.label(),
        segments.len(),
        total as f64 / 1e9,
        segments.iter().map(octets).max().unwrap_or(0) >> 20,
        total / year.subscribers / year.days
    );
}

/// Median and longest of what each of them took.
fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!(
        "{} {what}: median {:.1?}, longest {:.1?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
}

fn ask_holders(year: &Year, truth: &[(String, i64, u64, u64)]) {
    let samples: Vec<_> = truth.iter().filter(|one| one.0 == "sample").collect();
    let mut times = Vec::new();
    for (_, at_ms, place, subscriber) in samples.iter().step_by((samples.len() / 1000).max(1)) {
        let expected = block(*place, *subscriber);
        let question = Question {
            subject: Subject::Mapped(expected.v4, expected.port_first + 7),
            from_ms: *at_ms,
            to_ms: *at_ms,
        };
        let began = Instant::now();
        let answer = lookup(&year.journal(), &question).unwrap();
        times.push(began.elapsed());
        let found: Vec<Block> = answer.holdings.iter().map(|one| one.block).collect();
        assert_eq!(found, [expected], "at {at_ms}: {answer:?}");
    }
    report("look-ups of an address and port", times);
}

/// What a watched subscriber had: from when until when, which block.
fn watched(truth: &[(String, i64, u64, u64)], subscriber: u64) -> Vec<(i64, i64, Block)> {
    let mut had: Vec<(i64, i64, Block)> = Vec::new();
    for (what, at_ms, place, who) in truth.iter().filter(|one| one.3 == subscriber) {
        let block = block(*place, *who);
        match what.as_str() {
            "allocated" => had.push((*at_ms, i64::MAX, block)),
            "released" => {
                let mut newest = had.iter_mut().rev();
                newest.find(|one| one.2 == block).unwrap().1 = *at_ms;
            }
            _ => {}
        }
    }
    had
}

/// What each watched subscriber had in spans of so many days.
fn ask_subscribers(year: &Year, truth: &[(String, i64, u64, u64)], days: u64) {
    let mut times = Vec::new();
    let mut found = 0;
    // Over the year each takes seconds.
    let most = if days > 100 { 5 } else { 20 };
    for number in 0..(year.subscribers / WATCHED).min(most) {
        let subscriber = number * WATCHED + 17;
        let from_ms = T0 + i64::try_from((year.days - days) * DAY_MS * number / 20).unwrap();
        let to_ms = from_ms + i64::try_from(days * DAY_MS).unwrap() - 1;
        let question = Question {
            subject: Subject::Subscriber(block(0, subscriber).subscriber),
            from_ms,
            to_ms,
        };
        let began = Instant::now();
        let answer = lookup(&year.journal(), &question).unwrap();
        times.push(began.elapsed());
        let mut expected: Vec<(i64, Block)> = watched(truth, subscriber)
            .into_iter()
            .filter(|(begins, ends, _)| *begins <= to_ms && *ends > from_ms)
            .map(|(begins, _, block)| (begins, block))
            .collect();
        let holdings = answer.holdings.iter();
        let mut said: Vec<(i64, Block)> = holdings
            .map(|one| (one.from_ms.unwrap(), one.block))
            .collect();
        let order = |one: &(i64, Block)| (one.0, one.1.v4, one.1.port_first);
        expected.sort_by_key(order);
        said.sort_by_key(order);
        assert_eq!(said, expected, "{subscriber} from {from_ms} to {to_ms}");
        found += said.len();
    }
    report(
        &format!("look-ups of a subscriber over {days} days ({found} blocks)"),
        times,
    );
}

#[test]
#[ignore = "minutes, and gigabytes of disk"]
fn a_year_of_a_hundred_thousand_subscribers() {
    let year = Year::from_environment();
    let label = std::fs::read_to_string(year.directory.join("label"));
    if label.is_ok_and(|label| label == year.label()) {
        println!("measures what is in {}", year.directory.display());
    } else {
        make(&year);
    }
    size(&year);
    let truth = lines(&year.truth());
    ask_holders(&year, &truth);
    for days in [1, 30, year.days] {
        ask_subscribers(&year, &truth, days.min(year.days));
    }
    if std::env::var_os(DIRECTORY).is_none() {
        std::fs::remove_dir_all(&year.directory).unwrap();
    }
}
