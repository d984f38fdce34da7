//! Frames: what one write puts at the end of a segment. Each stands alone, with its own checksum
//! and base time, so that a damaged one costs its own records and no others.
//!
//! A frame is a header of [`HEADER_LEN`] octets, all numbers little-endian, and a payload:
//!
//! ```text
//! magic u16 | version u8 | kind u8 | payload length u32 | records u32 | CRC-32 u32 | sequence u64 | base time i64
//! ```
//!
//! The checksum covers header (itself as zero) and payload. A record is a tag octet, the time as
//! a zigzag varint of milliseconds since the record before (the base for the first), and the
//! block: what it shares with the record before is left out, and the tag says so.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::record::{Block, BlockAction, Prefix6};

/// Octets of a frame's header.
pub const HEADER_LEN: usize = 32;

/// The most octets of a payload: what one allocation of a reader may be made to take.
pub const PAYLOAD_MAX: usize = 1 << 20;

const MAGIC: u16 = 0x6764;
/// Of the format: another changes it.
pub const VERSION: u8 = 1;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// The beginning of a segment; its payload is one octet, the [`Reason`].
    Head,
    /// Blocks that were held when the segment began, each with the time of its allocation.
    Snapshot,
    /// What happened; without records a sign of life.
    Events,
    /// The end of a segment.
    Seal,
}

impl FrameKind {
    const ALL: [FrameKind; 4] = [
        FrameKind::Head,
        FrameKind::Snapshot,
        FrameKind::Events,
        FrameKind::Seal,
    ];

    fn number(self) -> u8 {
        match self {
            FrameKind::Head => 0,
            FrameKind::Snapshot => 1,
            FrameKind::Events => 2,
            FrameKind::Seal => 3,
        }
    }
}

/// Why a segment began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// gate64 started.
    Start,
    /// The one before was full or a day old.
    Rotation,
    /// The wall clock was set.
    ClockStep,
    /// The one before could not be written any more.
    Failure,
}

impl Reason {
    const ALL: [Reason; 4] = [
        Reason::Start,
        Reason::Rotation,
        Reason::ClockStep,
        Reason::Failure,
    ];

    /// The octet in a head frame.
    pub fn number(self) -> u8 {
        match self {
            Reason::Start => 0,
            Reason::Rotation => 1,
            Reason::ClockStep => 2,
            Reason::Failure => 3,
        }
    }

    /// From the octet in a head frame.
    pub fn of(number: u8) -> Option<Reason> {
        Reason::ALL.into_iter().find(|one| one.number() == number)
    }
}

/// What a journal keeps of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A block, and when, in milliseconds since 1970.
    Block(BlockAction, i64, Block),
    /// So many events did not reach the journal before that time.
    Lost(i64, u64),
}

impl Entry {
    /// When it happened.
    pub fn at_ms(&self) -> i64 {
        match self {
            Entry::Block(_, at_ms, _) | Entry::Lost(at_ms, _) => *at_ms,
        }
    }
}

/// A frame's header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it holds.
    pub kind: FrameKind,
    /// Octets behind the header.
    pub payload_len: usize,
    /// Number of its records.
    pub records: u32,
    /// Sequence number of its first record.
    pub sequence: u64,
    /// Time that its first record counts from.
    pub base_ms: i64,
}

/// The octets of a frame.
pub fn frame(
    kind: FrameKind,
    records: u32,
    sequence: u64,
    base_ms: i64,
    payload: &[u8],
) -> Vec<u8> {
    assert!(payload.len() <= PAYLOAD_MAX);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
    out.extend(MAGIC.to_le_bytes());
    out.extend([VERSION, kind.number()]);
    out.extend(length.to_le_bytes());
    out.extend(records.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    out.extend(sequence.to_le_bytes());
    out.extend(base_ms.to_le_bytes());
    out.extend(payload);
    let checksum = crc32fast::hash(&out);
    out[12..16].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// The frame at the beginning of `bytes`, if a whole and undamaged one stands there.
pub fn read(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let head: &[u8; HEADER_LEN] = bytes.first_chunk()?;
    let kind = FrameKind::ALL
        .into_iter()
        .find(|one| one.number() == head[3])?;
    if head[..2] != MAGIC.to_le_bytes() || head[2] != VERSION {
        return None;
    }
    let payload_len = usize::try_from(u32_at(head, 4)).ok()?;
    if payload_len > PAYLOAD_MAX {
        return None;
    }
    let payload = bytes.get(HEADER_LEN..HEADER_LEN + payload_len)?;
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head[..12]);
    sum.update(&[0; 4]);
    sum.update(&head[16..]);
    sum.update(payload);
    if sum.finalize() != u32_at(head, 12) {
        return None;
    }
    let header = Header {
        kind,
        payload_len,
        records: u32_at(head, 8),
        sequence: u64_at(head, 16),
        base_ms: i64::from_le_bytes(u64_at(head, 24).to_le_bytes()),
    };
    Some((header, payload))
}

/// The version of what begins like a frame, if it is not the one that is read here.
pub fn other_version(bytes: &[u8]) -> Option<u8> {
    let (magic, rest) = bytes.split_first_chunk::<2>()?;
    let version = rest.first().copied()?;
    (*magic == MAGIC.to_le_bytes() && version != VERSION).then_some(version)
}

fn u32_at(head: &[u8; HEADER_LEN], at: usize) -> u32 {
    let mut octets = [0; 4];
    octets.copy_from_slice(&head[at..at + 4]);
    u32::from_le_bytes(octets)
}

fn u64_at(head: &[u8; HEADER_LEN], at: usize) -> u64 {
    let mut octets = [0; 8];
    octets.copy_from_slice(&head[at..at + 8]);
    u64::from_le_bytes(octets)
}

/// Bits 0 and 1 of the tag: which entry.
const TAG_ENTRY: u8 = 0b11;
const TAG_LOST: u8 = 3;
/// Bit 2: the address is that of the record before.
const SAME_V4: u8 = 1 << 2;
/// Bit 3: number of ports and prefix length are those of the record before.
const SAME_SIZES: u8 = 1 << 3;
/// Bit 4: the first four octets of the subscriber are those of the record before.
const SAME_HEAD: u8 = 1 << 4;

/// The most octets of an entry: tag, two varints, address, ports, length, subscriber.
pub const ENTRY_MAX: usize = 1 + 10 + 10 + 4 + 4 + 1 + 16;

/// What the record before was: where both ends of the coding stand.
#[derive(Debug, Clone, Copy)]
struct Before {
    at_ms: i64,
    block: Block,
}

impl Before {
    fn new(base_ms: i64) -> Before {
        Before {
            at_ms: base_ms,
            block: Block {
                subscriber: Prefix6 {
                    ip: Ipv6Addr::UNSPECIFIED,
                    length: 64,
                },
                v4: Ipv4Addr::UNSPECIFIED,
                port_first: 0,
                port_count: 0,
            },
        }
    }
}

/// Writes entries into a payload.
#[derive(Debug)]
pub struct Encoder {
    before: Before,
    payload: Vec<u8>,
    records: u32,
}

impl Encoder {
    /// A payload whose times count from `base_ms`.
    pub fn new(base_ms: i64) -> Encoder {
        Encoder {
            before: Before::new(base_ms),
            payload: Vec::new(),
            records: 0,
        }
    }

    /// Entries so far.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Whether another entry fits for sure.
    pub fn has_room(&self) -> bool {
        self.payload.len() + ENTRY_MAX <= PAYLOAD_MAX
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: &Entry) {
        self.records += 1;
        let since = entry.at_ms().wrapping_sub(self.before.at_ms);
        self.before.at_ms = entry.at_ms();
        match entry {
            Entry::Lost(_, count) => {
                self.payload.push(TAG_LOST);
                varint(&mut self.payload, zigzag(since));
                varint(&mut self.payload, *count);
            }
            Entry::Block(action, _, block) => self.push_block(*action, since, block),
        }
    }

    fn push_block(&mut self, action: BlockAction, since: i64, block: &Block) {
        let before = self.before.block;
        let octets = block.subscriber.ip.octets();
        let same_v4 = block.v4 == before.v4;
        let same_sizes = block.port_count == before.port_count
            && block.subscriber.length == before.subscriber.length;
        let same_head = octets[..4] == before.subscriber.ip.octets()[..4];
        let mut tag = match action {
            BlockAction::Allocated => 0,
            BlockAction::Released => 1,
            BlockAction::Live => 2,
        };
        for (holds, bit) in [
            (same_v4, SAME_V4),
            (same_sizes, SAME_SIZES),
            (same_head, SAME_HEAD),
        ] {
            tag |= if holds { bit } else { 0 };
        }
        let out = &mut self.payload;
        out.push(tag);
        varint(out, zigzag(since));
        if !same_v4 {
            out.extend(block.v4.octets());
        }
        out.extend(block.port_first.to_le_bytes());
        if !same_sizes {
            out.extend(block.port_count.to_le_bytes());
            out.push(block.subscriber.length);
        }
        out.extend(&octets[if same_head { 4 } else { 0 }..subscriber_len(block.subscriber.length)]);
        self.before.block = *block;
    }

    /// The finished frame; the encoder is ready for another with the same base.
    pub fn finish(&mut self, kind: FrameKind, sequence: u64, base_ms: i64) -> Vec<u8> {
        let out = frame(kind, self.records, sequence, base_ms, &self.payload);
        *self = Encoder::new(base_ms);
        out
    }
}

/// Octets of a prefix that are kept: at least the four that two records may share.
fn subscriber_len(length: u8) -> usize {
    usize::from(length.min(128)).div_ceil(8).max(4)
}

/// Reads the entries of a payload; ends early at what cannot be one.
#[derive(Debug)]
pub struct Decoder<'a> {
    before: Before,
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Over the payload of a frame with that header.
    pub fn new(header: &Header, payload: &'a [u8]) -> Decoder<'a> {
        Decoder {
            before: Before::new(header.base_ms),
            rest: payload,
        }
    }

    fn octets<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [octet] = self.octets()?;
            value |= u64::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn entry(&mut self) -> Option<Entry> {
        let [tag] = self.octets()?;
        let since = unzigzag(self.varint()?);
        self.before.at_ms = self.before.at_ms.wrapping_add(since);
        let at_ms = self.before.at_ms;
        let action = match tag & TAG_ENTRY {
            0 => BlockAction::Allocated,
            1 => BlockAction::Released,
            2 => BlockAction::Live,
            _ => return Some(Entry::Lost(at_ms, self.varint()?)),
        };
        let mut block = self.before.block;
        if tag & SAME_V4 == 0 {
            block.v4 = Ipv4Addr::from(self.octets::<4>()?);
        }
        block.port_first = u16::from_le_bytes(self.octets()?);
        if tag & SAME_SIZES == 0 {
            block.port_count = u16::from_le_bytes(self.octets()?);
            block.subscriber.length = self.octets::<1>()?[0].min(128);
        }
        let mut octets = [0; 16];
        let shared = if tag & SAME_HEAD == 0 { 0 } else { 4 };
        octets[..shared].copy_from_slice(&block.subscriber.ip.octets()[..shared]);
        let length = subscriber_len(block.subscriber.length);
        let (own, rest) = self.rest.split_at_checked(length - shared)?;
        octets[shared..length].copy_from_slice(own);
        self.rest = rest;
        block.subscriber.ip = Ipv6Addr::from(octets);
        self.before.block = block;
        Some(Entry::Block(action, at_ms, block))
    }
}

impl Iterator for Decoder<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.entry()
    }
}

fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(host: u16, port_first: u16, length: u8) -> Block {
        Block {
            subscriber: Prefix6 {
                ip: Ipv6Addr::new(0x2001, 0xdb8, host, 7, 0, 0, 0, 0),
                length,
            },
            v4: Ipv4Addr::new(192, 0, 2, host.to_le_bytes()[0] % 4),
            port_first,
            port_count: 512,
        }
    }

    fn entries() -> Vec<Entry> {
        vec![
            Entry::Block(
                BlockAction::Allocated,
                1_700_000_000_123,
                block(1, 1024, 64),
            ),
            Entry::Block(
                BlockAction::Allocated,
                1_700_000_000_120,
                block(2, 65024, 64),
            ),
            Entry::Lost(1_700_000_000_900, 300),
            Entry::Block(
                BlockAction::Released,
                1_700_000_000_901,
                block(2, 65024, 64),
            ),
            Entry::Block(BlockAction::Live, 0, block(3, 1, 128)),
            Entry::Block(BlockAction::Live, i64::MAX, block(3, 2, 20)),
        ]
    }

    #[test]
    fn entries_go_there_and_back() {
        let base = 1_700_000_000_000;
        let mut encoder = Encoder::new(base);
        for entry in entries() {
            encoder.push(&entry);
        }
        let bytes = encoder.finish(FrameKind::Events, 77, base);
        let (header, payload) = read(&bytes).unwrap();
        assert_eq!(
            (header.records, header.sequence, header.base_ms),
            (6, 77, base)
        );
        let found: Vec<Entry> = Decoder::new(&header, payload).collect();
        let mut expected = entries();
        // A /20 keeps no more than its own octets, and at least four.
        if let Some(Entry::Block(_, _, block)) = expected.last_mut() {
            block.subscriber.ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0);
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let mut encoder = Encoder::new(5);
        encoder.push(&entries()[0]);
        let good = encoder.finish(FrameKind::Snapshot, 1, 5);
        assert!(read(&good).is_some());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bad), None, "bit {bit}");
        }
        for length in 0..good.len() {
            assert_eq!(read(&good[..length]), None);
        }
    }

    #[test]
    fn any_octets_are_read_without_harm() {
        let header = Header {
            kind: FrameKind::Events,
            payload_len: 0,
            records: 0,
            sequence: 0,
            base_ms: i64::MAX,
        };
        let mut state = 1u32;
        for _ in 0..2000 {
            let payload: Vec<u8> = (0..64)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state.to_be_bytes()[0]
                })
                .collect();
            assert!(Decoder::new(&header, &payload).count() <= 64);
        }
    }

    #[test]
    fn a_common_record_takes_ten_octets() {
        let mut encoder = Encoder::new(0);
        encoder.push(&Entry::Block(BlockAction::Allocated, 5, block(1, 1024, 64)));
        let first = encoder.payload.len();
        encoder.push(&Entry::Block(BlockAction::Allocated, 9, block(1, 2048, 64)));
        assert_eq!(encoder.payload.len() - first, 8);
        encoder.push(&Entry::Block(
            BlockAction::Allocated,
            90,
            block(2, 2048, 64),
        ));
        assert_eq!(encoder.payload.len() - first - 8, 13);
    }
}
