//! The device between two interfaces of this machine: the tester's ports are AF_XDP sockets.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gate64_dataplane::config::{
    AutoOnOff, InterfaceConfig, L4Checksum, Nat64Config, Pool4Prefix, XdpModeChoice,
};
use gate64_dataplane::io::steering::Steering;
use gate64_dataplane::io::xsk::{self, XskIo};
use gate64_dataplane::io::{BURST_FRAMES_MAX, InterfaceReport, PacketIo};
use gate64_dataplane::packet::Frame;
use gate64_dataplane::route::PortId;
use gate64_wire::rfc6052::Pref64;

use super::TesterError;
use super::ports::{Full, Ports, Role, Take, Workers};

/// Where the next frame is due later than this, the tester sleeps instead of spinning.
const SLEEP_BEYOND: Duration = Duration::from_micros(500);
const SLEEP_MAX: Duration = Duration::from_millis(1);

/// A copy-mode socket sends 32 frames with one system call (Linux 6.18).
const BURST: u64 = 32;

/// One port: its interface, and the MAC address of the device on that link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The interface.
    pub interface: String,
    /// The device's MAC address.
    pub device_mac: [u8; 6],
}

/// Shell commands that change the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commands {
    /// Empties its session table.
    pub clear: Option<String>,
    /// Gives it as many workers as the environment variable `WORKERS` says.
    pub set_workers: Option<String>,
}

/// Two interfaces.
pub struct InterfacePorts {
    io: XskIo,
    reports: Vec<InterfaceReport>,
    #[expect(
        dead_code,
        reason = "kept alive: it detaches the programs when it is dropped"
    )]
    steering: Steering,
    links: [[u8; 12]; 2],
    commands: Commands,
    start: Instant,
    burst: Vec<Frame>,
}

impl InterfacePorts {
    /// Takes the interfaces of initiator and responder.
    pub fn open(ends: &[End; 2], commands: Commands) -> Result<InterfacePorts, TesterError> {
        let Taken {
            io,
            reports,
            steering,
            links,
        } = take(ends)?;
        Ok(InterfacePorts {
            io,
            reports,
            steering,
            links,
            commands,
            start: Instant::now(),
            burst: Vec::with_capacity(BURST_FRAMES_MAX),
        })
    }
}

/// Two interfaces, taken.
pub(super) struct Taken {
    pub io: XskIo,
    pub reports: Vec<InterfaceReport>,
    pub steering: Steering,
    /// Destination and source of frames that leave them.
    pub links: [[u8; 12]; 2],
}

/// Takes both interfaces for the benchmarking prefixes.
pub(super) fn take(ends: &[End; 2]) -> Result<Taken, TesterError> {
    let configs = ends.each_ref().map(|end| InterfaceConfig {
        name: end.interface.clone(),
        xdp_mode: XdpModeChoice::Auto,
        zero_copy: AutoOnOff::Auto,
        busy_poll: AutoOnOff::Auto,
        vlan: None,
        l4_checksum: L4Checksum::Incremental,
    });
    let opened = xsk::open(&configs, 1, AutoOnOff::Auto, &wanted()?)?;
    let io = opened
        .workers
        .into_iter()
        .next()
        .ok_or(TesterError::NoDevice)?;
    let mut links = [[0; 12]; 2];
    for ((link, end), report) in links.iter_mut().zip(ends).zip(&opened.interfaces) {
        link[..6].copy_from_slice(&end.device_mac);
        link[6..].copy_from_slice(&report.mac);
    }
    Ok(Taken {
        io,
        reports: opened.interfaces,
        steering: opened.steering,
        links,
    })
}

/// What the steering programs send to the tester: the benchmarking prefixes, in the words of a
/// translator's configuration. All the rest is the kernel's, which answers for its addresses.
fn wanted() -> Result<Nat64Config, TesterError> {
    let prefix = Pref64::new(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48);
    let prefix = prefix.map_err(|error| TesterError::Options(error.to_string()))?;
    Ok(Nat64Config {
        pref64: vec![prefix],
        pool4: vec![Pool4Prefix {
            address: Ipv4Addr::new(198, 18, 0, 0),
            length: 15,
            ports: 0..=65535,
            exclude: Vec::new(),
            shared_with_host: false,
            ..Pool4Prefix::default()
        }],
        ..Nat64Config::default()
    })
}

/// Runs a command; what it said if it failed.
fn shell(command: &str, workers: Option<u8>) -> Result<Result<(), String>, TesterError> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]);
    if let Some(count) = workers {
        shell.env("WORKERS", count.to_string());
    }
    let done = shell.output().map_err(TesterError::io("sh"))?;
    if done.status.success() {
        return Ok(Ok(()));
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Ok(Err(format!(
        "`{command}` ends with {}: {}",
        done.status,
        said.trim()
    )))
}

impl Ports for InterfacePorts {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn link(&self, role: Role) -> [u8; 12] {
        self.links[role.index()]
    }

    fn send(&mut self, role: Role, frame: &[u8]) -> Result<(), Full> {
        let Some(mut free) = self.io.allocate() else {
            return Err(Full);
        };
        let port = PortId(u8::from(role == Role::Responder));
        if !self.io.area().write(&mut free, frame) {
            self.io.release(free);
            return Err(Full);
        }
        self.io.stage(port, free).map_err(|frame| {
            self.io.release(frame);
            Full
        })
    }

    fn burst_max(&self) -> u64 {
        BURST
    }

    fn turn(&mut self, until: u64, took: &mut Take) {
        self.io.flush();
        self.io.reclaim();
        let mut count = 0;
        for (role, port) in Role::ALL.into_iter().zip([PortId(0), PortId(1)]) {
            let mut burst = std::mem::take(&mut self.burst);
            count += self.io.receive(port, BURST_FRAMES_MAX, &mut burst);
            let now = self.now();
            let area = Arc::clone(self.io.area());
            for mut frame in burst.drain(..) {
                took(role, area.packet(&mut frame).bytes(), now);
                self.io.release(frame);
            }
            self.burst = burst;
        }
        let left = Duration::from_nanos(until.saturating_sub(self.now()));
        if count == 0 && left > SLEEP_BEYOND {
            self.io
                .wait(left.saturating_sub(SLEEP_BEYOND / 2).min(SLEEP_MAX));
        }
    }

    fn can_clear(&self) -> bool {
        self.commands.clear.is_some()
    }

    fn clear(&mut self) -> Result<f64, TesterError> {
        let Some(command) = &self.commands.clear else {
            return Err(TesterError::Clear("there is no --clear".into()));
        };
        let start = Instant::now();
        shell(command, None)?.map_err(TesterError::Clear)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn workers_max(&self) -> Option<usize> {
        None
    }

    fn workers(&mut self, count: u8, _repeats: u32) -> Result<Workers, TesterError> {
        let Some(command) = &self.commands.set_workers else {
            return Err(TesterError::Options(
                "--workers needs --set-workers over interfaces: a command that starts the device with so many".into(),
            ));
        };
        shell(command, Some(count))?.map_err(TesterError::Workers)?;
        Ok(Workers::Set)
    }

    fn drops(&mut self) -> Option<String> {
        None
    }

    fn describe(&self) -> Vec<(String, String)> {
        let mut lines = vec![("device".to_owned(), "between two interfaces".to_owned())];
        for (role, report) in Role::ALL.into_iter().zip(&self.reports) {
            let copies = if report.zero_copy {
                "zero-copy"
            } else {
                "copy"
            };
            let text = format!(
                "{}, driver {}, {} XDP, {copies} mode, MTU {}, {} queues",
                report.name,
                report.driver,
                report.mode.name(),
                report.mtu,
                report.queues
            );
            lines.push((role.name().to_owned(), text));
        }
        let commands = &self.commands;
        for (key, command) in [
            ("clear", &commands.clear),
            ("set workers", &commands.set_workers),
        ] {
            if let Some(command) = command {
                lines.push((key.to_owned(), command.clone()));
            }
        }
        lines
    }
}
