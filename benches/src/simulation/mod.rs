//! Subscribers by the million on simulated time: no port has two owners, pairing and quotas
//! hold, and every block is told to the log once given out and once taken back.
//!
//! The engine sees packets; what is checked is what comes out of it, against tables of this
//! module's own: translated packets, events, the answers to commands, and the journal that the
//! events went to.

mod shadow;
mod told;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gate64_dataplane::alarm::{Alarm, Edge, Thresholds};
use gate64_dataplane::clock::TICK;
use gate64_dataplane::command::{Command, Event, TopBy};
use gate64_dataplane::config::{
    ClassLimits, Nat64Config, Pool4Prefix, Prefix6, RefusalAnswer, SubscriberClass,
    SubscriberLimits,
};
use gate64_dataplane::counters;
use gate64_dataplane::memory::HashKey;
use gate64_dataplane::memory::hash::Rng;
use gate64_dataplane::nat64::plan::{Settings, Shared};
use gate64_dataplane::verdict::{DropReason, Side, Verdict};
use gate64_log::BlockAction;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};
use gate64_wire::facts::tcp_flag;

use self::shadow::Shadow;
use self::told::Told;
use crate::BenchError;
use crate::flows::{Flow, write_v6};
use crate::frames::{Frames, RUN_FRAMES};
use crate::gateway::{Gateway, source_of};

type Fault = String;

/// Of four packets one is of a subscriber that opens as much as it can.
const HEAVY_SUBSCRIBERS: u64 = 500;

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Prefixes.
    pub subscribers: u64,
    /// Pool addresses, a power of two.
    pub addresses: u64,
    /// Blocks of 64 ports of an address.
    pub blocks_per_address: u16,
    /// Packets in a tick of 250 ms while there is much traffic, and while there is little or none.
    pub packets: [u64; 2],
    /// Simulated minutes: a third with much traffic, a third with little, a third with much.
    pub minutes: u64,
    /// Subscribers below this number are in a class of their own, with a pool of one address and
    /// half the quotas; a power of two, or none.
    pub class_subscribers: u64,
    /// An empty block goes back after this.
    pub block_idle: Duration,
    /// Whether the engine's own tables are checked as well, which is slow.
    pub check_tables: bool,
    /// Of everything random.
    pub seed: u64,
}

impl Plan {
    /// An hour of a million subscribers.
    pub fn hour(subscribers: u64, minutes: u64, seed: u64) -> Plan {
        Plan {
            subscribers,
            addresses: (subscribers / 1008).next_power_of_two(),
            blocks_per_address: 1008,
            packets: [subscribers / 512, subscribers / 8192],
            minutes,
            class_subscribers: 0,
            block_idle: Duration::from_secs(120),
            check_tables: false,
            seed,
        }
    }

    fn limits(&self) -> SubscriberLimits {
        SubscriberLimits {
            port_block_size: 64,
            port_blocks_max: 4,
            ports_max: [200, 150, 20],
            session_count_max: 300,
            refusal: RefusalAnswer::None,
            block_idle: self.block_idle,
            ..SubscriberLimits::default()
        }
    }

    fn config(&self) -> Nat64Config {
        let length = 32 - u8::try_from(self.addresses.trailing_zeros()).unwrap_or(0);
        let ports = 1024..=1023 + self.blocks_per_address * 64;
        let mut config = Nat64Config {
            pool4: vec![Pool4Prefix {
                address: Ipv4Addr::new(198, 18, 0, 0),
                length,
                ports: ports.clone(),
                ..Pool4Prefix::default()
            }],
            subscriber: self.limits(),
            ..Nat64Config::default()
        };
        if self.class_subscribers > 0 {
            let bits = u8::try_from(self.class_subscribers.trailing_zeros()).unwrap_or(0);
            config.pool_names.push("class".to_owned());
            config.pool4.push(Pool4Prefix {
                address: Ipv4Addr::new(192, 88, 98, 1),
                ports,
                pool: 1,
                ..Pool4Prefix::default()
            });
            config.classes.push(SubscriberClass {
                name: "class".to_owned(),
                prefixes: vec![Prefix6::new(prefix_of(0), 64 - bits)],
                limits: self.class_limits(),
                pool: 1,
                ..SubscriberClass::default()
            });
        }
        config
    }

    fn class_limits(&self) -> ClassLimits {
        let limits = self.limits().limits();
        ClassLimits {
            port_blocks_max: limits.port_blocks_max / 2,
            ports_max: limits.ports_max.map(|max| max / 2),
            session_count_max: limits.session_count_max / 2,
            ..limits
        }
    }

    fn limits_of(&self, subscriber: u64) -> ClassLimits {
        match subscriber < self.class_subscribers {
            true => self.class_limits(),
            false => self.limits().limits(),
        }
    }
}

/// What the simulation saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Packets put in.
    pub packets: u64,
    /// Of these, translated.
    pub translated: u64,
    /// Of these, refused for a quota of the subscriber.
    pub refused_by_quota: u64,
    /// Of these, refused because the pool had no block.
    pub refused_by_pool: u64,
    /// Blocks given out.
    pub blocks_allocated: u64,
    /// Blocks taken back.
    pub blocks_released: u64,
    /// Most blocks held at once.
    pub blocks_held_max: u64,
    /// Blocks to give out.
    pub blocks_total: u64,
    /// Most subscribers with a block at once.
    pub subscribers_max: u64,
    /// Alarms on the pool raised and cleared.
    pub alarm_edges: [u64; 2],
    /// Entries in the journal: one for each block given out or taken back.
    pub journal_entries: u64,
}

fn prefix_of(subscriber: u64) -> Ipv6Addr {
    let prefix = 0x2001_0db8_0000_0000 | subscriber;
    Ipv6Addr::from(u128::from(prefix) << 64)
}

fn subscriber_of(prefix: Ipv6Addr) -> u64 {
    let [.., a, b, c, d] = prefix.octets()[..8] else {
        return u64::MAX;
    };
    u64::from(u32::from_be_bytes([a, b, c, d]))
}

/// One packet to put in.
#[derive(Debug, Clone, Copy)]
struct Draw {
    subscriber: u64,
    flow: Flow,
    protocol: Protocol,
}

struct Simulation {
    plan: Plan,
    gateway: Gateway,
    frames: Frames,
    rng: Rng,
    shadow: Shadow,
    told: Told,
    alarm: Alarm,
    draws: Vec<Draw>,
}

impl Simulation {
    fn new(plan: Plan, journal: &Path) -> Result<Simulation, BenchError> {
        // A session lives for 300 s at most, which is 1200 ticks.
        let sessions = (plan.packets[0] * 1300).max(1024);
        let settings = Settings {
            key: HashKey::seeded(plan.seed),
            seed: plan.seed,
            ..Settings::new(1, sessions)
        };
        let shared = Shared::new(Arc::new(plan.config()), settings);
        let gateway = Gateway::of_worker(&shared, 0)?;
        Ok(Simulation {
            told: Told::new(journal, gateway.now)?,
            gateway,
            frames: Frames::new(64),
            rng: Rng::new(plan.seed),
            shadow: Shadow::new(plan),
            alarm: Alarm::default(),
            draws: Vec::with_capacity(RUN_FRAMES),
            plan,
        })
    }

    fn below(&mut self, bound: u64) -> u64 {
        u64::from(self.rng.below(u32::try_from(bound).unwrap_or(u32::MAX)))
    }

    fn draw(&mut self) -> Draw {
        let heavy = HEAVY_SUBSCRIBERS.min(self.plan.subscribers / 4).max(1);
        let is_heavy = self.below(4) == 0;
        // Heavy ones are spread over all.
        let subscriber = match is_heavy {
            true => self.below(heavy) * (self.plan.subscribers / heavy),
            false => self.below(self.plan.subscribers),
        };
        let ports = if is_heavy { 20_000 } else { 8 };
        let protocol = match self.below(10) {
            0 => Protocol::Icmp,
            1..=2 => Protocol::Tcp,
            _ => Protocol::Udp,
        };
        let prefix = u128::from(prefix_of(subscriber));
        let port = u16::try_from(10_000 + self.below(ports)).unwrap_or(0);
        let remote = Ipv4Addr::from(0x2000_0000 | self.rng.below(4));
        let flow = Flow {
            v6: TransportAddr6 {
                ip: Ipv6Addr::from(prefix | 0x10),
                port,
            },
            remote: TransportAddr4 {
                ip: remote,
                port: 443,
            },
        };
        Draw {
            subscriber,
            flow,
            protocol,
        }
    }

    /// A run of packets, and what came of each.
    fn put_run(&mut self) -> Result<(), Fault> {
        self.draws.clear();
        for _ in 0..RUN_FRAMES {
            let draw = self.draw();
            self.draws.push(draw);
        }
        let draws = &self.draws;
        self.frames.fill(|place, bytes| {
            let draw = &draws[place];
            let len = write_v6(bytes, &draw.flow, draw.protocol, tcp_flag::SYN);
            (Side::V6, len)
        });
        self.frames.timed(&mut self.gateway);
        self.take_events()?;
        let now = self.gateway.now.tick().0;
        let area = Arc::clone(&self.frames.area);
        for (draw, item) in self.draws.iter().zip(self.frames.items()) {
            self.shadow.outcome.packets += 1;
            match item.verdict {
                Verdict::Forward(Side::V4) => {
                    let mapped = source_of(&area, item);
                    let port = draw.flow.v6.port;
                    self.shadow
                        .translated(draw.subscriber, port, draw.protocol, mapped, now)?;
                }
                Verdict::Drop(DropReason::SubscriberPorts | DropReason::SubscriberSessions) => {
                    self.shadow.outcome.refused_by_quota += 1;
                }
                Verdict::Drop(DropReason::PoolExhausted) => {
                    self.shadow.outcome.refused_by_pool += 1;
                }
                other => return Err(format!("{draw:?} came to {other:?}")),
            }
        }
        Ok(())
    }

    fn take_events(&mut self) -> Result<(), Fault> {
        while let Some(event) = self.gateway.nat64.take_event() {
            match event {
                Event::BlockAllocated(event) => {
                    self.shadow.allocated(&event)?;
                    self.told.tell(BlockAction::Allocated, &event);
                }
                Event::BlockReleased(event) => {
                    self.shadow.released(&event)?;
                    self.told.tell(BlockAction::Released, &event);
                }
                other => return Err(format!("an unexpected event: {other:?}")),
            }
        }
        Ok(())
    }

    fn count(&mut self, id: counters::CounterId) -> u64 {
        self.gateway.nat64.counters().get(id)
    }

    /// Lets a tick pass.
    fn pass(&mut self, by: Duration) -> Result<(), Fault> {
        self.gateway.advance(by);
        // In steps, so that no event is lost for want of room.
        loop {
            let Gateway { nat64, routes, now } = &mut self.gateway;
            let visited = nat64.expire(routes, *now, 1024);
            self.take_events()?;
            if visited == 0 {
                return self.check_alarm();
            }
        }
    }

    /// The alarm on the pool, against its definition.
    fn check_alarm(&mut self) -> Result<(), Fault> {
        let used = self.count(counters::port_blocks_used(0));
        let total = self.count(counters::port_blocks_total(0));
        let thresholds = Thresholds::default();
        let before = self.alarm.is_raised;
        let edge = self.alarm.observe(used, total, thresholds);
        let expected = match before {
            false if used * 100 >= total * 80 => Some(Edge::Raised),
            true if used * 100 <= total * 70 => Some(Edge::Cleared),
            _ => None,
        };
        if edge != expected {
            return Err(format!(
                "{used} of {total} blocks: {edge:?}, not {expected:?}"
            ));
        }
        let [raised, cleared] = &mut self.shadow.outcome.alarm_edges;
        *raised += u64::from(edge == Some(Edge::Raised));
        *cleared += u64::from(edge == Some(Edge::Cleared));
        Ok(())
    }

    /// What the engine says of itself, against the tables.
    fn check_engine(&mut self) -> Result<(), Fault> {
        let held = self.count(counters::port_blocks_used(0));
        if held != self.shadow.blocks.len() as u64 {
            return Err(format!(
                "the engine counts {held} blocks, the events {}",
                self.shadow.blocks.len()
            ));
        }
        if self.count(counters::events_lost(0)) > 0 {
            return Err("events were lost".to_owned());
        }
        for by in [TopBy::Ports, TopBy::Sessions] {
            let (reply, answer) = crossbeam::channel::bounded(1);
            let limit = 64;
            let command = Command::TopSubscribers { by, limit, reply };
            let Gateway { nat64, routes, now } = &mut self.gateway;
            nat64.command(command, *now);
            let rows = loop {
                if let Ok(rows) = answer.try_recv() {
                    break rows.map_err(|error| error.to_string())?;
                }
                nat64.expire(routes, *now, 1);
            };
            self.take_events()?;
            for row in rows {
                let limits = self.plan.limits_of(subscriber_of(row.prefix));
                let ports = row.ports_used.iter().zip(limits.ports_max);
                let is_over = row.session_count > limits.session_count_max
                    || ports.clone().any(|(&used, max)| used > max);
                if is_over {
                    return Err(format!("more than the quota: {row:?}"));
                }
            }
        }
        if self.plan.check_tables {
            self.gateway.nat64.check_invariants();
        }
        Ok(())
    }

    fn run(mut self, progress: &mut dyn FnMut(&str)) -> Result<Outcome, Fault> {
        self.shadow.outcome.blocks_total = self.count(counters::port_blocks_total(0));
        let ticks_per_minute = 60_000 / u64::try_from(TICK.as_millis()).unwrap_or(250);
        let mut owed = 0;
        for minute in 0..self.plan.minutes {
            let is_low = minute * 3 / self.plan.minutes == 1;
            for _ in 0..ticks_per_minute {
                owed += self.plan.packets[usize::from(is_low)];
                while owed >= RUN_FRAMES as u64 {
                    owed -= RUN_FRAMES as u64;
                    self.put_run()?;
                }
                self.pass(TICK)?;
            }
            self.check_engine()?;
            self.told.wait()?;
            progress(&format!(
                "minute {}: {} packets, {} blocks held",
                minute + 1,
                self.shadow.outcome.packets,
                self.shadow.blocks.len()
            ));
        }
        // In the end everything goes back.
        for _ in 0..4 * 1200 {
            self.pass(TICK)?;
        }
        self.check_engine()?;
        let mut outcome = self.shadow.outcome;
        if !self.shadow.blocks.is_empty() || outcome.blocks_allocated != outcome.blocks_released {
            return Err(format!("blocks are left: {outcome:?}"));
        }
        outcome.journal_entries = self.told.check()?;
        Ok(outcome)
    }
}

/// Runs a plan with a journal in an empty directory; `progress` is told after each simulated
/// minute.
///
/// # Errors
/// What did not hold, with the seed that repeats it; or no memory, or no journal.
pub fn run(
    plan: Plan,
    journal: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Outcome, BenchError> {
    let simulation = Simulation::new(plan, journal)?;
    simulation
        .run(progress)
        .map_err(|fault| BenchError::Simulation {
            fault,
            seed: plan.seed,
        })
}
