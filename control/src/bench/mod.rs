//! `gate64 bench`: the command line of the measurements in `gate64-benches`.

mod tester;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use gate64_benches::{BenchError, engine, instructions, simulation};
use gate64_dataplane::memory::HashKey;

use crate::exit::Failure;

/// `gate64 bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure
    #[command(subcommand)]
    pub what: BenchWhat,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// The engine in memory: cost of packets and sessions, scaling, against goals
    Engine {
        /// Only what the goals need: about a minute
        #[arg(long)]
        quick: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Only compare a table of so many sessions with one of a thousand
        #[arg(long, value_name = "N", conflicts_with = "workers", value_parser = clap::value_parser!(u64).range(1000..=1_000_000_000))]
        sessions: Option<u64>,
        /// Workers to compare with one
        #[arg(long, value_name = "N", default_value_t = workers_default(), value_parser = clap::value_parser!(u8).range(1..))]
        workers: u8,
    },
    /// Sessions after RFC 9693: establishment, throughput, tear-down, capacity
    Rfc9693(tester::Rfc9693Args),
    /// Packets after RFC 8219: throughput, frame loss, latency, delay variation
    Rfc8219(tester::Rfc8219Args),
    /// A null device: forwards benchmarking frames between two interfaces and translates nothing
    Forward {
        /// One interface and where its frames go: the tester's MAC address behind it
        #[arg(num_args = 2, value_names = ["IF", "MAC"], required = true)]
        one: Vec<String>,
        /// The other
        #[arg(long, num_args = 2, value_names = ["IF", "MAC"], required = true)]
        and: Vec<String>,
    },
    /// An hour of a million subscribers on simulated time: ports, pairing, quotas, block events
    Subscribers {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(4096..=4_000_000))]
        count: u64,
        /// Simulated minutes
        #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(3..=1440))]
        minutes: u64,
        /// Repeats a simulation; random if it is not given
        #[arg(long)]
        seed: Option<u64>,
    },
    /// What callgrind counts
    #[command(hide = true)]
    Probe {
        /// Which case
        case: String,
    },
}

fn workers_default() -> u8 {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        2
    } else {
        1
    }
}

/// Measures, and prints the report.
pub fn run(args: &BenchArgs) -> ExitCode {
    let done = match &args.what {
        BenchWhat::Engine {
            quick,
            json,
            sessions,
            workers,
        } => measure(*quick, *json, *sessions, usize::from(*workers)),
        BenchWhat::Rfc9693(args) => tester::rfc9693(args),
        BenchWhat::Rfc8219(args) => tester::rfc8219(args),
        BenchWhat::Forward { one, and } => tester::forward(one, and),
        BenchWhat::Subscribers {
            count,
            minutes,
            seed,
        } => simulate(*count, *minutes, *seed),
        BenchWhat::Probe { case } => probe(case),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn measure(quick: bool, json: bool, sessions: Option<u64>, workers: usize) -> Result<(), Failure> {
    let program = std::env::current_exe().ok();
    let options = engine::Options {
        quick,
        workers,
        sessions,
        probe: program.map(|program| (program, vec!["bench".into(), "probe".into()])),
    };
    let mut progress = |what: &str| eprintln!("measuring {what}");
    let report = engine::run(&options, &mut progress).map_err(failed)?;
    if json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

/// Simulates, and prints what was seen; a fault ends it with the seed that repeats it.
fn simulate(count: u64, minutes: u64, seed: Option<u64>) -> Result<(), Failure> {
    let seed = seed.unwrap_or_else(|| HashKey::random().words(1, 2, 3));
    println!("seed {seed}");
    let mut progress = |what: &str| eprintln!("{what}");
    let plan = simulation::Plan::hour(count, minutes, seed);
    let journal = std::env::temp_dir().join(format!("gate64-bench-{}", std::process::id()));
    let seen = simulation::run(plan, &journal, &mut progress);
    let removed = std::fs::remove_dir_all(&journal);
    let seen =
        seen.map_err(|error| Failure::Failed(format!("the simulation found a fault: {error}")))?;
    if let Err(error) = removed {
        eprintln!("{} is left: {error}", journal.display());
    }
    let [raised, cleared] = seen.alarm_edges;
    println!(
        "{} packets of {count} subscribers: {} translated, {} refused for a quota, {} for want of \
         a block",
        seen.packets, seen.translated, seen.refused_by_quota, seen.refused_by_pool
    );
    println!(
        "{} blocks given out and {} taken back, each told once; at most {} of {} held at once, by \
         {} subscribers",
        seen.blocks_allocated,
        seen.blocks_released,
        seen.blocks_held_max,
        seen.blocks_total,
        seen.subscribers_max
    );
    println!(
        "the journal was read back: {} entries, the same in the same order",
        seen.journal_entries
    );
    println!("alarm raised {raised} times, cleared {cleared} times");
    println!("no port had two owners; pairing, quotas and the reuse delay held");
    Ok(())
}

fn probe(name: &str) -> Result<(), Failure> {
    let case = instructions::CASES.iter().find(|case| case.name == name);
    let case = case.ok_or_else(|| Failure::Failed(format!("no case {name}")))?;
    instructions::probe(case).map_err(failed)
}

fn failed(error: BenchError) -> Failure {
    Failure::Failed(format!("cannot measure: {error}"))
}
