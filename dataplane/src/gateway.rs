//! Starts and stops all workers, and is control's handle on them.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use core_affinity::CoreId;
use crossbeam::channel::{self, Receiver, Sender, TrySendError};
use rtrb::{Consumer, RingBuffer};

use crate::clock::MonotonicClock;
use crate::command::{Command, Event};
use crate::config::{AutoOnOff, InterfaceConfig, L4Checksum, Nat64Config};
use crate::counters::PublishedCounters;
pub use crate::io::StartError;
use crate::io::steering::{Steering, SteeringStatistics};
use crate::io::xsk::{self, Opened, XskIo, XskProbe};
use crate::io::{InterfaceReport, PacketIo, Waker, XskStatistics};
use crate::nat64::Nat64;
use crate::nat64::plan::{Settings, Shared};
use crate::nat64::pool4::PoolMap;
use crate::route::{PortId, RouteSnapshot};
use crate::verdict::WorkerId;
use crate::worker::{Handoff, Idle, Links, Worker};

/// Commands that wait for a worker.
const COMMANDS_MAX: usize = 64;

/// Events that wait for control, for each worker.
const EVENTS_MAX: usize = 8192;

/// Workers are numbered with one octet.
const WORKERS_MAX: usize = 255;

/// Which CPUs workers run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workers {
    /// As many as the interface with the fewest has receive queues, and as there are CPUs.
    Auto,
    /// One on each of these CPUs.
    Cpus(Vec<usize>),
}

/// What the data plane is told besides interfaces and translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataplaneSettings {
    /// Which CPUs workers run on.
    pub workers: Workers,
    /// Sessions over all workers.
    pub session_count_max: u64,
    /// Whether frames and sessions lie on hugepages.
    pub hugepages: AutoOnOff,
    /// Whether each session is told to the log.
    pub log_sessions: bool,
    /// When a worker without traffic sleeps.
    pub idle: Idle,
}

/// All workers, running. Dropping it stops them.
#[derive(Debug)]
pub struct Gateway {
    workers: Vec<RunningWorker>,
    steering: Steering,
    interfaces: Vec<InterfaceReport>,
    events: Vec<Consumer<Event>>,
    pool: Arc<PoolMap>,
}

#[derive(Debug)]
struct RunningWorker {
    thread: Option<JoinHandle<()>>,
    cpu: usize,
    commands: Sender<Command>,
    waker: Arc<Waker>,
    published: Arc<PublishedCounters>,
    probes: Vec<XskProbe>,
}

/// Why a command did not reach a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no worker of that number, or it has stopped.
    #[error("worker {0} does not run")]
    NotRunning(u8),
    /// Too many commands wait already.
    #[error("worker {0} has too many commands waiting")]
    Busy(u8),
}

/// Why a configuration was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum ReconfigureError {
    /// A worker does not take it.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The interfaces cannot be told.
    #[error(transparent)]
    Steering(#[from] StartError),
}

impl Gateway {
    /// Reserves session memory, attaches the XDP programs, binds all queues and starts the
    /// workers, in the calling thread's network namespace.
    pub fn start(
        settings: &DataplaneSettings,
        interfaces: &[InterfaceConfig],
        config: &Arc<Nat64Config>,
        routes: &Arc<ArcSwap<RouteSnapshot>>,
        clock: MonotonicClock,
    ) -> Result<Gateway, StartError> {
        let cpus = choose_cpus(&settings.workers, xsk::workers_max(interfaces)?)?;
        let shared = share(settings, interfaces, config, cpus.len());
        // The larger part of what can fail comes before the first interface is touched.
        let crew = Crew::reserve(&shared, &cpus)?;
        let opened = xsk::open(interfaces, cpus.len(), settings.hugepages, config)?;
        let vlans: Vec<_> = interfaces.iter().map(|interface| interface.vlan).collect();
        let pool = Arc::clone(&shared.pool);
        crew.start(opened, &vlans, routes, clock, settings.idle, pool)
    }

    /// The pools in use.
    pub fn pool(&self) -> &Arc<PoolMap> {
        &self.pool
    }

    /// Has every worker take over a configuration with these pools. What can refuse comes first: a
    /// worker that is stuck or has ended, then the interfaces, whose steering is changed with it.
    ///
    /// # Errors
    /// What is in the way. No worker has taken anything over then, but where one of them ended just
    /// now, of which the gateway does not recover; interfaces may steer what they were told.
    pub fn reconfigure(
        &mut self,
        config: &Arc<Nat64Config>,
        pool: &Arc<PoolMap>,
    ) -> Result<(), ReconfigureError> {
        // A worker takes a few commands in a turn: one that has many waiting is stuck.
        let full = |worker: &RunningWorker| worker.commands.len() + 1 >= COMMANDS_MAX;
        if let Some(worker) = self.workers.iter().position(full) {
            let worker = u8::try_from(worker).unwrap_or(u8::MAX);
            return Err(CommandError::Busy(worker).into());
        }
        if let Some(WorkerId(worker)) = self.failed_worker() {
            return Err(CommandError::NotRunning(worker).into());
        }
        self.steering.update(config)?;
        for (worker, _) in (0u8..).zip(&self.workers) {
            let command = Command::Reconfigure {
                config: Arc::clone(config),
                pool: Arc::clone(pool),
            };
            self.command(WorkerId(worker), command)?;
        }
        self.pool = Arc::clone(pool);
        Ok(())
    }

    /// Number of workers.
    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// The CPU of each worker.
    pub fn cpus(&self) -> Vec<usize> {
        self.workers.iter().map(|worker| worker.cpu).collect()
    }

    /// Gives a worker a command, and wakes it.
    pub fn command(&self, worker: WorkerId, command: Command) -> Result<(), CommandError> {
        let running = self.workers.get(usize::from(worker.0));
        let running = running.ok_or(CommandError::NotRunning(worker.0))?;
        match running.commands.try_send(command) {
            Ok(()) => {
                running.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(_)) => Err(CommandError::Busy(worker.0)),
            Err(TrySendError::Disconnected(_)) => Err(CommandError::NotRunning(worker.0)),
        }
    }

    /// Wakes all workers, so that they see new routes at once and not after their sleep.
    pub fn wake(&self) {
        for worker in &self.workers {
            worker.waker.wake();
        }
    }

    /// Each worker's counters, at most some 20 ms old.
    pub fn counters(&self) -> Vec<Arc<PublishedCounters>> {
        let published = self.workers.iter().map(|worker| &worker.published);
        published.map(Arc::clone).collect()
    }

    /// Each worker's events. Can be taken once; a second time there are none.
    pub fn take_events(&mut self) -> Vec<Consumer<Event>> {
        std::mem::take(&mut self.events)
    }

    /// The interfaces as they were taken into use.
    pub fn interfaces(&self) -> &[InterfaceReport] {
        &self.interfaces
    }

    /// What the kernel counted on the sockets of each interface.
    pub fn xsk_statistics(&self) -> Vec<XskStatistics> {
        let mut all = vec![XskStatistics::default(); self.interfaces.len()];
        for probe in self.workers.iter().flat_map(|worker| &worker.probes) {
            let PortId(port) = probe.port;
            if let (Some(sum), Ok(read)) = (all.get_mut(usize::from(port)), probe.read()) {
                *sum += read;
            }
        }
        all
    }

    /// What the XDP program of each interface counted.
    pub fn steering_statistics(&self) -> Vec<SteeringStatistics> {
        self.steering.statistics()
    }

    /// A worker that has stopped by itself, which only a bug makes it do.
    pub fn failed_worker(&self) -> Option<WorkerId> {
        let ended =
            |worker: &RunningWorker| worker.thread.as_ref().is_none_or(JoinHandle::is_finished);
        let index = self.workers.iter().position(ended)?;
        u8::try_from(index).ok().map(WorkerId)
    }

    /// Stops all workers, closes the sockets and detaches the XDP programs. Answers whether
    /// every worker ended in good order.
    pub fn stop(mut self) -> bool {
        self.halt()
    }

    /// Stops all workers in good order; sockets and XDP programs go when the gateway is dropped.
    pub fn halt(&mut self) -> bool {
        for worker in &mut self.workers {
            // Nobody has commands for it any more, so it ends behind those that wait, however many:
            // there is always room to say so.
            worker.commands = channel::bounded(0).0;
            worker.waker.wake();
        }
        let threads = self
            .workers
            .iter_mut()
            .filter_map(|worker| worker.thread.take());
        // All are joined, whether or not one of them failed.
        let results: Vec<bool> = threads.map(|thread| thread.join().is_ok()).collect();
        results.into_iter().all(|ended| ended)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.halt();
    }
}

/// The CPUs to run on, one for each worker.
fn choose_cpus(workers: &Workers, queues: usize) -> Result<Vec<usize>, StartError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let available: Vec<usize> = cores.into_iter().map(|core| core.id).collect();
    match workers {
        Workers::Auto => {
            let count = queues.min(available.len()).clamp(1, WORKERS_MAX);
            // From the last one down: the first ones have most of the host's other work.
            let mut cpus: Vec<usize> = available.into_iter().rev().take(count).collect();
            if cpus.is_empty() {
                cpus.push(0);
            }
            Ok(cpus)
        }
        Workers::Cpus(cpus) => match cpus.iter().find(|cpu| !available.contains(cpu)) {
            None => Ok(cpus.iter().copied().take(WORKERS_MAX).collect()),
            Some(&cpu) => {
                let names: Vec<String> = available.iter().map(usize::to_string).collect();
                let available = names.join(", ");
                Err(StartError::NoSuchCpu { cpu, available })
            }
        },
    }
}

fn share(
    settings: &DataplaneSettings,
    interfaces: &[InterfaceConfig],
    config: &Arc<Nat64Config>,
    workers: usize,
) -> Arc<Shared> {
    let workers = u8::try_from(workers).unwrap_or(u8::MAX);
    let recompute = |interface: &InterfaceConfig| interface.l4_checksum == L4Checksum::Recompute;
    Arc::new(Shared::new(
        Arc::clone(config),
        Settings {
            hugepages: settings.hugepages,
            log_sessions: settings.log_sessions,
            recompute_checksums: interfaces.iter().map(recompute).collect(),
            ..Settings::new(workers, settings.session_count_max)
        },
    ))
}

/// Threads that have their session memory and wait for their ports.
struct Crew {
    members: Vec<Member>,
}

struct Member {
    cpu: usize,
    thread: JoinHandle<()>,
    start: Sender<Start>,
}

/// What a thread needs to begin.
struct Start {
    io: XskIo,
    clock: MonotonicClock,
    vlans: Vec<Option<u16>>,
    links: Links,
    idle: Idle,
}

impl Crew {
    /// Each thread reserves its own memory, on its own core, so that it lies near that.
    fn reserve(shared: &Arc<Shared>, cpus: &[usize]) -> Result<Crew, StartError> {
        let (ready, readiness) = channel::bounded(cpus.len());
        let mut members = Vec::new();
        for (worker, &cpu) in (0u8..).map(WorkerId).zip(cpus) {
            let (start, started) = channel::bounded(1);
            let (shared, ready) = (Arc::clone(shared), ready.clone());
            let thread = std::thread::Builder::new()
                .name(format!("gate64-w{}", worker.0))
                .spawn(move || member(&shared, worker, cpu, &ready, &started))
                .map_err(|source| StartError::System {
                    action: "start a worker",
                    source,
                })?;
            members.push(Member { cpu, thread, start });
        }
        for _ in cpus {
            match readiness.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let source = io::Error::other("it ended early");
                    return Err(StartError::System {
                        action: "start a worker",
                        source,
                    });
                }
            }
        }
        Ok(Crew { members })
    }

    fn start(
        self,
        opened: Opened,
        vlans: &[Option<u16>],
        routes: &Arc<ArcSwap<RouteSnapshot>>,
        clock: MonotonicClock,
        idle: Idle,
        pool: Arc<PoolMap>,
    ) -> Result<Gateway, StartError> {
        let wakers: Vec<_> = opened
            .workers
            .iter()
            .map(|io| Arc::clone(io.waker()))
            .collect();
        let mut gateway = Gateway {
            workers: Vec::new(),
            steering: opened.steering,
            interfaces: opened.interfaces,
            events: Vec::new(),
            pool,
        };
        let rings = Handoff::mesh(&wakers);
        for ((member, io), handoff) in self.members.into_iter().zip(opened.workers).zip(rings) {
            let (commands, received) = channel::bounded(COMMANDS_MAX);
            let (events, told) = RingBuffer::new(EVENTS_MAX);
            let published = Arc::new(PublishedCounters::default());
            gateway.events.push(told);
            gateway.workers.push(RunningWorker {
                thread: Some(member.thread),
                cpu: member.cpu,
                commands,
                waker: Arc::clone(io.waker()),
                published: Arc::clone(&published),
                probes: io.probes().map_err(|source| StartError::System {
                    action: "duplicate a socket",
                    source,
                })?,
            });
            let links = Links {
                handoff,
                commands: received,
                events,
                published,
                routes: Arc::clone(routes),
            };
            // A thread that ended meanwhile shows as failed.
            let _ = member.start.send(Start {
                io,
                clock,
                vlans: vlans.to_vec(),
                links,
                idle,
            });
        }
        Ok(gateway)
    }
}

/// A worker's thread.
fn member(
    shared: &Shared,
    worker: WorkerId,
    cpu: usize,
    ready: &Sender<Result<(), StartError>>,
    started: &Receiver<Start>,
) {
    // A container may forbid it; then the scheduler decides.
    core_affinity::set_for_current(CoreId { id: cpu });
    let nat64 = match Nat64::new(shared, worker) {
        Ok(nat64) => nat64,
        Err(error) => {
            let _ = ready.send(Err(StartError::SessionMemory(error)));
            return;
        }
    };
    // Where nobody listens any more, starting has failed elsewhere.
    if ready.send(Ok(())).is_err() {
        return;
    }
    let Ok(start) = started.recv() else {
        return;
    };
    Worker::new(
        start.io,
        start.clock,
        nat64,
        start.vlans,
        start.links,
        start.idle,
    )
    .run();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_workers_than_queues() {
        assert_eq!(choose_cpus(&Workers::Auto, 1).unwrap().len(), 1);
        assert!(!choose_cpus(&Workers::Auto, 64).unwrap().is_empty());
    }

    #[test]
    fn a_cpu_that_is_not_there_is_named() {
        let error = choose_cpus(&Workers::Cpus(vec![0, 4096]), 8).unwrap_err();
        assert!(error.to_string().contains("no CPU 4096"), "{error}");
    }
}
