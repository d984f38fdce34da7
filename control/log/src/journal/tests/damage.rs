//! A journal that strangers had their hands on: cut, flipped, foreign, of another version. Answers are
//! right or missing with a note, never wrong, and nothing panics.

use super::*;

/// A journal of one segment with eight blocks, and its octets.
fn small() -> (Bench, PathBuf, Vec<u8>) {
    let mut bench = Bench::new();
    for number in 0..8 {
        let at_ms = T0 + i64::from(number) * 1000;
        bench.block(at_ms, BlockAction::Allocated, block(number, number));
    }
    // No process holds it any more.
    bench.store = None;
    let path = bench.segments()[0].path(bench.directory.path());
    let octets = std::fs::read(&path).unwrap();
    (bench, path, octets)
}

/// Each block has its own holder or, which a note explains, none.
#[track_caller]
fn right_or_missing(bench: &Bench, what: &str) -> usize {
    let mut missing = 0;
    for number in [0, 7] {
        let answer = bench.ask(number, T0 + 7000);
        let who: Vec<Block> = answer.holdings.iter().map(|one| one.block).collect();
        if who.is_empty() {
            missing += 1;
            assert_ne!(answer.notes, [], "{what}");
        } else {
            assert_eq!(who, [block(number, number)], "{what}");
        }
    }
    missing
}

#[test]
fn cut_at_each_octet() {
    let (mut bench, path, octets) = small();
    let mut cut = 0;
    for length in 0..octets.len() {
        std::fs::write(&path, &octets[..length]).unwrap();
        cut += usize::from(right_or_missing(&bench, "cut") > 0);
        // The next start opens it, and closes what there is.
        let recovery = bench.restart();
        bench.store = None;
        assert!(recovery.crashed);
        right_or_missing(&bench, "cut and closed");
        for name in bench.segments() {
            std::fs::remove_file(name.path(bench.directory.path())).unwrap();
        }
    }
    // The last frame is missing in all, so this is no test of nothing.
    assert_eq!(cut, octets.len());
}

#[test]
fn each_bit_flipped() {
    let (bench, path, octets) = small();
    let mut missing = 0;
    for bit in 0..octets.len() * 8 {
        let mut bad = octets.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bad).unwrap();
        missing += right_or_missing(&bench, "flipped");
    }
    assert!(missing > 0);
    // The next start leaves what it cannot read of the middle, and cuts at the end only.
    let mut bad = octets.clone();
    bad[octets.len() / 2] ^= 0x10;
    std::fs::write(&path, &bad).unwrap();
    let (_store, recovery) = Store::open(&config(bench.directory.path())).unwrap();
    assert_eq!((recovery.crashed, recovery.octets_cut), (true, 0));
}

/// Pieces cut out, doubled, zeroed, swapped and made up: as many as a test has time for.
#[test]
fn mutations_of_a_segment_are_read_without_harm() {
    let (bench, path, octets) = small();
    let mut state = 3u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % below.max(1)
    };
    for _ in 0..1000 {
        let mut bad = octets.clone();
        for _ in 0..=random(4) {
            let at = random(bad.len());
            let length = random((bad.len() - at).min(200));
            let other = random(bad.len());
            match random(5) {
                0 => drop(bad.drain(at..at + length)),
                1 => bad.extend_from_within(at..at + length),
                2 => bad[at..at + length].fill(0),
                3 => bad.swap(at, other),
                _ => bad
                    .splice(at..at, (0..length).map(|_| random(256).to_le_bytes()[0]))
                    .for_each(drop),
            }
        }
        std::fs::write(&path, &bad).unwrap();
        for number in [0, 7] {
            // A frame that is there twice may be believed twice; one that is not whole never is.
            for one in bench.ask(number, T0 + 7000).holdings {
                assert_eq!(one.block, block(number, number));
            }
            bench.had(number, i64::MIN, i64::MAX);
        }
    }
}

#[test]
fn foreign_files_in_the_directory() {
    let (mut bench, path, _) = small();
    let directory = bench.directory.path().to_owned();
    for name in ["notes.txt", "00000001_copy.g64j", ".g64j", "00000001.g64j~"] {
        std::fs::write(directory.join(name), "hello").unwrap();
    }
    std::fs::create_dir(directory.join("old")).unwrap();
    assert_eq!(right_or_missing(&bench, "beside foreign files"), 0);
    // What only has the name of a segment is read by nobody and thrown away by nobody.
    let text = "dear diary ".repeat(100);
    std::fs::write(&path, &text).unwrap();
    let answer = bench.ask(1, T0 + 5000);
    assert_eq!(answer.holdings, []);
    assert!(
        matches!(answer.notes[0], Note::Damaged { octets: 1100, .. }),
        "{answer:?}"
    );
    let recovery = bench.restart();
    assert_eq!(recovery.unreadable.as_deref(), Some(&*path));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    bench.block(T0 + 90_000, BlockAction::Allocated, block(5, 5));
    assert_eq!(bench.held(5, T0 + 90_000).unwrap().0, block(5, 5));
    // A directory with the name of a segment.
    bench.store = None;
    let name = bench.segments()[1].path(&directory);
    std::fs::remove_file(&name).unwrap();
    std::fs::create_dir(&name).unwrap();
    let question = Question {
        subject: Subject::Mapped(block(1, 1).v4, block(1, 1).port_first),
        from_ms: T0 + 91_000,
        to_ms: T0 + 91_000,
    };
    let error = lookup(&directory, &question).unwrap_err().to_string();
    assert!(error.contains(&*name.to_string_lossy()), "{error}");
    let error = Store::open(&config(&directory)).unwrap_err().to_string();
    assert!(error.contains(&*name.to_string_lossy()), "{error}");
}

#[test]
fn another_version_is_said_and_left_as_it_is() {
    let (mut bench, path, mut octets) = small();
    // Every frame of it.
    let mut at = 0;
    while let Some((header, _)) = frame::read(&octets[at..]) {
        octets[at + 2] = 2;
        at += frame::HEADER_LEN + header.payload_len;
    }
    std::fs::write(&path, &octets).unwrap();
    let answer = bench.ask(1, T0 + 5000);
    assert_eq!(answer.holdings, []);
    let note = Note::OtherVersion {
        segment: 1,
        version: 2,
    };
    assert!(answer.notes.contains(&note), "{answer:?}");
    let recovery = bench.restart();
    assert_eq!(recovery.other_version, Some((path.clone(), 2)));
    assert_eq!(std::fs::read(&path).unwrap(), octets);
    bench.block(T0 + 90_000, BlockAction::Allocated, block(5, 5));
    assert_eq!(bench.held(5, T0 + 90_000).unwrap().0, block(5, 5));
}

#[test]
fn what_is_missing_is_said() {
    let gone = Path::new("/nonexistent/journal");
    let question = Question {
        subject: Subject::Mapped(Ipv4Addr::LOCALHOST, 1),
        from_ms: 0,
        to_ms: 0,
    };
    let error = lookup(gone, &question).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

/// A segment of another version, which was left as it is, with three days of segments behind it.
fn left_behind() -> Bench {
    let (mut bench, path, mut octets) = small();
    to_other_version(&mut octets);
    std::fs::write(&path, &octets).unwrap();
    bench.restart();
    for day in 1..4 {
        bench.block(T0 + day * DAY, BlockAction::Allocated, block(5, 5));
        bench.block(T0 + day * DAY + 60_000, BlockAction::Released, block(5, 5));
    }
    bench
}

const DAY: i64 = 24 * 3600 * 1000;

#[test]
fn a_segment_without_an_end_in_its_name_bears_on_its_own_time_only() {
    let bench = left_behind();
    assert_eq!(bench.segments()[0].end_ms, None);
    let later = bench.ask(5, T0 + 2 * DAY + 1000);
    assert_eq!(later.holdings.len(), 1);
    assert_eq!(later.notes, []);
    let own = bench.ask(1, T0 + 5000).notes;
    let other = Note::OtherVersion {
        segment: 1,
        version: 2,
    };
    let gap = Note::NotCovered {
        before_ms: Some(T0),
        after_ms: Some(T0 + DAY),
    };
    assert_eq!(own, [other, gap]);
}

/// One that can be read, and was not closed because a write failed: what it says counts, also where the clock was set
/// back then, so that the next one begins before its end.
#[test]
fn a_segment_that_was_not_closed_ends_with_what_it_says() {
    let mut bench = Bench::new();
    bench.block(T0 + DAY, BlockAction::Allocated, block(1, 1));
    bench.block(T0 + DAY + 60_000, BlockAction::Released, block(1, 1));
    bench.step(T0 + DAY + 90_000, T0 + DAY + 3000);
    bench.block(T0 + DAY + 4000, BlockAction::Allocated, block(2, 2));
    bench.block(T0 + 2 * DAY + 4000, BlockAction::Released, block(2, 2));
    bench.block(T0 + 3 * DAY + 5000, BlockAction::Allocated, block(3, 3));
    let first = bench.segments()[0].clone();
    let unclosed = segment::SegmentName {
        end_ms: None,
        ..first.clone()
    };
    let directory = bench.directory.path();
    std::fs::rename(first.path(directory), unclosed.path(directory)).unwrap();
    let held = bench.ask(1, T0 + DAY + 50_000);
    assert_eq!(held.holdings[0].block, block(1, 1));
    let step = Note::ClockStep {
        at_ms: T0 + DAY + 3000,
    };
    assert_eq!(held.notes, [step]);
    assert_eq!(bench.ask(3, T0 + 3 * DAY + 6000).notes, []);
}

fn damage(octets: &mut [u8]) {
    let half = octets.len() / 2;
    octets[half..].fill(0);
}

fn to_other_version(octets: &mut [u8]) {
    let mut at = 0;
    while let Some((header, _)) = frame::read(&octets[at..]) {
        octets[at + 2] = 2;
        at += frame::HEADER_LEN + header.payload_len;
    }
}

/// What cannot be read may have been written until any time, once the clock was set back behind it.
#[test]
fn an_unreadable_segment_hides_who_had_it_where_the_clock_was_set_back() {
    let spoil: [fn(&mut [u8]); 2] = [damage, to_other_version];
    for spoil in spoil {
        let (mut bench, path, mut octets) = small();
        spoil(&mut octets);
        bench.restart();
        let name = bench.segments().remove(0).path(bench.directory.path());
        std::fs::remove_file(name).unwrap();
        std::fs::write(&path, &octets).unwrap();
        bench.block(T0 - 50_000, BlockAction::Allocated, block(5, 5));
        for minute in 0..5 {
            bench.write(T0 + minute * 60_000);
        }
        let notes = bench.ask(7, T0 + 90_000).notes;
        let hides = |note: &Note| matches!(note, Note::Damaged { .. } | Note::OtherVersion { .. });
        assert!(notes.iter().any(hides), "{notes:?}");
        let step = Note::ClockStep { at_ms: T0 - 50_000 };
        assert!(notes.contains(&step), "{notes:?}");
    }
}

#[test]
fn retention_deletes_a_segment_without_an_end_in_its_name() {
    let mut bench = left_behind();
    let store = bench.store.as_mut().unwrap();
    let later = Instant::now() + Duration::from_secs(3700);
    // The next segment begins a day after it.
    store.set_retention(Duration::from_secs(86_400));
    let (kept, deleted) = (T0 + 2 * DAY, T0 + 2 * DAY + 1);
    assert_eq!(store.delete_old(kept, later).unwrap(), 0);
    assert_eq!(store.delete_old(deleted, later).unwrap(), 1);
    assert_eq!(bench.segments()[0].number, 2);
}

#[test]
fn numbers_go_on_behind_segments_that_say_none() {
    let (mut bench, _, _) = small();
    assert_eq!(bench.restart().next_sequence, 8);
    // It starts and ends, and nothing happens.
    bench.write(T0 + 20_000);
    bench.end(End::Stopped, T0 + 30_000);
    assert_eq!(bench.restart().next_sequence, 8);
    // A foreign file with the name of a segment.
    bench.store = None;
    let name = "00000003_2026-11-03T000000.000Z.g64j";
    std::fs::write(bench.directory.path().join(name), "dear diary").unwrap();
    assert_eq!(bench.restart().next_sequence, 8);
}

/// Records that the journal does not keep are numbered too: what it writes next says how far the numbers were.
#[test]
fn numbers_of_what_is_not_kept_are_not_given_again() {
    let mut bench = Bench::new();
    bench.block(T0, BlockAction::Allocated, block(1, 1));
    for _ in 0..100 {
        bench.take(T0 + 1000, What::Block(BlockAction::Live, block(1, 1)));
    }
    // A sign of life.
    bench.write(T0 + 70_000);
    assert_eq!(bench.restart().next_sequence, 101);
}

/// A directory stands for a file that the disk cannot read or remove.
#[test]
fn an_old_file_that_cannot_be_read_hinders_nothing() {
    let mut bench = left_behind();
    let directory = bench.directory.path().to_owned();
    for name in &bench.segments()[..2] {
        let path = name.path(&directory);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
    }
    let store = bench.store.as_mut().unwrap();
    store.set_retention(Duration::from_secs(1));
    let later = Instant::now() + Duration::from_secs(3700);
    // The third is closed and old; the fourth is being written.
    assert_eq!(store.delete_old(T0 + 5 * DAY, later).unwrap(), 1);
    bench.write(T0 + 3 * DAY + 90_000);
    // Nothing but the last can be read, and that says no number.
    bench.end(End::Stopped, T0 + 3 * DAY + 100_000);
    let last = bench.segments().pop().unwrap().path(&directory);
    std::fs::write(&last, "dear diary").unwrap();
    assert_eq!(bench.restart().next_sequence, 0);
    bench.block(T0 + 4 * DAY, BlockAction::Allocated, block(6, 6));
}
