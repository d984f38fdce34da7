//! Answers kept for their TTL, absences and failures included, within a number of octets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use quick_cache::{DefaultHashBuilder, Lifecycle, Weighter};

use crate::answer::{Answer, ExtendedError, ExtendedErrorCode, Question};
use crate::clock::Clock;
use crate::config::{Caching, Limits};
use crate::metrics::add;

/// What an entry takes beside its records: key, allocations, the cache's own index.
const ENTRY_OCTETS: u64 = 512;
/// An entry of a small answer, for the size of the cache's index.
const ENTRY_OCTETS_TYPICAL: usize = 1500;

/// Shortest time a failure is kept (RFC 9520 section 3.2).
const FAILURE_SECONDS_FIRST: u32 = 1;
/// Longest time that silence of all upstreams is held against a name: it is not the name's.
const UNREACHABLE_SECONDS_MAX: u32 = 5;

/// A name asked for this often since its answer came is asked for again before the answer ends.
const POPULAR_HITS_MIN: u32 = 3;
/// The part of its TTL, at the end, in which that happens.
const PREFETCH_PART: u32 = 10;

/// The TTL of an answer past its own (RFC 8767 section 4).
const STALE_TTL_SECONDS: u32 = 30;

/// Answers by question; the least used give way.
pub(crate) struct Cache {
    entries: Entries,
    evictions: Arc<AtomicU64>,
    clock: Clock,
}

type Entries =
    quick_cache::sync::Cache<Question, Arc<Entry>, Octets, DefaultHashBuilder, CountEvictions>;

/// The last answer to a question, and what failed since.
struct Entry {
    good: Option<Arc<Good>>,
    failure: Option<Failure>,
    octets: u64,
}

struct Good {
    answer: Answer,
    born: Duration,
    ttl: Duration,
    hits: AtomicU32,
}

struct Failure {
    answer: Answer,
    born: Duration,
    ttl: Duration,
    /// In a row.
    count: u32,
}

/// What the cache knows of a question.
#[derive(Debug)]
pub(crate) enum Found {
    /// An answer with its TTLs counted down. `asks_again`: it is popular and ends soon.
    Fresh { answer: Answer, asks_again: bool },
    /// It failed a short time ago; nobody is asked again yet.
    Failed {
        answer: Answer,
        stale: Option<Answer>,
    },
    /// Nothing that counts, but perhaps an answer for want of a better one.
    Expired { stale: Option<Answer> },
    /// Nothing.
    Missing,
}

impl Cache {
    pub(crate) fn new(limits: &Limits, clock: Clock) -> Cache {
        let evictions: Arc<AtomicU64> = Arc::default();
        let lifecycle = CountEvictions(evictions.clone());
        let octets = limits.cache_octets_max;
        let entries = usize::try_from(octets).unwrap_or(usize::MAX) / ENTRY_OCTETS_TYPICAL;
        Cache {
            entries: Entries::with(
                entries.max(1),
                octets,
                Octets,
                DefaultHashBuilder::default(),
                lifecycle,
            ),
            evictions,
            clock,
        }
    }

    pub(crate) fn get(&self, question: &Question, caching: &Caching) -> Found {
        let Some(entry) = self.entries.get(question) else {
            return Found::Missing;
        };
        let now = self.clock.now();
        if let Some(good) = &entry.good
            && now < good.born + good.ttl
        {
            good.hits.fetch_add(1, Ordering::Relaxed);
            return Found::Fresh {
                answer: good.answer.aged(seconds(now.saturating_sub(good.born))),
                asks_again: entry.asks_again(now, caching),
            };
        }
        let stale = entry.good.as_ref().and_then(|g| g.stale(now, caching));
        match &entry.failure {
            Some(failure) if now < failure.born + failure.ttl => Found::Failed {
                answer: failure.again(),
                stale,
            },
            _ => Found::Expired { stale },
        }
    }

    /// Whether the answer kept is popular and ends soon.
    pub(crate) fn asks_again(&self, question: &Question, caching: &Caching) -> bool {
        let entry = self.entries.peek(question);
        entry.is_some_and(|entry| entry.asks_again(self.clock.now(), caching))
    }

    /// Whether the last answer to this question, fresh or not, was that the name has no such record.
    pub(crate) fn last_lacked(&self, question: &Question) -> bool {
        let entry = self.entries.peek(question);
        let good = entry.as_ref().and_then(|entry| entry.good.as_ref());
        good.is_some_and(|g| {
            g.answer.rcode == ResponseCode::NoError && !g.answer.has(question.qtype)
        })
    }

    /// Keeps the answer as long as it, and the limits, allow.
    pub(crate) fn insert(&self, question: &Question, answer: &Answer, limits: &Limits) {
        let seconds = match answer.has(question.qtype) || question.qtype == RecordType::ANY {
            true => answer.ttl(question.qtype).min(limits.cache_seconds_max),
            false => answer.ttl(question.qtype).min(limits.negative_seconds_max),
        };
        if seconds == 0 {
            self.entries.remove(question);
            return;
        }
        let good = Good {
            answer: answer.clone(),
            born: self.clock.now(),
            ttl: Duration::from_secs(u64::from(seconds)),
            hits: AtomicU32::new(0),
        };
        let entry = Entry::new(Some(Arc::new(good)), None);
        self.entries.insert(question.clone(), Arc::new(entry));
    }

    /// Remembers that the question failed (RFC 9520): at first for a second, then twice as long
    /// each time. An older answer stays for those who take it stale.
    pub(crate) fn insert_failure(
        &self,
        question: &Question,
        answer: &Answer,
        is_unreachable: bool,
        limits: &Limits,
    ) {
        let before = self.entries.peek(question);
        let failures = before.iter().filter_map(|entry| entry.failure.as_ref());
        let count = failures
            .map(|f| f.count)
            .next()
            .unwrap_or(0)
            .saturating_add(1);
        let limit = match is_unreachable {
            true => UNREACHABLE_SECONDS_MAX.min(limits.failure_seconds_max),
            false => limits.failure_seconds_max,
        };
        let doubled = FAILURE_SECONDS_FIRST.checked_shl(count - 1);
        let seconds = doubled.filter(|s| *s > 0).unwrap_or(u32::MAX).min(limit);
        let failure = Failure {
            answer: answer.clone(),
            born: self.clock.now(),
            ttl: Duration::from_secs(u64::from(seconds)),
            count,
        };
        let good = before.and_then(|entry| entry.good.clone());
        let entry = Entry::new(good, Some(failure));
        self.entries.insert(question.clone(), Arc::new(entry));
    }

    /// Forgets the answer.
    pub(crate) fn remove(&self, question: &Question) {
        self.entries.remove(question);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.entries.clear();
    }

    /// How full it is.
    pub(crate) fn state(&self) -> CacheState {
        CacheState {
            entries: self.entries.len() as u64,
            octets: self.entries.weight(),
            octets_max: self.entries.capacity(),
            evictions: self.evictions.load(Ordering::Relaxed),
        }
    }
}

/// How full the cache is, as metrics and `show dns` have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheState {
    /// Questions with an answer, expired ones not yet displaced included.
    pub entries: u64,
    /// Memory they take, about.
    pub octets: u64,
    /// Memory they may take.
    pub octets_max: u64,
    /// Entries displaced by others since the start.
    pub evictions: u64,
}

impl Good {
    /// Popular, and in the last part of its life.
    fn asks_again(&self, now: Duration) -> bool {
        let left = (self.born + self.ttl).saturating_sub(now);
        self.hits.load(Ordering::Relaxed) > POPULAR_HITS_MIN && left <= self.ttl / PREFETCH_PART
    }

    /// The answer for want of a better one (RFC 8767 section 5), not older than allowed.
    fn stale(&self, now: Duration, caching: &Caching) -> Option<Answer> {
        let limit = self.born + self.ttl + caching.serve_stale?;
        if now >= limit {
            return None;
        }
        let mut answer = self.answer.with_ttl(STALE_TTL_SECONDS);
        // Signatures may have ended with it.
        answer.authentic = false;
        let code = match answer.rcode {
            ResponseCode::NXDomain => ExtendedErrorCode::StaleNxDomain,
            _ => ExtendedErrorCode::StaleAnswer,
        };
        let error = ExtendedError::new(code, "no fresh answer could be had");
        answer.extended_errors.push(error);
        Some(answer)
    }
}

impl Failure {
    fn again(&self) -> Answer {
        let mut answer = self.answer.clone();
        let error = ExtendedError::new(ExtendedErrorCode::CachedError, "failed shortly before");
        answer.extended_errors.push(error);
        answer
    }
}

impl Entry {
    fn new(good: Option<Arc<Good>>, failure: Option<Failure>) -> Entry {
        let answers = good.iter().map(|good| &good.answer);
        let answers = answers.chain(failure.iter().map(|failure| &failure.answer));
        let octets = answers.map(octets).sum::<u64>() + ENTRY_OCTETS;
        Entry {
            good,
            failure,
            octets,
        }
    }

    fn asks_again(&self, now: Duration, caching: &Caching) -> bool {
        let good = self.good.as_ref();
        caching.prefetch && good.is_some_and(|good| good.asks_again(now)) && self.may_ask(now)
    }

    /// No failure is held against the question now.
    fn may_ask(&self, now: Duration) -> bool {
        self.failure.as_ref().is_none_or(|f| now >= f.born + f.ttl)
    }
}

fn seconds(age: Duration) -> u32 {
    u32::try_from(age.as_secs()).unwrap_or(u32::MAX)
}

/// About what an answer takes in memory: the records, and what they have on the heap, which is
/// less than they take on the wire.
fn octets(answer: &Answer) -> u64 {
    let sections = [&answer.answers, &answer.authorities, &answer.additionals];
    let records = sections.into_iter().flatten();
    let records = records.map(|record| {
        let wire = record.to_bytes().map_or(0, |octets| octets.len());
        (size_of::<Record>() + wire) as u64
    });
    let errors = answer.extended_errors.iter();
    let errors = errors.map(|e| (size_of::<ExtendedError>() + e.text.len()) as u64);
    size_of::<Answer>() as u64 + records.sum::<u64>() + errors.sum::<u64>()
}

/// Weighs an entry by its memory.
#[derive(Clone)]
struct Octets;

impl Weighter<Question, Arc<Entry>> for Octets {
    fn weight(&self, _: &Question, entry: &Arc<Entry>) -> u64 {
        entry.octets
    }
}

#[derive(Clone)]
struct CountEvictions(Arc<AtomicU64>);

impl Lifecycle<Question, Arc<Entry>> for CountEvictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Question, _: Arc<Entry>) {
        add(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RData;
    use hickory_proto::rr::rdata::A;

    use super::*;
    use crate::testing;

    const KEEP_STALE: Caching = Caching {
        prefetch: true,
        serve_stale: Some(Duration::from_secs(3600)),
    };

    fn question(name: &str) -> Question {
        testing::question(name, RecordType::A)
    }

    fn answer(name: &str, ttl: u32) -> Answer {
        let data = RData::A(A::new(192, 0, 2, 1));
        Answer {
            answers: vec![Record::from_rdata(testing::name(name), ttl, data)],
            ..Answer::empty(ResponseCode::NoError)
        }
    }

    fn cache(octets: u64) -> (Cache, Clock, Limits) {
        let clock = Clock::manual();
        let limits = Limits {
            cache_octets_max: octets,
            ..Limits::default()
        };
        (Cache::new(&limits, clock.clone()), clock, limits)
    }

    fn fail(cache: &Cache, limits: &Limits, is_unreachable: bool) {
        let failure = Answer::empty(ResponseCode::ServFail);
        cache.insert_failure(&question("a.test."), &failure, is_unreachable, limits);
    }

    fn is_failed(cache: &Cache) -> bool {
        let found = cache.get(&question("a.test."), &KEEP_STALE);
        matches!(found, Found::Failed { .. })
    }

    #[test]
    fn rfc9520_section_3_2_failures_are_kept_from_a_second_to_five_minutes() {
        let (cache, clock, limits) = cache(1 << 20);
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            fail(&cache, &limits, false);
            clock.advance(Duration::from_millis(seconds * 1000 - 1));
            assert!(is_failed(&cache), "{seconds}");
            clock.advance(Duration::from_millis(1));
            assert!(!is_failed(&cache), "{seconds}");
        }
        for _ in 0..100 {
            fail(&cache, &limits, true);
        }
        clock.advance(Duration::from_secs(u64::from(UNREACHABLE_SECONDS_MAX)));
        assert!(!is_failed(&cache), "silence is not held against the name");
    }

    #[test]
    fn rfc8767_an_old_answer_outlives_its_ttl_and_failures() {
        let (cache, clock, limits) = cache(1 << 20);
        let asked = question("a.test.");
        cache.insert(&asked, &answer("a.test.", 60), &limits);
        clock.advance(Duration::from_secs(61));
        let Found::Expired { stale: Some(stale) } = cache.get(&asked, &KEEP_STALE) else {
            panic!("no stale answer");
        };
        assert_eq!(stale.answers[0].ttl, STALE_TTL_SECONDS);
        fail(&cache, &limits, false);
        let found = cache.get(&asked, &KEEP_STALE);
        assert!(
            matches!(found, Found::Failed { stale: Some(_), .. }),
            "{found:?}"
        );
        let found = cache.get(&asked, &Caching::default());
        assert!(
            matches!(found, Found::Failed { stale: None, .. }),
            "{found:?}"
        );
        clock.advance(Duration::from_secs(3600));
        let found = cache.get(&asked, &KEEP_STALE);
        assert!(matches!(found, Found::Expired { stale: None }), "{found:?}");
    }

    #[test]
    fn popular_answers_are_asked_for_again_before_they_end() {
        let (cache, clock, limits) = cache(1 << 20);
        let asked = question("a.test.");
        cache.insert(&asked, &answer("a.test.", 100), &limits);
        let asks_again = |cache: &Cache| match cache.get(&asked, &KEEP_STALE) {
            Found::Fresh { asks_again, .. } => asks_again,
            found => panic!("{found:?}"),
        };
        for _ in 0..POPULAR_HITS_MIN {
            assert!(!asks_again(&cache));
        }
        clock.advance(Duration::from_secs(89));
        assert!(!asks_again(&cache), "not at its end");
        clock.advance(Duration::from_secs(1));
        assert!(asks_again(&cache));
        fail(&cache, &limits, false);
        assert!(!asks_again(&cache), "failed a moment ago");
        clock.advance(Duration::from_secs(1));
        assert!(asks_again(&cache));
    }

    #[test]
    fn memory_is_bounded_whatever_is_asked() {
        let (cache, _, limits) = cache(200_000);
        for n in 0..5_000 {
            let name = format!("n{n}.test.");
            cache.insert(&question(&name), &answer(&name, 300), &limits);
        }
        let state = cache.state();
        assert!(state.octets <= 200_000, "{state:?}");
        assert!(state.entries > 50 && state.entries < 400, "{state:?}");
        assert_eq!(state.entries + state.evictions, 5_000, "{state:?}");
    }

    #[test]
    fn an_answer_that_may_not_be_kept_displaces_the_old_one() {
        let (cache, _, limits) = cache(1 << 20);
        let asked = question("a.test.");
        cache.insert(&asked, &answer("a.test.", 60), &limits);
        cache.insert(&asked, &answer("a.test.", 0), &limits);
        assert!(matches!(cache.get(&asked, &KEEP_STALE), Found::Missing));
    }
}
