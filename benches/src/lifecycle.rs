//! New sessions, and their end.

use std::time::{Duration, Instant};

use gate64_dataplane::command::Event;
use gate64_dataplane::counters;
use gate64_dataplane::io::FrameArea;
use gate64_dataplane::nat64::Batch;
use gate64_dataplane::verdict::Side;
use gate64_dataplane::worker::{self, pass_events};
use gate64_wire::addr::Protocol;
use gate64_wire::facts::tcp_flag;
use rtrb::Producer;

use crate::BenchError;
use crate::contender::Contender;
use crate::flows::{flow, write_v6};
use crate::frames::{Frames, RUN_FRAMES};
use crate::gateway::{BLOCKS_PER_ADDRESS, Filled, Gateway, Size};
use crate::measure::Spread;

/// Makes one run's worth of new sessions; nanoseconds for each.
pub fn open_run(
    filled: &mut Filled,
    frames: &mut Frames,
    next: &mut u64,
    protocol: Protocol,
) -> Result<f64, BenchError> {
    let subscribers = filled.size.subscribers;
    open_with(&mut filled.gateway, subscribers, frames, next, protocol)
}

fn open_with(
    contender: &mut dyn Contender,
    subscribers: u64,
    frames: &mut Frames,
    next: &mut u64,
    protocol: Protocol,
) -> Result<f64, BenchError> {
    frames.fill(|_, bytes| {
        let len = write_v6(bytes, &flow(*next, subscribers), protocol, tcp_flag::SYN);
        *next += 1;
        (Side::V6, len)
    });
    let time = frames.timed(contender);
    let refused = frames.refused();
    if refused > 0 {
        return Err(BenchError::NotTranslated {
            what: "new sessions",
            refused,
            packets: RUN_FRAMES as u64,
        });
    }
    Ok(time / RUN_FRAMES as f64)
}

/// New sessions per second into an engine that has `sessions`.
pub fn new_sessions(sessions: u64, protocol: Protocol) -> Result<Spread, BenchError> {
    let more = (sessions / 10).min(100_000);
    let size = Size::of(sessions).with_capacity(sessions + 2 * more);
    let mut filled = Filled::new(size, protocol)?;
    let mut frames = Frames::new(64);
    let (mut next, mut times) = (sessions, Vec::new());
    while next < sessions + more {
        times.push(open_run(&mut filled, &mut frames, &mut next, protocol)?);
    }
    Ok(Spread::of(&mut times).map(|nanoseconds| 1e9 / nanoseconds))
}

/// Rate of new sessions at 99 % occupancy of the pool over that at 10 %, the same number of
/// sessions in the table.
pub fn occupancy() -> Result<Spread, BenchError> {
    // All blocks of sixteen addresses; a subscriber has one.
    let dense = 16 * BLOCKS_PER_ADDRESS;
    let sessions = dense * 512 * 986 / 1000;
    let capacity = sessions + 20_000;
    let size = |subscribers, addresses| Size {
        sessions,
        capacity,
        subscribers,
        addresses,
        log_sessions: false,
    };
    let mut full = Filled::new(size(dense, 16), Protocol::Udp)?;
    let mut sparse = Filled::new(size(dense * 10, 256), Protocol::Udp)?;
    let mut frames = Frames::new(64);
    let (mut next_full, mut next_sparse) = (sessions, sessions);
    let mut ratios = Vec::new();
    let udp = Protocol::Udp;
    for _ in 0..12 {
        let a1 = open_run(&mut sparse, &mut frames, &mut next_sparse, udp)?;
        let b1 = open_run(&mut full, &mut frames, &mut next_full, udp)?;
        let b2 = open_run(&mut full, &mut frames, &mut next_full, udp)?;
        let a2 = open_run(&mut sparse, &mut frames, &mut next_sparse, udp)?;
        ratios.push((a1 + a2) / (b1 + b2));
    }
    Ok(Spread::of(&mut ratios))
}

/// An engine whose events go where a worker puts them: to a ring, as many as there is room for.
struct Telling<'a> {
    gateway: &'a mut Gateway,
    ring: Producer<Event>,
}

impl Contender for Telling<'_> {
    fn burst(&mut self, area: &FrameArea, batch: &mut Batch) {
        self.gateway.burst(area, batch);
        pass_events(&mut self.gateway.nat64, &mut self.ring);
    }
}

/// Events on the way to the log.
const RING_EVENTS: usize = 4096;

/// Rate of new sessions that are told to a log which reads nothing, to that without a log.
pub fn stuck_log() -> Result<Spread, BenchError> {
    const SESSIONS: u64 = 100_000;
    let size = Size::of(SESSIONS).with_capacity(2 * SESSIONS);
    let mut silent = Filled::new(size, Protocol::Udp)?;
    let mut telling = Filled::new(size.with_log(), Protocol::Udp)?;
    let (ring, reader) = rtrb::RingBuffer::new(RING_EVENTS);
    let mut frames = Frames::new(64);
    let (mut next, mut next_told) = (SESSIONS, SESSIONS);
    let udp = Protocol::Udp;
    let subscribers = size.subscribers;
    let mut contender = Telling {
        gateway: &mut telling.gateway,
        ring,
    };
    let mut ratios = Vec::new();
    for _ in 0..24 {
        let a1 = open_run(&mut silent, &mut frames, &mut next, udp)?;
        let b = &mut contender;
        let b1 = open_with(b, subscribers, &mut frames, &mut next_told, udp)?;
        let b2 = open_with(b, subscribers, &mut frames, &mut next_told, udp)?;
        let a2 = open_run(&mut silent, &mut frames, &mut next, udp)?;
        ratios.push((a1 + a2) / (b1 + b2));
    }
    // It did stand still, or this would be the rate of a log that keeps up.
    debug_assert_eq!(reader.slots(), RING_EVENTS);
    Ok(Spread::of(&mut ratios))
}

/// What the end of all sessions, and then of their port blocks, took.
pub struct Teardown {
    /// Sessions ended per second.
    pub per_second: f64,
    /// Longest turn of expiry in nanoseconds.
    pub longest_turn: f64,
}

/// Engines that are torn down: the same work each time. A virtual machine is stopped for some tens
/// of microseconds a thousand times in such a run, so that one step in two million is hit in both of
/// two, but hardly any in three.
const TEARDOWNS: usize = 3;

/// Lets all UDP sessions of engines of that size expire at once, and their blocks later.
///
/// Expiry goes in steps, between which a worker looks at the clock. A step does the same work in
/// each of the engines, and its shortest time counts: what interrupts and other programs took
/// would have to hit the same step every time.
pub fn tear_down(size: Size) -> Result<Teardown, BenchError> {
    let mut steps: Vec<u32> = Vec::new();
    for _ in 0..TEARDOWNS {
        let mut filled = Filled::new(size, Protocol::Udp)?;
        let again = steps_of_end(&mut filled.gateway)?;
        if steps.is_empty() {
            steps = again;
            continue;
        }
        debug_assert_eq!(steps.len(), again.len());
        for (step, again) in steps.iter_mut().zip(again) {
            *step = (*step).min(again);
        }
    }
    let total: f64 = steps.iter().map(|&step| f64::from(step)).sum();
    Ok(Teardown {
        per_second: size.sessions as f64 * 1e9 / total,
        longest_turn: longest_turn(&steps),
    })
}

/// Nanoseconds of every step until nothing is left.
pub fn steps_of_end(gateway: &mut Gateway) -> Result<Vec<u32>, BenchError> {
    let counter = counters::sessions(Protocol::Udp.index());
    let sessions = gateway.nat64.counters().get(counter);
    // The wheel looks at them once early: its horizon is shorter than their lifetime.
    gateway.advance(Duration::from_secs(290));
    while gateway.nat64.expire(&gateway.routes, gateway.now, 1024) > 0 {}
    let mut steps = Vec::with_capacity(usize::try_from(sessions).unwrap_or(0) / 8);
    gateway.advance(Duration::from_secs(15));
    add_steps(gateway, &mut steps);
    let left = gateway.nat64.counters().get(counter);
    if left > 0 {
        return Err(BenchError::NotTranslated {
            what: "ending sessions",
            refused: left,
            packets: sessions,
        });
    }
    for _ in 0..10 {
        gateway.advance(Duration::from_secs(60));
        add_steps(gateway, &mut steps);
    }
    Ok(steps)
}

fn add_steps(gateway: &mut Gateway, steps: &mut Vec<u32>) {
    loop {
        let begin = Instant::now();
        let visited = gateway
            .nat64
            .expire(&gateway.routes, gateway.now, worker::EXPIRY_STEP);
        steps.push(u32::try_from(begin.elapsed().as_nanos()).unwrap_or(u32::MAX));
        if visited == 0 {
            return;
        }
    }
}

/// The longest turn in nanoseconds that [`worker::expire`] makes of these steps.
fn longest_turn(steps: &[u32]) -> f64 {
    let time = worker::EXPIRY_TIME.as_nanos() as f64;
    let (mut longest, mut left) = (0f64, steps);
    while !left.is_empty() {
        let (mut turn, mut count) = (0f64, 0);
        for &step in left
            .iter()
            .take(worker::EXPIRY_PER_TURN.div_ceil(worker::EXPIRY_STEP))
        {
            turn += f64::from(step);
            count += 1;
            if turn >= time {
                break;
            }
        }
        longest = longest.max(turn);
        left = &left[count..];
    }
    longest
}
