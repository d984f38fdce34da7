//! Time as an argument: only a worker reads a clock, and there are two.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the process started (or since a capture began).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Instant(u64);

/// Session time in steps of [`TICK`]: fits an entry in 32 bits for 34 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
#[repr(transparent)]
pub struct Tick(pub u32);

/// The step of session time and of the timer wheel.
pub const TICK: Duration = Duration::from_millis(250);

const TICK_NANOS: u64 = 250_000_000;

impl Instant {
    /// The start.
    pub const ZERO: Instant = Instant(0);

    /// From nanoseconds since the start.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The tick this instant lies in.
    #[inline]
    pub fn tick(self) -> Tick {
        Tick(u32::try_from(self.0 / TICK_NANOS).unwrap_or(u32::MAX))
    }

    /// Time passed since `earlier`, zero if that is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, by: Duration) -> Instant {
        Instant(
            self.0
                .saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// Ticks of a lifetime, rounded up so that nothing expires early.
pub fn ticks(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.as_nanos().div_ceil(u128::from(TICK_NANOS))).unwrap_or(u32::MAX)
}

/// Where a worker's time comes from.
pub trait Clock {
    /// The present.
    fn now(&mut self) -> Instant;
}

/// The system's monotonic clock, counted from when it was made.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock {
    start: std::time::Instant,
    /// Wall-clock time of the start, to print session times.
    pub wall_start: SystemTime,
}

impl MonotonicClock {
    /// Starts at zero now. Copies of one clock agree.
    pub fn start() -> MonotonicClock {
        MonotonicClock {
            start: std::time::Instant::now(),
            wall_start: SystemTime::now(),
        }
    }

    /// Seconds since the Unix epoch of an instant of this clock.
    pub fn unix_seconds(&self, at: Instant) -> f64 {
        let start = self
            .wall_start
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        (start + Duration::from_nanos(at.as_nanos())).as_secs_f64()
    }
}

impl Clock for MonotonicClock {
    #[inline]
    fn now(&mut self) -> Instant {
        Instant(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A clock that stands still until it is moved: tests, simulation, replay.
#[derive(Debug, Clone, Copy, Default)]
pub struct ManualClock {
    now: Instant,
}

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
    }

    /// Sets the clock; it never goes back.
    pub fn set(&mut self, to: Instant) {
        self.now = self.now.max(to);
    }
}

impl Clock for ManualClock {
    fn now(&mut self) -> Instant {
        self.now
    }
}
