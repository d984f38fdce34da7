//! One question to the world outside: the cache, then the upstreams.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{LowerName, RecordType};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer::{Answer, ExtendedErrorCode, Question, rcode_name};
use crate::asker::{Asked, Asker, answer_or_bug};
use crate::cache::{Cache, Found};
use crate::config::{AskBoth, Caching, Config, Dnssec, Limits};
use crate::dnssec::{Validator, without_signatures};
use crate::metrics::{Metrics, Raised, add};
use crate::trace::Trace;

/// How long a client waits for a fresh answer if there is an old one (RFC 8767 section 5).
const STALE_WAIT: Duration = Duration::from_millis(1800);

/// What outlives a reload: the cache, the room at the upstreams, the counters.
pub(crate) struct Kept {
    pub(crate) cache: Cache,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether the translator takes traffic.
    pub(crate) ready: Arc<AtomicBool>,
    /// Counts changes of who is asked and trusted: what was asked for before one is not kept.
    trust: AtomicU32,
    upstream_permits: Arc<Semaphore>,
}

/// Questions at the upstreams.
#[derive(Default)]
struct Questions {
    answers: HashMap<Question, UnderWay>,
    /// How many of them there are for names right below a domain.
    below: HashMap<LowerName, usize>,
}

type UnderWay = Shared<BoxFuture<'static, Arc<Answer>>>;

/// The place of a question among those at the upstreams, and its part of the room there. Both are
/// free when this goes, whatever ended the question.
struct Place {
    resolver: Arc<Resolver>,
    question: Question,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.resolver.questions().remove(&self.question);
    }
}

/// A question on its way, as one who waits for its answer has it.
enum Awaited {
    /// Who began it drives it. If that one goes away, the question goes on by itself, so that
    /// nobody's answer goes with it. Empty when it came.
    Begun(Option<UnderWay>),
    Joined(UnderWay),
}

impl Future for Awaited {
    type Output = Arc<Answer>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Arc<Answer>> {
        match &mut *self {
            Awaited::Joined(shared) => shared.poll_unpin(context),
            Awaited::Begun(begun) => {
                let Some(shared) = begun else {
                    return Poll::Pending;
                };
                let answer = ready!(shared.poll_unpin(context));
                *begun = None;
                Poll::Ready(answer)
            }
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Awaited::Begun(begun) = self
            && let Some(shared) = begun.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(shared);
        }
    }
}

/// One domain's names may have this part of the questions at the upstreams: a flood of random
/// names below a domain whose servers are silent leaves room for others.
const DOMAIN_PART: usize = 4;

impl Kept {
    pub(crate) fn new(cache: Cache, limits: &Limits, ready: Arc<AtomicBool>) -> Kept {
        Kept {
            cache,
            metrics: Arc::default(),
            ready,
            trust: AtomicU32::new(0),
            upstream_permits: Arc::new(Semaphore::new(limits.upstream_in_flight_max)),
        }
    }

    /// Which configuration is trusted now.
    pub(crate) fn trust(&self) -> u32 {
        self.trust.load(Ordering::SeqCst)
    }

    /// Trusts another configuration and forgets what those before it said.
    pub(crate) fn trust_anew(&self, trust: u32) {
        self.trust.store(trust, Ordering::SeqCst);
        self.cache.clear();
    }

    /// Keeps the answer, or the failure, in the cache, unless whoever gave it is trusted no more.
    pub(crate) fn keep(&self, question: &Question, asked: &Asked, limits: &Limits, trust: u32) {
        let Asked {
            answer,
            is_unreachable,
        } = asked;
        let cache = &self.cache;
        match answer.is_success() {
            true => cache.insert(question, answer, limits),
            false => cache.insert_failure(question, answer, *is_unreachable, limits),
        }
        // Behind the insertion, since the cache may have been cleared right before it.
        if self.trust() != trust {
            cache.remove(question);
        }
    }
}

impl Questions {
    /// Makes room for a question below its domain, unless that has enough.
    fn admit(&mut self, question: &Question, limits: &Limits) -> bool {
        let Some(domain) = domain(question) else {
            return true;
        };
        let count = self.below.entry(domain).or_default();
        let has_room = *count < (limits.upstream_in_flight_max / DOMAIN_PART).max(1);
        *count += usize::from(has_room);
        has_room
    }

    fn remove(&mut self, question: &Question) {
        self.answers.remove(question);
        if let Some(domain) = domain(question)
            && let Entry::Occupied(mut count) = self.below.entry(domain)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// The domain that the name stands below, unless that is a top-level domain: those are everybody's.
fn domain(question: &Question) -> Option<LowerName> {
    let domain = question.name.base_name();
    (domain.num_labels() > 1).then_some(domain)
}

/// The asking side of one configuration: cache and upstreams.
pub(crate) struct Resolver {
    ask_both: AskBoth,
    caching: Caching,
    limits: Limits,
    asker: Arc<Asker>,
    validator: Option<Validator>,
    under_way: Mutex<Questions>,
    kept: Arc<Kept>,
}

impl Resolver {
    pub(crate) fn new(config: &Config, asker: Asker, kept: Arc<Kept>) -> Resolver {
        let asker = Arc::new(asker);
        let validator = match config.dnssec {
            Dnssec::Off => None,
            Dnssec::Validate => Some(Validator::new(asker.clone(), config.trust_anchors.clone())),
        };
        Resolver {
            ask_both: config.ask_both,
            caching: config.caching,
            limits: config.limits,
            asker,
            validator,
            under_way: Mutex::default(),
            kept,
        }
    }

    fn questions(&self) -> MutexGuard<'_, Questions> {
        self.under_way.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Who asks the upstreams.
    pub(crate) fn asker(&self) -> &Asker {
        &self.asker
    }

    /// The AAAA answer, and that to the A question if both were asked at once.
    pub(crate) async fn look_up_aaaa(
        self: &Arc<Self>,
        question: &Question,
        trace: &mut Trace,
    ) -> (Answer, Option<Answer>) {
        let asks_both = match self.ask_both {
            AskBoth::Never => false,
            AskBoth::Learned => self.kept.cache.last_lacked(&self.as_asked(question)),
            AskBoth::Always => true,
        };
        if !asks_both {
            return (self.look_up(question, trace).await, None);
        }
        let for_a = question.with_type(RecordType::A);
        let mut trace_a = trace.beside();
        let (aaaa, a) = tokio::join!(
            self.look_up(question, trace),
            self.look_up(&for_a, &mut trace_a)
        );
        trace.append(trace_a);
        (aaaa, Some(a))
    }

    /// The answer to a question. Where answers are validated, all are asked for with signatures,
    /// which a client that did not ask for them does not see (RFC 4035 section 3.2.1).
    pub(crate) async fn look_up(
        self: &Arc<Self>,
        question: &Question,
        trace: &mut Trace,
    ) -> Answer {
        if !self.validates(question) || question.dnssec_ok {
            return self.look_up_whole(question, trace).await;
        }
        let answer = self.look_up_whole(&self.as_asked(question), trace).await;
        without_signatures(answer, question.qtype)
    }

    /// The question under which the answer is kept.
    fn as_asked(&self, question: &Question) -> Question {
        Question {
            dnssec_ok: question.dnssec_ok || self.validates(question),
            ..question.clone()
        }
    }

    /// RFC 6147 section 5.5: with CD the client wants to judge for itself.
    fn validates(&self, question: &Question) -> bool {
        self.validator.is_some() && !question.checking_disabled
    }

    /// From the cache, or from the upstreams; equal questions are asked once.
    async fn look_up_whole(self: &Arc<Self>, question: &Question, trace: &mut Trace) -> Answer {
        let metrics = &self.kept.metrics;
        let stale = match self.kept.cache.get(question, &self.caching) {
            Found::Fresh { answer, asks_again } => {
                add(&metrics.cache_hits);
                trace.step(|| format!("{question} is in the cache: {}", described(&answer)));
                if asks_again && self.send_again(question) {
                    add(&metrics.prefetched);
                }
                return answer;
            }
            Found::Failed { answer, stale } => {
                add(&metrics.cache_hits);
                trace.step(|| format!("{question} failed before: {}", described(&answer)));
                return self.or_stale(answer, stale, trace);
            }
            Found::Expired { stale } => stale,
            Found::Missing => None,
        };
        add(&metrics.cache_misses);
        let Some(under_way) = self.join(question) else {
            add(&metrics.upstream_refused);
            trace.step(|| "too many questions at the upstreams".into());
            let text = "too many questions under way";
            let refusal = Answer::failure(ExtendedErrorCode::Other, text);
            return self.or_stale(refusal, stale, trace);
        };
        let answer = match &stale {
            None => under_way.await,
            Some(stale) => match tokio::time::timeout(STALE_WAIT, under_way).await {
                Ok(answer) => answer,
                // The question goes on by itself, and the next client gets its answer.
                Err(_) => return self.or_stale(late(), Some(stale.clone()), trace),
            },
        };
        trace.step(|| {
            let asked = self.asker.asked();
            format!("{asked} were asked {question}: {}", described(&answer))
        });
        self.or_stale((*answer).clone(), stale, trace)
    }

    /// The old answer in place of a failure, if there is one. Not where validation failed: the
    /// old answer may be what was found out to be wrong.
    fn or_stale(&self, answer: Answer, stale: Option<Answer>, trace: &mut Trace) -> Answer {
        match stale {
            Some(stale) if !answer.is_success() && !answer.is_bogus() => {
                add(&self.kept.metrics.cache_stale);
                trace
                    .step(|| format!("an old answer for want of a new one: {}", described(&stale)));
                stale
            }
            _ => answer,
        }
    }

    /// Sends a question whose answer ends soon. Says whether it did: an equal one may be on its
    /// way already, or answered since (the answer is kept before the question goes from the list),
    /// or no room for it.
    fn send_again(self: &Arc<Self>, question: &Question) -> bool {
        let mut questions = self.questions();
        !questions.answers.contains_key(question)
            && self.kept.cache.asks_again(question, &self.caching)
            && self.send(question, &mut questions).is_some()
    }

    /// Joins an equal question on its way, or sends it.
    fn join(self: &Arc<Self>, question: &Question) -> Option<Awaited> {
        let mut questions = self.questions();
        if let Some(shared) = questions.answers.get(question) {
            add(&self.kept.metrics.merged);
            return Some(Awaited::Joined(shared.clone()));
        }
        self.send(question, &mut questions)
    }

    /// Sends a question, if the bounds let one more go.
    fn send(self: &Arc<Self>, question: &Question, questions: &mut Questions) -> Option<Awaited> {
        let permits = self.kept.upstream_permits.clone();
        let permit = permits.try_acquire_owned().ok()?;
        if !questions.admit(question, &self.limits) {
            return None;
        }
        let place = Place {
            resolver: self.clone(),
            question: question.clone(),
            _permit: permit,
        };
        let future = async move {
            let answer = answer_or_bug(&place.question, place.resolver.fetch(&place.question));
            let answer = Arc::new(answer.await);
            drop(place);
            answer
        };
        let shared = future.boxed().shared();
        questions.answers.insert(question.clone(), shared.clone());
        Some(Awaited::Begun(Some(shared)))
    }

    /// Asks the upstreams, validates if so configured, and keeps the answer.
    async fn fetch(&self, question: &Question) -> Answer {
        let _raised = Raised::new(&self.kept.metrics.upstream_in_flight);
        let mut asked = match &self.validator {
            Some(validator) if !question.checking_disabled => validator.ask(question).await,
            _ => self.asker.ask(question).await,
        };
        // What somebody else found authentic is nothing to a server that validates by itself.
        if self.validator.is_some() && question.checking_disabled {
            asked.answer.authentic = false;
        }
        let trust = self.asker.trust();
        self.kept.keep(question, &asked, &self.limits, trust);
        asked.answer
    }
}

/// No answer within [`STALE_WAIT`].
fn late() -> Answer {
    Answer::failure(ExtendedErrorCode::NoReachableAuthority, "no answer in time")
}

pub(crate) fn described(answer: &Answer) -> String {
    let reasons = answer.extended_errors.iter().map(|e| e.text.as_str());
    let reasons: Vec<&str> = reasons.filter(|text| !text.is_empty()).collect();
    let records = answer
        .answers
        .iter()
        .map(|r| format!("{} {} {} {}", r.name, r.ttl, r.record_type(), r.data));
    let records: Vec<String> = records.collect();
    let mut text = match (answer.rcode, records.as_slice()) {
        (ResponseCode::NoError, []) => "no such record".into(),
        (rcode, []) => rcode_name(rcode),
        (ResponseCode::NoError, records) => records.join("; "),
        (rcode, records) => format!("{}, {}", rcode_name(rcode), records.join("; ")),
    };
    if !reasons.is_empty() {
        text.push_str(&format!(" ({})", reasons.join("; ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record};

    use super::*;
    use crate::clock::Clock;
    use crate::config::{Protocol, Upstream};
    use crate::testing::{name, question};
    use crate::upstream::Pool;

    #[tokio::test]
    async fn an_answer_that_came_meanwhile_is_not_asked_for_again() {
        let config = Config {
            upstream: vec![Upstream::plain(Protocol::Udp, ([127, 0, 0, 1], 1).into())],
            ..Config::default()
        };
        let clock = Clock::manual();
        let cache = Cache::new(&config.limits, clock.clone());
        let kept = Arc::new(Kept::new(cache, &config.limits, Arc::default()));
        let pool = Pool::new(&config, clock.clone(), None).unwrap();
        let asker = Asker::new(&config, pool, kept.clone(), clock.clone(), 0).unwrap();
        let resolver = Arc::new(Resolver::new(&config, asker, kept.clone()));
        let question = question("test.", RecordType::A);
        let data = RData::A(A::new(192, 0, 2, 1));
        let answer = Answer {
            answers: vec![Record::from_rdata(name("test."), 100, data)],
            ..Answer::empty(ResponseCode::NoError)
        };
        kept.cache.insert(&question, &answer, &config.limits);
        for _ in 0..10 {
            kept.cache.get(&question, &config.caching);
        }
        clock.advance(Duration::from_secs(95));
        assert!(kept.cache.asks_again(&question, &config.caching));
        // Somebody found that, and was overtaken by who asked, and had the answer.
        kept.cache.insert(&question, &answer, &config.limits);
        assert!(!resolver.send_again(&question));
        for _ in 0..10 {
            kept.cache.get(&question, &config.caching);
        }
        clock.advance(Duration::from_secs(95));
        assert!(resolver.send_again(&question));
    }
}
