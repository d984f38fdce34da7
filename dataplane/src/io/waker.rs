//! Wakes a worker that waits for frames: control with a command, a peer with a hand-off.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// An event that ends a worker's sleep. Costs others one load while the worker is awake.
#[derive(Debug)]
pub struct Waker {
    event: OwnedFd,
    asleep: AtomicBool,
}

impl Waker {
    /// A waker for one worker, with a file descriptor of its own.
    pub fn new() -> io::Result<Waker> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Waker {
            // SAFETY: the descriptor was just made and nobody else has it.
            event: unsafe { OwnedFd::from_raw_fd(fd) },
            asleep: AtomicBool::new(false),
        })
    }

    /// Wakes the worker if it sleeps or is about to. What it is woken for must have been put
    /// where it will look before this is called.
    #[inline]
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        let one = 1u64;
        // SAFETY: eight octets are read from `one`, which lives through the call. A full counter
        // (EAGAIN) wakes as well.
        unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Says that the worker is about to sleep. It must look for work once more after this, and
    /// call [`Waker::awake`] in any case.
    pub fn drowsy(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the worker is up, and forgets calls that came meanwhile.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        let mut count = 0u64;
        // SAFETY: eight octets are written to `count`, which lives through the call; the
        // descriptor does not block.
        unsafe { libc::read(self.event.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    pub(super) fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// Waits for one of the descriptors to become readable.
pub(super) fn poll(fds: &mut [libc::pollfd], timeout: std::time::Duration) {
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
    // SAFETY: the pointer and the count are those of one slice. Errors (EINTR) end the wait.
    unsafe { libc::poll(fds.as_mut_ptr(), count, timeout) };
}

/// An entry for [`poll`].
pub(super) fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}
