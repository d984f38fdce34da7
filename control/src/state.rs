//! What the API, the metrics and the health checks read, and how they ask workers. Everything
//! comes in from outside, so that tests fill it with workers of their own.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam::channel::{self, Sender};
use gate64_dataplane::command::Command;
use gate64_dataplane::counters::{self, CounterId, PublishedCounters};
use gate64_dataplane::verdict::{DropReason, Side, WorkerId};
use gate64_log::config::OnFailure;

use crate::alarm::Alarms;
use crate::api::model;
use crate::config::Config;

/// Longest time that a worker is waited for: it answers between two bursts.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A worker whose loop has not turned for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(3);

/// Gives a command to a worker; false if it takes none any more.
pub type Ask = Box<dyn Fn(WorkerId, Command) -> bool + Send + Sync>;

/// Says what a reload with a configuration's text would do.
pub type JudgeReload = Box<dyn Fn(&State, &str) -> Result<model::Preview, String> + Send + Sync>;

/// What the kernel and packet I/O know, asked anew each time.
pub trait Surroundings: Send + Sync {
    /// The interfaces in use.
    fn interfaces(&self) -> Vec<model::Interface>;
    /// The next hops in use.
    fn neighbors(&self) -> Vec<model::Neighbor>;
    /// Prefixes in the routing table: IPv4, IPv6.
    fn routes(&self) -> (usize, usize);
    /// Whether a route leads out of an interface in use: IPv4, IPv6.
    fn leads_out(&self) -> (bool, bool);
    /// How often the kernel had more changes to tell than were read in time.
    fn notifications_lost(&self) -> u64;
    /// Where a destination leads, in words.
    fn route_text(&self, destination: IpAddr) -> String;
    /// The kernel's statistics of the sockets.
    fn sockets(&self) -> Vec<SocketStatistics>;
}

/// Statistics of AF_XDP sockets and of steering, ready for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketStatistics {
    /// Label names and values that say which sockets.
    pub labels: Vec<(&'static str, String)>,
    /// Name, help and value of each statistic.
    pub values: Vec<(&'static str, &'static str, u64)>,
}

/// A worker as seen from outside.
#[derive(Debug)]
pub struct WorkerState {
    /// The CPU it runs on.
    pub cpu: Option<usize>,
    /// What it counts.
    pub counters: Arc<PublishedCounters>,
    pulse: Pulse,
}

impl WorkerState {
    /// A worker that has just started.
    pub fn new(cpu: Option<usize>, counters: Arc<PublishedCounters>) -> WorkerState {
        WorkerState {
            cpu,
            counters,
            pulse: Pulse::default(),
        }
    }

    /// Part of the last interval spent in turns that did something, 0 to 1.
    pub fn busy_ratio(&self) -> f64 {
        f64::from_bits(self.pulse.busy_ratio.load(Ordering::Relaxed))
    }

    /// Whether its loop turns.
    pub fn is_alive(&self) -> bool {
        !self.pulse.is_stuck.load(Ordering::Relaxed)
    }

    /// A counter.
    pub fn get(&self, id: CounterId) -> u64 {
        self.counters.get(id)
    }

    /// A family's sum over its labels.
    pub fn sum(&self, family: fn(usize) -> CounterId, labels: usize) -> u64 {
        (0..labels).map(|label| self.get(family(label))).sum()
    }

    /// Packets from `side` dropped for any reason.
    pub fn dropped(&self, side: Side) -> u64 {
        let reasons = DropReason::ALL.iter();
        reasons
            .map(|reason| self.get(counters::drop_id(side, *reason)))
            .sum()
    }
}

/// What the watch found between its last two looks.
#[derive(Debug, Default)]
struct Pulse {
    /// Bits of an `f64`.
    busy_ratio: AtomicU64,
    is_stuck: AtomicBool,
}

/// Everything that is shown.
pub struct State {
    /// When gate64 started.
    pub started: Instant,
    /// The configuration in use.
    pub config: ArcSwap<Config>,
    /// The workers, in the order of their number.
    pub workers: Vec<WorkerState>,
    /// How they are asked.
    pub ask: Ask,
    /// Sessions that fit.
    pub session_capacity: u64,
    /// What the kernel and packet I/O know.
    pub surroundings: Box<dyn Surroundings>,
    /// The DNS64 server, if it runs.
    pub dns64: Option<Arc<gate64_dns64::Server>>,
    /// The log of allocations: whoever has something for it tells it here.
    pub log: Arc<gate64_log::Bus>,
    /// What a reload would do.
    pub preview: JudgeReload,
    /// Alarms on what runs out.
    pub alarms: Alarms,
    /// Whether packets are taken: what DNS64 is told before it synthesises.
    pub is_forwarding: Arc<AtomicBool>,
}

impl State {
    /// A counter, summed over all workers.
    pub fn total(&self, id: CounterId) -> u64 {
        self.workers.iter().map(|worker| worker.get(id)).sum()
    }

    /// A family's counter for every protocol, summed over all workers.
    pub fn protocols(&self, family: fn(usize) -> CounterId) -> model::Protocols {
        let [udp, tcp, icmp] = [0, 1, 2].map(|label| self.total(family(label)));
        model::Protocols { udp, tcp, icmp }
    }

    /// A family's counter for every direction, summed over all workers.
    pub fn directions(&self, family: fn(usize) -> CounterId) -> model::Directions {
        model::Directions {
            v6_to_v4: self.total(family(Side::V6.index())),
            v4_to_v6: self.total(family(Side::V4.index())),
        }
    }

    /// Asks one worker and waits for the answer; `None` if it gives none in time.
    pub fn ask_worker<T>(
        &self,
        worker: WorkerId,
        command: impl FnOnce(Sender<T>) -> Command,
    ) -> Option<T> {
        let (reply, answer) = channel::bounded(1);
        if !(self.ask)(worker, command(reply)) {
            return None;
        }
        answer.recv_timeout(ANSWER_TIMEOUT).ok()
    }

    /// Numbers of all workers.
    pub fn worker_ids(&self) -> impl Iterator<Item = WorkerId> + use<> {
        // At most 255 workers: `[dataplane] workers` and the number of queues are bounded.
        (0..u8::try_from(self.workers.len()).unwrap_or(u8::MAX)).map(WorkerId)
    }

    /// Why each role is not ready; empty lists when all are.
    pub fn readiness(&self) -> Readiness {
        let config = self.config.load();
        Readiness {
            nat64: config.has_nat64().then(|| self.nat64_problems()),
            dns64: self.dns64.as_ref().map(|server| dns64_problems(server)),
        }
    }

    /// What an operator should know although packets flow: a log that cannot be written.
    pub fn notes(&self) -> Vec<String> {
        let report = self.log.report();
        report.into_iter().filter_map(|one| one.problem).collect()
    }

    fn nat64_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let refuses = self.config.load().log.on_failure == OnFailure::RefuseNew;
        if refuses && self.log.is_failing() {
            problems
                .push("the log cannot be written, and log.on_failure = \"refuse-new\"".to_owned());
        }
        for (number, worker) in self.workers.iter().enumerate() {
            if !worker.is_alive() {
                problems.push(format!("worker {number} is stuck: its loop does not turn"));
            }
        }
        for interface in self.surroundings.interfaces() {
            if !interface.is_up {
                problems.push(format!("interface {} is down", interface.name));
            }
        }
        let (v4, v6) = self.surroundings.leads_out();
        if !v4 {
            problems.push("no IPv4 route by gate64's interfaces (see `ip -4 route`)".to_owned());
        }
        if !v6 {
            problems.push("no IPv6 route by gate64's interfaces (see `ip -6 route`)".to_owned());
        }
        problems
    }
}

fn dns64_problems(server: &gate64_dns64::Server) -> Vec<String> {
    let upstreams = server.upstreams();
    // None at all: names are found from the root down.
    if upstreams.is_empty() || upstreams.iter().any(|state| state.is_up) {
        return Vec::new();
    }
    let all: Vec<String> = upstreams.iter().map(|s| s.upstream.to_string()).collect();
    vec![format!("no DNS upstream answers: {}", all.join(", "))]
}

/// Why each role that runs is not ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// The translator's reasons; `None` if it does not run.
    pub nat64: Option<Vec<String>>,
    /// The DNS64 server's reasons; `None` if it does not run.
    pub dns64: Option<Vec<String>>,
}

impl Readiness {
    /// All reasons.
    pub fn problems(&self) -> Vec<String> {
        let roles = [&self.nat64, &self.dns64];
        roles.into_iter().flatten().flatten().cloned().collect()
    }
}

/// Looks at the workers' turns again and again: how busy they are, and whether one is stuck.
#[derive(Debug)]
pub struct Watch {
    last: Vec<Look>,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    busy_nanoseconds: u64,
    turns: u64,
    turned_at: Instant,
}

impl Watch {
    /// A first look.
    pub fn begin(state: &State, now: Instant) -> Watch {
        let looks = state.workers.iter().map(|worker| Look {
            at: now,
            busy_nanoseconds: worker.get(counters::busy_nanoseconds(0)),
            turns: worker.get(counters::turns(0)),
            turned_at: now,
        });
        Watch {
            last: looks.collect(),
        }
    }

    /// Looks again and writes down what has changed; true if every worker is alive.
    pub fn look(&mut self, state: &State, now: Instant) -> bool {
        let mut all_alive = true;
        for (worker, last) in state.workers.iter().zip(&mut self.last) {
            let busy = worker.get(counters::busy_nanoseconds(0));
            let turns = worker.get(counters::turns(0));
            let passed = now.duration_since(last.at).as_secs_f64();
            let spent = Duration::from_nanos(busy.wrapping_sub(last.busy_nanoseconds));
            let ratio = if passed > 0.0 {
                (spent.as_secs_f64() / passed).clamp(0.0, 1.0)
            } else {
                0.0
            };
            let turned_at = if turns == last.turns {
                last.turned_at
            } else {
                now
            };
            let is_stuck = now.duration_since(turned_at) > STUCK_AFTER;
            all_alive &= !is_stuck;
            worker
                .pulse
                .busy_ratio
                .store(ratio.to_bits(), Ordering::Relaxed);
            worker.pulse.is_stuck.store(is_stuck, Ordering::Relaxed);
            *last = Look {
                at: now,
                busy_nanoseconds: busy,
                turns,
                turned_at,
            };
        }
        all_alive
    }
}

#[cfg(test)]
pub mod fake;
