//! The tester of RFC 9693 (stateful translators) and RFC 8219 (transition technologies).
//!
//! `traffic` runs trials over `ports`, which are gate64 itself in memory or two interfaces;
//! [`rfc9693`] and [`rfc8219`] put trials together; [`summary`] is what they give.

mod error;
pub mod flow;
pub mod forward;
pub mod frame;
pub mod interface;
pub mod memory;
pub mod page;
pub mod ports;
pub mod rfc8219;
pub mod rfc9693;
mod search;
pub mod summary;
mod traffic;

pub use error::TesterError;

pub use crate::flows::Choice;
pub use traffic::{Tester, Trial};

/// How to measure; the defaults are the RFCs'.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Seconds of a trial of test phase 2 (RFC 2544 section 24).
    pub duration: f64,
    /// How often a measurement is repeated (RFC 8219 section 7: at least 20).
    pub repeats: u32,
    /// Highest rate that is tried, in frames per second and direction.
    pub rate_max: f64,
    /// What a search leaves open, as a part of its result.
    pub resolution: f64,
    /// The part of frames that may be lost and the trial still pass; none by the RFCs.
    pub loss_tolerance: f64,
    /// Octets of frames on the IPv6 side, check sequence included.
    pub frame_octets: Vec<usize>,
    /// Numbers of sessions.
    pub sessions: Vec<u32>,
    /// Numbers of workers between which throughput is compared; none: it is not.
    pub workers: Vec<u8>,
    /// How flows are drawn for frames over established sessions.
    pub choice: Choice,
    /// Whether the capacity of the session table is searched for.
    pub capacity: bool,
}

/// Octets for each flow: the state table and the table of duplicates.
const OCTETS_PER_FLOW: u64 = 10;
/// Octets for each session of a device in memory (DESIGN part 2).
const OCTETS_PER_SESSION: u64 = 128;
const OCTETS_BESIDES: u64 = 128 << 20;

/// Refuses more flows, or more sessions of a device in memory, than the machine has memory for.
pub fn check_memory(flows: u32, table: Option<u32>) -> Result<(), TesterError> {
    let sessions = u64::from(table.unwrap_or(flows));
    let device = table.map_or(0, |sessions| u64::from(sessions) * OCTETS_PER_SESSION);
    let need = u64::from(flows) * OCTETS_PER_FLOW + device + OCTETS_BESIDES;
    let free = crate::measure::memory_available();
    if free < need {
        return Err(TesterError::Machine(crate::BenchError::Memory {
            sessions,
            need_mib: need >> 20,
            free_mib: free >> 20,
        }));
    }
    Ok(())
}

/// The RFC's seconds of a trial.
pub const DURATION_RFC: f64 = 60.0;
/// The RFC's number of repetitions.
pub const REPEATS_RFC: u32 = 20;

impl Options {
    /// What departs from the RFCs, in words.
    fn departures(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.duration < DURATION_RFC {
            all.push(format!(
                "trials of {} s instead of {DURATION_RFC} s",
                self.duration
            ));
        }
        if self.repeats < REPEATS_RFC {
            all.push(format!(
                "{} repetitions instead of {REPEATS_RFC}",
                self.repeats
            ));
        }
        if self.loss_tolerance > 0.0 {
            all.push(format!(
                "trials pass with a part of {} lost instead of none",
                self.loss_tolerance
            ));
        }
        if self.choice == Choice::Zipf {
            all.push("flows drawn by Zipf's law instead of each as often".into());
        }
        all
    }

    fn describe(&self) -> Vec<(String, String)> {
        let line = |key: &str, value: String| (key.to_owned(), value);
        let list = |values: Vec<String>| values.join(", ");
        vec![
            line(
                "numbers of sessions",
                list(self.sessions.iter().map(u32::to_string).collect()),
            ),
            line(
                "octets of frames on the IPv6 side",
                list(self.frame_octets.iter().map(usize::to_string).collect()),
            ),
            line(
                "flows drawn",
                match self.choice {
                    Choice::Uniform => "each as often".into(),
                    Choice::Zipf => "by Zipf's law, exponent 1".into(),
                },
            ),
            line(
                "frames that may be lost",
                format!("{} %", self.loss_tolerance * 100.0),
            ),
            line("seconds of a trial", self.duration.to_string()),
            line("repetitions", self.repeats.to_string()),
            line(
                "highest rate tried",
                format!("{:.0} frames/s and direction", self.rate_max),
            ),
            line("resolution of searches", self.resolution.to_string()),
        ]
    }
}
