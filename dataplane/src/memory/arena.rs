//! One mapping of zeroed memory, cut into typed slabs.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// Types whose every bit pattern is a value and that hold no pointer, so that zeroed memory and
/// memory of another process are valid.
///
/// # Safety
/// All bit patterns have to be valid, and the type must contain neither pointers or references nor
/// padding.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: integers have no invalid bit patterns.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}

/// Why memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The kernel refused the mapping.
    #[error("cannot reserve {bytes} bytes of session memory{what}: {source}")]
    Reserve {
        /// Octets asked for.
        bytes: usize,
        /// " on hugepages" or nothing.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A slab did not fit what was planned: the plan and its use disagree.
    #[error("session memory plan is short: {need} bytes needed, {left} left")]
    Plan {
        /// Octets of the slab.
        need: usize,
        /// Octets left.
        left: usize,
    },
}

#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory; who may touch which part is decided by `Slab`, whose
// ranges never overlap (established in `Arena::slab`).
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing is reached through a shared `Mapping`.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of the mmap in `Arena::reserve`, unmapped only here,
        // when the last slab is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Octets that a slab of `count` entries takes in an arena.
pub const fn slab_bytes<T>(count: usize) -> usize {
    (count * size_of::<T>()).next_multiple_of(ALIGN)
}

/// Slabs begin on a cache line.
const ALIGN: usize = 64;

/// Ordinary page size; larger ones are multiples of it.
const PAGE: usize = 4096;

/// Hugepage size asked for (x86-64 and arm64 default).
const HUGE: usize = 2 << 20;

/// Which pages an arena lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Ordinary pages, with transparent hugepages where the kernel gives them.
    Ordinary,
    /// Pages of the hugetlb pool, reserved now.
    Huge,
}

/// A mapping from which slabs are cut front to back.
#[derive(Debug)]
pub struct Arena {
    mapping: Arc<Mapping>,
    used: usize,
    pages: Pages,
}

impl Arena {
    /// Reserves `bytes` of zeroed memory.
    ///
    /// # Errors
    /// The kernel's refusal: hugepages not there, or address space exhausted.
    pub fn reserve(bytes: usize, pages: Pages) -> Result<Arena, ArenaError> {
        let len = bytes.max(1).next_multiple_of(HUGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let flags = match pages {
            Pages::Ordinary => flags | libc::MAP_NORESERVE,
            Pages::Huge => flags | libc::MAP_HUGETLB,
        };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        let base = if base == libc::MAP_FAILED {
            None
        } else {
            NonNull::new(base.cast::<u8>())
        };
        let Some(base) = base else {
            return Err(ArenaError::Reserve {
                bytes: len,
                what: if pages == Pages::Huge {
                    " on hugepages"
                } else {
                    ""
                },
                source: std::io::Error::last_os_error(),
            });
        };
        if pages == Pages::Ordinary {
            // SAFETY: the range is the mapping made above; the advice changes no content.
            unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        }
        Ok(Arena {
            mapping: Arc::new(Mapping { base, len }),
            used: 0,
            pages,
        })
    }

    /// Which pages it lies on.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Cuts a slab of `count` zeroed entries that are resident at once: no packet waits for the
    /// kernel to find and zero a page.
    ///
    /// # Errors
    /// The arena is used up, or the machine's memory is.
    pub fn resident_slab<T: Plain>(&mut self, count: usize) -> Result<Slab<T>, ArenaError> {
        let slab = self.slab(count)?;
        slab.populate()?;
        Ok(slab)
    }

    /// Cuts a slab of `count` zeroed entries, which become resident when first touched.
    ///
    /// # Errors
    /// The arena is used up.
    pub fn slab<T: Plain>(&mut self, count: usize) -> Result<Slab<T>, ArenaError> {
        const { assert!(align_of::<T>() <= ALIGN) };
        let need = slab_bytes::<T>(count);
        let left = self.mapping.len - self.used;
        if need > left {
            return Err(ArenaError::Plan { need, left });
        }
        // SAFETY: used + need <= len, checked above, so the result lies inside the mapping.
        let base = unsafe { self.mapping.base.add(self.used) };
        self.used += need;
        Ok(Slab {
            base: base.cast(),
            len: count,
            _mapping: Arc::clone(&self.mapping),
            own: PhantomData,
        })
    }
}

/// A slice of plain entries in an arena, which it keeps alive.
#[derive(Debug)]
pub struct Slab<T> {
    base: NonNull<T>,
    len: usize,
    _mapping: Arc<Mapping>,
    own: PhantomData<T>,
}

// SAFETY: a slab is the only way to its range of the mapping (ranges are cut once in
// `Arena::slab`), so it moves and is shared like a `Box<[T]>`.
unsafe impl<T: Plain + Send> Send for Slab<T> {}
// SAFETY: as above.
unsafe impl<T: Plain + Sync> Sync for Slab<T> {}

impl<T: Plain> Deref for Slab<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: base..base+len is this slab's own, aligned, zero-initialised range (`Arena::slab`),
        // and T is valid for any bits (`Plain`).
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Slab<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl<T: Plain> Slab<T> {
    fn populate(&self) -> Result<(), ArenaError> {
        let base = self.base.as_ptr().expose_provenance();
        let first = base & !(PAGE - 1);
        let bytes = base + slab_bytes::<T>(self.len) - first;
        let at = std::ptr::with_exposed_provenance_mut(first);
        // SAFETY: the pages lie in the mapping, which begins on a page (the first one may be
        // shared with the slab in front); populating them changes no content.
        let result = unsafe { libc::madvise(at, bytes, libc::MADV_POPULATE_WRITE) };
        let source = std::io::Error::last_os_error();
        // Linux before 5.14 does not know the advice: pages come when they are touched.
        if result == 0 || source.raw_os_error() == Some(libc::EINVAL) {
            return Ok(());
        }
        let what = "";
        Err(ArenaError::Reserve {
            bytes,
            what,
            source,
        })
    }

    /// Asks the memory for the entry's first cache line. An index beyond the end does nothing:
    /// a prefetch never faults.
    #[inline]
    pub fn prefetch(&self, index: usize) {
        prefetch(self.base.as_ptr().wrapping_add(index));
    }
}

/// The first 32 octets of an entry.
#[inline]
pub(super) fn first_words<T: Plain>(entry: &T) -> &[u16; 16] {
    const { assert!(size_of::<T>() >= 32 && align_of::<T>() >= align_of::<u16>()) };
    // SAFETY: the octets are the entry's own and none is padding (`Plain`); any are valid words.
    unsafe { &*std::ptr::from_ref(entry).cast() }
}

/// Bit n set: the nth of sixteen is this one.
#[inline]
pub(super) fn equal_of_sixteen(all: &[u16; 16], one: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
        };
        let (lower, upper) = all.split_at(8);
        #[allow(clippy::multiple_unsafe_ops_per_block)] // one comparison
        // SAFETY: SSE2 is part of x86-64, and the 16 octets read each are those of a half of `all`.
        let equal = unsafe {
            let one = _mm_set1_epi16(one.cast_signed());
            let lower = _mm_cmpeq_epi16(_mm_loadu_si128(lower.as_ptr().cast()), one);
            let upper = _mm_cmpeq_epi16(_mm_loadu_si128(upper.as_ptr().cast()), one);
            _mm_movemask_epi8(_mm_packs_epi16(lower, upper))
        };
        equal.cast_unsigned()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        (0..)
            .zip(all)
            .map(|(n, &other)| u32::from(other == one) << n)
            .sum()
    }
}

/// Asks the memory for the first cache line at an address; it need not be one.
#[inline]
pub fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_are_zeroed_and_apart() {
        let mut arena = Arena::reserve(
            slab_bytes::<u32>(100) + slab_bytes::<u64>(10),
            Pages::Ordinary,
        )
        .unwrap();
        let mut first = arena.slab::<u32>(100).unwrap();
        let second = arena.slab::<u64>(10).unwrap();
        assert!(first.iter().all(|&entry| entry == 0));
        first.fill(u32::MAX);
        assert!(second.iter().all(|&entry| entry == 0));
        drop(arena);
        assert_eq!(first[99], u32::MAX);
        first.prefetch(1 << 40);
    }

    #[test]
    fn a_short_plan_is_an_error() {
        let mut arena = Arena::reserve(1, Pages::Ordinary).unwrap();
        assert!(matches!(
            arena.slab::<u64>(HUGE),
            Err(ArenaError::Plan { .. })
        ));
    }
}
