//! All upstreams: who is asked next, when another one is asked as well, when to give up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use rustls::RootCertStore;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::health::{Admission, Health};
use super::tls::{self, TlsError};
use super::{AskError, Exchange, Failed};
use crate::answer::{Answer, ExtendedErrorCode, Question};
use crate::asker::Asked;
use crate::clock::Clock;
use crate::config::{Config, Timeouts, Upstream, UpstreamOrder};
use crate::metrics::{Metrics, Raised, add};

/// Tries for one question, over all upstreams.
const TRIES_MAX: usize = 6;

/// The upstreams in the order of the configuration.
pub(crate) struct Pool {
    members: Vec<Arc<Member>>,
    order: UpstreamOrder,
    timeouts: Timeouts,
    /// Tries under way at one upstream, and so sockets to it.
    in_flight_max: u64,
    clock: Clock,
    /// Who vouches for encrypted upstreams, if there are any.
    roots: Option<Arc<RootCertStore>>,
}

struct Member {
    exchange: Exchange,
    health: Mutex<Health>,
    tries: [AtomicU64; TryResult::ALL.len()],
    in_flight: AtomicU64,
}

/// The one question that finds out whether an upstream is back. When it goes, answered, failed or
/// given up by who asked, another one may.
struct Probe(Arc<Member>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.health().probe_ended();
    }
}

/// How a try at an upstream ended, unless another one was faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryResult {
    /// NOERROR, NXDOMAIN, or a validation failure.
    Answered,
    /// SERVFAIL, REFUSED or another response code.
    Failed,
    /// Nothing came in time.
    TimedOut,
    /// The socket, the connection or the message was bad.
    Broken,
}

impl TryResult {
    /// All, in the order of their index.
    pub const ALL: [TryResult; 4] = [
        TryResult::Answered,
        TryResult::Failed,
        TryResult::TimedOut,
        TryResult::Broken,
    ];

    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            TryResult::Answered => "answered",
            TryResult::Failed => "failed",
            TryResult::TimedOut => "timed_out",
            TryResult::Broken => "broken",
        }
    }
}

/// One upstream, as metrics and `show dns` have it.
#[derive(Debug, Clone)]
pub struct UpstreamState {
    /// Who it is.
    pub upstream: Upstream,
    /// Whether it is asked; false while it is left alone after failures.
    pub is_up: bool,
    /// The moving mean of its round-trip time; `None` before the first answer.
    pub rtt: Option<Duration>,
    /// From 0, never fails, to 1, fails always.
    pub failure_score: f32,
    /// Tries under way.
    pub in_flight: u64,
    /// Tries by how they ended, in the order of [`TryResult::ALL`].
    pub tries: [u64; TryResult::ALL.len()],
}

impl Pool {
    /// Upstreams that were in `before` keep their connections and what is known of them.
    ///
    /// # Errors
    /// Certificates that cannot be had.
    pub(crate) fn new(
        config: &Config,
        clock: Clock,
        before: Option<&Pool>,
    ) -> Result<Pool, TlsError> {
        let roots = match tls::needs_tls(config) {
            true => Some(Arc::new(tls::roots(config.upstream_ca.as_deref())?)),
            false => None,
        };
        let tls = roots.clone().map(tls::client_config).transpose()?;
        let members = config.upstream.iter().map(|upstream| {
            let kept = before.iter().flat_map(|pool| &pool.members);
            // What the certificates say may have changed: only plain ones are kept.
            let mut kept = kept.filter(|_| !upstream.protocol.is_encrypted());
            let kept = kept.find(|member| member.exchange.config == *upstream);
            kept.cloned()
                .unwrap_or_else(|| Arc::new(Member::new(upstream.clone(), tls.clone())))
        });
        Ok(Pool {
            members: members.collect(),
            order: config.upstream_order,
            timeouts: config.timeouts,
            in_flight_max: config.limits.upstream_in_flight_max as u64,
            clock,
            roots,
        })
    }

    /// Closes sockets to upstreams that were kept for further questions, and whose time is up.
    pub(crate) fn close_old_sockets(&self) {
        let now = std::time::Instant::now();
        for member in &self.members {
            member.exchange.sockets.close_old(now);
        }
    }

    /// Whether the same authorities vouch for its upstreams, wherever they were read from.
    pub(crate) fn has_roots_of(&self, other: &Pool) -> bool {
        let roots = |pool: &Pool| pool.roots.as_ref().map(|store| store.roots.clone());
        roots(self) == roots(other)
    }

    /// Asks one upstream after the other until one gives an answer other than a failure or the
    /// time is up; twice round if none of them said anything. One that takes longer than it
    /// should is not given up, but the next one is asked as well. Always comes to an answer:
    /// SERVFAIL if nobody had one.
    pub(crate) async fn ask(&self, question: &Question, metrics: &Arc<Metrics>) -> Asked {
        let deadline = Instant::now() + self.timeouts.query;
        let mut plan = self.plan();
        let mut tries = FuturesUnordered::new();
        let mut failure: Option<Answer> = None;
        let mut next_at = Instant::now();
        // Almost always the first one answers in its time, and nothing more is needed.
        if let Some((member, admission)) = plan.next(false) {
            next_at += member.health().patience(admission, &self.timeouts);
            let mut first = self.try_once(member, admission, question, deadline, metrics);
            match timeout_at(next_at.min(deadline), &mut first).await {
                Ok(Some(answer)) if answer.is_success() || answer.is_bogus() => {
                    return Asked {
                        answer,
                        is_unreachable: false,
                    };
                }
                Ok(failed) => {
                    failure = failed;
                    next_at = Instant::now();
                }
                Err(_) => tries.push(first),
            }
        }
        let found = loop {
            if tries.is_empty() || Instant::now() >= next_at {
                next_at = deadline;
                if let Some((member, admission)) = plan.next(failure.is_some()) {
                    let patience = member.health().patience(admission, &self.timeouts);
                    next_at = Instant::now() + patience;
                    tries.push(self.try_once(member, admission, question, deadline, metrics));
                } else if tries.is_empty() {
                    break None;
                }
            }
            tokio::select! {
                // A try that ended says more than the time that it was given.
                biased;
                Some(tried) = tries.next() => match tried {
                    // Another upstream may do better; a validation failure is an answer.
                    Some(answer) if answer.is_success() || answer.is_bogus() => {
                        break Some(answer);
                    }
                    failed => {
                        failure = failed.or(failure);
                        next_at = Instant::now();
                    }
                },
                () = sleep_until(next_at), if next_at < deadline => {}
                () = sleep_until(deadline) => break None,
            }
        };
        if !tries.is_empty() {
            // How the others end is told to their health, or a dead upstream that another one
            // always answers for would never be found out.
            tokio::spawn(async move { while tries.next().await.is_some() {} });
        }
        let found = found.or(failure);
        Asked {
            is_unreachable: found.is_none(),
            answer: found.unwrap_or_else(|| {
                let code = ExtendedErrorCode::NoReachableAuthority;
                Answer::failure(code, "no upstream answered")
            }),
        }
    }

    /// One try; `None` if it got no message.
    fn try_once(
        &self,
        member: Arc<Member>,
        admission: Admission,
        question: &Question,
        deadline: Instant,
        metrics: &Arc<Metrics>,
    ) -> BoxFuture<'static, Option<Answer>> {
        let (question, metrics) = (question.clone(), metrics.clone());
        let (clock, in_flight_max) = (self.clock.clone(), self.in_flight_max);
        let probe = (admission == Admission::Probe).then(|| Probe(member.clone()));
        let begun = Instant::now();
        let left = deadline.saturating_duration_since(begun);
        let timeout = self.timeouts.attempt.min(left);
        let asked = async move {
            let _probe = probe;
            let _raised = Raised::new(&member.in_flight);
            if member.in_flight.load(Ordering::Relaxed) > in_flight_max {
                member.count(TryResult::Broken);
                return None;
            }
            match member.exchange.ask(&question, timeout, &metrics).await {
                Ok(message) => {
                    let answer = Answer::from_message(message);
                    member.note_answer(&answer, begun.elapsed(), &metrics);
                    Some(answer)
                }
                Err(failed) => {
                    add(&metrics.upstream_errors);
                    member.note_failure(begun, &question, &failed, clock.now());
                    let code = ExtendedErrorCode::Other;
                    let unusable = || Answer::failure(code, failed.error.to_string());
                    failed.heard_after.map(|_| unusable())
                }
            }
        };
        asked.boxed()
    }

    /// Who is asked, in turn.
    fn plan(&self) -> Plan {
        let now = self.clock.now();
        let mut members: Vec<_> = self
            .members
            .iter()
            .map(|member| {
                let health = member.health();
                let rtt = match self.order {
                    UpstreamOrder::Given => Duration::ZERO,
                    UpstreamOrder::Fastest => health.rtt().unwrap_or_default(),
                };
                (health.admission(now), rtt, member.clone())
            })
            .collect();
        // Stable: what is equal stays in the order of the configuration.
        members.sort_by_key(|(admission, rtt, _)| (*admission == Admission::LastResort, *rtt));
        let once = members.len();
        Plan {
            tries_max: (2 * once).min(TRIES_MAX).max(once),
            members,
            tries: 0,
        }
    }

    /// What is known of each.
    pub(crate) fn states(&self) -> Vec<UpstreamState> {
        let now = self.clock.now();
        let members = self.members.iter();
        let states = members.map(|member| {
            let health = member.health();
            UpstreamState {
                upstream: member.exchange.config.clone(),
                is_up: health.is_up(now),
                rtt: health.rtt(),
                failure_score: health.score(),
                in_flight: member.in_flight.load(Ordering::Relaxed),
                tries: std::array::from_fn(|n| member.tries[n].load(Ordering::Relaxed)),
            }
        });
        states.collect()
    }
}

impl Member {
    fn new(upstream: Upstream, tls: Option<Arc<rustls::ClientConfig>>) -> Member {
        Member {
            exchange: Exchange::new(upstream, tls),
            health: Mutex::default(),
            tries: Default::default(),
            in_flight: AtomicU64::new(0),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn count(&self, result: TryResult) {
        add(&self.tries[result as usize]);
    }

    fn note_heard(&self, took: Duration) {
        if self.health().answered(took) {
            tracing::info!(upstream = %self.exchange.config, "upstream answers again");
        }
    }

    fn note_answer(&self, answer: &Answer, took: Duration, metrics: &Metrics) {
        self.note_heard(took);
        match answer.is_success() || answer.is_bogus() {
            true => self.count(TryResult::Answered),
            false => {
                add(&metrics.upstream_errors);
                self.count(TryResult::Failed);
            }
        }
    }

    fn note_failure(&self, begun: Instant, question: &Question, failed: &Failed, now: Duration) {
        let upstream = &self.exchange.config;
        let error = &failed.error;
        let is_silence = matches!(error, AskError::Timeout);
        self.count(match is_silence {
            true => TryResult::TimedOut,
            false => TryResult::Broken,
        });
        tracing::debug!(%upstream, %question, %error, "upstream failed");
        if let Some(took) = failed.heard_after {
            self.note_heard(took);
            return;
        }
        if error.is_ours() {
            return;
        }
        if self.health().failed(begun, is_silence, now) {
            tracing::warn!(%upstream, %error, "upstream does not answer");
        }
    }
}

/// Tries to come. The second round is for when nobody said anything in the first.
struct Plan {
    /// With their round-trip times, by which they were put in order.
    members: Vec<(Admission, Duration, Arc<Member>)>,
    /// Of both rounds together.
    tries_max: usize,
    tries: usize,
}

impl Plan {
    fn next(&mut self, somebody_failed: bool) -> Option<(Arc<Member>, Admission)> {
        if somebody_failed {
            self.tries_max = self.tries_max.min(self.members.len());
        }
        while self.tries < self.tries_max {
            let (admission, _, member) = &self.members[self.tries % self.members.len()];
            self.tries += 1;
            if member.health().admit(*admission) {
                return Some((member.clone(), *admission));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RecordType;

    use super::*;
    use crate::config::Protocol;
    use crate::testing::question;

    #[test]
    fn want_of_file_descriptors_says_nothing_against_an_upstream() {
        let upstream = Upstream::plain(Protocol::Udp, ([192, 0, 2, 53], 53).into());
        let member = Member::new(upstream, None);
        let question = question("test.", RecordType::A);
        let fail = |errno| {
            let failed = Failed {
                error: std::io::Error::from_raw_os_error(errno).into(),
                heard_after: None,
            };
            for _ in 0..10 {
                member.note_failure(Instant::now(), &question, &failed, Duration::ZERO);
            }
            member.health().is_up(Duration::ZERO)
        };
        assert!(fail(libc::EMFILE));
        assert!(fail(libc::ENFILE));
        assert!(!fail(libc::ECONNREFUSED));
    }

    #[tokio::test]
    async fn a_probe_that_is_given_up_lets_another_one_go() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config {
            upstream: vec![Upstream::plain(Protocol::Udp, silent.local_addr().unwrap())],
            ..Config::default()
        };
        // Whoever asked gives up first.
        config.timeouts.attempt = Duration::from_secs(60);
        config.timeouts.query = Duration::from_secs(60);
        let clock = Clock::manual();
        let pool = Pool::new(&config, clock.clone(), None).unwrap();
        let member = &pool.members[0];
        while member.health().is_up(clock.now()) {
            member.health().failed(Instant::now(), true, clock.now());
        }
        clock.advance(Duration::from_secs(60));
        let admission = || member.health().admission(clock.now());
        assert_eq!(admission(), Admission::Probe);
        let (question, metrics) = (question("test.", RecordType::A), Arc::default());
        let asked = pool.ask(&question, &metrics);
        let given_up = tokio::time::timeout(Duration::from_millis(20), asked).await;
        assert!(given_up.is_err());
        assert_eq!(metrics.upstream_queries.load(Ordering::Relaxed), 1);
        assert_eq!(admission(), Admission::Probe);
    }
}
