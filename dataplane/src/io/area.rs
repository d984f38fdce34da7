//! Frame memory: one block of equal chunks that all sockets and workers share.
//!
//! A [`Frame`] is made once for each chunk, when the area is made, and is from then on moved
//! about, never copied; so whoever holds it holds the chunk alone.

use std::alloc::{self, Layout};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use xsk_rs::umem::Umem;

use crate::packet::{Frame, Packet, Window};

/// Octets in a chunk.
pub const CHUNK_SIZE: u16 = 2048;

/// Octets in front of a received packet: the kernel's XDP_PACKET_HEADROOM. 20 for the larger IP
/// header, 8 for a fragment header and 18 for Ethernet with a tag always fit.
pub const HEADROOM: u16 = 256;

/// Longest frame that a chunk takes in, link header included.
pub const FRAME_LEN_MAX: u16 = CHUNK_SIZE - HEADROOM;

const CHUNK_LEN: usize = CHUNK_SIZE as usize;
const CHUNK_BITS: u32 = CHUNK_SIZE.trailing_zeros();
const _: () = assert!(CHUNK_SIZE.is_power_of_two());

static AREAS_MADE: AtomicU32 = AtomicU32::new(0);

/// Who frees the memory.
enum Owner {
    Umem(#[expect(dead_code, reason = "kept alive: it unmaps the memory")] Box<Umem>),
    Heap(Layout),
}

/// A block of chunks. Shared by all workers; each chunk is touched through its one [`Frame`].
pub struct FrameArea {
    base: NonNull<u8>,
    chunk_count: u32,
    id: u32,
    owner: Owner,
}

// SAFETY: bytes are reached only through `chunk_of`, which takes the one `Frame` of a chunk by
// exclusive reference; different threads therefore touch different chunks.
unsafe impl Send for FrameArea {}
// SAFETY: as above; the fields themselves never change after construction.
unsafe impl Sync for FrameArea {}

impl std::fmt::Debug for FrameArea {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameArea")
            .field("id", &self.id)
            .field("chunk_count", &self.chunk_count)
            .finish_non_exhaustive()
    }
}

impl FrameArea {
    /// An area in ordinary memory, and its frames in the order of their chunks.
    pub fn on_heap(chunk_count: u32) -> (Arc<FrameArea>, Vec<Frame>) {
        let size = chunk_count.max(1) as usize * CHUNK_LEN;
        let layout = Layout::from_size_align(size, CHUNK_LEN).expect("frame memory fits isize");
        // SAFETY: the layout's size is not zero (at least one chunk).
        let base = unsafe { alloc::alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else {
            alloc::handle_alloc_error(layout)
        };
        FrameArea::with_frames(base, chunk_count, Owner::Heap(layout))
    }

    /// An area over a UMEM's memory, which starts at `base`, and its frames.
    ///
    /// # Safety
    /// `base` is the start of the memory of `umem`, `chunk_count` chunks long, and this is the
    /// only area made over it.
    pub(super) unsafe fn on_umem(
        umem: Umem,
        base: NonNull<u8>,
        chunk_count: u32,
    ) -> (Arc<FrameArea>, Vec<Frame>) {
        FrameArea::with_frames(base, chunk_count, Owner::Umem(Box::new(umem)))
    }

    fn with_frames(
        base: NonNull<u8>,
        chunk_count: u32,
        owner: Owner,
    ) -> (Arc<FrameArea>, Vec<Frame>) {
        let id = AREAS_MADE.fetch_add(1, Ordering::Relaxed);
        assert!(id < u32::MAX, "frame memories are numbered in 32 bits");
        let area = FrameArea {
            base,
            chunk_count,
            id,
            owner,
        };
        let frames = (0..chunk_count)
            .map(|chunk| Frame::new(id, chunk, EMPTY))
            .collect();
        (Arc::new(area), frames)
    }

    /// The packet in a frame.
    ///
    /// # Panics
    /// If the frame belongs to another area, or its window was set beyond its chunk.
    #[inline]
    pub fn packet<'a>(&'a self, frame: &'a mut Frame) -> Packet<'a> {
        let (chunk, window) = self.chunk_of(frame);
        Packet::new(chunk, window).expect("a window lies inside its chunk")
    }

    #[inline]
    fn chunk_of<'a>(&'a self, frame: &'a mut Frame) -> (&'a mut [u8; CHUNK_LEN], &'a mut Window) {
        let Some(chunk) = frame.chunk_in(self.id, self.chunk_count) else {
            not_of_this_area(frame)
        };
        // SAFETY: the chunk number was just compared with the number of chunks behind `base`.
        let chunk = unsafe { self.base.as_ptr().add(chunk << CHUNK_BITS) };
        // SAFETY: `CHUNK_LEN` octets lie behind `chunk` and live as long as `self`. The frame is
        // this area's only one for the chunk (`with_frames` and `adopt` make no second), it is
        // borrowed exclusively, and the kernel holds no chunk for which a frame exists.
        let chunk = unsafe { &mut *chunk.cast::<[u8; CHUNK_LEN]>() };
        (chunk, &mut frame.window)
    }

    /// `N` octets of a frame's chunk, the first of them `before` octets in front of its packet,
    /// with the packet's window; `None` where the chunk has not so many, or fewer than `room` in
    /// front of them. Octets that are not the packet's are anything, and the window's end is not
    /// looked at.
    ///
    /// # Panics
    /// If the frame belongs to another area.
    #[inline]
    pub fn around<'a, const N: usize>(
        &'a self,
        frame: &'a mut Frame,
        before: u16,
        room: u16,
    ) -> Option<(&'a mut [u8; N], &'a mut Window)> {
        const { assert!(N <= CHUNK_LEN / 2) };
        let (chunk, window) = self.chunk_of(frame);
        // One comparison for both ends: what is too far in front wraps round.
        let beyond = usize::from(window.start.wrapping_sub(before + room));
        if beyond > CHUNK_LEN - N - usize::from(room) {
            return None;
        }
        let at = usize::from(room) + beyond;
        Some((chunk.get_mut(at..at + N)?.first_chunk_mut()?, window))
    }

    /// Hints that the first octets of a frame's packet are about to be read.
    #[inline]
    pub fn prefetch(&self, frame: &Frame) {
        if frame.chunk() < self.chunk_count {
            let offset = ((frame.chunk() as usize) << CHUNK_BITS) + usize::from(frame.window.start);
            prefetch(self.base.as_ptr().wrapping_add(offset));
        }
    }

    /// Copies octets into a frame, behind the headroom. False if they do not fit.
    #[must_use]
    pub fn write(&self, frame: &mut Frame, octets: &[u8]) -> bool {
        let Ok(len) = u16::try_from(octets.len()) else {
            return false;
        };
        if len > FRAME_LEN_MAX {
            return false;
        }
        frame.window = Window {
            start: HEADROOM,
            len,
        };
        self.packet(frame).bytes_mut().copy_from_slice(octets);
        true
    }

    /// The address of a frame's packet as the kernel's rings write it, and its length. The frame
    /// is used up: [`FrameArea::adopt`] makes it again when the kernel gives the chunk back.
    #[inline]
    pub(super) fn surrender(&self, frame: Frame) -> (u64, u32) {
        // The kernel would write into the chunk of another frame.
        let Some(chunk) = frame.chunk_in(self.id, self.chunk_count) else {
            not_of_this_area(&frame)
        };
        let start = ((chunk as u64) << CHUNK_BITS) + u64::from(frame.window.start);
        (start, u32::from(frame.window.len))
    }

    /// The frame of an address that the kernel gave back; `None` if it lies outside.
    ///
    /// # Safety
    /// The kernel held the chunk: its frame was surrendered, and not adopted since.
    #[inline]
    pub(super) unsafe fn adopt(&self, addr: usize, len: usize) -> Option<Frame> {
        let chunk = u32::try_from(addr >> CHUNK_BITS).ok()?;
        let start = u16::try_from(addr & (CHUNK_LEN - 1)).ok()?;
        let len = u16::try_from(len).ok()?;
        let fits = usize::from(start) + usize::from(len) <= CHUNK_LEN;
        (chunk < self.chunk_count && fits)
            .then(|| Frame::new(self.id, chunk, Window { start, len }))
    }
}

#[cold]
fn not_of_this_area(frame: &Frame) -> ! {
    panic!("{frame:?} is of another frame memory")
}

const EMPTY: Window = Window {
    start: HEADROOM,
    len: 0,
};

impl Drop for FrameArea {
    fn drop(&mut self) {
        if let Owner::Heap(layout) = self.owner {
            // SAFETY: `on_heap` allocated `base` with this very layout.
            unsafe { alloc::dealloc(self.base.as_ptr(), layout) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn prefetch(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch never faults and changes nothing, wherever it points.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn prefetch(_at: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_grows_into_the_headroom() {
        let (area, mut frames) = FrameArea::on_heap(2);
        assert!(area.write(&mut frames[1], b"payload"));
        let mut packet = area.packet(&mut frames[1]);
        assert!(packet.grow_front(48 + 18));
        assert_eq!(&packet.bytes()[66..], b"payload");
        assert_eq!(frames[1].window.start, HEADROOM - 66);
    }

    #[test]
    #[should_panic(expected = "of another frame memory")]
    fn a_frame_of_another_area_is_refused() {
        let (area, _frames) = FrameArea::on_heap(1);
        let (_other, mut others) = FrameArea::on_heap(1);
        area.packet(&mut others[0]);
    }

    #[test]
    fn an_address_comes_back_as_the_same_chunk() {
        let (area, mut frames) = FrameArea::on_heap(3);
        let mut frame = frames.pop().unwrap();
        frame.window = Window {
            start: 236,
            len: 80,
        };
        let (addr, len) = area.surrender(frame);
        assert_eq!((addr, len), (2 * 2048 + 236, 80));
        // SAFETY: surrendered just above.
        let back = unsafe { area.adopt(2 * 2048 + 236, 0) }.unwrap();
        assert_eq!(back.chunk(), 2);
        // SAFETY: outside of the area, so no frame is made.
        assert_eq!(unsafe { area.adopt(3 * 2048, 0) }, None);
    }
}
