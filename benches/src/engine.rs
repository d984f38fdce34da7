//! `gate64 bench engine`: the engine in memory, measured against goals.

use std::cell::RefCell;
use std::path::PathBuf;

use gate64_dataplane::io::FrameArea;
use gate64_dataplane::memory::hash::Rng;
use gate64_dataplane::nat64::Batch;
use gate64_dataplane::verdict::Side;
use gate64_wire::addr::Protocol;

use crate::BenchError;
use crate::contender::{Contender, Key6, Null, Single, Tables};
use crate::flows::{Choice, flow};
use crate::frames::{Frames, Load, unpack};
use crate::gateway::{Filled, Gateway, Size};
use crate::hashed::Hashed;
use crate::instructions::{self, CASES};
use crate::jool::Jool;
use crate::lifecycle;
use crate::measure::{Compared, Spread, Subject, compare};
use crate::report::{Goal, Report};
use crate::vpp::Vpp;
use crate::workers;

const THOUSAND: u64 = 1000;
const MILLION: u64 = 1_000_000;
/// Resident octets for a session of the largest table, with the flows that the bench keeps and
/// what else it has at the same time.
const OCTETS_PER_SESSION: u64 = 160;
const OCTETS_BESIDES: u64 = 1 << 30;

/// How to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Only what the goals need.
    pub quick: bool,
    /// Workers of the scaling measurement.
    pub workers: usize,
    /// Only compare so many sessions with a thousand.
    pub sessions: Option<u64>,
    /// This program and the arguments that make it call [`instructions::probe`], if instructions
    /// are to be counted.
    pub probe: Option<(PathBuf, Vec<String>)>,
}

/// Measures; `progress` is told what comes next.
///
/// # Errors
/// Something could not be measured; there is no partial report.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, BenchError> {
    let rounds = if options.quick { 9 } else { 31 };
    let mut report = Report::default();
    if let Some(sessions) = options.sessions {
        check_memory(sessions)?;
        progress(&format!("established traffic, 1 k and {sessions} sessions"));
        add_size(&mut report, sessions, rounds)?;
        return Ok(report);
    }
    check(options)?;
    progress("instructions per packet");
    add_instructions(&mut report, options)?;
    progress("workers");
    add_workers(&mut report, options.workers, rounds.min(9))?;
    progress("new sessions and their end");
    add_lifecycle(&mut report)?;
    progress("established traffic, 1 k to 10 M sessions");
    add_sizes(&mut report, rounds)?;
    progress("expiry at 10 M sessions");
    add_stall(&mut report)?;
    if !options.quick {
        matrix(&mut report, progress)?;
    }
    Ok(report)
}

fn check(options: &Options) -> Result<(), BenchError> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    if options.workers > available || options.workers > usize::from(u8::MAX) {
        return Err(BenchError::Cores {
            wanted: options.workers,
            available,
        });
    }
    check_memory(10 * MILLION)
}

fn check_memory(sessions: u64) -> Result<(), BenchError> {
    let need = sessions * OCTETS_PER_SESSION + OCTETS_BESIDES;
    let free = crate::measure::memory_available();
    if free < need {
        return Err(BenchError::Memory {
            sessions,
            need_mib: need >> 20,
            free_mib: free >> 20,
        });
    }
    Ok(())
}

fn add_instructions(report: &mut Report, options: &Options) -> Result<(), BenchError> {
    for case in &CASES {
        let counted = match &options.probe {
            Some((program, arguments)) => {
                let profile = std::env::temp_dir().join(format!(
                    "gate64-callgrind.{}.{}",
                    std::process::id(),
                    case.name
                ));
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let counted = instructions::count(case, program, &arguments, &profile);
                let _ = std::fs::remove_file(&profile);
                counted?
            }
            None => None,
        };
        let goal = match case.name.split_once('_') {
            Some(("udp", _)) => Some(Goal::AtMost(260.0)),
            Some(("tcp", _)) => Some(Goal::AtMost(300.0)),
            _ => None,
        };
        let key = format!("instructions_{}", case.name);
        let what = format!("instructions per packet, {}", case.name.replace('_', " "));
        report.add(&key, &what, counted, goal);
    }
    Ok(())
}

fn add_workers(report: &mut Report, count: usize, rounds: usize) -> Result<(), BenchError> {
    let (mut direct, mut handed_off) = (None, None);
    if count > 1 {
        let scaling = workers::scaling(count, rounds)?;
        (direct, handed_off) = (Some(scaling.direct), Some(scaling.handed_off));
    }
    let goal = |bound| (count == 2).then_some(Goal::AtLeast(bound));
    for (key, what, value, goal) in [
        ("over_1", "workers to one, no hand-off", direct, goal(1.85)),
        (
            "",
            "workers to one, all IPv4 handed off",
            handed_off,
            goal(1.3),
        ),
    ] {
        let count = count.max(2);
        let key = if key.is_empty() {
            format!("handoff_{count}_over_1")
        } else {
            format!("workers_{count}_{key}")
        };
        let what = format!("{count} {what}");
        match value {
            Some(value) => report.add_spread(&key, &what, value, goal),
            None => report.add(&key, &what, None, goal),
        }
    }
    Ok(())
}

fn add_lifecycle(report: &mut Report) -> Result<(), BenchError> {
    report.add_spread(
        "new_sessions_per_second_1m",
        "new sessions per second at 1 M",
        lifecycle::new_sessions(MILLION, Protocol::Udp)?,
        Some(Goal::AtLeast(2e6)),
    );
    let occupancy = lifecycle::occupancy()?;
    report.add_spread(
        "occupancy_99_over_10",
        "rate of new sessions, pool 99 % to 10 % full",
        occupancy,
        Some(Goal::AtLeast(0.7)),
    );
    report.add_spread(
        "allocation_cost_99_over_10",
        "cost of a new session, pool 99 % to 10 % full",
        occupancy.map(|rate| 1.0 / rate),
        Some(Goal::AtMost(1.5)),
    );
    report.add_spread(
        "new_sessions_log_stuck_over_off",
        "rate of new sessions, a log that reads nothing to none",
        lifecycle::stuck_log()?,
        None,
    );
    let ended = lifecycle::tear_down(Size::of(MILLION))?;
    report.add(
        "teardown_per_second",
        "sessions ended per second at 1 M",
        Some(ended.per_second),
        Some(Goal::AtLeast(3e6)),
    );
    Ok(())
}

/// UDP from both sides in turn, each flow as likely as any other.
fn subject<'a>(
    contender: &'a mut dyn Contender,
    frames: &'a mut Frames,
    mapped: &'a [u64],
    size: &Size,
) -> Subject<'a> {
    Subject {
        contender,
        frames,
        load: Load {
            protocol: Protocol::Udp,
            side: None,
            choice: Choice::Uniform,
            mapped,
            subscribers: size.subscribers,
            rng: Rng::new(7),
        },
    }
}

fn translated(what: &'static str, compared: Compared) -> Result<Compared, BenchError> {
    if compared.refused > 0 {
        return Err(BenchError::NotTranslated {
            what,
            refused: compared.refused,
            packets: compared.packets,
        });
    }
    Ok(compared)
}

/// An engine that two subjects measure in turn.
struct Lent<'a, 'b>(&'a RefCell<&'b mut Gateway>);

impl Contender for Lent<'_, '_> {
    fn burst(&mut self, area: &FrameArea, batch: &mut Batch) {
        self.0.borrow_mut().burst(area, batch);
    }
}

/// The same sessions in other tables.
fn copied<T: Tables>(mut tables: T, filled: &Filled) -> Single<T> {
    for (number, &mapped) in (0..).zip(&filled.mapped) {
        let flow = flow(number, filled.size.subscribers);
        let key = Key6 {
            client: flow.v6,
            remote: flow.remote,
            protocol: Protocol::Udp,
        };
        tables.insert(key, unpack(mapped));
    }
    Single::new(tables)
}

fn against<T: Tables>(
    what: &'static str,
    tables: T,
    filled: &mut Filled,
    rounds: usize,
) -> Result<Compared, BenchError> {
    let mut other = copied(tables, filled);
    let (mut ours, mut theirs) = (Frames::new(64), Frames::new(64));
    let Filled {
        gateway,
        size,
        mapped,
        ..
    } = filled;
    let compared = compare(
        &mut subject(gateway, &mut ours, mapped, size),
        &mut subject(&mut other, &mut theirs, mapped, size),
        rounds,
    );
    translated(what, compared)
}

fn add_sizes(report: &mut Report, rounds: usize) -> Result<(), BenchError> {
    let mut small = Filled::new(Size::of(THOUSAND), Protocol::Udp)?;
    let mut middle = Filled::new(Size::of(MILLION), Protocol::Udp)?;
    let mut large = Filled::new(Size::of(10 * MILLION), Protocol::Udp)?;
    report.add(
        "bytes_per_session_10m",
        "resident octets per session at 10 M",
        Some(large.resident as f64 / (10 * MILLION) as f64),
        Some(Goal::AtMost(128.0)),
    );
    let mut frames = [Frames::new(64), Frames::new(64)];
    let [ours, theirs] = &mut frames;
    let null = compare(
        &mut subject(&mut Null, ours, &small.mapped, &small.size),
        &mut subject(&mut small.gateway, theirs, &small.mapped, &small.size),
        rounds,
    );
    let null = translated("1 k sessions", null)?;
    report.add_spread(
        "ns_per_packet_null",
        "ns per packet, frames alone",
        null.first,
        None,
    );
    let sizes = compare(
        &mut subject(&mut small.gateway, ours, &small.mapped, &small.size),
        &mut subject(&mut large.gateway, theirs, &large.mapped, &large.size),
        rounds,
    );
    let sizes = translated("1 k and 10 M sessions", sizes)?;
    let single = &mut Frames::new(1);
    // One engine in two kinds of bursts: measured in turn, so lent in turn.
    let shared = RefCell::new(&mut middle.gateway);
    let bursts = compare(
        &mut subject(&mut Lent(&shared), ours, &middle.mapped, &middle.size),
        &mut subject(&mut Lent(&shared), single, &middle.mapped, &middle.size),
        rounds,
    );
    let bursts = translated("bursts of 64 and 1", bursts)?;
    report.add_spread(
        "ns_per_packet_1k",
        "ns per packet, 1 k sessions",
        sizes.first,
        None,
    );
    report.add_spread(
        "ns_per_packet_1m",
        "ns per packet, 1 M sessions",
        bursts.first,
        None,
    );
    report.add_spread(
        "ns_per_packet_10m",
        "ns per packet, 10 M sessions",
        sizes.second,
        None,
    );
    report.add_spread(
        "size_penalty_10m",
        "10 M sessions to 1 k",
        sizes.ratio,
        Some(Goal::AtMost(2.2)),
    );
    report.add_spread(
        "burst_gain_1m",
        "single packets to bursts of 64, 1 M sessions",
        bursts.ratio,
        Some(Goal::AtLeast(2.5)),
    );
    drop(large);
    let jool = against("Jool's tables", Jool::new(), &mut middle, rounds)?;
    report.add_spread(
        "vs_jool_like_1m",
        "Jool's tables to ours, 1 M",
        jool.ratio,
        Some(Goal::AtLeast(4.0)),
    );
    let sessions = middle.mapped.len();
    let vpp = against("VPP's tables", Vpp::new(sessions), &mut middle, rounds)?;
    report.add_spread(
        "vs_vpp_like_1m",
        "VPP's tables to ours, 1 M",
        vpp.ratio,
        Some(Goal::AtLeast(3.0)),
    );
    let hashed = against(
        "hashbrown's tables",
        Hashed::new(sessions),
        &mut middle,
        rounds,
    )?;
    report.add_spread(
        "vs_hashbrown_1m",
        "hashbrown's tables to ours, 1 M",
        hashed.ratio,
        None,
    );
    Ok(())
}

/// A table of any size beside one of a thousand sessions.
fn add_size(report: &mut Report, sessions: u64, rounds: usize) -> Result<(), BenchError> {
    let mut small = Filled::new(Size::of(THOUSAND), Protocol::Udp)?;
    let mut large = Filled::new(Size::of(sessions), Protocol::Udp)?;
    report.add(
        "bytes_per_session",
        &format!("resident octets per session at {sessions}"),
        Some(large.resident as f64 / sessions as f64),
        Some(Goal::AtMost(128.0)),
    );
    let [mut ours, mut theirs] = [Frames::new(64), Frames::new(64)];
    let sizes = compare(
        &mut subject(&mut small.gateway, &mut ours, &small.mapped, &small.size),
        &mut subject(&mut large.gateway, &mut theirs, &large.mapped, &large.size),
        rounds,
    );
    let sizes = translated("both sizes", sizes)?;
    for (key, what, value) in [
        (
            "ns_per_packet_1k",
            "ns per packet, 1 k sessions".to_owned(),
            sizes.first,
        ),
        (
            "ns_per_packet",
            format!("ns per packet, {sessions} sessions"),
            sizes.second,
        ),
        (
            "size_penalty",
            format!("{sessions} sessions to 1 k"),
            sizes.ratio,
        ),
    ] {
        report.add_spread(key, &what, value, None);
    }
    Ok(())
}

fn add_stall(report: &mut Report) -> Result<(), BenchError> {
    let ended = lifecycle::tear_down(Size::of(10 * MILLION))?;
    report.add(
        "stall_max_us",
        "longest turn of expiry in microseconds, 10 M",
        Some(ended.longest_turn / 1e3),
        Some(Goal::AtMost(20.0)),
    );
    Ok(())
}

/// Established traffic of every kind, without goals.
fn matrix(report: &mut Report, progress: &mut dyn FnMut(&str)) -> Result<(), BenchError> {
    for protocol in Protocol::ALL {
        for (sessions, name) in [
            (THOUSAND, "1k"),
            (10 * THOUSAND, "10k"),
            (100 * THOUSAND, "100k"),
            (MILLION, "1m"),
            (10 * MILLION, "10m"),
        ] {
            progress(&format!("{} with {name} sessions", protocol.name()));
            let mut filled = Filled::new(Size::of(sessions), protocol)?;
            for side in [Side::V6, Side::V4] {
                for choice in [Choice::Uniform, Choice::Zipf] {
                    for burst in [64, 1] {
                        cell(report, &mut filled, name, (protocol, side, choice, burst))?;
                    }
                }
            }
        }
        if protocol != Protocol::Icmp {
            let key = format!("new_sessions_per_second_1m_{}", protocol.name());
            let rate = lifecycle::new_sessions(MILLION, protocol)?;
            report.add_spread(&key, &key.replace('_', " "), rate, None);
        }
    }
    Ok(())
}

fn cell(
    report: &mut Report,
    filled: &mut Filled,
    sessions: &str,
    (protocol, side, choice, burst): (Protocol, Side, Choice, usize),
) -> Result<(), BenchError> {
    let Filled {
        gateway,
        size,
        mapped,
        ..
    } = filled;
    let mut frames = Frames::new(burst);
    let mut subject = subject(gateway, &mut frames, mapped, size);
    subject.load.protocol = protocol;
    subject.load.side = Some(side);
    subject.load.choice = choice;
    let (mut times, mut refused) = (Vec::new(), 0);
    for _ in 0..16 {
        let (time, lost) = subject.measure();
        times.push(time);
        refused += lost;
    }
    if refused > 0 {
        return Err(BenchError::NotTranslated {
            what: "the matrix",
            refused,
            packets: 16 * Subject::PACKETS,
        });
    }
    let key = format!(
        "ns_{}_from_{}_{}_{}_burst_{burst}",
        protocol.name(),
        side.direction().split('_').next().unwrap_or_default(),
        match choice {
            Choice::Uniform => "uniform",
            Choice::Zipf => "zipf",
        },
        sessions,
    );
    report.add_spread(&key, &key.replace('_', " "), Spread::of(&mut times), None);
    Ok(())
}
