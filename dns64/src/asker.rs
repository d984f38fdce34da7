//! One question to the upstreams, and what of the answer is believed.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hickory_proto::rr::RecordType;

use crate::answer::{Answer, ExtendedErrorCode, Question};
use crate::cache::Found;
use crate::clock::Clock;
use crate::config::{Caching, Config, Limits};
use crate::resolver::Kept;
use crate::scrub::{Unusable, dangling_target, scrub};
use crate::upstream::{Pool, Recursion};

/// Aliases followed for an upstream that does not follow them.
const FOLLOW_MAX: usize = 8;

/// Asks the upstreams of one configuration.
pub(crate) struct Asker {
    pool: Pool,
    /// In place of the pool, which is empty then.
    recursion: Option<Recursion>,
    limits: Limits,
    clock: Clock,
    kept: Arc<Kept>,
    /// The configuration that it asks for.
    trust: u32,
    under_way: Mutex<HashMap<Question, UnderWay>>,
}

type UnderWay = Shared<BoxFuture<'static, Arc<Answer>>>;

/// A question on its way, which is no more when this goes, whatever ended it.
struct Listed {
    asker: Arc<Asker>,
    question: Question,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut under_way = self
            .asker
            .under_way
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        under_way.remove(&self.question);
    }
}

/// What asking came to.
pub(crate) struct Asked {
    pub(crate) answer: Answer,
    /// Nobody said anything: the failure is ours or the network's, not the name's.
    pub(crate) is_unreachable: bool,
}

impl Asker {
    /// # Errors
    /// What hickory's recursor does not like.
    pub(crate) fn new(
        config: &Config,
        pool: Pool,
        kept: Arc<Kept>,
        clock: Clock,
        trust: u32,
    ) -> Result<Asker, String> {
        let recursion = match &config.recursive {
            Some(recursive) => Some(Recursion::new(config, recursive)?),
            None => None,
        };
        Ok(Asker {
            pool,
            recursion,
            limits: config.limits,
            clock,
            kept,
            trust,
            under_way: Mutex::default(),
        })
    }

    /// Which configuration it asks for.
    pub(crate) fn trust(&self) -> u32 {
        self.trust
    }

    /// Who is asked, in words.
    pub(crate) fn asked(&self) -> &'static str {
        match &self.recursion {
            Some(_) => "the name's own servers",
            None => "the upstreams",
        }
    }

    /// The upstreams.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The server's clock.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Asks the upstreams and follows the chain of aliases if they do not.
    pub(crate) async fn ask(&self, question: &Question) -> Asked {
        let mut asked = self.ask_once(question).await;
        let mut followed = 0;
        let mut last = None;
        while let Some(target) = dangling_target(question, &asked.answer) {
            if last.as_ref() == Some(&target) {
                // It was asked for, and there is nothing: an absence without a SOA record.
                break;
            }
            if followed == FOLLOW_MAX {
                asked.answer = unusable(Unusable::LongChain);
                break;
            }
            followed += 1;
            let next = self.ask_once(&question.with_name(target.clone())).await;
            let whole = asked.answer.followed_by(next.answer);
            asked = Asked {
                answer: self.believe(question, whole),
                is_unreachable: next.is_unreachable,
            };
            last = Some(target);
        }
        asked
    }

    /// What a proof needs: keys, DS records and zone cuts come from the cache, and are asked for
    /// once whoever needs them. They are part of a question that was let through already.
    pub(crate) async fn ask_for_proof(self: &Arc<Self>, question: &Question) -> Arc<Answer> {
        let is_shared = matches!(
            question.qtype,
            RecordType::DNSKEY | RecordType::DS | RecordType::NS
        );
        if !is_shared {
            return Arc::new(self.ask(question).await.answer);
        }
        match self.kept.cache.get(question, &Caching::default()) {
            Found::Fresh { answer, .. } | Found::Failed { answer, .. } => Arc::new(answer),
            Found::Expired { .. } | Found::Missing => self.join(question).await,
        }
    }

    fn join(self: &Arc<Self>, question: &Question) -> UnderWay {
        let mut under_way = self.under_way.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(shared) = under_way.get(question) {
            return shared.clone();
        }
        let listed = Listed {
            asker: self.clone(),
            question: question.clone(),
        };
        let future = async move {
            let answer = answer_or_bug(&listed.question, listed.asker.fetch(&listed.question));
            let answer = Arc::new(answer.await);
            drop(listed);
            answer
        };
        let shared = future.boxed().shared();
        under_way.insert(question.clone(), shared.clone());
        tokio::spawn(shared.clone());
        shared
    }

    /// Asks, and keeps the answer.
    async fn fetch(&self, question: &Question) -> Answer {
        let found = self.ask(question).await;
        self.kept.keep(question, &found, &self.limits, self.trust);
        found.answer
    }

    async fn ask_once(&self, question: &Question) -> Asked {
        let metrics = &self.kept.metrics;
        let asked = match &self.recursion {
            Some(recursion) => recursion.ask(question, metrics).await,
            None => self.pool.ask(question, metrics).await,
        };
        Asked {
            answer: self.believe(question, asked.answer),
            ..asked
        }
    }

    /// Of an answer only what belongs to the question is kept.
    fn believe(&self, question: &Question, mut answer: Answer) -> Answer {
        match scrub(question, &mut answer, self.limits.cache_seconds_max) {
            Ok(()) => answer,
            Err(reason) => unusable(reason),
        }
    }
}

/// The answer of `fetch`; SERVFAIL if it panics, or everyone who waits for the same answer, and
/// who asks for it later, would panic as well.
pub(crate) async fn answer_or_bug(
    question: &Question,
    fetch: impl Future<Output = Answer>,
) -> Answer {
    // What it shares with others stands behind locks that are taken though somebody panicked.
    let answered = AssertUnwindSafe(fetch).catch_unwind().await;
    answered.unwrap_or_else(|_| {
        tracing::error!(%question, "asking panicked: a bug; the message above says where");
        Answer::failure(ExtendedErrorCode::Other, "internal error")
    })
}

fn unusable(reason: Unusable) -> Answer {
    Answer::failure(ExtendedErrorCode::Other, reason.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use hickory_proto::op::ResponseCode;

    use super::*;
    use crate::cache::Cache;
    use crate::config::{Protocol, Upstream};
    use crate::testing::question;

    #[tokio::test]
    async fn a_panic_is_a_failure_to_all_who_wait_and_ask_later() {
        let mut config = Config {
            upstream: vec![Upstream::plain(Protocol::Udp, ([192, 0, 2, 53], 53).into())],
            ..Config::default()
        };
        // No point in time is that late.
        config.timeouts.query = Duration::MAX;
        let clock = Clock::manual();
        let pool = Pool::new(&config, clock.clone(), None).unwrap();
        let cache = Cache::new(&config.limits, clock.clone());
        let ready = Arc::new(AtomicBool::new(true));
        let kept = Arc::new(Kept::new(cache, &config.limits, ready));
        let asker = Arc::new(Asker::new(&config, pool, kept, clock, 0).unwrap());
        let question = question("test.", RecordType::DS);
        for _ in 0..2 {
            let (one, other) = tokio::join!(asker.join(&question), asker.join(&question));
            assert_eq!(one.rcode, ResponseCode::ServFail);
            assert_eq!(other.rcode, ResponseCode::ServFail);
            assert!(asker.under_way.lock().unwrap().is_empty());
        }
    }
}
