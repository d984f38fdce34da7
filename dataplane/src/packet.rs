//! Frames and packets: who may touch which bytes.

use std::ops::Range;

/// Octets of the longest link header: Ethernet with one 802.1Q tag.
pub const LINK_HEADER_MAX: usize = 18;

/// Where a packet lies in its chunk, in octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// First octet.
    pub start: u16,
    /// Number of octets.
    pub len: u16,
}

impl Window {
    #[inline]
    pub(crate) fn range(self) -> Range<usize> {
        let start = usize::from(self.start);
        start..start + usize::from(self.len)
    }
}

/// Owns one chunk of frame memory. Neither `Copy` nor `Clone`: holding it is the permission to
/// touch its bytes, and losing it loses the chunk.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is dropped is lost to its frame memory: send or release it"]
pub struct Frame {
    /// The number of the frame memory in the upper half, of the chunk in the lower.
    place: u64,
    /// Where the packet lies in the chunk.
    pub window: Window,
}

impl Frame {
    /// Made only by the frame memory that counts its chunks.
    pub(crate) fn new(area: u32, chunk: u32, window: Window) -> Frame {
        let place = u64::from(area) << 32 | u64::from(chunk);
        Frame { place, window }
    }

    /// The number of the frame memory that the chunk lies in.
    #[inline]
    pub fn area(&self) -> u32 {
        (self.place >> 32) as u32
    }

    /// The number of the chunk.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the lower half is what is meant
    pub fn chunk(&self) -> u32 {
        self.place as u32
    }

    /// The number of the chunk if it is one of that many of this frame memory: one comparison.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // below a number of 32 bits
    pub(crate) fn chunk_in(&self, area: u32, chunk_count: u32) -> Option<usize> {
        let chunk = self.place.wrapping_sub(u64::from(area) << 32);
        (chunk < u64::from(chunk_count)).then_some(chunk as usize)
    }
}

/// Borrows a chunk's bytes and its window. Moving the start writes back to the window, so that
/// a header can grow into the headroom without the payload moving.
#[derive(Debug)]
pub struct Packet<'a> {
    chunk: &'a mut [u8],
    window: &'a mut Window,
}

impl<'a> Packet<'a> {
    /// A packet over any array, for tests, benches and [`crate::io`]. `None` if the window does
    /// not lie inside the chunk.
    #[inline]
    pub fn new(chunk: &'a mut [u8], window: &'a mut Window) -> Option<Packet<'a>> {
        (window.range().end <= chunk.len()).then_some(Packet { chunk, window })
    }

    /// The packet's octets.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.chunk[self.window.range()]
    }

    /// The packet's octets, to write.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.chunk[self.window.range()]
    }

    /// Number of octets.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.window.len)
    }

    /// Whether there are no octets.
    pub fn is_empty(&self) -> bool {
        self.window.len == 0
    }

    /// Octets free in front of the packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.window.start)
    }

    /// Moves the start forward, dropping `count` octets in front (at most all of them).
    #[inline]
    pub fn trim_front(&mut self, count: u16) {
        let count = count.min(self.window.len);
        self.window.start += count;
        self.window.len -= count;
    }

    /// Moves the start back by `count` octets, whose content is undefined. False, and nothing
    /// done, if the headroom is too small.
    #[inline]
    #[must_use]
    pub fn grow_front(&mut self, count: u16) -> bool {
        if count > self.window.start {
            return false;
        }
        self.window.start -= count;
        self.window.len += count;
        true
    }

    /// Cuts the packet to at most `len` octets from its start.
    #[inline]
    pub fn truncate(&mut self, len: u16) {
        self.window.len = self.window.len.min(len);
    }
}
