//! Opening: interfaces are found, frame memory reserved, programs attached, sockets bound, in the
//! order in which least has to be undone.

use std::io;
use std::num::NonZeroU32;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use xsk_rs::config::{BindFlags, UmemConfig};
use xsk_rs::{FrameDesc, Umem};

use super::super::area::{CHUNK_SIZE, FrameArea};
use super::super::error::StartError;
use super::super::interface::{Interface, InterfaceReport};
use super::super::pool::FramePool;
use super::super::steering::{Attached, Steering};
use super::socket::{XskSocket, is_zero_copy, os_error};
use super::{RING_SIZE, XskIo, XskPort};
use crate::config::{AutoOnOff, InterfaceConfig, Nat64Config};
use crate::packet::Frame;

/// Frames for a socket: a full fill ring and a full sending ring.
const FRAMES_PER_SOCKET: u32 = 2 * RING_SIZE;

/// Frames for a worker besides: bursts in work, hand-off rings, packets that wait for a neighbour.
const FRAMES_PER_WORKER: u32 = 1024;

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
                    let busy_poll = config.busy_poll;
                    let socket = XskSocket::bind(&umem, interface, queue, flags, busy_poll)?;
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
