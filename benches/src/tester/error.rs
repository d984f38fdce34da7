//! Why a measurement has no result.

use gate64_dataplane::io::StartError;
use gate64_dataplane::memory::ArenaError;

use super::ports::Role;

/// Why there is no result. Never a part of one instead.
#[derive(Debug, thiserror::Error)]
pub enum TesterError {
    /// Nothing at all comes back.
    #[error(
        "the device answers nothing: of {sent} frames from the {} none arrived at the {}; see that it runs, forwards, \
         and has routes to both ports and a pool", from.name(), from.other().name()
    )]
    Silent {
        /// Where the frames were sent.
        from: Role,
        /// How many.
        sent: u64,
    },
    /// A frame came back that no translator may make of what was sent.
    #[error("the device answers wrongly: {0}")]
    Wrong(String),
    /// Even slowly, not every session can be made.
    #[error(
        "the device makes {made} of {wanted} sessions, even at {rate:.0} new ones in a second{said}; see that its table, its pool \
         and its limits per subscriber take them, or ask for fewer with --sessions"
    )]
    NotFilled {
        /// Sessions whose frame arrived.
        made: u64,
        /// Sessions asked for.
        wanted: u64,
        /// New sessions in a second.
        rate: f64,
        /// What the device itself says, if it can be asked.
        said: String,
    },
    /// No rate without loss was found.
    #[error("{what}: the device loses frames even at {rate:.0} in a second, the lowest rate tried")]
    NoRate {
        /// Of which measurement.
        what: &'static str,
        /// The lowest rate.
        rate: f64,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// What was asked for cannot be.
    #[error("{0}")]
    Options(String),
    /// The device's table could not be emptied.
    #[error("cannot empty the device's session table: {0}")]
    Clear(String),
    /// The device could not be given another number of workers.
    #[error("cannot set the number of the device's workers: {0}")]
    Workers(String),
    /// Cores or memory.
    #[error(transparent)]
    Machine(#[from] crate::BenchError),
    /// The device in memory could not be made.
    #[error("the device in memory could not be made")]
    NoDevice,
    /// Its session memory.
    #[error(transparent)]
    Memory(#[from] ArenaError),
    /// The interfaces.
    #[error(transparent)]
    Interfaces(#[from] StartError),
    /// A file or a program.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl TesterError {
    /// For `map_err`.
    pub fn io(what: &str) -> impl FnOnce(std::io::Error) -> TesterError {
        let what = what.to_owned();
        move |source| TesterError::Io { what, source }
    }
}
