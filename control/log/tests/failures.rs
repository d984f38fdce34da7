//! What an operator meets: a full disk, a journal that cannot be made, a collector that is not
//! there. Each is said in one sentence, and heals by itself.
#![allow(missing_docs)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gate64_log::config::{JournalConfig, SinkConfig, SinkKind, Target};
use gate64_log::journal::{Journal, Question, Subject, lookup};
use gate64_log::sink::Sink;
use gate64_log::{Block, BlockAction, Bus, Condition, EventKind, Prefix6, Queue, What};
use nix::mount::{MsFlags, mount, umount};

const PATIENCE: Duration = Duration::from_secs(40);

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

fn journal(bus: &Arc<Bus>, path: &Path) -> Journal {
    let (queue, reader) = Queue::new(1 << 16, &[EventKind::Block]);
    let condition = Arc::new(Condition::default());
    bus.attach("journal", queue, Arc::clone(&condition), true);
    let config = JournalConfig {
        path: path.to_owned(),
        retention: Duration::from_secs(86_400),
    };
    Journal::start(config, None, reader, condition, bus).unwrap()
}

fn problem(bus: &Bus) -> Option<String> {
    bus.report().into_iter().find_map(|one| one.problem)
}

#[track_caller]
fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "no {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn holder(path: &Path, number: u16) -> Option<Block> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now_ms = i64::try_from(now.as_millis()).unwrap();
    let question = Question {
        subject: Subject::Mapped(block(0, number).v4, block(0, number).port_first),
        from_ms: now_ms,
        to_ms: now_ms,
    };
    let answer = lookup(path, &question).ok()?;
    answer.holdings.first().map(|one| one.block)
}

/// A file system of a few pages, unmounted in the end.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn new() -> Tiny {
        let place = tempfile::tempdir().unwrap();
        let options = Some("size=64k");
        mount(
            Some("gate64"),
            place.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )
        .expect("mounting a tmpfs needs root");
        Tiny(place)
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = umount(self.0.path());
    }
}

#[test]
fn a_full_disk_is_said_once_and_what_is_held_is_known_when_there_is_room_again() {
    let disk = Tiny::new();
    let directory = disk.0.path().join("journal");
    let bus = Arc::new(Bus::new(0));
    let journal = journal(&bus, &directory);
    bus.tell(What::Started);
    bus.tell(What::Block(BlockAction::Allocated, block(1, 1)));
    wait_for("first block", || holder(&directory, 1));
    // Somebody else fills the disk to the last octet.
    let filling = disk.0.path().join("other");
    let mut other = std::fs::File::create(&filling).unwrap();
    while std::io::Write::write_all(&mut other, &[0; 512]).is_ok() {}
    for number in 0..2000u16 {
        let action = BlockAction::Allocated;
        bus.tell(What::Block(action, block(number, 2 + number % 100)));
    }
    let said = wait_for("problem", || problem(&bus));
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("free some space there"), "{said}");
    assert!(bus.is_failing());
    drop(other);
    std::fs::remove_file(&filling).unwrap();
    wait_for("recovery", || problem(&bus).is_none().then_some(()));
    assert!(!bus.is_failing());
    // The last holder of each, and the one from before the disk was full.
    let last = Some(block(1999, 101));
    wait_for("last holder", || {
        (holder(&directory, 101) == last).then_some(())
    });
    assert_eq!(holder(&directory, 1), Some(block(1, 1)));
    bus.close();
    journal.join();
}

#[test]
fn a_journal_that_cannot_be_made_is_tried_again() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("file/journal");
    // A file is where a directory should be.
    std::fs::write(place.path().join("file"), "").unwrap();
    let bus = Arc::new(Bus::new(0));
    let journal = journal(&bus, &directory);
    bus.tell(What::Block(BlockAction::Allocated, block(7, 7)));
    let said = wait_for("problem", || problem(&bus));
    assert!(
        said.contains("Not a directory") && said.contains("file/journal"),
        "{said}"
    );
    std::fs::remove_file(place.path().join("file")).unwrap();
    assert_eq!(wait_for("holder", || holder(&directory, 7)), block(7, 7));
    // What is written can be read before the writer has said that all is well again.
    wait_for("no problem", || problem(&bus).is_none().then_some(()));
    bus.close();
    journal.join();
}

#[test]
fn a_read_only_journal_is_said() {
    let disk = Tiny::new();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let none: Option<&str> = None;
    mount(none, disk.0.path(), none, flags, none).unwrap();
    let bus = Arc::new(Bus::new(0));
    let journal = journal(&bus, &disk.0.path().join("journal"));
    let said = wait_for("problem", || problem(&bus));
    assert!(
        said.contains("Read-only file system") && said.contains("mount it for writing"),
        "{said}"
    );
    bus.close();
    journal.join();
}

/// A loopback address of this run, with a port that the kernel gives to nobody.
fn nobodys_addr(number: u8) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, high | 128, low, number), 5141))
}

fn sink(bus: &Bus, kind: SinkKind, target: Target) -> Sink {
    let config = SinkConfig {
        kind,
        target,
        events: vec![EventKind::Block],
    };
    Sink::start(config, bus)
}

/// What was told while nobody listened arrives when somebody does.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_gets_everything_when_it_comes() {
    let addr = nobodys_addr(1);
    let bus = Bus::new(0);
    let sink = sink(&bus, SinkKind::Syslog { facility: 16 }, Target::Tcp(addr));
    for number in 0..100 {
        bus.tell(What::Block(BlockAction::Allocated, block(number, 1)));
    }
    let said = wait_for("problem", || problem(&bus));
    assert!(said.contains(&format!("syslog tcp://{addr}")), "{said}");
    assert!(said.contains("does the collector run"), "{said}");
    // Its queue takes what comes: nothing is lost yet.
    assert!(!bus.is_failing());
    let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut text: Vec<u8> = Vec::new();
    let mut piece = [0; 4096];
    while text.windows(12).filter(|at| at == b" subscriber=").count() < 100 {
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut piece);
        let read = tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        text.extend(&piece[..read]);
    }
    assert_eq!(bus.report()[0].lost, 0);
    bus.close();
    sink.join().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_datagram_and_a_full_queue_are_said_and_counted() {
    let addr = nobodys_addr(2);
    let bus = Bus::new(0);
    let resend = Duration::from_secs(60);
    let sink = sink(&bus, SinkKind::Ipfix { resend }, Target::Udp(addr));
    let said = wait_for("problem", || problem(&bus));
    assert!(said.contains("Connection refused"), "{said}");
    for _ in 0..70_000 {
        bus.tell(What::Block(BlockAction::Allocated, block(1, 1)));
    }
    assert!(bus.is_failing());
    assert!(bus.report()[0].lost >= 70_000 - 65_536 - 512);
    bus.close();
    sink.join().await;
}
