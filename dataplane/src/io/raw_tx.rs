//! The sending ring of an AF_XDP socket, mapped a second time.
//!
//! A translated packet does not start where it was received, and xsk-rs 0.11 keeps a
//! descriptor's address private. The kernel takes any address inside a chunk and masks it when
//! it gives the chunk back. The xsk-rs `TxQueue` of the same socket must never be used.

use std::io;
use std::mem::size_of;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{xdp_desc, xdp_mmap_offsets};

use super::error::sysret;

/// SOL_XDP option of Linux 6.17 and later: frames that one `sendto` may send in copy mode.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;

/// What the kernel sends in one `sendto` in copy mode (TX_BATCH_SIZE in net/xdp/xsk.c).
const BUDGET_DEFAULT: u32 = 32;

/// What is asked for instead.
const BUDGET_WANTED: u32 = 256;

/// The producer's end of a sending ring.
#[derive(Debug)]
pub(super) struct RawTx {
    socket: RawFd,
    map: NonNull<u8>,
    map_len: usize,
    offsets: libc::xdp_ring_offset,
    mask: u32,
    produced: u32,
    consumed: u32,
    submitted: u32,
    budget: u32,
}

// SAFETY: the mapping is this value's alone and may be used from any one thread.
unsafe impl Send for RawTx {}

impl RawTx {
    /// Maps the sending ring of a bound socket with `size` places, a power of two. The socket
    /// must outlive this value: a live mapping keeps the queue bound (EBUSY at the next bind).
    pub fn map(socket: RawFd, size: u32) -> io::Result<RawTx> {
        assert!(size.is_power_of_two());
        let offsets = mmap_offsets(socket)?.tx;
        let descriptors = usize::try_from(offsets.desc).map_err(io::Error::other)?;
        let map_len = descriptors + size as usize * size_of::<xdp_desc>();
        // SAFETY: a new mapping at an address of the kernel's choice; no memory of ours changes.
        let map = unsafe {
            libc::mmap(
                ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket,
                libc::XDP_PGOFF_TX_RING,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        let mut ring = RawTx {
            socket,
            map,
            map_len,
            offsets,
            mask: size - 1,
            produced: 0,
            consumed: 0,
            submitted: 0,
            budget: raise_budget(socket, size),
        };
        ring.produced = ring.producer().load(Ordering::Relaxed);
        ring.submitted = ring.produced;
        ring.consumed = ring.consumer().load(Ordering::Acquire);
        Ok(ring)
    }

    fn index(&self, offset: u64) -> &AtomicU32 {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        assert!(offset < self.map_len);
        // SAFETY: the kernel named the offset of an aligned u32 in the mapping, which lies in
        // front of the descriptors and so inside `map_len`.
        let at = unsafe { self.map.as_ptr().add(offset) };
        // SAFETY: aligned, mapped as long as `self`, and shared with the kernel atomically only.
        unsafe { AtomicU32::from_ptr(at.cast()) }
    }

    fn producer(&self) -> &AtomicU32 {
        self.index(self.offsets.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.index(self.offsets.consumer)
    }

    /// Whether another descriptor can be pushed.
    #[inline]
    pub fn has_room(&mut self) -> bool {
        if self.produced.wrapping_sub(self.consumed) <= self.mask {
            return true;
        }
        self.consumed = self.consumer().load(Ordering::Acquire);
        self.produced.wrapping_sub(self.consumed) <= self.mask
    }

    /// Writes a descriptor. There must be room.
    #[inline]
    pub fn push(&mut self, addr: u64, len: u32) {
        assert!(self.has_room());
        let descriptor = xdp_desc {
            addr,
            len,
            options: 0,
        };
        let place = (self.produced & self.mask) as usize * size_of::<xdp_desc>();
        #[expect(clippy::cast_possible_truncation, reason = "checked in `map`")]
        let place = self.offsets.desc as usize + place;
        // SAFETY: masked by the ring's size, for which `map` made the mapping large enough.
        let at = unsafe { self.map.as_ptr().add(place) };
        // SAFETY: aligned as the kernel laid it out; the kernel does not read this place before
        // `submit`, because `has_room` saw that it has consumed what stood there.
        unsafe { at.cast::<xdp_desc>().write(descriptor) };
        self.produced = self.produced.wrapping_add(1);
    }

    /// Shows the kernel what was pushed. False if there was nothing new.
    #[inline]
    pub fn submit(&mut self) -> bool {
        if self.submitted == self.produced {
            return false;
        }
        self.producer().store(self.produced, Ordering::Release);
        self.submitted = self.produced;
        true
    }

    /// Makes the kernel send what was submitted. Answers the number of system calls.
    pub fn kick(&mut self) -> u64 {
        let mut calls = 0;
        loop {
            let pending = self.pending();
            // The flag is always set in copy mode; in zero-copy mode only if the driver sleeps.
            if pending == 0 || !self.needs_wakeup() {
                return calls;
            }
            self.send_to();
            calls += 1;
            // No progress (no memory, device queue full): try again in a later turn.
            if pending <= self.budget || self.pending() == pending {
                return calls;
            }
        }
    }

    /// Descriptors that the kernel has not taken yet.
    #[inline]
    pub fn pending(&mut self) -> u32 {
        self.consumed = self.consumer().load(Ordering::Acquire);
        self.submitted.wrapping_sub(self.consumed)
    }

    fn needs_wakeup(&self) -> bool {
        let flags = self.index(self.offsets.flags).load(Ordering::Relaxed);
        flags & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn send_to(&self) {
        // SAFETY: no buffer and no address are passed. EAGAIN, EBUSY and ENOBUFS are ordinary
        // and mean that the rest is to be tried later; a real fault (ENETDOWN) shows as a full
        // ring, which is counted as a drop.
        unsafe {
            libc::sendto(
                self.socket,
                ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null(),
                0,
            )
        };
    }
}

impl Drop for RawTx {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` with this length, and no reference is left.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

fn mmap_offsets(socket: RawFd) -> io::Result<xdp_mmap_offsets> {
    // SAFETY: a struct of integers, for which all zeroes is a value.
    let mut offsets: xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let size = size_of::<xdp_mmap_offsets>();
    let mut len = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
    // SAFETY: at most `len` octets are written to `offsets`, which is that long.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut len,
        )
    };
    sysret(result)?;
    // Linux before 5.4 has no flags and answers a shorter struct.
    if len as usize != size {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok(offsets)
}

/// Asks for more frames per `sendto`. Kernels before 6.17 refuse; then it is 32.
fn raise_budget(socket: RawFd, ring_size: u32) -> u32 {
    let wanted = BUDGET_WANTED.min(ring_size);
    // SAFETY: four octets are read from `wanted`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            (&raw const wanted).cast(),
            4,
        )
    };
    if result == 0 { wanted } else { BUDGET_DEFAULT }
}
