//! Whole workers, each on a core of its own, over ports that make their traffic in memory.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam::channel::Sender;
use gate64_dataplane::clock::MonotonicClock;
use gate64_dataplane::command::{Command, Event};
use gate64_dataplane::counters::{self, PublishedCounters};
use gate64_dataplane::io::{FrameArea, IoStatistics, PacketIo, Waker};
use gate64_dataplane::packet::{Frame, Window};
use gate64_dataplane::route::PortId;
use gate64_dataplane::verdict::{Side, WorkerId};
use gate64_dataplane::worker::{Handoff, Idle, Links, Worker};
use gate64_wire::addr::{Protocol, TransportAddr4};

use crate::BenchError;
use crate::flows::{ACK, Flow, PACKET_MAX, flow, write_v4, write_v6};
use crate::gateway::{Gateway, Size, routes};
use crate::measure::Spread;

const FRAMES_PER_WORKER: u32 = 4096;
/// Sessions over all workers, the same for one and for several.
pub const SESSIONS_OF_TEAM: u32 = 200_000;
/// Packets that a port sends again and again.
const PACKETS: usize = 8192;
/// A run of a team.
const RUN: Duration = Duration::from_millis(60);
const ETHERNET: usize = 14;
const PACKET: usize = 80;

/// A packet with its link header, ready to be copied.
struct Template {
    octets: [u8; ETHERNET + PACKET],
    len: usize,
}

/// Two ports whose received packets are templates, one after the other, and whose sent frames
/// are free again at once.
struct TrafficIo {
    area: Arc<FrameArea>,
    free: Vec<Frame>,
    traffic: [Vec<Template>; 2],
    next: [usize; 2],
    waker: Arc<Waker>,
}

impl PacketIo for TrafficIo {
    fn area(&self) -> &Arc<FrameArea> {
        &self.area
    }

    fn port_count(&self) -> usize {
        2
    }

    fn receive(&mut self, port: PortId, max: usize, into: &mut Vec<Frame>) -> usize {
        let port = usize::from(port.0);
        let traffic = &self.traffic[port];
        let count = max.min(self.free.len());
        for mut frame in self.free.drain(self.free.len() - count..) {
            let template = &traffic[self.next[port]];
            self.next[port] = (self.next[port] + 1) % traffic.len();
            let written = self
                .area
                .write(&mut frame, &template.octets[..template.len]);
            debug_assert!(written, "a small packet fits a frame");
            into.push(frame);
        }
        count
    }

    fn stage(&mut self, _port: PortId, frame: Frame) -> Result<(), Frame> {
        self.free.push(frame);
        Ok(())
    }

    fn flush(&mut self) {}

    fn reclaim(&mut self) {}

    fn allocate(&mut self) -> Option<Frame> {
        let mut frame = self.free.pop()?;
        frame.window = Window::default();
        Some(frame)
    }

    fn release(&mut self, frame: Frame) {
        self.free.push(frame);
    }

    fn wait(&mut self, _timeout: Duration) {}

    fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    fn statistics(&self) -> IoStatistics {
        IoStatistics::default()
    }
}

/// A worker with what it is connected to kept alive.
struct Seat {
    worker: Worker<TrafficIo, MonotonicClock>,
    _commands: Sender<Command>,
    _events: rtrb::Consumer<Event>,
}

/// Workers that share one pool.
pub struct Team {
    seats: Vec<Seat>,
}

impl Team {
    /// `workers` workers; with `crossing`, every packet from IPv4 arrives at another worker than
    /// its owner.
    pub fn new(workers: u8, crossing: bool) -> Result<Team, BenchError> {
        let size = Size::of(SESSIONS_OF_TEAM.into());
        let shared = size.shared(workers);
        let mut engines = Vec::new();
        let mut owned: Vec<Vec<(Flow, TransportAddr4)>> = Vec::new();
        for number in 0..workers {
            let mut gateway = Gateway::of_worker(&shared, number)?;
            let flows = (0..size.sessions)
                .map(|number| flow(number, size.subscribers))
                .filter(|flow| shared.ownership.of_v6(flow.v6.ip) == WorkerId(number));
            let mut mine = Vec::new();
            gateway.open(flows, Protocol::Udp, |flow, mapped| {
                mine.push((flow, mapped))
            })?;
            engines.push(gateway);
            owned.push(mine);
        }
        let wakers: Vec<Arc<Waker>> = (0..workers)
            .map(|_| Waker::new().map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(|source| BenchError::Io {
                what: "an event".into(),
                source,
            })?;
        let mut meshes = Handoff::mesh(&wakers).into_iter();
        let (area, mut frames) = FrameArea::on_heap(FRAMES_PER_WORKER * u32::from(workers));
        let mut seats = Vec::new();
        for (number, gateway) in engines.into_iter().enumerate() {
            let other = if crossing {
                (number + 1) % owned.len()
            } else {
                number
            };
            let io = TrafficIo {
                area: Arc::clone(&area),
                free: frames.split_off(frames.len() - FRAMES_PER_WORKER as usize),
                traffic: [
                    templates(&owned[number], Side::V6),
                    templates(&owned[other], Side::V4),
                ],
                next: [0; 2],
                waker: Arc::clone(&wakers[number]),
            };
            let handoff = meshes.next().expect("one for each worker");
            seats.push(seat(io, gateway, handoff));
        }
        Ok(Team { seats })
    }

    /// Lets all workers run that long, each on its core; packets forwarded per second.
    pub fn run(&mut self, time: Duration, cores: &[core_affinity::CoreId]) -> f64 {
        let barrier = Barrier::new(self.seats.len());
        let barrier = &barrier;
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .seats
                .iter_mut()
                .zip(cores)
                .map(|(seat, &core)| {
                    scope.spawn(move || {
                        core_affinity::set_for_current(core);
                        barrier.wait();
                        seat.rate(time)
                    })
                })
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .sum()
        })
    }

    /// Packets dropped so far.
    pub fn dropped(&mut self) -> u64 {
        let mut all = 0;
        for seat in &mut self.seats {
            let counters = seat.worker.counters();
            for side in [Side::V6, Side::V4] {
                let reason = gate64_dataplane::verdict::DropReason::NoBib;
                all += counters.get(counters::drop_id(side, reason));
            }
        }
        all
    }
}

impl Seat {
    fn forwarded(&mut self) -> u64 {
        let counters = self.worker.counters();
        [Side::V6, Side::V4]
            .map(|side| counters.get(counters::packets_forwarded(side.index())))
            .iter()
            .sum()
    }

    fn rate(&mut self, time: Duration) -> f64 {
        let before = self.forwarded();
        let start = Instant::now();
        while start.elapsed() < time {
            for _ in 0..16 {
                self.worker.turn();
            }
        }
        (self.forwarded() - before) as f64 / start.elapsed().as_secs_f64()
    }
}

fn seat(io: TrafficIo, gateway: Gateway, handoff: Handoff) -> Seat {
    let (events, _events) = rtrb::RingBuffer::new(64);
    let (_commands, commands) = crossbeam::channel::bounded(1);
    let links = Links {
        handoff,
        commands,
        events,
        published: Arc::new(PublishedCounters::default()),
        routes: Arc::new(ArcSwap::from_pointee(routes())),
    };
    let clock = MonotonicClock::start();
    let vlans = vec![None, None];
    Seat {
        worker: Worker::new(io, clock, gateway.nat64, vlans, links, Idle::default()),
        _commands,
        _events,
    }
}

/// Packets of flows spread evenly over all.
fn templates(flows: &[(Flow, TransportAddr4)], side: Side) -> Vec<Template> {
    (0..PACKETS)
        .map(|number| {
            // Not in the order in which the sessions were made.
            let place = (number * 4099 % PACKETS) * flows.len() / PACKETS;
            let (flow, mapped) = flows[place];
            let mut packet = [0; PACKET_MAX];
            let (len, ethertype) = match side {
                Side::V6 => (
                    write_v6(&mut packet, &flow, Protocol::Udp, ACK),
                    [0x86, 0xdd],
                ),
                Side::V4 => {
                    let udp = Protocol::Udp;
                    (
                        write_v4(&mut packet, flow.remote, mapped, udp, ACK),
                        [0x08, 0x00],
                    )
                }
            };
            let mut octets = [0; ETHERNET + PACKET];
            octets[12..14].copy_from_slice(&ethertype);
            octets[ETHERNET..ETHERNET + len].copy_from_slice(&packet[..len]);
            Template {
                octets,
                len: ETHERNET + len,
            }
        })
        .collect()
}

/// Rates of several workers over one's.
pub struct Scaling {
    /// All packets arrive at their owner.
    pub direct: Spread,
    /// All packets from IPv4 arrive elsewhere.
    pub handed_off: Spread,
}

/// Rates of a number of workers, one for each repetition.
pub struct Rates {
    /// Packets forwarded per second, both directions together.
    pub rates: Vec<f64>,
    /// The same to what one worker forwarded before and after.
    pub to_one: Vec<f64>,
}

/// Cores that this process may run on.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// `count` workers beside one, all packets arriving at their owner.
pub fn rates(count: u8, repeats: u32) -> Result<Rates, BenchError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if usize::from(count) > cores.len() {
        return Err(BenchError::Cores {
            wanted: count.into(),
            available: cores.len(),
        });
    }
    let mut alone = Team::new(1, false)?;
    let mut together = Team::new(count, false)?;
    for team in [&mut alone, &mut together] {
        team.run(RUN, &cores);
    }
    let (mut rates, mut to_one) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        let before = alone.run(RUN, &cores);
        let rate = together.run(2 * RUN, &cores);
        let after = alone.run(RUN, &cores);
        rates.push(rate);
        to_one.push(2.0 * rate / (before + after));
    }
    all_translated(&mut [&mut alone, &mut together])?;
    Ok(Rates { rates, to_one })
}

fn all_translated(teams: &mut [&mut Team]) -> Result<(), BenchError> {
    let dropped = teams.iter_mut().map(|team| team.dropped()).sum();
    if dropped > 0 {
        return Err(BenchError::NotTranslated {
            what: "workers",
            refused: dropped,
            packets: dropped,
        });
    }
    Ok(())
}

/// Compares one worker with `workers`.
pub fn scaling(workers: usize, rounds: usize) -> Result<Scaling, BenchError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let Ok(count) = u8::try_from(workers) else {
        return Err(BenchError::Cores {
            wanted: workers,
            available: cores.len(),
        });
    };
    let mut alone = Team::new(1, false)?;
    let mut together = Team::new(count, false)?;
    let mut crossing = Team::new(count, true)?;
    let time = RUN;
    let (mut direct, mut handed_off) = (Vec::new(), Vec::new());
    for team in [&mut alone, &mut together, &mut crossing] {
        team.run(time, &cores);
    }
    for _ in 0..rounds {
        let a1 = alone.run(time, &cores);
        let b1 = together.run(time, &cores);
        let c = crossing.run(time * 2, &cores);
        let b2 = together.run(time, &cores);
        let a2 = alone.run(time, &cores);
        direct.push((b1 + b2) / (a1 + a2));
        handed_off.push(2.0 * c / (a1 + a2));
    }
    all_translated(&mut [&mut alone, &mut together, &mut crossing])?;
    Ok(Scaling {
        direct: Spread::of(&mut direct),
        handed_off: Spread::of(&mut handed_off),
    })
}
