//! One AF_XDP socket on one queue, with the four rings it shares with the kernel.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::time::Duration;

use xsk_rs::config::{BindFlags, LibxdpFlags, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::super::BURST_FRAMES_MAX;
use super::super::error::{StartError, sysret};
use super::super::interface::Interface;
use super::super::pool::FramePool;
use super::super::raw_tx::RawTx;
use super::RING_SIZE;
use crate::config::AutoOnOff;

/// Frames that refilling leaves for packets that gate64 makes itself.
const RESERVE: usize = 64;

/// Room that a fill ring must have before it is filled again.
const REFILL_FRAMES: u32 = 64;
const _: () = assert!(REFILL_FRAMES as usize == BURST_FRAMES_MAX);

/// How long the kernel looks for packets in a call of a busy-polling worker.
const BUSY_POLL_MICROSECONDS: i32 = 20;

/// A queue stays bound for some 20 ms after its process died (Linux 6.18).
const BUSY_STEP: Duration = Duration::from_millis(20);
/// Steps that are waited for it. They are counted, since on a machine that stands still no time that
/// passes says that the kernel had any.
const BUSY_STEPS_MAX: u32 = 50;

/// A socket on one queue. The sending ring is unmapped before the socket closes.
#[derive(Debug)]
pub(super) struct XskSocket {
    pub raw_tx: RawTx,
    pub rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    #[expect(dead_code, reason = "kept alive: its ring is used through raw_tx")]
    tx: TxQueue,
    pub fd: RawFd,
    pub queue: u32,
    pub receiving: u32,
    pub sending: u32,
    /// Whether the worker drives the queue itself …
    pub busy_polls: bool,
    /// … which it does when it found nothing there.
    pub was_empty: bool,
}

impl XskSocket {
    pub fn bind(
        umem: &Umem,
        interface: &Interface,
        queue: u32,
        flags: BindFlags,
        wish_busy_poll: AutoOnOff,
    ) -> Result<XskSocket, StartError> {
        let failed = |source| StartError::Socket {
            interface: interface.name.clone(),
            queue,
            source,
        };
        let ring = RING_SIZE
            .try_into()
            .map_err(|e| failed(io::Error::other(e)))?;
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name = interface.name.parse();
        let name = name.map_err(|e| failed(io::Error::other(e)))?;
        let mut steps = 0;
        let (tx, rx, rings) = loop {
            // SAFETY: this UMEM's rings on the queue are used by this socket alone (one socket
            // for a queue), and the frames are kept apart by their `Frame` tokens.
            match unsafe { Socket::new(config, umem, &name, queue) }.map_err(os_error) {
                Ok(socket) => break socket,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EBUSY) if steps < BUSY_STEPS_MAX => {
                        steps += 1;
                        std::thread::sleep(BUSY_STEP);
                    }
                    _ => return Err(bind_error(interface, queue, error)),
                },
            }
        };
        let (fill, completion) =
            rings.ok_or_else(|| failed(io::Error::other("the queue's rings are taken")))?;
        let fd = rx.fd().as_raw_fd();
        Ok(XskSocket {
            raw_tx: RawTx::map(fd, RING_SIZE).map_err(failed)?,
            rx,
            fill,
            completion,
            tx,
            fd,
            queue,
            receiving: 0,
            sending: 0,
            busy_polls: busy_poll(fd, interface, wish_busy_poll)?,
            was_empty: false,
        })
    }

    /// Gives free frames to the kernel to receive into, as many as there is room for. Answers
    /// the number of system calls.
    pub fn refill(
        &mut self,
        pool: &mut FramePool,
        by_chunk: &[FrameDesc],
        scratch: &mut Vec<FrameDesc>,
    ) -> u64 {
        while self.fill.nb_free(REFILL_FRAMES) >= REFILL_FRAMES {
            let spare = pool.free_count().saturating_sub(RESERVE);
            let count = spare.min(BURST_FRAMES_MAX);
            if count == 0 {
                break;
            }
            scratch.clear();
            scratch.extend((0..count).filter_map(|_| {
                let chunk = pool.take()?.chunk();
                Some(by_chunk[chunk as usize])
            }));
            // SAFETY: each descriptor's frame was taken from the pool and ended there, so the
            // kernel alone has the chunk. There is room for all.
            let taken = unsafe { self.fill.produce(scratch) };
            debug_assert_eq!(taken, scratch.len());
            self.receiving += u32::try_from(taken).unwrap_or(0);
        }
        let polls = self.busy_polls && self.was_empty;
        if !polls && !self.fill.needs_wakeup() {
            return 0;
        }
        // SAFETY: no buffer and no address are passed.
        unsafe {
            libc::recvfrom(
                self.fd,
                ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        1
    }

    /// Takes back the frames that were sent.
    pub fn complete(&mut self, pool: &mut FramePool, scratch: &mut Vec<FrameDesc>) {
        while self.sending > 0 {
            scratch.resize(BURST_FRAMES_MAX, FrameDesc::default());
            // SAFETY: the completion ring of a queue that this socket alone uses.
            let count = unsafe { self.completion.consume(scratch) };
            for descriptor in &scratch[..count] {
                // SAFETY: the kernel gives each chunk back once, and it was surrendered in
                // `stage`. The address may be shifted inside its chunk.
                let frame = unsafe { pool.area().adopt(descriptor.addr(), 0) };
                pool.give(frame.expect("the kernel gives back what it was given"));
            }
            self.sending -= u32::try_from(count).unwrap_or(0);
            if count < BURST_FRAMES_MAX {
                return;
            }
        }
    }
}

fn bind_error(interface: &Interface, queue: u32, error: io::Error) -> StartError {
    let name = interface.name.clone();
    match error.raw_os_error() {
        Some(libc::EBUSY) => StartError::Busy {
            interface: name,
            queue,
        },
        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => {
            StartError::NoZeroCopy { interface: name }
        }
        Some(libc::EPERM | libc::EACCES) => StartError::MissingPrivilege {
            action: "bind an AF_XDP socket",
        },
        _ => StartError::Socket {
            interface: name,
            queue,
            source: error,
        },
    }
}

/// Has the kernel leave the queue's interrupts alone while the worker asks for packets itself;
/// whether it does. `SO_PREFER_BUSY_POLL` of Linux 5.11, `Documentation/networking/napi.rst`.
fn busy_poll(socket: RawFd, interface: &Interface, wish: AutoOnOff) -> Result<bool, StartError> {
    let is_wanted = match wish {
        AutoOnOff::On => true,
        AutoOnOff::Auto => interface.is_set_up_for_busy_poll(),
        AutoOnOff::Off => false,
    };
    if !is_wanted {
        return Ok(false);
    }
    // At most a burst a call.
    let burst = i32::try_from(BURST_FRAMES_MAX).unwrap_or(64);
    let options = [
        (libc::SO_PREFER_BUSY_POLL, 1),
        (libc::SO_BUSY_POLL, BUSY_POLL_MICROSECONDS),
        (libc::SO_BUSY_POLL_BUDGET, burst),
    ];
    for (option, value) in options {
        if let Err(source) = set_option(socket, option, value) {
            return match wish {
                AutoOnOff::On => Err(StartError::NoBusyPoll {
                    interface: interface.name.clone(),
                    source,
                }),
                _ => Ok(false),
            };
        }
    }
    Ok(true)
}

fn set_option(socket: RawFd, option: libc::c_int, value: i32) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: four octets are read from `value`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    sysret(result).map(|_| ())
}

pub(super) fn is_zero_copy(socket: RawFd) -> bool {
    let mut options = 0u32;
    let mut len: libc::socklen_t = 4;
    // SAFETY: at most four octets are written to `options`, which lives through the call.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_XDP,
            libc::XDP_OPTIONS,
            (&raw mut options).cast(),
            &raw mut len,
        )
    };
    result == 0 && options & libc::XDP_OPTIONS_ZEROCOPY != 0
}

/// The system's error below one of xsk-rs's.
pub(super) fn os_error(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    let below = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    match below.and_then(io::Error::raw_os_error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    }
}
