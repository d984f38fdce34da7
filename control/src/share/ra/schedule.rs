//! When advertisements are sent: RFC 4861 sections 6.2.4 and 6.2.6 as a pure state machine, with
//! time as an argument.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::super::random::Random;

/// MAX_INITIAL_RTR_ADVERT_INTERVAL.
const INITIAL_INTERVAL_MAX: Duration = Duration::from_secs(16);
/// MAX_INITIAL_RTR_ADVERTISEMENTS.
const INITIAL_COUNT: u8 = 3;
/// MIN_DELAY_BETWEEN_RAS, of advertisements to all nodes.
pub const BETWEEN_MULTICAST_MIN: Duration = Duration::from_secs(3);
/// MAX_RA_DELAY_TIME.
pub const ANSWER_DELAY_MAX: Duration = Duration::from_millis(500);
/// Solicitors answered one by one; when more wait, all nodes are answered at once.
const UNICAST_MAX: usize = 16;

/// To whom an advertisement is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// All nodes of the link.
    AllNodes,
    /// One that has solicited.
    Solicitor(Ipv6Addr),
}

/// The times of a router's advertisements on one link.
#[derive(Debug)]
pub struct Schedule {
    interval_max: Duration,
    random: Random,
    /// Advertisements left that follow each other soon.
    initial_left: u8,
    multicast_last: Option<Instant>,
    multicast_at: Instant,
    unicast: Vec<(Instant, Ipv6Addr)>,
}

impl Schedule {
    /// Begins with an advertisement at once. `interval_max` is MaxRtrAdvInterval, 4 to 1800 seconds.
    pub fn new(interval_max: Duration, random: Random, now: Instant) -> Schedule {
        Schedule {
            interval_max,
            random,
            initial_left: INITIAL_COUNT,
            multicast_last: None,
            multicast_at: now,
            unicast: Vec::new(),
        }
    }

    /// What is advertised has changed: it is sent at once, and again soon after.
    pub fn changed(&mut self, now: Instant) {
        self.initial_left = INITIAL_COUNT;
        self.hasten(now);
    }

    /// A solicitation has come: its sender is answered after a random delay; all nodes are if it
    /// has no address yet (section 6.2.6).
    pub fn solicited(&mut self, from: Ipv6Addr, now: Instant) {
        let at = now + self.random.within(Duration::ZERO, ANSWER_DELAY_MAX);
        if self.multicast_at <= at || self.unicast.iter().any(|(_, ip)| *ip == from) {
            return;
        }
        if from.is_unspecified() || self.unicast.len() >= UNICAST_MAX {
            self.unicast.clear();
            self.hasten(at);
        } else {
            self.unicast.push((at, from));
        }
    }

    /// Brings the next advertisement to all nodes forward, no nearer to the last than is allowed.
    fn hasten(&mut self, to: Instant) {
        let earliest = self.multicast_last.map(|last| last + BETWEEN_MULTICAST_MIN);
        let at = earliest.map_or(to, |earliest| earliest.max(to));
        self.multicast_at = self.multicast_at.min(at);
    }

    /// When something is due next.
    pub fn next(&self) -> Instant {
        let unicast = self.unicast.iter().map(|(at, _)| *at).min();
        unicast.map_or(self.multicast_at, |at| at.min(self.multicast_at))
    }

    /// What is due now, if anything; it counts as sent.
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        if self.multicast_at <= now {
            self.sent_to_all(now);
            return Some(Due::AllNodes);
        }
        let index = self.unicast.iter().position(|(at, _)| *at <= now)?;
        Some(Due::Solicitor(self.unicast.swap_remove(index).1))
    }

    fn sent_to_all(&mut self, now: Instant) {
        self.multicast_last = Some(now);
        // Those who wait have it with this one.
        self.unicast.clear();
        // MinRtrAdvInterval's default is a third of MaxRtrAdvInterval (section 6.2.1).
        let mut interval = self.random.within(self.interval_max / 3, self.interval_max);
        self.initial_left = self.initial_left.saturating_sub(1);
        if self.initial_left > 0 {
            interval = interval.min(INITIAL_INTERVAL_MAX);
        }
        self.multicast_at = now + interval.max(BETWEEN_MULTICAST_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(180);
    const HOST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    /// Goes from one due time to the next until `end`, and lists what was sent when.
    fn run(schedule: &mut Schedule, end: Instant) -> Vec<(Instant, Due)> {
        let mut sent = Vec::new();
        while schedule.next() <= end {
            let now = schedule.next();
            sent.extend(schedule.due(now).map(|due| (now, due)));
        }
        sent
    }

    fn gaps(sent: &[(Instant, Due)]) -> Vec<Duration> {
        let times: Vec<Instant> = sent
            .iter()
            .filter(|(_, due)| *due == Due::AllNodes)
            .map(|(at, _)| *at)
            .collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[test]
    fn rfc4861_section_6_2_4_three_at_once_then_at_random_over_a_day() {
        let start = Instant::now();
        for seed in 0..20 {
            let mut schedule = Schedule::new(MAX, Random::new(seed), start);
            let sent = run(&mut schedule, start + Duration::from_secs(86_400));
            assert_eq!(sent[0].0, start);
            let gaps = gaps(&sent);
            assert!(gaps[..2].iter().all(|gap| *gap <= INITIAL_INTERVAL_MAX));
            let later = &gaps[2..];
            assert!(later.iter().all(|gap| (MAX / 3..=MAX).contains(gap)));
            // Random: hardly two alike, and spread over the whole range.
            assert!(later.iter().any(|gap| *gap < MAX / 2));
            assert!(later.iter().any(|gap| *gap > MAX * 5 / 6));
        }
    }

    #[test]
    fn rfc4861_section_6_2_6_a_solicitor_is_answered_within_half_a_second() {
        let start = Instant::now();
        let mut schedule = Schedule::new(MAX, Random::new(7), start);
        run(&mut schedule, start + Duration::from_secs(100));
        let mut delays = Vec::new();
        for n in 0..200 {
            let now = schedule.multicast_last.unwrap() + Duration::from_millis(4000 + n);
            schedule.multicast_at = now + MAX;
            schedule.solicited(HOST, now);
            schedule.solicited(HOST, now);
            let at = schedule.next();
            assert_eq!(schedule.due(at), Some(Due::Solicitor(HOST)));
            assert_eq!(schedule.due(at), None, "asked twice, answered once");
            delays.push(at - now);
        }
        assert!(delays.iter().all(|delay| *delay <= ANSWER_DELAY_MAX));
        assert!(delays.iter().any(|delay| *delay > ANSWER_DELAY_MAX * 4 / 5));
        assert!(delays.iter().any(|delay| *delay < ANSWER_DELAY_MAX / 5));
    }

    #[test]
    fn rfc4861_section_6_2_6_all_nodes_are_never_told_more_often_than_every_three_seconds() {
        let start = Instant::now();
        let mut schedule = Schedule::new(MAX, Random::new(3), start);
        let mut random = Random::new(9);
        let mut sent = Vec::new();
        let mut now = start;
        for n in 0..2000 {
            now += random.within(Duration::ZERO, Duration::from_millis(300));
            match n % 7 {
                0 => schedule.changed(now),
                _ => schedule.solicited(Ipv6Addr::UNSPECIFIED, now),
            }
            while let Some(due) = schedule.due(now) {
                sent.push((now, due));
            }
        }
        assert!(sent.len() > 50, "{}", sent.len());
        assert!(gaps(&sent).iter().all(|gap| *gap >= BETWEEN_MULTICAST_MIN));
    }

    #[test]
    fn a_crowd_is_answered_together() {
        let start = Instant::now();
        let mut schedule = Schedule::new(MAX, Random::new(5), start);
        run(&mut schedule, start + Duration::from_secs(60));
        let now = schedule.multicast_last.unwrap() + Duration::from_secs(10);
        schedule.multicast_at = now + MAX;
        for n in 0..100 {
            schedule.solicited(Ipv6Addr::from(u128::from(HOST) + n), now);
        }
        let sent = run(&mut schedule, now + Duration::from_secs(1));
        assert!(sent.len() <= UNICAST_MAX + 1, "{}", sent.len());
        assert!(sent.iter().any(|(_, due)| *due == Due::AllNodes));
    }

    #[test]
    fn a_change_is_told_at_once_and_twice_more() {
        let start = Instant::now();
        let mut schedule = Schedule::new(MAX, Random::new(5), start);
        run(&mut schedule, start + Duration::from_secs(600));
        let now = schedule.multicast_last.unwrap() + Duration::from_secs(20);
        schedule.changed(now);
        let sent = run(&mut schedule, now + Duration::from_secs(40));
        assert_eq!(sent[0], (now, Due::AllNodes));
        assert!(sent.len() >= 3, "{sent:?}");
    }
}
