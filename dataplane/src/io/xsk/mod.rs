//! Ports that are AF_XDP sockets: one for each receive queue of each interface, all over one
//! frame memory, so that a frame leaves by another interface without a copy.

mod open;
mod socket;

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use xsk_rs::FrameDesc;

pub use self::open::{Opened, frame_memory_octets, open, workers_max};
use self::socket::XskSocket;
use super::area::FrameArea;
use super::error::{StartError, sysret};
use super::pool::FramePool;
use super::waker::{self, Waker};
use super::{BURST_FRAMES_MAX, IoStatistics, PacketIo, XskStatistics};
use crate::packet::Frame;
use crate::route::PortId;

/// Places in each ring of a socket.
const RING_SIZE: u32 = 2048;

/// Frames that the kernel did not take are tried again after this.
const SEND_AGAIN: Duration = Duration::from_millis(1);

/// One worker's sockets.
#[derive(Debug)]
pub struct XskIo {
    // In front of the pool: the sockets go before the memory that they use.
    sockets: Vec<XskSocket>,
    ports: Vec<XskPort>,
    pool: FramePool,
    descriptors: Arc<[FrameDesc]>,
    scratch: Vec<FrameDesc>,
    waker: Arc<Waker>,
    poll: Vec<libc::pollfd>,
    syscalls: u64,
}

/// The sockets of one interface, and the one that is asked first next time.
#[derive(Debug)]
struct XskPort {
    sockets: Range<usize>,
    next: usize,
}

impl XskPort {
    fn over(sockets: Range<usize>) -> XskPort {
        XskPort {
            next: sockets.start,
            sockets,
        }
    }
}

/// Reads the kernel's counters of one socket, from any thread. It does not keep the queue bound
/// longer than its worker does, if it is dropped with it.
#[derive(Debug)]
pub struct XskProbe {
    /// The interface.
    pub port: PortId,
    /// The receive queue.
    pub queue: u32,
    socket: OwnedFd,
}

impl XskProbe {
    /// The counters.
    pub fn read(&self) -> io::Result<XskStatistics> {
        let mut kernel = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        let len = size_of::<libc::xdp_statistics>();
        let mut len = libc::socklen_t::try_from(len).map_err(io::Error::other)?;
        // SAFETY: at most `len` octets are written to `kernel`, which is that long.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_XDP,
                libc::XDP_STATISTICS,
                (&raw mut kernel).cast(),
                &raw mut len,
            )
        };
        sysret(result)?;
        Ok(XskStatistics {
            rx_dropped: kernel.rx_dropped,
            rx_invalid: kernel.rx_invalid_descs,
            tx_invalid: kernel.tx_invalid_descs,
            rx_ring_full: kernel.rx_ring_full,
            rx_fill_ring_empty: kernel.rx_fill_ring_empty_descs,
            tx_ring_empty: kernel.tx_ring_empty_descs,
        })
    }
}

impl XskIo {
    fn new(pool: FramePool, descriptors: Arc<[FrameDesc]>) -> Result<XskIo, StartError> {
        let waker = Waker::new().map_err(|source| StartError::System {
            action: "make an event descriptor",
            source,
        })?;
        Ok(XskIo {
            sockets: Vec::new(),
            ports: Vec::new(),
            pool,
            descriptors,
            scratch: vec![FrameDesc::default(); BURST_FRAMES_MAX],
            waker: Arc::new(waker),
            poll: Vec::new(),
            syscalls: 0,
        })
    }

    /// Readers of the kernel's counters, one for each socket.
    pub fn probes(&self) -> io::Result<Vec<XskProbe>> {
        let mut probes = Vec::new();
        for (port, place) in (0..).map(PortId).zip(&self.ports) {
            for socket in &self.sockets[place.sockets.clone()] {
                // SAFETY: the descriptor is the socket's, which is open as long as `self`.
                let fd = unsafe { BorrowedFd::borrow_raw(socket.fd) };
                probes.push(XskProbe {
                    port,
                    queue: socket.queue,
                    socket: fd.try_clone_to_owned()?,
                });
            }
        }
        Ok(probes)
    }

    /// Fills the receiving side, when all sockets are bound.
    fn listen(&mut self) {
        let fds = self.sockets.iter().map(|socket| socket.fd);
        let fds = fds.chain([self.waker.fd()]);
        self.poll = fds.map(waker::readable).collect();
        self.reclaim();
    }
}

impl PacketIo for XskIo {
    fn area(&self) -> &Arc<FrameArea> {
        self.pool.area()
    }

    fn port_count(&self) -> usize {
        self.ports.len()
    }

    fn receive(&mut self, port: PortId, max: usize, into: &mut Vec<Frame>) -> usize {
        let port = &mut self.ports[usize::from(port.0)];
        let mut left = max.min(BURST_FRAMES_MAX);
        for _ in port.sockets.clone() {
            if left == 0 {
                break;
            }
            let socket = &mut self.sockets[port.next];
            port.next += 1;
            if port.next == port.sockets.end {
                port.next = port.sockets.start;
            }
            self.scratch.resize(BURST_FRAMES_MAX, FrameDesc::default());
            // SAFETY: the receive ring of a socket that this worker alone uses.
            let count = unsafe { socket.rx.consume(&mut self.scratch[..left]) };
            for descriptor in &self.scratch[..count] {
                let (addr, len) = (descriptor.addr(), descriptor.lengths().data());
                // SAFETY: the kernel delivers each chunk once, and it was surrendered in
                // `refill`.
                let frame = unsafe { self.pool.area().adopt(addr, len) };
                into.push(frame.expect("the kernel delivers into chunks it was given"));
            }
            socket.receiving -= u32::try_from(count).unwrap_or(0);
            socket.was_empty = count == 0;
            left -= count;
        }
        max.min(BURST_FRAMES_MAX) - left
    }

    fn stage(&mut self, port: PortId, frame: Frame) -> Result<(), Frame> {
        let index = self.ports[usize::from(port.0)].sockets.start;
        let Some(socket) = self.sockets.get_mut(index) else {
            return Err(frame);
        };
        if !socket.raw_tx.has_room() {
            return Err(frame);
        }
        let (addr, len) = self.pool.area().surrender(frame);
        socket.raw_tx.push(addr, len);
        socket.sending += 1;
        Ok(())
    }

    fn flush(&mut self) {
        for socket in &mut self.sockets {
            if socket.raw_tx.submit() {
                self.syscalls += socket.raw_tx.kick();
            }
        }
    }

    fn reclaim(&mut self) {
        for socket in &mut self.sockets {
            if socket.sending > 0 {
                self.syscalls += socket.raw_tx.kick();
                socket.complete(&mut self.pool, &mut self.scratch);
            }
        }
        self.pool.exchange();
        for socket in &mut self.sockets {
            self.syscalls += socket.refill(&mut self.pool, &self.descriptors, &mut self.scratch);
        }
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.pool.take()
    }

    fn release(&mut self, frame: Frame) {
        self.pool.give(frame);
    }

    fn wait(&mut self, timeout: Duration) {
        let mut sockets = self.sockets.iter_mut();
        let stuck = sockets.any(|socket| socket.raw_tx.pending() > 0);
        let timeout = if stuck {
            timeout.min(SEND_AGAIN)
        } else {
            timeout
        };
        waker::poll(&mut self.poll, timeout);
        self.syscalls += 1;
    }

    fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    fn statistics(&self) -> IoStatistics {
        IoStatistics {
            syscalls: self.syscalls,
            frames_free: self.pool.free_count() as u64,
            frames_receiving: self.sockets.iter().map(|s| u64::from(s.receiving)).sum(),
            frames_sending: self.sockets.iter().map(|s| u64::from(s.sending)).sum(),
        }
    }
}
