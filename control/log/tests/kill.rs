//! SIGKILL in the middle of a storm of blocks, a hundred times: the journal always opens, and a
//! look-up is right for everything older than a second.
#![allow(missing_docs)]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gate64_log::config::JournalConfig;
use gate64_log::journal::{Journal, Note, Question, Subject, lookup};
use gate64_log::{Block, BlockAction, Bus, Condition, EventKind, Prefix6, Queue, What};

/// Names the directory to the process that is killed.
const DIRECTORY: &str = "GATE64_STORM_DIRECTORY";
/// Journals that are killed side by side.
const JOURNALS: u32 = 5;
/// How often each is killed.
const KILLS: u32 = 20;
/// Blocks of the pool: few, so that each is handed out again and again.
const BLOCKS: u64 = 400;
/// Questions asked after each kill.
const QUESTIONS: usize = 60;
/// What the journal may lose, in milliseconds.
const SECOND_MS: i64 = 1000;
/// How often a life is looked at before it is ended.
const LOOKS_MAX: u32 = 1200;
/// Between two things that happen, in milliseconds, unless the process does not run.
const GAP_MS: i64 = 20;

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Each allocation has a subscriber of its own, so that no answer is right by chance.
fn block(number: u64, subscriber: u64) -> Block {
    let address = Ipv4Addr::from(0xcb00_7100 + u32::try_from(number / 4).unwrap());
    Block {
        subscriber: Prefix6 {
            ip: Ipv6Addr::from((0x2001_0db8 << 96) | (u128::from(subscriber) << 64)),
            length: 64,
        },
        v4: address,
        port_first: 1024 + u16::try_from(number % 4).unwrap() * 512,
        port_count: 512,
    }
}

/// The process that is killed. It writes down each thing just before it happens.
#[test]
#[ignore = "run by a_hundred_kills"]
fn storm() {
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let truth_path = directory.join("truth");
    let mut truth = OpenOptions::new()
        .create(true)
        .append(true)
        .open(truth_path)
        .unwrap();
    let bus = Arc::new(Bus::new(0));
    let (queue, reader) = Queue::new(1 << 18, &[EventKind::Block]);
    let condition = Arc::new(Condition::default());
    bus.attach("journal", queue, Arc::clone(&condition), true);
    let config = JournalConfig {
        path: directory.join("journal"),
        retention: Duration::from_secs(86_400),
    };
    let _journal = Journal::start(config, None, reader, condition, &bus).unwrap();
    bus.tell(What::Started);
    let mut held: Vec<Option<Block>> = vec![None; usize::try_from(BLOCKS).unwrap()];
    let mut subscriber = u64::try_from(now_ms()).unwrap() << 16 & 0xffff_ffff;
    let mut state = subscriber;
    loop {
        for _ in 0..5 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let number = (state >> 33) % BLOCKS;
            let place = &mut held[usize::try_from(number).unwrap()];
            let (action, what) = match place.take() {
                Some(block) => ("R", What::Block(BlockAction::Released, block)),
                None => {
                    subscriber += 1;
                    *place = Some(block(number, subscriber));
                    let allocated = What::Block(BlockAction::Allocated, block(number, subscriber));
                    ("A", allocated)
                }
            };
            writeln!(truth, "{action} {} {number} {subscriber}", now_ms()).unwrap();
            bus.tell(what);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Storm {
    child: Child,
    directory: tempfile::TempDir,
}

impl Drop for Storm {
    /// A test that fails leaves no storm behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory in memory where there is one: this is about a killed process, not a slow disk.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

fn start(directory: &Path) -> Child {
    let before = length(directory);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "storm"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::null())
        .stderr(File::create(directory.join("messages")).unwrap())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while length(directory) == before {
        assert!(began.elapsed() < Duration::from_secs(60), "no storm");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn length(directory: &Path) -> u64 {
    let truth = std::fs::metadata(directory.join("truth"));
    truth.map_or(0, |truth| truth.len())
}

/// Who held which block from when until when, of one process's life.
struct Held {
    number: u64,
    subscriber: u64,
    from_ms: i64,
    until_ms: i64,
}

/// What was written down: whether a block was allocated, when, which, and to whom.
struct Line {
    is_allocated: bool,
    at_ms: i64,
    number: u64,
    subscriber: u64,
}

/// What the process has written down since then.
fn lines(directory: &Path, from: u64) -> Vec<Line> {
    let text = std::fs::read(directory.join("truth")).unwrap();
    let text = String::from_utf8_lossy(&text[usize::try_from(from).unwrap()..]).into_owned();
    // The last line may be cut short.
    let whole = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let is_allocated = words.next().unwrap() == "A";
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        Line {
            is_allocated,
            at_ms: i64::try_from(number()).unwrap(),
            number: number(),
            subscriber: number(),
        }
    };
    whole.map(line).collect()
}

/// When the process had so long still to run, and how long it ran before. A machine that stops
/// processes for a while leaves gaps, in which it did not.
fn ran(lines: &[Line], rest_ms: i64) -> (i64, i64) {
    let mut left_ms = rest_ms;
    let mut since = lines.last().map_or(0, |last| last.at_ms);
    let mut before_ms = 0;
    for pair in lines.windows(2).rev() {
        let gap_ms = (pair[1].at_ms - pair[0].at_ms).min(GAP_MS);
        match left_ms > 0 {
            true => (left_ms, since) = (left_ms - gap_ms, pair[0].at_ms),
            false => before_ms += gap_ms,
        }
    }
    (since, before_ms)
}

fn truth(lines: &[Line], safe_ms: i64) -> Vec<Held> {
    let mut held: Vec<Held> = Vec::new();
    for pair in lines.windows(2) {
        let (line, next) = (&pair[0], &pair[1]);
        if line.is_allocated {
            held.push(Held {
                number: line.number,
                subscriber: line.subscriber,
                // It happened after it was written down, and before anything else was.
                from_ms: next.at_ms,
                until_ms: safe_ms,
            });
        } else {
            let mut newest = held.iter_mut().rev();
            let known = newest.find(|one| one.number == line.number).unwrap();
            known.until_ms = line.at_ms.min(safe_ms);
        }
    }
    held
}

/// Asks for the middle of the time that each was held.
fn ask(directory: &Path, held: &[Held]) -> usize {
    let sure = held.iter().filter_map(|one| {
        let until_ms = one.until_ms;
        (until_ms - one.from_ms > 60).then(|| (one, i64::midpoint(one.from_ms, until_ms)))
    });
    let sure: Vec<_> = sure.collect();
    let step = (sure.len() / QUESTIONS).max(1);
    let mut asked = 0;
    for (one, at_ms) in sure.into_iter().step_by(step) {
        let expected = block(one.number, one.subscriber);
        let question = Question {
            subject: Subject::Mapped(expected.v4, expected.port_first + 500),
            from_ms: at_ms,
            to_ms: at_ms,
        };
        let answer = lookup(&directory.join("journal"), &question).unwrap();
        let found: Vec<Block> = answer.holdings.iter().map(|one| one.block).collect();
        assert_eq!(
            found,
            [expected],
            "at {at_ms}, from {} until {}: {answer:?}",
            one.from_ms,
            one.until_ms
        );
        asked += 1;
    }
    asked
}

fn kill_again_and_again(which: u32) -> usize {
    let place = directory();
    let mut storm = Storm {
        child: start(place.path()),
        directory: place,
    };
    let path = storm.directory.path().to_owned();
    let mut asked = 0;
    let mut written = 0;
    let mut first_life = Vec::new();
    let mut first_kill = 0;
    for kill in 0..KILLS {
        let pause = 300 + (which * 97 + kill * 61) % 400;
        let has_run = (0..LOOKS_MAX).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            ran(&lines(&path, written), SECOND_MS).1 >= pause.into()
        });
        assert!(has_run, "the storm ends");
        storm.child.kill().unwrap();
        storm.child.wait().unwrap();
        let dead_ms = now_ms();
        let lines = lines(&path, written);
        let held = truth(&lines, ran(&lines, SECOND_MS).0);
        written = length(&path);
        let count = ask(&path, &held);
        assert!(count > 10, "only {count} questions after kill {kill}");
        asked += count;
        if kill == 0 {
            (first_life, first_kill) = (held, dead_ms);
        }
        storm.child = start(&path);
    }
    storm.child.kill().unwrap();
    storm.child.wait().unwrap();
    // The first life is still right after all the others.
    asked += ask(&path, &first_life);
    let names: Vec<String> = std::fs::read_dir(path.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".g64j"))
        .collect();
    let closed = names.iter().filter(|name| name.matches('_').count() == 2);
    // The last child may not have opened it yet when it was killed.
    assert!(closed.count() + 1 >= KILLS as usize, "{names:?}");
    after_the_kill_it_says_so(&path, first_kill);
    asked
}

/// A time after a kill is answered with a note that says so.
fn after_the_kill_it_says_so(path: &Path, dead_ms: i64) {
    let question = Question {
        subject: Subject::Mapped(block(0, 0).v4, 1024),
        from_ms: dead_ms,
        to_ms: dead_ms,
    };
    let answer = lookup(&path.join("journal"), &question).unwrap();
    let is_said = |note: &Note| matches!(note, Note::Crashed { .. });
    assert!(answer.notes.iter().any(is_said), "{answer:?}");
}

#[test]
fn a_hundred_kills() {
    let journals: Vec<_> = (0..JOURNALS)
        .map(|which| std::thread::spawn(move || kill_again_and_again(which)))
        .collect();
    let asked: usize = journals.into_iter().map(|one| one.join().unwrap()).sum();
    println!("{} kills, {asked} questions", JOURNALS * KILLS);
    assert!(asked > 1000);
}
