//! Instructions per packet, counted by callgrind over this very program.
//!
//! The program runs itself under valgrind with a hidden command that warms an engine up and then
//! works established traffic. Only what happens inside `measured_burst` is counted.

use std::path::Path;
use std::process::{Command, Stdio};

use gate64_dataplane::io::FrameArea;
use gate64_dataplane::memory::hash::Rng;
use gate64_dataplane::nat64::Batch;
use gate64_dataplane::verdict::Side;
use gate64_wire::addr::Protocol;

use crate::BenchError;
use crate::contender::Contender;
use crate::flows::Choice;
use crate::frames::{Frames, Load, RUN_FRAMES};
use crate::gateway::{Filled, Gateway, Size};

/// Runs under callgrind, [`RUN_FRAMES`] packets each.
const RUNS: usize = 20;
const SESSIONS: u64 = 1000;

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name in reports and on the command line.
    pub name: &'static str,
    protocol: Protocol,
    side: Side,
}

/// All cases.
pub const CASES: [Case; 6] = [
    case("udp_v6_to_v4", Protocol::Udp, Side::V6),
    case("udp_v4_to_v6", Protocol::Udp, Side::V4),
    case("tcp_v6_to_v4", Protocol::Tcp, Side::V6),
    case("tcp_v4_to_v6", Protocol::Tcp, Side::V4),
    case("icmp_v6_to_v4", Protocol::Icmp, Side::V6),
    case("icmp_v4_to_v6", Protocol::Icmp, Side::V4),
];

const fn case(name: &'static str, protocol: Protocol, side: Side) -> Case {
    Case {
        name,
        protocol,
        side,
    }
}

#[inline(never)]
fn measured_burst(gateway: &mut Gateway, area: &FrameArea, batch: &mut Batch) {
    gateway.burst(area, batch);
}

/// What runs under callgrind: established packets of the case.
///
/// # Errors
/// The engine's memory, or a packet that was not translated.
pub fn probe(case: &Case) -> Result<(), BenchError> {
    let Filled {
        mut gateway,
        size,
        mapped,
        ..
    } = Filled::new(Size::of(SESSIONS), case.protocol)?;
    let mut load = Load {
        protocol: case.protocol,
        side: Some(case.side),
        choice: Choice::Uniform,
        mapped: &mapped,
        subscribers: size.subscribers,
        rng: Rng::new(1),
    };
    let mut frames = Frames::new(64);
    // Every session learns its next hop first.
    for _ in 0..40 {
        load.write(&mut frames);
        frames.timed(&mut gateway);
    }
    let mut refused = 0;
    for _ in 0..RUNS {
        load.write(&mut frames);
        for batch in &mut frames.batches {
            measured_burst(&mut gateway, &frames.area, batch);
        }
        refused += frames.refused();
    }
    if refused > 0 {
        let packets = (RUNS * RUN_FRAMES) as u64;
        return Err(BenchError::NotTranslated {
            what: case.name,
            refused,
            packets,
        });
    }
    Ok(())
}

/// Instructions per packet of a case; `None` where there is no valgrind.
///
/// `program` and `arguments` name the hidden command that calls [`probe`]; the case's name is
/// added. Callgrind's profile is left in `profile`.
///
/// # Errors
/// Valgrind ran and gave no count.
pub fn count(
    case: &Case,
    program: &Path,
    arguments: &[&str],
    profile: &Path,
) -> Result<Option<f64>, BenchError> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*measured_burst*"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args(arguments)
        .arg(case.name)
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(BenchError::Io {
                what: "valgrind".into(),
                source,
            });
        }
    };
    let total = std::fs::read_to_string(profile)
        .ok()
        .and_then(|text| total_of(&text));
    match total {
        Some(total) if output.status.success() && total > 0 => {
            Ok(Some(total as f64 / (RUNS * RUN_FRAMES) as f64))
        }
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().last().unwrap_or("nothing").to_owned();
            Err(BenchError::Callgrind {
                case: case.name,
                said,
            })
        }
    }
}

fn total_of(profile: &str) -> Option<u64> {
    let line = profile.lines().find_map(|line| {
        line.strip_prefix("summary:")
            .or_else(|| line.strip_prefix("totals:"))
    })?;
    line.split_whitespace().next()?.parse().ok()
}
