//! Bounds per client network, in a fixed number of counters: a flood from one network, or with
//! its addresses forged, does not take what the others need, and takes no memory.
//!
//! A network is counted under two hashes, and the lesser count holds (a count-min sketch), so
//! that one busy neighbour in the table harms nobody.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Counters per hash.
const SLOTS: usize = 1 << 14;
/// What counts as one network: the size of a customer's, and of an announced IPv4 network.
const IPV6_BITS: u32 = 56;
const IPV4_BITS: u32 = 24;
/// Answers that a network may get at once after a pause, as the time in which they are earned.
const BURST: Duration = Duration::from_secs(1);

/// Places of a client's network.
#[derive(Clone, Copy)]
struct Places([usize; 2]);

/// Hashes networks; the seed is random, so that nobody chooses who shares a counter.
struct Networks(RandomState);

impl Networks {
    fn places(&self, client: IpAddr) -> Places {
        let network = match client.to_canonical() {
            IpAddr::V4(ip) => u128::from(u32::from(ip) >> (32 - IPV4_BITS)),
            IpAddr::V6(ip) => 1 << 127 | u128::from(ip) >> (128 - IPV6_BITS),
        };
        let hash = self.0.hash_one(network);
        let place = |bits: u64| usize::try_from(bits).unwrap_or(0) % SLOTS;
        Places([place(hash & 0xffff_ffff), SLOTS + place(hash >> 32)])
    }
}

/// What becomes of an answer under the rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rate {
    /// It is given.
    Within,
    /// Only a truncated one is given: a client that is real asks again over TCP.
    Slip,
    /// None is given.
    Drop,
}

/// Limits the answers to a client network, over UDP, where its address may be forged.
pub(crate) struct RateLimit {
    networks: Networks,
    /// When each counter will have earned what it spent, in nanoseconds of the clock.
    times: Box<[AtomicU64]>,
    limited: AtomicU64,
}

/// How many answers are within the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseRate {
    /// Answers per second and client network.
    pub per_second: u32,
    /// Of the answers above it, each n-th is a truncated one; 0: none.
    pub slip: u32,
}

impl RateLimit {
    pub(crate) fn new() -> RateLimit {
        RateLimit {
            networks: Networks(RandomState::new()),
            times: (0..2 * SLOTS).map(|_| AtomicU64::new(0)).collect(),
            limited: AtomicU64::new(0),
        }
    }

    /// Counts an answer to the client at this time.
    pub(crate) fn judge(&self, rate: ResponseRate, client: IpAddr, now: Duration) -> Rate {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let interval = 1_000_000_000 / u64::from(rate.per_second.max(1));
        let now = nanoseconds(now);
        let latest = now.saturating_add(nanoseconds(BURST));
        let mut is_within = false;
        // The generic cell rate algorithm: each answer moves the time on by what it costs.
        for place in self.networks.places(client).0 {
            let spend = |time: u64| {
                let after = time.max(now) + interval;
                (after <= latest).then_some(after)
            };
            let spent = self.times[place].fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
            is_within |= spent.is_ok();
        }
        if is_within {
            return Rate::Within;
        }
        let limited = self.limited.fetch_add(1, Ordering::Relaxed);
        match rate.slip {
            0 => Rate::Drop,
            slip if limited.is_multiple_of(u64::from(slip)) => Rate::Slip,
            _ => Rate::Drop,
        }
    }
}

/// Questions of each client network that wait for an answer.
pub(crate) struct Waiting {
    networks: Networks,
    counts: Box<[AtomicU32]>,
}

/// A question that waits; it is counted as long as this lives.
pub(crate) struct Waits {
    waiting: std::sync::Arc<Waiting>,
    places: Places,
}

impl Waiting {
    pub(crate) fn new() -> Waiting {
        Waiting {
            networks: Networks(RandomState::new()),
            counts: (0..2 * SLOTS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Counts one more, unless `max` of its network wait already.
    pub(crate) fn admit(self: &std::sync::Arc<Self>, client: IpAddr, max: u32) -> Option<Waits> {
        let places = self.networks.places(client);
        let counts = places
            .0
            .map(|place| self.counts[place].fetch_add(1, Ordering::Relaxed));
        let waits = Waits {
            waiting: self.clone(),
            places,
        };
        counts.into_iter().any(|count| count < max).then_some(waits)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        for place in self.places.0 {
            self.waiting.counts[place].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const RATE: ResponseRate = ResponseRate {
        per_second: 10,
        slip: 2,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_gets_its_rate_and_the_others_theirs() {
        let limit = RateLimit::new();
        let mut now = Duration::from_secs(5);
        let judge = |client: &str, now| limit.judge(RATE, ip(client), now);
        let burst: Vec<Rate> = (0..14).map(|_| judge("192.0.2.1", now)).collect();
        assert!(burst[..10].iter().all(|rate| *rate == Rate::Within));
        assert_eq!(
            burst[10..],
            [Rate::Slip, Rate::Drop, Rate::Slip, Rate::Drop]
        );
        // The same network by another address, and as IPv4 over an IPv6 socket.
        assert_ne!(judge("192.0.2.200", now), Rate::Within);
        assert_ne!(judge("::ffff:192.0.2.9", now), Rate::Within);
        assert_eq!(judge("198.51.100.1", now), Rate::Within);
        assert_eq!(judge("2001:db8::1", now), Rate::Within);
        now += Duration::from_millis(100);
        assert_eq!(judge("192.0.2.1", now), Rate::Within);
        assert_ne!(judge("192.0.2.1", now), Rate::Within);
    }

    #[test]
    fn without_slip_all_that_is_too_much_is_dropped() {
        let limit = RateLimit::new();
        let rate = ResponseRate { slip: 0, ..RATE };
        let now = Duration::from_secs(1);
        let last = (0..20).map(|_| limit.judge(rate, ip("::1"), now)).last();
        assert_eq!(last, Some(Rate::Drop));
    }

    #[test]
    fn waiting_questions_are_counted_while_they_wait() {
        let waiting = Arc::new(Waiting::new());
        let first = waiting.admit(ip("2001:db8::1"), 2).unwrap();
        let _second = waiting.admit(ip("2001:db8:0:ff::1"), 2).unwrap();
        assert!(waiting.admit(ip("2001:db8::2"), 2).is_none());
        assert!(waiting.admit(ip("2001:db8:0:100::1"), 2).is_some());
        drop(first);
        assert!(waiting.admit(ip("2001:db8::2"), 2).is_some());
    }
}
