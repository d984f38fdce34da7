//! Ports that are AF_XDP sockets: one for each receive queue of each interface, all over one
//! frame memory, so that a frame leaves by another interface without a copy.

use std::io;
use std::num::NonZeroU32;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::{Duration, Instant};

use xsk_rs::config::{BindFlags, LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::area::{CHUNK_SIZE, FrameArea};
use super::error::{StartError, sysret};
use super::interface::{Interface, InterfaceReport};
use super::pool::FramePool;
use super::raw_tx::RawTx;
use super::steering::{Attached, Steering};
use super::waker::{self, Waker};
use super::{BURST_FRAMES_MAX, IoStatistics, PacketIo, XskStatistics};
use crate::config::{AutoOnOff, InterfaceConfig, Nat64Config};
use crate::packet::Frame;
use crate::route::PortId;

/// Places in each ring of a socket.
const RING_SIZE: u32 = 2048;

/// Frames for a socket: a full fill ring and a full sending ring.
const FRAMES_PER_SOCKET: u32 = 2 * RING_SIZE;

/// Frames for a worker besides: bursts in work, hand-off rings, packets that wait for a neighbour.
const FRAMES_PER_WORKER: u32 = 1024;

/// Frames that refilling leaves for packets that gate64 makes itself.
const RESERVE: usize = 64;

/// Room that a fill ring must have before it is filled again.
const REFILL_FRAMES: u32 = 64;
const _: () = assert!(REFILL_FRAMES as usize == BURST_FRAMES_MAX);

/// How long the kernel looks for packets in a call of a busy-polling worker.
const BUSY_POLL_MICROSECONDS: i32 = 20;

/// Frames that the kernel did not take are tried again after this.
const SEND_AGAIN: Duration = Duration::from_millis(1);

/// A queue stays bound for some 20 ms after its process died (Linux 6.18).
const BUSY_MAX: Duration = Duration::from_secs(1);
const BUSY_STEP: Duration = Duration::from_millis(20);

/// All of it, open: steering filled, sockets bound and connected.
#[derive(Debug)]
pub struct Opened {
    /// One for each worker.
    pub workers: Vec<XskIo>,
    /// The XDP programs.
    pub steering: Steering,
    /// One for each interface.
    pub interfaces: Vec<InterfaceReport>,
}

/// Receive queues of the interface that has fewest: as many workers as can be.
pub fn workers_max(interfaces: &[InterfaceConfig]) -> Result<usize, StartError> {
    let mut least = u32::MAX;
    for config in interfaces {
        least = least.min(Interface::find(&config.name)?.queues);
    }
    Ok(if least == u32::MAX { 0 } else { least as usize })
}

/// Octets of frame memory for a number of workers over interfaces with these numbers of queues.
pub fn frame_memory_octets(workers: usize, queues: &[u32]) -> u64 {
    u64::from(frames_per_worker(workers, queues)) * workers as u64 * u64::from(CHUNK_SIZE)
}

fn frames_per_worker(workers: usize, queues: &[u32]) -> u32 {
    let workers = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
    let sockets: u32 = queues.iter().map(|queues| queues.div_ceil(workers)).sum();
    sockets * FRAMES_PER_SOCKET + FRAMES_PER_WORKER
}

/// Attaches, reserves and binds everything in the calling thread's network namespace. Each
/// worker takes the queues whose number is its own, modulo the number of workers.
pub fn open(
    configs: &[InterfaceConfig],
    worker_count: usize,
    hugepages: AutoOnOff,
    nat64: &Nat64Config,
) -> Result<Opened, StartError> {
    let mut interfaces = Vec::new();
    for config in configs {
        let interface = Interface::find(&config.name)?;
        if (interface.queues as usize) < worker_count {
            return Err(StartError::TooFewQueues {
                interface: interface.name,
                queues: interface.queues,
                workers: worker_count,
            });
        }
        interfaces.push(interface);
    }
    let mut attached = Vec::new();
    for (interface, config) in interfaces.iter().zip(configs) {
        attached.push(Attached::attach(interface, config)?);
    }
    let mut steering = Steering::new(attached);
    let plan = Plan {
        interfaces: &interfaces,
        worker_count,
        hugepages,
    };
    let workers = plan.bind_all(configs)?;
    plan.connect(&workers, &mut steering)?;
    steering.update(nat64)?;
    let interfaces = plan.report(configs, &workers, &steering);
    Ok(Opened {
        workers,
        steering,
        interfaces,
    })
}

/// What is to be bound.
struct Plan<'a> {
    interfaces: &'a [Interface],
    worker_count: usize,
    hugepages: AutoOnOff,
}

impl Plan<'_> {
    /// The first socket decides between copy and zero-copy for all over the same memory; where
    /// a later interface cannot follow, all are bound anew in copy mode.
    fn bind_all(&self, configs: &[InterfaceConfig]) -> Result<Vec<XskIo>, StartError> {
        let wishes = configs.iter().map(|config| config.zero_copy);
        let on = wishes.clone().any(|wish| wish == AutoOnOff::On);
        let off = wishes.clone().any(|wish| wish == AutoOnOff::Off);
        match (on, off) {
            (true, true) => Err(StartError::NoZeroCopy {
                interface: configs[0].name.clone(),
            }),
            (true, false) => self.bind(configs, BindFlags::XDP_ZEROCOPY),
            (false, true) => self.bind(configs, BindFlags::XDP_COPY),
            (false, false) => match self.bind(configs, BindFlags::empty()) {
                Err(StartError::NoZeroCopy { .. }) => self.bind(configs, BindFlags::XDP_COPY),
                other => other,
            },
        }
    }

    fn bind(
        &self,
        configs: &[InterfaceConfig],
        flags: BindFlags,
    ) -> Result<Vec<XskIo>, StartError> {
        let queues: Vec<u32> = self.interfaces.iter().map(|i| i.queues).collect();
        let count = frames_per_worker(self.worker_count, &queues)
            * u32::try_from(self.worker_count).unwrap_or(u32::MAX);
        let (umem, descriptors) = make_umem(count, self.hugepages)?;
        let descriptors: Arc<[FrameDesc]> = descriptors.into();
        let (area, frames) = make_area(&umem, &descriptors)?;
        let mut workers = Vec::new();
        for (worker, pool) in FramePool::divide(&area, frames, self.worker_count)
            .into_iter()
            .enumerate()
        {
            let mut io = XskIo::new(pool, Arc::clone(&descriptors))?;
            for (interface, config) in self.interfaces.iter().zip(configs) {
                let first = io.sockets.len();
                for queue in (0..interface.queues)
                    .skip(worker)
                    .step_by(self.worker_count)
                {
                    let mut socket = XskSocket::bind(&umem, interface, queue, flags)?;
                    socket.busy_polls = busy_poll(socket.fd, interface, config.busy_poll)?;
                    io.sockets.push(socket);
                }
                io.ports.push(XskPort::over(first..io.sockets.len()));
            }
            io.listen();
            workers.push(io);
        }
        Ok(workers)
    }

    /// Frames first, then the map entries: from then on packets arrive.
    fn connect(&self, workers: &[XskIo], steering: &mut Steering) -> Result<(), StartError> {
        for io in workers {
            for (index, port) in io.ports.iter().enumerate() {
                for socket in &io.sockets[port.sockets.clone()] {
                    steering
                        .connect(index, socket.queue, socket.fd)
                        .map_err(|source| StartError::Socket {
                            interface: self.interfaces[index].name.clone(),
                            queue: socket.queue,
                            source,
                        })?;
                }
            }
        }
        Ok(())
    }

    fn report(
        &self,
        configs: &[InterfaceConfig],
        workers: &[XskIo],
        steering: &Steering,
    ) -> Vec<InterfaceReport> {
        let describe = |(index, interface): (usize, &Interface)| InterfaceReport {
            name: interface.name.clone(),
            index: interface.index,
            driver: interface.driver.clone(),
            mac: interface.mac,
            mtu: interface.mtu,
            queues: interface.queues,
            mode: steering.mode(index),
            zero_copy: workers.iter().all(|io| {
                let sockets = io.ports[index].sockets.clone();
                io.sockets[sockets]
                    .iter()
                    .all(|socket| is_zero_copy(socket.fd))
            }),
            busy_poll: workers.iter().any(|io| {
                let sockets = io.ports[index].sockets.clone();
                io.sockets[sockets].iter().any(|socket| socket.busy_polls)
            }),
            vlan: configs[index].vlan,
            notes: steering.notes(index),
        };
        self.interfaces.iter().enumerate().map(describe).collect()
    }
}

fn make_umem(count: u32, hugepages: AutoOnOff) -> Result<(Umem, Vec<FrameDesc>), StartError> {
    let octets = u64::from(count) * u64::from(CHUNK_SIZE);
    if hugepages != AutoOnOff::Off {
        match umem(count, true) {
            Ok(umem) => return Ok(umem),
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            Err(error) => return Err(umem_error(octets, error)),
        }
        if hugepages == AutoOnOff::On {
            return Err(StartError::NoHugepages {
                octets,
                pages: octets.div_ceil(2 << 20),
            });
        }
    }
    umem(count, false).map_err(|error| umem_error(octets, error))
}

fn umem(count: u32, hugepages: bool) -> io::Result<(Umem, Vec<FrameDesc>)> {
    let config = UmemConfig::builder()
        .frame_size(u32::from(CHUNK_SIZE).try_into().map_err(io::Error::other)?)
        .fill_queue_size(RING_SIZE.try_into().map_err(io::Error::other)?)
        .comp_queue_size(RING_SIZE.try_into().map_err(io::Error::other)?)
        .build()
        .map_err(io::Error::other)?;
    let count = NonZeroU32::new(count).ok_or_else(|| io::Error::other("no frames"))?;
    Umem::new(config, count, hugepages).map_err(os_error)
}

fn umem_error(octets: u64, error: io::Error) -> StartError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => StartError::MissingPrivilege {
            action: "open an AF_XDP socket",
        },
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => StartError::KernelFeature {
            action: "open AF_XDP sockets",
            source: error,
        },
        // xdp_umem_account_pages answers ENOBUFS beyond RLIMIT_MEMLOCK.
        Some(libc::ENOBUFS) => StartError::LockedMemory { octets },
        _ => StartError::FrameMemory {
            octets,
            source: error,
        },
    }
}

/// The system's error below one of xsk-rs's.
fn os_error(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    let below = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    match below.and_then(io::Error::raw_os_error) {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    }
}

fn make_area(
    umem: &Umem,
    descriptors: &[FrameDesc],
) -> Result<(Arc<FrameArea>, Vec<Frame>), StartError> {
    let no_base = || StartError::System {
        action: "find the frame memory",
        source: io::Error::other("there is none"),
    };
    let mut first = *descriptors.first().ok_or_else(no_base)?;
    let offset = first.addr();
    // SAFETY: the descriptor is of this UMEM, and nobody has touched it yet.
    let mut data = unsafe { umem.data_mut(&mut first) };
    // xsk-rs does not tell the base: it is derived from the first chunk's data. Its provenance
    // is exposed because this slice alone does not reach over the whole memory.
    let base = data.contents_mut().as_mut_ptr().expose_provenance() - offset;
    let base = NonNull::new(ptr::with_exposed_provenance_mut(base)).ok_or_else(no_base)?;
    let count = u32::try_from(descriptors.len()).map_err(|_| no_base())?;
    // SAFETY: `base` is where chunk 0 begins, the UMEM has one descriptor for each chunk of
    // CHUNK_SIZE, and only `Plan::bind` calls this, once for the UMEM that it made.
    Ok(unsafe { FrameArea::on_umem(umem.clone(), base, count) })
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

fn is_zero_copy(socket: RawFd) -> bool {
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

/// A socket on one queue. The sending ring is unmapped before the socket closes.
#[derive(Debug)]
struct XskSocket {
    raw_tx: RawTx,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    #[expect(dead_code, reason = "kept alive: its ring is used through raw_tx")]
    tx: TxQueue,
    fd: RawFd,
    queue: u32,
    receiving: u32,
    sending: u32,
    /// Whether the worker drives the queue itself …
    busy_polls: bool,
    /// … which it does when it found nothing there.
    was_empty: bool,
}

impl XskSocket {
    fn bind(
        umem: &Umem,
        interface: &Interface,
        queue: u32,
        flags: BindFlags,
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
        let give_up = Instant::now() + BUSY_MAX;
        let (tx, rx, rings) = loop {
            // SAFETY: this UMEM's rings on the queue are used by this socket alone (one socket
            // for a queue), and the frames are kept apart by their `Frame` tokens.
            match unsafe { Socket::new(config, umem, &name, queue) }.map_err(os_error) {
                Ok(socket) => break socket,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EBUSY) if Instant::now() < give_up => {
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
            busy_polls: false,
            was_empty: false,
        })
    }

    /// Gives free frames to the kernel to receive into, as many as there is room for. Answers
    /// the number of system calls.
    fn refill(
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
    fn complete(&mut self, pool: &mut FramePool, scratch: &mut Vec<FrameDesc>) {
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
