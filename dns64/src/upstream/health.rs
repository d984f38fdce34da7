//! How one upstream does: its round-trip time, how often it fails, and whether it is asked.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Timeouts;

/// Weight of the newest try in the failure score: three failures in a row make an upstream that
/// never failed one that is left alone.
const SCORE_WEIGHT: f32 = 0.25;
/// Above this score an upstream is left alone.
const SCORE_MAX: f32 = 0.5;
/// The score of one that came back: soon left alone again if it did not mean it.
const SCORE_RECOVERED: f32 = 0.25;

/// How long it is left alone at first; doubled up to the second value.
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
const BACK_OFF_LAST: Duration = Duration::from_secs(8);

/// Questions that may go in one second to an upstream that is left alone, when there is no other.
const LAST_RESORTS_PER_SECOND: u32 = 32;

/// The longest time after which the next upstream is asked as well, past the end of a try, which
/// asks it by itself: both would ask two.
const PATIENCE_PAST: Duration = Duration::from_millis(50);
/// That time for an upstream that was down and is tried again.
const PATIENCE_PROBE: Duration = Duration::from_millis(100);

/// Whether and how an upstream may be asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Up,
    /// Left alone long enough: one question finds out.
    Probe,
    /// Only if nobody else is left.
    LastResort,
}

/// What is known of one upstream. `now` is the server's clock; round-trip times and bursts are
/// measured by the machine's.
#[derive(Debug, Default)]
pub(super) struct Health {
    rtt: Option<Rtt>,
    score: f32,
    /// Left alone until then, if it is down.
    down_until: Option<Duration>,
    back_off: Duration,
    is_probed: bool,
    heard: Option<Instant>,
    last_resorts: Option<(Instant, u32)>,
}

/// The moving mean of RFC 6298, section 2.
#[derive(Debug, Clone, Copy)]
struct Rtt {
    smoothed: Duration,
    variation: Duration,
}

impl Rtt {
    fn first(sample: Duration) -> Rtt {
        Rtt {
            smoothed: sample,
            variation: sample / 2,
        }
    }

    fn then(self, sample: Duration) -> Rtt {
        Rtt {
            variation: (self.variation * 3 + self.smoothed.abs_diff(sample)) / 4,
            smoothed: (self.smoothed * 7 + sample) / 8,
        }
    }

    fn timeout(self) -> Duration {
        self.smoothed + self.variation * 4
    }
}

impl Health {
    pub(super) fn is_up(&self, now: Duration) -> bool {
        self.down_until.is_none_or(|until| until <= now)
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.map(|rtt| rtt.smoothed)
    }

    /// From 0, never fails, to 1, fails always.
    pub(super) fn score(&self) -> f32 {
        self.score
    }

    pub(super) fn admission(&self, now: Duration) -> Admission {
        match self.down_until {
            None => Admission::Up,
            Some(until) if until <= now && !self.is_probed => Admission::Probe,
            Some(_) => Admission::LastResort,
        }
    }

    /// Says that a question goes there now; `false` if it may not. Behind a probe comes
    /// [`Health::probe_ended`], however it ended.
    pub(super) fn admit(&mut self, admission: Admission) -> bool {
        match admission {
            Admission::Up => true,
            Admission::Probe => !std::mem::replace(&mut self.is_probed, true),
            Admission::LastResort => self.admit_last_resort(Instant::now()),
        }
    }

    /// Another probe may go there.
    pub(super) fn probe_ended(&mut self) {
        self.is_probed = false;
    }

    fn admit_last_resort(&mut self, now: Instant) -> bool {
        let (since, count) = match self.last_resorts {
            Some((since, count)) if now - since < Duration::from_secs(1) => (since, count),
            _ => (now, 0),
        };
        self.last_resorts = Some((since, count + 1));
        count < LAST_RESORTS_PER_SECOND
    }

    /// How long to wait for it before the next one is asked as well.
    pub(super) fn patience(&self, admission: Admission, timeouts: &Timeouts) -> Duration {
        let longest = timeouts.attempt + PATIENCE_PAST;
        match (admission, self.rtt) {
            (Admission::Probe, _) => PATIENCE_PROBE.min(timeouts.attempt),
            (_, Some(rtt)) => rtt.timeout().max(timeouts.patience_min).min(longest),
            (_, None) => longest,
        }
    }

    /// It said something after this time. Says whether it is back.
    pub(super) fn answered(&mut self, took: Duration) -> bool {
        self.rtt = Some(self.rtt.map_or(Rtt::first(took), |rtt| rtt.then(took)));
        self.heard = Some(Instant::now());
        self.back_off = Duration::ZERO;
        let is_back = self.down_until.take().is_some();
        self.score = match is_back {
            true => SCORE_RECOVERED,
            false => self.score * (1.0 - SCORE_WEIGHT),
        };
        is_back
    }

    /// It failed a question asked at `begun`. Says whether it is left alone from now on. Silence
    /// about one name, while others are answered, is that name's fault.
    pub(super) fn failed(&mut self, begun: Instant, is_silence: bool, now: Duration) -> bool {
        if is_silence && self.heard.is_some_and(|heard| heard >= begun) {
            return false;
        }
        self.score = self.score * (1.0 - SCORE_WEIGHT) + SCORE_WEIGHT;
        if self.score <= SCORE_MAX {
            return false;
        }
        let was_down = self.down_until.is_some();
        // Of many questions that fail together only the first makes the pause longer.
        if self.down_until.is_none_or(|until| until <= now) {
            self.back_off = (self.back_off * 2).clamp(BACK_OFF_FIRST, BACK_OFF_LAST);
            self.down_until = Some(now + self.back_off);
        }
        !was_down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn fail(health: &mut Health, times: usize) {
        for _ in 0..times {
            health.failed(Instant::now(), true, NOW);
        }
    }

    #[test]
    fn three_failures_in_a_row_and_it_is_left_alone() {
        let mut health = Health::default();
        fail(&mut health, 2);
        assert_eq!(health.admission(NOW), Admission::Up);
        fail(&mut health, 1);
        assert_eq!(health.admission(NOW), Admission::LastResort);
        assert!(!health.is_up(NOW));
        // A thousand more that were under way do not make the pause longer.
        fail(&mut health, 1000);
        let later = NOW + BACK_OFF_FIRST;
        assert_eq!(health.admission(later), Admission::Probe);
        assert!(health.admit(Admission::Probe));
        assert_eq!(health.admission(later), Admission::LastResort, "one probe");
        assert!(health.answered(Duration::from_millis(1)));
        assert_eq!(health.admission(later), Admission::Up);
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let mut health = Health::default();
        let mut now = NOW;
        fail(&mut health, 3);
        for seconds in [1, 2, 4, 8, 8] {
            let until = health.down_until.unwrap();
            assert_eq!(until - now, Duration::from_secs(seconds));
            now = until;
            health.failed(Instant::now(), true, now);
        }
    }

    #[test]
    fn silence_about_one_name_is_no_failure_while_others_are_answered() {
        let mut health = Health::default();
        let begun = Instant::now();
        health.answered(Duration::from_millis(1));
        for _ in 0..100 {
            assert!(!health.failed(begun, true, NOW));
        }
        assert_eq!(health.admission(NOW), Admission::Up);
    }

    #[test]
    fn last_resorts_are_few() {
        let mut health = Health::default();
        fail(&mut health, 3);
        let now = Instant::now();
        let admitted = (0..1000).filter(|_| health.admit_last_resort(now)).count();
        assert_eq!(admitted, LAST_RESORTS_PER_SECOND as usize);
        assert!(health.admit_last_resort(now + Duration::from_secs(1)));
    }

    #[test]
    fn rfc6298_patience_follows_the_round_trip_time_within_its_bounds() {
        let timeouts = Timeouts {
            attempt: Duration::from_millis(1500),
            patience_min: Duration::from_millis(400),
            ..Timeouts::default()
        };
        let mut health = Health::default();
        assert_eq!(health.patience(Admission::Up, &timeouts).as_millis(), 1550);
        health.answered(Duration::from_millis(200));
        // 200 + 4 * 100
        assert_eq!(health.patience(Admission::Up, &timeouts).as_millis(), 600);
        for _ in 0..100 {
            health.answered(Duration::from_millis(1));
        }
        assert_eq!(health.patience(Admission::Up, &timeouts).as_millis(), 400);
        health.answered(Duration::from_secs(60));
        assert_eq!(health.patience(Admission::Up, &timeouts).as_millis(), 1550);
    }
}
