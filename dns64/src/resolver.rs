//! One question to the world outside: the cache, then the upstreams.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{LowerName, RData, Record, RecordType};
use tokio::sync::Semaphore;

use crate::answer::{Answer, ExtendedErrorCode, Question};
use crate::cache::Cache;
use crate::config::{Config, Limits, Upstream};
use crate::metrics::{Metrics, Raised, add};
use crate::pool::Pool;
use crate::trace::Trace;

/// Longest chain of CNAME records followed for an upstream that does not follow them.
const CHAIN_MAX: usize = 8;

/// What outlives a reload: the cache, the questions on their way, the counters.
pub(crate) struct Kept {
    pub(crate) cache: Cache,
    pub(crate) metrics: Metrics,
    /// Whether the translator takes traffic.
    pub(crate) ready: Arc<AtomicBool>,
    under_way: Mutex<HashMap<Question, UnderWay>>,
    upstream_permits: Arc<Semaphore>,
}

type UnderWay = Shared<BoxFuture<'static, Arc<Answer>>>;

impl Kept {
    pub(crate) fn new(cache: Cache, limits: &Limits, ready: Arc<AtomicBool>) -> Kept {
        Kept {
            cache,
            metrics: Metrics::default(),
            ready,
            under_way: Mutex::default(),
            upstream_permits: Arc::new(Semaphore::new(limits.upstream_in_flight_max)),
        }
    }
}

/// The asking side of one configuration: cache and upstreams.
pub(crate) struct Resolver {
    limits: Limits,
    pool: Pool,
    kept: Arc<Kept>,
}

impl Resolver {
    pub(crate) fn new(config: &Config, pool: Pool, kept: Arc<Kept>) -> Resolver {
        Resolver {
            limits: config.limits,
            pool,
            kept,
        }
    }

    /// Each upstream, and whether it answers.
    pub(crate) fn upstreams(&self) -> Vec<(Upstream, bool)> {
        self.pool.health()
    }

    /// The answer to a question, from the cache, or from the upstreams; equal questions are asked once.
    pub(crate) async fn look_up(
        self: &Arc<Self>,
        question: &Question,
        trace: &mut Trace,
    ) -> Answer {
        let metrics = &self.kept.metrics;
        if let Some(answer) = self.kept.cache.get(question) {
            add(&metrics.cache_hits);
            trace.step(|| format!("{question} is in the cache: {}", described(&answer)));
            return answer;
        }
        add(&metrics.cache_misses);
        let Some(under_way) = self.join(question) else {
            trace.step(|| "too many questions at the upstreams".into());
            return Answer::failure(ExtendedErrorCode::Other, "too many questions under way");
        };
        let answer = under_way.await;
        trace.step(|| {
            format!(
                "the upstreams were asked {question}: {}",
                described(&answer)
            )
        });
        (*answer).clone()
    }

    /// Joins an equal question on its way, or sends it, if the bound lets one more go. It runs
    /// by itself, so that a client that goes away takes nobody's answer with it.
    fn join(self: &Arc<Self>, question: &Question) -> Option<UnderWay> {
        let mut under_way = self.kept.under_way.lock().ok()?;
        if let Some(shared) = under_way.get(question) {
            add(&self.kept.metrics.merged);
            return Some(shared.clone());
        }
        let permits = self.kept.upstream_permits.clone();
        let permit = permits.try_acquire_owned().ok()?;
        let resolver = self.clone();
        let asked = question.clone();
        let future = async move {
            let answer = Arc::new(resolver.fetch(&asked).await);
            if let Ok(mut under_way) = resolver.kept.under_way.lock() {
                under_way.remove(&asked);
            }
            drop(permit);
            answer
        };
        let shared = future.boxed().shared();
        under_way.insert(question.clone(), shared.clone());
        tokio::spawn(shared.clone());
        Some(shared)
    }

    /// Asks the upstreams, follows the chain if they do not, and keeps the answer.
    async fn fetch(&self, question: &Question) -> Answer {
        let metrics = &self.kept.metrics;
        let _raised = Raised::new(&metrics.upstream_in_flight);
        let mut answer = self.pool.ask(question, metrics).await;
        keep_chain(&question.name, &mut answer.answers);
        for _ in 0..CHAIN_MAX {
            let Some(target) = dangling_target(question, &answer) else {
                break;
            };
            let next = self
                .pool
                .ask(&question.with_name(target.clone()), metrics)
                .await;
            let mut records = next.answers;
            keep_chain(&target, &mut records);
            answer.answers.append(&mut records);
            answer.authentic &= next.authentic;
            answer.rcode = next.rcode;
            answer.authorities = next.authorities;
            answer.additionals = next.additionals;
            answer.extended_errors.extend(next.extended_errors);
        }
        self.kept.cache.insert(question, &answer, &self.limits);
        answer
    }
}

/// Drops records that do not belong to the chain from the name asked for: an upstream has no
/// business to answer for other names.
fn keep_chain(name: &LowerName, answers: &mut Vec<Record>) {
    let mut chain = vec![name.clone()];
    let mut next = 0;
    while let Some(name) = chain.get(next).cloned() {
        next += 1;
        let aliases = answers.iter().filter(|r| LowerName::new(&r.name) == name);
        let targets = aliases.filter_map(|r| match &r.data {
            RData::CNAME(CNAME(target)) => Some(LowerName::new(target)),
            _ => None,
        });
        let new: Vec<LowerName> = targets.filter(|t| !chain.contains(t)).collect();
        chain.extend(new);
    }
    answers.retain(|record| {
        let owner = LowerName::new(&record.name);
        // A DNAME record, and its signature, stand above the names that it redirects.
        let may_stand_above = matches!(record.record_type(), RecordType::DNAME | RecordType::RRSIG);
        chain
            .iter()
            .any(|name| *name == owner || may_stand_above && owner.zone_of(name))
    });
}

/// The end of a chain that the upstream did not follow: an alias without the record behind it,
/// and without a SOA record that says that there is none. A loop has no end.
fn dangling_target(question: &Question, answer: &Answer) -> Option<LowerName> {
    let asks_alias = matches!(question.qtype, RecordType::CNAME | RecordType::ANY);
    if answer.rcode != ResponseCode::NoError || asks_alias || answer.has(question.qtype) {
        return None;
    }
    if answer.negative_ttl().is_some() {
        return None;
    }
    let mut aliases = answer.answers.iter().rev();
    let last = aliases.find_map(|r| match &r.data {
        RData::CNAME(CNAME(target)) => Some(LowerName::new(target)),
        _ => None,
    })?;
    let followed = answer
        .answers
        .iter()
        .any(|r| LowerName::new(&r.name) == last);
    (!followed && last != question.name).then_some(last)
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
        (rcode, []) => format!("{rcode}"),
        (ResponseCode::NoError, records) => records.join("; "),
        (rcode, records) => format!("{rcode}, {}", records.join("; ")),
    };
    if !reasons.is_empty() {
        text.push_str(&format!(" ({})", reasons.join("; ")));
    }
    text
}
