//! A state with two workers that are only a loop over their commands, for tests.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crossbeam::channel::Receiver;
use gate64_dataplane::command::{
    BibRow, BlockRow, BlockUse, Filter, Page, PoolRow, SessionRow, SubscriberRow, TooManyJobs,
};
use gate64_dataplane::counters::Counters;
use gate64_wire::addr::{Protocol, TransportAddr4, TransportAddr6};

use super::*;

/// Jobs about this pool address are too many for the second worker.
pub const BUSY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 250);

/// Sessions of each worker: more than one page of the API together.
pub const SESSIONS_PER_WORKER: u32 = 300;

const CONFIG: &str = r#"
[[interface]]
name = "g64fake0"
[nat64]
pref64 = ["64:ff9b::/96", "2001:db8:64::/96"]
[[pool4]]
prefix = "192.0.2.0/24"
"#;

struct Elsewhere;

impl Surroundings for Elsewhere {
    fn interfaces(&self) -> Vec<model::Interface> {
        vec![model::Interface {
            name: "g64fake0".to_owned(),
            is_up: false,
            ..model::Interface::default()
        }]
    }

    fn neighbors(&self) -> Vec<model::Neighbor> {
        Vec::new()
    }

    fn routes(&self) -> (usize, usize) {
        (0, 3)
    }

    fn leads_out(&self) -> (bool, bool) {
        (false, true)
    }

    fn notifications_lost(&self) -> u64 {
        0
    }

    fn route_text(&self, _: IpAddr) -> String {
        "no route".to_owned()
    }

    fn sockets(&self) -> Vec<SocketStatistics> {
        vec![SocketStatistics {
            labels: vec![("interface", "g64fake0".to_owned())],
            values: vec![("gate64_xsk_rx_dropped_total", "Dropped.", 5)],
        }]
    }
}

/// Two workers that count the same, the first of them on CPU 1.
pub fn state(dns64: Option<Arc<gate64_dns64::Server>>) -> Arc<State> {
    let config = match crate::config::parse(Path::new("fake.toml"), CONFIG) {
        Ok((config, _)) => config,
        Err(report) => panic!("{report}"),
    };
    let senders: Vec<Sender<Command>> = (0..2).map(worker).collect();
    let counters = || Arc::new(PublishedCounters::default());
    let workers = vec![
        WorkerState::new(Some(1), counters()),
        WorkerState::new(None, counters()),
    ];
    let mut counted = Counters::default();
    counted.add(counters::sessions(Protocol::Tcp.index()), 7);
    counted.add(counters::packets_forwarded(Side::V6.index()), 40);
    counted.add(counters::drop_id(Side::V4, DropReason::NoBib), 2);
    counted.add(counters::drop_id(Side::V6, DropReason::SubscriberPorts), 3);
    counted.add(counters::port_blocks_total(0), 10);
    counted.add(counters::port_blocks_used(0), 4);
    counted.observe(counters::burst_frames(0), 64);
    counted.observe(counters::burst_frames(0), 1);
    counted.publish(&workers[0].counters);
    counted.publish(&workers[1].counters);
    Arc::new(State {
        started: Instant::now(),
        config: ArcSwap::from_pointee(config),
        workers,
        ask: Box::new(move |WorkerId(number), command| {
            senders[usize::from(number)].send(command).is_ok()
        }),
        session_capacity: 1000,
        surroundings: Box::new(Elsewhere),
        dns64,
        log: log_with_records(9),
        alarms: Alarms::default(),
        preview: Box::new(|state, text| {
            Ok(model::Preview {
                is_accepted: true,
                lines: Vec::new(),
                changes: crate::config::difference(&state.config.load().text, text),
            })
        }),
        is_forwarding: Arc::default(),
    })
}

fn log_with_records(count: u64) -> Arc<gate64_log::Bus> {
    let log = gate64_log::Bus::new(0);
    for _ in 0..count {
        log.tell(gate64_log::What::Lost(1));
    }
    Arc::new(log)
}

fn worker(number: u8) -> Sender<Command> {
    let (sender, commands) = channel::unbounded();
    std::thread::spawn(move || answer(number, &commands));
    sender
}

fn answer(number: u8, commands: &Receiver<Command>) {
    for command in commands {
        // An asker that has gone away is no fault of the worker's.
        let _ = match command {
            Command::Sessions {
                filter,
                cursor,
                limit,
                reply,
            } => reply.send(sessions(number, filter, cursor, limit)).is_ok(),
            Command::Bib { reply, .. } => reply.send(one(bib(number))).is_ok(),
            Command::Pool { reply, .. } => reply.send(one(pool(number))).is_ok(),
            Command::Blocks { reply, .. } => reply.send(one(block(number))).is_ok(),
            Command::TopSubscribers { reply, .. } => {
                reply.send(Ok(vec![subscriber(number)])).is_ok()
            }
            Command::Subscribers { reply, .. } => reply.send(one(subscriber(number))).is_ok(),
            Command::ClearSessions { filter, reply } => {
                let is_all = filter == Filter::default();
                let count = if is_all { SESSIONS_PER_WORKER } else { 1 };
                let is_busy = number == 1 && filter.v4 == Some(BUSY);
                let answer = match is_busy {
                    true => Err(TooManyJobs),
                    false => Ok(u64::from(count)),
                };
                reply.send(answer).is_ok()
            }
            Command::Reconfigure { .. } | Command::Log(_) => true,
            Command::Stranded { reply, .. } => reply.send(Vec::new()).is_ok(),
            Command::CutBlocks {
                addresses, begun, ..
            } => {
                let is_busy = number == 1 && addresses.contains(&BUSY);
                begun
                    .send(if is_busy { Err(TooManyJobs) } else { Ok(()) })
                    .is_ok()
            }
        };
    }
}

fn one<T>(row: T) -> Page<T> {
    Page {
        rows: vec![row],
        next: None,
    }
}

fn client(number: u8, port: u16) -> TransportAddr6 {
    TransportAddr6 {
        ip: Ipv6Addr::new(0x2001, 0xdb8, 0, number.into(), 0, 0, 0, 1),
        port,
    }
}

fn v4(last: u8, port: u16) -> TransportAddr4 {
    TransportAddr4 {
        ip: Ipv4Addr::new(192, 0, 2, last),
        port,
    }
}

fn sessions(number: u8, filter: Filter, cursor: u32, limit: usize) -> Page<SessionRow> {
    let end = SESSIONS_PER_WORKER.min(cursor + u32::try_from(limit).unwrap());
    let is_wanted = |at: &u16| filter.v4_port.is_none_or(|port| port == 2000 + at);
    let numbers = (cursor..end).map(|at| u16::try_from(at).unwrap());
    let rows = numbers.filter(is_wanted).map(|at| SessionRow {
        protocol: Protocol::Tcp,
        v6: client(number, at),
        v6_remote: TransportAddr6 {
            ip: "64:ff9b::c000:2c8".parse().unwrap(),
            port: 80,
        },
        v4: v4(number, 2000 + at),
        v4_remote: v4(200, 80),
        state: "ESTABLISHED",
        expires_in_seconds: 7440,
        age_seconds: 3,
    });
    Page {
        rows: rows.collect(),
        next: (end < SESSIONS_PER_WORKER).then_some(end),
    }
}

fn bib(number: u8) -> BibRow {
    BibRow {
        protocol: Protocol::Udp,
        v6: client(number, 53),
        v4: v4(number, 2053),
        is_static: true,
        session_count: 2,
    }
}

fn pool(number: u8) -> PoolRow {
    PoolRow {
        v4: v4(number, 0).ip,
        pool: 0,
        state: gate64_dataplane::nat64::pool4::AddressState::Open,
        blocks_total: 126,
        blocks_used: 1,
        blocks_resting: 0,
        ports_used: [1, 2, 3],
        subscribers: 1,
    }
}

fn block(number: u8) -> BlockRow {
    BlockRow {
        v4: v4(number, 0).ip,
        pool: 0,
        port_first: 1024,
        port_count: 512,
        block_use: BlockUse::Held,
        subscriber: Some((client(number, 0).ip, 64)),
        ports_used: [1, 2, 3],
        held_seconds: 90,
    }
}

fn subscriber(number: u8) -> SubscriberRow {
    SubscriberRow {
        prefix: client(number, 0).ip,
        prefix_length: 64,
        class: 0,
        is_deterministic: false,
        v4: v4(number, 0).ip,
        blocks: vec![1024, 2048],
        block_size: 512,
        ports_used: [1, 2, 3],
        session_count: 6,
        refusals: 3,
        last_refusal: Some(DropReason::SubscriberPorts),
    }
}

#[test]
fn the_watch_sees_a_worker_that_no_longer_turns() {
    let state = state(None);
    let start = Instant::now();
    let mut watch = Watch::begin(&state, start);
    assert!(watch.look(&state, start + Duration::from_secs(1)));
    let mut counted = Counters::default();
    counted.add(counters::turns(0), 5);
    counted.add(counters::busy_nanoseconds(0), 500_000_000);
    counted.publish(&state.workers[0].counters);
    // The second worker's counters stand still for more than three seconds.
    let _ = watch.look(&state, start + Duration::from_secs(3));
    assert!(!watch.look(&state, start + Duration::from_secs(4)));
    assert!(state.workers[0].is_alive());
    assert!(!state.workers[1].is_alive());
    let problems = state.readiness().problems();
    assert!(
        problems.contains(&"worker 1 is stuck: its loop does not turn".to_owned()),
        "{problems:?}"
    );
}

#[test]
fn the_busy_ratio_is_the_part_of_the_time_between_two_looks() {
    let state = state(None);
    let start = Instant::now();
    let mut watch = Watch::begin(&state, start);
    let mut counted = Counters::default();
    counted.add(counters::busy_nanoseconds(0), 500_000_000);
    counted.publish(&state.workers[0].counters);
    watch.look(&state, start + Duration::from_secs(2));
    assert!((state.workers[0].busy_ratio() - 0.25).abs() < 1e-9);
}
