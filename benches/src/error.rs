//! Why there is no result.

use gate64_dataplane::memory::ArenaError;

/// A measurement that could not be made. Never a part of a result instead.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// More workers than cores would measure the scheduler.
    #[error("{wanted} workers need as many cores, and this process may use {available}")]
    Cores {
        /// Workers asked for.
        wanted: usize,
        /// Cores this process may run on.
        available: usize,
    },
    /// The machine has not enough memory left.
    #[error("{sessions} sessions need about {need_mib} MiB of memory, and {free_mib} MiB are free")]
    Memory {
        /// Sessions of the largest table.
        sessions: u64,
        /// What it takes.
        need_mib: u64,
        /// What there is.
        free_mib: u64,
    },
    /// What a simulation was to show does not hold.
    #[error("seed {seed}: {fault}")]
    Simulation {
        /// What does not.
        fault: String,
        /// Repeats it.
        seed: u64,
    },
    /// The engine's memory could not be had.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A packet that had to be translated was not.
    #[error(
        "{what}: {refused} of {packets} packets were not translated; the result would be wrong"
    )]
    NotTranslated {
        /// During which measurement.
        what: &'static str,
        /// Packets without translation.
        refused: u64,
        /// Packets in all.
        packets: u64,
    },
    /// A file or a program.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Valgrind ran and did not count.
    #[error("callgrind gave no count for {case}: {said}")]
    Callgrind {
        /// The case.
        case: &'static str,
        /// The end of what it printed.
        said: String,
    },
}
