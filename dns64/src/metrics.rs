//! Counters that every part of the server adds to and `control` exports.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hickory_proto::rr::RecordType;

use crate::config::Protocol;

/// Question types that are counted by name; the rest is [`QueryType::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryType {
    /// A.
    A,
    /// AAAA.
    Aaaa,
    /// PTR.
    Ptr,
    /// HTTPS and SVCB.
    Https,
    /// Any other type, and questions that could not be read.
    Other,
}

impl QueryType {
    /// All, in the order of their index.
    pub const ALL: [QueryType; 5] = [
        QueryType::A,
        QueryType::Aaaa,
        QueryType::Ptr,
        QueryType::Https,
        QueryType::Other,
    ];

    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            QueryType::A => "A",
            QueryType::Aaaa => "AAAA",
            QueryType::Ptr => "PTR",
            QueryType::Https => "HTTPS",
            QueryType::Other => "other",
        }
    }
}

impl From<RecordType> for QueryType {
    fn from(qtype: RecordType) -> QueryType {
        match qtype {
            RecordType::A => QueryType::A,
            RecordType::AAAA => QueryType::Aaaa,
            RecordType::PTR => QueryType::Ptr,
            RecordType::HTTPS | RecordType::SVCB => QueryType::Https,
            _ => QueryType::Other,
        }
    }
}

/// What a client's question came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Records as the upstream gave them.
    Answered,
    /// AAAA records made from A records.
    Synthesized,
    /// A name answered here (RFC 8880), or a reverse name under Pref64.
    Local,
    /// NOERROR without the records asked for.
    NoData,
    /// NXDOMAIN.
    NxDomain,
    /// The upstream, or all of them, failed.
    ServFail,
    /// Synthesis refused since the translator is not ready.
    NotReady,
    /// Not answered by policy.
    Refused,
    /// A question that could not be understood.
    FormErr,
    /// Too many questions at one time.
    Overload,
    /// Too many answers to the client's network: dropped, or truncated.
    RateLimited,
}

impl Outcome {
    /// All, in the order of their index.
    pub const ALL: [Outcome; 11] = [
        Outcome::Answered,
        Outcome::Synthesized,
        Outcome::Local,
        Outcome::NoData,
        Outcome::NxDomain,
        Outcome::ServFail,
        Outcome::NotReady,
        Outcome::Refused,
        Outcome::FormErr,
        Outcome::Overload,
        Outcome::RateLimited,
    ];

    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Synthesized => "synthesized",
            Outcome::Local => "local",
            Outcome::NoData => "nodata",
            Outcome::NxDomain => "nxdomain",
            Outcome::ServFail => "servfail",
            Outcome::NotReady => "not_ready",
            Outcome::Refused => "refused",
            Outcome::FormErr => "formerr",
            Outcome::Overload => "overload",
            Outcome::RateLimited => "rate_limited",
        }
    }
}

/// Buckets of the latency histogram: bucket `n` counts answers given within `2^n` microseconds
/// and not within half of it; the last one counts the rest.
pub const LATENCY_BUCKETS: usize = 24;

/// Counts of queries and their latencies: those of all streams, or of one thread that serves UDP.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    queries: [[[AtomicU64; Outcome::ALL.len()]; QueryType::ALL.len()]; Protocol::ALL.len()],
    latency: [AtomicU64; LATENCY_BUCKETS],
    latency_sum_microseconds: AtomicU64,
    cache_hits: AtomicU64,
    cache_entries: AtomicU64,
    cache_octets: AtomicU64,
}

impl Counts {
    /// Counts one answer, for the only thread that writes here.
    pub(crate) fn count_own(&self, protocol: Protocol, qtype: QueryType, outcome: Outcome) {
        add_own(self.query(protocol, qtype, outcome), 1);
    }

    /// Counts one answer from the thread's cache.
    pub(crate) fn count_cache_hit(&self) {
        add_own(&self.cache_hits, 1);
    }

    /// Adds so many equal times from question to answer.
    pub(crate) fn observe(&self, latency: Duration, answers: u64) {
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        add_own(&self.latency[latency_bucket(microseconds)], answers);
        let sum = microseconds.saturating_mul(answers);
        add_own(&self.latency_sum_microseconds, sum);
    }

    /// What the thread's cache holds now.
    pub(crate) fn set_cache(&self, entries: usize, octets: usize) {
        self.cache_entries.store(entries as u64, Ordering::Relaxed);
        self.cache_octets.store(octets as u64, Ordering::Relaxed);
    }

    fn query(&self, protocol: Protocol, qtype: QueryType, outcome: Outcome) -> &AtomicU64 {
        &self.queries[protocol as usize][qtype as usize][outcome as usize]
    }
}

/// The state of the caches in front of the handler, summed over the threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WireCacheState {
    /// Queries answered from them.
    pub hits: u64,
    /// Answers in them now.
    pub entries: u64,
    /// Octets that these take now.
    pub octets: u64,
}

/// INFO-CODEs of RFC 8914 and its registry that are counted each by itself, by their number; one
/// more place is for the rest.
pub const EXTENDED_ERRORS: [&str; 31] = [
    "Other",
    "Unsupported DNSKEY Algorithm",
    "Unsupported DS Digest Type",
    "Stale Answer",
    "Forged Answer",
    "DNSSEC Indeterminate",
    "DNSSEC Bogus",
    "Signature Expired",
    "Signature Not Yet Valid",
    "DNSKEY Missing",
    "RRSIGs Missing",
    "No Zone Key Bit Set",
    "NSEC Missing",
    "Cached Error",
    "Not Ready",
    "Blocked",
    "Censored",
    "Filtered",
    "Prohibited",
    "Stale NXDOMAIN Answer",
    "Not Authoritative",
    "Not Supported",
    "No Reachable Authority",
    "Network Error",
    "Invalid Data",
    "Signature Expired before Valid",
    "Too Early",
    "Unsupported NSEC3 Iterations Value",
    "Unable to conform to policy",
    "Synthesized",
    "Invalid Query Type",
];

/// All counters of the server; each only grows, except the two that say so.
#[derive(Debug, Default)]
pub struct Metrics {
    /// What many tasks count.
    shared: Counts,
    /// What single threads count; those of threads that ended stay.
    threads: Mutex<Vec<Arc<Counts>>>,
    /// By INFO-CODE, the unknown ones last.
    extended_errors: [AtomicU64; EXTENDED_ERRORS.len() + 1],
    /// Questions to the resolver answered from the cache.
    pub cache_hits: AtomicU64,
    /// Questions to the resolver that were not in the cache.
    pub cache_misses: AtomicU64,
    /// Answers given past their TTL, since no fresh one could be had.
    pub cache_stale: AtomicU64,
    /// Popular names asked for again before their answer ended.
    pub prefetched: AtomicU64,
    /// Questions that joined an equal one on its way.
    pub merged: AtomicU64,
    /// Questions sent to upstreams, tries included.
    pub upstream_queries: AtomicU64,
    /// Tries that got no usable answer.
    pub upstream_errors: AtomicU64,
    /// Tries over UDP that were truncated and asked again over TCP.
    pub upstream_truncated: AtomicU64,
    /// Datagrams from an upstream's address that did not fit the question.
    pub upstream_misfits: AtomicU64,
    /// Questions refused since too many were at the upstreams.
    pub upstream_refused: AtomicU64,
    /// Questions at the upstreams now (goes up and down).
    pub upstream_in_flight: AtomicU64,
    /// Clients waiting for an answer now (goes up and down).
    pub client_in_flight: AtomicU64,
}

impl Metrics {
    /// Counts one answer to a client.
    pub(crate) fn count(&self, protocol: Protocol, qtype: QueryType, outcome: Outcome) {
        add(self.shared.query(protocol, qtype, outcome));
    }

    /// Adds the time from question to answer.
    pub(crate) fn observe(&self, latency: Duration) {
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        add(&self.shared.latency[latency_bucket(microseconds)]);
        self.shared
            .latency_sum_microseconds
            .fetch_add(microseconds, Ordering::Relaxed);
    }

    /// Counts an extended error that a client is told.
    pub(crate) fn count_extended_error(&self, code: u16) {
        let place = usize::from(code).min(EXTENDED_ERRORS.len());
        add(&self.extended_errors[place]);
    }

    /// Extended errors told to clients, but for those in ready-made answers: INFO-CODE (`None`:
    /// all that have no name), its name, how often.
    pub fn extended_errors(&self) -> impl Iterator<Item = (Option<usize>, &'static str, u64)> {
        self.extended_errors
            .iter()
            .enumerate()
            .map(|(code, count)| {
                let name = EXTENDED_ERRORS.get(code).copied();
                let count = count.load(Ordering::Relaxed);
                (name.map(|_| code), name.unwrap_or("unknown"), count)
            })
    }

    /// Counters of a thread's own.
    pub(crate) fn add_counts(&self) -> Arc<Counts> {
        let counts = Arc::new(Counts::default());
        self.lock_threads().push(counts.clone());
        counts
    }

    fn lock_threads(&self) -> MutexGuard<'_, Vec<Arc<Counts>>> {
        self.threads.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A counter summed over the tasks and all threads.
    fn sum(&self, of: impl Fn(&Counts) -> &AtomicU64) -> u64 {
        let threads = self.lock_threads();
        let own = threads.iter().map(|counts| counts.as_ref());
        std::iter::once(&self.shared)
            .chain(own)
            .map(|counts| of(counts).load(Ordering::Relaxed))
            .sum()
    }

    /// Every count of queries that is not zero, with its labels.
    pub fn queries(&self) -> impl Iterator<Item = (Protocol, QueryType, Outcome, u64)> {
        Protocol::ALL.into_iter().flat_map(move |protocol| {
            QueryType::ALL.into_iter().flat_map(move |qtype| {
                Outcome::ALL.into_iter().filter_map(move |outcome| {
                    let count = self.sum(|counts| counts.query(protocol, qtype, outcome));
                    (count > 0).then_some((protocol, qtype, outcome, count))
                })
            })
        })
    }

    /// Answers with synthetic AAAA records.
    pub fn synthesized(&self) -> u64 {
        let of_all = self.queries();
        let synthesized = of_all.filter(|counted| counted.2 == Outcome::Synthesized);
        synthesized.map(|counted| counted.3).sum()
    }

    /// What the caches in front of the handler did and hold.
    pub fn wire_cache(&self) -> WireCacheState {
        WireCacheState {
            hits: self.sum(|counts| &counts.cache_hits),
            entries: self.sum(|counts| &counts.cache_entries),
            octets: self.sum(|counts| &counts.cache_octets),
        }
    }

    /// Upper bounds in seconds and counts of the latency histogram, not cumulated; the last
    /// bucket has no bound.
    pub fn latency(&self) -> [(f64, u64); LATENCY_BUCKETS] {
        std::array::from_fn(|n| {
            let bound = match n + 1 < LATENCY_BUCKETS {
                true => f64::from(1u32 << n) / 1e6,
                false => f64::INFINITY,
            };
            (bound, self.sum(|counts| &counts.latency[n]))
        })
    }

    /// The sum of all latencies, in seconds.
    pub fn latency_sum_seconds(&self) -> f64 {
        Duration::from_micros(self.sum(|counts| &counts.latency_sum_microseconds)).as_secs_f64()
    }
}

fn latency_bucket(microseconds: u64) -> usize {
    let bits = u64::BITS - microseconds.saturating_sub(1).leading_zeros();
    usize::try_from(bits).map_or(LATENCY_BUCKETS - 1, |bits| bits.min(LATENCY_BUCKETS - 1))
}

/// Adds to a counter that no other thread writes.
fn add_own(counter: &AtomicU64, n: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(n),
        Ordering::Relaxed,
    );
}

/// One more of something.
pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Raises a gauge for as long as it lives.
pub(crate) struct Raised<'a> {
    gauge: &'a AtomicU64,
}

impl<'a> Raised<'a> {
    pub(crate) fn new(gauge: &'a AtomicU64) -> Raised<'a> {
        gauge.fetch_add(1, Ordering::Relaxed);
        Raised { gauge }
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.gauge.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_falls_into_the_bucket_of_its_power_of_two() {
        let metrics = Metrics::default();
        for (microseconds, bucket) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3)] {
            let before = metrics.latency()[bucket].1;
            metrics.observe(Duration::from_micros(microseconds));
            assert_eq!(metrics.latency()[bucket].1, before + 1, "{microseconds}");
        }
        metrics.observe(Duration::from_secs(3600));
        assert_eq!(metrics.latency()[LATENCY_BUCKETS - 1], (f64::INFINITY, 1));
    }
}
