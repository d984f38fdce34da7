//! The directory of a journal: one segment at its end is written, the others are only read and,
//! when they are old enough, deleted.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::frame::{self, Encoder, Entry, FrameKind, Reason};
use super::ledger::Ledger;
use super::segment::{self, Contents, End, SegmentName};
use crate::config::JournalConfig;

/// Octets from which a segment is followed by the next: what one look-up reads.
const SEGMENT_OCTETS: u64 = 32 << 20;

/// A segment is at least so many times as long as the snapshot it begins with.
const SNAPSHOTS_PER_SEGMENT: u64 = 8;

/// A segment covers at most this much time, so that retention is kept to the day.
const SEGMENT_MS: i64 = 24 * 3600 * 1000;

/// Without events a segment still shows this often that somebody writes it.
pub(super) const SIGN_OF_LIFE_MS: i64 = 60_000;

/// Nothing is deleted until the wall clock has run evenly for so long: one that was set wrong
/// must not delete a year.
const CLOCK_TRUSTED_AFTER: Duration = Duration::from_secs(3600);

/// What was found of the process before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// It did not end in good order.
    pub crashed: bool,
    /// The last time that the journal speaks of, in milliseconds since 1970.
    pub last_ms: Option<i64>,
    /// Octets of a half-written frame that were cut off.
    pub octets_cut: u64,
    /// The sequence number after the last one written.
    pub next_sequence: u64,
    /// The last segment is of a format that cannot be read here, and is left as it is.
    pub other_version: Option<(PathBuf, u8)>,
    /// Nothing of the last segment can be read; it is left as it is.
    pub unreadable: Option<PathBuf>,
}

#[derive(Debug)]
struct Open {
    file: File,
    name: SegmentName,
    /// Octets of whole frames.
    length: u64,
    length_max: u64,
    last_ms: i64,
    is_durable: bool,
}

/// The journal's files, held by one process.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    retention: Duration,
    /// Held as long as this is.
    _lock: Flock<File>,
    open: Option<Open>,
    next_number: u64,
    next_reason: Reason,
    trusted_from: Instant,
    /// Numbers of old segments that cannot be read or deleted; each is told once.
    stuck: BTreeSet<u64>,
    /// Whether each write is on the disk before it counts; only a generator of test data does without.
    is_durable: bool,
}

/// The file that a writing process holds locked.
pub(super) fn lock_path(directory: &Path) -> PathBuf {
    directory.join("lock")
}

impl Store {
    /// Takes the directory and closes what a killed process left open.
    ///
    /// # Errors
    /// It cannot be made or written, or another process writes it.
    pub fn open(config: &JournalConfig) -> io::Result<(Store, Recovery)> {
        make_directory(&config.path)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock_path(&config.path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| lock_error(error))?;
        let segments = segment::list(&config.path)?;
        let mut recovery = recover(&config.path, segments.last())?;
        recovery.next_sequence = next_sequence(&config.path)?;
        let store = Store {
            directory: config.path.clone(),
            retention: config.retention,
            _lock: lock,
            open: None,
            next_number: segments.last().map_or(1, |last| last.number + 1),
            next_reason: Reason::Start,
            trusted_from: Instant::now() + CLOCK_TRUSTED_AFTER,
            stuck: BTreeSet::new(),
            is_durable: true,
        };
        Ok((store, recovery))
    }

    /// Writes what waits and makes it durable; begins and ends segments as needed. Nothing is
    /// forgotten if it fails: it can be tried again.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn write(&mut self, ledger: &mut Ledger, now_ms: i64) -> io::Result<()> {
        if self.is_deleted() {
            self.abandon();
        }
        if self.open.is_none() {
            return self.begin(ledger, now_ms);
        }
        self.append(ledger, now_ms)?;
        if ledger.has_lost() {
            // The segment covers nothing after what is in it; a snapshot makes up for the rest.
            let last_ms = self.open.as_ref().map_or(now_ms, |open| open.last_ms);
            self.end(End::Continued, last_ms)?;
            self.next_reason = Reason::Failure;
            self.begin(ledger, now_ms)?;
        } else if self.is_full(now_ms) {
            self.end(End::Continued, now_ms)?;
            self.begin(ledger, now_ms)?;
        }
        Ok(())
    }

    /// Writes what waits into the segment that is open, or a sign of life if it is time for one.
    fn append(&mut self, ledger: &mut Ledger, now_ms: i64) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let (sequence, entries) = ledger.pending();
        let last_ms = entries
            .iter()
            .map(Entry::at_ms)
            .fold(open.last_ms, i64::max);
        if !entries.is_empty() {
            open.append(&event_frames(sequence, entries))?;
            open.last_ms = last_ms;
            ledger.written();
        } else if now_ms - open.last_ms >= SIGN_OF_LIFE_MS {
            let life = frame::frame(FrameKind::Events, 0, sequence, now_ms, &[]);
            open.append(&life)?;
            open.last_ms = now_ms;
        }
        Ok(())
    }

    /// Whether somebody deleted the segment that is being written.
    fn is_deleted(&self) -> bool {
        let metadata = self.open.as_ref().map(|open| open.file.metadata());
        metadata.is_some_and(|metadata| metadata.is_ok_and(|metadata| metadata.nlink() == 0))
    }

    fn is_full(&self, now_ms: i64) -> bool {
        self.open.as_ref().is_some_and(|open| {
            open.length >= open.length_max || now_ms - open.name.start_ms >= SEGMENT_MS
        })
    }

    /// Begins a segment: what waits, then everything that is held. The first one of a process
    /// begins with nothing held.
    fn begin(&mut self, ledger: &mut Ledger, now_ms: i64) -> io::Result<()> {
        let (sequence, pending) = ledger.pending();
        let start_ms = pending.iter().map(Entry::at_ms).fold(now_ms, i64::min);
        let reason = [self.next_reason.number()];
        let mut bytes = frame::frame(FrameKind::Head, 0, sequence, start_ms, &reason);
        bytes.extend(event_frames(sequence, pending));
        let lost = ledger.lost();
        if lost > 0 {
            bytes.extend(event_frames(sequence, &[Entry::Lost(now_ms, lost)]));
        }
        let snapshot_at = bytes.len();
        if self.next_reason != Reason::Start {
            bytes.extend(snapshot_frames(sequence, ledger, now_ms));
        }
        let name = SegmentName {
            number: self.next_number,
            start_ms,
            end_ms: None,
        };
        let mut open = self.create(name, &bytes, (bytes.len() - snapshot_at) as u64)?;
        open.last_ms = now_ms;
        self.open = Some(open);
        self.next_number += 1;
        self.next_reason = Reason::Rotation;
        ledger.written();
        ledger.forget_lost(lost);
        Ok(())
    }

    fn create(&self, name: SegmentName, bytes: &[u8], snapshot_len: u64) -> io::Result<Open> {
        make_directory(&self.directory)?;
        let path = name.path(&self.directory);
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&path)?;
        let mut open = Open {
            file,
            length: 0,
            length_max: SEGMENT_OCTETS.max(snapshot_len * SNAPSHOTS_PER_SEGMENT),
            last_ms: name.start_ms,
            name,
            is_durable: self.is_durable,
        };
        let written = open
            .append(bytes)
            .and_then(|()| segment::sync_directory(&self.directory));
        if let Err(error) = written {
            // Half a segment is of no use; if it stays, the next try writes over it.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(open)
    }

    /// Ends the segment that is being written, if there is one.
    ///
    /// # Errors
    /// As the kernel says; it is not ended then.
    pub fn end(&mut self, end: End, end_ms: i64) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let end_ms = end_ms.max(open.name.start_ms);
        let seal = frame::frame(FrameKind::Seal, 0, 0, end_ms, &[end.number()]);
        open.append(&seal)?;
        close(&self.directory, &open.name, end_ms)?;
        self.open = None;
        Ok(())
    }

    /// The wall clock was set: what was written before it and what comes after are two segments.
    ///
    /// # Errors
    /// As the kernel says; what waited is counted as lost then.
    pub fn step(&mut self, ledger: &mut Ledger, from_ms: i64, to_ms: i64) -> io::Result<()> {
        self.trusted_from = Instant::now() + CLOCK_TRUSTED_AFTER;
        let written = self
            .write(ledger, from_ms)
            .and_then(|()| self.end(End::Continued, from_ms));
        if written.is_err() {
            ledger.give_up();
            self.open = None;
        }
        self.next_reason = Reason::ClockStep;
        self.begin(ledger, to_ms)?;
        written
    }

    /// Forgets the segment that cannot be written any more; the next write begins another.
    pub fn abandon(&mut self) {
        if self.open.take().is_some() {
            self.next_reason = Reason::Failure;
        }
    }

    /// Deletes what is older than the retention time; answers how many segments that were. One that cannot be
    /// read or deleted stays, and is told once: it must not hinder what is written.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn delete_old(&mut self, now_ms: i64, now: Instant) -> io::Result<usize> {
        if now < self.trusted_from {
            return Ok(0);
        }
        let age = i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX);
        let before = now_ms.saturating_sub(age);
        let mut count = 0;
        let segments = segment::list(&self.directory)?;
        for (place, name) in segments.iter().enumerate() {
            match self.delete_if_old(name, segments.get(place + 1), before) {
                Ok(is_deleted) => count += usize::from(is_deleted),
                Err(error) => {
                    if self.stuck.insert(name.number) {
                        tell_stuck(&name.path(&self.directory), &error);
                    }
                }
            }
        }
        Ok(count)
    }

    fn delete_if_old(
        &self,
        name: &SegmentName,
        next: Option<&SegmentName>,
        before: i64,
    ) -> io::Result<bool> {
        let is_old = match (name.end_ms, next) {
            (Some(end_ms), _) => end_ms < before,
            // One without an end in its name ends where the next begins; later only if the clock was
            // set back there.
            (None, Some(next)) => {
                next.start_ms < before && name.read_end(&self.directory)?.last_ms < before
            }
            (None, None) => false,
        };
        if is_old {
            std::fs::remove_file(name.path(&self.directory))?;
        }
        Ok(is_old)
    }

    /// Lets writes count before they are on the disk.
    #[cfg(test)]
    pub fn set_durable(&mut self, is_durable: bool) {
        self.is_durable = is_durable;
    }

    /// Changes the retention time.
    pub fn set_retention(&mut self, retention: Duration) {
        self.retention = retention;
    }
}

impl Open {
    /// Adds whole frames and makes them durable; on failure cuts the file back to what was whole.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(bytes);
        let durable = match self.is_durable {
            true => written.and_then(|()| self.file.sync_data()),
            false => written,
        };
        match durable {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // A reader steps over what cannot be cut off.
                let _ = self.file.set_len(self.length);
                let _ = self.file.seek(io::SeekFrom::Start(self.length));
                Err(error)
            }
        }
    }
}

/// Who used what is nobody's business but the operator's: others cannot look into it.
fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
}

fn lock_error(error: Errno) -> io::Error {
    match error {
        Errno::EWOULDBLOCK => {
            io::Error::new(io::ErrorKind::ResourceBusy, "another process writes it")
        }
        error => error.into(),
    }
}

/// Renames a sealed segment, so that its name says what it covers.
fn close(directory: &Path, name: &SegmentName, end_ms: i64) -> io::Result<()> {
    let closed = SegmentName {
        end_ms: Some(end_ms),
        ..name.clone()
    };
    std::fs::rename(name.path(directory), closed.path(directory))?;
    segment::sync_directory(directory)
}

/// Closes the last segment if a killed process left it open.
fn recover(directory: &Path, last: Option<&SegmentName>) -> io::Result<Recovery> {
    let mut recovery = Recovery {
        crashed: false,
        last_ms: None,
        octets_cut: 0,
        next_sequence: 0,
        other_version: None,
        unreadable: None,
    };
    let Some(name) = last else {
        return Ok(recovery);
    };
    let path = name.path(directory);
    let contents = Contents::read(&path).map_err(|error| segment::naming(&path, &error))?;
    let (mut last_ms, mut whole, mut is_sealed) = (name.start_ms, 0, false);
    for found in contents.frames() {
        last_ms = last_ms.max(found.last_ms());
        whole = found.next as u64;
        is_sealed |= found.header.kind == FrameKind::Seal;
    }
    recovery.last_ms = Some(last_ms);
    if name.end_ms.is_some() {
        return Ok(recovery);
    }
    if let Some(version) = contents.other_version() {
        // It is that gate64's; the next segment begins beside it.
        recovery.other_version = Some((path, version));
        return Ok(recovery);
    }
    // A seal without its name: killed between the two.
    recovery.crashed = !is_sealed;
    if whole == 0 && contents.len() > 0 {
        // Not one frame can be read: whatever it is, nothing of it is thrown away.
        recovery.unreadable = Some(path);
        return Ok(recovery);
    }
    recovery.octets_cut = contents.len() as u64 - whole;
    let mut file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(whole)?;
    if !is_sealed {
        let seal = frame::frame(FrameKind::Seal, 0, 0, last_ms, &[End::Crashed.number()]);
        file.seek(io::SeekFrom::End(0))?;
        file.write_all(&seal)?;
    }
    file.sync_data()?;
    close(directory, name, last_ms)?;
    Ok(recovery)
}

fn tell_stuck(path: &Path, error: &io::Error) {
    tracing::warn!(
        "the old journal segment {} cannot be read or deleted: {error}; the journal goes on without it: repair or move it away",
        path.display()
    );
}

/// The number behind the last record that the journal shows: of the last segments perhaps nothing can be read.
fn next_sequence(directory: &Path) -> io::Result<u64> {
    for name in segment::list(directory)?.iter().rev() {
        let path = name.path(directory);
        match Contents::read(&path).map(|contents| contents.next_sequence()) {
            Ok(Some(next)) => return Ok(next),
            Ok(None) => {}
            Err(error) => tell_stuck(&path, &error),
        }
    }
    Ok(0)
}

fn event_frames(sequence: u64, entries: &[Entry]) -> Vec<u8> {
    let base_ms = entries.first().map_or(0, Entry::at_ms);
    frames(
        FrameKind::Events,
        sequence,
        entries.iter().copied(),
        base_ms,
    )
}

/// At least one frame, so that a reader knows that nobody else had a block.
fn snapshot_frames(sequence: u64, ledger: &Ledger, now_ms: i64) -> Vec<u8> {
    let all = frames(FrameKind::Snapshot, sequence, ledger.snapshot(), now_ms);
    match all.is_empty() {
        true => frame::frame(FrameKind::Snapshot, 0, sequence, now_ms, &[]),
        false => all,
    }
}

/// As many frames as the entries need; none for none.
fn frames(
    kind: FrameKind,
    mut sequence: u64,
    entries: impl Iterator<Item = Entry>,
    base_ms: i64,
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(base_ms);
    for entry in entries {
        if !encoder.has_room() {
            let records = u64::from(encoder.records());
            out.extend(encoder.finish(kind, sequence, base_ms));
            sequence += records;
        }
        encoder.push(&entry);
    }
    if encoder.records() > 0 {
        out.extend(encoder.finish(kind, sequence, base_ms));
    }
    out
}
