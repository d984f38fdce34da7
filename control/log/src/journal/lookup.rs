//! Who had an address and port at a time: read from the segments that cover it, with gate64
//! running or not.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use super::frame::{Entry, FrameKind, Reason};
use super::segment::{self, Contents, End, SegmentName};
use super::store::lock_path;
use crate::record::{Block, BlockAction};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The pool address.
    pub v4: Ipv4Addr,
    /// The port; a block has it for all protocols.
    pub port: u16,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
}

/// Who had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// The block, with its subscriber.
    pub block: Block,
    /// Since when; `None` if the journal does not say.
    pub from_ms: Option<i64>,
    /// Until when, if the journal's segment says.
    pub until_ms: Option<i64>,
}

/// Something that bears on how far an answer can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "note", rename_all = "snake_case")]
pub enum Note {
    /// No record covers that time: what is said is from before and after.
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
        /// How many.
        octets: u64,
    },
}

/// What the journal says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Who had it; more than one only where the wall clock was set back.
    pub holdings: Vec<Holding>,
    /// What to know about the answer.
    pub notes: Vec<Note>,
}

/// Looks it up in the journal of that directory.
///
/// # Errors
/// The directory or a segment cannot be read.
pub fn lookup(directory: &Path, question: &Question) -> io::Result<Answer> {
    match look(directory, question) {
        // A segment was closed, and so renamed, between the listing and the reading.
        Err(error) if error.kind() == io::ErrorKind::NotFound => look(directory, question),
        done => done,
    }
}

fn look(directory: &Path, question: &Question) -> io::Result<Answer> {
    let segments = segment::list(directory)?;
    let mut answer = Answer::default();
    let mut is_covered = false;
    for (place, name) in segments.iter().enumerate() {
        let ends_before = name.end_ms.is_some_and(|end| end < question.at_ms);
        if name.start_ms > question.at_ms || ends_before {
            continue;
        }
        let seen = Seen::read(&name.path(directory), question)?;
        let is_written = name.end_ms.is_none() && is_last_written(directory, &segments, place);
        is_covered |= is_written || question.at_ms <= seen.last_ms;
        seen.answer_into(&mut answer, question, is_written);
    }
    if !is_covered {
        between(directory, &segments, question, &mut answer)?;
    }
    Ok(answer)
}

/// Whether a process writes that segment now.
fn is_last_written(directory: &Path, segments: &[SegmentName], place: usize) -> bool {
    let Ok(file) = std::fs::File::open(lock_path(directory)) else {
        return false;
    };
    let is_held = Flock::lock(file, FlockArg::LockSharedNonblock).is_err();
    is_held && place + 1 == segments.len()
}

/// No segment covers the time: what the last one before and the first one after say.
fn between(
    directory: &Path,
    segments: &[SegmentName],
    question: &Question,
    answer: &mut Answer,
) -> io::Result<()> {
    let before = segments.iter().rfind(|one| one.start_ms <= question.at_ms);
    let after = segments.iter().find(|one| one.start_ms > question.at_ms);
    let mut before_ms = None;
    if let Some(name) = before {
        let seen = Seen::read(&name.path(directory), question)?;
        before_ms = Some(seen.last_ms);
        if seen.end == Some(End::Stopped) {
            answer.notes.push(Note::Stopped {
                at_ms: seen.last_ms,
            });
            return Ok(());
        }
        if name.end_ms.is_some() {
            seen.answer_into(answer, question, false);
        }
    }
    if let Some(name) = after {
        let seen = Seen::read(&name.path(directory), question)?;
        let known = seen.holding.filter(|_| seen.reason != Some(Reason::Start));
        if let Some(holding) = known
            && !answer.holdings.iter().any(|one| one.block == holding.block)
        {
            answer.holdings.push(holding);
        }
    }
    answer.notes.push(Note::NotCovered {
        before_ms,
        after_ms: after.map(|one| one.start_ms),
    });
    Ok(())
}

/// What one segment says about the question.
#[derive(Debug)]
struct Seen {
    holding: Option<Holding>,
    /// Whether anything up to the time asked for spoke of that port.
    is_known: bool,
    /// Whether what holds after the time asked for need not be looked at any more.
    is_settled: bool,
    reason: Option<Reason>,
    end: Option<End>,
    start_ms: i64,
    last_ms: i64,
    lost: Vec<Note>,
    damaged: u64,
}

impl Seen {
    fn read(path: &Path, question: &Question) -> io::Result<Seen> {
        let contents = Contents::read(path)?;
        let mut seen = Seen {
            holding: None,
            is_known: false,
            is_settled: false,
            reason: None,
            end: None,
            start_ms: i64::MAX,
            last_ms: i64::MIN,
            lost: Vec::new(),
            damaged: 0,
        };
        let mut frames = contents.frames();
        let mut in_snapshot = false;
        for found in frames.by_ref() {
            let header = found.header;
            seen.start_ms = seen.start_ms.min(header.base_ms);
            seen.last_ms = seen.last_ms.max(header.base_ms);
            seen.reason = seen.reason.or(found.reason());
            seen.end = seen.end.or(found.end());
            let is_snapshot = header.kind == FrameKind::Snapshot;
            if is_snapshot && !in_snapshot && header.base_ms <= question.at_ms {
                // All that is held follows: whoever is not in it has nothing.
                seen.holding = None;
                seen.is_known = true;
            }
            in_snapshot = is_snapshot;
            for entry in found.entries() {
                match is_snapshot {
                    true => seen.take_held(&entry, header.base_ms, question),
                    false => seen.take(&entry, question),
                }
            }
        }
        seen.damaged = frames.damaged() as u64;
        Ok(seen)
    }

    /// A block that was held at the time of the snapshot.
    fn take_held(&mut self, entry: &Entry, snapshot_ms: i64, question: &Question) {
        let Entry::Block(_, since_ms, block) = entry else {
            return;
        };
        if self.is_settled || !block.holds(question.v4, question.port) {
            return;
        }
        if snapshot_ms > question.at_ms {
            // The first word about that port comes after the time asked for.
            self.is_settled = true;
            if self.is_known || *since_ms > question.at_ms {
                return;
            }
        }
        self.holding = Some(Holding {
            block: *block,
            from_ms: Some(*since_ms),
            until_ms: None,
        });
    }

    fn take(&mut self, entry: &Entry, question: &Question) {
        self.last_ms = self.last_ms.max(entry.at_ms());
        let (action, at_ms, block) = match entry {
            Entry::Lost(at_ms, count) => {
                return self.lost.push(Note::Lost {
                    at_ms: *at_ms,
                    count: *count,
                });
            }
            Entry::Block(action, at_ms, block) => (*action, *at_ms, block),
        };
        if self.is_settled || !block.holds(question.v4, question.port) {
            return;
        }
        if at_ms > question.at_ms {
            return self.take_later(action, at_ms, block);
        }
        self.is_known = true;
        self.holding = match action {
            BlockAction::Released => None,
            BlockAction::Allocated => Some(Holding {
                block: *block,
                from_ms: Some(at_ms),
                until_ms: None,
            }),
            BlockAction::Live => Some(Holding {
                block: *block,
                from_ms: None,
                until_ms: None,
            }),
        };
    }

    /// The first word about the port after the time asked for: until when it was held, and, if
    /// nothing was known before, by whom.
    fn take_later(&mut self, action: BlockAction, at_ms: i64, block: &Block) {
        self.is_settled = true;
        match &mut self.holding {
            Some(holding) => holding.until_ms = Some(at_ms),
            None if !self.is_known && action == BlockAction::Released => {
                self.holding = Some(Holding {
                    block: *block,
                    from_ms: None,
                    until_ms: Some(at_ms),
                });
            }
            None => {}
        }
    }

    fn answer_into(self, answer: &mut Answer, question: &Question, is_written: bool) {
        if let Some(holding) = self.holding
            && !answer.holdings.contains(&holding)
        {
            answer.holdings.push(holding);
        }
        if self.reason == Some(Reason::ClockStep) {
            answer.notes.push(Note::ClockStep {
                at_ms: self.start_ms,
            });
        }
        answer.notes.extend(self.lost);
        if self.damaged > 0 && !is_written {
            answer.notes.push(Note::Damaged {
                octets: self.damaged,
            });
        }
        let is_over = question.at_ms > self.last_ms && !is_written;
        if is_over && self.end != Some(End::Continued) {
            answer.notes.push(Note::Crashed {
                at_ms: self.last_ms,
            });
        }
    }
}
