//! Segments: the files of a journal, found by name and read frame by frame.
//!
//! A name says the segment's number and the wall-clock time it covers, so that a look-up opens only
//! what it needs: `00000012_2026-11-02T000000.000Z_2026-11-02T061503.250Z.g64j`; the one that is
//! being written has no end yet.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::frame::{self, Decoder, FrameKind, Header, Reason};
use crate::clock::rfc3339;

const EXTENSION: &str = "g64j";

/// Why a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The next one goes on with the same blocks.
    Continued,
    /// gate64 ended in good order.
    Stopped,
    /// gate64 was killed or crashed; found when it started again.
    Crashed,
}

impl End {
    /// The octet in a seal.
    pub fn number(self) -> u8 {
        match self {
            End::Continued => 0,
            End::Stopped => 1,
            End::Crashed => 2,
        }
    }

    fn of(number: u8) -> Option<End> {
        [End::Continued, End::Stopped, End::Crashed]
            .into_iter()
            .find(|one| one.number() == number)
    }
}

/// A segment as its name tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentName {
    /// Grows by one with each.
    pub number: u64,
    /// When it begins, in milliseconds since 1970.
    pub start_ms: i64,
    /// When it ends; `None` while it is written, or after a crash.
    pub end_ms: Option<i64>,
}

impl SegmentName {
    /// The file's name.
    pub fn file_name(&self) -> String {
        let start = compact(self.start_ms);
        match self.end_ms {
            Some(end_ms) => format!("{:08}_{start}_{}.{EXTENSION}", self.number, compact(end_ms)),
            None => format!("{:08}_{start}.{EXTENSION}", self.number),
        }
    }

    /// Reads a file's name; `None` for any other file.
    pub fn parse(name: &str) -> Option<SegmentName> {
        let stem = name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
        let mut parts = stem.split('_');
        // The last number of all has none behind it.
        let number = parts.next()?.parse().ok().filter(|one| *one < u64::MAX)?;
        let start_ms = parse_compact(parts.next()?)?;
        let end_ms = parts.next().map(parse_compact);
        if parts.next().is_some() || end_ms == Some(None) {
            return None;
        }
        Some(SegmentName {
            number,
            start_ms,
            end_ms: end_ms.flatten(),
        })
    }

    /// Its file in that directory.
    pub fn path(&self, directory: &Path) -> PathBuf {
        directory.join(self.file_name())
    }

    /// The last time that its octets speak of.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read_end(&self, directory: &Path) -> io::Result<ReadEnd> {
        let path = self.path(directory);
        let contents = Contents::read(&path).map_err(|error| naming(&path, &error))?;
        let mut frames = contents.frames();
        let (mut last_ms, mut is_read, mut is_sealed) = (self.start_ms, false, false);
        for found in frames.by_ref() {
            last_ms = last_ms.max(found.last_ms());
            is_read = true;
            is_sealed |= found.header.kind == FrameKind::Seal;
        }
        Ok(ReadEnd {
            last_ms,
            is_sure: is_sealed || (is_read && frames.damaged() == 0),
        })
    }
}

/// Where a segment ends, by its octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadEnd {
    /// The last time that they speak of, in milliseconds since 1970; its beginning if none can be read.
    pub last_ms: i64,
    /// Whether it cannot have been later: nothing of it is damaged or of another version.
    pub is_sure: bool,
}

/// RFC 3339 without what file names had better not have.
fn compact(ms: i64) -> String {
    rfc3339(ms).replace(':', "")
}

fn parse_compact(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let (hour, rest) = time.split_at_checked(2)?;
    let (minute, second) = rest.split_at_checked(2)?;
    let at = humantime::parse_rfc3339(&format!("{date}T{hour}:{minute}:{second}")).ok()?;
    i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// The segments of a directory, in their order.
///
/// # Errors
/// The directory cannot be read.
pub fn list(directory: &Path) -> io::Result<Vec<SegmentName>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(SegmentName::parse));
    }
    found.sort_by_key(|segment| segment.number);
    Ok(found)
}

/// When each of them ends, in milliseconds since 1970. One that another follows and whose name does not say it
/// (it could not be closed, or was left as it is) ends with what its octets say; `None` for the last, and for one
/// of which not all can be read where the clock was set back behind it: how long it was written, nobody knows.
///
/// # Errors
/// A file cannot be read.
pub fn ends(directory: &Path, segments: &[SegmentName]) -> io::Result<Vec<Option<i64>>> {
    let of = |(place, name): (usize, &SegmentName)| match name.end_ms {
        None if place + 1 < segments.len() => {
            let end = name.read_end(directory)?;
            let mut later = segments[place + 1..].iter();
            let is_set_back = later.any(|one| one.start_ms <= end.last_ms);
            Ok((end.is_sure || !is_set_back).then_some(end.last_ms))
        }
        end_ms => Ok(end_ms),
    };
    segments.iter().enumerate().map(of).collect()
}

/// A segment's octets, whole.
#[derive(Debug)]
pub struct Contents {
    bytes: Vec<u8>,
}

/// One frame of a segment.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Its header.
    pub header: Header,
    payload: &'a [u8],
    /// Where the next frame stands.
    pub next: usize,
}

impl<'a> Found<'a> {
    /// Its entries.
    pub fn entries(&self) -> Decoder<'a> {
        Decoder::new(&self.header, self.payload)
    }

    /// Why the segment began, if this is its head.
    pub fn reason(&self) -> Option<Reason> {
        match self.header.kind {
            FrameKind::Head => Reason::of(*self.payload.first()?),
            _ => None,
        }
    }

    /// Why the segment ended, if this is its seal.
    pub fn end(&self) -> Option<End> {
        match self.header.kind {
            FrameKind::Seal => End::of(*self.payload.first()?),
            _ => None,
        }
    }

    /// The latest time that it speaks of, in milliseconds since 1970.
    pub fn last_ms(&self) -> i64 {
        let base = self.header.base_ms;
        match self.header.kind {
            // What was held then began long before.
            FrameKind::Snapshot => base,
            _ => self
                .entries()
                .map(|entry| entry.at_ms())
                .fold(base, i64::max),
        }
    }
}

impl Contents {
    /// Reads a segment.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path) -> io::Result<Contents> {
        let bytes = std::fs::read(path)?;
        Ok(Contents { bytes })
    }

    /// Octets of the file.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The version of its format, if that is another and nothing of it can be read.
    pub fn other_version(&self) -> Option<u8> {
        let version = frame::other_version(&self.bytes)?;
        self.frames().next().is_none().then_some(version)
    }

    /// The number behind the last record that it shows; `None` if it shows none.
    pub fn next_sequence(&self) -> Option<u64> {
        let behind = |found: Found<'_>| match found.header.kind {
            FrameKind::Events => Some(
                found
                    .header
                    .sequence
                    .saturating_add(u64::from(found.header.records)),
            ),
            FrameKind::Head => Some(found.header.sequence),
            // What is held has no numbers of its own, and the end has none.
            FrameKind::Snapshot | FrameKind::Seal => None,
        };
        self.frames()
            .filter_map(behind)
            .max()
            .filter(|one| *one > 0)
    }

    /// Its frames; damaged octets between them are stepped over.
    pub fn frames(&self) -> Frames<'_> {
        Frames {
            bytes: &self.bytes,
            at: 0,
            damaged: 0,
        }
    }
}

/// Walks over the frames of a segment.
#[derive(Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    damaged: usize,
}

impl Frames<'_> {
    /// Octets so far that belong to no whole frame.
    pub fn damaged(&self) -> usize {
        self.damaged
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        while self.at < self.bytes.len() {
            if let Some((header, payload)) = frame::read(&self.bytes[self.at..]) {
                self.at += frame::HEADER_LEN + header.payload_len;
                return Some(Found {
                    header,
                    payload,
                    next: self.at,
                });
            }
            self.at += 1;
            self.damaged += 1;
        }
        None
    }
}

/// An error that says about what.
pub fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes the directory's entries durable.
///
/// # Errors
/// As the kernel says.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_number_and_time() {
        let mut name = SegmentName {
            number: 12,
            start_ms: 1_793_577_600_250,
            end_ms: None,
        };
        assert_eq!(name.file_name(), "00000012_2026-11-02T000000.250Z.g64j");
        assert_eq!(SegmentName::parse(&name.file_name()), Some(name.clone()));
        name.end_ms = Some(1_793_600_103_001);
        assert_eq!(SegmentName::parse(&name.file_name()), Some(name));
        for other in [
            "lock",
            "1.g64j",
            "00000001_x.g64j",
            "1_2_3_4.g64j",
            ".g64j",
            "18446744073709551615_2026-11-02T000000.250Z.g64j",
        ] {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }
}
