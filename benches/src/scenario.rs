//! The harness of [`crate::engine`] for the benches of `make bench`: the same flows, packets and
//! engine, one scenario at a time.

use std::time::Duration;

use gate64_dataplane::memory::hash::Rng;
use gate64_dataplane::verdict::Side;
use gate64_wire::addr::Protocol;

use crate::BenchError;
pub use crate::flows::Choice;
use crate::frames::{Frames, Load, RUN_FRAMES};
use crate::gateway::{Filled, Size};
use crate::lifecycle::{open_run, steps_of_end};

/// Established traffic of one kind.
pub struct Established {
    filled: Filled,
    frames: Frames,
    protocol: Protocol,
    side: Side,
    choice: Choice,
    seed: u64,
}

impl Established {
    /// An engine with so many sessions of a protocol, and packets of theirs from one side.
    ///
    /// # Errors
    /// The engine's memory, or a session that could not be made.
    pub fn new(
        sessions: u64,
        protocol: Protocol,
        side: Side,
        choice: Choice,
    ) -> Result<Established, BenchError> {
        Ok(Established {
            filled: Filled::new(Size::of(sessions), protocol)?,
            frames: Frames::new(64),
            protocol,
            side,
            choice,
            seed: 1,
        })
    }

    /// What `packets` packets in bursts of 64 take; writing them does not count.
    ///
    /// # Errors
    /// A packet was not translated.
    pub fn run(&mut self, packets: u64) -> Result<Duration, BenchError> {
        self.seed += 1;
        let mut load = Load {
            protocol: self.protocol,
            side: Some(self.side),
            choice: self.choice,
            mapped: &self.filled.mapped,
            subscribers: self.filled.size.subscribers,
            rng: Rng::new(self.seed),
        };
        let runs = packets.div_ceil(RUN_FRAMES as u64);
        let (mut nanoseconds, mut refused) = (0.0, 0);
        for _ in 0..runs {
            load.write(&mut self.frames);
            nanoseconds += self.frames.timed(&mut self.filled.gateway);
            refused += self.frames.refused();
        }
        if refused > 0 {
            return Err(BenchError::NotTranslated {
                what: "established traffic",
                refused,
                packets: runs * RUN_FRAMES as u64,
            });
        }
        Ok(scaled(nanoseconds, runs * RUN_FRAMES as u64, packets))
    }
}

/// Sessions that begin.
pub struct Opening {
    filled: Filled,
    frames: Frames,
    protocol: Protocol,
    next: u64,
}

impl Opening {
    /// An engine with so many sessions and room for a tenth more.
    ///
    /// # Errors
    /// The engine's memory, or a session that could not be made.
    pub fn new(sessions: u64, protocol: Protocol) -> Result<Opening, BenchError> {
        let size = Size::of(sessions).with_capacity(sessions + sessions / 10 + RUN_FRAMES as u64);
        Ok(Opening {
            filled: Filled::new(size, protocol)?,
            frames: Frames::new(64),
            protocol,
            next: sessions,
        })
    }

    /// What the first packets of `count` sessions take. A full engine is made anew, which does
    /// not count.
    ///
    /// # Errors
    /// As [`Opening::new`].
    pub fn run(&mut self, count: u64) -> Result<Duration, BenchError> {
        let runs = count.div_ceil(RUN_FRAMES as u64);
        let mut nanoseconds = 0.0;
        for _ in 0..runs {
            if self.next + RUN_FRAMES as u64 > self.filled.size.capacity {
                *self = Opening::new(self.filled.size.sessions, self.protocol)?;
            }
            let each = open_run(
                &mut self.filled,
                &mut self.frames,
                &mut self.next,
                self.protocol,
            )?;
            nanoseconds += each * RUN_FRAMES as f64;
        }
        Ok(scaled(nanoseconds, runs * RUN_FRAMES as u64, count))
    }
}

/// What the end of `count` UDP sessions takes, `at_once` of them due at once.
///
/// # Errors
/// The engine's memory, or a session that could not be made or did not end.
pub fn expiry(count: u64, at_once: u64) -> Result<Duration, BenchError> {
    let runs = count.div_ceil(at_once);
    let mut nanoseconds = 0.0;
    for _ in 0..runs {
        let mut filled = Filled::new(Size::of(at_once), Protocol::Udp)?;
        let steps = steps_of_end(&mut filled.gateway)?;
        nanoseconds += steps.iter().map(|&step| f64::from(step)).sum::<f64>();
    }
    Ok(scaled(nanoseconds, runs * at_once, count))
}

/// The time of `wanted` where `done` took so long.
fn scaled(nanoseconds: f64, done: u64, wanted: u64) -> Duration {
    Duration::from_secs_f64(nanoseconds / 1e9 * wanted as f64 / done.max(1) as f64)
}
