//! `gate64 bench rfc9693` and `rfc8219`: options, the device, and the report.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use gate64_benches::tester::flow::{Carries, Flows, Kind, SESSIONS_PER_CLIENT_MAX};
use gate64_benches::tester::forward::Forwarder;
use gate64_benches::tester::frame::{FCS_LEN, FRAME_LEN_MAX, FRAME_OCTETS_MIN};
use gate64_benches::tester::interface::{Commands, End, InterfacePorts};
use gate64_benches::tester::memory::MemoryPorts;
use gate64_benches::tester::ports::Ports;
use gate64_benches::tester::summary::Summary;
use gate64_benches::tester::{
    Choice, DURATION_RFC, Options, REPEATS_RFC, Tester, TesterError, check_memory, page, rfc8219,
    rfc9693,
};
use gate64_wire::rfc6052::Pref64;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;
use crate::netlink::kernel::Kernel;
use crate::run::gateway_failure;

/// How long the kernel may take to find the device on a link.
const NEIGHBOR_LIMIT: Duration = Duration::from_secs(5);
/// Highest rates tried, where none is given.
const RATE_MAX_MEMORY: f64 = 2e7;
const RATE_MAX_INTERFACES: f64 = 2e6;

/// What both RFCs' measurements are told.
#[derive(Debug, Args)]
pub struct TesterArgs {
    /// Short trials and few repetitions: a look, not a result after the RFC
    #[arg(long)]
    quick: bool,
    /// Seconds of a trial [default: 60; with --quick 0.2 in memory, 2 over interfaces]
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    duration: Option<f64>,
    /// Repetitions of each measurement [default: 20; with --quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: Option<u32>,
    /// Highest rate tried, frames per second and direction [default: 20000000 in memory, 2000000 over interfaces]
    #[arg(long, value_name = "RATE", value_parser = positive)]
    rate_max: Option<f64>,
    /// What a search leaves open, as a part of its result
    #[arg(long, value_name = "PART", default_value_t = 0.01, value_parser = part)]
    resolution: f64,
    /// The part of frames that may be lost; the RFCs allow none
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = tolerance)]
    loss_tolerance: f64,
    /// Seconds to wait for the last frames of a trial
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = positive)]
    timeout: f64,
    /// Sessions of each client
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u16).range(1..=i64::from(SESSIONS_PER_CLIENT_MAX)))]
    sessions_per_client: u16,
    /// What flows are made of
    #[arg(long, value_enum, default_value = "udp")]
    protocol: ProtocolName,
    /// How often each flow has a frame
    #[arg(long, value_enum, default_value = "uniform")]
    popularity: Popularity,
    /// Session table of the device in memory [default: a quarter more than --sessions]
    #[arg(long, value_name = "N", conflicts_with = "initiator", value_parser = clap::value_parser!(u32).range(1..))]
    table: Option<u32>,
    /// Interface on the clients' side; without it the device is in memory
    #[arg(long, value_name = "IF", requires_all = ["initiator_via", "responder", "responder_via"])]
    initiator: Option<String>,
    /// The device's address on that link
    #[arg(long, value_name = "ADDR", requires = "initiator")]
    initiator_via: Option<IpAddr>,
    /// Interface on the servers' side
    #[arg(long, value_name = "IF", requires = "initiator")]
    responder: Option<String>,
    /// The device's address on that link
    #[arg(long, value_name = "ADDR", requires = "initiator")]
    responder_via: Option<IpAddr>,
    /// What the device is
    #[arg(long, value_enum, default_value = "nat64", requires = "initiator")]
    kind: KindName,
    /// The device's translation prefix
    #[arg(long, value_name = "PREFIX", default_value = "64:ff9b::/96", value_parser = pref64, requires = "initiator")]
    pref64: Pref64,
    /// Shell command that empties the device's session table
    #[arg(long, value_name = "COMMAND", requires = "initiator")]
    clear: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What flows are made of.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProtocolName {
    /// UDP datagrams, as the RFCs say
    Udp,
    /// ICMP echo requests and replies
    Icmp,
}

/// How often each flow has a frame.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Popularity {
    /// Each as often, as the RFCs say
    Uniform,
    /// The n-th in proportion to 1/n
    Zipf,
}

/// What stands between the interfaces.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindName {
    /// A NAT64
    Nat64,
    /// A NAT44, for comparison
    Nat44,
    /// An IPv6 router or a cable, for comparison
    Ipv6,
}

/// `gate64 bench rfc9693`.
#[derive(Debug, Args)]
pub struct Rfc9693Args {
    /// Numbers of sessions, separated by commas
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1000,10000,100000", value_parser = clap::value_parser!(u32).range(1..))]
    sessions: Vec<u32>,
    /// Octets of a frame on the IPv6 side, check sequence included
    #[arg(long, value_name = "OCTETS", default_value_t = FRAME_OCTETS_MIN, value_parser = octets)]
    frame_octets: usize,
    /// Search for the capacity of the session table, from the first number of sessions upwards
    #[arg(long)]
    capacity: bool,
    /// Compare throughput between these numbers of workers, separated by commas
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..))]
    workers: Vec<u8>,
    /// Shell command that starts the device with $WORKERS workers
    #[arg(long, value_name = "COMMAND", requires_all = ["initiator", "workers"])]
    set_workers: Option<String>,
    #[command(flatten)]
    common: TesterArgs,
}

/// `gate64 bench rfc8219`.
#[derive(Debug, Args)]
pub struct Rfc8219Args {
    /// Number of sessions
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// Octets of frames on the IPv6 side, check sequence included, separated by commas
    #[arg(long, value_name = "OCTETS,…", value_delimiter = ',', default_value = "84,128,256,512,768,1024,1280,1518", value_parser = octets)]
    frame_octets: Vec<usize>,
    #[command(flatten)]
    common: TesterArgs,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("a number above 0".into()),
    }
}

fn part(text: &str) -> Result<f64, String> {
    positive(text).and_then(|value| {
        let is_part = (1e-5..=0.5).contains(&value);
        is_part
            .then_some(value)
            .ok_or_else(|| "a number from 0.00001 to 0.5".into())
    })
}

fn tolerance(text: &str) -> Result<f64, String> {
    let value = text
        .parse()
        .ok()
        .filter(|value| (0.0..=0.5).contains(value));
    value.ok_or_else(|| "a number from 0 to 0.5".into())
}

fn octets(text: &str) -> Result<usize, String> {
    // An IPv4 side without VLAN tag carries 1518.
    let range = FRAME_OCTETS_MIN..=(FRAME_LEN_MAX + FCS_LEN).min(1518);
    let value = text.parse().ok().filter(|value| range.contains(value));
    value.ok_or_else(|| format!("a number from {} to {}", range.start(), range.end()))
}

fn pref64(text: &str) -> Result<Pref64, String> {
    let wrong = || "an IPv6 prefix of length /32, /40, /48, /56, /64 or /96".to_owned();
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let address = address.parse().map_err(|_| wrong())?;
    let length = length.parse().map_err(|_| wrong())?;
    Pref64::new(address, length).map_err(|error| error.to_string())
}

/// Measures sessions.
pub fn rfc9693(args: &Rfc9693Args) -> Result<(), Failure> {
    let first = args.sessions.first().copied().unwrap_or(1);
    let largest = args.sessions.iter().copied().max().unwrap_or(1);
    let options = Options {
        frame_octets: vec![args.frame_octets],
        sessions: args.sessions.clone(),
        workers: args.workers.clone(),
        capacity: args.capacity,
        ..args.common.options()
    };
    if args.common.initiator.is_some() && !args.workers.is_empty() && args.set_workers.is_none() {
        return Err(Failure::Failed(
            "cannot measure: --workers needs --set-workers over interfaces, a command that starts the device with $WORKERS workers".into(),
        ));
    }
    let commands = Commands {
        clear: args.common.clear.clone(),
        set_workers: args.set_workers.clone(),
    };
    args.common
        .measure(&options, commands, (first, largest), rfc9693::measure)
}

/// Measures packets.
pub fn rfc8219(args: &Rfc8219Args) -> Result<(), Failure> {
    let options = Options {
        frame_octets: args.frame_octets.clone(),
        sessions: vec![args.sessions],
        ..args.common.options()
    };
    let commands = Commands {
        clear: args.common.clear.clone(),
        set_workers: None,
    };
    let sessions = (args.sessions, args.sessions);
    args.common
        .measure(&options, commands, sessions, rfc8219::measure)
}

/// Forwards until it is told to stop.
pub fn forward(one: &[String], other: &[String]) -> Result<(), Failure> {
    let end = |words: &[String]| match words {
        [interface, mac] => Ok(End {
            interface: interface.clone(),
            device_mac: parse_mac(mac)?,
        }),
        _ => Err(Failure::Failed(
            "an interface and a MAC address are needed".into(),
        )),
    };
    let ends = [end(one)?, end(other)?];
    let stop = stop_on_signal()?;
    let mut forwarder = Forwarder::open(&ends).map_err(failure)?;
    println!(
        "forwards between {} and {}",
        ends[0].interface, ends[1].interface
    );
    while !stop.load(Ordering::Relaxed) {
        forwarder.turn();
    }
    Ok(())
}

fn parse_mac(text: &str) -> Result<[u8; 6], Failure> {
    let octets: Result<Vec<u8>, _> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect();
    let octets = octets.ok().and_then(|octets| octets.try_into().ok());
    octets.ok_or_else(|| {
        Failure::Failed(format!(
            "{text} is no MAC address such as 02:00:00:00:00:01"
        ))
    })
}

type Measure =
    fn(&mut Tester, &Flows, &Options, &mut dyn FnMut(&str)) -> (Summary, Result<(), TesterError>);

impl TesterArgs {
    fn options(&self) -> Options {
        let in_memory = self.initiator.is_none();
        let duration = match (self.quick, in_memory) {
            (false, _) => DURATION_RFC,
            (true, true) => 0.2,
            (true, false) => 2.0,
        };
        let repeats = if self.quick { 3 } else { REPEATS_RFC };
        let rate_max = if in_memory {
            RATE_MAX_MEMORY
        } else {
            RATE_MAX_INTERFACES
        };
        Options {
            duration: self.duration.unwrap_or(duration),
            repeats: self.repeats.unwrap_or(repeats),
            rate_max: self.rate_max.unwrap_or(rate_max),
            resolution: self.resolution,
            loss_tolerance: self.loss_tolerance,
            frame_octets: Vec::new(),
            sessions: Vec::new(),
            workers: Vec::new(),
            choice: match self.popularity {
                Popularity::Uniform => Choice::Uniform,
                Popularity::Zipf => Choice::Zipf,
            },
            capacity: false,
        }
    }

    fn kind(&self) -> Kind {
        match self.kind {
            KindName::Nat64 => Kind::Nat64(self.pref64),
            KindName::Nat44 => Kind::Nat44,
            KindName::Ipv6 => Kind::Ipv6,
        }
    }

    fn measure(
        &self,
        options: &Options,
        commands: Commands,
        (first, largest): (u32, u32),
        measure: Measure,
    ) -> Result<(), Failure> {
        let carries = match self.protocol {
            ProtocolName::Udp => Carries::Udp,
            ProtocolName::Icmp => Carries::Echo,
        };
        let flows = Flows::new(self.kind(), carries, first, self.sessions_per_client);
        let flows = flows.ok_or_else(|| {
            Failure::Failed("too many clients: raise --sessions-per-client".into())
        })?;
        // What cannot be written later is better known now.
        if let Some(file) = &self.html {
            write(file, "")?;
        }
        let stop = stop_on_signal()?;
        let table = self.table(largest);
        check_memory(largest, table).map_err(failure)?;
        let ports = self.ports(table, commands)?;
        let timeout = Duration::from_secs_f64(self.timeout);
        let mut tester = Tester::new(ports, flows, timeout, Arc::clone(&stop));
        tester.set_choice(options.choice);
        let begin = Instant::now();
        let mut progress = |what: &str| eprintln!("{:>6} s  {what}", begin.elapsed().as_secs());
        let (summary, done) = measure(&mut tester, &flows, options, &mut progress);
        match done {
            Ok(()) => self.print(&summary),
            Err(TesterError::Interrupted) => {
                self.print(&summary)?;
                Err(Failure::Failed(
                    "interrupted: the report is not complete".into(),
                ))
            }
            Err(error) => {
                if let Some(file) = &self.html {
                    let _ = std::fs::remove_file(file);
                }
                Err(failure(error))
            }
        }
    }

    /// Sessions that the device in memory takes; none where the device is elsewhere.
    fn table(&self, sessions: u32) -> Option<u32> {
        let default = || sessions.saturating_add(sessions / 4).saturating_add(64);
        let in_memory = self.initiator.is_none();
        in_memory.then(|| self.table.unwrap_or_else(default))
    }

    fn ports(&self, table: Option<u32>, commands: Commands) -> Result<Box<dyn Ports>, Failure> {
        let names = (
            &self.initiator,
            self.initiator_via,
            &self.responder,
            self.responder_via,
        );
        let (Some(initiator), Some(initiator_via), Some(responder), Some(responder_via)) = names
        else {
            let table = table.unwrap_or(0).into();
            let ports = MemoryPorts::new(table, self.sessions_per_client).map_err(failure)?;
            return Ok(Box::new(ports));
        };
        let ends =
            [(initiator, initiator_via), (responder, responder_via)].map(|(interface, via)| {
                find_device(interface, via).map(|device_mac| End {
                    interface: interface.clone(),
                    device_mac,
                })
            });
        let [initiator, responder] = ends;
        let ports = InterfacePorts::open(&[initiator?, responder?], commands).map_err(failure)?;
        Ok(Box::new(ports))
    }

    fn print(&self, summary: &Summary) -> Result<(), Failure> {
        if let Some(file) = &self.html {
            write(file, &page::html(summary))?;
        }
        if self.json {
            println!("{:#}", summary.json());
        } else {
            print!("{}", summary.text());
        }
        Ok(())
    }
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text)
        .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", file.display())))
}

fn failure(error: TesterError) -> Failure {
    match error {
        TesterError::Interfaces(error) => gateway_failure(error),
        error => Failure::Failed(format!("cannot measure: {error}")),
    }
}

/// Set by the first SIGINT or SIGTERM; a second one ends the process.
fn stop_on_signal() -> Result<Arc<AtomicBool>, Failure> {
    let failed =
        |error: std::io::Error| Failure::Failed(format!("cannot take signals over: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    let signals = runtime.block_on(async {
        Ok((
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ))
    });
    let (mut interrupt, mut terminate) = signals.map_err(failed)?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            for last in [false, true] {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                if last {
                    std::process::exit(1);
                }
                raised.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(stop)
}

/// The MAC address behind an address on a link, which the kernel is asked to resolve.
fn find_device(interface: &str, via: IpAddr) -> Result<[u8; 6], Failure> {
    let index = nix::net::if_::if_nametoindex(interface).map_err(|_| {
        Failure::Interface(format!("there is no interface {interface}: see `ip link`"))
    })?;
    let asked = |error: &dyn std::fmt::Display| {
        Failure::Failed(format!("cannot ask the kernel for {via}: {error}"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| asked(&error))?;
    runtime.block_on(async {
        let kernel = Kernel::open().map_err(|error| asked(&error))?;
        let deadline = Instant::now() + NEIGHBOR_LIMIT;
        while Instant::now() < deadline {
            let known = kernel.neighbors().await.map_err(|error| asked(&error))?;
            let known = known.iter().find(|(key, _)| *key == (index, via));
            if let Some(mac) = known.and_then(|(_, neighbor)| neighbor.valid_mac()) {
                return Ok(mac);
            }
            kernel.look_after((index, via), false).await.map_err(|error| match error {
                rtnetlink::Error::NetlinkError(refused) if refused.raw_code() == -libc::EPERM => {
                    Failure::Privilege("no permission to ask for neighbours: run as root".into())
                }
                error => asked(&error),
            })?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(Failure::Interface(format!(
            "nobody answers for {via} on {interface}: see that the device is up and has that address, and that {interface} \
             has one in the same prefix"
        )))
    })
}
