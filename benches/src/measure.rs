//! Runs, medians, interleaving.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::contender::Contender;
use crate::frames::{Frames, Load, RUN_FRAMES};

/// CPU time of the calling thread: what other programs do meanwhile does not count.
pub fn cpu_nanoseconds() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(|time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
        .unwrap_or(0)
}

/// A median with the tenth and ninetieth percentile around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The tenth percentile.
    pub low: f64,
    /// The ninetieth percentile.
    pub high: f64,
}

impl Spread {
    /// Of these values; not a number if there are none.
    pub fn of(values: &mut [f64]) -> Spread {
        values.sort_unstable_by(f64::total_cmp);
        let at = |tenths: usize| {
            let place = values.len().saturating_sub(1) * tenths / 10;
            values.get(place).copied().unwrap_or(f64::NAN)
        };
        Spread {
            median: at(5),
            low: at(1),
            high: at(9),
        }
    }

    /// Every value passed through a decreasing or increasing function.
    pub fn map(self, change: impl Fn(f64) -> f64) -> Spread {
        let (a, b) = (change(self.low), change(self.high));
        Spread {
            median: change(self.median),
            low: a.min(b),
            high: a.max(b),
        }
    }
}

/// One side of a comparison: who works which packets in which bursts.
pub struct Subject<'a> {
    pub contender: &'a mut dyn Contender,
    pub frames: &'a mut Frames,
    pub load: Load<'a>,
}

/// Runs in one measurement; its value is their median, so that a run during which the machine
/// did something else does not count.
const RUNS: usize = 16;

impl Subject<'_> {
    /// Packets in one measurement.
    pub const PACKETS: u64 = (RUNS * RUN_FRAMES) as u64;

    /// Nanoseconds per packet, and the number of packets that were not translated.
    pub fn measure(&mut self) -> (f64, u64) {
        let mut times = Vec::with_capacity(RUNS);
        let mut refused = 0;
        for _ in 0..RUNS {
            self.load.write(self.frames);
            times.push(self.frames.timed(self.contender) / RUN_FRAMES as f64);
            refused += self.frames.refused();
        }
        (Spread::of(&mut times).median, refused)
    }
}

/// What interleaved measurements of two subjects gave.
pub struct Compared {
    /// Nanoseconds per packet of the first.
    pub first: Spread,
    /// Nanoseconds per packet of the second.
    pub second: Spread,
    /// Second to first, the median over the rounds.
    pub ratio: Spread,
    /// Packets that were not translated.
    pub refused: u64,
    /// Packets in all.
    pub packets: u64,
}

/// Measurements before those that count: a table that was just filled has most of its pages'
/// translations in no cache, and each page's first visit is slow.
const WARM_UP: usize = 48;

/// Measures A, B, B, A in every round, after a warm-up of both.
pub fn compare(a: &mut Subject, b: &mut Subject, rounds: usize) -> Compared {
    for _ in 0..WARM_UP {
        a.measure();
        b.measure();
    }
    let (mut first, mut second, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut refused = 0;
    for _ in 0..rounds {
        let [a1, b1, b2, a2] = [a.measure(), b.measure(), b.measure(), a.measure()];
        first.extend([a1.0, a2.0]);
        second.extend([b1.0, b2.0]);
        ratios.push((b1.0 + b2.0) / (a1.0 + a2.0));
        refused += a1.1 + b1.1 + b2.1 + a2.1;
    }
    Compared {
        first: Spread::of(&mut first),
        second: Spread::of(&mut second),
        ratio: Spread::of(&mut ratios),
        refused,
        packets: rounds as u64 * 4 * Subject::PACKETS,
    }
}

/// Resident octets of this process.
pub fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// Octets of memory that can be had without pushing others out.
pub fn memory_available() -> u64 {
    memory("MemAvailable:")
}

/// Octets of memory in the machine.
pub fn memory_total() -> u64 {
    memory("MemTotal:")
}

fn memory(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
