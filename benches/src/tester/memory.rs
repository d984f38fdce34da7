//! The device in memory: a worker and its engine, whose time is the CPU time of its own turns.
//! Nothing else costs it anything, be it the tester, another program or the scheduler.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam::channel::{self, Sender};
use gate64_dataplane::clock::{Instant, ManualClock, TICK};
use gate64_dataplane::command::{Command, Filter};
use gate64_dataplane::config::{Lifetimes, Nat64Config, Pool4Prefix, SubscriberLimits};
use gate64_dataplane::counters::{self, PublishedCounters};
use gate64_dataplane::io::memory::MemoryIo;
use gate64_dataplane::io::{PacketIo, Waker};
use gate64_dataplane::memory::HashKey;
use gate64_dataplane::nat64::Nat64;
use gate64_dataplane::nat64::plan::{Settings, Shared};
use gate64_dataplane::route::PortId;
use gate64_dataplane::verdict::{DropReason, Side, WorkerId};
use gate64_dataplane::worker::{Handoff, Idle, Links, Worker};
use gate64_wire::rfc6052::Pref64;

use super::TesterError;
use super::ports::{Full, Ports, Role, Take, Workers};
use crate::gateway::{BLOCK, BLOCKS_PER_ADDRESS, routes};
use crate::measure::cpu_nanoseconds;
use crate::workers;

/// Frames that the device has for both ports: what arrives beyond is lost, as in a NIC's full ring.
const FRAMES: u32 = 8192;
const SENT_MAX: usize = 4096;
/// Turns in which the device has to have emptied its table.
const CLEAR_TURNS_MAX: u64 = 100_000_000;
/// The device begins at one second, so that nothing seems to have happened at zero.
const START: u64 = 1_000_000_000;

/// A worker between two ports of memory.
pub struct MemoryPorts {
    worker: Worker<MemoryIo, ManualClock>,
    commands: Sender<Command>,
    now: u64,
    session_count_max: u64,
    /// Every session is visited within this time.
    wheel_turn: Duration,
}

impl MemoryPorts {
    /// A device for this many sessions, `per_client` of each client.
    pub fn new(session_count_max: u64, per_client: u16) -> Result<MemoryPorts, TesterError> {
        let settings = Settings {
            key: HashKey::seeded(1),
            seed: 1,
            ..Settings::new(1, session_count_max)
        };
        let shared = Shared::new(Arc::new(config(session_count_max, per_client)), settings);
        let nat64 = Nat64::new(&shared, WorkerId(0))?;
        let io =
            MemoryIo::group(1, 2, FRAMES, SENT_MAX).map_err(TesterError::io("frame memory"))?;
        let io = io.into_iter().next().ok_or(TesterError::NoDevice)?;
        let wakers = [Arc::new(Waker::new().map_err(TesterError::io("a waker"))?)];
        let (commands, received) = channel::bounded(4);
        let (events, _) = rtrb::RingBuffer::new(1);
        let links = Links {
            handoff: Handoff::mesh(&wakers).pop().ok_or(TesterError::NoDevice)?,
            commands: received,
            events,
            published: Arc::new(PublishedCounters::default()),
            routes: Arc::new(ArcSwap::from_pointee(routes())),
        };
        let clock = ManualClock::default();
        let worker = Worker::new(io, clock, nat64, vec![None, None], links, Idle::default());
        Ok(MemoryPorts {
            worker,
            commands,
            now: START,
            session_count_max,
            wheel_turn: Lifetimes::default().tcp_transitory + 2 * TICK,
        })
    }

    /// One turn of the device; whether there was work, and the nanoseconds it took.
    fn work(&mut self) -> (bool, u64) {
        self.worker.clock().set(Instant::from_nanos(self.now));
        let begin = cpu_nanoseconds();
        let busy = self.worker.turn();
        (busy, cpu_nanoseconds().saturating_sub(begin))
    }
}

fn config(sessions: u64, per_client: u16) -> Nat64Config {
    let per_client = u64::from(per_client.max(1));
    let blocks_each = per_client.div_ceil(BLOCK) + 1;
    let clients = sessions.div_ceil(per_client);
    let addresses = (clients * blocks_each)
        .div_ceil(BLOCKS_PER_ADDRESS)
        .next_power_of_two();
    let host_bits = u8::try_from(addresses.trailing_zeros())
        .unwrap_or(16)
        .min(16);
    Nat64Config {
        pref64: vec![Pref64::WELL_KNOWN],
        // The servers are in the benchmarking prefix, which is not global.
        wkp_strict: false,
        pool4: vec![Pool4Prefix {
            address: Ipv4Addr::new(198, 18, 0, 0),
            length: 32 - host_bits,
            ports: 1024..=65535,
            exclude: Vec::new(),
            shared_with_host: false,
            ..Pool4Prefix::default()
        }],
        subscriber: SubscriberLimits {
            port_block_size: u16::try_from(BLOCK).unwrap_or(u16::MAX),
            port_blocks_max: u16::try_from(blocks_each).unwrap_or(u16::MAX),
            session_count_max: 1 << 20,
            // Runs follow one another, and each begins with an empty table.
            port_reuse_delay: Duration::ZERO,
            ..SubscriberLimits::default()
        },
        ..Nat64Config::default()
    }
}

impl Ports for MemoryPorts {
    fn now(&self) -> u64 {
        self.now
    }

    fn link(&self, role: Role) -> [u8; 12] {
        let last = if role == Role::Initiator { 6 } else { 4 };
        [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, last]
    }

    /// A device without room loses the frame, which was sent all the same.
    fn send(&mut self, role: Role, frame: &[u8]) -> Result<(), Full> {
        let port = PortId(u8::from(role == Role::Responder));
        let _ = self.worker.io().inject(port, frame);
        Ok(())
    }

    /// All that is due: a device that is too slow loses it, and the tester is never late.
    fn burst_max(&self) -> u64 {
        u64::from(FRAMES)
    }

    fn turn(&mut self, until: u64, take: &mut Take) {
        let (busy, nanoseconds) = self.work();
        if busy {
            self.now += nanoseconds.max(1);
        } else {
            self.now = until.max(self.now + 1);
        }
        let now = self.now;
        let io = self.worker.io();
        for (role, port) in Role::ALL.into_iter().zip([PortId(0), PortId(1)]) {
            while let Some(mut frame) = io.take_sent_frame(port) {
                let area = Arc::clone(io.area());
                take(role, area.packet(&mut frame).bytes(), now);
                io.release(frame);
            }
        }
    }

    fn can_clear(&self) -> bool {
        true
    }

    fn clear(&mut self) -> Result<f64, TesterError> {
        let (reply, done) = channel::bounded(1);
        let filter = Filter::default();
        let command = Command::ClearSessions { filter, reply };
        self.commands
            .try_send(command)
            .map_err(|_| TesterError::NoDevice)?;
        let (mut spent, mut is_cleared) = (0, false);
        for _ in 0..CLEAR_TURNS_MAX {
            if done.try_recv().is_ok() {
                // What is cleared has ended, but its memory is used again after the wheel's next
                // visit only.
                self.now += u64::try_from(self.wheel_turn.as_nanos()).unwrap_or(0);
                is_cleared = true;
            }
            let (busy, nanoseconds) = self.work();
            spent += nanoseconds;
            self.now += nanoseconds.max(1);
            if is_cleared && !busy {
                return Ok(spent as f64 / 1e9);
            }
        }
        Err(TesterError::Clear(
            "the device does not come to an end with it".into(),
        ))
    }

    fn workers_max(&self) -> Option<usize> {
        Some(workers::cores())
    }

    fn workers(&mut self, count: u8, repeats: u32) -> Result<Workers, TesterError> {
        let workers::Rates { rates, to_one } = workers::rates(count, repeats)?;
        // Frames of both directions together are what a team counts.
        let rates = rates.into_iter().map(|rate| rate / 2.0).collect();
        Ok(Workers::Forwarded { rates, to_one })
    }

    fn drops(&mut self) -> Option<String> {
        let counters = self.worker.counters();
        let mut said = Vec::new();
        for &reason in DropReason::ALL {
            let count: u64 = [Side::V6, Side::V4]
                .into_iter()
                .map(|side| counters.get(counters::drop_id(side, reason)))
                .sum();
            if count > 0 {
                said.push(format!("{count} for {}", reason.label()));
            }
        }
        (!said.is_empty()).then(|| said.join(", "))
    }

    fn describe(&self) -> Vec<(String, String)> {
        let line = |key: &str, value: String| (key.to_owned(), value);
        vec![
            line(
                "device",
                "gate64's worker and engine in memory, one core".into(),
            ),
            line("device's time", "CPU time of its own turns".into()),
            line("device's session table", self.session_count_max.to_string()),
            line(
                "device's frames",
                format!(
                    "{FRAMES}: fewer sessions are held at once, whatever the rate at which they begin"
                ),
            ),
        ]
    }
}
