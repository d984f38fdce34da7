//! Packet I/O: frames in and out of ports, and the memory they lie in.
//!
//! Nothing here knows what a packet means. [`xsk`] is the real thing, [`memory`] serves tests
//! and benches, [`pcap`] replays captures; another back end implements [`PacketIo`].

mod area;
mod error;
mod interface;
pub mod memory;
pub mod pcap;
mod pool;
mod raw_tx;
pub mod steering;
mod waker;
pub mod xsk;

use std::sync::Arc;
use std::time::Duration;

pub use area::{CHUNK_SIZE, FRAME_LEN_MAX, FrameArea, HEADROOM};
pub use error::StartError;
pub use interface::{InterfaceReport, XdpMode, driver_of, merges_frames};
pub use waker::Waker;

use crate::packet::Frame;
use crate::route::PortId;

/// Frames taken from a port at a time.
pub const BURST_FRAMES_MAX: usize = 64;

/// One worker's access to its ports. Never blocks but in [`PacketIo::wait`].
pub trait PacketIo {
    /// The memory that the frames lie in.
    fn area(&self) -> &Arc<FrameArea>;

    /// Number of ports; they are numbered from 0.
    fn port_count(&self) -> usize;

    /// Appends up to `max` received frames, with their link headers. Answers how many.
    fn receive(&mut self, port: PortId, max: usize, into: &mut Vec<Frame>) -> usize;

    /// Puts a frame, link header included, on its way; [`PacketIo::flush`] sends it. A full
    /// ring hands the frame back.
    fn stage(&mut self, port: PortId, frame: Frame) -> Result<(), Frame>;

    /// Sends what was staged.
    fn flush(&mut self);

    /// Takes in frames that were sent, returns foreign ones to their home, and gives free ones
    /// to the receiving side. Once a turn, and before an idle wait.
    fn reclaim(&mut self);

    /// A free frame with an empty window.
    fn allocate(&mut self) -> Option<Frame>;

    /// Takes back a frame that is not sent, whichever worker it came from.
    fn release(&mut self, frame: Frame);

    /// Sleeps until a frame arrives, the waker is used, or the time is over.
    fn wait(&mut self, timeout: Duration);

    /// Ends a wait from another thread.
    fn waker(&self) -> &Arc<Waker>;

    /// What was counted so far.
    fn statistics(&self) -> IoStatistics;
}

/// What a worker's packet I/O counted, over all its ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoStatistics {
    /// System calls made to send, to wake the driver and to wait.
    pub syscalls: u64,
    /// Frames free in this worker's pool at present.
    pub frames_free: u64,
    /// Frames that the kernel holds to receive into, or has received into, at present.
    pub frames_receiving: u64,
    /// Frames in transmission at present.
    pub frames_sending: u64,
}

/// The kernel's counters of AF_XDP sockets (`struct xdp_statistics`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct XskStatistics {
    /// Received frames dropped for other reasons than a full ring (longer than a chunk).
    pub rx_dropped: u64,
    /// Received descriptors that were not valid.
    pub rx_invalid: u64,
    /// Descriptors to send that were not valid.
    pub tx_invalid: u64,
    /// Received frames dropped because the ring was full: the worker is too slow.
    pub rx_ring_full: u64,
    /// Received frames that found no free frame to be put in.
    pub rx_fill_ring_empty: u64,
    /// Times the sending ring was found empty.
    pub tx_ring_empty: u64,
}

impl std::ops::AddAssign for XskStatistics {
    fn add_assign(&mut self, other: XskStatistics) {
        self.rx_dropped += other.rx_dropped;
        self.rx_invalid += other.rx_invalid;
        self.tx_invalid += other.tx_invalid;
        self.rx_ring_full += other.rx_ring_full;
        self.rx_fill_ring_empty += other.rx_fill_ring_empty;
        self.tx_ring_empty += other.tx_ring_empty;
    }
}
