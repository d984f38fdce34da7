//! `gate64 replay`: captures go through the real engine and worker, time from the captures. The
//! same captures give the same packets each time, so that a bug report becomes a test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use arc_swap::ArcSwap;
use clap::Args;
use crossbeam::channel;
use gate64_dataplane::clock::ManualClock;
use gate64_dataplane::config::{InterfaceAddress, Nat64Config};
use gate64_dataplane::counters::{self, Counters, PublishedCounters};
use gate64_dataplane::io::Waker;
use gate64_dataplane::io::pcap::PcapIo;
use gate64_dataplane::memory::HashKey;
use gate64_dataplane::nat64::Nat64;
use gate64_dataplane::nat64::plan::{Settings, Shared};
use gate64_dataplane::route::{Port, PortId, Route, RouteSnapshot};
use gate64_dataplane::verdict::{DropReason, Side, WorkerId};
use gate64_dataplane::worker::{Handoff, Idle, Links, Worker};

use crate::config;
use crate::exit::Failure;
use crate::{check, run};

/// The interface of the IPv6 side and that of the IPv4 side.
const V6: PortId = PortId(0);
const V4: PortId = PortId(1);

/// MTU of both sides.
const MTU: u16 = 1500;

/// Sessions that a replay has room for, unless the configuration says less.
const SESSIONS_MAX: u64 = 1 << 20;

/// Which captures.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What came from IPv6 (pcap, Ethernet)
    #[arg(long, value_name = "IN")]
    pub v6: PathBuf,
    /// What came from IPv4 (pcap, Ethernet)
    #[arg(long, value_name = "IN")]
    pub v4: PathBuf,
    /// What leaves towards IPv6
    #[arg(long, value_name = "OUT")]
    pub out_v6: PathBuf,
    /// What leaves towards IPv4
    #[arg(long, value_name = "OUT")]
    pub out_v4: PathBuf,
}

/// Runs the command.
pub fn run(args: &ReplayArgs) -> ExitCode {
    match replay(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    let (config, _) = config::load(&args.config).map_err(|report| {
        eprint!("{report}");
        Failure::Configuration(check::summary(&report))
    })?;
    let sessions = u64::from(config.dataplane.session_count_max).min(SESSIONS_MAX);
    let nat64 = run::nat64_config(&config)?;
    let captures = |error| Failure::Failed(format!("cannot replay the captures: {error}"));
    let ports = [
        (args.v6.as_path(), args.out_v6.as_path()),
        (args.v4.as_path(), args.out_v4.as_path()),
    ];
    let io = PcapIo::open(&ports).map_err(captures)?;
    let mut worker = worker(io, nat64, sessions)?;
    let mut packets = 0u64;
    while let Some(now) = worker.io().advance().map_err(captures)? {
        packets += 1;
        worker.clock().set(now);
        while worker.turn() {}
    }
    print!("{}", summary(packets, worker.counters()));
    worker.into_io().finish().map_err(captures)
}

/// A worker with random choices fixed, so that a replay repeats.
fn worker(
    io: PcapIo,
    config: Nat64Config,
    sessions: u64,
) -> Result<Worker<PcapIo, ManualClock>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let settings = Settings {
        key: HashKey::seeded(1),
        seed: 1,
        ..Settings::new(1, sessions)
    };
    let shared = Shared::new(Arc::new(config), settings);
    let nat64 = Nat64::new(&shared, WorkerId(0)).map_err(|error| failed(&error))?;
    let wakers = [Arc::new(Waker::new().map_err(|error| failed(&error))?)];
    // Nobody asks and nobody listens.
    let commands = channel::never();
    let (events, _) = rtrb::RingBuffer::new(1);
    let links = Links {
        handoff: Handoff::mesh(&wakers)
            .pop()
            .ok_or_else(|| failed(&"no rings between workers"))?,
        commands,
        events,
        published: Arc::new(PublishedCounters::default()),
        routes: Arc::new(ArcSwap::from_pointee(routes())),
    };
    Ok(Worker::new(
        io,
        ManualClock::default(),
        nat64,
        vec![None, None],
        links,
        Idle::default(),
    ))
}

/// Everything on IPv6 is behind one router, everything on IPv4 behind another.
fn routes() -> RouteSnapshot {
    let own6 = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 1);
    let own4 = Ipv4Addr::new(192, 0, 0, 8);
    let router6 = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 2));
    let router4 = IpAddr::from(Ipv4Addr::new(192, 0, 0, 9));
    let port = |name: &str, octet: u8, ip: IpAddr, length: u8| Port {
        name: name.to_owned(),
        index: 1,
        mac: [2, 0, 0, 0, 0, octet],
        mtu: MTU,
        is_up: true,
        vlan: None,
        addresses: vec![InterfaceAddress { ip, length }],
    };
    RouteSnapshot::builder()
        .port(port("v6", 0x60, own6.into(), 64))
        .port(port("v4", 0x40, own4.into(), 29))
        .route6(Ipv6Addr::UNSPECIFIED, 0, Route::via(V6, router6))
        .route4(Ipv4Addr::UNSPECIFIED, 0, Route::via(V4, router4))
        .neighbor(V6, router6, [2, 0, 0, 0, 0, 0x62])
        .neighbor(V4, router4, [2, 0, 0, 0, 0, 0x42])
        .build(1)
}

fn summary(packets: u64, counters: &Counters) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let _ = writeln!(out, "{packets} packets read");
    for side in [Side::V6, Side::V4] {
        let forwarded = counters.get(counters::packets_forwarded(side.index()));
        let errors = counters.get(counters::icmp_errors_generated(side.index()));
        let _ = writeln!(
            out,
            "{}: {forwarded} translated, {errors} answered with an ICMP error",
            side.direction()
        );
        for &reason in DropReason::ALL {
            let count = counters.get(counters::drop_id(side, reason));
            if count > 0 {
                let _ = writeln!(
                    out,
                    "  {count} dropped, {}: {}",
                    reason.label(),
                    reason.sentence()
                );
            }
        }
    }
    out
}
