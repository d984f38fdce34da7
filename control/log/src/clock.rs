//! From the workers' monotonic time to wall-clock time.
//!
//! The wall clock drifts, is slewed by NTP, and is sometimes set. Small differences are followed
//! silently; a larger one is a [`Step`], which readers are told: without it, an hour that
//! happens twice would make two holders of one port look like one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A difference from here on is a step, in milliseconds.
const STEP_MS: i64 = 500;

const NANOS_PER_MS: u64 = 1_000_000;

/// The wall clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What it showed before, in milliseconds since 1970.
    pub from_ms: i64,
    /// What it showed after.
    pub to_ms: i64,
}

/// The difference between the two clocks, and what it was before the last step.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    /// Wall-clock minus monotonic time, in milliseconds.
    offset_ms: i64,
    /// Monotonic time of the last step, and the difference before it.
    before: Option<(u64, i64)>,
}

impl WallClock {
    /// Begins with what both clocks show now.
    pub fn new(monotonic_nanos: u64, wall: SystemTime) -> WallClock {
        WallClock {
            offset_ms: unix_ms(wall) - ms(monotonic_nanos),
            before: None,
        }
    }

    /// Looks at both clocks again; to be called several times a second.
    pub fn observe(&mut self, monotonic_nanos: u64, wall: SystemTime) -> Option<Step> {
        let wall_ms = unix_ms(wall);
        let expected_ms = self.offset_ms + ms(monotonic_nanos);
        let old_offset = self.offset_ms;
        self.offset_ms = wall_ms - ms(monotonic_nanos);
        if (wall_ms - expected_ms).abs() < STEP_MS {
            return None;
        }
        self.before = Some((monotonic_nanos, old_offset));
        Some(Step {
            from_ms: expected_ms,
            to_ms: wall_ms,
        })
    }

    /// Wall-clock time of something that happened, as the wall clock showed it then, in
    /// milliseconds since 1970.
    pub fn at_ms(&self, monotonic_nanos: u64) -> i64 {
        let offset = match self.before {
            Some((until, offset)) if monotonic_nanos < until => offset,
            _ => self.offset_ms,
        };
        offset + ms(monotonic_nanos)
    }
}

fn ms(nanos: u64) -> i64 {
    i64::try_from(nanos / NANOS_PER_MS).unwrap_or(i64::MAX)
}

/// The last second of the year 9999: RFC 3339 has four digits for a year.
pub const LAST_SECOND: u64 = 253_402_300_799;

/// RFC 3339 in UTC, of milliseconds since 1970. What is before 1970 or after 9999, which only octets made up by
/// somebody say, is shown as the nearest time within.
pub fn rfc3339(ms: i64) -> String {
    let ms = u64::try_from(ms).unwrap_or(0).min(LAST_SECOND * 1000);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms(at: SystemTime) -> i64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn wall(ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(ms)
    }

    #[test]
    fn any_time_can_be_shown() {
        assert_eq!(rfc3339(1_793_577_600_250), "2026-11-02T00:00:00.250Z");
        assert_eq!(rfc3339(i64::MIN), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn drift_is_followed_and_a_step_is_told() {
        let mut clock = WallClock::new(5 * SECOND, wall(1_000_000));
        assert_eq!(clock.at_ms(6 * SECOND), 1_001_000);
        assert_eq!(clock.observe(6 * SECOND, wall(1_001_100)), None);
        assert_eq!(clock.at_ms(7 * SECOND), 1_002_100);
        let step = clock.observe(8 * SECOND, wall(500_000)).unwrap();
        assert_eq!((step.from_ms, step.to_ms), (1_003_100, 500_000));
        // What happened before the step keeps the time that the clock showed then.
        assert_eq!(clock.at_ms(7 * SECOND), 1_002_100);
        assert_eq!(clock.at_ms(9 * SECOND), 501_000);
    }
}
