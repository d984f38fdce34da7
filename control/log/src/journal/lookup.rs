//! Who had an address and port, and what a subscriber had: read from the segments that cover the
//! time, with gate64 running or not.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use super::frame::Reason;
use super::scan::{self, Said, Scanned, Subject};
use super::segment::{self, End, SegmentName};
use super::store::{SIGN_OF_LIFE_MS, lock_path};
use crate::record::{Block, BlockAction};

/// A segment that begins so much before the end of the one before it does so because the clock was
/// set while gate64 did not run.
const OVERLAP_MS: i64 = 1000;

/// What happens reaches the segment that is written within so much time, or a sign of life does: beyond it, the
/// process that holds the journal cannot write it. Some seconds for a slow disk.
const WRITTEN_MS: i64 = SIGN_OF_LIFE_MS + 5000;

/// How far from a step of the clock times are not sure: a step is noticed and written some time after it.
const STEP_MS: i64 = 5000;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// About whom or what.
    pub subject: Subject,
    /// From when, in milliseconds since 1970; `i64::MIN` for the beginning of the journal.
    pub from_ms: i64,
    /// Until when, that moment included; not before `from_ms`.
    pub to_ms: i64,
}

/// Who had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// The block, with its subscriber.
    pub block: Block,
    /// Since when; `None` if the journal does not say.
    pub from_ms: Option<i64>,
    /// Until when, if the segments that were read say so.
    pub until_ms: Option<i64>,
}

/// Something that bears on how far an answer can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "note", rename_all = "snake_case")]
pub enum Note {
    /// No record covers that time, or a part of it: what is said is from before and after.
    NotCovered {
        /// The last time before that the journal speaks of.
        before_ms: Option<i64>,
        /// The first time after.
        after_ms: Option<i64>,
    },
    /// gate64 was killed after that time and wrote nothing more.
    Crashed {
        /// The last time that it wrote of.
        at_ms: i64,
    },
    /// gate64 was stopped: nobody had anything.
    Stopped {
        /// When.
        at_ms: i64,
        /// When it started again; `None` if what comes next is not there: the segment is missing, or the journal
        /// goes on elsewhere, or not at all.
        until_ms: Option<i64>,
    },
    /// Events did not reach the journal.
    Lost {
        /// When that was found.
        at_ms: i64,
        /// How many.
        count: u64,
    },
    /// The wall clock was set, so that the time asked for happened more than once or not at all.
    ClockStep {
        /// What it was set to.
        at_ms: i64,
    },
    /// Octets of a segment are damaged; what stood there is missing.
    Damaged {
        /// The segment's number.
        segment: u64,
        /// How many.
        octets: u64,
    },
    /// A segment of a format that this gate64 cannot read.
    OtherVersion {
        /// The segment's number.
        segment: u64,
        /// Its format.
        version: u8,
    },
}

/// What the journal says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Who had what, in the order of its beginning; of a single time and port more than one only where
    /// the wall clock was set back.
    pub holdings: Vec<Holding>,
    /// What to know about the answer.
    pub notes: Vec<Note>,
}

/// Looks it up in the journal of that directory.
///
/// # Errors
/// The directory or a segment cannot be read; the message names it.
pub fn lookup(directory: &Path, question: &Question) -> io::Result<Answer> {
    match look(directory, question) {
        // A segment was closed, and so renamed, between the listing and the reading.
        Err(error) if error.kind() == io::ErrorKind::NotFound => look(directory, question),
        done => done,
    }
}

fn look(directory: &Path, question: &Question) -> io::Result<Answer> {
    let segments = segment::list(directory)?;
    let is_written =
        segments.last().is_some_and(|last| last.end_ms.is_none()) && is_locked(directory);
    let ends = segment::ends(directory, &segments)?;
    let chosen = choose(&segments, &ends, question);
    let scanned = scan_all(directory, &segments, &chosen, &question.subject)?;
    let mut timeline = Timeline::new(*question);
    let mut before: Option<usize> = None;
    for (&place, one) in chosen.iter().zip(&scanned) {
        if before.is_some_and(|before| before + 1 != place) {
            timeline.leave_off();
        }
        let is_written = is_written && place + 1 == segments.len();
        let before_ms = end_before(&segments, &ends, place);
        timeline.read(one, &segments, place, before_ms, is_written);
        before = Some(place);
    }
    timeline.leave_off();
    Ok(timeline.answer(&segments, &ends, is_written))
}

/// Whether a process writes the journal now.
fn is_locked(directory: &Path) -> bool {
    let Ok(file) = std::fs::File::open(lock_path(directory)) else {
        return false;
    };
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

/// When the segment before it ends; `None` if that is not there.
fn end_before(segments: &[SegmentName], ends: &[Option<i64>], place: usize) -> Option<i64> {
    let before = place.checked_sub(1)?;
    let follows = segments[before].number + 1 == segments[place].number;
    follows.then(|| ends[before].unwrap_or(i64::MAX))
}

/// The segments that cover the time, and those on both sides of what is not covered.
fn choose(segments: &[SegmentName], ends: &[Option<i64>], question: &Question) -> Vec<usize> {
    let (from_ms, to_ms) = (question.from_ms, question.to_ms);
    let last = segments.len().saturating_sub(1);
    let end_of = |place: usize| ends[place].unwrap_or(i64::MAX);
    let is_wanted = |place: usize| {
        let name = &segments[place];
        let ends = end_of(place);
        let covers = name.start_ms <= to_ms && ends >= from_ms;
        let gap_after = segments.get(place + 1).is_some_and(|next| {
            ends < to_ms.max(from_ms.saturating_add(1)) && next.start_ms > from_ms.max(ends)
        });
        let gap_before = place > 0 && {
            let before_ms = end_of(place - 1);
            before_ms < to_ms.max(from_ms.saturating_add(1))
                && name.start_ms > from_ms.max(before_ms)
        };
        let is_outside = (place == 0 && from_ms < name.start_ms) || (place == last && ends < to_ms);
        covers || gap_after || gap_before || is_outside
    };
    (0..segments.len())
        .filter(|&place| is_wanted(place))
        .collect()
}

/// Reads the segments, on all processors.
fn scan_all(
    directory: &Path,
    segments: &[SegmentName],
    chosen: &[usize],
    subject: &Subject,
) -> io::Result<Vec<Scanned>> {
    let read = |&place: &usize| {
        let path = segments[place].path(directory);
        scan::scan(&path, subject).map_err(|error| segment::naming(&path, &error))
    };
    if chosen.len() == 1 {
        return chosen.iter().map(read).collect();
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(chosen.len()) {
            scope.spawn(|| {
                while let at = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(place) = chosen.get(at)
                {
                    let scanned = read(place);
                    crate::bus::lock(&done).insert(at, scanned);
                }
            });
        }
    });
    let done = done
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    done.into_values().collect()
}

/// A block that the subject has at the point that was read.
#[derive(Debug, Clone, Copy)]
struct Open {
    holding: Holding,
    /// Since when in the present segment's time, which a set clock makes another.
    here_ms: i64,
    /// Whether any of the time that it was held was asked for.
    is_asked: bool,
}

/// What was read of a segment, for what has to be said about the gaps between them.
#[derive(Debug, Clone, Copy)]
struct Covered {
    /// Where it stands among all segments.
    place: usize,
    reason: Option<Reason>,
    end: Option<End>,
    start_ms: i64,
    last_ms: i64,
}

/// Puts together what the segments say, in their order.
struct Timeline {
    question: Question,
    open: BTreeMap<(Ipv4Addr, u16), Open>,
    covered: Vec<Covered>,
    answer: Answer,
    /// The last segment that was read ends where the next begins, as far as blocks are concerned.
    after_ms: i64,
}

impl Timeline {
    fn new(question: Question) -> Timeline {
        Timeline {
            question,
            open: BTreeMap::new(),
            covered: Vec::new(),
            answer: Answer::default(),
            after_ms: i64::MAX,
        }
    }

    /// Takes the segment that stands at `place` among all; the one before it ends at `before_ms`.
    fn read(
        &mut self,
        scanned: &Scanned,
        segments: &[SegmentName],
        place: usize,
        before_ms: Option<i64>,
        is_written: bool,
    ) {
        let name = &segments[place];
        let next_ms = segments.get(place + 1).map(|next| next.start_ms);
        self.begin(scanned);
        for said in &scanned.said {
            match said {
                Said::Held(at_ms, held) => self.hold(scanned, *at_ms, held),
                Said::Taken(at_ms, block) => self.close((block.v4, block.port_first), *at_ms),
                Said::Happened(action, at_ms, block) => self.happen(*action, *at_ms, *block),
            }
        }
        let crashed = !is_written && matches!(scanned.end, None | Some(End::Crashed));
        self.after_ms = match scanned.end {
            // What a killed process handed out was in use until the next one began, for all one knows.
            _ if crashed => next_ms.unwrap_or(i64::MAX),
            Some(_) => scanned.last_ms.saturating_add(1),
            None => i64::MAX,
        };
        if scanned.end == Some(End::Stopped) {
            for place in self.open.keys().copied().collect::<Vec<_>>() {
                self.close(place, scanned.last_ms);
            }
        }
        self.note(scanned, name.number, before_ms, is_written);
        // One of which nothing can be read speaks by its name.
        let is_blank = scanned.start_ms > scanned.last_ms;
        let last_ms = name.end_ms.unwrap_or(name.start_ms);
        self.covered.push(Covered {
            place,
            reason: scanned.reason,
            // How one ended that cannot be read here, nobody knows.
            end: scanned
                .end
                .or((crashed && scanned.other_version.is_none()).then_some(End::Crashed)),
            start_ms: if is_blank {
                name.start_ms
            } else {
                scanned.start_ms
            },
            last_ms: if is_blank { last_ms } else { scanned.last_ms },
        });
    }

    fn begin(&mut self, scanned: &Scanned) {
        if scanned.reason == Some(Reason::Start) {
            // Nobody has anything any more.
            self.leave_off();
        }
        // What is held on both sides of a gap was held in it.
        let after_ms = match scanned.reason {
            Some(Reason::ClockStep) => self.after_ms,
            _ => self.after_ms.max(scanned.start_ms),
        };
        let question = self.question;
        for one in self.open.values_mut() {
            one.is_asked |= is_asked(&question, one.here_ms, Some(after_ms));
            one.here_ms = scanned.start_ms;
        }
    }

    /// All that is held: whoever is not in it has nothing.
    fn hold(&mut self, scanned: &Scanned, at_ms: i64, held: &[(Block, i64)]) {
        let is_held = |block: &Block| held.iter().any(|(one, _)| one == block);
        let gone: Vec<_> = self
            .open
            .iter()
            .filter(|(_, one)| !is_held(&one.holding.block))
            .map(|(place, _)| *place)
            .collect();
        // A damaged snapshot need not name everyone.
        for place in gone.into_iter().filter(|_| scanned.damaged == 0) {
            self.close(place, at_ms);
        }
        for (block, since_ms) in held {
            // Where nothing was read before it, the snapshot is the only word about the time before.
            let is_other_time = scanned.reason == Some(Reason::ClockStep) || *since_ms > at_ms;
            let here_ms = match is_other_time {
                true => scanned.start_ms,
                false => *since_ms,
            };
            self.open
                .entry((block.v4, block.port_first))
                .or_insert(Open {
                    holding: Holding {
                        block: *block,
                        from_ms: Some(*since_ms),
                        until_ms: None,
                    },
                    here_ms,
                    is_asked: false,
                });
        }
    }

    fn happen(&mut self, action: BlockAction, at_ms: i64, block: Block) {
        let place = (block.v4, block.port_first);
        let known = self.open.get(&place).map(|one| one.holding.block);
        match action {
            BlockAction::Live if known == Some(block) => return,
            BlockAction::Released if known != Some(block) => self.unknown_release(at_ms, block),
            _ => {}
        }
        self.close(place, at_ms);
        if action != BlockAction::Released {
            let open = Open {
                holding: Holding {
                    block,
                    from_ms: (action == BlockAction::Allocated).then_some(at_ms),
                    until_ms: None,
                },
                here_ms: at_ms,
                is_asked: false,
            };
            self.open.insert(place, open);
        }
    }

    /// The first word about a block is that it went back: it was held since some time before.
    fn unknown_release(&mut self, at_ms: i64, block: Block) {
        let known_ms = self.covered.last().map_or(i64::MIN, |one| one.last_ms);
        if is_asked(&self.question, known_ms, Some(at_ms)) {
            self.answer.holdings.push(Holding {
                block,
                from_ms: None,
                until_ms: Some(at_ms),
            });
        }
    }

    fn close(&mut self, place: (Ipv4Addr, u16), at_ms: i64) {
        let Some(mut one) = self.open.remove(&place) else {
            return;
        };
        one.is_asked |= is_asked(&self.question, one.here_ms, Some(at_ms));
        one.holding.until_ms = Some(at_ms);
        self.keep(one);
    }

    /// Nothing is known of what comes next: what is held is not said to end.
    fn leave_off(&mut self) {
        let (question, after_ms) = (self.question, self.after_ms);
        for (_, mut one) in std::mem::take(&mut self.open) {
            one.is_asked |= is_asked(&question, one.here_ms, Some(after_ms));
            self.keep(one);
        }
    }

    fn keep(&mut self, one: Open) {
        if one.is_asked && !self.answer.holdings.contains(&one.holding) {
            self.answer.holdings.push(one.holding);
        }
    }

    fn note(&mut self, scanned: &Scanned, number: u64, before_ms: Option<i64>, is_written: bool) {
        if scanned.reason == Some(Reason::ClockStep) && self.meets_step(scanned, before_ms) {
            self.tell_step(scanned.start_ms);
        }
        let notes = &mut self.answer.notes;
        let lost = scanned.lost.iter();
        notes.extend(lost.map(|&(at_ms, count)| Note::Lost { at_ms, count }));
        if let Some(version) = scanned.other_version {
            return notes.push(Note::OtherVersion {
                segment: number,
                version,
            });
        }
        // Of the one that is being written, half a frame may have been read.
        if scanned.damaged > 0 && !is_written {
            notes.push(Note::Damaged {
                segment: number,
                octets: scanned.damaged,
            });
        }
    }

    /// Whether the time is asked for that a step of the clock at the segment's beginning made ambiguous: what lies
    /// between the end of the one before it and its beginning.
    fn meets_step(&self, scanned: &Scanned, before_ms: Option<i64>) -> bool {
        let start_ms = scanned.start_ms;
        // How far the clock was set, nobody knows then: any time of the segment may have happened before.
        let before_ms = before_ms.unwrap_or(scanned.last_ms.max(start_ms));
        let low = start_ms.min(before_ms).saturating_sub(STEP_MS);
        let high = start_ms.max(before_ms).saturating_add(STEP_MS);
        low <= self.question.to_ms && self.question.from_ms <= high
    }

    fn answer(
        mut self,
        segments: &[SegmentName],
        ends: &[Option<i64>],
        is_written: bool,
    ) -> Answer {
        let (from_ms, to_ms) = (self.question.from_ms, self.question.to_ms);
        let Some(first) = segments.first() else {
            self.tell_gap(None, None);
            return self.answer;
        };
        let is_before = i64::MIN < from_ms && from_ms < first.start_ms;
        if is_before && !self.is_covered(from_ms, first.start_ms.min(to_ms)) {
            self.tell_gap(None, Some(first.start_ms));
        }
        let covered = self.covered.clone();
        for pair in covered.windows(2) {
            if pair[0].place + 1 == pair[1].place {
                let follows = end_before(segments, ends, pair[1].place).is_some();
                self.between(&pair[0], &pair[1], follows);
            }
        }
        self.tell_twice(segments, ends);
        // The last time of which is known what happened.
        let known_ms = |end: &Covered| match is_written {
            true => end.last_ms.saturating_add(WRITTEN_MS),
            false => end.last_ms,
        };
        if let Some(end) = covered.last().filter(|one| one.place + 1 == segments.len())
            && known_ms(end) < to_ms
            && !self.is_covered(end.last_ms.max(from_ms), to_ms)
        {
            self.tell_end(end, None);
            if end.end != Some(End::Stopped) {
                self.tell_gap(Some(end.last_ms), None);
            }
        }
        self.answer
    }

    /// What lies between a segment and the next, which follows it unless one is missing that had said more.
    fn between(&mut self, one: &Covered, next: &Covered, follows: bool) {
        let (from_ms, to_ms) = (self.question.from_ms, self.question.to_ms);
        let (low, high) = (one.last_ms.max(from_ms), next.start_ms.min(to_ms));
        // A single moment may be asked for: then both are the same.
        let is_gap = one.last_ms < next.start_ms && low <= high;
        let is_edge = from_ms == to_ms && (from_ms == one.last_ms || from_ms == next.start_ms);
        if !is_gap || is_edge || self.is_covered(low, high) {
            return;
        }
        if next.reason == Some(Reason::ClockStep) {
            return self.tell_step(next.start_ms);
        }
        // A rotation follows at once.
        self.tell_end(one, follows.then_some(next.start_ms));
        if one.end != Some(End::Stopped) || !follows {
            self.tell_gap(Some(one.last_ms), Some(next.start_ms));
        }
    }

    /// A segment that begins before the end of the one before it: that time happened twice.
    fn tell_twice(&mut self, segments: &[SegmentName], ends: &[Option<i64>]) {
        let (from_ms, to_ms) = (self.question.from_ms, self.question.to_ms);
        for (next, end_ms) in segments.iter().skip(1).zip(ends) {
            // One whose end nobody knows may have been written through all of it.
            let (again_ms, end_ms) = (next.start_ms, end_ms.unwrap_or(i64::MAX));
            let is_twice = end_ms.saturating_sub(again_ms) > OVERLAP_MS;
            if is_twice && again_ms <= to_ms && end_ms >= from_ms {
                self.tell_step(again_ms);
            }
        }
    }

    /// Whether one segment covers all of that time.
    fn is_covered(&self, from_ms: i64, to_ms: i64) -> bool {
        let mut all = self.covered.iter();
        all.any(|one| one.start_ms <= from_ms && to_ms <= one.last_ms)
    }

    fn tell_end(&mut self, one: &Covered, until_ms: Option<i64>) {
        let at_ms = one.last_ms;
        match one.end {
            Some(End::Stopped) => self.answer.notes.push(Note::Stopped { at_ms, until_ms }),
            Some(End::Crashed) => self.answer.notes.push(Note::Crashed { at_ms }),
            _ => {}
        }
    }

    fn tell_gap(&mut self, before_ms: Option<i64>, after_ms: Option<i64>) {
        self.answer.notes.push(Note::NotCovered {
            before_ms,
            after_ms,
        });
    }

    fn tell_step(&mut self, at_ms: i64) {
        let note = Note::ClockStep { at_ms };
        if !self.answer.notes.contains(&note) {
            self.answer.notes.push(note);
        }
    }
}

/// Whether any of that time was asked for; the end is not part of it.
fn is_asked(question: &Question, from_ms: i64, until_ms: Option<i64>) -> bool {
    from_ms <= question.to_ms && until_ms.is_none_or(|until_ms| until_ms > question.from_ms)
}
