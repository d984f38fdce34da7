//! All upstreams: who is asked next, who is left alone for a while, when to give up.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::answer::{Answer, ExtendedErrorCode, Question};
use crate::clock::Clock;
use crate::config::{Config, Timeouts, Upstream};
use crate::metrics::{Metrics, add};
use crate::upstream::Exchange;

/// Failures in a row after which an upstream is left alone.
const FAILURES_MAX: u32 = 3;
/// How long it is left alone at first; doubled up to the second value.
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
const BACK_OFF_LAST: Duration = Duration::from_secs(30);

/// The upstreams in the order of preference.
pub(crate) struct Pool {
    members: Vec<Member>,
    timeouts: Timeouts,
    clock: Clock,
}

struct Member {
    exchange: Exchange,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    failures: u32,
    /// Left alone until then.
    until: Duration,
    back_off: Duration,
}

impl Health {
    fn failed(&mut self, now: Duration) {
        self.failures += 1;
        if self.failures >= FAILURES_MAX {
            self.back_off = (self.back_off * 2).clamp(BACK_OFF_FIRST, BACK_OFF_LAST);
            self.until = now + self.back_off;
        }
    }
}

impl Pool {
    pub(crate) fn new(config: &Config, clock: Clock) -> Pool {
        let members = config.upstream.iter().map(|upstream| Member {
            exchange: Exchange::new(upstream.clone()),
            health: Mutex::default(),
        });
        Pool {
            members: members.collect(),
            timeouts: config.timeouts,
            clock,
        }
    }

    /// Asks one upstream after the other until one gives an answer other than a failure or the
    /// time is up; twice round if none of them said anything. Always comes to an answer:
    /// SERVFAIL if nobody had one.
    pub(crate) async fn ask(&self, question: &Question, metrics: &Metrics) -> Answer {
        let deadline = Instant::now() + self.timeouts.query;
        let mut failure = None;
        let order = self.order();
        for (place, member) in order.iter().chain(&order).enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let second_round = place >= order.len();
            if left.is_zero() || second_round && failure.is_some() {
                break;
            }
            let timeout = self.timeouts.attempt.min(left);
            let asked = member.exchange.ask(question, timeout, metrics).await;
            let upstream = &member.exchange.config;
            match asked {
                Ok(message) => {
                    self.settle(member, true);
                    let answer = Answer::from_message(message);
                    // Another upstream may do better; a validation failure is an answer.
                    if answer.is_success() || answer.is_bogus() {
                        return answer;
                    }
                    add(&metrics.upstream_errors);
                    failure = Some(answer);
                }
                Err(error) => {
                    add(&metrics.upstream_errors);
                    self.settle(member, false);
                    tracing::debug!(%upstream, %question, %error, "upstream failed");
                }
            }
        }
        failure.unwrap_or_else(|| {
            Answer::failure(
                ExtendedErrorCode::NoReachableAuthority,
                "no upstream answered",
            )
        })
    }

    /// Healthy ones first, in the configured order; the rest after them, soonest first, so that
    /// a network that comes back is found at once.
    fn order(&self) -> Vec<&Member> {
        let now = self.clock.now();
        let mut order: Vec<(Duration, &Member)> = self
            .members
            .iter()
            .map(|member| {
                let until = member.health.lock().map_or(Duration::ZERO, |h| h.until);
                (until.saturating_sub(now), member)
            })
            .collect();
        order.sort_by_key(|(wait, _)| *wait);
        order.into_iter().map(|(_, member)| member).collect()
    }

    fn settle(&self, member: &Member, answered: bool) {
        let Ok(mut health) = member.health.lock() else {
            return;
        };
        if answered {
            *health = Health::default();
        } else {
            health.failed(self.clock.now());
            if health.failures == FAILURES_MAX {
                tracing::warn!(upstream = %member.exchange.config, "upstream does not answer");
            }
        }
    }

    /// Each upstream, and whether it is asked first.
    pub(crate) fn health(&self) -> Vec<(Upstream, bool)> {
        let now = self.clock.now();
        let members = self.members.iter();
        members
            .map(|m| {
                let healthy = m.health.lock().is_ok_and(|h| h.until <= now);
                (m.exchange.config.clone(), healthy)
            })
            .collect()
    }
}
