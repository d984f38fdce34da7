//! What one segment says about a subject: the blocks that were held when it began, and what
//! happened to them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::{collections::HashSet, io};

use super::frame::{Entry, FrameKind, Reason};
use super::segment::{Contents, End};
use crate::record::{Block, BlockAction, Prefix6};

/// Whom or what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A pool address and a port of it; a block has it for all protocols.
    Mapped(Ipv4Addr, u16),
    /// All subscribers of an IPv6 prefix, or the one that it lies in.
    Subscriber(Prefix6),
}

impl Subject {
    /// Whether the block is about it.
    pub fn is_met_by(&self, block: &Block) -> bool {
        match self {
            Subject::Mapped(v4, port) => block.holds(*v4, *port),
            Subject::Subscriber(prefix) => overlap(prefix, &block.subscriber),
        }
    }
}

fn overlap(a: &Prefix6, b: &Prefix6) -> bool {
    let shared = u32::from(a.length.min(b.length)).min(128);
    let differ = u128::from(a.ip) ^ u128::from(b.ip);
    differ.leading_zeros() >= shared
}

/// Something that a segment says, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// These blocks were held at that time, each since when; no others of the subject.
    Held(i64, Vec<(Block, i64)>),
    /// That happened to a block, then.
    Happened(BlockAction, i64, Block),
    /// Somebody else got a block that the subject had, then.
    Taken(i64, Block),
}

/// What a segment says about the subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Why it began.
    pub reason: Option<Reason>,
    /// Why it ended.
    pub end: Option<End>,
    /// The first time that it speaks of; `i64::MAX` if it speaks of none.
    pub start_ms: i64,
    /// The last time; `i64::MIN` if it speaks of none.
    pub last_ms: i64,
    /// What it says.
    pub said: Vec<Said>,
    /// When events were found to be lost, and how many.
    pub lost: Vec<(i64, u64)>,
    /// Octets that belong to no whole frame.
    pub damaged: u64,
    /// The version of its format, if that is one that cannot be read here.
    pub other_version: Option<u8>,
    /// Where the subject had blocks, so that it is seen when others get them.
    places: HashSet<(Ipv4Addr, u16)>,
}

/// Reads a segment.
///
/// # Errors
/// The file cannot be read.
pub(super) fn scan(path: &Path, subject: &Subject) -> io::Result<Scanned> {
    let contents = Contents::read(path)?;
    let mut scanned = Scanned {
        reason: None,
        end: None,
        start_ms: i64::MAX,
        last_ms: i64::MIN,
        said: Vec::new(),
        lost: Vec::new(),
        damaged: 0,
        other_version: contents.other_version(),
        places: HashSet::new(),
    };
    let mut frames = contents.frames();
    let mut in_snapshot = false;
    for found in frames.by_ref() {
        let base_ms = found.header.base_ms;
        scanned.start_ms = scanned.start_ms.min(base_ms);
        scanned.last_ms = scanned.last_ms.max(base_ms);
        scanned.reason = scanned.reason.or(found.reason());
        scanned.end = scanned.end.or(found.end());
        let is_snapshot = found.header.kind == FrameKind::Snapshot;
        if is_snapshot && !in_snapshot {
            scanned.said.push(Said::Held(base_ms, Vec::new()));
        }
        in_snapshot = is_snapshot;
        for entry in found.entries() {
            match is_snapshot {
                true => scanned.take_held(&entry, subject),
                false => scanned.take(&entry, subject),
            }
        }
    }
    scanned.damaged = frames.damaged() as u64;
    Ok(scanned)
}

impl Scanned {
    fn take_held(&mut self, entry: &Entry, subject: &Subject) {
        if let Entry::Block(_, since_ms, block) = entry
            && subject.is_met_by(block)
            && let Some(Said::Held(_, held)) = self.said.last_mut()
        {
            held.push((*block, *since_ms));
            self.places.insert((block.v4, block.port_first));
        }
    }

    fn take(&mut self, entry: &Entry, subject: &Subject) {
        self.last_ms = self.last_ms.max(entry.at_ms());
        let (action, at_ms, block) = match entry {
            Entry::Lost(at_ms, count) => return self.lost.push((*at_ms, *count)),
            Entry::Block(action, at_ms, block) => (*action, *at_ms, *block),
        };
        if subject.is_met_by(&block) {
            self.places.insert((block.v4, block.port_first));
            self.said.push(Said::Happened(action, at_ms, block));
        } else if !self.places.is_empty()
            && action != BlockAction::Released
            && self.places.contains(&(block.v4, block.port_first))
        {
            self.said.push(Said::Taken(at_ms, block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_meets_what_lies_in_it_and_what_it_lies_in() {
        let prefix = |ip: &str, length| Prefix6 {
            ip: ip.parse().unwrap(),
            length,
        };
        let wide = prefix("2001:db8:1::", 48);
        let narrow = prefix("2001:db8:1:7::", 64);
        assert!(overlap(&wide, &narrow) && overlap(&narrow, &wide));
        assert!(overlap(&prefix("2001:db8:1:7::1", 128), &narrow));
        assert!(!overlap(&prefix("2001:db8:1:8::1", 128), &narrow));
        assert!(overlap(&prefix("::", 0), &narrow));
    }
}
